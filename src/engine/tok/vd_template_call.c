/* Filters, tests, methods and functions: one table each, one row per name. A new name is a row and a
 * function. Strings' methods and lists' filters have files of their own. */
#include "vd_template_text.h"

#include "vd_unicode.h"

#include <inttypes.h>
#include <stdio.h>

/* ---- arguments ---- */

const struct vd_value *vd_args_find(const struct vd_args *a, size_t position, const char *name)
{
    for (size_t i = 0; i < a->n; i++)
        if (a->key[i].n ? vd_str_is(a->key[i], name) : i == position)
            return &a->v[i];
    return NULL;
}

bool vd_args_wrong(struct vd_run *r, struct vd_str name)
{
    return vd_run_fail(r, VD_EFORMAT, "%.*s does not take these arguments", (int)(name.n < 80 ? name.n : 80),
                       name.p);
}

static bool unknown(struct vd_run *r, const char *what, struct vd_str name)
{
    return vd_run_fail(r, VD_EUNSUPPORTED, "the %s %.*s is not supported", what,
                       (int)(name.n < 80 ? name.n : 80), name.p);
}

bool vd_args_str(struct vd_run *r, const struct vd_args *a, size_t position, const char *name,
                 const char *missing, struct vd_str *out)
{
    const struct vd_value *v = vd_args_find(a, position, name);
    *out = v && v->type == VD_VALUE_STR ? v->s : vd_str_of(missing ? missing : "");
    if (v ? v->type != VD_VALUE_STR : !missing)
        return vd_run_fail(r, VD_EFORMAT, "the argument %s must be a string", name);
    return true;
}

/* None is an absent one. */
bool vd_args_int(struct vd_run *r, const struct vd_args *a, size_t position, const char *name,
                 int64_t missing, int64_t *out)
{
    const struct vd_value *v = vd_args_find(a, position, name);
    *out = missing;
    return !v || v->type == VD_VALUE_NONE || vd_number_as_int(v, out) ||
           vd_run_fail(r, VD_EFORMAT, "the argument %s must be an integer", name);
}

bool vd_args_truth(const struct vd_args *a, size_t position, const char *name, bool missing)
{
    const struct vd_value *v = vd_args_find(a, position, name);
    return v ? vd_op_truth(v) : missing;
}

/* ---- maps ---- */

enum map_part { MAP_ITEMS, MAP_KEYS, MAP_VALUES };

static bool map_parts(struct vd_run *r, const struct vd_value *map, enum map_part part, struct vd_value *out)
{
    struct vd_value *p = vd_run_alloc(r, (map->list.n + 1) * sizeof *p);
    for (size_t i = 0; p && i < map->list.n; i++) {
        const struct vd_value *pair = &map->list.p[2 * i];
        p[i] = part == MAP_ITEMS ? vd_value_list(pair, 2) : pair[part == MAP_VALUES];
        p[i].is_tuple = part == MAP_ITEMS || p[i].is_tuple;
    }
    *out = vd_value_list(p, map->list.n);
    return p != NULL;
}

/* ---- filters ---- */

typedef bool filter_fn(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                       struct vd_value *out);

static bool f_trim(struct vd_run *r, const struct vd_value *v, const struct vd_args *a, struct vd_value *out)
{
    struct vd_str s;
    return vd_op_str(r, v, &s) && vd_string_strip(r, s, a, true, true, out);
}

static bool f_length(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                     struct vd_value *out)
{
    int64_t n;
    if (!vd_op_length(r, v, &n))
        return false;
    *out = vd_value_int(n);
    return true;
}

static bool f_case(struct vd_run *r, const struct vd_value *v, enum vd_letter_case to, struct vd_value *out)
{
    struct vd_str s;
    return vd_op_str(r, v, &s) && vd_string_case(r, s, to, out);
}

static bool f_upper(struct vd_run *r, const struct vd_value *v, const struct vd_args *a, struct vd_value *out)
{
    return f_case(r, v, VD_CASE_UPPER, out);
}

static bool f_lower(struct vd_run *r, const struct vd_value *v, const struct vd_args *a, struct vd_value *out)
{
    return f_case(r, v, VD_CASE_LOWER, out);
}

static bool f_capitalize(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                         struct vd_value *out)
{
    return f_case(r, v, VD_CASE_CAPITAL, out);
}

