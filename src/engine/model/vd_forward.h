/* The forward pass over any mix of sequences and positions: decode, chunked prefill and replay are one call.
 *
 * A call takes rows. The rows of one sequence stand together, ascend by one, and begin at the sequence's
 * length; afterwards the sequence is that much longer. What a row yields never depends on the other rows, the
 * cut of the calls, the number of threads or the kernel table: the bits are those of src/num.
 *
 * An encoder's sequence is fed whole, in one call and from position 0, and every row of it gets its X row.
 *
 * Rows that want nothing still write their K and V rows in every layer; the last layer's other operators are
 * skipped for them, as docs/spec/proof.md says of prompt positions.
 *
 * Ownership: the context owns its buffers (all made at creation: a call allocates nothing but cache pages)
 * and the outputs, which live until the next call. Model and pool are borrowed.
 *
 * Thread rule: one thread at a time per context, and it needs the pool idle. A call is one region of the
 * pool. */
#ifndef VD_FORWARD_H
#define VD_FORWARD_H

#include "vd_graph.h"
#include "vd_kv.h"

#include <stdatomic.h>

enum vd_row_flags {
    VD_ROW_LOGITS = 1, /* wants the logits (and so the hidden row) */
    VD_ROW_HIDDEN = 2, /* wants the X row after the last layer */
    VD_ROW_FIRST = 4,  /* with LOGITS: the first of the order (vd_sample.h) will do in their place */
};

struct vd_row {
    struct vd_kv *kv;
    uint32_t pos;
    uint32_t token; /* below the vocabulary's size (VD_EUSE) */
    uint32_t flags;
};

/* Gets the rows of the trace that the state root binds: unit 0 (x: the embedding row; the others NULL), then
 * units 1 .. L: k and v (records as in vd_kv_read) and x, the d floats after the layer, NULL in the last unit
 * of a row that wants nothing. Of an encoder's layer l (from 0): unit 1 + 2l has q, k and v, unit 2 + 2l has
 * x. Called on the pool's threads, for different (row, unit) at the same time, in no certain order; all
 * pointers live for the call only. NaNs in x are not canonical yet. */
struct vd_tap {
    void (*row)(void *arg, size_t row, uint32_t unit, const struct vd_graph_rows *rows, unsigned thread);
    void *arg;
};

struct vd_ctx;

/* A context for calls of at most max_rows rows of which at most max_logits want logits (196 KB each for
 * 49,152 tokens). */
enum vd_err vd_ctx_create(struct vd_ctx **out, const struct vd_model *m, struct vd_pool *pool,
                          size_t max_rows, size_t max_logits, struct vd_error *err);
void vd_ctx_destroy(struct vd_ctx *ctx); /* NULL is allowed */
/* While *cancel is true, calls on this context do nothing and return VD_ECANCELLED, and one that runs ends
 * after its layer and does too, as if it had not been made: so whoever runs many, as a replay does, ends
 * soon. Borrowed; NULL: never. */
void vd_ctx_set_cancel(struct vd_ctx *ctx, const atomic_bool *cancel);
/* Calls on this context ask before they begin, on the caller's thread: if go_on says no, they do nothing and
 * return VD_ECANCELLED. It may use the context itself (calls within it ask it too), so what the call before
 * has put out is gone. NULL: they do not ask. */
void vd_ctx_set_before(struct vd_ctx *ctx, bool (*go_on)(void *arg), void *arg);
size_t vd_ctx_max_rows(const struct vd_ctx *ctx);
size_t vd_ctx_max_logits(const struct vd_ctx *ctx);
const struct vd_model *vd_ctx_model(const struct vd_ctx *ctx);
struct vd_pool *vd_ctx_pool(const struct vd_ctx *ctx);

/* Runs n_rows >= 1 rows; tap may be NULL. VD_EUSE (rows that break the rules above), VD_ENOMEM, VD_ELIMIT
 * from the cache: then no sequence has changed its length. */
enum vd_err vd_model_forward(struct vd_ctx *ctx, const struct vd_row *rows, size_t n_rows,
                             const struct vd_tap *tap, struct vd_error *err);

/* Of the last call: the V logits of row `row` (which wanted them), the d floats of its X row after the last
 * layer (which wanted logits or hidden). */
const float *vd_ctx_logits(const struct vd_ctx *ctx, size_t row);
/* NULL, and the logits are there; or the first of their order, and they are not. A row with VD_ROW_FIRST gets
 * whichever took less work. */
const struct vd_sample_max *vd_ctx_first(const struct vd_ctx *ctx, size_t row);
/* The first of the order in either case. */
void vd_ctx_take_first(const struct vd_ctx *ctx, size_t row, struct vd_sample_max *out);
const float *vd_ctx_hidden(const struct vd_ctx *ctx, size_t row);

#endif
