/* What the worker opens and where the challenger points: both a short function per phase of the game. A
 * challenger takes the *first* difference at every level; that is what makes all inputs of the last record
 * rows on which both agree. */
#include "vd_player.h"

#include "vd_trace_hash.h"

#include <assert.h>
#include <stdlib.h>

struct play {
    struct vd_trace *t;
    const struct vd_ref_claim *claim;
    const struct vd_game *game;
    struct vd_move move;
    struct vd_hash nodes[VD_GAME_SHOWN_MAX]; /* storage of move.nodes, or the own hashes to compare with */
    uint8_t data[VD_OPENING_MAX_BYTES];      /* storage of move.data */
    struct vd_error *err;
};

static enum vd_err emit(const struct play *p, struct vd_player_move *out)
{
    out->kind = p->move.kind;
    out->n_bytes = vd_move_encode(&p->move, out->bytes, sizeof out->bytes);
    return out->n_bytes ? VD_OK : vd_error_set(p->err, VD_EINTERNAL, "a move does not fit its buffer");
}

/* Own hashes of the nodes VD_GAME_LEVELS below `span` of the tree over `leaf`; returns how many. */
static size_t nodes_below(struct play *p, struct vd_merkle_span span, const struct vd_hash *leaf)
{
    struct vd_merkle_span node[VD_GAME_SHOWN_MAX];
    size_t n = vd_merkle_spans(span, VD_GAME_LEVELS, node, VD_GAME_SHOWN_MAX);
    for (size_t i = 0; i < n; i++)
        p->nodes[i] = vd_merkle_root(leaf + node[i].first, node[i].count);
    return n;
}

static void show_nodes(struct play *p, size_t n)
{
    p->move.nodes = (struct vd_bytes){(const uint8_t *)p->nodes, n * VD_HASH_BYTES};
}

/* Own leaf hashes of the operator that the game is at; the caller frees. NULL: no memory. */
static struct vd_hash *op_leaves(struct play *p)
{
    const struct vd_graph_op *o = &p->t->u.op[p->game->op];
    struct vd_hash *leaf = malloc(vd_graph_leaves(o) * sizeof *leaf);
    if (leaf)
        vd_trace_leaf_hashes(p->t, p->game->op, leaf);
    else
        vd_error_set(p->err, VD_ENOMEM, "no memory for the leaves of an operator");
    return leaf;
}

/* Own unit hashes of the group that the game is at, and the span of them that it is at. */
static const struct vd_hash *units_of(const struct play *p)
{
    return vd_trace_group_of(p->t, (uint32_t)p->game->steps.span.first);
}

static struct vd_merkle_span units_span(const struct play *p)
{
    uint32_t group = (uint32_t)p->game->steps.span.first;
    if (p->game->units.n)
        return p->game->units.span;
    return (struct vd_merkle_span){0, vd_graph_members(&p->t->graph, group)};
}

/* ---- the worker ---- */

static enum vd_err hold_units(struct play *p)
{
    return vd_trace_hold(p->t, (uint32_t)p->game->steps.span.first, 1, p->err);
}

static enum vd_err open_units(struct play *p)
{
    enum vd_err e = hold_units(p);
    p->move.kind = VD_MOVE_UNITS;
    if (e == VD_OK)
        show_nodes(p, nodes_below(p, units_span(p), units_of(p)));
    return e;
}

static enum vd_err open_ops(struct play *p)
{
    p->move.kind = VD_MOVE_OPS;
    p->move.salt = vd_trace_salt(p->t->job_salt, p->game->step);
    memcpy(p->nodes, p->t->u.op_root, p->t->u.n_ops * sizeof p->nodes[0]);
    show_nodes(p, p->t->u.n_ops);
    return VD_OK;
}

static enum vd_err open_leaves(struct play *p)
{
    struct vd_hash *leaf = op_leaves(p);
    if (!leaf)
        return VD_ENOMEM;
    p->move.kind = VD_MOVE_LEAVES;
    show_nodes(p, nodes_below(p, p->game->leaves.span, leaf));
    free(leaf);
    return VD_OK;
}

