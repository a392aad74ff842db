/* The 8-bit quantiser of activations, queries, keys and values: n elements share one scale d, and x[i] is
 * about q[i] * d.
 *
 *   amax = max |x[i]|, as the largest bit pattern with the sign cleared, so that a NaN wins over everything
 *   amax infinite or NaN:  d = NaN (VD_NAN_BITS), all q = 0
 *   d = round11(amax / 127)
 *   d < 2^-100:  d = +0, all q = 0
 *   else  inv = 1 / d;  q[i] = rint(x[i] * inv)
 *
 * q lies in [-127, 127] without a clamp: round11 lowers d by at most a part in 2^11, so |x * inv| stays below
 * 127 * (1 + 2^-11) + rounding < 127.5 (the test exhausts the mantissas). 11 bits, because the product of d
 * with a binary16 weight scale is then exact in binary32. */
#ifndef VD_QUANT_H
#define VD_QUANT_H

#include <stddef.h>
#include <stdint.h>

#include "vd_num.h"

#define VD_QUANT_MAX_ELEMS 1024u
#define VD_QUANT_D_MIN     0x1p-100f

/* x, not NaN, rounded to nearest even to 11 significant bits (u += 0xFFF + ((u >> 13) & 1); u &= ~0x1FFF). */
float vd_num_round11(float x);

/* Quantises x[0..n), 1 <= n <= VD_QUANT_MAX_ELEMS, into q[0..n) and the scale *d (+0, at least 2^-100, or the
 * NaN). */
void vd_num_quant8(const float *x, size_t n, int8_t *q, float *d);

/* A whole vector in blocks of VD_BLOCK_ELEMS: q[0..n), d[0..n/32). n must be a multiple of 32. */
void vd_num_quant8_blocks(const float *x, size_t n, int8_t *q, float *d);

/* Spreads x[0..32) by the Walsh-Hadamard matrix: for half = 16, 8, 4, 2, 1 every pair (a, b) of elements that
 * far apart (their numbers differ in that bit) becomes (a + b, a - b). Products of two spread vectors are 32
 * times those of the vectors, and one large element becomes 32 of middling size, so that it no longer takes
 * the steps of the quantiser away from the others. Source: Ashkboos et al., QuaRot (2024). */
void vd_num_spread(float x[VD_BLOCK_ELEMS]);

/* Queries and keys: every block of 32 spread, then quantised. */
void vd_num_quant8_spread(const float *x, size_t n, int8_t *q, float *d);

/* As vd_num_quant8_blocks in blocks of 256, for the types whose act_block is 256: d[0..n/256). n must be a
 * multiple of 256.
 */
void vd_num_quant8_blocks256(const float *x, size_t n, int8_t *q, float *d);

#endif
