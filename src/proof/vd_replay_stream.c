/* A stream is a receipt of which one more token is known from time to time: position p - 1 + i can be run,
 * and what is chosen there compared, when output token i is there. So the commitment always covers exactly
 * the positions that a receipt over the tokens so far would cover, and nothing ever has to be taken back. */
#include "vd_replay_impl.h"

#include <stdlib.h>
#include <string.h>

struct vd_replay_stream {
    struct vd_feed feed;
    struct vd_replay_one one;
    struct vd_proof_job job;
    struct vd_receipt receipt;
    struct vd_replay_result result;
    uint32_t *sequence; /* prompt and output */
    uint32_t cap_output;
};

/* Of an answer of one token: every answer begins as one. */
static void describe(struct vd_replay_stream *s, const struct vd_proof_job *job)
{
    s->job = *job;
    s->receipt =
        (struct vd_receipt){.request = job->receipt->request, .n_output = 1, .finish = VD_FINISH_CANCELLED};
    s->job.receipt = &s->receipt;
}

/* Room for every token that can still be right. */
static enum vd_err allocate(struct vd_replay_stream *s, struct vd_error *err)
{
    const struct vd_model *model = vd_ctx_model(s->feed.ctx);
    const struct vd_request *q = &s->receipt.request;
    uint32_t ctx = vd_model_program(model)->ctx, room = ctx - q->n_prompt + 1;
    s->cap_output = q->max_tokens < room ? q->max_tokens : room;
    s->sequence = malloc(((size_t)q->n_prompt + s->cap_output) * sizeof *s->sequence);
    s->one.k = malloc(vd_model_k_row_bytes(model));
    s->one.v = malloc(vd_model_v_row_bytes(model));
    if (!s->sequence || !s->one.k || !s->one.v)
        return vd_error_set(err, VD_ENOMEM, "no memory for an answer of %u tokens", s->cap_output);
    memcpy(s->sequence, s->job.prompt, q->n_prompt * sizeof *s->sequence);
    s->one.output = s->one.seq.output = s->sequence + q->n_prompt;
    s->one.seq.prompt = s->one.seq.sequence = s->sequence;
    return VD_OK;
}

/* Runs positions up to n_steps, with n_output tokens known. */
static enum vd_err run_to(struct vd_replay_stream *s, uint32_t n_output, uint32_t n_steps,
                          struct vd_error *err)
{
    struct vd_feed_seq *seq = &s->one.seq;
    s->one.graph.job.n_output = s->receipt.n_output = n_output;
    s->one.graph.job.n_steps = seq->n_steps = n_steps;
    enum vd_err e = vd_feed_run(&s->feed, &seq, 1, err);
    s->result.forward_ns = s->feed.forward_ns;
    s->result.sample_ns = s->feed.sample_ns;
    return e;
}

enum vd_err vd_replay_stream_open(struct vd_replay_stream **out_s, struct vd_ctx *ctx,
                                  struct vd_kv_pool *cache, const struct vd_hash *model_root,
                                  const struct vd_proof_job *job, struct vd_replay_result *out,
                                  struct vd_error *err)
{
    static const uint32_t no_token = 0;
    struct vd_replay_stream *s = calloc(1, sizeof *s);
    *out_s = NULL;
    if (!s)
        return vd_error_set(err, VD_ENOMEM, "no memory to follow a stream");
    describe(s, job);
    s->job.output = &no_token;
    s->one.grows = true;
    vd_feed_open(&s->feed, ctx, cache);
    enum vd_err e = vd_replay_one_open(&s->one, &s->feed, model_root, &s->job, &s->result, err);
    bool runs = e == VD_OK && s->result.verdict == VD_REPLAY_OK;
    if (runs) {
        s->one.seq.keep = true;
        e = allocate(s, err);
    }
    if (runs && e == VD_OK)
        e = run_to(s, 0, s->receipt.request.n_prompt - 1, err);
    *out = s->result;
    if (runs && e == VD_OK)
        *out_s = s;
    else
        vd_replay_stream_close(s);
    return e;
}

