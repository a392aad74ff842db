/* Vector operators with AVX2. Whole vectors of eight here; what is left over goes to src/num, element by
 * element. */
#include "vd_act.h"
#include "vd_kern_avx2.h"
#include "vd_norm.h"
#include "vd_quant.h"
#include "vd_rope.h"

/* ---- quantiser ---- */

/* Scale and inverse (0: all codes are 0) from the largest bit pattern. */
static float scale_of(uint32_t amax_bits, float *inv)
{
    *inv = 0.0f;
    if (amax_bits >= 0x7F800000)
        return vd_f32_from_bits(VD_NAN_BITS);
    float d = vd_num_round11(vd_f32_from_bits(amax_bits) / 127.0f);
    if (d < VD_QUANT_D_MIN)
        return 0.0f;
    *inv = 1.0f / d;
    return d;
}

/* 32 codes; returns their sum. inv != 0. */
static int32_t codes32(const float *x, float inv, int8_t *q)
{
    const __m256 i = _mm256_set1_ps(inv);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i c[4];
    VD_UNROLL
    for (int k = 0; k < 4; k++)
        c[k] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * k), i));
    __m256i p = _mm256_packs_epi16(_mm256_packs_epi32(c[0], c[1]), _mm256_packs_epi32(c[2], c[3]));
    _mm256_storeu_si256((__m256i *)q, _mm256_permutevar8x32_epi32(p, order));
    __m256i s = _mm256_add_epi32(_mm256_add_epi32(c[0], c[1]), _mm256_add_epi32(c[2], c[3]));
    __m128i h = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(h, _mm_shuffle_epi32(h, 0xB1)));
}

void vd_avx2_quant8(const float *x, size_t n, int8_t *q, float *d)
{
    __m256i amax = _mm256_setzero_si256();
    float inv;
    for (size_t i = 0; i < n; i += 8)
        amax = _mm256_max_epu32(amax, abs_bits(_mm256_loadu_ps(x + i)));
    *d = scale_of(max8_epu32(amax), &inv);
    if (inv == 0.0f)
        memset(q, 0, n);
    for (size_t i = 0; i < n && inv != 0.0f; i += 32)
        codes32(x + i, inv, q + i);
}

int32_t vd_avx2_quant32(const float *x, int8_t *q, float *d)
{
    __m256i a = _mm256_max_epu32(abs_bits(_mm256_loadu_ps(x)), abs_bits(_mm256_loadu_ps(x + 8)));
    __m256i b = _mm256_max_epu32(abs_bits(_mm256_loadu_ps(x + 16)), abs_bits(_mm256_loadu_ps(x + 24)));
    float inv;
    *d = scale_of(max8_epu32(_mm256_max_epu32(a, b)), &inv);
    if (inv != 0.0f)
        return codes32(x, inv, q);
    memset(q, 0, 32);
    return 0;
}

/* Slots past the last token are zeroed, so that a group is always defined. */
void vd_avx2_act_quant(const float *x, size_t ldx, size_t cols, size_t t0, size_t t1, void *act)
{
    assert(t0 % WIDE_TOKS == 0 && cols % VD_KERN_BLOCK == 0);
    for (size_t t = t0; t < t1; t++) {
        struct vd_wide_act_group *g = vd_wide_act_group(act, cols, t);
        size_t slot = t % WIDE_TOKS;
        if (slot == 0 && t1 - t < WIDE_TOKS)
            memset(g, 0, vd_wide_act_group_bytes(cols));
        if (slot == 0)
            g->huge = 0;
        for (size_t b = 0; b < cols / VD_KERN_BLOCK; b++) {
            struct vd_wide_act *a = &g->block[b];
            a->asum[slot] = vd_avx2_quant32(x + t * ldx + b * VD_KERN_BLOCK, a->q[slot], &a->d[slot]);
            a->s[slot] = a->d[slot] * (float)a->asum[slot];
            g->huge |= a->d[slot] >= VD_WIDE_HUGE;
        }
    }
}

