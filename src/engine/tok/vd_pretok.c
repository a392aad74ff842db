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

/* \p{N}, everything between left whole */
static const uint8_t *split_digit(const uint8_t *p, const uint8_t *end)
{
    size_t len;
    if (class_of(peek(p, end, &len)) == CLASS_NUMBER)
        return p + len;
    while (p < end && class_of(peek(p, end, &len)) != CLASS_NUMBER)
        p += len;
    return p;
}

static const struct vd_pretok rows[] = {
    {"smollm", {split_digit, split_gpt2}},
    {"gpt-2", {split_gpt2}},
    {NULL, {NULL}},
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
