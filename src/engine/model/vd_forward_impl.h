/* Private to the forward pass: its buffers, and the pieces that both shapes of a call are made of
 * (vd_forward.c says why there are two). */
#ifndef VD_FORWARD_IMPL_H
#define VD_FORWARD_IMPL_H

#include "vd_forward.h"
#include "vd_model_internal.h"
#include "vd_pace.h"

enum {
    TILE_ROWS = 64,      /* rows of a task when there are many */
    REDUNDANT_ROWS = 16, /* up to here every thread quantises for itself */
    FF_STEP = 256,       /* feed-forward rows between two SwiGLU runs: the up half stays in the L1 cache */
    SPLIT_ROWS = 4,      /* one long context is spread over threads for at most this many rows */
};

/* A row of the call, or of the last layer: where it attends. */
struct row {
    struct vd_kv *kv;
    const void *const *pages;
    uint32_t pos, source; /* source: its number in the call */
};

/* Neighbouring rows of one sequence. */
struct run {
    size_t first, count;
};

/* A set of rows with its activations. Both sets of a context have their own buffers. */
struct rows {
    size_t n, n_runs;
    struct row *row;
    struct run *run;
    float *x;    /* n x d: the residual stream */
    float *qkv;  /* n x ld_qkv: queries, then keys, then values; attention's result replaces the queries */
    float *rope; /* n x 2 n_pairs: cosines and sines */
};

/* What one thread needs for itself. */
struct thread_buf {
    float *h;       /* TILE_ROWS x d */
    float *gate;    /* TILE_ROWS x ff */
    float *up;      /* TILE_ROWS x FF_STEP */
    void *act;      /* TILE_ROWS quantised rows of the widest input */
    void *scratch;  /* kern's */
    uint8_t *k, *v; /* records for the tap */
    struct vd_kern_query *query;
};

/* Few rows: what the threads make together. */
struct team_buf {
    float *h, *tmp;   /* n x d */
    float *gate, *up; /* n x ff */
    void *act;        /* n quantised rows of the widest input */
    float *rec;       /* chunk records of split attention: SPLIT_ROWS x n_heads x ld_rec */
    size_t ld_rec;
};

/* The rows that want logits. */
struct head {
    size_t n;
    size_t *source; /* their places in ctx->last */
    float *h;       /* n x d, normed */
    void *act;
    float *logits; /* n x vocab */
};

struct vd_ctx {
    const struct vd_model *m;
    struct vd_pool *pool, *solo; /* solo: one thread, for when that is faster */
    struct vd_pace pace;
    unsigned n_threads;
    size_t max_rows, max_logits, max_few;
    size_t ld_qkv;
    struct rows all;    /* the rows of the call */
    struct rows subset; /* room for ctx->last when it is not all */
    struct rows *last;  /* the rows that the whole last layer runs for */
    struct head head;
    size_t *logits_slot; /* per row of the call: its place in head, or SIZE_MAX */
    size_t *hidden_slot; /* per row of the call: its place in last, or SIZE_MAX */
    struct team_buf team;
    struct thread_buf *thread;
    const struct vd_row *call; /* of the running call */
    const struct vd_tap *tap;
    void *memory;
    size_t memory_bytes;
};

static inline size_t vd_fw_max(size_t a, size_t b)
{
    return a > b ? a : b;
}

static inline size_t vd_fw_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline struct vd_kern_score vd_fw_score(const struct vd_model *m)
{
    return (struct vd_kern_score){m->program.attn_scale, 0.0f};
}

/* ---- pieces of a layer (vd_forward_pieces.c) ---- */

/* n rows of x through a norm into h, then quantised into act. Weights of a float type read h itself. */
void vd_fw_norm_quant(const struct vd_ctx *ctx, const float *x, const float *w, size_t n, float *h,
                      void *act);
/* Rotates and stores K and V of rows [t0, t1), for kv head g. */
void vd_fw_put_kv(const struct vd_ctx *ctx, const struct rows *r, size_t layer, size_t g, size_t t0,
                  size_t t1);
/* Rotates the queries of kv head g of rows [t0, t1) of one run, and fills `query`; returns how many. */
size_t vd_fw_queries(const struct vd_ctx *ctx, const struct rows *r, size_t g, size_t t0, size_t t1,
                     bool rotate, struct vd_kern_query *query);
/* Attention of rows [t0, t1) of one run, at most TILE_ROWS, with kv head g. */
void vd_fw_attend(struct vd_ctx *ctx, const struct rows *r, size_t layer, size_t g, size_t t0, size_t t1,
                  struct thread_buf *buf);
/* Tells the tap about rows [t0, t1) of set r after `unit`; with_x false if the layer's output was not
 * computed. */
void vd_fw_tell(const struct vd_ctx *ctx, const struct rows *r, size_t unit, bool with_x, size_t t0,
                size_t t1, unsigned thread);
/* Tells the tap about a row whose last layer ended after K and V. */
void vd_fw_tell_unwanted(const struct vd_ctx *ctx, const struct vd_team *team, unsigned thread);
/* Embedding row and rope table of row t of the call. */
void vd_fw_embed(const struct vd_ctx *ctx, size_t t);
/* Brings row i of the subset from the rows of the call: residual row, queries (not rotated yet), rope table.
 */
void vd_fw_gather(const struct vd_ctx *ctx, size_t i);
/* Whether the queries of this layer are wanted by any row. */
bool vd_fw_wants_q(const struct vd_ctx *ctx, size_t layer);
/* Norm, product and logits of the rows that want them; begins with a barrier. */
void vd_fw_head(struct vd_ctx *ctx, struct vd_team *team, struct thread_buf *buf);

/* ---- the regions ---- */

void vd_fw_many_rows(void *arg, struct vd_team *team, unsigned thread);
void vd_fw_few_rows(void *arg, struct vd_team *team, unsigned thread);

#endif
