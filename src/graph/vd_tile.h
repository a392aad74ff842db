/* The function of each operator: one record from its inputs, by src/num.
 *
 * The referee calls it with bytes out of an opening, the tracer with bytes that it computed before: so
 * whatever the inputs hold, a record comes out. Every operator is total: what cannot come from honest inputs
 * (a logit above the maximum, a rank beyond the ties) has a defined result, and no value leads to undefined
 * behaviour.
 *
 * A tile needs at most 64 KiB of stack. Thread rule: pure functions. Nothing allocates. */
#ifndef VD_TILE_H
#define VD_TILE_H

#include "vd_graph.h"

/* A record's address with what the graph says of it. */
struct vd_tile {
    uint32_t step, unit, op;
    uint64_t record;
    struct vd_graph_op o;
    unsigned n_in;
    struct vd_graph_input in[VD_GRAPH_INPUTS_MAX];
};

/* Where the inputs' bytes lie. in[i]: VD_IN_OP and VD_IN_ROW: the first needed record, the others follow;
 * VD_IN_WEIGHT: the leaf's first byte; VD_IN_TOKEN: 4 bytes; VD_IN_WINDOW: 4 bytes a token; VD_IN_BIAS,
 * VD_IN_MASK: u32 length, bytes; VD_IN_TEXT: u16 length, bytes. row[j]: of the tile's VD_IN_KV input (there
 * is at most one) the leaf of its j-th step. */
struct vd_tile_data {
    const uint8_t *in[VD_GRAPH_INPUTS_MAX];
    const uint8_t *row[VD_GRAPH_CHUNK];
};

void vd_tile_init(struct vd_tile *t, const struct vd_graph *g, uint32_t step, uint32_t unit, uint32_t op,
                  uint64_t record);

/* The same for who has the operator's entry already: in a loop over records. */
void vd_tile_init_op(struct vd_tile *t, const struct vd_graph *g, uint32_t step, uint32_t unit, uint32_t op,
                     const struct vd_graph_op *o, uint64_t record);

/* Completes the address of input i, which is dynamic, from the inputs before it. Always gives an address that
 * exists. */
void vd_tile_resolve(struct vd_tile *t, const struct vd_graph *g, unsigned i,
                     const struct vd_tile_data *data);

/* Writes the record: t->o.record_bytes bytes. */
void vd_tile_eval(const struct vd_tile *t, const struct vd_graph *g, const struct vd_tile_data *data,
                  uint8_t *out);

#endif