/* Jinja's title, which is not str.title: words begin after blanks and - ( { [ <. */
static bool f_title(struct vd_run *r, const struct vd_value *v, const struct vd_args *a, struct vd_value *out)
{
    struct vd_str s;
    if (!vd_op_str(r, v, &s))
        return false;
    *out = vd_value_str("", 0);
    for (size_t at = 0; at < s.n;) {
        size_t end = at, len = 0;
        while (end < s.n && (len = vd_space_at(s.p + end, s.n - end)) == 0 && !memchr("-({[<", s.p[end], 5))
            end++;
        struct vd_value word;
        if (end > at && (!vd_string_case(r, (struct vd_str){s.p + at, end - at}, VD_CASE_CAPITAL, &word) ||
                         !vd_op_concat(r, out->s, word.s, out)))
            return false;
        len = end < s.n && len == 0 ? 1 : len;
        if (end < s.n && !vd_op_concat(r, out->s, (struct vd_str){s.p + end, len}, out))
            return false;
        at = end < s.n ? end + len : end;
    }
    return true;
}

static bool f_default(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                      struct vd_value *out)
{
    const struct vd_value *other = vd_args_find(a, 0, "default_value");
    bool use = v->type == VD_VALUE_UNDEFINED || (vd_args_truth(a, 1, "boolean", false) && !vd_op_truth(v));
    *out = !use ? *v : other ? *other : vd_value_text("");
    return true;
}

/* join(d, attribute) */
static bool f_join(struct vd_run *r, const struct vd_value *v, const struct vd_args *a, struct vd_value *out)
{
    const struct vd_value *path = vd_args_find(a, 1, "attribute"), *d = vd_args_find(a, 0, "d");
    struct vd_args of = {.n = 1, .key = {vd_str_of("attribute")}};
    struct vd_value list = *v;
    struct vd_str sep = {"", 0};
    bool found;
    if (path && path->type != VD_VALUE_NONE) {
        of.v[0] = *path;
        if (!vd_list_filter(r, vd_str_of("map"), v, &of, &list, &found))
            return false;
    }
    return (!d || vd_op_str(r, d, &sep)) && vd_string_join(r, &list, sep, out);
}

static bool f_end(struct vd_run *r, const struct vd_value *v, bool last, struct vd_value *out)
{
    struct vd_value list;
    if (!vd_op_iterate(r, v, &list))
        return false;
    *out = list.list.n
               ? list.list.p[last ? list.list.n - 1 : 0]
               : (struct vd_value){.type = VD_VALUE_UNDEFINED, .s = vd_str_of("an item of an empty list")};
    return true;
}

static bool f_first(struct vd_run *r, const struct vd_value *v, const struct vd_args *a, struct vd_value *out)
{
    return f_end(r, v, false, out);
}

static bool f_last(struct vd_run *r, const struct vd_value *v, const struct vd_args *a, struct vd_value *out)
{
    if (v->type == VD_VALUE_LIST && v->is_lazy)
        return vd_run_fail(r, VD_EFORMAT, "last: the items can only be read from the first on");
    return f_end(r, v, true, out);
}

static bool f_string(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                     struct vd_value *out)
{
    struct vd_str s;
    if (!vd_op_str(r, v, &s))
        return false;
    *out = vd_value_str(s.p, s.n);
    return true;
}

static bool f_list(struct vd_run *r, const struct vd_value *v, const struct vd_args *a, struct vd_value *out)
{
    bool ok = vd_op_iterate(r, v, out);
    out->is_tuple = out->is_lazy = false;
    return ok;
}

static bool f_items(struct vd_run *r, const struct vd_value *v, const struct vd_args *a, struct vd_value *out)
{
    static const struct vd_value empty = {.type = VD_VALUE_MAP};
    if (v->type != VD_VALUE_MAP && v->type != VD_VALUE_UNDEFINED)
        return vd_run_fail(r, VD_EFORMAT, "items needs a map, not %s", vd_value_type_name(v->type));
    bool ok = map_parts(r, v->type == VD_VALUE_MAP ? v : &empty, MAP_ITEMS, out);
    out->is_lazy = true;
    return ok;
}

static bool f_replace(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                      struct vd_value *out)
{
    struct vd_args texts = *a;
    struct vd_str s;
    for (size_t i = 0; i < a->n; i++) { /* unlike str.replace it takes anything */
        bool is_count = a->key[i].n ? vd_str_is(a->key[i], "count") : i == 2;
        if (is_count)
            continue;
        if (!vd_op_str(r, &a->v[i], &s))
            return false;
        texts.v[i] = vd_value_str(s.p, s.n);
    }
    return vd_op_str(r, v, &s) && vd_string_replace(r, s, &texts, out);
}

