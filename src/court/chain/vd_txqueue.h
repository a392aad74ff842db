/* Private to src/court/chain: the transactions that wait for a block, and who has how many of them.
 *
 * There are no fees, so what keeps one sender from crowding out the others is here:
 *   - a sender has at most VD_CHAIN_SENDER_MAX_TXS waiting; MOVEs apart, of which a dispute has one at most
 * (the ledger's check lets only the side to move in), so that whoever would fill this lane must have put down
 *     bonds;
 *   - a part of the queue is kept for MOVEs, and CHALLENGEs have a small one: an answer that does not get in
 *     loses a dispute;
 *   - up to half of a block goes to senders that have a MOVE waiting, with what they sent before it, since
 * nonces keep a sender's order; the rest goes by arrival;
 *   - what does not fit holds up its own sender only.
 *
 * Thread rule: the caller's mutex around everything but vd_txq_skip and vd_txq_skipped, which belong, with
 * the batch, to the one thread that takes. */
#ifndef VD_TXQUEUE_H
#define VD_TXQUEUE_H

#include "vd_chain.h"

/* A sender with something waiting, or a dispute with a MOVE. */
struct vd_txq_party {
    struct vd_txq_party *next; /* in its bucket */
    uint8_t key[32];
    uint32_t n_txs, n_moves; /* waiting or in the batch */
    uint64_t skipped;        /* the last round in which something of it did not fit */
};

struct vd_txq_entry {
    struct vd_txq_entry *next;
    struct vd_txq_party *sender, *dispute; /* dispute: MOVE only */
    vd_chain_done_fn *done;
    void *arg;
    struct vd_chain_result result;
    enum vd_tx_kind kind;
    bool deferred; /* stays for the next block */
    size_t n_bytes;
    uint8_t bytes[];
};

struct vd_txq_list {
    struct vd_txq_entry *head, **tail;
    uint32_t n_txs;
    size_t n_bytes;
};
void vd_txq_list_init(struct vd_txq_list *l);
void vd_txq_list_push(struct vd_txq_list *l, struct vd_txq_entry *e);
struct vd_txq_entry *vd_txq_list_pop(struct vd_txq_list *l); /* NULL: empty */

enum { VD_TXQ_BUCKETS = 4096 };
struct vd_txqueue {
    struct vd_txq_list waiting;
    uint32_t n_moves, n_challenges; /* waiting or in the batch */
    uint64_t round;
    struct vd_txq_party *bucket[VD_TXQ_BUCKETS];
};
void vd_txq_init(struct vd_txqueue *q);

/* Owns `e` from VD_OK on. VD_EAGAIN says what is full; VD_ENOMEM. */
enum vd_err vd_txq_add(struct vd_txqueue *q, struct vd_txq_entry *e, const struct vd_tx *tx,
                       struct vd_error *err);

/* Moves what fits a block to `batch`, in the order in which it is to be delivered. Starts a round. */
void vd_txq_take(struct vd_txqueue *q, struct vd_txq_list *batch);

/* In a round, after something of e's sender did not fit the rest of it must wait as well. */
void vd_txq_round(struct vd_txqueue *q);
void vd_txq_skip(struct vd_txqueue *q, struct vd_txq_entry *e);
bool vd_txq_skipped(const struct vd_txqueue *q, const struct vd_txq_entry *e);

/* The batch is over: what is deferred goes back, ahead of what came since; the rest no longer counts and goes
 * to `finished`, the caller's. */
void vd_txq_return(struct vd_txqueue *q, struct vd_txq_list *batch, struct vd_txq_list *finished);

#endif
