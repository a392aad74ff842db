/* Replay: does this receipt say what the model says? One batched pass over prompt and output, teacher-forced,
 * in which every position's commitment and every sampled token is made again (docs/spec/proof.md, section 4).
 *
 * It costs one prefill of all positions and one row of logits per output token, whatever the batch, the
 * threads or the machine: the bits are the same. Many receipts share one pass, and what their prompts have
 * in common; a stream is followed while it is made; a part of a receipt can be looked at alone.
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
    X(VD_REPLAY_COMMIT, "the commit root differs")                                                           \
    X(VD_REPLAY_VECTOR, "the vector is not the one the model gives")

enum vd_replay_verdict {
#define X(code, text) code,
    VD_REPLAY_LIST(X)
#undef X
};
const char *vd_replay_text(enum vd_replay_verdict v);

/* How many rows a context must take for this model, if `rows` are enough for one that can be fed in portions:
 * an encoder's sequences go through it whole. */
size_t vd_replay_rows(const struct vd_model *model, size_t rows);

struct vd_replay_result {
    enum vd_replay_verdict verdict; /* the first difference in the order of steps, the commit root last */
    uint32_t step;                  /* TOKEN, STOP, VECTOR: where */
    uint32_t want, got; /* TOKEN: the model's token and the receipt's; STOP: stop states; VECTOR: bits */
    struct vd_hash commit_root;     /* the honest one of these tokens; of a part: zeros */
    struct vd_hash half[2];         /* what that is the hash of: shows who replayed (docs/spec/audit.md, 4) */
    uint64_t forward_ns, sample_ns; /* of the whole call */
    uint64_t hash_ns;               /* of this receipt */
    uint32_t n_shared;              /* positions whose K and V rows were another receipt's */
};

/* VD_OK: *out is filled, whatever the verdict. VD_ENOMEM and what vd_model_forward returns: nothing is known.
 */
enum vd_err vd_replay(struct vd_ctx *ctx, struct vd_kv_pool *cache, const struct vd_hash *model_root,
                      const struct vd_proof_job *job, struct vd_replay_result *out, struct vd_error *err);

/* The same for n receipts of one model at once: out[i] is of job[i], and what vd_replay says of it alone.
 * Prompts that begin alike are computed once. An error: nothing is known of any of them. */
enum vd_err vd_replay_many(struct vd_ctx *ctx, struct vd_kv_pool *cache, const struct vd_hash *model_root,
                           const struct vd_proof_job *job, size_t n, struct vd_replay_result *out,
                           struct vd_error *err);

/* Only positions first .. last of the sequence (docs/spec/proof.md, section 4): whether the tokens that are
 * chosen there are the receipt's, and whether it ends there or goes on as it says. The positions before are
 * run for their K and V rows alone; what is chosen there, and the commit root, is not looked at. VD_EUSE:
 * nothing is chosen at these positions. */
enum vd_err vd_replay_part(struct vd_ctx *ctx, struct vd_kv_pool *cache, const struct vd_hash *model_root,
                           const struct vd_proof_job *job, uint32_t first, uint32_t last,
                           struct vd_replay_result *out, struct vd_error *err);

/* ---- while the answer is being made ---- */

struct vd_replay_stream;

/* Begins with the request: of the job, the receipt's `request`, prompt, salt, tables and texts are read; all
 * are borrowed for the stream's life. The prompt is run. VD_OK with out->verdict other than VD_REPLAY_OK and
 * *s NULL: the model cannot run it. */
enum vd_err vd_replay_stream_open(struct vd_replay_stream **s, struct vd_ctx *ctx, struct vd_kv_pool *cache,
                                  const struct vd_hash *model_root, const struct vd_proof_job *job,
                                  struct vd_replay_result *out, struct vd_error *err);
/* n >= 1 more tokens of the answer, in any portions. out->verdict says at once, and from then on, where the
 * first wrong one is (output token out->step + 1 - p); while all are right, out->commit_root is the root over
 * the positions so far: what the worker's prefix statement holds. An error: the stream can only be closed. */
enum vd_err vd_replay_stream_add(struct vd_replay_stream *s, const uint32_t *token, size_t n,
                                 struct vd_replay_result *out, struct vd_error *err);
/* The worker's statement about the tokens so far (their number must be n_output): VD_REPLAY_COMMIT if a root
 * in it is another, VD_REPLAY_STOP if the number is. Wrong tokens go before. */
void vd_replay_stream_prefix(const struct vd_replay_stream *s, const struct vd_receipt_prefix *prefix,
                             struct vd_replay_result *out);
/* The end: how it finished, and its commit root. What vd_replay says of the whole receipt. */
enum vd_err vd_replay_stream_end(struct vd_replay_stream *s, enum vd_finish finish,
                                 const struct vd_hash *commit_root, struct vd_replay_result *out,
                                 struct vd_error *err);
void vd_replay_stream_close(struct vd_replay_stream *s); /* NULL is allowed */

#endif
