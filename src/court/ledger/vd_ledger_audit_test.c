/* Audits: each transition, each refusal, and who gains and loses what. Every receipt is drawn (the rate is
 * 100 %) by two of the auditors, who are the two challengers of the kit with a third beside them where a test
 * says so. After each block the kit sums all records on its own (kit_audit). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vd_audit.h"
#include "vd_court_kit.h"
#include "vd_game.h"
#include "vd_ledger_impl.h"
#include "vd_pb.h"
#include "vd_trace_hash.h"

enum { CLIENT, GATEWAY, WORKER, WORKER2, AUDITOR, AUDITOR2, TREASURY, STRANGER };
enum { AMOUNT = 400, LAYERS = 100, STAKE = 2000, WINDOW = 8 };

static struct kit k;
static struct kit_net net;
static const uint8_t seed[32] = {9};

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

static struct vd_audit audit(const struct vd_hash *id)
{
    struct vd_audit a = {.n_slots = 0};
    vd_ledger_get_audit(&net.block.overlay.kv, id, &a);
    return a;
}

static struct vd_receipt_record receipt(const struct vd_hash *id)
{
    struct vd_receipt_record r;
    assert_true(vd_ledger_get_receipt(&net.block.overlay.kv, id, &r));
    return r;
}

static struct vd_auditor auditor(int who)
{
    struct vd_state_key key =
        vd_state_key_make(VD_STATE_AUDITOR, k.model_root.b, VD_HASH_BYTES, k.key[who].pub.b);
    struct vd_auditor a = {.height = 0};
    struct vd_bytes there;
    assert_true(net.block.overlay.kv.get(&net.block.overlay.kv, vd_state_key_bytes(&key), &there));
    assert_true(vd_auditor_decode(there, &a));
    return a;
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

/* The block at hand is this one. */
static void until(uint64_t height)
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

static void make_job(struct job *j, uint64_t sequence, const struct vd_hash *trap_secret)
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

static void settle(struct job *j)
{
    OK(GATEWAY, {.kind = VD_TX_SETTLE, .u.settle = {1, {{j->r.bytes, j->r.n}}}});
}

static void halves(const struct job *j, struct vd_hash half[2])
{
    half[0] = vd_merkle_node(&j->leaf[0], &j->leaf[1]);
    half[1] = j->leaf[2];
}

static struct vd_tx beacon_of(uint64_t epoch, uint64_t first_epoch)
{
    struct vd_tx tx = {.kind = VD_TX_BEACON, .u.beacon = {.epoch = epoch}};
    tx.u.beacon.layer = vd_onion_layer(seed, (uint32_t)(LAYERS - 1 - (epoch - first_epoch)));
    return tx;
}

static uint64_t first_epoch; /* of the keeper */

/* A network with two workers, a keeper (the gateway) and two auditors, at the first block of an epoch that
 * the keeper will reveal. */
static int setup(void **state)
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

static int teardown(void **state)
{
    kit_net_free(&net);
    return 0;
}

static void open_escrow(struct job *j)
{
    struct vd_tx tx = {.kind = VD_TX_ESCROW_OPEN, .u.escrow_open = {k.key[GATEWAY].pub, {5000}}};
    assert_int_equal(kit_give(&net, CLIENT, tx, &j->escrow), VD_TX_OK);
}

/* The layer of the epoch that ended last is revealed; the next block is the first after the draw. */
static void reveal_layer(void)
{
    uint64_t epoch = vd_epoch_of(&k.genesis, net.block.height);
    until((epoch + 1) * KIT_EPOCH);
    assert_int_equal(kit_give(&net, GATEWAY, beacon_of(epoch, first_epoch), NULL), VD_TX_OK);
    until(vd_epoch_due(&k.genesis, epoch) + 1);
}

/* A receipt that is settled and drawn. */
static void draw_job(struct job *j, const struct vd_hash *trap_secret)
{
    make_job(j, 1, trap_secret);
    settle(j);
    reveal_layer();
    assert_int_equal(audit(&j->r.id).phase, VD_AUDIT_COMMITTING);
    assert_int_equal(audit(&j->r.id).n_slots, 2);
}

static void drawn_job(struct job *j, const struct vd_hash *trap_secret)
{
    open_escrow(j);
    draw_job(j, trap_secret);
}

static struct vd_tx_audit_reveal says(const struct job *j, int who, enum vd_audit_verdict v)
{
    struct vd_tx_audit_reveal r = {.receipt_id = j->r.id, .verdict = v};
    memset(r.nonce.b, 40 + who, VD_HASH_BYTES);
    if (v == VD_AUDIT_STANDS)
        halves(j, r.half);
    return r;
}

static enum vd_tx_verdict commit(int who, const struct vd_tx_audit_reveal *r)
{
    struct vd_tx tx = {.kind = VD_TX_AUDIT_COMMIT, .u.audit_commit.receipt_id = r->receipt_id};
    tx.u.audit_commit.commitment = vd_audit_commitment(&k.key[who].pub, r);
    return kit_give(&net, who, tx, NULL);
}

static enum vd_tx_verdict reveal(int who, const struct vd_tx_audit_reveal *r)
{
    return kit_give(&net, who, (struct vd_tx){.kind = VD_TX_AUDIT_REVEAL, .u.audit_reveal = *r}, NULL);
}

static void both_commit(const struct vd_tx_audit_reveal *first, const struct vd_tx_audit_reveal *second)
{
    assert_int_equal(commit(AUDITOR, first), VD_TX_OK);
    assert_int_equal(commit(AUDITOR2, second), VD_TX_OK);
}

/* The two auditors commit and reveal. */
static void both_say(const struct job *j, enum vd_audit_verdict first, enum vd_audit_verdict second)
{
    struct vd_tx_audit_reveal a = says(j, AUDITOR, first), b = says(j, AUDITOR2, second);
    both_commit(&a, &b);
    assert_int_equal(reveal(AUDITOR, &a), VD_TX_OK);
    assert_int_equal(reveal(AUDITOR2, &b), VD_TX_OK);
}

static enum vd_audit_slot_status said(const struct vd_hash *id, int who)
{
    struct vd_audit a = audit(id);
    for (uint32_t i = 0; i < a.n_slots; i++)
        if (vd_pubkey_eq(&a.slot[i].auditor, &k.key[who].pub))
            return a.slot[i].status;
    return 0;
}

