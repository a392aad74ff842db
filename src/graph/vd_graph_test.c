/* The tables: what the spec says of counts and order, and that for the largest programs every leaf, tree and
 * opening stays within its bound. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>

#include "vd_graph.h"
#include "vd_merkle.h"
#include "vd_num.h"
#include "vd_rng.h"
#include "vd_trace_hash.h"

/* Gives every tensor a type: vectors F32, matrices `type`, or Q8_0 where its blocks do not fit their rows. */
static void set_types(struct vd_program *p, enum vd_wtype type, bool tied)
{
    p->n_tensors = vd_program_norm_tensor(p) + (vd_program_is_encoder(p) ? 0 : tied ? 1 : 2);
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        bool fits = vd_program_tensor(p, i).cols % vd_wtype_info(type)->block_elems == 0;
        p->types[i] = (uint8_t)(vd_program_is_vector(p, i) ? VD_WTYPE_F32 : fits ? type : VD_WTYPE_Q8_0);
    }
}

static struct vd_program program(uint32_t layers, uint32_t width, uint32_t heads, uint32_t kv_heads,
                                 uint32_t hd, uint32_t ff, uint32_t vocab, enum vd_wtype type)
{
    struct vd_program p = {VD_PROGRAM_PLAIN,       .n_layers = layers,
                           .width = width,         .n_heads = heads,
                           .n_kv_heads = kv_heads, .head_dim = hd,
                           .ff_width = ff,         .vocab = vocab,
                           .ctx = 1 << 20,         .rope_pairing = VD_ROPE_HALVES,
                           .n_rope = hd / 2,       .eps = 1e-5f,
                           .attn_scale = 0.125f};
    set_types(&p, type, false);
    return p;
}

/* Every feature at once; every second layer with a window of 100 and table 1. */
static struct vd_program all_features(struct vd_program p, uint32_t n_experts, uint32_t n_used,
                                      enum vd_wtype type)
{
    p.n_rope_tables = 2;
    p.rope_scale[1] = 1.5f;
    p.attn_cap = 50;
    p.logit_cap = 30;
    p.embed_scale = 12;
    p.window = 100;
    for (uint32_t l = 0; l < p.n_layers; l += 2)
        p.layer_flags[l] = VD_LAYER_WINDOW | VD_LAYER_ROPE2;
    p.act = VD_ACT_GELU;
    p.qk_norm = p.qkv_bias = p.post_norms = true;
    p.n_experts = n_experts;
    p.n_used = n_used;
    p.route_norm = n_experts > 0;
    set_types(&p, type, true);
    return p;
}

/* Of BERT's form, or of Nomic's. */
static struct vd_program encoder(struct vd_program p, bool nomic, enum vd_wtype type)
{
    p.kind = VD_PROGRAM_ENCODER;
    p.ctx = 2048;
    p.layer_norm = p.token_type = true;
    if (!nomic) {
        p.act = VD_ACT_GELU;
        p.ungated = p.qkv_bias = p.out_bias = p.ffn_bias = true;
        p.n_positions = 2048;
        p.n_rope = p.n_rope_tables = 0;
        p.rope_pairing = VD_ROPE_NONE;
        p.rope_scale[0] = 0;
    }
    set_types(&p, type, false);
    return p;
}

static struct vd_graph vector_graph(const struct vd_program *p, uint32_t n, enum vd_pooling pooling)
{
    return (struct vd_graph){p,
                             {.n_prompt = n,
                              .n_output = p->width,
                              .n_steps = n,
                              .max_tokens = p->width,
                              .sampling = {.pooling = pooling, .top_p_micro = VD_SAMPLE_MICRO}}};
}

static struct vd_graph graph(const struct vd_program *p, uint32_t n_prompt, uint32_t n_output,
                             struct vd_sampling sampling)
{
    return (struct vd_graph){p,
                             {.n_prompt = n_prompt,
                              .n_output = n_output,
                              .n_steps = n_prompt + n_output - 1,
                              .max_tokens = 1 << 20,
                              .sampling = sampling}};
}

static const struct vd_sampling greedy = {0};
static const struct vd_sampling all = {.temp_micro = 1,
                                       .top_k = 5,
                                       .top_p_micro = 1,
                                       .repeat_micro = 1100000,
                                       .repeat_last_n = VD_PENALTY_WINDOW,
                                       .presence_micro = 1,
                                       .has_bias = true,
                                       .has_mask = true};

/* The number of a unit's first operator of that kind that is not absent. */
static uint32_t find_op(const struct vd_graph *g, uint32_t step, uint32_t unit, enum vd_op kind,
                        struct vd_graph_op *o)
{
    for (uint32_t op = 0; op < vd_graph_ops(g, step, unit); op++) {
        vd_graph_op(g, step, unit, op, o);
        if (o->kind == kind && o->n_records)
            return op;
    }
    fail_msg("no %s in unit %u", vd_op_name(kind), unit);
    return 0;
}

enum { BLOCK_OPS = 58, SHORT_OPS = 23, HEAD_OPS = 14 };

static void counts_of_a_known_model(void **state)
{
    struct vd_program p = program(30, 576, 9, 3, 64, 1536, 49152, VD_WTYPE_Q4_1);
    struct vd_graph g = graph(&p, 128, 128, all);
    struct vd_graph_op o;
    assert_null(vd_program_check(&p));
    assert_true(vd_graph_valid(&g));
    assert_int_equal(vd_graph_units(&g, 126), 31);
    assert_int_equal(vd_graph_units(&g, 127), 32);
    assert_int_equal(vd_graph_ops(&g, 5, 0), 1);
    assert_int_equal(vd_graph_ops(&g, 5, 30), SHORT_OPS);
    assert_int_equal(vd_graph_ops(&g, 5, 29), BLOCK_OPS);
    assert_int_equal(vd_graph_ops(&g, 127, 30), BLOCK_OPS);
    assert_int_equal(vd_graph_ops(&g, 127, 31), HEAD_OPS + 2 * 18 + 3);
    find_op(&g, 127, 31, VD_OP_PART, &o);
    assert_int_equal(o.n_records, 49152 * 2);
    assert_int_equal(vd_graph_leaves(&o), 96);
    find_op(&g, 200, 3, VD_OP_SCORE, &o);
    assert_int_equal(o.n_records, 9 * 201);
    find_op(&g, 200, 3, VD_OP_MERGE, &o);
    assert_int_equal(o.n_records, 9 * 4);
    g.job.sampling = greedy;
    assert_int_equal(vd_graph_ops(&g, 127, 31), HEAD_OPS + 1);
    g.job.sampling = (struct vd_sampling){.temp_micro = 1, .top_k = 49152, .top_p_micro = 1000000};
    assert_int_equal(vd_graph_ops(&g, 127, 31), HEAD_OPS + 3);
}

