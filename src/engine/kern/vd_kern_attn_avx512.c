/* Attention with AVX-512 VNNI: a tile of up to 16 query rows goes over the chunks of one kv head.
 *
 * A chunk's work is three kinds: scores (byte products), softmax (chains of reductions, divisions and exp,
 * each waiting for the one before) and values (byte products). So that the chains are waited for by nobody, a
 * step takes the parts of neighbouring chunks in turn, which do not depend on one another:
 *
 *     largest score of chunk c | values of c - 1 | weights of c | scores of c + 1 | codes of c
 *
 * Reading the cache is what decoding costs. The byte products fetch what comes next, a few lines at a time
 * all along and nearly in the order of addresses: scores of a chunk fetch the keys of the next, values those
 * of the chunk after the next. Farther ahead was slower where memory is fast, and so were larger bursts,
 * since a burst of fetches waits for memory as the reads themselves would (README.md has the numbers).
 *
 * Scores are the Q8_0 product with 16 positions in place of 16 rows: a load of K serves up to four queries,
 * and four bytes of a query up to 64 positions. Scalars of rows (largest score, sum, quantiser) are kept by
 * quads: a vector has four rows, each in four lanes, which is how the reductions of four vectors leave them.
 *
 * The sum over positions needs 15-bit weights times 8-bit values. The weight is split, q = 256 * hi + lo, so
 * both halves are unsigned byte dot products at full rate, and V is used as it lies in memory. Packing q to
 * bytes leaves the groups of four positions in another order (quad_of); V is simply read in that order, since
 * the sum is one of integers.
 *
 * Positions outside a row's range take part in the arithmetic with weight 0; what lies in the cache there,
 * even NaN scales, is masked before it can matter. */
#include "vd_attn.h"
#include "vd_kern_avx512.h"

enum {
    TILE = 16,
    QUADS = TILE / 4,
    SCORES = 12, /* accumulators of scores */
    PANEL = 32,  /* elements of a value row handled at once: with 6 queries, 24 accumulators */
    PANEL_ROWS = 6
};

/* A chunk under way. Scalars of row r are at [4r]. */
struct stage {
    struct vd_wide_kv chunk;
    unsigned active, fresh; /* rows that meet the chunk; those of them whose o is only copied */
    bool full;              /* all rows meet all of it */
    uint64_t lanes[TILE];   /* valid positions */
    float *dst[TILE];       /* where o goes: the tile's, or a chunk record */
    _Alignas(64) float s[TILE][VD_KERN_CHUNK]; /* scores, then weights times value scales */
    uint8_t lo[TILE][VD_KERN_CHUNK], hi[TILE][VD_KERN_CHUNK];
    float m[4 * TILE], d[4 * TILE], inv[4 * TILE];
    float merge[4 * TILE]; /* factors of o: of what is there, and at [4r + 2] of what comes */
};

/* One tile's memory. Rows of q and o are hd elements. */
struct state {
    const struct vd_kern_kv *kv;
    const struct vd_kern_query *rows;
    size_t n, c1; /* rows; the end of the chunks */
    struct vd_kern_score score;
    float *rec; /* chunk records, or NULL: o is merged */
    size_t ld_rec;
    unsigned started; /* rows that have met a chunk */
    int8_t *q;        /* [n][hd] */
    float *o;         /* [n][hd] */
    float dq[TILE][VD_KERN_HEAD_MAX / 32];
    int32_t offset[TILE][VD_KERN_HEAD_MAX / 32]; /* what ^ 0x80 in K adds, negated */
    _Alignas(64) float m[4 * TILE], l[4 * TILE]; /* running */
    struct stage stage[2];
};

static size_t state_bytes(size_t hd)
{
    return vd_kern_round_up(sizeof(struct state), VD_KERN_ALIGN) + TILE * hd * (1 + sizeof(float));
}

size_t vd_avx512_scratch_bytes(size_t max_cols, size_t max_hd)
{
    size_t attn = vd_kern_round_up(state_bytes(max_hd), VD_KERN_ALIGN),
           bounds = vd_wide_bounds_scratch(max_cols);
    return attn > bounds ? attn : bounds;
}

