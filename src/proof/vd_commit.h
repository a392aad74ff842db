/* The commit root: what a worker makes while it generates, position by position, and a replayer makes again
 * (docs/spec/proof.md, section 3).
 *
 * Per position it takes what the last block puts out: K and V rows and, from the prompt's last position on,
 * the X row; of an encoder the X row; and the sampled token and the stop state. Some microseconds each;
 * memory is fixed (two streaming Merkle trees).
 *
 * Ownership: plain memory of the caller; the program is borrowed. Thread rule: one thread at a time. */
#ifndef VD_COMMIT_H
#define VD_COMMIT_H

#include "vd_graph.h"
#include "vd_merkle.h"
#include "vd_trace_hash.h"

enum { VD_COMMIT_SALTS = 16 }; /* made together */

struct vd_commit {
    struct vd_graph graph; /* n_output and n_steps are not known yet and not used */
    uint8_t job_salt[VD_JOB_SALT_BYTES];
    uint32_t n_steps, n_output;
    struct vd_hash
        salt; /* salt(n_steps), made one position ahead, since a token is hashed under the next salt */
    struct vd_hash salts[VD_COMMIT_SALTS]; /* of positions from a multiple of that on, salt's among them */
    struct vd_merkle_stream steps, output;
    struct vd_hash vector;        /* the output root of a vector */
    struct vd_hash unit[2], leaf; /* of the position added last: block, head (zeros: none), commit leaf */
};

void vd_commit_init(struct vd_commit *c, const struct vd_program *program, uint32_t n_prompt,
                    uint32_t max_tokens, const struct vd_sampling *sampling,
                    const uint8_t job_salt[VD_JOB_SALT_BYTES]);

/* The next position. rows: what the last block puts out there; of a decoder the KROW and VROW records, all kv
 * heads (vd_kv_read), and x, NULL for positions before n_prompt - 1; of an encoder x. token and stop are read
 * only where there is a head. A token is counted as output unless stop is VD_STOP_FAIL. mask: the mask's
 * state before the token, read only if the job has one. */
void vd_commit_add(struct vd_commit *c, const struct vd_graph_rows *rows, uint32_t token, enum vd_stop stop,
                   const struct vd_automaton_state *mask);

/* The same of a job whose result is a vector. sum: POOL's row of a mean, d floats, else NULL; vector: d
 * floats, at the last position, else NULL. */
void vd_commit_add_vector(struct vd_commit *c, const struct vd_graph_rows *rows, const float *sum,
                          const float *vector);

/* Over the positions added so far (at least 1). */
struct vd_hash vd_commit_root(const struct vd_commit *c);
/* The output root of the tokens so far; 32 zero bytes if none. */
struct vd_hash vd_commit_output_root(const struct vd_commit *c);

/* ---- unit hashes, also for the state tree ---- */

/* Hash of a unit (not the head's or pooling's) from its rows; `outs`, if not NULL, gets the roots under it.
 */
struct vd_hash vd_unit_rows(const struct vd_graph *g, const struct vd_hash *salt, uint32_t step,
                            uint32_t unit, const struct vd_graph_rows *rows,
                            struct vd_hash outs[VD_GRAPH_OUTS_MAX]);
/* An operator's records out of the unit's rows; floats are x, of POOL and VECTOR as well. */
void vd_unit_records(const struct vd_graph_op *o, const struct vd_graph_rows *rows, uint8_t *out);
/* The pooling unit's. `outs`, if not NULL, gets the roots of POOL and VECTOR, those that are there. */
struct vd_hash vd_unit_pool(const struct vd_graph *g, const struct vd_hash *salt, uint32_t step,
                            const float *sum, const float *vector, struct vd_hash outs[VD_GRAPH_OUTS_MAX]);
/* mask_state: MASK_STATE's record, read only if the job has a mask. */
struct vd_hash vd_unit_head(const struct vd_graph *g, const struct vd_hash *salt, uint32_t step,
                            uint32_t token, enum vd_stop stop, const uint8_t *mask_state);

#endif
