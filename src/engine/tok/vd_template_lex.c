/* Jinja's lexer, rule by rule: what a tag's signs and the two settings trim_blocks and lstrip_blocks take
 * from the text around it is the whole difficulty. `line_starting` is Jinja's: the last thing matched ended
 * with a newline. */
#include "vd_template_impl.h"

#include "vd_unicode.h"

#include <stdarg.h>
#include <stdio.h>

enum vd_err vd_template_error(struct vd_error *err, enum vd_err code, uint32_t line, const char *fmt, ...)
{
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return vd_error_set(err, code, "chat template, line %u: %s", line, text);
}

size_t vd_space_at(const char *p, size_t n)
{
    if (n == 0)
        return 0;
    uint8_t c = (uint8_t)*p;
    if (c < 0x80)
        return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f);
    uint32_t cpt;
    size_t len = vd_utf8_read((const uint8_t *)p, n, &cpt);
    return vd_unicode_flags(cpt) & VD_UFLAG_SPACE ? len : 0;
}

size_t vd_space_before(const char *p, size_t n)
{
    size_t len = 1;
    while (len < n && len < 4 && ((uint8_t)p[n - len] & 0xC0) == 0x80)
        len++;
    return n > 0 && vd_space_at(p + n - len, len) == len ? len : 0;
}

static struct vd_str strip_right(struct vd_str s)
{
    for (size_t len; (len = vd_space_before(s.p, s.n)) > 0;)
        s.n -= len;
    return s;
}

static void advance(struct vd_lexer *l, size_t n)
{
    for (size_t i = 0; i < n; i++)
        l->line += l->p[l->at + i] == '\n';
    l->at += n;
}

static bool starts(const struct vd_lexer *l, const char *text)
{
    size_t n = strlen(text);
    return n <= l->n - l->at && memcmp(l->p + l->at, text, n) == 0;
}

static void skip_space(struct vd_lexer *l)
{
    for (size_t len; (len = vd_space_at(l->p + l->at, l->n - l->at)) > 0;)
        advance(l, len);
}

/* What follows the closing bracket pair of a tag: -%} eats all white space, %} one newline, +%} and }}
 * nothing. */
static void after_tag(struct vd_lexer *l, char sign, bool trim)
{
    if (sign == '-')
        skip_space(l);
    else if (trim && sign != '+' && l->at < l->n && l->p[l->at] == '\n')
        advance(l, 1);
    l->line_starting = l->at > 0 && l->p[l->at - 1] == '\n';
}

/* If lstrip_blocks applies to the text before a tag: cut the blanks since its last newline. */
static struct vd_str strip_line(const struct vd_lexer *l, struct vd_str s)
{
    size_t start = s.n;
    while (start > 0 && s.p[start - 1] != '\n')
        start--;
    if (start == 0 && !l->line_starting)
        return s;
    for (size_t i = start, len; i < s.n; i += len)
        if ((len = vd_space_at(s.p + i, s.n - i)) == 0)
            return s;
    return (struct vd_str){s.p, start};
}

static enum vd_err skip_comment(struct vd_lexer *l)
{
    uint32_t line = l->line;
    for (; l->at < l->n; advance(l, 1)) {
        char sign = l->p[l->at];
        bool signed_end =
            (sign == '-' || sign == '+') && l->n - l->at > 2 && memcmp(l->p + l->at + 1, "#}", 2) == 0;
        if (!signed_end && !starts(l, "#}"))
            continue;
        advance(l, signed_end ? 3 : 2);
        after_tag(l, signed_end ? sign : 0, true);
        return VD_OK;
    }
    return vd_template_error(l->err, VD_EFORMAT, line, "a comment has no end; close it with #}");
}

/* After {% and its sign at `at`: the end of the tag {% word %}, or 0. *sign: the one before its %}. */
static size_t plain_tag(const struct vd_lexer *l, size_t at, const char *word, char *sign)
{
    size_t len, n = strlen(word);
    while ((len = vd_space_at(l->p + at, l->n - at)) > 0)
        at += len;
    if (l->n - at < n || memcmp(l->p + at, word, n) != 0)
        return 0;
    at += n;
    while ((len = vd_space_at(l->p + at, l->n - at)) > 0)
        at += len;
    *sign = at < l->n && (l->p[at] == '-' || l->p[at] == '+') ? l->p[at] : 0;
    at += *sign != 0;
    return l->n - at >= 2 && memcmp(l->p + at, "%}", 2) == 0 ? at + 2 : 0;
}

