/* Parameters are a table: name, which endpoint knows it, and what its value may be. Those that we implement
 * have a rule of their own; the others are accepted with the values that change nothing. What is in no row is
 * refused by name. */
#include "vd_openai_impl.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* Messages may quote the client, and may have been cut inside a character. */
static void only_printable(char *text)
{
    for (; *text; text++) {
        if (*text < 0x20 || *text >= 0x7f)
            *text = '?';
    }
}

bool vd_openai_fail(struct vd_openai_error *e, int status, const char *code, const char *param,
                    const char *fmt, ...)
{
    va_list ap;
    memset(e, 0, sizeof *e);
    e->status = status;
    e->type = status == 429 ? "rate_limit_error" : status >= 500 ? "server_error" : "invalid_request_error";
    e->code = code;
    snprintf(e->param, sizeof e->param, "%s", param ? param : "");
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    only_printable(e->message);
    only_printable(e->param);
    return false;
}

bool vd_openai_no_memory(struct vd_openai_error *e)
{
    return vd_openai_fail(e, 503, "out_of_memory", NULL, "The server is out of memory; try again later.");
}

/* ---- parameters ---- */

enum { IN_CHAT = 1, IN_COMPLETION = 2, IN_BOTH = 3 };

enum rule {
    TAKEN,   /* read by name below */
    IGNORED, /* any value: it only labels the request */
    ONE,     /* 1 */
    FALSE,
    BOOLEAN,
    EMPTY,     /* "", [] or {} */
    TEXT_LIST, /* ["text"] */
    NO_CHOICE, /* "none" or "auto": without tools they mean the same */
    ANY_TIER,  /* "auto" or "default" */
};

static const char *const rule_text[] = {
    [TAKEN] = "",
    [IGNORED] = "",
    [ONE] = "1",
    [FALSE] = "false",
    [BOOLEAN] = "true or false",
    [EMPTY] = "null or empty",
    [TEXT_LIST] = "[\"text\"]",
    [NO_CHOICE] = "\"none\" or \"auto\"",
    [ANY_TIER] = "\"auto\" or \"default\"",
};

static const struct param {
    const char *name;
    int where;
    enum rule rule;
} param[] = {
    {"model", IN_BOTH, TAKEN},
    {"messages", IN_CHAT, TAKEN},
    {"prompt", IN_COMPLETION, TAKEN},
    {"max_tokens", IN_BOTH, TAKEN},
    {"max_completion_tokens", IN_CHAT, TAKEN},
    {"temperature", IN_BOTH, TAKEN},
    {"top_p", IN_BOTH, TAKEN},
    {"top_k", IN_BOTH, TAKEN},
    {"min_p", IN_BOTH, TAKEN},
    {"seed", IN_BOTH, TAKEN},
    {"stream", IN_BOTH, TAKEN},
    {"stream_options", IN_BOTH, TAKEN},
    {"user", IN_BOTH, IGNORED},
    {"metadata", IN_CHAT, IGNORED},
    {"safety_identifier", IN_CHAT, IGNORED},
    {"prompt_cache_key", IN_CHAT, IGNORED},
    {"n", IN_BOTH, TAKEN},
    {"best_of", IN_COMPLETION, ONE},
    {"presence_penalty", IN_BOTH, TAKEN},
    {"frequency_penalty", IN_BOTH, TAKEN},
    {"repetition_penalty", IN_BOTH, TAKEN},
    {"repeat_last_n", IN_BOTH, TAKEN},
    {"logprobs", IN_BOTH, TAKEN},
    {"top_logprobs", IN_CHAT, TAKEN},
    {"echo", IN_COMPLETION, FALSE},
    {"suffix", IN_COMPLETION, EMPTY},
    {"stop", IN_BOTH, TAKEN},
    {"logit_bias", IN_BOTH, TAKEN},
    {"store", IN_CHAT, FALSE},
    {"response_format", IN_BOTH, TAKEN},
    {"modalities", IN_CHAT, TEXT_LIST},
    {"tools", IN_CHAT, TAKEN},
    {"functions", IN_CHAT, EMPTY},
    {"tool_choice", IN_CHAT, TAKEN},
    {"chat_template_kwargs", IN_CHAT, TAKEN},
    {"function_call", IN_CHAT, NO_CHOICE},
    {"parallel_tool_calls", IN_CHAT, BOOLEAN},
    {"service_tier", IN_CHAT, ANY_TIER},
};

static bool is_number(const json_t *v, double x)
{
    return json_is_number(v) && json_number_value(v) == x;
}

