/* Attention with AVX2: tiles of four query rows for the scores, two for the values.
 *
 * Scores are the Q8_0 product with positions in place of rows. The sum over positions multiplies 16-bit
 * weights with values widened from 8 bits (vpmaddwd adds pairs of positions in int32), since unsigned byte
 * products of a full byte would saturate. The softmax is done one row at a time. */
#include "vd_kern_avx2.h"
#include "vd_attn.h"
#include "vd_num.h"

enum { TILE = 4, PANEL_ROWS = 2, PANEL = 16 };

struct row_state {
    const struct vd_kern_query *query;
    int8_t q[VD_KERN_HEAD_MAX];
    float dq[VD_KERN_HEAD_MAX / 32];
    int32_t asum[VD_KERN_HEAD_MAX / 32];
    float s[VD_KERN_CHUNK]; /* scores, then weights times value scales */
    int16_t w[VD_KERN_CHUNK];
    float o[VD_KERN_HEAD_MAX];
    float *dst; /* where o of a chunk goes: o above, or a chunk record */
    float m, l; /* running */
    float mc, lc, d, a, b;
    bool started, merge;
};

size_t vd_avx2_scratch_bytes(size_t max_cols, size_t max_hd)
{
    size_t attn = vd_kern_round_up(TILE * sizeof(struct row_state), VD_KERN_ALIGN),
           bounds = vd_wide_bounds_scratch(max_cols);
    return attn > bounds ? attn : bounds;
}

static struct row_state *begin_tile(void *scratch, size_t hd, const struct vd_kern_query *rows, size_t n)
{
    struct row_state *st = scratch;
    assert(n <= TILE && hd % VD_KERN_BLOCK == 0 && hd <= VD_KERN_HEAD_MAX);
    for (size_t i = 0; i < n; i++) {
        float spread[VD_KERN_HEAD_MAX];
        vd_wide_spread(rows[i].q, hd, spread);
        for (size_t b = 0; b < hd / 32; b++)
            st[i].asum[b] = vd_avx2_quant32(spread + 32 * b, st[i].q + 32 * b, &st[i].dq[b]);
        st[i].query = &rows[i];
        st[i].dst = st[i].o;
        st[i].started = false;
    }
    return st;
}

VD_INLINE __m256 score_of8(__m256 product, struct vd_kern_score score)
{
    __m256 s = _mm256_mul_ps(product, _mm256_set1_ps(score.scale * VD_ATTN_SPREAD_SCALE));
    return score.cap == 0.0f ? s : cap8(s, score.cap);
}

/* Scores of eight positions for n rows. */
VD_INLINE void score8(int n, struct row_state *st, const struct vd_wide_kv *c, size_t hd, size_t p0,
                      struct vd_kern_score score)
{
    __m256 acc[TILE];
    VD_UNROLL
    for (int i = 0; i < n; i++)
        acc[i] = _mm256_setzero_ps();
    for (size_t b = 0; b < hd / 32; b++) {
        __m256i sum[TILE];
        const __m256 kd = _mm256_loadu_ps(c->kd + b * VD_KERN_CHUNK + p0);
        const uint8_t *k = c->k + (p0 / 16 * hd + b * 32) * 16 + p0 % 16 * 4;
        dot_bytes(n, k, st->q + b * 32, sizeof(*st), sum);
        VD_UNROLL
        for (int i = 0; i < n; i++) {
            sum[i] = _mm256_sub_epi32(sum[i], _mm256_set1_epi32(128 * st[i].asum[b]));
            acc[i] = _mm256_fmadd_ps(_mm256_mul_ps(kd, _mm256_set1_ps(st[i].dq[b])),
                                     _mm256_cvtepi32_ps(sum[i]), acc[i]);
        }
    }
    VD_UNROLL
    for (int i = 0; i < n; i++)
        _mm256_storeu_ps(st[i].s + p0, score_of8(acc[i], score));
}

/* Of all rows of the tile, also those that do not meet the chunk: theirs are not used. */
static void scores(struct row_state *st, size_t n, const struct vd_wide_kv *c, size_t hd,
                   struct vd_kern_score score)
{
    for (size_t p = 0; p < VD_KERN_CHUNK; p += 8) {
        if (n == 4)
            score8(4, st, c, hd, p, score);
        if (n == 3)
            score8(3, st, c, hd, p, score);
        if (n == 2)
            score8(2, st, c, hd, p, score);
        if (n == 1)
            score8(1, st, c, hd, p, score);
    }
}

/* p[j] = exp(s[j] - m). */
static void chunk_exp(const float *s, float m, float *p)
{
    const __m256 mv = _mm256_set1_ps(m);
    for (size_t j = 0; j < VD_KERN_CHUNK; j += 8)
        _mm256_storeu_ps(p + j, exp8(_mm256_sub_ps(_mm256_loadu_ps(s + j), mv)));
}

/* Lanes j and j + 32, then the tree. */
static float chunk_sum(const float *p)
{
    __m256 v[4];
    for (size_t k = 0; k < 4; k++)
        v[k] = _mm256_add_ps(_mm256_loadu_ps(p + 8 * k), _mm256_loadu_ps(p + 8 * k + 32));
    return tree8(_mm256_add_ps(_mm256_add_ps(v[0], v[2]), _mm256_add_ps(v[1], v[3])));
}

