/* Any text up to a mark is a loop over all bytes; a commit behind the mark (vd_rules.h) makes an end of it.
 * So the free part of an answer is a few states, of which one is where nearly all of a text is spent. */
#include "vd_calls.h"
#include "vd_schema_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOOLS_MAX = 128, PROPERTIES_MAX = 128, PATH_MAX_BYTES = 160, NAME_MAX_BYTES = 256 };

/* The marks that begin calls, and the forms behind each. */
static const struct opener {
    const char *mark;
    uint32_t forms;
} opener[] = {
    {"<tool_call>", 1u << VD_CALLS_TAGGED | 1u << VD_CALLS_TAGGED_XML},
    {"<function=", 1u << VD_CALLS_FUNCTION},
    {"[TOOL_CALLS]", 1u << VD_CALLS_MISTRAL | 1u << VD_CALLS_MISTRAL_ARGS | 1u << VD_CALLS_MISTRAL_CALL_ID},
    {"<|tool_call|>", 1u << VD_CALLS_LIST},
    {"<|python_tag|>", 1u << VD_CALLS_PYTHON},
    {VD_CALLS_BEGIN, 1u << VD_CALLS_DEEPSEEK_BLOCK | 1u << VD_CALLS_DEEPSEEK},
};
enum { OPENERS = sizeof opener / sizeof opener[0] };

static bool names(const char *p, size_t n, const char *mark)
{
    return n > 0 && memmem(p, n, mark, strlen(mark)) != NULL;
}

uint32_t vd_calls_forms(const char *p, size_t n)
{
    bool tagged = names(p, n, "<tool_call>"), xml = names(p, n, "<function="), args = names(p, n, "[ARGS]"),
         id = names(p, n, "[CALL_ID]"), block = names(p, n, "```json");
    uint32_t forms = 0;
    if (tagged)
        forms |= 1u << (xml ? VD_CALLS_TAGGED_XML : VD_CALLS_TAGGED);
    else if (xml)
        forms |= 1u << VD_CALLS_FUNCTION;
    if (names(p, n, "[TOOL_CALLS]"))
        forms |= 1u << (id ? VD_CALLS_MISTRAL_CALL_ID : args ? VD_CALLS_MISTRAL_ARGS : VD_CALLS_MISTRAL);
    if (names(p, n, "<|tool_call|>"))
        forms |= 1u << VD_CALLS_LIST;
    if (names(p, n, "<|python_tag|>"))
        forms |= 1u << VD_CALLS_PYTHON;
    if (names(p, n, VD_CALLS_BEGIN))
        forms |= 1u << (block ? VD_CALLS_DEEPSEEK_BLOCK : VD_CALLS_DEEPSEEK);
    return forms;
}

struct calls {
    struct vd_rules *r;
    struct schema *s;
    const json_t *tools, *text;
    bool one;
    vd_expr space, head; /* head: from behind a tool's name to its arguments, in JSON */
    vd_expr call;        /* a call as JSON; 0: not made yet */
    vd_expr arguments[TOOLS_MAX];
};

/* ---- small parts ---- */

static vd_expr lit(struct calls *c, const char *text)
{
    return vd_rules_text(c->r, text, strlen(text));
}

static vd_expr seq(struct calls *c, unsigned n, ...)
{
    vd_expr e[12];
    va_list ap;
    va_start(ap, n);
    for (unsigned i = 0; i < n; i++)
        e[i] = va_arg(ap, vd_expr);
    va_end(ap);
    return vd_rules_seq(c->r, e, n);
}

static vd_expr either(struct calls *c, vd_expr a, vd_expr b)
{
    return vd_rules_alt(c->r, (vd_expr[]){a, b}, 2);
}

static vd_expr many(struct calls *c, vd_expr e)
{
    return vd_rules_repeat(c->r, e, 0, VD_RULES_NO_MAX);
}

static vd_expr maybe(struct calls *c, vd_expr e)
{
    return vd_rules_repeat(c->r, e, 0, 1);
}

/* Any bytes up to the first `end`, which is part of it. */
static vd_expr up_to(struct calls *c, const char *end)
{
    return seq(c, 3, many(c, vd_rules_byte(c->r, 0, 255)), lit(c, end), vd_rules_commit(c->r));
}

/* item, then others with `between` before each, unless one is all. */
static vd_expr several(struct calls *c, vd_expr item, vd_expr between)
{
    return c->one ? item : seq(c, 2, item, many(c, seq(c, 2, between, item)));
}

