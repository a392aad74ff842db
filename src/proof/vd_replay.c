/* The engine's batches, the worker's own commitment code, and a comparison. Whatever differs first in the
 * order of steps is reported; with teacher forcing everything behind it is still what the model says of the
 * receipt's tokens, so the honest commit root is known as well. */
#include "vd_clock.h"
#include "vd_replay_impl.h"

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

size_t vd_replay_rows(const struct vd_model *model, size_t rows)
{
    const struct vd_program *p = vd_model_program(model);
    return vd_program_is_encoder(p) && p->ctx > rows ? p->ctx : rows;
}

void vd_replay_differ(struct vd_replay_one *r, enum vd_replay_verdict v, uint32_t step, uint32_t want,
                      uint32_t got)
{
    if (r->out->verdict != VD_REPLAY_OK)
        return;
    r->out->verdict = v;
    r->out->step = step;
    r->out->want = want;
    r->out->got = got;
}

/* The model's token and stop state against the receipt's. How it ends is not known of an answer that is
 * being made. */
static void compare(struct vd_replay_one *r, uint32_t step, uint32_t token, enum vd_stop stop)
{
    const struct vd_graph_job *j = &r->graph.job;
    uint32_t index = step + 1 - j->n_prompt, want = VD_STOP_NONE;
    if (index < j->n_output && token != r->output[index])
        vd_replay_differ(r, VD_REPLAY_TOKEN, step, token, r->output[index]);
    if (step == j->n_steps - 1 && !r->finish) {
        r->stop = (uint32_t)stop;
        return;
    }
    if (step == j->n_steps - 1 && r->finish != VD_FINISH_CANCELLED)
        want = r->finish;
    if ((uint32_t)stop != want)
        vd_replay_differ(r, VD_REPLAY_STOP, step, stop, want);
}

/* The model's vector against the receipt's: the first element that differs. */
static void compare_vector(struct vd_replay_one *r, uint32_t step, const float *vector)
{
    for (uint32_t i = 0; i < r->graph.program->width; i++)
        if (vd_f32_bits(vector[i]) != r->output[i]) {
            vd_replay_differ(r, VD_REPLAY_VECTOR, step, vd_f32_bits(vector[i]), r->output[i]);
            return;
        }
}

static void pool_row(struct vd_replay_one *r, uint32_t step, const struct vd_graph_rows *rows)
{
    const float *sum = NULL, *vector = NULL;
    if (vd_graph_is_pooled(&r->graph, step))
        vd_embed_add(r->embed, rows->x);
    if (vd_graph_has_head(&r->graph, step))
        sum = vd_embed_sum(r->embed);
    if (step + 1 == r->graph.job.n_steps) {
        vector = vd_embed_vector(r->embed);
        compare_vector(r, step, vector);
    }
    if (!r->part)
        vd_commit_add_vector(r->commit, rows, sum, vector);
}

static void on_row(void *arg, struct vd_kv *kv, uint32_t step, size_t ctx_row, uint32_t token,
                   enum vd_stop stop, const struct vd_automaton_state *mask)
{
    struct vd_replay_one *r = arg;
    struct vd_graph_rows rows = {.k = r->k, .v = r->v};
    uint64_t start = vd_clock_ns();
    if (vd_graph_has_row(&r->graph, step) && step >= r->seq.first_head)
        rows.x = vd_ctx_hidden(r->ctx, ctx_row);
    if (!r->part)
        vd_kv_read(kv, r->graph.program->n_layers - 1, step, r->k, r->v);
    if (r->embed) {
        pool_row(r, step, &rows);
    } else {
        if (rows.x)
            compare(r, step, token, stop);
        if (!r->part)
            vd_commit_add(r->commit, &rows, token, stop, mask);
    }
    r->out->hash_ns += vd_clock_ns() - start;
}

enum vd_err vd_replay_one_open(struct vd_replay_one *r, struct vd_feed *feed,
                               const struct vd_hash *model_root, const struct vd_proof_job *job,
                               struct vd_replay_result *out, struct vd_error *err)
{
    const struct vd_request *q = &job->receipt->request;
    bool fits = false;
    enum vd_err e = VD_OK;
    *out = (struct vd_replay_result){.verdict = VD_REPLAY_OK};
    r->job = job;
    r->output = job->output;
    r->finish = r->grows ? 0 : job->receipt->finish;
    r->ctx = feed->ctx;
    r->out = out;
    if (!vd_hash_eq(model_root, &q->model_root)) {
        out->verdict = VD_REPLAY_MODEL;
        return VD_OK;
    }
    r->seq = (struct vd_feed_seq){
        .graph = &r->graph, .prompt = job->prompt, .output = job->output, .arg = r, .row = on_row};
    if (vd_feed_graph(&r->graph, vd_ctx_model(feed->ctx), job))
        e = vd_feed_controls(feed, &r->seq, job, &fits, err);
    if (e != VD_OK)
        return e;
    if (!fits) {
        out->verdict = VD_REPLAY_JOB;
        return VD_OK;
    }
    if (vd_graph_pools(&r->graph))
        e = vd_embed_create(&r->embed, vd_ctx_model(feed->ctx), q->sampling.pooling, err);
    if (e != VD_OK)
        return e;
    r->seq.n_steps = r->graph.job.n_steps;
    return vd_commit_open(&r->commit, r->graph.program, q, r->grows ? UINT32_MAX : r->graph.job.n_steps,
                          job->job_salt, err);
}

