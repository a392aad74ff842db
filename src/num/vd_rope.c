/* The angle is an integer so that it never loses precision, at any position, and so that no sin, cos or pow
 * of a C library enters a result. */
#include "vd_rope.h"

#include <assert.h>
#include <math.h>

#include "vd_bytes.h"

/* The sign of the sine is put into the integer, so that a zero is +0 in every quarter and no fma is negated
 * afterwards: clang 14 makes -(a * b + c) on aarch64 one instruction that gives a zero the other sign. */
void vd_num_sincos_turn(uint64_t phase, float *s, float *c)
{
    uint64_t k = (phase + (UINT64_C(1) << 61)) >> 62;
    int64_t f = (int64_t)(phase - (k << 62));
    int32_t i = (int32_t)(f >> 32);
    if (k == 1 || k == 2)
        i = -i;
    float t = (float)i * 0x1p-29f;
    float u = t * t;
    float p = VD_SIN_S4;
    p = fmaf(p, u, VD_SIN_S3);
    p = fmaf(p, u, VD_SIN_S2);
    p = fmaf(p, u, VD_SIN_S1);
    p = fmaf(p, u, VD_SIN_S0_LO);
    float sine = fmaf(t, VD_SIN_S0, t * p);
    float cosine = VD_COS_C4;
    cosine = fmaf(cosine, u, VD_COS_C3);
    cosine = fmaf(cosine, u, VD_COS_C2);
    cosine = fmaf(cosine, u, VD_COS_C1);
    cosine = fmaf(cosine, u, 1.0f);
    if (k >= 2)
        cosine = -cosine;
    *s = k & 1 ? cosine : sine;
    *c = k & 1 ? sine : cosine;
}

void vd_num_rope_pair(float *x0, float *x1, float s, float c)
{
    float y0 = fmaf(*x0, c, -(*x1 * s));
    float y1 = fmaf(*x0, s, *x1 * c);
    *x0 = y0;
    *x1 = y1;
}

void vd_num_rope_head(float *x, uint32_t n_dims, uint32_t pos, const uint64_t *steps, bool neox)
{
    assert(n_dims % 2 == 0 && n_dims <= VD_ROPE_MAX_DIMS);
    for (uint32_t i = 0; i < n_dims / 2; i++) {
        float s, c;
        vd_num_sincos_turn(pos * steps[i], &s, &c);
        if (neox)
            vd_num_rope_pair(&x[i], &x[i + n_dims / 2], s, c);
        else
            vd_num_rope_pair(&x[2 * i], &x[2 * i + 1], s, c);
    }
}
