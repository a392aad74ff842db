/* Matrix products with AVX-512 VNNI.
 *
 * The unit of work is 16 rows x 32 columns x one token: eight byte dot products, one conversion, and the
 * rule's roundings: a product of scales and one fma, plus one fma with a min. All but the conversion go to
 * the two multiply pipes of Zen 5, so a unit costs 5 to 6 cycles and everything else has to hide behind that:
 * the codes of a block are unpacked once into eight registers and used for a tile of up to 16 tokens, whose
 * float accumulators stay in registers over a segment; the activation bytes come as broadcast loads from L1.
 *
 * Loops, outside in: a slab of row groups small enough for L2, token tiles, row groups of the slab. With one
 * tile (decode and small batches) each weight is read once, in order, which is what memory is fastest at. The
 * first tile of a slab fetches ahead: left to the processor's own guesses, prefill of a model that does not
 * fit the caches is a fifth slower.
 *
 * A tile function exists per (type, number of tokens); token counts between are rounded up, since the slots
 * exist and their results are thrown away. */
#include "vd_kern_avx512.h"

enum {
    SLAB_BYTES = 384 * 1024, /* of packed weights: less than half of a core's L2 */
    NEAR_BYTES = 36 * 1024   /* of a token group's activations: they stay in L1 beside a stream of weights */
};

/* w | (bits & 16), bytewise. */
VD_INLINE __m512i or_bit4(__m512i w, __m512i bits)
{
    return _mm512_ternarylogic_epi32(w, bits, _mm512_set1_epi8(16), 0xF8);
}

/* A table of 16 values in every quarter, plus the offset that makes them unsigned. */
VD_INLINE __m512i code_table(const int8_t *table, int offset)
{
    return _mm512_add_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table)),
                           _mm512_set1_epi8((char)offset));
}

/* 16 scales 2^(e - 128): subnormal below 2, a NaN at 255 (see vd_wtype_block_scales). */
VD_INLINE __m512 load_powers(const uint8_t *p)
{
    const __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)), two = _mm512_set1_epi32(2);
    __m512i u = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    u = _mm512_mask_sllv_epi32(u, _mm512_cmplt_epi32_mask(e, two), _mm512_set1_epi32(0x200000), e);
    u = _mm512_mask_mov_epi32(u, _mm512_cmpeq_epi32_mask(e, _mm512_set1_epi32(255)),
                              _mm512_set1_epi32((int)VD_NAN_BITS));
    return _mm512_castsi512_ps(u);
}

/* The codes of one block as eight registers: step j holds columns 4j .. 4j + 3 of 16 rows. */
VD_INLINE void load_codes(enum vd_wtype type, const uint8_t *qs, __m512i w[8])
{
    const __m512i low = _mm512_set1_epi8(15);
    if (type == VD_WTYPE_Q8_0) {
        VD_UNROLL
        for (int j = 0; j < 8; j++)
            w[j] = _mm512_loadu_si512(qs + 64 * j);
        return;
    }
    if (vd_wide_type(type).table != NULL) {
        const struct vd_wide_type layout = vd_wide_type(type);
        const __m512i table = code_table(
            layout.table, (1 << layout.offset_log2) + (layout.offset_log2_b ? 1 << layout.offset_log2_b : 0));
        VD_UNROLL
        for (int j = 0; j < 4; j++) {
            __m512i u = _mm512_loadu_si512(qs + 64 * j);
            w[j] = _mm512_shuffle_epi8(table, _mm512_and_si512(u, low));
            w[j + 4] = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(u, 4), low));
        }
        return;
    }
    const bool five = vd_wide_type(type).five;
    const __m512i high = _mm512_loadu_si512(qs); /* fifth bits, if the type has them */
    VD_UNROLL
    for (int j = 0; j < 4; j++) {
        __m512i u = _mm512_loadu_si512(qs + (five ? 64 : 0) + 64 * j);
        w[j] = _mm512_and_si512(u, low);
        w[j + 4] = _mm512_and_si512(_mm512_srli_epi16(u, 4), low);
        if (five) {
            w[j] = or_bit4(w[j], _mm512_slli_epi16(high, (unsigned)(4 - j)));
            w[j + 4] = or_bit4(w[j + 4], _mm512_srli_epi16(high, (unsigned)j));
        }
    }
}

