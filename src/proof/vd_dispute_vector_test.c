/* Disputes over vectors: of decoders, and of encoders, whose attention reads every position. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "vd_dispute_kit.h"

/* ---- vectors ---- */

static struct fixture fixture_of(const struct vd_program *p, uint64_t seed, enum vd_pooling pooling,
                                 uint32_t n_prompt)
{
    struct fixture f;
    f.model = toy_model_new(p, seed, 0.1f);
    f.job = toy_vector_new(f.model, n_prompt, pooling);
    f.trace = toy_trace(f.job);
    f.claim = toy_claim(f.job, f.trace);
    return f;
}

static struct fixture fixture_of_vector(enum vd_pooling pooling, uint32_t n_prompt)
{
    struct vd_program p = toy_program(VD_ROPE_HALVES);
    return fixture_of(&p, 5, pooling, n_prompt);
}

/* Lies at every operator of a pooling unit, and at a vector that is not the trace's. */
static void lies_about_a_vector(void **state)
{
    static const struct {
        enum vd_pooling pooling;
        uint32_t n_prompt;
    } all[] = {{VD_POOLING_LAST, 9}, {VD_POOLING_LAST, 1}, {VD_POOLING_MEAN, 9}, {VD_POOLING_MEAN, 1}};
    for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct fixture f = fixture_of_vector(all[i].pooling, all[i].n_prompt);
        uint32_t last = all[i].n_prompt - 1, n_layers = f.model->program.n_layers;
        lie_everywhere(&f, last, n_layers + 1);
        if (last > 0 && all[i].pooling == VD_POOLING_MEAN) {
            lie_everywhere(&f, 0, n_layers + 1);
            lie_everywhere(&f, last - 1, n_layers + 1);
        }
        for (uint32_t s = 0; s <= last; s++)
            assert_int_equal(bind_at(&f, &f.claim, s), VD_GAME_CHALLENGER_BIND);
        f.job->output[3] ^= 1;
        struct vd_ref_claim claim = toy_claim(f.job, f.trace);
        expect_unbound(&f, &claim, f.trace, last);
        fixture_free(&f);
    }
}

/* A vector has the model's width, and only the prompt is fed. */
static void lengths_of_vectors(void **state)
{
    struct fixture f = fixture_of_vector(VD_POOLING_MEAN, 3);
    struct vd_graph g = f.job->graph;
    assert_true(vd_graph_valid(&g));
    g.job.n_output = g.job.max_tokens = g.program->width - 32;
    assert_false(vd_graph_valid(&g));
    g = f.job->graph;
    g.job.n_steps++;
    assert_false(vd_graph_valid(&g));
    fixture_free(&f);
}

/* ---- encoders ---- */

static struct fixture fixture_of_encoder(bool nomic, enum vd_pooling pooling, uint32_t n_prompt)
{
    struct vd_program p = toy_encoder(nomic);
    return fixture_of(&p, 6, pooling, n_prompt);
}

/* A lie and a false challenge in every operator of every unit, at the first, a middle and the last position,
 * and the receipt binds at every step. */
static void disputes_over_encoders(void **state)
{
    for (unsigned i = 0; i < 6; i++) {
        uint32_t n = i < 3 ? 3 : 1 + i % 2;
        struct fixture f = fixture_of_encoder(i & 1, (enum vd_pooling)(1 + i % 3), n);
        const struct vd_graph *g = &f.job->graph;
        for (uint32_t s = 0; s < n; s++) {
            for (uint32_t u = 0; u < vd_graph_units(g, s); u++) {
                bool all = in_full() || (s + i) % 3 == u % 3;
                if (all)
                    lie_everywhere(&f, s, u);
                if (all || u == vd_graph_head_unit(g))
                    false_challenges_in(&f, s, u);
            }
            assert_int_equal(bind_at(&f, &f.claim, s), VD_GAME_CHALLENGER_BIND);
        }
        struct match m;
        assert_int_equal(play(&m, &f.claim, f.trace, f.trace), VD_EFALSE);
        f.job->output[3] ^= 1;
        struct vd_ref_claim claim = toy_claim(f.job, f.trace);
        expect_unbound(&f, &claim, f.trace, n - 1);
        fixture_free(&f);
    }
    print_message("    %u worker moves, openings up to %zu bytes\n", most_moves, most_opening);
}

