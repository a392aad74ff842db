/* A worker that is challenged: it answers, one or a hundred challenges, in time, in whatever memory it has,
 * and while its jobs go on. The challengers point without a trace. */
#include "vd_test_roles.h"

#include <sys/resource.h>

/* A challenger without reason: the honest worker answers everything, also after a restart in the middle. */
static void an_idle_challenge_costs_its_bond(void **state)
{
    struct fixture *f = *state;
    struct vd_ledger_outcome o;
    struct vd_error err;
    struct vd_dispute d;
    start_worker(f);
    struct vd_hash id = a_settled_receipt(f, 6);
    stop_worker(f); /* challenged while it is away */
    struct vd_tx tx = {.kind = VD_TX_CHALLENGE};
    tx.u.challenge.receipt_id = id;
    sure(vd_ledger_client_send(f->ledger, &tx, WAIT_MS, &o, &err), &err);
    start_worker(f);
    uint64_t until = vd_clock_ms() + WAIT_MS;
    do {
        vd_clock_sleep_ms(5);
        sure(vd_ledger_client_dispute(f->ledger, &o.tx_id, &d, &err), &err);
    } while (d.status == VD_DISPUTE_WORKER_MOVES && vd_clock_ms() < until);
    assert_int_equal(d.status, VD_DISPUTE_CHALLENGER_MOVES); /* STATE was shown */
    assert_int_equal(d.n_moves, 1);
    AWAIT(f, is.w.n_won == 1); /* nobody points: the challenger's clock runs out */
}

/* ---- Many disputes at once ---- */

/* Sends what is in tx, all of which must be applied; the ids of the transactions. */
static void send_all(struct fixture *f, struct vd_tx *tx, size_t n, struct vd_hash *id)
{
    struct vd_ledger_sending s[VD_LEDGER_SEND_MAX];
    for (size_t i = 0; i < n; i++)
        s[i] = (struct vd_ledger_sending){.tx = &tx[i]};
    vd_ledger_client_send_all(f->ledger, s, n, WAIT_MS);
    for (size_t i = 0; i < n; i++) {
        sure(s[i].result, &s[i].err);
        id[i] = s[i].out.tx_id;
    }
}

static void challenge_all(struct fixture *f, const struct vd_hash *receipt, size_t n, struct vd_hash *dispute)
{
    struct vd_tx tx[VD_LEDGER_SEND_MAX];
    for (size_t i = 0; i < n; i++) {
        tx[i] = (struct vd_tx){.kind = VD_TX_CHALLENGE};
        tx[i].u.challenge.receipt_id = receipt[i];
    }
    send_all(f, tx, n, dispute);
}

/* Waits until the worker has answered in all of them. */
static void await_answers(struct fixture *f, const struct vd_hash *dispute, size_t n, struct vd_dispute *d)
{
    uint64_t until = vd_clock_ms() + WAIT_MS;
    for (size_t i = 0; i < n; i++) {
        struct vd_error err;
        do {
            sure(vd_ledger_client_dispute(f->ledger, &dispute[i], &d[i], &err), &err);
            vd_clock_sleep_ms(2);
        } while (d[i].status == VD_DISPUTE_WORKER_MOVES && vd_clock_ms() < until);
        assert_int_equal(d[i].status, VD_DISPUTE_CHALLENGER_MOVES);
    }
}

/* A challenger that points without a trace: at step 10 + i, the first block, its first operator. */
static void point(struct vd_tx *tx, uint8_t buf[256], const struct vd_hash *dispute, uint32_t n_moves,
                  size_t i)
{
    struct vd_move m = {.kind = n_moves == 1   ? VD_MOVE_STEP
                                : n_moves == 3 ? VD_MOVE_UNIT
                                               : VD_MOVE_OP,
                        .index = n_moves == 1   ? 10 + i
                                 : n_moves == 3 ? 1
                                                : 0};
    *tx = (struct vd_tx){.kind = VD_TX_MOVE};
    tx->u.move.dispute_id = *dispute;
    tx->u.move.move = (struct vd_bytes){buf, vd_move_encode(&m, buf, 256)};
}

static void disputes_that_take_turns_cost_one_replay_each(void **state)
{
    struct fixture *f = *state;
    enum { N = 4 };
    struct vd_hash receipt[N], dispute[N], ids[N];
    struct vd_dispute d[N];
    uint8_t buf[N][256];
    start_worker(f);
    for (size_t i = 0; i < N; i += 2)
        receipt[i] = receipt[i + 1] = a_settled_receipt(f, 6);
    challenge_all(f, receipt, N, dispute);
    for (uint32_t n_moves = 1; n_moves <= 5; n_moves += 2) {
        struct vd_tx tx[N];
        await_answers(f, dispute, N, d);
        for (size_t i = 0; i < N; i++) {
            assert_int_equal(d[i].n_moves, n_moves);
            point(&tx[i], buf[i], &dispute[i], n_moves, i);
        }
        send_all(f, tx, N, ids);
    }
    await_answers(f, dispute, N, d);
    struct vd_worker_stats w = counts_of(f).w;
    assert_int_equal(w.n_moves, 4 * N);
    assert_int_equal(w.n_replays, 2 + N); /* the trace of each receipt, the unit of each dispute */
}

