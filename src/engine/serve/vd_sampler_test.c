/* The sampler against the reference of src/num: random logits of several shapes, all rules on and off, ties,
 * extremes. */
#include "vd_sampler.h"

#include "vd_bytes.h"
#include "vd_receipt.h"
#include "vd_rng.h"

#include <math.h>
#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_MAX = 150000 };

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

/* Four neighbours of every 64, whom the sampler might take for the others. */
static bool misleads(uint32_t i)
{
    return i / 4 % 16 == i / 64 * 5 % 16;
}

/* Shapes: 0 bell, 1 flat, 2 few values (ties), 3 one peak, 4 huge spread, 5 all equal; 6, 7: a few regular
 * ones are all larger, smaller than the others; 8 subnormal; 9 a bell with a long upper end, of which few
 * weigh as much as all the rest; 10, 11: nearly all lie close together, and of 5000 every tenth of these,
 * whom the sampler might take for the others, is larger, smaller. */
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
            x[i] = u * 1.7e38f;
            break;
        case 10:
        case 11:
            x[i] = i < 2 ? (float)i : 0.5f + ((i % 10 == 2) == (shape == 10) ? 2e-5f : 1e-5f) * (4.0f + u);
            break;
        case 9:
            x[i] = u + 20.0f * powf(uniform(r), 40.0f);
            break;
        case 8:
            x[i] = (float)(int)vd_rng_below(r, 400) * 0x1p-149f;
            break;
        case 6:
        case 7:
            x[i] = misleads(i) == (shape == 6) ? 2.5f + 0.25f * u : 0.5f + 0.25f * u;
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

static uint32_t choose(struct vd_sampler *s, const struct fixture *f, const struct vd_sampling *p,
                       uint64_t r64)
{
    return vd_sampler_choose(s, f->kern, f->x, &(struct vd_choice){.sampling = p, .r64 = r64});
}