/* The text after {% raw %}, up to {% endraw %}; may be empty. l->at is after raw's %}. */
static enum vd_err lex_raw(struct vd_lexer *l, struct vd_token *out)
{
    for (size_t i = l->at; i + 1 < l->n; i++) {
        if (l->p[i] != '{' || l->p[i + 1] != '%')
            continue;
        char begin = i + 2 < l->n ? l->p[i + 2] : 0, sign;
        bool is_signed = begin == '-' || begin == '+';
        size_t end = plain_tag(l, i + 2 + is_signed, "endraw", &sign);
        if (end == 0)
            continue;
        struct vd_str data = {l->p + l->at, i - l->at};
        data = begin == '-' ? strip_right(data) : begin == '+' ? data : strip_line(l, data);
        *out = (struct vd_token){.type = VD_TOKEN_DATA, .line = l->line, .s = data};
        advance(l, end - l->at);
        after_tag(l, sign, true);
        return VD_OK;
    }
    return vd_template_error(l->err, VD_EFORMAT, l->line, "raw has no end; close it with {%% endraw %%}");
}

/* The next tag's opening, from l->at on; l->n if there is none. */
static size_t find_tag(const struct vd_lexer *l)
{
    for (size_t i = l->at; i + 1 < l->n; i++)
        if (l->p[i] == '{' && (l->p[i + 1] == '{' || l->p[i + 1] == '%' || l->p[i + 1] == '#'))
            return i;
    return l->n;
}

/* Outside of tags: the text up to the next tag, already stripped, or that tag's opening if the text is empty.
 */
static enum vd_err next_root(struct vd_lexer *l, struct vd_token *out)
{
    while (l->at < l->n) {
        size_t tag = find_tag(l);
        struct vd_str data = {l->p + l->at, tag - l->at};
        uint32_t line = l->line;
        if (tag < l->n) {
            char kind = l->p[tag + 1], sign = tag + 2 < l->n ? l->p[tag + 2] : 0;
            if (sign == '-')
                data = strip_right(data);
            else if (sign != '+' && kind != '{')
                data = strip_line(l, data);
            if (data.n == 0) {
                advance(l, tag - l->at + 2 + (sign == '-' || sign == '+'));
                l->line_starting = false;
                if (kind == '#') {
                    enum vd_err e = skip_comment(l);
                    if (e)
                        return e;
                    continue;
                }
                char end_sign;
                size_t raw = kind == '%' ? plain_tag(l, l->at, "raw", &end_sign) : 0;
                if (raw && end_sign != '+') {
                    advance(l, raw - l->at);
                    after_tag(l, end_sign, false);
                    return lex_raw(l, out);
                }
                l->state = kind == '{' ? VD_LEX_OUT : VD_LEX_BLOCK;
                *out = (struct vd_token){.type = kind == '{' ? VD_TOKEN_OUT_BEGIN : VD_TOKEN_BLOCK_BEGIN,
                                         .line = l->line};
                return VD_OK;
            }
            /* Come back for the tag with no text before it: nothing is left then for its signs to strip. */
            advance(l, tag - l->at);
            l->line_starting = false;
        } else {
            advance(l, data.n);
        }
        *out = (struct vd_token){.type = VD_TOKEN_DATA, .line = line, .s = data};
        return VD_OK;
    }
    *out = (struct vd_token){.type = VD_TOKEN_END, .line = l->line};
    return VD_OK;
}

