/* Values put into text: s % values, s.format(...) and strftime. The first two know the conversions that
 * templates use (s, r, d, i, f, e, g, x, o, c with flags, width and precision; {} with a number or name and
 * no format after a colon); the others are refused by name. Times are UTC, in the "C" locale. */
#include "vd_template_impl.h"

#include "vd_unicode.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <time.h>

static bool append(struct vd_run *r, struct vd_value *out, const char *p, size_t n)
{
    return vd_op_concat(r, out->s, (struct vd_str){p, n}, out);
}

/* ---- % ---- */

struct spec {
    char flags[8];
    int width, precision; /* precision -1: none */
    char type;
};

enum { FIELD_MAX = 300 };

/* The values of a %: a tuple's in turn, or the one; a map's by name. */
struct values {
    const struct vd_value *all;
    size_t next;
};

static bool take(struct vd_run *r, struct values *v, const struct vd_value **out)
{
    bool tuple = v->all->type == VD_VALUE_LIST && v->all->is_tuple;
    if (v->next >= (tuple ? v->all->list.n : 1))
        return vd_run_fail(r, VD_EFORMAT, "not enough values for the %% of a string");
    *out = tuple ? &v->all->list.p[v->next] : v->all;
    v->next++;
    return true;
}

/* %(name) at s.p[*i], which is the bracket. */
static bool take_named(struct vd_run *r, struct vd_str s, size_t *i, const struct vd_value *map,
                       const struct vd_value **out)
{
    const char *end = memchr(s.p + *i, ')', s.n - *i);
    if (!end || map->type != VD_VALUE_MAP)
        return vd_run_fail(r, VD_EFORMAT, "%%(name) needs a closing bracket, and a map on the right");
    struct vd_str name = {s.p + *i + 1, (size_t)(end - s.p) - *i - 1};
    *out = vd_value_get(map, name);
    *i = (size_t)(end - s.p) + 1;
    return (*out || vd_run_fail(r, VD_EFORMAT, "the map on the right of %% has no %.*s",
                                (int)(name.n < 80 ? name.n : 80), name.p)) &&
           vd_run_charge(r, vd_run_find_steps(map->list.n, name));
}

static bool read_width(struct vd_run *r, struct vd_str s, size_t *i, int *out)
{
    *out = 0;
    for (; *i < s.n && s.p[*i] >= '0' && s.p[*i] <= '9'; ++*i)
        if ((*out = *out * 10 + (s.p[*i] - '0')) > FIELD_MAX)
            return vd_run_fail(r, VD_ELIMIT, "a width or precision after %% is more than %d", FIELD_MAX);
    return true;
}

/* After the % and a name: flags, width, precision, length letters, type. */
static bool read_spec(struct vd_run *r, struct vd_str s, size_t *i, struct spec *out)
{
    size_t n = 0;
    *out = (struct spec){.precision = -1};
    for (; *i < s.n && memchr("-+ #0", s.p[*i], 5); ++*i)
        if (n < sizeof out->flags - 1 && !strchr(out->flags, s.p[*i]))
            out->flags[n++] = s.p[*i];
    if (!read_width(r, s, i, &out->width))
        return false;
    if (*i < s.n && s.p[*i] == '.') {
        ++*i;
        if (!read_width(r, s, i, &out->precision))
            return false;
    }
    while (*i < s.n && memchr("hlL", s.p[*i], 3))
        ++*i;
    if (*i >= s.n)
        return vd_run_fail(r, VD_EFORMAT, "a %% is not complete");
    out->type = s.p[(*i)++];
    return true;
}

/* Text cut to the precision and filled to the width, both in characters. */
static bool put_text(struct vd_run *r, const struct spec *f, struct vd_str s, struct vd_value *out)
{
    char blanks[FIELD_MAX];
    memset(blanks, ' ', sizeof blanks);
    uint32_t c;
    size_t end = 0, n = 0;
    while (end < s.n && (f->precision < 0 || n < (size_t)f->precision)) {
        end += vd_utf8_read((const uint8_t *)s.p + end, s.n - end, &c);
        n++;
    }
    size_t fill = (size_t)f->width > n ? (size_t)f->width - n : 0;
    bool left = strchr(f->flags, '-') != NULL;
    return vd_run_charge(r, s.n / 16) && (left || append(r, out, blanks, fill)) && append(r, out, s.p, end) &&
           (!left || append(r, out, blanks, fill));
}

