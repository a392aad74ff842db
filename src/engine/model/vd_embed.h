/* A vector of a sequence: its rows after the last layer, normed (of decoders), pooled, and made to have the
 * length 1 (docs/spec/arithmetic.md, section 14). What the worker, replay and traces make embeddings with.
 *
 * Ownership: the model is borrowed. Thread rule: one thread at a time. */
#ifndef VD_EMBED_H
#define VD_EMBED_H

#include "vd_model.h"
#include "vd_sample.h"

struct vd_embed;

/* How the file says that its vectors are to be pooled (ARCHITECTURE.pooling_type 1: MEAN, 2: CLS, of
 * encoders, 3: LAST); if it says nothing, LAST, of encoders MEAN; NONE: in a way that is not known here. */
enum vd_pooling vd_embed_pooling(const struct vd_gguf *g);

/* pooling is not NONE, and CLS of encoders only. VD_ENOMEM. */
enum vd_err vd_embed_create(struct vd_embed **out, const struct vd_model *m, enum vd_pooling pooling,
                            struct vd_error *err);
void vd_embed_free(struct vd_embed *e); /* NULL is allowed */

/* The next position that has a pooling unit (vd_graph_has_head): x, d floats, is its row after the last
 * layer. */
void vd_embed_add(struct vd_embed *e, const float *x);
/* POOL's row after the positions added so far (at least 1): d floats; NULL if only the last one counts. */
const float *vd_embed_sum(const struct vd_embed *e);
/* The vector of the positions added so far (at least 1): d floats, NaNs canonical; valid until the next call.
 */
const float *vd_embed_vector(struct vd_embed *e);

#endif
