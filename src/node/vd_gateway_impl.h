/* The parts of a gateway to each other. Private to vd_gateway*.c.
 *
 * One mutex, g->mu, guards sessions, jobs, keys' use and money; it is held for memory work only, never while
 * something waits or asks the ledger. The disk is touched under it twice: what a key has spent is read when
 * the key is first used, and sequence numbers are taken, 256 at a time. Lock order: g->mu, then a link's own.
 */
#ifndef VD_GATEWAY_IMPL_H
#define VD_GATEWAY_IMPL_H

#include "vd_gateway.h"
#include "vd_gateway_keys.h"
#include "vd_gateway_store.h"
#include "vd_gateway_text.h"
#include "vd_ledger_client.h"
#include "vd_link.h"
#include "vd_merkle.h"
#include "vd_openai.h"
#include "vd_seldom.h"
#include "vd_stop_text.h"
#include "vd_wire.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
    GW_EXCLUDED_MAX = 16,
    GW_PAST_MAX =
        256, /* attempts that ended without a receipt, and that a follower may still be looking at */
    GW_WRONG_MAX = 64, /* workers that a follower found wrong, and that get no jobs any more */
    GW_ATTEMPTS_MAX = 16,
    GW_ALIVE_POLL_MS = 200,    /* how soon a client that hung up is noticed */
    GW_CANCEL_WAIT_MS = 10000, /* for the receipt of a cancelled answer */
    GW_STOP_WAIT_MS = 3000,    /* the same while stopping */
    GW_NO_WORKER_MS = 1500,    /* to wait for a worker when none is linked, before the first token */
    GW_RESUME_WAIT_MS = 10000, /* the same, in mid-answer */
    GW_POSITION_MS = 20,       /* a worker may be silent longer, for each position of its job */
    GW_BUSY_PAUSE_MS = 50,     /* after a worker that turned out to be busy, or was */
    GW_LEDGER_WAIT_MS = 2000,  /* a request waits so long for a lost ledger */
    GW_KEYS_IN_USE_MAX = 4096,
    GW_DELIVERED = 1024, /* answers whose delivery is remembered */
    GW_JOIN_WAIT_MS = 600000,
    GW_RETRY_KEPT_S = 600,             /* an answer, for a retry without a key */
    GW_IDEMPOTENT_KEPT_S = 86400,      /* with one */
    GW_DISK_FREE_MIN_BYTES = 32 << 20, /* below it no new answer is started */
};

struct gw_model {
    char name[128];
    struct vd_hash root;
    struct vd_gateway_text *text;
};

/* A peer on the link port. */
struct gw_session {
    struct gw_session *next;
    struct vd_link *link; /* borrowed; a session ends in its link's on_close */
    bool greeted;
    enum vd_wire_role role;
    struct vd_pubkey key;
    size_t n_offers;
    struct vd_wire_offer offer[VD_WIRE_OFFERS_MAX];
    uint32_t n_running;
    bool follows;                /* it gets the streams */
    struct vd_amount stake_free; /* of the ledger, less what is unsettled there */
    struct vd_amount committed;  /* most that running jobs can cost, and what is not settled yet */
};

/* Of what a worker says of one token: u32 bits, u8 n, n x (u32 id, u32 bits). */
#define GW_LOGPROB_BYTES(logprobs) (5 + 8 * ((size_t)(logprobs)-1))

enum gw_phase {
    GW_RUNNING, /* a worker has it */
    GW_RECEIPT, /* its receipt has come */
    GW_REFUSED, /* by the worker */
    GW_LOST,    /* the link ended */
    GW_BROKEN,  /* the worker broke the rules */
    GW_WRONG,   /* a follower found a token that is not the model's */
};

/* The jobs of one request, choices or inputs. What all of them can cost is reserved with the first, or the
 * client would pay for some and get an error for the rest. A choice goes where another is, since the prompt
 * is known there, and one for which nothing is left waits for the others. Under g->mu. */
