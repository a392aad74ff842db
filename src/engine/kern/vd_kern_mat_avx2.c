/* Matrix products with AVX2: the same layout and loops as with AVX-512, with a group of 16 rows as two halves
 * of eight and tiles of up to four tokens, which is what sixteen registers hold. */
#include "vd_kern_avx2.h"

enum {
    TILE = 4,
    SLAB_BYTES = 256 * 1024, /* of packed weights: fits L2 beside the activations */
    AHEAD_BYTES = 4096       /* prefetch distance when a weight is read once */
};

struct tile {
    const uint8_t *w; /* a row group */
    const struct vd_wide_act_group *act;
    size_t slot; /* of the first token in the group */
    size_t n_blocks;
};

/* sum[i] = codes of eight rows times token i, the codes taken as they are stored. */
VD_INLINE void dot_nibbles(int n, const uint8_t *p, const int8_t *q, __m256i *sum)
{
    VD_UNROLL
    for (int i = 0; i < n; i++)
        sum[i] = _mm256_setzero_si256();
    VD_UNROLL
    for (int j = 0; j < 4; j++) {
        __m256i lo, hi;
        nibbles(p + 64 * j, &lo, &hi);
        VD_UNROLL
        for (int i = 0; i < n; i++) {
            __m256i x = _mm256_maddubs_epi16(lo, broadcast4(q + 32 * i + 4 * j));
            __m256i y = _mm256_maddubs_epi16(hi, broadcast4(q + 32 * i + 16 + 4 * j));
            sum[i] = _mm256_add_epi16(sum[i], _mm256_add_epi16(x, y));
        }
    }
    VD_UNROLL
    for (int i = 0; i < n; i++)
        sum[i] = _mm256_madd_epi16(sum[i], _mm256_set1_epi16(1));
}

/* The same with a step of fifth bits before the nibbles. A pair of products stays below 2^13, so only four
 * fit into int16: columns 0 to 15 and 16 to 31 are summed apart. */
VD_INLINE void dot_fives(int n, const uint8_t *p, const int8_t *q, __m256i *sum)
{
    const __m256i high = load256(p), bit4 = _mm256_set1_epi8(16), one = _mm256_set1_epi16(1);
    __m256i a[TILE], b[TILE];
    VD_UNROLL
    for (int i = 0; i < n; i++)
        a[i] = b[i] = _mm256_setzero_si256();
    VD_UNROLL
    for (int j = 0; j < 4; j++) {
        __m256i lo, hi;
        nibbles(p + 64 + 64 * j, &lo, &hi);
        lo = _mm256_or_si256(lo, _mm256_and_si256(_mm256_slli_epi16(high, 4 - j), bit4));
        hi = _mm256_or_si256(hi, _mm256_and_si256(_mm256_srli_epi16(high, j), bit4));
        VD_UNROLL
        for (int i = 0; i < n; i++) {
            a[i] = _mm256_add_epi16(a[i], _mm256_maddubs_epi16(lo, broadcast4(q + 32 * i + 4 * j)));
            b[i] = _mm256_add_epi16(b[i], _mm256_maddubs_epi16(hi, broadcast4(q + 32 * i + 16 + 4 * j)));
        }
    }
    VD_UNROLL
    for (int i = 0; i < n; i++)
        sum[i] = _mm256_add_epi32(_mm256_madd_epi16(a[i], one), _mm256_madd_epi16(b[i], one));
}

/* What the codes stored as unsigned add to the dot product. */
VD_INLINE __m256i code_offset(enum vd_wtype type, int32_t asum)
{
    return _mm256_set1_epi32(asum * (1 << vd_wide_type(type).offset_log2));
}

