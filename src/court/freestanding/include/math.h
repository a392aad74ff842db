#ifndef VD_FREE_MATH_H
#define VD_FREE_MATH_H

float fmaf(float a, float b, float c);
float sqrtf(float x);
float rintf(float x);

/* These are one instruction or a comparison in every compiler. */
static inline float fabsf(float x)
{
    return __builtin_fabsf(x);
}
static inline float copysignf(float x, float sign)
{
    return __builtin_copysignf(x, sign);
}
#define isnan(x)    __builtin_isnan(x)
#define isinf(x)    __builtin_isinf(x)
#define isfinite(x) __builtin_isfinite(x)
#define signbit(x)  __builtin_signbit(x)

#endif
