/* Few rows: threads share rows of the weight matrices (see vd_forward.c). */
#include "vd_forward_impl.h"

enum {
    SPLIT_CHUNKS = 16,   /* contexts are cut along their chunks in pieces of this many */
    SPLIT_TASKS = 8,     /* of a thread: with more there is no need to */
    SPLIT_MIN_POS = 512, /* shorter contexts are not worth the extra barriers */
};

/* A product of a phase: y[t * ldy + row], plus a bias unless that is NULL. */
struct product {
    const struct vd_kern_mat *w;
    const float *bias;
    float *y;
    size_t ldy;
};

/* The rows of some matrices, laid end to end, are shared among the threads. Their numbers are multiples of
 * VD_KERN_ROWS (all widths of a program are multiples of 32). */
static void share_products(const struct vd_model *m, struct vd_team *team, unsigned thread,
                           const struct product *p, size_t n_products, const struct vd_kern_rhs *rhs,
                           size_t n, void *scratch)
{
    size_t total = 0, begin, end, at = 0;
    for (size_t i = 0; i < n_products; i++)
        total += p[i].w->rows;
    vd_team_range(team, thread, total, VD_KERN_ROWS, &begin, &end);
    for (size_t i = 0; i < n_products; at += p[i++].w->rows) {
        size_t r0 = begin > at ? begin - at : 0, r1 = end > at ? vd_fw_min(end - at, p[i].w->rows) : 0;
        if (r0 >= r1)
            continue;
        m->kern->matmul(p[i].w, r0, r1, rhs, 0, n, p[i].y, p[i].ldy, scratch);
        vd_fw_bias(m, p[i].bias, r0, r1, p[i].y, p[i].ldy, n);
    }
}

/* Quantised rows of `in` (n x cols): by every thread for itself, or together and with a barrier after. */
static struct vd_kern_rhs few_quant(struct vd_ctx *ctx, struct vd_team *team, unsigned forms, const float *in,
                                    size_t ld, size_t cols, size_t n, struct thread_buf *buf)
{
    const struct acts *act = &ctx->team.act;
    size_t i;
    if (n <= REDUNDANT_ROWS)
        return vd_fw_quant(ctx->m, forms, in, ld, cols, 0, n, &buf->act);
    while ((i = vd_team_next(team) * VD_KERN_TOKS) < n)
        vd_fw_quant(ctx->m, forms, in, ld, cols, i, vd_fw_min(i + VD_KERN_TOKS, n), act);
    vd_team_barrier(team);
    return (struct vd_kern_rhs){.act = act->by32, .x = in, .ldx = ld, .act256 = act->by256};
}

/* The same for residual rows x after a norm (w NULL: none). */
static struct vd_kern_rhs few_norm_quant(struct vd_ctx *ctx, struct vd_team *team, unsigned forms,
                                         const float *x, const float *w, size_t n, struct thread_buf *buf)
{
    const struct acts *act = &ctx->team.act;
    size_t i;
    if (!w)
        return few_quant(ctx, team, forms, x, ctx->m->dims.d, ctx->m->dims.d, n, buf);
    if (n <= REDUNDANT_ROWS)
        return vd_fw_norm_quant(ctx->m, forms, x, w, 0, n, buf->h, &buf->act);
    while ((i = vd_team_next(team) * VD_KERN_TOKS) < n)
        vd_fw_norm_quant(ctx->m, forms, x, w, i, vd_fw_min(i + VD_KERN_TOKS, n), ctx->team.h, act);
    vd_team_barrier(team);
    return (struct vd_kern_rhs){
        .act = act->by32, .x = ctx->team.h, .ldx = ctx->m->dims.d, .act256 = act->by256};
}

/* team.tmp, of which this thread made elements [r0, r1), onto x: each thread adds its own elements, unless a
 * norm needs whole rows. Ends with a barrier. */
static void few_add(struct vd_ctx *ctx, struct vd_team *team, unsigned thread, struct vd_half_end half,
                    size_t r0, size_t r1, float *x, size_t n)
{
    size_t d = ctx->m->dims.d;
    float *tmp = ctx->team.tmp;
    if (half.norm.w) {
        vd_team_barrier(team);
        for (size_t t = thread; t < n; t += vd_team_threads(team))
            vd_fw_add_rows(ctx->m, half, tmp + t * d, 1, x + t * d);
    } else {
        for (size_t t = 0; t < n; t++)
            ctx->m->kern->add(x + t * d + r0, tmp + t * d + r0, r1 - r0, x + t * d + r0);
    }
    vd_team_barrier(team);
}

