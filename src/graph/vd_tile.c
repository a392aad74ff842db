/* One short function per operator and a table of them. Records are unpacked to arrays that src/num takes and
 * packed again; floats leave through put_f32 only, which writes every NaN as the one that is hashed. */
#include "vd_tile.h"

#include "vd_act.h"
#include "vd_attn.h"
#include "vd_dot.h"
#include "vd_norm.h"
#include "vd_num.h"
#include "vd_quant.h"
#include "vd_rope.h"
#include "vd_route.h"

#include <assert.h>
#include <string.h>

struct eval {
    const struct vd_tile *t;
    const struct vd_graph *g;
    const struct vd_tile_data *data;
    uint8_t *out;
};

static float get_f32(const uint8_t *p, size_t i)
{
    return vd_f32_from_bits(vd_le32_load(p + 4 * i));
}

static void get_f32s(const uint8_t *p, size_t n, float *x)
{
    for (size_t i = 0; i < n; i++)
        x[i] = get_f32(p, i);
}

static void put_f32(uint8_t *p, size_t i, float x)
{
    vd_le32_store(p + 4 * i, vd_f32_bits(vd_num_canon(x)));
}

/* ---- embedding, norms, products ---- */

static uint32_t part_col(const struct vd_graph_input *w, uint64_t col)
{
    return (uint32_t)(col - (uint64_t)w->part * VD_WEIGHT_PART_ELEMS);
}

static enum vd_wtype type_of(const struct eval *e)
{
    return (enum vd_wtype)e->g->program->types[e->t->o.tensor];
}

static void eval_embed(const struct eval *e)
{
    float y;
    vd_num_dequant(type_of(e), e->data->in[1], part_col(&e->t->in[1], e->t->record), 1, &y);
    put_f32(e->out, 0, y * e->g->program->embed_scale);
}

static void eval_norm_part(const struct eval *e)
{
    float x[VD_SEG_ELEMS];
    uint32_t n = e->t->in[0].count * (e->t->o.src_pool ? VD_GRAPH_POOL_ELEMS : 1);
    get_f32s(e->data->in[0], n, x);
    put_f32(e->out, 0, vd_num_sumsq_seg(x, n));
}

static void eval_mean_part(const struct eval *e)
{
    float x[VD_SEG_ELEMS];
    get_f32s(e->data->in[0], e->t->in[0].count, x);
    put_f32(e->out, 0, vd_num_sum_seg(x, e->t->in[0].count));
}

static void eval_mean(const struct eval *e)
{
    float part[VD_PROGRAM_WIDTH_MAX / VD_SEG_ELEMS];
    get_f32s(e->data->in[0], e->t->in[0].count, part);
    put_f32(e->out, 0, vd_num_mean(part, e->t->in[0].count, e->t->o.cols));
}

static void eval_var_part(const struct eval *e)
{
    float x[VD_SEG_ELEMS];
    get_f32s(e->data->in[0], e->t->in[0].count, x);
    put_f32(e->out, 0, vd_num_var_seg(x, get_f32(e->data->in[1], 0), e->t->in[0].count));
}

static void eval_ln_mul(const struct eval *e)
{
    const uint8_t *const *in = e->data->in;
    uint32_t col = part_col(&e->t->in[3], e->t->record);
    float x = get_f32(in[0], 0), w = get_f32(in[3], col), b = get_f32(in[4], col), y;
    vd_num_layernorm_mul(&x, get_f32(in[1], 0), get_f32(in[2], 0), &w, &b, 1, &y);
    put_f32(e->out, 0, y);
}

/* NORM_SCALE, of the sum of squares or of the variance's. */
static void eval_norm_scale(const struct eval *e)
{
    float part[VD_PROGRAM_WIDTH_MAX / VD_SEG_ELEMS];
    get_f32s(e->data->in[0], e->t->in[0].count, part);
    put_f32(e->out, 0, vd_num_rms_scale(part, e->t->in[0].count, e->t->o.cols, e->g->program->eps));
}

static void eval_head_scale(const struct eval *e)
{
    float x[VD_PROGRAM_HEAD_DIM_MAX] = {0}, part;
    uint32_t hd = e->t->in[0].count;
    get_f32s(e->data->in[0], hd, x);
    part = vd_num_sumsq_seg(x, hd);
    put_f32(e->out, 0, vd_num_rms_scale(&part, 1, hd, e->g->program->eps));
}

/* NORM_MUL; HEAD_MUL, whose weight is as long as a head. */
static void eval_norm_mul(const struct eval *e)
{
    float x = get_f32(e->data->in[0], 0), r = get_f32(e->data->in[1], 0), y;
    uint64_t col = e->t->o.kind == VD_OP_HEAD_MUL ? e->t->record % e->g->program->head_dim : e->t->record;
    float w = get_f32(e->data->in[2], part_col(&e->t->in[2], col));
    vd_num_rms_mul(&x, r, &w, 1, &y);
    put_f32(e->out, 0, y);
}

