/* Attention with AVX-512 VNNI: a tile of up to 16 query rows goes over the chunks of one kv head.
 *
 * A step has 16 lanes, each a row with a chunk: with more than eight rows they all meet the same chunk, with
 * fewer a step takes several chunks at once (lane k * n + i: row i, chunk k of the step). So decoding one
 * token, where the few heads of a group are all the rows there are, wastes no lanes, and the slow chains of a
 * chunk (largest score, exp, sum, quantiser) are paid once per step. Reading the cache is what decoding
 * costs: while a step is computed, the chunks of the next are fetched, a few lines at a time all along and in
 * the order of their addresses, since a burst of fetches waits for memory as the reads themselves would.
 *
 * Scores are the Q8_0 product with 16 positions in place of 16 rows: a block of K sits in eight registers
 * while the tile's queries pass. The softmax works on one query's 64 positions at a time, but its scalars
 * (largest score, sum, quantiser) are 16 lanes of one vector, so that the slow steps (reductions, divisions,
 * the merge's two exp) are paid once for all.
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
    PANEL = 32, /* elements of a value row handled at once: with 6 queries, 24 accumulators */
    PANEL_ROWS = 6
};

/* One tile's memory. Rows of q and o are hd elements; all else in lanes. */
struct state {
    const struct vd_kern_kv *kv;
    const struct vd_kern_query *rows;
    size_t n, n_chunks; /* rows, and chunks of a step: n * n_chunks <= TILE */
    struct vd_kern_score score;
    bool fetch;                       /* the next step's chunks are worth fetching: so many lines */
    size_t fetch_k, fetch_p, fetch_v; /* with each 16 positions of K, lane of weights, and panel of V */
    __mmask16 started;                /* rows that have met a chunk */
    int8_t *q;                        /* [n][hd] */
    float *o;                         /* [n][hd] */
    float dq[TILE][VD_KERN_HEAD_MAX / 32];
    int32_t offset[TILE][VD_KERN_HEAD_MAX / 32]; /* what ^ 0x80 in K adds, negated */
    float m[TILE], l[TILE];                      /* running, by row */
    /* of the step */
    struct vd_wide_kv chunk[TILE];
    const char *ahead[TILE + 1]; /* the chunks a step on, what is left of the first; NULL behind the last */
    const char **next;           /* the one being fetched, */
    size_t next_lines;           /* and its lines that are left */
    float *dst[TILE];            /* where o goes: into o above, or a chunk record */
    _Alignas(64) float s[TILE][VD_KERN_CHUNK]; /* scores, then weights times value scales */
    uint8_t lo[TILE][VD_KERN_CHUNK], hi[TILE][VD_KERN_CHUNK];
    uint64_t lanes[TILE];             /* valid positions of the chunk */
    float mc[2 * TILE], lc[2 * TILE]; /* doubled: read in vectors from any lane on */
    float d[TILE], inv[TILE];
    float a[2 * TILE], b[2 * TILE];          /* factors of the merge */
    float before[2 * TILE], after[2 * TILE]; /* the running m around it */
};

static size_t state_bytes(size_t hd)
{
    return vd_kern_round_up(sizeof(struct state), VD_KERN_ALIGN) + TILE * hd * (1 + sizeof(float));
}

size_t vd_avx512_scratch_bytes(size_t max_cols, size_t max_hd)
{
    return vd_kern_round_up(state_bytes(max_hd), VD_KERN_ALIGN);
}

/* Three eighths of a step are fetched with the scores of the one before it, two with its weights, the rest
 * with its values. */
static void share_fetch(struct state *st, size_t n_chunks, size_t n_next)
{
    const size_t n_blocks = st->kv->hd / VD_KERN_BLOCK,
                 n_lines = (vd_wide_kv_bytes(st->kv->hd) / 64 * n_next + n_chunks - 1) / n_chunks;
    st->fetch_k = (n_lines * 3 / 8 + 3) / 4;
    st->fetch_p = (n_lines * 2 / 8 + st->n - 1) / st->n;
    st->fetch_v = (n_lines * 3 / 8 + n_blocks - 1) / n_blocks;
}

