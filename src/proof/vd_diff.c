/* All unit hashes of both runs are in memory, and the first that differs is the place: no search is needed.
 * (Nor would a binary one do: a quantiser may swallow a difference, so that units behind it are equal again.)
 * Then both units are computed operator by operator, and compared byte by byte. */
#include "vd_diff.h"

#include "vd_unit.h"
#include "vd_num.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- values ---- */

/* How the record's bytes are cut into values, at `offset`: their size, and whether it is a float. */
static uint32_t value_at(const struct vd_graph_op *op, const struct vd_program *p, uint32_t offset,
                         bool *is_float)
{
    *is_float = false;
    switch (op->kind) {
    case VD_OP_QUANT:
    case VD_OP_QUANT256:
    case VD_OP_QROW:
    case VD_OP_VROW:
        *is_float = offset < 4;
        return offset < 4 ? 4 : 1;
    case VD_OP_KROW:
        *is_float = offset < p->head_dim / 32 * 4;
        return *is_float ? 4 : 1;
    case VD_OP_CHUNK:
        *is_float = offset < 12;
        return offset < 12 ? 4 : 2;
    case VD_OP_ROUTE:
        *is_float = offset % 8 >= 4;
        return 4;
    case VD_OP_HIST:
    case VD_OP_TIE:
    case VD_OP_MASS:
        return 8;
    case VD_OP_MASK_STATE:
        return 2;
    case VD_OP_PICK:
    case VD_OP_DRAW:
        return offset < 4 ? 4 : 8;
    case VD_OP_MAX:
    case VD_OP_GMAX:
    case VD_OP_THRESHOLD:
    case VD_OP_TOKEN:
        return 4;
    case VD_OP_EMBED:
    case VD_OP_NORM_PART:
    case VD_OP_NORM_SCALE:
    case VD_OP_NORM_MUL:
    case VD_OP_HEAD_SCALE:
    case VD_OP_HEAD_MUL:
    case VD_OP_PART:
    case VD_OP_SUM:
    case VD_OP_BIAS:
    case VD_OP_ROPE:
    case VD_OP_SCORE:
    case VD_OP_CHUNK_V:
    case VD_OP_MERGE:
    case VD_OP_ATTN:
    case VD_OP_ADD:
    case VD_OP_SWIGLU:
    case VD_OP_GEGLU:
    case VD_OP_MIX:
    case VD_OP_GELU:
    case VD_OP_POSITION:
    case VD_OP_MEAN_PART:
    case VD_OP_MEAN:
    case VD_OP_VAR_PART:
    case VD_OP_LN_MUL:
    case VD_OP_CAP:
    case VD_OP_PENALTY:
    case VD_OP_LOGIT_BIAS:
    case VD_OP_MASK:
    case VD_OP_POOL:
    case VD_OP_L2:
    case VD_OP_VECTOR:
        break;
    }
    *is_float = true;
    return 4;
}

/* Where the value begins that holds this byte of a record. */
static uint32_t value_start(const struct vd_graph_op *op, const struct vd_program *p, uint32_t byte)
{
    bool is_float;
    uint32_t at = 0, n;
    while (at + (n = value_at(op, p, at, &is_float)) <= byte)
        at += n;
    return at;
}

void vd_diff_value_text(const struct vd_diff *d, unsigned side, char out[VD_DIFF_VALUE_TEXT_MAX])
{
    const uint8_t *v = d->value[side];
    switch (d->n_value_bytes) {
    case 1:
        snprintf(out, VD_DIFF_VALUE_TEXT_MAX, "%d", (int8_t)v[0]);
        return;
    case 2:
        snprintf(out, VD_DIFF_VALUE_TEXT_MAX, "%d", (int16_t)vd_le16_load(v));
        return;
    case 8:
        snprintf(out, VD_DIFF_VALUE_TEXT_MAX, "%" PRIu64, vd_le64_load(v));
        return;
    }
    uint32_t bits = vd_le32_load(v);
    if (d->is_float)
        snprintf(out, VD_DIFF_VALUE_TEXT_MAX, "%.9g (bits %08" PRIX32 ")", (double)vd_f32_from_bits(bits),
                 bits);
    else
        snprintf(out, VD_DIFF_VALUE_TEXT_MAX, "%" PRIu32, bits);
}

