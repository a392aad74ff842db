/* Attention: scores, chunks and merges against double, absent lanes, the 15-bit range over the mantissas,
 * NaN. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "vd_attn.h"
#include "vd_exp.h"
#include "vd_num_testing.h"
#include "vd_quant.h"

enum { HD = 64, KEYS = 300 };

/* docs/spec/arithmetic.md states this: against exact softmax over the same quantised rows, relative to the
 * largest |v|. */
#define ATTN_MAX_ERROR 5e-5

static void test_score(void **state)
{
    struct vd_rng r = {.seed = 15};
    float x[HD], dq[2], dk[2];
    int8_t q[HD], k[HD];
    for (int i = 0; i < 5000; i++) {
        test_fill_normal(&r, x, HD, 3);
        vd_num_quant8_blocks(x, HD, q, dq);
        test_fill_normal(&r, x, HD, 3);
        vd_num_quant8_blocks(x, HD, k, dk);
        int32_t s0 = 0, s1 = 0;
        for (int e = 0; e < 32; e++) {
            s0 += q[e] * k[e];
            s1 += q[e + 32] * k[e + 32];
        }
        float want = fmaf(dq[1] * dk[1], (float)s1, (dq[0] * dk[0]) * (float)s0) * (0.125f / 32);
        assert_true(test_same_bits(vd_num_score(q, dq, k, dk, HD, 0.125f), want));
    }
    dk[1] = NAN;
    assert_int_equal(vd_f32_bits(vd_num_score(q, dq, k, dk, HD, 0.125f)), VD_NAN_BITS);
    assert_false(isnan(vd_num_score(q, dq, k, dk, 32, 0.125f)));
}

/* A chunk of one key has p = 1, so t = dv: every mantissa of the largest weight. */
static void test_weight_range_every_mantissa(void **state)
{
    uint32_t stride = test_stride(37);
    float score = 0.5f;
    struct vd_chunk c;
    for (uint32_t m = 0; m < 1u << 23; m += stride) {
        float dv = vd_f32_from_bits((127u - (m % 5) * 20) << 23 | m);
        vd_num_chunk(&score, &dv, 0, 1, &c);
        if (c.q[0] != 32767)
            fail_msg("dv %a gives %d", (double)dv, c.q[0]);
    }
    float extreme[2] = {0x1.fffffep127f, 0x1p-84f};
    for (int i = 0; i < 2; i++) {
        vd_num_chunk(&score, &extreme[i], 0, 1, &c);
        assert_int_equal(c.q[0], 32767);
    }
}

static void test_chunk_against_double(void **state)
{
    struct vd_rng r = {.seed = 16};
    double worst_l = 0;
    for (int i = 0; i < 3000; i++) {
        float score[64], dv[64];
        uint32_t first = (uint32_t)vd_rng_below(&r, 64), count = 1 + (uint32_t)vd_rng_below(&r, 64 - first);
        float spread = ldexpf(1, (int)vd_rng_below(&r, 6));
        for (int j = 0; j < 64; j++) {
            score[j] = test_normal(&r, spread);
            dv[j] = vd_num_round11(0.01f + fabsf(test_normal(&r, 0.01f)));
        }
        struct vd_chunk c;
        vd_num_chunk(score, dv, first, count, &c);
        double m = -INFINITY, l = 0, tmax = 0;
        for (uint32_t j = first; j < first + count; j++)
            m = fmax(m, (double)score[j]);
        assert_true((double)c.m == m);
        for (uint32_t j = first; j < first + count; j++) {
            l += exp((double)score[j] - m);
            tmax = fmax(tmax, exp((double)score[j] - m) * (double)dv[j]);
        }
        worst_l = fmax(worst_l, fabs((double)c.l - l) / l);
        for (uint32_t j = 0; j < 64; j++) {
            bool valid = j >= first && j < first + count;
            double t = valid ? exp((double)score[j] - m) * (double)dv[j] : 0;
            assert_true(c.q[j] >= 0 && (valid || c.q[j] == 0));
            assert_true(fabs(c.q[j] * (double)c.d - t) <= 0.51 * tmax / 32767);
        }
    }
    print_message("chunk: largest error of l %.3g\n", worst_l);
    assert_true(worst_l < 5e-7);
}

/* The sum of the weights, written a second time: lanes j + (j + 32), absent ones +0, then the tree. */
static float tree(const float *p, int j, int step)
{
    return step == 32 ? p[j] + p[j + 32] : tree(p, j, 2 * step) + tree(p, j + step, 2 * step);
}

