/* RoPE: the steps against integers computed with 400 bits, sin and cos against long double, both pairings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "vd_num_testing.h"
#include "vd_rope.h"

#define SINCOS_MAX_ERROR 6.9e-8 /* docs/spec/arithmetic.md states this */

/* Made with Python's mpmath at 400 bits: nint(base ** (-2 i / n) / (2 pi) * 2 ** 64) for all i, hashed as
 * little-endian u64 by FNV-1a, and the last of them in clear. base is the binary32 number. */
static const struct {
    float base;
    uint32_t n_dims;
    uint64_t fnv, last;
} steps_400_bits[] = {
    {10000.0f, 64, 0x2c6f696783eb75e0, 391507290861132},
    {100000.0f, 64, 0x913ea4dc9c753919, 42071679960424},
    {500000.0f, 128, 0x5eb392277a1bd6ae, 7208024532904},
    {1000000.0f, 128, 0xfa426441d15a81f8, 3643257386955},
    {10000.0f, 2, 0x1147779cf899b995, 2935890503282001226},
    {1.0f, 4, 0xb69ccb297ddadd05, 2935890503282001226},
    {1.5f, 6, 0xe0e232f940bba8d6, 2240503782455984215},
    {1e15f, 1024, 0xe13b6d1295389115, 3141},
    {0x1p100f, 96, 0xbf8de5cd196d6b77, 0},
};

static void test_steps(void **state)
{
    uint64_t steps[VD_ROPE_MAX_DIMS / 2];
    for (size_t k = 0; k < sizeof steps_400_bits / sizeof steps_400_bits[0]; k++) {
        uint32_t n = steps_400_bits[k].n_dims;
        assert_true(vd_num_rope_steps(steps_400_bits[k].base, n, steps));
        uint64_t h = TEST_FNV_START;
        for (uint32_t i = 0; i < n / 2; i++)
            h = test_fnv_u64(h, steps[i]);
        assert_true(steps[n / 2 - 1] == steps_400_bits[k].last);
        assert_true(h == steps_400_bits[k].fnv);
    }
}

/* The same 400 bits for stretched frequencies; factors, where there are some, are 1 + i * factor_step. */
static const struct {
    struct vd_rope_rule rule;
    float factor_step;
    uint64_t fnv, last;
} rules_400_bits[] = {
    {{1e6f, 256, 8.0f, NULL, 0}, 0.0f, 0xa21c9e4ea3c9dc4d, 408813159558},
    {{500000.0f, 128, 1.0f, NULL, 0}, 0.25f, 0xe0cd3c13e837735d, 430329822860},
    {{1e6f, 128, 4.0f, NULL, 32768}, 0.0f, 0xc38973474d779e9d, 910814346739},
    {{10000.0f, 96, 40.0f, NULL, 4096}, 0.0625f, 0xb973e6fb45aaeb45, 2258357172972},
    {{1e6f, 64, 3.7f, NULL, 300}, 0.0f, 0xf484f90f8dd0558d, 1221906920364},
};

static void test_stretched_steps(void **state)
{
    for (size_t k = 0; k < sizeof rules_400_bits / sizeof rules_400_bits[0]; k++) {
        struct vd_rope_rule rule = rules_400_bits[k].rule;
        uint64_t steps[VD_ROPE_MAX_DIMS / 2], h = TEST_FNV_START;
        float factors[VD_ROPE_MAX_DIMS / 2];
        for (uint32_t i = 0; i < rule.n_dims / 2; i++)
            factors[i] = 1.0f + (float)i * rules_400_bits[k].factor_step;
        rule.factors = rules_400_bits[k].factor_step != 0.0f ? factors : NULL;
        assert_true(vd_num_rope_steps_by(&rule, steps));
        for (uint32_t i = 0; i < rule.n_dims / 2; i++)
            h = test_fnv_u64(h, steps[i]);
        assert_true(steps[rule.n_dims / 2 - 1] == rules_400_bits[k].last);
        assert_true(h == rules_400_bits[k].fnv);
    }
    assert_true(vd_num_rope_yarn_scale(4.0f) == 0x1.237d38p+0f &&
                vd_num_rope_yarn_scale(40.0f) == 0x1.5e6f7p+0f);
    assert_true(vd_num_rope_yarn_scale(1.0f) == 1.0f && vd_num_rope_yarn_scale(0.5f) == 1.0f);
}

static void test_rules_refused(void **state)
{
    static const float half_turn[2] = {1.0f, 0x1p-12f}, zero[2] = {1.0f, 0.0f}, nan[2] = {NAN, 1.0f};
    static const struct vd_rope_rule rules[] = {
        {10000.0f, 64, 0.0f, NULL, 0},
        {10000.0f, 64, NAN, NULL, 0},
        {10000.0f, 64, INFINITY, NULL, 0},
        {10000.0f, 64, -1.0f, NULL, 0},
        {10000.0f, 64, 0.125f, NULL, 0},
        {1.0f, 64, 4.0f, NULL, 4096},
        {10000.0f, 64, 4.0f, NULL, UINT32_MAX},
        {100.0f, 4, 1.0f, half_turn, 0},
        {100.0f, 4, 1.0f, zero, 0},
        {100.0f, 4, 1.0f, nan, 0},
    };
    uint64_t steps[VD_ROPE_MAX_DIMS / 2];
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        assert_false(vd_num_rope_steps_by(&rules[i], steps));
}

