/* veridem run: one answer on this machine, streamed as it comes; with --receipt also what a worker would sign
 * for it. */
#include "vd_clock.h"
#include "vd_cmd.h"
#include "vd_cmd_busy.h"
#include "vd_cmd_chat.h"
#include "vd_cmd_load.h"
#include "vd_commit.h"
#include "vd_engine.h"
#include "vd_masker.h"
#include "vd_openai.h"
#include "vd_openai_logprob.h"
#include "vd_receipt.h"
#include "vd_rules.h"
#include "vd_stop_text.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { VD_PROMPT_MAX_BYTES = VD_TOK_TEXT_MAX_BYTES };

/* An answer as it comes. */
struct vd_run_choice {
    struct vd_run *run;
    uint32_t *output, n_output;
    struct vd_tok_stream stream;
    char *text;
    size_t n_text, n_shown, cap_text;
    bool stopped; /* by a stop string */
    uint64_t id;  /* of the engine's job */
    bool done;
    struct vd_job_result result;
    struct vd_logprobs *logprobs; /* per token; NULL: not wanted */
};

struct vd_run {
    struct vd_cli *cli;
    struct vd_cmd_engine g;
    struct vd_request request;
    uint8_t salt[VD_SALT_BYTES];
    uint32_t *prompt;
    size_t n_prompt;
    struct vd_run_choice choice[VD_OPENAI_CHOICES_MAX];
    uint32_t n_choices, logprobs; /* logprobs: as a job's */
    struct vd_commit *commit;
    bool commits; /* --receipt */
    struct vd_stop_text stop;
    struct vd_engine *engine;
    struct vd_busy busy; /* until there is text to show */
    uint8_t bias[VD_BIAS_MAX * VD_BIAS_ENTRY_BYTES], *mask;
    struct vd_controls controls;
    struct vd_texts *texts;
    struct vd_masker *masker;
    pthread_mutex_t mu;
    pthread_cond_t cond;
    struct vd_engine_stats stats;
};

/* ---- The answers, as they come ---- */

/* More text. What could be the beginning of a stop string waits; `last`: nothing can follow. The first choice
 * is shown at once. */
static void vd_run_say(struct vd_run_choice *c, const char *p, size_t n, bool last)
{
    const struct vd_run *r = c->run;
    size_t from = c->n_text, at = 0;
    if (c->stopped)
        return;
    if (c->n_text + n > c->cap_text) {
        size_t cap = 2 * c->cap_text + n + 4096;
        char *more = realloc(c->text, cap);
        if (!more)
            return; /* the text then has a gap */
        c->text = more;
        c->cap_text = cap;
    }
    if (n)
        memcpy(c->text + c->n_text, p, n);
    c->n_text += n;
    if (vd_stop_text_find(&r->stop, c->text, c->n_text, from, &at)) {
        c->stopped = true;
        c->n_text = at;
    }
    size_t held = c->stopped || last ? 0 : vd_stop_text_held(&r->stop, c->text, c->n_text);
    if (!r->cli->json && c == r->choice && c->n_text - held > c->n_shown) {
        fwrite(c->text + c->n_shown, 1, c->n_text - held - c->n_shown, r->cli->out);
        fflush(r->cli->out);
    }
    c->n_shown = c->n_text - held > c->n_shown ? c->n_text - held : c->n_shown;
}

static void vd_run_on_position(void *arg, const struct vd_position *p)
{
    const struct vd_run_choice *c = arg;
    if (c->run->commits)
        vd_commit_add(c->run->commit, &(struct vd_graph_rows){NULL, p->k, p->v, p->x}, p->token, p->stop,
                      p->mask);
}

static void vd_run_on_logprobs(void *arg, uint32_t index, const struct vd_logprobs *l)
{
    struct vd_run_choice *c = arg;
    c->logprobs[index] = *l;
}

static void vd_run_on_token(void *arg, uint32_t index, uint32_t token)
{
    struct vd_run_choice *c = arg;
    struct vd_run *r = c->run;
    struct vd_bytes piece = vd_tok_piece(r->g.tok, token, vd_cli_has(r->cli, "special"));
    char out[3 * (VD_TOK_PIECE_MAX_BYTES + 4)];
    c->output[index] = token;
    c->n_output = index + 1;
    if (!r->cli->json && c == r->choice)
        vd_busy_hush(&r->busy);
    vd_run_say(c, out, vd_tok_stream_put(&c->stream, piece.p, piece.n, out), false);
    if (c->stopped)
        vd_engine_cancel(r->engine, c->id);
}

