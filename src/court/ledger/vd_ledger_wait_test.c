/* Draws that wait: more deadlines than a block ends, more audits than it opens, epochs without a layer.
 * Whatever they wait for, nothing is paid before its draw, and nobody whom they fall on steps aside
 * meanwhile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "vd_audit_kit.h"
#include "vd_game.h"

enum { SHORTEST = KIT_EPOCH + KIT_BEACON }; /* window that there may be */

/* ---- more audits than a block opens ---- */

enum { MANY = VD_BLOCK_MAX_DRAWS + 3 };

static void settle_many(struct job j[MANY])
{
    OK(WORKER, {.kind = VD_TX_STAKE, .u.stake = {{AMOUNT * MANY}}});
    struct vd_tx tx = {.kind = VD_TX_ESCROW_OPEN, .u.escrow_open = {k.key[GATEWAY].pub, {AMOUNT * MANY}}};
    assert_int_equal(kit_give(&net, CLIENT, tx, &j[0].escrow), VD_TX_OK);
    for (int i = 0; i < MANY; i++) {
        j[i].escrow = j[0].escrow;
        make_job(&j[i], (uint64_t)i, NULL);
        settle(&j[i]);
    }
}

static int count_audited(const struct job j[MANY])
{
    int n = 0;
    for (int i = 0; i < MANY; i++)
        n += receipt(&j[i].r.id).audited;
    return n;
}

/* Draws go by receipt id: this one waits longest. */
static int last_of(const struct job j[MANY])
{
    int last = 0;
    for (int i = 1; i < MANY; i++)
        last = memcmp(j[i].r.id.b, j[last].r.id.b, VD_HASH_BYTES) > 0 ? i : last;
    return last;
}

static void test_draws_of_a_block_are_bounded(void **state)
{
    static struct job j[MANY];
    settle_many(j);
    reveal_layer();
    assert_int_equal(count_audited(j), VD_BLOCK_MAX_DRAWS);
    /* Those that wait stay drawn: another beacon, which would draw nothing, does not save them. */
    k.genesis.audit_rate_ppm = 0;
    blocks(1);
    assert_int_equal(count_audited(j), MANY);
}

/* Each comes back in the block of its place and not before: two blocks' worth wait for the next and the one
 * after. */
static void test_each_has_its_place(void **state)
{
    static struct job j[MANY];
    settle_many(j);
    net.block.totals.place_height = vd_epoch_due(&k.genesis, first_epoch) + 5; /* taken by others' */
    net.block.totals.n_places = VD_BLOCK_MAX_DRAWS - 1;
    reveal_layer();
    assert_int_equal(count_audited(j), 0);
    blocks(4);
    assert_int_equal(count_audited(j), 0);
    blocks(1);
    assert_int_equal(count_audited(j), 1);
    blocks(1);
    assert_int_equal(count_audited(j), 1 + VD_BLOCK_MAX_DRAWS);
    blocks(1);
    assert_int_equal(count_audited(j), MANY);
}

/* Places of several blocks that come up in one, because deadlines were behind, do not open more than one
 * block opens. */
static void test_late_places_open_no_more(void **state)
{
    static struct job j[MANY];
    settle_many(j);
    uint64_t due = vd_epoch_due(&k.genesis, first_epoch);
    for (int i = 0; i < MANY; i++) { /* all have had their places in blocks before */
        struct vd_receipt_record r = receipt(&j[i].r.id);
        r.drawn_epoch = first_epoch + 1;
        r.drawn_rate_ppm = VD_PPM;
        vd_block_put_receipt(&net.block, &j[i].r.id, &r);
    }
    reveal_layer();
    assert_int_equal(count_audited(j), VD_BLOCK_MAX_DRAWS);
    assert_int_equal(net.block.totals.place_height, due + 1);
    blocks(1);
    assert_int_equal(count_audited(j), MANY);
}

static struct vd_tx first_move(const struct vd_hash *dispute, uint8_t buf[256])
{
    struct vd_hash node[3] = {{{1}}, {{2}}, {{3}}};
    struct vd_move m = {
        .kind = VD_MOVE_STATE, .root = vd_merkle_root(node, 3), .nodes = {node[0].b, sizeof node}};
    struct vd_tx tx = {.kind = VD_TX_MOVE, .u.move.dispute_id = *dispute};
    tx.u.move.move = (struct vd_bytes){buf, vd_move_encode(&m, buf, 256)};
    return tx;
}

