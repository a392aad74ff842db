/* Private: byte dot products of packed codes, by SDOT or by SMMLA, and the products' tiles made of them. Only
 * *_neon.c and *_i8mm.c may include this.
 *
 * SDOT takes a step as it lies: four rows, four columns, times four broadcast bytes of one token. SMMLA
 * multiplies 2 rows x 8 columns with 8 columns x 2 tokens, twice the work of an instruction: two steps are
 * zipped into pairs of rows, two tokens into a pair, and the 2 x 2 sums unzipped at the block's end. */
#ifndef VD_KERN_NEON_DOT_H
#define VD_KERN_NEON_DOT_H

#include "vd_kern_neon.h"

/* Steps j and j + 4 (columns 4j.. and 16 + 4j..) of n_quads times four rows, signed; codes points at the
 * first row's. */
VD_INLINE void step_codes(enum vd_wtype type, int n_quads, const uint8_t *codes, int j, int8x16_t lo[4],
                          int8x16_t hi[4])
{
    const bool five = vd_wide_type(type).five;
    const uint8x16_t bit4 = vdupq_n_u8(16);
    VD_UNROLL
    for (int k = 0; k < n_quads; k++) {
        if (vd_wide_type(type).flip) {
            lo[k] = load_flipped(codes + 64 * j + 16 * k);
            hi[k] = load_flipped(codes + 64 * (j + 4) + 16 * k);
            continue;
        }
        const uint8x16_t u = vld1q_u8(codes + (five ? 64 : 0) + 64 * j + 16 * k);
        uint8x16_t a = vandq_u8(u, vdupq_n_u8(15)), b = vshrq_n_u8(u, 4);
        if (vd_wide_type(type).table != NULL) {
            const int8x16_t table = vld1q_s8(vd_wide_type(type).table);
            lo[k] = vqtbl1q_s8(table, a);
            hi[k] = vqtbl1q_s8(table, b);
            continue;
        }
        if (five) {
            const uint8x16_t high = vld1q_u8(codes + 16 * k);
            a = vbslq_u8(bit4, high << (4 - j), a);
            b = vbslq_u8(bit4, high >> j, b);
        }
        lo[k] = vreinterpretq_s8_u8(a);
        hi[k] = vreinterpretq_s8_u8(b);
    }
}

/* sum[i][k] = four rows' codes of a block times the 32 int8 at q + i * stride, for n right-hand sides. */
VD_INLINE void dots_by_lane(enum vd_wtype type, int n, int n_quads, const uint8_t *codes, const int8_t *q,
                            size_t stride, int32x4_t sum[][4])
{
    VD_UNROLL
    for (int i = 0; i < n; i++)
        VD_UNROLL
    for (int k = 0; k < n_quads; k++)
        sum[i][k] = vdupq_n_s32(0);
    VD_UNROLL
    for (int j = 0; j < 4; j++) {
        int8x16_t lo[4], hi[4];
        step_codes(type, n_quads, codes, j, lo, hi);
        VD_UNROLL
        for (int i = 0; i < n; i++) {
            const int8x16_t q0 = vld1q_s8(q + (size_t)i * stride), q1 = vld1q_s8(q + (size_t)i * stride + 16);
            VD_UNROLL
            for (int k = 0; k < n_quads; k++) {
                sum[i][k] = dot_lane(sum[i][k], lo[k], q0, j);
                sum[i][k] = dot_lane(sum[i][k], hi[k], q1, j);
            }
        }
    }
}

#if defined(__ARM_FEATURE_MATMUL_INT8)
/* Two tokens' eight bytes beside each other. */
VD_INLINE int8x16_t token_pair(const int8_t *a, const int8_t *b)
{
    return vcombine_s8(vld1_s8(a), vld1_s8(b));
}

/* acc[0], acc[1] += rows 0, 1 and 2, 3 of a quad, eight columns (steps a, b), times a pair of tokens. */
VD_INLINE void mma_quad(int32x4_t acc[2], int8x16_t a, int8x16_t b, int8x16_t pair)
{
    const int32x4_t x = vreinterpretq_s32_s8(a), y = vreinterpretq_s32_s8(b);
    acc[0] = vmmlaq_s32(acc[0], vreinterpretq_s8_s32(vzip1q_s32(x, y)), pair);
    acc[1] = vmmlaq_s32(acc[1], vreinterpretq_s8_s32(vzip2q_s32(x, y)), pair);
}

