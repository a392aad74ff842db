/* The OpenAI API's JSON: request bodies in, responses, stream chunks and errors out. Pure text work: no
 * sockets, no model.
 *
 * A parameter that this server does not implement is refused by name, never ignored, unless its value is the
 * one that changes nothing (docs/guide/api.md has the table). Null is the same as absent.
 *
 * Limits: a body has at most VD_OPENAI_BODY_MAX bytes. Ownership: a parsed request owns its strings until
 * vd_openai_request_free; formatted texts are the caller's, free(). NULL from a format function: no memory.
 * Thread rule: pure functions. */
#ifndef VD_OPENAI_H
#define VD_OPENAI_H

#include "vd_bytes.h"
#include "vd_receipt.h"
#include "vd_stop_text.h"
#include "vd_value.h"

enum {
    VD_OPENAI_BODY_MAX = 1 << 20,
    VD_OPENAI_MESSAGES_MAX = 4096,
    VD_OPENAI_TOOLS_MAX = 128, /* of a request, and calls of a message */
    VD_OPENAI_MAX_TOKENS_DEFAULT =
        16, /* of /v1/completions, as OpenAI's; a chat goes on to the end of the context */
    VD_OPENAI_CHOICES_MAX = 16,
};

/* What a client did wrong, or what we cannot do now. */
struct vd_openai_error {
    int status;       /* of HTTP */
    const char *type; /* "invalid_request_error", "rate_limit_error", "server_error" */
    const char *code; /* "model_not_found", ...; NULL: null */
    char param[128];  /* empty: null */
    char message[512];
    uint32_t retry_after_s; /* 0: no Retry-After */
};

/* Fills *e; returns false so that `return vd_openai_fail(...)` reads well. param may be NULL. */
bool vd_openai_fail(struct vd_openai_error *e, int status, const char *code, const char *param,
                    const char *fmt, ...) __attribute__((format(printf, 5, 6)));
char *vd_openai_format_error(const struct vd_openai_error *e); /* {"error": {...}} */

enum vd_openai_kind {
    VD_OPENAI_CHAT,
    VD_OPENAI_COMPLETION,
    VD_OPENAI_EMBEDDING
}; /* the last: vd_openai_embed.h */

struct vd_openai_text {
    const char *p; /* UTF-8, NUL-terminated, holds no NUL */
    size_t n;
};

/* What an answer must look like. */
enum vd_openai_format_kind {
    VD_OPENAI_FORMAT_TEXT,   /* anything */
    VD_OPENAI_FORMAT_OBJECT, /* a JSON object */
    VD_OPENAI_FORMAT_SCHEMA, /* JSON of this schema */
    VD_OPENAI_FORMAT_GRAMMAR,
    VD_OPENAI_FORMAT_CALL,  /* a tool call as JSON, of this schema */
    VD_OPENAI_FORMAT_TOOLS, /* a text, or JSON of a schema, or calls of tools: what vd_calls_compile reads */
};
struct vd_openai_format {
    enum vd_openai_format_kind kind;
    struct vd_openai_text text; /* schema, grammar or tools */
};

struct vd_openai_request {
    enum vd_openai_kind kind;
    const char *model;
    /* CHAT: what the template gets. Messages are a list of maps: role (system, user, assistant, tool) and
     * content, and tool_calls, tool_call_id, name, reasoning_content where they are given. Arguments of tool
     * calls are maps, and in messages_text the text that the client sent. */
    struct vd_value messages, messages_text;
    struct vd_value tools;         /* a list of maps; undefined: none, or none that may be called */
    struct vd_value template_args; /* a map of further variables; undefined: none */
    unsigned tool_how;             /* how calls are read: bits of enum vd_tool_how */
    struct vd_openai_text prompt;  /* COMPLETION: the text, p NULL when ids were given */
    size_t n_ids;
    uint32_t *ids;
    uint32_t max_tokens;         /* 0: not given (a chat only) */
    struct vd_sampling sampling; /* in a request's units; seed is the client's if has_seed */
    bool has_seed;
    struct vd_bytes bias; /* a table of vd_adjust.h; n 0: none */
    struct vd_stop_text stop;
    uint32_t logprobs; /* as vd_wire_job's */
    uint32_t n;        /* choices, 1 to VD_OPENAI_CHOICES_MAX */
    struct vd_openai_format format;
    bool stream, include_usage;
    void *memory; /* private */
};

/* False: *e says what is wrong, naming the parameter; out needs no free then. */
bool vd_openai_parse(struct vd_openai_request *out, enum vd_openai_kind kind, struct vd_bytes body,
                     struct vd_openai_error *e);
void vd_openai_request_free(struct vd_openai_request *r); /* a cleared one is fine */

/* An answer, or the parts of it that a chunk needs. */
struct vd_openai_reply {
    enum vd_openai_kind kind;
    const char *id; /* "chatcmpl-..." or "cmpl-..." */
    uint64_t created_s;
    const char *model;
    const char *text; /* UTF-8, may hold NUL */
    size_t n_text;
    const struct json_t *calls;    /* tool calls, for a whole chat or PART_CALLS; NULL: none */
    const struct json_t *logprobs; /* of the text; NULL: none */
    enum vd_finish finish;
    uint32_t n_prompt, n_output; /* of the receipt */
    const char *receipt_id;      /* 64 hex digits */
    struct vd_amount amount;
    /* Of several choices, each an answer with a receipt of its own: this one's number, and what those before
     * it add up to. */
    uint32_t index;
    const struct vd_openai_before *before; /* NULL: there are none */
};

struct vd_openai_before {
    struct json_t *choices, *receipts; /* lists: of whole choices, of receipt ids; owned */
    uint32_t n_prompt, n_output;
    struct vd_amount amount;
};
/* Adds a whole choice to them; a cleared one is the beginning. False: no memory. */
bool vd_openai_before_add(struct vd_openai_before *b, const struct vd_openai_reply *r);
void vd_openai_before_free(struct vd_openai_before *b);

char *vd_openai_format_reply(const struct vd_openai_reply *r);

enum vd_openai_part {
    VD_OPENAI_PART_ROLE,   /* first chunk of a chat: the role, no text */
    VD_OPENAI_PART_TEXT,   /* some text */
    VD_OPENAI_PART_CALLS,  /* the tool calls, whole */
    VD_OPENAI_PART_FINISH, /* no text, the finish reason and the receipt */
    VD_OPENAI_PART_USAGE,  /* no choice, the usage and the receipt; only when asked for */
};
/* The JSON of one chunk, without "data: ". `include_usage`: "usage": null in those that have none. */
char *vd_openai_format_chunk(const struct vd_openai_reply *r, enum vd_openai_part part, bool include_usage);

struct vd_openai_model {
    const char *id;
    uint64_t created_s;
    struct vd_hash root;
    uint32_t context_tok, n_workers;
    struct vd_amount price_in, price_out; /* the cheapest worker's; meaningless if n_workers is 0 */
};
char *vd_openai_format_models(const struct vd_openai_model *m, size_t n); /* GET /v1/models */
char *vd_openai_format_model(const struct vd_openai_model *m);            /* GET /v1/models/{id} */

#endif