static void sampling_order(void **state)
{
    struct vd_program p = program(1, 32, 1, 1, 32, 32, 9000, VD_WTYPE_Q8_0);
    struct vd_graph g = graph(&p, 1, 1, all);
    struct vd_graph_op o;
    for (unsigned m = 0; m < 2; m++) {
        uint32_t base = HEAD_OPS + 18 * m;
        for (unsigned level = 0; level < 8; level++) {
            vd_graph_op(&g, 0, 2, base + 2 * level, &o);
            assert_int_equal(o.kind, VD_OP_HIST);
            assert_int_equal(o.level, level);
            assert_int_equal(o.by_mass, m);
            assert_int_equal(o.last_cut, m ? HEAD_OPS + 17 : VD_GRAPH_NO_OP);
            vd_graph_op(&g, 0, 2, base + 2 * level + 1, &o);
            assert_int_equal(o.kind, VD_OP_PICK);
            assert_int_equal(o.src2, base + 2 * level);
        }
        vd_graph_op(&g, 0, 2, base + 16, &o);
        assert_int_equal(o.kind, VD_OP_TIE);
        vd_graph_op(&g, 0, 2, base + 17, &o);
        assert_int_equal(o.kind, VD_OP_THRESHOLD);
    }
    vd_graph_op(&g, 0, 2, HEAD_OPS + 36, &o);
    assert_int_equal(o.kind, VD_OP_MASS);
    assert_int_equal(o.last_cut, HEAD_OPS + 35);
    vd_graph_op(&g, 0, 2, HEAD_OPS + 38, &o);
    assert_int_equal(o.kind, VD_OP_TOKEN);
    assert_int_equal(o.src2, HEAD_OPS + 37);
}

static bool place_before(struct vd_graph_place a, struct vd_graph_place b)
{
    return a.group < b.group || (a.group == b.group && a.member < b.member);
}

/* What is read of another unit is told by vd_graph_reads, hashed under that unit, and stands before. */
static void check_read(const struct vd_graph *g, uint32_t step, uint32_t unit,
                       const struct vd_graph_input *in)
{
    struct vd_graph_read read[VD_GRAPH_READS_MAX];
    unsigned n = vd_graph_reads(g, step, unit, read), n_outs;
    bool steps = in->kind == VD_IN_KV, told = false, bound = false;
    uint32_t from = steps ? (uint32_t)in->first : step, count = steps ? in->count : 1;
    struct vd_graph_op src;
    uint8_t ops[VD_GRAPH_OUTS_MAX];
    assert_true(unit >= in->back && count >= 1 && count <= 64);
    for (unsigned i = 0; i < n; i++)
        told |= read[i].unit == unit - in->back && read[i].op == in->op && from >= read[i].first &&
                from + count <= read[i].first + read[i].n;
    assert_true(told);
    for (uint32_t s = from; s < from + count; s++) {
        assert_true(place_before(vd_graph_place(g, s, unit - in->back), vd_graph_place(g, step, unit)));
        vd_graph_op(g, s, unit - in->back, in->op, &src);
        assert_true(steps ? in->leaf < vd_graph_leaves(&src) : in->first + in->count <= src.n_records);
        n_outs = vd_graph_outs(g, s, unit - in->back, ops);
        for (unsigned i = 0; i < n_outs; i++)
            bound |= ops[i] == in->op;
        assert_true(bound);
    }
}

/* Everything that a record reads stands before it in the total order, and exists. */
static void inputs_precede(const struct vd_graph *g, uint32_t step, uint32_t unit, uint32_t op,
                           uint64_t record)
{
    struct vd_graph_input in[VD_GRAPH_INPUTS_MAX];
    struct vd_graph_op o, src;
    vd_graph_op(g, step, unit, op, &o);
    unsigned n = vd_graph_inputs(g, step, &o, record, in);
    assert_true(n >= 1 || (o.kind == VD_OP_MASK_STATE && step + 1 == g->job.n_prompt));
    assert_true(VD_GRAPH_SRC_BACK(o.src) > 0 || o.src <= op);
    for (unsigned i = 0; i < n; i++) {
        switch (in[i].kind) {
        case VD_IN_OP:
            vd_graph_op(g, step, unit, in[i].op, &src);
            if (in[i].op == op)
                assert_true(in[i].first + in[i].count <= record);
            else
                assert_true(in[i].op < op);
            assert_true(src.n_records > 0); /* nobody reads what is absent */
            assert_true(in[i].dynamic || (in[i].count >= 1 && in[i].first + in[i].count <= src.n_records));
            break;
        case VD_IN_KV:
            if (o.kind == VD_OP_MASK_STATE) {
                assert_true(in[i].op == op && in[i].first + 1 >= g->job.n_prompt && in[i].first + 1 == step);
                break;
            }
            assert_true(o.first_key <= in[i].first);
            check_read(g, step, unit, &in[i]);
            break;
        case VD_IN_ROW:
            assert_true(in[i].back > 0);
            check_read(g, step, unit, &in[i]);
            break;
        case VD_IN_WEIGHT:
            assert_true(in[i].part < vd_tensor_parts(vd_program_tensor(g->program, in[i].tensor)));
            assert_true(in[i].dynamic || in[i].row < vd_program_tensor(g->program, in[i].tensor).rows);
            break;
        case VD_IN_TOKEN:
            assert_int_equal(in[i].first, step);
            break;
        case VD_IN_WINDOW:
            assert_true(in[i].count >= 1 && in[i].count <= VD_PENALTY_WINDOW &&
                        in[i].first + in[i].count == step + UINT64_C(1));
            break;
        case VD_IN_BIAS:
        case VD_IN_MASK:
            break;
        case VD_IN_TEXT:
            assert_int_equal(in[i - 1].kind, VD_IN_MASK);
            assert_true(in[i].dynamic || in[i].row < g->program->vocab);
            break;
        }
        for (unsigned j = 0; in[i].dynamic && j < i; j++) /* what it follows from */
            assert_true(in[j].kind == VD_IN_OP || in[j].kind == VD_IN_TOKEN || o.kind == VD_OP_MASK_STATE);
    }
}

