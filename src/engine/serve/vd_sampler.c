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
 * a longer one on the side where it is. In the list the cut's key is found digit by digit, as num does.
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
    GROUP_MIN = VD_KERN_GROUP,
    DIGIT_BITS = 10,
    RUN = 4, /* neighbours in the sample */
    RUNS_MAX = 512,
    FEW = 128, /* entries of the sample, in the interval, with which it is narrow enough */
    SAMPLE_MAX = SHELL_MAX + RUN * RUNS_MAX,
    SAMPLED_MIN = 1024, /* of fewer logits no sample is taken */
    GUESS_BINS = 256
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
    float *group_max; /* SHELL_MAX: the largest logit of each group of neighbours */
    uint32_t group, n_groups;
    uint32_t n_heap;
    struct entry order[ORDER_MAX]; /* in the canonical order */
    uint32_t n_order;
    /* of the running call */
    const struct vd_kern *kern;
    const float *x;
    float max, temp, low; /* logits below `low` are not taken yet */

    /* the last pass over all: sums of blocks, and what lies in the interval */
    struct vd_kern_mass pass; /* mid has room for n_all */
    uint32_t *mid_key;        /* n_all */
    uint64_t *mid_w;          /* n_all */
    uint64_t bin[1 << DIGIT_BITS];
    /* the sample; first the largest of the groups, which stand for themselves */
    uint32_t n_sample;
    float sample_x[SAMPLE_MAX], sample_w[SAMPLE_MAX], sample_square[SAMPLE_MAX];
};

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
    s->group_max = malloc(SHELL_MAX * sizeof *s->group_max);
    s->pass.block = malloc(((n - 1) / VD_KERN_MASS_BLOCK + 1) * sizeof *s->pass.block);
    s->pass.mid = malloc(n * sizeof *s->pass.mid);
    s->mid_key = malloc(n * sizeof *s->mid_key);
    s->mid_w = malloc(n * sizeof *s->mid_w);
    if (!s->adjusted || !s->masked || !s->allowed || !s->seen || !s->heap || !s->group_max ||
        !s->pass.block || !s->pass.mid || !s->mid_key || !s->mid_w) {
        vd_sampler_free(s);
        return NULL;
    }
    return s;
}

