/* Nodes in one array, children as linked lists; building never fails, it only notes that it should have. The
 * automaton is made in vd_rules_compile.c. */
#include "vd_rules_impl.h"

#include <stdlib.h>
#include <string.h>

struct vd_rules *vd_rules_new(void)
{
    struct vd_rules *r = calloc(1, sizeof *r);
    if (r)
        r->n_nodes = 1; /* node 0: the empty text */
    if (r)
        r->node[0] = (struct node){.kind = NODE_SEQ};
    return r;
}

void vd_rules_free(struct vd_rules *r)
{
    free(r);
}

bool vd_rules_full(const struct vd_rules *r)
{
    return r->full;
}

uint32_t vd_rules_add(struct vd_rules *r, const char *name, size_t n)
{
    if (r->n_rules == VD_RULES_MAX) {
        r->full = true;
        return 0;
    }
    struct rule *to = &r->rule[r->n_rules];
    n = n < VD_RULES_NAME_MAX_BYTES ? n : VD_RULES_NAME_MAX_BYTES - 1;
    memcpy(to->name, name, n);
    to->name[n] = 0;
    return r->n_rules++;
}

void vd_rules_define(struct vd_rules *r, uint32_t rule, vd_expr body)
{
    r->rule[rule].body = body;
    r->rule[rule].defined = true;
}

void vd_rules_share(struct vd_rules *r, uint32_t rule)
{
    r->rule[rule].shared = true;
}

static vd_expr add(struct vd_rules *r, struct node n)
{
    if (r->n_nodes == VD_RULES_NODES_MAX || n.depth > VD_RULES_NODE_DEPTH_MAX) {
        r->full = true;
        return 0;
    }
    r->node[r->n_nodes] = n;
    return r->n_nodes++;
}

static vd_expr list(struct vd_rules *r, enum node_kind kind, const vd_expr *e, size_t n)
{
    struct node to = {.kind = (uint8_t)kind, .depth = 1};
    uint32_t *at = &to.child;
    for (size_t i = 0; i < n; i++) { /* a node can be in one list only: each is wrapped */
        uint8_t depth = (uint8_t)(r->node[e[i]].depth + 1);
        vd_expr w = add(r, (struct node){.kind = NODE_ITEM, .depth = depth, .child = e[i]});
        if (w == 0)
            return 0;
        to.depth = depth + 1 > to.depth ? (uint8_t)(depth + 1) : to.depth;
        *at = w;
        at = &r->node[w].next;
    }
    return add(r, to);
}

vd_expr vd_rules_seq(struct vd_rules *r, const vd_expr *e, size_t n)
{
    return n == 1 ? e[0] : n == 0 ? 0 : list(r, NODE_SEQ, e, n);
}

vd_expr vd_rules_alt(struct vd_rules *r, const vd_expr *e, size_t n)
{
    return n == 1 ? e[0] : list(r, NODE_ALT, e, n);
}

vd_expr vd_rules_members(struct vd_rules *r, const vd_expr *e, const bool *required, size_t n, vd_expr comma,
                         bool repeats)
{
    vd_expr all = list(r, NODE_MEMBERS, e, n);
    uint32_t item = r->node[all].child;
    uint8_t depth = (uint8_t)(r->node[comma].depth + 1);
    if (all == 0)
        return 0;
    r->node[all].min = comma;
    r->node[all].max = repeats;
    r->node[all].depth = r->node[all].depth > depth ? r->node[all].depth : depth;
    for (size_t i = 0; i < n; i++, item = r->node[item].next)
        r->node[item].min = required[i];
    return all;
}

vd_expr vd_rules_repeat(struct vd_rules *r, vd_expr e, uint32_t min, uint32_t max)
{
    if (min > VD_RULES_REPEAT_MAX || (max != VD_RULES_NO_MAX && max > VD_RULES_REPEAT_MAX))
        r->full = true;
    return add(r, (struct node){.kind = NODE_REPEAT,
                                .depth = (uint8_t)(r->node[e].depth + 1),
                                .child = e,
                                .min = min,
                                .max = max});
}

vd_expr vd_rules_ref(struct vd_rules *r, uint32_t rule)
{
    return add(r, (struct node){.kind = NODE_REF, .depth = 1, .min = rule});
}

vd_expr vd_rules_byte(struct vd_rules *r, unsigned low, unsigned high)
{
    return add(r, (struct node){.kind = NODE_BYTES, .depth = 1, .min = low, .max = high});
}

