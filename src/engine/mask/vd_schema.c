/* Schemas as rules. A schema that is referred to gets a rule, so that it can recurse; every other one becomes
 * an expression where it stands. A keyword is either read by the type that it belongs to, or an annotation,
 * or refused: keywords_ok() knows all three.
 *
 * JSON is written with at most one space, or one line end and its indentation, where JSON allows any. */
#include "vd_pattern.h"
#include "vd_schema_impl.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    REFS_MAX = 512,
    PATH_MAX_BYTES = 512,
    MEMBERS_MAX = 256,
    DIGITS_MAX = 16,
    BLOCK = 64,          /* characters that are counted by a rule of their own */
    NAME_TREE_DEPTH = 24 /* characters: other names begin differently */
};
#define BOUND_MAX INT64_C(999999999999999) /* of numbers with bounds */

struct schema {
    struct vd_rules *r;
    const json_t *root;
    struct vd_error *err;
    enum vd_err e;
    unsigned depth;
    char path[PATH_MAX_BYTES]; /* of the schema being read, for messages */
    vd_expr space, string, chars, number, integer;
    vd_expr wide, rest; /* a character beyond ASCII; any number of them without escapes */
    vd_expr one;        /* a character, of which what is not ASCII is called */
    vd_expr exactly[BLOCK + 1], up_to[BLOCK + 1]; /* so many characters; 1 to so many. 0: not made yet */
    uint32_t any;                                 /* rule */
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
    s->space = shared(s, "space", maybe(s, either(s, 2, lit(s, " "), indent)));
    static const uint32_t ascii[] = {0x20, 0x21, 0x23, 0x5B, 0x5D, 0x7F}, wide[] = {0x80, 0x10FFFF};
    vd_expr any_wide = vd_rules_chars(s->r, wide, 1, false);
    s->wide = shared(s, "a character beyond ASCII", any_wide);
    s->rest = shared(s, "the rest of a name",
                     vd_rules_repeat(s->r, either(s, 2, vd_rules_chars(s->r, ascii, 3, false), s->wide), 0,
                                     VD_RULES_NO_MAX));
    vd_expr escape =
        seq(s, 2, lit(s, "\\"),
            either(s, 2, vd_rules_chars(s->r, escapes, 8, false), seq(s, 2, lit(s, "u"), hex(s, 4))));
    s->one = either(s, 2, vd_rules_chars(s->r, ascii, 3, false),
                    shared(s, "a character", either(s, 2, any_wide, escape)));
    s->chars = either(s, 2, vd_rules_chars(s->r, no_plain, 3, true), escape);
    s->string =
        shared(s, "string",
               seq(s, 3, lit(s, "\""), vd_rules_repeat(s->r, s->chars, 0, VD_RULES_NO_MAX), lit(s, "\"")));
    vd_expr integer =
        seq(s, 2, maybe(s, lit(s, "-")),
            either(s, 2, lit(s, "0"),
                   seq(s, 2, vd_rules_chars(s->r, one_to_nine, 1, false), digits(s, 0, DIGITS_MAX - 1))));
    s->integer = shared(s, "integer", integer);
    s->number = shared(s, "number",
                       seq(s, 3, integer, maybe(s, seq(s, 2, lit(s, "."), digits(s, 1, DIGITS_MAX))),
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
    {"type", "*"},
    {"enum", "*"},
    {"const", "*"},
    {"$ref", "*"},
    {"anyOf", "*"},
    {"oneOf", "*"},
    {"allOf", "*"},
    {"properties", "object"},
    {"required", "object"},
    {"additionalProperties", "object"},
    {"items", "array"},
    {"prefixItems", "array"},
    {"minItems", "array"},
    {"maxItems", "array"},
    {"minLength", "string"},
    {"maxLength", "string"},
    {"pattern", "string"},
    {"minimum", "number"},
    {"maximum", "number"},
    {"exclusiveMinimum", "number"},
    {"exclusiveMaximum", "number"},
    {"format", NULL},
    {"title", NULL},
    {"description", NULL},
    {"default", NULL},
    {"examples", NULL},
    {"deprecated", NULL},
    {"readOnly", NULL},
    {"writeOnly", NULL},
    {"$schema", NULL},
    {"$id", NULL},
    {"$comment", NULL},
    {"$defs", NULL},
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
        if (!k->types)
            continue;
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
    return s->string; /* an annotation */
}

/* ---- strings of so many characters ---- */

/* The rule for n characters, or for 1 to n. */
static vd_expr block(struct schema *s, uint32_t n, bool exact)
{
    vd_expr *at = exact ? &s->exactly[n] : &s->up_to[n];
    if (!*at)
        *at = shared(s, exact ? "so many characters" : "up to so many characters",
                     vd_rules_repeat(s->r, s->one, exact ? n : 1, n));
    return *at;
}

/* Counted in blocks that are called, so that a long string is not a state for every character of every string
 * that there may be. A block of up to so many characters goes on as long as it can; so what follows the first
 * that does not end by itself cannot be another. */
static vd_expr counted(struct schema *s, uint32_t min, uint32_t max)
{
    vd_expr part[4];
    size_t n = 0;
    if (max <= BLOCK)
        return vd_rules_repeat(s->r, s->one, min, max);
    part[n++] = vd_rules_repeat(s->r, block(s, BLOCK, true), min / BLOCK, min / BLOCK);
    part[n++] = vd_rules_repeat(s->r, s->one, min % BLOCK, min % BLOCK);
    if (max == VD_RULES_NO_MAX) {
        part[n++] = vd_rules_repeat(s->r, s->chars, 0, max);
        return vd_rules_seq(s->r, part, n);
    }
    uint32_t more = max - min, rest = more % BLOCK;
    vd_expr blocks = vd_rules_repeat(s->r, block(s, BLOCK, false), 0, more / BLOCK);
    if (rest)
        blocks = maybe(s, seq(s, 2, block(s, rest, false), blocks));
    part[n++] = blocks;
    return vd_rules_seq(s->r, part, n);
}

static vd_expr string_of(struct schema *s, const json_t *o)
{
    uint32_t min = 0, max = VD_RULES_NO_MAX;
    const char *format = json_string_value(json_object_get(o, "format"));
    const json_t *pattern = json_object_get(o, "pattern");
    vd_expr e;
    if (!count_of(s, o, "minLength", &min) || !count_of(s, o, "maxLength", &max))
        return 0;
    bool has_length = min || max != VD_RULES_NO_MAX;
    if (pattern && (!json_is_string(pattern) || has_length))
        return bad(s, "'pattern' must be a string, and beside a length is not supported");
    if (pattern) {
        struct vd_error why;
        enum vd_err rc =
            vd_pattern_add(s->r, json_string_value(pattern), json_string_length(pattern), &e, &why);
        return rc == VD_OK ? quoted(s, e) : bad(s, "%.200s", why.msg);
    }
    if (max < min)
        return bad(s, "'maxLength' is below 'minLength'");
    if (has_length)
        return quoted(s, counted(s, min, max));
    return format ? format_of(s, format) : s->string;
}

/* ---- numbers with bounds ---- */

/* Whole numbers [a, b] of the same n digits, a and b as text. `low` and `high`: that end still binds. */
static vd_expr same_digits(struct schema *s, const char *a, const char *b, size_t n, bool low, bool high)
{
    vd_expr e[3];
    size_t k = 0;
    if (n == 0)
        return vd_rules_text(s->r, "", 0);
    if (!low && !high)
        return digits(s, (uint32_t)n, (uint32_t)n);
    char from = low ? *a : '0', to = high ? *b : '9';
    if (low && high && from == to)
        return seq(s, 2, vd_rules_text(s->r, a, 1), same_digits(s, a + 1, b + 1, n - 1, true, true));
    if (low)
        e[k++] = seq(s, 2, vd_rules_text(s->r, a, 1), same_digits(s, a + 1, b + 1, n - 1, true, false));
    uint32_t between[] = {(uint32_t)from + low, (uint32_t)to - high};
    if (between[0] <= between[1])
        e[k++] =
            seq(s, 2, vd_rules_chars(s->r, between, 1, false), digits(s, (uint32_t)n - 1, (uint32_t)n - 1));
    if (high)
        e[k++] = seq(s, 2, vd_rules_text(s->r, b, 1), same_digits(s, a + 1, b + 1, n - 1, false, true));
    return vd_rules_alt(s->r, e, k);
}

/* Whole numbers [a, b], 0 <= a <= b <= BOUND_MAX, as decimals. */
static vd_expr whole(struct schema *s, int64_t a, int64_t b)
{
    static const char nines[] = "999999999999999", tens[] = "100000000000000";
    static const uint32_t one_to_nine[] = {'1', '9'};
    char low[24], high[24];
    vd_expr e[3];
    size_t k = 0, n = (size_t)snprintf(low, sizeof low, "%lld", (long long)a),
           m = (size_t)snprintf(high, sizeof high, "%lld", (long long)b);
    if (n == m)
        return same_digits(s, low, high, n, true, true);
    e[k++] = same_digits(s, low, nines, n, true, true);
    if (m - n > 1)
        e[k++] =
            seq(s, 2, vd_rules_chars(s->r, one_to_nine, 1, false), digits(s, (uint32_t)n, (uint32_t)m - 2));
    e[k++] = same_digits(s, tens, high, m, true, true);
    return vd_rules_alt(s->r, e, k);
}

/* An interval of the sizes of numbers, 0 <= low. */
struct interval {
    int64_t low, high;
    bool open_low, open_high; /* the end itself is not in it */
};

/* Numbers of these sizes, without a sign and an exponent. */
static vd_expr sizes(struct schema *s, struct interval i, bool integer)
{
    static const uint32_t one_to_nine[] = {'1', '9'};
    vd_expr e[3], dot = lit(s, "."), fraction = maybe(s, seq(s, 2, dot, digits(s, 1, DIGITS_MAX)));
    size_t k = 0;
    if (integer) {
        int64_t a = i.low + i.open_low, b = i.high - i.open_high;
        return a <= b ? whole(s, a, b) : vd_rules_chars(s->r, NULL, 0, false);
    }
    vd_expr more = seq(s, 4, dot, vd_rules_repeat(s->r, lit(s, "0"), 0, DIGITS_MAX - 1),
                       vd_rules_chars(s->r, one_to_nine, 1, false), digits(s, 0, DIGITS_MAX));
    int64_t from = i.low + i.open_low;
    if (i.open_low && i.low < i.high)
        e[k++] = seq(s, 2, whole(s, i.low, i.low), more);
    if (from < i.high)
        e[k++] = seq(s, 2, whole(s, from, i.high - 1), fraction);
    if (!i.open_high && from <= i.high) {
        vd_expr zeros = maybe(s, seq(s, 2, dot, vd_rules_repeat(s->r, lit(s, "0"), 1, DIGITS_MAX)));
        e[k++] = seq(s, 2, whole(s, i.high, i.high), zeros);
    }
    return k ? vd_rules_alt(s->r, e, k) : vd_rules_chars(s->r, NULL, 0, false);
}

/* The bound of this keyword, if it is tighter than *x; *open: it is exclusive. `up`: a minimum. */
static bool bound_of(struct schema *s, const json_t *o, const char *key, bool exclusive, bool up,
                     bool integer, int64_t *x, bool *open)
{
    const json_t *v = json_object_get(o, key);
    double d = json_number_value(v);
    if (!v)
        return true;
    if (!json_is_number(v) || !(fabs(d) <= (double)BOUND_MAX) || (!integer && d != floor(d))) {
        bad(s, "'%s' must be a %snumber of up to 15 digits", key, integer ? "" : "whole ");
        return false;
    }
    if (d != floor(d)) { /* between two integers */
        d = up ? ceil(d) : floor(d);
        exclusive = false;
    }
    int64_t to = (int64_t)d;
    if (up ? to > *x : to < *x) {
        *x = to;
        *open = exclusive;
    } else if (to == *x) {
        *open |= exclusive;
    }
    return true;
}

static vd_expr number_of(struct schema *s, const json_t *o, bool integer)
{
    struct interval i = {-BOUND_MAX, BOUND_MAX, false, false};
    vd_expr e[2];
    size_t n = 0;
    if (!json_object_get(o, "minimum") && !json_object_get(o, "maximum") &&
        !json_object_get(o, "exclusiveMinimum") && !json_object_get(o, "exclusiveMaximum"))
        return integer ? s->integer : s->number;
    if (!bound_of(s, o, "minimum", false, true, integer, &i.low, &i.open_low) ||
        !bound_of(s, o, "exclusiveMinimum", true, true, integer, &i.low, &i.open_low) ||
        !bound_of(s, o, "maximum", false, false, integer, &i.high, &i.open_high) ||
        !bound_of(s, o, "exclusiveMaximum", true, false, integer, &i.high, &i.open_high))
        return 0;
    if (i.low > i.high || (i.low == i.high && (i.open_low || i.open_high)))
        return bad(s, "no number is within these bounds");
    if (i.low < 0) {
        bool cut = i.high < 0;
        struct interval below = {cut ? -i.high : 0, -i.low, cut ? i.open_high : i.high == 0 && i.open_high,
                                 i.open_low};
        e[n++] = seq(s, 2, lit(s, "-"), sizes(s, below, integer));
    }
    if (i.high >= 0) {
        bool cut = i.low >= 0;
        e[n++] =
            sizes(s, (struct interval){cut ? i.low : 0, i.high, cut && i.open_low, i.open_high}, integer);
    }
    return vd_rules_alt(s->r, e, n);
}

/* ---- arrays and objects ---- */

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
        if (json_array_size(prefix) < min || json_array_size(prefix) > max)
            return bad(s, "'prefixItems' are fewer than 'minItems' or more than 'maxItems'");
        return tuple_of(s, prefix);
    }
    if (max < min)
        return bad(s, "'maxItems' is below 'minItems'");
    vd_expr item = items ? value_at(s, items, "items") : any_value(s);
    bool often = min > 2 || (max != VD_RULES_NO_MAX && max > 2);
    return listed(s, "[", often ? shared(s, "an item", item) : item, min, max, "]");
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

/* Keys that start alike from character `depth` on, sorted; a key that JSON would have to escape is not among
 * them. Other names are those that leave this tree, of characters without escapes. Below NAME_TREE_DEPTH none
 * is: a name that begins like a long key is not taken. */
static vd_expr other_names(struct schema *s, const char *const *key, size_t n, size_t at, unsigned depth)
{
    uint32_t used[2 * MEMBERS_MAX + 8] = {0, 0x1F, '"', '"', '\\', '\\'};
    vd_expr e[MEMBERS_MAX + 2];
    size_t k = 0, n_used = 3;
    bool ascii = true;
    if (n == 0)
        return s->rest;
    if (depth == NAME_TREE_DEPTH)
        return vd_rules_chars(s->r, NULL, 0, false);
    if (key[0][at])
        e[k++] = vd_rules_text(s->r, "", 0);
    for (size_t i = 0; i < n;) {
        const uint8_t *p = (const uint8_t *)key[i] + at;
        size_t bytes = *p < 0x80 ? 1 : *p < 0xE0 ? 2 : *p < 0xF0 ? 3 : 4, end = i + 1;
        uint32_t c = bytes == 1 ? *p : *p & (0x7Fu >> bytes);
        for (size_t b = 1; b < bytes; b++)
            c = c << 6 | (p[b] & 0x3F);
        while (end < n && memcmp(key[end] + at, p, bytes) == 0)
            end++;
        if (c) {
            used[2 * n_used] = used[2 * n_used + 1] = c;
            n_used++;
            ascii &= c < 0x80;
            e[k++] = seq(s, 2, vd_rules_text(s->r, (const char *)p, bytes),
                         other_names(s, key + i, end - i, at + bytes, depth + 1));
        }
        i = end;
    }
    if (ascii) { /* the others by a rule, which makes the states small */
        used[2 * n_used] = 0x80;
        used[2 * n_used++ + 1] = 0x10FFFF;
    }
    vd_expr first = vd_rules_chars(s->r, used, n_used, true);
    e[k++] = seq(s, 2, ascii ? either(s, 2, first, s->wide) : first, s->rest);
    return vd_rules_alt(s->r, e, k);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* A member whose name is none of the properties'. */
static vd_expr other_member(struct schema *s, const json_t *properties, vd_expr value)
{
    const char *keys[MEMBERS_MAX], *key;
    size_t n = 0;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)properties, key, v)
    {
        bool plain = true;
        for (const char *c = key; *c; c++)
            plain &= (uint8_t)*c >= 0x20 && *c != '"' && *c != '\\';
        if (plain)
            keys[n++] = key;
    }
    qsort(keys, n, sizeof keys[0], by_text);
    return member(s, quoted(s, other_names(s, keys, n, 0, 0)), value);
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
    if (json_object_size(properties) >= MEMBERS_MAX)
        return bad(s, "more than %d properties", MEMBERS_MAX - 1);
    if (!names_exist(s, properties, required))
        return 0;
    size_t path = enter(s, "properties");
    json_object_foreach((json_t *)(uintptr_t)properties, key, v)
    {
        json_t *name = json_string(key);
        must[n] = is_required(required, key);
        m[n++] = member(s, json_text(s, name), value_at(s, v, key));
        json_decref(name);
    }
    leave(s, path);
    bool others = more && !json_is_false(more);
    if (others) {
        vd_expr value = json_is_object(more) ? value_at(s, more, "additionalProperties") : any_value(s);
        must[n] = false;
        m[n++] = other_member(s, properties, value);
    }
    vd_expr comma = seq(s, 3, s->space, lit(s, ","), s->space);
    return seq(s, 5, lit(s, "{"), s->space, vd_rules_members(s->r, m, must, n, comma, others), s->space,
               lit(s, "}"));
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
        return number_of(s, o, false);
    if (strcmp(type, "integer") == 0)
        return number_of(s, o, true);
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
        bool all = *ref == 0 || *ref == '/', number = n > 0 && n < 8 && strspn(name, "0123456789") == n;
        at = !all                 ? NULL /* longer than any name that is looked up */
             : !json_is_array(at) ? json_object_get(at, name)
             : number             ? json_array_get(at, (size_t)strtoul(name, NULL, 10))
                                  : NULL;
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

static bool is_of_type(const json_t *v, const char *type)
{
    return strcmp(type, "object") == 0    ? json_is_object(v)
           : strcmp(type, "array") == 0   ? json_is_array(v)
           : strcmp(type, "string") == 0  ? json_is_string(v)
           : strcmp(type, "number") == 0  ? json_is_number(v)
           : strcmp(type, "boolean") == 0 ? json_is_boolean(v)
           : strcmp(type, "null") == 0    ? json_is_null(v)
                                          : strcmp(type, "integer") == 0 && json_is_number(v) &&
                                             json_number_value(v) == floor(json_number_value(v));
}

/* May the value be there beside this "type" (NULL: any)? */
static bool type_allows(const json_t *type, const json_t *v)
{
    if (!type || json_is_string(type))
        return !type || is_of_type(v, json_string_value(type));
    for (size_t i = 0; i < json_array_size(type); i++)
        if (json_is_string(json_array_get(type, i)) &&
            is_of_type(v, json_string_value(json_array_get(type, i))))
            return true;
    return false;
}

/* One of the schemas of a choice; a "type" beside the choice holds for those that have none. */
static vd_expr choice_at(struct schema *s, json_t *one, const json_t *type, const char *name)
{
    bool has = json_object_get(one, "type") || json_object_get(one, "$ref");
    if (!type || !json_is_object(one))
        return value_at(s, one, name);
    if (has && !json_equal(json_object_get(one, "type"), type))
        return bad(s, "'type' beside '%s', which says another one", name);
    if (has)
        return value_at(s, one, name);
    json_t *copy = json_copy(one);
    json_object_set(copy, "type", (json_t *)(uintptr_t)type);
    vd_expr e = copy ? value_at(s, copy, name) : 0;
    json_decref(copy);
    return e;
}

static vd_expr choice_of(struct schema *s, const json_t *list, const json_t *type, const char *key)
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
        e[i] = choice_at(s, json_array_get(list, i), type, name);
    }
    return vd_rules_alt(s->r, e, n);
}

