/* Matrix products with AVX2; quantised types in vd_kern_mat_ymm.inc. */
#define VD_YMM_VNNI   0
#define VD_YMM_MATMUL vd_avx2_matmul
#define VD_YMM_BOUNDS vd_avx2_bounds
#include "vd_kern_mat_ymm.inc"
#include "vd_kern_split_ymm.inc"

/* ---- float weights ---- */

VD_INLINE __m256 load_weights(enum vd_wtype type, const uint8_t *p, size_t i)
{
    if (type == VD_WTYPE_F32)
        return _mm256_loadu_ps((const float *)p + i);
    const uint16_t *h = (const uint16_t *)p + i;
    if (type == VD_WTYPE_F16)
        return load_half8(h);
    __m256i u = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)h));
    return _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
}

/* 16 rows x n tokens. */
VD_INLINE void float_tile(enum vd_wtype type, int n, const struct vd_kern_mat *w, size_t g,
                          const struct vd_kern_rhs *x, size_t t, float *y, size_t ldy)
{
    __m256 total0[TILE] = {0}, total1[TILE] = {0};
    const uint8_t *p = vd_wide_group(w, g);
    for (size_t c0 = 0; c0 < w->cols; c0 += 512) {
        size_t c1 = c0 + 512 < w->cols ? c0 + 512 : w->cols;
        __m256 acc0[TILE], acc1[TILE];
        VD_UNROLL
        for (int i = 0; i < n; i++)
            acc0[i] = acc1[i] = _mm256_setzero_ps();
        for (size_t c = c0; c < c1; c++) {
            const __m256 lo = load_weights(type, p, c * 16), hi = load_weights(type, p, c * 16 + 8);
            VD_UNROLL
            for (int i = 0; i < n; i++) {
                const __m256 xv = _mm256_set1_ps(x->x[(t + (size_t)i) * x->ldx + c]);
                acc0[i] = _mm256_fmadd_ps(lo, xv, acc0[i]);
                acc1[i] = _mm256_fmadd_ps(hi, xv, acc1[i]);
            }
        }
        VD_UNROLL
        for (int i = 0; i < n; i++) {
            total0[i] = c0 == 0 ? acc0[i] : _mm256_add_ps(total0[i], acc0[i]);
            total1[i] = c0 == 0 ? acc1[i] : _mm256_add_ps(total1[i], acc1[i]);
        }
    }
    VD_UNROLL
    for (int i = 0; i < n; i++)
        store_rows(y + (t + (size_t)i) * ldy + g * WIDE_ROWS, w->rows - g * WIDE_ROWS, false, total0[i],
                   total1[i]);
}

VD_INLINE void float_rows(enum vd_wtype type, const struct vd_kern_mat *w, size_t g0, size_t g1,
                          const struct vd_kern_rhs *x, size_t t0, size_t t1, float *y, size_t ldy)
{
    for (size_t g = g0; g < g1; g++) {
        size_t t = t0;
        for (; t + TILE <= t1; t += TILE)
            float_tile(type, TILE, w, g, x, t, y, ldy);
        for (; t < t1; t++)
            float_tile(type, 1, w, g, x, t, y, ldy);
    }
}

void vd_avx2_matmul_float(const struct vd_kern_mat *w, size_t g0, size_t g1, const struct vd_kern_rhs *x,
                          size_t t0, size_t t1, float *y, size_t ldy)
{
    if (w->type == VD_WTYPE_F16)
        float_rows(VD_WTYPE_F16, w, g0, g1, x, t0, t1, y, ldy);
    else if (w->type == VD_WTYPE_BF16)
        float_rows(VD_WTYPE_BF16, w, g0, g1, x, t0, t1, y, ldy);
    else
        float_rows(VD_WTYPE_F32, w, g0, g1, x, t0, t1, y, ldy);
}
