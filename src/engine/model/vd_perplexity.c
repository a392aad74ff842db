/* Chunks go through one context one after the other; of a chunk's rows only the counted ones want logits,
 * some at a time, since a row of logits is large. The softmax is computed as llama.cpp does: the row's
 * maximum is taken off, exp in binary32, the sum in binary64. */
#include "vd_perplexity.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

enum {
    PASS_ROWS = 512,
    PASS_LOGITS = 128,
};

struct measure {
    struct vd_ctx *ctx;
    struct vd_kv *kv;
    struct vd_row *rows; /* PASS_ROWS */
    const uint32_t *ids;
    size_t n_ids, n_ctx;
    int64_t bos;
    double nll, nll2;
    size_t n_counted;
};

static double log_prob(const float *logits, size_t vocab, uint32_t id)
{
    float max = logits[0];
    double sum = 0.0;
    for (size_t i = 1; i < vocab; i++)
        max = logits[i] > max ? logits[i] : max;
    for (size_t i = 0; i < vocab; i++)
        sum += (double)expf(logits[i] - max);
    return (double)(logits[id] - max) - log(sum);
}

struct log_prob_job {
    const struct measure *ms;
    const uint32_t *ids; /* of the pass's first row */
    double log_prob[PASS_ROWS];
};

static void log_prob_task(void *arg, size_t task, unsigned thread)
{
    struct log_prob_job *j = arg;
    const struct vd_model *m = vd_ctx_model(j->ms->ctx);
    if (j->ms->rows[task].flags)
        j->log_prob[task] =
            log_prob(vd_ctx_logits(j->ms->ctx, task), vd_model_program(m)->vocab, j->ids[task + 1]);
}

/* Positions [from, to) of a chunk whose ids begin at `ids`. */
static enum vd_err pass(struct measure *ms, const uint32_t *ids, size_t from, size_t to, struct vd_error *err)
{
    struct log_prob_job j = {.ms = ms, .ids = ids + from};
    size_t n = to - from, first = ms->n_ctx / 2;
    for (size_t i = 0; i < n; i++) {
        size_t pos = from + i;
        uint32_t token = pos == 0 && ms->bos >= 0 ? (uint32_t)ms->bos : ids[pos];
        bool counts = pos >= first && pos + 1 < ms->n_ctx;
        ms->rows[i] = (struct vd_row){ms->kv, (uint32_t)pos, token, counts ? VD_ROW_LOGITS : 0};
    }
    enum vd_err rc = vd_model_forward(ms->ctx, ms->rows, n, NULL, err);
    if (rc != VD_OK)
        return rc;
    vd_pool_run(vd_ctx_pool(ms->ctx), log_prob_task, &j, n);
    for (size_t i = 0; i < n; i++) {
        if (!ms->rows[i].flags)
            continue;
        ms->nll -= j.log_prob[i];
        ms->nll2 += j.log_prob[i] * j.log_prob[i];
        ms->n_counted++;
    }
    return VD_OK;
}

static enum vd_err chunk(struct measure *ms, const uint32_t *ids, struct vd_error *err)
{
    enum vd_err rc = VD_OK;
    size_t first = ms->n_ctx / 2, from = 0;
    vd_kv_truncate(ms->kv, 0);
    while (from < ms->n_ctx && rc == VD_OK) {
        size_t most = from < first ? PASS_ROWS : PASS_LOGITS, end = from < first ? first : ms->n_ctx;
        size_t to = from + most < end ? from + most : end;
        rc = pass(ms, ids, from, to, err);
        from = to;
    }
    return rc;
}

static enum vd_err check_input(const struct vd_model *m, size_t n_ids, size_t n_ctx, int64_t bos,
                               struct vd_error *err)
{
    const struct vd_program *p = vd_model_program(m);
    if (n_ctx < 4 || n_ctx % 2 || n_ctx > p->ctx)
        return vd_error_set(err, VD_EUSE, "a context of %zu; it must be even, at least 4 and at most %u",
                            n_ctx, p->ctx);
    if (n_ids < 2 * n_ctx)
        return vd_error_set(err, VD_EUSE, "%zu tokens are too few for a context of %zu; at least twice that",
                            n_ids, n_ctx);
    if (bos >= (int64_t)p->vocab)
        return vd_error_set(err, VD_EUSE, "the first token %lld is not below the vocabulary of %u",
                            (long long)bos, p->vocab);
    return VD_OK;
}

static void finish(const struct measure *ms, size_t n_chunks, struct vd_perplexity *out)
{
    double n = (double)ms->n_counted, mean = ms->nll / n, var = ms->nll2 / n - mean * mean;
    out->ppl = exp(mean);
    out->ppl_error = var > 0.0 ? sqrt(var / (n - 1.0)) * out->ppl : 0.0;
    out->n_chunks = n_chunks;
    out->n_counted = ms->n_counted;
}

enum vd_err vd_perplexity_measure(struct vd_perplexity *out, const struct vd_model *m, struct vd_pool *pool,
                                  const uint32_t *ids, size_t n_ids, size_t n_ctx, int64_t bos,
                                  size_t max_chunks, struct vd_error *err)
{
    struct measure ms = {.ids = ids, .n_ids = n_ids, .n_ctx = n_ctx, .bos = bos};
    struct vd_kv_pool *cache = NULL;
    size_t n_chunks = n_ids / n_ctx;
    if (max_chunks > 0 && max_chunks < n_chunks)
        n_chunks = max_chunks;
    enum vd_err rc = check_input(m, n_ids, n_ctx, bos, err);
    if (rc != VD_OK)
        return rc;
    ms.rows = calloc(PASS_ROWS, sizeof *ms.rows);
    if (!ms.rows)
        return vd_error_set(err, VD_ENOMEM, "no memory to measure perplexity");
    rc = vd_ctx_create(&ms.ctx, m, pool, PASS_ROWS, PASS_LOGITS, err);
    if (rc == VD_OK)
        rc = vd_kv_pool_create(&cache, m, SIZE_MAX, err);
    if (rc == VD_OK)
        rc = vd_kv_open(&ms.kv, cache, err);
    for (size_t i = 0; i < n_chunks && rc == VD_OK; i++)
        rc = chunk(&ms, ids + i * n_ctx, err);
    if (rc == VD_OK)
        finish(&ms, n_chunks, out);
    vd_kv_close(ms.kv);
    vd_kv_pool_destroy(cache);
    vd_ctx_destroy(ms.ctx);
    free(ms.rows);
    return rc;
}
