/* Products: exact cases, the written order, error against double, what is not finite. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "vd_dot.h"
#include "vd_num_testing.h"
#include "vd_quant.h"

enum { N = 1376 }; /* two whole segments and 352 elements */

static const enum vd_wtype quantised[] = {VD_WTYPE_Q4_0,  VD_WTYPE_Q4_1,   VD_WTYPE_Q5_0,  VD_WTYPE_Q5_1,
                                          VD_WTYPE_Q8_0,  VD_WTYPE_IQ4_NL, VD_WTYPE_MXFP4, VD_WTYPE_Q2_K,
                                          VD_WTYPE_Q3_K,  VD_WTYPE_Q4_K,   VD_WTYPE_Q5_K,  VD_WTYPE_Q6_K,
                                          VD_WTYPE_IQ4_XS};
enum { N_QUANTISED = sizeof quantised / sizeof quantised[0] };

/* Random integers, scales and mins of the given exponent spread around 2^-6. */
static void random_row(struct vd_rng *r, enum vd_wtype type, uint8_t *row, int spread)
{
    const struct vd_wtype_info *info = vd_wtype_info(type);
    for (size_t b = 0; b < N / info->block_elems; b++, row += info->block_bytes) {
        for (uint32_t i = 0; i < info->block_bytes; i++)
            row[i] = (uint8_t)vd_rng_next(r);
        for (int k = 0; k <= info->has_min; k++) {
            float s = spread ? test_uniform(r, 1) : 1;
            s = ldexpf(s, (int)vd_rng_below(r, (uint64_t)spread + 1) - 6);
            if (type == VD_WTYPE_MXFP4)
                row[0] = (uint8_t)(122 + vd_rng_below(r, (uint64_t)spread + 1));
            else
                vd_le16_store(row + (k == 0 ? info->d_at : info->min_at), vd_f16_from_f32(s));
        }
    }
}

/* The longest row of up to N elements that the type can have. */
static uint32_t row_elems(enum vd_wtype type)
{
    return N / vd_wtype_info(type)->block_elems * vd_wtype_info(type)->block_elems;
}

static void test_isum(void **state)
{
    static int8_t a[65536], b[65536];
    memset(a, -128, sizeof a);
    memset(b, -127, sizeof b);
    assert_int_equal(vd_num_isum(a, b, 65536), 65536 * 128 * 127);
    assert_int_equal(vd_num_isum(a, b, 0), 0);
    a[0] = 3;
    b[0] = -5;
    assert_int_equal(vd_num_isum(a, b, 2), -15 + 128 * 127);
}

/* With powers of two as scales nothing rounds, so the result is the sum of dequantised products. */
static void test_exact_against_dequant(void **state)
{
    struct vd_rng r = {.seed = 6};
    static uint8_t row[N * 2];
    int8_t q[N];
    float d[N / 32], w[N];
    for (int round = 0; round < 50; round++) {
        for (size_t t = 0; t < N_QUANTISED; t++) {
            random_row(&r, quantised[t], row, 0);
            for (int i = 0; i < N; i++)
                q[i] = (int8_t)((int)vd_rng_below(&r, 15) - 7);
            for (int b = 0; b < N / 32; b++)
                d[b] = ldexpf(1, (int)vd_rng_below(&r, 3));
            uint32_t n = row_elems(quantised[t]), act_block = vd_wtype_info(quantised[t])->act_block;
            vd_num_dequant(quantised[t], row, 0, n, w);
            double want = 0;
            for (uint32_t i = 0; i < n; i++)
                want += (double)w[i] * q[i] * (double)d[i / act_block];
            assert_true((double)vd_num_dot_row(quantised[t], row, q, d, n) == want);
        }
    }
}

static void test_error_against_double(void **state)
{
    struct vd_rng r = {.seed = 7};
    static uint8_t row[N * 2];
    int8_t q[N];
    float d[N / 32], w[N], x[N];
    double worst = 0;
    for (int round = 0; round < 300; round++) {
        for (size_t t = 0; t < N_QUANTISED; t++) {
            random_row(&r, quantised[t], row, 5);
            test_fill_normal(&r, x, N, 1);
            uint32_t n = row_elems(quantised[t]), act_block = vd_wtype_info(quantised[t])->act_block;
            (act_block == 32 ? vd_num_quant8_blocks : vd_num_quant8_blocks256)(x, n, q, d);
            vd_num_dequant(quantised[t], row, 0, n, w);
            double want = 0, mass = 0;
            for (uint32_t i = 0; i < n; i++) {
                double term = (double)w[i] * q[i] * (double)d[i / act_block];
                want += term;
                mass += fabs(term);
            }
            double error = fabs((double)vd_num_dot_row(quantised[t], row, q, d, n) - want) / mass;
            worst = error > worst ? error : worst;
        }
    }
    print_message("quantised product: largest error %.3g of the sum of magnitudes\n", worst);
    assert_true(worst < 1e-6 && worst > 0);
}

