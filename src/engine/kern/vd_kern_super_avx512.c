/* Products of weights with super-blocks, with AVX-512 VNNI.
 *
 * As in vd_kern_mat_avx512.c a tile is 16 rows x up to 16 tokens. What is new is the integer scale of every
 * sub-block. One multiplication folds it in: a sub-block's dot product (32 bits) times the scale (vpmulld,
 * full rate on Zen 5), or, where a sub-block of 16 stays within 16 bits (2 and 3 bit codes), two neighbours
 * as a pair of int16 times a pair of scales (vpdpwssd). So a block of 32 costs 9 multiplications for 8 of
 * plain dot products (Q6_K: 10), and the two float roundings come once per 256: on the whole no more than
 * Q4_0's blocks.
 *
 * The totals of 16 tokens and the eight code registers fill the register file, so the float accumulators and
 * the scales of a super-block lie on the stack, in L1. The min term, and what unsigned codes are too high by,
 * are a product of 16-bit mins or scales with the activations' sums; Q6_K's sums begin at minus the excess.
 */
#include "vd_kern_avx512.h"

enum { SUBS = VD_SUPER_SUBS, SEG_SUPERS = 512 / VD_KERN_BLOCK256 };

/* One super-block's scales, ready for use: sc of each sub-block (or pair of them, see scale_pairs) as the
 * fold wants it; pair[p] the int16 pairs that meet the activations' sums. */
struct scales {
    __m512i sc[SUBS];
    __m512i pair[SUBS / 2];
    __m512 d, dmin;
};

static inline __attribute__((always_inline)) bool is_pairs(enum vd_wtype type)
{
    return type == VD_WTYPE_Q2_K || type == VD_WTYPE_Q3_K;
}

static inline __attribute__((always_inline)) bool has_min(enum vd_wtype type)
{
    return type == VD_WTYPE_Q2_K || type == VD_WTYPE_Q4_K || type == VD_WTYPE_Q5_K;
}

/* Sub-blocks of 16 with scales of their own. */
static inline __attribute__((always_inline)) bool has_sixteens(enum vd_wtype type)
{
    return type == VD_WTYPE_Q2_K || type == VD_WTYPE_Q3_K || type == VD_WTYPE_Q6_K;
}

VD_INLINE __m512i and_bytes(__m512i v, int mask)
{
    return _mm512_and_si512(v, _mm512_set1_epi8((char)mask));
}

VD_INLINE __m512i srl16(__m512i v, int n)
{
    return _mm512_srli_epi16(v, (unsigned)n);
}

VD_INLINE __m512i step(const uint8_t *p, size_t i)
{
    return _mm512_loadu_si512(p + 64 * i);
}

/* Lanes of two binary16, the low halves. */
VD_INLINE __m512 low_halves(__m512i v)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v));
}

/* Four bytes per lane (unsigned, or signed), the scales of sub-blocks 4t .. 4t + 3, as the pairs (0, 2) and
 * (1, 3) of int16. */
VD_INLINE void sum_pairs(bool is_signed, __m512i four, __m512i pair[2])
{
    pair[0] = is_signed ? _mm512_srai_epi16(_mm512_slli_epi16(four, 8), 8)
                        : _mm512_and_si512(four, _mm512_set1_epi16(255));
    pair[1] = is_signed ? _mm512_srai_epi16(four, 8) : srl16(four, 8);
}

/* The same four as int32 each. */
VD_INLINE void one_by_one(bool is_signed, __m512i four, __m512i sc[4])
{
    VD_UNROLL
    for (int i = 0; i < 4; i++) {
        __m512i up = _mm512_slli_epi32(four, (unsigned)(24 - 8 * i));
        sc[i] = is_signed ? _mm512_srai_epi32(up, 24) : _mm512_srli_epi32(up, 24);
    }
}

