/* The integer sums may be taken in any order, so kernels are free where the work is; only one fma (two with a
 * min) per block has a written place. Its scale is an exact product, so each fma rounds once. */
#include "vd_dot.h"

#include <assert.h>
#include <math.h>

int32_t vd_num_isum(const int8_t *a, const int8_t *b, uint32_t n)
{
    assert(n <= 65536);
    int32_t sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

static int32_t sum8(const int8_t *a, uint32_t n)
{
    int32_t sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += a[i];
    return sum;
}

static float dot_blocks(enum vd_wtype type, const uint8_t *block, const int8_t *q, const float *d,
                        uint32_t n_blocks)
{
    const struct vd_wtype_info *info = vd_wtype_info(type);
    float acc = 0.0f;
    for (uint32_t b = 0; b < n_blocks; b++, block += info->block_bytes) {
        int8_t w[32];
        float d_w, m_w;
        vd_wtype_block_ints(type, block, w);
        vd_wtype_block_scales(type, block, &d_w, &m_w);
        acc = fmaf(d_w * d[b], (float)vd_num_isum(w, q + 32 * b, 32), acc);
        if (info->has_min)
            acc = fmaf(m_w * d[b], (float)sum8(q + 32 * b, 32), acc);
    }
    return acc;
}

static float dot_supers(enum vd_wtype type, const uint8_t *block, const int8_t *q, const float *d,
                        uint32_t n_supers)
{
    const struct vd_wtype_info *info = vd_wtype_info(type);
    float acc = 0.0f;
    for (uint32_t b = 0; b < n_supers; b++, block += info->block_bytes) {
        struct vd_wtype_super s;
        int32_t isum = 0, msum = 0;
        vd_wtype_super_parts(type, block, &s);
        for (uint32_t j = 0; j < VD_SUPER_SUBS; j++, q += 16) {
            isum += s.sc[j] * vd_num_isum(s.w + 16 * j, q, 16);
            msum += s.m[j] * sum8(q, 16);
        }
        acc = fmaf(s.d * d[b], (float)isum, acc);
        if (info->has_min)
            acc = fmaf(-(s.dmin * d[b]), (float)msum, acc);
    }
    return acc;
}

float vd_num_dot_seg(enum vd_wtype type, const void *w_seg, const int8_t *q, const float *d, uint32_t n_elem)
{
    const struct vd_wtype_info *info = vd_wtype_info(type);
    assert(info->quantised && n_elem % info->block_elems == 0 && n_elem <= VD_SEG_ELEMS);
    if (info->block_elems == VD_SUPER_ELEMS)
        return dot_supers(type, w_seg, q, d, n_elem / VD_SUPER_ELEMS);
    return dot_blocks(type, w_seg, q, d, n_elem / 32);
}

float vd_num_dot_seg_float(enum vd_wtype type, const void *w_seg, const float *x, uint32_t n_elem)
{
    assert(!vd_wtype_info(type)->quantised && n_elem <= VD_SEG_ELEMS);
    float acc = 0.0f;
    for (uint32_t i = 0; i < n_elem; i++) {
        float w;
        vd_num_dequant(type, w_seg, i, 1, &w);
        acc = fmaf(w, x[i], acc);
    }
    return acc;
}

float vd_num_sum_segs(const float *partial, uint32_t n)
{
    assert(n >= 1);
    float sum = partial[0];
    for (uint32_t i = 1; i < n; i++)
        sum += partial[i];
    return sum;
}

static uint32_t seg_elems(uint32_t n, uint32_t start)
{
    return n - start < VD_SEG_ELEMS ? n - start : VD_SEG_ELEMS;
}

float vd_num_dot_row(enum vd_wtype type, const void *w_row, const int8_t *q, const float *d, uint32_t n)
{
    const uint8_t *w = w_row;
    uint32_t act_block = vd_wtype_info(type)->act_block;
    float sum = vd_num_dot_seg(type, w, q, d, seg_elems(n, 0));
    for (uint32_t s = VD_SEG_ELEMS; s < n; s += VD_SEG_ELEMS)
        sum +=
            vd_num_dot_seg(type, w + vd_wtype_row_bytes(type, s), q + s, d + s / act_block, seg_elems(n, s));
    return sum;
}

float vd_num_dot_row_float(enum vd_wtype type, const void *w_row, const float *x, uint32_t n)
{
    const uint8_t *w = w_row;
    float sum = vd_num_dot_seg_float(type, w, x, seg_elems(n, 0));
    for (uint32_t s = VD_SEG_ELEMS; s < n; s += VD_SEG_ELEMS)
        sum += vd_num_dot_seg_float(type, w + vd_wtype_row_bytes(type, s), x + s, seg_elems(n, s));
    return sum;
}
