/* The sampler against the reference of src/num: random logits of several shapes, all rules on and off, ties,
 * extremes. */
#include "vd_sampler.h"

#include "vd_bytes.h"
#include "vd_receipt.h"
#include "vd_rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { N_MAX = 20000 };

struct fixture {
    float *x;
    uint64_t *w;
    const struct vd_kern *kern;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->x = calloc(N_MAX, sizeof *f->x);
    f->w = calloc(N_MAX, sizeof *f->w);
    f->kern = vd_kern_pick(NULL, NULL);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    free(f->x);
    free(f->w);
    free(f);
    return 0;
}

static float uniform(struct vd_rng *r)
{
    return (float)(vd_rng_next(r) >> 40) * 0x1p-24f;
}

/* Shapes: 0 bell, 1 flat, 2 few values (ties), 3 one peak, 4 huge spread, 5 all equal. */
static void fill(float *x, uint32_t n, unsigned shape, struct vd_rng *r)
{
    for (uint32_t i = 0; i < n; i++) {
        float u = uniform(r) + uniform(r) + uniform(r) + uniform(r) - 2.0f;
        switch (shape) {
        case 0:
            x[i] = 6.0f * u;
            break;
        case 1:
            x[i] = 0.01f * u;
            break;
        case 2:
            x[i] = (float)(int)vd_rng_below(r, 5) - 2.0f;
            break;
        case 3:
            x[i] = i == n / 2 ? 30.0f : u;
            break;
        case 4:
            x[i] = u * 1e30f;
            break;
        default:
            x[i] = vd_rng_below(r, 2) ? -0.0f : 0.0f;
        }
    }
}

static uint32_t pick_u32(struct vd_rng *r, const uint32_t *from, size_t n)
{
    return from[vd_rng_below(r, n)];
}

static struct vd_sampling some_sampling(struct vd_rng *r, uint32_t n)
{
    static const uint32_t temps[] = {0, 1, 700000, 1000000, 1500000, 4000000000u};
    static const uint32_t top_ps[] = {0, 1, 500000, 900000, 999999, 1000000, 2000000};
    static const uint32_t min_ps[] = {0, 0, 1, 50000, 1000000, 3000000};
    const uint32_t top_ks[] = {0, 0, 1, 2, 40, 4096, 4097, n - 1, n, n + 1};
    return (struct vd_sampling){
        .temp_micro = pick_u32(r, temps, 6),
        .top_k = pick_u32(r, top_ks, 10),
        .top_p_micro = pick_u32(r, top_ps, 7),
        .min_p_micro = pick_u32(r, min_ps, 6),
        .seed = vd_rng_next(r),
    };
}

static void equals_reference(void **state)
{
    struct fixture *f = *state;
    struct vd_rng r = {20, 0};
    static const uint32_t sizes[] = {1, 2, 100, 5000, N_MAX};
    for (unsigned s = 0; s < 5; s++) {
        uint32_t n = sizes[s];
        struct vd_sampler *sampler = vd_sampler_new(n);
        assert_non_null(sampler);
        for (unsigned k = 0; k < 240; k++) {
            fill(f->x, n, k % 6, &r);
            struct vd_sampling p = some_sampling(&r, n);
            uint64_t r64 = k % 7 == 0 ? UINT64_MAX : vd_sample_r64(p.seed, p.choice, k);
            uint32_t want = vd_num_sample(f->x, n, &p, r64, f->w);
            assert_int_equal(vd_sampler_choose(sampler, f->kern, f->x, &p, r64), want);
        }
        vd_sampler_free(sampler);
    }
}

static void non_finite_fails(void **state)
{
    struct fixture *f = *state;
    struct vd_rng r = {21, 0};
    struct vd_sampler *s = vd_sampler_new(5000);
    struct vd_sampling greedy = {0}, warm = {.temp_micro = 1000000, .top_p_micro = 900000};
    static const uint32_t bad[] = {0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001};
    for (unsigned i = 0; i < 4; i++) {
        fill(f->x, 5000, 0, &r);
        f->x[4321] = vd_f32_from_bits(bad[i]);
        assert_int_equal(vd_sampler_choose(s, f->kern, f->x, &greedy, 1), VD_SAMPLE_FAIL);
        assert_int_equal(vd_sampler_choose(s, f->kern, f->x, &warm, 1), VD_SAMPLE_FAIL);
    }
    fill(f->x, 5000, 0, &r);
    f->x[7] = 3e38f; /* finite, but not divided by this temperature */
    struct vd_sampling cold = {.temp_micro = 1, .top_p_micro = 1000000};
    assert_int_equal(vd_sampler_choose(s, f->kern, f->x, &cold, 1), VD_SAMPLE_FAIL);
    assert_int_equal(vd_sampler_choose(s, f->kern, f->x, &greedy, 1), 7);
    vd_sampler_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(equals_reference, set_up, tear_down),
        cmocka_unit_test_setup_teardown(non_finite_fails, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
