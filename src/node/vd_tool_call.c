/* One scan finds where calls begin, growing with the answer; one reader takes them from there when the answer
 * is whole. Both know the formats by their marks, not by the model: marks are so unlike other text that the
 * model's name says nothing more. */
#include "vd_tool_call.h"

#include "vd_calls.h"

#include "vd_sha256.h"

#include <stdio.h>
#include <stdlib.h>

enum { CALLS_MAX = 128, NAME_MAX = 256 };

/* What calls begin with, anywhere in an answer. */
static const char *const openers[] = {"<tool_call>",   "[TOOL_CALLS]", "<|python_tag|>",
                                      "<|tool_call|>", "<function=",   VD_CALLS_BEGIN};

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static size_t skip_space(const char *text, size_t at, size_t n)
{
    while (at < n && is_space(text[at]))
        at++;
    return at;
}

/* ---- scan ---- */

enum match { MATCH_NO, MATCH_MAYBE, MATCH_YES };

static enum match match(const char *p, size_t n, const char *word)
{
    size_t len = strlen(word), k = n < len ? n : len;
    return memcmp(p, word, k) != 0 ? MATCH_NO : n < len ? MATCH_MAYBE : MATCH_YES;
}

static enum match match_opener(const char *p, size_t n)
{
    enum match best = MATCH_NO;
    for (size_t i = 0; i < sizeof openers / sizeof openers[0]; i++) {
        enum match m = match(p, n, openers[i]);
        best = m > best ? m : best;
    }
    return best;
}

/* An answer that begins with a JSON object, or a list of them. */
static enum match match_json(const char *p, size_t n)
{
    size_t at = 0;
    if (n > 0 && *p == '[')
        at = skip_space(p, 1, n);
    if (at >= n)
        return MATCH_MAYBE;
    if (p[at] != '{')
        return MATCH_NO;
    at = skip_space(p, at + 1, n);
    return at >= n ? MATCH_MAYBE : p[at] == '"' ? MATCH_YES : MATCH_NO;
}

size_t vd_tool_content(struct vd_tool_scan *s, const char *text, size_t n)
{
    size_t first = skip_space(text, 0, n);
    while (!s->found && s->at < n) {
        const char *p = text + s->at;
        enum match m = *p == '<' || *p == '[' ? match_opener(p, n - s->at) : MATCH_NO;
        if (s->at == first && m != MATCH_YES && (*p == '{' || *p == '[')) {
            enum match j = match_json(p, n - s->at);
            m = j > m ? j : m;
        }
        s->found = m == MATCH_YES;
        if (m != MATCH_NO)
            break;
        s->at++;
    }
    size_t end = s->at;
    while (end > 0 && is_space(text[end - 1]))
        end--;
    return end;
}

/* ---- read ---- */

struct reader {
    const char *p;
    size_t n, at;
    const struct vd_value *tools;
    json_t *calls;
    unsigned how;
};

static bool accept(struct reader *r, const char *word)
{
    size_t len = strlen(word), at = skip_space(r->p, r->at, r->n);
    if (r->n - at < len || memcmp(r->p + at, word, len) != 0)
        return false;
    r->at = at + len;
    return true;
}

/* A mark that may end a call, or what there is of it where the answer was cut. */
static void accept_end(struct reader *r, const char *word)
{
    size_t at = skip_space(r->p, r->at, r->n);
    if (!accept(r, word) && at < r->n && match(r->p + at, r->n - at, word) == MATCH_MAYBE)
        r->at = r->n;
}

/* The text up to `end`, which is passed; false if there is none. */
static bool up_to(struct reader *r, const char *end, struct vd_str *out)
{
    const char *hit = memmem(r->p + r->at, r->n - r->at, end, strlen(end));
    if (!hit)
        return false;
    *out = (struct vd_str){r->p + r->at, (size_t)(hit - r->p) - r->at};
    r->at = (size_t)(hit - r->p) + strlen(end);
    return true;
}

static struct vd_str trimmed(struct vd_str s)
{
    size_t at = skip_space(s.p, 0, s.n);
    s = (struct vd_str){s.p + at, s.n - at};
    while (s.n > 0 && is_space(s.p[s.n - 1]))
        s.n--;
    return s;
}

