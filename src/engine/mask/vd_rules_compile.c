/* From rules to a mask, in the steps of any textbook:
 *
 *   1. which rules must be called: those that a walk over the rules re-enters; the others are written out;
 *   2. per called rule a nondeterministic automaton (Thompson's), with edges for bytes and for calls;
 *   3. which called rules can be empty, and with which bytes they can begin;
 *   4. per called rule the sets of states (Rabin and Scott's), in one numbering; a call becomes an edge that
 *      pushes, on the bytes with which the called rule begins;
 *   5. states that lead nowhere are dropped, states that cannot be told apart are made one (Moore's);
 *   6. what is left is numbered from the start and written down.
 *
 * `steps` counts the work of all of them; a hostile grammar runs out of it. */
#include "vd_rules_impl.h"

#include <stdlib.h>
#include <string.h>

enum {
    NONE = UINT32_MAX,
    CALLED_MAX = 256,
    SHARED_MAX = 128, /* called because they are worth it: the others are for what recurses */
    UNSHARE_MAX = 16, /* rules that are written out after all, one by one; then all are */
    TABLE = 1 << 16,
    COMMITS_MAX = 64, /* in a set */
};

struct nfa_state {
    uint32_t to, to2; /* empty edges: NONE if absent; to of a byte or call edge */
    uint16_t call;    /* called rule + 1 */
    uint8_t is_bytes, low, high, commits;
};

struct edge {
    uint32_t to, back; /* states; back NONE: plain */
    uint8_t low, high;
};

struct dfa_state {
    uint32_t set, n_set; /* in c->sets */
    uint32_t edge, n_edges;
    uint32_t class;
    bool is_end, leads_on;
};

struct called {
    uint32_t rule, nfa_start, nfa_end, start;
    bool nullable, visiting, visited;
    bool begins[256];
};

struct compiler {
    const struct vd_rules *r;
    struct vd_error *err;
    enum vd_err e;
    bool *shares;     /* per rule: worth to be called */
    uint32_t culprit; /* such a rule that leaves a byte undecided; NONE: there is none */
    uint64_t steps;
    unsigned depth;                   /* of rules that are being written out */
    uint16_t called_of[VD_RULES_MAX]; /* number in `called` + 1; 0: written out */
    uint8_t colour[VD_RULES_MAX];
    struct called called[CALLED_MAX];
    uint32_t n_called;
    struct nfa_state *nfa;
    uint32_t n_nfa;
    struct dfa_state *dfa;
    uint32_t n_dfa;
    uint32_t *sets, n_sets, cap_sets;
    struct edge *edges;
    uint32_t n_edges, cap_edges;
    uint32_t *mark; /* per nfa state: the closure that saw it last */
    uint32_t mark_now;
    uint32_t *stack, *gather, n_gather; /* n_nfa each */
    uint32_t *table;                    /* of sets, or of classes: state + 1 */
};

static bool fail(struct compiler *c, enum vd_err code, const char *what)
{
    if (c->e == VD_OK)
        c->e = vd_error_set(c->err, code, "%s", what);
    return false;
}

static bool spend(struct compiler *c, uint64_t n)
{
    c->steps += n;
    return c->steps <= VD_RULES_STEPS_MAX || fail(c, VD_ELIMIT, "the rules take too many steps to compile");
}

static const char *name_of(const struct compiler *c, uint32_t called)
{
    return c->r->rule[c->called[called].rule].name;
}

/* ---- 1. rules that are called ---- */

static bool call_rule(struct compiler *c, uint32_t rule)
{
    if (c->called_of[rule])
        return true;
    if (c->n_called == CALLED_MAX)
        return fail(c, VD_ELIMIT, "more than 256 rules are recursive");
    c->called[c->n_called] = (struct called){.rule = rule};
    c->called_of[rule] = (uint16_t)++c->n_called;
    return true;
}

static bool visit_rule(struct compiler *c, uint32_t rule, unsigned depth);