struct gw_siblings {
    uint32_t n_new;           /* that no worker has had, */
    uint64_t in_tok, out_tok; /* their tokens at most, */
    struct vd_amount held;    /* and what is reserved for them */
    uint32_t n_placed;        /* that a worker has */
    struct vd_pubkey worker;  /* the latest */
};

/* One answer, from prompt to receipt, over as many workers as it takes. The HTTP thread that made it owns it;
 * links' threads write to it under g->mu while it is in g->jobs. */
struct gw_job {
    struct gw_job *next;
    const struct gw_model *model;
    struct vd_key_id key;
    struct vd_amount key_limit; /* 0: none */
    struct vd_amount budget;    /* reserved from escrow and key, until the answer ends */
    struct vd_sampling sampling;
    struct vd_controls controls; /* in `tables` */
    uint8_t *tables;             /* owned */
    uint32_t logprobs;           /* as vd_wire_job's */
    uint8_t *logprob;            /* owned: logprob_bytes(logprobs) for each output token */
    uint32_t max_tokens;
    uint32_t *prompt, n_prompt; /* owned */
    uint8_t salt[VD_SALT_BYTES];
    struct vd_hash prompt_root;

    struct vd_hash id; /* of the current request */
    struct vd_request request;
    uint8_t request_bytes[VD_REQUEST_MAX_BYTES];
    size_t n_request;
    struct gw_session *session; /* who has it; NULL when its link has ended */
    struct vd_pubkey worker;
    enum gw_phase phase;
    enum vd_wire_refuse_code refusal;
    bool cancelled;
    struct vd_amount reserved, owed; /* the most it can cost; what its receipt says */

    uint32_t *output, n_output;     /* owned; room for max_tokens */
    uint32_t n_expected;            /* index that the next TOKEN must have */
    struct vd_merkle_stream leaves; /* over the first of them */
    struct {                        /* the worker's last statement about the current request */
        uint32_t n_output;          /* 0: none */
        uint8_t statement[VD_PREFIX_MAX_BYTES];
        size_t n_bytes;
        struct vd_sig worker_sig;
    } prefix;
    struct vd_hash kept; /* the last statement that was kept of an attempt: its job's id, */
    uint32_t n_kept;     /* and its tokens; 0: none */
    uint8_t receipt[VD_RECEIPT_MAX_BYTES];
    size_t n_receipt;
    struct vd_sig worker_sig;
    uint64_t progress_ms;
    uint64_t over_ms; /* when the worker's part ended, until that has been looked at; 0: it has not */
    pthread_cond_t changed, *bell; /* bell: rung at every change; its own, or that of another choice */
    struct gw_siblings *siblings;  /* NULL: none */
    bool placed;                   /* counted there */

    unsigned n_attempts, n_excluded;
    struct vd_pubkey excluded[GW_EXCLUDED_MAX];
};

/* What a key is doing now. */
struct gw_key_use {
    struct vd_key_id id;
    uint32_t n_running, n_in_minute;
    uint64_t minute;
    struct vd_amount spent, reserved;
};

/* A request that a retry may join: running, under its slot. */
struct gw_once {
    struct gw_once *next;
    struct vd_hash slot, fingerprint;
};

struct vd_gateway {
    struct vd_gateway_config cfg; /* with defaults */
    struct vd_log log;
    struct vd_keypair key;
    char store_dir[4096];
    struct gw_model model[VD_GATEWAY_MODELS_MAX];
    size_t n_models;
    struct vd_pubkey follower[VD_GATEWAY_FOLLOWERS_MAX];
    uint64_t started_s;
    struct vd_gwstore *store;
    struct vd_gateway_keys *keys;
    struct vd_ledger_client *ledger;
    struct vd_hash genesis;
    uint64_t validity_blocks;
    struct vd_amount min_stake;
    struct vd_amount max_receipt; /* the network's; 0: none */
    struct vd_link_listener *listener;
    struct gw_http *http;
    struct gw_trapper *trapper; /* NULL: no traps */
    atomic_bool stopping;

