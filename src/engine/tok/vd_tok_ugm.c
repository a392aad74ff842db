/* Unigram, as SentencePiece has it: of all ways to cut the text into tokens, the one with the highest sum of
 * scores (Viterbi over byte positions, which only considers cuts between characters for a token's start). A
 * character that no token covers costs more than any token; neighbours of that kind become one unknown token.
 *
 * Before that the text is normalised by a map that the file carries: a double array (Kanda 2018) that leads
 * from a beginning of the text to the place of its replacement in a list of strings. The array is a
 * stranger's, so every index into it is checked, and one that leads out ends the walk. */
#include "vd_tok_prefix.h"

#include "vd_bytes.h"
#include "vd_unicode.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

enum { NORMAL_MAX_BYTES = 2 * VD_TOK_TEXT_MAX_BYTES };

#define BLANK "\xE2\x96\x81"

struct text {
    struct vd_tok_run *run;
    char *p;
    size_t n, max;
    bool in_word, has_prefix;
};

/* ---- the map ---- */

static uint32_t node(const struct vd_tok *t, uint32_t i)
{
    return i < t->map_nodes ? vd_le32_load(t->map + 4 * (size_t)i) : 0;
}

static uint32_t base(uint32_t node)
{
    return node >> 10 << ((node & 1u << 9) >> 6);
}

/* The longest beginning of [p, end) that the map replaces: its length, 0 if there is none. */
static size_t find_in_map(const struct vd_tok *t, const uint8_t *p, const uint8_t *end, uint32_t *replacement)
{
    size_t n_best = 0;
    size_t n = (size_t)(end - p) < VD_TOK_PIECE_MAX_BYTES ? (size_t)(end - p) : VD_TOK_PIECE_MAX_BYTES;
    uint32_t at = base(node(t, 0));
    for (size_t i = 0; i < n && p[i] != 0; i++) {
        at ^= p[i];
        uint32_t here = node(t, at);
        if ((here & (1u << 31 | 0xff)) != p[i])
            break;
        at ^= base(here);
        if ((here >> 8 & 1) && at < t->map_nodes) {
            n_best = i + 1;
            *replacement = node(t, at) & (UINT32_MAX >> 1);
        }
    }
    return n_best && *replacement < t->n_replacements ? n_best : 0;
}

/* What the next bytes of [p, end) become; returns how many bytes that takes. */
static size_t replace(const struct vd_tok *t, const uint8_t *p, const uint8_t *end, const char **to,
                      size_t *n_to)
{
    struct vd_tok_walk w = vd_tok_walk_start(&t->users);
    uint32_t id, at = 0, cpt;
    size_t n = 0;
    while (p + n < end && vd_tok_walk_step(t, &t->users, &w, p[n], &id))
        n++;
    *to = (const char *)p;
    *n_to = n;
    if (n > 0) /* whatever begins like a user-defined token stays as it is */
        return n;
    n = find_in_map(t, p, end, &at);
    if (n > 0) {
        *to = t->replacements + at;
        *n_to = strlen(*to); /* the loader saw that the list ends with a NUL */
        return n;
    }
    *n_to = n = vd_utf8_read(p, (size_t)(end - p), &cpt);
    if (n == 1 && *p >= 0x80) {
        *to = "\xEF\xBF\xBD";
        *n_to = 3;
    }
    return n;
}

/* ---- normalisation ---- */

static bool put(struct text *s, const char *p, size_t n)
{
    if (s->n + n > s->max) {
        size_t max = s->max ? 2 * s->max + n : 256 + n;
        char *grown = max <= NORMAL_MAX_BYTES ? realloc(s->p, max) : NULL;
        if (max > NORMAL_MAX_BYTES)
            s->run->e = vd_error_set(s->run->err, VD_ELIMIT,
                                     "the text has more than %d bytes when its characters are normalised",
                                     NORMAL_MAX_BYTES / 2);
        if (!grown)
            return !s->run->e && vd_tok_no_memory(s->run, max);
        s->p = grown;
        s->max = max;
    }
    memcpy(s->p + s->n, p, n);
    s->n += n;
    return true;
}

static bool put_normal(struct text *s, char c)
{
    const struct vd_tok *t = s->run->t;
    if (c == ' ') {
        s->in_word = false;
        return t->merge_blanks || put(s, BLANK, 3);
    }
    if (!s->in_word) {
        s->in_word = true;
        if (t->merge_blanks || (t->space_prefix && !s->has_prefix)) {
            s->has_prefix = true;
            if (!put(s, BLANK, 3))
                return false;
        }
    }
    return put(s, &c, 1);
}

static bool normalise(struct text *s, const uint8_t *p, const uint8_t *end)
{
    while (p < end) {
        const char *to;
        size_t n_to;
        p += replace(s->run->t, p, end, &to, &n_to);
        for (size_t i = 0; i < n_to; i++)
            if (!put_normal(s, to[i]))
                return false;
    }
    return true;
}

/* ---- the best cut ---- */

/* The best way to reach a position: with this token from there, and the scores so far. */
struct cut {
    uint32_t id, from;
    double score;
};

static void offer(struct cut *c, uint32_t id, size_t from, double score)
{
    if (score > c->score)
        *c = (struct cut){id, (uint32_t)from, score};
}

static size_t char_bytes(uint8_t c)
{
    return c < 0xC0 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

static void find_cuts(const struct vd_tok *t, const uint8_t *p, size_t n, struct cut *cuts)
{
    for (size_t i = 0; i <= n; i++)
        cuts[i] = (struct cut){t->unk, 0, i ? -DBL_MAX : 0};
    for (size_t at = 0, len; at < n; at += len) {
        struct vd_tok_walk w = vd_tok_walk_start(&t->prefixes);
        bool covered = false;
        uint32_t id;
        len = char_bytes(p[at]) < n - at ? char_bytes(p[at]) : n - at;
        for (size_t i = at; i < n && vd_tok_walk_step(t, &t->prefixes, &w, p[i], &id); i++) {
            if (id == VD_TOK_NONE)
                continue;
            covered = covered || i + 1 - at == len;
            bool user = (t->flags[id] & VD_TOK_KIND) == VD_TOK_USER;
            offer(&cuts[i + 1], id, at, cuts[at].score + (user ? 0 : (double)t->score[id]));
        }
        if (!covered)
            offer(&cuts[at + len], t->unk, at, cuts[at].score + (double)t->unk_score);
    }
}

/* Turns the chain of cuts round, so that `from` leads on, and emits it. */
static void emit_cuts(struct vd_tok_run *r, struct cut *cuts, size_t n)
{
    uint32_t next = 0, at = (uint32_t)n;
    while (at > 0) {
        uint32_t from = cuts[at].from;
        cuts[at].from = next;
        next = at;
        at = from;
    }
    bool after_unknown = false;
    for (at = next; at > 0; at = cuts[at].from) {
        bool unknown = cuts[at].id == r->t->unk;
        if (!unknown || !after_unknown)
            vd_tok_emit(r, cuts[at].id);
        after_unknown = unknown;
    }
}

void vd_tok_encode_ugm(struct vd_tok_run *r, const uint8_t *p, const uint8_t *end)
{
    struct text s = {.run = r};
    if (normalise(&s, p, end) && s.n > 0) {
        struct cut *cuts = malloc((s.n + 1) * sizeof *cuts);
        if (cuts) {
            find_cuts(r->t, (const uint8_t *)s.p, s.n, cuts);
            emit_cuts(r, cuts, s.n);
        } else {
            vd_tok_no_memory(r, s.n);
        }
        free(cuts);
    }
    free(s.p);
}