void vd_replay_one_close(struct vd_replay_one *r)
{
    vd_feed_seq_close(&r->seq);
    vd_embed_free(r->embed);
    vd_commit_close(r->commit);
    r->embed = NULL;
    r->commit = NULL;
}

static void conclude(struct vd_replay_one *r)
{
    r->out->commit_root = vd_commit_root(r->commit);
    vd_commit_halves(r->commit, r->out->half);
    if (!vd_hash_eq(&r->out->commit_root, &r->job->receipt->commit_root))
        vd_replay_differ(r, VD_REPLAY_COMMIT, 0, 0, 0);
}

/* ---- many ---- */

struct many {
    struct vd_feed feed;
    struct vd_replay_one *one;
    struct vd_feed_seq **seq; /* of those that the model can run */
    size_t n, n_seqs;
    uint8_t *k, *v;
};

static enum vd_err open_many(struct many *m, struct vd_ctx *ctx, struct vd_kv_pool *cache, size_t n,
                             struct vd_error *err)
{
    const struct vd_model *model = vd_ctx_model(ctx);
    *m = (struct many){.n = n};
    vd_feed_open(&m->feed, ctx, cache);
    m->one = calloc(n, sizeof *m->one);
    m->seq = calloc(n, sizeof(void *));
    m->k = malloc(vd_model_k_row_bytes(model));
    m->v = malloc(vd_model_v_row_bytes(model));
    return m->one && m->seq && m->k && m->v ? VD_OK
                                            : vd_error_set(err, VD_ENOMEM, "no memory for %zu replays", n);
}

static void close_many(struct many *m)
{
    for (size_t i = 0; m->one && i < m->n; i++)
        vd_replay_one_close(&m->one[i]);
    vd_feed_close(&m->feed);
    free(m->one);
    free(m->seq);
    free(m->k);
    free(m->v);
}

static enum vd_err add(struct many *m, size_t i, const struct vd_hash *model_root,
                       const struct vd_proof_job *job, struct vd_replay_result *out, struct vd_error *err)
{
    struct vd_replay_one *r = &m->one[i];
    enum vd_err e = vd_replay_one_open(r, &m->feed, model_root, job, out, err);
    r->k = m->k;
    r->v = m->v;
    if (e == VD_OK && out->verdict == VD_REPLAY_OK)
        m->seq[m->n_seqs++] = &r->seq;
    return e;
}

static enum vd_err run_many(struct many *m, struct vd_error *err)
{
    vd_feed_plan(m->seq, m->n_seqs);
    enum vd_err e = vd_feed_run(&m->feed, m->seq, m->n_seqs, err);
    for (size_t i = 0; e == VD_OK && i < m->n_seqs; i++) {
        struct vd_replay_one *r = m->seq[i]->arg;
        r->out->forward_ns = m->feed.forward_ns;
        r->out->sample_ns = m->feed.sample_ns;
        r->out->n_shared = r->seq.n_shared;
        if (!r->part)
            conclude(r);
    }
    return e;
}

enum vd_err vd_replay_many(struct vd_ctx *ctx, struct vd_kv_pool *cache, const struct vd_hash *model_root,
                           const struct vd_proof_job *job, size_t n, struct vd_replay_result *out,
                           struct vd_error *err)
{
    struct many m;
    if (n == 0)
        return VD_OK;
    enum vd_err e = open_many(&m, ctx, cache, n, err);
    for (size_t i = 0; e == VD_OK && i < n; i++)
        e = add(&m, i, model_root, &job[i], &out[i], err);
    if (e == VD_OK)
        e = run_many(&m, err);
    close_many(&m);
    return e;
}

enum vd_err vd_replay(struct vd_ctx *ctx, struct vd_kv_pool *cache, const struct vd_hash *model_root,
                      const struct vd_proof_job *job, struct vd_replay_result *out, struct vd_error *err)
{
    return vd_replay_many(ctx, cache, model_root, job, 1, out, err);
}

enum vd_err vd_replay_part(struct vd_ctx *ctx, struct vd_kv_pool *cache, const struct vd_hash *model_root,
                           const struct vd_proof_job *job, uint32_t first, uint32_t last,
                           struct vd_replay_result *out, struct vd_error *err)
{
    uint32_t n_steps = vd_receipt_n_steps(job->receipt), n_prompt = job->receipt->request.n_prompt;
    struct many m;
    if (first > last || last >= n_steps || last + 1 < n_prompt)
        return vd_error_set(err, VD_EUSE, "%s %u..%u; this receipt's tokens are chosen at positions %u..%u",
                            last + 1 < n_prompt ? "nothing is chosen at positions"
                                                : "the receipt has not all of the positions",
                            first, last, n_prompt - 1, n_steps - 1);
    enum vd_err e = open_many(&m, ctx, cache, 1, err);
    if (e == VD_OK)
        e = add(&m, 0, model_root, job, out, err);
    if (e == VD_OK) {
        m.one[0].part = true;
        m.one[0].seq.first_head = m.one[0].embed ? 0 : first; /* all of a sum is needed */
        m.one[0].seq.n_steps = last + 1;
        e = run_many(&m, err);
    }
    close_many(&m);
    return e;
}
