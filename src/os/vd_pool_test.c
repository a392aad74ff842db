/* The pool: every task once, barriers that part phases, memory visible across them, two pools at once on few
 * cores. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "vd_pool.h"

enum { N_TASKS = 1000, N_PHASES = 300, N_CELLS = 64 };

static void count_task(void *arg, size_t task, unsigned thread)
{
    int *hits = arg;
    hits[task]++;
}

static void test_run_every_task_once(void **state)
{
    for (unsigned n = 1; n <= 5; n++) {
        struct vd_pool *pool;
        assert_int_equal(vd_pool_create(&pool, n, NULL), VD_OK);
        assert_int_equal(vd_pool_threads(pool), n);
        int hits[N_TASKS] = {0};
        for (int round = 1; round <= 20; round++) {
            vd_pool_run(pool, count_task, hits, N_TASKS);
            for (int i = 0; i < N_TASKS; i++)
                assert_int_equal(hits[i], round);
        }
        vd_pool_run(pool, count_task, hits, 0);
        vd_pool_destroy(pool);
    }
}

struct phases {
    uint64_t cell[2][N_CELLS]; /* each phase reads all of one half and writes the other */
    uint64_t taken[N_PHASES];
};

static void run_phases(void *arg, struct vd_team *team, unsigned thread)
{
    struct phases *p = arg;
    for (int k = 0; k < N_PHASES; k++) {
        const uint64_t *in = p->cell[k & 1];
        uint64_t *out = p->cell[1 - (k & 1)];
        if (k % 2 == 0) {
            size_t a, b;
            vd_team_range(team, thread, N_CELLS, 4, &a, &b);
            for (size_t i = a; i < b; i++)
                out[i] = in[(i * 7 + 1) % N_CELLS] * 3 + in[(i * 5 + 2) % N_CELLS];
        } else {
            for (size_t i; (i = vd_team_next(team)) < N_CELLS;)
                out[i] = in[(i * 7 + 1) % N_CELLS] * 3 + in[(i * 5 + 2) % N_CELLS];
        }
        vd_team_barrier(team);
    }
}

/* A race, a lost barrier or a counter not reset changes the cells. */
static void test_barriers_part_phases(void **state)
{
    struct phases want, got;
    for (unsigned n = 1; n <= 6; n++) {
        struct vd_pool *pool;
        assert_int_equal(vd_pool_create(&pool, n, NULL), VD_OK);
        memset(&got, 0, sizeof(got));
        for (int i = 0; i < N_CELLS; i++)
            got.cell[0][i] = (uint64_t)i + 1;
        vd_pool_region(pool, run_phases, &got);
        vd_pool_region(pool, run_phases, &got);
        if (n == 1)
            want = got;
        assert_memory_equal(&got, &want, sizeof(got));
        vd_pool_destroy(pool);
    }
}

struct ranges {
    size_t n, begin[4], end[4];
};

static void take_range(void *arg, struct vd_team *team, unsigned thread)
{
    struct ranges *r = arg;
    vd_team_range(team, thread, r->n, 16, &r->begin[thread], &r->end[thread]);
}

static void test_ranges_cover(void **state)
{
    static const size_t sizes[] = {0, 1, 15, 16, 17, 576, 49152};
    for (unsigned n = 1; n <= 4; n++) {
        struct vd_pool *pool;
        assert_int_equal(vd_pool_create(&pool, n, NULL), VD_OK);
        for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
            struct ranges r = {.n = sizes[s]};
            vd_pool_region(pool, take_range, &r);
            size_t at = 0;
            for (unsigned t = 0; t < n; t++) {
                assert_int_equal(r.begin[t], at);
                assert_true(r.end[t] >= at && (r.end[t] % 16 == 0 || r.end[t] == r.n));
                at = r.end[t];
            }
            assert_int_equal(at, r.n);
        }
        vd_pool_destroy(pool);
    }
}

static void *drive_pool(void *arg)
{
    struct phases *p = arg;
    struct vd_pool *pool;
    if (vd_pool_create(&pool, 3, NULL) != VD_OK)
        return NULL;
    for (int i = 0; i < 10; i++)
        vd_pool_region(pool, run_phases, p);
    vd_pool_destroy(pool);
    return p;
}

/* More spinning threads than cores: the sleeping path is taken and nothing hangs. */
static void test_pools_share_cores(void **state)
{
    static struct phases p[3];
    pthread_t th[3];
    memset(p, 0, sizeof(p));
    for (int i = 0; i < 3; i++) {
        p[i].cell[0][3] = 1;
        assert_int_equal(pthread_create(&th[i], NULL, drive_pool, &p[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        void *r;
        pthread_join(th[i], &r);
        assert_ptr_equal(r, &p[i]);
    }
    assert_memory_equal(&p[0], &p[1], sizeof(p[0]));
    assert_memory_equal(&p[0], &p[2], sizeof(p[0]));
}

static void test_limits(void **state)
{
    struct vd_pool *pool;
    struct vd_error err;
    assert_int_equal(vd_pool_create(&pool, VD_POOL_THREADS_MAX + 1, &err), VD_EUSE);
    assert_null(pool);
    assert_non_null(strstr(err.msg, "257"));
    assert_int_equal(vd_pool_create(&pool, 0, &err), VD_OK);
    assert_true(vd_pool_threads(pool) >= 1);
    vd_pool_destroy(pool);
    vd_pool_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run_every_task_once),
        cmocka_unit_test(test_barriers_part_phases),
        cmocka_unit_test(test_ranges_cover),
        cmocka_unit_test(test_pools_share_cores),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
