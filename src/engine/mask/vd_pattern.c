/* A recursive descent, with the depth of groups limited. A set of characters is a list of ranges of code
 * points until it is written out in JSON's characters. */
#include "vd_pattern.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { RANGES_MAX = 64, PARTS_MAX = 512, CODE_MAX = 0x10FFFF };

struct set {
    uint32_t range[2 * RANGES_MAX]; /* first, last; in no order */
    size_t n;
};

struct parser {
    const char *p, *end, *begin;
    struct vd_rules *r;
    struct vd_error *err;
    enum vd_err e;
    unsigned depth;
};

static vd_expr bad(struct parser *g, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static vd_expr bad(struct parser *g, const char *fmt, ...)
{
    char what[128];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    if (g->e == VD_OK)
        g->e = vd_error_set(g->err, VD_EUSE, "'pattern', at character %zu: %s", (size_t)(g->p - g->begin) + 1,
                            what);
    g->p = g->end; /* nothing more is read */
    return 0;
}

static bool at(const struct parser *g, char c)
{
    return g->p < g->end && *g->p == c;
}

static bool starts(const struct parser *g, const char *text)
{
    size_t n = strlen(text);
    return (size_t)(g->end - g->p) >= n && memcmp(g->p, text, n) == 0;
}

static bool at_quantifier(const struct parser *g)
{
    return at(g, '*') || at(g, '+') || at(g, '?') || at(g, '{');
}

/* ---- sets of characters ---- */

static void set_add(struct parser *g, struct set *s, uint32_t first, uint32_t last)
{
    if (s->n == RANGES_MAX) {
        bad(g, "a class of more than %d ranges", RANGES_MAX);
        return;
    }
    s->range[2 * s->n] = first;
    s->range[2 * s->n++ + 1] = last;
}

/* What is not in s; s may be in any order. */
static struct set opposite(struct parser *g, const struct set *s)
{
    struct set to = {.n = 0};
    for (uint32_t next = 0; next <= CODE_MAX;) {
        uint32_t until = CODE_MAX + 1, behind = next;
        for (size_t i = 0; i < s->n; i++) {
            uint32_t a = s->range[2 * i], b = s->range[2 * i + 1];
            if (a <= next && b >= behind)
                behind = b + 1; /* next is in it */
            else if (a > next && a < until)
                until = a;
        }
        if (behind == next) {
            set_add(g, &to, next, until - 1);
            behind = until;
        }
        next = behind;
    }
    return to;
}

static bool has(const struct set *s, uint32_t c)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->range[2 * i] <= c && c <= s->range[2 * i + 1])
            return true;
    return false;
}

/* The set's characters as a JSON string has them. */
static vd_expr written(struct parser *g, const struct set *s)
{
    static const char code[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    static const uint32_t plain[] = {0x20, 0x21, 0x23, 0x5B, 0x5D, CODE_MAX};
    struct set raw = {.n = 0};
    vd_expr part[8];
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++)
        for (size_t k = 0; k < 3; k++) {
            uint32_t a = s->range[2 * i], b = s->range[2 * i + 1];
            a = a > plain[2 * k] ? a : plain[2 * k];
            b = b < plain[2 * k + 1] ? b : plain[2 * k + 1];
            if (a <= b)
                set_add(g, &raw, a, b);
        }
    part[n++] = vd_rules_chars(g->r, raw.range, raw.n, false);
    for (size_t i = 0; letter[i]; i++) {
        char text[2] = {'\\', letter[i]};
        if (has(s, (uint8_t)code[i]))
            part[n++] = vd_rules_text(g->r, text, 2);
    }
    return vd_rules_alt(g->r, part, n);
}

static vd_expr any_text(struct parser *g)
{
    struct set all = {{0, CODE_MAX}, 1};
    return vd_rules_repeat(g->r, written(g, &all), 0, VD_RULES_NO_MAX);
}

/* ---- characters ---- */

