/* Calls that others make between the engine's steps, with a part of its cache: jobs give way to them and say
 * the same, get on between one and the next, and an engine that is to stop waits for neither. */
#include "vd_test_jobs.h"

#include <sched.h>
#include <stdatomic.h>

enum { LONG_MS = 600000 }; /* a test that waits so long has failed */

/* Takes what it was promised. */
struct taker {
    size_t n_pos;
    unsigned n_runs;
};

static void take_room(void *arg, struct vd_ctx *ctx, struct vd_kv_pool *cache)
{
    struct taker *t = arg;
    struct vd_kv *kv;
    assert_int_equal(vd_kv_open(&kv, cache, NULL), VD_OK);
    assert_int_equal(vd_kv_reserve(kv, t->n_pos, NULL), VD_OK);
    vd_kv_close(kv);
    t->n_runs++;
}

/* Somebody else wants the cache, again and again and without a pause: jobs that it is taken from say what
 * they say alone, each thing once. */
static void give_way(struct fixture *f)
{
    enum { N = 10, ROWS = 48 };
    static struct log logs[N], vectors[2];
    static struct plain want[N];
    struct vd_job job[N],
        vector[2] = {vector_job(0, 300, VD_POOLING_MEAN), vector_job(3, 280, VD_POOLING_LAST)};
    struct vd_engine_options o = {.max_kv_bytes = 3 * cache_for(f, 512, ROWS) / 2, .max_rows = ROWS};
    struct taker taker = {.n_pos = 512};
    struct vd_engine_stats s;
    struct vd_error err;
    open_engine(f, &o);
    for (uint32_t i = 0; i < N; i++) {
        job[i] = some_job(0, 10 + 25 * i, 150, i % 2 ? warm(i) : greedy);
        want[i] = plain_of(f, &job[i]);
        job[i].account = account((uint8_t)(i / 8 + 1)); /* so that they share what is left running */
        if (i % 4 == 3) { /* some of which it is told already, and something wrong */
            job[i].resume = memcpy(malloc(100 * sizeof(uint32_t)), want[i].token, 100 * sizeof(uint32_t));
            ((uint32_t *)(uintptr_t)job[i].resume)[60] ^= 1;
            job[i].n_resume = 100;
        }
        log_init(&logs[i], f->e);
    }
    for (uint32_t i = 0; i < N; i++)
        submit(f->e, job[i], &logs[i]);
    for (uint32_t i = 0; i < 2; i++) {
        log_init(&vectors[i], f->e);
        submit(f->e, vector[i], &vectors[i]);
    }
    do {
        taker.n_pos = taker.n_runs % 4 ? 65 : 512;
        if (vd_engine_run(f->e, taker.n_pos, LONG_MS, take_room, &taker, &err) != VD_OK)
            fail_msg("%s", err.msg);
        vd_engine_get_stats(f->e, &s);
    } while (s.n_active + s.n_queued > 0);
    for (uint32_t i = 0; i < N; i++) {
        wait_done(&logs[i]);
        assert_same(&logs[i], &want[i]);
        assert_int_equal(logs[i].n_positions, job[i].n_prompt + job[i].max_tokens - 1);
        free((uint32_t *)(uintptr_t)job[i].resume);
    }
    for (uint32_t i = 0; i < 2; i++) {
        wait_done(&vectors[i]);
        assert_vector(f, &vectors[i], &vector[i]);
    }
    assert_true(s.n_paused > 5 && taker.n_runs > 5);
    assert_int_equal(vd_engine_run(f->e, 100000, 0, take_room, &taker, &err), VD_ELIMIT);
    assert_non_null(strstr(err.msg, "100000"));
}

static void jobs_give_way(void **state)
{
    struct fixture *f = *state;
    give_way(f);
    open_windows(f, "gemma3");
    give_way(f);
}

/* A run, and how far the others were in it. */
struct watcher {
    struct fixture *f;
    size_t n_pos;
    uint32_t wait_ms;
    struct log *job, *other;
    struct watcher *next; /* is asked for meanwhile, */
    unsigned then_us;     /* and so long the run takes then */
    pthread_t thread;
    uint32_t job_pos, other_pos;
    uint64_t n_steps;
};

