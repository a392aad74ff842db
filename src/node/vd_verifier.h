/* A verifier: follows the receipts that are settled, replays a sample of them, and plays a dispute to its end
 * when one does not stand.
 *
 * The sample is drawn with this verifier's own secret randomness after the receipt is on the ledger, at the
 * rate that the genesis states (or another). The data come from the gateway that countersigned the receipt. A
 * verifier challenges only what differs from its own replay, and only when it has the trace to win with, so
 * its bond is safe if its model is the right one; which it is, because the model root says so. Data that fail
 * the envelope's check prove nothing about the worker, and are only reported.
 *
 * With config.audits it is also an auditor: it takes part in the audits that the ledger draws it for
 * (docs/spec/audit.md).
 *
 * A receipt that is challenged is kept in <home>/disputes until the dispute is over: a verifier that is
 * started again goes on.
 *
 * Ownership: models and pools are borrowed until stop; everything else is copied. Thread rule: as
 * vd_worker.h. */
#ifndef VD_VERIFIER_H
#define VD_VERIFIER_H

#include "vd_worker.h"

struct vd_verifier_model {
    struct vd_model *model;
    struct vd_pool *pool; /* nobody else's */
    struct vd_hash root;
};

struct vd_verifier_config {
    const struct vd_keypair *key; /* its account pays the bonds */
    const char *home;
    struct vd_worker_peer ledger;
    const struct vd_worker_peer *gateway;
    size_t n_gateways;
    const struct vd_verifier_model *model;
    size_t n_models;
    uint32_t audit_rate_ppm; /* UINT32_MAX: the genesis's, or 0 for an auditor where the ledger draws */
    /* Register as auditor of the models, with this stake (at least min_stake), where the network has audits.
     */
    bool audits;
    struct vd_amount stake;
    /* Of each model's cache. 0: as much as the model's longest job needs, since an auditor that cannot replay
     * one is late; at least 512 MiB, and else at most half of the memory that there is. */
    size_t max_kv_bytes;
    /* Run the streams of gateways that named this verifier along while they are made, and stop the worker at
     * the first token that is not the model's. */
    bool follow;
    const struct vd_log *log;
    bool (*stopped)(void); /* ends the wait for the ledger at the start; may be NULL */
};

struct vd_verifier;

/* No ledger within half a minute: as vd_ledger_client_wait. */
enum vd_err vd_verifier_start(struct vd_verifier **out, const struct vd_verifier_config *config,
                              struct vd_error *err);
void vd_verifier_stop(struct vd_verifier *v); /* NULL is allowed */

struct vd_verifier_stats {
    uint64_t n_links, n_queued;
    uint64_t n_seen, n_sampled, n_stand, n_differ, n_unavailable, n_other_model, n_bad_data, n_unprovable;
    uint64_t n_challenges, n_moves, n_won, n_lost;
    uint64_t n_tokens, replay_ns; /* of all replays, */
    uint64_t n_passes;            /* in so many passes: several receipts that wait share one */
    uint64_t won_micro;
    uint64_t n_duties, n_audits, n_audits_missed, n_demands; /* as an auditor: drawn and not closed; closed */
    uint64_t audit_paid_micro, audit_slashed_micro;
    /* Streams followed: right to their end, wrong, and ended or given up before. */
    uint64_t n_streams, n_streams_right, n_streams_wrong, n_streams_cut;
};
void vd_verifier_get_stats(struct vd_verifier *v, struct vd_verifier_stats *out);

/* For vd_status_http: arg is the verifier. */
bool vd_verifier_health(void *verifier, char text[256]);
void vd_verifier_metrics(void *verifier, struct vd_metrics *m);

#endif
