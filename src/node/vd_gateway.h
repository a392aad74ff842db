/* The gateway: an OpenAI-compatible HTTP server in front of workers that it pays from an escrow on the
 * ledger.
 *
 * HTTP (docs/guide/api.md): GET /v1/models, /v1/models/{id}, /v1/receipts/{id}, /health, /metrics; POST
 * /v1/chat/completions, /v1/completions. Links (docs/spec/wire.md): workers and verifiers dial the link port.
 *
 * What holds whatever happens: an answer's receipt is durable before its last chunk is sent, and is settled
 * until the ledger has acknowledged it, also after a restart; what is reserved for running answers plus what
 * is unsettled never exceeds the escrow; a reservation ends with its answer; prompts and answers are never
 * logged.
 *
 * Files under `home`: api-keys.json, gateway/ (the store). Thread rule: start and stop from one thread, the
 * rest from any. */
#ifndef VD_GATEWAY_H
#define VD_GATEWAY_H

#include "vd_amount.h"
#include "vd_key.h"
#include "vd_log.h"
#include "vd_sha256.h"
#include "vd_status_http.h"

struct vd_gateway_model_config {
    const char *name; /* what clients ask for */
    const char *path; /* of the model file: tokenizer and template */
    struct vd_hash root;
};

enum { VD_GATEWAY_MODELS_MAX = 16, VD_GATEWAY_FOLLOWERS_MAX = 16 };

struct vd_gateway_config {
    const struct vd_keypair *key; /* the account that owns the escrow, and the link's identity */
    const char *home;
    const char *ledger_host;
    uint16_t ledger_port;
    const struct vd_pubkey *ledger_key; /* NULL: whoever answers */
    const char *listen_host;            /* links */
    uint16_t listen_port;
    const char *http_host;
    uint16_t http_port;
    const struct vd_gateway_model_config *model;
    size_t n_models;
    struct vd_amount escrow; /* is opened with this, and topped up to it when a quarter is left; 0: only one
                                that is there */
    struct vd_amount price_in_max, price_out_max; /* per token; 0: no limit */
    /* Verifiers that get every stream while it is made, prompts and all, and may stop it; copied. */
    const struct vd_pubkey *follower;
    size_t n_followers;
    const struct vd_log *log; /* may be NULL */
    bool (*stopped)(void);    /* ends the wait for the ledger at the start; may be NULL */
    /* 0: the default in brackets */
    uint32_t settle_ms; /* between batches [1000] */
    uint32_t queue_ms;  /* a request waits so long for a free worker [30000] */
    uint32_t queue_max; /* so many may wait at once [128] */
    /* Without a token from the worker before another is asked [60000]; and 20 ms more for each position of
     * the job, which a slow worker reads for long before its first token. */
    uint32_t stall_ms;
    uint32_t connections_max;             /* of HTTP [256] */
    uint32_t connections_per_address_max; /* of HTTP, from one client address [64] */
    uint32_t receive_ms; /* headers and body of a request must be there after this, and a stream taken so long
                            after the worker has ended [30000] */
    uint32_t key_parallel_max;   /* requests of one key at once [64] */
    uint32_t key_per_minute_max; /* requests of one key [0: no limit] */
    uint32_t max_tokens_default; /* of a chat that gives none [1024] */
    uint32_t trap_every_blocks;  /* plant a trap for auditors so often [0: never] */
};

struct vd_gateway;

/* Returns when links and HTTP are served; the escrow may come later (requests get 503 until then). VD_EBUSY
 * names a port or folder in use; no ledger within 30 s: as vd_ledger_client_wait. */
enum vd_err vd_gateway_start(struct vd_gateway **out, const struct vd_gateway_config *config,
                             struct vd_error *err);
/* Refuses new requests, cancels running answers and settles what they cost so far, ends links. NULL is
 * allowed. */
void vd_gateway_stop(struct vd_gateway *g);

uint16_t vd_gateway_http_port(const struct vd_gateway *g);
uint16_t vd_gateway_link_port(const struct vd_gateway *g);

struct vd_gateway_stats {
    uint64_t n_requests, n_answers, n_errors, n_replayed;
    uint64_t n_running, n_waiting, n_workers, n_verifiers;
    uint64_t n_cancelled, n_resumed, n_audits;
    uint64_t n_traps, n_traps_opened, n_traps_caught; /* caught: auditors that walked in */
    uint64_t n_prefixes, n_wrong; /* workers' statements; streams that a follower stopped */
    uint64_t n_tokens_in, n_tokens_out;
    uint64_t n_pending, n_settled, n_refused; /* receipts since the start; pending: also from before */
    struct vd_amount escrow_balance, unsettled, reserved;
};
void vd_gateway_get_stats(struct vd_gateway *g, struct vd_gateway_stats *out);

#endif