/* The sums of 16 codes, and of 32, in the order of struct vd_wide_super. */
static void store_sums(const int8_t *q, int16_t *sums16, int16_t *sums32)
{
    static const uint8_t order[4] = {0, 2, 1, 3};
    int16_t sum[VD_SUPER_SUBS];
    for (size_t b = 0; b < VD_SUPER_SUBS / 2; b++) { /* unsigned sums of eight, each 8 * 128 too high */
        const __m256i u = _mm256_xor_si256(load256(q + 32 * b), _mm256_set1_epi8((char)0x80));
        const __m256i eights = _mm256_sad_epu8(u, _mm256_setzero_si256());
        sum[2 * b] = (int16_t)(_mm256_extract_epi16(eights, 0) + _mm256_extract_epi16(eights, 4) - 2048);
        sum[2 * b + 1] = (int16_t)(_mm256_extract_epi16(eights, 8) + _mm256_extract_epi16(eights, 12) - 2048);
    }
    for (size_t i = 0; i < VD_SUPER_SUBS; i++)
        sums16[i] = sum[i / 4 * 4 + order[i % 4]];
    for (size_t i = 0; i < VD_SUPER_SUBS / 2; i++) {
        size_t b = i / 4 * 4 + order[i % 4];
        sums32[i] = (int16_t)(sum[2 * b] + sum[2 * b + 1]);
    }
}

void vd_avx2_act256_quant(const float *x, size_t ldx, size_t cols, size_t t0, size_t t1, void *act256)
{
    const size_t n_supers = cols / VD_KERN_BLOCK256;
    assert(t0 % WIDE_TOKS == 0 && cols % VD_KERN_BLOCK256 == 0);
    for (size_t t = t0; t < t1; t++) {
        struct vd_wide_super *s = vd_wide_supers(act256, cols, t);
        const size_t slot = t % WIDE_TOKS;
        if (slot == 0 && t1 - t < WIDE_TOKS)
            memset(s, 0, n_supers * sizeof(*s));
        for (size_t b = 0; b < n_supers; b++) {
            vd_avx2_quant8(x + t * ldx + b * VD_KERN_BLOCK256, VD_KERN_BLOCK256, s[b].q[slot], &s[b].d[slot]);
            store_sums(s[b].q[slot], s[b].sums16[slot], s[b].sums32[slot]);
        }
    }
}

/* ---- norm, rope, elementwise ---- */

VD_INLINE void add32(__m256 a[4], const float *x, bool squares)
{
    VD_UNROLL
    for (int k = 0; k < 4; k++) {
        __m256 v = _mm256_loadu_ps(x + 8 * k);
        a[k] = squares ? _mm256_fmadd_ps(v, v, a[k]) : _mm256_add_ps(a[k], v);
    }
}

VD_INLINE float add_segment(const float *x, size_t n, bool squares)
{
    __m256 a[4];
    size_t i = 0;
    VD_UNROLL
    for (int k = 0; k < 4; k++)
        a[k] = _mm256_setzero_ps();
    for (; i + 32 <= n; i += 32)
        add32(a, x + i, squares);
    if (i < n) {
        float last[32] = {0};
        memcpy(last, x + i, (n - i) * sizeof(float));
        add32(a, last, squares);
    }
    return tree8(_mm256_add_ps(_mm256_add_ps(a[0], a[2]), _mm256_add_ps(a[1], a[3])));
}

/* y = x - mean */
static void centre(const float *x, float mean, size_t n, float *y)
{
    const __m256 m = _mm256_set1_ps(mean);
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_sub_ps(_mm256_loadu_ps(x + i), m));
    for (; i < n; i++)
        y[i] = x[i] - mean;
}

#include "vd_kern_norm_rows.inc"

void vd_avx2_rmsnorm(const float *x, const float *w, size_t n, float eps, float *y)
{
    float r = rms_scale(x, n, eps);
    const __m256 rv = _mm256_set1_ps(r);
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i,
                         _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), rv), _mm256_loadu_ps(w + i)));
    vd_num_rms_mul(x + i, r, w + i, (uint32_t)(n - i), y + i);
}

