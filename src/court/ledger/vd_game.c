/* One function per move. Each checks what it is given against what stands in the game, and only then changes
 * it: a rejected move leaves no trace.
 *
 * Three trees are descended alike (steps, units, leaves), so the way down is one type: open a path at the
 * root, choose one of the spans shown, check the nodes below it. What is kept of the nodes shown is only the
 * siblings of the one chosen. */
#include "vd_game.h"

#include "vd_pb.h"
#include "vd_trace_hash.h"

#include <assert.h>

/* ---- names ---- */

const char *vd_move_name(enum vd_move_kind kind)
{
    switch (kind) {
#define X(code, number, name, side)                                                                          \
    case code:                                                                                               \
        return name;
        VD_MOVE_LIST(X)
#undef X
    }
    return "?";
}

static enum vd_game_side side_of(enum vd_move_kind kind)
{
    switch (kind) {
#define X(code, number, name, side)                                                                          \
    case code:                                                                                               \
        return side;
        VD_MOVE_LIST(X)
#undef X
    }
    return VD_GAME_WORKER;
}

const char *vd_game_result_text(enum vd_game_result r)
{
    static const char *const text[] = {
#define X(code, class, words) words,
        VD_GAME_RESULT_LIST(X)
#undef X
    };
    return (unsigned)r < sizeof text / sizeof text[0] ? text[r] : "?";
}

static int class_of(enum vd_game_result r)
{
    static const uint8_t classes[] = {
#define X(code, class, words) class,
        VD_GAME_RESULT_LIST(X)
#undef X
    };
    return classes[r];
}

bool vd_game_rejected(enum vd_game_result r)
{
    return class_of(r) == 1;
}

bool vd_game_worker_loses(enum vd_game_result r)
{
    return class_of(r) == 2;
}

bool vd_game_challenger_loses(enum vd_game_result r)
{
    return class_of(r) == 3;
}

/* ---- moves as bytes ---- */

size_t vd_move_encode(const struct vd_move *m, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_u64(&w, 1, m->kind);
    vd_pb_put_u64(&w, 2, m->index);
    vd_pb_put_opt_fixed(&w, 3, m->root.b, VD_HASH_BYTES);
    vd_pb_put_opt_fixed(&w, 4, m->salt.b, VD_HASH_BYTES);
    vd_pb_put_bytes(&w, 5, m->nodes.p, m->nodes.n);
    vd_pb_put_bytes(&w, 6, m->data.p, m->data.n);
    return w.overflow ? 0 : w.n_bytes;
}

/* Which fields a kind may use, a bit each: index, root, salt, nodes, data. */
enum { HAS_INDEX = 1, HAS_ROOT = 2, HAS_SALT = 4, HAS_NODES = 8, HAS_DATA = 16 };

static unsigned fields_of(enum vd_move_kind kind)
{
    switch (kind) {
    case VD_MOVE_STATE:
        return HAS_ROOT | HAS_NODES;
    case VD_MOVE_NODES:
    case VD_MOVE_UNITS:
    case VD_MOVE_LEAVES:
    case VD_MOVE_BIND_NODES:
        return HAS_NODES;
    case VD_MOVE_OPS:
        return HAS_SALT | HAS_NODES;
    case VD_MOVE_RECORDS:
    case VD_MOVE_BIND_OPEN:
        return HAS_DATA;
    case VD_MOVE_STEP:
    case VD_MOVE_UNIT:
    case VD_MOVE_OP:
    case VD_MOVE_LEAF:
    case VD_MOVE_BIND_NODE:
    case VD_MOVE_BIND:
        return HAS_INDEX;
    case VD_MOVE_TILE:
        return HAS_INDEX | HAS_DATA;
    case VD_MOVE_SALT:
        return HAS_SALT;
    }
    return 0;
}

