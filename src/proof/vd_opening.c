/* Writes what src/court/referee reads, input by input, from a trace. Every proof here is the same walk over
 * one tree, with one rule for the hash of a subtree: if the way that the dispute went down this tree passes
 * it, the hash that the worker showed; else the trace's own. Left of the way both are equal, and right of it
 * only the worker's count. */
#include "vd_player.h"

#include "vd_tile.h"

#include <assert.h>
#include <stdlib.h>

struct writer {
    uint8_t *p;
    size_t cap_bytes, n_bytes;
    bool overflow;
};

static void put(struct writer *w, const void *p, size_t n)
{
    if (w->overflow || n > w->cap_bytes - w->n_bytes) {
        w->overflow = true;
        return;
    }
    if (n > 0)
        memcpy(w->p + w->n_bytes, p, n);
    w->n_bytes += n;
}

static void put_hash(struct writer *w, const struct vd_hash *h)
{
    put(w, h->b, VD_HASH_BYTES);
}

/* ---- proofs ---- */

/* A tree: own leaf hashes, and the way down that the dispute took, NULL if it did not come here.
 * `ancestor[i]` is the hash after i steps down. */
struct tree {
    const struct vd_hash *own;
    const struct vd_game_path *path;
    struct vd_merkle_span span[VD_GAME_PATH_MAX + 1];
    struct vd_hash ancestor[VD_GAME_PATH_MAX + 1];
};

static bool same_span(struct vd_merkle_span a, struct vd_merkle_span b)
{
    return a.first == b.first && a.count == b.count;
}

static void tree_init(struct tree *t, const struct vd_hash *own, const struct vd_game_path *path)
{
    struct vd_merkle_span half[2];
    t->own = own;
    t->path = path;
    if (!path)
        return;
    t->span[0] = (struct vd_merkle_span){0, path->n};
    for (uint32_t i = 0; i < path->n_siblings; i++) {
        vd_merkle_spans(t->span[i], 1, half, 2);
        t->span[i + 1] = half[path->span.first >= half[1].first];
    }
    t->ancestor[path->n_siblings] = path->node;
    for (uint32_t i = path->n_siblings; i-- > 0;) {
        bool right = t->span[i + 1].first > t->span[i].first;
        const struct vd_hash *down = &t->ancestor[i + 1], *side = &path->sibling[i];
        t->ancestor[i] = vd_merkle_node(right ? side : down, right ? down : side);
    }
}

static struct vd_hash subtree(const struct tree *t, struct vd_merkle_span s)
{
    for (uint32_t i = 0; t->path && i <= t->path->n_siblings; i++) {
        if (same_span(s, t->span[i]))
            return t->ancestor[i];
        struct vd_merkle_span half[2];
        if (i == t->path->n_siblings)
            break;
        vd_merkle_spans(t->span[i], 1, half, 2);
        if (same_span(s, half[same_span(half[0], t->span[i + 1])]))
            return t->path->sibling[i];
    }
    return vd_merkle_root(t->own + s.first, s.count);
}

/* The range proof of leaves [first, first + count), in the order of vd_merkle_range_prove. */
static void put_proof(struct writer *w, const struct tree *t, struct vd_merkle_span s, uint64_t first,
                      uint64_t count)
{
    if (s.first + s.count <= first || first + count <= s.first) {
        struct vd_hash h = subtree(t, s);
        put_hash(w, &h);
        return;
    }
    if (first <= s.first && s.first + s.count <= first + count)
        return;
    struct vd_merkle_span half[2];
    vd_merkle_spans(s, 1, half, 2);
    put_proof(w, t, half[0], first, count);
    put_proof(w, t, half[1], first, count);
}

static void prove(struct writer *w, const struct vd_hash *own, const struct vd_game_path *path, uint64_t n,
                  uint64_t first, uint64_t count)
{
    struct tree t;
    tree_init(&t, own, path);
    put_proof(w, &t, (struct vd_merkle_span){0, n}, first, count);
}

/* ---- inputs ---- */

/* Writes what src/court/referee/vd_referee.c's climb reads. `game` NULL: no way was gone down, no group is
 * the record's own. */
