/* What a token may do depends, for most tokens, on the state alone and not on the stack below it: only those
 * whose text goes on behind the end of the rule do. So what a state allows is found once, with a stack of
 * which nothing is known, and the few tokens that would read it are tried with the stack that there is. The
 * idea is XGrammar's (Dong et al. 2024).
 *
 * A walk over the tree of texts (vd_texts.h). Where a beginning has arrived is a place: a state and what the
 * walk has put on the stack. Places are numbered, and where each byte leads from a place is found once and
 * kept in a row of 256, for all walks: so most steps are one look, also where rules are called and return. */
#include "vd_masker.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    SLOTS = 1024, /* of the cache, a power of two */
    WORTH = 16,   /* a part of the vocabulary: where more tokens read the stack, all are walked each time */
    PLACES_MAX = 4096,  /* more than a path has; when they are all taken, they are found anew */
    PLACE_SLOTS = 8192, /* a power of two */
    NO_PLACE = PLACES_MAX,
};

/* Where a byte leads from a place. */
enum {
    REFUSED = PLACES_MAX,
    BELOW,  /* it depends on what is below the stack */
    UNKNOWN /* not tried yet */
};
struct way {
    uint16_t to;      /* a place, or the above */
    uint16_t deepest; /* the most that was on the stack on the way */
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

struct vd_masker {
    const struct vd_texts *texts;
    uint8_t *mask;
    struct vd_automaton a;
    uint32_t *stop;
    size_t n_stop;
    pthread_mutex_t mu;
    struct allowed slot[SLOTS];
    size_t cached_bytes, known_bytes;
    struct known **known;    /* per state; NULL: not found yet */
    uint32_t *open, n_open;  /* of the walk under way: room for the vocabulary */
    uint16_t deepest;        /* of the walk under way */
    uint64_t *bits;          /* of the vocabulary */
    uint32_t bit_at[256][8]; /* of a byte */
    uint8_t n_bits[256];
    uint32_t n_places;
    struct vd_automaton_state *place;
    struct way (*ways)[256];                    /* of each place */
    uint16_t place_slot[PLACE_SLOTS];           /* by hash */
    uint16_t path[VD_TOKEN_TEXT_MAX_BYTES + 1]; /* of the walk under way: places */
};

void vd_masker_advance(const struct vd_masker *m, struct vd_automaton_state *s, uint32_t token)
{
    vd_automaton_walk(&m->a, s, vd_texts_of(m->texts, token));
}

static uint64_t hash_of(const struct vd_automaton_state *s)
{
    uint64_t h = s->at * UINT64_C(0x9E3779B97F4A7C15) + s->depth;
    for (unsigned i = 0; i < s->depth; i++)
        h = (h ^ s->stack[i]) * UINT64_C(0x9E3779B97F4A7C15);
    return h >> 40;
}

static void forget_places(struct vd_masker *m)
{
    m->n_places = 0;
    for (uint32_t i = 0; i < PLACE_SLOTS; i++)
        m->place_slot[i] = NO_PLACE;
}

/* The place's number, a new one if need be; NO_PLACE: they are all taken. */
static uint16_t find_place(struct vd_masker *m, const struct vd_automaton_state *s)
{
    size_t i = hash_of(s) % PLACE_SLOTS;
    for (; m->place_slot[i] != NO_PLACE; i = (i + 1) % PLACE_SLOTS)
        if (memcmp(&m->place[m->place_slot[i]], s, sizeof *s) == 0)
            return m->place_slot[i];
    if (m->n_places == PLACES_MAX)
        return NO_PLACE;
    uint16_t n = (uint16_t)m->n_places++;
    m->place[n] = *s;
    m->place_slot[i] = n;
    for (unsigned b = 0; b < 256; b++)
        m->ways[n][b] = (struct way){UNKNOWN, 0};
    return n;
}

/* Forgets all places but those of the path's first n. */
static void keep_path(struct vd_masker *m, unsigned n)
{
    struct vd_automaton_state state[VD_TOKEN_TEXT_MAX_BYTES + 1];
    for (unsigned i = 0; i < n; i++)
        state[i] = m->place[m->path[i]];
    forget_places(m);
    for (unsigned i = 0; i < n; i++)
        m->path[i] = find_place(m, &state[i]);
}

/* to VD_AUTOMATON_DEAD: there is none. */
static struct vd_automaton_edge edge_of(const struct vd_masker *m, uint16_t state, uint8_t byte)
{
    uint32_t i, end;
    vd_automaton_edges(&m->a, state, &i, &end);
    for (; i < end; i++) {
        struct vd_automaton_edge e = vd_automaton_edge(&m->a, i);
        if (byte >= e.low && byte <= e.high)
            return e;
    }
    return (struct vd_automaton_edge){.to = VD_AUTOMATON_DEAD};
}

enum taken { TAKEN, IS_REFUSED, IS_BELOW };

/* vd_automaton_step, and what it would do with more on the stack. *deepest: as of a way. */
static enum taken take(const struct vd_masker *m, struct vd_automaton_state *s, uint8_t byte,
                       uint16_t *deepest)
{
    for (unsigned move = 0; move <= VD_AUTOMATON_MOVES; move++) {
        struct vd_automaton_edge e = edge_of(m, s->at, byte);
        if (e.to == VD_AUTOMATON_DEAD) {
            if (!vd_automaton_is_end(&m->a, s->at))
                return IS_REFUSED;
            if (s->depth == 0)
                return IS_BELOW;
            s->at = s->stack[--s->depth];
            s->stack[s->depth] = 0;
            continue;
        }
        s->at = e.to;
        if (e.back == VD_AUTOMATON_PLAIN)
            return TAKEN;
        if (s->depth == VD_AUTOMATON_STACK)
            return IS_REFUSED;
        s->stack[s->depth++] = e.back;
        *deepest = s->depth > *deepest ? s->depth : *deepest;
    }
    return IS_REFUSED;
}

/* Tries a byte from the last of a path of n places, whose numbers may change. */
static struct way find_way(struct vd_masker *m, unsigned n, uint8_t byte)
{
    struct vd_automaton_state s = m->place[m->path[n - 1]];
    struct way w = {REFUSED, 0};
    enum taken how = take(m, &s, byte, &w.deepest);
    if (how == IS_BELOW)
        w.to = BELOW;
    if (how == TAKEN && (w.to = find_place(m, &s)) == NO_PLACE) {
        keep_path(m, n);
        w.to = find_place(m, &s);
    }
    m->ways[m->path[n - 1]][byte] = w;
    return w;
}

/* The tokens of node i. Most nodes have one or none, which no branch should try to foresee. */
static void allow(uint64_t *bits, const struct vd_texts_tree *t, uint32_t i)
{
    uint32_t k = t->first[i], n = t->first[i + 1] - k, id = t->id[k];
    bits[id / 64] |= (uint64_t)(n > 0) << id % 64;
    while (n > 1) {
        id = t->id[k + --n];
        bits[id / 64] |= UINT64_C(1) << id % 64;
    }
}

/* Fills in bits, open and deepest; false as soon as more than max_open tokens are open. */
static bool walk_all(struct vd_masker *m, const struct vd_automaton_state *from, uint32_t max_open)
{
    const struct vd_texts_tree t = vd_texts_tree(m->texts);
    uint16_t deepest = 0;
    uint32_t next;
    m->n_open = 0;
    m->path[0] = find_place(m, from);
    if (m->path[0] == NO_PLACE) {
        forget_places(m);
        m->path[0] = find_place(m, from);
    }
    for (uint32_t i = 0; i < t.n; i = next) {
        unsigned depth = t.depth[i];
        struct way w = m->ways[m->path[depth]][t.byte[i]];
        if (w.to == UNKNOWN)
            w = find_way(m, depth + 1, t.byte[i]);
        deepest = w.deepest > deepest ? w.deepest : deepest;
        if (w.to < PLACES_MAX) {
            m->path[depth + 1] = w.to;
            next = i + 1;
            allow(m->bits, &t, i);
            continue;
        }
        next = t.end[i];
        if (w.to == REFUSED)
            continue;
        if (t.first[next] - t.first[i] > max_open - m->n_open)
            return false;
        for (uint32_t k = t.first[i]; k < t.first[next]; k++)
            m->open[m->n_open++] = t.id[k];
    }
    m->deepest = deepest;
    return true;
}

static size_t bits_bytes(const struct vd_masker *m)
{
    return ((size_t)vd_texts_vocab(m->texts) + 63) / 64 * sizeof m->bits[0];
}

/* Where the bits of each byte are, ascending, and how many there are. */
static void find_bits_of_bytes(struct vd_masker *m)
{
    for (unsigned byte = 0; byte < 256; byte++)
        for (uint32_t bit = 0; bit < 8; bit++)
            if (byte >> bit & 1)
                m->bit_at[byte][m->n_bits[byte]++] = bit;
}

/* Where a text may say anything most bits are set, so eight ids are written for every byte, and those that
 * are too many are written over. There is room for them, since no byte before has given more than eight. */
static uint32_t take_bits(const struct vd_masker *m, const uint64_t *bits, uint32_t *ids)
{
    uint32_t n = 0, vocab = vd_texts_vocab(m->texts), id = 0;
    for (; id + 64 <= vocab; id += 64) {
        uint64_t left = bits[id / 64];
        for (uint32_t at = id; left; left >>= 8, at += 8) {
            const uint32_t *bit = m->bit_at[left & 0xFF];
            for (unsigned i = 0; i < 8; i++)
                ids[n + i] = at + bit[i];
            n += m->n_bits[left & 0xFF];
        }
    }
    for (; id < vocab; id++)
        if (bits[id / 64] >> id % 64 & 1)
            ids[n++] = id;
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

/* What the walk from `at` with an empty stack has found, if it was worth it; NULL: no memory. */
static struct known *keep_known(struct vd_masker *m, uint16_t at, bool worth)
{
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

static bool compute_walk(struct vd_masker *m, const struct vd_automaton_state *s, uint32_t max_open)
{
    memset(m->bits, 0, bits_bytes(m));
    return s->at >= m->a.n_states || walk_all(m, s, max_open);
}

static void compute(struct vd_masker *m, const struct vd_automaton_state *s)
{
    bool may_end = vd_automaton_may_end(&m->a, s);
    const struct known *k = s->at < m->a.n_states ? m->known[s->at] : NULL;
    if (!k && s->at < m->a.n_states) {
        struct vd_automaton_state alone = {.at = s->at};
        k = keep_known(m, s->at, compute_walk(m, &alone, vd_texts_vocab(m->texts) / WORTH));
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
        compute_walk(m, s, UINT32_MAX); /* what is open then has nothing below */
    }
    for (size_t i = 0; i < m->n_stop; i++) {
        uint64_t bit = UINT64_C(1) << m->stop[i] % 64, *word = &m->bits[m->stop[i] / 64];
        *word = may_end ? *word | bit : *word & ~bit;
    }
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
    struct allowed *a = &m->slot[hash_of(s) % SLOTS];
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
    m->place = malloc(PLACES_MAX * sizeof *m->place);
    m->ways = malloc(PLACES_MAX * sizeof *m->ways);
    m->known = calloc(m->a.n_states, sizeof *m->known);
    m->open = malloc(((size_t)vocab + 1) * sizeof *m->open);
    m->bits = malloc(bits_bytes(m));
    m->stop = malloc((n_stop ? n_stop : 1) * sizeof *m->stop);
    if (!m->mask || !m->place || !m->ways || !m->known || !m->open || !m->bits || !m->stop)
        return vd_error_set(err, VD_ENOMEM, "no memory for a mask of %u states", m->a.n_states);
    memcpy(m->mask, mask.p, mask.n);
    vd_automaton_open(&m->a, (struct vd_bytes){m->mask, mask.n});
    forget_places(m);
    find_bits_of_bytes(m);
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
    forget_known(m);
    for (size_t i = 0; i < SLOTS; i++) {
        free(m->slot[i].id);
        free(m->slot[i].bits);
    }
    free(m->known);
    free(m->open);
    pthread_mutex_destroy(&m->mu);
    free(m->place);
    free(m->ways);
    free(m->mask);
    free(m->bits);
    free(m->stop);
    free(m);
}
