/* The recorded bits of arithmetic version 1: seeded inputs through every operator family, the outputs hashed
 * by FNV-1a, NaN bits made canonical. Any compiler, optimisation level and instruction set must print these
 * values; a change of one is a new arithmetic version. Inputs use only exact operations, so they are the same
 * everywhere too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <string.h>

#include "vd_act.h"
#include "vd_attn.h"
#include "vd_dot.h"
#include "vd_exp.h"
#include "vd_norm.h"
#include "vd_num_testing.h"
#include "vd_quant.h"
#include "vd_rope.h"
#include "vd_route.h"
#include "vd_sample.h"

enum { N = 1376, ROW_BYTES = 4 * N };

/* Activations of many magnitudes; in one block of eight also any bit patterns. */
static void fill(struct vd_rng *r, float *x, size_t n, bool wild)
{
    for (size_t b = 0; b < n; b += 32) {
        float sigma = ldexpf(1.0f, (int)vd_rng_below(r, wild ? 120 : 12) - (wild ? 110 : 6));
        bool any = wild && vd_rng_below(r, 8) == 0;
        for (size_t i = b; i < n && i < b + 32; i++)
            x[i] = any ? test_any(r) : test_normal(r, sigma);
    }
}

/* Random bytes, with scales of ordinary size unless wild. */
static void fill_row(struct vd_rng *r, enum vd_wtype type, uint8_t *row, bool wild)
{
    const struct vd_wtype_info *info = vd_wtype_info(type);
    for (size_t i = 0; i < ROW_BYTES; i++)
        row[i] = (uint8_t)vd_rng_next(r);
    for (size_t b = 0; b < N / info->block_elems && info->quantised && !wild; b++)
        for (uint32_t k = 0; k <= info->has_min; k++) {
            uint8_t high = (uint8_t)(0x1C | (vd_rng_next(r) & 0x8B));
            uint32_t at = (k == 0 ? info->d_at : info->min_at) + (type == VD_WTYPE_MXFP4 ? 0u : 1u);
            row[b * info->block_bytes + at] = type == VD_WTYPE_MXFP4 ? 100 + high % 32 : high;
        }
}

static uint64_t hash_exp(void)
{
    uint64_t h = TEST_FNV_START;
    for (uint64_t u = 0; u < UINT64_C(1) << 32; u += 4099) {
        float x = vd_f32_from_bits((uint32_t)u), y[2] = {vd_num_exp(x), vd_num_silu(x)};
        h = test_fnv_floats(h, y, 2);
    }
    return h;
}

static uint64_t hash_quant(void)
{
    struct vd_rng r = {.seed = 101};
    uint64_t h = TEST_FNV_START;
    float x[1024], d;
    int8_t q[1024];
    for (int i = 0; i < 3000; i++) {
        size_t n = i % 3 ? 32 : 1 + vd_rng_below(&r, 1024);
        fill(&r, x, n, i & 1);
        vd_num_quant8(x, n, q, &d);
        h = test_fnv(h, q, n);
        h = test_fnv_u64(h, vd_f32_bits(d)); /* the stored NaN: exact bits */
    }
    return h;
}

static uint64_t hash_dot(enum vd_wtype type)
{
    struct vd_rng r = {.seed = 102 + (uint64_t)type};
    static uint8_t row[ROW_BYTES];
    uint64_t h = TEST_FNV_START;
    float x[N], d[N / 32], y;
    int8_t q[N];
    for (int i = 0; i < 200; i++) {
        bool wild = i % 5 == 4;
        fill_row(&r, type, row, wild);
        fill(&r, x, N, wild);
        bool super = vd_wtype_info(type)->act_block == 256;
        uint32_t len = super ? 256 : 32, most = N / len * len;
        (super ? vd_num_quant8_blocks256 : vd_num_quant8_blocks)(x, most, q, d);
        uint32_t n = most - len * (uint32_t)vd_rng_below(&r, N / len);
        y = vd_wtype_info(type)->quantised ? vd_num_dot_row(type, row, q, d, n)
                                           : vd_num_dot_row_float(type, row, x, n);
        h = test_fnv_floats(h, &y, 1);
        vd_num_dequant(type, row, 7, most - 7, x);
        h = test_fnv_floats(h, x, most - 7);
    }
    return h;
}