static void every_input_precedes_its_record(void **state)
{
    const struct vd_program plain = program(2, 544, 4, 2, 96, 1056, 9000, VD_WTYPE_Q4_0);
    const struct vd_program blocks = program(2, 768, 8, 2, 64, 512, 9000, VD_WTYPE_Q4_K);
    const struct vd_program ps[] = {plain,
                                    program(1, 32, 1, 1, 32, 32, 1, VD_WTYPE_F16),
                                    all_features(plain, 0, 0, VD_WTYPE_Q4_0),
                                    all_features(plain, 40, 7, VD_WTYPE_F32),
                                    blocks,
                                    all_features(blocks, 512, 16, VD_WTYPE_Q6_K)};
    for (unsigned k = 0; k < 6; k++) {
        const uint32_t steps[] = {0, 1, 63, 64, 65, 99, 100, 130, 164, 200};
        assert_null(vd_program_check(&ps[k]));
        for (unsigned s = 0; s < 10; s++) {
            struct vd_graph g = graph(&ps[k], 65, 180, s & 1 ? greedy : all);
            struct vd_rng rng = {s, k};
            for (uint32_t u = 0; u < vd_graph_units(&g, steps[s]); u++)
                for (uint32_t op = 0; op < vd_graph_ops(&g, steps[s], u); op++) {
                    struct vd_graph_op o;
                    vd_graph_op(&g, steps[s], u, op, &o);
                    if (o.n_records == 0)
                        continue;
                    inputs_precede(&g, steps[s], u, op, 0);
                    inputs_precede(&g, steps[s], u, op, o.n_records - 1);
                    for (unsigned i = 0; i < 30; i++)
                        inputs_precede(&g, steps[s], u, op, vd_rng_below(&rng, o.n_records));
                }
        }
    }
}

/* ---- features ---- */

static uint64_t records_of_kind(const struct vd_graph *g, uint32_t step, uint32_t unit, enum vd_op kind)
{
    uint64_t n = 0;
    for (uint32_t op = 0; op < vd_graph_ops(g, step, unit); op++) {
        struct vd_graph_op o;
        vd_graph_op(g, step, unit, op, &o);
        n += o.kind == kind ? o.n_records : 0;
    }
    return n;
}

/* Which operators a feature adds, and how many records they have. */
static void features_call_for_operators(void **state)
{
    struct vd_program p = program(2, 512, 8, 2, 64, 256, 3000, VD_WTYPE_Q8_0);
    struct vd_graph g = graph(&p, 500, 10, greedy);
    static const enum vd_op extra[] = {VD_OP_BIAS,  VD_OP_HEAD_SCALE, VD_OP_HEAD_MUL, VD_OP_QUANT256,
                                       VD_OP_GEGLU, VD_OP_ROUTE,      VD_OP_MIX};
    for (unsigned i = 0; i < 7; i++)
        assert_int_equal(records_of_kind(&g, 505, 1, extra[i]), 0);
    assert_int_equal(records_of_kind(&g, 505, 3, VD_OP_CAP), 0);
    assert_int_equal(records_of_kind(&g, 505, 1, VD_OP_SUM), 512 + 128 + 128 + 512 + 256 + 256 + 512);
    p = all_features(p, 0, 0, VD_WTYPE_Q8_0);
    assert_int_equal(records_of_kind(&g, 505, 1, VD_OP_BIAS), 512 + 128 + 128);
    assert_int_equal(records_of_kind(&g, 505, 1, VD_OP_HEAD_SCALE), 8 + 2);
    assert_int_equal(records_of_kind(&g, 505, 1, VD_OP_HEAD_MUL), 512 + 128);
    assert_int_equal(records_of_kind(&g, 505, 1, VD_OP_GEGLU), 256);
    assert_int_equal(records_of_kind(&g, 505, 1, VD_OP_SWIGLU), 0);
    assert_int_equal(records_of_kind(&g, 505, 1, VD_OP_NORM_MUL), 4 * 512);
    assert_int_equal(records_of_kind(&g, 505, 3, VD_OP_CAP), 3000);
    p = all_features(p, 20, 3, VD_WTYPE_Q8_0);
    assert_int_equal(records_of_kind(&g, 505, 1, VD_OP_ROUTE), 1);
    assert_int_equal(records_of_kind(&g, 505, 1, VD_OP_MIX), 512);
    assert_int_equal(records_of_kind(&g, 505, 1, VD_OP_GEGLU), 3 * 256);
    assert_int_equal(records_of_kind(&g, 505, 1, VD_OP_SUM),
                     512 + 128 + 128 + 512 + 20 + 3 * (256 + 256 + 512));
}

/* A quantiser is there if one of its products takes its blocks, beside the other if they differ. */
static void quantisers_follow_the_types(void **state)
{
    struct vd_program p = program(2, 512, 8, 2, 64, 256, 3000, VD_WTYPE_Q4_K);
    struct vd_graph g = graph(&p, 5, 1, greedy);
    assert_int_equal(records_of_kind(&g, 4, 1, VD_OP_QROW), 8 * 64 / 32);
    assert_int_equal(records_of_kind(&g, 4, 1, VD_OP_QUANT), 0);
    assert_int_equal(records_of_kind(&g, 4, 1, VD_OP_QUANT256), (512 + 512 + 512 + 256) / 256);
    assert_int_equal(records_of_kind(&g, 4, 3, VD_OP_QUANT), 0);
    p.types[vd_program_layer_tensor(&p, 0, VD_T_FFN_UP)] = VD_WTYPE_Q5_0;
    p.types[vd_program_layer_tensor(&p, 0, VD_T_FFN_DOWN)] = VD_WTYPE_F16;
    assert_int_equal(records_of_kind(&g, 4, 1, VD_OP_QUANT), 512 / 32);
    assert_int_equal(records_of_kind(&g, 4, 1, VD_OP_QUANT256), (512 + 512 + 512) / 256);
    assert_int_equal(records_of_kind(&g, 4, 2, VD_OP_QUANT), 0);
    p.types[vd_program_head_tensor(&p)] = VD_WTYPE_Q8_0;
    assert_int_equal(records_of_kind(&g, 4, 3, VD_OP_QUANT), 512 / 32);
    assert_int_equal(records_of_kind(&g, 4, 3, VD_OP_QUANT256), 0);
}

