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
 * With experts a tile of rows would read most experts' weights for a few rows each: such models take all
 * calls as few rows, where all rows of an expert stand together.
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
#include "vd_forward_impl.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum {
    FEW_ROWS = 48, /* per thread: from here on there are many rows, but for models with experts */
};

/* ------------------------- creation ------------------------- */

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
    r->rope = carve(c, ctx->max_rows * dims->n_tables * 2 * dims->n_pairs * sizeof(float));
    r->q = carve(c, ctx->m->encoder ? ctx->max_rows * vd_model_q_row_bytes(ctx->m) : 0);
}

/* A form that no matrix of the model reads takes no memory. */
static void carve_acts(struct carve *c, const struct vd_model *m, size_t n_rows, size_t cols, struct acts *a)
{
    size_t cols256 = (cols + VD_KERN_BLOCK256 - 1) / VD_KERN_BLOCK256 * VD_KERN_BLOCK256;
    a->by32 = carve(c, m->all_forms & VD_ACT_FORM_32 ? m->kern->act_bytes(n_rows, cols) : 0);
    a->by256 = carve(c, m->all_forms & VD_ACT_FORM_256 ? m->kern->act256_bytes(n_rows, cols256) : 0);
}

static size_t widest(const struct vd_dims *dims)
{
    return vd_fw_max(vd_fw_max(dims->d, dims->q_cols), dims->ff);
}

static void carve_route(struct carve *c, const struct vd_dims *dims, size_t n_rows, struct route *r)
{
    size_t n = dims->n_experts ? n_rows * dims->n_used : 0;
    r->expert = carve(c, n * sizeof *r->expert);
    r->weight = carve(c, n * sizeof *r->weight);
    r->place = carve(c, n * sizeof *r->place);
    r->source = carve(c, n * sizeof *r->source);
    r->next = carve(c, dims->n_experts * sizeof *r->next);
    r->run = carve(c, dims->n_experts * sizeof *r->run);
}

static void carve_thread(struct carve *c, const struct vd_ctx *ctx, struct thread_buf *t)
{
    const struct vd_model *m = ctx->m;
    const struct vd_dims *dims = &m->dims;
    size_t experts = dims->n_experts ? 1 : 0;
    t->h = carve(c, TILE_ROWS * dims->d * sizeof(float));
    t->gate = carve(c, (1 - experts) * TILE_ROWS * dims->ff * sizeof(float));
    t->up = carve(c, TILE_ROWS * FF_STEP * sizeof(float));
    carve_acts(c, m, TILE_ROWS, widest(dims), &t->act);
    t->sorted = carve(c, experts * REDUNDANT_ROWS * dims->d * sizeof(float));
    carve_route(c, dims, ctx->max_few, &t->route);
    t->scratch = carve(c, m->kern->scratch_bytes(widest(dims), dims->hd));
    t->k = carve(c, vd_model_k_row_bytes(m));
    t->v = carve(c, vd_model_v_row_bytes(m));
    t->query = carve(c, TILE_ROWS * (dims->n_heads / dims->n_kv) * sizeof *t->query);
}

