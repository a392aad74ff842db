/* Why it is the way it is. Decoding one token takes about three milliseconds and has some two hundred phases,
 * so a barrier must cost far less than a microsecond when all threads are running, and must not burn a core
 * when they are not.
 *
 * The barrier is central: a counter of arrivals and a phase number. The last to arrive resets the counters
 * and advances the phase; the others spin on the phase for a bounded number of pauses, then sleep on a
 * condition variable. Sleeping is announced in `sleepers` before the phase is looked at for the last time,
 * and the last arriver looks at `sleepers` after it advanced the phase; both are sequentially consistent, so
 * one of the two sees the other (Dekker) and no wake-up is lost. Starting a region is the same thing: the
 * workers wait for `epoch` to change.
 *
 * Fields written by different threads lie on different cache lines. */
#include "vd_pool.h"

#include <assert.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vd_fenv.h"

#if defined(__x86_64__) || defined(__i386__)
#define VD_PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define VD_PAUSE() __asm__ volatile("yield")
#else
#define VD_PAUSE() ((void)0)
#endif

enum {
    CACHE_LINE = 64,
    SPINS = 4000 /* pauses before sleeping: 40 to 150 microseconds by CPU, longer than the phases of a decode
                    step */
};

/* A word that one thread advances and others wait for. */
struct gate {
    alignas(CACHE_LINE) _Atomic uint32_t phase;
    alignas(CACHE_LINE) _Atomic uint32_t sleepers;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
};

struct vd_team {
    alignas(CACHE_LINE) _Atomic uint32_t arrived;
    unsigned n_threads; /* constant */
    alignas(CACHE_LINE) _Atomic size_t next;
    struct gate gate;
};

struct worker {
    struct vd_pool *pool;
    unsigned index;
    pthread_t thread;
};

struct vd_pool {
    struct vd_team team;
    struct gate start; /* a new phase is a new region, or the end */
    vd_region_fn *fn;
    void *arg;
    bool stop;
    atomic_bool running;
    struct worker *workers; /* n_threads - 1 */
};

static bool gate_init(struct gate *g)
{
    if (pthread_mutex_init(&g->mutex, NULL) != 0)
        return false;
    if (pthread_cond_init(&g->cond, NULL) != 0) {
        pthread_mutex_destroy(&g->mutex);
        return false;
    }
    return true;
}

static void gate_destroy(struct gate *g)
{
    pthread_cond_destroy(&g->cond);
    pthread_mutex_destroy(&g->mutex);
}

static void gate_wait(struct gate *g, uint32_t old)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&g->phase, memory_order_acquire) != old)
            return;
        VD_PAUSE();
    }
    pthread_mutex_lock(&g->mutex);
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(&g->phase) == old)
        pthread_cond_wait(&g->cond, &g->mutex);
    atomic_fetch_sub(&g->sleepers, 1);
    pthread_mutex_unlock(&g->mutex);
}

static void gate_open(struct gate *g)
{
    atomic_fetch_add(&g->phase, 1);
    if (atomic_load(&g->sleepers) != 0) {
        pthread_mutex_lock(&g->mutex);
        pthread_cond_broadcast(&g->cond);
        pthread_mutex_unlock(&g->mutex);
    }
}

unsigned vd_team_threads(const struct vd_team *team)
{
    return team->n_threads;
}

void vd_team_barrier(struct vd_team *team)
{
    if (team->n_threads == 1) {
        atomic_store_explicit(&team->next, 0, memory_order_relaxed);
        return;
    }
    uint32_t phase = atomic_load_explicit(&team->gate.phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) + 1 < team->n_threads) {
        gate_wait(&team->gate, phase);
        return;
    }
    atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
    atomic_store_explicit(&team->next, 0, memory_order_relaxed);
    gate_open(&team->gate);
}

size_t vd_team_next(struct vd_team *team)
{
    return atomic_fetch_add_explicit(&team->next, 1, memory_order_relaxed);
}

