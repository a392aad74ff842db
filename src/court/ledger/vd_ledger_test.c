/* Every kind of transaction with every refusal, the life of receipts and disputes, and queries. After each
 * block the kit sums all records on its own (kit_audit) and aborts if a credit is missing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vd_court_kit.h"
#include "vd_game.h"
#include "vd_ledger_impl.h"
#include "vd_trace_hash.h"

enum { CLIENT, GATEWAY, WORKER, WORKER2, CHALLENGER, CHALLENGER2, TREASURY, STRANGER };

static struct kit k;
static struct kit_net net;

static int setup(void **state)
{
    kit_net_init(&net, &k);
    return 0;
}

static int teardown(void **state)
{
    kit_net_free(&net);
    return 0;
}

#define OK(from, ...) assert_int_equal(kit_give(&net, from, (struct vd_tx)__VA_ARGS__, NULL), VD_TX_OK)
#define REFUSED(verdict, from, ...)                                                                          \
    assert_int_equal(kit_give(&net, from, (struct vd_tx)__VA_ARGS__, NULL), verdict)

static uint64_t balance(int who)
{
    struct vd_account a = {{0}, 0};
    vd_ledger_get_account(&net.block.overlay.kv, &k.key[who].pub, &a);
    return a.balance.micro;
}

static struct vd_stake stake(int who)
{
    struct vd_stake s = {.n_open_receipts = 0};
    vd_ledger_get_stake(&net.block.overlay.kv, &k.key[who].pub, &s);
    return s;
}

static uint64_t bucket(enum vd_bucket b)
{
    return net.block.totals.bucket[b].micro;
}

static void blocks(int n)
{
    while (n-- > 0)
        kit_end(&net);
}

static bool had_event(enum vd_event_kind kind)
{
    for (uint32_t i = 0; i < net.block.n_events; i++)
        if (net.block.event[i].kind == kind)
            return true;
    return false;
}

/* --- transactions in general --- */

static void test_general_refusals(void **state)
{
    static struct kit_tx t;
    struct vd_tx tx = {.kind = VD_TX_TRANSFER, .u.transfer = {k.key[GATEWAY].pub, {1}}};
    size_t arena_bytes = k.arena.used_bytes;
    REFUSED(VD_TX_BAD_AMOUNT, CLIENT, {.kind = VD_TX_TRANSFER}); /* after the nonce was written */
    assert_int_equal(k.arena.used_bytes, arena_bytes);           /* nothing that lasts, memory included */
    kit_sign(&k, &t, CLIENT, 1, tx);
    assert_int_equal(vd_ledger_deliver(&net.block, kit_tx_bytes(&t), false), VD_TX_BAD_NONCE);
    kit_sign(&k, &t, STRANGER, 0, tx);
    assert_int_equal(vd_ledger_deliver(&net.block, kit_tx_bytes(&t), false), VD_TX_UNKNOWN_ACCOUNT);
    kit_sign(&k, &t, CLIENT, 0, tx);
    t.bytes[t.n - 1] ^= 1;
    assert_int_equal(vd_ledger_deliver(&net.block, kit_tx_bytes(&t), false), VD_TX_BAD_SIGNATURE);
    t.n--;
    assert_int_equal(vd_ledger_deliver(&net.block, kit_tx_bytes(&t), false), VD_TX_MALFORMED);
    k.ledger.genesis_hash.b[0] ^= 1;
    kit_sign(&k, &t, CLIENT, 0, tx);
    k.ledger.genesis_hash.b[0] ^= 1;
    assert_int_equal(vd_ledger_deliver(&net.block, kit_tx_bytes(&t), false), VD_TX_WRONG_NETWORK);
    assert_int_equal(net.block.overlay.n_changes, 0); /* refused transactions change nothing */
    assert_int_equal(net.block.n_events, 0);
}

static void test_twice_changes_nothing(void **state)
{
    static struct kit_tx t;
    struct vd_hash id;
    struct vd_tx_place place;
    struct vd_tx tx = {.kind = VD_TX_TRANSFER, .u.transfer = {k.key[GATEWAY].pub, {1}}};
    kit_sign(&k, &t, CLIENT, 0, tx);
    assert_int_equal(vd_ledger_deliver(&net.block, kit_tx_bytes(&t), false), VD_TX_OK);
    assert_int_equal(vd_ledger_deliver(&net.block, kit_tx_bytes(&t), false), VD_TX_BAD_NONCE);
    kit_end(&net);
    assert_int_equal(vd_ledger_deliver(&net.block, kit_tx_bytes(&t), false), VD_TX_BAD_NONCE);
    assert_int_equal(balance(GATEWAY), KIT_BALANCE + 1);
    assert_int_equal(vd_ledger_check(&k.ledger, &net.state.kv, kit_tx_bytes(&t), &id), VD_TX_DUPLICATE);
    assert_memory_equal(id.b, t.id.b, VD_HASH_BYTES);
    assert_true(vd_ledger_get_tx(&net.state.kv, &t.id, &place));
    assert_int_equal(place.height, 1);
    assert_int_equal(place.index, 0);
}

static void test_check(void **state)
{
    static struct kit_tx t;
    struct vd_hash id;
    struct vd_tx tx = {.kind = VD_TX_TRANSFER, .u.transfer = {k.key[GATEWAY].pub, {1}}};
    kit_sign(&k, &t, STRANGER, 0, tx);
    assert_int_equal(vd_ledger_check(&k.ledger, &net.state.kv, kit_tx_bytes(&t), &id), VD_TX_UNKNOWN_ACCOUNT);
    kit_sign(&k, &t, CLIENT, VD_LEDGER_NONCE_AHEAD, tx);
    assert_int_equal(vd_ledger_check(&k.ledger, &net.state.kv, kit_tx_bytes(&t), &id), VD_TX_BAD_NONCE);
    kit_sign(&k, &t, CLIENT, VD_LEDGER_NONCE_AHEAD - 1, tx); /* those before it may be on their way */
    assert_int_equal(vd_ledger_check(&k.ledger, &net.state.kv, kit_tx_bytes(&t), &id), VD_TX_OK);
    t.bytes[t.n - 1] ^= 1;
    assert_int_equal(vd_ledger_check(&k.ledger, NULL, kit_tx_bytes(&t), &id), VD_TX_BAD_SIGNATURE);
    OK(CLIENT, {.kind = VD_TX_TRANSFER, .u.transfer = {k.key[GATEWAY].pub, {1}}});
    kit_end(&net);
    tx.u.transfer.amount.micro = 2;
    kit_sign(&k, &t, CLIENT, 0, tx);
    assert_int_equal(vd_ledger_check(&k.ledger, &net.state.kv, kit_tx_bytes(&t), &id), VD_TX_BAD_NONCE);
}

/* --- payments and stake --- */

static void test_transfer(void **state)
{
    REFUSED(VD_TX_BAD_AMOUNT, CLIENT, {.kind = VD_TX_TRANSFER, .u.transfer = {k.key[1].pub, {0}}});
    REFUSED(VD_TX_FUNDS, CLIENT, {.kind = VD_TX_TRANSFER, .u.transfer = {k.key[1].pub, {KIT_BALANCE + 1}}});
    OK(CLIENT, {.kind = VD_TX_TRANSFER, .u.transfer = {k.key[STRANGER].pub, {KIT_BALANCE}}});
    assert_int_equal(balance(CLIENT), 0);
    OK(STRANGER,
       {.kind = VD_TX_TRANSFER, .u.transfer = {k.key[STRANGER].pub, {KIT_BALANCE}}}); /* to itself */
    assert_int_equal(balance(STRANGER), KIT_BALANCE);
    kit_end(&net);
}