static void test_chunk_order_and_absent_lanes(void **state)
{
    struct vd_rng r = {.seed = 17};
    int order_seen = 0;
    for (int i = 0; i < 500; i++) {
        float score[64], dv[64], p[64] = {0}, ascending = 0;
        uint32_t first = (uint32_t)vd_rng_below(&r, 64), count = 1 + (uint32_t)vd_rng_below(&r, 64 - first);
        struct vd_chunk a, b;
        for (int j = 0; j < 64; j++) {
            score[j] = test_normal(&r, 3);
            dv[j] = 1 + test_uniform(&r, 0.5f);
        }
        vd_num_chunk(score, dv, first, count, &a);
        for (uint32_t j = first; j < first + count; j++) {
            p[j] = vd_num_exp(score[j] - a.m);
            ascending += p[j];
        }
        assert_true(test_same_bits(a.l, tree(p, 0, 1)));
        order_seen += a.l != ascending;
        for (uint32_t j = 0; j < 64; j++)
            if (j < first || j >= first + count)
                score[j] = dv[j] = j & 1 ? NAN : INFINITY;
        vd_num_chunk(score, dv, first, count, &b);
        assert_memory_equal(&a, &b, sizeof a);
    }
    assert_true(order_seen > 100);
}

static void test_chunk_not_finite(void **state)
{
    float score[64] = {0}, dv[64];
    struct vd_chunk c;
    for (int j = 0; j < 64; j++)
        dv[j] = 1;
    score[7] = vd_f32_from_bits(0xFFC12345);
    vd_num_chunk(score, dv, 0, 64, &c);
    assert_int_equal(vd_f32_bits(c.m), VD_NAN_BITS);
    assert_int_equal(vd_f32_bits(c.l), VD_NAN_BITS);
    assert_int_equal(vd_f32_bits(c.d), VD_NAN_BITS);
    for (int j = 0; j < 64; j++)
        assert_int_equal(c.q[j], 0);

    score[7] = 0; /* a spoilt value row: the scores' part stays good */
    dv[9] = vd_f32_from_bits(VD_NAN_BITS);
    vd_num_chunk(score, dv, 0, 64, &c);
    assert_true(c.m == 0 && c.l == 64 && vd_f32_bits(c.d) == VD_NAN_BITS && c.q[0] == 0);
    vd_num_chunk(score, dv, 10, 54, &c);
    assert_true(c.l == 54 && c.d > 0);

    dv[9] = 1;
    for (int sign = -1; sign <= 1; sign += 2) { /* all scores infinite: inf - inf */
        for (int j = 0; j < 64; j++)
            score[j] = (float)sign * INFINITY;
        vd_num_chunk(score, dv, 0, 64, &c);
        assert_true(isinf(c.m) && vd_f32_bits(c.l) == VD_NAN_BITS && vd_f32_bits(c.d) == VD_NAN_BITS);
    }
    score[0] = -0.0f; /* -0 never is a maximum */
    vd_num_chunk(score, dv, 0, 1, &c);
    assert_true(test_same_bits(c.m, 0.0f) && c.l == 1 && c.q[0] == 32767);
    dv[0] = 0; /* a zero row of values */
    vd_num_chunk(score, dv, 0, 1, &c);
    assert_true(test_same_bits(c.d, 0.0f) && c.q[0] == 0);
}

static void test_chunk_v_exact(void **state)
{
    struct vd_rng r = {.seed = 18};
    static int8_t v[64][HD + 3];
    struct vd_chunk c = {.d = 0x1p-20f};
    for (int i = 0; i < 300; i++) {
        for (int j = 0; j < 64; j++) {
            c.q[j] = i == 0 ? 32767 : (int16_t)vd_rng_below(&r, 32768);
            for (int e = 0; e < HD; e++)
                v[j][e] = i == 0 ? -128 : (int8_t)vd_rng_next(&r);
        }
        float o[HD], part[16];
        vd_num_chunk_v(&c, v[0], HD + 3, HD, o);
        for (int e = 0; e < HD; e++) {
            int64_t sum = 0;
            for (int j = 0; j < 64; j++)
                sum += (int64_t)c.q[j] * v[j][e];
            assert_true(o[e] == (float)sum * 0x1p-20f);
        }
        vd_num_chunk_v(&c, v[0] + 32, HD + 3, 16, part);
        assert_memory_equal(part, o + 32, sizeof part);
    }
    memset(&c, 0, sizeof c);
    c.d = vd_f32_from_bits(VD_NAN_BITS);
    float o[HD];
    vd_num_chunk_v(&c, NULL, 0, HD, o); /* all weights 0: no row is read */
    for (int e = 0; e < HD; e++)
        assert_true(isnan(o[e]));
}

struct rows {
    float score[KEYS], dv[KEYS];
    int8_t v[KEYS][HD];
};

