/* No sort and no float sum: a sort of the vocabulary cannot be checked in small pieces and a float sum has an
 * order. Here every step is a max, a count or an exact integer sum over tiles, and the cut is found digit by
 * digit like in a radix sort of which only one bucket is ever followed. The second half, over whole vectors,
 * only calls the first. */
#include "vd_sample.h"

#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "vd_exp.h"

uint32_t vd_num_sample_key(float x)
{
    uint32_t u = vd_f32_bits(x + 0.0f);
    return u >> 31 ? ~u : u | 0x80000000;
}

static bool finite32(float x)
{
    return (vd_f32_bits(x) & 0x7F800000) != 0x7F800000;
}

/* ---- Tiles ---- */

void vd_num_sample_max_tile(const float *x, uint32_t first_id, uint32_t n, struct vd_sample_max *out)
{
    assert(n >= 1 && n <= VD_SAMPLE_TILE);
    *out = (struct vd_sample_max){0.0f, VD_SAMPLE_NONE, false};
    for (uint32_t i = 0; i < n; i++) {
        if (vd_num_sample_excluded(x[i]))
            continue;
        if (!finite32(x[i])) {
            *out = (struct vd_sample_max){0.0f, VD_SAMPLE_NONE, true};
            return;
        }
        if (out->id == VD_SAMPLE_NONE || x[i] > out->x) /* strictly: of equal ones the lowest id stays */
            *out = (struct vd_sample_max){x[i] + 0.0f, first_id + i, false};
    }
}

void vd_num_sample_max_merge(struct vd_sample_max *acc, const struct vd_sample_max *tile)
{
    if (acc->bad || (tile->id == VD_SAMPLE_NONE && !tile->bad))
        return;
    if (tile->bad || acc->id == VD_SAMPLE_NONE || tile->x > acc->x ||
        (tile->x == acc->x && tile->id < acc->id))
        *acc = *tile;
}

float vd_num_sample_temp(uint32_t temp_micro)
{
    return (float)temp_micro / 1e6f;
}

void vd_num_sample_weights_tile(const float *x, uint32_t n, float temp, float x_max, uint64_t *w)
{
    assert(n <= VD_SAMPLE_TILE);
    float t_max = x_max / temp;
    for (uint32_t i = 0; i < n; i++)
        w[i] = vd_num_sample_excluded(x[i]) ? 0 : (uint64_t)(vd_num_exp(x[i] / temp - t_max) * 0x1p40f);
}

void vd_num_sample_hist_tile(const float *x, const uint64_t *w, uint32_t first_id, uint32_t n,
                             struct vd_sample_cut in, uint32_t level, uint32_t prefix,
                             uint64_t bin[VD_SAMPLE_BINS])
{
    assert(n <= VD_SAMPLE_TILE && level < VD_SAMPLE_LEVELS);
    memset(bin, 0, VD_SAMPLE_BINS * sizeof bin[0]);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t key = vd_num_sample_key(x[i]);
        if (vd_num_sample_excluded(x[i]))
            continue;
        bool follows = level == 0 || key >> (32 - 4 * level) == prefix;
        if (follows && vd_num_sample_in(key, first_id + i, in))
            bin[key >> (28 - 4 * level) & 15] += w ? w[i] : 1;
    }
}

uint32_t vd_num_sample_pick(const uint64_t bin[VD_SAMPLE_BINS], uint64_t *target)
{
    uint64_t need = *target;
    for (uint32_t b = VD_SAMPLE_BINS; b-- > 0;) {
        if (bin[b] >= need) {
            *target = need;
            return b;
        }
        need -= bin[b];
    }
    return VD_SAMPLE_BINS;
}

uint32_t vd_num_sample_ties_tile(const float *x, uint32_t n, uint32_t key)
{
    assert(n <= VD_SAMPLE_TILE);
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++)
        count += !vd_num_sample_excluded(x[i]) && vd_num_sample_key(x[i]) == key;
    return count;
}

uint32_t vd_num_sample_tie_find(const float *x, uint32_t first_id, uint32_t n, uint32_t key, uint32_t rank)
{
    assert(n <= VD_SAMPLE_TILE && rank >= 1);
    for (uint32_t i = 0; i < n; i++)
        if (!vd_num_sample_excluded(x[i]) && vd_num_sample_key(x[i]) == key && --rank == 0)
            return first_id + i;
    return VD_SAMPLE_NONE;
}

/* w <= 2^40 and min_p <= 10^6 < 2^20, so both products fit. */
static bool survives(float x, uint64_t w, uint32_t id, struct vd_sample_cut in, uint32_t min_p_micro)
{
    uint64_t min_p = min_p_micro < VD_SAMPLE_MICRO ? min_p_micro : VD_SAMPLE_MICRO;
    return !vd_num_sample_excluded(x) && vd_num_sample_in(vd_num_sample_key(x), id, in) &&
           w * VD_SAMPLE_MICRO >= min_p * VD_SAMPLE_W_ONE;
}

uint64_t vd_num_sample_mass_tile(const float *x, const uint64_t *w, uint32_t first_id, uint32_t n,
                                 struct vd_sample_cut in, uint32_t min_p_micro)
{
    assert(n <= VD_SAMPLE_TILE);
    uint64_t mass = 0;
    for (uint32_t i = 0; i < n; i++)
        if (survives(x[i], w[i], first_id + i, in, min_p_micro))
            mass += w[i];
    return mass;
}