static struct state *begin_tile(void *scratch, const struct vd_kern_kv *kv, struct vd_kern_score score,
                                const struct vd_kern_query *rows, size_t n, bool fetch)
{
    struct state *st = scratch;
    size_t hd = kv->hd;
    assert(n <= TILE && hd % VD_KERN_BLOCK == 0 && hd <= VD_KERN_HEAD_MAX);
    st->kv = kv;
    st->rows = rows;
    st->n = n;
    st->n_chunks = TILE / n;
    st->fetch = fetch;
    st->score = score;
    st->started = 0;
    st->o = (float *)((char *)scratch + vd_kern_round_up(sizeof(*st), VD_KERN_ALIGN));
    st->q = (int8_t *)(st->o + TILE * hd);
    for (size_t i = 0; i < n; i++) {
        int32_t asum[VD_KERN_HEAD_MAX / 32];
        float spread[VD_KERN_HEAD_MAX];
        vd_avx512_spread(rows[i].q, hd, spread);
        vd_avx512_quant8_blocks(spread, hd, st->q + i * hd, st->dq[i], asum);
        for (size_t b = 0; b < hd / 32; b++)
            st->offset[i][b] = -128 * asum[b];
    }
    return st;
}

VD_INLINE void fetch_bytes(const char *p, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i += 64)
        _mm_prefetch(p + i, _MM_HINT_T0);
}

/* The next n lines of the next step, in the order of their addresses. */
VD_INLINE void fetch_on(struct state *st, size_t n)
{
    const char *p;
    while (n > 0 && (p = *st->next) != NULL) {
        size_t m = n < st->next_lines ? n : st->next_lines;
        for (size_t i = 0; i < m; i++)
            _mm_prefetch(p + 64 * i, _MM_HINT_T0);
        *st->next = p + 64 * m;
        n -= m;
        st->next_lines -= m;
        if (st->next_lines == 0) {
            st->next++;
            st->next_lines = vd_wide_kv_bytes(st->kv->hd) / 64;
        }
    }
}

/* The first step's chunk, of [c, c1): nobody fetched it before. */
static void fetch_first(const struct state *st, size_t c, size_t c1)
{
    if (st->fetch && c < c1)
        fetch_bytes(vd_kern_chunk_at(st->kv, c), vd_wide_kv_bytes(st->kv->hd));
}

/* Which rows meet chunk c, the step's k-th: bits of their lanes. */
static unsigned meet_chunk(struct state *st, size_t c, size_t k)
{
    unsigned active = 0;
    size_t lo = c * VD_KERN_CHUNK;
    for (size_t i = 0; i < st->n; i++) {
        const struct vd_kern_query *row = &st->rows[i];
        size_t lane = k * st->n + i, first, end;
        st->lanes[lane] = 0;
        if (row->begin >= lo + VD_KERN_CHUNK || row->end <= lo)
            continue;
        vd_kern_lanes(row, c, &first, &end);
        st->lanes[lane] = (~UINT64_C(0) >> (64 - (end - first))) << first;
        active |= 1u << lane;
    }
    return active;
}

static void cap_scores(struct state *st, size_t i0, size_t i1)
{
    for (size_t i = i0; i < i1; i++)
        for (size_t j = 0; j < VD_KERN_CHUNK; j += 16)
            _mm512_storeu_ps(st->s[i] + j, cap16(_mm512_loadu_ps(st->s[i] + j), st->score.cap));
}

