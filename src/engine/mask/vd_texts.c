/* One block of bytes for all texts, and arrays of offsets. The tree of beginnings is what makes masks fast: a
 * walk visits every common beginning once, and passes over all that begin with what cannot follow. It is
 * about three nodes and 30 bytes per text. */
#include "vd_texts.h"

#include "vd_calls.h"
#include "vd_merkle.h"
#include "vd_trace_hash.h"

#include <stdlib.h>
#include <string.h>

struct vd_texts {
    uint32_t vocab, n_sorted;
    uint8_t *bytes;
    uint32_t *at; /* vocab + 1: offsets into bytes */
    uint32_t *sorted;
    struct {
        uint32_t n, *end, *first;
        uint8_t *byte, *depth;
    } tree;
    struct vd_hash *leaf;
    struct vd_hash root;
};

const char *const *vd_texts_marks(void)
{
    static const char *const marks[] = {
        "<tool_call>",    "</tool_call>",  "[TOOL_CALLS]",   "[ARGS]",       "[CALL_ID]",
        "<|python_tag|>", "<|tool_call|>", "<|/tool_call|>", VD_CALLS_BEGIN, VD_CALLS_END,
        VD_CALL_BEGIN,    VD_CALL_END,     VD_CALL_SEP,      NULL,
    };
    return marks;
}

static bool is_mark(struct vd_bytes t)
{
    for (const char *const *m = vd_texts_marks(); *m; m++)
        if (strlen(*m) == t.n && memcmp(*m, t.p, t.n) == 0)
            return true;
    return false;
}

static struct vd_bytes text_of(const struct vd_tok *tok, uint32_t id)
{
    struct vd_bytes none = {NULL, 0};
    if (id >= vd_tok_count(tok))
        return none;
    struct vd_bytes t = vd_tok_piece(tok, id, true);
    if (vd_tok_is_control(tok, id) && !is_mark(t))
        return none;
    return t.n <= VD_TOKEN_TEXT_MAX_BYTES ? t : none;
}

struct vd_bytes vd_texts_of(const struct vd_texts *t, uint32_t id)
{
    if (id >= t->vocab)
        return (struct vd_bytes){NULL, 0};
    return (struct vd_bytes){t->bytes + t->at[id], t->at[id + 1] - t->at[id]};
}

static int by_text(const void *a, const void *b, void *texts)
{
    struct vd_bytes x = vd_texts_of(texts, *(const uint32_t *)a),
                    y = vd_texts_of(texts, *(const uint32_t *)b);
    int c = memcmp(x.p, y.p, x.n < y.n ? x.n : y.n);
    if (c == 0)
        c = (x.n > y.n) - (x.n < y.n);
    return c ? c
             : (*(const uint32_t *)a > *(const uint32_t *)b) - (*(const uint32_t *)a < *(const uint32_t *)b);
}

static uint32_t common_of(struct vd_bytes x, struct vd_bytes y)
{
    uint32_t n = 0;
    while (n < x.n && n < y.n && x.p[n] == y.p[n])
        n++;
    return n;
}

static void sort(struct vd_texts *t)
{
    for (uint32_t id = 0; id < t->vocab; id++)
        if (t->at[id + 1] > t->at[id])
            t->sorted[t->n_sorted++] = id;
    qsort_r(t->sorted, t->n_sorted, sizeof t->sorted[0], by_text, t);
}

/* Each text in order adds what it does not have in common with the one before. room: for as many nodes as
 * there are bytes. */
static void plant(struct vd_texts *t)
{
    uint32_t open[VD_TOKEN_TEXT_MAX_BYTES], n_open = 0, n = 0; /* nodes of the last text */
    struct vd_bytes last = {NULL, 0};
    for (uint32_t i = 0; i < t->n_sorted; i++) {
        struct vd_bytes text = vd_texts_of(t, t->sorted[i]);
        uint32_t common = common_of(last, text);
        while (n_open > common)
            t->tree.end[open[--n_open]] = n;
        for (; n_open < text.n; n++) {
            t->tree.byte[n] = text.p[n_open];
            t->tree.depth[n] = (uint8_t)n_open;
            t->tree.first[n] = i;
            open[n_open++] = n;
        }
        last = text;
    }
    while (n_open > 0)
        t->tree.end[open[--n_open]] = n;
    t->tree.first[n] = t->n_sorted;
    t->tree.n = n;
}

