/* Vector operators with AVX-512. Sixteen lanes keep the rule's 32 strided lanes in two registers. Reductions
 * over many short vectors (one maximum or sum per block) are done sixteen vectors at a time by reduce16_*,
 * whose pairing is the tree 8-4-2-1. */
#include "vd_act.h"
#include "vd_kern_avx512.h"
#include "vd_norm.h"

enum { BATCH = 16 }; /* blocks quantised together */

/* ---- quantiser ---- */

/* From the 16 largest bit patterns: scales, and inverses (0 where q is 0 anyway). */
static void scales16(__m512i amax, __m512 *d, __m512 *inv)
{
    __mmask16 bad = _mm512_cmp_epu32_mask(amax, _mm512_set1_epi32(0x7F800000), _MM_CMPINT_NLT);
    __m512i u = _mm512_castps_si512(_mm512_div_ps(_mm512_castsi512_ps(amax), _mm512_set1_ps(127.0f)));
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 13), _mm512_set1_epi32(1));
    u = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0xFFF)));
    u = _mm512_and_si512(u, _mm512_set1_epi32(~0x1FFF));
    __m512 v = _mm512_castsi512_ps(u);
    __mmask16 used = _mm512_cmp_ps_mask(v, _mm512_set1_ps(0x1p-100f), _CMP_GE_OQ) & (__mmask16)~bad;
    v = _mm512_maskz_mov_ps(used, v);
    *inv = _mm512_maskz_div_ps(used, _mm512_set1_ps(1.0f), v);
    *d = _mm512_mask_mov_ps(v, bad, _mm512_castsi512_ps(_mm512_set1_epi32((int)VD_NAN_BITS)));
}

/* Sixteen codes. Where inv is 0 and x is not finite the product is NaN, which converts to INT_MIN: a low byte
 * of 0. */
VD_INLINE __m512i codes16(const float *x, __m512 inv)
{
    return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), inv));
}

VD_INLINE __m512i abs_bits(const float *x)
{
    return _mm512_and_si512(_mm512_loadu_si512(x), _mm512_set1_epi32(0x7FFFFFFF));
}

/* n <= BATCH blocks, ldx floats apart, codes to q, ldq bytes apart; a constant n unrolls. */
VD_INLINE void quant_batch(const float *x, size_t ldx, size_t n, int8_t *q, size_t ldq, __m512 *d,
                           __m512i *asum)
{
    __m512i v[BATCH];
    __m512 inv;
    float inverse[BATCH];
    VD_UNROLL
    for (size_t b = 0; b < BATCH; b++)
        v[b] = b < n ? _mm512_max_epu32(abs_bits(x + b * ldx), abs_bits(x + b * ldx + 16))
                     : _mm512_setzero_si512();
    scales16(reduce16_max_epu32(v), d, &inv);
    _mm512_storeu_ps(inverse, inv);
    VD_UNROLL
    for (size_t b = 0; b < BATCH; b++) {
        if (b >= n)
            break;
        __m512 i = _mm512_set1_ps(inverse[b]);
        __m512i q0 = codes16(x + b * ldx, i), q1 = codes16(x + b * ldx + 16, i);
        _mm_storeu_si128((__m128i *)(q + b * ldq), _mm512_cvtepi32_epi8(q0));
        _mm_storeu_si128((__m128i *)(q + b * ldq + 16), _mm512_cvtepi32_epi8(q1));
        v[b] = _mm512_add_epi32(q0, q1);
    }
    __mmask16 used = _mm512_cmp_ps_mask(inv, _mm512_setzero_ps(), _CMP_NEQ_OQ);
    *asum = _mm512_maskz_mov_epi32(used, reduce16_add_epi32(v));
}

void vd_avx512_quant8_blocks(const float *x, size_t n, int8_t *q, float *d, int32_t *asum)
{
    for (size_t b = 0; b < n / 32; b += BATCH) {
        size_t k = n / 32 - b < BATCH ? n / 32 - b : BATCH;
        __m512 dv;
        __m512i av;
        quant_batch(x + 32 * b, 32, k, q + 32 * b, 32, &dv, &av);
        _mm512_mask_storeu_ps(d + b, tail_mask(k), dv);
        if (asum != NULL)
            _mm512_mask_storeu_epi32(asum + b, tail_mask(k), av);
    }
}

