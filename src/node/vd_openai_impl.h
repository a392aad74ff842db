/* What the files vd_openai*.c share: reading a request's JSON. */
#ifndef VD_OPENAI_IMPL_H
#define VD_OPENAI_IMPL_H

#include "vd_openai.h"

#include <jansson.h>

/* Everything that a request owns. */
struct vd_openai_memory {
    json_t *json;
    json_t *messages, *messages_text, *tools; /* as checked */
    struct vd_value *values[4];               /* the nodes of what templates get */
    size_t n_values;
    uint32_t *ids;
    uint8_t bias[VD_BIAS_MAX * VD_BIAS_ENTRY_BYTES];
    char *schema;
};

/* A member, NULL if absent or null. */
const json_t *vd_openai_get(const json_t *object, const char *key);

/* A string that is one of two? An empty string, list or object? */
bool vd_openai_is_text(const json_t *v, const char *a, const char *b);
bool vd_openai_is_empty(const json_t *v);

/* A client's name for error messages: printable ASCII, cut. */
const char *vd_openai_shown(char out[64], const char *name);

bool vd_openai_no_memory(struct vd_openai_error *e); /* fails with 503 */

/* A request's body as JSON, a new reference; NULL with *e filled if it is too long or not JSON. */
json_t *vd_openai_read_body(struct vd_bytes body, struct vd_openai_error *e);

/* vd_openai_message.c: r->messages, tools and template_args, or r->prompt or r->ids. */
bool vd_openai_get_messages(struct vd_openai_request *r, const json_t *object, struct vd_openai_error *e);
bool vd_openai_get_prompt(struct vd_openai_request *r, const json_t *object, struct vd_openai_error *e);

/* vd_openai_sampling.c: penalties, bias, stop, logprobs and format. */
bool vd_openai_get_controls(struct vd_openai_request *r, const json_t *object, struct vd_openai_error *e);

#endif
