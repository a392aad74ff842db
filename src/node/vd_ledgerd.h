/* The ledger as a role: the embedded chain served over links (docs/spec/wire.md, section 6), with /health and
 * /metrics.
 *
 * Everybody may connect, submit and ask; what a transaction may do is decided by its signature, not by the
 * link. A result goes out when its block is durable. A full disk refuses transactions (VD_ENOSPACE, to be
 * submitted again) and goes on answering questions.
 *
 * Ownership: the caller owns the daemon; files live in config.dir. Thread rule: start and stop from one
 * thread. */
#ifndef VD_LEDGERD_H
#define VD_LEDGERD_H

#include "vd_chain.h"
#include "vd_key.h"
#include "vd_log.h"

#include <stdatomic.h>

struct vd_ledgerd_config {
    const char *dir;                  /* the chain's folder */
    const struct vd_genesis *genesis; /* NULL: the folder's own */
    const struct vd_keypair *key;     /* the link's identity */
    const char *host;                 /* where links are accepted */
    uint16_t port;                    /* 0: the system chooses */
    const char *http_host;            /* NULL: no /health and /metrics */
    uint16_t http_port;
    uint32_t links_max;       /* 0: 256 */
    const struct vd_log *log; /* may be NULL */
    struct vd_store_config store;
};

struct vd_ledgerd;

/* VD_EBUSY (folder or port in use), VD_ECONFLICT (another network's folder), and vd_chain_open's. */
enum vd_err vd_ledgerd_start(struct vd_ledgerd **out, const struct vd_ledgerd_config *config,
                             struct vd_error *err);
uint16_t vd_ledgerd_port(const struct vd_ledgerd *d);
uint16_t vd_ledgerd_http_port(const struct vd_ledgerd *d); /* 0: none */
/* Ends links, then the chain: what it was told and had not decided is not applied, and clients submit it
 * again. NULL is allowed. */
void vd_ledgerd_stop(struct vd_ledgerd *d);

#endif
