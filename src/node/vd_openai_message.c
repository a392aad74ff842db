/* The part of a request that becomes the prompt: a chat's messages, or a completion's text or token ids. */
#include "vd_openai_impl.h"

#include <stdio.h>
#include <stdlib.h>

static bool get_part(struct vd_openai_text *out, const json_t *part, size_t m, size_t i,
                     struct vd_openai_error *e)
{
    char path[64];
    snprintf(path, sizeof path, "messages[%zu].content[%zu]", m, i);
    const json_t *text = json_object_get(part, "text");
    if (!vd_openai_is_text(json_object_get(part, "type"), "text", "text"))
        return vd_openai_fail(e, 400, "unsupported_value", path,
                              "'%s': only parts of the type \"text\" are supported.", path);
    if (!json_is_string(text) || json_object_size(part) != 2)
        return vd_openai_fail(e, 400, "invalid_value", path,
                              "'%s' must have \"type\" and \"text\", nothing else.", path);
    *out = (struct vd_openai_text){json_string_value(text), json_string_length(text)};
    return true;
}

static bool join_parts(struct vd_openai_memory *mem, struct vd_openai_text *out, const json_t *list, size_t m,
                       struct vd_openai_error *e)
{
    struct vd_openai_text part;
    size_t total = 0, at = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (!get_part(&part, json_array_get(list, i), m, i, e))
            return false;
        total += part.n;
    }
    char *all = malloc(total + 1);
    if (!all)
        return vd_openai_no_memory(e);
    mem->joined[mem->n_joined++] = all;
    for (size_t i = 0; i < json_array_size(list); i++) {
        get_part(&part, json_array_get(list, i), m, i, e);
        memcpy(all + at, part.p, part.n);
        at += part.n;
    }
    all[total] = 0;
    *out = (struct vd_openai_text){all, total};
    return true;
}

static bool get_role(struct vd_openai_text *out, const json_t *message, size_t m, struct vd_openai_error *e)
{
    static const char *const known[] = {"system", "user", "assistant"};
    char path[64];
    const char *role = json_string_value(json_object_get(message, "role"));
    snprintf(path, sizeof path, "messages[%zu].role", m);
    if (role && strcmp(role, "developer") == 0)
        role = "system"; /* the newer name of the same thing */
    for (size_t i = 0; role && i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(role, known[i]) == 0) {
            *out = (struct vd_openai_text){known[i], strlen(known[i])};
            return true;
        }
    }
    return vd_openai_fail(e, 400, "invalid_value", path,
                          "'%s' must be \"system\", \"user\" or \"assistant\".", path);
}

static bool get_message(struct vd_openai_memory *mem, struct vd_openai_message *out, const json_t *message,
                        size_t m, struct vd_openai_error *e)
{
    char path[128], name[64];
    const char *key;
    json_t *v;
    if (!json_is_object(message)) {
        snprintf(path, sizeof path, "messages[%zu]", m);
        return vd_openai_fail(e, 400, "invalid_type", path, "'%s' must be an object.", path);
    }
    json_object_foreach((json_t *)(uintptr_t)message, key, v)
    {
        if (strcmp(key, "role") == 0 || strcmp(key, "content") == 0 || json_is_null(v) ||
            vd_openai_is_empty(v))
            continue;
        snprintf(path, sizeof path, "messages[%zu].%s", m, vd_openai_shown(name, key));
        return vd_openai_fail(e, 400, "unsupported_parameter", path, "The parameter '%s' is not supported.",
                              path);
    }
    if (!get_role(&out->role, message, m, e))
        return false;
    const json_t *content = json_object_get(message, "content");
    if (json_is_array(content) && json_array_size(content) > 0)
        return join_parts(mem, &out->content, content, m, e);
    if (json_is_string(content)) {
        out->content = (struct vd_openai_text){json_string_value(content), json_string_length(content)};
        return true;
    }
    snprintf(path, sizeof path, "messages[%zu].content", m);
    return vd_openai_fail(e, 400, "invalid_type", path, "'%s' must be a string or a list of text parts.",
                          path);
}

bool vd_openai_get_messages(struct vd_openai_request *r, const json_t *object, struct vd_openai_error *e)
{
    struct vd_openai_memory *mem = r->memory;
    const json_t *list = vd_openai_get(object, "messages");
    size_t n = json_array_size(list);
    if (!list)
        return vd_openai_fail(e, 400, "missing_required_parameter", "messages", "'messages' is missing.");
    if (!json_is_array(list) || n < 1 || n > VD_OPENAI_MESSAGES_MAX)
        return vd_openai_fail(e, 400, "invalid_value", "messages",
                              "'messages' must be a list of 1 to %d messages.", VD_OPENAI_MESSAGES_MAX);
    mem->message = r->message = calloc(n, sizeof *r->message);
    if (!r->message)
        return vd_openai_no_memory(e);
    for (size_t i = 0; i < n; i++) {
        if (!get_message(mem, &r->message[i], json_array_get(list, i), i, e))
            return false;
    }
    r->n_messages = n;
    return true;
}

static bool get_ids(struct vd_openai_request *r, const json_t *list, struct vd_openai_error *e)
{
    struct vd_openai_memory *mem = r->memory;
    size_t n = json_array_size(list);
    mem->ids = r->ids = malloc((n ? n : 1) * sizeof *r->ids);
    if (!r->ids)
        return vd_openai_no_memory(e);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        json_int_t x = json_is_integer(v) ? json_integer_value(v) : -1;
        if (x < 0 || x > INT32_MAX)
            return vd_openai_fail(e, 400, "invalid_value", "prompt",
                                  "'prompt' must be a string, a list of one string, or a list of token ids.");
        r->ids[i] = (uint32_t)x;
    }
    r->n_ids = n;
    return true;
}

bool vd_openai_get_prompt(struct vd_openai_request *r, const json_t *object, struct vd_openai_error *e)
{
    const json_t *v = vd_openai_get(object, "prompt");
    if (!v)
        return vd_openai_fail(e, 400, "missing_required_parameter", "prompt", "'prompt' is missing.");
    if (json_is_array(v) && json_array_size(v) == 1 && !json_is_integer(json_array_get(v, 0)))
        v = json_array_get(v, 0); /* one prompt, as a string or as ids */
    else if (json_is_array(v) && json_array_size(v) > 1 && !json_is_integer(json_array_get(v, 0)))
        return vd_openai_fail(e, 400, "unsupported_value", "prompt",
                              "Only one prompt per request is supported.");
    if (json_is_string(v)) {
        r->prompt = (struct vd_openai_text){json_string_value(v), json_string_length(v)};
        return true;
    }
    if (json_is_array(v) && json_array_size(v) > 0)
        return get_ids(r, v, e);
    return vd_openai_fail(e, 400, "invalid_value", "prompt",
                          "'prompt' must be a string, a list of one string, or a list of token ids.");
}
