/* veridem verify: does this receipt stand? First what needs no model (signatures, salt, tokens, price), then
 * the replay, of all of it or of some positions. */
#include "vd_bytes.h"
#include "vd_clock.h"
#include "vd_cmd.h"
#include "vd_cmd_load.h"
#include "vd_cmd_receipt.h"
#include "vd_cmd_verify.h"
#include "vd_replay.h"

#include <stdlib.h>
#include <string.h>

enum { VD_VERIFY_ROWS = 512, VD_VERIFY_LOGITS = 256 };

struct vd_verify {
    struct vd_cli *cli;
    struct vd_envelope e;
    uint32_t *tokens;
    struct vd_receipt receipt;
    struct vd_hash id;
    bool replayed, other_model; /* other_model: not replayed, since it is not the receipt's */
    bool part;                  /* part: positions first .. last only */
    uint32_t first, last;
    struct vd_replay_result result;
    double replay_s, load_s;
};

static enum vd_err vd_verify_read(struct vd_verify *v, const char *path, struct vd_bytes file,
                                  struct vd_error *err)
{
    enum vd_err e = vd_cmd_parse_receipt(path, file, &v->e, &v->tokens, err);
    if (e != VD_OK)
        return e;
    v->id = vd_signed_receipt_id(&v->e.receipt);
    enum vd_receipt_verdict verdict = vd_envelope_check(&v->e, &v->receipt);
    if (verdict == VD_RECEIPT_OK)
        return VD_OK;
    if (verdict == VD_RECEIPT_MALFORMED)
        return vd_error_set(err, VD_EFORMAT, "%.200s is not a receipt: what it signs is malformed", path);
    if (v->cli->json) {
        char hex[65];
        vd_hex_encode(hex, v->id.b, VD_HASH_BYTES);
        vd_cli_json(v->cli, json_pack("{s:b,s:s,s:s,s:b}", "stands", 0, "verdict",
                                      vd_receipt_verdict_text(verdict), "receipt", hex, "replayed", 0));
    }
    return vd_error_set(err, VD_EFALSE, "the receipt is not valid: %s", vd_receipt_verdict_text(verdict));
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

static enum vd_err vd_verify_replay(struct vd_verify *v, const char *model, struct vd_error *err)
{
    struct vd_cmd_engine g;
    struct vd_ctx *ctx = NULL;
    struct vd_kv_pool *cache = NULL;
    struct vd_hash root;
    struct vd_proof_job job = {.receipt = &v->receipt,
                               .prompt = v->e.prompt,
                               .output = v->e.output,
                               .job_salt = v->e.job_salt,
                               .controls = v->e.controls};
    uint64_t began = vd_clock_ns();
    enum vd_err e = vd_cmd_engine_open(&g, v->cli, model, err);
    if (e != VD_OK)
        return e;
    e = vd_model_root(g.model, g.pool, &root, err);
    if (e == VD_OK)
        e = vd_ctx_create(&ctx, g.model, g.pool, vd_replay_rows(g.model, VD_VERIFY_ROWS), VD_VERIFY_LOGITS,
                          err);
    if (e == VD_OK)
        e = vd_kv_pool_create(&cache, g.model, (size_t)1 << 30, err);
    uint64_t loaded = vd_clock_ns();
    if (e == VD_OK && v->part)
        e = vd_replay_part(ctx, cache, &root, &job, v->first, v->last, &v->result, err);
    else if (e == VD_OK)
        e = vd_replay(ctx, cache, &root, &job, &v->result, err);
    v->other_model = e == VD_OK && v->result.verdict == VD_REPLAY_MODEL;
    v->replayed = e == VD_OK && !v->other_model;
    v->load_s = (double)(loaded - began) / 1e9;
    v->replay_s = (double)(vd_clock_ns() - loaded) / 1e9;
    vd_ctx_destroy(ctx);
    vd_kv_pool_destroy(cache);
    vd_cmd_engine_close(&g);
    return e;
}

static void vd_verify_print_json(const struct vd_verify *v)
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
        if (v->result.verdict == VD_REPLAY_TOKEN || v->result.verdict == VD_REPLAY_STOP)
            json_object_set_new(a, "step", json_integer(v->result.step));
    }
    vd_cli_json(v->cli, a);
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
    if (v->other_model)
        fprintf(out, "verdict     %s\n", vd_replay_text(v->result.verdict));
    if (!v->replayed)
        return;
    uint32_t p = v->receipt.request.n_prompt, n = v->part ? v->last + 1 : p + v->receipt.n_output;
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
        fprintf(out, "verdict     %s\n", vd_replay_text(v->result.verdict));
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

