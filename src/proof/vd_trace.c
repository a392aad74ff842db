/* Two runs of the source at most: one hashes every unit, the other keeps the rows that one unit can read.
 * Then the unit's operators are computed in order, record by record, by the very function that the referee
 * uses: what the tracer commits to is by construction what the referee will find.
 *
 * Of a long job not everything is kept, and what a move needs of the rest is made again by a third or fourth
 * run: the unit hashes of old steps, and the rows of old steps for the opening of a tile. While a unit is
 * computed, rows come from the source's cache, a chunk at a time: no tile reads of two. */
#include "vd_trace.h"

#include "vd_unit.h"
#include "vd_num.h"
#include "vd_tile.h"

#include <assert.h>
#include <stdlib.h>

enum {
    MEMORY_MAX = 1 << 30, /* of one unit's records, or of the hashes */
    CHUNK = 64            /* no tile reads of more steps */
};

/* ---- all units ---- */

static void hash_row(void *arg, uint32_t step, uint32_t unit, const struct vd_graph_rows *rows)
{
    struct vd_trace *t = arg;
    struct vd_hash salt = vd_trace_salt(t->job_salt, step);
    *vd_trace_unit_of(t, step, unit) = vd_unit_rows(&t->graph, &salt, step, unit, rows, NULL);
}

static void hash_token(void *arg, uint32_t step, uint32_t token, enum vd_stop stop)
{
    struct vd_trace *t = arg;
    struct vd_hash salt = vd_trace_salt(t->job_salt, step);
    *vd_trace_unit_of(t, step, vd_graph_head_unit(&t->graph)) =
        vd_unit_head(&t->graph, &salt, step, token, stop, vd_trace_mask_state(t, step));
    vd_le32_store(t->token_record + (size_t)VD_TOKEN_RECORD_BYTES * step, token);
    vd_le32_store(t->token_record + (size_t)VD_TOKEN_RECORD_BYTES * step + 4, stop);
}

static void hash_pooled(void *arg, uint32_t step, const float *sum, const float *vector)
{
    struct vd_trace *t = arg;
    struct vd_hash salt = vd_trace_salt(t->job_salt, step);
    *vd_trace_unit_of(t, step, vd_graph_head_unit(&t->graph)) =
        vd_unit_pool(&t->graph, &salt, step, sum, vector, vector ? t->pool_outs : NULL);
}

static void hash_group(struct vd_trace *t, uint32_t i)
{
    struct vd_hash root = vd_merkle_root(vd_trace_group_of(t, i), vd_graph_members(&t->graph, i));
    t->group[i] = vd_trace_step(i, &root);
}

static void hash_commit(struct vd_trace *t, uint32_t s)
{
    const struct vd_graph *g = &t->graph;
    t->commit[s] =
        vd_commit_leaf(s, vd_trace_unit_of(t, s, vd_graph_last_block(g)),
                       vd_graph_has_head(g, s) ? vd_trace_unit_of(t, s, vd_graph_head_unit(g)) : NULL);
}

static void hash_roots(struct vd_trace *t)
{
    t->state_root = vd_merkle_root(t->group, vd_graph_groups(&t->graph));
    t->commit_root = vd_merkle_root(t->commit, t->graph.job.n_steps);
}

void vd_trace_hash_groups(struct vd_trace *t)
{
    for (uint32_t i = 0; i < vd_graph_groups(&t->graph); i++)
        hash_group(t, i);
    for (uint32_t s = 0; s < t->graph.job.n_steps; s++)
        hash_commit(t, s);
    hash_roots(t);
}

/* Whether old groups make room for new ones. */
static bool forgets(const struct vd_trace *t)
{
    return t->n_held < vd_graph_groups(&t->graph);
}

/* A group of a decoder is a step; its place may be taken from here on. */
static void hash_done(void *arg, uint32_t step)
{
    struct vd_trace *t = arg;
    if (!forgets(t))
        return;
    hash_group(t, step);
    hash_commit(t, step);
}

/* A run that holds what comes last, and does for the loaded unit what `sink` says. */
static enum vd_err run_to(struct vd_trace *t, uint32_t n_steps, const struct vd_trace_sink *sink,
                          struct vd_error *err)
{
    enum vd_err e = t->source.run(t->source.arg, n_steps, sink, err);
    if (forgets(t))
        t->held_end = e == VD_OK ? n_steps : 0;
    return e;
}