/* The same four as pairs of neighbours, for the fold of two sub-blocks of 16 at once. */
VD_INLINE void neighbours(bool is_signed, __m512i four, __m512i sc[2])
{
    const __m512i at01 = _mm512_set4_epi32(0x0D800C80, 0x09800880, 0x05800480, 0x01800080);
    const __m512i at23 = _mm512_set4_epi32(0x0F800E80, 0x0B800A80, 0x07800680, 0x03800280);
    __m512i a = _mm512_shuffle_epi8(four, at01), b = _mm512_shuffle_epi8(four, at23);
    sc[0] = is_signed ? _mm512_srai_epi16(a, 8) : srl16(a, 8);
    sc[1] = is_signed ? _mm512_srai_epi16(b, 8) : srl16(b, 8);
}

/* The twelve bytes of Q4_K and Q5_K. */
VD_INLINE void scales_of_six(const uint8_t *p, struct scales *s)
{
    const __m512i a = step(p, 0), b = step(p, 1), c = step(p, 2);
    const __m512i sc0 = and_bytes(a, 63), m0 = and_bytes(b, 63);
    const __m512i sc1 = _mm512_or_si512(and_bytes(c, 15), and_bytes(srl16(a, 2), 48));
    const __m512i m1 = _mm512_or_si512(and_bytes(srl16(c, 4), 15), and_bytes(srl16(b, 2), 48));
    one_by_one(false, sc0, s->sc);
    one_by_one(false, sc1, s->sc + 4);
    sum_pairs(false, m0, s->pair);
    sum_pairs(false, m1, s->pair + 2);
}

/* The twelve bytes of Q3_K. */
VD_INLINE void scales_q3_k(const uint8_t *p, struct scales *s)
{
    const __m512i high = step(p, 2);
    VD_UNROLL
    for (int i = 0; i < 4; i++) {
        __m512i low = and_bytes(srl16(step(p, i % 2), i / 2 * 4), 15);
        __m512i top = and_bytes(_mm512_slli_epi16(srl16(high, 2 * i), 4), 48);
        __m512i four = _mm512_sub_epi8(_mm512_or_si512(low, top), _mm512_set1_epi8(32));
        neighbours(true, four, s->sc + 2 * i);
        sum_pairs(true, four, s->pair + 2 * i);
    }
}

VD_INLINE void scales_q2_k(const uint8_t *p, struct scales *s)
{
    VD_UNROLL
    for (int i = 0; i < 4; i++) {
        __m512i four = step(p, (size_t)i);
        neighbours(false, and_bytes(four, 15), s->sc + 2 * i);
        sum_pairs(false, and_bytes(srl16(four, 4), 15), s->pair + 2 * i);
    }
}

VD_INLINE void scales_q6_k(const uint8_t *p, struct scales *s)
{
    VD_UNROLL
    for (int i = 0; i < 4; i++) {
        one_by_one(true, step(p, (size_t)i), s->sc + 4 * i);
    }
}

/* head: d and the upper bits; low: the eight nibbles. */
VD_INLINE void scales_iq4_xs(__m512i head, __m512i low, struct scales *s)
{
    VD_UNROLL
    for (int b = 0; b < 8; b++) {
        __m512i l = _mm512_and_si512(_mm512_srli_epi32(low, (unsigned)(4 * b)), _mm512_set1_epi32(15));
        __m512i h = _mm512_and_si512(_mm512_srli_epi32(head, (unsigned)(12 + 2 * b)), _mm512_set1_epi32(48));
        s->sc[b] = _mm512_sub_epi32(_mm512_or_si512(l, h), _mm512_set1_epi32(32));
    }
    VD_UNROLL
    for (int p = 0; p < 4; p++) { /* the pairs (0, 2), (1, 3), (4, 6), (5, 7) */
        int b = p / 2 * 4 + p % 2;
        s->pair[p] = _mm512_mask_blend_epi16(0xAAAAAAAA, s->sc[b], _mm512_slli_epi32(s->sc[b + 2], 16));
    }
}

