/* Strings as Python has them: methods and what filters share with them, one table row per method. Positions
 * and widths count characters. A letter's upper case is looked for in the table of lower cases, so the few
 * letters whose upper case is several characters stay as they are (but for the German sharp s), and a capital
 * sigma at a word's end becomes the common small one. */
#include "vd_template_impl.h"

#include "vd_unicode.h"

#include <stdio.h>

/* Takes back what was allocated last and not used. */
static void give_back(struct vd_run *r, size_t n_bytes)
{
    r->arena.used_bytes -= n_bytes;
}

/* ---- strip ---- */

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

static struct vd_str strip(struct vd_str s, struct vd_str set, bool left, bool right)
{
    size_t len;
    while (left && (len = strip_at(s, set, true)) > 0)
        s = (struct vd_str){s.p + len, s.n - len};
    while (right && (len = strip_at(s, set, false)) > 0)
        s.n -= len;
    return s;
}

struct vd_str vd_string_trim(struct vd_str s)
{
    return strip(s, (struct vd_str){"", 0}, true, true);
}

/* The set is the argument `chars`: none or an absent one is white space, an empty one strips nothing. */
bool vd_string_strip(struct vd_run *r, struct vd_str s, const struct vd_args *a, bool left, bool right,
                     struct vd_value *out)
{
    const struct vd_value *chars = vd_args_find(a, 0, "chars");
    struct vd_str set = {"", 0};
    bool given = chars && chars->type != VD_VALUE_NONE;
    if ((given && !vd_args_str(r, a, 0, "chars", NULL, &set)) ||
        !vd_run_charge(r, (uint64_t)(s.n / 32) * (1 + set.n / 32)))
        return false;
    if (!given || set.n > 0)
        s = strip(s, set, left, right);
    *out = vd_value_str(s.p, s.n);
    return true;
}

/* ---- upper and lower case ---- */

static uint32_t upper_of(uint32_t c)
{
    static const uint32_t others[][2] = {{0xB5, 0x39C},  {0x131, 'I'},   {0x17F, 'S'},
                                         {0x3C2, 0x3A3}, {0x3D0, 0x392}, {0x3D1, 0x398}};
    if (c < 0x80)
        return c >= 'a' && c <= 'z' ? c - 32 : c;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (others[i][0] == c)
            return others[i][1];
    for (size_t i = 0; i < VD_UNICODE_LOWERS; i++)
        if (vd_unicode_lower_map[i][1] == c)
            return vd_unicode_lower_map[i][0];
    return c;
}

static bool is_cased(uint32_t c)
{
    return vd_unicode_lower(c) != c || upper_of(c) != c;
}

/* What a character becomes; `first`: it begins a word or the text. */
static uint32_t recase(uint32_t c, enum vd_letter_case to, bool first)
{
    if (to == VD_CASE_SWAP) {
        uint32_t lower = vd_unicode_lower(c);
        return lower != c ? lower : upper_of(c);
    }
    return to == VD_CASE_UPPER || (to != VD_CASE_LOWER && first) ? upper_of(c) : vd_unicode_lower(c);
}

static size_t write_cased(char *to, uint32_t c, enum vd_letter_case how, bool first)
{
    bool up = how == VD_CASE_UPPER || how == VD_CASE_SWAP || (how != VD_CASE_LOWER && first);
    if (c == 0xDF && up) {
        memcpy(to, how == VD_CASE_UPPER || how == VD_CASE_SWAP ? "SS" : "Ss", 2);
        return 2;
    }
    size_t n = vd_utf8_write((uint8_t *)to, recase(c, how, first));
    if (c == 0x130 && !up)
        n += vd_utf8_write((uint8_t *)to + n, 0x307);
    return n;
}

