/* Routing against a plain sort, and what it does where logits tie, are infinite or NaN. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vd_exp.h"
#include "vd_num_testing.h"
#include "vd_route.h"
#include "vd_sample.h"

static const float *sorted_by; /* for qsort */

static int in_order(const void *a, const void *b)
{
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    uint32_t ki = vd_num_sample_key(sorted_by[i]), kj = vd_num_sample_key(sorted_by[j]);
    if (ki != kj)
        return ki > kj ? -1 : 1;
    return i < j ? -1 : 1;
}

/* The weights by the rule, from the sorted list. */
static float weight_of(const float *x, uint32_t n, const uint32_t *order, uint32_t n_used, bool norm,
                       uint32_t s)
{
    float max = x[order[0]], den = 0;
    for (uint32_t i = 0; i < (norm ? n_used : n); i++)
        den += vd_num_exp(x[norm ? order[i] : i] - max);
    return vd_num_canon(vd_num_exp(x[order[s]] - max) / den);
}

static void test_against_sort(void **state)
{
    struct vd_rng r = {.seed = 4};
    for (int i = 0; i < 3000; i++) {
        float x[VD_ROUTE_MAX], w[VD_ROUTE_USED_MAX];
        uint32_t n = 1 + (uint32_t)vd_rng_below(&r, VD_ROUTE_MAX), order[VD_ROUTE_MAX], e[VD_ROUTE_USED_MAX];
        uint32_t n_used = 1 + (uint32_t)vd_rng_below(&r, n < VD_ROUTE_USED_MAX ? n : VD_ROUTE_USED_MAX);
        for (uint32_t k = 0; k < n; k++) {
            x[k] = i & 1 ? test_normal(&r, 5) : (float)((int)vd_rng_below(&r, 5) - 2) * 0.0f + (float)(k % 3);
            order[k] = k;
        }
        sorted_by = x;
        qsort(order, n, sizeof order[0], in_order);
        vd_num_route(x, n, n_used, i & 2, e, w);
        float sum = 0;
        for (uint32_t s = 0; s < n_used; s++) {
            assert_int_equal(e[s], order[s]);
            assert_true(test_same_bits(w[s], weight_of(x, n, order, n_used, i & 2, s)));
            sum += w[s];
        }
        assert_true(i & 2 ? fabsf(sum - 1.0f) < 1e-5f : sum < 1.0001f);
    }
}

static void test_ties_and_zeros(void **state)
{
    const float x[4] = {-0.0f, 0.0f, 0.0f, -0.0f};
    uint32_t e[4];
    float w[4];
    vd_num_route(x, 4, 3, true, e, w);
    for (uint32_t s = 0; s < 3; s++)
        assert_true(e[s] == s && w[s] == 1.0f / 3.0f);
    vd_num_route(x, 4, 2, false, e, w);
    assert_true(w[0] == 0.25f && w[1] == 0.25f);
}

static void test_not_finite(void **state)
{
    const float with_nan[4] = {1, 2, NAN, 9}, with_inf[4] = {1, INFINITY, 3, 2};
    const float all_minus[3] = {-INFINITY, -INFINITY, -INFINITY};
    uint32_t e[4];
    float w[4];
    vd_num_route(with_nan, 4, 2, true, e, w);
    assert_true(e[0] == 0 && e[1] == 1);
    assert_true(vd_f32_bits(w[0]) == VD_NAN_BITS && vd_f32_bits(w[1]) == VD_NAN_BITS);
    vd_num_route(with_inf, 4, 2, true, e, w);
    assert_true(e[0] == 1 && e[1] == 2 && vd_f32_bits(w[0]) == VD_NAN_BITS);
    vd_num_route(all_minus, 3, 3, false, e, w);
    assert_true(e[0] == 0 && e[1] == 1 && e[2] == 2 && vd_f32_bits(w[2]) == VD_NAN_BITS);
}

static void test_mix(void **state)
{
    const float w[3] = {0.5f, 0.25f, 0.25f}, y[3] = {0x1p24f, 3.0f, -1.0f};
    assert_true(vd_num_mix(w, y, 3) == fmaf(0.25f, -1.0f, fmaf(0.25f, 3.0f, 0x1p23f)));
    assert_int_equal(vd_f32_bits(vd_num_mix(w, (const float[]){-0.0f}, 1)), 0); /* starts at +0 */
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_sort),
        cmocka_unit_test(test_ties_and_zeros),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_mix),
    };
    return cmocka_run_group_tests_name("route", tests, NULL, NULL);
}