static void vd_run_on_done(void *arg, const struct vd_job_result *result)
{
    struct vd_run_choice *c = arg;
    pthread_mutex_lock(&c->run->mu);
    c->result = *result;
    c->done = true;
    pthread_cond_signal(&c->run->cond);
    pthread_mutex_unlock(&c->run->mu);
}

/* Choices share the prompt's cache: they are of one account. */
static enum vd_err vd_run_submit(struct vd_run *r, uint32_t index, struct vd_error *err)
{
    struct vd_run_choice *c = &r->choice[index];
    struct vd_job job = {.prompt = r->prompt,
                         .n_prompt = (uint32_t)r->n_prompt,
                         .max_tokens = r->request.max_tokens,
                         .sampling = r->request.sampling,
                         .account = {{1}},
                         .bias = r->controls.bias,
                         .masker = r->masker,
                         .logprobs = r->logprobs,
                         .arg = c,
                         .on_position = vd_run_on_position,
                         .on_logprobs = vd_run_on_logprobs,
                         .on_token = vd_run_on_token,
                         .on_done = vd_run_on_done};
    job.sampling.choice = index;
    return vd_engine_submit(r->engine, &job, &c->id, err);
}

static enum vd_err vd_run_await(struct vd_run *r, uint32_t index, struct vd_error *err)
{
    struct vd_run_choice *c = &r->choice[index];
    char out[3];
    pthread_mutex_lock(&r->mu);
    while (!c->done)
        pthread_cond_wait(&r->cond, &r->mu);
    pthread_mutex_unlock(&r->mu);
    vd_run_say(c, out, vd_tok_stream_end(&c->stream, out), true);
    return c->result.end == VD_JOB_BROKEN ? vd_error_set(err, c->result.err.code, "%s", c->result.err.msg)
                                          : VD_OK;
}

static enum vd_err vd_run_generate(struct vd_run *r, struct vd_error *err)
{
    struct vd_engine_options options = {.lookup = r->g.lookup, .draft = r->g.draft};
    uint32_t n = 0;
    enum vd_err e = vd_engine_create(&r->engine, r->g.model, r->g.pool, &options, err);
    if (e != VD_OK)
        return e;
    vd_busy_begin(&r->busy, r->cli,
                  r->cli->json ? "answering a prompt of %zu tokens" : "reading a prompt of %zu tokens",
                  r->n_prompt);
    for (; n < r->n_choices && e == VD_OK; n++)
        e = vd_run_submit(r, n, err);
    for (uint32_t i = 0; i < n && e == VD_OK; i++)
        e = vd_run_await(r, i, err);
    vd_busy_end(&r->busy);
    vd_engine_get_stats(r->engine, &r->stats);
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
        struct vd_error why = *err;
        if (e != VD_OK && !object) /* which of two files is wrong */
            e = vd_error_set(err, e, "%.200s: %s", schema ? schema : grammar, why.msg);
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

/* What of the above only the model can tell. */
static enum vd_err vd_run_check_bias(const struct vd_run *r, struct vd_error *err)
{
    uint32_t n = vd_bias_count(r->controls.bias), vocab = vd_model_program(r->g.model)->vocab;
    uint32_t last = n ? vd_bias_id(r->controls.bias, n - 1) : 0; /* they are in order */
    return last < vocab
               ? VD_OK
               : vd_error_set(err, VD_EUSE, "--logit-bias names the id %u; the vocabulary has %u tokens",
                              last, vocab);
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
    return vd_commit_open(&r->commit, vd_model_program(r->g.model), &r->request, UINT32_MAX, r->salt, err);
}

static enum vd_err vd_run_write_receipt(struct vd_run *r, const struct vd_keypair *k, const char *path,
                                        struct vd_error *err)
{
    const struct vd_run_choice *c = &r->choice[0];
    struct vd_receipt receipt = {.request = r->request,
                                 .output_root = vd_commit_output_root(r->commit),
                                 .n_output = c->n_output,
                                 .finish = c->result.end == VD_JOB_CANCELLED  ? VD_FINISH_CANCELLED
                                           : c->result.stop == VD_STOP_TOKEN  ? VD_FINISH_STOP
                                           : c->result.stop == VD_STOP_LENGTH ? VD_FINISH_LENGTH
                                                                              : VD_FINISH_FAIL,
                                 .commit_root = vd_commit_root(r->commit)};
    struct vd_envelope e = {.n_prompt = r->request.n_prompt,
                            .n_output = c->n_output,
                            .prompt = r->prompt,
                            .output = c->output,
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

static const char *vd_run_finish(const struct vd_run_choice *c)
{
    return c->stopped || c->result.stop == VD_STOP_TOKEN ? "stop"
           : c->result.stop == VD_STOP_LENGTH            ? "length"
                                                         : "fail";
}

/* As the API's "logprobs" of a chat. */
static json_t *vd_run_json_logprobs(const struct vd_run_choice *c)
{
    json_t *content = json_array();
    for (uint32_t i = 0; c->logprobs && i < c->n_output; i++) {
        const struct vd_logprobs *l = &c->logprobs[i];
        json_t *top = json_array();
        for (uint32_t k = 0; k < l->n; k++)
            json_array_append_new(top, vd_openai_logprob(c->run->g.tok, l->top[k].id, l->top[k].value));
        json_t *entry = vd_openai_logprob(c->run->g.tok, c->output[i], l->own);
        json_object_set_new(entry, "top_logprobs", top);
        json_array_append_new(content, entry);
    }
    return c->logprobs ? json_pack("{s:o}", "content", content) : (json_decref(content), json_null());
}

static json_t *vd_run_json_ids(const struct vd_run_choice *c)
{
    json_t *ids = json_array();
    for (uint32_t i = 0; i < c->n_output; i++)
        json_array_append_new(ids, json_integer(c->output[i]));
    return ids;
}

/* What `choices` of the API's answers say, and the ids. */
static json_t *vd_run_json_choices(const struct vd_run *r)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < r->n_choices; i++) {
        const struct vd_run_choice *c = &r->choice[i];
        json_array_append_new(list, json_pack("{s:I,s:s%,s:o,s:s,s:o}", "index", (json_int_t)i, "text",
                                              c->text ? c->text : "", c->n_text, "tokens", vd_run_json_ids(c),
                                              "finish_reason", vd_run_finish(c), "logprobs",
                                              vd_run_json_logprobs(c)));
    }
    return list;
}

static void vd_run_report_json(struct vd_run *r, double prompt_s, double output_s)
{
    const struct vd_run_choice *c = &r->choice[0];
    char seed[24]; /* as in a receipt: a text, since a JSON integer has no room for all of them */
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)r->request.sampling.seed);
    vd_cli_json(r->cli,
                json_pack("{s:s%,s:o,s:s,s:I,s:I,s:f,s:f,s:s,s:o}", "text", c->text ? c->text : "", c->n_text,
                          "tokens", vd_run_json_ids(c), "finish", vd_run_finish(c), "prompt_tokens",
                          (json_int_t)r->n_prompt, "output_tokens", (json_int_t)c->n_output, "prompt_s",
                          prompt_s, "output_s", output_s, "seed", seed, "choices", vd_run_json_choices(r)));
}

