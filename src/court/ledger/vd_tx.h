/* Transactions: what they are, their bytes, their signature and id (docs/spec/ledger.md,
 * proto/veridem.proto).
 *
 * A transaction is a canonical protobuf message { 1: body, 2: signature }. The body names the network
 * (genesis hash), the sender, the sender's next nonce and exactly one kind. The signature is the sender's
 * over the exact body bytes under the tag "veridem/tx"; the id is the digest that is signed. A second
 * signature over the same body is therefore the same transaction, and applying it twice changes nothing.
 *
 * Byte ranges in a decoded transaction point into the decoded bytes. Nothing allocates.
 * Thread rule: pure functions. */
#ifndef VD_TX_H
#define VD_TX_H

#include "vd_amount.h"
#include "vd_bytes.h"
#include "vd_key.h"
#include "vd_receipt.h"

#define VD_TAG_TX "veridem/tx"

enum {
    VD_TX_MAX_BYTES = 128 << 10, /* one transaction with its signature */
    VD_TX_PROGRAM_MAX_BYTES = 32 << 10,
    VD_TX_MOVE_MAX_BYTES = 96 << 10,
    VD_TX_SETTLE_MAX = 64,         /* receipts in one SETTLE */
    VD_AUDIT_CHUNK_TOKENS = 16384, /* in one AUDIT_DATA */
    VD_BEACON_LAYERS_MAX = 1 << 24,
};

/* X(code, number, name) The number is the body's field that holds the kind. */
#define VD_TX_KIND_LIST(X)                                                                                   \
    X(VD_TX_TRANSFER, 4, "transfer")                                                                         \
    X(VD_TX_STAKE, 5, "stake")                                                                               \
    X(VD_TX_UNSTAKE, 6, "unstake")                                                                           \
    X(VD_TX_WITHDRAW, 7, "withdraw")                                                                         \
    X(VD_TX_REGISTER_MODEL, 8, "register-model")                                                             \
    X(VD_TX_OFFER, 9, "offer")                                                                               \
    X(VD_TX_ESCROW_OPEN, 10, "escrow-open")                                                                  \
    X(VD_TX_ESCROW_TOPUP, 11, "escrow-topup")                                                                \
    X(VD_TX_ESCROW_CLOSE, 12, "escrow-close")                                                                \
    X(VD_TX_SETTLE, 13, "settle")                                                                            \
    X(VD_TX_CHALLENGE, 14, "challenge")                                                                      \
    X(VD_TX_MOVE, 15, "move")                                                                                \
    X(VD_TX_BEACON_OPEN, 16, "beacon-open")                                                                  \
    X(VD_TX_BEACON, 17, "beacon")                                                                            \
    X(VD_TX_AUDITOR, 18, "auditor")                                                                          \
    X(VD_TX_AUDIT_COMMIT, 19, "audit-commit")                                                                \
    X(VD_TX_AUDIT_REVEAL, 20, "audit-reveal")                                                                \
    X(VD_TX_AUDIT_DEMAND, 21, "audit-demand")                                                                \
    X(VD_TX_AUDIT_DATA, 22, "audit-data")                                                                    \
    X(VD_TX_TRAP_PLANT, 23, "trap-plant")                                                                    \
    X(VD_TX_TRAP_OPEN, 24, "trap-open")

enum vd_tx_kind {
#define X(code, number, name) code = number,
    VD_TX_KIND_LIST(X)
#undef X
};
const char *vd_tx_kind_name(enum vd_tx_kind kind);

/* X(code, number, text) The ledger's verdict on a transaction. Part of the protocol: numbers never change.
 * A transaction with any verdict but OK changes nothing at all, its sender's nonce included. */
