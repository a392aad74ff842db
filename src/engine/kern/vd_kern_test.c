/* Every table against the scalar one (which is src/num), bit for bit; NaN must stand at the same places.
 * Inputs are seeded: ordinary values, subnormals, -0, huge values, infinities and NaN; sizes that do not fill
 * a group, a tile, a segment or a chunk; work cut in every way a caller may cut it. With VD_QUICK set, as
 * under an emulator, the long loops take every fifth step or so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fenv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vd_bytes.h"
#include "vd_dot.h"
#include "vd_kern.h"
#include "vd_num.h"
#include "vd_quant.h"
#include "vd_rng.h"
#include "vd_rope.h"

static const char *const names[] = {"scalar", "avx2", "avxvnni", "avx512", "neon", "neon-i8mm"};
enum { N_NAMES = 6 };
static const enum vd_wtype types[] = {VD_WTYPE_F32,  VD_WTYPE_F16,    VD_WTYPE_BF16,   VD_WTYPE_Q4_0,
                                      VD_WTYPE_Q4_1, VD_WTYPE_Q5_0,   VD_WTYPE_Q5_1,   VD_WTYPE_Q8_0,
                                      VD_WTYPE_Q2_K, VD_WTYPE_Q3_K,   VD_WTYPE_Q4_K,   VD_WTYPE_Q5_K,
                                      VD_WTYPE_Q6_K, VD_WTYPE_IQ4_NL, VD_WTYPE_IQ4_XS, VD_WTYPE_MXFP4};
enum { N_TYPES = sizeof(types) / sizeof(types[0]), N_FLOAT_TYPES = 3 };

/* The step of a loop that may be thinned out. */
static size_t quick(size_t step)
{
    return getenv("VD_QUICK") ? step : 1;
}

static const struct vd_kern *scalar(void)
{
    return vd_kern_pick("scalar", NULL);
}

/* Calls fn for every fast table that this CPU runs. */
static void each_table(void (*fn)(const struct vd_kern *k))
{
    for (int i = 1; i < N_NAMES; i++) {
        const struct vd_kern *k = vd_kern_pick(names[i], NULL);
        if (k != NULL)
            fn(k);
        else
            print_message("skipped on this CPU: %s\n", names[i]);
    }
}

static void *buffer(size_t bytes)
{
    void *p = aligned_alloc(VD_KERN_ALIGN, (bytes + VD_KERN_ALIGN) / VD_KERN_ALIGN * VD_KERN_ALIGN);
    assert_non_null(p);
    memset(p, 0xFF, bytes); /* unset floats are NaN */
    return p;
}

static void assert_same(const float *want, const float *got, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (vd_f32_bits(want[i]) != vd_f32_bits(got[i]) && !(isnan(want[i]) && isnan(got[i])))
            fail_msg("%s: element %zu is %a, the rule says %a", what, i, (double)got[i], (double)want[i]);
}

enum kind { NORMAL, TINY, SUBNORMAL, ZEROS, BIG, HUGE, ONE_NAN, ONE_INF, N_KINDS };

static float random_unit(struct vd_rng *r)
{
    return (float)((int32_t)(vd_rng_next(r) & 0xFFFFFF) - 0x800000) * 0x1p-23f;
}

static void fill(struct vd_rng *r, enum kind kind, float *x, size_t n)
{
    static const float factor[N_KINDS] = {1, 0x1p-92f, 0x1p-130f, 0, 0x1p60f, 0x1p126f, 1, 1};
    for (size_t i = 0; i < n; i++)
        x[i] = random_unit(r) * factor[kind] * (vd_rng_below(r, 40) == 0 ? 0.0f : 1.0f);
    if (kind == HUGE)
        for (size_t i = 0; i < n; i++)
            x[i] *= vd_rng_below(r, 3) == 0 ? 1.75f : 0x1p-20f;
    if (kind == ONE_NAN)
        x[vd_rng_below(r, n)] = vd_f32_from_bits(0xFFC12345);
    if (kind == ONE_INF)
        x[vd_rng_below(r, n)] = vd_rng_below(r, 2) ? INFINITY : -INFINITY;
}

/* File bytes of rows of a type: any codes; scales of all sizes and signs, subnormal and zero ones too. */
static void fill_weights(struct vd_rng *r, enum vd_wtype type, size_t rows, size_t cols, uint8_t *p)
{
    const struct vd_wtype_info *info = vd_wtype_info(type);
    for (size_t b = 0; b < rows * (cols / info->block_elems); b++, p += info->block_bytes) {
        if (type == VD_WTYPE_F32) {
            vd_le32_store(p, vd_f32_bits(random_unit(r)));
            continue;
        }
        if (type == VD_WTYPE_BF16) {
            uint32_t u = vd_f32_bits(random_unit(r)) >> 16;
            vd_le16_store(p, (uint16_t)(vd_rng_below(r, 16) == 0 ? u & 0x807F : u));
            continue;
        }
        for (size_t i = 0; i < info->block_bytes; i++)
            p[i] = (uint8_t)vd_rng_next(r);
        for (size_t i = 0; i < (info->has_min ? 2u : 1u) && type != VD_WTYPE_MXFP4; i++) {
            uint64_t u = vd_rng_next(r);
            uint16_t h =
                (uint16_t)(u % 16 == 0 ? u >> 16 & 0x83FF : (u >> 16 & 0x83FF) + 0x2000 + (u >> 40) % 0x1000);
            vd_le16_store(p + (i == 0 ? info->d_at : info->min_at), u % 64 == 1 ? 0x7BFF : h);
        }
        if (type == VD_WTYPE_MXFP4 && vd_rng_below(r, 4) != 0) /* else any power, the NaN among them */
            p[0] = (uint8_t)(100 + vd_rng_below(r, 32));
    }
}

/* ---- activations ---- */

