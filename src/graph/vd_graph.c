/* A block and the head's first half are constant tables whose sizes are named, not numbered; the head's
 * second half is arithmetic on the operator's number, because it depends on which of top-k and top-p are on.
 * Everything else in this file turns one table row and a record's number into addresses. */
#include "vd_graph.h"

#include "vd_num.h"

#include <assert.h>

const char *vd_op_name(enum vd_op op)
{
    static const char *const name[] = {
#define X(code, text) text,
        VD_OP_LIST(X)
#undef X
    };
    return (unsigned)op < VD_OP_KINDS ? name[op] : "?";
}

/* ---- tables ---- */

/* Lengths that a program names. */
enum dim {
    DIM_1,
    DIM_WIDTH,
    DIM_Q,  /* H D */
    DIM_KV, /* G D */
    DIM_FF,
    DIM_VOCAB,
    DIM_EXPERTS,
    DIM_FF_USED,    /* of all experts used together */
    DIM_WIDTH_USED, /* the same */
};

/* Which programs have an operator. */
enum when {
    ALWAYS,
    IF_TAKEN, /* a quantiser: one of its consumers has a type that takes its blocks */
    IF_QKV_BIAS,
    IF_QK_NORM,
    IF_POST_NORMS,
    IF_EXPERTS,
    IF_LOGIT_CAP,
    IF_PENALTIES, /* these four are the job's */
    IF_BIAS,
    IF_MASK,
    IF_MEAN,
};

/* src of PART is the QUANT of its vector, after which stands the QUANT256, src2 the vector itself: its
 * tensor's type decides which it reads. */
struct row {
    uint8_t kind, rows, cols, src, src2, when;
    uint32_t tensor; /* enum vd_layer_tensor; of a quantiser that is IF_TAKEN the consumers, a bit each */
};

/* The numbers of those operators of a block that others refer to. */
enum {
    B_NORM = 2,
    B_QUANT = 3,
    B_Q = 6,
    B_BIAS_Q = 7,
    B_K = 9,
    B_BIAS_K = 10,
    B_V = 12,
    B_BIAS_V = 13,
    B_SCALE_Q = 14,
    B_HEAD_Q = 15,
    B_SCALE_K = 16,
    B_HEAD_K = 17,
    B_ROPE_Q = 18,
    B_ROPE_K = 19,
    B_QROW = 20,
    B_KROW = 21,
    B_VROW = 22,
    B_SCORE = 23,
    B_CHUNK = 24,
    B_CHUNK_V = 25,
    B_MERGE = 26,
    B_ATTN = 27,
    B_QUANT_ATTN = 28,
    B_OUT = 31,
    B_POST_ATTN = 34,
    B_ADD = 35,
    B_NORM2 = 38,
    B_QUANT2 = 39,
    B_ROUTER = 42,
    B_ROUTE = 43,
    B_GATE = 45,
    B_UP = 47,
    B_GLU = 48,
    B_QUANT_FF = 49,
    B_DOWN = 52,
    B_MIX = 53,
    B_POST_FFN = 56,
    B_X = 57,
    B_OPS
};

#define TAKES(t) (UINT32_C(1) << (t))

