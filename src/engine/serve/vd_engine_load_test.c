/* More jobs than there is room for: the cache's limit holds, who waits takes nothing from others, the queue
 * has an end, and accounts take turns. */
#include "vd_test_jobs.h"

#include <sched.h>
#include <stdatomic.h>

/* Tokens to resume from that are wrong early on: what the job gives up of them is not somebody else's memory.
 */
static void mismatch_keeps_its_memory(void **state)
{
    struct fixture *f = *state;
    struct vd_engine_stats s;
    vd_engine_get_stats(f->e, &s);
    struct vd_engine_options o = {.max_kv_bytes = 4 * s.kv_page_bytes};
    open_engine(f, &o);
    static struct log logs[2];
    struct vd_job job[2] = {some_job(0, 30, 160, greedy), some_job(7, 30, 160, warm(2))}; /* 3 pages each */
    struct plain want[2] = {plain_of(f, &job[0]), plain_of(f, &job[1])};
    uint32_t wrong[150];
    memcpy(wrong, want[0].token, sizeof wrong);
    wrong[1] = (wrong[1] + 1) % vd_test_model_default.vocab;
    job[0].resume = wrong;
    job[0].n_resume = 150;
    for (uint32_t i = 0; i < 2; i++)
        log_init(&logs[i], f->e);
    for (uint32_t i = 0; i < 2; i++)
        submit(f->e, job[i], &logs[i]);
    for (uint32_t i = 0; i < 2; i++) {
        wait_done(&logs[i]);
        assert_same(&logs[i], &want[i]);
    }
    assert_int_equal(logs[0].n_mismatches, 1);
}

/* A cache for one job at a time: the second waits and then runs; prefixes give way. */
static void memory_limit(void **state)
{
    struct fixture *f = *state;
    struct vd_engine_stats s;
    vd_engine_get_stats(f->e, &s);
    struct vd_engine_options o = {.max_kv_bytes = 4 * s.kv_page_bytes, .max_queued = 3};
    open_engine(f, &o);
    static struct log logs[3];
    struct vd_job job[3];
    struct plain want[3];
    for (uint32_t i = 0; i < 3; i++) {
        job[i] = some_job(i * 10, 100, 100, warm(i));
        want[i] = plain_of(f, &job[i]);
        job[i].account = account(1);
        log_init(&logs[i], f->e);
    }
    for (uint32_t i = 0; i < 3; i++)
        submit(f->e, job[i], &logs[i]);
    for (uint32_t i = 0; i < 3; i++) {
        wait_done(&logs[i]);
        assert_same(&logs[i], &want[i]);
    }
    struct vd_error err;
    struct vd_job large = some_job(0, 200, 100, greedy);
    assert_int_equal(vd_engine_submit(f->e, &large, NULL, &err), VD_ELIMIT);
    char need[32];
    snprintf(need, sizeof need, "%zu", 5 * s.kv_page_bytes);
    assert_non_null(strstr(err.msg, need));
}

/* A job that will not fit however much gives way leaves the prefixes alone while it waits. */
static void waiting_evicts_nothing(void **state)
{
    struct fixture *f = *state;
    struct vd_engine_stats s;
    vd_engine_get_stats(f->e, &s);
    struct vd_engine_options o = {.max_kv_bytes = 6 * s.kv_page_bytes};
    open_engine(f, &o);
    static struct log left, long_one, waits;
    struct vd_job job = some_job(0, 100, 20, greedy); /* leaves 2 pages */
    job.account = account(1);
    run_job(f->e, job, &left);
    log_init(&long_one, f->e);
    long_one.hold_at = 0;
    submit(f->e, some_job(5, 30, 200, greedy), &long_one); /* 4 pages */
    go_on_to(&long_one, 2);
    log_init(&waits, f->e);
    submit(f->e, some_job(9, 30, 150, greedy), &waits); /* 3 pages */
    go_on_to(&long_one, 20);
    vd_engine_get_stats(f->e, &s);
    let_go(&long_one);
    wait_done(&long_one);
    wait_done(&waits);
    assert_int_equal(s.n_active, 1);
    assert_int_equal(s.n_queued, 1);
    assert_int_equal(s.n_prefixes, 1);
    run_job(f->e, job, &left);
    assert_int_equal(left.result.n_reused, 99);
    struct vd_job large = some_job(20, 100, 200, greedy); /* 5 pages: the prefix gives way */
    run_job(f->e, large, &left);
    assert_int_equal(left.result.stop, VD_STOP_LENGTH);
    vd_engine_get_stats(f->e, &s);
    assert_int_equal(s.n_prefixes, 0);
}

/* Counts the cache's bytes while jobs run, from a thread of its own. */
struct counter {
    struct vd_engine *e;
    atomic_bool stop;
    size_t most;
    bool over;
};

static void count_now(struct counter *c)
{
    struct vd_engine_stats s;
    vd_engine_get_stats(c->e, &s);
    c->most = s.kv_bytes_used > c->most ? s.kv_bytes_used : c->most;
    c->over |= s.kv_bytes_used > s.kv_bytes_max;
}

static void *count_pages(void *arg)
{
    struct counter *c = arg;
    while (!atomic_load(&c->stop)) {
        count_now(c);
        sched_yield();
    }
    return NULL;
}

/* Jobs of all lengths, five accounts (one without a cache) whose prompts begin alike, a job in six cancelled
 * at some token or at once, and a cache of 12 pages, of which the longest job wants 8: the pages in use are
 * never more than the limit, and what a job says is what it says alone. */
