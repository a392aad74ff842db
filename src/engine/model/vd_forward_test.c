/* The forward pass on small random models: against a plain one-token-at-a-time pass written with src/num, and
 * against itself under every cut, mix of sequences, number of threads and kernel table. */
#include "vd_forward.h"

#include "vd_act.h"
#include "vd_attn.h"
#include "vd_dot.h"
#include "vd_norm.h"
#include "vd_num.h"
#include "vd_quant.h"
#include "vd_rope.h"
#include "vd_test_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { N_TOK = 150, ROWS_MAX = 256, WIDEST = 1024 };

/* ------------------------- the reference ------------------------- */

/* Canonical rows of one position of one layer. */
struct ref_row {
    int8_t k[WIDEST], v[WIDEST];
    float kd[WIDEST / 32], vd[16];
};

struct ref {
    const struct vd_model *m;
    const struct vd_program *p;
    struct ref_row *rows; /* [layer][position] */
    float *x;             /* [position][layer + 1][width]: residual rows after embedding and each layer */
    float *logits;        /* [position][vocab] */
};

static struct ref_row *ref_row(const struct ref *r, uint32_t layer, uint32_t pos)
{
    return &r->rows[(size_t)layer * N_TOK + pos];
}

static float *ref_x(const struct ref *r, uint32_t pos, uint32_t unit)
{
    return r->x + ((size_t)pos * (r->p->n_layers + 1) + unit) * r->p->width;
}

static void ref_product(const struct ref *r, uint32_t tensor, const float *in, float *out)
{
    struct vd_tensor_shape s = vd_program_tensor(r->p, tensor);
    int8_t q[WIDEST];
    float d[WIDEST / 32];
    vd_num_quant8_blocks(in, s.cols, q, d);
    for (uint32_t i = 0; i < s.rows; i++) {
        const uint8_t *w = vd_model_tensor_bytes(r->m, tensor, i).p;
        out[i] = vd_wtype_info(s.type)->quantised ? vd_num_dot_row(s.type, w, q, d, s.cols)
                                                  : vd_num_dot_row_float(s.type, w, in, s.cols);
    }
}

static void ref_norm(const struct ref *r, uint32_t tensor, const float *x, float *out)
{
    vd_num_rmsnorm(x, (const float *)(const void *)vd_model_tensor_bytes(r->m, tensor, 0).p, r->p->width,
                   r->p->eps, out);
}

static void ref_head(const struct ref *r, uint32_t layer, uint32_t pos, uint32_t h, float *q)
{
    uint32_t hd = r->p->head_dim, g = h / (r->p->n_heads / r->p->n_kv_heads);
    int8_t qq[WIDEST];
    float qd[WIDEST / 32], m = 0, l = 0, o[WIDEST], oc[WIDEST], score[VD_CHUNK_KEYS], dv[VD_CHUNK_KEYS];
    vd_num_quant8_blocks(q, hd, qq, qd);
    for (uint32_t first = 0; first <= pos; first += VD_CHUNK_KEYS) {
        uint32_t n = pos + 1 - first < VD_CHUNK_KEYS ? pos + 1 - first : VD_CHUNK_KEYS;
        struct vd_chunk c;
        for (uint32_t j = 0; j < n; j++) {
            const struct ref_row *row = ref_row(r, layer, first + j);
            score[j] = vd_num_score(qq, qd, row->k + g * hd, row->kd + g * hd / 32, hd, r->p->attn_scale);
            dv[j] = row->vd[g];
        }
        vd_num_chunk(score, dv, 0, n, &c);
        vd_num_chunk_v(&c, ref_row(r, layer, first)->v + g * hd, sizeof(struct ref_row), hd, oc);
        if (first == 0) {
            m = c.m;
            l = c.l;
            memcpy(o, oc, hd * sizeof *o);
        } else {
            vd_num_merge(&m, &l, o, c.m, c.l, oc, hd);
        }
    }
    vd_num_attn_finish(l, o, hd, q);
}

