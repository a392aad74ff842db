/* veridem run: one answer on this machine, streamed as it comes; with --receipt also what a worker would sign
 * for it. */
#include "vd_clock.h"
#include "vd_cmd.h"
#include "vd_cmd_chat.h"
#include "vd_cmd_load.h"
#include "vd_commit.h"
#include "vd_engine.h"
#include "vd_masker.h"
#include "vd_receipt.h"
#include "vd_rules.h"
#include "vd_stop_text.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { VD_PROMPT_MAX_BYTES = VD_TOK_TEXT_MAX_BYTES };

struct vd_run {
    struct vd_cli *cli;
    struct vd_cmd_engine g;
    struct vd_request request;
    uint8_t salt[VD_SALT_BYTES];
    uint32_t *prompt, *output;
    size_t n_prompt;
    uint32_t n_output;
    struct vd_commit commit;
    bool commits; /* --receipt */
    struct vd_tok_stream stream;
    char *text; /* of the answer */
    size_t n_text, n_shown, cap_text;
    struct vd_stop_text stop;
    bool stopped; /* by a stop string */
    struct vd_engine *engine;
    uint64_t id;
    uint8_t bias[VD_BIAS_MAX * VD_BIAS_ENTRY_BYTES], *mask;
    struct vd_controls controls;
    struct vd_texts *texts;
    struct vd_masker *masker;
    pthread_mutex_t mu;
    pthread_cond_t cond;
    bool done;
    struct vd_job_result result;
    struct vd_engine_stats stats;
};

/* ---- The answer, as it comes ---- */

/* More text. What could be the beginning of a stop string waits; `last`: nothing can follow. */
static void vd_run_say(struct vd_run *r, const char *p, size_t n, bool last)
{
    size_t from = r->n_text, at = 0;
    if (r->stopped)
        return;
    if (r->n_text + n > r->cap_text) {
        size_t cap = 2 * r->cap_text + n + 4096;
        char *more = realloc(r->text, cap);
        if (!more)
            return; /* the text then has a gap */
        r->text = more;
        r->cap_text = cap;
    }
    if (n)
        memcpy(r->text + r->n_text, p, n);
    r->n_text += n;
    if (vd_stop_text_find(&r->stop, r->text, r->n_text, from, &at)) {
        r->stopped = true;
        r->n_text = at;
    }
    size_t held = r->stopped || last ? 0 : vd_stop_text_held(&r->stop, r->text, r->n_text);
    if (!r->cli->json && r->n_text - held > r->n_shown) {
        fwrite(r->text + r->n_shown, 1, r->n_text - held - r->n_shown, r->cli->out);
        fflush(r->cli->out);
    }
    r->n_shown = r->n_text - held > r->n_shown ? r->n_text - held : r->n_shown;
}

static void vd_run_on_position(void *arg, const struct vd_position *p)
{
    struct vd_run *r = arg;
    if (r->commits)
        vd_commit_add(&r->commit, &(struct vd_graph_rows){NULL, p->k, p->v, p->x}, p->token, p->stop,
                      p->mask);
}

static void vd_run_on_token(void *arg, uint32_t index, uint32_t token)
{
    struct vd_run *r = arg;
    struct vd_bytes piece = vd_tok_piece(r->g.tok, token, vd_cli_has(r->cli, "special"));
    char out[3 * (VD_TOK_PIECE_MAX_BYTES + 4)];
    r->output[index] = token;
    r->n_output = index + 1;
    vd_run_say(r, out, vd_tok_stream_put(&r->stream, piece.p, piece.n, out), false);
    if (r->stopped)
        vd_engine_cancel(r->engine, r->id);
}

static void vd_run_on_done(void *arg, const struct vd_job_result *result)
{
    struct vd_run *r = arg;
    pthread_mutex_lock(&r->mu);
    r->result = *result;
    r->done = true;
    pthread_cond_signal(&r->cond);
    pthread_mutex_unlock(&r->mu);
}

