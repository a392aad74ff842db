/* A random history of a small network: thousands of transactions of every kind, many of them wrong, over
 * hundreds of blocks.
 *
 * In every block: all records are summed again from nothing (kit_audit); every transaction is delivered a
 * second time and must change nothing; the block is encoded, decoded and finalised on a second replica, whose
 * state must stay equal byte for byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "vd_court_kit.h"
#include "vd_game.h"
#include "vd_rng.h"

enum { BLOCKS = 200, TXS_PER_BLOCK = 40, KNOWN_MAX = 12 };

struct world {
    struct kit_net net, replica;
    struct vd_rng rng;
    struct vd_hash escrow[KNOWN_MAX], receipt[KNOWN_MAX], dispute[KNOWN_MAX]; /* the latest of each */
    size_t n_escrows, n_receipts, n_disputes;
    uint64_t applied[VD_TX_MOVE + 1];
    uint64_t refused[VD_TX_RECEIPT_TOO_LARGE + 1];
    struct kit_receipt receipts[3];
    uint8_t move[VD_MOVE_MAX_BYTES];
    uint8_t block_bytes[1 << 20];
};

static struct kit k, k2;
static struct world w;

static uint64_t below(uint64_t n)
{
    return vd_rng_below(&w.rng, n);
}

static struct vd_hash pick(const struct vd_hash *list, size_t n)
{
    struct vd_hash none = {{(uint8_t)below(256)}};
    size_t have = n < KNOWN_MAX ? n : KNOWN_MAX;
    return have && below(20) ? list[below(have)] : none;
}

static void know(struct vd_hash *list, size_t *n, struct vd_hash id)
{
    list[(*n)++ % KNOWN_MAX] = id;
}

/* Mostly sensible, at times zero or absurd. */
static struct vd_amount amount(uint64_t usual)
{
    uint64_t what = below(30);
    return vd_amount_micro(what == 0 ? 0 : what == 1 ? VD_AMOUNT_MAX_MICRO - below(3) : below(usual + 1));
}

static struct vd_tx random_settle(void)
{
    struct vd_tx tx = {.kind = VD_TX_SETTLE, .u.settle.n = 1 + (uint32_t)below(3)};
    for (uint32_t i = 0; i < tx.u.settle.n; i++) {
        struct kit_receipt *r = &w.receipts[i];
        struct vd_hash e = pick(w.escrow, w.n_escrows);
        kit_receipt(&k, r, &e, below(300), 2 + (int)below(2), below(400), w.net.height + below(30));
        if (below(12) == 0)
            kit_seal(&k, r, (int)below(4), (int)below(2));
        tx.u.settle.receipt[i] = (struct vd_bytes){r->bytes, r->n};
    }
    return tx;
}

static struct vd_tx random_move(void)
{
    struct vd_move m = {.kind = VD_MOVE_STATE};
    memset(m.root.b, 1 + (int)below(2), VD_HASH_BYTES);
    m.nodes = (struct vd_bytes){m.root.b, VD_HASH_BYTES};
    if (below(3) == 0)
        m = (struct vd_move){.kind = (enum vd_move_kind)(1 + below(16)), .index = below(2)};
    size_t n = vd_move_encode(&m, w.move, sizeof w.move);
    return (struct vd_tx){.kind = VD_TX_MOVE, .u.move = {pick(w.dispute, w.n_disputes), {w.move, n}}};
}

static struct vd_tx random_tx(void)
{
    struct vd_pubkey to = k.key[below(KIT_KEYS)].pub;
    switch (below(24)) {
    case 0:
    case 1:
    case 2:
        return (struct vd_tx){.kind = VD_TX_TRANSFER, .u.transfer = {to, amount(2000)}};
    case 3:
    case 4:
        return (struct vd_tx){.kind = VD_TX_STAKE, .u.stake = {amount(3000)}};
    case 5:
        return (struct vd_tx){.kind = VD_TX_UNSTAKE, .u.stake = {amount(2000)}};
    case 6:
        return (struct vd_tx){.kind = VD_TX_WITHDRAW};
    case 7:
        return (struct vd_tx){
            .kind = VD_TX_REGISTER_MODEL,
            .u.register_model = {{k.program, k.program_bytes}, k.n_tensors, k.tensors_root}};
    case 8:
        return (struct vd_tx){.kind = VD_TX_OFFER,
                              .u.offer = {k.model_root, amount(9), amount(9), (uint32_t)below(3)}};
    case 9:
    case 10:
        return (struct vd_tx){.kind = VD_TX_ESCROW_OPEN, .u.escrow_open = {k.key[1].pub, amount(5000)}};
    case 11:
        return (struct vd_tx){.kind = VD_TX_ESCROW_TOPUP,
                              .u.escrow_topup = {pick(w.escrow, w.n_escrows), amount(1000)}};
    case 12:
        return (struct vd_tx){.kind = VD_TX_ESCROW_CLOSE, .u.escrow_close = {pick(w.escrow, w.n_escrows)}};
    case 13:
    case 14:
    case 15:
    case 16:
        return (struct vd_tx){.kind = VD_TX_CHALLENGE, .u.challenge = {pick(w.receipt, w.n_receipts)}};
    case 17:
    case 18:
    case 19:
        return random_move();
    default: /* a random number: an open set */
        return random_settle();
    }
}

