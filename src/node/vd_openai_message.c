/* The part of a request that becomes the prompt: a chat's messages and tools, or a completion's text or token
 * ids. Messages are checked and written anew, so that a template sees what it expects: roles by their old
 * names, content as one text (or none beside tool calls), and nothing that was not checked. */
#include "vd_json_value.h"
#include "vd_openai_impl.h"
#include "vd_tool_call.h"

#include <stdio.h>
#include <stdlib.h>

/* Takes v over, as json_object_set_new; false: no memory. */
static bool put(json_t *object, const char *key, json_t *v, struct vd_openai_error *e)
{
    return json_object_set_new(object, key, v) == 0 || vd_openai_no_memory(e);
}

static bool wrong_type(const char *path, const char *what, struct vd_openai_error *e)
{
    return vd_openai_fail(e, 400, "invalid_type", path, "'%s' must be %s.", path, what);
}

static bool unsupported(const char *path, struct vd_openai_error *e)
{
    return vd_openai_fail(e, 400, "unsupported_parameter", path, "The parameter '%s' is not supported.",
                          path);
}

/* ---- content ---- */

static bool check_part(const json_t *part, size_t m, size_t i, struct vd_openai_error *e)
{
    char path[64];
    snprintf(path, sizeof path, "messages[%zu].content[%zu]", m, i);
    if (!vd_openai_is_text(json_object_get(part, "type"), "text", "text"))
        return vd_openai_fail(e, 400, "unsupported_value", path,
                              "'%s': only parts of the type \"text\" are supported.", path);
    if (!json_is_string(json_object_get(part, "text")) || json_object_size(part) != 2)
        return vd_openai_fail(e, 400, "invalid_value", path,
                              "'%s' must have \"type\" and \"text\", nothing else.", path);
    return true;
}

/* The texts of all parts in a row. */
static bool join_parts(json_t *to, const json_t *list, size_t m, struct vd_openai_error *e)
{
    size_t total = 0, at = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (!check_part(json_array_get(list, i), m, i, e))
            return false;
        total += json_string_length(json_object_get(json_array_get(list, i), "text"));
    }
    char *all = malloc(total + 1);
    if (!all)
        return vd_openai_no_memory(e);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *text = json_object_get(json_array_get(list, i), "text");
        memcpy(all + at, json_string_value(text), json_string_length(text));
        at += json_string_length(text);
    }
    json_t *joined = json_stringn(all, total);
    free(all);
    return put(to, "content", joined, e);
}

/* `may_be_missing`: there are tool calls. */
static bool get_content(json_t *to, const json_t *message, size_t m, bool may_be_missing,
                        struct vd_openai_error *e)
{
    char path[64];
    json_t *content = json_object_get(message, "content");
    snprintf(path, sizeof path, "messages[%zu].content", m);
    if (json_is_string(content))
        return put(to, "content", json_incref(content), e);
    if (json_is_array(content) && json_array_size(content) > 0)
        return join_parts(to, content, m, e);
    if (may_be_missing && (!content || json_is_null(content)))
        return put(to, "content", json_null(), e);
    return wrong_type(path, "a string or a list of text parts", e);
}

/* ---- tool calls ---- */

static bool get_call(json_t *to, const json_t *call, size_t m, size_t i, struct vd_openai_error *e)
{
    char path[96];
    const json_t *function = json_object_get(call, "function");
    json_t *id = json_object_get(call, "id"), *name = json_object_get(function, "name"),
           *arguments = json_object_get(function, "arguments");
    snprintf(path, sizeof path, "messages[%zu].tool_calls[%zu]", m, i);
    if (!json_is_string(id) || !vd_openai_is_text(json_object_get(call, "type"), "function", "function") ||
        !json_is_string(name) || !json_is_string(arguments))
        return vd_openai_fail(
            e, 400, "invalid_value", path,
            "'%s' must have the strings \"id\", \"type\" (\"function\"), \"function.name\" and "
            "\"function.arguments\".",
            path);
    json_t *copy = json_pack("{s:O, s:s, s:{s:O, s:O}}", "id", id, "type", "function", "function", "name",
                             name, "arguments", arguments);
    return json_array_append_new(to, copy) == 0 || vd_openai_no_memory(e);
}