static uint64_t hash_dot_f32(void)
{
    return hash_dot(VD_WTYPE_F32);
}
static uint64_t hash_dot_f16(void)
{
    return hash_dot(VD_WTYPE_F16);
}
static uint64_t hash_dot_q4_0(void)
{
    return hash_dot(VD_WTYPE_Q4_0);
}
static uint64_t hash_dot_q4_1(void)
{
    return hash_dot(VD_WTYPE_Q4_1);
}
static uint64_t hash_dot_q8_0(void)
{
    return hash_dot(VD_WTYPE_Q8_0);
}
static uint64_t hash_dot_q5_0(void)
{
    return hash_dot(VD_WTYPE_Q5_0);
}
static uint64_t hash_dot_q5_1(void)
{
    return hash_dot(VD_WTYPE_Q5_1);
}
static uint64_t hash_dot_bf16(void)
{
    return hash_dot(VD_WTYPE_BF16);
}

static uint64_t hash_dot_q2_k(void)
{
    return hash_dot(VD_WTYPE_Q2_K);
}
static uint64_t hash_dot_q3_k(void)
{
    return hash_dot(VD_WTYPE_Q3_K);
}
static uint64_t hash_dot_q4_k(void)
{
    return hash_dot(VD_WTYPE_Q4_K);
}
static uint64_t hash_dot_q5_k(void)
{
    return hash_dot(VD_WTYPE_Q5_K);
}
static uint64_t hash_dot_q6_k(void)
{
    return hash_dot(VD_WTYPE_Q6_K);
}
static uint64_t hash_dot_iq4_nl(void)
{
    return hash_dot(VD_WTYPE_IQ4_NL);
}
static uint64_t hash_dot_iq4_xs(void)
{
    return hash_dot(VD_WTYPE_IQ4_XS);
}
static uint64_t hash_dot_mxfp4(void)
{
    return hash_dot(VD_WTYPE_MXFP4);
}

static uint64_t hash_norm_act(void)
{
    struct vd_rng r = {.seed = 103};
    uint64_t h = TEST_FNV_START;
    float x[N], w[N], y[N];
    for (int i = 0; i < 200; i++) {
        uint32_t n = 1 + (uint32_t)vd_rng_below(&r, N);
        fill(&r, x, n, i % 5 == 4);
        fill(&r, w, n, false);
        vd_num_rmsnorm(x, w, n, 1e-5f, y);
        h = test_fnv_floats(h, y, n);
        vd_num_swiglu(x, w, n, y);
        h = test_fnv_floats(h, y, n);
        vd_num_residual(x, w, n, y);
        h = test_fnv_floats(h, y, n);
    }
    return h;
}

static uint64_t hash_layernorm(void)
{
    struct vd_rng r = {.seed = 108};
    uint64_t h = TEST_FNV_START;
    float x[N], w[N], b[N], y[N];
    for (int i = 0; i < 200; i++) {
        uint32_t n = 1 + (uint32_t)vd_rng_below(&r, N);
        fill(&r, x, n, i % 5 == 4);
        fill(&r, w, n, false);
        fill(&r, b, n, false);
        vd_num_layernorm(x, w, b, n, i % 2 ? 1e-12f : 1e-5f, y);
        h = test_fnv_floats(h, y, n);
        vd_num_gelu_row(y, n, y);
        h = test_fnv_floats(h, y, n);
    }
    return h;
}

static uint64_t hash_rope(void)
{
    struct vd_rng r = {.seed = 104};
    uint64_t h = TEST_FNV_START, steps[64];
    float x[128];
    for (int i = 0; i < 300; i++) {
        uint32_t n = 2 + 2 * (uint32_t)vd_rng_below(&r, 64);
        float base = vd_f32_from_bits(0x3F800000 + (uint32_t)vd_rng_below(&r, 60u << 23));
        if (!vd_num_rope_steps(base, n, steps))
            return 0;
        for (uint32_t k = 0; k < n / 2; k++)
            h = test_fnv_u64(h, steps[k]);
        fill(&r, x, 128, false);
        vd_num_rope_head(x, n, (uint32_t)vd_rng_next(&r), steps, i & 1);
        h = test_fnv_floats(h, x, 128);
        for (int k = 0; k < 64; k++) {
            vd_num_sincos_turn(vd_rng_next(&r), &x[0], &x[1]);
            h = test_fnv_floats(h, x, 2);
        }
    }
    return h;
}

