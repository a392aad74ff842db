/* GELU, tanh and caps, against the C library's doubles. VD_LONG=1: every binary32 of the range. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vd_act.h"
#include "vd_num_testing.h"

/* docs/spec/arithmetic.md states these. */
#define TANH_MAX_ERROR 1.2e-7
#define CAP_MAX_ERROR  2.4e-7 /* of the cap */
#define GELU_MAX_ERROR 4.0e-7 /* of |x| */

static double gelu(double x)
{
    return 0.5 * x * (1.0 + tanh(sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
}

static void worse(double *worst, double error)
{
    *worst = error > *worst ? error : *worst;
}

/* Every stride-th binary32 of both signs up to `most`. */
static void test_errors(void **state)
{
    double e_tanh = 0, e_cap = 0, e_gelu = 0;
    uint32_t stride = test_stride(1021);
    for (uint64_t u = 0; u <= vd_f32_bits(1000.0f); u += stride)
        for (int sign = 0; sign < 2; sign++) {
            float x = vd_f32_from_bits((uint32_t)u | (uint32_t)sign << 31);
            worse(&e_tanh, fabs(vd_num_tanh(x) - tanh(x)));
            worse(&e_cap, fabs(vd_num_cap(x, 30.0f) - 30.0 * tanh(x / 30.0)) / 30.0);
            if (fabsf(x) > 0x1p-120f) /* smaller ones lose bits as any subnormal */
                worse(&e_gelu, fabs(vd_num_gelu(x) - gelu(x)) / fabs(x));
        }
    print_message("largest errors: tanh %.3g, cap %.3g of the cap, gelu %.3g of |x|\n", e_tanh, e_cap,
                  e_gelu);
    assert_true(e_tanh < TANH_MAX_ERROR && e_tanh > 2.9e-8);
    assert_true(e_cap < CAP_MAX_ERROR);
    assert_true(e_gelu < GELU_MAX_ERROR);
}

static void test_edges(void **state)
{
    assert_int_equal(vd_f32_bits(vd_num_tanh(0.0f)), 0);
    assert_int_equal(vd_f32_bits(vd_num_tanh(-0.0f)), 0x80000000);
    assert_true(vd_num_tanh(INFINITY) == 1.0f && vd_num_tanh(-INFINITY) == -1.0f);
    assert_true(vd_num_tanh(3e38f) == 1.0f && isnan(vd_num_tanh(NAN)));
    assert_true(vd_num_cap(INFINITY, 50.0f) == 50.0f && vd_num_cap(-1e30f, 50.0f) == -50.0f);
    assert_true(isnan(vd_num_cap(NAN, 50.0f)));
    assert_int_equal(vd_f32_bits(vd_num_gelu(0.0f)), 0);
    assert_int_equal(vd_f32_bits(vd_num_gelu(-0.0f)), 0x80000000);
    assert_true(vd_num_gelu(100.0f) == 100.0f && vd_num_gelu(3e38f) == 3e38f);
    assert_true(vd_num_gelu(INFINITY) == INFINITY && isnan(vd_num_gelu(NAN)));
    assert_true(vd_num_gelu(-50.0f) <= 0.0f && vd_num_gelu(-50.0f) > -1e-36f);
}

/* A cap never lets a value past it, and keeps the order. */
static void test_cap_holds(void **state)
{
    struct vd_rng r = {.seed = 3};
    for (int i = 0; i < 200000; i++) {
        float x = test_any(&r), c = 0.5f + fabsf(test_uniform(&r, 100.0f)), y = vd_num_cap(x, c);
        assert_true(x != x ? y != y : fabsf(y) <= c && signbit(x) == signbit(y));
    }
}

static void test_geglu(void **state)
{
    struct vd_rng r = {.seed = 2};
    float g[100], u[100], y[100];
    test_fill_normal(&r, g, 100, 4);
    test_fill_normal(&r, u, 100, 4);
    g[5] = NAN;
    vd_num_geglu(g, u, 100, y);
    for (int i = 0; i < 100; i++)
        assert_true(i == 5 ? isnan(y[i]) : test_same_bits(y[i], vd_num_gelu(g[i]) * u[i]));
    vd_num_geglu(g, u, 100, u); /* in place */
    for (int i = 0; i < 100; i++)
        assert_true(i == 5 || test_same_bits(u[i], y[i]));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_cap_holds),
        cmocka_unit_test(test_geglu),
    };
    return cmocka_run_group_tests_name("act", tests, NULL, NULL);
}