/* n blocks of K from b on, positions 16g to 16g + 15, for lanes [i0, i1): s grows by what they add. */
VD_INLINE void score_blocks(struct state *st, size_t k, size_t g, size_t b, int n, size_t i0, size_t i1)
{
    const struct vd_wide_kv *c = &st->chunk[k];
    const size_t hd = st->kv->hd, row0 = k * st->n;
    const uint8_t *kp = c->k + (g * hd + b * 32) * 16;
    const __m512 scale = _mm512_set1_ps(st->score.scale * VD_ATTN_SPREAD_SCALE);
    const bool last = (b + (size_t)n) * 32 == hd;
    __m512i x[16];
    __m512 kd[2];
    VD_UNROLL
    for (int j = 0; j < 8 * n; j++)
        x[j] = _mm512_loadu_si512(kp + 64 * j);
    VD_UNROLL
    for (int j = 0; j < n; j++)
        kd[j] = _mm512_loadu_ps(c->kd + (b + (size_t)j) * 64 + g * 16);
    for (size_t i = i0; i < i1; i++) {
        const int8_t *q = st->q + (i - row0) * hd + b * 32;
        const int32_t *offset = st->offset[i - row0] + b;
        const float *dq = st->dq[i - row0] + b;
        __m512 acc = b == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(&st->s[i][g * 16]);
        VD_UNROLL
        for (int j = 0; j < n; j++) {
            __m512i sum = _mm512_set1_epi32(offset[j]);
            VD_UNROLL
            for (int d = 0; d < 8; d++)
                sum = dot4_all(sum, x[8 * j + d], q + 32 * j + 4 * d);
            acc = _mm512_fmadd_ps(_mm512_mul_ps(kd[j], _mm512_set1_ps(dq[j])), _mm512_cvtepi32_ps(sum), acc);
        }
        _mm512_storeu_ps(&st->s[i][g * 16], last ? _mm512_mul_ps(acc, scale) : acc);
    }
}

/* s[lane][0..64) for lanes [i0, i1), all of the step's chunk k. */
static void scores(struct state *st, size_t k, size_t i0, size_t i1)
{
    const size_t n_blocks = st->kv->hd / 32;
    for (size_t g = 0; g < 4; g++) {
        size_t b = 0;
        fetch_on(st, st->fetch_k);
        for (; b + 2 <= n_blocks; b += 2)
            score_blocks(st, k, g, b, 2, i0, i1);
        if (b < n_blocks)
            score_blocks(st, k, g, b, 1, i0, i1);
    }
    if (st->score.cap != 0.0f)
        cap_scores(st, i0, i1);
}

VD_INLINE __m512 nan16(void)
{
    return _mm512_castsi512_ps(_mm512_set1_epi32((int)VD_NAN_BITS));
}

/* mc: the largest valid score of each lane, or NaN. */
static void chunk_max(struct state *st, size_t i0, size_t i1)
{
    const __m512 least = _mm512_set1_ps(-INFINITY);
    __m512 v[TILE];
    unsigned nan = 0;
    for (size_t i = 0; i < TILE; i++)
        if (i < i0 || i >= i1)
            v[i] = least;
    for (size_t i = i0; i < i1; i++) {
        __m512 s[4];
        __mmask16 u = 0;
        VD_UNROLL
        for (int k = 0; k < 4; k++) {
            s[k] = _mm512_mask_loadu_ps(least, (__mmask16)(st->lanes[i] >> 16 * k), &st->s[i][16 * k]);
            u |= _mm512_cmp_ps_mask(s[k], s[k], _CMP_UNORD_Q);
        }
        v[i] = _mm512_max_ps(_mm512_max_ps(s[0], s[1]), _mm512_max_ps(s[2], s[3]));
        nan |= (unsigned)(u != 0) << i;
    }
    __m512 m = _mm512_add_ps(reduce16_max_ps(v), _mm512_setzero_ps());
    _mm512_storeu_ps(st->mc, _mm512_mask_mov_ps(m, (__mmask16)nan, nan16()));
}

