/* The client of a ledger: one link that is kept up, transactions that are submitted until the ledger has
 * decided on them, queries of the durable state, and the stream of blocks.
 *
 * Safe to repeat: a transaction applies at most once and keeps its id, so the client submits the same bytes
 * again after a lost link or a full disk, and counts DUPLICATE as success. vd_ledger_client_send makes, signs
 * and submits transactions of one account in order and keeps its nonces; use one client per account that
 * sends.
 *
 * Ownership: the caller owns the client. Callbacks come from the link's thread: they must not call functions
 * that wait (send, submit, get, ...), and must be quick. Thread rule: all functions may be called by any
 * thread. */
#ifndef VD_LEDGER_CLIENT_H
#define VD_LEDGER_CLIENT_H

#include "vd_genesis_json.h"
#include "vd_ledger.h"
#include "vd_link.h"
#include "vd_log.h"
#include "vd_wire.h"

struct vd_ledger_client;

struct vd_ledger_client_config {
    const struct vd_keypair *key; /* ours: the account that sends, and the link's identity. Copied */
    const char *host;             /* copied */
    uint16_t port;
    const struct vd_pubkey *ledger_key; /* NULL: whoever answers */
    const struct vd_hash *genesis;      /* NULL: take the ledger's word at the first link */
    enum vd_wire_role role;
    const struct vd_log *log; /* may be NULL */
    /* Blocks from `from_height` on (0: new ones), in order, each once, also over lost links. NULL: no
     * subscription. A block comes in one call with all its events; `m` and its bytes are valid during the
     * call. */
    void (*on_block)(void *arg, uint64_t height, uint64_t time_ms, const struct vd_event *event,
                     size_t n_events);
    void *arg;
    uint64_t from_height;
};

/* Starts to connect; that the ledger is not there yet is no error. */
enum vd_err vd_ledger_client_start(struct vd_ledger_client **out,
                                   const struct vd_ledger_client_config *config, struct vd_error *err);
/* Ends everything; what waits gets VD_ECANCELLED. NULL is allowed. */
void vd_ledger_client_stop(struct vd_ledger_client *c);
/* What waits, and whatever would wait, gets VD_ECANCELLED from now on; any thread, before stop. */
void vd_ledger_client_cancel(struct vd_ledger_client *c);

/* Waits until a link is up, at most timeout_ms. Code and text say what the last attempt failed on (VD_ENET:
 * nobody listens there; VD_EAUTH, VD_ECONFLICT: another key, another network); VD_ETIMEOUT: none has ended.
 */
enum vd_err vd_ledger_client_wait(struct vd_ledger_client *c, uint32_t timeout_ms, struct vd_error *err);
/* The same for a role that starts: asks `stopped` (may be NULL) from time to time, VD_ECANCELLED if it says
 * so, and logs what it waits for, after a second and then rarely. */
typedef bool vd_stopped_fn(void);
enum vd_err vd_ledger_client_await(struct vd_ledger_client *c, uint32_t timeout_ms, vd_stopped_fn *stopped,
                                   struct vd_error *err);
bool vd_ledger_client_is_up(struct vd_ledger_client *c);
/* The height of the latest block that this client heard of. */
uint64_t vd_ledger_client_height(struct vd_ledger_client *c);
/* The network's genesis, valid until stop. VD_EAGAIN before the first link was up. */
enum vd_err vd_ledger_client_genesis(struct vd_ledger_client *c, const struct vd_genesis **out,
                                     struct vd_hash *hash, struct vd_error *err);

struct vd_ledger_outcome {
    struct vd_hash tx_id;
    enum vd_tx_verdict verdict; /* VD_TX_OK: applied (now, or by an earlier submission of the same bytes) */
    uint64_t height;
};
/* Submits signed bytes and waits until the ledger has decided; resubmits over lost links and full disks until
 * timeout_ms. VD_OK: decided, look at the verdict. VD_ETIMEOUT: not known; submitting the same bytes again is
 * safe. */
enum vd_err vd_ledger_client_submit(struct vd_ledger_client *c, struct vd_bytes tx, uint32_t timeout_ms,
                                    struct vd_ledger_outcome *out, struct vd_error *err);
