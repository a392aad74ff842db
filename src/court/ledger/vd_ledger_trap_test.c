/* Traps for auditors: planted, opened or not, and what they are no excuse for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vd_audit_kit.h"

/* ---- traps ---- */

static struct vd_tx trap_open(const struct vd_hash *trap, const struct job *j, const struct vd_hash *secret,
                              struct vd_hash proof[2])
{
    vd_merkle_range_prove(j->leaf, 3, 1, 1, proof);
    return (struct vd_tx){.kind = VD_TX_TRAP_OPEN,
                          .u.trap_open = {*trap, j->r.id, *secret, 1, {proof->b, 2 * VD_HASH_BYTES}}};
}

static void test_trap_catches_who_was_told(void **state)
{
    struct vd_hash secret = {{77}}, trap, proof[2];
    struct job j;
    open_escrow(&j);
    struct vd_tx plant = {.kind = VD_TX_TRAP_PLANT,
                          .u.trap_plant = {vd_trap_commitment(&secret, &j.escrow, 1)}};
    uint64_t owner = balance(WORKER2);
    assert_int_equal(kit_give(&net, WORKER2, plant, &trap), VD_TX_OK);
    blocks(1);
    draw_job(&j, &secret);
    uint64_t worker = stake(WORKER).amount.micro;
    /* One was told the halves and passes them on; the other replays, and sees that the receipt is wrong. */
    both_say(&j, VD_AUDIT_STANDS, VD_AUDIT_DIFFERS);
    uint64_t honest = balance(AUDITOR2);
    challenge(AUDITOR2, &j);

    struct vd_tx open = trap_open(&trap, &j, &secret, proof), wrong = open;
    REFUSED(VD_TX_UNKNOWN_TRAP, CLIENT, open);
    wrong.u.trap_open.index = 0;
    REFUSED(VD_TX_BAD_TRAP, WORKER2, wrong);
    wrong = open;
    wrong.u.trap_open.secret.b[1] ^= 1;
    REFUSED(VD_TX_BAD_TRAP, WORKER2, wrong);
    wrong = open;
    wrong.u.trap_open.proof.n -= VD_HASH_BYTES;
    REFUSED(VD_TX_BAD_TRAP, WORKER2, wrong);
    OK(WORKER2, open);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_VOID);
    assert_int_equal(receipt(&j.r.id).void_why, VD_VOID_TRAP);
    assert_int_equal(stake(WORKER).amount.micro, worker); /* it did as it was asked to */
    assert_int_equal(stake(AUDITOR).amount.micro, STAKE - KIT_SLASH);
    assert_int_equal(balance(WORKER2), owner - AMOUNT / 20 + KIT_SLASH * 4 / 10);
    blocks(KIT_CLOCK * 4);
    assert_int_equal(balance(AUDITOR2), honest + REWARD); /* and its bond is back */
    assert_int_equal(stake(AUDITOR2).amount.micro, STAKE);
    REFUSED(VD_TX_UNKNOWN_TRAP, WORKER2, open);
}

static void test_a_trap_that_is_not_opened_costs_its_bond(void **state)
{
    struct vd_tx plant = {.kind = VD_TX_TRAP_PLANT};
    uint64_t before = balance(WORKER2), burned = bucket(VD_BUCKET_BURNED);
    OK(WORKER2, plant);
    assert_int_equal(balance(WORKER2), before - KIT_TRAP_BOND);
    for (uint64_t end = net.block.height + KIT_TRAP_BLOCKS + 1, e; net.block.height < end; kit_end(&net)) {
        e = vd_epoch_of(&k.genesis, net.block.height); /* the keeper goes on */
        if (e > first_epoch && net.block.height % KIT_EPOCH == 0)
            OK(GATEWAY, beacon_of(e - 1, first_epoch));
    }
    assert_int_equal(balance(WORKER2), before - KIT_TRAP_BOND);
    assert_int_equal(bucket(VD_BUCKET_BURNED), burned + KIT_TRAP_BOND);
}

