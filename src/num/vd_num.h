/* What all operator families share: the segment and block lengths and the canonical NaN.
 *
 * Arithmetic version 1 (docs/spec/arithmetic.md). All floating point is IEEE 754 binary32, round to nearest
 * even, subnormals kept; an fma is written where it is meant and nothing else may be fused. All functions of
 * this folder are pure: they touch only their arguments, so any number of threads may call them. */
#ifndef VD_NUM_H
#define VD_NUM_H

#include <stdint.h>

#include "vd_bytes.h"

/* The version of every rule in this folder, and what fixes it: the SHA-256 of its conformance vectors
 * (tests/data/arithmetic-1.txt, which vd_conform_test runs through every table of kernels). A change of any
 * result is a new version with vectors of its own; these stay. */
#define VD_ARITH_VERSION        1
#define VD_ARITH_VECTORS_SHA256 "b6e9d570da3fd06ecffba693f26ed9a2251ced810a31c50bbf20a5066fc87ac9"

/* Products and norms are summed per segment of this many elements of the input dimension; the last may be
 * shorter. */
#define VD_SEG_ELEMS 512u

/* Activations, queries and keys are quantised in blocks of this many elements. */
#define VD_BLOCK_ELEMS 32u

/* Activations for weights with super-blocks are quantised in blocks of this many. */
#define VD_BLOCK256_ELEMS 256u

/* The one NaN that may be stored: quantiser scales and chunk records. Everywhere else NaN bits are free. */
#define VD_NAN_BITS 0x7FC00000u

/* x, but every NaN becomes the one with VD_NAN_BITS. */
static inline float vd_num_canon(float x)
{
    return x != x ? vd_f32_from_bits(VD_NAN_BITS) : x;
}

/* Segments of a vector of n_elem elements. */
static inline uint32_t vd_num_segs(uint32_t n_elem)
{
    return n_elem / VD_SEG_ELEMS + (n_elem % VD_SEG_ELEMS != 0);
}

#endif
