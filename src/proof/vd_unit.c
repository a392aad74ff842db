/* The rows come from the engine as floats and as cache records; both are hashed leaf by leaf from a buffer of
 * one leaf, so nothing is allocated, whatever the model. */
#include "vd_unit.h"

#include "vd_num.h"

#include <assert.h>

void vd_unit_records(const struct vd_graph_op *o, const struct vd_graph_rows *rows, uint8_t *out)
{
    size_t n = (size_t)o->n_records * o->record_bytes;
    const uint8_t *from = o->kind == VD_OP_QROW   ? rows->q
                          : o->kind == VD_OP_KROW ? rows->k
                          : o->kind == VD_OP_VROW ? rows->v
                                                  : NULL;
    if (from)
        memcpy(out, from, n);
    for (size_t i = 0; !from && i < n / 4; i++)
        vd_le32_store(out + 4 * i, vd_f32_bits(vd_num_canon(rows->x[i])));
}

/* Floats, `each` a leaf. */
static struct vd_hash floats_root(const struct vd_trace_at *at, const float *x, uint32_t n, uint32_t each)
{
    uint8_t buf[4 * VD_GRAPH_ROW_LEAF];
    struct vd_merkle_stream tree;
    vd_merkle_stream_init(&tree);
    for (uint32_t first = 0; first < n; first += each) {
        uint32_t count = n - first < each ? n - first : each;
        for (uint32_t i = 0; i < count; i++)
            vd_le32_store(buf + 4 * i, vd_f32_bits(vd_num_canon(x[first + i])));
        struct vd_hash h = vd_trace_leaf(at, first / each, buf, 4 * (size_t)count);
        vd_merkle_stream_add(&tree, &h);
    }
    return vd_merkle_stream_root(&tree);
}

static struct vd_hash out_root(struct vd_trace_at at, uint32_t op, const struct vd_graph *g,
                               const struct vd_graph_rows *rows)
{
    struct vd_graph_op o;
    vd_graph_op(g, at.step, at.unit, op, &o);
    at.op = op;
    if (o.kind != VD_OP_QROW && o.kind != VD_OP_KROW && o.kind != VD_OP_VROW)
        return floats_root(&at, rows->x, o.cols, o.leaf_records);
    return vd_trace_op_root(&at,
                            o.kind == VD_OP_QROW   ? rows->q
                            : o.kind == VD_OP_KROW ? rows->k
                                                   : rows->v,
                            (size_t)o.n_records * o.record_bytes, (size_t)o.leaf_records * o.record_bytes);
}

struct vd_hash vd_unit_rows(const struct vd_graph *g, const struct vd_hash *salt, uint32_t step,
                            uint32_t unit, const struct vd_graph_rows *rows,
                            struct vd_hash outs[VD_GRAPH_OUTS_MAX])
{
    struct vd_hash own[VD_GRAPH_OUTS_MAX];
    uint8_t ops[VD_GRAPH_OUTS_MAX];
    struct vd_trace_at at = {*salt, step, unit, 0};
    unsigned n = vd_graph_outs(g, step, unit, ops);
    outs = outs ? outs : own;
    for (unsigned i = 0; i < n; i++)
        outs[i] = ops[i] == VD_GRAPH_NO_OP ? (struct vd_hash){{0}} : out_root(at, ops[i], g, rows);
    return vd_trace_unit(&at, outs, n);
}

struct vd_hash vd_unit_head(const struct vd_graph *g, const struct vd_hash *salt, uint32_t step,
                            uint32_t token, enum vd_stop stop, const uint8_t *mask_state)
{
    uint32_t unit = vd_graph_head_unit(g);
    struct vd_trace_at at = {*salt, step, unit, 0};
    uint8_t record[VD_TOKEN_RECORD_BYTES], ops[VD_GRAPH_OUTS_MAX];
    struct vd_hash root[VD_GRAPH_OUTS_MAX];
    unsigned n = vd_graph_outs(g, step, unit, ops);
    if (n == 2) {
        at.op = ops[0];
        root[0] = vd_trace_leaf(&at, 0, mask_state, VD_AUTOMATON_STATE_BYTES);
    }
    vd_le32_store(record, token);
    vd_le32_store(record + 4, stop);
    at.op = ops[n - 1];
    root[n - 1] = vd_trace_leaf(&at, 0, record, sizeof record);
    return vd_trace_unit(&at, root, n);
}

struct vd_hash vd_unit_pool(const struct vd_graph *g, const struct vd_hash *salt, uint32_t step,
                            const float *sum, const float *vector, struct vd_hash outs[VD_GRAPH_OUTS_MAX])
{
    uint32_t unit = vd_graph_head_unit(g), d = g->program->width;
    struct vd_trace_at at = {*salt, step, unit, 0};
    struct vd_hash own[VD_GRAPH_OUTS_MAX];
    uint8_t ops[VD_GRAPH_OUTS_MAX];
    unsigned n = vd_graph_outs(g, step, unit, ops);
    assert(n == (unsigned)(sum != NULL) + (vector != NULL));
    outs = outs ? outs : own;
    if (sum) {
        at.op = ops[0];
        outs[0] = floats_root(&at, sum, d, VD_GRAPH_POOL_ELEMS);
    }
    if (vector) {
        at.op = VD_TRACE_OP_VECTOR;
        outs[n - 1] = floats_root(&at, vector, d, 1);
    }
    return vd_trace_unit(&at, outs, n);
}