bool vd_string_case(struct vd_run *r, struct vd_str s, enum vd_letter_case to, struct vd_value *out)
{
    size_t n = 0,
           n_max = 3 * s.n; /* a byte that is not UTF-8 becomes the three of U+FFFD; no character doubles */
    char *p = vd_run_alloc(r, n_max);
    bool first = true;
    uint32_t c;
    if (!p)
        return false;
    for (size_t i = 0, len; i < s.n; i += len) {
        len = vd_utf8_read((const uint8_t *)s.p + i, s.n - i, &c);
        n += write_cased(p + n, c, to, first);
        first = to == VD_CASE_TITLE && !is_cased(c);
        if (c >= 0x80 && !vd_run_charge(r, VD_UNICODE_LOWERS / 32))
            return false;
    }
    give_back(r, n_max - n);
    *out = vd_value_str(p, n);
    return true;
}

/* ---- find and replace ---- */

/* The next place of `what` in s from `at` on; s.n if there is none. */
static size_t find(struct vd_str s, size_t at, struct vd_str what)
{
    const char *hit = what.n <= s.n - at ? memmem(s.p + at, s.n - at, what.p, what.n) : NULL;
    return hit ? (size_t)(hit - s.p) : s.n;
}

/* `new` between all characters of s, and at both ends. */
static bool replace_empty(struct vd_run *r, struct vd_str s, struct vd_str new, int64_t count,
                          struct vd_value *out)
{
    uint32_t c;
    *out = vd_value_str("", 0);
    for (size_t at = 0, len; count != 0; at += len, count--) {
        if (!vd_op_concat(r, out->s, new, out))
            return false;
        if (at >= s.n)
            return true;
        len = vd_utf8_read((const uint8_t *)s.p + at, s.n - at, &c);
        if (!vd_op_concat(r, out->s, (struct vd_str){s.p + at, len}, out) || !vd_run_charge(r, 1))
            return false;
        if (count == 1)
            return vd_op_concat(r, out->s, (struct vd_str){s.p + at + len, s.n - at - len}, out);
    }
    *out = vd_value_str(s.p, s.n);
    return true;
}

bool vd_string_replace(struct vd_run *r, struct vd_str s, const struct vd_args *a, struct vd_value *out)
{
    struct vd_str old, new;
    int64_t count;
    if (!vd_args_str(r, a, 0, "old", NULL, &old) || !vd_args_str(r, a, 1, "new", NULL, &new) ||
        !vd_args_int(r, a, 2, "count", -1, &count))
        return false;
    if (old.n == 0)
        return replace_empty(r, s, new, count, out);
    if (!vd_run_charge(r, s.n / 32))
        return false;
    *out = vd_value_str("", 0);
    for (size_t at = 0;;) {
        size_t hit = count == 0 ? s.n : find(s, at, old);
        if (!vd_op_concat(r, out->s, (struct vd_str){s.p + at, hit - at}, out) || !vd_run_charge(r, 1))
            return false;
        if (hit == s.n)
            return true;
        if (!vd_op_concat(r, out->s, new, out))
            return false;
        at = hit + old.n;
        count--;
    }
}

/* The byte where character i of s begins; s.n from the end on. */
static size_t byte_of(struct vd_str s, int64_t i)
{
    uint32_t c;
    size_t at = 0;
    for (; i > 0 && at < s.n; i--)
        at += vd_utf8_read((const uint8_t *)s.p + at, s.n - at, &c);
    return at;
}

/* s[start:end] of the arguments from 1 on, as find, count and others take them. *start: its first character.
 */
static bool window(struct vd_run *r, const struct vd_args *a, struct vd_str *s, int64_t *start)
{
    int64_t n = (int64_t)vd_string_count(*s), end;
    if (!vd_args_int(r, a, 1, "start", 0, start) || !vd_args_int(r, a, 2, "end", n, &end) ||
        !vd_run_charge(r, s->n / 16))
        return false;
    *start = *start < -n ? 0 : *start < 0 ? *start + n : *start;
    end = end < -n ? 0 : end < 0 ? end + n : end > n ? n : end;
    if (*start > end) { /* nothing is found there, not even the empty string */
        *s = (struct vd_str){NULL, 0};
        return true;
    }
    size_t from = byte_of(*s, *start), to = byte_of(*s, end);
    *s = (struct vd_str){s->p + from, to - from};
    return true;
}