bool vd_openai_is_text(const json_t *v, const char *a, const char *b)
{
    const char *s = json_string_value(v);
    return s && (strcmp(s, a) == 0 || strcmp(s, b) == 0);
}

bool vd_openai_is_empty(const json_t *v)
{
    return (json_is_string(v) && json_string_length(v) == 0) ||
           (json_is_array(v) && json_array_size(v) == 0) || (json_is_object(v) && json_object_size(v) == 0);
}

static bool rule_allows(enum rule rule, const json_t *v)
{
    switch (rule) {
    case TAKEN:
    case IGNORED:
        return true;
    case ONE:
        return is_number(v, 1);
    case FALSE:
        return json_is_false(v);
    case BOOLEAN:
        return json_is_boolean(v);
    case EMPTY:
        return vd_openai_is_empty(v);
    case TEXT_LIST:
        return json_array_size(v) == 1 && vd_openai_is_text(json_array_get(v, 0), "text", "text");
    case NO_CHOICE:
        return vd_openai_is_text(v, "none", "auto");
    case ANY_TIER:
        return vd_openai_is_text(v, "auto", "default");
    }
    return false;
}

const char *vd_openai_shown(char out[64], const char *name)
{
    size_t n = 0;
    for (; name[n] && n < 60; n++)
        out[n] = name[n] >= 0x20 && name[n] < 0x7f ? name[n] : '?';
    out[n] = 0;
    return out;
}

static bool check_param(const char *key, const json_t *v, int where, struct vd_openai_error *e)
{
    char name[64];
    for (size_t i = 0; i < sizeof param / sizeof param[0]; i++) {
        if (!(param[i].where & where) || strcmp(param[i].name, key) != 0)
            continue;
        if (json_is_null(v) || rule_allows(param[i].rule, v))
            return true;
        return vd_openai_fail(e, 400, "unsupported_value", key,
                              "The parameter '%s' is supported only with the value %s.", key,
                              rule_text[param[i].rule]);
    }
    vd_openai_shown(name, key);
    return vd_openai_fail(e, 400, "unsupported_parameter", name, "The parameter '%s' is not supported.",
                          name);
}

const json_t *vd_openai_get(const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);
    return json_is_null(v) ? NULL : v;
}

static bool get_bool(bool *out, const json_t *object, const char *key, const char *path,
                     struct vd_openai_error *e)
{
    const json_t *v = vd_openai_get(object, key);
    if (v && !json_is_boolean(v))
        return vd_openai_fail(e, 400, "invalid_type", path, "'%s' must be true or false.", path);
    *out = v && json_is_true(v);
    return true;
}

/* A number in [low, high] as millionths, rounded; `absent` if it is not there. */
static bool get_micro(uint32_t *out, const json_t *object, const char *key, double low, double high,
                      double absent, struct vd_openai_error *e)
{
    const json_t *v = vd_openai_get(object, key);
    double x = v ? json_number_value(v) : absent;
    if (v && !json_is_number(v))
        return vd_openai_fail(e, 400, "invalid_type", key, "'%s' must be a number.", key);
    if (!(x >= low && x <= high))
        return vd_openai_fail(e, 400, "invalid_value", key, "'%s' must be from %g to %g.", key, low, high);
    *out = (uint32_t)lround(x * 1e6);
    return true;
}

static bool get_count(uint32_t *out, const json_t *object, const char *key, json_int_t low, json_int_t high,
                      struct vd_openai_error *e)
{
    const json_t *v = vd_openai_get(object, key);
    if (!v)
        return true;
    if (!json_is_integer(v))
        return vd_openai_fail(e, 400, "invalid_type", key, "'%s' must be a whole number.", key);
    json_int_t x = json_integer_value(v);
    if (x < low || x > high)
        return vd_openai_fail(e, 400, "invalid_value", key, "'%s' must be from %lld to %lld.", key,
                              (long long)low, (long long)high);
    *out = (uint32_t)x;
    return true;
}