static enum vd_err vd_run_generate(struct vd_run *r, struct vd_error *err)
{
    struct vd_job job = {.prompt = r->prompt,
                         .n_prompt = (uint32_t)r->n_prompt,
                         .max_tokens = r->request.max_tokens,
                         .sampling = r->request.sampling,
                         .bias = r->controls.bias,
                         .masker = r->masker,
                         .arg = r,
                         .on_position = vd_run_on_position,
                         .on_token = vd_run_on_token,
                         .on_done = vd_run_on_done};
    struct vd_engine_options options = {.lookup = r->g.lookup, .draft = r->g.draft};
    enum vd_err e = vd_engine_create(&r->engine, r->g.model, r->g.pool, &options, err);
    if (e != VD_OK)
        return e;
    e = vd_engine_submit(r->engine, &job, &r->id, err);
    if (e == VD_OK) {
        char out[3];
        pthread_mutex_lock(&r->mu);
        while (!r->done)
            pthread_cond_wait(&r->cond, &r->mu);
        pthread_mutex_unlock(&r->mu);
        vd_run_say(r, out, vd_tok_stream_end(&r->stream, out), true);
        if (r->result.end == VD_JOB_BROKEN)
            e = vd_error_set(err, r->result.err.code, "%s", r->result.err.msg);
        vd_engine_get_stats(r->engine, &r->stats);
    }
    vd_engine_destroy(r->engine);
    return e;
}

/* ---- The prompt ---- */

static enum vd_err vd_run_chat(struct vd_run *r, const char *text, size_t n, char **prompt, size_t *n_prompt,
                               struct vd_error *err)
{
    const char *system = vd_cli_text(r->cli, "system", NULL);
    struct vd_chat_message m[2];
    size_t k = 0;
    if (system)
        m[k++] = (struct vd_chat_message){vd_str_of("system"), vd_str_of(system)};
    m[k++] = (struct vd_chat_message){vd_str_of("user"), {text, n}};
    return vd_cmd_chat_render(vd_model_gguf(r->g.model), r->g.tok, m, k, true, prompt, n_prompt, err);
}

static enum vd_err vd_run_read_prompt(struct vd_run *r, struct vd_error *err)
{
    const char *given = vd_cli_text(r->cli, "prompt", NULL);
    uint8_t *text = NULL;
    char *chat = NULL;
    size_t n = 0, n_chat = 0;
    bool raw =
        vd_cli_has(r->cli, "raw") || !vd_gguf_find(vd_model_gguf(r->g.model), "tokenizer.chat_template");
    enum vd_err e = VD_OK;
    if (given) {
        n = strlen(given);
        text = (uint8_t *)strdup(given);
        e = text ? VD_OK : vd_error_set(err, VD_ENOMEM, "no memory for the prompt");
    } else {
        e = vd_cli_slurp(&text, &n, "-", VD_PROMPT_MAX_BYTES, err);
    }
    if (e != VD_OK)
        return e;
    if (raw)
        e = vd_cmd_encode(r->g.tok, (char *)text, n, VD_TOK_ADD_BOS, &r->prompt, &r->n_prompt, err);
    else
        e = vd_run_chat(r, (char *)text, n, &chat, &n_chat, err);
    if (e == VD_OK && !raw)
        e = vd_cmd_encode(r->g.tok, chat, n_chat, VD_TOK_PARSE_SPECIAL, &r->prompt, &r->n_prompt, err);
    free(chat);
    free(text);
    if (e == VD_OK && r->n_prompt == 0)
        e = vd_error_set(err, VD_EUSE, "the prompt is empty");
    return e;
}

static enum vd_err vd_run_read_sampling(struct vd_run *r, struct vd_error *err)
{
    uint64_t temp = 0, top_p = VD_SAMPLE_MICRO, min_p = 0, seed = 0;
    struct vd_sampling *s = &r->request.sampling;
    r->request.max_tokens = 256;
    enum vd_err e = vd_cli_u32(r->cli, "max-tokens", 1, VD_JOB_MAX_TOKENS, &r->request.max_tokens, err);
    if (e == VD_OK)
        e = vd_cli_micro(r->cli, "temp", 2 * VD_SAMPLE_MICRO, &temp, err);
    if (e == VD_OK)
        e = vd_cli_micro(r->cli, "top-p", VD_SAMPLE_MICRO, &top_p, err);
    if (e == VD_OK)
        e = vd_cli_micro(r->cli, "min-p", VD_SAMPLE_MICRO, &min_p, err);
    if (e == VD_OK)
        e = vd_cli_u32(r->cli, "top-k", 0, VD_SAMPLE_MAX_N, &s->top_k, err);
    if (!vd_cli_has(r->cli, "seed"))
        vd_key_random(&seed, sizeof seed);
    if (e == VD_OK)
        e = vd_cli_u64(r->cli, "seed", 0, UINT64_MAX, &seed, err);
    s->temp_micro = (uint32_t)temp;
    s->top_p_micro = top_p ? (uint32_t)top_p : 1; /* a request cannot say less; as the API does */
    s->min_p_micro = (uint32_t)min_p;
    s->seed = temp ? seed : 0;
    return e;
}