static const struct row block_rows[B_OPS] = {
    {VD_OP_NORM_PART, DIM_1, DIM_WIDTH, VD_GRAPH_SRC_ROW, 0, ALWAYS, 0},
    {VD_OP_NORM_SCALE, DIM_1, DIM_WIDTH, B_NORM - 2, 0, ALWAYS, 0},
    [B_NORM] = {VD_OP_NORM_MUL, DIM_1, DIM_WIDTH, VD_GRAPH_SRC_ROW, B_NORM - 1, ALWAYS, VD_T_ATTN_NORM},
    [B_QUANT] = {VD_OP_QUANT, DIM_1, DIM_WIDTH, B_NORM, 0, IF_TAKEN,
                 TAKES(VD_T_ATTN_Q) | TAKES(VD_T_ATTN_K) | TAKES(VD_T_ATTN_V)},
    {VD_OP_QUANT256, DIM_1, DIM_WIDTH, B_NORM, 0, IF_TAKEN,
     TAKES(VD_T_ATTN_Q) | TAKES(VD_T_ATTN_K) | TAKES(VD_T_ATTN_V)},
    {VD_OP_PART, DIM_Q, DIM_WIDTH, B_QUANT, B_NORM, ALWAYS, VD_T_ATTN_Q},
    [B_Q] = {VD_OP_SUM, DIM_Q, DIM_WIDTH, B_Q - 1, 0, ALWAYS, 0},
    [B_BIAS_Q] = {VD_OP_BIAS, DIM_1, DIM_Q, B_Q, 0, IF_QKV_BIAS, VD_T_ATTN_Q_BIAS},
    {VD_OP_PART, DIM_KV, DIM_WIDTH, B_QUANT, B_NORM, ALWAYS, VD_T_ATTN_K},
    [B_K] = {VD_OP_SUM, DIM_KV, DIM_WIDTH, B_K - 1, 0, ALWAYS, 0},
    [B_BIAS_K] = {VD_OP_BIAS, DIM_1, DIM_KV, B_K, 0, IF_QKV_BIAS, VD_T_ATTN_K_BIAS},
    {VD_OP_PART, DIM_KV, DIM_WIDTH, B_QUANT, B_NORM, ALWAYS, VD_T_ATTN_V},
    [B_V] = {VD_OP_SUM, DIM_KV, DIM_WIDTH, B_V - 1, 0, ALWAYS, 0},
    [B_BIAS_V] = {VD_OP_BIAS, DIM_1, DIM_KV, B_V, 0, IF_QKV_BIAS, VD_T_ATTN_V_BIAS},
    [B_SCALE_Q] = {VD_OP_HEAD_SCALE, DIM_1, DIM_Q, B_BIAS_Q, 0, IF_QK_NORM, 0},
    [B_HEAD_Q] = {VD_OP_HEAD_MUL, DIM_1, DIM_Q, B_BIAS_Q, B_SCALE_Q, IF_QK_NORM, VD_T_ATTN_Q_NORM},
    [B_SCALE_K] = {VD_OP_HEAD_SCALE, DIM_1, DIM_KV, B_BIAS_K, 0, IF_QK_NORM, 0},
    [B_HEAD_K] = {VD_OP_HEAD_MUL, DIM_1, DIM_KV, B_BIAS_K, B_SCALE_K, IF_QK_NORM, VD_T_ATTN_K_NORM},
    [B_ROPE_Q] = {VD_OP_ROPE, DIM_1, DIM_Q, B_HEAD_Q, 0, ALWAYS, 0},
    [B_ROPE_K] = {VD_OP_ROPE, DIM_1, DIM_KV, B_HEAD_K, 0, ALWAYS, 0},
    [B_QROW] = {VD_OP_QROW, DIM_1, DIM_Q, B_ROPE_Q, 0, ALWAYS, 0},
    [B_KROW] = {VD_OP_KROW, DIM_1, DIM_KV, B_ROPE_K, 0, ALWAYS, 0},
    [B_VROW] = {VD_OP_VROW, DIM_1, DIM_KV, B_BIAS_V, 0, ALWAYS, 0},
    [B_SCORE] = {VD_OP_SCORE, DIM_1, DIM_1, B_QROW, B_KROW, ALWAYS, 0},
    [B_CHUNK] = {VD_OP_CHUNK, DIM_1, DIM_1, B_SCORE, B_VROW, ALWAYS, 0},
    [B_CHUNK_V] = {VD_OP_CHUNK_V, DIM_1, DIM_1, B_CHUNK, B_VROW, ALWAYS, 0},
    [B_MERGE] = {VD_OP_MERGE, DIM_1, DIM_1, B_CHUNK, B_CHUNK_V, ALWAYS, 0},
    [B_ATTN] = {VD_OP_ATTN, DIM_1, DIM_Q, B_MERGE, 0, ALWAYS, 0},
    [B_QUANT_ATTN] = {VD_OP_QUANT, DIM_1, DIM_Q, B_ATTN, 0, IF_TAKEN, TAKES(VD_T_ATTN_OUTPUT)},
    {VD_OP_QUANT256, DIM_1, DIM_Q, B_ATTN, 0, IF_TAKEN, TAKES(VD_T_ATTN_OUTPUT)},
    {VD_OP_PART, DIM_WIDTH, DIM_Q, B_QUANT_ATTN, B_ATTN, ALWAYS, VD_T_ATTN_OUTPUT},
    [B_OUT] = {VD_OP_SUM, DIM_WIDTH, DIM_Q, B_OUT - 1, 0, ALWAYS, 0},
    {VD_OP_NORM_PART, DIM_1, DIM_WIDTH, B_OUT, 0, IF_POST_NORMS, 0},
    {VD_OP_NORM_SCALE, DIM_1, DIM_WIDTH, B_POST_ATTN - 2, 0, IF_POST_NORMS, 0},
    [B_POST_ATTN] = {VD_OP_NORM_MUL, DIM_1, DIM_WIDTH, B_OUT, B_POST_ATTN - 1, IF_POST_NORMS,
                     VD_T_POST_ATTN_NORM},
    [B_ADD] = {VD_OP_ADD, DIM_1, DIM_WIDTH, VD_GRAPH_SRC_ROW, B_POST_ATTN, ALWAYS, 0},
    {VD_OP_NORM_PART, DIM_1, DIM_WIDTH, B_ADD, 0, ALWAYS, 0},
    {VD_OP_NORM_SCALE, DIM_1, DIM_WIDTH, B_NORM2 - 2, 0, ALWAYS, 0},
    [B_NORM2] = {VD_OP_NORM_MUL, DIM_1, DIM_WIDTH, B_ADD, B_NORM2 - 1, ALWAYS, VD_T_FFN_NORM},
    [B_QUANT2] = {VD_OP_QUANT, DIM_1, DIM_WIDTH, B_NORM2, 0, IF_TAKEN,
                  TAKES(VD_T_FFN_ROUTER) | TAKES(VD_T_FFN_GATE) | TAKES(VD_T_FFN_UP)},
    {VD_OP_QUANT256, DIM_1, DIM_WIDTH, B_NORM2, 0, IF_TAKEN,
     TAKES(VD_T_FFN_ROUTER) | TAKES(VD_T_FFN_GATE) | TAKES(VD_T_FFN_UP)},
    {VD_OP_PART, DIM_EXPERTS, DIM_WIDTH, B_QUANT2, B_NORM2, IF_EXPERTS, VD_T_FFN_ROUTER},
    [B_ROUTER] = {VD_OP_SUM, DIM_EXPERTS, DIM_WIDTH, B_ROUTER - 1, 0, IF_EXPERTS, 0},
    [B_ROUTE] = {VD_OP_ROUTE, DIM_1, DIM_EXPERTS, B_ROUTER, 0, IF_EXPERTS, 0},
    {VD_OP_PART, DIM_FF_USED, DIM_WIDTH, B_QUANT2, B_NORM2, ALWAYS, VD_T_FFN_GATE},
    [B_GATE] = {VD_OP_SUM, DIM_FF_USED, DIM_WIDTH, B_GATE - 1, 0, ALWAYS, 0},
    {VD_OP_PART, DIM_FF_USED, DIM_WIDTH, B_QUANT2, B_NORM2, ALWAYS, VD_T_FFN_UP},
    [B_UP] = {VD_OP_SUM, DIM_FF_USED, DIM_WIDTH, B_UP - 1, 0, ALWAYS, 0},
    [B_GLU] = {VD_OP_SWIGLU, DIM_1, DIM_FF_USED, B_GATE, B_UP, ALWAYS, 0}, /* or GEGLU */
    [B_QUANT_FF] = {VD_OP_QUANT, DIM_1, DIM_FF_USED, B_GLU, 0, IF_TAKEN, TAKES(VD_T_FFN_DOWN)},
    {VD_OP_QUANT256, DIM_1, DIM_FF_USED, B_GLU, 0, IF_TAKEN, TAKES(VD_T_FFN_DOWN)},
    {VD_OP_PART, DIM_WIDTH_USED, DIM_FF, B_QUANT_FF, B_GLU, ALWAYS, VD_T_FFN_DOWN},
    [B_DOWN] = {VD_OP_SUM, DIM_WIDTH_USED, DIM_FF, B_DOWN - 1, 0, ALWAYS, 0},
    [B_MIX] = {VD_OP_MIX, DIM_1, DIM_WIDTH, B_DOWN, B_ROUTE, IF_EXPERTS, 0},
    {VD_OP_NORM_PART, DIM_1, DIM_WIDTH, B_MIX, 0, IF_POST_NORMS, 0},
    {VD_OP_NORM_SCALE, DIM_1, DIM_WIDTH, B_POST_FFN - 2, 0, IF_POST_NORMS, 0},
    [B_POST_FFN] = {VD_OP_NORM_MUL, DIM_1, DIM_WIDTH, B_MIX, B_POST_FFN - 1, IF_POST_NORMS,
                    VD_T_POST_FFN_NORM},
    [B_X] = {VD_OP_ADD, DIM_1, DIM_WIDTH, B_ADD, B_POST_FFN, ALWAYS, 0},
};