/* What an auditor gets for a receipt of AMOUNT: 5 %, by two. */
enum { REWARD = AMOUNT / 20 / 2 };

/* ---- the beacon ---- */

static void test_onion(void **state)
{
    struct vd_hash inner = vd_onion_layer(seed, 4), outer = vd_onion_outer(&inner),
                   five = vd_onion_layer(seed, 5);
    assert_memory_equal(outer.b, five.b, VD_HASH_BYTES);
}

static void test_beacon_refusals(void **state)
{
    struct vd_tx early = beacon_of(first_epoch, first_epoch), wrong = early;
    struct vd_tx again = {.kind = VD_TX_BEACON_OPEN, .u.beacon_open = {{{1}}, 1}};
    REFUSED(VD_TX_BAD_LAYER, GATEWAY, early); /* the epoch is not over */
    REFUSED(VD_TX_BEACON_EXISTS, GATEWAY, again);
    again.u.beacon_open.n_layers = 0;
    REFUSED(VD_TX_BAD_AMOUNT, CLIENT, again);
    until((first_epoch + 1) * KIT_EPOCH - 1);
    REFUSED(VD_TX_BAD_LAYER, GATEWAY, early); /* in its last block receipts can still settle */
    blocks(1);
    wrong.u.beacon.layer.b[0] ^= 1;
    REFUSED(VD_TX_BAD_LAYER, GATEWAY, wrong); /* not the preimage */
    REFUSED(VD_TX_BAD_LAYER, GATEWAY, beacon_of(first_epoch + 1, first_epoch));
    REFUSED(VD_TX_BAD_LAYER, CLIENT, early); /* not its keeper */
    OK(GATEWAY, early);
    REFUSED(VD_TX_BAD_LAYER, GATEWAY, early);
    blocks(KIT_BEACON);
    assert_int_equal(bucket(VD_BUCKET_BONDS), KIT_BEACON_BOND);
}

static void test_missing_reveal_costs_the_bond(void **state)
{
    struct vd_keeper keeper;
    uint64_t before = balance(GATEWAY);
    until(vd_epoch_due(&k.genesis, first_epoch));
    assert_true(vd_ledger_get_keeper(&net.block.overlay.kv, &k.key[GATEWAY].pub, &keeper));
    blocks(1);
    assert_false(vd_ledger_get_keeper(&net.block.overlay.kv, &k.key[GATEWAY].pub, &keeper));
    assert_int_equal(bucket(VD_BUCKET_BURNED), KIT_BEACON_BOND);
    assert_int_equal(bucket(VD_BUCKET_BONDS), 0);
    assert_int_equal(balance(GATEWAY), before);
    REFUSED(VD_TX_BAD_LAYER, GATEWAY, beacon_of(first_epoch, first_epoch));
}

static void test_the_last_layer_returns_the_bond(void **state)
{
    struct vd_tx open = {.kind = VD_TX_BEACON_OPEN, .u.beacon_open = {vd_onion_layer(seed, 1), 1}};
    struct vd_tx last = {.kind = VD_TX_BEACON, .u.beacon = {first_epoch + 1, vd_onion_layer(seed, 0)}};
    uint64_t before = balance(CLIENT);
    OK(CLIENT, open);
    assert_int_equal(balance(CLIENT), before - KIT_BEACON_BOND);
    until((first_epoch + 1) * KIT_EPOCH);
    OK(GATEWAY, beacon_of(first_epoch, first_epoch));
    until((first_epoch + 2) * KIT_EPOCH);
    OK(CLIENT, last);
    assert_int_equal(balance(CLIENT), before);
    OK(GATEWAY, beacon_of(first_epoch + 1, first_epoch));
    blocks(KIT_EPOCH);
    assert_int_equal(balance(CLIENT), before);
}

/* Two keepers with the same onion do not cancel out, and the order of their layers does not matter. */
static void test_keepers_mix(void **state)
{
    struct vd_hash layer = vd_onion_layer(seed, 3), zero = {{0}};
    struct vd_hash a = vd_beacon_part(&k.key[1].pub, &layer), b = vd_beacon_part(&k.key[2].pub, &layer), mix;
    for (int i = 0; i < VD_HASH_BYTES; i++)
        mix.b[i] = a.b[i] ^ b.b[i];
    assert_false(vd_hash_eq(&mix, &zero));
    struct vd_hash one = vd_beacon_value(1, &mix), two = vd_beacon_value(2, &mix);
    assert_false(vd_hash_eq(&one, &two));
}

/* What the ledger mixes is that of all who revealed. */
static void test_the_beacon_is_of_all_layers(void **state)
{
    struct vd_hash layer = vd_onion_layer(seed, 4), mix, beacon;
    OK(CLIENT, {.kind = VD_TX_BEACON_OPEN, .u.beacon_open = {vd_onion_layer(seed, 5), 5}});
    until((first_epoch + 1) * KIT_EPOCH);
    OK(GATEWAY, beacon_of(first_epoch, first_epoch));
    until((first_epoch + 2) * KIT_EPOCH);
    struct vd_tx second = beacon_of(first_epoch + 1, first_epoch);
    OK(CLIENT, {.kind = VD_TX_BEACON, .u.beacon = {first_epoch + 1, layer}});
    OK(GATEWAY, second);
    struct vd_hash a = vd_beacon_part(&k.key[CLIENT].pub, &layer),
                   b = vd_beacon_part(&k.key[GATEWAY].pub, &second.u.beacon.layer);
    for (int i = 0; i < VD_HASH_BYTES; i++)
        mix.b[i] = a.b[i] ^ b.b[i];
    struct vd_hash want = vd_beacon_value(first_epoch + 1, &mix);
    assert_true(vd_block_beacon(&net.block, first_epoch + 1, &beacon));
    assert_memory_equal(beacon.b, want.b, VD_HASH_BYTES);
}

/* A keeper whose bond was put into the state by hand: none. */
static void put_keeper(const struct vd_pubkey *key, uint64_t next_epoch)
{
    struct vd_keeper hand_made = {vd_onion_layer(seed, 1), 1, next_epoch, VD_AMOUNT_ZERO};
    vd_block_put_keeper(&net.block, key, &hand_made);
}