/* One block of eight rows at p: acc[token] gets its fma, and that of the min. */
VD_INLINE void block_step(enum vd_wtype type, int n, bool huge, const uint8_t *p, int half,
                          const struct vd_wide_act *a, size_t slot, __m256 *acc)
{
    const __m256 dw = load_half8((const uint16_t *)p + 8 * half);
    const bool has_min = vd_wide_type(type).has_min;
    const __m256 mw = has_min ? load_half8((const uint16_t *)p + 16 + 8 * half) : dw;
    const uint8_t *codes = p + vd_wide_type(type).head_bytes * WIDE_ROWS + 32 * half;
    const int8_t *q = a->q[slot];
    __m256i sum[TILE];
    if (type == VD_WTYPE_Q8_0)
        dot_bytes(n, codes, q, 32, sum);
    else if (vd_wide_type(type).five)
        dot_fives(n, codes, q, sum);
    else
        dot_nibbles(n, codes, q, sum);
    VD_UNROLL
    for (int i = 0; i < n; i++) {
        const size_t t = slot + (size_t)i;
        const __m256 da = _mm256_set1_ps(a->d[t]);
        if (!has_min)
            sum[i] = _mm256_sub_epi32(sum[i], code_offset(type, a->asum[t]));
        acc[i] = _mm256_fmadd_ps(_mm256_mul_ps(dw, da), _mm256_cvtepi32_ps(sum[i]), acc[i]);
        if (has_min && huge) /* the rule by the letter, see vd_kern_wide.h */
            acc[i] = _mm256_fmadd_ps(_mm256_mul_ps(mw, da), _mm256_set1_ps((float)a->asum[t]), acc[i]);
        if (has_min && !huge)
            acc[i] = _mm256_fmadd_ps(mw, _mm256_set1_ps(a->s[t]), acc[i]);
    }
}

/* Eight rows (one half of the group) x n tokens -> out[token]. The second half finds the group's bytes in L1.
 */
VD_INLINE void tile_half(enum vd_wtype type, int n, bool huge, const struct tile *t, int half, __m256 *out)
{
    const uint8_t *p = t->w;
    const struct vd_wide_type layout = vd_wide_type(type);
    const size_t block_bytes = (size_t)(layout.head_bytes + layout.code_bytes) * WIDE_ROWS;
    for (size_t b0 = 0; b0 < t->n_blocks; b0 += WIDE_SEG_BLOCKS) {
        size_t b1 = b0 + WIDE_SEG_BLOCKS < t->n_blocks ? b0 + WIDE_SEG_BLOCKS : t->n_blocks;
        __m256 acc[TILE];
        VD_UNROLL
        for (int i = 0; i < n; i++)
            acc[i] = _mm256_setzero_ps();
        for (size_t b = b0; b < b1; b++, p += block_bytes) {
            if (half == 0)
                for (size_t i = 0; i < block_bytes; i += 64)
                    _mm_prefetch((const char *)p + AHEAD_BYTES + i, _MM_HINT_T0);
            block_step(type, n, huge, p, half, &t->act->block[b], t->slot, acc);
        }
        VD_UNROLL
        for (int i = 0; i < n; i++)
            out[i] = b0 == 0 ? acc[i] : _mm256_add_ps(out[i], acc[i]);
    }
}

VD_INLINE void tile_rows(enum vd_wtype type, int n, bool huge, const struct tile *t, __m256 out[2][TILE])
{
    tile_half(type, n, huge, t, 0, out[0]);
    tile_half(type, n, huge, t, 1, out[1]);
}

typedef void tile_fn(const struct tile *t, __m256 out[2][TILE]);