/* H_LAST is the operator whose values are sampled from: what changes logits stands between H_LOGITS and it.
 */
enum {
    H_NORM = 2,
    H_QUANT = 3,
    H_LOGITS = 6,
    H_CAP,
    H_PENALTY,
    H_BIAS,
    H_STATE,
    H_MASK,
    H_LAST = H_MASK,
    H_MAX,
    H_GMAX,
    H_OPS
};

/* The consumers of the head's quantisers are its one matrix, which is no layer's tensor: no bits. */
static const struct row head_rows[H_OPS] = {
    {VD_OP_NORM_PART, DIM_1, DIM_WIDTH, VD_GRAPH_SRC_ROW, 0, ALWAYS, 0},
    {VD_OP_NORM_SCALE, DIM_1, DIM_WIDTH, H_NORM - 2, 0, ALWAYS, 0},
    [H_NORM] = {VD_OP_NORM_MUL, DIM_1, DIM_WIDTH, VD_GRAPH_SRC_ROW, H_NORM - 1, ALWAYS, 0},
    [H_QUANT] = {VD_OP_QUANT, DIM_1, DIM_WIDTH, H_NORM, 0, IF_TAKEN, 0},
    {VD_OP_QUANT256, DIM_1, DIM_WIDTH, H_NORM, 0, IF_TAKEN, 0},
    {VD_OP_PART, DIM_VOCAB, DIM_WIDTH, H_QUANT, H_NORM, ALWAYS, 0},
    [H_LOGITS] = {VD_OP_SUM, DIM_VOCAB, DIM_WIDTH, H_LOGITS - 1, 0, ALWAYS, 0},
    [H_CAP] = {VD_OP_CAP, DIM_1, DIM_VOCAB, H_LOGITS, 0, IF_LOGIT_CAP, 0},
    [H_PENALTY] = {VD_OP_PENALTY, DIM_1, DIM_VOCAB, H_CAP, 0, IF_PENALTIES, 0},
    [H_BIAS] = {VD_OP_LOGIT_BIAS, DIM_1, DIM_VOCAB, H_PENALTY, 0, IF_BIAS, 0},
    [H_STATE] = {VD_OP_MASK_STATE, DIM_1, DIM_1, 0, 0, IF_MASK, 0},
    [H_MASK] = {VD_OP_MASK, DIM_1, DIM_VOCAB, H_BIAS, 0, IF_MASK, 0},
    [H_MAX] = {VD_OP_MAX, DIM_1, DIM_VOCAB, H_LAST, 0, ALWAYS, 0},
    [H_GMAX] = {VD_OP_GMAX, DIM_1, DIM_VOCAB, H_MAX, 0, ALWAYS, 0},
};

/* Instead of the head. A step that is not the last ends after POOL. */
enum { P_NORM = 2, P_POOL, P_L2_PART, P_L2, P_VECTOR, P_OPS };

static const struct row pool_rows[P_OPS] = {
    {VD_OP_NORM_PART, DIM_1, DIM_WIDTH, VD_GRAPH_SRC_ROW, 0, ALWAYS, 0},
    {VD_OP_NORM_SCALE, DIM_1, DIM_WIDTH, P_NORM - 2, 0, ALWAYS, 0},
    [P_NORM] = {VD_OP_NORM_MUL, DIM_1, DIM_WIDTH, VD_GRAPH_SRC_ROW, P_NORM - 1, ALWAYS, 0},
    [P_POOL] = {VD_OP_POOL, DIM_1, DIM_WIDTH, P_NORM, 0, IF_MEAN, 0},
    [P_L2_PART] = {VD_OP_NORM_PART, DIM_1, DIM_WIDTH, P_POOL, 0, ALWAYS, 0},
    [P_L2] = {VD_OP_L2, DIM_1, DIM_WIDTH, P_L2_PART, 0, ALWAYS, 0},
    [P_VECTOR] = {VD_OP_VECTOR, DIM_1, DIM_WIDTH, P_POOL, P_L2, ALWAYS, 0},
};

/* Of one threshold search: HIST and PICK per level, TIE, THRESHOLD. */
enum { M_TIE = 2 * VD_SAMPLE_LEVELS, M_THRESHOLD, M_OPS };

/* Vectors of the feed-forward part that stand side by side. */
static uint32_t slots_of(const struct vd_program *p)
{
    return p->n_experts ? p->n_used : 1;
}

static uint32_t dim_of(const struct vd_program *p, enum dim d)
{
    switch (d) {
    case DIM_1:
        return 1;
    case DIM_WIDTH:
        return p->width;
    case DIM_Q:
        return p->n_heads * p->head_dim;
    case DIM_KV:
        return p->n_kv_heads * p->head_dim;
    case DIM_FF:
        return p->ff_width;
    case DIM_VOCAB:
        return p->vocab;
    case DIM_EXPERTS:
        return p->n_experts;
    case DIM_FF_USED:
        return slots_of(p) * p->ff_width;
    case DIM_WIDTH_USED:
        return slots_of(p) * p->width;
    }
    return 0;
}

/* ---- steps and units ---- */

static bool has_top_k(const struct vd_graph *g)
{
    return g->job.sampling.top_k != 0 && g->job.sampling.top_k < g->program->vocab;
}

static bool has_top_p(const struct vd_graph *g)
{
    return g->job.sampling.top_p_micro < VD_SAMPLE_MICRO;
}

