/* Disputes over a toy model: at every operator, an honest challenger pins a lie to the very record, and an
 * honest worker survives every false challenge; what is not an operator (receipt, salts, roots, stop states)
 * has its own way to end.
 *
 * `vd_dispute_test DIR` also writes programs, games with moves and openings there: the seeds of the fuzz
 * targets of graph, referee and ledger. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>

#include "vd_player.h"
#include "vd_toy.h"

enum { PROMPT = 66, TOKENS = 4 };

static const struct vd_sampling greedy = {0};
static const struct vd_sampling both = {
    .temp_micro = 900000, .top_k = 40, .top_p_micro = 900000, .min_p_micro = 1000, .seed = 7};
static const struct vd_sampling only_k = {
    .temp_micro = 1500000, .top_k = 7, .top_p_micro = 1000000, .seed = 8};
static const struct vd_sampling only_p = {.temp_micro = 700000, .top_p_micro = 500000, .seed = 9};
static const struct vd_sampling free_draw = {.temp_micro = 1000000, .top_p_micro = 1000000, .seed = 10};

/* ---- seeds of fuzz targets ---- */

static const char *corpus_dir;

/* All forms of a test: in the long run, and for the seeds. Else the one that has everything; the others are
 * then the tamper kit's (vd_tamper_test.c). */
static bool in_full(void)
{
    return corpus_dir || getenv("VD_LONG");
}

static void save_seed(const char *target, const char *name, const void *head, size_t n_head, const void *tail,
                      size_t n_tail)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s/%s", corpus_dir, target, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(head, 1, n_head, f) != n_head || fwrite(tail, 1, n_tail, f) != n_tail || fclose(f) != 0)
        fail_msg("%s cannot be written", path);
}

/* As the fuzz targets tell jobs apart (vd_game_fuzz.c, vd_referee_fuzz.c). */
struct seed_job {
    const char *name;
    uint16_t game_bits;
    uint8_t unit_bits, op_bits;
};
static const struct seed_job seeds_plain = {"plain", 0, 0, 0}, seeds_features = {"features", 1 << 14, 128, 0},
                             seeds_encoder = {"encoder", 3 << 14, 64, 128 | 64};

static const struct seed_job *seed_job_of(const struct vd_graph *g)
{
    return vd_program_is_encoder(g->program) ? &seeds_encoder
           : g->program->n_experts           ? &seeds_features
                                             : &seeds_plain;
}

/* The first of each kind of move in each phase; of the plain job the first two. */
static void save_move(const struct vd_graph *g, const struct vd_game *game, const struct vd_player_move *move)
{
    static unsigned seen[2][VD_PHASE_OVER + 1][VD_MOVE_BIND + 1];
    static uint8_t bytes[2 + VD_GAME_MAX_BYTES];
    char name[64];
    const struct seed_job *j = seed_job_of(g);
    bool plain = j == &seeds_plain;
    unsigned *n_seen = &seen[plain][game->phase][move->kind];
    if ((*n_seen)++ >= 1u + plain)
        return;
    size_t n = vd_game_encode(game, bytes + 2, VD_GAME_MAX_BYTES);
    assert_true(n < 1 << 14);
    vd_le16_store(bytes, (uint16_t)(n | j->game_bits));
    snprintf(name, sizeof name, "%s%s%02u-%s-%u", plain ? "" : j->name, plain ? "" : "-",
             (unsigned)game->phase, vd_move_name(move->kind), *n_seen);
    save_seed("vd_game_fuzz", name, bytes, 2 + n, move->bytes, move->n_bytes);
}

/* An opening that is right but for its roots, at its record. */
static void save_opening(const struct vd_graph *g, const struct vd_game *game, uint64_t record,
                         const struct vd_player_move *tile)
{
    const struct seed_job *j = seed_job_of(g);
    struct vd_graph_op o;
    struct vd_move m;
    char name[64];
    vd_graph_op(g, game->step, game->unit, game->op, &o);
    uint32_t n_units = vd_graph_units(g, game->step), unit = j->unit_bits;
    while (unit % n_units != game->unit)
        unit++;
    assert_true(unit < j->unit_bits + 32u);
    const uint8_t head[4] = {(uint8_t)(2 * game->step), (uint8_t)unit, (uint8_t)(game->op | j->op_bits),
                             (uint8_t)((record * 256 + o.n_records - 1) / o.n_records)};
    assert_true(vd_move_decode((struct vd_bytes){tile->bytes, tile->n_bytes}, &m));
    snprintf(name, sizeof name, "%s-%u-%02u", j->name, game->unit, game->op);
    save_seed("vd_referee_fuzz", name, head, sizeof head, m.data.p, m.data.n);
}

static void save_program(unsigned feature, const struct vd_program *p)
{
    uint8_t bytes[VD_PROGRAM_BYTES_MAX];
    char name[32];
    snprintf(name, sizeof name, "feature-%u", feature);
    save_seed("vd_program_fuzz", name, bytes, vd_program_encode(p, bytes, sizeof bytes), NULL, 0);
}

/* ---- a game ---- */

