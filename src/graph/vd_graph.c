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
};

struct row {
    uint8_t kind, rows, cols, src, src2, tensor; /* tensor: enum vd_layer_tensor */
};

/* The numbers of those operators of a block that others refer to. */
enum {
    B_NORM = 2,
    B_QUANT = 3,
    B_Q = 5,
    B_K = 7,
    B_V = 9,
    B_ROPE_Q = 10,
    B_ROPE_K = 11,
    B_QUANT_Q = 12,
    B_KROW = 13,
    B_VROW = 14,
    B_SCORE = 15,
    B_CHUNK = 16,
    B_CHUNK_V = 17,
    B_MERGE = 18,
    B_ATTN = 19,
    B_QUANT_ATTN = 20,
    B_OUT = 22,
    B_ADD = 23,
    B_NORM2 = 26,
    B_QUANT2 = 27,
    B_GATE = 29,
    B_UP = 31,
    B_SWIGLU = 32,
    B_QUANT_FF = 33,
    B_DOWN = 35,
    B_X = 36,
    B_OPS
};

static const struct row block_rows[B_OPS] = {
    {VD_OP_NORM_PART, DIM_1, DIM_WIDTH, VD_GRAPH_SRC_ROW, 0, 0},
    {VD_OP_NORM_SCALE, DIM_1, DIM_WIDTH, 0, 0, 0},
    [B_NORM] = {VD_OP_NORM_MUL, DIM_1, DIM_WIDTH, VD_GRAPH_SRC_ROW, 1, VD_T_ATTN_NORM},
    [B_QUANT] = {VD_OP_QUANT, DIM_1, DIM_WIDTH, B_NORM, 0, 0},
    {VD_OP_PART, DIM_Q, DIM_WIDTH, B_QUANT, B_NORM, VD_T_ATTN_Q},
    [B_Q] = {VD_OP_SUM, DIM_Q, DIM_WIDTH, B_Q - 1, 0, 0},
    {VD_OP_PART, DIM_KV, DIM_WIDTH, B_QUANT, B_NORM, VD_T_ATTN_K},
    [B_K] = {VD_OP_SUM, DIM_KV, DIM_WIDTH, B_K - 1, 0, 0},
    {VD_OP_PART, DIM_KV, DIM_WIDTH, B_QUANT, B_NORM, VD_T_ATTN_V},
    [B_V] = {VD_OP_SUM, DIM_KV, DIM_WIDTH, B_V - 1, 0, 0},
    [B_ROPE_Q] = {VD_OP_ROPE, DIM_1, DIM_Q, B_Q, 0, 0},
    [B_ROPE_K] = {VD_OP_ROPE, DIM_1, DIM_KV, B_K, 0, 0},
    [B_QUANT_Q] = {VD_OP_QUANT, DIM_1, DIM_Q, B_ROPE_Q, 0, 0},
    [B_KROW] = {VD_OP_KROW, DIM_1, DIM_KV, B_ROPE_K, 0, 0},
    [B_VROW] = {VD_OP_VROW, DIM_1, DIM_KV, B_V, 0, 0},
    [B_SCORE] = {VD_OP_SCORE, DIM_1, DIM_1, B_QUANT_Q, B_KROW, 0},
    [B_CHUNK] = {VD_OP_CHUNK, DIM_1, DIM_1, B_SCORE, B_VROW, 0},
    [B_CHUNK_V] = {VD_OP_CHUNK_V, DIM_1, DIM_1, B_CHUNK, B_VROW, 0},
    [B_MERGE] = {VD_OP_MERGE, DIM_1, DIM_1, B_CHUNK, B_CHUNK_V, 0},
    [B_ATTN] = {VD_OP_ATTN, DIM_1, DIM_Q, B_MERGE, 0, 0},
    [B_QUANT_ATTN] = {VD_OP_QUANT, DIM_1, DIM_Q, B_ATTN, 0, 0},
    {VD_OP_PART, DIM_WIDTH, DIM_Q, B_QUANT_ATTN, B_ATTN, VD_T_ATTN_OUTPUT},
    [B_OUT] = {VD_OP_SUM, DIM_WIDTH, DIM_Q, B_OUT - 1, 0, 0},
    [B_ADD] = {VD_OP_ADD, DIM_1, DIM_WIDTH, VD_GRAPH_SRC_ROW, B_OUT, 0},
    {VD_OP_NORM_PART, DIM_1, DIM_WIDTH, B_ADD, 0, 0},
    {VD_OP_NORM_SCALE, DIM_1, DIM_WIDTH, B_ADD + 1, 0, 0},
    [B_NORM2] = {VD_OP_NORM_MUL, DIM_1, DIM_WIDTH, B_ADD, B_ADD + 2, VD_T_FFN_NORM},
    [B_QUANT2] = {VD_OP_QUANT, DIM_1, DIM_WIDTH, B_NORM2, 0, 0},
    {VD_OP_PART, DIM_FF, DIM_WIDTH, B_QUANT2, B_NORM2, VD_T_FFN_GATE},
    [B_GATE] = {VD_OP_SUM, DIM_FF, DIM_WIDTH, B_GATE - 1, 0, 0},
    {VD_OP_PART, DIM_FF, DIM_WIDTH, B_QUANT2, B_NORM2, VD_T_FFN_UP},
    [B_UP] = {VD_OP_SUM, DIM_FF, DIM_WIDTH, B_UP - 1, 0, 0},
    [B_SWIGLU] = {VD_OP_SWIGLU, DIM_1, DIM_FF, B_GATE, B_UP, 0},
    [B_QUANT_FF] = {VD_OP_QUANT, DIM_1, DIM_FF, B_SWIGLU, 0, 0},
    {VD_OP_PART, DIM_WIDTH, DIM_FF, B_QUANT_FF, B_SWIGLU, VD_T_FFN_DOWN},
    [B_DOWN] = {VD_OP_SUM, DIM_WIDTH, DIM_FF, B_DOWN - 1, 0, 0},
    [B_X] = {VD_OP_ADD, DIM_1, DIM_WIDTH, B_ADD, B_DOWN, 0},
};