/* t[j] = p[j] * vd[j] on the valid lanes, else 0; returns the largest magnitude's bits. */
static uint32_t chunk_products(const float *p, const float *vd, size_t first, size_t end, float *t)
{
    __m256i max = _mm256_setzero_si256();
    for (size_t j = 0; j < VD_KERN_CHUNK; j += 8)
        _mm256_storeu_ps(t + j, _mm256_mul_ps(_mm256_loadu_ps(p + j), _mm256_loadu_ps(vd + j)));
    memset(t, 0, first * sizeof(float));
    memset(t + end, 0, (VD_KERN_CHUNK - end) * sizeof(float));
    for (size_t j = 0; j < VD_KERN_CHUNK; j += 8)
        max = _mm256_max_epu32(max, abs_bits(_mm256_loadu_ps(t + j)));
    return max8_epu32(max);
}

/* w = rint(s * inv); NaN (inv is 0 then) converts to INT_MIN, which packs to 0. */
static void chunk_codes(struct row_state *st, float inv)
{
    const __m256 iv = _mm256_set1_ps(inv);
    for (size_t j = 0; j < VD_KERN_CHUNK; j += 16) {
        __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(st->s + j), iv));
        __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(st->s + j + 8), iv));
        __m256i u = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xD8);
        _mm256_storeu_si256((__m256i *)(st->w + j), u);
    }
}

/* Four values of 4 positions each times the weights of those positions, in pairs. */
VD_INLINE __m256i pair_sums(__m256i acc, const int8_t *v, __m256i w)
{
    return _mm256_add_epi32(acc,
                            _mm256_madd_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)v)), w));
}

VD_INLINE void store_sums(int32_t *sum, __m256i a, __m256i b)
{
    _mm256_storeu_si256((__m256i *)sum, _mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xD8));
}

/* Integer sums of elements e .. e + 15 for n rows with weights w[row], into sum[row][0..16). */
VD_INLINE void value_panel(int n, const int16_t *const *w, const int8_t *v, size_t quad_bytes,
                           int32_t (*sum)[PANEL])
{
    __m256i acc0[PANEL_ROWS], acc1[PANEL_ROWS], acc2[PANEL_ROWS], acc3[PANEL_ROWS];
    VD_UNROLL
    for (int r = 0; r < n; r++)
        acc0[r] = acc1[r] = acc2[r] = acc3[r] = _mm256_setzero_si256();
    for (size_t quad = 0; quad < VD_KERN_CHUNK / 4; quad++, v += quad_bytes) {
        VD_UNROLL
        for (int r = 0; r < n; r++) {
            int64_t four;
            memcpy(&four, w[r] + quad * 4, 8);
            const __m256i wv = _mm256_set1_epi64x(four);
            acc0[r] = pair_sums(acc0[r], v, wv);
            acc1[r] = pair_sums(acc1[r], v + 16, wv);
            acc2[r] = pair_sums(acc2[r], v + 32, wv);
            acc3[r] = pair_sums(acc3[r], v + 48, wv);
        }
    }
    VD_UNROLL
    for (int r = 0; r < n; r++) {
        store_sums(sum[r], acc0[r], acc1[r]);
        store_sums(sum[r] + 8, acc2[r], acc3[r]);
    }
}

/* o of a panel from the integer sums: copied, or merged with what the row has. */
static void value_out(const struct row_state *st, const int32_t *sum, float *o)
{
    const __m256 d = _mm256_set1_ps(st->d), a = _mm256_set1_ps(st->a), b = _mm256_set1_ps(st->b);
    for (size_t k = 0; k < PANEL; k += 8) {
        __m256 oc = _mm256_mul_ps(_mm256_cvtepi32_ps(load256(sum + k)), d);
        if (st->merge)
            oc = _mm256_fmadd_ps(_mm256_loadu_ps(o + k), a, _mm256_mul_ps(oc, b));
        _mm256_storeu_ps(o + k, oc);
    }
}

static void values(struct row_state *const *st, size_t n, const struct vd_wide_kv *c, size_t hd)
{
    for (size_t i = 0; i < n; i += PANEL_ROWS)
        for (size_t e = 0; e < hd; e += PANEL) {
            int32_t sum[PANEL_ROWS][PANEL];
            if (n - i == 1) {
                const int16_t *w[1] = {st[i]->w};
                value_panel(1, w, c->v + e * 4, hd * 4, sum);
                value_out(st[i], sum[0], st[i]->dst + e);
                continue;
            }
            const int16_t *w[PANEL_ROWS] = {st[i]->w, st[i + 1]->w};
            value_panel(2, w, c->v + e * 4, hd * 4, sum);
            value_out(st[i], sum[0], st[i]->dst + e);
            value_out(st[i + 1], sum[1], st[i + 1]->dst + e);
        }
}

/* The two factors of a merge. */
static void merge_factors(float m, float mc, float max, float *a, float *b)
{
    float e[8];
    _mm256_storeu_ps(e, exp8(_mm256_setr_ps(m - max, mc - max, 0, 0, 0, 0, 0, 0)));
    *a = e[0];
    *b = e[1];
}

static void finish_row(const float *o, float l, size_t hd, float *y)
{
    for (size_t e = 0; e < hd; e += 8)
        _mm256_storeu_ps(y + e, _mm256_div_ps(_mm256_loadu_ps(o + e), _mm256_set1_ps(l)));
}

/* o = fma(o, a, oc * b) */
static void merge_o(float *o, float a, const float *oc, float b, size_t hd)
{
    for (size_t e = 0; e < hd; e += 8) {
        __m256 right = _mm256_mul_ps(_mm256_loadu_ps(oc + e), _mm256_set1_ps(b));
        _mm256_storeu_ps(o + e, _mm256_fmadd_ps(_mm256_loadu_ps(o + e), _mm256_set1_ps(a), right));
    }
}

#define ATTN(name) vd_avx2_##name
enum { FETCHES = true };
#include "vd_kern_attn_rows.inc"