static void ref_layer(const struct ref *r, uint32_t layer, uint32_t pos)
{
    const struct vd_program *p = r->p;
    uint32_t hd = p->head_dim;
    float h[WIDEST], q[WIDEST], k[WIDEST], v[WIDEST], y[WIDEST], gate[WIDEST], up[WIDEST];
    const float *x = ref_x(r, pos, layer);
    float *out = ref_x(r, pos, layer + 1);
    struct ref_row *row = ref_row(r, layer, pos);
    ref_norm(r, vd_program_layer_tensor(p, layer, VD_T_ATTN_NORM), x, h);
    ref_product(r, vd_program_layer_tensor(p, layer, VD_T_ATTN_Q), h, q);
    ref_product(r, vd_program_layer_tensor(p, layer, VD_T_ATTN_K), h, k);
    ref_product(r, vd_program_layer_tensor(p, layer, VD_T_ATTN_V), h, v);
    for (uint32_t g = 0; g < p->n_kv_heads; g++) {
        vd_num_rope_head(k + g * hd, 2 * p->n_rope, pos, p->rope_steps[0], p->rope_pairing == VD_ROPE_HALVES);
        vd_num_quant8_blocks(k + g * hd, hd, row->k + g * hd, row->kd + g * hd / 32);
        vd_num_quant8(v + g * hd, hd, row->v + g * hd, &row->vd[g]);
    }
    for (uint32_t i = 0; i < p->n_heads; i++) {
        vd_num_rope_head(q + i * hd, 2 * p->n_rope, pos, p->rope_steps[0], p->rope_pairing == VD_ROPE_HALVES);
        ref_head(r, layer, pos, i, q + i * hd);
    }
    ref_product(r, vd_program_layer_tensor(p, layer, VD_T_ATTN_OUTPUT), q, y);
    vd_num_residual(x, y, p->width, out);
    ref_norm(r, vd_program_layer_tensor(p, layer, VD_T_FFN_NORM), out, h);
    ref_product(r, vd_program_layer_tensor(p, layer, VD_T_FFN_GATE), h, gate);
    ref_product(r, vd_program_layer_tensor(p, layer, VD_T_FFN_UP), h, up);
    vd_num_swiglu(gate, up, p->ff_width, gate);
    ref_product(r, vd_program_layer_tensor(p, layer, VD_T_FFN_DOWN), gate, y);
    vd_num_residual(out, y, p->width, out);
}

static void ref_run(struct ref *r, const struct vd_model *m, const uint32_t *tokens, uint32_t n)
{
    float h[WIDEST];
    const struct vd_program *p = r->p = vd_model_program(m);
    r->m = m;
    r->rows = calloc((size_t)p->n_layers * N_TOK, sizeof *r->rows);
    r->x = calloc((size_t)N_TOK * (p->n_layers + 1) * p->width, sizeof *r->x);
    r->logits = calloc((size_t)N_TOK * p->vocab, sizeof *r->logits);
    for (uint32_t pos = 0; pos < n; pos++) {
        struct vd_tensor_shape e = vd_program_tensor(p, 0);
        vd_num_dequant(e.type, vd_model_tensor_bytes(m, 0, tokens[pos]).p, 0, p->width, ref_x(r, pos, 0));
        for (uint32_t l = 0; l < p->n_layers; l++)
            ref_layer(r, l, pos);
        ref_norm(r, vd_program_norm_tensor(p), ref_x(r, pos, p->n_layers), h);
        ref_product(r, vd_program_head_tensor(p), h, r->logits + (size_t)pos * p->vocab);
    }
}

static void ref_free(struct ref *r)
{
    free(r->rows);
    free(r->x);
    free(r->logits);
}

/* ------------------------- the engine ------------------------- */

struct engine {
    struct vd_pool *pool;
    struct vd_model *m;
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
};

