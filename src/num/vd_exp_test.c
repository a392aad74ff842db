/* exp and what is made of it, against the C library's double exp. VD_LONG=1: every binary32 of the range. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vd_act.h"
#include "vd_exp.h"
#include "vd_num_testing.h"

/* docs/spec/arithmetic.md states these. */
#define EXP_MAX_ULPS  0.892
#define SILU_MAX_ULPS 3.0

static void check_exp(float x, double *worst)
{
    float y = vd_num_exp(x);
    double ulps = test_ulps(y, exp((double)x));
    if (ulps > *worst)
        *worst = ulps;
    assert_true(y >= 0x1p-126f);
    assert_true(x > 0 || y <= 1.0f);
}

static void test_exp_range(void **state)
{
    double worst = 0;
    uint32_t stride = test_stride(509);
    for (uint64_t u = 0; u <= vd_f32_bits(88.0f); u += stride)
        check_exp(vd_f32_from_bits((uint32_t)u), &worst);
    for (uint64_t u = 0x80000000; u <= vd_f32_bits(-87.0f); u += stride)
        check_exp(vd_f32_from_bits((uint32_t)u), &worst);
    print_message("exp: largest error %.6f ulp (stride %u)\n", worst, stride);
    assert_true(worst < EXP_MAX_ULPS);
    assert_true(worst > 0.5); /* a reference that always agreed would be no reference */
}

static void test_exp_edges(void **state)
{
    assert_true(vd_num_exp(0.0f) == 1.0f && vd_num_exp(-0.0f) == 1.0f);
    assert_true(vd_num_exp(0x1p-149f) == 1.0f && vd_num_exp(-0x1p-149f) == 1.0f);
    assert_true(vd_num_exp(-87.0f) > 0.0f);
    assert_int_equal(vd_f32_bits(vd_num_exp(nextafterf(-87.0f, -100.0f))), 0);
    assert_int_equal(vd_f32_bits(vd_num_exp(-INFINITY)), 0);
    assert_true(vd_num_exp(INFINITY) == vd_num_exp(88.0f) && vd_num_exp(1e30f) == vd_num_exp(88.0f));
    assert_true(isfinite(vd_num_exp(INFINITY)));
    assert_true(isnan(vd_num_exp(NAN)) && isnan(vd_num_exp(-NAN)));
}

static void test_silu(void **state)
{
    double worst = 0;
    for (int i = -80000; i <= 80000; i++) {
        float x = (float)i * 0x1.1p-10f;
        double want = (double)x / (1.0 + exp(-(double)x));
        double ulps = i ? test_ulps(vd_num_silu(x), want) : 0;
        worst = ulps > worst ? ulps : worst;
    }
    print_message("silu: largest error %.3f ulp\n", worst);
    assert_true(worst < SILU_MAX_ULPS);
    assert_true(vd_num_silu(100.0f) == 100.0f && vd_num_silu(INFINITY) == INFINITY);
    assert_true(vd_num_silu(-1000.0f) < 0.0f && vd_num_silu(-1000.0f) > -1e-34f);
    assert_int_equal(vd_f32_bits(vd_num_silu(-0.0f)), 0x80000000);
    assert_true(isnan(vd_num_silu(NAN)));
}

static void test_elementwise(void **state)
{
    struct vd_rng r = {.seed = 2};
    float g[100], u[100], y[100];
    for (int i = 0; i < 100; i++) {
        g[i] = test_normal(&r, 4);
        u[i] = test_normal(&r, 4);
    }
    g[5] = NAN;
    u[6] = -0.0f;
    vd_num_swiglu(g, u, 100, y);
    for (int i = 0; i < 100; i++)
        assert_true(i == 5 ? isnan(y[i]) : test_same_bits(y[i], vd_num_silu(g[i]) * u[i]));
    vd_num_residual(g, u, 100, u); /* in place */
    for (int i = 0; i < 100; i++)
        assert_true(i == 5 ? isnan(u[i]) : i == 6 ? u[i] == g[i] : u[i] != y[i]);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp_range),
        cmocka_unit_test(test_exp_edges),
        cmocka_unit_test(test_silu),
        cmocka_unit_test(test_elementwise),
    };
    return cmocka_run_group_tests_name("exp", tests, NULL, NULL);
}