/* A window cuts the keys of its layers only, and its first chunk where it begins. */
static void windows(void **state)
{
    struct vd_program p = program(2, 64, 4, 2, 32, 64, 100, VD_WTYPE_F32);
    struct vd_graph g = graph(&p, 300, 200, greedy);
    struct vd_graph_op o;
    p.window = 100;
    p.layer_flags[0] = VD_LAYER_WINDOW;
    assert_int_equal(records_of_kind(&g, 400, 1, VD_OP_SCORE), 4 * 100);
    assert_int_equal(records_of_kind(&g, 99, 1, VD_OP_SCORE), 4 * 100);
    assert_int_equal(records_of_kind(&g, 50, 1, VD_OP_SCORE), 4 * 51);
    assert_int_equal(records_of_kind(&g, 400, 2, VD_OP_CHUNK), 4 * 7);
    assert_int_equal(records_of_kind(&g, 400, 1, VD_OP_CHUNK), 4 * 3); /* 301 .. 400: chunks 4, 5, 6 */
    find_op(&g, 400, 1, VD_OP_CHUNK, &o);
    const struct {
        uint64_t record;
        uint32_t head, from, n;
        uint64_t first_score;
    } want[] = {{0, 0, 301, 19, 0}, {1, 0, 320, 64, 19}, {2, 0, 384, 17, 83}, {10, 3, 320, 64, 319}};
    for (unsigned i = 0; i < 4; i++) {
        struct vd_graph_chunk c = vd_graph_chunk(&o, want[i].record);
        assert_int_equal(c.head, want[i].head);
        assert_int_equal(c.from, want[i].from);
        assert_int_equal(c.n, want[i].n);
        assert_int_equal(c.first_score, want[i].first_score);
        assert_int_equal(c.is_first, want[i].record == 0);
    }
    p.window = 1;
    assert_int_equal(records_of_kind(&g, 400, 1, VD_OP_SCORE), 4);
    assert_int_equal(records_of_kind(&g, 400, 1, VD_OP_MERGE), 4);
}

/* The rows of gate and up run through a slot, those of down through the slots of an output. */
static void slots_of_experts(void **state)
{
    struct vd_program p = all_features(program(1, 64, 2, 1, 32, 96, 50, VD_WTYPE_Q8_0), 8, 3, VD_WTYPE_Q8_0);
    struct vd_graph g = graph(&p, 5, 1, greedy);
    struct vd_graph_op o;
    struct vd_graph_input in[VD_GRAPH_INPUTS_MAX];
    unsigned seen = 0;
    for (uint32_t op = 0; op < vd_graph_ops(&g, 4, 1); op++) {
        vd_graph_op(&g, 4, 1, op, &o);
        if (o.kind != VD_OP_PART || !o.n_slots)
            continue;
        seen++;
        for (uint64_t r = 0; r < o.n_records; r++) { /* one segment: a record is a row */
            struct vd_graph_slot s = vd_graph_slot(&o, (uint32_t)r);
            bool down = o.cols == 96;
            assert_int_equal(r, down ? s.row * 3 + s.slot : s.slot * 96 + s.row);
            assert_int_equal(s.expert_rows, down ? 64 : 96);
            assert_int_equal(vd_graph_inputs(&g, 4, &o, r, in), 3);
            assert_true(in[0].op == o.route && in[1].dynamic);
            assert_int_equal(in[2].first, down ? s.slot * 3 : 0);
            assert_int_equal(in[2].count, down ? 3 : 2);
        }
    }
    assert_int_equal(seen, 3);
}

/* ---- bounds ---- */

static size_t proof_bytes(uint64_t n, uint64_t first, uint64_t count)
{
    return 32 * vd_merkle_range_proof_len(n, first, count);
}

static size_t records_bytes(const struct vd_graph_op *o, uint64_t first, uint32_t count)
{
    uint64_t k0 = first / o->leaf_records, k1 = (first + count - 1) / o->leaf_records;
    size_t n = proof_bytes(vd_graph_leaves(o), k0, k1 - k0 + 1);
    assert_true(k1 - k0 < 16);
    for (uint64_t k = k0; k <= k1; k++)
        n += vd_graph_leaf_bytes(o, k);
    return n;
}

/* From units at steps [first, first + count) up to the state root, or to the root of `own`. */
static size_t climb_bytes(const struct vd_graph *g, struct vd_graph_place own, uint32_t unit, uint32_t first,
                          uint32_t count)
{
    struct vd_graph_place a = vd_graph_place(g, first, unit), b = vd_graph_place(g, first + count - 1, unit);
    size_t n = 0;
    for (uint32_t i = a.group; i <= b.group; i++)
        n += proof_bytes(vd_graph_members(g, i), a.member, a.group == b.group ? b.member - a.member + 1 : 1);
    return n + (a.group == own.group ? 0 : proof_bytes(vd_graph_groups(g), a.group, b.group - a.group + 1));
}

