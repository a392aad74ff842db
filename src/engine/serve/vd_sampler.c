/* The canonical order (key descending, id ascending) is followed from its start and only as far as the rules
 * ask. Logits are taken in shells, [max - 8 T, ..), then [max - 16 T, max - 8 T) and so on: a shell holds a
 * few hundred entries, every entry of a shell stands before every entry of the next, and inside a shell a
 * binary heap yields them one by one. A flat distribution would make that slow, so after ORDER_MAX entries
 * num's own selection does it. */
#include "vd_sampler.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

enum { ORDER_MAX = 4096 };

/* How wide the first shell is, in units of the temperature; each further one doubles the distance to the
 * maximum. */
#define SHELL_TEMPS 8.0f

struct vd_sampler {
    uint32_t n;
    uint64_t *w;    /* n weights */
    uint64_t *heap; /* n entries: ~key in the high half, id in the low half; the smallest first */
    uint32_t n_heap;
    uint32_t order[ORDER_MAX]; /* ids, in the canonical order */
    uint32_t n_order;
    /* of the running call */
    const float *x;
    float max, temp, low; /* logits below `low` are not taken yet */
};

struct vd_sampler *vd_sampler_new(uint32_t n)
{
    assert(n >= 1 && n <= VD_SAMPLE_MAX_N);
    struct vd_sampler *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->n = n;
    s->w = calloc(n, sizeof *s->w);
    s->heap = calloc(n, sizeof *s->heap);
    if (!s->w || !s->heap) {
        vd_sampler_free(s);
        return NULL;
    }
    return s;
}

void vd_sampler_free(struct vd_sampler *s)
{
    if (!s)
        return;
    free(s->w);
    free(s->heap);
    free(s);
}

/* ------------------------- following the order ------------------------- */

static void sift_down(uint64_t *heap, uint32_t n, uint32_t i)
{
    uint64_t v = heap[i];
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= n)
            break;
        if (child + 1 < n && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= v)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = v;
}

/* Makes a heap of the logits in [from, s->low). */
static void take_shell(struct vd_sampler *s, float from)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        float x = s->x[i];
        if (x >= from && x < s->low)
            s->heap[n++] = (uint64_t)~vd_num_sample_key(x) << 32 | i;
    }
    s->n_heap = n;
    for (uint32_t i = n / 2; i-- > 0;)
        sift_down(s->heap, n, i);
    s->low = from;
}

static void order_begin(struct vd_sampler *s)
{
    s->n_order = s->n_heap = 0;
    s->low = INFINITY;
}

/* Appends the next entry to the order; false when the order is full or all logits are in it. */
static bool order_next(struct vd_sampler *s)
{
    while (s->n_heap == 0) {
        if (s->low == -INFINITY)
            return false;
        float width = s->low == INFINITY ? SHELL_TEMPS * s->temp : 2.0f * (s->max - s->low);
        float from = s->max - width;
        take_shell(s, from < s->low ? from
                                    : -INFINITY); /* no progress: the width is below an ulp, or overflowed */
    }
    if (s->n_order == ORDER_MAX)
        return false;
    s->order[s->n_order++] = (uint32_t)s->heap[0];
    s->heap[0] = s->heap[--s->n_heap];
    if (s->n_heap > 0)
        sift_down(s->heap, s->n_heap, 0);
    return true;
}

/* ------------------------- the rules ------------------------- */

/* The order begins with the first k entries. */
static bool order_count(struct vd_sampler *s, uint32_t k)
{
    while (s->n_order < k)
        if (!order_next(s))
            return false;
    return true;
}

/* Cuts the order (or, if it may grow, follows it) to the entries up to the one at which the mass reaches
 * target. */
static bool order_mass(struct vd_sampler *s, uint64_t target, bool grow)
{
    uint64_t mass = 0;
    for (uint32_t i = 0;; i++) {
        if (i == s->n_order && (!grow || !order_next(s)))
            return false;
        mass += s->w[s->order[i]];
        if (mass >= target) {
            s->n_order = i + 1;
            return true;
        }
    }
}

