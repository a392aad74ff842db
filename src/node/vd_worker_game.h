/* What worker and verifier share of a dispute: the receipt with what it hides, the game as the ledger stores
 * it, and the traces that are kept to play it.
 *
 * Thread rule: a struct is used by one thread at a time; the functions that take a client may wait for it. */
#ifndef VD_WORKER_GAME_H
#define VD_WORKER_GAME_H

#include "vd_game.h"
#include "vd_ledger_client.h"
#include "vd_model.h"
#include "vd_player.h"
#include "vd_replay.h"
#include "vd_trace_model.h"

/* A receipt taken apart for replay and dispute. `job` and `claim` point into it and into the model. */
struct vd_game_case {
    struct vd_hash receipt_id;
    struct vd_envelope envelope;
    uint32_t *tokens; /* owned */
    struct vd_receipt receipt;
    struct vd_proof_job job;
    struct vd_ref_claim claim;
};

/* Takes `envelope` and `tokens` (malloc'ed, which the envelope points into) over, also on failure.
 * VD_EFORMAT: the receipt does not decode; VD_EUNSUPPORTED: this model cannot run it. */
enum vd_err vd_game_case_init(struct vd_game_case *c, const struct vd_envelope *envelope, uint32_t *tokens,
                              const struct vd_model *model, struct vd_error *err);
void vd_game_case_free(struct vd_game_case *c);

/* The dispute's record, and its game if it is open. */
enum vd_err vd_game_fetch(struct vd_ledger_client *ledger, const struct vd_hash *dispute,
                          const struct vd_game_case *c, struct vd_dispute *record, struct vd_game *game,
                          struct vd_error *err);

/* ---- Traces that are kept ----
 *
 * A trace costs a replay, and so does each unit that is loaded into it. Several disputes take turns, about
 * one receipt or many; so what they need is kept: the trace of each receipt, and the units that disputes
 * about it have arrived at. A hundred disputes that point at one unit share it. What was used longest ago
 * goes first when there are too many, or too many bytes. */
enum { VD_GAME_TRACES_MAX = 16, VD_GAME_UNITS_MAX = 64 };

struct vd_game_trace {
    struct vd_game_case c;
    struct vd_model *model;       /* of the receipt; borrowed */
    struct vd_trace_model *trace; /* NULL until vd_game_trace_open */
    uint64_t used;
};

struct vd_game_traces { /* zeros: empty */
    struct vd_game_trace *trace[VD_GAME_TRACES_MAX];
    struct vd_game_unit {
        struct vd_hash receipt_id;
        uint64_t used;
        struct vd_trace_unit_data u; /* u.memory NULL: free */
    } unit[VD_GAME_UNITS_MAX];
    uint64_t used; /* counts uses */
};

/* NULL: not kept. What is returned stays valid until the next put. */
struct vd_game_trace *vd_game_traces_get(struct vd_game_traces *ts, const struct vd_hash *receipt_id);
/* As vd_game_case_init. */
enum vd_err vd_game_traces_put(struct vd_game_traces *ts, const struct vd_envelope *envelope,
                               uint32_t *tokens, struct vd_model *model, struct vd_game_trace **out,
                               struct vd_error *err);
void vd_game_traces_drop(struct vd_game_traces *ts, struct vd_game_trace *t);
void vd_game_traces_clear(struct vd_game_traces *ts);
/* Replays, unless that was done already. What is replayed later is so in this cache too. */
enum vd_err vd_game_trace_open(struct vd_game_trace *t, struct vd_ctx *ctx, struct vd_kv_pool *cache,
                               struct vd_error *err);
/* Around a move in a dispute about an open trace: the unit that the game is at goes in, if it is kept, and
 * out again. */
void vd_game_unit_in(struct vd_game_traces *ts, struct vd_game_trace *t, const struct vd_game *game);
void vd_game_unit_out(struct vd_game_traces *ts, struct vd_game_trace *t);

#endif