static size_t input_bytes(const struct vd_graph *g, uint32_t step, uint32_t unit, struct vd_graph_input in)
{
    struct vd_graph_op o;
    struct vd_graph_place own = vd_graph_place(g, step, unit);
    if (in.dynamic && in.kind == VD_IN_OP)
        in.count = VD_SAMPLE_TILE;
    switch (in.kind) {
    case VD_IN_OP:
        vd_graph_op(g, step, unit, in.op, &o);
        return records_bytes(&o, in.first, in.count);
    case VD_IN_ROW:
        vd_graph_op(g, step, unit - in.back, in.op, &o);
        return records_bytes(&o, in.first, in.count) + 64 + climb_bytes(g, own, unit - in.back, step, 1);
    case VD_IN_KV:
        vd_graph_op(g, (uint32_t)in.first, unit - in.back, in.op, &o);
        return in.count * (32 + vd_graph_leaf_bytes(&o, in.leaf) +
                           proof_bytes(vd_graph_leaves(&o), in.leaf, 1) + 64) +
               climb_bytes(g, own, unit - in.back, (uint32_t)in.first, in.count);
    case VD_IN_WEIGHT: {
        struct vd_tensor_shape t = vd_program_tensor(g->program, in.tensor);
        uint64_t parts = vd_tensor_parts(t);
        return vd_tensor_part_bytes(t, in.part) + proof_bytes(t.rows * parts, in.row * parts + in.part, 1) +
               proof_bytes(g->program->n_tensors, in.tensor, 1);
    }
    case VD_IN_TOKEN:
        return 4 + proof_bytes(g->job.n_prompt, 0, 1);
    case VD_IN_WINDOW:
        return in.count * 36 + 2 * 32 * 40;
    case VD_IN_BIAS:
        return 4 + VD_BIAS_MAX * VD_BIAS_ENTRY_BYTES;
    case VD_IN_MASK:
        return 4 + VD_MASK_BYTES_MAX;
    case VD_IN_TEXT:
        return 2 + VD_TOKEN_TEXT_MAX_BYTES + proof_bytes(g->program->vocab, in.row, 1);
    }
    return 0;
}

static size_t opening_bytes(const struct vd_graph *g, uint32_t step, uint32_t unit, uint32_t op,
                            uint64_t record)
{
    struct vd_graph_input in[VD_GRAPH_INPUTS_MAX];
    struct vd_graph_op o;
    size_t total = 0;
    vd_graph_op(g, step, unit, op, &o);
    unsigned n = vd_graph_inputs(g, step, &o, record, in);
    for (unsigned i = 0; i < n; i++)
        total += input_bytes(g, step, unit, in[i]);
    return total;
}

/* Everything of one program at one step: leaves, trees and openings. Returns the largest opening. */
static size_t check_bounds(const char *name, const struct vd_graph *g, uint32_t step, uint64_t seed)
{
    size_t most = 0;
    struct vd_rng rng = {seed, 0};
    uint32_t last = vd_graph_last_block(g);
    assert_true(vd_graph_groups(g) <= 1 << 20 && vd_graph_members(g, 0) <= 1 << 20);
    for (uint32_t u = 0; u < vd_graph_units(g, step); u += u < 4 || u + 3 > last ? 1 : 50)
        for (uint32_t op = 0; op < vd_graph_ops(g, step, u); op++) {
            struct vd_graph_op o;
            vd_graph_op(g, step, u, op, &o);
            assert_true((size_t)o.leaf_records * o.record_bytes <= VD_GRAPH_LEAF_BYTES_MAX);
            assert_true(o.record_bytes <= VD_GRAPH_RECORD_BYTES_MAX);
            assert_true(vd_graph_leaves(&o) <= 1 << 20); /* two descents of ten levels */
            for (unsigned k = 0; k < 24 && o.n_records; k++) {
                uint64_t r = k == 0   ? 0
                             : k == 1 ? o.n_records - 1
                             : k < 8  ? (k - 1) * (o.n_records / 7)
                                      : vd_rng_below(&rng, o.n_records);
                size_t n = opening_bytes(g, step, u, op, r);
                most = n > most ? n : most;
                if (n > 64 << 10)
                    fail_msg("%s, %s: %zu bytes", name, vd_op_name(o.kind), n);
            }
        }
    return most;
}

/* The limits themselves, in every combination that makes something larger. */
static void the_largest_programs_stay_within_bounds(void **state)
{
    static const uint32_t hds[] = {32, 64, 96, 224, 256};
    static const enum vd_wtype types[] = {VD_WTYPE_F32, VD_WTYPE_Q8_0, VD_WTYPE_Q6_K};
    size_t most = 0;
    for (unsigned i = 0; i < 45; i++) {
        struct vd_program p =
            program(256, 16384, 256, i % 2 ? 256 : 1, hds[i % 5], 65536, 1 << 20, types[i / 15]);
        if (i / 5 % 3)
            p = all_features(p, i / 5 % 3 == 2 ? 512 : 0, i / 5 % 3 == 2 ? 16 : 0, types[i / 15]);
        p.window = p.window ? (1 << 20) - 1 - i : 0;
        struct vd_graph g = graph(&p, (1 << 20) - 5, 6, all);
        assert_null(vd_program_check(&p));
        assert_true(vd_graph_valid(&g));
        const uint32_t steps[] = {g.job.n_steps - 1, (1 << 19) + 77};
        for (unsigned s = 0; s < 2; s++) {
            size_t n = check_bounds("limits", &g, steps[s], i);
            most = n > most ? n : most;
        }
    }
    print_message("    the largest opening: %zu bytes\n", most);
}

/* A vector of the widest program, and what its pooling unit is made of. */
static void vectors(void **state)
{
    struct vd_program p = program(2, 16384, 256, 1, 64, 64, 1 << 20, VD_WTYPE_Q8_0);
    for (unsigned i = 0; i < 2; i++) {
        bool mean = i == 1;
        struct vd_graph g = graph(&p, 700, 16384, (struct vd_sampling){.top_p_micro = VD_SAMPLE_MICRO});
        g.job.sampling.pooling = mean ? VD_POOLING_MEAN : VD_POOLING_LAST;
        g.job.n_steps = 700;
        g.job.max_tokens = 16384;
        assert_true(vd_graph_valid(&g));
        uint8_t ops[VD_GRAPH_OUTS_MAX];
        struct vd_graph_op o;
        assert_int_equal(vd_graph_has_head(&g, 3), mean);
        assert_int_equal(vd_graph_units(&g, 3), mean ? 4 : 3);
        assert_int_equal(vd_graph_ops(&g, 699, 3), 7);
        assert_int_equal(vd_graph_outs(&g, 699, 3, ops), mean ? 2 : 1);
        vd_graph_op(&g, 699, 3, ops[mean], &o);
        assert_int_equal(o.kind, VD_OP_VECTOR);
        assert_int_equal(o.n_records, 16384);
        assert_int_equal(o.leaf_records, 1);
        vd_graph_op(&g, 699, 3, 3, &o);
        assert_int_equal(o.n_records, mean ? 512 : 0);
        if (mean) {
            assert_int_equal(vd_graph_ops(&g, 3, 3), 4); /* ends with POOL */
            assert_int_equal(vd_graph_outs(&g, 3, 3, ops), 1);
            check_bounds("a mean", &g, 3, 5);
        }
        check_bounds("a vector", &g, 699, 6);
    }
}