/* In blocks of 32, or of 256. */
static void check_act_blocks(const struct vd_kern *k, bool wide)
{
    static const size_t many[][5] = {{32, 64, 512, 576, 1536}, {256, 512, 768, 1280, 2048}};
    const size_t *cols = many[wide], block = wide ? 256 : 32;
    for (size_t c = 0; c < 5; c++)
        for (size_t n_tok = 1; n_tok <= 40; n_tok += c == 0 ? 1 : 13) {
            size_t n = cols[c];
            struct vd_rng r = {n_tok, 0};
            float *x = buffer(n_tok * (n + 5) * 4), *d = buffer(2 * n * 4);
            int8_t *q = buffer(2 * n);
            void *act = buffer(wide ? k->act256_bytes(n_tok, n) : k->act_bytes(n_tok, n));
            void (*quant)(const float *, size_t, size_t, size_t, size_t, void *) =
                wide ? k->act256_quant : k->act_quant;
            for (size_t t = 0; t < n_tok; t++)
                for (size_t b = 0; b < n; b += block)
                    fill(&r, (enum kind)vd_rng_below(&r, N_KINDS), x + t * (n + 5) + b, block);
            if (n_tok > 16) /* the second group first */
                quant(x, n + 5, n, 16, n_tok, act);
            quant(x, n + 5, n, 0, n_tok > 16 ? 16 : n_tok, act);
            for (size_t t = 0; t < n_tok; t++) {
                (wide ? vd_num_quant8_blocks256 : vd_num_quant8_blocks)(x + t * (n + 5), n, q, d);
                (wide ? k->act256_read : k->act_read)(act, n, t, q + n, d + n);
                assert_memory_equal(q, q + n, n);
                assert_memory_equal(d, d + n, n / block * 4);
            }
            free(x), free(d), free(q), free(act);
        }
}

static void check_act(const struct vd_kern *k)
{
    check_act_blocks(k, false);
    check_act_blocks(k, true);
}

static void test_act(void **state)
{
    check_act(scalar());
    each_table(check_act);
}

/* amax / 127 exactly between two scales of 11 bits, and next to it; scales next to the least, 2^-100. */
static void check_scale_edges(const struct vd_kern *k)
{
    float x[32] = {0}, d[2];
    int8_t q[2][32];
    void *act = buffer(k->act_bytes(1, 32));
    for (uint32_t i = 0; i < 4096; i++) {
        uint32_t base = i % 2 ? 0x3F800000 : vd_f32_bits(0x1p-100f) - 0x2000;
        x[i % 32] = 127.0f * vd_f32_from_bits(base + (i / 2 % 64) * 0x800 + i / 128 % 3 - 1);
        x[(i + 7) % 32] = -x[i % 32] / 3;
        vd_num_quant8_blocks(x, 32, q[0], &d[0]);
        k->act_quant(x, 32, 32, 0, 1, act);
        k->act_read(act, 32, 0, q[1], &d[1]);
        assert_memory_equal(&d[0], &d[1], 4);
        assert_memory_equal(q[0], q[1], 32);
        x[i % 32] = x[(i + 7) % 32] = 0;
    }
    free(act);
}

static void test_scale_edges(void **state)
{
    each_table(check_scale_edges);
}

/* ---- products ---- */

struct product {
    enum vd_wtype type;
    size_t rows, cols, n_tok;
    uint8_t *file;
    float *x, *want;
};

static void product_make(struct product *p, uint64_t seed)
{
    struct vd_rng r = {seed, 0};
    size_t row_bytes = vd_wtype_row_bytes(p->type, p->cols);
    p->file = buffer(p->rows * row_bytes);
    p->x = buffer(p->n_tok * p->cols * 4);
    p->want = buffer(p->n_tok * p->rows * 4);
    fill_weights(&r, p->type, p->rows, p->cols, p->file);
    for (size_t t = 0; t < p->n_tok; t++)
        fill(&r, t % 3 == 0 ? NORMAL : (enum kind)vd_rng_below(&r, N_KINDS), p->x + t * p->cols, p->cols);
    int8_t *q = buffer(p->cols);
    float *d = buffer(p->cols * 4);
    for (size_t t = 0; t < p->n_tok; t++) {
        if (vd_wtype_info(p->type)->act_block == 256)
            vd_num_quant8_blocks256(p->x + t * p->cols, p->cols, q, d);
        else
            vd_num_quant8_blocks(p->x + t * p->cols, p->cols, q, d);
        for (size_t i = 0; i < p->rows; i++)
            p->want[t * p->rows + i] =
                vd_wtype_info(p->type)->quantised
                    ? vd_num_dot_row(p->type, p->file + i * row_bytes, q, d, (uint32_t)p->cols)
                    : vd_num_dot_row_float(p->type, p->file + i * row_bytes, p->x + t * p->cols,
                                           (uint32_t)p->cols);
    }
    free(q), free(d);
}

static size_t n_bounded, n_unbounded; /* tokens whose outputs were, and were not, finite by the bounds */

static void product_free(struct product *p)
{
    free(p->file), free(p->x), free(p->want);
}

/* The bounds of tokens [t, end) hold in two row ranges; where an output is not finite there are none. */
static void bounds_check(const struct product *p, const struct vd_kern *k, const struct vd_kern_mat *w,
                         const struct vd_kern_rhs *rhs, size_t t, size_t end, void *scratch)
{
    const size_t cut = p->rows / 32 * 16, ld = (p->rows + 15) / 16;
    float *high = buffer(VD_KERN_BOUND_TOKS * ld * 4), low[VD_KERN_BOUND_TOKS];
    for (size_t i = 0; i < VD_KERN_BOUND_TOKS; i++)
        low[i] = -INFINITY;
    bool finite = k->bounds(w, 0, cut, rhs, t, end, high, ld, low, scratch);
    finite = k->bounds(w, cut, p->rows, rhs, t, end, high + cut / 16, ld, low, scratch) && finite;
    for (size_t i = 0; finite && i < end - t; i++) {
        const float *want = p->want + (t + i) * p->rows;
        float most = -INFINITY;
        for (size_t r = 0; r < p->rows; r++) {
            assert_true(isfinite(want[r]) && want[r] <= high[i * ld + r / 16]);
            most = want[r] > most ? want[r] : most;
        }
        assert_true(low[i] <= most);
        n_bounded++;
    }
    n_unbounded += finite ? 0 : end - t;
    free(high);
}