/* A friend of the worker whose challenge runs out in the last block of the window gets nothing paid that was
 * drawn and waits for its place. */
static void test_a_dispute_saves_nothing_from_a_draw_that_waits(void **state)
{
    static struct job j[MANY];
    struct vd_hash dispute;
    uint8_t buf[256];
    uint64_t begin = net.block.height;
    k.genesis.audit_window_blocks = SHORTEST;
    settle_many(j);
    int last = last_of(j);
    until(begin + SHORTEST - KIT_CLOCK);
    struct vd_tx tx = {.kind = VD_TX_CHALLENGE, .u.challenge = {j[last].r.id}};
    assert_int_equal(kit_give(&net, CLIENT, tx, &dispute), VD_TX_OK);
    assert_int_equal(kit_give(&net, WORKER, first_move(&dispute, buf), NULL), VD_TX_OK);
    reveal_layer();
    assert_false(receipt(&j[last].r.id).audited);
    assert_int_equal(receipt(&j[last].r.id).n_open_disputes, 1);
    blocks(1);
    assert_int_equal(receipt(&j[last].r.id).n_open_disputes, 0);
    assert_int_equal(receipt(&j[last].r.id).status, VD_RECEIPT_SETTLED);
    assert_true(receipt(&j[last].r.id).audited);
}

/* Nor does the end of its window, however long it waits; nor the end of the beacon that drew it: its auditors
 * then come from a later one. */
static void test_what_waits_for_its_place_is_not_paid(void **state)
{
    static struct job j[MANY];
    struct vd_state_key at = vd_state_key_beacon(first_epoch);
    enum { FAR = 3 * KIT_EPOCH };
    k.genesis.audit_window_blocks = SHORTEST;
    settle_many(j);
    uint64_t due = vd_epoch_due(&k.genesis, first_epoch);
    net.block.totals.place_height = due + FAR;
    reveal_layer();
    vd_block_delete(&net.block, &at);
    k.genesis.audit_rate_ppm = 0;
    until(due + FAR + 1);
    assert_int_equal(count_audited(j), 0); /* no keeper has gone on */
    for (int i = 0; i < MANY; i++)
        assert_int_equal(receipt(&j[i].r.id).status, VD_RECEIPT_SETTLED);
    struct vd_beacon later = {.n_layers = 1};
    uint8_t buf[VD_STATE_RECORD_MAX_BYTES];
    uint64_t next = vd_epoch_of(&k.genesis, net.block.height - KIT_BEACON); /* the one due next */
    at = vd_state_key_beacon(next);
    vd_block_put(&net.block, &at, buf, vd_beacon_encode(&later, buf, sizeof buf));
    until(vd_epoch_due(&k.genesis, next) + 1);
    assert_int_equal(count_audited(j), VD_BLOCK_MAX_DRAWS);
    blocks(1);
    assert_int_equal(count_audited(j), MANY);
}

/* Without an auditor it is paid when its place comes up, if its window has passed by then. */
static void test_a_place_without_an_auditor(void **state)
{
    static struct job j[MANY];
    OK(AUDITOR, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, false}});
    OK(AUDITOR2, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, false}});
    k.genesis.audit_window_blocks = SHORTEST;
    settle_many(j);
    reveal_layer();
    assert_int_equal(receipt(&j[last_of(j)].r.id).status, VD_RECEIPT_SETTLED);
    blocks(1);
    assert_int_equal(count_audited(j), 0);
    for (int i = 0; i < MANY; i++)
        assert_int_equal(receipt(&j[i].r.id).status, VD_RECEIPT_FINAL);
}

/* Who withdrew, and could be back or gone before the draws that wait for their places, is held until they
 * have been made, or for a window: else it chose whether it is drawn. */