static bool get_calls(json_t *to, const json_t *message, size_t m, struct vd_openai_error *e)
{
    char path[64];
    const json_t *list = vd_openai_get(message, "tool_calls");
    if (!list || vd_openai_is_empty(list))
        return true;
    snprintf(path, sizeof path, "messages[%zu].tool_calls", m);
    if (!json_is_array(list) || json_array_size(list) > VD_OPENAI_TOOLS_MAX)
        return vd_openai_fail(e, 400, "invalid_value", path, "'%s' must be a list of at most %d calls.", path,
                              VD_OPENAI_TOOLS_MAX);
    json_t *calls = json_array();
    if (!put(to, "tool_calls", calls, e))
        return false;
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!get_call(calls, json_array_get(list, i), m, i, e))
            return false;
    return true;
}

/* ---- messages ---- */

static const char *const roles[] = {"system", "user", "assistant", "tool"};

/* What else than role and content a message of a role may have, all strings but tool_calls. */
static const struct {
    const char *role, *key;
} members[] = {
    {"assistant", "tool_calls"},
    {"assistant", "reasoning_content"},
    {"tool", "tool_call_id"},
    {"tool", "name"},
};

static const char *get_role(const json_t *message, size_t m, struct vd_openai_error *e)
{
    char path[64];
    const char *role = json_string_value(json_object_get(message, "role"));
    snprintf(path, sizeof path, "messages[%zu].role", m);
    if (role && strcmp(role, "developer") == 0)
        role = "system"; /* the newer name of the same thing */
    for (size_t i = 0; role && i < sizeof roles / sizeof roles[0]; i++)
        if (strcmp(role, roles[i]) == 0)
            return roles[i];
    vd_openai_fail(e, 400, "invalid_value", path,
                   "'%s' must be \"system\", \"user\", \"assistant\" or \"tool\".", path);
    return NULL;
}

/* A member besides role and content: copied, or refused by name. */
static bool get_member(json_t *to, const char *role, const char *key, json_t *v, size_t m,
                       struct vd_openai_error *e)
{
    char path[128], name[64];
    if (strcmp(key, "role") == 0 || strcmp(key, "content") == 0 || json_is_null(v) || vd_openai_is_empty(v))
        return true;
    snprintf(path, sizeof path, "messages[%zu].%s", m, vd_openai_shown(name, key));
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        if (strcmp(role, members[i].role) != 0 || strcmp(key, members[i].key) != 0)
            continue;
        if (strcmp(key, "tool_calls") == 0)
            return true;
        return json_is_string(v) ? put(to, key, json_incref(v), e) : wrong_type(path, "a string", e);
    }
    return unsupported(path, e);
}

static bool get_message(json_t *list, const json_t *message, size_t m, struct vd_openai_error *e)
{
    char path[64];
    const char *key;
    json_t *v, *to = json_object();
    snprintf(path, sizeof path, "messages[%zu]", m);
    if (json_array_append_new(list, to) != 0)
        return vd_openai_no_memory(e);
    if (!json_is_object(message))
        return wrong_type(path, "an object", e);
    const char *role = get_role(message, m, e);
    if (!role || !put(to, "role", json_string(role), e))
        return false;
    bool calls =
        strcmp(role, "assistant") == 0 && json_array_size(json_object_get(message, "tool_calls")) > 0;
    json_object_foreach((json_t *)(uintptr_t)message, key, v)
    {
        if (!get_member(to, role, key, v, m, e))
            return false;
    }
    snprintf(path, sizeof path, "messages[%zu].tool_call_id", m);
    if (strcmp(role, "tool") == 0 && !json_is_string(json_object_get(message, "tool_call_id")))
        return vd_openai_fail(e, 400, "missing_required_parameter", path, "'%s' must be a string.", path);
    return get_content(to, message, m, calls, e) && (!calls || get_calls(to, message, m, e));
}

/* ---- tools ---- */

