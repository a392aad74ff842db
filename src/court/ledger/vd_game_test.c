/* What the game is apart from trees and records: moves have one encoding and only their own fields, and each
 * position lets in only its own moves. Whole disputes are played in src/proof/vd_dispute*_test.c. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "vd_game.h"
#include "vd_trace_hash.h"

static uint8_t buf[VD_MOVE_MAX_BYTES], again[VD_MOVE_MAX_BYTES];

static const struct vd_program program = {.n_layers = 1,
                                          .width = 32,
                                          .n_heads = 1,
                                          .n_kv_heads = 1,
                                          .head_dim = 32,
                                          .ff_width = 32,
                                          .vocab = 10,
                                          .ctx = 8192,
                                          .n_tensors = 11,
                                          .n_rope = 1};

static struct vd_ref_claim claim_of(uint32_t n_steps)
{
    return (struct vd_ref_claim){
        .graph = {&program, {.n_prompt = n_steps, .n_output = 1, .n_steps = n_steps, .max_tokens = 1}},
        .finish = VD_FINISH_LENGTH};
}

static struct vd_bytes bytes_of(const struct vd_move *m)
{
    return (struct vd_bytes){buf, vd_move_encode(m, buf, sizeof buf)};
}

static void moves_round_trip(void **state)
{
    static const struct vd_hash nodes[3] = {{{1}}, {{2}}, {{3}}};
    const struct vd_bytes n = {(const uint8_t *)nodes, sizeof nodes}, d = {(const uint8_t *)"abc", 3};
    const struct vd_hash h = {{9}};
    const struct vd_move all[] = {{.kind = VD_MOVE_STATE, .root = h, .nodes = n},
                                  {.kind = VD_MOVE_NODES, .nodes = n},
                                  {.kind = VD_MOVE_OPS, .salt = h, .nodes = n},
                                  {.kind = VD_MOVE_RECORDS, .data = d},
                                  {.kind = VD_MOVE_BIND_OPEN, .data = d},
                                  {.kind = VD_MOVE_STEP, .index = 0},
                                  {.kind = VD_MOVE_STEP, .index = UINT64_MAX},
                                  {.kind = VD_MOVE_TILE, .index = 3, .data = d},
                                  {.kind = VD_MOVE_SALT, .salt = h}};
    for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct vd_move m;
        struct vd_bytes b = bytes_of(&all[i]);
        assert_true(vd_move_decode(b, &m));
        assert_int_equal(vd_move_encode(&m, again, sizeof again), b.n);
        assert_memory_equal(again, buf, b.n);
        assert_int_equal(vd_move_encode(&all[i], again, b.n - 1), 0);
    }
}

static void moves_have_only_their_own_fields(void **state)
{
    static const struct vd_hash h = {{9}};
    const struct vd_bytes n = {(const uint8_t *)&h, 32}, d = {(const uint8_t *)"abc", 3};
    const struct vd_move bad[] = {{.kind = 0},
                                  {.kind = VD_MOVE_STATE, .root = h, .nodes = n, .index = 1},
                                  {.kind = VD_MOVE_NODES, .nodes = n, .root = h},
                                  {.kind = VD_MOVE_RECORDS, .data = d, .nodes = n},
                                  {.kind = VD_MOVE_STEP, .index = 1, .data = d},
                                  {.kind = VD_MOVE_TILE, .index = 1, .salt = h},
                                  {.kind = VD_MOVE_NODES, .nodes = {(const uint8_t *)&h, 31}},
                                  {.kind = (enum vd_move_kind)17}};
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct vd_move m;
        assert_false(vd_move_decode(bytes_of(&bad[i]), &m));
    }
}

static struct vd_game game;

/* 3,000 steps: a state tree that takes two descents. */
static void two_descents(void **state)
{
    enum { N = 3000 };
    static struct vd_hash leaf[N], node[VD_GAME_SHOWN_MAX];
    static struct vd_merkle_span span[VD_GAME_SHOWN_MAX];
    struct vd_ref_claim claim = claim_of(N);
    struct vd_hash root, units[3] = {{{1}}, {{2}}, {{3}}};
    for (uint32_t s = 0; s < N; s++) {
        struct vd_hash step_root = vd_merkle_root(units, s == N - 1 ? 3 : 2);
        leaf[s] = vd_trace_step(s, &step_root);
    }
    root = vd_merkle_root(leaf, N);
    size_t n = vd_merkle_spans((struct vd_merkle_span){0, N}, VD_GAME_LEVELS, span, VD_GAME_SHOWN_MAX);
    for (size_t i = 0; i < n; i++)
        node[i] = vd_merkle_root(leaf + span[i].first, span[i].count);
    vd_game_open(&game);
    assert_int_equal(vd_game_turn(&game), VD_GAME_WORKER);
    struct vd_move m = {.kind = VD_MOVE_STATE, .root = root, .nodes = {(const uint8_t *)node, n * 32}};
    assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_CHALLENGER, bytes_of(&m)),
                     VD_GAME_REJECT_TURN);
    m.nodes.n -= 32;
    assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_WORKER, bytes_of(&m)), VD_GAME_REJECT_FIT);
    m.nodes.n += 32;
    assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_WORKER, bytes_of(&m)), VD_GAME_ACCEPTED);
    assert_int_equal(vd_game_turn(&game), VD_GAME_CHALLENGER);

    const struct vd_move wrong[] = {{.kind = VD_MOVE_UNIT},
                                    {.kind = VD_MOVE_STEP, .index = n},
                                    {.kind = VD_MOVE_BIND, .index = N},
                                    {.kind = VD_MOVE_BIND_NODE, .index = 1}};
    const enum vd_game_result why[] = {VD_GAME_REJECT_KIND, VD_GAME_REJECT_RANGE, VD_GAME_REJECT_RANGE,
                                       VD_GAME_REJECT_RANGE};
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_CHALLENGER, bytes_of(&wrong[i])), why[i]);
    size_t k = n;
    while (span[k - 1].first > 1234)
        k--;
    m = (struct vd_move){.kind = VD_MOVE_STEP, .index = k - 1};
    assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_CHALLENGER, bytes_of(&m)), VD_GAME_ACCEPTED);
    assert_int_equal(game.phase, VD_PHASE_W_NODES);
    struct vd_merkle_span s = game.steps.span;
    assert_true(s.first <= 1234 && 1234 < s.first + s.count && s.count > 1);
    m = (struct vd_move){.kind = VD_MOVE_NODES, .nodes = {(const uint8_t *)(leaf + s.first), s.count * 32}};
    assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_WORKER, bytes_of(&m)), VD_GAME_ACCEPTED);
    m = (struct vd_move){.kind = VD_MOVE_STEP, .index = 1234 - s.first};
    assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_CHALLENGER, bytes_of(&m)), VD_GAME_ACCEPTED);
    assert_int_equal(game.phase, VD_PHASE_W_UNITS);
    assert_int_equal(game.steps.span.first, 1234);

    /* the path folds back to the root */
    struct vd_hash h = game.steps.node;
    struct vd_merkle_span at = {0, N}, way[VD_GAME_PATH_MAX + 1], half[2];
    for (uint32_t i = 0; i < game.steps.n_siblings; i++) {
        way[i] = at;
        vd_merkle_spans(at, 1, half, 2);
        at = half[1234 >= half[1].first];
    }
    for (uint32_t i = game.steps.n_siblings; i-- > 0;) {
        vd_merkle_spans(way[i], 1, half, 2);
        bool right = 1234 >= half[1].first;
        h = vd_merkle_node(right ? &game.steps.sibling[i] : &h, right ? &h : &game.steps.sibling[i]);
    }
    assert_true(vd_hash_eq(&h, &root));
    m = (struct vd_move){.kind = VD_MOVE_UNITS, .nodes = {(const uint8_t *)units, 2 * 32}};
    assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_WORKER, bytes_of(&m)), VD_GAME_ACCEPTED);
}

