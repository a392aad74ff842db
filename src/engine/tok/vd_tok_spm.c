/* The BPE of SentencePiece: start from characters and merge the two neighbours whose joined text is the token
 * of highest score, the leftmost of several, until no two neighbours make a token. There are no words: blanks
 * become U+2581 and merges cross them, so the whole text is one run, kept in a heap as vd_tok_bpe.c keeps its
 * long words (what is said there about stale entries holds here with scores for ranks).
 *
 * Text need not be UTF-8: a character is as many bytes as its first byte announces, and one that is no token
 * becomes the tokens of its bytes. */
#include "vd_tok_impl.h"

#include <stdlib.h>
#include <string.h>

#define NO_RANK UINT32_MAX

/* A run of characters that were merged; `rank` is of the pair (this, next). Merged-away: NO_RANK. */
struct piece {
    uint32_t at, prev, next, rank;
};

struct spm {
    struct vd_tok_run *run;
    const char *text;
    uint32_t n_bytes;
    struct piece *pieces;
    struct vd_tok_heap heap; /* 2 entries per piece: a merge removes one and adds at most two */
};

static uint32_t piece_end(const struct spm *s, uint32_t i)
{
    return s->pieces[i].next == VD_TOK_NONE ? s->n_bytes : s->pieces[s->pieces[i].next].at;
}

static uint32_t find(const struct spm *s, uint32_t from, uint32_t to)
{
    return to - from > s->run->t->text_max ? VD_TOK_NONE : vd_tok_find(s->run->t, s->text + from, to - from);
}

static void update_pair(struct spm *s, uint32_t i)
{
    struct piece *a = &s->pieces[i];
    uint32_t id = a->next == VD_TOK_NONE ? VD_TOK_NONE : find(s, a->at, piece_end(s, a->next));
    a->rank = id == VD_TOK_NONE ? NO_RANK : s->run->t->rank[id];
    if (a->rank != NO_RANK)
        vd_tok_heap_push(&s->heap, (uint64_t)a->rank << 32 | i);
}

static void merge(struct spm *s, uint32_t i)
{
    struct piece *p = s->pieces;
    uint32_t gone = p[i].next;
    p[i].next = p[gone].next;
    p[gone].rank = NO_RANK;
    if (p[i].next != VD_TOK_NONE)
        p[p[i].next].prev = i;
    update_pair(s, i);
    if (p[i].prev != VD_TOK_NONE)
        update_pair(s, p[i].prev);
}

static void emit_piece(struct spm *s, uint32_t from, uint32_t to)
{
    uint32_t id = find(s, from, to);
    if (id != VD_TOK_NONE) {
        vd_tok_emit(s->run, id);
        return;
    }
    for (; from < to; from++) {
        id = s->run->t->byte_token[(uint8_t)s->text[from]];
        if (id == VD_TOK_NONE)
            s->run->ids->n_dropped_bytes++;
        else
            vd_tok_emit(s->run, id);
    }
}

/* Cuts the text into characters; only counts them if there are no pieces yet. */
static uint32_t split(struct spm *s)
{
    uint32_t n = 0;
    for (uint32_t at = 0; at < s->n_bytes; n++) {
        uint8_t c = (uint8_t)s->text[at];
        if (s->pieces)
            s->pieces[n] = (struct piece){.at = at, .prev = n - 1, .next = n + 1};
        at += c < 0xC0 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
    }
    return n;
}

static void encode(struct spm *s)
{
    uint32_t n = split(s);
    s->pieces[n - 1].next = VD_TOK_NONE;
    for (uint32_t i = 0; i < n; i++)
        update_pair(s, i);
    while (s->heap.n > 0) {
        uint64_t key = vd_tok_heap_pop(&s->heap);
        if (s->pieces[(uint32_t)key].rank == key >> 32)
            merge(s, (uint32_t)key);
    }
    for (uint32_t i = 0; i != VD_TOK_NONE; i = s->pieces[i].next)
        emit_piece(s, s->pieces[i].at, piece_end(s, i));
}

/* Writes [p, end) with U+2581 for blanks; returns the bytes. */
static size_t escape(bool prefix, const uint8_t *p, const uint8_t *end, char *out)
{
    size_t n = 0;
    for (bool blank = prefix; blank || p < end; blank = false) {
        if (!blank && *p != ' ') {
            out[n++] = (char)*p++;
            continue;
        }
        p += !blank;
        memcpy(out + n, "\xE2\x96\x81", 3);
        n += 3;
    }
    return n;
}

void vd_tok_encode_spm(struct vd_tok_run *r, const uint8_t *p, const uint8_t *end)
{
    size_t max = 3 * ((size_t)(end - p) + 1);
    char *text = malloc(max);
    struct spm s = {.run = r, .text = text};
    if (text)
        s.n_bytes = (uint32_t)escape(r->t->space_prefix, p, end, text);
    size_t n = split(&s);
    s.pieces = malloc(n * sizeof *s.pieces);
    s.heap.p = malloc(2 * n * sizeof *s.heap.p);
    if (text && s.pieces && s.heap.p)
        encode(&s);
    else
        vd_tok_no_memory(r, max);
    free(text);
    free(s.pieces);
    free(s.heap.p);
}