static void product_check_as(const struct product *p, const struct vd_kern *k, bool split)
{
    size_t row_bytes = vd_wtype_row_bytes(p->type, p->cols), ldy = p->rows + 3;
    size_t padded = (p->rows + 15) / 16 * 16, bytes = k->mat_bytes(p->type, p->rows, p->cols);
    assert_true(bytes > 0 && bytes <= (padded * row_bytes + 63) / 64 * 64);
    struct vd_kern_mat w = {p->type, p->rows, p->cols, buffer(bytes), split};
    size_t half = padded / 32 * 16;
    k->mat_pack(&w, half, p->rows, p->file + half * row_bytes);
    k->mat_pack(&w, 0, half, p->file);
    const uint32_t act_block = vd_wtype_info(p->type)->act_block;
    void *act = buffer(act_block == 256 ? k->act256_bytes(p->n_tok, p->cols)
                                        : k->act_bytes(p->n_tok, p->cols)); /* float types do not read it */
    struct vd_kern_rhs rhs = {.act = act, .x = p->x, .ldx = p->cols, .act256 = act};
    if (act_block == 256)
        k->act256_quant(p->x, p->cols, p->cols, 0, p->n_tok, act);
    else
        k->act_quant(p->x, p->cols, p->cols, 0, p->n_tok, act);
    float *y = buffer(p->n_tok * ldy * 4);
    void *scratch = buffer(k->scratch_bytes(p->cols, 64));
    /* whole; then by token runs of length 1, 2, 3, ... and two row ranges */
    for (int cut = 0; cut < 2; cut++) {
        memset(y, 0xFF, p->n_tok * ldy * 4);
        if (cut == 0)
            k->matmul(&w, 0, p->rows, &rhs, 0, p->n_tok, y, ldy, scratch);
        for (size_t t = 0, n = 1; cut == 1 && t < p->n_tok; t += n++) {
            size_t end = t + n < p->n_tok ? t + n : p->n_tok;
            k->matmul(&w, half, p->rows, &rhs, t, end, y, ldy, scratch);
            k->matmul(&w, 0, half, &rhs, t, end, y, ldy, scratch);
        }
        for (size_t t = 0; t < p->n_tok; t++) {
            char what[100];
            snprintf(what, sizeof(what), "%s, type %s, %zu x %zu, token %zu of %zu", k->name,
                     vd_wtype_info(p->type)->name, p->rows, p->cols, t, p->n_tok);
            assert_same(p->want + t * p->rows, y + t * ldy, p->rows, what);
            for (size_t i = p->rows; i < ldy; i++) /* the padding rows are not written */
                assert_int_equal(vd_f32_bits(y[t * ldy + i]), 0xFFFFFFFF);
        }
    }
    for (size_t t = 0, n = 1; split && t < p->n_tok; t += n, n = n % VD_KERN_BOUND_TOKS + 1)
        bounds_check(p, k, &w, &rhs, t, t + n < p->n_tok ? t + n : p->n_tok, scratch);
    free(w.data), free(act), free(y), free(scratch);
}

static void product_check(const struct product *p, const struct vd_kern *k)
{
    product_check_as(p, k, false);
    if (k->can_split && k->can_split(p->type))
        product_check_as(p, k, true);
}

static void check_product(enum vd_wtype type, size_t rows, size_t cols, size_t n_tok)
{
    struct product p = {type, rows, cols, n_tok, NULL, NULL, NULL};
    product_make(&p, rows * 1000003 + cols * 101 + n_tok);
    for (int i = 0; i < N_NAMES; i++)
        if (vd_kern_pick(names[i], NULL) != NULL)
            product_check(&p, vd_kern_pick(names[i], NULL));
    product_free(&p);
}

static void test_products_by_tokens(void **state)
{
    for (int t = 0; t < N_TYPES; t++)
        for (size_t n = 1; n <= 40; n += n < 8 ? 1 : quick(8))
            check_product(types[t], 17 + n % 3 * 16,
                          (vd_wtype_info(types[t])->block_elems == 256 ? 256 : 32) * (1 + n % 5), n);
}

static void test_products_of_models(void **state)
{
    static const size_t shape[][3] = {
        {576, 576, 5}, {192, 576, 19}, {1536, 576, 3}, {576, 1536, 7}, {49152, 64, 2}};
    for (int t = 0; t < N_TYPES; t++)
        for (size_t s = 0; s < 5;
             s += quick(3)) /* a type with super-blocks gets the next width it can have */
            check_product(types[t], shape[s][0],
                          vd_wtype_info(types[t])->block_elems == 256 ? (shape[s][1] + 255) / 256 * 256
                                                                      : shape[s][1],
                          shape[s][2]);
}

/* Slabs: more packed bytes than stay in L2, and more than one token group. */
/* The lower bits are all that bounds do not know, so here they pull every output as far as they can, up or
 * down. All rows are alike: one of the two bounds is nearly reached, and has to hold. */
static void check_bounds_at_worst(const struct vd_kern *k)
{
    enum { ROWS = 48, COLS = 1056, ROW_BYTES = COLS / 32 * 34 };
    if (!k->can_split || !k->can_split(VD_WTYPE_Q8_0))
        return;
    struct vd_rng r = {5, 0};
    for (int up = 0; up < 2; up++) {
        struct product p = {VD_WTYPE_Q8_0,   ROWS, COLS, 1, buffer(ROWS * ROW_BYTES), buffer(COLS * 4),
                            buffer(ROWS * 4)};
        int8_t q[COLS];
        float d[COLS / 32];
        fill(&r, NORMAL, p.x, COLS);
        vd_num_quant8_blocks(p.x, COLS, q, d);
        for (size_t c = 0; c < COLS; c++) {
            uint8_t lower = (q[c] > 0) == up ? 3 : 0;
            p.file[c / 32 * 34 + 2 + c % 32] = (uint8_t)((vd_rng_next(&r) & 0xFC) | lower);
        }
        for (size_t b = 0; b < COLS / 32; b++)
            vd_le16_store(p.file + b * 34, (uint16_t)(0x2000 + vd_rng_below(&r, 0x400)));
        for (size_t i = 0; i < ROWS; i++) {
            memcpy(p.file + i * ROW_BYTES, p.file, i ? ROW_BYTES : 0);
            p.want[i] = vd_num_dot_row(p.type, p.file, q, d, COLS);
        }
        size_t bounded = n_bounded;
        product_check_as(&p, k, true);
        assert_int_equal(n_bounded - bounded, 1);
        product_free(&p);
    }
}

static void test_bounds_at_worst(void **state)
{
    each_table(check_bounds_at_worst);
}

/* Run after the products: bounds were told, and were refused where outputs overflow. */
static void test_bounds_of_products(void **state)
{
    bool split = vd_kern_pick(NULL, NULL)->can_split != NULL;
    print_message("%zu tokens with bounds, %zu without\n", n_bounded, n_unbounded);
    assert_int_equal(split, n_bounded > 10);
    assert_int_equal(split, n_unbounded > 10);
}

static void test_products_in_slabs(void **state)
{
    check_product(VD_WTYPE_Q4_1, 1500, 1056, 34);
    for (int t = N_FLOAT_TYPES; t < N_TYPES; t++)
        check_product(types[t], 500, vd_wtype_info(types[t])->block_elems == 256 ? 1280 : 1056, 18);
}