/* The same of a split block. What shifts bring from neighbour bytes is not selected, or masked. */
VD_INLINE void load_split_codes(const uint8_t *upper, const uint8_t *lower, __m512i w[8])
{
    const __m512i nibble = _mm512_set1_epi8(0x3C), pair = _mm512_set1_epi8(3);
    VD_UNROLL
    for (unsigned i = 0; i < 2; i++) {
        __m512i high = _mm512_loadu_si512(upper + 256 + 64 * i), low = _mm512_loadu_si512(lower + 64 * i);
        VD_UNROLL
        for (unsigned j = 0; j < 4; j++) {
            __m512i u = _mm512_loadu_si512(upper + 64 * j);
            u = i == 0 ? _mm512_slli_epi16(u, 2) : _mm512_srli_epi16(u, 2);
            u = select_bits(nibble, u, _mm512_slli_epi16(high, 6 - 2 * j));
            w[j + 4 * i] = select_bits(pair, _mm512_srli_epi16(low, 2 * j), u);
        }
    }
}

/* Minus what the codes stored as unsigned add to the dot product. */
VD_INLINE __m512i code_offset(enum vd_wtype type, const int32_t *asum)
{
    if (vd_wide_type(type).has_min)
        return _mm512_setzero_si512();
    const __m512i sum = _mm512_set1_epi32(*asum);
    __m512i a = _mm512_slli_epi32(sum, vd_wide_type(type).offset_log2);
    if (vd_wide_type(type).offset_log2_b != 0)
        a = _mm512_add_epi32(a, _mm512_slli_epi32(sum, vd_wide_type(type).offset_log2_b));
    return _mm512_sub_epi32(_mm512_setzero_si512(), a);
}

VD_INLINE __m512i dot32(__m512i acc, const __m512i w[8], const int8_t *q)
{
    VD_UNROLL
    for (int j = 0; j < 8; j++)
        acc = dot4_all(acc, w[j], q + 4 * j);
    return acc;
}

/* 16 rows x n tokens -> out[token]; huge: the min term by the letter (see vd_kern_wide.h). */
VD_INLINE void tile_rows(enum vd_wtype type, int n, bool huge, bool split, const struct vd_avx512_tile *t,
                         __m512 *out)
{
    const uint8_t *p = t->w, *lower = split ? t->lower : t->w;
    const bool has_min = vd_wide_type(type).has_min;
    const size_t head_bytes = vd_wide_type(type).head_bytes * WIDE_ROWS;
    const size_t block_bytes =
        split ? (size_t)VD_SPLIT_UPPER : head_bytes + vd_wide_type(type).code_bytes * WIDE_ROWS;
    for (size_t b0 = 0; b0 < t->n_blocks; b0 += WIDE_SEG_BLOCKS) {
        size_t b1 = b0 + WIDE_SEG_BLOCKS < t->n_blocks ? b0 + WIDE_SEG_BLOCKS : t->n_blocks;
        __m512 acc[16];
        VD_UNROLL
        for (int i = 0; i < n; i++)
            acc[i] = _mm512_setzero_ps();
        for (size_t b = b0; b < b1; b++, p += block_bytes, lower += split ? VD_SPLIT_LOWER : 0) {
            const struct vd_wide_act *a = (const struct vd_wide_act *)t->act + b;
            const int8_t *q = a->q[t->slot];
            const float *d = a->d + t->slot, *s = a->s + t->slot;
            const int32_t *asum = a->asum + t->slot;
            __m512i w[8];
            __m512 dw = head_bytes == WIDE_ROWS ? load_powers(p) : load_half16((const uint16_t *)p), mw = dw;
            if (has_min)
                mw = load_half16((const uint16_t *)p + 16);
            if (split)
                load_split_codes(p + head_bytes, lower, w);
            else
                load_codes(type, p + head_bytes, w);
            if (t->ahead != 0)
                vd_avx512_prefetch(p + t->ahead, block_bytes);
            if (t->ahead != 0 && split)
                vd_avx512_prefetch(lower + t->ahead / 4, VD_SPLIT_LOWER);
            VD_UNROLL
            for (int i = 0; i < n; i++) {
                __m512i isum = dot32(code_offset(type, asum + i), w, q + 32 * i);
                __m512 da = _mm512_set1_ps(d[i]);
                acc[i] = _mm512_fmadd_ps(_mm512_mul_ps(dw, da), _mm512_cvtepi32_ps(isum), acc[i]);
                if (has_min && !huge)
                    acc[i] = _mm512_fmadd_ps(mw, _mm512_set1_ps(s[i]), acc[i]);
                if (has_min && huge)
                    acc[i] = _mm512_fmadd_ps(_mm512_mul_ps(mw, da), _mm512_set1_ps((float)asum[i]), acc[i]);
            }
        }
        VD_UNROLL
        for (int i = 0; i < n; i++)
            out[i] = b0 == 0 ? acc[i] : _mm512_add_ps(out[i], acc[i]);
    }
}

