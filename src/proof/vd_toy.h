/* For tests and benchmarks of this folder: a small random model in memory, run by the scalar operators alone,
 * and a worker that can be made to lie. Every weight type, two segments per product, two tiles of logits. */
#ifndef VD_TOY_H
#define VD_TOY_H

#include "vd_unit.h"
#include "vd_num.h"
#include "vd_referee.h"
#include "vd_rng.h"
#include "vd_rope.h"
#include "vd_test_controls.h"
#include "vd_trace.h"

#include <stdlib.h>
#include <string.h>

/* Positions of the longest job; a program that needs more says so before it includes this. */
#ifndef TOY_POSITIONS
#define TOY_POSITIONS 300
#endif
enum { TOY_MAX_POS = TOY_POSITIONS, TOY_MAX_OUTPUT = 1100, TOY_UNITS = 8 };

/* Operators of a decoder's block, by number. */
enum { TOY_KROW = 21, TOY_VROW = 22, TOY_SCORE = 23 };

struct vd_toy_model {
    struct vd_program program;
    uint8_t program_bytes[VD_PROGRAM_BYTES_MAX];
    size_t n_program_bytes;
    uint8_t *weights[VD_PROGRAM_TENSORS_MAX];
    struct vd_hash *leaves[VD_PROGRAM_TENSORS_MAX];
    struct vd_hash tensor_leaf[VD_PROGRAM_TENSORS_MAX];
    struct vd_hash root;
};

/* One operator's record to change, once. Not every such lie reaches the unit's output (a quantiser may
 * swallow it), and one that does not is none; so the last operator's first record is changed as well. */
struct vd_toy_lie {
    bool on;
    uint32_t step, unit, op;
    uint64_t record;
    uint32_t record_bytes;
};

/* A worker's job: what it claims, and the rows it remembers so that runs need not start from 0. */
struct vd_toy_job {
    struct vd_toy_model *model;
    struct vd_graph graph;
    uint8_t job_salt[VD_JOB_SALT_BYTES];
    uint32_t prompt[TOY_MAX_POS], output[TOY_MAX_OUTPUT];
    enum vd_finish finish;
    struct vd_controls controls;
    uint64_t keep_bytes; /* of its trace; 0: it keeps everything */
    struct vd_toy_lie lie;
    /* Another way to lie (vd_tamper.h); as vd_trace_source's after_op. */
    void (*after)(void *arg, uint32_t step, uint32_t unit, uint32_t op, uint8_t *records, size_t n_bytes);
    void *after_arg;
    uint8_t *rows[TOY_UNITS][TOY_MAX_POS]; /* of a unit and step: what it puts out; NULL: not run yet */
    uint8_t token[TOY_MAX_POS][VD_TOKEN_RECORD_BYTES];
    bool has_token[TOY_MAX_POS];
    uint32_t most_run; /* steps of its trace's longest run */
};

/* Scales for values of about 1: d, and the min in units of d, which puts the values around 0. MXFP4 has no
 * binary16 scale. */
struct toy_scale {
    enum vd_wtype type;
    float d, min;
};

static inline struct toy_scale toy_scale_of(enum vd_wtype type)
{
    static const struct toy_scale all[] = {
        {VD_WTYPE_Q4_0, 1.0f / 8, 0},      {VD_WTYPE_Q4_1, 1.0f / 8, -8},
        {VD_WTYPE_Q5_0, 1.0f / 16, 0},     {VD_WTYPE_Q5_1, 1.0f / 16, -16},
        {VD_WTYPE_Q8_0, 1.0f / 127, 0},    {VD_WTYPE_IQ4_NL, 1.0f / 127, 0},
        {VD_WTYPE_Q2_K, 1.0f / 32, 1.5f},  {VD_WTYPE_Q3_K, 1.0f / 128, 0},
        {VD_WTYPE_Q4_K, 1.0f / 512, 7.5f}, {VD_WTYPE_Q5_K, 1.0f / 1024, 15.5f},
        {VD_WTYPE_Q6_K, 1.0f / 4096, 0},   {VD_WTYPE_IQ4_XS, 1.0f / 4096, 0},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i].type == type)
            return all[i];
    abort();
}