    pthread_mutex_t mu;
    pthread_cond_t pool_changed; /* a session or a free place came, or went */
    struct gw_session *sessions;
    struct gw_job *jobs;
    uint32_t n_waiting;
    struct gw_key_use *use;
    size_t n_use;
    struct gw_once *once;
    pthread_cond_t once_changed;
    struct vd_pubkey wrong[GW_WRONG_MAX]; /* ring */
    size_t n_wrong;                       /* so far */
    struct gw_past {
        struct vd_hash job;
        struct vd_pubkey worker;
    } past[GW_PAST_MAX]; /* ring */
    size_t n_past;       /* so far */
    struct vd_hash delivered[GW_DELIVERED];
    size_t delivered_at;

    bool has_escrow, owns_escrow; /* its owner gets the rest: only our own is topped up */
    bool look_for_escrow;         /* one was opened that names us: */
    struct vd_hash offered;       /* the largest of them since the last look */
    struct vd_amount offered_amount;
    struct vd_state_key looked_at; /* the settler's: up to which of those that name us */
    struct vd_hash escrow;
    struct vd_amount balance;   /* of the escrow, as last read */
    struct vd_amount unsettled; /* of receipts that we hold and have not settled */
    struct vd_amount reserved;  /* most that running answers can cost */
    uint64_t sequence_next, sequence_end;
    uint64_t n_pending;

    pthread_t settler;
    bool settling, settle_now, refresh; /* what the settler is told */
    pthread_cond_t settle_bell;
    struct vd_seldom no_escrow, no_topup; /* the settler's */
    struct vd_gateway_stats stats;
};

/* vd_gateway_pool.c: links, workers, jobs' frames, audits. */
enum vd_err gw_pool_start(struct vd_gateway *g, struct vd_error *err);
/* Gives the job to a worker, waiting for one if need be; alive() is asked from time to time. False: *e says
 * why. */
typedef bool gw_alive_fn(void *arg);
bool gw_job_place(struct vd_gateway *g, struct gw_job *j, gw_alive_fn *alive, void *arg,
                  struct vd_openai_error *e);
/* The same without waiting. False: nobody can take it now, and nothing has changed. */
bool gw_job_try(struct vd_gateway *g, struct gw_job *j);
void gw_job_leave(struct vd_gateway *g,
                  struct gw_job *j); /* ends the current attempt; its reservation ends */
void gw_job_cancel(struct vd_gateway *g, struct gw_job *j);
void gw_job_send_accept(struct vd_gateway *g, struct gw_job *j, const struct vd_hash *receipt_id,
                        const struct vd_sig *gateway_sig);
size_t gw_workers_of(struct vd_gateway *g, const struct vd_hash *root,
                     struct vd_wire_offer *cheapest); /* under mu */

/* The session's running job of this id; NULL: none (any more). Under mu, as the next. */
struct gw_job *gw_job_of(struct vd_gateway *g, const struct gw_session *s, const struct vd_hash *id);
void gw_job_wake(struct gw_job *j, enum gw_phase phase);
uint32_t gw_job_out_tok(const struct gw_job *j); /* output tokens that are paid for, at most */

/* vd_gateway_stream.c: prefix statements, and verifiers that follow. */
void gw_stream_on_prefix(struct vd_gateway *g, struct vd_link *l, struct gw_session *s, struct vd_bytes body);
/* A follower's word; false: this is none. */
bool gw_stream_on_refuse(struct vd_gateway *g, struct gw_session *s, const struct vd_wire_refuse *m);
bool gw_stream_may_follow(const struct vd_gateway *g, const struct vd_pubkey *key);
/* The next three under mu. A frame to all followers; the end of a job without a receipt. */
void gw_stream_pass(struct vd_gateway *g, unsigned type, struct vd_bytes body);
void gw_stream_over(struct vd_gateway *g, const struct gw_job *j);
bool gw_stream_is_wrong(const struct vd_gateway *g, const struct vd_pubkey *worker);
/* The attempt has ended without a receipt: keeps the worker's last statement, if there is one. */
void gw_stream_keep(struct vd_gateway *g, struct gw_job *j);

/* May this worker be used: is its stake large enough, and has it offered anew since it was last convicted?
 * *free_part is what the stake still covers. */
