/* A worker's jobs on disk: what it must have at hand to answer a challenge, until no challenge can come.
 *
 * One file per receipt, <dir>/<receipt id>.receipt, holding the receipt's envelope (vd_receipt.h): receipt,
 * signatures, salt, prompt and output ids. It is written and synced before the receipt leaves the worker, and
 * again when the gateway's signature is there; before that the signature is 64 zero bytes. A file of its own
 * <dir>/height remembers up to which block the ledger's events have been seen.
 *
 * The files hold prompts and answers: the folder is 0700, they are 0600.
 *
 * Thread rule: any thread; two writers of one receipt are the caller's to keep apart. */
#ifndef VD_WORKER_JOBS_H
#define VD_WORKER_JOBS_H

#include "vd_err.h"
#include "vd_receipt.h"

struct vd_worker_jobs {
    char dir[3072];
};

/* Makes the folder if need be. */
enum vd_err vd_worker_jobs_open(struct vd_worker_jobs *out, const char *dir, struct vd_error *err);

/* Writes or replaces; durable when it returns VD_OK. */
enum vd_err vd_worker_jobs_put(const struct vd_worker_jobs *j, const struct vd_envelope *e,
                               struct vd_error *err);

/* Reads one; e->prompt and e->output point into *tokens, which the caller frees. VD_ENOTFOUND: none such. */
enum vd_err vd_worker_jobs_get(const struct vd_worker_jobs *j, const struct vd_hash *receipt_id,
                               struct vd_envelope *e, uint32_t **tokens, struct vd_error *err);

/* Forgets one; absent is fine. */
enum vd_err vd_worker_jobs_drop(const struct vd_worker_jobs *j, const struct vd_hash *receipt_id,
                                struct vd_error *err);

/* The ids of all, in no certain order; the caller frees *ids. Files of other names are left alone. */
enum vd_err vd_worker_jobs_list(const struct vd_worker_jobs *j, struct vd_hash **ids, size_t *n,
                                struct vd_error *err);

/* The block up to which events were seen; 0 when never set. */
enum vd_err vd_worker_jobs_height(const struct vd_worker_jobs *j, uint64_t *height, struct vd_error *err);
enum vd_err vd_worker_jobs_set_height(const struct vd_worker_jobs *j, uint64_t height, struct vd_error *err);

#endif