/* QUANT and QUANT256. */
static void eval_quant(const struct eval *e)
{
    float x[VD_SUPER_ELEMS] = {0}, d;
    int8_t q[VD_SUPER_ELEMS];
    uint32_t n = e->t->in[0].count;
    get_f32s(e->data->in[0], n, x);
    vd_num_quant8(x, n, q, &d);
    put_f32(e->out, 0, d);
    memcpy(e->out + 4, q, n);
}

/* Quantiser records of n elements, one after the other: scales apart from integers. */
static void get_blocks(const uint8_t *p, uint32_t n_blocks, uint32_t n, int8_t *q, float *d)
{
    for (uint32_t b = 0; b < n_blocks; b++, p += 4 + n) {
        d[b] = get_f32(p, 0);
        memcpy(q + b * n, p + 4, n);
    }
}

/* The last two inputs are the weight and what it is multiplied with; before them ROUTE, if there are experts.
 */
static void eval_part(const struct eval *e)
{
    const struct vd_tile *t = e->t;
    const struct vd_graph_input *w = &t->in[t->n_in - 2], *x = &t->in[t->n_in - 1];
    const uint8_t *const *data = &e->data->in[t->n_in - 2];
    enum vd_wtype type = type_of(e);
    uint64_t col = t->record % vd_num_segs(t->o.cols) * VD_SEG_ELEMS;
    const uint8_t *seg = data[0] + vd_wtype_row_bytes(type, part_col(w, col));
    if (t->o.act_block) {
        int8_t q[VD_SEG_ELEMS];
        float d[VD_SEG_ELEMS / VD_BLOCK_ELEMS];
        get_blocks(data[1], x->count, t->o.act_block, q, d);
        put_f32(e->out, 0, vd_num_dot_seg(type, seg, q, d, x->count * t->o.act_block));
    } else {
        float f[VD_SEG_ELEMS];
        get_f32s(data[1], x->count, f);
        put_f32(e->out, 0, vd_num_dot_seg_float(type, seg, f, x->count));
    }
}

static void eval_sum(const struct eval *e)
{
    float part[VD_PROGRAM_FF_MAX / VD_SEG_ELEMS];
    get_f32s(e->data->in[0], e->t->in[0].count, part);
    put_f32(e->out, 0, vd_num_sum_segs(part, e->t->in[0].count));
}

/* ---- attention ---- */

static void eval_rope(const struct eval *e)
{
    const struct vd_program *p = e->g->program;
    uint32_t i = (uint32_t)(e->t->record % p->head_dim);
    if (i >= 2 * p->n_rope) {
        put_f32(e->out, 0, get_f32(e->data->in[0], 0));
        return;
    }
    bool adjacent = p->rope_pairing == VD_ROPE_ADJACENT;
    uint32_t pair = adjacent ? i / 2 : i % p->n_rope;
    float x0 = get_f32(e->data->in[0], 0), x1 = get_f32(e->data->in[0], e->t->in[0].count - 1), s, c;
    unsigned table = vd_program_rope_table(p, e->t->o.layer);
    vd_num_sincos_turn(e->t->step * p->rope_steps[table][pair], &s, &c);
    vd_num_rope_pair(&x0, &x1, s * p->rope_scale[table], c * p->rope_scale[table]);
    bool second = adjacent ? i & 1 : i >= p->n_rope;
    put_f32(e->out, 0, second ? x1 : x0);
}

/* A block of a query. */
static void eval_qrow(const struct eval *e)
{
    float x[VD_BLOCK_ELEMS] = {0}, d;
    int8_t q[VD_BLOCK_ELEMS];
    get_f32s(e->data->in[0], VD_BLOCK_ELEMS, x);
    vd_num_quant8_spread(x, VD_BLOCK_ELEMS, q, &d);
    put_f32(e->out, 0, d);
    memcpy(e->out + 4, q, VD_BLOCK_ELEMS);
}

static void eval_krow(const struct eval *e)
{
    uint32_t hd = e->g->program->head_dim, blocks = hd / VD_BLOCK_ELEMS;
    float x[VD_PROGRAM_HEAD_DIM_MAX] = {0}, d[VD_PROGRAM_HEAD_DIM_MAX / VD_BLOCK_ELEMS];
    int8_t q[VD_PROGRAM_HEAD_DIM_MAX];
    get_f32s(e->data->in[0], hd, x);
    vd_num_quant8_spread(x, hd, q, d);
    for (uint32_t b = 0; b < blocks; b++)
        put_f32(e->out, b, d[b]);
    memcpy(e->out + 4 * blocks, q, hd);
}

static void eval_vrow(const struct eval *e)
{
    uint32_t hd = e->g->program->head_dim;
    float x[VD_PROGRAM_HEAD_DIM_MAX] = {0}, d;
    int8_t q[VD_PROGRAM_HEAD_DIM_MAX];
    get_f32s(e->data->in[0], hd, x);
    vd_num_quant8(x, hd, q, &d);
    put_f32(e->out, 0, d);
    memcpy(e->out + 4, q, hd);
}

