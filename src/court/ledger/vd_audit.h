/* What audits hash (docs/spec/audit.md): onions, the beacon, who is drawn, commitments, traps. Used by the
 * ledger that judges, and by keepers and auditors that take part.
 *
 * Thread rule: pure functions. Nothing allocates. */
#ifndef VD_AUDIT_H
#define VD_AUDIT_H

#include "vd_genesis.h"
#include "vd_receipt.h"
#include "vd_tx.h"

/* ---- the onion ---- */

/* What a layer must hash to: the layer revealed before it, or the anchor. */
struct vd_hash vd_onion_outer(const struct vd_hash *layer);
/* The layer that has `inner` layers below it. Layer 0 is made from the keeper's secret seed; the anchor of an
 * onion of n layers is number n. Costs `inner` hashes. */
struct vd_hash vd_onion_layer(const uint8_t seed[32], uint32_t inner);

/* ---- epochs and the beacon ---- */

static inline uint64_t vd_epoch_of(const struct vd_genesis *g, uint64_t height)
{
    return height / g->epoch_blocks;
}
/* The last block in which the epoch's layers may be revealed; at its end the epoch is drawn. */
static inline uint64_t vd_epoch_due(const struct vd_genesis *g, uint64_t epoch)
{
    return (epoch + 1) * g->epoch_blocks + g->beacon_blocks - 1;
}
/* What a keeper's layer adds (by XOR) to its epoch's mix, and what the beacon is of the whole mix. */
struct vd_hash vd_beacon_part(const struct vd_pubkey *keeper, const struct vd_hash *layer);
struct vd_hash vd_beacon_value(uint64_t epoch, const struct vd_hash *mix);

/* ---- drawing ---- */

bool vd_audit_is_drawn(const struct vd_hash *beacon, const struct vd_hash *receipt_id, uint32_t rate_ppm);
/* A number below total (> 0): the i-th auditor of a receipt stands where it falls in the sum of weights. */
uint64_t vd_audit_point(const struct vd_hash *beacon, const struct vd_hash *receipt_id, uint32_t i,
                        uint64_t total);

/* ---- commit and reveal ---- */

struct vd_hash vd_audit_commitment(const struct vd_pubkey *auditor, const struct vd_tx_audit_reveal *what);
/* Is the receipt's commit root the hash of these two? Only who computed the tree, or was told, knows them. A
 * tree of one leaf: the two unit hashes in it. */
bool vd_audit_halves_fit(const struct vd_receipt *r, const struct vd_hash half[2]);

/* ---- traps ---- */

/* What TRAP_PLANT shows: the secret, and the one receipt that may ever be this trap. */
struct vd_hash vd_trap_commitment(const struct vd_hash *secret, const struct vd_hash *escrow_id,
                                  uint64_t sequence);
struct vd_hash vd_trap_leaf(const struct vd_hash *secret); /* stands in place of a leaf of the commit tree */

#endif
