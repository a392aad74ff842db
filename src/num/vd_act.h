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

/* The tanh form of GELU, x * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, written as
 *   u = fma((x * x) * x, VD_GELU_CUBE, x);  x / (1 + exp(-(u * VD_GELU_SCALE)))
 * by the same clamp as SiLU. */
#define VD_GELU_CUBE  0x1.6e4e26p-5f /* 0.044715 */
#define VD_GELU_SCALE 0x1.988454p+0f /* 2 sqrt(2 / pi) */
float vd_num_gelu(float x);

/* y[i] = gelu(x[i]): an activation without a gate. */
void vd_num_gelu_row(const float *x, size_t n, float *y);

/* y[i] = gelu(g[i]) * u[i] */
void vd_num_geglu(const float *g, const float *u, size_t n, float *y);

/* (1 - t) / (1 + t) with t = exp(-2 |x|), and the sign of x. Near 0 its error is small against 1, not against
 * x. */
float vd_num_tanh(float x);

/* c * tanh(x / c): x held softly between -c and c, c > 0. */
float vd_num_cap(float x, float c);

/* y[i] = x[i] + o[i] */
void vd_num_residual(const float *x, const float *o, size_t n, float *y);

#endif
