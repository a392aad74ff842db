/* Disputes over a toy model: at every operator, an honest challenger pins a lie to the very record, and an
 * honest worker survives every false challenge. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "vd_dispute_kit.h"

static void save_program(unsigned feature, const struct vd_program *p)
{
    uint8_t bytes[VD_PROGRAM_BYTES_MAX];
    char name[32];
    snprintf(name, sizeof name, "feature-%u", feature);
    save_seed("vd_program_fuzz", name, bytes, vd_program_encode(p, bytes, sizeof bytes), NULL, 0);
}

static void lies_in_greedy_job(void **state)
{
    struct fixture f = fixture_shared();
    uint32_t last = f.job->graph.job.n_steps - 1;
    lie_everywhere(&f, 2, 0);
    lie_everywhere(&f, last, 0);
    if (in_full())
        lie_everywhere(&f, last - 1, 1);
    lie_everywhere(&f, 3, 2); /* a short last block */
    lie_everywhere(&f, last, 2);
    if (in_full())
        lie_everywhere(&f, PROMPT - 1, 3);
    print_message("    %u worker moves, openings up to %zu bytes, moves up to %zu\n", most_moves,
                  most_opening, most_move);
}

static void lies_in_sampling(void **state)
{
    static const struct vd_sampling *const all[] = {&both, &only_k, &only_p, &free_draw};
    for (unsigned i = 0; i < (in_full() ? 4 : 1); i++) {
        struct fixture f = fixture_new(all[i], VD_ROPE_HALVES);
        lie_everywhere(&f, f.job->graph.job.n_steps - 1, 3);
        if (i == 0)
            lie_everywhere(&f, f.job->graph.job.n_steps - 1, 1);
        fixture_free(&f);
    }
}

/* Penalties over a window that spans prompt and output, biases, and masks with each way to sample. */
static void lies_before_sampling(void **state)
{
    static const struct vd_sampling all[] = {
        {.repeat_micro = 1700000, .repeat_last_n = 20, .frequency_micro = 300000},
        {.presence_micro = 900000, .has_bias = true},
        {.has_mask = true},
        {.temp_micro = 900000, .top_k = 40, .top_p_micro = 900000, .seed = 3, .has_mask = true},
        {.temp_micro = 900000,
         .top_k = 4000, /* more than the mask leaves */
         .top_p_micro = 999000,
         .min_p_micro = 1000,
         .seed = 4,
         .repeat_micro = 1300000,
         .repeat_last_n = VD_PENALTY_WINDOW,
         .presence_micro = -500000,
         .has_bias = true,
         .has_mask = true},
    };
    for (unsigned n = sizeof all / sizeof all[0], i = in_full() ? 0 : n - 1; i < n; i++) {
        struct fixture f = fixture_new(&all[i], VD_ROPE_ADJACENT);
        uint32_t last = f.job->graph.job.n_steps - 1;
        lie_everywhere(&f, last, 3);
        if (in_full())
            lie_everywhere(&f, PROMPT - 1, 3);
        fixture_free(&f);
    }
    print_message("    openings up to %zu bytes\n", most_opening);
}

/* Windows, biases, masks and texts are opened to the byte. */
static void false_challenges_before_sampling(void **state)
{
    static const struct vd_sampling all[] = {{.repeat_micro = 1300000,
                                              .repeat_last_n = VD_PENALTY_WINDOW,
                                              .presence_micro = -500000,
                                              .has_bias = true,
                                              .has_mask = true},
                                             {.repeat_micro = 1300000, .repeat_last_n = 2}};
    for (unsigned i = 0; i < 2; i++) {
        struct fixture f = fixture_new(&all[i], VD_ROPE_ADJACENT);
        false_challenges_in(&f, f.job->graph.job.n_steps - 1, 3);
        fixture_free(&f);
    }
}

/* ---- features ---- */

static struct fixture fixture_with(const struct toy_feature *feature)
{
    struct vd_program p = toy_program_with(feature);
    struct fixture f;
    f.model = toy_model_new(&p, 3, 0.1f);
    f.job = toy_job_new(f.model, PROMPT, TOKENS, &greedy);
    f.trace = toy_trace(f.job);
    f.claim = toy_claim(f.job, f.trace);
    return f;
}

/* A worker that computes another program than the one it signed, with the same weights. */
static void shorter_window(struct vd_program *p)
{
    p->window--;
}

static void no_cap_of_scores(struct vd_program *p)
{
    p->attn_cap = 0;
}

static void no_scale_of_embeddings(struct vd_program *p)
{
    p->embed_scale = 1;
}

static void other_activation(struct vd_program *p)
{
    p->act = VD_ACT_SILU;
}

static void one_rope_table(struct vd_program *p)
{
    p->layer_flags[0] &= (uint8_t)~VD_LAYER_ROPE2;
}

