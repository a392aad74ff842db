/* What operators do to values: Python's rules. Strings are counted and cut by characters, as
 * Python does. */
#include "vd_template_impl.h"

#include "vd_unicode.h"

#include <inttypes.h>
#include <stdio.h>

const char *vd_value_type_name(enum vd_value_type t)
{
    static const char *const names[] = {
        "an undefined value", "none",     "a boolean", "an integer", "a float", "a string", "a list", "a map",
        "a namespace",        "the loop", "a macro",   "a function", "a method"};
    return names[t];
}

const struct vd_value *vd_value_get(const struct vd_value *map, struct vd_str key)
{
    for (size_t i = 0; i < map->list.n; i++)
        if (map->list.p[2 * i].type == VD_VALUE_STR && vd_str_eq(map->list.p[2 * i].s, key))
            return &map->list.p[2 * i + 1];
    return NULL;
}

static struct vd_value undefined(struct vd_str name)
{
    return (struct vd_value){.type = VD_VALUE_UNDEFINED, .s = name};
}

/* "x is undefined", or what type v has. */
static bool refuse(struct vd_run *r, const char *what, const struct vd_value *v)
{
    if (v->type == VD_VALUE_UNDEFINED)
        return vd_run_fail(r, VD_EFORMAT, "%.*s is undefined", (int)(v->s.n < 80 ? v->s.n : 80), v->s.p);
    return vd_run_fail(r, VD_EFORMAT, "%s is not possible with %s", what, vd_value_type_name(v->type));
}

bool vd_op_truth(const struct vd_value *v)
{
    switch (v->type) {
    case VD_VALUE_UNDEFINED:
    case VD_VALUE_NONE:
        return false;
    case VD_VALUE_BOOL:
        return v->b;
    case VD_VALUE_INT:
        return v->i != 0;
    case VD_VALUE_FLOAT:
        return v->f != 0;
    case VD_VALUE_STR:
        return v->s.n != 0;
    case VD_VALUE_LIST:
        return v->is_lazy || v->list.n != 0;
    case VD_VALUE_MAP:
        return v->list.n != 0;
    case VD_VALUE_NAMESPACE:
    case VD_VALUE_LOOP:
    case VD_VALUE_MACRO:
    case VD_VALUE_FUNCTION:
    case VD_VALUE_METHOD:
        break;
    }
    return true;
}

static bool equal_lists(struct vd_run *r, const struct vd_value *a, const struct vd_value *b, int depth,
                        bool *out)
{
    *out = a->list.n == b->list.n && a->is_tuple == b->is_tuple;
    for (size_t i = 0; *out && i < a->list.n; i++)
        if (!vd_op_equal(r, &a->list.p[i], &b->list.p[i], depth + 1, out))
            return false;
    return true;
}

static bool equal_maps(struct vd_run *r, const struct vd_value *a, const struct vd_value *b, int depth,
                       bool *out)
{
    *out = a->list.n == b->list.n;
    for (size_t i = 0; *out && i < a->list.n; i++) {
        const struct vd_value *other;
        if (!vd_op_find(r, b, &a->list.p[2 * i], &other))
            return false;
        *out = other != NULL;
        if (other && !vd_op_equal(r, &a->list.p[2 * i + 1], other, depth + 1, out))
            return false;
    }
    return true;
}

bool vd_op_equal(struct vd_run *r, const struct vd_value *a, const struct vd_value *b, int depth, bool *out)
{
    double x, y;
    if (depth > VD_TEMPLATE_DEPTH_MAX)
        return vd_run_fail(r, VD_ELIMIT, "values are nested deeper than %d", VD_TEMPLATE_DEPTH_MAX);
    if (!vd_run_charge(r, 1))
        return false;
    if (vd_number_as_float(a, &x) && vd_number_as_float(b, &y)) {
        *out = vd_number_order(a, b) == 0;
        return true;
    }
    *out = false;
    if (a->type != b->type)
        return true;
    switch (a->type) {
    case VD_VALUE_STR:
        *out = vd_str_eq(a->s, b->s);
        return vd_run_charge(r, a->s.n / 32);
    case VD_VALUE_LIST:
        return equal_lists(r, a, b, depth, out);
    case VD_VALUE_MAP:
        return equal_maps(r, a, b, depth, out);
    case VD_VALUE_NAMESPACE:
        *out = a->ns == b->ns;
        return true;
    case VD_VALUE_LOOP:
        *out = a->loop == b->loop;
        return true;
    case VD_VALUE_MACRO:
        *out = a->macro == b->macro;
        return true;
    case VD_VALUE_FUNCTION:
        *out = a->i == b->i;
        return true;
    case VD_VALUE_METHOD:
        *out = a->method == b->method;
        return true;
    case VD_VALUE_UNDEFINED:
    case VD_VALUE_NONE:
    case VD_VALUE_BOOL:
    case VD_VALUE_INT:
    case VD_VALUE_FLOAT:
        break;
    }
    *out = true;
    return true;
}