/* ---- Penalties, biases, stop strings, masks ---- */

/* A number that may be negative, in millionths, up to `max` either way. */
static enum vd_err vd_run_signed(struct vd_run *r, const char *name, int32_t max, int32_t *out,
                                 struct vd_error *err)
{
    const char *text = vd_cli_text(r->cli, name, NULL);
    char *end;
    double x = text ? strtod(text, &end) : 0;
    if (text && (end == text || *end || !(x * 1e6 <= max && x * 1e6 >= -(double)max)))
        return vd_error_set(err, VD_EUSE, "--%s is '%s', not a number from -%g to %g", name, text, max / 1e6,
                            max / 1e6);
    *out = (int32_t)lround(x * 1e6);
    return VD_OK;
}

static enum vd_err vd_run_penalties(struct vd_run *r, struct vd_error *err)
{
    struct vd_sampling *s = &r->request.sampling;
    uint64_t repeat = VD_SAMPLE_MICRO;
    uint32_t last = VD_REPEAT_LAST_DEFAULT;
    enum vd_err e = vd_cli_micro(r->cli, "repeat-penalty", VD_REPEAT_MICRO_MAX, &repeat, err);
    if (e == VD_OK && repeat < VD_REPEAT_MICRO_MIN)
        e = vd_error_set(err, VD_EUSE, "--repeat-penalty must be from 0.01 to 10 (1: none)");
    if (e == VD_OK)
        e = vd_cli_u32(r->cli, "repeat-last-n", 1, VD_PENALTY_WINDOW, &last, err);
    if (e == VD_OK)
        e = vd_run_signed(r, "presence-penalty", VD_PENALTY_MICRO_MAX, &s->presence_micro, err);
    if (e == VD_OK)
        e = vd_run_signed(r, "frequency-penalty", VD_PENALTY_MICRO_MAX, &s->frequency_micro, err);
    if (e == VD_OK && repeat != VD_SAMPLE_MICRO) {
        s->repeat_micro = (uint32_t)repeat;
        s->repeat_last_n = last;
    }
    return e;
}

/* Adds "ID=BIAS" in its place. */
static enum vd_err vd_run_add_bias(struct vd_run *r, const char *text, struct vd_error *err)
{
    uint32_t n = vd_bias_count(r->controls.bias), at = n;
    char *end;
    unsigned long id = strtoul(text, &end, 10);
    double x = *end == '=' ? strtod(end + 1, &end) : 0;
    long micro = lround(x * 1e6);
    if (text[0] < '0' || text[0] > '9' || *end || id > INT32_MAX || micro == 0 || !(x >= -100 && x <= 100))
        return vd_error_set(err, VD_EUSE,
                            "--logit-bias is '%s', not ID=BIAS with a bias from -100 to 100 and not 0", text);
    if (n == VD_BIAS_MAX)
        return vd_error_set(err, VD_EUSE, "--logit-bias: at most %d are allowed", VD_BIAS_MAX);
    while (at > 0 && vd_bias_id(r->controls.bias, at - 1) >= id)
        at--;
    if (at < n && vd_bias_id(r->controls.bias, at) == id)
        return vd_error_set(err, VD_EUSE, "--logit-bias names the id %lu twice", id);
    uint8_t *entry = r->bias + (size_t)VD_BIAS_ENTRY_BYTES * at;
    memmove(entry + VD_BIAS_ENTRY_BYTES, entry, (size_t)VD_BIAS_ENTRY_BYTES * (n - at));
    vd_le32_store(entry, (uint32_t)id);
    vd_le32_store(entry + 4, (uint32_t)(int32_t)micro);
    r->controls.bias = (struct vd_bytes){r->bias, VD_BIAS_ENTRY_BYTES * (n + 1)};
    return VD_OK;
}

