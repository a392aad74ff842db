/* Tokens in byte order: those that share a beginning are neighbours, the shortest first, so a prefix is a
 * range and one more byte narrows it by two binary searches. */
#include "vd_tok_prefix.h"

#include <stdlib.h>
#include <string.h>

static int by_text(const void *a, const void *b, void *tv)
{
    const struct vd_tok *t = tv;
    struct vd_gguf_str x = t->text[*(const uint32_t *)a], y = t->text[*(const uint32_t *)b];
    int order = memcmp(x.p, y.p, x.n < y.n ? x.n : y.n);
    return order ? order : (x.n > y.n) - (x.n < y.n);
}

static bool has(const struct vd_tok *t, uint32_t id, unsigned kinds)
{
    return t->text[id].n > 0 && (kinds >> (t->flags[id] & VD_TOK_KIND) & 1);
}

bool vd_tok_prefixes_make(const struct vd_tok *t, unsigned kinds, struct vd_tok_prefixes *out)
{
    out->n = 0;
    out->ids = malloc(t->n_vocab * sizeof *out->ids);
    if (!out->ids)
        return false;
    for (uint32_t id = 0; id < t->n_vocab; id++)
        if (has(t, id, kinds))
            out->ids[out->n++] = id;
    qsort_r(out->ids, out->n, sizeof *out->ids, by_text, (void *)(uintptr_t)t);
    return true;
}

/* The byte after the walked ones as 1 to 256; 0 if the text ends there. */
static uint32_t key(const struct vd_tok *t, uint32_t id, uint32_t depth)
{
    return t->text[id].n > depth ? 1u + (uint8_t)t->text[id].p[depth] : 0;
}

static uint32_t first_at_least(const struct vd_tok *t, const struct vd_tok_prefixes *x, struct vd_tok_walk w,
                               uint32_t least)
{
    while (w.lo < w.hi) {
        uint32_t mid = w.lo + (w.hi - w.lo) / 2;
        if (key(t, x->ids[mid], w.depth) < least)
            w.lo = mid + 1;
        else
            w.hi = mid;
    }
    return w.lo;
}

bool vd_tok_walk_step(const struct vd_tok *t, const struct vd_tok_prefixes *x, struct vd_tok_walk *w,
                      uint8_t c, uint32_t *id)
{
    uint32_t lo = first_at_least(t, x, *w, 1u + c);
    *w = (struct vd_tok_walk){lo, first_at_least(t, x, (struct vd_tok_walk){lo, w->hi, w->depth}, 2u + c),
                              w->depth + 1};
    *id = w->lo < w->hi && t->text[x->ids[w->lo]].n == w->depth ? x->ids[w->lo] : VD_TOK_NONE;
    return w->lo < w->hi;
}
