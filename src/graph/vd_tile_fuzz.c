/* Any inputs: every operator is total. Input: u8 unit (and program), op, record, flags, then the bytes that
 * the tile's inputs hold, over and over. A sanitizer sees conversions and shifts that only honest inputs
 * would keep in range. */
#include "vd_num.h"
#include "vd_tile.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static const struct vd_program program = {
    VD_PROGRAM_PLAIN,
    .n_layers = 1,
    .width = 544,
    .n_heads = 2,
    .n_kv_heads = 1,
    .head_dim = 32,
    .ff_width = 64,
    .vocab = 5000,
    .ctx = 100,
    .rope_pairing = VD_ROPE_HALVES,
    .n_rope = 12,
    .rope_steps = {{UINT64_C(0x123456789ABCDEF)}},
    .eps = 1e-5f,
    .attn_scale = 0.2f,
    .n_tensors = 11,
    .types = {VD_WTYPE_Q8_0, VD_WTYPE_F32, VD_WTYPE_Q4_1, VD_WTYPE_Q4_0, VD_WTYPE_F16, VD_WTYPE_Q8_0,
              VD_WTYPE_F32, VD_WTYPE_F32, VD_WTYPE_Q4_1, VD_WTYPE_Q8_0, VD_WTYPE_F32},
    .n_stop = 1,
    .stop = {2},
};

enum { INPUT_BYTES = 4 * VD_SAMPLE_TILE };

static void make_encoder(struct vd_program *p, bool bert)
{
    static const enum vd_wtype types[] = {VD_WTYPE_Q4_0, VD_WTYPE_BF16, VD_WTYPE_Q8_0, VD_WTYPE_F32};
    p->kind = VD_PROGRAM_ENCODER;
    p->layer_norm = p->token_type = true;
    p->n_stop = 0;
    if (bert) {
        p->act = VD_ACT_GELU;
        p->ungated = p->qkv_bias = p->out_bias = p->ffn_bias = true;
        p->n_positions = 100;
        p->n_rope = p->n_rope_tables = 0;
        p->rope_pairing = VD_ROPE_NONE;
    }
    p->n_tensors = vd_program_norm_tensor(p);
    for (uint32_t i = 0; i < p->n_tensors; i++)
        p->types[i] = (uint8_t)(vd_program_is_vector(p, i) ? VD_WTYPE_F32 : types[i % 4]);
    assert(vd_program_check(p) == NULL);
}

/* 4: an encoder of BERT's form, 5: of Nomic's; 0: the plain one above; 1: every feature; 2: every feature
 * over super-blocks; 3: every feature but experts, and a window of one key. */
static struct vd_program program_of(unsigned which)
{
    static const enum vd_wtype types[] = {VD_WTYPE_Q4_K,  VD_WTYPE_Q6_K, VD_WTYPE_IQ4_XS, VD_WTYPE_Q5_0,
                                          VD_WTYPE_MXFP4, VD_WTYPE_BF16, VD_WTYPE_Q2_K,   VD_WTYPE_Q3_K};
    struct vd_program p = program;
    if (which == 0)
        return p;
    if (which >= 4) {
        make_encoder(&p, which == 4);
        return p;
    }
    if (which == 2) {
        p.width = 768;
        p.n_heads = 8;
        p.ff_width = 256;
    }
    p.n_rope_tables = 2;
    p.rope_steps[1][3] = UINT64_C(0xFEDCBA9876543210);
    p.rope_scale[1] = 1.5f;
    p.attn_cap = 3;
    p.logit_cap = 30;
    p.embed_scale = 23.5f;
    p.window = which == 3 ? 1 : 40;
    p.layer_flags[0] = VD_LAYER_WINDOW | VD_LAYER_ROPE2;
    p.act = VD_ACT_GELU;
    p.qk_norm = p.qkv_bias = p.post_norms = true;
    p.n_experts = which == 3 ? 0 : 7;
    p.n_used = which == 3 ? 0 : 3;
    p.route_norm = which == 1;
    p.n_tensors = vd_program_norm_tensor(&p) + 1;
    for (uint32_t i = 0; i < p.n_tensors; i++) {
        enum vd_wtype t = types[i % 8];
        bool fits = vd_program_tensor(&p, i).cols % vd_wtype_info(t)->block_elems == 0;
        p.types[i] = (uint8_t)(vd_program_is_vector(&p, i) ? VD_WTYPE_F32 : fits ? t : VD_WTYPE_Q4_1);
    }
    assert(vd_program_check(&p) == NULL);
    return p;
}