static bool f_safe(struct vd_run *r, const struct vd_value *v, const struct vd_args *a, struct vd_value *out)
{
    bool ok = f_string(r, v, a, out);
    out->is_markup = true;
    return ok;
}

static bool f_escape(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                     struct vd_value *out)
{
    struct vd_str s;
    *out = *v;
    return (v->type == VD_VALUE_STR && v->is_markup) || (vd_op_str(r, v, &s) && vd_string_escape(r, s, out));
}

/* indent(width, first, blank): blanks, or a text, before each line but the first, and not before empty ones.
 */
static bool f_indent(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                     struct vd_value *out)
{
    const struct vd_value *width = vd_args_find(a, 0, "width");
    bool first = vd_args_truth(a, 1, "first", false), blank = vd_args_truth(a, 2, "blank", false);
    struct vd_value by = width ? *width : vd_value_int(4), space = vd_value_str(" ", 1), text, lines;
    struct vd_str s;
    if (by.type != VD_VALUE_STR && !vd_op_binary(r, VD_OP_MUL, &space, &by, &by))
        return false;
    if (by.type != VD_VALUE_STR || !vd_op_str(r, v, &s) || !vd_op_concat(r, s, vd_str_of("\n"), &text) ||
        !vd_string_lines(r, text.s, false, &lines))
        return r->e ? false : vd_args_wrong(r, vd_str_of("indent"));
    *out = vd_value_str("", 0);
    for (size_t i = 0; i < lines.list.n; i++) {
        struct vd_str line = lines.list.p[i].s;
        bool indented = i == 0 ? first : blank || line.n > 0;
        if ((i > 0 && !vd_op_concat(r, out->s, vd_str_of("\n"), out)) ||
            (indented && !vd_op_concat(r, out->s, by.s, out)) || !vd_op_concat(r, out->s, line, out))
            return false;
    }
    return true;
}

static bool f_attr(struct vd_run *r, const struct vd_value *v, const struct vd_args *a, struct vd_value *out)
{
    struct vd_str name;
    if (!vd_args_str(r, a, 0, "name", NULL, &name))
        return false;
    *out = (struct vd_value){.type = VD_VALUE_UNDEFINED, .s = name};
    return v->type == VD_VALUE_MAP || vd_op_attr(r, v, name, out); /* a map's items are no attributes */
}

static bool f_format(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                     struct vd_value *out)
{
    struct vd_str s;
    size_t n = 0;
    struct vd_value *values = vd_run_alloc(r, 2 * VD_ARGS_MAX * sizeof *values);
    if (!values || !vd_op_str(r, v, &s))
        return false;
    bool named = a->n > 0 && a->key[0].n;
    for (size_t i = 0; i < a->n; i++) {
        if ((a->key[i].n > 0) != named)
            return vd_args_wrong(r, vd_str_of("format"));
        if (named)
            values[n++] = vd_value_str(a->key[i].p, a->key[i].n);
        values[n++] = a->v[i];
    }
    struct vd_value all = named ? vd_value_map(values, n / 2) : vd_value_list(values, n);
    all.is_tuple = !named;
    return vd_format_percent(r, s, &all, out);
}

/* The words between characters that are neither letters, digits nor _. */
static bool f_wordcount(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                        struct vd_value *out)
{
    struct vd_str s;
    int64_t n = 0;
    bool in_word = false;
    if (!vd_op_str(r, v, &s) || !vd_run_charge(r, s.n / 16))
        return false;
    for (size_t i = 0, len; i < s.n; i += len) {
        uint32_t c;
        len = vd_utf8_read((const uint8_t *)s.p + i, s.n - i, &c);
        uint32_t category = vd_unicode_flags(c) & VD_UFLAG_CATEGORY;
        bool wordy = category == VD_UCAT_LETTER || category == VD_UCAT_NUMBER || c == '_';
        n += wordy && !in_word;
        in_word = wordy;
    }
    *out = vd_value_int(n);
    return true;
}

static bool f_center(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                     struct vd_value *out)
{
    struct vd_args width = {.n = 1, .v = {vd_value_int(80)}};
    struct vd_value s;
    bool found;
    if (a->n)
        width.v[0] = a->v[0];
    return f_string(r, v, a, &s) && vd_string_method(r, vd_str_of("center"), &s, &width, out, &found);
}

