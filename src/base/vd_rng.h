/* A counter-based generator for tests, fuzzing seeds and back-off jitter: SplitMix64 (Steele, Lea, Flood
 * 2014). Not for keys or salts (those come from libsodium) and not for sampling (docs/spec/arithmetic.md). */
#ifndef VD_RNG_H
#define VD_RNG_H

#include <stdint.h>

/* The value number `counter` of stream `seed`. */
static inline uint64_t vd_rng_at(uint64_t seed, uint64_t counter)
{
    uint64_t z = seed + (counter + 1) * UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

struct vd_rng {
    uint64_t seed, counter;
};

static inline uint64_t vd_rng_next(struct vd_rng *r)
{
    return vd_rng_at(r->seed, r->counter++);
}

/* Uniform in [0, n), n > 0; the bias is below n / 2^64. */
static inline uint64_t vd_rng_below(struct vd_rng *r, uint64_t n)
{
    return (uint64_t)(((unsigned __int128)vd_rng_next(r) * n) >> 64);
}

#endif
