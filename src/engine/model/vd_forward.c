/* One region of the pool per call, in one of two shapes.
 *
 * Many rows (prefill, replay): each thread takes tiles of rows and carries a tile through a whole layer, so
 * that its activations stay in its own cache and the only thing threads wait for is that all K and V rows of
 * a layer are written before attention reads them: one barrier per layer. What a tile does after attention in
 * layer l and before attention in layer l + 1 is one task.
 *
 * Few rows (decode): threads share the rows of the weight matrices, since reading the weights is the cost.
 * Norms and quantisation of a few rows are so small that every thread does them again for itself instead of
 * waiting.
 *
 * Where other programs want the cores too, waiting for each other is what costs most, and a few rows are run
 * by one thread alone when that has shown to be faster (vd_pace.h).
 *
 * All shapes call the same kernels on the same values, and no kernel's result depends on how its ranges were
 * cut, so the bits are the same.
 *
 * The last layer's operators after K and V run only for the rows that want its output; unless that is all of
 * them, these are gathered into a second set of rows first. */
#include "vd_forward.h"
#include "vd_model_internal.h"
#include "vd_pace.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum {
    TILE_ROWS = 64,      /* rows of a task when there are many */
    REDUNDANT_ROWS = 16, /* up to here every thread quantises for itself */
    FEW_ROWS = 48,       /* per thread: from here on there are many rows */
    FF_STEP = 256,       /* feed-forward rows between two SwiGLU runs: the up half stays in the L1 cache */
    HEAD_STEP = 256,     /* logits of a task */
    SPLIT_ROWS = 4,      /* one long context is spread over threads for at most this many rows */
    SPLIT_CHUNKS = 4,    /* chunks of a task then */
    SPLIT_MIN_POS = 512, /* shorter contexts are not worth the extra barriers */
};

/* A row of the call, or of the last layer: where it attends. */
struct row {
    struct vd_kv *kv;
    const void *const *pages;
    uint32_t pos, source; /* source: its number in the call */
};

/* Neighbouring rows of one sequence. */
struct run {
    size_t first, count;
};

/* A set of rows with its activations. Both sets of a context have their own buffers. */
struct rows {
    size_t n, n_runs;
    struct row *row;
    struct run *run;
    float *x;    /* n x d: the residual stream */
    float *qkv;  /* n x ld_qkv: queries, then keys, then values; attention's result replaces the queries */
    float *rope; /* n x 2 n_pairs: cosines and sines */
};

/* What one thread needs for itself. */
struct thread_buf {
    float *h;       /* TILE_ROWS x d */
    float *gate;    /* TILE_ROWS x ff */
    float *up;      /* TILE_ROWS x FF_STEP */
    void *act;      /* TILE_ROWS quantised rows of the widest input */
    void *scratch;  /* kern's */
    uint8_t *k, *v; /* records for the tap */
    struct vd_kern_query *query;
};

/* Few rows: what the threads make together. */
struct team_buf {
    float *h, *tmp;   /* n x d */
    float *gate, *up; /* n x ff */
    void *act;        /* n quantised rows of the widest input */
    float *rec;       /* chunk records of split attention: SPLIT_ROWS x n_heads x ld_rec */
    size_t ld_rec;
};

/* The rows that want logits. */
struct head {
    size_t n;
    size_t *source; /* their places in ctx->last */
    float *h;       /* n x d, normed */
    void *act;
    float *logits; /* n x vocab */
};

struct vd_ctx {
    const struct vd_model *m;
    struct vd_pool *pool, *solo; /* solo: one thread, for when that is faster */
    struct vd_pace pace;
    unsigned n_threads;
    size_t max_rows, max_logits, max_few;
    size_t ld_qkv;
    struct rows all;    /* the rows of the call */
    struct rows subset; /* room for ctx->last when it is not all */
    struct rows *last;  /* the rows that the whole last layer runs for */
    struct head head;
    size_t *logits_slot; /* per row of the call: its place in head, or SIZE_MAX */
    size_t *hidden_slot; /* per row of the call: its place in last, or SIZE_MAX */
    struct team_buf team;
    struct thread_buf *thread;
    const struct vd_row *call; /* of the running call */
    const struct vd_tap *tap;
    void *memory;
    size_t memory_bytes;
};

