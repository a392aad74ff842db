/* The first of the logits' order without all logits. When memory is what decode waits for, and the vocabulary
 * is large, reading the head is most of a step: three quarters of gemma-3-270m. So a split head is read in
 * two passes: the upper bits of all rows give bounds, and only row groups whose upper bound reaches the best
 * lower bound are computed, exactly as they always are. What is left out is below the largest for certain, so
 * the token is the one that all logits would have given.
 *
 * Where logits lie so close together that many groups are left, this is more work than it saves: then the
 * next calls make all logits, and try again later. */
#include "vd_forward_impl.h"

#include <math.h>

enum {
    STEP_GROUPS = 64, /* row groups of a task */
    WAIT_CALLS = 15,  /* without a try, when more than a part in LEFT_PART of the groups was left */
    LEFT_PART = 4,
};

void vd_fw_screen_begin(struct vd_ctx *ctx, bool wanted)
{
    struct screen *s = &ctx->head.screen;
    s->on = wanted && ctx->m->head.split && ctx->head.n > 0 && ctx->head.n <= SCREEN_ROWS;
    if (s->on && s->wait > 0) {
        s->wait--;
        s->on = false;
    }
    atomic_store(&s->gone, false);
    atomic_store(&s->n_left, 0);
    for (size_t i = 0; s->on && i < ctx->n_threads * SCREEN_ROWS; i++)
        s->first[i] = (struct vd_sample_max){0.0f, VD_SAMPLE_NONE, false};
}

/* The rows of step i. */
static void step_rows(const struct vd_model *m, size_t i, size_t *r0, size_t *r1)
{
    *r0 = i * STEP_GROUPS * VD_KERN_ROWS;
    *r1 = vd_fw_min(*r0 + STEP_GROUPS * VD_KERN_ROWS, m->dims.vocab);
}

/* Bounds of one step after the other. */
static void bound(struct vd_ctx *ctx, struct vd_team *team, unsigned thread, const struct vd_kern_rhs *rhs,
                  struct thread_buf *buf)
{
    struct screen *s = &ctx->head.screen;
    const struct vd_model *m = ctx->m;
    size_t groups = vd_fw_groups(m), r0, r1, i;
    float low[SCREEN_ROWS];
    for (size_t t = 0; t < ctx->head.n; t++)
        low[t] = -INFINITY;
    while ((i = vd_team_next(team)) * STEP_GROUPS < groups) {
        step_rows(m, i, &r0, &r1);
        if (!m->kern->bounds(&m->head, r0, r1, rhs, 0, ctx->head.n, s->high + i * STEP_GROUPS, groups, low,
                             buf->scratch))
            atomic_store(&s->gone, true);
    }
    for (size_t t = 0; t < ctx->head.n; t++)
        s->low[thread * SCREEN_ROWS + t] = low[t];
}

/* Row t's outputs of a group, of which the first goes to `first`. */
static void look(const struct vd_ctx *ctx, const struct vd_kern_rhs *rhs, size_t group, size_t t,
                 struct vd_sample_max *first, struct thread_buf *buf)
{
    const struct vd_model *m = ctx->m;
    size_t r0 = group * VD_KERN_ROWS, r1 = vd_fw_min(r0 + VD_KERN_ROWS, m->dims.vocab);
    float y[VD_KERN_ROWS];
    struct vd_sample_max max;
    m->kern->matmul(&m->head, r0, r1, rhs, t, t + 1, vd_fw_moved_back(y, t * VD_KERN_ROWS + r0), VD_KERN_ROWS,
                    buf->scratch);
    vd_num_sample_max_tile(y, (uint32_t)r0, (uint32_t)(r1 - r0), &max);
    vd_num_sample_max_merge(first, &max);
}

bool vd_fw_screen(struct vd_ctx *ctx, struct vd_team *team, unsigned thread, const struct vd_kern_rhs *rhs,
                  struct thread_buf *buf)
{
    struct screen *s = &ctx->head.screen;
    size_t groups = vd_fw_groups(ctx->m), n_left = 0, i;
    bound(ctx, team, thread, rhs, buf);
    vd_team_barrier(team);
    if (atomic_load(&s->gone))
        return false;
    struct vd_sample_max *first = s->first + thread * SCREEN_ROWS;
    float low[SCREEN_ROWS];
    for (size_t t = 0; t < ctx->head.n; t++) {
        low[t] = -INFINITY;
        for (unsigned k = 0; k < vd_team_threads(team); k++)
            low[t] = fmaxf(low[t], s->low[k * SCREEN_ROWS + t]);
    }
    while ((i = vd_team_next(team)) * STEP_GROUPS < groups)
        for (size_t t = 0; t < ctx->head.n; t++)
            for (size_t g = i * STEP_GROUPS; g < vd_fw_min((i + 1) * STEP_GROUPS, groups); g++)
                if (s->high[t * groups + g] >= low[t]) {
                    look(ctx, rhs, g, t, &first[t], buf);
                    n_left++;
                }
    atomic_fetch_add(&s->n_left, n_left);
    return true;
}

void vd_fw_screen_end(struct vd_ctx *ctx)
{
    struct screen *s = &ctx->head.screen;
    if (!s->on)
        return;
    if (atomic_load(&s->gone)) {
        s->on = false;
        return;
    }
    for (size_t i = SCREEN_ROWS; i < ctx->n_threads * SCREEN_ROWS; i++)
        vd_num_sample_max_merge(&s->first[i % SCREEN_ROWS], &s->first[i]);
    if (atomic_load(&s->n_left) * LEFT_PART > vd_fw_groups(ctx->m) * ctx->head.n)
        s->wait = WAIT_CALLS;
}
