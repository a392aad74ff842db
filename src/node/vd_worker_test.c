/* A worker and its jobs, from JOB to FINAL: what is paid, what is refused, what is cancelled, gone on with,
 * and kept, and what a worker keeps from one job for the next. */
#include "vd_test_roles.h"

#include <limits.h>
#include <stdatomic.h>

static size_t n_kept_jobs(struct fixture *f)
{
    struct vd_worker_jobs j;
    struct vd_hash *ids;
    size_t n;
    char dir[128];
    snprintf(dir, sizeof dir, "%s/worker/jobs", f->dir);
    assert_int_equal(vd_worker_jobs_open(&j, dir, NULL), VD_OK);
    assert_int_equal(vd_worker_jobs_list(&j, &ids, &n, NULL), VD_OK);
    free(ids);
    return n;
}

static void an_honest_job_is_paid(void **state)
{
    struct fixture *f = *state;
    struct vd_account before, after;
    start_worker(f);
    start_verifier(f);
    assert_int_equal(vd_ledger_client_account(f->ledger, &f->worker_key.pub, &before, NULL), VD_OK);
    a_receipt(f, 12);
    struct vd_receipt r = read_receipt(&f->a.signed_receipt);
    assert_int_equal(f->a.n_tokens, 12);
    assert_int_equal(r.n_output, 12);
    assert_int_equal(r.finish, VD_FINISH_LENGTH);
    assert_int_equal(n_kept_jobs(f), 1);
    settle_last(f);
    AWAIT(f, is.w.n_final == 1 && is.v.n_stand == 1);
    struct vd_worker_stats w = counts_of(f).w;
    assert_int_equal(w.n_accepted, 1);
    assert_int_equal(w.n_settled, 1);
    assert_int_equal(w.earned_micro, PROMPT * 2 + 12 * PRICE);
    assert_int_equal(n_kept_jobs(f), 0);
    assert_int_equal(vd_ledger_client_account(f->ledger, &f->worker_key.pub, &after, NULL), VD_OK);
    /* 116, less 9 % for the gateway and 1 % for the treasury, both rounded down */
    assert_int_equal(after.balance.micro - before.balance.micro, 116 - 10 - 1);
}

static void what_is_wrong_is_refused(void **state)
{
    struct fixture *f = *state;
    static const struct {
        struct question q;
        enum vd_wire_refuse_code code;
    } cases[] = {
        {{.max_tokens = 4, .price_out = 2}, VD_REFUSE_PRICE},
        {{.max_tokens = 4, .bad_prompt = true}, VD_REFUSE_REQUEST},
        {{.max_tokens = 4, .bad_signature = true}, VD_REFUSE_REQUEST},
        {{.max_tokens = 4, .bad_escrow = true}, VD_REFUSE_ESCROW},
        {{.max_tokens = 4000}, VD_REFUSE_CONTEXT},
        {{.max_tokens = 200, .price_out = 900000}, VD_REFUSE_ESCROW}, /* more than the escrow holds */
        {{.max_tokens = 4, .valid_blocks = 400}, VD_REFUSE_REQUEST},  /* less than 2000 / 4 */
        {{.max_tokens = 4, .valid_blocks = 2400}, VD_REFUSE_REQUEST},
    };
    start_worker(f);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ask(f, cases[i].q);
        if (!f->a.refused || f->a.code != cases[i].code)
            fail_msg("case %zu: %d", i, f->a.code);
    }
    /* and afterwards it works as before */
    a_receipt(f, 4);
    AWAIT(f, is.w.n_running == 0);
    assert_int_equal(counts_of(f).w.n_refused, sizeof cases / sizeof cases[0]);
}

/* A place in the escrow is paid once: not for a second job, also not after a restart, nor after it was
 * settled and forgotten. */
static void a_sequence_is_good_for_one_job(void **state)
{
    struct fixture *f = *state;
    const struct question again = {.max_tokens = 5, .sequence = 1};
    start_worker(f);
    a_receipt(f, 4);
    struct vd_signed_receipt first = f->a.signed_receipt;
    AWAIT(f, is.w.n_running == 0);
    ask(f, again);
    assert_true(f->a.refused && f->a.code == VD_REFUSE_ESCROW);
    start_worker(f);
    ask(f, again);
    assert_true(f->a.refused && f->a.code == VD_REFUSE_ESCROW);
    f->a.signed_receipt = first;
    settle_last(f);
    stop_worker(f);
    char line[160];
    snprintf(line, sizeof line, "rm -rf '%s/worker/jobs'", f->dir);
    assert_int_equal(system(line), 0);
    start_worker(f);
    ask(f, again);
    assert_true(f->a.refused && f->a.code == VD_REFUSE_ESCROW);
    a_receipt(f, 4);
}

