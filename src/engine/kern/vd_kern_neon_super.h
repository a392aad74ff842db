/* Private: tiles of weights with super-blocks, by SDOT or by SMMLA. Only *_neon.c and *_i8mm.c may include
 * this.
 *
 * The eight blocks of 32 of a super-block are gone through one by one with one body of code: what a block
 * needs of a format (which step, which bits of it) are numbers, and a shift by a register costs what one by a
 * constant does. A sub-block's dot products, 32 bits wide, are multiplied by its scales and added; the two
 * float roundings come once per 256. Codes are made signed before the products, for that is one instruction
 * per step however many the tokens are; so only mins need the activations' sums. */
#ifndef VD_KERN_NEON_SUPER_H
#define VD_KERN_NEON_SUPER_H

#include "vd_kern_neon_dot.h"

enum { SUPER_SEG = 512 / VD_KERN_BLOCK256, SUPER_SUBS = VD_SUPER_SUBS };

/* Four rows' parts of one super-block. sc: by sub-block, of 16 where these have scales of their own, else of
 * 32; m likewise. */
struct super_scales {
    int32x4_t sc[SUPER_SUBS], m[SUPER_SUBS];
    float32x4_t d, dmin;
};

VD_INLINE bool super_has_min(enum vd_wtype type)
{
    return type == VD_WTYPE_Q2_K || type == VD_WTYPE_Q4_K || type == VD_WTYPE_Q5_K;
}

/* Sub-blocks of 16 with scales of their own. */
VD_INLINE bool super_has_sixteens(enum vd_wtype type)
{
    return type == VD_WTYPE_Q2_K || type == VD_WTYPE_Q3_K || type == VD_WTYPE_Q6_K;
}

/* Four rows of dword i of a super-block. */
VD_INLINE uint8x16_t super_step(const uint8_t *p, size_t i)
{
    return vld1q_u8(p + 64 * i);
}

/* Each byte shifted right by n bits, left if n is negative. */
VD_INLINE uint8x16_t right(uint8x16_t v, int n)
{
    return vshlq_u8(v, vdupq_n_s8((int8_t)-n));
}

VD_INLINE uint8x16_t masked(uint8x16_t v, int mask)
{
    return vandq_u8(v, vdupq_n_u8((uint8_t)mask));
}

/* Byte i of each row's four, signed. */
VD_INLINE void spread_bytes(uint8x16_t four, int32x4_t out[4])
{
    const int32x4_t v = vreinterpretq_s32_u8(four);
    out[0] = vshrq_n_s32(vshlq_n_s32(v, 24), 24);
    out[1] = vshrq_n_s32(vshlq_n_s32(v, 16), 24);
    out[2] = vshrq_n_s32(vshlq_n_s32(v, 8), 24);
    out[3] = vshrq_n_s32(v, 24);
}

/* The twelve bytes of Q4_K and Q5_K. */
VD_INLINE void scales_of_six(const uint8_t *p, struct super_scales *s)
{
    const uint8x16_t a = super_step(p, 0), b = super_step(p, 1), c = super_step(p, 2);
    spread_bytes(masked(a, 63), s->sc);
    spread_bytes(vorrq_u8(masked(c, 15), masked(right(a, 2), 48)), s->sc + 4);
    spread_bytes(masked(b, 63), s->m);
    spread_bytes(vorrq_u8(right(c, 4), masked(right(b, 2), 48)), s->m + 4);
}

VD_INLINE void scales_q2_k(const uint8_t *p, struct super_scales *s)
{
    VD_UNROLL
    for (size_t i = 0; i < 4; i++) {
        spread_bytes(masked(super_step(p, i), 15), s->sc + 4 * i);
        spread_bytes(right(super_step(p, i), 4), s->m + 4 * i);
    }
}

/* The twelve bytes of Q3_K. */
VD_INLINE void scales_q3_k(const uint8_t *p, struct super_scales *s)
{
    VD_UNROLL
    for (int i = 0; i < 4; i++) {
        const uint8x16_t low = masked(right(super_step(p, (size_t)i % 2), i / 2 * 4), 15);
        const uint8x16_t high = masked(right(super_step(p, 2), 2 * i - 4), 48);
        spread_bytes(vsubq_u8(vorrq_u8(low, high), vdupq_n_u8(32)), s->sc + 4 * i);
    }
}

