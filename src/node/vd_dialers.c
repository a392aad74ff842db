/* A peer that is away does not keep the others from being dialled: each dialer has its own thread. */
#include "vd_dialers.h"

#include <assert.h>

enum vd_err vd_dialers_start(struct vd_dialers *d, const struct vd_link_config *link,
                             const struct vd_worker_peer *peer, size_t n, struct vd_error *err)
{
    assert(n <= VD_WORKER_GATEWAYS_MAX);
    for (d->n = 0; d->n < n; d->n++) {
        const struct vd_worker_peer *p = &peer[d->n];
        enum vd_err e = vd_link_dialer_start(&d->one[d->n], link, p->host, p->port, p->key, err);
        if (e != VD_OK)
            return e;
    }
    return VD_OK;
}

void vd_dialers_stop(struct vd_dialers *d)
{
    while (d->n > 0)
        vd_link_dialer_stop(d->one[--d->n]);
}
