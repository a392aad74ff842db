/* Token trees, salts and roots: what a worker signs or shows that no operator computes, and what does not
 * hash to what it opens. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "vd_dispute_kit.h"

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

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_salts),
        cmocka_unit_test(second_state_root),
        cmocka_unit_test(nodes_that_do_not_fit),
        cmocka_unit_test(poisoned_token_trees),
        cmocka_unit_test(tokens_are_opened_exactly),
        cmocka_unit_test(tokens_outside_the_vocabulary),
    };
    RUN_DISPUTE_TESTS(tests);
}
