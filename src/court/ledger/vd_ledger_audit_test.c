/* An audit from the commitments to its end: each transition, each refusal, and who gains and loses what. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vd_audit_kit.h"
#include "vd_game.h"

/* Who withdraws stays bound to what it may be drawn for up to a height, that height included. */
static void test_withdrawn_auditors_are_held(void **state)
{
    OK(AUDITOR, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, false}});
    uint64_t last = stake(AUDITOR).listed_until_height;
    assert_int_equal(last, vd_epoch_due(&k.genesis, vd_epoch_of(&k.genesis, net.block.height) - 1));
    until(last);
    REFUSED(VD_TX_STAKE_IN_USE, AUDITOR, {.kind = VD_TX_UNSTAKE, .u.stake = {{STAKE}}});
    REFUSED(VD_TX_WRONG_PHASE, AUDITOR, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, true}});
    blocks(1);
    OK(AUDITOR, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, true}});
    OK(AUDITOR, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, false}});
    until(stake(AUDITOR).listed_until_height + 1);
    OK(AUDITOR, {.kind = VD_TX_UNSTAKE, .u.stake = {{STAKE}}});
}

/* An audit under way holds the stake, on the list or not. */
static void test_an_open_audit_holds_the_stake(void **state)
{
    struct job j;
    k.genesis.audit_commit_blocks = 30;
    drawn_job(&j, NULL);
    OK(AUDITOR, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, false}});
    until(stake(AUDITOR).listed_until_height + 1);
    assert_int_equal(audit(&j.r.id).phase, VD_AUDIT_COMMITTING);
    REFUSED(VD_TX_STAKE_IN_USE, AUDITOR, {.kind = VD_TX_UNSTAKE, .u.stake = {{STAKE}}});
}

/* ---- commit and reveal ---- */

/* Nothing of what is committed to can be exchanged. */
static void test_a_commitment_holds_everything(void **state)
{
    struct vd_tx_audit_reveal all[6];
    for (int i = 0; i < 6; i++)
        all[i] = (struct vd_tx_audit_reveal){.verdict = VD_AUDIT_STANDS};
    all[1].receipt_id.b[0] = 1;
    all[2].verdict = VD_AUDIT_DIFFERS;
    all[3].half[0].b[0] = 1;
    all[4].half[1].b[0] = 1;
    all[5].nonce.b[0] = 1;
    struct vd_hash h[7];
    for (int i = 0; i < 7; i++)
        h[i] = vd_audit_commitment(&k.key[i < 6 ? AUDITOR : AUDITOR2].pub, &all[i % 6]);
    for (int a = 0; a < 7; a++)
        for (int b = a + 1; b < 7; b++)
            assert_false(vd_hash_eq(&h[a], &h[b]));
}

static void test_only_stands_shows_halves(void **state)
{
    struct job j;
    drawn_job(&j, NULL);
    struct vd_tx_audit_reveal a = says(&j, AUDITOR, VD_AUDIT_DIFFERS),
                              b = says(&j, AUDITOR2, VD_AUDIT_DIFFERS);
    a.half[0].b[0] = 1;
    b.half[1].b[0] = 1;
    both_commit(&a, &b);
    assert_int_equal(reveal(AUDITOR, &a), VD_TX_BAD_REVEAL);
    assert_int_equal(reveal(AUDITOR2, &b), VD_TX_BAD_REVEAL);
}