VD_TEMPLATE void load_scales(enum vd_wtype type, const uint8_t *p, struct scales *s)
{
    s->dmin = _mm512_setzero_ps();
    if (type == VD_WTYPE_Q4_K || type == VD_WTYPE_Q5_K) {
        s->d = low_halves(step(p, 0));
        s->dmin = low_halves(_mm512_srli_epi32(step(p, 0), 16));
        scales_of_six(p + 64, s);
    } else if (type == VD_WTYPE_Q2_K) {
        s->d = low_halves(step(p, 20));
        s->dmin = low_halves(_mm512_srli_epi32(step(p, 20), 16));
        scales_q2_k(p, s);
    } else if (type == VD_WTYPE_Q3_K) {
        s->d = load_half16((const uint16_t *)(p + 64 * 27));
        scales_q3_k(p + 64 * 24, s);
    } else if (type == VD_WTYPE_Q6_K) {
        s->d = load_half16((const uint16_t *)(p + 64 * 52));
        scales_q6_k(p + 64 * 48, s);
    } else {
        s->d = low_halves(step(p, 0));
        scales_iq4_xs(step(p, 0), step(p, 1), s);
    }
}

/* A super-block's eight blocks of 32 are gone through as outer x inner, so that what has to be a constant is
 * one: inner numbers the blocks whose codes share steps. */
VD_INLINE int n_inner(enum vd_wtype type)
{
    return is_pairs(type) ? 4 : type == VD_WTYPE_IQ4_XS ? 1 : 2;
}

/* The number of the block. */
VD_INLINE int block_of(enum vd_wtype type, int outer, int inner)
{
    if (type == VD_WTYPE_Q6_K) /* h = outer / 2, k = outer % 2 + 2 * inner */
        return outer / 2 * 4 + outer % 2 + 2 * inner;
    return outer * n_inner(type) + inner;
}

/* a | (b & mask), bytewise. */
VD_INLINE __m512i or_masked(__m512i a, __m512i b, int mask)
{
    return _mm512_ternarylogic_epi32(a, b, _mm512_set1_epi8((char)mask), 0xF8);
}

/* Every lane turned left, so that bit `from` of each byte comes to bit `to` (what is turned across bytes is
 * masked away by the caller). */
VD_INLINE __m512i turn(__m512i v, int from, int to)
{
    return _mm512_rolv_epi32(v, _mm512_set1_epi32((to - from) & 31));
}

/* The codes of one block as eight registers: step i holds columns 4i .. 4i + 3 of 16 rows, unsigned. */
VD_TEMPLATE void load_codes(enum vd_wtype type, const uint8_t *p, int outer, int inner, __m512i w[8])
{
    const int b = block_of(type, outer, inner);
    VD_UNROLL
    for (int i = 0; i < 8; i++) {
        const size_t at = 8 * (size_t)outer + (size_t)i;
        if (type == VD_WTYPE_Q4_K)
            w[i] = and_bytes(srl16(step(p, 4 + at), 4 * inner), 15);
        if (type == VD_WTYPE_Q5_K)
            w[i] = or_masked(and_bytes(srl16(step(p, 12 + at), 4 * inner), 15),
                             turn(step(p, 4 + (size_t)i), b, 4), 16);
        if (type == VD_WTYPE_Q6_K)
            w[i] = or_masked(and_bytes(srl16(step(p, at), 4 * inner), 15),
                             turn(step(p, 32 + 8 * (size_t)(outer / 2) + (size_t)i), 2 * (b % 4), 4), 48);
        if (type == VD_WTYPE_Q2_K)
            w[i] = and_bytes(srl16(step(p, 4 + at), 2 * inner), 3);
        if (type == VD_WTYPE_Q3_K)
            w[i] =
                or_masked(and_bytes(srl16(step(p, 8 + at), 2 * inner), 3), turn(step(p, (size_t)i), b, 2), 4);
    }
    if (type == VD_WTYPE_IQ4_XS) {
        const __m512i table =
            _mm512_xor_si512(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)vd_wtype_iq4_table)),
                             _mm512_set1_epi8((char)0x80));
        VD_UNROLL
        for (int i = 0; i < 4; i++) {
            __m512i u = step(p, 2 + 4 * (size_t)outer + (size_t)i);
            w[i] = _mm512_shuffle_epi8(table, and_bytes(u, 15));
            w[i + 4] = _mm512_shuffle_epi8(table, and_bytes(srl16(u, 4), 15));
        }
    }
}