#define TILE(name, type, split, n)                                                                           \
    static void tile_##name##_##n(const struct vd_avx512_tile *t, __m512 *out)                               \
    {                                                                                                        \
        tile_rows(VD_WTYPE_##type, n, false, split, t, out);                                                 \
    }
#define TILES(name, type, split)                                                                             \
    TILE(name, type, split, 1)                                                                               \
    TILE(name, type, split, 2)                                                                               \
    TILE(name, type, split, 3)                                                                               \
    TILE(name, type, split, 4)                                                                               \
    TILE(name, type, split, 6)                                                                               \
    TILE(name, type, split, 8)                                                                               \
    TILE(name, type, split, 12)                                                                              \
    TILE(name, type, split, 16)
TILES(Q4_0, Q4_0, false)
TILES(Q4_1, Q4_1, false)
TILES(Q5_0, Q5_0, false)
TILES(Q5_1, Q5_1, false)
TILES(Q8_0, Q8_0, false)
TILES(IQ4_NL, IQ4_NL, false)
TILES(MXFP4, MXFP4, false)
TILES(split, Q8_0, true)

static void tile_Q4_1_huge(const struct vd_avx512_tile *t, __m512 *out)
{
    tile_rows(VD_WTYPE_Q4_1, 1, true, false, t, out);
}
static void tile_Q5_1_huge(const struct vd_avx512_tile *t, __m512 *out)
{
    tile_rows(VD_WTYPE_Q5_1, 1, true, false, t, out);
}

#define TILE_ROW(type)                                                                                       \
    {                                                                                                        \
        tile_##type##_1, tile_##type##_2, tile_##type##_3, tile_##type##_4, tile_##type##_6,                 \
            tile_##type##_8, tile_##type##_12, tile_##type##_16                                              \
    }
static const uint8_t tile_size[VD_AVX512_SIZES] = {1, 2, 3, 4, 6, 8, 12, 16};
static vd_avx512_tile_fn *const tile_fns[][VD_AVX512_SIZES] = {
    [VD_WTYPE_Q4_0] = TILE_ROW(Q4_0),  [VD_WTYPE_Q4_1] = TILE_ROW(Q4_1), [VD_WTYPE_Q5_0] = TILE_ROW(Q5_0),
    [VD_WTYPE_Q5_1] = TILE_ROW(Q5_1),  [VD_WTYPE_Q8_0] = TILE_ROW(Q8_0), [VD_WTYPE_IQ4_NL] = TILE_ROW(IQ4_NL),
    [VD_WTYPE_MXFP4] = TILE_ROW(MXFP4)};

static vd_avx512_tile_fn *const split_fns[VD_AVX512_SIZES] = TILE_ROW(split);

/* Whether the tokens around t take the slower path (see vd_kern_wide.h). */
static bool is_huge(const struct vd_kern_mat *w, const void *act, size_t t)
{
    return vd_wide_type(w->type).has_min && vd_wide_act_group(act, w->cols, t)->huge != 0;
}

/* The smallest tile that holds n <= 16 tokens and stays inside the group. */
static size_t pick_size(size_t n, size_t slot)
{
    size_t i = 0;
    while (tile_size[i] < n)
        i++;
    while (tile_size[i] + slot > WIDE_TOKS)
        i--;
    return i;
}

/* What the tiles of the token group that holds token t have in common. */
static struct vd_avx512_tile tile_of(const struct vd_kern_mat *w, const void *act, size_t t)
{
    struct vd_avx512_tile tile = {.slot = t % WIDE_TOKS,
                                  .n_blocks = w->cols / vd_wtype_info(w->type)->block_elems};
    tile.act = vd_wide_is_super(w->type) ? (const void *)vd_wide_supers(act, w->cols, t)
                                         : (const void *)vd_wide_act_group(act, w->cols, t)->block;
    return tile;
}

/* Of row group g at most n blocks from b on. */
static struct vd_avx512_tile cut_tile(const struct vd_kern_mat *w, const struct vd_avx512_tile *t, size_t g,
                                      size_t b, size_t n)
{
    const enum vd_wtype type = w->type;
    const size_t act_bytes =
        vd_wide_is_super(type) ? sizeof(struct vd_wide_super) : sizeof(struct vd_wide_act);
    struct vd_avx512_tile cut = *t;
    if (w->split) {
        cut.w = vd_wide_upper(w, g) + b * VD_SPLIT_UPPER;
        cut.lower = vd_wide_lower(w, g) + b * VD_SPLIT_LOWER;
    } else {
        cut.w = vd_wide_group(w, g) + b * vd_wtype_info(type)->block_bytes * WIDE_ROWS;
    }
    cut.act = (const char *)t->act + b * act_bytes;
    cut.n_blocks = t->n_blocks - b < n ? t->n_blocks - b : n;
    return cut;
}

static vd_avx512_tile_fn *pick_fn(const struct vd_kern_mat *w, bool huge, size_t size)
{
    const enum vd_wtype type = w->type;
    if (w->split)
        return split_fns[size];
    if (vd_wide_is_super(type))
        return vd_avx512_super_tile(type, size);
    if (huge)
        return type == VD_WTYPE_Q4_1 ? tile_Q4_1_huge : tile_Q5_1_huge;
    return tile_fns[type][size];
}

/* How many blocks a row group takes in one go. Where several row groups share tokens whose activations do not
 * fit in L1, the groups take turns segment by segment; y holds the sum so far, which is the rule's own order.
 * (At 2,048 columns that is 1.5 times as fast, at 576 a tenth slower.) */
static size_t turn_blocks(const struct vd_kern_mat *w, size_t n_groups, size_t n_blocks)
{
    if (n_groups == 1 || vd_wide_act_group_bytes(w->cols) <= NEAR_BYTES)
        return n_blocks;
    return 512 / vd_wtype_info(w->type)->block_elems;
}

/* Row groups [g0, g1) times the tokens [t, t + n) of one token group. first: nobody read them before. */
static void tile_groups(const struct vd_kern_mat *w, size_t g0, size_t g1, const void *act, size_t t,
                        size_t n, bool first, float *y, size_t ldy)
{
    const struct vd_avx512_tile whole = tile_of(w, act, t);
    const size_t step = turn_blocks(w, g1 - g0, whole.n_blocks);
    const size_t group_bytes = vd_wide_group_bytes(w->type, w->cols);
    bool huge = is_huge(w, act, t);
    size_t size = huge ? 0 : pick_size(n, whole.slot);
    vd_avx512_tile_fn *fn = pick_fn(w, huge, size);
    if (n > tile_size[size])
        n = tile_size[size];
    for (size_t b = 0; b < whole.n_blocks; b += step)
        for (size_t g = g0; g < g1; g++) {
            __m512 out[16];
            __mmask16 rows = tail_mask(w->rows - g * WIDE_ROWS);
            struct vd_avx512_tile tile = cut_tile(w, &whole, g, b, step);
            tile.ahead = !first ? 0 : step < whole.n_blocks ? group_bytes : (size_t)VD_AVX512_AHEAD;
            fn(&tile, out);
            for (size_t i = 0; i < n; i++) {
                float *yi = y + (t + i) * ldy + g * WIDE_ROWS;
                if (b > 0)
                    out[i] = _mm512_add_ps(_mm512_maskz_loadu_ps(rows, yi), out[i]);
                _mm512_mask_storeu_ps(yi, rows, out[i]);
            }
        }
}

static size_t tile_tokens(const struct vd_kern_mat *w, const void *act, size_t t, size_t t1)
{
    size_t left = WIDE_TOKS - t % WIDE_TOKS, n = t1 - t < left ? t1 - t : left;
    if (is_huge(w, act, t))
        return 1;
    size_t size = tile_size[pick_size(n, t % WIDE_TOKS)];
    return size < n ? size : n;
}

void vd_avx512_matmul(const struct vd_kern_mat *w, size_t r0, size_t r1, const struct vd_kern_rhs *x,
                      size_t t0, size_t t1, float *y, size_t ldy, void *scratch)
{
    assert(r0 % WIDE_ROWS == 0 && r1 <= w->rows && (r1 % WIDE_ROWS == 0 || r1 == w->rows));
    if (!vd_wtype_info(w->type)->quantised) {
        vd_avx512_matmul_float(w, r0, r1, x, t0, t1, y, ldy);
        return;
    }
    const void *act = vd_wide_is_super(w->type) ? x->act256 : x->act;
    size_t slab = SLAB_BYTES / vd_wide_group_bytes(w->type, w->cols) + 1;
    if (t1 - t0 <= WIDE_TOKS)
        slab = 1;
    size_t end = (r1 + WIDE_ROWS - 1) / WIDE_ROWS;
    for (size_t g = r0 / WIDE_ROWS; g < end; g += slab)
        for (size_t t = t0; t < t1; t += tile_tokens(w, act, t, t1))
            tile_groups(w, g, g + slab < end ? g + slab : end, act, t, tile_tokens(w, act, t, t1), t == t0, y,
                        ldy);
}

/* ---- float weights: one fma per element in order, so speed comes from independent rows and tokens ---- */

VD_INLINE __m512 load_weights(enum vd_wtype type, const uint8_t *p, size_t col)
{
    if (type == VD_WTYPE_F32)
        return _mm512_loadu_ps((const float *)p + col * 16);
    const uint16_t *h = (const uint16_t *)p + col * 16;
    if (type == VD_WTYPE_F16)
        return load_half16(h);
    __m512i u = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)h));
    return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}

