/* What worker and verifier share of a dispute: the receipt with what it hides, the game as the ledger stores
 * it, and the transaction that carries a move.
 *
 * Thread rule: a struct is used by one thread at a time; the functions that take a client may wait for it. */
#ifndef VD_WORKER_GAME_H
#define VD_WORKER_GAME_H

#include "vd_game.h"
#include "vd_ledger_client.h"
#include "vd_model.h"
#include "vd_player.h"
#include "vd_replay.h"

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

/* Sends the move and waits for its block. VD_EFALSE: the ledger refused it. */
enum vd_err vd_game_send(struct vd_ledger_client *ledger, const struct vd_hash *dispute,
                         const struct vd_player_move *move, struct vd_error *err);

#endif