static void test_stake(void **state)
{
    REFUSED(VD_TX_BAD_AMOUNT, WORKER, {.kind = VD_TX_STAKE});
    REFUSED(VD_TX_BELOW_MIN_STAKE, WORKER, {.kind = VD_TX_STAKE, .u.stake = {{KIT_MIN_STAKE - 1}}});
    REFUSED(VD_TX_FUNDS, WORKER, {.kind = VD_TX_STAKE, .u.stake = {{KIT_BALANCE + 1}}});
    OK(WORKER, {.kind = VD_TX_STAKE, .u.stake = {{KIT_MIN_STAKE}}});
    OK(WORKER, {.kind = VD_TX_STAKE, .u.stake = {{1}}}); /* a top-up */
    assert_int_equal(stake(WORKER).amount.micro, KIT_MIN_STAKE + 1);

    REFUSED(VD_TX_FUNDS, WORKER2, {.kind = VD_TX_UNSTAKE, .u.stake = {{1}}});
    REFUSED(VD_TX_BAD_AMOUNT, WORKER, {.kind = VD_TX_UNSTAKE});
    REFUSED(VD_TX_FUNDS, WORKER, {.kind = VD_TX_UNSTAKE, .u.stake = {{KIT_MIN_STAKE + 2}}});
    REFUSED(VD_TX_BELOW_MIN_STAKE, WORKER, {.kind = VD_TX_UNSTAKE, .u.stake = {{2}}});
    REFUSED(VD_TX_NOTHING_TO_WITHDRAW, WORKER, {.kind = VD_TX_WITHDRAW});
    OK(WORKER, {.kind = VD_TX_UNSTAKE, .u.stake = {{1}}});
    REFUSED(VD_TX_STILL_UNBONDING, WORKER, {.kind = VD_TX_WITHDRAW});
    blocks(1);
    OK(WORKER, {.kind = VD_TX_UNSTAKE, .u.stake = {{KIT_MIN_STAKE}}}); /* the clock starts again for all */
    blocks(KIT_UNBONDING - 1);
    REFUSED(VD_TX_STILL_UNBONDING, WORKER, {.kind = VD_TX_WITHDRAW});
    blocks(1);
    OK(WORKER, {.kind = VD_TX_WITHDRAW});
    assert_int_equal(balance(WORKER), KIT_BALANCE);
    REFUSED(VD_TX_NOTHING_TO_WITHDRAW, WORKER, {.kind = VD_TX_WITHDRAW});
    kit_end(&net);
}

/* --- models and offers --- */

static struct vd_tx register_model(void)
{
    return (struct vd_tx){.kind = VD_TX_REGISTER_MODEL,
                          .u.register_model = {{k.program, k.program_bytes}, k.n_tensors, k.tensors_root}};
}

static bool count_one(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    (*(int *)arg)++;
    return true;
}

static void test_models_and_offers(void **state)
{
    struct vd_tx bad = register_model();
    struct vd_model_record m;
    struct vd_offer o;
    int n = 0;
    bad.u.register_model.n_tensors++;
    REFUSED(VD_TX_BAD_PROGRAM, WORKER, bad);
    bad = register_model();
    bad.u.register_model.program.n--;
    REFUSED(VD_TX_BAD_PROGRAM, WORKER, bad);
    REFUSED(VD_TX_UNKNOWN_MODEL, WORKER, {.kind = VD_TX_OFFER, .u.offer = {k.model_root, {1}, {2}, 1}});
    OK(WORKER, register_model());
    REFUSED(VD_TX_MODEL_EXISTS, WORKER2, register_model());
    assert_true(vd_ledger_get_model(&net.block.overlay.kv, &k.model_root, &m));
    assert_int_equal(m.program.n, k.program_bytes);
    assert_memory_equal(m.program.p, k.program, k.program_bytes);

    REFUSED(VD_TX_BELOW_MIN_STAKE, WORKER, {.kind = VD_TX_OFFER, .u.offer = {k.model_root, {1}, {2}, 1}});
    OK(WORKER, {.kind = VD_TX_STAKE, .u.stake = {{KIT_MIN_STAKE}}});
    OK(WORKER2, {.kind = VD_TX_STAKE, .u.stake = {{KIT_MIN_STAKE}}});
    REFUSED(VD_TX_BAD_PRICE, WORKER,
            {.kind = VD_TX_OFFER, .u.offer = {k.model_root, {1}, {VD_PRICE_MAX_MICRO + 1}, 1}});
    REFUSED(VD_TX_BAD_PRICE, WORKER,
            {.kind = VD_TX_OFFER, .u.offer = {k.model_root, {VD_PRICE_MAX_MICRO + 1}, {1}, 1}});
    OK(WORKER, {.kind = VD_TX_OFFER, .u.offer = {k.model_root, {1}, {2}, 3}});
    OK(WORKER2, {.kind = VD_TX_OFFER, .u.offer = {k.model_root, {4}, {5}, 6}});
    kit_end(&net);
    assert_true(vd_ledger_get_offer(&net.state.kv, &k.model_root, &k.key[WORKER].pub, &o));
    assert_int_equal(o.price_out.micro, 2);
    assert_int_equal(o.capacity, 3);
    vd_ledger_list(&net.state.kv, VD_STATE_OFFER, (struct vd_bytes){k.model_root.b, 32}, NULL, count_one, &n);
    assert_int_equal(n, 2);
    OK(WORKER, {.kind = VD_TX_OFFER, .u.offer = {k.model_root, {0}, {0}, 0}});
    kit_end(&net);
    n = 0;
    vd_ledger_list(&net.state.kv, VD_STATE_OFFER, (struct vd_bytes){k.model_root.b, 32}, NULL, count_one, &n);
    assert_int_equal(n, 1);
}

/* --- escrow --- */

static struct vd_hash open_escrow(uint64_t amount)
{
    struct vd_hash id;
    struct vd_tx tx = {.kind = VD_TX_ESCROW_OPEN, .u.escrow_open = {k.key[GATEWAY].pub, {amount}}};
    assert_int_equal(kit_give(&net, CLIENT, tx, &id), VD_TX_OK);
    return id;
}

static struct vd_escrow escrow(const struct vd_hash *id)
{
    struct vd_escrow e;
    assert_true(vd_ledger_get_escrow(&net.block.overlay.kv, id, &e));
    return e;
}

static void test_escrow(void **state)
{
    struct vd_hash id, none = {{9}};
    REFUSED(VD_TX_BAD_AMOUNT, CLIENT,
            {.kind = VD_TX_ESCROW_OPEN, .u.escrow_open = {k.key[GATEWAY].pub, {0}}});
    REFUSED(VD_TX_FUNDS, CLIENT,
            {.kind = VD_TX_ESCROW_OPEN, .u.escrow_open = {k.key[1].pub, {KIT_BALANCE + 1}}});
    id = open_escrow(500);
    REFUSED(VD_TX_BAD_AMOUNT, CLIENT, {.kind = VD_TX_ESCROW_TOPUP, .u.escrow_topup = {id, {0}}});
    REFUSED(VD_TX_UNKNOWN_ESCROW, CLIENT, {.kind = VD_TX_ESCROW_TOPUP, .u.escrow_topup = {none, {1}}});
    REFUSED(VD_TX_FUNDS, CLIENT, {.kind = VD_TX_ESCROW_TOPUP, .u.escrow_topup = {id, {KIT_BALANCE}}});
    OK(CLIENT, {.kind = VD_TX_ESCROW_TOPUP, .u.escrow_topup = {id, {100}}});
    assert_int_equal(escrow(&id).balance.micro, 600);
    REFUSED(VD_TX_UNKNOWN_ESCROW, CLIENT, {.kind = VD_TX_ESCROW_CLOSE, .u.escrow_close = {none}});
    REFUSED(VD_TX_NOT_OWNER, GATEWAY, {.kind = VD_TX_ESCROW_CLOSE, .u.escrow_close = {id}});
    OK(CLIENT, {.kind = VD_TX_ESCROW_CLOSE, .u.escrow_close = {id}});
    REFUSED(VD_TX_ESCROW_CLOSED, CLIENT, {.kind = VD_TX_ESCROW_CLOSE, .u.escrow_close = {id}});
    REFUSED(VD_TX_ESCROW_CLOSED, CLIENT, {.kind = VD_TX_ESCROW_TOPUP, .u.escrow_topup = {id, {1}}});
    blocks(KIT_VALIDITY);
    assert_int_equal(balance(CLIENT), KIT_BALANCE - 600);
    blocks(1);
    assert_int_equal(balance(CLIENT), KIT_BALANCE);
    assert_true(escrow(&id).ended);
}

/* --- receipts --- */

static struct vd_tx settle(const struct kit_receipt *r, uint32_t n)
{
    struct vd_tx tx = {.kind = VD_TX_SETTLE, .u.settle.n = n};
    for (uint32_t i = 0; i < n; i++)
        tx.u.settle.receipt[i] = (struct vd_bytes){r[i].bytes, r[i].n};
    return tx;
}

/* Two staked workers, the model, an escrow of 1,000. */
static struct vd_hash ready(void)
{
    OK(WORKER, {.kind = VD_TX_STAKE, .u.stake = {{KIT_MIN_STAKE}}});
    OK(WORKER2, {.kind = VD_TX_STAKE, .u.stake = {{KIT_MIN_STAKE}}});
    OK(WORKER, register_model());
    struct vd_hash id = open_escrow(2000);
    kit_end(&net);
    return id;
}

