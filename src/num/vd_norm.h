/* RMSNorm. Per segment of 512: lane j (of 32) sums x[j], x[j + 32], ... by lane = fma(x, x, lane) from +0,
 * ascending; then lane[j] += lane[j + 16], + 8, + 4, + 2, + 1. Segment sums are added ascending from the
 * first, giving s.
 *
 *   r = 1 / sqrt(s / (float)n + eps)
 *   y = (x * r) * w
 *
 * LayerNorm, of encoders. Its two sums have the same lanes, tree and segments, the first with lane = lane +
 * x:
 *
 *   mean = sum / (float)n
 *   t = x - mean;  r = 1 / sqrt(sum of t * t / (float)n + eps)
 *   y = fma(t * r, w, b) */
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

/* Sum of one segment; n <= 512. */
float vd_num_sum_seg(const float *x, uint32_t n);

/* The mean from the n_seg segment sums of a vector of n_elem elements. */
float vd_num_mean(const float *partial, uint32_t n_seg, uint32_t n_elem);

/* Sum of the squares of x[i] - mean over one segment; n <= 512. LayerNorm's r is vd_num_rms_scale of these.
 */
float vd_num_var_seg(const float *x, float mean, uint32_t n);

/* y[i] = fma((x[i] - mean) * r, w[i], b[i]); y == x is allowed. */
void vd_num_layernorm_mul(const float *x, float mean, float r, const float *w, const float *b, uint32_t n,
                          float *y);

/* All of it; y == x is allowed. */
void vd_num_layernorm(const float *x, const float *w, const float *b, uint32_t n, float eps, float *y);

#endif