struct climb {
    const struct vd_trace *t;
    const struct vd_game *game;
    struct writer *w;
    uint32_t n_members, n_groups;
    struct vd_graph_place first;
    uint32_t first_group;
};

static bool is_own(const struct climb *c)
{
    const struct vd_trace_unit_data *u = &c->t->u;
    return c->game && vd_graph_place(&c->t->graph, u->step, u->unit).group == c->first.group;
}

static void climb_group(struct climb *c)
{
    uint32_t group = c->first.group;
    prove(c->w, vd_trace_group_of(c->t, group), is_own(c) ? &c->game->units : NULL,
          vd_graph_members(&c->t->graph, group), c->first.member, c->n_members);
    c->first_group = c->n_groups++ ? c->first_group : group;
    c->n_members = 0;
}

static void climb_add(struct climb *c, uint32_t step, uint32_t unit, bool more)
{
    if (c->n_members++ == 0)
        c->first = vd_graph_place(&c->t->graph, step, unit);
    if (!more)
        climb_group(c);
}

static void climb_end(struct climb *c)
{
    if (!is_own(c))
        prove(c->w, c->t->group, c->game ? &c->game->steps : NULL, vd_graph_groups(&c->t->graph),
              c->first_group, c->n_groups);
}

struct opener {
    struct vd_trace *t;
    const struct vd_game *game;
    struct vd_tile tile;
    struct writer w;
    struct vd_error *err;
};

static enum vd_err no_memory(const struct opener *f, uint64_t n)
{
    return vd_error_set(f->err, VD_ENOMEM, "no memory for %llu hashes of an opening", (unsigned long long)n);
}

/* The disputed leaf is the worker's, every other one the trace's own. */
static const uint8_t *leaf_bytes(const struct opener *f, uint32_t op, uint64_t k)
{
    const struct vd_trace_unit_data *u = &f->t->u;
    if (op == f->tile.op && k == f->game->leaves.span.first)
        return f->game->records;
    return u->records[op] + k * u->op[op].leaf_records * u->op[op].record_bytes;
}

static enum vd_err open_op(struct opener *f, const struct vd_graph_input *in)
{
    const struct vd_graph_op *o = &f->t->u.op[in->op];
    uint64_t n = vd_graph_leaves(o), k0 = in->first / o->leaf_records;
    uint64_t k1 = (in->first + in->count - 1) / o->leaf_records;
    struct vd_hash *own = malloc(n * sizeof *own);
    if (!own)
        return no_memory(f, n);
    vd_trace_leaf_hashes(f->t, in->op, own);
    for (uint64_t k = k0; k <= k1; k++)
        put(&f->w, leaf_bytes(f, in->op, k), vd_graph_leaf_bytes(o, k));
    prove(&f->w, own, in->op == f->tile.op ? &f->game->leaves : NULL, n, k0, k1 - k0 + 1);
    free(own);
    return VD_OK;
}

/* The roots under the head's unit hash of a step, from the records of the run. */
static void head_outs(const struct vd_trace *t, uint32_t step, struct vd_hash outs[VD_GRAPH_OUTS_MAX])
{
    uint32_t unit = vd_graph_head_unit(&t->graph);
    uint8_t ops[VD_GRAPH_OUTS_MAX];
    unsigned n = vd_graph_outs(&t->graph, step, unit, ops);
    struct vd_trace_at at = {vd_trace_salt(t->job_salt, step), step, unit, ops[n - 1]};
    outs[n - 1] =
        vd_trace_leaf(&at, 0, t->token_record + (size_t)VD_TOKEN_RECORD_BYTES * step, VD_TOKEN_RECORD_BYTES);
    at.op = ops[0];
    if (n == 2)
        outs[0] = vd_trace_leaf(&at, 0, vd_trace_mask_state(t, step), VD_AUTOMATON_STATE_BYTES);
}

/* The roots under a unit hash but the one that the opening implies. */
static void put_other_outs(struct opener *f, uint32_t step, uint32_t unit, uint32_t op,
                           const struct vd_hash *outs)
{
    uint8_t ops[VD_GRAPH_OUTS_MAX];
    unsigned n = vd_graph_outs(&f->t->graph, step, unit, ops);
    for (unsigned i = 0; i < n; i++)
        if (ops[i] != op && ops[i] != VD_GRAPH_NO_OP)
            put_hash(&f->w, &outs[i]);
}