static inline bool toy_is_norm(const struct vd_program *p, uint32_t tensor)
{
    static const enum vd_layer_tensor norms[] = {VD_T_ATTN_NORM,      VD_T_ATTN_Q_NORM, VD_T_ATTN_K_NORM,
                                                 VD_T_POST_ATTN_NORM, VD_T_FFN_NORM,    VD_T_POST_FFN_NORM};
    uint32_t layer;
    enum vd_layer_tensor t;
    enum vd_embed_tensor e;
    if (vd_program_find_embed(p, tensor, &e))
        return e == VD_E_NORM;
    if (!vd_program_find_tensor(p, tensor, &layer, &t))
        return tensor == vd_program_norm_tensor(p);
    for (unsigned i = 0; i < sizeof norms / sizeof norms[0]; i++)
        if (t == norms[i])
            return true;
    return false;
}

static inline void toy_fill_block(const struct vd_program *p, uint32_t tensor, uint8_t *block, float scale,
                                  float u)
{
    enum vd_wtype type = (enum vd_wtype)p->types[tensor];
    bool bias = vd_program_is_vector(p, tensor) && !toy_is_norm(p, tensor);
    if (type == VD_WTYPE_F32) {
        bool norm = toy_is_norm(p, tensor);
        vd_le32_store(block, vd_f32_bits(norm ? 1.0f + 0.1f * u : (bias ? 0.5f : scale) * u));
    } else if (type == VD_WTYPE_F16) {
        vd_le16_store(block, vd_f16_from_f32(scale * u));
    } else if (type == VD_WTYPE_BF16) {
        vd_le16_store(block, (uint16_t)(vd_f32_bits(scale * u) >> 16));
    } else if (type == VD_WTYPE_MXFP4) {
        block[0] = (uint8_t)(121 + (u > 0));
    } else {
        struct toy_scale s = toy_scale_of(type);
        const struct vd_wtype_info *info = vd_wtype_info(type);
        vd_le16_store(block + info->d_at, vd_f16_from_f32(scale * s.d * (1.0f + 0.2f * u)));
        if (info->has_min)
            vd_le16_store(block + info->min_at, vd_f16_from_f32(scale * s.d * s.min));
    }
}

static inline void toy_fill(struct vd_toy_model *m, uint32_t tensor, struct vd_rng *rng, float scale)
{
    struct vd_tensor_shape t = vd_program_tensor(&m->program, tensor);
    const struct vd_wtype_info *info = vd_wtype_info(t.type);
    size_t n_blocks = (size_t)t.rows * t.cols / info->block_elems;
    uint8_t *p = m->weights[tensor] = malloc(n_blocks * info->block_bytes);
    for (size_t b = 0; b < n_blocks; b++, p += info->block_bytes) {
        for (uint32_t i = 0; i < info->block_bytes; i++)
            p[i] = (uint8_t)vd_rng_next(rng);
        float u = (float)(vd_rng_below(rng, 2001)) / 1000.0f - 1.0f;
        toy_fill_block(&m->program, tensor, p, scale, u);
    }
}

static inline const uint8_t *toy_row(const struct vd_toy_model *m, uint32_t tensor, uint32_t row)
{
    struct vd_tensor_shape t = vd_program_tensor(&m->program, tensor);
    return m->weights[tensor] + (size_t)row * vd_wtype_row_bytes(t.type, t.cols);
}

static inline void toy_hash(struct vd_toy_model *m)
{
    for (uint32_t i = 0; i < m->program.n_tensors; i++) {
        struct vd_tensor_shape t = vd_program_tensor(&m->program, i);
        uint32_t parts = vd_tensor_parts(t);
        free(m->leaves[i]);
        m->leaves[i] = malloc((size_t)t.rows * parts * sizeof m->leaves[i][0]);
        for (uint32_t r = 0; r < t.rows; r++)
            for (uint32_t k = 0; k < parts; k++)
                m->leaves[i][(size_t)r * parts + k] = vd_weight_leaf(
                    i, r, k, toy_row(m, i, r) + vd_tensor_part_offset(t, k), vd_tensor_part_bytes(t, k));
        struct vd_hash root = vd_merkle_root(m->leaves[i], (size_t)t.rows * parts);
        m->tensor_leaf[i] = vd_tensor_leaf(i, t, &root);
    }
    struct vd_hash tensors = vd_merkle_root(m->tensor_leaf, m->program.n_tensors);
    m->n_program_bytes = vd_program_encode(&m->program, m->program_bytes, sizeof m->program_bytes);
    m->root = vd_program_model_root((struct vd_bytes){m->program_bytes, m->n_program_bytes},
                                    m->program.n_tensors, &tensors);
}

