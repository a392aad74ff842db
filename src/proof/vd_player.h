/* The two players of a dispute, who need no person: each makes its next move from its own trace and the game
 * as the ledger stores it (docs/spec/proof.md, sections 5 and 6). They keep no state, so a process may die
 * between moves.
 *
 * Thread rule: as the trace. */
#ifndef VD_PLAYER_H
#define VD_PLAYER_H

#include "vd_game.h"
#include "vd_trace.h"

struct vd_player_move {
    enum vd_move_kind kind;
    size_t n_bytes;
    uint8_t bytes[VD_MOVE_MAX_BYTES];
};

/* The worker opens what the game asks for. Requires vd_game_turn(game) == VD_GAME_WORKER and a game that is
 * not over. A worker whose trace is not what it claimed before makes moves that the game rejects. */
enum vd_err vd_player_worker_answer(struct vd_trace *t, const struct vd_game *game,
                                    struct vd_player_move *out, struct vd_error *err);

/* How many steps that answer runs of the trace's source again: what it needs of the source's cache. 0: it
 * runs none, and needs neither context nor cache. */
uint32_t vd_player_worker_runs(const struct vd_trace *t, const struct vd_game *game);

/* The challenger points at the first difference between its trace and what the worker showed, in the end with
 * the opening of the record's inputs. `claim` is the receipt's. VD_EFALSE: there is no difference to point at
 * (an honest worker: the challenge was wrong). */
enum vd_err vd_player_challenger_point(struct vd_trace *t, const struct vd_ref_claim *claim,
                                       const struct vd_game *game, struct vd_player_move *out,
                                       struct vd_error *err);

/* The opening of a record of the loaded unit's inputs, into buf; *n_bytes its length. `game` gives the hashes
 * right of the path. VD_ELIMIT if cap_bytes does not suffice (VD_OPENING_MAX_BYTES does). */
enum vd_err vd_opening_tile(struct vd_trace *t, const struct vd_game *game, uint32_t op, uint64_t record,
                            uint8_t *buf, size_t cap_bytes, size_t *n_bytes, struct vd_error *err);
/* What RECORDS shows behind a leaf of EMBED: the token at `step` and its proof. */
enum vd_err vd_opening_token(struct vd_trace *t, uint32_t step, uint8_t *buf, size_t cap_bytes,
                             size_t *n_bytes, struct vd_error *err);
/* BIND_OPEN of a step. */
enum vd_err vd_opening_bind(struct vd_trace *t, uint32_t step, uint8_t *buf, size_t cap_bytes,
                            size_t *n_bytes, struct vd_error *err);

#endif