static struct vd_receipt_record receipt(const struct vd_hash *id)
{
    struct vd_receipt_record r;
    assert_true(vd_ledger_get_receipt(&net.block.overlay.kv, id, &r));
    return r;
}

static void test_settle_refusals(void **state)
{
    struct kit_receipt r, *p = &r;
    struct vd_hash e = ready(), none = {{9}};
    kit_receipt(&k, &r, &e, 1, WORKER, 10, 100);
    r.bytes[r.n - 1] ^= 1;
    REFUSED(VD_TX_BAD_RECEIPT, GATEWAY, settle(p, 1));
    r.n--;
    REFUSED(VD_TX_BAD_RECEIPT, GATEWAY, settle(p, 1));
    kit_receipt(&k, &r, &e, 1, WORKER, 10, 100);
    kit_seal(&k, &r, WORKER2, GATEWAY); /* somebody else's signature */
    REFUSED(VD_TX_BAD_RECEIPT, GATEWAY, settle(p, 1));
    r.value.request.genesis.b[0] ^= 1;
    kit_seal(&k, &r, WORKER, GATEWAY);
    REFUSED(VD_TX_RECEIPT_NETWORK, GATEWAY, settle(p, 1));
    kit_receipt(&k, &r, &none, 1, WORKER, 10, 100);
    REFUSED(VD_TX_UNKNOWN_ESCROW, GATEWAY, settle(p, 1));
    kit_receipt(&k, &r, &e, 1, WORKER, 10, 100);
    r.value.request.gateway = k.key[CLIENT].pub;
    kit_seal(&k, &r, WORKER, CLIENT);
    REFUSED(VD_TX_WRONG_GATEWAY, GATEWAY, settle(p, 1));
    kit_receipt(&k, &r, &e, 1, WORKER, 10, net.height); /* this block is one later */
    REFUSED(VD_TX_EXPIRED, GATEWAY, settle(p, 1));
    kit_receipt(&k, &r, &e, 1, WORKER, 10, 100);
    r.value.request.model_root.b[0] ^= 1;
    kit_seal(&k, &r, WORKER, GATEWAY);
    REFUSED(VD_TX_UNKNOWN_MODEL, GATEWAY, settle(p, 1));
    kit_receipt(&k, &r, &e, 1, WORKER, 2001, 100);
    REFUSED(VD_TX_ESCROW_FUNDS, GATEWAY, settle(p, 1));
    k.genesis.max_receipt.micro = 9;
    kit_receipt(&k, &r, &e, 1, WORKER, 10, 100);
    REFUSED(VD_TX_RECEIPT_TOO_LARGE, GATEWAY, settle(p, 1));
    k.genesis.max_receipt.micro = 10;
    kit_receipt(&k, &r, &e, 2, WORKER2, 10, 100);
    OK(GATEWAY, settle(p, 1));
    k.genesis.max_receipt.micro = 0;
    kit_receipt(&k, &r, &e, 1, WORKER, KIT_MIN_STAKE + 1, 100);
    REFUSED(VD_TX_STAKE_TOO_SMALL, GATEWAY, settle(p, 1));
    kit_receipt(&k, &r, &e, 1, STRANGER, 0, 100); /* worth nothing, but it is served from no stake */
    REFUSED(VD_TX_STAKE_TOO_SMALL, GATEWAY, settle(p, 1));
    assert_int_equal(bucket(VD_BUCKET_PENDING), 10);
    kit_receipt(&k, &r, &e, 1, WORKER, KIT_MIN_STAKE, net.height + 1);
    OK(CHALLENGER2, settle(p, 1)); /* anybody may bring it */
    REFUSED(VD_TX_ALREADY_SETTLED, GATEWAY, settle(p, 1));
    kit_receipt(&k, &r, &e, 1, WORKER2, 1, 100); /* the same sequence, another worker */
    REFUSED(VD_TX_ALREADY_SETTLED, GATEWAY, settle(p, 1));
    kit_end(&net);
}

static void test_program_must_fit_the_job(void **state)
{
    struct kit_receipt r;
    struct vd_hash e = ready();
    kit_receipt(&k, &r, &e, 1, WORKER, 10, 100);
    r.value.request.n_prompt = 128; /* with one output token beyond the context of 128 */
    r.value.request.max_tokens = 2;
    r.value.n_output = 2;
    r.value.amount.micro = 20;
    kit_seal(&k, &r, WORKER, GATEWAY);
    REFUSED(VD_TX_BAD_JOB, GATEWAY, settle(&r, 1));
}

static void test_receipt_becomes_final(void **state)
{
    static struct kit_receipt r[VD_TX_SETTLE_MAX];
    struct vd_hash e = ready(), found;
    for (int i = 0; i < VD_TX_SETTLE_MAX; i++)
        kit_receipt(&k, &r[i], &e, (uint64_t)i + 1, i % 2 ? WORKER : WORKER2, 11, 100);
    OK(GATEWAY, settle(r, VD_TX_SETTLE_MAX));
    assert_int_equal(bucket(VD_BUCKET_PENDING), 11 * VD_TX_SETTLE_MAX);
    assert_int_equal(escrow(&e).balance.micro, 2000 - 11 * VD_TX_SETTLE_MAX);
    assert_int_equal(stake(WORKER).unsettled.micro, 11 * VD_TX_SETTLE_MAX / 2);
    REFUSED(VD_TX_STAKE_IN_USE, WORKER, {.kind = VD_TX_UNSTAKE, .u.stake = {{KIT_MIN_STAKE}}});
    assert_true(vd_ledger_get_settled(&net.block.overlay.kv, &e, 7, &found));
    assert_memory_equal(found.b, r[6].id.b, VD_HASH_BYTES);
    blocks(KIT_WINDOW);
    assert_int_equal(receipt(&r[0].id).status, VD_RECEIPT_SETTLED);
    assert_int_equal(balance(WORKER), KIT_BALANCE - KIT_MIN_STAKE);
    blocks(1);
    assert_int_equal(receipt(&r[0].id).status, VD_RECEIPT_FINAL);
    assert_int_equal(receipt(&r[0].id).body.n, 0);
    /* 11 at 900,000 / 80,000 / 20,000 ppm: 0 to the gateway (0.88), 0 to the treasury, the worker gets the
     * rest */
    assert_int_equal(balance(WORKER), KIT_BALANCE - KIT_MIN_STAKE + 11 * 32);
    assert_int_equal(bucket(VD_BUCKET_PENDING), 0);
    assert_int_equal(stake(WORKER).unsettled.micro, 0);
    REFUSED(VD_TX_ALREADY_SETTLED, GATEWAY, settle(r, 1));
    OK(WORKER, {.kind = VD_TX_UNSTAKE, .u.stake = {{KIT_MIN_STAKE}}});
}

static void test_shares(void **state)
{
    struct kit_receipt r;
    struct vd_hash e = ready();
    kit_receipt(&k, &r, &e, 1, WORKER, 999, 100);
    OK(GATEWAY, settle(&r, 1));
    blocks(KIT_WINDOW + 1);
    assert_int_equal(balance(GATEWAY), KIT_BALANCE + 79);                 /* 79.92 */
    assert_int_equal(balance(TREASURY), 19);                              /* 19.98 */
    assert_int_equal(balance(WORKER), KIT_BALANCE - KIT_MIN_STAKE + 901); /* the rest */
}

static void test_a_batch_is_all_or_nothing(void **state)
{
    struct kit_receipt r[2];
    struct vd_hash e = ready();
    kit_receipt(&k, &r[0], &e, 1, WORKER, 10, 100);
    kit_receipt(&k, &r[1], &e, 1, WORKER, 11, 100);
    size_t changes = net.block.overlay.n_changes;
    REFUSED(VD_TX_ALREADY_SETTLED, GATEWAY, settle(r, 2));
    assert_int_equal(net.block.overlay.n_changes, changes);
    assert_int_equal(net.block.n_events, 0);
    assert_int_equal(bucket(VD_BUCKET_PENDING), 0);
    kit_end(&net);
}

static void test_settling_after_close(void **state)
{
    struct kit_receipt r;
    struct vd_hash e = ready();
    OK(CLIENT, {.kind = VD_TX_ESCROW_CLOSE, .u.escrow_close = {e}});
    uint64_t end = escrow(&e).end_height;
    kit_receipt(&k, &r, &e, 1, WORKER, 10, end + 1000000); /* a gateway cannot make its own signature void */
    OK(GATEWAY, settle(&r, 1));
    blocks(KIT_VALIDITY);
    kit_receipt(&k, &r, &e, 2, WORKER, 10, end);
    OK(GATEWAY, settle(&r, 1)); /* in the last block of its validity */
    blocks(1);
    assert_int_equal(balance(CLIENT), KIT_BALANCE - 20);
    kit_receipt(&k, &r, &e, 3, WORKER, 0, end + 100);
    REFUSED(VD_TX_ESCROW_CLOSED, GATEWAY, settle(&r, 1));
}

