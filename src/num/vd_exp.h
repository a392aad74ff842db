/* exp in binary32, by our own polynomial.
 *
 *   NaN -> NaN;  x < -87 -> +0;  x > 88 is taken as 88
 *   n = rint(x * LOG2E);  r = fma(n, -LN2_HI, x);  r = fma(n, -LN2_LO, r)
 *   p = C6;  p = fma(p, r, C5);  .. C4, C3, C2;  p = fma(p, r, 1);  p = fma(p, r, 1)
 *   result = p * 2^n            (exact: n lies in [-126, 127] and the result is normal)
 *
 * exp(0) = 1, and no x <= 0 gives more than 1. Largest error over every binary32 in [-87, 88]: see
 * docs/spec/arithmetic.md. */
#ifndef VD_EXP_H
#define VD_EXP_H

#define VD_EXP_MIN    (-87.0f)
#define VD_EXP_MAX    88.0f
#define VD_EXP_LOG2E  0x1.715476p+0f
#define VD_EXP_LN2_HI 0x1.62e430p-1f
#define VD_EXP_LN2_LO (-0x1.05c610p-29f)
#define VD_EXP_C2     0x1.fffff8p-2f
#define VD_EXP_C3     0x1.55548ep-3f
#define VD_EXP_C4     0x1.555b9ap-5f
#define VD_EXP_C5     0x1.123bf0p-7f
#define VD_EXP_C6     0x1.684fe4p-10f

float vd_num_exp(float x);

#endif
