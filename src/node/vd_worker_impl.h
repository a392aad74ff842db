/* Inside of a worker: what its files share. vd_worker.c starts, stops and links; vd_worker_setup.c sees to
 * what the ledger must show first; vd_worker_run.c takes a job from the gateway to its receipt;
 * vd_worker_court.c follows the ledger and answers challenges.
 *
 * Threads: the gateways' link threads (jobs in), each engine's scheduler (tokens), the finisher (receipts: it
 * may sync a disk), the ledger's link thread (events), the court thread (disputes, old jobs), the shower
 * (data that auditors demand), the courier (their transactions). `mu` guards everything that is not constant
 * after start. No callback of a link or an engine is called with it held, and nothing that waits is called
 * under it. */
#ifndef VD_WORKER_IMPL_H
#define VD_WORKER_IMPL_H

#include "vd_commit.h"
#include "vd_courier.h"
#include "vd_dialers.h"
#include "vd_engine.h"
#include "vd_ledger_client.h"
#include "vd_link.h"
#include "vd_masker_cache.h"
#include "vd_seldom.h"
#include "vd_trace_model.h"
#include "vd_wire.h"
#include "vd_worker.h"
#include "vd_worker_game.h"
#include "vd_worker_jobs.h"

#include <pthread.h>

enum {
    VD_WORKER_DISPUTES_MAX = 1024, /* that are followed at once */
    VD_WORKER_ESCROWS_MAX = 64,
    VD_WORKER_SEEN_MAX = 4096, /* sequences of jobs that are remembered; older ones the ledger has settled */
    VD_WORKER_ESCROW_FRESH_MS = 2000, /* so long a record of an escrow is taken as it was */
    VD_WORKER_PRUNE_MS = 20000,       /* between two looks at all kept jobs */
    VD_WORKER_DEMANDS_MAX = 64, /* receipts whose data are to be shown; others are found by the next prune */
    VD_WORKER_AGAIN_MS = 500,   /* before a move that failed is tried again */
    /* A replay for a move waits this part of what is left of its clock, shared with the other moves that are
     * due, and no longer than this, for jobs that gave way to the one before (vd_engine_run). */
    VD_WORKER_PATIENCE_PART = 4,
    VD_WORKER_PATIENCE_MS = 60000,
};

/* One job, from JOB to RECEIPT. */
struct vd_worker_job {
    struct vd_worker_job *next_done;
    struct vd_worker *w;
    struct vd_worker_offer *offer;
    struct vd_link *link; /* a reference; NULL once the link has ended */
    struct vd_hash id;
    struct vd_request request;
    uint8_t salt[VD_SALT_BYTES];
    uint32_t *prompt, *output; /* one block of memory */
    uint32_t n_output, n_resume;
    struct vd_commit *commit;
    struct vd_hash account;          /* of the engine's prefix cache */
    struct vd_controls controls;     /* in `tables` */
    uint8_t *tables;                 /* owned */
    struct vd_masker_cache *maskers; /* the offer's, if there is a mask, */
    struct vd_masker *masker;        /* taken from it */
    uint32_t logprobs;
    uint8_t logprob[VD_WIRE_LOGPROB_MAX_BYTES]; /* of the token that comes next */
    size_t n_logprob;
    struct vd_amount reserved;
    uint64_t engine_id;
    unsigned n_refs; /* who submits it, and who finishes it */
    bool submitted;  /* engine_id is known */
    bool unwanted;   /* nobody waits for its receipt */
    bool bad_resume; /* the tokens to resume from are not this model's */
    struct vd_job_result result;
};

struct vd_worker_offer {
    struct vd_worker_model m;
    struct vd_engine *engine;
    uint32_t n_running;
    /* From the first job with a mask on. To read a tokenizer's texts takes a while: under a lock of its own,
     * which keeps nobody waiting but other such jobs. */
    pthread_mutex_t maskers_mu;
    struct vd_texts *texts; /* of its tokens */
    struct vd_masker_cache *maskers;
};

struct vd_worker_escrow {
    struct vd_hash id;
    struct vd_escrow record;
    uint64_t asked_ms;
    uint64_t pending_micro; /* promised to this worker: running jobs, and receipts not settled */
};

/* A dispute that is followed: what the ledger last said of it, and whether that is old. */
struct vd_worker_dispute {
    struct vd_hash id;
    bool stale, sending; /* a move is on its way: nothing to do until it has arrived */
    struct vd_dispute record;
    uint64_t not_before_ms;
};