/* A clock that has run out and is left over for the next block: a layer does not save its keeper. */
static void test_a_left_over_layer_is_late(void **state)
{
    struct vd_tx late = {.kind = VD_TX_BEACON, .u.beacon = {first_epoch, vd_onion_layer(seed, 0)}};
    until(vd_epoch_due(&k.genesis, first_epoch) + 1);
    put_keeper(&k.key[CLIENT].pub, first_epoch);
    REFUSED(VD_TX_BAD_LAYER, CLIENT, late);
}

static void test_keepers_are_sixteen(void **state)
{
    struct vd_tx open = {.kind = VD_TX_BEACON_OPEN, .u.beacon_open = {{{1}}, 1}};
    struct vd_pubkey other = {{0}};
    for (uint8_t i = 1; i < 15; i++) { /* and the gateway */
        other.b[0] = i;
        put_keeper(&other, first_epoch + 100);
    }
    OK(CLIENT, open);
    REFUSED(VD_TX_TOO_MANY, WORKER, open);
}

/* Beacons stay for 1,024 epochs. */
static void test_old_beacons_leave_the_state(void **state)
{
    enum { KEPT = 1024 };
    uint64_t now = KEPT; /* the first that makes one leave */
    struct vd_beacon old = {.n_layers = 1};
    struct vd_hash beacon;
    uint8_t buf[VD_STATE_RECORD_MAX_BYTES];
    for (uint64_t e = 0; e < 2; e++) {
        struct vd_state_key at = vd_state_key_beacon(e);
        vd_block_put(&net.block, &at, buf, vd_beacon_encode(&old, buf, sizeof buf));
    }
    put_keeper(&k.key[CLIENT].pub, now);
    net.block.height = (now + 1) * KIT_EPOCH;
    OK(CLIENT, {.kind = VD_TX_BEACON, .u.beacon = {now, vd_onion_layer(seed, 0)}});
    assert_true(vd_block_beacon(&net.block, now, &beacon));
    assert_false(vd_block_beacon(&net.block, 0, &beacon));
    assert_true(vd_block_beacon(&net.block, 1, &beacon));
}

static void test_a_batch_without_a_layer_waits_for_the_next(void **state)
{
    struct vd_tx open = {.kind = VD_TX_BEACON_OPEN, .u.beacon_open = {vd_onion_layer(seed, LAYERS), LAYERS}};
    struct job j;
    open_escrow(&j);
    make_job(&j, 1, NULL);
    until((first_epoch + 1) * KIT_EPOCH - 1);
    settle(&j);
    OK(CLIENT, open); /* owes from the next epoch on; the gateway reveals nothing any more */
    until(vd_epoch_due(&k.genesis, first_epoch) + 1);
    assert_false(receipt(&j.r.id).audited);
    until((first_epoch + 2) * KIT_EPOCH);
    OK(CLIENT, beacon_of(first_epoch + 1, first_epoch + 1));
    until(vd_epoch_due(&k.genesis, first_epoch + 1) + 1);
    assert_true(receipt(&j.r.id).audited);
    assert_int_equal(audit(&j.r.id).epoch, first_epoch + 1);
}

/* Without keepers nobody audits, and nobody waits for it. */
static void test_no_keeper_no_audit(void **state)
{
    struct job j;
    open_escrow(&j);
    make_job(&j, 1, NULL);
    settle(&j);
    until(receipt(&j.r.id).window_end_height + 1);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_FINAL);
    assert_false(receipt(&j.r.id).audited);
}

/* ---- drawing ---- */

static void test_auditor_refusals(void **state)
{
    struct vd_hash none = {{1}};
    REFUSED(VD_TX_UNKNOWN_MODEL, AUDITOR, {.kind = VD_TX_AUDITOR, .u.auditor = {none, true}});
    REFUSED(VD_TX_BELOW_MIN_STAKE, CLIENT, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, true}});
    OK(AUDITOR, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, false}});
    OK(AUDITOR, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, false}}); /* twice: nothing */
    k.genesis.epoch_blocks = 0;
    REFUSED(VD_TX_NO_AUDITS, AUDITOR, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, true}});
    REFUSED(VD_TX_NO_AUDITS, AUDITOR, {.kind = VD_TX_TRAP_PLANT});
    REFUSED(VD_TX_NO_AUDITS, AUDITOR, {.kind = VD_TX_BEACON_OPEN, .u.beacon_open = {none, 1}});
    k.genesis.epoch_blocks = KIT_EPOCH;
}

static void test_draw_is_by_stake_and_excludes_the_parties(void **state)
{
    struct vd_hash beacon = {{3}}, id = {{0}};
    int n = 0, low = 0;
    for (int i = 0; i < 4000; i++) {
        id.b[0] = (uint8_t)i;
        id.b[1] = (uint8_t)(i >> 8);
        n += vd_audit_is_drawn(&beacon, &id, 250000);
        low += vd_audit_point(&beacon, &id, 0, 4000) < 1000;
        assert_true(vd_audit_is_drawn(&beacon, &id, VD_PPM));
        assert_false(vd_audit_is_drawn(&beacon, &id, 0));
    }
    assert_in_range(n, 850, 1150);
    assert_in_range(low, 850, 1150);
    /* The worker and the gateway of a receipt are never among its auditors. */
    struct job j;
    OK(WORKER, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, true}});
    OK(GATEWAY, {.kind = VD_TX_STAKE, .u.stake = {{STAKE * 10}}});
    OK(GATEWAY, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, true}});
    drawn_job(&j, NULL);
    assert_int_equal(said(&j.r.id, AUDITOR), VD_SLOT_DRAWN);
    assert_int_equal(said(&j.r.id, AUDITOR2), VD_SLOT_DRAWN);
}

/* floor(x64 * n / 2^64) of a draw's hash, as the specification writes it. */
static uint64_t point_of(const char *tag, const struct vd_hash *beacon, const struct vd_hash *id,
                         const uint32_t *i, uint64_t n)
{
    struct vd_sha256 s;
    struct vd_hash h;
    vd_sha256_init_tag(&s, tag);
    vd_sha256_hash(&s, beacon);
    vd_sha256_hash(&s, id);
    if (i)
        vd_sha256_u32(&s, *i);
    vd_sha256_final(&s, &h);
    return (uint64_t)((unsigned __int128)vd_le64_load(h.b) * n >> 64);
}

