/* The canonical order (key descending, id ascending) is followed from its start and only as far as the rules
 * ask. Logits are taken in shells, [max - 8 T, ..), then [max - 16 T, max - 8 T) and so on: a shell holds a
 * few hundred entries, every entry of a shell stands before every entry of the next, and inside a shell a
 * binary heap yields them one by one. With top-k the first shell is made to measure: the k-th of the largest
 * logits of the groups is a bound that k entries reach, and few others do. Groups whose largest logit is
 * below a shell are not looked at.
 *
 * A flat distribution would make that slow: when a shell has more than SHELL_MAX entries, or ORDER_MAX do not
 * suffice, the cut is found by histograms over all keys instead, which is num's radix selection with wider
 * digits: one over all, then others over the entries of the bin in which the cut lies.
 *
 * Weights cost a division and an exp each, so with top-k only those of its survivors are made.
 *
 * Penalties and biases touch few logits, but the logits are the forward pass's: they are copied. A mask makes
 * a short vector of the allowed logits, whose order of ids is the vocabulary's, so that nothing after it
 * knows of masks. */
#include "vd_sampler.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ORDER_MAX = 512, SHELL_MAX = 4096, GROUP_MIN = 64, DIGITS = 3, BINS_MAX = 1 << 12 };

/* How wide the first shell is, in units of the temperature; each further one doubles the distance to the
 * maximum. */
#define SHELL_TEMPS 8.0f

struct vd_sampler {
    uint32_t n_all;               /* the vocabulary */
    float *adjusted, *masked;     /* n_all each: logits after penalties and bias; those that a mask allows */
    uint32_t *allowed;            /* n_all: ids of masked */
    struct vd_penalty_seen *seen; /* n_all, all zero between calls */

