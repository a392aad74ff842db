/* A block and the head's first half are constant tables whose sizes are named, not numbered; the head's
 * second half is arithmetic on the operator's number, because it depends on which of top-k and top-p are on.
 * What follows turns steps, units and table rows into the order and the shapes; what a record reads, given
 * its operator, is vd_graph_inputs.c's. */
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
    IF_POOLED,
    IF_DECODER,
    IF_TYPE, /* these are encoders' */
    IF_POSITIONS,
    IF_ROPE,
    IF_OUT_BIAS,
    IF_GATE,
    IF_GATE_BIAS,
    IF_FFN_BIAS,
};

/* src of PART is the QUANT of its vector, after which stands the QUANT256, src2 the vector itself: its
 * tensor's type decides which it reads. MASK_STATE and POOL read themselves at the step before. MERGE stands
 * behind CHUNK_V, and LN_MUL behind MEAN_PART, MEAN, VAR_PART and NORM_SCALE. */
struct row {
    uint8_t kind, rows, cols, src, src2, when;
    uint32_t tensor; /* enum vd_layer_tensor (embedding: vd_embed_tensor); of a quantiser that is IF_TAKEN the
                        consumers, a bit each */
};

/* As a source: the row of the unit before, and of the one before that. */
enum { ROW_OP = 63, X_ROW = VD_GRAPH_SRC(1, ROW_OP), X_ROW2 = VD_GRAPH_SRC(2, ROW_OP) };
static_assert(VD_GRAPH_OPS_MAX <= ROW_OP + 1, "numbers of operators and the row's stand beside two bits");

/* A decoder's is the first operator alone. */
enum { E_TYPE = 1, E_POSITION, E_NORM = 7, E_OPS };