/* ---- encoders ---- */

enum { QKV_OPS = 16, REST_OPS = 36, ENCODER_EMBED_OPS = 8 };

static void units_of_an_encoder(void **state)
{
    struct vd_program p =
        encoder(program(12, 768, 12, 12, 64, 3072, 30522, VD_WTYPE_Q8_0), false, VD_WTYPE_Q8_0);
    struct vd_graph g = vector_graph(&p, 100, VD_POOLING_MEAN);
    struct vd_graph_op o;
    uint8_t ops[VD_GRAPH_OUTS_MAX];
    assert_null(vd_program_check(&p));
    assert_true(vd_graph_valid(&g));
    assert_int_equal(vd_graph_units(&g, 5), 26);
    assert_int_equal(vd_graph_last_block(&g), 24);
    assert_int_equal(vd_graph_layer(&g, 23), 11);
    assert_int_equal(vd_graph_layer(&g, 24), 11);
    assert_int_equal(vd_graph_ops(&g, 5, 0), ENCODER_EMBED_OPS);
    assert_int_equal(vd_graph_ops(&g, 5, 23), QKV_OPS);
    assert_int_equal(vd_graph_ops(&g, 5, 24), REST_OPS);
    assert_int_equal(vd_graph_ops(&g, 5, 25), 4);
    assert_int_equal(vd_graph_ops(&g, 99, 25), 7);
    assert_int_equal(vd_graph_outs(&g, 5, 23, ops), 3);
    assert_int_equal(vd_graph_outs(&g, 5, 24, ops), 1);
    assert_int_equal(ops[0], REST_OPS - 1);
    assert_true(vd_graph_has_row(&g, 5));
    find_op(&g, 5, 24, VD_OP_SCORE, &o);
    assert_int_equal(o.n_records, 12 * 100); /* every position, whatever the step */
    find_op(&g, 5, 24, VD_OP_MERGE, &o);
    assert_int_equal(o.n_records, 12 * 2);
    find_op(&g, 5, 24, VD_OP_GELU, &o);
    assert_int_equal(o.n_records, 3072);
    assert_int_equal(records_of_kind(&g, 5, 24, VD_OP_SUM), 768 + 3072 + 768);
    assert_int_equal(records_of_kind(&g, 5, 24, VD_OP_BIAS), 768 + 3072 + 768);
    assert_int_equal(records_of_kind(&g, 5, 23, VD_OP_BIAS), 3 * 768);
    assert_int_equal(records_of_kind(&g, 5, 23, VD_OP_ROPE), 0);
    assert_int_equal(records_of_kind(&g, 5, 24, VD_OP_LN_MUL), 2 * 768);
    assert_int_equal(records_of_kind(&g, 5, 0, VD_OP_POSITION), 768);
    assert_int_equal(records_of_kind(&g, 5, 25, VD_OP_NORM_MUL), 0); /* the rows are normed */
    assert_int_equal(records_of_kind(&g, 5, 25, VD_OP_POOL), 24);
    p = encoder(program(12, 768, 12, 12, 64, 3072, 30522, VD_WTYPE_Q8_0), true, VD_WTYPE_F16);
    assert_int_equal(records_of_kind(&g, 5, 24, VD_OP_SUM), 768 + 2 * 3072 + 768);
    assert_int_equal(records_of_kind(&g, 5, 24, VD_OP_SWIGLU), 3072);
    assert_int_equal(records_of_kind(&g, 5, 24, VD_OP_GELU), 0);
    assert_int_equal(records_of_kind(&g, 5, 24, VD_OP_BIAS), 0);
    assert_int_equal(records_of_kind(&g, 5, 24, VD_OP_QUANT), 0);
    assert_int_equal(records_of_kind(&g, 5, 23, VD_OP_ROPE), 2 * 768);
    assert_int_equal(records_of_kind(&g, 5, 0, VD_OP_POSITION), 0);
    p.ffn_bias = true;
    set_types(&p, VD_WTYPE_F16, false);
    assert_int_equal(records_of_kind(&g, 5, 24, VD_OP_BIAS), 2 * 3072 + 768);
}

/* An encoder pools, always; a decoder's first position is no result. */
static void jobs_of_encoders(void **state)
{
    struct vd_program d = program(1, 64, 2, 1, 32, 64, 100, VD_WTYPE_F32),
                      p = encoder(d, false, VD_WTYPE_F32);
    struct vd_graph g = graph(&p, 4, 1, greedy);
    assert_false(vd_graph_valid(&g));
    for (unsigned i = VD_POOLING_LAST; i <= VD_POOLING_CLS; i++) {
        g = vector_graph(&p, 2048, (enum vd_pooling)i);
        assert_true(vd_graph_valid(&g));
        g = vector_graph(&p, 2049, (enum vd_pooling)i);
        assert_false(vd_graph_valid(&g));
        g = vector_graph(&d, 4, (enum vd_pooling)i);
        assert_int_equal(vd_graph_valid(&g), i != VD_POOLING_CLS);
    }
}

/* Groups and members name every unit once, in an order in which everything stands before its readers. */
static void places_of(const struct vd_graph *g)
{
    uint32_t n = 0, total = 0, step, unit;
    for (uint32_t s = 0; s < g->job.n_steps; s++)
        total += vd_graph_units(g, s);
    for (uint32_t i = 0; i < vd_graph_groups(g); i++)
        for (uint32_t k = 0; k < vd_graph_members(g, i); k++, n++) {
            vd_graph_at(g, (struct vd_graph_place){i, k}, &step, &unit);
            assert_true(step < g->job.n_steps && unit < vd_graph_units(g, step));
            struct vd_graph_place back = vd_graph_place(g, step, unit);
            assert_true(back.group == i && back.member == k);
        }
    assert_int_equal(n, total);
}

