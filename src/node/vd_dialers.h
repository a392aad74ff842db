/* The gateways that a worker or a verifier dials: one dialer for each, which keeps its link up.
 *
 * Thread rule: start and stop from one thread. */
#ifndef VD_DIALERS_H
#define VD_DIALERS_H

#include "vd_link.h"
#include "vd_worker.h"

struct vd_dialers { /* zeros: none */
    struct vd_link_dialer *one[VD_WORKER_GATEWAYS_MAX];
    size_t n;
};

/* n <= VD_WORKER_GATEWAYS_MAX. All have the key and the callbacks of `link`. Those that were started before
 * an error are stopped by vd_dialers_stop, like the others. */
enum vd_err vd_dialers_start(struct vd_dialers *d, const struct vd_link_config *link,
                             const struct vd_worker_peer *peer, size_t n, struct vd_error *err);
/* No callback comes any more when it returns. */
void vd_dialers_stop(struct vd_dialers *d);

#endif