/* Leaves [k0, k0 + n) of what is read of another unit at a step, and the proof under that unit's hash. */
static void put_leaves(struct opener *f, const struct vd_trace_read *r, uint32_t step, uint64_t k0,
                       uint64_t n)
{
    struct vd_hash own[VD_PROGRAM_WIDTH_MAX / VD_GRAPH_POOL_ELEMS];
    struct vd_trace_at at = {vd_trace_salt(f->t->job_salt, step), step, r->what.unit, r->what.op};
    const uint8_t *rows = vd_trace_read_rows(r, step);
    size_t leaf_bytes = (size_t)r->op.leaf_records * r->op.record_bytes;
    uint64_t n_leaves = vd_graph_leaves(&r->op);
    assert(n_leaves <= sizeof own / sizeof own[0]);
    for (uint64_t k = 0; k < n_leaves; k++)
        own[k] = vd_trace_leaf(&at, (uint32_t)k, rows + k * leaf_bytes, vd_graph_leaf_bytes(&r->op, k));
    for (uint64_t k = k0; k < k0 + n; k++)
        put(&f->w, rows + k * leaf_bytes, vd_graph_leaf_bytes(&r->op, k));
    prove(&f->w, own, NULL, n_leaves, k0, n);
    put_other_outs(f, step, r->what.unit, r->what.op, r->outs[step - r->first]);
}

static enum vd_err open_row(struct opener *f, const struct vd_graph_input *in)
{
    const struct vd_trace_read *r = vd_trace_read_of(&f->t->u, in);
    struct climb c = {.t = f->t, .game = f->game, .w = &f->w};
    uint64_t k0 = in->first / r->op.leaf_records, k1 = (in->first + in->count - 1) / r->op.leaf_records;
    enum vd_err e = vd_trace_hold(f->t, f->t->u.step, 1, f->err);
    if (e != VD_OK)
        return e;
    put_leaves(f, r, f->t->u.step, k0, k1 - k0 + 1);
    climb_add(&c, f->t->u.step, r->what.unit, false);
    climb_end(&c);
    return VD_OK;
}

/* The record of MASK_STATE of the step before. */
static void put_mask_state(struct opener *f, const struct vd_graph_input *in)
{
    uint32_t step = (uint32_t)in->first;
    struct vd_hash outs[VD_GRAPH_OUTS_MAX];
    head_outs(f->t, step, outs);
    put(&f->w, vd_trace_mask_state(f->t, step), VD_AUTOMATON_STATE_BYTES);
    put_other_outs(f, step, f->t->u.unit, in->op, outs);
}

static enum vd_err open_steps(struct opener *f, const struct vd_graph_input *in)
{
    struct vd_trace_unit_data *u = &f->t->u;
    bool is_state = in->back == 0 && u->op[in->op].kind == VD_OP_MASK_STATE;
    struct climb c = {.t = f->t, .game = f->game, .w = &f->w};
    enum vd_err e = vd_trace_fetch(f->t, (uint32_t)in->first, in->count, f->err);
    if (e != VD_OK)
        return e;
    for (uint32_t j = 0; j < in->count; j++) {
        uint32_t step = (uint32_t)in->first + j, unit = u->unit - in->back;
        struct vd_hash salt = vd_trace_salt(f->t->job_salt, step);
        put_hash(&f->w, &salt);
        if (is_state)
            put_mask_state(f, in);
        else
            put_leaves(f, vd_trace_read_of(u, in), step, in->leaf, 1);
        climb_add(&c, step, unit,
                  j + 1 < in->count && vd_graph_same_group(&f->t->graph, step, unit, step + 1, unit));
    }
    climb_end(&c);
    return VD_OK;
}

static enum vd_err open_weight(struct opener *f, const struct vd_graph_input *in)
{
    struct vd_weight_proof *p = malloc(sizeof *p);
    if (!p)
        return no_memory(f, VD_WEIGHT_PROOF_MAX);
    enum vd_err e = f->t->source.weight_proof(f->t->source.arg, in->tensor, in->row, in->part, p, f->err);
    if (e == VD_OK) {
        put(&f->w, p->bytes.p, p->bytes.n);
        put(&f->w, p->path, p->n_path * sizeof p->path[0]);
        put(&f->w, p->tensor_path, p->n_tensor_path * sizeof p->tensor_path[0]);
    }
    free(p);
    return e;
}