/* The byte of the first or last place of `what`, or -1. */
static int64_t place(struct vd_str s, struct vd_str what, bool last)
{
    if (!s.p || what.n > s.n)
        return -1;
    if (!last) {
        const char *hit = memmem(s.p, s.n, what.p, what.n);
        return hit ? hit - s.p : what.n == 0 ? 0 : -1;
    }
    for (size_t i = s.n - what.n + 1; i-- > 0;)
        if (memcmp(s.p + i, what.p, what.n) == 0)
            return (int64_t)i;
    return -1;
}

/* find, rfind; index and rindex fail where those give -1. */
static bool locate(struct vd_run *r, struct vd_str s, const struct vd_args *a, bool last, bool must,
                   struct vd_value *out)
{
    struct vd_str what, in = s;
    int64_t start;
    if (!vd_args_str(r, a, 0, "sub", NULL, &what) || !window(r, a, &in, &start) ||
        !vd_run_charge(r, last ? (s.n / 32) * (1 + what.n / 32) : s.n / 32))
        return false;
    int64_t at = place(in, what, last);
    if (at < 0 && must)
        return vd_run_fail(r, VD_EFORMAT, "the text is not found");
    *out = vd_value_int(at < 0 ? -1 : start + (int64_t)vd_string_count((struct vd_str){in.p, (size_t)at}));
    return true;
}

static bool count(struct vd_run *r, struct vd_str s, const struct vd_args *a, struct vd_value *out)
{
    struct vd_str what;
    int64_t start, n = 0;
    if (!vd_args_str(r, a, 0, "sub", NULL, &what) || !window(r, a, &s, &start) || !vd_run_charge(r, s.n / 32))
        return false;
    if (what.n == 0)
        n = s.p ? (int64_t)vd_string_count(s) + 1 : 0;
    for (size_t at = 0; what.n > 0 && (at = find(s, at, what)) < s.n; at += what.n)
        n++;
    *out = vd_value_int(n);
    return true;
}

/* Whether s starts or ends with one of a string or tuple of strings. */
static bool has_end(struct vd_run *r, struct vd_str s, const struct vd_args *a, bool front,
                    struct vd_value *out)
{
    const struct vd_value *ends = &a->v[0], *p = ends->type == VD_VALUE_LIST ? ends->list.p : ends;
    size_t n = ends->type == VD_VALUE_LIST ? ends->list.n : 1;
    int64_t start;
    bool list = ends->type == VD_VALUE_LIST && !ends->is_tuple;
    *out = vd_value_bool(false);
    if (a->n > 1 && !window(r, a, &s, &start))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (p[i].type != VD_VALUE_STR || list)
            return vd_run_fail(r, VD_EFORMAT, "startswith and endswith need a string or a tuple of strings");
        struct vd_str e = p[i].s;
        if (!vd_run_charge(r, 1 + e.n / 32))
            return false;
        if (s.p && e.n <= s.n && (e.n == 0 || memcmp(front ? s.p : s.p + s.n - e.n, e.p, e.n) == 0))
            *out = vd_value_bool(true);
    }
    return true;
}

static bool remove_end(struct vd_run *r, struct vd_str s, const struct vd_args *a, bool front,
                       struct vd_value *out)
{
    struct vd_str e;
    if (!vd_args_str(r, a, 0, front ? "prefix" : "suffix", NULL, &e) || !vd_run_charge(r, e.n / 32))
        return false;
    bool has = e.n <= s.n && e.n > 0 && memcmp(front ? s.p : s.p + s.n - e.n, e.p, e.n) == 0;
    *out = vd_value_str(has && front ? s.p + e.n : s.p, has ? s.n - e.n : s.n);
    return true;
}

/* ---- split and join ---- */

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

/* The same from the end. */
static struct vd_str split_off_last(struct vd_str *s, struct vd_str sep, bool last, bool *more)
{
    size_t start = 0, skip = 0;
    if (sep.n > 0 && !last) {
        int64_t at = place(*s, sep, true);
        start = at < 0 ? 0 : (size_t)at + sep.n;
        skip = at < 0 ? 0 : sep.n;
    } else if (!last) {
        for (start = s->n; start > 0 && (skip = vd_space_before(s->p, start)) == 0;)
            start--;
    }
    struct vd_str part = {s->p + start, s->n - start};
    s->n = start - skip;
    if (sep.n == 0)
        *s = strip(*s, sep, false, true);
    *more = sep.n > 0 ? skip > 0 : s->n > 0;
    return part;
}