/* The JSON value here; NULL if there is none. */
static json_t *read_json(struct reader *r)
{
    json_error_t e;
    size_t at = skip_space(r->p, r->at, r->n);
    json_t *j = json_loadb(r->p + at, r->n - at, JSON_DISABLE_EOF_CHECK, &e);
    if (j)
        r->at = at + (size_t)e.position;
    return j;
}

static const struct vd_value *find_tool(const struct vd_value *tools, const char *name)
{
    for (size_t i = 0; tools->type == VD_VALUE_LIST && i < tools->list.n; i++) {
        const struct vd_value *f = vd_value_get(&tools->list.p[i], vd_str_of("function"));
        const struct vd_value *n = f && f->type == VD_VALUE_MAP ? vd_value_get(f, vd_str_of("name")) : NULL;
        if (n && n->type == VD_VALUE_STR && vd_str_is(n->s, name))
            return f;
    }
    return NULL;
}

/* Takes arguments over: an object, or text that is kept as it is. */
static bool add_call(struct reader *r, const char *name, json_t *arguments)
{
    json_t *text = NULL;
    if (json_is_string(arguments)) {
        text = json_incref(arguments);
    } else if (json_is_object(arguments)) {
        char *dumped = json_dumps(arguments, 0);
        text = dumped ? json_string(dumped) : NULL;
        free(dumped);
    }
    json_decref(arguments);
    if (!text || !name[0] || json_array_size(r->calls) >= CALLS_MAX) {
        json_decref(text);
        return false;
    }
    return json_array_append_new(r->calls, json_pack("{s:s, s:{s:s, s:o}}", "type", "function", "function",
                                                     "name", name, "arguments", text)) == 0;
}

/* {"name": N, "arguments" or "parameters": {...}}, or that under "function". `known`: N must be a tool. */
static bool add_object(struct reader *r, json_t *j, bool known)
{
    json_t *inner = json_object_get(j, "function"), *arguments;
    if (json_is_object(inner))
        j = inner;
    const char *name = json_string_value(json_object_get(j, "name"));
    if (!(arguments = json_object_get(j, "arguments")) && !(arguments = json_object_get(j, "parameters"))) {
        if (known && name && json_object_size(j) > 1)
            return false;
        return name && (!known || find_tool(r->tools, name)) && add_call(r, name, json_object());
    }
    if (!name || (known && !find_tool(r->tools, name)))
        return false;
    return add_call(r, name, json_incref(arguments));
}

/* One object or a list of them. */
static bool add_json(struct reader *r, bool known)
{
    json_t *j = read_json(r);
    bool ok = json_is_object(j) ? add_object(r, j, known) : json_array_size(j) > 0;
    for (size_t i = 0; ok && i < json_array_size(j); i++)
        ok = json_is_object(json_array_get(j, i)) && add_object(r, json_array_get(j, i), known);
    json_decref(j);
    return ok;
}

/* A parameter's text: as it is if the tool's schema says that it is a string, else as JSON if it is JSON.
 * NULL: it is none, but a mask has made it so (1e999), and the schema has no text there. */
static json_t *typed(const struct reader *r, const struct vd_value *tool, const char *key, struct vd_str s)
{
    static const char *const path[] = {"parameters", "properties"};
    const struct vd_value *v = tool;
    for (size_t i = 0; i < 2; i++)
        v = v && v->type == VD_VALUE_MAP ? vd_value_get(v, vd_str_of(path[i])) : NULL;
    v = v && v->type == VD_VALUE_MAP ? vd_value_get(v, vd_str_of(key)) : NULL;
    bool must = v && r->how & (VD_TOOL_NAMED | VD_TOOL_MARKED);
    v = v && v->type == VD_VALUE_MAP ? vd_value_get(v, vd_str_of("type")) : NULL;
    bool is_string = v && v->type == VD_VALUE_STR && vd_str_is(v->s, "string");
    json_t *j = is_string ? NULL : json_loadb(s.p, s.n, JSON_DECODE_ANY, NULL);
    return j || (must && !is_string) ? j : json_stringn(s.p, s.n);
}

