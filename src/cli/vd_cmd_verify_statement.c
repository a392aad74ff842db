/* A worker's statement about the beginning of an answer, where there is no receipt: signatures and roots,
 * then the tokens, run along as a stream, and the root that the statement names. It is evidence of what a
 * worker signed; nothing is paid for it. */
#include "vd_cmd_verify.h"

#include "vd_clock.h"
#include "vd_cmd_busy.h"
#include "vd_cmd_load.h"
#include "vd_receipt.h"
#include "vd_replay.h"

#include <stdlib.h>

enum { VD_STATEMENT_ROWS = 512, VD_STATEMENT_LOGITS = 256 };

struct vd_statement {
    const struct vd_cli *cli;
    json_t **answer;
    struct vd_prefix_envelope e;
    struct vd_request request;
    struct vd_receipt_prefix prefix;
    struct vd_replay_result result;
    bool replayed, other_model; /* as in vd_cmd_verify.c */
    double replay_s;
};

static enum vd_err vd_statement_run_along(struct vd_statement *v, struct vd_ctx *ctx,
                                          struct vd_kv_pool *cache, const struct vd_hash *root,
                                          struct vd_error *err)
{
    struct vd_receipt receipt = {.request = v->request};
    struct vd_proof_job job = {.receipt = &receipt,
                               .prompt = v->e.prompt,
                               .output = v->e.output,
                               .job_salt = v->e.job_salt,
                               .controls = v->e.controls};
    struct vd_replay_stream *s = NULL;
    enum vd_err e = vd_replay_stream_open(&s, ctx, cache, root, &job, &v->result, err);
    if (e == VD_OK && s)
        e = vd_replay_stream_add(s, v->e.output, v->e.n_output, &v->result, err);
    if (e == VD_OK && s && v->result.verdict == VD_REPLAY_OK)
        vd_replay_stream_prefix(s, &v->prefix, &v->result);
    vd_replay_stream_close(s);
    return e;
}

static enum vd_err vd_statement_replay(struct vd_statement *v, const char *model, struct vd_error *err)
{
    struct vd_cmd_engine g;
    struct vd_ctx *ctx = NULL;
    struct vd_kv_pool *cache = NULL;
    struct vd_hash root;
    enum vd_err e = vd_cmd_engine_open(&g, v->cli, model, err);
    if (e != VD_OK)
        return e;
    e = vd_model_root(g.model, g.pool, &root, err);
    if (e == VD_OK)
        e = vd_ctx_create(&ctx, g.model, g.pool, VD_STATEMENT_ROWS, VD_STATEMENT_LOGITS, err);
    if (e == VD_OK)
        e = vd_kv_pool_create(&cache, g.model, (size_t)1 << 30, err);
    uint64_t began = vd_clock_ns();
    struct vd_busy busy = {0};
    if (e == VD_OK) {
        vd_busy_begin(&busy, v->cli, "replaying %u tokens", v->e.n_prompt + v->e.n_output);
        e = vd_statement_run_along(v, ctx, cache, &root, err);
        vd_busy_end(&busy);
    }
    v->other_model = e == VD_OK && v->result.verdict == VD_REPLAY_MODEL;
    v->replayed = e == VD_OK && !v->other_model;
    v->replay_s = (double)(vd_clock_ns() - began) / 1e9;
    vd_ctx_destroy(ctx);
    vd_kv_pool_destroy(cache);
    vd_cmd_engine_close(&g);
    return e;
}