/* [item, key] */
static bool separators(struct vd_run *r, const struct vd_value *v, struct vd_json_style *style)
{
    if (v->type != VD_VALUE_LIST || v->list.n != 2 || v->list.p[0].type != VD_VALUE_STR ||
        v->list.p[1].type != VD_VALUE_STR)
        return vd_run_fail(r, VD_EFORMAT, "tojson: separators must be two strings");
    style->item = v->list.p[0].s;
    style->key = v->list.p[1].s;
    return true;
}

/* tojson(ensure_ascii, indent, separators, sort_keys), as transformers defines it. */
static bool f_tojson(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                     struct vd_value *out)
{
    static const char blanks[] = "                ";
    const struct vd_value *indent = vd_args_find(a, 1, "indent"), *between = vd_args_find(a, 2, "separators");
    struct vd_json_style style = {.ascii = vd_args_truth(a, 0, "ensure_ascii", false),
                                  .sort_keys = vd_args_truth(a, 3, "sort_keys", false),
                                  .item = vd_str_of(", "),
                                  .key = vd_str_of(": ")};
    struct vd_str s;
    int64_t n;
    if (indent && indent->type != VD_VALUE_NONE) {
        style.lines = true;
        style.item = vd_str_of(",");
        if (indent->type == VD_VALUE_STR)
            style.indent = indent->s;
        else if (!vd_args_int(r, a, 1, "indent", 0, &n))
            return false;
        else if (n > (int64_t)sizeof blanks - 1)
            return vd_run_fail(r, VD_ELIMIT, "tojson: indent is at most %zu", sizeof blanks - 1);
        else
            style.indent = (struct vd_str){blanks, n > 0 ? (size_t)n : 0};
    }
    if (between && between->type != VD_VALUE_NONE && !separators(r, between, &style))
        return false;
    if (!vd_op_json(r, v, &style, &s))
        return false;
    *out = vd_value_str(s.p, s.n);
    return true;
}

static const struct {
    const char *name;
    filter_fn *fn;
    size_t args_max;
} filters[] = {
    {"trim", f_trim, 1},
    {"length", f_length, 0},
    {"count", f_length, 0},
    {"upper", f_upper, 0},
    {"lower", f_lower, 0},
    {"title", f_title, 0},
    {"capitalize", f_capitalize, 0},
    {"default", f_default, 2},
    {"d", f_default, 2},
    {"join", f_join, 2},
    {"first", f_first, 0},
    {"last", f_last, 0},
    {"string", f_string, 0},
    {"int", vd_number_filter_int, 2},
    {"float", vd_number_filter_float, 1},
    {"round", vd_number_filter_round, 2},
    {"abs", vd_number_filter_abs, 0},
    {"list", f_list, 0},
    {"items", f_items, 0},
    {"replace", f_replace, 3},
    {"safe", f_safe, 0},
    {"escape", f_escape, 0},
    {"e", f_escape, 0},
    {"indent", f_indent, 3},
    {"attr", f_attr, 1},
    {"format", f_format, VD_ARGS_MAX},
    {"wordcount", f_wordcount, 0},
    {"center", f_center, 1},
    {"tojson", f_tojson, 4},
};

bool vd_call_filter(struct vd_run *r, struct vd_str name, const struct vd_value *v,
                    const struct vd_args *args, struct vd_value *out)
{
    bool found;
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++)
        if (vd_str_is(name, filters[i].name))
            return args->n <= filters[i].args_max ? filters[i].fn(r, v, args, out) : vd_args_wrong(r, name);
    bool ok = vd_list_filter(r, name, v, args, out, &found);
    return found ? ok : unknown(r, "filter", name);
}

/* ---- tests ---- */

enum test_id {
    T_DEFINED,
    T_UNDEFINED,
    T_NONE,
    T_STRING,
    T_MAPPING,
    T_ITERABLE,
    T_SEQUENCE,
    T_NUMBER,
    T_INTEGER,
    T_BOOLEAN,
    T_TRUE,
    T_FALSE,
    T_ODD,
    T_EVEN,
    T_IN,
    T_EQ,
    T_NE,
    T_DIVISIBLE,
    T_FLOAT,
    T_CALLABLE,
    T_LT,
    T_LE,
    T_GT,
    T_GE,
    T_LOWER,
    T_UPPER,
    T_SAMEAS,
    T_ESCAPED,
    T_FILTER,
    T_TEST,
};