/* Parts of s: at most max + 1 of them, any number if max is negative. */
static bool split(struct vd_run *r, struct vd_str s, const struct vd_args *a, bool from_end,
                  struct vd_value *out)
{
    struct vd_str sep = {"", 0};
    int64_t max;
    const struct vd_value *v = vd_args_find(a, 0, "sep");
    if (v && v->type != VD_VALUE_NONE && (!vd_args_str(r, a, 0, "sep", NULL, &sep) || sep.n == 0))
        return vd_run_fail(r, VD_EFORMAT, "the argument sep must be a string that is not empty");
    if (!vd_args_int(r, a, 1, "maxsplit", -1, &max) ||
        !vd_run_charge(r, (s.n / 32) * (from_end ? 1 + sep.n / 32 : 1)))
        return false;
    if (sep.n == 0)
        s = strip(s, sep, !from_end || max < 0, from_end || max < 0);
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
        bool last = max >= 0 && n == (size_t)max;
        struct vd_str part =
            from_end ? split_off_last(&s, sep, last, &more) : split_off(&s, sep, last, &more);
        parts[n++] = vd_value_str(part.p, part.n);
    }
    for (size_t i = 0; from_end && i < n / 2; i++) {
        struct vd_value x = parts[i];
        parts[i] = parts[n - 1 - i];
        parts[n - 1 - i] = x;
    }
    give_back(r, (most - n) * sizeof *parts);
    *out = vd_value_list(parts, n);
    return true;
}

static bool partition(struct vd_run *r, struct vd_str s, const struct vd_args *a, bool last,
                      struct vd_value *out)
{
    struct vd_str sep;
    struct vd_value *p = vd_run_alloc(r, 3 * sizeof *p);
    if (!p || !vd_args_str(r, a, 0, "sep", NULL, &sep) ||
        !vd_run_charge(r, (s.n / 32) * (last ? 1 + sep.n / 32 : 1)))
        return false;
    if (sep.n == 0)
        return vd_run_fail(r, VD_EFORMAT, "the argument sep must be a string that is not empty");
    int64_t at = place(s, sep, last);
    size_t whole = at < 0 ? (last ? 0 : s.n) : (size_t)at;
    p[0] = vd_value_str(s.p, whole);
    p[1] = at < 0 ? vd_value_str("", 0) : vd_value_str(s.p + at, sep.n);
    p[2] = vd_value_str(s.p + whole + p[1].s.n, s.n - whole - p[1].s.n);
    *out = vd_value_list(p, 3);
    out->is_tuple = true;
    return true;
}

/* The line end at p as Python's splitlines sees it: its bytes, or 0. */
static size_t line_end(const char *p, size_t n)
{
    uint8_t c = (uint8_t)*p;
    if (c == '\r' && n > 1 && p[1] == '\n')
        return 2;
    if (c == '\n' || c == '\r' || c == '\v' || c == '\f' || (c >= 0x1c && c <= 0x1e))
        return 1;
    if (n > 1 && memcmp(p, "\xC2\x85", 2) == 0)
        return 2;
    return n > 2 && (memcmp(p, "\xE2\x80\xA8", 3) == 0 || memcmp(p, "\xE2\x80\xA9", 3) == 0) ? 3 : 0;
}

bool vd_string_lines(struct vd_run *r, struct vd_str s, bool keep_ends, struct vd_value *out)
{
    size_t n = 0, most = 1, len;
    for (size_t i = 0; i < s.n; i++)
        most += line_end(s.p + i, s.n - i) > 0;
    struct vd_value *p = vd_run_charge(r, s.n / 8) ? vd_run_alloc(r, most * sizeof *p) : NULL;
    if (!p)
        return false;
    for (size_t start = 0, i = 0; i < s.n; i += len ? len : 1) {
        len = line_end(s.p + i, s.n - i);
        size_t end = len ? i : i + 1;
        if (!len && end < s.n)
            continue;
        p[n++] = vd_value_str(s.p + start, end - start + (keep_ends ? len : 0));
        start = i + len;
    }
    *out = vd_value_list(p, n);
    return true;
}

