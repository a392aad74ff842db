/* What a verifier looks at of its own accord: it challenges a cheat, and only a cheat, whatever gateways do
 * with the data, and with its credits bound. */
#include "vd_test_roles.h"

static int setup_long_window(void **state)
{
    return setup_network(state, false, 1000, false);
}

/* Of the one receipt that is challenged: for STEP, UNIT, OP and TILE at least the verifier has moved. */
static void await_verdict(struct fixture *f)
{
    AWAIT(f, is.w.n_lost == 1 && is.w.n_void == 1 && is.v.n_won == 1 && is.v.n_moves >= 4);
}

static void a_cheat_is_found_and_slashed(void **state)
{
    struct fixture *f = *state;
    struct vd_stake stake;
    struct vd_receipt_record record;
    struct vd_error err;
    start_cheat(f);
    start_verifier(f);
    struct vd_hash id = a_settled_receipt(f, 10);
    await_verdict(f);
    sure(vd_ledger_client_stake(f->ledger, &f->worker_key.pub, &stake, &err), &err);
    assert_int_equal(stake.amount.micro, 0);
    sure(vd_ledger_client_receipt(f->ledger, &id, &record, &err), &err);
    assert_int_equal(record.status, VD_RECEIPT_VOID);
    struct vd_verifier_stats v = counts_of(f).v;
    assert_int_equal(v.n_differ, 1);
    assert_int_equal(v.won_micro, 400000);
}

static void give(struct vd_ledger_client *from, const struct vd_pubkey *to, uint64_t micro)
{
    struct vd_ledger_outcome o;
    struct vd_error err;
    struct vd_tx tx = {.kind = VD_TX_TRANSFER, .u.transfer = {*to, {micro}}};
    sure(vd_ledger_client_send(from, &tx, WAIT_MS, &o, &err), &err);
}

/* Without the credits for a bond a verifier does not forget what it has found: others' disputes may hold them
 * for now, and somebody may have begun these for that. */
static void a_challenge_waits_for_its_bond(void **state)
{
    struct fixture *f = *state;
    start_cheat(f);
    struct vd_ledger_client *own =
        vd_test_ledger_client((struct vd_ledger_client_config){.arg = NULL}, &f->verifier_key,
                              f->ledger_peer.port, f->ledger_peer.key, VD_ROLE_VERIFIER);
    give(own, &f->gateway_key.pub, BALANCE);
    vd_ledger_client_stop(own);
    start_verifier(f);
    a_settled_receipt(f, 10);
    AWAIT(f, is.v.n_differ == 1);
    vd_clock_sleep_ms(300); /* it has tried, and was refused */
    assert_int_equal(counts_of(f).v.n_challenges, 0);
    give(f->ledger, &f->verifier_key.pub, BALANCE);
    await_verdict(f);
}

static struct {
    uint64_t asked_ms[2];
    size_t n;
} slow; /* the gateway, with its first answer */

static bool answer_late(struct fixture *f, const struct vd_hash *receipt_id)
{
    (void)f, (void)receipt_id;
    if (slow.n < 2)
        slow.asked_ms[slow.n] = vd_clock_ms();
    if (slow.n++ == 0)
        vd_clock_sleep_ms(1200);
    return true;
}

/* A gateway that takes its time with one receipt's data does not get all of a verifier's. */
static void a_slow_gateway_has_to_wait(void **state)
{
    struct fixture *f = *state;
    start_worker(f);
    for (int i = 0; i < 2; i++)
        a_settled_receipt(f, 4);
    f->on_audit = answer_late;
    start_verifier(f);
    AWAIT(f, is.v.n_stand == 2);
    assert_int_equal(slow.n, 2);
    assert_true(slow.asked_ms[1] - slow.asked_ms[0] >= 5 * 1200);
}

/* What was settled before it came waits for a verifier, which takes it together: the liar is found among the
 * honest, and only it. */
static void what_waits_is_replayed_together(void **state)
{
    struct fixture *f = *state;
    struct vd_receipt_record record;
    struct vd_error err;
    struct vd_hash id[5];
    start_worker(f);
    for (unsigned i = 0; i < 5; i++) {
        if (i == 4)
            start_worker_of(f, f->cheat, f->pool[1]);
        id[i] = a_settled_receipt(f, 10);
    }
    start_verifier(f);
    AWAIT(f, is.v.n_stand + is.v.n_differ == 5);
    await_verdict(f);
    struct vd_verifier_stats v = counts_of(f).v;
    assert_int_equal(v.n_stand, 4);
    assert_int_equal(v.n_challenges, 1);
    sure(vd_ledger_client_receipt(f->ledger, &id[4], &record, &err), &err);
    assert_int_equal(record.status, VD_RECEIPT_VOID);
    assert_true(v.n_passes < 5);
}

