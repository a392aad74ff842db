/* Private: matrix products in registers of 32 bytes, the body of vd_kern_mat_avx2.c and
 * vd_kern_mat_avxvnni.c. Who includes it defines VD_YMM_VNNI (1: AVX-VNNI is there) and VD_YMM_MATMUL (the
 * function's name).
 *
 * The same layout and loops as with AVX-512, with a group of 16 rows as two halves of eight. Sixteen
 * registers hold the sums of four tokens, a quad: a tile is up to four tokens, whose codes are unpacked as
 * they are used, or (`many`) up to four quads, which take turns at the unpacked codes of a block.
 *
 * With AVX-VNNI a dot product of four bytes adds to 32 bits. Without, vpmaddubsw gives sums of two products
 * in int16, and the question of every type is how many of those add up without saturating: codes below 16
 * eight (a block), below 32 four, below 64 two; bytes are split in nibbles. The multiplication that widens
 * them to int32 (vpmaddwd) folds in the scale of a super-block's sub-block at no cost. */
#include "vd_kern_avx2.h"

enum {
    TILE = 4, /* tokens of a quad */
    SEG_SUPERS = 512 / VD_KERN_BLOCK256,
    SLAB_BYTES = 256 * 1024, /* of packed weights: fits L2 beside the activations */
    AHEAD_BYTES = 4096       /* prefetch distance when a weight is read once */
};

/* How a block's products are summed without AVX-VNNI. */
enum sums {
    SUMS_ONE,   /* a: all of the block */
    SUMS_TWO,   /* a: columns 0 to 15, b: 16 to 31 */
    SUMS_FOUR,  /* a, b as before, a2 and b2: the second halves of each */
    SUMS_SPLIT, /* a: the low nibbles of the codes, b: the high ones */
};

static inline __attribute__((always_inline)) enum sums sums_of(enum vd_wtype type)
{
    if (type == VD_WTYPE_Q8_0 || type == VD_WTYPE_IQ4_NL || type == VD_WTYPE_IQ4_XS)
        return SUMS_SPLIT;
    if (type == VD_WTYPE_Q6_K)
        return SUMS_FOUR;
    if (type == VD_WTYPE_Q4_0 || type == VD_WTYPE_Q4_1 || type == VD_WTYPE_Q4_K)
        return SUMS_ONE;
    return SUMS_TWO;
}

/* A product's unit of work: a row group times up to four tokens of one token group. */
struct tile {
    const uint8_t *w; /* the row group */
    const void *act;  /* the token group's struct vd_wide_act[], or struct vd_wide_super[] */
    size_t slot;      /* of the first token in the group */
    size_t quads;     /* of tokens, if the tile has more than four */
    size_t n_blocks;  /* blocks, or super-blocks, of a row */
};

/* ---- codes: step j of a block has columns 4j .. 4j + 3 of eight rows, unsigned ---- */

VD_INLINE __m256i and_bytes(__m256i v, int mask)
{
    return _mm256_and_si256(v, _mm256_set1_epi8((char)mask));
}

/* The bits `mask` << from of every byte, at `mask` << to. */
VD_INLINE __m256i move_bits(__m256i v, int from, int to, int mask)
{
    return and_bytes(_mm256_slli_epi16(_mm256_srl_epi16(v, _mm_cvtsi32_si128(from)), to), mask << to);
}

VD_INLINE __m256i code_table(const int8_t *table, int offset)
{
    const __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));
    return _mm256_add_epi8(t, _mm256_set1_epi8((char)offset));
}

VD_INLINE __m256i nibble_step(const uint8_t *steps, int j)
{
    return and_bytes(_mm256_srli_epi16(load256(steps + 64 * (j % 4)), j / 4 * 4), 15);
}

/* A type with blocks of 32; codes: the half's first step. */
VD_TEMPLATE __m256i block_code(enum vd_wtype type, const uint8_t *codes, int j)
{
    const struct vd_wide_type layout = vd_wide_type(type);
    if (type == VD_WTYPE_Q8_0)
        return load256(codes + 64 * j);
    if (layout.five)
        return _mm256_or_si256(nibble_step(codes + 64, j), move_bits(load256(codes), j, 4, 1));
    if (layout.table == NULL)
        return nibble_step(codes, j);
    const int more = layout.offset_log2_b != 0 ? 1 << layout.offset_log2_b : 0;
    return _mm256_shuffle_epi8(code_table(layout.table, (1 << layout.offset_log2) + more),
                               nibble_step(codes, j));
}

