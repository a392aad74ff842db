/* A worker: connects outward to gateways, runs their jobs, signs receipts for what it computed, and answers
 * every challenge of them until none can come any more.
 *
 * At the start it sees to it that the ledger knows its models, holds its stake and shows its offers. Each job
 * is checked before it is run (request, price, prompt, escrow: docs/spec/wire.md, section 4); its commit root
 * is made while it runs; the receipt is on disk before it leaves. A job whose link ends is dropped. Receipts
 * that the gateway accepted but did not settle in time the worker settles by itself.
 *
 * The model and the root it claims are separate values: the shipped command passes vd_model_root(model).
 *
 * Ownership: models and pools are borrowed until stop; everything else is copied. Thread rule: start and stop
 * from one thread; the others from any. */
#ifndef VD_WORKER_H
#define VD_WORKER_H

#include "vd_amount.h"
#include "vd_key.h"
#include "vd_log.h"
#include "vd_model.h"
#include "vd_pool.h"
#include "vd_status_http.h"

enum { VD_WORKER_MODELS_MAX = 16, VD_WORKER_GATEWAYS_MAX = 16, VD_WORKER_JOBS_MAX = 1024 };

struct vd_worker_peer {
    const char *host;
    uint16_t port;
    const struct vd_pubkey *key; /* NULL: whoever answers */
};

struct vd_worker_model {
    struct vd_model *model;
    struct vd_pool *pool;                 /* nobody else's */
    struct vd_hash root;                  /* what its receipts say */
    struct vd_amount price_in, price_out; /* per token */
    uint32_t capacity;                    /* jobs at once, 1.. */
    size_t max_kv_bytes;                  /* 0: the engine's default; disputes have their own besides */
    bool lookup;                          /* and the next: as in vd_engine_options */
    const struct vd_model *draft;
};

struct vd_worker_config {
    const struct vd_keypair *key;
    const char *home; /* jobs are kept in <home>/jobs */
    struct vd_worker_peer ledger;
    const struct vd_worker_peer *gateway;
    size_t n_gateways;
    const struct vd_worker_model *model;
    size_t n_models;
    struct vd_amount stake; /* is raised to this */
    const struct vd_log *log;
    bool (*stopped)(void); /* ends the wait for the ledger at the start; may be NULL */
};

struct vd_worker;

/* Returns when the ledger shows stake and offers and the gateways are being dialled. No ledger: as
 * vd_ledger_client_wait; VD_EFUNDS: the account cannot pay the stake. */
enum vd_err vd_worker_start(struct vd_worker **out, const struct vd_worker_config *config,
                            struct vd_error *err);
/* Drops what runs, closes all links, ends. Offers stay on the ledger; gateways know who is linked. NULL is
 * allowed. */
void vd_worker_stop(struct vd_worker *w);

struct vd_worker_stats {
    uint64_t n_links, n_running;
    uint64_t n_jobs, n_refused, n_dropped, n_receipts, n_accepted, n_settled, n_final, n_void;
    uint64_t n_tokens_in, n_tokens_out, n_tokens_reused; /* of n_tokens_in, from the prefix cache */
    uint64_t n_challenges, n_moves, n_replays, n_won, n_lost;
    uint64_t earned_micro; /* of final receipts, before shares */
};
void vd_worker_get_stats(struct vd_worker *w, struct vd_worker_stats *out);

/* For vd_status_http: arg is the worker. */
bool vd_worker_health(void *worker, char text[256]);
void vd_worker_metrics(void *worker, struct vd_metrics *m);

#endif