void vd_avx512_quant8(const float *x, size_t n, int8_t *q, float *d)
{
    __m512i amax = _mm512_setzero_si512();
    __m512 dv, inv;
    for (size_t i = 0; i < n; i += 16)
        amax = _mm512_max_epu32(amax, abs_bits(x + i));
    scales16(_mm512_set1_epi32((int)_mm512_reduce_max_epu32(amax)), &dv, &inv);
    for (size_t i = 0; i < n; i += 16)
        _mm_storeu_si128((__m128i *)(q + i), _mm512_cvtepi32_epi8(codes16(x + i, inv)));
    *d = _mm512_cvtss_f32(dv);
}

/* One token into its slot. Returns whether a scale is huge. */
static bool quant_token(const float *x, size_t n_blocks, struct vd_wide_act *block, size_t slot)
{
    __mmask16 huge = 0;
    for (size_t b = 0; b < n_blocks; b += BATCH) {
        size_t k = n_blocks - b < BATCH ? n_blocks - b : BATCH;
        float d[BATCH], s[BATCH];
        int32_t asum[BATCH];
        __m512 dv;
        __m512i av;
        quant_batch(x + 32 * b, 32, k, block[b].q[slot], sizeof(*block), &dv, &av);
        huge |= _mm512_cmp_ps_mask(dv, _mm512_set1_ps(VD_WIDE_HUGE), _CMP_GE_OQ);
        _mm512_storeu_ps(d, dv);
        _mm512_storeu_ps(s, _mm512_mul_ps(dv, _mm512_cvtepi32_ps(av)));
        _mm512_storeu_si512(asum, av);
        for (size_t i = 0; i < k; i++) {
            block[b + i].d[slot] = d[i];
            block[b + i].s[slot] = s[i];
            block[b + i].asum[slot] = asum[i];
        }
    }
    return huge != 0;
}

/* A whole group of tokens, one block of all after the other: what a block keeps of them lies side by side. */
static bool quant_tokens(const float *x, size_t ldx, size_t n_blocks, struct vd_wide_act *block)
{
    static_assert((int)BATCH == (int)WIDE_TOKS, "one block of a group is one batch");
    __mmask16 huge = 0;
    for (size_t b = 0; b < n_blocks; b++) {
        __m512 d;
        __m512i asum;
        quant_batch(x + VD_KERN_BLOCK * b, ldx, BATCH, block[b].q[0], VD_KERN_BLOCK, &d, &asum);
        huge |= _mm512_cmp_ps_mask(d, _mm512_set1_ps(VD_WIDE_HUGE), _CMP_GE_OQ);
        _mm512_storeu_ps(block[b].d, d);
        _mm512_storeu_ps(block[b].s, _mm512_mul_ps(d, _mm512_cvtepi32_ps(asum)));
        _mm512_storeu_si512(block[b].asum, asum);
    }
    return huge != 0;
}

/* Slots past the last token are zeroed: tiles may compute on them. */
void vd_avx512_act_quant(const float *x, size_t ldx, size_t cols, size_t t0, size_t t1, void *act)
{
    assert(t0 % WIDE_TOKS == 0 && cols % VD_KERN_BLOCK == 0);
    for (size_t t = t0; t < t1; t += WIDE_TOKS) {
        struct vd_wide_act_group *g = vd_wide_act_group(act, cols, t);
        size_t n = t1 - t < WIDE_TOKS ? t1 - t : WIDE_TOKS;
        if (n < WIDE_TOKS)
            memset(g, 0, vd_wide_act_group_bytes(cols));
        g->huge = n == WIDE_TOKS && quant_tokens(x + t * ldx, ldx, cols / VD_KERN_BLOCK, g->block);
        for (size_t i = 0; n < WIDE_TOKS && i < n; i++)
            g->huge |= quant_token(x + (t + i) * ldx, cols / VD_KERN_BLOCK, g->block, i);
    }
}

