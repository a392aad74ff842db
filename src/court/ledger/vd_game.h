/* The dispute game as a pure state machine (docs/spec/proof.md, section 5): the challenger points, the worker
 * opens, until one record is left, which the referee recomputes.
 *
 * The ledger opens a game when it accepts a CHALLENGE, stores its bytes, feeds it the sides' moves, and looks
 * after clock, bond and stake. A move is canonical protobuf. Every move is accepted, rejected (the game is
 * unchanged and the clock runs on) or ends the game. A side that lets its clock run out loses; the ledger
 * knows from vd_game_turn whose clock it is.
 *
 * The challenger must be able to prove inputs under the worker's own trees. The hashes right of its path that
 * it needs are kept in the game as paths (siblings of the way down), so that a game's bytes, with job and
 * model, are all that either player needs: players keep no state.
 *
 * Memory: the struct is some 60 KiB of plain memory that the caller owns. Nothing allocates.
 * Thread rule: pure functions. */
#ifndef VD_GAME_H
#define VD_GAME_H

#include "vd_merkle.h"
#include "vd_referee.h"

enum {
    VD_GAME_LEVELS = 10, /* of a tree that one move shows */
    VD_GAME_SHOWN_MAX = 1 << VD_GAME_LEVELS,
    VD_GAME_PATH_MAX = 24, /* deepest tree: 2^21 leaves */
    VD_GAME_MAX_BYTES = 60 << 10,
    VD_MOVE_MAX_BYTES = VD_OPENING_MAX_BYTES + 256,
};

enum vd_game_side {
    VD_GAME_WORKER = 1,
    VD_GAME_CHALLENGER = 2,
};

/* X(code, number, name, side) */
#define VD_MOVE_LIST(X)                                                                                      \
    X(VD_MOVE_STATE, 1, "STATE", VD_GAME_WORKER)                                                             \
    X(VD_MOVE_NODES, 2, "NODES", VD_GAME_WORKER)                                                             \
    X(VD_MOVE_UNITS, 3, "UNITS", VD_GAME_WORKER)                                                             \
    X(VD_MOVE_OPS, 4, "OPS", VD_GAME_WORKER)                                                                 \
    X(VD_MOVE_LEAVES, 5, "LEAVES", VD_GAME_WORKER)                                                           \
    X(VD_MOVE_RECORDS, 6, "RECORDS", VD_GAME_WORKER)                                                         \
    X(VD_MOVE_BIND_NODES, 7, "BIND_NODES", VD_GAME_WORKER)                                                   \
    X(VD_MOVE_BIND_OPEN, 8, "BIND_OPEN", VD_GAME_WORKER)                                                     \
    X(VD_MOVE_STEP, 9, "STEP", VD_GAME_CHALLENGER)                                                           \
    X(VD_MOVE_UNIT, 10, "UNIT", VD_GAME_CHALLENGER)                                                          \
    X(VD_MOVE_OP, 11, "OP", VD_GAME_CHALLENGER)                                                              \
    X(VD_MOVE_LEAF, 12, "LEAF", VD_GAME_CHALLENGER)                                                          \
    X(VD_MOVE_TILE, 13, "TILE", VD_GAME_CHALLENGER)                                                          \
    X(VD_MOVE_SALT, 14, "SALT", VD_GAME_CHALLENGER)                                                          \
    X(VD_MOVE_BIND_NODE, 15, "BIND_NODE", VD_GAME_CHALLENGER)                                                \
    X(VD_MOVE_BIND, 16, "BIND", VD_GAME_CHALLENGER)

enum vd_move_kind {
#define X(code, number, name, side) code = number,
    VD_MOVE_LIST(X)
#undef X
};
const char *vd_move_name(enum vd_move_kind kind);

/* A move; what a kind does not use is zero.
 *   STATE root, nodes | NODES nodes | UNITS nodes | OPS salt, nodes | LEAVES nodes | RECORDS data (the leaf;
 * for EMBED then the token at this position and its proof) | BIND_NODES nodes | BIND_OPEN data | STEP, UNIT,
 * OP, LEAF, BIND_NODE, BIND index | TILE index (record in the leaf), data (opening) | SALT salt (the job
 * salt) */
struct vd_move {
    enum vd_move_kind kind;
    uint64_t index;
    struct vd_hash root, salt;
    struct vd_bytes nodes; /* hashes, one after the other */
    struct vd_bytes data;
};
/* Bytes written, 0 if cap_bytes is too small; VD_MOVE_MAX_BYTES always suffice. */
size_t vd_move_encode(const struct vd_move *m, uint8_t *buf, size_t cap_bytes);
bool vd_move_decode(struct vd_bytes in, struct vd_move *out); /* nodes and data point into `in` */

/* X(code, class, text). The class: 0 the game goes on, 1 rejected, 2 the worker has lost, 3 the challenger
 * has lost. */
#define VD_GAME_RESULT_LIST(X)                                                                               \
    X(VD_GAME_ACCEPTED, 0, "accepted")                                                                       \
    X(VD_GAME_REJECT_TURN, 1, "not this side's turn, or the game is over")                                   \
    X(VD_GAME_REJECT_MALFORMED, 1, "the move is malformed or not canonical")                                 \
    X(VD_GAME_REJECT_KIND, 1, "not a move that this position allows")                                        \
    X(VD_GAME_REJECT_RANGE, 1, "it points at what is not there")                                             \
    X(VD_GAME_REJECT_FIT, 1, "what it shows does not hash to what it opens")                                 \
    X(VD_GAME_REJECT_OPENING, 1, "the opening does not verify")                                              \
    X(VD_GAME_WORKER_TILE, 2, "the worker's record does not follow from its inputs")                         \
    X(VD_GAME_WORKER_STATE, 2, "the worker showed a second, different state root")                           \
    X(VD_GAME_WORKER_SALT, 2, "the worker's salt does not follow from the job salt")                         \
    X(VD_GAME_CHALLENGER_TILE, 3, "the worker's record follows from its inputs")                             \
    X(VD_GAME_CHALLENGER_BIND, 3, "commit tree, state tree and receipt agree")                               \
    X(VD_GAME_CHALLENGER_SALT, 3, "the worker's salt follows from the job salt")

