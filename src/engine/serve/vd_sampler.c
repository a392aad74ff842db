/* The canonical order (key descending, id ascending) is followed from its start and only as far as the rules
 * ask. Logits are taken in shells, [max - 8 T, ..), then [max - 16 T, max - 8 T) and so on: a shell holds a
 * few hundred entries, every entry of a shell stands before every entry of the next, and inside a shell a
 * binary heap yields them one by one. With top-k the first shell is made to measure: the k-th of the largest
 * logits of the groups is a bound that k entries reach, and few others do. Groups whose largest logit is
 * below a shell are not looked at.
 *
 * A flat distribution would make that slow: when a shell has more than SHELL_MAX entries, or ORDER_MAX do not
 * suffice, the cut is guessed from a sample (the largest logit of each group, and a few others, each of
 * which stands for many) as an interval of logits that very likely holds it. One pass adds up what lies above
 * the interval and lists what lies in it, exactly; where the cut was not in it after all, another pass takes
 * a longer one on the side where it is. The list is a twentieth of the logits; in the same way a sample of it
 * and a pass over it make a much shorter one, in which the cut's key is found digit by digit, as num does.
 *
 * Weights cost a division and an exp each, and are not kept: the pass adds them up by blocks, which is also
 * what the draw needs, and a few are made again.
 *
 * Penalties and biases touch few logits, but the logits are the forward pass's: they are copied. A mask makes
 * a short vector of the allowed logits, whose order of ids is the vocabulary's, so that nothing after it
 * knows of masks. Where it allows most, the others become a very small number in a copy instead: next to
 * any maximum that occurs its weight is zero, so that it cannot be drawn, and whether it is inside a cut
 * changes no mass. */
#include "vd_sampler.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    ORDER_MAX = 512,
    ORDER_STEP = 8, /* entries that are weighed together */
    SHELL_MAX = 4096,
    GROUPS_MAX = 2048,
    GROUP_MIN = VD_KERN_GROUP,
    DIGIT_BITS = 10,
    RUN = 4, /* neighbours in the sample */
    RUNS_MAX = 512,
    SAMPLE_MAX = GROUPS_MAX + RUN * RUNS_MAX,
    FEW = SAMPLE_MAX / 4, /* entries of the sample, in the interval, with which it is narrow enough */
    LIST_SAMPLE = 512,    /* entries of a list that are in its sample */
    SAMPLED_MIN = 1024,   /* of fewer logits no sample is taken */
    GUESS_BINS = 256,
    UNREAD_BINS = 16
};

/* How wide the first shell is, in units of the temperature; each further one doubles the distance to the
 * maximum. */
#define SHELL_TEMPS 8.0f
/* So far below the maximum weights are 0. */
#define WEIGHT_TEMPS 28.0f

struct entry {
    uint32_t id;
    uint64_t w;
};

/* What stands for an excluded logit: next to a maximum that is not below LEAST_MAX it has no weight at any
 * temperature, and divided by one it is finite. */
#define EXCLUDED  -1e32f
#define LEAST_MAX -1e30f

struct vd_sampler {
    uint32_t n_all;               /* the vocabulary */
    float *adjusted, *masked;     /* n_all each: logits after penalties and bias; those that a mask allows */
    uint64_t *allowed;            /* n_all bits: what the mask allows */
    struct vd_penalty_seen *seen; /* n_all, all zero between calls */

    uint32_t n;       /* entries of the running call, at most n_all */
    uint64_t *heap;   /* ~key in the high half, id in the low half; the smallest first; SHELL_MAX */
    float *group_max; /* GROUPS_MAX: the largest logit of each group of neighbours */
    uint32_t group, n_groups;
    uint32_t n_heap;
    struct entry order[ORDER_MAX]; /* in the canonical order */
    uint32_t n_order;
    /* of the running call */
    const struct vd_kern *kern;
    const float *x;
    float max, temp, low; /* logits below `low` are not taken yet */

    /* The last pass over all, and the last one over its list. */
    struct vd_kern_mass pass, near; /* mid has room for n_all */
    uint64_t *w;                    /* n_all: weights of a list */
    uint64_t bin[1 << DIGIT_BITS];
    /* the sample */
    uint32_t n_sample;
    float sample_x[SAMPLE_MAX], sample_w[SAMPLE_MAX], sample_square[SAMPLE_MAX];
};

static size_t n_blocks(size_t n)
{
    return (n + VD_KERN_MASS_BLOCK - 1) / VD_KERN_MASS_BLOCK;
}

static bool list_make(struct vd_kern_mass *m, size_t n)
{
    m->block = malloc(n_blocks(n) * sizeof *m->block);
    m->start = malloc(n_blocks(n) * sizeof *m->start);
    m->mid = malloc(n * sizeof *m->mid);
    return m->block && m->start && m->mid;
}

static void list_free(struct vd_kern_mass *m)
{
    free(m->block);
    free(m->start);
    free(m->mid);
}

struct vd_sampler *vd_sampler_new(uint32_t n)
{
    assert(n >= 1 && n <= VD_SAMPLE_MAX_N);
    struct vd_sampler *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->n_all = n;
    s->adjusted = malloc(n * sizeof *s->adjusted);
    s->masked = malloc(n * sizeof *s->masked);
    s->allowed = malloc(((size_t)n + 63) / 64 * sizeof *s->allowed);
    s->seen = calloc(n, sizeof *s->seen);
    s->heap = malloc(SHELL_MAX * sizeof *s->heap);
    s->group_max = malloc(GROUPS_MAX * sizeof *s->group_max);
    s->w = malloc(n * sizeof *s->w);
    bool made = list_make(&s->pass, n), made_too = list_make(&s->near, n);
    if (!s->adjusted || !s->masked || !s->allowed || !s->seen || !s->heap || !s->group_max || !s->w ||
        !made || !made_too) {
        vd_sampler_free(s);
        return NULL;
    }
    return s;
}

