/* What a token may do depends, for most tokens, on the state alone and not on the stack below it: only those
 * whose text goes on behind the end of the rule do. So what a state allows is found once, with a stack of
 * which nothing is known, and the few tokens that would read it are tried with the stack that there is. The
 * idea is XGrammar's (Dong et al. 2024).
 *
 * A walk over the vocabulary in the order of texts: the states of the current text's beginnings are on a
 * stack, so that a beginning which many texts share is walked once, and all texts with a beginning that
 * cannot follow are skipped. Edges are unpacked to a table of 256 per state when a state is first visited. */
#include "vd_masker.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    SLOTS = 1024, /* of the cache, a power of two */
    WORTH = 16,   /* a part of the vocabulary: where more tokens read the stack, all are walked each time */
};

struct step {
    uint16_t to, back; /* to VD_AUTOMATON_DEAD: no edge */
};

/* What is allowed in one state: ids, or bits of the vocabulary where these are smaller. */
struct allowed {
    struct vd_automaton_state state;
    uint32_t n, *id;
    uint64_t *bits;
};

/* What is allowed in a state, whatever is on the stack, and the tokens that read the stack. bits NULL: they
 * are so many that it is not worth it. */
struct known {
    uint64_t *bits;
    uint32_t *open, n_open;
    uint16_t deepest; /* places of the stack that were taken */
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
    size_t cached_bytes, known_bytes;
    struct known **known;   /* per state; NULL: not found yet */
    uint32_t *open, n_open; /* of the walk under way: room for the vocabulary */
    uint16_t deepest;       /* of the walk under way */
    uint64_t *bits;         /* of the vocabulary */
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

/* Where a byte leads, also when there is no memory for a table: a mask that lacks tokens would be a wrong
 * answer. */
static struct step step_by(struct vd_masker *m, uint16_t state, uint8_t byte)
{
    const struct step *t = steps_of(m, state);
    uint32_t first, end;
    if (t)
        return t[byte];
    vd_automaton_edges(&m->a, state, &first, &end);
    for (; first < end; first++) {
        struct vd_automaton_edge e = vd_automaton_edge(&m->a, first);
        if (e.low <= byte && byte <= e.high)
            return (struct step){e.to, e.back};
    }
    return (struct step){VD_AUTOMATON_DEAD, VD_AUTOMATON_PLAIN};
}

enum taken { REFUSED, TAKEN, BELOW /* it depends on what is below the stack */ };

/* vd_automaton_step, and what it would do with more on the stack. */
static enum taken take(struct vd_masker *m, struct vd_automaton_state *s, uint8_t byte)
{
    for (unsigned move = 0; move <= VD_AUTOMATON_MOVES; move++) {
        const struct step t = step_by(m, s->at, byte);
        if (t.to == VD_AUTOMATON_DEAD) {
            if (!vd_automaton_is_end(&m->a, s->at))
                return REFUSED;
            if (s->depth == 0)
                return BELOW;
            s->at = s->stack[--s->depth];
            s->stack[s->depth] = 0;
            continue;
        }
        s->at = t.to;
        if (t.back == VD_AUTOMATON_PLAIN)
            return TAKEN;
        if (s->depth == VD_AUTOMATON_STACK)
            return REFUSED;
        s->stack[s->depth++] = t.back;
        m->deepest = s->depth > m->deepest ? s->depth : m->deepest;
    }
    return REFUSED;
}

/* One byte from level i to level i + 1. The common case, an edge that takes the byte, copies no stack. */
static enum taken step(struct vd_masker *m, unsigned i, uint8_t byte)
{
    struct level *from = &m->path[i], *to = &m->path[i + 1];
    const struct step *t = steps_of(m, from->at);
    if (t && t[byte].to != VD_AUTOMATON_DEAD && t[byte].back == VD_AUTOMATON_PLAIN) {
        to->at = t[byte].to;
        to->stack = from->stack;
        return TAKEN;
    }
    to->whole = m->path[from->stack].whole;
    to->whole.at = from->at;
    to->stack = (uint16_t)(i + 1);
    enum taken how = take(m, &to->whole, byte);
    to->at = to->whole.at;
    return how;
}

/* Fills in bits and open. */
static void walk_all(struct vd_masker *m, const struct vd_automaton_state *from)
{
    struct vd_texts_sorted all = vd_texts_sorted(m->texts);
    const uint8_t *rest = all.rest, *next;
    unsigned good = 0;      /* bytes of the last text walked that could follow */
    enum taken how = TAKEN; /* the last of its bytes that was tried */
    m->path[0] = (struct level){from->at, 0, *from};
    m->n_open = m->deepest = 0;
    for (uint32_t i = 0; i < all.n; i++, rest = next) {
        unsigned common = all.common[i], n = all.length[i];
        next = rest + (n - common);
        if (how == TAKEN || common <= good) { /* else it has the byte that could not */
            how = TAKEN;
            for (good = common; good < n && (how = step(m, good, rest[good - common])) == TAKEN; good++)
                ;
        }
        if (how == TAKEN)
            m->bits[all.id[i] / 64] |= UINT64_C(1) << all.id[i] % 64;
        else if (how == BELOW)
            m->open[m->n_open++] = all.id[i];
    }
}

static size_t bits_bytes(const struct vd_masker *m)
{
    return ((size_t)vd_texts_vocab(m->texts) + 63) / 64 * sizeof m->bits[0];
}

static uint32_t take_bits(const struct vd_masker *m, const uint64_t *bits, uint32_t *ids)
{
    uint32_t n = 0, words = (vd_texts_vocab(m->texts) + 63) / 64;
    for (uint32_t w = 0; w < words; w++)
        for (uint64_t left = bits[w]; left; left &= left - 1)
            ids[n++] = 64 * w + (uint32_t)__builtin_ctzll(left);
    return n;
}

static void forget_known(struct vd_masker *m)
{
    for (uint32_t i = 0; m->known && i < m->a.n_states; i++) {
        if (m->known[i]) {
            free(m->known[i]->bits);
            free(m->known[i]->open);
        }
        free(m->known[i]);
        m->known[i] = NULL;
    }
    m->known_bytes = 0;
}

/* What the walk from `at` with an empty stack has found; NULL: no memory. */
static struct known *keep_known(struct vd_masker *m, uint16_t at)
{
    bool worth = m->n_open <= vd_texts_vocab(m->texts) / WORTH;
    size_t bytes = sizeof(struct known) + (worth ? bits_bytes(m) + m->n_open * sizeof *m->open : 0);
    if (m->known_bytes + bytes > VD_MASKER_KNOWN_BYTES)
        forget_known(m);
    struct known *k = calloc(1, sizeof *k);
    if (!k)
        return NULL;
    if (worth) {
        k->bits = malloc(bits_bytes(m));
        k->open = malloc((m->n_open ? m->n_open : 1) * sizeof *k->open);
        if (!k->bits || !k->open) {
            free(k->bits);
            free(k->open);
            free(k);
            return NULL;
        }
        memcpy(k->bits, m->bits, bits_bytes(m));
        memcpy(k->open, m->open, m->n_open * sizeof *k->open);
        k->n_open = m->n_open;
        k->deepest = m->deepest;
    }
    m->known_bytes += bytes;
    return m->known[at] = k;
}

static void compute_walk(struct vd_masker *m, const struct vd_automaton_state *s)
{
    memset(m->bits, 0, bits_bytes(m));
    if (s->at < m->a.n_states)
        walk_all(m, s);
}

static void compute(struct vd_masker *m, const struct vd_automaton_state *s)
{
    bool may_end = vd_automaton_may_end(&m->a, s);
    const struct known *k = s->at < m->a.n_states ? m->known[s->at] : NULL;
    if (!k && s->at < m->a.n_states) {
        struct vd_automaton_state alone = {.at = s->at};
        compute_walk(m, &alone);
        k = keep_known(m, s->at);
    }
    if (k && k->bits && s->depth + k->deepest <= VD_AUTOMATON_STACK) {
        memcpy(m->bits, k->bits, bits_bytes(m));
        for (uint32_t i = 0; i < k->n_open; i++) {
            struct vd_automaton_state then = *s;
            vd_masker_advance(m, &then, k->open[i]);
            if (then.at != VD_AUTOMATON_DEAD)
                m->bits[k->open[i] / 64] |= UINT64_C(1) << k->open[i] % 64;
        }
    } else {
        compute_walk(m, s);
    }
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

static size_t bytes_of(const struct vd_masker *m, const struct allowed *a)
{
    return a->bits ? bits_bytes(m) : a->n * sizeof *a->id;
}

static void forget(struct vd_masker *m, struct allowed *a)
{
    m->cached_bytes -= bytes_of(m, a);
    free(a->id);
    free(a->bits);
    *a = (struct allowed){.n = 0};
}

/* Keeps a copy; without memory for it, it is computed again next time. */
static void keep(struct vd_masker *m, struct allowed *a, const struct vd_automaton_state *s,
                 const uint32_t *ids, uint32_t n)
{
    struct allowed to = {*s, n, NULL, NULL};
    if (a->id || a->bits)
        forget(m, a);
    if (n * sizeof *ids > bits_bytes(m))
        to.bits = malloc(bits_bytes(m));
    else
        to.id = malloc((n ? n : 1) * sizeof *to.id);
    if (!to.bits && !to.id)
        return;
    if (to.bits)
        memcpy(to.bits, m->bits, bits_bytes(m));
    else
        memcpy(to.id, ids, n * sizeof *ids);
    if (m->cached_bytes + bytes_of(m, &to) > VD_MASKER_CACHE_BYTES)
        for (size_t i = 0; i < SLOTS; i++)
            if (m->slot[i].id || m->slot[i].bits)
                forget(m, &m->slot[i]);
    m->cached_bytes += bytes_of(m, &to);
    *a = to;
}

uint32_t vd_masker_allowed(struct vd_masker *m, const struct vd_automaton_state *s, uint32_t *ids)
{
    struct allowed *a = &m->slot[slot_of(s)];
    uint32_t n;
    pthread_mutex_lock(&m->mu);
    bool found = (a->id || a->bits) && memcmp(&a->state, s, sizeof *s) == 0;
    if (found && a->bits) {
        n = take_bits(m, a->bits, ids);
    } else if (found) {
        n = a->n;
        memcpy(ids, a->id, n * sizeof *ids);
    } else {
        compute(m, s);
        n = take_bits(m, m->bits, ids);
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
    m->known = calloc(m->a.n_states, sizeof *m->known);
    m->open = malloc(((size_t)vocab + 1) * sizeof *m->open);
    m->bits = malloc(bits_bytes(m));
    m->stop = malloc((n_stop ? n_stop : 1) * sizeof *m->stop);
    if (!m->mask || !m->table || !m->known || !m->open || !m->bits || !m->stop)
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
    forget_known(m);
    for (size_t i = 0; i < SLOTS; i++) {
        free(m->slot[i].id);
        free(m->slot[i].bits);
    }
    free(m->known);
    free(m->open);
    pthread_mutex_destroy(&m->mu);
    free(m->table);
    free(m->mask);
    free(m->bits);
    free(m->stop);
    free(m);
}