enum vd_game_result {
#define X(code, class, text) code,
    VD_GAME_RESULT_LIST(X)
#undef X
};
const char *vd_game_result_text(enum vd_game_result r);
bool vd_game_rejected(enum vd_game_result r);         /* class 1 */
bool vd_game_worker_loses(enum vd_game_result r);     /* class 2 */
bool vd_game_challenger_loses(enum vd_game_result r); /* class 3 */

enum vd_game_phase {
    VD_PHASE_W_STATE = 1, /* so that no game has empty bytes */
    VD_PHASE_C_STATE,     /* STEP, BIND_NODE (index 0: the whole commit tree) or BIND */
    VD_PHASE_W_NODES,
    VD_PHASE_C_STEP,
    VD_PHASE_W_UNITS, /* the group's unit hashes, or, of many, nodes over them */
    VD_PHASE_C_UNIT,
    VD_PHASE_W_OPS,
    VD_PHASE_C_OP, /* OP or SALT */
    VD_PHASE_W_LEAVES,
    VD_PHASE_C_LEAF,
    VD_PHASE_W_RECORDS,
    VD_PHASE_C_TILE,
    VD_PHASE_W_BIND_NODES,
    VD_PHASE_C_BIND, /* BIND_NODE or BIND */
    VD_PHASE_W_BIND_OPEN,
    VD_PHASE_OVER,
};

/* The way down one tree: the span reached, its hash, and the siblings from the top down. */
struct vd_game_path {
    uint64_t n; /* leaves of the tree */
    struct vd_merkle_span span;
    struct vd_hash node;
    uint32_t n_siblings;
    struct vd_hash sibling[VD_GAME_PATH_MAX];
};

struct vd_game {
    enum vd_game_phase phase;
    struct vd_hash state_root;  /* from W_STATE on */
    struct vd_game_path steps;  /* of the state tree (groups), or (BIND) of the commit tree (steps) */
    struct vd_game_path units;  /* of the group's unit hashes: from C_UNIT on */
    struct vd_game_path leaves; /* of the operator's leaves: from W_LEAVES on */
    uint32_t step, unit, op;    /* as far as the challenger has pointed: step and unit from W_OPS on */
    struct vd_hash group_root;  /* from C_UNIT on */
    struct vd_hash salt;        /* salt(step): from C_OP on */
    uint32_t n_ops;             /* roots of the unit's operators: from C_OP on */
    struct vd_hash op_root[VD_GRAPH_OPS_MAX];
    uint32_t n_shown; /* the nodes that the challenger must choose from now */
    struct vd_hash shown[VD_GAME_SHOWN_MAX];
    uint32_t token;          /* that the worker opened with its leaf of EMBED: in C_TILE */
    uint32_t n_record_bytes; /* the worker's leaf: in C_TILE */
    uint8_t records[VD_GRAPH_LEAF_BYTES_MAX];
};

void vd_game_open(struct vd_game *game);

/* Where the ways down end: group and member, once a unit is chosen. */
static inline struct vd_graph_place vd_game_place(const struct vd_game *game)
{
    return (struct vd_graph_place){(uint32_t)game->steps.span.first, (uint32_t)game->units.span.first};
}

/* Whose move it is; a game that is over keeps the worker. */
enum vd_game_side vd_game_turn(const struct vd_game *game);

/* Applies `side`'s move. `known_state_root`: the state root that this worker showed before for the same
 * receipt, in any dispute, or NULL; after a STATE was accepted the ledger keeps game->state_root as such. */
enum vd_game_result vd_game_move(struct vd_game *game, const struct vd_ref_claim *claim,
                                 const struct vd_hash *known_state_root, enum vd_game_side side,
                                 struct vd_bytes move);

/* What the game ends at: one record, as the worker opened it and as the referee computed it. */
struct vd_game_tile {
    struct vd_graph_op op;
    uint64_t record;              /* number in the operator */
    const uint8_t *worker_record; /* op.record_bytes, in the game */
    uint8_t true_record[VD_GRAPH_RECORD_BYTES_MAX];
};

/* Recomputes what a TILE move points at, without making the move; requires phase C_TILE and index below the
 * leaf's records. true_record is written unless the opening is rejected. */
enum vd_ref_verdict vd_game_tile(const struct vd_game *game, const struct vd_ref_claim *claim, uint64_t index,
                                 struct vd_bytes opening, struct vd_game_tile *out);

/* Records in the leaf that the worker opened: in C_TILE. */
uint32_t vd_game_tile_records(const struct vd_game *game, const struct vd_ref_claim *claim);

/* A game's bytes (canonical protobuf), at most VD_GAME_MAX_BYTES. Decoding checks that they are a position of
 * the game on this claim, as far as its shape goes. */
size_t vd_game_encode(const struct vd_game *game, uint8_t *buf, size_t cap_bytes);
bool vd_game_decode(struct vd_bytes in, const struct vd_ref_claim *claim, struct vd_game *out);

#endif
