/* The canonical order (key descending, id ascending) is followed from its start and only as far as the rules
 * ask. Logits are taken in shells, [max - 8 T, ..), then [max - 16 T, max - 8 T) and so on: a shell holds a
 * few hundred entries, every entry of a shell stands before every entry of the next, and inside a shell a
 * binary heap yields them one by one. A flat distribution would make that slow: when a shell has more than
 * SHELL_MAX entries, or ORDER_MAX do not suffice, the cut is found by histograms over all keys instead, which
 * is num's radix selection with wider digits.
 *
 * Penalties and biases touch few logits, but the logits are the forward pass's: they are copied. A mask makes
 * a short vector of the allowed logits, whose order of ids is the vocabulary's, so that nothing after it
 * knows of masks. */
#include "vd_sampler.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ORDER_MAX = 512, SHELL_MAX = 4096, DIGITS = 3, BINS_MAX = 1 << 12 };

/* How wide the first shell is, in units of the temperature; each further one doubles the distance to the
 * maximum. */
#define SHELL_TEMPS 8.0f

struct vd_sampler {
    uint32_t n_all;               /* the vocabulary */
    float *adjusted, *masked;     /* n_all each: logits after penalties and bias; those that a mask allows */
    uint32_t *allowed;            /* n_all: ids of masked */
    struct vd_penalty_seen *seen; /* n_all, all zero between calls */

    uint32_t n;     /* entries of the running call, at most n_all */
    uint64_t *w;    /* their weights */
    uint32_t *key;  /* and keys, on the way by histograms */
    uint64_t *heap; /* ~key in the high half, id in the low half; the smallest first; SHELL_MAX */
    uint64_t *bin;  /* BINS_MAX */
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
    s->n_all = n;
    s->adjusted = malloc(n * sizeof *s->adjusted);
    s->masked = malloc(n * sizeof *s->masked);
    s->allowed = malloc(n * sizeof *s->allowed);
    s->seen = calloc(n, sizeof *s->seen);
    s->w = malloc(n * sizeof *s->w);
    s->key = malloc(n * sizeof *s->key);
    s->heap = malloc(SHELL_MAX * sizeof *s->heap);
    s->bin = malloc(BINS_MAX * sizeof *s->bin);
    if (!s->adjusted || !s->masked || !s->allowed || !s->seen || !s->w || !s->key || !s->heap || !s->bin) {
        vd_sampler_free(s);
        return NULL;
    }
    return s;
}

void vd_sampler_free(struct vd_sampler *s)
{
    if (!s)
        return;
    free(s->adjusted);
    free(s->masked);
    free(s->allowed);
    free(s->seen);
    free(s->w);
    free(s->key);
    free(s->heap);
    free(s->bin);
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

/* Makes a heap of the logits in [from, s->low); false if they are too many. */
static bool take_shell(struct vd_sampler *s, float from)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        float x = s->x[i];
        if (!(x >= from && x < s->low))
            continue;
        if (n == SHELL_MAX)
            return false;
        s->heap[n++] = (uint64_t)~vd_num_sample_key(x) << 32 | i;
    }
    s->n_heap = n;
    for (uint32_t i = n / 2; i-- > 0;)
        sift_down(s->heap, n, i);
    s->low = from;
    return true;
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

/* ------------------------- by histograms ------------------------- */

/* vd_num_sample_select with digits of 12, 12 and 8 bits. */
static struct vd_sample_cut select_cut(struct vd_sampler *s, bool by_mass, struct vd_sample_cut in,
                                       uint64_t target)
{
    static const unsigned shift[DIGITS] = {20, 8, 0}, above[DIGITS] = {32, 20, 8};
    uint32_t prefix = 0;
    uint64_t each = 1;
    for (unsigned d = 0; d < DIGITS; d++) {
        uint32_t n_bins = UINT32_C(1) << (above[d] - shift[d]), b;
        memset(s->bin, 0, n_bins * sizeof *s->bin);
        for (uint32_t i = 0; i < s->n; i++) {
            uint32_t key = s->key[i];
            if ((uint64_t)key >> above[d] == prefix && vd_num_sample_in(key, i, in))
                s->bin[key >> shift[d] & (n_bins - 1)] += by_mass ? s->w[i] : 1;
        }
        for (b = n_bins - 1; s->bin[b] < target; b--) {
            assert(b > 0 && "the target is at most the mass");
            target -= s->bin[b];
        }
        prefix = prefix << (above[d] - shift[d]) | b;
    }
    uint32_t i = 0, rank = 0;
    for (; by_mass && i < s->n; i++)
        if (s->key[i] == prefix) {
            each = s->w[i];
            break;
        }
    uint64_t ties = target / each + (target % each != 0);
    for (i = 0; i < s->n; i++)
        if (s->key[i] == prefix && ++rank == ties)
            break;
    assert(i < s->n);
    return (struct vd_sample_cut){prefix, i};
}

static uint32_t choose_wide(struct vd_sampler *s, bool top_k, const struct vd_sampling *p, uint64_t r64)
{
    struct vd_sample_cut cut = VD_SAMPLE_CUT_ALL;
    uint64_t least = least_weight(p), mass = 0, sum = 0;
    for (uint32_t i = 0; i < s->n; i++)
        s->key[i] = vd_num_sample_key(s->x[i]);
    if (top_k)
        cut = select_cut(s, false, cut, p->top_k);
    if (p->top_p_micro < VD_SAMPLE_MICRO) {
        for (uint32_t i = 0; i < s->n; i++)
            mass += vd_num_sample_in(s->key[i], i, cut) ? s->w[i] : 0;
        cut = select_cut(s, true, cut, vd_num_sample_top_p_target(mass, p->top_p_micro));
    }
    mass = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        bool survives = vd_num_sample_in(s->key[i], i, cut) && s->w[i] >= least;
        s->w[i] = survives ? s->w[i] : 0;
        mass += s->w[i];
    }
    uint64_t r = vd_num_mulhi64(r64, mass);
    for (uint32_t i = 0; i < s->n; i++)
        if ((sum += s->w[i]) > r)
            return i;
    assert(!"r is below the mass");
    return VD_SAMPLE_FAIL;
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

/* Of s->n logits. */
static uint32_t choose(struct vd_sampler *s, const struct vd_kern *kern, const float *x,
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
        return choose_wide(s, top_k, p, r64);
    return draw_order(s, least_weight(p), r64);
}

static uint32_t choose_allowed(struct vd_sampler *s, const struct vd_kern *kern, const float *x,
                               const struct vd_choice *c)
{
    s->n = vd_masker_allowed(c->masker, c->state, s->allowed);
    if (s->n == 0)
        return VD_SAMPLE_FAIL;
    for (uint32_t i = 0; i < s->n; i++)
        s->masked[i] = x[s->allowed[i]];
    uint32_t at = choose(s, kern, s->masked, c->sampling, c->r64);
    return at == VD_SAMPLE_FAIL ? at : s->allowed[at];
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