bool vd_move_decode(struct vd_bytes in, struct vd_move *m)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    *m = (struct vd_move){0};
    if (in.n > VD_MOVE_MAX_BYTES)
        return false;
    m->kind = (enum vd_move_kind)vd_pb_get_u64(&r, 1, VD_MOVE_BIND);
    m->index = vd_pb_get_u64(&r, 2, UINT64_MAX);
    vd_pb_get_opt_fixed(&r, 3, m->root.b, VD_HASH_BYTES);
    vd_pb_get_opt_fixed(&r, 4, m->salt.b, VD_HASH_BYTES);
    m->nodes = vd_pb_get_bytes(&r, 5, VD_GAME_SHOWN_MAX * VD_HASH_BYTES);
    m->data = vd_pb_get_bytes(&r, 6, VD_OPENING_MAX_BYTES);
    if (!vd_pb_done(&r) || m->kind == 0 || m->nodes.n % VD_HASH_BYTES)
        return false;
    unsigned has = (m->index ? HAS_INDEX : 0) | (vd_hash_is_zero(&m->root) ? 0 : HAS_ROOT) |
                   (vd_hash_is_zero(&m->salt) ? 0 : HAS_SALT) | (m->nodes.n ? HAS_NODES : 0) |
                   (m->data.n ? HAS_DATA : 0);
    return (has & ~fields_of(m->kind)) == 0;
}

/* ---- paths ---- */

static void path_open(struct vd_game_path *path, uint64_t n, const struct vd_hash *root)
{
    *path = (struct vd_game_path){.n = n, .span = {0, n}, .node = *root};
}

/* True if the nodes are the descendants of the path's node, VD_GAME_LEVELS down. */
static bool path_fits(const struct vd_game_path *path, struct vd_bytes nodes, unsigned levels)
{
    size_t n = vd_merkle_spans(path->span, levels, NULL, 0);
    if (nodes.n != n * VD_HASH_BYTES)
        return false;
    struct vd_hash h = vd_merkle_spans_root(path->span, levels, (const struct vd_hash *)nodes.p, n);
    return vd_hash_eq(&h, &path->node);
}

/* Goes down to number k of the nodes shown, keeping the siblings. */
static void path_choose(struct vd_game_path *path, unsigned levels, const struct vd_hash *shown, size_t k)
{
    while (levels > 0 && path->span.count > 1) {
        struct vd_merkle_span half[2];
        vd_merkle_spans(path->span, 1, half, 2);
        levels--;
        size_t n_left = vd_merkle_spans(half[0], levels, NULL, 0);
        bool right = k >= n_left;
        const struct vd_hash *other = right ? shown : shown + n_left;
        size_t n_other = right ? n_left : vd_merkle_spans(half[1], levels, NULL, 0);
        assert(path->n_siblings < VD_GAME_PATH_MAX);
        path->sibling[path->n_siblings++] = vd_merkle_spans_root(half[!right], levels, other, n_other);
        path->span = half[right];
        shown += right ? n_left : 0;
        k -= right ? n_left : 0;
    }
    path->node = *shown;
}

static void show(struct vd_game *game, struct vd_bytes nodes)
{
    game->n_shown = (uint32_t)(nodes.n / VD_HASH_BYTES);
    assert(game->n_shown <= VD_GAME_SHOWN_MAX);
    memcpy(game->shown, nodes.p, nodes.n);
}

/* ---- the worker's moves ---- */

struct turn {
    struct vd_game *game;
    const struct vd_ref_claim *claim;
    const struct vd_graph *g;
    const struct vd_hash *known_state_root;
    struct vd_move move;
};

static enum vd_game_result do_state(struct turn *t)
{
    struct vd_game *game = t->game;
    struct vd_game_path path;
    if (t->known_state_root && !vd_hash_eq(t->known_state_root, &t->move.root)) {
        game->phase = VD_PHASE_OVER;
        return VD_GAME_WORKER_STATE;
    }
    path_open(&path, vd_graph_groups(t->g), &t->move.root);
    /* A tree of one leaf could have the root zero, which for the ledger means that none was shown yet. */
    if (vd_hash_is_zero(&t->move.root) || !path_fits(&path, t->move.nodes, VD_GAME_LEVELS))
        return VD_GAME_REJECT_FIT;
    game->state_root = t->move.root;
    game->steps = path;
    show(game, t->move.nodes);
    game->phase = VD_PHASE_C_STATE;
    return VD_GAME_ACCEPTED;
}

