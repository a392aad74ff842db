/* The published pre-tokenisers are regular expressions over Unicode classes. Written as code they need no
 * engine, no backtracking and no memory, and run in one pass: each function below quotes the expression that
 * it is. */
#include "vd_pretok.h"

#include "vd_unicode.h"

#include <string.h>

/* The flags of the character at p, and its length; none and 0 at the end. */
static uint32_t peek(const uint8_t *p, const uint8_t *end, size_t *len)
{
    uint32_t cpt;
    *len = 0;
    if (p >= end)
        return UINT32_MAX;
    *len = vd_utf8_read(p, (size_t)(end - p), &cpt);
    return vd_unicode_flags(cpt);
}

/* The three classes of GPT-2's expression besides white space: \p{L}, \p{N}, [^\s\p{L}\p{N}]. */
enum word_class { CLASS_LETTER, CLASS_NUMBER, CLASS_REST, CLASS_NONE };

static enum word_class class_of(uint32_t flags)
{
    if (flags == UINT32_MAX)
        return CLASS_NONE;
    if ((flags & VD_UFLAG_CATEGORY) == VD_UCAT_LETTER)
        return CLASS_LETTER;
    if ((flags & VD_UFLAG_CATEGORY) == VD_UCAT_NUMBER)
        return CLASS_NUMBER;
    return flags & VD_UFLAG_SPACE ? CLASS_NONE : CLASS_REST;
}

static const uint8_t *skip_class(const uint8_t *p, const uint8_t *end, enum word_class c)
{
    size_t len;
    while (class_of(peek(p, end, &len)) == c && len > 0)
        p += len;
    return p;
}

/* 's|'t|'re|'ve|'m|'ll|'d: the length, or 0. */
static size_t contraction(const uint8_t *p, const uint8_t *end)
{
    static const char *const two[] = {"re", "ve", "ll"};
    if (*p != '\'' || end - p < 2)
        return 0;
    if (p[1] == 's' || p[1] == 't' || p[1] == 'm' || p[1] == 'd')
        return 2;
    for (size_t i = 0; end - p >= 3 && i < 3; i++)
        if (memcmp(p + 1, two[i], 2) == 0)
            return 3;
    return 0;
}

/* \s+(?!\S)|\s+ : a run of white space but for its last character, if something follows that it could lead.
 */
