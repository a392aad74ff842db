/* The texts of a model's tokens, as a mask sees them, and the tree over them that a mask names
 * (docs/spec/proof.md, section 1).
 *
 * The text of an id is the bytes that the token adds to an answer. Control tokens but for the marks of tool
 * calls, ids beyond the tokenizer's and tokens of more than VD_TOKEN_TEXT_MAX_BYTES bytes have none.
 *
 * Ownership: a copy of its own. Thread rule: constant after creation; any number of threads. */
#ifndef VD_TEXTS_H
#define VD_TEXTS_H

#include "vd_automaton.h"
#include "vd_err.h"
#include "vd_gguf.h"
#include "vd_sha256.h"
#include "vd_tok.h"

struct vd_texts;

/* Marks of tool calls (vd_calls.h): where they are control tokens, they are text all the same. NULL after the
 * last. */
const char *const *vd_texts_marks(void);

/* Of ids 0 .. vocab - 1. VD_ENOMEM. Takes some 100 ms for 262,144 tokens. */
enum vd_err vd_texts_create(struct vd_texts **out, const struct vd_tok *tok, uint32_t vocab,
                            struct vd_error *err);
/* The same from a model file, whose tokenizer is loaded for it; also what vd_tok_load returns. */
enum vd_err vd_texts_open(struct vd_texts **out, const struct vd_gguf *gguf, uint32_t vocab,
                          struct vd_error *err);
/* The same from the texts themselves (n 0: none), as many as the vocabulary has. */
enum vd_err vd_texts_create_from(struct vd_texts **out, const struct vd_bytes *text, uint32_t vocab,
                                 struct vd_error *err);
void vd_texts_free(struct vd_texts *t); /* NULL is allowed */

uint32_t vd_texts_vocab(const struct vd_texts *t);
struct vd_bytes vd_texts_of(const struct vd_texts *t, uint32_t id); /* n 0: none, also for id >= vocab */

/* MTH over vd_text_leaf of all ids. */
struct vd_hash vd_texts_root(const struct vd_texts *t);
/* The proof of one id's leaf: vd_merkle_range_proof_len(vocab, id, 1) hashes. */
void vd_texts_prove(const struct vd_texts *t, uint32_t id, struct vd_hash *proof);

/* The texts as a tree: a node for every beginning that some text has, in the order of the beginnings, so that
 * a node's children follow it, each with all below it, and `end` is the first node that is not below.
 * The ids whose text is that of node i are id[first[i]] .. id[first[i + 1] - 1]; those of all texts that
 * begin so are id[first[i]] .. id[first[end[i]] - 1]. */
struct vd_texts_tree {
    uint32_t n;
    const uint8_t *byte, *depth; /* the beginning's last byte, and how many stand before it */
    const uint32_t *end, *first; /* first: n + 1 */
    const uint32_t *id;          /* and one more, which is of no node */
};
struct vd_texts_tree vd_texts_tree(const struct vd_texts *t);

/* Plain texts are 1 to VD_TEXTS_PLAIN_MAX whole characters of UTF-8, none of which is a control character or
 * one of " \\ < [ : those that most masks treat alike. The tree of all others, and the ids of the plain ones
 * of at most n characters as bits of the vocabulary, 64 in a word, the lowest first. */
enum { VD_TEXTS_PLAIN_MAX = 32 };
struct vd_texts_tree vd_texts_others(const struct vd_texts *t);
const uint64_t *vd_texts_plain(const struct vd_texts *t, unsigned n);

#endif
