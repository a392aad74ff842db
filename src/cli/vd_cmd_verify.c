/* veridem verify: do these receipts stand? First what needs no model (signatures, salt, tokens, price), then
 * the replay, of all of each or of some positions; those of one model go through one pass. */
#include "vd_bytes.h"
#include "vd_clock.h"
#include "vd_cmd.h"
#include "vd_cmd_busy.h"
#include "vd_cmd_load.h"
#include "vd_cmd_receipt.h"
#include "vd_cmd_verify.h"
#include "vd_json_hex.h"
#include "vd_replay.h"

#include <stdlib.h>
#include <string.h>

enum { VD_VERIFY_ROWS = 512, VD_VERIFY_LOGITS = 256 };

/* One file of the command line. */
struct vd_verify {
    struct vd_cli *cli;
    const char *path;
    struct vd_envelope e;
    uint32_t *tokens; /* NULL: not read, or a statement */
    struct vd_receipt receipt;
    struct vd_hash id;
    bool replayed, other_model; /* other_model: not replayed, since it is not the receipt's */
    bool part;                  /* part: positions first .. last only */
    uint32_t first, last;
    struct vd_replay_result result;
    double replay_s, load_s; /* replay_s: of the whole pass */
    uint32_t n_together;     /* receipts in that pass */
    struct vd_error outcome; /* of this file; code VD_OK: nothing is wrong with it */
    bool shown;              /* a statement: printed already */
    json_t *answer;          /* for --json */
};

/* Reads and checks what needs no model; the outcome is err's. */
static enum vd_err vd_verify_read(struct vd_verify *v, struct vd_bytes file, struct vd_error *err)
{
    enum vd_receipt_verdict verdict = VD_RECEIPT_OK;
    enum vd_err e = vd_cmd_parse_receipt(v->path, file, &v->e, &v->tokens, err);
    if (e == VD_OK) {
        v->id = vd_signed_receipt_id(&v->e.receipt);
        verdict = vd_envelope_check(&v->e, &v->receipt);
        if (verdict == VD_RECEIPT_MALFORMED)
            e = vd_error_set(err, VD_EFORMAT, "%.200s is not a receipt: what it signs is malformed", v->path);
        else if (verdict != VD_RECEIPT_OK)
            e = vd_error_set(err, VD_EFALSE, "the receipt is not valid: %s",
                             vd_receipt_verdict_text(verdict));
    }
    if (e == VD_EFALSE && v->cli->json) {
        v->answer = json_pack("{s:b,s:s,s:b}", "stands", 0, "verdict",
                              v->tokens ? vd_receipt_verdict_text(verdict) : err->msg, "replayed", 0);
        if (v->tokens)
            json_object_set_new(v->answer, "receipt", vd_json_hex(v->id.b, VD_HASH_BYTES));
    }
    return e;
}

/* --positions A..B, or A alone. */
static enum vd_err vd_verify_positions(struct vd_verify *v, struct vd_error *err)
{
    const char *text = vd_cli_text(v->cli, "positions", NULL);
    unsigned long long a, b;
    char end;
    if (!text)
        return VD_OK;
    if (sscanf(text, "%9llu%c", &a, &end) == 1)
        b = a;
    else if (sscanf(text, "%9llu..%9llu%c", &a, &b, &end) != 2)
        a = 1, b = 0;
    if (strspn(text, "0123456789.") != strlen(text) || a > b)
        return vd_error_set(err, VD_EUSE,
                            "--positions wants A..B with A not above B, as in 127..130, not %.40s", text);
    v->part = true;
    v->first = (uint32_t)a;
    v->last = (uint32_t)b;
    return VD_OK;
}

/* A model, opened once for all receipts that name it. */
struct vd_verify_model {
    struct vd_cmd_engine g;
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
    struct vd_hash root;
    double load_s;
};

static enum vd_err vd_verify_model_open(struct vd_verify_model *m, const struct vd_cli *cli,
                                        const char *model, struct vd_error *err)
{
    uint64_t began = vd_clock_ns();
    *m = (struct vd_verify_model){0};
    enum vd_err e = vd_cmd_engine_open(&m->g, cli, model, err);
    if (e != VD_OK)
        return e;
    e = vd_model_root(m->g.model, m->g.pool, &m->root, err);
    if (e == VD_OK)
        e = vd_ctx_create(&m->ctx, m->g.model, m->g.pool, vd_replay_rows(m->g.model, VD_VERIFY_ROWS),
                          VD_VERIFY_LOGITS, err);
    if (e == VD_OK)
        e = vd_kv_pool_create(&m->cache, m->g.model, (size_t)1 << 30, err);
    m->load_s = (double)(vd_clock_ns() - began) / 1e9;
    return e;
}