static void test_draws_are_the_specifications(void **state)
{
    struct vd_hash beacon = {{3}}, id = {{0}};
    for (uint32_t i = 0; i < 200; i++) {
        id.b[0] = (uint8_t)i;
        uint32_t x = (uint32_t)point_of("veridem/audited", &beacon, &id, NULL, VD_PPM);
        assert_false(vd_audit_is_drawn(&beacon, &id, x));
        assert_true(vd_audit_is_drawn(&beacon, &id, x + 1));
        assert_int_equal(vd_audit_point(&beacon, &id, i % 3, 1000 + i),
                         point_of("veridem/auditor", &beacon, &id, &(uint32_t){i % 3}, 1000 + i));
    }
}

/* A candidate made by hand: stake and weight are what the draw reads, whatever came before. */
static void set_candidate(int who, uint64_t stake_micro, uint64_t weight)
{
    struct vd_state_key key =
        vd_state_key_make(VD_STATE_AUDITOR, k.model_root.b, VD_HASH_BYTES, k.key[who].pub.b);
    struct vd_auditor a = auditor(who);
    struct vd_stake s = stake(who);
    uint8_t buf[VD_STATE_RECORD_MAX_BYTES];
    a.weight.micro = weight;
    vd_block_put(&net.block, &key, buf, vd_auditor_encode(&a, buf, sizeof buf));
    vd_block_burn(&net.block, vd_amount_micro(s.amount.micro - stake_micro));
    s.amount.micro = stake_micro;
    vd_block_put_stake(&net.block, &k.key[who].pub, &s);
}

/* Who audits: by the smaller of stake and weight, two of three, the first no candidate for the second. The
 * weights are so small that every bound is hit. */
static void test_who_is_drawn(void **state)
{
    enum { N = 40, CANDIDATES = 3 };
    static struct job j[N];
    const int who[CANDIDATES] = {AUDITOR, AUDITOR2, CLIENT};
    const uint64_t weight[CANDIDATES] = {2, 1, 1};
    struct vd_hash beacon;
    OK(CLIENT, {.kind = VD_TX_STAKE, .u.stake = {{STAKE}}});
    OK(CLIENT, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, true}});
    k.genesis.min_stake.micro = 1;
    set_candidate(AUDITOR, 2, STAKE);
    set_candidate(AUDITOR2, STAKE, 1);
    set_candidate(CLIENT, 1, 1);
    open_escrow(&j[0]);
    for (int i = 0; i < N; i++) {
        j[i].escrow = j[0].escrow;
        make_job(&j[i], (uint64_t)i + 1, NULL);
        j[i].r.value.request.price_out.micro = 20;
        j[i].r.value.amount.micro = 40;
        kit_seal(&k, &j[i].r, WORKER, GATEWAY);
        settle(&j[i]);
    }
    reveal_layer();
    k.genesis.min_stake.micro = KIT_MIN_STAKE;
    assert_true(vd_block_beacon(&net.block, first_epoch, &beacon));
    int in_order[CANDIDATES] = {0, 1, 2};
    for (int a = 0; a < CANDIDATES; a++)
        for (int b = a + 1; b < CANDIDATES; b++)
            if (memcmp(k.key[who[in_order[b]]].pub.b, k.key[who[in_order[a]]].pub.b, VD_PUBKEY_BYTES) < 0) {
                int t = in_order[a];
                in_order[a] = in_order[b];
                in_order[b] = t;
            }
    for (int i = 0; i < N; i++) {
        struct vd_audit a = audit(&j[i].r.id);
        bool taken[CANDIDATES] = {false};
        uint64_t total = 4;
        assert_int_equal(a.n_slots, 2);
        for (uint32_t slot = 0; slot < 2; slot++) {
            uint64_t at = point_of("veridem/auditor", &beacon, &j[i].r.id, &slot, total);
            int c = 0;
            while (taken[in_order[c]] || at >= weight[in_order[c]])
                at -= taken[in_order[c]] ? 0 : weight[in_order[c]], c++;
            taken[in_order[c]] = true;
            total -= weight[in_order[c]];
            assert_memory_equal(a.slot[slot].auditor.b, k.key[who[in_order[c]]].pub.b, VD_PUBKEY_BYTES);
        }
    }
}

/* Settles a job of this price and looks whether it is drawn. */
static bool draws(struct job *j, uint64_t price_out)
{
    open_escrow(j);
    make_job(j, 1, NULL);
    j->r.value.request.price_out.micro = price_out;
    assert_true(vd_request_amount(&j->r.value.request, 2, &j->r.value.amount));
    kit_seal(&k, &j->r, WORKER, GATEWAY);
    settle(j);
    reveal_layer();
    return receipt(&j->r.id).audited;
}

/* Nobody replays for nothing: a receipt that would not pay its auditors the least is paid undrawn. */
static void test_free_receipts_are_not_drawn(void **state)
{
    struct job j;
    assert_false(draws(&j, 0));
    until(receipt(&j.r.id).window_end_height + 1);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_FINAL);
}

static void test_too_small_a_reward_is_not_drawn(void **state)
{
    struct job j;
    k.genesis.audit_min_reward.micro = REWARD + 1;
    bool drawn = draws(&j, AMOUNT / 2);
    k.genesis.audit_min_reward.micro = 1;
    assert_false(drawn);
}

static void test_the_least_reward_is_drawn(void **state)
{
    struct job j;
    k.genesis.audit_min_reward.micro = REWARD;
    bool drawn = draws(&j, AMOUNT / 2);
    k.genesis.audit_min_reward.micro = 1;
    assert_true(drawn);
}

/* What counts is the reward at the rate that drew it: a new worker's receipts are drawn more often, for less
 * each. */
static void test_the_least_reward_is_by_the_rate_that_draws(void **state)
{
    struct job j;
    k.genesis.audit_min_reward.micro = REWARD + 1;
    k.genesis.audit_rate_ppm = VD_PPM / 2; /* which would pay twice as much */
    k.genesis.audit_new_rate_ppm = VD_PPM;
    k.genesis.audit_new_receipts = 1000;
    bool drawn = draws(&j, AMOUNT / 2);
    k.genesis.audit_min_reward.micro = 1;
    k.genesis.audit_rate_ppm = VD_PPM;
    k.genesis.audit_new_rate_ppm = 0;
    k.genesis.audit_new_receipts = 0;
    assert_false(drawn);
}

