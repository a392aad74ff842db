/* One written order per operator, each step rounded: division, not a product with a reciprocal. */
#include "vd_act.h"

#include <math.h>

#include "vd_exp.h"

float vd_num_silu(float x)
{
    return x / (1.0f + vd_num_exp(-x));
}

void vd_num_swiglu(const float *g, const float *u, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = vd_num_silu(g[i]) * u[i];
}

float vd_num_gelu(float x)
{
    float u = fmaf((x * x) * x, VD_GELU_CUBE, x);
    return x / (1.0f + vd_num_exp(-(u * VD_GELU_SCALE)));
}

void vd_num_gelu_row(const float *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = vd_num_gelu(x[i]);
}

void vd_num_geglu(const float *g, const float *u, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = vd_num_gelu(g[i]) * u[i];
}

float vd_num_tanh(float x)
{
    float t = vd_num_exp(-2.0f * fabsf(x));
    return copysignf((1.0f - t) / (1.0f + t), x);
}

float vd_num_cap(float x, float c)
{
    return c * vd_num_tanh(x / c);
}

void vd_num_residual(const float *x, const float *o, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] + o[i];
}