static enum vd_err open_records(struct play *p)
{
    const struct vd_graph_op *o = &p->t->u.op[p->game->op];
    uint64_t k = p->game->leaves.span.first;
    const uint8_t *leaf = p->t->u.records[p->game->op] + k * o->leaf_records * o->record_bytes;
    size_t n = vd_graph_leaf_bytes(o, k), n_token;
    p->move.kind = VD_MOVE_RECORDS;
    p->move.data = (struct vd_bytes){leaf, n};
    if (o->kind != VD_OP_EMBED)
        return VD_OK;
    memcpy(p->data, leaf, n);
    enum vd_err e = vd_opening_token(p->t, p->game->step, p->data + n, sizeof p->data - n, &n_token, p->err);
    if (e == VD_OK)
        p->move.data = (struct vd_bytes){p->data, n + n_token};
    return e;
}

static enum vd_err open_bind(struct play *p)
{
    p->move.kind = VD_MOVE_BIND_OPEN;
    p->move.data.p = p->data;
    return vd_opening_bind(p->t, p->game->step, p->data, sizeof p->data, &p->move.data.n, p->err);
}

static enum vd_err worker_move(struct play *p)
{
    struct vd_trace *t = p->t;
    switch (p->game->phase) {
    case VD_PHASE_W_STATE:
        p->move.kind = VD_MOVE_STATE;
        p->move.root = t->state_root;
        show_nodes(p, nodes_below(p, (struct vd_merkle_span){0, vd_graph_groups(&t->graph)}, t->group));
        return VD_OK;
    case VD_PHASE_W_NODES:
        p->move.kind = VD_MOVE_NODES;
        show_nodes(p, nodes_below(p, p->game->steps.span, t->group));
        return VD_OK;
    case VD_PHASE_W_BIND_NODES:
        p->move.kind = VD_MOVE_BIND_NODES;
        show_nodes(p, nodes_below(p, p->game->steps.span, t->commit));
        return VD_OK;
    case VD_PHASE_W_UNITS:
        return open_units(p);
    case VD_PHASE_W_OPS:
        return open_ops(p);
    case VD_PHASE_W_LEAVES:
        return open_leaves(p);
    case VD_PHASE_W_RECORDS:
        return open_records(p);
    case VD_PHASE_W_BIND_OPEN:
        return open_bind(p);
    case VD_PHASE_C_STATE:
    case VD_PHASE_C_STEP:
    case VD_PHASE_C_UNIT:
    case VD_PHASE_C_OP:
    case VD_PHASE_C_LEAF:
    case VD_PHASE_C_TILE:
    case VD_PHASE_C_BIND:
    case VD_PHASE_OVER:
        break;
    }
    return vd_error_set(p->err, VD_EUSE, "it is not the worker's turn");
}

/* The operators of the game's unit are needed from its opening on. */
static bool needs_unit(const struct vd_game *game)
{
    return game->phase >= VD_PHASE_W_OPS && game->phase <= VD_PHASE_C_TILE;
}

static enum vd_err play(struct play *p, enum vd_err (*move)(struct play *), struct vd_player_move *out)
{
    enum vd_err e = VD_OK;
    if (needs_unit(p->game))
        e = vd_trace_load(p->t, p->game->step, p->game->unit, p->err);
    if (e == VD_OK)
        e = move(p);
    return e == VD_OK ? emit(p, out) : e;
}

static struct play *play_new(struct vd_trace *t, const struct vd_game *game, struct vd_error *err)
{
    struct play *p = calloc(1, sizeof *p);
    if (!p) {
        vd_error_set(err, VD_ENOMEM, "no memory for a move");
        return NULL;
    }
    p->t = t;
    p->game = game;
    p->err = err;
    return p;
}

