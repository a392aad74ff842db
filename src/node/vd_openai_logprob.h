/* A token's log probability as the API writes it. Thread rule: pure functions. */
#ifndef VD_OPENAI_LOGPROB_H
#define VD_OPENAI_LOGPROB_H

#include "vd_tok.h"

struct json_t;

/* A token's text as JSON can hold it: what is no UTF-8 by itself is U+FFFD. */
struct json_t *vd_openai_token_text(const struct vd_tok *tok, uint32_t id);
/* JSON has no infinity; OpenAI's -9999.0 stands for what cannot happen. */
struct json_t *vd_openai_logprob_value(float x);
/* {"token", "logprob", "bytes"}, of a chat. */
struct json_t *vd_openai_logprob(const struct vd_tok *tok, uint32_t id, float x);

#endif