static void no_scale_of_rope(struct vd_program *p)
{
    p->rope_scale[1] = 1;
}

static void weights_among_all(struct vd_program *p)
{
    p->route_norm = false;
}

static const struct {
    const char *name;
    void (*change)(struct vd_program *p);
    uint32_t unit;
    enum vd_op op; /* where the first difference is */
} other_programs[] = {
    {"a window of one key less", shorter_window, 1, VD_OP_SCORE},
    {"scores without the cap", no_cap_of_scores, 1, VD_OP_SCORE},
    {"embeddings without their scale", no_scale_of_embeddings, 0, VD_OP_EMBED},
    {"SiLU for GELU", other_activation, 1, VD_OP_GEGLU},
    {"the other RoPE table", one_rope_table, 1, VD_OP_ROPE},
    {"RoPE without its scale", no_scale_of_rope, 1, VD_OP_ROPE},
    {"experts weighed among all", weights_among_all, 1, VD_OP_ROUTE},
};

/* The lie begins at the last step but one, after which there is an answer to lie about. */
static void workers_of_another_program(void **state)
{
    struct fixture f = fixture_with(&toy_features[TOY_FEATURES - 1]);
    uint32_t from = f.job->graph.job.n_steps - 2;
    for (size_t i = 0; i < sizeof other_programs / sizeof other_programs[0]; i++) {
        struct vd_program p = f.model->program;
        struct vd_toy_job *liar = toy_job_copy(f.job, from);
        struct match m;
        struct vd_graph_op op;
        other_programs[i].change(&p);
        liar->graph.program = &p;
        struct vd_trace *t = toy_trace(liar);
        struct vd_ref_claim claim = toy_claim(liar, t);
        claim.graph.program = &f.model->program;
        enum vd_err e = play(&m, &claim, t, f.trace);
        if (e != VD_OK)
            fail_msg("%s: error %d", other_programs[i].name, e);
        vd_graph_op(&claim.graph, m.game.step, m.game.unit, m.game.op, &op);
        if (m.result != VD_GAME_WORKER_TILE || m.game.unit != other_programs[i].unit ||
            op.kind != other_programs[i].op)
            fail_msg("%s: %s at unit %u, %s", other_programs[i].name, vd_game_result_text(m.result),
                     m.game.unit, vd_op_name(op.kind));
        assert_int_equal(m.game.step, from);
        vd_trace_destroy(t);
        toy_job_free(liar);
    }
    fixture_free(&f);
}

/* A tampered K or V row of an early step, first seen at the very step, however late the answer changes. */
static void lies_in_early_cache_rows(void **state)
{
    struct fixture f = fixture_shared();
    struct vd_graph_op op;
    for (uint32_t o = TOY_KROW; o <= TOY_VROW; o++) {
        vd_graph_op(&f.job->graph, 0, 1, o, &op);
        expect_pinned(&f, (struct vd_toy_lie){true, 0, 1, o, 1, op.record_bytes});
        expect_pinned(&f, (struct vd_toy_lie){true, 63, 2, o, 0, op.record_bytes});
    }
}

static void lies_in_a_job_that_is_not_kept(void **state)
{
    struct fixture f = fixture_that_forgets();
    uint32_t last = f.job->graph.job.n_steps - 1;
    lie_everywhere(&f, last, 1);
    lie_everywhere(&f, last, 3);
    lie_everywhere(&f, 2, 0);
    lie_everywhere(&f, 3, 1);
    fixture_free(&f);
}

static void false_challenges(void **state)
{
    static const struct vd_sampling *const all[] = {&greedy, &both, &only_p};
    for (unsigned i = 0; i < 3; i++) {
        struct fixture f = fixture_new(all[i], i ? VD_ROPE_ADJACENT : VD_ROPE_HALVES);
        uint32_t last = f.job->graph.job.n_steps - 1;
        false_challenges_in(&f, last, 3);
        if (i == 0) {
            false_challenges_in(&f, 5, 0);
            false_challenges_in(&f, last, 0);
            false_challenges_in(&f, 0, 1);
            false_challenges_in(&f, 64, 1);
            false_challenges_in(&f, 5, 2);
            false_challenges_in(&f, last, 2);
        }
        fixture_free(&f);
    }
}

/* A lie and a false challenge in every operator: of a block under each feature, and of all units under all of
 * them together. */
