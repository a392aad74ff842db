/* A random history of a small network: thousands of transactions of every kind, many of them wrong, over
 * hundreds of blocks.
 *
 * In every block: all records are summed again from nothing (kit_audit); every transaction is delivered a
 * second time and must change nothing; the block is encoded, decoded and finalised on a second replica, whose
 * state must stay equal byte for byte.
 *
 * Receipts come in two kinds. Of an even sequence: one step, whose unit hashes everybody here knows, so
 * auditors can say STANDS. Of an odd one: two steps, the second a trap's leaf, whose secret is the sequence.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "vd_audit.h"
#include "vd_court_kit.h"
#include "vd_game.h"
#include "vd_rng.h"
#include "vd_trace_hash.h"

enum { BLOCKS = 300, TXS_PER_BLOCK = 40, KNOWN_MAX = 12, LAYERS = 500 };

struct world {
    struct kit_net net, replica;
    struct vd_rng rng;
    struct vd_hash escrow[KNOWN_MAX], receipt[KNOWN_MAX], dispute[KNOWN_MAX]; /* the latest of each */
    uint64_t sequence[KNOWN_MAX];                                             /* of the receipts */
    size_t n_escrows, n_receipts, n_disputes;
    struct vd_hash trap[3]; /* the latest, and what it is for */
    uint64_t trap_sequence[3];
    struct vd_hash trap_escrow[3];
    size_t n_traps;
    uint64_t applied[VD_TX_TRAP_OPEN + 1];
    uint64_t refused[VD_TX_BAD_TRAP + 1];
    uint64_t ended[VD_SLOT_MISSED + 1], voided[VD_VOID_TRAP + 1]; /* of audits and receipts, at the end */
    uint8_t tokens[12];
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

static struct vd_hash secret_of(uint64_t sequence)
{
    return vd_sha256_of(&sequence, sizeof sequence);
}

/* What the commit root of a receipt with this sequence is made of. */
static void halves_of(uint64_t sequence, struct vd_hash half[2])
{
    struct vd_hash secret = secret_of(sequence);
    memset(half, 0x44, 2 * sizeof *half);
    if (sequence % 2)
        half[1] = vd_trap_leaf(&secret);
}

static void give_roots(struct kit_receipt *r, uint64_t sequence, int worker)
{
    static const uint32_t token[3] = {1, 2, 3};
    struct vd_receipt *v = &r->value;
    struct vd_hash half[2];
    halves_of(sequence, half);
    v->request.n_prompt = sequence % 2 ? 2 : 1;
    v->request.prompt_root = vd_token_root(k.job_salt, 0, token, v->request.n_prompt);
    v->output_root = vd_token_root(k.job_salt, v->request.n_prompt, token + v->request.n_prompt, 1);
    v->commit_root =
        sequence % 2 ? vd_merkle_node(&half[0], &half[1]) : vd_commit_leaf(0, &half[0], &half[1]);
    kit_seal(&k, r, worker, 1);
}

