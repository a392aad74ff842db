/* Inside of a verifier. vd_verifier.c: start, links, events, sampling; vd_verifier_audit.c: replay and
 * disputes, vd_verifier_duty.c: what the ledger drew it for, both on the auditor's one thread, which alone
 * uses contexts, caches and traces; the courier sends its moves. vd_verifier_follow.c has a thread, contexts
 * and caches of its own. `mu` guards the rest. */
#ifndef VD_VERIFIER_IMPL_H
#define VD_VERIFIER_IMPL_H

#include "vd_courier.h"
#include "vd_dialers.h"
#include "vd_ledger_client.h"
#include "vd_link.h"
#include "vd_seldom.h"
#include "vd_trace_model.h"
#include "vd_verifier.h"
#include "vd_verifier_follow.h"
#include "vd_wire.h"
#include "vd_worker_game.h"
#include "vd_worker_jobs.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
    VD_VERIFIER_QUEUE_MAX =
        1 << 16, /* receipts drawn and not replayed yet; more are passed over, and counted */
    VD_VERIFIER_DISPUTES_MAX = 256,
    VD_VERIFIER_DUTIES_MAX = 1024,   /* audits that it is drawn for; more are taken up when some are over */
    VD_VERIFIER_TOGETHER_MAX = 32,   /* receipts replayed in one pass, */
    VD_VERIFIER_TOGETHER_POS = 4096, /* or of so many positions: moves wait for its end */
    VD_VERIFIER_FETCH_MS = 10000,
    VD_VERIFIER_QUICK_MS = 1000,       /* a gateway that takes longer is not asked again */
    VD_VERIFIER_REST_TIMES = 4,        /* for so many times what it took */
    VD_VERIFIER_DUTY_FETCH_MS = 3000,  /* an audit has a clock, and the data can be demanded; at most, */
    VD_VERIFIER_DUTY_FETCH_PART = 4,   /* and this part of what is left of the clock */
    VD_VERIFIER_DUTY_AGAIN_MS = 60000, /* a gateway that did not answer is not asked for the same again */
    VD_VERIFIER_ASKED_MAX = 8,         /* audits whose data one gateway is asked for at once, */
    VD_VERIFIER_HELD_MAX = 64,         /* and all gateways, with those whose data wait for their replay */
    VD_VERIFIER_RETRY_MS = 1000,       /* to the next try, and twice as long after each, */
    VD_VERIFIER_SLOWER_MAX = 3,        /* but not more often than this */
    VD_VERIFIER_TICK_MS = 5000,
};

struct vd_verifier_task {
    struct vd_hash receipt_id;
    struct vd_pubkey gateway;
    uint64_t height; /* that settled it */
    bool drawn;      /* false: the rate was not known yet */
    uint64_t not_before_ms;
    unsigned n_tries; /* as far as it matters for the next one's time */
};

struct vd_verifier_desk { /* one model's workplace */
    struct vd_verifier_model m;
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
    bool listed; /* as an auditor of the model */
};

/* What the auditor's thread computes, and what it does between two passes of that (vd_audit_between). Duties
 * are seen to between any two: commitments, reveals and demands wait for no replay. */
enum vd_audit_pass {
    VD_PASS_OTHER,  /* a trace: neither moves nor challenges are made meanwhile */
    VD_PASS_SAMPLE, /* given up, and done later, when the data of a duty have come */
    VD_PASS_DUTY,   /* given up when all audits that it is for are over, or too late for this auditor */
};

/* An audit that this verifier was drawn for. Nothing about one keeps the others waiting but, until its own, a
 * replay: data are asked for side by side and come when they come. What has come is replayed with the
 * earliest deadline first, others of the model in the same pass as long as all of it takes, at the pace of
 * the pass before, no more than half of what is left of the first one's clock. The auditor's thread's, but
 * for what is under mu: `sending`, not_before_ms, `data`. */
struct vd_duty {
    struct vd_tx_audit_reveal what; /* receipt_id from the start; the rest once it is known */
    bool known, sending, disputed;
    bool differs; /* all have been heard, and it is to dispute the receipt */
    bool waits;   /* for its replay; then the next are as the ledger last said: */
    bool can_demand;
    uint64_t deadline_height;
    struct vd_hash model_root;
    struct vd_pubkey gateway, shown_by;
    struct vd_hash commit_root;
    unsigned n_tries;
    uint64_t not_before_ms;
    struct vd_seldom trouble;
    struct {
        const struct vd_link *from; /* who was asked: nobody else answers; compared only. NULL: nobody */
        uint64_t until_ms;
        uint64_t again_ms; /* it did not answer, and is not asked again before */
        bool refused;
        uint8_t *envelope; /* malloc'ed; NULL: not here */
        size_t n_bytes;
    } data;
};

struct vd_verifier {
    struct vd_keypair key;
    struct vd_log log;
    struct vd_hash genesis;
    struct vd_ledger_client *ledger;
    const struct vd_genesis *rules;
    uint32_t rate_ppm;
    struct vd_worker_jobs cases; /* <home>/disputes; also remembers the height */
    struct vd_verifier_desk desk[VD_WORKER_MODELS_MAX];
    size_t n_desks;
    struct vd_dialers dialers;
    pthread_t auditor;
    bool auditor_runs;
    atomic_bool cancel;       /* of what the auditor computes */
    struct vd_follow *follow; /* NULL: it does not */

