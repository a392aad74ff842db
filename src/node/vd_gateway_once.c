/* A client that retries must not pay twice. With an Idempotency-Key the client says itself what is the same
 * request. Without one, a request that calls itself a retry (X-Stainless-Retry-Count of 1 or more, as the
 * openai clients send it) is the same as an earlier one of the same key, endpoint and body, if that one's
 * answer has not reached its client. */
#include "vd_gateway_impl.h"
#include "vd_clock.h"

#include <stdlib.h>

void gw_once_slot(struct gw_once *out, const struct vd_key_id *key, const char *path, struct vd_bytes body,
                  const char *idempotency_key)
{
    struct vd_sha256 s;
    vd_sha256_init_tag(&s, "veridem/retry-request");
    vd_sha256_update(&s, path, strlen(path) + 1);
    vd_sha256_update(&s, body.p, body.n);
    vd_sha256_final(&s, &out->fingerprint);
    vd_sha256_init_tag(&s, idempotency_key ? "veridem/retry-key" : "veridem/retry-same");
    vd_sha256_update(&s, key->b, sizeof key->b);
    if (idempotency_key)
        vd_sha256_update(&s, idempotency_key, strlen(idempotency_key));
    else
        vd_sha256_hash(&s, &out->fingerprint);
    vd_sha256_final(&s, &out->slot);
}

static struct gw_once *running(struct vd_gateway *g, const struct vd_hash *slot)
{
    for (struct gw_once *o = g->once; o; o = o->next) {
        if (vd_hash_eq(&o->slot, slot))
            return o;
    }
    return NULL;
}

static bool was_delivered(const struct vd_gateway *g, const struct vd_hash *slot)
{
    for (size_t i = 0; i < GW_DELIVERED; i++) {
        if (vd_hash_eq(&g->delivered[i], slot))
            return true;
    }
    return false;
}

static enum gw_once_result another_body(struct vd_openai_error *e)
{
    vd_openai_fail(e, 422, "idempotency_key_reused", NULL,
                   "This Idempotency-Key was used for another request; use a new one.");
    return GW_ONCE_FAIL;
}

/* Waits until nobody runs under the slot. Under mu. */
static enum gw_once_result wait_for_others(struct vd_gateway *g, const struct gw_once *me, gw_alive_fn *alive,
                                           void *arg, struct vd_openai_error *e)
{
    uint64_t until = vd_clock_ms() + GW_JOIN_WAIT_MS;
    for (const struct gw_once *o = running(g, &me->slot); o; o = running(g, &me->slot)) {
        if (!vd_hash_eq(&o->fingerprint, &me->fingerprint))
            return another_body(e);
        bool in_time = vd_clock_ms() < until;
        if (atomic_load(&g->stopping)) {
            gw_shutting_down(e);
            return GW_ONCE_FAIL;
        }
        if (!in_time || !alive(arg)) {
            vd_openai_fail(e, 409, "request_in_progress", NULL,
                           "The first request with this key is still running.");
            e->retry_after_s = 1;
            return GW_ONCE_FAIL;
        }
        gw_cond_wait_ms(&g->once_changed, &g->mu, GW_ALIVE_POLL_MS);
    }
    return GW_ONCE_NEW;
}

enum gw_once_result gw_once_enter(struct vd_gateway *g, struct gw_once *me, bool join, gw_alive_fn *alive,
                                  void *arg, struct vd_gwstore_once *found, struct vd_openai_error *e)
{
    pthread_mutex_lock(&g->mu);
    enum gw_once_result r = join ? wait_for_others(g, me, alive, arg, e) : GW_ONCE_NEW;
    if (r == GW_ONCE_NEW) { /* from now on others wait for us, while we look into the store */
        me->next = g->once;
        g->once = me;
        join = join && !was_delivered(g, &me->slot);
    }
    pthread_mutex_unlock(&g->mu);
    if (r == GW_ONCE_FAIL || !join ||
        vd_gwstore_once_get(g->store, &me->slot, vd_clock_wall_s(), found, NULL) != VD_OK)
        return r;
    gw_once_leave(g, me);
    if (vd_hash_eq(&found->fingerprint, &me->fingerprint))
        return GW_ONCE_REPLAY;
    free(found->text);
    found->text = NULL;
    return another_body(e);
}

void gw_once_leave(struct vd_gateway *g, struct gw_once *me)
{
    pthread_mutex_lock(&g->mu);
    struct gw_once **at = &g->once;
    while (*at && *at != me)
        at = &(*at)->next;
    if (*at)
        *at = me->next;
    pthread_cond_broadcast(&g->once_changed);
    pthread_mutex_unlock(&g->mu);
}

void gw_once_delivered(struct vd_gateway *g, const struct vd_hash *slot)
{
    pthread_mutex_lock(&g->mu);
    g->delivered[g->delivered_at++ % GW_DELIVERED] = *slot;
    pthread_mutex_unlock(&g->mu);
}