static int hex_value(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* \xHH, \uHHHH, \UHHHHHHHH after the letter. Returns the digits read, 0 if they are wrong. */
static size_t read_hex(const char *p, size_t n, size_t digits, uint32_t *cpt)
{
    *cpt = 0;
    for (size_t i = 0; i < digits; i++) {
        int v = i < n ? hex_value(p[i]) : -1;
        if (v < 0)
            return 0;
        *cpt = *cpt << 4 | (uint32_t)v;
    }
    return *cpt <= 0x10FFFF && (*cpt < 0xD800 || *cpt > 0xDFFF) ? digits : 0;
}

/* One escape, at the character after the backslash. Returns the bytes used, 0 if it is wrong. */
static size_t unescape_one(const char *p, size_t n, char **to)
{
    static const char plain[][2] = {{'n', '\n'}, {'t', '\t'}, {'r', '\r'}, {'\\', '\\'}, {'\'', '\''},
                                    {'"', '"'},  {'a', '\a'}, {'b', '\b'}, {'f', '\f'},  {'v', '\v'}};
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
        if (p[0] == plain[i][0]) {
            *(*to)++ = plain[i][1];
            return 1;
        }
    if (p[0] == '\n')
        return 1;
    uint32_t cpt = 0;
    size_t used = 0;
    if (p[0] == 'x' || p[0] == 'u' || p[0] == 'U') {
        used = read_hex(p + 1, n - 1, p[0] == 'x' ? 2 : p[0] == 'u' ? 4 : 8, &cpt);
        if (used == 0)
            return 0;
        used++;
    } else if (p[0] >= '0' && p[0] <= '7') {
        for (; used < 3 && used < n && p[used] >= '0' && p[used] <= '7'; used++)
            cpt = cpt * 8 + (uint32_t)(p[used] - '0');
    } else if (p[0] == 'N' || (uint8_t)p[0] >= 0x80) {
        return 0;
    } else { /* Python keeps an unknown escape as it is */
        *(*to)++ = '\\';
        *(*to)++ = p[0];
        return 1;
    }
    *to += vd_utf8_write((uint8_t *)*to, cpt);
    return used;
}

static enum vd_err lex_string(struct vd_lexer *l, struct vd_token *out)
{
    char quote = l->p[l->at];
    uint32_t line = l->line;
    char *start = l->strings + l->strings_n, *to = start;
    size_t i = l->at + 1;
    while (i < l->n && l->p[i] != quote) {
        if (l->p[i] != '\\') {
            *to++ = l->p[i++];
            continue;
        }
        size_t used = i + 1 < l->n ? unescape_one(l->p + i + 1, l->n - i - 1, &to) : 0;
        if (used == 0)
            return vd_template_error(l->err, VD_EFORMAT, line,
                                     "a string has an escape that is not understood");
        i += 1 + used;
    }
    if (i >= l->n)
        return vd_template_error(l->err, VD_EFORMAT, line, "a string has no end");
    *out = (struct vd_token){.type = VD_TOKEN_STR, .line = line, .s = {start, (size_t)(to - start)}};
    l->strings_n += (size_t)(to - start);
    advance(l, i + 1 - l->at);
    return VD_OK;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_name(char c)
{
    return ((c | 32) >= 'a' && (c | 32) <= 'z') || is_digit(c) || c == '_';
}

/* The end of digits with single _ between them, from i on; i if there is none. */
static size_t skip_digits(const struct vd_lexer *l, size_t i, int base)
{
    size_t start = i, end = i;
    for (;; i++) {
        int v = i < l->n ? hex_value(l->p[i]) : -1;
        if (v >= 0 && v < base)
            end = i + 1;
        else if (i >= l->n || l->p[i] != '_' || end != i || end == start)
            return end;
    }
}

/* 12.5, 1e9, 1.5e-3: their end, or l->at if the number is an integer. */
static size_t float_end(const struct vd_lexer *l)
{
    size_t whole = skip_digits(l, l->at, 10), end = whole;
    if (l->at > 0 && l->p[l->at - 1] == '.')
        return l->at;
    if (end < l->n && l->p[end] == '.' && skip_digits(l, end + 1, 10) > end + 1)
        end = skip_digits(l, end + 1, 10);
    size_t e = end < l->n && (l->p[end] | 32) == 'e' ? end + 1 : 0;
    e += e && e < l->n && (l->p[e] == '+' || l->p[e] == '-');
    if (e && skip_digits(l, e, 10) > e)
        return skip_digits(l, e, 10);
    return end > whole ? end : l->at;
}

static enum vd_err lex_float(struct vd_lexer *l, size_t end, struct vd_token *out)
{
    double f;
    if (!vd_number_read_float((struct vd_str){l->p + l->at, end - l->at}, &f))
        return vd_template_error(l->err, VD_ELIMIT, l->line, "a number has too many digits");
    *out = (struct vd_token){.type = VD_TOKEN_FLOAT, .line = l->line, .f = f};
    l->at = end;
    return VD_OK;
}

static enum vd_err lex_number(struct vd_lexer *l, struct vd_token *out)
{
    static const char prefixes[][2] = {{'x', 16}, {'o', 8}, {'b', 2}};
    size_t end = float_end(l), at = l->at;
    int64_t v = 0;
    int base = 10;
    if (end > l->at)
        return lex_float(l, end, out);
    for (size_t i = 0; i < 3 && l->n - at > 2 && l->p[at] == '0'; i++) {
        size_t digits = at + 2 + (l->p[at + 2] == '_');
        if ((l->p[at + 1] | 32) != prefixes[i][0] || skip_digits(l, digits, prefixes[i][1]) == digits)
            continue;
        base = prefixes[i][1];
        at = digits;
        break;
    }
    end = skip_digits(l, at, base);
    for (size_t i = at; i < end; i++)
        if (l->p[i] != '_' &&
            (__builtin_mul_overflow(v, base, &v) || __builtin_add_overflow(v, hex_value(l->p[i]), &v)))
            return vd_template_error(l->err, VD_EUNSUPPORTED, l->line, "an integer is beyond 64 bits");
    if (base == 10 && l->p[at] == '0' && v != 0)
        return vd_template_error(l->err, VD_EFORMAT, l->line, "an integer begins with 0");
    *out = (struct vd_token){.type = VD_TOKEN_INT, .line = l->line, .i = v};
    l->at = end;
    return VD_OK;
}

/* Keeps the count of open brackets, inside which }} and %} are no ends. */
static enum vd_err balance(struct vd_lexer *l, char c)
{
    if (c == '(' || c == '[' || c == '{') {
        if (l->depth == sizeof l->brackets)
            return vd_template_error(l->err, VD_ELIMIT, l->line, "more than %zu brackets are open",
                                     sizeof l->brackets);
        l->brackets[l->depth++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
        if (l->depth == 0 || l->brackets[--l->depth] != c)
            return vd_template_error(l->err, VD_EFORMAT, l->line, "a %c has no partner", c);
    }
    return VD_OK;
}

static enum vd_err lex_operator(struct vd_lexer *l, struct vd_token *out)
{
    static const char *const ops[] = {"==", "!=", ">=", "<=", "//", "**", "+", "-", "/", "*", "%", "~", "[",
                                      "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        if (!starts(l, ops[i]))
            continue;
        enum vd_err e = balance(l, ops[i][0]);
        *out = (struct vd_token){.type = VD_TOKEN_OP, .line = l->line, .s = vd_str_of(ops[i])};
        l->at += strlen(ops[i]);
        return e;
    }
    return vd_template_error(l->err, VD_EFORMAT, l->line, "the byte 0x%02x is not expected here",
                             (uint8_t)l->p[l->at]);
}

/* -%} +%} %} in a block, -}} }} in an output. */
static bool lex_tag_end(struct vd_lexer *l, struct vd_token *out)
{
    bool block = l->state == VD_LEX_BLOCK;
    const char *end = block ? "%}" : "}}";
    char sign = l->p[l->at];
    bool is_signed = sign == '-' || (block && sign == '+');
    if (l->depth > 0 || l->n - l->at < 2u + is_signed || memcmp(l->p + l->at + is_signed, end, 2) != 0)
        return false;
    *out = (struct vd_token){.type = block ? VD_TOKEN_BLOCK_END : VD_TOKEN_OUT_END, .line = l->line};
    advance(l, 2u + is_signed);
    after_tag(l, is_signed ? sign : 0, block);
    l->state = VD_LEX_ROOT;
    return true;
}

enum vd_err vd_lex_next(struct vd_lexer *l, struct vd_token *out)
{
    if (l->state == VD_LEX_ROOT)
        return next_root(l, out);
    skip_space(l);
    if (l->at >= l->n)
        return vd_template_error(l->err, VD_EFORMAT, l->line, "the template ends inside a tag");
    if (lex_tag_end(l, out))
        return VD_OK;
    char c = l->p[l->at];
    if (c == '\'' || c == '"')
        return lex_string(l, out);
    if (is_digit(c))
        return lex_number(l, out);
    if (!is_name(c))
        return lex_operator(l, out);
    size_t end = l->at;
    while (end < l->n && is_name(l->p[end]))
        end++;
    *out = (struct vd_token){.type = VD_TOKEN_NAME, .line = l->line, .s = {l->p + l->at, end - l->at}};
    l->at = end;
    return VD_OK;
}