/* Types in turn, each where its blocks fit; vectors are F32. */
static inline void toy_types(struct vd_program *p, const uint8_t *types, size_t n_types)
{
    p->n_tensors = vd_program_norm_tensor(p) + !vd_program_is_encoder(p);
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        const uint8_t *t = &types[i % n_types];
        if (vd_program_is_vector(p, i))
            p->types[i] = VD_WTYPE_F32;
        else
            p->types[i] = vd_program_tensor(p, i).cols % vd_wtype_info((enum vd_wtype) * t)->block_elems
                              ? (uint8_t)VD_WTYPE_Q8_0
                              : *t;
    }
}

/* The toy: 2 layers, width 544, 4 heads of 32 over 2 kv heads, 5,000 tokens, tied head. */
static inline struct vd_program toy_program(enum vd_rope_pairing pairing)
{
    static const uint8_t types[] = {VD_WTYPE_Q8_0, VD_WTYPE_F32,  VD_WTYPE_Q4_1,   VD_WTYPE_Q4_0,
                                    VD_WTYPE_F16,  VD_WTYPE_Q8_0, VD_WTYPE_F32,    VD_WTYPE_Q5_0,
                                    VD_WTYPE_BF16, VD_WTYPE_Q5_1, VD_WTYPE_IQ4_NL, VD_WTYPE_MXFP4};
    struct vd_program p = {VD_PROGRAM_PLAIN,
                           .n_layers = 2,
                           .width = 544,
                           .n_heads = 4,
                           .n_kv_heads = 2,
                           .head_dim = 32,
                           .ff_width = 96,
                           .vocab = 5000,
                           .ctx = 4096,
                           .rope_pairing = pairing,
                           .n_rope = pairing == VD_ROPE_HALVES ? 12 : 16,
                           .eps = 1e-5f,
                           .attn_scale = 0.17677669f};
    vd_num_rope_steps(10000.0f, 2 * p.n_rope, p.rope_steps[0]);
    toy_types(&p, types, sizeof types);
    return p;
}

/* ---- the toy with features ---- */

static inline void toy_biases(struct vd_program *p)
{
    p->qkv_bias = true;
}

static inline void toy_head_norms(struct vd_program *p)
{
    p->qk_norm = true;
}

/* Gemma 2: caps, windows in every second layer. The window begins inside the first chunk. */
static inline void toy_caps(struct vd_program *p)
{
    p->attn_cap = 2.0f;
    p->logit_cap = 5.0f;
    p->embed_scale = 1.5f;
    p->act = VD_ACT_GELU;
    p->post_norms = true;
    p->window = 40;
    p->layer_flags[0] = VD_LAYER_WINDOW;
}

/* Gemma 3: a short window, begun in a later chunk, and two RoPE tables. */
static inline void toy_tables(struct vd_program *p)
{
    p->qk_norm = p->post_norms = true;
    p->act = VD_ACT_GELU;
    p->window = 5;
    p->layer_flags[0] = VD_LAYER_WINDOW | VD_LAYER_ROPE2;
    p->n_rope_tables = 2;
    p->rope_scale[1] = 1.25f;
    vd_num_rope_steps(500000.0f, 2 * p->n_rope, p->rope_steps[1]);
}

static inline void toy_experts(struct vd_program *p)
{
    p->n_experts = 6;
    p->n_used = 3;
    p->route_norm = true;
}

static inline void toy_experts_of_all(struct vd_program *p)
{
    p->n_experts = 5;
    p->n_used = 1;
    p->qk_norm = true;
}

static inline void toy_super_blocks(struct vd_program *p)
{
    p->width = 768;
    p->n_heads = 8;
    p->ff_width = 256;
}