/* head: d and the upper bits; low: the eight nibbles. */
VD_INLINE void scales_iq4_xs(uint8x16_t head, uint8x16_t low, struct super_scales *s)
{
    const uint32x4_t h = vreinterpretq_u32_u8(head), l = vreinterpretq_u32_u8(low);
    VD_UNROLL
    for (int b = 0; b < 8; b++) {
        const uint32x4_t four = vandq_u32(vshlq_u32(l, vdupq_n_s32(-4 * b)), vdupq_n_u32(15));
        const uint32x4_t two = vandq_u32(vshlq_u32(h, vdupq_n_s32(-12 - 2 * b)), vdupq_n_u32(48));
        s->sc[b] = vsubq_s32(vreinterpretq_s32_u32(vorrq_u32(four, two)), vdupq_n_s32(32));
    }
}

/* Rows' two binary16 in one dword. */
VD_INLINE void load_two_halves(const uint8_t *p, size_t i, struct super_scales *s)
{
    const uint32x4_t v = vreinterpretq_u32_u8(super_step(p, i));
    s->d = vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(v)));
    s->dmin = vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32(v, 16)));
}

/* p: the super-block at the first of the four rows; tail: the rows' two bytes after the dwords, if any. */
VD_INLINE void load_super_scales(enum vd_wtype type, const uint8_t *p, const uint16_t *tail,
                                 struct super_scales *s)
{
    if (type == VD_WTYPE_Q4_K || type == VD_WTYPE_Q5_K) {
        load_two_halves(p, 0, s);
        scales_of_six(p + 64, s);
    } else if (type == VD_WTYPE_Q2_K) {
        load_two_halves(p, 20, s);
        scales_q2_k(p, s);
    } else if (type == VD_WTYPE_Q3_K) {
        s->d = load_half4(tail);
        scales_q3_k(p + 64 * 24, s);
    } else if (type == VD_WTYPE_Q6_K) {
        s->d = load_half4(tail);
        VD_UNROLL
        for (size_t i = 0; i < 4; i++)
            spread_bytes(super_step(p, 48 + i), s->sc + 4 * i);
    } else {
        load_two_halves(p, 0, s);
        scales_iq4_xs(super_step(p, 0), super_step(p, 1), s);
    }
}

/* Codes of four rows, columns 4i .. 4i + 3 of block b (i: 0 to 7). */
VD_INLINE int8x16_t super_codes(enum vd_wtype type, const uint8_t *p, size_t b, size_t i)
{
    const int half = (int)(b / 4), quarter = (int)(b % 4), n = (int)b;
    const size_t of_half = 8 * (b / 4) + i; /* steps where a half's four blocks share bytes */
    uint8x16_t u = vdupq_n_u8(0);
    if (type == VD_WTYPE_Q4_K)
        u = masked(right(super_step(p, 4 + 8 * (b / 2) + i), n % 2 * 4), 15);
    if (type == VD_WTYPE_Q5_K)
        u = vorrq_u8(masked(right(super_step(p, 12 + 8 * (b / 2) + i), n % 2 * 4), 15),
                     masked(right(super_step(p, 4 + i), n - 4), 16));
    if (type == VD_WTYPE_Q6_K) {
        u = masked(right(super_step(p, 8 * (size_t)(2 * half + quarter % 2) + i), quarter / 2 * 4), 15);
        u = vorrq_u8(u, masked(right(super_step(p, 32 + of_half), 2 * quarter - 4), 48));
        u = vsubq_u8(u, vdupq_n_u8(32));
    }
    if (type == VD_WTYPE_Q2_K)
        u = masked(right(super_step(p, 4 + of_half), 2 * quarter), 3);
    if (type == VD_WTYPE_Q3_K) {
        u = masked(right(super_step(p, 8 + of_half), 2 * quarter), 3);
        u = vorrq_u8(u, masked(right(super_step(p, i), n - 2), 4));
        u = vsubq_u8(u, vdupq_n_u8(4));
    }
    if (type == VD_WTYPE_IQ4_XS) {
        u = masked(right(super_step(p, 2 + 4 * b + i % 4), i < 4 ? 0 : 4), 15);
        return vqtbl1q_s8(vld1q_s8(vd_wtype_iq4_table), u);
    }
    return vreinterpretq_s8_u8(u);
}

/* sum[i][k] += the 16 columns of steps i0 .. i0 + 3 of block b, for n tokens, whose codes of these columns
 * begin at q and lie a super-block apart. */