static void rest(struct vd_trace *t)
{
    if (t->source.rest)
        t->source.rest(t->source.arg);
}

static bool holds(const struct vd_trace *t, uint32_t first, uint32_t n)
{
    return !forgets(t) || (first + n <= t->held_end && first + t->n_held >= t->held_end);
}

uint32_t vd_trace_hold_runs(const struct vd_trace *t, uint32_t first, uint32_t n)
{
    return holds(t, first, n) ? 0 : first + n;
}

enum vd_err vd_trace_hold(struct vd_trace *t, uint32_t first, uint32_t n, struct vd_error *err)
{
    const struct vd_trace_sink sink = {t, hash_row, hash_token, hash_pooled, hash_done};
    uint32_t n_steps = vd_trace_hold_runs(t, first, n);
    if (n_steps == 0)
        return VD_OK;
    enum vd_err e = run_to(t, n_steps, &sink, err);
    rest(t);
    return e;
}

/* ---- tokens and tables ---- */

static uint8_t *with_length(struct vd_bytes table)
{
    uint8_t *p = malloc(4 + table.n);
    if (p) {
        vd_le32_store(p, (uint32_t)table.n);
        memcpy(p + 4, table.p, table.n);
    }
    return p;
}

static void tell_mask_state(const struct vd_trace *t, uint32_t step, uint8_t *record)
{
    uint8_t ops[VD_GRAPH_OUTS_MAX];
    uint32_t unit = vd_graph_head_unit(&t->graph);
    vd_graph_outs(&t->graph, step, unit, ops);
    t->source.after_op(t->source.arg, step, unit, ops[0], record, VD_AUTOMATON_STATE_BYTES);
}

static enum vd_err follow_mask(struct vd_trace *t, struct vd_error *err)
{
    const struct vd_graph_job *j = &t->graph.job;
    struct vd_automaton_state s = VD_AUTOMATON_START;
    struct vd_automaton a;
    if (!vd_automaton_open(&a, t->source.controls.mask))
        return vd_error_set(err, VD_EUSE, "the job's mask is not valid");
    for (uint32_t i = 0;; i++) {
        uint8_t *record = t->mask_state + (size_t)VD_AUTOMATON_STATE_BYTES * i;
        vd_automaton_state_store(record, &s);
        if (t->source.after_op && j->n_prompt - 1 + i < j->n_steps)
            tell_mask_state(t, j->n_prompt - 1 + i, record);
        if (i == j->n_output)
            return VD_OK;
        struct vd_bytes none = {NULL, 0};
        bool known = t->output[i] < t->graph.program->vocab;
        vd_automaton_walk(&a, &s, known ? t->source.text(t->source.arg, t->output[i]) : none);
    }
}

enum vd_err vd_trace_controls_open(struct vd_trace *t, struct vd_error *err)
{
    const struct vd_graph_job *j = &t->graph.job;
    const struct vd_controls *c = &t->source.controls;
    size_t n = (size_t)j->n_prompt + j->n_output;
    t->sequence = malloc(4 * n);
    t->bias = j->sampling.has_bias ? with_length(c->bias) : NULL;
    t->mask = j->sampling.has_mask ? with_length(c->mask) : NULL;
    t->mask_state = malloc((size_t)VD_AUTOMATON_STATE_BYTES * (j->n_output + 1));
    if (!t->sequence || !t->mask_state || !t->bias != !j->sampling.has_bias ||
        !t->mask != !j->sampling.has_mask)
        return vd_error_set(err, VD_ENOMEM, "no memory for %zu tokens", n);
    for (uint32_t i = 0; i < n; i++)
        vd_le32_store(t->sequence + 4 * (size_t)i, vd_trace_token(t, i));
    return t->mask ? follow_mask(t, err) : VD_OK;
}

void vd_trace_controls_close(struct vd_trace *t)
{
    free(t->sequence);
    free(t->bias);
    free(t->mask);
    free(t->mask_state);
}

/* A group has at most as many members as its neighbours but the last: of an encoder one may be the last
 * step's alone, of a decoder those of the prompt have no head. */