struct match {
    struct vd_game game;
    enum vd_game_result result;
    unsigned worker_moves;
    size_t most_bytes, opening_bytes;
};

static struct vd_game copy;
static uint8_t game_bytes[2][VD_GAME_MAX_BYTES];

/* A game must survive being stored between any two moves. */
static void store_and_load(struct vd_game *game, const struct vd_ref_claim *claim)
{
    size_t n = vd_game_encode(game, game_bytes[0], sizeof game_bytes[0]);
    assert_true(n > 0);
    assert_true(vd_game_decode((struct vd_bytes){game_bytes[0], n}, claim, &copy));
    assert_int_equal(vd_game_encode(&copy, game_bytes[1], sizeof game_bytes[1]), n);
    assert_memory_equal(game_bytes[0], game_bytes[1], n);
    *game = copy;
}

static enum vd_game_result move_of(struct match *m, const struct vd_ref_claim *claim,
                                   const struct vd_player_move *move)
{
    enum vd_game_side side = vd_game_turn(&m->game);
    m->worker_moves += side == VD_GAME_WORKER;
    if (corpus_dir && claim->graph.job.n_steps == PROMPT + TOKENS - 1 &&
        seed_job_of(&claim->graph) != &seeds_features)
        save_move(&claim->graph, &m->game, move);
    if (move->n_bytes > m->most_bytes)
        m->most_bytes = move->n_bytes;
    m->result = vd_game_move(&m->game, claim, NULL, side, (struct vd_bytes){move->bytes, move->n_bytes});
    store_and_load(&m->game, claim);
    return m->result;
}

/* The worker's answer, which runs as many steps again as it said before. */
static enum vd_err answer(struct vd_trace *t, const struct vd_game *game, struct vd_player_move *move,
                          struct vd_error *err)
{
    struct vd_toy_job *j = t->source.arg;
    uint32_t runs = vd_player_worker_runs(t, game);
    j->most_run = 0;
    enum vd_err e = vd_player_worker_answer(t, game, move, err);
    assert_int_equal(j->most_run, runs);
    return e;
}

/* Plays until a verdict, a rejected move, or a challenger that finds nothing. */
static enum vd_err play(struct match *m, const struct vd_ref_claim *claim, struct vd_trace *worker,
                        struct vd_trace *challenger)
{
    static struct vd_player_move move;
    struct vd_error err = {0};
    memset(m, 0, sizeof *m);
    vd_game_open(&m->game);
    while (m->result == VD_GAME_ACCEPTED) {
        enum vd_err e = vd_game_turn(&m->game) == VD_GAME_WORKER
                            ? answer(worker, &m->game, &move, &err)
                            : vd_player_challenger_point(challenger, claim, &m->game, &move, &err);
        if (e != VD_OK)
            return e;
        if (move.kind == VD_MOVE_TILE)
            m->opening_bytes = move.n_bytes;
        move_of(m, claim, &move);
    }
    return VD_OK;
}

/* ---- fixture ---- */

struct fixture {
    struct vd_toy_model *model;
    struct vd_toy_job *job;
    struct vd_trace *trace;
    struct vd_ref_claim claim;
};

static struct fixture fixture_new(const struct vd_sampling *s, enum vd_rope_pairing pairing)
{
    struct vd_program p = toy_program(pairing);
    struct fixture f;
    f.model = toy_model_new(&p, 1, 0.1f);
    f.job = toy_job_new(f.model, PROMPT, TOKENS, s);
    f.trace = toy_trace(f.job);
    f.claim = toy_claim(f.job, f.trace);
    return f;
}

static void fixture_free(struct fixture *f)
{
    vd_trace_destroy(f->trace);
    toy_job_free(f->job);
    toy_model_free(f->model);
}

static struct fixture shared;

/* The greedy job, made once: to make it takes longer than most of these tests. Nobody changes or frees it. */
static struct fixture fixture_shared(void)
{
    if (!shared.model)
        shared = fixture_new(&greedy, VD_ROPE_ADJACENT);
    return shared;
}

/* ---- lies ---- */

static size_t most_opening, most_move;
static unsigned most_moves;

static void expect_pinned(struct fixture *f, struct vd_toy_lie lie)
{
    struct match m;
    struct vd_toy_job *liar = toy_job_copy(f->job, lie.step);
    liar->lie = lie;
    struct vd_trace *t = toy_trace(liar);
    struct vd_ref_claim claim = toy_claim(liar, t);
    assert_int_equal(play(&m, &claim, t, f->trace), VD_OK);
    if (m.result != VD_GAME_WORKER_TILE)
        fail_msg("step %u unit %u op %u record %llu: %s", lie.step, lie.unit, lie.op,
                 (unsigned long long)lie.record, vd_game_result_text(m.result));
    assert_int_equal(m.game.step, lie.step);
    assert_int_equal(m.game.unit, lie.unit);
    assert_int_equal(m.game.op, lie.op);
    assert_true(m.worker_moves <= 7);
    most_opening = m.opening_bytes > most_opening ? m.opening_bytes : most_opening;
    most_move = m.most_bytes > most_move ? m.most_bytes : most_move;
    most_moves = m.worker_moves > most_moves ? m.worker_moves : most_moves;
    vd_trace_destroy(t);
    toy_job_free(liar);
}

