/* Private: the pieces of the AVX2 table, and what they share. Only *_avx2.c and *_avxvnni.c may
 * include this. */
#ifndef VD_KERN_AVX2_H
#define VD_KERN_AVX2_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "vd_bytes.h"
#include "vd_exp.h"
#include "vd_kern_wide.h"
#include "vd_num.h"

#define VD_INLINE static inline __attribute__((always_inline))

VD_INLINE __m256 load_half8(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

VD_INLINE __m256i load256(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

/* Four bytes to all lanes. */
VD_INLINE __m256i broadcast4(const void *p)
{
    int32_t four;
    memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
}

/* vd_num_exp on 8 lanes. 2^n is built from its exponent; p * 2^n is exact. */
VD_INLINE __m256 exp8(__m256 x)
{
    const __m256 one = _mm256_set1_ps(1.0f);
    __m256 keep = _mm256_cmp_ps(x, _mm256_set1_ps(VD_EXP_MIN), _CMP_NLT_UQ); /* NaN stays */
    x = _mm256_min_ps(_mm256_set1_ps(VD_EXP_MAX), x);                        /* of NaN: NaN, the second */
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(VD_EXP_LOG2E)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-VD_EXP_LN2_HI), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-VD_EXP_LN2_LO), r);
    __m256 p = _mm256_set1_ps(VD_EXP_C6);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(VD_EXP_C5));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(VD_EXP_C4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(VD_EXP_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(VD_EXP_C2));
    p = _mm256_fmadd_ps(p, r, one);
    p = _mm256_fmadd_ps(p, r, one);
    __m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_and_ps(keep, _mm256_mul_ps(p, _mm256_castsi256_ps(e)));
}

/* The tree 4-2-1 over one vector. */
VD_INLINE float tree8(__m256 v)
{
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

VD_INLINE uint32_t max8_epu32(__m256i v)
{
    __m128i b = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    b = _mm_max_epu32(b, _mm_shuffle_epi32(b, 0x4E));
    b = _mm_max_epu32(b, _mm_shuffle_epi32(b, 0xB1));
    return (uint32_t)_mm_cvtsi128_si32(b);
}

VD_INLINE __m256i abs_bits(__m256 x)
{
    return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7FFFFFFF));
}

/* vd_num_cap on 8 lanes. */
VD_INLINE __m256 cap8(__m256 x, float c)
{
    const __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f), cv = _mm256_set1_ps(c);
    x = _mm256_div_ps(x, cv);
    __m256 t = exp8(_mm256_mul_ps(_mm256_andnot_ps(sign, x), _mm256_set1_ps(-2.0f)));
    __m256 r = _mm256_div_ps(_mm256_sub_ps(one, t), _mm256_add_ps(one, t));
    return _mm256_mul_ps(_mm256_or_ps(r, _mm256_and_ps(x, sign)), cv);
}

/* Codes of eight rows (or positions), one step: unsigned bytes split in nibbles. Products of a nibble with an
 * int8 stay below 2^11 in pairs, so eight steps add up in int16 without saturating: the reason for the split,
 * since a full byte would saturate vpmaddubsw. */
VD_INLINE void nibbles(const uint8_t *p, __m256i *lo, __m256i *hi)
{
    const __m256i low = _mm256_set1_epi8(15);
    __m256i u = load256(p);
    *lo = _mm256_and_si256(u, low);
    *hi = _mm256_and_si256(_mm256_srli_epi16(u, 4), low);
}

/* sum[i] = 32 unsigned byte codes times the int8 at q + i * stride, for 8 rows and n right-hand sides. Codes
 * of a row: 8 steps 64 bytes apart. */
