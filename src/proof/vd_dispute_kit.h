/* What the tests of disputes share: a job of a toy model, games played by the two players, lies at every
 * operator, false challenges with whole and with broken openings. And the seeds of the fuzz targets of graph,
 * referee and ledger, which these tests write to the folder that they get as an argument: programs, games
 * with moves, openings. Tests only. */
#ifndef VD_DISPUTE_KIT_H
#define VD_DISPUTE_KIT_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "vd_player.h"
#include "vd_toy.h"

#include <stdio.h>

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
static inline bool in_full(void)
{
    return corpus_dir || getenv("VD_LONG");
}

static inline void save_seed(const char *target, const char *name, const void *head, size_t n_head,
                             const void *tail, size_t n_tail)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s/%s", corpus_dir, target, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(head, 1, n_head, f) != n_head || (n_tail && fwrite(tail, 1, n_tail, f) != n_tail) ||
        fclose(f) != 0)
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
static inline void save_move(const struct vd_graph *g, const struct vd_game *game,
                             const struct vd_player_move *move)
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
static inline void save_opening(const struct vd_graph *g, const struct vd_game *game, uint64_t record,
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
static inline void store_and_load(struct vd_game *game, const struct vd_ref_claim *claim)
{
    size_t n = vd_game_encode(game, game_bytes[0], sizeof game_bytes[0]);
    assert_true(n > 0);
    assert_true(vd_game_decode((struct vd_bytes){game_bytes[0], n}, claim, &copy));
    assert_int_equal(vd_game_encode(&copy, game_bytes[1], sizeof game_bytes[1]), n);
    assert_memory_equal(game_bytes[0], game_bytes[1], n);
    *game = copy;
}

static inline enum vd_game_result move_of(struct match *m, const struct vd_ref_claim *claim,
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
static inline enum vd_err answer(struct vd_trace *t, const struct vd_game *game, struct vd_player_move *move,
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
static inline enum vd_err play(struct match *m, const struct vd_ref_claim *claim, struct vd_trace *worker,
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

static inline struct fixture fixture_new(const struct vd_sampling *s, enum vd_rope_pairing pairing)
{
    struct vd_program p = toy_program(pairing);
    struct fixture f;
    f.model = toy_model_new(&p, 1, 0.1f);
    f.job = toy_job_new(f.model, PROMPT, TOKENS, s);
    f.trace = toy_trace(f.job);
    f.claim = toy_claim(f.job, f.trace);
    return f;
}

static inline void fixture_free(struct fixture *f)
{
    vd_trace_destroy(f->trace);
    toy_job_free(f->job);
    toy_model_free(f->model);
}

static struct fixture shared;
/* The greedy job, made once: to make it takes longer than most of these tests. Nobody changes or frees it. */
static inline struct fixture fixture_shared(void)
{
    if (!shared.model)
        shared = fixture_new(&greedy, VD_ROPE_ADJACENT);
    return shared;
}

/* ---- lies ---- */

static size_t most_opening, most_move;

static unsigned most_moves;
static inline void expect_pinned(struct fixture *f, struct vd_toy_lie lie)
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
static inline void lie_everywhere(struct fixture *f, uint32_t step, uint32_t unit)
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

/* A trace that keeps next to nothing: unit hashes of 64 of its 69 steps, cache rows of one chunk. */
static inline struct fixture fixture_that_forgets(void)
{
    struct fixture f = fixture_new(&both, VD_ROPE_HALVES);
    vd_trace_destroy(f.trace);
    f.job->keep_bytes = 1;
    f.trace = toy_trace(f.job);
    assert_true(f.trace->n_held < f.job->graph.job.n_steps);
    assert_memory_equal(&f.trace->commit_root, &f.claim.commit_root, VD_HASH_BYTES);
    return f;
}

/* ---- false challenges and openings ---- */

/* Leads a game on an honest worker to one record, as a challenger with any aim may, up to the TILE move. */
static inline void lead_to(struct fixture *f, struct match *m, uint32_t step, uint32_t unit, uint32_t op,
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
static inline void corrupt_opening(struct fixture *f, const struct match *at)
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
static inline void expect_tile(struct fixture *f, const struct vd_game *lying, struct vd_bytes bytes,
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

static inline void false_challenges_in(struct fixture *f, uint32_t step, uint32_t unit)
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

/* ---- BIND ---- */

static inline enum vd_game_result bind_at(struct fixture *f, const struct vd_ref_claim *claim, uint32_t step)
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

/* The worker's trace is the model's, its receipt is not: it cannot open BIND, so its clock runs out. */
static inline void expect_unbound(struct fixture *f, const struct vd_ref_claim *claim, struct vd_trace *t,
                                  uint32_t step)
{
    struct match m;
    assert_int_equal(play(&m, claim, t, t), VD_OK);
    assert_int_equal(m.result, VD_GAME_REJECT_OPENING);
    assert_int_equal(m.game.phase, VD_PHASE_W_BIND_OPEN);
    assert_int_equal(m.game.step, step);
    assert_int_equal(vd_game_turn(&m.game), VD_GAME_WORKER);
}

/* main of a file of tests. */
#define RUN_DISPUTE_TESTS(tests)                                                                             \
    do {                                                                                                     \
        corpus_dir = argc > 1 ? argv[1] : NULL;                                                              \
        int bad = cmocka_run_group_tests(tests, NULL, NULL);                                                 \
        if (shared.model)                                                                                    \
            fixture_free(&shared);                                                                           \
        return bad;                                                                                          \
    } while (0)

#endif
