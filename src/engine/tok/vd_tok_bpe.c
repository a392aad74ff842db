/* The rule of byte-level BPE: in each word, apply the merge of lowest rank, the leftmost of
 * several, until none applies. Short words (nearly all) do that by looking at every pair each time; longer
 * ones keep the pairs in a heap, so that a word of n bytes costs n log n whatever it holds.
 *
 * A heap entry is (rank, left symbol) in one integer. When a pair changes, its old entry stays and is seen to
 * be stale on removal because the rank recorded at its left symbol is another; a second entry for an
 * unchanged pair is the same merge at the same place in the order, so doing it at the first is right. */
#include "vd_tok_impl.h"

#include "vd_unicode.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { SHORT_WORD = 48 };

#define NO_RANK UINT32_MAX

/* Where one symbol is; `next` and `prev` are positions, VD_TOK_NONE at the ends. A merged-away symbol is
 * skipped by the links and has NO_RANK. */
struct link {
    uint32_t id, prev, next, rank, merged; /* rank and merged: of the pair (this, next) */
};

struct bpe {
    struct vd_tok_run *run;
    const struct vd_tok *t;
    struct link *links; /* links_max of them */
    size_t links_max;
    struct vd_tok_heap heap; /* of 2 * links_max: a merge removes one entry and adds at most two */
};

/* A symbol that is no token falls back to the tokens of its text's single bytes; bytes without one are lost.
 */
static void emit_symbol(struct bpe *s, uint32_t symbol, size_t n_bytes)
{
    const struct vd_tok *t = s->t;
    if (symbol < t->n_vocab) {
        vd_tok_emit(s->run, symbol);
        return;
    }
    size_t n_found = 0;
    for (size_t i = 0; symbol != VD_TOK_NONE && i < t->text[symbol].n; i++) {
        uint32_t id = t->byte_token[(uint8_t)t->text[symbol].p[i]];
        if (id == VD_TOK_NONE)
            continue;
        vd_tok_emit(s->run, id);
        n_found++;
    }
    s->run->ids->n_dropped_bytes += n_bytes > n_found ? n_bytes - n_found : 0;
}

static void encode_short(struct bpe *s, const uint8_t *p, uint32_t n)
{
    uint32_t id[SHORT_WORD], rank[SHORT_WORD], merged[SHORT_WORD];
    uint8_t n_bytes[SHORT_WORD];
    assert(n > 0);
    for (uint32_t i = 0; i < n; i++) {
        id[i] = s->t->byte_symbol[p[i]];
        n_bytes[i] = 1;
    }
    rank[n - 1] = NO_RANK; /* the last symbol begins no pair; the shifts below carry this along */
    merged[n - 1] = 0;
    uint32_t from = 0, to = n; /* pairs whose ranks must be looked up */
    for (;;) {
        for (uint32_t i = from; i < to && i + 1 < n; i++) {
            const struct vd_tok_merge *m = vd_tok_merge_find(s->t, id[i], id[i + 1]);
            rank[i] = m ? m->rank : NO_RANK;
            merged[i] = m ? m->merged : 0;
        }
        uint32_t best = NO_RANK, at = 0;
        for (uint32_t i = 0; i + 1 < n; i++)
            if (rank[i] < best) {
                best = rank[i];
                at = i;
            }
        if (best == NO_RANK)
            break;
        id[at] = merged[at];
        n_bytes[at] = (uint8_t)(n_bytes[at] + n_bytes[at + 1]);
        n--;
        for (uint32_t i = at + 1; i < n; i++) {
            id[i] = id[i + 1];
            n_bytes[i] = n_bytes[i + 1];
            rank[i] = rank[i + 1];
            merged[i] = merged[i + 1];
        }
        from = at ? at - 1 : 0;
        to = at + 1;
    }
    for (uint32_t i = 0; i < n; i++)
        emit_symbol(s, id[i], n_bytes[i]);
}

/* Looks up the pair that starts at position i and puts it on the heap. */
static void update_pair(struct bpe *s, uint32_t i)
{
    struct link *a = &s->links[i];
    const struct vd_tok_merge *m =
        a->next == VD_TOK_NONE ? NULL : vd_tok_merge_find(s->t, a->id, s->links[a->next].id);
    a->rank = m ? m->rank : NO_RANK;
    if (m) {
        a->merged = m->merged;
        vd_tok_heap_push(&s->heap, (uint64_t)m->rank << 32 | i);
    }
}