static const struct {
    const char *name;
    enum test_id id;
    size_t n_args;
} tests[] = {
    {"defined", T_DEFINED, 0},
    {"undefined", T_UNDEFINED, 0},
    {"none", T_NONE, 0},
    {"string", T_STRING, 0},
    {"mapping", T_MAPPING, 0},
    {"iterable", T_ITERABLE, 0},
    {"sequence", T_SEQUENCE, 0},
    {"number", T_NUMBER, 0},
    {"integer", T_INTEGER, 0},
    {"boolean", T_BOOLEAN, 0},
    {"true", T_TRUE, 0},
    {"false", T_FALSE, 0},
    {"odd", T_ODD, 0},
    {"even", T_EVEN, 0},
    {"in", T_IN, 1},
    {"eq", T_EQ, 1},
    {"equalto", T_EQ, 1},
    {"ne", T_NE, 1},
    {"divisibleby", T_DIVISIBLE, 1},
    {"float", T_FLOAT, 0},
    {"callable", T_CALLABLE, 0},
    {"==", T_EQ, 1},
    {"!=", T_NE, 1},
    {"lt", T_LT, 1},
    {"<", T_LT, 1},
    {"lessthan", T_LT, 1},
    {"le", T_LE, 1},
    {"<=", T_LE, 1},
    {"gt", T_GT, 1},
    {">", T_GT, 1},
    {"greaterthan", T_GT, 1},
    {"ge", T_GE, 1},
    {">=", T_GE, 1},
    {"lower", T_LOWER, 0},
    {"upper", T_UPPER, 0},
    {"sameas", T_SAMEAS, 1},
    {"escaped", T_ESCAPED, 0},
    {"filter", T_FILTER, 0},
    {"test", T_TEST, 0},
};

/* odd, even, divisibleby: v % by == rest */
static bool has_rest(struct vd_run *r, const struct vd_value *v, int64_t by, int64_t rest, bool *out)
{
    struct vd_value n = vd_value_int(by), m;
    if (!vd_op_binary(r, VD_OP_MOD, v, &n, &m))
        return false;
    struct vd_value wanted = vd_value_int(rest);
    return vd_op_equal(r, &m, &wanted, 0, out);
}

/* lower, upper: str(v).islower(), str(v).isupper() */
static bool has_case(struct vd_run *r, const struct vd_value *v, bool upper, bool *out)
{
    const struct vd_args none = {.n = 0};
    struct vd_value text, answer;
    bool found;
    if (!f_string(r, v, &none, &text) ||
        !vd_string_method(r, vd_str_of(upper ? "isupper" : "islower"), &text, &none, &answer, &found))
        return false;
    *out = answer.b;
    return true;
}

/* Python's `is`, where it does not depend on what Python keeps only once. */
static bool is_same(struct vd_run *r, const struct vd_value *a, const struct vd_value *b, bool *out)
{
    *out = a->type == b->type;
    if (!*out || a->type == VD_VALUE_NONE)
        return true;
    if (a->type != VD_VALUE_BOOL)
        return vd_run_fail(r, VD_EUNSUPPORTED, "sameas is supported for none, true and false only");
    *out = a->b == b->b;
    return true;
}