static void engine_open(struct engine *e, const char *path, const struct vd_kern *kern, unsigned threads)
{
    struct vd_error err;
    assert_int_equal(vd_pool_create(&e->pool, threads, &err), VD_OK);
    assert_int_equal(vd_model_open(&e->m, path, kern, e->pool, &err), VD_OK);
    assert_int_equal(vd_ctx_create(&e->ctx, e->m, e->pool, ROWS_MAX, ROWS_MAX, &err), VD_OK);
    assert_int_equal(vd_kv_pool_create(&e->cache, e->m, SIZE_MAX, &err), VD_OK);
}

static void engine_close(struct engine *e)
{
    vd_kv_pool_destroy(e->cache);
    vd_ctx_destroy(e->ctx);
    vd_model_close(e->m);
    vd_pool_destroy(e->pool);
}

static struct vd_kv *open_kv(struct engine *e)
{
    struct vd_kv *kv;
    assert_int_equal(vd_kv_open(&kv, e->cache, NULL), VD_OK);
    return kv;
}

/* Feeds tokens [from, to) and compares every logit with `want`, rows of vocab. */
static void feed_compare(struct engine *e, struct vd_kv *kv, const uint32_t *tokens, uint32_t from,
                         uint32_t to, const float *want)
{
    struct vd_row rows[ROWS_MAX];
    size_t vocab = vd_model_program(e->m)->vocab;
    for (uint32_t i = from; i < to; i++)
        rows[i - from] = (struct vd_row){kv, i, tokens[i], VD_ROW_LOGITS};
    assert_int_equal(vd_model_forward(e->ctx, rows, to - from, NULL, NULL), VD_OK);
    for (uint32_t i = from; i < to; i++)
        assert_memory_equal(vd_ctx_logits(e->ctx, i - from), want + i * vocab, vocab * sizeof(float));
}

static void some_tokens(uint32_t *tokens, uint32_t vocab, uint64_t seed)
{
    struct vd_rng r = {seed, 0};
    for (uint32_t i = 0; i < N_TOK; i++)
        tokens[i] = (uint32_t)vd_rng_below(&r, vocab);
}

/* The tables that this CPU has, at most 4. */
static size_t tables(const struct vd_kern *out[4])
{
    static const char *const names[] = {"scalar", "avx2", "avx512", "neon"};
    size_t n = 0;
    for (size_t i = 0; i < 4; i++)
        if ((out[n] = vd_kern_pick(names[i], NULL)) != NULL)
            n++;
    return n;
}

/* ------------------------- tests ------------------------- */

static void compare_model(const struct vd_test_model *t)
{
    const struct vd_kern *kern[4];
    size_t n_tables = tables(kern);
    char path[VD_PATH_MAX];
    uint32_t tokens[N_TOK];
    vd_test_model_file(t, path);
    some_tokens(tokens, t->vocab, t->seed);
    struct ref ref = {0};
    for (size_t i = 0; i < n_tables; i++) {
        struct engine e;
        engine_open(&e, path, kern[i], 2);
        if (i == 0)
            ref_run(&ref, e.m, tokens, N_TOK);
        ref.m = e.m;
        ref.p = vd_model_program(e.m);
        struct vd_kv *kv = open_kv(&e);
        feed_compare(&e, kv, tokens, 0, N_TOK, ref.logits);
        vd_kv_close(kv);
        engine_close(&e);
    }
    ref_free(&ref);
    unlink(path);
}

static void equals_num_q4_1(void **state)
{
    compare_model(&vd_test_model_default);
}