bool gw_stake_of(struct vd_gateway *g, const struct vd_pubkey *key, struct vd_amount *free_part,
                 struct vd_error *err);

/* vd_gateway_trap.c: traps for auditors, if cfg.trap_every_blocks; ends when g->stopping is set. */
struct gw_trapper;
enum vd_err gw_trap_start(struct vd_gateway *g, struct vd_error *err);
void gw_trap_stop(struct vd_gateway *g);

/* vd_gateway_money.c: escrow, reservations, settlement. */
enum vd_err gw_money_start(struct vd_gateway *g, struct vd_error *err);
void gw_money_stop(struct vd_gateway *g);
void gw_money_on_block(void *gateway, uint64_t height, uint64_t time_ms, const struct vd_event *event,
                       size_t n);
/* Raises what the job may cost to `most`, reserving the difference from escrow and key; under mu. `all`: the
 * same of all siblings that no worker has had, if it is one of them. */
bool gw_money_reserve(struct vd_gateway *g, struct gw_job *j, struct vd_amount most, struct vd_amount all,
                      struct vd_openai_error *e);
/* All of it, and if no worker has had the job what is held for its siblings: the request is over. */
void gw_money_release(struct vd_gateway *g, struct gw_job *j);
/* May the escrow be charged with so much more? */
bool gw_money_covers(struct vd_gateway *g, struct vd_amount amount);
/* A kept receipt: its amount is unsettled and spent from now on. */
void gw_money_owe(struct vd_gateway *g, const struct vd_key_id *key, struct vd_amount amount);
bool gw_money_sequence(struct vd_gateway *g, uint64_t *out, struct vd_openai_error *e);
struct gw_key_use *gw_key_use_of(struct vd_gateway *g,
                                 const struct vd_key_id *key); /* under mu; NULL: too many */

/* vd_gateway_answer.c: an answer's life. */
struct gw_answer {
    struct vd_gateway *g;
    struct gw_job job;
    uint32_t n_taken; /* tokens given out by next */
    bool ended;
    gw_alive_fn *alive; /* NULL: always */
    void *alive_arg;
    uint64_t alive_ms; /* when it was asked last */
    bool has_slot;     /* keep the answer for a retry */
    struct vd_gwstore_once once;
    struct vd_gateway_text_stream stream;
    char *text;    /* owned */
    size_t n_text; /* of it, what a client may see; grows */
    size_t n_all, cap_text;
    struct vd_stop_text stop;
    bool stopped;              /* by a stop string: the text ends before it */
    uint32_t n_text_tok;       /* tokens whose text was taken */
    struct vd_receipt receipt; /* once done */
    struct vd_hash receipt_id;
};
enum gw_step { GW_TEXT, GW_DONE, GW_GONE, GW_ERROR };
/* Takes prompt over, checks lengths; asks no worker yet. False: *e says why, nothing to free. */
bool gw_answer_start(struct gw_answer *a, struct vd_gateway *g, const struct gw_model *m,
                     const struct vd_openai_request *r, const struct vd_api_key *key, uint32_t *prompt,
                     uint32_t n_prompt, struct vd_openai_error *e);
/* Waits for more text (GW_TEXT: a->text has grown), the end (GW_DONE: the receipt is durable), a client that
 * hung up (GW_GONE) or an error. */
enum gw_step gw_answer_next(struct gw_answer *a, struct vd_openai_error *e);
/* The same of n choices side by side, one of which *which then names; not all have ended. Those after the
 * first are given to workers as these have room. Before the first call: */
enum gw_step gw_answers_next(struct gw_answer *const *a, size_t n, size_t *which, struct vd_openai_error *e);
/* makes answers, none of which has been asked for, those of one request; side by side if they are choices,
 * and then a[0] is freed last. */
void gw_answers_join(struct gw_answer *const *a, size_t n, bool choices, struct gw_siblings *s);
/* Stops early: what was generated is receipted and kept if the worker says so in time. */
void gw_answer_cancel(struct gw_answer *a);
void gw_answer_free(struct gw_answer *a); /* cancels if it has not ended */