vd_expr vd_rules_commit(struct vd_rules *r)
{
    return add(r, (struct node){.kind = NODE_COMMIT, .depth = 1});
}

vd_expr vd_rules_text(struct vd_rules *r, const char *p, size_t n)
{
    vd_expr part[256], whole = 0;
    for (size_t at = 0; at < n;) { /* in pieces, so that no list is long on the stack */
        size_t k = 0;
        if (at > 0)
            part[k++] = whole;
        while (at < n && k < 256) {
            part[k++] = vd_rules_byte(r, (uint8_t)p[at], (uint8_t)p[at]);
            at++;
        }
        whole = vd_rules_seq(r, part, k);
    }
    return whole;
}

/* ---- characters ---- */

static unsigned encode(uint32_t c, uint8_t out[4])
{
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    unsigned n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (unsigned i = n; i-- > 1; c >>= 6)
        out[i] = (uint8_t)(0x80 | (c & 0x3F));
    out[0] = (uint8_t)((n == 2 ? 0xC0 : n == 3 ? 0xE0 : 0xF0) | c);
    return n;
}

/* The code points of [a, b], all of n bytes, as alternatives of byte ranges: cut until all but the first
 * bytes that differ run over their whole range. */
static void same_length(struct vd_rules *r, uint32_t a, uint32_t b, unsigned n, vd_expr *alt, size_t *n_alt,
                        size_t cap)
{
    uint8_t lo[4], hi[4];
    for (unsigned i = 1; i < n; i++) {
        uint32_t m = (UINT32_C(1) << (6 * i)) - 1;
        if ((a & ~m) == (b & ~m))
            continue;
        if (a & m) {
            same_length(r, a, a | m, n, alt, n_alt, cap);
            same_length(r, (a | m) + 1, b, n, alt, n_alt, cap);
            return;
        }
        if ((b & m) != m) {
            same_length(r, a, (b & ~m) - 1, n, alt, n_alt, cap);
            same_length(r, b & ~m, b, n, alt, n_alt, cap);
            return;
        }
    }
    encode(a, lo);
    encode(b, hi);
    vd_expr part[4];
    for (unsigned i = 0; i < n; i++)
        part[i] = vd_rules_byte(r, lo[i], hi[i]);
    if (*n_alt == cap)
        r->full = true;
    else
        alt[(*n_alt)++] = vd_rules_seq(r, part, n);
}

static void code_points(struct vd_rules *r, uint32_t a, uint32_t b, vd_expr *alt, size_t *n_alt, size_t cap)
{
    static const uint32_t first[] = {0, 0x80, 0x800, 0xE000, 0x10000},
                          last[] = {0x7F, 0x7FF, 0xD7FF, 0xFFFF, 0x10FFFF};
    static const unsigned length[] = {1, 2, 3, 3, 4};
    for (unsigned i = 0; i < 5; i++) {
        uint32_t from = a > first[i] ? a : first[i], to = b < last[i] ? b : last[i];
        if (from <= to)
            same_length(r, from, to, length[i], alt, n_alt, cap);
    }
}

static int by_first(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

vd_expr vd_rules_chars(struct vd_rules *r, const uint32_t *ranges, size_t n_ranges, bool negated)
{
    enum { RANGES_MAX = 256, ALTS_MAX = 1024 };
    uint32_t sorted[2 * RANGES_MAX], next = 0;
    vd_expr alt[ALTS_MAX];
    size_t n_alt = 0;
    if (n_ranges > RANGES_MAX) {
        r->full = true;
        return 0;
    }
    if (n_ranges)
        memcpy(sorted, ranges, 2 * n_ranges * sizeof *ranges);
    qsort(sorted, n_ranges, 2 * sizeof *sorted, by_first);
    for (size_t i = 0; i < n_ranges; i++) {
        uint32_t a = sorted[2 * i], b = sorted[2 * i + 1];
        if (negated && a > next)
            code_points(r, next, a - 1, alt, &n_alt, ALTS_MAX);
        if (!negated && b >= next)
            code_points(r, a > next ? a : next, b, alt, &n_alt, ALTS_MAX);
        if (b >= next)
            next = b + 1;
    }
    if (negated && next <= 0x10FFFF)
        code_points(r, next, 0x10FFFF, alt, &n_alt, ALTS_MAX);
    return n_alt ? vd_rules_alt(r, alt, n_alt) : add(r, (struct node){.kind = NODE_NOTHING, .depth = 1});
}
