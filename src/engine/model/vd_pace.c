/* Moving averages with outliers cut, so that one pass that was interrupted does not turn the choice over, but
 * a few in a row do. The way that is not in use is tried every PROBE calls (rarely if it was far worse),
 * which costs below 1 %, and its average follows faster since it has fewer samples. */
#include "vd_pace.h"

enum {
    WARM = 3, /* first calls are slow: caches and page tables are cold */
    PROBE = 64,
    PROBE_FAR = 256,
};

static size_t bucket_of(size_t n_rows)
{
    size_t b = 0;
    while (n_rows >>= 1)
        b++;
    return b < VD_PACE_BUCKETS ? b : VD_PACE_BUCKETS - 1;
}

bool vd_pace_alone(struct vd_pace *p, size_t n_rows)
{
    size_t b = bucket_of(n_rows);
    double team = p->bucket[b].team_ns, alone = p->bucket[b].alone_ns;
    unsigned n = p->bucket[b].n_calls++;
    if (n < WARM)
        return false;
    if (alone == 0.0)
        return true;
    bool best = alone < team;
    bool far = best ? team > 2.0 * alone : alone > 2.0 * team;
    return n % (far ? PROBE_FAR : PROBE) == 0 ? !best : best;
}

void vd_pace_note(struct vd_pace *p, size_t n_rows, bool alone, double ns)
{
    size_t b = bucket_of(n_rows);
    double *mine = alone ? &p->bucket[b].alone_ns : &p->bucket[b].team_ns;
    double other = alone ? p->bucket[b].team_ns : p->bucket[b].alone_ns;
    double weight = *mine > other ? 0.5 : 0.25;
    if (p->bucket[b].n_calls <= WARM || *mine == 0.0)
        *mine = ns;
    else
        *mine += weight * ((ns < 2.0 * *mine ? ns : 2.0 * *mine) - *mine);
}
