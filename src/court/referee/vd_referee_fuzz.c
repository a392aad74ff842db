/* Any opening, at any record: a verdict, and never one against the worker, since no bytes verify under these
 * roots. Input: u8 step, unit (128 and more: of a program with every feature), op, record, then the opening.
 * With the unit's bit 64 a vector's job, and with op's bit 128 an encoder's.
 * Odd steps go to vd_referee_bind, or, if unit is odd too, to vd_referee_token. */
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
    .ff_width = 96,
    .vocab = 5000,
    .ctx = 4096,
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

/* In shape the one of the toys of src/proof/vd_toy.h that has everything: its openings are seeds. */
static struct vd_program with_features(void)
{
    static const enum vd_wtype types[] = {VD_WTYPE_Q6_K, VD_WTYPE_Q4_K, VD_WTYPE_Q5_1, VD_WTYPE_Q2_K,
                                          VD_WTYPE_F16,  VD_WTYPE_Q5_K, VD_WTYPE_Q3_K, VD_WTYPE_IQ4_XS,
                                          VD_WTYPE_Q4_0, VD_WTYPE_F32,  VD_WTYPE_MXFP4};
    struct vd_program p = program;
    p.width = 768;
    p.n_heads = 8;
    p.ff_width = 256;
    p.vocab = 600;
    p.n_rope = 12;
    p.rope_pairing = VD_ROPE_HALVES;
    p.n_rope_tables = 2;
    p.rope_scale[1] = 1.25f;
    p.attn_cap = 2;
    p.logit_cap = 5;
    p.window = 66;
    p.layer_flags[0] = VD_LAYER_WINDOW | VD_LAYER_ROPE2;
    p.layer_flags[1] = VD_LAYER_WINDOW;
    p.act = VD_ACT_GELU;
    p.qk_norm = p.qkv_bias = p.post_norms = p.route_norm = true;
    p.n_experts = 6;
    p.n_used = 3;
    p.n_tensors = vd_program_norm_tensor(&p) + 1;
    for (uint32_t i = 0; i < p.n_tensors; i++) {
        bool fits = vd_program_tensor(&p, i).cols % vd_wtype_info(types[i % 11])->block_elems == 0;
        p.types[i] = (uint8_t)(vd_program_is_vector(&p, i) ? VD_WTYPE_F32
                               : fits                      ? types[i % 11]
                                                           : VD_WTYPE_Q8_0);
    }
    assert(vd_program_check(&p) == NULL);
    return p;
}

/* Of BERT's form, in shape the toy of src/proof/vd_toy.h. */
static struct vd_program an_encoder(void)
{
    static const enum vd_wtype types[] = {VD_WTYPE_Q8_0, VD_WTYPE_F32, VD_WTYPE_F16, VD_WTYPE_Q4_1,
                                          VD_WTYPE_BF16};
    struct vd_program p = program;
    p.kind = VD_PROGRAM_ENCODER;
    p.vocab = 100;
    p.ctx = 2048;
    p.act = VD_ACT_GELU;
    p.layer_norm = p.token_type = p.ungated = p.qkv_bias = p.out_bias = p.ffn_bias = true;
    p.n_positions = 2050;
    p.n_rope = p.n_rope_tables = 0;
    p.rope_pairing = VD_ROPE_NONE;
    p.n_tensors = vd_program_norm_tensor(&p);
    for (uint32_t i = 0; i < p.n_tensors; i++)
        p.types[i] = (uint8_t)(vd_program_is_vector(&p, i) ? VD_WTYPE_F32 : types[i % 5]);
    assert(vd_program_check(&p) == NULL);
    return p;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static const struct vd_hash op_roots[VD_GRAPH_OPS_MAX];
    static const uint8_t record[VD_GRAPH_RECORD_BYTES_MAX], program_bytes[1];
    struct vd_hash zero = {{0}};
    struct vd_program rich = with_features(), encoder = an_encoder();
    struct vd_ref_claim claim = {
        .graph = {&program,
                  {.n_prompt = 66,
                   .n_output = 4,
                   .n_steps = 69,
                   .max_tokens = 4,
                   .sampling = {.temp_micro = 500000, .top_k = 9, .top_p_micro = 300000}}},
        .program_bytes = {program_bytes, 1},
        .finish = VD_FINISH_LENGTH};
    if (n_bytes < 4)
        return 0;
    bool is_encoder = data[1] & 64 && data[2] & 128;
    if (data[1] >= 128)
        claim.graph.program = &rich;
    if (is_encoder)
        claim.graph.program = &encoder;
    uint32_t width = claim.graph.program->width;
    if (data[1] & 64) /* a vector */
        claim.graph.job = (struct vd_graph_job){
            .n_prompt = 69,
            .n_output = width,
            .n_steps = 69,
            .max_tokens = width,
            .sampling = {.pooling = is_encoder     ? (enum vd_pooling)(1 + data[2] / 64 % 2 + data[1] / 128)
                                    : data[1] & 32 ? VD_POOLING_MEAN
                                                   : VD_POOLING_LAST,
                         .top_p_micro = VD_SAMPLE_MICRO}};
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
    pt.op = data[2] % 64 % vd_graph_ops(&claim.graph, step, pt.unit);
    vd_graph_op(&claim.graph, step, pt.unit, pt.op, &o);
    if (o.n_records == 0)
        return 0; /* the game does not let anybody point at it */
    pt.record = data[3] * o.n_records / 256;
    uint8_t computed[VD_GRAPH_RECORD_BYTES_MAX];
    assert(vd_referee_tile(&claim, &pt, record, opening, computed) == VD_REF_REJECTED);
    return 0;
}
