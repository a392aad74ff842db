/* Filters, tests, methods and functions: one table each, one row per name. A new name is a row and a
 * function. */
#include "vd_template_text.h"

#include "vd_unicode.h"

#include <inttypes.h>

/* ---- arguments ---- */

/* The argument at a position or with a name, or NULL. */
static const struct vd_value *arg(const struct vd_args *a, size_t position, const char *name)
{
    for (size_t i = 0; i < a->n; i++)
        if (a->key[i].n ? vd_str_is(a->key[i], name) : i == position)
            return &a->v[i];
    return NULL;
}

static bool wrong_arguments(struct vd_run *r, struct vd_str name)
{
    return vd_run_fail(r, VD_EFORMAT, "%.*s does not take these arguments", (int)(name.n < 80 ? name.n : 80),
                       name.p);
}

static bool unknown(struct vd_run *r, const char *what, struct vd_str name)
{
    return vd_run_fail(r, VD_EUNSUPPORTED, "the %s %.*s is not supported", what,
                       (int)(name.n < 80 ? name.n : 80), name.p);
}

/* A string argument, or `missing`. */
static bool str_arg(struct vd_run *r, const struct vd_args *a, size_t position, const char *name,
                    const char *missing, struct vd_str *out)
{
    const struct vd_value *v = arg(a, position, name);
    *out = v && v->type == VD_VALUE_STR ? v->s : vd_str_of(missing ? missing : "");
    if (v ? v->type != VD_VALUE_STR : !missing)
        return vd_run_fail(r, VD_EFORMAT, "the argument %s must be a string", name);
    return true;
}

static bool int_arg(struct vd_run *r, const struct vd_args *a, size_t position, const char *name,
                    int64_t missing, int64_t *out)
{
    const struct vd_value *v = arg(a, position, name);
    *out = v && v->type == VD_VALUE_INT ? v->i : missing;
    return !v || v->type == VD_VALUE_INT ||
           vd_run_fail(r, VD_EFORMAT, "the argument %s must be an integer", name);
}

/* ---- strings ---- */

static bool in_set(struct vd_str set, const char *p, size_t len)
{
    return memmem(set.p, set.n, p, len) != NULL; /* whole characters, so a hit is a character too */
}

/* Bytes of a leading or trailing character that is to go: white space if set.n is 0. */
static size_t strip_at(struct vd_str s, struct vd_str set, bool left)
{
    size_t len = 1;
    if (set.n == 0)
        return left ? vd_space_at(s.p, s.n) : vd_space_before(s.p, s.n);
    if (s.n == 0)
        return 0;
    if (left) {
        uint32_t cpt;
        len = vd_utf8_read((const uint8_t *)s.p, s.n, &cpt);
    } else {
        while (len < s.n && len < 4 && ((uint8_t)s.p[s.n - len] & 0xC0) == 0x80)
            len++;
    }
    return in_set(set, left ? s.p : s.p + s.n - len, len) ? len : 0;
}

/* The steps that strip may take: every character of s may be looked for in the set. */
static uint64_t strip_steps(struct vd_str s, struct vd_str set)
{
    return (uint64_t)(s.n / 32) * (1 + set.n / 32);
}

static struct vd_str strip(struct vd_str s, struct vd_str set, bool left, bool right)
{
    size_t len;
    while (left && (len = strip_at(s, set, true)) > 0)
        s = (struct vd_str){s.p + len, s.n - len};
    while (right && (len = strip_at(s, set, false)) > 0)
        s.n -= len;
    return s;
}

enum letter_case { CASE_LOWER, CASE_UPPER, CASE_CAPITAL };

static bool change_case(struct vd_run *r, struct vd_str s, enum letter_case to, struct vd_value *out)
{
    char *p = vd_run_alloc(r, s.n);
    if (!p)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        bool up = to == CASE_UPPER || (to == CASE_CAPITAL && i == 0);
        char c = s.p[i];
        p[i] = up && c >= 'a' && c <= 'z' ? (char)(c - 32) : !up && c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
    }
    *out = vd_value_str(p, s.n);
    return true;
}

/* The next place of `what` in s from `at` on; s.n if there is none. */
static size_t find(struct vd_str s, size_t at, struct vd_str what)
{
    const char *hit = what.n <= s.n - at ? memmem(s.p + at, s.n - at, what.p, what.n) : NULL;
    return hit ? (size_t)(hit - s.p) : s.n;
}

