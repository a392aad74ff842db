/* Few rows: threads share rows of the weight matrices (see vd_forward.c). */
#include "vd_forward_impl.h"

enum {
    SPLIT_CHUNKS = 4,    /* chunks of a task, where one context is cut along its chunks */
    SPLIT_MIN_POS = 512, /* shorter contexts are not worth the extra barriers */
};

/* A product of a phase: y[t * ldy + row]. */
struct product {
    const struct vd_kern_mat *w;
    float *y;
    size_t ldy;
};

/* The rows of some matrices, laid end to end, are shared among the threads. Their numbers are multiples of
 * VD_KERN_ROWS (all widths of a program are multiples of 32). */
static void share_products(struct vd_team *team, unsigned thread, const struct product *p, size_t n_products,
                           const struct vd_kern_rhs *rhs, size_t n, const struct vd_kern *k, void *scratch)
{
    size_t total = 0, begin, end, at = 0;
    for (size_t i = 0; i < n_products; i++)
        total += p[i].w->rows;
    vd_team_range(team, thread, total, VD_KERN_ROWS, &begin, &end);
    for (size_t i = 0; i < n_products; at += p[i++].w->rows) {
        size_t r0 = begin > at ? begin - at : 0, r1 = end > at ? vd_fw_min(end - at, p[i].w->rows) : 0;
        if (r0 < r1)
            k->matmul(p[i].w, r0, r1, rhs, 0, n, p[i].y, p[i].ldy, scratch);
    }
}

/* Quantised rows of `in` (n x cols): by every thread for itself, or together and with a barrier after. */
static struct vd_kern_rhs few_quant(struct vd_ctx *ctx, struct vd_team *team, const float *in, size_t ld,
                                    size_t cols, size_t n, struct thread_buf *buf)
{
    const struct vd_kern *k = ctx->m->kern;
    size_t i;
    if (n <= REDUNDANT_ROWS) {
        k->act_quant(in, ld, cols, 0, n, buf->act);
        return (struct vd_kern_rhs){.act = buf->act, .x = in, .ldx = ld};
    }
    while ((i = vd_team_next(team) * VD_KERN_TOKS) < n)
        k->act_quant(in, ld, cols, i, vd_fw_min(i + VD_KERN_TOKS, n), ctx->team.act);
    vd_team_barrier(team);
    return (struct vd_kern_rhs){.act = ctx->team.act, .x = in, .ldx = ld};
}

/* The same for residual rows x after a norm. */
static struct vd_kern_rhs few_norm_quant(struct vd_ctx *ctx, struct vd_team *team, const float *x,
                                         const float *w, size_t n, struct thread_buf *buf)
{
    const struct vd_kern *k = ctx->m->kern;
    size_t d = ctx->m->dims.d, i;
    float *h = ctx->team.h;
    if (n <= REDUNDANT_ROWS) {
        vd_fw_norm_quant(ctx, x, w, n, buf->h, buf->act);
        return (struct vd_kern_rhs){.act = buf->act, .x = buf->h, .ldx = d};
    }
    while ((i = vd_team_next(team) * VD_KERN_TOKS) < n) {
        size_t end = vd_fw_min(i + VD_KERN_TOKS, n);
        for (size_t t = i; t < end; t++)
            k->rmsnorm(x + t * d, w, d, ctx->m->program.eps, h + t * d);
        k->act_quant(h, d, d, i, end, ctx->team.act);
    }
    vd_team_barrier(team);
    return (struct vd_kern_rhs){.act = ctx->team.act, .x = h, .ldx = d};
}

/* x rows += w times rhs; each thread for its own elements. */
static void few_add_product(struct vd_ctx *ctx, struct vd_team *team, unsigned thread,
                            const struct vd_kern_mat *w, const struct vd_kern_rhs *rhs, float *x, size_t n,
                            struct thread_buf *buf)
{
    const struct vd_kern *k = ctx->m->kern;
    size_t d = ctx->m->dims.d, r0, r1;
    float *tmp = ctx->team.tmp;
    vd_team_range(team, thread, d, VD_KERN_ROWS, &r0, &r1);
    if (r0 == r1)
        return;
    k->matmul(w, r0, r1, rhs, 0, n, tmp, d, buf->scratch);
    for (size_t t = 0; t < n; t++)
        k->add(x + t * d + r0, tmp + t * d + r0, r1 - r0, x + t * d + r0);
}

