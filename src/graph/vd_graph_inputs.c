/* What a record reads: one function per operator, which turns the operator, as vd_graph.c's tables make it,
 * and the record's number into the addresses of its inputs, in the order in which an opening shows them. No
 * number of an operator stands here: sources are those of the tables. */
#include "vd_graph.h"

#include "vd_num.h"

#include <assert.h>

/* ---- parts of a record's number ---- */

struct vd_graph_chunk vd_graph_chunk(const struct vd_graph_op *o, uint64_t record)
{
    uint32_t n_chunks = vd_graph_chunks(o), at = (uint32_t)(record % n_chunks);
    uint32_t begin = (o->first_key / VD_GRAPH_CHUNK + at) * VD_GRAPH_CHUNK, end = begin + VD_GRAPH_CHUNK;
    uint64_t keys = o->end_key - o->first_key;
    struct vd_graph_chunk c = {.head = (uint32_t)(record / n_chunks), .is_first = at == 0};
    c.from = begin < o->first_key ? o->first_key : begin;
    c.n = (o->end_key < end ? o->end_key : end) - c.from;
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

static void read_op(struct ask *a, uint8_t src, uint64_t first, uint32_t count)
{
    uint8_t back = VD_GRAPH_SRC_BACK(src);
    a->in[a->n++] = (struct vd_graph_input){.kind = back ? VD_IN_ROW : VD_IN_OP,
                                            .op = VD_GRAPH_SRC_OP(src),
                                            .back = back,
                                            .first = first,
                                            .count = count};
}

static void read_tensor(struct ask *a, uint32_t tensor, uint64_t row, uint64_t col)
{
    a->in[a->n++] = (struct vd_graph_input){.kind = VD_IN_WEIGHT,
                                            .tensor = tensor,
                                            .row = (uint32_t)row,
                                            .part = (uint32_t)(col / VD_WEIGHT_PART_ELEMS)};
}

static void read_weight(struct ask *a, uint64_t row, uint64_t col)
{
    read_tensor(a, a->o->tensor, row, col);
}

static void read_steps(struct ask *a, uint8_t src, uint32_t leaf, uint32_t first, uint32_t count)
{
    a->in[a->n++] = (struct vd_graph_input){.kind = VD_IN_KV,
                                            .op = VD_GRAPH_SRC_OP(src),
                                            .back = VD_GRAPH_SRC_BACK(src),
                                            .first = first,
                                            .count = count,
                                            .leaf = leaf};
}

/* Rows [from, to) of the cache for one kv head. Those of the unit itself are opened like its other records.
 */
static void read_cache(struct ask *a, uint8_t src, uint32_t kv_head, uint32_t from, uint32_t to)
{
    bool own = VD_GRAPH_SRC_BACK(src) == 0 && to > a->step;
    uint32_t others = own ? a->step : to;
    if (from < others)
        read_steps(a, src, kv_head, from, others - from);
    if (own)
        read_op(a, src, kv_head, 1);
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

/* The segment, and the mean that is taken from it. */
static void in_var_part(struct ask *a)
{
    in_norm_part(a);
    read_op(a, a->o->src2, 0, 1);
}

static void in_ln_mul(struct ask *a)
{
    read_op(a, a->o->src, a->record, 1);
    read_op(a, (uint8_t)(a->o->src2 - 2), 0, 1); /* MEAN */
    read_op(a, a->o->src2, 0, 1);
    read_weight(a, 0, a->record);
    read_tensor(a, a->o->tensor + 1, 0, a->record);
}

static void in_position(struct ask *a)
{
    read_op(a, a->o->src, a->record, 1);
    read_weight(a, a->step, a->record);
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
    uint64_t keys = a->o->end_key - a->o->first_key, h = a->record / keys;
    uint32_t key = a->o->first_key + (uint32_t)(a->record % keys);
    uint32_t blocks = a->g->program->head_dim / 32;
    read_op(a, a->o->src, h * blocks, blocks);
    read_cache(a, a->o->src2, kv_head_of(a, h), key, key + 1);
}

/* CHUNK reads the scores, CHUNK_V the chunk's record; both the V rows of its keys. */
static void in_chunk(struct ask *a)
{
    struct vd_graph_chunk c = vd_graph_chunk(a->o, a->record);
    if (a->o->kind == VD_OP_CHUNK)
        read_op(a, a->o->src, c.first_score, c.n);
    else
        read_op(a, a->o->src, a->record, 1);
    read_cache(a, a->o->src2, kv_head_of(a, c.head), c.from, c.from + c.n);
}

static void in_merge(struct ask *a)
{
    if (!vd_graph_chunk(a->o, a->record).is_first)
        read_op(a, (uint8_t)(a->o->src2 + 1), a->record - 1, 1); /* its own */
    read_op(a, a->o->src, a->record, 1);
    read_op(a, a->o->src2, a->record, 1);
}

static void in_attn(struct ask *a)
{
    uint64_t chunks = vd_graph_chunks(a->o), h = a->record / a->g->program->head_dim;
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
    read_steps(a, a->o->src, 0, a->step - 1, 1);
    read_tokens(a, a->step, a->step);
    read_table(a, VD_IN_MASK);
    a->in[a->n++] = (struct vd_graph_input){.kind = VD_IN_TEXT, .dynamic = true};
}

static void in_mask(struct ask *a)
{
    read_op(a, a->o->src, a->record, 1);
    read_op(a, a->o->src2, 0, 1);
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

/* The mean: the sum up to the position before, if there is one, then this position's own elements. CLS: the
 * leaf of step 0's row that they are in. */
static void in_pool(struct ask *a)
{
    uint64_t first = a->record * VD_GRAPH_POOL_ELEMS;
    if (a->g->job.sampling.pooling == VD_POOLING_CLS) {
        read_steps(a, a->o->src, (uint32_t)(first / VD_GRAPH_ROW_LEAF), 0, 1);
        return;
    }
    if (a->step > 0)
        read_steps(a, a->o->src2, (uint32_t)a->record, a->step - 1, 1);
    read_op(a, a->o->src, first, VD_GRAPH_POOL_ELEMS);
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
    [VD_OP_GELU] = in_one,
    [VD_OP_POSITION] = in_position,
    [VD_OP_MEAN_PART] = in_norm_part,
    [VD_OP_MEAN] = in_norm_scale,
    [VD_OP_VAR_PART] = in_var_part,
    [VD_OP_LN_MUL] = in_ln_mul,
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