static inline void toy_everything(struct vd_program *p)
{
    toy_super_blocks(p);
    toy_caps(p);
    toy_tables(p);
    toy_experts(p);
    p->qkv_bias = true;
    p->window = 66;
    p->layer_flags[1] = VD_LAYER_WINDOW;
}

static const struct toy_feature {
    const char *name;
    void (*set)(struct vd_program *p);
} toy_features[] = {
    {"biases", toy_biases},
    {"head norms", toy_head_norms},
    {"caps, windows, norms behind, GELU", toy_caps},
    {"two RoPE tables, a short window", toy_tables},
    {"experts", toy_experts},
    {"one expert, weighed among all", toy_experts_of_all},
    {"super-blocks", toy_super_blocks},
    {"everything", toy_everything},
};
enum { TOY_FEATURES = sizeof toy_features / sizeof toy_features[0] };

/* Fewer tokens than the plain toy: the head's search has its own tests. */
static inline struct vd_program toy_program_with(const struct toy_feature *f)
{
    static const uint8_t types[] = {VD_WTYPE_Q6_K, VD_WTYPE_Q4_K, VD_WTYPE_Q5_1, VD_WTYPE_Q2_K,
                                    VD_WTYPE_F16,  VD_WTYPE_Q5_K, VD_WTYPE_Q3_K, VD_WTYPE_IQ4_XS,
                                    VD_WTYPE_Q4_0, VD_WTYPE_F32,  VD_WTYPE_MXFP4};
    struct vd_program p = toy_program(VD_ROPE_HALVES);
    p.vocab = 600;
    f->set(&p);
    toy_types(&p, types, sizeof types);
    if (vd_program_check(&p))
        abort();
    return p;
}

/* An encoder: of BERT's form, with all there is, or of Nomic's. */
static inline struct vd_program toy_encoder(bool nomic)
{
    static const uint8_t types[] = {VD_WTYPE_Q8_0, VD_WTYPE_F32, VD_WTYPE_F16, VD_WTYPE_Q4_1, VD_WTYPE_BF16};
    struct vd_program p = toy_program(VD_ROPE_HALVES);
    p.kind = VD_PROGRAM_ENCODER;
    p.vocab = 100;
    p.ctx = 2048;
    p.layer_norm = true;
    p.token_type = true;
    if (!nomic) {
        p.act = VD_ACT_GELU;
        p.ungated = p.qkv_bias = p.out_bias = p.ffn_bias = true;
        p.n_positions = 2050;
        p.n_rope = p.n_rope_tables = 0;
        p.rope_pairing = VD_ROPE_NONE;
        memset(p.rope_steps, 0, sizeof p.rope_steps);
        memset(p.rope_scale, 0, sizeof p.rope_scale);
    }
    toy_types(&p, types, sizeof types);
    if (vd_program_check(&p))
        abort();
    return p;
}

static inline struct vd_toy_model *toy_model_new(const struct vd_program *program, uint64_t seed, float scale)
{
    struct vd_toy_model *m = calloc(1, sizeof *m);
    struct vd_rng rng = {seed, 0};
    m->program = *program;
    for (uint32_t i = 0; i < program->n_tensors; i++)
        toy_fill(m, i, &rng, i == 0 ? 1.0f : scale);
    toy_hash(m);
    return m;
}

static inline void toy_model_free(struct vd_toy_model *m)
{
    for (uint32_t i = 0; m && i < m->program.n_tensors; i++) {
        free(m->weights[i]);
        free(m->leaves[i]);
    }
    free(m);
}

/* ---- a source over it ---- */

static inline struct vd_bytes toy_weight_row(void *arg, uint32_t tensor, uint32_t row)
{
    struct vd_toy_job *j = arg;
    struct vd_tensor_shape t = vd_program_tensor(&j->model->program, tensor);
    return (struct vd_bytes){toy_row(j->model, tensor, row), vd_wtype_row_bytes(t.type, t.cols)};
}