bool vd_graph_valid(const struct vd_graph *g)
{
    const struct vd_graph_job *j = &g->job;
    uint64_t fed = (uint64_t)j->n_prompt + j->n_output;
    if (vd_program_is_encoder(g->program) || j->sampling.pooling == VD_POOLING_CLS)
        return false;
    if (vd_graph_pools(g))
        return j->n_prompt >= 1 && j->n_prompt <= g->program->ctx && j->n_steps == j->n_prompt &&
               j->max_tokens == g->program->width && j->n_output == j->max_tokens;
    return j->n_prompt >= 1 && j->max_tokens >= 1 && j->n_output <= j->max_tokens && j->n_steps >= 1 &&
           j->n_steps <= g->program->ctx && (j->n_steps == fed || j->n_steps + UINT64_C(1) == fed);
}

uint32_t vd_graph_units(const struct vd_graph *g, uint32_t step)
{
    return g->program->n_layers + (vd_graph_has_head(g, step) ? 2 : 1);
}

static bool is_short(const struct vd_graph *g, uint32_t step, uint32_t unit)
{
    return unit == g->program->n_layers && !vd_graph_has_head(g, step);
}

uint32_t vd_graph_ops(const struct vd_graph *g, uint32_t step, uint32_t unit)
{
    assert(step < g->job.n_steps && unit < vd_graph_units(g, step));
    if (unit == 0)
        return 1;
    if (unit <= g->program->n_layers)
        return is_short(g, step, unit) ? B_VROW + 1 : B_OPS;
    if (vd_graph_pools(g))
        return step + 1 == g->job.n_prompt ? P_OPS : P_POOL + 1;
    if (g->job.sampling.temp_micro == 0)
        return H_OPS + 1;
    return H_OPS + M_OPS * (unsigned)(has_top_k(g) + has_top_p(g)) + 3;
}

unsigned vd_graph_outs(const struct vd_graph *g, uint32_t step, uint32_t unit, uint8_t ops[VD_GRAPH_OUTS_MAX])
{
    if (unit > 0 && unit <= g->program->n_layers) {
        ops[0] = B_KROW;
        ops[1] = B_VROW;
        ops[2] = is_short(g, step, unit) ? VD_GRAPH_NO_OP : B_X;
        return 3;
    }
    unsigned n = 0;
    if (unit > 0 && vd_graph_pools(g)) {
        if (g->job.sampling.pooling == VD_POOLING_MEAN)
            ops[n++] = P_POOL;
        if (step + 1 == g->job.n_prompt)
            ops[n++] = P_VECTOR;
        return n;
    }
    if (unit > 0 && g->job.sampling.has_mask)
        ops[n++] = H_STATE;
    ops[n++] = (uint8_t)(vd_graph_ops(g, step, unit) - 1); /* EMBED or TOKEN */
    return n;
}

uint8_t vd_graph_row_op(const struct vd_graph *g, uint32_t unit)
{
    assert(unit <= g->program->n_layers);
    return unit == 0 ? 0 : B_X;
}

enum vd_stop vd_graph_stop(const struct vd_graph *g, uint32_t step, uint32_t token)
{
    if (token == VD_SAMPLE_FAIL)
        return VD_STOP_FAIL;
    for (uint32_t i = 0; i < g->program->n_stop; i++)
        if (g->program->stop[i] == token)
            return VD_STOP_TOKEN;
    return step + 2 - g->job.n_prompt >= g->job.max_tokens ? VD_STOP_LENGTH : VD_STOP_NONE;
}

/* ---- operators ---- */

/* Number, size and leaf of an operator's records: the table of the spec. */
struct records {
    uint64_t n;
    uint32_t bytes, per_leaf;
};

static struct records records_of(const struct vd_program *p, uint32_t step, const struct vd_graph_op *o)
{
    uint64_t keys = step + UINT64_C(1) - o->first_key;
    uint64_t chunks = step / VD_GRAPH_CHUNK - o->first_key / VD_GRAPH_CHUNK + 1;
    uint32_t hd = p->head_dim, tiles = (p->vocab + VD_SAMPLE_TILE - 1) / VD_SAMPLE_TILE;
    switch (o->kind) {
    case VD_OP_EMBED:
    case VD_OP_NORM_MUL:
    case VD_OP_ROPE:
    case VD_OP_ATTN:
    case VD_OP_ADD:
    case VD_OP_HEAD_MUL:
    case VD_OP_BIAS:
    case VD_OP_SWIGLU:
    case VD_OP_GEGLU:
    case VD_OP_MIX:
    case VD_OP_CAP:
    case VD_OP_PENALTY:
    case VD_OP_LOGIT_BIAS:
    case VD_OP_MASK:
        return (struct records){o->cols, 4, 1024};
    case VD_OP_VECTOR: /* as the ledger takes shown tokens: one by one */
        return (struct records){o->cols, 4, 1};
    case VD_OP_POOL:
        return (struct records){o->cols / VD_GRAPH_POOL_ELEMS, 4 * VD_GRAPH_POOL_ELEMS, 1};
    case VD_OP_MASK_STATE:
        return (struct records){1, VD_AUTOMATON_STATE_BYTES, 1};
    case VD_OP_NORM_PART:
        return (struct records){vd_num_segs(o->cols), 4, 1024};
    case VD_OP_NORM_SCALE:
    case VD_OP_L2:
        return (struct records){1, 4, 1};
    case VD_OP_HEAD_SCALE:
        return (struct records){o->cols / hd, 4, 1024};
    case VD_OP_QUANT:
    case VD_OP_QROW:
        return (struct records){o->cols / 32, 36, 64};
    case VD_OP_QUANT256:
        return (struct records){o->cols / 256, 260, 8};
    case VD_OP_ROUTE:
        return (struct records){1, VD_GRAPH_ROUTE_BYTES * p->n_used, 1};
    case VD_OP_PART:
        return (struct records){(uint64_t)o->rows * vd_num_segs(o->cols), 4, 1024};
    case VD_OP_SUM:
        return (struct records){o->rows, 4, 1024};
    case VD_OP_KROW:
        return (struct records){p->n_kv_heads, hd / 32 * 4 + hd, 1};
    case VD_OP_VROW:
        return (struct records){p->n_kv_heads, 4 + hd, 1};
    case VD_OP_SCORE:
        return (struct records){p->n_heads * keys, 4, 256};
    case VD_OP_CHUNK:
        return (struct records){p->n_heads * chunks, 12 + 2 * VD_GRAPH_CHUNK, 16};
    case VD_OP_CHUNK_V:
        return (struct records){p->n_heads * chunks, 4 * hd, 1024 / hd};
    case VD_OP_MERGE:
        return (struct records){p->n_heads * chunks, 8 + 4 * hd, 1024 / hd};
    case VD_OP_MAX:
        return (struct records){tiles, 12, 256};
    case VD_OP_HIST:
        return (struct records){tiles, 8 * VD_SAMPLE_BINS, 32};
    case VD_OP_TIE:
    case VD_OP_MASS:
        return (struct records){tiles, 8, 512};
    case VD_OP_GMAX:
    case VD_OP_PICK:
    case VD_OP_DRAW:
        return (struct records){1, 12, 1};
    case VD_OP_THRESHOLD:
    case VD_OP_TOKEN:
        return (struct records){1, 8, 1};
    }
    return (struct records){0, 0, 1};
}