/* The cache rows of a tile, ascending: those of the VD_IN_KV input, then the step's own; returns how many. */
static unsigned cache_rows(const struct eval *e, const uint8_t *row[VD_GRAPH_CHUNK])
{
    unsigned n = 0;
    for (unsigned i = 1; i < e->t->n_in; i++) {
        if (e->t->in[i].kind != VD_IN_KV) {
            row[n++] = e->data->in[i];
            continue;
        }
        for (unsigned j = 0; j < e->t->in[i].count; j++)
            row[n++] = e->data->row[j];
    }
    return n;
}

static void eval_score(const struct eval *e)
{
    uint32_t hd = e->g->program->head_dim, blocks = hd / VD_BLOCK_ELEMS;
    int8_t q[VD_PROGRAM_HEAD_DIM_MAX], k[VD_PROGRAM_HEAD_DIM_MAX];
    float dq[VD_PROGRAM_HEAD_DIM_MAX / VD_BLOCK_ELEMS], dk[VD_PROGRAM_HEAD_DIM_MAX / VD_BLOCK_ELEMS];
    const uint8_t *row[VD_GRAPH_CHUNK];
    cache_rows(e, row);
    get_blocks(e->data->in[0], blocks, VD_BLOCK_ELEMS, q, dq);
    get_f32s(row[0], blocks, dk);
    memcpy(k, row[0] + 4 * blocks, hd);
    float score = vd_num_score(q, dq, k, dk, hd, e->g->program->attn_scale), cap = e->g->program->attn_cap;
    put_f32(e->out, 0, cap == 0.0f ? score : vd_num_cap(score, cap));
}

/* The chunk's first lane; its keys need not start at lane 0 where a window does not. */
static unsigned first_lane(const struct eval *e)
{
    return vd_graph_chunk(&e->t->o, e->t->record).from % VD_GRAPH_CHUNK;
}

static void eval_chunk(const struct eval *e)
{
    const uint8_t *row[VD_GRAPH_CHUNK];
    float score[VD_GRAPH_CHUNK] = {0}, dv[VD_GRAPH_CHUNK] = {0};
    struct vd_chunk c;
    unsigned n = cache_rows(e, row), first = first_lane(e);
    get_f32s(e->data->in[0], n, score + first);
    for (unsigned j = 0; j < n; j++)
        dv[first + j] = get_f32(row[j], 0);
    vd_num_chunk(score, dv, first, n, &c);
    put_f32(e->out, 0, c.m);
    put_f32(e->out, 1, c.l);
    put_f32(e->out, 2, c.d);
    for (unsigned j = 0; j < VD_GRAPH_CHUNK; j++)
        vd_le16_store(e->out + 12 + 2 * j, (uint16_t)c.q[j]);
}

/* Lanes without a key weigh nothing, whatever the CHUNK record says. */
static void eval_chunk_v(const struct eval *e)
{
    uint32_t hd = e->g->program->head_dim;
    const uint8_t *row[VD_GRAPH_CHUNK];
    int8_t v[VD_GRAPH_CHUNK * VD_PROGRAM_HEAD_DIM_MAX];
    float o[VD_PROGRAM_HEAD_DIM_MAX];
    struct vd_chunk c = {0};
    unsigned n = cache_rows(e, row), first = first_lane(e);
    c.m = get_f32(e->data->in[0], 0);
    c.l = get_f32(e->data->in[0], 1);
    c.d = get_f32(e->data->in[0], 2);
    for (unsigned j = first; j < first + n; j++) {
        c.q[j] = (int16_t)vd_le16_load(e->data->in[0] + 12 + 2 * j);
        memcpy(v + j * hd, row[j - first] + 4, hd);
    }
    vd_num_chunk_v(&c, v, hd, hd, o);
    for (uint32_t i = 0; i < hd; i++)
        put_f32(e->out, i, o[i]);
}

static void eval_merge(const struct eval *e)
{
    uint32_t hd = e->g->program->head_dim;
    const uint8_t *const *in = e->data->in + (e->t->n_in - 2); /* CHUNK, CHUNK_V */
    float m = get_f32(in[0], 0), l = get_f32(in[0], 1), o[VD_PROGRAM_HEAD_DIM_MAX];
    get_f32s(in[1], hd, o);
    if (e->t->n_in == 3) {
        float mc = m, lc = l, oc[VD_PROGRAM_HEAD_DIM_MAX];
        memcpy(oc, o, hd * sizeof o[0]);
        m = get_f32(e->data->in[0], 0);
        l = get_f32(e->data->in[0], 1);
        get_f32s(e->data->in[0] + 8, hd, o);
        vd_num_merge(&m, &l, o, mc, lc, oc, hd);
    }
    put_f32(e->out, 0, m);
    put_f32(e->out, 1, l);
    for (uint32_t i = 0; i < hd; i++)
        put_f32(e->out, 2 + i, o[i]);
}