/* An encoder's job of 2,048 positions: a stage has so many unit hashes that two moves show the way to one. */
static void two_descents_in_a_group(void **state)
{
    enum { N = 2048, AT = 1501, STAGE = 2 };
    static struct vd_hash unit[N], node[VD_GAME_SHOWN_MAX];
    static struct vd_merkle_span span[VD_GAME_SHOWN_MAX];
    static struct vd_program p = {.arith_version = 1,
                                  .kind = VD_PROGRAM_ENCODER,
                                  .n_layers = 1,
                                  .width = 32,
                                  .n_heads = 1,
                                  .n_kv_heads = 1,
                                  .head_dim = 32,
                                  .ff_width = 32,
                                  .vocab = 10,
                                  .ctx = N,
                                  .eps = 1e-5f,
                                  .attn_scale = 1,
                                  .embed_scale = 1,
                                  .act = VD_ACT_GELU,
                                  .layer_norm = true,
                                  .n_positions = N,
                                  .types = {0}};
    p.n_tensors = vd_program_norm_tensor(&p);
    assert_null(vd_program_check(&p));
    struct vd_ref_claim claim = {
        .graph = {&p,
                  {.n_prompt = N,
                   .n_output = 32,
                   .n_steps = N,
                   .max_tokens = 32,
                   .sampling = {.pooling = VD_POOLING_MEAN, .top_p_micro = 1000000}}}};
    assert_true(vd_graph_valid(&claim.graph));
    struct vd_hash group[4];
    for (uint32_t i = 0; i < 4; i++) {
        for (uint32_t k = 0; k < N; k++) {
            unit[k] = (struct vd_hash){{(uint8_t)i}};
            vd_le32_store(unit[k].b + 8, k);
        }
        struct vd_hash root = vd_merkle_root(unit, N);
        group[i] = vd_trace_step(i, &root);
    }
    for (uint32_t k = 0; k < N; k++)
        unit[k].b[0] = STAGE;
    size_t n = vd_merkle_spans((struct vd_merkle_span){0, N}, VD_GAME_LEVELS, span, VD_GAME_SHOWN_MAX);
    for (size_t i = 0; i < n; i++)
        node[i] = vd_merkle_root(unit + span[i].first, span[i].count);
    vd_game_open(&game);
    struct vd_move m = {
        .kind = VD_MOVE_STATE, .root = vd_merkle_root(group, 4), .nodes = {group[0].b, 4 * 32}};
    assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_WORKER, bytes_of(&m)), VD_GAME_ACCEPTED);
    m = (struct vd_move){.kind = VD_MOVE_STEP, .index = STAGE};
    assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_CHALLENGER, bytes_of(&m)), VD_GAME_ACCEPTED);
    m = (struct vd_move){.kind = VD_MOVE_UNITS,
                         .nodes = {unit[0].b, n * 32}}; /* not all, and not the nodes */
    assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_WORKER, bytes_of(&m)), VD_GAME_REJECT_FIT);
    m.nodes.p = node[0].b;
    assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_WORKER, bytes_of(&m)), VD_GAME_ACCEPTED);
    m = (struct vd_move){.kind = VD_MOVE_UNIT, .index = AT / 2};
    assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_CHALLENGER, bytes_of(&m)), VD_GAME_ACCEPTED);
    assert_int_equal(game.phase, VD_PHASE_W_UNITS);
    static uint8_t bytes[VD_GAME_MAX_BYTES];
    size_t n_bytes = vd_game_encode(&game, bytes, sizeof bytes);
    struct vd_game copy;
    assert_true(n_bytes > 0 && vd_game_decode((struct vd_bytes){bytes, n_bytes}, &claim, &copy));
    m = (struct vd_move){.kind = VD_MOVE_UNITS, .nodes = {unit[AT + 1].b, 2 * 32}};
    assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_WORKER, bytes_of(&m)), VD_GAME_REJECT_FIT);
    m.nodes.p = unit[AT - 1].b;
    assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_WORKER, bytes_of(&m)), VD_GAME_ACCEPTED);
    m = (struct vd_move){.kind = VD_MOVE_UNIT, .index = AT % 2};
    assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_CHALLENGER, bytes_of(&m)), VD_GAME_ACCEPTED);
    assert_int_equal(game.phase, VD_PHASE_W_OPS);
    assert_int_equal(game.step, AT);
    assert_int_equal(game.unit, STAGE);
}