static void mix(struct fixture *f, size_t max_kv_bytes, size_t max_rows)
{
    enum { N = 60 };
    struct vd_engine_stats s;
    static struct log logs[N];
    static struct plain want[N];
    struct vd_job job[N];
    struct vd_rng r = {11, guesses};
    struct vd_engine_options o = {.max_kv_bytes = max_kv_bytes, .max_active = 6, .max_rows = max_rows};
    open_engine(f, &o);
    for (uint32_t i = 0; i < N; i++) {
        uint32_t n_prompt = 1 + (uint32_t)vd_rng_below(&r, i % 7 ? 200 : 400);
        uint32_t n_out = 1 + (uint32_t)vd_rng_below(&r, i % 5 ? 40 : 110);
        job[i] = some_job(i % 4 == 3 ? 16 : 0, n_prompt, n_out, i % 3 ? warm(i) : greedy);
        want[i] = plain_of(f, &job[i]);
        job[i].account = account((uint8_t)(i % 5));
        log_init(&logs[i], f->e);
        logs[i].cancel_at = i % 6 == 5 ? (uint32_t)vd_rng_below(&r, 30) : UINT32_MAX;
    }
    struct counter c = {.e = f->e};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, count_pages, &c), 0);
    for (uint32_t i = 0; i < N; i++) {
        submit(f->e, job[i], &logs[i]);
        if (i % 12 == 11)
            vd_engine_cancel(f->e, logs[i].id);
    }
    unsigned n_reused = 0, n_cancelled = 0;
    for (uint32_t i = 0; i < N; i++) {
        wait_done(&logs[i]);
        count_now(&c);
        n_reused += logs[i].result.n_reused > 0;
        if (logs[i].result.end == VD_JOB_CANCELLED) {
            n_cancelled++;
            assert_memory_equal(logs[i].token, want[i].token, logs[i].n_tokens * sizeof(uint32_t));
        } else {
            assert_same(&logs[i], &want[i]);
        }
    }
    atomic_store(&c.stop, true);
    pthread_join(thread, NULL);
    assert_false(c.over);
    assert_true(c.most > o.max_kv_bytes / 2 && c.most <= o.max_kv_bytes);
    assert_true(n_reused >= 4 && n_cancelled >= 4);
    vd_engine_get_stats(f->e, &s);
    assert_int_equal(s.kv_bytes_max, max_kv_bytes);
    assert_int_equal(s.n_active + s.n_queued, 0);
}

static void mixed_load(void **state)
{
    struct fixture *f = *state;
    struct vd_engine_stats s;
    vd_engine_get_stats(f->e, &s);
    mix(f, 12 * s.kv_page_bytes, 64);
}

/* The same where pages leave behind windows: a cache that three of the longest jobs (13 windows) fill.
 */
static void mixed_load_with_windows(void **state)
{
    struct fixture *f = *state;
    static const char *const forms[] = {"gemma2", "gemma3"};
    for (size_t i = 0; i < 2; i += vd_test_step(2)) {
        open_windows(f, forms[i]);
        mix(f, 3 * cache_for(f, 512, 48), 48);
    }
}

static void queue_is_bounded(void **state)
{
    struct fixture *f = *state;
    struct vd_engine_options o = {.max_active = 1, .max_queued = 2};
    static struct log logs[20];
    enum vd_err rc[20];
    open_engine(f, &o);
    for (unsigned i = 0; i < 20; i++) {
        struct vd_error err;
        log_init(&logs[i], f->e);
        logs[i].hold_at = i == 0 ? 0 : UINT32_MAX;
        struct vd_job job = with_log(some_job(0, 300, 200, greedy), &logs[i]);
        rc[i] = vd_engine_submit(f->e, &job, NULL, &err);
        if (i == 0)
            go_on_to(&logs[0], 1); /* so that it has left the queue, and stays */
    }
    vd_engine_stop(f->e);
    let_go(&logs[0]);
    vd_engine_destroy(f->e); /* everything that was accepted is cancelled and told so */
    f->e = NULL;
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(rc[i], i < 3 ? VD_OK : VD_EAGAIN);
        assert_true(logs[i].in_order);
        assert_int_equal(logs[i].done, i < 3);
        assert_true(i >= 3 || logs[i].result.end == VD_JOB_CANCELLED);
    }
}

/* Two accounts, one with many jobs: the other's only job does not wait for all of them. */
static void accounts_take_turns(void **state)
{
    enum { N = 12 };
    struct fixture *f = *state;
    struct vd_engine_options o = {.max_active = 2};
    static struct log logs[N + 1];
    open_engine(f, &o);
    for (unsigned i = 0; i < N; i++) {
        struct vd_job job = some_job(i, 20, 40, greedy);
        job.account = account(1);
        log_init(&logs[i], f->e);
        logs[i].hold_at = i == 0 ? 0 : UINT32_MAX; /* until all are there */
        submit(f->e, job, &logs[i]);
    }
    struct vd_job job = some_job(50, 20, 40, greedy);
    job.account = account(2);
    log_init(&logs[N], f->e);
    submit(f->e, job, &logs[N]);
    let_go(&logs[0]);
    wait_done(&logs[N]);
    pthread_mutex_lock(&logs[N - 1].lock);
    assert_false(logs[N - 1].done);
    pthread_mutex_unlock(&logs[N - 1].lock);
    for (unsigned i = 0; i < N; i++)
        wait_done(&logs[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(memory_limit),           TEST(mixed_load),          TEST(mixed_load_with_windows),
        TEST(queue_is_bounded),       TEST(accounts_take_turns), TEST(mismatch_keeps_its_memory),
        TEST(waiting_evicts_nothing),
    };
    int failed = 0;
    for (guesses = NO_GUESSES; guesses < N_GUESSES; guesses++)
        failed += cmocka_run_group_tests(tests, NULL, NULL);
    return failed;
}
