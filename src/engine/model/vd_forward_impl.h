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
    FF_STEP = 256,       /* feed-forward rows between two activations: the up half stays in the L1 cache */
    SCREEN_ROWS = VD_KERN_BOUND_TOKS, /* at most so many rows find their first by bounds */
    SPLIT_ROWS = 4,                   /* one long context is spread over threads for at most this many rows */
};

/* A row of the call, or of the last layer: where it attends. */
struct row {
    struct vd_kv *kv;
    const void *const *pages[VD_KV_KINDS];
    uint32_t pos, source; /* source: its number in the call */
    uint32_t end;         /* of the positions that it may attend to: behind its own, of an encoder all */
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
    float *rope; /* n x n_tables x 2 n_pairs: cosines and sines */
    uint8_t *q;  /* of an encoder, for the tap: n QROW records */
};

/* Quantised rows in the forms that some matrix of the model reads. */
struct acts {
    void *by32, *by256;
};

/* Where rows go to experts. A row is sorted in n_used times; "place" is a number among the sorted. */
struct route {
    uint32_t *expert; /* n x n_used, in the order of their choice, and their weights */
    float *weight;
    uint32_t *place;  /* n x n_used */
    uint32_t *source; /* of each place: its row */
    uint32_t *next;   /* n_experts: for sorting */
    struct expert_run {
        uint32_t expert;
        size_t first, count; /* places */
    } * run;
    size_t n_runs;
};

/* What one thread needs for itself. */
struct thread_buf {
    float *h;        /* TILE_ROWS x d */
    float *gate;     /* TILE_ROWS x ff; not for experts */
    float *up;       /* TILE_ROWS x FF_STEP */
    struct acts act; /* TILE_ROWS rows of the widest input */
    float *sorted;   /* experts: REDUNDANT_ROWS x d, inputs */
    struct route route;
    void *scratch;  /* kern's */
    uint8_t *k, *v; /* records for the tap */
    struct vd_kern_query *query;
};

/* Few rows: what the threads make together. */
struct team_buf {
    float *h, *tmp;  /* n x d */
    float *gate;     /* n x n_used x ff */
    float *up;       /* n x ff; not for experts */
    struct acts act; /* n x n_used rows of the widest input */
    float *router;   /* experts: n x n_experts */
    float *sorted;   /* experts: n x n_used x d */
    float *rec;      /* chunk records of split attention: SPLIT_ROWS x n_heads x ld_rec */
    size_t ld_rec;
};

/* Few rows that want no more than the first of their logits' order: bounds of the logits, from a part of the
 * head's bytes, leave only a few that may be it. */
struct screen {
    bool on;                     /* in this call: no logits are made, */
    atomic_bool gone;            /* unless this says that they had to be */
    unsigned wait;               /* calls before the next try, since the last left too many */
    atomic_size_t n_left;        /* row groups that were left, of all rows */
    float *high;                 /* SCREEN_ROWS x row groups */
    float *low;                  /* n_threads x SCREEN_ROWS: what the largest logit is not below */
    struct vd_sample_max *first; /* n_threads x SCREEN_ROWS; after the call those of thread 0 are all's */
};

/* The rows that want logits. */
struct head {
    size_t n;
    size_t *source; /* their places in ctx->last */
    float *h;       /* n x d, normed */
    struct acts act;
    float *logits; /* n x vocab */
    struct screen screen;
};