/* The values that the type allows. */
static vd_expr enum_of(struct schema *s, const json_t *list, const json_t *type)
{
    vd_expr e[MEMBERS_MAX];
    size_t n = 0;
    if (json_array_size(list) < 1 || json_array_size(list) > MEMBERS_MAX)
        return bad(s, "'enum' must be a list of 1 to %d values", MEMBERS_MAX);
    for (size_t i = 0; i < json_array_size(list); i++)
        if (type_allows(type, json_array_get(list, i)))
            e[n++] = json_text(s, json_array_get(list, i));
    return n ? vd_rules_alt(s->r, e, n) : bad(s, "no value of 'enum' is of the 'type'");
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
        bool array = json_object_get(o, "items") || json_object_get(o, "prefixItems") ||
                     json_object_get(o, "minItems") || json_object_get(o, "maxItems");
        if (object || array)
            return object ? object_of(s, o) : array_of(s, o);
        if (json_object_get(o, "minLength") || json_object_get(o, "maxLength") ||
            json_object_get(o, "pattern"))
            return string_of(s, o);
        if (json_object_get(o, "minimum") || json_object_get(o, "maximum") ||
            json_object_get(o, "exclusiveMinimum") || json_object_get(o, "exclusiveMaximum"))
            return number_of(s, o, false);
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
        const json_t *to = resolve(s, json_string_value(v)), *own = json_object_get(o, "type");
        if (to && own && !json_equal(json_object_get(to, "type"), own))
            return bad(s, "'type' beside '$ref', which says another one");
        return to && keywords_ok(s, o, "$ref") ? ref_of(s, json_string_value(v)) : 0;
    }
    const json_t *type = json_object_get(o, "type");
    if ((v = json_object_get(o, "const")) != NULL) {
        if (!type_allows(type, v))
            return bad(s, "'const' is not of the 'type'");
        return keywords_ok(s, o, "const") ? json_text(s, v) : 0;
    }
    if ((v = json_object_get(o, "enum")) != NULL)
        return keywords_ok(s, o, "enum") ? enum_of(s, v, type) : 0;
    for (size_t i = 0; i < 3; i++)
        if ((v = json_object_get(o, choices[i])) != NULL)
            return keywords_ok(s, o, choices[i]) ? choice_of(s, v, type, choices[i]) : 0;
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