void vd_avx2_layernorm(const float *x, const float *w, const float *b, size_t n, float eps, float *y)
{
    float mean = mean_of(x, n), r = deviation_scale(x, mean, n, eps);
    const __m256 rv = _mm256_set1_ps(r), m = _mm256_set1_ps(mean);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 tr = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + i), m), rv);
        _mm256_storeu_ps(y + i, _mm256_fmadd_ps(tr, _mm256_loadu_ps(w + i), _mm256_loadu_ps(b + i)));
    }
    vd_num_layernorm_mul(x + i, mean, r, w + i, b + i, (uint32_t)(n - i), y + i);
}

/* Pairs (2i, 2i + 1), four at a time: even lanes fma(x0, c, -(x1 * s)), odd lanes fma(x0, s, x1 * c). */
static void rope_adjacent(float *x, size_t n_pairs, const float *cs)
{
    size_t i = 0;
    for (; i + 4 <= n_pairs; i += 4) {
        const __m128 c = _mm_loadu_ps(cs + i), s = _mm_loadu_ps(cs + n_pairs + i);
        const __m256 csv = _mm256_set_m128(_mm_unpackhi_ps(c, s), _mm_unpacklo_ps(c, s));
        const __m256 scv = _mm256_set_m128(_mm_unpackhi_ps(s, c), _mm_unpacklo_ps(s, c));
        const __m256 v = _mm256_loadu_ps(x + 2 * i);
        const __m256 right = _mm256_mul_ps(_mm256_movehdup_ps(v), scv);
        _mm256_storeu_ps(x + 2 * i, _mm256_fmaddsub_ps(_mm256_moveldup_ps(v), csv, right));
    }
    for (; i < n_pairs; i++)
        vd_num_rope_pair(&x[2 * i], &x[2 * i + 1], cs[n_pairs + i], cs[i]);
}

static void rope_halves(float *x, size_t n_pairs, const float *cs)
{
    size_t i = 0;
    for (; i + 8 <= n_pairs; i += 8) {
        const __m256 c = _mm256_loadu_ps(cs + i), s = _mm256_loadu_ps(cs + n_pairs + i);
        const __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + n_pairs + i);
        _mm256_storeu_ps(x + i, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
        _mm256_storeu_ps(x + n_pairs + i, _mm256_fmadd_ps(a, s, _mm256_mul_ps(b, c)));
    }
    for (; i < n_pairs; i++)
        vd_num_rope_pair(&x[i], &x[n_pairs + i], cs[n_pairs + i], cs[i]);
}

void vd_avx2_rope(float *x, size_t n_heads, size_t hd, const float *cs, size_t n_pairs, bool halves)
{
    for (size_t h = 0; h < n_heads; h++, x += hd) {
        if (halves)
            rope_halves(x, n_pairs, cs);
        else
            rope_adjacent(x, n_pairs, cs);
    }
}

void vd_avx2_add(const float *x, const float *o, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(o + i)));
    vd_num_residual(x + i, o + i, n - i, y + i);
}

void vd_avx2_swiglu(const float *g, const float *u, size_t n, float *y)
{
    const __m256 sign = _mm256_set1_ps(-0.0f), one = _mm256_set1_ps(1.0f);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 v = _mm256_loadu_ps(g + i);
        const __m256 silu = _mm256_div_ps(v, _mm256_add_ps(one, exp8(_mm256_xor_ps(v, sign))));
        _mm256_storeu_ps(y + i, _mm256_mul_ps(silu, _mm256_loadu_ps(u + i)));
    }
    vd_num_swiglu(g + i, u + i, n - i, y + i);
}