static void vd_verify_model_close(struct vd_verify_model *m)
{
    vd_ctx_destroy(m->ctx);
    vd_kv_pool_destroy(m->cache);
    vd_cmd_engine_close(&m->g);
}

static struct vd_proof_job vd_verify_job(const struct vd_verify *v)
{
    return (struct vd_proof_job){.receipt = &v->receipt,
                                 .prompt = v->e.prompt,
                                 .output = v->e.output,
                                 .job_salt = v->e.job_salt,
                                 .controls = v->e.controls};
}

static void vd_verify_replayed(struct vd_verify *v, const struct vd_verify_model *m, uint64_t began,
                               uint32_t n_together)
{
    v->other_model = v->result.verdict == VD_REPLAY_MODEL;
    v->replayed = !v->other_model;
    v->n_together = n_together;
    v->load_s = m->load_s;
    v->replay_s = (double)(vd_clock_ns() - began) / 1e9;
}

/* One alone, or a part of it; the outcome is its own. */
static void vd_verify_replay_one(struct vd_verify *v, const struct vd_verify_model *m)
{
    struct vd_proof_job job = vd_verify_job(v);
    struct vd_busy busy;
    uint64_t began = vd_clock_ns();
    enum vd_err e;
    vd_busy_begin(&busy, v->cli, "replaying %u tokens",
                  v->part ? v->last + 1 : v->receipt.request.n_prompt + v->receipt.n_output);
    if (v->part)
        e = vd_replay_part(m->ctx, m->cache, &m->root, &job, v->first, v->last, &v->result, &v->outcome);
    else
        e = vd_replay(m->ctx, m->cache, &m->root, &job, &v->result, &v->outcome);
    vd_busy_end(&busy);
    if (e == VD_OK)
        vd_verify_replayed(v, m, began, 1);
}

/* All of them in one pass. If that fails nothing is known of any, so that each is tried alone. */
static void vd_verify_replay_many(struct vd_verify *const *v, size_t n, const struct vd_verify_model *m)
{
    struct vd_proof_job *job = calloc(n, sizeof *job);
    struct vd_replay_result *result = calloc(n, sizeof *result);
    struct vd_busy busy;
    uint64_t began = vd_clock_ns(), n_tokens = 0;
    enum vd_err e = VD_ENOMEM;
    for (size_t i = 0; job && i < n; i++) {
        job[i] = vd_verify_job(v[i]);
        n_tokens += v[i]->receipt.request.n_prompt + v[i]->receipt.n_output;
    }
    if (job && result && n > 1 && !v[0]->part) {
        vd_busy_begin(&busy, v[0]->cli, "replaying %zu receipts of %llu tokens", n,
                      (unsigned long long)n_tokens);
        e = vd_replay_many(m->ctx, m->cache, &m->root, job, n, result, NULL);
        vd_busy_end(&busy);
    }
    for (size_t i = 0; i < n; i++) {
        if (e != VD_OK) {
            vd_verify_replay_one(v[i], m);
            continue;
        }
        v[i]->result = result[i];
        vd_verify_replayed(v[i], m, began, (uint32_t)n);
    }
    free(job);
    free(result);
}

/* Where it differs: the position, the output token there, and of a token both. */
static void vd_verify_json_where(const struct vd_verify *v, json_t *a)
{
    const struct vd_replay_result *r = &v->result;
    if (r->verdict != VD_REPLAY_TOKEN && r->verdict != VD_REPLAY_STOP)
        return;
    json_object_set_new(a, "step", json_integer(r->step));
    json_object_set_new(a, "output_token", json_integer(r->step + 1 - v->receipt.request.n_prompt));
    if (r->verdict == VD_REPLAY_TOKEN) {
        json_object_set_new(a, "got", json_integer(r->got));
        json_object_set_new(a, "want", json_integer(r->want));
    }
}

