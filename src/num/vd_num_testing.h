/* For the tests of num: seeded inputs, distances in ulp, and a hash of outputs. Include after cmocka.h. */
#ifndef VD_NUM_TESTING_H
#define VD_NUM_TESTING_H

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "vd_num.h"
#include "vd_rng.h"

/* The exhaustive forms run when VD_LONG is set; without it a stride samples the same loop. */
static inline uint32_t test_stride(uint32_t short_stride)
{
    return getenv("VD_LONG") ? 1 : short_stride;
}

/* Uniform in (-scale, scale), 24 bits. */
static inline float test_uniform(struct vd_rng *r, float scale)
{
    return ((float)(vd_rng_next(r) >> 40) - 8388607.5f) * 0x1p-23f * scale;
}

/* Roughly normal, as activations are: the sum of four uniform values. */
static inline float test_normal(struct vd_rng *r, float sigma)
{
    float sum = test_uniform(r, 1.0f);
    for (int i = 0; i < 3; i++)
        sum += test_uniform(r, 1.0f);
    return sum * sigma;
}

/* Any bit pattern: NaN, infinities, subnormals and all. */
static inline float test_any(struct vd_rng *r)
{
    return vd_f32_from_bits((uint32_t)(vd_rng_next(r) >> 32));
}

static inline void test_fill_normal(struct vd_rng *r, float *x, size_t n, float sigma)
{
    for (size_t i = 0; i < n; i++)
        x[i] = test_normal(r, sigma);
}

/* |got - want| in units of the spacing of binary32 at want (a normal number). */
static inline double test_ulps(float got, double want)
{
    int e;
    frexp(want, &e);
    return fabs((double)got - want) / ldexp(1.0, e - 24);
}

static inline bool test_same_bits(float a, float b)
{
    return vd_f32_bits(a) == vd_f32_bits(b);
}

/* FNV-1a, 64 bits. */
#define TEST_FNV_START UINT64_C(0xcbf29ce484222325)
static inline uint64_t test_fnv(uint64_t h, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    return h;
}

/* Little-endian, and a NaN as the canonical one: its bits are free. */
static inline uint64_t test_fnv_floats(uint64_t h, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint8_t le[4];
        vd_le32_store(le, vd_f32_bits(vd_num_canon(x[i])));
        h = test_fnv(h, le, 4);
    }
    return h;
}

static inline uint64_t test_fnv_u64(uint64_t h, uint64_t v)
{
    uint8_t le[8];
    vd_le64_store(le, v);
    return test_fnv(h, le, 8);
}

#endif