static enum vd_game_result do_nodes(struct turn *t)
{
    if (!path_fits(&t->game->steps, t->move.nodes, VD_GAME_LEVELS))
        return VD_GAME_REJECT_FIT;
    show(t->game, t->move.nodes);
    t->game->phase = t->game->phase == VD_PHASE_W_NODES ? VD_PHASE_C_STEP : VD_PHASE_C_BIND;
    return VD_GAME_ACCEPTED;
}

/* The path's node is the hash of (group, its root): so the root is computed from what is shown. */
static bool open_group(struct turn *t, struct vd_game_path *path)
{
    struct vd_game *game = t->game;
    uint32_t group = (uint32_t)game->steps.span.first, n = vd_graph_members(t->g, group);
    struct vd_merkle_span all = {0, n};
    size_t n_nodes = vd_merkle_spans(all, VD_GAME_LEVELS, NULL, 0);
    if (t->move.nodes.n != n_nodes * VD_HASH_BYTES)
        return false;
    struct vd_hash root =
        vd_merkle_spans_root(all, VD_GAME_LEVELS, (const struct vd_hash *)t->move.nodes.p, n_nodes);
    struct vd_hash leaf = vd_trace_step(group, &root);
    path_open(path, n, &root);
    return vd_hash_eq(&leaf, &game->steps.node);
}

static enum vd_game_result do_units(struct turn *t)
{
    struct vd_game *game = t->game;
    struct vd_game_path path = game->units;
    bool first = path.n == 0;
    if (first ? !open_group(t, &path) : !path_fits(&path, t->move.nodes, VD_GAME_LEVELS))
        return VD_GAME_REJECT_FIT;
    if (first)
        game->group_root = path.node;
    game->units = path;
    show(game, t->move.nodes);
    game->phase = VD_PHASE_C_UNIT;
    return VD_GAME_ACCEPTED;
}

/* The root of an operator that the program does not have is 32 zero bytes: there is nothing to open. */
static bool absent_are_zero(const struct turn *t, const struct vd_hash *root, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct vd_graph_op o;
        vd_graph_op(t->g, t->game->step, t->game->unit, i, &o);
        if (o.n_records == 0 && !vd_hash_is_zero(&root[i]))
            return false;
    }
    return true;
}

static enum vd_game_result do_ops(struct turn *t)
{
    struct vd_game *game = t->game;
    const struct vd_hash *root = (const struct vd_hash *)t->move.nodes.p;
    uint32_t n = vd_graph_ops(t->g, game->step, game->unit);
    struct vd_hash outs[VD_GRAPH_OUTS_MAX] = {{{0}}};
    uint8_t ops[VD_GRAPH_OUTS_MAX];
    if (t->move.nodes.n != n * (size_t)VD_HASH_BYTES || !absent_are_zero(t, root, n))
        return VD_GAME_REJECT_FIT;
    unsigned n_outs = vd_graph_outs(t->g, game->step, game->unit, ops);
    for (unsigned i = 0; i < n_outs; i++)
        if (ops[i] != VD_GRAPH_NO_OP)
            outs[i] = root[ops[i]];
    struct vd_trace_at at = {t->move.salt, game->step, game->unit, 0};
    struct vd_hash unit = vd_trace_unit(&at, outs, n_outs);
    if (!vd_hash_eq(&unit, &game->units.node))
        return VD_GAME_REJECT_FIT;
    game->salt = t->move.salt;
    game->n_ops = n;
    memcpy(game->op_root, root, t->move.nodes.n);
    game->n_shown = 0;
    game->phase = VD_PHASE_C_OP;
    return VD_GAME_ACCEPTED;
}