static bool get_sampling(struct vd_openai_request *r, const json_t *object, struct vd_openai_error *e)
{
    struct vd_sampling *s = &r->sampling;
    const json_t *seed = vd_openai_get(object, "seed");
    if (!get_micro(&s->temp_micro, object, "temperature", 0, 2, 1, e) ||
        !get_micro(&s->top_p_micro, object, "top_p", 0, 1, 1, e) ||
        !get_micro(&s->min_p_micro, object, "min_p", 0, 1, 0, e) ||
        !get_count(&s->top_k, object, "top_k", 0, INT32_MAX, e))
        return false;
    if (s->top_p_micro == 0)
        s->top_p_micro = 1; /* a request cannot say less; it keeps only the likeliest token as well */
    if (seed && !json_is_integer(seed))
        return vd_openai_fail(e, 400, "invalid_type", "seed", "'seed' must be a whole number.");
    r->has_seed = seed != NULL;
    s->seed = seed ? (uint64_t)json_integer_value(seed) : 0;
    return true;
}

static bool get_max_tokens(struct vd_openai_request *r, const json_t *object, struct vd_openai_error *e)
{
    const json_t *old = vd_openai_get(object, "max_tokens"),
                 *new = vd_openai_get(object, "max_completion_tokens");
    if (old && new &&json_integer_value(old) != json_integer_value(new))
        return vd_openai_fail(e, 400, "invalid_value", "max_tokens",
                              "'max_tokens' and 'max_completion_tokens' differ; give one of them.");
    if (r->kind == VD_OPENAI_COMPLETION)
        r->max_tokens = VD_OPENAI_MAX_TOKENS_DEFAULT;
    return get_count(&r->max_tokens, object, "max_tokens", 1, VD_JOB_MAX_TOKENS, e) &&
           get_count(&r->max_tokens, object, "max_completion_tokens", 1, VD_JOB_MAX_TOKENS, e);
}

static bool get_stream(struct vd_openai_request *r, const json_t *object, struct vd_openai_error *e)
{
    const json_t *options = vd_openai_get(object, "stream_options");
    const char *key;
    json_t *v;
    if (!get_bool(&r->stream, object, "stream", "stream", e))
        return false;
    if (!options)
        return true;
    if (!json_is_object(options))
        return vd_openai_fail(e, 400, "invalid_type", "stream_options",
                              "'stream_options' must be an object.");
    if (!r->stream)
        return vd_openai_fail(e, 400, "invalid_value", "stream_options",
                              "'stream_options' needs 'stream': true.");
    json_object_foreach((json_t *)(uintptr_t)options, key, v)
    {
        char path[128], name[64];
        bool known = strcmp(key, "include_usage") == 0 || strcmp(key, "include_obfuscation") == 0;
        snprintf(path, sizeof path, "stream_options.%s", vd_openai_shown(name, key));
        if (!known && !json_is_null(v))
            return vd_openai_fail(e, 400, "unsupported_parameter", path,
                                  "The parameter '%s' is not supported.", path);
        if (strcmp(key, "include_obfuscation") == 0 && json_is_true(v))
            return vd_openai_fail(e, 400, "unsupported_value", path,
                                  "The parameter '%s' is supported only with the value false.", path);
    }
    return get_bool(&r->include_usage, options, "include_usage", "stream_options.include_usage", e);
}

static bool get_all(struct vd_openai_request *r, json_t *object, struct vd_openai_error *e)
{
    const char *key;
    json_t *v;
    int where = r->kind == VD_OPENAI_CHAT ? IN_CHAT : IN_COMPLETION;
    if (!json_is_object(object))
        return vd_openai_fail(e, 400, "invalid_type", NULL, "The body must be a JSON object.");
    json_object_foreach(object, key, v)
    {
        if (!check_param(key, v, where, e))
            return false;
    }
    r->model = json_string_value(vd_openai_get(object, "model"));
    if (!r->model)
        return vd_openai_fail(e, 400, "missing_required_parameter", "model",
                              "'model' must be the name of a model.");
    return get_sampling(r, object, e) && get_max_tokens(r, object, e) && get_stream(r, object, e) &&
           vd_openai_get_controls(r, object, e) &&
           (r->kind == VD_OPENAI_CHAT ? vd_openai_get_messages(r, object, e)
                                      : vd_openai_get_prompt(r, object, e));
}

json_t *vd_openai_read_body(struct vd_bytes body, struct vd_openai_error *e)
{
    json_error_t bad;
    if (body.n > VD_OPENAI_BODY_MAX) {
        vd_openai_fail(e, 413, "request_too_large", NULL, "The body has more than the limit of %d bytes.",
                       VD_OPENAI_BODY_MAX);
        return NULL;
    }
    json_t *json = json_loadb(body.n ? (const char *)body.p : "", body.n, JSON_REJECT_DUPLICATES, &bad);
    if (!json)
        vd_openai_fail(e, 400, "invalid_json", NULL,
                       "The body is not JSON: line %d, column %d (byte %d): %s.", bad.line, bad.column,
                       bad.position, bad.text);
    return json;
}

