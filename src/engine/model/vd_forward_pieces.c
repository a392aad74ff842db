/* The pieces that both shapes of a forward pass share. They work on ranges of rows and know nothing of
 * threads, but for the head, whose product is shared by rows of the vocabulary in both. */
#include "vd_forward_impl.h"

enum {
    HEAD_STEP = 256, /* logits of a task */
};

void vd_fw_norm_quant(const struct vd_ctx *ctx, const float *x, const float *w, size_t n, float *h, void *act)
{
    const struct vd_kern *k = ctx->m->kern;
    size_t d = ctx->m->dims.d;
    for (size_t t = 0; t < n; t++)
        k->rmsnorm(x + t * d, w, d, ctx->m->program.eps, h + t * d);
    k->act_quant(h, d, d, 0, n, act);
}

void vd_fw_put_kv(const struct vd_ctx *ctx, const struct rows *r, size_t layer, size_t g, size_t t0,
                  size_t t1)
{
    const struct vd_model *m = ctx->m;
    const struct vd_dims *dims = &m->dims;
    size_t offset = vd_model_chunk_offset(m, layer, g);
    for (size_t t = t0; t < t1; t++) {
        const struct row *row = &r->row[t];
        float *k = r->qkv + t * ctx->ld_qkv + dims->q_cols + g * dims->hd;
        uint8_t *page = (uint8_t *)(uintptr_t)row->pages[row->pos / VD_KV_PAGE_POS];
        m->kern->rope(k, 1, dims->hd, r->rope + t * 2 * dims->n_pairs, dims->n_pairs, m->rope_halves);
        m->kern->kv_put(page + offset, dims->hd, row->pos % VD_KV_PAGE_POS, k, k + dims->k_cols);
    }
}

size_t vd_fw_queries(const struct vd_ctx *ctx, const struct rows *r, size_t g, size_t t0, size_t t1,
                     bool rotate, struct vd_kern_query *query)
{
    const struct vd_model *m = ctx->m;
    const struct vd_dims *dims = &m->dims;
    size_t group = dims->n_heads / dims->n_kv, n = 0;
    for (size_t t = t0; t < t1; t++) {
        float *q = r->qkv + t * ctx->ld_qkv + g * group * dims->hd;
        if (rotate)
            m->kern->rope(q, group, dims->hd, r->rope + t * 2 * dims->n_pairs, dims->n_pairs, m->rope_halves);
        for (size_t h = 0; h < group; h++, q += dims->hd)
            query[n++] = (struct vd_kern_query){q, q, 0, (size_t)r->row[t].pos + 1};
    }
    return n;
}

void vd_fw_attend(struct vd_ctx *ctx, const struct rows *r, size_t layer, size_t g, size_t t0, size_t t1,
                  struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    struct vd_kern_kv kv = {r->row[t0].pages, vd_model_chunk_offset(m, layer, g), m->dims.hd};
    size_t n = vd_fw_queries(ctx, r, g, t0, t1, true, buf->query);
    m->kern->attn(&kv, vd_fw_score(m), buf->query, n, buf->scratch);
}

void vd_fw_tell(const struct vd_ctx *ctx, const struct rows *r, size_t unit, bool with_x, size_t t0,
                size_t t1, unsigned thread)
{
    const struct vd_tap *tap = ctx->tap;
    const struct thread_buf *buf = &ctx->thread[thread];
    for (size_t t = t0; t < t1; t++) {
        const struct row *row = &r->row[t];
        const float *x = with_x ? r->x + t * ctx->m->dims.d : NULL;
        if (unit == 0) {
            tap->row(tap->arg, row->source, 0, NULL, NULL, x, thread);
            continue;
        }
        vd_model_read_rows(ctx->m, row->pages[row->pos / VD_KV_PAGE_POS], unit - 1, row->pos % VD_KV_PAGE_POS,
                           buf->k, buf->v);
        tap->row(tap->arg, row->source, (uint32_t)unit, buf->k, buf->v, x, thread);
    }
}