/* lc, d, inv; s becomes the weights times the value scales. */
static void chunk_weights(struct state *st, size_t i0, size_t i1)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    __m512 sum[TILE];
    __m512i max[TILE];
    for (size_t i = 0; i < TILE; i++)
        if (i < i0 || i >= i1) {
            sum[i] = _mm512_setzero_ps();
            max[i] = _mm512_setzero_si512();
        }
    for (size_t i = i0, chunk = i0 / st->n, row = i0 % st->n; i < i1; i++, row++) {
        const __m512 m = _mm512_set1_ps(st->mc[i]);
        __m512 p[4];
        __m512i most = _mm512_setzero_si512();
        if (row == st->n)
            row = 0, chunk++;
        const float *vd = st->chunk[chunk].vd;
        fetch_on(st, st->fetch_p);
        VD_UNROLL
        for (int k = 0; k < 4; k++) {
            __mmask16 in = (__mmask16)(st->lanes[i] >> 16 * k);
            p[k] = _mm512_maskz_mov_ps(in, exp16(_mm512_sub_ps(_mm512_loadu_ps(&st->s[i][16 * k]), m)));
            __m512 t = _mm512_maskz_mul_ps(in, p[k], _mm512_loadu_ps(vd + 16 * k));
            _mm512_storeu_ps(&st->s[i][16 * k], t);
            most = _mm512_max_epu32(most, _mm512_and_si512(_mm512_castps_si512(t), magnitude));
        }
        max[i] = most;
        sum[i] = _mm512_add_ps(_mm512_add_ps(p[0], p[2]), _mm512_add_ps(p[1], p[3]));
    }
    __m512 l = reduce16_add_ps(sum);
    l = _mm512_mask_mov_ps(l, _mm512_cmp_ps_mask(l, l, _CMP_UNORD_Q), nan16());
    __m512i tmax = reduce16_max_epu32(max);
    __mmask16 bad = _mm512_cmp_epu32_mask(tmax, _mm512_set1_epi32(0x7F800000), _MM_CMPINT_NLT);
    __m512 d = _mm512_div_ps(_mm512_castsi512_ps(tmax), _mm512_set1_ps(32767.0f));
    __mmask16 used = _mm512_cmp_ps_mask(d, _mm512_set1_ps(0x1p-100f), _CMP_GE_OQ) & (__mmask16)~bad;
    d = _mm512_maskz_mov_ps(used, d);
    _mm512_storeu_ps(st->lc, l);
    _mm512_storeu_ps(st->inv, _mm512_maskz_div_ps(used, _mm512_set1_ps(1.0f), d));
    _mm512_storeu_ps(st->d, _mm512_mask_mov_ps(d, bad, nan16()));
}

/* lo and hi; group D of four bytes holds the positions of quad_of(D). */
static void chunk_codes(struct state *st, size_t i0, size_t i1)
{
    const __m512i low = _mm512_set1_epi16(255);
    for (size_t i = i0; i < i1; i++) {
        const __m512 inv = _mm512_set1_ps(st->inv[i]);
        __m512i q[4];
        VD_UNROLL
        for (int k = 0; k < 4; k++)
            q[k] = _mm512_cvtps_epi32(
                _mm512_mul_ps(_mm512_loadu_ps(&st->s[i][16 * k]), inv)); /* NaN: packs to 0 */
        __m512i a = _mm512_packus_epi32(q[0], q[1]), b = _mm512_packus_epi32(q[2], q[3]);
        _mm512_storeu_si512(st->lo[i],
                            _mm512_packus_epi16(_mm512_and_si512(a, low), _mm512_and_si512(b, low)));
        _mm512_storeu_si512(st->hi[i], _mm512_packus_epi16(_mm512_srli_epi16(a, 8), _mm512_srli_epi16(b, 8)));
    }
}

VD_INLINE size_t quad_of(size_t d)
{
    return d % 4 * 4 + d / 4;
}

/* Integer sums of lanes i .. i + n - 1, elements e .. e + 31, into sum[lane][0..32). (Arrays of one
 * dimension, and nothing but stores behind the loop: otherwise GCC 12 does not keep the accumulators in
 * registers.) */