static const char *name_of(const struct calls *c, size_t i)
{
    return json_string_value(json_object_get(json_array_get(c->tools, i), "name"));
}

static void path_of(char out[PATH_MAX_BYTES], size_t i, const char *key)
{
    snprintf(out, PATH_MAX_BYTES, "/tools/%zu/function/parameters%s%.60s", i, key[0] ? "/properties/" : "",
             key);
}

/* ---- JSON ---- */

/* Each tool's name, `after_name` and what the tool has in `then`. */
static vd_expr by_tool(struct calls *c, bool quoted, vd_expr after_name, const vd_expr *then, vd_expr end)
{
    vd_expr e[TOOLS_MAX];
    size_t n = json_array_size(c->tools);
    for (size_t i = 0; i < n; i++) {
        const json_t *name = json_object_get(json_array_get(c->tools, i), "name");
        e[i] = seq(c, 4, quoted ? vd_schema_text(c->s, name) : lit(c, json_string_value(name)), after_name,
                   then[i], end);
    }
    return vd_rules_alt(c->r, e, n);
}

/* {"name": N, "arguments": {..}}, or "parameters" instead. */
static vd_expr call_json(struct calls *c)
{
    if (!c->call)
        c->call = vd_schema_shared(
            c->s, "a call",
            seq(c, 7, lit(c, "{"), c->space, lit(c, "\"name\""), c->space, lit(c, ":"), c->space,
                by_tool(c, true, c->head, c->arguments, seq(c, 2, c->space, lit(c, "}")))));
    return c->call;
}

/* Of a list of calls, without the end. */
static vd_expr call_list(struct calls *c)
{
    vd_expr comma = seq(c, 3, c->space, lit(c, ","), c->space);
    return seq(c, 5, lit(c, "["), c->space, several(c, call_json(c), comma), c->space, lit(c, "]"));
}

/* The same without a mark before it. Until the name is known it may be another text. */
static vd_expr call_bare(struct calls *c)
{
    static const uint32_t blank[] = {'\t', '\r', ' ', ' '};
    vd_expr any_blanks = many(c, vd_rules_chars(c->r, blank, 2, false));
    vd_expr begin = seq(c, 7, any_blanks, lit(c, "{"), any_blanks, lit(c, "\"name\""), any_blanks,
                        lit(c, ":"), any_blanks);
    vd_expr first = seq(c, 2, begin,
                        by_tool(c, true, seq(c, 2, vd_rules_commit(c->r), c->head), c->arguments,
                                seq(c, 2, c->space, lit(c, "}"))));
    vd_expr more = seq(c, 4, c->space, lit(c, ";"), c->space, call_json(c));
    return seq(c, 3, first, c->one ? lit(c, "") : many(c, more), c->space);
}

/* ---- parameters in tags ---- */

/* Whether a schema has none but these keywords (a list that ends with NULL) and what never forces anything.
 */
static bool has_only(const json_t *schema, const char *const *only)
{
    static const char *const idle[] = {"title",    "description", "default", "examples", "deprecated",
                                       "readOnly", "writeOnly",   "$schema", "$id",      "$comment",
                                       "$defs",    "definitions", NULL};
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)schema, key, v)
    {
        bool known = false;
        for (const char *const *k = idle; *k; k++)
            known |= strcmp(key, *k) == 0;
        for (const char *const *k = only; *k; k++)
            known |= strcmp(key, *k) == 0;
        if (!known)
            return false;
    }
    return true;
}

/* A value that is read back from its tag as it is. */
static bool fits_tag(const char *text)
{
    size_t n = strlen(text);
    return !strstr(text, "</parameter>") && (n == 0 || (text[0] != '\n' && text[n - 1] != '\n'));
}

