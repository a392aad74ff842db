/* What goes wrong again and again is said once, and then rarely: a log in which one line repeats hides the
 * others.
 *
 * Zero is the start. Thread rule: guarded by the caller. */
#ifndef VD_SELDOM_H
#define VD_SELDOM_H

#include "vd_clock.h"

#include <stdbool.h>
#include <stdint.h>

enum { VD_SELDOM_MS = 60000 };

struct vd_seldom {
    uint64_t next_ms;
};

/* True at the first call, and then once in VD_SELDOM_MS. */
static inline bool vd_seldom_due(struct vd_seldom *s)
{
    uint64_t now = vd_clock_ms();
    if (now < s->next_ms)
        return false;
    s->next_ms = now + VD_SELDOM_MS;
    return true;
}

#endif