#define VD_TX_VERDICT_LIST(X)                                                                                \
    X(VD_TX_OK, 0, "applied")                                                                                \
    X(VD_TX_MALFORMED, 1, "the encoding is malformed or not canonical")                                      \
    X(VD_TX_WRONG_NETWORK, 2, "signed for another network (genesis hash)")                                   \
    X(VD_TX_BAD_SIGNATURE, 3, "the sender's signature does not verify")                                      \
    X(VD_TX_UNKNOWN_ACCOUNT, 4, "the sender has no account")                                                 \
    X(VD_TX_BAD_NONCE, 5, "the nonce is not the sender's next one")                                          \
    X(VD_TX_DUPLICATE, 6, "already applied")                                                                 \
    X(VD_TX_BLOCK_FULL, 7, "the block is full")                                                              \
    X(VD_TX_BAD_AMOUNT, 8, "the amount is zero or out of range")                                             \
    X(VD_TX_FUNDS, 9, "the balance is too small")                                                            \
    X(VD_TX_BELOW_MIN_STAKE, 10, "the stake would be below the minimum")                                     \
    X(VD_TX_STAKE_IN_USE, 11, "receipts of this key are unsettled or disputed, or it is an AUDITOR")         \
    X(VD_TX_STILL_UNBONDING, 12, "the unbonding time has not passed")                                        \
    X(VD_TX_NOTHING_TO_WITHDRAW, 13, "nothing is unbonding")                                                 \
    X(VD_TX_BAD_PROGRAM, 14, "the program is not valid")                                                     \
    X(VD_TX_MODEL_EXISTS, 15, "the model is registered already")                                             \
    X(VD_TX_UNKNOWN_MODEL, 16, "the model is not registered")                                                \
    X(VD_TX_BAD_PRICE, 17, "a price is out of range")                                                        \
    X(VD_TX_UNKNOWN_ESCROW, 18, "no such escrow")                                                            \
    X(VD_TX_NOT_OWNER, 19, "the sender does not own the escrow")                                             \
    X(VD_TX_ESCROW_CLOSED, 20, "the escrow is closed")                                                       \
    X(VD_TX_ESCROW_FUNDS, 21, "the escrow holds less than the receipt's amount")                             \
    X(VD_TX_BAD_RECEIPT, 22, "a receipt is malformed or a signature on it does not verify")                  \
    X(VD_TX_RECEIPT_NETWORK, 23, "a receipt is of another network")                                          \
    X(VD_TX_WRONG_GATEWAY, 24, "the receipt's gateway is not the escrow's")                                  \
    X(VD_TX_EXPIRED, 25, "the request's validity has passed")                                                \
    X(VD_TX_ALREADY_SETTLED, 26, "this (escrow, sequence) is settled already")                               \
    X(VD_TX_STAKE_TOO_SMALL, 27,                                                                             \
      "the worker's stake is below the minimum, or its unsettled value would exceed it")                     \
    X(VD_TX_UNKNOWN_RECEIPT, 28, "no such receipt")                                                          \
    X(VD_TX_WINDOW_CLOSED, 29, "the receipt's audit window has passed or a verdict has fallen")              \
    X(VD_TX_UNKNOWN_DISPUTE, 30, "no such open dispute")                                                     \
    X(VD_TX_NOT_YOUR_TURN, 31, "the sender is not the side whose move it is")                                \
    X(VD_TX_BAD_MOVE, 32, "the move is malformed, not the one expected, or does not fit what it opens")      \
    X(VD_TX_BAD_JOB, 33, "the model's program cannot run the job of a receipt")                              \
    X(VD_TX_RECEIPT_TOO_LARGE, 34, "the amount is above the network's maximum for one receipt")              \
    X(VD_TX_NO_AUDITS, 35, "this network has no audits")                                                     \
    X(VD_TX_BEACON_EXISTS, 36, "the sender keeps a beacon already")                                          \
    X(VD_TX_BAD_LAYER, 37,                                                                                   \
      "not a layer that is due: wrong epoch, the epoch is not over, or it is not the preimage of the last")  \
    X(VD_TX_TOO_MANY, 38, "the model has as many auditors, or the network as many keepers, as it can have")  \
    X(VD_TX_NOT_DRAWN, 39, "the sender is no auditor of this receipt")                                       \
    X(VD_TX_WRONG_PHASE, 40, "the audit is in another phase, or this was done already")                      \
    X(VD_TX_BAD_REVEAL, 41, "what is revealed is not what was committed to, or does not fit the receipt")    \
    X(VD_TX_BAD_DATA, 42, "the data are not the next part of this receipt's")                                \
    X(VD_TX_UNKNOWN_TRAP, 43, "no such trap of the sender is planted")                                       \
    X(VD_TX_BAD_TRAP, 44,                                                                                    \
      "the receipt is not this trap, settled before it was planted, or is worth more than its bond")

enum vd_tx_verdict {
#define X(code, number, text) code = number,
    VD_TX_VERDICT_LIST(X)
#undef X
};
const char *vd_tx_verdict_name(enum vd_tx_verdict v); /* "BAD_NONCE" */
const char *vd_tx_verdict_text(enum vd_tx_verdict v);
/* True, and *out set, if `number` is in the list. */
bool vd_tx_verdict_from_number(uint32_t number, enum vd_tx_verdict *out);