/* A super-block's blocks of 32 are gone through as outer x inner: inner numbers those whose codes share
 * steps. */
static inline __attribute__((always_inline)) int n_inner(enum vd_wtype type)
{
    return type == VD_WTYPE_Q2_K || type == VD_WTYPE_Q3_K ? 4 : type == VD_WTYPE_IQ4_XS ? 1 : 2;
}

static inline __attribute__((always_inline)) int block_of(enum vd_wtype type, int outer, int inner)
{
    if (type == VD_WTYPE_Q6_K)
        return outer / 2 * 4 + outer % 2 + 2 * inner;
    return outer * n_inner(type) + inner;
}

/* p: the super-block's first step, at the half. */
VD_TEMPLATE __m256i super_code(enum vd_wtype type, const uint8_t *p, int outer, int inner, int j)
{
    const int b = block_of(type, outer, inner), at = 8 * outer + j;
    if (type == VD_WTYPE_IQ4_XS)
        return _mm256_shuffle_epi8(code_table(vd_wtype_iq4_table, 128),
                                   nibble_step(p + 64 * (2 + 4 * outer), j));
    if (type == VD_WTYPE_Q4_K)
        return and_bytes(_mm256_srli_epi16(load256(p + 64 * (4 + at)), 4 * inner), 15);
    if (type == VD_WTYPE_Q5_K)
        return _mm256_or_si256(and_bytes(_mm256_srli_epi16(load256(p + 64 * (12 + at)), 4 * inner), 15),
                               move_bits(load256(p + 64 * (4 + j)), b, 4, 1));
    if (type == VD_WTYPE_Q6_K)
        return _mm256_or_si256(and_bytes(_mm256_srli_epi16(load256(p + 64 * at), 4 * inner), 15),
                               move_bits(load256(p + 64 * (32 + 8 * (outer / 2) + j)), b % 4 * 2, 4, 3));
    if (type == VD_WTYPE_Q2_K)
        return and_bytes(_mm256_srli_epi16(load256(p + 64 * (4 + at)), 2 * inner), 3);
    return _mm256_or_si256(and_bytes(_mm256_srli_epi16(load256(p + 64 * (8 + at)), 2 * inner), 3),
                           move_bits(load256(p + 64 * j), b, 2, 1));
}

/* ---- sums of one block for n tokens ---- */

/* int32 each with AVX-VNNI (a: columns 0 to 15, b: 16 to 31), else int16 as enum sums says. */
struct block_sums {
    __m256i a[TILE], b[TILE], a2[TILE], b2[TILE];
};

/* Adds step j of the codes w times the tokens' bytes at q (`stride` apart). */
VD_TEMPLATE void add_step(enum sums how, int n, int j, __m256i w, const int8_t *q, size_t stride,
                          struct block_sums *s)
{
    VD_UNROLL
    for (int i = 0; i < n; i++) {
        const __m256i x = broadcast4(q + (size_t)i * stride + 4 * j);
#if VD_YMM_VNNI
        if (j < 4)
            s->a[i] = _mm256_dpbusd_avx_epi32(s->a[i], w, x);
        else
            s->b[i] = _mm256_dpbusd_avx_epi32(s->b[i], w, x);
#else
        if (how == SUMS_SPLIT) {
            const __m256i low = and_bytes(w, 15), high = and_bytes(_mm256_srli_epi16(w, 4), 15);
            s->a[i] = _mm256_add_epi16(s->a[i], _mm256_maddubs_epi16(low, x));
            s->b[i] = _mm256_add_epi16(s->b[i], _mm256_maddubs_epi16(high, x));
            continue;
        }
        const __m256i two = _mm256_maddubs_epi16(w, x);
        if (how == SUMS_ONE || (how == SUMS_TWO && j < 4) || (how == SUMS_FOUR && j < 2))
            s->a[i] = _mm256_add_epi16(s->a[i], two);
        else if (how == SUMS_TWO || j / 2 == 2)
            s->b[i] = _mm256_add_epi16(s->b[i], two);
        else if (j / 2 == 1)
            s->a2[i] = _mm256_add_epi16(s->a2[i], two);
        else
            s->b2[i] = _mm256_add_epi16(s->b2[i], two);
#endif
    }
}

VD_INLINE void zero_sums(int n, struct block_sums *s)
{
    VD_UNROLL
    for (int i = 0; i < n; i++)
        s->a[i] = s->b[i] = s->a2[i] = s->b2[i] = _mm256_setzero_si256();
}

