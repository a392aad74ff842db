/* exp by the usual reduction x = n ln 2 + r, |r| <= ln 2 / 2, with ln 2 in two parts and a polynomial of
 * degree 6 whose first two coefficients are exactly 1, so that exp(0) = 1. The range stops at -87 and 88 so
 * that 2^n is always a normal number and the last product is exact: a kernel may scale by exponent bits, with
 * no special case. */
#include "vd_exp.h"

#include <math.h>

#include "vd_bytes.h"

float vd_num_exp(float x)
{
    if (x != x)
        return x;
    if (x < VD_EXP_MIN)
        return 0.0f;
    if (x > VD_EXP_MAX)
        x = VD_EXP_MAX;
    float n = rintf(x * VD_EXP_LOG2E);
    float r = fmaf(n, -VD_EXP_LN2_HI, x);
    r = fmaf(n, -VD_EXP_LN2_LO, r);
    float p = VD_EXP_C6;
    p = fmaf(p, r, VD_EXP_C5);
    p = fmaf(p, r, VD_EXP_C4);
    p = fmaf(p, r, VD_EXP_C3);
    p = fmaf(p, r, VD_EXP_C2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    return p * vd_f32_from_bits((uint32_t)((int32_t)n + 127) << 23);
}