static bool run_test(struct vd_run *r, enum test_id id, const struct vd_value *v,
                     const struct vd_value *other, bool *out)
{
    enum vd_value_type t = v->type;
    switch (id) {
    case T_DEFINED:
        *out = t != VD_VALUE_UNDEFINED;
        return true;
    case T_UNDEFINED:
        *out = t == VD_VALUE_UNDEFINED;
        return true;
    case T_NONE:
        *out = t == VD_VALUE_NONE;
        return true;
    case T_STRING:
        *out = t == VD_VALUE_STR;
        return true;
    case T_MAPPING:
        *out = t == VD_VALUE_MAP;
        return true;
    case T_ITERABLE:
    case T_SEQUENCE:
        *out = t == VD_VALUE_STR || (t == VD_VALUE_LIST && (id == T_ITERABLE || !v->is_lazy)) ||
               t == VD_VALUE_MAP || t == VD_VALUE_UNDEFINED;
        return true;
    case T_NUMBER:
        *out = t == VD_VALUE_INT || t == VD_VALUE_BOOL || t == VD_VALUE_FLOAT;
        return true;
    case T_INTEGER:
        *out = t == VD_VALUE_INT;
        return true;
    case T_BOOLEAN:
        *out = t == VD_VALUE_BOOL;
        return true;
    case T_TRUE:
        *out = t == VD_VALUE_BOOL && v->b;
        return true;
    case T_FALSE:
        *out = t == VD_VALUE_BOOL && !v->b;
        return true;
    case T_ODD:
        return has_rest(r, v, 2, 1, out);
    case T_EVEN:
        return has_rest(r, v, 2, 0, out);
    case T_DIVISIBLE:
        return other->type == VD_VALUE_INT ? has_rest(r, v, other->i, 0, out)
                                           : vd_run_fail(r, VD_EFORMAT, "divisibleby needs an integer");
    case T_FLOAT:
        *out = t == VD_VALUE_FLOAT;
        return true;
    case T_CALLABLE:
        *out = t == VD_VALUE_FUNCTION || t == VD_VALUE_MACRO || t == VD_VALUE_METHOD || t == VD_VALUE_LOOP ||
               t == VD_VALUE_UNDEFINED; /* which has __call__, to say that it is undefined */
        return true;
    case T_LT:
        return vd_op_compare(r, VD_OP_LT, v, other, out);
    case T_LE:
        return vd_op_compare(r, VD_OP_LE, v, other, out);
    case T_GT:
        return vd_op_compare(r, VD_OP_GT, v, other, out);
    case T_GE:
        return vd_op_compare(r, VD_OP_GE, v, other, out);
    case T_LOWER:
    case T_UPPER:
        return has_case(r, v, id == T_UPPER, out);
    case T_SAMEAS:
        return is_same(r, v, other, out);
    case T_ESCAPED:
        *out = t == VD_VALUE_STR && v->is_markup;
        return true;
    case T_FILTER:
    case T_TEST:
        *out = t == VD_VALUE_STR && vd_call_has(v->s, id == T_TEST);
        return true;
    case T_IN:
        return vd_op_contains(r, other, v, out);
    case T_EQ:
        return vd_op_compare(r, VD_OP_EQ, v, other, out);
    case T_NE:
        return vd_op_compare(r, VD_OP_NE, v, other, out);
    }
    return false;
}

bool vd_call_test(struct vd_run *r, struct vd_str name, const struct vd_value *v, const struct vd_args *args,
                  bool *out)
{
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
        if (vd_str_is(name, tests[i].name))
            return args->n == tests[i].n_args ? run_test(r, tests[i].id, v, &args->v[0], out)
                                              : vd_args_wrong(r, name);
    return unknown(r, "test", name);
}

bool vd_call_has(struct vd_str name, bool test)
{
    bool found = false;
    for (size_t i = 0; test && i < sizeof tests / sizeof tests[0]; i++)
        found |= vd_str_is(name, tests[i].name);
    if (test)
        return found;
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++)
        if (vd_str_is(name, filters[i].name))
            return true;
    vd_list_filter(NULL, name, NULL, NULL, NULL, &found);
    return found;
}

/* ---- methods ---- */

enum method_id { M_ITEMS, M_KEYS, M_VALUES, M_GET, M_COPY, M_INDEX, M_COUNT, M_CYCLE, M_CHANGED };

static const struct {
    const char *name;
    enum vd_value_type of;
    enum method_id id;
    size_t args_min, args_max;
} methods[] = {
    {"items", VD_VALUE_MAP, M_ITEMS, 0, 0},
    {"keys", VD_VALUE_MAP, M_KEYS, 0, 0},
    {"values", VD_VALUE_MAP, M_VALUES, 0, 0},
    {"get", VD_VALUE_MAP, M_GET, 1, 2},
    {"copy", VD_VALUE_MAP, M_COPY, 0, 0},
    {"copy", VD_VALUE_LIST, M_COPY, 0, 0},
    {"index", VD_VALUE_LIST, M_INDEX, 1, 1},
    {"count", VD_VALUE_LIST, M_COUNT, 1, 1},
    {"cycle", VD_VALUE_LOOP, M_CYCLE, 1, VD_ARGS_MAX},
    {"changed", VD_VALUE_LOOP, M_CHANGED, 0, VD_ARGS_MAX},
};

/* index and count of a list: where an item is, how often. */
static bool find_item(struct vd_run *r, const struct vd_value *list, const struct vd_value *item, bool count,
                      struct vd_value *out)
{
    *out = vd_value_int(0);
    for (size_t i = 0; i < list->list.n; i++) {
        bool same;
        if (!vd_op_equal(r, &list->list.p[i], item, 0, &same))
            return false;
        out->i = count ? out->i + same : (int64_t)i;
        if (same && !count)
            return true;
    }
    return count || vd_run_fail(r, VD_EFORMAT, "index: the item is not in the list");
}

