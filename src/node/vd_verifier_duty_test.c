/* The clocks of a verifier, of audits that it is drawn for and of its disputes: neither data that are
 * withheld nor a long replay, its own or a worker's, makes it late. */
#include "vd_test_roles.h"

#include <stdatomic.h>

static int setup_slow_disputes(void **state)
{
    return setup_network(state, true, 0, true);
}

static int setup_audits(void **state)
{
    return setup_network(state, true, 0, false);
}

enum { AUDITED = 8, WORTH_AN_AUDIT = 12 /* tokens */ };

static bool is_auditor(struct fixture *f)
{
    struct vd_ledger_answer a;
    struct vd_state_key key =
        vd_state_key_make(VD_STATE_AUDITOR, f->root.b, VD_HASH_BYTES, f->verifier_key.pub.b);
    if (vd_ledger_client_get(f->ledger, &key, WAIT_MS, &a, NULL) != VD_OK)
        return false;
    vd_ledger_answer_free(&a);
    return true;
}

static void start_auditor(struct fixture *f)
{
    start_verifier(f);
    AWAIT(f, is_auditor(f));
}

static struct vd_hash withheld;

static bool withhold_one(struct fixture *f, const struct vd_hash *receipt_id)
{
    (void)f;
    return !vd_hash_eq(&withheld, receipt_id);
}

/* Of receipts that are drawn together the data of one are withheld, of that which an auditor would look at
 * first: it is demanded, shown on the ledger and heard like the others, and none of them is late for it. */
static void data_withheld_of_one_audit_make_no_other_late(void **state)
{
    struct fixture *f = *state;
    static uint8_t bytes[AUDITED][VD_SIGNED_RECEIPT_MAX_BYTES];
    static struct vd_tx tx;
    struct vd_ledger_outcome o;
    struct vd_error err;
    start_worker(f);
    start_auditor(f);
    f->on_audit = withhold_one;
    tx = (struct vd_tx){.kind = VD_TX_SETTLE, .u.settle.n = AUDITED};
    for (size_t i = 0; i < AUDITED; i++) {
        struct vd_hash id = a_receipt(f, WORTH_AN_AUDIT);
        size_t n = vd_signed_receipt_encode(&f->a.signed_receipt, bytes[i], sizeof bytes[i]);
        tx.u.settle.receipt[i] = (struct vd_bytes){bytes[i], n};
        if (i == 0 || memcmp(id.b, withheld.b, VD_HASH_BYTES) < 0)
            withheld = id;
    }
    sure(vd_ledger_client_send(f->ledger, &tx, WAIT_MS, &o, &err), &err);
    AWAIT(f, is.v.n_audits == AUDITED);
    struct vd_verifier_stats v = counts_of(f).v;
    assert_int_equal(v.n_audits_missed, 0);
    assert_int_equal(v.audit_slashed_micro, 0);
    assert_int_equal(v.n_demands, 1);
    assert_int_equal(v.audit_paid_micro, AUDITED); /* 1 % of 116, each */
    assert_int_equal(counts_of(f).w.n_void, 0);
    assert_true(v.n_passes < AUDITED);
}

struct pause {
    struct vd_engine *engine;
    uint32_t ms;
};

static void sleep_in_engine(void *arg, struct vd_ctx *ctx, struct vd_kv_pool *cache)
{
    struct pause *p = arg;
    (void)ctx, (void)cache;
    vd_clock_sleep_ms(p->ms);
}

static void *hold_engine(void *arg)
{
    struct pause *p = arg;
    (void)vd_engine_run(p->engine, 0, 0, sleep_in_engine, p, NULL);
    return NULL;
}

/* Data are demanded of a worker that is busy with a dispute's replay for longer than it has to show them. */
static void replays_do_not_hold_up_data(void **state)
{
    struct fixture *f = *state;
    struct vd_ledger_outcome o;
    struct vd_error err;
    pthread_t thread;
    start_worker(f);
    start_auditor(f);
    f->on_audit = withhold_one;
    withheld = a_receipt(f, WORTH_AN_AUDIT);
    struct pause p = {f->worker->offer[0].engine, 6000};
    struct vd_tx tx = {.kind = VD_TX_CHALLENGE, .u.challenge.receipt_id = withheld};
    pthread_create(&thread, NULL, hold_engine, &p);
    settle_last(f);
    sure(vd_ledger_client_send(f->ledger, &tx, WAIT_MS, &o, &err), &err);
    AWAIT(f, is.v.n_audits == 1);
    pthread_join(thread, NULL);
    struct vd_verifier_stats v = counts_of(f).v;
    assert_int_equal(v.n_demands, 1);
    assert_int_equal(v.n_audits_missed, 0);
    assert_int_equal(counts_of(f).w.n_void, 0);
}

/* ---- Replays that take long ---- */

static struct { /* makes a replay of the verifier's take as long as is wanted */
    enum vd_audit_pass pass;
    unsigned n_skip; /* passes of that kind before */
    bool (*enough)(struct fixture *f);
    atomic_bool began, given_up;
} slow;

