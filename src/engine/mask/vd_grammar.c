/* A recursive descent over the text; groups are its only recursion, and their depth is that of the nodes. */
#include "vd_rules.h"

#include <stdlib.h>
#include <string.h>

enum { ITEMS_MAX = 512, RANGES_MAX = 128 };

struct parser {
    const char *p, *end, *begin;
    struct vd_rules *r;
    struct vd_error *err;
    enum vd_err e;
    unsigned depth;
    struct name {
        const char *p;
        size_t n;
        bool defined;
    } name[VD_RULES_MAX]; /* by the rule's number */
    uint32_t n_names;
};

static unsigned line_of(const struct parser *g)
{
    unsigned line = 1;
    for (const char *p = g->begin; p < g->p && p < g->end; p++)
        line += *p == '\n';
    return line;
}

static vd_expr bad(struct parser *g, const char *what)
{
    if (g->e == VD_OK)
        g->e = vd_error_set(g->err, VD_EUSE, "grammar, line %u: %s", line_of(g), what);
    return 0;
}

static bool at(const struct parser *g, char c)
{
    return g->p < g->end && *g->p == c;
}

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

/* Spaces and comments; line ends only if `lines`. */
static void skip(struct parser *g, bool lines)
{
    while (g->p < g->end) {
        if (*g->p == '#')
            while (g->p < g->end && *g->p != '\n')
                g->p++;
        else if (*g->p == ' ' || *g->p == '\t' || (lines && (*g->p == '\n' || *g->p == '\r')))
            g->p++;
        else
            return;
    }
}

static uint32_t rule_of(struct parser *g, const char *p, size_t n)
{
    for (uint32_t i = 0; i < g->n_names; i++)
        if (g->name[i].n == n && memcmp(g->name[i].p, p, n) == 0)
            return i;
    if (g->n_names == VD_RULES_MAX)
        return bad(g, "more than 4096 rules");
    g->name[g->n_names++] = (struct name){p, n, false};
    return vd_rules_add(g->r, p, n);
}

static bool read_name(struct parser *g, const char **p, size_t *n)
{
    *p = g->p;
    while (g->p < g->end && is_name(*g->p))
        g->p++;
    *n = (size_t)(g->p - *p);
    return *n > 0;
}

static uint32_t read_hex(struct parser *g, unsigned digits)
{
    uint32_t v = 0;
    for (unsigned i = 0; i < digits; i++, g->p++) {
        char c = g->p < g->end ? *g->p : 0;
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0)
            return bad(g, "an escape needs hexadecimal digits");
        v = v << 4 | (uint32_t)d;
    }
    return v;
}

/* One character of a literal or class as a code point; UTF-8 is checked. */
static uint32_t read_char(struct parser *g)
{
    uint8_t c = (uint8_t)*g->p++;
    if (c == '\\') {
        char e = g->p < g->end ? *g->p++ : 0;
        switch (e) {
        case 'n':
            return '\n';
        case 't':
            return '\t';
        case 'r':
            return '\r';
        case 'x':
            return read_hex(g, 2);
        case 'u':
            return read_hex(g, 4);
        case 'U':
            return read_hex(g, 8);
        case '\\':
        case '"':
        case '[':
        case ']':
        case '-':
        case '^':
        case '/':
        case '.':
            return (uint8_t)e;
        }
        return bad(g, "an unknown escape");
    }
    if (c < 0x80)
        return c;
    unsigned more = c >= 0xF0 && c < 0xF8 ? 3 : c >= 0xE0 && c < 0xF0 ? 2 : c >= 0xC2 && c < 0xE0 ? 1 : 0;
    uint32_t v = c & (0x3Fu >> more);
    if (more == 0)
        return bad(g, "bytes that are no UTF-8");
    for (; more > 0; more--, g->p++) {
        if (g->p >= g->end || ((uint8_t)*g->p & 0xC0) != 0x80)
            return bad(g, "bytes that are no UTF-8");
        v = v << 6 | ((uint8_t)*g->p & 0x3F);
    }
    return v;
}

