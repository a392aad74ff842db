/* Filters on lists: those that take items out, bring them in order, or call another filter or a test on each
 * of them. What Python makes while it is read (a generator) is a list here that has no length and is always
 * true; reading it twice gives the items twice. */
#include "vd_template_impl.h"

#include <stdio.h>

typedef bool list_fn(struct vd_run *r, const struct vd_value *list, const struct vd_args *a,
                     struct vd_value *out);

/* item.a.b, item.0: the path of an `attribute` argument. */
static bool attribute(struct vd_run *r, const struct vd_value *item, const struct vd_value *path,
                      struct vd_value *out)
{
    struct vd_str rest = path->s;
    *out = *item;
    if (path->type == VD_VALUE_INT)
        return vd_op_item(r, item, path, out);
    if (path->type != VD_VALUE_STR)
        return vd_run_fail(r, VD_EFORMAT, "the argument attribute must be a name");
    for (bool more = true; more;) {
        const char *dot = rest.n ? memchr(rest.p, '.', rest.n) : NULL;
        size_t n = dot ? (size_t)(dot - rest.p) : rest.n;
        struct vd_value key = vd_value_str(rest.p, n), of = *out;
        int64_t i;
        bool large;
        if (n > 0 && rest.p[0] >= '0' && rest.p[0] <= '9' && vd_number_read_int(key.s, &i, &large))
            key = vd_value_int(i);
        if (!vd_run_charge(r, 1) || !vd_op_item(r, &of, &key, out))
            return false;
        more = dot != NULL;
        rest = (struct vd_str){rest.p + n + more, rest.n - n - more};
    }
    return true;
}

/* The arguments from the first on, for the filter or test that is called on each item. */
static void shift(const struct vd_args *a, size_t n, struct vd_args *out)
{
    out->n = a->n > n ? a->n - n : 0;
    for (size_t i = 0; i < out->n; i++) {
        out->v[i] = a->v[i + n];
        out->key[i] = a->key[i + n];
    }
}

static bool lazy(struct vd_value *items, size_t n, struct vd_value *out)
{
    *out = vd_value_list(items, n);
    out->is_lazy = true;
    return true;
}

/* ---- map, select, reject ---- */

static bool map_item(struct vd_run *r, const struct vd_value *item, const struct vd_value *path,
                     const struct vd_args *a, const struct vd_args *rest, struct vd_value *out)
{
    if (!path)
        return vd_call_filter(r, a->v[0].s, item, rest, out);
    const struct vd_value *missing = vd_args_find(a, VD_ARGS_MAX, "default");
    if (!attribute(r, item, path, out))
        return false;
    if (out->type == VD_VALUE_UNDEFINED && missing)
        *out = *missing;
    return true;
}

/* map('upper'), map(attribute='a.b', default=c) */
static bool l_map(struct vd_run *r, const struct vd_value *list, const struct vd_args *a,
                  struct vd_value *out)
{
    const struct vd_value *path = vd_args_find(a, VD_ARGS_MAX, "attribute");
    struct vd_args rest;
    if (!path && (a->n == 0 || a->key[0].n || a->v[0].type != VD_VALUE_STR))
        return vd_run_fail(r, VD_EFORMAT, "map needs a filter's name or attribute=");
    struct vd_value *items = vd_run_alloc(r, (list->list.n + 1) * sizeof *items);
    if (!items)
        return false;
    shift(a, 1, &rest);
    for (size_t i = 0; i < list->list.n; i++)
        if (!vd_run_charge(r, 1) || !map_item(r, &list->list.p[i], path, a, &rest, &items[i]))
            return false;
    return lazy(items, list->list.n, out);
}

