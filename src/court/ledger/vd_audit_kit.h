/* What the tests of audits share: a network with two workers, a keeper and two auditors, jobs of three steps
 * whose roots are real hashes, and each transaction of an audit by one call. Every receipt is drawn (the rate
 * is 100 %) by two of the auditors, who are the two challengers of the kit with a third beside them where a
 * test says so. After each block the kit sums all records on its own (kit_audit). Tests only. */
#ifndef VD_AUDIT_KIT_H
#define VD_AUDIT_KIT_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "vd_audit.h"
#include "vd_court_kit.h"
#include "vd_ledger_impl.h"
#include "vd_trace_hash.h"

enum { CLIENT, GATEWAY, WORKER, WORKER2, AUDITOR, AUDITOR2, TREASURY, STRANGER };
enum { AMOUNT = 400, LAYERS = 100, STAKE = 2000, WINDOW = 8 };

static struct kit k;
static struct kit_net net;
static const uint8_t seed[32] = {9};

#define OK(from, ...) assert_int_equal(kit_give(&net, from, (struct vd_tx)__VA_ARGS__, NULL), VD_TX_OK)
#define REFUSED(verdict, from, ...)                                                                          \
    assert_int_equal(kit_give(&net, from, (struct vd_tx)__VA_ARGS__, NULL), verdict)

KIT uint64_t balance(int who)
{
    struct vd_account a = {{0}, 0};
    vd_ledger_get_account(&net.block.overlay.kv, &k.key[who].pub, &a);
    return a.balance.micro;
}

KIT struct vd_stake stake(int who)
{
    struct vd_stake s = {.n_open_receipts = 0};
    vd_ledger_get_stake(&net.block.overlay.kv, &k.key[who].pub, &s);
    return s;
}

KIT struct vd_audit audit(const struct vd_hash *id)
{
    struct vd_audit a = {.n_slots = 0};
    vd_ledger_get_audit(&net.block.overlay.kv, id, &a);
    return a;
}

KIT struct vd_receipt_record receipt(const struct vd_hash *id)
{
    struct vd_receipt_record r;
    assert_true(vd_ledger_get_receipt(&net.block.overlay.kv, id, &r));
    return r;
}

KIT struct vd_auditor auditor(int who)
{
    struct vd_state_key key =
        vd_state_key_make(VD_STATE_AUDITOR, k.model_root.b, VD_HASH_BYTES, k.key[who].pub.b);
    struct vd_auditor a = {.height = 0};
    struct vd_bytes there;
    assert_true(net.block.overlay.kv.get(&net.block.overlay.kv, vd_state_key_bytes(&key), &there));
    assert_true(vd_auditor_decode(there, &a));
    return a;
}

KIT uint64_t bucket(enum vd_bucket b)
{
    return net.block.totals.bucket[b].micro;
}

KIT void blocks(int n)
{
    while (n-- > 0)
        kit_end(&net);
}

/* The block at hand is this one. */
KIT void until(uint64_t height)
{
    while (net.block.height < height)
        kit_end(&net);
    assert_int_equal(net.block.height, height);
}

/* ---- a job of three steps whose roots are real hashes ---- */

struct job {
    struct kit_receipt r;
    struct vd_hash leaf[3];
    uint32_t tokens[4];
    struct vd_hash escrow;
};

KIT void make_job(struct job *j, uint64_t sequence, const struct vd_hash *trap_secret)
{
    memset(j->leaf, (int)(sequence * 7 + 1), sizeof j->leaf);
    for (int i = 0; i < 4; i++)
        j->tokens[i] = (uint32_t)(sequence + 10 + (uint64_t)i);
    if (trap_secret)
        j->leaf[1] = vd_trap_leaf(trap_secret);
    kit_receipt(&k, &j->r, &j->escrow, sequence, WORKER, AMOUNT, 10000);
    struct vd_receipt *v = &j->r.value;
    v->request.n_prompt = v->n_output = v->request.max_tokens = 2;
    v->request.price_out.micro = AMOUNT / 2;
    v->request.prompt_root = vd_token_root(k.job_salt, 0, j->tokens, 2);
    v->output_root = vd_token_root(k.job_salt, 2, j->tokens + 2, 2);
    v->commit_root = vd_merkle_root(j->leaf, 3);
    kit_seal(&k, &j->r, WORKER, GATEWAY);
}

KIT void settle(struct job *j)
{
    OK(GATEWAY, {.kind = VD_TX_SETTLE, .u.settle = {1, {{j->r.bytes, j->r.n}}}});
}

KIT void halves(const struct job *j, struct vd_hash half[2])
{
    half[0] = vd_merkle_node(&j->leaf[0], &j->leaf[1]);
    half[1] = j->leaf[2];
}

KIT struct vd_tx beacon_of(uint64_t epoch, uint64_t first_epoch)
{
    struct vd_tx tx = {.kind = VD_TX_BEACON, .u.beacon = {.epoch = epoch}};
    tx.u.beacon.layer = vd_onion_layer(seed, (uint32_t)(LAYERS - 1 - (epoch - first_epoch)));
    return tx;
}

static uint64_t first_epoch; /* of the keeper */

/* A network with two workers, a keeper (the gateway) and two auditors, at the first block of an epoch that
 * the keeper will reveal. */