bool vd_string_join(struct vd_run *r, const struct vd_value *list, struct vd_str sep, struct vd_value *out)
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

/* Python's str.join: only strings. */
static bool join_method(struct vd_run *r, struct vd_str sep, const struct vd_args *a, struct vd_value *out)
{
    struct vd_value items;
    if (!vd_op_iterate(r, &a->v[0], &items))
        return false;
    for (size_t i = 0; i < items.list.n; i++)
        if (items.list.p[i].type != VD_VALUE_STR)
            return vd_run_fail(r, VD_EFORMAT, "join: item %zu is %s, not a string", i,
                               vd_value_type_name(items.list.p[i].type));
    return vd_string_join(r, &items, sep, out);
}

/* ---- the rest ---- */

bool vd_string_escape(struct vd_run *r, struct vd_str s, struct vd_value *out)
{
    static const struct {
        char c;
        const char *text;
    } all[] = {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'\'', "&#39;"}, {'"', "&#34;"}};
    size_t n = 0;
    char *p = vd_run_alloc(r, 5 * s.n + 1); /* and a NUL */
    if (!p)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        size_t k = 0;
        while (k < 5 && all[k].c != s.p[i])
            k++;
        if (k == 5)
            p[n++] = s.p[i];
        else
            n = (size_t)(stpcpy(p + n, all[k].text) - p);
    }
    give_back(r, 5 * s.n + 1 - n);
    *out = vd_value_str(p, n);
    out->is_markup = true;
    return true;
}

/* `fill` up to a width: left of it, right of it or on both sides; after a sign if that is asked for. */
static bool pad(struct vd_run *r, struct vd_str s, int64_t width, struct vd_str fill, int64_t left_share,
                struct vd_value *out)
{
    int64_t n = (int64_t)vd_string_count(s);
    uint64_t total;
    *out = vd_value_str(s.p, s.n);
    n = width > n ? width - n : 0;
    if (n == 0)
        return vd_run_charge(r, s.n / 32);
    if (__builtin_mul_overflow((uint64_t)n, fill.n, &total) || total > r->arena.size_bytes)
        return vd_run_fail(r, VD_ELIMIT, "a width of %lld is too large", (long long)width);
    char *p = vd_run_alloc(r, s.n + (size_t)total), *to = p;
    if (!p)
        return false;
    int64_t left = left_share == 2 ? n : left_share == 0 ? 0 : n / 2 + (n & width & 1);
    for (int64_t i = 0; i < left; i++, to += fill.n)
        memcpy(to, fill.p, fill.n);
    memcpy(to, s.n ? s.p : "", s.n);
    to += s.n;
    for (int64_t i = left; i < n; i++, to += fill.n)
        memcpy(to, fill.p, fill.n);
    *out = vd_value_str(p, s.n + (size_t)total);
    return true;
}

static bool zfill(struct vd_run *r, struct vd_str s, int64_t width, struct vd_value *out)
{
    bool sign = s.n && (s.p[0] == '-' || s.p[0] == '+');
    struct vd_str rest = {s.p + sign, s.n - sign}, plus = {s.p, sign};
    if (!sign)
        return pad(r, s, width, vd_str_of("0"), 2, out);
    return pad(r, rest, width > 0 ? width - 1 : 0, vd_str_of("0"), 2, out) &&
           vd_op_concat(r, plus, out->s, out);
}

/* isdigit and the like of a non-empty text whose characters all have the class. */
static bool is_all(struct vd_run *r, struct vd_str s, bool letters, bool digits, bool space,
                   struct vd_value *out)
{
    uint32_t c;
    bool all = s.n > 0;
    for (size_t i = 0, len; i < s.n && all; i += len) {
        len = vd_utf8_read((const uint8_t *)s.p + i, s.n - i, &c);
        uint32_t category = vd_unicode_flags(c) & VD_UFLAG_CATEGORY;
        if (digits && category == VD_UCAT_NUMBER && c >= 0x80)
            return vd_run_fail(r, VD_EUNSUPPORTED, "isdigit and its like are for ASCII digits only");
        all = (letters && category == VD_UCAT_LETTER) || (digits && c >= '0' && c <= '9') ||
              (space && vd_space_at(s.p + i, s.n - i) > 0);
    }
    *out = vd_value_bool(all);
    return vd_run_charge(r, s.n / 8);
}