/* The items for which a test holds, or does not; with_attribute: the test is of an attribute of the item. */
static bool choose(struct vd_run *r, const struct vd_value *list, const struct vd_args *a,
                   bool with_attribute, bool wanted, struct vd_value *out)
{
    struct vd_args rest;
    size_t n = 0, at = with_attribute;
    if (a->n < at || (a->n > at && (a->key[at].n || a->v[at].type != VD_VALUE_STR)))
        return vd_run_fail(r, VD_EFORMAT, "this filter needs %sa test's name",
                           with_attribute ? "an attribute, and then " : "");
    struct vd_value *items = vd_run_alloc(r, (list->list.n + 1) * sizeof *items), v;
    if (!items)
        return false;
    shift(a, at + 1, &rest);
    for (size_t i = 0; i < list->list.n; i++) {
        bool holds;
        v = list->list.p[i];
        if (!vd_run_charge(r, 1) || (with_attribute && !attribute(r, &list->list.p[i], &a->v[0], &v)))
            return false;
        holds = vd_op_truth(&v);
        if (a->n > at && !vd_call_test(r, a->v[at].s, &v, &rest, &holds))
            return false;
        if (holds == wanted)
            items[n++] = list->list.p[i];
    }
    return lazy(items, n, out);
}

static bool l_select(struct vd_run *r, const struct vd_value *list, const struct vd_args *a,
                     struct vd_value *out)
{
    return choose(r, list, a, false, true, out);
}
static bool l_reject(struct vd_run *r, const struct vd_value *list, const struct vd_args *a,
                     struct vd_value *out)
{
    return choose(r, list, a, false, false, out);
}
static bool l_selectattr(struct vd_run *r, const struct vd_value *list, const struct vd_args *a,
                         struct vd_value *out)
{
    return choose(r, list, a, true, true, out);
}
static bool l_rejectattr(struct vd_run *r, const struct vd_value *list, const struct vd_args *a,
                         struct vd_value *out)
{
    return choose(r, list, a, true, false, out);
}

/* ---- order ---- */

/* An item and what it is ordered by. */
struct keyed {
    struct vd_value key, item;
};

/* By what an item is compared: its attribute, in lower case if it is a string and case does not count. */
static bool key_of(struct vd_run *r, const struct vd_value *item, const struct vd_value *path, bool with_case,
                   struct vd_value *out)
{
    *out = *item;
    if (path && path->type != VD_VALUE_NONE && !attribute(r, item, path, out))
        return false;
    return with_case || out->type != VD_VALUE_STR || vd_string_case(r, out->s, VD_CASE_LOWER, out);
}

static bool make_keyed(struct vd_run *r, const struct vd_value *list, const struct vd_value *path,
                       bool with_case, struct keyed **out)
{
    struct keyed *k = *out = vd_run_alloc(r, (list->list.n + 1) * sizeof *k);
    for (size_t i = 0; k && i < list->list.n; i++) {
        k[i].item = list->list.p[i];
        if (!key_of(r, &k[i].item, path, with_case, &k[i].key))
            return false;
    }
    return k != NULL;
}

/* Merges the sorted runs k[0, half) and k[half, n) into `to`; the first of two equal items stays first. */
static bool merge(struct vd_run *r, const struct keyed *k, size_t half, size_t n, bool down, struct keyed *to)
{
    size_t a = 0, b = half;
    for (size_t i = 0; i < n; i++) {
        int c = -1;
        if (a < half && b < n) {
            if (!vd_run_charge(r, 1) || !vd_op_order(r, &k[b].key, &k[a].key, 0, &c))
                return false;
            c = down ? -c : c;
        } else {
            c = a < half ? 0 : -1;
        }
        to[i] = c < 0 ? k[b++] : k[a++];
    }
    return true;
}

/* Sorts by merging runs of 1, 2, 4 ... items. */
static bool sort(struct vd_run *r, struct keyed *k, size_t n, bool down)
{
    struct keyed *other = vd_run_alloc(r, (n + 1) * sizeof *other);
    for (size_t run = 1; other && run < n; run *= 2) {
        for (size_t at = 0; at < n; at += 2 * run) {
            size_t left = n - at, both = left < 2 * run ? left : 2 * run;
            if (!merge(r, k + at, run < both ? run : both, both, down, other + at))
                return false;
        }
        memcpy(k, other, n * sizeof *k);
        if (!vd_run_charge(r, n))
            return false;
    }
    return other != NULL;
}

/* The items without their keys. */
static bool unkey(struct vd_run *r, const struct keyed *k, size_t n, struct vd_value *out)
{
    struct vd_value *items = vd_run_alloc(r, (n + 1) * sizeof *items);
    for (size_t i = 0; items && i < n; i++)
        items[i] = k[i].item;
    *out = vd_value_list(items, n);
    return items != NULL;
}