static void carve_team(struct carve *c, const struct vd_ctx *ctx, struct team_buf *t)
{
    const struct vd_dims *dims = &ctx->m->dims;
    size_t n = ctx->max_few, experts = dims->n_experts ? 1 : 0;
    t->h = carve(c, n * dims->d * sizeof(float));
    t->tmp = carve(c, n * dims->d * sizeof(float));
    t->gate = carve(c, n * dims->n_used * dims->ff * sizeof(float));
    t->up = carve(c, experts ? 0 : n * dims->ff * sizeof(float));
    carve_acts(c, ctx->m, n * dims->n_used, widest(dims), &t->act);
    t->router = carve(c, n * dims->n_experts * sizeof(float));
    t->sorted = carve(c, experts * n * dims->n_used * dims->d * sizeof(float));
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
    carve_acts(c, m, ctx->max_logits, m->dims.d, &ctx->head.act);
    ctx->head.logits = carve(c, m->encoder ? 0 : ctx->max_logits * m->dims.vocab * sizeof(float));
    if (m->head.split) {
        struct screen *sc = &ctx->head.screen;
        size_t n = ctx->n_threads * SCREEN_ROWS;
        sc->high = carve(c, SCREEN_ROWS * vd_fw_groups(m) * sizeof *sc->high);
        sc->low = carve(c, n * sizeof *sc->low);
        sc->first = carve(c, n * sizeof *sc->first);
    }
    carve_team(c, ctx, &ctx->team);
    ctx->thread = carve(c, ctx->n_threads * sizeof *ctx->thread);
    for (unsigned t = 0; t < ctx->n_threads; t++) {
        struct thread_buf sizes;
        carve_thread(c, ctx, c->base ? &ctx->thread[t] : &sizes);
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
    ctx->max_logits = vd_fw_min(max_logits, max_rows);
    ctx->max_paced = vd_fw_min(max_rows, (size_t)FEW_ROWS * ctx->n_threads);
    ctx->max_few = m->dims.n_experts ? max_rows : ctx->max_paced;
    ctx->last = &ctx->all;
    ctx->ld_qkv = vd_fw_max(m->dims.q_cols + 2 * m->dims.k_cols, m->dims.d);
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

void vd_ctx_set_cancel(struct vd_ctx *ctx, const atomic_bool *cancel)
{
    ctx->cancel = cancel;
}

void vd_ctx_set_before(struct vd_ctx *ctx, bool (*go_on)(void *arg), void *arg)
{
    ctx->go_on = go_on;
    ctx->go_on_arg = arg;
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
    assert(row < ctx->all.n && ctx->logits_slot[row] != SIZE_MAX && !vd_ctx_first(ctx, row));
    return ctx->head.logits + ctx->logits_slot[row] * ctx->m->dims.vocab;
}

const struct vd_sample_max *vd_ctx_first(const struct vd_ctx *ctx, size_t row)
{
    assert(row < ctx->all.n && ctx->logits_slot[row] != SIZE_MAX);
    return ctx->head.screen.on ? &ctx->head.screen.first[ctx->logits_slot[row]] : NULL;
}

void vd_ctx_take_first(const struct vd_ctx *ctx, size_t row, struct vd_sample_max *out)
{
    const struct vd_sample_max *first = vd_ctx_first(ctx, row);
    if (first)
        *out = *first;
    else
        ctx->m->kern->sample_max(vd_ctx_logits(ctx, row), 0, ctx->m->dims.vocab, out);
}

const float *vd_ctx_hidden(const struct vd_ctx *ctx, size_t row)
{
    assert(row < ctx->all.n && ctx->hidden_slot[row] != SIZE_MAX);
    return ctx->last->x + ctx->hidden_slot[row] * ctx->m->dims.d;
}

/* ------------------------- the call ------------------------- */

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

/* Every position of a sequence attends to all of them. */
static void see_everything(struct rows *r)
{
    for (size_t i = 0; i < r->n_runs; i++)
        for (size_t t = r->run[i].first; t < r->run[i].first + r->run[i].count; t++)
            r->row[t].end = (uint32_t)r->run[i].count;
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
    if (ctx->m->encoder && !follows && row->pos != 0)
        return vd_error_set(err, VD_EUSE, "row %zu: an encoder's sequence is fed whole, from position 0", t);
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
    bool screen = true;
    all->n = n_rows;
    sub->n = ctx->head.n = 0;
    for (size_t t = 0; t < n_rows; t++) {
        bool logits = rows[t].flags & VD_ROW_LOGITS && !ctx->m->encoder;
        bool hidden = rows[t].flags != 0 || ctx->m->encoder;
        enum vd_err rc = check_row(ctx, rows, t, err);
        if (rc != VD_OK)
            return rc;
        if (logits && ctx->head.n == ctx->max_logits)
            return vd_error_set(err, VD_EUSE, "more than %zu rows of one call want logits", ctx->max_logits);
        struct vd_kv *kv = rows[t].kv;
        all->row[t] = (struct row){kv,
                                   {vd_kv_page_table(kv, VD_KV_WHOLE), vd_kv_page_table(kv, VD_KV_WINDOW)},
                                   rows[t].pos,
                                   (uint32_t)t,
                                   rows[t].pos + 1};
        ctx->logits_slot[t] = logits ? ctx->head.n : SIZE_MAX;
        ctx->hidden_slot[t] = hidden ? sub->n : SIZE_MAX;
        if (logits)
            ctx->head.source[ctx->head.n++] = sub->n;
        screen = screen && (!logits || rows[t].flags & VD_ROW_FIRST);
        if (hidden)
            sub->row[sub->n++] = all->row[t];
    }
    vd_fw_screen_begin(ctx, screen);
    ctx->last = sub->n == n_rows ? all : sub;
    find_runs(all);
    if (ctx->m->encoder)
        see_everything(all);
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
        rc = vd_kv_begin(first->kv, first->pos + r->run[i].count, err);
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
        vd_pool_region(ctx->pool, vd_fw_many_rows, ctx);
        return;
    }
    bool paced = ctx->n_threads > 1 && n <= ctx->max_paced, alone = paced && vd_pace_alone(&ctx->pace, n);
    double start = now_ns();
    vd_pool_region(alone ? ctx->solo : ctx->pool, vd_fw_few_rows, ctx);
    if (paced && atomic_load(&ctx->ended) == SIZE_MAX)
        vd_pace_note(&ctx->pace, n, alone, now_ns() - start);
}

enum vd_err vd_model_forward(struct vd_ctx *ctx, const struct vd_row *rows, size_t n_rows,
                             const struct vd_tap *tap, struct vd_error *err)
{
    if ((ctx->cancel && atomic_load(ctx->cancel)) || (ctx->go_on && !ctx->go_on(ctx->go_on_arg)))
        return vd_error_set(err, VD_ECANCELLED, "stopping");
    enum vd_err rc = take_rows(ctx, rows, n_rows, err);
    if (rc == VD_OK)
        rc = reserve_runs(ctx, err);
    if (rc != VD_OK) {
        ctx->all.n = 0;
        return rc;
    }
    ctx->call = rows;
    ctx->tap = tap;
    atomic_store(&ctx->ended, SIZE_MAX);
    run(ctx);
    if (atomic_load(&ctx->ended) != SIZE_MAX) {
        ctx->all.n = 0;
        return vd_error_set(err, VD_ECANCELLED, "stopping");
    }
    vd_fw_screen_end(ctx);
    for (size_t i = 0; i < ctx->all.n_runs; i++) {
        const struct run *run = &ctx->all.run[i];
        vd_kv_set_len(ctx->all.row[run->first].kv, ctx->all.row[run->first].pos + run->count);
    }
    return VD_OK;
}