static void equals_num_other_types(void **state)
{
    static const enum vd_wtype types[][2] = {
        {VD_WTYPE_Q4_0, VD_WTYPE_F16},  {VD_WTYPE_Q8_0, VD_WTYPE_Q4_0}, {VD_WTYPE_F16, VD_WTYPE_F32},
        {VD_WTYPE_F32, VD_WTYPE_Q8_0},  {VD_WTYPE_Q5_0, VD_WTYPE_BF16}, {VD_WTYPE_Q5_1, VD_WTYPE_Q5_0},
        {VD_WTYPE_BF16, VD_WTYPE_Q5_1},
    };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        struct vd_test_model t = vd_test_model_default;
        t.mats = types[i][0];
        t.embd = types[i][1];
        t.untied = i % 2;
        t.n_layers = 1 + i % 2;
        t.seed = 10 + i;
        compare_model(&t);
    }
}

static void any_cut_any_threads(void **state)
{
    static const uint32_t cuts[] = {1, 7, 16, 33, 64, 100, 149};
    char path[VD_PATH_MAX];
    uint32_t tokens[N_TOK];
    vd_test_model_file(&vd_test_model_default, path);
    some_tokens(tokens, vd_test_model_default.vocab, 3);
    struct ref ref = {0};
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct engine e;
        engine_open(&e, path, vd_kern_pick(NULL, NULL), threads);
        if (threads == 1)
            ref_run(&ref, e.m, tokens, N_TOK);
        for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
            struct vd_kv *kv = open_kv(&e);
            for (uint32_t at = 0; at < N_TOK; at += cuts[c])
                feed_compare(&e, kv, tokens, at, at + cuts[c] < N_TOK ? at + cuts[c] : N_TOK, ref.logits);
            vd_kv_close(kv);
        }
        engine_close(&e);
    }
    ref_free(&ref);
    unlink(path);
}

/* Several sequences of different lengths in one call, few and many rows, with and without wanted outputs. */
static void mixed_batch(void **state)
{
    enum { N_SEQ = 5 };
    char path[VD_PATH_MAX];
    uint32_t tokens[N_SEQ][N_TOK];
    struct ref ref[N_SEQ] = {0};
    struct engine e;
    struct vd_kv *kv[N_SEQ];
    vd_test_model_file(&vd_test_model_default, path);
    engine_open(&e, path, vd_kern_pick(NULL, NULL), 2);
    size_t vocab = vd_model_program(e.m)->vocab, width = vd_model_program(e.m)->width;
    for (unsigned s = 0; s < N_SEQ; s++) {
        some_tokens(tokens[s], (uint32_t)vocab, 40 + s);
        ref_run(&ref[s], e.m, tokens[s], N_TOK);
        kv[s] = open_kv(&e);
    }
    struct vd_rng r = {5, 0};
    for (unsigned step = 0; step < 60; step++) {
        struct vd_row rows[ROWS_MAX];
        size_t n = 0;
        for (unsigned s = 0; s < N_SEQ; s++) {
            uint32_t at = (uint32_t)vd_kv_len(kv[s]);
            uint32_t want = (uint32_t)vd_rng_below(&r, step % 3 ? 4 : 45),
                     end = at + want < N_TOK ? at + want : N_TOK;
            for (; at < end; at++)
                rows[n++] =
                    (struct vd_row){kv[s], at, tokens[s][at], (uint32_t)vd_rng_below(&r, step % 5 ? 4 : 1)};
        }
        if (n == 0)
            continue;
        assert_int_equal(vd_model_forward(e.ctx, rows, n, NULL, NULL), VD_OK);
        for (size_t i = 0; i < n; i++) {
            unsigned s = 0;
            while (kv[s] != rows[i].kv)
                s++;
            if (rows[i].flags & VD_ROW_LOGITS)
                assert_memory_equal(vd_ctx_logits(e.ctx, i), ref[s].logits + rows[i].pos * vocab, vocab * 4);
            if (rows[i].flags)
                assert_memory_equal(vd_ctx_hidden(e.ctx, i), ref_x(&ref[s], rows[i].pos, ref[s].p->n_layers),
                                    width * 4);
        }
    }
    for (unsigned s = 0; s < N_SEQ; s++) {
        assert_int_equal(vd_kv_len(kv[s]), N_TOK);
        vd_kv_close(kv[s]);
        ref_free(&ref[s]);
    }
    engine_close(&e);
    unlink(path);
}

