/* The commit root: what a worker makes while it generates, position by position, and a replayer makes again
 * (docs/spec/proof.md, section 3).
 *
 * Per position it takes the last layer's K and V rows and, from the prompt's last position on, the X row
 * after the last layer, the sampled token and the stop state. Some microseconds each; memory is fixed (two
 * streaming Merkle trees).
 *
 * Ownership: plain memory of the caller; the program is borrowed. Thread rule: one thread at a time. */
#ifndef VD_COMMIT_H
#define VD_COMMIT_H

#include "vd_graph.h"
#include "vd_merkle.h"
#include "vd_trace_hash.h"

struct vd_commit {
    struct vd_graph graph; /* n_output and n_steps are not known yet and not used */
    uint8_t job_salt[VD_JOB_SALT_BYTES];
    uint32_t n_steps, n_output;
    struct vd_hash
        salt; /* salt(n_steps), made one position ahead, since a token is hashed under the next salt */
    struct vd_merkle_stream steps, output;
    struct vd_hash vector;        /* the output root of a vector */
    struct vd_hash unit[2], leaf; /* of the position added last: block, head (zeros: none), commit leaf */
};

void vd_commit_init(struct vd_commit *c, const struct vd_program *program, uint32_t n_prompt,
                    uint32_t max_tokens, const struct vd_sampling *sampling,
                    const uint8_t job_salt[VD_JOB_SALT_BYTES]);

/* The next position. k, v: the KROW and VROW records of the last layer, all kv heads (vd_kv_read). x: d
 * floats, NULL for positions before n_prompt - 1; token and stop are read only with x. A token is counted as
 * output unless stop is VD_STOP_FAIL. mask: the mask's state before the token, read only if the job has one.
 */
void vd_commit_add(struct vd_commit *c, const uint8_t *k, const uint8_t *v, const float *x, uint32_t token,
                   enum vd_stop stop, const struct vd_automaton_state *mask);

/* The same of a job whose result is a vector. x: NULL where the position has no pooling unit; sum: POOL's
 * row, d floats, NULL without it; vector: d floats, at the last position, else NULL. */
void vd_commit_add_vector(struct vd_commit *c, const uint8_t *k, const uint8_t *v, const float *x,
                          const float *sum, const float *vector);

/* Over the positions added so far (at least 1). */
struct vd_hash vd_commit_root(const struct vd_commit *c);
/* The output root of the tokens so far; 32 zero bytes if none. */
struct vd_hash vd_commit_output_root(const struct vd_commit *c);

/* ---- unit hashes, also for the state tree ---- */

/* Hash of a block's unit from its rows; x NULL: it has none. `outs`, if not NULL, gets the roots of K, V and
 * X. */
struct vd_hash vd_unit_block(const struct vd_graph *g, const struct vd_hash *salt, uint32_t step,
                             uint32_t unit, const uint8_t *k, const uint8_t *v, const float *x,
                             struct vd_hash outs[VD_GRAPH_OUTS_MAX]);
struct vd_hash vd_unit_embed(const struct vd_graph *g, const struct vd_hash *salt, uint32_t step,
                             const float *x);
/* The pooling unit's. `outs`, if not NULL, gets the roots of POOL and VECTOR, those that are there. */
struct vd_hash vd_unit_pool(const struct vd_graph *g, const struct vd_hash *salt, uint32_t step,
                            const float *sum, const float *vector, struct vd_hash outs[VD_GRAPH_OUTS_MAX]);
/* mask_state: MASK_STATE's record, read only if the job has a mask. */
struct vd_hash vd_unit_head(const struct vd_graph *g, const struct vd_hash *salt, uint32_t step,
                            uint32_t token, enum vd_stop stop, const uint8_t *mask_state);

#endif