/* A line per token: its log probability and text, and those of the likeliest. */
static void vd_run_show_logprobs(const struct vd_run_choice *c)
{
    FILE *out = c->run->cli->out;
    json_t *all = vd_run_json_logprobs(c), *entry, *other;
    size_t i, k;
    json_array_foreach(json_object_get(all, "content"), i, entry)
    {
        char *text = json_dumps(json_object_get(entry, "token"), JSON_ENCODE_ANY);
        fprintf(out, "%10.4f  %-16s", json_number_value(json_object_get(entry, "logprob")), text ? text : "");
        free(text);
        json_array_foreach(json_object_get(entry, "top_logprobs"), k, other)
        {
            text = json_dumps(json_object_get(other, "token"), JSON_ENCODE_ANY);
            fprintf(out, "  %s %.4f", text ? text : "", json_number_value(json_object_get(other, "logprob")));
            free(text);
        }
        fputc('\n', out);
    }
    json_decref(all);
}

/* The first choice's text is there already. */
static void vd_run_report_text(const struct vd_run *r)
{
    for (uint32_t i = 0; i < r->n_choices; i++) {
        const struct vd_run_choice *c = &r->choice[i];
        if (i > 0) {
            fprintf(r->cli->out, "\n---- choice %u\n", i);
            fwrite(c->text ? c->text : "", 1, c->n_text, r->cli->out);
        }
        fputc('\n', r->cli->out);
        if (c->logprobs)
            vd_run_show_logprobs(c);
    }
}