/* --- disputes --- */

static struct vd_hash settled_receipt(uint64_t amount, struct vd_hash *escrow_id)
{
    struct kit_receipt r;
    *escrow_id = ready();
    kit_receipt(&k, &r, escrow_id, 1, WORKER, amount, 100);
    OK(GATEWAY, settle(&r, 1));
    kit_end(&net);
    return r.id;
}

static struct vd_hash challenge(int who, const struct vd_hash *receipt_id)
{
    struct vd_hash id;
    struct vd_tx tx = {.kind = VD_TX_CHALLENGE, .u.challenge = {*receipt_id}};
    assert_int_equal(kit_give(&net, who, tx, &id), VD_TX_OK);
    return id;
}

/* The worker's STATE for a sequence of one step: any root fits the one node that it is. */
static struct vd_tx state_move(const struct vd_hash *dispute, uint8_t fill)
{
    static uint8_t buf[VD_MOVE_MAX_BYTES];
    static struct vd_hash root;
    memset(root.b, fill, sizeof root.b);
    struct vd_move m = {.kind = VD_MOVE_STATE, .root = root, .nodes = {root.b, VD_HASH_BYTES}};
    size_t n = vd_move_encode(&m, buf, sizeof buf);
    assert_true(n > 0);
    return (struct vd_tx){.kind = VD_TX_MOVE, .u.move = {*dispute, {buf, n}}};
}

static struct vd_dispute dispute(const struct vd_hash *id)
{
    struct vd_dispute d;
    assert_true(vd_ledger_get_dispute(&net.block.overlay.kv, id, &d));
    return d;
}

static void test_challenge_refusals(void **state)
{
    struct vd_hash e, id = settled_receipt(500, &e), none = {{9}};
    REFUSED(VD_TX_UNKNOWN_RECEIPT, CHALLENGER, {.kind = VD_TX_CHALLENGE, .u.challenge = {none}});
    OK(CHALLENGER, {.kind = VD_TX_TRANSFER, .u.transfer = {k.key[0].pub, {KIT_BALANCE - KIT_BOND + 1}}});
    REFUSED(VD_TX_FUNDS, CHALLENGER, {.kind = VD_TX_CHALLENGE, .u.challenge = {id}});
    blocks(KIT_WINDOW - 1);
    challenge(CHALLENGER2, &id); /* in the window's last block */
    REFUSED(VD_TX_STAKE_IN_USE, WORKER, {.kind = VD_TX_UNSTAKE, .u.stake = {{KIT_MIN_STAKE}}});
    blocks(1);
    REFUSED(VD_TX_WINDOW_CLOSED, CHALLENGER2, {.kind = VD_TX_CHALLENGE, .u.challenge = {id}});
    assert_int_equal(receipt(&id).status, VD_RECEIPT_SETTLED); /* kept open by the dispute */
}

/* What the committed state refuses does not get as far as a queue. */
static enum vd_tx_verdict check(int from, struct vd_tx tx)
{
    static struct kit_tx t;
    struct vd_hash id;
    kit_sign(&k, &t, from, net.nonce[from], tx);
    return vd_ledger_check(&k.ledger, &net.state.kv, kit_tx_bytes(&t), &id);
}

static void test_check_of_disputes(void **state)
{
    struct vd_hash e, id = settled_receipt(500, &e), none = {{9}};
    struct vd_tx unknown = {.kind = VD_TX_CHALLENGE, .u.challenge = {none}};
    struct vd_tx good = {.kind = VD_TX_CHALLENGE, .u.challenge = {id}};
    assert_int_equal(check(CHALLENGER, unknown), VD_TX_UNKNOWN_RECEIPT);
    assert_int_equal(check(CHALLENGER, good), VD_TX_OK);
    struct vd_hash d = challenge(CHALLENGER, &id);
    kit_end(&net);
    assert_int_equal(check(WORKER, state_move(&none, 1)), VD_TX_UNKNOWN_DISPUTE);
    assert_int_equal(check(CHALLENGER, state_move(&d, 1)), VD_TX_NOT_YOUR_TURN);
    assert_int_equal(check(WORKER, state_move(&d, 1)), VD_TX_OK);
    blocks(KIT_CLOCK + 1);
    assert_int_equal(check(WORKER, state_move(&d, 1)), VD_TX_UNKNOWN_DISPUTE);
    assert_int_equal(check(CHALLENGER2, good), VD_TX_WINDOW_CLOSED);
}

/* Receipts of another network do not get that far either. */
static void test_check_of_receipts(void **state)
{
    struct kit_receipt r;
    struct vd_hash e = ready();
    kit_receipt(&k, &r, &e, 1, WORKER, 10, 100);
    assert_int_equal(check(GATEWAY, settle(&r, 1)), VD_TX_OK);
    r.value.request.genesis.b[0] ^= 1;
    kit_seal(&k, &r, WORKER, GATEWAY);
    assert_int_equal(check(GATEWAY, settle(&r, 1)), VD_TX_RECEIPT_NETWORK);
    kit_receipt(&k, &r, &e, 1, WORKER, 10, 100);
    kit_seal(&k, &r, WORKER2, GATEWAY);
    assert_int_equal(check(GATEWAY, settle(&r, 1)), VD_TX_BAD_RECEIPT);
}

static void test_silent_worker_loses(void **state)
{
    struct vd_hash e, id = settled_receipt(500, &e), d = challenge(CHALLENGER, &id);
    assert_int_equal(bucket(VD_BUCKET_BONDS), KIT_BOND);
    blocks(KIT_CLOCK);
    assert_int_equal(dispute(&d).status, VD_DISPUTE_WORKER_MOVES);
    blocks(1);
    assert_int_equal(dispute(&d).status, VD_DISPUTE_WORKER_LATE);
    assert_int_equal(receipt(&id).status, VD_RECEIPT_VOID);
    assert_int_equal(balance(CHALLENGER), KIT_BALANCE + KIT_SLASH * 4 / 10);
    assert_int_equal(bucket(VD_BUCKET_BURNED), KIT_SLASH * 6 / 10);
    assert_int_equal(stake(WORKER).amount.micro, KIT_MIN_STAKE - KIT_SLASH);
    assert_int_equal(escrow(&e).balance.micro, 2000); /* the client can spend it again */
    assert_int_equal(bucket(VD_BUCKET_PENDING), 0);
    assert_int_equal(bucket(VD_BUCKET_BONDS), 0);
    blocks(KIT_WINDOW); /* the window's end finds it void */
    assert_int_equal(balance(WORKER), KIT_BALANCE - KIT_MIN_STAKE);
    REFUSED(VD_TX_WINDOW_CLOSED, CHALLENGER, {.kind = VD_TX_CHALLENGE, .u.challenge = {id}});
}

static void test_slash_is_at_most_the_stake(void **state)
{
    struct vd_hash e = ready();
    struct kit_receipt r[2];
    for (int i = 0; i < 2; i++)
        kit_receipt(&k, &r[i], &e, (uint64_t)i + 1, WORKER, 500, 100);
    OK(GATEWAY, settle(r, 2));
    challenge(CHALLENGER, &r[0].id);
    challenge(CHALLENGER2, &r[1].id);
    blocks(2 * KIT_CLOCK + 1);
    assert_int_equal(stake(WORKER).amount.micro, 0);
    assert_int_equal(balance(CHALLENGER) + balance(CHALLENGER2) + bucket(VD_BUCKET_BURNED),
                     2 * KIT_BALANCE + KIT_MIN_STAKE);
}