static bool replace(struct vd_run *r, struct vd_str s, const struct vd_args *a, struct vd_value *out)
{
    struct vd_str old, new;
    int64_t count;
    if (!str_arg(r, a, 0, "old", NULL, &old) || !str_arg(r, a, 1, "new", NULL, &new) ||
        !int_arg(r, a, 2, "count", -1, &count))
        return false;
    if (old.n == 0)
        return vd_run_fail(r, VD_EUNSUPPORTED, "replacing the empty string is not supported");
    if (!vd_run_charge(r, s.n / 32))
        return false;
    *out = vd_value_str("", 0);
    for (size_t at = 0;;) {
        size_t hit = count == 0 ? s.n : find(s, at, old);
        if (!vd_op_concat(r, out->s, (struct vd_str){s.p + at, hit - at}, out))
            return false;
        if (hit == s.n)
            return true;
        if (!vd_op_concat(r, out->s, new, out))
            return false;
        at = hit + old.n;
        count--;
    }
}

/* The first part of s up to a separator (white space if sep.n is 0), which is taken off s. `last` takes all.
 */
static struct vd_str split_off(struct vd_str *s, struct vd_str sep, bool last, bool *more)
{
    size_t end = s->n, skip = 0;
    if (sep.n > 0 && !last) {
        end = find(*s, 0, sep);
        skip = end < s->n ? sep.n : 0;
    } else if (!last) {
        for (end = 0; end < s->n && (skip = vd_space_at(s->p + end, s->n - end)) == 0;)
            end++;
    }
    struct vd_str part = {s->p, end};
    *s = (struct vd_str){s->p + end + skip, s->n - end - skip};
    if (sep.n == 0)
        *s = strip(*s, sep, true, false);
    *more = sep.n > 0 ? skip > 0 : s->n > 0;
    return part;
}

static bool split(struct vd_run *r, struct vd_str s, const struct vd_args *a, struct vd_value *out)
{
    struct vd_str sep = {"", 0};
    int64_t max;
    const struct vd_value *v = arg(a, 0, "sep");
    if (v && v->type != VD_VALUE_NONE && (!str_arg(r, a, 0, "sep", NULL, &sep) || sep.n == 0))
        return vd_run_fail(r, VD_EFORMAT, "the argument sep must be a string that is not empty");
    if (!int_arg(r, a, 1, "maxsplit", -1, &max) || !vd_run_charge(r, s.n / 32))
        return false;
    if (sep.n == 0)
        s = strip(s, sep, true, max < 0);
    size_t n = 0, most = s.n + 1; /* a bound on the parts: each takes a byte of s */
    if (max >= 0 && (uint64_t)max + 1 < most)
        most = (size_t)max + 1;
    if (sep.n)
        most = most < s.n / sep.n + 1 ? most : s.n / sep.n + 1;
    struct vd_value *parts = vd_run_alloc(r, most * sizeof *parts);
    if (!parts)
        return false;
    bool more = sep.n > 0 || s.n > 0;
    while (more) {
        struct vd_str part = split_off(&s, sep, max >= 0 && n == (size_t)max, &more);
        parts[n++] = vd_value_str(part.p, part.n);
    }
    *out = vd_value_list(parts, n);
    return true;
}