static void test_odd_float_columns(void **state)
{
    /* float rows need not fill a block; act is then not used */
    static const size_t cols[] = {1, 7, 513, 1031};
    for (int c = 0; c < 4; c++)
        for (int ti = 0; ti < N_FLOAT_TYPES; ti++) {
            struct vd_rng r = {(uint64_t)c, 0};
            size_t n = cols[c], rows = 83, n_tok = 11, row_bytes = vd_wtype_row_bytes(types[ti], n);
            uint8_t *file = buffer(rows * row_bytes);
            float *x = buffer(n * n_tok * 4), *y = buffer(rows * n_tok * 4), *want = buffer(rows * n_tok * 4);
            fill_weights(&r, types[ti], rows, n, file);
            fill(&r, NORMAL, x, n * n_tok);
            for (size_t i = 0; i < rows * n_tok; i++)
                want[i] = vd_num_dot_row_float(types[ti], file + i % rows * row_bytes, x + i / rows * n,
                                               (uint32_t)n);
            for (int i = 0; i < N_NAMES; i++) {
                const struct vd_kern *k = vd_kern_pick(names[i], NULL);
                if (k == NULL)
                    continue;
                struct vd_kern_mat w = {types[ti], rows, n, buffer(k->mat_bytes(types[ti], rows, n)), false};
                struct vd_kern_rhs rhs = {.act = NULL, .x = x, .ldx = n};
                k->mat_pack(&w, 0, rows, file);
                k->matmul(&w, 0, rows, &rhs, 0, n_tok, y, rows, NULL);
                assert_same(want, y, rows * n_tok, k->name);
                free(w.data);
            }
            free(file), free(x), free(y), free(want);
        }
    assert_int_equal(scalar()->mat_bytes(VD_WTYPE_Q4_1, 16, 48), 0);
    assert_int_equal(scalar()->mat_bytes(VD_WTYPE_F32, 16, VD_KERN_COLS_MAX + 1), 0);
}

/* ---- vector operators ---- */

static void check_vectors(const struct vd_kern *k)
{
    const struct vd_kern *s = scalar();
    enum { MAX = 3000 };
    float *x = buffer(MAX * 4), *u = buffer(MAX * 4), *want = buffer(MAX * 4), *got = buffer(MAX * 4);
    float *bias = buffer(MAX * 4);
    for (size_t n = 1; n <= MAX; n = n * 5 / 4 + 1)
        for (int kind = 0; kind < N_KINDS; kind++) {
            struct vd_rng r = {n * 10 + (size_t)kind, 0};
            fill(&r, (enum kind)kind, x, n);
            fill(&r, NORMAL, u, n);
            s->rmsnorm(x, u, n, 1e-5f, want), k->rmsnorm(x, u, n, 1e-5f, got);
            assert_same(want, got, n, "rmsnorm");
            fill(&r, NORMAL, bias, n);
            s->layernorm(x, u, bias, n, 1e-12f, want), k->layernorm(x, u, bias, n, 1e-12f, got);
            assert_same(want, got, n, "layernorm");
            memcpy(got, x, n * 4), k->layernorm(got, u, bias, n, 1e-12f, got);
            assert_same(want, got, n, "layernorm in place");
            s->add(x, u, n, want), k->add(x, u, n, got);
            assert_same(want, got, n, "add");
            for (size_t i = 0; i < n; i++)
                u[i] = x[i] * 100;
            s->swiglu(u, x, n, want), k->swiglu(u, x, n, got);
            assert_same(want, got, n, "swiglu");
            s->gelu(u, n, want), k->gelu(u, n, got);
            assert_same(want, got, n, "gelu");
            s->geglu(u, x, n, want), k->geglu(u, x, n, got);
            assert_same(want, got, n, "geglu");
            s->scale(x, 25.298f, n, want), k->scale(x, 25.298f, n, got);
            assert_same(want, got, n, "scale");
            s->cap(u, 30.0f, n, want), k->cap(u, 30.0f, n, got);
            assert_same(want, got, n, "cap");
            memcpy(want, u, n * 4), memcpy(got, u, n * 4);
            s->madd(x, -0.7f, n, want), k->madd(x, -0.7f, n, got);
            assert_same(want, got, n, "madd");
            s->exp(u, n, want), k->exp(u, n, got);
            assert_same(want, got, n, "exp");
            memcpy(got, x, n * 4), k->rmsnorm(got, u, n, 1e-5f, got), s->rmsnorm(x, u, n, 1e-5f, want);
            assert_same(want, got, n, "rmsnorm in place");
        }
    free(x), free(u), free(want), free(got), free(bias);
}

static void test_vectors(void **state)
{
    each_table(check_vectors);
}

/* Every 64th float, and all around the ends of the range. */
static void check_exp(const struct vd_kern *k)
{
    enum { N = 4096 };
    static float x[N], want[N], got[N];
    for (uint64_t u = 0; u < UINT64_C(1) << 32; u += 64 * N * quick(31)) {
        for (uint64_t i = 0; i < N; i++)
            x[i] = vd_f32_from_bits((uint32_t)(u + i * 64 + i % 64));
        scalar()->exp(x, N, want), k->exp(x, N, got);
        assert_same(want, got, N, "exp");
    }
    static const float ends[] = {-87.0f, 88.0f, -0.0f, -87.3f, 88.8f};
    for (int e = 0; e < 5; e++) {
        for (uint32_t i = 0; i < N; i++)
            x[i] = vd_f32_from_bits(vd_f32_bits(ends[e]) + i - N / 2);
        scalar()->exp(x, N, want), k->exp(x, N, got);
        assert_same(want, got, N, "exp near an end");
    }
}

static void test_exp(void **state)
{
    each_table(check_exp);
}

static void check_rope(const struct vd_kern *k)
{
    static const size_t shape[][2] = {{64, 32}, {64, 16}, {128, 64}, {32, 5}, {96, 20}, {256, 128}};
    for (int s = 0; s < 6; s++)
        for (uint64_t pos = 0; pos < 100000; pos = pos * 7 + 1) {
            size_t hd = shape[s][0], n_pairs = shape[s][1], heads = 3;
            struct vd_rng r = {pos, 0};
            uint64_t steps[128];
            float cs[256], x[3 * 256], y[3 * 256];
            assert_true(vd_num_rope_steps(10000.0f, (uint32_t)n_pairs * 2, steps));
            for (int halves = 0; halves < 2; halves++) {
                fill(&r, pos == 8 ? ONE_NAN : NORMAL, x, heads * hd);
                memcpy(y, x, sizeof(y));
                k->rope_table(pos, steps, n_pairs, cs);
                k->rope(y, heads, hd, cs, n_pairs, halves != 0);
                for (size_t h = 0; h < heads; h++)
                    vd_num_rope_head(x + h * hd, (uint32_t)n_pairs * 2, (uint32_t)pos, steps, halves != 0);
                assert_same(x, y, heads * hd, "rope");
            }
        }
}

