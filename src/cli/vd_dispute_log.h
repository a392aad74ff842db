/* A dispute as it went, from public data only: the ledger's records, events and blocks. Every move is played
 * again on this machine, so the verdict shown is one that was checked here, not one that was believed.
 *
 * Ownership: vd_dispute_log_free gives all memory back. Thread rule: one thread. */
#ifndef VD_DISPUTE_LOG_H
#define VD_DISPUTE_LOG_H

#include "vd_cli.h"
#include "vd_game.h"
#include "vd_ledger_client.h"

enum {
    VD_DISPUTE_MOVES_MAX = 64,
    VD_DISPUTE_EVENTS_MAX = 64,
    VD_DISPUTE_WHERE_MAX = 320,
    /* A record as text: a number, or its bytes in hex. */
    VD_DISPUTE_RECORD_MAX = 2 * VD_GRAPH_RECORD_BYTES_MAX + 1
};

struct vd_dispute_step {
    uint64_t height;
    enum vd_game_side side;
    enum vd_move_kind kind;
    size_t n_bytes;
    char where[VD_DISPUTE_WHERE_MAX]; /* "layer 17", "operator 12, PART", ... */
    const char *result;               /* of the game after it */
    uint64_t referee_ns;              /* what checking the move took here */
};

struct vd_dispute_log {
    struct vd_hash id;
    struct vd_dispute record;
    struct vd_receipt_record receipt; /* without body */
    size_t n_moves;
    struct vd_dispute_step move[VD_DISPUTE_MOVES_MAX];
    /* Of the TILE move, else empty: a number where records are floats, else hex. */
    char worker_record[VD_DISPUTE_RECORD_MAX], true_record[VD_DISPUTE_RECORD_MAX];
    size_t n_events; /* all of this dispute and its receipt, in order */
    struct {
        uint64_t height;
        struct vd_event event;
    } event[VD_DISPUTE_EVENTS_MAX];
};

/* A block that comes in parts: n_bytes of its `size` are there, at p (VD_BLOCK_MAX_BYTES). Starts from zeros.
 */
struct vd_dispute_block {
    uint8_t *p;
    size_t n_bytes, size;
};
/* Adds the part that the ledger answered with. False: the answer is malformed, or of another size than the
 * parts before it. */
bool vd_dispute_add_part(struct vd_dispute_block *b, const struct vd_ledger_answer *a);

/* free() it. */
enum vd_err vd_dispute_log_read(struct vd_dispute_log **out, const struct vd_cli *cli,
                                const struct vd_hash *id, struct vd_error *err);

#endif
