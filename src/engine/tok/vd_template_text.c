/* Values as text: Python's str() and repr(), and JSON as Python's json.dumps writes it (ensure_ascii off). A
 * writer first counts and then fills, by the same code, so that the memory is exactly what is needed. */
#include "vd_template_text.h"

#include "vd_unicode.h"

#include <inttypes.h>
#include <stdio.h>

struct writer {
    struct vd_run *r;
    char *p; /* NULL while counting */
    size_t n;
    bool json;
    int indent; /* JSON: blanks per level, or -1 for one line */
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

static void put_json_string(struct writer *w, struct vd_str s)
{
    static const char escapes[][2] = {{'"', '"'},  {'\\', '\\'}, {'\n', 'n'}, {'\r', 'r'},
                                      {'\t', 't'}, {'\b', 'b'},  {'\f', 'f'}};
    put_text(w, "\"");
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i], text[8] = {'\\', 0};
        for (size_t k = 0; k < sizeof escapes / sizeof escapes[0]; k++)
            if (c == escapes[k][0])
                text[1] = escapes[k][1];
        if (text[1])
            put(w, text, 2);
        else if ((uint8_t)c < 0x20)
            put(w, text, (size_t)snprintf(text, sizeof text, "\\u%04x", (unsigned)c));
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

static void put_line(struct writer *w, int depth)
{
    if (w->indent < 0)
        return;
    put_text(w, "\n");
    for (int i = 0; i < depth * w->indent; i++)
        put_text(w, " ");
}

/* [a, b], (a,), {'k': v} */
static bool put_items(struct writer *w, const struct vd_value *v, int depth)
{
    bool map = v->type == VD_VALUE_MAP, round = v->is_tuple && !w->json;
    put_text(w, map ? "{" : round ? "(" : "[");
    for (size_t i = 0; i < v->list.n; i++) {
        const struct vd_value *item = &v->list.p[map ? 2 * i : i];
        if (i > 0)
            put_text(w, w->indent < 0 ? ", " : ",");
        put_line(w, depth + 1);
        if (!vd_run_charge(w->r, w->indent < 0 ? 0 : (uint64_t)(depth * w->indent) / 32))
            return false;
        if (!put_value(w, item, depth + 1))
            return false;
        if (map) {
            put_text(w, ": ");
            if (!put_value(w, item + 1, depth + 1))
                return false;
        }
    }
    if (v->list.n > 0)
        put_line(w, depth);
    put_text(w, map ? "}" : round ? (v->list.n == 1 ? ",)" : ")") : "]");
    return true;
}

static bool put_value(struct writer *w, const struct vd_value *v, int depth)
{
    char text[24];
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
    case VD_VALUE_STR:
        if (w->json)
            put_json_string(w, v->s);
        else
            put_repr_string(w, v->s);
        return vd_run_charge(w->r, v->s.n / 32);
    case VD_VALUE_LIST:
    case VD_VALUE_MAP:
        return put_items(w, v, depth);
    case VD_VALUE_UNDEFINED:
        if (!w->json) {
            put_text(w, "Undefined");
            return true;
        }
        break;
    case VD_VALUE_NAMESPACE:
    case VD_VALUE_LOOP:
        break;
    }
    return vd_run_fail(w->r, VD_EFORMAT, "%s cannot be made text", vd_value_type_name(v->type));
}

static bool write_value(struct vd_run *r, const struct vd_value *v, bool json, int indent, struct vd_str *out)
{
    struct writer w = {.r = r, .json = json, .indent = indent};
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
    return write_value(r, v, false, -1, out);
}

bool vd_op_json(struct vd_run *r, const struct vd_value *v, int indent, struct vd_str *out)
{
    return write_value(r, v, true, indent, out);
}
