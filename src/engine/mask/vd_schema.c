/* Schemas as rules. A schema that is referred to gets a rule, so that it can recurse; every other one becomes
 * an expression where it stands. A keyword is either read by the type that it belongs to, or an annotation,
 * or refused: keywords_ok() knows all three.
 *
 * JSON is written with at most one space, or one line end and its indentation, where JSON allows any. */
#include "vd_rules.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REFS_MAX = 512, PATH_MAX_BYTES = 512, MEMBERS_MAX = 256, DIGITS_MAX = 16 };

struct schema {
    struct vd_rules *r;
    const json_t *root;
    struct vd_error *err;
    enum vd_err e;
    unsigned depth;
    char path[PATH_MAX_BYTES]; /* of the schema being read, for messages */
    vd_expr space, string, chars, number, integer;
    uint32_t any; /* rule */
    bool has_any;
    uint32_t n_refs;
    struct {
        const json_t *to;
        uint32_t rule;
    } ref[REFS_MAX];
};

static vd_expr bad(struct schema *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static vd_expr bad(struct schema *s, const char *fmt, ...)
{
    char what[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    if (s->e == VD_OK)
        s->e = vd_error_set(s->err, VD_EUSE, "schema, at #%s: %s", s->path, what);
    return 0;
}

static size_t enter(struct schema *s, const char *name)
{
    size_t n = strlen(s->path);
    snprintf(s->path + n, sizeof s->path - n, "/%.60s", name);
    return n;
}

static void leave(struct schema *s, size_t n)
{
    s->path[n] = 0;
}

/* ---- JSON itself ---- */

static vd_expr lit(struct schema *s, const char *text)
{
    return vd_rules_text(s->r, text, strlen(text));
}

static vd_expr seq(struct schema *s, unsigned n, ...)
{
    vd_expr e[8];
    va_list ap;
    va_start(ap, n);
    for (unsigned i = 0; i < n; i++)
        e[i] = va_arg(ap, vd_expr);
    va_end(ap);
    return vd_rules_seq(s->r, e, n);
}

static vd_expr either(struct schema *s, unsigned n, ...)
{
    vd_expr e[8];
    va_list ap;
    va_start(ap, n);
    for (unsigned i = 0; i < n; i++)
        e[i] = va_arg(ap, vd_expr);
    va_end(ap);
    return vd_rules_alt(s->r, e, n);
}

static vd_expr maybe(struct schema *s, vd_expr e)
{
    return vd_rules_repeat(s->r, e, 0, 1);
}

static vd_expr digits(struct schema *s, uint32_t min, uint32_t max)
{
    static const uint32_t d[] = {'0', '9'};
    return vd_rules_repeat(s->r, vd_rules_chars(s->r, d, 1, false), min, max);
}

static vd_expr hex(struct schema *s, uint32_t n)
{
    static const uint32_t h[] = {'0', '9', 'a', 'f', 'A', 'F'};
    return vd_rules_repeat(s->r, vd_rules_chars(s->r, h, 3, false), n, n);
}

static vd_expr shared(struct schema *s, const char *name, vd_expr body)
{
    uint32_t rule = vd_rules_add(s->r, name, strlen(name));
    vd_rules_define(s->r, rule, body);
    vd_rules_share(s->r, rule);
    return vd_rules_ref(s->r, rule);
}

static void make_basics(struct schema *s)
{
    static const uint32_t no_plain[] = {0, 0x1F, '"', '"', '\\', '\\'};
    static const uint32_t escapes[] = {'"', '"', '\\', '\\', '/', '/', 'b', 'b',
                                       'f', 'f', 'n',  'n',  'r', 'r', 't', 't'};
    static const uint32_t one_to_nine[] = {'1', '9'}, e_or_e[] = {'e', 'e', 'E', 'E'},
                          sign[] = {'+', '+', '-', '-'};
    vd_expr indent = seq(s, 2, lit(s, "\n"), vd_rules_repeat(s->r, lit(s, " "), 0, VD_RULES_NO_MAX));
    s->space = maybe(s, either(s, 2, lit(s, " "), indent));
    s->chars =
        either(s, 2, vd_rules_chars(s->r, no_plain, 3, true),
               seq(s, 2, lit(s, "\\"),
                   either(s, 2, vd_rules_chars(s->r, escapes, 8, false), seq(s, 2, lit(s, "u"), hex(s, 4)))));
    s->string =
        shared(s, "string",
               seq(s, 3, lit(s, "\""), vd_rules_repeat(s->r, s->chars, 0, VD_RULES_NO_MAX), lit(s, "\"")));
    s->integer =
        seq(s, 2, maybe(s, lit(s, "-")),
            either(s, 2, lit(s, "0"),
                   seq(s, 2, vd_rules_chars(s->r, one_to_nine, 1, false), digits(s, 0, DIGITS_MAX - 1))));
    s->number = shared(s, "number",
                       seq(s, 3, s->integer, maybe(s, seq(s, 2, lit(s, "."), digits(s, 1, DIGITS_MAX))),
                           maybe(s, seq(s, 3, vd_rules_chars(s->r, e_or_e, 2, false),
                                        maybe(s, vd_rules_chars(s->r, sign, 2, false)), digits(s, 1, 3)))));
}

/* open, then none or more of item with commas between (min to max of them), then close. */
static vd_expr listed(struct schema *s, const char *open, vd_expr item, uint32_t min, uint32_t max,
                      const char *close)
{
    vd_expr comma = seq(s, 3, s->space, lit(s, ","), s->space);
    vd_expr more = vd_rules_repeat(s->r, seq(s, 2, comma, item), min ? min - 1 : 0,
                                   max == VD_RULES_NO_MAX ? max
                                   : max                  ? max - 1
                                                          : 0);
    vd_expr all = seq(s, 2, item, more);
    if (max == 0)
        all = vd_rules_text(s->r, "", 0);
    else if (min == 0)
        all = maybe(s, all);
    return seq(s, 5, lit(s, open), s->space, all, s->space, lit(s, close));
}

static vd_expr member(struct schema *s, vd_expr name, vd_expr value)
{
    return seq(s, 5, name, s->space, lit(s, ":"), s->space, value);
}

static vd_expr any_object(struct schema *s, vd_expr value)
{
    return listed(s, "{", member(s, s->string, value), 0, VD_RULES_NO_MAX, "}");
}

static vd_expr any_value(struct schema *s)
{
    if (!s->has_any) {
        s->has_any = true;
        s->any = vd_rules_add(s->r, "any JSON value", 14);
        vd_expr self = vd_rules_ref(s->r, s->any);
        vd_rules_define(s->r, s->any,
                        either(s, 7, any_object(s, self), listed(s, "[", self, 0, VD_RULES_NO_MAX, "]"),
                               s->string, s->number, lit(s, "true"), lit(s, "false"), lit(s, "null")));
    }
    return vd_rules_ref(s->r, s->any);
}

/* ---- keywords ---- */

static const struct keyword {
    const char *name, *types; /* types: that read it; "*": whatever the type; NULL: an annotation */
} keyword[] = {
    {"type", "*"},           {"enum", "*"},
    {"const", "*"},          {"$ref", "*"},
    {"anyOf", "*"},          {"oneOf", "*"},
    {"allOf", "*"},          {"properties", "object"},
    {"required", "object"},  {"additionalProperties", "object"},
    {"items", "array"},      {"prefixItems", "array"},
    {"minItems", "array"},   {"maxItems", "array"},
    {"minLength", "string"}, {"maxLength", "string"},
    {"format", "string"},    {"title", NULL},
    {"description", NULL},   {"default", NULL},
    {"examples", NULL},      {"deprecated", NULL},
    {"readOnly", NULL},      {"writeOnly", NULL},
    {"$schema", NULL},       {"$id", NULL},
    {"$comment", NULL},      {"$defs", NULL},
    {"definitions", NULL},
};

/* Every key is known; and with `only` (a keyword that decides alone), no other keyword stands beside it. */
static bool keywords_ok(struct schema *s, const json_t *o, const char *only)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)o, key, v)
    {
        const struct keyword *k = NULL;
        for (size_t i = 0; i < sizeof keyword / sizeof keyword[0]; i++)
            if (strcmp(keyword[i].name, key) == 0)
                k = &keyword[i];
        if (!k) {
            bad(s, "the keyword '%.60s' is not supported", key);
            return false;
        }
        if (only && k->types && strcmp(key, only) != 0 && strcmp(key, "type") != 0) {
            bad(s, "'%s' beside '%s' is not supported", key, only);
            return false;
        }
    }
    return s->e == VD_OK;
}