static uint32_t most_members(const struct vd_graph *g)
{
    uint32_t last = vd_graph_members(g, vd_graph_groups(g) - 1), first = vd_graph_members(g, 0);
    return first > last ? first : last;
}

static uint64_t keep_bytes(const struct vd_trace_source *source)
{
    return source->keep_bytes ? source->keep_bytes : VD_TRACE_KEEP_BYTES;
}

/* How many groups are held: all where a group is not a step, or rows cannot be had again. */
static uint32_t most_held(const struct vd_graph *g, const struct vd_trace_source *source)
{
    uint64_t n = keep_bytes(source) / (most_members(g) * sizeof(struct vd_hash));
    uint64_t least = source->in_flight < CHUNK ? CHUNK : source->in_flight;
    n = n < least ? least : n;
    return vd_program_is_encoder(g->program) || !source->rows || n > vd_graph_groups(g) ? vd_graph_groups(g)
                                                                                        : (uint32_t)n;
}

static uint64_t held_bytes(const struct vd_graph *g, const struct vd_trace_source *source)
{
    return (uint64_t)most_held(g, source) * most_members(g) * sizeof(struct vd_hash);
}

/* Of every step, of every group, and of the tokens, as the caller has them and as operators read them. */
static uint64_t step_bytes(const struct vd_graph *g)
{
    return (sizeof(struct vd_hash) + VD_TOKEN_RECORD_BYTES) * (uint64_t)g->job.n_steps +
           sizeof(struct vd_hash) * (uint64_t)vd_graph_groups(g) +
           8 * ((uint64_t)g->job.n_prompt + g->job.n_output) +
           VD_AUTOMATON_STATE_BYTES * ((uint64_t)g->job.n_output + 1);
}

uint64_t vd_trace_bytes(const struct vd_trace *t)
{
    return held_bytes(&t->graph, &t->source) + step_bytes(&t->graph);
}

enum vd_err vd_trace_create(struct vd_trace **out, const struct vd_graph *graph, const uint32_t *prompt,
                            const uint32_t *output, const uint8_t job_salt[VD_JOB_SALT_BYTES],
                            const struct vd_trace_source *source, struct vd_error *err)
{
    size_t n = graph->job.n_steps;
    assert(vd_graph_valid(graph));
    if (held_bytes(graph, source) > MEMORY_MAX)
        return vd_error_set(err, VD_ELIMIT, "a trace of %zu positions and %u units needs more than 1 GiB", n,
                            vd_graph_head_unit(graph) + 1);
    struct vd_trace *t = calloc(1, sizeof *t);
    if (t) {
        t->graph = *graph;
        t->prompt = prompt;
        t->output = output;
        t->source = *source;
        t->n_members = most_members(graph);
        memcpy(t->job_salt, job_salt, sizeof t->job_salt);
        t->n_held = most_held(graph, source);
        t->unit = calloc(1, held_bytes(graph, source));
        t->group = calloc(vd_graph_groups(graph), sizeof *t->group);
        t->commit = calloc(n, sizeof *t->commit);
        t->token_record = calloc(n, VD_TOKEN_RECORD_BYTES);
    }
    if (!t || !t->unit || !t->group || !t->commit || !t->token_record) {
        vd_trace_destroy(t);
        return vd_error_set(err, VD_ENOMEM, "no memory for the trace of %zu positions", n);
    }
    const struct vd_trace_sink sink = {t, hash_row, hash_token, hash_pooled, hash_done};
    enum vd_err e = vd_trace_controls_open(t, err);
    if (e == VD_OK) {
        e = run_to(t, graph->job.n_steps, &sink, err);
        rest(t);
    }
    if (e != VD_OK) {
        vd_trace_destroy(t);
        return e;
    }
    if (forgets(t))
        hash_roots(t);
    else
        vd_trace_hash_groups(t);
    *out = t;
    return VD_OK;
}

void vd_trace_destroy(struct vd_trace *t)
{
    if (!t)
        return;
    free(t->unit);
    free(t->group);
    free(t->commit);
    free(t->token_record);
    vd_trace_controls_close(t);
    free(t->u.memory);
    free(t);
}

/* ---- one unit: memory ---- */

/* Hands out parts of u->memory; with a NULL base it only adds up. */
struct carve {
    uint8_t *base;
    uint64_t used;
};