/* All at once: a query alone has too few blocks for the quantiser. They lie in o meanwhile. */
static void quant_queries(struct state *st)
{
    size_t hd = st->kv->hd, n_blocks = hd / VD_KERN_BLOCK;
    float d[TILE * VD_KERN_HEAD_MAX / VD_KERN_BLOCK];
    int32_t asum[TILE * VD_KERN_HEAD_MAX / VD_KERN_BLOCK];
    for (size_t i = 0; i < st->n; i++)
        vd_avx512_spread(st->rows[i].q, hd, st->o + i * hd);
    vd_avx512_quant8_blocks(st->o, st->n * hd, st->q, d, asum);
    for (size_t i = 0; i < st->n; i++)
        for (size_t b = 0; b < n_blocks; b++) {
            st->dq[i][b] = d[i * n_blocks + b];
            st->offset[i][b] = -128 * asum[i * n_blocks + b];
        }
}

static struct state *begin_tile(void *scratch, const struct vd_kern_kv *kv, struct vd_kern_score score,
                                const struct vd_kern_query *rows, size_t n)
{
    struct state *st = scratch;
    size_t hd = kv->hd;
    assert(n <= TILE && hd % VD_KERN_BLOCK == 0 && hd <= VD_KERN_HEAD_MAX);
    st->kv = kv;
    st->rows = rows;
    st->n = n;
    st->score = score;
    st->rec = NULL;
    st->started = 0;
    st->o = (float *)((char *)scratch + vd_kern_round_up(sizeof(*st), VD_KERN_ALIGN));
    st->q = (int8_t *)(st->o + TILE * hd);
    quant_queries(st);
    return st;
}

/* ---- fetching ---- */

VD_INLINE void fetch_lines(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        _mm_prefetch(p + 64 * i, _MM_HINT_T0);
}

/* Chunk c, of which something is to be fetched; behind the end one that is near anyway. */
static struct vd_wide_kv ahead(const struct state *st, size_t c)
{
    return vd_wide_kv(vd_kern_chunk_at(st->kv, c < st->c1 ? c : st->c1 - 1), st->kv->hd);
}

static void fetch_scales(struct vd_wide_kv w, size_t hd)
{
    fetch_lines((const char *)w.kd, hd / 8 + 4);
}

/* ---- scores ---- */

/* Which rows meet chunk c. */
static void meet_chunk(const struct state *st, struct stage *s, size_t c)
{
    const size_t lo = c * VD_KERN_CHUNK;
    uint64_t all = ~UINT64_C(0);
    s->chunk = vd_wide_kv(vd_kern_chunk_at(st->kv, c), st->kv->hd);
    s->active = 0;
    for (size_t i = 0; i < st->n; i++) {
        const struct vd_kern_query *row = &st->rows[i];
        size_t first, end;
        s->lanes[i] = 0;
        s->dst[i] = st->o + i * st->kv->hd;
        if (row->begin < lo + VD_KERN_CHUNK && row->end > lo) {
            vd_kern_lanes(row, c, &first, &end);
            s->lanes[i] = (~UINT64_C(0) >> (64 - (end - first))) << first;
            s->active |= 1u << i;
        }
        if (st->rec != NULL && s->lanes[i] != 0)
            s->dst[i] =
                st->rec + i * st->ld_rec + (c - row->begin / VD_KERN_CHUNK) * vd_kern_rec_floats(st->kv->hd);
        all &= s->lanes[i];
    }
    s->full = all == ~UINT64_C(0);
    s->fresh = st->rec != NULL ? s->active : s->active & ~st->started;
}

static void cap_scores(struct state *st, struct stage *s)
{
    for (size_t i = 0; i < st->n; i++)
        for (size_t j = 0; j < VD_KERN_CHUNK; j += 16)
            _mm512_storeu_ps(s->s[i] + j, cap16(_mm512_loadu_ps(s->s[i] + j), st->score.cap));
}

