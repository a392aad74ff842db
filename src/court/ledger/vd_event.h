/* What a block did, for those who follow the chain. Events are derived: replaying the block gives the same
 * list.
 *
 * A block has at most VD_BLOCK_MAX_EVENTS of them. Thread rule: pure functions. */
#ifndef VD_EVENT_H
#define VD_EVENT_H

#include "vd_amount.h"
#include "vd_bytes.h"
#include "vd_key.h"

/* X(code, number, name, what id, a, b and amount are) */
#define VD_EVENT_LIST(X)                                                                                     \
    X(VD_EVENT_TRANSFER, 1, "transfer", "id: tx, a: from, b: to")                                            \
    X(VD_EVENT_STAKE, 2, "stake", "a: worker, amount: added")                                                \
    X(VD_EVENT_UNSTAKE, 3, "unstake", "a: worker, amount: now unbonding")                                    \
    X(VD_EVENT_WITHDRAW, 4, "withdraw", "a: worker")                                                         \
    X(VD_EVENT_MODEL, 5, "model", "id: model root, a: registrant")                                           \
    X(VD_EVENT_OFFER, 6, "offer", "id: model root, a: worker, amount: price per output token, 0 withdrawn")  \
    X(VD_EVENT_ESCROW_OPENED, 7, "escrow-opened", "id: escrow, a: owner, b: gateway")                        \
    X(VD_EVENT_ESCROW_TOPUP, 8, "escrow-topup", "id: escrow, a: payer")                                      \
    X(VD_EVENT_ESCROW_CLOSING, 9, "escrow-closing", "id: escrow, a: owner")                                  \
    X(VD_EVENT_ESCROW_RETURNED, 10, "escrow-returned", "id: escrow, a: owner")                               \
    X(VD_EVENT_SETTLED, 11, "settled", "id: receipt, a: worker, b: gateway")                                 \
    X(VD_EVENT_FINAL, 12, "final", "id: receipt, a: worker, b: gateway")                                     \
    X(VD_EVENT_VOID, 13, "void", "id: receipt, a: worker, b: who got the amount back (escrow's owner)")      \
    X(VD_EVENT_CHALLENGED, 14, "challenged", "id: dispute, a: worker, b: challenger, amount: bond")          \
    X(VD_EVENT_MOVED, 15, "moved", "id: dispute, a: who moved, amount: bytes of the move")                   \
    X(VD_EVENT_WORKER_LOST, 16, "worker-lost", "id: dispute, a: worker, b: challenger, amount: share paid")  \
    X(VD_EVENT_CHALLENGER_LOST, 17, "challenger-lost",                                                       \
      "id: dispute, a: worker, b: challenger, amount: bond")                                                 \
    X(VD_EVENT_MOOT, 18, "moot", "id: dispute, a: worker, b: challenger, amount: bond returned")             \
    X(VD_EVENT_SLASHED, 19, "slashed", "id: receipt, a: worker, amount: taken from the stake")               \
    X(VD_EVENT_BURNED, 20, "burned",                                                                         \
      "id: receipt, a: worker; of a bond: id: dispute, a: worker, b: challenger")                            \
    X(VD_EVENT_BEACON_OPENED, 21, "beacon-opened", "a: keeper, amount: bond")                                \
    X(VD_EVENT_BEACON, 22, "beacon", "a: keeper, id: layer")                                                 \
    X(VD_EVENT_BEACON_MISSED, 23, "beacon-missed", "a: keeper, amount: bond burned")                         \
    X(VD_EVENT_BEACON_ENDED, 24, "beacon-ended", "a: keeper, amount: bond returned")                         \
    X(VD_EVENT_AUDITOR, 25, "auditor", "id: model root, a: auditor, amount: its weight, 0 withdrawn")        \
    X(VD_EVENT_AUDIT_DRAWN, 26, "audit-drawn", "id: receipt, a: auditor, b: worker")                         \
    X(VD_EVENT_AUDIT_COMMITTED, 27, "audit-committed", "id: receipt, a: auditor")                            \
    X(VD_EVENT_AUDIT_OPEN, 28, "audit-open", "id: receipt, a: worker; commitments may be revealed")          \
    X(VD_EVENT_AUDIT_REVEALED, 29, "audit-revealed", "id: receipt, a: auditor, amount: its verdict")         \
    X(VD_EVENT_AUDIT_DEMANDED, 30, "audit-demanded", "id: receipt, a: worker, b: auditor")                   \
    X(VD_EVENT_AUDIT_SHOWN, 31, "audit-shown",                                                               \
      "id: receipt, a: worker, b: who showed the data, all of them")                                         \
    X(VD_EVENT_AUDIT_MISSED, 32, "audit-missed", "id: receipt, a: auditor, amount: slashed")                 \
    X(VD_EVENT_AUDIT_DONE, 33, "audit-done", "id: receipt, a: worker")                                       \
    X(VD_EVENT_AUDIT_PAID, 34, "audit-paid", "id: receipt, a: auditor")                                      \
    X(VD_EVENT_AUDIT_SLASHED, 35, "audit-slashed", "id: receipt, a: auditor, amount: slashed")               \
    X(VD_EVENT_WITHHELD, 36, "withheld", "id: receipt, a: worker")                                           \
    X(VD_EVENT_TRAP_PLANTED, 37, "trap-planted", "id: trap, a: owner, amount: bond")                         \
    X(VD_EVENT_TRAP_OPENED, 38, "trap-opened", "id: receipt, id2: trap, a: worker, b: owner")                \
    X(VD_EVENT_TRAP_EXPIRED, 39, "trap-expired", "id: trap, a: owner, amount: bond burned")

enum vd_event_kind {
#define X(code, number, name, meaning) code = number,
    VD_EVENT_LIST(X)
#undef X
};
const char *vd_event_name(enum vd_event_kind k);

#define VD_EVENT_NO_TX UINT32_MAX /* done by the end of the block (a deadline) */

struct vd_event {
    enum vd_event_kind kind;
    uint32_t tx_index; /* in the block, or VD_EVENT_NO_TX */
    struct vd_hash id,
        id2;               /* id2: the receipt for dispute events, the escrow for receipt events, else zero */
    struct vd_pubkey a, b; /* zero where the list names none */
    struct vd_amount amount;
};

enum { VD_EVENT_MAX_BYTES = 192 };
size_t vd_event_encode(const struct vd_event *e, uint8_t *buf, size_t cap_bytes);
bool vd_event_decode(struct vd_bytes in, struct vd_event *out);

#endif