static bool visit(struct compiler *c, vd_expr e, unsigned depth)
{
    const struct node *n = &c->r->node[e];
    if (!spend(c, 1))
        return false;
    switch ((enum node_kind)n->kind) {
    case NODE_SEQ:
    case NODE_ALT:
        for (uint32_t i = n->child; i; i = c->r->node[i].next)
            if (!visit(c, c->r->node[i].child, depth))
                return false;
        return true;
    case NODE_MEMBERS:
        for (uint32_t i = n->child; i; i = c->r->node[i].next)
            if (!visit(c, c->r->node[i].child, depth))
                return false;
        return visit(c, n->min, depth);
    case NODE_ITEM:
    case NODE_REPEAT:
        return visit(c, n->child, depth);
    case NODE_REF:
        return visit_rule(c, n->min, depth + 1);
    case NODE_BYTES:
    case NODE_NOTHING:
    case NODE_COMMIT:
        return true;
    }
    return true;
}

/* Colours: 0 new, 1 being visited, 2 done. */
static bool visit_rule(struct compiler *c, uint32_t rule, unsigned depth)
{
    const struct rule *r = &c->r->rule[rule];
    if (!r->defined) {
        if (c->e == VD_OK)
            c->e = vd_error_set(c->err, VD_EUSE, "the rule '%s' is not defined", r->name);
        return false;
    }
    if (c->shares[rule] && c->n_called < SHARED_MAX && !call_rule(c, rule))
        return false;
    if (c->colour[rule] == 1)
        return call_rule(c, rule);
    if (c->colour[rule] == 2)
        return true;
    if (depth > VD_RULES_DEPTH_MAX)
        return fail(c, VD_ELIMIT, "the rules refer to each other too deeply");
    c->colour[rule] = 1;
    bool ok = visit(c, r->body, depth);
    c->colour[rule] = 2;
    return ok;
}

/* ---- 2. the nondeterministic automata ---- */

static uint32_t nfa_new(struct compiler *c)
{
    if (c->n_nfa == VD_RULES_NFA_MAX) {
        fail(c, VD_ELIMIT, "the rules are too large: repetitions and rules written out give too many states");
        return 0;
    }
    c->nfa[c->n_nfa] = (struct nfa_state){.to = NONE, .to2 = NONE};
    return c->n_nfa++;
}

static void link_empty(struct compiler *c, uint32_t from, uint32_t to)
{
    struct nfa_state *s = &c->nfa[from];
    if (s->to == NONE && !s->is_bytes && !s->call)
        s->to = to;
    else
        s->to2 = to;
}

/* Builds e from state `from`; returns the state behind it. Every state that is returned has no edge yet. */
static uint32_t build(struct compiler *c, vd_expr e, uint32_t from);

static uint32_t build_alt(struct compiler *c, const struct node *n, uint32_t from)
{
    uint32_t end = nfa_new(c), fork = from;
    for (uint32_t i = n->child; i && c->e == VD_OK; i = c->r->node[i].next) {
        uint32_t begin = nfa_new(c);
        link_empty(c, fork, begin);
        link_empty(c, build(c, c->r->node[i].child, begin), end);
        if (c->r->node[i].next) {
            uint32_t next = nfa_new(c);
            c->nfa[fork].to2 = next;
            fork = next;
        }
    }
    return end;
}

static uint32_t build_repeat(struct compiler *c, const struct node *n, uint32_t from)
{
    uint32_t at = from, end;
    for (uint32_t i = 0; i < n->min && c->e == VD_OK; i++)
        at = build(c, n->child, at);
    end = nfa_new(c);
    if (n->max == VD_RULES_NO_MAX) {
        uint32_t loop = nfa_new(c), body = nfa_new(c);
        link_empty(c, at, loop);
        c->nfa[loop].to = body;
        c->nfa[loop].to2 = end;
        link_empty(c, build(c, n->child, body), loop);
        return end;
    }
    for (uint32_t i = n->min; i < n->max && c->e == VD_OK; i++) {
        uint32_t body = nfa_new(c);
        link_empty(c, at, body);
        c->nfa[at].to2 = end;
        at = build(c, n->child, body);
    }
    link_empty(c, at, end);
    return end;
}

/* The comma from state `from`, and behind it `to`. */
static void build_comma(struct compiler *c, const struct node *n, uint32_t from, uint32_t to)
{
    uint32_t begin = nfa_new(c);
    link_empty(c, from, begin);
    link_empty(c, build(c, n->min, begin), to);
}