enum { H_NORM = 2, H_QUANT = 3, H_LOGITS = 5, H_MAX = 6, H_GMAX = 7, H_OPS };

static const struct row head_rows[H_OPS] = {
    {VD_OP_NORM_PART, DIM_1, DIM_WIDTH, VD_GRAPH_SRC_ROW, 0, 0},
    {VD_OP_NORM_SCALE, DIM_1, DIM_WIDTH, 0, 0, 0},
    [H_NORM] = {VD_OP_NORM_MUL, DIM_1, DIM_WIDTH, VD_GRAPH_SRC_ROW, 1, 0},
    [H_QUANT] = {VD_OP_QUANT, DIM_1, DIM_WIDTH, H_NORM, 0, 0},
    {VD_OP_PART, DIM_VOCAB, DIM_WIDTH, H_QUANT, H_NORM, 0},
    [H_LOGITS] = {VD_OP_SUM, DIM_VOCAB, DIM_WIDTH, H_LOGITS - 1, 0, 0},
    [H_MAX] = {VD_OP_MAX, DIM_1, DIM_VOCAB, H_LOGITS, 0, 0},
    [H_GMAX] = {VD_OP_GMAX, DIM_1, DIM_VOCAB, H_MAX, 0, 0},
};

/* Of one threshold search: HIST and PICK per level, TIE, THRESHOLD. */
enum { M_TIE = 2 * VD_SAMPLE_LEVELS, M_THRESHOLD, M_OPS };

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
    ops[0] = (uint8_t)(vd_graph_ops(g, step, unit) - 1); /* EMBED or TOKEN */
    return 1;
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
    uint64_t keys = step + UINT64_C(1), chunks = (keys + VD_GRAPH_CHUNK - 1) / VD_GRAPH_CHUNK;
    uint32_t hd = p->head_dim, tiles = (p->vocab + VD_SAMPLE_TILE - 1) / VD_SAMPLE_TILE;
    switch (o->kind) {
    case VD_OP_EMBED:
    case VD_OP_NORM_MUL:
    case VD_OP_ROPE:
    case VD_OP_ATTN:
    case VD_OP_ADD:
    case VD_OP_SWIGLU:
        return (struct records){o->cols, 4, 1024};
    case VD_OP_NORM_PART:
        return (struct records){vd_num_segs(o->cols), 4, 1024};
    case VD_OP_NORM_SCALE:
        return (struct records){1, 4, 1};
    case VD_OP_QUANT:
        return (struct records){o->cols / 32, 36, 64};
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

static void from_row(const struct vd_program *p, const struct row *r, struct vd_graph_op *o)
{
    o->kind = (enum vd_op)r->kind;
    o->rows = dim_of(p, (enum dim)r->rows);
    o->cols = dim_of(p, (enum dim)r->cols);
    o->src = r->src;
    o->src2 = r->src2;
}

/* Operators H_OPS + m of the head: at most two searches, then MASS, DRAW, TOKEN. */
static void sampling_op(const struct vd_graph *g, uint32_t m, struct vd_graph_op *o)
{
    unsigned searches = g->job.sampling.temp_micro == 0 ? 0 : (unsigned)(has_top_k(g) + has_top_p(g));
    unsigned search = m / M_OPS, at = m % M_OPS;
    uint8_t base = (uint8_t)(H_OPS + M_OPS * search);
    *o = (struct vd_graph_op){.rows = 1, .cols = g->program->vocab, .src = H_LOGITS, .gmax = H_GMAX};
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
    assert(op < vd_graph_ops(g, step, unit));
    *o = (struct vd_graph_op){.last_cut = VD_GRAPH_NO_OP};
    if (unit == 0) {
        *o = (struct vd_graph_op){
            .kind = VD_OP_EMBED, .rows = 1, .cols = p->width, .last_cut = VD_GRAPH_NO_OP};
    } else if (unit <= p->n_layers) {
        from_row(p, &block_rows[op], o);
        o->tensor = vd_program_layer_tensor(p, unit - 1, (enum vd_layer_tensor)block_rows[op].tensor);
    } else if (op < H_OPS) {
        from_row(p, &head_rows[op], o);
        o->tensor = o->kind == VD_OP_PART ? vd_program_head_tensor(p) : vd_program_norm_tensor(p);
    } else {
        sampling_op(g, op - H_OPS, o);
    }
    struct records r = records_of(p, step, o);
    o->n_records = r.n;
    o->record_bytes = r.bytes;
    o->leaf_records = r.per_leaf;
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

static void in_norm_part(struct ask *a)
{
    uint64_t first = a->record * VD_SEG_ELEMS;
    read_op(a, a->o->src, first, at_most(a->o->cols - first, VD_SEG_ELEMS));
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

static void in_quant(struct ask *a)
{
    read_op(a, a->o->src, a->record * 32, 32);
}

static void in_part(struct ask *a)
{
    uint32_t segs = vd_num_segs(a->o->cols);
    uint64_t row = a->record / segs, col = a->record % segs * VD_SEG_ELEMS;
    uint32_t n = at_most(a->o->cols - col, VD_SEG_ELEMS);
    read_weight(a, row, col);
    if (vd_wtype_info(vd_program_tensor(a->g->program, a->o->tensor).type)->quantised)
        read_op(a, a->o->src, col / 32, n / 32);
    else
        read_op(a, a->o->src2, col, n);
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

static void in_cache_row(struct ask *a)
{
    uint32_t hd = a->g->program->head_dim;
    read_op(a, a->o->src, a->record * hd, hd);
}

static uint32_t kv_head_of(const struct ask *a, uint64_t h)
{
    return (uint32_t)(h / (a->g->program->n_heads / a->g->program->n_kv_heads));
}

static void in_score(struct ask *a)
{
    uint64_t keys = a->step + UINT64_C(1), h = a->record / keys, j = a->record % keys;
    uint32_t blocks = a->g->program->head_dim / 32;
    read_op(a, a->o->src, h * blocks, blocks);
    read_cache(a, a->o->src2, kv_head_of(a, h), j, j + 1);
}

/* CHUNK reads the scores, CHUNK_V the chunk's record; both the V rows of its keys. */
static void in_chunk(struct ask *a)
{
    uint64_t keys = a->step + UINT64_C(1), chunks = (keys + VD_GRAPH_CHUNK - 1) / VD_GRAPH_CHUNK;
    uint64_t h = a->record / chunks, from = a->record % chunks * VD_GRAPH_CHUNK;
    uint32_t n = at_most(keys - from, VD_GRAPH_CHUNK);
    if (a->o->kind == VD_OP_CHUNK)
        read_op(a, a->o->src, h * keys + from, n);
    else
        read_op(a, a->o->src, a->record, 1);
    read_cache(a, a->o->src2, kv_head_of(a, h), from, from + n);
}

static void in_merge(struct ask *a)
{
    uint64_t chunks = a->step / VD_GRAPH_CHUNK + UINT64_C(1);
    if (a->record % chunks > 0)
        read_op(a, B_MERGE, a->record - 1, 1);
    read_op(a, a->o->src, a->record, 1);
    read_op(a, a->o->src2, a->record, 1);
}

static void in_attn(struct ask *a)
{
    uint64_t chunks = a->step / VD_GRAPH_CHUNK + UINT64_C(1), h = a->record / a->g->program->head_dim;
    read_op(a, a->o->src, h * chunks + chunks - 1, 1);
}

static void in_two(struct ask *a)
{
    read_op(a, a->o->src, a->record, 1);
    read_op(a, a->o->src2, a->record, 1);
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

static void (*const inputs_of[VD_OP_KINDS])(struct ask *) = {
    [VD_OP_EMBED] = in_embed,       [VD_OP_NORM_PART] = in_norm_part, [VD_OP_NORM_SCALE] = in_norm_scale,
    [VD_OP_NORM_MUL] = in_norm_mul, [VD_OP_QUANT] = in_quant,         [VD_OP_PART] = in_part,
    [VD_OP_SUM] = in_sum,           [VD_OP_ROPE] = in_rope,           [VD_OP_KROW] = in_cache_row,
    [VD_OP_VROW] = in_cache_row,    [VD_OP_SCORE] = in_score,         [VD_OP_CHUNK] = in_chunk,
    [VD_OP_CHUNK_V] = in_chunk,     [VD_OP_MERGE] = in_merge,         [VD_OP_ATTN] = in_attn,
    [VD_OP_ADD] = in_two,           [VD_OP_SWIGLU] = in_two,          [VD_OP_MAX] = in_max,
    [VD_OP_GMAX] = in_gmax,         [VD_OP_HIST] = in_hist,           [VD_OP_PICK] = in_pick,
    [VD_OP_TIE] = in_tie,           [VD_OP_THRESHOLD] = in_threshold, [VD_OP_MASS] = in_mass,
    [VD_OP_DRAW] = in_draw,         [VD_OP_TOKEN] = in_token,
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
