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

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_default_is_ok),
        cmocka_unit_test(test_rounding),
#if defined(__x86_64__)
        cmocka_unit_test(test_mxcsr),
#endif
    };
    return cmocka_run_group_tests_name("fenv", tests, NULL, NULL);
}