/* The range proof of sequence positions [first, first + count), all in the prompt or all in the output, in
 * that tree. */
static enum vd_err put_token_proof(struct writer *w, const struct vd_trace *t, uint32_t first, uint32_t count,
                                   struct vd_error *err)
{
    const struct vd_graph_job *j = &t->graph.job;
    bool output = first >= j->n_prompt;
    uint32_t base = output ? j->n_prompt : 0, n = output ? j->n_output : j->n_prompt;
    struct vd_hash *own = malloc(n * sizeof *own);
    if (!own)
        return vd_error_set(err, VD_ENOMEM, "no memory for the hashes of %u tokens", n);
    vd_trace_salts(t->job_salt, base, n, own);
    vd_token_leaves(own, base, output ? t->output : t->prompt, n, own);
    prove(w, own, NULL, n, first - base, count);
    free(own);
    return VD_OK;
}

static enum vd_err open_window(struct opener *f, const struct vd_graph_input *in)
{
    uint32_t first = (uint32_t)in->first, end = first + in->count, p = f->t->graph.job.n_prompt;
    uint32_t border = end < p ? end : first > p ? first : p;
    enum vd_err e = VD_OK;
    for (uint32_t i = first; i < end; i++) {
        struct vd_hash salt = vd_trace_salt(f->t->job_salt, i);
        put(&f->w, f->t->sequence + 4 * (size_t)i, 4);
        put_hash(&f->w, &salt);
    }
    if (first < border)
        e = put_token_proof(&f->w, f->t, first, border - first, f->err);
    if (e == VD_OK && border < end)
        e = put_token_proof(&f->w, f->t, border, end - border, f->err);
    return e;
}

static enum vd_err open_text(struct opener *f, const struct vd_graph_input *in)
{
    uint32_t vocab = f->t->graph.program->vocab;
    struct vd_bytes text = f->t->source.text(f->t->source.arg, in->row);
    struct vd_hash proof[32];
    uint8_t length[2];
    vd_le16_store(length, (uint16_t)text.n);
    put(&f->w, length, sizeof length);
    put(&f->w, text.p, text.n);
    f->t->source.text_proof(f->t->source.arg, in->row, proof);
    put(&f->w, proof, vd_merkle_range_proof_len(vocab, in->row, 1) * sizeof proof[0]);
    return VD_OK;
}

static enum vd_err open_input(struct opener *f, unsigned i)
{
    const struct vd_graph_input *in = &f->tile.in[i];
    switch (in->kind) {
    case VD_IN_OP:
        return open_op(f, in);
    case VD_IN_ROW:
        return open_row(f, in);
    case VD_IN_KV:
        return open_steps(f, in);
    case VD_IN_WEIGHT:
        return open_weight(f, in);
    case VD_IN_TOKEN:
        return VD_OK; /* the worker has opened it */
    case VD_IN_WINDOW:
        return open_window(f, in);
    case VD_IN_BIAS:
        put(&f->w, f->t->bias, 4 + vd_le32_load(f->t->bias));
        return VD_OK;
    case VD_IN_MASK:
        put(&f->w, f->t->mask, 4 + vd_le32_load(f->t->mask));
        return VD_OK;
    case VD_IN_TEXT:
        return open_text(f, in);
    }
    return VD_EINTERNAL;
}

/* Dynamic addresses follow from records of operators that both sides agree on, so from the trace's own. */
static void resolve(struct opener *f, unsigned i, const uint8_t token[4])
{
    const struct vd_trace_unit_data *u = &f->t->u;
    struct vd_tile_data data = {{NULL}, {NULL}};
    for (unsigned j = 0; j < i; j++) {
        const struct vd_graph_input *in = &f->tile.in[j];
        if (in->kind == VD_IN_OP)
            data.in[j] = u->records[in->op] + in->first * u->op[in->op].record_bytes;
        else
            data.in[j] = in->kind == VD_IN_WINDOW ? f->t->sequence + 4 * in->first : token;
    }
    vd_tile_resolve(&f->tile, &f->t->graph, i, &data);
}

