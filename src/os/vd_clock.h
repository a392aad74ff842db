/* Clocks and sleeping. Monotonic time for durations and time-outs, wall time for people and for signed dates.
 *
 * Thread rule: any thread. Not for the trunk, the referee or the ledger. */
#ifndef VD_CLOCK_H
#define VD_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t vd_clock_of_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Nanoseconds and milliseconds since some fixed moment; never goes back. */
static inline uint64_t vd_clock_ns(void)
{
    return vd_clock_of_ns(CLOCK_MONOTONIC);
}
static inline uint64_t vd_clock_ms(void)
{
    return vd_clock_ns() / 1000000u;
}

/* Since 1970-01-01 UTC; may jump. */
static inline uint64_t vd_clock_wall_ms(void)
{
    return vd_clock_of_ns(CLOCK_REALTIME) / 1000000u;
}
static inline uint64_t vd_clock_wall_s(void)
{
    return vd_clock_wall_ms() / 1000u;
}

/* The absolute CLOCK_MONOTONIC time `ms` from now, for pthread_cond_clockwait and condition variables made
 * with that clock. */
static inline struct timespec vd_clock_after_ms(uint64_t ms)
{
    uint64_t at = vd_clock_ns() + ms * 1000000u;
    return (struct timespec){(time_t)(at / 1000000000u), (long)(at % 1000000000u)};
}

/* Sleeps at least `ms`; signals do not shorten it. */
static inline void vd_clock_sleep_ms(uint64_t ms)
{
    struct timespec at = vd_clock_after_ms(ms);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) != 0)
        ;
}

#endif