/* Two tracks: `bare` before anything is written, `after` behind an item, which has to write the comma first.
 * Each item is built once and entered from both, so that the states are as many as the items' own. */
static uint32_t build_members(struct compiler *c, const struct node *n, uint32_t from)
{
    uint32_t bare = from, after = NONE, end = nfa_new(c);
    for (uint32_t i = n->child; i && c->e == VD_OK; i = c->r->node[i].next) {
        const struct node *item = &c->r->node[i];
        bool last = !item->next;
        uint32_t begin = nfa_new(c), behind = nfa_new(c);
        if (bare != NONE)
            link_empty(c, bare, begin);
        if (after != NONE)
            build_comma(c, n, after, begin);
        link_empty(c, build(c, item->child, begin), behind);
        if (last && n->max) {
            uint32_t on = nfa_new(c);
            build_comma(c, n, behind, begin);
            link_empty(c, behind, on);
            behind = on;
        }
        if (item->min) {
            bare = NONE;
        } else {
            uint32_t skip = nfa_new(c);
            if (bare != NONE)
                link_empty(c, bare, skip);
            if (after != NONE)
                link_empty(c, after, behind);
            bare = bare != NONE ? skip : NONE;
        }
        after = behind;
    }
    if (bare != NONE)
        link_empty(c, bare, end);
    if (after != NONE)
        link_empty(c, after, end);
    return end;
}

/* A rule that is written out. */
static uint32_t build_rule(struct compiler *c, uint32_t rule, uint32_t from)
{
    if (++c->depth > VD_RULES_DEPTH_MAX)
        fail(c, VD_ELIMIT, "the rules refer to each other too deeply");
    else
        from = build(c, c->r->rule[rule].body, from);
    c->depth--;
    return from;
}

static uint32_t build(struct compiler *c, vd_expr e, uint32_t from)
{
    const struct node *n = &c->r->node[e];
    uint32_t end;
    if (c->e != VD_OK || !spend(c, 1))
        return from;
    switch ((enum node_kind)n->kind) {
    case NODE_SEQ:
        for (uint32_t i = n->child; i; i = c->r->node[i].next)
            from = build(c, c->r->node[i].child, from);
        return from;
    case NODE_ALT:
        return build_alt(c, n, from);
    case NODE_MEMBERS:
        return build_members(c, n, from);
    case NODE_ITEM:
        return build(c, n->child, from);
    case NODE_REPEAT:
        return build_repeat(c, n, from);
    case NODE_BYTES:
        end = nfa_new(c);
        c->nfa[from].is_bytes = 1;
        c->nfa[from].low = (uint8_t)n->min;
        c->nfa[from].high = (uint8_t)n->max;
        c->nfa[from].to = end;
        return end;
    case NODE_REF:
        if (!c->called_of[n->min])
            return build_rule(c, n->min, from);
        end = nfa_new(c);
        c->nfa[from].call = c->called_of[n->min];
        c->nfa[from].to = end;
        return end;
    case NODE_NOTHING:
        return nfa_new(c);
    case NODE_COMMIT:
        end = nfa_new(c);
        link_empty(c, from, end);
        c->nfa[end].commits = 1;
        from = end;
        end = nfa_new(c);
        link_empty(c, from, end);
        return end;
    }
    return from;
}

static bool build_all(struct compiler *c)
{
    for (uint32_t i = 0; i < c->n_called; i++) {
        c->called[i].nfa_start = nfa_new(c);
        c->called[i].nfa_end = build(c, c->r->rule[c->called[i].rule].body, c->called[i].nfa_start);
    }
    return c->e == VD_OK;
}

/* ---- 3. closures, empty rules, first bytes ---- */

/* Adds all that `from` reaches without a byte to c->gather: calls of rules that can be empty are passed. */
static void close_over(struct compiler *c, uint32_t from)
{
    uint32_t n = 0;
    c->stack[n++] = from;
    while (n > 0) {
        uint32_t s = c->stack[--n];
        const struct nfa_state *x = &c->nfa[s];
        if (c->mark[s] == c->mark_now)
            continue;
        c->mark[s] = c->mark_now;
        c->gather[c->n_gather++] = s;
        c->steps++;
        bool passes = !x->is_bytes && (!x->call || c->called[x->call - 1].nullable);
        if (passes && x->to != NONE && c->mark[x->to] != c->mark_now)
            c->stack[n++] = x->to;
        if (x->to2 != NONE && c->mark[x->to2] != c->mark_now)
            c->stack[n++] = x->to2;
    }
}