/* Lists are ordered by their first items that differ. */
static bool order_lists(struct vd_run *r, const struct vd_value *a, const struct vd_value *b, int depth,
                        int *out)
{
    bool equal = true;
    *out = (a->list.n > b->list.n) - (a->list.n < b->list.n);
    for (size_t i = 0; i < a->list.n && i < b->list.n; i++) {
        if (!vd_op_equal(r, &a->list.p[i], &b->list.p[i], depth, &equal))
            return false;
        if (!equal)
            return vd_op_order(r, &a->list.p[i], &b->list.p[i], depth + 1, out);
    }
    return true;
}

/* UTF-8 sorts as its code points do. */
bool vd_op_order(struct vd_run *r, const struct vd_value *a, const struct vd_value *b, int depth, int *out)
{
    double x, y;
    if (vd_number_as_float(a, &x) && vd_number_as_float(b, &y)) {
        *out = vd_number_order(a, b);
        return true;
    }
    if (a->type == VD_VALUE_LIST && b->type == VD_VALUE_LIST && a->is_tuple == b->is_tuple)
        return order_lists(r, a, b, depth, out);
    if (a->type != VD_VALUE_STR || b->type != VD_VALUE_STR)
        return refuse(r, "an order", a->type == VD_VALUE_STR || vd_number_as_float(a, &x) ? b : a);
    size_t n = a->s.n < b->s.n ? a->s.n : b->s.n;
    int c = n ? memcmp(a->s.p, b->s.p, n) : 0;
    *out = c < 0 ? -1 : c > 0 ? 1 : (a->s.n > b->s.n) - (a->s.n < b->s.n);
    return vd_run_charge(r, n / 32);
}

bool vd_op_find(struct vd_run *r, const struct vd_value *map, const struct vd_value *key,
                const struct vd_value **out)
{
    bool same = false;
    *out = NULL;
    if (key->type == VD_VALUE_STR) {
        *out = vd_value_get(map, key->s);
        return vd_run_charge(r, 1 + vd_run_find_steps(map->list.n, key->s));
    }
    if ((key->type == VD_VALUE_LIST && !key->is_tuple) || key->type == VD_VALUE_MAP)
        return refuse(r, "a key", key);
    for (size_t i = 0; i < map->list.n && !same; i++) {
        if (!vd_op_equal(r, &map->list.p[2 * i], key, 0, &same))
            return false;
        *out = same ? &map->list.p[2 * i + 1] : NULL;
    }
    return true;
}

bool vd_op_contains(struct vd_run *r, const struct vd_value *in, const struct vd_value *v, bool *out)
{
    *out = false;
    if (in->type == VD_VALUE_UNDEFINED)
        return true;
    if (in->type == VD_VALUE_STR && v->type == VD_VALUE_STR) {
        *out = v->s.n == 0 || memmem(in->s.p, in->s.n, v->s.p, v->s.n);
        return vd_run_charge(r, in->s.n / 32);
    }
    if (in->type == VD_VALUE_MAP) {
        const struct vd_value *found;
        bool ok = vd_op_find(r, in, v, &found);
        *out = ok && found;
        return ok;
    }
    if (in->type != VD_VALUE_LIST)
        return refuse(r, "in", in->type == VD_VALUE_STR ? v : in);
    for (size_t i = 0; !*out && i < in->list.n; i++)
        if (!vd_op_equal(r, &in->list.p[i], v, 0, out))
            return false;
    return true;
}

