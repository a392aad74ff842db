/* Keepers and their beacon, and what it draws: which receipts, which auditors, and when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vd_audit_kit.h"

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
    assert_false(draws(&j, AMOUNT / 2));
}

static void test_the_least_reward_is_drawn(void **state)
{
    struct job j;
    k.genesis.audit_min_reward.micro = REWARD;
    assert_true(draws(&j, AMOUNT / 2));
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
    assert_false(draws(&j, AMOUNT / 2));
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
    assert_false(draws(&j, AMOUNT / 2));
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
        T(test_new_workers_are_audited_more),
        T(test_a_known_worker_is_audited_less),
        T(test_nobody_steps_aside_from_a_draw),
    };
    RUN_AUDIT_TESTS(tests);
}