static void test_rope(void **state)
{
    check_rope(scalar());
    each_table(check_rope);
}

static void check_embed(const struct vd_kern *k)
{
    enum { N = 768 };
    static uint8_t file[3 * N * 4];
    for (int t = 0; t < N_TYPES; t++) {
        struct vd_rng r = {7, 0};
        float want[N], got[N];
        fill_weights(&r, types[t], 3, N, file);
        for (size_t row = 0; row < 3; row++) {
            vd_num_dequant(types[t], file + row * vd_wtype_row_bytes(types[t], N), 0, N, want);
            k->embed_row(types[t], N, file, row, got);
            assert_same(want, got, N, "embed_row");
        }
    }
}

static void test_embed(void **state)
{
    check_embed(scalar());
    each_table(check_embed);
}

/* ---- attention ---- */

enum { CHUNKS = 5, KEYS = CHUNKS * VD_KERN_CHUNK };

struct cache {
    const struct vd_kern *k;
    size_t hd;
    void *chunk[CHUNKS];
    struct vd_kern_kv kv;
};

static void cache_make(struct cache *c, const struct vd_kern *k, size_t hd)
{
    c->k = k;
    c->hd = hd;
    for (int i = 0; i < CHUNKS; i++)
        c->chunk[i] = (char *)buffer(k->kv_bytes(hd) + 128) + 0;
    c->kv = (struct vd_kern_kv){(const void *const *)c->chunk, 128, hd};
}

static void cache_free(struct cache *c)
{
    for (int i = 0; i < CHUNKS; i++)
        free(c->chunk[i]);
}

/* Rows of every kind, put in a scrambled order, some twice; positions in a hole are never put. */
static void cache_fill(struct cache *c, bool special, size_t hole, size_t hole_end)
{
    float k[VD_KERN_HEAD_MAX], v[VD_KERN_HEAD_MAX];
    for (int round = 0; round < 2; round++)
        for (size_t i = 0; i < KEYS; i++) {
            size_t p = i * 77 % KEYS;
            struct vd_rng r = {p * 2 + (size_t)round, 0};
            if (p >= hole && p < hole_end)
                continue;
            if (round == 0 && p % 3 != 0)
                continue;
            fill(&r, special && p % 37 == 5 ? (enum kind)(p / 37 % N_KINDS) : NORMAL, k, c->hd);
            fill(&r, special && p % 41 == 3 ? (enum kind)(p / 41 % N_KINDS) : NORMAL, v, c->hd);
            if (p % 2 == 0)
                for (size_t e = 0; e < c->hd; e++)
                    k[e] *= 9;
            c->k->kv_put((char *)c->chunk[p / 64] + 128, c->hd, p % 64, k, v);
        }
}

static void assert_same_cache(const struct cache *a, const struct cache *b, size_t hole, size_t hole_end)
{
    size_t hd = a->hd;
    for (size_t p = 0; p < KEYS; p++) {
        int8_t kq[2][VD_KERN_HEAD_MAX], vq[2][VD_KERN_HEAD_MAX];
        float kd[2][8], vd[2];
        if (p >= hole && p < hole_end)
            continue;
        for (int i = 0; i < 2; i++) {
            const struct cache *c = i == 0 ? a : b;
            c->k->kv_read((char *)c->chunk[p / 64] + 128, hd, p % 64, kq[i], kd[i], vq[i], &vd[i]);
        }
        assert_memory_equal(kq[0], kq[1], hd);
        assert_memory_equal(kd[0], kd[1], hd / 32 * 4);
        assert_memory_equal(vq[0], vq[1], hd);
        assert_memory_equal(&vd[0], &vd[1], 4);
    }
}

struct queries {
    size_t n, hd;
    struct vd_kern_query row[64];
    float q[64 * VD_KERN_HEAD_MAX], y[64 * VD_KERN_HEAD_MAX], rec[64 * CHUNKS * (VD_KERN_HEAD_MAX + 16)];
};

/* CAUSAL: row i ends one after row i - 1, as in prefill; WINDOW: and begins WINDOW_KEYS before, in the middle
 * of some chunk; ANY: any ranges outside the hole. */
enum shape { CAUSAL, WINDOW, ANY, N_SHAPES };
enum { WINDOW_KEYS = 100 };

static void queries_make(struct queries *qs, size_t n, size_t hd, enum shape shape, size_t hole,
                         size_t hole_end, bool special)
{
    bool causal = shape != ANY;
    struct vd_rng r = {n * 31 + hd, 0};
    qs->n = n;
    qs->hd = hd;
    for (size_t i = 0; i < n; i++) {
        size_t end = causal ? KEYS - (n - 1 - i) / 3 : hole_end + 1 + vd_rng_below(&r, KEYS - hole_end);
        size_t begin = causal ? hole_end : hole_end + vd_rng_below(&r, end - hole_end);
        if (shape == WINDOW && end > begin + WINDOW_KEYS)
            begin = end - WINDOW_KEYS;
        if (!causal && i % 4 == 3 && hole > 0) {
            end = 1 + vd_rng_below(&r, hole);
            begin = vd_rng_below(&r, end);
        }
        qs->row[i] = (struct vd_kern_query){qs->q + i * hd, qs->y + i * hd, begin, end};
        fill(&r, special && i % 7 == 2 ? (enum kind)vd_rng_below(&r, N_KINDS) : NORMAL, qs->q + i * hd, hd);
    }
}

static void queries_run(struct queries *qs, const struct cache *c, struct vd_kern_score score, bool parts,
                        void *scratch)
{
    size_t ld = CHUNKS * vd_kern_rec_floats(qs->hd);
    memset(qs->y, 0xFF, sizeof(qs->y));
    memset(qs->rec, 0, sizeof(qs->rec));
    if (!parts) {
        c->k->attn(&c->kv, score, qs->row, qs->n, scratch);
        return;
    }
    c->k->attn_part(&c->kv, score, qs->row, qs->n, 2, CHUNKS, qs->rec, ld, scratch);
    c->k->attn_part(&c->kv, score, qs->row, qs->n, 0, 2, qs->rec, ld, scratch);
    c->k->attn_merge(qs->hd, qs->row, qs->n, qs->rec, ld);
}

