/* The check of the floating-point environment sees every mode that would change a result. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fenv.h>

#include "vd_fenv.h"
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

static void test_default_is_ok(void **state)
{
    assert_true(vd_num_env_ok());
}

static void test_rounding(void **state)
{
    static const int modes[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(fesetround(modes[i]), 0);
        bool ok = vd_num_env_ok();
        fesetround(FE_TONEAREST);
        assert_false(ok);
    }
    assert_true(vd_num_env_ok());
}

#if defined(__x86_64__)
static void test_mxcsr(void **state)
{
    static const unsigned flips[] = {0x8000, 0x0040, 0x0080, 0x0100, 0x0200,
                                     0x0400, 0x0800, 0x1000, 0x2000, 0x4000};
    unsigned was = _mm_getcsr();
    for (size_t i = 0; i < sizeof flips / sizeof flips[0]; i++) {
        if (flips[i] == 0x1000) /* a trap on inexact results would fire in this test itself */
            continue;
        _mm_setcsr((was & ~0x3Fu) ^ flips[i]);
        bool ok = vd_num_env_ok();
        _mm_setcsr(was);
        assert_false(ok);
    }
    _mm_setcsr(was | 0x3F); /* sticky flags say nothing about modes */
    assert_true(vd_num_env_ok());
    _mm_setcsr(was);
}
#endif

#if defined(__aarch64__)
static uint64_t fpcr_get(void)
{
    uint64_t v;
    __asm__ volatile("mrs %0, fpcr" : "=r"(v));
    return v;
}

static void fpcr_set(uint64_t v)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(v));
}

/* A mode that this CPU does not have reads back as 0; FZ, AHP and the rounding modes every CPU has. */
static void test_fpcr(void **state)
{
    static const struct {
        int bit;
        bool everywhere, harmless;
    } modes[] = {{26, true, false},  {24, true, false},  {23, true, false},  {22, true, false},
                 {15, false, false}, {12, false, false}, {11, false, false}, {10, false, false},
                 {9, false, false},  {8, false, false},  {1, false, false},  {0, false, false},
                 {25, true, true},   {19, false, true}};
    const uint64_t was = fpcr_get();
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        if (modes[i].bit == 12) /* a trap on inexact results would fire in this test itself */
            continue;
        fpcr_set(was | UINT64_C(1) << modes[i].bit);
        bool there = fpcr_get() != was, ok = vd_num_env_ok();
        fpcr_set(was);
        assert_true(there || !modes[i].everywhere);
        assert_int_equal(ok, !there || modes[i].harmless);
    }
    assert_true(vd_num_env_ok());
}
#endif

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_default_is_ok),
        cmocka_unit_test(test_rounding),
#if defined(__x86_64__)
        cmocka_unit_test(test_mxcsr),
#endif
#if defined(__aarch64__)
        cmocka_unit_test(test_fpcr),
#endif
    };
    return cmocka_run_group_tests_name("fenv", tests, NULL, NULL);
}