/* A code point of the expression's own text. */
static uint32_t take(struct parser *g)
{
    const uint8_t *p = (const uint8_t *)g->p;
    size_t n = *p < 0x80 ? 1 : *p < 0xE0 ? 2 : *p < 0xF0 ? 3 : 4;
    uint32_t c = n == 1 ? *p : *p & (0x7Fu >> n);
    if ((size_t)(g->end - g->p) < n || (*p >= 0x80 && *p < 0xC0)) {
        bad(g, "not UTF-8");
        return 0;
    }
    for (size_t i = 1; i < n; i++)
        c = c << 6 | (p[i] & 0x3F);
    g->p += n;
    return c;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* min to max hexadecimal digits. */
static uint32_t take_hex(struct parser *g, unsigned min, unsigned max)
{
    uint32_t c = 0;
    unsigned n = 0;
    for (; n < max && g->p < g->end && hex_digit(*g->p) >= 0; n++)
        c = 16 * c + (uint32_t)hex_digit(*g->p++);
    if (n < min || c > CODE_MAX)
        bad(g, "not a character's number");
    return c;
}

static uint32_t take_unicode(struct parser *g)
{
    bool braces = at(g, '{');
    g->p += braces;
    uint32_t c = braces ? take_hex(g, 1, 6) : take_hex(g, 4, 4);
    if (braces && !at(g, '}'))
        bad(g, "\\u{ without its end");
    g->p += braces && g->p < g->end;
    return c;
}

/* \d, \w, \s or an opposite: adds it to s. */
static bool class_escape(struct parser *g, char letter, struct set *s)
{
    static const uint32_t digits[] = {'0', '9'}, word[] = {'0', '9', 'A', 'Z', '_', '_', 'a', 'z'},
                          space[] = {9,      13,     ' ',    ' ',    0xA0,   0xA0,   0x1680,
                                     0x1680, 0x2000, 0x200A, 0x2028, 0x2029, 0x202F, 0x202F,
                                     0x205F, 0x205F, 0x3000, 0x3000, 0xFEFF, 0xFEFF};
    char low = (char)(letter | 0x20);
    const uint32_t *from = low == 'd' ? digits : low == 'w' ? word : low == 's' ? space : NULL;
    size_t n = low == 'd' ? 1 : low == 'w' ? 4 : 10;
    struct set own = {.n = 0};
    if (!from)
        return false;
    for (size_t i = 0; i < n; i++)
        set_add(g, &own, from[2 * i], from[2 * i + 1]);
    if (letter != low)
        own = opposite(g, &own);
    for (size_t i = 0; i < own.n; i++)
        set_add(g, s, own.range[2 * i], own.range[2 * i + 1]);
    return true;
}

/* Behind a backslash. True: s has got a whole class, *c is nothing. */
static bool take_escape(struct parser *g, struct set *s, uint32_t *c)
{
    static const char letter[] = "tnvfr", code[] = "\t\n\v\f\r";
    char e = g->p < g->end ? *g->p : 0;
    const char *found = e ? strchr(letter, e) : NULL;
    *c = 0;
    if (e == 0) {
        bad(g, "a backslash at the end");
        return false;
    }
    if (class_escape(g, e, s)) {
        g->p++;
        return true;
    }
    bool alone = (e >= '0' && e <= '9') || (e >= 'a' && e <= 'z') || (e >= 'A' && e <= 'Z');
    if (found || e == 'x' || e == 'u') {
        g->p++;
        *c = found ? (uint8_t)code[found - letter] : e == 'x' ? take_hex(g, 2, 2) : take_unicode(g);
    } else if (alone) {
        bad(g, "'\\%c' is not supported", e);
    } else {
        *c = take(g);
    }
    return false;
}

/* Behind '['. */
static vd_expr take_class(struct parser *g)
{
    struct set s = {.n = 0};
    bool negated = at(g, '^');
    g->p += negated;
    while (g->p < g->end && !at(g, ']')) {
        uint32_t first, last;
        bool escape = at(g, '\\'), whole = false;
        g->p += escape;
        if (escape)
            whole = take_escape(g, &s, &first);
        else
            first = take(g);
        if (whole)
            continue;
        last = first;
        if (at(g, '-') && g->end - g->p > 1 && g->p[1] != ']') {
            g->p++;
            escape = at(g, '\\');
            g->p += escape;
            if (escape && take_escape(g, &s, &last))
                return bad(g, "a range that ends in a class");
            if (!escape)
                last = take(g);
        }
        if (last < first)
            return bad(g, "a range that is none");
        set_add(g, &s, first, last);
    }
    if (!at(g, ']'))
        return bad(g, "a class without its end");
    g->p++;
    if (negated)
        s = opposite(g, &s);
    return written(g, &s);
}

/* ---- expressions ---- */

static vd_expr take_choice(struct parser *g);

static vd_expr take_group(struct parser *g)
{
    if (starts(g, "?:"))
        g->p += 2;
    else if (at(g, '?'))
        return bad(g, "'(%.*s' is not supported: of groups there are (...) and (?:...)",
                   g->end - g->p < 2 ? 1 : 2, g->p);
    if (g->depth == VD_RULES_DEPTH_MAX)
        return bad(g, "groups more than %d deep", VD_RULES_DEPTH_MAX);
    g->depth++;
    vd_expr e = take_choice(g);
    g->depth--;
    if (!at(g, ')'))
        return bad(g, "a group without its end");
    g->p++;
    return e;
}

static vd_expr take_atom(struct parser *g)
{
    struct set s = {.n = 0};
    uint32_t c;
    char first = *g->p;
    if (first == '(' || first == '[') {
        g->p++;
        return first == '(' ? take_group(g) : take_class(g);
    }
    if (first == '^' || first == '$')
        return bad(g,
                   "'%c' is supported only at the ends of the expression or of an alternative outside groups",
                   first);
    if (at_quantifier(g))
        return bad(g, "'%c' with nothing to repeat", first);
    if (first == '.') {
        static const struct set line_ends = {{'\n', '\n', '\r', '\r', 0x2028, 0x2029}, 3};
        g->p++;
        s = opposite(g, &line_ends);
        return written(g, &s);
    }
    if (first != '\\') {
        c = take(g);
        set_add(g, &s, c, c);
        return written(g, &s);
    }
    g->p++;
    if (!take_escape(g, &s, &c))
        set_add(g, &s, c, c);
    return written(g, &s);
}

static uint32_t take_number(struct parser *g)
{
    uint32_t x = 0;
    if (g->p == g->end || *g->p < '0' || *g->p > '9')
        bad(g, "a number is expected");
    for (; g->p < g->end && *g->p >= '0' && *g->p <= '9' && x <= VD_RULES_REPEAT_MAX; g->p++)
        x = 10 * x + (uint32_t)(*g->p - '0');
    if (x > VD_RULES_REPEAT_MAX)
        bad(g, "more than %d repetitions", VD_RULES_REPEAT_MAX);
    return x;
}

static vd_expr take_piece(struct parser *g)
{
    vd_expr e = take_atom(g);
    uint32_t min = 1, max = 1;
    if (!at_quantifier(g))
        return e;
    char how = *g->p++;
    if (how == '{') {
        min = max = take_number(g);
        if (at(g, ',')) {
            g->p++;
            max = at(g, '}') ? VD_RULES_NO_MAX : take_number(g);
        }
        if (!at(g, '}'))
            return bad(g, "{ without its end");
        g->p++;
        if (max < min)
            return bad(g, "a repetition that ends before it begins");
    } else {
        min = how == '+';
        max = how == '?' ? 1 : VD_RULES_NO_MAX;
    }
    if (at(g, '?')) /* lazy: the same texts */
        g->p++;
    if (at_quantifier(g))
        return bad(g, "two repetitions one after the other");
    return vd_rules_repeat(g->r, e, min, max);
}

/* Up to | or ) or the end. */
static vd_expr take_branch(struct parser *g)
{
    vd_expr part[PARTS_MAX + 2];
    size_t n = 0;
    bool outside = g->depth == 0, open = false;
    if (outside && !at(g, '^'))
        part[n++] = any_text(g);
    else if (outside)
        g->p++;
    while (g->p < g->end && !at(g, '|') && !at(g, ')')) {
        if (outside && at(g, '$') && (g->end - g->p == 1 || g->p[1] == '|')) {
            g->p++;
            open = true;
            break;
        }
        if (n == PARTS_MAX)
            return bad(g, "more than %d parts one after the other", PARTS_MAX);
        part[n++] = take_piece(g);
    }
    if (outside && !open)
        part[n++] = any_text(g);
    return vd_rules_seq(g->r, part, n);
}

static vd_expr take_choice(struct parser *g)
{
    vd_expr part[PARTS_MAX];
    size_t n = 0;
    do {
        if (n == PARTS_MAX)
            return bad(g, "more than %d alternatives", PARTS_MAX);
        g->p += n > 0;
        part[n++] = take_branch(g);
    } while (at(g, '|'));
    return vd_rules_alt(g->r, part, n);
}

enum vd_err vd_pattern_add(struct vd_rules *r, const char *text, size_t n, vd_expr *out, struct vd_error *err)
{
    struct parser g = {.p = text, .end = text + n, .begin = text, .r = r, .err = err};
    if (n > VD_PATTERN_MAX_BYTES)
        return vd_error_set(err, VD_ELIMIT, "a pattern of %zu bytes: at most %d are read", n,
                            VD_PATTERN_MAX_BYTES);
    *out = take_choice(&g);
    if (g.p < g.end)
        bad(&g, "')' without '('");
    return g.e;
}