VD_INLINE void dot_bytes(int n, const uint8_t *p, const int8_t *q, size_t stride, __m256i *sum)
{
    const __m256i one = _mm256_set1_epi16(1), sixteen = _mm256_set1_epi16(16);
    __m256i a[4], b[4];
    VD_UNROLL
    for (int i = 0; i < n; i++)
        a[i] = b[i] = _mm256_setzero_si256();
    VD_UNROLL
    for (int j = 0; j < 8; j++) {
        __m256i lo, hi;
        nibbles(p + 64 * j, &lo, &hi);
        VD_UNROLL
        for (int i = 0; i < n; i++) {
            __m256i x = broadcast4(q + (size_t)i * stride + 4 * j);
            a[i] = _mm256_add_epi16(a[i], _mm256_maddubs_epi16(lo, x));
            b[i] = _mm256_add_epi16(b[i], _mm256_maddubs_epi16(hi, x));
        }
    }
    VD_UNROLL
    for (int i = 0; i < n; i++)
        sum[i] = _mm256_add_epi32(_mm256_madd_epi16(a[i], one), _mm256_madd_epi16(b[i], sixteen));
}

void vd_avx2_matmul(const struct vd_kern_mat *w, size_t r0, size_t r1, const struct vd_kern_rhs *x, size_t t0,
                    size_t t1, float *y, size_t ldy, void *scratch);

void vd_avxvnni_matmul(const struct vd_kern_mat *w, size_t r0, size_t r1, const struct vd_kern_rhs *x,
                       size_t t0, size_t t1, float *y, size_t ldy, void *scratch);
bool vd_avx2_bounds(const struct vd_kern_mat *w, size_t r0, size_t r1, const struct vd_kern_rhs *x, size_t t0,
                    size_t t1, float *high, size_t ld_high, float *low, void *scratch);
bool vd_avxvnni_bounds(const struct vd_kern_mat *w, size_t r0, size_t r1, const struct vd_kern_rhs *x,
                       size_t t0, size_t t1, float *high, size_t ld_high, float *low, void *scratch);
/* Row groups [g0, g1) of float weights. */
void vd_avx2_matmul_float(const struct vd_kern_mat *w, size_t g0, size_t g1, const struct vd_kern_rhs *x,
                          size_t t0, size_t t1, float *y, size_t ldy);

/* Quantises 32 elements; returns the sum of the codes. */
int32_t vd_avx2_quant32(const float *x, int8_t *q, float *d);
void vd_avx2_quant8(const float *x, size_t n, int8_t *q, float *d);
void vd_avx2_act256_quant(const float *x, size_t ldx, size_t cols, size_t t0, size_t t1, void *act256);
void vd_avx2_act_quant(const float *x, size_t ldx, size_t cols, size_t t0, size_t t1, void *act);

void vd_avx2_rmsnorm(const float *x, const float *w, size_t n, float eps, float *y);
void vd_avx2_layernorm(const float *x, const float *w, const float *b, size_t n, float eps, float *y);
void vd_avx2_rope(float *x, size_t n_heads, size_t hd, const float *cs, size_t n_pairs, bool halves);
void vd_avx2_add(const float *x, const float *o, size_t n, float *y);
void vd_avx2_swiglu(const float *g, const float *u, size_t n, float *y);
void vd_avx2_gelu(const float *x, size_t n, float *y);
void vd_avx2_geglu(const float *g, const float *u, size_t n, float *y);
void vd_avx2_scale(const float *x, float s, size_t n, float *y);
void vd_avx2_cap(const float *x, float c, size_t n, float *y);
void vd_avx2_madd(const float *x, float w, size_t n, float *y);
void vd_avx2_exp(const float *x, size_t n, float *y);
void vd_avx2_sample_max(const float *x, uint32_t first_id, size_t n, struct vd_sample_max *out);
bool vd_avx2_sample_groups(const float *x, size_t n, size_t group, float *most);
void vd_avx2_sample_weights(const float *x, size_t n, float temp, float x_max, uint64_t *w);
void vd_avx2_sample_mass(const float *x, size_t n, struct vd_kern_mass *m);

size_t vd_avx2_scratch_bytes(size_t max_cols, size_t max_hd);
void vd_avx2_attn(const struct vd_kern_kv *kv, struct vd_kern_score score, const struct vd_kern_query *rows,
                  size_t n, void *scratch);
void vd_avx2_attn_part(const struct vd_kern_kv *kv, struct vd_kern_score score,
                       const struct vd_kern_query *rows, size_t n, size_t c0, size_t c1, float *rec,
                       size_t ld_rec, void *scratch);
void vd_avx2_attn_merge(size_t hd, const struct vd_kern_query *rows, size_t n, const float *rec,
                        size_t ld_rec);

#endif
