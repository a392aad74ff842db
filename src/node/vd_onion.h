/* The keeper of a beacon (docs/spec/audit.md, 2), next to a chain in the same process: opens an onion when
 * its account can pay the bond, and reveals each epoch's layer as soon as the epoch is over.
 *
 * It keeps no state: the onion follows from its secret key and from the first epoch that it is for, which the
 * ledger remembers. Two processes with one key would reveal the same layers.
 *
 * Ownership: everything in the config is borrowed. Thread rule: vd_onion_tick from one thread, not from the
 * chain's; after the chain is closed, vd_onion_stop. */
#ifndef VD_ONION_H
#define VD_ONION_H

#include "vd_chain.h"
#include "vd_log.h"

#include <stdatomic.h>

struct vd_onion_keeper {
    struct vd_chain *chain;
    const struct vd_keypair *key;
    const struct vd_log *log; /* may be NULL */
    atomic_bool sending;      /* a transaction is in the chain's queue */
    bool said_poor;
    atomic_uint_fast64_t n_layers, n_refused;
};

/* Looks at the state and sends what is due. Cheap when nothing is. */
void vd_onion_tick(struct vd_onion_keeper *k);

#endif
