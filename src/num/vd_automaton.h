/* The automaton of a mask: which texts an answer may have, byte by byte (docs/spec/arithmetic.md, 13).
 *
 * A deterministic pushdown automaton with a stack of at most VD_AUTOMATON_STACK return states, written so
 * small that a referee can be shown all of it. A state has edges, ranges of bytes that do not overlap. A
 * plain edge takes the byte. An edge that pushes takes nothing: it pushes a return state, goes on in its
 * target, and the byte is tried again. A byte without an edge ends a rule: if the state is an end and the
 * stack is not empty, the automaton goes on in the state on top of it, with the same byte. So where a rule
 * can go on and can end, it goes on.
 *
 * A mask is bytes, all integers little-endian:
 *     32 bytes   root of the token texts that it is meant for (docs/spec/proof.md, section 1)
 *     u16        n states, 1 .. VD_AUTOMATON_STATES_MAX; state 0 is the start
 *     n u16      number of the state's first edge; bit 15: it is an end. Ascending; the first is 0
 *     edges      u8 low, u8 high, u16 target, u16 return state or FFFF (plain); a state's ranges ascend
 *
 * Whatever the bytes are, every function is total and bounded. Thread rule: pure functions. */
#ifndef VD_AUTOMATON_H
#define VD_AUTOMATON_H

#include "vd_bytes.h"

#include <stdbool.h>

enum {
    VD_MASK_BYTES_MAX = 48 << 10,
    VD_MASK_ROOT_BYTES = 32,
    VD_MASK_HEAD_BYTES = VD_MASK_ROOT_BYTES + 2,
    VD_AUTOMATON_EDGE_BYTES = 6,
    VD_AUTOMATON_STATES_MAX = 8191,
    VD_AUTOMATON_STACK = 30,
    VD_AUTOMATON_MOVES = 64,       /* pushes and returns for one byte; more is no way on */
    VD_AUTOMATON_PLAIN = 0xFFFF,   /* instead of a return state */
    VD_AUTOMATON_DEAD = 0xFFFF,    /* instead of a state: no text can follow */
    VD_AUTOMATON_STATE_BYTES = 64, /* of a STATE record: u16 at, u16 depth, 30 u16 stack */
    VD_TOKEN_TEXT_MAX_BYTES = 256, /* a token whose text is longer is never allowed under a mask */
};

/* A mask that was found valid. Borrows the bytes. */
struct vd_automaton {
    const uint8_t *states, *edges;
    uint32_t n_states, n_edges;
};

/* False if the bytes are not a valid mask. */
bool vd_automaton_open(struct vd_automaton *out, struct vd_bytes mask);

struct vd_automaton_edge {
    uint8_t low, high;
    uint16_t to, back; /* back: the return state that is pushed, or VD_AUTOMATON_PLAIN */
};
struct vd_automaton_edge vd_automaton_edge(const struct vd_automaton *a, uint32_t i);
/* The state's edges are [first, end). */
void vd_automaton_edges(const struct vd_automaton *a, uint32_t state, uint32_t *first, uint32_t *end);
bool vd_automaton_is_end(const struct vd_automaton *a, uint32_t state);

/* Where a text has arrived. Stack entries from depth on are 0. */
struct vd_automaton_state {
    uint16_t at, depth;
    uint16_t stack[VD_AUTOMATON_STACK];
};
#define VD_AUTOMATON_START ((struct vd_automaton_state){0})

/* One byte; false: it cannot follow, and the state is dead. */
bool vd_automaton_step(const struct vd_automaton *a, struct vd_automaton_state *s, uint8_t byte);
/* A token's text of 1 to VD_TOKEN_TEXT_MAX_BYTES bytes; any other length cannot follow. */
bool vd_automaton_walk(const struct vd_automaton *a, struct vd_automaton_state *s, struct vd_bytes text);
/* May the answer end here? */
bool vd_automaton_may_end(const struct vd_automaton *a, const struct vd_automaton_state *s);

/* As a record. Loading one that no automaton leads to gives a dead state. */
void vd_automaton_state_store(uint8_t out[VD_AUTOMATON_STATE_BYTES], const struct vd_automaton_state *s);
struct vd_automaton_state vd_automaton_state_load(const struct vd_automaton *a,
                                                  const uint8_t in[VD_AUTOMATON_STATE_BYTES]);

#endif
