/* Products of a row of weights with a vector.
 *
 * Inside a segment of 512 elements the sum goes up one block (or one element) at a time from +0; the segment
 * sums are then added ascending, starting from the first. Per block of 32, with isum and asum (the sum of the
 * activations' q) exact in int32:
 *   Q8_0, Q4_0, Q5_0  acc = fma(d_w * d_a, (float)isum, acc)
 *   Q4_1, Q5_1        the same with the unsigned codes, then acc = fma(m_w * d_a, (float)asum, acc)
 *   F32, F16, BF16    per element acc = fma(w, x, acc)
 * d_w * d_a is exact (11 + 11 bits) unless it overflows. */
#ifndef VD_DOT_H
#define VD_DOT_H

#include <stdint.h>

#include "vd_num.h"
#include "vd_wtype.h"

/* sum of a[i] * b[i]; n <= 65,536, exact. */
int32_t vd_num_isum(const int8_t *a, const int8_t *b, uint32_t n);

/* One segment of a quantised type. w_seg: the row's bytes from the segment's first block on; q[0..n_elem) and
 * d[0..n_elem/32): the activations. n_elem: a multiple of 32, at most 512. */
float vd_num_dot_seg(enum vd_wtype type, const void *w_seg, const int8_t *q, const float *d, uint32_t n_elem);

/* One segment of a float type with binary32 activations; n_elem at most 512. */
float vd_num_dot_seg_float(enum vd_wtype type, const void *w_seg, const float *x, uint32_t n_elem);

/* partial[0] + partial[1] + ..., ascending; n >= 1. */
float vd_num_sum_segs(const float *partial, uint32_t n);

/* The whole row, n elements: segments and their sum. */
float vd_num_dot_row(enum vd_wtype type, const void *w_row, const int8_t *q, const float *d, uint32_t n);
float vd_num_dot_row_float(enum vd_wtype type, const void *w_row, const float *x, uint32_t n);

#endif
