/* A model: the program derived from a GGUF file, its packed weights, and its model root.
 *
 * What it is. vd_model_open maps the file, derives the program by the rule of docs/spec/program.md, checks
 * that every tensor fits it and holds only finite weights, and packs the weights for one table of kernels.
 * The file stays mapped: its own bytes are what the model root and the proofs are made of. A file that lies
 * (shapes, types, sizes, non-finite weights) is refused with an error that names tensor and value; it cannot
 * abort.
 *
 * Ownership: the model owns all it returns; pointers live until vd_model_close. The kernel table and the pool
 * are borrowed: the table must outlive the model, the pool only the call.
 *
 * Thread rule: after vd_model_open a model is constant but for the root, which is computed once under a lock;
 * any number of threads may use it. */
#ifndef VD_MODEL_H
#define VD_MODEL_H

#include "vd_bytes.h"
#include "vd_err.h"
#include "vd_kern.h"
#include "vd_pool.h"
#include "vd_program.h"
#include "vd_sha256.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vd_gguf;
struct vd_model;

/* Opens the GGUF file `path` for the table `kern`. `pool` (may be NULL) shares the packing work; it must be
 * idle. VD_ENOTFOUND, VD_EIO, VD_EFORMAT (the file contradicts itself), VD_EUNSUPPORTED (an architecture,
 * tensor type or feature this version does not know, with the list of what it knows), VD_ELIMIT, VD_ENOMEM.
 */
enum vd_err vd_model_open(struct vd_model **out, const char *path, const struct vd_kern *kern,
                          struct vd_pool *pool, struct vd_error *err);
/* No context or cache of the model may be left. NULL is allowed. */
void vd_model_close(struct vd_model *m);

const char *vd_model_path(const struct vd_model *m);
const struct vd_gguf *vd_model_gguf(const struct vd_model *m); /* for the tokenizer and the chat template */
const struct vd_kern *vd_model_kern(const struct vd_model *m);
const struct vd_program *vd_model_program(const struct vd_model *m);
/* The program's canonical bytes: what the model root hashes and a registration carries. */
struct vd_bytes vd_model_program_bytes(const struct vd_model *m);

/* The file's own bytes of one row of a tensor (canonical number, docs/spec/proof.md section 1). */
struct vd_bytes vd_model_tensor_bytes(const struct vd_model *m, uint32_t tensor, uint32_t row);

/* The model root. The first call computes it (some 50 ms for 100 MB on one core; `pool`, which must be idle,
 * may be NULL) or reads it from the file $VERIDEM_HOME/cache/roots/..., where it is kept under path, size,
 * modification time and inode of the model file; later calls return it at once. A cache file that cannot be
 * read or written is as good as none. VD_ENOMEM. */
enum vd_err vd_model_root(struct vd_model *m, struct vd_pool *pool, struct vd_hash *out,
                          struct vd_error *err);
/* The same, always from the bytes, without the cache file: for audits of the cache and for tests. */
enum vd_err vd_model_root_compute(const struct vd_model *m, struct vd_pool *pool, struct vd_hash *out,
                                  struct vd_error *err);

enum { VD_WEIGHT_PROOF_MAX = 64 };

/* One weight leaf (row, part = elements [4096 part, ..)) and its way to the model root. Verify: the leaf hash
 * and `path` imply MTH(weight leaves), the tensor leaf of it and `tensor_path` imply MTH(tensor leaves); both
 * are range proofs of one leaf as vd_merkle_range_prove writes them. */
struct vd_weight_proof {
    uint32_t tensor, row, part;
    struct vd_bytes bytes; /* the leaf's bytes in the mapped file */
    size_t n_path, n_tensor_path;
    struct vd_hash path[VD_WEIGHT_PROOF_MAX];
    struct vd_hash tensor_path[VD_WEIGHT_PROOF_MAX];
};

/* Makes the proof of one leaf. Hashes that tensor's rows again (30 MB take 15 ms); the tensor roots come from
 * where vd_model_root has them, which it calls if need be. `pool` as there. VD_ENOMEM. */
enum vd_err vd_model_weight_proof(struct vd_model *m, struct vd_pool *pool, uint32_t tensor, uint32_t row,
                                  uint32_t part, struct vd_weight_proof *out, struct vd_error *err);

/* Bytes of the KROW and VROW records of one position and layer (all kv heads), docs/spec/proof.md section 2.
 */
size_t vd_model_k_row_bytes(const struct vd_model *m);
size_t vd_model_v_row_bytes(const struct vd_model *m);
/* Those of a QROW record (all query heads). */
size_t vd_model_q_row_bytes(const struct vd_model *m);

#endif