struct vd_worker {
    struct vd_keypair key;
    struct vd_log log;
    struct vd_hash genesis;
    struct vd_ledger_client *ledger;
    const struct vd_genesis *rules;
    struct vd_worker_jobs jobs;
    struct vd_worker_offer offer[VD_WORKER_MODELS_MAX];
    size_t n_offers;
    struct vd_dialers dialers;
    pthread_t finisher, court, shower;
    bool finisher_runs, court_runs, shower_runs;

    pthread_mutex_t mu;
    pthread_cond_t done_cond, court_cond, show_cond; /* CLOCK_MONOTONIC */
    bool stopping;
    struct vd_worker_job *running[VD_WORKER_JOBS_MAX];
    size_t n_running;
    struct vd_worker_job *done_first, **done_last;
    struct vd_worker_escrow escrow[VD_WORKER_ESCROWS_MAX];
    size_t n_escrows;
    struct { /* ring: what was given to this worker. A second receipt for it would never be paid */
        struct vd_hash escrow;
        uint64_t sequence;
    } seen[VD_WORKER_SEEN_MAX];
    size_t n_seen;                       /* so far */
    uint64_t stake_micro, exposed_micro; /* exposed: promised or unsettled; a slash must cover it */
    struct vd_worker_dispute dispute[VD_WORKER_DISPUTES_MAX];
    size_t n_disputes;
    bool court_dirty, stake_changed;
    struct vd_hash demand[VD_WORKER_DEMANDS_MAX]; /* receipts whose data an auditor demands on the ledger */
    size_t n_demands;
    struct vd_worker_stats stats;
    struct vd_seldom no_gateway, no_answer, not_taken;

    struct vd_courier *courier;
    struct vd_game_traces traces; /* the court thread's own */
};

/* vd_worker_run.c */
void vd_worker_on_job(struct vd_worker *w, struct vd_link *link, struct vd_bytes body);
void vd_worker_on_cancel(struct vd_worker *w, struct vd_link *link, struct vd_bytes body);
void vd_worker_on_accept(struct vd_worker *w, struct vd_link *link, struct vd_bytes body);
void vd_worker_link_gone(struct vd_worker *w, struct vd_link *link);
void *vd_worker_finisher(void *worker);
/* Notes a sequence; false: it was noted before. Under mu. */
bool vd_worker_see(struct vd_worker *w, const struct vd_hash *escrow, uint64_t sequence);

/* vd_worker_court.c */
void vd_worker_on_block(void *worker, uint64_t height, uint64_t time_ms, const struct vd_event *event,
                        size_t n_events);
void *vd_worker_court(void *worker);
void *vd_worker_shower(void *worker);
/* A transaction of the court thread has come to its end. */
void vd_worker_sent(void *worker, const struct vd_ledger_sending *sent);
/* Of the disputes where it is the worker's turn, the one whose deadline is first; n: there is none. */
size_t vd_worker_next_dispute(const struct vd_worker_dispute *d, size_t n, uint64_t now_ms);
/* How long the first of these may wait in the engine: if all that are due wait so long, one after the other,
 * three quarters of the first one's clock are left, and of the shortest clock that may begin meanwhile. */
uint32_t vd_worker_patience_ms(const struct vd_worker_dispute *d, size_t n, uint64_t height,
                               const struct vd_genesis *rules);
struct vd_worker_offer *vd_worker_find_offer(struct vd_worker *w, const struct vd_hash *root);

/* vd_worker_setup.c: stake, models and offers on the ledger. */
enum vd_err vd_worker_setup(struct vd_worker *w, struct vd_amount stake, struct vd_error *err);

/* Sends a frame made by one of vd_wire's put functions: `put` fills in buf. */
#define VD_WORKER_SEND(w, link, type, put, message, cap)                                                     \
    do {                                                                                                     \
        uint8_t buf_[cap];                                                                                   \
        struct vd_pb_writer w_ = vd_pb_writer_init(buf_, sizeof buf_);                                       \
        if (put(&w_, message))                                                                               \
            (void)vd_link_send(link, type, buf_, w_.n_bytes, NULL);                                          \
    } while (0)

/* a - b, but not below 0. */
static inline uint64_t vd_less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

#endif