/* The listed model that the receipt is about. */
static enum vd_err vd_verify_find_model(struct vd_verify *v, char out[VD_PATH_MAX], struct vd_error *err)
{
    struct vd_error why;
    enum vd_err e = vd_cmd_model_of_root(v->cli, &v->receipt.request.model_root, out, &why);
    if (e == VD_ENOTFOUND)
        return vd_error_set(
            err, e, "signatures and tokens are good, but %s, --no-replay is content with this", why.msg);
    return e == VD_OK ? e : vd_error_set(err, e, "%s", why.msg);
}

static enum vd_err vd_verify_receipt(struct vd_cli *cli, struct vd_bytes file, struct vd_error *err)
{
    char found[VD_PATH_MAX];
    const char *model = vd_cli_text(cli, "model", NULL);
    struct vd_verify *v = calloc(1, sizeof *v);
    if (!v)
        return vd_error_set(err, VD_ENOMEM, "no memory to verify");
    v->cli = cli;
    enum vd_err e = vd_verify_positions(v, err);
    if (e == VD_OK)
        e = vd_verify_read(v, cli->arg[0], file, err);
    if (e == VD_OK && !vd_cli_has(cli, "no-replay")) {
        if (!model) {
            e = vd_verify_find_model(v, found, err);
            model = found;
        }
        if (e == VD_OK)
            e = vd_verify_replay(v, model, err);
    }
    if (e == VD_OK) {
        if (cli->json)
            vd_verify_print_json(v);
        else
            vd_verify_print(v);
        e = vd_verify_verdict(v, err);
    }
    free(v->tokens);
    free(v);
    return e;
}

static enum vd_err vd_verify_run(struct vd_cli *cli, struct vd_error *err)
{
    uint8_t *bytes;
    size_t n;
    bool statement;
    enum vd_err e = vd_cli_slurp(&bytes, &n, cli->arg[0], VD_RECEIPT_FILE_MAX, err);
    if (e != VD_OK)
        return e;
    struct vd_bytes file = {bytes, n};
    e = vd_cmd_verify_statement(cli, file, &statement, err);
    if (e == VD_OK && !statement)
        e = vd_verify_receipt(cli, file, err);
    free(bytes);
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
    .usage = "RECEIPT",
    .summary = "does a receipt stand? signatures, then replay",
    .help =
        "RECEIPT is a file that `veridem run --receipt` wrote or a gateway gave out (- is stdin), in either "
        "of its forms\n"
        "(see `veridem receipt convert`), or a worker's statement about an answer that has no receipt. "
        "Prompt and answer are run again in one pass, which is much faster "
        "than\n"
        "generating them, and every token and the commit root are compared. Exit status 0: it stands; 1: it "
        "does not,\n"
        "and where it differs; 3: it could not be checked (--model is another one than the receipt's), or is "
        "not "
        "a receipt. --json says {\"stands\": "
        "true "
        "or\n"
        "false, \"verdict\", ...} for 0 and 1. --positions shows less and is cheaper: what is chosen at "
        "these "
        "positions, given\n"
        "the receipt's own tokens before them, and not that the receipt stands; --json then says "
        "{\"part_stands\": ...}.",
    .opts = vd_verify_opts,
    .min_args = 1,
    .max_args = 1,
    .run = vd_verify_run,
};