static void gather_begin(struct compiler *c)
{
    c->mark_now++;
    c->n_gather = 0;
}

static bool find_nullable(struct compiler *c)
{
    for (bool changed = true; changed;) {
        changed = false;
        for (uint32_t i = 0; i < c->n_called; i++) {
            gather_begin(c);
            close_over(c, c->called[i].nfa_start);
            bool empty = c->mark[c->called[i].nfa_end] == c->mark_now;
            changed = changed || (empty && !c->called[i].nullable);
            c->called[i].nullable = empty;
        }
        if (!spend(c, 1))
            return false;
    }
    return true;
}

/* Depth first; a rule that can begin with itself never decides. */
static bool find_begins(struct compiler *c, uint32_t i)
{
    struct called *x = &c->called[i];
    if (x->visited)
        return true;
    if (x->visiting) {
        if (c->e == VD_OK)
            c->e = vd_error_set(c->err, VD_EUSE, "the rule '%s' can begin with itself (left recursion)",
                                name_of(c, i));
        return false;
    }
    x->visiting = true;
    gather_begin(c);
    close_over(c, x->nfa_start);
    uint32_t n = c->n_gather, *own = malloc((n ? n : 1) * sizeof *own);
    if (!own)
        return fail(c, VD_ENOMEM, "no memory to compile rules");
    memcpy(own, c->gather, n * sizeof *own);
    bool ok = true;
    for (uint32_t k = 0; ok && k < n; k++) {
        const struct nfa_state *s = &c->nfa[own[k]];
        for (unsigned b = s->low; s->is_bytes && b <= s->high; b++)
            x->begins[b] = true;
        if (!s->call)
            continue;
        ok = find_begins(c, s->call - 1u);
        for (unsigned b = 0; b < 256; b++)
            x->begins[b] = x->begins[b] || c->called[s->call - 1].begins[b];
    }
    free(own);
    x->visiting = false;
    x->visited = true;
    return ok;
}

/* ---- 4. sets of states ---- */

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static bool grow(struct compiler *c, void **p, uint32_t *cap, uint64_t need, size_t each)
{
    if (need <= *cap)
        return true;
    uint64_t to = *cap ? 2 * (uint64_t)*cap : 4096;
    to = to < need ? need : to;
    void *more = to > UINT32_C(1) << 26 ? NULL : realloc(*p, to * each);
    if (!more)
        return fail(c, VD_ELIMIT, "the rules take too much memory to compile");
    *p = more;
    *cap = (uint32_t)to;
    return true;
}

/* The state of the set in c->gather, old or new; NONE: failed. */
static uint32_t intern(struct compiler *c, uint32_t nfa_end)
{
    uint64_t h = 0;
    qsort(c->gather, c->n_gather, sizeof *c->gather, by_number);
    for (uint32_t i = 0; i < c->n_gather; i++)
        h = (h ^ c->gather[i]) * UINT64_C(0x9E3779B97F4A7C15);
    if (!spend(c, c->n_gather))
        return NONE;
    uint32_t at = (uint32_t)(h >> 40) % TABLE;
    for (; c->table[at]; at = (at + 1) % TABLE) {
        const struct dfa_state *d = &c->dfa[c->table[at] - 1];
        if (d->n_set == c->n_gather &&
            memcmp(c->sets + d->set, c->gather, c->n_gather * sizeof *c->gather) == 0)
            return c->table[at] - 1;
    }
    if (c->n_dfa == VD_RULES_DFA_MAX) {
        fail(c, VD_ELIMIT, "the rules have too many states");
        return NONE;
    }
    if (!grow(c, (void **)&c->sets, &c->cap_sets, (uint64_t)c->n_sets + c->n_gather, sizeof *c->sets))
        return NONE;
    if (c->n_gather)
        memcpy(c->sets + c->n_sets, c->gather, c->n_gather * sizeof *c->gather);
    c->dfa[c->n_dfa] =
        (struct dfa_state){.set = c->n_sets, .n_set = c->n_gather, .is_end = c->mark[nfa_end] == c->mark_now};
    c->n_sets += c->n_gather;
    c->table[at] = ++c->n_dfa;
    return c->n_dfa - 1;
}