static void eval_attn(const struct eval *e)
{
    float l = get_f32(e->data->in[0], 1), y;
    float o = get_f32(e->data->in[0], 2 + e->t->record % e->g->program->head_dim);
    vd_num_attn_finish(l, &o, 1, &y);
    put_f32(e->out, 0, y);
}

/* ---- elementwise ---- */

static void eval_add(const struct eval *e)
{
    float x = get_f32(e->data->in[0], 0), o = get_f32(e->data->in[1], 0), y;
    vd_num_residual(&x, &o, 1, &y);
    put_f32(e->out, 0, y);
}

/* The weight is one row, of which the input is the part that holds the element. */
static void eval_bias(const struct eval *e)
{
    float x = get_f32(e->data->in[0], 0);
    put_f32(e->out, 0, x + get_f32(e->data->in[1], part_col(&e->t->in[1], e->t->record)));
}

static void eval_position(const struct eval *e)
{
    float y;
    vd_num_dequant(type_of(e), e->data->in[1], part_col(&e->t->in[1], e->t->record), 1, &y);
    put_f32(e->out, 0, get_f32(e->data->in[0], 0) + y);
}

static void eval_gelu(const struct eval *e)
{
    put_f32(e->out, 0, vd_num_gelu(get_f32(e->data->in[0], 0)));
}

static void eval_glu(const struct eval *e)
{
    float a = get_f32(e->data->in[0], 0), b = get_f32(e->data->in[1], 0), y;
    (e->t->o.kind == VD_OP_GEGLU ? vd_num_geglu : vd_num_swiglu)(&a, &b, 1, &y);
    put_f32(e->out, 0, y);
}

static void eval_cap(const struct eval *e)
{
    put_f32(e->out, 0, vd_num_cap(get_f32(e->data->in[0], 0), e->g->program->logit_cap));
}

/* ---- experts ---- */

static void eval_route(const struct eval *e)
{
    const struct vd_program *p = e->g->program;
    float x[VD_PROGRAM_EXPERTS_MAX], weight[VD_PROGRAM_USED_MAX];
    uint32_t expert[VD_PROGRAM_USED_MAX];
    get_f32s(e->data->in[0], p->n_experts, x);
    vd_num_route(x, p->n_experts, p->n_used, p->route_norm, expert, weight);
    for (uint32_t s = 0; s < p->n_used; s++) {
        vd_le32_store(e->out + VD_GRAPH_ROUTE_BYTES * s, expert[s]);
        put_f32(e->out + VD_GRAPH_ROUTE_BYTES * s, 1, weight[s]);
    }
}

static void eval_mix(const struct eval *e)
{
    uint32_t n = e->g->program->n_used;
    float weight[VD_PROGRAM_USED_MAX], y[VD_PROGRAM_USED_MAX];
    for (uint32_t s = 0; s < n; s++)
        weight[s] = get_f32(e->data->in[0] + VD_GRAPH_ROUTE_BYTES * s, 1);
    get_f32s(e->data->in[1], n, y);
    put_f32(e->out, 0, vd_num_mix(weight, y, n));
}

/* ---- what is done to logits ---- */

static void eval_penalty(const struct eval *e)
{
    const struct vd_graph_job *j = &e->g->job;
    uint32_t tokens[VD_PENALTY_WINDOW], n = e->t->n_in > 1 ? e->t->in[1].count : 0;
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = vd_le32_load(e->data->in[1] + 4 * i);
    uint32_t begin = e->t->step + 1 - n;
    struct vd_penalty_seen seen =
        vd_num_penalty_seen(&j->sampling, j->n_prompt, begin, e->t->step, tokens, (uint32_t)e->t->record);
    put_f32(e->out, 0, vd_num_penalty(&j->sampling, seen, get_f32(e->data->in[0], 0)));
}

/* Of VD_IN_BIAS and VD_IN_MASK. */
static struct vd_bytes get_table(const uint8_t *p)
{
    return (struct vd_bytes){p + 4, vd_le32_load(p)};
}

static struct vd_bytes get_text(const uint8_t *p)
{
    return (struct vd_bytes){p + 2, vd_le16_load(p)};
}

static void eval_logit_bias(const struct eval *e)
{
    struct vd_bytes table = get_table(e->data->in[1]);
    put_f32(e->out, 0, vd_bias_apply(table, (uint32_t)e->t->record, get_f32(e->data->in[0], 0)));
}

static void eval_mask_state(const struct eval *e)
{
    struct vd_automaton a;
    struct vd_automaton_state s = VD_AUTOMATON_START;
    if (e->t->n_in > 0) {
        s.at = VD_AUTOMATON_DEAD;
        if (vd_le32_load(e->data->in[1]) < e->g->program->vocab &&
            vd_automaton_open(&a, get_table(e->data->in[2]))) {
            s = vd_automaton_state_load(&a, e->data->row[0]);
            vd_automaton_walk(&a, &s, get_text(e->data->in[3]));
        }
    }
    vd_automaton_state_store(e->out, &s);
}