VD_INLINE void value_panel(const struct state *st, const struct vd_wide_kv *c, int n, size_t i, size_t e,
                           int32_t (*sum)[PANEL])
{
    const int8_t *v = c->v + e * 4;
    const size_t quad_bytes = st->kv->hd * 4;
    const uint8_t *lo = st->lo[i], *hi = st->hi[i];
    __m512i lo0[PANEL_ROWS], lo1[PANEL_ROWS], hi0[PANEL_ROWS], hi1[PANEL_ROWS];
    VD_UNROLL
    for (int r = 0; r < n; r++)
        lo0[r] = lo1[r] = hi0[r] = hi1[r] = _mm512_setzero_si512();
    for (size_t d = 0; d < VD_KERN_CHUNK / 4; d++, lo += 4, hi += 4) {
        __m512i v0 = _mm512_loadu_si512(v + quad_of(d) * quad_bytes);
        __m512i v1 = _mm512_loadu_si512(v + quad_of(d) * quad_bytes + 64);
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
static void value_out(const struct state *st, size_t lane, bool copy, const int32_t *sum, float *o)
{
    const __m512 d = _mm512_set1_ps(st->d[lane]), a = _mm512_set1_ps(st->a[lane]),
                 b = _mm512_set1_ps(st->b[lane]);
    for (size_t k = 0; k < PANEL; k += 16) {
        __m512 oc = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_loadu_si512(sum + k)), d);
        if (!copy)
            oc = _mm512_fmadd_ps(_mm512_loadu_ps(o + k), a, _mm512_mul_ps(oc, b));
        _mm512_storeu_ps(o + k, oc);
    }
}

typedef void panel_fn(const struct state *st, const struct vd_wide_kv *c, size_t i, size_t e,
                      int32_t (*sum)[PANEL]);

#define PANEL_FN(n)                                                                                          \
    static void value_panel_##n(const struct state *st, const struct vd_wide_kv *c, size_t i, size_t e,      \
                                int32_t(*sum)[PANEL])                                                        \
    {                                                                                                        \
        value_panel(st, c, n, i, e, sum);                                                                    \
    }
PANEL_FN(1)
PANEL_FN(2)
PANEL_FN(3)
PANEL_FN(4)
PANEL_FN(5)
PANEL_FN(6)
static panel_fn *const panel_fns[PANEL_ROWS] = {value_panel_1, value_panel_2, value_panel_3,
                                                value_panel_4, value_panel_5, value_panel_6};

/* Of lanes [i, i1), all of the step's chunk k: runs of active ones; one between them keeps its o. */
static void values(struct state *st, size_t k, size_t i, size_t i1, unsigned active, unsigned fresh)
{
    while (i < i1) {
        size_t n = (size_t)__builtin_ctz(~(active >> i)); /* active lanes from i on */
        if (n == 0) {
            i++;
            continue;
        }
        n = n < i1 - i ? n : i1 - i;
        n = n < PANEL_ROWS ? n : PANEL_ROWS;
        for (size_t e = 0; e < st->kv->hd; e += PANEL) {
            _Alignas(64) int32_t sum[PANEL_ROWS][PANEL];
            fetch_on(st, st->fetch_v);
            panel_fns[n - 1](st, &st->chunk[k], i, e, sum);
            for (size_t r = 0; r < n; r++)
                value_out(st, i + r, fresh >> (i + r) & 1, sum[r], st->dst[i + r] + e);
        }
        i += n;
    }
}

/* How many chunks the step at c takes after one of `last` (0: it is the first). The first of a tile that
 * fetches has one, since it waits for memory, and the next ones twice as many each. */
static size_t step_chunks(const struct state *st, size_t c, size_t c1, size_t last)
{
    size_t n = !st->fetch ? st->n_chunks : last == 0 ? 1 : 2 * last;
    n = n < st->n_chunks ? n : st->n_chunks;
    return n < c1 - c ? n : c1 - c;
}

