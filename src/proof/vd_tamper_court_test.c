/* The tamper kit's games before the ledger itself: receipts that are settled, challenges with bonds, moves as
 * transactions, blocks that go by, clocks that run out, several challengers, money. After each block the kit
 * sums all records (kit_audit) and aborts if a credit is missing.
 *
 * A game of vd_tamper_test.c ends where a side has no move that is accepted; here that side's clock runs out,
 * or it moves too late, and the ledger draws the consequence. VD_LONG=1: 2,000 disputes. An exception names
 * base and tamper. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>

#include "vd_court_kit.h"
#include "vd_player.h"
#include "vd_tamper.h"

enum { CLIENT, GATEWAY, WORKER, WORKER2, HONEST, FRIEND };
enum { BASES = 15, BASES_LONG = 200, TAMPERS_OF_BASE = 6, FALSE_OF_BASE = 4, FIRST_TAMPER = 5000 };

static struct kit k;
static struct kit_net net;
static struct vd_player_move move;
static struct vd_game game;

static struct {
    uint64_t verdicts, clocks, late_moves, friends, moot, honest_paid;
} seen;

/* ---- a network for one receipt ---- */

static void give(int from, struct vd_tx tx, struct vd_hash *id)
{
    enum vd_tx_verdict v = kit_give(&net, from, tx, id);
    if (v != VD_TX_OK)
        fail_msg("a transaction was refused: %d", (int)v);
}

/* The base's model is registered, the worker staked, the client's escrow open. */
static struct vd_hash network_open(const struct tamper_base *b)
{
    struct vd_hash escrow;
    const struct vd_toy_model *m = b->model;
    memcpy(k.program, m->program_bytes, m->n_program_bytes);
    k.program_bytes = m->n_program_bytes;
    k.n_tensors = m->program.n_tensors;
    k.tensors_root = vd_merkle_root(m->tensor_leaf, m->program.n_tensors);
    kit_net_init(&net, &k);
    give(WORKER, (struct vd_tx){.kind = VD_TX_STAKE, .u.stake = {{KIT_MIN_STAKE}}}, NULL);
    give(WORKER,
         (struct vd_tx){.kind = VD_TX_REGISTER_MODEL,
                        .u.register_model = {{k.program, k.program_bytes}, k.n_tensors, k.tensors_root}},
         NULL);
    give(CLIENT, (struct vd_tx){.kind = VD_TX_ESCROW_OPEN, .u.escrow_open = {k.key[GATEWAY].pub, {2000}}},
         &escrow);
    kit_end(&net);
    return escrow;
}

/* Settles it; false: the ledger takes no such receipt. */
static bool settle(const struct vd_receipt *is, const struct vd_hash *escrow, struct vd_hash *id)
{
    static struct kit_receipt r;
    r.value = *is;
    r.value.request.genesis = k.ledger.genesis_hash;
    r.value.request.valid_until = 100;
    r.value.request.escrow_id = *escrow;
    r.value.request.sequence = 1;
    r.value.request.gateway = k.key[GATEWAY].pub;
    r.value.request.worker = k.key[WORKER].pub;
    kit_seal(&k, &r, WORKER, GATEWAY);
    *id = r.id;
    struct vd_tx tx = {.kind = VD_TX_SETTLE, .u.settle = {1, {{r.bytes, r.n}}}};
    return kit_give(&net, GATEWAY, tx, NULL) == VD_TX_OK;
}

static uint64_t balance(int who)
{
    struct vd_account a = {{0}, 0};
    vd_ledger_get_account(&net.block.overlay.kv, &k.key[who].pub, &a);
    return a.balance.micro;
}

static uint64_t stake(void)
{
    struct vd_stake s = {.n_open_receipts = 0};
    vd_ledger_get_stake(&net.block.overlay.kv, &k.key[WORKER].pub, &s);
    return s.amount.micro;
}

static struct vd_dispute dispute(const struct vd_hash *id)
{
    struct vd_dispute d;
    assert_true(vd_ledger_get_dispute(&net.block.overlay.kv, id, &d));
    return d;
}

