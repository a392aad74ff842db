/* The records of the ledger's state: one struct, one key and one canonical encoding each. A query returns a
 * record's bytes as they stand in the state, so that they can be checked against the state root.
 *
 * All heights are block heights. Nothing allocates. Thread rule: pure functions. */
#ifndef VD_STATE_H
#define VD_STATE_H

#include "vd_amount.h"
#include "vd_genesis.h"
#include "vd_kvs.h"
#include "vd_key.h"
#include "vd_receipt.h"

/* X(code, first byte of the key, rest of the key) */
#define VD_STATE_LIST(X)                                                                                     \
    X(VD_STATE_TOTALS, 'T', "")                                                                              \
    X(VD_STATE_ACCOUNT, 'a', "public key")                                                                   \
    X(VD_STATE_STAKE, 's', "public key")                                                                     \
    X(VD_STATE_MODEL, 'm', "model root")                                                                     \
    X(VD_STATE_OFFER, 'o', "model root, worker")                                                             \
    X(VD_STATE_ESCROW, 'e', "escrow id")                                                                     \
    X(VD_STATE_RECEIPT, 'r', "receipt id")                                                                   \
    X(VD_STATE_SETTLED, 'q', "escrow id, u64 sequence big-endian; value: receipt id")                        \
    X(VD_STATE_DISPUTE, 'd', "dispute id")                                                                   \
    X(VD_STATE_GAME, 'g', "dispute id; value: state of vd_game")                                             \
    X(VD_STATE_KEEPER, 'k', "public key")                                                                    \
    X(VD_STATE_BEACON, 'b', "u64 epoch big-endian")                                                          \
    X(VD_STATE_AUDITOR, 'u', "model root, public key")                                                       \
    X(VD_STATE_AUDIT, 'v', "receipt id")                                                                     \
    X(VD_STATE_SHOWING, 'w', "receipt id, who shows the data")                                               \
    X(VD_STATE_TRAP, 'p', "trap id")                                                                         \
    X(VD_STATE_DEADLINE, 'x', "u64 height big-endian, class byte, id; value: empty")                         \
    X(VD_INDEX_TX, 0x80, "transaction id; value: TxPlace")                                                   \
    X(VD_INDEX_ACCOUNT_ESCROW, 0x81, "owner, escrow id; value: empty")                                       \
    X(VD_INDEX_GATEWAY_ESCROW, 0x82, "gateway, escrow id; value: empty")                                     \
    X(VD_INDEX_OPEN_RECEIPT, 0x83, "worker, receipt id; value: empty (receipts that are SETTLED)")           \
    X(VD_INDEX_OPEN_DISPUTE, 0x84, "worker, dispute id; value: empty")                                       \
    X(VD_INDEX_RECEIPT_DISPUTE, 0x85, "receipt id, dispute id; value: empty")                                \
    X(VD_INDEX_AUDITOR_AUDIT, 0x86, "auditor, receipt id; value: empty (audits that are not closed)")        \
    X(VD_INDEX_SHOWN, 0x87,                                                                                  \
      "receipt id, who, u32 first big-endian; value: tokens as shown; first 2^32 - 1: Tables")               \
    X(VD_INDEX_CHALLENGER_DISPUTE, 0x88,                                                                     \
      "receipt id, challenger, dispute id; value: empty (disputes that are open)")

enum vd_state_class {
#define X(code, first_byte, rest) code = first_byte,
    VD_STATE_LIST(X)
#undef X
};
/* True if `number` is a class of the list. */
bool vd_state_class_valid(uint32_t number);

struct vd_state_key {
    uint8_t b[VD_KVS_KEY_MAX_BYTES];
    size_t n;
};
static inline struct vd_bytes vd_state_key_bytes(const struct vd_state_key *k)
{
    return (struct vd_bytes){k->b, k->n};
}
/* class, then p (n_bytes; with q, 32 bytes, after it if not NULL). */
struct vd_state_key vd_state_key_make(enum vd_state_class c, const void *p, size_t n_bytes, const void *q);
struct vd_state_key vd_state_key_settled(const struct vd_hash *escrow_id, uint64_t sequence);
struct vd_state_key vd_state_key_beacon(uint64_t epoch);
struct vd_state_key vd_state_key_shown(const struct vd_hash *receipt_id, const struct vd_pubkey *who,
                                       uint32_t first);
