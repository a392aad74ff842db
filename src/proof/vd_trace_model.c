/* The engine as a trace's source: its tap gives the rows, its logits the tokens, the mapped file the weights.
 */
#include "vd_trace_model.h"

#include "vd_embed.h"
#include "vd_feed.h"

#include <stdlib.h>

struct vd_trace_model {
    struct vd_model *model;
    struct vd_graph graph;
    struct vd_feed feed;
    struct vd_feed_seq seq;
    const struct vd_trace_sink *sink; /* of the running call */
    struct vd_embed *embed;           /* of the running call, if the result is a vector */
    uint8_t *k, *v;                   /* one step's rows */
    struct vd_trace *trace;
};

static void on_tap(void *arg, uint32_t step, uint32_t unit, const struct vd_graph_rows *rows)
{
    struct vd_trace_model *t = arg;
    t->sink->row(t->sink->arg, step, unit, rows);
}

static void on_row(void *arg, struct vd_kv *kv, uint32_t step, size_t ctx_row, uint32_t token,
                   enum vd_stop stop, const struct vd_automaton_state *mask)
{
    struct vd_trace_model *t = arg;
    bool head = vd_graph_has_head(&t->graph, step);
    if (t->embed && vd_graph_is_pooled(&t->graph, step))
        vd_embed_add(t->embed, vd_ctx_hidden(t->feed.ctx, ctx_row));
    if (head && t->embed) {
        bool last = step + 1 == t->graph.job.n_prompt;
        t->sink->pooled(t->sink->arg, step, vd_embed_sum(t->embed), last ? vd_embed_vector(t->embed) : NULL);
    } else if (head) {
        t->sink->token(t->sink->arg, step, token, stop);
    }
    if (t->sink->done)
        t->sink->done(t->sink->arg, step);
}

static enum vd_err source_run(void *arg, uint32_t n_steps, const struct vd_trace_sink *sink,
                              struct vd_error *err)
{
    struct vd_trace_model *t = arg;
    struct vd_feed_seq *seq = &t->seq;
    enum vd_err e = VD_OK;
    if (!t->feed.cache)
        return vd_error_set(err, VD_EUSE, "the trace has no cache to run %u steps in", n_steps);
    t->sink = sink;
    vd_feed_seq_reset(seq);
    seq->n_steps = n_steps;
    if (vd_graph_pools(&t->graph))
        e = vd_embed_create(&t->embed, t->model, t->graph.job.sampling.pooling, err);
    if (e == VD_OK)
        e = vd_feed_run(&t->feed, &seq, 1, err);
    vd_embed_free(t->embed);
    t->embed = NULL;
    return e;
}

static void source_rows(void *arg, uint32_t step, uint32_t unit, struct vd_graph_rows *out)
{
    struct vd_trace_model *t = arg;
    vd_kv_read(t->seq.kv, unit - 1, step, t->k, t->v);
    *out = (struct vd_graph_rows){.k = t->k, .v = t->v};
}

static void source_rest(void *arg)
{
    vd_feed_seq_reset(&((struct vd_trace_model *)arg)->seq);
}

static struct vd_bytes source_weight_row(void *arg, uint32_t tensor, uint32_t row)
{
    return vd_model_tensor_bytes(((struct vd_trace_model *)arg)->model, tensor, row);
}

static enum vd_err source_weight_proof(void *arg, uint32_t tensor, uint32_t row, uint32_t part,
                                       struct vd_weight_proof *out, struct vd_error *err)
{
    struct vd_trace_model *t = arg;
    return vd_model_weight_proof(t->model, vd_ctx_pool(t->feed.ctx), tensor, row, part, out, err);
}

static struct vd_bytes source_text(void *arg, uint32_t id)
{
    return vd_texts_of(((struct vd_trace_model *)arg)->seq.texts, id);
}

static void source_text_proof(void *arg, uint32_t id, struct vd_hash *proof)
{
    vd_texts_prove(((struct vd_trace_model *)arg)->seq.texts, id, proof);
}

enum vd_err vd_trace_model_open(struct vd_trace_model **out, struct vd_model *model, struct vd_ctx *ctx,
                                struct vd_kv_pool *cache, const struct vd_proof_job *job,
                                struct vd_error *err)
{
    return vd_trace_model_open_within(out, model, ctx, cache, job, VD_TRACE_KEEP_BYTES, err);
}

enum vd_err vd_trace_model_open_within(struct vd_trace_model **out, struct vd_model *model,
                                       struct vd_ctx *ctx, struct vd_kv_pool *cache,
                                       const struct vd_proof_job *job, uint64_t keep_bytes,
                                       struct vd_error *err)
{
    struct vd_graph graph;
    if (!vd_feed_graph(&graph, model, job))
        return vd_error_set(err, VD_EUSE, "the model cannot run this job (its lengths do not fit)");
    struct vd_trace_model *t = calloc(1, sizeof *t);
    if (!t)
        return vd_error_set(err, VD_ENOMEM, "no memory for a trace");
    t->model = model;
    t->graph = graph;
    t->seq = (struct vd_feed_seq){.graph = &t->graph,
                                  .prompt = job->prompt,
                                  .output = job->output,
                                  .keep = true, /* until `rest` */
                                  .arg = t,
                                  .row = on_row,
                                  .tap = on_tap};
    bool fits = true;
    enum vd_err e = VD_OK;
    vd_feed_open(&t->feed, ctx, cache);
    t->feed.lean = true;
    t->k = malloc(vd_model_k_row_bytes(model));
    t->v = malloc(vd_model_v_row_bytes(model));
    if (e == VD_OK && (!t->k || !t->v))
        e = vd_error_set(err, VD_ENOMEM, "no memory for a trace");
    if (e == VD_OK)
        e = vd_feed_controls(&t->feed, &t->seq, job, &fits, err);
    if (e == VD_OK && !fits)
        e = vd_error_set(err, VD_EUSE, "the job's tables are not the request's, or not for this model");
    if (e != VD_OK) {
        vd_trace_model_close(t);
        return e;
    }
    struct vd_trace_source source = {.arg = t,
                                     .run = source_run,
                                     .rows = source_rows,
                                     .rest = source_rest,
                                     .in_flight = (uint32_t)vd_ctx_max_rows(ctx),
                                     .keep_bytes = keep_bytes,
                                     .weight_row = source_weight_row,
                                     .weight_proof = source_weight_proof,
                                     .controls = job->controls,
                                     .text = source_text,
                                     .text_proof = source_text_proof};
    e = vd_trace_create(&t->trace, &t->graph, job->prompt, job->output, job->job_salt, &source, err);
    if (e != VD_OK) {
        vd_trace_model_close(t);
        return e;
    }
    *out = t;
    return VD_OK;
}

void vd_trace_model_use(struct vd_trace_model *t, struct vd_kv_pool *cache)
{
    vd_feed_seq_reset(&t->seq);
    t->feed.cache = cache;
}

void vd_trace_model_close(struct vd_trace_model *t)
{
    if (!t)
        return;
    vd_trace_destroy(t->trace);
    vd_feed_seq_close(&t->seq);
    vd_feed_close(&t->feed);
    free(t->k);
    free(t->v);
    free(t);
}

struct vd_trace *vd_trace_model_trace(struct vd_trace_model *t)
{
    return t->trace;
}