struct vd_tx_transfer {
    struct vd_pubkey to;
    struct vd_amount amount;
};
struct vd_tx_stake { /* STAKE and UNSTAKE */
    struct vd_amount amount;
};
struct vd_tx_register_model {
    struct vd_bytes program; /* canonical Program bytes; the ledger validates them */
    uint32_t n_tensors;
    struct vd_hash tensors_root;
};
struct vd_tx_offer {
    struct vd_hash model_root;
    struct vd_amount price_in, price_out; /* per token, at most VD_PRICE_MAX_MICRO */
    uint32_t capacity;                    /* jobs at once; 0 withdraws the offer */
};
struct vd_tx_escrow_open { /* the escrow's id is the transaction's */
    struct vd_pubkey gateway;
    struct vd_amount amount;
};
struct vd_tx_escrow_topup {
    struct vd_hash escrow_id;
    struct vd_amount amount;
};
struct vd_tx_escrow_close {
    struct vd_hash escrow_id;
};
struct vd_tx_settle {
    uint32_t n;                                /* 1..VD_TX_SETTLE_MAX, all applied or none */
    struct vd_bytes receipt[VD_TX_SETTLE_MAX]; /* vd_signed_receipt_encode's bytes */
};
struct vd_tx_challenge { /* the dispute's id is the transaction's */
    struct vd_hash receipt_id;
};
struct vd_tx_move {
    struct vd_hash dispute_id;
    struct vd_bytes move; /* vd_game.h */
};

struct vd_tx_beacon_open {
    struct vd_hash anchor; /* the outermost layer's hash */
    uint32_t n_layers;
};
struct vd_tx_beacon {
    uint64_t epoch;
    struct vd_hash layer;
};
struct vd_tx_auditor {
    struct vd_hash model_root;
    bool on;
};
struct vd_tx_audit_commit {
    struct vd_hash receipt_id, commitment;
};
/* What an auditor may say. The number is part of the commitment. UNFIT: the job's tables are not for this
 * model, so that nobody can replay it. */
enum vd_audit_verdict { VD_AUDIT_STANDS = 1, VD_AUDIT_DIFFERS = 2, VD_AUDIT_UNFIT = 3 };
struct vd_tx_audit_reveal {
    struct vd_hash receipt_id;
    enum vd_audit_verdict verdict;
    struct vd_hash half[2]; /* STANDS: what the commit root is the hash of; else zero */
    struct vd_hash nonce;
};
struct vd_tx_audit_demand {
    struct vd_hash receipt_id;
};
struct vd_tx_audit_data {
    struct vd_hash receipt_id;
    struct vd_hash salt;        /* of the job */
    uint32_t first;             /* position in prompt then output */
    struct vd_bytes tokens;     /* u32 little-endian each, VD_AUDIT_CHUNK_TOKENS or the rest */
    struct vd_bytes bias, mask; /* the request's tables, with the first part */
};
struct vd_tx_trap_plant { /* the trap's id is the transaction's */
    struct vd_hash commitment;
};
struct vd_tx_trap_open {
    struct vd_hash trap_id, receipt_id, secret;
    uint32_t index; /* of the leaf in the commit tree */
    struct vd_bytes proof;
};

struct vd_tx {
    struct vd_hash genesis;
    struct vd_pubkey sender;
    uint64_t nonce; /* 0 for an account's first */
    enum vd_tx_kind kind;
    union {
        struct vd_tx_transfer transfer;
        struct vd_tx_stake stake; /* STAKE, UNSTAKE; WITHDRAW has no fields */
        struct vd_tx_register_model register_model;
        struct vd_tx_offer offer;
        struct vd_tx_escrow_open escrow_open;
        struct vd_tx_escrow_topup escrow_topup;
        struct vd_tx_escrow_close escrow_close;
        struct vd_tx_settle settle;
        struct vd_tx_challenge challenge;
        struct vd_tx_move move;
        struct vd_tx_beacon_open beacon_open;
        struct vd_tx_beacon beacon;
        struct vd_tx_auditor auditor;
        struct vd_tx_audit_commit audit_commit;
        struct vd_tx_audit_reveal audit_reveal;
        struct vd_tx_audit_demand audit_demand;
        struct vd_tx_audit_data audit_data;
        struct vd_tx_trap_plant trap_plant;
        struct vd_tx_trap_open trap_open;
    } u;
};

/* The body's bytes: their number, or 0 if cap_bytes is too small. */
size_t vd_tx_body_encode(const struct vd_tx *tx, uint8_t *buf, size_t cap_bytes);
bool vd_tx_body_decode(struct vd_bytes body, struct vd_tx *out);

/* Encodes, signs with `key` (tx->sender must be its public key) and wraps. Returns the bytes of the whole
 * signed transaction in buf, 0 if cap_bytes is too small; VD_TX_MAX_BYTES always suffice. *id may be NULL. */
size_t vd_tx_sign(const struct vd_tx *tx, const struct vd_keypair *key, uint8_t *buf, size_t cap_bytes,
                  struct vd_hash *id);

struct vd_tx_signed {
    struct vd_bytes body; /* points into the decoded bytes */
    struct vd_sig sig;
    struct vd_hash id;
    struct vd_tx tx;
};

/* Decodes the whole and computes the id. False: malformed (VD_TX_MALFORMED). The signature is not looked at.
 */
bool vd_tx_decode(struct vd_bytes in, struct vd_tx_signed *out);
bool vd_tx_verify(const struct vd_tx_signed *s);
struct vd_hash vd_tx_id(struct vd_bytes body);

#endif
