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

static struct vd_program program(uint32_t layers, uint32_t width, uint32_t heads, uint32_t kv_heads,
                                 uint32_t hd, uint32_t ff, uint32_t vocab, enum vd_wtype type)
{
    struct vd_program p = {VD_PROGRAM_PLAIN,       .n_layers = layers,
                           .width = width,         .n_heads = heads,
                           .n_kv_heads = kv_heads, .head_dim = hd,
                           .ff_width = ff,         .vocab = vocab,
                           .ctx = 1 << 20,         .rope_pairing = VD_ROPE_HALVES,
                           .n_rope = hd / 2,       .eps = 1e-5f,
                           .attn_scale = 0.125f,   .n_tensors = 3 + 9 * layers};
    for (uint32_t i = 0; i < p.n_tensors; i++)
        p.types[i] = (uint8_t)type;
    for (uint32_t l = 0; l < layers; l++)
        p.types[vd_program_layer_tensor(&p, l, VD_T_ATTN_NORM)] =
            p.types[vd_program_layer_tensor(&p, l, VD_T_FFN_NORM)] = 0;
    p.types[vd_program_norm_tensor(&p)] = 0;
    return p;
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
static const struct vd_sampling all = {.temp_micro = 1, .top_k = 5, .top_p_micro = 1};

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
    assert_int_equal(vd_graph_ops(&g, 5, 30), 15);
    assert_int_equal(vd_graph_ops(&g, 5, 29), 37);
    assert_int_equal(vd_graph_ops(&g, 127, 30), 37);
    assert_int_equal(vd_graph_ops(&g, 127, 31), 8 + 2 * 18 + 3);
    vd_graph_op(&g, 127, 31, 4, &o);
    assert_int_equal(o.kind, VD_OP_PART);
    assert_int_equal(o.n_records, 49152 * 2);
    assert_int_equal(vd_graph_leaves(&o), 96);
    vd_graph_op(&g, 200, 3, 15, &o);
    assert_int_equal(o.kind, VD_OP_SCORE);
    assert_int_equal(o.n_records, 9 * 201);
    vd_graph_op(&g, 200, 3, 18, &o);
    assert_int_equal(o.kind, VD_OP_MERGE);
    assert_int_equal(o.n_records, 9 * 4);
    g.job.sampling = greedy;
    assert_int_equal(vd_graph_ops(&g, 127, 31), 9);
    g.job.sampling = (struct vd_sampling){.temp_micro = 1, .top_k = 49152, .top_p_micro = 1000000};
    assert_int_equal(vd_graph_ops(&g, 127, 31), 8 + 3);
}

static void sampling_order(void **state)
{
    struct vd_program p = program(1, 32, 1, 1, 32, 32, 9000, VD_WTYPE_Q8_0);
    struct vd_graph g = graph(&p, 1, 1, all);
    struct vd_graph_op o;
    for (unsigned m = 0; m < 2; m++) {
        uint32_t base = 8 + 18 * m;
        for (unsigned level = 0; level < 8; level++) {
            vd_graph_op(&g, 0, 2, base + 2 * level, &o);
            assert_int_equal(o.kind, VD_OP_HIST);
            assert_int_equal(o.level, level);
            assert_int_equal(o.by_mass, m);
            assert_int_equal(o.last_cut, m ? 25 : VD_GRAPH_NO_OP);
            vd_graph_op(&g, 0, 2, base + 2 * level + 1, &o);
            assert_int_equal(o.kind, VD_OP_PICK);
            assert_int_equal(o.src2, base + 2 * level);
        }
        vd_graph_op(&g, 0, 2, base + 16, &o);
        assert_int_equal(o.kind, VD_OP_TIE);
        vd_graph_op(&g, 0, 2, base + 17, &o);
        assert_int_equal(o.kind, VD_OP_THRESHOLD);
    }
    vd_graph_op(&g, 0, 2, 44, &o);
    assert_int_equal(o.kind, VD_OP_MASS);
    assert_int_equal(o.last_cut, 43);
    vd_graph_op(&g, 0, 2, 46, &o);
    assert_int_equal(o.kind, VD_OP_TOKEN);
    assert_int_equal(o.src2, 45);
}

/* Everything that a record reads stands before it in the total order, and exists. */
static void inputs_precede(const struct vd_graph *g, uint32_t step, uint32_t unit, uint32_t op,
                           uint64_t record)
{
    struct vd_graph_input in[VD_GRAPH_INPUTS_MAX];
    struct vd_graph_op o, src;
    vd_graph_op(g, step, unit, op, &o);
    unsigned n = vd_graph_inputs(g, step, &o, record, in);
    assert_true(n >= 1);
    for (unsigned i = 0; i < n; i++) {
        switch (in[i].kind) {
        case VD_IN_OP:
            vd_graph_op(g, step, unit, in[i].op, &src);
            if (in[i].op == op)
                assert_true(in[i].first + in[i].count <= record);
            else
                assert_true(in[i].op < op);
            assert_true(in[i].dynamic || (in[i].count >= 1 && in[i].first + in[i].count <= src.n_records));
            break;
        case VD_IN_ROW:
            assert_true(unit > 0);
            vd_graph_op(g, step, unit - 1, vd_graph_row_op(g, unit - 1), &src);
            assert_true(in[i].first + in[i].count <= src.n_records && src.kind != VD_OP_VROW);
            break;
        case VD_IN_KV:
            assert_true(in[i].count >= 1 && in[i].count <= 64 && in[i].first + in[i].count <= step);
            assert_true(in[i].head < g->program->n_kv_heads);
            break;
        case VD_IN_WEIGHT:
            assert_true(in[i].part < vd_tensor_parts(vd_program_tensor(g->program, in[i].tensor)));
            assert_true(in[i].dynamic || in[i].row < vd_program_tensor(g->program, in[i].tensor).rows);
            break;
        case VD_IN_TOKEN:
            assert_int_equal(in[i].first, step);
            break;
        }
        assert_true(!in[i].dynamic || i == n - 1);
    }
}

