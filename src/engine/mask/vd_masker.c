/* A walk over the vocabulary in the order of texts: the states of the current text's beginnings are on a
 * stack, so that a beginning which many texts share is walked once, and all texts with a beginning that
 * cannot follow are skipped. Edges are unpacked to a table of 256 per state when a state is first visited. */
#include "vd_masker.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 1024 }; /* of the cache, a power of two */

struct step {
    uint16_t to, back; /* to VD_AUTOMATON_DEAD: no edge */
};

/* What is allowed in one state. */
struct allowed {
    struct vd_automaton_state state;
    uint32_t n, *id;
};

/* Where the beginning of a text has arrived. The stack is that of level `stack`, at or below this one. */
struct level {
    uint16_t at, stack;
    struct vd_automaton_state whole; /* filled in where stack is this level */
};

struct vd_masker {
    const struct vd_texts *texts;
    uint8_t *mask;
    struct vd_automaton a;
    uint32_t *stop;
    size_t n_stop;
    pthread_mutex_t mu;
    struct step (**table)[256]; /* per state; NULL: not visited yet */
    struct allowed slot[SLOTS];
    size_t cached_bytes;
    uint64_t *bits; /* of the vocabulary */
    struct level path[VD_TOKEN_TEXT_MAX_BYTES + 1];
};

void vd_masker_advance(const struct vd_masker *m, struct vd_automaton_state *s, uint32_t token)
{
    vd_automaton_walk(&m->a, s, vd_texts_of(m->texts, token));
}

/* NULL: no memory. */
static const struct step *steps_of(struct vd_masker *m, uint16_t state)
{
    struct step(*t)[256] = m->table[state];
    uint32_t first, end;
    if (t)
        return *t;
    t = malloc(sizeof *t);
    if (!t)
        return NULL;
    for (unsigned b = 0; b < 256; b++)
        (*t)[b] = (struct step){VD_AUTOMATON_DEAD, VD_AUTOMATON_PLAIN};
    vd_automaton_edges(&m->a, state, &first, &end);
    for (; first < end; first++) {
        struct vd_automaton_edge e = vd_automaton_edge(&m->a, first);
        for (unsigned b = e.low; b <= e.high; b++)
            (*t)[b] = (struct step){e.to, e.back};
    }
    m->table[state] = t;
    return *t;
}

/* One byte from level i to level i + 1. The common case, an edge that takes the byte, copies no stack. */
static bool step(struct vd_masker *m, unsigned i, uint8_t byte)
{
    struct level *from = &m->path[i], *to = &m->path[i + 1];
    const struct step *t = steps_of(m, from->at);
    if (t && t[byte].to != VD_AUTOMATON_DEAD && t[byte].back == VD_AUTOMATON_PLAIN) {
        to->at = t[byte].to;
        to->stack = from->stack;
        return true;
    }
    to->whole = m->path[from->stack].whole;
    to->whole.at = from->at;
    to->stack = (uint16_t)(i + 1);
    bool ok = vd_automaton_step(&m->a, &to->whole, byte);
    to->at = to->whole.at;
    return ok;
}

static void walk_all(struct vd_masker *m, const struct vd_automaton_state *from)
{
    struct vd_texts_sorted all = vd_texts_sorted(m->texts);
    const uint8_t *rest = all.rest, *next;
    unsigned good = 0; /* bytes of the last text walked that could follow */
    bool whole = true; /* all of them could */
    m->path[0] = (struct level){from->at, 0, *from};
    for (uint32_t i = 0; i < all.n; i++, rest = next) {
        unsigned common = all.common[i], n = all.length[i];
        next = rest + (n - common);
        if (!whole && common > good)
            continue; /* it has the byte that could not */
        for (good = common; good < n && step(m, good, rest[good - common]); good++)
            ;
        whole = good == n;
        if (whole)
            m->bits[all.id[i] / 64] |= UINT64_C(1) << all.id[i] % 64;
    }
}

static uint32_t take_bits(const struct vd_masker *m, uint32_t *ids)
{
    uint32_t n = 0, words = (vd_texts_vocab(m->texts) + 63) / 64;
    for (uint32_t w = 0; w < words; w++)
        for (uint64_t left = m->bits[w]; left; left &= left - 1)
            ids[n++] = 64 * w + (uint32_t)__builtin_ctzll(left);
    return n;
}

static void compute(struct vd_masker *m, const struct vd_automaton_state *s)
{
    uint32_t vocab = vd_texts_vocab(m->texts);
    bool may_end = vd_automaton_may_end(&m->a, s);
    memset(m->bits, 0, ((size_t)vocab + 63) / 64 * sizeof m->bits[0]);
    if (s->at < m->a.n_states)
        walk_all(m, s);
    for (size_t i = 0; i < m->n_stop; i++) {
        uint64_t bit = UINT64_C(1) << m->stop[i] % 64, *word = &m->bits[m->stop[i] / 64];
        *word = may_end ? *word | bit : *word & ~bit;
    }
}