bool vd_op_compare(struct vd_run *r, enum vd_op op, const struct vd_value *a, const struct vd_value *b,
                   bool *out)
{
    int c = 0;
    if (op == VD_OP_EQ || op == VD_OP_NE) {
        bool ok = vd_op_equal(r, a, b, 0, out);
        *out = *out == (op == VD_OP_EQ);
        return ok;
    }
    if (op == VD_OP_IN || op == VD_OP_NOT_IN) {
        bool ok = vd_op_contains(r, b, a, out);
        *out = *out == (op == VD_OP_IN);
        return ok;
    }
    if (!vd_op_order(r, a, b, 0, &c))
        return false;
    if (c == 2) { /* NaN */
        *out = false;
        return true;
    }
    *out = op == VD_OP_LT ? c < 0 : op == VD_OP_LE ? c <= 0 : op == VD_OP_GT ? c > 0 : c >= 0;
    return true;
}

/* If `a` is the last thing in the arena it is made longer where it stands: nobody sees the bytes after its
 * end, and a chain of + then copies each part once. */
bool vd_op_concat(struct vd_run *r, struct vd_str a, struct vd_str b, struct vd_value *out)
{
    const char *top = (const char *)r->arena.base + r->arena.used_bytes;
    if (a.n && a.n <= r->arena.used_bytes && a.p + a.n == top &&
        b.n <= r->arena.size_bytes - r->arena.used_bytes) {
        memmove(r->arena.base + r->arena.used_bytes, b.n ? b.p : "", b.n);
        r->arena.used_bytes += b.n;
        *out = vd_value_str(a.p, a.n + b.n);
        return vd_run_charge(r, b.n / 32);
    }
    char *p = vd_run_alloc(r, a.n + b.n);
    if (!p)
        return false;
    memcpy(p, a.n ? a.p : "", a.n);
    memcpy(p + a.n, b.n ? b.p : "", b.n);
    *out = vd_value_str(p, a.n + b.n);
    return true;
}

static bool repeat(struct vd_run *r, const struct vd_value *v, int64_t times, struct vd_value *out)
{
    bool is_str = v->type == VD_VALUE_STR;
    size_t one = is_str ? v->s.n : v->list.n * sizeof *v->list.p, total;
    times = times < 0 ? 0 : times;
    if (__builtin_mul_overflow(one, (size_t)times, &total))
        total = SIZE_MAX / 2;
    char *p = vd_run_alloc(r, total);
    if (!p)
        return false;
    for (size_t at = 0; at < total; at += one)
        memcpy(p + at, is_str ? (const void *)v->s.p : v->list.p, one);
    *out = *v;
    if (is_str)
        out->s = (struct vd_str){p, total};
    else
        *out = (struct vd_value){.type = VD_VALUE_LIST,
                                 .is_tuple = v->is_tuple,
                                 .list = {(struct vd_value *)(void *)p, v->list.n * (size_t)times}};
    return true;
}

static bool add_lists(struct vd_run *r, const struct vd_value *a, const struct vd_value *b,
                      struct vd_value *out)
{
    struct vd_value *p = vd_run_alloc(r, (a->list.n + b->list.n + 1) * sizeof *p);
    if (!p)
        return false;
    if (a->list.n)
        memcpy(p, a->list.p, a->list.n * sizeof *p);
    if (b->list.n)
        memcpy(p + a->list.n, b->list.p, b->list.n * sizeof *p);
    *out = vd_value_list(p, a->list.n + b->list.n);
    out->is_tuple = a->is_tuple;
    return true;
}

/* Escapes the side of a + that is no markup, if the other is. */
static bool add_strings(struct vd_run *r, const struct vd_value *a, const struct vd_value *b,
                        struct vd_value *out)
{
    struct vd_value left = *a, right = *b;
    if (a->is_markup != b->is_markup &&
        !vd_string_escape(r, a->is_markup ? b->s : a->s, a->is_markup ? &right : &left))
        return false;
    if (!vd_op_concat(r, left.s, right.s, out))
        return false;
    out->is_markup = a->is_markup || b->is_markup;
    return true;
}

