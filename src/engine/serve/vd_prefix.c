/* A plain list: with at most a few hundred entries, comparing tokens costs microseconds and a tree would only
 * be more code. Prefixes are compared token by token, so no hash can be made to collide. */
#include "vd_prefix.h"

#include <assert.h>
#include <stdlib.h>

static size_t common(const uint32_t *a, const uint32_t *b, size_t n)
{
    size_t i = 0;
    while (i < n && a[i] == b[i])
        i++;
    return i;
}

static void drop(struct vd_prefix *c, size_t i)
{
    vd_kv_close(c->entry[i].kv);
    free(c->entry[i].tokens);
    c->entry[i] = c->entry[--c->n_entries];
}

enum vd_err vd_prefix_take(struct vd_prefix *c, struct vd_kv_pool *pool, const struct vd_hash *account,
                           const uint32_t *tokens, size_t n, struct vd_kv **out, size_t *lost,
                           struct vd_error *err)
{
    struct vd_prefix_entry *best = NULL;
    size_t longest = 0, gone = 0;
    for (size_t i = 0; i < c->n_entries; i++) {
        struct vd_prefix_entry *e = &c->entry[i];
        if (!vd_hash_eq(&e->account, account))
            continue;
        size_t len = common(e->tokens, tokens, e->n < n ? e->n : n);
        if (!vd_kv_reaches(e->kv, len)) {
            gone = len > gone ? len : gone;
        } else if (len > longest) {
            longest = len;
            best = e;
        }
    }
    *lost = gone > longest ? gone : 0;
    if (!best)
        return vd_kv_open(out, pool, err);
    best->last_used = ++c->clock;
    return vd_kv_fork(out, best->kv, longest, err);
}

void vd_prefix_put(struct vd_prefix *c, const struct vd_hash *account, const uint32_t *tokens,
                   struct vd_kv *kv)
{
    size_t n = vd_kv_len(kv);
    vd_kv_truncate(kv, n); /* gives back what was reserved and not used */
    for (size_t i = c->n_entries; i-- > 0;) {
        struct vd_prefix_entry *e = &c->entry[i];
        if (!vd_hash_eq(&e->account, account))
            continue;
        size_t len = common(e->tokens, tokens, e->n < n ? e->n : n);
        if (len == n && vd_kv_reaches(e->kv, n)) {
            e->last_used = ++c->clock;
            vd_kv_close(kv);
            return;
        }
        if (len == e->n && vd_kv_reaches(kv, len))
            drop(c, i);
    }
    uint32_t *copy = n ? malloc(n * sizeof *copy) : NULL;
    if (!copy) {
        vd_kv_close(kv);
        return;
    }
    memcpy(copy, tokens, n * sizeof *copy);
    if (c->n_entries == VD_PREFIX_MAX)
        vd_prefix_evict(c);
    c->entry[c->n_entries++] = (struct vd_prefix_entry){*account, copy, n, kv, ++c->clock};
}

bool vd_prefix_evict(struct vd_prefix *c)
{
    size_t oldest = 0;
    if (c->n_entries == 0)
        return false;
    for (size_t i = 1; i < c->n_entries; i++)
        if (c->entry[i].last_used < c->entry[oldest].last_used)
            oldest = i;
    drop(c, oldest);
    return true;
}

static void all_of(const struct vd_prefix *c, struct vd_kv *all[VD_PREFIX_MAX])
{
    for (size_t i = 0; i < c->n_entries; i++)
        all[i] = c->entry[i].kv;
}

bool vd_prefix_can_make_room(const struct vd_prefix *c, const struct vd_kv *kv, size_t n_pos)
{
    struct vd_kv *all[VD_PREFIX_MAX];
    all_of(c, all);
    return vd_kv_fits_without(kv, n_pos, all, c->n_entries);
}

bool vd_prefix_can_make_fork(const struct vd_prefix *c, const struct vd_kv *kv, size_t n_pos)
{
    struct vd_kv *all[VD_PREFIX_MAX];
    all_of(c, all);
    return vd_kv_fork_fits_without(kv, n_pos, all, c->n_entries);
}

void vd_prefix_clear(struct vd_prefix *c)
{
    while (c->n_entries)
        drop(c, c->n_entries - 1);
}