/* *strict: the function's arguments have to follow its schema. */
static bool get_tool(json_t *list, const json_t *tool, size_t i, bool *strict, struct vd_openai_error *e)
{
    char path[96], name[64];
    const char *key;
    json_t *v, *function = json_object_get(tool, "function"), *copy = json_object();
    *strict = json_is_true(json_object_get(function, "strict"));
    snprintf(path, sizeof path, "tools[%zu]", i);
    json_t *to = json_pack("{s:s, s:o}", "type", "function", "function", copy);
    if (!to || json_array_append_new(list, to) != 0)
        return vd_openai_no_memory(e);
    if (!vd_openai_is_text(json_object_get(tool, "type"), "function", "function") ||
        json_object_size(tool) != 2)
        return vd_openai_fail(e, 400, "invalid_value", path,
                              "'%s' must have \"type\": \"function\" and \"function\", nothing else.", path);
    json_object_foreach(function, key, v)
    {
        bool ok = strcmp(key, "name") == 0          ? json_string_length(v) > 0
                  : strcmp(key, "description") == 0 ? json_is_string(v)
                  : strcmp(key, "parameters") == 0  ? json_is_object(v)
                                                    : strcmp(key, "strict") == 0 && json_is_boolean(v);
        snprintf(path, sizeof path, "tools[%zu].function.%s", i, vd_openai_shown(name, key));
        if (json_is_null(v) || (ok && strcmp(key, "strict") == 0))
            continue;
        if (!ok)
            return vd_openai_fail(
                e, 400, "unsupported_value", path,
                "'%s': a function has \"name\", and may have \"description\", \"parameters\" "
                "(a JSON schema) and \"strict\" (a boolean).",
                path);
        if (!put(copy, key, json_incref(v), e))
            return false;
    }
    snprintf(path, sizeof path, "tools[%zu].function.name", i);
    return json_object_get(copy, "name") ||
           vd_openai_fail(e, 400, "missing_required_parameter", path, "'%s' must be a string.", path);
}

static json_t *name_of(const json_t *tools, size_t i)
{
    return json_object_get(json_object_get(json_array_get(tools, i), "function"), "name");
}

/* A call names its function by nothing else. */
static bool is_new_name(const json_t *tools, size_t i, struct vd_openai_error *e)
{
    char path[96];
    for (size_t k = 0; k < i; k++) {
        if (!json_equal(name_of(tools, k), name_of(tools, i)))
            continue;
        snprintf(path, sizeof path, "tools[%zu].function.name", i);
        return vd_openai_fail(e, 400, "invalid_value", path, "'%s' is the name of tools[%zu] too.", path, k);
    }
    return true;
}

/* "none": the model is not told of any; "auto": it may call them; "required": it must call one; an object: it
 * must call that one, *name. */
enum choice { CHOICE_AUTO, CHOICE_NONE, CHOICE_MUST, CHOICE_BAD };

static enum choice get_choice(const json_t *object, const char **name, struct vd_openai_error *e)
{
    const json_t *choice = vd_openai_get(object, "tool_choice");
    *name = json_string_value(json_object_get(json_object_get(choice, "function"), "name"));
    if (!choice || vd_openai_is_text(choice, "auto", "auto"))
        return CHOICE_AUTO;
    if (vd_openai_is_text(choice, "none", "none"))
        return CHOICE_NONE;
    bool named = *name && vd_openai_is_text(json_object_get(choice, "type"), "function", "function");
    if (named || vd_openai_is_text(choice, "required", "required"))
        return CHOICE_MUST;
    vd_openai_fail(e, 400, "unsupported_value", "tool_choice",
                   "'tool_choice' must be \"none\", \"auto\", \"required\" or {\"type\": \"function\", "
                   "\"function\": {\"name\": ...}}.");
    return CHOICE_BAD;
}

/* A copy of a schema that stands at `at` of another one, so that its references lead there. */
static json_t *moved(const json_t *schema, const char *at)
{
    json_t *copy = json_is_object(schema) ? json_object() : json_is_array(schema) ? json_array() : NULL, *v;
    const char *key;
    size_t i;
    json_object_foreach((json_t *)(uintptr_t)schema, key, v)
    {
        const char *ref = strcmp(key, "$ref") == 0 ? json_string_value(v) : NULL;
        bool data = strcmp(key, "const") == 0 || strcmp(key, "enum") == 0 || strcmp(key, "default") == 0;
        json_object_set_new(copy, key,
                            ref && ref[0] == '#' ? json_sprintf("%s%s", at, ref + 1)
                            : data               ? json_incref(v)
                                                 : moved(v, at));
    }
    json_array_foreach(schema, i, v)
    {
        json_array_append_new(copy, moved(v, at));
    }
    return copy ? copy : json_incref((json_t *)(uintptr_t)schema);
}