static void assert_same_records(const struct queries *a, const struct queries *b)
{
    size_t rec = vd_kern_rec_floats(a->hd);
    for (size_t i = 0; i < a->n * CHUNKS; i++) {
        const float *x = a->rec + i * rec, *y = b->rec + i * rec;
        assert_same(x, y, a->hd, "chunk record, o");
        assert_memory_equal(x + a->hd, y + a->hd, 8); /* m and l: NaN bits too */
    }
}

static void check_attention(const struct vd_kern *k)
{
    static const size_t hds[] = {32, 64, 96, 128, 160, 192, 224, 256};
    static const size_t ns[] = {1, 2, 3, 4, 7, 16, 17, 40};
    static struct queries want, got;
    void *scratch = buffer(k->scratch_bytes(32, 256)), *scratch0 = buffer(scalar()->scratch_bytes(32, 256));
    for (size_t h = 0; h < 8; h += quick(3))
        for (int special = 0; special < 2; special++) {
            struct cache a, b;
            size_t hole = h % 2 ? 50 : 0, hole_end = h % 2 ? 70 : 0;
            cache_make(&a, scalar(), hds[h]), cache_make(&b, k, hds[h]);
            cache_fill(&a, special, hole, hole_end), cache_fill(&b, special, hole, hole_end);
            assert_same_cache(&a, &b, hole, hole_end);
            for (size_t i = 0; i < 8 * N_SHAPES * 2; i++) {
                size_t n = ns[i / 2 % 8];
                enum shape shape = (enum shape)(i / 16);
                struct vd_kern_score score = {0.35f, n % 3 == 1 ? 2.5f : 0};
                queries_make(&want, n, hds[h], shape, hole, hole_end, special);
                queries_make(&got, n, hds[h], shape, hole, hole_end, special);
                queries_run(&want, &a, score, i % 2 == 1, scratch0);
                queries_run(&got, &b, score, i % 2 == 1, scratch);
                assert_same(want.y, got.y, n * hds[h], "attention");
                if (i % 2 == 1)
                    assert_same_records(&want, &got);
            }
            cache_free(&a), cache_free(&b);
        }
    free(scratch), free(scratch0);
}

static void test_attention(void **state)
{
    each_table(check_attention);
}

/* Few rows over many chunks, some of them outside some rows' ranges: a table may take several chunks at once.
 */
enum { LONG_CHUNKS = 37, LONG_KEYS = LONG_CHUNKS * VD_KERN_CHUNK, LONG_ROWS = 9, LONG_HD = 64 };

struct long_context {
    void *chunk[LONG_CHUNKS], *scratch;
    float y[LONG_ROWS * LONG_HD], split[LONG_ROWS * LONG_HD];
    float rec[LONG_ROWS * LONG_CHUNKS * (LONG_HD + 16)];
};

static void long_run(const struct vd_kern *k, size_t n, struct long_context *c)
{
    struct vd_rng r = {n, 0};
    struct vd_kern_kv kv = {(const void *const *)c->chunk, 0, LONG_HD};
    struct vd_kern_query row[LONG_ROWS];
    struct vd_kern_score score = {0.35f, 0};
    float q[LONG_ROWS * LONG_HD], x[2 * LONG_HD];
    size_t ld = LONG_CHUNKS * vd_kern_rec_floats(LONG_HD);
    for (size_t i = 0; i < LONG_CHUNKS; i++)
        c->chunk[i] = buffer(k->kv_bytes(LONG_HD));
    for (size_t p = 0; p < LONG_KEYS; p++) {
        fill(&r, NORMAL, x, 2 * LONG_HD);
        k->kv_put(c->chunk[p / 64], LONG_HD, p % 64, x, x + LONG_HD);
    }
    fill(&r, NORMAL, q, n * LONG_HD);
    for (size_t i = 0; i < n; i++) {
        size_t begin = i % 3 == 1 ? vd_rng_below(&r, LONG_KEYS) : 0;
        size_t end = i % 4 == 3 ? LONG_KEYS : begin + 1 + vd_rng_below(&r, LONG_KEYS - begin);
        row[i] = (struct vd_kern_query){q + i * LONG_HD, c->y + i * LONG_HD, begin, end};
    }
    c->scratch = buffer(k->scratch_bytes(32, LONG_HD));
    k->attn(&kv, score, row, n, c->scratch);
    for (size_t i = 0; i < n; i++)
        row[i].y = c->split + i * LONG_HD;
    k->attn_part(&kv, score, row, n, 19, LONG_CHUNKS, c->rec, ld, c->scratch);
    k->attn_part(&kv, score, row, n, 0, 19, c->rec, ld, c->scratch);
    k->attn_merge(LONG_HD, row, n, c->rec, ld);
    for (size_t i = 0; i < LONG_CHUNKS; i++)
        free(c->chunk[i]);
    free(c->scratch);
}

static void check_attention_long(const struct vd_kern *k)
{
    static struct long_context want, got;
    for (size_t n = 1; n <= LONG_ROWS; n++) {
        long_run(scalar(), n, &want), long_run(k, n, &got);
        assert_same(want.y, got.y, n * LONG_HD, "long attention");
        assert_memory_equal(want.y, want.split, n * LONG_HD * 4);
        assert_same(got.y, got.split, n * LONG_HD, "long attention in parts");
    }
}

static void test_attention_long(void **state)
{
    each_table(check_attention_long);
}

/* One chunk whose scores are all -0 (an isum of -1 times the least scale, rounded away), or whose values are
 * so small that their common scale is 0. Returns the record. */
static void edge_record(const struct vd_kern *k, bool small_values, float *rec)
{
    float q[32] = {127 * 0x1p-80f, 0x1p-80f}, key[32] = {0, -0x1p-69f, 127 * 0x1p-69f}, value[32], y[32];
    void *chunk = buffer(k->kv_bytes(32)), *scratch = buffer(k->scratch_bytes(32, 32));
    const void *pages[1] = {chunk};
    struct vd_kern_kv kv = {pages, 0, 32};
    struct vd_kern_query row = {q, y, 0, 64};
    for (size_t p = 0; p < 64; p++) {
        for (size_t e = 0; e < 32; e++)
            value[e] = (small_values ? 0x1p-88f : 1.0f) * (float)(e + 1 + p);
        k->kv_put(chunk, 32, p, key, value);
    }
    k->attn_part(&kv, (struct vd_kern_score){0.35f, 0}, &row, 1, 0, 1, rec, 0, scratch);
    free(chunk), free(scratch);
}