enum { HD = 64 };

static uint64_t hash_chunk(struct vd_rng *r, uint64_t h, bool wild, struct vd_chunk *chunk, float *o)
{
    static int8_t k[64][HD], v[64][HD];
    float x[HD], dq[2], dk[2], score[64], dv[64];
    int8_t q[HD];
    fill(r, x, HD, wild && vd_rng_below(r, 8) == 0);
    vd_num_quant8_spread(x, HD, q, dq);
    for (int j = 0; j < 64; j++) {
        fill(r, x, HD, wild && vd_rng_below(r, 32) == 0);
        vd_num_quant8_spread(x, HD, k[j], dk);
        fill(r, x, HD, wild && vd_rng_below(r, 32) == 0);
        vd_num_quant8(x, HD, v[j], &dv[j]);
        score[j] = vd_num_score(q, dq, k[j], dk, HD, 0.125f);
        h = test_fnv_u64(h, vd_f32_bits(score[j]));
    }
    uint32_t first = (uint32_t)vd_rng_below(r, 64), count = 1 + (uint32_t)vd_rng_below(r, 64 - first);
    vd_num_chunk(score, dv, first, count, chunk);
    vd_num_chunk_v(chunk, v[0], HD, HD, o);
    h = test_fnv_u64(h, vd_f32_bits(chunk->m)); /* a record: exact bits */
    h = test_fnv_u64(h, vd_f32_bits(chunk->l));
    h = test_fnv_u64(h, vd_f32_bits(chunk->d));
    for (int j = 0; j < 64; j++)
        h = test_fnv_u64(h, (uint64_t)chunk->q[j]);
    return test_fnv_floats(h, o, HD);
}

static uint64_t hash_attn(void)
{
    struct vd_rng r = {.seed = 105};
    uint64_t h = TEST_FNV_START;
    for (int i = 0; i < 200; i++) {
        struct vd_chunk chunk;
        float m, l, o[HD], oc[HD];
        h = hash_chunk(&r, h, i % 4 == 3, &chunk, o);
        m = chunk.m;
        l = chunk.l;
        for (int c = 0; c < 3; c++) {
            h = hash_chunk(&r, h, i % 4 == 3, &chunk, oc);
            vd_num_merge(&m, &l, o, chunk.m, chunk.l, oc, HD);
            h = test_fnv_u64(h, vd_f32_bits(m));
            h = test_fnv_floats(h, &l, 1);
            h = test_fnv_floats(h, o, HD);
        }
        vd_num_attn_finish(l, o, HD, o);
        h = test_fnv_floats(h, o, HD);
    }
    return h;
}

static uint64_t hash_gelu_tanh(void)
{
    uint64_t h = TEST_FNV_START;
    for (uint64_t u = 0; u < UINT64_C(1) << 32; u += 4099) {
        float x = vd_f32_from_bits((uint32_t)u);
        float y[4] = {vd_num_gelu(x), vd_num_tanh(x), vd_num_cap(x, 30.0f), 0.0f};
        vd_num_geglu(&x, &y[1], 1, &y[3]);
        h = test_fnv_floats(h, y, 4);
    }
    return h;
}

static uint64_t hash_route(void)
{
    struct vd_rng r = {.seed = 107};
    uint64_t h = TEST_FNV_START;
    for (int i = 0; i < 2000; i++) {
        float x[VD_ROUTE_MAX], weight[VD_ROUTE_USED_MAX], y[VD_ROUTE_USED_MAX], mix;
        uint32_t n = 1 + (uint32_t)vd_rng_below(&r, i % 10 ? 64 : VD_ROUTE_MAX), expert[VD_ROUTE_USED_MAX];
        uint32_t n_used = 1 + (uint32_t)vd_rng_below(&r, n < VD_ROUTE_USED_MAX ? n : VD_ROUTE_USED_MAX);
        for (uint32_t e = 0; e < n; e++)
            x[e] = i % 4 == 0 ? (float)((int)vd_rng_below(&r, 9) - 4)
                              : (i % 50 == 1 ? test_any(&r) : test_normal(&r, 3));
        vd_num_route(x, n, n_used, i & 1, expert, weight);
        test_fill_normal(&r, y, n_used, 2);
        mix = vd_num_mix(weight, y, n_used);
        for (uint32_t s = 0; s < n_used; s++)
            h = test_fnv_u64(h, expert[s]);
        h = test_fnv_floats(h, weight, n_used);
        h = test_fnv_floats(h, &mix, 1);
    }
    return h;
}