/* ---- parts for what holds schemas ---- */

struct schema *vd_schema_new(struct vd_rules *r, struct vd_error *err)
{
    struct schema *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->r = r;
    s->err = err;
    make_basics(s);
    return s;
}

void vd_schema_free(struct schema *s)
{
    free(s);
}

enum vd_err vd_schema_status(const struct schema *s)
{
    return s->e;
}

void vd_schema_fail(struct schema *s, const char *path, const char *what)
{
    snprintf(s->path, sizeof s->path, "%.200s", path);
    bad(s, "%s", what);
}

vd_expr vd_schema_part(struct schema *s, const json_t *root, const json_t *part, const char *path)
{
    snprintf(s->path, sizeof s->path, "%.200s", path);
    s->root = root;
    return value_of(s, part);
}

vd_expr vd_schema_any_object(struct schema *s)
{
    return any_object(s, any_value(s));
}

vd_expr vd_schema_space(struct schema *s)
{
    return s->space;
}

vd_expr vd_schema_text(struct schema *s, const json_t *v)
{
    return json_text(s, v);
}

vd_expr vd_schema_shared(struct schema *s, const char *name, vd_expr body)
{
    return shared(s, name, body);
}

/* ---- whole schemas ---- */

static enum vd_err read_schema(struct schema *s, json_t **json, const char *text, size_t n, uint32_t *rule)
{
    json_error_t why;
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
    struct vd_rules *r = vd_rules_new();
    struct schema *s = r ? vd_schema_new(r, err) : NULL;
    json_t *json = NULL;
    uint32_t rule = 0;
    enum vd_err e =
        s ? read_schema(s, &json, text, n, &rule) : vd_error_set(err, VD_ENOMEM, "no memory for a schema");
    if (e == VD_OK)
        e = vd_rules_compile(r, rule, texts_root, out, n_out, err);
    json_decref(json);
    vd_rules_free(r);
    vd_schema_free(s);
    return e;
}