/* x rows += w times rhs. Ends with a barrier. */
static void few_add_product(struct vd_ctx *ctx, struct vd_team *team, unsigned thread,
                            const struct vd_kern_mat *w, const struct vd_kern_rhs *rhs,
                            struct vd_half_end half, float *x, size_t n, struct thread_buf *buf)
{
    size_t d = ctx->m->dims.d, r0, r1;
    vd_team_range(team, thread, d, VD_KERN_ROWS, &r0, &r1);
    if (r0 < r1)
        ctx->m->kern->matmul(w, r0, r1, rhs, 0, n, ctx->team.tmp, d, buf->scratch);
    few_add(ctx, team, thread, half, r0, r1, x, n);
}

static void few_qkv(struct vd_ctx *ctx, struct vd_team *team, unsigned thread, size_t layer,
                    struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    const struct vd_layer *l = &m->layers[layer];
    const struct rows *r = &ctx->all;
    size_t ld = ctx->ld_qkv, skip = vd_fw_wants_q(ctx, layer) ? 0 : 1;
    float *q = r->qkv, *k = q + m->dims.q_cols, *v = k + m->dims.k_cols;
    struct product p[3] = {{&l->q, l->q_bias, q, ld}, {&l->k, l->k_bias, k, ld}, {&l->v, l->v_bias, v, ld}};
    struct vd_kern_rhs rhs = few_norm_quant(ctx, team, l->qkv_forms, r->x, l->attn_norm, r->n, buf);
    share_products(m, team, thread, p + skip, 3 - skip, &rhs, r->n, buf->scratch);
}

/* Whether attention over these rows, n_tasks heads of sequences, is worth cutting along the context. */
static bool split_pays(const struct vd_ctx *ctx, const struct vd_team *team, const struct rows *r,
                       size_t layer, size_t n_tasks)
{
    size_t longest = 0;
    if (vd_team_threads(team) == 1 || r->n > SPLIT_ROWS || n_tasks >= SPLIT_TASKS * vd_team_threads(team))
        return false;
    for (size_t t = 0; t < r->n; t++) {
        uint32_t pos = r->row[t].pos;
        longest = vd_fw_max(longest, pos - vd_program_first_key(&ctx->m->program, (uint32_t)layer, pos));
    }
    return longest >= SPLIT_MIN_POS;
}

/* Where the records of a run and a kv head begin: rows of the run outermost, as `queries` lists them. */
static float *records(const struct vd_ctx *ctx, const struct run *run, size_t g)
{
    const struct vd_dims *dims = &ctx->m->dims;
    size_t group = dims->n_heads / dims->n_kv;
    return ctx->team.rec + (run->first * dims->n_heads + g * group * run->count) * ctx->team.ld_rec;
}

/* The chunks of a run's contexts: of each kv head [*begin, *begin + the result). */
static size_t run_chunks(const struct vd_ctx *ctx, const struct rows *r, size_t layer, const struct run *run,
                         size_t *begin)
{
    const struct row *first = &r->row[run->first], *last = first + run->count - 1;
    *begin = vd_program_first_key(&ctx->m->program, (uint32_t)layer, first->pos) / VD_KERN_CHUNK;
    return last->pos / VD_KERN_CHUNK + 1 - *begin;
}

/* The contexts of all runs and kv heads are laid end to end, and each thread takes one stretch of them, but
 * for the heads that lie in several stretches. */
static size_t all_chunks(const struct vd_ctx *ctx, const struct rows *r, size_t layer)
{
    size_t total = 0, first;
    for (size_t i = 0; i < r->n_runs; i++)
        total += run_chunks(ctx, r, layer, &r->run[i], &first);
    return total * ctx->m->dims.n_kv;
}

/* Whether chunks [at, end) of `total` lie in several threads' stretches. */
static bool is_cut(const struct vd_team *team, size_t total, size_t at, size_t end)
{
    for (unsigned t = 1; t < vd_team_threads(team); t++) {
        size_t begin, stretch_end;
        vd_team_range(team, t, total, SPLIT_CHUNKS, &begin, &stretch_end);
        if (begin > at && begin < end)
            return true;
    }
    return false;
}