static enum vd_err vd_run_stops(struct vd_run *r, struct vd_error *err)
{
    const char *text;
    for (int i = 0; (text = vd_cli_nth(r->cli, "stop", i)) != NULL; i++) {
        if (i == VD_STOP_TEXTS_MAX || !*text || strlen(text) > VD_STOP_TEXT_MAX_BYTES)
            return vd_error_set(err, VD_EUSE, "--stop: up to %d texts of 1 to %d bytes", VD_STOP_TEXTS_MAX,
                                VD_STOP_TEXT_MAX_BYTES);
        r->stop.text[i].p = text;
        r->stop.text[i].n = strlen(text);
        r->stop.n = (size_t)i + 1;
    }
    return VD_OK;
}

static enum vd_err vd_run_mask(struct vd_run *r, struct vd_error *err)
{
    const char *schema = vd_cli_text(r->cli, "json-schema", NULL),
               *grammar = vd_cli_text(r->cli, "grammar", NULL);
    bool object = vd_cli_has(r->cli, "json-object");
    const struct vd_program *p = vd_model_program(r->g.model);
    uint8_t *text = NULL;
    size_t n = 0, n_mask = 0;
    enum vd_err e = VD_OK;
    if ((schema != NULL) + (grammar != NULL) + object == 0)
        return VD_OK;
    if ((schema != NULL) + (grammar != NULL) + object > 1)
        return vd_error_set(err, VD_EUSE, "give one of --json-object, --json-schema and --grammar");
    if (!object)
        e = vd_cli_slurp(&text, &n, schema ? schema : grammar, VD_GRAMMAR_TEXT_MAX_BYTES, err);
    if (e == VD_OK)
        e = vd_texts_create(&r->texts, r->g.tok, p->vocab, err);
    r->mask = malloc(VD_MASK_BYTES_MAX);
    if (e == VD_OK && !r->mask)
        e = vd_error_set(err, VD_ENOMEM, "no memory for a mask");
    if (e == VD_OK) {
        struct vd_hash root = vd_texts_root(r->texts);
        e = grammar ? vd_grammar_compile((char *)text, n, &root, r->mask, &n_mask, err)
                    : vd_schema_compile((char *)text, n, &root, r->mask, &n_mask, err);
    }
    free(text);
    r->controls.mask = (struct vd_bytes){r->mask, n_mask};
    if (e == VD_OK)
        e = vd_masker_create(&r->masker, r->texts, r->controls.mask, p->stop, p->n_stop, err);
    return e;
}

static enum vd_err vd_run_controls(struct vd_run *r, struct vd_error *err)
{
    const char *text;
    enum vd_err e = vd_run_penalties(r, err);
    for (int i = 0; e == VD_OK && (text = vd_cli_nth(r->cli, "logit-bias", i)) != NULL; i++)
        e = vd_run_add_bias(r, text, err);
    return e == VD_OK ? vd_run_stops(r, err) : e;
}

/* ---- The receipt ---- */

/* A request of this machine to itself: no network, no escrow, no price. */
static enum vd_err vd_run_make_request(struct vd_run *r, struct vd_keypair *k, struct vd_error *err)
{
    enum vd_err e = vd_cmd_load_key(k, "default", true, err);
    if (e == VD_OK)
        e = vd_model_root(r->g.model, r->g.pool, &r->request.model_root, err);
    if (e != VD_OK)
        return e;
    vd_key_random(r->salt, sizeof r->salt);
    r->request.arith_version = VD_ARITH_VERSION;
    r->request.gateway = r->request.worker = k->pub;
    r->request.n_prompt = (uint32_t)r->n_prompt;
    r->request.prompt_root = vd_token_root(r->salt, 0, r->prompt, r->request.n_prompt);
    r->request.salt_commit = vd_salt_commit(r->salt);
    vd_commit_init(&r->commit, vd_model_program(r->g.model), r->request.n_prompt, r->request.max_tokens,
                   &r->request.sampling, r->salt);
    return VD_OK;
}