void vd_team_range(const struct vd_team *team, unsigned thread, size_t n, size_t grain, size_t *begin,
                   size_t *end)
{
    assert(grain > 0 && thread < team->n_threads);
    size_t pieces = (n + grain - 1) / grain, t = team->n_threads;
    *begin = pieces * thread / t * grain;
    *end = pieces * (thread + 1) / t * grain;
    if (*begin > n)
        *begin = n;
    if (*end > n)
        *end = n;
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct vd_pool *pool = w->pool;
    for (uint32_t epoch = 0;; epoch++) {
        gate_wait(&pool->start, epoch);
        if (pool->stop)
            return NULL;
        assert(vd_num_env_ok());
        pool->fn(pool->arg, &pool->team, w->index);
        vd_team_barrier(&pool->team);
    }
}

void vd_pool_region(struct vd_pool *pool, vd_region_fn *fn, void *arg)
{
    bool was_running = atomic_exchange(&pool->running, true);
    assert(!was_running);
    (void)was_running;
    assert(vd_num_env_ok());
    pool->fn = fn;
    pool->arg = arg;
    if (pool->team.n_threads > 1)
        gate_open(&pool->start);
    fn(arg, &pool->team, 0);
    vd_team_barrier(&pool->team);
    atomic_store(&pool->running, false);
}

struct task_job {
    vd_task_fn *fn;
    void *arg;
    size_t n;
};

static void run_tasks(void *arg, struct vd_team *team, unsigned thread)
{
    struct task_job *job = arg;
    for (size_t i; (i = vd_team_next(team)) < job->n;)
        job->fn(job->arg, i, thread);
}

void vd_pool_run(struct vd_pool *pool, vd_task_fn *fn, void *arg, size_t n_tasks)
{
    struct task_job job = {fn, arg, n_tasks};
    vd_pool_region(pool, run_tasks, &job);
}

unsigned vd_pool_threads(const struct vd_pool *pool)
{
    return pool->team.n_threads;
}

/* Ends the first n workers and frees everything. */
static void pool_end(struct vd_pool *pool, unsigned n)
{
    pool->stop = true;
    gate_open(&pool->start);
    for (unsigned i = 0; i < n; i++)
        pthread_join(pool->workers[i].thread, NULL);
    gate_destroy(&pool->start);
    gate_destroy(&pool->team.gate);
    free(pool->workers);
    free(pool);
}

/* A pool without its threads, or NULL. */
static struct vd_pool *pool_alloc(unsigned n_threads)
{
    struct vd_pool *pool = aligned_alloc(CACHE_LINE, sizeof(*pool));
    if (pool == NULL)
        return NULL;
    memset(pool, 0, sizeof(*pool));
    pool->team.n_threads = n_threads;
    pool->workers = calloc(n_threads, sizeof(*pool->workers));
    if (pool->workers != NULL && gate_init(&pool->team.gate)) {
        if (gate_init(&pool->start))
            return pool;
        gate_destroy(&pool->team.gate);
    }
    free(pool->workers);
    free(pool);
    return NULL;
}

enum vd_err vd_pool_create(struct vd_pool **out, unsigned n_threads, struct vd_error *err)
{
    *out = NULL;
    if (n_threads > VD_POOL_THREADS_MAX)
        return vd_error_set(err, VD_EUSE, "%u threads asked for; at most %d are possible", n_threads,
                            VD_POOL_THREADS_MAX);
    if (n_threads == 0) {
        long cpus = sysconf(_SC_NPROCESSORS_ONLN);
        n_threads = cpus < 1 ? 1 : cpus > VD_POOL_THREADS_MAX ? VD_POOL_THREADS_MAX : (unsigned)cpus;
    }
    struct vd_pool *pool = pool_alloc(n_threads);
    if (pool == NULL)
        return vd_error_set(err, VD_ENOMEM, "no memory for a thread pool of %u threads", n_threads);
    for (unsigned i = 0; i + 1 < n_threads; i++) {
        struct worker *w = &pool->workers[i];
        w->pool = pool;
        w->index = i + 1;
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0) {
            pool_end(pool, i);
            return vd_error_set(
                err, VD_EAGAIN,
                "the system refused thread %u of %u; use fewer threads or raise its limit (ulimit -u)", i + 2,
                n_threads);
        }
    }
    *out = pool;
    return VD_OK;
}

void vd_pool_destroy(struct vd_pool *pool)
{
    if (pool == NULL)
        return;
    assert(!atomic_load(&pool->running));
    pool_end(pool, pool->team.n_threads - 1);
}