static void test_nobody_steps_aside_from_a_place(void **state)
{
    struct vd_tx on = {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, true}};
    struct vd_tx off = {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, false}};
    struct vd_tx unstake = {.kind = VD_TX_UNSTAKE, .u.stake = {{STAKE}}};
    OK(AUDITOR, off);
    OK(AUDITOR2, off);
    uint64_t last = stake(AUDITOR).listed_until_height;
    net.block.totals.place_height = last + WINDOW + 10;
    until(last + WINDOW);
    REFUSED(VD_TX_WRONG_PHASE, AUDITOR, on);
    REFUSED(VD_TX_STAKE_IN_USE, AUDITOR2, unstake);
    blocks(1);
    OK(AUDITOR, on);
    OK(AUDITOR2, unstake);
    OK(AUDITOR, off);
    last = stake(AUDITOR).listed_until_height;
    net.block.totals.place_height = last + 2;
    until(last + 2);
    REFUSED(VD_TX_WRONG_PHASE, AUDITOR, on);
    blocks(1); /* the last place has come up */
    OK(AUDITOR, on);
}

/* ---- more deadlines than a block ends ---- */

/* So many blocks' worth of deadlines at a height: escrows that end there, made by hand. */
static void crowd(uint64_t height, int n_blocks)
{
    struct vd_escrow e = {.open_height = 1, .end_height = height};
    for (int i = 0; i < n_blocks * VD_BLOCK_MAX_DEADLINES; i++) {
        struct vd_hash id = {{0xff, (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i}};
        vd_block_put_escrow(&net.block, &id, &e);
        vd_block_deadline_add(&net.block, height, VD_DEADLINE_ESCROW, &id);
    }
}

/* What ending them costs grows with their number, not with its square: the state is asked some times for
 * each. */
static void test_a_full_block_of_deadlines_is_quick(void **state)
{
    crowd(net.block.height + 1, 1);
    blocks(1);
    uint64_t before = net.state.n_next;
    assert_int_equal(vd_ledger_end(&net.block, NULL), VD_OK);
    assert_in_range(net.state.n_next - before, VD_BLOCK_MAX_DEADLINES, 4 * VD_BLOCK_MAX_DEADLINES);
    kit_begin(&net);
}

/* A deadline that is made behind the one that runs is the next. */
static void test_no_deadline_is_passed_over(void **state)
{
    struct vd_hash id = {{1}};
    struct vd_ledger_block b = net.block;
    b.ending = true;
    b.deadline = vd_state_key_make(VD_STATE_DEADLINE, (uint8_t[9]){0, 0, 0, 0, 0, 0, 0, 9, 6}, 9, id.b);
    struct vd_state_key runs = b.deadline;
    vd_block_deadline_add(&b, 9, VD_DEADLINE_TRAP, &id);
    assert_memory_equal(b.deadline.b, runs.b, runs.n);
    vd_block_deadline_add(&b, 9, VD_DEADLINE_RECEIPT, &id);
    assert_int_equal(b.deadline.b[8], 9);
    assert_int_equal(b.deadline.b[9], VD_DEADLINE_RECEIPT);
    kit_begin(&net);
}

static void play(const struct vd_hash *id, struct vd_move m, int who)
{
    uint8_t buf[256];
    struct vd_tx tx = {.kind = VD_TX_MOVE, .u.move.dispute_id = *id};
    tx.u.move.move = (struct vd_bytes){buf, vd_move_encode(&m, buf, sizeof buf)};
    assert_int_equal(kit_give(&net, who, tx, NULL), VD_TX_OK);
}

/* All of a game about a job of one step but the move with which the challenger loses it: SALT. */
static void play_to_the_last_move(const struct vd_hash *id)
{
    struct vd_hash op = {{1}}, unit[3] = {{{0}}, {{2}}, {{3}}};
    struct vd_trace_at at = {.salt = vd_trace_salt(k.job_salt, 0)};
    unit[0] = vd_trace_unit(&at, &op, 1);
    struct vd_hash step_root = vd_merkle_root(unit, 3), root = vd_trace_step(0, &step_root);
    play(id, (struct vd_move){.kind = VD_MOVE_STATE, .root = root, .nodes = {root.b, VD_HASH_BYTES}}, WORKER);
    play(id, (struct vd_move){.kind = VD_MOVE_STEP}, CLIENT);
    play(id, (struct vd_move){.kind = VD_MOVE_UNITS, .nodes = {unit[0].b, sizeof unit}}, WORKER);
    play(id, (struct vd_move){.kind = VD_MOVE_UNIT}, CLIENT);
    play(id, (struct vd_move){.kind = VD_MOVE_OPS, .salt = at.salt, .nodes = {op.b, VD_HASH_BYTES}}, WORKER);
}

/* A receipt of one step that settles in the epoch's first block, so that its window is the first to end. */
static void settle_early(struct job *j)
{
    open_escrow(j);
    kit_receipt(&k, &j->r, &j->escrow, 1, WORKER, AMOUNT, 10000);
    settle(j);
}

/* The draw is in a queue that is blocks behind, the window has passed, and a friend loses a dispute: the move
 * that ends it pays nothing, and neither does the block. */
static void test_a_move_does_not_overtake_a_draw(void **state)
{
    struct vd_hash salt;
    struct job j;
    memcpy(salt.b, k.job_salt, VD_SALT_BYTES);
    k.genesis.audit_window_blocks = SHORTEST;
    settle_early(&j);
    uint64_t end = receipt(&j.r.id).window_end_height;
    crowd(end - 2, 4);
    until((first_epoch + 1) * KIT_EPOCH);
    OK(GATEWAY, beacon_of(first_epoch, first_epoch));
    until(end - 1);
    struct vd_hash dispute = challenge(CLIENT, &j);
    play_to_the_last_move(&dispute);
    until(end + 1);
    play(&dispute, (struct vd_move){.kind = VD_MOVE_SALT, .salt = salt}, CLIENT);
    assert_int_equal(receipt(&j.r.id).n_open_disputes, 0);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_SETTLED);
    blocks(1);
    assert_false(receipt(&j.r.id).audited); /* not reached yet */
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_SETTLED);
    blocks(1);
    assert_true(receipt(&j.r.id).audited);
    assert_int_equal(audit(&j.r.id).epoch, first_epoch); /* by its own beacon, late as it is */
}