static bool count_of(struct schema *s, const json_t *o, const char *key, uint32_t *out)
{
    const json_t *v = json_object_get(o, key);
    if (!v)
        return true;
    json_int_t n = json_is_integer(v) ? json_integer_value(v) : -1;
    if (n < 0 || n > VD_RULES_REPEAT_MAX) {
        bad(s, "'%s' must be from 0 to %d", key, VD_RULES_REPEAT_MAX);
        return false;
    }
    *out = (uint32_t)n;
    return true;
}

static vd_expr value_of(struct schema *s, const json_t *o);

static vd_expr value_at(struct schema *s, const json_t *o, const char *name)
{
    size_t n = enter(s, name);
    vd_expr e = value_of(s, o);
    leave(s, n);
    return e;
}

/* ---- types ---- */

static vd_expr quoted(struct schema *s, vd_expr e)
{
    return seq(s, 3, lit(s, "\""), e, lit(s, "\""));
}

static vd_expr format_of(struct schema *s, const char *format)
{
    vd_expr date = seq(s, 5, digits(s, 4, 4), lit(s, "-"), digits(s, 2, 2), lit(s, "-"), digits(s, 2, 2));
    vd_expr clock = seq(s, 5, digits(s, 2, 2), lit(s, ":"), digits(s, 2, 2), lit(s, ":"), digits(s, 2, 2));
    static const uint32_t sign[] = {'+', '+', '-', '-'};
    vd_expr offset =
        seq(s, 4, vd_rules_chars(s->r, sign, 2, false), digits(s, 2, 2), lit(s, ":"), digits(s, 2, 2));
    vd_expr time = seq(s, 3, clock, maybe(s, seq(s, 2, lit(s, "."), digits(s, 1, 9))),
                       either(s, 2, lit(s, "Z"), offset));
    if (strcmp(format, "date") == 0)
        return quoted(s, date);
    if (strcmp(format, "time") == 0)
        return quoted(s, time);
    if (strcmp(format, "date-time") == 0)
        return quoted(s, seq(s, 3, date, lit(s, "T"), time));
    if (strcmp(format, "uuid") == 0) {
        vd_expr four = seq(s, 2, hex(s, 4), lit(s, "-"));
        return quoted(s, seq(s, 6, hex(s, 8), lit(s, "-"), four, four, four, hex(s, 12)));
    }
    return bad(s, "the format '%.60s' is not supported (date, time, date-time and uuid are)", format);
}