size_t vd_sampler_bytes(uint32_t n)
{
    const struct vd_sampler *s = NULL;
    size_t each =
        sizeof *s->adjusted + sizeof *s->masked + sizeof *s->seen + 2 * sizeof *s->pass.mid + sizeof *s->w;
    return sizeof *s + n * each + ((size_t)n + 63) / 64 * sizeof *s->allowed +
           2 * n_blocks(n) * (sizeof *s->pass.block + sizeof *s->pass.start) + SHELL_MAX * sizeof *s->heap +
           GROUPS_MAX * sizeof *s->group_max;
}

void vd_sampler_free(struct vd_sampler *s)
{
    if (!s)
        return;
    free(s->adjusted);
    free(s->masked);
    free(s->allowed);
    free(s->seen);
    free(s->heap);
    free(s->group_max);
    list_free(&s->pass);
    list_free(&s->near);
    free(s->w);
    free(s);
}

/* vd_num_sample_key, in line. */
static inline uint32_t key_of(float x)
{
    uint32_t u = vd_f32_bits(x + 0.0f);
    return u ^ ((0u - (u >> 31)) | 0x80000000);
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

static void heap_make(struct vd_sampler *s)
{
    for (uint32_t i = s->n_heap / 2; i-- > 0;)
        sift_down(s->heap, s->n_heap, i);
}

static uint64_t heap_entry(float x, uint32_t i)
{
    return (uint64_t)~key_of(x) << 32 | i;
}

static uint32_t heap_take(struct vd_sampler *s)
{
    uint32_t id = (uint32_t)s->heap[0];
    s->heap[0] = s->heap[--s->n_heap];
    if (s->n_heap > 0)
        sift_down(s->heap, s->n_heap, 0);
    return id;
}

/* The largest of each group; false if a logit is not finite. */
static bool find_groups(struct vd_sampler *s, const struct vd_kern *kern, const float *x)
{
    s->group = GROUP_MIN;
    while ((s->n - 1) / s->group >= GROUPS_MAX)
        s->group *= 2;
    s->n_groups = (s->n - 1) / s->group + 1;
    return kern->sample_groups(x, s->n, s->group, s->group_max);
}

/* A logit that at least k entries reach, 1 <= k <= n_groups: the k-th of the largest of the groups. */
static float bound_of_first(struct vd_sampler *s, uint32_t k)
{
    uint32_t g = 0;
    s->n_heap = s->n_groups;
    for (uint32_t i = 0; i < s->n_groups; i++)
        s->heap[i] = heap_entry(s->group_max[i], i);
    heap_make(s);
    while (k-- > 0)
        g = heap_take(s);
    s->n_heap = 0;
    return s->group_max[g];
}

/* Makes a heap of the logits in [from, s->low); false if they are too many. */
static bool take_shell(struct vd_sampler *s, float from)
{
    uint32_t n = 0;
    for (uint32_t g = 0; g < s->n_groups; g++) {
        uint32_t first = g * s->group, end = s->n - first < s->group ? s->n : first + s->group;
        for (uint32_t i = first; s->group_max[g] >= from && i < end; i++) {
            float x = s->x[i];
            if (!(x >= from && x < s->low))
                continue;
            if (n == SHELL_MAX)
                return false;
            s->heap[n++] = heap_entry(x, i);
        }
    }
    s->n_heap = n;
    heap_make(s);
    s->low = from;
    return true;
}

/* Whether the first shell reaches into so many groups that neither it nor the order will hold it. */
static bool looks_flat(const struct vd_sampler *s)
{
    float from = s->max - SHELL_TEMPS * s->temp;
    uint32_t n = 0;
    for (uint32_t g = 0; g < s->n_groups; g++)
        n += s->group_max[g] >= from;
    return n > ORDER_MAX;
}

static void order_begin(struct vd_sampler *s)
{
    s->n_order = s->n_heap = 0;
    s->low = INFINITY;
}

/* Appends the next entry to the order; false when that takes too long, or all logits are in it. */
static bool order_next(struct vd_sampler *s)
{
    while (s->n_heap == 0) {
        if (s->low == -INFINITY)
            return false;
        float width = s->low == INFINITY ? SHELL_TEMPS * s->temp : 2.0f * (s->max - s->low);
        float from = s->max - width;
        if (!take_shell(s, from < s->low ? from : -INFINITY)) /* no progress: below an ulp, or overflowed */
            return false;
    }
    if (s->n_order == ORDER_MAX)
        return false;
    s->order[s->n_order++].id = heap_take(s);
    return true;
}

/* ------------------------- the rules ------------------------- */

/* Makes the weights of the entries of the order from number `from` on. */
static void weigh_order(struct vd_sampler *s, uint32_t from)
{
    float x[ORDER_MAX];
    uint64_t w[ORDER_MAX];
    for (uint32_t i = from; i < s->n_order; i++)
        x[i] = s->x[s->order[i].id];
    s->kern->sample_weights(x + from, s->n_order - from, s->temp, s->max, w + from);
    for (uint32_t i = from; i < s->n_order; i++)
        s->order[i].w = w[i];
}

/* The order becomes the first k entries, with their weights. */
static bool order_count(struct vd_sampler *s, uint32_t k)
{
    if (k > ORDER_MAX || (k <= s->n_groups && !take_shell(s, bound_of_first(s, k))))
        return false;
    while (s->n_order < k)
        if (!order_next(s))
            return false;
    weigh_order(s, 0);
    return true;
}

/* Appends some entries with their weights; false: not one. */
static bool order_grow(struct vd_sampler *s)
{
    uint32_t had = s->n_order;
    while (s->n_order < had + ORDER_STEP && order_next(s))
        ;
    weigh_order(s, had);
    return s->n_order > had;
}

/* Cuts the order (or, if it may grow, follows it) to the entries up to the one at which the mass reaches
 * target. */
static bool order_mass(struct vd_sampler *s, uint64_t target, bool grow)
{
    uint64_t mass = 0;
    for (uint32_t i = 0;; i++) {
        if (i == s->n_order && (!grow || !order_grow(s)))
            return false;
        mass += s->order[i].w;
        if (mass >= target) {
            s->n_order = i + 1;
            return true;
        }
    }
}

static uint64_t mass_of_order(const struct vd_sampler *s)
{
    uint64_t mass = 0;
    for (uint32_t i = 0; i < s->n_order; i++)
        mass += s->order[i].w;
    return mass;
}

/* The smallest weight that min-p lets pass: w * 10^6 >= min_p * 2^40. */
static uint64_t least_weight(const struct vd_sampling *p)
{
    uint64_t min_p = p->min_p_micro < VD_SAMPLE_MICRO ? p->min_p_micro : VD_SAMPLE_MICRO;
    return (min_p * VD_SAMPLE_W_ONE + VD_SAMPLE_MICRO - 1) / VD_SAMPLE_MICRO;
}

static int by_id(const void *a, const void *b)
{
    uint32_t x = ((const struct entry *)a)->id, y = ((const struct entry *)b)->id;
    return (x > y) - (x < y);
}

/* The draw over the entries of the order, which loses its order. */
static uint32_t draw_order(struct vd_sampler *s, uint64_t least, uint64_t r64)
{
    uint64_t mass = 0, sum = 0;
    qsort(s->order, s->n_order, sizeof s->order[0], by_id);
    for (uint32_t i = 0; i < s->n_order; i++)
        mass += s->order[i].w >= least ? s->order[i].w : 0;
    uint64_t r = vd_num_mulhi64(r64, mass);
    for (uint32_t i = 0; i < s->n_order; i++) {
        sum += s->order[i].w >= least ? s->order[i].w : 0;
        if (sum > r)
            return s->order[i].id;
    }
    assert(!"r is below the mass");
    return VD_SAMPLE_FAIL;
}

/* ------------------------- by passes over all ------------------------- */

static float of_key(uint32_t key)
{
    return vd_f32_from_bits(key & 0x80000000 ? key & 0x7FFFFFFF : ~key);
}

/* Adds up all weights of n logits, those from `high` on also by blocks (of these the ones from `least` on),
 * and lists the logits in [low, high). */
static void run_pass(const struct vd_sampler *s, const float *x, size_t n, float low, float high,
                     uint64_t least, struct vd_kern_mass *m)
{
    assert(low <= high);
    m->temp = s->temp;
    m->x_max = s->max;
    m->low = low;
    m->high = high;
    m->least = least;
    s->kern->sample_mass(x, n, m);
}

static uint64_t mass_of_blocks(const struct vd_kern_mass *m, size_t n)
{
    uint64_t mass = 0;
    for (size_t b = 0; b < n_blocks(n); b++)
        mass += m->block[b];
    return mass;
}

/* Of the logits x that m is about, the number of the one that is entry k of its list. */
static uint32_t nth_listed(const float *x, size_t n, const struct vd_kern_mass *m, size_t k)
{
    size_t b = 0, end = n_blocks(n);
    while (end - b > 1) {
        size_t half = b + (end - b) / 2;
        *(m->start[half] <= k ? &b : &end) = half;
    }
    k -= m->start[b];
    for (size_t i = b * VD_KERN_MASS_BLOCK;; i++) {
        assert(i < n && "there are as many");
        if (x[i] >= m->low && x[i] < m->high && k-- == 0)
            return (uint32_t)i;
    }
}

/* How many entries of the last pass's list have a number up to id. */
static size_t listed_up_to(const struct vd_sampler *s, uint32_t id)
{
    const struct vd_kern_mass *m = &s->pass;
    if (id >= s->n || m->n_mid == 0)
        return m->n_mid;
    size_t i = id / VD_KERN_MASS_BLOCK, k = m->start[i];
    for (i *= VD_KERN_MASS_BLOCK; i <= id; i++)
        k += s->x[i] >= m->low && s->x[i] < m->high;
    return k;
}

/* Makes s->near a pass over the last pass's list that lists what has this key. */
static void pass_about(struct vd_sampler *s, uint32_t key, uint64_t least)
{
    run_pass(s, s->pass.mid, s->pass.n_mid, of_key(key), of_key(key + 1), least, &s->near);
}

/* Adds to the blocks of such a pass, made after the cut was found or here, what is inside `cut` and has its
 * key. All of that weighs the same; what weighs less than `least` does not count. */
static void sum_list(struct vd_sampler *s, struct vd_sample_cut cut, uint64_t least)
{
    const struct vd_kern_mass *list = &s->pass;
    struct vd_kern_mass *m = &s->near;
    if (list->n_mid == 0)
        return;
    size_t n_ties = listed_up_to(s, cut.id);
    float tie = of_key(cut.key);
    uint64_t w = 0;
    if (least > 0)
        pass_about(s, cut.key, least);
    s->kern->sample_weights(&tie, 1, s->temp, s->max, &w);
    for (size_t b = 0; w >= least && b * VD_KERN_MASS_BLOCK < n_ties; b++) {
        size_t i = b * VD_KERN_MASS_BLOCK, n = 0;
        bool last = n_ties - i <= VD_KERN_MASS_BLOCK;
        for (; last && i < n_ties; i++)
            n += list->mid[i] == tie;
        if (!last)
            n = m->start[b + 1] - m->start[b];
        m->block[b] += w * n;
    }
}

/* Turns the sums of n blocks into sums of the blocks before each; returns that of all. */
static uint64_t add_up(uint64_t *block, size_t n)
{
    uint64_t sum = 0;
    for (size_t b = 0; b < n; b++) {
        uint64_t w = block[b];
        block[b] = sum;
        sum += w;
    }
    return sum;
}

/* The draw over all that the last pass had from `high` on, and of its list what is inside `cut`; both as far
 * as they weigh `least`. */
struct draw {
    struct vd_sample_cut cut;
    size_t n_ties; /* the list's entries of numbers up to the cut's */
    uint64_t least;
};

/* What weighs before block b; sums are added up. */
static uint64_t mass_before(const struct vd_sampler *s, const struct draw *d, size_t b)
{
    const struct vd_kern_mass *list = &s->pass;
    uint64_t w[VD_KERN_MASS_BLOCK], sum = list->block[b];
    size_t end = list->start[b], i = end / VD_KERN_MASS_BLOCK * VD_KERN_MASS_BLOCK, first = i;
    float last = of_key(d->cut.key);
    if (list->n_mid == 0)
        return sum;
    if (first < list->n_mid)
        sum += s->near.block[first / VD_KERN_MASS_BLOCK];
    s->kern->sample_weights(list->mid + first, end - first, s->temp, s->max, w);
    for (; i < end; i++) {
        bool in = (list->mid[i] > last) | ((list->mid[i] == last) & (i < d->n_ties));
        sum += w[i - first] & (0 - (uint64_t)(in & (w[i - first] >= d->least)));
    }
    return sum;
}

static uint32_t draw_from(struct vd_sampler *s, struct vd_sample_cut cut, uint64_t least, uint64_t r64)
{
    struct draw d = {cut, listed_up_to(s, cut.id), least};
    uint64_t w[VD_KERN_MASS_BLOCK];
    size_t b = 0, end = n_blocks(s->n);
    sum_list(s, cut, least);
    uint64_t mass = add_up(s->pass.block, end) + add_up(s->near.block, n_blocks(s->pass.n_mid));
    uint64_t r = vd_num_mulhi64(r64, mass);
    while (end - b > 1) {
        size_t half = b + (end - b) / 2;
        *(mass_before(s, &d, half) <= r ? &b : &end) = half;
    }
    uint64_t sum = mass_before(s, &d, b);
    uint32_t i = (uint32_t)b * VD_KERN_MASS_BLOCK, left = s->n - i;
    s->kern->sample_weights(s->x + i, left < VD_KERN_MASS_BLOCK ? left : VD_KERN_MASS_BLOCK, s->temp, s->max,
                            w);
    for (uint32_t k = 0;; k++) {
        assert(k < left && k < VD_KERN_MASS_BLOCK && "r is below the mass");
        if (vd_num_sample_in(key_of(s->x[i + k]), i + k, cut) && w[k] >= least && (sum += w[k]) > r)
            return i + k;
    }
}

/* ------------------------- where the cut may lie ------------------------- */

/* The sample's first n_exact entries stand for themselves, each of the others for `scale`. By mass they get
 * their weights, by count 1; times what they stand for. */
static void weigh_sample(struct vd_sampler *s, bool by_mass, uint32_t n_exact, float scale)
{
    float per_temp = 1 / s->temp, *w = s->sample_w;
    for (uint32_t i = 0; i < s->n_sample; i++)
        w[i] = by_mass ? (s->sample_x[i] - s->max) * per_temp : 0;
    s->kern->exp(w, s->n_sample, w);
    memset(s->sample_square, 0, n_exact * sizeof *s->sample_square);
    for (uint32_t i = n_exact; i < s->n_sample; i++) {
        w[i] *= scale;
        s->sample_square[i] = w[i] * w[i];
    }
}

/* The largest of each group, and runs of RUN neighbours from at most RUNS_MAX groups, of which each stands
 * for many entries. */
static void take_sample(struct vd_sampler *s, bool by_mass)
{
    uint32_t n = s->n_groups, stride = (s->n_groups - 1) / RUNS_MAX + 1;
    memcpy(s->sample_x, s->group_max, n * sizeof *s->sample_x);
    for (uint32_t g = 0; g < s->n_groups; g += stride) {
        uint32_t at = g * s->group + g * 5 % (s->group / RUN) * RUN;
        for (uint32_t i = at; i < at + RUN && i < s->n; i++) {
            s->sample_x[n] = s->x[i];
            n += s->x[i] != s->group_max[g];
        }
    }
    s->n_sample = n;
    weigh_sample(s, by_mass, s->n_groups,
                 n > s->n_groups ? (float)(s->n - s->n_groups) / (float)(n - s->n_groups) : 0);
}

/* Entries of a list, at equal distances. */
static void take_sample_of_list(struct vd_sampler *s, const float *x, size_t n, bool by_mass)
{
    size_t stride = (n - 1) / LIST_SAMPLE + 1;
    s->n_sample = 0;
    for (size_t i = 0; i < n; i += stride)
        s->sample_x[s->n_sample++] = x[i];
    weigh_sample(s, by_mass, 0, (float)n / (float)s->n_sample);
}

/* What is guessed: at which distance from `from` the mass (or count) of what stands between reaches `need`,
 * which is exact, or the share q of the estimated mass of all. A square is that of an entry which stands for
 * others. Only the part of the sample that is not farther than `span` is looked at. */
struct guess {
    double need, q, all_squares;
    float from, span;
    bool up;                   /* the distance is from `from` upwards */
    bool end;                  /* the part reaches to the end of the sample */
    double near, near_squares; /* of what lay between and is not looked at any more */
    float best;                /* the distance most likely */
    struct {
        float mass, squares;
    } bin[GUESS_BINS + UNREAD_BINS];
};

/* Bins of equal width. What is not looked at leaves the sample, by way of bins that nobody reads: that costs
 * less than branches, which nothing could foresee. */
static void fill_bins(struct vd_sampler *s, struct guess *g)
{
    const float per_unit = GUESS_BINS / g->span, span = g->span, from = g->from, sign = g->up ? -1 : 1;
    uint32_t kept = 0, n = s->n_sample;
    memset(g->bin, 0, sizeof g->bin);
    for (uint32_t i = 0; i < n; i++) {
        float x = s->sample_x[i], w = s->sample_w[i], square = s->sample_square[i];
        float distance = (from - x) * sign;
        bool in = (distance >= 0) & (distance <= span);
        float at = in ? distance * per_unit : 0;
        uint32_t b = (uint32_t)(int32_t)at;
        b = b < GUESS_BINS ? b : GUESS_BINS - 1;
        b = in ? b : GUESS_BINS + i % UNREAD_BINS;
        g->bin[b].mass += w;
        g->bin[b].squares += square;
        s->sample_x[kept] = x;
        s->sample_w[kept] = w;
        s->sample_square[kept] = square;
        kept += in;
    }
    s->n_sample = kept;
}

/* The part that is looked at becomes the bins in which, give or take some standard deviations, what is needed
 * is reached. */
static void narrow(struct guess *g, double deviations)
{
    double mass = g->near, squares = g->near_squares, known = (1 - g->q) * (1 - g->q), left = g->q * g->q;
    float width = g->span / GUESS_BINS, first = -1, last = g->span;
    g->best = g->span;
    for (uint32_t b = 0; b < GUESS_BINS; b++) {
        double miss = g->need - mass - (double)g->bin[b].mass, sum = squares + (double)g->bin[b].squares;
        bool far = miss * miss > deviations * deviations * (known * sum + left * (g->all_squares - sum));
        if (first < 0 && (miss <= 0 || !far)) {
            first = (float)b * width;
            g->near = mass;
            g->near_squares = squares;
        }
        if (miss <= 0 && (float)b * width < g->best)
            g->best = (float)(b + 1) * width;
        if (miss <= 0 && far) {
            last = (float)(b + 1) * width;
            g->end &= b + 1 == GUESS_BINS;
            break;
        }
        mass += (double)g->bin[b].mass;
        squares = sum;
    }
    first = first < 0 ? 0 : first;
    g->from = g->up ? g->from + first : g->from - first;
    g->span = last - first;
    g->best -= first;
}

/* Of n > 0 values; four at a time, which do not wait for each other. */
static float least_of(const float *v, uint32_t n)
{
    float least[4] = {v[0], v[0], v[0], v[0]};
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (uint32_t k = 0; k < 4; k++)
            least[k] = v[i + k] < least[k] ? v[i + k] : least[k];
    for (; i < n; i++)
        least[0] = v[i] < least[0] ? v[i] : least[0];
    least[0] = least[1] < least[0] ? least[1] : least[0];
    least[2] = least[3] < least[2] ? least[3] : least[2];
    return least[2] < least[0] ? least[2] : least[0];
}

static double sum_of(const float *v, uint32_t n)
{
    float sum[4] = {0};
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (uint32_t k = 0; k < 4; k++)
            sum[k] += v[i + k];
    for (; i < n; i++)
        sum[0] += v[i];
    return (double)sum[0] + (double)sum[1] + (double)sum[2] + (double)sum[3];
}

/* Bins of a subnormal width would be no parts of the span. */
static void guess(struct vd_sampler *s, struct guess *g)
{
    enum { FINE = 1024, DEVIATIONS = 3 };
    const unsigned rounds = s->n_sample > FINE ? 2 : 1;
    g->best = g->span;
    for (unsigned round = 0; round < rounds && g->span >= GUESS_BINS * FLT_MIN; round++) {
        fill_bins(s, g);
        narrow(g, DEVIATIONS);
    }
}

static float at_distance(const struct guess *g, float distance)
{
    return g->up ? g->from + distance : g->from - distance;
}

/* Where below `from` the target is reached, or, if that is 0, the share p_micro of the mass of all. */
static void guess_first(struct vd_sampler *s, struct guess *g, float from, bool by_mass, uint64_t target,
                        uint32_t p_micro)
{
    *g = (struct guess){.from = from, .end = true, .span = from - least_of(s->sample_x, s->n_sample)};
    if (!isfinite(g->span)) /* nothing will be guessed */
        g->span = 0;
    if (by_mass && g->span > WEIGHT_TEMPS * s->temp)
        g->span = WEIGHT_TEMPS * s->temp;
    if (target == 0) {
        g->q = (double)p_micro / VD_SAMPLE_MICRO;
        g->need = g->q * sum_of(s->sample_w, s->n_sample);
        g->all_squares = sum_of(s->sample_square, s->n_sample);
    } else {
        g->need = (double)target / (by_mass ? (double)VD_SAMPLE_W_ONE : 1);
    }
    guess(s, g);
}

/* The same by what is known of `border`: that the target is `more` beyond, or up to -`more` before it. */
static void guess_second(struct vd_sampler *s, struct guess *g, float border, double more)
{
    float end = at_distance(g, g->span);
    g->up = more <= 0;
    g->span = g->up ? g->from - border : border - end;
    g->end &= !g->up;
    g->from = border;
    g->need = g->up ? -more : more;
    g->q = g->near = g->near_squares = 0;
    guess(s, g);
}

/* [*low, *high) becomes what is guessed. */
static void take_guess(const struct vd_sampler *s, const struct guess *g, float *low, float *high)
{
    float end = at_distance(g, g->span), top = *high < s->max ? *high : s->max;
    if (g->up) {
        *low = g->from;
        *high = end < top ? end : *high;
    } else {
        *low = g->end || !(end > *low) ? *low : end;
        *high = g->from < top ? g->from : *high;
    }
}

/* ------------------------- where it lies ------------------------- */

/* The bin, from the last down, in which *target is reached, which becomes what is needed of that bin. */
static uint32_t pick_bin(const uint64_t *bin, uint32_t n_bins, uint64_t *target)
{
    uint32_t b = n_bins - 1;
    for (; bin[b] < *target; b--) {
        assert(b > 0 && "the target is at most the mass");
        *target -= bin[b];
    }
    return b;
}

/* The key at which the shorter list's count or mass reaches target, and how many of the entries with that key
 * it takes; s->w has the list's weights. Num's selection with wider digits. */
static uint32_t cut_near(struct vd_sampler *s, bool by_mass, uint64_t target, size_t *rank)
{
    const struct vd_kern_mass *m = &s->near;
    uint32_t key = key_of(m->low), span = key_of(m->high) - 1 - key;
    unsigned n_bits = span ? 32 - (unsigned)__builtin_clz(span) : 0;
    while (n_bits > 0) {
        unsigned shift = n_bits > DIGIT_BITS ? n_bits - DIGIT_BITS : 0;
        uint32_t n_bins = UINT32_C(1) << (n_bits - shift);
        memset(s->bin, 0, n_bins * sizeof *s->bin);
        for (size_t i = 0; i < m->n_mid; i++) {
            uint64_t at = key_of(m->mid[i]) - key, add = by_mass ? s->w[i] : 1;
            s->bin[at >> shift & (n_bins - 1)] += add & (0 - (uint64_t)(at >> n_bits == 0));
        }
        key += pick_bin(s->bin, n_bins, &target) << shift;
        n_bits = shift;
    }
    size_t i = 0;
    while (key_of(m->mid[i]) != key)
        i++;
    uint64_t each = by_mass ? s->w[i] : 1; /* all that have this key weigh the same */
    *rank = target / each + (target % each != 0);
    return key;
}

/* How much, by mass or count, a pass over n logits had from its `high` on. */
static uint64_t had_above(const struct vd_kern_mass *m, size_t n, bool by_mass)
{
    return by_mass ? mass_of_blocks(m, n) : m->n_above;
}

/* How much the shorter list has; by mass its weights become s->w. */
static uint64_t weigh_near(struct vd_sampler *s, bool by_mass)
{
    const struct vd_kern_mass *m = &s->near;
    uint64_t mass = 0;
    if (!by_mass)
        return m->n_mid;
    s->kern->sample_weights(m->mid, m->n_mid, s->temp, s->max, s->w);
    for (size_t i = 0; i < m->n_mid; i++)
        mass += s->w[i];
    return mass;
}

/* Makes the shorter list of the last pass's list short, by what is guessed, as long as that is right and
 * worth while. false: the list does not reach *target, which becomes what is needed of the shorter one. */
static bool shorten(struct vd_sampler *s, bool by_mass, uint64_t *target)
{
    const struct vd_kern_mass *list = &s->pass;
    const float *x = list->mid;
    size_t n = list->n_mid;
    uint64_t left = *target;
    struct guess g;
    float low = list->low, high = list->high, from = low, to = high;
    bool go_on = true;
    for (;;) {
        if (go_on && n >= SAMPLED_MIN) {
            take_sample_of_list(s, x, n, by_mass);
            guess_first(s, &g, high < s->max ? high : s->max, by_mass, left, 0);
            take_guess(s, &g, &from, &to);
        }
        run_pass(s, x, n, from, to, 0, &s->near);
        if (x == list->mid && left > (by_mass ? s->near.all : n))
            return false;
        uint64_t above = had_above(&s->near, n, by_mass);
        if (left > above && left - above <= weigh_near(s, by_mass)) {
            left -= above;
            if (!go_on || s->near.n_mid < SAMPLED_MIN || s->near.n_mid > n / 2)
                break;
            low = from, high = to;
            x = s->near.mid, n = s->near.n_mid;
        } else { /* all of the list on the side where it is */
            *(left > above ? &high : &low) = left > above ? from : to;
            from = low, to = high;
            x = list->mid, n = list->n_mid, left = *target;
            go_on = false;
        }
    }
    *target = left;
    return true;
}

/* Where the list of the last pass reaches the target; false: it does not. s->near becomes a pass over it
 * about the cut. */
static bool cut_list(struct vd_sampler *s, bool by_mass, uint64_t target, struct vd_sample_cut *cut)
{
    const struct vd_kern_mass *list = &s->pass;
    size_t rank;
    if (!shorten(s, by_mass, &target))
        return false;
    cut->key = cut_near(s, by_mass, target, &rank);
    pass_about(s, cut->key, 0);
    cut->id = nth_listed(s->x, s->n, list, nth_listed(list->mid, list->n_mid, &s->near, rank - 1));
    return true;
}

/* An interval of [*low, *high) that very likely holds the cut. Where the first guess would have a long list,
 * a pass without a list says how far its best point is from the cut, which makes a better guess. *target 0:
 * at the share p_micro of the mass of all, which becomes known if there is such a pass. */
static void guess_cut(struct vd_sampler *s, bool by_mass, uint64_t *target, uint32_t p_micro, float *low,
                      float *high)
{
    struct guess g;
    *low = -INFINITY;
    *high = INFINITY;
    if (s->n < SAMPLED_MIN)
        return;
    take_sample(s, by_mass);
    guess_first(s, &g, s->max, by_mass, *target, p_micro);
    float border = at_distance(&g, g.best);
    if (s->n_sample > FEW) {
        run_pass(s, s->x, s->n, border, border, 0, &s->pass);
        if (*target == 0)
            *target = vd_num_sample_top_p_target(s->pass.all, p_micro);
        double more = (double)*target - (double)had_above(&s->pass, s->n, by_mass);
        guess_second(s, &g, border, more / (by_mass ? (double)VD_SAMPLE_W_ONE : 1));
    }
    take_guess(s, &g, low, high);
}

/* Where top-k (by count) or top-p (by mass) cuts off: at the target, or, if that is 0, at the share p_micro
 * of the mass of all. The last pass is one about the cut. */
static struct vd_sample_cut find_cut(struct vd_sampler *s, bool by_mass, uint64_t target, uint32_t p_micro)
{
    struct vd_sample_cut cut;
    float low, high;
    guess_cut(s, by_mass, &target, p_micro, &low, &high);
    for (;;) {
        run_pass(s, s->x, s->n, low, high, 0, &s->pass);
        if (target == 0)
            target = vd_num_sample_top_p_target(s->pass.all, p_micro);
        uint64_t above = had_above(&s->pass, s->n, by_mass);
        float step = 16 * (high - low);
        if (target <= above) {
            low = high;
            high = low + step > low ? low + step : INFINITY;
        } else if (!cut_list(s, by_mass, target - above, &cut)) {
            high = low;
            low = high - step < high ? high - step : -INFINITY;
        } else {
            return cut;
        }
    }
}

static uint32_t choose_wide(struct vd_sampler *s, bool top_k, const struct vd_sampling *p, uint64_t r64)
{
    struct vd_sample_cut cut = VD_SAMPLE_CUT_ALL;
    bool top_p = p->top_p_micro < VD_SAMPLE_MICRO;
    uint64_t least = least_weight(p), target = 0;
    if (top_k)
        cut = find_cut(s, false, p->top_k, 0);
    if (top_k && top_p) {
        sum_list(s, cut, 0);
        uint64_t mass = mass_of_blocks(&s->pass, s->n) + mass_of_blocks(&s->near, s->pass.n_mid);
        target = vd_num_sample_top_p_target(mass, p->top_p_micro);
    }
    if (top_p)
        cut = find_cut(s, true, target, p->top_p_micro);
    if (least > 1 || (!top_k && !top_p))
        run_pass(s, s->x, s->n, cut.key ? of_key(cut.key) : -INFINITY,
                 cut.key ? of_key(cut.key + 1) : -INFINITY, least, &s->pass);
    return draw_from(s, cut, least, r64);
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
    if (!top_k) {
        if (looks_flat(s))
            return false;
        run_pass(s, s->x, s->n, INFINITY, INFINITY, 0, &s->pass);
    }
    uint64_t mass = top_k ? mass_of_order(s) : s->pass.all;
    return order_mass(s, vd_num_sample_top_p_target(mass, p->top_p_micro), !top_k);
}

/* ------------------------- before the choice ------------------------- */

/* Applies the penalties to s->adjusted: counts what the windows hold, then changes each logit once. */
static void penalise(struct vd_sampler *s, const struct vd_choice *c)
{
    const struct vd_sampling *p = c->sampling;
    uint32_t repeat = vd_num_repeat_begin(p, c->step), count = vd_num_count_begin(p, c->n_prompt, c->step);
    uint32_t begin = repeat < count ? repeat : count;
    for (uint32_t at = begin; at <= c->step; at++) {
        uint32_t id = c->tokens[at];
        if (id >= s->n_all)
            continue;
        s->seen[id].repeated = s->seen[id].repeated || at >= repeat;
        s->seen[id].count += at >= count;
    }
    for (uint32_t at = begin; at <= c->step; at++) {
        uint32_t id = c->tokens[at];
        if (id >= s->n_all)
            continue;
        s->adjusted[id] = vd_num_penalty(p, s->seen[id], s->adjusted[id]);
        s->seen[id] = (struct vd_penalty_seen){false, 0}; /* a second one finds nothing to do */
    }
}

static void add_bias(struct vd_sampler *s, struct vd_bytes bias)
{
    for (uint32_t i = 0; i < vd_bias_count(bias); i++) {
        uint32_t id = vd_bias_id(bias, i);
        if (id < s->n_all)
            s->adjusted[id] = vd_num_bias(s->adjusted[id], vd_bias_micro(bias, i));
    }
}

/* The likeliest of the vocabulary; one that is not finite leaves the list short. */
static void take_logprobs(const float *x, uint32_t n, struct vd_logprobs *out, double *log_sum)
{
    uint32_t want = out->n < VD_LOGPROBS_MAX ? out->n : VD_LOGPROBS_MAX;
    float max = -INFINITY;
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)x[i] - (double)max);
    *log_sum = (double)max + log(sum);
    out->n = 0;
    for (uint32_t i = 0; i < n && want > 0; i++) {
        if (!(out->n < want || x[i] > out->top[out->n - 1].value))
            continue;
        uint32_t at = out->n < want ? out->n++ : out->n - 1;
        for (; at > 0 && x[i] > out->top[at - 1].value; at--)
            out->top[at] = out->top[at - 1];
        out->top[at] = (struct vd_logprob){i, x[i]};
    }
    for (uint32_t i = 0; i < out->n; i++)
        out->top[i].value = (float)((double)out->top[i].value - *log_sum);
}