/* The range [a, b) chunk by chunk, as an engine would. */
static void attend(const struct rows *rows, uint32_t a, uint32_t b, float *y)
{
    float m = 0, l = 0, o[HD], oc[HD];
    bool started = false;
    for (uint32_t c = a / 64; c * 64 < b; c++) {
        uint32_t first = a > c * 64 ? a - c * 64 : 0, end = b - c * 64 < 64 ? b - c * 64 : 64;
        float score[64] = {0}, dv[64] = {0};
        struct vd_chunk chunk;
        memcpy(score + first, rows->score + c * 64 + first, (end - first) * sizeof(float));
        memcpy(dv + first, rows->dv + c * 64 + first, (end - first) * sizeof(float));
        vd_num_chunk(score, dv, first, end - first, &chunk);
        vd_num_chunk_v(&chunk, rows->v[c * 64], HD, HD, oc);
        if (started) {
            vd_num_merge(&m, &l, o, chunk.m, chunk.l, oc, HD);
        } else {
            m = chunk.m;
            l = chunk.l;
            memcpy(o, oc, sizeof o);
            started = true;
        }
    }
    vd_num_attn_finish(l, o, HD, y);
}

static void random_rows(struct vd_rng *r, struct rows *rows, float spread)
{
    for (int j = 0; j < KEYS; j++) {
        float x[HD];
        rows->score[j] = test_normal(r, spread);
        test_fill_normal(r, x, HD, 1);
        vd_num_quant8(x, HD, rows->v[j], &rows->dv[j]);
    }
}

static void test_whole_against_double(void **state)
{
    struct vd_rng r = {.seed = 19};
    static struct rows rows;
    double worst = 0;
    for (int i = 0; i < 200; i++) {
        random_rows(&r, &rows, ldexpf(1, (int)vd_rng_below(&r, 5)));
        uint32_t a = (uint32_t)vd_rng_below(&r, KEYS), b = a + 1 + (uint32_t)vd_rng_below(&r, KEYS - a);
        float y[HD];
        attend(&rows, a, b, y);
        double m = -INFINITY, l = 0, o[HD] = {0}, vmax = 0;
        for (uint32_t j = a; j < b; j++)
            m = fmax(m, (double)rows.score[j]);
        for (uint32_t j = a; j < b; j++) {
            double p = exp((double)rows.score[j] - m);
            l += p;
            for (int e = 0; e < HD; e++) {
                double v = rows.v[j][e] * (double)rows.dv[j];
                o[e] += p * v;
                vmax = fmax(vmax, fabs(v));
            }
        }
        for (int e = 0; e < HD; e++)
            worst = fmax(worst, fabs((double)y[e] - o[e] / l) / vmax);
    }
    print_message("attention: largest error %.3g of the largest |v|\n", worst);
    assert_true(worst < ATTN_MAX_ERROR);
}

static void test_merge(void **state)
{
    float m = 1, l = 2, o[2] = {3, -4}, oc[2] = {5, 6};
    vd_num_merge(&m, &l, o, 1, 7, oc, 2); /* equal maxima: plain sums */
    assert_true(m == 1 && l == 9 && o[0] == 8 && o[1] == 2);
    vd_num_merge(&m, &l, o, 200, 7, oc, 2); /* the old part vanishes */
    assert_true(m == 200 && l == 7 && o[0] == 5 && o[1] == 6);
    vd_num_merge(&m, &l, o, 0, 1e30f, oc, 2); /* so does a far smaller new one */
    assert_true(m == 200 && l == 7 && o[0] == 5);
    m = -0.0f;
    vd_num_merge(&m, &l, o, -0.0f, 1, oc, 2);
    assert_true(test_same_bits(m, 0.0f));
    float nan = vd_f32_from_bits(0xFFFFFFFF);
    for (int side = 0; side < 2; side++) {
        float m2 = side ? nan : 1, l2 = 1, o2[2] = {1, 1};
        vd_num_merge(&m2, &l2, o2, side ? 1 : nan, 1, oc, 2);
        assert_true(vd_f32_bits(m2) == VD_NAN_BITS && isnan(l2) && isnan(o2[0]) && isnan(o2[1]));
    }
    vd_num_merge(&m, &l, o, -300, nan, oc, 2); /* a NaN sum is not hidden by a weight of 0 */
    assert_true(m == 0 && isnan(l) && !isnan(o[0]));
    float y[2] = {1, -3};
    vd_num_attn_finish(2, y, 2, y);
    assert_true(y[0] == 0.5f && y[1] == -1.5f);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_score),
        cmocka_unit_test(test_weight_range_every_mantissa),
        cmocka_unit_test(test_chunk_against_double),
        cmocka_unit_test(test_chunk_order_and_absent_lanes),
        cmocka_unit_test(test_chunk_not_finite),
        cmocka_unit_test(test_chunk_v_exact),
        cmocka_unit_test(test_whole_against_double),
        cmocka_unit_test(test_merge),
    };
    return cmocka_run_group_tests_name("attn", tests, NULL, NULL);
}