static uint64_t hash_sample(void)
{
    struct vd_rng r = {.seed = 106};
    static float x[9000];
    static uint64_t w[9000];
    uint64_t h = TEST_FNV_START;
    for (int i = 0; i < 400; i++) {
        uint32_t n = 1 + (uint32_t)vd_rng_below(&r, i % 20 ? 200 : 9000);
        for (uint32_t k = 0; k < n; k++)
            x[k] = i & 1 ? test_normal(&r, 3) : (float)((int)vd_rng_below(&r, 9) - 4);
        struct vd_sampling p = {0}; /* set one by one: the order of an initialiser's calls is not fixed */
        p.temp_micro = (uint32_t)vd_rng_below(&r, 2000000);
        p.top_k = (uint32_t)vd_rng_below(&r, n + 1);
        p.top_p_micro = (uint32_t)vd_rng_below(&r, 1200000);
        p.min_p_micro = (uint32_t)vd_rng_below(&r, 200000);
        h = test_fnv_u64(h, vd_num_sample(x, n, &p, vd_rng_next(&r), w));
        for (uint32_t k = 0; k < n && p.temp_micro; k++)
            h = test_fnv_u64(h, w[k]);
    }
    return h;
}

static const struct {
    const char *name;
    uint64_t (*hash)(void);
    uint64_t recorded;
} families[] = {
    {"exp, silu", hash_exp, 0xc821476d5c98231a},
    {"quantiser", hash_quant, 0x2825c12ef3a3e605},
    {"dot F32", hash_dot_f32, 0x1eeb22a9f3834f7f},
    {"dot F16", hash_dot_f16, 0x167e5b574cef45f6},
    {"dot Q4_0", hash_dot_q4_0, 0x27bc36b29bd17591},
    {"dot Q4_1", hash_dot_q4_1, 0xbc15012f9ac64d17},
    {"dot Q8_0", hash_dot_q8_0, 0x585b11efbf6b293f},
    {"dot Q5_0", hash_dot_q5_0, 0x2686d26f93b4cf13},
    {"dot Q5_1", hash_dot_q5_1, 0xc1251bdea7cee478},
    {"dot BF16", hash_dot_bf16, 0x24c96cdb8c4c407e},
    {"dot Q2_K", hash_dot_q2_k, 0xa45243fda7ddc59b},
    {"dot Q3_K", hash_dot_q3_k, 0xef84e62a325833b3},
    {"dot Q4_K", hash_dot_q4_k, 0x90fc7e5fc36f0352},
    {"dot Q5_K", hash_dot_q5_k, 0x6d41237b8487e51d},
    {"dot Q6_K", hash_dot_q6_k, 0x3a998197856cabd4},
    {"dot IQ4_NL", hash_dot_iq4_nl, 0x9aa04b00ccca8c8b},
    {"dot IQ4_XS", hash_dot_iq4_xs, 0x76ffe5cbd80ccf7c},
    {"dot MXFP4", hash_dot_mxfp4, 0x3cf904cd948f527b},
    {"norm, swiglu, residual", hash_norm_act, 0x1be6ddea10b0fd35},
    {"layernorm, gelu of rows", hash_layernorm, 0x22df826d087b9647},
    {"rope", hash_rope, 0x7db6bb2bdc5b7e05},
    {"attention", hash_attn, 0xb0b630f55dec1ea4},
    {"gelu, tanh, cap", hash_gelu_tanh, 0xa39d0aa827d89da7},
    {"routing", hash_route, 0x2329bdd5967dcace},
    {"sampling", hash_sample, 0xa8fc7cb4ee04e279},
};

static void test_recorded_bits(void **state)
{
    int wrong = 0;
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        uint64_t h = families[i].hash();
        if (h != families[i].recorded) {
            print_error("%s: 0x%016" PRIx64 ", recorded 0x%016" PRIx64 "\n", families[i].name, h,
                        families[i].recorded);
            wrong++;
        }
    }
    assert_int_equal(wrong, 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {cmocka_unit_test(test_recorded_bits)};
    return cmocka_run_group_tests_name("arith", tests, NULL, NULL);
}