/* n_g row groups x n_t tokens. */
VD_INLINE void float_tile(enum vd_wtype type, int n_g, int n_t, const struct vd_kern_mat *w, size_t g0,
                          const struct vd_kern_rhs *x, size_t t, float *y, size_t ldy)
{
    __m512 total[8] = {0};
    const uint8_t *p[4];
    VD_UNROLL
    for (int g = 0; g < n_g; g++)
        p[g] = vd_wide_group(w, g0 + (size_t)g);
    for (size_t c0 = 0; c0 < w->cols; c0 += 512) {
        size_t c1 = c0 + 512 < w->cols ? c0 + 512 : w->cols;
        __m512 acc[8];
        VD_UNROLL
        for (int i = 0; i < n_g * n_t; i++)
            acc[i] = _mm512_setzero_ps();
        for (size_t c = c0; c < c1; c++)
            VD_UNROLL
        for (int g = 0; g < n_g; g++) {
            __m512 wv = load_weights(type, p[g], c);
            VD_UNROLL
            for (int i = 0; i < n_t; i++)
                acc[g * n_t + i] =
                    _mm512_fmadd_ps(wv, _mm512_set1_ps(x->x[(t + (size_t)i) * x->ldx + c]), acc[g * n_t + i]);
        }
        VD_UNROLL
        for (int i = 0; i < n_g * n_t; i++)
            total[i] = c0 == 0 ? acc[i] : _mm512_add_ps(total[i], acc[i]);
    }
    VD_UNROLL
    for (int g = 0; g < n_g; g++)
        VD_UNROLL
    for (int i = 0; i < n_t; i++) {
        size_t r = (g0 + (size_t)g) * WIDE_ROWS;
        _mm512_mask_storeu_ps(y + (t + (size_t)i) * ldy + r, tail_mask(w->rows - r), total[g * n_t + i]);
    }
}