/* The heads that lie whole in this thread's stretch. All K rows are stored and all queries rotated. */
static void attend_whole(struct vd_ctx *ctx, struct vd_team *team, unsigned thread, const struct rows *r,
                         size_t layer, struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    size_t n_kv = m->dims.n_kv, total = all_chunks(ctx, r, layer), first, n_chunks, begin, end, at = 0;
    vd_team_range(team, thread, total, SPLIT_CHUNKS, &begin, &end);
    for (size_t task = 0; task < r->n_runs * n_kv && at < end; task++, at += n_chunks) {
        const struct run *run = &r->run[task / n_kv];
        n_chunks = run_chunks(ctx, r, layer, run, &first);
        if (at < begin || at + n_chunks > end)
            continue;
        struct vd_kern_kv kv = vd_fw_kv(m, &r->row[run->first], layer, task % n_kv);
        size_t n =
            vd_fw_queries(ctx, r, layer, task % n_kv, run->first, run->first + run->count, false, buf->query);
        m->kern->attn(&kv, m->score, buf->query, n, buf->scratch);
    }
}

/* The heads that are cut: of these the threads make records, piece by piece, so that they are done at the
 * same time whoever was faster before. Records cost as much traffic again as a fifth of the cache. */
static void attend_pieces(struct vd_ctx *ctx, struct vd_team *team, const struct rows *r, size_t layer,
                          struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    size_t piece = vd_team_next(team), base = 0, n_kv = m->dims.n_kv, total = all_chunks(ctx, r, layer),
           at = 0, n_chunks, first;
    for (size_t task = 0; task < r->n_runs * n_kv; task++, at += n_chunks) {
        const struct run *run = &r->run[task / n_kv];
        size_t g = task % n_kv;
        n_chunks = run_chunks(ctx, r, layer, run, &first);
        if (!is_cut(team, total, at, at + n_chunks))
            continue;
        size_t n_pieces = (n_chunks + SPLIT_CHUNKS - 1) / SPLIT_CHUNKS;
        struct vd_kern_kv kv = vd_fw_kv(m, &r->row[run->first], layer, g);
        size_t n = vd_fw_queries(ctx, r, layer, g, run->first, run->first + run->count, false, buf->query);
        for (; piece < base + n_pieces; piece = vd_team_next(team)) {
            size_t c = (piece - base) * SPLIT_CHUNKS;
            m->kern->attn_part(&kv, m->score, buf->query, n, first + c,
                               first + vd_fw_min(n_chunks, c + SPLIT_CHUNKS), records(ctx, run, g),
                               ctx->team.ld_rec, buf->scratch);
        }
        base += n_pieces;
    }
}

/* Heads that were cut; tasks are their query rows. */
static void attend_merge(struct vd_ctx *ctx, struct vd_team *team, const struct rows *r, size_t layer,
                         struct thread_buf *buf)
{
    const struct vd_dims *dims = &ctx->m->dims;
    size_t task = vd_team_next(team), base = 0, total = all_chunks(ctx, r, layer), at = 0, n_chunks, first;
    for (size_t i = 0; i < r->n_runs * dims->n_kv; i++, at += n_chunks) {
        const struct run *run = &r->run[i / dims->n_kv];
        size_t g = i % dims->n_kv;
        n_chunks = run_chunks(ctx, r, layer, run, &first);
        if (!is_cut(team, total, at, at + n_chunks))
            continue;
        size_t n = vd_fw_queries(ctx, r, layer, g, run->first, run->first + run->count, false, buf->query);
        for (; task < base + n; task = vd_team_next(team))
            ctx->m->kern->attn_merge(dims->hd, buf->query + (task - base), 1,
                                     records(ctx, run, g) + (task - base) * ctx->team.ld_rec,
                                     ctx->team.ld_rec);
        base += n;
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
            vd_fw_queries(ctx, r, layer, g, t, vd_fw_min(t + TILE_ROWS, end), true, buf->query);
        else
            vd_fw_attend(ctx, r, layer, g, t, vd_fw_min(t + TILE_ROWS, end), buf);
    }
}