/* The form of an answer that is a call of one of the tools, or of the one with this name: JSON, as it is read
 * from every model (vd_tool_call.h). NULL: no tool has this name. */
static json_t *schema_of_calls(const json_t *tools, const char *name)
{
    json_t *calls = json_array(), *tool;
    size_t i;
    json_array_foreach(tools, i, tool)
    {
        json_t *function = json_object_get(tool, "function"), *own = json_object_get(function, "name"),
               *parameters = json_object_get(function, "parameters");
        char at[64];
        if (name && strcmp(json_string_value(own), name) != 0)
            continue;
        snprintf(at, sizeof at, "#/anyOf/%zu/properties/arguments", json_array_size(calls));
        json_t *arguments = json_object_size(parameters)
                                ? moved(parameters, at)
                                : json_pack("{s:s, s:{}}", "type", "object", "properties");
        json_array_append_new(calls, json_pack("{s:s, s:{s:{s:O}, s:o}, s:[s, s], s:b}", "type", "object",
                                               "properties", "name", "const", own, "arguments", arguments,
                                               "required", "name", "arguments", "additionalProperties", 0));
    }
    if (json_array_size(calls) > 0)
        return json_pack("{s:o}", "anyOf", calls);
    json_decref(calls);
    return NULL;
}

static bool must_call(struct vd_openai_request *r, const char *name, struct vd_openai_error *e)
{
    struct vd_openai_memory *mem = r->memory;
    json_t *schema = schema_of_calls(mem->tools, name);
    if (!schema)
        return vd_openai_fail(e, 400, "invalid_value", "tool_choice",
                              "'tool_choice' wants a call, but 'tools' has no such tool.");
    if (r->format.kind == VD_OPENAI_FORMAT_TEXT)
        mem->schema = json_dumps(schema, JSON_COMPACT);
    json_decref(schema);
    if (r->format.kind != VD_OPENAI_FORMAT_TEXT)
        return vd_openai_fail(
            e, 400, "invalid_value", "tool_choice",
            "'tool_choice' wants a call, 'response_format' another form; give one of them.");
    if (!mem->schema)
        return vd_openai_no_memory(e);
    r->format = (struct vd_openai_format){VD_OPENAI_FORMAT_CALL, {mem->schema, strlen(mem->schema)}};
    return true;
}

/* What an answer's text has to be where it is JSON, as a new reference; NULL: it is free. */
static json_t *schema_of_text(const struct vd_openai_request *r)
{
    if (r->format.kind == VD_OPENAI_FORMAT_OBJECT)
        return json_pack("{s:s}", "type", "object");
    return r->format.kind == VD_OPENAI_FORMAT_SCHEMA
               ? json_loadb(r->format.text.p, r->format.text.n, JSON_DECODE_ANY, NULL)
               : NULL;
}

/* The form of an answer that may be a text or calls (vd_calls.h). */
static bool may_call(struct vd_openai_request *r, const bool *strict, struct vd_openai_error *e)
{
    struct vd_openai_memory *mem = r->memory;
    size_t i;
    if (r->format.kind == VD_OPENAI_FORMAT_GRAMMAR)
        return vd_openai_fail(e, 400, "invalid_value", "response_format",
                              "A grammar beside tools that are 'strict' is not supported; give one of them.");
    json_t *tools = json_array(), *text = schema_of_text(r), *tool;
    json_array_foreach(mem->tools, i, tool)
    {
        json_t *function = json_object_get(tool, "function"),
               *parameters = json_object_get(function, "parameters");
        json_t *own = json_pack("{s:O, s:b}", "name", json_object_get(function, "name"), "strict", strict[i]);
        if (parameters && strict[i])
            json_object_set(own, "parameters", parameters);
        json_array_append_new(tools, own);
    }
    r->tool_how |= text ? VD_TOOL_MARKED : VD_TOOL_NAMED;
    json_t *all = json_pack("{s:o, s:b}", "tools", tools, "one", (r->tool_how & VD_TOOL_ONE) != 0);
    if (text)
        json_object_set_new(all, "text", text);
    free(mem->schema);
    mem->schema = json_dumps(all, JSON_COMPACT);
    json_decref(all);
    if (!mem->schema)
        return vd_openai_no_memory(e);
    r->format = (struct vd_openai_format){VD_OPENAI_FORMAT_TOOLS, {mem->schema, strlen(mem->schema)}};
    return true;
}