static uint64_t peak_bytes(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (uint64_t)r.ru_maxrss << 10;
}

/* A cache with room for one job of the whole context, and always such a job in it: they give way to a
 * dispute, which is played up to an operator, where it replays and nowhere else, and go on. The worker takes
 * no second cache: at its peak it has what it had before, and what docs/guide/security-tests.md says of a
 * trace. */
static void jobs_that_hold_all_memory_do_not_hold_up_a_dispute(void **state)
{
    enum { N = 40, POSITIONS = 512, PAGES = POSITIONS / VD_KV_PAGE_POS };
    struct fixture *f = *state;
    struct vd_hash dispute, id;
    struct vd_dispute d;
    struct vd_engine_stats before, s;
    struct vd_error err;
    uint32_t prompt[10] = {1};
    uint8_t buf[256];
    start_worker(f);
    vd_engine_get_stats(f->worker->offer[0].engine, &s);
    f->kv_bytes = PAGES * s.kv_page_bytes + s.kv_page_bytes / 2;
    start_worker(f);
    struct vd_hash receipt = a_settled_receipt(f, 6);
    AWAIT(f, is.w.n_running == 0);
    struct vd_engine *engine = f->worker->offer[0].engine;
    struct vd_job job = {.prompt = prompt, .n_prompt = 10, .max_tokens = POSITIONS - 10};
    for (unsigned i = 0; i < N; i++)
        sure(vd_engine_submit(engine, &job, NULL, &err), &err);
    do
        vd_engine_get_stats(engine, &before);
    while (before.kv_bytes_used < PAGES * before.kv_page_bytes);
    uint64_t peak = peak_bytes(), paused = before.n_paused;
    challenge_all(f, &receipt, 1, &dispute);
    for (uint32_t n_moves = 1; n_moves <= 7; n_moves += 2) {
        struct vd_tx tx;
        await_answers(f, &dispute, 1, &d);
        assert_int_equal(d.n_moves, n_moves);
        vd_engine_get_stats(engine, &s);
        if (n_moves == 3 || n_moves == 7) /* what was replayed for the move before is all that these need */
            assert_int_equal(s.n_paused, paused);
        paused = s.n_paused;
        if (n_moves < 7) {
            point(&tx, buf, &dispute, n_moves, 0);
            send_all(f, &tx, 1, &id);
        }
    }
    assert_true(s.n_active + s.n_queued > 0); /* they were there all the time */
    assert_true(s.n_paused > before.n_paused);
    print_message("    peak of the process: %.1f MiB more than before\n",
                  (double)(peak_bytes() - peak) / (1 << 20));
    assert_true(peak_bytes() - peak < 256u << 20);
}

/* A step of the worker's engine that ends when the engine is to stop. */
struct holder {
    struct vd_engine *engine;
    struct vd_job job;
};

static void hold_until_stop(void *arg, uint32_t index, uint32_t token)
{
    struct holder *h = arg;
    struct vd_job other = {.prompt = (uint32_t[]){token}, .n_prompt = 1, .max_tokens = 1};
    (void)index;
    while (vd_engine_submit(h->engine, &other, NULL, NULL) != VD_ECANCELLED)
        vd_clock_sleep_ms(1);
}

/* The engine is busy, and the court waits behind it with a replay: a worker that is to stop waits for
 * neither.
 */
static void a_worker_stops_in_the_midst_of_a_replay(void **state)
{
    struct fixture *f = *state;
    struct vd_hash dispute;
    struct vd_engine_stats s;
    struct vd_error err;
    uint32_t prompt[10] = {1};
    start_worker(f);
    struct vd_hash receipt = a_settled_receipt(f, 6);
    AWAIT(f, is.w.n_running == 0);
    struct holder h = {.engine = f->worker->offer[0].engine};
    h.job = (struct vd_job){
        .prompt = prompt, .n_prompt = 10, .max_tokens = 10, .arg = &h, .on_token = hold_until_stop};
    sure(vd_engine_submit(h.engine, &h.job, NULL, &err), &err);
    challenge_all(f, &receipt, 1, &dispute);
    do
        vd_engine_get_stats(h.engine, &s);
    while (s.n_runs == 0);
    stop_worker(f);
}

static void many_challenges_are_answered_in_few_blocks(void **state)
{
    struct fixture *f = *state;
    enum { N = 16 };
    struct vd_hash receipt[N], dispute[N];
    struct vd_dispute d[N];
    size_t n_blocks = 0;
    start_worker(f);
    receipt[0] = a_settled_receipt(f, 6);
    stop_worker(f); /* challenged while it is away */
    for (size_t i = 1; i < N; i++)
        receipt[i] = receipt[0];
    challenge_all(f, receipt, N, dispute);
    start_worker(f);
    await_answers(f, dispute, N, d);
    for (size_t i = 0; i < N; i++) { /* the challengers' deadlines say when the worker answered */
        bool known = false;
        for (size_t k = 0; k < i; k++)
            known |= d[k].deadline_height == d[i].deadline_height;
        n_blocks += !known;
    }
    assert_true(n_blocks <
                N); /* not a block for each; how many lie between says only how busy the machine is */
}

