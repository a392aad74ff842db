/* Perplexity by the method of llama.cpp's tool of that name (its default mode), on token ids.
 *
 * The ids are cut into chunks of n_ctx; a last, shorter one is dropped. Each chunk is a sequence of its own.
 * Of its logits, those at positions n_ctx/2 .. n_ctx-2 count, each against the id that follows: ppl = exp(sum
 * of -log p / count). If bos is given it replaces the first id of each chunk. The logarithms are libm's: this
 * measures a model and is no part of the canonical arithmetic. */
#ifndef VD_PERPLEXITY_H
#define VD_PERPLEXITY_H

#include "vd_forward.h"

struct vd_perplexity {
    double ppl;
    double ppl_error; /* one standard error */
    size_t n_chunks, n_counted;
};

/* bos < 0: none. max_chunks 0: all. VD_EUSE when there are fewer than 2 n_ctx ids, or n_ctx is odd, below 4
 * or above the model's context. */
enum vd_err vd_perplexity_measure(struct vd_perplexity *out, const struct vd_model *m, struct vd_pool *pool,
                                  const uint32_t *ids, size_t n_ids, size_t n_ctx, int64_t bos,
                                  size_t max_chunks, struct vd_error *err);

#endif
