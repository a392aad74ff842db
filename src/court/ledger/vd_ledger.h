/* The ledger: a pure function (state, block) -> (state', events). docs/spec/ledger.md is the normative text.
 *
 * It reads the state through vd_kvs, writes to an overlay in the caller's arena, and never allocates, reads a
 * clock or touches a global. The chain engine (src/court/chain) decides which transactions stand in a block
 * and makes the overlay durable; the store computes the state root from it.
 *
 *   check     may this transaction be worth queueing? (no state, or the committed state)
 *   prepare   begin, deliver candidates, keep those with VD_TX_OK: a proposal
 *   process   is this proposal acceptable? (limits, decoding, every transaction applies)
 *   finalize  begin, deliver each transaction, end: changes and events, the same everywhere
 *   commit    the engine's: write the overlay and the block in one durable transaction
 *
 * Rules: money is conserved in every block (checked in end, in every build); settled <= escrow; a worker's
 * unsettled value <= its stake when a receipt settles; work in a block is bounded by the block's and an
 * earlier block's size.
 *
 * Thread rule: one thread per vd_ledger_block; struct vd_ledger is constant after init. */
#ifndef VD_LEDGER_H
#define VD_LEDGER_H

#include "vd_block.h"
#include "vd_event.h"
#include "vd_genesis.h"
#include "vd_kvs.h"
#include "vd_state.h"
#include "vd_tx.h"

enum {
    VD_BLOCK_MAX_EVENTS = 163840,
    /* Clocks and windows that one block ends; more of the same height wait for the next block. A block cannot
     * make so many of them, so they do not pile up, and each makes sixteen events at most. */
    VD_BLOCK_MAX_DEADLINES = 8192,
    VD_BLOCK_MAX_DRAWS = 64, /* audits that one block opens; more have their place in a later one */
    /* AUDIT_DATA in one block, by the bytes of their tokens and tables: four whole parts. Refused ones, which
     * cost as much (some 10 ms for a whole part), take no place of those that are due; whoever makes a block
     * looks at no more of them than its transactions may have bytes. */
    VD_BLOCK_MAX_SHOWN_BYTES = 4 << 16,
    VD_LEDGER_NONCE_AHEAD = 640, /* transactions of one sender that may be on their way */
    /* A block never needs more than this arena (pages that are not touched cost nothing). */
    VD_LEDGER_ARENA_BYTES = 192 << 20,
};

struct vd_ledger {
    const struct vd_genesis *genesis;
    struct vd_hash genesis_hash;
};

/* `genesis` must be checked (vd_genesis_check) and outlive the ledger. `scratch` needs VD_GENESIS_MAX_BYTES.
 */
enum vd_err vd_ledger_init(struct vd_ledger *l, const struct vd_genesis *genesis, struct vd_arena *scratch,
                           struct vd_error *err);
/* Writes the state of block 0. */
void vd_ledger_write_genesis(const struct vd_ledger *l, struct vd_overlay *o);

/* A block being worked on. Everything in it is private but `overlay`, `event`, `n_events` and `height`. */
struct vd_ledger_block {
    const struct vd_ledger *ledger;
    uint64_t height, time_ms;
    struct vd_overlay overlay;
    struct vd_arena *arena;
    struct vd_totals totals;
    struct vd_event *event;
    uint32_t n_events, n_txs, n_moves, n_challenges, n_draws; /* n_moves: tried */
    uint32_t n_shown_bytes;                                   /* of AUDIT_DATA applied */
    size_t tx_bytes;
    bool ending;                  /* the transactions are done, deadlines run */
    struct vd_state_key deadline; /* while they do: none that is earlier is left */
    bool broken;                  /* a record of the state does not decode, or a bucket would go below zero */
};

/* Starts the block on top of `base`. The arena's memory belongs to the block until it is dropped. VD_ENOMEM
 * if the arena is too small. */
enum vd_err vd_ledger_begin(struct vd_ledger_block *b, const struct vd_ledger *l, struct vd_kvs *base,
                            struct vd_arena *arena, uint64_t height, uint64_t time_ms, struct vd_error *err);

/* Applies one transaction. Unless VD_TX_OK it changes nothing. `verified`: the caller has checked the
 * signature on exactly these bytes (vd_ledger_check did). */
enum vd_tx_verdict vd_ledger_deliver(struct vd_ledger_block *b, struct vd_bytes tx, bool verified);

/* Clocks and windows that end in this block, then the invariants. VD_EINTERNAL if money is not conserved or a
 * record is damaged (the message says which), VD_ENOMEM if the arena was too small, VD_EIO if the base
 * failed: the block must not be committed. */