enum vd_err vd_player_worker_answer(struct vd_trace *t, const struct vd_game *game,
                                    struct vd_player_move *out, struct vd_error *err)
{
    struct play *p = play_new(t, game, err);
    if (!p)
        return VD_ENOMEM;
    enum vd_err e = play(p, worker_move, out);
    free(p);
    return e;
}

uint32_t vd_player_worker_runs(const struct vd_trace *t, const struct vd_game *game)
{
    if (needs_unit(game))
        return vd_trace_load_runs(t, game->step, game->unit);
    if (game->phase == VD_PHASE_W_UNITS)
        return vd_trace_hold_runs(t, (uint32_t)game->steps.span.first, 1);
    if (game->phase == VD_PHASE_W_BIND_OPEN)
        return vd_trace_hold_runs(t, game->step, 1);
    return 0;
}

/* ---- the challenger ---- */

static enum vd_err nothing(const struct play *p)
{
    return vd_error_set(p->err, VD_EFALSE, "the worker's %s is what the model gives: nothing to point at",
                        p->game->phase == VD_PHASE_C_STATE ? "trace" : "opening");
}

/* The first of the nodes shown that is not in `own`; game->n_shown if there is none. */
static uint32_t first_difference(const struct play *p, const struct vd_hash *own)
{
    uint32_t i = 0;
    while (i < p->game->n_shown && vd_hash_eq(&p->game->shown[i], &own[i]))
        i++;
    return i;
}

static enum vd_err point(struct play *p, enum vd_move_kind kind, const struct vd_hash *own)
{
    uint32_t i = first_difference(p, own);
    if (i == p->game->n_shown)
        return nothing(p);
    p->move.kind = kind;
    p->move.index = i;
    return VD_OK;
}

/* An honest trace under a receipt that says something else: the first step whose TOKEN is not the receipt's.
 */
static enum vd_err point_bind(struct play *p)
{
    const struct vd_graph *g = &p->t->graph;
    const struct vd_graph_job *j = &g->job;
    p->move.kind = VD_MOVE_BIND;
    if (vd_graph_pools(g)) {
        p->move.index = j->n_steps - 1;
        const struct vd_hash *own = &p->t->pool_outs[j->sampling.pooling == VD_POOLING_MEAN ? 1 : 0];
        return vd_hash_eq(own, &p->claim->output_root) ? nothing(p) : VD_OK;
    }
    for (uint32_t s = j->n_prompt - 1; s < j->n_steps; s++) {
        const uint8_t *record = p->t->token_record + (size_t)VD_TOKEN_RECORD_BYTES * s;
        uint32_t token = vd_le32_load(record), stop = vd_le32_load(record + 4), want = VD_STOP_NONE;
        bool has_token = s + 1 - j->n_prompt < j->n_output;
        if (s == j->n_steps - 1 && p->claim->finish != VD_FINISH_CANCELLED)
            want = (uint32_t)p->claim->finish;
        p->move.index = s;
        if (stop != want || (has_token && token != vd_trace_token(p->t, s + 1)))
            return VD_OK;
    }
    return nothing(p);
}

static enum vd_err point_state(struct play *p)
{
    struct vd_trace *t = p->t;
    if (!vd_hash_eq(&p->game->state_root, &t->state_root)) {
        nodes_below(p, p->game->steps.span, t->group);
        return point(p, VD_MOVE_STEP, p->nodes);
    }
    if (vd_hash_eq(&p->claim->commit_root, &t->commit_root))
        return point_bind(p);
    p->move.kind = VD_MOVE_BIND_NODE;
    return VD_OK;
}

static enum vd_err point_commit(struct play *p)
{
    struct vd_merkle_span node[VD_GAME_SHOWN_MAX];
    nodes_below(p, p->game->steps.span, p->t->commit);
    enum vd_err e = point(p, VD_MOVE_BIND_NODE, p->nodes);
    if (e != VD_OK)
        return e;
    vd_merkle_spans(p->game->steps.span, VD_GAME_LEVELS, node, VD_GAME_SHOWN_MAX);
    if (node[p->move.index].count == 1) {
        p->move.kind = VD_MOVE_BIND;
        p->move.index = node[p->move.index].first;
    }
    return VD_OK;
}