/* Rows i .. i + n - 1 with positions 16g .. 16(g + m) - 1. With each four columns, m / 2 lines at `next` are
 * fetched. */
VD_INLINE void score_tile(const struct state *st, struct stage *s, int n, size_t i, int m, size_t g,
                          const char *next)
{
    const size_t hd = st->kv->hd, stride = hd * 16;
    const uint8_t *kp = s->chunk.k + g * stride;
    const float *kd = s->chunk.kd + g * 16;
    const int8_t *q = st->q + i * hd;
    const __m512 scale = _mm512_set1_ps(st->score.scale * VD_ATTN_SPREAD_SCALE);
    __m512 acc[SCORES];
    VD_UNROLL
    for (int j = 0; j < n * m; j++)
        acc[j] = _mm512_setzero_ps();
    for (size_t b = 0; b < hd / 32; b++, kp += 512, kd += VD_KERN_CHUNK, q += 32) {
        __m512i sum[SCORES], x[4];
        VD_UNROLL
        for (int j = 0; j < n * m; j++)
            sum[j] = _mm512_set1_epi32(st->offset[i + (size_t)(j / m)][b]);
        VD_UNROLL
        for (int d = 0; d < 8; d++) {
            VD_UNROLL
            for (int j = 0; j < m; j++) {
                x[j] = _mm512_loadu_si512(kp + (size_t)j * stride + 64 * d);
                if (j % 2 != 0)
                    _mm_prefetch(next + 32 * (j - 1), _MM_HINT_T0);
            }
            next += 32 * m;
            VD_UNROLL
            for (int r = 0; r < n; r++) {
                int32_t q4;
                memcpy(&q4, q + (size_t)r * hd + 4 * d, 4);
                const __m512i qv = _mm512_set1_epi32(q4);
                VD_UNROLL
                for (int j = 0; j < m; j++)
                    sum[r * m + j] = dot4(sum[r * m + j], x[j], qv);
            }
        }
        VD_UNROLL
        for (int j = 0; j < n * m; j++)
            acc[j] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_loadu_ps(kd + 16 * (j % m)),
                                                   _mm512_set1_ps(st->dq[i + (size_t)(j / m)][b])),
                                     _mm512_cvtepi32_ps(sum[j]), acc[j]);
    }
    VD_UNROLL
    for (int j = 0; j < n * m; j++)
        _mm512_storeu_ps(&s->s[i + (size_t)(j / m)][(g + (size_t)(j % m)) * 16],
                         _mm512_mul_ps(acc[j], scale));
}

typedef void score_fn(const struct state *st, struct stage *s, size_t i, const char *next);

#define SCORE_FN(n, m)                                                                                       \
    static void score_##n(const struct state *st, struct stage *s, size_t i, const char *next)               \
    {                                                                                                        \
        for (size_t g = 0; g < 4; g += m)                                                                    \
            score_tile(st, s, n, i, m, g, next + g * st->kv->hd * 8);                                        \
    }
SCORE_FN(1, 4)
SCORE_FN(2, 4)
SCORE_FN(3, 4)
SCORE_FN(4, 2)
static score_fn *const score_fns[4] = {score_1, score_2, score_3, score_4};

/* Of chunk c. */
static void scores(struct state *st, struct stage *s, size_t c)
{
    const char *next = (const char *)ahead(st, c + 1).k + st->kv->hd * 32;
    meet_chunk(st, s, c);
    for (size_t i = 0, n; i < st->n; i += n) {
        n = st->n - i;
        n = n == 5 || n == 6 ? 3 : n < 4 ? n : 4;
        score_fns[n - 1](st, s, i, next);
        next = (const char *)s->chunk.k;
    }
    if (st->score.cap != 0.0f)
        cap_scores(st, s);
}

/* ---- softmax ---- */

VD_INLINE __m512 nan16(void)
{
    return _mm512_castsi512_ps(_mm512_set1_epi32((int)VD_NAN_BITS));
}