/* A hundred disputes about one receipt, each as far as the worker can be led without a trace: every node is
 * answered to every challenger, and made once: one replay for the trace, one for the unit that all point at.
 */
static void a_hundred_challenges_cost_one_answer_for_a_node(void **state)
{
    struct fixture *f = *state;
    enum { N = 100, PART = 25 };
    static struct vd_hash receipt[N], dispute[N], ids[PART];
    static struct vd_dispute d[N];
    static struct vd_tx tx[PART];
    static uint8_t buf[PART][256];
    start_worker(f);
    receipt[0] = a_settled_receipt(f, 6);
    for (size_t i = 1; i < N; i++)
        receipt[i] = receipt[0];
    for (size_t i = 0; i < N; i += PART)
        challenge_all(f, receipt + i, PART, dispute + i);
    for (uint32_t n_moves = 1; n_moves <= 5; n_moves += 2) {
        await_answers(f, dispute, N, d);
        for (size_t from = 0; from < N; from += PART) {
            for (size_t i = 0; i < PART; i++)
                point(&tx[i], buf[i], &dispute[from + i], n_moves, 0);
            send_all(f, tx, PART, ids);
        }
    }
    await_answers(f, dispute, N, d);
    struct vd_worker_stats w = counts_of(f).w;
    assert_int_equal(w.n_moves, 4 * N);
    assert_int_equal(w.n_lost, 0);
    if (w.n_replays > 2)
        fail_msg("%llu replays", (unsigned long long)w.n_replays);
}

/* What a worker may have open; the last cannot be answered before 1001 ms. */
static const struct vd_worker_dispute open_disputes[6] = {
    {.record = {.status = VD_DISPUTE_WORKER_MOVES, .deadline_height = 50}},
    {.record = {.status = VD_DISPUTE_WORKER_MOVES, .deadline_height = 30}},
    {.record = {.status = VD_DISPUTE_CHALLENGER_MOVES, .deadline_height = 10}},
    {.record = {.status = VD_DISPUTE_WORKER_MOVES, .deadline_height = 20}, .sending = true},
    {.record = {.status = VD_DISPUTE_WORKER_MOVES, .deadline_height = 15}, .stale = true},
    {.record = {.status = VD_DISPUTE_WORKER_MOVES, .deadline_height = 12}, .not_before_ms = 1001},
};

static void the_earliest_deadline_is_first(void **state)
{
    const struct vd_worker_dispute *d = open_disputes;
    assert_int_equal(vd_worker_next_dispute(d, 6, 1000), 1);
    assert_int_equal(vd_worker_next_dispute(d, 6, 1001), 5);
    assert_int_equal(vd_worker_next_dispute(d, 1, 1000), 0);
    assert_int_equal(vd_worker_next_dispute(d + 2, 3, 1000), 3);
}

static void a_replay_waits_for_a_part_of_the_clock(void **state)
{
    struct vd_worker_dispute d[6];
    struct vd_genesis rules = {.block_time_ms = 3000, .move_clock_blocks = 40};
    memcpy(d, open_disputes, sizeof d);
    assert_int_equal(vd_worker_patience_ms(d, 1, 10, &rules), 40 * 3000 / 4);
    assert_int_equal(vd_worker_patience_ms(d, 4, 10, &rules), 20 * 3000 / 8);
    assert_int_equal(vd_worker_patience_ms(d, 5, 10, &rules), 20 * 3000 / 12);
    assert_int_equal(vd_worker_patience_ms(d, 5, 30, &rules), 0);
    assert_int_equal(vd_worker_patience_ms(d, 5, 31, &rules), 0);
    assert_int_equal(vd_worker_patience_ms(d + 2, 3, 10, &rules), 0);
    rules.move_clock_blocks = 8; /* a challenger may move, or another come, and the clock then is this */
    assert_int_equal(vd_worker_patience_ms(d, 4, 10, &rules), 8 * 3000 / 8);
    d[2].record.replay_blocks = 5; /* and the longest replay */
    assert_int_equal(vd_worker_patience_ms(d, 4, 10, &rules), 13 * 3000 / 8);
    rules = (struct vd_genesis){.block_time_ms = 60000, .move_clock_blocks = 40};
    assert_int_equal(vd_worker_patience_ms(d, 1, 10, &rules), VD_WORKER_PATIENCE_MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(an_idle_challenge_costs_its_bond),
        T(disputes_that_take_turns_cost_one_replay_each),
        T(jobs_that_hold_all_memory_do_not_hold_up_a_dispute),
        T(a_worker_stops_in_the_midst_of_a_replay),
        T(many_challenges_are_answered_in_few_blocks),
        T(a_hundred_challenges_cost_one_answer_for_a_node),
        cmocka_unit_test(the_earliest_deadline_is_first),
        cmocka_unit_test(a_replay_waits_for_a_part_of_the_clock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