/* Every scale that the quantiser makes, times every kind of binary16: one rounding less. */
static void test_scale_product_exact(void **state)
{
    struct vd_rng r = {.seed = 8};
    for (int i = 0; i < 300000; i++) {
        uint16_t h = (uint16_t)vd_rng_below(&r, 0x7C00);
        uint32_t e = 27 + (uint32_t)vd_rng_below(&r, 210); /* from 2^-100 to where the product may overflow */
        float d_w = vd_f16_to_f32(h),
              d_a = vd_num_round11(vd_f32_from_bits(e << 23 | (uint32_t)vd_rng_below(&r, 1 << 23)));
        assert_true((double)(d_w * d_a) == (double)d_w * (double)d_a);
    }
}

/* Blocks ascend inside a segment, the min's fma follows its block's, segments are added ascending. */
static void test_order(void **state)
{
    struct vd_rng r = {.seed = 9};
    static uint8_t row[N * 2];
    int8_t q[N];
    float d[N / 32], x[N];
    bool differs = false;
    for (int round = 0; round < 20; round++) {
        random_row(&r, VD_WTYPE_Q4_1, row, 5);
        test_fill_normal(&r, x, N, 1);
        vd_num_quant8_blocks(x, N, q, d);
        float seg[3], back = 0;
        for (int s = 0; s < 3; s++) {
            seg[s] = 0;
            for (int b = 16 * s; b < 16 * (s + 1) && b < N / 32; b++) {
                const uint8_t *block = row + 20 * b;
                float dw = vd_f16_to_f32(vd_le16_load(block)), mw = vd_f16_to_f32(vd_le16_load(block + 2));
                int32_t isum = 0, asum = 0;
                for (int j = 0; j < 32; j++) {
                    isum += (j < 16 ? block[4 + j] & 15 : block[4 + j - 16] >> 4) * q[32 * b + j];
                    asum += q[32 * b + j];
                }
                seg[s] = fmaf(dw * d[b], (float)isum, seg[s]);
                seg[s] = fmaf(mw * d[b], (float)asum, seg[s]);
            }
        }
        back = seg[2] + seg[1] + seg[0];
        float row_sum = vd_num_dot_row(VD_WTYPE_Q4_1, row, q, d, N);
        assert_true(test_same_bits(row_sum, (seg[0] + seg[1]) + seg[2]));
        assert_true(test_same_bits(row_sum, vd_num_sum_segs(seg, 3)));
        assert_true(
            test_same_bits(seg[1], vd_num_dot_seg(VD_WTYPE_Q4_1, row + 20 * 16, q + 512, d + 16, 512)));
        differs = differs || row_sum != back;
    }
    assert_true(differs);
}

/* The integer sums of one Q4_K super-block, written from the format and not by vd_wtype. */
static void q4_k_sums(const uint8_t *p, const int8_t *q, int64_t *isum, int64_t *msum)
{
    const uint8_t *s = p + 4, *qs = p + 16;
    *isum = *msum = 0;
    for (int pair = 0; pair < 4; pair++, qs += 32, q += 64)
        for (int high = 0; high < 2; high++) {
            int b = 2 * pair + high, dot = 0, sum = 0;
            int sc = b < 4 ? s[b] & 63 : (s[b + 4] & 15) + (s[b - 4] / 64) * 16;
            int m = b < 4 ? s[b + 4] & 63 : (s[b + 4] >> 4) + (s[b] / 64) * 16;
            for (int l = 0; l < 32; l++) {
                dot += (high ? qs[l] >> 4 : qs[l] & 15) * q[32 * high + l];
                sum += q[32 * high + l];
            }
            *isum += sc * dot;
            *msum += m * sum;
        }
}

/* Super-blocks ascend inside a segment of two, the min's fma follows its super-block's. */
static void test_order_super(void **state)
{
    enum { SUPERS = 5 };
    struct vd_rng r = {.seed = 11};
    static uint8_t row[N * 2];
    int8_t q[N];
    float d[SUPERS], x[N];
    for (int round = 0; round < 50; round++) {
        random_row(&r, VD_WTYPE_Q4_K, row, 5);
        test_fill_normal(&r, x, N, 1);
        vd_num_quant8_blocks256(x, 256 * SUPERS, q, d);
        float seg[3] = {0};
        for (int b = 0; b < SUPERS; b++) {
            const uint8_t *p = row + 144 * b;
            int64_t isum, msum;
            q4_k_sums(p, q + 256 * b, &isum, &msum);
            float dw = vd_f16_to_f32(vd_le16_load(p)), mw = vd_f16_to_f32(vd_le16_load(p + 2));
            seg[b / 2] = fmaf(dw * d[b], (float)isum, seg[b / 2]);
            seg[b / 2] = fmaf(mw * d[b], -(float)msum, seg[b / 2]);
        }
        assert_true(test_same_bits(vd_num_dot_row(VD_WTYPE_Q4_K, row, q, d, 256 * SUPERS),
                                   (seg[0] + seg[1]) + seg[2]));
        assert_true(
            test_same_bits(vd_num_dot_seg(VD_WTYPE_Q4_K, row + 144 * 2, q + 512, d + 2, 512), seg[1]));
    }
}