/* Rows 4k to 4k + 3 of a set of rows, four lanes each. */
VD_INLINE __mmask16 quad_mask(unsigned rows, size_t k)
{
    unsigned x = rows >> 4 * k & 15;
    x = (x | x << 6) & 0x303;
    return (__mmask16)(((x | x << 3) & 0x1111) * 15);
}

/* Of the running m of a quad of rows, and the factors. */
static void merge_max(struct state *st, struct stage *s, size_t k, __m512 mc)
{
    const __mmask16 fresh = quad_mask(s->fresh, k);
    const __m512 m = _mm512_loadu_ps(st->m + 16 * k);
    __m512 max = _mm512_add_ps(_mm512_max_ps(m, mc), _mm512_setzero_ps());
    max = _mm512_mask_mov_ps(max, _mm512_cmp_ps_mask(m, mc, _CMP_UNORD_Q), nan16());
    max = _mm512_mask_mov_ps(max, fresh, mc);
    _mm512_storeu_ps(s->merge + 16 * k, exp16(_mm512_sub_ps(_mm512_mask_mov_ps(m, 0xCCCC, mc), max)));
    _mm512_storeu_ps(st->m + 16 * k, _mm512_mask_mov_ps(m, quad_mask(s->active, k), max));
}

/* m: the largest valid score of each row, or NaN. */
static void chunk_max(struct state *st, struct stage *s)
{
    const __m512 least = _mm512_set1_ps(-INFINITY);
    __m512 v[TILE];
    unsigned nan = 0;
    for (size_t i = 0; i < st->n; i++) {
        __m512 x[4];
        VD_UNROLL
        for (int k = 0; k < 4; k++)
            x[k] = s->full
                       ? _mm512_loadu_ps(&s->s[i][16 * k])
                       : _mm512_mask_loadu_ps(least, (__mmask16)(s->lanes[i] >> 16 * k), &s->s[i][16 * k]);
        __mmask16 u =
            _mm512_cmp_ps_mask(x[0], x[1], _CMP_UNORD_Q) | _mm512_cmp_ps_mask(x[2], x[3], _CMP_UNORD_Q);
        v[i] = _mm512_max_ps(_mm512_max_ps(x[0], x[1]), _mm512_max_ps(x[2], x[3]));
        nan |= (unsigned)(u != 0) << i;
    }
    for (size_t i = st->n; i % 4 != 0; i++)
        v[i] = least;
    for (size_t k = 0; 4 * k < st->n; k++) {
        __m512 m = _mm512_add_ps(reduce4_max_ps(v + 4 * k), _mm512_setzero_ps());
        m = _mm512_mask_mov_ps(m, quad_mask(nan, k), nan16());
        _mm512_storeu_ps(s->m + 16 * k, m);
        if (st->rec == NULL)
            merge_max(st, s, k, m);
    }
    st->started |= s->active;
}

/* d, inv and the running l of a quad of rows, whose weights have these sums and largest products. */
static void chunk_scales(struct state *st, struct stage *s, size_t k, __m512 l, __m512i tmax)
{
    const __mmask16 bad = _mm512_cmp_epu32_mask(tmax, _mm512_set1_epi32(0x7F800000), _MM_CMPINT_NLT);
    __m512 d = _mm512_div_ps(_mm512_castsi512_ps(tmax), _mm512_set1_ps(32767.0f));
    const __mmask16 used = _mm512_cmp_ps_mask(d, _mm512_set1_ps(0x1p-100f), _CMP_GE_OQ) & (__mmask16)~bad;
    d = _mm512_maskz_mov_ps(used, d);
    _mm512_storeu_ps(s->inv + 16 * k, _mm512_maskz_div_ps(used, _mm512_set1_ps(1.0f), d));
    _mm512_storeu_ps(s->d + 16 * k, _mm512_mask_mov_ps(d, bad, nan16()));
    l = _mm512_mask_mov_ps(l, _mm512_cmp_ps_mask(l, l, _CMP_UNORD_Q), nan16());
    const __m512 before = _mm512_loadu_ps(st->l + 16 * k), f = _mm512_loadu_ps(s->merge + 16 * k);
    __m512 sum =
        _mm512_fmadd_ps(before, _mm512_permute_ps(f, 0x00), _mm512_mul_ps(l, _mm512_permute_ps(f, 0xAA)));
    sum = _mm512_mask_mov_ps(sum, quad_mask(s->fresh, k), l);
    _mm512_storeu_ps(st->l + 16 * k, _mm512_mask_mov_ps(before, quad_mask(s->active, k), sum));
}

