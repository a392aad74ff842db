/* The body of POST /v1/embeddings and its answer, as OpenAI's API has them.
 *
 * Ownership: vd_openai_embed_free frees all; model and texts live as long as the request. Thread rule: none
 * is shared. */
#ifndef VD_OPENAI_EMBED_H
#define VD_OPENAI_EMBED_H

#include "vd_openai.h"

enum { VD_OPENAI_INPUTS_MAX = 256 };

struct vd_openai_input {
    struct vd_openai_text text; /* p NULL: ids */
    uint32_t *ids;              /* owned */
    size_t n_ids;
};

struct vd_openai_embed {
    const char *model;
    bool base64;
    struct vd_openai_input *input;
    size_t n_inputs;
    /* The answer so far. */
    struct json_t *json, *data, *receipts;
    uint64_t n_prompt;
    struct vd_amount amount;
};

/* False: *e says what is wrong, naming the parameter; out needs no free then. */
bool vd_openai_embed_parse(struct vd_openai_embed *out, struct vd_bytes body, struct vd_openai_error *e);
void vd_openai_embed_free(struct vd_openai_embed *r); /* a cleared one is fine */

/* The next input's vector, as its elements' bits. False: one is not finite, which JSON cannot say, or no
 * memory. */
bool vd_openai_embed_add(struct vd_openai_embed *r, const uint32_t *bits, size_t n, uint32_t n_prompt,
                         const char *receipt_id, struct vd_amount amount, struct vd_openai_error *e);
/* The JSON of the whole answer, from malloc; NULL: no memory. */
char *vd_openai_embed_format(const struct vd_openai_embed *r);

#endif