#define TILE_FN(type, n)                                                                                     \
    static void tile_##type##_##n(const struct tile *t, __m256 out[2][TILE])                                 \
    {                                                                                                        \
        tile_rows(VD_WTYPE_##type, n, false, t, out);                                                        \
    }
#define TILE_FNS(type) TILE_FN(type, 1) TILE_FN(type, 2) TILE_FN(type, 3) TILE_FN(type, 4)
TILE_FNS(Q4_0)
TILE_FNS(Q4_1)
TILE_FNS(Q5_0)
TILE_FNS(Q5_1)
TILE_FNS(Q8_0)

static void tile_Q4_1_huge(const struct tile *t, __m256 out[2][TILE])
{
    tile_rows(VD_WTYPE_Q4_1, 1, true, t, out);
}
static void tile_Q5_1_huge(const struct tile *t, __m256 out[2][TILE])
{
    tile_rows(VD_WTYPE_Q5_1, 1, true, t, out);
}

#define TILE_ROW(type)                                                                                       \
    {                                                                                                        \
        tile_##type##_1, tile_##type##_2, tile_##type##_3, tile_##type##_4                                   \
    }
static tile_fn *const tile_fns[][TILE] = {[VD_WTYPE_Q4_0] = TILE_ROW(Q4_0),
                                          [VD_WTYPE_Q4_1] = TILE_ROW(Q4_1),
                                          [VD_WTYPE_Q5_0] = TILE_ROW(Q5_0),
                                          [VD_WTYPE_Q5_1] = TILE_ROW(Q5_1),
                                          [VD_WTYPE_Q8_0] = TILE_ROW(Q8_0)};

static void store_rows(float *y, size_t rows, __m256 lo, __m256 hi)
{
    float v[16];
    if (rows >= 16) {
        _mm256_storeu_ps(y, lo);
        _mm256_storeu_ps(y + 8, hi);
        return;
    }
    _mm256_storeu_ps(v, lo);
    _mm256_storeu_ps(v + 8, hi);
    memcpy(y, v, rows * sizeof(float));
}

static bool is_huge(const struct vd_kern_mat *w, const void *act, size_t t)
{
    return vd_wide_type(w->type).has_min && vd_wide_act_group(act, w->cols, t)->huge != 0;
}

/* How many tokens from t on one tile takes. */
static size_t tile_tokens(const struct vd_kern_mat *w, const void *act, size_t t, size_t t1)
{
    size_t left = WIDE_TOKS - t % WIDE_TOKS, n = t1 - t < TILE ? t1 - t : TILE;
    return is_huge(w, act, t) ? 1 : n < left ? n : left;
}

static void tile_groups(const struct vd_kern_mat *w, size_t g0, size_t g1, const void *act, size_t t,
                        size_t n, float *y, size_t ldy)
{
    struct tile tile = {.act = vd_wide_act_group(act, w->cols, t),
                        .slot = t % WIDE_TOKS,
                        .n_blocks = w->cols / VD_KERN_BLOCK};
    tile_fn *fn = tile_fns[w->type][n - 1];
    if (is_huge(w, act, t))
        fn = w->type == VD_WTYPE_Q4_1 ? tile_Q4_1_huge : tile_Q5_1_huge;
    for (size_t g = g0; g < g1; g++) {
        __m256 out[2][TILE];
        tile.w = vd_wide_group(w, g);
        fn(&tile, out);
        for (size_t i = 0; i < n; i++)
            store_rows(y + (t + i) * ldy + g * WIDE_ROWS, w->rows - g * WIDE_ROWS, out[0][i], out[1][i]);
    }
}

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
        store_rows(y + (t + (size_t)i) * ldy + g * WIDE_ROWS, w->rows - g * WIDE_ROWS, total0[i], total1[i]);
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

void vd_avx2_matmul(const struct vd_kern_mat *w, size_t r0, size_t r1, const struct vd_kern_rhs *x, size_t t0,
                    size_t t1, float *y, size_t ldy, void *scratch)
{
    size_t g0 = r0 / WIDE_ROWS, g1 = (r1 + WIDE_ROWS - 1) / WIDE_ROWS;
    assert(r0 % WIDE_ROWS == 0 && r1 <= w->rows && (r1 % WIDE_ROWS == 0 || r1 == w->rows));
    if (vd_wide_is_plain(w->type)) {
        vd_wide_plain_matmul(w, r0, r1, x, t0, t1, y, ldy);
        return;
    }
    if (w->type == VD_WTYPE_F16) {
        float_rows(VD_WTYPE_F16, w, g0, g1, x, t0, t1, y, ldy);
        return;
    }
    if (w->type == VD_WTYPE_BF16) {
        float_rows(VD_WTYPE_BF16, w, g0, g1, x, t0, t1, y, ldy);
        return;
    }
    if (w->type == VD_WTYPE_F32) {
        float_rows(VD_WTYPE_F32, w, g0, g1, x, t0, t1, y, ldy);
        return;
    }
    size_t slab = t1 - t0 <= WIDE_TOKS ? 1 : SLAB_BYTES / vd_wide_group_bytes(w->type, w->cols) + 1;
    for (size_t g = g0; g < g1; g += slab)
        for (size_t t = t0, n; t < t1; t += n) {
            n = tile_tokens(w, x->act, t, t1);
            tile_groups(w, g, g + slab < g1 ? g + slab : g1, x->act, t, n, y, ldy);
        }
}