/* Whoever registers after the epoch, when its layer may be known, is not drawn for it. */
static void test_late_auditors_are_not_drawn(void **state)
{
    struct job j;
    open_escrow(&j);
    make_job(&j, 1, NULL);
    settle(&j);
    OK(AUDITOR2, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, false}});
    until((first_epoch + 1) * KIT_EPOCH);
    OK(GATEWAY, beacon_of(first_epoch, first_epoch));
    OK(AUDITOR2, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, true}});
    until(vd_epoch_due(&k.genesis, first_epoch) + 1);
    assert_int_equal(audit(&j.r.id).n_slots, 1);
    assert_int_equal(said(&j.r.id, AUDITOR), VD_SLOT_DRAWN);
}

static void test_new_workers_are_audited_more(void **state)
{
    struct job j;
    k.genesis.audit_rate_ppm = 1; /* as good as never */
    k.genesis.audit_new_rate_ppm = VD_PPM;
    k.genesis.audit_new_receipts = 1;
    drawn_job(&j, NULL);
    assert_int_equal(audit(&j.r.id).rate_ppm, VD_PPM);
    until(audit(&j.r.id).deadline_height + 1);
    blocks(KIT_WINDOW);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_FINAL);
    assert_int_equal(stake(WORKER).n_final, 1);
    k.genesis.audit_rate_ppm = VD_PPM;
    k.genesis.audit_new_rate_ppm = 0;
    k.genesis.audit_new_receipts = 0;
}

/* The rate for new workers ends with the last receipt of its number. */
static void test_a_known_worker_is_audited_less(void **state)
{
    struct job j;
    struct vd_stake s = stake(WORKER);
    s.n_final = 1;
    vd_block_put_stake(&net.block, &k.key[WORKER].pub, &s);
    k.genesis.audit_rate_ppm = 0;
    k.genesis.audit_new_rate_ppm = VD_PPM;
    k.genesis.audit_new_receipts = 1;
    bool drawn = draws(&j, AMOUNT / 2);
    k.genesis.audit_rate_ppm = VD_PPM;
    k.genesis.audit_new_rate_ppm = 0;
    k.genesis.audit_new_receipts = 0;
    assert_false(drawn);
}

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
    bool open = audit(&j.r.id).phase == VD_AUDIT_COMMITTING;
    enum vd_tx_verdict v =
        kit_give(&net, AUDITOR, (struct vd_tx){.kind = VD_TX_UNSTAKE, .u.stake = {{STAKE}}}, NULL);
    k.genesis.audit_commit_blocks = KIT_COMMIT;
    assert_true(open);
    assert_int_equal(v, VD_TX_STAKE_IN_USE);
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
    k.genesis.audit_reveal_blocks = KIT_REVEAL;
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

/* ---- disputes ---- */

static struct vd_hash challenge(int who, const struct job *j)
{
    struct vd_hash id;
    assert_int_equal(
        kit_give(&net, who, (struct vd_tx){.kind = VD_TX_CHALLENGE, .u.challenge = {j->r.id}}, &id),
        VD_TX_OK);
    return id;
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
    k.genesis.audit_commit_blocks = KIT_COMMIT;
}

/* ---- data ---- */

static struct vd_tx data_of(const struct job *j, uint8_t bytes[16])
{
    for (int i = 0; i < 4; i++)
        vd_le32_store(bytes + 4 * i, j->tokens[i]);
    struct vd_tx tx = {.kind = VD_TX_AUDIT_DATA,
                       .u.audit_data = {.receipt_id = j->r.id, .tokens = {bytes, 16}}};
    memcpy(tx.u.audit_data.salt.b, k.job_salt, VD_HASH_BYTES);
    return tx;
}

static void test_withheld_data_lose(void **state)
{
    struct job j;
    drawn_job(&j, NULL);
    uint64_t before = balance(AUDITOR), burned = bucket(VD_BUCKET_BURNED);
    REFUSED(VD_TX_NOT_DRAWN, CLIENT, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j.r.id}});
    OK(AUDITOR, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j.r.id}});
    REFUSED(VD_TX_WRONG_PHASE, AUDITOR2, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j.r.id}});
    until(audit(&j.r.id).deadline_height);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_SETTLED);
    blocks(1);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_VOID);
    assert_int_equal(receipt(&j.r.id).void_why, VD_VOID_WITHHELD);
    assert_int_equal(stake(WORKER).amount.micro, STAKE - KIT_SLASH);
    /* Nobody gains by a demand. (And the keeper has not gone on.) */
    assert_int_equal(bucket(VD_BUCKET_BURNED), burned + KIT_SLASH + KIT_BEACON_BOND);
    assert_int_equal(balance(AUDITOR), before);
    assert_int_equal(stake(AUDITOR).amount.micro, STAKE);
    assert_int_equal(stake(WORKER).convicted_height, net.block.height - 1);
}

static void test_data_on_the_ledger_answer_a_demand(void **state)
{
    struct job j;
    struct vd_bytes shown;
    uint8_t bytes[16];
    drawn_job(&j, NULL);
    struct vd_tx data = data_of(&j, bytes), wrong = data;
    REFUSED(VD_TX_WRONG_PHASE, WORKER, data); /* nobody asked */
    OK(AUDITOR, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j.r.id}});
    REFUSED(VD_TX_NOT_DRAWN, CLIENT, data);
    wrong.u.audit_data.salt.b[0] ^= 1;
    REFUSED(VD_TX_BAD_DATA, WORKER, wrong);
    wrong = data;
    wrong.u.audit_data.tokens.n = 12; /* not the whole */
    REFUSED(VD_TX_BAD_DATA, WORKER, wrong);
    wrong = data;
    wrong.u.audit_data.first = 1;
    REFUSED(VD_TX_BAD_DATA, WORKER, wrong);
    for (size_t i = 0; i < 4; i++) {
        blocks(i == 1); /* a block looks at four */
        bytes[4 * i] ^= 1;
        if (i < 3)
            REFUSED(VD_TX_BAD_DATA, GATEWAY, data);
        bytes[4 * i] ^= 1;
    }
    blocks(1);
    OK(WORKER, data);
    assert_int_equal(audit(&j.r.id).phase, VD_AUDIT_COMMITTING);
    assert_int_equal(audit(&j.r.id).deadline_height, net.block.height + KIT_COMMIT); /* a new clock */
    assert_memory_equal(audit(&j.r.id).shown_by.b, k.key[WORKER].pub.b, VD_PUBKEY_BYTES);
    struct vd_state_key at = vd_state_key_shown(&j.r.id, &k.key[WORKER].pub, 0);
    assert_true(net.block.overlay.kv.get(&net.block.overlay.kv, vd_state_key_bytes(&at), &shown));
    assert_memory_equal(shown.p, bytes, 16);
    REFUSED(VD_TX_WRONG_PHASE, AUDITOR, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j.r.id}}); /* once */
    both_say(&j, VD_AUDIT_STANDS, VD_AUDIT_STANDS);
    until(receipt(&j.r.id).window_end_height + 1);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_FINAL);
    assert_false(
        net.block.overlay.kv.get(&net.block.overlay.kv, vd_state_key_bytes(&at), &shown)); /* no more */
}