/* The first difference of an operator's records; false: there is none. */
static bool compare_records(struct vd_diff *d, const struct vd_program *p, uint32_t op,
                            const struct vd_graph_op *what, const uint8_t *a, const uint8_t *b)
{
    uint64_t n = what->n_records * what->record_bytes, i = 0;
    while (i < n && a[i] == b[i])
        i++;
    if (i == n)
        return false;
    uint32_t byte = (uint32_t)(i % what->record_bytes);
    d->op = op;
    d->what = *what;
    d->record = i / what->record_bytes;
    d->offset = value_start(what, p, byte);
    d->n_value_bytes = value_at(what, p, d->offset, &d->is_float);
    i = d->record * what->record_bytes + d->offset;
    memcpy(d->value[0], a + i, d->n_value_bytes);
    memcpy(d->value[1], b + i, d->n_value_bytes);
    return true;
}

/* ---- the unit's outputs alone ---- */

struct outputs {
    const struct vd_trace *t;
    uint32_t step, unit;
    struct vd_graph_op op[VD_GRAPH_OUTS_MAX]; /* no records: the unit has no such row */
    uint8_t *row[VD_GRAPH_OUTS_MAX];
};

static void keep_outputs(void *arg, uint32_t step, uint32_t unit, const struct vd_graph_rows *rows)
{
    struct outputs *o = arg;
    for (unsigned i = 0; step == o->step && unit == o->unit && i < VD_GRAPH_OUTS_MAX; i++)
        if (o->op[i].n_records)
            vd_unit_records(&o->op[i], rows, o->row[i]);
}

static void keep_pooled(void *arg, uint32_t step, const float *sum, const float *vector)
{
    struct outputs *o = arg;
    for (unsigned i = 0; step == o->step && o->unit == vd_graph_head_unit(&o->t->graph) && i < 2; i++)
        if (o->op[i].n_records)
            vd_unit_records(&o->op[i],
                            &(struct vd_graph_rows){.x = o->op[i].kind == VD_OP_POOL ? sum : vector},
                            o->row[i]);
}

static void keep_no_token(void *arg, uint32_t step, uint32_t token, enum vd_stop stop)
{
    (void)arg, (void)step, (void)token, (void)stop;
}

static enum vd_err read_outputs(struct vd_trace *t, struct outputs *o, const uint8_t *ops, unsigned n,
                                struct vd_error *err)
{
    struct vd_trace_sink sink = {o, keep_outputs, keep_no_token, keep_pooled, NULL};
    for (unsigned i = 0; i < n; i++) {
        if (ops[i] != VD_GRAPH_NO_OP)
            vd_graph_op(&t->graph, o->step, o->unit, ops[i], &o->op[i]);
        o->row[i] = calloc(1, (size_t)o->op[i].n_records * o->op[i].record_bytes + 1);
        if (!o->row[i])
            return vd_error_set(err, VD_ENOMEM, "no memory for a unit's outputs");
    }
    if (o->unit < vd_graph_head_unit(&t->graph) || vd_graph_pools(&t->graph))
        return t->source.run(t->source.arg, vd_graph_steps_for(&t->graph, o->step), &sink, err);
    memcpy(o->row[n - 1], t->token_record + (size_t)VD_TOKEN_RECORD_BYTES * o->step, VD_TOKEN_RECORD_BYTES);
    return VD_OK;
}

static enum vd_err compare_outputs(struct vd_trace *a, struct vd_trace *b, struct vd_diff *d,
                                   struct vd_error *err)
{
    struct outputs o[2] = {{.t = a, .step = d->step, .unit = d->unit},
                           {.t = b, .step = d->step, .unit = d->unit}};
    uint8_t ops[VD_GRAPH_OUTS_MAX];
    unsigned n = vd_graph_outs(&a->graph, d->step, d->unit, ops);
    enum vd_err e = read_outputs(a, &o[0], ops, n, err);
    if (e == VD_OK)
        e = read_outputs(b, &o[1], ops, n, err);
    for (unsigned i = 0; e == VD_OK && i < n; i++) {
        const struct vd_graph_op *x = &o[0].op[i], *y = &o[1].op[i];
        if (x->n_records == 0 || x->n_records != y->n_records || x->record_bytes != y->record_bytes)
            continue;
        if (compare_records(d, a->graph.program, ops[i], x, o[0].row[i], o[1].row[i]))
            break;
    }
    for (unsigned i = 0; i < n; i++) {
        free(o[0].row[i]);
        free(o[1].row[i]);
    }
    return e;
}