/* s becomes the weights times the value scales. With each 16 positions of a row, n_next lines at `next` are
 * fetched. */
VD_INLINE void chunk_weights(struct state *st, struct stage *s, bool full, const char *next, size_t n_next)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    __m512 sum[TILE];
    __m512i max[TILE];
    for (size_t i = st->n; i % 4 != 0; i++) {
        sum[i] = _mm512_setzero_ps();
        max[i] = _mm512_setzero_si512();
    }
    for (size_t i = 0; i < st->n; i++) {
        const __m512 m = _mm512_set1_ps(s->m[4 * i]);
        __m512 p[4];
        __m512i most = _mm512_setzero_si512();
        VD_UNROLL
        for (int k = 0; k < 4; k++, next += 64 * n_next) {
            fetch_lines(next, n_next);
            const __mmask16 in = full ? 0xFFFF : (__mmask16)(s->lanes[i] >> 16 * k);
            p[k] = exp16(_mm512_sub_ps(_mm512_loadu_ps(&s->s[i][16 * k]), m));
            __m512 t = _mm512_mul_ps(p[k], _mm512_loadu_ps(s->chunk.vd + 16 * k));
            if (!full) {
                p[k] = _mm512_maskz_mov_ps(in, p[k]);
                t = _mm512_maskz_mov_ps(in, t);
            }
            _mm512_storeu_ps(&s->s[i][16 * k], t);
            most = _mm512_max_epu32(most, _mm512_and_si512(_mm512_castps_si512(t), magnitude));
        }
        max[i] = most;
        sum[i] = _mm512_add_ps(_mm512_add_ps(p[0], p[2]), _mm512_add_ps(p[1], p[3]));
    }
    for (size_t k = 0; 4 * k < st->n; k++)
        chunk_scales(st, s, k, reduce4_add_ps(sum + 4 * k), reduce4_max_epu32(max + 4 * k));
}

/* m and l of the records. */
static void keep_scalars(const struct state *st, struct stage *s)
{
    const size_t hd = st->kv->hd;
    for (size_t i = 0; i < st->n; i++)
        if (s->active >> i & 1) {
            s->dst[i][hd] = s->m[4 * i];
            s->dst[i][hd + 1] = st->l[4 * i];
        }
}

/* Of chunk c. */
static void weights(struct state *st, struct stage *s, size_t c)
{
    const char *next = (const char *)ahead(st, c + 2).k;
    const size_t n_next = (st->kv->hd / 2 + 4 * st->n - 1) / (4 * st->n);
    if (s->full)
        chunk_weights(st, s, true, next, n_next);
    else
        chunk_weights(st, s, false, next, n_next);
    if (st->rec != NULL)
        keep_scalars(st, s);
}

/* lo and hi of chunk c; group D of four bytes holds the positions of quad_of(D). */
static void codes(const struct state *st, struct stage *s, size_t c)
{
    const __m512i low = _mm512_set1_epi16(255);
    fetch_scales(ahead(st, c + 2), st->kv->hd);
    for (size_t i = 0; i < st->n; i++) {
        const __m512 inv = _mm512_set1_ps(s->inv[4 * i]);
        __m512i q[4];
        VD_UNROLL
        for (int k = 0; k < 4; k++)
            q[k] = _mm512_cvtps_epi32(
                _mm512_mul_ps(_mm512_loadu_ps(&s->s[i][16 * k]), inv)); /* NaN: packs to 0 */
        __m512i a = _mm512_packus_epi32(q[0], q[1]), b = _mm512_packus_epi32(q[2], q[3]);
        _mm512_storeu_si512(s->lo[i],
                            _mm512_packus_epi16(_mm512_and_si512(a, low), _mm512_and_si512(b, low)));
        _mm512_storeu_si512(s->hi[i], _mm512_packus_epi16(_mm512_srli_epi16(a, 8), _mm512_srli_epi16(b, 8)));
    }
}

