/* One block of bytes for all texts, and arrays of offsets. The tree of beginnings is what makes masks fast: a
 * walk visits every common beginning once, and passes over all that begin with what cannot follow. It is
 * about three nodes and 30 bytes per text. The plain texts' bits spare it most of the tree: what is left of
 * it without them is a few percent. */
#include "vd_texts.h"

#include "vd_calls.h"
#include "vd_merkle.h"
#include "vd_trace_hash.h"

#include <stdlib.h>
#include <string.h>

struct tree {
    uint32_t n, *end, *first;
    uint8_t *byte, *depth;
    uint32_t n_ids, *id; /* sorted by text */
};

struct vd_texts {
    uint32_t vocab;
    uint8_t *bytes;
    uint32_t *at; /* vocab + 1: offsets into bytes */
    struct tree all, others;
    uint64_t *plain; /* VD_TEXTS_PLAIN_MAX + 1 times the vocabulary's bits */
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

/* The bytes of the character of UTF-8 at p; 0: there is none. */
static unsigned character(const uint8_t *p, size_t n)
{
    unsigned k = p[0] < 0x80 ? 1 : p[0] < 0xC2 ? 0 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : p[0] < 0xF5 ? 4 : 0;
    if (k == 0 || k > n)
        return 0;
    for (unsigned i = 1; i < k; i++)
        if (p[i] < 0x80 || p[i] > 0xBF)
            return 0;
    bool bad = (p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F) ||
               (p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F);
    return bad ? 0 : k;
}

/* How many characters a plain text has; 0: it is not plain. */
static unsigned plain_characters(struct vd_bytes text)
{
    unsigned n = 0, k;
    for (size_t at = 0; at < text.n; at += k, n++) {
        uint8_t c = text.p[at];
        k = character(text.p + at, text.n - at);
        if (k == 0 || c < 0x20 || c == '"' || c == '\\' || c == '<' || c == '[')
            return 0;
    }
    return n <= VD_TEXTS_PLAIN_MAX ? n : 0;
}

static size_t words(const struct vd_texts *t)
{
    return ((size_t)t->vocab + 63) / 64;
}

/* Fills in plain, and the ids of both trees. */
static void sort(struct vd_texts *t)
{
    for (uint32_t id = 0; id < t->vocab; id++) {
        unsigned n = plain_characters(vd_texts_of(t, id));
        if (n > 0)
            t->plain[n * words(t) + id / 64] |= UINT64_C(1) << id % 64;
        if (t->at[id + 1] > t->at[id])
            t->all.id[t->all.n_ids++] = id;
    }
    for (size_t i = words(t); i < (VD_TEXTS_PLAIN_MAX + 1) * words(t); i++)
        t->plain[i] |= t->plain[i - words(t)];
    qsort_r(t->all.id, t->all.n_ids, sizeof t->all.id[0], by_text, t);
    const uint64_t *plain = vd_texts_plain(t, VD_TEXTS_PLAIN_MAX);
    for (uint32_t i = 0; i < t->all.n_ids; i++)
        if (!(plain[t->all.id[i] / 64] >> t->all.id[i] % 64 & 1))
            t->others.id[t->others.n_ids++] = t->all.id[i];
}

/* Each text in order adds what it does not have in common with the one before. room: for as many nodes as
 * there are bytes. */
static void plant(const struct vd_texts *t, struct tree *to)
{
    uint32_t open[VD_TOKEN_TEXT_MAX_BYTES], n_open = 0, n = 0; /* nodes of the last text */
    struct vd_bytes last = {NULL, 0};
    for (uint32_t i = 0; i < to->n_ids; i++) {
        struct vd_bytes text = vd_texts_of(t, to->id[i]);
        uint32_t common = common_of(last, text);
        while (n_open > common)
            to->end[open[--n_open]] = n;
        for (; n_open < text.n; n++) {
            to->byte[n] = text.p[n_open];
            to->depth[n] = (uint8_t)n_open;
            to->first[n] = i;
            open[n_open++] = n;
        }
        last = text;
    }
    while (n_open > 0)
        to->end[open[--n_open]] = n;
    to->first[n] = to->n_ids;
    to->n = n;
}

/* A node for every byte is more than there are: the rest is given back. */
static bool make_tree(const struct vd_texts *t, struct tree *to)
{
    size_t total = 0;
    for (uint32_t i = 0; i < to->n_ids; i++)
        total += vd_texts_of(t, to->id[i]).n;
    to->byte = malloc(total + 1);
    to->depth = malloc(total + 1);
    to->end = malloc((total + 1) * sizeof *to->end);
    to->first = malloc((total + 1) * sizeof *to->first);
    if (!to->byte || !to->depth || !to->end || !to->first)
        return false;
    plant(t, to);
    size_t n = to->n + (size_t)1;
    void *byte = realloc(to->byte, n), *depth = realloc(to->depth, n);
    to->byte = byte ? byte : to->byte;
    to->depth = depth ? depth : to->depth;
    void *end = realloc(to->end, n * sizeof *to->end), *first = realloc(to->first, n * sizeof *to->first);
    to->end = end ? end : to->end;
    to->first = first ? first : to->first;
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
    return make_tree(t, &t->all) && make_tree(t, &t->others);
}

enum vd_err vd_texts_create_from(struct vd_texts **out, const struct vd_bytes *text, uint32_t vocab,
                                 struct vd_error *err)
{
    struct vd_texts *t = *out = calloc(1, sizeof *t);
    if (t) {
        t->vocab = vocab;
        t->at = malloc(((size_t)vocab + 1) * sizeof *t->at);
        t->all.id = calloc((size_t)vocab + 1, sizeof *t->all.id);
        t->others.id = calloc((size_t)vocab + 1, sizeof *t->others.id);
        t->plain = calloc((VD_TEXTS_PLAIN_MAX + 1) * words(t) + 1, sizeof *t->plain);
        t->leaf = malloc((size_t)vocab * sizeof *t->leaf);
        if (t->at && t->all.id && t->others.id && t->plain && t->leaf && fill(t, text))
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

static void free_tree(struct tree *t)
{
    free(t->id);
    free(t->byte);
    free(t->depth);
    free(t->end);
    free(t->first);
}

void vd_texts_free(struct vd_texts *t)
{
    if (!t)
        return;
    free(t->bytes);
    free(t->at);
    free_tree(&t->all);
    free_tree(&t->others);
    free(t->plain);
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

static struct vd_texts_tree shown(const struct tree *t)
{
    return (struct vd_texts_tree){t->n, t->byte, t->depth, t->end, t->first, t->id};
}

struct vd_texts_tree vd_texts_tree(const struct vd_texts *t)
{
    return shown(&t->all);
}

struct vd_texts_tree vd_texts_others(const struct vd_texts *t)
{
    return shown(&t->others);
}

const uint64_t *vd_texts_plain(const struct vd_texts *t, unsigned n)
{
    return t->plain + n * words(t);
}