static inline enum vd_err toy_weight_proof(void *arg, uint32_t tensor, uint32_t row, uint32_t part,
                                           struct vd_weight_proof *out, struct vd_error *err)
{
    struct vd_toy_model *m = ((struct vd_toy_job *)arg)->model;
    struct vd_tensor_shape t = vd_program_tensor(&m->program, tensor);
    size_t parts = vd_tensor_parts(t), n = t.rows * parts, at = row * parts + part;
    out->bytes = (struct vd_bytes){toy_row(m, tensor, row) + vd_tensor_part_offset(t, part),
                                   vd_tensor_part_bytes(t, part)};
    out->n_path = vd_merkle_range_proof_len(n, at, 1);
    vd_merkle_range_prove(m->leaves[tensor], n, at, 1, out->path);
    out->n_tensor_path = vd_merkle_range_proof_len(m->program.n_tensors, tensor, 1);
    vd_merkle_range_prove(m->tensor_leaf, m->program.n_tensors, tensor, 1, out->tensor_path);
    return VD_OK;
}

static inline void toy_after_op(void *arg, uint32_t step, uint32_t unit, uint32_t op, uint8_t *records,
                                size_t n_bytes)
{
    const struct vd_toy_job *j = arg;
    const struct vd_toy_lie *lie = &j->lie;
    if (j->after)
        j->after(j->after_arg, step, unit, op, records, n_bytes);
    if (!lie->on || step != lie->step || unit != lie->unit)
        return;
    if (op == lie->op)
        records[(size_t)lie->record * lie->record_bytes + 1] ^= 0x10;
    else if (op + 1 == vd_graph_ops(&j->graph, step, unit))
        records[0] ^= 1;
}

static inline struct vd_trace_source toy_source(struct vd_toy_job *j);

/* Texts of the toy's tokens: none for each 50th, else one or two of the letters a to d. */
static inline struct vd_bytes toy_text(void *arg, uint32_t id)
{
    static const uint8_t letters[] = "abcdabdcacbdacdbadbcadcba";
    (void)arg;
    return (struct vd_bytes){letters + id % 20, id % 50 == 0 ? 0 : 1 + id % 2};
}

static inline void toy_text_leaves(uint32_t vocab, struct vd_hash *leaf)
{
    for (uint32_t i = 0; i < vocab; i++)
        leaf[i] = vd_text_leaf(i, toy_text(NULL, i));
}

static inline void toy_text_proof(void *arg, uint32_t id, struct vd_hash *proof)
{
    struct vd_toy_job *j = arg;
    uint32_t vocab = j->model->program.vocab;
    struct vd_hash *leaf = malloc(vocab * sizeof *leaf);
    toy_text_leaves(vocab, leaf);
    vd_merkle_range_prove(leaf, vocab, id, 1, proof);
    free(leaf);
}

/* A mask over them. */
static inline struct vd_bytes toy_mask(uint32_t vocab)
{
    struct vd_hash *leaf = malloc(vocab * sizeof *leaf), root;
    toy_text_leaves(vocab, leaf);
    root = vd_merkle_root(leaf, vocab);
    free(leaf);
    return vd_test_mask_over(&root);
}

/* Biases against the likeliest ids of any toy: every 16th. */
static inline struct vd_bytes toy_bias(void)
{
    static uint8_t table[VD_BIAS_MAX * VD_BIAS_ENTRY_BYTES];
    for (uint32_t i = 0; i < VD_BIAS_MAX; i++) {
        vd_le32_store(table + 8 * i, 16 * i + 3);
        vd_le32_store(table + 8 * i + 4, (uint32_t)(i % 2 ? 1500000 : -700000));
    }
    return (struct vd_bytes){table, sizeof table};
}

/* The graph of a job that is still generating. */
static inline struct vd_graph toy_graph(const struct vd_toy_job *j)
{
    struct vd_graph g = j->graph;
    if (!vd_graph_pools(&g))
        g.job.n_steps = TOY_MAX_POS;
    return g;
}

/* Where the records of a unit's output stand among what it puts out; with op NO_OP how many bytes it is. */
static inline size_t toy_place(const struct vd_graph *g, uint32_t step, uint32_t unit, uint32_t op)
{
    uint8_t ops[VD_GRAPH_OUTS_MAX];
    unsigned n = vd_graph_outs(g, step, unit, ops);
    struct vd_graph_op o;
    size_t at = 0;
    for (unsigned i = 0; i < n; i++) {
        if (ops[i] == VD_GRAPH_NO_OP)
            continue;
        if (ops[i] == op)
            return at;
        vd_graph_op(g, step, unit, ops[i], &o);
        at += (size_t)o.n_records * o.record_bytes;
    }
    return at;
}