/* sort(reverse, case_sensitive, attribute) */
static bool l_sort(struct vd_run *r, const struct vd_value *list, const struct vd_args *a,
                   struct vd_value *out)
{
    struct keyed *k;
    return make_keyed(r, list, vd_args_find(a, 2, "attribute"), vd_args_truth(a, 1, "case_sensitive", false),
                      &k) &&
           sort(r, k, list->list.n, vd_args_truth(a, 0, "reverse", false)) && unkey(r, k, list->list.n, out);
}

/* unique(case_sensitive, attribute): the first of those that are equal. */
static bool l_unique(struct vd_run *r, const struct vd_value *list, const struct vd_args *a,
                     struct vd_value *out)
{
    struct keyed *k;
    size_t n = 0;
    if (!make_keyed(r, list, vd_args_find(a, 1, "attribute"), vd_args_truth(a, 0, "case_sensitive", false),
                    &k))
        return false;
    for (size_t i = 0; i < list->list.n; i++) {
        bool same = false;
        for (size_t j = 0; j < n && !same; j++)
            if (!vd_op_equal(r, &k[i].key, &k[j].key, 0, &same))
                return false;
        if (!same)
            k[n++] = k[i];
    }
    bool ok = unkey(r, k, n, out);
    out->is_lazy = true;
    return ok;
}

/* min and max(case_sensitive, attribute): the first of those that are equal. */
static bool extreme(struct vd_run *r, const struct vd_value *list, const struct vd_args *a, int sign,
                    struct vd_value *out)
{
    struct keyed *k;
    size_t best = 0;
    int c;
    *out = (struct vd_value){.type = VD_VALUE_UNDEFINED, .s = vd_str_of("an item of an empty list")};
    if (list->list.n == 0)
        return true;
    if (!make_keyed(r, list, vd_args_find(a, 1, "attribute"), vd_args_truth(a, 0, "case_sensitive", false),
                    &k))
        return false;
    for (size_t i = 1; i < list->list.n; i++) {
        if (!vd_run_charge(r, 1) || !vd_op_order(r, &k[i].key, &k[best].key, 0, &c))
            return false;
        best = c * sign > 0 && c != 2 ? i : best;
    }
    *out = k[best].item;
    return true;
}

static bool l_min(struct vd_run *r, const struct vd_value *list, const struct vd_args *a,
                  struct vd_value *out)
{
    return extreme(r, list, a, -1, out);
}
static bool l_max(struct vd_run *r, const struct vd_value *list, const struct vd_args *a,
                  struct vd_value *out)
{
    return extreme(r, list, a, 1, out);
}

/* sum(attribute, start) */
static bool l_sum(struct vd_run *r, const struct vd_value *list, const struct vd_args *a,
                  struct vd_value *out)
{
    const struct vd_value *path = vd_args_find(a, 0, "attribute"), *start = vd_args_find(a, 1, "start");
    struct vd_value v;
    *out = start ? *start : vd_value_int(0);
    for (size_t i = 0; i < list->list.n; i++) {
        struct vd_value before = *out;
        if (!key_of(r, &list->list.p[i], path, true, &v) || !vd_op_binary(r, VD_OP_ADD, &before, &v, out))
            return false;
    }
    return true;
}

static bool l_reverse(struct vd_run *r, const struct vd_value *list, const struct vd_args *a,
                      struct vd_value *out)
{
    struct vd_value *items = vd_run_alloc(r, (list->list.n + 1) * sizeof *items);
    (void)a;
    for (size_t i = 0; items && i < list->list.n; i++)
        items[i] = list->list.p[list->list.n - 1 - i];
    return items && lazy(items, list->list.n, out);
}