/* Neighbouring positions share cache lines, so each thread takes a stretch of rows. */
static void put_rows(struct vd_ctx *ctx, struct vd_team *team, unsigned thread, const struct rows *r,
                     size_t layer)
{
    size_t t0, t1;
    vd_team_range(team, thread, r->n, VD_KERN_TOKS, &t0, &t1);
    for (size_t g = 0; g < ctx->m->dims.n_kv; g++)
        vd_fw_put_kv(ctx, r, layer, g, t0, t1);
}

/* Attention where a run has many rows: tasks are (run, tile of rows, kv head), the last rows first, which
 * attend to the most positions. All K and V rows are stored. Ends with a barrier. */
static void attend_tiles(struct vd_ctx *ctx, struct vd_team *team, const struct rows *r, size_t layer,
                         struct thread_buf *buf)
{
    size_t task = vd_team_next(team), base = 0, n_kv = ctx->m->dims.n_kv;
    for (size_t i = 0; i < r->n_runs; i++) {
        size_t t0 = r->run[i].first, end = t0 + r->run[i].count;
        size_t n_tiles = (r->run[i].count + TILE_ROWS - 1) / TILE_ROWS;
        for (; task < base + n_tiles * n_kv; task = vd_team_next(team)) {
            size_t t = t0 + (n_tiles - 1 - (task - base) / n_kv) * TILE_ROWS;
            vd_fw_attend(ctx, r, layer, (task - base) % n_kv, t, vd_fw_min(t + TILE_ROWS, end), buf);
        }
        base += n_tiles * n_kv;
    }
    vd_team_barrier(team);
}

/* Attention for the rows of r, whose K and V rows are stored here if `put`; ends with a barrier. */
static void few_attention(struct vd_ctx *ctx, struct vd_team *team, unsigned thread, const struct rows *r,
                          size_t layer, bool put, struct thread_buf *buf)
{
    size_t task, n_tasks = r->n_runs * ctx->m->dims.n_kv;
    bool split = split_pays(ctx, team, r, layer, n_tasks);
    if (r->n / r->n_runs > TILE_ROWS) {
        if (put) {
            put_rows(ctx, team, thread, r, layer);
            vd_team_barrier(team);
        }
        attend_tiles(ctx, team, r, layer, buf);
        return;
    }
    while ((task = vd_team_next(team)) < n_tasks)
        few_attend_task(ctx, r, layer, task, put, split, buf);
    vd_team_barrier(team);
    if (!split)
        return;
    attend_whole(ctx, team, thread, r, layer, buf);
    attend_pieces(ctx, team, r, layer, buf);
    vd_team_barrier(team);
    attend_merge(ctx, team, r, layer, buf);
    vd_team_barrier(team);
}

static void few_feed_forward(struct vd_ctx *ctx, struct vd_team *team, unsigned thread,
                             const struct vd_layer *l, const struct rows *r, struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    size_t ff = m->dims.ff, n = r->n, r0, r1;
    float *gate = ctx->team.gate, *up = ctx->team.up;
    struct vd_kern_rhs rhs = few_norm_quant(ctx, team, l->ff_forms, r->x, l->ffn_norm, n, buf);
    vd_team_range(team, thread, ff, VD_KERN_ROWS, &r0, &r1);
    if (r0 < r1)
        vd_fw_up(m, l, &rhs, r0, r1, n, gate, up, ff, 0, buf->scratch);
    vd_team_barrier(team);
    rhs = few_quant(ctx, team, l->down_forms, gate, ff, ff, n, buf);
    few_add_product(ctx, team, thread, &l->down, &rhs, vd_fw_end_of_ffn(l), r->x, n, buf);
}

