/* Registers say why, results say whether: both are asked, since a register may be read wrongly under an
 * emulator and a result does not show a trap that is still to come. */
#include "vd_fenv.h"

#include <float.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
/* Control bits of MXCSR: flush to zero, rounding, six exception masks, denormals are zero. Wanted: masks set,
 * rest clear. */
#define MXCSR_CONTROL 0xFFC0u
#define MXCSR_WANTED  0x1F80u
static bool control_ok(void)
{
    return (_mm_getcsr() & MXCSR_CONTROL) == MXCSR_WANTED;
}
#elif defined(__aarch64__)
#include <stdint.h>
/* FPCR: AHP 26 (another binary16), FZ 24, RMode 22-23, trap enables 8-12 and 15, AH 1, FIZ 0. DN 25 only
 * chooses the bits of a NaN, FZ16 19 concerns only arithmetic in binary16: neither changes a result. */
#define FPCR_CONTROL ((UINT64_C(0x17) << 22) | UINT64_C(0x9F00) | UINT64_C(3))
static bool control_ok(void)
{
    uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    return (fpcr & FPCR_CONTROL) == 0;
}
#else
static bool control_ok(void)
{
    return true;
}
#endif

/* volatile, so that the machine computes it now and not the compiler before. */
static bool results_ok(void)
{
    volatile float one = 1.0f, tiny = FLT_MIN, half = 0.5f, ulp = FLT_EPSILON, big = 0x1p100f;
    volatile double one64 = 1.0, tiny64 = DBL_MIN, half64 = 0.5, ulp64 = DBL_EPSILON;
    volatile float sub = tiny * half;
    volatile double sub64 = tiny64 * half64;
    bool nearest = one + ulp * half == one && one - ulp * half * half == one && -one - ulp * half == -one &&
                   one + ulp * half * 1.5f > one;
    bool nearest64 = one64 + ulp64 * half64 == one64 && one64 - ulp64 * half64 * half64 == one64 &&
                     -one64 - ulp64 * half64 == -one64 && one64 + ulp64 * half64 * 1.5 > one64;
    bool subnormals = sub != 0.0f && sub * big == FLT_MIN * 0.5f * 0x1p100f && sub64 != 0.0;
    return nearest && nearest64 && subnormals;
}

bool vd_num_env_ok(void)
{
    return FLT_EVAL_METHOD == 0 && control_ok() && results_ok();
}