/* Of VD_INDEX_CHALLENGER_DISPUTE; dispute_id NULL: what the keys of this challenger's disputes about the
 * receipt begin with. */
struct vd_state_key vd_state_key_challenge(const struct vd_hash *receipt_id,
                                           const struct vd_pubkey *challenger,
                                           const struct vd_hash *dispute_id);

/* Where the money is. The sum of the buckets is the genesis supply in every block; each bucket is the sum
 * over the records that hold it, because only writing a record changes it. */
#define VD_BUCKET_LIST(X)                                                                                    \
    X(VD_BUCKET_ACCOUNTS, "accounts")                                                                        \
    X(VD_BUCKET_STAKES, "stakes")                                                                            \
    X(VD_BUCKET_UNBONDING, "unbonding")                                                                      \
    X(VD_BUCKET_ESCROWS, "escrows")                                                                          \
    X(VD_BUCKET_PENDING, "pending")                                                                          \
    X(VD_BUCKET_BONDS, "bonds")                                                                              \
    X(VD_BUCKET_POOL, "pool")                                                                                \
    X(VD_BUCKET_BURNED, "burned")
enum vd_bucket {
#define X(code, name) code,
    VD_BUCKET_LIST(X)
#undef X
        VD_BUCKETS
};
const char *vd_bucket_name(enum vd_bucket b);

struct vd_totals {
    struct vd_amount bucket[VD_BUCKETS];
    uint64_t n_txs;         /* applied since genesis */
    uint64_t n_full_blocks; /* with so many AUDIT_DATA that another might not fit */
    /* Of the audits drawn so far the last has its place in this block, and so many have theirs in it. */
    uint64_t place_height, n_places;
};

struct vd_account {
    struct vd_amount balance;
    uint64_t nonce; /* the next transaction's */
};

struct vd_stake {
    struct vd_amount amount;
    struct vd_amount unbonding;
    uint64_t withdraw_height; /* WITHDRAW is allowed from this height on; 0 when nothing is unbonding */
    struct vd_amount
        unsettled; /* sum over this worker's receipts that are SETTLED; <= amount when one is added */
    uint64_t n_open_receipts, n_open_disputes;
    /* Of the last verdict against this worker, 0: none. A receipt that settled in this block or before is
     * paid to nobody any more, and an offer made by then stands no longer. */
    uint64_t convicted_height;
    uint64_t n_open_audits; /* that it is an auditor of */
    uint64_t n_final;       /* receipts that became FINAL since the last verdict against it */
    uint64_t audit_blocks;  /* what replaying all of those open audits takes */
    /* Models that it is an AUDITOR of, and the last height up to which it may still be drawn though it has
     * withdrawn: until then the stake is what draws weigh. */
    uint64_t n_listed, listed_until_height;
    /* The longest replay, in blocks, of the disputes opened against it since there last was none. */
    uint64_t longest_replay_blocks;
};

struct vd_model_record {
    uint32_t n_tensors;
    struct vd_hash tensors_root;
    struct vd_pubkey registrant;
    uint64_t height;
    struct vd_bytes program; /* points into the decoded bytes */
};

struct vd_offer {
    struct vd_amount price_in, price_out;
    uint32_t capacity;
    uint64_t height; /* of the last change */
};

struct vd_escrow {
    struct vd_pubkey owner, gateway;
    struct vd_amount deposited, settled, returned; /* settled: net of voided receipts */
    struct vd_amount balance; /* deposited - settled - returned: what can still be settled */
    uint64_t open_height;
    uint64_t end_height; /* 0: open. Else: closing; at this height the rest returns to the owner */
    bool ended;          /* the rest has returned */
};

/* X(code, number, name) */
#define VD_RECEIPT_STATUS_LIST(X)                                                                            \
    X(VD_RECEIPT_SETTLED, 1, "settled")                                                                      \
    X(VD_RECEIPT_FINAL, 2, "final")                                                                          \
    X(VD_RECEIPT_VOID, 3, "void")
enum vd_receipt_status {
#define X(code, number, name) code = number,
    VD_RECEIPT_STATUS_LIST(X)
#undef X
};
const char *vd_receipt_status_name(enum vd_receipt_status s);