/* With the step of n_chunks that now begins, n chunks from c on are fetched. */
static void fetch_next(struct state *st, size_t c, size_t n, size_t n_chunks)
{
    const size_t n_ahead = st->fetch ? n : 0;
    for (size_t k = 0; k < n_ahead; k++)
        st->ahead[k] = vd_kern_chunk_at(st->kv, c + k);
    st->ahead[n_ahead] = NULL;
    st->next = st->ahead;
    st->next_lines = vd_wide_kv_bytes(st->kv->hd) / 64;
    share_fetch(st, n_chunks, n);
}

/* Everything of a step's n_chunks chunks from c on, but the merge of m and l. Returns the lanes that meet
 * their chunk. */
static unsigned step_softmax(struct state *st, size_t c, size_t n_chunks, size_t c1)
{
    unsigned active = 0;
    fetch_next(st, c + n_chunks, step_chunks(st, c + n_chunks, c1, n_chunks), n_chunks);
    for (size_t k = 0; k < n_chunks; k++) {
        st->chunk[k] = vd_wide_kv(vd_kern_chunk_at(st->kv, c + k), st->kv->hd);
        unsigned here = meet_chunk(st, c + k, k);
        if (here != 0)
            scores(st, k, (size_t)__builtin_ctz(here), 32 - (size_t)__builtin_clz(here));
        active |= here;
    }
    if (active != 0) {
        size_t i0 = (size_t)__builtin_ctz(active), i1 = 32 - (size_t)__builtin_clz(active);
        chunk_max(st, i0, i1);
        chunk_weights(st, i0, i1);
        chunk_codes(st, i0, i1);
    }
    return active;
}

/* The values of a step. */
static void step_values(struct state *st, size_t n_chunks, unsigned active, unsigned fresh)
{
    for (size_t k = 0; k < n_chunks; k++)
        values(st, k, k * st->n, (k + 1) * st->n, active, fresh);
}

/* Merges mc, lc into m, l for active lanes, chunk after chunk, and leaves the factors for o in a, b. Returns
 * the lanes that only copy. */
static unsigned merge_scalars(struct state *st, size_t n_chunks, unsigned active)
{
    const unsigned rows = (1u << st->n) - 1;
    unsigned fresh = 0;
    __m512 m = _mm512_loadu_ps(st->m), l = _mm512_loadu_ps(st->l);
    for (size_t k = 0; k < n_chunks; k++) {
        __mmask16 here = (__mmask16)(active >> k * st->n & rows), first = here & (__mmask16)~st->started;
        __m512 mc = _mm512_loadu_ps(st->mc + k * st->n);
        __m512 max = _mm512_add_ps(_mm512_max_ps(m, mc), _mm512_setzero_ps());
        max = _mm512_mask_mov_ps(max, _mm512_cmp_ps_mask(m, mc, _CMP_UNORD_Q), nan16());
        max = _mm512_mask_mov_ps(max, first, mc);
        _mm512_storeu_ps(st->before + k * st->n, m);
        _mm512_storeu_ps(st->after + k * st->n, max);
        m = _mm512_mask_mov_ps(m, here, max);
        st->started |= here;
        fresh |= (unsigned)first << k * st->n;
    }
    _mm512_storeu_ps(st->m, m);
    const __m512 after = _mm512_loadu_ps(st->after);
    _mm512_storeu_ps(st->a, exp16(_mm512_sub_ps(_mm512_loadu_ps(st->before), after)));
    _mm512_storeu_ps(st->b, exp16(_mm512_sub_ps(_mm512_loadu_ps(st->mc), after)));
    for (size_t k = 0; k < n_chunks; k++) {
        __m512 lc = _mm512_loadu_ps(st->lc + k * st->n), a = _mm512_loadu_ps(st->a + k * st->n),
               b = _mm512_loadu_ps(st->b + k * st->n);
        __m512 sum = _mm512_fmadd_ps(l, a, _mm512_mul_ps(lc, b));
        sum = _mm512_mask_mov_ps(sum, (__mmask16)(fresh >> k * st->n), lc);
        l = _mm512_mask_mov_ps(l, (__mmask16)(active >> k * st->n & rows), sum);
    }
    _mm512_storeu_ps(st->l, l);
    return fresh;
}

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