/* A node for every byte is more than there are: the rest is given back. */
static bool make_tree(struct vd_texts *t, size_t total)
{
    t->tree.byte = malloc(total + 1);
    t->tree.depth = malloc(total + 1);
    t->tree.end = malloc((total + 1) * sizeof *t->tree.end);
    t->tree.first = malloc((total + 1) * sizeof *t->tree.first);
    if (!t->tree.byte || !t->tree.depth || !t->tree.end || !t->tree.first)
        return false;
    plant(t);
    size_t n = t->tree.n + (size_t)1;
    void *byte = realloc(t->tree.byte, n), *depth = realloc(t->tree.depth, n);
    t->tree.byte = byte ? byte : t->tree.byte;
    t->tree.depth = depth ? depth : t->tree.depth;
    void *end = realloc(t->tree.end, n * sizeof *t->tree.end),
         *first = realloc(t->tree.first, n * sizeof *t->tree.first);
    t->tree.end = end ? end : t->tree.end;
    t->tree.first = first ? first : t->tree.first;
    return true;
}

static bool fill(struct vd_texts *t, const struct vd_bytes *from)
{
    size_t total = 0;
    for (uint32_t id = 0; id < t->vocab; id++)
        total += from[id].n;
    t->bytes = malloc(total + 1);
    if (!t->bytes)
        return false;
    total = 0;
    for (uint32_t id = 0; id < t->vocab; id++) {
        struct vd_bytes text = from[id];
        t->at[id] = (uint32_t)total;
        if (text.n)
            memcpy(t->bytes + total, text.p, text.n);
        total += text.n;
    }
    t->at[t->vocab] = (uint32_t)total;
    for (uint32_t id = 0; id < t->vocab; id++)
        t->leaf[id] = vd_text_leaf(id, vd_texts_of(t, id));
    t->root = vd_merkle_root(t->leaf, t->vocab);
    sort(t);
    return make_tree(t, total);
}

enum vd_err vd_texts_create_from(struct vd_texts **out, const struct vd_bytes *text, uint32_t vocab,
                                 struct vd_error *err)
{
    struct vd_texts *t = *out = calloc(1, sizeof *t);
    if (t) {
        t->vocab = vocab;
        t->at = malloc(((size_t)vocab + 1) * sizeof *t->at);
        t->sorted = calloc((size_t)vocab + 1, sizeof *t->sorted);
        t->leaf = malloc((size_t)vocab * sizeof *t->leaf);
        if (t->at && t->sorted && t->leaf && fill(t, text))
            return VD_OK;
    }
    vd_texts_free(t);
    *out = NULL;
    return vd_error_set(err, VD_ENOMEM, "no memory for the texts of %u tokens", vocab);
}

enum vd_err vd_texts_create(struct vd_texts **out, const struct vd_tok *tok, uint32_t vocab,
                            struct vd_error *err)
{
    struct vd_bytes *text = malloc((size_t)vocab * sizeof *text);
    *out = NULL;
    if (!text)
        return vd_error_set(err, VD_ENOMEM, "no memory for the texts of %u tokens", vocab);
    for (uint32_t id = 0; id < vocab; id++)
        text[id] = text_of(tok, id);
    enum vd_err e = vd_texts_create_from(out, text, vocab, err);
    free(text);
    return e;
}

enum vd_err vd_texts_open(struct vd_texts **out, const struct vd_gguf *gguf, uint32_t vocab,
                          struct vd_error *err)
{
    struct vd_tok *tok;
    *out = NULL;
    enum vd_err e = vd_tok_load(&tok, gguf, err);
    if (e != VD_OK)
        return e;
    e = vd_texts_create(out, tok, vocab, err);
    vd_tok_free(tok);
    return e;
}

void vd_texts_free(struct vd_texts *t)
{
    if (!t)
        return;
    free(t->bytes);
    free(t->at);
    free(t->sorted);
    free(t->tree.byte);
    free(t->tree.depth);
    free(t->tree.end);
    free(t->tree.first);
    free(t->leaf);
    free(t);
}

uint32_t vd_texts_vocab(const struct vd_texts *t)
{
    return t->vocab;
}

struct vd_hash vd_texts_root(const struct vd_texts *t)
{
    return t->root;
}

void vd_texts_prove(const struct vd_texts *t, uint32_t id, struct vd_hash *proof)
{
    vd_merkle_range_prove(t->leaf, t->vocab, id, 1, proof);
}

struct vd_texts_tree vd_texts_tree(const struct vd_texts *t)
{
    return (struct vd_texts_tree){t->tree.n,   t->tree.byte,  t->tree.depth,
                                  t->tree.end, t->tree.first, t->sorted};
}