/* A job of the engine's own, at whose tokens from this index on the engine waits. Lasts longer than a test.
 */
static struct holder {
    atomic_uint from;
} holder;

static void hold(void *arg, uint32_t index, uint32_t token)
{
    (void)arg, (void)token;
    while (index >= atomic_load(&holder.from))
        vd_clock_sleep_ms(1);
}

/* From its first token on. */
static struct vd_engine *held_engine(struct fixture *f)
{
    static const uint32_t prompt[10] = {3, 1, 4, 15, 9, 2, 6, 5, 35, 8}; /* nothing to guess by */
    static const struct vd_job job = {
        .prompt = prompt,
        .n_prompt = 10,
        .max_tokens = 300,
        .sampling = {.temp_micro = VD_SAMPLE_MICRO, .top_p_micro = VD_SAMPLE_MICRO},
        .on_token = hold};
    struct vd_engine *e = f->worker->offer[0].engine;
    struct vd_error err;
    atomic_store(&holder.from, 0);
    sure(vd_engine_submit(e, &job, NULL, &err), &err);
    return e;
}

static int let_go(void **state)
{
    atomic_store(&holder.from, UINT_MAX);
    return teardown(state);
}

static void a_second_job_at_capacity_is_refused(void **state)
{
    struct fixture *f = *state;
    start_worker(f);
    held_engine(f);
    send_job(f, (struct question){.max_tokens = 200});
    send_job(f, (struct question){.max_tokens = 200, .beside = true});
    AWAIT(f, f->a.refused);
    assert_int_equal(f->a.code, VD_REFUSE_BUSY);
    assert_false(f->a.receipt);
    atomic_store(&holder.from, UINT_MAX);
    AWAIT(f, f->a.receipt);
}

static void a_cancelled_job_is_receipted_as_far_as_it_went(void **state)
{
    struct fixture *f = *state;
    struct vd_engine_stats s;
    f->capacity = 2; /* one place is the holder's */
    start_worker(f);
    struct vd_engine *e = held_engine(f);
    send_job(f, (struct question){.max_tokens = 250});
    do
        vd_engine_get_stats(e, &s);
    while (s.n_active == 0 || s.n_queued == 0);
    atomic_store(&holder.from, 100);
    AWAIT(f, f->a.n_tokens >= 5);
    struct vd_wire_cancel c = {.job = f->a.job};
    SEND(f->worker_link, VD_WIRE_CANCEL, vd_wire_put_cancel, &c, 64);
    send_job(f, (struct question){.max_tokens = 1, .beside = true, .bad_signature = true});
    AWAIT(f, f->a.refused); /* what came behind the CANCEL */
    atomic_store(&holder.from, UINT_MAX);
    AWAIT(f, f->a.receipt);
    struct vd_receipt r = read_receipt(&f->a.signed_receipt);
    assert_int_equal(r.finish, VD_FINISH_CANCELLED);
    assert_int_equal(r.n_output, f->a.n_tokens);
    assert_in_range(r.n_output, 5, 249);
    start_verifier(f);
    settle_last(f);
    AWAIT(f, is.w.n_final == 1 && is.v.n_stand == 1);
}

/* Else the stake would answer for it until the worker is started anew. */
static void a_receipt_that_cannot_be_kept_costs_nothing(void **state)
{
    struct fixture *f = *state;
    char jobs[128], away[128];
    snprintf(jobs, sizeof jobs, "%s/worker/jobs", f->dir);
    snprintf(away, sizeof away, "%s/worker/away", f->dir);
    start_worker(f);
    assert_int_equal(rename(jobs, away), 0);
    ask(f, (struct question){.max_tokens = 4});
    assert_true(f->a.refused && f->a.code == VD_REFUSE_INTERNAL);
    assert_int_equal(rename(away, jobs), 0);
    pthread_mutex_lock(&f->worker->mu);
    uint64_t pending = f->worker->escrow[0].pending_micro, exposed = f->worker->exposed_micro;
    size_t n_escrows = f->worker->n_escrows;
    pthread_mutex_unlock(&f->worker->mu);
    assert_int_equal(n_escrows, 1);
    assert_int_equal(pending, 0);
    assert_int_equal(exposed, 0);
    a_receipt(f, 4);
}