static void equals_reference(void **state)
{
    struct fixture *f = *state;
    struct vd_rng r = {20, 0};
    static const uint32_t sizes[] = {1, 2, 100, 5000, 20000, N_MAX};
    for (unsigned s = 0; s < 6; s++) {
        uint32_t n = sizes[s];
        struct vd_sampler *sampler = vd_sampler_new(n);
        assert_non_null(sampler);
        for (unsigned k = 0; k < (n < N_MAX ? 300 : 60); k++) {
            fill(f->x, n, k % 12, &r);
            struct vd_sampling p = some_sampling(&r, n);
            uint64_t r64 = k % 7 == 0 ? UINT64_MAX : vd_sample_r64(p.seed, p.choice, k);
            uint32_t want = vd_num_sample(f->x, n, &p, r64, f->w);
            assert_int_equal(choose(sampler, f, &p, r64), want);
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
        static const uint32_t at[] = {0, 4321, 4990, 4999};
        for (unsigned k = 0; k < 4; k++) {
            float was = f->x[at[k]];
            f->x[at[k]] = vd_f32_from_bits(bad[i]);
            assert_int_equal(choose(s, f, &greedy, 1), VD_SAMPLE_FAIL);
            assert_int_equal(choose(s, f, &warm, 1), VD_SAMPLE_FAIL);
            f->x[at[k]] = was;
        }
        assert_int_not_equal(choose(s, f, &warm, 1), VD_SAMPLE_FAIL);
        for (unsigned k = 0; k < 5000; k++)
            f->x[k] = vd_f32_from_bits(bad[i]);
        assert_int_equal(choose(s, f, &warm, 1), VD_SAMPLE_FAIL);
    }
    fill(f->x, 5000, 0, &r);
    f->x[7] = 3e38f; /* finite, but not divided by this temperature */
    struct vd_sampling cold = {.temp_micro = 1, .top_p_micro = 1000000};
    assert_int_equal(choose(s, f, &cold, 1), VD_SAMPLE_FAIL);
    assert_int_equal(choose(s, f, &greedy, 1), 7);
    vd_sampler_free(s);
}

/* Penalties, bias and mask by the functions of num, logit by logit, in their order. */
static void reference_adjust(float *x, uint32_t n, const struct vd_choice *c, const uint64_t *allowed)
{
    const struct vd_sampling *p = c->sampling;
    uint32_t begin = vd_num_penalty_begin(p, c->n_prompt, c->step);
    for (uint32_t id = 0; id < n; id++) {
        struct vd_penalty_seen seen =
            vd_num_penalty_seen(p, c->n_prompt, begin, c->step, c->tokens + begin, id);
        x[id] = vd_bias_apply(c->bias, id, vd_num_penalty(p, seen, x[id]));
        if (c->masker && !(allowed[id / 64] >> id % 64 & 1))
            x[id] = vd_f32_from_bits(VD_SAMPLE_EXCLUDED_BITS);
    }
}

enum { SMALL = 600 };

/* A vocabulary of letters and pairs, and a mask that allows b, then any number of a, then the stop token 0;
 * with `most` one that allows all but z, and the stop token. */
static struct vd_masker *some_mask(const struct vd_texts *texts, bool most)
{
    static const uint8_t few_body[] = {2,   0,   0, 0, 1,    0x80, /* two states; the second is an end */
                                       'b', 'b', 1, 0, 0xFF, 0xFF, 'a', 'a', 1, 0, 0xFF, 0xFF};
    static const uint8_t most_body[] = {1, 0, 0, 0x80, 'a', 'y', 0, 0, 0xFF, 0xFF};
    const uint8_t *body = most ? most_body : few_body;
    size_t n = most ? sizeof most_body : sizeof few_body;
    uint8_t mask[VD_MASK_ROOT_BYTES + sizeof few_body];
    const uint32_t stop[] = {0};
    struct vd_hash root = vd_texts_root(texts);
    struct vd_masker *m;
    memcpy(mask, root.b, VD_MASK_ROOT_BYTES);
    memcpy(mask + VD_MASK_ROOT_BYTES, body, n);
    assert_int_equal(
        vd_masker_create(&m, texts, (struct vd_bytes){mask, VD_MASK_ROOT_BYTES + n}, stop, 1, NULL), VD_OK);
    return m;
}

static struct vd_texts *some_texts(void)
{
    static uint8_t bytes[2 * SMALL];
    struct vd_bytes text[SMALL];
    struct vd_texts *texts;
    for (uint32_t i = 0; i < SMALL; i++) {
        bytes[2 * i] = (uint8_t)('a' + i % 26);
        bytes[2 * i + 1] = (uint8_t)('a' + i / 26 % 26);
        text[i] = (struct vd_bytes){bytes + 2 * i, i == 0 ? 0 : i < 27 ? 1 : 2};
    }
    assert_int_equal(vd_texts_create_from(&texts, text, SMALL, NULL), VD_OK);
    return texts;
}

static void adjusts_as_reference(void **state)
{
    struct fixture *f = *state;
    struct vd_rng r = {22, 0};
    struct vd_sampler *sampler = vd_sampler_new(SMALL);
    struct vd_texts *texts = some_texts();
    struct vd_masker *few = some_mask(texts, false), *most = some_mask(texts, true);
    uint32_t tokens[2000];
    uint64_t allowed[SMALL / 64 + 1];
    uint8_t bias[8 * 20];
    for (unsigned k = 0; k < 1200; k++) {
        struct vd_masker *masker = k % 4 == 1 ? few : most;
        struct vd_automaton_state at = VD_AUTOMATON_START;
        struct vd_sampling p = some_sampling(&r, SMALL);
        fill(f->x, SMALL, k % 6, &r);
        for (uint32_t i = 0; k % 11 == 3 && i < SMALL; i++) /* far down, some as far as it goes */
            f->x[i] = i % 5 == 2 ? -FLT_MAX : f->x[i] * 1e30f - 1e33f;
        for (unsigned i = 0; i < 2000; i++)
            tokens[i] = (uint32_t)vd_rng_below(&r, k % 2 ? 20 : 2 * SMALL);
        for (uint32_t i = 0; i < 20; i++) {
            vd_le32_store(bias + 8 * i, 37 * i + k % 30); /* the last may be outside */
            vd_le32_store(bias + 8 * i + 4, (uint32_t)((int32_t)vd_rng_below(&r, 8000001) - 4000000));
        }
        if (k % 3 == 0) {
            p.repeat_micro = 500000 + (uint32_t)vd_rng_below(&r, 1000000);
            p.repeat_last_n = 1 + (uint32_t)vd_rng_below(&r, 100);
        }
        if (k % 5 < 2) {
            p.presence_micro = (int32_t)vd_rng_below(&r, 4000001) - 2000000;
            p.frequency_micro = k % 5 ? 0 : (int32_t)vd_rng_below(&r, 4000001) - 2000000;
        }
        vd_automaton_step(&(struct vd_automaton){0}, &at, 0); /* dead */
        at = k % 7 == 0 ? at : VD_AUTOMATON_START;
        if (masker == few && k % 7 > 3)
            at.at = 1;
        struct vd_choice c = {.sampling = &p,
                              .r64 = vd_rng_next(&r),
                              .tokens = tokens,
                              .n_prompt = 1 + (uint32_t)vd_rng_below(&r, 700),
                              .bias = {bias, k % 4 ? sizeof bias : 0},
                              .masker = k % 2 ? masker : NULL,
                              .state = &at};
        c.step = c.n_prompt - 1 + (uint32_t)vd_rng_below(&r, 1200);
        uint32_t got = vd_sampler_choose(sampler, f->kern, f->x, &c);
        vd_masker_allowed(masker, &at, allowed);
        reference_adjust(f->x, SMALL, &c, allowed);
        assert_int_equal(got, vd_num_sample(f->x, SMALL, &p, c.r64, f->w));
        if (c.masker && k % 7 == 0)
            assert_int_equal(got, VD_SAMPLE_FAIL);
    }
    vd_masker_free(few);
    vd_masker_free(most);
    vd_texts_free(texts);
    vd_sampler_free(sampler);
}

static void gives_logprobs(void **state)
{
    struct fixture *f = *state;
    struct vd_sampler *s = vd_sampler_new(100);
    struct vd_sampling greedy = {0};
    struct vd_logprobs lp = {.n = 3};
    double sum = 0;
    for (unsigned i = 0; i < 100; i++) {
        f->x[i] = i == 40 || i == 50 ? 3.0f : i == 60 ? 2.0f : -0.01f * (float)i;
        sum += exp((double)f->x[i]);
    }
    assert_int_equal(
        vd_sampler_choose(s, f->kern, f->x, &(struct vd_choice){.sampling = &greedy, .logprobs = &lp}), 40);
    assert_int_equal(lp.n, 3);
    assert_true(lp.top[0].id == 40 && lp.top[1].id == 50 && lp.top[2].id == 60);
    assert_true(fabs((double)lp.own - (3.0 - log(sum))) < 1e-6 && lp.top[0].value == lp.own);
    assert_true(fabs((double)lp.top[2].value - (2.0 - log(sum))) < 1e-6);
    vd_sampler_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(equals_reference, set_up, tear_down),
        cmocka_unit_test_setup_teardown(non_finite_fails, set_up, tear_down),
        cmocka_unit_test_setup_teardown(adjusts_as_reference, set_up, tear_down),
        cmocka_unit_test_setup_teardown(gives_logprobs, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