VD_INLINE __m256 gelu8(__m256 v)
{
    const __m256 sign = _mm256_set1_ps(-0.0f), one = _mm256_set1_ps(1.0f);
    const __m256 cube = _mm256_set1_ps(VD_GELU_CUBE), scale = _mm256_set1_ps(VD_GELU_SCALE);
    const __m256 w = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_mul_ps(v, v), v), cube, v);
    return _mm256_div_ps(v, _mm256_add_ps(one, exp8(_mm256_xor_ps(_mm256_mul_ps(w, scale), sign))));
}

void vd_avx2_gelu(const float *x, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, gelu8(_mm256_loadu_ps(x + i)));
    vd_num_gelu_row(x + i, n - i, y + i);
}

void vd_avx2_geglu(const float *g, const float *u, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_mul_ps(gelu8(_mm256_loadu_ps(g + i)), _mm256_loadu_ps(u + i)));
    vd_num_geglu(g + i, u + i, n - i, y + i);
}

void vd_avx2_scale(const float *x, float s, size_t n, float *y)
{
    const __m256 sv = _mm256_set1_ps(s);
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), sv));
    vd_kern_scale(x + i, s, n - i, y + i);
}

void vd_avx2_cap(const float *x, float c, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, cap8(_mm256_loadu_ps(x + i), c));
    vd_kern_cap(x + i, c, n - i, y + i);
}

void vd_avx2_madd(const float *x, float w, size_t n, float *y)
{
    const __m256 wv = _mm256_set1_ps(w);
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_fmadd_ps(wv, _mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
    vd_kern_madd(x + i, w, n - i, y + i);
}

void vd_avx2_exp(const float *x, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, exp8(_mm256_loadu_ps(x + i)));
    for (; i < n; i++)
        y[i] = vd_num_exp(x[i]);
}

/* ---- sampling ---- */

void vd_avx2_sample_max(const float *x, uint32_t first_id, size_t n, struct vd_sample_max *out)
{
    const __m256i exponent = _mm256_set1_epi32(0x7F800000);
    __m256i bad = _mm256_setzero_si256();
    __m256 most = _mm256_set1_ps(-INFINITY);
    float best = -INFINITY, lane[8];
    size_t i = 0, at = 0;
    assert(n > 0);
    *out = (struct vd_sample_max){0.0f, VD_SAMPLE_NONE, true};
    for (; i + 8 <= n; i += 8) {
        const __m256 v = _mm256_loadu_ps(x + i);
        const __m256i e = _mm256_and_si256(_mm256_castps_si256(v), exponent);
        bad = _mm256_or_si256(bad, _mm256_cmpeq_epi32(e, exponent));
        most = _mm256_max_ps(most, v);
    }
    if (!_mm256_testz_si256(bad, bad))
        return;
    for (; i < n; i++) {
        if (!isfinite(x[i]))
            return;
        best = x[i] > best ? x[i] : best;
    }
    _mm256_storeu_ps(lane, most);
    VD_UNROLL
    for (int k = 0; k < 8; k++)
        best = lane[k] > best ? lane[k] : best;
    while (x[at] != best)
        at++;
    *out = (struct vd_sample_max){best + 0.0f, first_id + (uint32_t)at, false};
}

bool vd_avx2_sample_groups(const float *x, size_t n, size_t group, float *most)
{
    const __m256i exponent = _mm256_set1_epi32(0x7F800000);
    __m256i bad = _mm256_setzero_si256();
    bool finite = true;
    for (size_t i = 0; i < n; i += group) {
        size_t end = n - i < group ? n : i + group, k = i;
        __m256 a = _mm256_set1_ps(-INFINITY), b = a;
        for (; k + 16 <= end; k += 16) {
            const __m256 u = _mm256_loadu_ps(x + k), v = _mm256_loadu_ps(x + k + 8);
            const __m256i ue = _mm256_and_si256(_mm256_castps_si256(u), exponent);
            const __m256i ve = _mm256_and_si256(_mm256_castps_si256(v), exponent);
            bad = _mm256_or_si256(bad, _mm256_cmpeq_epi32(_mm256_max_epu32(ue, ve), exponent));
            a = _mm256_max_ps(a, u);
            b = _mm256_max_ps(b, v);
        }
        a = _mm256_max_ps(a, b);
        __m128 c = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        c = _mm_max_ps(c, _mm_movehl_ps(c, c));
        float best = _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
        for (; k < end; k++) {
            finite &= isfinite(x[k]) != 0;
            best = x[k] > best ? x[k] : best;
        }
        *most++ = best + 0.0f;
    }
    return finite && _mm256_testz_si256(bad, bad);
}