/* The sums of 16 in the order of struct vd_wide_super, and of 32. sums: one lane per sub-block. */
static void store_sums(__m512i sums, struct vd_wide_super *s, size_t slot)
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m512i order = _mm512_setr_epi32(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    __m512i pairs =
        _mm512_add_epi32(sums, _mm512_srli_epi64(sums, 32)); /* even lanes: both of a block of 32 */
    pairs = _mm512_permutexvar_epi32(order, _mm512_permutexvar_epi32(even, pairs));
    _mm512_storeu_si512(s->minus32[slot],
                        _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(sums, 5)));
    _mm256_storeu_si256((__m256i *)s->sums16[slot],
                        _mm512_cvtepi32_epi16(_mm512_permutexvar_epi32(order, sums)));
    _mm_storeu_si128((__m128i *)s->sums32[slot], _mm256_castsi256_si128(_mm512_cvtepi32_epi16(pairs)));
}

/* Up to 16 super-blocks of one token. */
static void quant256_batch(const float *x, size_t n, struct vd_wide_super *super, size_t slot)
{
    __m512i v[BATCH];
    __m512 inv, d;
    float inverse[BATCH], scale[BATCH];
    for (size_t b = 0; b < BATCH; b++) {
        v[b] = _mm512_setzero_si512();
        for (size_t i = 0; b < n && i < VD_KERN_BLOCK256; i += 16)
            v[b] = _mm512_max_epu32(v[b], abs_bits(x + VD_KERN_BLOCK256 * b + i));
    }
    scales16(reduce16_max_epu32(v), &d, &inv);
    _mm512_storeu_ps(inverse, inv);
    _mm512_storeu_ps(scale, d);
    for (size_t b = 0; b < n; b++) {
        struct vd_wide_super *s = &super[b];
        for (size_t i = 0; i < 16; i++) {
            v[i] = codes16(x + VD_KERN_BLOCK256 * b + 16 * i, _mm512_set1_ps(inverse[b]));
            _mm_storeu_si128((__m128i *)(s->q[slot] + 16 * i), _mm512_cvtepi32_epi8(v[i]));
        }
        __mmask16 used = inverse[b] != 0.0f ? 0xFFFF : 0; /* see codes16 */
        store_sums(_mm512_maskz_mov_epi32(used, reduce16_add_epi32(v)), s, slot);
        s->d[slot] = scale[b];
    }
}

void vd_avx512_act256_quant(const float *x, size_t ldx, size_t cols, size_t t0, size_t t1, void *act256)
{
    const size_t n_supers = cols / VD_KERN_BLOCK256;
    assert(t0 % WIDE_TOKS == 0 && cols % VD_KERN_BLOCK256 == 0);
    for (size_t t = t0; t < t1; t++) {
        struct vd_wide_super *s = vd_wide_supers(act256, cols, t);
        if (t % WIDE_TOKS == 0 && t1 - t < WIDE_TOKS)
            memset(s, 0, n_supers * sizeof(*s));
        for (size_t b = 0; b < n_supers; b += BATCH)
            quant256_batch(x + t * ldx + b * VD_KERN_BLOCK256, n_supers - b < BATCH ? n_supers - b : BATCH,
                           s + b, t % WIDE_TOKS);
    }
}

/* ---- norm, rope, elementwise ---- */

static float sumsq_segment(const float *x, size_t n)
{
    __m512 a = _mm512_setzero_ps(), b = a;
    for (size_t i = 0; i < n; i += 32) {
        __m512 u = _mm512_maskz_loadu_ps(tail_mask(n - i), x + i);
        __m512 v = _mm512_maskz_loadu_ps(n - i > 16 ? tail_mask(n - i - 16) : 0, x + i + 16);
        a = _mm512_fmadd_ps(u, u, a);
        b = _mm512_fmadd_ps(v, v, b);
    }
    return tree16(_mm512_add_ps(a, b));
}

void vd_avx512_rmsnorm(const float *x, const float *w, size_t n, float eps, float *y)
{
    float partial[VD_KERN_COLS_MAX / 512];
    assert(n > 0 && n <= VD_KERN_COLS_MAX);
    for (size_t i = 0; i < n; i += 512)
        partial[i / 512] = sumsq_segment(x + i, n - i < 512 ? n - i : 512);
    __m512 r = _mm512_set1_ps(vd_num_rms_scale(partial, vd_num_segs((uint32_t)n), (uint32_t)n, eps));
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 k = tail_mask(n - i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(k, x + i), r);
        _mm512_mask_storeu_ps(y + i, k, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(k, w + i)));
    }
}