/* The same by the clock: the deadline of a dispute that is due before the draw. */
static void test_a_clock_does_not_overtake_a_draw(void **state)
{
    struct job j;
    uint8_t buf[256];
    k.genesis.audit_window_blocks = SHORTEST;
    open_escrow(&j);
    make_job(&j, 1, NULL);
    settle(&j);
    uint64_t end = receipt(&j.r.id).window_end_height;
    crowd(end - 2, 1);
    until(end - 1 - KIT_CLOCK);
    struct vd_hash dispute = challenge(CLIENT, &j);
    OK(WORKER, first_move(&dispute, buf)); /* its clock ends with the block of the draw */
    until((first_epoch + 1) * KIT_EPOCH);
    OK(GATEWAY, beacon_of(first_epoch, first_epoch));
    until(end + 1);
    assert_int_equal(receipt(&j.r.id).n_open_disputes, 0);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_SETTLED);
    assert_true(receipt(&j.r.id).audited);
}

/* A draw that is an epoch late is by the beacon of its own epoch, not by the one that is due by then. */
static void test_a_late_draw_is_by_its_own_beacon(void **state)
{
    struct job j;
    open_escrow(&j);
    make_job(&j, 1, NULL);
    settle(&j);
    uint64_t due = vd_epoch_due(&k.genesis, first_epoch);
    crowd(due - 1, KIT_EPOCH + 2);
    until((first_epoch + 1) * KIT_EPOCH);
    OK(GATEWAY, beacon_of(first_epoch, first_epoch));
    until((first_epoch + 2) * KIT_EPOCH);
    OK(GATEWAY, beacon_of(first_epoch + 1, first_epoch));
    until(due + KIT_EPOCH + 1);
    assert_false(receipt(&j.r.id).audited);
    blocks(1);
    assert_true(receipt(&j.r.id).audited);
    assert_int_equal(audit(&j.r.id).epoch, first_epoch);
}

/* ---- a whole epoch of more receipts than a block draws ---- */

enum { BATCH = VD_BLOCK_MAX_DEADLINES + 600, RATE_PPM = 12000, WORTH = 4 };

static struct vd_hash batch_id[BATCH];

static void settle_batch(void)
{
    static struct kit_receipt r[VD_TX_SETTLE_MAX];
    struct vd_tx tx = {.kind = VD_TX_ESCROW_OPEN, .u.escrow_open = {k.key[GATEWAY].pub, {BATCH * WORTH}}};
    struct vd_hash escrow;
    OK(WORKER, {.kind = VD_TX_STAKE, .u.stake = {{BATCH * WORTH}}});
    assert_int_equal(kit_give(&net, CLIENT, tx, &escrow), VD_TX_OK);
    for (uint32_t i = 0; i < BATCH;) {
        struct vd_tx settle = {.kind = VD_TX_SETTLE};
        while (settle.u.settle.n < VD_TX_SETTLE_MAX && i < BATCH) {
            uint32_t n = settle.u.settle.n++;
            kit_receipt(&k, &r[n], &escrow, i, WORKER, WORTH, 10000);
            settle.u.settle.receipt[n] = (struct vd_bytes){r[n].bytes, r[n].n};
            batch_id[i++] = r[n].id;
        }
        OK(GATEWAY, settle);
        if (i % (BATCH / KIT_EPOCH + 1) < VD_TX_SETTLE_MAX && net.block.height % KIT_EPOCH != KIT_EPOCH - 1)
            blocks(1);
    }
}