static enum vd_receipt_status status(const struct vd_hash *id)
{
    struct vd_receipt_record r;
    assert_true(vd_ledger_get_receipt(&net.block.overlay.kv, id, &r));
    return r.status;
}

static struct vd_hash challenge(int who, const struct vd_hash *receipt)
{
    struct vd_hash id;
    give(who, (struct vd_tx){.kind = VD_TX_CHALLENGE, .u.challenge = {*receipt}}, &id);
    return id;
}

/* ---- moves ---- */

static bool load_game(const struct vd_hash *d, const struct vd_ref_claim *claim)
{
    struct vd_bytes bytes;
    return vd_ledger_get_game(&net.block.overlay.kv, d, &bytes) && vd_game_decode(bytes, claim, &game);
}

static enum vd_tx_verdict send(int who, const struct vd_hash *d)
{
    struct vd_tx tx = {.kind = VD_TX_MOVE, .u.move = {*d, {move.bytes, move.n_bytes}}};
    return kit_give(&net, who, tx, NULL);
}

/* Blocks go by, at most so many that the side to move is still in time. */
static void dawdle(struct vd_rng *rng, const struct vd_hash *d)
{
    uint64_t left = dispute(d).deadline_height - net.block.height;
    for (uint64_t n = vd_rng_below(rng, 3) ? 0 : vd_rng_below(rng, left + 1); n > 0; n--)
        kit_end(&net);
}

/* Past its deadline; a move that comes then is not heard. */
static void let_time_run_out(int who, const struct vd_hash *d, bool moves_late)
{
    uint64_t deadline = dispute(d).deadline_height;
    while (net.block.height <= deadline)
        kit_end(&net);
    if (moves_late) {
        assert_int_equal(send(who, d), VD_TX_UNKNOWN_DISPUTE);
        seen.late_moves++;
    }
    kit_end(&net);
}

struct side {
    int who;
    struct vd_trace *trace;
    uint32_t quits; /* the move of its own at which it stops moving */
    bool late;      /* and then moves too late */
};

/* Plays until the dispute is closed. The claim is the receipt's. */
static enum vd_dispute_status play(const struct vd_hash *d, const struct vd_ref_claim *claim,
                                   const struct side side[2], struct vd_rng *rng)
{
    uint32_t n_moves[2] = {0};
    while (vd_dispute_open(dispute(d).status)) {
        bool worker = dispute(d).status == VD_DISPUTE_WORKER_MOVES;
        const struct side *s = &side[!worker];
        assert_true(load_game(d, claim));
        enum vd_err e = worker ? vd_player_worker_answer(s->trace, &game, &move, NULL)
                               : vd_player_challenger_point(s->trace, claim, &game, &move, NULL);
        bool quits = n_moves[!worker]++ >= s->quits;
        dawdle(rng, d);
        if (e != VD_OK || quits || send(s->who, d) != VD_TX_OK)
            let_time_run_out(s->who, d, e == VD_OK && s->late);
    }
    return dispute(d).status;
}

/* ---- liars ---- */

#define FAIL_OF(t, n, what)                                                                                  \
    fail_msg("base %llu (%s) tamper %u, %s: %s", (unsigned long long)(t)->base->seed, (t)->base->form->name, \
             n, tamper_name((t)->kind), what)

static void expect_conviction(const struct tamper *t, uint32_t n, const struct vd_hash *receipt,
                              uint64_t honest_before)
{
    if (status(receipt) != VD_RECEIPT_VOID)
        FAIL_OF(t, n, "the receipt is not void");
    if (stake() != KIT_MIN_STAKE - KIT_SLASH)
        FAIL_OF(t, n, "the stake was not slashed");
    if (balance(HONEST) != honest_before + KIT_SLASH * 4 / 10)
        FAIL_OF(t, n, "the challenger did not get bond and share");
    for (int i = 0; i < KIT_WINDOW + 2; i++)
        kit_end(&net);
    if (balance(WORKER) != KIT_BALANCE - KIT_MIN_STAKE || status(receipt) != VD_RECEIPT_VOID)
        FAIL_OF(t, n, "the liar was paid");
}