static void every_input_of_an_encoder_precedes(void **state)
{
    const struct vd_program shape = program(2, 1056, 4, 2, 96, 544, 300, VD_WTYPE_Q4_0);
    const uint32_t lengths[] = {1, 2, 64, 65, 130};
    for (unsigned k = 0; k < 30; k++) {
        struct vd_program p = encoder(shape, k & 1, k & 1 ? VD_WTYPE_Q4_0 : VD_WTYPE_F32);
        struct vd_graph g = vector_graph(&p, lengths[k / 2 % 5], (enum vd_pooling)(1 + k / 10));
        uint32_t n = g.job.n_steps;
        const uint32_t steps[] = {0, n / 2, n - 1};
        struct vd_rng rng = {k, 3};
        assert_null(vd_program_check(&p));
        places_of(&g);
        for (unsigned s = 0; s < 3; s++)
            for (uint32_t u = 0; u < vd_graph_units(&g, steps[s]); u++)
                for (uint32_t op = 0; op < vd_graph_ops(&g, steps[s], u); op++) {
                    struct vd_graph_op o;
                    vd_graph_op(&g, steps[s], u, op, &o);
                    for (unsigned i = 0; o.n_records && i < 12; i++)
                        inputs_precede(&g, steps[s], u, op,
                                       i == 0   ? 0
                                       : i == 1 ? o.n_records - 1
                                                : vd_rng_below(&rng, o.n_records));
                }
    }
    struct vd_program d = program(2, 64, 2, 1, 32, 64, 100, VD_WTYPE_F32);
    struct vd_graph g = graph(&d, 5, 4, greedy);
    places_of(&g);
    g = vector_graph(&d, 5, VD_POOLING_LAST);
    places_of(&g);
}

/* Moves of the worker until a record is left: STATE and NODES, UNITS, OPS, LEAVES, RECORDS; ten levels each.
 */
static unsigned moves_to(const struct vd_graph *g, struct vd_graph_place at, uint64_t n_leaves)
{
    const uint64_t trees[] = {vd_graph_groups(g), vd_graph_members(g, at.group), n_leaves};
    unsigned n = 2;
    for (unsigned i = 0; i < 3; i++) {
        unsigned levels = 0;
        while (UINT64_C(1) << levels < trees[i])
            levels++;
        n += i == 2 ? (levels + 9) / 10 : levels <= 10 ? 1 : (levels + 9) / 10;
    }
    return n;
}

/* The widest, deepest and longest encoders there are: openings of 64 KiB, seven moves. */
static void the_largest_encoders_stay_within_bounds(void **state)
{
    static const enum vd_wtype types[] = {VD_WTYPE_F32, VD_WTYPE_Q8_0, VD_WTYPE_Q6_K};
    static const uint32_t hds[] = {32, 64, 96, 224, 256};
    size_t most = 0;
    unsigned most_moves = 0;
    for (unsigned i = 0; i < 30; i++) {
        struct vd_program p =
            encoder(program(256, 16384, 256, i % 2 ? 256 : 1, hds[i % 5], 65536, 1 << 20, types[i % 3]),
                    i / 15, types[i % 3]);
        struct vd_graph g = vector_graph(&p, 2048, (enum vd_pooling)(1 + i % 3));
        assert_null(vd_program_check(&p));
        assert_true(vd_graph_valid(&g));
        const uint32_t steps[] = {0, 1025, 2047};
        for (unsigned s = 0; s < 3; s++) {
            size_t n = check_bounds("encoder", &g, steps[s], i);
            most = n > most ? n : most;
            for (uint32_t u = 0; u < vd_graph_units(&g, steps[s]); u += u < 3 || u > 500 ? 1 : 50)
                for (uint32_t op = 0; op < vd_graph_ops(&g, steps[s], u); op++) {
                    struct vd_graph_op o;
                    vd_graph_op(&g, steps[s], u, op, &o);
                    unsigned moves = moves_to(&g, vd_graph_place(&g, steps[s], u), vd_graph_leaves(&o));
                    most_moves = moves > most_moves ? moves : most_moves;
                }
        }
    }
    print_message("    the largest opening of an encoder: %zu bytes; moves: %u\n", most, most_moves);
    assert_int_equal(most_moves, 7);
}

struct known_shape {
    const char *name;
    uint32_t layers, width, heads, kv_heads, head_dim, ff, vocab, ctx, window, n_experts, n_used;
    enum vd_act act;
    bool qk_norm, post_norms, qkv_bias;
    float attn_cap, logit_cap;
};

static const struct known_shape shapes[] = {
    {"Llama-3-70B", 80, 8192, 64, 8, 128, 28672, 128256, 131072, 0, 0, 0, VD_ACT_SILU, 0, 0, 0, 0, 0},
    {"Gemma-3-27B", 62, 5376, 32, 16, 128, 21504, 262208, 131072, 1024, 0, 0, VD_ACT_GELU, 1, 1, 0, 0, 0},
    {"Gemma-2-27B", 46, 4608, 32, 16, 128, 36864, 256000, 8192, 4096, 0, 0, VD_ACT_GELU, 0, 1, 0, 50, 30},
    {"Qwen2.5-72B", 80, 8192, 64, 8, 128, 29568, 152064, 131072, 0, 0, 0, VD_ACT_SILU, 0, 0, 1, 0, 0},
    {"Qwen3-235B-A22B", 94, 4096, 64, 4, 128, 1536, 151936, 131072, 0, 128, 8, VD_ACT_SILU, 1, 0, 0, 0, 0},
    {"Mixtral-8x22B", 56, 6144, 48, 8, 128, 16384, 32768, 65536, 0, 8, 2, VD_ACT_SILU, 0, 0, 0, 0, 0},
    {"Phi-3-mini", 32, 3072, 32, 32, 96, 8192, 32064, 131072, 2047, 0, 0, VD_ACT_SILU, 0, 0, 0, 0, 0},
    {"wide", 256, 8192, 32, 32, 256, 65536, 262144, 131072, 1024, 0, 0, VD_ACT_GELU, 1, 1, 1, 50, 30},
};

