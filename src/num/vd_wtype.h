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
 *   Q8_0  d, qs[32]     element j is qs[j] (signed), times d */
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
    VD_WTYPE_BF16 = 30,
};

struct vd_wtype_info {
    const char *name; /* NULL for an id that this version does not know */
    uint32_t block_elems;
    uint32_t block_bytes;
    bool has_min;   /* blocks carry a min m besides the scale d */
    bool quantised; /* true: takes quantised activations (vd_num_dot_seg); false: binary32 ones (.._seg_float)
                     */
};

/* Whether this version computes with the type of that id (any number, for instance one read from a file). */
bool vd_wtype_known(uint32_t id);

/* The type's entry; id must be known. */
const struct vd_wtype_info *vd_wtype_info(enum vd_wtype type);

/* Bytes of a row of n elements; n must be a multiple of the type's block_elems. */
size_t vd_wtype_row_bytes(enum vd_wtype type, size_t n);

/* The parts of one block of a quantised type: the 32 integers in element order (Q4_0 already less 8, Q5_0
 * less 16), and d and m (+0 for a type without a min). */
void vd_wtype_block_ints(enum vd_wtype type, const uint8_t *block, int8_t q[32]);
void vd_wtype_block_scales(enum vd_wtype type, const uint8_t *block, float *d, float *m);

/* binary16 to binary32, exact. A NaN gives a NaN, its bits free. */
float vd_f16_to_f32(uint16_t h);

/* bfloat16 to binary32, exact: the same bits with sixteen zeros below. */
float vd_bf16_to_f32(uint16_t h);

/* binary32 to binary16, to nearest even; overflow gives infinity, a NaN gives 0x7E00 with the sign kept. */
uint16_t vd_f16_from_f32(float x);

/* y[0..n) = elements first .. first + n of the row, as binary32: (float)q * d, with a min fma((float)q, d,
 * m). */
void vd_num_dequant(enum vd_wtype type, const void *row, uint32_t first, uint32_t n, float *y);

/* Whether every scale and min (quantised types) or every value (float types) of n elements is finite. A model
 * with another weight is refused when it is loaded. n must be a multiple of block_elems. */
bool vd_num_weights_finite(enum vd_wtype type, const void *row, size_t n);

#endif
