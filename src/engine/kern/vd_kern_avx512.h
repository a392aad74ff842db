/* Private: the pieces of the AVX-512 table, and what they share. Only *_avx512.c may include this. */
#ifndef VD_KERN_AVX512_H
#define VD_KERN_AVX512_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "vd_bytes.h"
#include "vd_exp.h"
#include "vd_kern_wide.h"
#include "vd_num.h"

/* Loops over register arrays must unroll completely, so these bodies are always inlined with constant
 * arguments. */
#define VD_INLINE static inline __attribute__((always_inline))

/* The first min(n, 16) lanes. */
VD_INLINE __mmask16 tail_mask(size_t n)
{
    return n >= 16 ? 0xFFFF : (__mmask16)((1u << n) - 1);
}

VD_INLINE __m512 load_half16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* acc + the dot products of 4 unsigned bytes of u with 4 signed bytes of s, per lane. Written in assembler
 * because the compiler (GCC 12) copies accumulators that live across a loop around its builtin, and does not
 * fold broadcasts into it. */
VD_INLINE __m512i dot4(__m512i acc, __m512i u, __m512i s)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(u), "v"(s));
    return acc;
}

/* The same with the four signed bytes at p for all lanes; p is a multiple of 4. */
VD_INLINE __m512i dot4_all(__m512i acc, __m512i u, const int8_t *p)
{
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(u), "m"(*(const int32_t *)p));
    return acc;
}

/* vd_num_exp on 16 lanes. */
VD_INLINE __m512 exp16(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    __mmask16 keep = _mm512_cmp_ps_mask(x, _mm512_set1_ps(VD_EXP_MIN), _CMP_NLT_UQ); /* NaN stays */
    x = _mm512_min_ps(_mm512_set1_ps(VD_EXP_MAX), x); /* of NaN: NaN, the second */
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(VD_EXP_LOG2E)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-VD_EXP_LN2_HI), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-VD_EXP_LN2_LO), r);
    __m512 p = _mm512_set1_ps(VD_EXP_C6);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(VD_EXP_C5));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(VD_EXP_C4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(VD_EXP_C3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(VD_EXP_C2));
    p = _mm512_fmadd_ps(p, r, one);
    p = _mm512_fmadd_ps(p, r, one);
    return _mm512_maskz_scalef_ps(keep, p, n);
}

/* vd_num_cap on 16 lanes. */
VD_INLINE __m512 cap16(__m512 x, float c)
{
    const __m512 one = _mm512_set1_ps(1.0f), sign = _mm512_set1_ps(-0.0f), cv = _mm512_set1_ps(c);
    x = _mm512_div_ps(x, cv);
    __m512 t = exp16(_mm512_mul_ps(_mm512_andnot_ps(sign, x), _mm512_set1_ps(-2.0f)));
    __m512 r = _mm512_div_ps(_mm512_sub_ps(one, t), _mm512_add_ps(one, t));
    return _mm512_mul_ps(_mm512_or_ps(r, _mm512_and_ps(x, sign)), cv);
}

/* One value per vector: v[0..16) are reduced to the 16 lanes of the result, in order, each by the tree
 * lane[j] op lane[j + 8], + 4, + 2, + 1. Halves, then quarters, are exchanged between vectors, so that every
 * step works on full registers. Lane 4k + i of the result comes out at 4i + k and is put in place at the end.
 */