static bool join(struct vd_run *r, const struct vd_value *list, struct vd_str sep, struct vd_value *out)
{
    struct vd_value items;
    struct vd_str s;
    if (!vd_op_iterate(r, list, &items))
        return false;
    *out = vd_value_str("", 0);
    for (size_t i = 0; i < items.list.n; i++) {
        if (i > 0 && !vd_op_concat(r, out->s, sep, out))
            return false;
        if (!vd_op_str(r, &items.list.p[i], &s) || !vd_op_concat(r, out->s, s, out))
            return false;
    }
    return true;
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
    struct vd_str s, set;
    if (!vd_op_str(r, v, &s) || !str_arg(r, a, 0, "chars", "", &set) ||
        !vd_run_charge(r, strip_steps(s, set)))
        return false;
    s = strip(s, set, true, true);
    *out = vd_value_str(s.p, s.n);
    return true;
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

static bool f_case(struct vd_run *r, const struct vd_value *v, enum letter_case to, struct vd_value *out)
{
    struct vd_str s;
    return vd_op_str(r, v, &s) && change_case(r, s, to, out);
}

static bool f_upper(struct vd_run *r, const struct vd_value *v, const struct vd_args *a, struct vd_value *out)
{
    return f_case(r, v, CASE_UPPER, out);
}

static bool f_lower(struct vd_run *r, const struct vd_value *v, const struct vd_args *a, struct vd_value *out)
{
    return f_case(r, v, CASE_LOWER, out);
}

static bool f_capitalize(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                         struct vd_value *out)
{
    return f_case(r, v, CASE_CAPITAL, out);
}

static bool f_default(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                      struct vd_value *out)
{
    const struct vd_value *other = arg(a, 0, "default_value"), *boolean = arg(a, 1, "boolean");
    bool use = v->type == VD_VALUE_UNDEFINED || (boolean && vd_op_truth(boolean) && !vd_op_truth(v));
    *out = !use ? *v : other ? *other : vd_value_text("");
    return true;
}

static bool f_join(struct vd_run *r, const struct vd_value *v, const struct vd_args *a, struct vd_value *out)
{
    struct vd_str sep;
    if (arg(a, 1, "attribute"))
        return vd_run_fail(r, VD_EUNSUPPORTED, "join with an attribute is not supported");
    return str_arg(r, a, 0, "d", "", &sep) && join(r, v, sep, out);
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

/* A decimal number in white space, its fraction dropped; else the default. */
static bool f_int(struct vd_run *r, const struct vd_value *v, const struct vd_args *a, struct vd_value *out)
{
    int64_t i = 0, missing;
    if (!int_arg(r, a, 0, "default", 0, &missing))
        return false;
    *out = vd_value_int(missing);
    if (v->type == VD_VALUE_UNDEFINED)
        return vd_op_attr(r, v, (struct vd_str){"", 0}, out);
    if (v->type == VD_VALUE_INT || v->type == VD_VALUE_BOOL)
        *out = vd_value_int(v->type == VD_VALUE_INT ? v->i : v->b);
    if (v->type != VD_VALUE_STR)
        return true;
    if (!vd_run_charge(r, v->s.n / 32))
        return false;
    struct vd_str s = strip(v->s, (struct vd_str){"", 0}, true, true);
    bool minus = s.n && s.p[0] == '-', dot = false;
    size_t digits = 0;
    for (size_t k = s.n && (s.p[0] == '-' || s.p[0] == '+'); k < s.n; k++) {
        if (s.p[k] == '.' && !dot && digits) {
            dot = true;
            continue;
        }
        if (s.p[k] < '0' || s.p[k] > '9')
            return true;
        digits++;
        if (!dot && (__builtin_mul_overflow(i, 10, &i) || __builtin_sub_overflow(i, s.p[k] - '0', &i)))
            return vd_run_fail(r, VD_EUNSUPPORTED, "an integer is beyond 64 bits");
    }
    if (digits)
        *out = vd_value_int(minus || i == INT64_MIN ? i : -i);
    return true;
}

static bool f_list(struct vd_run *r, const struct vd_value *v, const struct vd_args *a, struct vd_value *out)
{
    bool ok = vd_op_iterate(r, v, out);
    out->is_tuple = false;
    return ok;
}

static bool f_items(struct vd_run *r, const struct vd_value *v, const struct vd_args *a, struct vd_value *out)
{
    static const struct vd_value empty = {.type = VD_VALUE_MAP};
    if (v->type != VD_VALUE_MAP && v->type != VD_VALUE_UNDEFINED)
        return vd_run_fail(r, VD_EFORMAT, "items needs a map, not %s", vd_value_type_name(v->type));
    return map_parts(r, v->type == VD_VALUE_MAP ? v : &empty, MAP_ITEMS, out);
}

static bool f_replace(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                      struct vd_value *out)
{
    struct vd_str s;
    return vd_op_str(r, v, &s) && replace(r, s, a, out);
}

static bool f_safe(struct vd_run *r, const struct vd_value *v, const struct vd_args *a, struct vd_value *out)
{
    *out = *v;
    return true;
}

static bool f_tojson(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                     struct vd_value *out)
{
    struct vd_str s;
    int64_t indent;
    if (!int_arg(r, a, 99, "indent", -1, &indent))
        return false;
    if (indent > 16)
        return vd_run_fail(r, VD_ELIMIT, "tojson: indent is at most 16");
    if (!vd_op_json(r, v, indent < 0 ? -1 : (int)indent, &s))
        return false;
    *out = vd_value_str(s.p, s.n);
    return true;
}

static const struct {
    const char *name;
    filter_fn *fn;
    size_t args_max;
} filters[] = {
    {"trim", f_trim, 1},   {"length", f_length, 0}, {"count", f_length, 0},
    {"upper", f_upper, 0}, {"lower", f_lower, 0},   {"default", f_default, 2},
    {"d", f_default, 2},   {"join", f_join, 2},     {"first", f_first, 0},
    {"last", f_last, 0},   {"string", f_string, 0}, {"int", f_int, 1},
    {"list", f_list, 0},   {"items", f_items, 0},   {"replace", f_replace, 3},
    {"safe", f_safe, 0},   {"tojson", f_tojson, 1}, {"capitalize", f_capitalize, 0},
};

bool vd_call_filter(struct vd_run *r, struct vd_str name, const struct vd_value *v,
                    const struct vd_args *args, struct vd_value *out)
{
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++)
        if (vd_str_is(name, filters[i].name))
            return args->n <= filters[i].args_max ? filters[i].fn(r, v, args, out) : wrong_arguments(r, name);
    return unknown(r, "filter", name);
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
};

/* odd, even, divisibleby: v % by == rest */
static bool has_rest(struct vd_run *r, const struct vd_value *v, int64_t by, int64_t rest, bool *out)
{
    struct vd_value n = vd_value_int(by), m;
    if (!vd_op_binary(r, VD_OP_MOD, v, &n, &m))
        return false;
    *out = m.i == rest;
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
        *out = t == VD_VALUE_STR || t == VD_VALUE_LIST || t == VD_VALUE_MAP || t == VD_VALUE_UNDEFINED;
        return true;
    case T_NUMBER:
        *out = t == VD_VALUE_INT || t == VD_VALUE_BOOL;
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
                                              : wrong_arguments(r, name);
    return unknown(r, "test", name);
}

/* ---- methods ---- */

/* Whether s starts or ends with one of a string or tuple of strings. */
static bool has_end(struct vd_run *r, struct vd_str s, const struct vd_value *ends, bool front,
                    struct vd_value *out)
{
    const struct vd_value *p = ends->type == VD_VALUE_LIST ? ends->list.p : ends;
    size_t n = ends->type == VD_VALUE_LIST ? ends->list.n : 1;
    *out = vd_value_bool(false);
    for (size_t i = 0; i < n; i++) {
        if (p[i].type != VD_VALUE_STR)
            return vd_run_fail(r, VD_EFORMAT, "startswith and endswith need a string");
        struct vd_str e = p[i].s;
        if (!vd_run_charge(r, 1 + e.n / 32))
            return false;
        if (e.n <= s.n && memcmp(front ? s.p : s.p + s.n - e.n, e.p, e.n) == 0)
            *out = vd_value_bool(true);
    }
    return true;
}

enum method_id {
    M_STRIP,
    M_LSTRIP,
    M_RSTRIP,
    M_STARTSWITH,
    M_ENDSWITH,
    M_SPLIT,
    M_UPPER,
    M_LOWER,
    M_REPLACE,
    M_JOIN,
    M_ITEMS,
    M_KEYS,
    M_VALUES,
    M_GET,
    M_CYCLE,
};

static const struct {
    const char *name;
    enum vd_value_type of;
    enum method_id id;
    size_t args_min, args_max;
} methods[] = {
    {"strip", VD_VALUE_STR, M_STRIP, 0, 1},
    {"lstrip", VD_VALUE_STR, M_LSTRIP, 0, 1},
    {"rstrip", VD_VALUE_STR, M_RSTRIP, 0, 1},
    {"startswith", VD_VALUE_STR, M_STARTSWITH, 1, 1},
    {"endswith", VD_VALUE_STR, M_ENDSWITH, 1, 1},
    {"split", VD_VALUE_STR, M_SPLIT, 0, 2},
    {"upper", VD_VALUE_STR, M_UPPER, 0, 0},
    {"lower", VD_VALUE_STR, M_LOWER, 0, 0},
    {"replace", VD_VALUE_STR, M_REPLACE, 2, 3},
    {"join", VD_VALUE_STR, M_JOIN, 1, 1},
    {"items", VD_VALUE_MAP, M_ITEMS, 0, 0},
    {"keys", VD_VALUE_MAP, M_KEYS, 0, 0},
    {"values", VD_VALUE_MAP, M_VALUES, 0, 0},
    {"get", VD_VALUE_MAP, M_GET, 1, 2},
    {"cycle", VD_VALUE_LOOP, M_CYCLE, 1, VD_ARGS_MAX},
};

static bool call_strip(struct vd_run *r, struct vd_str s, const struct vd_args *a, enum method_id id,
                       struct vd_value *out)
{
    struct vd_str set;
    if (!str_arg(r, a, 0, "chars", "", &set) || !vd_run_charge(r, strip_steps(s, set)))
        return false;
    s = strip(s, set, id != M_RSTRIP, id != M_LSTRIP);
    *out = vd_value_str(s.p, s.n);
    return true;
}

static bool run_method(struct vd_run *r, enum method_id id, const struct vd_value *self,
                       const struct vd_args *a, struct vd_value *out)
{
    const struct vd_value *found;
    switch (id) {
    case M_STRIP:
    case M_LSTRIP:
    case M_RSTRIP:
        return call_strip(r, self->s, a, id, out);
    case M_STARTSWITH:
    case M_ENDSWITH:
        return has_end(r, self->s, &a->v[0], id == M_STARTSWITH, out);
    case M_SPLIT:
        return split(r, self->s, a, out);
    case M_UPPER:
    case M_LOWER:
        return change_case(r, self->s, id == M_UPPER ? CASE_UPPER : CASE_LOWER, out);
    case M_REPLACE:
        return replace(r, self->s, a, out);
    case M_JOIN:
        return join(r, &a->v[0], self->s, out);
    case M_ITEMS:
        return map_parts(r, self, MAP_ITEMS, out);
    case M_KEYS:
        return map_parts(r, self, MAP_KEYS, out);
    case M_VALUES:
        return map_parts(r, self, MAP_VALUES, out);
    case M_GET:
        found = a->v[0].type == VD_VALUE_STR ? vd_value_get(self, a->v[0].s) : NULL;
        *out = found ? *found : a->n > 1 ? a->v[1] : vd_value_none();
        return a->v[0].type != VD_VALUE_STR || vd_run_charge(r, vd_run_find_steps(self->list.n, a->v[0].s));
    case M_CYCLE:
        *out = a->v[(size_t)self->loop->index0 % a->n];
        return true;
    }
    return false;
}

bool vd_call_method(struct vd_run *r, struct vd_str name, const struct vd_value *self,
                    const struct vd_args *args, struct vd_value *out)
{
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        if (methods[i].of == self->type && vd_str_is(name, methods[i].name))
            return args->n >= methods[i].args_min && args->n <= methods[i].args_max
                       ? run_method(r, methods[i].id, self, args, out)
                       : wrong_arguments(r, name);
    if (self->type == VD_VALUE_UNDEFINED)
        return vd_op_attr(r, self, name, out);
    return vd_run_fail(r, VD_EUNSUPPORTED, "%s has no method %.*s", vd_value_type_name(self->type),
                       (int)(name.n < 80 ? name.n : 80), name.p);
}

/* ---- functions ---- */

static bool call_raise(struct vd_run *r, const struct vd_args *a, struct vd_value *out)
{
    struct vd_str s;
    if (a->n != 1 || !vd_op_str(r, &a->v[0], &s))
        return wrong_arguments(r, vd_str_of("raise_exception"));
    return vd_run_fail(r, VD_EUSE, "%.*s", (int)(s.n < 300 ? s.n : 300), s.p);
}

static bool call_namespace(struct vd_run *r, const struct vd_args *a, struct vd_value *out)
{
    struct vd_namespace *ns = vd_run_alloc(r, sizeof *ns);
    if (!ns)
        return false;
    ns->n = 0;
    for (size_t i = 0; i < a->n; i++) {
        if (a->key[i].n == 0)
            return wrong_arguments(r, vd_str_of("namespace"));
        ns->keys[ns->n] = a->key[i];
        ns->values[ns->n++] = a->v[i];
    }
    *out = (struct vd_value){.type = VD_VALUE_NAMESPACE, .ns = ns};
    return true;
}

static bool call_range(struct vd_run *r, const struct vd_args *a, struct vd_value *out)
{
    int64_t v[3] = {0, 0, 1};
    if (a->n < 1 || a->n > 3)
        return wrong_arguments(r, vd_str_of("range"));
    for (size_t i = 0; i < a->n; i++)
        if (!int_arg(r, a, i, "", 0, &v[a->n == 1 ? 1 : i]))
            return false;
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
        p[i] = vd_value_int(v[0] + (int64_t)i * v[2]);
    *out = vd_value_list(p, (size_t)n);
    return p != NULL;
}

static const struct {
    const char *name;
    bool (*fn)(struct vd_run *r, const struct vd_args *a, struct vd_value *out);
} functions[] = {{"raise_exception", call_raise}, {"namespace", call_namespace}, {"range", call_range}};

bool vd_call_function(struct vd_run *r, struct vd_str name, const struct vd_args *args, struct vd_value *out)
{
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
        if (vd_str_is(name, functions[i].name))
            return functions[i].fn(r, args, out);
    return unknown(r, "function", name);
}