/* ---- values ---- */

VD_INLINE size_t quad_of(size_t d)
{
    return d % 4 * 4 + d / 4;
}

/* Integer sums of rows i .. i + n - 1, elements e .. e + 31, into sum[row][0..32), with two lines at `next`
 * fetched for each four positions. (Arrays of one dimension, and nothing but stores behind the loop:
 * otherwise GCC 12 does not keep the accumulators in registers.) */
VD_INLINE void value_panel(const struct stage *s, size_t hd, int n, size_t i, size_t e, const char *next,
                           int32_t (*sum)[PANEL])
{
    const int8_t *v = s->chunk.v + e * 4;
    const uint8_t *lo = s->lo[i], *hi = s->hi[i];
    __m512i lo0[PANEL_ROWS], lo1[PANEL_ROWS], hi0[PANEL_ROWS], hi1[PANEL_ROWS];
    VD_UNROLL
    for (int r = 0; r < n; r++)
        lo0[r] = lo1[r] = hi0[r] = hi1[r] = _mm512_setzero_si512();
    for (size_t d = 0; d < VD_KERN_CHUNK / 4; d++, lo += 4, hi += 4, next += 128) {
        __m512i v0 = _mm512_loadu_si512(v + quad_of(d) * hd * 4);
        __m512i v1 = _mm512_loadu_si512(v + quad_of(d) * hd * 4 + 64);
        _mm_prefetch(next, _MM_HINT_T0);
        _mm_prefetch(next + 64, _MM_HINT_T0);
        VD_UNROLL
        for (int r = 0; r < n; r++) {
            int32_t l4, h4;
            memcpy(&l4, lo + VD_KERN_CHUNK * r, 4);
            memcpy(&h4, hi + VD_KERN_CHUNK * r, 4);
            __m512i l = _mm512_set1_epi32(l4), h = _mm512_set1_epi32(h4);
            lo0[r] = dot4(lo0[r], l, v0);
            lo1[r] = dot4(lo1[r], l, v1);
            hi0[r] = dot4(hi0[r], h, v0);
            hi1[r] = dot4(hi1[r], h, v1);
        }
    }
    VD_UNROLL
    for (int r = 0; r < n; r++) {
        _mm512_storeu_si512(sum[r], _mm512_add_epi32(_mm512_slli_epi32(hi0[r], 8), lo0[r]));
        _mm512_storeu_si512(sum[r] + 16, _mm512_add_epi32(_mm512_slli_epi32(hi1[r], 8), lo1[r]));
    }
}

/* o of a panel from the integer sums: copied, or merged with what is there. */
static void value_out(const struct stage *s, size_t i, const int32_t *sum, size_t e)
{
    const __m512 d = _mm512_set1_ps(s->d[4 * i]), a = _mm512_set1_ps(s->merge[4 * i]),
                 b = _mm512_set1_ps(s->merge[4 * i + 2]);
    float *o = s->dst[i] + e;
    for (size_t k = 0; k < PANEL; k += 16) {
        __m512 oc = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_loadu_si512(sum + k)), d);
        if ((s->fresh >> i & 1) == 0)
            oc = _mm512_fmadd_ps(_mm512_loadu_ps(o + k), a, _mm512_mul_ps(oc, b));
        _mm512_storeu_ps(o + k, oc);
    }
}

typedef void panel_fn(const struct stage *s, size_t hd, size_t i, size_t e, const char *next,
                      int32_t (*sum)[PANEL]);