#define REDUCE16(name, type, to_i, to_v, op)                                                                 \
    VD_INLINE type name(const type v[16])                                                                    \
    {                                                                                                        \
        const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);       \
        __m512i s[4], u[2];                                                                                  \
        VD_UNROLL                                                                                            \
        for (int i = 0; i < 4; i++) {                                                                        \
            __m512i a = to_i(v[4 * i]), b = to_i(v[4 * i + 1]), c = to_i(v[4 * i + 2]),                      \
                    d = to_i(v[4 * i + 3]);                                                                  \
            __m512i ab =                                                                                     \
                to_i(op(to_v(_mm512_shuffle_i32x4(a, b, 0x44)), to_v(_mm512_shuffle_i32x4(a, b, 0xEE))));    \
            __m512i cd =                                                                                     \
                to_i(op(to_v(_mm512_shuffle_i32x4(c, d, 0x44)), to_v(_mm512_shuffle_i32x4(c, d, 0xEE))));    \
            s[i] = to_i(                                                                                     \
                op(to_v(_mm512_shuffle_i32x4(ab, cd, 0x88)), to_v(_mm512_shuffle_i32x4(ab, cd, 0xDD))));     \
        }                                                                                                    \
        VD_UNROLL                                                                                            \
        for (int i = 0; i < 2; i++)                                                                          \
            u[i] = to_i(op(to_v(_mm512_unpacklo_epi32(s[2 * i], s[2 * i + 1])),                              \
                           to_v(_mm512_unpackhi_epi32(s[2 * i], s[2 * i + 1]))));                            \
        return to_v(_mm512_permutexvar_epi32(order, to_i(op(to_v(_mm512_unpacklo_epi64(u[0], u[1])),         \
                                                            to_v(_mm512_unpackhi_epi64(u[0], u[1]))))));     \
    }
/* The same of four vectors: that of v[k] is in lanes 4k to 4k + 3 of the result. */
#define REDUCE4(name, type, to_i, to_v, op)                                                                  \
    VD_INLINE type name(const type v[4])                                                                     \
    {                                                                                                        \
        __m512i a = to_i(v[0]), b = to_i(v[1]), c = to_i(v[2]), d = to_i(v[3]), s;                           \
        a = to_i(op(to_v(_mm512_shuffle_i32x4(a, b, 0x44)), to_v(_mm512_shuffle_i32x4(a, b, 0xEE))));        \
        c = to_i(op(to_v(_mm512_shuffle_i32x4(c, d, 0x44)), to_v(_mm512_shuffle_i32x4(c, d, 0xEE))));        \
        s = to_i(op(to_v(_mm512_shuffle_i32x4(a, c, 0x88)), to_v(_mm512_shuffle_i32x4(a, c, 0xDD))));        \
        s = to_i(op(to_v(s), to_v(_mm512_shuffle_epi32(s, _MM_PERM_BADC))));                                 \
        return op(to_v(s), to_v(_mm512_shuffle_epi32(s, _MM_PERM_CDAB)));                                    \
    }
#define VD_AS_IS(x) (x)
REDUCE16(reduce16_max_epu32, __m512i, VD_AS_IS, VD_AS_IS, _mm512_max_epu32)
REDUCE16(reduce16_add_epi32, __m512i, VD_AS_IS, VD_AS_IS, _mm512_add_epi32)
REDUCE4(reduce4_max_epu32, __m512i, VD_AS_IS, VD_AS_IS, _mm512_max_epu32)
REDUCE4(reduce4_max_ps, __m512, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_max_ps)
REDUCE4(reduce4_add_ps, __m512, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_add_ps)

/* The tree 8-4-2-1 over one vector. */
VD_INLINE float tree16(__m512 v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

/* Bits of a where the mask has ones, else of b. */
VD_INLINE __m512i select_bits(__m512i mask, __m512i a, __m512i b)
{
    return _mm512_ternarylogic_epi32(mask, a, b, 0xCA);
}

/* A product's unit of work: a row group times up to 16 tokens of one token group. */
struct vd_avx512_tile {
    const uint8_t *w;     /* the row group; of a split matrix its upper bits, */
    const uint8_t *lower; /* and its lower ones */
    const void *act;      /* the token group's struct vd_wide_act[], or struct vd_wide_super[] */
    size_t slot;          /* of the first token in the group */
    size_t n_blocks;      /* blocks, or super-blocks, of a row */
    size_t ahead;         /* how many bytes ahead of what is computed weights are fetched; 0: they are near */
};
typedef void vd_avx512_tile_fn(const struct vd_avx512_tile *t, __m512 *out);

enum {
    VD_AVX512_SIZES = 8,   /* tile functions of a type, see vd_kern_mat_avx512.c */
    VD_AVX512_AHEAD = 4096 /* prefetch distance in bytes when a weight is read once */
};

VD_INLINE void vd_avx512_prefetch(const uint8_t *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)p + i, _MM_HINT_T0);
}