static void test_silent_challenger_loses(void **state)
{
    struct vd_hash e, id = settled_receipt(500, &e), d = challenge(CHALLENGER, &id), none = {{9}};
    REFUSED(VD_TX_UNKNOWN_DISPUTE, WORKER, state_move(&none, 1));
    REFUSED(VD_TX_NOT_YOUR_TURN, CHALLENGER, state_move(&d, 1));
    REFUSED(VD_TX_NOT_YOUR_TURN, WORKER2, state_move(&d, 1));
    REFUSED(VD_TX_BAD_MOVE, WORKER, {.kind = VD_TX_MOVE, .u.move = {d, {(const uint8_t *)"x", 1}}});
    blocks(KIT_CLOCK);
    OK(WORKER, state_move(&d, 1)); /* in its last block */
    assert_true(had_event(VD_EVENT_MOVED));
    assert_int_equal(dispute(&d).status, VD_DISPUTE_CHALLENGER_MOVES);
    assert_int_equal(receipt(&id).state_root.b[0], 1);
    REFUSED(VD_TX_NOT_YOUR_TURN, WORKER, state_move(&d, 1));
    blocks(KIT_CLOCK + 1);
    assert_int_equal(dispute(&d).status, VD_DISPUTE_CHALLENGER_LATE);
    REFUSED(VD_TX_UNKNOWN_DISPUTE, CHALLENGER, state_move(&d, 1));
    assert_int_equal(balance(CHALLENGER), KIT_BALANCE - KIT_BOND);
    blocks(1); /* its window had passed meanwhile, or does now */
    assert_int_equal(receipt(&id).status, VD_RECEIPT_FINAL);
    assert_int_equal(balance(WORKER), KIT_BALANCE - KIT_MIN_STAKE + KIT_BOND + 450);
    assert_int_equal(stake(WORKER).n_open_disputes, 0);
}

/* One verdict ends all: the first to win gets the share, the others get their bonds back, each on its clock.
 */
static void test_two_state_roots_and_many_challengers(void **state)
{
    struct vd_hash e, id = settled_receipt(500, &e);
    struct vd_hash d1 = challenge(CHALLENGER, &id), d2 = challenge(CHALLENGER2, &id),
                   d3 = challenge(CLIENT, &id);
    OK(WORKER, state_move(&d1, 1));
    OK(WORKER, state_move(&d2, 1)); /* the same root twice is right */
    blocks(1);
    OK(WORKER, state_move(&d3, 2)); /* another one loses at once, by its own move */
    assert_int_equal(dispute(&d3).status, VD_DISPUTE_WORKER_LOST);
    assert_int_equal(receipt(&id).status, VD_RECEIPT_VOID);
    assert_int_equal(balance(CLIENT), KIT_BALANCE - 2000 + KIT_SLASH * 4 / 10);
    assert_int_equal(bucket(VD_BUCKET_BONDS), 2 * KIT_BOND);
    REFUSED(VD_TX_UNKNOWN_DISPUTE, CHALLENGER, state_move(&d1, 1));
    REFUSED(VD_TX_STAKE_IN_USE, WORKER,
            {.kind = VD_TX_UNSTAKE, .u.stake = {{1}}}); /* until these have ended too */
    blocks(KIT_CLOCK + 1);
    assert_int_equal(dispute(&d1).status, VD_DISPUTE_MOOT);
    assert_int_equal(dispute(&d2).status, VD_DISPUTE_MOOT);
    assert_int_equal(balance(CHALLENGER), KIT_BALANCE);
    assert_int_equal(bucket(VD_BUCKET_BONDS), 0);
    assert_int_equal(stake(WORKER).amount.micro, KIT_MIN_STAKE - KIT_SLASH); /* slashed once */
}

/* A collusive challenger who loses on purpose does not protect the receipt from another. */
static void test_losing_on_purpose_finalises_nothing(void **state)
{
    struct vd_hash e, id = settled_receipt(500, &e), friend = challenge(CHALLENGER, &id);
    OK(WORKER, state_move(&friend, 1));
    blocks(KIT_CLOCK + 1);
    assert_int_equal(dispute(&friend).status, VD_DISPUTE_CHALLENGER_LATE);
    struct vd_hash honest = challenge(CHALLENGER2, &id);
    blocks(KIT_WINDOW);
    assert_int_equal(dispute(&honest).status, VD_DISPUTE_WORKER_LATE);
    assert_int_equal(receipt(&id).status, VD_RECEIPT_VOID);
}

static void test_void_after_the_escrow_ended_pays_the_owner(void **state)
{
    struct vd_hash e, id = settled_receipt(500, &e);
    OK(CLIENT, {.kind = VD_TX_ESCROW_CLOSE, .u.escrow_close = {e}});
    blocks(KIT_VALIDITY);
    challenge(CHALLENGER, &id);
    blocks(1);
    assert_int_equal(balance(CLIENT), KIT_BALANCE - 500);
    blocks(KIT_CLOCK);
    assert_int_equal(receipt(&id).status, VD_RECEIPT_VOID);
    assert_int_equal(balance(CLIENT), KIT_BALANCE);
    assert_int_equal(escrow(&e).returned.micro, 2000);
    assert_int_equal(escrow(&e).settled.micro, 0);
}

static void play(const struct vd_hash *id, struct vd_move m, int who)
{
    static uint8_t buf[VD_MOVE_MAX_BYTES];
    size_t n = vd_move_encode(&m, buf, sizeof buf);
    OK(who, {.kind = VD_TX_MOVE, .u.move = {*id, {buf, n}}});
}

/* A hundred challenges at once on one honest receipt: the worker, who answers one in a block, has time for
 * all. A block takes 64. */
static void test_a_hundred_challenges_at_once(void **state)
{
    enum { MANY = 100 };
    struct vd_hash e, id = settled_receipt(500, &e), d[MANY];
    for (int i = 0; i < MANY; i++) {
        if (i == VD_BLOCK_MAX_CHALLENGES)
            blocks(1);
        d[i] = challenge(CHALLENGER, &id);
    }
    assert_int_equal(dispute(&d[0]).clocks, 1);
    assert_int_equal(dispute(&d[MANY - 1]).deadline_height, net.height + 1 + MANY * KIT_CLOCK);
    for (int i = 0; i < MANY; i++) {
        OK(WORKER, state_move(&d[i], 1));
        blocks(1);
    }
    assert_int_equal(dispute(&d[MANY - 1]).deadline_height,
                     net.height + KIT_CLOCK); /* the challenger's: one */
    blocks(KIT_CLOCK + 1);
    for (int i = 0; i < MANY; i++)
        assert_int_equal(dispute(&d[i]).status, VD_DISPUTE_CHALLENGER_LATE);
    assert_int_equal(receipt(&id).status, VD_RECEIPT_FINAL);
    assert_int_equal(balance(WORKER), KIT_BALANCE - KIT_MIN_STAKE + MANY * KIT_BOND + 450);
}

/* The worker is late in one: the bond of a challenger that it answered and that did nothing burns; who
 * played, and whom the worker never answered, get theirs back. */
static void test_idle_bonds_burn_when_the_worker_was_late(void **state)
{
    struct vd_hash e, id = settled_receipt(500, &e);
    struct vd_hash first = challenge(CHALLENGER, &id), idle = challenge(CHALLENGER, &id),
                   played = challenge(CHALLENGER2, &id), unanswered = challenge(CHALLENGER2, &id);
    blocks(KIT_CLOCK / 2); /* so that the worker is late in the first while the others' clocks still run */
    OK(WORKER, state_move(&idle, 1));
    OK(WORKER, state_move(&played, 1));
    play(&played, (struct vd_move){.kind = VD_MOVE_STEP}, CHALLENGER2);
    blocks(KIT_CLOCK + 1);
    assert_int_equal(dispute(&first).status, VD_DISPUTE_WORKER_LATE);
    assert_int_equal(receipt(&id).void_why, VD_VOID_LATE);
    blocks(3 * KIT_CLOCK);
    assert_int_equal(dispute(&idle).status, VD_DISPUTE_MOOT);
    assert_int_equal(dispute(&played).status, VD_DISPUTE_MOOT);
    assert_int_equal(dispute(&unanswered).status, VD_DISPUTE_MOOT);
    assert_int_equal(balance(CHALLENGER), KIT_BALANCE + KIT_SLASH * 4 / 10 - KIT_BOND);
    assert_int_equal(balance(CHALLENGER2), KIT_BALANCE);
    assert_int_equal(bucket(VD_BUCKET_BURNED), KIT_SLASH * 6 / 10 + KIT_BOND);
}

static bool is_listed(const struct vd_hash *receipt_id, const struct vd_hash *dispute_id)
{
    struct vd_state_key key =
        vd_state_key_make(VD_INDEX_RECEIPT_DISPUTE, receipt_id->b, VD_HASH_BYTES, dispute_id->b);
    struct vd_bytes value;
    return net.block.overlay.kv.get(&net.block.overlay.kv, vd_state_key_bytes(&key), &value);
}

static bool count_keys(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    *(int *)arg += key.n == 1 + 3 * VD_HASH_BYTES && value.n == 0;
    return true;
}

/* Open disputes of one challenger about a receipt, by their own index. */
static int open_disputes_of(int who, const struct vd_hash *receipt_id)
{
    struct vd_state_key prefix = vd_state_key_challenge(receipt_id, &k.key[who].pub, NULL);
    int n = 0;
    vd_ledger_list(&net.block.overlay.kv, VD_INDEX_CHALLENGER_DISPUTE,
                   (struct vd_bytes){prefix.b + 1, prefix.n - 1}, NULL, count_keys, &n);
    return n;
}

