/* A batch is as many positions as the context takes, and as many with logits as it takes; the bits do not
 * depend on it. */
#include "vd_feed.h"

#include "vd_clock.h"

#include <stdlib.h>

struct batch {
    struct vd_feed *feed;
    uint32_t first;
};

static void tap_row(void *arg, size_t row, uint32_t unit, const uint8_t *k, const uint8_t *v, const float *x,
                    unsigned thread)
{
    const struct batch *b = arg;
    b->feed->tap(b->feed->arg, b->first + (uint32_t)row, unit, k, v, x);
}

static size_t fill(const struct vd_feed *f, struct vd_kv *kv, uint32_t first, uint32_t n_steps,
                   struct vd_row *rows)
{
    size_t most = vd_ctx_max_rows(f->ctx), logits = vd_ctx_max_logits(f->ctx), n = 0;
    const struct vd_graph_job *j = &f->graph->job;
    for (uint32_t s = first; s < n_steps && n < most; s++) {
        bool head = vd_graph_has_head(f->graph, s);
        if (head && logits-- == 0)
            break;
        rows[n++] = (struct vd_row){.kv = kv,
                                    .pos = s,
                                    .token = s < j->n_prompt ? f->prompt[s] : f->output[s - j->n_prompt],
                                    .flags = head ? VD_ROW_LOGITS : 0};
    }
    return n;
}

static enum vd_err run(struct vd_feed *f, struct vd_kv *kv, uint32_t n_steps, struct vd_row *rows,
                       struct vd_error *err)
{
    struct batch b = {f, 0};
    struct vd_tap tap = {tap_row, &b};
    while (b.first < n_steps) {
        size_t n = fill(f, kv, b.first, n_steps, rows);
        uint64_t start = vd_clock_ns();
        enum vd_err e = vd_model_forward(f->ctx, rows, n, f->tap ? &tap : NULL, err);
        f->forward_ns += vd_clock_ns() - start;
        if (e != VD_OK)
            return e;
        for (size_t i = 0; i < n; i++)
            f->row(f->arg, kv, b.first + (uint32_t)i, i);
        b.first += (uint32_t)n;
    }
    return VD_OK;
}

enum vd_err vd_feed_run(struct vd_feed *f, uint32_t n_steps, struct vd_error *err)
{
    struct vd_kv *kv = NULL;
    struct vd_row *rows = malloc(vd_ctx_max_rows(f->ctx) * sizeof *rows);
    if (!rows)
        return vd_error_set(err, VD_ENOMEM, "no memory for a batch of rows");
    enum vd_err e = vd_kv_open(&kv, f->cache, err);
    if (e == VD_OK)
        e = run(f, kv, n_steps, rows, err);
    vd_kv_close(kv);
    free(rows);
    return e;
}

uint32_t vd_feed_choose(const struct vd_feed *f, struct vd_sampler *sampler, uint32_t step, size_t ctx_row)
{
    const struct vd_sampling *s = &f->graph->job.sampling;
    uint64_t r64 = vd_sample_r64(s->seed, s->choice, step + 1 - f->graph->job.n_prompt);
    return vd_sampler_choose(sampler, vd_model_kern(vd_ctx_model(f->ctx)), vd_ctx_logits(f->ctx, ctx_row), s,
                             r64);
}

bool vd_feed_graph(struct vd_graph *out, const struct vd_model *model, const struct vd_proof_job *job)
{
    const struct vd_request *q = &job->receipt->request;
    *out = (struct vd_graph){vd_model_program(model),
                             {.n_prompt = q->n_prompt,
                              .n_output = job->receipt->n_output,
                              .n_steps = vd_receipt_n_steps(job->receipt),
                              .max_tokens = q->max_tokens,
                              .sampling = q->sampling}};
    for (uint32_t i = 0; i < q->n_prompt; i++)
        if (job->prompt[i] >= out->program->vocab)
            return false;
    for (uint32_t i = 0; i < job->receipt->n_output; i++)
        if (job->output[i] >= out->program->vocab)
            return false;
    return vd_graph_valid(out);
}