enum vd_err vd_ledger_end(struct vd_ledger_block *b, struct vd_error *err);

/* Without state (kv NULL): form, network, signature. With the committed state also: is it applied already,
 * has the sender an account, is the nonce the sender's next one or at most VD_LEDGER_NONCE_AHEAD - 1 further,
 * is the receipt of a CHALLENGE open, and is the sender of a MOVE the side to move. Costs one signature
 * check. */
enum vd_tx_verdict vd_ledger_check(const struct vd_ledger *l, struct vd_kvs *kv, struct vd_bytes tx,
                                   struct vd_hash *id);

/* Delivers tx[0..n) in order and sets verdict[i]; those with VD_TX_OK are the proposal. Drop the block
 * afterwards, or go on with vd_ledger_end: begin, prepare and end are finalize of the chosen ones. verified
 * may be NULL (none is). */
void vd_ledger_prepare(struct vd_ledger_block *b, const struct vd_bytes *tx, uint32_t n, const bool *verified,
                       enum vd_tx_verdict *verdict);
/* True if every transaction of the proposal applies in this order. Drop the block afterwards. */
bool vd_ledger_process(struct vd_ledger_block *b, const struct vd_bytes *tx, uint32_t n);
/* begin, deliver, end. verdict may be NULL. */
enum vd_err vd_ledger_finalize(struct vd_ledger_block *b, const struct vd_ledger *l, struct vd_kvs *base,
                               struct vd_arena *arena, const struct vd_block *block,
                               enum vd_tx_verdict *verdict, struct vd_error *err);

/* Queries, against any state. False: not there (or, kv->failed, unreadable). Borrowed bytes live as kv's do.
 */
bool vd_ledger_get_totals(struct vd_kvs *kv, struct vd_totals *out);
bool vd_ledger_get_account(struct vd_kvs *kv, const struct vd_pubkey *key, struct vd_account *out);
bool vd_ledger_get_stake(struct vd_kvs *kv, const struct vd_pubkey *worker, struct vd_stake *out);
bool vd_ledger_get_model(struct vd_kvs *kv, const struct vd_hash *root, struct vd_model_record *out);
/* An offer that stands: made after the last verdict against the worker. Those who would use it also look
 * whether the worker's stake is min_stake at least. */
bool vd_ledger_get_offer(struct vd_kvs *kv, const struct vd_hash *root, const struct vd_pubkey *worker,
                         struct vd_offer *out);
bool vd_ledger_get_escrow(struct vd_kvs *kv, const struct vd_hash *id, struct vd_escrow *out);
bool vd_ledger_get_receipt(struct vd_kvs *kv, const struct vd_hash *id, struct vd_receipt_record *out);
/* Which receipt settled (escrow, sequence)? */
bool vd_ledger_get_settled(struct vd_kvs *kv, const struct vd_hash *escrow_id, uint64_t sequence,
                           struct vd_hash *receipt_id);
bool vd_ledger_get_dispute(struct vd_kvs *kv, const struct vd_hash *id, struct vd_dispute *out);
/* The bytes of vd_game while the dispute is open. */
bool vd_ledger_get_game(struct vd_kvs *kv, const struct vd_hash *dispute_id, struct vd_bytes *out);
bool vd_ledger_get_audit(struct vd_kvs *kv, const struct vd_hash *receipt_id, struct vd_audit *out);
bool vd_ledger_get_keeper(struct vd_kvs *kv, const struct vd_pubkey *key, struct vd_keeper *out);
bool vd_ledger_get_tx(struct vd_kvs *kv, const struct vd_hash *id, struct vd_tx_place *out);

/* Lists: all records of a class whose key goes on with `key` (offers of a model, open disputes of a worker,
 * ...), in the order of keys, starting after `after` (NULL: from the first). fn gets the whole key and the
 * value, and returns false to stop. */
typedef bool vd_ledger_list_fn(void *arg, struct vd_bytes key, struct vd_bytes value);
void vd_ledger_list(struct vd_kvs *kv, enum vd_state_class c, struct vd_bytes key,
                    const struct vd_state_key *after, vd_ledger_list_fn *fn, void *arg);

/* For a state that was written before there was VD_INDEX_CHALLENGER_DISPUTE: writes it, from the disputes
 * that are open in `kv`, to `o`. False: a record is missing or damaged, kv failed, or o's arena is too small.
 */
bool vd_ledger_index_challenges(struct vd_kvs *kv, struct vd_overlay *o);

#endif