/* Whoever challenged finds its own disputes at once, among however many of others, and only those that are
 * open, of this receipt. */
static void test_a_challenger_finds_its_own_dispute(void **state)
{
    enum { OTHERS = 40 };
    struct vd_hash e = ready(), mine;
    struct kit_receipt r[2];
    for (int i = 0; i < 2; i++)
        kit_receipt(&k, &r[i], &e, (uint64_t)i + 1, WORKER, 100, 100);
    OK(GATEWAY, settle(r, 2));
    for (int i = 0; i < OTHERS; i++)
        challenge(CHALLENGER, &r[0].id);
    mine = challenge(CHALLENGER2, &r[0].id);
    assert_int_equal(open_disputes_of(CHALLENGER, &r[0].id), OTHERS);
    assert_int_equal(open_disputes_of(CHALLENGER2, &r[0].id), 1);
    assert_int_equal(open_disputes_of(CHALLENGER2, &r[1].id), 0);
    assert_int_equal(open_disputes_of(CLIENT, &r[0].id), 0);
    OK(WORKER, state_move(&mine, 1));
    blocks(KIT_CLOCK + 1);
    assert_false(vd_dispute_open(dispute(&mine).status));
    assert_int_equal(open_disputes_of(CHALLENGER2, &r[0].id), 0);
    assert_true(open_disputes_of(CHALLENGER, &r[0].id) > 0);
}

/* The record of a closed dispute goes when its time is over, whoever won; the receipt's stays. */
static void test_closed_disputes_leave_the_state(void **state)
{
    enum { HISTORY = 20 };
    struct vd_hash e, id = settled_receipt(500, &e);
    struct vd_dispute d;
    k.genesis.history_blocks = HISTORY;
    struct vd_hash friend = challenge(CHALLENGER, &id), other = challenge(CHALLENGER2, &id);
    OK(WORKER, state_move(&friend, 1));
    while (vd_dispute_open(dispute(&friend).status) || vd_dispute_open(dispute(&other).status))
        blocks(1);
    uint64_t first = dispute(&friend).end_height, last = dispute(&other).end_height;
    while (net.block.height < first + HISTORY)
        blocks(1);
    bool there = vd_ledger_get_dispute(&net.block.overlay.kv, &friend, &d) && is_listed(&id, &friend);
    blocks(1);
    bool gone = !vd_ledger_get_dispute(&net.block.overlay.kv, &friend, &d) && !is_listed(&id, &friend);
    while (net.block.height <= last + HISTORY)
        blocks(1);
    bool all = !vd_ledger_get_dispute(&net.block.overlay.kv, &other, &d) && !is_listed(&id, &other);
    assert_true(there && gone && all);
    assert_int_equal(receipt(&id).status, VD_RECEIPT_VOID);
    blocks(2);
}

/* A clock that has run out and is left over for the next block: a move does not save it. */
static void test_a_left_over_clock_has_run_out(void **state)
{
    struct vd_hash e, id = settled_receipt(500, &e), d = challenge(CHALLENGER, &id);
    struct vd_dispute late = dispute(&d);
    late.deadline_height = net.height;
    vd_block_put_dispute(&net.block, &d, &late);
    REFUSED(VD_TX_UNKNOWN_DISPUTE, WORKER, state_move(&d, 1));
}

/* Every move has time for a replay: 1 position here, at 2 in a block. */
static void test_replays_have_time(void **state)
{
    struct vd_hash op = {{1}}, unit[3] = {{{0}}, {{2}}, {{3}}};
    struct vd_trace_at at = {.salt = vd_trace_salt(k.job_salt, 0)};
    unit[0] = vd_trace_unit(&at, &op, 1);
    struct vd_hash step_root = vd_merkle_root(unit, 3), root = vd_trace_step(0, &step_root);
    k.genesis.steps_per_block = 2;
    struct vd_hash e, id = settled_receipt(500, &e), other = challenge(CHALLENGER, &id),
                      d = challenge(CHALLENGER, &id);
    uint64_t now = net.height + 1, workers = now + 2 * (KIT_CLOCK + 1) + 1, challengers = now + KIT_CLOCK + 1;
    assert_int_equal(dispute(&other).deadline_height, now + KIT_CLOCK + 1 + 1);
    assert_int_equal(dispute(&d).deadline_height, workers);
    play(&d, (struct vd_move){.kind = VD_MOVE_STATE, .root = root, .nodes = {root.b, VD_HASH_BYTES}}, WORKER);
    assert_int_equal(dispute(&d).deadline_height, challengers);
    play(&d, (struct vd_move){.kind = VD_MOVE_STEP}, CHALLENGER);
    assert_int_equal(dispute(&d).deadline_height, workers);
    play(&d, (struct vd_move){.kind = VD_MOVE_UNITS, .nodes = {unit[0].b, sizeof unit}}, WORKER);
    assert_int_equal(dispute(&d).deadline_height, challengers);
    play(&d, (struct vd_move){.kind = VD_MOVE_UNIT}, CHALLENGER);
    assert_int_equal(dispute(&d).deadline_height, workers);
    play(&d, (struct vd_move){.kind = VD_MOVE_OPS, .salt = at.salt, .nodes = {op.b, VD_HASH_BYTES}}, WORKER);
    assert_int_equal(dispute(&d).deadline_height, challengers);
    play(&d, (struct vd_move){.kind = VD_MOVE_OP}, CHALLENGER);
    assert_int_equal(dispute(&d).deadline_height, workers);
}

/* Both sides move in the last block of their clocks, always: three moves of each, and no longer than the
 * specification's bound for these. */
static void test_a_dispute_has_an_end(void **state)
{
    struct vd_hash op = {{1}}, unit[3] = {{{0}}, {{2}}, {{3}}};
    struct vd_trace_at at = {.salt = vd_trace_salt(k.job_salt, 0)};
    unit[0] = vd_trace_unit(&at, &op, 1);
    struct vd_hash step_root = vd_merkle_root(unit, 3), root = vd_trace_step(0, &step_root);
    const struct vd_move move[] = {
        {.kind = VD_MOVE_STATE, .root = root, .nodes = {root.b, VD_HASH_BYTES}},
        {.kind = VD_MOVE_STEP},
        {.kind = VD_MOVE_UNITS, .nodes = {unit[0].b, sizeof unit}},
        {.kind = VD_MOVE_UNIT},
        {.kind = VD_MOVE_OPS, .salt = at.salt, .nodes = {op.b, VD_HASH_BYTES}},
    };
    k.genesis.steps_per_block = 1;
    struct vd_hash e, id = settled_receipt(500, &e), d = challenge(CHALLENGER, &id);
    for (int i = 0; i < 5; i++) {
        while (net.block.height < dispute(&d).deadline_height)
            blocks(1);
        play(&d, move[i], i % 2 ? CHALLENGER : WORKER);
    }
    while (vd_dispute_open(dispute(&d).status))
        blocks(1);
    enum { ONE = KIT_CLOCK + 1, LONGEST = 1 };
    assert_int_equal(dispute(&d).status, VD_DISPUTE_CHALLENGER_LATE);
    assert_int_equal(dispute(&d).end_height, dispute(&d).open_height + 3 * (ONE + LONGEST) + 3 * ONE);
}

/* Somebody has the worker replay a long job when it is its turn about a short one: 1 and 41 positions, at 2
 * in a block. */
static void test_a_long_replay_makes_no_other_dispute_late(void **state)
{
    struct kit_receipt r[2];
    struct vd_hash e = ready(), root = {{7}};
    struct vd_move shown = {.kind = VD_MOVE_STATE, .root = root, .nodes = {root.b, VD_HASH_BYTES}};
    k.genesis.steps_per_block = 2;
    for (int i = 0; i < 2; i++) {
        kit_receipt(&k, &r[i], &e, 1 + (uint64_t)i, WORKER, 500, 100);
        r[i].value.request.n_prompt = i ? 41 : 1;
        kit_seal(&k, &r[i], WORKER, 1);
    }
    OK(GATEWAY, settle(r, 2));
    struct vd_hash brief = challenge(CHALLENGER, &r[0].id);
    play(&brief, shown, WORKER);
    struct vd_hash drawn_out = challenge(CHALLENGER, &r[1].id);
    assert_int_equal(stake(WORKER).longest_replay_blocks, 21);
    play(&brief, (struct vd_move){.kind = VD_MOVE_STEP}, CHALLENGER);
    uint64_t now = net.height + 1;
    assert_int_equal(dispute(&drawn_out).deadline_height, now + 2 * (KIT_CLOCK + 21) + 21);
    assert_int_equal(dispute(&brief).deadline_height, now + KIT_CLOCK + 1 + 21);
    blocks(KIT_CLOCK + 1 + 21);
    assert_int_equal(dispute(&brief).status, VD_DISPUTE_WORKER_MOVES);
    blocks(1);
    assert_int_equal(dispute(&brief).status, VD_DISPUTE_WORKER_LATE);
    assert_int_equal(stake(WORKER).longest_replay_blocks, 21);
    blocks(2 * KIT_CLOCK + 42);
    assert_int_equal(stake(WORKER).n_open_disputes, 0);
    assert_int_equal(stake(WORKER).longest_replay_blocks, 0);
}