bool vd_openai_parse(struct vd_openai_request *out, enum vd_openai_kind kind, struct vd_bytes body,
                     struct vd_openai_error *e)
{
    memset(out, 0, sizeof *out);
    out->kind = kind;
    struct vd_openai_memory *mem = calloc(1, sizeof *mem);
    if (!mem)
        return vd_openai_no_memory(e);
    out->memory = mem;
    mem->json = vd_openai_read_body(body, e);
    bool ok = mem->json && get_all(out, mem->json, e);
    if (!ok)
        vd_openai_request_free(out);
    return ok;
}

void vd_openai_request_free(struct vd_openai_request *r)
{
    struct vd_openai_memory *mem = r->memory;
    if (mem) {
        for (size_t i = 0; i < mem->n_values; i++)
            free(mem->values[i]);
        json_decref(mem->messages);
        json_decref(mem->messages_text);
        json_decref(mem->tools);
        free(mem->ids);
        free(mem->schema);
        json_decref(mem->json);
        free(mem);
    }
    memset(r, 0, sizeof *r);
}

/* ---- out ---- */

/* Takes j over. */
static char *dump(json_t *j)
{
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    return text;
}

char *vd_openai_format_error(const struct vd_openai_error *e)
{
    return dump(json_pack("{s:{s:s, s:s, s:s?, s:s?}}", "error", "message", e->message, "type", e->type,
                          "param", e->param[0] ? e->param : NULL, "code", e->code));
}

static const char *finish_reason(const struct vd_openai_reply *r)
{
    switch (r->finish) {
    case VD_FINISH_STOP:
    case VD_FINISH_CANCELLED:
        return r->calls ? "tool_calls" : "stop";
    case VD_FINISH_LENGTH:
        return "length";
    case VD_FINISH_FAIL:
        return "content_filter"; /* the only one of OpenAI's reasons that says: not the model's whole answer
                                  */
    }
    return "stop";
}

static json_t *usage_of(const struct vd_openai_reply *r)
{
    json_int_t in = (json_int_t)r->n_prompt + (r->before ? r->before->n_prompt : 0);
    json_int_t out = (json_int_t)r->n_output + (r->before ? r->before->n_output : 0);
    return json_pack("{s:I, s:I, s:I}", "prompt_tokens", in, "completion_tokens", out, "total_tokens",
                     in + out);
}

/* Of several choices the last one's, all of them in "receipts", and the sum. */
static json_t *receipt_of(const struct vd_openai_reply *r)
{
    uint64_t before = r->before ? r->before->amount.micro : 0;
    json_t *j = json_pack("{s:s, s:I}", "receipt_id", r->receipt_id, "amount_micro",
                          (json_int_t)(r->amount.micro + before));
    json_t *all = r->before ? json_copy(r->before->receipts) : NULL;
    if (all) {
        json_array_append_new(all, json_string(r->receipt_id));
        json_object_set_new(j, "receipts", all);
    }
    return j;
}

/* A message's tool_calls; in a chunk each has its index. */
static json_t *calls_of(const struct vd_openai_reply *r, bool chunk)
{
    json_t *list = json_deep_copy(r->calls), *call;
    size_t i;
    json_array_foreach(list, i, call)
    {
        if (chunk)
            json_object_set_new(call, "index", json_integer((json_int_t)i));
    }
    return list;
}

/* A whole chat's message. Content is null if there are only tool calls. */
static json_t *message_of(const struct vd_openai_reply *r)
{
    json_t *content = r->calls && r->n_text == 0 ? json_null() : json_stringn(r->text, r->n_text);
    json_t *m = json_pack("{s:s, s:o, s:n}", "role", "assistant", "content", content, "refusal");
    if (r->calls)
        json_object_set_new(m, "tool_calls", calls_of(r, false));
    return m;
}

static json_t *logprobs_of(const struct vd_openai_reply *r)
{
    return r->logprobs ? json_incref((json_t *)(uintptr_t)r->logprobs) : json_null();
}

static json_t *choice_of(const struct vd_openai_reply *r)
{
    bool chat = r->kind == VD_OPENAI_CHAT;
    return json_pack("{s:i, s:o, s:o, s:s}", "index", (int)r->index, chat ? "message" : "text",
                     chat ? message_of(r) : json_stringn(r->text, r->n_text), "logprobs", logprobs_of(r),
                     "finish_reason", finish_reason(r));
}

