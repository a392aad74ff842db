/* The engine's batches, the worker's own commitment code, and a comparison. Whatever differs first in the
 * order of steps is reported; with teacher forcing everything behind it is still what the model says of the
 * receipt's tokens, so the honest commit root is known as well. */
#include "vd_replay.h"

#include "vd_clock.h"
#include "vd_commit.h"
#include "vd_feed.h"

#include <stdlib.h>

const char *vd_replay_text(enum vd_replay_verdict v)
{
    static const char *const text[] = {
#define X(code, words) words,
        VD_REPLAY_LIST(X)
#undef X
    };
    return (unsigned)v < sizeof text / sizeof text[0] ? text[v] : "?";
}

struct replay {
    const struct vd_proof_job *job;
    struct vd_graph graph;
    struct vd_feed feed;
    struct vd_commit commit;
    uint32_t n_left; /* leaves of the left half of the commit tree */
    struct vd_merkle_stream half[2];
    struct vd_replay_result *out;
    uint8_t *k, *v;
};

static void differ(struct replay *r, enum vd_replay_verdict v, uint32_t step, uint32_t want, uint32_t got)
{
    if (r->out->verdict != VD_REPLAY_OK)
        return;
    r->out->verdict = v;
    r->out->step = step;
    r->out->want = want;
    r->out->got = got;
}

/* The model's token and stop state against the receipt's. */
static void compare(struct replay *r, uint32_t step, uint32_t token, enum vd_stop stop)
{
    const struct vd_graph_job *j = &r->graph.job;
    uint32_t index = step + 1 - j->n_prompt, want = VD_STOP_NONE;
    if (step == j->n_steps - 1 && r->job->receipt->finish != VD_FINISH_CANCELLED)
        want = (uint32_t)r->job->receipt->finish;
    if (index < j->n_output && token != r->job->output[index])
        differ(r, VD_REPLAY_TOKEN, step, token, r->job->output[index]);
    if ((uint32_t)stop != want)
        differ(r, VD_REPLAY_STOP, step, stop, want);
}

static void on_row(void *arg, struct vd_kv *kv, uint32_t step, size_t ctx_row, uint32_t token,
                   enum vd_stop stop, const struct vd_automaton_state *mask)
{
    struct replay *r = arg;
    const float *x = NULL;
    uint64_t start = vd_clock_ns();
    if (vd_graph_has_head(&r->graph, step)) {
        x = vd_ctx_hidden(r->feed.ctx, ctx_row);
        compare(r, step, token, stop);
    }
    vd_kv_read(kv, r->graph.program->n_layers - 1, step, r->k, r->v);
    vd_commit_add(&r->commit, r->k, r->v, x, token, stop, mask);
    vd_merkle_stream_add(&r->half[step >= r->n_left], &r->commit.leaf);
    r->out->hash_ns += vd_clock_ns() - start;
}

static enum vd_err run(struct replay *r, struct vd_ctx *ctx, struct vd_kv_pool *cache, struct vd_error *err)
{
    const struct vd_request *q = &r->job->receipt->request;
    bool fits;
    r->feed = (struct vd_feed){.ctx = ctx,
                               .cache = cache,
                               .graph = &r->graph,
                               .prompt = r->job->prompt,
                               .output = r->job->output,
                               .arg = r,
                               .row = on_row};
    enum vd_err e = vd_feed_open_controls(&r->feed, vd_ctx_model(ctx), r->job, &fits, err);
    if (e != VD_OK)
        return e;
    if (!fits) {
        r->out->verdict = VD_REPLAY_JOB;
        return VD_OK;
    }
    vd_commit_init(&r->commit, r->graph.program, q->n_prompt, q->max_tokens, &q->sampling, r->job->job_salt);
    for (r->n_left = 1; 2 * r->n_left < r->graph.job.n_steps;)
        r->n_left *= 2;
    r->n_left = r->graph.job.n_steps > 1 ? r->n_left : 0; /* a leaf has no halves, but it has two parts */
    e = vd_feed_run(&r->feed, r->graph.job.n_steps, err);
    if (e != VD_OK)
        return e;
    r->out->forward_ns = r->feed.forward_ns;
    r->out->sample_ns = r->feed.sample_ns;
    r->out->commit_root = vd_commit_root(&r->commit);
    for (int i = 0; i < 2; i++)
        r->out->half[i] = r->n_left ? vd_merkle_stream_root(&r->half[i]) : r->commit.unit[i];
    if (!vd_hash_eq(&r->out->commit_root, &r->job->receipt->commit_root))
        differ(r, VD_REPLAY_COMMIT, 0, 0, 0);
    return VD_OK;
}

enum vd_err vd_replay(struct vd_ctx *ctx, struct vd_kv_pool *cache, const struct vd_hash *model_root,
                      const struct vd_proof_job *job, struct vd_replay_result *out, struct vd_error *err)
{
    const struct vd_model *model = vd_ctx_model(ctx);
    struct replay r = {.job = job, .out = out};
    *out = (struct vd_replay_result){.verdict = VD_REPLAY_OK};
    if (!vd_hash_eq(model_root, &job->receipt->request.model_root))
        out->verdict = VD_REPLAY_MODEL;
    else if (!vd_feed_graph(&r.graph, model, job))
        out->verdict = VD_REPLAY_JOB;
    if (out->verdict != VD_REPLAY_OK)
        return VD_OK;
    r.k = malloc(vd_model_k_row_bytes(model));
    r.v = malloc(vd_model_v_row_bytes(model));
    enum vd_err e =
        r.k && r.v ? run(&r, ctx, cache, err) : vd_error_set(err, VD_ENOMEM, "no memory for a replay");
    vd_feed_close_controls(&r.feed);
    free(r.k);
    free(r.v);
    return e;
}