/* A worker has a friend convict it for one receipt: the others are paid to nobody, its offers stand no more,
 * and nothing of its settles until it has a stake again. */
static void test_a_conviction_reaches_all_that_is_unpaid(void **state)
{
    struct vd_hash e = ready();
    struct kit_receipt r[4];
    struct vd_offer o;
    for (int i = 0; i < 4; i++)
        kit_receipt(&k, &r[i], &e, (uint64_t)i + 1, i == 2 ? WORKER2 : WORKER, 100, 100);
    OK(WORKER, {.kind = VD_TX_OFFER, .u.offer = {k.model_root, {1}, {2}, 1}});
    OK(GATEWAY, settle(r, 3));
    struct vd_hash d[2] = {challenge(CHALLENGER, &r[0].id), challenge(CHALLENGER, &r[0].id)};
    OK(WORKER, state_move(&d[0], 1));
    assert_true(vd_ledger_get_offer(&net.block.overlay.kv, &k.model_root, &k.key[WORKER].pub, &o));
    blocks(1);
    OK(WORKER, state_move(&d[1], 2));
    assert_int_equal(receipt(&r[0].id).status, VD_RECEIPT_VOID);
    assert_int_equal(stake(WORKER).convicted_height, net.height + 1);
    assert_false(vd_ledger_get_offer(&net.block.overlay.kv, &k.model_root, &k.key[WORKER].pub, &o));
    REFUSED(VD_TX_STAKE_TOO_SMALL, GATEWAY, settle(&r[3], 1));
    REFUSED(VD_TX_BELOW_MIN_STAKE, WORKER, {.kind = VD_TX_OFFER, .u.offer = {k.model_root, {1}, {2}, 1}});
    blocks(1);
    OK(WORKER, {.kind = VD_TX_STAKE, .u.stake = {{KIT_SLASH}}});
    OK(GATEWAY, settle(&r[3], 1)); /* after the conviction: a new life */
    OK(WORKER, {.kind = VD_TX_OFFER, .u.offer = {k.model_root, {1}, {2}, 1}});
    assert_true(vd_ledger_get_offer(&net.block.overlay.kv, &k.model_root, &k.key[WORKER].pub, &o));
    blocks(KIT_WINDOW + 1);
    assert_int_equal(receipt(&r[1].id).status, VD_RECEIPT_VOID);
    assert_int_equal(receipt(&r[2].id).status, VD_RECEIPT_FINAL); /* another worker's */
    assert_int_equal(receipt(&r[3].id).status, VD_RECEIPT_FINAL);
    assert_int_equal(balance(WORKER), KIT_BALANCE - KIT_MIN_STAKE - KIT_SLASH + 90);
    assert_int_equal(escrow(&e).balance.micro, 2000 - 200); /* two of four came back */
    assert_int_equal(stake(WORKER).unsettled.micro, 0);
    assert_int_equal(stake(WORKER).amount.micro, KIT_MIN_STAKE); /* slashed once */
}

/* A conviction's own block is among those that it reaches, and what the worker had earned in trust is gone.
 */
static void test_a_conviction_reaches_its_own_block(void **state)
{
    struct vd_hash e = ready();
    struct kit_receipt r[4];
    for (int i = 0; i < 4; i++)
        kit_receipt(&k, &r[i], &e, (uint64_t)i + 1, WORKER, 10, 100);
    OK(WORKER, {.kind = VD_TX_STAKE, .u.stake = {{KIT_SLASH}}});
    OK(GATEWAY, settle(&r[0], 1));
    blocks(KIT_WINDOW + 1);
    assert_int_equal(stake(WORKER).n_final, 1);
    OK(GATEWAY, settle(&r[1], 1));
    struct vd_hash d[2] = {challenge(CHALLENGER, &r[1].id), challenge(CHALLENGER, &r[1].id)};
    OK(WORKER, state_move(&d[0], 1));
    blocks(1);
    OK(GATEWAY, settle(&r[2], 1));
    OK(WORKER, state_move(&d[1], 2));
    assert_int_equal(receipt(&r[1].id).void_why, VD_VOID_VERDICT);
    assert_int_equal(stake(WORKER).n_final, 0);
    OK(GATEWAY, settle(&r[3], 1));
    blocks(KIT_WINDOW + 1);
    assert_int_equal(receipt(&r[2].id).void_why, VD_VOID_CONVICTED);
    assert_int_equal(receipt(&r[3].id).void_why, VD_VOID_CONVICTED);
    assert_int_equal(stake(WORKER).amount.micro, KIT_MIN_STAKE); /* slashed once */
}

/* A game of five moves to a verdict. The worker shows a trace made for the occasion, whose salt is the right
 * one or not; the challenger reveals the job salt. */
static void play_salt_game(const struct vd_hash *id, bool honest)
{
    struct vd_hash op = {{1}}, unit[3] = {{{0}}, {{2}}, {{3}}}, job_salt;
    struct vd_trace_at at = {.salt = vd_trace_salt(k.job_salt, honest ? 0 : 1)};
    unit[0] = vd_trace_unit(&at, &op, 1);
    struct vd_hash step_root = vd_merkle_root(unit, 3), root = vd_trace_step(0, &step_root);
    memcpy(job_salt.b, k.job_salt, VD_SALT_BYTES);
    play(id, (struct vd_move){.kind = VD_MOVE_STATE, .root = root, .nodes = {root.b, VD_HASH_BYTES}}, WORKER);
    play(id, (struct vd_move){.kind = VD_MOVE_STEP}, CHALLENGER);
    play(id, (struct vd_move){.kind = VD_MOVE_UNITS, .nodes = {unit[0].b, sizeof unit}}, WORKER);
    play(id, (struct vd_move){.kind = VD_MOVE_UNIT}, CHALLENGER);
    blocks(1); /* the game is stored and read again */
    play(id, (struct vd_move){.kind = VD_MOVE_OPS, .salt = at.salt, .nodes = {op.b, VD_HASH_BYTES}}, WORKER);
    play(id, (struct vd_move){.kind = VD_MOVE_SALT, .salt = job_salt}, CHALLENGER);
}

static void test_verdict_against_the_challenger(void **state)
{
    struct vd_hash e, id = settled_receipt(500, &e), d = challenge(CHALLENGER, &id);
    play_salt_game(&d, true);
    assert_int_equal(dispute(&d).status, VD_DISPUTE_CHALLENGER_LOST);
    assert_int_equal(dispute(&d).n_moves, 6);
    assert_int_equal(balance(WORKER), KIT_BALANCE - KIT_MIN_STAKE + KIT_BOND);
    assert_int_equal(receipt(&id).status, VD_RECEIPT_SETTLED); /* its window is still open */
    blocks(KIT_WINDOW);
    assert_int_equal(receipt(&id).status, VD_RECEIPT_FINAL);
}

static void test_verdict_against_the_worker(void **state)
{
    struct vd_hash e, id = settled_receipt(500, &e), d = challenge(CHALLENGER, &id);
    play_salt_game(&d, false);
    assert_int_equal(dispute(&d).status, VD_DISPUTE_WORKER_LOST);
    assert_int_equal(receipt(&id).status, VD_RECEIPT_VOID); /* in that block */
    assert_int_equal(balance(CHALLENGER), KIT_BALANCE + KIT_SLASH * 4 / 10);
    struct vd_bytes game;
    assert_false(vd_ledger_get_game(&net.block.overlay.kv, &d, &game));
    blocks(KIT_WINDOW);
    assert_int_equal(balance(WORKER), KIT_BALANCE - KIT_MIN_STAKE);
}

/* A dispute that ends before the window does opens the way to FINAL no earlier than the window's last block.
 */
