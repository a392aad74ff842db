/* Choosing a token from the logits: exact, in integers, without a sort, and made of functions over tiles of
 * 4,096 ids, each of which the referee can recompute from one opened tile.
 *
 * Order of the entries: key descending, then id ascending, where key is the logit's bits made monotone (-0
 * equals +0). T == 0 takes the first of the order. Else the weight is w = trunc(exp(x / T - x_max / T) *
 * 2^40), and the survivors are, one rule after the other: top-k, the first k of the order; top-p, of those up
 * to and including the one at which the mass summed in the order reaches max(1, ceil(p * M / 10^6)), M the
 * mass before this rule; min-p, of those the ones with w * 10^6 >= min_p * 2^40. r = mulhi(R64, mass of the
 * survivors); the token is the smallest id whose prefix mass, in id order over the survivors, exceeds r.
 *
 * Entries that a mask excludes (VD_SAMPLE_EXCLUDED_BITS) are as if they were not there, in every rule.
 *
 * A cut (key, id) says where the order is cut off. It is found by radix selection: 8 levels, 4 bits of the
 * key each from the top; per tile a histogram over the entries that agree with the prefix found so far, by
 * count (top-k) or mass (top-p); histograms are summed over the tiles and the bin taken, from 15 down, in
 * which the running sum reaches the target. Then the key is known, all entries that have it have one weight,
 * and the id follows by counting them. */
#ifndef VD_SAMPLE_H
#define VD_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#include "vd_bytes.h"

#define VD_SAMPLE_TILE   4096u
#define VD_SAMPLE_LEVELS 8u
#define VD_SAMPLE_BINS   16u
#define VD_SAMPLE_W_ONE  (UINT64_C(1) << 40)
#define VD_SAMPLE_MICRO  1000000u
#define VD_SAMPLE_MAX_N  (1u << 23) /* keeps every mass below 2^63 */
#define VD_SAMPLE_FAIL   UINT32_MAX /* instead of a token */
#define VD_SAMPLE_NONE   UINT32_MAX /* no such id in this tile */

/* What becomes of the rows after the last layer instead of tokens: one vector, of the last position, of all
 * of them, or of the first. */
enum vd_pooling {
    VD_POOLING_NONE = 0, /* tokens */
    VD_POOLING_LAST = 1,
    VD_POOLING_MEAN = 2,
    VD_POOLING_CLS = 3, /* of encoders only: a decoder's first position has seen nothing else */
};

struct vd_sampling {
    enum vd_pooling pooling; /* if not NONE, nothing is sampled and all below is 0, top_p_micro 10^6 */
    uint32_t temp_micro;     /* temperature * 10^6; 0: greedy, and everything below is ignored */
    uint32_t top_k;          /* 0, or not below the number of entries: off */
    uint32_t top_p_micro;    /* p * 10^6; 10^6 or more: off; 0: the first of the order only */
    uint32_t min_p_micro;    /* p * 10^6; 0: off; above 10^6 counts as 10^6 */
    uint64_t seed;           /* with choice and the token's index the input of R64; not read here */
    uint32_t choice;         /* index of the choice in a request for several; not read here */

    /* What is done to the logits first (vd_adjust.h); all 0: nothing. */
    uint32_t repeat_micro;   /* repetition penalty * 10^6; 0: off */
    uint32_t repeat_last_n;  /* tokens that it looks at, 1 to 1,024; 0 iff it is off */
    int32_t presence_micro;  /* presence penalty * 10^6 */
    int32_t frequency_micro; /* frequency penalty * 10^6 */
    bool has_bias, has_mask; /* the request names a bias table, a mask */
};

/* Instead of a logit that the mask excludes. It is in no count, no mass and no maximum. */
#define VD_SAMPLE_EXCLUDED_BITS UINT32_MAX
static inline bool vd_num_sample_excluded(float x)
{
    return vd_f32_bits(x) == VD_SAMPLE_EXCLUDED_BITS;
}

/* The largest entry of a tile or of several: key descending, then id ascending. */
struct vd_sample_max {
    float x;     /* its logit, never -0; +0 if bad */
    uint32_t id; /* VD_SAMPLE_NONE if bad, or if all entries are excluded */
    bool bad;    /* a logit is NaN or infinite: the step ends with FAIL */
};

/* An entry is in if (its key, its id) stands at or before (key, id) in the order. */
struct vd_sample_cut {
    uint32_t key;
    uint32_t id;
};
#define VD_SAMPLE_CUT_ALL ((struct vd_sample_cut){0, UINT32_MAX})

