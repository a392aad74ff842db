/* Hashes of single units from what the engine gives (docs/spec/proof.md, section 3), for the state tree. The
 * commitment makes the same ones, of several positions together.
 *
 * Thread rule: pure functions. Nothing allocates. */
#ifndef VD_UNIT_H
#define VD_UNIT_H

#include "vd_graph.h"
#include "vd_trace_hash.h"

/* Hash of a unit (not the head's or pooling's) from its rows; `outs`, if not NULL, gets the roots under it.
 */
struct vd_hash vd_unit_rows(const struct vd_graph *g, const struct vd_hash *salt, uint32_t step,
                            uint32_t unit, const struct vd_graph_rows *rows,
                            struct vd_hash outs[VD_GRAPH_OUTS_MAX]);
/* An operator's records out of the unit's rows; floats are x, of POOL and VECTOR as well. */
void vd_unit_records(const struct vd_graph_op *o, const struct vd_graph_rows *rows, uint8_t *out);
/* The pooling unit's. `outs`, if not NULL, gets the roots of POOL and VECTOR, those that are there. */
struct vd_hash vd_unit_pool(const struct vd_graph *g, const struct vd_hash *salt, uint32_t step,
                            const float *sum, const float *vector, struct vd_hash outs[VD_GRAPH_OUTS_MAX]);
/* mask_state: MASK_STATE's record, read only if the job has a mask. */
struct vd_hash vd_unit_head(const struct vd_graph *g, const struct vd_hash *salt, uint32_t step,
                            uint32_t token, enum vd_stop stop, const uint8_t *mask_state);

#endif