static void disputes_under_every_feature(void **state)
{
    for (unsigned i = in_full() ? 0 : TOY_FEATURES - 1; i < TOY_FEATURES; i++) {
        struct fixture f = fixture_with(&toy_features[i]);
        uint32_t last = f.job->graph.job.n_steps - 1;
        if (corpus_dir)
            save_program(i, &f.model->program);
        bool all = i == TOY_FEATURES - 1;
        lie_everywhere(&f, last, 1);
        false_challenges_in(&f, last, 1);
        if (all) {
            lie_everywhere(&f, last, 0);
            if (in_full()) {
                lie_everywhere(&f, PROMPT - 2, 2); /* a short last block */
                lie_everywhere(&f, last, 3);
            }
            false_challenges_in(&f, 7, 0);
            false_challenges_in(&f, 5, 2);
            false_challenges_in(&f, last, 3);
        }
        fixture_free(&f);
    }
}

/* An operator that the program does not have: its root is zero and nothing else, and nobody can point at it.
 */
static void absent_operators(void **state)
{
    struct fixture f = fixture_shared();
    struct match m;
    struct vd_move ops, op = {.kind = VD_MOVE_OP};
    static uint8_t nodes[VD_GRAPH_OPS_MAX * VD_HASH_BYTES];
    lead_to(&f, &m, PROMPT, 1, TOY_SCORE, 0, &tile_move);
    unsigned absent = 0;
    for (uint32_t o = 0; o < m.game.n_ops; o++) {
        struct vd_graph_op at;
        vd_graph_op(&f.job->graph, PROMPT, 1, o, &at);
        if (at.n_records)
            continue;
        absent++;
        struct vd_game game = m.game;
        game.phase = VD_PHASE_W_OPS;
        assert_int_equal(vd_player_worker_answer(f.trace, &game, &bad_move, NULL), VD_OK);
        assert_true(vd_move_decode((struct vd_bytes){bad_move.bytes, bad_move.n_bytes}, &ops));
        memcpy(nodes, ops.nodes.p, ops.nodes.n);
        nodes[o * VD_HASH_BYTES + 5] ^= 1;
        ops.nodes.p = nodes;
        struct vd_bytes good = {tile_move.bytes,
                                vd_move_encode(&ops, tile_move.bytes, sizeof tile_move.bytes)};
        assert_int_equal(vd_game_move(&game, &f.claim, NULL, VD_GAME_WORKER, good), VD_GAME_REJECT_FIT);
        nodes[o * VD_HASH_BYTES + 5] ^= 1;
        good.n = vd_move_encode(&ops, tile_move.bytes, sizeof tile_move.bytes);
        assert_int_equal(vd_game_move(&game, &f.claim, NULL, VD_GAME_WORKER, good), VD_GAME_ACCEPTED);
        op.index = o;
        good.n = vd_move_encode(&op, tile_move.bytes, sizeof tile_move.bytes);
        assert_int_equal(vd_game_move(&game, &f.claim, NULL, VD_GAME_CHALLENGER, good), VD_GAME_REJECT_RANGE);
        game.op = o;
        size_t n = vd_game_encode(&m.game, game_bytes[0], sizeof game_bytes[0]);
        assert_true(vd_game_decode((struct vd_bytes){game_bytes[0], n}, &f.claim, &copy));
        copy.op = o;
        copy.phase = VD_PHASE_W_RECORDS;
        n = vd_game_encode(&copy, game_bytes[0], sizeof game_bytes[0]);
        assert_false(vd_game_decode((struct vd_bytes){game_bytes[0], n}, &f.claim, &copy));
    }
    assert_true(absent >= 15);
}

/* The last block of an early step has no X row: its root is 32 zero bytes that no opening may carry. */
static void rows_that_do_not_exist_are_not_opened(void **state)
{
    struct fixture f = fixture_shared();
    struct match m;
    struct vd_move t;
    static uint8_t opening[VD_OPENING_MAX_BYTES];
    lead_to(&f, &m, PROMPT, 2, TOY_SCORE, 0, &tile_move); /* SCORE of head 0 and position 0 */
    assert_true(vd_move_decode((struct vd_bytes){tile_move.bytes, tile_move.n_bytes}, &t));
    const uint8_t *v_root = memmem(t.data.p, t.data.n, f.trace->u.read[1].outs[0][1].b, VD_HASH_BYTES);
    assert_non_null(v_root);
    size_t n = (size_t)(v_root - t.data.p) + VD_HASH_BYTES;
    memcpy(opening, t.data.p, n);
    memset(opening + n, 0, VD_HASH_BYTES);
    memcpy(opening + n + VD_HASH_BYTES, t.data.p + n, t.data.n - n);
    t.data = (struct vd_bytes){opening, t.data.n + VD_HASH_BYTES};
    bad_move.n_bytes = vd_move_encode(&t, bad_move.bytes, sizeof bad_move.bytes);
    assert_int_equal(move_of(&m, &f.claim, &bad_move), VD_GAME_REJECT_OPENING);
    assert_int_equal(move_of(&m, &f.claim, &tile_move), VD_GAME_CHALLENGER_TILE);
}