static void vd_run_report(struct vd_run *r)
{
    const struct vd_job_result *s = &r->choice[0].result;
    double prompt_s = (double)s->prompt_ns / 1e9, output_s = (double)s->output_ns / 1e9;
    uint32_t n_output = r->choice[0].n_output;
    if (r->cli->json) {
        vd_run_report_json(r, prompt_s, output_s);
        return;
    }
    vd_run_report_text(r);
    fflush(r->cli->out); /* or what follows on stderr stands in the answer's last line */
    if (vd_cli_has(r->cli, "verbose") && r->stats.n_guessed_tokens)
        fprintf(stderr, "%llu tokens guessed, %llu of them right\n",
                (unsigned long long)r->stats.n_guessed_tokens, (unsigned long long)r->stats.n_right_tokens);
    if (vd_cli_has(r->cli, "verbose"))
        fprintf(
            stderr,
            "%zu prompt tokens in %.2f s (%.0f/s), %u output tokens in %.2f s (%.0f/s), end: %s, seed %llu\n",
            r->n_prompt, prompt_s, (double)r->n_prompt / prompt_s, n_output, output_s,
            n_output / (output_s > 0 ? output_s : 1), vd_run_finish(&r->choice[0]),
            (unsigned long long)r->request.sampling.seed);
}

static enum vd_err vd_run_make_choices(struct vd_run *r, struct vd_error *err)
{
    uint32_t n = r->request.max_tokens;
    for (uint32_t i = 0; i < r->n_choices; i++) {
        struct vd_run_choice *c = &r->choice[i];
        c->run = r;
        c->output = calloc(n, sizeof *c->output);
        c->logprobs = r->logprobs ? calloc(n, sizeof *c->logprobs) : NULL;
        if (!c->output || (r->logprobs && !c->logprobs))
            return vd_error_set(err, VD_ENOMEM, "no memory for %u tokens", n);
    }
    return VD_OK;
}

static enum vd_err vd_run_read_choices(struct vd_run *r, struct vd_error *err)
{
    uint32_t top = 0;
    r->n_choices = 1;
    enum vd_err e = vd_cli_u32(r->cli, "choices", 1, VD_OPENAI_CHOICES_MAX, &r->n_choices, err);
    if (e == VD_OK)
        e = vd_cli_u32(r->cli, "logprobs", 0, VD_LOGPROBS_MAX, &top, err);
    r->logprobs = vd_cli_has(r->cli, "logprobs") ? 1 + top : 0;
    if (e == VD_OK && r->n_choices > 1 && vd_cli_has(r->cli, "receipt"))
        return vd_error_set(err, VD_EUSE, "--receipt is of one answer: leave --choices out");
    return e;
}

static enum vd_err vd_run_all(struct vd_run *r, struct vd_error *err)
{
    const char *path = vd_cli_text(r->cli, "receipt", NULL);
    struct vd_keypair k = {0};
    enum vd_err e = vd_run_read_sampling(r, err);
    if (e == VD_OK)
        e = vd_run_read_choices(r, err);
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
        e = vd_run_check_bias(r, err);
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
    e = vd_run_make_choices(r, err);
    r->commits = path != NULL;
    if (e == VD_OK && path)
        e = vd_run_make_request(r, &k, err);
    if (e == VD_OK)
        e = vd_run_generate(r, err);
    bool said = e == VD_OK && !r->cli->json;
    if (e == VD_OK && path)
        e = vd_run_write_receipt(r, &k, path, err);
    vd_key_wipe(&k);
    if (e == VD_OK)
        vd_run_report(r);
    else if (said)
        fputc('\n', r->cli->out); /* the error has a line of its own */
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
    for (uint32_t i = 0; i < VD_OPENAI_CHOICES_MAX; i++) {
        free(r->choice[i].output);
        free(r->choice[i].text);
        free(r->choice[i].logprobs);
    }
    vd_commit_close(r->commit);
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
    {"choices", 0, "N", "so many answers side by side, up to 16: the API's \"n\" (default 1)", false},
    {"logprobs", 0, "N", "log probabilities of the tokens and of the N likeliest, 0 to 20", false},
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
    .help =
        "The same model, prompt, sampling and seed give the same bits on every machine, with any threads "
        "and kernel.\n"
        "A model without a chat template goes on with the text itself, as with --raw.\n"
        "The first answer is streamed; with --choices the others follow it. --json gives all of them in\n"
        "\"choices\", with \"index\", \"text\", \"finish_reason\" and \"logprobs\" as the API names them, "
        "and \"tokens\".\n"
        "--receipt writes what a worker would sign: anyone with the model can check it.\n\n"
        "    veridem run SmolLM2 -p 'What is a ledger?' -n 64 --receipt answer.receipt\n"
        "    veridem verify answer.receipt --model SmolLM2",
    .opts = vd_run_opts,
    .min_args = 1,
    .max_args = 1,
    .run = vd_run_run,
};