bool vd_op_binary(struct vd_run *r, enum vd_op op, const struct vd_value *a, const struct vd_value *b,
                  struct vd_value *out)
{
    int64_t x, y;
    double f;
    if (op == VD_OP_CONCAT) {
        struct vd_str s, t;
        return vd_op_str(r, a, &s) && vd_op_str(r, b, &t) && vd_op_concat(r, s, t, out);
    }
    if (vd_number_as_float(a, &f) && vd_number_as_float(b, &f))
        return vd_op_number(r, op, a, b, out);
    if (op == VD_OP_ADD && a->type == VD_VALUE_STR && b->type == VD_VALUE_STR)
        return add_strings(r, a, b, out);
    bool a_list = a->type == VD_VALUE_LIST && !a->is_lazy, b_list = b->type == VD_VALUE_LIST && !b->is_lazy;
    if (op == VD_OP_ADD && a_list && b_list && a->is_tuple == b->is_tuple)
        return add_lists(r, a, b, out);
    if (op == VD_OP_MUL && vd_number_as_int(b, &y) && (a->type == VD_VALUE_STR || a_list))
        return repeat(r, a, y, out);
    if (op == VD_OP_MUL && vd_number_as_int(a, &x) && (b->type == VD_VALUE_STR || b_list))
        return repeat(r, b, x, out);
    if (op == VD_OP_MOD && a->type == VD_VALUE_STR)
        return vd_format_percent(r, a->s, b, out);
    if (a->type == VD_VALUE_UNDEFINED || b->type == VD_VALUE_UNDEFINED)
        return refuse(r, "", a->type == VD_VALUE_UNDEFINED ? a : b);
    return vd_run_fail(r, VD_EFORMAT, "this operator is not possible between %s and %s",
                       vd_value_type_name(a->type), vd_value_type_name(b->type));
}