static bool put_edge(struct compiler *c, struct edge e)
{
    if (!grow(c, (void **)&c->edges, &c->cap_edges, (uint64_t)c->n_edges + 1, sizeof *c->edges))
        return false;
    c->edges[c->n_edges++] = e;
    return true;
}

/* A rule that is called only because it is worth it, among what two takers are (0: bytes). */
static uint32_t culprit_of(const struct compiler *c, uint32_t a, uint32_t b)
{
    const uint32_t by[2] = {a, b};
    for (unsigned i = 0; i < 2; i++)
        if (by[i] > 1 && c->shares[c->called[by[i] - 2].rule])
            return c->called[by[i] - 2].rule;
    return NONE;
}

/* What takes byte b in this set: 0 nothing, 1 bytes, 2 + i a call of rule i. */
static bool taker(struct compiler *c, const struct dfa_state *d, unsigned b, uint32_t *out)
{
    *out = 0;
    for (uint32_t i = 0; i < d->n_set; i++) {
        const struct nfa_state *s = &c->nfa[c->sets[d->set + i]];
        uint32_t by = s->is_bytes && s->low <= b && b <= s->high    ? 1
                      : s->call && c->called[s->call - 1].begins[b] ? s->call + 1u
                                                                    : 0;
        if (by == 0 || *out == by)
            continue;
        if (*out != 0) {
            uint32_t rule = (by > *out ? by : *out) - 2, other = by > *out ? *out : by;
            c->culprit = culprit_of(c, by, *out);
            if (c->e == VD_OK)
                c->e =
                    vd_error_set(c->err, VD_EUSE,
                                 "the recursive rule '%s' and %s%s%s can begin with the same byte 0x%02x at "
                                 "the same place, so that the next byte does not decide",
                                 name_of(c, rule), other == 1 ? "another choice" : "the rule '",
                                 other == 1 ? "" : name_of(c, other - 2), other == 1 ? "" : "'", b);
            return false;
        }
        *out = by;
    }
    return true;
}

/* Where the set in c->gather has commits, what is behind them is all that stays of it. */
static bool commit(struct compiler *c)
{
    uint32_t at[COMMITS_MAX], n = 0;
    for (uint32_t i = 0; i < c->n_gather; i++) {
        if (!c->nfa[c->gather[i]].commits)
            continue;
        if (n == COMMITS_MAX)
            return fail(c, VD_ELIMIT, "the rules decide for too much at the same place");
        at[n++] = c->gather[i];
    }
    if (n > 0)
        gather_begin(c);
    for (uint32_t i = 0; i < n; i++)
        close_over(c, at[i]);
    return true;
}

/* The set behind d's set by a byte, or behind a call. */
static uint32_t behind(struct compiler *c, uint32_t state, unsigned b, uint32_t by, uint32_t nfa_end)
{
    const struct dfa_state d = c->dfa[state];
    gather_begin(c);
    for (uint32_t i = 0; i < d.n_set; i++) {
        const struct nfa_state *s = &c->nfa[c->sets[d.set + i]];
        if (by == 1 ? s->is_bytes && s->low <= b && b <= s->high : s->call + 1u == by)
            close_over(c, s->to);
    }
    return commit(c) ? intern(c, nfa_end) : NONE;
}

/* cut[b]: bytes b - 1 and b are not taken by the same. */
static void find_cuts(const struct compiler *c, const struct dfa_state *d, bool cut[257])
{
    memset(cut, 0, 257);
    for (uint32_t i = 0; i < d->n_set; i++) {
        const struct nfa_state *s = &c->nfa[c->sets[d->set + i]];
        if (s->is_bytes)
            cut[s->low] = cut[s->high + 1] = true;
        for (unsigned b = 1; s->call && b < 256; b++)
            cut[b] |= c->called[s->call - 1].begins[b] != c->called[s->call - 1].begins[b - 1];
    }
}