static const struct row embed_rows[E_OPS] = {
    {VD_OP_EMBED, DIM_1, DIM_WIDTH, 0, 0, ALWAYS, VD_E_TOKEN},
    [E_TYPE] = {VD_OP_BIAS, DIM_1, DIM_WIDTH, E_TYPE - 1, 0, IF_TYPE, VD_E_TYPE},
    [E_POSITION] = {VD_OP_POSITION, DIM_1, DIM_WIDTH, E_TYPE, 0, IF_POSITIONS, VD_E_POSITION},
    {VD_OP_MEAN_PART, DIM_1, DIM_WIDTH, E_POSITION, 0, ALWAYS, 0},
    {VD_OP_MEAN, DIM_1, DIM_WIDTH, E_NORM - 4, 0, ALWAYS, 0},
    {VD_OP_VAR_PART, DIM_1, DIM_WIDTH, E_POSITION, E_NORM - 3, ALWAYS, 0},
    {VD_OP_NORM_SCALE, DIM_1, DIM_WIDTH, E_NORM - 2, 0, ALWAYS, 0},
    [E_NORM] = {VD_OP_LN_MUL, DIM_1, DIM_WIDTH, E_POSITION, E_NORM - 1, ALWAYS, VD_E_NORM},
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
    {VD_OP_NORM_PART, DIM_1, DIM_WIDTH, X_ROW, 0, ALWAYS, 0},
    {VD_OP_NORM_SCALE, DIM_1, DIM_WIDTH, B_NORM - 2, 0, ALWAYS, 0},
    [B_NORM] = {VD_OP_NORM_MUL, DIM_1, DIM_WIDTH, X_ROW, B_NORM - 1, ALWAYS, VD_T_ATTN_NORM},
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
    [B_ADD] = {VD_OP_ADD, DIM_1, DIM_WIDTH, X_ROW, B_POST_ATTN, ALWAYS, 0},
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

/* The unit of an encoder's queries, keys and values. */
enum { Q_QUANT = 0, Q_Q = 3, Q_K = 6, Q_V = 9, Q_ROPE_Q = 11, Q_ROPE_K, Q_QROW, Q_KROW, Q_VROW, Q_OPS };

static const struct row qkv_rows[Q_OPS] = {
    [Q_QUANT] = {VD_OP_QUANT, DIM_1, DIM_WIDTH, X_ROW, 0, IF_TAKEN,
                 TAKES(VD_T_ATTN_Q) | TAKES(VD_T_ATTN_K) | TAKES(VD_T_ATTN_V)},
    {VD_OP_QUANT256, DIM_1, DIM_WIDTH, X_ROW, 0, IF_TAKEN,
     TAKES(VD_T_ATTN_Q) | TAKES(VD_T_ATTN_K) | TAKES(VD_T_ATTN_V)},
    {VD_OP_PART, DIM_Q, DIM_WIDTH, Q_QUANT, X_ROW, ALWAYS, VD_T_ATTN_Q},
    [Q_Q] = {VD_OP_SUM, DIM_Q, DIM_WIDTH, Q_Q - 1, 0, ALWAYS, 0},
    {VD_OP_BIAS, DIM_1, DIM_Q, Q_Q, 0, IF_QKV_BIAS, VD_T_ATTN_Q_BIAS},
    {VD_OP_PART, DIM_KV, DIM_WIDTH, Q_QUANT, X_ROW, ALWAYS, VD_T_ATTN_K},
    [Q_K] = {VD_OP_SUM, DIM_KV, DIM_WIDTH, Q_K - 1, 0, ALWAYS, 0},
    {VD_OP_BIAS, DIM_1, DIM_KV, Q_K, 0, IF_QKV_BIAS, VD_T_ATTN_K_BIAS},
    {VD_OP_PART, DIM_KV, DIM_WIDTH, Q_QUANT, X_ROW, ALWAYS, VD_T_ATTN_V},
    [Q_V] = {VD_OP_SUM, DIM_KV, DIM_WIDTH, Q_V - 1, 0, ALWAYS, 0},
    {VD_OP_BIAS, DIM_1, DIM_KV, Q_V, 0, IF_QKV_BIAS, VD_T_ATTN_V_BIAS},
    [Q_ROPE_Q] = {VD_OP_ROPE, DIM_1, DIM_Q, Q_Q + 1, 0, IF_ROPE, 0},
    [Q_ROPE_K] = {VD_OP_ROPE, DIM_1, DIM_KV, Q_K + 1, 0, IF_ROPE, 0},
    [Q_QROW] = {VD_OP_QROW, DIM_1, DIM_Q, Q_ROPE_Q, 0, ALWAYS, 0},
    [Q_KROW] = {VD_OP_KROW, DIM_1, DIM_KV, Q_ROPE_K, 0, ALWAYS, 0},
    [Q_VROW] = {VD_OP_VROW, DIM_1, DIM_KV, Q_V + 1, 0, ALWAYS, 0},
};

/* The rest of an encoder's layer. */
enum {
    A_CHUNK = 1,
    A_CHUNK_V,
    A_MERGE,
    A_ATTN,
    A_QUANT_ATTN,
    A_OUT = 8,
    A_OUT_BIAS,
    A_ADD,
    A_NORM = 15,
    A_QUANT,
    A_GATE = 19,
    A_GATE_BIAS,
    A_UP = 22,
    A_UP_BIAS,
    A_GLU,
    A_QUANT_FF,
    A_DOWN = 28,
    A_DOWN_BIAS,
    A_ADD2,
    A_X = 35,
    A_OPS
};

static const struct row rest_rows[A_OPS] = {
    {VD_OP_SCORE, DIM_1, DIM_1, VD_GRAPH_SRC(1, Q_QROW), VD_GRAPH_SRC(1, Q_KROW), ALWAYS, 0},
    [A_CHUNK] = {VD_OP_CHUNK, DIM_1, DIM_1, A_CHUNK - 1, VD_GRAPH_SRC(1, Q_VROW), ALWAYS, 0},
    [A_CHUNK_V] = {VD_OP_CHUNK_V, DIM_1, DIM_1, A_CHUNK, VD_GRAPH_SRC(1, Q_VROW), ALWAYS, 0},
    [A_MERGE] = {VD_OP_MERGE, DIM_1, DIM_1, A_CHUNK, A_CHUNK_V, ALWAYS, 0},
    [A_ATTN] = {VD_OP_ATTN, DIM_1, DIM_Q, A_MERGE, 0, ALWAYS, 0},
    [A_QUANT_ATTN] = {VD_OP_QUANT, DIM_1, DIM_Q, A_ATTN, 0, IF_TAKEN, TAKES(VD_T_ATTN_OUTPUT)},
    {VD_OP_QUANT256, DIM_1, DIM_Q, A_ATTN, 0, IF_TAKEN, TAKES(VD_T_ATTN_OUTPUT)},
    {VD_OP_PART, DIM_WIDTH, DIM_Q, A_QUANT_ATTN, A_ATTN, ALWAYS, VD_T_ATTN_OUTPUT},
    [A_OUT] = {VD_OP_SUM, DIM_WIDTH, DIM_Q, A_OUT - 1, 0, ALWAYS, 0},
    [A_OUT_BIAS] = {VD_OP_BIAS, DIM_1, DIM_WIDTH, A_OUT, 0, IF_OUT_BIAS, VD_T_ATTN_OUTPUT_BIAS},
    [A_ADD] = {VD_OP_ADD, DIM_1, DIM_WIDTH, X_ROW2, A_OUT_BIAS, ALWAYS, 0},
    {VD_OP_MEAN_PART, DIM_1, DIM_WIDTH, A_ADD, 0, ALWAYS, 0},
    {VD_OP_MEAN, DIM_1, DIM_WIDTH, A_NORM - 4, 0, ALWAYS, 0},
    {VD_OP_VAR_PART, DIM_1, DIM_WIDTH, A_ADD, A_NORM - 3, ALWAYS, 0},
    {VD_OP_NORM_SCALE, DIM_1, DIM_WIDTH, A_NORM - 2, 0, ALWAYS, 0},
    [A_NORM] = {VD_OP_LN_MUL, DIM_1, DIM_WIDTH, A_ADD, A_NORM - 1, ALWAYS, VD_T_POST_ATTN_NORM},
    [A_QUANT] = {VD_OP_QUANT, DIM_1, DIM_WIDTH, A_NORM, 0, IF_TAKEN,
                 TAKES(VD_T_FFN_GATE) | TAKES(VD_T_FFN_UP)},
    {VD_OP_QUANT256, DIM_1, DIM_WIDTH, A_NORM, 0, IF_TAKEN, TAKES(VD_T_FFN_GATE) | TAKES(VD_T_FFN_UP)},
    {VD_OP_PART, DIM_FF, DIM_WIDTH, A_QUANT, A_NORM, IF_GATE, VD_T_FFN_GATE},
    [A_GATE] = {VD_OP_SUM, DIM_FF, DIM_WIDTH, A_GATE - 1, 0, IF_GATE, 0},
    [A_GATE_BIAS] = {VD_OP_BIAS, DIM_1, DIM_FF, A_GATE, 0, IF_GATE_BIAS, VD_T_FFN_GATE_BIAS},
    {VD_OP_PART, DIM_FF, DIM_WIDTH, A_QUANT, A_NORM, ALWAYS, VD_T_FFN_UP},
    [A_UP] = {VD_OP_SUM, DIM_FF, DIM_WIDTH, A_UP - 1, 0, ALWAYS, 0},
    [A_UP_BIAS] = {VD_OP_BIAS, DIM_1, DIM_FF, A_UP, 0, IF_FFN_BIAS, VD_T_FFN_UP_BIAS},
    [A_GLU] = {VD_OP_SWIGLU, DIM_1, DIM_FF, A_GATE_BIAS, A_UP_BIAS, ALWAYS, 0}, /* or GEGLU, or GELU of up */
    [A_QUANT_FF] = {VD_OP_QUANT, DIM_1, DIM_FF, A_GLU, 0, IF_TAKEN, TAKES(VD_T_FFN_DOWN)},
    {VD_OP_QUANT256, DIM_1, DIM_FF, A_GLU, 0, IF_TAKEN, TAKES(VD_T_FFN_DOWN)},
    {VD_OP_PART, DIM_WIDTH, DIM_FF, A_QUANT_FF, A_GLU, ALWAYS, VD_T_FFN_DOWN},
    [A_DOWN] = {VD_OP_SUM, DIM_WIDTH, DIM_FF, A_DOWN - 1, 0, ALWAYS, 0},
    [A_DOWN_BIAS] = {VD_OP_BIAS, DIM_1, DIM_WIDTH, A_DOWN, 0, IF_FFN_BIAS, VD_T_FFN_DOWN_BIAS},
    [A_ADD2] = {VD_OP_ADD, DIM_1, DIM_WIDTH, A_NORM, A_DOWN_BIAS, ALWAYS, 0},
    {VD_OP_MEAN_PART, DIM_1, DIM_WIDTH, A_ADD2, 0, ALWAYS, 0},
    {VD_OP_MEAN, DIM_1, DIM_WIDTH, A_X - 4, 0, ALWAYS, 0},
    {VD_OP_VAR_PART, DIM_1, DIM_WIDTH, A_ADD2, A_X - 3, ALWAYS, 0},
    {VD_OP_NORM_SCALE, DIM_1, DIM_WIDTH, A_X - 2, 0, ALWAYS, 0},
    [A_X] = {VD_OP_LN_MUL, DIM_1, DIM_WIDTH, A_ADD2, A_X - 1, ALWAYS, VD_T_POST_FFN_NORM},
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
    {VD_OP_NORM_PART, DIM_1, DIM_WIDTH, X_ROW, 0, ALWAYS, 0},
    {VD_OP_NORM_SCALE, DIM_1, DIM_WIDTH, H_NORM - 2, 0, ALWAYS, 0},
    [H_NORM] = {VD_OP_NORM_MUL, DIM_1, DIM_WIDTH, X_ROW, H_NORM - 1, ALWAYS, 0},
    [H_QUANT] = {VD_OP_QUANT, DIM_1, DIM_WIDTH, H_NORM, 0, IF_TAKEN, 0},
    {VD_OP_QUANT256, DIM_1, DIM_WIDTH, H_NORM, 0, IF_TAKEN, 0},
    {VD_OP_PART, DIM_VOCAB, DIM_WIDTH, H_QUANT, H_NORM, ALWAYS, 0},
    [H_LOGITS] = {VD_OP_SUM, DIM_VOCAB, DIM_WIDTH, H_LOGITS - 1, 0, ALWAYS, 0},
    [H_CAP] = {VD_OP_CAP, DIM_1, DIM_VOCAB, H_LOGITS, 0, IF_LOGIT_CAP, 0},
    [H_PENALTY] = {VD_OP_PENALTY, DIM_1, DIM_VOCAB, H_CAP, 0, IF_PENALTIES, 0},
    [H_BIAS] = {VD_OP_LOGIT_BIAS, DIM_1, DIM_VOCAB, H_PENALTY, 0, IF_BIAS, 0},
    [H_STATE] = {VD_OP_MASK_STATE, DIM_1, DIM_1, H_STATE, 0, IF_MASK, 0},
    [H_MASK] = {VD_OP_MASK, DIM_1, DIM_VOCAB, H_BIAS, H_STATE, IF_MASK, 0},
    [H_MAX] = {VD_OP_MAX, DIM_1, DIM_VOCAB, H_LAST, 0, ALWAYS, 0},
    [H_GMAX] = {VD_OP_GMAX, DIM_1, DIM_VOCAB, H_MAX, 0, ALWAYS, 0},
};

/* Instead of the head. A step that is not the last ends after POOL. An encoder's rows are normed already. */
enum { P_NORM = 2, P_POOL, P_L2_PART, P_L2, P_VECTOR, P_OPS };

static const struct row pool_rows[P_OPS] = {
    {VD_OP_NORM_PART, DIM_1, DIM_WIDTH, X_ROW, 0, IF_DECODER, 0},
    {VD_OP_NORM_SCALE, DIM_1, DIM_WIDTH, P_NORM - 2, 0, IF_DECODER, 0},
    [P_NORM] = {VD_OP_NORM_MUL, DIM_1, DIM_WIDTH, X_ROW, P_NORM - 1, IF_DECODER, 0},
    [P_POOL] = {VD_OP_POOL, DIM_1, DIM_WIDTH, P_NORM, P_POOL, IF_POOLED, 0},
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

/* An encoder has no tokens to give; where a decoder begins it has seen one token only. */
static bool pooling_fits(const struct vd_graph *g)
{
    enum vd_pooling pooling = g->job.sampling.pooling;
    return vd_program_is_encoder(g->program) ? pooling != VD_POOLING_NONE : pooling != VD_POOLING_CLS;
}

bool vd_graph_valid(const struct vd_graph *g)
{
    const struct vd_graph_job *j = &g->job;
    uint64_t fed = (uint64_t)j->n_prompt + j->n_output;
    if (!pooling_fits(g))
        return false;
    if (vd_graph_pools(g))
        return j->n_prompt >= 1 && j->n_prompt <= g->program->ctx && j->n_steps == j->n_prompt &&
               j->max_tokens == g->program->width && j->n_output == j->max_tokens;
    return j->n_prompt >= 1 && j->max_tokens >= 1 && j->n_output <= j->max_tokens && j->n_steps >= 1 &&
           j->n_steps <= g->program->ctx && (j->n_steps == fed || j->n_steps + UINT64_C(1) == fed);
}

/* What a unit is, and its operators. */
enum part { PART_EMBED, PART_BLOCK, PART_QKV, PART_REST, PART_HEAD, PART_POOL };

static const struct row *const rows_of[] = {
    [PART_EMBED] = embed_rows, [PART_BLOCK] = block_rows, [PART_QKV] = qkv_rows,
    [PART_REST] = rest_rows,   [PART_HEAD] = head_rows,   [PART_POOL] = pool_rows,
};

uint32_t vd_graph_last_block(const struct vd_graph *g)
{
    return g->program->n_layers * (vd_program_is_encoder(g->program) ? 2 : 1);
}

static enum part part_of(const struct vd_graph *g, uint32_t unit)
{
    if (unit == 0)
        return PART_EMBED;
    if (unit > vd_graph_last_block(g))
        return vd_graph_pools(g) ? PART_POOL : PART_HEAD;
    if (!vd_program_is_encoder(g->program))
        return PART_BLOCK;
    return unit % 2 ? PART_QKV : PART_REST;
}

uint32_t vd_graph_layer(const struct vd_graph *g, uint32_t unit)
{
    return (unit - 1) / (vd_program_is_encoder(g->program) ? 2 : 1);
}

uint32_t vd_graph_units(const struct vd_graph *g, uint32_t step)
{
    return vd_graph_last_block(g) + (vd_graph_has_head(g, step) ? 2 : 1);
}

/* Nobody reads what the last block of a decoder gives at a step without a head. Of an encoder it is committed
 * to at every step. */
static bool is_short(const struct vd_graph *g, uint32_t step, uint32_t unit)
{
    return part_of(g, unit) == PART_BLOCK && unit == g->program->n_layers && !vd_graph_has_head(g, step);
}

bool vd_graph_has_row(const struct vd_graph *g, uint32_t step)
{
    return !is_short(g, step, vd_graph_last_block(g));
}

uint32_t vd_graph_ops(const struct vd_graph *g, uint32_t step, uint32_t unit)
{
    assert(step < g->job.n_steps && unit < vd_graph_units(g, step));
    switch (part_of(g, unit)) {
    case PART_EMBED:
        return vd_program_is_encoder(g->program) ? E_OPS : 1;
    case PART_BLOCK:
        return is_short(g, step, unit) ? B_VROW + 1 : B_OPS;
    case PART_QKV:
        return Q_OPS;
    case PART_REST:
        return A_OPS;
    case PART_POOL:
        return step + 1 == g->job.n_prompt ? P_OPS : P_POOL + 1;
    case PART_HEAD:
        break;
    }
    if (g->job.sampling.temp_micro == 0)
        return H_OPS + 1;
    return H_OPS + M_OPS * (unsigned)(has_top_k(g) + has_top_p(g)) + 3;
}

unsigned vd_graph_outs(const struct vd_graph *g, uint32_t step, uint32_t unit, uint8_t ops[VD_GRAPH_OUTS_MAX])
{
    unsigned n = 0;
    switch (part_of(g, unit)) {
    case PART_BLOCK:
        ops[n++] = B_KROW;
        ops[n++] = B_VROW;
        ops[n++] = is_short(g, step, unit) ? VD_GRAPH_NO_OP : B_X;
        break;
    case PART_QKV:
        ops[n++] = Q_QROW;
        ops[n++] = Q_KROW;
        ops[n++] = Q_VROW;
        break;
    case PART_EMBED:
    case PART_REST:
        ops[n++] = vd_graph_row_op(g, unit);
        break;
    case PART_POOL:
        if (g->job.sampling.pooling == VD_POOLING_MEAN)
            ops[n++] = P_POOL;
        if (step + 1 == g->job.n_prompt)
            ops[n++] = P_VECTOR;
        break;
    case PART_HEAD:
        if (g->job.sampling.has_mask)
            ops[n++] = H_STATE;
        ops[n++] = (uint8_t)(vd_graph_ops(g, step, unit) - 1);
        break;
    }
    return n;
}

uint8_t vd_graph_row_op(const struct vd_graph *g, uint32_t unit)
{
    enum part part = part_of(g, unit);
    assert(part == PART_EMBED || part == PART_BLOCK || part == PART_REST);
    if (part == PART_EMBED)
        return vd_program_is_encoder(g->program) ? E_NORM : 0;
    return part == PART_BLOCK ? B_X : A_X;
}

/* ---- groups ---- */

uint32_t vd_graph_groups(const struct vd_graph *g)
{
    return vd_program_is_encoder(g->program) ? vd_graph_head_unit(g) + 1 : g->job.n_steps;
}

/* An encoder's group of pooling units at the last step alone. */
static bool is_single(const struct vd_graph *g, uint32_t group)
{
    return group == vd_graph_head_unit(g) && g->job.sampling.pooling != VD_POOLING_MEAN;
}

uint32_t vd_graph_members(const struct vd_graph *g, uint32_t group)
{
    if (!vd_program_is_encoder(g->program))
        return vd_graph_units(g, group);
    return is_single(g, group) ? 1 : g->job.n_steps;
}

struct vd_graph_place vd_graph_place(const struct vd_graph *g, uint32_t step, uint32_t unit)
{
    if (!vd_program_is_encoder(g->program))
        return (struct vd_graph_place){step, unit};
    return (struct vd_graph_place){unit, is_single(g, unit) ? 0 : step};
}

void vd_graph_at(const struct vd_graph *g, struct vd_graph_place place, uint32_t *step, uint32_t *unit)
{
    bool encoder = vd_program_is_encoder(g->program);
    assert(place.group < vd_graph_groups(g) && place.member < vd_graph_members(g, place.group));
    *unit = encoder ? place.group : place.member;
    *step = !encoder ? place.group : is_single(g, place.group) ? g->job.n_steps - 1 : place.member;
}

uint32_t vd_graph_steps_for(const struct vd_graph *g, uint32_t step)
{
    return vd_program_is_encoder(g->program) ? g->job.n_steps : step + 1;
}

/* ---- what a unit reads of others ---- */

static void add_read(struct vd_graph_read *out, unsigned *n, uint32_t unit, uint32_t op, uint32_t first,
                     uint32_t count)
{
    if (count > 0)
        out[(*n)++] = (struct vd_graph_read){unit, op, first, count};
}

unsigned vd_graph_reads(const struct vd_graph *g, uint32_t step, uint32_t unit,
                        struct vd_graph_read out[VD_GRAPH_READS_MAX])
{
    enum part part = part_of(g, unit);
    enum vd_pooling pooling = part == PART_POOL ? g->job.sampling.pooling : VD_POOLING_NONE;
    unsigned n = 0;
    if (part == PART_REST) {
        add_read(out, &n, unit - 1, Q_QROW, step, 1);
        add_read(out, &n, unit - 1, Q_KROW, 0, g->job.n_steps);
        add_read(out, &n, unit - 1, Q_VROW, 0, g->job.n_steps);
        add_read(out, &n, unit - 2, vd_graph_row_op(g, unit - 2), step, 1);
    } else if (part != PART_EMBED) {
        uint32_t at = pooling == VD_POOLING_CLS ? 0 : step;
        add_read(out, &n, unit - 1, vd_graph_row_op(g, unit - 1), at, 1);
    }
    if (part == PART_BLOCK && !is_short(g, step, unit)) {
        add_read(out, &n, unit, B_KROW, 0, step);
        add_read(out, &n, unit, B_VROW, 0, step);
    }
    if (pooling == VD_POOLING_MEAN && step > 0)
        add_read(out, &n, unit, P_POOL, step - 1, 1);
    return n;
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

static struct records records_of(const struct vd_program *p, const struct vd_graph_op *o)
{
    uint64_t keys = o->end_key - o->first_key;
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
    case VD_OP_GELU:
    case VD_OP_POSITION:
    case VD_OP_LN_MUL:
    case VD_OP_CAP:
    case VD_OP_PENALTY:
    case VD_OP_LOGIT_BIAS:
    case VD_OP_MASK:
        return (struct records){o->cols, 4, VD_GRAPH_ROW_LEAF};
    case VD_OP_VECTOR: /* as the ledger takes shown tokens: one by one */
        return (struct records){o->cols, 4, 1};
    case VD_OP_POOL:
        return (struct records){o->cols / VD_GRAPH_POOL_ELEMS, 4 * VD_GRAPH_POOL_ELEMS, 1};
    case VD_OP_MASK_STATE:
        return (struct records){1, VD_AUTOMATON_STATE_BYTES, 1};
    case VD_OP_NORM_PART:
    case VD_OP_MEAN_PART:
    case VD_OP_VAR_PART:
        return (struct records){vd_num_segs(o->cols), 4, 1024};
    case VD_OP_NORM_SCALE:
    case VD_OP_MEAN:
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
        return (struct records){(uint64_t)p->n_heads * vd_graph_chunks(o), 12 + 2 * VD_GRAPH_CHUNK, 16};
    case VD_OP_CHUNK_V:
        return (struct records){(uint64_t)p->n_heads * vd_graph_chunks(o), 4 * hd, 1024 / hd};
    case VD_OP_MERGE:
        return (struct records){(uint64_t)p->n_heads * vd_graph_chunks(o), 8 + 4 * hd, 1024 / hd};
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
    return kind == VD_OP_EMBED || kind == VD_OP_NORM_MUL || kind == VD_OP_HEAD_MUL || kind == VD_OP_PART ||
           kind == VD_OP_BIAS || kind == VD_OP_POSITION || kind == VD_OP_LN_MUL;
}

static uint16_t act_block(const struct vd_program *p, uint32_t tensor)
{
    return vd_wtype_info((enum vd_wtype)p->types[tensor])->act_block;
}

static bool is_taken(const struct vd_graph *g, uint32_t unit, const struct row *r)
{
    const struct vd_program *p = g->program;
    uint16_t block = r->kind == VD_OP_QUANT ? 32 : 256;
    uint32_t consumers = r->tensor & vd_program_layer_set(p);
    if (part_of(g, unit) == PART_HEAD)
        return act_block(p, vd_program_head_tensor(p)) == block;
    for (unsigned t = 0; consumers >> t; t++)
        if (consumers >> t & 1 && act_block(p, vd_program_layer_tensor(p, vd_graph_layer(g, unit),
                                                                       (enum vd_layer_tensor)t)) == block)
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
        return is_taken(g, unit, r);
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
    case IF_POOLED:
        return g->job.sampling.pooling != VD_POOLING_LAST;
    case IF_DECODER:
        return !vd_program_is_encoder(p);
    case IF_TYPE:
        return p->token_type;
    case IF_POSITIONS:
        return p->n_positions > 0;
    case IF_ROPE:
        return p->n_rope_tables > 0;
    case IF_OUT_BIAS:
        return p->out_bias;
    case IF_GATE:
        return !p->ungated;
    case IF_GATE_BIAS:
        return !p->ungated && p->ffn_bias;
    case IF_FFN_BIAS:
        return p->ffn_bias;
    }
    return false;
}

/* What is read where the table says `src`. */
static uint8_t source(const struct vd_graph *g, uint32_t unit, uint8_t src)
{
    const struct row *rows = rows_of[part_of(g, unit)];
    while (VD_GRAPH_SRC_BACK(src) == 0 && !is_present(g, unit, &rows[src]))
        src = rows[src].src;
    uint8_t back = VD_GRAPH_SRC_BACK(src);
    if (VD_GRAPH_SRC_OP(src) != ROW_OP)
        return src;
    return (uint8_t)VD_GRAPH_SRC(back, vd_graph_row_op(g, unit - back));
}

static void set_part(const struct vd_graph *g, const struct row *r, uint32_t unit, struct vd_graph_op *o)
{
    const struct vd_program *p = g->program;
    bool in_block = part_of(g, unit) == PART_BLOCK, is_down = in_block && r->tensor == VD_T_FFN_DOWN;
    o->act_block = act_block(p, o->tensor);
    if (o->act_block == 0)
        o->src = source(g, unit, r->src2);
    else
        o->src = (uint8_t)(r->src + (o->act_block == 256));
    if (p->n_experts && in_block && (is_down || r->tensor == VD_T_FFN_GATE || r->tensor == VD_T_FFN_UP)) {
        o->n_slots = p->n_used;
        o->slot_minor = is_down;
        o->route = B_ROUTE;
    }
}

static uint32_t tensor_of(const struct vd_graph *g, uint32_t unit, const struct row *r)
{
    const struct vd_program *p = g->program;
    enum part part = part_of(g, unit);
    if (part == PART_EMBED)
        return vd_program_embed_tensor(p, (enum vd_embed_tensor)r->tensor);
    if (part == PART_HEAD || part == PART_POOL)
        return r->kind == VD_OP_PART ? vd_program_head_tensor(p) : vd_program_norm_tensor(p);
    return vd_program_layer_tensor(p, vd_graph_layer(g, unit), (enum vd_layer_tensor)r->tensor);
}

/* Which activation it is. Without a gate it reads one source. */
static void set_act(const struct vd_program *p, struct vd_graph_op *o)
{
    if (p->act == VD_ACT_GELU)
        o->kind = p->ungated ? VD_OP_GELU : VD_OP_GEGLU;
    if (p->ungated)
        o->src = o->src2;
}

static void set_keys(const struct vd_graph *g, uint32_t step, uint32_t unit, struct vd_graph_op *o)
{
    bool block = part_of(g, unit) == PART_BLOCK;
    o->layer = vd_graph_layer(g, unit);
    o->first_key = block ? vd_program_first_key(g->program, o->layer, step) : 0;
    o->end_key = block ? step + 1 : g->job.n_steps;
}

/* Fills in all but the records. False: the operator is absent. */
static bool from_row(const struct vd_graph *g, uint32_t step, uint32_t unit, uint32_t op,
                     struct vd_graph_op *o)
{
    const struct vd_program *p = g->program;
    enum part part = part_of(g, unit);
    const struct row *r = &rows_of[part][op];
    o->kind = (enum vd_op)r->kind;
    o->rows = dim_of(p, (enum dim)r->rows);
    o->cols = dim_of(p, (enum dim)r->cols);
    o->end_key = 1; /* of an absent operator: any number of keys that is one */
    if (!is_present(g, unit, r))
        return false;
    if (part == PART_BLOCK || part == PART_QKV || part == PART_REST)
        set_keys(g, step, unit, o);
    if (has_weight(o->kind))
        o->tensor = tensor_of(g, unit, r);
    if (o->kind == VD_OP_PART) {
        set_part(g, r, unit, o);
    } else {
        o->src = source(g, unit, r->src);
        o->src2 = source(g, unit, r->src2);
    }
    if (o->kind == VD_OP_SWIGLU)
        set_act(p, o);
    o->src_pool = part == PART_POOL && o->src == P_POOL;
    return true;
}

/* Operators H_OPS + m of the head: at most two searches, then MASS, DRAW, TOKEN. */
static void sampling_op(const struct vd_graph *g, uint32_t m, struct vd_graph_op *o)
{
    unsigned searches = g->job.sampling.temp_micro == 0 ? 0 : (unsigned)(has_top_k(g) + has_top_p(g));
    unsigned search = m / M_OPS, at = m % M_OPS;
    uint8_t base = (uint8_t)(H_OPS + M_OPS * search);
    *o = (struct vd_graph_op){.rows = 1, .cols = g->program->vocab, .gmax = H_GMAX};
    o->src = source(g, vd_graph_head_unit(g), H_LAST);
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
    bool present = true;
    assert(op < vd_graph_ops(g, step, unit));
    *o = (struct vd_graph_op){.last_cut = VD_GRAPH_NO_OP};
    if (part_of(g, unit) == PART_HEAD && op >= H_OPS)
        sampling_op(g, op - H_OPS, o);
    else
        present = from_row(g, step, unit, op, o);
    struct records r = records_of(g->program, o);
    o->n_records = present ? r.n : 0;
    o->record_bytes = r.bytes;
    o->leaf_records = r.per_leaf;
}