/* Before a pass of the verifier's: as if there were any number of others before it. */
static bool slow_pass(void *arg)
{
    struct fixture *f = arg;
    struct vd_verifier *v = f->verifier;
    if (v->pass != slow.pass || atomic_load(&slow.began) || slow.n_skip > 0) {
        slow.n_skip -= v->pass == slow.pass && slow.n_skip > 0;
        return vd_audit_between(v);
    }
    uint64_t until = vd_clock_ms() + WAIT_MS;
    bool wanted = true;
    atomic_store(&slow.began, true);
    while (wanted && !(slow.enough && slow.enough(f)) && vd_clock_ms() < until) {
        wanted = vd_audit_between(v);
        vd_clock_sleep_ms(1);
    }
    atomic_store(&slow.given_up, !wanted);
    return wanted;
}

/* A verifier that has had nothing to do yet, and then has a long replay. */
static void start_slow_verifier(struct fixture *f, enum vd_audit_pass pass, unsigned n_skip,
                                bool (*enough)(struct fixture *f))
{
    start_verifier(f);
    slow.pass = pass;
    slow.n_skip = n_skip;
    slow.enough = enough;
    atomic_store(&slow.began, false);
    atomic_store(&slow.given_up, false);
    vd_ctx_set_before(f->verifier->desk[0].ctx, slow_pass, f);
}

/* The replay for the second audit takes longer than the clocks of both: the first one's commitment, which was
 * known, and its reveal are said meanwhile, and the replay is given up when it is too late. */
static void duties_wait_for_no_replay(void **state)
{
    struct fixture *f = *state;
    start_worker(f);
    start_slow_verifier(f, VD_PASS_DUTY, 1, NULL);
    AWAIT(f, is_auditor(f));
    a_receipt(f, WORTH_AN_AUDIT);
    struct vd_signed_receipt first = f->a.signed_receipt;
    a_settled_receipt(f, WORTH_AN_AUDIT);
    f->a.signed_receipt = first;
    settle_last(f);
    AWAIT(f, is.v.n_audits == 2 && atomic_load(&slow.given_up));
    struct vd_verifier_stats v = counts_of(f).v;
    assert_int_equal(v.n_audits_missed, 1);
    assert_true(v.audit_paid_micro > 0);
}

/* What a verifier replays of its own accord has no clock: it is given up when it is drawn for an audit, and
 * done later. */
static void a_sample_gives_way_to_a_duty(void **state)
{
    struct fixture *f = *state;
    start_worker(f);
    start_slow_verifier(f, VD_PASS_SAMPLE, 0, NULL);
    AWAIT(f, is_auditor(f));
    pthread_mutex_lock(&f->verifier->mu);
    f->verifier->rate_ppm = VD_PPM;
    pthread_mutex_unlock(&f->verifier->mu);
    a_settled_receipt(f, WORTH_AN_AUDIT);
    AWAIT(f, is.v.n_audits == 1 && is.v.n_stand == 1);
    assert_true(atomic_load(&slow.given_up));
    assert_int_equal(counts_of(f).v.n_audits_missed, 0);
}

/* Of the verifier alone, on whose thread it is called: the worker comes and goes meanwhile. */
static bool is_won(struct fixture *f)
{
    struct vd_verifier_stats v;
    vd_verifier_get_stats(f->verifier, &v);
    return v.n_won == 1;
}

/* The worker is away when its first receipt is challenged; when it is back the verifier is in the midst of a
 * replay that takes longer than the dispute. */
static void moves_wait_for_no_replay(void **state)
{
    struct fixture *f = *state;
    start_cheat(f);
    start_slow_verifier(f, VD_PASS_SAMPLE, 1, is_won);
    a_receipt(f, WORTH_AN_AUDIT);
    struct vd_signed_receipt first = f->a.signed_receipt;
    a_receipt(f, WORTH_AN_AUDIT);
    struct vd_signed_receipt other = f->a.signed_receipt;
    stop_worker(f);
    f->a.signed_receipt = first;
    settle_last(f);
    AWAIT(f, is.v.n_challenges == 1);
    f->a.signed_receipt = other;
    settle_last(f);
    AWAIT(f, atomic_load(&slow.began));
    start_worker_of(f, f->cheat, f->pool[1]);
    AWAIT(f, is.v.n_won == 1);
    assert_int_equal(counts_of(f).v.n_lost, 0);
}

/* It waits for no replay; and the receipt is replayed when it is back. */
static void a_verifier_stops_in_the_midst_of_a_replay(void **state)
{
    struct fixture *f = *state;
    start_worker(f);
    start_slow_verifier(f, VD_PASS_SAMPLE, 0, NULL);
    a_settled_receipt(f, WORTH_AN_AUDIT);
    AWAIT(f, atomic_load(&slow.began));
    vd_verifier_stop(f->verifier);
    f->verifier = NULL;
    assert_true(atomic_load(&slow.given_up));
    start_verifier(f);
    AWAIT(f, is.v.n_stand == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(data_withheld_of_one_audit_make_no_other_late, setup_audits,
                                        teardown),
        cmocka_unit_test_setup_teardown(replays_do_not_hold_up_data, setup_slow_disputes, teardown),
        cmocka_unit_test_setup_teardown(duties_wait_for_no_replay, setup_audits, teardown),
        cmocka_unit_test_setup_teardown(a_sample_gives_way_to_a_duty, setup_audits, teardown),
        T(moves_wait_for_no_replay),
        T(a_verifier_stops_in_the_midst_of_a_replay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