static bool expand(struct compiler *c, uint32_t state, uint32_t nfa_end)
{
    bool cut[257];
    c->dfa[state].edge = c->n_edges;
    find_cuts(c, &c->dfa[state], cut);
    for (unsigned b = 0, high; b < 256; b = high + 1) {
        uint32_t by;
        for (high = b; high < 255 && !cut[high + 1];)
            high++;
        if (!taker(c, &c->dfa[state], b, &by) || !spend(c, c->dfa[state].n_set))
            return false;
        if (by) {
            uint32_t to = behind(c, state, b, by, nfa_end);
            struct edge e = {to, NONE, (uint8_t)b, (uint8_t)high};
            if (by > 1) /* `to` becomes the called rule's start when all have one */
                e = (struct edge){by - 2, to, (uint8_t)b, (uint8_t)high};
            if (to == NONE || !put_edge(c, e))
                return false;
        }
    }
    c->dfa[state].n_edges = c->n_edges - c->dfa[state].edge;
    return true;
}

static bool determine(struct compiler *c)
{
    uint32_t done = 0;
    for (uint32_t i = 0; i < c->n_called; i++) {
        gather_begin(c);
        close_over(c, c->called[i].nfa_start);
        uint32_t start = c->called[i].start = intern(c, c->called[i].nfa_end);
        if (start == NONE)
            return false;
        for (; done < c->n_dfa; done++)
            if (!expand(c, done, c->called[i].nfa_end))
                return false;
    }
    for (uint32_t i = 0; i < c->n_edges; i++)
        if (c->edges[i].back != NONE)
            c->edges[i].to = c->called[c->edges[i].to].start;
    return true;
}

/* ---- 5. fewer states ---- */

static bool leads_on(const struct compiler *c, const struct edge *e)
{
    return c->dfa[e->to].leads_on && (e->back == NONE || c->dfa[e->back].leads_on);
}

static bool drop_dead_ends(struct compiler *c)
{
    for (bool changed = true; changed;) {
        changed = false;
        for (uint32_t s = c->n_dfa; s-- > 0;) {
            struct dfa_state *d = &c->dfa[s];
            bool on = d->is_end;
            if (d->leads_on)
                continue;
            for (uint32_t i = 0; !on && i < d->n_edges; i++)
                on = leads_on(c, &c->edges[d->edge + i]);
            d->leads_on = on;
            changed = changed || on;
            if (!spend(c, d->n_edges + 1))
                return false;
        }
    }
    for (uint32_t s = 0; s < c->n_dfa; s++) {
        struct dfa_state *d = &c->dfa[s];
        uint32_t kept = 0;
        for (uint32_t i = 0; i < d->n_edges; i++)
            if (leads_on(c, &c->edges[d->edge + i]))
                c->edges[d->edge + kept++] = c->edges[d->edge + i];
        d->n_edges = kept;
    }
    return c->dfa[c->called[0].start].leads_on || fail(c, VD_EUSE, "no text can match the rules");
}

static uint32_t class_of(const struct compiler *c, uint32_t state)
{
    return state == NONE ? NONE : c->dfa[state].class;
}

/* The i-th edge by classes, with what continues it; *i moves behind. */
static struct edge class_edge(const struct compiler *c, const struct dfa_state *d, uint32_t *i)
{
    struct edge e = c->edges[d->edge + (*i)++];
    e.to = class_of(c, e.to);
    e.back = class_of(c, e.back);
    for (; *i < d->n_edges; (*i)++) {
        const struct edge *f = &c->edges[d->edge + *i];
        if (f->low != e.high + 1 || class_of(c, f->to) != e.to || class_of(c, f->back) != e.back)
            break;
        e.high = f->high;
    }
    return e;
}

static uint64_t signature(const struct compiler *c, const struct dfa_state *d)
{
    uint64_t h = d->class;
    for (uint32_t i = 0; i < d->n_edges;) {
        struct edge e = class_edge(c, d, &i);
        h = (h ^ e.to) * UINT64_C(0x9E3779B97F4A7C15);
        h = (h ^ (h >> 29) ^ e.back) * UINT64_C(0xBF58476D1CE4E5B9);
        h = (h ^ (h >> 32) ^ (e.low | (uint32_t)e.high << 8)) * UINT64_C(0x94D049BB133111EB);
    }
    return h ^ h >> 31;
}