/* The tables that a request names are data as well: nobody can replay without them. */
static void test_tables_are_shown(void **state)
{
    uint8_t bytes[16], bias[8], kept[32];
    struct vd_bytes shown;
    struct job j;
    open_escrow(&j);
    make_job(&j, 1, NULL);
    vd_le32_store(bias, 1);
    vd_le32_store(bias + 4, 1000000);
    struct vd_controls c = {.bias = {bias, sizeof bias}};
    vd_request_set_controls(&j.r.value.request, &c);
    kit_seal(&k, &j.r, WORKER, GATEWAY);
    settle(&j);
    reveal_layer();
    OK(AUDITOR, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j.r.id}});
    struct vd_tx data = data_of(&j, bytes);
    REFUSED(VD_TX_BAD_DATA, WORKER, data); /* without the table */
    data.u.audit_data.bias = c.bias;
    bias[4] ^= 1;
    REFUSED(VD_TX_BAD_DATA, WORKER, data); /* another one */
    bias[4] ^= 1;
    OK(WORKER, data);
    struct vd_state_key at = vd_state_key_shown(&j.r.id, &k.key[WORKER].pub, UINT32_MAX);
    assert_true(net.block.overlay.kv.get(&net.block.overlay.kv, vd_state_key_bytes(&at), &shown));
    struct vd_pb_writer w = vd_pb_writer_init(kept, sizeof kept);
    vd_pb_put_bytes(&w, 1, bias, sizeof bias);
    assert_int_equal(shown.n, w.n_bytes);
    assert_memory_equal(shown.p, kept, shown.n);
    until(audit(&j.r.id).deadline_height + 1);
    blocks(KIT_WINDOW * 3);
    assert_false(net.block.overlay.kv.get(&net.block.overlay.kv, vd_state_key_bytes(&at), &shown));
}

/* A program like the kit's with room for more than a part's tokens. */
static struct vd_hash long_model(void)
{
    struct vd_program p;
    uint8_t bytes[VD_PROGRAM_BYTES_MAX];
    assert_true(vd_program_decode((struct vd_bytes){k.program, k.program_bytes}, &p));
    p.ctx = 2 * VD_AUDIT_CHUNK_TOKENS;
    size_t n = vd_program_encode(&p, bytes, sizeof bytes);
    OK(WORKER, {.kind = VD_TX_REGISTER_MODEL, .u.register_model = {{bytes, n}, k.n_tensors, k.tensors_root}});
    for (int a = AUDITOR; a <= AUDITOR2; a++) {
        struct vd_hash root =
            vd_program_model_root((struct vd_bytes){bytes, n}, k.n_tensors, &k.tensors_root);
        OK(a, {.kind = VD_TX_AUDITOR, .u.auditor = {root, true}});
    }
    return vd_program_model_root((struct vd_bytes){bytes, n}, k.n_tensors, &k.tensors_root);
}

/* What does not fit one transaction is shown in parts: in order, under one salt, tables with the first. */
static void test_data_in_parts(void **state)
{
    enum { PROMPT = VD_AUDIT_CHUNK_TOKENS + 5, ALL = PROMPT + 2 };
    static uint32_t tokens[ALL];
    static uint8_t bytes[4 * ALL];
    struct vd_hash root = long_model();
    struct vd_bytes there;
    struct job j;
    for (uint32_t i = 0; i < ALL; i++) {
        tokens[i] = i * 7;
        vd_le32_store(bytes + 4 * i, tokens[i]);
    }
    open_escrow(&j);
    make_job(&j, 1, NULL);
    struct vd_receipt *v = &j.r.value;
    v->request.model_root = root;
    v->request.n_prompt = PROMPT;
    v->request.prompt_root = vd_token_root(k.job_salt, 0, tokens, PROMPT);
    v->output_root = vd_token_root(k.job_salt, PROMPT, tokens + PROMPT, 2);
    kit_seal(&k, &j.r, WORKER, GATEWAY);
    until((first_epoch + 1) * KIT_EPOCH - 1); /* the auditors are registered a block before it ends */
    settle(&j);
    reveal_layer();
    OK(AUDITOR, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j.r.id}});
    assert_int_equal(audit(&j.r.id).deadline_height, net.block.height + 2 * KIT_DATA);
    struct vd_tx first = {
        .kind = VD_TX_AUDIT_DATA,
        .u.audit_data = {.receipt_id = j.r.id, .tokens = {bytes, 4 * VD_AUDIT_CHUNK_TOKENS}}};
    memcpy(first.u.audit_data.salt.b, k.job_salt, VD_HASH_BYTES);
    struct vd_tx rest = first, wrong;
    rest.u.audit_data.first = VD_AUDIT_CHUNK_TOKENS;
    rest.u.audit_data.tokens =
        (struct vd_bytes){bytes + 4 * VD_AUDIT_CHUNK_TOKENS, 4 * (ALL - VD_AUDIT_CHUNK_TOKENS)};
    REFUSED(VD_TX_BAD_DATA, WORKER, rest); /* in order */
    OK(WORKER, first);
    REFUSED(VD_TX_BAD_DATA, WORKER, first); /* once */
    REFUSED(VD_TX_BAD_DATA, GATEWAY, rest); /* each for itself */
    blocks(1);
    assert_int_equal(audit(&j.r.id).phase, VD_AUDIT_DATA_DUE);
    wrong = rest;
    wrong.u.audit_data.bias = (struct vd_bytes){bytes, 8};
    REFUSED(VD_TX_BAD_DATA, WORKER, wrong);
    wrong = rest;
    wrong.u.audit_data.salt.b[0] ^= 1;
    REFUSED(VD_TX_BAD_DATA, WORKER, wrong);
    bytes[4 * (ALL - 1)] ^= 1;
    REFUSED(VD_TX_BAD_DATA, WORKER, rest);
    bytes[4 * (ALL - 1)] ^= 1;
    OK(WORKER, rest);
    assert_int_equal(audit(&j.r.id).phase, VD_AUDIT_COMMITTING);
    struct vd_state_key at = vd_state_key_shown(&j.r.id, &k.key[WORKER].pub, VD_AUDIT_CHUNK_TOKENS);
    assert_true(net.block.overlay.kv.get(&net.block.overlay.kv, vd_state_key_bytes(&at), &there));
    both_say(&j, VD_AUDIT_STANDS, VD_AUDIT_STANDS);
    until(receipt(&j.r.id).window_end_height + 1);
    assert_false(net.block.overlay.kv.get(&net.block.overlay.kv, vd_state_key_bytes(&at), &there));
}