#define PANEL_FN(n)                                                                                          \
    static void value_panel_##n(const struct stage *s, size_t hd, size_t i, size_t e, const char *next,      \
                                int32_t(*sum)[PANEL])                                                        \
    {                                                                                                        \
        value_panel(s, hd, n, i, e, next, sum);                                                              \
    }
PANEL_FN(1)
PANEL_FN(2)
PANEL_FN(3)
PANEL_FN(4)
PANEL_FN(5)
PANEL_FN(6)
static panel_fn *const panel_fns[PANEL_ROWS] = {value_panel_1, value_panel_2, value_panel_3,
                                                value_panel_4, value_panel_5, value_panel_6};

/* Of chunk c: runs of rows that meet it; one between them keeps its o. */
static void values(const struct state *st, const struct stage *s, size_t c)
{
    const size_t hd = st->kv->hd;
    const char *next = (const char *)ahead(st, c + 2).v;
    for (size_t i = 0, n; i < st->n; i += n) {
        n = (size_t)__builtin_ctz(~(s->active >> i)); /* active rows from i on */
        if (n == 0) {
            n = 1;
            continue;
        }
        n = n < PANEL_ROWS ? n : PANEL_ROWS;
        for (size_t e = 0; e < hd; e += PANEL) {
            _Alignas(64) int32_t sum[PANEL_ROWS][PANEL];
            panel_fns[n - 1](s, hd, i, e, next + e * 64, sum);
            for (size_t r = 0; r < n; r++)
                value_out(s, i + r, sum[r], e);
        }
        next = (const char *)s->chunk.v;
    }
}

/* ---- tiles ---- */

static void finish_row(const float *o, float l, size_t hd, float *y)
{
    for (size_t e = 0; e < hd; e += 16)
        _mm512_storeu_ps(y + e, _mm512_div_ps(_mm512_loadu_ps(o + e), _mm512_set1_ps(l)));
}

/* The chunks that a tile's rows meet lie in [*c0, *c1). */
static void tile_chunks(const struct vd_kern_query *rows, size_t n, size_t *c0, size_t *c1)
{
    vd_kern_chunks(&rows[0], c0, c1);
    for (size_t i = 1; i < n; i++) {
        size_t a, b;
        vd_kern_chunks(&rows[i], &a, &b);
        *c0 = a < *c0 ? a : *c0;
        *c1 = b > *c1 ? b : *c1;
    }
}

/* Chunks [c, c1), in the order that the top of this file explains. */
static void run_chunks(struct state *st, size_t c, size_t c1)
{
    const size_t hd = st->kv->hd;
    st->c1 = c1;
    if (c >= c1)
        return;
    fetch_lines(vd_kern_chunk_at(st->kv, c), vd_wide_kv_bytes(hd) / 64);
    scores(st, &st->stage[c % 2], c);
    fetch_lines((const char *)ahead(st, c + 1).v, hd);
    fetch_scales(ahead(st, c + 1), hd);
    for (size_t first = c; c < c1; c++) {
        struct stage *s = &st->stage[c % 2], *other = &st->stage[(c + 1) % 2];
        chunk_max(st, s);
        if (c > first)
            values(st, other, c - 1);
        weights(st, s, c);
        if (c + 1 < c1)
            scores(st, other, c + 1);
        codes(st, s, c);
    }
    values(st, &st->stage[(c1 - 1) % 2], c1 - 1);
}

static void attn_tile(const struct vd_kern_kv *kv, struct vd_kern_score score,
                      const struct vd_kern_query *rows, size_t n, void *scratch)
{
    struct state *st = begin_tile(scratch, kv, score, rows, n);
    size_t c0, c1;
    tile_chunks(rows, n, &c0, &c1);
    run_chunks(st, c0, c1);
    for (size_t i = 0; i < n; i++)
        finish_row(st->o + i * kv->hd, st->l[4 * i], kv->hd, rows[i].y);
}