static vd_expr one_char(struct parser *g, uint32_t c)
{
    uint32_t range[2] = {c, c};
    if (c > 0x10FFFF || (c >= 0xD800 && c < 0xE000))
        return bad(g, "a number that is no character");
    return vd_rules_chars(g->r, range, 1, false);
}

static vd_expr read_literal(struct parser *g)
{
    vd_expr item[ITEMS_MAX];
    size_t n = 0;
    for (g->p++; g->e == VD_OK && g->p < g->end && *g->p != '"' && *g->p != '\n';) {
        if (n == ITEMS_MAX)
            return bad(g, "a literal of more than 512 characters");
        item[n++] = one_char(g, read_char(g));
    }
    if (!at(g, '"'))
        return bad(g, "a literal without its end");
    g->p++;
    return vd_rules_seq(g->r, item, n);
}

static vd_expr read_class(struct parser *g)
{
    uint32_t range[2 * RANGES_MAX];
    size_t n = 0;
    g->p++;
    bool negated = at(g, '^');
    g->p += negated;
    while (g->e == VD_OK && g->p < g->end && *g->p != ']' && *g->p != '\n') {
        if (n == RANGES_MAX)
            return bad(g, "a class of more than 128 ranges");
        range[2 * n] = range[2 * n + 1] = read_char(g);
        if (at(g, '-') && g->p + 1 < g->end && g->p[1] != ']') {
            g->p++;
            range[2 * n + 1] = read_char(g);
        }
        if (range[2 * n + 1] > 0x10FFFF || range[2 * n] > range[2 * n + 1])
            return bad(g, "a range that is none");
        n++;
    }
    if (!at(g, ']'))
        return bad(g, "a class without its end");
    g->p++;
    return vd_rules_chars(g->r, range, n, negated);
}

static uint32_t read_number(struct parser *g)
{
    uint32_t v = 0;
    if (g->p >= g->end || *g->p < '0' || *g->p > '9')
        return bad(g, "a repetition needs a number");
    for (; g->p < g->end && *g->p >= '0' && *g->p <= '9'; g->p++) {
        v = 10 * v + (uint32_t)(*g->p - '0');
        if (v > VD_RULES_REPEAT_MAX)
            return bad(g, "a repetition of more than 4096");
    }
    return v;
}

static vd_expr read_repeat(struct parser *g, vd_expr e)
{
    for (; g->e == VD_OK; skip(g, g->depth > 0)) {
        if (at(g, '*')) {
            g->p++;
            e = vd_rules_repeat(g->r, e, 0, VD_RULES_NO_MAX);
        } else if (at(g, '+')) {
            g->p++;
            e = vd_rules_repeat(g->r, e, 1, VD_RULES_NO_MAX);
        } else if (at(g, '?')) {
            g->p++;
            e = vd_rules_repeat(g->r, e, 0, 1);
        } else if (at(g, '{')) {
            g->p++;
            uint32_t min = read_number(g), max = min;
            if (at(g, ',')) {
                g->p++;
                max = at(g, '}') ? VD_RULES_NO_MAX : read_number(g);
            }
            if (!at(g, '}') || max < min)
                return bad(g, "a repetition is {n}, {n,} or {n,m}");
            g->p++;
            e = vd_rules_repeat(g->r, e, min, max);
        } else {
            return e;
        }
    }
    return e;
}

static vd_expr read_choices(struct parser *g);

static vd_expr read_group(struct parser *g)
{
    if (++g->depth > VD_RULES_DEPTH_MAX)
        return bad(g, "groups more than 64 deep");
    g->p++;
    vd_expr e = read_choices(g);
    skip(g, true);
    if (!at(g, ')'))
        return bad(g, "a group without its end");
    g->p++;
    g->depth--;
    return e;
}

/* Is this a name that a "::=" follows: the next rule? */
static bool at_rule(const struct parser *g)
{
    struct parser look = {.p = g->p, .end = g->end};
    const char *p;
    size_t n;
    if (!read_name(&look, &p, &n))
        return false;
    skip(&look, false);
    return look.end - look.p >= 3 && memcmp(look.p, "::=", 3) == 0;
}