static bool put_number(struct vd_run *r, const struct spec *f, const struct vd_value *v, struct vd_value *out)
{
    char format[40], text[3 * FIELD_MAX + 40];
    int64_t i;
    double x;
    bool floating = strchr("eEfFgG", f->type) != NULL;
    if (!vd_number_as_float(v, &x))
        return vd_run_fail(r, VD_EFORMAT, "%%%c needs a number", f->type);
    if (!floating && !vd_number_as_int(v, &i)) {
        if (strchr("xXo", f->type) || !(x > -0x1p63 && x < 0x1p63))
            return vd_run_fail(r, VD_EFORMAT, "%%%c needs an integer", f->type);
        i = (int64_t)x;
    }
    if (!floating && (i < 0 || strchr(f->flags, '#')) && strchr("xXo", f->type))
        return vd_run_fail(r, VD_EUNSUPPORTED, "%%%c of this number is not supported", f->type);
    int n = snprintf(format, sizeof format, "%%%s%d", f->flags, f->width);
    if (f->width == 0)
        n = snprintf(format, sizeof format, "%%%s", f->flags);
    if (f->precision >= 0)
        n += snprintf(format + n, sizeof format - (size_t)n, ".%d", f->precision);
    if (!floating)
        n += snprintf(format + n, sizeof format - (size_t)n, "l");
    snprintf(format + n, sizeof format - (size_t)n, "%c", f->type == 'i' || f->type == 'u' ? 'd' : f->type);
    _Static_assert(sizeof(long) == sizeof(int64_t), "%ld is an int64_t");
    n = floating ? snprintf(text, sizeof text, format, x) : snprintf(text, sizeof text, format, (long)i);
    if (n < 0 || (size_t)n >= sizeof text)
        return vd_run_fail(r, VD_ELIMIT, "a number after %% has too many digits");
    return append(r, out, text, (size_t)n);
}

static bool put_char(struct vd_run *r, const struct spec *f, const struct vd_value *v, struct vd_value *out)
{
    char text[VD_UTF8_MAX];
    int64_t i;
    if (v->type == VD_VALUE_STR && vd_string_count(v->s) == 1)
        return put_text(r, f, v->s, out);
    if (!vd_number_as_int(v, &i) || i < 0 || i > 0x10FFFF || (i >= 0xD800 && i < 0xE000))
        return vd_run_fail(r, VD_EFORMAT, "%%c needs a character");
    return put_text(r, f, (struct vd_str){text, vd_utf8_write((uint8_t *)text, (uint32_t)i)}, out);
}

static bool put_value(struct vd_run *r, const struct spec *f, const struct vd_value *v, struct vd_value *out)
{
    struct vd_str s;
    /* Made before the text goes on: what is made then must not stand between its parts. */
    if (f->type == 's')
        return vd_op_str(r, v, &s) && put_text(r, f, s, out);
    if (f->type == 'r')
        return vd_op_repr(r, v, &s) && put_text(r, f, s, out);
    if (f->type == 'c')
        return put_char(r, f, v, out);
    if (memchr("diuxXoeEfFgG", f->type, 12))
        return put_number(r, f, v, out);
    return vd_run_fail(r, VD_EUNSUPPORTED, "the conversion %%%c is not supported",
                       f->type >= 0x20 && f->type < 0x7f ? f->type : '?');
}

bool vd_format_percent(struct vd_run *r, struct vd_str s, const struct vd_value *values, struct vd_value *out)
{
    struct values left = {values, 0};
    bool named = false;
    *out = vd_value_str("", 0);
    for (size_t i = 0; i < s.n;) {
        const char *sign = memchr(s.p + i, '%', s.n - i);
        size_t at = sign ? (size_t)(sign - s.p) : s.n;
        const struct vd_value *v = NULL;
        struct spec f;
        if (!append(r, out, s.p + i, at - i) || !vd_run_charge(r, 1))
            return false;
        if (at == s.n)
            break;
        i = at + 1;
        if (i < s.n && s.p[i] == '(') {
            if (!take_named(r, s, &i, values, &v))
                return false;
            named = true;
        }
        if (!read_spec(r, s, &i, &f))
            return false;
        if (f.type == '%') {
            if (!append(r, out, "%", 1))
                return false;
        } else if ((!v && !take(r, &left, &v)) || !put_value(r, &f, v, out)) {
            return false;
        }
    }
    bool tuple = values->type == VD_VALUE_LIST && values->is_tuple;
    bool lenient = values->type == VD_VALUE_MAP || (values->type == VD_VALUE_LIST && !tuple);
    if (!named && !lenient && left.next < (tuple ? values->list.n : 1))
        return vd_run_fail(r, VD_EFORMAT, "a string's %% does not use all values");
    return true;
}