static json_t *vd_verify_json(const struct vd_verify *v)
{
    char id[65], worker[65], root[65];
    vd_hex_encode(id, v->id.b, VD_HASH_BYTES);
    vd_hex_encode(worker, v->receipt.request.worker.b, VD_PUBKEY_BYTES);
    vd_hex_encode(root, v->receipt.request.model_root.b, VD_HASH_BYTES);
    bool stands = v->replayed && v->result.verdict == VD_REPLAY_OK;
    json_t *a = json_pack(
        "{s:s,s:s,s:s,s:I,s:I,s:s,s:I,s:b,s:b}", "receipt", id, "worker", worker, "model_root", root,
        "prompt_tokens", (json_int_t)v->receipt.request.n_prompt, "output_tokens",
        (json_int_t)v->receipt.n_output, "finish", vd_finish_name(v->receipt.finish), "amount_micro",
        (json_int_t)v->receipt.amount.micro, "signatures_valid", 1, "replayed", v->replayed);
    if (v->other_model) {
        json_object_set_new(a, "verdict", json_string(vd_replay_text(v->result.verdict)));
    } else if (v->replayed) {
        if (v->part) {
            json_object_set_new(a, "first_position", json_integer(v->first));
            json_object_set_new(a, "last_position", json_integer(v->last));
            json_object_set_new(a, "part_stands", json_boolean(stands));
        } else {
            json_object_set_new(a, "stands", json_boolean(stands));
        }
        json_object_set_new(
            a, "verdict",
            json_string(v->part && stands ? "the part stands" : vd_replay_text(v->result.verdict)));
        json_object_set_new(a, "replay_s", json_real(v->replay_s));
        json_object_set_new(a, "load_s", json_real(v->load_s));
        json_object_set_new(a, "replayed_together", json_integer(v->n_together));
        vd_verify_json_where(v, a);
    }
    return a;
}

static void vd_verify_print(const struct vd_verify *v)
{
    FILE *out = v->cli->out;
    char hex[65], credits[VD_CLI_CREDITS_MAX];
    vd_hex_encode(hex, v->id.b, VD_HASH_BYTES);
    fprintf(out, "receipt     %s\n", hex);
    vd_hex_encode(hex, v->receipt.request.worker.b, VD_PUBKEY_BYTES);
    fprintf(out, "worker      %s\n", hex);
    vd_hex_encode(hex, v->receipt.request.model_root.b, VD_HASH_BYTES);
    fprintf(out, "model root  %s\ntokens      %u prompt, %u output, end: %s; %s credits\n", hex,
            v->receipt.request.n_prompt, v->receipt.n_output, vd_finish_name(v->receipt.finish),
            vd_cli_credits(credits, v->receipt.amount.micro));
    fprintf(out, "signatures  valid; salt, prompt and answer are the signed ones\n");
    if (!v->replayed) {
        fprintf(out, "verdict     %s\n",
                v->outcome.code != VD_OK ? v->outcome.msg
                                         : "not replayed: whether the answer is the model's is not known");
        return;
    }
    uint32_t p = v->receipt.request.n_prompt, n = v->part ? v->last + 1 : p + v->receipt.n_output;
    if (v->n_together > 1)
        fprintf(out, "replay      %u tokens, in one pass of %u receipts and %.3f s\n", n, v->n_together,
                v->replay_s);
    else
        fprintf(out, "replay      %u tokens in %.3f s (%.0f/s)\n", n, v->replay_s, n / v->replay_s);
    if (v->part && v->result.verdict == VD_REPLAY_OK) {
        uint32_t first = v->first + 1 > p ? v->first + 1 - p : 0, last = v->last + 1 - p;
        fprintf(
            out,
            "verdict     output tokens %u..%u are what the model chooses after the receipt's tokens before "
            "them;\n"
            "            the other tokens and the commit root were not looked at: this does not say that the "
            "receipt stands\n",
            first, last);
    } else {
        fprintf(out, "verdict     %s\n",
                v->outcome.code != VD_OK ? v->outcome.msg : vd_replay_text(v->result.verdict));
    }
}

static enum vd_err vd_verify_verdict(const struct vd_verify *v, struct vd_error *err)
{
    const struct vd_replay_result *r = &v->result;
    uint32_t p = v->receipt.request.n_prompt;
    if (v->other_model) /* which says nothing about the receipt */
        return vd_error_set(err, VD_ENOTFOUND, "%s; whether the receipt stands is not known",
                            vd_replay_text(r->verdict));
    if (!v->replayed || r->verdict == VD_REPLAY_OK)
        return VD_OK;
    if (r->verdict == VD_REPLAY_TOKEN)
        return vd_error_set(err, VD_EFALSE, "%s: output token %u is %u, the model's is %u",
                            vd_replay_text(r->verdict), r->step + 1 - p, r->got, r->want);
    if (r->verdict == VD_REPLAY_STOP)
        return vd_error_set(err, VD_EFALSE, "%s: at output token %u", vd_replay_text(r->verdict),
                            r->step + 1 - p);
    return vd_error_set(err, VD_EFALSE, "%s", vd_replay_text(r->verdict));
}