/* The sums of a quad, the first token's bytes at q. */
VD_TEMPLATE void sum_quad(enum sums how, const __m256i w[8], const int8_t *q, size_t stride,
                          struct block_sums *s)
{
    zero_sums(TILE, s);
    VD_UNROLL
    for (int j = 0; j < 8; j++)
        add_step(how, TILE, j, w[j], q, stride, s);
}

/* ---- types with blocks of 32 ---- */

/* Token i's sum over the block. */
VD_INLINE __m256i whole_sum(enum sums how, const struct block_sums *s, int i)
{
#if VD_YMM_VNNI
    return _mm256_add_epi32(s->a[i], s->b[i]);
#else
    const __m256i a = _mm256_madd_epi16(s->a[i], _mm256_set1_epi16(1));
    if (how == SUMS_ONE)
        return a;
    return _mm256_add_epi32(a, _mm256_madd_epi16(s->b[i], _mm256_set1_epi16(how == SUMS_SPLIT ? 16 : 1)));
#endif
}

/* What the codes stored as unsigned add to the dot product. */
VD_INLINE __m256i code_offset(enum vd_wtype type, int32_t asum)
{
    const struct vd_wide_type layout = vd_wide_type(type);
    const int more = layout.offset_log2_b != 0 ? 1 << layout.offset_log2_b : 0;
    return _mm256_set1_epi32(asum * ((1 << layout.offset_log2) + more));
}

/* Eight scales 2^(e - 128): subnormal below 2, a NaN at 255 (see vd_wtype_block_scales). */
VD_INLINE __m256 load_powers(const uint8_t *p)
{
    const __m256i e = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
    const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    const __m256i small = _mm256_sllv_epi32(_mm256_set1_epi32(0x200000), e);
    const __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e);
    const __m256i is_nan = _mm256_cmpeq_epi32(e, _mm256_set1_epi32(255));
    __m256i u = _mm256_blendv_epi8(normal, small, is_small);
    u = _mm256_blendv_epi8(u, _mm256_set1_epi32((int)VD_NAN_BITS), is_nan);
    return _mm256_castsi256_ps(u);
}

/* One block's scales and mins for eight rows. */
struct heads {
    __m256 d, m;
};

/* The sums of n tokens: acc[token] gets its fma, and that of the min. */
VD_TEMPLATE void finish_block(enum vd_wtype type, int n, bool huge, const struct block_sums *sums,
                              struct heads w, const struct vd_wide_act *a, size_t slot, __m256 *acc)
{
    const bool min = vd_wide_type(type).has_min;
    VD_UNROLL
    for (int i = 0; i < n; i++) {
        const size_t t = slot + (size_t)i;
        const __m256 da = _mm256_set1_ps(a->d[t]);
        __m256i sum = whole_sum(sums_of(type), sums, i);
        if (!min)
            sum = _mm256_sub_epi32(sum, code_offset(type, a->asum[t]));
        acc[i] = _mm256_fmadd_ps(_mm256_mul_ps(w.d, da), _mm256_cvtepi32_ps(sum), acc[i]);
        if (min && huge) /* the rule by the letter, see vd_kern_wide.h */
            acc[i] = _mm256_fmadd_ps(_mm256_mul_ps(w.m, da), _mm256_set1_ps((float)a->asum[t]), acc[i]);
        if (min && !huge)
            acc[i] = _mm256_fmadd_ps(w.m, _mm256_set1_ps(a->s[t]), acc[i]);
    }
}

/* One block of eight rows at p. */
VD_TEMPLATE void block_step(enum vd_wtype type, int n, bool many, bool huge, const uint8_t *p, int half,
                            const struct vd_wide_act *a, const struct tile *t, __m256 *acc)
{
    const struct vd_wide_type layout = vd_wide_type(type);
    const uint8_t *codes = p + layout.head_bytes * WIDE_ROWS + 32 * half;
    struct heads heads;
    struct block_sums sums;
    __m256i w[8];
    heads.d = layout.head_bytes == 1 ? load_powers(p + 8 * half) : load_half8((const uint16_t *)p + 8 * half);
    heads.m = layout.has_min ? load_half8((const uint16_t *)p + 16 + 8 * half) : heads.d;
    zero_sums(n, &sums);
    VD_UNROLL
    for (int j = 0; j < 8; j++) {
        w[j] = block_code(type, codes, j);
        if (!many)
            add_step(sums_of(type), n, j, w[j], a->q[t->slot], VD_KERN_BLOCK, &sums);
    }
    if (!many)
        finish_block(type, n, huge, &sums, heads, a, t->slot, acc);
    for (size_t k = 0; many && k < t->quads; k++) {
        sum_quad(sums_of(type), w, a->q[t->slot + k * TILE], VD_KERN_BLOCK, &sums);
        finish_block(type, TILE, false, &sums, heads, a, t->slot + k * TILE, acc + k * TILE);
    }
}