void vd_fw_tell_unwanted(const struct vd_ctx *ctx, const struct vd_team *team, unsigned thread)
{
    for (size_t t = thread; t < ctx->all.n; t += vd_team_threads(team))
        if (ctx->hidden_slot[t] == SIZE_MAX)
            vd_fw_tell(ctx, &ctx->all, ctx->m->dims.n_layers, false, t, t + 1, thread);
}

void vd_fw_embed(const struct vd_ctx *ctx, size_t t)
{
    const struct vd_model *m = ctx->m;
    const struct vd_dims *dims = &m->dims;
    const struct rows *r = &ctx->all;
    m->kern->embed_row(m->tensors[0].shape.type, dims->d, m->tensors[0].p, ctx->call[t].token,
                       r->x + t * dims->d);
    m->kern->rope_table(r->row[t].pos, m->program.rope_steps[0], dims->n_pairs,
                        r->rope + t * 2 * dims->n_pairs);
}

void vd_fw_gather(const struct vd_ctx *ctx, size_t i)
{
    const struct vd_dims *dims = &ctx->m->dims;
    const struct rows *a = &ctx->all, *l = &ctx->subset;
    size_t t = l->row[i].source;
    memcpy(l->x + i * dims->d, a->x + t * dims->d, dims->d * sizeof(float));
    memcpy(l->qkv + i * ctx->ld_qkv, a->qkv + t * ctx->ld_qkv, dims->q_cols * sizeof(float));
    memcpy(l->rope + i * 2 * dims->n_pairs, a->rope + t * 2 * dims->n_pairs,
           2 * dims->n_pairs * sizeof(float));
}

bool vd_fw_wants_q(const struct vd_ctx *ctx, size_t layer)
{
    return layer + 1 < ctx->m->dims.n_layers || ctx->last->n > 0;
}

/* Norm and quantisation of the rows [t0, t1) that want logits, to rows [0, t1 - t0) of h and act. */
static void head_norm_quant(const struct vd_ctx *ctx, size_t t0, size_t t1, float *h)
{
    const struct vd_model *m = ctx->m;
    size_t d = m->dims.d;
    for (size_t t = t0; t < t1; t++)
        m->kern->rmsnorm(ctx->last->x + ctx->head.source[t] * d, m->output_norm, d, m->program.eps,
                         h + t * d);
}

void vd_fw_head(struct vd_ctx *ctx, struct vd_team *team, struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    struct head *hd = &ctx->head;
    size_t d = m->dims.d, vocab = m->dims.vocab, n_steps = (vocab + HEAD_STEP - 1) / HEAD_STEP, i;
    struct vd_kern_rhs rhs = {.act = hd->act, .x = hd->h, .ldx = d};
    vd_team_barrier(team); /* the last layer's rows */
    if (hd->n == 0)
        return;
    if (hd->n <= REDUNDANT_ROWS) {
        head_norm_quant(ctx, 0, hd->n, buf->h);
        m->kern->act_quant(buf->h, d, d, 0, hd->n, buf->act);
        rhs = (struct vd_kern_rhs){.act = buf->act, .x = buf->h, .ldx = d};
    } else {
        while ((i = vd_team_next(team) * VD_KERN_TOKS) < hd->n) {
            size_t end = vd_fw_min(i + VD_KERN_TOKS, hd->n);
            head_norm_quant(ctx, i, end, hd->h);
            m->kern->act_quant(hd->h, d, d, i, end, hd->act);
        }
        vd_team_barrier(team);
    }
    while ((i = vd_team_next(team)) < n_steps)
        m->kern->matmul(&m->head, i * HEAD_STEP, vd_fw_min((i + 1) * HEAD_STEP, vocab), &rhs, 0, hd->n,
                        hd->logits, vocab, buf->scratch);
}