/* The data over and over. */
static void repeat(uint8_t *out, size_t n_out, const uint8_t *data, size_t n_bytes)
{
    size_t n = n_bytes < n_out ? n_bytes : n_out;
    memcpy(out, data, n);
    for (; n < n_out; n *= 2)
        memcpy(out + n, out, n < n_out - n ? n : n_out - n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static uint8_t bytes[VD_GRAPH_INPUTS_MAX][INPUT_BYTES];
    uint8_t record[VD_GRAPH_RECORD_BYTES_MAX];
    struct vd_tile_data at = {{NULL}, {NULL}};
    struct vd_tile t;
    if (n_bytes < 5)
        return 0;
    bool encoder = data[3] >= 250 && data[3] < 254;
    struct vd_program p = program_of(encoder ? 4 + (data[3] & 1) : data[0] / 64);
    struct vd_graph g = {&p, {.n_prompt = 66, .n_output = 2, .n_steps = 67, .max_tokens = 2}};
    uint8_t flags = data[3];
    g.job.sampling = (struct vd_sampling){.temp_micro = flags & 1 ? 1 + (flags & 2 ? 700000 : 0) : 0,
                                          .top_k = flags & 4 ? 9 : 0,
                                          .top_p_micro = flags & 8 ? 300000 : 1000000,
                                          .min_p_micro = flags & 16 ? 50000 : 0,
                                          .repeat_micro = flags & 64 ? 1300000 : 0,
                                          .repeat_last_n = flags & 64 ? VD_PENALTY_WINDOW : 0,
                                          .presence_micro = flags & 64 ? -7 : 0,
                                          .has_bias = flags & 64,
                                          .has_mask = flags & 128};
    if (flags >= 250) /* a vector */
        g.job =
            (struct vd_graph_job){.n_prompt = 67,
                                  .n_output = p.width,
                                  .n_steps = 67,
                                  .max_tokens = p.width,
                                  .sampling = {.pooling = encoder ? (enum vd_pooling)(1 + data[0] / 64 % 3)
                                                          : flags & 1 ? VD_POOLING_MEAN
                                                                      : VD_POOLING_LAST,
                                               .top_p_micro = VD_SAMPLE_MICRO}};
    uint32_t step = flags & 32 ? 66 : 65, unit = data[0] % 64 % vd_graph_units(&g, step);
    uint32_t op = data[1] % vd_graph_ops(&g, step, unit);
    struct vd_graph_op o;
    vd_graph_op(&g, step, unit, op, &o);
    if (o.n_records == 0)
        return 0;
    vd_tile_init(&t, &g, step, unit, op, data[2] * o.n_records / 256);
    repeat(bytes[0], sizeof bytes, data + 4, n_bytes - 4);
    for (unsigned i = 0; i < t.n_in; i++) {
        at.in[i] = bytes[i];
        if (t.in[i].kind == VD_IN_BIAS || t.in[i].kind == VD_IN_MASK)
            vd_le32_store(bytes[i], vd_le32_load(bytes[i]) % (INPUT_BYTES - 4));
        if (t.in[i].kind == VD_IN_TEXT)
            vd_le16_store(bytes[i], vd_le16_load(bytes[i]) % (VD_TOKEN_TEXT_MAX_BYTES + 1));
        if (t.in[i].dynamic)
            vd_tile_resolve(&t, &g, i, &at);
        for (unsigned j = 0; t.in[i].kind == VD_IN_KV && j < t.in[i].count; j++)
            at.row[j] = bytes[i] + 64 * j;
    }
    vd_tile_eval(&t, &g, &at, record);
    return 0;
}