/* vd_gateway_embed.c: all inputs of the request, each by a job of its own. False: *e says why; if a worker
 * failed, or the client has gone, those before have been paid for. */
struct vd_openai_embed;
bool gw_embed(struct vd_gateway *g, const struct gw_model *m, struct vd_openai_embed *r,
              const struct vd_api_key *key, gw_alive_fn *alive, void *arg, struct vd_openai_error *e);

/* vd_gateway_once.c: retries. */
enum gw_once_result { GW_ONCE_NEW, GW_ONCE_REPLAY, GW_ONCE_FAIL };
/* A request enters under its slot. `join`: wait for a running one of the same slot and take its answer, or a
 * kept one (REPLAY: *found, whose text is the caller's); another fingerprint under the slot is a FAIL. NEW:
 * it runs, until gw_once_leave. */
enum gw_once_result gw_once_enter(struct vd_gateway *g, struct gw_once *me, bool join, gw_alive_fn *alive,
                                  void *arg, struct vd_gwstore_once *found, struct vd_openai_error *e);
void gw_once_leave(struct vd_gateway *g, struct gw_once *me);
/* The answer under this slot has reached its client: no retry will ask for it. */
void gw_once_delivered(struct vd_gateway *g, const struct vd_hash *slot);
void gw_once_slot(struct gw_once *out, const struct vd_key_id *key, const char *path, struct vd_bytes body,
                  const char *idempotency_key);

/* vd_gateway_http.c */
enum vd_err gw_http_start(struct vd_gateway *g, struct vd_error *err);
void gw_http_stop(struct vd_gateway *g);
uint16_t gw_http_port(const struct gw_http *h);

/* vd_gateway_query.c: the parameters behind a path's question mark. False: one that docs/guide/api.md does
 * not have, or not with this value, or that is there twice. */
struct MHD_Connection;
#define GW_RECEIPTS_PATH "/v1/receipts/" /* and an id */
struct gw_query {
    bool file; /* of /v1/receipts/ID: format=file */
};
bool gw_query_read(struct gw_query *out, struct MHD_Connection *connection, const char *path,
                   struct vd_openai_error *e);

/* vd_gateway_guard.c: connections whose requests do not arrive in time are cut. A request is awaited from
 * enter or next on, until received. NULL guests (no memory for them) are allowed, and not watched. */
struct gw_guard;
struct gw_guest;
enum vd_err gw_guard_start(struct gw_guard **out, uint32_t receive_ms, struct vd_error *err);
void gw_guard_stop(struct gw_guard *w); /* all guests have left; NULL is allowed */
struct gw_guest *gw_guard_enter(struct gw_guard *w, int fd);
void gw_guard_received(struct gw_guard *w, struct gw_guest *x);
void gw_guard_next(struct gw_guard *w, struct gw_guest *x);
/* An answer begins, or with late NULL has ended: it is shut down when late(arg, now_ms) says so, which must
 * not call the guard. Not under mu. */
typedef bool gw_late_fn(void *arg, uint64_t now_ms);
void gw_guard_answer(struct gw_guard *w, struct gw_guest *x, gw_late_fn *late, void *arg);
void gw_guard_leave(struct gw_guard *w, struct gw_guest *x);

/* vd_gateway_receipt.c: as JSON; NULL: no memory, or damaged. The caller frees it. */
char *gw_receipt_json(struct vd_gateway *g, const struct vd_gwstore_receipt *r);

/* vd_gateway.c */
void gw_metrics(struct vd_gateway *g, struct vd_metrics *m);
bool gw_health(struct vd_gateway *g, char text[256]);
bool gw_disk_full(const struct vd_gateway *g);    /* less than GW_DISK_FREE_MIN_BYTES are free */
bool gw_shutting_down(struct vd_openai_error *e); /* false, like vd_openai_fail */
/* pthread condition variables with the monotonic clock; wait at most ms. False: time is over. */
void gw_cond_init(pthread_cond_t *c);
bool gw_cond_wait_ms(pthread_cond_t *c, pthread_mutex_t *mu, uint32_t ms);

#endif
