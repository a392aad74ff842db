/* Values as text: Python's str() and repr(), and JSON as Python's json.dumps writes it (ensure_ascii off). A
 * writer first counts and then fills, by the same code, so that the memory is exactly what is needed. */
#include "vd_template_text.h"

#include "vd_unicode.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

struct writer {
    struct vd_run *r;
    char *p; /* NULL while counting */
    size_t n;
    const struct vd_json_style *json; /* NULL: Python's repr */
};

static void put(struct writer *w, const char *p, size_t n)
{
    if (w->p && n)
        memcpy(w->p + w->n, p, n);
    w->n += n;
}

static void put_text(struct writer *w, const char *text)
{
    put(w, text, strlen(text));
}

/* \uXXXX, two of them beyond U+FFFF. */
static void put_ascii(struct writer *w, uint32_t c)
{
    char text[16];
    if (c > 0xFFFF) {
        put_ascii(w, 0xD7C0 + (c >> 10));
        c = 0xDC00 | (c & 0x3FF);
    }
    put(w, text, (size_t)snprintf(text, sizeof text, "\\u%04x", c & 0xFFFF));
}

static void put_json_string(struct writer *w, struct vd_str s)
{
    static const char escapes[][2] = {{'"', '"'},  {'\\', '\\'}, {'\n', 'n'}, {'\r', 'r'},
                                      {'\t', 't'}, {'\b', 'b'},  {'\f', 'f'}};
    put_text(w, "\"");
    for (size_t i = 0, len = 1; i < s.n; i += len) {
        uint32_t cpt = 0;
        len = w->json->ascii ? vd_utf8_read((const uint8_t *)s.p + i, s.n - i, &cpt) : 1;
        char c = s.p[i], text[8] = {'\\', 0};
        for (size_t k = 0; k < sizeof escapes / sizeof escapes[0]; k++)
            if (c == escapes[k][0])
                text[1] = escapes[k][1];
        if (text[1])
            put(w, text, 2);
        else if ((uint8_t)c < 0x20)
            put_ascii(w, (uint8_t)c);
        else if (cpt >= 0x7f)
            put_ascii(w, cpt);
        else
            put(w, &c, 1);
    }
    put_text(w, "\"");
}