static void another_worker_goes_on_from_the_tokens_given(void **state)
{
    struct fixture *f = *state;
    uint32_t whole[20], wrong[8];
    start_worker(f);
    a_receipt(f, 20);
    assert_int_equal(f->a.n_tokens, 20);
    memcpy(whole, f->a.tokens, sizeof whole);
    struct vd_receipt first = read_receipt(&f->a.signed_receipt);
    ask(f, (struct question){.max_tokens = 20, .resume = whole, .n_resume = 8});
    assert_true(f->a.receipt);
    assert_memory_equal(f->a.tokens, whole, sizeof whole);
    struct vd_receipt second = read_receipt(&f->a.signed_receipt);
    assert_true(vd_hash_eq(&first.commit_root, &second.commit_root));
    memcpy(wrong, whole, sizeof wrong);
    wrong[3] = (wrong[3] + 1) % 200;
    ask(f, (struct question){.max_tokens = 20, .resume = wrong, .n_resume = 8});
    assert_true(f->a.refused && f->a.code == VD_REFUSE_RESUME);
}

/* At a stopped answer the statement names what the receipt names. */
static void a_statement_comes_with_each_64_tokens(void **state)
{
    struct fixture *f = *state;
    start_worker(f);
    a_receipt(f, 3 * VD_PREFIX_EVERY_TOK);
    assert_int_equal(f->a.n_tokens, 3 * VD_PREFIX_EVERY_TOK);
    assert_int_equal(f->a.n_prefix, f->a.n_tokens);
    struct vd_receipt r = read_receipt(&f->a.signed_receipt);
    assert_true(vd_hash_eq(&f->a.prefix_commit, &r.commit_root));
}

/* The same prompt again and again: only a client's own is reused, and nobody can tell by the receipt. */
static void a_prefix_is_reused_within_an_account(void **state)
{
    struct fixture *f = *state;
    static const struct {
        uint8_t account;
        uint64_t n_reused; /* in all, afterwards */
    } round[] = {{1, 0}, {2, 0}, {1, PROMPT - 1}, {0, PROMPT - 1}, {0, PROMPT - 1}, {2, 2 * (PROMPT - 1)}};
    struct vd_hash first;
    start_worker(f);
    for (size_t i = 0; i < sizeof round / sizeof round[0]; i++) {
        ask(f, (struct question){.max_tokens = 10, .account = round[i].account});
        assert_true(f->a.receipt);
        AWAIT(f, is.w.n_receipts == i + 1); /* it counts after it has sent the receipt */
        assert_int_equal(counts_of(f).w.n_tokens_reused, round[i].n_reused);
        struct vd_receipt r = read_receipt(&f->a.signed_receipt);
        first = i == 0 ? r.commit_root : first;
        assert_true(vd_hash_eq(&r.commit_root, &first));
    }
}

/* Another gateway's signature would be good for nothing on the ledger, and must not take the place of the one
 * that is. */
static void another_gateway_accepts_nothing(void **state)
{
    struct fixture *f = *state;
    struct vd_worker_jobs jobs;
    struct vd_envelope e;
    struct vd_error err;
    uint32_t *tokens;
    char dir[128];
    start_stranger(f);
    start_worker(f);
    a_receipt(f, 4);
    AWAIT(f, is.w.n_accepted == 1 && f->stranger_link);
    const struct vd_signed_receipt *s = &f->a.signed_receipt;
    struct vd_wire_accept m = {.job = f->a.job, .receipt_id = vd_signed_receipt_id(s)};
    vd_key_sign(&m.gateway_sig, &f->stranger_key, VD_TAG_ACCEPT, s->body, s->body_bytes);
    SEND(f->stranger_link, VD_WIRE_ACCEPT, vd_wire_put_accept, &m, 256);
    vd_clock_sleep_ms(200);
    snprintf(dir, sizeof dir, "%s/worker/jobs", f->dir);
    sure(vd_worker_jobs_open(&jobs, dir, &err), &err);
    sure(vd_worker_jobs_get(&jobs, &m.receipt_id, &e, &tokens, &err), &err);
    free(tokens);
    assert_memory_equal(&e.receipt.gateway_sig, &s->gateway_sig, sizeof s->gateway_sig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(an_honest_job_is_paid),
        T(what_is_wrong_is_refused),
        T(a_sequence_is_good_for_one_job),
        cmocka_unit_test_setup_teardown(a_second_job_at_capacity_is_refused, setup, let_go),
        cmocka_unit_test_setup_teardown(a_cancelled_job_is_receipted_as_far_as_it_went, setup, let_go),
        T(a_receipt_that_cannot_be_kept_costs_nothing),
        T(another_worker_goes_on_from_the_tokens_given),
        T(a_statement_comes_with_each_64_tokens),
        T(a_prefix_is_reused_within_an_account),
        T(another_gateway_accepts_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