static void known_models_stay_within_bounds(void **state)
{
    static const enum vd_wtype types[] = {VD_WTYPE_F32, VD_WTYPE_Q8_0, VD_WTYPE_Q4_K};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes * 3; i++) {
        const struct known_shape *k = &shapes[i / 3];
        struct vd_program p =
            program(k->layers, k->width, k->heads, k->kv_heads, k->head_dim, k->ff, k->vocab, VD_WTYPE_F32);
        p.ctx = k->ctx;
        p.window = k->window;
        for (uint32_t l = 0; l < p.n_layers && k->window; l += l % 6 == 4 ? 2 : 1)
            p.layer_flags[l] = VD_LAYER_WINDOW;
        p.n_experts = k->n_experts;
        p.n_used = k->n_used;
        p.act = k->act;
        p.qk_norm = k->qk_norm;
        p.post_norms = k->post_norms;
        p.qkv_bias = k->qkv_bias;
        p.attn_cap = k->attn_cap;
        p.logit_cap = k->logit_cap;
        set_types(&p, types[i % 3], false);
        struct vd_graph g = graph(&p, p.ctx - 5, 6, all);
        assert_null(vd_program_check(&p));
        assert_true(vd_graph_valid(&g));
        size_t n = check_bounds(k->name, &g, p.ctx - 1, i);
        if (i % 3 == 0)
            print_message("    %s: openings up to %zu bytes\n", k->name, n);
    }
}

static void stops(void **state)
{
    struct vd_program p = program(1, 32, 1, 1, 32, 32, 100, VD_WTYPE_F32);
    p.n_stop = 2;
    p.stop[0] = 3;
    p.stop[1] = 50;
    struct vd_graph g = graph(&p, 4, 3, greedy);
    g.job.max_tokens = 3;
    assert_int_equal(vd_graph_stop(&g, 3, 7), VD_STOP_NONE);
    assert_int_equal(vd_graph_stop(&g, 3, 50), VD_STOP_TOKEN);
    assert_int_equal(vd_graph_stop(&g, 4, 7), VD_STOP_NONE);
    assert_int_equal(vd_graph_stop(&g, 5, 7), VD_STOP_LENGTH);
    assert_int_equal(vd_graph_stop(&g, 5, 3), VD_STOP_TOKEN);
    assert_int_equal(vd_graph_stop(&g, 3, UINT32_MAX), VD_STOP_FAIL);
}

static void jobs_that_do_not_fit(void **state)
{
    struct vd_program p = program(1, 32, 1, 1, 32, 32, 100, VD_WTYPE_F32);
    p.ctx = 10;
    struct vd_graph g = graph(&p, 4, 7, greedy);
    assert_true(vd_graph_valid(&g)); /* 10 positions are fed */
    g = graph(&p, 4, 8, greedy);
    assert_false(vd_graph_valid(&g));
    g = graph(&p, 4, 3, greedy);
    g.job.max_tokens = 2;
    assert_false(vd_graph_valid(&g));
    g = graph(&p, 4, 3, greedy);
    g.job.n_steps = 8;
    assert_false(vd_graph_valid(&g));
    g = graph(&p, 1, 0, greedy); /* nothing was fed */
    assert_false(vd_graph_valid(&g));
    g.job.n_steps = 1; /* FAIL at once */
    assert_true(vd_graph_valid(&g));
}

/* ---- hashes ---- */

static void hashes_are_those_of_the_spec(void **state)
{
    static const uint8_t job_salt[32] = {1, 2, 3};
    uint8_t msg[256], *p = msg;
    struct vd_hash salt, h, want;
    memcpy(msg, "veridem/salt\0\x05\0\0\0", 17);
    want = vd_hmac_sha256(job_salt, 32, msg, 17);
    salt = vd_trace_salt(job_salt, 5);
    assert_memory_equal(salt.b, want.b, 32);

    memcpy(p, "\0veridem/leaf\0", 14);
    memcpy(p + 14, salt.b, 32);
    memcpy(p + 46, "\x05\0\0\0\x02\0\0\0\x0d\0\0\0\x01\0\0\0ab", 18);
    want = vd_sha256_of(msg, 64);
    struct vd_trace_at at = {salt, 5, 2, 13};
    h = vd_trace_leaf(&at, 1, "ab", 2);
    assert_memory_equal(h.b, want.b, 32);

    memcpy(p, "\0veridem/token\0", 15);
    memcpy(p + 15, salt.b, 32);
    memcpy(p + 47, "\x05\0\0\0\x2a\0\0\0", 8);
    want = vd_sha256_of(msg, 55);
    h = vd_token_leaf(&salt, 5, 42);
    assert_memory_equal(h.b, want.b, 32);

    memcpy(p, "\0veridem/commit\0\x05\0\0\0", 20);
    memcpy(p + 20, salt.b, 32);
    memset(p + 52, 0, 32);
    want = vd_sha256_of(msg, 84);
    h = vd_commit_leaf(5, &salt, NULL);
    assert_memory_equal(h.b, want.b, 32);

    struct vd_hash leaf[3];
    for (uint32_t k = 0; k < 3; k++)
        leaf[k] = vd_trace_leaf(&at, k, &"abcde"[2 * k], k == 2 ? 1 : 2);
    want = vd_merkle_root(leaf, 3);
    h = vd_trace_op_root(&at, "abcde", 5, 2);
    assert_memory_equal(h.b, want.b, 32);
    h = vd_token_root(job_salt, 0, NULL, 0);
    assert_true(vd_hash_is_zero(&h));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_of_a_known_model),
        cmocka_unit_test(sampling_order),
        cmocka_unit_test(every_input_precedes_its_record),
        cmocka_unit_test(features_call_for_operators),
        cmocka_unit_test(quantisers_follow_the_types),
        cmocka_unit_test(windows),
        cmocka_unit_test(slots_of_experts),
        cmocka_unit_test(vectors),
        cmocka_unit_test(the_largest_programs_stay_within_bounds),
        cmocka_unit_test(known_models_stay_within_bounds),
        cmocka_unit_test(units_of_an_encoder),
        cmocka_unit_test(jobs_of_encoders),
        cmocka_unit_test(every_input_of_an_encoder_precedes),
        cmocka_unit_test(the_largest_encoders_stay_within_bounds),
        cmocka_unit_test(stops),
        cmocka_unit_test(jobs_that_do_not_fit),
        cmocka_unit_test(hashes_are_those_of_the_spec),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