/* X(code, number, name) Why a receipt is VOID. */
#define VD_VOID_WHY_LIST(X)                                                                                  \
    X(VD_VOID_NOT, 0, "")                                                                                    \
    X(VD_VOID_VERDICT, 1, "a dispute's verdict")                                                             \
    X(VD_VOID_LATE, 2, "the worker was late in a dispute")                                                   \
    X(VD_VOID_CONVICTED, 3, "a verdict about another receipt of the worker")                                 \
    X(VD_VOID_WITHHELD, 4, "its data were withheld from an audit")                                           \
    X(VD_VOID_TRAP, 5, "it was a trap for auditors")
enum vd_void_why {
#define X(code, number, name) code = number,
    VD_VOID_WHY_LIST(X)
#undef X
};
const char *vd_void_why_name(enum vd_void_why w);

struct vd_receipt_record {
    enum vd_receipt_status status;
    struct vd_hash escrow_id;
    uint64_t sequence;
    struct vd_pubkey worker, gateway;
    struct vd_hash model_root;
    struct vd_amount amount;
    uint64_t settle_height, window_end_height; /* CHALLENGE is allowed up to and including the latter */
    uint64_t close_height;                     /* when it became FINAL or VOID; 0 before */
    uint32_t n_open_disputes;
    enum vd_void_why void_why;
    bool audited;    /* there is an audit of it */
    bool audit_open; /* and it is under way: the receipt is not paid before it ends */
    /* 1 + the epoch by whose beacon it was drawn, and the rate that drew it; 0: it was not, or there was
     * nobody to audit it. Drawn and not audited: it waits for its place, and is not paid before that. */
    uint64_t drawn_epoch;
    uint32_t drawn_rate_ppm;
    struct vd_hash state_root; /* the first that the worker showed, in any dispute; zero before */
    struct vd_bytes body; /* the receipt's bytes while SETTLED, empty after; points into the decoded bytes */
};

/* X(code, number, name) */
#define VD_DISPUTE_STATUS_LIST(X)                                                                            \
    X(VD_DISPUTE_WORKER_MOVES, 1, "worker to move")                                                          \
    X(VD_DISPUTE_CHALLENGER_MOVES, 2, "challenger to move")                                                  \
    X(VD_DISPUTE_WORKER_LOST, 3, "worker lost by verdict")                                                   \
    X(VD_DISPUTE_WORKER_LATE, 4, "worker lost on the clock")                                                 \
    X(VD_DISPUTE_CHALLENGER_LOST, 5, "challenger lost by verdict")                                           \
    X(VD_DISPUTE_CHALLENGER_LATE, 6, "challenger lost on the clock")                                         \
    X(VD_DISPUTE_MOOT, 7, "ended without a loser: another dispute voided the receipt")
enum vd_dispute_status {
#define X(code, number, name) code = number,
    VD_DISPUTE_STATUS_LIST(X)
#undef X
};
const char *vd_dispute_status_name(enum vd_dispute_status s);
static inline bool vd_dispute_open(enum vd_dispute_status s)
{
    return s == VD_DISPUTE_WORKER_MOVES || s == VD_DISPUTE_CHALLENGER_MOVES;
}

struct vd_dispute {
    enum vd_dispute_status status;
    struct vd_hash receipt_id;
    struct vd_pubkey worker, challenger;
    struct vd_amount bond; /* held while open */
    uint64_t open_height;
    uint64_t deadline_height; /* the last block in which the side to move may move; 0 when not open */
    uint64_t end_height;      /* 0 while open */
    uint32_t n_moves;         /* both sides', accepted ones */
    /* What the clock was when it opened. The worker has `clocks` times as long as the challenger: 1 and one
     * for each dispute that was open against it then. */
    uint64_t clocks;
    uint64_t replay_blocks; /* added for a move that needs a replay */
};

/* One who holds an onion of hashes and reveals a layer after each epoch. */
struct vd_keeper {
    struct vd_hash anchor; /* what the next layer must hash to */
    uint32_t n_left;       /* layers not revealed yet */
    uint64_t next_epoch;   /* the one whose layer is next */
    struct vd_amount bond;
};

struct vd_beacon {
    struct vd_hash mix; /* XOR of what each keeper's layer makes (vd_audit.h) */
    uint32_t n_layers;
};

/* Somebody who holds a model and may be drawn. */
struct vd_auditor {
    struct vd_amount weight; /* the stake when it registered: drawn by the smaller of this and the stake */
    uint64_t height;
    uint64_t off_height; /* 0, or when it withdrew or was struck off: drawn for batches before that only */
};

