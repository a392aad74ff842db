/* Maskers by the bytes of their masks: jobs under the same mask share one, with what it has computed, and
 * those that were used last are kept when no job has them.
 *
 * Ownership: the cache owns the maskers; every taken one is given back before the cache is freed. Texts are
 * borrowed. Thread rule: any number of threads. */
#ifndef VD_MASKER_CACHE_H
#define VD_MASKER_CACHE_H

#include "vd_masker.h"

enum { VD_MASKER_CACHE_IDLE = 4 /* of up to 21 MiB each */ };

struct vd_masker_cache;

/* The stop tokens are those of every mask. VD_ENOMEM. */
enum vd_err vd_masker_cache_create(struct vd_masker_cache **out, const struct vd_texts *texts,
                                   const uint32_t *stop, size_t n_stop, struct vd_error *err);
void vd_masker_cache_free(struct vd_masker_cache *c); /* NULL is allowed */

/* The mask's masker, to be given back. As vd_masker_create. */
enum vd_err vd_masker_cache_take(struct vd_masker_cache *c, struct vd_bytes mask, struct vd_masker **out,
                                 struct vd_error *err);
void vd_masker_cache_give(struct vd_masker_cache *c, struct vd_masker *m); /* NULL is allowed */

/* Maskers that are there, taken or not. */
size_t vd_masker_cache_count(struct vd_masker_cache *c);

#endif