static float sum_segment(const float *x, size_t n)
{
    __m512 a = _mm512_setzero_ps(), b = a;
    for (size_t i = 0; i < n; i += 32) {
        a = _mm512_add_ps(a, _mm512_maskz_loadu_ps(tail_mask(n - i), x + i));
        b = _mm512_add_ps(b, _mm512_maskz_loadu_ps(n - i > 16 ? tail_mask(n - i - 16) : 0, x + i + 16));
    }
    return tree16(_mm512_add_ps(a, b));
}

/* Of x - mean; what is not there counts as 0. */
static float var_segment(const float *x, float mean, size_t n)
{
    const __m512 m = _mm512_set1_ps(mean);
    __m512 a = _mm512_setzero_ps(), b = a;
    for (size_t i = 0; i < n; i += 32) {
        __mmask16 k = tail_mask(n - i), k2 = n - i > 16 ? tail_mask(n - i - 16) : 0;
        __m512 u = _mm512_maskz_sub_ps(k, _mm512_maskz_loadu_ps(k, x + i), m);
        __m512 v = _mm512_maskz_sub_ps(k2, _mm512_maskz_loadu_ps(k2, x + i + 16), m);
        a = _mm512_fmadd_ps(u, u, a);
        b = _mm512_fmadd_ps(v, v, b);
    }
    return tree16(_mm512_add_ps(a, b));
}

void vd_avx512_layernorm(const float *x, const float *w, const float *b, size_t n, float eps, float *y)
{
    float partial[VD_KERN_COLS_MAX / 512];
    assert(n > 0 && n <= VD_KERN_COLS_MAX);
    for (size_t i = 0; i < n; i += 512)
        partial[i / 512] = sum_segment(x + i, n - i < 512 ? n - i : 512);
    float mean = vd_num_mean(partial, vd_num_segs((uint32_t)n), (uint32_t)n);
    for (size_t i = 0; i < n; i += 512)
        partial[i / 512] = var_segment(x + i, mean, n - i < 512 ? n - i : 512);
    const __m512 r = _mm512_set1_ps(vd_num_rms_scale(partial, vd_num_segs((uint32_t)n), (uint32_t)n, eps));
    const __m512 m = _mm512_set1_ps(mean);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 k = tail_mask(n - i);
        __m512 t = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(k, x + i), m), r);
        t = _mm512_fmadd_ps(t, _mm512_maskz_loadu_ps(k, w + i), _mm512_maskz_loadu_ps(k, b + i));
        _mm512_mask_storeu_ps(y + i, k, t);
    }
}

/* Pairs (2i, 2i + 1): even lanes fma(x0, c, -(x1 * s)), odd lanes fma(x0, s, x1 * c). */
static void rope_adjacent(float *x, size_t n_pairs, const float *cs)
{
    const __m512i inter = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    for (size_t i = 0; i < n_pairs; i += 8) {
        __mmask16 half = tail_mask(n_pairs - i < 8 ? n_pairs - i : 8);
        __mmask16 k = tail_mask(2 * (n_pairs - i));
        __m512 c = _mm512_maskz_loadu_ps(half, cs + i), s = _mm512_maskz_loadu_ps(half, cs + n_pairs + i);
        __m512 csv = _mm512_permutex2var_ps(c, inter, s), scv = _mm512_permutex2var_ps(s, inter, c);
        __m512 v = _mm512_maskz_loadu_ps(k, x + 2 * i);
        __m512 right = _mm512_mul_ps(_mm512_movehdup_ps(v), scv);
        _mm512_mask_storeu_ps(x + 2 * i, k, _mm512_fmaddsub_ps(_mm512_moveldup_ps(v), csv, right));
    }
}