static void *call_watch(void *arg);

/* Returns when the engine knows of it. */
static void ask_watch(struct watcher *w)
{
    struct vd_engine_stats before, s;
    vd_engine_get_stats(w->f->e, &before);
    assert_int_equal(pthread_create(&w->thread, NULL, call_watch, w), 0);
    do
        vd_engine_get_stats(w->f->e, &s);
    while (s.n_runs == before.n_runs);
}

static void watch(void *arg, struct vd_ctx *ctx, struct vd_kv_pool *cache)
{
    struct watcher *w = arg;
    struct taker t = {.n_pos = w->n_pos};
    struct vd_engine_stats s;
    take_room(&t, ctx, cache);
    w->job_pos = w->job->n_positions; /* on the engine's thread, as the callbacks */
    w->other_pos = w->other ? w->other->n_positions : 0;
    vd_engine_get_stats(w->f->e, &s);
    w->n_steps = s.n_steps;
    if (w->next)
        ask_watch(w->next);
    usleep(w->then_us);
}

static void *call_watch(void *arg)
{
    struct watcher *w = arg;
    assert_int_equal(vd_engine_run(w->f->e, w->n_pos, w->wait_ms, watch, w, NULL), VD_OK);
    return NULL;
}

/* A short job that can be held, a long one that was admitted after it and has said something, and one of
 * somebody else's that waits for room. */
struct three {
    struct vd_job job[3];
    struct plain want[3];
    struct log log[3];
};

static void start_three(struct fixture *f, struct three *t)
{
    enum { ROWS = 16 };
    struct vd_engine_options o = {.max_kv_bytes = cache_for(f, 310, ROWS) + cache_for(f, 500, ROWS),
                                  .max_rows = ROWS};
    open_engine(f, &o);
    t->job[0] = some_job(0, 10, 300, warm(1));
    t->job[1] = some_job(7, 300, 200, warm(2));
    t->job[2] = some_job(3, 300, 10, greedy);
    for (uint32_t i = 0; i < 3; i++) {
        t->want[i] = plain_of(f, &t->job[i]);
        t->job[i].account = account((uint8_t)(1 + i / 2));
        log_init(&t->log[i], f->e);
    }
    t->log[0].hold_at = 0;
    for (uint32_t i = 0; i < 2; i++)
        submit(f->e, t->job[i], &t->log[i]);
    for (uint32_t n = 1, said = 0; said < 5; n++) {
        go_on_to(&t->log[0], n);
        pthread_mutex_lock(&t->log[1].lock);
        said = t->log[1].n_tokens;
        pthread_mutex_unlock(&t->log[1].lock);
    }
    submit(f->e, t->job[2], &t->log[2]);
}

static void end_three(struct three *t)
{
    for (uint32_t i = 0; i < 3; i++) {
        wait_done(&t->log[i]);
        assert_same(&t->log[i], &t->want[i]);
    }
}

/* A run that takes the long job's cache, and in the middle of it another is asked for. That one comes when
 * the job has got past where it stood, and before anybody else had its place; if it must not wait, or has
 * waited, after a step. */
static void runs_let_jobs_past(void **state)
{
    static const struct {
        uint32_t wait_ms;
        bool waits;
    } cases[] = {{LONG_MS, true}, {0, false}, {1, false}};
    struct fixture *f = *state;
    static struct three t;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        start_three(f, &t);
        struct watcher a = {.f = f, .n_pos = 450, .job = &t.log[1], .other = &t.log[2]}, b = a;
        struct vd_engine_stats s;
        b.wait_ms = cases[i].wait_ms;
        a.next = &b;
        a.then_us = 2000;
        ask_watch(&a);
        let_go(&t.log[0]);
        pthread_join(a.thread, NULL);
        pthread_join(b.thread, NULL);
        assert_in_range(a.job_pos, 305, 460);
        assert_int_equal(b.other_pos, 0);
        if (cases[i].waits)
            assert_in_range(b.job_pos, a.job_pos + a.job_pos / 16 + 1, 499);
        else
            assert_int_equal(b.job_pos, a.job_pos);
        assert_true(b.n_steps > a.n_steps);
        end_three(&t);
        vd_engine_get_stats(f->e, &s);
        assert_int_equal(s.n_paused, 2);
        assert_int_equal(s.n_runs, 0);
    }
}