vd_avx512_tile_fn *vd_avx512_super_tile(enum vd_wtype type, size_t size);

void vd_avx512_act256_quant(const float *x, size_t ldx, size_t cols, size_t t0, size_t t1, void *act256);

void vd_avx512_matmul(const struct vd_kern_mat *w, size_t r0, size_t r1, const struct vd_kern_rhs *x,
                      size_t t0, size_t t1, float *y, size_t ldy, void *scratch);
void vd_avx512_matmul_float(const struct vd_kern_mat *w, size_t r0, size_t r1, const struct vd_kern_rhs *x,
                            size_t t0, size_t t1, float *y, size_t ldy);

bool vd_avx512_bounds(const struct vd_kern_mat *w, size_t r0, size_t r1, const struct vd_kern_rhs *x,
                      size_t t0, size_t t1, float *high, size_t ld_high, float *low, void *scratch);

/* Quantises n elements (a multiple of 32) in blocks; asum may be NULL. */
void vd_avx512_quant8_blocks(const float *x, size_t n, int8_t *q, float *d, int32_t *asum);
void vd_avx512_quant8(const float *x, size_t n, int8_t *q, float *d);
void vd_avx512_act_quant(const float *x, size_t ldx, size_t cols, size_t t0, size_t t1, void *act);

/* Blocks of 32 by the Walsh-Hadamard matrix (docs/spec/arithmetic.md, section 9); n a multiple of 32. */
void vd_avx512_spread(const float *x, size_t n, float *y);

void vd_avx512_rmsnorm(const float *x, const float *w, size_t n, float eps, float *y);
void vd_avx512_layernorm(const float *x, const float *w, const float *b, size_t n, float eps, float *y);
void vd_avx512_rope(float *x, size_t n_heads, size_t hd, const float *cs, size_t n_pairs, bool halves);
void vd_avx512_add(const float *x, const float *o, size_t n, float *y);
void vd_avx512_swiglu(const float *g, const float *u, size_t n, float *y);
void vd_avx512_gelu(const float *x, size_t n, float *y);
void vd_avx512_geglu(const float *g, const float *u, size_t n, float *y);
void vd_avx512_scale(const float *x, float s, size_t n, float *y);
void vd_avx512_cap(const float *x, float c, size_t n, float *y);
void vd_avx512_madd(const float *x, float w, size_t n, float *y);
void vd_avx512_exp(const float *x, size_t n, float *y);
void vd_avx512_sample_max(const float *x, uint32_t first_id, size_t n, struct vd_sample_max *out);
bool vd_avx512_sample_groups(const float *x, size_t n, size_t group, float *most);
void vd_avx512_sample_weights(const float *x, size_t n, float temp, float x_max, uint64_t *w);
void vd_avx512_sample_mass(const float *x, size_t n, struct vd_kern_mass *m);

size_t vd_avx512_scratch_bytes(size_t max_cols, size_t max_hd);
void vd_avx512_attn(const struct vd_kern_kv *kv, struct vd_kern_score score, const struct vd_kern_query *rows,
                    size_t n, void *scratch);
void vd_avx512_attn_part(const struct vd_kern_kv *kv, struct vd_kern_score score,
                         const struct vd_kern_query *rows, size_t n, size_t c0, size_t c1, float *rec,
                         size_t ld_rec, void *scratch);
void vd_avx512_attn_merge(size_t hd, const struct vd_kern_query *rows, size_t n, const float *rec,
                          size_t ld_rec);

#endif