static bool has_weight(enum vd_op kind)
{
    return kind == VD_OP_NORM_MUL || kind == VD_OP_HEAD_MUL || kind == VD_OP_PART || kind == VD_OP_BIAS;
}

static uint16_t act_block(const struct vd_program *p, uint32_t tensor)
{
    return vd_wtype_info((enum vd_wtype)p->types[tensor])->act_block;
}

static bool is_taken(const struct vd_program *p, uint32_t unit, const struct row *r)
{
    uint16_t block = r->kind == VD_OP_QUANT ? 32 : 256;
    uint32_t consumers = r->tensor & vd_program_layer_set(p);
    if (unit > p->n_layers)
        return act_block(p, vd_program_head_tensor(p)) == block;
    for (unsigned t = 0; consumers >> t; t++)
        if (consumers >> t & 1 &&
            act_block(p, vd_program_layer_tensor(p, unit - 1, (enum vd_layer_tensor)t)) == block)
            return true;
    return false;
}

static bool is_present(const struct vd_graph *g, uint32_t unit, const struct row *r)
{
    const struct vd_program *p = g->program;
    switch ((enum when)r->when) {
    case ALWAYS:
        return true;
    case IF_TAKEN:
        return is_taken(p, unit, r);
    case IF_QKV_BIAS:
        return p->qkv_bias;
    case IF_QK_NORM:
        return p->qk_norm;
    case IF_POST_NORMS:
        return p->post_norms;
    case IF_EXPERTS:
        return p->n_experts > 0;
    case IF_LOGIT_CAP:
        return p->logit_cap != 0.0f;
    case IF_PENALTIES:
        return vd_num_penalised(&g->job.sampling);
    case IF_BIAS:
        return g->job.sampling.has_bias;
    case IF_MASK:
        return g->job.sampling.has_mask;
    case IF_MEAN:
        return g->job.sampling.pooling == VD_POOLING_MEAN;
    }
    return false;
}

/* The operator that is read where the table says `op`. */
static uint8_t source(const struct vd_graph *g, uint32_t unit, const struct row *rows, uint8_t op)
{
    while (op != VD_GRAPH_SRC_ROW && !is_present(g, unit, &rows[op]))
        op = rows[op].src;
    return op;
}

static void set_part(const struct vd_graph *g, const struct row *rows, const struct row *r, uint32_t unit,
                     struct vd_graph_op *o)
{
    const struct vd_program *p = g->program;
    bool is_down = rows == block_rows && r->tensor == VD_T_FFN_DOWN;
    o->act_block = act_block(p, o->tensor);
    if (o->act_block == 0)
        o->src = source(g, unit, rows, r->src2);
    else
        o->src = (uint8_t)(r->src + (o->act_block == 256));
    if (p->n_experts && rows == block_rows &&
        (is_down || r->tensor == VD_T_FFN_GATE || r->tensor == VD_T_FFN_UP)) {
        o->n_slots = p->n_used;
        o->slot_minor = is_down;
        o->route = B_ROUTE;
    }
}

/* Fills in all but the records. False: the operator is absent. */
static bool from_row(const struct vd_graph *g, uint32_t step, uint32_t unit, const struct row *rows,
                     uint32_t op, struct vd_graph_op *o)
{
    const struct vd_program *p = g->program;
    const struct row *r = &rows[op];
    o->kind = (enum vd_op)r->kind;
    o->rows = dim_of(p, (enum dim)r->rows);
    o->cols = dim_of(p, (enum dim)r->cols);
    if (!is_present(g, unit, r))
        return false;
    if (o->kind == VD_OP_SWIGLU && p->act == VD_ACT_GELU)
        o->kind = VD_OP_GEGLU;
    if (rows == block_rows) {
        o->layer = unit - 1;
        o->first_key = vd_program_first_key(p, o->layer, step);
    }
    if (has_weight(o->kind))
        o->tensor = rows == block_rows ? vd_program_layer_tensor(p, o->layer, (enum vd_layer_tensor)r->tensor)
                    : o->kind == VD_OP_PART ? vd_program_head_tensor(p)
                                            : vd_program_norm_tensor(p);
    if (o->kind == VD_OP_PART) {
        set_part(g, rows, r, unit, o);
    } else {
        o->src = source(g, unit, rows, r->src);
        o->src2 = source(g, unit, rows, r->src2);
    }
    o->src_pool = rows == pool_rows && o->src == P_POOL;
    return true;
}