/* An honest worker, an honest challenger: nothing to point at. */
static void nothing_to_point_at(void **state)
{
    struct fixture f = fixture_new(&both, VD_ROPE_ADJACENT);
    struct match m;
    assert_int_equal(play(&m, &f.claim, f.trace, f.trace), VD_EFALSE);
    assert_int_equal(m.game.phase, VD_PHASE_C_STATE);
    fixture_free(&f);
}

static void false_challenges_to_a_job_that_is_not_kept(void **state)
{
    struct fixture f = fixture_that_forgets();
    uint32_t last = f.job->graph.job.n_steps - 1;
    false_challenges_in(&f, last, 3);
    false_challenges_in(&f, last, 1);
    false_challenges_in(&f, 0, 1);
    false_challenges_in(&f, 64, 1);
    false_challenges_in(&f, 5, 0);
    for (uint32_t s = 0; s < f.job->graph.job.n_steps; s += 17)
        assert_int_equal(bind_at(&f, &f.claim, s), VD_GAME_CHALLENGER_BIND);
    fixture_free(&f);
}

/* The scores of many heads over a long cache go beyond a trace's memory; its hashes and rows do not. */
static void what_a_trace_can_hold(void **state)
{
    struct vd_program p = toy_program(VD_ROPE_ADJACENT);
    struct vd_graph g = {&p, {.n_prompt = 1 << 16, .n_output = 64, .max_tokens = 64}};
    g.job.n_steps = g.job.n_prompt + 63;
    p.ctx = 1 << 20;
    assert_true(vd_trace_fits(&g));
    p.n_layers = 256;
    assert_true(vd_trace_fits(&g));
    g.job.n_prompt = 1 << 18;
    g.job.n_steps = g.job.n_prompt + 63;
    assert_true(vd_trace_fits(&g));
    p.n_layers = 2;
    p.n_heads = 256;
    p.head_dim = 256;
    assert_false(vd_trace_fits(&g));
}

/* What a worker needs in a dispute beyond what it needs to generate: below 256 MiB for the models that the
 * tests run, at their whole context, and for Llama-3's. */
static void memory_of_a_dispute(void **state)
{
    static const struct {
        const char *name;
        uint32_t layers, width, heads, kv_heads, head_dim, ff, vocab, ctx;
    } all[] = {
        {"SmolLM2-135M", 30, 576, 9, 3, 64, 1536, 49152, 8192},
        {"gemma-3-270m", 18, 640, 4, 1, 256, 2048, 262144, 32768},
        {"Llama-3-8B", 32, 4096, 32, 8, 128, 14336, 128256, 32768},
        {"Llama-3-70B", 80, 8192, 64, 8, 128, 28672, 128256, 32768},
        {"Llama-3-70B", 80, 8192, 64, 8, 128, 28672, 128256, 131072},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct vd_program p = toy_program(VD_ROPE_HALVES);
        p.n_layers = all[i].layers;
        p.width = all[i].width;
        p.n_heads = all[i].heads;
        p.n_kv_heads = all[i].kv_heads;
        p.head_dim = all[i].head_dim;
        p.ff_width = all[i].ff;
        p.vocab = all[i].vocab;
        p.ctx = all[i].ctx;
        struct vd_graph g = {&p, {.n_prompt = p.ctx - 1, .n_output = 2, .n_steps = p.ctx, .max_tokens = 2}};
        p.n_tensors = vd_program_norm_tensor(&p) + 1;
        memset(p.types, VD_WTYPE_Q8_0, p.n_tensors);
        double mib = (double)vd_trace_most_bytes(&g) / (1 << 20);
        print_message("    %s at %u positions: %.0f MiB\n", all[i].name, p.ctx, mib);
        assert_true(vd_trace_fits(&g));
        assert_true(mib < 256);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_trace_can_hold),
        cmocka_unit_test(memory_of_a_dispute),
        cmocka_unit_test(nothing_to_point_at),
        cmocka_unit_test(lies_in_greedy_job),
        cmocka_unit_test(lies_in_sampling),
        cmocka_unit_test(lies_before_sampling),
        cmocka_unit_test(false_challenges_before_sampling),
        cmocka_unit_test(lies_in_early_cache_rows),
        cmocka_unit_test(lies_in_a_job_that_is_not_kept),
        cmocka_unit_test(workers_of_another_program),
        cmocka_unit_test(disputes_under_every_feature),
        cmocka_unit_test(absent_operators),
        cmocka_unit_test(rows_that_do_not_exist_are_not_opened),
        cmocka_unit_test(false_challenges),
        cmocka_unit_test(false_challenges_to_a_job_that_is_not_kept),
    };
    RUN_DISPUTE_TESTS(tests);
}