static const uint8_t *split_space(const uint8_t *p, const uint8_t *end)
{
    const uint8_t *q = p, *last = p;
    size_t len;
    for (uint32_t f; (f = peek(q, end, &len)) != UINT32_MAX && (f & VD_UFLAG_SPACE); q += len)
        last = q;
    if (q == p)
        return p + len;
    return q < end && last > p ? last : q;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static const uint8_t *split_gpt2(const uint8_t *p, const uint8_t *end)
{
    size_t n = contraction(p, end), len;
    if (n)
        return p + n;
    const uint8_t *q = p + (*p == ' ');
    enum word_class c = class_of(peek(q, end, &len));
    return c != CLASS_NONE ? skip_class(q, end, c) : split_space(p, end);
}

/* ---- the expressions of Llama 3 and what descends from it ---- */

static bool is_newline(const uint8_t *p, const uint8_t *end)
{
    return p < end && (*p == '\r' || *p == '\n');
}

static const uint8_t *skip_newlines(const uint8_t *p, const uint8_t *end)
{
    while (is_newline(p, end))
        p++;
    return p;
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d): the length, or 0. */
static size_t contraction_any_case(const uint8_t *p, const uint8_t *end)
{
    uint8_t lower[3] = {*p};
    size_t n = (size_t)(end - p) < 3 ? (size_t)(end - p) : 3;
    for (size_t i = 1; i < n; i++)
        lower[i] = p[i] >= 'A' && p[i] <= 'Z' ? (uint8_t)(p[i] + 32) : p[i];
    return contraction(lower, lower + n);
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ */
static const uint8_t *split_space_lines(const uint8_t *p, const uint8_t *end)
{
    const uint8_t *after_line = NULL;
    size_t len;
    uint32_t f;
    for (const uint8_t *q = p; (f = peek(q, end, &len)) != UINT32_MAX && (f & VD_UFLAG_SPACE); q += len)
        if (is_newline(q, end))
            after_line = q + len;
    return after_line ? after_line : split_space(p, end);
}

/* Llama 3's expression, with the things in which its descendants differ: the digits that stay together,
 * whether marks count as letters, whether 's and its like are words, and whether line ends stay with the
 * signs before them. */
struct words {
    uint32_t digits_max;
    bool marks, no_contractions, bare_signs;
};

static bool is_wordy(uint32_t flags, bool marks)
{
    return class_of(flags) == CLASS_LETTER ||
           (marks && flags != UINT32_MAX && (flags & VD_UFLAG_CATEGORY) == VD_UCAT_MARK);
}

static const uint8_t *split_words(const uint8_t *p, const uint8_t *end, struct words w)
{
    size_t n = w.no_contractions ? 0 : contraction_any_case(p, end), len, next_len;
    if (n)
        return p + n;
    uint32_t flags = peek(p, end, &len), next = peek(p + len, end, &next_len);
    enum word_class c = class_of(flags);
    if (!is_newline(p, end) && c != CLASS_NUMBER && (is_wordy(flags, w.marks) || is_wordy(next, w.marks))) {
        for (p += len; is_wordy(peek(p, end, &len), w.marks);)
            p += len;
        return p;
    }
    if (c == CLASS_NUMBER) {
        for (uint32_t i = 0; i < w.digits_max && class_of(peek(p, end, &len)) == CLASS_NUMBER; i++)
            p += len;
        return p;
    }
    const uint8_t *q = p + (*p == ' ');
    if (class_of(peek(q, end, &len)) != CLASS_REST)
        return split_space_lines(p, end);
    while (class_of(flags = peek(q, end, &len)) == CLASS_REST && !is_wordy(flags, w.marks))
        q += len;
    return w.bare_signs ? q : skip_newlines(q, end);
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|
 * \s+(?!\S)|\s+ */
static const uint8_t *split_llama3(const uint8_t *p, const uint8_t *end)
{
    return split_words(p, end, (struct words){.digits_max = 3});
}

/* The same with \p{N} for \p{N}{1,3}. */
static const uint8_t *split_qwen2(const uint8_t *p, const uint8_t *end)
{
    return split_words(p, end, (struct words){.digits_max = 1});
}

/* As Qwen 2's with [\p{L}\p{M}]+ for \p{L}+ and [^\s\p{L}\p{M}\p{N}]+ for [^\s\p{L}\p{N}]+. */
static const uint8_t *split_qwen35(const uint8_t *p, const uint8_t *end)
{
    return split_words(p, end, (struct words){.digits_max = 1, .marks = true});
}

/* Llama 3's with \p{N}+ for \p{N}{1,3}. */
static const uint8_t *split_minicpm5(const uint8_t *p, const uint8_t *end)
{
    return split_words(p, end, (struct words){.digits_max = UINT32_MAX});
}

/* Qwen 2's without its contractions. */
static const uint8_t *split_ufakzeka(const uint8_t *p, const uint8_t *end)
{
    return split_words(p, end, (struct words){.digits_max = 1, .no_contractions = true});
}

/* Qwen 2's with " ?[^\s\p{L}\p{N}\r\n]+" for " ?[^\s\p{L}\p{N}]+[\r\n]*". */
static const uint8_t *split_seed_coder(const uint8_t *p, const uint8_t *end)
{
    return split_words(p, end, (struct words){.digits_max = 1, .bare_signs = true});
}

/* [^\n]+|[\n]+ */
static const uint8_t *split_lines(const uint8_t *p, const uint8_t *end)
{
    bool newline = *p == '\n';
    while (p < end && (*p == '\n') == newline)
        p++;
    return p;
}

/* ---- GPT-4o's and Mistral's tekken: words end where capitals begin ---- */

struct cased_words {
    uint32_t digits_max;
    bool contractions; /* 's and its like belong to the word before them */
};

/* In the peers a letter beyond ASCII is both upper and lower case, whatever it is. */
static bool is_upper(const uint8_t *p, uint32_t flags)
{
    return class_of(flags) == CLASS_LETTER && !(*p >= 'a' && *p <= 'z');
}

static bool is_lower(const uint8_t *p, uint32_t flags)
{
    return class_of(flags) == CLASS_LETTER && !(*p >= 'A' && *p <= 'Z');
}

/* U*L+|U+L* with backtracking: if nothing of lower case follows the capitals, the word ends after the last of
 * them that is lower case too, or else after all. */
static const uint8_t *skip_cased(const uint8_t *p, const uint8_t *end)
{
    const uint8_t *q = p, *both = NULL;
    size_t len;
    for (uint32_t f; q < end && is_upper(q, f = peek(q, end, &len)); q += len)
        both = is_lower(q, f) ? q + len : both;
    if (q < end && is_lower(q, peek(q, end, &len))) {
        while (q < end && is_lower(q, peek(q, end, &len)))
            q += len;
        return q;
    }
    return both ? both : q;
}

static const uint8_t *split_capitals(const uint8_t *p, const uint8_t *end, struct cased_words w)
{
    size_t len, next_len;
    uint32_t flags = peek(p, end, &len), next = peek(p + len, end, &next_len);
    enum word_class c = class_of(flags);
    if (c == CLASS_NUMBER) {
        for (uint32_t i = 0; i < w.digits_max && class_of(peek(p, end, &len)) == CLASS_NUMBER; i++)
            p += len;
        return p;
    }
    if (c == CLASS_LETTER || (!is_newline(p, end) && class_of(next) == CLASS_LETTER)) {
        p = skip_cased(c == CLASS_LETTER ? p : p + len, end);
        return w.contractions && p < end ? p + contraction_any_case(p, end) : p;
    }
    const uint8_t *q = p + (*p == ' ');
    if (class_of(peek(q, end, &len)) != CLASS_REST)
        return split_space_lines(p, end);
    for (q = skip_class(q, end, CLASS_REST); q < end && (is_newline(q, end) || *q == '/');)
        q++;
    return q;
}

/* [^\r\n\p{L}\p{N}]?U*L+|[^\r\n\p{L}\p{N}]?U+L*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+,
 * where U is a letter but a to z, L one but A to Z */
static const uint8_t *split_tekken(const uint8_t *p, const uint8_t *end)
{
    return split_capitals(p, end, (struct cased_words){.digits_max = 1});
}

/* The same with (?i:'s|'t|'re|'ve|'m|'ll|'d)? after each word, and \p{N}{1,3} for \p{N}. */
static const uint8_t *split_gpt4o(const uint8_t *p, const uint8_t *end)
{
    return split_capitals(p, end, (struct cased_words){3, true});
}

/* ---- expressions of which every match is a piece, and what is between two matches is one too ---- */

/* The end of the match that starts at p; p if there is none. Takes constant time if there is none. */
typedef const uint8_t *match_fn(const uint8_t *p, const uint8_t *end);

static const uint8_t *isolate(const uint8_t *p, const uint8_t *end, match_fn *match)
{
    const uint8_t *q = match(p, end);
    size_t len;
    if (q > p)
        return q;
    do {
        peek(q, end, &len);
        q += len;
    } while (q < end && match(q, end) == q);
    return q;
}

static bool is_category(uint32_t flags, enum vd_ucat c)
{
    return flags != UINT32_MAX && (flags & VD_UFLAG_CATEGORY) == c;
}

static const uint8_t *skip_category(const uint8_t *p, const uint8_t *end, enum vd_ucat c)
{
    size_t len;
    while (is_category(peek(p, end, &len), c))
        p += len;
    return p;
}

/* \s?\p{c}+ */
static const uint8_t *match_spaced(const uint8_t *p, const uint8_t *end, enum vd_ucat c)
{
    size_t len;
    uint32_t f = peek(p, end, &len);
    const uint8_t *from = f != UINT32_MAX && (f & VD_UFLAG_SPACE) ? p + len : p;
    const uint8_t *q = skip_category(from, end, c);
    return q > from ? q : p;
}

static const uint8_t *match_spaced_letters(const uint8_t *p, const uint8_t *end)
{
    return match_spaced(p, end, VD_UCAT_LETTER);
}
static const uint8_t *match_spaced_punctuation(const uint8_t *p, const uint8_t *end)
{
    return match_spaced(p, end, VD_UCAT_PUNCTUATION);
}
static const uint8_t *match_digit(const uint8_t *p, const uint8_t *end)
{
    size_t len;
    return is_category(peek(p, end, &len), VD_UCAT_NUMBER) ? p + len : p;
}
static const uint8_t *match_digits(const uint8_t *p, const uint8_t *end)
{
    return skip_category(p, end, VD_UCAT_NUMBER);
}
static const uint8_t *match_newline(const uint8_t *p, const uint8_t *end)
{
    return p + is_newline(p, end);
}

/* [0-9][0-9][0-9] */
static const uint8_t *match_three(const uint8_t *p, const uint8_t *end)
{
    if (end - p < 3)
        return p;
    for (int i = 0; i < 3; i++)
        if (p[i] < '0' || p[i] > '9')
            return p;
    return p + 3;
}

/* [\p{P}\$\+<=>\^~\|`]+ */
static const uint8_t *match_signs(const uint8_t *p, const uint8_t *end)
{
    size_t len;
    uint32_t f;
    while ((f = peek(p, end, &len)) != UINT32_MAX &&
           (is_category(f, VD_UCAT_PUNCTUATION) || (*p < 0x80 && is_category(f, VD_UCAT_SYMBOL))))
        p += len;
    return p;
}

/* [\p{P}\$\+<=>\^~\|]+ */
static const uint8_t *match_default_signs(const uint8_t *p, const uint8_t *end)
{
    size_t len;
    uint32_t f;
    while (
        (f = peek(p, end, &len)) != UINT32_MAX &&
        (is_category(f, VD_UCAT_PUNCTUATION) || (*p < 0x80 && *p != '`' && is_category(f, VD_UCAT_SYMBOL))))
        p += len;
    return p;
}

/* " ?[^(\s|.,!?\u2026\u3002\uFF0C\u3001\u0964\u06D4\u060C)]+" */
static const uint8_t *match_bloom(const uint8_t *p, const uint8_t *end)
{
    static const uint32_t ends[] = {'(',    '|',    '.',    ',',    '!',   '?',   ')',
                                    0x2026, 0x3002, 0xFF0C, 0x3001, 0x964, 0x6D4, 0x60C};
    const uint8_t *from = p + (p < end && *p == ' '), *q = from;
    while (q < end) {
        uint32_t c;
        size_t len = vd_utf8_read(q, (size_t)(end - q), &c);
        bool stops = (vd_unicode_flags(c) & VD_UFLAG_SPACE) != 0;
        for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
            stops |= c == ends[i];
        if (stops)
            break;
        q += len;
    }
    return q > from ? q : p;
}

struct range {
    uint32_t first, last;
};

/* [ranges]+, where the ranges are sorted. White space beyond ASCII is in no range, as in the peers, which
 * turn it into U+000B before they match. */
static const uint8_t *skip_ranges(const uint8_t *p, const uint8_t *end, const struct range *r, size_t n)
{
    while (p < end) {
        uint32_t c;
        size_t len = vd_utf8_read(p, (size_t)(end - p), &c), lo = 0, hi = n;
        while (lo < hi) {
            size_t mid = (lo + hi) / 2;
            if (r[mid].last < c)
                lo = mid + 1;
            else
                hi = mid;
        }
        if (lo == n || c < r[lo].first || (c >= 0x80 && (vd_unicode_flags(c) & VD_UFLAG_SPACE)))
            break;
        p += len;
    }
    return p;
}

/* \s?[ranges]+ */
static const uint8_t *match_spaced_ranges(const uint8_t *p, const uint8_t *end, const struct range *r,
                                          size_t n)
{
    size_t len;
    uint32_t f = peek(p, end, &len);
    const uint8_t *from = f != UINT32_MAX && (f & VD_UFLAG_SPACE) ? p + len : p;
    const uint8_t *q = skip_ranges(from, end, r, n);
    return q > from ? q : p;
}

/* DeepSeek's list of letters with case, as its tokenizer spells it. */
static const uint8_t *match_cased(const uint8_t *p, const uint8_t *end)
{
    static const struct range letters[] = {
        {0x41, 0x5a},       {0x61, 0x7a},       {0xb5, 0xb5},       {0xc0, 0xd6},       {0xd8, 0xf6},
        {0xf8, 0x1ba},      {0x1bc, 0x1bf},     {0x1c4, 0x293},     {0x295, 0x2af},     {0x370, 0x373},
        {0x376, 0x377},     {0x37b, 0x37d},     {0x37f, 0x37f},     {0x386, 0x386},     {0x388, 0x38a},
        {0x38c, 0x38c},     {0x38e, 0x3a1},     {0x3a3, 0x3f5},     {0x3f7, 0x481},     {0x48a, 0x52f},
        {0x531, 0x556},     {0x10a0, 0x10c5},   {0x13a0, 0x13f5},   {0x13f8, 0x13fd},   {0x1c90, 0x1cba},
        {0x1cbd, 0x1cbf},   {0x1d00, 0x1d2b},   {0x1d6b, 0x1d77},   {0x1d79, 0x1d9a},   {0x1e00, 0x1f15},
        {0x1f18, 0x1f1d},   {0x1f20, 0x1f45},   {0x1f48, 0x1f4d},   {0x1f50, 0x1f57},   {0x1f59, 0x1f59},
        {0x1f5b, 0x1f5b},   {0x1f5d, 0x1f5d},   {0x1f5f, 0x1f7d},   {0x1f80, 0x1fb4},   {0x1fb6, 0x1fbc},
        {0x1fbe, 0x1fbe},   {0x1fc2, 0x1fc4},   {0x1fc6, 0x1fcc},   {0x1fd0, 0x1fd3},   {0x1fd6, 0x1fdb},
        {0x1fe0, 0x1fec},   {0x1ff2, 0x1ff4},   {0x1ff6, 0x1ffc},   {0x2102, 0x2102},   {0x2107, 0x2107},
        {0x210a, 0x2113},   {0x2115, 0x2115},   {0x2119, 0x211d},   {0x2124, 0x2124},   {0x2126, 0x2126},
        {0x2128, 0x2128},   {0x212a, 0x212d},   {0x212f, 0x2134},   {0x2139, 0x2139},   {0x213c, 0x213f},
        {0x2145, 0x2149},   {0x214e, 0x214e},   {0x2183, 0x2184},   {0x2c00, 0x2c7b},   {0x2c7e, 0x2ce4},
        {0x2ceb, 0x2cee},   {0x2cf2, 0x2cf3},   {0xa640, 0xa66d},   {0xa680, 0xa69b},   {0xa722, 0xa76f},
        {0xa771, 0xa787},   {0xa78b, 0xa78e},   {0xab70, 0xabbf},   {0xfb00, 0xfb06},   {0xfb13, 0xfb17},
        {0xff21, 0xff3a},   {0xff41, 0xff5a},   {0x10400, 0x1044f}, {0x104b0, 0x104d3}, {0x104d8, 0x104fb},
        {0x10c80, 0x10cb2}, {0x10cc0, 0x10cf2}, {0x118a0, 0x118df}, {0x1e900, 0x1e943}};
    return match_spaced_ranges(p, end, letters, sizeof letters / sizeof letters[0]);
}

/* \s?[!-/:-~\uFF01-\uFF0F\uFF1A-\uFF5E\u2018-\u201F\u3000-\u3002]+ */
static const uint8_t *match_deepseek_signs(const uint8_t *p, const uint8_t *end)
{
    static const struct range signs[] = {{'!', '/'},       {':', '~'},       {0x2018, 0x201F},
                                         {0x3000, 0x3002}, {0xFF01, 0xFF0F}, {0xFF1A, 0xFF5E}};
    return match_spaced_ranges(p, end, signs, sizeof signs / sizeof signs[0]);
}

/* [\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+ */
static const uint8_t *match_deepseek_east(const uint8_t *p, const uint8_t *end)
{
    static const struct range east[] = {{0x800, 0x9FA5}, {0xAC00, 0xD7FF}};
    return skip_ranges(p, end, east, sizeof east / sizeof east[0]);
}

/* \p{N}{1,3} */
static const uint8_t *match_three_digits(const uint8_t *p, const uint8_t *end)
{
    size_t len;
    for (int i = 0; i < 3 && is_category(peek(p, end, &len), VD_UCAT_NUMBER); i++)
        p += len;
    return p;
}

/* [\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+ */
static const uint8_t *match_deepseek_han(const uint8_t *p, const uint8_t *end)
{
    static const struct range han[] = {{0x3040, 0x30FF}, {0x4E00, 0x9FA5}};
    return skip_ranges(p, end, han, sizeof han / sizeof han[0]);
}

static bool is_sign(uint32_t flags)
{
    return is_category(flags, VD_UCAT_PUNCTUATION) || is_category(flags, VD_UCAT_SYMBOL);
}

static bool is_ascii_letter(const uint8_t *p, const uint8_t *end)
{
    return p < end && (*p | 32) >= 'a' && (*p | 32) <= 'z';
}

/* [signs of ASCII][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|
 * ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
static const uint8_t *match_deepseek3(const uint8_t *p, const uint8_t *end)
{
    size_t len, next_len;
    uint32_t flags = peek(p, end, &len), next = peek(p + len, end, &next_len);
    if (*p < 0x80 && is_sign(flags) && is_ascii_letter(p + 1, end)) {
        for (p++; is_ascii_letter(p, end);)
            p++;
        return p;
    }
    if (is_wordy(flags, true) || (!is_newline(p, end) && !is_sign(flags) && is_wordy(next, true))) {
        for (p += len; is_wordy(peek(p, end, &len), true);)
            p += len;
        return p;
    }
    const uint8_t *q = p + (*p == ' ');
    if (is_sign(peek(q, end, &len))) {
        while (is_sign(peek(q, end, &len)))
            q += len;
        return skip_newlines(q, end);
    }
    return flags & VD_UFLAG_SPACE ? split_space_lines(p, end) : p;
}

/* The splitters that isolate what these match. */
#define ISOLATE(name, match)                                                                                 \
    static const uint8_t *name(const uint8_t *p, const uint8_t *end)                                         \
    {                                                                                                        \
        return isolate(p, end, match);                                                                       \
    }
ISOLATE(split_digit, match_digit)
ISOLATE(split_digits, match_digits)
ISOLATE(split_three, match_three)
ISOLATE(split_three_digits, match_three_digits)
ISOLATE(split_deepseek_han, match_deepseek_han)
ISOLATE(split_deepseek3, match_deepseek3)
ISOLATE(split_signs, match_signs)
ISOLATE(split_default_signs, match_default_signs)
ISOLATE(split_bloom, match_bloom)
ISOLATE(split_newline, match_newline)
ISOLATE(split_letters, match_spaced_letters)
ISOLATE(split_punctuation, match_spaced_punctuation)
ISOLATE(split_cased, match_cased)
ISOLATE(split_deepseek_signs, match_deepseek_signs)
ISOLATE(split_deepseek_east, match_deepseek_east)

/* \s+$ : the white space at the end, and what is before it. */
static const uint8_t *split_last_space(const uint8_t *p, const uint8_t *end)
{
    const uint8_t *after = p; /* after the last character that is no white space */
    size_t len;
    for (const uint8_t *q = p; q < end; q += len)
        if (!(peek(q, end, &len) & VD_UFLAG_SPACE))
            after = q + len;
    return after > p ? after : end;
}

/* ---- the rows ---- */

#define DEEPSEEK_LLM                                                                                         \
    {                                                                                                        \
        split_newline, split_cased, split_deepseek_signs, split_last_space, split_deepseek_east,             \
            split_digits                                                                                     \
    }

#define DEEPSEEK_3                                                                                           \
    {                                                                                                        \
        split_three_digits, split_deepseek_han, split_deepseek3                                              \
    }

static const struct vd_pretok rows[] = {
    {.name = "smollm", .stages = {split_digit, split_gpt2}},
    {.name = "starcoder", .stages = {split_digit, split_gpt2}},
    {.name = "refact", .stages = {split_digit, split_gpt2}},
    {.name = "command-r", .stages = {split_digit, split_gpt2}},
    {.name = "codeshell", .stages = {split_digit, split_gpt2}},
    {.name = "exaone", .stages = {split_digit, split_gpt2}},
    {.name = "minerva-7b", .stages = {split_digit, split_gpt2}},
    {.name = "exaone4", .stages = {split_gpt2}},
    {.name = "modern-bert", .stages = {split_gpt2}},
    {.name = "gpt-2", .stages = {split_gpt2}},
    {.name = "phi-2", .stages = {split_gpt2}},
    {.name = "mpt", .stages = {split_gpt2}},
    {.name = "olmo", .stages = {split_gpt2}},
    {.name = "llama-bpe", .stages = {split_llama3}, .whole_words = true, .add_bos = true},
    {.name = "llama3", .stages = {split_llama3}, .whole_words = true, .add_bos = true},
    {.name = "falcon3", .stages = {split_llama3}, .whole_words = true, .add_bos = true},
    {.name = "lfm2", .stages = {split_llama3}, .whole_words = true, .add_bos = true},
    {.name = "pixtral", .stages = {split_llama3}, .whole_words = true, .add_bos = true},
    {.name = "dbrx", .stages = {split_llama3}},
    {.name = "smaug-bpe", .stages = {split_llama3}},
    {.name = "chatglm-bpe", .stages = {split_llama3}},
    {.name = "glm4", .stages = {split_llama3}, .whole_words = true},
    {.name = "llama-v3", .stages = {split_llama3}, .whole_words = true, .add_bos = true},
    {.name = "qwen2", .stages = {split_qwen2}},
    {.name = "deepseek-r1-qwen", .stages = {split_qwen2}},
    {.name = "hunyuan", .stages = {split_qwen2}},
    {.name = "megrez", .stages = {split_qwen2}},
    {.name = "grok-2", .stages = {split_qwen2}},
    {.name = "solar-open", .stages = {split_qwen2}},
    {.name = "tekken", .stages = {split_tekken}, .whole_words = true, .add_bos = true},
    {.name = "gpt-4o", .stages = {split_gpt4o}},
    {.name = "llama4", .stages = {split_gpt4o}},
    {.name = "minimax-m2", .stages = {split_gpt4o}},
    {.name = "deepseek-v3", .stages = DEEPSEEK_3},
    {.name = "hunyuan-dense", .stages = DEEPSEEK_3},
    {.name = "stablelm2", .stages = {split_qwen2}},
    {.name = "qwen35", .stages = {split_qwen35}},
    {.name = "deepseek-llm", .stages = DEEPSEEK_LLM},
    {.name = "deepseek-coder",
     .stages = {split_newline, split_letters, split_punctuation, split_deepseek_east, split_digit}},
    {.name = "falcon", .stages = {split_signs, split_gpt2, split_three}},
    {.name = "jina-es", .stages = {split_gpt2}},
    {.name = "jina-de", .stages = {split_gpt2}},
    {.name = "jina-v2-es", .stages = {split_gpt2}},
    {.name = "jina-v2-de", .stages = {split_gpt2}},
    {.name = "gigachat", .stages = {split_gpt2}},
    {.name = "a.x-4.0", .stages = {split_gpt2}},
    {.name = "mellum", .stages = {split_gpt2}},
    {.name = "jais", .stages = {split_gpt2}},
    {.name = "trillion", .stages = {split_gpt2}},
    {.name = "granite-docling", .stages = {split_gpt2}},
    {.name = "mellum2", .stages = {split_digit, split_gpt2}},
    {.name = "falcon-h1", .stages = {split_llama3}, .whole_words = true, .add_bos = true},
    {.name = "midm-2.0", .stages = {split_llama3}, .whole_words = true, .add_bos = true},
    {.name = "jina-v5-nano", .stages = {split_llama3}, .whole_words = true, .add_bos = true},
    {.name = "glm5", .stages = {split_llama3}, .whole_words = true},
    {.name = "kormo", .stages = {split_qwen2}},
    {.name = "f2llmv2", .stages = {split_qwen2}},
    {.name = "bailingmoe", .stages = {split_qwen2}}, /* \s*[\r\n] ends where \s*[\r\n]+ does */
    {.name = "bailingmoe2", .stages = {split_qwen2}},
    {.name = "llada-moe", .stages = {split_qwen2}},
    {.name = "ufakzeka", .stages = {split_ufakzeka}},
    {.name = "seed-coder", .stages = {split_seed_coder}},
    {.name = "laguna", .stages = {split_lines, split_qwen2}},
    {.name = "minicpm5", .stages = {split_three_digits, split_minicpm5}, .whole_words = true},
    {.name = "kanana2", .stages = {split_gpt4o}},
    {.name = "talkie", .stages = {split_gpt4o}},
    {.name = "joyai-llm", .stages = DEEPSEEK_3},
    {.name = "hy_v4", .stages = DEEPSEEK_3},
    {.name = "bloom", .stages = {split_bloom}},
    {.name = "poro-chat", .stages = {split_bloom}},
    {.name = "gpt3-finnish", .stages = {split_bloom}},
    {.name = "viking", .stages = {split_bloom, split_digit}},
    {.name = "default", .stages = {split_default_signs, split_gpt2, split_digits, split_three}},
    {.name = NULL},
};

const struct vd_pretok *vd_pretok_all(void)
{
    return rows;
}

const struct vd_pretok *vd_pretok_find(const char *name, size_t n)
{
    for (const struct vd_pretok *r = rows; r->name; r++)
        if (strlen(r->name) == n && memcmp(r->name, name, n) == 0)
            return r;
    return NULL;
}

static bool run(const struct vd_pretok *pre, size_t stage, const uint8_t *p, const uint8_t *end,
                bool (*word)(void *ctx, const uint8_t *p, const uint8_t *end), void *ctx)
{
    if (stage == VD_PRETOK_STAGES_MAX || !pre->stages[stage])
        return word(ctx, p, end);
    while (p < end) {
        const uint8_t *next = pre->stages[stage](p, end);
        if (!run(pre, stage + 1, p, next, word, ctx))
            return false;
        p = next;
    }
    return true;
}

bool vd_pretok_run(const struct vd_pretok *pre, const uint8_t *p, const uint8_t *end,
                   bool (*word)(void *ctx, const uint8_t *p, const uint8_t *end), void *ctx)
{
    return p == end || run(pre, 0, p, end, word, ctx);
}