/* Operators H_OPS + m of the head: at most two searches, then MASS, DRAW, TOKEN. */
static void sampling_op(const struct vd_graph *g, uint32_t m, struct vd_graph_op *o)
{
    unsigned searches = g->job.sampling.temp_micro == 0 ? 0 : (unsigned)(has_top_k(g) + has_top_p(g));
    unsigned search = m / M_OPS, at = m % M_OPS;
    uint8_t base = (uint8_t)(H_OPS + M_OPS * search);
    *o = (struct vd_graph_op){.rows = 1, .cols = g->program->vocab, .gmax = H_GMAX};
    o->src = source(g, g->program->n_layers + 1, head_rows, H_LAST);
    o->last_cut = search ? (uint8_t)(base - 1) : VD_GRAPH_NO_OP;
    if (search >= searches) {
        static const uint8_t tail[] = {VD_OP_MASS, VD_OP_DRAW, VD_OP_TOKEN};
        o->last_cut = searches ? (uint8_t)(H_OPS + M_OPS * searches - 1) : VD_GRAPH_NO_OP;
        m = g->job.sampling.temp_micro == 0 ? 2 : m - M_OPS * searches;
        o->kind = (enum vd_op)tail[m];
        o->src2 = m ? (uint8_t)(H_OPS + M_OPS * searches + m - 1) : 0; /* DRAW reads MASS, TOKEN reads DRAW */
        return;
    }
    o->by_mass = !has_top_k(g) || search == 1;
    o->level = (uint8_t)(at / 2);
    if (at < M_TIE) {
        o->kind = at % 2 ? VD_OP_PICK : VD_OP_HIST;
        o->src2 = (uint8_t)(base + at - 1); /* PICK: its HIST; HIST: the PICK before, if level > 0 */
    } else {
        o->kind = at == M_TIE ? VD_OP_TIE : VD_OP_THRESHOLD;
        o->src2 = (uint8_t)(base + M_TIE - 1); /* the last PICK */
    }
}

void vd_graph_op(const struct vd_graph *g, uint32_t step, uint32_t unit, uint32_t op, struct vd_graph_op *o)
{
    const struct vd_program *p = g->program;
    bool present = true;
    assert(op < vd_graph_ops(g, step, unit));
    *o = (struct vd_graph_op){.last_cut = VD_GRAPH_NO_OP};
    if (unit == 0) {
        o->kind = VD_OP_EMBED;
        o->rows = 1;
        o->cols = p->width;
    } else if (unit <= p->n_layers) {
        present = from_row(g, step, unit, block_rows, op, o);
    } else if (vd_graph_pools(g)) {
        present = from_row(g, step, unit, pool_rows, op, o);
    } else if (op < H_OPS) {
        present = from_row(g, step, unit, head_rows, op, o);
    } else {
        sampling_op(g, op - H_OPS, o);
    }
    struct records r = records_of(p, step, o);
    o->n_records = present ? r.n : 0;
    o->record_bytes = r.bytes;
    o->leaf_records = r.per_leaf;
}

/* ---- parts of a record's number ---- */

struct vd_graph_chunk vd_graph_chunk(const struct vd_graph_op *o, uint32_t step, uint64_t record)
{
    uint32_t first_chunk = o->first_key / VD_GRAPH_CHUNK, n_chunks = step / VD_GRAPH_CHUNK - first_chunk + 1;
    uint32_t at = (uint32_t)(record % n_chunks), begin = (first_chunk + at) * VD_GRAPH_CHUNK;
    uint64_t keys = step + UINT64_C(1) - o->first_key;
    struct vd_graph_chunk c = {.head = (uint32_t)(record / n_chunks), .is_first = at == 0};
    c.from = begin < o->first_key ? o->first_key : begin;
    c.n = (step < begin + VD_GRAPH_CHUNK - 1 ? step : begin + VD_GRAPH_CHUNK - 1) - c.from + 1;
    c.first_score = c.head * keys + (c.from - o->first_key);
    return c;
}

struct vd_graph_slot vd_graph_slot(const struct vd_graph_op *o, uint32_t row)
{
    uint32_t expert_rows = o->rows / o->n_slots;
    if (o->slot_minor)
        return (struct vd_graph_slot){row % o->n_slots, row / o->n_slots, expert_rows};
    return (struct vd_graph_slot){row / expert_rows, row % expert_rows, expert_rows};
}

/* ---- inputs ---- */

/* What the functions below share: the record's address and where the list grows. */
struct ask {
    const struct vd_graph *g;
    const struct vd_graph_op *o;
    uint32_t step;
    uint64_t record;
    struct vd_graph_input *in;
    unsigned n;
};

static uint32_t at_most(uint64_t left, uint32_t most)
{
    return left < most ? (uint32_t)left : most;
}

static void read_op(struct ask *a, uint8_t op, uint64_t first, uint32_t count)
{
    a->in[a->n++] = (struct vd_graph_input){
        .kind = op == VD_GRAPH_SRC_ROW ? VD_IN_ROW : VD_IN_OP, .op = op, .first = first, .count = count};
}

static void read_weight(struct ask *a, uint64_t row, uint64_t col)
{
    a->in[a->n++] = (struct vd_graph_input){.kind = VD_IN_WEIGHT,
                                            .tensor = a->o->tensor,
                                            .row = (uint32_t)row,
                                            .part = (uint32_t)(col / VD_WEIGHT_PART_ELEMS)};
}

/* Rows [from, to) of the cache for one kv head: those of earlier steps, then the step's own. */
static void read_cache(struct ask *a, uint8_t op, uint32_t kv_head, uint64_t from, uint64_t to)
{
    uint64_t earlier = to < a->step ? to : a->step;
    if (from < earlier)
        a->in[a->n++] = (struct vd_graph_input){
            .kind = VD_IN_KV, .op = op, .first = from, .count = (uint32_t)(earlier - from), .head = kv_head};
    if (to > a->step)
        read_op(a, op, kv_head, 1);
}

static void read_logits(struct ask *a, uint64_t tile)
{
    uint64_t first = tile * VD_SAMPLE_TILE;
    read_op(a, a->o->src, first, at_most(a->o->cols - first, VD_SAMPLE_TILE));
}

static void read_logits_dynamic(struct ask *a)
{
    read_op(a, a->o->src, 0, 0);
    a->in[a->n - 1].dynamic = true;
}

static void read_last_cut(struct ask *a)
{
    if (a->o->last_cut != VD_GRAPH_NO_OP)
        read_op(a, a->o->last_cut, 0, 1);
}

static uint32_t tiles_of(const struct ask *a)
{
    return (a->o->cols + VD_SAMPLE_TILE - 1) / VD_SAMPLE_TILE;
}

static void in_embed(struct ask *a)
{
    a->in[a->n++] = (struct vd_graph_input){.kind = VD_IN_TOKEN, .first = a->step};
    read_weight(a, 0, a->record);
    a->in[a->n - 1].dynamic = true;
}