/* isupper, islower: at least one letter with case, and none of the other case. */
static bool is_case(struct vd_run *r, struct vd_str s, bool upper, struct vd_value *out)
{
    bool any = false, other = false;
    uint32_t c;
    for (size_t i = 0, len; i < s.n; i += len) {
        len = vd_utf8_read((const uint8_t *)s.p + i, s.n - i, &c);
        bool is_upper = vd_unicode_lower(c) != c, is_lower = !is_upper && upper_of(c) != c;
        any |= is_upper || is_lower;
        other |= upper ? is_lower : is_upper;
        if (c >= 0x80 && !vd_run_charge(r, VD_UNICODE_LOWERS / 32))
            return false;
    }
    *out = vd_value_bool(any && !other);
    return vd_run_charge(r, s.n / 8);
}

/* ---- the table ---- */

enum method_id {
    M_STRIP,
    M_LSTRIP,
    M_RSTRIP,
    M_STARTSWITH,
    M_ENDSWITH,
    M_REMOVEPREFIX,
    M_REMOVESUFFIX,
    M_SPLIT,
    M_RSPLIT,
    M_SPLITLINES,
    M_PARTITION,
    M_RPARTITION,
    M_UPPER,
    M_LOWER,
    M_TITLE,
    M_CAPITALIZE,
    M_SWAPCASE,
    M_REPLACE,
    M_JOIN,
    M_FIND,
    M_RFIND,
    M_INDEX,
    M_RINDEX,
    M_COUNT,
    M_FORMAT,
    M_CENTER,
    M_LJUST,
    M_RJUST,
    M_ZFILL,
    M_ISDIGIT,
    M_ISALPHA,
    M_ISALNUM,
    M_ISSPACE,
    M_ISUPPER,
    M_ISLOWER,
};

static const struct {
    const char *name;
    enum method_id id;
    size_t args_min, args_max;
} methods[] = {
    {"strip", M_STRIP, 0, 1},
    {"lstrip", M_LSTRIP, 0, 1},
    {"rstrip", M_RSTRIP, 0, 1},
    {"startswith", M_STARTSWITH, 1, 3},
    {"endswith", M_ENDSWITH, 1, 3},
    {"removeprefix", M_REMOVEPREFIX, 1, 1},
    {"removesuffix", M_REMOVESUFFIX, 1, 1},
    {"split", M_SPLIT, 0, 2},
    {"rsplit", M_RSPLIT, 0, 2},
    {"splitlines", M_SPLITLINES, 0, 1},
    {"partition", M_PARTITION, 1, 1},
    {"rpartition", M_RPARTITION, 1, 1},
    {"upper", M_UPPER, 0, 0},
    {"lower", M_LOWER, 0, 0},
    {"title", M_TITLE, 0, 0},
    {"capitalize", M_CAPITALIZE, 0, 0},
    {"swapcase", M_SWAPCASE, 0, 0},
    {"replace", M_REPLACE, 2, 3},
    {"join", M_JOIN, 1, 1},
    {"find", M_FIND, 1, 3},
    {"rfind", M_RFIND, 1, 3},
    {"index", M_INDEX, 1, 3},
    {"rindex", M_RINDEX, 1, 3},
    {"count", M_COUNT, 1, 3},
    {"format", M_FORMAT, 0, VD_ARGS_MAX},
    {"center", M_CENTER, 1, 2},
    {"ljust", M_LJUST, 1, 2},
    {"rjust", M_RJUST, 1, 2},
    {"zfill", M_ZFILL, 1, 1},
    {"isdigit", M_ISDIGIT, 0, 0},
    {"isnumeric", M_ISDIGIT, 0, 0},
    {"isdecimal", M_ISDIGIT, 0, 0},
    {"isalpha", M_ISALPHA, 0, 0},
    {"isalnum", M_ISALNUM, 0, 0},
    {"isspace", M_ISSPACE, 0, 0},
    {"isupper", M_ISUPPER, 0, 0},
    {"islower", M_ISLOWER, 0, 0},
};

