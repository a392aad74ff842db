/* Many rows: threads share tiles of rows (see vd_forward.c). */
#include "vd_forward_impl.h"

/* From the residual rows of a tile to its stored K and V rows, and its queries if they are wanted. */
static void tile_qkv(struct vd_ctx *ctx, const struct rows *r, size_t layer, size_t t0, size_t t1,
                     struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    const struct vd_dims *dims = &m->dims;
    const struct vd_layer *l = &m->layers[layer];
    size_t n = t1 - t0, ld = ctx->ld_qkv;
    float *q = r->qkv + t0 * ld, *k = q + dims->q_cols, *v = k + dims->k_cols;
    struct vd_kern_rhs rhs =
        vd_fw_norm_quant(m, l->qkv_forms, r->x + t0 * dims->d, l->attn_norm, 0, n, buf->h, &buf->act);
    if (vd_fw_wants_q(ctx, layer)) {
        m->kern->matmul(&l->q, 0, dims->q_cols, &rhs, 0, n, q, ld, buf->scratch);
        vd_fw_bias(m, l->q_bias, 0, dims->q_cols, q, ld, n);
    }
    m->kern->matmul(&l->k, 0, dims->k_cols, &rhs, 0, n, k, ld, buf->scratch);
    vd_fw_bias(m, l->k_bias, 0, dims->k_cols, k, ld, n);
    m->kern->matmul(&l->v, 0, dims->k_cols, &rhs, 0, n, v, ld, buf->scratch);
    vd_fw_bias(m, l->v_bias, 0, dims->k_cols, v, ld, n);
    for (size_t g = 0; g < dims->n_kv; g++)
        vd_fw_put_kv(ctx, r, layer, g, t0, t1);
}

static void tile_attend(struct vd_ctx *ctx, const struct rows *r, size_t layer, size_t t0, size_t t1,
                        struct thread_buf *buf)
{
    for (size_t a = t0, b; a < t1; a = b) {
        for (b = a + 1; b < t1 && r->row[b].kv == r->row[a].kv; b++)
            ;
        for (size_t g = 0; g < ctx->m->dims.n_kv; g++)
            vd_fw_attend(ctx, r, layer, g, a, b, buf);
    }
}

/* buf->h = w times the rows of `in`. */
static void tile_product(const struct vd_model *m, const struct vd_kern_mat *w, unsigned forms,
                         const float *in, size_t ld_in, size_t n, struct thread_buf *buf)
{
    size_t d = m->dims.d;
    struct vd_kern_rhs rhs = vd_fw_quant(m, forms, in, ld_in, w->cols, 0, n, &buf->act);
    m->kern->matmul(w, 0, d, &rhs, 0, n, buf->h, d, buf->scratch);
}

/* The feed-forward of the rows x into buf->h. */
static void tile_feed_forward(const struct vd_model *m, const struct vd_layer *l, const float *x, size_t n,
                              struct thread_buf *buf)
{
    size_t ff = m->dims.ff;
    struct vd_kern_rhs rhs = vd_fw_norm_quant(m, l->ff_forms, x, l->ffn_norm, 0, n, buf->h, &buf->act);
    for (size_t f = 0; f < ff; f += FF_STEP)
        vd_fw_up(m, l, &rhs, f, vd_fw_min(f + FF_STEP, ff), n, buf->gate, buf->up, FF_STEP, f, buf->scratch);
    tile_product(m, &l->down, l->down_forms, buf->gate, ff, n, buf);
}

static void tile_rest(struct vd_ctx *ctx, const struct rows *r, size_t layer, size_t t0, size_t t1,
                      struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    const struct vd_layer *l = &m->layers[layer];
    float *x = r->x + t0 * m->dims.d;
    size_t n = t1 - t0, ld = ctx->ld_qkv;
    tile_attend(ctx, r, layer, t0, t1, buf);
    tile_product(m, &l->o, l->o_forms, r->qkv + t0 * ld, ld, n, buf);
    vd_fw_add_rows(m, vd_fw_end_of_attn(l), buf->h, n, x);
    tile_feed_forward(m, l, x, n, buf);
    vd_fw_add_rows(m, vd_fw_end_of_ffn(l), buf->h, n, x);
}

/* Dynamic shares, the last rows first: they attend to the most positions. */
static bool next_tile(struct vd_team *team, size_t n, size_t *t0, size_t *t1)
{
    size_t n_tiles = (n + TILE_ROWS - 1) / TILE_ROWS, i = vd_team_next(team);
    if (i >= n_tiles)
        return false;
    *t0 = (n_tiles - 1 - i) * TILE_ROWS;
    *t1 = vd_fw_min(*t0 + TILE_ROWS, n);
    return true;
}

static void many_last(struct vd_ctx *ctx, struct vd_team *team, unsigned thread, struct thread_buf *buf)
{
    size_t t0, t1, n_layers = ctx->m->dims.n_layers;
    while (next_tile(team, ctx->last->n, &t0, &t1)) {
        for (size_t i = t0; ctx->last == &ctx->subset && i < t1; i++)
            vd_fw_gather_row(ctx, i);
        tile_rest(ctx, ctx->last, n_layers - 1, t0, t1, buf);
        if (ctx->tap)
            vd_fw_tell(ctx, ctx->last, n_layers, true, t0, t1, thread);
    }
    if (ctx->tap)
        vd_fw_tell_unwanted(ctx, team, thread);
}

void vd_fw_many_rows(void *arg, struct vd_team *team, unsigned thread)
{
    struct vd_ctx *ctx = arg;
    struct thread_buf *buf = &ctx->thread[thread];
    size_t n_layers = ctx->m->dims.n_layers, t0, t1;
    const struct rows *r = &ctx->all;
    while (next_tile(team, r->n, &t0, &t1)) {
        for (size_t t = t0; t < t1; t++)
            vd_fw_embed(ctx, t);
        if (ctx->tap)
            vd_fw_tell(ctx, r, 0, true, t0, t1, thread);
        tile_qkv(ctx, r, 0, t0, t1, buf);
    }
    vd_team_barrier(team);
    for (size_t layer = 0; layer + 1 < n_layers; layer++) {
        while (next_tile(team, r->n, &t0, &t1)) {
            tile_rest(ctx, r, layer, t0, t1, buf);
            if (ctx->tap)
                vd_fw_tell(ctx, r, layer + 1, true, t0, t1, thread);
            tile_qkv(ctx, r, layer + 1, t0, t1, buf);
        }
        vd_fw_look_for_cancel(ctx, thread, layer);
        vd_team_barrier(team);
        if (vd_fw_is_cancelled(ctx, layer))
            return;
    }
    many_last(ctx, team, thread, buf);
    vd_fw_head(ctx, team, thread, buf);
}
