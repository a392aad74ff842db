/* Encoding: what all models have in common. Special tokens are cut out of the text first; what is between
 * them goes to the model. */
#include "vd_tok_impl.h"

#include <stdlib.h>
#include <string.h>

void vd_tok_emit(struct vd_tok_run *r, uint32_t id)
{
    if (r->ids->n < r->ids->max)
        r->ids->p[r->ids->n] = id;
    r->ids->n++;
}

bool vd_tok_no_memory(struct vd_tok_run *r, size_t n_bytes)
{
    r->e = vd_error_set(r->err, VD_ENOMEM, "no memory to tokenise %zu bytes", n_bytes);
    return false;
}

void vd_tok_heap_push(struct vd_tok_heap *h, uint64_t key)
{
    size_t i = h->n++;
    for (; i > 0 && h->p[(i - 1) / 2] > key; i = (i - 1) / 2)
        h->p[i] = h->p[(i - 1) / 2];
    h->p[i] = key;
}

uint64_t vd_tok_heap_pop(struct vd_tok_heap *h)
{
    uint64_t top = h->p[0], key = h->p[--h->n];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < h->n; i = child) {
        if (child + 1 < h->n && h->p[child + 1] < h->p[child])
            child++;
        if (h->p[child] >= key)
            break;
        h->p[i] = h->p[child];
    }
    h->p[i] = key;
    return top;
}

static void encode_text(struct vd_tok_run *r, const uint8_t *p, const uint8_t *end)
{
    switch (r->t->model) {
    case VD_TOK_BPE:
        vd_tok_encode_bpe(r, p, end);
        break;
    case VD_TOK_SPM:
        vd_tok_encode_spm(r, p, end);
        break;
    case VD_TOK_WPM:
        vd_tok_encode_wpm(r, p, end);
        break;
    case VD_TOK_UGM:
        vd_tok_encode_ugm(r, p, end);
        break;
    }
}

static bool is_c_space(uint8_t c)
{
    return c == ' ' || (c >= 9 && c <= 13);
}

/* Cuts [p, end) at special[0], the rest at the ones after it: all of one token's places are found before the
 * next token is looked for, as in the field's tokenizers. The recursion is as deep as there are special
 * tokens in the text (find_special leaves out the others), at most VD_TOK_SPECIAL_MAX. */
static void partition(struct vd_tok_run *r, const uint32_t *special, uint32_t n_special, const uint8_t *p,
                      const uint8_t *end)
{
    while (p < end && n_special > 0 && !r->e) {
        uint8_t flags = r->t->flags[special[0]];
        struct vd_gguf_str text = r->t->text[special[0]];
        const uint8_t *at = memmem(p, (size_t)(end - p), text.p, text.n), *left = at ? at : end;
        while (at && (flags & VD_TOK_STRIPS_LEFT) && left > p && is_c_space(left[-1]))
            left--;
        partition(r, special + 1, n_special - 1, p, left);
        if (!at)
            return;
        vd_tok_emit(r, special[0]);
        p = at + text.n;
        while ((flags & VD_TOK_STRIPS_RIGHT) && p < end && is_c_space(*p))
            p++;
    }
    if (p < end && n_special == 0 && !r->e)
        encode_text(r, p, end);
}

/* The special tokens that the text has, in `found`. */
static uint32_t find_special(const struct vd_tok *t, const char *text, size_t n_bytes, unsigned flags,
                             uint32_t *found)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_special; i++) {
        uint32_t id = t->special[i];
        if (!(flags & VD_TOK_PARSE_SPECIAL) && (t->flags[id] & VD_TOK_KIND) != VD_TOK_USER)
            continue;
        if (memmem(text, n_bytes, t->text[id].p, t->text[id].n))
            found[n++] = id;
    }
    return n;
}

enum vd_err vd_tok_encode(const struct vd_tok *t, const char *text, size_t n_bytes, unsigned flags,
                          struct vd_tok_ids *ids, struct vd_error *err)
{
    struct vd_tok_run r = {.t = t, .ids = ids, .err = err};
    ids->n = ids->n_dropped_bytes = 0;
    if (n_bytes > VD_TOK_TEXT_MAX_BYTES)
        return vd_error_set(err, VD_ELIMIT, "the text has %zu bytes; at most %d can be tokenised at once",
                            n_bytes, VD_TOK_TEXT_MAX_BYTES);
    uint32_t *special = malloc((t->n_special + 1) * sizeof *special);
    if (!special)
        return vd_error_set(err, VD_ENOMEM, "no memory to tokenise %zu bytes", n_bytes);
    uint32_t n_special = n_bytes ? find_special(t, text, n_bytes, flags, special) : 0;
    if ((flags & VD_TOK_ADD_BOS) && t->add_bos)
        vd_tok_emit(&r, t->bos);
    if (n_bytes)
        partition(&r, special, n_special, (const uint8_t *)text, (const uint8_t *)text + n_bytes);
    free(special);
    if ((flags & VD_TOK_ADD_END) && t->end != VD_TOK_NONE)
        vd_tok_emit(&r, t->end);
    if (!r.e && ids->n > ids->max)
        return vd_error_set(err, VD_ELIMIT, "the text has %zu tokens; there is room for %zu", ids->n,
                            ids->max);
    return r.e;
}
