/* The embedded chain: one sequencer inside this process, a block every block_time whether empty or not,
 * durable in LMDB before anything in it is acknowledged (group commit: one synced write per block).
 *
 * Submitting is asynchronous: vd_chain_submit queues a signed transaction, and its callback is called exactly
 * once, from the chain's thread, after the block that holds it is durable, or when it was refused, or when
 * the chain cannot take it. A refusal that state decides is reported only after the state it was decided on
 * is durable. The same shape fits a chain engine in other processes.
 *
 * Views are reads of one committed state. A full disk: transactions end in VD_ENOSPACE, reads go on, and
 * blocks go on as soon as there is room.
 *
 * Thread rule: every function may be called from any thread, but from callbacks only vd_chain_submit, views
 * and vd_chain_tip. Callbacks must be quick: the next block waits for them. */
#ifndef VD_CHAIN_H
#define VD_CHAIN_H

#include "vd_err.h"
#include "vd_ledger.h"
#include "vd_store.h"

enum {
    VD_CHAIN_QUEUE_MAX_TXS = 16384,
    VD_CHAIN_QUEUE_MAX_BYTES = 64 << 20,
    /* Of these, what only MOVEs may use. */
    VD_CHAIN_QUEUE_MOVE_TXS = 4096,
    VD_CHAIN_QUEUE_MOVE_BYTES = 16 << 20,
    VD_CHAIN_QUEUE_MAX_CHALLENGES = 1024,
    VD_CHAIN_SENDER_MAX_TXS = 64, /* of one sender, MOVEs apart */
    VD_CHAIN_SENDER_MAX_MOVES = 256,
};

struct vd_chain;

/* The next event of a block's list at *offset (start with 0); false at the end. `encoded` (may be NULL) gets
 * its own bytes. */
bool vd_chain_events_next(struct vd_bytes list, size_t *offset, struct vd_bytes *encoded,
                          struct vd_event *out);

struct vd_chain_block_info {
    struct vd_block_header header;
    struct vd_hash hash;
    struct vd_bytes events; /* see vd_chain_events_next; borrowed: for the call, or as long as the view */
};

struct vd_chain_config {
    const char *dir; /* its own folder, e.g. $VERIDEM_HOME/ledger */
    /* The network. On a new folder it makes block 0; on an old one it must be the same (VD_ECONFLICT). NULL:
     * the folder's own (VD_ENOTFOUND if it is new). Copied. */
    const struct vd_genesis *genesis;
    /* Called after each durable block, from the chain's thread, in order of heights, before the callbacks of
     * its transactions. May be NULL. */
    void (*on_block)(void *arg, const struct vd_chain_block_info *block);
    void *on_block_arg;
    uint32_t block_time_ms;       /* 0: the genesis's */
    struct vd_store_config store; /* zeros: the defaults */
};

/* VD_EBUSY: the folder is open in another process; VD_EVERSION: written by a newer version, or by
 * other rules; VD_ECONFLICT: another network's. Starts the thread. */
enum vd_err vd_chain_open(struct vd_chain **out, const struct vd_chain_config *config, struct vd_error *err);
/* Finishes the block at hand, ends what is queued with VD_ECANCELLED, closes. Not from a callback. NULL
 * allowed. */
void vd_chain_close(struct vd_chain *c);

const struct vd_genesis *vd_chain_genesis(const struct vd_chain *c);
const struct vd_ledger *vd_chain_ledger(const struct vd_chain *c); /* holds the genesis hash */

struct vd_chain_result {
    struct vd_hash tx_id; /* zero if the transaction was malformed */
    /* VD_OK: decided, see verdict. Else not decided: VD_ENOSPACE, VD_EIO, VD_ENOMEM, VD_EAGAIN,
     * VD_ECANCELLED, or what stopped the chain; submit it again later, it can be applied only once. */
    enum vd_err err;
    enum vd_tx_verdict verdict;
    /* The durable block that holds it (VD_TX_OK; for VD_TX_DUPLICATE the earlier one), else the height of the
     * state that refused it. */
    uint64_t height;
    uint32_t index; /* in that block */
};
typedef void vd_chain_done_fn(void *arg, const struct vd_chain_result *result);

/* Copies and queues. What can be refused without state (form, network, signature: checked in this thread),
 * and what the committed state already shows as applied or refuses (vd_ledger_check), is reported at once, by
 * `done`, before this returns. A sender may have several on their way, nonce after nonce. VD_EAGAIN: the
 * queue, or the sender's part of it, is full (done is not called); VD_ECANCELLED: the chain is closing (done
 * is not called). */
enum vd_err vd_chain_submit(struct vd_chain *c, struct vd_bytes tx, vd_chain_done_fn *done, void *arg,
                            struct vd_error *err);

struct vd_chain_status {
    struct vd_store_tip tip;
    /* VD_OK, or why blocks do not go on: VD_ENOSPACE, VD_EIO, VD_ENOMEM, VD_EAGAIN (retried), any other
     * (stopped) */
    enum vd_err health;
    struct vd_error why;
    uint32_t queued_txs;
};
void vd_chain_status(struct vd_chain *c, struct vd_chain_status *out);

/* Reads of the latest durable state: vd_store.h's views (kv for the queries of vd_ledger.h, blocks, proofs).
 */
enum vd_err vd_chain_view_open(struct vd_chain *c, struct vd_store_view **out, struct vd_error *err);
/* A block of a view, for those who follow from a height. VD_ENOTFOUND. (vd_store_view_block has its
 * transactions.) */
enum vd_err vd_chain_read_block(struct vd_store_view *v, uint64_t height, struct vd_chain_block_info *out,
                                struct vd_error *err);

/* Replays all blocks of a folder from its genesis in a scratch copy and compares every hash and every root.
 * VD_EFALSE names the first height that differs. The folder must not be open. `max_height` 0: all. *n_blocks
 * may be NULL. */
enum vd_err vd_chain_verify(const char *dir, uint64_t max_height, uint64_t *n_blocks, struct vd_error *err);

#endif