/* The same sums for pairs of tokens; an odd last one is its own partner. */
VD_INLINE void dots_by_pairs(enum vd_wtype type, int n, int n_quads, const uint8_t *codes, const int8_t *q,
                             size_t stride, int32x4_t sum[][4])
{
    int32x4_t acc[2][4][2];
    VD_UNROLL
    for (int i = 0; i < n; i += 2)
        VD_UNROLL
    for (int k = 0; k < n_quads; k++)
        acc[i / 2][k][0] = acc[i / 2][k][1] = vdupq_n_s32(0);
    VD_UNROLL
    for (int j = 0; j < 4; j += 2) {
        int8x16_t lo[2][4], hi[2][4];
        step_codes(type, n_quads, codes, j, lo[0], hi[0]);
        step_codes(type, n_quads, codes, j + 1, lo[1], hi[1]);
        VD_UNROLL
        for (int i = 0; i < n; i += 2) {
            const int8_t *a = q + (size_t)i * stride + 4 * j, *b = i + 1 < n ? a + stride : a;
            const int8x16_t p = token_pair(a, b), r = token_pair(a + 16, b + 16);
            VD_UNROLL
            for (int k = 0; k < n_quads; k++) {
                mma_quad(acc[i / 2][k], lo[0][k], lo[1][k], p);
                mma_quad(acc[i / 2][k], hi[0][k], hi[1][k], r);
            }
        }
    }
    VD_UNROLL
    for (int i = 0; i < n; i++)
        VD_UNROLL
    for (int k = 0; k < n_quads; k++) {
        const int32x4_t *s = acc[i / 2][k];
        sum[i][k] = i % 2 == 0 ? vuzp1q_s32(s[0], s[1]) : vuzp2q_s32(s[0], s[1]);
    }
}
#endif

VD_INLINE void block_dots(enum vd_wtype type, int n, int n_quads, const uint8_t *codes, const int8_t *q,
                          size_t stride, int32x4_t sum[][4])
{
#if defined(__ARM_FEATURE_MATMUL_INT8)
    if (n > 1) {
        dots_by_pairs(type, n, n_quads, codes, q, stride, sum);
        return;
    }
#endif
    dots_by_lane(type, n, n_quads, codes, q, stride, sum);
}

/* Four scales that are exponents: 2^(e - 128), see vd_wtype.h. */
VD_INLINE float32x4_t load_exponents4(const uint8_t *p)
{
    uint32_t four;
    memcpy(&four, p, 4);
    const uint32x4_t e = vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four))));
    const uint32x4_t small = vshlq_u32(vdupq_n_u32(0x200000), vreinterpretq_s32_u32(e));
    const uint32x4_t normal = vshlq_n_u32(vsubq_u32(e, vdupq_n_u32(1)), 23);
    uint32x4_t bits = vbslq_u32(vcltq_u32(e, vdupq_n_u32(2)), small, normal);
    bits = vbslq_u32(vceqq_u32(e, vdupq_n_u32(255)), vdupq_n_u32(VD_NAN_BITS), bits);
    return vreinterpretq_f32_u32(bits);
}

/* Scales of the four rows from `row` on; which: 0 the scale, 1 the min. */
VD_INLINE float32x4_t load_scales4(enum vd_wtype type, const uint8_t *p, int row, int which)
{
    if (vd_wide_type(type).head_bytes == 1)
        return load_exponents4(p + row);
    return load_half4((const uint16_t *)p + which * WIDE_ROWS + row);
}

/* One block at p of n_quads times four rows, from row 4 * quad on: acc[token] gets its fma, and that of the
 * min; huge: the min term by the letter (see vd_kern_wide.h). */
VD_INLINE void block_step(enum vd_wtype type, int n, bool huge, int quad, int n_quads, const uint8_t *p,
                          const struct vd_wide_act *a, size_t slot, float32x4_t acc[][4])
{
    const struct vd_wide_type layout = vd_wide_type(type);
    const bool corrected =
        !layout.has_min && !layout.flip && layout.table == NULL; /* the codes are too high */
    int32x4_t sum[VD_NEON_TILE][4];
    block_dots(type, n, n_quads, p + layout.head_bytes * WIDE_ROWS + 16 * quad, a->q[slot], VD_KERN_BLOCK,
               sum);
    VD_UNROLL
    for (int k = 0; k < n_quads; k++) {
        const float32x4_t dw = load_scales4(type, p, 4 * (quad + k), 0);
        const float32x4_t mw = layout.has_min ? load_scales4(type, p, 4 * (quad + k), 1) : dw;
        VD_UNROLL
        for (int i = 0; i < n; i++) {
            const size_t t = slot + (size_t)i;
            int32x4_t isum = sum[i][k];
            if (corrected)
                isum = vsubq_s32(isum, vdupq_n_s32(a->asum[t] * (1 << layout.offset_log2)));
            acc[i][k] = vfmaq_f32(acc[i][k], vmulq_n_f32(dw, a->d[t]), vcvtq_f32_s32(isum));
            if (layout.has_min && huge)
                acc[i][k] = vfmaq_f32(acc[i][k], vmulq_n_f32(mw, a->d[t]), vdupq_n_f32((float)a->asum[t]));
            if (layout.has_min && !huge)
                acc[i][k] = vfmaq_n_f32(acc[i][k], mw, a->s[t]);
        }
    }
}