static bool copy_name(char out[NAME_MAX], struct vd_str s)
{
    s = trimmed(s);
    if (s.n == 0 || s.n >= NAME_MAX || memchr(s.p, 0, s.n))
        return false;
    memcpy(out, s.p, s.n);
    out[s.n] = 0;
    return true;
}

/* After <function= : N>{...}</function>, or N> and <parameter=K>V</parameter> up to </function>. */
static bool add_function(struct reader *r)
{
    char name[NAME_MAX], key[NAME_MAX];
    struct vd_str s;
    if (!up_to(r, ">", &s) || !copy_name(name, s))
        return false;
    size_t at = skip_space(r->p, r->at, r->n);
    if (at < r->n && r->p[at] == '{') {
        bool ok = add_call(r, name, read_json(r));
        accept_end(r, "</function>");
        return ok;
    }
    json_t *arguments = json_object();
    while (accept(r, "<parameter=")) {
        bool ok = up_to(r, ">", &s) && copy_name(key, s) && up_to(r, "</parameter>", &s);
        if (ok && s.n > 0 && *s.p == '\n')
            s = (struct vd_str){s.p + 1, s.n - 1};
        if (ok && s.n > 0 && s.p[s.n - 1] == '\n')
            s.n--;
        json_t *v = ok ? typed(r, find_tool(r->tools, name), key, s) : NULL;
        if (!v || json_object_set_new(arguments, key, v) != 0) {
            json_decref(arguments);
            return false;
        }
    }
    if (accept(r, "</function>"))
        return add_call(r, name, arguments);
    json_decref(arguments);
    return false;
}

/* After <tool_call>. */
static bool add_tagged(struct reader *r)
{
    bool ok = accept(r, "<function=") ? add_function(r) : add_json(r, false);
    accept_end(r, "</tool_call>");
    return ok;
}

/* After [TOOL_CALLS]: a list, or N[ARGS]{...} with an id of the model's own perhaps. */
static bool add_mistral(struct reader *r)
{
    char name[NAME_MAX];
    size_t at = skip_space(r->p, r->at, r->n), start = at;
    if (at < r->n && (r->p[at] == '[' || r->p[at] == '{'))
        return add_json(r, false);
    while (at < r->n && r->p[at] != '[' && r->p[at] != '{')
        at++;
    if (!copy_name(name, (struct vd_str){r->p + start, at - start}))
        return false;
    r->at = at;
    if (accept(r, "[CALL_ID]")) {
        struct vd_str id;
        if (!up_to(r, "[ARGS]", &id))
            return false;
    } else {
        accept(r, "[ARGS]");
    }
    return add_call(r, name, read_json(r));
}

/* After DeepSeek's mark: "function" SEP N and a code block, or N SEP {...}. */
static bool add_deepseek(struct reader *r)
{
    char name[NAME_MAX];
    struct vd_str s;
    while (accept(r, VD_CALL_BEGIN)) {
        if (!up_to(r, VD_CALL_SEP, &s) || !copy_name(name, s))
            return false;
        size_t at = skip_space(r->p, r->at, r->n);
        if (strcmp(name, "function") == 0 && (at == r->n || r->p[at] != '{') &&
            (!up_to(r, "\n", &s) || !copy_name(name, s)))
            return false;
        bool block = accept(r, "```json");
        if (!add_call(r, name, read_json(r)))
            return false;
        if ((block && !accept(r, "```")) || !accept(r, VD_CALL_END))
            return false;
    }
    return accept(r, VD_CALLS_END) || skip_space(r->p, r->at, r->n) == r->n;
}

/* The call or calls here; *any is cleared if none begins here. False: they cannot be read. */
static bool add_next(struct reader *r, bool *any)
{
    *any = true;
    if (accept(r, "<tool_call>"))
        return add_tagged(r);
    if (accept(r, "[TOOL_CALLS]"))
        return add_mistral(r);
    if (accept(r, "<function="))
        return add_function(r);
    if (accept(r, VD_CALLS_BEGIN))
        return add_deepseek(r);
    if (accept(r, "<|python_tag|>"))
        return add_json(r, false);
    if (accept(r, "<|tool_call|>")) {
        bool ok = add_json(r, false);
        accept_end(r, "<|/tool_call|>");
        return ok;
    }
    *any = false;
    return true;
}