/* ---- {} ---- */

/* The argument that the field names: by position, by name, or the next one. */
static const struct vd_value *field(const struct vd_args *a, struct vd_str name, size_t *next)
{
    size_t i = 0;
    if (name.n == 0)
        i = (*next)++;
    for (size_t k = 0; k < name.n; k++) {
        if (name.p[k] < '0' || name.p[k] > '9' || k > 3) {
            for (i = 0; i < a->n; i++)
                if (a->key[i].n && vd_str_eq(a->key[i], name))
                    return &a->v[i];
            return NULL;
        }
        i = i * 10 + (size_t)(name.p[k] - '0');
    }
    return i < a->n && a->key[i].n == 0 ? &a->v[i] : NULL;
}

bool vd_format_braces(struct vd_run *r, struct vd_str s, const struct vd_args *a, struct vd_value *out)
{
    size_t next = 0;
    *out = vd_value_str("", 0);
    for (size_t i = 0; i < s.n;) {
        size_t start = i;
        while (i < s.n && s.p[i] != '{' && s.p[i] != '}')
            i++;
        if (!append(r, out, s.p + start, i - start) || !vd_run_charge(r, 1))
            return false;
        if (i == s.n)
            return true;
        if (i + 1 < s.n && s.p[i + 1] == s.p[i]) {
            if (!append(r, out, s.p + i, 1))
                return false;
            i += 2;
            continue;
        }
        const char *end = s.p[i] == '{' ? memchr(s.p + i, '}', s.n - i) : NULL;
        if (!end)
            return vd_run_fail(r, VD_EFORMAT, "format: a single bracket");
        struct vd_str name = {s.p + i + 1, (size_t)(end - s.p) - i - 1}, text;
        for (size_t k = 0; k < name.n; k++)
            if (memchr(":!.[{", name.p[k], 5))
                return vd_run_fail(r, VD_EUNSUPPORTED, "format: only {}, {0} and {name} are supported");
        const struct vd_value *v = field(a, name, &next);
        if (!v)
            return vd_run_fail(r, VD_EFORMAT, "format: there is no value for {%.*s}",
                               (int)(name.n < 80 ? name.n : 80), name.p);
        if (!vd_op_str(r, v, &text) || !append(r, out, text.p, text.n))
            return false;
        i = (size_t)(end - s.p) + 1;
    }
    return true;
}

/* ---- time ---- */

bool vd_format_time(struct vd_run *r, struct vd_str s, struct vd_value *out)
{
    time_t now = (time_t)r->now_s;
    struct tm tm;
    if (!gmtime_r(&now, &tm))
        return vd_run_fail(r, VD_EUSE, "the time is beyond the calendar");
    *out = vd_value_str("", 0);
    for (size_t i = 0; i < s.n; i++) {
        char format[8] = {'%'}, text[80];
        bool skip_zero = i + 2 < s.n && s.p[i] == '%' && s.p[i + 1] == '-';
        char type = s.p[i] != '%' ? 0 : skip_zero ? s.p[i + 2] : i + 1 < s.n ? s.p[i + 1] : '%';
        if (!vd_run_charge(r, 1))
            return false;
        if (!type) {
            if (!append(r, out, s.p + i, 1))
                return false;
            continue;
        }
        if (!strchr("aAbBcCdDeFgGhHIjklmMnprRStTuUVwWxXyYZzf%", type))
            return vd_run_fail(r, VD_EUNSUPPORTED, "strftime_now: %%%c is not supported",
                               type >= 0x20 && type < 0x7f ? type : '?');
        format[1] = skip_zero ? '-' : type;
        format[2] = skip_zero ? type : 0;
        size_t n = 0;
        if (type == 'f')
            n = (size_t)snprintf(text, sizeof text, "000000");
        else if (type != 'z' && type != 'Z') /* a time without a zone has none */
            n = strftime(text, sizeof text, format, &tm);
        if (!append(r, out, text, n))
            return false;
        i += i + 1 < s.n ? (skip_zero ? 2 : 1) : 0;
    }
    return true;
}