static enum vd_err vd_run_write_receipt(struct vd_run *r, const struct vd_keypair *k, const char *path,
                                        struct vd_error *err)
{
    struct vd_receipt receipt = {.request = r->request,
                                 .output_root = vd_commit_output_root(&r->commit),
                                 .n_output = r->n_output,
                                 .finish = r->result.end == VD_JOB_CANCELLED  ? VD_FINISH_CANCELLED
                                           : r->result.stop == VD_STOP_TOKEN  ? VD_FINISH_STOP
                                           : r->result.stop == VD_STOP_LENGTH ? VD_FINISH_LENGTH
                                                                              : VD_FINISH_FAIL,
                                 .commit_root = vd_commit_root(&r->commit)};
    struct vd_envelope e = {.n_prompt = r->request.n_prompt,
                            .n_output = r->n_output,
                            .prompt = r->prompt,
                            .output = r->output,
                            .controls = r->controls};
    size_t cap = vd_envelope_max_bytes(e.n_prompt, e.n_output);
    uint8_t *buf = malloc(cap);
    if (!buf)
        return vd_error_set(err, VD_ENOMEM, "no memory for the receipt");
    e.receipt.body_bytes = vd_receipt_encode(&receipt, e.receipt.body, sizeof e.receipt.body);
    vd_key_sign(&e.receipt.worker_sig, k, VD_TAG_RECEIPT, e.receipt.body, e.receipt.body_bytes);
    vd_key_sign(&e.receipt.gateway_sig, k, VD_TAG_ACCEPT, e.receipt.body, e.receipt.body_bytes);
    memcpy(e.job_salt, r->salt, VD_SALT_BYTES);
    size_t n = vd_envelope_encode(&e, buf, cap);
    enum vd_err code = n ? vd_file_write_atomic(path, buf, n, 0600, err)
                         : vd_error_set(err, VD_EINTERNAL, "the receipt does not encode");
    free(buf);
    return code;
}

/* ---- All of it ---- */

static void vd_run_report(struct vd_run *r)
{
    const struct vd_job_result *s = &r->result;
    double prompt_s = (double)s->prompt_ns / 1e9, output_s = (double)s->output_ns / 1e9;
    const char *finish = r->stopped || s->stop == VD_STOP_TOKEN ? "stop"
                         : s->stop == VD_STOP_LENGTH            ? "length"
                                                                : "fail";
    if (r->cli->json) {
        json_t *ids = json_array();
        for (uint32_t i = 0; i < r->n_output; i++)
            json_array_append_new(ids, json_integer(r->output[i]));
        vd_cli_json(r->cli,
                    json_pack("{s:s%,s:o,s:s,s:I,s:I,s:f,s:f,s:I}", "text", r->text ? r->text : "", r->n_text,
                              "tokens", ids, "finish", finish, "prompt_tokens", (json_int_t)r->n_prompt,
                              "output_tokens", (json_int_t)r->n_output, "prompt_s", prompt_s, "output_s",
                              output_s, "seed", (json_int_t)r->request.sampling.seed));
        return;
    }
    fputc('\n', r->cli->out);
    if (vd_cli_has(r->cli, "verbose") && r->stats.n_guessed_tokens)
        fprintf(stderr, "%llu tokens guessed, %llu of them right\n",
                (unsigned long long)r->stats.n_guessed_tokens, (unsigned long long)r->stats.n_right_tokens);
    if (vd_cli_has(r->cli, "verbose"))
        fprintf(
            stderr,
            "%zu prompt tokens in %.2f s (%.0f/s), %u output tokens in %.2f s (%.0f/s), end: %s, seed %llu\n",
            r->n_prompt, prompt_s, (double)r->n_prompt / prompt_s, r->n_output, output_s,
            r->n_output / (output_s > 0 ? output_s : 1), finish,
            (unsigned long long)r->request.sampling.seed);
}

static enum vd_err vd_run_all(struct vd_run *r, struct vd_error *err)
{
    const char *path = vd_cli_text(r->cli, "receipt", NULL);
    struct vd_keypair k = {0};
    enum vd_err e = vd_run_read_sampling(r, err);
    if (e == VD_OK)
        e = vd_run_controls(r, err);
    if (e == VD_OK && path)
        e = vd_file_check_writable(path, err);
    if (e == VD_OK)
        e = vd_cmd_engine_open(&r->g, r->cli, r->cli->arg[0], err);
    if (e == VD_OK)
        e = vd_cmd_engine_generates(&r->g, err);
    if (e == VD_OK)
        e = vd_cmd_guess_open(&r->g, r->cli, err);
    if (e == VD_OK)
        e = vd_run_mask(r, err);
    vd_request_set_controls(&r->request, &r->controls);
    if (e == VD_OK)
        e = vd_run_read_prompt(r, err);
    if (e != VD_OK)
        return e;
    uint32_t ctx = vd_model_program(r->g.model)->ctx;
    if (r->n_prompt > ctx)
        return vd_error_set(err, VD_ELIMIT, "the prompt has %zu tokens, but the model's context is %u",
                            r->n_prompt, ctx);
    if (r->request.max_tokens > ctx - r->n_prompt + 1 && vd_cli_has(r->cli, "max-tokens"))
        return vd_error_set(
            err, VD_EUSE,
            "--max-tokens is %u, but after the prompt's %zu tokens the context of %u has room "
            "for %zu",
            r->request.max_tokens, r->n_prompt, ctx, ctx - r->n_prompt + 1);
    if (r->request.max_tokens > ctx - r->n_prompt + 1)
        r->request.max_tokens = ctx - (uint32_t)r->n_prompt + 1;
    r->output = calloc(r->request.max_tokens, sizeof *r->output);
    if (!r->output)
        return vd_error_set(err, VD_ENOMEM, "no memory for %u tokens", r->request.max_tokens);
    r->commits = path != NULL;
    if (path)
        e = vd_run_make_request(r, &k, err);
    if (e == VD_OK)
        e = vd_run_generate(r, err);
    if (e == VD_OK && path)
        e = vd_run_write_receipt(r, &k, path, err);
    vd_key_wipe(&k);
    if (e == VD_OK)
        vd_run_report(r);
    return e;
}