/* ---- super-blocks ---- */

/* One super-block's scales for eight rows: of each sub-block of 16 (of 32: twice the same) as int32 with
 * AVX-VNNI, else as a pair of equal int16; pair[p]: the int16 pairs that meet the activations' sums. */
struct scales {
    __m256i sc[VD_SUPER_SUBS];
    __m256i pair[VD_SUPER_SUBS / 2];
    __m256 d, dmin;
};

static inline __attribute__((always_inline)) bool has_min(enum vd_wtype type)
{
    return type == VD_WTYPE_Q2_K || type == VD_WTYPE_Q4_K || type == VD_WTYPE_Q5_K;
}

static inline __attribute__((always_inline)) bool has_sixteens(enum vd_wtype type)
{
    return type == VD_WTYPE_Q2_K || type == VD_WTYPE_Q3_K || type == VD_WTYPE_Q6_K;
}

VD_INLINE __m256i shifted(bool is_signed, __m256i v)
{
    return is_signed ? _mm256_srai_epi16(v, 8) : _mm256_srli_epi16(v, 8);
}

/* Byte k of every lane as a scale. */
VD_INLINE __m256i byte_scale(bool is_signed, __m256i four, int k)
{
#if VD_YMM_VNNI
    const __m256i up = _mm256_slli_epi32(four, 24 - 8 * k);
    return is_signed ? _mm256_srai_epi32(up, 24) : _mm256_srli_epi32(up, 24);
#else
    const int at = 0x00800080 + k * 0x01000100; /* bytes 80, k, 80, k: k is the upper byte of both halves */
    const __m256i order = _mm256_add_epi8(_mm256_set1_epi32(at),
                                          _mm256_setr_epi8(0, 0, 0, 0, 0, 4, 0, 4, 0, 8, 0, 8, 0, 12, 0, 12,
                                                           0, 0, 0, 0, 0, 4, 0, 4, 0, 8, 0, 8, 0, 12, 0, 12));
    return shifted(is_signed, _mm256_shuffle_epi8(four, order));
#endif
}

/* Four bytes per lane, the scales of sub-blocks 4t .. 4t + 3. */
VD_INLINE void byte_scales(bool is_signed, __m256i four, __m256i sc[4])
{
    VD_UNROLL
    for (int k = 0; k < 4; k++)
        sc[k] = byte_scale(is_signed, four, k);
}

/* The same as the pairs (0, 2) and (1, 3). */
VD_INLINE void sum_pairs(bool is_signed, __m256i four, __m256i pair[2])
{
    pair[0] = shifted(is_signed, _mm256_slli_epi16(four, 8));
    pair[1] = shifted(is_signed, four);
}

/* The twelve bytes of Q4_K and Q5_K. */
VD_INLINE void scales_of_six(const uint8_t *p, struct scales *s)
{
    const __m256i a = load256(p), b = load256(p + 64), c = load256(p + 128);
    const __m256i sc1 = _mm256_or_si256(and_bytes(c, 15), and_bytes(_mm256_srli_epi16(a, 2), 48));
    const __m256i m1 =
        _mm256_or_si256(and_bytes(_mm256_srli_epi16(c, 4), 15), and_bytes(_mm256_srli_epi16(b, 2), 48));
    byte_scales(false, and_bytes(a, 63), s->sc);
    byte_scales(false, sc1, s->sc + 4);
    sum_pairs(false, and_bytes(b, 63), s->pair);
    sum_pairs(false, m1, s->pair + 2);
}

/* Scales of one byte each after some unpacking: Q2_K, Q3_K, Q6_K. */
VD_INLINE void scales_of_sixteens(enum vd_wtype type, const uint8_t *p, struct scales *s)
{
    VD_UNROLL
    for (int i = 0; i < 4; i++) {
        __m256i sc = load256(p + 64 * (type == VD_WTYPE_Q3_K ? i % 2 : i)), m = sc;
        if (type == VD_WTYPE_Q3_K) {
            sc = and_bytes(_mm256_srli_epi16(sc, i / 2 * 4), 15);
            sc = _mm256_or_si256(sc, move_bits(load256(p + 128), 2 * i, 4, 3));
            m = sc = _mm256_sub_epi8(sc, _mm256_set1_epi8(32));
        }
        if (type == VD_WTYPE_Q2_K) {
            m = and_bytes(_mm256_srli_epi16(sc, 4), 15);
            sc = and_bytes(sc, 15);
        }
        byte_scales(type != VD_WTYPE_Q2_K, sc, s->sc + 4 * i);
        sum_pairs(type != VD_WTYPE_Q2_K, m, s->pair + 2 * i);
    }
}

