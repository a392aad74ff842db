/* Replay: does this receipt say what the model says? One batched pass over prompt and output, teacher-forced,
 * in which every position's commitment and every sampled token is made again (docs/spec/proof.md, section 4).
 *
 * It costs one prefill of all positions and one row of logits per output token, whatever the batch, the
 * threads or the machine: the bits are the same.
 *
 * Thread rule: one replay at a time per context; the context's pool must be idle. */
#ifndef VD_REPLAY_H
#define VD_REPLAY_H

#include "vd_forward.h"
#include "vd_masker.h"
#include "vd_receipt.h"

/* A receipt with what it hides. All borrowed. vd_envelope_check must have said VD_RECEIPT_OK, or, for a
 * worker's own job, prompt, output and salt be what it signed. */
struct vd_proof_job {
    const struct vd_receipt *receipt;
    const uint32_t *prompt, *output; /* receipt->request.n_prompt and receipt->n_output tokens */
    const uint8_t *job_salt;         /* VD_SALT_BYTES */
    struct vd_controls controls;     /* the tables that the request names */
    const struct vd_texts *texts;    /* the model's; NULL: read from its file if the job has a mask */
};

/* X(code, text) */
#define VD_REPLAY_LIST(X)                                                                                    \
    X(VD_REPLAY_OK, "the receipt stands")                                                                    \
    X(VD_REPLAY_MODEL, "the receipt is for another model")                                                   \
    X(VD_REPLAY_JOB, "the model cannot run this job (its lengths or tables do not fit)")                     \
    X(VD_REPLAY_TOKEN, "a token is not the one the model chooses")                                           \
    X(VD_REPLAY_STOP, "the answer does not end where the model ends it")                                     \
    X(VD_REPLAY_COMMIT, "the commit root differs")

enum vd_replay_verdict {
#define X(code, text) code,
    VD_REPLAY_LIST(X)
#undef X
};
const char *vd_replay_text(enum vd_replay_verdict v);

struct vd_replay_result {
    enum vd_replay_verdict verdict; /* the first difference in the order of steps, the commit root last */
    uint32_t step;                  /* TOKEN, STOP: where */
    uint32_t want, got;             /* TOKEN: the model's token and the receipt's; STOP: stop states */
    struct vd_hash commit_root;     /* the honest one of these tokens */
    struct vd_hash half[2];         /* what that is the hash of: shows who replayed (docs/spec/audit.md, 4) */
    uint64_t forward_ns, sample_ns, hash_ns;
};

/* VD_OK: *out is filled, whatever the verdict. VD_ENOMEM and what vd_model_forward returns: nothing is known.
 */
enum vd_err vd_replay(struct vd_ctx *ctx, struct vd_kv_pool *cache, const struct vd_hash *model_root,
                      const struct vd_proof_job *job, struct vd_replay_result *out, struct vd_error *err);

#endif
