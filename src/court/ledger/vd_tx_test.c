#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vd_court_kit.h"
#include "vd_rng.h"

static struct kit k;

/* One value of every kind. */
static struct vd_tx sample(enum vd_tx_kind kind)
{
    static uint8_t bytes[300];
    struct vd_tx tx = {.kind = kind};
    struct vd_hash h;
    memset(bytes, 0xab, sizeof bytes);
    memset(h.b, 0xcd, sizeof h.b);
    switch (kind) {
    case VD_TX_TRANSFER:
        tx.u.transfer = (struct vd_tx_transfer){k.key[3].pub, {VD_AMOUNT_MAX_MICRO}};
        break;
    case VD_TX_STAKE:
    case VD_TX_UNSTAKE:
        tx.u.stake.amount.micro = 1;
        break;
    case VD_TX_WITHDRAW:
        break;
    case VD_TX_REGISTER_MODEL:
        tx.u.register_model = (struct vd_tx_register_model){{bytes, 300}, 11, h};
        break;
    case VD_TX_OFFER:
        tx.u.offer = (struct vd_tx_offer){h, {1}, {2}, 3};
        break;
    case VD_TX_ESCROW_OPEN:
        tx.u.escrow_open = (struct vd_tx_escrow_open){k.key[1].pub, {5}};
        break;
    case VD_TX_ESCROW_TOPUP:
        tx.u.escrow_topup = (struct vd_tx_escrow_topup){h, {6}};
        break;
    case VD_TX_ESCROW_CLOSE:
        tx.u.escrow_close.escrow_id = h;
        break;
    case VD_TX_SETTLE:
        tx.u.settle.n = VD_TX_SETTLE_MAX;
        for (int i = 0; i < VD_TX_SETTLE_MAX; i++)
            tx.u.settle.receipt[i] = (struct vd_bytes){bytes, 300};
        break;
    case VD_TX_CHALLENGE:
        tx.u.challenge.receipt_id = h;
        break;
    case VD_TX_MOVE:
        tx.u.move = (struct vd_tx_move){h, {bytes, 300}};
        break;
    case VD_TX_BEACON_OPEN:
        tx.u.beacon_open = (struct vd_tx_beacon_open){h, VD_BEACON_LAYERS_MAX};
        break;
    case VD_TX_BEACON:
        tx.u.beacon = (struct vd_tx_beacon){UINT64_MAX, h};
        break;
    case VD_TX_AUDITOR:
        tx.u.auditor = (struct vd_tx_auditor){h, true};
        break;
    case VD_TX_AUDIT_COMMIT:
        tx.u.audit_commit = (struct vd_tx_audit_commit){h, h};
        break;
    case VD_TX_AUDIT_REVEAL:
        tx.u.audit_reveal = (struct vd_tx_audit_reveal){h, VD_AUDIT_STANDS, {h, h}, h};
        break;
    case VD_TX_AUDIT_DEMAND:
        tx.u.audit_demand.receipt_id = h;
        break;
    case VD_TX_AUDIT_DATA:
        tx.u.audit_data = (struct vd_tx_audit_data){h, h, 7, {bytes, 300}, {bytes, 8}, {bytes, 9}};
        break;
    case VD_TX_TRAP_PLANT:
        tx.u.trap_plant.commitment = h;
        break;
    case VD_TX_TRAP_OPEN:
        tx.u.trap_open = (struct vd_tx_trap_open){h, h, h, 3, {bytes, 64}};
        break;
    }
    return tx;
}

static const enum vd_tx_kind kinds[] = {
#define X(code, number, name) code,
    VD_TX_KIND_LIST(X)
#undef X
};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

static void test_every_kind_round_trips(void **state)
{
    static struct kit_tx t, again;
    static struct vd_tx_signed s;
    for (int i = 0; i < N_KINDS; i++) {
        kit_sign(&k, &t, 2, i == 0 ? 0 : UINT64_MAX, sample(kinds[i]));
        assert_true(vd_tx_decode(kit_tx_bytes(&t), &s));
        assert_int_equal(s.tx.kind, kinds[i]);
        assert_true(vd_tx_verify(&s));
        assert_memory_equal(s.id.b, t.id.b, VD_HASH_BYTES);
        kit_sign(&k, &again, 2, s.tx.nonce, s.tx);
        assert_int_equal(again.n, t.n);
        assert_memory_equal(again.bytes, t.bytes, t.n);
    }
}