static void attn_tile(const struct vd_kern_kv *kv, struct vd_kern_score score,
                      const struct vd_kern_query *rows, size_t n, bool fetch, void *scratch)
{
    struct state *st = begin_tile(scratch, kv, score, rows, n, fetch);
    size_t c, c1, n_chunks;
    for (size_t i = 0; i < n * st->n_chunks; i++)
        st->dst[i] = st->o + i % n * kv->hd;
    tile_chunks(rows, n, &c, &c1);
    fetch_first(st, c, c1);
    for (n_chunks = 0; c < c1; c += n_chunks) {
        n_chunks = step_chunks(st, c, c1, n_chunks);
        unsigned active = step_softmax(st, c, n_chunks, c1);
        if (active != 0)
            step_values(st, n_chunks, active, merge_scalars(st, n_chunks, active));
    }
    for (size_t i = 0; i < n; i++)
        finish_row(st->o + i * kv->hd, st->l[i], kv->hd, rows[i].y);
}

void vd_avx512_attn(const struct vd_kern_kv *kv, struct vd_kern_score score, const struct vd_kern_query *rows,
                    size_t n, void *scratch)
{
    for (size_t i = 0; i < n; i += TILE)
        attn_tile(kv, score, rows + i, n - i < TILE ? n - i : TILE, n <= TILE, scratch);
}

static void part_tile(const struct vd_kern_kv *kv, struct vd_kern_score score,
                      const struct vd_kern_query *rows, size_t n, size_t c0, size_t c1, float *rec,
                      size_t ld_rec, bool fetch, void *scratch)
{
    struct state *st = begin_tile(scratch, kv, score, rows, n, fetch);
    size_t hd = kv->hd, first, end, n_chunks;
    tile_chunks(rows, n, &first, &end);
    c0 = c0 > first ? c0 : first;
    c1 = c1 < end ? c1 : end;
    fetch_first(st, c0, c1);
    n_chunks = 0;
    for (size_t c = c0; c < c1; c += n_chunks) {
        n_chunks = step_chunks(st, c, c1, n_chunks);
        unsigned active = step_softmax(st, c, n_chunks, c1);
        for (size_t i = 0; i < n * n_chunks; i++)
            if (active >> i & 1) {
                size_t row = i % n, k = c + i / n - rows[row].begin / VD_KERN_CHUNK;
                st->dst[i] = rec + row * ld_rec + k * vd_kern_rec_floats(hd);
                st->dst[i][hd] = st->mc[i];
                st->dst[i][hd + 1] = st->lc[i];
            }
        step_values(st, n_chunks, active, active);
    }
}

void vd_avx512_attn_part(const struct vd_kern_kv *kv, struct vd_kern_score score,
                         const struct vd_kern_query *rows, size_t n, size_t c0, size_t c1, float *rec,
                         size_t ld_rec, void *scratch)
{
    for (size_t i = 0; i < n; i += TILE)
        part_tile(kv, score, rows + i, n - i < TILE ? n - i : TILE, c0, c1, rec + i * ld_rec, ld_rec,
                  n <= TILE, scratch);
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

/* One row's records, ascending. */
static void merge_row(size_t hd, size_t n_chunks, const float *rec, float *y)
{
    size_t ld = vd_kern_rec_floats(hd);
    float m = rec[hd], l = rec[hd + 1], o[VD_KERN_HEAD_MAX], a[16], b[16];
    memcpy(o, rec, hd * sizeof(float));
    for (size_t c = 1, n; c < n_chunks; c += n) {
        const float *r = rec + c * ld;
        n = n_chunks - c < 16 ? n_chunks - c : 16;
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