static void check_attention_edges(const struct vd_kern *k)
{
    float want[48], got[48];
    for (int small = 0; small < 2; small++) {
        edge_record(scalar(), small, want), edge_record(k, small, got);
        assert_memory_equal(want, got, 34 * 4);
        assert_int_equal(vd_f32_bits(want[32]), 0);
        assert_true(small ? want[0] == 0.0f : want[0] > 0.0f);
    }
}

static void test_attention_edges(void **state)
{
    each_table(check_attention_edges);
}

/* The two forms agree, and neighbours in a call change nothing. */
static void check_attention_alone(const struct vd_kern *k)
{
    static struct queries all, one;
    const struct vd_kern_score score = {0.35f, 0};
    struct cache c;
    void *scratch = buffer(k->scratch_bytes(32, 64));
    cache_make(&c, k, 64);
    cache_fill(&c, false, 0, 0);
    queries_make(&all, 37, 64, ANY, 0, 0, false);
    queries_run(&all, &c, score, false, scratch);
    one = all;
    for (size_t i = 0; i < all.n; i++) {
        one.row[i].y = one.y + i * 64;
        one.row[i].q = one.q + i * 64;
        k->attn(&c.kv, score, &one.row[i], 1, scratch);
    }
    assert_memory_equal(all.y, one.y, 37 * 64 * 4);
    queries_run(&one, &c, score, true, scratch);
    assert_memory_equal(all.y, one.y, 37 * 64 * 4);
    one.row[3].y = one.q + 3 * 64; /* in place */
    k->attn(&c.kv, score, one.row, 37, scratch);
    assert_memory_equal(all.y + 3 * 64, one.q + 3 * 64, 64 * 4);
    cache_free(&c);
    free(scratch);
}

static void test_attention_alone(void **state)
{
    check_attention_alone(scalar());
    each_table(check_attention_alone);
}

/* ---- sampling ---- */

/* Case 0: all are above; 1: none is, none lies between; 2: all lie between; 3: a part each, and only some
 * weights count. The borders are logits themselves. */
static void check_mass(const struct vd_kern *k, const float *x, size_t n, float temp, float x_max, unsigned c)
{
    size_t n_blocks = (n - 1) / VD_KERN_MASS_BLOCK + 1;
    float low = c == 1 ? INFINITY : -INFINITY, high = c == 0 ? -INFINITY : INFINITY;
    if (c == 3) {
        low = x[n / 3] < x[n / 2] ? x[n / 3] : x[n / 2];
        high = x[n / 3] < x[n / 2] ? x[n / 2] : x[n / 3];
    }
    struct vd_kern_mass m[2];
    for (int i = 0; i < 2; i++) {
        m[i] = (struct vd_kern_mass){.temp = temp, .x_max = x_max, .low = low, .high = high};
        m[i].least = c == 3 ? (UINT64_C(1) << 36) + 12345 : 0;
        m[i].block = buffer(n_blocks * 8), m[i].mid = buffer(n * 4), m[i].start = buffer(n_blocks * 4);
        (i ? k : scalar())->sample_mass(x, n, &m[i]);
    }
    assert_true(m[0].all == m[1].all && m[0].n_above == m[1].n_above && m[0].n_mid == m[1].n_mid);
    assert_memory_equal(m[0].block, m[1].block, n_blocks * 8);
    assert_memory_equal(m[0].mid, m[1].mid, m[0].n_mid * 4);
    assert_memory_equal(m[0].start, m[1].start, n_blocks * 4);
    for (int i = 0; i < 2; i++)
        free(m[i].block), free(m[i].mid), free(m[i].start);
}

/* The scalar one is as vd_kern.h says, weight by weight. */
static void test_mass(void **state)
{
    enum { N = 1000 };
    float x[N];
    uint64_t w[N], block[4], all = 0, sum[4] = {0};
    float mid[N];
    uint32_t start[4];
    size_t n_above = 0, n_mid = 0;
    struct vd_rng r = {77, 0};
    struct vd_kern_mass m = {
        .temp = 0.7f, .x_max = 3, .low = -1, .high = 1, .block = block, .mid = mid, .start = start};
    m.least = UINT64_C(1) << 37;
    for (size_t i = 0; i < N; i++)
        x[i] = (float)(int)vd_rng_below(&r, 25) / 4 - 3;
    scalar()->sample_mass(x, N, &m);
    scalar()->sample_weights(x, N, 0.7f, 3, w);
    for (size_t i = 0; i < N; i++) {
        all += w[i];
        if (i % VD_KERN_MASS_BLOCK == 0)
            assert_int_equal(start[i / VD_KERN_MASS_BLOCK], n_mid);
        if (x[i] >= -1 && x[i] < 1)
            assert_memory_equal(&mid[n_mid++], &x[i], 4);
        n_above += x[i] >= 1;
        sum[i / VD_KERN_MASS_BLOCK] += x[i] >= 1 && w[i] >= m.least ? w[i] : 0;
    }
    assert_true(m.all == all && m.n_above == n_above && m.n_mid == n_mid);
    assert_memory_equal(block, sum, sizeof sum);
}

static void check_sampling(const struct vd_kern *k)
{
    enum { MAX = 9000 };
    float *x = buffer(MAX * 4);
    uint64_t *want = buffer(MAX * 8), *got = buffer(MAX * 8);
    for (size_t n = 1; n <= MAX; n = n * 4 / 3 + 1)
        for (int kind = 0; kind < N_KINDS; kind++) {
            struct vd_rng r = {n, 0};
            struct vd_sample_max a, b;
            fill(&r, (enum kind)kind, x, n);
            for (size_t i = 0; i < n && kind == NORMAL; i++)
                x[i] = rintf(x[i] * 9); /* ties, and zeros of both signs */
            scalar()->sample_max(x, 5, n, &a), k->sample_max(x, 5, n, &b);
            assert_memory_equal(&a.x, &b.x, 4);
            assert_int_equal(a.id, b.id);
            assert_int_equal(a.bad, b.bad);
            for (size_t group = VD_KERN_GROUP; group < 4 * VD_KERN_GROUP; group *= 2) {
                assert_true(scalar()->sample_groups(x, n, group, (float *)want) == !a.bad);
                assert_true(k->sample_groups(x, n, group, (float *)got) == !a.bad);
                if (!a.bad)
                    assert_memory_equal(want, got, ((n - 1) / group + 1) * 4);
            }
            if (a.bad)
                continue;
            scalar()->sample_weights(x, n, 0.8f, a.x, want), k->sample_weights(x, n, 0.8f, a.x, got);
            assert_memory_equal(want, got, n * 8);
            for (unsigned i = 0; i < 4; i++)
                check_mass(k, x, n, 0.8f, a.x, i);
        }
    free(x), free(want), free(got);
}