    pthread_mutex_t mu;
    pthread_cond_t work, data; /* CLOCK_MONOTONIC: the auditor's two reasons to wait */
    bool stopping, moved;
    struct vd_seldom no_gateway;
    struct vd_link *link[VD_WORKER_GATEWAYS_MAX];    /* a reference each; NULL: free */
    uint64_t rests_until_ms[VD_WORKER_GATEWAYS_MAX]; /* it was slow, and is not asked for the sample's data */
    struct vd_verifier_task *queue;                  /* ring */
    size_t queue_at, n_queued;
    uint64_t height; /* of the last block seen */
    struct vd_verifier_stats stats;
    struct { /* the one answer that the auditor waits for */
        bool waiting, done;
        const struct vd_link *from; /* who was asked: nobody else answers; compared only */
        struct vd_hash receipt_id;
        uint8_t *envelope; /* malloc'ed */
        size_t n_bytes;
        char refused[VD_WIRE_TEXT_MAX + 64];
    } fetch;

    struct { /* only the auditor adds and removes */
        struct vd_hash id, receipt_id;
        bool sending; /* a move is on its way */
        uint64_t not_before_ms;
        struct vd_seldom not_made, not_taken; /* the auditor's; under mu */
    } dispute[VD_VERIFIER_DISPUTES_MAX];
    size_t n_disputes;
    struct vd_courier *courier;
    struct vd_game_traces traces; /* the auditor's own */

    bool audits, drawn; /* drawn: the list of duties is old; under mu */
    struct vd_amount stake;
    uint64_t register_at_ms;
    struct vd_duty *duty; /* VD_VERIFIER_DUTIES_MAX */
    size_t n_duties;      /* under mu to change */
    uint64_t duty_at_ms;  /* the auditor's: duties are looked at again then, if not before; 0: no need */
    uint64_t pace_ns;     /* the auditor's: of a position in the last pass of duties; 0: not known */

    /* The auditor's: what it computes, and what it has not looked at since something happened. */
    enum vd_audit_pass pass;
    const struct vd_game_case *passing; /* of VD_PASS_DUTY */
    size_t n_passing;
    bool news_moves, news_duties;
    bool beside, no_room; /* it makes moves beside a replay; and found no memory for one there */
};

/* The limit of one of n models' caches: what was given, or what the longest job needs as far as there is
 * memory. */
size_t vd_verifier_cache_bytes(size_t given, size_t longest, uint64_t available, size_t n_models);
/* Whether to audit one receipt; counts it if so. Under mu. */
bool vd_verifier_draw(struct vd_verifier *v);
/* Is a receipt of this verdict one that a dispute can be won about? Another model's, or one whose lengths do
 * not fit, has no trace here. */
bool vd_verifier_provable(enum vd_replay_verdict verdict);

/* vd_verifier_audit.c */
void *vd_verifier_auditor(void *verifier);
/* Before each pass (vd_ctx_set_before), on the auditor's thread: does what has a clock, and says whether what
 * is computed is still wanted. */
bool vd_audit_between(void *verifier);
/* A move has come to its end. */
void vd_verifier_sent(void *verifier, const struct vd_ledger_sending *sent);
struct vd_verifier_desk *vd_audit_desk(struct vd_verifier *v, const struct vd_hash *model_root);
/* A reference to the link to this gateway; NULL: there is none. */
struct vd_link *vd_audit_link(struct vd_verifier *v, const struct vd_pubkey *gateway);
enum vd_err vd_audit_get(struct vd_link *link, const struct vd_hash *receipt_id, struct vd_error *err);
/* What a gateway sent, checked. VD_EFALSE: these are not the data of this receipt. *tokens is the caller's to
 * free; the envelope points into them. */
enum vd_err vd_audit_read(const struct vd_hash *receipt_id, struct vd_bytes bytes, struct vd_envelope *e,
                          uint32_t **tokens, struct vd_error *err);
/* commit_root: what the replay found. An error: to be tried again. */
enum vd_err vd_audit_challenge(struct vd_verifier *v, const struct vd_game_case *c,
                               const struct vd_hash *commit_root, struct vd_error *err);

/* vd_verifier_duty.c */
/* Everything but replays and disputes: says what is known, asks for what is not. Returns of how many that
 * were not tried before the data are here. */
size_t vd_duty_attend(struct vd_verifier *v);
/* Challenges what is to be disputed. */
void vd_duty_dispute_all(struct vd_verifier *v);
/* All of it, with one pass of replays. True: data of some are here that were not replayed yet. */
bool vd_duty_look_at_all(struct vd_verifier *v);
/* Whether the replay of any of these is still wanted, as the ledger last said. */
bool vd_duty_any_waits(struct vd_verifier *v, const struct vd_game_case *c, size_t n);
/* AUDIT_DATA (takes the bytes over) or REFUSE (NULL) from this link; false: no duty of ours awaits it. Under
 * mu. */
bool vd_duty_take_data(struct vd_verifier *v, const struct vd_link *link, const struct vd_hash *receipt_id,
                       uint8_t *bytes, size_t n);
void vd_duty_free_all(struct vd_verifier *v);
void vd_duty_sent(struct vd_verifier *v, const struct vd_ledger_sending *sent);

#endif