static void *carve(struct carve *c, uint64_t n_bytes)
{
    void *p = c->base ? c->base + c->used : NULL;
    c->used += (n_bytes + 63) / 64 * 64;
    return p;
}

/* Lays out the unit's arrays; returns the bytes they need. */
static uint64_t lay_out(struct vd_trace_unit_data *u, uint8_t *base)
{
    struct carve c = {base, 0};
    for (uint32_t o = 0; o < u->n_ops; o++)
        u->records[o] = carve(&c, u->op[o].n_records * u->op[o].record_bytes);
    for (unsigned i = 0; i < u->n_reads; i++) {
        struct vd_trace_read *r = &u->read[i];
        r->rows = carve(&c, (uint64_t)r->n_max * r->step_bytes);
        r->outs = carve(&c, (uint64_t)r->n_max * sizeof r->outs[0]);
    }
    return c.used;
}

/* Fills in u's operators, reads and sizes; returns the bytes that its arrays need. */
static uint64_t describe(const struct vd_graph *g, const struct vd_trace_source *source,
                         struct vd_trace_unit_data *u)
{
    struct vd_graph_read read[VD_GRAPH_READS_MAX];
    u->n_ops = vd_graph_ops(g, u->step, u->unit);
    for (uint32_t o = 0; o < u->n_ops; o++)
        vd_graph_op(g, u->step, u->unit, o, &u->op[o]);
    u->n_reads = vd_graph_reads(g, u->step, u->unit, read);
    for (unsigned i = 0; i < u->n_reads; i++) {
        struct vd_trace_read *r = &u->read[i];
        r->what = read[i];
        vd_graph_op(g, read[i].first, read[i].unit, read[i].op, &r->op);
        r->step_bytes = (size_t)r->op.n_records * r->op.record_bytes;
        bool cached = source->rows && !vd_program_is_encoder(g->program) &&
                      (r->op.kind == VD_OP_KROW || r->op.kind == VD_OP_VROW);
        bool all = !cached || r->what.n * (r->step_bytes + sizeof r->outs[0]) <= keep_bytes(source) / 2;
        r->n_max = all || r->what.n < CHUNK ? r->what.n : CHUNK;
        r->first = r->what.first;
        r->n = r->n_max == r->what.n ? r->n_max : 0;
    }
    return lay_out(u, NULL);
}

/* What a model has (vd_trace_model.c): its rows can be had again. */
static void some_rows(void *arg, uint32_t step, uint32_t unit, struct vd_graph_rows *out)
{
    (void)arg, (void)step, (void)unit, (void)out;
}
static const struct vd_trace_source some_source = {.rows = some_rows};

/* No unit of a step is larger than the same unit of the last one. */
static uint64_t largest_unit_bytes(const struct vd_graph *graph)
{
    uint32_t last = graph->job.n_steps - 1;
    uint64_t most = 0;
    assert(vd_graph_valid(graph));
    for (uint32_t unit = 0; unit < vd_graph_units(graph, last); unit++) {
        struct vd_trace_unit_data u = {.step = last, .unit = unit};
        uint64_t n_bytes = describe(graph, &some_source, &u);
        most = n_bytes > most ? n_bytes : most;
    }
    return most;
}

bool vd_trace_fits(const struct vd_graph *graph)
{
    return vd_trace_most_bytes(graph) <= VD_TRACE_FITS_BYTES;
}

uint64_t vd_trace_most_bytes(const struct vd_graph *graph)
{
    return held_bytes(graph, &some_source) + step_bytes(graph) + largest_unit_bytes(graph);
}

enum vd_err vd_trace_unit_prepare(struct vd_trace *t, uint32_t step, uint32_t unit, struct vd_error *err)
{
    struct vd_trace_unit_data *u = &t->u;
    free(u->memory);
    *u = (struct vd_trace_unit_data){.step = step, .unit = unit};
    uint64_t n_bytes = describe(&t->graph, &t->source, u);
    if (n_bytes > MEMORY_MAX)
        return vd_error_set(err, VD_ELIMIT, "step %u, unit %u: its records need more than 1 GiB", step, unit);
    u->memory = calloc(1, n_bytes);
    if (!u->memory)
        return vd_error_set(err, VD_ENOMEM, "no memory for %llu bytes of records",
                            (unsigned long long)n_bytes);
    u->memory_bytes = n_bytes;
    lay_out(u, u->memory);
    return VD_OK;
}

