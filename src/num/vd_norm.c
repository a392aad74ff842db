/* 32 lanes, because every vector unit divides 32: 4 registers of 8, 2 of 16 or 8 of 4 follow the same order.
 */
#include "vd_norm.h"

#include <assert.h>
#include <math.h>
#include <stddef.h>

#include "vd_num.h"

float vd_num_tree32(float lane[32])
{
    for (uint32_t half = 16; half >= 1; half /= 2)
        for (uint32_t j = 0; j < half; j++)
            lane[j] += lane[j + half];
    return lane[0];
}

/* Elements of the segment that begins at from. */
static uint32_t seg_len(uint32_t n, uint32_t from)
{
    return n - from < VD_SEG_ELEMS ? n - from : VD_SEG_ELEMS;
}

float vd_num_sumsq_seg(const float *x, uint32_t n)
{
    assert(n <= VD_SEG_ELEMS);
    float lane[32] = {0};
    for (uint32_t i = 0; i < n; i++)
        lane[i % 32] = fmaf(x[i], x[i], lane[i % 32]);
    return vd_num_tree32(lane);
}

float vd_num_sum_seg(const float *x, uint32_t n)
{
    assert(n <= VD_SEG_ELEMS);
    float lane[32] = {0};
    for (uint32_t i = 0; i < n; i++)
        lane[i % 32] += x[i];
    return vd_num_tree32(lane);
}

float vd_num_var_seg(const float *x, float mean, uint32_t n)
{
    assert(n <= VD_SEG_ELEMS);
    float lane[32] = {0};
    for (uint32_t i = 0; i < n; i++) {
        float t = x[i] - mean;
        lane[i % 32] = fmaf(t, t, lane[i % 32]);
    }
    return vd_num_tree32(lane);
}

static float sum_of(const float *partial, uint32_t n_seg)
{
    float sum = partial[0];
    for (uint32_t i = 1; i < n_seg; i++)
        sum += partial[i];
    return sum;
}

static float scale_of_sum(float sum, uint32_t n_elem, float eps)
{
    return 1.0f / sqrtf(sum / (float)n_elem + eps);
}

float vd_num_rms_scale(const float *partial, uint32_t n_seg, uint32_t n_elem, float eps)
{
    assert(n_elem >= 1 && n_seg == vd_num_segs(n_elem));
    return scale_of_sum(sum_of(partial, n_seg), n_elem, eps);
}

float vd_num_l2_scale(const float *partial, uint32_t n_seg)
{
    float sum = sum_of(partial, n_seg);
    return sum > 0.0f ? 1.0f / sqrtf(sum) : 0.0f;
}

void vd_num_rms_mul(const float *x, float r, const float *w, uint32_t n, float *y)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = (x[i] * r) * w[i];
}

void vd_num_rmsnorm(const float *x, const float *w, uint32_t n, float eps, float *y)
{
    assert(n >= 1);
    float sum = vd_num_sumsq_seg(x, seg_len(n, 0));
    for (uint32_t s = VD_SEG_ELEMS; s < n; s += VD_SEG_ELEMS)
        sum += vd_num_sumsq_seg(x + s, seg_len(n, s));
    vd_num_rms_mul(x, scale_of_sum(sum, n, eps), w, n, y);
}

float vd_num_mean(const float *partial, uint32_t n_seg, uint32_t n_elem)
{
    assert(n_elem >= 1 && n_seg == vd_num_segs(n_elem));
    return sum_of(partial, n_seg) / (float)n_elem;
}

void vd_num_layernorm_mul(const float *x, float mean, float r, const float *w, const float *b, uint32_t n,
                          float *y)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] = fmaf((x[i] - mean) * r, w[i], b[i]);
}

void vd_num_layernorm(const float *x, const float *w, const float *b, uint32_t n, float eps, float *y)
{
    assert(n >= 1);
    float sum = vd_num_sum_seg(x, seg_len(n, 0));
    for (uint32_t s = VD_SEG_ELEMS; s < n; s += VD_SEG_ELEMS)
        sum += vd_num_sum_seg(x + s, seg_len(n, s));
    float mean = sum / (float)n;
    float squares = vd_num_var_seg(x, mean, seg_len(n, 0));
    for (uint32_t s = VD_SEG_ELEMS; s < n; s += VD_SEG_ELEMS)
        squares += vd_num_var_seg(x + s, mean, seg_len(n, s));
    vd_num_layernorm_mul(x, mean, scale_of_sum(squares, n, eps), w, b, n, y);
}