static vd_expr string_of(struct schema *s, const json_t *o)
{
    uint32_t min = 0, max = VD_RULES_NO_MAX;
    const char *format = json_string_value(json_object_get(o, "format"));
    if (!count_of(s, o, "minLength", &min) || !count_of(s, o, "maxLength", &max))
        return 0;
    if (format && (min || max != VD_RULES_NO_MAX))
        return bad(s, "'format' beside a length is not supported");
    if (format)
        return format_of(s, format);
    if (max < min)
        return bad(s, "'maxLength' is below 'minLength'");
    if (min == 0 && max == VD_RULES_NO_MAX)
        return s->string;
    return quoted(s, vd_rules_repeat(s->r, s->chars, min, max));
}

static vd_expr tuple_of(struct schema *s, const json_t *prefix)
{
    vd_expr part[2 * MEMBERS_MAX];
    size_t n = 0;
    char name[32];
    for (size_t i = 0; i < json_array_size(prefix); i++) {
        if (i == MEMBERS_MAX)
            return bad(s, "more than %d 'prefixItems'", MEMBERS_MAX);
        snprintf(name, sizeof name, "prefixItems/%zu", i);
        if (i)
            part[n++] = seq(s, 3, s->space, lit(s, ","), s->space);
        part[n++] = value_at(s, json_array_get(prefix, i), name);
    }
    return seq(s, 5, lit(s, "["), s->space, vd_rules_seq(s->r, part, n), s->space, lit(s, "]"));
}