/* ------------------------------------------------ creation ------------------------------------------------
 */

static size_t max2(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t min2(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Hands out parts of ctx->memory; with a NULL base it only adds up. */
struct carve {
    uint8_t *base;
    size_t used;
};

static void *carve(struct carve *c, size_t n_bytes)
{
    void *p = c->base ? c->base + c->used : NULL;
    c->used += (n_bytes + VD_KERN_ALIGN - 1) / VD_KERN_ALIGN * VD_KERN_ALIGN;
    return p;
}

static void carve_rows(struct carve *c, const struct vd_ctx *ctx, struct rows *r)
{
    const struct vd_dims *dims = &ctx->m->dims;
    r->row = carve(c, ctx->max_rows * sizeof *r->row);
    r->run = carve(c, ctx->max_rows * sizeof *r->run);
    r->x = carve(c, ctx->max_rows * dims->d * sizeof(float));
    r->qkv = carve(c, ctx->max_rows * ctx->ld_qkv * sizeof(float));
    r->rope = carve(c, ctx->max_rows * 2 * dims->n_pairs * sizeof(float));
}

static void carve_thread(struct carve *c, const struct vd_model *m, struct thread_buf *t)
{
    const struct vd_dims *dims = &m->dims;
    size_t widest = max2(max2(dims->d, dims->q_cols), dims->ff);
    t->h = carve(c, TILE_ROWS * dims->d * sizeof(float));
    t->gate = carve(c, TILE_ROWS * dims->ff * sizeof(float));
    t->up = carve(c, TILE_ROWS * FF_STEP * sizeof(float));
    t->act = carve(c, m->kern->act_bytes(TILE_ROWS, widest));
    t->scratch = carve(c, m->kern->scratch_bytes(widest, dims->hd));
    t->k = carve(c, vd_model_k_row_bytes(m));
    t->v = carve(c, vd_model_v_row_bytes(m));
    t->query = carve(c, TILE_ROWS * (dims->n_heads / dims->n_kv) * sizeof *t->query);
}

static void carve_team(struct carve *c, const struct vd_ctx *ctx, struct team_buf *t)
{
    const struct vd_dims *dims = &ctx->m->dims;
    size_t widest = max2(max2(dims->d, dims->q_cols), dims->ff);
    t->h = carve(c, ctx->max_few * dims->d * sizeof(float));
    t->tmp = carve(c, ctx->max_few * dims->d * sizeof(float));
    t->gate = carve(c, ctx->max_few * dims->ff * sizeof(float));
    t->up = carve(c, ctx->max_few * dims->ff * sizeof(float));
    t->act = carve(c, ctx->m->kern->act_bytes(ctx->max_few, widest));
    t->ld_rec = (dims->ctx / VD_KERN_CHUNK + 1) * vd_kern_rec_floats(dims->hd);
    t->rec = carve(c, SPLIT_ROWS * dims->n_heads * t->ld_rec * sizeof(float));
}

/* All buffers, in the order in which they lie in memory. */
static void carve_all(struct carve *c, struct vd_ctx *ctx)
{
    const struct vd_model *m = ctx->m;
    carve_rows(c, ctx, &ctx->all);
    carve_rows(c, ctx, &ctx->subset);
    ctx->logits_slot = carve(c, ctx->max_rows * sizeof(size_t));
    ctx->hidden_slot = carve(c, ctx->max_rows * sizeof(size_t));
    ctx->head.source = carve(c, ctx->max_logits * sizeof(size_t));
    ctx->head.h = carve(c, ctx->max_logits * m->dims.d * sizeof(float));
    ctx->head.act = carve(c, m->kern->act_bytes(ctx->max_logits, m->dims.d));
    ctx->head.logits = carve(c, ctx->max_logits * m->dims.vocab * sizeof(float));
    carve_team(c, ctx, &ctx->team);
    ctx->thread = carve(c, ctx->n_threads * sizeof *ctx->thread);
    for (unsigned t = 0; t < ctx->n_threads; t++) {
        struct thread_buf sizes;
        carve_thread(c, m, c->base ? &ctx->thread[t] : &sizes);
    }
}

enum vd_err vd_ctx_create(struct vd_ctx **out, const struct vd_model *m, struct vd_pool *pool,
                          size_t max_rows, size_t max_logits, struct vd_error *err)
{
    assert(max_rows > 0 && max_logits > 0);
    *out = NULL;
    struct vd_ctx *ctx = calloc(1, sizeof *ctx);
    if (!ctx)
        return vd_error_set(err, VD_ENOMEM, "no memory for a context");
    ctx->m = m;
    ctx->pool = pool;
    ctx->n_threads = vd_pool_threads(pool);
    ctx->max_rows = max_rows;
    ctx->max_logits = min2(max_logits, max_rows);
    ctx->max_few = min2(max_rows, (size_t)FEW_ROWS * ctx->n_threads);
    ctx->last = &ctx->all;
    ctx->ld_qkv = m->dims.q_cols + 2 * m->dims.k_cols;
    struct carve c = {NULL, 0};
    carve_all(&c, ctx);
    enum vd_err rc = vd_pool_create(&ctx->solo, 1, err);
    if (rc != VD_OK) {
        free(ctx);
        return rc;
    }
    /* mmap: zeroed, page-aligned, and what is never used never takes memory. */
    ctx->memory = mmap(NULL, c.used, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ctx->memory == MAP_FAILED) {
        vd_pool_destroy(ctx->solo);
        free(ctx);
        return vd_error_set(err, VD_ENOMEM, "no memory for a context of %zu rows (%zu bytes)", max_rows,
                            c.used);
    }
    ctx->memory_bytes = c.used;
    c = (struct carve){ctx->memory, 0};
    carve_all(&c, ctx);
    *out = ctx;
    return VD_OK;
}

void vd_ctx_destroy(struct vd_ctx *ctx)
{
    if (!ctx)
        return;
    munmap(ctx->memory, ctx->memory_bytes);
    vd_pool_destroy(ctx->solo);
    free(ctx);
}

size_t vd_ctx_max_rows(const struct vd_ctx *ctx)
{
    return ctx->max_rows;
}

size_t vd_ctx_max_logits(const struct vd_ctx *ctx)
{
    return ctx->max_logits;
}

const struct vd_model *vd_ctx_model(const struct vd_ctx *ctx)
{
    return ctx->m;
}

struct vd_pool *vd_ctx_pool(const struct vd_ctx *ctx)
{
    return ctx->pool;
}

const float *vd_ctx_logits(const struct vd_ctx *ctx, size_t row)
{
    assert(row < ctx->all.n && ctx->logits_slot[row] != SIZE_MAX);
    return ctx->head.logits + ctx->logits_slot[row] * ctx->m->dims.vocab;
}

const float *vd_ctx_hidden(const struct vd_ctx *ctx, size_t row)
{
    assert(row < ctx->all.n && ctx->hidden_slot[row] != SIZE_MAX);
    return ctx->last->x + ctx->hidden_slot[row] * ctx->m->dims.d;
}

/* -------------------------------------------- pieces of a layer -------------------------------------------
 */

/* y such that y[n_elem] is p[0]: a product writes element `row` of a token, we keep a window of the rows. By
 * way of an integer, since the pointer may leave the buffer. */
static float *moved_back(float *p, size_t n_elem)
{
    return (float *)((uintptr_t)p - n_elem * sizeof *p);
}

/* n rows of x through a norm into h, then quantised into act. Weights of a float type read h itself. */
static void norm_quant(const struct vd_ctx *ctx, const float *x, const float *w, size_t n, float *h,
                       void *act)
{
    const struct vd_kern *k = ctx->m->kern;
    size_t d = ctx->m->dims.d;
    for (size_t t = 0; t < n; t++)
        k->rmsnorm(x + t * d, w, d, ctx->m->program.eps, h + t * d);
    k->act_quant(h, d, d, 0, n, act);
}

/* Rotates and stores K and V of rows [t0, t1), for kv head g. */
static void put_kv(const struct vd_ctx *ctx, const struct rows *r, size_t layer, size_t g, size_t t0,
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

/* Rotates the queries of kv head g of rows [t0, t1) of one run, and fills `query`; returns how many. */
static size_t queries(const struct vd_ctx *ctx, const struct rows *r, size_t g, size_t t0, size_t t1,
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

/* Attention of rows [t0, t1) of one run, at most TILE_ROWS, with kv head g. */
static void attend(struct vd_ctx *ctx, const struct rows *r, size_t layer, size_t g, size_t t0, size_t t1,
                   struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    struct vd_kern_kv kv = {r->row[t0].pages, vd_model_chunk_offset(m, layer, g), m->dims.hd};
    size_t n = queries(ctx, r, g, t0, t1, true, buf->query);
    m->kern->attn(&kv, m->program.attn_scale, buf->query, n, buf->scratch);
}

/* Tells the tap about rows [t0, t1) of set r after `unit`; with_x false if the layer's output was not
 * computed. */
static void tell(const struct vd_ctx *ctx, const struct rows *r, size_t unit, bool with_x, size_t t0,
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

/* Tells the tap about a row whose last layer ended after K and V. */
static void tell_unwanted(const struct vd_ctx *ctx, const struct vd_team *team, unsigned thread)
{
    for (size_t t = thread; t < ctx->all.n; t += vd_team_threads(team))
        if (ctx->hidden_slot[t] == SIZE_MAX)
            tell(ctx, &ctx->all, ctx->m->dims.n_layers, false, t, t + 1, thread);
}

/* Embedding row and rope table of row t of the call. */
static void embed(const struct vd_ctx *ctx, size_t t)
{
    const struct vd_model *m = ctx->m;
    const struct vd_dims *dims = &m->dims;
    const struct rows *r = &ctx->all;
    m->kern->embed_row(m->tensors[0].shape.type, dims->d, m->tensors[0].p, ctx->call[t].token,
                       r->x + t * dims->d);
    m->kern->rope_table(r->row[t].pos, m->program.rope_steps, dims->n_pairs, r->rope + t * 2 * dims->n_pairs);
}

/* Brings row i of the subset from the rows of the call: residual row, queries (not rotated yet), rope table.
 */
static void gather(const struct vd_ctx *ctx, size_t i)
{
    const struct vd_dims *dims = &ctx->m->dims;
    const struct rows *a = &ctx->all, *l = &ctx->subset;
    size_t t = l->row[i].source;
    memcpy(l->x + i * dims->d, a->x + t * dims->d, dims->d * sizeof(float));
    memcpy(l->qkv + i * ctx->ld_qkv, a->qkv + t * ctx->ld_qkv, dims->q_cols * sizeof(float));
    memcpy(l->rope + i * 2 * dims->n_pairs, a->rope + t * 2 * dims->n_pairs,
           2 * dims->n_pairs * sizeof(float));
}

/* Whether the queries of this layer are wanted by any row. */
static bool wants_q(const struct vd_ctx *ctx, size_t layer)
{
    return layer + 1 < ctx->m->dims.n_layers || ctx->last->n > 0;
}

/* ------------------------------------------------ the head ------------------------------------------------
 */

/* Norm and quantisation of the rows [t0, t1) that want logits, to rows [0, t1 - t0) of h and act. */
static void head_norm_quant(const struct vd_ctx *ctx, size_t t0, size_t t1, float *h)
{
    const struct vd_model *m = ctx->m;
    size_t d = m->dims.d;
    for (size_t t = t0; t < t1; t++)
        m->kern->rmsnorm(ctx->last->x + ctx->head.source[t] * d, m->output_norm, d, m->program.eps,
                         h + t * d);
}

static void head(struct vd_ctx *ctx, struct vd_team *team, struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    struct head *hd = &ctx->head;
    size_t d = m->dims.d, vocab = m->dims.vocab, n_steps = (vocab + HEAD_STEP - 1) / HEAD_STEP, i;
    struct vd_kern_rhs rhs = {hd->act, hd->h, d};
    vd_team_barrier(team); /* the last layer's rows */
    if (hd->n == 0)
        return;
    if (hd->n <= REDUNDANT_ROWS) {
        head_norm_quant(ctx, 0, hd->n, buf->h);
        m->kern->act_quant(buf->h, d, d, 0, hd->n, buf->act);
        rhs = (struct vd_kern_rhs){buf->act, buf->h, d};
    } else {
        while ((i = vd_team_next(team) * VD_KERN_TOKS) < hd->n) {
            size_t end = min2(i + VD_KERN_TOKS, hd->n);
            head_norm_quant(ctx, i, end, hd->h);
            m->kern->act_quant(hd->h, d, d, i, end, hd->act);
        }
        vd_team_barrier(team);
    }
    while ((i = vd_team_next(team)) < n_steps)
        m->kern->matmul(&m->head, i * HEAD_STEP, min2((i + 1) * HEAD_STEP, vocab), &rhs, 0, hd->n, hd->logits,
                        vocab, buf->scratch);
}

/* --------------------------------- many rows: threads share tiles of rows ---------------------------------
 */

/* From the residual rows of a tile to its stored K and V rows, and its queries if they are wanted. */
static void tile_qkv(struct vd_ctx *ctx, const struct rows *r, size_t layer, size_t t0, size_t t1,
                     struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    const struct vd_dims *dims = &m->dims;
    const struct vd_layer *l = &m->layers[layer];
    size_t n = t1 - t0, ld = ctx->ld_qkv;
    float *q = r->qkv + t0 * ld, *k = q + dims->q_cols, *v = k + dims->k_cols;
    norm_quant(ctx, r->x + t0 * dims->d, l->attn_norm, n, buf->h, buf->act);
    struct vd_kern_rhs rhs = {buf->act, buf->h, dims->d};
    if (wants_q(ctx, layer))
        m->kern->matmul(&l->q, 0, dims->q_cols, &rhs, 0, n, q, ld, buf->scratch);
    m->kern->matmul(&l->k, 0, dims->k_cols, &rhs, 0, n, k, ld, buf->scratch);
    m->kern->matmul(&l->v, 0, dims->k_cols, &rhs, 0, n, v, ld, buf->scratch);
    for (size_t g = 0; g < dims->n_kv; g++)
        put_kv(ctx, r, layer, g, t0, t1);
}

static void tile_attend(struct vd_ctx *ctx, const struct rows *r, size_t layer, size_t t0, size_t t1,
                        struct thread_buf *buf)
{
    for (size_t a = t0, b; a < t1; a = b) {
        for (b = a + 1; b < t1 && r->row[b].kv == r->row[a].kv; b++)
            ;
        for (size_t g = 0; g < ctx->m->dims.n_kv; g++)
            attend(ctx, r, layer, g, a, b, buf);
    }
}

/* x rows += w times the rows of `in`. */
static void tile_add_product(struct vd_ctx *ctx, const struct vd_kern_mat *w, const float *in, size_t ld_in,
                             float *x, size_t n, struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    size_t d = m->dims.d;
    m->kern->act_quant(in, ld_in, w->cols, 0, n, buf->act);
    struct vd_kern_rhs rhs = {buf->act, in, ld_in};
    m->kern->matmul(w, 0, d, &rhs, 0, n, buf->h, d, buf->scratch);
    m->kern->add(x, buf->h, n * d, x);
}

static void tile_feed_forward(struct vd_ctx *ctx, const struct vd_layer *l, float *x, size_t n,
                              struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    size_t ff = m->dims.ff;
    norm_quant(ctx, x, l->ffn_norm, n, buf->h, buf->act);
    struct vd_kern_rhs rhs = {buf->act, buf->h, m->dims.d};
    for (size_t f = 0; f < ff; f += FF_STEP) {
        size_t step = min2(FF_STEP, ff - f);
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
    *t1 = min2(*t0 + TILE_ROWS, n);
    return true;
}

static void many_last(struct vd_ctx *ctx, struct vd_team *team, unsigned thread, struct thread_buf *buf)
{
    size_t t0, t1, n_layers = ctx->m->dims.n_layers;
    while (next_tile(team, ctx->last->n, &t0, &t1)) {
        for (size_t i = t0; ctx->last == &ctx->subset && i < t1; i++)
            gather(ctx, i);
        tile_rest(ctx, ctx->last, n_layers - 1, t0, t1, buf);
        if (ctx->tap)
            tell(ctx, ctx->last, n_layers, true, t0, t1, thread);
    }
    if (ctx->tap)
        tell_unwanted(ctx, team, thread);
}

static void many_rows(void *arg, struct vd_team *team, unsigned thread)
{
    struct vd_ctx *ctx = arg;
    struct thread_buf *buf = &ctx->thread[thread];
    size_t n_layers = ctx->m->dims.n_layers, t0, t1;
    const struct rows *r = &ctx->all;
    while (next_tile(team, r->n, &t0, &t1)) {
        for (size_t t = t0; t < t1; t++)
            embed(ctx, t);
        if (ctx->tap)
            tell(ctx, r, 0, true, t0, t1, thread);
        tile_qkv(ctx, r, 0, t0, t1, buf);
    }
    vd_team_barrier(team);
    for (size_t layer = 0; layer + 1 < n_layers; layer++) {
        while (next_tile(team, r->n, &t0, &t1)) {
            tile_rest(ctx, r, layer, t0, t1, buf);
            if (ctx->tap)
                tell(ctx, r, layer + 1, true, t0, t1, thread);
            tile_qkv(ctx, r, layer + 1, t0, t1, buf);
        }
        vd_team_barrier(team);
    }
    many_last(ctx, team, thread, buf);
    head(ctx, team, buf);
}

/* -------------------------------- few rows: threads share rows of weights ---------------------------------
 */

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
        size_t r0 = begin > at ? begin - at : 0, r1 = end > at ? min2(end - at, p[i].w->rows) : 0;
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
        return (struct vd_kern_rhs){buf->act, in, ld};
    }
    while ((i = vd_team_next(team) * VD_KERN_TOKS) < n)
        k->act_quant(in, ld, cols, i, min2(i + VD_KERN_TOKS, n), ctx->team.act);
    vd_team_barrier(team);
    return (struct vd_kern_rhs){ctx->team.act, in, ld};
}

/* The same for residual rows x after a norm. */
static struct vd_kern_rhs few_norm_quant(struct vd_ctx *ctx, struct vd_team *team, const float *x,
                                         const float *w, size_t n, struct thread_buf *buf)
{
    const struct vd_kern *k = ctx->m->kern;
    size_t d = ctx->m->dims.d, i;
    float *h = ctx->team.h;
    if (n <= REDUNDANT_ROWS) {
        norm_quant(ctx, x, w, n, buf->h, buf->act);
        return (struct vd_kern_rhs){buf->act, buf->h, d};
    }
    while ((i = vd_team_next(team) * VD_KERN_TOKS) < n) {
        size_t end = min2(i + VD_KERN_TOKS, n);
        for (size_t t = i; t < end; t++)
            k->rmsnorm(x + t * d, w, d, ctx->m->program.eps, h + t * d);
        k->act_quant(h, d, d, i, end, ctx->team.act);
    }
    vd_team_barrier(team);
    return (struct vd_kern_rhs){ctx->team.act, h, d};
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
    size_t ld = ctx->ld_qkv, skip = wants_q(ctx, layer) ? 0 : 1;
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
        longest = max2(longest, r->row[t].pos);
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
            size_t n = queries(ctx, r, g, run->first, run->first + run->count, false, buf->query);
            m->kern->attn_part(&kv, m->program.attn_scale, buf->query, n, c0,
                               min2(c0 + SPLIT_CHUNKS, n_chunks), records(ctx, run, g), ctx->team.ld_rec,
                               buf->scratch);
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
        size_t n = queries(ctx, r, g, run->first, run->first + run->count, false, buf->query);
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
        put_kv(ctx, r, layer, g, run->first, end);
    for (size_t t = run->first; t < end; t += TILE_ROWS) {
        if (split)
            queries(ctx, r, g, t, min2(t + TILE_ROWS, end), true, buf->query);
        else
            attend(ctx, r, layer, g, t, min2(t + TILE_ROWS, end), buf);
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
        tell(ctx, r, layer + 1, true, t, t + 1, thread);
}

/* The last layer when not all rows want its output. */
static void few_last(struct vd_ctx *ctx, struct vd_team *team, unsigned thread, struct thread_buf *buf)
{
    size_t layer = ctx->m->dims.n_layers - 1, n_kv = ctx->m->dims.n_kv;
    for (size_t t = thread; t < ctx->all.n; t += vd_team_threads(team))
        for (size_t g = 0; g < n_kv; g++)
            put_kv(ctx, &ctx->all, layer, g, t, t + 1);
    for (size_t i = thread; i < ctx->subset.n; i += vd_team_threads(team))
        gather(ctx, i);
    vd_team_barrier(team);
    if (ctx->subset.n > 0) {
        few_attention(ctx, team, &ctx->subset, layer, false, buf);
        few_rest(ctx, team, thread, layer, &ctx->subset, buf);
    }
    if (ctx->tap)
        tell_unwanted(ctx, team, thread);
}

static void few_rows(void *arg, struct vd_team *team, unsigned thread)
{
    struct vd_ctx *ctx = arg;
    struct thread_buf *buf = &ctx->thread[thread];
    const struct rows *r = &ctx->all;
    size_t n_layers = ctx->m->dims.n_layers;
    for (size_t t = thread; t < r->n; t += vd_team_threads(team)) {
        embed(ctx, t);
        if (ctx->tap)
            tell(ctx, r, 0, true, t, t + 1, thread);
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
    head(ctx, team, buf);
}

/* ------------------------------------------------ the call ------------------------------------------------
 */

/* Neighbours of the same sequence become one run. */
static void find_runs(struct rows *r)
{
    r->n_runs = 0;
    for (size_t t = 0; t < r->n; t++) {
        if (t > 0 && r->row[t].kv == r->row[t - 1].kv)
            r->run[r->n_runs - 1].count++;
        else
            r->run[r->n_runs++] = (struct run){t, 1};
    }
}

static enum vd_err check_row(const struct vd_ctx *ctx, const struct vd_row *rows, size_t t,
                             struct vd_error *err)
{
    const struct vd_row *row = &rows[t];
    bool follows = t > 0 && rows[t - 1].kv == row->kv;
    size_t want = follows ? (size_t)rows[t - 1].pos + 1 : vd_kv_len(row->kv);
    if (row->token >= ctx->m->dims.vocab)
        return vd_error_set(err, VD_EUSE, "row %zu: token %u is not below the vocabulary of %zu", t,
                            row->token, ctx->m->dims.vocab);
    if (row->pos != want)
        return vd_error_set(err, VD_EUSE, "row %zu: position %u, but the sequence goes on at %zu", t,
                            row->pos, want);
    return VD_OK;
}

/* Fills the sets of rows; slots say where a row's outputs will lie. */
static enum vd_err take_rows(struct vd_ctx *ctx, const struct vd_row *rows, size_t n_rows,
                             struct vd_error *err)
{
    struct rows *all = &ctx->all, *sub = &ctx->subset;
    if (n_rows == 0 || n_rows > ctx->max_rows)
        return vd_error_set(err, VD_EUSE, "%zu rows in one call; this context takes 1 to %zu", n_rows,
                            ctx->max_rows);
    all->n = n_rows;
    sub->n = ctx->head.n = 0;
    for (size_t t = 0; t < n_rows; t++) {
        bool logits = rows[t].flags & VD_ROW_LOGITS, hidden = rows[t].flags != 0;
        enum vd_err rc = check_row(ctx, rows, t, err);
        if (rc != VD_OK)
            return rc;
        if (logits && ctx->head.n == ctx->max_logits)
            return vd_error_set(err, VD_EUSE, "more than %zu rows of one call want logits", ctx->max_logits);
        all->row[t] = (struct row){rows[t].kv, vd_kv_page_table(rows[t].kv), rows[t].pos, (uint32_t)t};
        ctx->logits_slot[t] = logits ? ctx->head.n : SIZE_MAX;
        ctx->hidden_slot[t] = hidden ? sub->n : SIZE_MAX;
        if (logits)
            ctx->head.source[ctx->head.n++] = sub->n;
        if (hidden)
            sub->row[sub->n++] = all->row[t];
    }
    ctx->last = sub->n == n_rows ? all : sub;
    find_runs(all);
    find_runs(sub);
    return VD_OK;
}

/* Claims every sequence once and makes room in it. */
static enum vd_err reserve_runs(struct vd_ctx *ctx, struct vd_error *err)
{
    const struct rows *r = &ctx->all;
    enum vd_err rc = VD_OK;
    size_t i = 0;
    for (; i < r->n_runs && rc == VD_OK; i++) {
        const struct row *first = &r->row[r->run[i].first];
        if (!vd_kv_claim(first->kv)) {
            rc = vd_error_set(err, VD_EUSE, "row %zu: its sequence's rows do not stand together",
                              r->run[i].first);
            break;
        }
        rc = vd_kv_reserve(first->kv, first->pos + r->run[i].count, err);
    }
    while (i-- > 0)
        vd_kv_unclaim(r->row[r->run[i].first].kv);
    return rc;
}

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static void run(struct vd_ctx *ctx)
{
    size_t n = ctx->all.n;
    if (n > ctx->max_few) {
        vd_pool_region(ctx->pool, many_rows, ctx);
        return;
    }
    bool alone = ctx->n_threads > 1 && vd_pace_alone(&ctx->pace, n);
    double start = now_ns();
    vd_pool_region(alone ? ctx->solo : ctx->pool, few_rows, ctx);
    vd_pace_note(&ctx->pace, n, alone, now_ns() - start);
}

enum vd_err vd_model_forward(struct vd_ctx *ctx, const struct vd_row *rows, size_t n_rows,
                             const struct vd_tap *tap, struct vd_error *err)
{
    enum vd_err rc = take_rows(ctx, rows, n_rows, err);
    if (rc == VD_OK)
        rc = reserve_runs(ctx, err);
    if (rc != VD_OK) {
        ctx->all.n = 0;
        return rc;
    }
    ctx->call = rows;
    ctx->tap = tap;
    run(ctx);
    for (size_t i = 0; i < ctx->all.n_runs; i++) {
        const struct run *run = &ctx->all.run[i];
        vd_kv_set_len(ctx->all.row[run->first].kv, ctx->all.row[run->first].pos + run->count);
    }
    return VD_OK;
}