static void test_sampling(void **state)
{
    each_table(check_sampling);
}

/* ---- choice and start-up check ---- */

static void test_pick(void **state)
{
    struct vd_error err = {0};
    assert_string_equal(vd_kern_pick("scalar", &err)->name, "scalar");
    assert_non_null(vd_kern_pick(NULL, &err));
    assert_null(vd_kern_pick("sse9", &err));
    assert_int_equal(err.code, VD_EUSE);
    assert_non_null(strstr(err.msg, "sse9"));
}

/* A table that computes as the best one does, but for the lowest bit of the last value of one function. */
static void off(float *y)
{
    uint32_t bits;
    memcpy(&bits, y, sizeof bits);
    bits ^= 1;
    memcpy(y, &bits, sizeof bits);
}

static void exp_off(const float *x, size_t n, float *y)
{
    vd_kern_pick(NULL, NULL)->exp(x, n, y);
    off(y + n - 1);
}

static void rmsnorm_off(const float *x, const float *w, size_t n, float eps, float *y)
{
    vd_kern_pick(NULL, NULL)->rmsnorm(x, w, n, eps, y);
    off(y + n - 1);
}

static void rope_off(float *x, size_t n_heads, size_t hd, const float *cs, size_t n_pairs, bool halves)
{
    vd_kern_pick(NULL, NULL)->rope(x, n_heads, hd, cs, n_pairs, halves);
    off(x + 1);
}

static void swiglu_off(const float *g, const float *u, size_t n, float *y)
{
    vd_kern_pick(NULL, NULL)->swiglu(g, u, n, y);
    off(y + n - 1);
}

static void read_off(const void *act, size_t cols, size_t t, int8_t *q, float *d)
{
    vd_kern_pick(NULL, NULL)->act_read(act, cols, t, q, d);
    q[cols - 1] ^= 1;
}

static void attn_off(const struct vd_kern_kv *kv, struct vd_kern_score score,
                     const struct vd_kern_query *rows, size_t n, void *scratch)
{
    vd_kern_pick(NULL, NULL)->attn(kv, score, rows, n, scratch);
    off(rows[n - 1].y + kv->hd - 1);
}

static void weights_off(const float *x, size_t n, float temp, float x_max, uint64_t *w)
{
    vd_kern_pick(NULL, NULL)->sample_weights(x, n, temp, x_max, w);
    w[n - 1] ^= 1;
}

/* Of Q6_K alone, of one row and token. */
static void product_off(const struct vd_kern_mat *w, size_t r0, size_t r1, const struct vd_kern_rhs *x,
                        size_t t0, size_t t1, float *y, size_t ldy, void *scratch)
{
    vd_kern_pick(NULL, NULL)->matmul(w, r0, r1, x, t0, t1, y, ldy, scratch);
    if (w->type == VD_WTYPE_Q6_K)
        off(y + (t1 - 1) * ldy + r1 - 1);
}

/* A group whose largest output may be looked for in vain. */
static bool bounds_off(const struct vd_kern_mat *w, size_t r0, size_t r1, const struct vd_kern_rhs *x,
                       size_t t0, size_t t1, float *high, size_t ld_high, float *low, void *scratch)
{
    bool told = vd_kern_pick(NULL, NULL)->bounds(w, r0, r1, x, t0, t1, high, ld_high, low, scratch);
    high[(r1 - 1 - r0) / VD_KERN_ROWS] = -INFINITY;
    return told;
}

static void expect_refused(const struct vd_kern *broken, const char *what)
{
    struct vd_error err = {0};
    assert_int_equal(vd_kern_selfcheck(broken, &err), VD_EINTERNAL);
    if (!strstr(err.msg, what))
        fail_msg("%s: %s", what, err.msg);
}

static void test_selfcheck(void **state)
{
    struct vd_error err = {0};
    for (int i = 0; i < N_NAMES; i++) {
        const struct vd_kern *k = vd_kern_pick(names[i], NULL);
        if (k != NULL && vd_kern_selfcheck(k, &err) != VD_OK)
            fail_msg("%s", err.msg);
    }
#define EXPECT_REFUSED(function, wrong, what)                                                                \
    do {                                                                                                     \
        struct vd_kern broken = *vd_kern_pick(NULL, NULL);                                                   \
        broken.function = wrong;                                                                             \
        expect_refused(&broken, what);                                                                       \
    } while (0)
    EXPECT_REFUSED(exp, exp_off, "computes exp");
    EXPECT_REFUSED(rmsnorm, rmsnorm_off, "computes norm");
    EXPECT_REFUSED(rope, rope_off, "computes rope");
    EXPECT_REFUSED(swiglu, swiglu_off, "computes swiglu");
    EXPECT_REFUSED(act_read, read_off, "computes q ");
    EXPECT_REFUSED(attn, attn_off, "computes attn");
    EXPECT_REFUSED(sample_weights, weights_off, "computes weights");
    EXPECT_REFUSED(matmul, product_off, "products of type Q6_K");
    if (vd_kern_pick(NULL, NULL)->bounds)
        EXPECT_REFUSED(bounds, bounds_off, "computes bounds");
    fesetround(FE_UPWARD);
    enum vd_err e = vd_kern_selfcheck(scalar(), &err);
    fesetround(FE_TONEAREST);
    assert_int_equal(e, VD_EINTERNAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_act),
        cmocka_unit_test(test_scale_edges),
        cmocka_unit_test(test_products_by_tokens),
        cmocka_unit_test(test_products_of_models),
        cmocka_unit_test(test_products_in_slabs),
        cmocka_unit_test(test_bounds_at_worst),
        cmocka_unit_test(test_bounds_of_products),
        cmocka_unit_test(test_odd_float_columns),
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_exp),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_embed),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_attention_long),
        cmocka_unit_test(test_attention_edges),
        cmocka_unit_test(test_attention_alone),
        cmocka_unit_test(test_sampling),
        cmocka_unit_test(test_mass),
        cmocka_unit_test(test_pick),
        cmocka_unit_test(test_selfcheck),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