static uint64_t mass_of_all(const struct vd_sampler *s)
{
    uint64_t mass = 0;
    for (uint32_t i = 0; i < s->n; i++)
        mass += s->w[i];
    return mass;
}

static uint64_t mass_of_order(const struct vd_sampler *s)
{
    uint64_t mass = 0;
    for (uint32_t i = 0; i < s->n_order; i++)
        mass += s->w[s->order[i]];
    return mass;
}

/* The smallest weight that min-p lets pass: w * 10^6 >= min_p * 2^40. */
static uint64_t least_weight(const struct vd_sampling *p)
{
    uint64_t min_p = p->min_p_micro < VD_SAMPLE_MICRO ? p->min_p_micro : VD_SAMPLE_MICRO;
    return (min_p * VD_SAMPLE_W_ONE + VD_SAMPLE_MICRO - 1) / VD_SAMPLE_MICRO;
}

/* The draw when top-k and top-p are off: over all logits. Every term is a compare and a sum, so a compiler
 * makes vectors of the first loop. */
static uint32_t draw_all(const struct vd_sampler *s, uint64_t least, uint64_t r64)
{
    uint64_t mass = 0, sum = 0;
    for (uint32_t i = 0; i < s->n; i++)
        mass += s->w[i] >= least ? s->w[i] : 0;
    uint64_t r = vd_num_mulhi64(r64, mass);
    for (uint32_t i = 0; i < s->n; i++) {
        sum += s->w[i] >= least ? s->w[i] : 0;
        if (sum > r)
            return i;
    }
    assert(!"r is below the mass");
    return VD_SAMPLE_FAIL;
}

static int by_id(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The draw over the entries of the order, which loses its order. */
static uint32_t draw_order(struct vd_sampler *s, uint64_t least, uint64_t r64)
{
    uint64_t mass = 0, sum = 0;
    qsort(s->order, s->n_order, sizeof s->order[0], by_id);
    for (uint32_t i = 0; i < s->n_order; i++)
        mass += s->w[s->order[i]] >= least ? s->w[s->order[i]] : 0;
    uint64_t r = vd_num_mulhi64(r64, mass);
    for (uint32_t i = 0; i < s->n_order; i++) {
        sum += s->w[s->order[i]] >= least ? s->w[s->order[i]] : 0;
        if (sum > r)
            return s->order[i];
    }
    assert(!"r is below the mass");
    return VD_SAMPLE_FAIL;
}

/* Fills the order with the survivors of top-k and top-p, at least one of which is on. False: it is too long.
 */
static bool survivors(struct vd_sampler *s, bool top_k, const struct vd_sampling *p)
{
    order_begin(s);
    if (top_k && !order_count(s, p->top_k))
        return false;
    if (p->top_p_micro >= VD_SAMPLE_MICRO)
        return true;
    uint64_t mass = top_k ? mass_of_order(s) : mass_of_all(s);
    return order_mass(s, vd_num_sample_top_p_target(mass, p->top_p_micro), !top_k);
}

uint32_t vd_sampler_choose(struct vd_sampler *s, const struct vd_kern *kern, const float *x,
                           const struct vd_sampling *p, uint64_t r64)
{
    struct vd_sample_max max;
    kern->sample_max(x, 0, s->n, &max);
    if (max.bad)
        return VD_SAMPLE_FAIL;
    if (p->temp_micro == 0)
        return max.id;
    s->x = x;
    s->max = max.x;
    s->temp = vd_num_sample_temp(p->temp_micro);
    if (!isfinite(s->max / s->temp))
        return VD_SAMPLE_FAIL;
    kern->sample_weights(x, s->n, s->temp, s->max, s->w);
    bool top_k = p->top_k != 0 && p->top_k < s->n;
    if (!top_k && p->top_p_micro >= VD_SAMPLE_MICRO)
        return draw_all(s, least_weight(p), r64);
    if (!survivors(s, top_k, p))
        return vd_num_sample(x, s->n, p, r64, s->w);
    return draw_order(s, least_weight(p), r64);
}