static void rope_halves(float *x, size_t n_pairs, const float *cs)
{
    for (size_t i = 0; i < n_pairs; i += 16) {
        __mmask16 k = tail_mask(n_pairs - i);
        __m512 c = _mm512_maskz_loadu_ps(k, cs + i), s = _mm512_maskz_loadu_ps(k, cs + n_pairs + i);
        __m512 a = _mm512_maskz_loadu_ps(k, x + i), b = _mm512_maskz_loadu_ps(k, x + n_pairs + i);
        _mm512_mask_storeu_ps(x + i, k, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
        _mm512_mask_storeu_ps(x + n_pairs + i, k, _mm512_fmadd_ps(a, s, _mm512_mul_ps(b, c)));
    }
}

void vd_avx512_rope(float *x, size_t n_heads, size_t hd, const float *cs, size_t n_pairs, bool halves)
{
    for (size_t h = 0; h < n_heads; h++, x += hd) {
        if (halves)
            rope_halves(x, n_pairs, cs);
        else
            rope_adjacent(x, n_pairs, cs);
    }
}

void vd_avx512_add(const float *x, const float *o, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 k = tail_mask(n - i);
        _mm512_mask_storeu_ps(
            y + i, k, _mm512_add_ps(_mm512_maskz_loadu_ps(k, x + i), _mm512_maskz_loadu_ps(k, o + i)));
    }
}

void vd_avx512_swiglu(const float *g, const float *u, size_t n, float *y)
{
    const __m512 sign = _mm512_set1_ps(-0.0f), one = _mm512_set1_ps(1.0f);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 k = tail_mask(n - i);
        __m512 v = _mm512_maskz_loadu_ps(k, g + i);
        __m512 silu = _mm512_div_ps(v, _mm512_add_ps(one, exp16(_mm512_xor_ps(v, sign))));
        _mm512_mask_storeu_ps(y + i, k, _mm512_mul_ps(silu, _mm512_maskz_loadu_ps(k, u + i)));
    }
}

VD_INLINE __m512 gelu16(__m512 v)
{
    const __m512 sign = _mm512_set1_ps(-0.0f), one = _mm512_set1_ps(1.0f);
    const __m512 cube = _mm512_set1_ps(VD_GELU_CUBE), scale = _mm512_set1_ps(VD_GELU_SCALE);
    __m512 w = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_mul_ps(v, v), v), cube, v);
    return _mm512_div_ps(v, _mm512_add_ps(one, exp16(_mm512_xor_ps(_mm512_mul_ps(w, scale), sign))));
}

void vd_avx512_gelu(const float *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 k = tail_mask(n - i);
        _mm512_mask_storeu_ps(y + i, k, gelu16(_mm512_maskz_loadu_ps(k, x + i)));
    }
}

void vd_avx512_geglu(const float *g, const float *u, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 k = tail_mask(n - i);
        __m512 gelu = gelu16(_mm512_maskz_loadu_ps(k, g + i));
        _mm512_mask_storeu_ps(y + i, k, _mm512_mul_ps(gelu, _mm512_maskz_loadu_ps(k, u + i)));
    }
}

void vd_avx512_scale(const float *x, float s, size_t n, float *y)
{
    const __m512 sv = _mm512_set1_ps(s);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 k = tail_mask(n - i);
        _mm512_mask_storeu_ps(y + i, k, _mm512_mul_ps(_mm512_maskz_loadu_ps(k, x + i), sv));
    }
}

void vd_avx512_cap(const float *x, float c, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 k = tail_mask(n - i);
        _mm512_mask_storeu_ps(y + i, k, cap16(_mm512_maskz_loadu_ps(k, x + i), c));
    }
}

void vd_avx512_madd(const float *x, float w, size_t n, float *y)
{
    const __m512 wv = _mm512_set1_ps(w);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 k = tail_mask(n - i);
        __m512 v = _mm512_fmadd_ps(wv, _mm512_maskz_loadu_ps(k, x + i), _mm512_maskz_loadu_ps(k, y + i));
        _mm512_mask_storeu_ps(y + i, k, v);
    }
}

void vd_avx512_exp(const float *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 k = tail_mask(n - i);
        _mm512_mask_storeu_ps(y + i, k, exp16(_mm512_maskz_loadu_ps(k, x + i)));
    }
}

/* ---- sampling ---- */