VD_INLINE void float_rows(enum vd_wtype type, const struct vd_kern_mat *w, size_t g0, size_t g1,
                          const struct vd_kern_rhs *x, size_t t0, size_t t1, float *y, size_t ldy)
{
    for (size_t g = g0; g < g1;) {
        size_t n_g = g1 - g >= 4 ? 4 : 1, t = t0;
        if (n_g == 4) {
            for (; t + 2 <= t1; t += 2)
                float_tile(type, 4, 2, w, g, x, t, y, ldy);
            if (t < t1)
                float_tile(type, 4, 1, w, g, x, t, y, ldy);
        } else {
            for (; t + 8 <= t1; t += 8)
                float_tile(type, 1, 8, w, g, x, t, y, ldy);
            for (; t < t1; t++)
                float_tile(type, 1, 1, w, g, x, t, y, ldy);
        }
        g += n_g;
    }
}

void vd_avx512_matmul_float(const struct vd_kern_mat *w, size_t r0, size_t r1, const struct vd_kern_rhs *x,
                            size_t t0, size_t t1, float *y, size_t ldy)
{
    size_t g0 = r0 / WIDE_ROWS, g1 = (r1 + WIDE_ROWS - 1) / WIDE_ROWS;
    if (w->type == VD_WTYPE_F16)
        float_rows(VD_WTYPE_F16, w, g0, g1, x, t0, t1, y, ldy);
    else if (w->type == VD_WTYPE_BF16)
        float_rows(VD_WTYPE_BF16, w, g0, g1, x, t0, t1, y, ldy);
    else
        float_rows(VD_WTYPE_F32, w, g0, g1, x, t0, t1, y, ldy);
}
