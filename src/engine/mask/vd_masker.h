/* Which tokens a mask allows, fast: the automaton of src/num/vd_automaton.h over the texts of a vocabulary.
 *
 * A token is allowed after a text if its own text can follow there; a stop token iff the answer may end
 * there. What is allowed in a state is computed once and kept, within limits of memory.
 *
 * Ownership: texts are borrowed, the mask is copied. Thread rule: any number of threads. */
#ifndef VD_MASKER_H
#define VD_MASKER_H

#include "vd_texts.h"

/* Of whole states with their stacks, and of states whatever is on the stack. */
enum { VD_MASKER_CACHE_BYTES = 8 << 20, VD_MASKER_KNOWN_BYTES = 8 << 20 };

struct vd_masker;

/* VD_EUSE: the bytes are no mask. VD_ECONFLICT: it is for other texts. VD_ENOMEM. */
enum vd_err vd_masker_create(struct vd_masker **out, const struct vd_texts *texts, struct vd_bytes mask,
                             const uint32_t *stop, size_t n_stop, struct vd_error *err);
void vd_masker_free(struct vd_masker *m); /* NULL is allowed */

/* The state after a token, which need not be allowed: then, and after a stop token, it is dead. */
void vd_masker_advance(const struct vd_masker *m, struct vd_automaton_state *s, uint32_t token);
/* The allowed ids as bits of the vocabulary, 64 in a word, the lowest first; returns how many. */
uint32_t vd_masker_allowed(struct vd_masker *m, const struct vd_automaton_state *s, uint64_t *bits);

#endif
