#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vd_amount.h"
#include "vd_arena.h"
#include "vd_bytes.h"
#include "vd_err.h"
#include "vd_rng.h"

static void test_amount(void **state)
{
    struct vd_amount a = {VD_AMOUNT_MAX_MICRO}, out = {7};
    (void)state;
    assert_false(vd_amount_add(&out, a, vd_amount_micro(1)));
    assert_false(vd_amount_sub(&out, vd_amount_micro(1), vd_amount_micro(2)));
    assert_false(vd_amount_mul(&out, vd_amount_micro(UINT64_C(1) << 40), UINT64_C(1) << 23));
    assert_false(vd_amount_add(&out, vd_amount_micro(UINT64_MAX), vd_amount_micro(1)));
    assert_int_equal(out.micro, 7);
    assert_true(vd_amount_mul(&out, vd_amount_micro(UINT64_C(1) << 40), UINT64_C(1) << 22));
    assert_true(out.micro == VD_AMOUNT_MAX_MICRO);
    assert_true(vd_amount_mul(&out, a, 0));
    assert_int_equal(out.micro, 0);
    assert_true(vd_amount_share(a, 1, 3).micro == VD_AMOUNT_MAX_MICRO / 3);
    assert_true(vd_amount_share(a, 1000000, 1000000).micro == VD_AMOUNT_MAX_MICRO);
}

static void test_hex(void **state)
{
    uint8_t in[3] = {0, 0xab, 0xff}, out[3];
    char text[7];
    (void)state;
    vd_hex_encode(text, in, 3);
    assert_string_equal(text, "00abff");
    assert_true(vd_hex_decode(out, 3, "00ABff"));
    assert_memory_equal(in, out, 3);
    assert_false(vd_hex_decode(out, 3, "00abf"));
    assert_false(vd_hex_decode(out, 3, "00abff0"));
    assert_false(vd_hex_decode(out, 3, "00abfg"));
}

static void test_arena(void **state)
{
    _Alignas(64) uint8_t mem[128];
    struct vd_arena a = vd_arena_init(mem + 1, 127);
    (void)state;
    uint8_t *p = vd_arena_alloc(&a, 8, 8), *q = vd_arena_alloc(&a, 1, 1), *r = vd_arena_alloc(&a, 16, 32);
    assert_ptr_equal(p, mem + 8);
    assert_ptr_equal(q, mem + 16);
    assert_ptr_equal(r, mem + 32);
    assert_null(vd_arena_alloc(&a, 81, 1));
    assert_null(vd_arena_alloc(&a, SIZE_MAX, 1));
    assert_non_null(vd_arena_alloc(&a, 80, 1));
    assert_null(vd_arena_alloc(&a, 1, 1));
}

static void test_err(void **state)
{
    struct vd_error e;
    (void)state;
    assert_int_equal(vd_error_set(&e, VD_EIO, "cannot read %s", "x"), VD_EIO);
    assert_string_equal(e.msg, "cannot read x");
    assert_string_equal(vd_err_name(VD_EFALSE), "VD_EFALSE");
    assert_int_equal(vd_err_exit_status(VD_EFALSE), 1);
    assert_int_equal(vd_err_exit_status(VD_EUSE), 2);
    assert_int_equal(vd_err_exit_status(VD_EINTERNAL), 70);
    assert_int_equal(vd_error_set(NULL, VD_EBUSY, "x"), VD_EBUSY);
}

/* Values of SplitMix64 as published with its reference code (seed 1234567). */
static void test_rng(void **state)
{
    struct vd_rng r = {1234567, 0};
    (void)state;
    assert_true(vd_rng_next(&r) == UINT64_C(6457827717110365317));
    assert_true(vd_rng_next(&r) == UINT64_C(3203168211198807973));
    assert_true(vd_rng_next(&r) == UINT64_C(9817491932198370423));
    for (int i = 0; i < 1000; i++)
        assert_true(vd_rng_below(&r, 7) < 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_amount), cmocka_unit_test(test_hex), cmocka_unit_test(test_arena),
        cmocka_unit_test(test_err),    cmocka_unit_test(test_rng),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