VD_INLINE void sixteen_by_lane(enum vd_wtype type, int n, int n_quads, const uint8_t *p, size_t b, size_t i0,
                               const int8_t *q, int32x4_t sum[][4])
{
    int8x16_t x[VD_NEON_TILE];
    VD_UNROLL
    for (int i = 0; i < n; i++)
        x[i] = vld1q_s8(q + VD_KERN_BLOCK256 * i);
    VD_UNROLL
    for (int j = 0; j < 4; j++)
        VD_UNROLL
    for (int k = 0; k < n_quads; k++) {
        const int8x16_t w = super_codes(type, p + 16 * k, b, i0 + (size_t)j);
        VD_UNROLL
        for (int i = 0; i < n; i++)
            sum[i][k] = dot_lane(sum[i][k], w, x[i], j);
    }
}

#if defined(__ARM_FEATURE_MATMUL_INT8)
VD_INLINE void sixteen_by_pairs(enum vd_wtype type, int n, int n_quads, const uint8_t *p, size_t b, size_t i0,
                                const int8_t *q, int32x4_t sum[][4])
{
    int32x4_t acc[2][4][2];
    VD_UNROLL
    for (int i = 0; i < n; i += 2)
        VD_UNROLL
    for (int k = 0; k < n_quads; k++)
        acc[i / 2][k][0] = acc[i / 2][k][1] = vdupq_n_s32(0);
    VD_UNROLL
    for (int j = 0; j < 4; j += 2)
        VD_UNROLL
    for (int k = 0; k < n_quads; k++) {
        const int8x16_t u = super_codes(type, p + 16 * k, b, i0 + (size_t)j),
                        v = super_codes(type, p + 16 * k, b, i0 + (size_t)j + 1);
        VD_UNROLL
        for (int i = 0; i < n; i += 2) {
            const int8_t *x = q + VD_KERN_BLOCK256 * i + 4 * j, *y = i + 1 < n ? x + VD_KERN_BLOCK256 : x;
            mma_quad(acc[i / 2][k], u, v, token_pair(x, y));
        }
    }
    VD_UNROLL
    for (int i = 0; i < n; i++)
        VD_UNROLL
    for (int k = 0; k < n_quads; k++) {
        const int32x4_t *s = acc[i / 2][k];
        sum[i][k] = vaddq_s32(sum[i][k], i % 2 == 0 ? vuzp1q_s32(s[0], s[1]) : vuzp2q_s32(s[0], s[1]));
    }
}
#endif

VD_INLINE void sixteen(enum vd_wtype type, int n, int n_quads, const uint8_t *p, size_t b, size_t i0,
                       const int8_t *q, int32x4_t sum[][4])
{
#if defined(__ARM_FEATURE_MATMUL_INT8)
    if (n > 1) {
        sixteen_by_pairs(type, n, n_quads, p, b, i0, q, sum);
        return;
    }
#endif
    sixteen_by_lane(type, n, n_quads, p, b, i0, q, sum);
}

/* total[i][k] += sum[i][k] * the quad's scale; sum starts again at 0. */
VD_INLINE void fold(int n, int n_quads, const struct super_scales *s, size_t sub, int32x4_t sum[][4],
                    int32x4_t total[][4])
{
    VD_UNROLL
    for (int i = 0; i < n; i++)
        VD_UNROLL
    for (int k = 0; k < n_quads; k++) {
        total[i][k] = vmlaq_s32(total[i][k], sum[i][k], s[k].sc[sub]);
        sum[i][k] = vdupq_n_s32(0);
    }
}

/* The product of a quad's mins with one token's sums, which stand in the order of vd_kern_wide.h. */
VD_INLINE int32x4_t min_sum(enum vd_wtype type, const struct super_scales *s, const struct vd_wide_super *a,
                            size_t tok)
{
    static const uint8_t at[SUPER_SUBS] = {0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15};
    const int16_t *sums = super_has_sixteens(type) ? a->sums16[tok] : a->sums32[tok];
    const int n_subs = super_has_sixteens(type) ? SUPER_SUBS : SUPER_SUBS / 2;
    int32x4_t v = vdupq_n_s32(0);
    VD_UNROLL
    for (int i = 0; i < n_subs; i++)
        v = vmlaq_n_s32(v, s->m[i], sums[at[i]]);
    return v;
}