/* ---- all files ---- */

/* The listed model that the receipt is about. */
static enum vd_err vd_verify_find_model(const struct vd_verify *v, char out[VD_PATH_MAX],
                                        struct vd_error *err)
{
    struct vd_error why;
    enum vd_err e = vd_cmd_model_of_root(v->cli, &v->receipt.request.model_root, out, &why);
    if (e == VD_ENOTFOUND)
        return vd_error_set(
            err, e, "signatures and tokens are good, but %s, --no-replay is content with this", why.msg);
    return e == VD_OK ? e : vd_error_set(err, e, "%s", why.msg);
}

static void vd_verify_load(struct vd_verify *v)
{
    uint8_t *bytes;
    size_t n;
    bool statement;
    enum vd_err e = vd_cmd_slurp_receipt(&bytes, &n, v->path, &v->outcome);
    if (e != VD_OK)
        return;
    struct vd_bytes file = {bytes, n};
    e = vd_cmd_verify_statement(v->cli, file, &statement, &v->answer, &v->outcome);
    v->shown = statement;
    if (e == VD_OK && !statement)
        vd_verify_read(v, file, &v->outcome);
    free(bytes);
}

static bool vd_verify_waits(const struct vd_verify *v)
{
    return v->tokens && v->outcome.code == VD_OK && !v->replayed && !v->other_model;
}

/* Those that wait and are of the first one's model, or all that wait with --model, by one opening of it. */
static void vd_verify_replay_group(struct vd_verify *v, size_t n, struct vd_verify **group)
{
    const char *model = vd_cli_text(v->cli, "model", NULL);
    char found[VD_PATH_MAX];
    struct vd_verify_model m = {0};
    struct vd_error err = {0};
    size_t n_group = 0;
    for (size_t i = 0; i < n; i++)
        if (vd_verify_waits(&v[i]) &&
            (model || n_group == 0 ||
             vd_hash_eq(&v[i].receipt.request.model_root, &group[0]->receipt.request.model_root)))
            group[n_group++] = &v[i];
    enum vd_err e = model ? VD_OK : vd_verify_find_model(group[0], found, &err);
    if (e == VD_OK)
        e = vd_verify_model_open(&m, v->cli, model ? model : found, &err);
    if (e == VD_OK)
        vd_verify_replay_many(group, n_group, &m);
    for (size_t i = 0; i < n_group; i++) {
        if (e != VD_OK)
            group[i]->outcome = err;
        else if (group[i]->outcome.code == VD_OK)
            vd_verify_verdict(group[i], &group[i]->outcome);
    }
    vd_verify_model_close(&m);
}

static enum vd_err vd_verify_replay_all(struct vd_verify *v, size_t n, struct vd_error *err)
{
    struct vd_verify **group = calloc(n, sizeof(void *));
    if (!group)
        return vd_error_set(err, VD_ENOMEM, "no memory to verify");
    for (size_t i = 0; i < n; i++)
        if (vd_verify_waits(&v[i]))
            vd_verify_replay_group(v + i, n - i, group);
    free(group);
    return VD_OK;
}

/* What is known of one file. An error about it is printed by the caller if it is the only one. */
static void vd_verify_show(struct vd_verify *v, bool alone)
{
    bool known = v->tokens && (v->replayed || v->other_model || v->outcome.code == VD_OK);
    if (v->cli->json) {
        if (known)
            v->answer = vd_verify_json(v);
        if (!v->answer && !alone)
            v->answer = json_object();
        if (v->outcome.code != VD_OK && v->outcome.code != VD_EFALSE && v->answer)
            json_object_set_new(v->answer, "error",
                                json_pack("{s:s,s:s%}", "code", vd_err_name(v->outcome.code), "message",
                                          v->outcome.msg, strlen(v->outcome.msg)));
        if (!alone)
            json_object_set_new(v->answer, "file", json_string(v->path));
        return;
    }
    if (!alone)
        fprintf(v->cli->out, "file        %s\n", v->path);
    if (known)
        vd_verify_print(v);
    else if (!alone && !v->shown)
        fprintf(v->cli->out, "verdict     %s\n", v->outcome.msg);
    if (!alone)
        fputc('\n', v->cli->out);
}