/* The encoder's job of the fuzz targets: the mean of 69 positions. */
static void seeds_of_encoders(void **state)
{
    if (!corpus_dir)
        skip();
    struct fixture f = fixture_of_encoder(false, VD_POOLING_MEAN, PROMPT + TOKENS - 1);
    uint32_t last = f.job->graph.job.n_steps - 1;
    for (uint32_t u = 0; u < vd_graph_units(&f.job->graph, last); u++) {
        if (u == 1)
            expect_pinned(&f, (struct vd_toy_lie){true, last, u, 0, 0, 4});
        false_challenges_in(&f, last, u);
    }
    assert_int_equal(bind_at(&f, &f.claim, last), VD_GAME_CHALLENGER_BIND);
    fixture_free(&f);
}

/* Attention over two chunks of keys, most of which stand behind the query. */
static void attention_over_every_position(void **state)
{
    static const enum vd_op kinds[] = {VD_OP_SCORE, VD_OP_CHUNK, VD_OP_CHUNK_V, VD_OP_MERGE};
    struct fixture f = fixture_of_encoder(true, VD_POOLING_MEAN, 66);
    const struct vd_graph *g = &f.job->graph;
    for (uint32_t op = 0; op < 4; op++) {
        struct vd_graph_op o;
        struct match m;
        vd_graph_op(g, 2, 4, op, &o);
        assert_int_equal(o.kind, kinds[op]);
        expect_pinned(&f, (struct vd_toy_lie){true, 2, 4, op, o.n_records - 1, o.record_bytes});
        lead_to(&f, &m, 2, 2, op, o.n_records - 1, &tile_move);
        corrupt_opening(&f, &m);
        assert_int_equal(move_of(&m, &f.claim, &tile_move), VD_GAME_CHALLENGER_TILE);
    }
    fixture_free(&f);
}

/* Who computes another program is pinned at the first operator that differs. */
static void encoders_of_another_program(void **state)
{
    static const struct {
        enum vd_op op;
        uint32_t unit;
    } want[] = {{VD_OP_NORM_SCALE, 0}, {VD_OP_SCORE, 2}, {VD_OP_ROPE, 1}, {VD_OP_GEGLU, 2}};
    struct fixture f = fixture_of_encoder(true, VD_POOLING_CLS, 3);
    for (unsigned i = 0; i < 4; i++) {
        struct vd_program p = f.model->program;
        struct vd_toy_job *liar = toy_job_copy(f.job, 0);
        struct match m;
        struct vd_graph_op o;
        if (i == 0)
            p.eps = 0.25f;
        else if (i == 1)
            p.attn_scale *= 1.5f;
        else if (i == 2)
            p.rope_steps[0][0] += UINT64_C(1) << 60;
        else
            p.act = VD_ACT_GELU;
        liar->graph.program = &p;
        struct vd_trace *t = toy_trace(liar);
        struct vd_ref_claim claim = toy_claim(liar, t);
        claim.graph.program = &f.model->program;
        assert_int_equal(play(&m, &claim, t, f.trace), VD_OK);
        assert_int_equal(m.result, VD_GAME_WORKER_TILE);
        vd_graph_op(&liar->graph, m.game.step, m.game.unit, m.game.op, &o);
        assert_int_equal(m.game.unit, want[i].unit);
        assert_int_equal(o.kind, want[i].op);
        vd_trace_destroy(t);
        toy_job_free(liar);
    }
    fixture_free(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lies_about_a_vector),           cmocka_unit_test(lengths_of_vectors),
        cmocka_unit_test(disputes_over_encoders),        cmocka_unit_test(seeds_of_encoders),
        cmocka_unit_test(attention_over_every_position), cmocka_unit_test(encoders_of_another_program),
    };
    RUN_DISPUTE_TESTS(tests);
}
