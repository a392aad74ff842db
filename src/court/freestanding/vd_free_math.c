/* Correctly rounded fma, square root and rounding to an integer, for binary32, on machines whose compiler or
 * library cannot be trusted with them. What is left to the compiler is binary32 and binary64 +, - and *. */
#include <math.h>
#include <stdint.h>

#include "vd_bytes.h"

static uint64_t bits64(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static double from_bits64(uint64_t u)
{
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* The product is exact in binary64 (24 + 24 bits). The sum is rounded to odd: to nearest first, then, where
 * that was not exact and came out even, one step toward the part that was lost. A value so rounded to 53 bits
 * keeps all that a second rounding to 24 has to know (Boldo and Melquiond 2008). */
float fmaf(float a, float b, float c)
{
    double p = (double)a * b, z = c;
    double s = p + z, v = s - p;
    double lost = (p - (s - v)) + (z - v); /* Knuth: s + lost is the sum, exactly */
    uint64_t u = bits64(s);
    if (isfinite(s) && lost != 0.0 && (u & 1) == 0)
        s = from_bits64((lost > 0.0) == (s > 0.0) ? u + 1 : u - 1);
    return (float)s;
}

/* x = m * 2^e with e even and m in [2^48, 2^50): the root of m has 25 bits, 24 to keep and one to round by. A
 * set last bit means above half: exactly half it never is, since an odd root has an odd square and m is even.
 */
float sqrtf(float x)
{
    uint32_t u = vd_f32_bits(x);
    if (x != x || u == 0x7F800000 || (u & 0x7FFFFFFF) == 0)
        return x + x;
    if (u >> 31)
        return vd_f32_from_bits(0x7FC00000);
    int32_t e = u >> 23 ? (int32_t)(u >> 23) - 150 : -149;
    uint64_t m = (u & 0x7FFFFF) | (u >> 23 ? 0x800000 : 0), root = 0;
    while (m < UINT64_C(1) << 48 || e % 2 != 0) {
        m <<= 1;
        e--;
    }
    for (uint64_t bit = UINT64_C(1) << 24; bit != 0; bit >>= 1)
        if ((root | bit) * (root | bit) <= m)
            root |= bit;
    uint32_t kept = (uint32_t)((root + 1) >> 1); /* 2^24 is well: it carries on */
    return vd_f32_from_bits(((uint32_t)(e / 2 + 150) << 23) +
                            kept); /* its 2^23 counts for one exponent more */
}

/* Adding 2^23 leaves no room for a fraction. */
float rintf(float x)
{
    float big = copysignf(0x1p23f, x);
    if (!(fabsf(x) < 0x1p23f))
        return x + 0.0f;
    return copysignf((x + big) - big, x);
}