/* An answer that is JSON: objects with ; between, and nothing after them. */
static bool add_bare(struct reader *r)
{
    do
        if (!add_json(r, true))
            return false;
    while (accept(r, ";"));
    return skip_space(r->p, r->at, r->n) == r->n;
}

/* Whether this name is written here as a mask writes it; with escapes the mask takes it for a text. */
static bool is_spelled(const struct reader *r, size_t at, const char *name)
{
    json_t *j = json_string(name);
    char *text = json_dumps(j, JSON_COMPACT | JSON_ENCODE_ANY);
    bool is = text && match(r->p + at, r->n - at, text) == MATCH_YES;
    free(text);
    json_decref(j);
    return is;
}

/* {"name": "N", N a tool, with whatever behind it. */
static bool begins_with_name(const struct reader *from)
{
    struct reader r = *from;
    json_error_t e;
    if (!accept(&r, "{") || !accept(&r, "\"name\"") || !accept(&r, ":"))
        return false;
    size_t at = skip_space(r.p, r.at, r.n);
    json_t *j = json_loadb(r.p + at, r.n - at, JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK, &e);
    const char *name = json_string_value(j);
    bool ok = name && find_tool(r.tools, name) && is_spelled(&r, at, name);
    json_decref(j);
    return ok;
}

static bool may_be_bare(const struct reader *r)
{
    return !(r->how & VD_TOOL_MARKED) && (!(r->how & VD_TOOL_NAMED) || begins_with_name(r));
}

/* What begins at r->at, where the scan has found something. */
static bool add_found(struct reader *r)
{
    bool any = true, ok = true;
    if (match_opener(r->p + r->at, r->n - r->at) != MATCH_YES)
        return may_be_bare(r) && add_bare(r);
    if (r->how & VD_TOOL_MARKED && r->at != skip_space(r->p, 0, r->n))
        return false; /* a mark in a string of the JSON that the answer is */
    while (ok && any)
        ok = add_next(r, &any);
    return ok;
}

/* 9 letters and digits out of the answer's id, the choice's number and the call's. */
static bool set_id(json_t *call, const char *id, uint32_t choice, size_t i)
{
    static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    struct vd_sha256 h;
    struct vd_hash hash;
    char text[10], number[40];
    int n = snprintf(number, sizeof number, "/%u/%zu", choice, i);
    vd_sha256_init(&h);
    vd_sha256_update(&h, id, strlen(id));
    vd_sha256_update(&h, number, (size_t)n);
    vd_sha256_final(&h, &hash);
    for (size_t k = 0; k < 9; k++)
        text[k] = digits[hash.b[k] % 62];
    text[9] = 0;
    return json_object_set_new(call, "id", json_string(text)) == 0;
}

void vd_tool_read(struct vd_tool_answer *out, const char *text, size_t n, const struct vd_value *tools,
                  const char *id, uint32_t choice, unsigned how)
{
    struct vd_tool_scan scan = {0};
    struct reader r = {.p = text, .n = n, .tools = tools, .calls = json_array(), .how = how};
    bool ok = r.calls != NULL;
    *out = (struct vd_tool_answer){NULL, n, n};
    size_t n_content = vd_tool_content(&scan, text, n);
    if (ok && scan.found) {
        r.at = scan.at;
        ok = add_found(&r);
    }
    while (ok && (how & VD_TOOL_ONE) && json_array_size(r.calls) > 1)
        json_array_remove(r.calls, json_array_size(r.calls) - 1);
    for (size_t i = 0; ok && i < json_array_size(r.calls); i++)
        ok = set_id(json_array_get(r.calls, i), id, choice, i);
    if (!ok || json_array_size(r.calls) == 0) {
        json_decref(r.calls);
        return;
    }
    *out = (struct vd_tool_answer){r.calls, n_content, skip_space(text, r.at, n)};
}