/* 1 if any is false; else what the first one says that could not be checked. */
static enum vd_err vd_verify_sum(const struct vd_verify *v, size_t n, struct vd_error *err)
{
    size_t n_false = 0, n_unknown = 0, first = 0;
    for (size_t i = 0; i < n; i++) {
        n_false += v[i].outcome.code == VD_EFALSE;
        if (v[i].outcome.code != VD_OK && v[i].outcome.code != VD_EFALSE && n_unknown++ == 0)
            first = i;
    }
    if (!v->cli->json)
        fprintf(v->cli->out, "%zu files: %zu good, %zu false, %zu could not be checked\n", n,
                n - n_false - n_unknown, n_false, n_unknown);
    if (n_false)
        return vd_error_set(err, VD_EFALSE, "%zu of %zu files are false", n_false, n);
    return n_unknown ? vd_error_set(err, v[first].outcome.code, "%zu of %zu files could not be checked: %s",
                                    n_unknown, n, v[first].outcome.msg)
                     : VD_OK;
}

static enum vd_err vd_verify_files(struct vd_verify *v, size_t n, struct vd_error *err)
{
    enum vd_err e = VD_OK;
    json_t *list = v->cli->json && n > 1 ? json_array() : NULL;
    for (size_t i = 0; i < n; i++)
        vd_verify_load(&v[i]);
    if (!vd_cli_has(v->cli, "no-replay"))
        e = vd_verify_replay_all(v, n, err);
    for (size_t i = 0; e == VD_OK && i < n; i++) {
        vd_verify_show(&v[i], n == 1);
        if (list)
            json_array_append(list, v[i].answer);
    }
    if (e == VD_OK && list)
        vd_cli_json(v->cli, json_incref(list));
    else if (e == VD_OK && v->cli->json && v->answer)
        vd_cli_json(v->cli, json_incref(v->answer));
    json_decref(list);
    if (e == VD_OK && n == 1)
        return v->outcome.code == VD_OK ? VD_OK : vd_error_set(err, v->outcome.code, "%s", v->outcome.msg);
    return e == VD_OK ? vd_verify_sum(v, n, err) : e;
}

static enum vd_err vd_verify_run(struct vd_cli *cli, struct vd_error *err)
{
    size_t n = (size_t)cli->n_args;
    struct vd_verify *v = calloc(n, sizeof *v);
    enum vd_err e = v ? VD_OK : vd_error_set(err, VD_ENOMEM, "no memory to verify");
    for (size_t i = 0; i < n && e == VD_OK; i++) {
        v[i].cli = cli;
        v[i].path = cli->arg[i];
        e = vd_verify_positions(&v[i], err);
    }
    if (e == VD_OK)
        e = vd_verify_files(v, n, err);
    for (size_t i = 0; v && i < n; i++) {
        free(v[i].tokens);
        json_decref(v[i].answer);
    }
    free(v);
    return e;
}

static const struct vd_cli_opt vd_verify_opts[] = {
    {"model", 'm', "MODEL", "the model (default: the listed file with the receipt's root)", false},
    {"no-replay", 0, NULL, "only what needs no model: signatures, salt, tokens, price", false},
    {"positions", 0, "A..B",
     "replay only these positions of prompt and output (from 0; output token i is chosen at position "
     "prompt tokens - 1 + i)",
     false},
    VD_CMD_OPTS_COMPUTE,
    {0},
};
const struct vd_cmd vd_cmd_verify = {
    .name = "verify",
    .group = "Models and text",
    .usage = "RECEIPT...",
    .summary = "does a receipt stand? signatures, then replay",
    .help =
        "RECEIPT is a file that `veridem run --receipt` wrote or a gateway gave out (- is stdin, and a pipe "
        "will do), in either "
        "of its forms\n"
        "(see `veridem receipt convert`), or a worker's statement about an answer that has no receipt. "
        "Prompt and answer are run again in one pass, which is much faster than\n"
        "generating them, and every token and the commit root are compared. Exit status 0: it stands; 1: it "
        "does not,\n"
        "and where it differs; 3: it could not be checked (--model is another one than the receipt's), or is "
        "not a receipt. --json says {\"stands\": true or\n"
        "false, \"verdict\", ...} for 0 and 1; where a token differs, the position as \"step\", which output "
        "token "
        "that is, and what the receipt (\"got\") and the model (\"want\") have there. --positions shows less "
        "and is "
        "cheaper: what is chosen at these positions, given\n"
        "the receipt's own tokens before them, and not that the receipt stands; --json then says "
        "{\"part_stands\": ...}.\n\n"
        "Of several files each is reported, whatever the others are, and those of one model are replayed "
        "together. Exit status 1 if one is false, else 3 if one could not be checked; --json is an array "
        "whose members name their \"file\", and have an \"error\" if it could not be checked.",
    .opts = vd_verify_opts,
    .min_args = 1,
    .max_args = -1,
    .run = vd_verify_run,
};