static struct vd_tx random_settle(void)
{
    struct vd_tx tx = {.kind = VD_TX_SETTLE, .u.settle.n = 1 + (uint32_t)below(3)};
    for (uint32_t i = 0; i < tx.u.settle.n; i++) {
        struct kit_receipt *r = &w.receipts[i];
        struct vd_hash e = pick(w.escrow, w.n_escrows);
        int worker = 2 + (int)below(2);
        uint64_t sequence = below(500);
        if (w.n_traps && below(4) == 0) {
            uint64_t t = below(w.n_traps < 3 ? w.n_traps : 3);
            sequence = w.trap_sequence[t];
            e = w.trap_escrow[t];
        }
        kit_receipt(&k, r, &e, sequence, worker, below(400), w.net.height + below(30));
        give_roots(r, sequence, worker);
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

/* ---- audits ---- */

static struct vd_kvs *now(void)
{
    return &w.net.block.overlay.kv;
}

static struct vd_tx keep_beacon(int *from)
{
    static const uint8_t seed[32] = {1};
    struct vd_keeper keeper;
    *from = 1 + (int)below(2) * 3;
    if (!vd_ledger_get_keeper(now(), &k.key[*from].pub, &keeper))
        return (struct vd_tx){.kind = VD_TX_BEACON_OPEN,
                              .u.beacon_open = {vd_onion_layer(seed, LAYERS), below(9) ? LAYERS : 2}};
    return (struct vd_tx){.kind = VD_TX_BEACON,
                          .u.beacon = {keeper.next_epoch, vd_onion_layer(seed, LAYERS - 1)}};
}

/* The layer that fits the anchor, whatever layers went before. */
static void mend_layer(int from, struct vd_tx *tx)
{
    static const uint8_t seed[32] = {1};
    struct vd_keeper keeper;
    if (tx->kind != VD_TX_BEACON || !vd_ledger_get_keeper(now(), &k.key[from].pub, &keeper))
        return;
    for (uint32_t i = LAYERS; i-- > 0;) {
        struct vd_hash layer = vd_onion_layer(seed, i), outer = vd_onion_outer(&layer);
        if (vd_hash_eq(&outer, &keeper.anchor)) {
            tx->u.beacon.layer = layer;
            return;
        }
    }
}

/* What this auditor says of a receipt: mostly true, sometimes a false alarm, sometimes what it cannot show.
 */
static struct vd_tx_audit_reveal opinion(const struct vd_hash *id, uint64_t sequence, int from)
{
    struct vd_tx_audit_reveal r = {.receipt_id = *id, .verdict = VD_AUDIT_STANDS, .nonce = {{(uint8_t)from}}};
    unsigned mood = (id->b[0] + (unsigned)from * 5) % 8;
    halves_of(sequence, r.half);
    if (mood == 0)
        r.half[0].b[0] ^= 1;
    if (mood == 1 || (sequence % 2 && mood < 5)) {
        r.verdict = VD_AUDIT_DIFFERS;
        memset(r.half, 0, sizeof r.half);
    }
    return r;
}

static struct vd_tx speak(int *from)
{
    size_t n = w.n_receipts < KNOWN_MAX ? w.n_receipts : KNOWN_MAX, i = n ? (size_t)below(n) : 0;
    struct vd_hash id = w.receipt[i];
    struct vd_audit a = {.n_slots = 0};
    struct vd_tx tx = {.kind = VD_TX_AUDIT_COMMIT};
    vd_ledger_get_audit(now(), &id, &a);
    *from = (int)below(KIT_KEYS);
    for (int key = 0; a.n_slots && below(12) && key < KIT_KEYS; key++)
        if (vd_pubkey_eq(&k.key[key].pub, &a.slot[below(a.n_slots)].auditor))
            *from = key;
    struct vd_tx_audit_reveal r = opinion(&id, w.sequence[i], *from);
    if (a.phase == VD_AUDIT_REVEALING) {
        tx = (struct vd_tx){.kind = VD_TX_AUDIT_REVEAL, .u.audit_reveal = r};
    } else if (below(6) == 0) {
        tx = (struct vd_tx){.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {id}};
    } else {
        tx.u.audit_commit.receipt_id = id;
        tx.u.audit_commit.commitment = vd_audit_commitment(&k.key[*from].pub, &r);
    }
    return tx;
}

static struct vd_tx show_data(int *from)
{
    size_t n = w.n_receipts < KNOWN_MAX ? w.n_receipts : KNOWN_MAX, i = n ? (size_t)below(n) : 0;
    struct vd_tx tx = {.kind = VD_TX_AUDIT_DATA, .u.audit_data = {.receipt_id = w.receipt[i]}};
    memcpy(tx.u.audit_data.salt.b, k.job_salt, VD_HASH_BYTES);
    for (uint32_t t = 0; t < 3; t++)
        vd_le32_store(w.tokens + 4 * t, t + 1 + (below(30) == 0));
    tx.u.audit_data.tokens = (struct vd_bytes){w.tokens, w.sequence[i] % 2 ? 12 : 8};
    *from = 1 + (int)below(3);
    return tx;
}

static struct vd_tx play_trap(int *from)
{
    size_t n = w.n_receipts < KNOWN_MAX ? w.n_receipts : KNOWN_MAX,
           t = w.n_traps ? (size_t)below(w.n_traps % 3 + 1) : 0;
    uint64_t sequence = 2 * below(250) + 1;
    struct vd_hash secret = secret_of(sequence);
    static struct vd_hash leaf;
    *from = 5;
    memset(leaf.b, 0x44, sizeof leaf.b);
    if (w.n_traps == 0 || below(12) == 0) {
        struct vd_hash escrow = pick(w.escrow, w.n_escrows);
        w.trap_sequence[w.n_traps % 3] = sequence;
        w.trap_escrow[w.n_traps % 3] = escrow;
        return (struct vd_tx){.kind = VD_TX_TRAP_PLANT,
                              .u.trap_plant = {vd_trap_commitment(&secret, &escrow, sequence)}};
    }
    struct vd_hash id = pick(w.receipt, w.n_receipts);
    for (size_t i = 0; i < n; i++)
        if (w.sequence[i] == w.trap_sequence[t % 3])
            id = w.receipt[i];
    return (struct vd_tx){
        .kind = VD_TX_TRAP_OPEN,
        .u.trap_open = {w.trap[t % 3], id, secret_of(w.trap_sequence[t % 3]), 1, {leaf.b, VD_HASH_BYTES}}};
}

/* Of the audits' kinds; *from is who should send it. */
static struct vd_tx random_audit_tx(int *from)
{
    uint64_t what = below(20);
    if (what < 4)
        return keep_beacon(from);
    if (what < 13)
        return speak(from);
    if (what < 16)
        return show_data(from);
    if (what < 18)
        return play_trap(from);
    *from = (int)below(6);
    return (struct vd_tx){.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, below(6) != 0}};
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
    struct vd_tx tx = below(3) == 0 ? random_audit_tx(&from) : random_tx();
    mend_layer(from, &tx);
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
        w.sequence[w.n_receipts % KNOWN_MAX] = w.receipts[i].value.request.sequence,
                                  know(w.receipt, &w.n_receipts, w.receipts[i].id);
    if (tx.kind == VD_TX_TRAP_PLANT)
        w.trap[w.n_traps++ % 3] = t->id;
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

static bool count_end(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    struct vd_receipt_record r;
    struct vd_audit a;
    if (key.p[0] == VD_STATE_RECEIPT) {
        assert_true(vd_receipt_record_decode(value, &r));
        w.voided[r.void_why]++;
        return true;
    }
    assert_true(vd_audit_decode(value, &a));
    for (uint32_t i = 0; i < a.n_slots; i++)
        w.ended[a.slot[i].status]++;
    return true;
}

/* Everything that can become of an audit has happened at least once. */
static void count_ends(void)
{
    struct vd_bytes none = {NULL, 0};
    vd_ledger_list(&w.net.state.kv, VD_STATE_RECEIPT, none, NULL, count_end, NULL);
    vd_ledger_list(&w.net.state.kv, VD_STATE_AUDIT, none, NULL, count_end, NULL);
    for (int i = VD_SLOT_STANDS; i <= VD_SLOT_MISSED; i++)
        if (!w.ended[i])
            fail_msg("no auditor ended as: %s", vd_audit_slot_name((enum vd_audit_slot_status)i));
    for (int i = VD_VOID_NOT; i <= VD_VOID_TRAP; i++)
        printf("%s: %llu receipts\n", i ? vd_void_why_name((enum vd_void_why)i) : "not void",
               (unsigned long long)w.voided[i]);
    assert_true(w.voided[VD_VOID_WITHHELD] && w.voided[VD_VOID_TRAP]);
}

static void test_random_history(void **state)
{
    static struct kit_tx t[TXS_PER_BLOCK];
    w.rng = (struct vd_rng){2027, 0};
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
    count_ends();
    for (int kind = VD_TX_TRANSFER; kind <= VD_TX_TRAP_OPEN; kind++)
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
    k.genesis.audit_window_blocks = k2.genesis.audit_window_blocks = 8;
    k.genesis.history_blocks = k2.genesis.history_blocks = 25;
    kit_audits(&k);
    kit_audits(&k2);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (int i = 0; i <= VD_TX_BAD_TRAP; i++)
        printf("%s %llu\n", vd_tx_verdict_name((enum vd_tx_verdict)i), (unsigned long long)w.refused[i]);
    kit_free(&k);
    kit_free(&k2);
    return failed;
}
