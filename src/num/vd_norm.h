/* RMSNorm. Per segment of 512: lane j (of 32) sums x[j], x[j + 32], ... by lane = fma(x, x, lane) from +0,
 * ascending; then lane[j] += lane[j + 16], + 8, + 4, + 2, + 1. Segment sums are added ascending from the
 * first, giving s.
 *
 *   r = 1 / sqrt(s / (float)n + eps)
 *   y = (x * r) * w */
#ifndef VD_NORM_H
#define VD_NORM_H

#include <stdint.h>

/* The tree that every 32-lane sum ends with; lane[] is destroyed. */
float vd_num_tree32(float lane[32]);

/* Sum of squares of one segment; n <= 512. */
float vd_num_sumsq_seg(const float *x, uint32_t n);

/* r from the n_seg segment sums of a vector of n_elem elements. */
float vd_num_rms_scale(const float *partial, uint32_t n_seg, uint32_t n_elem, float eps);

/* y[i] = (x[i] * r) * w[i]; y == x is allowed. */
void vd_num_rms_mul(const float *x, float r, const float *w, uint32_t n, float *y);

/* 1 / sqrt(s), by which a vector gets the length 1; 0 unless s > 0. */
float vd_num_l2_scale(const float *partial, uint32_t n_seg);

/* All of it; y == x is allowed. */
void vd_num_rmsnorm(const float *x, const float *w, uint32_t n, float eps, float *y);

#endif
