/* Choosing a token with the fast kernels: the same token as src/num (vd_adjust.h, vd_sample.h), for any
 * logits and parameters.
 *
 * Where num selects thresholds level by level over all logits, this collects the few largest logits (always a
 * prefix of the canonical order), sorts them, and takes more only when they do not suffice; where the
 * distribution is flat it finds the cut by a sample and a pass or two, which keep no weights. Under a mask it
 * works on the allowed logits only.
 *
 * Thread rule: one thread at a time per scratch. */
#ifndef VD_SAMPLER_H
#define VD_SAMPLER_H

#include "vd_adjust.h"
#include "vd_kern.h"
#include "vd_masker.h"
#include "vd_sample.h"

/* Scratch for n logits. */
struct vd_sampler;
struct vd_sampler *vd_sampler_new(uint32_t n); /* NULL: no memory */
void vd_sampler_free(struct vd_sampler *s);    /* NULL is allowed */
size_t vd_sampler_bytes(uint32_t n);           /* that it comes to take, at most */

/* A token with the natural logarithm of its probability: of the softmax at temperature 1 over the logits
 * after penalties and bias, mask or not. Not normative. */
struct vd_logprob {
    uint32_t id;
    float value;
};
enum { VD_LOGPROBS_MAX = 20 };
struct vd_logprobs {
    float own; /* of the chosen token */
    uint32_t n;
    struct vd_logprob top[VD_LOGPROBS_MAX]; /* the likeliest, in the canonical order */
};

/* What a choice depends on beside the logits. Borrowed. */
struct vd_choice {
    const struct vd_sampling *sampling;
    uint64_t r64; /* vd_sample_r64's */
    /* The sequence so far, positions 0 .. step; tokens is read only if there are penalties. */
    const uint32_t *tokens;
    uint32_t n_prompt, step;
    struct vd_bytes bias;                   /* n 0: none */
    struct vd_masker *masker;               /* NULL: none */
    const struct vd_automaton_state *state; /* of the mask, before this token */
    struct vd_logprobs *logprobs; /* NULL: not wanted; else n says how many, up to VD_LOGPROBS_MAX */
};

/* The token, or VD_SAMPLE_FAIL. x has the scratch's n logits. */
uint32_t vd_sampler_choose(struct vd_sampler *s, const struct vd_kern *kern, const float *x,
                           const struct vd_choice *c);

#endif