static bool same_class(const struct compiler *c, const struct dfa_state *a, const struct dfa_state *b)
{
    uint32_t i = 0, k = 0;
    if (a->class != b->class)
        return false;
    while (i < a->n_edges && k < b->n_edges) {
        struct edge x = class_edge(c, a, &i), y = class_edge(c, b, &k);
        if (x.to != y.to || x.back != y.back || x.low != y.low || x.high != y.high)
            return false;
    }
    return i == a->n_edges && k == b->n_edges;
}

/* One round: states of one class stay together if their edges lead to the same classes. Returns how many
 * classes there are; 0: failed. */
static uint32_t refine(struct compiler *c, uint32_t *next)
{
    uint32_t n = 0;
    memset(c->table, 0, TABLE * sizeof *c->table);
    for (uint32_t s = 0; s < c->n_dfa; s++) {
        const struct dfa_state *d = &c->dfa[s];
        uint32_t at = (uint32_t)(signature(c, d) >> 40) % TABLE;
        if (!d->leads_on)
            continue;
        if (!spend(c, d->n_edges + 1))
            return 0;
        while (c->table[at] && !same_class(c, &c->dfa[c->table[at] - 1], d))
            at = (at + 1) % TABLE;
        if (c->table[at]) {
            next[s] = next[c->table[at] - 1];
        } else {
            c->table[at] = s + 1;
            next[s] = n++;
        }
    }
    return n;
}

static bool minimise(struct compiler *c)
{
    uint32_t n = 0, before, *next = malloc(c->n_dfa * sizeof *next);
    if (!next)
        return fail(c, VD_ENOMEM, "no memory to compile rules");
    for (uint32_t s = 0; s < c->n_dfa; s++)
        c->dfa[s].class = c->dfa[s].is_end;
    do {
        before = n;
        n = refine(c, next);
        for (uint32_t s = 0; n && s < c->n_dfa; s++)
            c->dfa[s].class = next[s];
    } while (n > before);
    free(next);
    return n > 0;
}

/* ---- 6. written down ---- */

/* Numbers classes from the start, in the order in which edges name them; order[] gets a state of each. */
static uint32_t number(struct compiler *c, uint32_t *place, uint32_t *order)
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < c->n_dfa; s++)
        place[s] = NONE;
    place[c->dfa[c->called[0].start].class] = n;
    order[n++] = c->called[0].start;
    for (uint32_t k = 0; k < n; k++) {
        const struct dfa_state *d = &c->dfa[order[k]];
        for (uint32_t i = 0; i < d->n_edges; i++) {
            const struct edge *e = &c->edges[d->edge + i];
            uint32_t both[2] = {e->to, e->back};
            for (unsigned j = 0; j < 2; j++)
                if (both[j] != NONE && place[c->dfa[both[j]].class] == NONE) {
                    place[c->dfa[both[j]].class] = n;
                    order[n++] = both[j];
                }
        }
    }
    return n;
}

static bool write_mask(struct compiler *c, const struct vd_hash *root, uint32_t *place, uint32_t *order,
                       uint8_t *out, size_t *n_out)
{
    uint32_t n = number(c, place, order), n_edges = 0;
    uint8_t *p = out + VD_MASK_HEAD_BYTES;
    for (uint32_t k = 0; k < n; k++)
        for (uint32_t i = 0; i < c->dfa[order[k]].n_edges; n_edges++)
            class_edge(c, &c->dfa[order[k]], &i);
    *n_out = VD_MASK_HEAD_BYTES + 2 * (size_t)n + VD_AUTOMATON_EDGE_BYTES * (size_t)n_edges;
    if (n > VD_AUTOMATON_STATES_MAX || *n_out > VD_MASK_BYTES_MAX) {
        c->e = vd_error_set(c->err, VD_ELIMIT,
                            "the rules need %u states and %u edges, %zu bytes; a mask has at most %d", n,
                            n_edges, *n_out, VD_MASK_BYTES_MAX);
        return false;
    }
    memcpy(out, root->b, VD_MASK_ROOT_BYTES);
    vd_le16_store(out + VD_MASK_ROOT_BYTES, (uint16_t)n);
    n_edges = 0;
    uint8_t *edge = p + 2 * (size_t)n;
    for (uint32_t k = 0; k < n; k++, p += 2) {
        const struct dfa_state *d = &c->dfa[order[k]];
        vd_le16_store(p, (uint16_t)(n_edges | (d->is_end ? 0x8000u : 0)));
        for (uint32_t i = 0; i < d->n_edges; n_edges++, edge += VD_AUTOMATON_EDGE_BYTES) {
            struct edge e = class_edge(c, d, &i);
            edge[0] = e.low;
            edge[1] = e.high;
            vd_le16_store(edge + 2, (uint16_t)place[e.to]);
            vd_le16_store(edge + 4, e.back == NONE ? VD_AUTOMATON_PLAIN : (uint16_t)place[e.back]);
        }
    }
    return true;
}