static enum vd_err point_unit(struct play *p)
{
    enum vd_err e = hold_units(p);
    if (e != VD_OK)
        return e;
    nodes_below(p, p->game->units.span, units_of(p));
    return point(p, VD_MOVE_UNIT, p->nodes);
}

static enum vd_err point_op(struct play *p)
{
    struct vd_hash salt = vd_trace_salt(p->t->job_salt, p->game->step);
    if (!vd_hash_eq(&salt, &p->game->salt)) {
        p->move.kind = VD_MOVE_SALT;
        memcpy(p->move.salt.b, p->t->job_salt, sizeof p->move.salt.b);
        return VD_OK;
    }
    uint32_t o = 0;
    while (o < p->game->n_ops && vd_hash_eq(&p->game->op_root[o], &p->t->u.op_root[o]))
        o++;
    p->move.kind = VD_MOVE_OP;
    p->move.index = o;
    return o < p->game->n_ops ? VD_OK : nothing(p);
}

static enum vd_err point_leaf(struct play *p)
{
    struct vd_hash *leaf = op_leaves(p);
    if (!leaf)
        return VD_ENOMEM;
    nodes_below(p, p->game->leaves.span, leaf);
    free(leaf);
    return point(p, VD_MOVE_LEAF, p->nodes);
}

static enum vd_err point_tile(struct play *p)
{
    const struct vd_game *game = p->game;
    const struct vd_graph_op *o = &p->t->u.op[game->op];
    uint64_t first = game->leaves.span.first * o->leaf_records, n = game->n_record_bytes / o->record_bytes,
             i = 0;
    const uint8_t *own = p->t->u.records[game->op] + first * o->record_bytes;
    while (i < n &&
           memcmp(own + i * o->record_bytes, game->records + i * o->record_bytes, o->record_bytes) == 0)
        i++;
    if (i == n)
        return nothing(p);
    p->move.kind = VD_MOVE_TILE;
    p->move.index = i;
    p->move.data.p = p->data;
    return vd_opening_tile(p->t, game, game->op, first + i, p->data, sizeof p->data, &p->move.data.n, p->err);
}

static enum vd_err challenger_move(struct play *p)
{
    switch (p->game->phase) {
    case VD_PHASE_C_STATE:
        return point_state(p);
    case VD_PHASE_C_STEP:
        nodes_below(p, p->game->steps.span, p->t->group);
        return point(p, VD_MOVE_STEP, p->nodes);
    case VD_PHASE_C_UNIT:
        return point_unit(p);
    case VD_PHASE_C_OP:
        return point_op(p);
    case VD_PHASE_C_LEAF:
        return point_leaf(p);
    case VD_PHASE_C_TILE:
        return point_tile(p);
    case VD_PHASE_C_BIND:
        return point_commit(p);
    case VD_PHASE_W_STATE:
    case VD_PHASE_W_NODES:
    case VD_PHASE_W_UNITS:
    case VD_PHASE_W_OPS:
    case VD_PHASE_W_LEAVES:
    case VD_PHASE_W_RECORDS:
    case VD_PHASE_W_BIND_NODES:
    case VD_PHASE_W_BIND_OPEN:
    case VD_PHASE_OVER:
        break;
    }
    return vd_error_set(p->err, VD_EUSE, "it is not the challenger's turn");
}

enum vd_err vd_player_challenger_point(struct vd_trace *t, const struct vd_ref_claim *claim,
                                       const struct vd_game *game, struct vd_player_move *out,
                                       struct vd_error *err)
{
    struct play *p = play_new(t, game, err);
    if (!p)
        return VD_ENOMEM;
    p->claim = claim;
    enum vd_err e = play(p, challenger_move, out);
    free(p);
    return e;
}