/* One transaction, twice. Returns true if it was applied. */
static bool give(struct kit_tx *t)
{
    int from = (int)below(KIT_KEYS);
    struct vd_tx tx = random_tx();
    if (tx.kind == VD_TX_MOVE && below(4))
        from = 2 + (int)below(4);
    kit_sign(&k, t, from, w.net.nonce[from] + (below(40) == 0), tx);
    struct vd_hash id;
    bool checked = below(2) && vd_ledger_check(&k.ledger, NULL, kit_tx_bytes(t), &id) == VD_TX_OK;
    enum vd_tx_verdict v = vd_ledger_deliver(&w.net.block, kit_tx_bytes(t), checked);
    uint32_t n_txs = w.net.block.n_txs, n_events = w.net.block.n_events;
    struct vd_totals totals = w.net.block.totals;
    w.refused[v]++;
    assert_int_not_equal(vd_ledger_deliver(&w.net.block, kit_tx_bytes(t), false), VD_TX_OK);
    assert_memory_equal(&totals, &w.net.block.totals, sizeof totals);
    assert_int_equal(n_txs, w.net.block.n_txs);
    assert_int_equal(n_events, w.net.block.n_events);
    if (v != VD_TX_OK)
        return false;
    w.net.nonce[from]++;
    w.applied[tx.kind]++;
    if (tx.kind == VD_TX_ESCROW_OPEN)
        know(w.escrow, &w.n_escrows, t->id);
    for (uint32_t i = 0; tx.kind == VD_TX_SETTLE && i < tx.u.settle.n; i++)
        know(w.receipt, &w.n_receipts, w.receipts[i].id);
    if (tx.kind == VD_TX_CHALLENGE)
        know(w.dispute, &w.n_disputes, t->id);
    return true;
}

static void replay(const struct kit_tx *t, uint32_t n)
{
    static struct vd_bytes tx[TXS_PER_BLOCK], got[TXS_PER_BLOCK];
    enum vd_tx_verdict v[TXS_PER_BLOCK];
    struct vd_block b = {.header = {.height = w.net.height + 1, .time_ms = w.net.block.time_ms, .n_txs = n},
                         .n_txs = n};
    struct vd_ledger_block work;
    struct vd_error err;
    for (uint32_t i = 0; i < n; i++)
        tx[i] = kit_tx_bytes(&t[i]);
    b.tx = tx;
    b.header.tx_root = vd_block_tx_root(tx, n);
    size_t bytes = vd_block_encode(&b, w.block_bytes, sizeof w.block_bytes);
    assert_true(vd_block_decode((struct vd_bytes){w.block_bytes, bytes}, &b, got, TXS_PER_BLOCK));
    k2.arena.used_bytes = 0;
    assert_int_equal(vd_ledger_finalize(&work, &k2.ledger, &w.replica.state.kv, &k2.arena, &b, v, &err),
                     VD_OK);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(v[i], VD_TX_OK);
    assert_int_equal(work.n_events, w.net.block.n_events);
    assert_true(vd_overlay_each(&work.overlay, kit_set, &w.replica.state));
}

static void assert_same_state(void)
{
    const struct kit_state *a = &w.net.state, *b = &w.replica.state;
    assert_int_equal(a->n, b->n);
    for (size_t i = 0; i < a->n; i++) {
        assert_int_equal(kit_key_cmp(a->entry[i].key, b->entry[i].key), 0);
        assert_int_equal(kit_key_cmp(a->entry[i].value, b->entry[i].value), 0);
    }
}

static void test_random_history(void **state)
{
    static struct kit_tx t[TXS_PER_BLOCK];
    w.rng = (struct vd_rng){2026, 0};
    kit_net_init(&w.net, &k);
    kit_net_init(&w.replica, &k2);
    for (int b = 0; b < BLOCKS; b++) {
        uint32_t n = 0;
        for (int i = 0; i < TXS_PER_BLOCK; i++)
            n += give(&t[n]);
        assert_int_equal(vd_ledger_end(&w.net.block, NULL), VD_OK);
        replay(t, n);
        assert_true(vd_overlay_each(&w.net.block.overlay, kit_set, &w.net.state));
        w.net.height++;
        assert_true(kit_audit(&w.net.state.kv, &k.genesis));
        if (b % 16 == 0 || b == BLOCKS - 1)
            assert_same_state();
        kit_begin(&w.net);
    }
    for (int kind = VD_TX_TRANSFER; kind <= VD_TX_MOVE; kind++)
        if (w.applied[kind] == 0)
            fail_msg("no %s was applied: the test says nothing about it",
                     vd_tx_kind_name((enum vd_tx_kind)kind));
    struct vd_totals totals;
    assert_true(vd_ledger_get_totals(&w.net.state.kv, &totals));
    for (int i = 0; i < VD_BUCKETS; i++)
        printf("%s %llu\n", vd_bucket_name((enum vd_bucket)i), (unsigned long long)totals.bucket[i].micro);
    assert_true(totals.bucket[VD_BUCKET_BURNED].micro > 0); /* somebody was slashed */
    kit_net_free(&w.net);
    kit_net_free(&w.replica);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_history)};
    kit_init(&k);
    kit_init(&k2);
    k.genesis.steps_per_block = k2.genesis.steps_per_block = 1;
    k.genesis.max_receipt.micro = k2.genesis.max_receipt.micro = 370;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (int i = 0; i <= VD_TX_RECEIPT_TOO_LARGE; i++)
        printf("%s %llu\n", vd_tx_verdict_name((enum vd_tx_verdict)i), (unsigned long long)w.refused[i]);
    kit_free(&k);
    kit_free(&k2);
    return failed;
}