/* One segment, n_quads at a time: up to two tokens all 16 rows fit the registers, else eight. */
VD_INLINE void tile_segment(enum vd_wtype type, int n, bool huge, const struct vd_neon_tile *t, size_t b0,
                            float32x4_t out[4][VD_NEON_TILE])
{
    const struct vd_wide_type layout = vd_wide_type(type);
    const size_t block_bytes = (size_t)(layout.head_bytes + layout.code_bytes) * WIDE_ROWS;
    const size_t b1 = b0 + WIDE_SEG_BLOCKS < t->n_blocks ? b0 + WIDE_SEG_BLOCKS : t->n_blocks;
    const struct vd_wide_act *block = ((const struct vd_wide_act_group *)t->act)->block;
    const int n_quads = n <= 2 ? 4 : 2;
    VD_UNROLL
    for (int quad = 0; quad < 4; quad += n_quads) {
        float32x4_t acc[VD_NEON_TILE][4];
        VD_UNROLL
        for (int i = 0; i < n; i++)
            acc[i][0] = acc[i][1] = acc[i][2] = acc[i][3] = vdupq_n_f32(0.0f);
        for (size_t b = b0; b < b1; b++)
            block_step(type, n, huge, quad, n_quads, t->w + b * block_bytes, &block[b], t->slot, acc);
        VD_UNROLL
        for (int i = 0; i < n; i++)
            VD_UNROLL
        for (int k = 0; k < n_quads; k++)
            out[quad + k][i] = b0 == 0 ? acc[i][k] : vaddq_f32(out[quad + k][i], acc[i][k]);
    }
}

VD_INLINE void tile_rows(enum vd_wtype type, int n, bool huge, const struct vd_neon_tile *t,
                         float32x4_t out[4][VD_NEON_TILE])
{
    for (size_t b = 0; b < t->n_blocks; b += WIDE_SEG_BLOCKS)
        tile_segment(type, n, huge, t, b, out);
}

/* A file that includes this writes TILE_FNS and then a table with TILE_ENTRIES. */
#define TILE_FN(type, n, name, huge)                                                                         \
    static void tile_##type##_##name(const struct vd_neon_tile *t, float32x4_t out[4][VD_NEON_TILE])         \
    {                                                                                                        \
        tile_rows(VD_WTYPE_##type, n, huge, t, out);                                                         \
    }
#define TILE_FNS_OF(type)                                                                                    \
    TILE_FN(type, 1, 1, false)                                                                               \
    TILE_FN(type, 2, 2, false) TILE_FN(type, 3, 3, false) TILE_FN(type, 4, 4, false)
#define TILE_FNS                                                                                             \
    TILE_FNS_OF(Q4_0)                                                                                        \
    TILE_FNS_OF(Q4_1)                                                                                        \
    TILE_FNS_OF(Q5_0)                                                                                        \
    TILE_FNS_OF(Q5_1)                                                                                        \
    TILE_FNS_OF(Q8_0)                                                                                        \
    TILE_FNS_OF(IQ4_NL)                                                                                      \
    TILE_FNS_OF(MXFP4) TILE_FN(Q4_1, 1, huge, true) TILE_FN(Q5_1, 1, huge, true)

#define TILE_ROW(type, huge)                                                                                 \
    {                                                                                                        \
        tile_##type##_1, tile_##type##_2, tile_##type##_3, tile_##type##_4, huge                             \
    }
#define TILE_ENTRIES                                                                                         \
    [VD_WTYPE_Q4_0] = TILE_ROW(Q4_0, NULL), [VD_WTYPE_Q4_1] = TILE_ROW(Q4_1, tile_Q4_1_huge),                \
    [VD_WTYPE_Q5_0] = TILE_ROW(Q5_0, NULL), [VD_WTYPE_Q5_1] = TILE_ROW(Q5_1, tile_Q5_1_huge),                \
    [VD_WTYPE_Q8_0] = TILE_ROW(Q8_0, NULL), [VD_WTYPE_IQ4_NL] = TILE_ROW(IQ4_NL, NULL),                      \
    [VD_WTYPE_MXFP4] = TILE_ROW(MXFP4, NULL)

#endif
