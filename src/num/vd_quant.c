/* A binary16 scale would be off by 1 % at amplitude 1e-4 and useless at 1e-6; 11 bits with binary32's
 * exponent cost the same products and keep the error of the step at every amplitude. */
#include "vd_quant.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "vd_num.h"

float vd_num_round11(float x)
{
    uint32_t u = vd_f32_bits(x);
    u += 0xFFF + (u >> 13 & 1);
    u &= ~UINT32_C(0x1FFF);
    return vd_f32_from_bits(u);
}

static uint32_t max_magnitude_bits(const float *x, size_t n)
{
    uint32_t max = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t mag = vd_f32_bits(x[i]) & 0x7FFFFFFF;
        max = mag > max ? mag : max;
    }
    return max;
}

void vd_num_quant8(const float *x, size_t n, int8_t *q, float *d)
{
    assert(n >= 1 && n <= VD_QUANT_MAX_ELEMS);
    memset(q, 0, n);
    uint32_t amax_bits = max_magnitude_bits(x, n);
    if (amax_bits >= 0x7F800000) {
        *d = vd_f32_from_bits(VD_NAN_BITS);
        return;
    }
    *d = vd_num_round11(vd_f32_from_bits(amax_bits) / 127.0f);
    if (*d < VD_QUANT_D_MIN) {
        *d = 0.0f;
        return;
    }
    float inv = 1.0f / *d;
    for (size_t i = 0; i < n; i++)
        q[i] = (int8_t)rintf(x[i] * inv);
}

void vd_num_quant8_blocks(const float *x, size_t n, int8_t *q, float *d)
{
    assert(n % VD_BLOCK_ELEMS == 0);
    for (size_t b = 0; b < n / VD_BLOCK_ELEMS; b++)
        vd_num_quant8(x + b * VD_BLOCK_ELEMS, VD_BLOCK_ELEMS, q + b * VD_BLOCK_ELEMS, d + b);
}

void vd_num_spread(float x[VD_BLOCK_ELEMS])
{
    for (uint32_t half = VD_BLOCK_ELEMS / 2; half > 0; half /= 2)
        for (uint32_t i = 0; i < VD_BLOCK_ELEMS; i++) {
            if (i & half)
                continue;
            float a = x[i], b = x[i + half];
            x[i] = a + b;
            x[i + half] = a - b;
        }
}

void vd_num_quant8_spread(const float *x, size_t n, int8_t *q, float *d)
{
    assert(n % VD_BLOCK_ELEMS == 0);
    for (size_t b = 0; b < n / VD_BLOCK_ELEMS; b++) {
        float y[VD_BLOCK_ELEMS];
        memcpy(y, x + b * VD_BLOCK_ELEMS, sizeof y);
        vd_num_spread(y);
        vd_num_quant8(y, VD_BLOCK_ELEMS, q + b * VD_BLOCK_ELEMS, d + b);
    }
}

void vd_num_quant8_blocks256(const float *x, size_t n, int8_t *q, float *d)
{
    assert(n % VD_BLOCK256_ELEMS == 0);
    for (size_t b = 0; b < n / VD_BLOCK256_ELEMS; b++)
        vd_num_quant8(x + b * VD_BLOCK256_ELEMS, VD_BLOCK256_ELEMS, q + b * VD_BLOCK256_ELEMS, d + b);
}