/* ------------------------- the tap ------------------------- */

struct tap_check {
    const struct ref *ref;
    const struct vd_row *rows;
    _Atomic unsigned calls, without_x, wrong;
};

static bool record_equal(const struct ref *r, uint32_t layer, uint32_t pos, const uint8_t *k,
                         const uint8_t *v)
{
    const struct ref_row *row = ref_row(r, layer, pos);
    uint32_t hd = r->p->head_dim;
    bool ok = true;
    for (uint32_t g = 0; g < r->p->n_kv_heads; g++) {
        for (uint32_t b = 0; b < hd / 32; b++, k += 4)
            ok &= vd_le32_load(k) == vd_f32_bits(row->kd[g * hd / 32 + b]);
        ok &= memcmp(k, row->k + g * hd, hd) == 0 && vd_le32_load(v) == vd_f32_bits(row->vd[g]) &&
              memcmp(v + 4, row->v + g * hd, hd) == 0;
        k += hd;
        v += 4 + hd;
    }
    return ok;
}

static void check_tap(void *arg, size_t row, uint32_t unit, const uint8_t *k, const uint8_t *v,
                      const float *x, unsigned thread)
{
    struct tap_check *t = arg;
    uint32_t pos = t->rows[row].pos;
    const struct vd_program *p = t->ref->p;
    bool x_due = unit < p->n_layers || t->rows[row].flags;
    bool ok = (x != NULL) == x_due && (k != NULL) == (unit > 0) && (v != NULL) == (unit > 0);
    if (ok && x)
        ok = memcmp(x, ref_x(t->ref, pos, unit), p->width * sizeof *x) == 0;
    if (ok && k)
        ok = record_equal(t->ref, unit - 1, pos, k, v);
    t->calls++;
    t->without_x += x == NULL;
    t->wrong += !ok;
}

static void tap_tells_all(void **state)
{
    static const uint32_t cuts[] = {1, 20, N_TOK};
    char path[VD_PATH_MAX];
    uint32_t tokens[N_TOK];
    struct ref ref = {0};
    struct engine e;
    vd_test_model_file(&vd_test_model_default, path);
    engine_open(&e, path, vd_kern_pick(NULL, NULL), 2);
    some_tokens(tokens, vd_test_model_default.vocab, 6);
    ref_run(&ref, e.m, tokens, N_TOK);
    size_t n_k = vd_model_k_row_bytes(e.m), n_v = vd_model_v_row_bytes(e.m);
    uint8_t *k = malloc(n_k), *v = malloc(n_v);
    for (size_t c = 0; c < 3; c++) {
        struct vd_kv *kv = open_kv(&e);
        struct vd_row rows[N_TOK];
        struct tap_check check = {.ref = &ref, .rows = rows};
        struct vd_tap tap = {check_tap, &check};
        for (uint32_t i = 0; i < N_TOK; i++)
            rows[i] = (struct vd_row){kv, i, tokens[i], i >= 100 ? VD_ROW_LOGITS : 0};
        for (uint32_t at = 0; at < N_TOK; at += cuts[c]) {
            check.rows = rows + at;
            assert_int_equal(
                vd_model_forward(e.ctx, rows + at, at + cuts[c] < N_TOK ? cuts[c] : N_TOK - at, &tap, NULL),
                VD_OK);
        }
        assert_int_equal(check.calls, N_TOK * (ref.p->n_layers + 1));
        assert_int_equal(check.without_x, 100);
        assert_int_equal(check.wrong, 0);
        for (uint32_t pos = 0; pos < N_TOK; pos++) {
            vd_kv_read(kv, 1, pos, k, v);
            assert_true(record_equal(&ref, 1, pos, k, v));
        }
        vd_kv_close(kv);
    }
    free(k);
    free(v);
    ref_free(&ref);
    engine_close(&e);
    unlink(path);
}