/* Whether the arguments differ from those of the last call. */
static bool changed(struct vd_run *r, struct vd_loop *loop, const struct vd_args *a, struct vd_value *out)
{
    struct vd_value *items = vd_run_alloc(r, (a->n + 1) * sizeof *items), now;
    bool same = false;
    if (!items)
        return false;
    memcpy(items, a->v, a->n * sizeof *items);
    now = vd_value_list(items, a->n);
    if (loop->changed.type == VD_VALUE_LIST && !vd_op_equal(r, &loop->changed, &now, 0, &same))
        return false;
    loop->changed = now;
    r->n_stored++;
    *out = vd_value_bool(!same);
    return true;
}

static bool run_method(struct vd_run *r, enum method_id id, const struct vd_value *self,
                       const struct vd_args *a, struct vd_value *out)
{
    const struct vd_value *found;
    switch (id) {
    case M_ITEMS:
        return map_parts(r, self, MAP_ITEMS, out);
    case M_KEYS:
        return map_parts(r, self, MAP_KEYS, out);
    case M_VALUES:
        return map_parts(r, self, MAP_VALUES, out);
    case M_GET:
        if (!vd_op_find(r, self, &a->v[0], &found))
            return false;
        *out = found ? *found : a->n > 1 ? a->v[1] : vd_value_none();
        return true;
    case M_COPY:
        *out = *self;
        return true;
    case M_INDEX:
    case M_COUNT:
        return find_item(r, self, &a->v[0], id == M_COUNT, out);
    case M_CYCLE:
        *out = a->v[(size_t)self->loop->index0 % a->n];
        return true;
    case M_CHANGED:
        return changed(r, self->loop, a, out);
    }
    return false;
}

bool vd_call_method(struct vd_run *r, struct vd_str name, const struct vd_value *self,
                    const struct vd_args *args, struct vd_value *out)
{
    struct vd_value item;
    bool found = false;
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        if (methods[i].of == self->type && vd_str_is(name, methods[i].name))
            return args->n >= methods[i].args_min && args->n <= methods[i].args_max
                       ? run_method(r, methods[i].id, self, args, out)
                       : vd_args_wrong(r, name);
    if (self->type == VD_VALUE_STR) {
        bool ok = vd_string_method(r, name, self, args, out, &found);
        if (found)
            return ok;
    }
    if (!vd_op_attr(r, self, name, &item))
        return false;
    if (item.type != VD_VALUE_UNDEFINED && item.type != VD_VALUE_METHOD) /* a macro in a namespace, say */
        return vd_run_call(r, &item, args, out);
    return vd_run_fail(r, VD_EUNSUPPORTED, "%s has no method %.*s here", vd_value_type_name(self->type),
                       (int)(name.n < 80 ? name.n : 80), name.p);
}

/* ---- functions ---- */

static bool call_raise(struct vd_run *r, const struct vd_args *a, struct vd_value *out)
{
    struct vd_str s;
    if (a->n != 1 || !vd_op_str(r, &a->v[0], &s))
        return vd_args_wrong(r, vd_str_of("raise_exception"));
    return vd_run_fail(r, VD_EUSE, "%.*s", (int)(s.n < 300 ? s.n : 300), s.p);
}

/* The keyword arguments, after the pairs of a map before them, as pairs; a later one of a name replaces.
 * NULL: an error. */
static struct vd_value *pairs_of(struct vd_run *r, const struct vd_args *a, const char *name, size_t *n_pairs)
{
    const struct vd_value *map = a->n && a->key[0].n == 0 ? &a->v[0] : NULL;
    size_t n = map && map->type == VD_VALUE_MAP ? map->list.n : 0;
    struct vd_value *p = vd_run_alloc(r, 2 * (n + a->n + 1) * sizeof *p);
    if (map && map->type != VD_VALUE_MAP) {
        vd_args_wrong(r, vd_str_of(name));
        return NULL;
    }
    if (p && n)
        memcpy(p, map->list.p, 2 * n * sizeof *p);
    for (size_t i = 0; p && i < n; i++)
        if (p[2 * i].type != VD_VALUE_STR) {
            vd_args_wrong(r, vd_str_of(name));
            return NULL;
        }
    for (size_t i = map != NULL; p && i < a->n; i++) {
        size_t k = 0;
        while (k < n && !vd_str_eq(p[2 * k].s, a->key[i]))
            k++;
        if (a->key[i].n == 0)
            vd_args_wrong(r, vd_str_of(name));
        if (a->key[i].n == 0 || !vd_run_charge(r, vd_run_find_steps(n, a->key[i])))
            return NULL;
        p[2 * k] = vd_value_str(a->key[i].p, a->key[i].n);
        p[2 * k + 1] = a->v[i];
        n += k == n;
    }
    *n_pairs = n;
    return p;
}