/* ------------------------- all of it ------------------------- */

/* The largest of s->n logits, with its id only if the choice needs it; and of each group otherwise. */
static void find_max(struct vd_sampler *s, const struct vd_kern *kern, const float *x,
                     const struct vd_sampling *p, struct vd_sample_max *max)
{
    if (p->temp_micro == 0)
        kern->sample_max(x, 0, s->n, max);
    else if (find_groups(s, kern, x))
        kern->sample_max(s->group_max, 0, s->n_groups, max);
    else
        *max = (struct vd_sample_max){0.0f, VD_SAMPLE_NONE, true};
}

/* Of s->n logits, whose maximum was just found, and of which n_left are not excluded. */
static uint32_t choose_below(struct vd_sampler *s, const struct vd_kern *kern, const float *x,
                             uint32_t n_left, struct vd_sample_max max, const struct vd_sampling *p,
                             uint64_t r64)
{
    if (max.bad)
        return VD_SAMPLE_FAIL;
    if (p->temp_micro == 0)
        return max.id;
    s->kern = kern;
    s->x = x;
    s->max = max.x;
    s->temp = vd_num_sample_temp(p->temp_micro);
    if (!isfinite(s->max / s->temp))
        return VD_SAMPLE_FAIL;
    bool top_k = p->top_k != 0 && p->top_k < n_left;
    if ((!top_k && p->top_p_micro >= VD_SAMPLE_MICRO) || !survivors(s, top_k, p))
        return choose_wide(s, top_k, p, r64);
    return draw_order(s, least_weight(p), r64);
}