/* Runs one unit of a step from remembered rows, and remembers its own. */
static inline void toy_run_unit(struct vd_toy_job *j, uint32_t step, uint32_t unit)
{
    struct vd_trace t = {
        .graph = toy_graph(j), .prompt = j->prompt, .output = j->output, .source = toy_source(j)};
    t.source.rows = NULL; /* all are given */
    if (vd_trace_controls_open(&t, NULL) != VD_OK)
        abort();
    if (vd_trace_unit_prepare(&t, step, unit, NULL) != VD_OK)
        abort();
    for (unsigned i = 0; i < t.u.n_reads; i++) {
        const struct vd_trace_read *r = &t.u.read[i];
        for (uint32_t k = 0; k < r->what.n; k++) {
            uint32_t s = r->what.first + k;
            memcpy(r->rows + k * r->step_bytes,
                   j->rows[r->what.unit][s] + toy_place(&t.graph, s, r->what.unit, r->what.op),
                   r->step_bytes);
        }
    }
    vd_trace_unit_run(&t);
    uint8_t ops[VD_GRAPH_OUTS_MAX];
    unsigned n = vd_graph_outs(&t.graph, step, unit, ops);
    if (unit == vd_graph_head_unit(&t.graph) && !vd_graph_pools(&t.graph)) {
        memcpy(j->token[step], t.u.records[ops[n - 1]], VD_TOKEN_RECORD_BYTES);
    } else {
        uint8_t *row = j->rows[unit][step] = calloc(1, toy_place(&t.graph, step, unit, VD_GRAPH_NO_OP));
        for (unsigned i = 0; i < n; i++)
            if (ops[i] != VD_GRAPH_NO_OP)
                memcpy(row + toy_place(&t.graph, step, unit, ops[i]), t.u.records[ops[i]],
                       (size_t)t.u.op[ops[i]].n_records * t.u.op[ops[i]].record_bytes);
    }
    vd_trace_controls_close(&t);
    free(t.u.memory);
}

/* Runs what is not remembered of the groups that the units of steps below n_steps need. */
static inline void toy_run_steps(struct vd_toy_job *j, uint32_t n_steps)
{
    const struct vd_graph now = toy_graph(j), *g = &now;
    uint32_t n_groups = vd_program_is_encoder(g->program) ? vd_graph_groups(g) : n_steps;
    for (uint32_t i = 0; i < n_groups; i++)
        for (uint32_t k = 0; k < vd_graph_members(g, i); k++) {
            uint32_t step, unit;
            vd_graph_at(g, (struct vd_graph_place){i, k}, &step, &unit);
            bool token = unit == vd_graph_head_unit(g) && !vd_graph_pools(g);
            if (token ? !j->has_token[step] : !j->rows[unit][step])
                toy_run_unit(j, step, unit);
            if (token)
                j->has_token[step] = true;
        }
}

/* What an engine would hand over of a unit. */
static inline struct vd_graph_rows toy_rows(const struct vd_toy_job *j, uint32_t step, uint32_t unit)
{
    uint8_t ops[VD_GRAPH_OUTS_MAX];
    unsigned n = vd_graph_outs(&j->graph, step, unit, ops);
    struct vd_graph_rows rows = {0};
    for (unsigned i = 0; i < n; i++) {
        struct vd_graph_op o;
        if (ops[i] == VD_GRAPH_NO_OP)
            continue;
        const uint8_t *p = j->rows[unit][step] + toy_place(&j->graph, step, unit, ops[i]);
        vd_graph_op(&j->graph, step, unit, ops[i], &o);
        if (o.kind == VD_OP_QROW)
            rows.q = p;
        else if (o.kind == VD_OP_KROW)
            rows.k = p;
        else if (o.kind == VD_OP_VROW)
            rows.v = p;
        else
            rows.x = (const float *)(const void *)p;
    }
    return rows;
}

