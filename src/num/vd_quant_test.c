/* The 8-bit quantiser: its range over every mantissa, its error, its borders. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vd_num_testing.h"
#include "vd_quant.h"

static void test_round11(void **state)
{
    struct vd_rng r = {.seed = 3};
    for (int i = 0; i < 300000; i++) {
        float x = fabsf(test_any(&r));
        if (!(x >= 0x1p-120f && x < 0x1p120f))
            continue;
        int e;
        frexp(x, &e);
        double unit = ldexp(1.0, e - 11); /* 11 significant bits */
        assert_true(vd_num_round11(x) == (float)(rint(x / unit) * unit));
        assert_true(vd_num_round11(-x) == -vd_num_round11(x));
    }
    assert_true(vd_num_round11(0x1.002p+0f) == 1.0f);       /* a tie, down to even */
    assert_true(vd_num_round11(0x1.006p+0f) == 0x1.008p0f); /* a tie, up to even */
    assert_true(vd_num_round11(0x1.fffffep+3f) == 16.0f);   /* carries into the exponent */
}

/* The largest element always lands on exactly 127: then nothing else can leave [-127, 127], since rint and
 * the product are monotone. */
static void check_peak(float amax)
{
    float x[2] = {amax, -amax}, d;
    int8_t q[2];
    vd_num_quant8(x, 2, q, &d);
    if (q[0] != 127 || q[1] != -127)
        fail_msg("amax %a gives %d and %d", (double)amax, q[0], q[1]);
}

static void test_range_every_mantissa(void **state)
{
    for (uint32_t m = 0; m < 1u << 23; m++) {
        check_peak(vd_f32_from_bits(127u << 23 | m));
        check_peak(vd_f32_from_bits(254u << 23 | m)); /* up to the largest number: 1 / d is smallest */
    }
    for (uint32_t m = 0; m < 1u << 23; m += 1009)
        for (uint32_t e = 34 + 2; e < 254; e++) /* 2^-91: safely above the threshold */
            check_peak(vd_f32_from_bits(e << 23 | m));
}

static void test_error_bound(void **state)
{
    struct vd_rng r = {.seed = 4};
    float x[64], d;
    int8_t q[64];
    for (int i = 0; i < 20000; i++) {
        size_t n = 1 + vd_rng_below(&r, 64);
        float sigma = ldexpf(1.0f, (int)vd_rng_below(&r, 200) - 80);
        test_fill_normal(&r, x, n, sigma);
        vd_num_quant8(x, n, q, &d);
        assert_true(test_same_bits(d, vd_num_round11(d)));
        for (size_t j = 0; j < n; j++) {
            assert_true(q[j] >= -127 && q[j] <= 127);
            assert_true(fabs((double)x[j] - (double)q[j] * (double)d) <= 0.50002 * (double)d);
        }
    }
}

static void test_ties_and_signs(void **state)
{
    float x[6] = {127.0f, 0.5f, 1.5f, -2.5f, -0.0f, -3.5f}, d;
    int8_t q[6], want[6] = {127, 0, 2, -2, 0, -4};
    vd_num_quant8(x, 6, q, &d);
    assert_true(d == 1.0f);
    assert_memory_equal(q, want, 6);
}

static void test_threshold(void **state)
{
    float d;
    int8_t q;
    float at = 127.0f * 0x1p-100f, below = nextafterf(at * (1 - 0x1p-12f), 0.0f);
    vd_num_quant8(&at, 1, &q, &d);
    assert_true(d == 0x1p-100f && q == 127);
    vd_num_quant8(&below, 1, &q, &d);
    assert_true(test_same_bits(d, 0.0f) && q == 0);
    float tiny[3] = {0x1p-149f, -0x1p-130f, -0.0f};
    int8_t q3[3] = {1, 1, 1};
    vd_num_quant8(tiny, 3, q3, &d);
    assert_true(test_same_bits(d, 0.0f) && q3[0] == 0 && q3[1] == 0 && q3[2] == 0);
}

static void test_not_finite(void **state)
{
    static const uint32_t bad[] = {0x7F800000, 0xFF800000, 0x7F800001, 0xFFFFFFFF, 0x7FC00000};
    for (size_t b = 0; b < 5; b++) {
        float x[1024] = {1.0f}, d;
        int8_t q[1024];
        x[1000] = vd_f32_from_bits(bad[b]);
        vd_num_quant8(x, 1024, q, &d);
        assert_int_equal(vd_f32_bits(d), VD_NAN_BITS);
        for (int i = 0; i < 1024; i++)
            assert_int_equal(q[i], 0);
    }
}

static void test_blocks(void **state)
{
    struct vd_rng r = {.seed = 5};
    float x[96], d[3], d1;
    int8_t q[96], q1[32];
    test_fill_normal(&r, x, 96, 1);
    x[40] = NAN; /* spoils its own block only */
    vd_num_quant8_blocks(x, 96, q, d);
    for (int b = 0; b < 3; b++) {
        vd_num_quant8(x + 32 * b, 32, q1, &d1);
        assert_true(test_same_bits(d[b], d1));
        assert_memory_equal(q + 32 * b, q1, 32);
    }
    assert_true(isnan(d[1]) && d[0] > 0 && d[2] > 0);
}

/* The matrix is symmetric and its square is 32 times the identity; its element (i, j) is the parity of i & j.
 */
static void test_spread(void **state)
{
    for (unsigned j = 0; j < 32; j++) {
        float x[32] = {0};
        x[j] = 1.0f;
        vd_num_spread(x);
        for (unsigned i = 0; i < 32; i++)
            assert_true(x[i] == (__builtin_parity(i & j) ? -1.0f : 1.0f));
        vd_num_spread(x);
        for (unsigned i = 0; i < 32; i++)
            assert_true(x[i] == (i == j ? 32.0f : 0.0f));
    }
    struct vd_rng r = {.seed = 6};
    float x[64], y[64], d[2], d1[2];
    int8_t q[64], q1[64];
    test_fill_normal(&r, x, 64, 1);
    memcpy(y, x, sizeof y);
    vd_num_spread(y), vd_num_spread(y + 32);
    vd_num_quant8_blocks(y, 64, q1, d1);
    vd_num_quant8_spread(x, 64, q, d);
    assert_memory_equal(q, q1, 64);
    assert_memory_equal(d, d1, sizeof d);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round11),     cmocka_unit_test(test_range_every_mantissa),
        cmocka_unit_test(test_error_bound), cmocka_unit_test(test_ties_and_signs),
        cmocka_unit_test(test_threshold),   cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_blocks),      cmocka_unit_test(test_spread),
    };
    return cmocka_run_group_tests_name("quant", tests, NULL, NULL);
}
