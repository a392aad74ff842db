/* The commit root: what a worker makes while it generates, position by position, and a replayer makes again
 * (docs/spec/proof.md, section 3).
 *
 * Per position it takes what the last block puts out: K and V rows and, from the prompt's last position on,
 * the X row; of an encoder the X row; and the sampled token and the stop state. They are copied, and sixteen
 * positions are hashed together; a root asked for in between hashes what is there.
 *
 * Memory is fixed: two streaming Merkle trees, and the records of sixteen positions (56 KiB at width 576,
 * 0.6 MiB at width 8,192).
 *
 * Ownership: the program is borrowed, the request is not kept. Thread rule: one thread at a time. */
#ifndef VD_COMMIT_H
#define VD_COMMIT_H

#include "vd_err.h"
#include "vd_graph.h"
#include "vd_receipt.h"
#include "vd_trace_hash.h"

struct vd_commit;

/* q: n_prompt (at least 1), max_tokens and sampling are read. n_steps: how many positions there will be, only
 * for vd_commit_halves; else UINT32_MAX. VD_ENOMEM. */
enum vd_err vd_commit_open(struct vd_commit **out, const struct vd_program *program,
                           const struct vd_request *q, uint32_t n_steps,
                           const uint8_t job_salt[VD_JOB_SALT_BYTES], struct vd_error *err);
void vd_commit_close(struct vd_commit *c); /* may be NULL */

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

uint32_t vd_commit_n_steps(const struct vd_commit *c);  /* positions added */
uint32_t vd_commit_n_output(const struct vd_commit *c); /* tokens counted, or the vector's elements */

/* Over the positions added so far (at least 1). */
struct vd_hash vd_commit_root(struct vd_commit *c);
/* What the root is the hash of, if n_steps is known and all are added: the roots of its two halves; of a
 * single position the two unit hashes in its leaf. */
void vd_commit_halves(struct vd_commit *c, struct vd_hash half[2]);
/* The output root of the tokens so far; 32 zero bytes if none. */
struct vd_hash vd_commit_output_root(struct vd_commit *c);

#endif