static void vd_statement_print(const struct vd_statement *v)
{
    char job[65], worker[65], root[65];
    const char *verdict =
        v->result.verdict == VD_REPLAY_OK ? "the statement stands" : vd_replay_text(v->result.verdict);
    vd_hex_encode(job, v->prefix.job_id.b, VD_HASH_BYTES);
    vd_hex_encode(worker, v->request.worker.b, VD_PUBKEY_BYTES);
    vd_hex_encode(root, v->request.model_root.b, VD_HASH_BYTES);
    if (v->cli->json) {
        json_t *a = json_pack("{s:s,s:s,s:s,s:I,s:I,s:b,s:b}", "job", job, "worker", worker, "model_root",
                              root, "prompt_tokens", (json_int_t)v->e.n_prompt, "output_tokens",
                              (json_int_t)v->e.n_output, "signatures_valid", 1, "replayed", v->replayed);
        if (v->replayed) {
            json_object_set_new(a, "statement_stands", json_boolean(v->result.verdict == VD_REPLAY_OK));
            json_object_set_new(a, "verdict", json_string(verdict));
            json_object_set_new(a, "replay_s", json_real(v->replay_s));
        } else if (v->other_model) {
            json_object_set_new(a, "verdict", json_string(verdict));
        }
        *v->answer = a;
        return;
    }
    fprintf(v->cli->out,
            "statement   of job %s\nworker      %s\nmodel root  %s\ntokens      %u prompt, the first %u of "
            "the output\n"
            "signatures  valid; salt, prompt and answer are the signed ones\n",
            job, worker, root, v->e.n_prompt, v->e.n_output);
    if (v->replayed)
        fprintf(v->cli->out, "replay      %.3f s\nverdict     %s; it is no receipt: nothing is paid for it\n",
                v->replay_s, verdict);
    else
        fprintf(v->cli->out, "verdict     %s; it is no receipt: nothing is paid for it\n",
                v->other_model ? verdict : "not replayed: whether the tokens are the model's is not known");
}

static enum vd_err vd_statement_check(struct vd_statement *v, struct vd_error *err)
{
    char found[VD_PATH_MAX];
    const char *model = vd_cli_text(v->cli, "model", NULL);
    enum vd_receipt_verdict verdict = vd_prefix_envelope_check(&v->e, &v->request, &v->prefix);
    enum vd_err e = VD_OK;
    if (verdict != VD_RECEIPT_OK)
        return vd_error_set(err, VD_EFALSE, "the statement is not valid: %s",
                            vd_receipt_verdict_text(verdict));
    if (!vd_cli_has(v->cli, "no-replay")) {
        if (!model)
            e = vd_cmd_model_of_root(v->cli, &v->request.model_root, found, err);
        if (e == VD_OK)
            e = vd_statement_replay(v, model ? model : found, err);
    }
    if (e != VD_OK)
        return e;
    vd_statement_print(v);
    if (v->other_model)
        return vd_error_set(err, VD_ENOTFOUND, "%s; whether the statement stands is not known",
                            vd_replay_text(v->result.verdict));
    if (v->replayed && v->result.verdict == VD_REPLAY_TOKEN)
        return vd_error_set(err, VD_EFALSE, "%s: output token %u is %u, the model's is %u",
                            vd_replay_text(v->result.verdict), v->result.step + 1 - v->e.n_prompt,
                            v->result.got, v->result.want);
    return !v->replayed || v->result.verdict == VD_REPLAY_OK
               ? VD_OK
               : vd_error_set(err, VD_EFALSE, "%s", vd_replay_text(v->result.verdict));
}

enum vd_err vd_cmd_verify_statement(const struct vd_cli *cli, struct vd_bytes file, bool *is, json_t **answer,
                                    struct vd_error *err)
{
    struct vd_statement *v = calloc(1, sizeof *v);
    uint32_t *tokens = malloc((file.n + 1) * sizeof *tokens);
    enum vd_err e = v && tokens ? VD_OK : vd_error_set(err, VD_ENOMEM, "no memory to verify");
    *is = e == VD_OK && vd_prefix_envelope_decode(file, &v->e, tokens, file.n);
    if (*is) {
        v->cli = cli;
        v->answer = answer;
        e = vd_cli_has(cli, "positions")
                ? vd_error_set(err, VD_EUSE,
                               "--positions is for receipts; this is a statement about a beginning")
                : vd_statement_check(v, err);
    }
    free(tokens);
    free(v);
    return e;
}