/* The worker's friend challenges first and loses on purpose, or does nothing; then the honest one. */
static void friend_first(struct tamper *t, const struct vd_hash *receipt, const struct side *liar)
{
    struct vd_hash d = challenge(FRIEND, receipt);
    struct side side[2] = {*liar, {FRIEND, t->truth, (uint32_t)vd_rng_below(&t->rng, 3), chance(&t->rng, 2)}};
    side[0].quits = UINT32_MAX;
    kit_end(&net);
    if (chance(&t->rng, 2)) /* or its clock runs beside the other's */
        play(&d, &t->claim, side, &t->rng);
    seen.friends++;
}

static void tamper_in_court(const struct tamper_base *b, uint32_t n)
{
    static struct tamper t;
    struct vd_hash receipt, escrow;
    tamper_open(&t, b, n);
    escrow = network_open(b);
    bool valid = tamper_receipt_is_valid(&t.receipt);
    if (settle(&t.receipt, &escrow, &receipt) != valid)
        FAIL_OF(&t, n, valid ? "a valid receipt was not settled" : "an invalid receipt was settled");
    kit_end(&net);
    if (valid && !tamper_is_true(&t)) {
        struct side side[2] = {{WORKER, t.trace, UINT32_MAX, false}, {HONEST, t.truth, UINT32_MAX, false}};
        if (chance(&t.rng, 4))
            side[0].quits = (uint32_t)vd_rng_below(&t.rng, 5);
        side[0].late = chance(&t.rng, 2);
        if (chance(&t.rng, 3))
            friend_first(&t, &receipt, &side[0]);
        if (status(&receipt) == VD_RECEIPT_SETTLED) {
            uint64_t before = balance(HONEST);
            struct vd_hash d = challenge(HONEST, &receipt);
            kit_end(&net);
            enum vd_dispute_status s = play(&d, &t.claim, side, &t.rng);
            seen.verdicts += s == VD_DISPUTE_WORKER_LOST;
            seen.clocks += s == VD_DISPUTE_WORKER_LATE;
            seen.moot += s == VD_DISPUTE_MOOT;
            if (s == VD_DISPUTE_CHALLENGER_LOST || s == VD_DISPUTE_CHALLENGER_LATE)
                FAIL_OF(&t, n, "the honest challenger lost");
            if (s != VD_DISPUTE_MOOT)
                expect_conviction(&t, n, &receipt, before);
        }
    }
    kit_net_free(&net);
    tamper_close(&t);
}

static void liars_are_convicted(void **state)
{
    struct tamper_range r = tamper_range(BASES, BASES_LONG);
    for (uint64_t seed = r.first; seed < r.end; seed++) {
        struct tamper_base b;
        tamper_base_open(&b, seed);
        for (uint32_t i = 0; i < TAMPERS_OF_BASE; i++)
            tamper_in_court(&b, FIRST_TAMPER + i);
        tamper_base_close(&b);
        tamper_progress(&r, seed, seen.verdicts + seen.clocks + seen.moot, "disputes");
    }
    print_message(
        "    %llu verdicts, %llu on the clock (%llu moves came too late), %llu moot, %llu friends\n",
        (unsigned long long)seen.verdicts, (unsigned long long)seen.clocks,
        (unsigned long long)seen.late_moves, (unsigned long long)seen.moot, (unsigned long long)seen.friends);
    if (r.end - r.first >= BASES) /* a smaller portion may not meet all of them */
        assert_true(seen.verdicts > 0 && seen.clocks > 0 && seen.late_moves > 0 && seen.friends > 0);
}

/* ---- false challenges ---- */

/* Both disputes at once: the worker answers in the block in which it is asked; the challengers move when they
 * like, or no more. True if the worker lost neither. */