static bool allocate(struct compiler *c)
{
    c->nfa = malloc(VD_RULES_NFA_MAX * sizeof *c->nfa);
    c->dfa = malloc(VD_RULES_DFA_MAX * sizeof *c->dfa);
    c->mark = calloc(VD_RULES_NFA_MAX, sizeof *c->mark);
    c->stack = malloc(2 * VD_RULES_NFA_MAX * sizeof *c->stack);
    c->gather = malloc(VD_RULES_NFA_MAX * sizeof *c->gather);
    c->table = calloc(TABLE, sizeof *c->table);
    return (c->nfa && c->dfa && c->mark && c->stack && c->gather && c->table) ||
           fail(c, VD_ENOMEM, "no memory to compile rules");
}

static void release(struct compiler *c)
{
    free(c->nfa);
    free(c->dfa);
    free(c->mark);
    free(c->stack);
    free(c->gather);
    free(c->table);
    free(c->sets);
    free(c->edges);
    free(c);
}

/* *culprit: a rule that must not be called, NONE if that is not what is wrong. *steps: of all attempts. */
static enum vd_err compile(const struct vd_rules *r, uint32_t root, const struct vd_hash *texts_root,
                           bool *shares, uint32_t *culprit, uint64_t *steps, uint8_t *out, size_t *n,
                           struct vd_error *err)
{
    struct compiler *c = calloc(1, sizeof *c);
    if (!c)
        return vd_error_set(err, VD_ENOMEM, "no memory to compile rules");
    c->r = r;
    c->shares = shares;
    c->culprit = NONE;
    c->steps = *steps;
    c->err = err;
    bool ok = !r->full || fail(c, VD_ELIMIT, "the rules are too many, too large or too deep");
    ok =
        ok && call_rule(c, root) && visit_rule(c, root, 0) && allocate(c) && build_all(c) && find_nullable(c);
    for (uint32_t i = 0; ok && i < c->n_called; i++)
        ok = find_begins(c, i);
    ok = ok && determine(c) && drop_dead_ends(c) && minimise(c);
    if (ok) {
        uint32_t *place = malloc(2 * (size_t)c->n_dfa * sizeof *place);
        ok = place ? write_mask(c, texts_root, place, place + c->n_dfa, out, n)
                   : fail(c, VD_ENOMEM, "no memory to compile rules");
        free(place);
    }
    enum vd_err e = ok ? VD_OK : c->e;
    *culprit = c->culprit;
    *steps = c->steps;
    release(c);
    return e;
}

enum vd_err vd_rules_compile(const struct vd_rules *r, uint32_t root, const struct vd_hash *texts_root,
                             uint8_t *out, size_t *n, struct vd_error *err)
{
    bool shares[VD_RULES_MAX];
    uint32_t culprit = NONE;
    uint64_t steps = 0;
    enum vd_err e = VD_EUSE;
    for (uint32_t i = 0; i < VD_RULES_MAX; i++)
        shares[i] = i < r->n_rules && r->rule[i].shared;
    for (unsigned i = 0; i <= UNSHARE_MAX + 1; i++) {
        e = compile(r, root, texts_root, shares, &culprit, &steps, out, n, err);
        if (e != VD_EUSE || culprit == NONE)
            break;
        shares[culprit] = false;
        if (i == UNSHARE_MAX)
            memset(shares, 0, sizeof shares);
    }
    return e;
}
