/* Weight types: how a row of weights lies in memory, by the ids and the layouts of GGUF.
 *
 * A row is a sequence of blocks, little-endian, without alignment. Blocks (d, m are binary16):
 *   F32   4 bytes       one binary32
 *   F16   2 bytes       one binary16
 *   BF16  2 bytes       the upper half of a binary32
 *   Q4_0  d, qs[16]     element j is (qs[j] & 15) - 8, element j + 16 is (qs[j] >> 4) - 8, times d
 *   Q4_1  d, m, qs[16]  element j is qs[j] & 15, element j + 16 is qs[j] >> 4, times d, plus m
 *   Q5_0  d, qh[4], qs[16]     as Q4_0 with bit j of qh (little-endian) above element j's four, less 16
 *   Q5_1  d, m, qh[4], qs[16]  as Q4_1 with bit j of qh above element j's four
 *   Q8_0  d, qs[32]     element j is qs[j] (signed), times d
 *   IQ4_NL d, qs[16]    nibbles as in Q4_0, each an index of vd_wtype_iq4_table, times d
 *   MXFP4 e, qs[16]     nibbles as in Q4_0, each an index of vd_wtype_fp4_table (twice the value of a 4-bit
 *                       float), times 2^(e - 128); e = 255 is a NaN
 *
 * Super-blocks of 256 elements (d, dmin are binary16). Element i has an integer w, its sub-block of 16 a
 * small integer scale sc and, for types with a min, a small integer m: d * (sc * w) - dmin * m. Where the
 * format has sub-blocks of 32, two neighbours of 16 have the same sc and m. h = i / 128, k = i / 32 % 4, l =
 * i % 32: Q2_K  s[16], qs[64], d, dmin        w: bits 2k, 2k + 1 of qs[32h + l]; sc, m: low, high nibble of s
 *   Q3_K  hm[32], qs[64], s[12], d      w: as Q2_K, plus 4 * bit 4h + k of hm[l], less 4; sc: six bits less
 * 32 Q4_K  d, dmin, s[12], qs[128]       w: nibble k % 2 of qs[32 (i / 64) + l]; sc, m: six bits each Q5_K d,
 * dmin, s[12], qh[32], qs[128]  as Q4_K, plus 16 * bit i / 32 of qh[l] Q6_K  ql[128], qh[64], sc[16], d    w:
 * nibble k / 2 of ql[64h + 32 (k % 2) + l], plus 16 * bits 2k, 2k + 1 of qh[32h + l], less 32; sc: signed
 * bytes IQ4_XS d, sh[2], sl[4], qs[128]     w: blocks of 32 as in IQ4_NL; sc: four bits of sl, two of sh,
 * less 32 */
#ifndef VD_WTYPE_H
#define VD_WTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum vd_wtype {
    VD_WTYPE_F32 = 0,
    VD_WTYPE_F16 = 1,
    VD_WTYPE_Q4_0 = 2,
    VD_WTYPE_Q4_1 = 3,
    VD_WTYPE_Q5_0 = 6,
    VD_WTYPE_Q5_1 = 7,
    VD_WTYPE_Q8_0 = 8,
    VD_WTYPE_Q2_K = 10,
    VD_WTYPE_Q3_K = 11,
    VD_WTYPE_Q4_K = 12,
    VD_WTYPE_Q5_K = 13,
    VD_WTYPE_Q6_K = 14,
    VD_WTYPE_IQ4_NL = 20,
    VD_WTYPE_IQ4_XS = 23,
    VD_WTYPE_BF16 = 30,
    VD_WTYPE_MXFP4 = 39,
};

struct vd_wtype_info {
    const char *name; /* NULL for an id that this version does not know */
    uint16_t block_elems;
    uint16_t block_bytes;
    uint16_t act_block; /* elements under one scale of the activations it takes: 0 (binary32), 32 or 256 */
    uint8_t d_at;       /* byte of a block where the binary16 scale lies (quantised types but MXFP4) */
    uint8_t min_at;     /* where the binary16 min lies, if has_min */
    bool has_min;       /* blocks carry a min besides the scale */
    bool quantised; /* true: takes quantised activations (vd_num_dot_seg); false: binary32 ones (.._seg_float)
                     */
};

/* Elements of a super-block, and its sub-blocks. */
#define VD_SUPER_ELEMS 256u
#define VD_SUPER_SUBS  16u

/* A super-block taken apart. */
struct vd_wtype_super {
    float d, dmin;            /* dmin is +0 for a type without a min */
    int8_t w[VD_SUPER_ELEMS]; /* in element order */
    int8_t sc[VD_SUPER_SUBS]; /* of elements 16s .. 16s + 15 */
    uint8_t m[VD_SUPER_SUBS]; /* 0 for a type without a min */
};

/* What the nibbles of IQ4_NL and IQ4_XS, and of MXFP4, stand for. */
extern const int8_t vd_wtype_iq4_table[16];
extern const int8_t vd_wtype_fp4_table[16];

/* Whether this version computes with the type of that id (any number, for instance one read from a file). */
bool vd_wtype_known(uint32_t id);

/* The type's entry; id must be known. */
const struct vd_wtype_info *vd_wtype_info(enum vd_wtype type);

/* Bytes of a row of n elements; n must be a multiple of the type's block_elems. */
size_t vd_wtype_row_bytes(enum vd_wtype type, size_t n);

/* The parts of one block of a quantised type with blocks of 32: the 32 integers in element order (Q4_0
 * already less 8, Q5_0 less 16, table values looked up), and d and m (+0 for a type without a min). */
void vd_wtype_block_ints(enum vd_wtype type, const uint8_t *block, int8_t q[32]);
void vd_wtype_block_scales(enum vd_wtype type, const uint8_t *block, float *d, float *m);

/* The parts of one super-block of a type with blocks of 256. */
void vd_wtype_super_parts(enum vd_wtype type, const uint8_t *block, struct vd_wtype_super *s);

/* binary16 to binary32, exact. A NaN gives a NaN, its bits free. */
float vd_f16_to_f32(uint16_t h);

/* bfloat16 to binary32, exact: the same bits with sixteen zeros below. */
float vd_bf16_to_f32(uint16_t h);

/* binary32 to binary16, to nearest even; overflow gives infinity, a NaN gives 0x7E00 with the sign kept. */
uint16_t vd_f16_from_f32(float x);

/* y[0..n) = elements first .. first + n of the row, as binary32: (float)q * d, with a min fma((float)q, d,
 * m); of a super-block d * (float)(sc * w) - dmin * (float)m, whose products are exact. */
void vd_num_dequant(enum vd_wtype type, const void *row, uint32_t first, uint32_t n, float *y);

/* Whether every scale and min (quantised types) or every value (float types) of n elements is finite. A model
 * with another weight is refused when it is loaded. n must be a multiple of block_elems. */
bool vd_num_weights_finite(enum vd_wtype type, const void *row, size_t n);

#endif