static enum vd_game_result do_leaves(struct turn *t)
{
    if (!path_fits(&t->game->leaves, t->move.nodes, VD_GAME_LEVELS))
        return VD_GAME_REJECT_FIT;
    show(t->game, t->move.nodes);
    t->game->phase = VD_PHASE_C_LEAF;
    return VD_GAME_ACCEPTED;
}

/* With a leaf of EMBED comes the token that it embeds, under the salt of this step: the worker signed the
 * tree that holds it, so a worker that cannot open it has nobody else to blame for its clock. */
static enum vd_game_result do_records(struct turn *t)
{
    struct vd_game *game = t->game;
    struct vd_bytes data = t->move.data;
    struct vd_graph_op o;
    uint64_t leaf = game->leaves.span.first;
    uint32_t token = 0;
    vd_graph_op(t->g, game->step, game->unit, game->op, &o);
    size_t n = vd_graph_leaf_bytes(&o, leaf);
    if (data.n < n || (data.n > n && o.kind != VD_OP_EMBED))
        return VD_GAME_REJECT_FIT;
    struct vd_trace_at at = {game->salt, game->step, game->unit,
                             o.kind == VD_OP_VECTOR ? VD_TRACE_OP_VECTOR : game->op};
    struct vd_hash h = vd_trace_leaf(&at, (uint32_t)leaf, data.p, n);
    if (!vd_hash_eq(&h, &game->leaves.node))
        return VD_GAME_REJECT_FIT;
    if (o.kind == VD_OP_EMBED && !vd_referee_token(t->claim, &game->salt, game->step,
                                                   (struct vd_bytes){data.p + n, data.n - n}, &token))
        return VD_GAME_REJECT_OPENING;
    game->token = token;
    game->n_record_bytes = (uint32_t)n;
    memcpy(game->records, data.p, n);
    game->phase = VD_PHASE_C_TILE;
    return VD_GAME_ACCEPTED;
}

static enum vd_game_result do_bind_open(struct turn *t)
{
    if (!vd_referee_bind(t->claim, &t->game->state_root, t->game->step, t->move.data))
        return VD_GAME_REJECT_OPENING;
    t->game->phase = VD_PHASE_OVER;
    return VD_GAME_CHALLENGER_BIND;
}

/* ---- the challenger's moves ---- */

/* Goes down to number `index` of the nodes shown. */
static bool choose(struct vd_game *game, struct vd_game_path *path, uint64_t index)
{
    if (index >= game->n_shown)
        return false;
    path_choose(path, VD_GAME_LEVELS, game->shown, (size_t)index);
    game->n_shown = 0;
    return true;
}

static enum vd_game_result do_step(struct turn *t)
{
    struct vd_game *game = t->game;
    if (!choose(game, &game->steps, t->move.index))
        return VD_GAME_REJECT_RANGE;
    game->phase = game->steps.span.count == 1 ? VD_PHASE_W_UNITS : VD_PHASE_W_NODES;
    return VD_GAME_ACCEPTED;
}

static enum vd_game_result do_unit(struct turn *t)
{
    struct vd_game *game = t->game;
    if (!choose(game, &game->units, t->move.index))
        return VD_GAME_REJECT_RANGE;
    game->phase = VD_PHASE_W_UNITS;
    if (game->units.span.count == 1) {
        vd_graph_at(t->g, vd_game_place(game), &game->step, &game->unit);
        game->phase = VD_PHASE_W_OPS;
    }
    return VD_GAME_ACCEPTED;
}