static void few_qkv(struct vd_ctx *ctx, struct vd_team *team, unsigned thread, size_t layer,
                    struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    const struct vd_layer *l = &m->layers[layer];
    const struct rows *r = &ctx->all;
    size_t ld = ctx->ld_qkv, skip = vd_fw_wants_q(ctx, layer) ? 0 : 1;
    float *q = r->qkv, *k = q + m->dims.q_cols, *v = k + m->dims.k_cols;
    struct product p[3] = {{&l->q, q, ld}, {&l->k, k, ld}, {&l->v, v, ld}};
    struct vd_kern_rhs rhs = few_norm_quant(ctx, team, r->x, l->attn_norm, r->n, buf);
    share_products(team, thread, p + skip, 3 - skip, &rhs, r->n, m->kern, buf->scratch);
}

/* Whether attention over these rows is worth cutting along the context. */
static bool split_pays(const struct vd_team *team, const struct rows *r)
{
    size_t longest = 0;
    if (vd_team_threads(team) == 1 || r->n > SPLIT_ROWS)
        return false;
    for (size_t t = 0; t < r->n; t++)
        longest = vd_fw_max(longest, r->row[t].pos);
    return longest >= SPLIT_MIN_POS;
}

/* Where the records of a run and a kv head begin: rows of the run outermost, as `queries` lists them. */
static float *records(const struct vd_ctx *ctx, const struct run *run, size_t g)
{
    const struct vd_dims *dims = &ctx->m->dims;
    size_t group = dims->n_heads / dims->n_kv;
    return ctx->team.rec + (run->first * dims->n_heads + g * group * run->count) * ctx->team.ld_rec;
}

/* Tasks are (run, kv head, some chunks); all K rows are stored and all queries rotated. */
static void attend_parts(struct vd_ctx *ctx, struct vd_team *team, const struct rows *r, size_t layer,
                         struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    size_t task = vd_team_next(team), base = 0;
    for (size_t i = 0; i < r->n_runs; i++) {
        const struct run *run = &r->run[i];
        const struct row *end = &r->row[run->first + run->count - 1];
        size_t n_chunks = end->pos / VD_KERN_CHUNK + 1, parts = (n_chunks + SPLIT_CHUNKS - 1) / SPLIT_CHUNKS;
        for (; task < base + parts * m->dims.n_kv; task = vd_team_next(team)) {
            size_t g = (task - base) / parts, c0 = (task - base) % parts * SPLIT_CHUNKS;
            struct vd_kern_kv kv = {end->pages, vd_model_chunk_offset(m, layer, g), m->dims.hd};
            size_t n = vd_fw_queries(ctx, r, g, run->first, run->first + run->count, false, buf->query);
            m->kern->attn_part(&kv, vd_fw_score(m), buf->query, n, c0, vd_fw_min(c0 + SPLIT_CHUNKS, n_chunks),
                               records(ctx, run, g), ctx->team.ld_rec, buf->scratch);
        }
        base += parts * m->dims.n_kv;
    }
}

static void attend_merge(struct vd_ctx *ctx, struct vd_team *team, const struct rows *r,
                         struct thread_buf *buf)
{
    const struct vd_dims *dims = &ctx->m->dims;
    size_t task;
    while ((task = vd_team_next(team)) < r->n_runs * dims->n_kv) {
        const struct run *run = &r->run[task / dims->n_kv];
        size_t g = task % dims->n_kv;
        size_t n = vd_fw_queries(ctx, r, g, run->first, run->first + run->count, false, buf->query);
        ctx->m->kern->attn_merge(dims->hd, buf->query, n, records(ctx, run, g), ctx->team.ld_rec);
    }
}

/* One run and one kv head: its K and V rows are stored if `put`, its queries rotated, and attended with
 * unless the chunks are to be shared. */
static void few_attend_task(struct vd_ctx *ctx, const struct rows *r, size_t layer, size_t task, bool put,
                            bool split, struct thread_buf *buf)
{
    const struct run *run = &r->run[task / ctx->m->dims.n_kv];
    size_t g = task % ctx->m->dims.n_kv, end = run->first + run->count;
    if (put)
        vd_fw_put_kv(ctx, r, layer, g, run->first, end);
    for (size_t t = run->first; t < end; t += TILE_ROWS) {
        if (split)
            vd_fw_queries(ctx, r, g, t, vd_fw_min(t + TILE_ROWS, end), true, buf->query);
        else
            vd_fw_attend(ctx, r, layer, g, t, vd_fw_min(t + TILE_ROWS, end), buf);
    }
}