/* acc + a0 * b0 + a1 * b1 of the int16 pairs of each lane. */
VD_INLINE __m512i dot2(__m512i acc, __m512i a, __m512i b)
{
    __asm__ volatile("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
    return acc;
}
VD_INLINE __m512i dot2_all(__m512i acc, __m512i a, const int16_t *p)
{
    __asm__("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(a), "m"(*(const int32_t *)p));
    return acc;
}

/* total + a * scale. Kept in its place by `volatile`: left to itself the compiler (GCC 12) gathers the sums
 * of all tokens first and spills half of them. */
VD_INLINE __m512i add_scaled(__m512i total, __m512i a, __m512i scale)
{
    __asm__ volatile("vpmulld %2, %1, %1\n\tvpaddd %1, %0, %0" : "+v"(total), "+v"(a) : "v"(scale));
    return total;
}

/* total + one block of 32 columns of one token, scaled. start: what Q6_K's two dot products begin with. */
VD_TEMPLATE __m512i fold_block(enum vd_wtype type, __m512i total, const __m512i w[8], const int8_t *q,
                               const __m512i *sc, const int32_t *start)
{
    __m512i a = _mm512_setzero_si512(), b = a;
    if (type == VD_WTYPE_Q6_K) {
        a = _mm512_set1_epi32(start[0]);
        b = _mm512_set1_epi32(start[1]);
    }
    VD_UNROLL
    for (int i = 0; i < 4; i++)
        a = dot4_all(a, w[i], q + 4 * i);
    if (!has_sixteens(type)) {
        VD_UNROLL
        for (int i = 4; i < 8; i++)
            a = dot4_all(a, w[i], q + 4 * i);
        return add_scaled(total, a, sc[0]);
    }
    VD_UNROLL
    for (int i = 4; i < 8; i++)
        b = dot4_all(b, w[i], q + 4 * i);
    if (is_pairs(type))
        return dot2(total, _mm512_mask_blend_epi16(0xAAAAAAAA, a, _mm512_slli_epi32(b, 16)), sc[0]);
    return add_scaled(add_scaled(total, a, sc[0]), b, sc[1]);
}

/* Scales of the block b: where fold_block finds them. */
VD_INLINE const __m512i *scales_of(enum vd_wtype type, const struct scales *s, int b)
{
    return &s->sc[type == VD_WTYPE_Q6_K ? 2 * b : b];
}

/* The product of the scales (or mins) with one token's sums. */
VD_TEMPLATE __m512i dot_sums(enum vd_wtype type, const struct scales *s, const struct vd_wide_super *a,
                             size_t tok)
{
    const int16_t *sums = has_sixteens(type) ? a->sums16[tok] : a->sums32[tok];
    const int n_pairs = has_sixteens(type) ? 8 : 4;
    __m512i v = _mm512_setzero_si512();
    VD_UNROLL
    for (int p = 0; p < n_pairs; p++)
        v = dot2_all(v, s->pair[p], sums + 2 * p);
    return v;
}

/* The unsigned codes of Q3_K and IQ4_XS are too high by 2^this. */
VD_INLINE unsigned offset_log2(enum vd_wtype type)
{
    return type == VD_WTYPE_Q3_K ? 2 : 7;
}

/* acc[token] gets its fma, and that of the min. */
VD_TEMPLATE void finish_super(enum vd_wtype type, int n, const struct scales *s,
                              const struct vd_wide_super *a, size_t slot, const __m512i *total, __m512 *acc)
{
    VD_UNROLL
    for (int i = 0; i < n; i++) {
        const size_t tok = slot + (size_t)i;
        const __m512 da = _mm512_set1_ps(a->d[tok]);
        const bool has_sums = type != VD_WTYPE_Q6_K;
        const __m512i sums = has_sums ? dot_sums(type, s, a, tok) : _mm512_setzero_si512();
        __m512i t = total[i];
        if (!has_min(type) && has_sums)
            t = _mm512_sub_epi32(t, _mm512_slli_epi32(sums, offset_log2(type)));
        acc[i] = _mm512_fmadd_ps(_mm512_mul_ps(s->d, da), _mm512_cvtepi32_ps(t), acc[i]);
        if (has_min(type))
            acc[i] = _mm512_fnmadd_ps(_mm512_mul_ps(s->dmin, da), _mm512_cvtepi32_ps(sums), acc[i]);
    }
}

/* One super-block at p: acc[token] gets what it adds. */
VD_TEMPLATE void super_step(enum vd_wtype type, int n, const uint8_t *p, const struct vd_wide_super *a,
                            size_t slot, __m512 *acc)
{
    const int8_t *q = a->q[slot];
    const int32_t *start = a->minus32[slot];
    struct scales s;
    __m512i total[16];
    load_scales(type, p, &s);
    VD_UNROLL
    for (int i = 0; i < n; i++)
        total[i] = _mm512_setzero_si512();
    for (int outer = 0; outer < 8 / n_inner(type); outer++) {
        const int n_in = n_inner(type);
        VD_UNROLL
        for (int inner = 0; inner < n_in; inner++) {
            const int b = block_of(type, outer, inner);
            __m512i w[8];
            load_codes(type, p, outer, inner, w);
            VD_UNROLL
            for (int i = 0; i < n; i++)
                total[i] = fold_block(type, total[i], w, q + 256 * i + 32 * b, scales_of(type, &s, b),
                                      start + SUBS * i + 2 * b);
        }
    }
    finish_super(type, n, &s, a, slot, total, acc);
}

/* 16 rows x n tokens -> out[token]. */
VD_TEMPLATE void super_rows(enum vd_wtype type, int n, const struct vd_avx512_tile *t, __m512 *out)
{
    const uint8_t *p = t->w;
    const size_t bytes = vd_wtype_info(type)->block_bytes * WIDE_ROWS;
    for (size_t k0 = 0; k0 < t->n_blocks; k0 += SEG_SUPERS) {
        size_t k1 = k0 + SEG_SUPERS < t->n_blocks ? k0 + SEG_SUPERS : t->n_blocks;
        __m512 acc[16];
        VD_UNROLL
        for (int i = 0; i < n; i++)
            acc[i] = _mm512_setzero_ps();
        for (size_t k = k0; k < k1; k++, p += bytes) {
            if (t->ahead != 0)
                vd_avx512_prefetch(p + t->ahead, bytes);
            super_step(type, n, p, (const struct vd_wide_super *)t->act + k, t->slot, acc);
        }
        VD_UNROLL
        for (int i = 0; i < n; i++)
            out[i] = k0 == 0 ? acc[i] : _mm512_add_ps(out[i], acc[i]);
    }
}

#define TILE(type, n)                                                                                        \
    static void tile_##type##_##n(const struct vd_avx512_tile *t, __m512 *out)                               \
    {                                                                                                        \
        super_rows(VD_WTYPE_##type, n, t, out);                                                              \
    }
#define TILES(type)                                                                                          \
    TILE(type, 1)                                                                                            \
    TILE(type, 2) TILE(type, 3) TILE(type, 4) TILE(type, 6) TILE(type, 8) TILE(type, 12) TILE(type, 16)
TILES(Q2_K)
TILES(Q3_K)
TILES(Q4_K)
TILES(Q5_K)
TILES(Q6_K)
TILES(IQ4_XS)

#define TILE_ROW(type)                                                                                       \
    {                                                                                                        \
        tile_##type##_1, tile_##type##_2, tile_##type##_3, tile_##type##_4, tile_##type##_6,                 \
            tile_##type##_8, tile_##type##_12, tile_##type##_16                                              \
    }
vd_avx512_tile_fn *vd_avx512_super_tile(enum vd_wtype type, size_t size)
{
    static vd_avx512_tile_fn *const fns[][VD_AVX512_SIZES] = {
        [VD_WTYPE_Q2_K] = TILE_ROW(Q2_K), [VD_WTYPE_Q3_K] = TILE_ROW(Q3_K),
        [VD_WTYPE_Q4_K] = TILE_ROW(Q4_K), [VD_WTYPE_Q5_K] = TILE_ROW(Q5_K),
        [VD_WTYPE_Q6_K] = TILE_ROW(Q6_K), [VD_WTYPE_IQ4_XS] = TILE_ROW(IQ4_XS),
    };
    return fns[type][size];
}