static bool run_padding(struct vd_run *r, enum method_id id, struct vd_str s, const struct vd_args *a,
                        struct vd_value *out)
{
    struct vd_str fill;
    int64_t width;
    if (!vd_args_int(r, a, 0, "width", 0, &width) || !vd_args_str(r, a, 1, "fillchar", " ", &fill))
        return false;
    if (id == M_ZFILL)
        return zfill(r, s, width, out);
    if (vd_string_count(fill) != 1)
        return vd_run_fail(r, VD_EFORMAT, "the fill must be one character");
    return pad(r, s, width, fill, id == M_RJUST ? 2 : id == M_LJUST ? 0 : 1, out);
}

static bool run_method(struct vd_run *r, enum method_id id, struct vd_str s, const struct vd_args *a,
                       struct vd_value *out)
{
    switch (id) {
    case M_STRIP:
    case M_LSTRIP:
    case M_RSTRIP:
        return vd_string_strip(r, s, a, id != M_RSTRIP, id != M_LSTRIP, out);
    case M_STARTSWITH:
    case M_ENDSWITH:
        return has_end(r, s, a, id == M_STARTSWITH, out);
    case M_REMOVEPREFIX:
    case M_REMOVESUFFIX:
        return remove_end(r, s, a, id == M_REMOVEPREFIX, out);
    case M_SPLIT:
    case M_RSPLIT:
        return split(r, s, a, id == M_RSPLIT, out);
    case M_SPLITLINES:
        return vd_string_lines(r, s, vd_args_truth(a, 0, "keepends", false), out);
    case M_PARTITION:
    case M_RPARTITION:
        return partition(r, s, a, id == M_RPARTITION, out);
    case M_UPPER:
        return vd_string_case(r, s, VD_CASE_UPPER, out);
    case M_LOWER:
        return vd_string_case(r, s, VD_CASE_LOWER, out);
    case M_TITLE:
        return vd_string_case(r, s, VD_CASE_TITLE, out);
    case M_CAPITALIZE:
        return vd_string_case(r, s, VD_CASE_CAPITAL, out);
    case M_SWAPCASE:
        return vd_string_case(r, s, VD_CASE_SWAP, out);
    case M_REPLACE:
        return vd_string_replace(r, s, a, out);
    case M_JOIN:
        return join_method(r, s, a, out);
    case M_FIND:
    case M_RFIND:
    case M_INDEX:
    case M_RINDEX:
        return locate(r, s, a, id == M_RFIND || id == M_RINDEX, id == M_INDEX || id == M_RINDEX, out);
    case M_COUNT:
        return count(r, s, a, out);
    case M_FORMAT:
        return vd_format_braces(r, s, a, out);
    case M_CENTER:
    case M_LJUST:
    case M_RJUST:
    case M_ZFILL:
        return run_padding(r, id, s, a, out);
    case M_ISDIGIT:
    case M_ISALPHA:
    case M_ISALNUM:
    case M_ISSPACE:
        return is_all(r, s, id == M_ISALPHA || id == M_ISALNUM, id == M_ISDIGIT || id == M_ISALNUM,
                      id == M_ISSPACE, out);
    case M_ISUPPER:
    case M_ISLOWER:
        return is_case(r, s, id == M_ISUPPER, out);
    }
    return false;
}

bool vd_string_method(struct vd_run *r, struct vd_str name, const struct vd_value *self,
                      const struct vd_args *a, struct vd_value *out, bool *found)
{
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        if (!vd_str_is(name, methods[i].name))
            continue;
        *found = true;
        return a->n >= methods[i].args_min && a->n <= methods[i].args_max
                   ? run_method(r, methods[i].id, self->s, a, out)
                   : vd_args_wrong(r, name);
    }
    *found = false;
    return true;
}