/* ------------------------- cutting and forking ------------------------- */

static void fork_and_truncate(void **state)
{
    char path[VD_PATH_MAX];
    uint32_t a[N_TOK], b[N_TOK];
    struct ref ref_a = {0}, ref_b = {0};
    struct engine e;
    struct vd_kv *kv, *child;
    vd_test_model_file(&vd_test_model_default, path);
    engine_open(&e, path, vd_kern_pick(NULL, NULL), 2);
    some_tokens(a, vd_test_model_default.vocab, 7);
    some_tokens(b, vd_test_model_default.vocab, 8);
    memcpy(b, a, 90 * sizeof *a); /* a common prefix that ends inside a page */
    ref_run(&ref_a, e.m, a, N_TOK);
    ref_run(&ref_b, e.m, b, N_TOK);
    kv = open_kv(&e);
    feed_compare(&e, kv, a, 0, 120, ref_a.logits);
    assert_int_equal(vd_kv_pool_used_pages(e.cache), 2);
    assert_int_equal(vd_kv_fork(&child, kv, 90, NULL), VD_OK);
    assert_int_equal(vd_kv_pool_used_pages(e.cache), 2); /* shared */
    feed_compare(&e, child, b, 90, 130, ref_b.logits);
    assert_int_equal(vd_kv_pool_used_pages(e.cache), 4); /* the second page was copied, a third is new */
    feed_compare(&e, kv, a, 120, N_TOK, ref_a.logits);   /* the parent is untouched */
    vd_kv_truncate(kv, 70);
    feed_compare(&e, kv, a, 70, N_TOK, ref_a.logits);
    vd_kv_truncate(kv, 10);
    assert_int_equal(vd_kv_pool_used_pages(e.cache), 3); /* one shared, two of the child */
    vd_kv_close(kv);
    feed_compare(&e, child, b, 130, N_TOK, ref_b.logits);
    vd_kv_close(child);
    assert_int_equal(vd_kv_pool_used_pages(e.cache), 0);
    ref_free(&ref_a);
    ref_free(&ref_b);
    engine_close(&e);
    unlink(path);
}

static void bad_calls_change_nothing(void **state)
{
    char path[VD_PATH_MAX];
    struct engine e;
    struct vd_error err;
    vd_test_model_file(&vd_test_model_default, path);
    engine_open(&e, path, vd_kern_pick(NULL, NULL), 1);
    struct vd_kv *kv = open_kv(&e), *other = open_kv(&e);
    struct vd_row token[] = {{kv, 0, vd_test_model_default.vocab, 0}};
    struct vd_row gap[] = {{kv, 0, 1, 0}, {kv, 2, 1, 0}};
    struct vd_row start[] = {{kv, 1, 1, 0}};
    struct vd_row twice[] = {{kv, 0, 1, 0}, {other, 0, 1, 0}, {kv, 0, 1, 0}};
    assert_int_equal(vd_model_forward(e.ctx, token, 1, NULL, &err), VD_EUSE);
    assert_int_equal(vd_model_forward(e.ctx, gap, 2, NULL, &err), VD_EUSE);
    assert_int_equal(vd_model_forward(e.ctx, start, 1, NULL, &err), VD_EUSE);
    assert_int_equal(vd_model_forward(e.ctx, twice, 3, NULL, &err), VD_EUSE);
    assert_int_equal(vd_model_forward(e.ctx, start, 0, NULL, &err), VD_EUSE);
    assert_int_equal(vd_kv_len(kv) + vd_kv_len(other), 0);
    assert_int_equal(vd_kv_reserve(kv, vd_test_model_default.ctx + 1, &err), VD_ELIMIT);
    struct vd_row good[] = {{kv, 0, 1, 0}, {other, 0, 1, 0}};
    assert_int_equal(vd_model_forward(e.ctx, good, 2, NULL, &err), VD_OK);
    vd_kv_close(kv);
    vd_kv_close(other);
    engine_close(&e);
    unlink(path);
}