static vd_expr array_of(struct schema *s, const json_t *o)
{
    const json_t *items = json_object_get(o, "items"), *prefix = json_object_get(o, "prefixItems");
    uint32_t min = 0, max = VD_RULES_NO_MAX;
    if (!count_of(s, o, "minItems", &min) || !count_of(s, o, "maxItems", &max))
        return 0;
    if (prefix) {
        if (!json_is_array(prefix) || (items && !json_is_false(items)))
            return bad(s, "'prefixItems' must be a list, and 'items' beside it false");
        return tuple_of(s, prefix);
    }
    if (max < min)
        return bad(s, "'maxItems' is below 'minItems'");
    return listed(s, "[", items ? value_at(s, items, "items") : any_value(s), min, max, "]");
}

static bool is_required(const json_t *required, const char *key)
{
    for (size_t i = 0; i < json_array_size(required); i++)
        if (json_is_string(json_array_get(required, i)) &&
            strcmp(json_string_value(json_array_get(required, i)), key) == 0)
            return true;
    return false;
}

static vd_expr json_text(struct schema *s, const json_t *v)
{
    char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
    if (!text)
        return bad(s, "a value that cannot be written");
    vd_expr e = lit(s, text);
    free(text);
    return e;
}

/* The members in their order; those that are not required may be left out. Before the first that is required
 * (or, where none is, before each that may come first) each brings its own comma behind it. */
static vd_expr members_of(struct schema *s, const vd_expr *m, const bool *required, size_t n)
{
    vd_expr comma = seq(s, 3, s->space, lit(s, ","), s->space), part[2 * MEMBERS_MAX],
            choice[MEMBERS_MAX + 1];
    size_t first = 0, n_choices = 0;
    while (first < n && !required[first])
        first++;
    for (size_t begin = first < n ? first : 0; begin < (first < n ? first + 1 : n); begin++) {
        size_t k = 0;
        for (size_t i = 0; first < n && i < begin; i++)
            part[k++] = maybe(s, seq(s, 2, m[i], comma));
        part[k++] = m[begin];
        for (size_t i = begin + 1; i < n; i++) {
            vd_expr with = seq(s, 2, comma, m[i]);
            part[k++] = required[i] ? with : maybe(s, with);
        }
        choice[n_choices++] = vd_rules_seq(s->r, part, k);
    }
    if (first == n)
        choice[n_choices++] = vd_rules_text(s->r, "", 0);
    return vd_rules_alt(s->r, choice, n_choices);
}

static bool names_exist(struct schema *s, const json_t *properties, const json_t *required)
{
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *name = json_string_value(json_array_get(required, i));
        if (!name || !json_object_get(properties, name)) {
            bad(s, "'required' names '%.60s', which is not in 'properties'", name ? name : "?");
            return false;
        }
    }
    return true;
}

static vd_expr object_of(struct schema *s, const json_t *o)
{
    const json_t *properties = json_object_get(o, "properties"), *required = json_object_get(o, "required");
    const json_t *more = json_object_get(o, "additionalProperties");
    vd_expr m[MEMBERS_MAX];
    bool must[MEMBERS_MAX];
    size_t n = 0;
    const char *key;
    json_t *v;
    if ((properties && !json_is_object(properties)) || (required && !json_is_array(required)))
        return bad(s, "'properties' must be an object and 'required' a list");
    if (json_object_size(properties) == 0) {
        if (json_array_size(required) > 0)
            return bad(s, "'required' without 'properties' is not supported");
        if (json_is_false(more) || (properties && !more))
            return seq(s, 3, lit(s, "{"), s->space, lit(s, "}"));
        return any_object(s, json_is_object(more) ? value_at(s, more, "additionalProperties") : any_value(s));
    }
    if (more && !json_is_false(more))
        return bad(s, "'additionalProperties' beside 'properties' is supported only with the value false");
    if (json_object_size(properties) > MEMBERS_MAX || !names_exist(s, properties, required))
        return bad(s, "more than %d properties", MEMBERS_MAX);
    size_t path = enter(s, "properties");
    json_object_foreach((json_t *)(uintptr_t)properties, key, v)
    {
        json_t *name = json_string(key);
        must[n] = is_required(required, key);
        m[n++] = member(s, json_text(s, name), value_at(s, v, key));
        json_decref(name);
    }
    leave(s, path);
    return seq(s, 5, lit(s, "{"), s->space, members_of(s, m, must, n), s->space, lit(s, "}"));
}