/* A string's text as it is: one of the schema's values, or any. */
static vd_expr raw_string(struct calls *c, const json_t *schema, size_t i, const char *key)
{
    static const char *const only[] = {"type", "enum", "const", NULL}, end[] = "</parameter>";
    const json_t *list = json_object_get(schema, "enum"), *one = json_object_get(schema, "const");
    vd_expr e[PROPERTIES_MAX], line = maybe(c, lit(c, "\n"));
    size_t n = one ? 1 : json_array_size(list), k = 0;
    char path[PATH_MAX_BYTES];
    bool fits = true;
    path_of(path, i, key);
    if (!has_only(schema, only) || (one && list))
        vd_schema_fail(c->s, path,
                       "a string of a strict tool has no pattern, length, format or choice for this model, "
                       "which writes strings without quotes; 'enum' or 'const' it may have");
    if (n > PROPERTIES_MAX)
        vd_schema_fail(c->s, path, "more than 128 values");
    if (!one && !list)
        return up_to(c, end);
    for (size_t v = 0; v < n && v < PROPERTIES_MAX; v++) {
        const char *text = json_string_value(one ? one : json_array_get(list, v));
        if (text) {
            fits = fits && fits_tag(text);
            e[k++] = lit(c, text);
        }
    }
    if (k == 0 || !fits)
        vd_schema_fail(c->s, path,
                       k == 0 ? "no value of 'enum' is of the 'type'"
                              : "a value that begins or ends with a new line, or holds a tag, cannot be "
                                "written in a tag");
    return k == 0 ? 0 : seq(c, 4, line, vd_rules_alt(c->r, e, k), line, lit(c, end));
}

static bool is_required(const json_t *schema, const char *key)
{
    const json_t *list = json_object_get(schema, "required");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_is_string(json_array_get(list, i)) &&
            strcmp(json_string_value(json_array_get(list, i)), key) == 0)
            return true;
    return false;
}

/* Not empty, and no blank at an end, which would not be read back. */
static bool is_trimmed(const char *key)
{
    size_t n = strlen(key);
    return n > 0 && (uint8_t)key[0] > ' ' && (uint8_t)key[n - 1] > ' ';
}

/* The tool's arguments, each in a tag; of a tool that is not strict, any. */
static vd_expr parameters(struct calls *c, size_t i)
{
    const json_t *tool = json_array_get(c->tools, i), *schema = json_object_get(tool, "parameters");
    const json_t *properties = json_object_get(schema, "properties");
    static const uint32_t letters[] = {'-', '.', '0', '9', 'A', 'Z', '_', '_', 'a', 'z'};
    static const char *const only[] = {"type", "properties", "required", "additionalProperties", NULL};
    vd_expr e[PROPERTIES_MAX], begin = seq(c, 2, c->space, lit(c, "<parameter="));
    char path[PATH_MAX_BYTES];
    const char *key;
    size_t n = 0;
    json_t *v;
    if (!json_is_true(json_object_get(tool, "strict"))) {
        vd_expr name = vd_rules_repeat(c->r, vd_rules_chars(c->r, letters, 5, false), 1, 64);
        return many(c, seq(c, 4, begin, name, lit(c, ">"), up_to(c, "</parameter>")));
    }
    path_of(path, i, "");
    if (json_object_size(properties) > PROPERTIES_MAX || !has_only(schema, only))
        vd_schema_fail(c->s, path,
                       "a strict tool of this model has its 'properties' here, 128 at most, and no choice");
    json_object_foreach((json_t *)(uintptr_t)properties, key, v)
    {
        const char *type = json_string_value(json_object_get(v, "type"));
        if (n == PROPERTIES_MAX || strpbrk(key, "<>") || !is_trimmed(key))
            break;
        path_of(path, i, key);
        vd_expr value = type && strcmp(type, "string") == 0
                            ? raw_string(c, v, i, key)
                            : seq(c, 4, c->space, vd_schema_part(c->s, schema, v, path), c->space,
                                  lit(c, "</parameter>"));
        vd_expr one = seq(c, 4, begin, lit(c, key), lit(c, ">"), value);
        e[n++] = is_required(schema, key) ? one : maybe(c, one);
    }
    if (n < json_object_size(properties))
        vd_schema_fail(c->s, path, "a name of 'properties' that cannot be written in a tag");
    return vd_rules_seq(c->r, e, n);
}

/* ---- forms ---- */

/* Names that have to end at a mark, in forms that do not quote them. */
static void check_names(struct calls *c)
{
    for (size_t i = 0; i < json_array_size(c->tools); i++) {
        char path[PATH_MAX_BYTES];
        const char *name = name_of(c, i);
        snprintf(path, sizeof path, "/tools/%zu/function/name", i);
        for (const char *p = name; *p; p++)
            if ((uint8_t)*p <= ' ' || strchr("<>[]{}", *p)) {
                vd_schema_fail(c->s, path,
                               "this model's form of calls takes no name with blanks or brackets");
                return;
            }
    }
}

