/* Softmax per chunk of 64 absolute positions, merged like FlashAttention's blocks: no result depends on how
 * many keys are handled at once. Weights and value scales are multiplied before they are quantised, so the
 * sum over positions is one of integers, in any order. */
#include "vd_attn.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "vd_dot.h"
#include "vd_exp.h"
#include "vd_norm.h"
#include "vd_num.h"
#include "vd_quant.h"

float vd_num_score(const int8_t *q, const float *dq, const int8_t *k, const float *dk, uint32_t hd,
                   float scale)
{
    assert(hd % VD_BLOCK_ELEMS == 0 && hd <= VD_ATTN_MAX_HEAD_DIM);
    float acc = 0.0f;
    for (uint32_t b = 0; b < hd / VD_BLOCK_ELEMS; b++) {
        uint32_t e = b * VD_BLOCK_ELEMS;
        acc = fmaf(dq[b] * dk[b], (float)vd_num_isum(q + e, k + e, VD_BLOCK_ELEMS), acc);
    }
    return vd_num_canon(acc * (scale * VD_ATTN_SPREAD_SCALE));
}

/* The larger of two numbers; the sum turns -0 into +0, whichever operand the comparison took. */
static float max_plus0(float a, float b)
{
    return (a > b ? a : b) + 0.0f;
}

/* Quantises the 64 weights t (absent: +0) to 15 bits. */
static void quantise_weights(const float t[VD_CHUNK_KEYS], struct vd_chunk *out)
{
    uint32_t max_bits = 0;
    for (uint32_t j = 0; j < VD_CHUNK_KEYS; j++) {
        uint32_t mag = vd_f32_bits(t[j]) & 0x7FFFFFFF;
        max_bits = mag > max_bits ? mag : max_bits;
    }
    if (max_bits >= 0x7F800000) {
        out->d = vd_f32_from_bits(VD_NAN_BITS);
        return;
    }
    float d = vd_f32_from_bits(max_bits) / 32767.0f;
    if (d < VD_QUANT_D_MIN)
        return;
    out->d = d;
    float inv = 1.0f / d;
    for (uint32_t j = 0; j < VD_CHUNK_KEYS; j++)
        out->q[j] = (int16_t)rintf(t[j] * inv);
}

/* The largest valid score, or the stored NaN if one is NaN. */
static float max_score(const float *score, uint32_t first, uint32_t end)
{
    float m = score[first];
    for (uint32_t j = first; j < end; j++) {
        if (score[j] != score[j])
            return vd_f32_from_bits(VD_NAN_BITS);
        m = max_plus0(m, score[j]);
    }
    return m;
}

void vd_num_chunk(const float *score, const float *dv, uint32_t first, uint32_t count, struct vd_chunk *out)
{
    assert(count >= 1 && count <= VD_CHUNK_KEYS && first <= VD_CHUNK_KEYS - count);
    memset(out, 0, sizeof *out);
    out->m = max_score(score, first, first + count);
    if (out->m != out->m) {
        out->l = out->d = out->m;
        return;
    }
    float p[VD_CHUNK_KEYS] = {0}, t[VD_CHUNK_KEYS] = {0}, lane[32];
    for (uint32_t j = first; j < first + count; j++) {
        p[j] = vd_num_exp(score[j] - out->m);
        t[j] = p[j] * dv[j];
    }
    for (uint32_t j = 0; j < 32; j++)
        lane[j] = p[j] + p[j + 32];
    out->l = vd_num_canon(vd_num_tree32(lane));
    quantise_weights(t, out);
}

void vd_num_chunk_v(const struct vd_chunk *chunk, const int8_t *v, size_t stride_bytes, uint32_t hd, float *o)
{
    assert(hd <= VD_ATTN_MAX_HEAD_DIM);
    int32_t sum[VD_ATTN_MAX_HEAD_DIM] = {0};
    for (uint32_t j = 0; j < VD_CHUNK_KEYS; j++) {
        if (chunk->q[j] == 0)
            continue;
        for (uint32_t e = 0; e < hd; e++)
            sum[e] += chunk->q[j] * v[j * stride_bytes + e];
    }
    for (uint32_t e = 0; e < hd; e++)
        o[e] = (float)sum[e] * chunk->d;
}

void vd_num_merge(float *m, float *l, float *o, float mc, float lc, const float *oc, uint32_t hd)
{
    bool nan = *m != *m || mc != mc;
    float max = nan ? vd_f32_from_bits(VD_NAN_BITS) : max_plus0(*m, mc);
    float a = vd_num_exp(*m - max), b = vd_num_exp(mc - max);
    *l = fmaf(*l, a, lc * b);
    for (uint32_t e = 0; e < hd; e++)
        o[e] = fmaf(o[e], a, oc[e] * b);
    *m = max;
}

void vd_num_attn_finish(float l, const float *o, uint32_t hd, float *y)
{
    for (uint32_t e = 0; e < hd; e++)
        y[e] = o[e] / l;
}