static bool is_stop(const struct vd_program *p, uint32_t id)
{
    for (uint32_t i = 0; i < p->n_stop; i++)
        if (p->stop[i] == id)
            return true;
    return false;
}

static void eval_mask(const struct eval *e)
{
    struct vd_automaton a;
    bool allowed = false;
    if (vd_automaton_open(&a, get_table(e->data->in[2]))) {
        struct vd_automaton_state s = vd_automaton_state_load(&a, e->data->in[1]);
        allowed = is_stop(e->g->program, (uint32_t)e->t->record)
                      ? vd_automaton_may_end(&a, &s)
                      : vd_automaton_walk(&a, &s, get_text(e->data->in[3]));
    }
    if (allowed)
        put_f32(e->out, 0, get_f32(e->data->in[0], 0));
    else
        vd_le32_store(e->out, VD_SAMPLE_EXCLUDED_BITS);
}

/* ---- sampling ---- */

/* A MAX or GMAX record: u32 key, u32 id, u32 fail. A failed one is (0, 2^32 - 1, 1). */
struct top {
    uint32_t key, id, fail;
};

static struct top get_top(const uint8_t *p)
{
    return (struct top){vd_le32_load(p), vd_le32_load(p + 4), vd_le32_load(p + 8)};
}

static void put_top(uint8_t *p, struct top m)
{
    vd_le32_store(p, m.fail ? 0 : m.key);
    vd_le32_store(p + 4, m.fail ? VD_SAMPLE_NONE : m.id);
    vd_le32_store(p + 8, m.fail != 0);
}

/* The logit of a key (vd_num_sample_key's inverse). */
static float key_logit(uint32_t key)
{
    return vd_f32_from_bits(key >> 31 ? key & 0x7FFFFFFF : ~key);
}

static bool finite32(float x)
{
    return (vd_f32_bits(x) & 0x7F800000) != 0x7F800000;
}

static float temp_of(const struct eval *e)
{
    return vd_num_sample_temp(e->g->job.sampling.temp_micro);
}

static struct vd_sample_cut get_cut(const uint8_t *p)
{
    return (struct vd_sample_cut){vd_le32_load(p), vd_le32_load(p + 4)};
}

static void eval_max(const struct eval *e)
{
    float x[VD_SAMPLE_TILE];
    struct vd_sample_max m;
    uint32_t n = e->t->in[0].count;
    get_f32s(e->data->in[0], n, x);
    vd_num_sample_max_tile(x, (uint32_t)e->t->in[0].first, n, &m);
    bool none = m.id == VD_SAMPLE_NONE;
    put_top(e->out, (struct top){none ? 0 : vd_num_sample_key(m.x), m.id, m.bad});
}

/* A tile that failed fails the whole; so does a mask that leaves nothing, and a maximum that the temperature
 * lifts out of range. */
static void eval_gmax(const struct eval *e)
{
    struct top best = get_top(e->data->in[0]);
    for (uint32_t i = 1; i < e->t->in[0].count; i++) {
        struct top m = get_top(e->data->in[0] + 12 * i);
        if (m.fail || (!best.fail && (m.key > best.key || (m.key == best.key && m.id < best.id))))
            best = m;
    }
    if (best.id == VD_SAMPLE_NONE ||
        (e->g->job.sampling.temp_micro != 0 && !finite32(key_logit(best.key) / temp_of(e))))
        best.fail = 1;
    put_top(e->out, best);
}

/* The logits of input 0 and their weights under the GMAX record of input 1. False if the step failed, or
 * (which no honest GMAX allows) a logit is not finite or above the maximum: the weights would not be defined.
 */
static bool get_weights(const struct eval *e, const uint8_t *logits, uint32_t n, const uint8_t *gmax,
                        float *x, uint64_t *w)
{
    struct top max = get_top(gmax);
    float temp = temp_of(e), x_max = key_logit(max.key);
    if (max.fail || !finite32(x_max) || !finite32(x_max / temp))
        return false;
    get_f32s(logits, n, x);
    for (uint32_t i = 0; i < n; i++)
        if (!vd_num_sample_excluded(x[i]) && (!finite32(x[i]) || x[i] > x_max))
            return false;
    if (w)
        vd_num_sample_weights_tile(x, n, temp, x_max, w);
    return true;
}

static void eval_hist(const struct eval *e)
{
    const struct vd_tile *t = e->t;
    float x[VD_SAMPLE_TILE];
    uint64_t w[VD_SAMPLE_TILE], bin[VD_SAMPLE_BINS] = {0};
    uint32_t n = t->in[0].count, level = t->o.level;
    uint32_t prefix = level ? vd_le32_load(e->data->in[2]) : 0;
    struct vd_sample_cut in = VD_SAMPLE_CUT_ALL;
    if (t->o.last_cut != VD_GRAPH_NO_OP)
        in = get_cut(e->data->in[t->n_in - 1]);
    if (get_weights(e, e->data->in[0], n, e->data->in[1], x, t->o.by_mass ? w : NULL))
        vd_num_sample_hist_tile(x, t->o.by_mass ? w : NULL, (uint32_t)t->in[0].first, n, in, level, prefix,
                                bin);
    for (unsigned b = 0; b < VD_SAMPLE_BINS; b++)
        vd_le64_store(e->out + 8 * b, bin[b]);
}