/* head: d and the upper bits; low: the eight nibbles. */
VD_INLINE void scales_iq4_xs(__m256i head, __m256i low, struct scales *s)
{
    __m256i sc[8];
    VD_UNROLL
    for (int b = 0; b < 8; b++) {
        const __m256i l = _mm256_and_si256(_mm256_srli_epi32(low, 4 * b), _mm256_set1_epi32(15));
        const __m256i h = _mm256_and_si256(_mm256_srli_epi32(head, 12 + 2 * b), _mm256_set1_epi32(48));
        sc[b] = _mm256_sub_epi32(_mm256_or_si256(l, h), _mm256_set1_epi32(32));
        s->sc[b] = VD_YMM_VNNI ? sc[b] : _mm256_blend_epi16(sc[b], _mm256_slli_epi32(sc[b], 16), 0xAA);
    }
    VD_UNROLL
    for (int p = 0; p < 4; p++) { /* the pairs (0, 2), (1, 3), (4, 6), (5, 7) */
        const int b = p / 2 * 4 + p % 2;
        s->pair[p] = _mm256_blend_epi16(sc[b], _mm256_slli_epi32(sc[b + 2], 16), 0xAA);
    }
}

/* Lanes of two binary16: the low halves, or the high ones. */
VD_INLINE __m256 halves(const uint8_t *p, bool high)
{
    const __m256i v = load256(p);
    const __m256i u = high ? _mm256_srli_epi32(v, 16) : _mm256_and_si256(v, _mm256_set1_epi32(0xFFFF));
    return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(u), _mm256_extracti128_si256(u, 1)));
}

/* p: the super-block; its parts begin at the steps that the layouts of vd_wtype.h give. */
VD_TEMPLATE void load_scales(enum vd_wtype type, const uint8_t *p, int half, struct scales *s)
{
    const uint8_t *ph = p + 32 * half;
    s->dmin = _mm256_setzero_ps();
    if (type == VD_WTYPE_Q4_K || type == VD_WTYPE_Q5_K) {
        s->d = halves(ph, false);
        s->dmin = halves(ph, true);
        scales_of_six(ph + 64, s);
    } else if (type == VD_WTYPE_Q2_K) {
        s->d = halves(ph + 64 * 20, false);
        s->dmin = halves(ph + 64 * 20, true);
        scales_of_sixteens(type, ph, s);
    } else if (type == VD_WTYPE_Q3_K) {
        s->d = load_half8((const uint16_t *)(p + 64 * 27) + 8 * half);
        scales_of_sixteens(type, ph + 64 * 24, s);
    } else if (type == VD_WTYPE_Q6_K) {
        s->d = load_half8((const uint16_t *)(p + 64 * 52) + 8 * half);
        scales_of_sixteens(type, ph + 64 * 48, s);
    } else {
        s->d = halves(ph, false);
        scales_iq4_xs(load256(ph), load256(ph + 64), s);
    }
}

/* total + token i's sums, scaled. */
VD_TEMPLATE __m256i fold(enum vd_wtype type, __m256i total, const struct block_sums *s, int i,
                         const __m256i *sc)
{
    const __m256i sc1 = has_sixteens(type) ? sc[1] : sc[0];
#if VD_YMM_VNNI
    if (!has_sixteens(type))
        return _mm256_add_epi32(total, _mm256_mullo_epi32(_mm256_add_epi32(s->a[i], s->b[i]), sc[0]));
    total = _mm256_add_epi32(total, _mm256_mullo_epi32(s->a[i], sc[0]));
    return _mm256_add_epi32(total, _mm256_mullo_epi32(s->b[i], sc1));
#else
    const enum sums how = sums_of(type);
    total = _mm256_add_epi32(total, _mm256_madd_epi16(s->a[i], sc[0]));
    if (how == SUMS_ONE)
        return total;
    total = _mm256_add_epi32(
        total, _mm256_madd_epi16(s->b[i], how == SUMS_SPLIT ? _mm256_slli_epi16(sc[0], 4) : sc1));
    if (how == SUMS_FOUR) {
        total = _mm256_add_epi32(total, _mm256_madd_epi16(s->a2[i], sc[0]));
        total = _mm256_add_epi32(total, _mm256_madd_epi16(s->b2[i], sc1));
    }
    return total;
#endif
}

