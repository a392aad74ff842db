/* The referee: is this opening true, and does the worker's record follow from it? (docs/spec/proof.md, 5 and
 * 6)
 *
 * The claim is what both sides signed; a point is where the dispute arrived, with the roots the worker showed
 * on the way. The inputs of the record, their order and their bytes are derived here from claim and point,
 * never read from the opening: the opening holds bytes and hashes only, and whatever they are, the result is
 * one of the verdicts.
 *
 * Stack below 128 KiB, no heap, no clock; a tile takes less than a millisecond. Thread rule: pure functions.
 */
#ifndef VD_REFEREE_H
#define VD_REFEREE_H

#include "vd_graph.h"
#include "vd_receipt.h"

enum { VD_OPENING_MAX_BYTES = 64 << 10 };

enum vd_ref_verdict {
    VD_REF_REJECTED,         /* the opening does not verify: as if it had not been sent */
    VD_REF_WORKER_LOSES,     /* the record does not follow from its inputs */
    VD_REF_CHALLENGER_LOSES, /* it does */
};

/* What a settled receipt says, and the program it names. Pointers are borrowed. */
struct vd_ref_claim {
    struct vd_graph graph;
    struct vd_bytes program_bytes; /* canonical bytes of graph.program */
    struct vd_hash model_root, prompt_root, output_root, commit_root, salt_commit;
    struct vd_hash bias_hash, mask_hash; /* of the request's tables; zeros: none */
    enum vd_finish finish;
};

/* Fills *out from a decoded receipt and the registered program of its model root. False if the program cannot
 * run such a job (vd_graph_valid): the ledger must refuse to settle it. */
bool vd_ref_claim_init(struct vd_ref_claim *out, const struct vd_receipt *receipt,
                       const struct vd_program *program, struct vd_bytes program_bytes);

struct vd_ref_point {
    uint32_t step, unit, op;               /* exist in claim->graph */
    uint64_t record;                       /* exists */
    uint32_t token;                        /* EMBED: the token of this position (vd_referee_token) */
    struct vd_hash salt;                   /* salt(step), as the worker showed it */
    struct vd_hash state_root, group_root; /* of the state tree, and of the group that the unit is in */
    const struct vd_hash *op_roots;        /* of the unit's operators, all of them */
};

/* Recomputes the record at `pt` from the inputs in `opening` and compares it with the worker's. true_record:
 * what was recomputed, as many bytes as the operator's records have; not written if VD_REF_REJECTED. */
enum vd_ref_verdict vd_referee_tile(const struct vd_ref_claim *claim, const struct vd_ref_point *pt,
                                    const uint8_t *worker_record, struct vd_bytes opening,
                                    uint8_t true_record[VD_GRAPH_RECORD_BYTES_MAX]);

/* The token at sequence position `at` (< n_prompt + n_output), opened under the prompt or the output root
 * with this salt: what the worker must show before EMBED is recomputed, since only who made the trees can be
 * sure to know them. False: the opening does not verify. */
bool vd_referee_token(const struct vd_ref_claim *claim, const struct vd_hash *salt, uint32_t at,
                      struct vd_bytes opening, uint32_t *token);

/* BIND_OPEN: true if `opening` shows that commit tree, state tree and receipt agree at `step` (< n_steps). */
bool vd_referee_bind(const struct vd_ref_claim *claim, const struct vd_hash *state_root, uint32_t step,
                     struct vd_bytes opening);

#endif