/* ---- one unit: its inputs ---- */

/* Keeps what the loaded unit reads of a unit; `rows` is what that puts out. */
static void keep(struct vd_trace *t, uint32_t step, uint32_t unit, const struct vd_graph_rows *rows,
                 bool pooled)
{
    struct vd_hash salt, outs[VD_GRAPH_OUTS_MAX] = {{{0}}};
    bool hashed = pooled; /* the only root under a pooling unit that is read is the one that is */
    for (unsigned i = 0; i < t->u.n_reads; i++) {
        struct vd_trace_read *r = &t->u.read[i];
        if (r->what.unit != unit || step < r->first || step - r->first >= r->n)
            continue;
        if (!hashed) {
            salt = vd_trace_salt(t->job_salt, step);
            vd_unit_rows(&t->graph, &salt, step, unit, rows, outs);
            hashed = true;
        }
        vd_unit_records(&r->op, rows, r->rows + (size_t)(step - r->first) * r->step_bytes);
        memcpy(r->outs[step - r->first], outs, sizeof outs);
    }
}

static void keep_row(void *arg, uint32_t step, uint32_t unit, const struct vd_graph_rows *rows)
{
    if (forgets(arg))
        hash_row(arg, step, unit, rows);
    keep(arg, step, unit, rows, false);
}

static void keep_sum(void *arg, uint32_t step, const float *sum, const float *vector)
{
    struct vd_trace *t = arg;
    if (forgets(t))
        hash_pooled(t, step, sum, vector);
    if (sum)
        keep(t, step, vd_graph_head_unit(&t->graph), &(struct vd_graph_rows){.x = sum}, true);
}

static void keep_token(void *arg, uint32_t step, uint32_t token, enum vd_stop stop)
{
    if (forgets(arg))
        hash_token(arg, step, token, stop);
}

static enum vd_err run_for_unit(struct vd_trace *t, uint32_t n_steps, struct vd_error *err)
{
    const struct vd_trace_sink sink = {t, keep_row, keep_token, keep_sum, hash_done};
    return run_to(t, n_steps, &sink, err);
}

/* The chunk of a step, as much of it as is read. */
static void move_to_chunk(struct vd_trace_read *r, uint64_t step)
{
    uint64_t first = step / CHUNK * CHUNK, end = first + CHUNK, last = (uint64_t)r->what.first + r->what.n;
    r->first = (uint32_t)(first < r->what.first ? r->what.first : first);
    r->n = (uint32_t)((end < last ? end : last) - r->first);
}

static bool keeps(const struct vd_trace_read *r, uint64_t first, uint32_t n)
{
    return first >= r->first && first + n <= (uint64_t)r->first + r->n;
}

/* While the unit is computed: rows without their roots, from the source's last run. */
static void read_chunk(struct vd_trace *t, struct vd_trace_read *r, uint64_t step)
{
    move_to_chunk(r, step);
    for (uint32_t i = 0; i < r->n; i++) {
        struct vd_graph_rows rows = {0};
        t->source.rows(t->source.arg, r->first + i, r->what.unit, &rows);
        vd_unit_records(&r->op, &rows, r->rows + i * r->step_bytes);
    }
}

enum vd_err vd_trace_fetch(struct vd_trace *t, uint32_t first, uint32_t n, struct vd_error *err)
{
    bool kept = true;
    for (unsigned i = 0; i < t->u.n_reads; i++) {
        struct vd_trace_read *r = &t->u.read[i];
        if (r->n_max == r->what.n || (t->u.rooted && keeps(r, first, n)))
            continue;
        move_to_chunk(r, first);
        kept = false;
    }
    if (kept)
        return vd_trace_hold(t, first, n, err);
    enum vd_err e = run_for_unit(
        t, (first / CHUNK + 1) * CHUNK < t->u.step ? (first / CHUNK + 1) * CHUNK : t->u.step, err);
    t->u.rooted = e == VD_OK;
    rest(t);
    return e;
}

/* ---- one unit: its operators ---- */

