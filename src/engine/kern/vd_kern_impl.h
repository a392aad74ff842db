/* Private to this folder: the tables, and what they share. */
#ifndef VD_KERN_IMPL_H
#define VD_KERN_IMPL_H

#include <assert.h>

#include "vd_kern.h"

extern const struct vd_kern vd_kern_scalar;
#if defined(__x86_64__)
extern const struct vd_kern vd_kern_avx2;
extern const struct vd_kern vd_kern_avxvnni;
extern const struct vd_kern vd_kern_avx512;
#endif
#if defined(__aarch64__)
extern const struct vd_kern vd_kern_neon;
extern const struct vd_kern vd_kern_neon_i8mm;
#endif

/* The chunks [*c0, *c1) that meet the valid range of a query. */
static inline void vd_kern_chunks(const struct vd_kern_query *row, size_t *c0, size_t *c1)
{
    assert(row->begin < row->end);
    *c0 = row->begin / VD_KERN_CHUNK;
    *c1 = (row->end - 1) / VD_KERN_CHUNK + 1;
}

/* The valid lanes [*first, *end) of chunk c for a query that meets it. */
static inline void vd_kern_lanes(const struct vd_kern_query *row, size_t c, size_t *first, size_t *end)
{
    size_t lo = c * VD_KERN_CHUNK;
    *first = row->begin > lo ? row->begin - lo : 0;
    *end = row->end - lo < VD_KERN_CHUNK ? row->end - lo : VD_KERN_CHUNK;
}

static inline const void *vd_kern_chunk_at(const struct vd_kern_kv *kv, size_t c)
{
    return (const char *)kv->pages[c] + kv->offset;
}

static inline size_t vd_kern_round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* The smallest float that is not below least: a weight that is not truncated yet is at least this iff
 * truncated it is at least `least`. */
static inline float vd_kern_least(uint64_t least)
{
    float f = (float)least;
    return (uint64_t)f < least ? vd_f32_from_bits(vd_f32_bits(f) + 1) : f;
}

/* Adds the logits [i, end) of one block to what sample_mass gives. */
void vd_kern_mass_part(const float *x, size_t i, size_t end, struct vd_kern_mass *m);

/* Activations in blocks of 256, per token cols int8, then the scales. */
size_t vd_kern_act256_bytes(size_t n_tok, size_t cols);
void vd_kern_act256_quant(const float *x, size_t ldx, size_t cols, size_t t0, size_t t1, void *act256);
void vd_kern_act256_read(const void *act256, size_t cols, size_t t, int8_t *q, float *d);

/* Done once per row of a pass, so their scalar form serves every table. */
void vd_kern_embed_row(enum vd_wtype type, size_t cols, const void *src, size_t row, float *y);
void vd_kern_scale(const float *x, float s, size_t n, float *y);
void vd_kern_cap(const float *x, float c, size_t n, float *y);
void vd_kern_madd(const float *x, float w, size_t n, float *y);
void vd_kern_rope_table(uint64_t pos, const uint64_t *steps, size_t n_pairs, float *cs);

#endif
