/* Elementwise operators of the feed-forward part and the residual stream. In place (y == an input) is
 * allowed. */
#ifndef VD_ACT_H
#define VD_ACT_H

#include <stddef.h>

/* x / (1 + exp(-x)), with the exp of vd_exp.h; its own range is the only clamp: for x > 87 the divisor is 1,
 * for x < -88 it is 1 + exp(88). */
float vd_num_silu(float x);

/* y[i] = silu(g[i]) * u[i] */
void vd_num_swiglu(const float *g, const float *u, size_t n, float *y);

/* (1 - t) / (1 + t) with t = exp(-2 |x|), and the sign of x. */
float vd_num_tanh(float x);

/* c * tanh(x / c): x held softly between -c and c, c > 0. */
float vd_num_cap(float x, float c);

/* y[i] = x[i] + o[i] */
void vd_num_residual(const float *x, const float *o, size_t n, float *y);

#endif