static void test_honest_audit(void **state)
{
    struct job j;
    drawn_job(&j, NULL);
    uint64_t before = balance(AUDITOR), before2 = balance(AUDITOR2);
    struct vd_tx_audit_reveal a = says(&j, AUDITOR, VD_AUDIT_STANDS), b = says(&j, AUDITOR2, VD_AUDIT_STANDS);
    assert_int_equal(stake(AUDITOR).n_open_audits, 1);
    REFUSED(VD_TX_STAKE_IN_USE, AUDITOR, {.kind = VD_TX_UNSTAKE, .u.stake = {{STAKE}}});
    assert_int_equal(commit(CLIENT, &a), VD_TX_NOT_DRAWN);
    assert_int_equal(commit(AUDITOR, &a), VD_TX_OK);
    assert_int_equal(commit(AUDITOR, &a), VD_TX_WRONG_PHASE); /* the first commitment counts */
    assert_int_equal(reveal(AUDITOR, &a), VD_TX_WRONG_PHASE); /* others could copy it */
    assert_int_equal(commit(AUDITOR2, &b), VD_TX_OK);
    assert_int_equal(audit(&j.r.id).phase, VD_AUDIT_REVEALING);
    assert_int_equal(reveal(CLIENT, &a), VD_TX_NOT_DRAWN);
    assert_int_equal(reveal(AUDITOR, &b), VD_TX_BAD_REVEAL);
    assert_int_equal(reveal(AUDITOR, &a), VD_TX_OK);
    assert_int_equal(reveal(AUDITOR, &a), VD_TX_WRONG_PHASE);
    assert_int_equal(reveal(AUDITOR2, &b), VD_TX_OK);
    assert_int_equal(audit(&j.r.id).phase, VD_AUDIT_HEARD);
    until(receipt(&j.r.id).window_end_height + 1);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_FINAL);
    assert_int_equal(audit(&j.r.id).phase, VD_AUDIT_CLOSED);
    assert_int_equal(balance(AUDITOR), before + REWARD);
    assert_int_equal(balance(AUDITOR2), before2 + REWARD);
    assert_int_equal(bucket(VD_BUCKET_POOL), 0);
    assert_int_equal(stake(AUDITOR).n_open_audits, 0);
    REFUSED(VD_TX_STAKE_IN_USE, AUDITOR, {.kind = VD_TX_UNSTAKE, .u.stake = {{STAKE}}}); /* may be drawn */
    OK(AUDITOR, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, false}});
    blocks(KIT_EPOCH);
    OK(AUDITOR, {.kind = VD_TX_UNSTAKE, .u.stake = {{STAKE}}});
}

/* The receipt is not paid while its audit is under way, even when its window has passed. */
static void test_an_audit_holds_the_payment_up(void **state)
{
    struct job j;
    k.genesis.audit_reveal_blocks = 30;
    drawn_job(&j, NULL);
    struct vd_tx_audit_reveal a = says(&j, AUDITOR, VD_AUDIT_STANDS);
    assert_int_equal(commit(AUDITOR, &a), VD_TX_OK);
    until(receipt(&j.r.id).window_end_height + 10);
    assert_int_equal(audit(&j.r.id).phase, VD_AUDIT_REVEALING);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_SETTLED);
    assert_int_equal(reveal(AUDITOR, &a), VD_TX_OK);
    blocks(1);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_FINAL);
}

static void test_who_is_silent_loses_and_is_drawn_no_more(void **state)
{
    struct job j;
    drawn_job(&j, NULL);
    struct vd_tx_audit_reveal a = says(&j, AUDITOR, VD_AUDIT_STANDS);
    assert_int_equal(commit(AUDITOR, &a), VD_TX_OK);
    until(audit(&j.r.id).deadline_height + 1);
    assert_int_equal(said(&j.r.id, AUDITOR2), VD_SLOT_MISSED);
    assert_int_equal(stake(AUDITOR2).amount.micro, STAKE - KIT_AUDIT_SLASH);
    assert_int_equal(auditor(AUDITOR2).off_height, net.block.height - 1);
    assert_int_equal(stake(AUDITOR2).n_listed, 0);
    until(audit(&j.r.id).deadline_height + 1); /* and the other does not reveal */
    assert_int_equal(said(&j.r.id, AUDITOR), VD_SLOT_MISSED);
    assert_int_equal(stake(AUDITOR).amount.micro, STAKE - KIT_AUDIT_SLASH);
    blocks(KIT_WINDOW);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_FINAL); /* the worker loses nothing by it */
    assert_int_equal(bucket(VD_BUCKET_POOL), AMOUNT / 20);
    assert_int_equal(stake(AUDITOR).n_open_audits, 0);
}

