/* Rotary position embedding, with the angle as an integer: a phase is a u64 in units of 2^-64 turns, so that
 * position * step, modulo 2^64, is exact at any position. */
#ifndef VD_ROPE_H
#define VD_ROPE_H

#include <stdbool.h>
#include <stdint.h>

#define VD_ROPE_MAX_DIMS 1024u

/* The steps of the n_dims / 2 pairs: freq_base^(-2i/n_dims) / (2 pi) turns per position, in units of 2^-64
 * turns, rounded to nearest. Computed in double-double from +, -, *, / and fma of binary64 only, so every
 * machine gets the same integers. Returns false, with nothing written, unless 1 <= freq_base <= 2^100 and
 * n_dims is even in [2, VD_ROPE_MAX_DIMS]. The result is part of the program's bytes: it is computed when a
 * program is derived, never when it runs. */
bool vd_num_rope_steps(float freq_base, uint32_t n_dims, uint64_t *steps);

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