/* The normed rows h as the experts' first products read them: each expert's rows side by side. */
static struct vd_kern_rhs few_sort(struct vd_ctx *ctx, struct vd_team *team, unsigned forms, const float *h,
                                   size_t n, struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    const struct acts *act = &ctx->team.act;
    size_t n_sorted = n * m->dims.n_used, d = m->dims.d, i;
    if (n == 1)
        return vd_fw_quant(m, forms, h, d, d, 0, 1, &buf->act);
    if (n_sorted <= REDUNDANT_ROWS)
        return vd_fw_gather(m, &buf->route, forms, h, 0, n_sorted, buf->sorted, &buf->act);
    while ((i = vd_team_next(team) * VD_KERN_TOKS) < n_sorted)
        vd_fw_gather(m, &buf->route, forms, h, i, vd_fw_min(i + VD_KERN_TOKS, n_sorted), ctx->team.sorted,
                     act);
    vd_team_barrier(team);
    return (struct vd_kern_rhs){.act = act->by32, .x = ctx->team.sorted, .ldx = d, .act256 = act->by256};
}

/* The feed-forward with experts: the threads share the rows of each expert's matrices. Everyone sorts. */
static void few_experts(struct vd_ctx *ctx, struct vd_team *team, unsigned thread, const struct vd_layer *l,
                        const struct rows *r, struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    const struct vd_dims *dims = &m->dims;
    size_t n = r->n, n_experts = dims->n_experts, r0, r1;
    struct vd_kern_rhs rhs = few_norm_quant(ctx, team, l->router_forms, r->x, l->ffn_norm, n, buf);
    const float *h = rhs.x;
    vd_team_range(team, thread, n_experts, VD_KERN_ROWS, &r0, &r1);
    if (r0 < r1)
        m->kern->matmul(&l->router, r0, r1, &rhs, 0, n, ctx->team.router, n_experts, buf->scratch);
    vd_team_barrier(team);
    vd_fw_route(m, ctx->team.router, n, &buf->route);
    rhs = few_sort(ctx, team, l->ff_forms, h, n, buf);
    vd_team_range(team, thread, dims->ff, VD_KERN_ROWS, &r0, &r1);
    vd_fw_experts_up(m, l, &buf->route, n == 1, &rhs, r0, r1, ctx->team.gate, buf);
    vd_team_barrier(team);
    rhs = few_quant(ctx, team, l->down_forms, ctx->team.gate, dims->ff, dims->ff, n * dims->n_used, buf);
    vd_team_range(team, thread, dims->d, VD_KERN_ROWS, &r0, &r1);
    vd_fw_experts_down(m, l, &buf->route, &rhs, r0, r1, n, ctx->team.sorted, ctx->team.tmp, buf);
    few_add(ctx, team, thread, vd_fw_end_of_ffn(l), r0, r1, r->x, n);
}

/* What follows attention; ends with a barrier. */
static void few_rest(struct vd_ctx *ctx, struct vd_team *team, unsigned thread, size_t layer,
                     const struct rows *r, struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    const struct vd_layer *l = &m->layers[layer];
    struct vd_kern_rhs rhs = few_quant(ctx, team, l->o_forms, r->qkv, ctx->ld_qkv, m->dims.q_cols, r->n, buf);
    few_add_product(ctx, team, thread, &l->o, &rhs, vd_fw_end_of_attn(l), r->x, r->n, buf);
    (m->dims.n_experts ? few_experts : few_feed_forward)(ctx, team, thread, l, r, buf);
    for (size_t t = thread; ctx->tap && t < r->n; t += vd_team_threads(team))
        vd_fw_tell(ctx, r, layer + 1, true, t, t + 1, thread);
}

/* The last layer when not all rows want its output. */
static void few_last(struct vd_ctx *ctx, struct vd_team *team, unsigned thread, struct thread_buf *buf)
{
    size_t layer = ctx->m->dims.n_layers - 1;
    put_rows(ctx, team, thread, &ctx->all, layer);
    for (size_t i = thread; i < ctx->subset.n; i += vd_team_threads(team))
        vd_fw_gather_row(ctx, i);
    vd_team_barrier(team);
    if (ctx->subset.n > 0) {
        few_attention(ctx, team, thread, &ctx->subset, layer, false, buf);
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
        vd_fw_look_for_cancel(ctx, thread, layer);
        vd_team_barrier(team);
        if (vd_fw_is_cancelled(ctx, layer))
            return;
        if (layer + 1 == n_layers && ctx->last == &ctx->subset) {
            few_last(ctx, team, thread, buf);
        } else {
            few_attention(ctx, team, thread, r, layer, true, buf);
            few_rest(ctx, team, thread, layer, r, buf);
        }
    }
    vd_fw_head(ctx, team, thread, buf);
}