/* The width is a multiple of VD_GRAPH_POOL_ELEMS, a segment as well. */
static void in_norm_part(struct ask *a)
{
    uint64_t first = a->record * VD_SEG_ELEMS, each = a->o->src_pool ? VD_GRAPH_POOL_ELEMS : 1;
    read_op(a, a->o->src, first / each, at_most(a->o->cols - first, VD_SEG_ELEMS) / (uint32_t)each);
}

static void in_norm_scale(struct ask *a)
{
    read_op(a, a->o->src, 0, vd_num_segs(a->o->cols));
}

static void in_norm_mul(struct ask *a)
{
    read_op(a, a->o->src, a->record, 1);
    read_op(a, a->o->src2, 0, 1);
    read_weight(a, 0, a->record);
}

static void in_head(struct ask *a)
{
    uint32_t hd = a->g->program->head_dim;
    read_op(a, a->o->src, a->record * hd, hd);
}

static void in_head_mul(struct ask *a)
{
    uint32_t hd = a->g->program->head_dim;
    read_op(a, a->o->src, a->record, 1);
    read_op(a, a->o->src2, a->record / hd, 1);
    read_weight(a, 0, a->record % hd);
}

static void in_quant(struct ask *a)
{
    read_op(a, a->o->src, a->record * 32, 32);
}

static void in_quant256(struct ask *a)
{
    read_op(a, a->o->src, a->record * 256, 256);
}

/* With experts the weight's row follows from ROUTE; what an expert's down reads is its own slot's part. */
static void in_part(struct ask *a)
{
    const struct vd_graph_op *o = a->o;
    uint32_t segs = vd_num_segs(o->cols);
    uint64_t row = a->record / segs, col = a->record % segs * VD_SEG_ELEMS, at = col;
    uint32_t n = at_most(o->cols - col, VD_SEG_ELEMS);
    if (o->n_slots) {
        read_op(a, o->route, 0, 1);
        at += o->slot_minor ? (uint64_t)vd_graph_slot(o, (uint32_t)row).slot * o->cols : 0;
    }
    read_weight(a, row, col);
    a->in[a->n - 1].dynamic = o->n_slots > 0;
    if (o->act_block)
        read_op(a, o->src, at / o->act_block, n / o->act_block);
    else
        read_op(a, o->src, at, n);
}

static void in_bias(struct ask *a)
{
    read_op(a, a->o->src, a->record, 1);
    read_weight(a, 0, a->record);
}

static void in_route(struct ask *a)
{
    read_op(a, a->o->src, 0, a->o->cols);
}

static void in_mix(struct ask *a)
{
    uint32_t n = a->g->program->n_used;
    read_op(a, a->o->src2, 0, 1);
    read_op(a, a->o->src, a->record * n, n);
}

static void in_one(struct ask *a)
{
    read_op(a, a->o->src, a->record, 1);
}

static void in_sum(struct ask *a)
{
    uint32_t segs = vd_num_segs(a->o->cols);
    read_op(a, a->o->src, a->record * segs, segs);
}

/* A rotated element reads its pair, taken as the range from the lower to the upper element. */
static void in_rope(struct ask *a)
{
    const struct vd_program *p = a->g->program;
    uint32_t i = (uint32_t)(a->record % p->head_dim);
    uint64_t head = a->record - i;
    if (i >= 2 * p->n_rope)
        read_op(a, a->o->src, a->record, 1);
    else if (p->rope_pairing == VD_ROPE_ADJACENT)
        read_op(a, a->o->src, head + (i & ~1u), 2);
    else
        read_op(a, a->o->src, head + i % p->n_rope, p->n_rope + 1);
}

static uint32_t kv_head_of(const struct ask *a, uint64_t h)
{
    return (uint32_t)(h / (a->g->program->n_heads / a->g->program->n_kv_heads));
}

static void in_score(struct ask *a)
{
    uint64_t keys = a->step + UINT64_C(1) - a->o->first_key, h = a->record / keys;
    uint64_t key = a->o->first_key + a->record % keys;
    uint32_t blocks = a->g->program->head_dim / 32;
    read_op(a, a->o->src, h * blocks, blocks);
    read_cache(a, a->o->src2, kv_head_of(a, h), key, key + 1);
}

/* CHUNK reads the scores, CHUNK_V the chunk's record; both the V rows of its keys. */
static void in_chunk(struct ask *a)
{
    struct vd_graph_chunk c = vd_graph_chunk(a->o, a->step, a->record);
    if (a->o->kind == VD_OP_CHUNK)
        read_op(a, a->o->src, c.first_score, c.n);
    else
        read_op(a, a->o->src, a->record, 1);
    read_cache(a, a->o->src2, kv_head_of(a, c.head), c.from, c.from + UINT64_C(1) * c.n);
}

static void in_merge(struct ask *a)
{
    if (!vd_graph_chunk(a->o, a->step, a->record).is_first)
        read_op(a, B_MERGE, a->record - 1, 1);
    read_op(a, a->o->src, a->record, 1);
    read_op(a, a->o->src2, a->record, 1);
}

static void in_attn(struct ask *a)
{
    uint64_t chunks = a->step / VD_GRAPH_CHUNK - a->o->first_key / VD_GRAPH_CHUNK + 1;
    uint64_t h = a->record / a->g->program->head_dim;
    read_op(a, a->o->src, h * chunks + chunks - 1, 1);
}

static void in_two(struct ask *a)
{
    read_op(a, a->o->src, a->record, 1);
    read_op(a, a->o->src2, a->record, 1);
}

static void read_tokens(struct ask *a, uint32_t first, uint32_t last)
{
    if (first <= last)
        a->in[a->n++] =
            (struct vd_graph_input){.kind = VD_IN_WINDOW, .first = first, .count = last - first + 1};
}

static void read_table(struct ask *a, enum vd_input_kind kind)
{
    a->in[a->n++] = (struct vd_graph_input){.kind = kind};
}

static void in_penalty(struct ask *a)
{
    const struct vd_graph_job *j = &a->g->job;
    read_op(a, a->o->src, a->record, 1);
    read_tokens(a, vd_num_penalty_begin(&j->sampling, j->n_prompt, a->step), a->step);
}

