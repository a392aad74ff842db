/* Tokenizers: text to ids and back, as the GGUF key tokenizer.ggml.model says. Known models: "gpt2"
 * (byte-level BPE) with the pre-tokenisers of vd_pretok.h, "t5" (unigram), "llama" (SentencePiece's BPE:
 * scores, byte fallback) and "bert" (WordPiece: lower case, no accents, if the file does not say otherwise).
 * The ids are equal to those of llama.cpp's tokenizer on the same file.
 *
 * Text is bytes. What is not UTF-8 is tokenised as if each bad byte were U+FFFD (vd_utf8_read), but by
 * "llama" as the bytes that it is. Bytes for which the vocabulary has no token are lost; vd_tok_encode counts
 * these.
 *
 * Ownership: a struct vd_tok borrows the vocabulary's texts from the struct vd_gguf, which must outlive it.
 * Errors: VD_EFORMAT, VD_EUNSUPPORTED, VD_ELIMIT for what is wrong with the file; the message names the key.
 * Thread rule: constant after loading; any number of threads may use one at a time of their own memory. */
#ifndef VD_TOK_H
#define VD_TOK_H

#include "vd_bytes.h"
#include "vd_err.h"
#include "vd_gguf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VD_TOK_NONE UINT32_MAX

enum {
    VD_TOK_VOCAB_MAX = 1 << 20,
    VD_TOK_MERGES_MAX = 1 << 21,
    VD_TOK_SPECIAL_MAX = 1 << 13,
    VD_TOK_PIECE_MAX_BYTES = 1024,   /* the longest text of a token */
    VD_TOK_TEXT_MAX_BYTES = 1 << 23, /* of one vd_tok_encode; its memory is at most 60 bytes per byte of
                                        the longest word, of the whole text for "llama" */
};

struct vd_tok;

enum vd_err vd_tok_load(struct vd_tok **out, const struct vd_gguf *g, struct vd_error *err);
void vd_tok_free(struct vd_tok *t); /* NULL is fine */

uint32_t vd_tok_count(const struct vd_tok *t);

/* VD_TOK_NONE if the model has none. */
uint32_t vd_tok_bos(const struct vd_tok *t);
uint32_t vd_tok_eos(const struct vd_tok *t);

bool vd_tok_adds_bos(const struct vd_tok *t); /* what the file wants */
bool vd_tok_is_eog(const struct vd_tok *t,
                   uint32_t id); /* ends an answer: eos, and others by their well-known names */
bool vd_tok_is_control(const struct vd_tok *t, uint32_t id);

/* The id of exactly this vocabulary text (as in the file: byte-level, e.g. "\u0120the"), or VD_TOK_NONE. */
uint32_t vd_tok_find(const struct vd_tok *t, const char *text, size_t n);

/* The bytes that a token stands for: 0 to VD_TOK_PIECE_MAX_BYTES, often no whole characters. Control tokens
 * stand for nothing, or for their text if `special`. id must be below the count. */
struct vd_bytes vd_tok_piece(const struct vd_tok *t, uint32_t id, bool special);

enum {
    VD_TOK_ADD_BOS = 1,       /* begin with bos if the file wants that */
    VD_TOK_ADD_END = 4,       /* end with eos or its like if the file wants that */
    VD_TOK_PARSE_SPECIAL = 2, /* control tokens' texts become the tokens; without it they are plain text */
};

/* Where encode puts ids: the caller's memory for max of them. */
struct vd_tok_ids {
    uint32_t *p;
    size_t max;
    size_t n;               /* out: how many the text has, also if more than max */
    size_t n_dropped_bytes; /* out: bytes that no token of the vocabulary can hold */
};

/* VD_ELIMIT if the text has more than VD_TOK_TEXT_MAX_BYTES or more than max ids (the first max are then
 * there, and n says how many it takes). VD_ENOMEM. */
enum vd_err vd_tok_encode(const struct vd_tok *t, const char *text, size_t n_bytes, unsigned flags,
                          struct vd_tok_ids *ids, struct vd_error *err);

/* All pieces in a row into out. *n_bytes is the whole length also if more than max_bytes, which is VD_ELIMIT.
 * VD_EFORMAT for an id outside the vocabulary. The bytes may be no UTF-8. */
enum vd_err vd_tok_decode(const struct vd_tok *t, const uint32_t *ids, size_t n_ids, bool special, char *out,
                          size_t max_bytes, size_t *n_bytes, struct vd_error *err);

/* Streaming: pieces in, whole characters out. What comes out is always well-formed UTF-8: an unfinished
 * character waits for the next piece, and bytes that cannot become one give U+FFFD per maximal subpart, so
 * that the stream's text does not depend on where it was cut. Start from zeros. */
struct vd_tok_stream {
    uint8_t held[4];
    uint8_t n_held;
};

/* Bytes that vd_tok_stream_put may write for a piece of n bytes. */
static inline size_t vd_tok_stream_max(size_t n)
{
    return 3 * (n + 4);
}

/* Adds a piece. Returns the bytes written to out, which has room for vd_tok_stream_max(n). */
size_t vd_tok_stream_put(struct vd_tok_stream *s, const uint8_t *piece, size_t n, char *out);

/* The end: an unfinished character becomes U+FFFD. Returns the bytes written, at most 3, and resets. */
size_t vd_tok_stream_end(struct vd_tok_stream *s, char *out);

#endif