static vd_expr function_xml(struct calls *c)
{
    vd_expr then[TOOLS_MAX];
    for (size_t i = 0; i < json_array_size(c->tools); i++)
        then[i] = parameters(c, i);
    vd_expr end = seq(c, 2, c->space, lit(c, "</function>"));
    return seq(c, 3, c->space, lit(c, "<function="), by_tool(c, false, lit(c, ">"), then, end));
}

static vd_expr call_id(struct calls *c)
{
    static const uint32_t letters[] = {'0', '9', 'A', 'Z', 'a', 'z'};
    return seq(c, 3, lit(c, "[CALL_ID]"),
               vd_rules_repeat(c->r, vd_rules_chars(c->r, letters, 3, false), 9, 9), lit(c, "[ARGS]"));
}

/* What follows the form's mark up to the end of a call, and whether further calls begin with the mark. */
static vd_expr behind_mark(struct calls *c, enum vd_calls_form form, bool *again)
{
    const vd_expr *a = c->arguments;
    vd_expr space = c->space, blank = maybe(c, lit(c, " ")), item;
    *again = true;
    switch (form) {
    case VD_CALLS_TAGGED:
        return seq(c, 4, space, call_json(c), space, lit(c, "</tool_call>"));
    case VD_CALLS_TAGGED_XML:
        return seq(c, 3, function_xml(c), space, lit(c, "</tool_call>"));
    case VD_CALLS_FUNCTION:
        return by_tool(c, false, seq(c, 2, lit(c, ">"), space), a, seq(c, 2, space, lit(c, "</function>")));
    case VD_CALLS_MISTRAL:
        *again = false;
        return seq(c, 2, blank, call_list(c));
    case VD_CALLS_MISTRAL_ARGS:
        return seq(c, 2, blank, by_tool(c, false, lit(c, "[ARGS]"), a, lit(c, "")));
    case VD_CALLS_MISTRAL_CALL_ID:
        return seq(c, 2, blank, by_tool(c, false, call_id(c), a, lit(c, "")));
    case VD_CALLS_LIST:
        *again = false;
        return seq(c, 4, space, call_list(c), space, maybe(c, lit(c, "<|/tool_call|>")));
    case VD_CALLS_PYTHON:
        *again = false;
        return seq(c, 2, space, call_json(c));
    case VD_CALLS_DEEPSEEK_BLOCK:
    case VD_CALLS_DEEPSEEK:
        *again = false;
        item = form == VD_CALLS_DEEPSEEK
                   ? seq(c, 2, lit(c, VD_CALL_BEGIN),
                         by_tool(c, false, lit(c, VD_CALL_SEP), a, lit(c, VD_CALL_END)))
                   : seq(c, 2, lit(c, VD_CALL_BEGIN "function" VD_CALL_SEP),
                         by_tool(c, false, lit(c, "\n```json\n"), a, lit(c, "\n```" VD_CALL_END)));
        return seq(c, 3, several(c, item, space), space, lit(c, VD_CALLS_END));
    case VD_CALLS_FORMS:
        break;
    }
    return 0;
}

static vd_expr with_mark(struct calls *c, const struct opener *o, enum vd_calls_form form)
{
    bool again;
    vd_expr first = seq(c, 2, vd_rules_commit(c->r), behind_mark(c, form, &again));
    vd_expr more = seq(c, 3, c->space, lit(c, o->mark), behind_mark(c, form, &again));
    return seq(c, 4, lit(c, o->mark), first, again && !c->one ? many(c, more) : lit(c, ""), c->space);
}

/* Calls with their marks. In a text (not in JSON) the marks of other models go nowhere. */
static vd_expr marked(struct calls *c, uint32_t forms, size_t *n_out)
{
    vd_expr e[OPENERS + VD_CALLS_FORMS], nothing = vd_rules_chars(c->r, NULL, 0, false);
    size_t n = 0;
    for (size_t i = 0; i < OPENERS; i++) {
        if (!(forms & opener[i].forms) && !c->text)
            e[n++] = seq(c, 3, lit(c, opener[i].mark), vd_rules_commit(c->r), nothing);
        for (unsigned f = 0; f < VD_CALLS_FORMS; f++) {
            if (!(forms & opener[i].forms & 1u << f))
                continue;
            if (f != VD_CALLS_TAGGED && f != VD_CALLS_LIST && f != VD_CALLS_MISTRAL && f != VD_CALLS_PYTHON)
                check_names(c);
            e[n++] = with_mark(c, &opener[i], (enum vd_calls_form)f);
        }
    }
    *n_out = n;
    return n ? vd_rules_alt(c->r, e, n) : 0;
}