static void test_a_lost_dispute_shortens_no_window(void **state)
{
    struct vd_hash e, id = settled_receipt(500, &e);
    blocks(1);
    struct vd_hash d = challenge(CHALLENGER, &id);
    OK(WORKER, state_move(&d, 1));
    blocks(KIT_CLOCK + 1);
    assert_int_equal(dispute(&d).status, VD_DISPUTE_CHALLENGER_LATE);
    assert_int_equal(net.height + 1, receipt(&id).window_end_height);
    assert_int_equal(receipt(&id).status, VD_RECEIPT_SETTLED);
    blocks(1);
    assert_int_equal(receipt(&id).status, VD_RECEIPT_FINAL);
}

/* Nor does one that ends in that block itself: what comes behind it in the block is still in time. */
static void test_a_dispute_lost_in_the_last_block_leaves_it_open(void **state)
{
    struct vd_hash e, id = settled_receipt(500, &e);
    while (net.block.height + 1 < receipt(&id).window_end_height)
        blocks(1);
    struct vd_hash d = challenge(CHALLENGER, &id);
    play_salt_game(&d, true);
    assert_int_equal(dispute(&d).status, VD_DISPUTE_CHALLENGER_LOST);
    assert_int_equal(net.block.height, receipt(&id).window_end_height);
    assert_int_equal(receipt(&id).status, VD_RECEIPT_SETTLED);
    challenge(CHALLENGER2, &id);
    blocks(1);
    assert_int_equal(receipt(&id).status, VD_RECEIPT_SETTLED);
    assert_int_equal(receipt(&id).n_open_disputes, 1);
}

static void test_a_dispute_lost_in_the_last_block_is_paid_at_its_end(void **state)
{
    struct vd_hash e, id = settled_receipt(500, &e);
    while (net.block.height + 1 < receipt(&id).window_end_height)
        blocks(1);
    struct vd_hash d = challenge(CHALLENGER, &id);
    play_salt_game(&d, true);
    blocks(1);
    assert_int_equal(receipt(&id).close_height, receipt(&id).window_end_height);
    assert_int_equal(receipt(&id).status, VD_RECEIPT_FINAL);
}

/* --- blocks --- */

static void test_block_limits(void **state)
{
    struct vd_hash e, id = settled_receipt(500, &e);
    struct vd_hash d = {{0}};
    for (int i = 0; i < VD_BLOCK_MAX_CHALLENGES; i++)
        d = challenge(CHALLENGER, &id);
    REFUSED(VD_TX_BLOCK_FULL, CHALLENGER, {.kind = VD_TX_CHALLENGE, .u.challenge = {id}});
    OK(CHALLENGER, {.kind = VD_TX_TRANSFER, .u.transfer = {k.key[0].pub, {1}}}); /* other kinds have room */
    struct vd_tx junk = {.kind = VD_TX_MOVE, .u.move = {d, {(const uint8_t *)"x", 1}}};
    for (int i = 0; i < VD_BLOCK_MAX_MOVES; i++) /* rejected ones count */
        REFUSED(VD_TX_BAD_MOVE, WORKER, junk);
    REFUSED(VD_TX_BLOCK_FULL, WORKER, state_move(&d, 1));
    blocks(1);
    OK(WORKER, state_move(&d, 1));
    blocks(VD_BLOCK_MAX_CHALLENGES * KIT_CLOCK + 1);
    assert_int_equal(bucket(VD_BUCKET_BONDS), 0);
    while (net.block.n_txs < VD_BLOCK_MAX_TXS)
        OK(CLIENT, {.kind = VD_TX_TRANSFER, .u.transfer = {k.key[0].pub, {1}}});
    REFUSED(VD_TX_BLOCK_FULL, CLIENT, {.kind = VD_TX_TRANSFER, .u.transfer = {k.key[0].pub, {1}}});
    kit_end(&net);
}

/* More deadlines of one height than a block ends: the rest comes first in the next. */
static struct vd_hash numbered(int i)
{
    return (struct vd_hash){{(uint8_t)(i >> 8), (uint8_t)i}};
}

static void test_deadlines_of_a_block_are_bounded(void **state)
{
    enum { ALL = VD_BLOCK_MAX_DEADLINES + 10 };
    struct vd_escrow e = {.open_height = 1, .end_height = net.height + 1};
    struct vd_hash last = numbered(ALL - 1), in_time = numbered(VD_BLOCK_MAX_DEADLINES - 1),
                   too_many = numbered(VD_BLOCK_MAX_DEADLINES);
    for (int i = 0; i < ALL; i++) {
        struct vd_hash id = numbered(i);
        vd_block_put_escrow(&net.block, &id, &e);
        vd_block_deadline_add(&net.block, e.end_height, VD_DEADLINE_ESCROW, &id);
    }
    kit_end(&net);
    assert_true(escrow(&in_time).ended);
    assert_false(escrow(&too_many).ended);
    kit_end(&net);
    assert_true(escrow(&last).ended);
}

/* The check at the end of a block is a real one: with a record made by hand it fails. */
static void test_conservation_check_can_fail(void **state)
{
    struct vd_error err;
    net.block.totals.bucket[VD_BUCKET_BURNED].micro++;
    assert_int_equal(vd_ledger_end(&net.block, &err), VD_EINTERNAL);
    assert_non_null(strstr(err.msg, "supply"));
    kit_begin(&net);
    struct vd_state_key key = vd_state_key_make(VD_STATE_ACCOUNT, k.key[CLIENT].pub.b, VD_PUBKEY_BYTES, NULL);
    vd_overlay_put(&net.block.overlay, vd_state_key_bytes(&key), (struct vd_bytes){(const uint8_t *)"?", 1});
    kit_give(&net, CLIENT, (struct vd_tx){.kind = VD_TX_TRANSFER, .u.transfer = {k.key[1].pub, {1}}}, NULL);
    assert_int_equal(vd_ledger_end(&net.block, &err), VD_EINTERNAL);
    kit_begin(&net);
}

static void test_prepare_and_process(void **state)
{
    static struct kit_tx t[3];
    struct vd_tx tx = {.kind = VD_TX_TRANSFER, .u.transfer = {k.key[GATEWAY].pub, {1}}};
    struct vd_bytes all[3];
    enum vd_tx_verdict v[3];
    for (int i = 0; i < 3; i++) {
        kit_sign(&k, &t[i], CLIENT, i == 1 ? 9 : (uint64_t)i / 2, tx);
        all[i] = kit_tx_bytes(&t[i]);
    }
    vd_ledger_prepare(&net.block, all, 3, NULL, v);
    assert_int_equal(v[0], VD_TX_OK);
    assert_int_equal(v[1], VD_TX_BAD_NONCE);
    assert_int_equal(v[2], VD_TX_OK);
    kit_begin(&net);
    assert_false(vd_ledger_process(&net.block, all, 3));
    kit_begin(&net);
    all[1] = all[2];
    assert_true(vd_ledger_process(&net.block, all, 2));
    kit_begin(&net);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_general_refusals),
        T(test_twice_changes_nothing),
        T(test_check),
        T(test_transfer),
        T(test_stake),
        T(test_models_and_offers),
        T(test_escrow),
        T(test_settle_refusals),
        T(test_program_must_fit_the_job),
        T(test_receipt_becomes_final),
        T(test_shares),
        T(test_a_batch_is_all_or_nothing),
        T(test_settling_after_close),
        T(test_challenge_refusals),
        T(test_check_of_disputes),
        T(test_check_of_receipts),
        T(test_silent_worker_loses),
        T(test_slash_is_at_most_the_stake),
        T(test_silent_challenger_loses),
        T(test_two_state_roots_and_many_challengers),
        T(test_losing_on_purpose_finalises_nothing),
        T(test_void_after_the_escrow_ended_pays_the_owner),
        T(test_a_hundred_challenges_at_once),
        T(test_idle_bonds_burn_when_the_worker_was_late),
        T(test_a_challenger_finds_its_own_dispute),
        T(test_closed_disputes_leave_the_state),
        T(test_a_left_over_clock_has_run_out),
        T(test_replays_have_time),
        T(test_a_dispute_has_an_end),
        T(test_a_long_replay_makes_no_other_dispute_late),
        T(test_a_conviction_reaches_all_that_is_unpaid),
        T(test_a_conviction_reaches_its_own_block),
        T(test_deadlines_of_a_block_are_bounded),
        T(test_verdict_against_the_challenger),
        T(test_verdict_against_the_worker),
        T(test_a_lost_dispute_shortens_no_window),
        T(test_a_dispute_lost_in_the_last_block_leaves_it_open),
        T(test_a_dispute_lost_in_the_last_block_is_paid_at_its_end),
        T(test_block_limits),
        T(test_conservation_check_can_fail),
        T(test_prepare_and_process),
    };
    kit_init(&k);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    kit_free(&k);
    return failed;
}