size_t vd_sampler_bytes(uint32_t n)
{
    const struct vd_sampler *s = NULL;
    size_t each = sizeof *s->adjusted + sizeof *s->masked + sizeof *s->seen + sizeof *s->pass.mid +
                  sizeof *s->mid_key + sizeof *s->mid_w;
    return sizeof *s + n * each + ((size_t)n + 63) / 64 * sizeof *s->allowed +
           ((n - 1) / VD_KERN_MASS_BLOCK + 1) * sizeof *s->pass.block +
           SHELL_MAX * (sizeof *s->heap + sizeof *s->group_max);
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
    free(s->pass.block);
    free(s->pass.mid);
    free(s->mid_key);
    free(s->mid_w);
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

static void find_groups(struct vd_sampler *s)
{
    s->group = GROUP_MIN;
    while ((s->n - 1) / s->group >= SHELL_MAX)
        s->group *= 2;
    s->n_groups = (s->n - 1) / s->group + 1;
    s->kern->sample_groups(s->x, s->n, s->group, s->group_max);
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

/* Adds up all weights, those from `high` on also by blocks (of these the ones from `least` on), and lists the
 * entries of [low, high). */
static void run_pass(struct vd_sampler *s, float low, float high, uint64_t least)
{
    enum { STEP = 256 };
    struct vd_kern_mass *m = &s->pass;
    float x[STEP];
    assert(low <= high);
    m->temp = s->temp;
    m->x_max = s->max;
    m->low = low;
    m->high = high;
    m->least = least;
    s->kern->sample_mass(s->x, s->n, m);
    for (size_t i = 0; i < m->n_mid; i += STEP) {
        size_t some = m->n_mid - i < STEP ? m->n_mid - i : STEP;
        for (size_t k = 0; k < some; k++) {
            x[k] = s->x[m->mid[i + k]];
            s->mid_key[i + k] = key_of(x[k]);
        }
        s->kern->sample_weights(x, some, s->temp, s->max, s->mid_w + i);
    }
}

static uint64_t mass_of_blocks(const struct vd_sampler *s)
{
    uint64_t mass = 0;
    for (uint32_t i = 0; i < s->n; i += VD_KERN_MASS_BLOCK)
        mass += s->pass.block[i / VD_KERN_MASS_BLOCK];
    return mass;
}

/* Of what the list has inside `cut`. */
static uint64_t mass_of_mid(const struct vd_sampler *s, struct vd_sample_cut cut)
{
    uint64_t mass = 0;
    for (size_t i = 0; i < s->pass.n_mid; i++)
        mass += vd_num_sample_in(s->mid_key[i], s->pass.mid[i], cut) ? s->mid_w[i] : 0;
    return mass;
}

/* The draw over all that the last pass had from `high` on, and of its list what is inside `cut`; both as far
 * as they weigh `least`. */
static uint32_t draw_from(struct vd_sampler *s, struct vd_sample_cut cut, uint64_t least, uint64_t r64)
{
    uint64_t w[VD_KERN_MASS_BLOCK], *block = s->pass.block, sum = 0;
    for (size_t i = 0; i < s->pass.n_mid; i++) {
        bool in = vd_num_sample_in(s->mid_key[i], s->pass.mid[i], cut) & (s->mid_w[i] >= least);
        block[s->pass.mid[i] / VD_KERN_MASS_BLOCK] += s->mid_w[i] & (0 - (uint64_t)in);
    }
    uint64_t r = vd_num_mulhi64(r64, mass_of_blocks(s));
    while (sum + *block <= r)
        sum += *block++;
    uint32_t i = (uint32_t)(block - s->pass.block) * VD_KERN_MASS_BLOCK, left = s->n - i;
    s->kern->sample_weights(s->x + i, left < VD_KERN_MASS_BLOCK ? left : VD_KERN_MASS_BLOCK, s->temp, s->max,
                            w);
    for (uint32_t k = 0;; k++) {
        assert(k < left && k < VD_KERN_MASS_BLOCK && "r is below the mass");
        if (vd_num_sample_in(key_of(s->x[i + k]), i + k, cut) && w[k] >= least && (sum += w[k]) > r)
            return i + k;
    }
}

/* ------------------------- where the cut may lie ------------------------- */

/* The largest of each group, and runs of RUN neighbours from at most RUNS_MAX groups, of which each stands
 * for `scale` entries. By mass they get their weights, by count 1; times what they stand for. */
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
    float scale = n > s->n_groups ? (float)(s->n - s->n_groups) / (float)(n - s->n_groups) : 0;
    for (uint32_t i = 0; i < n; i++)
        s->sample_w[i] = by_mass ? (s->sample_x[i] - s->max) / s->temp : 0;
    s->kern->exp(s->sample_w, n, s->sample_w);
    for (uint32_t i = 0; i < n; i++) {
        s->sample_w[i] *= i < s->n_groups ? 1 : scale;
        s->sample_square[i] = i < s->n_groups ? 0 : s->sample_w[i] * s->sample_w[i];
    }
    s->n_sample = n;
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
    } bin[GUESS_BINS];
};