/* A vector's elements are shown as output tokens are. */
static void test_vectors_are_shown(void **state)
{
    enum { WIDTH = 32, ALL = 2 + WIDTH };
    uint32_t bits[WIDTH];
    uint8_t bytes[4 * ALL], small[16];
    struct job j;
    open_escrow(&j);
    make_job(&j, 1, NULL);
    struct vd_receipt *v = &j.r.value;
    for (uint32_t i = 0; i < ALL; i++) {
        uint32_t x = i < 2 ? j.tokens[i] : 0x3e000000 + i;
        vd_le32_store(bytes + 4 * i, x);
        if (i >= 2)
            bits[i - 2] = x;
    }
    v->request.sampling = (struct vd_sampling){.pooling = VD_POOLING_LAST, .top_p_micro = VD_SAMPLE_MICRO};
    v->request.price_in.micro = AMOUNT / 2;
    v->request.price_out.micro = 0;
    v->n_output = v->request.max_tokens = WIDTH;
    v->finish = VD_FINISH_LENGTH;
    v->output_root = vd_vector_root(k.job_salt, 2, bits, WIDTH);
    v->commit_root = vd_merkle_root(j.leaf, 2);
    kit_seal(&k, &j.r, WORKER, GATEWAY);
    settle(&j);
    reveal_layer();
    OK(AUDITOR, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j.r.id}});
    struct vd_tx data = data_of(&j, small);
    data.u.audit_data.tokens = (struct vd_bytes){bytes, sizeof bytes};
    bytes[50] ^= 1;
    REFUSED(VD_TX_BAD_DATA, WORKER, data);
    bytes[50] ^= 1;
    OK(WORKER, data);
    assert_memory_equal(audit(&j.r.id).shown_by.b, k.key[WORKER].pub.b, VD_PUBKEY_BYTES);
}

/* A drawn job with a table that is not the model's; hash and has are the table's places in it. */
static void unfit_job(struct job *j, struct vd_hash *hash, bool *has)
{
    open_escrow(j);
    make_job(j, 1, NULL);
    memset(hash->b, 0x77, VD_HASH_BYTES);
    *has = true;
    kit_seal(&k, &j->r, WORKER, GATEWAY);
    settle(j);
    reveal_layer();
}

/* A mask for other texts than the model's: the data are there and nobody can replay the job. An auditor says
 * so, and neither gains nor loses; of a job without tables it cannot say so. */
static void test_unfit_tables_cost_no_auditor(void **state)
{
    struct job j;
    unfit_job(&j, &j.r.value.request.mask_hash, &j.r.value.request.sampling.has_mask);
    uint64_t before = balance(AUDITOR);
    both_say(&j, VD_AUDIT_UNFIT, VD_AUDIT_STANDS);
    until(receipt(&j.r.id).window_end_height + 1);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_FINAL);
    assert_int_equal(said(&j.r.id, AUDITOR), VD_SLOT_UNFIT);
    assert_int_equal(balance(AUDITOR), before);
    assert_int_equal(stake(AUDITOR).amount.micro, STAKE);
    assert_int_equal(auditor(AUDITOR).off_height, 0);
}

/* A bias is a table as well. */
static void test_unfit_of_a_bias(void **state)
{
    struct job j;
    unfit_job(&j, &j.r.value.request.bias_hash, &j.r.value.request.sampling.has_bias);
    both_say(&j, VD_AUDIT_UNFIT, VD_AUDIT_STANDS);
}

static void test_unfit_needs_a_table(void **state)
{
    struct job j;
    drawn_job(&j, NULL);
    struct vd_tx_audit_reveal a = says(&j, AUDITOR, VD_AUDIT_UNFIT), b = says(&j, AUDITOR2, VD_AUDIT_STANDS);
    both_commit(&a, &b);
    assert_int_equal(reveal(AUDITOR, &a), VD_TX_BAD_REVEAL);
}

/* Those who have the data already need not wait for those who demand them. */
static void test_all_committed_ends_a_demand(void **state)
{
    struct job j;
    drawn_job(&j, NULL);
    struct vd_tx_audit_reveal a = says(&j, AUDITOR, VD_AUDIT_STANDS), b = says(&j, AUDITOR2, VD_AUDIT_STANDS);
    assert_int_equal(commit(AUDITOR2, &b), VD_TX_OK);
    OK(AUDITOR, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j.r.id}});
    assert_int_equal(commit(AUDITOR, &a), VD_TX_OK);
    assert_int_equal(audit(&j.r.id).phase, VD_AUDIT_REVEALING);
    blocks(KIT_DATA * 3);
    assert_int_equal(stake(WORKER).amount.micro, STAKE);
}

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
    k.genesis.audit_window_blocks = 8;
}

/* Once a layer is revealed anybody can compute the draw: who then withdraws, registers anew or takes its
 * stake away would choose who audits. */