/* The commit tree is descended only while something lies below: who could point at a single step for ever
 * would keep the worker answering. */
static void a_single_step_is_bound(void **state)
{
    enum { N = 3 };
    static struct vd_hash leaf[N];
    struct vd_ref_claim claim = claim_of(N);
    claim.commit_root = vd_merkle_root(leaf, N);
    struct vd_move state_move = {
        .kind = VD_MOVE_STATE, .root = claim.commit_root, .nodes = {leaf[0].b, sizeof leaf}};
    struct vd_move nodes = {.kind = VD_MOVE_BIND_NODES, .nodes = {leaf[0].b, sizeof leaf}};
    struct vd_move down = {.kind = VD_MOVE_BIND_NODE};
    vd_game_open(&game);
    assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_WORKER, bytes_of(&state_move)),
                     VD_GAME_ACCEPTED);
    assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_CHALLENGER, bytes_of(&down)),
                     VD_GAME_ACCEPTED);
    assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_WORKER, bytes_of(&nodes)), VD_GAME_ACCEPTED);
    for (down.index = 0; down.index <= N; down.index++)
        assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_CHALLENGER, bytes_of(&down)),
                         VD_GAME_REJECT_RANGE);
    assert_int_equal(game.phase, VD_PHASE_C_BIND);
}

