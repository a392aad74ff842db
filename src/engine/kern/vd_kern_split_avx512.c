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

/* What 16 rows' outputs are about, and by how much they may be off, for n tokens. */
VD_INLINE void bound_rows(int n, const struct vd_split_tile *t, __m512 *about, __m512 *off)
{
    const uint8_t *p = t->upper;
    VD_UNROLL
    for (int i = 0; i < n; i++)
        about[i] = off[i] = _mm512_setzero_ps();
    for (size_t b = 0; b < t->n_blocks; b++, p += VD_SPLIT_UPPER) {
        __m512i w[8];
        const __m512 dw = load_half16((const uint16_t *)p), size = _mm512_abs_ps(dw);
        load_upper(p + 32, w);
        if (t->first)
            vd_avx512_prefetch(p + VD_AVX512_AHEAD, VD_SPLIT_UPPER);
        VD_UNROLL
        for (int i = 0; i < n; i++) {
            const struct vd_split_term *e = t->term + (size_t)i * t->n_blocks + b;
            const int8_t *q = t->act[b].q[t->slot + (size_t)i];
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

VD_INLINE bool bound_tile(int n, const struct vd_split_tile *t, struct vd_split_bound *out)
{
    const __m512 none = _mm512_set1_ps(-INFINITY);
    const __mmask16 rows = tail_mask(t->rows);
    __m512 about[VD_SPLIT_TOKS], off[VD_SPLIT_TOKS];
    bound_rows(n, t, about, off);
    VD_UNROLL
    for (int i = 0; i < n; i++) {
        if (_mm512_mask_cmp_ps_mask(rows, off[i], _mm512_set1_ps(VD_SPLIT_FINITE), _CMP_NLT_UQ))
            return false;
        const __m512 more = _mm512_add_ps(off[i], _mm512_set1_ps(VD_SPLIT_TINY));
        out[i].high = _mm512_reduce_max_ps(_mm512_mask_add_ps(none, rows, about[i], more));
        out[i].low = _mm512_reduce_max_ps(_mm512_mask_sub_ps(none, rows, about[i], more));
    }
    return true;
}

#define BOUND(n)                                                                                             \
    static bool bound_##n(const struct vd_split_tile *t, struct vd_split_bound *out)                         \
    {                                                                                                        \
        return bound_tile(n, t, out);                                                                        \
    }
BOUND(1)
BOUND(2)
BOUND(4)

bool vd_avx512_bounds(const struct vd_kern_mat *w, size_t r0, size_t r1, const struct vd_kern_rhs *x,
                      size_t t0, size_t t1, float *high, size_t ld_high, float *low, void *scratch)
{
    static vd_split_fn *const fns[] = {bound_1, bound_2, bound_4};
    return vd_wide_bounds(fns, w, r0, r1, x, t0, t1, high, ld_high, low, scratch);
}
