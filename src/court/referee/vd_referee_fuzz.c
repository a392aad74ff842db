/* Any opening, at any record: a verdict, and never one against the worker, since no bytes verify under these
 * roots. Input: u8 step, unit, op, record, then the opening. Odd steps go to vd_referee_bind, or, if unit is
 * odd too, to vd_referee_token. */
#include "vd_referee.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static const struct vd_program program = {
    VD_PROGRAM_PLAIN,
    .n_layers = 2,
    .width = 544,
    .n_heads = 4,
    .n_kv_heads = 2,
    .head_dim = 32,
    .ff_width = 64,
    .vocab = 5000,
    .ctx = 100,
    .rope_pairing = VD_ROPE_ADJACENT,
    .n_rope = 16,
    .eps = 1e-5f,
    .attn_scale = 0.2f,
    .n_tensors = 20,
    .types = {VD_WTYPE_Q8_0, VD_WTYPE_F32,  VD_WTYPE_Q4_1, VD_WTYPE_Q4_0, VD_WTYPE_F16,
              VD_WTYPE_Q8_0, VD_WTYPE_F32,  VD_WTYPE_F32,  VD_WTYPE_Q4_1, VD_WTYPE_Q8_0,
              VD_WTYPE_F32,  VD_WTYPE_Q4_1, VD_WTYPE_Q4_0, VD_WTYPE_F16,  VD_WTYPE_Q8_0,
              VD_WTYPE_F32,  VD_WTYPE_F32,  VD_WTYPE_Q4_1, VD_WTYPE_Q8_0, VD_WTYPE_F32},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static const struct vd_hash op_roots[VD_GRAPH_OPS_MAX];
    static const uint8_t record[VD_GRAPH_RECORD_BYTES_MAX], program_bytes[1];
    struct vd_hash zero = {{0}};
    struct vd_ref_claim claim = {
        .graph = {&program,
                  {.n_prompt = 66,
                   .n_output = 3,
                   .n_steps = 68,
                   .max_tokens = 3,
                   .sampling = {.temp_micro = 500000, .top_k = 9, .top_p_micro = 300000}}},
        .program_bytes = {program_bytes, 1},
        .finish = VD_FINISH_LENGTH};
    if (n_bytes < 4)
        return 0;
    struct vd_bytes opening = {data + 4, n_bytes - 4};
    uint32_t step = data[0] / 2 % claim.graph.job.n_steps;
    if (data[0] & data[1] & 1) {
        uint32_t token;
        assert(!vd_referee_token(&claim, &zero, step, opening, &token));
        return 0;
    }
    if (data[0] & 1) {
        assert(!vd_referee_bind(&claim, &zero, step, opening));
        return 0;
    }
    struct vd_ref_point pt = {.step = step, .token = data[3] * 1000u, .op_roots = op_roots};
    struct vd_graph_op o;
    pt.unit = data[1] % vd_graph_units(&claim.graph, step);
    pt.op = data[2] % vd_graph_ops(&claim.graph, step, pt.unit);
    vd_graph_op(&claim.graph, step, pt.unit, pt.op, &o);
    pt.record = data[3] * o.n_records / 256;
    uint8_t computed[VD_GRAPH_RECORD_BYTES_MAX];
    assert(vd_referee_tile(&claim, &pt, record, opening, computed) == VD_REF_REJECTED);
    return 0;
}