static vd_expr type_of(struct schema *s, const json_t *o, const char *type)
{
    if (strcmp(type, "object") == 0)
        return object_of(s, o);
    if (strcmp(type, "array") == 0)
        return array_of(s, o);
    if (strcmp(type, "string") == 0)
        return string_of(s, o);
    if (strcmp(type, "number") == 0)
        return s->number;
    if (strcmp(type, "integer") == 0)
        return s->integer;
    if (strcmp(type, "boolean") == 0)
        return either(s, 2, lit(s, "true"), lit(s, "false"));
    if (strcmp(type, "null") == 0)
        return lit(s, "null");
    return bad(s, "the type '%.60s' is none of JSON's", type);
}

/* ---- schemas ---- */

static const json_t *resolve(struct schema *s, const char *ref)
{
    const json_t *at = s->root;
    if (ref[0] != '#' || (ref[1] && ref[1] != '/')) {
        bad(s, "'$ref': only references within the schema (#/...) are supported, not '%.80s'", ref);
        return NULL;
    }
    for (ref++; at && *ref == '/';) {
        char name[256];
        size_t n = 0;
        for (ref++; *ref && *ref != '/' && n + 1 < sizeof name; ref++) {
            bool tilde = ref[0] == '~' && (ref[1] == '0' || ref[1] == '1');
            name[n++] = tilde ? (ref[1] == '0' ? '~' : '/') : *ref;
            ref += tilde;
        }
        name[n] = 0;
        at = json_is_array(at) ? json_array_get(at, (size_t)strtoul(name, NULL, 10))
                               : json_object_get(at, name);
    }
    if (!at)
        bad(s, "'$ref' points to nothing");
    return at;
}

static vd_expr ref_of(struct schema *s, const char *ref)
{
    const json_t *to = resolve(s, ref);
    if (!to)
        return 0;
    for (uint32_t i = 0; i < s->n_refs; i++)
        if (s->ref[i].to == to)
            return vd_rules_ref(s->r, s->ref[i].rule);
    if (s->n_refs == REFS_MAX)
        return bad(s, "more than %d schemas are referred to", REFS_MAX);
    uint32_t rule = vd_rules_add(s->r, ref, strlen(ref));
    s->ref[s->n_refs].to = to;
    s->ref[s->n_refs++].rule = rule;
    char before[PATH_MAX_BYTES];
    memcpy(before, s->path, sizeof before);
    snprintf(s->path, sizeof s->path, "%.200s", ref + 1);
    vd_rules_define(s->r, rule, value_of(s, to));
    memcpy(s->path, before, sizeof before);
    return vd_rules_ref(s->r, rule);
}

static vd_expr choice_of(struct schema *s, const json_t *list, const char *key)
{
    vd_expr e[MEMBERS_MAX];
    size_t n = json_array_size(list);
    char name[64];
    if (n < 1 || n > MEMBERS_MAX)
        return bad(s, "'%s' must be a list of 1 to %d schemas", key, MEMBERS_MAX);
    if (n > 1 && strcmp(key, "allOf") == 0)
        return bad(s, "'allOf' of more than one schema is not supported");
    for (size_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%s/%zu", key, i);
        e[i] = value_at(s, json_array_get(list, i), name);
    }
    return vd_rules_alt(s->r, e, n);
}

static vd_expr enum_of(struct schema *s, const json_t *list)
{
    vd_expr e[MEMBERS_MAX];
    size_t n = json_array_size(list);
    if (n < 1 || n > MEMBERS_MAX)
        return bad(s, "'enum' must be a list of 1 to %d values", MEMBERS_MAX);
    for (size_t i = 0; i < n; i++)
        e[i] = json_text(s, json_array_get(list, i));
    return vd_rules_alt(s->r, e, n);
}