static bool answer_all(const struct tamper_base *b, const struct vd_hash d[2], const struct side side[2],
                       struct vd_rng *rng)
{
    uint32_t n_moves[2] = {0};
    for (bool open = true; open; kit_end(&net)) {
        open = false;
        for (int i = 0; i < 2; i++) {
            struct vd_dispute now = dispute(&d[i]);
            if (!vd_dispute_open(now.status)) {
                if (now.status != VD_DISPUTE_CHALLENGER_LOST && now.status != VD_DISPUTE_CHALLENGER_LATE)
                    return false;
                continue;
            }
            open = true;
            assert_true(load_game(&d[i], &b->claim));
            if (now.status == VD_DISPUTE_WORKER_MOVES) {
                if (vd_player_worker_answer(b->trace, &game, &move, NULL) != VD_OK || send(WORKER, &d[i]))
                    return false;
            } else if (n_moves[i] < side[i].quits && !chance(rng, 3) &&
                       vd_player_challenger_point(side[i].trace, &b->claim, &game, &move, NULL) == VD_OK) {
                n_moves[i]++;
                send(side[i].who, &d[i]);
            }
        }
    }
    return true;
}

/* Several at once: wrong ones that have a liar's trace, and idle ones. The worker answers all of them. */
static void false_challenges_in_court(const struct tamper_base *b, uint32_t n)
{
    static struct tamper t;
    struct vd_rng rng = {b->seed, (UINT64_C(1) << 51) + ((uint64_t)n << 24)};
    struct vd_receipt honest =
        tamper_receipt(b, b->job->graph.job.n_output, b->job->output, b->job->finish, &b->trace->commit_root);
    struct vd_hash receipt, escrow = network_open(b), d[2];
    uint64_t pay;
    tamper_open(&t, b, FIRST_TAMPER + 100 + n);
    bool wrong = t.trace->graph.job.n_steps == b->claim.graph.job.n_steps &&
                 t.trace->graph.job.n_output == b->claim.graph.job.n_output && t.kind != TAMPER_TYPE &&
                 t.kind != TAMPER_PROGRAM && t.kind != TAMPER_SAMPLING;
    assert_true(settle(&honest, &escrow, &receipt));
    pay = honest.amount.micro - honest.amount.micro * 8 / 100 - honest.amount.micro * 2 / 100;
    for (int i = 0; i < 2; i++)
        d[i] = challenge(HONEST + i, &receipt);
    kit_end(&net);
    struct side side[2];
    for (int i = 0; i < 2; i++)
        side[i] = (struct side){HONEST + i, wrong ? t.trace : b->trace, (uint32_t)vd_rng_below(&rng, 9),
                                chance(&rng, 2)};
    if (!answer_all(b, d, side, &rng))
        FAIL_OF(&t, n, "an honest worker lost");
    for (int i = 0; i < KIT_WINDOW + 2; i++)
        kit_end(&net);
    assert_int_equal(status(&receipt), VD_RECEIPT_FINAL);
    assert_int_equal(stake(), KIT_MIN_STAKE);
    assert_int_equal(balance(WORKER), KIT_BALANCE - KIT_MIN_STAKE + 2 * KIT_BOND + pay);
    assert_int_equal(balance(HONEST), KIT_BALANCE - KIT_BOND);
    seen.honest_paid++;
    kit_net_free(&net);
    tamper_close(&t);
}

static void honest_workers_are_paid(void **state)
{
    struct tamper_range r = tamper_range(BASES, BASES_LONG);
    for (uint64_t seed = r.first; seed < r.end; seed++) {
        struct tamper_base b;
        tamper_base_open(&b, seed);
        for (uint32_t i = 0; i < FALSE_OF_BASE; i++)
            false_challenges_in_court(&b, i);
        tamper_base_close(&b);
        tamper_progress(&r, seed, seen.honest_paid, "receipts");
    }
    print_message("    %llu receipts, two false challenges each\n", (unsigned long long)seen.honest_paid);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(liars_are_convicted),
        cmocka_unit_test(honest_workers_are_paid),
    };
    kit_init(&k);
    int bad = cmocka_run_group_tests(tests, NULL, NULL);
    kit_free(&k);
    return bad;
}