static void report(struct vd_replay_stream *s, struct vd_replay_result *out)
{
    if (vd_commit_n_steps(s->one.commit))
        s->result.commit_root = vd_commit_root(s->one.commit);
    *out = s->result;
}

enum vd_err vd_replay_stream_add(struct vd_replay_stream *s, const uint32_t *token, size_t n,
                                 struct vd_replay_result *out, struct vd_error *err)
{
    struct vd_replay_one *r = &s->one;
    uint32_t p = s->receipt.request.n_prompt, g = r->graph.job.n_output, room = s->cap_output - g;
    uint32_t n_new = n < room ? (uint32_t)n : room;
    enum vd_err e = VD_OK;
    if (s->result.verdict == VD_REPLAY_OK && r->stop != VD_STOP_NONE)
        vd_replay_differ(r, VD_REPLAY_STOP, p + g - 2, r->stop, VD_STOP_NONE);
    if (s->result.verdict == VD_REPLAY_OK && n_new) {
        memcpy(s->sequence + p + g, token, n_new * sizeof *token);
        e = run_to(s, g + n_new, p + g + n_new - 1, err);
    }
    if (e == VD_OK && n_new < n) /* beyond the context; at max_tokens the model has stopped */
        vd_replay_differ(r, VD_REPLAY_STOP, p + s->cap_output - 2, r->stop, VD_STOP_NONE);
    report(s, out);
    return e;
}

void vd_replay_stream_prefix(const struct vd_replay_stream *s, const struct vd_receipt_prefix *prefix,
                             struct vd_replay_result *out)
{
    uint32_t p = s->receipt.request.n_prompt, g = s->one.graph.job.n_output;
    *out = s->result;
    if (out->verdict != VD_REPLAY_OK)
        return;
    struct vd_hash output = vd_commit_output_root(s->one.commit);
    if (g == 0 || prefix->n_output != g) {
        out->verdict = VD_REPLAY_STOP;
        out->step = g ? p + g - 2 : 0;
        return;
    }
    out->commit_root = vd_commit_root(s->one.commit);
    if (!vd_hash_eq(&prefix->output_root, &output) || !vd_hash_eq(&prefix->commit_root, &out->commit_root))
        out->verdict = VD_REPLAY_COMMIT;
}

enum vd_err vd_replay_stream_end(struct vd_replay_stream *s, enum vd_finish finish,
                                 const struct vd_hash *commit_root, struct vd_replay_result *out,
                                 struct vd_error *err)
{
    struct vd_replay_one *r = &s->one;
    uint32_t p = s->receipt.request.n_prompt, g = r->graph.job.n_output;
    uint32_t want = finish == VD_FINISH_CANCELLED ? VD_STOP_NONE : (uint32_t)finish;
    enum vd_err e = VD_OK;
    if (finish == VD_FINISH_FAIL && r->stop == VD_STOP_NONE && s->result.verdict == VD_REPLAY_OK) {
        if (g < s->cap_output)
            e = run_to(s, g, p + g, err);
        else
            vd_replay_differ(r, VD_REPLAY_STOP, p + g - 1, r->stop, want);
    }
    if (e == VD_OK && vd_commit_n_steps(r->commit) && r->stop != want)
        vd_replay_differ(r, VD_REPLAY_STOP, vd_commit_n_steps(r->commit) - 1, r->stop, want);
    report(s, out);
    if (e == VD_OK && out->verdict == VD_REPLAY_OK && !vd_hash_eq(&out->commit_root, commit_root))
        vd_replay_differ(r, VD_REPLAY_COMMIT, 0, 0, 0);
    report(s, out);
    return e;
}

void vd_replay_stream_close(struct vd_replay_stream *s)
{
    if (!s)
        return;
    vd_replay_one_close(&s->one);
    vd_feed_close(&s->feed);
    free(s->sequence);
    free(s->one.k);
    free(s->one.v);
    free(s);
}