bool vd_openai_before_add(struct vd_openai_before *b, const struct vd_openai_reply *r)
{
    b->choices = b->choices ? b->choices : json_array();
    b->receipts = b->receipts ? b->receipts : json_array();
    b->n_prompt += r->n_prompt;
    b->n_output += r->n_output;
    return json_array_append_new(b->choices, choice_of(r)) == 0 &&
           json_array_append_new(b->receipts, json_string(r->receipt_id)) == 0 &&
           vd_amount_add(&b->amount, b->amount, r->amount);
}

void vd_openai_before_free(struct vd_openai_before *b)
{
    json_decref(b->choices);
    json_decref(b->receipts);
    memset(b, 0, sizeof *b);
}

char *vd_openai_format_reply(const struct vd_openai_reply *r)
{
    bool chat = r->kind == VD_OPENAI_CHAT;
    json_t *choices = r->before ? json_copy(r->before->choices) : json_array();
    json_array_append_new(choices, choice_of(r));
    return dump(json_pack("{s:s, s:s, s:I, s:s, s:o, s:o, s:o}", "id", r->id, "object",
                          chat ? "chat.completion" : "text_completion", "created", (json_int_t)r->created_s,
                          "model", r->model, "choices", choices, "usage", usage_of(r), "veridem",
                          receipt_of(r)));
}

/* The one choice of a chunk; NULL for the usage chunk. */
static json_t *chunk_choice(const struct vd_openai_reply *r, enum vd_openai_part part)
{
    const char *finish = part == VD_OPENAI_PART_FINISH ? finish_reason(r) : NULL;
    json_t *text =
        json_stringn(part == VD_OPENAI_PART_TEXT ? r->text : "", part == VD_OPENAI_PART_TEXT ? r->n_text : 0);
    if (r->kind == VD_OPENAI_COMPLETION)
        return json_pack("{s:i, s:o, s:o, s:s?}", "index", (int)r->index, "text", text, "logprobs",
                         logprobs_of(r), "finish_reason", finish);
    json_t *delta = part == VD_OPENAI_PART_FINISH || part == VD_OPENAI_PART_CALLS
                        ? json_object()
                        : json_pack("{s:O}", "content", text);
    if (part == VD_OPENAI_PART_CALLS)
        json_object_set_new(delta, "tool_calls", calls_of(r, true));
    if (part == VD_OPENAI_PART_ROLE)
        json_object_set_new(delta, "role", json_string("assistant"));
    json_decref(text);
    return json_pack("{s:i, s:o, s:o, s:s?}", "index", (int)r->index, "delta", delta, "logprobs",
                     logprobs_of(r), "finish_reason", finish);
}

char *vd_openai_format_chunk(const struct vd_openai_reply *r, enum vd_openai_part part, bool include_usage)
{
    json_t *choices = json_array();
    if (part != VD_OPENAI_PART_USAGE)
        json_array_append_new(choices, chunk_choice(r, part));
    json_t *j = json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", r->id, "object",
                          r->kind == VD_OPENAI_CHAT ? "chat.completion.chunk" : "text_completion", "created",
                          (json_int_t)r->created_s, "model", r->model, "choices", choices);
    if (include_usage)
        json_object_set_new(j, "usage", part == VD_OPENAI_PART_USAGE ? usage_of(r) : json_null());
    if (part == VD_OPENAI_PART_FINISH || part == VD_OPENAI_PART_USAGE)
        json_object_set_new(j, "veridem", receipt_of(r));
    return dump(j);
}

static json_t *model_object(const struct vd_openai_model *m)
{
    char root[2 * VD_HASH_BYTES + 1];
    vd_hex_encode(root, m->root.b, VD_HASH_BYTES);
    return json_pack("{s:s, s:s, s:I, s:s, s:{s:s, s:i, s:i, s:I, s:I}}", "id", m->id, "object", "model",
                     "created", (json_int_t)m->created_s, "owned_by", "veridem", "veridem", "root", root,
                     "context", (int)m->context_tok, "workers", (int)m->n_workers, "price_in_micro",
                     (json_int_t)m->price_in.micro, "price_out_micro", (json_int_t)m->price_out.micro);
}

char *vd_openai_format_models(const struct vd_openai_model *m, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, model_object(&m[i]));
    return dump(json_pack("{s:s, s:o}", "object", "list", "data", list));
}

char *vd_openai_format_model(const struct vd_openai_model *m)
{
    return dump(model_object(m));
}