static bool grow(struct bpe *s, size_t n)
{
    if (n <= s->links_max)
        return true;
    free(s->links);
    free(s->heap.p);
    s->links = malloc(n * sizeof *s->links);
    s->heap.p = malloc(2 * n * sizeof *s->heap.p);
    s->links_max = s->links && s->heap.p ? n : 0;
    return s->links_max || vd_tok_no_memory(s->run, n);
}

static void encode_long(struct bpe *s, const uint8_t *p, uint32_t n)
{
    struct link *l = s->links;
    assert(n > 0);
    for (uint32_t i = 0; i < n; i++)
        l[i] = (struct link){
            .id = s->t->byte_symbol[p[i]], .prev = i - 1, .next = i + 1 < n ? i + 1 : VD_TOK_NONE};
    s->heap.n = 0;
    for (uint32_t i = 0; i < n; i++)
        update_pair(s, i);
    while (s->heap.n > 0) {
        uint64_t key = vd_tok_heap_pop(&s->heap);
        uint32_t i = (uint32_t)key;
        if (l[i].rank != key >> 32)
            continue;
        uint32_t gone = l[i].next;
        l[i].id = l[i].merged;
        l[i].next = l[gone].next;
        l[gone].rank = NO_RANK;
        if (l[i].next != VD_TOK_NONE)
            l[l[i].next].prev = i;
        update_pair(s, i);
        if (l[i].prev != VD_TOK_NONE)
            update_pair(s, l[i].prev);
    }
    for (uint32_t i = 0; i != VD_TOK_NONE; i = l[i].next)
        emit_symbol(s, l[i].id, (l[i].next == VD_TOK_NONE ? n : l[i].next) - i);
}

/* The token whose text is this whole word, or VD_TOK_NONE. */
static uint32_t whole_word(const struct vd_tok *t, const uint8_t *p, size_t n)
{
    char text[VD_TOK_PIECE_MAX_BYTES + VD_UTF8_MAX];
    size_t n_text = 0;
    for (size_t i = 0; i < n; i++) {
        if (n_text >= VD_TOK_PIECE_MAX_BYTES)
            return VD_TOK_NONE;
        n_text += vd_utf8_write((uint8_t *)text + n_text, vd_tok_byte_cpt(p[i]));
    }
    return vd_tok_find(t, text, n_text);
}

static bool encode_word(void *ctx, const uint8_t *p, const uint8_t *end)
{
    struct bpe *s = ctx;
    size_t n = (size_t)(end - p);
    uint32_t whole = s->t->pre->whole_words ? whole_word(s->t, p, n) : VD_TOK_NONE;
    if (whole != VD_TOK_NONE) {
        vd_tok_emit(s->run, whole);
        return true;
    }
    if (n <= SHORT_WORD) {
        encode_short(s, p, (uint32_t)n);
        return true;
    }
    if (!grow(s, n))
        return false;
    encode_long(s, p, (uint32_t)n);
    return true;
}

/* Where [p, end) stops being what its own decoding gives when it is written again; end if it nowhere does. */
static const uint8_t *first_bad(const uint8_t *p, const uint8_t *end)
{
    while (p < end) {
        uint8_t again[VD_UTF8_MAX];
        uint32_t cpt;
        if (*p < 0x80) {
            p++;
            continue;
        }
        size_t n = vd_utf8_read(p, (size_t)(end - p), &cpt);
        if (vd_utf8_write(again, cpt) != n || memcmp(again, p, n) != 0)
            return p;
        p += n;
    }
    return end;
}

/* Bad bytes are replaced in a copy; good text is used where it is. */
static void encode_text(struct bpe *s, const uint8_t *p, const uint8_t *end)
{
    if (first_bad(p, end) == end) {
        vd_pretok_run(s->t->pre, p, end, encode_word, s);
        return;
    }
    uint8_t *copy = malloc(3 * (size_t)(end - p)), *to = copy;
    if (!copy) {
        vd_tok_no_memory(s->run, (size_t)(end - p));
        return;
    }
    while (p < end) {
        uint32_t cpt;
        p += vd_utf8_read(p, (size_t)(end - p), &cpt);
        to += vd_utf8_write(to, cpt);
    }
    vd_pretok_run(s->t->pre, copy, to, encode_word, s);
    free(copy);
}

void vd_tok_encode_bpe(struct vd_tok_run *run, const uint8_t *p, const uint8_t *end)
{
    struct bpe s = {.run = run, .t = run->t};
    encode_text(&s, p, end);
    free(s.links);
    free(s.heap.p);
}