/* Of s->n logits. */
static uint32_t choose(struct vd_sampler *s, const struct vd_kern *kern, const float *x,
                       const struct vd_sampling *p, uint64_t r64)
{
    struct vd_sample_max max;
    find_max(s, kern, x, p, &max);
    return choose_below(s, kern, x, s->n, max, p, r64);
}

/* The id of the set bit before which there are `at`. */
static uint32_t nth_allowed(const struct vd_sampler *s, uint32_t at)
{
    uint32_t i = 0;
    for (uint32_t n; (n = (uint32_t)__builtin_popcountll(s->allowed[i])) <= at; i++)
        at -= n;
    uint64_t left = s->allowed[i];
    while (at-- > 0)
        left &= left - 1;
    return 64 * i + (uint32_t)__builtin_ctzll(left);
}

/* By a vector of the allowed logits. */
static uint32_t choose_few(struct vd_sampler *s, const struct vd_kern *kern, const float *x,
                           const struct vd_choice *c)
{
    s->n = 0;
    for (uint32_t i = 0; 64 * i < s->n_all; i++)
        for (uint64_t left = s->allowed[i]; left; left &= left - 1)
            s->masked[s->n++] = x[64 * i + (uint32_t)__builtin_ctzll(left)];
    uint32_t at = choose(s, kern, s->masked, c->sampling, c->r64);
    return at == VD_SAMPLE_FAIL ? at : nth_allowed(s, at);
}