static vd_expr types_of(struct schema *s, const json_t *o)
{
    const json_t *type = json_object_get(o, "type");
    vd_expr e[8];
    size_t n = json_array_size(type);
    if (json_is_string(type))
        return type_of(s, o, json_string_value(type));
    if (!type) { /* what the keywords are about */
        bool object = json_object_get(o, "properties") || json_object_get(o, "additionalProperties") ||
                      json_object_get(o, "required");
        bool array = json_object_get(o, "items") || json_object_get(o, "prefixItems");
        if (object || array)
            return object ? object_of(s, o) : array_of(s, o);
        if (json_object_get(o, "minLength") || json_object_get(o, "maxLength") ||
            json_object_get(o, "format"))
            return string_of(s, o);
        return any_value(s);
    }
    if (n < 1 || n > 7)
        return bad(s, "'type' must be a type's name or a list of them");
    for (size_t i = 0; i < n; i++) {
        const char *name = json_string_value(json_array_get(type, i));
        for (size_t k = 0; k < i; k++) /* each time would read all that is below once more */
            if (json_equal(json_array_get(type, i), json_array_get(type, k)))
                return bad(s, "'type' names '%.60s' twice", name ? name : "?");
        e[i] = name ? type_of(s, o, name) : bad(s, "'type' must be a type's name or a list of them");
    }
    return vd_rules_alt(s->r, e, n);
}

static vd_expr value_in(struct schema *s, const json_t *o)
{
    static const char *const choices[] = {"anyOf", "oneOf", "allOf"};
    const json_t *v;
    if (json_is_true(o))
        return any_value(s);
    if (!json_is_object(o))
        return bad(s, "a schema must be an object, or true");
    if ((v = json_object_get(o, "$ref")) != NULL) {
        if (!json_is_string(v))
            return bad(s, "'$ref' must be a string");
        return keywords_ok(s, o, "$ref") ? ref_of(s, json_string_value(v)) : 0;
    }
    if ((v = json_object_get(o, "const")) != NULL)
        return keywords_ok(s, o, "const") ? json_text(s, v) : 0;
    if ((v = json_object_get(o, "enum")) != NULL)
        return keywords_ok(s, o, "enum") ? enum_of(s, v) : 0;
    for (size_t i = 0; i < 3; i++)
        if ((v = json_object_get(o, choices[i])) != NULL)
            return keywords_ok(s, o, choices[i]) ? choice_of(s, v, choices[i]) : 0;
    return keywords_ok(s, o, NULL) ? types_of(s, o) : 0;
}

static vd_expr value_of(struct schema *s, const json_t *o)
{
    if (s->e != VD_OK || vd_rules_full(s->r)) /* compile says which limit */
        return 0;
    if (s->depth == VD_RULES_DEPTH_MAX)
        return bad(s, "schemas more than %d deep", VD_RULES_DEPTH_MAX);
    s->depth++;
    vd_expr e = value_in(s, o);
    s->depth--;
    return e;
}

static enum vd_err read_schema(struct schema *s, json_t **json, const char *text, size_t n, uint32_t *rule)
{
    json_error_t why;
    make_basics(s);
    if (!text) {
        *rule = vd_rules_add(s->r, "a JSON object", 13);
        vd_rules_define(s->r, *rule, any_object(s, any_value(s)));
        return VD_OK;
    }
    if (n > VD_GRAMMAR_TEXT_MAX_BYTES)
        return vd_error_set(s->err, VD_ELIMIT, "a schema of %zu bytes: at most %d are read", n,
                            VD_GRAMMAR_TEXT_MAX_BYTES);
    *json = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why);
    if (!*json)
        return vd_error_set(s->err, VD_EUSE, "the schema is not JSON: line %d: %s", why.line, why.text);
    s->root = *json;
    s->ref[s->n_refs].to = *json; /* "#" may be referred to */
    *rule = s->ref[s->n_refs++].rule = vd_rules_add(s->r, "#", 1);
    vd_rules_define(s->r, *rule, value_of(s, *json));
    return s->e;
}

enum vd_err vd_schema_compile(const char *text, size_t n, const struct vd_hash *texts_root, uint8_t *out,
                              size_t *n_out, struct vd_error *err)
{
    struct schema *s = calloc(1, sizeof *s);
    struct vd_rules *r = vd_rules_new();
    json_t *json = NULL;
    uint32_t rule = 0;
    enum vd_err e = s && r ? VD_OK : vd_error_set(err, VD_ENOMEM, "no memory for a schema");
    if (e == VD_OK) {
        s->r = r;
        s->err = err;
        e = read_schema(s, &json, text, n, &rule);
    }
    if (e == VD_OK)
        e = vd_rules_compile(r, rule, texts_root, out, n_out, err);
    json_decref(json);
    vd_rules_free(r);
    free(s);
    return e;
}