/* One super-block, n_quads times four rows from row 4 * quad on: acc[token] gets what it adds. */
VD_INLINE void super_block(enum vd_wtype type, int n, int quad, int n_quads, const uint8_t *p,
                           const struct vd_wide_super *a, size_t slot, float32x4_t acc[][4])
{
    const size_t tail = vd_wtype_info(type)->block_bytes / 4 * 64;
    const int8_t *q = a->q[slot];
    struct super_scales s[4];
    int32x4_t sum[VD_NEON_TILE][4], total[VD_NEON_TILE][4];
    VD_UNROLL
    for (int k = 0; k < n_quads; k++) {
        load_super_scales(type, p + 16 * (quad + k), (const uint16_t *)(p + tail) + 4 * (quad + k), &s[k]);
        VD_UNROLL
        for (int i = 0; i < n; i++)
            sum[i][k] = total[i][k] = vdupq_n_s32(0);
    }
    for (size_t b = 0; b < 8; b++) {
        sixteen(type, n, n_quads, p + 16 * quad, b, 0, q + 32 * b, sum);
        if (super_has_sixteens(type))
            fold(n, n_quads, s, 2 * b, sum, total);
        sixteen(type, n, n_quads, p + 16 * quad, b, 4, q + 32 * b + 16, sum);
        fold(n, n_quads, s, super_has_sixteens(type) ? 2 * b + 1 : b, sum, total);
    }
    VD_UNROLL
    for (int i = 0; i < n; i++)
        VD_UNROLL
    for (int k = 0; k < n_quads; k++) {
        const float da = a->d[slot + (size_t)i];
        acc[i][k] = vfmaq_f32(acc[i][k], vmulq_n_f32(s[k].d, da), vcvtq_f32_s32(total[i][k]));
        if (super_has_min(type))
            acc[i][k] = vfmsq_f32(acc[i][k], vmulq_n_f32(s[k].dmin, da),
                                  vcvtq_f32_s32(min_sum(type, &s[k], a, slot + (size_t)i)));
    }
}

VD_INLINE void super_rows(enum vd_wtype type, int n, const struct vd_neon_tile *t,
                          float32x4_t out[4][VD_NEON_TILE])
{
    const size_t bytes = (size_t)vd_wtype_info(type)->block_bytes * WIDE_ROWS;
    const struct vd_wide_super *a = t->act;
    const int n_quads = n <= 2 ? 4 : 2;
    for (size_t k0 = 0; k0 < t->n_blocks; k0 += SUPER_SEG) {
        const size_t k1 = k0 + SUPER_SEG < t->n_blocks ? k0 + SUPER_SEG : t->n_blocks;
        for (int quad = 0; quad < 4; quad += n_quads) {
            float32x4_t acc[VD_NEON_TILE][4];
            VD_UNROLL
            for (int i = 0; i < n; i++)
                acc[i][0] = acc[i][1] = acc[i][2] = acc[i][3] = vdupq_n_f32(0.0f);
            for (size_t k = k0; k < k1; k++)
                super_block(type, n, quad, n_quads, t->w + k * bytes, a + k, t->slot, acc);
            VD_UNROLL
            for (int i = 0; i < n; i++)
                VD_UNROLL
            for (int k = 0; k < n_quads; k++)
                out[quad + k][i] = k0 == 0 ? acc[i][k] : vaddq_f32(out[quad + k][i], acc[i][k]);
        }
    }
}

/* As TILE_FNS and TILE_ENTRIES of vd_kern_neon_dot.h. */
#define SUPER_FN(type, n)                                                                                    \
    static void tile_##type##_##n(const struct vd_neon_tile *t, float32x4_t out[4][VD_NEON_TILE])            \
    {                                                                                                        \
        super_rows(VD_WTYPE_##type, n, t, out);                                                              \
    }
#define SUPER_FNS_OF(type) SUPER_FN(type, 1) SUPER_FN(type, 2) SUPER_FN(type, 3) SUPER_FN(type, 4)
#define SUPER_FNS                                                                                            \
    SUPER_FNS_OF(Q2_K)                                                                                       \
    SUPER_FNS_OF(Q3_K) SUPER_FNS_OF(Q4_K) SUPER_FNS_OF(Q5_K) SUPER_FNS_OF(Q6_K) SUPER_FNS_OF(IQ4_XS)
#define SUPER_ENTRIES                                                                                        \
    [VD_WTYPE_Q2_K] = TILE_ROW(Q2_K, NULL), [VD_WTYPE_Q3_K] = TILE_ROW(Q3_K, NULL),                          \
    [VD_WTYPE_Q4_K] = TILE_ROW(Q4_K, NULL), [VD_WTYPE_Q5_K] = TILE_ROW(Q5_K, NULL),                          \
    [VD_WTYPE_Q6_K] = TILE_ROW(Q6_K, NULL), [VD_WTYPE_IQ4_XS] = TILE_ROW(IQ4_XS, NULL)

#endif