/* The product of the scales (or mins) with one token's sums. */
VD_TEMPLATE __m256i dot_sums(enum vd_wtype type, const struct scales *s, const struct vd_wide_super *a,
                             size_t tok)
{
    const int16_t *sums = has_sixteens(type) ? a->sums16[tok] : a->sums32[tok];
    const int n_pairs = has_sixteens(type) ? 8 : 4;
    __m256i v = _mm256_setzero_si256();
    VD_UNROLL
    for (int p = 0; p < n_pairs; p++)
        v = _mm256_add_epi32(v, _mm256_madd_epi16(s->pair[p], broadcast4(sums + 2 * p)));
    return v;
}

/* acc[token] gets its fma, and that of the min. */
VD_TEMPLATE void finish_super(enum vd_wtype type, int n, const struct scales *s,
                              const struct vd_wide_super *a, size_t slot, const __m256i *total, __m256 *acc)
{
    const int excess_log2 = type == VD_WTYPE_Q3_K ? 2 : type == VD_WTYPE_Q6_K ? 5 : 7;
    VD_UNROLL
    for (int i = 0; i < n; i++) {
        const size_t tok = slot + (size_t)i;
        const __m256 da = _mm256_set1_ps(a->d[tok]);
        const __m256i sums = dot_sums(type, s, a, tok);
        __m256i t = total[i];
        if (!has_min(type))
            t = _mm256_sub_epi32(t, _mm256_slli_epi32(sums, excess_log2));
        acc[i] = _mm256_fmadd_ps(_mm256_mul_ps(s->d, da), _mm256_cvtepi32_ps(t), acc[i]);
        if (has_min(type))
            acc[i] = _mm256_fnmadd_ps(_mm256_mul_ps(s->dmin, da), _mm256_cvtepi32_ps(sums), acc[i]);
    }
}

/* One block of 32 of a super-block: totals grow by its scaled sums. p: the super-block's first step, at the
 * half.
 */
VD_TEMPLATE void super_block(enum vd_wtype type, int n, bool many, const uint8_t *p, int outer, int inner,
                             const struct scales *s, const struct vd_wide_super *a, const struct tile *t,
                             __m256i *total)
{
    const int b = block_of(type, outer, inner);
    const __m256i *sc = &s->sc[has_sixteens(type) ? 2 * b : b];
    struct block_sums sums;
    __m256i w[8];
    zero_sums(n, &sums);
    VD_UNROLL
    for (int j = 0; j < 8; j++) {
        w[j] = super_code(type, p, outer, inner, j);
        if (!many)
            add_step(sums_of(type), n, j, w[j], a->q[t->slot] + 32 * b, VD_KERN_BLOCK256, &sums);
    }
    VD_UNROLL
    for (int i = 0; i < n; i++)
        total[i] = many ? total[i] : fold(type, total[i], &sums, i, sc);
    for (size_t k = 0; many && k < t->quads; k++) {
        sum_quad(sums_of(type), w, a->q[t->slot + k * TILE] + 32 * b, VD_KERN_BLOCK256, &sums);
        VD_UNROLL
        for (int i = 0; i < TILE; i++)
            total[k * TILE + (size_t)i] = fold(type, total[k * TILE + (size_t)i], &sums, i, sc);
    }
}

/* One super-block of eight rows at p. */
VD_TEMPLATE void super_step(enum vd_wtype type, int n, bool many, const uint8_t *p, int half,
                            const struct vd_wide_super *a, const struct tile *t, __m256 *acc)
{
    const int n_in = n_inner(type), n_total = many ? WIDE_TOKS : n;
    struct scales s;
    __m256i total[WIDE_TOKS];
    load_scales(type, p, half, &s);
    VD_UNROLL
    for (int i = 0; i < n_total; i++)
        total[i] = _mm256_setzero_si256();
    for (int outer = 0; outer < 8 / n_in; outer++) {
        VD_UNROLL
        for (int inner = 0; inner < n_in; inner++)
            super_block(type, n, many, p + 32 * half, outer, inner, &s, a, t, total);
    }
    if (!many)
        finish_super(type, n, &s, a, t->slot, total, acc);
    for (size_t k = 0; many && k < t->quads; k++)
        finish_super(type, TILE, &s, a, t->slot + k * TILE, total + k * TILE, acc + k * TILE);
}