void vd_avx512_sample_max(const float *x, uint32_t first_id, size_t n, struct vd_sample_max *out)
{
    const __m512i sign_off = _mm512_set1_epi32(0x7FFFFFFF);
    __m512 best = _mm512_set1_ps(-INFINITY);
    __m512i most_bits = _mm512_setzero_si512();
    size_t first = 0;
    assert(n > 0);
    for (; first + 16 <= n; first += 16) {
        __m512 v = _mm512_loadu_ps(x + first);
        most_bits = _mm512_max_epu32(most_bits, _mm512_and_si512(_mm512_castps_si512(v), sign_off));
        best = _mm512_max_ps(best, v);
    }
    if (first < n) {
        __mmask16 k = tail_mask(n - first);
        __m512 v = _mm512_maskz_loadu_ps(k, x + first);
        most_bits = _mm512_max_epu32(most_bits, _mm512_and_si512(_mm512_castps_si512(v), sign_off));
        best = _mm512_mask_max_ps(best, k, best, v);
    }
    *out = (struct vd_sample_max){0.0f, VD_SAMPLE_NONE, true};
    if (_mm512_reduce_max_epu32(most_bits) >= 0x7F800000)
        return;
    out->bad = false;
    out->x = _mm512_reduce_max_ps(best) + 0.0f;
    for (size_t i = 0; out->id == VD_SAMPLE_NONE; i += 16) {
        __mmask16 k = tail_mask(n - i);
        k = _mm512_mask_cmp_ps_mask(k, _mm512_maskz_loadu_ps(k, x + i), _mm512_set1_ps(out->x), _CMP_EQ_OQ);
        if (k != 0)
            out->id = first_id + (uint32_t)(i + (size_t)__builtin_ctz(k));
    }
}

bool vd_avx512_sample_groups(const float *x, size_t n, size_t group, float *most)
{
    __m512i most_bits = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += group) {
        size_t end = n - i < group ? n : i + group, k = i;
        __m512 a = _mm512_set1_ps(-INFINITY), b = a;
        for (; k + 32 <= end; k += 32) {
            const __m512 u = _mm512_loadu_ps(x + k), v = _mm512_loadu_ps(x + k + 16);
            most_bits = _mm512_max_epu32(most_bits, _mm512_max_epu32(abs_bits(x + k), abs_bits(x + k + 16)));
            a = _mm512_max_ps(a, u);
            b = _mm512_max_ps(b, v);
        }
        for (; k < end; k += 16) {
            __mmask16 lanes = tail_mask(end - k);
            const __m512 v = _mm512_maskz_loadu_ps(lanes, x + k);
            most_bits = _mm512_max_epu32(
                most_bits, _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7FFFFFFF)));
            a = _mm512_mask_max_ps(a, lanes, a, v);
        }
        *most++ = _mm512_reduce_max_ps(_mm512_max_ps(a, b)) + 0.0f;
    }
    return _mm512_reduce_max_epu32(most_bits) < 0x7F800000;
}

void vd_avx512_sample_weights(const float *x, size_t n, float temp, float x_max, uint64_t *w)
{
    const __m512 tv = _mm512_set1_ps(temp), t_max = _mm512_set1_ps(x_max / temp),
                 one = _mm512_set1_ps(0x1p40f);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 k = tail_mask(n - i);
        __m512 t = _mm512_div_ps(_mm512_maskz_loadu_ps(k, x + i), tv);
        __m512 e = _mm512_mul_ps(exp16(_mm512_sub_ps(t, t_max)), one);
        _mm512_mask_storeu_epi64(w + i, (__mmask8)k, _mm512_cvttps_epu64(_mm512_castps512_ps256(e)));
        _mm512_mask_storeu_epi64(w + i + 8, (__mmask8)(k >> 8),
                                 _mm512_cvttps_epu64(_mm512_extractf32x8_ps(e, 1)));
    }
}

/* What a pass over logits makes. */
enum {
    MASS_ALL = 0,
    MASS_ABOVE = 1, /* not only the sum of all */
    MASS_LEAST = 2, /* of these some do not count */
    MASS_LIST = 4,
    MASS_STEP = 4 /* vectors that are computed in step: the chain of one is much longer than its share */
};

/* The weights of k vectors, of the last one those in `lanes`, before they are truncated: exp16 times 2^40,
 * where exponents are added as bits. Below -60 truncated weights are 0, and nothing is above 0. */