/* The largest sums that codes and scales allow are exact. */
static void test_super_extremes(void **state)
{
    uint8_t row[210];
    int8_t q[256];
    float d = 1.0f;
    memset(q, -127, sizeof q);
    memset(row, 0, sizeof row);  /* every code is -32 */
    memset(row + 192, 0x80, 16); /* every scale is -128 */
    vd_le16_store(row + 208, 0x3C00);
    assert_true(vd_num_dot_row(VD_WTYPE_Q6_K, row, q, &d, 256) == (float)(-127 * 32 * 128 * 256));
    memset(row, 0xFF, sizeof row);
    vd_le16_store(row, 0x3C00), vd_le16_store(row + 2, 0);
    assert_true(vd_num_dot_row(VD_WTYPE_Q5_K, row, q, &d, 256) == (float)(-127 * 31 * 63 * 256));
    vd_le16_store(row, 0), vd_le16_store(row + 2, 0x3C00);
    assert_true(vd_num_dot_row(VD_WTYPE_Q5_K, row, q, &d, 256) == (float)(127 * 63 * 256));
    memset(row, 0, sizeof row); /* every code is -127, every scale -32 */
    vd_le16_store(row, 0x3C00);
    assert_true(vd_num_dot_row(VD_WTYPE_IQ4_XS, row, q, &d, 256) == (float)(-127 * 127 * 32 * 256));
}

static void test_float_rows(void **state)
{
    struct vd_rng r = {.seed = 10};
    uint8_t f32[4 * N], f16[2 * N], bf16[2 * N];
    float x[N];
    for (int round = 0; round < 20; round++) {
        float want32 = 0, want16 = 0, want_b = 0, seg32 = 0, seg16 = 0, seg_b = 0;
        for (int i = 0; i < N; i++) {
            float w = test_normal(&r, 1);
            uint16_t h = vd_f16_from_f32(w);
            vd_le32_store(f32 + 4 * i, vd_f32_bits(w));
            vd_le16_store(f16 + 2 * i, h);
            vd_le16_store(bf16 + 2 * i, (uint16_t)(vd_f32_bits(w) >> 16));
            x[i] = test_normal(&r, 1);
            seg32 = fmaf(w, x[i], seg32);
            seg16 = fmaf(vd_f16_to_f32(h), x[i], seg16);
            seg_b = fmaf(vd_f32_from_bits(vd_f32_bits(w) & 0xFFFF0000), x[i], seg_b);
            if (i % 512 == 511 || i == N - 1) {
                want32 = i < 512 ? seg32 : want32 + seg32;
                want16 = i < 512 ? seg16 : want16 + seg16;
                want_b = i < 512 ? seg_b : want_b + seg_b;
                seg32 = seg16 = seg_b = 0;
            }
        }
        assert_true(test_same_bits(vd_num_dot_row_float(VD_WTYPE_F32, f32, x, N), want32));
        assert_true(test_same_bits(vd_num_dot_row_float(VD_WTYPE_F16, f16, x, N), want16));
        assert_true(test_same_bits(vd_num_dot_row_float(VD_WTYPE_BF16, bf16, x, N), want_b));
    }
}

static void test_zero_and_not_finite(void **state)
{
    uint8_t row[34 * 2] = {0};
    int8_t q[64] = {0};
    float d[2] = {vd_f32_from_bits(VD_NAN_BITS), 1.0f};
    vd_le16_store(row, 0x3C00);
    assert_true(isnan(vd_num_dot_row(VD_WTYPE_Q8_0, row, q, d, 64))); /* a spoilt block, although q is 0 */
    d[0] = 0.0f;
    assert_true(test_same_bits(vd_num_dot_row(VD_WTYPE_Q8_0, row, q, d, 64), 0.0f));
    d[0] = 1.0f;
    vd_le16_store(row, 0xBC00); /* -1 * 0 is -0, but the sum began at +0 */
    vd_le16_store(row + 34, 0xBC00);
    assert_true(test_same_bits(vd_num_dot_row(VD_WTYPE_Q8_0, row, q, d, 64), 0.0f));
    static const uint8_t minus_one[4] = {0x00, 0x00, 0x80, 0xBF};
    assert_true(test_same_bits(vd_num_dot_row_float(VD_WTYPE_F32, minus_one, &(float){0.0f}, 1), 0.0f));
    vd_le16_store(row, 0x7BFF);
    d[0] = 0x1p120f; /* the scale product overflows: infinity times 0 */
    assert_true(isnan(vd_num_dot_row(VD_WTYPE_Q8_0, row, q, d, 64)));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_isum),
        cmocka_unit_test(test_exact_against_dequant),
        cmocka_unit_test(test_error_against_double),
        cmocka_unit_test(test_scale_product_exact),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_order_super),
        cmocka_unit_test(test_super_extremes),
        cmocka_unit_test(test_float_rows),
        cmocka_unit_test(test_zero_and_not_finite),
    };
    return cmocka_run_group_tests_name("dot", tests, NULL, NULL);
}