/* ---- tiles ---- */

/* Eight rows (one half of the group) x the tile's tokens -> out[token]. The second half finds the group's
 * bytes in L1. */
VD_TEMPLATE void tile_half(enum vd_wtype type, int n, bool many, bool huge, const struct tile *t, int half,
                           __m256 *out)
{
    const uint8_t *p = t->w;
    const size_t block_bytes = vd_wtype_info(type)->block_bytes * WIDE_ROWS;
    const size_t seg_blocks = vd_wide_is_super(type) ? SEG_SUPERS : WIDE_SEG_BLOCKS;
    const int n_acc = many ? WIDE_TOKS : n;
    for (size_t b0 = 0; b0 < t->n_blocks; b0 += seg_blocks) {
        size_t b1 = b0 + seg_blocks < t->n_blocks ? b0 + seg_blocks : t->n_blocks;
        __m256 acc[WIDE_TOKS];
        VD_UNROLL
        for (int i = 0; i < n_acc; i++)
            acc[i] = _mm256_setzero_ps();
        for (size_t b = b0; b < b1; b++, p += block_bytes) {
            if (half == 0)
                for (size_t i = 0; i < block_bytes; i += 64)
                    _mm_prefetch((const char *)p + AHEAD_BYTES + i, _MM_HINT_T0);
            if (vd_wide_is_super(type))
                super_step(type, n, many, p, half, (const struct vd_wide_super *)t->act + b, t, acc);
            else
                block_step(type, n, many, huge, p, half, (const struct vd_wide_act *)t->act + b, t, acc);
        }
        VD_UNROLL
        for (int i = 0; i < n_acc; i++)
            out[i] = b0 == 0 ? acc[i] : _mm256_add_ps(out[i], acc[i]);
    }
}

VD_TEMPLATE void tile_rows(enum vd_wtype type, int n, bool many, bool huge, const struct tile *t,
                           __m256 out[2][WIDE_TOKS])
{
    tile_half(type, n, many, huge, t, 0, out[0]);
    tile_half(type, n, many, huge, t, 1, out[1]);
}

typedef void tile_fn(const struct tile *t, __m256 out[2][WIDE_TOKS]);