/* The vector of the last step. */
static inline const float *toy_vector(const struct vd_toy_job *j)
{
    const struct vd_graph *g = &j->graph;
    uint32_t last = g->job.n_prompt - 1, unit = vd_graph_head_unit(g);
    uint8_t ops[VD_GRAPH_OUTS_MAX];
    unsigned n = vd_graph_outs(g, last, unit, ops);
    return (const float *)(const void *)(j->rows[unit][last] + toy_place(g, last, unit, ops[n - 1]));
}

static inline enum vd_err toy_run(void *arg, uint32_t n_steps, const struct vd_trace_sink *sink,
                                  struct vd_error *err)
{
    struct vd_toy_job *j = arg;
    const struct vd_graph *g = &j->graph;
    bool mean = g->job.sampling.pooling == VD_POOLING_MEAN;
    j->most_run = n_steps > j->most_run ? n_steps : j->most_run;
    toy_run_steps(j, n_steps);
    for (uint32_t s = 0; s < n_steps; s++) {
        bool head = vd_graph_has_head(g, s);
        for (uint32_t u = 0; u < vd_graph_head_unit(g); u++) {
            struct vd_graph_rows rows = toy_rows(j, s, u);
            sink->row(sink->arg, s, u, &rows);
        }
        if (head && vd_graph_pools(g))
            sink->pooled(sink->arg, s,
                         mean ? (const float *)(const void *)j->rows[vd_graph_head_unit(g)][s] : NULL,
                         s + 1 == g->job.n_prompt ? toy_vector(j) : NULL);
        else if (head)
            sink->token(sink->arg, s, vd_le32_load(j->token[s]), (enum vd_stop)vd_le32_load(j->token[s] + 4));
        if (sink->done)
            sink->done(sink->arg, s);
    }
    return VD_OK;
}

static inline void toy_kept_rows(void *arg, uint32_t step, uint32_t unit, struct vd_graph_rows *out)
{
    *out = toy_rows(arg, step, unit);
}

static inline struct vd_trace_source toy_source(struct vd_toy_job *j)
{
    return (struct vd_trace_source){.arg = j,
                                    .run = toy_run,
                                    .rows = j->keep_bytes ? toy_kept_rows : NULL,
                                    .keep_bytes = j->keep_bytes,
                                    .weight_row = toy_weight_row,
                                    .weight_proof = toy_weight_proof,
                                    .controls = j->controls,
                                    .text = toy_text,
                                    .text_proof = toy_text_proof,
                                    .after_op = toy_after_op};
}

/* ---- jobs ---- */

static inline void toy_forget(struct vd_toy_job *j, uint32_t from_step)
{
    for (unsigned u = 0; u < TOY_UNITS; u++)
        for (uint32_t s = from_step; s < TOY_MAX_POS; s++) {
            free(j->rows[u][s]);
            j->rows[u][s] = NULL;
        }
    for (uint32_t s = from_step; s < TOY_MAX_POS; s++)
        j->has_token[s] = false;
}

static inline void toy_job_free(struct vd_toy_job *j)
{
    if (j)
        toy_forget(j, 0);
    free(j);
}

/* An honest job: generates until it stops. */
static inline struct vd_toy_job *toy_job_new(struct vd_toy_model *m, uint32_t n_prompt, uint32_t max_tokens,
                                             const struct vd_sampling *sampling)
{
    struct vd_toy_job *j = calloc(1, sizeof *j);
    struct vd_rng rng = {n_prompt, 7};
    j->model = m;
    j->graph = (struct vd_graph){
        &m->program,
        {.n_prompt = n_prompt, .n_steps = TOY_MAX_POS, .max_tokens = max_tokens, .sampling = *sampling}};
    for (unsigned i = 0; i < sizeof j->job_salt; i++)
        j->job_salt[i] = (uint8_t)(3 * i + 1);
    if (sampling->has_bias)
        j->controls.bias = toy_bias();
    if (sampling->has_mask)
        j->controls.mask = toy_mask(m->program.vocab);
    for (uint32_t i = 0; i < n_prompt; i++)
        j->prompt[i] = (uint32_t)vd_rng_below(&rng, m->program.vocab);
    for (uint32_t s = 0;; s++) {
        toy_run_steps(j, s + 1);
        if (!vd_graph_has_head(&j->graph, s))
            continue;
        uint32_t stop = vd_le32_load(j->token[s] + 4);
        if (stop != VD_STOP_FAIL)
            j->output[j->graph.job.n_output++] = vd_le32_load(j->token[s]);
        if (stop != VD_STOP_NONE) {
            j->finish = (enum vd_finish)stop;
            j->graph.job.n_steps = s + 1;
            return j;
        }
    }
}