static size_t slot_of(const struct vd_automaton_state *s)
{
    uint64_t h = s->at * UINT64_C(0x9E3779B97F4A7C15) + s->depth;
    for (unsigned i = 0; i < s->depth; i++)
        h = (h ^ s->stack[i]) * UINT64_C(0x9E3779B97F4A7C15);
    return (size_t)(h >> 40) % SLOTS;
}

static void forget(struct vd_masker *m, struct allowed *a)
{
    m->cached_bytes -= a->n * sizeof *a->id;
    free(a->id);
    *a = (struct allowed){.n = 0};
}

/* Keeps a copy; without memory for it, it is computed again next time. */
static void keep(struct vd_masker *m, struct allowed *a, const struct vd_automaton_state *s,
                 const uint32_t *ids, uint32_t n)
{
    if (a->id)
        forget(m, a);
    if (m->cached_bytes + n * sizeof *ids > VD_MASKER_CACHE_BYTES)
        for (size_t i = 0; i < SLOTS; i++)
            if (m->slot[i].id)
                forget(m, &m->slot[i]);
    uint32_t *copy = malloc((n ? n : 1) * sizeof *copy);
    if (!copy)
        return;
    memcpy(copy, ids, n * sizeof *copy);
    m->cached_bytes += n * sizeof *copy;
    *a = (struct allowed){*s, n, copy};
}

uint32_t vd_masker_allowed(struct vd_masker *m, const struct vd_automaton_state *s, uint32_t *ids)
{
    struct allowed *a = &m->slot[slot_of(s)];
    uint32_t n;
    pthread_mutex_lock(&m->mu);
    if (a->id && memcmp(&a->state, s, sizeof *s) == 0) {
        n = a->n;
        memcpy(ids, a->id, n * sizeof *ids);
    } else {
        compute(m, s);
        n = take_bits(m, ids);
        keep(m, a, s, ids, n);
    }
    pthread_mutex_unlock(&m->mu);
    return n;
}

static enum vd_err set_up(struct vd_masker *m, struct vd_bytes mask, const uint32_t *stop, size_t n_stop,
                          struct vd_error *err)
{
    uint32_t vocab = vd_texts_vocab(m->texts);
    struct vd_hash root = vd_texts_root(m->texts);
    if (!vd_automaton_open(&m->a, mask))
        return vd_error_set(err, VD_EUSE, "a mask of %zu bytes is not valid", mask.n);
    if (memcmp(mask.p, root.b, VD_MASK_ROOT_BYTES) != 0)
        return vd_error_set(err, VD_ECONFLICT, "the mask is for the texts of another model's tokens");
    m->mask = malloc(mask.n);
    m->table = calloc(m->a.n_states, sizeof *m->table);
    m->bits = malloc(((size_t)vocab + 63) / 64 * sizeof *m->bits);
    m->stop = malloc((n_stop ? n_stop : 1) * sizeof *m->stop);
    if (!m->mask || !m->table || !m->bits || !m->stop)
        return vd_error_set(err, VD_ENOMEM, "no memory for a mask of %u states", m->a.n_states);
    memcpy(m->mask, mask.p, mask.n);
    vd_automaton_open(&m->a, (struct vd_bytes){m->mask, mask.n});
    for (size_t i = 0; i < n_stop; i++)
        if (stop[i] < vocab)
            m->stop[m->n_stop++] = stop[i];
    return VD_OK;
}

enum vd_err vd_masker_create(struct vd_masker **out, const struct vd_texts *texts, struct vd_bytes mask,
                             const uint32_t *stop, size_t n_stop, struct vd_error *err)
{
    struct vd_masker *m = *out = calloc(1, sizeof *m);
    if (!m)
        return vd_error_set(err, VD_ENOMEM, "no memory for a mask");
    pthread_mutex_init(&m->mu, NULL);
    m->texts = texts;
    enum vd_err e = set_up(m, mask, stop, n_stop, err);
    if (e != VD_OK) {
        vd_masker_free(m);
        *out = NULL;
    }
    return e;
}

void vd_masker_free(struct vd_masker *m)
{
    if (!m)
        return;
    for (uint32_t i = 0; m->table && i < m->a.n_states; i++)
        free(m->table[i]);
    for (size_t i = 0; i < SLOTS; i++)
        free(m->slot[i].id);
    pthread_mutex_destroy(&m->mu);
    free(m->table);
    free(m->mask);
    free(m->bits);
    free(m->stop);
    free(m);
}