static void test_nobody_steps_aside_from_a_draw(void **state)
{
    struct job j;
    uint64_t epoch = vd_epoch_of(&k.genesis, net.block.height);
    open_escrow(&j);
    make_job(&j, 1, NULL);
    settle(&j);
    until((epoch + 1) * KIT_EPOCH);
    OK(GATEWAY, beacon_of(epoch, first_epoch));
    REFUSED(VD_TX_WRONG_PHASE, AUDITOR, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, true}});
    REFUSED(VD_TX_STAKE_IN_USE, AUDITOR, {.kind = VD_TX_UNSTAKE, .u.stake = {{STAKE - KIT_MIN_STAKE}}});
    OK(AUDITOR, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, false}});
    REFUSED(VD_TX_STAKE_IN_USE, AUDITOR, {.kind = VD_TX_UNSTAKE, .u.stake = {{STAKE}}});
    REFUSED(VD_TX_WRONG_PHASE, AUDITOR, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, true}});
    until(vd_epoch_due(&k.genesis, epoch) + 1);
    assert_int_equal(said(&j.r.id, AUDITOR), VD_SLOT_DRAWN);
    make_job(&j, 2, NULL); /* but for later batches it is not */
    settle(&j);
    until((epoch + 2) * KIT_EPOCH);
    OK(GATEWAY, beacon_of(epoch + 1, first_epoch));
    until(vd_epoch_due(&k.genesis, epoch + 1) + 1);
    assert_int_equal(audit(&j.r.id).n_slots, 1);
    assert_int_equal(said(&j.r.id, AUDITOR2), VD_SLOT_DRAWN);
    OK(AUDITOR, {.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, true}});
    assert_int_equal(stake(AUDITOR).n_listed, 1);
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
    k.genesis.steps_per_block = 0;
}

/* ---- bounds ---- */

/* Blocks that were full of other data do not count: nobody may make a worker late by showing its own. */
static void test_full_blocks_stop_the_data_clock(void **state)
{
    static struct job j[VD_BLOCK_MAX_SHOWINGS + 1];
    uint8_t bytes[16];
    enum { N = VD_BLOCK_MAX_SHOWINGS };
    open_escrow(&j[0]);
    for (int i = 0; i <= N; i++) {
        j[i].escrow = j[0].escrow;
        make_job(&j[i], (uint64_t)i + 1, NULL);
        settle(&j[i]);
    }
    reveal_layer();
    for (int i = 0; i <= N; i++)
        OK(AUDITOR, {.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {j[i].r.id}});
    until(audit(&j[N].r.id).deadline_height);
    for (int i = 0; i < N; i++)
        OK(GATEWAY, data_of(&j[i], bytes));
    REFUSED(VD_TX_BLOCK_FULL, WORKER, data_of(&j[N], bytes));
    blocks(1);
    assert_int_equal(receipt(&j[N].r.id).status, VD_RECEIPT_SETTLED);
    OK(WORKER, data_of(&j[N], bytes));
    assert_int_equal(audit(&j[N].r.id).phase, VD_AUDIT_COMMITTING);
}

enum { MANY = VD_BLOCK_MAX_DRAWS + 3 };

/* More receipts than one block draws. */
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
    k.genesis.audit_rate_ppm = VD_PPM;
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

/* A draw that waits for room does so before the last block of the window, like any other: a friend of the
 * worker whose challenge runs out in that block gets nothing paid undrawn. */
static void test_a_dispute_saves_nothing_from_a_draw_that_waits(void **state)
{
    static struct job j[MANY];
    struct vd_hash dispute;
    uint8_t buf[256];
    uint64_t begin = net.block.height;
    int last = 0;                                           /* draws go by receipt id: this one waits */
    k.genesis.audit_window_blocks = KIT_EPOCH + KIT_BEACON; /* the shortest that there may be */
    settle_many(j);
    k.genesis.audit_window_blocks = WINDOW;
    for (int i = 1; i < MANY; i++)
        last = memcmp(j[i].r.id.b, j[last].r.id.b, VD_HASH_BYTES) > 0 ? i : last;
    until(begin + KIT_EPOCH + KIT_BEACON - KIT_CLOCK);
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
    enum vd_audit_phase before = audit(&j.r.id).phase;
    until(closed + HISTORY + 1);
    enum vd_audit_phase after = audit(&j.r.id).phase;
    struct vd_tx_audit_reveal a = says(&j, AUDITOR, VD_AUDIT_STANDS);
    enum vd_tx_verdict late = commit(AUDITOR, &a);
    k.genesis.history_blocks = 0;
    assert_int_equal(before, VD_AUDIT_CLOSED);
    assert_int_equal(after, 0);
    assert_int_not_equal(late, VD_TX_OK);
    assert_int_equal(receipt(&j.r.id).status, VD_RECEIPT_FINAL);
    blocks(3);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_onion),
        T(test_beacon_refusals),
        T(test_missing_reveal_costs_the_bond),
        T(test_the_last_layer_returns_the_bond),
        T(test_keepers_mix),
        T(test_the_beacon_is_of_all_layers),
        T(test_a_left_over_layer_is_late),
        T(test_keepers_are_sixteen),
        T(test_old_beacons_leave_the_state),
        T(test_a_batch_without_a_layer_waits_for_the_next),
        T(test_no_keeper_no_audit),
        T(test_auditor_refusals),
        T(test_draw_is_by_stake_and_excludes_the_parties),
        T(test_draws_are_the_specifications),
        T(test_who_is_drawn),
        T(test_free_receipts_are_not_drawn),
        T(test_too_small_a_reward_is_not_drawn),
        T(test_the_least_reward_is_drawn),
        T(test_the_least_reward_is_by_the_rate_that_draws),
        T(test_late_auditors_are_not_drawn),
        T(test_closed_audits_leave_the_state),
        T(test_new_workers_are_audited_more),
        T(test_a_known_worker_is_audited_less),
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
        T(test_withheld_data_lose),
        T(test_data_on_the_ledger_answer_a_demand),
        T(test_tables_are_shown),
        T(test_data_in_parts),
        T(test_vectors_are_shown),
        T(test_unfit_tables_cost_no_auditor),
        T(test_unfit_of_a_bias),
        T(test_unfit_needs_a_table),
        T(test_all_committed_ends_a_demand),
        T(test_trap_catches_who_was_told),
        T(test_a_trap_that_is_not_opened_costs_its_bond),
        T(test_a_trap_is_no_excuse),
        T(test_a_trap_has_two_leaves),
        T(test_a_left_over_trap_is_late),
        T(test_a_trap_is_one_receipt),
        T(test_void_receipts_do_not_empty_the_pool),
        T(test_nobody_steps_aside_from_a_draw),
        T(test_clocks_add_up),
        T(test_full_blocks_stop_the_data_clock),
        T(test_draws_of_a_block_are_bounded),
        T(test_a_dispute_saves_nothing_from_a_draw_that_waits),
    };
    kit_init(&k);
    k.genesis.audit_window_blocks = WINDOW;
    kit_audits(&k);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    kit_free(&k);
    return failed;
}