/* A lie in every operator of a unit: one record, a different one for each operator. */
static void lie_everywhere(struct fixture *f, uint32_t step, uint32_t unit)
{
    struct vd_rng rng = {step * 100 + unit, 0};
    for (uint32_t o = 0; o < vd_graph_ops(&f->job->graph, step, unit); o++) {
        struct vd_graph_op op;
        vd_graph_op(&f->job->graph, step, unit, o, &op);
        if (op.n_records == 0)
            continue;
        expect_pinned(
            f, (struct vd_toy_lie){true, step, unit, o, vd_rng_below(&rng, op.n_records), op.record_bytes});
    }
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

static void false_challenges_in(struct fixture *f, uint32_t step, uint32_t unit);

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

/* A trace that keeps next to nothing: unit hashes of 64 of its 69 steps, cache rows of one chunk. */
static struct fixture fixture_that_forgets(void)
{
    struct fixture f = fixture_new(&both, VD_ROPE_HALVES);
    vd_trace_destroy(f.trace);
    f.job->keep_bytes = 1;
    f.trace = toy_trace(f.job);
    assert_true(f.trace->n_held < f.job->graph.job.n_steps);
    assert_memory_equal(&f.trace->commit_root, &f.claim.commit_root, VD_HASH_BYTES);
    return f;
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

/* ---- false challenges and openings ---- */

/* Leads a game on an honest worker to one record, as a challenger with any aim may, up to the TILE move. */
static void lead_to(struct fixture *f, struct match *m, uint32_t step, uint32_t unit, uint32_t op,
                    uint64_t record, struct vd_player_move *tile)
{
    static struct vd_player_move move;
    static uint8_t opening[VD_OPENING_MAX_BYTES];
    struct vd_error err = {0};
    struct vd_graph_op o;
    struct vd_graph_place at = vd_graph_place(&f->job->graph, step, unit);
    vd_graph_op(&f->job->graph, step, unit, op, &o);
    memset(m, 0, sizeof *m);
    vd_game_open(&m->game);
    while (m->game.phase != VD_PHASE_C_TILE) {
        struct vd_move c = {0};
        if (vd_game_turn(&m->game) == VD_GAME_WORKER) {
            assert_int_equal(answer(f->trace, &m->game, &move, &err), VD_OK);
        } else {
            switch (m->game.phase) {
            case VD_PHASE_C_STATE:
                c = (struct vd_move){.kind = VD_MOVE_STEP, .index = at.group};
                break;
            case VD_PHASE_C_UNIT:
                c = (struct vd_move){.kind = VD_MOVE_UNIT, .index = at.member};
                break;
            case VD_PHASE_C_OP:
                c = (struct vd_move){.kind = VD_MOVE_OP, .index = op};
                break;
            case VD_PHASE_C_LEAF:
                c = (struct vd_move){.kind = VD_MOVE_LEAF, .index = record / o.leaf_records};
                break;
            case VD_PHASE_W_STATE:
            case VD_PHASE_W_NODES:
            case VD_PHASE_C_STEP:
            case VD_PHASE_W_UNITS:
            case VD_PHASE_W_OPS:
            case VD_PHASE_W_LEAVES:
            case VD_PHASE_W_RECORDS:
            case VD_PHASE_C_TILE:
            case VD_PHASE_W_BIND_NODES:
            case VD_PHASE_C_BIND:
            case VD_PHASE_W_BIND_OPEN:
            case VD_PHASE_OVER:
                fail();
            }
            move.n_bytes = vd_move_encode(&c, move.bytes, sizeof move.bytes);
        }
        assert_int_equal(move_of(m, &f->claim, &move), VD_GAME_ACCEPTED);
    }
    struct vd_move t = {.kind = VD_MOVE_TILE, .index = record % o.leaf_records, .data = {opening, 0}};
    assert_int_equal(
        vd_opening_tile(f->trace, &m->game, op, record, opening, sizeof opening, &t.data.n, &err), VD_OK);
    tile->kind = t.kind;
    tile->n_bytes = vd_move_encode(&t, tile->bytes, sizeof tile->bytes);
}

static struct vd_player_move tile_move, bad_move;

/* Every changed byte, a byte less and a byte more of the opening: rejected, and the game stands where it
 * stood. */
static void corrupt_opening(struct fixture *f, const struct match *at)
{
    struct vd_move t, c;
    assert_true(vd_move_decode((struct vd_bytes){tile_move.bytes, tile_move.n_bytes}, &t));
    static uint8_t opening[VD_OPENING_MAX_BYTES + 1];
    size_t stride = t.data.n / 61 + 1;
    memcpy(opening, t.data.p, t.data.n);
    for (size_t i = 0; i < t.data.n + 2; i += i + stride < t.data.n ? stride : 1) {
        struct vd_game game = at->game;
        c = t;
        c.data.p = opening;
        c.data.n = i < t.data.n ? t.data.n : i == t.data.n ? t.data.n - 1 : t.data.n + 1;
        opening[i < t.data.n ? i : 0] ^= i < t.data.n ? 0x40 : 0;
        bad_move.n_bytes = vd_move_encode(&c, bad_move.bytes, sizeof bad_move.bytes);
        enum vd_game_result r = vd_game_move(&game, &f->claim, NULL, VD_GAME_CHALLENGER,
                                             (struct vd_bytes){bad_move.bytes, bad_move.n_bytes});
        if (!vd_game_rejected(r))
            fail_msg("op %u: byte %zu of %zu changed: %s", game.op, i, t.data.n, vd_game_result_text(r));
        assert_memory_equal(&game, &at->game, sizeof game);
        opening[i < t.data.n ? i : 0] ^= i < t.data.n ? 0x40 : 0;
    }
}

/* What is shown of a tile: where it is, the worker's record and the true one. */
static void expect_tile(struct fixture *f, const struct vd_game *lying, struct vd_bytes bytes,
                        uint64_t record)
{
    struct vd_game_tile tile;
    struct vd_move t;
    assert_true(vd_move_decode(bytes, &t));
    assert_int_equal(vd_game_tile(lying, &f->claim, t.index, t.data, &tile), VD_REF_WORKER_LOSES);
    const uint8_t *own = f->trace->u.records[lying->op] + record * tile.op.record_bytes;
    assert_int_equal(tile.record, record);
    assert_memory_equal(tile.true_record, own, tile.op.record_bytes);
    assert_int_equal(tile.worker_record[0], own[0] ^ 1);
    assert_memory_equal(tile.worker_record + 1, own + 1, tile.op.record_bytes - 1);
}

static void false_challenges_in(struct fixture *f, uint32_t step, uint32_t unit)
{
    struct vd_rng rng = {step * 100 + unit, 5};
    for (uint32_t o = 0; o < vd_graph_ops(&f->job->graph, step, unit); o++) {
        struct vd_graph_op op;
        vd_graph_op(&f->job->graph, step, unit, o, &op);
        if (op.n_records == 0)
            continue;
        const uint64_t records[] = {0, op.n_records - 1, vd_rng_below(&rng, op.n_records)};
        for (unsigned i = 0; i < 3; i++) {
            struct match m;
            lead_to(f, &m, step, unit, o, records[i], &tile_move);
            if (i == 2)
                corrupt_opening(f, &m);
            if (i == 1 && corpus_dir && f->job->graph.job.n_steps == PROMPT + TOKENS - 1 &&
                f->job->graph.job.sampling.top_p_micro != only_p.top_p_micro)
                save_opening(&f->job->graph, &m.game, records[i], &tile_move);
            /* the same opening against a record that lies */
            struct vd_game lying = m.game;
            lying.records[records[i] % op.leaf_records * op.record_bytes] ^= 1;
            struct vd_bytes bytes = {tile_move.bytes, tile_move.n_bytes};
            expect_tile(f, &lying, bytes, records[i]);
            enum vd_game_result r = vd_game_move(&lying, &f->claim, NULL, VD_GAME_CHALLENGER, bytes);
            if (r != VD_GAME_WORKER_TILE)
                fail_msg("%s, step %u: %s", vd_op_name(op.kind), step, vd_game_result_text(r));
            r = vd_game_move(&m.game, &f->claim, NULL, VD_GAME_CHALLENGER, bytes);
            if (r != VD_GAME_CHALLENGER_TILE)
                fail_msg("%s, step %u, record %llu: %s", vd_op_name(op.kind), step,
                         (unsigned long long)records[i], vd_game_result_text(r));
        }
    }
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

/* ---- BIND ---- */

/* What opens it does so to the byte, and under this state root only. */
static void binds_exactly(struct fixture *f, uint32_t step)
{
    static uint8_t opening[VD_OPENING_MAX_BYTES + 1];
    struct vd_hash root = f->trace->state_root;
    size_t n;
    assert_int_equal(vd_opening_bind(f->trace, step, opening, VD_OPENING_MAX_BYTES, &n, NULL), VD_OK);
    assert_true(vd_referee_bind(&f->claim, &root, step, (struct vd_bytes){opening, n}));
    assert_false(vd_referee_bind(&f->claim, &root, step, (struct vd_bytes){opening, n - 1}));
    assert_false(vd_referee_bind(&f->claim, &root, step, (struct vd_bytes){opening, n + 1}));
    root.b[31] ^= 1;
    assert_false(vd_referee_bind(&f->claim, &root, step, (struct vd_bytes){opening, n}));
}

static enum vd_game_result bind_at(struct fixture *f, const struct vd_ref_claim *claim, uint32_t step)
{
    struct match m = {0};
    struct vd_move c = {.kind = VD_MOVE_BIND, .index = step};
    vd_game_open(&m.game);
    assert_int_equal(vd_player_worker_answer(f->trace, &m.game, &tile_move, NULL), VD_OK);
    assert_int_equal(move_of(&m, claim, &tile_move), VD_GAME_ACCEPTED);
    tile_move.n_bytes = vd_move_encode(&c, tile_move.bytes, sizeof tile_move.bytes);
    assert_int_equal(move_of(&m, claim, &tile_move), VD_GAME_ACCEPTED);
    assert_int_equal(vd_player_worker_answer(f->trace, &m.game, &tile_move, NULL), VD_OK);
    return move_of(&m, claim, &tile_move);
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

static void honest_receipt_binds_everywhere(void **state)
{
    struct fixture f = fixture_new(&both, VD_ROPE_ADJACENT);
    for (uint32_t s = 0; s < f.job->graph.job.n_steps; s++)
        assert_int_equal(bind_at(&f, &f.claim, s), VD_GAME_CHALLENGER_BIND);
    binds_exactly(&f, 0);
    binds_exactly(&f, f.job->graph.job.n_steps - 1);
    fixture_free(&f);
}

/* The worker's trace is the model's, its receipt is not: it cannot open BIND, so its clock runs out. */
static void expect_unbound(struct fixture *f, const struct vd_ref_claim *claim, struct vd_trace *t,
                           uint32_t step)
{
    struct match m;
    assert_int_equal(play(&m, claim, t, t), VD_OK);
    assert_int_equal(m.result, VD_GAME_REJECT_OPENING);
    assert_int_equal(m.game.phase, VD_PHASE_W_BIND_OPEN);
    assert_int_equal(m.game.step, step);
    assert_int_equal(vd_game_turn(&m.game), VD_GAME_WORKER);
}

static void lying_tokens(void **state)
{
    struct fixture f = fixture_shared();
    struct vd_toy_job *liar = toy_job_copy(f.job, PROMPT);
    liar->output[1] ^= 1; /* chosen at step PROMPT, fed at PROMPT + 1 */
    struct vd_trace *t = toy_trace(liar);
    struct vd_ref_claim claim = toy_claim(liar, t);
    expect_unbound(&f, &claim, t, PROMPT);
    vd_trace_destroy(t);
    toy_job_free(liar);
}

/* ---- vectors ---- */

static struct fixture fixture_of_vector(enum vd_pooling pooling, uint32_t n_prompt)
{
    struct vd_program p = toy_program(VD_ROPE_HALVES);
    struct fixture f;
    f.model = toy_model_new(&p, 5, 0.1f);
    f.job = toy_vector_new(f.model, n_prompt, pooling);
    f.trace = toy_trace(f.job);
    f.claim = toy_claim(f.job, f.trace);
    return f;
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
    struct fixture f;
    f.model = toy_model_new(&p, 6, 0.1f);
    f.job = toy_vector_new(f.model, n_prompt, pooling);
    f.trace = toy_trace(f.job);
    f.claim = toy_claim(f.job, f.trace);
    return f;
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

static void lying_ends(void **state)
{
    struct fixture f = fixture_shared();
    uint32_t last = f.job->graph.job.n_steps - 1;
    struct vd_ref_claim claim = f.claim;
    assert_int_equal(f.claim.finish, VD_FINISH_LENGTH);
    claim.finish = VD_FINISH_STOP;
    expect_unbound(&f, &claim, f.trace, last);
    claim.finish = VD_FINISH_CANCELLED; /* it was not: it ended by itself */
    expect_unbound(&f, &claim, f.trace, last);
    claim.finish = VD_FINISH_FAIL;
    expect_unbound(&f, &claim, f.trace, last);
}

/* The first of the output's tokens is a stop token, and the worker went on. */
static void tokens_after_the_end(void **state)
{
    struct fixture f = fixture_new(&greedy, VD_ROPE_ADJACENT);
    f.model->program.stop[f.model->program.n_stop++] = f.job->output[1];
    toy_hash(f.model);
    struct vd_toy_job *liar = toy_job_copy(f.job, PROMPT - 1);
    struct vd_trace *t = toy_trace(liar);
    struct vd_ref_claim claim = toy_claim(liar, t);
    expect_unbound(&f, &claim, t, f.job->output[0] == f.job->output[1] ? PROMPT - 1 : PROMPT);
    vd_trace_destroy(t);
    toy_job_free(liar);
    fixture_free(&f);
}

/* A cancelled answer: fewer tokens than the model would give, no stop. */
static void cancelled(void **state)
{
    struct fixture f = fixture_shared();
    struct vd_toy_job *j = toy_job_copy(f.job, PROMPT + 1);
    j->graph.job.n_output = 2;
    j->graph.job.n_steps = PROMPT + 1;
    j->finish = VD_FINISH_CANCELLED;
    struct vd_trace *t = toy_trace(j);
    struct fixture g = {f.model, j, t, toy_claim(j, t)};
    for (uint32_t s = 0; s <= PROMPT; s++)
        assert_int_equal(bind_at(&g, &g.claim, s), VD_GAME_CHALLENGER_BIND);
    struct vd_ref_claim claim = g.claim;
    claim.finish = VD_FINISH_LENGTH;
    expect_unbound(&g, &claim, t, PROMPT);
    vd_trace_destroy(t);
    toy_job_free(j);
}

/* A commit root that belongs to another trace: found by the descent in the commit tree. */
static void lying_commit_root(void **state)
{
    struct fixture f = fixture_shared();
    struct vd_hash leaf = f.trace->commit[3];
    struct match m;
    struct vd_ref_claim claim = f.claim;
    struct vd_trace liar = *f.trace;
    liar.commit = malloc(f.job->graph.job.n_steps * sizeof leaf);
    memcpy(liar.commit, f.trace->commit, f.job->graph.job.n_steps * sizeof leaf);
    liar.commit[3].b[0] ^= 1;
    claim.commit_root = vd_merkle_root(liar.commit, f.job->graph.job.n_steps);
    liar.u = (struct vd_trace_unit_data){0};
    assert_int_equal(play(&m, &claim, &liar, f.trace), VD_OK);
    assert_int_equal(m.result, VD_GAME_REJECT_OPENING);
    assert_int_equal(m.game.phase, VD_PHASE_W_BIND_OPEN);
    assert_int_equal(m.game.step, 3);
    free(liar.commit);
}

/* ---- tokens ---- */

/* An output tree in which leaf `bad` has a salt that only the worker knows. */
struct poison {
    struct vd_hash leaf[TOKENS];
    uint32_t n, bad;
};

static struct vd_hash poison_root(struct poison *p, const struct vd_toy_job *j)
{
    p->n = j->graph.job.n_output;
    for (uint32_t i = 0; i < p->n; i++) {
        struct vd_hash salt = vd_trace_salt(j->job_salt, PROMPT + i);
        salt.b[0] ^= i == p->bad;
        p->leaf[i] = vd_token_leaf(&salt, PROMPT + i, j->output[i]);
    }
    return vd_merkle_root(p->leaf, p->n);
}

/* RECORDS of EMBED with the proof of that tree. */
static void poison_records(const struct poison *p, uint32_t i, struct vd_player_move *move)
{
    static uint8_t data[VD_OPENING_MAX_BYTES];
    struct vd_hash proof[8];
    struct vd_move m;
    size_t n = vd_merkle_range_proof_len(p->n, i, 1);
    assert_true(vd_move_decode((struct vd_bytes){move->bytes, move->n_bytes}, &m));
    vd_merkle_range_prove(p->leaf, p->n, i, 1, proof);
    memcpy(data, m.data.p, m.data.n);
    memcpy(data + m.data.n - n * sizeof proof[0], proof, n * sizeof proof[0]);
    m.data.p = data;
    move->n_bytes = vd_move_encode(&m, move->bytes, sizeof move->bytes);
}

/* A worker that lies in EMBED of an output token, under an output root whose other leaves nobody else can
 * make: the worker must open the token, so that helps it nothing. */
static void poisoned_token_trees(void **state)
{
    struct fixture f = fixture_shared();
    struct vd_toy_job *liar = toy_job_copy(f.job, PROMPT);
    assert_int_equal(f.job->graph.job.n_output, TOKENS);
    liar->lie = (struct vd_toy_lie){true, PROMPT, 0, 0, 5, 4};
    struct vd_trace *t = toy_trace(liar);
    struct vd_ref_claim claim = toy_claim(liar, t);
    for (uint32_t bad = 0; bad < TOKENS; bad++) {
        struct poison p = {.bad = bad};
        struct match m = {0};
        claim.output_root = poison_root(&p, liar);
        vd_game_open(&m.game);
        while (m.result == VD_GAME_ACCEPTED) {
            bool worker = vd_game_turn(&m.game) == VD_GAME_WORKER;
            if (worker)
                assert_int_equal(vd_player_worker_answer(t, &m.game, &tile_move, NULL), VD_OK);
            else
                assert_int_equal(vd_player_challenger_point(f.trace, &claim, &m.game, &tile_move, NULL),
                                 VD_OK);
            if (worker && m.game.phase == VD_PHASE_W_RECORDS)
                poison_records(&p, 0, &tile_move);
            move_of(&m, &claim, &tile_move);
        }
        assert_int_equal(m.game.step, PROMPT);
        /* bad = 0 is the very token: the worker cannot open it, and its clock runs out */
        assert_int_equal(m.result, bad ? VD_GAME_WORKER_TILE : VD_GAME_REJECT_OPENING);
        assert_int_equal(m.game.phase, bad ? VD_PHASE_OVER : VD_PHASE_W_RECORDS);
    }
    vd_trace_destroy(t);
    toy_job_free(liar);
}

/* Every byte of token and proof counts, there is nothing behind them, and only EMBED has them. */
static void tokens_are_opened_exactly(void **state)
{
    struct fixture f = fixture_shared();
    struct match m;
    struct vd_move r;
    static uint8_t data[VD_OPENING_MAX_BYTES];
    lead_to(&f, &m, 7, 0, 0, 3, &tile_move);
    assert_int_equal(m.game.token, f.job->prompt[7]);
    size_t n = m.game.n_record_bytes;
    m.game.phase = VD_PHASE_W_RECORDS;
    m.game.token = m.game.n_record_bytes = 0;
    assert_int_equal(vd_player_worker_answer(f.trace, &m.game, &tile_move, NULL), VD_OK);
    assert_true(vd_move_decode((struct vd_bytes){tile_move.bytes, tile_move.n_bytes}, &r));
    size_t all = r.data.n;
    assert_true(all > n + 4);
    memcpy(data, r.data.p, all);
    for (size_t i = n; i < all + 3; i++) {
        struct vd_game game = m.game;
        r.data = (struct vd_bytes){data, i < all ? all : i == all ? all - 1 : i == all + 1 ? all + 1 : n};
        data[i] ^= i < all;
        bad_move.n_bytes = vd_move_encode(&r, bad_move.bytes, sizeof bad_move.bytes);
        assert_int_equal(vd_game_move(&game, &f.claim, NULL, VD_GAME_WORKER,
                                      (struct vd_bytes){bad_move.bytes, bad_move.n_bytes}),
                         VD_GAME_REJECT_OPENING);
        assert_memory_equal(&game, &m.game, sizeof game);
        data[i] ^= i < all;
    }
    assert_int_equal(move_of(&m, &f.claim, &tile_move), VD_GAME_ACCEPTED);
    lead_to(&f, &m, 7, 1, 0, 0, &tile_move);
    m.game.phase = VD_PHASE_W_RECORDS;
    assert_int_equal(vd_player_worker_answer(f.trace, &m.game, &tile_move, NULL), VD_OK);
    assert_true(vd_move_decode((struct vd_bytes){tile_move.bytes, tile_move.n_bytes}, &r));
    memcpy(data, r.data.p, r.data.n);
    r.data = (struct vd_bytes){data, r.data.n + 4};
    bad_move.n_bytes = vd_move_encode(&r, bad_move.bytes, sizeof bad_move.bytes);
    assert_int_equal(move_of(&m, &f.claim, &bad_move), VD_GAME_REJECT_FIT);
}

/* Token ids that the vocabulary does not have read the last row, for tracer and referee alike. */
static void tokens_outside_the_vocabulary(void **state)
{
    struct fixture f = fixture_shared();
    struct vd_toy_job *j = toy_job_copy(f.job, 2);
    j->prompt[2] = f.model->program.vocab;
    j->output[1] = UINT32_MAX;
    struct vd_trace *t = toy_trace(j);
    struct fixture g = {f.model, j, t, toy_claim(j, t)};
    false_challenges_in(&g, 2, 0);
    false_challenges_in(&g, PROMPT + 1, 0);
    expect_pinned(&g, (struct vd_toy_lie){true, 2, 0, 0, 9, 4});
    expect_pinned(&g, (struct vd_toy_lie){true, PROMPT + 1, 0, 0, 9, 4});
    vd_trace_destroy(t);
    toy_job_free(j);
}

/* ---- salts and roots ---- */

static void wrong_salts(void **state)
{
    struct fixture f = fixture_shared();
    struct match m;
    struct vd_toy_job *liar = toy_job_copy(f.job, TOY_MAX_POS);
    liar->job_salt[0] ^= 1;
    struct vd_trace *t = toy_trace(liar);
    struct vd_ref_claim claim = toy_claim(liar, t);
    claim.salt_commit = f.claim.salt_commit;
    assert_int_equal(play(&m, &claim, t, f.trace), VD_OK);
    assert_int_equal(m.result, VD_GAME_WORKER_SALT);
    vd_trace_destroy(t);
    toy_job_free(liar);

    /* against an honest worker: another salt is no opening, the right one loses */
    struct vd_move c = {.kind = VD_MOVE_SALT};
    lead_to(&f, &m, 0, 0, 0, 0, &tile_move);
    m.game.phase = VD_PHASE_C_OP;
    memcpy(c.salt.b, f.job->job_salt, sizeof c.salt.b);
    c.salt.b[5] ^= 1;
    bad_move.n_bytes = vd_move_encode(&c, bad_move.bytes, sizeof bad_move.bytes);
    struct vd_bytes bytes = {bad_move.bytes, bad_move.n_bytes};
    assert_int_equal(vd_game_move(&m.game, &f.claim, NULL, VD_GAME_CHALLENGER, bytes),
                     VD_GAME_REJECT_OPENING);
    c.salt.b[5] ^= 1;
    bad_move.n_bytes = vd_move_encode(&c, bad_move.bytes, sizeof bad_move.bytes);
    bytes.n = bad_move.n_bytes;
    assert_int_equal(vd_game_move(&m.game, &f.claim, NULL, VD_GAME_CHALLENGER, bytes),
                     VD_GAME_CHALLENGER_SALT);
}

static void second_state_root(void **state)
{
    struct fixture f = fixture_shared();
    struct match m = {0};
    struct vd_hash known = f.trace->state_root;
    vd_game_open(&m.game);
    assert_int_equal(vd_player_worker_answer(f.trace, &m.game, &tile_move, NULL), VD_OK);
    struct vd_bytes bytes = {tile_move.bytes, tile_move.n_bytes};
    struct vd_game game = m.game;
    assert_int_equal(vd_game_move(&game, &f.claim, &known, VD_GAME_WORKER, bytes), VD_GAME_ACCEPTED);
    known.b[9] ^= 1;
    assert_int_equal(vd_game_move(&m.game, &f.claim, &known, VD_GAME_WORKER, bytes), VD_GAME_WORKER_STATE);
}

/* A worker that shows nodes of another tree is not heard. */
static void nodes_that_do_not_fit(void **state)
{
    struct fixture f = fixture_new(&both, VD_ROPE_ADJACENT);
    static const enum vd_game_phase worker_phase[] = {VD_PHASE_W_STATE,  VD_PHASE_W_UNITS,   VD_PHASE_W_OPS,
                                                      VD_PHASE_W_LEAVES, VD_PHASE_W_RECORDS, VD_PHASE_OVER};
    struct vd_toy_job *liar = toy_job_copy(f.job, 60);
    liar->lie = (struct vd_toy_lie){true, 66, 1, TOY_SCORE, 201, 4}; /* a score: 268 records in 2 leaves */
    struct vd_trace *t = toy_trace(liar);
    struct vd_ref_claim claim = toy_claim(liar, t);
    struct match m = {0};
    unsigned seen = 0;
    vd_game_open(&m.game);
    while (m.game.phase != VD_PHASE_OVER) {
        bool worker = vd_game_turn(&m.game) == VD_GAME_WORKER;
        if (worker)
            assert_int_equal(vd_player_worker_answer(t, &m.game, &tile_move, NULL), VD_OK);
        else
            assert_int_equal(vd_player_challenger_point(f.trace, &claim, &m.game, &tile_move, NULL), VD_OK);
        struct vd_bytes bytes = {bad_move.bytes, tile_move.n_bytes};
        struct vd_game before = m.game;
        if (worker) {
            assert_int_equal(m.game.phase, worker_phase[seen++]);
            memcpy(bad_move.bytes, tile_move.bytes, tile_move.n_bytes);
            bad_move.bytes[tile_move.n_bytes - 1] ^= 1;
            assert_int_equal(vd_game_move(&m.game, &claim, NULL, VD_GAME_WORKER, bytes), VD_GAME_REJECT_FIT);
            assert_int_equal(vd_game_move(&m.game, &claim, NULL, VD_GAME_CHALLENGER, bytes),
                             VD_GAME_REJECT_TURN);
            assert_memory_equal(&m.game, &before, sizeof before);
        }
        move_of(&m, &claim, &tile_move);
    }
    assert_int_equal(seen, 5);
    assert_int_equal(m.result, VD_GAME_WORKER_TILE);
    vd_trace_destroy(t);
    toy_job_free(liar);
    fixture_free(&f);
}

/* ---- FAIL ---- */

static void failed_job(void **state)
{
    struct vd_program p = toy_program(VD_ROPE_ADJACENT);
    static const struct vd_sampling *const all[] = {&greedy, &both};
    for (unsigned i = 0; i < 2; i++) {
        struct vd_toy_model *model = toy_model_new(&p, 2, 0.1f);
        for (uint32_t e = 0; e < p.width; e++) /* finite weights, logits that are not */
            vd_le32_store(model->weights[vd_program_norm_tensor(&p)] + 4 * e, vd_f32_bits(3e38f));
        toy_hash(model);
        struct vd_toy_job *job = toy_job_new(model, 5, 8, all[i]);
        struct vd_trace *t = toy_trace(job);
        struct fixture f = {model, job, t, toy_claim(job, t)};
        assert_int_equal(job->finish, VD_FINISH_FAIL);
        assert_int_equal(job->graph.job.n_output, 0);
        assert_true(vd_graph_valid(&job->graph));
        for (uint32_t s = 0; s < 5; s++)
            assert_int_equal(bind_at(&f, &f.claim, s), VD_GAME_CHALLENGER_BIND);
        false_challenges_in(&f, 4, 3);
        lie_everywhere(&f, 4, 3);
        fixture_free(&f);
    }
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
    corpus_dir = argc > 1 ? argv[1] : NULL;
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
        cmocka_unit_test(honest_receipt_binds_everywhere),
        cmocka_unit_test(lying_tokens),
        cmocka_unit_test(lying_ends),
        cmocka_unit_test(lies_about_a_vector),
        cmocka_unit_test(lengths_of_vectors),
        cmocka_unit_test(disputes_over_encoders),
        cmocka_unit_test(seeds_of_encoders),
        cmocka_unit_test(attention_over_every_position),
        cmocka_unit_test(encoders_of_another_program),
        cmocka_unit_test(tokens_after_the_end),
        cmocka_unit_test(cancelled),
        cmocka_unit_test(lying_commit_root),
        cmocka_unit_test(wrong_salts),
        cmocka_unit_test(second_state_root),
        cmocka_unit_test(nodes_that_do_not_fit),
        cmocka_unit_test(failed_job),
        cmocka_unit_test(poisoned_token_trees),
        cmocka_unit_test(tokens_are_opened_exactly),
        cmocka_unit_test(tokens_outside_the_vocabulary),
    };
    int bad = cmocka_run_group_tests(tests, NULL, NULL);
    if (shared.model)
        fixture_free(&shared);
    return bad;
}
