/* Products of a row of weights with a vector.
 *
 * Inside a segment of 512 elements the sum goes up one block (or one element) at a time from +0; the segment
 * sums are then added ascending, starting from the first. Per block of 32, with isum and asum (the sum of the
 * activations' q) exact in int32:
 *   Q8_0, Q4_0, Q5_0, IQ4_NL, MXFP4  acc = fma(d_w * d_a, (float)isum, acc)
 *   Q4_1, Q5_1        the same with the unsigned codes, then acc = fma(m_w * d_a, (float)asum, acc)
 *   F32, F16, BF16    per element acc = fma(w, x, acc)
 * Per super-block of 256, whose activations have one scale, with isum = sum of sc * (sum of w * q over the
 * sub-block) and msum = sum of m * (sum of q over the sub-block), both exact in int32:
 *   Q3_K, Q6_K, IQ4_XS  acc = fma(d_w * d_a, (float)isum, acc)
 *   Q2_K, Q4_K, Q5_K    the same, then acc = fma(-(dmin_w * d_a), (float)msum, acc)
 * d_w * d_a is exact (11 + 11 bits) unless it overflows or, with MXFP4, is below the smallest normal number;
 * then it is rounded once. */
#ifndef VD_DOT_H
#define VD_DOT_H

#include <stdint.h>

#include "vd_num.h"
#include "vd_wtype.h"

/* sum of a[i] * b[i]; n <= 65,536, exact. */
int32_t vd_num_isum(const int8_t *a, const int8_t *b, uint32_t n);

/* One segment of a quantised type. w_seg: the row's bytes from the segment's first block on; q[0..n_elem) and
 * d[0..n_elem/act_block): the activations, quantised in blocks of the type's act_block. n_elem: a multiple of
 * the type's block_elems, at most 512. */
float vd_num_dot_seg(enum vd_wtype type, const void *w_seg, const int8_t *q, const float *d, uint32_t n_elem);

/* One segment of a float type with binary32 activations; n_elem at most 512. */
float vd_num_dot_seg_float(enum vd_wtype type, const void *w_seg, const float *x, uint32_t n_elem);

/* partial[0] + partial[1] + ..., ascending; n >= 1. */
float vd_num_sum_segs(const float *partial, uint32_t n);

/* The whole row, n elements: segments and their sum. */
float vd_num_dot_row(enum vd_wtype type, const void *w_row, const int8_t *q, const float *d, uint32_t n);
float vd_num_dot_row_float(enum vd_wtype type, const void *w_row, const float *x, uint32_t n);

#endif