/* u32 prefix, u64 remaining. Level 0 knows the target: k, or p of the whole mass, which is the sum of its
 * bins. When the bins do not reach the target (a failed step) the record is zero. */
static void eval_pick(const struct eval *e)
{
    const struct vd_sampling *s = &e->g->job.sampling;
    uint64_t bin[VD_SAMPLE_BINS] = {0}, mass = 0, need;
    uint32_t prefix = 0;
    for (uint32_t i = 0; i < e->t->in[0].count; i++)
        for (unsigned b = 0; b < VD_SAMPLE_BINS; b++)
            bin[b] += vd_le64_load(e->data->in[0] + 8 * (VD_SAMPLE_BINS * (size_t)i + b));
    for (unsigned b = 0; b < VD_SAMPLE_BINS; b++)
        mass += bin[b];
    if (e->t->o.level > 0) {
        prefix = vd_le32_load(e->data->in[1]);
        need = vd_le64_load(e->data->in[1] + 4);
    } else {
        need = e->t->o.by_mass ? vd_num_sample_top_p_target(mass, s->top_p_micro) : s->top_k;
    }
    uint32_t b = vd_num_sample_pick(bin, &need);
    vd_le32_store(e->out, b < VD_SAMPLE_BINS ? prefix << 4 | b : 0);
    vd_le64_store(e->out + 4, b < VD_SAMPLE_BINS ? need : 0);
}

static void eval_tie(const struct eval *e)
{
    float x[VD_SAMPLE_TILE];
    uint32_t n = e->t->in[0].count, ties = 0;
    if (get_weights(e, e->data->in[0], n, e->data->in[1], x, NULL))
        ties = vd_num_sample_ties_tile(x, n, vd_le32_load(e->data->in[2]));
    vd_le64_store(e->out, ties);
}

/* Which of the entries with the last PICK's key is the last to survive (from 1); 0 if the step failed. All of
 * them have one weight, so by mass it is the remaining mass divided by that, rounded up. */
static uint64_t tie_rank(const struct eval *e)
{
    uint32_t key = vd_le32_load(e->data->in[1]);
    uint64_t remaining = vd_le64_load(e->data->in[1] + 4), each = 1;
    uint8_t logit[4];
    float x;
    vd_le32_store(logit, vd_f32_bits(key_logit(key)));
    if (!get_weights(e, logit, 1, e->data->in[0], &x, &each))
        return 0;
    if (!e->t->o.by_mass)
        return remaining;
    return each ? remaining / each + (remaining % each != 0) : 0;
}

/* The tile that holds the rank-th tie, and its rank in there. */
static uint32_t tie_tile(const struct eval *e, uint64_t *rank)
{
    uint32_t tiles = e->t->in[2].count;
    for (uint32_t i = 0; i < tiles; i++) {
        uint64_t ties = vd_le64_load(e->data->in[2] + 8 * i);
        if (*rank <= ties)
            return i;
        *rank -= ties;
    }
    *rank = 0;
    return 0;
}

static void eval_threshold(const struct eval *e)
{
    float x[VD_SAMPLE_TILE];
    uint32_t n = e->t->in[3].count, key = vd_le32_load(e->data->in[1]), id = VD_SAMPLE_NONE;
    uint64_t rank = tie_rank(e);
    tie_tile(e, &rank);
    if (rank >= 1 && rank <= n) {
        get_f32s(e->data->in[3], n, x);
        id = vd_num_sample_tie_find(x, (uint32_t)e->t->in[3].first, n, key, (uint32_t)rank);
    }
    vd_le32_store(e->out, id == VD_SAMPLE_NONE ? 0 : key);
    vd_le32_store(e->out + 4, id == VD_SAMPLE_NONE ? 0 : id);
}

static void eval_mass(const struct eval *e)
{
    float x[VD_SAMPLE_TILE];
    uint64_t w[VD_SAMPLE_TILE], mass = 0;
    uint32_t n = e->t->in[0].count;
    struct vd_sample_cut in = VD_SAMPLE_CUT_ALL;
    if (e->t->o.last_cut != VD_GRAPH_NO_OP)
        in = get_cut(e->data->in[2]);
    if (get_weights(e, e->data->in[0], n, e->data->in[1], x, w))
        mass =
            vd_num_sample_mass_tile(x, w, (uint32_t)e->t->in[0].first, n, in, e->g->job.sampling.min_p_micro);
    vd_le64_store(e->out, mass);
}

