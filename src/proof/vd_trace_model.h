/* The trace of a job by the engine: a vd_trace_source over a model, its context and a cache.
 *
 * All borrowed and used by every call on the trace; the context's pool must be idle then. */
#ifndef VD_TRACE_MODEL_H
#define VD_TRACE_MODEL_H

#include "vd_forward.h"
#include "vd_replay.h"
#include "vd_trace.h"

/* As vd_trace_create. `model` is the context's. VD_EUSE if the model cannot run the job (vd_replay says so
 * first). */
struct vd_trace_model;
enum vd_err vd_trace_model_open(struct vd_trace_model **out, struct vd_model *model, struct vd_ctx *ctx,
                                struct vd_kv_pool *cache, const struct vd_proof_job *job,
                                struct vd_error *err);
/* The same, keeping no more of hashes and of rows than this, each, where that is possible. */
enum vd_err vd_trace_model_open_within(struct vd_trace_model **out, struct vd_model *model,
                                       struct vd_ctx *ctx, struct vd_kv_pool *cache,
                                       const struct vd_proof_job *job, uint64_t keep_bytes,
                                       struct vd_error *err);
/* From here on in another cache of the model: nothing is left in one after a call on the trace. NULL: in
 * none, and calls that run steps are VD_EUSE; others then leave the context alone as well. */
void vd_trace_model_use(struct vd_trace_model *t, struct vd_kv_pool *cache);
void vd_trace_model_close(struct vd_trace_model *t); /* NULL is allowed */
struct vd_trace *vd_trace_model_trace(struct vd_trace_model *t);

#endif