static void cache_limit_holds(void **state)
{
    char path[VD_PATH_MAX];
    struct engine e;
    struct vd_error err;
    struct vd_kv_pool *small;
    struct vd_kv *a, *b;
    vd_test_model_file(&vd_test_model_default, path);
    engine_open(&e, path, vd_kern_pick(NULL, NULL), 1);
    size_t page = vd_kv_pool_page_bytes(e.cache);
    assert_int_equal(vd_kv_pool_create(&small, e.m, page - 1, &err), VD_EUSE);
    assert_int_equal(vd_kv_pool_create(&small, e.m, 3 * page + 7, &err), VD_OK);
    assert_int_equal(vd_kv_pool_max_pages(small), 3);
    assert_int_equal(vd_kv_open(&a, small, &err), VD_OK);
    assert_int_equal(vd_kv_open(&b, small, &err), VD_OK);
    assert_int_equal(vd_kv_reserve(a, 129, &err), VD_OK);
    assert_int_equal(vd_kv_reserve(b, 1, &err), VD_ENOMEM);
    assert_int_equal(vd_kv_pool_used_pages(small), 3);
    vd_kv_close(a);
    assert_int_equal(vd_kv_reserve(b, 1, &err), VD_OK);
    vd_kv_close(b);
    vd_kv_pool_destroy(small);
    engine_close(&e);
    unlink(path);
}

/* A context long enough for the cut along chunks, with more threads than kv heads. */
static void long_context_is_split(void **state)
{
    enum { N = 700 };
    struct vd_test_model t = vd_test_model_default;
    char path[VD_PATH_MAX];
    struct vd_row rows[ROWS_MAX];
    float *want = NULL;
    t.ctx = 1024;
    t.n_layers = 2;
    vd_test_model_file(&t, path);
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct engine e;
        engine_open(&e, path, vd_kern_pick(NULL, NULL), threads);
        struct vd_kv *kv = open_kv(&e);
        while (vd_kv_len(kv) < N) {
            uint32_t at = (uint32_t)vd_kv_len(kv), n = N - at < ROWS_MAX ? N - at : ROWS_MAX;
            for (uint32_t i = 0; i < n; i++)
                rows[i] = (struct vd_row){kv, at + i, (at + i) * 31 % t.vocab, 0};
            assert_int_equal(vd_model_forward(e.ctx, rows, n, NULL, NULL), VD_OK);
        }
        for (uint32_t i = 0; i < 3; i++)
            rows[i] = (struct vd_row){kv, N + i, i, i ? VD_ROW_LOGITS : 0};
        assert_int_equal(vd_model_forward(e.ctx, rows, 3, NULL, NULL), VD_OK);
        if (threads == 1) {
            want = malloc(2 * t.vocab * sizeof *want);
            memcpy(want, vd_ctx_logits(e.ctx, 1), t.vocab * sizeof *want);
            memcpy(want + t.vocab, vd_ctx_logits(e.ctx, 2), t.vocab * sizeof *want);
        }
        assert_memory_equal(vd_ctx_logits(e.ctx, 1), want, t.vocab * sizeof *want);
        assert_memory_equal(vd_ctx_logits(e.ctx, 2), want + t.vocab, t.vocab * sizeof *want);
        vd_kv_close(kv);
        engine_close(&e);
    }
    free(want);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_num_q4_1),
        cmocka_unit_test(equals_num_other_types),
        cmocka_unit_test(any_cut_any_threads),
        cmocka_unit_test(mixed_batch),
        cmocka_unit_test(tap_tells_all),
        cmocka_unit_test(fork_and_truncate),
        cmocka_unit_test(bad_calls_change_nothing),
        cmocka_unit_test(cache_limit_holds),
        cmocka_unit_test(long_context_is_split),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
