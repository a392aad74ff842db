/* A fork-join thread pool whose barriers cost about a microsecond.
 *
 * A pool owns n - 1 threads; the caller of a region is the n-th (thread 0). vd_pool_region runs one function
 * on all n at once. Inside it the phases of the work are parted by vd_team_barrier, so that a whole forward
 * pass is one region: threads spin briefly at a barrier and then sleep, so several pools may share a few
 * cores.
 *
 * Within a phase work is shared either statically (vd_team_range) or dynamically (vd_team_next).
 *
 * Thread rule: one region at a time per pool, not nested (assert). Every thread of a region has the default
 * float environment: round to nearest, subnormals kept. It is checked on entry and a wrong one is a
 * programmer error (assert), because results would silently lose their canonical bits. */
#ifndef VD_POOL_H
#define VD_POOL_H

#include <stdbool.h>
#include <stddef.h>

#include "vd_err.h"

enum { VD_POOL_THREADS_MAX = 256 };

struct vd_pool;
struct vd_team; /* what the threads of a running region share */

typedef void vd_region_fn(void *arg, struct vd_team *team, unsigned thread);
typedef void vd_task_fn(void *arg, size_t task, unsigned thread);

/* Starts n_threads - 1 threads (n_threads 1..VD_POOL_THREADS_MAX; 0 means one per online CPU). VD_EUSE,
 * VD_ENOMEM or VD_EAGAIN (the system refused a thread) leave nothing behind. */
enum vd_err vd_pool_create(struct vd_pool **out, unsigned n_threads, struct vd_error *err);
/* Ends the threads and frees the pool; NULL is allowed. No region may be running. */
void vd_pool_destroy(struct vd_pool *pool);
unsigned vd_pool_threads(const struct vd_pool *pool);

/* Runs fn(arg, team, thread) once on each thread, thread = 0 .. threads - 1, and returns when all have
 * returned. Everything written before is visible inside, and everything written inside is visible after. */
void vd_pool_region(struct vd_pool *pool, vd_region_fn *fn, void *arg);
/* Runs fn(arg, task, thread) for task = 0 .. n_tasks - 1, each once, dynamically shared. */
void vd_pool_run(struct vd_pool *pool, vd_task_fn *fn, void *arg, size_t n_tasks);

unsigned vd_team_threads(const struct vd_team *team);
/* Waits until every thread of the region has arrived: what was written before is visible after. All threads
 * of the region must call it equally often. */
void vd_team_barrier(struct vd_team *team);
/* Dynamic sharing: returns 0, 1, 2, ... each number once over all threads, until the next barrier, which
 * starts again from 0. Use as: while ((i = vd_team_next(team)) < n) ... */
size_t vd_team_next(struct vd_team *team);

/* Static sharing: the part [*begin, *end) of [0, n) of thread, cut at multiples of grain (> 0). Parts may be
 * empty. */
void vd_team_range(const struct vd_team *team, unsigned thread, size_t n, size_t grain, size_t *begin,
                   size_t *end);

#endif
