/* Penalties and biases: the operations and their order, and where the windows begin and end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vd_adjust.h"

static void test_operations(void **state)
{
    (void)state;
    struct vd_sampling p = {
        .repeat_micro = 1300000, .repeat_last_n = 64, .presence_micro = 500000, .frequency_micro = -250000};
    struct vd_penalty_seen none = {false, 0}, rep = {true, 0}, three = {true, 3};
    assert_true(vd_num_penalty(&p, none, 2.0f) == 2.0f);
    assert_true(vd_num_penalty(&p, rep, 2.0f) == 2.0f / 1.3f);
    assert_true(vd_num_penalty(&p, rep, -2.0f) == -2.0f * 1.3f);
    assert_true(vd_num_penalty(&p, three, 2.0f) == 2.0f / 1.3f - (3.0f * -0.25f + 0.5f));
    assert_true(vd_num_penalty(&p, (struct vd_penalty_seen){false, 1}, -1.0f) == -1.0f - 0.25f);
    assert_true(vd_num_bias(1.5f, -2500000) == -1.0f);
    assert_true(vd_num_penalised(&p) && !vd_num_penalised(&(struct vd_sampling){.temp_micro = 1}));
}

static void test_windows(void **state)
{
    (void)state;
    /* positions 0 .. 9 hold their own number; a prompt of 4 tokens */
    uint32_t t[10] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 5};
    struct vd_sampling rep = {.repeat_micro = 1100000, .repeat_last_n = 3}, pre = {.presence_micro = 1};
    assert_int_equal(vd_num_penalty_begin(&rep, 4, 9), 7);
    assert_true(vd_num_penalty_seen(&rep, 4, 7, 9, t + 7, 7).repeated);
    assert_false(vd_num_penalty_seen(&rep, 4, 7, 9, t + 7, 6).repeated);
    assert_int_equal(vd_num_penalty_seen(&rep, 4, 7, 9, t + 7, 7).count, 0);
    assert_int_equal(vd_num_penalty_begin(&pre, 4, 9), 4);
    assert_int_equal(vd_num_penalty_seen(&pre, 4, 4, 9, t + 4, 5).count, 2);
    assert_int_equal(vd_num_penalty_begin(&pre, 4, 3), 4); /* no output yet: nothing to look at */
    assert_int_equal(vd_num_penalty_begin(&pre, 4, 5000), 5001 - VD_PENALTY_WINDOW);
    rep.repeat_last_n = 64;
    assert_int_equal(vd_num_penalty_begin(&rep, 4, 9), 0);
    struct vd_sampling both = {.repeat_micro = 1100000, .repeat_last_n = 1, .frequency_micro = 1};
    assert_int_equal(vd_num_penalty_begin(&both, 4, 9), 4);
    struct vd_penalty_seen seen = vd_num_penalty_seen(&both, 4, 4, 9, t + 4, 8);
    assert_true(!seen.repeated && seen.count == 1);
}

static void put(uint8_t *p, uint32_t id, int32_t micro)
{
    vd_le32_store(p, id);
    vd_le32_store(p + 4, (uint32_t)micro);
}

static void test_table(void **state)
{
    (void)state;
    uint8_t b[8 * (VD_BIAS_MAX + 1)];
    put(b, 3, 1000000);
    put(b + 8, 7, -100000000);
    struct vd_bytes t = {b, 16};
    assert_true(vd_bias_valid(t));
    assert_true(vd_bias_apply(t, 3, 1.0f) == 2.0f && vd_bias_apply(t, 7, 1.0f) == -99.0f);
    assert_true(vd_bias_apply(t, 4, 1.0f) == 1.0f);
    assert_false(vd_bias_valid((struct vd_bytes){b, 15}));
    assert_false(vd_bias_valid((struct vd_bytes){b, 0}));
    put(b + 8, 3, 1); /* twice */
    assert_false(vd_bias_valid(t));
    put(b + 8, 7, 0);
    assert_false(vd_bias_valid(t));
    put(b + 8, 7, 100000001);
    assert_false(vd_bias_valid(t));
    for (uint32_t i = 0; i <= VD_BIAS_MAX; i++)
        put(b + 8 * i, i, 1);
    assert_true(vd_bias_valid((struct vd_bytes){b, 8 * VD_BIAS_MAX}));
    assert_false(vd_bias_valid((struct vd_bytes){b, sizeof b}));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operations),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_table),
    };
    return cmocka_run_group_tests_name("adjust", tests, NULL, NULL);
}