void vd_avx512_attn(const struct vd_kern_kv *kv, struct vd_kern_score score, const struct vd_kern_query *rows,
                    size_t n, void *scratch)
{
    for (size_t i = 0; i < n; i += TILE)
        attn_tile(kv, score, rows + i, n - i < TILE ? n - i : TILE, scratch);
}

static void part_tile(const struct vd_kern_kv *kv, struct vd_kern_score score,
                      const struct vd_kern_query *rows, size_t n, size_t c0, size_t c1, float *rec,
                      size_t ld_rec, void *scratch)
{
    struct state *st = begin_tile(scratch, kv, score, rows, n);
    size_t first, end;
    st->rec = rec;
    st->ld_rec = ld_rec;
    tile_chunks(rows, n, &first, &end);
    run_chunks(st, c0 > first ? c0 : first, c1 < end ? c1 : end);
}

void vd_avx512_attn_part(const struct vd_kern_kv *kv, struct vd_kern_score score,
                         const struct vd_kern_query *rows, size_t n, size_t c0, size_t c1, float *rec,
                         size_t ld_rec, void *scratch)
{
    for (size_t i = 0; i < n; i += TILE)
        part_tile(kv, score, rows + i, n - i < TILE ? n - i : TILE, c0, c1, rec + i * ld_rec, ld_rec,
                  scratch);
}

/* The factors of up to 16 merges in a row, of records `ld` floats apart from rec on (m at rec[0], l behind
 * it). m and l are the running ones. */
static void merge_factors(const float *rec, size_t n, size_t ld, float *m, float *l, float a[16], float b[16])
{
    float before[16] = {0}, after[16] = {0}, mc[16] = {0};
    for (size_t c = 0; c < n; c++) {
        before[c] = *m;
        mc[c] = rec[c * ld];
        *m = *m != *m || mc[c] != mc[c] ? vd_f32_from_bits(VD_NAN_BITS) : (*m > mc[c] ? *m : mc[c]) + 0.0f;
        after[c] = *m;
    }
    const __m512 to = _mm512_loadu_ps(after);
    _mm512_storeu_ps(a, exp16(_mm512_sub_ps(_mm512_loadu_ps(before), to)));
    _mm512_storeu_ps(b, exp16(_mm512_sub_ps(_mm512_loadu_ps(mc), to)));
    for (size_t c = 0; c < n; c++)
        *l = __builtin_fmaf(*l, a[c], rec[c * ld + 1] * b[c]);
}

/* One row's records, ascending; the next ones are fetched, since other threads' caches have them. */
static void merge_row(size_t hd, size_t n_chunks, const float *rec, float *y)
{
    size_t ld = vd_kern_rec_floats(hd);
    float m = rec[hd], l = rec[hd + 1], o[VD_KERN_HEAD_MAX], a[16], b[16];
    memcpy(o, rec, hd * sizeof(float));
    for (size_t c = 1, n; c < n_chunks; c += n) {
        const float *r = rec + c * ld;
        n = n_chunks - c < 16 ? n_chunks - c : 16;
        fetch_lines((const char *)(r + n * ld), (n_chunks - c - n < 16 ? n_chunks - c - n : 16) * ld / 16);
        merge_factors(r + hd, n, ld, &m, &l, a, b);
        for (size_t e = 0; e < hd; e += 16) {
            __m512 x = _mm512_loadu_ps(o + e);
            for (size_t k = 0; k < n; k++)
                x = _mm512_fmadd_ps(x, _mm512_set1_ps(a[k]),
                                    _mm512_mul_ps(_mm512_loadu_ps(r + k * ld + e), _mm512_set1_ps(b[k])));
            _mm512_storeu_ps(o + e, x);
        }
    }
    finish_row(o, l, hd, y);
}

void vd_avx512_attn_merge(size_t hd, const struct vd_kern_query *rows, size_t n, const float *rec,
                          size_t ld_rec)
{
    for (size_t i = 0; i < n; i++) {
        size_t c0, c1;
        vd_kern_chunks(&rows[i], &c0, &c1);
        merge_row(hd, c1 - c0, rec + i * ld_rec, rows[i].y);
    }
}