/* X(code, number, name) */
#define VD_AUDIT_PHASE_LIST(X)                                                                               \
    X(VD_AUDIT_COMMITTING, 1, "auditors commit")                                                             \
    X(VD_AUDIT_DATA_DUE, 2, "data demanded")                                                                 \
    X(VD_AUDIT_REVEALING, 3, "auditors reveal")                                                              \
    X(VD_AUDIT_HEARD, 4, "all was said; the receipt is not closed yet")                                      \
    X(VD_AUDIT_CLOSED, 5, "closed")
enum vd_audit_phase {
#define X(code, number, name) code = number,
    VD_AUDIT_PHASE_LIST(X)
#undef X
};
const char *vd_audit_phase_name(enum vd_audit_phase p);

/* X(code, number, name) */
#define VD_AUDIT_SLOT_LIST(X)                                                                                \
    X(VD_SLOT_DRAWN, 1, "drawn")                                                                             \
    X(VD_SLOT_COMMITTED, 2, "committed")                                                                     \
    X(VD_SLOT_STANDS, 3, "stands")                                                                           \
    X(VD_SLOT_DIFFERS, 4, "differs")                                                                         \
    X(VD_SLOT_MISSED, 5, "missed")                                                                           \
    X(VD_SLOT_UNFIT, 6, "unfit")
enum vd_audit_slot_status {
#define X(code, number, name) code = number,
    VD_AUDIT_SLOT_LIST(X)
#undef X
};
const char *vd_audit_slot_name(enum vd_audit_slot_status s);

struct vd_audit_slot {
    struct vd_pubkey auditor;
    enum vd_audit_slot_status status;
    struct vd_hash commitment; /* while COMMITTED, else zero */
    struct vd_amount paid, slashed;
};

struct vd_audit {
    enum vd_audit_phase phase;
    struct vd_pubkey worker, gateway;
    struct vd_hash model_root;
    uint64_t epoch; /* whose beacon drew it */
    uint32_t rate_ppm;
    uint64_t draw_height;
    uint64_t deadline_height; /* of the phase; 0 from HEARD on */
    uint64_t clock_blocks;    /* to commit, replay included */
    bool demanded;
    struct vd_pubkey shown_by; /* zero: nobody showed the data on the ledger */
    uint64_t replay_blocks;    /* of its job */
    uint64_t full_blocks;      /* vd_totals' when the data were demanded, or their clock last went on */
    uint32_t n_slots;
    struct vd_audit_slot slot[VD_AUDIT_SLOTS_MAX];
};

/* How far somebody has come with showing a receipt's data: the peaks of the Merkle tree that is being built
 * over the prompt, then over the output. */
struct vd_showing {
    struct vd_hash salt;
    uint32_t n_tokens; /* shown so far, prompt and output together */
    uint32_t n_peaks;
    struct vd_hash peak[24]; /* of the tree at hand, those that stand, smallest first */
};

struct vd_trap {
    struct vd_pubkey owner;
    struct vd_hash commitment;
    uint64_t height;
    struct vd_amount bond;
};

struct vd_tx_place {
    uint64_t height;
    uint32_t index; /* in the block */
};

/* Encode returns the bytes written, 0 if cap_bytes is too small; VD_STATE_RECORD_MAX_BYTES suffices for all
 * but vd_model_record (add its program). Decode is false for anything that encode would not write. */
enum { VD_STATE_RECORD_MAX_BYTES = 1280 };

#define VD_STATE_CODEC(type)                                                                                 \
    size_t vd_##type##_encode(const struct vd_##type *v, uint8_t *buf, size_t cap_bytes);                    \
    bool vd_##type##_decode(struct vd_bytes in, struct vd_##type *out);
VD_STATE_CODEC(totals)
VD_STATE_CODEC(account)
VD_STATE_CODEC(stake)
VD_STATE_CODEC(model_record)
VD_STATE_CODEC(offer)
VD_STATE_CODEC(escrow)
VD_STATE_CODEC(receipt_record)
VD_STATE_CODEC(dispute)
VD_STATE_CODEC(keeper)
VD_STATE_CODEC(beacon)
VD_STATE_CODEC(auditor)
VD_STATE_CODEC(audit)
VD_STATE_CODEC(showing)
VD_STATE_CODEC(trap)
VD_STATE_CODEC(tx_place)
#undef VD_STATE_CODEC

#endif