/* Of VD_IN_TOKEN and VD_IN_TEXT. */
struct small_inputs {
    uint8_t token[4], text[2 + VD_TOKEN_TEXT_MAX_BYTES];
};

static void put_text(const struct vd_trace *t, uint32_t id, uint8_t *out)
{
    struct vd_bytes text = t->source.text(t->source.arg, id);
    vd_le16_store(out, (uint16_t)text.n);
    if (text.n)
        memcpy(out + 2, text.p, text.n);
}

static struct vd_trace_read *read_of(struct vd_trace_unit_data *u, const struct vd_graph_input *in)
{
    uint64_t step = in->kind == VD_IN_KV ? in->first : u->step;
    struct vd_trace_read *r = u->read;
    while (r->what.unit != u->unit - in->back || r->what.op != in->op || step < r->what.first ||
           step - r->what.first >= r->what.n)
        r++;
    assert(r < u->read + u->n_reads);
    return r;
}

const struct vd_trace_read *vd_trace_read_of(struct vd_trace_unit_data *u, const struct vd_graph_input *in)
{
    return read_of(u, in);
}

static void point_at_steps(struct vd_trace *t, const struct vd_graph_input *in, struct vd_tile_data *data)
{
    if (in->back == 0 && t->u.op[in->op].kind == VD_OP_MASK_STATE) {
        data->row[0] = vd_trace_mask_state(t, (uint32_t)in->first);
        return;
    }
    struct vd_trace_read *r = read_of(&t->u, in);
    if (!keeps(r, in->first, in->count))
        read_chunk(t, r, in->first);
    const uint8_t *first = vd_trace_read_rows(r, in->first);
    for (uint32_t j = 0; j < in->count; j++)
        data->row[j] = first + j * r->step_bytes + (size_t)in->leaf * r->op.leaf_records * r->op.record_bytes;
}

static void point_at(struct vd_trace *t, const struct vd_graph_input *in, unsigned i,
                     struct small_inputs *small, struct vd_tile_data *data)
{
    const struct vd_trace_unit_data *u = &t->u;
    switch (in->kind) {
    case VD_IN_OP:
        data->in[i] = u->records[in->op] + in->first * u->op[in->op].record_bytes;
        return;
    case VD_IN_ROW: {
        const struct vd_trace_read *r = read_of(&t->u, in);
        data->in[i] = r->rows + in->first * r->op.record_bytes;
        return;
    }
    case VD_IN_KV:
        point_at_steps(t, in, data);
        return;
    case VD_IN_WEIGHT: {
        enum vd_wtype type = (enum vd_wtype)t->graph.program->types[in->tensor];
        data->in[i] = t->source.weight_row(t->source.arg, in->tensor, in->row).p +
                      in->part * vd_wtype_row_bytes(type, VD_WEIGHT_PART_ELEMS);
        return;
    }
    case VD_IN_TOKEN:
        vd_le32_store(small->token, vd_trace_token(t, (uint32_t)in->first));
        data->in[i] = small->token;
        return;
    case VD_IN_WINDOW:
        data->in[i] = t->sequence + 4 * in->first;
        return;
    case VD_IN_BIAS:
        data->in[i] = t->bias;
        return;
    case VD_IN_MASK:
        data->in[i] = t->mask;
        return;
    case VD_IN_TEXT:
        put_text(t, in->row, small->text);
        data->in[i] = small->text;
        return;
    }
}

static void run_record(struct vd_trace *t, uint32_t op, uint64_t record)
{
    const struct vd_trace_unit_data *u = &t->u;
    struct vd_tile_data data = {{NULL}, {NULL}};
    struct vd_tile tile;
    struct small_inputs small;
    vd_tile_init_op(&tile, &t->graph, u->step, u->unit, op, &u->op[op], record);
    for (unsigned i = 0; i < tile.n_in; i++) {
        if (tile.in[i].dynamic)
            vd_tile_resolve(&tile, &t->graph, i, &data);
        point_at(t, &tile.in[i], i, &small, &data);
    }
    vd_tile_eval(&tile, &t->graph, &data, u->records[op] + record * u->op[op].record_bytes);
}

/* The number under which an operator's leaves are hashed. */
static uint32_t hashed_as(const struct vd_graph_op *o, uint32_t op)
{
    return o->kind == VD_OP_VECTOR ? VD_TRACE_OP_VECTOR : op;
}