static enum vd_game_result do_op(struct turn *t)
{
    struct vd_game *game = t->game;
    struct vd_graph_op o;
    if (t->move.index >= game->n_ops)
        return VD_GAME_REJECT_RANGE;
    vd_graph_op(t->g, game->step, game->unit, (uint32_t)t->move.index, &o);
    if (o.n_records == 0)
        return VD_GAME_REJECT_RANGE;
    game->op = (uint32_t)t->move.index;
    path_open(&game->leaves, vd_graph_leaves(&o), &game->op_root[game->op]);
    game->phase = game->leaves.n == 1 ? VD_PHASE_W_RECORDS : VD_PHASE_W_LEAVES;
    return VD_GAME_ACCEPTED;
}

static enum vd_game_result do_leaf(struct turn *t)
{
    struct vd_game *game = t->game;
    if (!choose(game, &game->leaves, t->move.index))
        return VD_GAME_REJECT_RANGE;
    game->phase = game->leaves.span.count == 1 ? VD_PHASE_W_RECORDS : VD_PHASE_W_LEAVES;
    return VD_GAME_ACCEPTED;
}

uint32_t vd_game_tile_records(const struct vd_game *game, const struct vd_ref_claim *claim)
{
    struct vd_graph_op o;
    assert(game->phase == VD_PHASE_C_TILE);
    vd_graph_op(&claim->graph, game->step, game->unit, game->op, &o);
    return game->n_record_bytes / o.record_bytes;
}

enum vd_ref_verdict vd_game_tile(const struct vd_game *game, const struct vd_ref_claim *claim, uint64_t index,
                                 struct vd_bytes opening, struct vd_game_tile *out)
{
    assert(index < vd_game_tile_records(game, claim));
    vd_graph_op(&claim->graph, game->step, game->unit, game->op, &out->op);
    out->record = game->leaves.span.first * out->op.leaf_records + index;
    out->worker_record = game->records + index * out->op.record_bytes;
    struct vd_ref_point pt = {.step = game->step,
                              .unit = game->unit,
                              .op = game->op,
                              .record = out->record,
                              .token = game->token,
                              .salt = game->salt,
                              .state_root = game->state_root,
                              .group_root = game->group_root,
                              .op_roots = game->op_root};
    return vd_referee_tile(claim, &pt, out->worker_record, opening, out->true_record);
}

static enum vd_game_result do_tile(struct turn *t)
{
    struct vd_game *game = t->game;
    struct vd_game_tile tile;
    if (t->move.index >= vd_game_tile_records(game, t->claim))
        return VD_GAME_REJECT_RANGE;
    switch (vd_game_tile(game, t->claim, t->move.index, t->move.data, &tile)) {
    case VD_REF_REJECTED:
        break;
    case VD_REF_WORKER_LOSES:
        game->phase = VD_PHASE_OVER;
        return VD_GAME_WORKER_TILE;
    case VD_REF_CHALLENGER_LOSES:
        game->phase = VD_PHASE_OVER;
        return VD_GAME_CHALLENGER_TILE;
    }
    return VD_GAME_REJECT_OPENING;
}

static enum vd_game_result do_salt(struct turn *t)
{
    struct vd_hash commit = vd_salt_commit(t->move.salt.b);
    if (!vd_hash_eq(&commit, &t->claim->salt_commit))
        return VD_GAME_REJECT_OPENING;
    struct vd_hash salt = vd_trace_salt(t->move.salt.b, t->game->step);
    t->game->phase = VD_PHASE_OVER;
    return vd_hash_eq(&salt, &t->game->salt) ? VD_GAME_CHALLENGER_SALT : VD_GAME_WORKER_SALT;
}

/* From the state tree's root over to the commit tree's, or further down in it. */
static enum vd_game_result do_bind_node(struct turn *t)
{
    struct vd_game *game = t->game;
    if (game->phase == VD_PHASE_C_STATE) {
        if (t->move.index != 0)
            return VD_GAME_REJECT_RANGE;
        path_open(&game->steps, t->g->job.n_steps, &t->claim->commit_root);
        game->n_shown = 0;
    } else {
        struct vd_game_path path = game->steps;
        if (t->move.index >= game->n_shown)
            return VD_GAME_REJECT_RANGE;
        path_choose(&path, VD_GAME_LEVELS, game->shown, (size_t)t->move.index);
        if (path.span.count == 1)
            return VD_GAME_REJECT_RANGE; /* nothing lies below: BIND */
        game->steps = path;
        game->n_shown = 0;
    }
    game->phase = VD_PHASE_W_BIND_NODES;
    return VD_GAME_ACCEPTED;
}