/* Every receipt that the beacon draws has its audit before it is paid; all others are paid. Checked after
 * each block. Returns how many were drawn. */
static int watch_batch(uint64_t epoch, uint64_t last)
{
    struct vd_hash beacon;
    assert_true(vd_block_beacon(&net.block, epoch, &beacon));
    int drawn = 0, audited = 0, paid = 0;
    while (net.block.height <= last) {
        drawn = audited = paid = 0;
        for (int i = 0; i < BATCH; i++) {
            struct vd_receipt_record r = receipt(&batch_id[i]);
            bool is = vd_audit_is_drawn(&beacon, &batch_id[i], RATE_PPM);
            assert_false(is && r.status != VD_RECEIPT_SETTLED);
            assert_false(!is && r.audited);
            drawn += is;
            audited += r.audited;
            paid += r.status == VD_RECEIPT_FINAL;
        }
        blocks(1);
    }
    assert_int_equal(audited, drawn);
    assert_int_equal(paid, BATCH - drawn);
    assert_in_range(drawn, VD_BLOCK_MAX_DRAWS + 1, 2 * VD_BLOCK_MAX_DRAWS); /* some wait for a place */
    return drawn;
}

static void prepare_batch(uint64_t window)
{
    k.genesis.audit_window_blocks = window;
    k.genesis.audit_rate_ppm = RATE_PPM;
    k.genesis.audit_commit_blocks = 1000; /* the audits outlast the test */
    settle_batch();
}

static void test_a_large_batch_is_drawn_before_it_is_paid(void **state)
{
    prepare_batch(SHORTEST);
    uint64_t due = vd_epoch_due(&k.genesis, first_epoch);
    until((first_epoch + 1) * KIT_EPOCH);
    OK(GATEWAY, beacon_of(first_epoch, first_epoch));
    until(due + 1);
    watch_batch(first_epoch, due + KIT_EPOCH + 3);
}

/* The keeper keeps its layer to itself: the next epoch's beacon, another keeper's, draws all that are still
 * in their windows, as late as it is. */
static void test_a_large_batch_without_a_layer(void **state)
{
    OK(CLIENT, {.kind = VD_TX_BEACON_OPEN, .u.beacon_open = {vd_onion_layer(seed, LAYERS), LAYERS}});
    prepare_batch(2 * KIT_EPOCH +
                  KIT_BEACON); /* the first block's windows end right behind the second draw */
    uint64_t due = vd_epoch_due(&k.genesis, first_epoch + 1);
    until((first_epoch + 2) * KIT_EPOCH);
    for (int i = 0; i < BATCH; i++)
        assert_int_equal(receipt(&batch_id[i]).status, VD_RECEIPT_SETTLED);
    OK(CLIENT, beacon_of(first_epoch + 1, first_epoch + 1));
    until(due + 1);
    watch_batch(first_epoch + 1, due + KIT_EPOCH + 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_draws_of_a_block_are_bounded),
        T(test_each_has_its_place),
        T(test_late_places_open_no_more),
        T(test_a_dispute_saves_nothing_from_a_draw_that_waits),
        T(test_what_waits_for_its_place_is_not_paid),
        T(test_a_place_without_an_auditor),
        T(test_nobody_steps_aside_from_a_place),
        T(test_a_full_block_of_deadlines_is_quick),
        T(test_no_deadline_is_passed_over),
        T(test_a_move_does_not_overtake_a_draw),
        T(test_a_clock_does_not_overtake_a_draw),
        T(test_a_late_draw_is_by_its_own_beacon),
        T(test_a_large_batch_is_drawn_before_it_is_paid),
        T(test_a_large_batch_without_a_layer),
    };
    RUN_AUDIT_TESTS(tests);
}