/* Lazy: says STANDS without having computed anything. */
static void test_lazy_auditor_cannot_reveal(void **state)
{
    struct job j;
    drawn_job(&j, NULL);
    struct vd_tx_audit_reveal lazy = says(&j, AUDITOR, VD_AUDIT_STANDS),
                              b = says(&j, AUDITOR2, VD_AUDIT_STANDS);
    memset(lazy.half, 5, sizeof lazy.half);
    both_commit(&lazy, &b);
    assert_int_equal(reveal(AUDITOR, &lazy), VD_TX_BAD_REVEAL);
    assert_int_equal(reveal(AUDITOR2, &b), VD_TX_OK);
    struct vd_tx_audit_reveal told = b; /* the other has shown it by now: too late */
    told.nonce = lazy.nonce;
    assert_int_equal(reveal(AUDITOR, &told), VD_TX_BAD_REVEAL);
    until(audit(&j.r.id).deadline_height + 1);
    assert_int_equal(said(&j.r.id, AUDITOR), VD_SLOT_MISSED);
    assert_int_equal(stake(AUDITOR).amount.micro, STAKE - KIT_AUDIT_SLASH);
}

/* A commitment names its auditor, so a copy of it cannot be opened by another. */
static void test_copied_commitment_cannot_be_revealed(void **state)
{
    struct job j;
    drawn_job(&j, NULL);
    struct vd_tx_audit_reveal a = says(&j, AUDITOR, VD_AUDIT_STANDS);
    struct vd_tx copy = {.kind = VD_TX_AUDIT_COMMIT, .u.audit_commit.receipt_id = j.r.id};
    copy.u.audit_commit.commitment = vd_audit_commitment(&k.key[AUDITOR].pub, &a);
    OK(AUDITOR, copy);
    OK(AUDITOR2, copy);
    assert_int_equal(reveal(AUDITOR, &a), VD_TX_OK);
    assert_int_equal(reveal(AUDITOR2, &a), VD_TX_BAD_REVEAL);
    until(audit(&j.r.id).deadline_height + 1);
    assert_int_equal(said(&j.r.id, AUDITOR2), VD_SLOT_MISSED);
}

/* Whoever orders transactions sees a reveal before it stands in a block, and gains nothing: what an auditor
 * has committed to stays, and a reveal fits nobody else's commitment. */
static void test_front_run_of_a_reveal_gains_nothing(void **state)
{
    struct job j;
    drawn_job(&j, NULL);
    struct vd_tx_audit_reveal a = says(&j, AUDITOR, VD_AUDIT_STANDS),
                              b = says(&j, AUDITOR2, VD_AUDIT_DIFFERS);
    both_commit(&a, &b);
    assert_int_equal(reveal(AUDITOR2, &a), VD_TX_BAD_REVEAL);
    assert_int_equal(reveal(STRANGER, &a), VD_TX_UNKNOWN_ACCOUNT);
    assert_int_equal(commit(AUDITOR2, &a), VD_TX_WRONG_PHASE);
    assert_int_equal(reveal(AUDITOR, &a), VD_TX_OK);
    assert_int_equal(reveal(AUDITOR2, &b), VD_TX_OK);
}

/* One finds a difference, disputes it and wins (the worker is silent); the other said that it stands. Nobody
 * honest can lose by a verdict that a worker may bring about by itself. */
static void test_differs_and_wins(void **state)
{
    struct job j;
    drawn_job(&j, NULL);
    both_say(&j, VD_AUDIT_DIFFERS, VD_AUDIT_STANDS);
    uint64_t before = balance(AUDITOR), before2 = balance(AUDITOR2);
    challenge(AUDITOR, &j);
    blocks(KIT_CLOCK * 2 + 2);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_VOID);
    assert_int_equal(receipt(&j.r.id).void_why, VD_VOID_LATE);
    assert_int_equal(audit(&j.r.id).phase, VD_AUDIT_CLOSED);
    assert_int_equal(balance(AUDITOR), before + KIT_SLASH * 4 / 10 + REWARD); /* out of what would burn */
    assert_int_equal(balance(AUDITOR2), before2 + REWARD);
    assert_int_equal(stake(AUDITOR2).amount.micro, STAKE);
}