/* batch(linecount, fill_with): lists of so many items. */
static bool l_batch(struct vd_run *r, const struct vd_value *list, const struct vd_args *a,
                    struct vd_value *out)
{
    const struct vd_value *fill = vd_args_find(a, 1, "fill_with");
    int64_t per;
    if (!vd_args_int(r, a, 0, "linecount", 0, &per))
        return false;
    if (per < 1 || per > 1 << 20)
        return vd_run_fail(r, VD_EFORMAT, "batch needs a number of items from 1 on");
    size_t n = list->list.n, rows = (n + (size_t)per - 1) / (size_t)per;
    bool fills = fill && fill->type != VD_VALUE_NONE;
    struct vd_value *all = vd_run_alloc(r, (rows * (size_t)(per + 1) + 1) * sizeof *all), *items = all + rows;
    if (!all)
        return false;
    for (size_t i = 0; i < rows * (size_t)per; i++)
        items[i] = i < n ? list->list.p[i] : fills ? *fill : vd_value_none();
    for (size_t i = 0; i < rows; i++) {
        size_t left = n - i * (size_t)per, count = fills || left > (size_t)per ? (size_t)per : left;
        all[i] = vd_value_list(items + i * (size_t)per, count);
    }
    return lazy(all, rows, out);
}

/* ---- dictsort ---- */

/* dictsort(case_sensitive, by, reverse): pairs in the order of keys or values. */
static bool dictsort(struct vd_run *r, const struct vd_value *map, const struct vd_args *a,
                     struct vd_value *out)
{
    struct vd_str by;
    if (!vd_args_str(r, a, 1, "by", "key", &by))
        return false;
    if (map->type != VD_VALUE_MAP || (!vd_str_is(by, "key") && !vd_str_is(by, "value")))
        return vd_run_fail(r, VD_EFORMAT, "dictsort needs a map, and by \"key\" or \"value\"");
    size_t n = map->list.n, at = vd_str_is(by, "value");
    bool with_case = vd_args_truth(a, 0, "case_sensitive", false);
    struct keyed *k = vd_run_alloc(r, (n + 1) * sizeof *k);
    if (!k)
        return false;
    for (size_t i = 0; i < n; i++) {
        k[i].item = vd_value_list(&map->list.p[2 * i], 2);
        k[i].item.is_tuple = true;
        if (!key_of(r, &map->list.p[2 * i + at], NULL, with_case, &k[i].key))
            return false;
    }
    return sort(r, k, n, vd_args_truth(a, 2, "reverse", false)) && unkey(r, k, n, out);
}

enum { N_PICKING = 5 }; /* the first of the table: map, select and their like */

static const struct {
    const char *name;
    list_fn *fn;
    size_t args_max;
} filters[] = {
    {"map", l_map, VD_ARGS_MAX},
    {"select", l_select, VD_ARGS_MAX},
    {"reject", l_reject, VD_ARGS_MAX},
    {"selectattr", l_selectattr, VD_ARGS_MAX},
    {"rejectattr", l_rejectattr, VD_ARGS_MAX},
    {"sort", l_sort, 3},
    {"unique", l_unique, 2},
    {"min", l_min, 2},
    {"max", l_max, 2},
    {"sum", l_sum, 2},
    {"reverse", l_reverse, 0},
    {"batch", l_batch, 2},
};

/* A string is reversed as a string. */
static bool reverse_string(struct vd_run *r, const struct vd_value *v, struct vd_value *out)
{
    const struct vd_value bounds[3] = {vd_value_none(), vd_value_none(), vd_value_int(-1)};
    return vd_op_slice(r, v, bounds, out);
}

bool vd_list_filter(struct vd_run *r, struct vd_str name, const struct vd_value *v, const struct vd_args *a,
                    struct vd_value *out, bool *found)
{
    struct vd_value items;
    *found = vd_str_is(name, "dictsort");
    if (*found)
        return !r || dictsort(r, v, a, out);
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++) {
        if (!vd_str_is(name, filters[i].name))
            continue;
        *found = true;
        if (!r) /* only asked for */
            return true;
        if (a->n > filters[i].args_max)
            return vd_args_wrong(r, name);
        if (v->type == VD_VALUE_STR && filters[i].fn == l_reverse)
            return reverse_string(r, v, out);
        if (i < N_PICKING && !vd_op_truth(v)) /* also of what cannot be looped over */
            return lazy(NULL, 0, out);
        return vd_op_iterate(r, v, &items) && filters[i].fn(r, &items, a, out);
    }
    return true;
}