/* Attention for the rows of r, whose K and V rows are stored here if `put`; ends with a barrier. */
static void few_attention(struct vd_ctx *ctx, struct vd_team *team, const struct rows *r, size_t layer,
                          bool put, struct thread_buf *buf)
{
    size_t task, n_tasks = r->n_runs * ctx->m->dims.n_kv;
    bool split = split_pays(team, r);
    while ((task = vd_team_next(team)) < n_tasks)
        few_attend_task(ctx, r, layer, task, put, split, buf);
    vd_team_barrier(team);
    if (!split)
        return;
    attend_parts(ctx, team, r, layer, buf);
    vd_team_barrier(team);
    attend_merge(ctx, team, r, buf);
    vd_team_barrier(team);
}

static void few_feed_forward(struct vd_ctx *ctx, struct vd_team *team, unsigned thread,
                             const struct vd_layer *l, const struct rows *r, struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    size_t ff = m->dims.ff, n = r->n, r0, r1;
    float *gate = ctx->team.gate, *up = ctx->team.up;
    struct vd_kern_rhs rhs = few_norm_quant(ctx, team, r->x, l->ffn_norm, n, buf);
    vd_team_range(team, thread, ff, VD_KERN_ROWS, &r0, &r1);
    if (r0 < r1) {
        m->kern->matmul(&l->gate, r0, r1, &rhs, 0, n, gate, ff, buf->scratch);
        m->kern->matmul(&l->up, r0, r1, &rhs, 0, n, up, ff, buf->scratch);
    }
    for (size_t t = 0; t < n; t++)
        m->kern->swiglu(gate + t * ff + r0, up + t * ff + r0, r1 - r0, gate + t * ff + r0);
    vd_team_barrier(team);
    rhs = few_quant(ctx, team, gate, ff, ff, n, buf);
    few_add_product(ctx, team, thread, &l->down, &rhs, r->x, n, buf);
    vd_team_barrier(team);
}

/* What follows attention; ends with a barrier. */
static void few_rest(struct vd_ctx *ctx, struct vd_team *team, unsigned thread, size_t layer,
                     const struct rows *r, struct thread_buf *buf)
{
    const struct vd_layer *l = &ctx->m->layers[layer];
    struct vd_kern_rhs rhs = few_quant(ctx, team, r->qkv, ctx->ld_qkv, ctx->m->dims.q_cols, r->n, buf);
    few_add_product(ctx, team, thread, &l->o, &rhs, r->x, r->n, buf);
    vd_team_barrier(team);
    few_feed_forward(ctx, team, thread, l, r, buf);
    for (size_t t = thread; ctx->tap && t < r->n; t += vd_team_threads(team))
        vd_fw_tell(ctx, r, layer + 1, true, t, t + 1, thread);
}

/* The last layer when not all rows want its output. */
static void few_last(struct vd_ctx *ctx, struct vd_team *team, unsigned thread, struct thread_buf *buf)
{
    size_t layer = ctx->m->dims.n_layers - 1, n_kv = ctx->m->dims.n_kv;
    for (size_t t = thread; t < ctx->all.n; t += vd_team_threads(team))
        for (size_t g = 0; g < n_kv; g++)
            vd_fw_put_kv(ctx, &ctx->all, layer, g, t, t + 1);
    for (size_t i = thread; i < ctx->subset.n; i += vd_team_threads(team))
        vd_fw_gather(ctx, i);
    vd_team_barrier(team);
    if (ctx->subset.n > 0) {
        few_attention(ctx, team, &ctx->subset, layer, false, buf);
        few_rest(ctx, team, thread, layer, &ctx->subset, buf);
    }
    if (ctx->tap)
        vd_fw_tell_unwanted(ctx, team, thread);
}

void vd_fw_few_rows(void *arg, struct vd_team *team, unsigned thread)
{
    struct vd_ctx *ctx = arg;
    struct thread_buf *buf = &ctx->thread[thread];
    const struct rows *r = &ctx->all;
    size_t n_layers = ctx->m->dims.n_layers;
    for (size_t t = thread; t < r->n; t += vd_team_threads(team)) {
        vd_fw_embed(ctx, t);
        if (ctx->tap)
            vd_fw_tell(ctx, r, 0, true, t, t + 1, thread);
    }
    vd_team_barrier(team);
    for (size_t layer = 0; layer < n_layers; layer++) {
        few_qkv(ctx, team, thread, layer, buf);
        vd_team_barrier(team);
        if (layer + 1 == n_layers && ctx->last == &ctx->subset) {
            few_last(ctx, team, thread, buf);
        } else {
            few_attention(ctx, team, r, layer, true, buf);
            few_rest(ctx, team, thread, layer, r, buf);
        }
    }
    vd_fw_head(ctx, team, buf);
}
