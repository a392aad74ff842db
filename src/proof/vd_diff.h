/* Where two runs of one job part: the first unit whose outputs differ, and in it the first operator and
 * record (docs/spec/proof.md, section 2: step, unit, operator, record), with both values.
 *
 * The two runs are two traces of the same tokens under the same salt: of two model files, of two kernel
 * tables, of a worker and a challenger. Nothing depends on which is right.
 *
 * Thread rule: as the traces. */
#ifndef VD_DIFF_H
#define VD_DIFF_H

#include "vd_trace.h"

enum { VD_DIFF_VALUE_TEXT_MAX = 48 };

struct vd_diff {
    bool differ;         /* false: every unit hash is equal; nothing below is set */
    uint32_t step, unit; /* unit 0: embedding; 1 .. L: blocks; L + 1: head */
    /* A run whose rows are not what its own operators give (src/num): a kernel that computes something else.
     * Then only the unit's outputs can be compared, and op is the first of these that differs. */
    bool foreign[2];
    uint32_t op;
    struct vd_graph_op what; /* of the first trace's graph */
    uint64_t record;
    uint32_t offset; /* bytes into the record: of the value that differs first */
    uint32_t n_value_bytes;
    bool is_float;
    uint8_t value[2][8];
};

/* Loads a unit of each (vd_trace_load). VD_EUSE: the two have not the same shape (steps, layers, sizes), so
 * that no address means the same in both; and what vd_trace_load returns. */
enum vd_err vd_diff_find(struct vd_trace *a, struct vd_trace *b, struct vd_diff *out, struct vd_error *err);

/* A value as its operator means it: a float with its bits, or an integer. */
void vd_diff_value_text(const struct vd_diff *d, unsigned side, char out[VD_DIFF_VALUE_TEXT_MAX]);

#endif