/* By a verdict, not by a clock: who said that it stands gets nothing, and loses nothing. */
static void test_stands_is_not_paid_against_a_verdict(void **state)
{
    struct job j;
    uint8_t buf[2][256];
    struct vd_hash d[2];
    drawn_job(&j, NULL);
    both_say(&j, VD_AUDIT_DIFFERS, VD_AUDIT_STANDS);
    uint64_t before = balance(AUDITOR), before2 = balance(AUDITOR2);
    for (int i = 0; i < 2; i++) {
        struct vd_hash shown[3] = {{{1}}, {{2}}, {{(uint8_t)i}}};
        struct vd_move m = {.kind = VD_MOVE_STATE, .root = vd_merkle_root(shown, 3)};
        m.nodes = (struct vd_bytes){shown[0].b, sizeof shown};
        d[i] = challenge(AUDITOR, &j);
        size_t n = vd_move_encode(&m, buf[i], sizeof buf[i]);
        OK(WORKER, {.kind = VD_TX_MOVE, .u.move = {d[i], {buf[i], n}}}); /* the second time another root */
    }
    assert_int_equal(receipt(&j.r.id).void_why, VD_VOID_VERDICT);
    blocks(KIT_CLOCK * 2 + 1);
    assert_int_equal(balance(AUDITOR), before + KIT_SLASH * 4 / 10 + REWARD);
    assert_int_equal(balance(AUDITOR2), before2);
    assert_int_equal(stake(AUDITOR2).amount.micro, STAKE);
}

static void test_false_alarm_costs(void **state)
{
    struct job j;
    drawn_job(&j, NULL);
    both_say(&j, VD_AUDIT_DIFFERS, VD_AUDIT_STANDS);
    uint64_t at = net.block.height; /* there is time to challenge, whatever the window was */
    assert_true(receipt(&j.r.id).window_end_height >= at + KIT_COMMIT);
    until(receipt(&j.r.id).window_end_height + 1);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_FINAL);
    assert_int_equal(stake(AUDITOR).amount.micro, STAKE - KIT_AUDIT_SLASH);
    assert_int_equal(stake(AUDITOR2).amount.micro, STAKE);
}

/* A verdict in the middle of an audit: whoever has not spoken was not late. */
static void test_a_verdict_ends_the_audit(void **state)
{
    struct job j;
    k.genesis.audit_commit_blocks = 30;
    open_escrow(&j);
    make_job(&j, 1, NULL);
    settle(&j);
    challenge(CLIENT, &j);
    reveal_layer();
    assert_int_equal(receipt(&j.r.id).void_why, VD_VOID_LATE); /* before it was drawn */
    assert_false(receipt(&j.r.id).audited);

    make_job(&j, 2, NULL);
    OK(WORKER, {.kind = VD_TX_STAKE, .u.stake = {{STAKE}}});
    settle(&j);
    reveal_layer();
    challenge(CLIENT, &j);
    struct vd_tx_audit_reveal a = says(&j, AUDITOR, VD_AUDIT_STANDS);
    assert_int_equal(commit(AUDITOR, &a), VD_TX_OK);
    blocks(KIT_CLOCK * 2 + 2);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_VOID);
    assert_int_equal(audit(&j.r.id).phase, VD_AUDIT_CLOSED);
    assert_int_equal(stake(AUDITOR).amount.micro + stake(AUDITOR2).amount.micro, 2 * STAKE);
    assert_int_equal(stake(AUDITOR).n_open_audits + stake(AUDITOR2).n_open_audits, 0);
    assert_int_equal(reveal(AUDITOR, &a), VD_TX_WRONG_PHASE);
}

/* ---- what a worker could gain with auditors of its own ---- */

/* It has itself convicted once, and all its receipts become void: they pay nothing into the pool, so nothing
 * may come out of it for them. The worker's stake pays those who did look. */