static enum vd_err vd_run_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_run *r = calloc(1, sizeof *r);
    if (!r)
        return vd_error_set(err, VD_ENOMEM, "no memory to run");
    r->cli = cli;
    pthread_mutex_init(&r->mu, NULL);
    pthread_cond_init(&r->cond, NULL);
    enum vd_err e = vd_run_all(r, err);
    vd_cmd_engine_close(&r->g);
    pthread_cond_destroy(&r->cond);
    pthread_mutex_destroy(&r->mu);
    free(r->prompt);
    free(r->output);
    free(r->text);
    vd_masker_free(r->masker);
    vd_texts_free(r->texts);
    free(r->mask);
    free(r);
    return e;
}

static const struct vd_cli_opt vd_run_opts[] = {
    {"prompt", 'p', "TEXT", "what to ask (default: standard input)", false},
    {"max-tokens", 'n', "N", "at most so many tokens (default 256)", false},
    {"system", 0, "TEXT", "a system message before it", false},
    {"raw", 0, NULL, "go on with the text itself, without the chat template", false},
    {"temp", 0, "T", "temperature, 0 to 2 (default 0: always the likeliest token)", false},
    {"top-k", 0, "K", "only the K likeliest tokens", false},
    {"top-p", 0, "P", "only the likeliest tokens that together have probability P", false},
    {"min-p", 0, "P", "only tokens at least P times as likely as the likeliest", false},
    {"seed", 0, "S", "of the draws (default: random)", false},
    {"repeat-penalty", 0, "X", "divide the logits of tokens that were there before (1: off)", false},
    {"repeat-last-n", 0, "N", "how many tokens that looks at, up to 1024 (default 64)", false},
    {"presence-penalty", 0, "X", "off the logit of a token that the answer has, -2 to 2", false},
    {"frequency-penalty", 0, "X", "the same for each time that it has it", false},
    {"logit-bias", 0, "ID=X", "added to a token's logit, -100 to 100", true},
    {"stop", 0, "TEXT", "end before this text", true},
    {"json-object", 0, NULL, "the answer is a JSON object", false},
    {"json-schema", 0, "FILE", "the answer is JSON of this schema", false},
    {"grammar", 0, "FILE", "the answer is of this grammar (GBNF)", false},
    {"receipt", 0, "FILE", "write a receipt, signed with the key \"default\", for `veridem verify`", false},
    {"special", 0, NULL, "show control tokens", false},
    {"verbose", 'v', NULL, "say how long it took, on stderr", false},
    VD_CMD_OPTS_GUESS,
    VD_CMD_OPTS_COMPUTE,
    {0},
};
const struct vd_cmd vd_cmd_run = {
    .name = "run",
    .group = "Models and text",
    .usage = "MODEL",
    .summary = "an answer on this machine, streamed",
    .help = "The same model, prompt, sampling and seed give the same bits on every machine, with any threads "
            "and kernel.\n"
            "--receipt writes what a worker would sign: anyone with the model can check it.\n\n"
            "    veridem run SmolLM2 -p 'What is a ledger?' -n 64 --receipt answer.receipt\n"
            "    veridem verify answer.receipt --model SmolLM2",
    .opts = vd_run_opts,
    .min_args = 1,
    .max_args = 1,
    .run = vd_run_run,
};