static enum vd_game_result do_bind(struct turn *t)
{
    if (t->move.index >= t->g->job.n_steps)
        return VD_GAME_REJECT_RANGE;
    t->game->step = (uint32_t)t->move.index;
    t->game->n_shown = 0;
    t->game->phase = VD_PHASE_W_BIND_OPEN;
    return VD_GAME_ACCEPTED;
}

/* ---- turns ---- */

void vd_game_open(struct vd_game *game)
{
    memset(game, 0, sizeof *game);
    game->phase = VD_PHASE_W_STATE;
}

/* The moves that a phase allows, each with its function. */
struct allowed {
    enum vd_move_kind kind;
    enum vd_game_result (*apply)(struct turn *);
};
static const struct allowed allowed_moves[VD_PHASE_OVER + 1][3] = {
    [VD_PHASE_W_STATE] = {{VD_MOVE_STATE, do_state}},
    [VD_PHASE_C_STATE] = {{VD_MOVE_STEP, do_step},
                          {VD_MOVE_BIND_NODE, do_bind_node},
                          {VD_MOVE_BIND, do_bind}},
    [VD_PHASE_W_NODES] = {{VD_MOVE_NODES, do_nodes}},
    [VD_PHASE_C_STEP] = {{VD_MOVE_STEP, do_step}},
    [VD_PHASE_W_UNITS] = {{VD_MOVE_UNITS, do_units}},
    [VD_PHASE_C_UNIT] = {{VD_MOVE_UNIT, do_unit}},
    [VD_PHASE_W_OPS] = {{VD_MOVE_OPS, do_ops}},
    [VD_PHASE_C_OP] = {{VD_MOVE_OP, do_op}, {VD_MOVE_SALT, do_salt}},
    [VD_PHASE_W_LEAVES] = {{VD_MOVE_LEAVES, do_leaves}},
    [VD_PHASE_C_LEAF] = {{VD_MOVE_LEAF, do_leaf}},
    [VD_PHASE_W_RECORDS] = {{VD_MOVE_RECORDS, do_records}},
    [VD_PHASE_C_TILE] = {{VD_MOVE_TILE, do_tile}},
    [VD_PHASE_W_BIND_NODES] = {{VD_MOVE_BIND_NODES, do_nodes}},
    [VD_PHASE_C_BIND] = {{VD_MOVE_BIND_NODE, do_bind_node}, {VD_MOVE_BIND, do_bind}},
    [VD_PHASE_W_BIND_OPEN] = {{VD_MOVE_BIND_OPEN, do_bind_open}},
};

enum vd_game_side vd_game_turn(const struct vd_game *game)
{
    enum vd_move_kind first = allowed_moves[game->phase][0].kind;
    return first ? side_of(first) : VD_GAME_WORKER;
}

enum vd_game_result vd_game_move(struct vd_game *game, const struct vd_ref_claim *claim,
                                 const struct vd_hash *known_state_root, enum vd_game_side side,
                                 struct vd_bytes move)
{
    struct turn t = {game, claim, &claim->graph, known_state_root, {0}};
    if (game->phase == VD_PHASE_OVER || vd_game_turn(game) != side)
        return VD_GAME_REJECT_TURN;
    if (!vd_move_decode(move, &t.move))
        return VD_GAME_REJECT_MALFORMED;
    for (unsigned i = 0; i < 3 && allowed_moves[game->phase][i].apply; i++)
        if (allowed_moves[game->phase][i].kind == t.move.kind)
            return allowed_moves[game->phase][i].apply(&t);
    return VD_GAME_REJECT_KIND;
}