/* Bins of equal width. What is not looked at leaves the sample. */
static void fill_bins(struct vd_sampler *s, struct guess *g)
{
    float per_unit = GUESS_BINS / g->span;
    uint32_t kept = 0, n = s->n_sample;
    memset(g->bin, 0, sizeof g->bin);
    for (uint32_t i = 0; i < n; i++) {
        float x = s->sample_x[i], w = s->sample_w[i], square = s->sample_square[i];
        float distance = g->up ? x - g->from : g->from - x, at = distance * per_unit;
        if (!(distance >= 0 && distance <= g->span))
            continue;
        uint32_t b = at < GUESS_BINS ? (uint32_t)at : GUESS_BINS - 1;
        g->bin[b].mass += w;
        g->bin[b].squares += square;
        s->sample_x[kept] = x;
        s->sample_w[kept] = w;
        s->sample_square[kept++] = square;
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

/* Bins of a subnormal width would be no parts of the span. */
static void guess(struct vd_sampler *s, struct guess *g)
{
    enum { ROUNDS = 2, DEVIATIONS = 3 };
    g->best = g->span;
    for (unsigned round = 0; round < ROUNDS && g->span >= GUESS_BINS * FLT_MIN; round++) {
        fill_bins(s, g);
        narrow(g, DEVIATIONS);
    }
}

static float at_distance(const struct guess *g, float distance)
{
    return g->up ? g->from + distance : g->from - distance;
}

/* Where the target is reached, or, if that is 0, the share p_micro of the mass of all. */
static void guess_first(struct vd_sampler *s, struct guess *g, bool by_mass, uint64_t target,
                        uint32_t p_micro)
{
    float bottom = s->max;
    double all = 0;
    take_sample(s, by_mass);
    *g = (struct guess){.from = s->max, .end = true};
    for (uint32_t i = 0; i < s->n_sample; i++) {
        bottom = s->sample_x[i] < bottom ? s->sample_x[i] : bottom;
        all += (double)s->sample_w[i];
        g->all_squares += (double)s->sample_square[i];
    }
    g->span = s->max - bottom;
    if (!isfinite(g->span)) /* nothing will be guessed */
        g->span = 0;
    if (by_mass && g->span > WEIGHT_TEMPS * s->temp)
        g->span = WEIGHT_TEMPS * s->temp;
    g->q = target ? 0 : (double)p_micro / VD_SAMPLE_MICRO;
    g->need = target == 0 ? g->q * all : (double)target / (by_mass ? (double)VD_SAMPLE_W_ONE : 1);
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

/* The entry of the list at which its count or mass reaches target. Keys begin at `key` and need n_bits more;
 * num's selection with wider digits. */
static struct vd_sample_cut cut_mid(struct vd_sampler *s, bool by_mass, uint32_t key, unsigned n_bits,
                                    uint64_t target)
{
    size_t n = s->pass.n_mid;
    while (n_bits > 0) {
        unsigned shift = n_bits > DIGIT_BITS ? n_bits - DIGIT_BITS : 0;
        uint32_t n_bins = UINT32_C(1) << (n_bits - shift);
        memset(s->bin, 0, n_bins * sizeof *s->bin);
        for (size_t i = 0; i < n; i++) {
            uint64_t at = s->mid_key[i] - key, add = by_mass ? s->mid_w[i] : 1;
            s->bin[at >> shift & (n_bins - 1)] += add & (0 - (uint64_t)(at >> n_bits == 0));
        }
        key += pick_bin(s->bin, n_bins, &target) << shift;
        n_bits = shift;
    }
    for (size_t i = 0;; i++) { /* all that have this key weigh the same */
        assert(i < n && "the target is at most the mass");
        uint64_t each = by_mass ? s->mid_w[i] : 1;
        if (s->mid_key[i] != key)
            continue;
        if (target <= each)
            return (struct vd_sample_cut){key, s->pass.mid[i]};
        target -= each;
    }
}

/* How much, by mass or count, the last pass had from its `high` on. */
static uint64_t had_above(const struct vd_sampler *s, bool by_mass)
{
    return by_mass ? mass_of_blocks(s) : s->pass.n_above;
}

/* An interval that very likely holds the cut. Where the first guess would have a long list, a pass without a
 * list says how far its best point is from the cut, which makes a better guess. *target 0: at the share
 * p_micro of the mass of all, which becomes known if there is such a pass. */
static void guess_cut(struct vd_sampler *s, bool by_mass, uint64_t *target, uint32_t p_micro, float *low,
                      float *high)
{
    struct guess g;
    *low = -INFINITY;
    *high = INFINITY;
    if (s->n < SAMPLED_MIN)
        return;
    guess_first(s, &g, by_mass, *target, p_micro);
    float border = at_distance(&g, g.best);
    if (s->n_sample > FEW) {
        run_pass(s, border, border, 0);
        if (*target == 0)
            *target = vd_num_sample_top_p_target(s->pass.all, p_micro);
        double more = (double)*target - (double)had_above(s, by_mass);
        guess_second(s, &g, border, more / (by_mass ? (double)VD_SAMPLE_W_ONE : 1));
    }
    float end = at_distance(&g, g.span);
    if (g.up) {
        *low = g.from;
        *high = end < s->max ? end : INFINITY;
    } else {
        *low = g.end ? -INFINITY : end;
        *high = g.from < s->max ? g.from : INFINITY;
    }
}

/* Where top-k (by count) or top-p (by mass) cuts off: at the target, or, if that is 0, at the share p_micro
 * of the mass of all. The last pass is one about the cut. */
static struct vd_sample_cut find_cut(struct vd_sampler *s, bool by_mass, uint64_t target, uint32_t p_micro)
{
    uint64_t above;
    float low, high;
    guess_cut(s, by_mass, &target, p_micro, &low, &high);
    for (;;) {
        run_pass(s, low, high, 0);
        if (target == 0)
            target = vd_num_sample_top_p_target(s->pass.all, p_micro);
        above = had_above(s, by_mass);
        float step = 16 * (high - low);
        if (target <= above) {
            low = high;
            high = low + step > low ? low + step : INFINITY;
        } else if (target - above > (by_mass ? mass_of_mid(s, VD_SAMPLE_CUT_ALL) : s->pass.n_mid)) {
            high = low;
            low = high - step < high ? high - step : -INFINITY;
        } else {
            break;
        }
    }
    uint32_t first = key_of(low), span = key_of(high) - 1 - first;
    return cut_mid(s, by_mass, first, span ? 32 - (unsigned)__builtin_clz(span) : 0, target - above);
}

static uint32_t choose_wide(struct vd_sampler *s, bool top_k, const struct vd_sampling *p, uint64_t r64)
{
    struct vd_sample_cut cut = VD_SAMPLE_CUT_ALL;
    bool top_p = p->top_p_micro < VD_SAMPLE_MICRO;
    uint64_t least = least_weight(p), target = 0;
    if (top_k)
        cut = find_cut(s, false, p->top_k, 0);
    if (top_k && top_p)
        target = vd_num_sample_top_p_target(mass_of_blocks(s) + mass_of_mid(s, cut), p->top_p_micro);
    if (top_p)
        cut = find_cut(s, true, target, p->top_p_micro);
    if (least > 1 || (!top_k && !top_p))
        run_pass(s, cut.key ? of_key(cut.key) : -INFINITY, cut.key ? of_key(cut.key + 1) : -INFINITY, least);
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
        run_pass(s, INFINITY, INFINITY, 0);
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

/* Of s->n logits with this maximum, of which n_left are not excluded. */
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
    if (!top_k && p->top_p_micro >= VD_SAMPLE_MICRO)
        return choose_wide(s, false, p, r64);
    find_groups(s);
    if (!survivors(s, top_k, p))
        return choose_wide(s, top_k, p, r64);
    return draw_order(s, least_weight(p), r64);
}

/* Of s->n logits. */
static uint32_t choose(struct vd_sampler *s, const struct vd_kern *kern, const float *x,
                       const struct vd_sampling *p, uint64_t r64)
{
    struct vd_sample_max max;
    kern->sample_max(x, 0, s->n, &max);
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
    kern->sample_max(s->masked, 0, s->n_all, &max);
    if (!max.bad && max.x < LEAST_MAX)
        return choose_few(s, kern, x, c);
    s->n = s->n_all;
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
