/* Pre-tokenisers: how a byte-level BPE cuts text into words before it merges, by the names of GGUF's key
 * tokenizer.ggml.pre. Each is a row: a chain of splitters, where each cuts further what the one before left.
 *
 * Thread rule: pure functions. */
#ifndef VD_PRETOK_H
#define VD_PRETOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Returns the end of the first piece of [p, end), p < end: more than p, at most end. The bytes are
 * well-formed in the sense of vd_utf8_read (no VD_CPT_REPLACEMENT arises from a bad byte). */
typedef const uint8_t *vd_split_fn(const uint8_t *p, const uint8_t *end);

enum { VD_PRETOK_STAGES_MAX = 6 };

struct vd_pretok {
    const char *name;                          /* as in the file */
    vd_split_fn *stages[VD_PRETOK_STAGES_MAX]; /* in order, NULL after the last */
    bool whole_words;                          /* a word that is a token is that token, whatever the merges */
    bool add_bos;                              /* what holds if the file does not say */
};

/* NULL if this version does not know the name (n bytes, not NUL-terminated). */
const struct vd_pretok *vd_pretok_find(const char *name, size_t n);

/* All rows, for messages; ends with a row whose name is NULL. */
const struct vd_pretok *vd_pretok_all(void);

/* Calls word(ctx, piece, its end) for every piece of [p, end) in order, until it returns false. Returns what
 * the last call returned, true if there was none. */
bool vd_pretok_run(const struct vd_pretok *pre, const uint8_t *p, const uint8_t *end,
                   bool (*word)(void *ctx, const uint8_t *p, const uint8_t *end), void *ctx);

#endif