static vd_expr answer(struct calls *c, uint32_t forms)
{
    size_t n;
    vd_expr calls = marked(c, forms, &n);
    if (c->text) {
        vd_expr text = vd_schema_part(c->s, c->text, c->text, "");
        return n ? either(c, text, calls) : text;
    }
    return either(c, seq(c, 2, many(c, vd_rules_byte(c->r, 0, 255)), maybe(c, calls)), call_bare(c));
}

/* A rule of each tool's arguments, as JSON. */
static void make_arguments(struct calls *c)
{
    vd_expr none = seq(c, 3, lit(c, "{"), c->space, lit(c, "}")), any = 0;
    for (size_t i = 0; i < json_array_size(c->tools); i++) {
        const json_t *tool = json_array_get(c->tools, i), *schema = json_object_get(tool, "parameters");
        char path[PATH_MAX_BYTES];
        path_of(path, i, "");
        if (!json_is_true(json_object_get(tool, "strict")))
            c->arguments[i] =
                any ? any : (any = vd_schema_shared(c->s, "any arguments", vd_schema_any_object(c->s)));
        else if (json_object_size(schema) == 0)
            c->arguments[i] = none;
        else
            c->arguments[i] = vd_schema_shared(c->s, "arguments", vd_schema_part(c->s, schema, schema, path));
    }
}

static bool well_formed(const json_t *tools)
{
    size_t i;
    json_t *tool;
    json_array_foreach(tools, i, tool)
    {
        size_t n = json_string_length(json_object_get(tool, "name"));
        if (n < 1 || n >= NAME_MAX_BYTES)
            return false;
    }
    return json_array_size(tools) >= 1 && json_array_size(tools) <= TOOLS_MAX;
}

static enum vd_err read_calls(struct calls *c, uint32_t forms, uint32_t *rule)
{
    c->space = vd_schema_space(c->s);
    vd_expr key = either(c, lit(c, "\"arguments\""), lit(c, "\"parameters\""));
    c->head =
        vd_schema_shared(c->s, "the way to the arguments",
                         seq(c, 7, c->space, lit(c, ","), c->space, key, c->space, lit(c, ":"), c->space));
    make_arguments(c);
    *rule = vd_rules_add(c->r, "an answer with calls", 20);
    vd_rules_define(c->r, *rule, answer(c, forms));
    return vd_schema_status(c->s);
}

enum vd_err vd_calls_compile(const char *text, size_t n, uint32_t forms, const struct vd_hash *texts_root,
                             uint8_t *out, size_t *n_out, struct vd_error *err)
{
    json_error_t why;
    uint32_t rule = 0;
    if (n > VD_GRAMMAR_TEXT_MAX_BYTES)
        return vd_error_set(err, VD_ELIMIT, "tools of %zu bytes: at most %d are read", n,
                            VD_GRAMMAR_TEXT_MAX_BYTES);
    json_t *json = json_loadb(text, n, 0, &why);
    const json_t *tools = json_object_get(json, "tools");
    if (!well_formed(tools)) {
        json_decref(json);
        return vd_error_set(err, VD_EUSE,
                            "tools: a list of 1 to %d, each with a name below %d bytes, is wanted", TOOLS_MAX,
                            NAME_MAX_BYTES);
    }
    struct calls *c = calloc(1, sizeof *c);
    struct vd_rules *r = vd_rules_new();
    struct schema *s = r ? vd_schema_new(r, err) : NULL;
    enum vd_err e = c && s ? VD_OK : vd_error_set(err, VD_ENOMEM, "no memory for tools");
    if (e == VD_OK) {
        *c = (struct calls){.r = r,
                            .s = s,
                            .tools = tools,
                            .text = json_object_get(json, "text"),
                            .one = json_is_true(json_object_get(json, "one"))};
        e = read_calls(c, forms, &rule);
    }
    if (e == VD_OK)
        e = vd_rules_compile(r, rule, texts_root, out, n_out, err);
    json_decref(json);
    vd_rules_free(r);
    vd_schema_free(s);
    free(c);
    return e;
}