/* Every bit matters: a changed one is malformed, another transaction, or a bad signature. */
static void test_any_changed_bit_is_noticed(void **state)
{
    static struct kit_tx t;
    static struct vd_tx_signed s;
    kit_sign(&k, &t, 2, 7, sample(VD_TX_TRANSFER));
    for (size_t i = 0; i < t.n * 8; i++) {
        t.bytes[i / 8] ^= (uint8_t)(1 << i % 8);
        assert_false(vd_tx_decode(kit_tx_bytes(&t), &s) && vd_tx_verify(&s));
        t.bytes[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    for (size_t n = 0; n < t.n; n++)
        assert_false(vd_tx_decode((struct vd_bytes){t.bytes, n}, &s));
}

static void test_limits(void **state)
{
    static struct kit_tx t;
    static struct vd_tx_signed s;
    static uint8_t big[VD_TX_MAX_BYTES];
    struct vd_tx tx = sample(VD_TX_MOVE);
    tx.u.move.move = (struct vd_bytes){big, VD_TX_MOVE_MAX_BYTES};
    kit_sign(&k, &t, 2, 0, tx);
    assert_true(vd_tx_decode(kit_tx_bytes(&t), &s));
    tx.u.move.move.n++;
    kit_sign(&k, &t, 2, 0, tx);
    assert_false(vd_tx_decode(kit_tx_bytes(&t), &s));
    tx.u.move.move.n = sizeof big;
    tx.genesis = k.ledger.genesis_hash;
    tx.sender = k.key[2].pub;
    assert_int_equal(vd_tx_sign(&tx, &k.key[2], t.bytes, sizeof t.bytes, NULL), 0);
    tx = sample(VD_TX_SETTLE);
    tx.u.settle.n = 0;
    kit_sign(&k, &t, 2, 0, tx);
    assert_false(vd_tx_decode(kit_tx_bytes(&t), &s));
}

/* An auditor says one of three things; nothing else decodes. */
static void test_reveals_have_a_verdict(void **state)
{
    static struct kit_tx t;
    static struct vd_tx_signed s;
    struct vd_tx tx = sample(VD_TX_AUDIT_REVEAL);
    for (int v = 0; v <= 4; v++) {
        tx.u.audit_reveal.verdict = (enum vd_audit_verdict)v;
        kit_sign(&k, &t, 2, 0, tx);
        assert_int_equal(vd_tx_decode(kit_tx_bytes(&t), &s), v >= VD_AUDIT_STANDS && v <= VD_AUDIT_UNFIT);
    }
}

static void test_verdict_numbers(void **state)
{
    enum vd_tx_verdict v;
    assert_true(vd_tx_verdict_from_number(VD_TX_BAD_MOVE, &v));
    assert_int_equal(v, VD_TX_BAD_MOVE);
    assert_false(vd_tx_verdict_from_number(1000, &v));
    assert_string_equal(vd_tx_verdict_name(VD_TX_BAD_NONCE), "BAD_NONCE");
    assert_string_equal(vd_tx_kind_name(VD_TX_SETTLE), "settle");
}

static void test_genesis_round_trip(void **state)
{
    static uint8_t buf[VD_GENESIS_MAX_BYTES], again[VD_GENESIS_MAX_BYTES];
    static struct vd_genesis_account accounts[KIT_KEYS];
    struct vd_genesis g;
    struct vd_error err;
    struct vd_genesis given = k.genesis;
    given.history_blocks = 345600;
    size_t n = vd_genesis_encode(&given, buf, sizeof buf);
    assert_int_equal(vd_genesis_decode((struct vd_bytes){buf, n}, &g, accounts, KIT_KEYS, &err), VD_OK);
    assert_int_equal(g.history_blocks, 345600);
    assert_int_equal(vd_genesis_encode(&g, again, sizeof again), n);
    assert_memory_equal(buf, again, n);
    assert_int_equal(vd_genesis_decode((struct vd_bytes){buf, n - 1}, &g, accounts, KIT_KEYS, &err),
                     VD_EFORMAT);
    assert_int_equal(vd_genesis_decode((struct vd_bytes){buf, n}, &g, accounts, 2, &err), VD_EFORMAT);
    buf[3] = 0; /* inside the name */
    assert_int_equal(vd_genesis_decode((struct vd_bytes){buf, n}, &g, accounts, KIT_KEYS, &err), VD_EFORMAT);
}

/* A network of other rules is told from a damaged one, and says what to do. Its number is the last field. */
static void test_genesis_of_other_rules(void **state)
{
    static uint8_t buf[VD_GENESIS_MAX_BYTES];
    static struct vd_genesis_account accounts[KIT_KEYS];
    struct vd_genesis g;
    struct vd_error err;
    size_t n = vd_genesis_encode(&k.genesis, buf, sizeof buf);
    assert_int_equal(buf[n - 1], VD_LEDGER_RULES);
    assert_int_equal(vd_genesis_decode((struct vd_bytes){buf, n - 3}, &g, accounts, KIT_KEYS, &err),
                     VD_EVERSION);
    assert_non_null(strstr(err.msg, "rules 1"));
    buf[n - 1]++;
    assert_int_equal(vd_genesis_decode((struct vd_bytes){buf, n}, &g, accounts, KIT_KEYS, &err), VD_EVERSION);
    assert_non_null(strstr(err.msg, "new network"));
}

/* What a fake receipt gains unaudited is at most what it burns when audited. */
static void test_genesis_deterrence(void **state)
{
    struct vd_genesis g = k.genesis;
    struct vd_error err;
    g.audit_rate_ppm = 20000;
    g.min_stake.micro = g.slash.micro = 100000000;
    assert_int_equal(vd_genesis_check(&g, &err), VD_EFORMAT); /* no limit on a receipt */
    g.max_receipt.micro = 1000000;                            /* 0.98e12 <= 60e6 * 20000 */
    assert_int_equal(vd_genesis_check(&g, &err), VD_OK);
    g.max_receipt.micro = 1224489; /* 60e6 * 20000 / 980000 = 1224489.8 */
    assert_int_equal(vd_genesis_check(&g, &err), VD_OK);
    g.max_receipt.micro++;
    assert_int_equal(vd_genesis_check(&g, &err), VD_EFORMAT);
    assert_non_null(strstr(err.msg, "1224489"));
    g.challenger_share_ppm = 0; /* all of it burns */
    assert_int_equal(vd_genesis_check(&g, &err), VD_OK);
    g.max_receipt.micro = VD_AMOUNT_MAX_MICRO;
    assert_int_equal(vd_genesis_check(&g, &err), VD_EFORMAT);
    g.audit_rate_ppm = VD_PPM; /* everything is audited */
    assert_int_equal(vd_genesis_check(&g, &err), VD_OK);
    g.min_stake.micro--;
    assert_int_equal(vd_genesis_check(&g, &err), VD_EFORMAT);
    assert_non_null(strstr(err.msg, "min_stake"));
}

static void test_genesis_refuses(void **state)
{
    struct vd_error err;
    struct vd_genesis g = k.genesis;
    struct vd_genesis_account two[2] = {k.account[1], k.account[0]};
#define REFUSED(change, word)                                                                                \
    g = k.genesis;                                                                                           \
    change;                                                                                                  \
    assert_int_equal(vd_genesis_check(&g, &err), VD_EFORMAT);                                                \
    assert_non_null(strstr(err.msg, word))
    REFUSED(g.network[0] = 0, "name");
    REFUSED(g.network[1] = '\n', "name");
    REFUSED(g.block_time_ms = 9, "block_time_ms");
    REFUSED(g.audit_window_blocks = 0, "audit_window_blocks");
    REFUSED(g.move_clock_blocks = 0, "move_clock_blocks");
    REFUSED(g.min_stake.micro = 0, "min_stake");
    REFUSED(g.challenger_share_ppm = VD_PPM / 2 + 1, "challenger_share_ppm");
    REFUSED(g.worker_share_ppm++, "shares");
    REFUSED(g.n_accounts = 0, "accounts");
    REFUSED((g.account = two, g.n_accounts = 2), "ascend");
    two[0].balance.micro = VD_AMOUNT_MAX_MICRO;
    REFUSED((g.account = two, g.n_accounts = 1), "2^62");
    REFUSED(g.auditors = 1, "epoch_blocks"); /* audits are off, so all of it is */
    struct vd_genesis with = k.genesis;
    with.epoch_blocks = with.beacon_blocks = with.audit_window_blocks = 4;
    with.audit_window_blocks = 8;
    with.audit_commit_blocks = with.audit_reveal_blocks = with.audit_data_blocks = 1;
    with.auditors = 1;
    with.trap_blocks = 1;
    with.audit_slash.micro = with.beacon_bond.micro = with.audit_min_reward.micro = 1;
    with.trap_bond = with.slash;
    assert_int_equal(vd_genesis_check(&with, &err), VD_OK);
#define REFUSED_WITH(change, word)                                                                           \
    g = with;                                                                                                \
    change;                                                                                                  \
    assert_int_equal(vd_genesis_check(&g, &err), VD_EFORMAT);                                                \
    assert_non_null(strstr(err.msg, word))
    REFUSED_WITH(g.beacon_blocks = 5, "beacon_blocks");
    REFUSED_WITH(g.audit_window_blocks = 7, "audit_window_blocks");
    REFUSED_WITH(g.auditors = VD_AUDIT_SLOTS_MAX + 1, "auditors");
    REFUSED_WITH(g.auditor_share_ppm = 1, "shares");
    REFUSED_WITH(g.audit_slash.micro = g.min_stake.micro + 1, "audit_slash");
    REFUSED_WITH(g.trap_bond.micro--, "trap_bond");
    REFUSED_WITH(g.max_receipt.micro = g.trap_bond.micro + 1, "trap_bond");
    REFUSED_WITH(g.audit_data_blocks = 0, "audit_data_blocks");
    REFUSED_WITH(g.audit_min_reward.micro = 0, "audit_min_reward");
#undef REFUSED_WITH
#undef REFUSED
}

static void test_events_round_trip(void **state)
{
    struct vd_event e = {.kind = VD_EVENT_BURNED,
                         .tx_index = VD_EVENT_NO_TX,
                         .amount = {VD_AMOUNT_MAX_MICRO}},
                    out;
    uint8_t buf[VD_EVENT_MAX_BYTES];
    memset(&e.id, 1, 4 * VD_HASH_BYTES);
    size_t n = vd_event_encode(&e, buf, sizeof buf);
    assert_true(n > 0 && vd_event_decode((struct vd_bytes){buf, n}, &out));
    assert_int_equal(out.tx_index, VD_EVENT_NO_TX);
    assert_memory_equal(&out.id, &e.id, 4 * VD_HASH_BYTES);
    assert_false(vd_event_decode((struct vd_bytes){buf, n - 1}, &out));
}

static void test_blocks_round_trip(void **state)
{
    static uint8_t buf[4096];
    struct vd_bytes tx[2] = {{(const uint8_t *)"one", 3}, {(const uint8_t *)"", 0}}, got[2];
    struct vd_block b = {.header = {.height = 3, .time_ms = 5, .n_txs = 2}, .n_txs = 2, .tx = tx}, out;
    b.header.tx_root = vd_block_tx_root(tx, 2);
    size_t n = vd_block_encode(&b, buf, sizeof buf);
    assert_true(vd_block_decode((struct vd_bytes){buf, n}, &out, got, 2));
    assert_int_equal(out.n_txs, 2);
    assert_memory_equal(got[0].p, "one", 3);
    assert_false(vd_block_decode((struct vd_bytes){buf, n}, &out, got, 1));
    buf[n - 3] ^= 1; /* "one" is no longer what the root says */
    assert_false(vd_block_decode((struct vd_bytes){buf, n}, &out, got, 2));
}

/* The overlay against a plain array, under random puts, deletions, marks, rollbacks and iterations. */
static void check_same(struct kit_state *model, struct vd_overlay *o, struct vd_bytes prefix)
{
    struct vd_bytes ka = prefix, kb = prefix, va, vb;
    bool after = false, a, b;
    do {
        a = model->kv.next(&model->kv, prefix, ka, after, &ka, &va);
        b = o->kv.next(&o->kv, prefix, kb, after, &kb, &vb);
        assert_int_equal(a, b);
        assert_true(!a || (kit_key_cmp(ka, kb) == 0 && kit_key_cmp(va, vb) == 0));
        after = true;
    } while (a);
}

static void test_overlay_is_an_ordered_map(void **state)
{
    struct vd_rng rng = {42, 0};
    for (int round = 0; round < 30; round++) {
        struct kit_state base, model, marked;
        struct vd_overlay o;
        k.arena.used_bytes = 0;
        kit_state_init(&base);
        kit_state_init(&model);
        kit_state_init(&marked);
        vd_overlay_init(&o, &base.kv, &k.arena);
        for (int i = 0; i < 400; i++) {
            uint8_t key[3] = {(uint8_t)vd_rng_below(&rng, 4), (uint8_t)vd_rng_below(&rng, 8), 1};
            struct vd_bytes kb = {key, 1 + vd_rng_below(&rng, 3)}, vb = {key, vd_rng_below(&rng, 4)};
            uint64_t what = vd_rng_below(&rng, 20);
            if (i < 60) {
                kit_set(&base, kb, vb);
                kit_set(&model, kb, vb);
                kit_set(&marked, kb, vb);
            } else if (what == 0) {
                vd_overlay_mark(&o);
                for (size_t j = 0; marked.n > 0 && j < 1000; j++)
                    kit_set(&marked, marked.entry[0].key, (struct vd_bytes){NULL, 0});
                for (size_t j = 0; j < model.n; j++)
                    kit_set(&marked, model.entry[j].key, model.entry[j].value);
            } else if (what == 1) {
                vd_overlay_rollback(&o);
                while (model.n > 0)
                    kit_set(&model, model.entry[0].key, (struct vd_bytes){NULL, 0});
                for (size_t j = 0; j < marked.n; j++)
                    kit_set(&model, marked.entry[j].key, marked.entry[j].value);
            } else if (what < 9) {
                vd_overlay_delete(&o, kb);
                kit_set(&model, kb, (struct vd_bytes){NULL, 0});
            } else {
                vd_overlay_put(&o, kb, vb);
                kit_set(&model, kb, vb);
            }
            if (i % 16 == 0)
                check_same(&model, &o, (struct vd_bytes){key, vd_rng_below(&rng, 3)});
        }
        check_same(&model, &o, (struct vd_bytes){NULL, 0});
        assert_true(vd_overlay_each(&o, kit_set, &base));
        assert_int_equal(base.n, model.n);
        for (size_t j = 0; j < base.n; j++)
            assert_int_equal(kit_key_cmp(base.entry[j].key, model.entry[j].key), 0);
        kit_state_free(&base);
        kit_state_free(&model);
        kit_state_free(&marked);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_kind_round_trips),
        cmocka_unit_test(test_any_changed_bit_is_noticed),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_reveals_have_a_verdict),
        cmocka_unit_test(test_verdict_numbers),
        cmocka_unit_test(test_genesis_round_trip),
        cmocka_unit_test(test_genesis_of_other_rules),
        cmocka_unit_test(test_genesis_refuses),
        cmocka_unit_test(test_genesis_deterrence),
        cmocka_unit_test(test_events_round_trip),
        cmocka_unit_test(test_blocks_round_trip),
        cmocka_unit_test(test_overlay_is_an_ordered_map),
    };
    kit_init(&k);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    kit_free(&k);
    return failed;
}
