/* What a token may do depends, for most tokens, on the state alone and not on the stack below it: only those
 * whose text goes on behind the end of the rule do. So what a state allows is found once, with a stack of
 * which nothing is known, and the few tokens that would read it are tried with the stack that there is. The
 * idea is XGrammar's (Dong et al. 2024).
 *
 * Most texts are plain (vd_texts.h), and in most states that take any text every plain character leads to the
 * same next state. So a chain of such steps says how many plain characters may follow, whose tokens are known
 * beforehand; the others are walked.
 *
 * A walk over the tree of texts. Where a beginning has arrived is a place: a state and what the
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
    MOVES_PLAIN = VD_AUTOMATON_MOVES - VD_AUTOMATON_STACK - 1,
    WORTH_PLAIN = 256, /* instead of WORTH where only the tokens that are not plain are walked */
    ODD_MAX = 16,      /* first bytes of plain texts that are walked */
    PLAIN = 256,       /* any plain character: a column beside those of the bytes */
    COLUMNS,
};

/* Where a byte leads from a place. */
enum {
    REFUSED = PLACES_MAX,
    BELOW,  /* it depends on what is below the stack */
    MIXED,  /* only of PLAIN: not everywhere the same */
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
    struct known **known;   /* per state; NULL: not found yet */
    uint32_t *open, n_open; /* of the walk under way: room for the vocabulary */
    uint16_t deepest;       /* of the walk under way */
    uint64_t *bits;         /* of the vocabulary */
    uint32_t n_places;
    struct vd_automaton_state *place;
    struct way (*ways)[COLUMNS];                /* of each place */
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
    for (unsigned b = 0; b < COLUMNS; b++)
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

/* to VD_AUTOMATON_DEAD: there is none. *last becomes the last byte from this one on, and not beyond what it
 * was, for which the same holds. */
static struct vd_automaton_edge edge_of(const struct vd_masker *m, uint16_t state, uint8_t byte,
                                        uint8_t *last)
{
    uint32_t i, end;
    vd_automaton_edges(&m->a, state, &i, &end);
    for (; i < end; i++) {
        struct vd_automaton_edge e = vd_automaton_edge(&m->a, i);
        if (byte > e.high)
            continue;
        uint8_t high = byte >= e.low ? e.high : (uint8_t)(e.low - 1);
        *last = high < *last ? high : *last;
        if (byte >= e.low)
            return e;
        break;
    }
    return (struct vd_automaton_edge){.to = VD_AUTOMATON_DEAD};
}

enum taken { TAKEN, IS_REFUSED, IS_BELOW };

/* What a step needs, as of a way, and to which byte on it is the same one; *last is 255 before. */
struct step {
    uint16_t deepest;
    uint8_t last;
    unsigned moves;
};

/* vd_automaton_step, and what it would do with more on the stack. */
static enum taken take(const struct vd_masker *m, struct vd_automaton_state *s, uint8_t byte,
                       struct step *step)
{
    for (unsigned move = 0; move <= VD_AUTOMATON_MOVES; move++) {
        struct vd_automaton_edge e = edge_of(m, s->at, byte, &step->last);
        step->moves = move;
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
        step->deepest = s->depth > step->deepest ? s->depth : step->deepest;
    }
    return IS_REFUSED;
}

/* Tries a byte from the last of a path of n places, whose numbers may change. */
static struct way find_way(struct vd_masker *m, unsigned n, uint8_t byte)
{
    struct vd_automaton_state s = m->place[m->path[n - 1]];
    struct way w = {REFUSED, 0};
    struct step step = {.last = 255};
    enum taken how = take(m, &s, byte, &step);
    w.deepest = step.deepest;
    if (how == IS_BELOW)
        w.to = BELOW;
    if (how == TAKEN && (w.to = find_place(m, &s)) == NO_PLACE) {
        keep_path(m, n);
        w.to = find_place(m, &s);
    }
    for (unsigned b = byte; b <= step.last; b++)
        m->ways[m->path[n - 1]][b] = w;
    return w;
}

/* ---- plain characters ---- */

/* Where they lead, as far as they were tried. */
struct plain {
    const struct vd_masker *m;
    bool any;
    enum taken how;
    struct vd_automaton_state to;
    uint16_t deepest;
};

/* A state without edges that is an end can do nothing but return, so it is where it returns to; MOVES_PLAIN
 * leaves room for the moves that this takes. */
static void come_back(const struct vd_masker *m, struct vd_automaton_state *s)
{
    for (uint32_t first, end; s->depth > 0 && vd_automaton_is_end(&m->a, s->at);) {
        vd_automaton_edges(&m->a, s->at, &first, &end);
        if (first < end)
            return;
        s->at = s->stack[--s->depth];
        s->stack[s->depth] = 0;
    }
}

/* Bytes [low, high] from a state, behind each `more` bytes 80..BF. False: not everywhere the same. `begun`:
 * of a character. */
static bool try_bytes(struct plain *p, const struct vd_automaton_state *from, unsigned low, unsigned high,
                      unsigned more, bool begun)
{
    for (unsigned b = low; b <= high;) {
        struct vd_automaton_state s = *from;
        struct step step = {p->deepest, (uint8_t)high, 0};
        enum taken how = take(p->m, &s, (uint8_t)b, &step);
        p->deepest = step.deepest;
        b = step.last + 1u;
        if ((how != TAKEN && begun) || step.moves > MOVES_PLAIN)
            return false;
        if (how == TAKEN && more > 0) {
            if (!try_bytes(p, &s, 0x80, 0xBF, more - 1, true))
                return false;
            continue;
        }
        if (how == TAKEN)
            come_back(p->m, &s);
        if (p->any && (how != p->how || (how == TAKEN && memcmp(&s, &p->to, sizeof s) != 0)))
            return false;
        p->any = true;
        p->how = how;
        p->to = s;
    }
    return true;
}

/* The first bytes of plain characters: how many more there are, and which second ones. */
static const struct lead {
    uint8_t low, high, more, second_low, second_high;
} leads[] = {
    {0x20, 0x21, 0, 0, 0},       {0x23, 0x3B, 0, 0, 0},       {0x3D, 0x5A, 0, 0, 0},
    {0x5D, 0x7F, 0, 0, 0},       {0xC2, 0xDF, 1, 0x80, 0xBF}, {0xE0, 0xE0, 2, 0xA0, 0xBF},
    {0xE1, 0xEC, 2, 0x80, 0xBF}, {0xED, 0xED, 2, 0x80, 0x9F}, {0xEE, 0xEF, 2, 0x80, 0xBF},
    {0xF0, 0xF0, 3, 0x90, 0xBF}, {0xF1, 0xF3, 3, 0x80, 0xBF}, {0xF4, 0xF4, 3, 0x80, 0x8F},
};
enum { LEADS = sizeof leads / sizeof leads[0] };

/* The characters that begin with a byte of [low, high], which is in l. */
static bool try_lead(struct plain *p, const struct vd_automaton_state *from, const struct lead *l,
                     unsigned low, unsigned high)
{
    if (l->more == 0 || l->second_high - l->second_low == 0x3F)
        return try_bytes(p, from, low, high, l->more, false);
    struct vd_automaton_state s = *from;
    struct step step = {p->deepest, l->low, 0};
    enum taken how = take(p->m, &s, l->low, &step);
    p->deepest = step.deepest;
    if (step.moves > MOVES_PLAIN)
        return false;
    return how == TAKEN ? try_bytes(p, &s, l->second_low, l->second_high, l->more - 1u, true)
                        : p->any && how == p->how;
}

static uint16_t place_of(struct vd_masker *m, const struct plain *p)
{
    return p->how == TAKEN ? find_place(m, &p->to) : p->how == IS_REFUSED ? REFUSED : BELOW;
}

/* Where any plain character leads from a place. There is room for one more. */
static struct way plain_way(struct vd_masker *m, uint16_t place)
{
    struct way *w = &m->ways[place][PLAIN];
    struct plain p = {.m = m};
    bool same = true;
    if (w->to != UNKNOWN)
        return *w;
    for (unsigned i = 0; same && i < LEADS; i++)
        same = try_lead(&p, &m->place[place], &leads[i], leads[i].low, leads[i].high);
    return *w = (struct way){same ? place_of(m, &p) : MIXED, p.deepest};
}

/* What may follow as far as plain texts go. */
struct chain {
    uint16_t end;     /* of the next character: REFUSED, BELOW or MIXED; a place: it may follow */
    uint16_t deepest; /* as of a way */
    unsigned n;       /* plain characters may follow, VD_TEXTS_PLAIN_MAX or more if it is that */
    unsigned n_odd;
    uint8_t odd[ODD_MAX]; /* first bytes of which none of this is said */
};

static void plain_chain(struct vd_masker *m, const struct vd_automaton_state *from, struct chain *c)
{
    c->end = find_place(m, from);
    while (c->n < VD_TEXTS_PLAIN_MAX) {
        struct way w = plain_way(m, c->end);
        bool round = w.to == c->end; /* and round */
        c->deepest = w.deepest > c->deepest ? w.deepest : c->deepest;
        c->end = w.to;
        if (w.to >= PLACES_MAX)
            return;
        c->n = round ? VD_TEXTS_PLAIN_MAX : c->n + 1;
    }
}

/* A state in which a few first characters lead elsewhere than all others, as behind the first byte of a mark:
 * the chain of the others. */
static void odd_chain(struct vd_masker *m, const struct vd_automaton_state *from, struct chain *c)
{
    struct plain common = {.m = m};
    *c = (struct chain){.end = MIXED};
    if (!try_bytes(&common, from, 'e', 'e', 0, false) || common.how != TAKEN)
        return;
    for (unsigned i = 0; i < LEADS; i++)
        for (unsigned b = leads[i].low; b <= leads[i].high; b++) {
            struct plain p = common;
            if (try_lead(&p, from, &leads[i], b, b))
                common.deepest = p.deepest;
            else if (c->n_odd == ODD_MAX)
                return;
            else
                c->odd[c->n_odd++] = (uint8_t)b;
        }
    c->n = 1;
    c->deepest = common.deepest;
    plain_chain(m, &common.to, c);
}

static struct chain find_chain(struct vd_masker *m, const struct vd_automaton_state *from)
{
    struct chain c = {.n = 0};
    if (m->n_places + 2 * VD_TEXTS_PLAIN_MAX + 8 > PLACES_MAX)
        forget_places(m);
    plain_chain(m, from, &c);
    if (c.end == MIXED && c.n == 0)
        odd_chain(m, from, &c);
    return c;
}

/* ---- the walk ---- */

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

static size_t bits_bytes(const struct vd_masker *m)
{
    return ((size_t)vd_texts_vocab(m->texts) + 63) / 64 * sizeof m->bits[0];
}

/* Adds the ids that are in `from` and not in `without`; false if they are too many. */
static bool open_bits(struct vd_masker *m, const uint64_t *from, const uint64_t *without, uint32_t max_open)
{
    for (size_t i = 0; i < bits_bytes(m) / sizeof *from; i++) {
        for (uint64_t left = from[i] & ~without[i]; left; left &= left - 1) {
            if (m->n_open >= max_open)
                return false;
            m->open[m->n_open++] = (uint32_t)(64 * i) + (uint32_t)__builtin_ctzll(left);
        }
    }
    return true;
}

/* A part of a tree, from node i to `end`, with the path of its root's parent in place; false as soon as more
 * than max_open tokens are open. */
static bool walk_part(struct vd_masker *m, const struct vd_texts_tree *t, uint32_t i, uint32_t end,
                      uint32_t max_open)
{
    uint32_t next;
    for (; i < end; i = next) {
        unsigned depth = t->depth[i];
        struct way w = m->ways[m->path[depth]][t->byte[i]];
        if (w.to == UNKNOWN)
            w = find_way(m, depth + 1, t->byte[i]);
        m->deepest = w.deepest > m->deepest ? w.deepest : m->deepest;
        if (w.to < PLACES_MAX) {
            m->path[depth + 1] = w.to;
            next = i + 1;
            allow(m->bits, t, i);
            continue;
        }
        next = t->end[i];
        if (w.to == REFUSED)
            continue;
        if (t->first[next] - t->first[i] > max_open - m->n_open)
            return false;
        for (uint32_t k = t->first[i]; k < t->first[next]; k++)
            m->open[m->n_open++] = t->id[k];
    }
    return true;
}

static bool is_odd(const struct chain *c, uint8_t byte)
{
    for (unsigned i = 0; i < c->n_odd; i++)
        if (c->odd[i] == byte)
            return true;
    return false;
}

/* The texts that begin with the chain's odd bytes, one by one. */
static bool walk_odd(struct vd_masker *m, const struct chain *c, uint32_t max_open)
{
    const struct vd_texts_tree t = vd_texts_tree(m->texts);
    for (uint32_t i = 0; c->n_odd > 0 && i < t.n; i = t.end[i]) {
        if (!is_odd(c, t.byte[i]))
            continue;
        for (uint32_t k = t.first[i]; k < t.first[t.end[i]]; k++)
            m->bits[t.id[k] / 64] &= ~(UINT64_C(1) << t.id[k] % 64);
        if (!walk_part(m, &t, i, t.end[i], max_open))
            return false;
    }
    return true;
}

/* Fills in bits, open and deepest; false as soon as a part of the vocabulary is open (with `all`: never). */
static bool walk_all(struct vd_masker *m, const struct vd_automaton_state *from, bool all)
{
    const struct vd_texts_tree whole = vd_texts_tree(m->texts), t = vd_texts_others(m->texts);
    const struct chain c = find_chain(m, from);
    uint32_t vocab = vd_texts_vocab(m->texts), max_open = all ? vocab : vocab / WORTH_PLAIN;
    m->n_open = 0;
    m->deepest = c.deepest;
    m->path[0] = find_place(m, from);
    if (c.end == MIXED) {
        memset(m->bits, 0, bits_bytes(m));
        return walk_part(m, &whole, 0, whole.n, all ? vocab : vocab / WORTH);
    }
    const uint64_t *plain = vd_texts_plain(m->texts, c.n),
                   *most = vd_texts_plain(m->texts, VD_TEXTS_PLAIN_MAX);
    memcpy(m->bits, plain, bits_bytes(m));
    if (!walk_odd(m, &c, max_open) || (c.end == BELOW && !open_bits(m, most, plain, max_open)))
        return false;
    for (uint32_t i = 0, next; i < t.n; i = next) { /* without the odd ones */
        for (next = i; next < t.n && !is_odd(&c, t.byte[next]);)
            next = t.end[next];
        if (!walk_part(m, &t, i, next, max_open))
            return false;
        next = next < t.n ? t.end[next] : next;
    }
    return true;
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

static bool compute_walk(struct vd_masker *m, const struct vd_automaton_state *s, bool all)
{
    if (s->at < m->a.n_states)
        return walk_all(m, s, all);
    memset(m->bits, 0, bits_bytes(m));
    return true;
}

static void compute(struct vd_masker *m, const struct vd_automaton_state *s)
{
    bool may_end = vd_automaton_may_end(&m->a, s);
    const struct known *k = s->at < m->a.n_states ? m->known[s->at] : NULL;
    if (!k && s->at < m->a.n_states) {
        struct vd_automaton_state alone = {.at = s->at};
        k = keep_known(m, s->at, compute_walk(m, &alone, false));
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
        compute_walk(m, s, true); /* what is open then has nothing below */
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

/* The ids of n bits. */
static void list_bits(const struct vd_masker *m, uint32_t *ids)
{
    for (size_t i = 0; i < bits_bytes(m) / sizeof *m->bits; i++)
        for (uint64_t left = m->bits[i]; left; left &= left - 1)
            *ids++ = (uint32_t)(64 * i) + (uint32_t)__builtin_ctzll(left);
}

/* Keeps a copy; without memory for it, it is computed again next time. */
static void keep(struct vd_masker *m, struct allowed *a, const struct vd_automaton_state *s, uint32_t n)
{
    struct allowed to = {*s, n, NULL, NULL};
    if (a->id || a->bits)
        forget(m, a);
    if (n * sizeof *to.id > bits_bytes(m))
        to.bits = malloc(bits_bytes(m));
    else
        to.id = malloc((n ? n : 1) * sizeof *to.id);
    if (!to.bits && !to.id)
        return;
    if (to.bits)
        memcpy(to.bits, m->bits, bits_bytes(m));
    else
        list_bits(m, to.id);
    if (m->cached_bytes + bytes_of(m, &to) > VD_MASKER_CACHE_BYTES)
        for (size_t i = 0; i < SLOTS; i++)
            if (m->slot[i].id || m->slot[i].bits)
                forget(m, &m->slot[i]);
    m->cached_bytes += bytes_of(m, &to);
    *a = to;
}

static uint32_t count_bits(const struct vd_masker *m)
{
    uint32_t n = 0;
    for (size_t i = 0; i < bits_bytes(m) / sizeof *m->bits; i++)
        if (m->bits[i]) /* seldom, mostly */
            n += (uint32_t)__builtin_popcountll(m->bits[i]);
    return n;
}

uint32_t vd_masker_allowed(struct vd_masker *m, const struct vd_automaton_state *s, uint64_t *bits)
{
    struct allowed *a = &m->slot[hash_of(s) % SLOTS];
    uint32_t n;
    pthread_mutex_lock(&m->mu);
    bool found = (a->id || a->bits) && memcmp(&a->state, s, sizeof *s) == 0;
    if (!found) {
        compute(m, s);
        n = count_bits(m);
        keep(m, a, s, n);
        memcpy(bits, m->bits, bits_bytes(m));
    } else {
        n = a->n;
        if (a->bits)
            memcpy(bits, a->bits, bits_bytes(m));
        else
            memset(bits, 0, bits_bytes(m));
        for (uint32_t i = 0; a->id && i < n; i++)
            bits[a->id[i] / 64] |= UINT64_C(1) << a->id[i] % 64;
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