static bool call_dict(struct vd_run *r, const struct vd_args *a, struct vd_value *out)
{
    size_t n;
    const struct vd_value *p = pairs_of(r, a, "dict", &n);
    if (p)
        *out = vd_value_map(p, n);
    return p != NULL;
}

static bool call_namespace(struct vd_run *r, const struct vd_args *a, struct vd_value *out)
{
    size_t n;
    const struct vd_value *p = pairs_of(r, a, "namespace", &n);
    struct vd_namespace *ns = p ? vd_run_alloc(r, sizeof *ns) : NULL;
    if (!ns)
        return false;
    if (n > VD_ARGS_MAX)
        return vd_run_fail(r, VD_ELIMIT, "a namespace has more than %d names", VD_ARGS_MAX);
    ns->n = n;
    for (size_t i = 0; i < n; i++) {
        ns->keys[i] = p[2 * i].s;
        ns->values[i] = p[2 * i + 1];
    }
    *out = (struct vd_value){.type = VD_VALUE_NAMESPACE, .ns = ns};
    return true;
}

static bool call_strftime(struct vd_run *r, const struct vd_args *a, struct vd_value *out)
{
    struct vd_str s;
    return vd_args_str(r, a, 0, "format", NULL, &s) && vd_format_time(r, s, out);
}

static bool call_range(struct vd_run *r, const struct vd_args *a, struct vd_value *out)
{
    int64_t v[3] = {0, 0, 1};
    if (a->n < 1 || a->n > 3)
        return vd_args_wrong(r, vd_str_of("range"));
    for (size_t i = 0; i < a->n; i++)
        if (a->v[i].type == VD_VALUE_NONE || !vd_args_int(r, a, i, "", 0, &v[a->n == 1 ? 1 : i]))
            return r->e ? false : vd_args_wrong(r, vd_str_of("range"));
    if (v[2] == 0)
        return vd_run_fail(r, VD_EFORMAT, "range: the step is 0");
    unsigned __int128 n = 0;
    if (v[2] > 0 ? v[0] < v[1] : v[0] > v[1]) {
        __int128 gap = (__int128)v[1] - v[0], step = v[2];
        n = (unsigned __int128)((gap + step - (step > 0 ? 1 : -1)) / step);
    }
    if (n > r->arena.size_bytes / sizeof(struct vd_value))
        return vd_run_fail(r, VD_ELIMIT, "range: too many numbers");
    struct vd_value *p = vd_run_alloc(r, ((size_t)n + 1) * sizeof *p);
    for (size_t i = 0; p && i < (size_t)n; i++)
        p[i] = vd_value_int((int64_t)(v[0] + (__int128)i * v[2]));
    *out = vd_value_list(p, (size_t)n);
    return p != NULL;
}

static const struct {
    const char *name;
    bool (*fn)(struct vd_run *r, const struct vd_args *a, struct vd_value *out);
    struct vd_value value;
} functions[] = {
#define FUNCTION(name, fn, which)                                                                            \
    {                                                                                                        \
        name, fn,                                                                                            \
        {                                                                                                    \
            .type = VD_VALUE_FUNCTION, .i = which                                                            \
        }                                                                                                    \
    }
    FUNCTION("raise_exception", call_raise, 0), FUNCTION("namespace", call_namespace, 1),
    FUNCTION("range", call_range, 2),           FUNCTION("dict", call_dict, 3),
    FUNCTION("strftime_now", call_strftime, 4),
};

const struct vd_value *vd_call_find(struct vd_str name)
{
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
        if (vd_str_is(name, functions[i].name))
            return &functions[i].value;
    return NULL;
}

bool vd_call_function(struct vd_run *r, int64_t which, const struct vd_args *args, struct vd_value *out)
{
    return functions[which].fn(r, args, out);
}