#define TILE_FN(type, name, n, many)                                                                         \
    static void tile_##type##_##name(const struct tile *t, __m256 out[2][WIDE_TOKS])                         \
    {                                                                                                        \
        tile_rows(VD_WTYPE_##type, n, many, false, t, out);                                                  \
    }
#define TILE_FNS(type)                                                                                       \
    TILE_FN(type, 1, 1, false)                                                                               \
    TILE_FN(type, 2, 2, false)                                                                               \
    TILE_FN(type, 3, 3, false) TILE_FN(type, 4, 4, false) TILE_FN(type, many, 4, true)
TILE_FNS(Q4_0)
TILE_FNS(Q4_1)
TILE_FNS(Q5_0)
TILE_FNS(Q5_1)
TILE_FNS(Q8_0)
TILE_FNS(IQ4_NL)
TILE_FNS(MXFP4)
TILE_FNS(Q2_K)
TILE_FNS(Q3_K)
TILE_FNS(Q4_K)
TILE_FNS(Q5_K)
TILE_FNS(Q6_K)
TILE_FNS(IQ4_XS)

static void tile_Q4_1_huge(const struct tile *t, __m256 out[2][WIDE_TOKS])
{
    tile_rows(VD_WTYPE_Q4_1, 1, false, true, t, out);
}
static void tile_Q5_1_huge(const struct tile *t, __m256 out[2][WIDE_TOKS])
{
    tile_rows(VD_WTYPE_Q5_1, 1, false, true, t, out);
}

#define TILE_ROW(type)                                                                                       \
    [VD_WTYPE_##                                                                                             \
        type] = {tile_##type##_1, tile_##type##_2, tile_##type##_3, tile_##type##_4, tile_##type##_many}
static tile_fn *const tile_fns[][TILE + 1] = {
    TILE_ROW(Q4_0),   TILE_ROW(Q4_1),   TILE_ROW(Q5_0),  TILE_ROW(Q5_1), TILE_ROW(Q8_0),
    TILE_ROW(Q2_K),   TILE_ROW(Q3_K),   TILE_ROW(Q4_K),  TILE_ROW(Q5_K), TILE_ROW(Q6_K),
    TILE_ROW(IQ4_NL), TILE_ROW(IQ4_XS), TILE_ROW(MXFP4),
};

/* Rows past the matrix's end are not written. With `more` the sums are added to what is there. */
static void store_rows(float *y, size_t rows, bool more, __m256 lo, __m256 hi)
{
    float v[16] = {0}, *at = rows >= 16 ? y : v;
    if (more && rows < 16)
        memcpy(v, y, rows * sizeof(float));
    _mm256_storeu_ps(at, more ? _mm256_add_ps(_mm256_loadu_ps(at), lo) : lo);
    _mm256_storeu_ps(at + 8, more ? _mm256_add_ps(_mm256_loadu_ps(at + 8), hi) : hi);
    if (rows < 16)
        memcpy(y, v, rows * sizeof(float));
}

static bool is_huge(const struct vd_kern_mat *w, const void *act, size_t t)
{
    return vd_wide_type(w->type).has_min && vd_wide_act_group(act, w->cols, t)->huge != 0;
}

/* How many tokens from t on one tile takes: several quads, or up to one. */
static size_t tile_tokens(const struct vd_kern_mat *w, const void *act, size_t t, size_t t1)
{
    size_t left = WIDE_TOKS - t % WIDE_TOKS, n = t1 - t < left ? t1 - t : left;
    return is_huge(w, act, t) ? 1 : n < TILE ? n : n / TILE * TILE;
}

/* Row groups [g0, g1) times the tokens [t, t + n) of one token group. Where several row groups share the
 * tokens they take turns segment by segment, so that the segment's activations stay in L1; y holds the sum so
 * far, which is the rule's own order. */
static void tile_groups(const struct vd_kern_mat *w, size_t g0, size_t g1, const void *act, size_t t,
                        size_t n, float *y, size_t ldy)
{
    const struct vd_wtype_info *info = vd_wtype_info(w->type);
    const bool super = vd_wide_is_super(w->type);
    const char *group = super ? (const char *)vd_wide_supers(act, w->cols, t)
                              : (const char *)vd_wide_act_group(act, w->cols, t)->block;
    const size_t act_bytes = super ? sizeof(struct vd_wide_super) : sizeof(struct vd_wide_act);
    const size_t n_blocks = w->cols / info->block_elems;
    const size_t step = g1 - g0 > 1 ? 512 / info->block_elems : n_blocks;
    tile_fn *fn = tile_fns[w->type][n <= TILE ? n - 1 : TILE];
    if (is_huge(w, act, t))
        fn = w->type == VD_WTYPE_Q4_1 ? tile_Q4_1_huge : tile_Q5_1_huge;
    for (size_t b = 0; b < n_blocks; b += step)
        for (size_t g = g0; g < g1; g++) {
            __m256 out[2][WIDE_TOKS];
            const struct tile tile = {.w = vd_wide_group(w, g) + b * info->block_bytes * WIDE_ROWS,
                                      .act = group + b * act_bytes,
                                      .slot = t % WIDE_TOKS,
                                      .quads = n / TILE,
                                      .n_blocks = n_blocks - b < step ? n_blocks - b : step};
            fn(&tile, out);
            for (size_t i = 0; i < n; i++)
                store_rows(y + (t + i) * ldy + g * WIDE_ROWS, w->rows - g * WIDE_ROWS, b > 0, out[0][i],
                           out[1][i]);
        }
}

void VD_YMM_MATMUL(const struct vd_kern_mat *w, size_t r0, size_t r1, const struct vd_kern_rhs *x, size_t t0,
                   size_t t1, float *y, size_t ldy, void *scratch)
{
    size_t g0 = r0 / WIDE_ROWS, g1 = (r1 + WIDE_ROWS - 1) / WIDE_ROWS;
    assert(r0 % WIDE_ROWS == 0 && r1 <= w->rows && (r1 % WIDE_ROWS == 0 || r1 == w->rows));
    if (!vd_wtype_info(w->type)->quantised) {
        vd_avx2_matmul_float(w, g0, g1, x, t0, t1, y, ldy);
        return;
    }
    const void *act = vd_wide_is_super(w->type) ? x->act256 : x->act;
    size_t slab = t1 - t0 <= WIDE_TOKS ? 1 : SLAB_BYTES / vd_wide_group_bytes(w->type, w->cols) + 1;
    for (size_t g = g0; g < g1; g += slab)
        for (size_t t = t0, n; t < t1; t += n) {
            n = tile_tokens(w, act, t, t1);
            tile_groups(w, g, g + slab < g1 ? g + slab : g1, act, t, n, y, ldy);
        }
}
