/* The text side of a model, as a gateway needs it: chat template, tokenizer, stop tokens, context. No weights
 * are read.
 *
 * Ownership: maps the model file until close. Thread rule: any number of threads. */
#ifndef VD_GATEWAY_TEXT_H
#define VD_GATEWAY_TEXT_H

#include "vd_openai.h"
#include "vd_program.h"
#include "vd_tok.h"

struct vd_gateway_text;

enum vd_err vd_gateway_text_open(struct vd_gateway_text **out, const char *path, struct vd_error *err);
void vd_gateway_text_close(struct vd_gateway_text *t); /* NULL is allowed */

uint32_t vd_gateway_text_context(const struct vd_gateway_text *t);
bool vd_gateway_text_generates(const struct vd_gateway_text *t); /* false: an encoder, it only embeds */
uint32_t vd_gateway_text_width(const struct vd_gateway_text *t); /* elements of a vector */
/* How the model's vectors are pooled; NONE: in a way that is not known here. */
enum vd_pooling vd_gateway_text_pooling(const struct vd_gateway_text *t);
bool vd_gateway_text_is_stop(const struct vd_gateway_text *t, uint32_t id); /* of the program */

/* The prompt's ids (*ids is the caller's, free()). A chat goes through the template; a completion's text gets
 * the tokens that the model wants in front; ids are checked. False: *e says what is wrong with the request. A
 * prompt that fills the context is refused (context_length_exceeded) with both numbers, one with bytes that
 * no token can hold (invalid_value) with their number: they would vanish. */
bool vd_gateway_text_prompt(const struct vd_gateway_text *t, const struct vd_openai_request *r,
                            uint32_t **ids, uint32_t *n_ids, struct vd_openai_error *e);

/* Tokens to text, in whole characters. Start from zeros. */
struct vd_gateway_text_stream {
    struct vd_tok_stream characters;
    bool marks; /* the marks of tool calls are text, also where the vocabulary has them as control tokens */
};
/* The most bytes that one token may add. */
enum { VD_GATEWAY_TEXT_TOKEN_MAX = 3 * (VD_TOK_PIECE_MAX_BYTES + 4) };
/* The text that `id` adds (stop tokens and control tokens add none); returns its bytes. */
size_t vd_gateway_text_put(const struct vd_gateway_text *t, struct vd_gateway_text_stream *s, uint32_t id,
                           char out[VD_GATEWAY_TEXT_TOKEN_MAX]);
size_t vd_gateway_text_end(struct vd_gateway_text_stream *s, char out[VD_GATEWAY_TEXT_TOKEN_MAX]);
/* The mask of an answer's form, compiled for this model's tokens: *mask is the caller's, free(). False: *e
 * says what is wrong with the schema or grammar, naming the parameter. The form is not TEXT. */
bool vd_gateway_text_mask(struct vd_gateway_text *t, const struct vd_openai_format *format, uint8_t **mask,
                          size_t *n, struct vd_openai_error *e);
/* Where logprobs have got to in an answer. Start from zeros. */
struct vd_gateway_text_place {
    uint32_t n_tok;
    uint64_t n_characters; /* of a completion's text */
    struct vd_gateway_text_stream text;
};
/* OpenAI's "logprobs" of an answer's tokens from *at up to `to`, stop tokens left out; *at is then there.
 * `logprob` has `each` bytes for every token (docs/spec/wire.md). The caller's reference; NULL: no memory. */
struct json_t *vd_gateway_text_logprobs(const struct vd_gateway_text *t, enum vd_openai_kind kind,
                                        const uint32_t *ids, const uint8_t *logprob, size_t each,
                                        struct vd_gateway_text_place *at, uint32_t to);
/* A token that the vocabulary has? */
bool vd_gateway_text_valid(const struct vd_gateway_text *t, uint32_t id);

#endif