/* The monotone key of a finite logit: u = bits of x + 0.0f; u >> 31 ? ~u : u | 0x80000000. */
uint32_t vd_num_sample_key(float x);

static inline bool vd_num_sample_in(uint32_t key, uint32_t id, struct vd_sample_cut cut)
{
    return key > cut.key || (key == cut.key && id <= cut.id);
}

/* ---- Tile functions: x[0..n) are the logits of ids first_id, first_id + 1, ...; n <= VD_SAMPLE_TILE. ----
 */

/* The tile's largest entry. */
void vd_num_sample_max_tile(const float *x, uint32_t first_id, uint32_t n, struct vd_sample_max *out);

/* acc = the larger of both; tiles in any order. */
void vd_num_sample_max_merge(struct vd_sample_max *acc, const struct vd_sample_max *tile);

/* T = (float)temp_micro / 1e6f. */
float vd_num_sample_temp(uint32_t temp_micro);

/* w[i] of the tile; x_max is the largest logit of all. Needs temp > 0 and x_max / temp finite (else the step
 * is FAIL). */
void vd_num_sample_weights_tile(const float *x, uint32_t n, float temp, float x_max, uint64_t *w);

/* The histogram of one level: the entries inside `in` whose key >> (32 - 4 * level) equals prefix (level 0:
 * all) add 1, or w[i] if w is given, to bin (key >> (28 - 4 * level)) & 15. w NULL: by count. */
void vd_num_sample_hist_tile(const float *x, const uint64_t *w, uint32_t first_id, uint32_t n,
                             struct vd_sample_cut in, uint32_t level, uint32_t prefix,
                             uint64_t bin[VD_SAMPLE_BINS]);

/* From bin 15 down: the first bin at which the running sum reaches *target (>= 1); *target becomes what is
 * still needed inside that bin. Returns VD_SAMPLE_BINS, target unchanged, if all bins together do not reach
 * it. */
uint32_t vd_num_sample_pick(const uint64_t bin[VD_SAMPLE_BINS], uint64_t *target);

/* How many entries of the tile have exactly this key. */
uint32_t vd_num_sample_ties_tile(const float *x, uint32_t n, uint32_t key);

/* The id of the rank-th (from 1) entry of the tile with this key, or VD_SAMPLE_NONE. */
uint32_t vd_num_sample_tie_find(const float *x, uint32_t first_id, uint32_t n, uint32_t key, uint32_t rank);

/* The mass of the tile's survivors: inside `in` and w * 10^6 >= min_p_micro * 2^40. */
uint64_t vd_num_sample_mass_tile(const float *x, const uint64_t *w, uint32_t first_id, uint32_t n,
                                 struct vd_sample_cut in, uint32_t min_p_micro);

/* The smallest id whose prefix mass over the tile's survivors exceeds r, or VD_SAMPLE_NONE. */
uint32_t vd_num_sample_draw_tile(const float *x, const uint64_t *w, uint32_t first_id, uint32_t n,
                                 struct vd_sample_cut in, uint32_t min_p_micro, uint64_t r);

/* ---- Over all tiles ---- */

/* ceil(p_micro * mass / 10^6), at least 1: the mass that top-p must reach. p_micro <= 10^6. */
uint64_t vd_num_sample_top_p_target(uint64_t mass, uint32_t p_micro);

/* High 64 bits of a * b: the draw r from R64 and the mass. */
static inline uint64_t vd_num_mulhi64(uint64_t a, uint64_t b)
{
    return (uint64_t)(((unsigned __int128)a * b) >> 64);
}

/* The cut inside `in` at which the count (w NULL) or mass, summed in the order, reaches target. 1 <= target
 * <= the count or mass inside `in`. */
struct vd_sample_cut vd_num_sample_select(const float *x, const uint64_t *w, uint32_t n,
                                          struct vd_sample_cut in, uint64_t target);

/* The token, or VD_SAMPLE_FAIL if a logit, or x_max / T, is not finite, or all are excluded. 1 <= n <=
 * VD_SAMPLE_MAX_N. w: n values of scratch; may be NULL if p->temp_micro == 0. r64: R64 of this token (others
 * compute it), ignored if greedy. */
uint32_t vd_num_sample(const float *x, uint32_t n, const struct vd_sampling *p, uint64_t r64, uint64_t *w);

#endif