/* Fills in genesis, sender and nonce of *tx, signs, submits, waits. One at a time per client: later callers
 * queue. After a VD_ETIMEOUT the nonce is read from the ledger again, which may mean that the lost one was
 * applied. A verdict other than OK is VD_EFALSE, and err holds its text. */
enum vd_err vd_ledger_client_send(struct vd_ledger_client *c, struct vd_tx *tx, uint32_t timeout_ms,
                                  struct vd_ledger_outcome *out, struct vd_error *err);

/* The same for several at once, in this order: they do not wait for each other's block. Each has its own
 * result; one that is refused keeps no other from being applied. `tx` is the caller's. */
enum { VD_LEDGER_SEND_MAX = 32 };
struct vd_ledger_sending {
    struct vd_tx *tx;
    enum vd_err result;
    struct vd_ledger_outcome out;
    struct vd_error err; /* unless result is VD_OK */
};
void vd_ledger_client_send_all(struct vd_ledger_client *c, struct vd_ledger_sending *s, size_t n,
                               uint32_t timeout_ms);

/* Queries. Bytes that come back are the caller's: free(). */
struct vd_ledger_answer {
    uint64_t height; /* of the state that answered */
    uint8_t *memory; /* free() when done; items point into it */
    size_t n_items;
    struct vd_bytes *item;
};
void vd_ledger_answer_free(struct vd_ledger_answer *a);
/* VD_ETIMEOUT, VD_ECANCELLED, VD_EUNSUPPORTED, ... */
enum vd_err vd_ledger_client_query(struct vd_ledger_client *c, const struct vd_wire_query *q,
                                   uint32_t timeout_ms, struct vd_ledger_answer *out, struct vd_error *err);

/* One record by its key: VD_ENOTFOUND if the state has none; VD_EFORMAT if it does not decode. `body` and
 * `program` in records are cleared, since their bytes do not outlive the answer; use vd_ledger_client_get for
 * those. */
enum vd_err vd_ledger_client_get(struct vd_ledger_client *c, const struct vd_state_key *key,
                                 uint32_t timeout_ms, struct vd_ledger_answer *out, struct vd_error *err);
enum vd_err vd_ledger_client_account(struct vd_ledger_client *c, const struct vd_pubkey *key,
                                     struct vd_account *out, struct vd_error *err);
enum vd_err vd_ledger_client_stake(struct vd_ledger_client *c, const struct vd_pubkey *key,
                                   struct vd_stake *out, struct vd_error *err);
enum vd_err vd_ledger_client_escrow(struct vd_ledger_client *c, const struct vd_hash *id,
                                    struct vd_escrow *out, struct vd_error *err);
enum vd_err vd_ledger_client_model(struct vd_ledger_client *c, const struct vd_hash *root,
                                   struct vd_model_record *out, struct vd_error *err);
enum vd_err vd_ledger_client_offer(struct vd_ledger_client *c, const struct vd_hash *root,
                                   const struct vd_pubkey *worker, struct vd_offer *out,
                                   struct vd_error *err);
enum vd_err vd_ledger_client_receipt(struct vd_ledger_client *c, const struct vd_hash *id,
                                     struct vd_receipt_record *out, struct vd_error *err);
enum vd_err vd_ledger_client_dispute(struct vd_ledger_client *c, const struct vd_hash *id,
                                     struct vd_dispute *out, struct vd_error *err);
enum vd_err vd_ledger_client_audit(struct vd_ledger_client *c, const struct vd_hash *receipt_id,
                                   struct vd_audit *out, struct vd_error *err);
enum vd_err vd_ledger_client_totals(struct vd_ledger_client *c, struct vd_totals *out, struct vd_error *err);
/* Walks all records whose keys begin with `prefix`, page by page; fn returns false to stop. */
enum vd_err vd_ledger_client_list(struct vd_ledger_client *c, const struct vd_state_key *prefix,
                                  vd_ledger_list_fn *fn, void *arg, struct vd_error *err);
/* The same from behind the key `from` on (n = 0: from the first). */
enum vd_err vd_ledger_client_list_from(struct vd_ledger_client *c, const struct vd_state_key *prefix,
                                       const struct vd_state_key *from, vd_ledger_list_fn *fn, void *arg,
                                       struct vd_error *err);

enum { VD_LEDGER_QUERY_TIMEOUT_MS = 10000 };

#endif