/* A trap is planted before its receipt is settled, or it would be an excuse. */
static void test_a_trap_is_no_excuse(void **state)
{
    struct vd_hash secret = {{78}}, trap, proof[2];
    struct job j;
    open_escrow(&j);
    make_job(&j, 1, &secret);
    settle(&j);
    struct vd_tx plant = {.kind = VD_TX_TRAP_PLANT,
                          .u.trap_plant = {vd_trap_commitment(&secret, &j.escrow, 1)}};
    assert_int_equal(kit_give(&net, WORKER2, plant, &trap), VD_TX_OK);
    REFUSED(VD_TX_BAD_TRAP, WORKER2, trap_open(&trap, &j, &secret, proof));
}

/* The leaf of a tree of one is its root, which says nothing about who computed it. */
static void test_a_trap_has_two_leaves(void **state)
{
    struct vd_hash secret = {{80}}, trap;
    struct job j;
    open_escrow(&j);
    struct vd_tx plant = {.kind = VD_TX_TRAP_PLANT,
                          .u.trap_plant = {vd_trap_commitment(&secret, &j.escrow, 1)}};
    assert_int_equal(kit_give(&net, WORKER2, plant, &trap), VD_TX_OK);
    blocks(1);
    kit_receipt(&k, &j.r, &j.escrow, 1, WORKER, AMOUNT, 10000); /* one step */
    j.r.value.commit_root = vd_trap_leaf(&secret);
    kit_seal(&k, &j.r, WORKER, GATEWAY);
    settle(&j);
    struct vd_tx open = {.kind = VD_TX_TRAP_OPEN, .u.trap_open = {trap, j.r.id, secret, 0, {NULL, 0}}};
    REFUSED(VD_TX_BAD_TRAP, WORKER2, open);
}

/* A trap that has run out and is left over for the next block. */
static void test_a_left_over_trap_is_late(void **state)
{
    struct vd_hash secret = {{81}}, id = {{82}};
    struct job j = {.r = {.id = {{83}}}};
    struct vd_trap t = {.owner = k.key[WORKER2].pub};
    struct vd_tx open = {.kind = VD_TX_TRAP_OPEN, .u.trap_open = {id, j.r.id, secret, 0, {NULL, 0}}};
    until(KIT_TRAP_BLOCKS + 1);
    t.height = net.block.height - KIT_TRAP_BLOCKS;
    vd_block_put_trap(&net.block, &id, &t);
    REFUSED(VD_TX_UNKNOWN_RECEIPT, WORKER2, open); /* in its last block it is looked at */
    t.height--;
    vd_block_put_trap(&net.block, &id, &t);
    REFUSED(VD_TX_UNKNOWN_TRAP, WORKER2, open);
}

/* One secret in many receipts: whichever is drawn was "a trap", and one bond covers all. So a trap is the one
 * receipt that it was planted for, and worth no more than its bond. */
static void test_a_trap_is_one_receipt(void **state)
{
    struct vd_hash secret = {{79}}, trap, cheap, proof[2];
    struct job j, other;
    open_escrow(&j);
    other.escrow = j.escrow;
    struct vd_tx plant = {.kind = VD_TX_TRAP_PLANT,
                          .u.trap_plant = {vd_trap_commitment(&secret, &j.escrow, 1)}};
    assert_int_equal(kit_give(&net, WORKER2, plant, &trap), VD_TX_OK);
    k.genesis.trap_bond.micro = AMOUNT - 1;
    assert_int_equal(kit_give(&net, WORKER2, plant, &cheap), VD_TX_OK);
    k.genesis.trap_bond.micro = KIT_TRAP_BOND;
    blocks(1);
    make_job(&j, 1, &secret);
    make_job(&other, 2, &secret);
    settle(&j);
    settle(&other);
    REFUSED(VD_TX_BAD_TRAP, WORKER2, trap_open(&trap, &other, &secret, proof));
    REFUSED(VD_TX_BAD_TRAP, WORKER2, trap_open(&cheap, &j, &secret, proof));
    OK(WORKER2, trap_open(&trap, &j, &secret, proof));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_trap_catches_who_was_told), T(test_a_trap_that_is_not_opened_costs_its_bond),
        T(test_a_trap_is_no_excuse),       T(test_a_trap_has_two_leaves),
        T(test_a_left_over_trap_is_late),  T(test_a_trap_is_one_receipt),
    };
    RUN_AUDIT_TESTS(tests);
}