static enum vd_err finish(const struct writer *w, size_t *n_bytes, struct vd_error *err)
{
    *n_bytes = w->n_bytes;
    if (w->overflow)
        return vd_error_set(err, VD_ELIMIT, "the opening has more than %zu bytes", w->cap_bytes);
    return VD_OK;
}

enum vd_err vd_opening_tile(struct vd_trace *t, const struct vd_game *game, uint32_t op, uint64_t record,
                            uint8_t *buf, size_t cap_bytes, size_t *n_bytes, struct vd_error *err)
{
    struct opener f = {.t = t, .game = game, .w = {buf, cap_bytes, 0, false}, .err = err};
    uint8_t token[4];
    assert(t->u.loaded);
    vd_le32_store(token, game->token);
    vd_tile_init(&f.tile, &t->graph, t->u.step, t->u.unit, op, record);
    for (unsigned i = 0; i < f.tile.n_in; i++) {
        if (f.tile.in[i].dynamic)
            resolve(&f, i, token);
        enum vd_err e = open_input(&f, i);
        if (e != VD_OK)
            return e;
    }
    return finish(&f.w, n_bytes, err);
}

enum vd_err vd_opening_token(struct vd_trace *t, uint32_t step, uint8_t *buf, size_t cap_bytes,
                             size_t *n_bytes, struct vd_error *err)
{
    struct writer w = {buf, cap_bytes, 0, false};
    uint8_t token[4];
    vd_le32_store(token, vd_trace_token(t, step));
    put(&w, token, sizeof token);
    enum vd_err e = put_token_proof(&w, t, step, 1, err);
    return e == VD_OK ? finish(&w, n_bytes, err) : e;
}

/* What the head of a step says: its token, and, if the answer has one there, the proof that it is that. */
static enum vd_err put_choice(struct writer *w, const struct vd_trace *t, uint32_t step, struct vd_error *err)
{
    const struct vd_graph_job *j = &t->graph.job;
    put(w, t->token_record + (size_t)VD_TOKEN_RECORD_BYTES * step, VD_TOKEN_RECORD_BYTES);
    if (j->sampling.has_mask) {
        struct vd_hash outs[VD_GRAPH_OUTS_MAX];
        head_outs(t, step, outs);
        put_hash(w, &outs[0]);
    }
    if (step + 1 - j->n_prompt >= j->n_output)
        return VD_OK;
    struct vd_hash salt = vd_trace_salt(t->job_salt, step + 1);
    put_hash(w, &salt);
    return put_token_proof(w, t, step + 1, 1, err);
}

enum vd_err vd_opening_bind(struct vd_trace *t, uint32_t step, uint8_t *buf, size_t cap_bytes,
                            size_t *n_bytes, struct vd_error *err)
{
    const struct vd_graph_job *j = &t->graph.job;
    uint32_t block = vd_graph_last_block(&t->graph), count = vd_graph_has_head(&t->graph, step) ? 2 : 1;
    struct writer w = {buf, cap_bytes, 0, false};
    struct climb c = {.t = t, .w = &w};
    struct vd_hash salt = vd_trace_salt(t->job_salt, step);
    enum vd_err e = vd_trace_hold(t, step, 1, err);
    if (e != VD_OK)
        return e;
    put_hash(&w, &salt);
    for (uint32_t i = 0; i < count; i++)
        put_hash(&w, vd_trace_unit_of(t, step, block + i));
    bool more = count == 2 && vd_graph_same_group(&t->graph, step, block, step, block + 1);
    for (uint32_t i = 0; i < count; i++)
        climb_add(&c, step, block + i, i == 0 && more);
    climb_end(&c);
    prove(&w, t->commit, NULL, j->n_steps, step, 1);
    if (!vd_graph_pools(&t->graph) && count == 2)
        e = put_choice(&w, t, step, err);
    else if (step + 1 == j->n_steps && j->sampling.pooling == VD_POOLING_MEAN)
        put_hash(&w, &t->pool_outs[0]);
    return e == VD_OK ? finish(&w, n_bytes, err) : e;
}