/* A gateway that hands out other tokens than the worker signed for says nothing about the worker. */
static void data_that_fail_the_check_are_no_reason_to_challenge(void **state)
{
    struct fixture *f = *state;
    struct vd_envelope e;
    uint32_t tokens[PROMPT + TOKENS_MAX];
    start_worker(f);
    start_verifier(f);
    a_receipt(f, 8);
    struct vd_bytes kept = {f->kept[0].bytes, f->kept[0].n};
    assert_true(vd_envelope_decode(kept, &e, tokens, PROMPT + TOKENS_MAX));
    tokens[PROMPT + 3] = (tokens[PROMPT + 3] + 1) % 100;
    f->kept[0].n = vd_envelope_encode(&e, f->kept[0].bytes, vd_envelope_max_bytes(PROMPT, 8));
    settle_last(f);
    AWAIT(f, is.v.n_bad_data == 1);
    struct vd_verifier_stats v = counts_of(f).v;
    assert_int_equal(v.n_differ, 0);
    assert_int_equal(v.n_challenges, 0);
}

/* The stranger answers what it was not asked, before the one that was. */
static bool meddle(struct fixture *f, const struct vd_hash *receipt_id)
{
    struct vd_wire_audit_data d = {.receipt_id = *receipt_id, .envelope = {receipt_id->b, VD_HASH_BYTES}};
    struct vd_wire_refuse r = {.what = *receipt_id, .code = VD_REFUSE_NOT_FOUND};
    pthread_mutex_lock(&f->mu);
    struct vd_link *link = f->stranger_link;
    pthread_mutex_unlock(&f->mu);
    assert_non_null(link);
    SEND(link, VD_WIRE_AUDIT_DATA, vd_wire_put_audit_data, &d, 256);
    SEND(link, VD_WIRE_REFUSE, vd_wire_put_refuse, &r, 256);
    vd_clock_sleep_ms(100);
    return true;
}

/* Else whoever runs a gateway that verifiers are linked to could keep a cheat elsewhere from being audited.
 */
static void only_the_gateway_that_was_asked_answers(void **state)
{
    struct fixture *f = *state;
    start_worker(f);
    start_stranger(f);
    f->on_audit = meddle;
    start_verifier(f);
    AWAIT(f, f->stranger_link != NULL);
    a_settled_receipt(f, 8);
    AWAIT(f, is.v.n_stand + is.v.n_bad_data + is.v.n_unavailable == 1);
    assert_int_equal(counts_of(f).v.n_stand, 1);
}

static void only_what_can_be_proved_is_challenged(void **state)
{
    assert_true(vd_verifier_provable(VD_REPLAY_TOKEN));
    assert_true(vd_verifier_provable(VD_REPLAY_STOP));
    assert_true(vd_verifier_provable(VD_REPLAY_COMMIT));
    assert_false(vd_verifier_provable(VD_REPLAY_OK));
    assert_false(vd_verifier_provable(VD_REPLAY_JOB));
    assert_false(vd_verifier_provable(VD_REPLAY_MODEL));
}

/* One that cannot replay what a worker with more memory has done would be late. */
static void a_verifiers_cache_holds_the_longest_job(void **state)
{
    const uint64_t gib = 1 << 30;
    assert_int_equal(vd_verifier_cache_bytes(0, 1000, 64 * gib, 1), gib / 2);
    assert_int_equal(vd_verifier_cache_bytes(0, 9 * gib, 64 * gib, 1), 9 * gib);
    assert_int_equal(vd_verifier_cache_bytes(0, 9 * gib, 64 * gib, 4), 8 * gib);
    assert_int_equal(vd_verifier_cache_bytes(0, 9 * gib, gib / 4, 1), gib / 2);
    assert_int_equal(vd_verifier_cache_bytes(3000, 9 * gib, 64 * gib, 1), 3000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_cheat_is_found_and_slashed),
        cmocka_unit_test_setup_teardown(a_challenge_waits_for_its_bond, setup_long_window, teardown),
        cmocka_unit_test_setup_teardown(a_slow_gateway_has_to_wait, setup_long_window, teardown),
        T(what_waits_is_replayed_together),
        T(data_that_fail_the_check_are_no_reason_to_challenge),
        T(only_the_gateway_that_was_asked_answers),
        cmocka_unit_test(only_what_can_be_proved_is_challenged),
        cmocka_unit_test(a_verifiers_cache_holds_the_longest_job),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