static bool to_value(struct vd_openai_memory *mem, struct vd_value *out, const json_t *j, const char *param,
                     struct vd_openai_error *e)
{
    struct vd_error why;
    struct vd_value **block = &mem->values[mem->n_values];
    if (vd_json_value(out, block, j, &why) != VD_OK)
        return vd_openai_fail(e, why.code == VD_ENOMEM ? 503 : 400, "invalid_value", param, "'%s': %s.",
                              param, why.msg);
    mem->n_values++;
    return true;
}

static bool get_tools(struct vd_openai_request *r, const json_t *object, struct vd_openai_error *e)
{
    struct vd_openai_memory *mem = r->memory;
    const json_t *list = vd_openai_get(object, "tools"), *one = vd_openai_get(object, "parallel_tool_calls");
    const char *name;
    r->tool_how = json_is_false(one) ? VD_TOOL_ONE : 0;
    enum choice choice = get_choice(object, &name, e);
    if (choice == CHOICE_BAD)
        return false;
    if (!list || vd_openai_is_empty(list))
        return choice != CHOICE_MUST || must_call(r, name, e);
    if (!json_is_array(list) || json_array_size(list) > VD_OPENAI_TOOLS_MAX)
        return vd_openai_fail(e, 400, "invalid_value", "tools", "'tools' must be a list of at most %d tools.",
                              VD_OPENAI_TOOLS_MAX);
    json_t *tools = mem->tools = json_array();
    bool strict[VD_OPENAI_TOOLS_MAX], any = false;
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (!get_tool(tools, json_array_get(list, i), i, &strict[i], e) || !is_new_name(tools, i, e))
            return false;
        any |= strict[i];
    }
    if (choice == CHOICE_NONE)
        return true;
    if (!to_value(mem, &r->tools, tools, "tools", e))
        return false;
    if (choice == CHOICE_MUST)
        return must_call(r, name, e);
    bool json = r->format.kind == VD_OPENAI_FORMAT_OBJECT || r->format.kind == VD_OPENAI_FORMAT_SCHEMA;
    return (!any && !json) || may_call(r, strict, e);
}

static bool get_template_args(struct vd_openai_request *r, const json_t *object, struct vd_openai_error *e)
{
    const char *param = "chat_template_kwargs";
    const json_t *args = vd_openai_get(object, param);
    if (args && !json_is_object(args))
        return wrong_type(param, "an object", e);
    return !args || to_value(r->memory, &r->template_args, args, param, e);
}

bool vd_openai_get_messages(struct vd_openai_request *r, const json_t *object, struct vd_openai_error *e)
{
    struct vd_openai_memory *mem = r->memory;
    const json_t *list = vd_openai_get(object, "messages");
    size_t n = json_array_size(list);
    struct vd_error why;
    if (!list)
        return vd_openai_fail(e, 400, "missing_required_parameter", "messages", "'messages' is missing.");
    if (!json_is_array(list) || n < 1 || n > VD_OPENAI_MESSAGES_MAX)
        return vd_openai_fail(e, 400, "invalid_value", "messages",
                              "'messages' must be a list of 1 to %d messages.", VD_OPENAI_MESSAGES_MAX);
    mem->messages = json_array();
    for (size_t i = 0; i < n; i++)
        if (!get_message(mem->messages, json_array_get(list, i), i, e))
            return false;
    mem->messages_text = json_deep_copy(mem->messages); /* keeps the arguments of calls as text */
    if (!mem->messages_text || vd_json_call_arguments(mem->messages, &why) != VD_OK)
        return vd_openai_no_memory(e);
    return to_value(mem, &r->messages, mem->messages, "messages", e) &&
           to_value(mem, &r->messages_text, mem->messages_text, "messages", e) && get_tools(r, object, e) &&
           get_template_args(r, object, e);
}

/* ---- completions ---- */

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