VD_INLINE void weigh(const float *x, size_t k, __mmask16 lanes, const struct vd_kern_mass *m, __m512 *w)
{
    const __m512 one = _mm512_set1_ps(1.0f), shift = _mm512_set1_ps(0x1.8p23f + 40.0f);
    const __m512 temp = _mm512_set1_ps(m->temp), t_max = _mm512_set1_ps(m->x_max / m->temp);
    __m512 d[MASS_STEP], t[MASS_STEP], n[MASS_STEP];
#define EACH VD_UNROLL for (size_t i = 0; i < k; i++)
    EACH d[i] = _mm512_div_ps(_mm512_maskz_loadu_ps(i + 1 < k ? 0xFFFF : lanes, x + 16 * i), temp);
    EACH d[i] = _mm512_sub_ps(d[i], t_max);
    EACH d[i] = _mm512_max_ps(d[i], _mm512_set1_ps(-60.0f));
    EACH t[i] = _mm512_mul_ps(d[i], _mm512_set1_ps(VD_EXP_LOG2E));
    EACH t[i] = _mm512_add_ps(t[i], shift); /* its last bits are an integer */
    EACH n[i] = _mm512_sub_ps(t[i], shift);
    EACH d[i] = _mm512_fmadd_ps(n[i], _mm512_set1_ps(-VD_EXP_LN2_HI), d[i]);
    EACH d[i] = _mm512_fmadd_ps(n[i], _mm512_set1_ps(-VD_EXP_LN2_LO), d[i]);
    EACH w[i] = _mm512_fmadd_ps(_mm512_set1_ps(VD_EXP_C6), d[i], _mm512_set1_ps(VD_EXP_C5));
    EACH w[i] = _mm512_fmadd_ps(w[i], d[i], _mm512_set1_ps(VD_EXP_C4));
    EACH w[i] = _mm512_fmadd_ps(w[i], d[i], _mm512_set1_ps(VD_EXP_C3));
    EACH w[i] = _mm512_fmadd_ps(w[i], d[i], _mm512_set1_ps(VD_EXP_C2));
    EACH w[i] = _mm512_fmadd_ps(w[i], d[i], one);
    EACH w[i] = _mm512_fmadd_ps(w[i], d[i], one);
    EACH w[i] = _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(w[i]), _mm512_slli_epi32(_mm512_castps_si512(t[i]), 23)));
#undef EACH
}

struct mass_sums {
    __m512i all, above, n_above;
};

/* Takes in k vectors of logits with their weights; of the last one those in `lanes`. */
VD_INLINE void tally(const float *x, const __m512 *w, size_t k, __mmask16 lanes, int what,
                     struct vd_kern_mass *m, float least, struct mass_sums *sums)
{
    VD_UNROLL
    for (size_t i = 0; i < k; i++) {
        const __mmask16 here = i + 1 < k ? 0xFFFF : lanes;
        const __m512 v = _mm512_maskz_loadu_ps(here, x + 16 * i), counts = _mm512_maskz_mov_ps(here, w[i]);
        const __m512i w0 = _mm512_cvttps_epi64(_mm512_castps512_ps256(counts));
        const __m512i w1 = _mm512_cvttps_epi64(_mm512_extractf32x8_ps(counts, 1));
        sums->all = _mm512_add_epi64(sums->all, _mm512_add_epi64(w0, w1));
        if (!(what & MASS_ABOVE))
            continue;
        const __mmask16 high = _mm512_mask_cmp_ps_mask(here, v, _mm512_set1_ps(m->high), _CMP_GE_OQ);
        __mmask16 in = high;
        if (what & MASS_LEAST)
            in = _mm512_mask_cmp_ps_mask(high, counts, _mm512_set1_ps(least), _CMP_GE_OQ);
        sums->above = _mm512_mask_add_epi64(sums->above, (__mmask8)in, sums->above, w0);
        sums->above = _mm512_mask_add_epi64(sums->above, (__mmask8)(in >> 8), sums->above, w1);
        sums->n_above = _mm512_mask_add_epi32(sums->n_above, high, sums->n_above, _mm512_set1_epi32(1));
        if (!(what & MASS_LIST))
            continue;
        const __mmask16 low = _mm512_mask_cmp_ps_mask(here, v, _mm512_set1_ps(m->low), _CMP_GE_OQ);
        const __mmask16 mid = (__mmask16)(low & ~high);
        /* a store of all lanes: no more are listed than were read, so those behind stay inside */
        _mm512_mask_storeu_ps(m->mid + m->n_mid, here, _mm512_maskz_compress_ps(mid, v));
        m->n_mid += (size_t)_mm_popcnt_u32(mid);
    }
}