uint32_t vd_num_sample_draw_tile(const float *x, const uint64_t *w, uint32_t first_id, uint32_t n,
                                 struct vd_sample_cut in, uint32_t min_p_micro, uint64_t r)
{
    assert(n <= VD_SAMPLE_TILE);
    uint64_t mass = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (survives(x[i], w[i], first_id + i, in, min_p_micro))
            mass += w[i];
        if (mass > r)
            return first_id + i;
    }
    return VD_SAMPLE_NONE;
}

/* ---- Over all tiles ---- */

static uint32_t tile_elems(uint32_t n, uint32_t first)
{
    return n - first < VD_SAMPLE_TILE ? n - first : VD_SAMPLE_TILE;
}

static const uint64_t *at(const uint64_t *w, uint32_t first)
{
    return w ? w + first : NULL;
}

uint64_t vd_num_sample_top_p_target(uint64_t mass, uint32_t p_micro)
{
    assert(p_micro <= VD_SAMPLE_MICRO);
    uint64_t target =
        (uint64_t)(((unsigned __int128)mass * p_micro + (VD_SAMPLE_MICRO - 1)) / VD_SAMPLE_MICRO);
    return target ? target : 1;
}

static uint32_t ranked_id(const float *x, uint32_t n, uint32_t key, uint64_t rank)
{
    for (uint32_t first = 0; first < n; first += VD_SAMPLE_TILE) {
        uint32_t ties = vd_num_sample_ties_tile(x + first, tile_elems(n, first), key);
        if (rank <= ties)
            return vd_num_sample_tie_find(x + first, first, tile_elems(n, first), key, (uint32_t)rank);
        rank -= ties;
    }
    assert(!"the rank is at most the number of ties");
    return VD_SAMPLE_NONE;
}

struct vd_sample_cut vd_num_sample_select(const float *x, const uint64_t *w, uint32_t n,
                                          struct vd_sample_cut in, uint64_t target)
{
    uint32_t key = 0;
    for (uint32_t level = 0; level < VD_SAMPLE_LEVELS; level++) {
        uint64_t sum[VD_SAMPLE_BINS] = {0}, bin[VD_SAMPLE_BINS];
        for (uint32_t first = 0; first < n; first += VD_SAMPLE_TILE) {
            vd_num_sample_hist_tile(x + first, at(w, first), first, tile_elems(n, first), in, level, key,
                                    bin);
            for (uint32_t b = 0; b < VD_SAMPLE_BINS; b++)
                sum[b] += bin[b];
        }
        uint32_t b = vd_num_sample_pick(sum, &target);
        assert(b < VD_SAMPLE_BINS);
        key = key << 4 | b;
    }
    uint64_t each = w ? w[ranked_id(x, n, key, 1)] : 1;
    return (struct vd_sample_cut){key, ranked_id(x, n, key, target / each + (target % each != 0))};
}

static uint64_t mass_of(const float *x, const uint64_t *w, uint32_t n, struct vd_sample_cut in,
                        uint32_t min_p_micro)
{
    uint64_t mass = 0;
    for (uint32_t first = 0; first < n; first += VD_SAMPLE_TILE)
        mass += vd_num_sample_mass_tile(x + first, w + first, first, tile_elems(n, first), in, min_p_micro);
    return mass;
}

static uint32_t draw(const float *x, const uint64_t *w, uint32_t n, struct vd_sample_cut in,
                     uint32_t min_p_micro, uint64_t r)
{
    for (uint32_t first = 0; first < n; first += VD_SAMPLE_TILE) {
        uint32_t len = tile_elems(n, first);
        uint64_t mass = vd_num_sample_mass_tile(x + first, w + first, first, len, in, min_p_micro);
        if (r < mass)
            return vd_num_sample_draw_tile(x + first, w + first, first, len, in, min_p_micro, r);
        r -= mass;
    }
    assert(!"r is below the mass");
    return VD_SAMPLE_FAIL;
}

static uint32_t entries(const float *x, uint32_t n)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++)
        count += !vd_num_sample_excluded(x[i]);
    return count;
}

uint32_t vd_num_sample(const float *x, uint32_t n, const struct vd_sampling *p, uint64_t r64, uint64_t *w)
{
    assert(n >= 1 && n <= VD_SAMPLE_MAX_N);
    struct vd_sample_max max, tile;
    vd_num_sample_max_tile(x, 0, tile_elems(n, 0), &max);
    for (uint32_t first = VD_SAMPLE_TILE; first < n; first += VD_SAMPLE_TILE) {
        vd_num_sample_max_tile(x + first, first, tile_elems(n, first), &tile);
        vd_num_sample_max_merge(&max, &tile);
    }
    if (max.bad || max.id == VD_SAMPLE_NONE)
        return VD_SAMPLE_FAIL;
    if (p->temp_micro == 0)
        return max.id;

    float temp = vd_num_sample_temp(p->temp_micro);
    if (!finite32(max.x / temp))
        return VD_SAMPLE_FAIL;
    for (uint32_t first = 0; first < n; first += VD_SAMPLE_TILE)
        vd_num_sample_weights_tile(x + first, tile_elems(n, first), temp, max.x, w + first);

    struct vd_sample_cut cut = VD_SAMPLE_CUT_ALL;
    if (p->top_k != 0 && p->top_k < entries(x, n))
        cut = vd_num_sample_select(x, NULL, n, cut, p->top_k);
    if (p->top_p_micro < VD_SAMPLE_MICRO) {
        uint64_t target = vd_num_sample_top_p_target(mass_of(x, w, n, cut, 0), p->top_p_micro);
        cut = vd_num_sample_select(x, w, n, cut, target);
    }
    uint64_t mass = mass_of(x, w, n, cut, p->min_p_micro);
    return draw(x, w, n, cut, p->min_p_micro, vd_num_mulhi64(r64, mass));
}
