/* WordPiece, as BERT has it: the text is cleaned (controls and, with accents, marks are left out; letters
 * become lower-case), cut into words at white space, with punctuation and Chinese characters words of their
 * own, and each word is covered from the left by the longest tokens. A word that cannot be covered is one
 * unknown token.
 *
 * In a GGUF file a token that begins a word begins with U+2581, and one that continues it has no mark. */
#include "vd_tok_prefix.h"

#include "vd_unicode.h"

#include <stdlib.h>
#include <string.h>

enum { MARK_BYTES = 3 };

struct wpm {
    struct vd_tok_run *run;
    uint8_t *word; /* U+2581 and what there is of the word */
    size_t n;
};

/* The length of the longest token that the n bytes at p begin with; 0 if there is none. */
static size_t longest(const struct vd_tok *t, const uint8_t *p, size_t n, uint32_t *best)
{
    struct vd_tok_walk w = vd_tok_walk_start(&t->prefixes);
    uint32_t id;
    size_t n_best = 0;
    for (size_t i = 0; i < n && vd_tok_walk_step(t, &t->prefixes, &w, p[i], &id); i++)
        if (id != VD_TOK_NONE) {
            n_best = i + 1;
            *best = id;
        }
    return n_best;
}

static void end_word(struct wpm *s)
{
    struct vd_tok_run *r = s->run;
    size_t n_before = r->ids->n, at = 0;
    uint32_t id = r->t->unk;
    while (s->n > MARK_BYTES && at < s->n) {
        size_t n = longest(r->t, s->word + at, s->n - at, &id);
        if (n == 0) {
            r->ids->n = n_before;
            vd_tok_emit(r, r->t->unk);
            break;
        }
        vd_tok_emit(r, id);
        at += n;
    }
    s->n = MARK_BYTES;
}

static bool is_chinese(uint32_t c)
{
    static const uint32_t ranges[][2] = {{0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFAFF},
                                         {0x20000, 0x2A6DF}, {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F},
                                         {0x2B920, 0x2CEAF}, {0x2F800, 0x2FA1F}};
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (c >= ranges[i][0] && c <= ranges[i][1])
            return true;
    return false;
}

static void add(struct wpm *s, uint32_t c)
{
    const struct vd_tok *t = s->run->t;
    if (t->strip_accents)
        c = vd_unicode_base(c);
    uint32_t flags = vd_unicode_flags(c), category = flags & VD_UFLAG_CATEGORY;
    if (flags & VD_UFLAG_SPACE) {
        end_word(s);
        return;
    }
    if (c == 0 || c == VD_CPT_REPLACEMENT || category == VD_UCAT_OTHER ||
        (t->strip_accents && category == VD_UCAT_MARK))
        return;
    bool alone = category == VD_UCAT_PUNCTUATION || (c < 0x7F && category == VD_UCAT_SYMBOL) || is_chinese(c);
    if (alone)
        end_word(s);
    s->n += vd_utf8_write(s->word + s->n, t->lower_case ? vd_unicode_lower(c) : c);
    if (alone)
        end_word(s);
}

void vd_tok_encode_wpm(struct vd_tok_run *r, const uint8_t *p, const uint8_t *end)
{
    /* One byte gives at most one, and a character of more at most VD_UTF8_MAX. */
    struct wpm s = {.run = r, .word = malloc(MARK_BYTES + 2 * (size_t)(end - p)), .n = MARK_BYTES};
    if (!s.word) {
        vd_tok_no_memory(r, (size_t)(end - p));
        return;
    }
    memcpy(s.word, "\xE2\x96\x81", MARK_BYTES);
    while (p < end) {
        uint32_t c;
        p += vd_utf8_read(p, (size_t)(end - p), &c);
        add(&s, c);
    }
    end_word(&s);
    free(s.word);
}