struct vd_ctx {
    const struct vd_model *m;
    struct vd_pool *pool, *solo; /* solo: one thread, for when that is faster */
    struct vd_pace pace;
    unsigned n_threads;
    size_t max_rows, max_logits;
    size_t max_few, max_paced; /* rows of a call that counts as few; that may be run by one thread */
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
    const atomic_bool *cancel;
    atomic_size_t ended; /* the layer after which the running call was cancelled; SIZE_MAX: none */
    bool (*go_on)(void *arg);
    void *go_on_arg;
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

/* Where a layer reads and writes what kv head g caches of the sequence of `row`. */
static inline struct vd_kern_kv vd_fw_kv(const struct vd_model *m, const struct row *row, size_t layer,
                                         size_t g)
{
    return (struct vd_kern_kv){row->pages[m->layers[layer].kv_kind], vd_model_chunk_offset(m, layer, g),
                               m->dims.hd};
}

/* y such that y[n_elem] is p[0]: a product writes element `row` of a token, we keep a window of the rows. By
 * way of an integer, since the pointer may leave the buffer. */
static inline float *vd_fw_moved_back(float *p, size_t n_elem)
{
    return (float *)((uintptr_t)p - n_elem * sizeof *p);
}

/* ---- pieces of a layer (vd_forward_pieces.c) ---- */

/* Quantises rows [t0, t1) of `in`, beginning at a multiple of VD_KERN_TOKS, in those forms (enum
 * vd_act_forms); gives all rows as a product reads them. */
struct vd_kern_rhs vd_fw_quant(const struct vd_model *m, unsigned forms, const float *in, size_t ld,
                               size_t cols, size_t t0, size_t t1, const struct acts *act);
/* Rows [t0, t1) of x through a norm (w NULL: none) into those of h, then quantised. */
struct vd_kern_rhs vd_fw_norm_quant(const struct vd_model *m, unsigned forms, const float *x, const float *w,
                                    size_t t0, size_t t1, float *h, const struct acts *act);
/* Adds bias [r0, r1) to those elements of n rows; nothing if bias is NULL. */
void vd_fw_bias(const struct vd_model *m, const float *bias, size_t r0, size_t r1, float *y, size_t ld,
                size_t n);
/* What happens to the rows that a layer's half yields, on their way onto the residual rows. */
struct vd_half_end {
    const float *bias; /* NULL: none */
    struct vd_norm_weights norm;
};
static inline struct vd_half_end vd_fw_end_of_attn(const struct vd_layer *l)
{
    return (struct vd_half_end){l->o_bias, l->post_attn_norm};
}
static inline struct vd_half_end vd_fw_end_of_ffn(const struct vd_layer *l)
{
    return (struct vd_half_end){l->down_bias, l->post_ffn_norm};
}
/* n whole rows y of a layer's half onto the residual rows x: of a decoder y is normed first (if there is a
 * norm), of an encoder the sum is. */
void vd_fw_add_rows(const struct vd_model *m, struct vd_half_end end, float *y, size_t n, float *x);
/* Rows [r0, r1) of the feed-forward's first matrices, activated: `gate` (n x ff) gets them. up: n x ld_up,
 * for the rows from up_first on; not used without a gate. */
void vd_fw_up(const struct vd_model *m, const struct vd_layer *l, const struct vd_kern_rhs *rhs, size_t r0,
              size_t r1, size_t n, float *gate, float *up, size_t ld_up, size_t up_first, void *scratch);
/* Norms, rotates and stores K, and stores V, of rows [t0, t1), for kv head g. */
void vd_fw_put_kv(const struct vd_ctx *ctx, const struct rows *r, size_t layer, size_t g, size_t t0,
                  size_t t1);
/* Norms and rotates the queries of kv head g of rows [t0, t1) of one run unless that is done, and fills
 * `query`; returns how many. */
size_t vd_fw_queries(const struct vd_ctx *ctx, const struct rows *r, size_t layer, size_t g, size_t t0,
                     size_t t1, bool rotate, struct vd_kern_query *query);
/* Attention of rows [t0, t1) of one run, at most TILE_ROWS, with kv head g. */
void vd_fw_attend(struct vd_ctx *ctx, const struct rows *r, size_t layer, size_t g, size_t t0, size_t t1,
                  struct thread_buf *buf);
/* Tells the tap about rows [t0, t1) of set r after `layer`, from 1, or (0) the embedding; with_x false if the
 * layer's output was not computed. */
void vd_fw_tell(const struct vd_ctx *ctx, const struct rows *r, size_t layer, bool with_x, size_t t0,
                size_t t1, unsigned thread);
/* Tells the tap about a row whose last layer ended after K and V. */
void vd_fw_tell_unwanted(const struct vd_ctx *ctx, const struct vd_team *team, unsigned thread);
/* Embedding row and rope table of row t of the call. */
void vd_fw_embed(const struct vd_ctx *ctx, size_t t);
/* Brings row i of the subset from the rows of the call: residual row, queries (not rotated yet), rope table.
 */
void vd_fw_gather_row(const struct vd_ctx *ctx, size_t i);
/* Whether the queries of this layer are wanted by any row. */
bool vd_fw_wants_q(const struct vd_ctx *ctx, size_t layer);
/* Norm, product and logits of the rows that want them; begins with a barrier. */
void vd_fw_head(struct vd_ctx *ctx, struct vd_team *team, unsigned thread, struct thread_buf *buf);

/* ---- the head's first (vd_forward_screen.c) ---- */

/* Row groups of the head. */
static inline size_t vd_fw_groups(const struct vd_model *m)
{
    return (m->dims.vocab + VD_KERN_ROWS - 1) / VD_KERN_ROWS;
}
/* Decides whether this call's head goes by bounds; wanted: all rows that want logits have VD_ROW_FIRST. */
void vd_fw_screen_begin(struct vd_ctx *ctx, bool wanted);
/* The head of all threads: false if it went wrong, and logits have to be made. Ends with a barrier. */
bool vd_fw_screen(struct vd_ctx *ctx, struct vd_team *team, unsigned thread, const struct vd_kern_rhs *rhs,
                  struct thread_buf *buf);
/* After the call. */
void vd_fw_screen_end(struct vd_ctx *ctx);

/* ---- experts (vd_forward_experts.c) ---- */

/* Chooses the experts of n rows from their logits, and sorts. */
void vd_fw_route(const struct vd_model *m, const float *logits, size_t n, struct route *r);
/* Copies the rows h of places [i0, i1) to their places in `to`, and quantises them. */
struct vd_kern_rhs vd_fw_gather(const struct vd_model *m, const struct route *r, unsigned forms,
                                const float *h, size_t i0, size_t i1, float *to, const struct acts *act);
/* Rows [f0, f1) of every used expert's gate and up, activated, into `gate` (places x ff). rhs: the sorted
 * rows, or the only row. */
void vd_fw_experts_up(const struct vd_model *m, const struct vd_layer *l, const struct route *r, bool one_row,
                      const struct vd_kern_rhs *rhs, size_t f0, size_t f1, float *gate,
                      struct thread_buf *buf);
/* Elements [r0, r1) of what the experts make of `rhs` (places x ff) into `out` (places x d), and of each of
 * the n rows' weighted sum into y (n x d). */
void vd_fw_experts_down(const struct vd_model *m, const struct vd_layer *l, const struct route *r,
                        const struct vd_kern_rhs *rhs, size_t r0, size_t r1, size_t n, float *out, float *y,
                        struct thread_buf *buf);

/* ---- the regions ---- */

/* Around a barrier that all threads meet in each layer: thread 0 looks whether the call is cancelled, and all
 * hear of it behind the same barrier. */
static inline void vd_fw_look_for_cancel(struct vd_ctx *ctx, unsigned thread, size_t layer)
{
    if (thread == 0 && ctx->cancel && atomic_load(ctx->cancel))
        atomic_store(&ctx->ended, layer);
}
static inline bool vd_fw_is_cancelled(struct vd_ctx *ctx, size_t layer)
{
    return atomic_load(&ctx->ended) == layer;
}

void vd_fw_many_rows(void *arg, struct vd_team *team, unsigned thread);
void vd_fw_few_rows(void *arg, struct vd_team *team, unsigned thread);

#endif