/* ---- the whole ---- */

/* Do addresses mean the same in both? Weight types may differ, and with them which quantisers are there. */
static bool same_shape(const struct vd_graph *a, const struct vd_graph *b)
{
    const struct vd_program *p = a->program, *q = b->program;
    return p->kind == q->kind && a->job.n_steps == b->job.n_steps && a->job.n_prompt == b->job.n_prompt &&
           p->n_layers == q->n_layers && p->width == q->width && p->n_heads == q->n_heads &&
           p->n_kv_heads == q->n_kv_heads && p->head_dim == q->head_dim && p->ff_width == q->ff_width &&
           p->vocab == q->vocab && p->n_experts == q->n_experts && p->n_used == q->n_used &&
           p->window == q->window;
}

static enum vd_err compare_operators(const struct vd_trace *a, const struct vd_trace *b, struct vd_diff *d,
                                     struct vd_error *err)
{
    const struct vd_trace_unit_data *u = &a->u, *w = &b->u;
    for (uint32_t o = 0; o < u->n_ops && o < w->n_ops; o++) {
        const struct vd_graph_op *x = &u->op[o], *y = &w->op[o];
        if (x->n_records == 0 || y->n_records == 0)
            continue; /* absent in one: what reads the other instead will differ */
        if (x->n_records != y->n_records || x->record_bytes != y->record_bytes)
            return vd_error_set(err, VD_EUSE, "%s has other records in the two models", vd_op_name(x->kind));
        if (compare_records(d, a->graph.program, o, x, u->records[o], w->records[o]))
            return VD_OK;
    }
    return vd_error_set(err, VD_EINTERNAL, "step %u, unit %u: other hashes of the same records", d->step,
                        d->unit);
}

/* VD_OK with *foreign set: this machine's rows are not src/num's. */
static enum vd_err load(struct vd_trace *t, const struct vd_diff *d, bool *foreign, struct vd_error *err)
{
    enum vd_err e = vd_trace_load(t, d->step, d->unit, err);
    *foreign = e == VD_EINTERNAL;
    return *foreign ? VD_OK : e;
}

/* The first unit of a group that differs. */
static enum vd_err find_member(struct vd_trace *a, struct vd_trace *b, uint32_t group, struct vd_diff *out,
                               struct vd_error *err)
{
    uint32_t k = 0;
    enum vd_err e = vd_trace_hold(a, group, 1, err);
    if (e == VD_OK)
        e = vd_trace_hold(b, group, 1, err);
    if (e != VD_OK)
        return e;
    while (vd_hash_eq(vd_trace_group_of(a, group) + k, vd_trace_group_of(b, group) + k))
        k++;
    out->differ = true;
    vd_graph_at(&a->graph, (struct vd_graph_place){group, k}, &out->step, &out->unit);
    return VD_OK;
}

enum vd_err vd_diff_find(struct vd_trace *a, struct vd_trace *b, struct vd_diff *out, struct vd_error *err)
{
    *out = (struct vd_diff){0};
    if (!same_shape(&a->graph, &b->graph))
        return vd_error_set(err, VD_EUSE,
                            "the two models have not the same sizes: no position of one is one of the other");
    uint32_t group = 0, n_groups = vd_graph_groups(&a->graph);
    while (group < n_groups && vd_hash_eq(&a->group[group], &b->group[group]))
        group++;
    if (group == n_groups)
        return VD_OK;
    enum vd_err e = find_member(a, b, group, out, err);
    if (e == VD_OK)
        e = load(a, out, &out->foreign[0], err);
    if (e == VD_OK)
        e = load(b, out, &out->foreign[1], err);
    if (e != VD_OK)
        return e;
    return out->foreign[0] || out->foreign[1] ? compare_outputs(a, b, out, err)
                                              : compare_operators(a, b, out, err);
}