static uint64_t r64(const struct eval *e)
{
    const struct vd_sampling *s = &e->g->job.sampling;
    struct vd_sha256 sha;
    struct vd_hash h;
    vd_sha256_init_tag(&sha, "veridem/sample");
    vd_sha256_u64(&sha, s->seed);
    vd_sha256_u32(&sha, s->choice);
    vd_sha256_u32(&sha, e->t->step + 1 - e->g->job.n_prompt);
    vd_sha256_final(&sha, &h);
    return vd_le64_load(h.b);
}

/* u32 tile, u64 rest: the draw falls into that tile, `rest` above the mass of the tiles before. */
static void eval_draw(const struct eval *e)
{
    uint32_t tiles = e->t->in[0].count, i;
    uint64_t mass = 0;
    for (i = 0; i < tiles; i++)
        mass += vd_le64_load(e->data->in[0] + 8 * i);
    uint64_t r = vd_num_mulhi64(r64(e), mass);
    for (i = 0; i < tiles; i++) {
        mass = vd_le64_load(e->data->in[0] + 8 * i);
        if (r < mass)
            break;
        r -= mass;
    }
    vd_le32_store(e->out, i < tiles ? i : 0);
    vd_le64_store(e->out + 4, i < tiles ? r : 0);
}

static uint32_t drawn_token(const struct eval *e)
{
    const struct vd_tile *t = e->t;
    float x[VD_SAMPLE_TILE];
    uint64_t w[VD_SAMPLE_TILE];
    const struct vd_graph_input *logits = &t->in[t->n_in - 1];
    struct vd_sample_cut in = VD_SAMPLE_CUT_ALL;
    if (t->o.last_cut != VD_GRAPH_NO_OP)
        in = get_cut(e->data->in[2]);
    if (!get_weights(e, e->data->in[t->n_in - 1], logits->count, e->data->in[0], x, w))
        return VD_SAMPLE_FAIL;
    return vd_num_sample_draw_tile(x, w, (uint32_t)logits->first, logits->count, in,
                                   e->g->job.sampling.min_p_micro, vd_le64_load(e->data->in[1] + 4));
}

static void eval_token(const struct eval *e)
{
    struct top max = get_top(e->data->in[0]);
    uint32_t token = max.id;
    if (max.fail)
        token = VD_SAMPLE_FAIL;
    else if (e->g->job.sampling.temp_micro != 0)
        token = drawn_token(e);
    vd_le32_store(e->out, token);
    vd_le32_store(e->out + 4, vd_graph_stop(e->g, e->t->step, token));
}

/* ---- pooling ---- */

static void eval_pool(const struct eval *e)
{
    const uint8_t *own = e->data->in[e->t->n_in - 1];
    if (e->g->job.sampling.pooling == VD_POOLING_CLS)
        own = e->data->row[0] + 4 * (e->t->record * VD_GRAPH_POOL_ELEMS % VD_GRAPH_ROW_LEAF);
    for (uint32_t i = 0; i < VD_GRAPH_POOL_ELEMS; i++) {
        float y = get_f32(own, i);
        put_f32(e->out, i, e->t->n_in == 2 ? get_f32(e->data->row[0], i) + y : y);
    }
}

static void eval_l2(const struct eval *e)
{
    float part[VD_PROGRAM_WIDTH_MAX / VD_SEG_ELEMS];
    get_f32s(e->data->in[0], e->t->in[0].count, part);
    put_f32(e->out, 0, vd_num_l2_scale(part, e->t->in[0].count));
}

static void eval_vector(const struct eval *e)
{
    size_t at = e->t->o.src_pool ? e->t->record % VD_GRAPH_POOL_ELEMS : 0;
    put_f32(e->out, 0, get_f32(e->data->in[0], at) * get_f32(e->data->in[1], 0));
}

/* ---- */