/* An honest job whose result is a vector. */
static inline struct vd_toy_job *toy_vector_new(struct vd_toy_model *m, uint32_t n_prompt,
                                                enum vd_pooling pooling)
{
    struct vd_toy_job *j = calloc(1, sizeof *j);
    struct vd_rng rng = {n_prompt, 7};
    uint32_t d = m->program.width;
    j->model = m;
    j->finish = VD_FINISH_LENGTH;
    j->graph = (struct vd_graph){&m->program,
                                 {.n_prompt = n_prompt,
                                  .n_output = d,
                                  .n_steps = n_prompt,
                                  .max_tokens = d,
                                  .sampling = {.pooling = pooling, .top_p_micro = VD_SAMPLE_MICRO}}};
    for (unsigned i = 0; i < sizeof j->job_salt; i++)
        j->job_salt[i] = (uint8_t)(3 * i + 1);
    for (uint32_t i = 0; i < n_prompt; i++)
        j->prompt[i] = (uint32_t)vd_rng_below(&rng, m->program.vocab);
    toy_run_steps(j, n_prompt);
    memcpy(j->output, toy_vector(j), 4 * (size_t)d);
    return j;
}

/* The same claim with the rows of the steps before `from_step`: what is run after it may be a lie. (None
 * where every step reads all the others.) */
static inline struct vd_toy_job *toy_job_copy(const struct vd_toy_job *from, uint32_t from_step)
{
    const struct vd_graph now = toy_graph(from), *g = &now;
    struct vd_toy_job *j = malloc(sizeof *j);
    *j = *from;
    if (vd_program_is_encoder(g->program) && from_step < g->job.n_steps)
        from_step = 0;
    for (unsigned u = 0; u < TOY_UNITS; u++)
        for (uint32_t s = 0; s < TOY_MAX_POS; s++) {
            j->rows[u][s] = NULL;
            if (!from->rows[u][s] || s >= from_step)
                continue;
            size_t n = toy_place(g, s, u, VD_GRAPH_NO_OP);
            j->rows[u][s] = memcpy(malloc(n), from->rows[u][s], n);
        }
    for (uint32_t s = from_step; s < TOY_MAX_POS; s++)
        j->has_token[s] = false;
    return j;
}

static inline struct vd_trace *toy_trace(struct vd_toy_job *j)
{
    struct vd_trace_source source = toy_source(j);
    struct vd_trace *t = NULL;
    if (vd_trace_create(&t, &j->graph, j->prompt, j->output, j->job_salt, &source, NULL) != VD_OK)
        abort();
    return t;
}

/* The claim that a receipt of this job makes, with the trace's commit root. */
static inline struct vd_ref_claim toy_claim(const struct vd_toy_job *j, const struct vd_trace *t)
{
    const struct vd_graph_job *g = &j->graph.job;
    struct vd_hash output = vd_graph_pools(&j->graph)
                                ? vd_vector_root(j->job_salt, g->n_prompt, j->output, g->n_output)
                                : vd_token_root(j->job_salt, g->n_prompt, j->output, g->n_output);
    return (struct vd_ref_claim){
        .graph = j->graph,
        .program_bytes = {j->model->program_bytes, j->model->n_program_bytes},
        .model_root = j->model->root,
        .prompt_root = vd_token_root(j->job_salt, 0, j->prompt, g->n_prompt),
        .output_root = output,
        .commit_root = t->commit_root,
        .salt_commit = vd_salt_commit(j->job_salt),
        .bias_hash = vd_bias_hash(j->controls.bias),
        .mask_hash = vd_mask_hash(j->controls.mask),
        .finish = j->finish,
    };
}

#endif