void vd_trace_unit_run(struct vd_trace *t)
{
    struct vd_trace_unit_data *u = &t->u;
    struct vd_trace_at at = {vd_trace_salt(t->job_salt, u->step), u->step, u->unit, 0};
    for (uint32_t o = 0; o < u->n_ops; o++) {
        const struct vd_graph_op *op = &u->op[o];
        size_t n_bytes = (size_t)op->n_records * op->record_bytes;
        if (op->n_records == 0)
            continue; /* absent: its root stays 32 zero bytes */
        for (uint64_t r = 0; r < op->n_records; r++)
            run_record(t, o, r);
        if (t->source.after_op)
            t->source.after_op(t->source.arg, u->step, u->unit, o, u->records[o], n_bytes);
        at.op = hashed_as(op, o);
        u->op_root[o] =
            vd_trace_op_root(&at, u->records[o], n_bytes, (size_t)op->leaf_records * op->record_bytes);
    }
}

static struct vd_hash unit_hash(const struct vd_trace *t)
{
    const struct vd_trace_unit_data *u = &t->u;
    struct vd_hash outs[VD_GRAPH_OUTS_MAX] = {{{0}}};
    uint8_t ops[VD_GRAPH_OUTS_MAX];
    struct vd_trace_at at = {vd_trace_salt(t->job_salt, u->step), u->step, u->unit, 0};
    unsigned n = vd_graph_outs(&t->graph, u->step, u->unit, ops);
    for (unsigned i = 0; i < n; i++)
        if (ops[i] != VD_GRAPH_NO_OP)
            outs[i] = u->op_root[ops[i]];
    return vd_trace_unit(&at, outs, n);
}

static bool is_loaded(const struct vd_trace *t, uint32_t step, uint32_t unit)
{
    return t->u.loaded && t->u.step == step && t->u.unit == unit;
}

uint32_t vd_trace_load_runs(const struct vd_trace *t, uint32_t step, uint32_t unit)
{
    struct vd_graph_read read[VD_GRAPH_READS_MAX];
    if (is_loaded(t, step, unit))
        return 0;
    if (vd_graph_reads(&t->graph, step, unit, read) > 0)
        return vd_graph_steps_for(&t->graph, step);
    return vd_trace_hold_runs(t, step, 1);
}

enum vd_err vd_trace_load(struct vd_trace *t, uint32_t step, uint32_t unit, struct vd_error *err)
{
    if (is_loaded(t, step, unit))
        return VD_OK;
    enum vd_err e = vd_trace_unit_prepare(t, step, unit, err);
    if (e != VD_OK)
        return e;
    if (t->u.n_reads > 0)
        e = run_for_unit(t, vd_trace_load_runs(t, step, unit), err);
    else
        e = vd_trace_hold(t, step, 1, err);
    if (e == VD_OK)
        vd_trace_unit_run(t);
    rest(t);
    if (e != VD_OK)
        return e;
    struct vd_hash h = unit_hash(t);
    if (!vd_hash_eq(&h, vd_trace_unit_of(t, step, unit)))
        return vd_error_set(err, VD_EINTERNAL,
                            "step %u, unit %u: the engine's rows are not those of the scalar arithmetic",
                            step, unit);
    t->u.loaded = true;
    return VD_OK;
}

struct vd_hash vd_trace_leaf_hash(const struct vd_trace *t, uint32_t op, uint64_t k)
{
    const struct vd_trace_unit_data *u = &t->u;
    const struct vd_graph_op *o = &u->op[op];
    struct vd_trace_at at = {vd_trace_salt(t->job_salt, u->step), u->step, u->unit, hashed_as(o, op)};
    assert(u->loaded && op < u->n_ops && k < vd_graph_leaves(o));
    return vd_trace_leaf(&at, (uint32_t)k, u->records[op] + k * o->leaf_records * o->record_bytes,
                         vd_graph_leaf_bytes(o, k));
}

void vd_trace_leaf_hashes(const struct vd_trace *t, uint32_t op, struct vd_hash *out)
{
    for (uint64_t k = 0; k < vd_graph_leaves(&t->u.op[op]); k++)
        out[k] = vd_trace_leaf_hash(t, op, k);
}
