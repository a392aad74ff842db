/* Whether a small forward pass runs faster on all threads or on one.
 *
 * With few rows the threads meet some 150 times per pass. On a quiet machine that costs little; where other
 * programs want the cores, each meeting waits for the slowest thread to be scheduled, and one thread alone is
 * many times faster. Nobody can know in advance, so both ways are timed: the better one is used, the other is
 * tried now and then. The results are the same bits, so the choice is free.
 *
 * Thread rule: one thread at a time. Plain memory: all zero is a fresh one. */
#ifndef VD_PACE_H
#define VD_PACE_H

#include <stdbool.h>
#include <stddef.h>

enum { VD_PACE_BUCKETS = 8 };

struct vd_pace {
    struct {
        double team_ns, alone_ns; /* moving averages; 0: not tried yet */
        unsigned n_calls;
    } bucket[VD_PACE_BUCKETS]; /* by the magnitude of the number of rows */
};

/* How the next pass over n_rows >= 1 rows should run. */
bool vd_pace_alone(struct vd_pace *p, size_t n_rows);
/* What a pass took. */
void vd_pace_note(struct vd_pace *p, size_t n_rows, bool alone, double ns);

#endif