static void test_void_receipts_do_not_empty_the_pool(void **state)
{
    struct job j, lost;
    k.genesis.audit_window_blocks = 20;
    assert_true(vd_block_debit(&net.block, &k.key[CLIENT].pub, vd_amount_micro(1000)));
    net.block.totals.bucket[VD_BUCKET_POOL].micro = 1000; /* what others' receipts have paid in */
    open_escrow(&j);
    lost.escrow = j.escrow;
    make_job(&lost, 2, NULL);
    settle(&lost);
    draw_job(&j, NULL);
    both_say(&j, VD_AUDIT_STANDS, VD_AUDIT_STANDS);
    uint64_t before = balance(AUDITOR);
    challenge(CLIENT, &lost);
    blocks(KIT_CLOCK * 2 + 1);
    uint64_t left = stake(WORKER).amount.micro;
    until(receipt(&j.r.id).window_end_height + 1);
    assert_int_equal(receipt(&j.r.id).void_why, VD_VOID_CONVICTED);
    assert_int_equal(bucket(VD_BUCKET_POOL), 1000);
    assert_int_equal(balance(AUDITOR), before + REWARD);
    assert_int_equal(stake(WORKER).amount.micro, left - 2 * REWARD);
}

/* An audit's clock holds what all others of the auditor take, not a multiple of its own job's. */
static void test_clocks_add_up(void **state)
{
    struct job j[2];
    k.genesis.steps_per_block = 1; /* three blocks for a job of three steps */
    open_escrow(&j[0]);
    j[1].escrow = j[0].escrow;
    make_job(&j[0], 1, NULL);
    settle(&j[0]);
    make_job(&j[1], 2, NULL);
    settle(&j[1]);
    reveal_layer();
    uint64_t first = audit(&j[0].r.id).clock_blocks, second = audit(&j[1].r.id).clock_blocks;
    assert_int_equal(first < second ? first : second, KIT_COMMIT + 3);
    assert_int_equal(first < second ? second : first, KIT_COMMIT + 6);
    assert_int_equal(stake(AUDITOR).audit_blocks, 6);
    blocks(40);
    assert_int_equal(stake(AUDITOR).audit_blocks, 0);
}

/* The record of a closed audit goes when its time is over; the receipt's stays. */
static void test_closed_audits_leave_the_state(void **state)
{
    enum { HISTORY = 9 };
    struct job j;
    k.genesis.history_blocks = HISTORY;
    drawn_job(&j, NULL);
    both_say(&j, VD_AUDIT_STANDS, VD_AUDIT_STANDS);
    while (receipt(&j.r.id).status == VD_RECEIPT_SETTLED)
        kit_end(&net);
    uint64_t closed = receipt(&j.r.id).close_height;
    until(closed + HISTORY);
    assert_int_equal(audit(&j.r.id).phase, VD_AUDIT_CLOSED);
    until(closed + HISTORY + 1);
    assert_int_equal(audit(&j.r.id).phase, 0);
    struct vd_tx_audit_reveal a = says(&j, AUDITOR, VD_AUDIT_STANDS);
    assert_int_not_equal(commit(AUDITOR, &a), VD_TX_OK);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_FINAL);
    blocks(3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_closed_audits_leave_the_state),
        T(test_withdrawn_auditors_are_held),
        T(test_an_open_audit_holds_the_stake),
        T(test_a_commitment_holds_everything),
        T(test_only_stands_shows_halves),
        T(test_honest_audit),
        T(test_an_audit_holds_the_payment_up),
        T(test_who_is_silent_loses_and_is_drawn_no_more),
        T(test_lazy_auditor_cannot_reveal),
        T(test_copied_commitment_cannot_be_revealed),
        T(test_front_run_of_a_reveal_gains_nothing),
        T(test_differs_and_wins),
        T(test_stands_is_not_paid_against_a_verdict),
        T(test_false_alarm_costs),
        T(test_a_verdict_ends_the_audit),
        T(test_void_receipts_do_not_empty_the_pool),
        T(test_clocks_add_up),
    };
    RUN_AUDIT_TESTS(tests);
}
