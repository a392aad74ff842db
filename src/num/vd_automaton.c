/* Nothing is unpacked: states and edges are read where they lie, so that a referee without memory can walk a
 * text through bytes it was just shown. What needs speed builds tables of its own from these functions. */
#include "vd_automaton.h"

#include <string.h>

static uint32_t first_edge(const struct vd_automaton *a, uint32_t state)
{
    return state < a->n_states ? vd_le16_load(a->states + 2 * (size_t)state) & 0x7FFFu : a->n_edges;
}

struct vd_automaton_edge vd_automaton_edge(const struct vd_automaton *a, uint32_t i)
{
    const uint8_t *p = a->edges + (size_t)VD_AUTOMATON_EDGE_BYTES * i;
    return (struct vd_automaton_edge){p[0], p[1], vd_le16_load(p + 2), vd_le16_load(p + 4)};
}

void vd_automaton_edges(const struct vd_automaton *a, uint32_t state, uint32_t *first, uint32_t *end)
{
    *first = first_edge(a, state);
    *end = first_edge(a, state + 1);
}

bool vd_automaton_is_end(const struct vd_automaton *a, uint32_t state)
{
    return vd_le16_load(a->states + 2 * (size_t)state) >> 15;
}

static bool state_valid(const struct vd_automaton *a, uint32_t state)
{
    uint32_t first, end, above = 0;
    vd_automaton_edges(a, state, &first, &end);
    if (first > end || end > a->n_edges)
        return false;
    for (uint32_t i = first; i < end; i++) {
        struct vd_automaton_edge e = vd_automaton_edge(a, i);
        if (e.low < above || e.low > e.high || e.to >= a->n_states ||
            (e.back >= a->n_states && e.back != VD_AUTOMATON_PLAIN))
            return false;
        above = e.high + 1u;
    }
    return true;
}

bool vd_automaton_open(struct vd_automaton *out, struct vd_bytes mask)
{
    if (mask.n < VD_MASK_HEAD_BYTES + 2 || mask.n > VD_MASK_BYTES_MAX)
        return false;
    uint32_t n = vd_le16_load(mask.p + VD_MASK_ROOT_BYTES);
    size_t head = VD_MASK_HEAD_BYTES + 2 * (size_t)n;
    if (n < 1 || n > VD_AUTOMATON_STATES_MAX || head > mask.n ||
        (mask.n - head) % VD_AUTOMATON_EDGE_BYTES != 0)
        return false;
    *out = (struct vd_automaton){mask.p + VD_MASK_HEAD_BYTES, mask.p + head, n,
                                 (uint32_t)((mask.n - head) / VD_AUTOMATON_EDGE_BYTES)};
    if (first_edge(out, 0) != 0)
        return false;
    for (uint32_t s = 0; s < n; s++)
        if (!state_valid(out, s))
            return false;
    return true;
}

static bool find(const struct vd_automaton *a, uint32_t state, uint8_t byte, struct vd_automaton_edge *out)
{
    uint32_t first, end;
    vd_automaton_edges(a, state, &first, &end);
    while (first < end) { /* the first edge whose range does not lie below the byte */
        uint32_t middle = first + (end - first) / 2;
        *out = vd_automaton_edge(a, middle);
        if (out->high < byte)
            first = middle + 1;
        else if (out->low > byte)
            end = middle;
        else
            return true;
    }
    return false;
}

static bool die(struct vd_automaton_state *s)
{
    *s = (struct vd_automaton_state){.at = VD_AUTOMATON_DEAD};
    return false;
}

static void pop(struct vd_automaton_state *s)
{
    s->at = s->stack[--s->depth];
    s->stack[s->depth] = 0;
}

bool vd_automaton_step(const struct vd_automaton *a, struct vd_automaton_state *s, uint8_t byte)
{
    struct vd_automaton_edge e;
    if (s->at >= a->n_states)
        return die(s);
    for (unsigned move = 0; move <= VD_AUTOMATON_MOVES; move++) {
        if (!find(a, s->at, byte, &e)) {
            if (s->depth == 0 || !vd_automaton_is_end(a, s->at))
                return die(s);
            pop(s);
            continue;
        }
        s->at = e.to;
        if (e.back == VD_AUTOMATON_PLAIN)
            return true;
        if (s->depth == VD_AUTOMATON_STACK)
            return die(s);
        s->stack[s->depth++] = e.back;
    }
    return die(s);
}

bool vd_automaton_walk(const struct vd_automaton *a, struct vd_automaton_state *s, struct vd_bytes text)
{
    if (text.n < 1 || text.n > VD_TOKEN_TEXT_MAX_BYTES)
        return die(s);
    for (size_t i = 0; i < text.n; i++)
        if (!vd_automaton_step(a, s, text.p[i]))
            return false;
    return true;
}

bool vd_automaton_may_end(const struct vd_automaton *a, const struct vd_automaton_state *s)
{
    if (s->at >= a->n_states || !vd_automaton_is_end(a, s->at))
        return false;
    for (uint32_t i = 0; i < s->depth; i++)
        if (!vd_automaton_is_end(a, s->stack[i]))
            return false;
    return true;
}

void vd_automaton_state_store(uint8_t out[VD_AUTOMATON_STATE_BYTES], const struct vd_automaton_state *s)
{
    vd_le16_store(out, s->at);
    vd_le16_store(out + 2, s->depth);
    for (unsigned i = 0; i < VD_AUTOMATON_STACK; i++)
        vd_le16_store(out + 4 + 2 * i, s->stack[i]);
}

struct vd_automaton_state vd_automaton_state_load(const struct vd_automaton *a,
                                                  const uint8_t in[VD_AUTOMATON_STATE_BYTES])
{
    struct vd_automaton_state s = {vd_le16_load(in), vd_le16_load(in + 2), {0}};
    bool ok = s.at < a->n_states && s.depth <= VD_AUTOMATON_STACK;
    for (unsigned i = 0; ok && i < VD_AUTOMATON_STACK; i++) {
        s.stack[i] = vd_le16_load(in + 4 + 2 * i);
        ok = i < s.depth ? s.stack[i] < a->n_states : s.stack[i] == 0;
    }
    return ok ? s : (struct vd_automaton_state){.at = VD_AUTOMATON_DEAD};
}