void vd_avx2_sample_weights(const float *x, size_t n, float temp, float x_max, uint64_t *w)
{
    const __m256 tv = _mm256_set1_ps(temp), t_max = _mm256_set1_ps(x_max / temp),
                 one = _mm256_set1_ps(0x1p40f);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        float e[8];
        const __m256 t = _mm256_div_ps(_mm256_loadu_ps(x + i), tv);
        _mm256_storeu_ps(e, _mm256_mul_ps(exp8(_mm256_sub_ps(t, t_max)), one));
        for (size_t k = 0; k < 8; k++)
            w[i + k] = (uint64_t)e[k];
    }
    vd_num_sample_weights_tile(x + i, (uint32_t)(n - i), temp, x_max, w + i);
}

VD_INLINE __m256d add_pd8(__m256d acc, __m256 v)
{
    acc = _mm256_add_pd(acc, _mm256_cvtps_pd(_mm256_castps256_ps128(v)));
    return _mm256_add_pd(acc, _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)));
}

static uint64_t sum_pd4(__m256d v)
{
    double lane[4];
    _mm256_storeu_pd(lane, v);
    return (uint64_t)lane[0] + (uint64_t)lane[1] + (uint64_t)lane[2] + (uint64_t)lane[3];
}

/* Truncated weights are integers up to 2^40, of which binary64 adds up a block's exactly. */
void vd_avx2_sample_mass(const float *x, size_t n, struct vd_kern_mass *m)
{
    const __m256 temp = _mm256_set1_ps(m->temp), t_max = _mm256_set1_ps(m->x_max / m->temp),
                 one = _mm256_set1_ps(0x1p40f), high = _mm256_set1_ps(m->high), low = _mm256_set1_ps(m->low),
                 least = _mm256_set1_ps(vd_kern_least(m->least));
    m->all = m->n_above = m->n_mid = 0;
    for (size_t i = 0; i < n;) {
        size_t end = n - i < VD_KERN_MASS_BLOCK ? n : i + VD_KERN_MASS_BLOCK;
        uint64_t *block = &m->block[i / VD_KERN_MASS_BLOCK];
        __m256d all = _mm256_setzero_pd(), above = all;
        m->start[i / VD_KERN_MASS_BLOCK] = (uint32_t)m->n_mid;
        for (; i + 8 <= end; i += 8) {
            const __m256 v = _mm256_loadu_ps(x + i);
            __m256 w = exp8(_mm256_sub_ps(_mm256_div_ps(v, temp), t_max));
            w = _mm256_round_ps(_mm256_mul_ps(w, one), _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
            const __m256 is_high = _mm256_cmp_ps(v, high, _CMP_GE_OQ);
            const __m256 is_low = _mm256_cmp_ps(v, low, _CMP_GE_OQ);
            all = add_pd8(all, w);
            w = _mm256_and_ps(w, _mm256_cmp_ps(w, least, _CMP_GE_OQ));
            above = add_pd8(above, _mm256_and_ps(w, is_high));
            m->n_above += (size_t)__builtin_popcount((unsigned)_mm256_movemask_ps(is_high));
            unsigned mid = (unsigned)_mm256_movemask_ps(_mm256_andnot_ps(is_high, is_low));
            for (; mid != 0; mid &= mid - 1)
                m->mid[m->n_mid++] = x[i + (size_t)__builtin_ctz(mid)];
        }
        m->all += sum_pd4(all);
        *block = sum_pd4(above);
        if (i < end)
            vd_kern_mass_part(x, i, end, m);
        i = end;
    }
}