static vd_expr read_sequence(struct parser *g)
{
    vd_expr item[ITEMS_MAX];
    size_t n = 0;
    for (skip(g, g->depth > 0); g->e == VD_OK && g->p < g->end; skip(g, g->depth > 0)) {
        const char *name;
        size_t n_name;
        vd_expr e;
        if (at(g, '"')) {
            e = read_literal(g);
        } else if (at(g, '[')) {
            e = read_class(g);
        } else if (at(g, '(')) {
            e = read_group(g);
        } else if (at(g, '.')) {
            g->p++;
            e = vd_rules_chars(g->r, NULL, 0, true);
        } else if (is_name(*g->p)) {
            if (at_rule(g))
                break;
            read_name(g, &name, &n_name);
            e = vd_rules_ref(g->r, rule_of(g, name, n_name));
        } else {
            break;
        }
        if (n == ITEMS_MAX)
            return bad(g, "a sequence of more than 512 parts");
        if (vd_rules_full(g->r)) { /* nothing that follows counts */
            g->e =
                vd_error_set(g->err, VD_ELIMIT,
                             "grammar, line %u: the rules are too many, too large or too deep", line_of(g));
            return 0;
        }
        skip(g, g->depth > 0);
        item[n++] = read_repeat(g, e);
    }
    return vd_rules_seq(g->r, item, n);
}

static vd_expr read_choices(struct parser *g)
{
    vd_expr choice[ITEMS_MAX];
    size_t n = 0;
    for (;;) {
        if (n == ITEMS_MAX)
            return bad(g, "more than 512 choices");
        skip(g, true);
        choice[n++] = read_sequence(g);
        const char *here = g->p;
        skip(g, true); /* "|" may stand on the next line */
        if (g->e != VD_OK || !at(g, '|')) {
            g->p = here;
            break;
        }
        g->p++;
    }
    return vd_rules_alt(g->r, choice, n);
}

static void read_rule(struct parser *g)
{
    const char *name;
    size_t n;
    if (!read_name(g, &name, &n)) {
        bad(g, "a rule begins with its name");
        return;
    }
    uint32_t rule = rule_of(g, name, n);
    skip(g, false);
    if (g->e != VD_OK || g->end - g->p < 3 || memcmp(g->p, "::=", 3) != 0) {
        bad(g, "after a rule's name stands \"::=\"");
        return;
    }
    if (g->name[rule].defined)
        bad(g, "a rule is defined twice");
    g->p += 3;
    vd_rules_define(g->r, rule, read_choices(g));
    g->name[rule].defined = true;
    skip(g, false);
    if (g->e == VD_OK && g->p < g->end && *g->p != '\n' && *g->p != '\r')
        bad(g, "something that is no part of a rule");
}

static enum vd_err parse(struct parser *g, uint32_t *root)
{
    for (skip(g, true); g->e == VD_OK && g->p < g->end; skip(g, true))
        read_rule(g);
    if (g->e != VD_OK)
        return g->e;
    for (*root = 0; *root < g->n_names; ++*root)
        if (g->name[*root].n == 4 && memcmp(g->name[*root].p, "root", 4) == 0)
            return VD_OK;
    return vd_error_set(g->err, VD_EUSE, "the grammar has no rule 'root'");
}

enum vd_err vd_grammar_compile(const char *text, size_t n, const struct vd_hash *texts_root, uint8_t *out,
                               size_t *n_out, struct vd_error *err)
{
    uint32_t root;
    if (n > VD_GRAMMAR_TEXT_MAX_BYTES)
        return vd_error_set(err, VD_ELIMIT, "a grammar of %zu bytes: at most %d are read", n,
                            VD_GRAMMAR_TEXT_MAX_BYTES);
    struct parser *g = calloc(1, sizeof *g);
    struct vd_rules *r = vd_rules_new();
    enum vd_err e = g && r ? VD_OK : vd_error_set(err, VD_ENOMEM, "no memory for a grammar");
    if (e == VD_OK) {
        g->p = g->begin = text;
        g->end = text + n;
        g->r = r;
        g->err = err;
        e = parse(g, &root);
    }
    if (e == VD_OK)
        e = vd_rules_compile(r, root, texts_root, out, n_out, err);
    vd_rules_free(r);
    free(g);
    return e;
}
