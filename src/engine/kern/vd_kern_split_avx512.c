/* Bounds of a split matrix's outputs with AVX-512 (vd_kern.h, `bounds`): the upper six bits of the codes
 * times the activations, and beside each sum that of what the lower two bits and all roundings may add to it
 * or take from it. One conversion and two fmas per block stand for each token; the rest of the work is
 * shared. */
#include "vd_kern_avx512.h"

/* The upper bits of a block's codes as eight registers. */
VD_INLINE void load_upper(const uint8_t *p, __m512i w[8])
{
    const __m512i nibble = _mm512_set1_epi8(0x0F), pair = _mm512_set1_epi8(0x30);
    VD_UNROLL
    for (unsigned i = 0; i < 2; i++) {
        __m512i high = _mm512_loadu_si512(p + 256 + 64 * i);
        VD_UNROLL
        for (unsigned j = 0; j < 4; j++) {
            __m512i u = _mm512_loadu_si512(p + 64 * j);
            u = _mm512_and_si512(i == 0 ? u : _mm512_srli_epi16(u, 4), nibble);
            __m512i top = j < 2 ? _mm512_slli_epi16(high, 4 - 2 * j) : _mm512_srli_epi16(high, 2 * j - 4);
            w[j + 4 * i] = _mm512_ternarylogic_epi32(u, top, pair, 0xF8); /* u | (top & pair) */
        }
    }
}

/* Of n tokens from t on, the terms of each stride apart: what 16 rows' outputs are about, and by how much
 * they may be off. */
VD_INLINE void bound_rows(int n, const uint8_t *p, size_t n_blocks, const struct vd_wide_act *act,
                          size_t slot, const struct vd_split_term *term, bool fetch, __m512 *about,
                          __m512 *off)
{
    VD_UNROLL
    for (int i = 0; i < n; i++)
        about[i] = off[i] = _mm512_setzero_ps();
    for (size_t b = 0; b < n_blocks; b++, p += VD_SPLIT_UPPER) {
        __m512i w[8];
        const __m512 dw = load_half16((const uint16_t *)p), size = _mm512_abs_ps(dw);
        load_upper(p + 32, w);
        if (fetch)
            vd_avx512_prefetch(p + VD_AVX512_AHEAD, VD_SPLIT_UPPER);
        VD_UNROLL
        for (int i = 0; i < n; i++) {
            const struct vd_split_term *e = term + (size_t)i * n_blocks + b;
            const int8_t *q = act[b].q[slot + (size_t)i];
            __m512i even = _mm512_setzero_si512(), odd = even;
            VD_UNROLL
            for (int j = 0; j < 4; j++) {
                even = dot4_all(even, w[j], q + 4 * j);
                odd = dot4_all(odd, w[j + 4], q + 16 + 4 * j);
            }
            __m512i dot = _mm512_slli_epi32(_mm512_add_epi32(even, odd), 3);
            dot = _mm512_sub_epi32(dot, _mm512_set1_epi32(e->minus));
            about[i] =
                _mm512_fmadd_ps(_mm512_mul_ps(dw, _mm512_set1_ps(e->d)), _mm512_cvtepi32_ps(dot), about[i]);
            off[i] = _mm512_fmadd_ps(size, _mm512_set1_ps(e->off), off[i]);
        }
    }
}

#define BOUND(n)                                                                                             \
    static void bound_##n(const uint8_t *p, size_t n_blocks, const struct vd_wide_act *act, size_t slot,     \
                          const struct vd_split_term *term, bool fetch, __m512 *about, __m512 *off)          \
    {                                                                                                        \
        bound_rows(n, p, n_blocks, act, slot, term, fetch, about, off);                                      \
    }
BOUND(1)
BOUND(2)
BOUND(4)

/* At most four tokens of one token group. */
static size_t tile_tokens(size_t t, size_t t1)
{
    size_t left = WIDE_TOKS - t % WIDE_TOKS, n = t1 - t < left ? t1 - t : left;
    return n >= 4 ? 4 : n >= 2 ? 2 : 1;
}

/* Row group g: false where an output may not be finite. */
static bool bound_group(const struct vd_kern_mat *w, size_t g, const void *act, size_t t0, size_t t1,
                        const struct vd_split_term *term, float *high, size_t ld_high, float *low)
{
    const __m512 none = _mm512_set1_ps(-INFINITY);
    const __mmask16 rows = tail_mask(w->rows - g * WIDE_ROWS);
    const size_t n_blocks = w->cols / VD_KERN_BLOCK;
    for (size_t t = t0, n; t < t1; t += n) {
        __m512 about[4], off[4];
        n = tile_tokens(t, t1);
        (n == 4   ? bound_4
         : n == 2 ? bound_2
                  : bound_1)(vd_wide_upper(w, g), n_blocks, vd_wide_act_group(act, w->cols, t)->block,
                             t % WIDE_TOKS, term + (t - t0) * n_blocks, t == t0, about, off);
        for (size_t i = 0; i < n; i++) {
            if (_mm512_mask_cmp_ps_mask(rows, off[i], _mm512_set1_ps(VD_SPLIT_FINITE), _CMP_NLT_UQ))
                return false;
            const __m512 more = _mm512_add_ps(off[i], _mm512_set1_ps(VD_SPLIT_TINY));
            const float lowest = _mm512_reduce_max_ps(_mm512_mask_sub_ps(none, rows, about[i], more));
            float *l = &low[t - t0 + i];
            high[(t - t0 + i) * ld_high] =
                _mm512_reduce_max_ps(_mm512_mask_add_ps(none, rows, about[i], more));
            *l = lowest > *l ? lowest : *l;
        }
    }
    return true;
}

bool vd_avx512_bounds(const struct vd_kern_mat *w, size_t r0, size_t r1, const struct vd_kern_rhs *x,
                      size_t t0, size_t t1, float *high, size_t ld_high, float *low, void *scratch)
{
    const size_t n_blocks = w->cols / VD_KERN_BLOCK, end = (r1 + WIDE_ROWS - 1) / WIDE_ROWS;
    struct vd_split_term *term = scratch;
    assert(w->split && r0 % WIDE_ROWS == 0 && r1 <= w->rows && (r1 % WIDE_ROWS == 0 || r1 == w->rows));
    assert(t1 - t0 <= VD_KERN_BOUND_TOKS);
    for (size_t t = t0; t < t1; t++)
        vd_wide_split_terms(x->act, w->cols, t, term + (t - t0) * n_blocks);
    for (size_t g = r0 / WIDE_ROWS; g < end; g++)
        if (!bound_group(w, g, x->act, t0, t1, term, high + g - r0 / WIDE_ROWS, ld_high, low))
            return false;
    return true;
}