    uint32_t n;       /* entries of the running call, at most n_all */
    uint64_t *w;      /* their weights, as far as they are made */
    uint64_t *heap;   /* ~key in the high half, id in the low half; the smallest first; SHELL_MAX */
    uint64_t *bin;    /* BINS_MAX */
    uint32_t *in_bin; /* n_all: ids of the entries of one bin, ascending */
    float *group_max; /* SHELL_MAX: the largest logit of each group of neighbours */
    uint32_t group, n_groups;
    uint32_t n_heap;
    uint32_t order[ORDER_MAX]; /* ids, in the canonical order */
    uint32_t n_order;
    /* of the running call */
    const struct vd_kern *kern;
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
    s->in_bin = malloc(n * sizeof *s->in_bin);
    s->heap = malloc(SHELL_MAX * sizeof *s->heap);
    s->group_max = malloc(SHELL_MAX * sizeof *s->group_max);
    s->bin = malloc(2 * BINS_MAX * sizeof *s->bin);
    if (!s->adjusted || !s->masked || !s->allowed || !s->seen || !s->w || !s->in_bin || !s->heap ||
        !s->group_max || !s->bin) {
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
    free(s->in_bin);
    free(s->heap);
    free(s->group_max);
    free(s->bin);
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

/* Eight chains side by side, which a compiler makes vectors of. */
static float largest(const float *x, uint32_t n)
{
    float m[8], most;
    for (unsigned k = 0; k < 8; k++)
        m[k] = -INFINITY;
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (unsigned k = 0; k < 8; k++)
            m[k] = x[i + k] > m[k] ? x[i + k] : m[k];
    for (; i < n; i++)
        m[0] = x[i] > m[0] ? x[i] : m[0];
    most = m[0];
    for (unsigned k = 1; k < 8; k++)
        most = m[k] > most ? m[k] : most;
    return most;
}

static void find_groups(struct vd_sampler *s)
{
    s->group = GROUP_MIN;
    while ((s->n - 1) / s->group >= SHELL_MAX)
        s->group *= 2;
    s->n_groups = (s->n - 1) / s->group + 1;
    for (uint32_t g = 0; g < s->n_groups; g++) {
        uint32_t first = g * s->group, left = s->n - first;
        s->group_max[g] = largest(s->x + first, left < s->group ? left : s->group);
    }
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
    s->order[s->n_order++] = heap_take(s);
    return true;
}

/* ------------------------- the rules ------------------------- */

/* Makes the weights of the entries of the order. */
static void weigh_order(struct vd_sampler *s)
{
    float x[ORDER_MAX];
    uint64_t w[ORDER_MAX];
    for (uint32_t i = 0; i < s->n_order; i++)
        x[i] = s->x[s->order[i]];
    s->kern->sample_weights(x, s->n_order, s->temp, s->max, w);
    for (uint32_t i = 0; i < s->n_order; i++)
        s->w[s->order[i]] = w[i];
}

/* The order becomes the first k entries, with their weights. */
static bool order_count(struct vd_sampler *s, uint32_t k)
{
    if (k > ORDER_MAX || (k <= s->n_groups && !take_shell(s, bound_of_first(s, k))))
        return false;
    while (s->n_order < k)
        if (!order_next(s))
            return false;
    weigh_order(s);
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

static void weigh_all(struct vd_sampler *s)
{
    s->kern->sample_weights(s->x, s->n, s->temp, s->max, s->w);
}

/* The smallest weight that min-p lets pass: w * 10^6 >= min_p * 2^40. */
static uint64_t least_weight(const struct vd_sampling *p)
{
    uint64_t min_p = p->min_p_micro < VD_SAMPLE_MICRO ? p->min_p_micro : VD_SAMPLE_MICRO;
    return (min_p * VD_SAMPLE_W_ONE + VD_SAMPLE_MICRO - 1) / VD_SAMPLE_MICRO;
}

/* The draw over all logits that stand at or before entry `last` of logit `from`, whose weights are made. The
 * others' become 0. Without a branch on what cannot be predicted; the sums of blocks spare the walk. */
static uint32_t draw_from(struct vd_sampler *s, float from, uint32_t last, uint64_t least, uint64_t r64)
{
    uint32_t block = (s->n - 1) / BINS_MAX + 1, i = 0, b = 0;
    uint64_t mass = 0, sum = 0;
    block = block < GROUP_MIN ? GROUP_MIN : block;
    for (; i < s->n; b++) {
        uint32_t end = s->n - i < block ? s->n : i + block;
        uint64_t of_block = 0;
        for (; i < end; i++) {
            bool in = ((s->x[i] > from) | ((s->x[i] == from) & (i <= last))) & (s->w[i] >= least);
            s->w[i] &= 0 - (uint64_t)in;
            of_block += s->w[i];
        }
        s->bin[b] = of_block;
        mass += of_block;
    }
    uint64_t r = vd_num_mulhi64(r64, mass);
    for (b = 0; sum + s->bin[b] <= r; b++)
        sum += s->bin[b];
    for (i = b * block; i < s->n; i++)
        if ((sum += s->w[i]) > r)
            return i;
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
    if (!top_k) {
        weigh_all(s);
        if (looks_flat(s))
            return false;
    }
    uint64_t mass = top_k ? mass_of_order(s) : mass_of_all(s);
    return order_mass(s, vd_num_sample_top_p_target(mass, p->top_p_micro), !top_k);
}

/* ------------------------- by histograms ------------------------- */

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

/* The entry of those in s->in_bin, which all have this key, at which count or mass reaches target. */
static struct vd_sample_cut among_ties(const struct vd_sampler *s, bool by_mass, uint32_t n, uint32_t key,
                                       uint64_t target)
{
    uint64_t each = by_mass ? s->w[s->in_bin[0]] : 1, rank = target / each + (target % each != 0);
    assert(rank >= 1 && rank <= n);
    return (struct vd_sample_cut){key, s->in_bin[rank - 1]};
}

/* Of the n entries of s->in_bin those whose key has `digit` at `shift` stay. */
static uint32_t keep_digit(struct vd_sampler *s, uint32_t n, unsigned shift, uint32_t digit, uint32_t mask)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t id = s->in_bin[i];
        s->in_bin[kept] = id;
        kept += (key_of(s->x[id]) >> shift & mask) == digit;
    }
    return kept;
}

/* The first digit, of all entries inside `in`: makes s->in_bin of its bin. With `top_p` the target is that
 * share of the mass of all. */
static uint32_t first_digit(struct vd_sampler *s, bool by_mass, struct vd_sample_cut in, unsigned shift,
                            const struct vd_sampling *p, uint64_t *target, uint32_t *n)
{
    uint32_t n_bins = UINT32_C(1) << (32 - shift), n_all = s->n, kept = 0;
    uint64_t mass = 0, *bin[2] = {s->bin, s->bin + n_bins};
    memset(s->bin, 0, 2 * n_bins * sizeof *s->bin);
    for (uint32_t i = 0; i < n_all; i++) { /* by turns: neighbours often share a bin, and would wait */
        uint32_t key = key_of(s->x[i]);
        uint64_t add = by_mass ? s->w[i] : 1;
        bin[i % 2][key >> shift] += add & (0 - (uint64_t)vd_num_sample_in(key, i, in));
    }
    for (uint32_t b = 0; b < n_bins; b++)
        mass += bin[0][b] += bin[1][b];
    *target = by_mass ? vd_num_sample_top_p_target(mass, p->top_p_micro) : p->top_k;
    uint32_t digit = pick_bin(s->bin, n_bins, target);
    for (uint32_t i = 0; i < n_all; i++) {
        uint32_t key = key_of(s->x[i]);
        s->in_bin[kept] = i;
        kept += (key >> shift == digit) & vd_num_sample_in(key, i, in);
    }
    *n = kept;
    return digit;
}

/* Where top-k (by count) or top-p (by mass) cuts off what is inside `in`: vd_num_sample_select with digits of
 * 12, 12 and 8 bits. */
static struct vd_sample_cut select_cut(struct vd_sampler *s, bool by_mass, struct vd_sample_cut in,
                                       const struct vd_sampling *p)
{
    static const unsigned shift[DIGITS] = {20, 8, 0}, bits[DIGITS] = {12, 12, 8};
    uint64_t target;
    uint32_t n, key = first_digit(s, by_mass, in, shift[0], p, &target, &n);
    for (unsigned d = 1; d < DIGITS; d++) {
        uint32_t mask = (UINT32_C(1) << bits[d]) - 1;
        memset(s->bin, 0, ((size_t)mask + 1) * sizeof *s->bin);
        for (uint32_t i = 0; i < n; i++)
            s->bin[key_of(s->x[s->in_bin[i]]) >> shift[d] & mask] += by_mass ? s->w[s->in_bin[i]] : 1;
        uint32_t digit = pick_bin(s->bin, mask + 1, &target);
        n = keep_digit(s, n, shift[d], digit, mask);
        key = key << bits[d] | digit;
    }
    return among_ties(s, by_mass, n, key, target);
}

static uint32_t choose_wide(struct vd_sampler *s, bool top_k, const struct vd_sampling *p, uint64_t r64)
{
    struct vd_sample_cut cut = VD_SAMPLE_CUT_ALL;
    if (top_k) {
        weigh_all(s);
        cut = select_cut(s, false, cut, p);
    }
    if (p->top_p_micro < VD_SAMPLE_MICRO)
        cut = select_cut(s, true, cut, p);
    uint32_t u = cut.key & 0x80000000 ? cut.key & 0x7FFFFFFF : ~cut.key;
    return draw_from(s, vd_f32_from_bits(u), cut.id, least_weight(p), r64);
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
    s->kern = kern;
    s->x = x;
    s->max = max.x;
    s->temp = vd_num_sample_temp(p->temp_micro);
    if (!isfinite(s->max / s->temp))
        return VD_SAMPLE_FAIL;
    bool top_k = p->top_k != 0 && p->top_k < s->n;
    if (!top_k && p->top_p_micro >= VD_SAMPLE_MICRO) {
        weigh_all(s);
        return draw_from(s, -INFINITY, 0, least_weight(p), r64);
    }
    find_groups(s);
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
