/* Sampling: the radix selection over tiles against a plain sort, on many small cases full of ties and some of
 * several tiles; each tile function alone; what fails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "vd_exp.h"
#include "vd_num_testing.h"
#include "vd_sample.h"

enum { MAX_N = 13000 };

struct entry {
    float x;
    uint32_t id;
    uint64_t w;
};

static int by_order(const void *pa, const void *pb)
{
    const struct entry *a = pa, *b = pb;
    if (a->x != b->x)
        return a->x > b->x ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

static int by_id(const void *pa, const void *pb)
{
    const struct entry *a = pa, *b = pb;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* The rules of vd_sample.h on a sorted array. */
static uint32_t sample_by_sorting(const float *x, uint32_t n, const struct vd_sampling *p, uint64_t r64)
{
    static struct entry e[MAX_N];
    for (uint32_t i = 0; i < n; i++)
        e[i] = (struct entry){x[i], i, 0};
    qsort(e, n, sizeof e[0], by_order);
    if (p->temp_micro == 0)
        return e[0].id;
    float temp = (float)p->temp_micro / 1000000.0f;
    float x_max = e[0].x;
    unsigned __int128 mass = 0, sum = 0;
    for (uint32_t i = 0; i < n; i++)
        e[i].w = (uint64_t)((double)vd_num_exp(e[i].x / temp - x_max / temp) * 1099511627776.0);
    if (p->top_k && p->top_k < n)
        n = p->top_k;
    if (p->top_p_micro < 1000000) {
        for (uint32_t i = 0; i < n; i++)
            mass += e[i].w;
        uint32_t kept = 0;
        do {
            sum += e[kept++].w;
        } while (sum * 1000000 < mass * p->top_p_micro);
        n = kept;
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if ((unsigned __int128)e[i].w * 1000000 >= (unsigned __int128)p->min_p_micro << 40)
            e[kept++] = e[i];
    qsort(e, kept, sizeof e[0], by_id);
    mass = sum = 0;
    for (uint32_t i = 0; i < kept; i++)
        mass += e[i].w;
    uint64_t r = (uint64_t)((mass * r64) >> 64);
    for (uint32_t i = 0; i < kept; i++)
        if ((sum += e[i].w) > r)
            return e[i].id;
    return VD_SAMPLE_FAIL;
}

/* Logits of `levels` distinct values (0: no ties by intent), among them -0 and +0. */
static void random_logits(struct vd_rng *r, float *x, uint32_t n, uint32_t levels)
{
    for (uint32_t i = 0; i < n; i++) {
        x[i] = test_normal(r, 4);
        if (levels)
            x[i] = (float)((int)vd_rng_below(r, levels) - (int)levels / 2) * 0.75f;
        if (x[i] == 0 && vd_rng_below(r, 2))
            x[i] = -0.0f;
    }
}

static uint32_t random_micro(struct vd_rng *r)
{
    switch (vd_rng_below(r, 5)) {
    case 0:
        return 1000000;
    case 1:
        return 0;
    case 2:
        return 999999;
    case 3:
        return (uint32_t)vd_rng_below(r, 100);
    }
    return (uint32_t)vd_rng_below(r, 1000000);
}

static void check_cases(uint64_t seed, int cases, uint32_t max_n)
{
    static float x[MAX_N];
    static uint64_t w[MAX_N];
    static const uint32_t levels[] = {0, 1, 2, 5, 40},
                          temps[] = {0, 1, 50000, 700000, 1000000, 3000000, UINT32_MAX};
    struct vd_rng r = {.seed = seed};
    for (int i = 0; i < cases; i++) {
        uint32_t n = 1 + (uint32_t)vd_rng_below(&r, max_n);
        random_logits(&r, x, n, levels[vd_rng_below(&r, 5)]);
        struct vd_sampling p = {.temp_micro = temps[vd_rng_below(&r, 7)], .top_p_micro = 1000000};
        if (vd_rng_below(&r, 2))
            p.top_k = (uint32_t)vd_rng_below(&r, n + 3);
        if (vd_rng_below(&r, 3))
            p.top_p_micro = random_micro(&r);
        if (!vd_rng_below(&r, 3))
            p.min_p_micro = random_micro(&r);
        for (int k = 0; k < 4; k++) {
            uint64_t r64 = k == 0 ? 0 : k == 1 ? UINT64_MAX : vd_rng_next(&r);
            uint32_t want = sample_by_sorting(x, n, &p, r64), got = vd_num_sample(x, n, &p, r64, w);
            if (got != want)
                fail_msg("seed %d case %d: n %u T %u k %u p %u min %u: %u, by sorting %u", (int)seed, i, n,
                         p.temp_micro, p.top_k, p.top_p_micro, p.min_p_micro, got, want);
        }
    }
}

static void test_against_sorting(void **state)
{
    check_cases(20, 20000, 12);
    check_cases(21, 3000, 300);
    check_cases(22, 40, MAX_N);
}

/* A masked vocabulary chooses as one that has only the entries left. */
static void test_excluded(void **state)
{
    static float x[MAX_N], left[MAX_N];
    static uint32_t id[MAX_N];
    static uint64_t w[MAX_N];
    struct vd_rng r = {.seed = 24};
    for (int i = 0; i < 3000; i++) {
        uint32_t n = 1 + (uint32_t)vd_rng_below(&r, i < 2980 ? 40 : MAX_N), k = 0;
        random_logits(&r, x, n, i % 3 ? 0 : 5);
        for (uint32_t j = 0; j < n; j++) {
            if (vd_rng_below(&r, 3) == 0) {
                id[k] = j;
                left[k++] = x[j];
            } else {
                x[j] = vd_f32_from_bits(VD_SAMPLE_EXCLUDED_BITS);
            }
        }
        struct vd_sampling p = {.temp_micro = i % 4 ? 900000 : 0,
                                .top_k = (uint32_t)vd_rng_below(&r, n),
                                .top_p_micro = random_micro(&r),
                                .min_p_micro = i % 2 ? 0 : random_micro(&r)};
        uint64_t r64 = vd_rng_next(&r);
        uint32_t want = k ? id[sample_by_sorting(left, k, &p, r64)] : VD_SAMPLE_FAIL;
        assert_int_equal(vd_num_sample(x, n, &p, r64, w), want);
    }
}

static void test_key_is_monotone(void **state)
{
    struct vd_rng r = {.seed = 23};
    assert_int_equal(vd_num_sample_key(0.0f), vd_num_sample_key(-0.0f));
    for (int i = 0; i < 300000; i++) {
        float a = test_any(&r), b = i & 1 ? nextafterf(a, INFINITY) : test_any(&r);
        if (!isfinite(a) || !isfinite(b))
            continue;
        uint32_t ka = vd_num_sample_key(a), kb = vd_num_sample_key(b);
        assert_true((a < b) == (ka < kb) && (a == b) == (ka == kb));
    }
}

static void test_greedy(void **state)
{
    struct vd_sampling p = {.temp_micro = 0, .top_k = 1, .min_p_micro = 5};
    static float x[9000];
    for (int i = 0; i < 9000; i++)
        x[i] = -5;
    x[8191] = x[4096] = x[8999] = -0.0f;
    x[4500] = 0.0f; /* equals -0: the lowest id is 4096 */
    assert_int_equal(vd_num_sample(x, 9000, &p, 0, NULL), 4096);
    x[8192] = 0x1p-149f;
    assert_int_equal(vd_num_sample(x, 9000, &p, 0, NULL), 8192);
}

static void test_fails(void **state)
{
    static float x[5000];
    static uint64_t w[5000];
    struct vd_sampling p = {.temp_micro = 1000000, .top_p_micro = 1000000};
    static const float bad[] = {INFINITY, -INFINITY, NAN};
    for (uint32_t t = 0; t <= 1; t++) {
        p.temp_micro = t;
        for (int b = 0; b < 3; b++) {
            assert_true(vd_num_sample(x, 5000, &p, 1, w) != VD_SAMPLE_FAIL);
            x[4999] = bad[b];
            assert_true(vd_num_sample(x, 5000, &p, 1, w) == VD_SAMPLE_FAIL);
            x[4999] = 0;
            x[0] = bad[b];
            assert_true(vd_num_sample(x, 5000, &p, 1, w) == VD_SAMPLE_FAIL);
            x[0] = 0;
        }
    }
    x[3] = 1e36f; /* finite, but not once divided by 10^-6 */
    assert_true(vd_num_sample(x, 5000, &p, 1, w) == VD_SAMPLE_FAIL);
    x[3] = -1e36f; /* a very small one is only excluded by its weight */
    assert_true(vd_num_sample(x, 5000, &p, 1, w) != VD_SAMPLE_FAIL);
}

static void test_max_merge(void **state)
{
    struct vd_sample_max bad = {0.0f, VD_SAMPLE_NONE, true}, a = {1, 7, false}, b = {1, 5, false},
                         c = {2, 9, false}, m = a;
    vd_num_sample_max_merge(&m, &b);
    assert_int_equal(m.id, 5);
    vd_num_sample_max_merge(&m, &a);
    assert_int_equal(m.id, 5);
    vd_num_sample_max_merge(&m, &c);
    assert_int_equal(m.id, 9);
    vd_num_sample_max_merge(&m, &bad);
    assert_true(m.bad);
    vd_num_sample_max_merge(&m, &c);
    assert_true(m.bad && m.id == VD_SAMPLE_NONE);
    float x[3] = {-0.0f, -1, NAN};
    vd_num_sample_max_tile(x, 10, 2, &m);
    assert_true(!m.bad && m.id == 10 && test_same_bits(m.x, 0.0f));
    vd_num_sample_max_tile(x, 10, 3, &m);
    assert_true(m.bad && m.id == VD_SAMPLE_NONE && test_same_bits(m.x, 0.0f));
}

static void test_weights(void **state)
{
    float x[4] = {3, 2, -100, 3};
    uint64_t w[4];
    vd_num_sample_weights_tile(x, 4, vd_num_sample_temp(1000000), 3, w);
    assert_true(w[0] == VD_SAMPLE_W_ONE && w[3] == VD_SAMPLE_W_ONE && w[2] == 0);
    assert_true(fabs((double)w[1] - exp(-1) * 0x1p40) < 0x1p40 * 1e-7);
    assert_true(vd_num_sample_temp(700000) == 0.7f && vd_num_sample_temp(1) == 1e-6f);
}

static void test_hist_and_pick(void **state)
{
    float x[6] = {1.0f, 1.0f, -1.0f, 2.0f, 1.5f, 1.0f}; /* keys BF8.., BF8.., 407F.., C00.., BFC.., BF8.. */
    uint64_t w[6] = {10, 20, 30, 40, 50, 60}, bin[16];
    struct vd_sample_cut all = VD_SAMPLE_CUT_ALL, cut = {vd_num_sample_key(1.0f), 101};
    vd_num_sample_hist_tile(x, NULL, 100, 6, all, 0, 0, bin);
    assert_true(bin[0xB] == 4 && bin[0xC] == 1 && bin[0x4] == 1 && bin[0] == 0);
    vd_num_sample_hist_tile(x, w, 100, 6, all, 0, 0, bin);
    assert_true(bin[0xB] == 140 && bin[0xC] == 40 && bin[0x4] == 30);
    vd_num_sample_hist_tile(x, w, 100, 6, cut, 2, 0xBF, bin);
    assert_true(bin[0x8] == 30 && bin[0xC] == 50 && bin[0] == 0);
    uint64_t target = 50;
    assert_int_equal(vd_num_sample_pick(bin, &target), 0xC);
    assert_int_equal(target, 50);
    target = 51;
    assert_int_equal(vd_num_sample_pick(bin, &target), 0x8);
    assert_int_equal(target, 1);
    target = 81;
    assert_int_equal(vd_num_sample_pick(bin, &target), VD_SAMPLE_BINS);
    assert_int_equal(target, 81);

    uint32_t key = vd_num_sample_key(1.0f);
    assert_int_equal(vd_num_sample_ties_tile(x, 6, key), 3);
    assert_int_equal(vd_num_sample_tie_find(x, 100, 6, key, 3), 105);
    assert_int_equal(vd_num_sample_tie_find(x, 100, 6, key, 4), VD_SAMPLE_NONE);
    assert_int_equal(vd_num_sample_mass_tile(x, w, 100, 6, all, 0), 210);
    assert_int_equal(vd_num_sample_mass_tile(x, w, 100, 6, cut, 0), 120);
    assert_int_equal(vd_num_sample_draw_tile(x, w, 100, 6, cut, 0, 29), 101);
    assert_int_equal(vd_num_sample_draw_tile(x, w, 100, 6, cut, 0, 30), 103);
    assert_int_equal(vd_num_sample_draw_tile(x, w, 100, 6, cut, 0, 120), VD_SAMPLE_NONE);
}

static void test_targets(void **state)
{
    assert_true(vd_num_sample_top_p_target(1000000, 0) == 1 && vd_num_sample_top_p_target(0, 5) == 1);
    assert_true(vd_num_sample_top_p_target(1000000, 1) == 1 && vd_num_sample_top_p_target(1000001, 1) == 2);
    uint64_t huge = UINT64_C(1) << 63;
    assert_true(vd_num_sample_top_p_target(huge, 1000000) == huge &&
                vd_num_sample_top_p_target(huge, 500000) == huge / 2);
    assert_true(vd_num_mulhi64(UINT64_MAX, 100) == 99 && vd_num_mulhi64(0, 100) == 0);
    assert_true(vd_num_mulhi64(huge, 100) == 50);
}

/* min-p at its border: w * 10^6 == min_p * 2^40 survives; above one it counts as one, so the largest always
 * survives. */
static void test_min_p_border(void **state)
{
    float x[3] = {1, 1, 1};
    uint64_t w[3] = {VD_SAMPLE_W_ONE / 2, VD_SAMPLE_W_ONE / 2 - 1, VD_SAMPLE_W_ONE};
    struct vd_sample_cut all = VD_SAMPLE_CUT_ALL;
    assert_true(vd_num_sample_mass_tile(x, w, 0, 3, all, 500000) == VD_SAMPLE_W_ONE / 2 * 3);
    assert_true(vd_num_sample_mass_tile(x, w, 0, 3, all, UINT32_MAX) == VD_SAMPLE_W_ONE);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_sorting), cmocka_unit_test(test_key_is_monotone),
        cmocka_unit_test(test_greedy),          cmocka_unit_test(test_fails),
        cmocka_unit_test(test_max_merge),       cmocka_unit_test(test_weights),
        cmocka_unit_test(test_hist_and_pick),   cmocka_unit_test(test_targets),
        cmocka_unit_test(test_min_p_border),    cmocka_unit_test(test_excluded),
    };
    return cmocka_run_group_tests_name("sample", tests, NULL, NULL);
}