static void test_steps_refused(void **state)
{
    uint64_t steps[VD_ROPE_MAX_DIMS / 2] = {77};
    static const float bases[] = {0.0f, -10000.0f, 0.999f, 0x1.000002p100f, INFINITY, NAN};
    for (size_t i = 0; i < sizeof bases / sizeof bases[0]; i++)
        assert_false(vd_num_rope_steps(bases[i], 64, steps));
    static const uint32_t dims[] = {0, 1, 63, VD_ROPE_MAX_DIMS + 2, UINT32_MAX};
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++)
        assert_false(vd_num_rope_steps(10000.0f, dims[i], steps));
    assert_true(steps[0] == 77);
}

static void test_sincos_error(void **state)
{
    long double two_pi = 6.283185307179586476925286766559L;
    double worst = 0;
    uint64_t n = getenv("VD_LONG") ? 100000000 : 1000000;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t phase = i * UINT64_C(0x9E3779B97F4A7C15);
        float s, c;
        vd_num_sincos_turn(phase, &s, &c);
        long double angle = (long double)phase * (two_pi * 0x1p-64L);
        double es = (double)fabsl((long double)s - sinl(angle)),
               ec = (double)fabsl((long double)c - cosl(angle));
        worst = es > worst ? es : worst;
        worst = ec > worst ? ec : worst;
        assert_true(fabsf(s) <= 1.0f && fabsf(c) <= 1.0f);
    }
    print_message("sincos: largest error %.4g\n", worst);
    assert_true(worst < SINCOS_MAX_ERROR);
}

static void test_sincos_quarters(void **state)
{
    static const struct {
        float s, c;
    } want[4] = {{0, 1}, {1, 0}, {0, -1}, {-1, 0}};
    for (uint64_t k = 0; k < 4; k++) {
        float s, c, s2, c2;
        vd_num_sincos_turn(k << 62, &s, &c);
        assert_true(test_same_bits(s, want[k].s) && test_same_bits(c, want[k].c));
        vd_num_sincos_turn((k << 62) + (UINT64_C(1) << 61), &s,
                           &c); /* an eighth: belongs to the next quarter */
        vd_num_sincos_turn((k << 62) + (UINT64_C(1) << 61) - 1, &s2, &c2);
        assert_true(fabsf(fabsf(s) - 0x1.6a09e6p-1f) < 1e-7f && fabsf(fabsf(c) - 0x1.6a09e6p-1f) < 1e-7f);
        assert_true(fabsf(s - s2) < 2e-7f && fabsf(c - c2) < 2e-7f);
    }
}

static void test_pair(void **state)
{
    float x0 = 3, x1 = 4;
    vd_num_rope_pair(&x0, &x1, 1, 0);
    assert_true(x0 == -4 && x1 == 3);
    struct vd_rng r = {.seed = 14};
    for (int i = 0; i < 10000; i++) {
        float a = test_normal(&r, 1), b = test_normal(&r, 1), s, c;
        vd_num_sincos_turn(vd_rng_next(&r), &s, &c);
        x0 = a;
        x1 = b;
        vd_num_rope_pair(&x0, &x1, s, c);
        assert_true(test_same_bits(x0, fmaf(a, c, -(b * s))) && test_same_bits(x1, fmaf(a, s, b * c)));
    }
}

/* Element by element against the formula of the paper, at positions where binary32 angles would be useless.
 */
static void check_head(bool neox, uint32_t pos)
{
    struct vd_rng r = {.seed = pos};
    float x[80], y[80];
    uint64_t steps[32];
    assert_true(vd_num_rope_steps(10000.0f, 64, steps));
    test_fill_normal(&r, x, 80, 1);
    memcpy(y, x, sizeof y);
    vd_num_rope_head(y, 64, pos, steps, neox);
    for (int i = 0; i < 32; i++) {
        int a = neox ? i : 2 * i, b = neox ? i + 32 : 2 * i + 1;
        long double angle = pos * powl(10000.0L, -2.0L * i / 64);
        assert_true(fabsl(x[a] * cosl(angle) - x[b] * sinl(angle) - y[a]) < 1e-6L);
        assert_true(fabsl(x[a] * sinl(angle) + x[b] * cosl(angle) - y[b]) < 1e-6L);
    }
    assert_memory_equal(x + 64, y + 64, 16 * sizeof x[0]); /* a partial rotation leaves the rest */
}

static void test_head(void **state)
{
    static const uint32_t positions[] = {0, 1, 2, 100, 8191, 131071, 10000000};
    for (size_t i = 0; i < sizeof positions / sizeof positions[0]; i++) {
        check_head(false, positions[i]);
        check_head(true, positions[i]);
    }
}

static void test_phase_wraps(void **state)
{
    uint64_t step = UINT64_C(1) << 62 | 12345; /* 2^32 - 1 positions: many turns, still exact */
    float x[2] = {1, 0}, s, c;
    vd_num_rope_head(x, 2, UINT32_MAX, &step, false);
    vd_num_sincos_turn((uint64_t)((unsigned __int128)UINT32_MAX * step), &s, &c);
    assert_true(x[0] == c && x[1] == s);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_steps_refused),
        cmocka_unit_test(test_stretched_steps),
        cmocka_unit_test(test_rules_refused),
        cmocka_unit_test(test_sincos_error),
        cmocka_unit_test(test_sincos_quarters),
        cmocka_unit_test(test_pair),
        cmocka_unit_test(test_head),
        cmocka_unit_test(test_phase_wraps),
    };
    return cmocka_run_group_tests_name("rope", tests, NULL, NULL);
}