static void (*const eval_of[VD_OP_KINDS])(const struct eval *) = {
    [VD_OP_EMBED] = eval_embed,
    [VD_OP_NORM_PART] = eval_norm_part,
    [VD_OP_NORM_SCALE] = eval_norm_scale,
    [VD_OP_NORM_MUL] = eval_norm_mul,
    [VD_OP_HEAD_SCALE] = eval_head_scale,
    [VD_OP_HEAD_MUL] = eval_norm_mul,
    [VD_OP_QUANT] = eval_quant,
    [VD_OP_QUANT256] = eval_quant,
    [VD_OP_PART] = eval_part,
    [VD_OP_SUM] = eval_sum,
    [VD_OP_BIAS] = eval_bias,
    [VD_OP_ROPE] = eval_rope,
    [VD_OP_QROW] = eval_qrow,
    [VD_OP_KROW] = eval_krow,
    [VD_OP_VROW] = eval_vrow,
    [VD_OP_SCORE] = eval_score,
    [VD_OP_CHUNK] = eval_chunk,
    [VD_OP_CHUNK_V] = eval_chunk_v,
    [VD_OP_MERGE] = eval_merge,
    [VD_OP_ATTN] = eval_attn,
    [VD_OP_ADD] = eval_add,
    [VD_OP_SWIGLU] = eval_glu,
    [VD_OP_GEGLU] = eval_glu,
    [VD_OP_GELU] = eval_gelu,
    [VD_OP_POSITION] = eval_position,
    [VD_OP_MEAN_PART] = eval_mean_part,
    [VD_OP_MEAN] = eval_mean,
    [VD_OP_VAR_PART] = eval_var_part,
    [VD_OP_LN_MUL] = eval_ln_mul,
    [VD_OP_ROUTE] = eval_route,
    [VD_OP_MIX] = eval_mix,
    [VD_OP_CAP] = eval_cap,
    [VD_OP_PENALTY] = eval_penalty,
    [VD_OP_LOGIT_BIAS] = eval_logit_bias,
    [VD_OP_MASK_STATE] = eval_mask_state,
    [VD_OP_MASK] = eval_mask,
    [VD_OP_MAX] = eval_max,
    [VD_OP_GMAX] = eval_gmax,
    [VD_OP_HIST] = eval_hist,
    [VD_OP_PICK] = eval_pick,
    [VD_OP_TIE] = eval_tie,
    [VD_OP_THRESHOLD] = eval_threshold,
    [VD_OP_MASS] = eval_mass,
    [VD_OP_DRAW] = eval_draw,
    [VD_OP_TOKEN] = eval_token,
    [VD_OP_POOL] = eval_pool,
    [VD_OP_L2] = eval_l2,
    [VD_OP_VECTOR] = eval_vector,
};

void vd_tile_init_op(struct vd_tile *t, const struct vd_graph *g, uint32_t step, uint32_t unit, uint32_t op,
                     const struct vd_graph_op *o, uint64_t record)
{
    t->step = step;
    t->unit = unit;
    t->op = op;
    t->record = record;
    t->o = *o;
    t->n_in = vd_graph_inputs(g, step, o, record, t->in);
}

void vd_tile_init(struct vd_tile *t, const struct vd_graph *g, uint32_t step, uint32_t unit, uint32_t op,
                  uint64_t record)
{
    struct vd_graph_op o;
    vd_graph_op(g, step, unit, op, &o);
    vd_tile_init_op(t, g, step, unit, op, &o, record);
}

/* The row of a slot's expert. No honest ROUTE names an expert that is not there; the last stands in. */
static uint32_t expert_row(const struct vd_tile *t, const struct vd_graph *g, const uint8_t *route)
{
    struct vd_graph_slot s = vd_graph_slot(&t->o, (uint32_t)(t->record / vd_num_segs(t->o.cols)));
    uint32_t expert = vd_le32_load(route + VD_GRAPH_ROUTE_BYTES * s.slot), n = g->program->n_experts;
    return (expert < n ? expert : n - 1) * s.expert_rows + s.row;
}

/* EMBED: a token that is not in the vocabulary reads the last row (no honest worker accepts such a prompt,
 * but the program must be total). PART: an expert's row. THRESHOLD, TOKEN: the tile of logits, of which there
 * are never none. */
void vd_tile_resolve(struct vd_tile *t, const struct vd_graph *g, unsigned i, const struct vd_tile_data *data)
{
    assert(t->in[i].dynamic);
    struct eval e = {t, g, data, NULL};
    uint32_t tiles = (t->o.cols + VD_SAMPLE_TILE - 1) / VD_SAMPLE_TILE, tile;
    t->in[i].dynamic = false;
    if (t->o.kind == VD_OP_EMBED) {
        uint32_t token = vd_le32_load(data->in[0]), vocab = g->program->vocab;
        t->in[i].row = token < vocab ? token : vocab - 1;
        return;
    }
    if (t->o.kind == VD_OP_MASK_STATE) {
        uint32_t token = vd_le32_load(data->in[1]), vocab = g->program->vocab;
        t->in[i].row = token < vocab ? token : vocab - 1;
        return;
    }
    if (t->o.kind == VD_OP_PART) {
        t->in[i].row = expert_row(t, g, data->in[0]);
        return;
    }
    if (t->o.kind == VD_OP_THRESHOLD) {
        uint64_t rank = tie_rank(&e);
        tile = tie_tile(&e, &rank);
    } else {
        tile = vd_le32_load(data->in[1]);
    }
    if (tile >= tiles)
        tile = tiles - 1;
    t->in[i].first = (uint64_t)tile * VD_SAMPLE_TILE;
    t->in[i].count = t->o.cols - (uint32_t)t->in[i].first;
    if (t->in[i].count > VD_SAMPLE_TILE)
        t->in[i].count = VD_SAMPLE_TILE;
}

void vd_tile_eval(const struct vd_tile *t, const struct vd_graph *g, const struct vd_tile_data *data,
                  uint8_t *out)
{
    struct eval e = {t, g, data, out};
    eval_of[t->o.kind](&e);
}