/* Python prefers single quotes; what str.isprintable refuses is escaped. */
static void put_repr_string(struct writer *w, struct vd_str s)
{
    bool single = s.n && memchr(s.p, '\'', s.n), is_double = s.n && memchr(s.p, '"', s.n);
    char quote = single && !is_double ? '"' : '\'', text[12];
    put(w, &quote, 1);
    for (size_t i = 0, len; i < s.n; i += len) {
        uint32_t c;
        len = vd_utf8_read((const uint8_t *)s.p + i, s.n - i, &c);
        uint32_t category = vd_unicode_flags(c) & VD_UFLAG_CATEGORY;
        bool hidden = category == VD_UCAT_OTHER || category == VD_UCAT_NONE ||
                      (category == VD_UCAT_SEPARATOR && c != ' ');
        if (c == (uint8_t)quote || c == '\\')
            put(w, text, (size_t)snprintf(text, sizeof text, "\\%c", (char)c));
        else if (c == '\n' || c == '\r' || c == '\t')
            put_text(w, c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
        else if (!hidden)
            put(w, s.p + i, len);
        else
            put(w, text,
                (size_t)snprintf(text, sizeof text,
                                 c < 0x100     ? "\\x%02x"
                                 : c < 0x10000 ? "\\u%04x"
                                               : "\\U%08x",
                                 c));
    }
    put(w, &quote, 1);
}

static bool put_value(struct writer *w, const struct vd_value *v, int depth);

static bool put_line(struct writer *w, int depth)
{
    if (!w->json || !w->json->lines)
        return true;
    put_text(w, "\n");
    for (int i = 0; i < depth; i++)
        put(w, w->json->indent.p, w->json->indent.n);
    return vd_run_charge(w->r, (uint64_t)depth * w->json->indent.n / 32);
}

static int by_key(const void *a, const void *b)
{
    const struct vd_value *x = *(const struct vd_value *const *)a, *y = *(const struct vd_value *const *)b;
    size_t n = x->s.n < y->s.n ? x->s.n : y->s.n;
    int c = n ? memcmp(x->s.p, y->s.p, n) : 0;
    return c ? c : (x->s.n > y->s.n) - (x->s.n < y->s.n);
}

/* The pairs of a map in the order of their keys, or NULL after an error. */
static const struct vd_value **sorted(struct writer *w, const struct vd_value *map)
{
    const struct vd_value **p = vd_run_alloc(w->r, (map->list.n + 1) * sizeof *p);
    uint64_t key_bytes = 0;
    for (size_t i = 0; p && i < map->list.n; i++) {
        p[i] = &map->list.p[2 * i];
        if (p[i]->type != VD_VALUE_STR) {
            vd_run_fail(w->r, VD_EUNSUPPORTED, "tojson: sort_keys is for strings as keys");
            return NULL;
        }
        key_bytes += p[i]->s.n;
    }
    if (!p || !vd_run_charge(w->r, map->list.n + key_bytes))
        return NULL;
    qsort(p, map->list.n, sizeof *p, by_key);
    return p;
}

/* [a, b], (a,), {'k': v} */
static bool put_items(struct writer *w, const struct vd_value *v, int depth)
{
    static const struct vd_str comma = {", ", 2}, colon = {": ", 2};
    bool map = v->type == VD_VALUE_MAP, round = v->is_tuple && !w->json;
    const struct vd_value **order = map && w->json && w->json->sort_keys ? sorted(w, v) : NULL;
    struct vd_str between = w->json ? w->json->item : comma, after_key = w->json ? w->json->key : colon;
    put_text(w, map ? "{" : round ? "(" : "[");
    for (size_t i = 0; i < v->list.n; i++) {
        const struct vd_value *item = order ? order[i] : &v->list.p[map ? 2 * i : i];
        if (i > 0)
            put(w, between.p, between.n);
        bool quoted = map && w->json && item->type != VD_VALUE_STR; /* JSON's keys are strings */
        if (!put_line(w, depth + 1) || !vd_run_charge(w->r, between.n / 32))
            return false;
        if (quoted && item->type == VD_VALUE_LIST)
            return vd_run_fail(w->r, VD_EFORMAT, "tojson: a key is a list");
        put(w, "\"", quoted);
        if (!put_value(w, item, depth + 1))
            return false;
        put(w, "\"", quoted);
        if (!map)
            continue;
        put(w, after_key.p, after_key.n);
        if (!vd_run_charge(w->r, after_key.n / 32) || !put_value(w, item + 1, depth + 1))
            return false;
    }
    if (v->list.n > 0 && !put_line(w, depth))
        return false;
    put_text(w, map ? "}" : round ? (v->list.n == 1 ? ",)" : ")") : "]");
    return !w->r->e;
}

static bool put_value(struct writer *w, const struct vd_value *v, int depth)
{
    char text[24], number[VD_NUMBER_TEXT_MAX];
    if (depth > VD_TEMPLATE_DEPTH_MAX)
        return vd_run_fail(w->r, VD_ELIMIT, "values are nested deeper than %d", VD_TEMPLATE_DEPTH_MAX);
    if (!vd_run_charge(w->r, 1))
        return false;
    switch (v->type) {
    case VD_VALUE_NONE:
        put_text(w, w->json ? "null" : "None");
        return true;
    case VD_VALUE_BOOL:
        put_text(w, w->json ? (v->b ? "true" : "false") : v->b ? "True" : "False");
        return true;
    case VD_VALUE_INT:
        put(w, text, (size_t)snprintf(text, sizeof text, "%" PRId64, v->i));
        return true;
    case VD_VALUE_FLOAT:
        put(w, number, vd_number_write(number, v->f, w->json != NULL));
        return true;
    case VD_VALUE_STR:
        if (w->json)
            put_json_string(w, v->s);
        else
            put_repr_string(w, v->s);
        return vd_run_charge(w->r, v->s.n / 32);
    case VD_VALUE_LIST:
        if (v->is_lazy)
            break;
        return put_items(w, v, depth);
    case VD_VALUE_MAP:
        return put_items(w, v, depth);
    case VD_VALUE_UNDEFINED:
        if (!w->json) {
            put_text(w, "Undefined");
            return true;
        }
        break;
    case VD_VALUE_LOOP:
        if (w->json)
            break;
        put(w, number,
            (size_t)snprintf(number, sizeof number, "<LoopContext %d/%d>", (int)v->loop->index0 + 1,
                             (int)v->loop->n));
        return true;
    case VD_VALUE_NAMESPACE:
    case VD_VALUE_MACRO:
    case VD_VALUE_FUNCTION:
    case VD_VALUE_METHOD:
        break;
    }
    return vd_run_fail(w->r, VD_EFORMAT, "%s cannot be made text", vd_value_type_name(v->type));
}

static bool write_value(struct vd_run *r, const struct vd_value *v, const struct vd_json_style *json,
                        struct vd_str *out)
{
    struct writer w = {.r = r, .json = json};
    if (!put_value(&w, v, 0))
        return false;
    char *p = vd_run_alloc(r, w.n);
    if (!p)
        return false;
    w.p = p;
    w.n = 0;
    if (!put_value(&w, v, 0))
        return false;
    *out = (struct vd_str){p, w.n};
    return true;
}

bool vd_op_str(struct vd_run *r, const struct vd_value *v, struct vd_str *out)
{
    if (v->type == VD_VALUE_STR || v->type == VD_VALUE_UNDEFINED) {
        *out = v->type == VD_VALUE_STR ? v->s : (struct vd_str){"", 0};
        return true;
    }
    return write_value(r, v, NULL, out);
}

bool vd_op_repr(struct vd_run *r, const struct vd_value *v, struct vd_str *out)
{
    return write_value(r, v, NULL, out);
}

bool vd_op_json(struct vd_run *r, const struct vd_value *v, const struct vd_json_style *style,
                struct vd_str *out)
{
    return write_value(r, v, style, out);
}
