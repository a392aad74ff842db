/* For the fuzz targets of the court only: the claims of jobs over a few programs, whose roots are all zero,
 * so that no opening verifies under them. In shape they are the toys of src/proof/vd_toy.h: what a game over
 * those shows has the sizes that are wanted here, and gives the seeds (the tests of disputes write them:
 * src/proof/vd_dispute_kit.h).
 *
 * Header only; a claim borrows the program beside it. */
#ifndef VD_FUZZ_JOBS_H
#define VD_FUZZ_JOBS_H

#include "vd_referee.h"

#include <assert.h>

struct vd_fuzz_job {
    struct vd_program program;
    struct vd_ref_claim claim;
};

/* Types in turn, each where its blocks fit; vectors are F32. */
static inline void vd_fuzz_types(struct vd_program *p, const uint8_t *types, uint32_t n_types)
{
    p->n_tensors = vd_program_norm_tensor(p) + !vd_program_is_encoder(p);
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        enum vd_wtype t = (enum vd_wtype)types[i % n_types];
        bool fits = vd_program_tensor(p, i).cols % vd_wtype_info(t)->block_elems == 0;
        p->types[i] = (uint8_t)(vd_program_is_vector(p, i) ? VD_WTYPE_F32 : fits ? t : VD_WTYPE_Q8_0);
    }
    assert(vd_program_check(p) == NULL);
}

static inline struct vd_program vd_fuzz_plain(void)
{
    static const uint8_t types[] = {VD_WTYPE_Q8_0, VD_WTYPE_F32,  VD_WTYPE_Q4_1, VD_WTYPE_Q4_0,
                                    VD_WTYPE_F16,  VD_WTYPE_Q8_0, VD_WTYPE_F32,  VD_WTYPE_Q4_1};
    struct vd_program p = {
        VD_PROGRAM_PLAIN, .n_layers = 2,  .width = 544,      .n_heads = 4, .n_kv_heads = 2,
        .head_dim = 32,   .ff_width = 96, .vocab = 5000,     .ctx = 4096,  .rope_pairing = VD_ROPE_ADJACENT,
        .n_rope = 16,     .eps = 1e-5f,   .attn_scale = 0.2f};
    vd_fuzz_types(&p, types, sizeof types);
    return p;
}

/* Everything that a decoder can have. */
static inline struct vd_program vd_fuzz_features(void)
{
    static const uint8_t types[] = {VD_WTYPE_Q6_K, VD_WTYPE_Q4_K, VD_WTYPE_Q5_1, VD_WTYPE_Q2_K,
                                    VD_WTYPE_F16,  VD_WTYPE_Q5_K, VD_WTYPE_Q3_K, VD_WTYPE_IQ4_XS,
                                    VD_WTYPE_Q4_0, VD_WTYPE_F32,  VD_WTYPE_MXFP4};
    struct vd_program p = vd_fuzz_plain();
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
    vd_fuzz_types(&p, types, sizeof types);
    return p;
}

/* Of BERT's form. */
static inline struct vd_program vd_fuzz_encoder(void)
{
    static const uint8_t types[] = {VD_WTYPE_Q8_0, VD_WTYPE_F32, VD_WTYPE_F16, VD_WTYPE_Q4_1, VD_WTYPE_BF16};
    struct vd_program p = vd_fuzz_plain();
    p.kind = VD_PROGRAM_ENCODER;
    p.vocab = 100;
    p.ctx = 2048;
    p.act = VD_ACT_GELU;
    p.layer_norm = p.token_type = p.ungated = p.qkv_bias = p.out_bias = p.ffn_bias = true;
    p.n_positions = 2050;
    p.n_rope = p.n_rope_tables = 0;
    p.rope_pairing = VD_ROPE_NONE;
    vd_fuzz_types(&p, types, sizeof types);
    return p;
}

/* 69 steps: 66 tokens and 4 more, or, with pooling, the vector of 69. */
static inline void vd_fuzz_job_init(struct vd_fuzz_job *j, const struct vd_program *program,
                                    enum vd_pooling pooling)
{
    static const uint8_t program_bytes[1];
    j->program = *program;
    j->claim = (struct vd_ref_claim){
        .graph = {&j->program,
                  {.n_prompt = 66,
                   .n_output = 4,
                   .n_steps = 69,
                   .max_tokens = 4,
                   .sampling = {.temp_micro = 500000, .top_k = 9, .top_p_micro = 300000}}},
        .program_bytes = {program_bytes, 1},
        .finish = VD_FINISH_LENGTH};
    if (pooling != VD_POOLING_NONE)
        j->claim.graph.job =
            (struct vd_graph_job){.n_prompt = 69,
                                  .n_output = program->width,
                                  .n_steps = 69,
                                  .max_tokens = program->width,
                                  .sampling = {.pooling = pooling, .top_p_micro = VD_SAMPLE_MICRO}};
    assert(vd_graph_valid(&j->claim.graph));
}

#endif
