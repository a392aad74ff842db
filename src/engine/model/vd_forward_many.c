/* Many rows: threads share tiles of rows (see vd_forward.c). */
#include "vd_forward_impl.h"

/* y such that y[n_elem] is p[0]: a product writes element `row` of a token, we keep a window of the rows. By
 * way of an integer, since the pointer may leave the buffer. */
static float *moved_back(float *p, size_t n_elem)
{
    return (float *)((uintptr_t)p - n_elem * sizeof *p);
}

/* From the residual rows of a tile to its stored K and V rows, and its queries if they are wanted. */
static void tile_qkv(struct vd_ctx *ctx, const struct rows *r, size_t layer, size_t t0, size_t t1,
                     struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    const struct vd_dims *dims = &m->dims;
    const struct vd_layer *l = &m->layers[layer];
    size_t n = t1 - t0, ld = ctx->ld_qkv;
    float *q = r->qkv + t0 * ld, *k = q + dims->q_cols, *v = k + dims->k_cols;
    vd_fw_norm_quant(ctx, r->x + t0 * dims->d, l->attn_norm, n, buf->h, buf->act);
    struct vd_kern_rhs rhs = {.act = buf->act, .x = buf->h, .ldx = dims->d};
    if (vd_fw_wants_q(ctx, layer))
        m->kern->matmul(&l->q, 0, dims->q_cols, &rhs, 0, n, q, ld, buf->scratch);
    m->kern->matmul(&l->k, 0, dims->k_cols, &rhs, 0, n, k, ld, buf->scratch);
    m->kern->matmul(&l->v, 0, dims->k_cols, &rhs, 0, n, v, ld, buf->scratch);
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

/* x rows += w times the rows of `in`. */
static void tile_add_product(struct vd_ctx *ctx, const struct vd_kern_mat *w, const float *in, size_t ld_in,
                             float *x, size_t n, struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    size_t d = m->dims.d;
    m->kern->act_quant(in, ld_in, w->cols, 0, n, buf->act);
    struct vd_kern_rhs rhs = {.act = buf->act, .x = in, .ldx = ld_in};
    m->kern->matmul(w, 0, d, &rhs, 0, n, buf->h, d, buf->scratch);
    m->kern->add(x, buf->h, n * d, x);
}

static void tile_feed_forward(struct vd_ctx *ctx, const struct vd_layer *l, float *x, size_t n,
                              struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    size_t ff = m->dims.ff;
    vd_fw_norm_quant(ctx, x, l->ffn_norm, n, buf->h, buf->act);
    struct vd_kern_rhs rhs = {.act = buf->act, .x = buf->h, .ldx = m->dims.d};
    for (size_t f = 0; f < ff; f += FF_STEP) {
        size_t step = vd_fw_min(FF_STEP, ff - f);
        m->kern->matmul(&l->gate, f, f + step, &rhs, 0, n, buf->gate, ff, buf->scratch);
        m->kern->matmul(&l->up, f, f + step, &rhs, 0, n, moved_back(buf->up, f), FF_STEP, buf->scratch);
        for (size_t t = 0; t < n; t++)
            m->kern->swiglu(buf->gate + t * ff + f, buf->up + t * FF_STEP, step, buf->gate + t * ff + f);
    }
    tile_add_product(ctx, &l->down, buf->gate, ff, x, n, buf);
}

static void tile_rest(struct vd_ctx *ctx, const struct rows *r, size_t layer, size_t t0, size_t t1,
                      struct thread_buf *buf)
{
    const struct vd_layer *l = &ctx->m->layers[layer];
    float *x = r->x + t0 * ctx->m->dims.d;
    tile_attend(ctx, r, layer, t0, t1, buf);
    tile_add_product(ctx, &l->o, r->qkv + t0 * ctx->ld_qkv, ctx->ld_qkv, x, t1 - t0, buf);
    tile_feed_forward(ctx, l, x, t1 - t0, buf);
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
            vd_fw_gather(ctx, i);
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
        vd_team_barrier(team);
    }
    many_last(ctx, team, thread, buf);
    vd_fw_head(ctx, team, buf);
}