static void every_input_precedes_its_record(void **state)
{
    const struct vd_program ps[] = {program(2, 544, 4, 2, 96, 1056, 9000, VD_WTYPE_Q4_0),
                                    program(1, 32, 1, 1, 32, 32, 1, VD_WTYPE_F16)};
    for (unsigned k = 0; k < 2; k++) {
        const uint32_t steps[] = {0, 1, 63, 64, 65, 130};
        for (unsigned s = 0; s < 6; s++) {
            struct vd_graph g = graph(&ps[k], 65, 80, s & 1 ? greedy : all);
            struct vd_rng rng = {s, k};
            for (uint32_t u = 0; u < vd_graph_units(&g, steps[s]); u++)
                for (uint32_t op = 0; op < vd_graph_ops(&g, steps[s], u); op++) {
                    struct vd_graph_op o;
                    vd_graph_op(&g, steps[s], u, op, &o);
                    inputs_precede(&g, steps[s], u, op, 0);
                    inputs_precede(&g, steps[s], u, op, o.n_records - 1);
                    for (unsigned i = 0; i < 30; i++)
                        inputs_precede(&g, steps[s], u, op, vd_rng_below(&rng, o.n_records));
                }
        }
    }
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

static size_t input_bytes(const struct vd_graph *g, uint32_t step, uint32_t unit, struct vd_graph_input in)
{
    struct vd_graph_op o;
    uint32_t units = vd_graph_units(g, step);
    if (in.dynamic && in.kind == VD_IN_OP)
        in.count = VD_SAMPLE_TILE;
    switch (in.kind) {
    case VD_IN_OP:
        vd_graph_op(g, step, unit, in.op, &o);
        return records_bytes(&o, in.first, in.count);
    case VD_IN_ROW:
        vd_graph_op(g, step, unit - 1, vd_graph_row_op(g, unit - 1), &o);
        return records_bytes(&o, in.first, in.count) + 64 + proof_bytes(units, unit - 1, 1);
    case VD_IN_KV:
        vd_graph_op(g, step, unit, in.op, &o);
        return in.count * (32 + o.record_bytes + proof_bytes(o.n_records, in.head, 1) + 64 +
                           proof_bytes(units, unit, 1)) +
               proof_bytes(g->job.n_steps, in.first, in.count);
    case VD_IN_WEIGHT: {
        struct vd_tensor_shape t = vd_program_tensor(g->program, in.tensor);
        uint64_t parts = vd_tensor_parts(t);
        return vd_tensor_part_bytes(t, in.part) + proof_bytes(t.rows * parts, in.row * parts + in.part, 1) +
               proof_bytes(g->program->n_tensors, in.tensor, 1);
    }
    case VD_IN_TOKEN:
        return 4 + proof_bytes(g->job.n_prompt, 0, 1);
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

static void the_largest_programs_stay_within_bounds(void **state)
{
    static const uint32_t hds[] = {32, 64, 96, 224, 256};
    size_t most = 0;
    for (unsigned i = 0; i < 10; i++) {
        struct vd_program p =
            program(256, 16384, 256, 256, hds[i % 5], 65536, 1 << 20, i < 5 ? VD_WTYPE_F32 : VD_WTYPE_Q8_0);
        struct vd_graph g = graph(&p, (1 << 20) - 5, 6, all);
        struct vd_rng rng = {i, 0};
        assert_null(vd_program_check(&p));
        assert_true(vd_graph_valid(&g));
        const uint32_t steps[] = {g.job.n_steps - 1, (1 << 19) + 77};
        for (unsigned s = 0; s < 2; s++)
            for (uint32_t u = 0; u < vd_graph_units(&g, steps[s]); u += u < 2 || u > 250 ? 1 : 50)
                for (uint32_t op = 0; op < vd_graph_ops(&g, steps[s], u); op++) {
                    struct vd_graph_op o;
                    vd_graph_op(&g, steps[s], u, op, &o);
                    assert_true((size_t)o.leaf_records * o.record_bytes <= VD_GRAPH_LEAF_BYTES_MAX);
                    assert_true(o.record_bytes <= VD_GRAPH_RECORD_BYTES_MAX);
                    assert_true(vd_graph_leaves(&o) <= 1 << 20); /* two descents of ten levels */
                    for (unsigned k = 0; k < 12; k++) {
                        uint64_t r = k == 0 ? 0 : k == 1 ? o.n_records - 1 : vd_rng_below(&rng, o.n_records);
                        size_t n = opening_bytes(&g, steps[s], u, op, r);
                        most = n > most ? n : most;
                        if (n > 64 << 10)
                            fail_msg("%s with head_dim %u: %zu bytes", vd_op_name(o.kind), p.head_dim, n);
                    }
                }
    }
    print_message("    the largest opening: %zu bytes\n", most);
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
        cmocka_unit_test(the_largest_programs_stay_within_bounds),
        cmocka_unit_test(stops),
        cmocka_unit_test(jobs_that_do_not_fit),
        cmocka_unit_test(hashes_are_those_of_the_spec),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