/* The weights of a step are made while those of the one before are taken in. */
VD_INLINE void mass_pass(const float *x, size_t n, int what, struct vd_kern_mass *m)
{
    enum { STEP = 16 * MASS_STEP };
    const float least = vd_kern_least(m->least);
    const size_t in_steps = n / STEP * STEP;
    const __m512i zero = _mm512_setzero_si512();
    struct vd_kern_mass r = *m;
    struct mass_sums sums = {zero, zero, zero};
    __m512 w[MASS_STEP], next[MASS_STEP];
    r.n_mid = 0;
    VD_UNROLL
    for (size_t k = 0; k < MASS_STEP; k++)
        w[k] = _mm512_setzero_ps();
    if (in_steps > 0)
        weigh(x, MASS_STEP, 0xFFFF, &r, w);
    for (size_t first = 0; first < n; first += VD_KERN_MASS_BLOCK) {
        size_t end = n - first < VD_KERN_MASS_BLOCK ? n : first + VD_KERN_MASS_BLOCK, i = first;
        sums.above = zero;
        r.start[first / VD_KERN_MASS_BLOCK] = (uint32_t)r.n_mid;
        for (; i + STEP <= end; i += STEP) {
            weigh(x + (i + STEP < in_steps ? i + STEP : i), MASS_STEP, 0xFFFF, &r, next);
            tally(x + i, w, MASS_STEP, 0xFFFF, what, &r, least, &sums);
            VD_UNROLL
            for (size_t k = 0; k < MASS_STEP; k++)
                w[k] = next[k];
        }
        for (; i < end; i += 16) {
            weigh(x + i, 1, tail_mask(end - i), &r, w);
            tally(x + i, w, 1, tail_mask(end - i), what, &r, least, &sums);
        }
        r.block[first / VD_KERN_MASS_BLOCK] = (uint64_t)_mm512_reduce_add_epi64(sums.above);
    }
    r.all = (uint64_t)_mm512_reduce_add_epi64(sums.all);
    r.n_above = (uint32_t)_mm512_reduce_add_epi32(sums.n_above);
    *m = r;
}

void vd_avx512_sample_mass(const float *x, size_t n, struct vd_kern_mass *m)
{
    if (m->low < m->high && m->least == 0)
        mass_pass(x, n, MASS_ABOVE | MASS_LIST, m);
    else if (m->low < m->high)
        mass_pass(x, n, MASS_ABOVE | MASS_LEAST | MASS_LIST, m);
    else if (m->high < INFINITY)
        mass_pass(x, n, MASS_ABOVE | MASS_LEAST, m);
    else
        mass_pass(x, n, MASS_ALL, m);
}

/* One stage inside a register: each pair of elements whose numbers differ in one bit becomes (a + b, a - b);
 * `other` holds each element's partner, `upper` the elements with the bit. */
VD_INLINE __m512 butterfly(__m512 v, __m512 other, __mmask16 upper)
{
    return _mm512_mask_sub_ps(_mm512_add_ps(v, other), upper, other, v);
}

VD_INLINE __m512 spread16(__m512 v)
{
    v = butterfly(v, _mm512_shuffle_f32x4(v, v, 0x4E), 0xFF00);
    v = butterfly(v, _mm512_shuffle_f32x4(v, v, 0xB1), 0xF0F0);
    v = butterfly(v, _mm512_permute_ps(v, 0x4E), 0xCCCC);
    return butterfly(v, _mm512_permute_ps(v, 0xB1), 0xAAAA);
}

void vd_avx512_spread(const float *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += VD_KERN_BLOCK) {
        __m512 a = _mm512_loadu_ps(x + i), b = _mm512_loadu_ps(x + i + 16);
        _mm512_storeu_ps(y + i, spread16(_mm512_add_ps(a, b)));
        _mm512_storeu_ps(y + i + 16, spread16(_mm512_sub_ps(a, b)));
    }
}