static void in_logit_bias(struct ask *a)
{
    read_op(a, a->o->src, a->record, 1);
    read_table(a, VD_IN_BIAS);
}

/* The state before the answer's first token is the start, of nothing. */
static void in_mask_state(struct ask *a)
{
    if (a->step + 1 == a->g->job.n_prompt)
        return;
    a->in[a->n++] =
        (struct vd_graph_input){.kind = VD_IN_KV, .op = H_STATE, .first = a->step - 1, .count = 1};
    read_tokens(a, a->step, a->step);
    read_table(a, VD_IN_MASK);
    a->in[a->n++] = (struct vd_graph_input){.kind = VD_IN_TEXT, .dynamic = true};
}

static void in_mask(struct ask *a)
{
    read_op(a, a->o->src, a->record, 1);
    read_op(a, H_STATE, 0, 1);
    read_table(a, VD_IN_MASK);
    a->in[a->n++] = (struct vd_graph_input){.kind = VD_IN_TEXT, .row = (uint32_t)a->record};
}

static void in_max(struct ask *a)
{
    read_logits(a, a->record);
}

static void in_gmax(struct ask *a)
{
    read_op(a, a->o->src, 0, tiles_of(a));
}

static void in_hist(struct ask *a)
{
    read_logits(a, a->record);
    read_op(a, a->o->gmax, 0, 1);
    if (a->o->level > 0)
        read_op(a, a->o->src2, 0, 1);
    read_last_cut(a);
}

static void in_pick(struct ask *a)
{
    read_op(a, a->o->src2, 0, tiles_of(a));
    if (a->o->level > 0)
        read_op(a, (uint8_t)(a->o->src2 - 1), 0, 1);
}

static void in_tie(struct ask *a)
{
    read_logits(a, a->record);
    read_op(a, a->o->gmax, 0, 1);
    read_op(a, a->o->src2, 0, 1);
}

static void in_threshold(struct ask *a)
{
    read_op(a, a->o->gmax, 0, 1);
    read_op(a, a->o->src2, 0, 1);
    read_op(a, (uint8_t)(a->o->src2 + 1), 0, tiles_of(a));
    read_logits_dynamic(a);
}

static void in_mass(struct ask *a)
{
    read_logits(a, a->record);
    read_op(a, a->o->gmax, 0, 1);
    read_last_cut(a);
}

static void in_draw(struct ask *a)
{
    read_op(a, a->o->src2, 0, tiles_of(a));
}

static void in_token(struct ask *a)
{
    read_op(a, a->o->gmax, 0, 1);
    if (a->g->job.sampling.temp_micro == 0)
        return;
    read_op(a, a->o->src2, 0, 1);
    read_last_cut(a);
    read_logits_dynamic(a);
}

/* The sum up to the position before, if there is one, then this position's own elements. */
static void in_pool(struct ask *a)
{
    if (a->step > 0)
        a->in[a->n++] = (struct vd_graph_input){
            .kind = VD_IN_KV, .op = P_POOL, .first = a->step - 1, .count = 1, .head = (uint32_t)a->record};
    read_op(a, a->o->src, a->record * VD_GRAPH_POOL_ELEMS, VD_GRAPH_POOL_ELEMS);
}

static void in_vector(struct ask *a)
{
    read_op(a, a->o->src, a->record / (a->o->src_pool ? VD_GRAPH_POOL_ELEMS : 1), 1);
    read_op(a, a->o->src2, 0, 1);
}

static void (*const inputs_of[VD_OP_KINDS])(struct ask *) = {
    [VD_OP_EMBED] = in_embed,
    [VD_OP_NORM_PART] = in_norm_part,
    [VD_OP_NORM_SCALE] = in_norm_scale,
    [VD_OP_NORM_MUL] = in_norm_mul,
    [VD_OP_HEAD_SCALE] = in_head,
    [VD_OP_HEAD_MUL] = in_head_mul,
    [VD_OP_QUANT] = in_quant,
    [VD_OP_QUANT256] = in_quant256,
    [VD_OP_PART] = in_part,
    [VD_OP_SUM] = in_sum,
    [VD_OP_BIAS] = in_bias,
    [VD_OP_ROPE] = in_rope,
    [VD_OP_QROW] = in_quant,
    [VD_OP_KROW] = in_head,
    [VD_OP_VROW] = in_head,
    [VD_OP_SCORE] = in_score,
    [VD_OP_CHUNK] = in_chunk,
    [VD_OP_CHUNK_V] = in_chunk,
    [VD_OP_MERGE] = in_merge,
    [VD_OP_ATTN] = in_attn,
    [VD_OP_ADD] = in_two,
    [VD_OP_SWIGLU] = in_two,
    [VD_OP_GEGLU] = in_two,
    [VD_OP_ROUTE] = in_route,
    [VD_OP_MIX] = in_mix,
    [VD_OP_CAP] = in_one,
    [VD_OP_PENALTY] = in_penalty,
    [VD_OP_LOGIT_BIAS] = in_logit_bias,
    [VD_OP_MASK_STATE] = in_mask_state,
    [VD_OP_MASK] = in_mask,
    [VD_OP_MAX] = in_max,
    [VD_OP_GMAX] = in_gmax,
    [VD_OP_HIST] = in_hist,
    [VD_OP_PICK] = in_pick,
    [VD_OP_TIE] = in_tie,
    [VD_OP_THRESHOLD] = in_threshold,
    [VD_OP_MASS] = in_mass,
    [VD_OP_DRAW] = in_draw,
    [VD_OP_TOKEN] = in_token,
    [VD_OP_POOL] = in_pool,
    [VD_OP_L2] = in_norm_scale,
    [VD_OP_VECTOR] = in_vector,
};

unsigned vd_graph_inputs(const struct vd_graph *g, uint32_t step, const struct vd_graph_op *o,
                         uint64_t record, struct vd_graph_input in[VD_GRAPH_INPUTS_MAX])
{
    assert(record < o->n_records);
    struct ask a = {g, o, step, record, in, 0};
    inputs_of[o->kind](&a);
    assert(a.n <= VD_GRAPH_INPUTS_MAX);
    return a.n;
}