/* A job of one step: its state root is the leaf itself, so nodes of the root zero would fit. Taken, it would
 * leave the worker free to show another root in the next dispute. */
static void no_zero_state_root(void **state)
{
    static const struct vd_hash zero, other = {{1}};
    struct vd_ref_claim claim = claim_of(1);
    struct vd_move m = {.kind = VD_MOVE_STATE, .nodes = {zero.b, VD_HASH_BYTES}};
    vd_game_open(&game);
    assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_WORKER, bytes_of(&m)), VD_GAME_REJECT_FIT);
    assert_int_equal(game.phase, VD_PHASE_W_STATE);
    assert_int_equal(vd_game_move(&game, &claim, &other, VD_GAME_WORKER, bytes_of(&m)), VD_GAME_WORKER_STATE);
    vd_game_open(&game);
    m = (struct vd_move){.kind = VD_MOVE_STATE, .root = other, .nodes = {other.b, VD_HASH_BYTES}};
    assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_WORKER, bytes_of(&m)), VD_GAME_ACCEPTED);
}

static void stored_games_are_checked(void **state)
{
    static uint8_t bytes[VD_GAME_MAX_BYTES];
    static struct vd_game other;
    struct vd_ref_claim claim = claim_of(40);
    static struct vd_hash leaf[40];
    vd_game_open(&game);
    struct vd_move m = {.kind = VD_MOVE_STATE,
                        .root = vd_merkle_root(leaf, 40),
                        .nodes = {(const uint8_t *)leaf, sizeof leaf}};
    assert_int_equal(vd_game_move(&game, &claim, NULL, VD_GAME_WORKER, bytes_of(&m)), VD_GAME_ACCEPTED);
    size_t n = vd_game_encode(&game, bytes, sizeof bytes);
    assert_true(vd_game_decode((struct vd_bytes){bytes, n}, &claim, &other));
    struct vd_ref_claim shorter = claim_of(39);
    assert_false(vd_game_decode((struct vd_bytes){bytes, n}, &shorter, &other));
    for (size_t i = 0; i < n; i++)
        assert_false(vd_game_decode((struct vd_bytes){bytes, i}, &claim, &other));
    game.phase = VD_PHASE_C_TILE;
    n = vd_game_encode(&game, bytes, sizeof bytes);
    assert_false(vd_game_decode((struct vd_bytes){bytes, n}, &claim, &other));
}

static void classes_of_results(void **state)
{
    assert_false(vd_game_rejected(VD_GAME_ACCEPTED));
    assert_true(vd_game_rejected(VD_GAME_REJECT_OPENING));
    assert_true(vd_game_worker_loses(VD_GAME_WORKER_STATE));
    assert_false(vd_game_worker_loses(VD_GAME_CHALLENGER_TILE));
    assert_true(vd_game_challenger_loses(VD_GAME_CHALLENGER_BIND));
    assert_string_equal(vd_move_name(VD_MOVE_BIND_OPEN), "BIND_OPEN");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moves_round_trip),
        cmocka_unit_test(moves_have_only_their_own_fields),
        cmocka_unit_test(two_descents),
        cmocka_unit_test(two_descents_in_a_group),
        cmocka_unit_test(a_single_step_is_bound),
        cmocka_unit_test(no_zero_state_root),
        cmocka_unit_test(stored_games_are_checked),
        cmocka_unit_test(classes_of_results),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
