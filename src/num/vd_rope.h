/* Rotary position embedding, with the angle as an integer: a phase is a u64 in units of 2^-64 turns, so that
 * position * step, modulo 2^64, is exact at any position. */
#ifndef VD_ROPE_H
#define VD_ROPE_H

#include <stdbool.h>
#include <stdint.h>

#define VD_ROPE_MAX_DIMS 1024u

/* How a model's frequencies are made. Zero what it has not, but for `stretch`. */
struct vd_rope_rule {
    float freq_base;      /* 1 .. 2^100 */
    uint32_t n_dims;      /* even, 2 .. VD_ROPE_MAX_DIMS */
    float stretch;        /* all frequencies are divided by it: 2^-20 .. 2^20, 1: not stretched */
    const float *factors; /* n_dims / 2 further divisors, each 2^-20 .. 2^20 (Llama 3, LongRoPE), or NULL */
    uint32_t yarn_ctx;    /* YaRN (Peng et al. 2023): the context before stretching, up to 2^20; 0: no YaRN */
};

/* The steps of the n_dims / 2 pairs, in units of 2^-64 turns per position, rounded to nearest:
 *
 *   step_i = freq_base^(-2i/n_dims) / (2 pi) * mix_i / factors_i,   mix_i = 1 / stretch
 *
 * With YaRN mix_i is 1 for pairs up to `low`, 1 / stretch from `high` on, and between them
 * 1 + (i - low) / (high - low) * (1 / stretch - 1), where low = max(0, floor(pair(32))), high = min(n_dims -
 * 1, ceil(pair(1))) and pair(t) = n_dims * ln(yarn_ctx / (2 pi t)) / (2 ln freq_base).
 *
 * Computed in double-double from +, -, *, / and fma of binary64 only, so every machine gets the same
 * integers. The result is part of the program's bytes: it is computed when a program is derived, never when
 * it runs. Returns false, with nothing said about `steps`, when a value is outside its range, when a step is
 * 2^63 or more (half a turn), and for YaRN with base 1. */
bool vd_num_rope_steps_by(const struct vd_rope_rule *rule, uint64_t *steps);

/* The same with nothing stretched. */
bool vd_num_rope_steps(float freq_base, uint32_t n_dims, uint64_t *steps);

/* YaRN's factor on sine and cosine: 1 + 0.1 ln(stretch), and 1 where nothing is stretched. */
float vd_num_rope_yarn_scale(float stretch);

/* sin and cos of 2 pi phase / 2^64. With k the quarter turn nearest to phase (ties up) and f what is left, as
 * a signed integer in [-2^61, 2^61):
 *
 *   i = (int32)(f >> 32), arithmetic shift (toward minus infinity);  i = -i if k is 1 or 2
 *   t = (float)i * 2^-29, in [-1, 1];  u = t * t
 *   P = S4;  P = fma(P, u, S3);  .. S2, S1;  P = fma(P, u, S0_LO)
 *   s = fma(t, S0, t * P)
 *   c = C4;  c = fma(c, u, C3);  .. C2, C1;  c = fma(c, u, 1);  c = -c if k is 2 or 3
 *   (sin, cos) = (s, c) if k is even, (c, s) if it is odd
 *
 * Neither is ever -0. */
#define VD_SIN_S0    0x1.921fb6p-1f
#define VD_SIN_S0_LO (-0x1.77811cp-26f)
#define VD_SIN_S1    (-0x1.4abbcep-4f)
#define VD_SIN_S2    0x1.466b82p-9f
#define VD_SIN_S3    (-0x1.32b44cp-15f)
#define VD_SIN_S4    0x1.465546p-22f
#define VD_COS_C1    (-0x1.3bd3ccp-2f)
#define VD_COS_C2    0x1.03c1b6p-6f
#define VD_COS_C3    (-0x1.55b682p-12f)
#define VD_COS_C4    0x1.d61d16p-19f
void vd_num_sincos_turn(uint64_t phase, float *s, float *c);

/* Rotates one pair in place: y0 = fma(x0, c, -(x1 * s)), y1 = fma(x0, s, x1 * c). */
void vd_num_rope_pair(float *x0, float *x1, float s, float c);

/* Rotates the first n_dims elements of a head in place for position pos. Pair i is (2i, 2i + 1), or with neox
 * (i, i + n_dims / 2); its phase is pos * steps[i]. GGUF's llama files want neox == false. */
void vd_num_rope_head(float *x, uint32_t n_dims, uint32_t pos, const uint64_t *steps, bool neox);

#endif
