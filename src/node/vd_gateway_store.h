/* What a gateway must not forget, in one LMDB file: envelopes, what is still to be settled, sequences that
 * were used, what each API key has spent, and answers that a client's retry may ask for again.
 *
 * One write transaction, synced before vd_gwstore_finish returns, holds all that one finished answer changes:
 * so an answer is kept, counted and repeatable, or none of it. A full disk is VD_ENOSPACE and changes
 * nothing. The map grows before it is full.
 *
 * Ownership: bytes that come back are the caller's, free(). Thread rule: any thread; writers queue. */
#ifndef VD_GATEWAY_STORE_H
#define VD_GATEWAY_STORE_H

#include "vd_amount.h"
#include "vd_err.h"
#include "vd_receipt.h"

enum {
    VD_GWSTORE_SCHEMA = 1,
    VD_KEY_ID_BYTES = 16,
    VD_GWSTORE_STATEMENTS_MAX = 1024, /* the last ones are kept */
};

struct vd_key_id {
    uint8_t b[VD_KEY_ID_BYTES]; /* of an API key: the first bytes of its hash */
};

struct vd_gwstore;

/* Makes the folder. VD_EBUSY: open in another process; VD_EVERSION: made by a newer version. */
enum vd_err vd_gwstore_open(struct vd_gwstore **out, const char *dir, struct vd_error *err);
void vd_gwstore_close(struct vd_gwstore *s); /* NULL is allowed */

/* The next `count` sequences of an escrow, never handed out before: returns the first. The first of an escrow
 * that this store does not know is `fresh`. */
enum vd_err vd_gwstore_take_sequences(struct vd_gwstore *s, const struct vd_hash *escrow, uint64_t count,
                                      uint64_t fresh, uint64_t *first, struct vd_error *err);

/* The escrow in use, for the next start. Zeros: none is noted. */
enum vd_err vd_gwstore_set_escrow(struct vd_gwstore *s, const struct vd_hash *escrow, struct vd_error *err);
enum vd_err vd_gwstore_escrow(struct vd_gwstore *s, struct vd_hash *escrow, struct vd_error *err);

enum vd_gwstore_state {
    VD_GW_PENDING = 1,
    VD_GW_SETTLED = 2,
    VD_GW_REFUSED = 3,
    VD_GW_PREFIX = 4 /* no receipt: a worker's statement about a part, by the job's id; never settled */
};

/* A receipt that both sides signed, or a statement. */
struct vd_gwstore_receipt {
    struct vd_hash id;
    struct vd_key_id key; /* whose */
    enum vd_gwstore_state state;
    uint64_t created_s;
    struct vd_amount amount;
    uint8_t *envelope; /* vd_envelope_encode's bytes; of a statement vd_prefix_envelope_encode's */
    size_t n_envelope;
};

/* A finished answer that a retry gets again. */
struct vd_gwstore_once {
    struct vd_hash slot;        /* of the API key and the Idempotency-Key or the request's fingerprint */
    struct vd_hash fingerprint; /* of endpoint and body */
    uint64_t until_s;           /* forgotten after that */
    uint64_t created_s;         /* of the answer */
    uint32_t n_prompt, n_output;
    enum vd_finish finish;
    struct vd_hash receipt_id;
    struct vd_amount amount;
    char reply_id[64];
    char *text;
    size_t n_text;
};

/* Durable when it returns VD_OK. `once` may be NULL. The amount is added to what the key has spent. */
enum vd_err vd_gwstore_finish(struct vd_gwstore *s, const struct vd_gwstore_receipt *r,
                              const struct vd_gwstore_once *once, struct vd_error *err);
/* VD_ENOTFOUND. */
enum vd_err vd_gwstore_receipt_get(struct vd_gwstore *s, const struct vd_hash *id,
                                   struct vd_gwstore_receipt *out, struct vd_error *err);
/* VD_ENOTFOUND: none, or forgotten. */
enum vd_err vd_gwstore_once_get(struct vd_gwstore *s, const struct vd_hash *slot, uint64_t now_s,
                                struct vd_gwstore_once *out, struct vd_error *err);
enum vd_err vd_gwstore_once_purge(struct vd_gwstore *s, uint64_t now_s, struct vd_error *err);

/* What the key has spent in all its time. */
enum vd_err vd_gwstore_spent(struct vd_gwstore *s, const struct vd_key_id *key, struct vd_amount *out,
                             struct vd_error *err);

/* The oldest receipts still to be settled, at most cap, after the first `skip`; returns them with their
 * envelopes' signed receipts only (decode yields both signatures); *n is how many. */
struct vd_gwstore_pending {
    struct vd_hash id;
    struct vd_signed_receipt receipt;
};
enum vd_err vd_gwstore_pending_list(struct vd_gwstore *s, size_t skip, struct vd_gwstore_pending *out,
                                    size_t cap, size_t *n, struct vd_error *err);
/* Sets the state of n receipts that were pending. A refused one is subtracted from what its key has spent. */
enum vd_err vd_gwstore_settle(struct vd_gwstore *s, const struct vd_hash *id, size_t n,
                              enum vd_gwstore_state state, struct vd_error *err);

#endif
