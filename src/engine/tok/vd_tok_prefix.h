/* The texts of some tokens in byte order: what a trie does, in four bytes per token. A walk follows a text
 * byte by byte; at each step it knows whether the bytes so far are a token and whether any token goes on. A
 * step takes O(log n).
 *
 * Ownership: vd_tok_prefixes_make allocates ids, freed with free(). Thread rule: constant once made. */
#ifndef VD_TOK_PREFIX_H
#define VD_TOK_PREFIX_H

#include "vd_tok_impl.h"

/* Of all tokens with a text whose kind is a bit of `kinds` (1 << enum vd_tok_kind). False: no memory. */
bool vd_tok_prefixes_make(const struct vd_tok *t, unsigned kinds, struct vd_tok_prefixes *out);

/* The tokens ids[lo, hi) begin with the `depth` bytes walked. */
struct vd_tok_walk {
    uint32_t lo, hi, depth;
};

static inline struct vd_tok_walk vd_tok_walk_start(const struct vd_tok_prefixes *x)
{
    return (struct vd_tok_walk){0, x->n, 0};
}

/* Goes on with byte c. False if no token does; the walk is over then. *id is the token that ends here, or
 * VD_TOK_NONE. */
bool vd_tok_walk_step(const struct vd_tok *t, const struct vd_tok_prefixes *x, struct vd_tok_walk *w,
                      uint8_t c, uint32_t *id);

#endif