static struct vd_value loop_attr(const struct vd_loop *l, struct vd_str name)
{
    const struct {
        const char *name;
        struct vd_value v;
    } all[] = {
        {"index", vd_value_int(l->index0 + 1)},
        {"index0", vd_value_int(l->index0)},
        {"first", vd_value_bool(l->index0 == 0)},
        {"last", vd_value_bool(l->index0 + 1 == l->n)},
        {"length", vd_value_int(l->n)},
        {"revindex", vd_value_int(l->n - l->index0)},
        {"revindex0", vd_value_int(l->n - l->index0 - 1)},
        {"depth", vd_value_int((int64_t)l->depth0 + 1)},
        {"depth0", vd_value_int(l->depth0)},
        {"previtem", l->index0 > 0 ? l->items[l->index0 - 1] : undefined(vd_str_of("loop.previtem"))},
        {"nextitem", l->index0 + 1 < l->n ? l->items[l->index0 + 1] : undefined(vd_str_of("loop.nextitem"))},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (vd_str_is(name, all[i].name))
            return all[i].v;
    return undefined(name);
}

/* Whether " all of them " has the word. */
static bool has_word(const char *all, struct vd_str name)
{
    char word[16];
    if (name.n == 0 || name.n > 12 || memchr(name.p, ' ', name.n))
        return false;
    snprintf(word, sizeof word, " %.*s ", (int)name.n, name.p);
    return strstr(all, word) != NULL;
}

/* Jinja's sandbox hides what would change a map or list; the methods hide a map's items of the same name. */
static bool is_hidden(const struct vd_value *v, struct vd_str name)
{
    return v->type == VD_VALUE_MAP && has_word(" clear pop popitem setdefault update ", name);
}

/* The methods that a value has in Python, those that are not supported here too: a map's item of the same
 * name is hidden by them from .name. */
static bool is_method(const struct vd_value *v, struct vd_str name)
{
    static const char of_strings[] =
        " capitalize casefold center count encode endswith expandtabs find format format_map index isalnum "
        "isalpha isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle "
        "isupper "
        "join ljust lower lstrip maketrans partition removeprefix removesuffix replace rfind rindex rjust "
        "rpartition rsplit rstrip split splitlines startswith strip swapcase title translate upper zfill ";
    static const char of_maps[] = " copy fromkeys get items keys values ", of_lists[] = " copy count index ",
                      of_tuples[] = " count index ", of_loops[] = " cycle changed ";
    const char *all = v->type == VD_VALUE_STR                  ? of_strings
                      : v->type == VD_VALUE_MAP                ? of_maps
                      : v->type == VD_VALUE_LOOP               ? of_loops
                      : v->type != VD_VALUE_LIST || v->is_lazy ? ""
                      : v->is_tuple                            ? of_tuples
                                                               : of_lists;
    return has_word(all, name);
}

static bool make_method(struct vd_run *r, const struct vd_value *v, struct vd_str name, struct vd_value *out)
{
    struct vd_method *m = vd_run_alloc(r, sizeof *m);
    if (!m)
        return false;
    *m = (struct vd_method){*v, name};
    *out = (struct vd_value){.type = VD_VALUE_METHOD, .method = m};
    return true;
}

bool vd_op_attr(struct vd_run *r, const struct vd_value *v, struct vd_str name, struct vd_value *out)
{
    const struct vd_value *found;
    *out = undefined(name);
    if (v->type == VD_VALUE_UNDEFINED)
        return refuse(r, "", v);
    if (is_hidden(v, name))
        return true;
    if (is_method(v, name))
        return make_method(r, v, name, out);
    if (v->type == VD_VALUE_MAP && (found = vd_value_get(v, name)))
        *out = *found;
    if (v->type == VD_VALUE_LOOP)
        *out = loop_attr(v->loop, name);
    if (v->type == VD_VALUE_MACRO && vd_str_is(name, "name"))
        *out = vd_value_str(v->macro->node->s.p, v->macro->node->s.n);
    for (size_t i = 0; v->type == VD_VALUE_NAMESPACE && i < v->ns->n; i++)
        if (vd_str_eq(v->ns->keys[i], name))
            *out = v->ns->values[i];
    return vd_run_charge(r, v->type == VD_VALUE_MAP ? vd_run_find_steps(v->list.n, name) : 1);
}

/* The character at index i of a string; its length, 0 if there are not so many. */
static size_t char_at(struct vd_str s, size_t i, size_t *at)
{
    uint32_t cpt;
    size_t len = 0;
    for (*at = 0; *at < s.n; *at += len, i--) {
        len = vd_utf8_read((const uint8_t *)s.p + *at, s.n - *at, &cpt);
        if (i == 0)
            return len;
    }
    return 0;
}

size_t vd_string_count(struct vd_str s)
{
    uint32_t cpt;
    size_t n = 0;
    for (size_t at = 0; at < s.n; n++)
        at += vd_utf8_read((const uint8_t *)s.p + at, s.n - at, &cpt);
    return n;
}

bool vd_op_item(struct vd_run *r, const struct vd_value *v, const struct vd_value *key, struct vd_value *out)
{
    int64_t i;
    double f;
    *out = undefined(key->type == VD_VALUE_STR ? key->s : vd_str_of("the item"));
    if (v->type == VD_VALUE_UNDEFINED)
        return refuse(r, "", v);
    if (key->type == VD_VALUE_STR) {
        const struct vd_value *item = v->type == VD_VALUE_MAP ? vd_value_get(v, key->s) : NULL;
        if (item)
            *out = *item;
        else if (v->type == VD_VALUE_LOOP || v->type == VD_VALUE_NAMESPACE || is_method(v, key->s))
            return vd_op_attr(r, v, key->s, out);
        return vd_run_charge(r, v->type == VD_VALUE_MAP ? vd_run_find_steps(v->list.n, key->s) : 1);
    }
    const struct vd_value *found = NULL;
    if (v->type == VD_VALUE_MAP && (vd_number_as_float(key, &f) || key->type == VD_VALUE_NONE)) {
        if (!vd_op_find(r, v, key, &found))
            return false;
        *out = found ? *found : *out;
        return true;
    }
    if (!vd_number_as_int(key, &i) || (v->type != VD_VALUE_LIST && v->type != VD_VALUE_STR) || v->is_lazy)
        return true;
    bool is_str = v->type == VD_VALUE_STR;
    if (!vd_run_charge(r, is_str ? v->s.n / 16 : 1))
        return false;
    int64_t n = (int64_t)(is_str ? vd_string_count(v->s) : v->list.n);
    i += i < 0 ? n : 0;
    if (i < 0 || i >= n)
        return true;
    size_t at, len;
    if (!is_str)
        *out = v->list.p[i];
    else if ((len = char_at(v->s, (size_t)i, &at)) > 0)
        *out = vd_value_str(v->s.p + at, len);
    return true;
}

/* One bound of a slice, brought into lo .. hi as Python does. */
static bool bound(struct vd_run *r, const struct vd_value *v, int64_t n, int64_t lo, int64_t hi,
                  int64_t missing, int64_t *out)
{
    *out = missing;
    if (v->type == VD_VALUE_NONE)
        return true;
    if (!vd_number_as_int(v, out))
        return refuse(r, "a slice", v);
    if (*out < 0)
        *out = *out < -n ? lo : *out + n;
    *out = *out < lo ? lo : *out > hi ? hi : *out;
    return true;
}

/* The characters of a string as a list of strings. */
static bool characters(struct vd_run *r, struct vd_str s, struct vd_value *out)
{
    size_t n = vd_string_count(s);
    struct vd_value *p = vd_run_alloc(r, (n + 1) * sizeof *p);
    if (!p)
        return false;
    uint32_t cpt;
    for (size_t at = 0, i = 0, len; at < s.n; at += len) {
        len = vd_utf8_read((const uint8_t *)s.p + at, s.n - at, &cpt);
        p[i++] = vd_value_str(s.p + at, len);
    }
    *out = vd_value_list(p, n);
    return true;
}

/* The characters first .. first + n of a string. */
static struct vd_value substring(struct vd_str s, size_t first, size_t n)
{
    size_t from, to;
    char_at(s, first, &from);
    struct vd_str rest = {s.p + from, s.n - from};
    char_at(rest, n, &to);
    return vd_value_str(rest.p, to);
}

static bool join_characters(struct vd_run *r, const struct vd_value *list, struct vd_value *out)
{
    size_t n = 0;
    for (size_t i = 0; i < list->list.n; i++)
        n += list->list.p[i].s.n;
    char *p = vd_run_alloc(r, n);
    if (!p)
        return false;
    *out = vd_value_str(p, n);
    for (size_t i = 0; i < list->list.n; i++) {
        memcpy(p, list->list.p[i].s.p, list->list.p[i].s.n);
        p += list->list.p[i].s.n;
    }
    return true;
}

bool vd_op_slice(struct vd_run *r, const struct vd_value *v, const struct vd_value bounds[3],
                 struct vd_value *out)
{
    bool is_str = v->type == VD_VALUE_STR;
    if (!is_str && (v->type != VD_VALUE_LIST || v->is_lazy))
        return refuse(r, "a slice", v);
    int64_t n = (int64_t)(is_str ? vd_string_count(v->s) : v->list.n), step = 1, start, stop;
    if (bounds[2].type != VD_VALUE_NONE && (!vd_number_as_int(&bounds[2], &step) || step == 0))
        return vd_run_fail(r, VD_EFORMAT, "a slice's step must be an integer other than 0");
    bool down = step < 0;
    if (!vd_run_charge(r, is_str ? v->s.n / 16 : 1) ||
        !bound(r, &bounds[0], n, down ? -1 : 0, down ? n - 1 : n, down ? n - 1 : 0, &start) ||
        !bound(r, &bounds[1], n, down ? -1 : 0, down ? n - 1 : n, down ? -1 : n, &stop))
        return false;
    if (is_str && step == 1) {
        *out = substring(v->s, (size_t)start, stop > start ? (size_t)(stop - start) : 0);
        return true;
    }
    struct vd_value all = *v;
    if (is_str && !characters(r, v->s, &all))
        return false;
    struct vd_value *p = vd_run_alloc(r, (all.list.n + 1) * sizeof *p);
    if (!p)
        return false;
    size_t k = 0;
    for (int64_t i = start; down ? i > stop : i < stop;) {
        p[k++] = all.list.p[i];
        if (__builtin_add_overflow(i, step, &i))
            break;
    }
    all.list.p = p;
    all.list.n = k;
    *out = all;
    return !is_str || join_characters(r, &all, out);
}

bool vd_op_length(struct vd_run *r, const struct vd_value *v, int64_t *out)
{
    *out = 0;
    if (v->type == VD_VALUE_STR)
        *out = (int64_t)vd_string_count(v->s);
    else if ((v->type == VD_VALUE_LIST && !v->is_lazy) || v->type == VD_VALUE_MAP)
        *out = (int64_t)v->list.n;
    else if (v->type != VD_VALUE_UNDEFINED)
        return refuse(r, "a length", v);
    return vd_run_charge(r, v->type == VD_VALUE_STR ? v->s.n / 32 : 1);
}

bool vd_op_iterate(struct vd_run *r, const struct vd_value *v, struct vd_value *out)
{
    *out = *v;
    if (v->type == VD_VALUE_LIST)
        return true;
    if (v->type == VD_VALUE_STR)
        return characters(r, v->s, out);
    if (v->type == VD_VALUE_UNDEFINED) {
        *out = vd_value_list(NULL, 0);
        return true;
    }
    if (v->type != VD_VALUE_MAP)
        return refuse(r, "a loop", v);
    struct vd_value *keys = vd_run_alloc(r, (v->list.n + 1) * sizeof *keys);
    for (size_t i = 0; keys && i < v->list.n; i++)
        keys[i] = v->list.p[2 * i];
    *out = vd_value_list(keys, v->list.n);
    return keys != NULL;
}