/* Runs that take nobody's cache do not wait for it; but between one and the next that was asked for meanwhile
 * there is a step. */
static void runs_leave_a_step_between(void **state)
{
    struct fixture *f = *state;
    static struct three t;
    start_three(f, &t);
    struct watcher a = {.f = f, .n_pos = 450, .job = &t.log[1]}, b = a, c = a;
    b.n_pos = c.n_pos = 0;
    b.wait_ms = c.wait_ms = LONG_MS;
    b.next = &c;
    ask_watch(&a);
    ask_watch(&b);
    let_go(&t.log[0]);
    pthread_join(a.thread, NULL);
    pthread_join(b.thread, NULL);
    pthread_join(c.thread, NULL);
    assert_int_equal(b.job_pos, a.job_pos);
    assert_int_equal(b.n_steps, a.n_steps);
    assert_int_equal(c.n_steps, b.n_steps + 1);
    assert_int_equal(c.job_pos, a.job_pos); /* not past yet */
    end_three(&t);
}

/* A run that would never end. */
static void run_for_ever(void *arg, struct vd_ctx *ctx, struct vd_kv_pool *cache)
{
    struct vd_row rows[200];
    struct vd_kv *kv;
    enum vd_err rc = VD_OK;
    assert_int_equal(vd_kv_open(&kv, cache, NULL), VD_OK);
    for (uint32_t i = 0; i < 200; i++)
        rows[i] = (struct vd_row){kv, i, prompt_text[i], 0};
    while (rc == VD_OK) {
        rc = vd_model_forward(ctx, rows, 200, NULL, NULL);
        vd_kv_truncate(kv, 0);
        atomic_store((atomic_bool *)arg, true);
    }
    assert_int_equal(rc, VD_ECANCELLED);
    vd_kv_close(kv);
}

struct endless {
    struct fixture *f;
    atomic_bool runs;
    enum vd_err rc;
};

static void *call_for_ever(void *arg)
{
    struct endless *d = arg;
    d->rc = vd_engine_run(d->f->e, 200, 0, run_for_ever, &d->runs, NULL);
    return NULL;
}

/* Whoever stops the engine does not wait for the end of a run, nor who waits for his own behind it. */
static void stop_gives_up_what_runs(void **state)
{
    struct fixture *f = *state;
    struct endless d = {.f = f}, behind = {.f = f};
    struct vd_job job = some_job(0, 100, 300, greedy);
    struct vd_engine_stats s;
    struct log l;
    pthread_t thread[2];
    assert_int_equal(pthread_create(&thread[0], NULL, call_for_ever, &d), 0);
    while (!atomic_load(&d.runs))
        sched_yield();
    assert_int_equal(pthread_create(&thread[1], NULL, call_for_ever, &behind), 0);
    do
        vd_engine_get_stats(f->e, &s);
    while (s.n_runs == 0);
    log_init(&l, f->e);
    submit(f->e, job, &l);
    vd_engine_stop(f->e);
    pthread_join(thread[0], NULL);
    pthread_join(thread[1], NULL);
    wait_done(&l);
    assert_int_equal(d.rc, VD_OK); /* it had its turn */
    assert_int_equal(behind.rc, VD_ECANCELLED);
    assert_int_equal(l.result.end, VD_JOB_CANCELLED);
    assert_int_equal(vd_engine_submit(f->e, &job, NULL, NULL), VD_ECANCELLED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(jobs_give_way),
        TEST(runs_let_jobs_past),
        TEST(runs_leave_a_step_between),
        TEST(stop_gives_up_what_runs),
    };
    int failed = 0;
    for (guesses = NO_GUESSES; guesses < N_GUESSES; guesses++)
        failed += cmocka_run_group_tests(tests, NULL, NULL);
    return failed;
}