/* By a copy in which the others are EXCLUDED; the maximum has to be well above. */
static uint32_t choose_most(struct vd_sampler *s, const struct vd_kern *kern, const float *x,
                            const struct vd_choice *c, uint32_t n_left)
{
    struct vd_sample_max max;
    memcpy(s->masked, x, s->n_all * sizeof *x);
    for (uint32_t i = 0; 64 * i < s->n_all; i++)
        for (uint64_t left = ~s->allowed[i]; left; left &= left - 1) {
            uint32_t id = 64 * i + (uint32_t)__builtin_ctzll(left);
            if (id >= s->n_all)
                break;
            s->masked[id] = EXCLUDED;
        }
    s->n = s->n_all;
    find_max(s, kern, s->masked, c->sampling, &max);
    if (!max.bad && max.x < LEAST_MAX)
        return choose_few(s, kern, x, c);
    return choose_below(s, kern, s->masked, n_left, max, c->sampling, c->r64);
}

static uint32_t choose_allowed(struct vd_sampler *s, const struct vd_kern *kern, const float *x,
                               const struct vd_choice *c)
{
    uint32_t n = vd_masker_allowed(c->masker, c->state, s->allowed);
    if (n == 0)
        return VD_SAMPLE_FAIL;
    return n > s->n_all / 2 ? choose_most(s, kern, x, c, n) : choose_few(s, kern, x, c);
}

uint32_t vd_sampler_choose(struct vd_sampler *s, const struct vd_kern *kern, const float *x,
                           const struct vd_choice *c)
{
    bool penalised = vd_num_penalised(c->sampling);
    double log_sum = 0;
    if (penalised || c->bias.n) {
        memcpy(s->adjusted, x, s->n_all * sizeof *x);
        if (penalised)
            penalise(s, c);
        add_bias(s, c->bias);
        x = s->adjusted;
    }
    if (c->logprobs)
        take_logprobs(x, s->n_all, c->logprobs, &log_sum);
    s->n = s->n_all;
    uint32_t token = c->masker ? choose_allowed(s, kern, x, c) : choose(s, kern, x, c->sampling, c->r64);
    if (c->logprobs && token != VD_SAMPLE_FAIL)
        c->logprobs->own = (float)((double)x[token] - log_sum);
    return token;
}