KIT int setup(void **state)
{
    struct vd_tx open = {.kind = VD_TX_BEACON_OPEN, .u.beacon_open = {vd_onion_layer(seed, LAYERS), LAYERS}};
    kit_net_init(&net, &k);
    OK(WORKER, {.kind = VD_TX_STAKE, .u.stake = {{STAKE}}});
    OK(WORKER, {.kind = VD_TX_REGISTER_MODEL,
                .u.register_model = {{k.program, k.program_bytes}, k.n_tensors, k.tensors_root}});
    for (int a = AUDITOR; a <= AUDITOR2; a++) {
        OK(a, {.kind = VD_TX_STAKE, .u.stake = {{STAKE}}});
        OK(a, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, true}});
    }
    assert_int_equal(kit_give(&net, GATEWAY, open, NULL), VD_TX_OK);
    first_epoch = vd_epoch_of(&k.genesis, net.block.height) + 1;
    until(first_epoch * KIT_EPOCH);
    return 0;
}

KIT int teardown(void **state)
{
    kit_net_free(&net);
    return 0;
}

KIT void open_escrow(struct job *j)
{
    struct vd_tx tx = {.kind = VD_TX_ESCROW_OPEN, .u.escrow_open = {k.key[GATEWAY].pub, {5000}}};
    assert_int_equal(kit_give(&net, CLIENT, tx, &j->escrow), VD_TX_OK);
}

/* The layer of the epoch that ended last is revealed; the next block is the first after the draw. */
KIT void reveal_layer(void)
{
    uint64_t epoch = vd_epoch_of(&k.genesis, net.block.height);
    until((epoch + 1) * KIT_EPOCH);
    assert_int_equal(kit_give(&net, GATEWAY, beacon_of(epoch, first_epoch), NULL), VD_TX_OK);
    until(vd_epoch_due(&k.genesis, epoch) + 1);
}

/* A receipt that is settled and drawn. */
KIT void draw_job(struct job *j, const struct vd_hash *trap_secret)
{
    make_job(j, 1, trap_secret);
    settle(j);
    reveal_layer();
    assert_int_equal(audit(&j->r.id).phase, VD_AUDIT_COMMITTING);
    assert_int_equal(audit(&j->r.id).n_slots, 2);
}

KIT void drawn_job(struct job *j, const struct vd_hash *trap_secret)
{
    open_escrow(j);
    draw_job(j, trap_secret);
}

KIT struct vd_tx_audit_reveal says(const struct job *j, int who, enum vd_audit_verdict v)
{
    struct vd_tx_audit_reveal r = {.receipt_id = j->r.id, .verdict = v};
    memset(r.nonce.b, 40 + who, VD_HASH_BYTES);
    if (v == VD_AUDIT_STANDS)
        halves(j, r.half);
    return r;
}

KIT enum vd_tx_verdict commit(int who, const struct vd_tx_audit_reveal *r)
{
    struct vd_tx tx = {.kind = VD_TX_AUDIT_COMMIT, .u.audit_commit.receipt_id = r->receipt_id};
    tx.u.audit_commit.commitment = vd_audit_commitment(&k.key[who].pub, r);
    return kit_give(&net, who, tx, NULL);
}

KIT enum vd_tx_verdict reveal(int who, const struct vd_tx_audit_reveal *r)
{
    return kit_give(&net, who, (struct vd_tx){.kind = VD_TX_AUDIT_REVEAL, .u.audit_reveal = *r}, NULL);
}

KIT void both_commit(const struct vd_tx_audit_reveal *first, const struct vd_tx_audit_reveal *second)
{
    assert_int_equal(commit(AUDITOR, first), VD_TX_OK);
    assert_int_equal(commit(AUDITOR2, second), VD_TX_OK);
}

/* The two auditors commit and reveal. */
KIT void both_say(const struct job *j, enum vd_audit_verdict first, enum vd_audit_verdict second)
{
    struct vd_tx_audit_reveal a = says(j, AUDITOR, first), b = says(j, AUDITOR2, second);
    both_commit(&a, &b);
    assert_int_equal(reveal(AUDITOR, &a), VD_TX_OK);
    assert_int_equal(reveal(AUDITOR2, &b), VD_TX_OK);
}

KIT enum vd_audit_slot_status said(const struct vd_hash *id, int who)
{
    struct vd_audit a = audit(id);
    for (uint32_t i = 0; i < a.n_slots; i++)
        if (vd_pubkey_eq(&a.slot[i].auditor, &k.key[who].pub))
            return a.slot[i].status;
    return 0;
}

/* What an auditor gets for a receipt of AMOUNT: 5 %, by two. */
enum { REWARD = AMOUNT / 20 / 2 };

KIT struct vd_hash challenge(int who, const struct job *j)
{
    struct vd_hash id;
    assert_int_equal(
        kit_give(&net, who, (struct vd_tx){.kind = VD_TX_CHALLENGE, .u.challenge = {j->r.id}}, &id),
        VD_TX_OK);
    return id;
}

KIT struct vd_tx data_of(const struct job *j, uint8_t bytes[16])
{
    for (int i = 0; i < 4; i++)
        vd_le32_store(bytes + 4 * i, j->tokens[i]);
    struct vd_tx tx = {.kind = VD_TX_AUDIT_DATA,
                       .u.audit_data = {.receipt_id = j->r.id, .tokens = {bytes, 16}}};
    memcpy(tx.u.audit_data.salt.b, k.job_salt, VD_HASH_BYTES);
    return tx;
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

/* main of a file of tests. */
#define RUN_AUDIT_TESTS(tests)                                                                               \
    do {                                                                                                     \
        kit_init(&k);                                                                                        \
        k.genesis.audit_window_blocks = WINDOW;                                                              \
        kit_audits(&k);                                                                                      \
        int failed = cmocka_run_group_tests(tests, NULL, NULL);                                              \
        kit_free(&k);                                                                                        \
        return failed;                                                                                       \
    } while (0)

#endif
