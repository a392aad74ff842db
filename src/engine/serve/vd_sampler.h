/* Choosing a token with the fast kernels: the same token as vd_num_sample, for any logits and parameters.
 *
 * Where num selects thresholds level by level over all logits, this collects the few largest logits (always a
 * prefix of the canonical order), sorts them, and takes more only when they do not suffice.
 *
 * Thread rule: one thread at a time per scratch. */
#ifndef VD_SAMPLER_H
#define VD_SAMPLER_H

#include "vd_kern.h"
#include "vd_sample.h"

/* Scratch for n logits. */
struct vd_sampler;
struct vd_sampler *vd_sampler_new(uint32_t n); /* NULL: no memory */
void vd_sampler_free(struct vd_sampler *s);    /* NULL is allowed */

/* The token, or VD_SAMPLE_FAIL. x has the scratch's n logits, r64 is vd_sample_r64's. */
uint32_t vd_sampler_choose(struct vd_sampler *s, const struct vd_kern *kern, const float *x,
                           const struct vd_sampling *p, uint64_t r64);

#endif
