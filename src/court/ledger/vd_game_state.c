/* The bytes of a game. What a phase does not use is zero and takes no room; decoding derives from claim and
 * phase what must be there, so that a game read back can be played without another check. */
#include "vd_game.h"

#include "vd_pb.h"

#include <assert.h>

static void put_path(struct vd_pb_writer *w, uint32_t field, const struct vd_game_path *path)
{
    size_t mark = vd_pb_begin(w, field);
    vd_pb_put_u64(w, 1, path->n);
    vd_pb_put_u64(w, 2, path->span.first);
    vd_pb_put_u64(w, 3, path->span.count);
    vd_pb_put_opt_fixed(w, 4, path->node.b, VD_HASH_BYTES);
    vd_pb_put_bytes(w, 5, path->sibling, path->n_siblings * sizeof path->sibling[0]);
    vd_pb_end(w, mark, false);
}

size_t vd_game_encode(const struct vd_game *game, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_u64(&w, 1, game->phase);
    vd_pb_put_opt_fixed(&w, 2, game->state_root.b, VD_HASH_BYTES);
    put_path(&w, 3, &game->steps);
    put_path(&w, 4, &game->units);
    put_path(&w, 5, &game->leaves);
    vd_pb_put_u64(&w, 6, game->step);
    vd_pb_put_u64(&w, 7, game->unit);
    vd_pb_put_u64(&w, 8, game->op);
    vd_pb_put_opt_fixed(&w, 9, game->group_root.b, VD_HASH_BYTES);
    vd_pb_put_opt_fixed(&w, 10, game->salt.b, VD_HASH_BYTES);
    vd_pb_put_bytes(&w, 11, game->op_root, game->n_ops * sizeof game->op_root[0]);
    vd_pb_put_bytes(&w, 12, game->shown, game->n_shown * sizeof game->shown[0]);
    vd_pb_put_bytes(&w, 13, game->records, game->n_record_bytes);
    vd_pb_put_u64(&w, 14, game->token);
    return w.overflow ? 0 : w.n_bytes;
}

/* At most cap hashes; returns how many. */
static uint32_t get_hashes(struct vd_pb_reader *r, uint32_t field, struct vd_hash *out, uint32_t cap)
{
    struct vd_bytes b = vd_pb_get_bytes(r, field, cap * sizeof out[0]);
    if (b.n % sizeof out[0])
        r->bad = true;
    if (r->bad || b.n == 0)
        return 0;
    memcpy(out, b.p, b.n);
    return (uint32_t)(b.n / sizeof out[0]);
}

static void get_path(struct vd_pb_reader *r, uint32_t field, struct vd_game_path *path)
{
    struct vd_bytes b = vd_pb_get_bytes(r, field, sizeof *path + 64);
    if (b.n == 0)
        return;
    struct vd_pb_reader in = vd_pb_reader_init(b.p, b.n);
    path->n = vd_pb_get_u64(&in, 1, UINT64_MAX);
    path->span.first = vd_pb_get_u64(&in, 2, UINT64_MAX);
    path->span.count = vd_pb_get_u64(&in, 3, UINT64_MAX);
    vd_pb_get_opt_fixed(&in, 4, path->node.b, VD_HASH_BYTES);
    path->n_siblings = get_hashes(&in, 5, path->sibling, VD_GAME_PATH_MAX);
    if (!vd_pb_done(&in))
        r->bad = true;
}

/* True if the path leads down a tree of n leaves to its span with as many siblings as it has. */
static bool path_ok(const struct vd_game_path *path, uint64_t n)
{
    struct vd_merkle_span at = {0, n}, half[2];
    uint32_t depth = 0;
    if (path->n != n || path->span.count < 1 || path->span.count > n ||
        path->span.first > n - path->span.count)
        return false;
    while (at.count > path->span.count) {
        vd_merkle_spans(at, 1, half, 2);
        at = half[path->span.first >= half[1].first];
        depth++;
    }
    return at.first == path->span.first && at.count == path->span.count && depth == path->n_siblings;
}

static bool path_is_zero(const struct vd_game_path *path)
{
    return path->n == 0 && path->span.first == 0 && path->span.count == 0 && path->n_siblings == 0 &&
           vd_hash_is_zero(&path->node);
}

/* ---- the shape that each phase has ---- */

static size_t shown_below(const struct vd_game_path *path)
{
    return vd_merkle_spans(path->span, VD_GAME_LEVELS, NULL, 0);
}

static bool shown_ok(const struct vd_game *game, const struct vd_game_path *path, uint64_t n)
{
    return path_ok(path, n) && game->n_shown == shown_below(path);
}

static bool chosen_ok(const struct vd_game *game, const struct vd_game_path *path, uint64_t n)
{
    return path_ok(path, n) && game->n_shown == 0;
}

/* From W_UNITS on: one group is left. */
static bool group_ok(const struct vd_game *game, const struct vd_graph *g)
{
    return path_ok(&game->steps, vd_graph_groups(g)) && game->steps.span.count == 1;
}

static uint32_t members(const struct vd_game *game, const struct vd_graph *g)
{
    return vd_graph_members(g, (uint32_t)game->steps.span.first);
}

/* One unit is left. */
static bool unit_ok(const struct vd_game *game, const struct vd_graph *g)
{
    uint32_t step, unit;
    if (!group_ok(game, g) || !path_ok(&game->units, members(game, g)) || game->units.span.count != 1)
        return false;
    vd_graph_at(g, vd_game_place(game), &step, &unit);
    return game->step == step && game->unit == unit;
}

static bool ops_ok(const struct vd_game *game, const struct vd_graph *g)
{
    return unit_ok(game, g) && game->n_ops == vd_graph_ops(g, game->step, game->unit);
}

static bool op_ok(const struct vd_game *game, const struct vd_graph *g, struct vd_graph_op *o)
{
    if (!ops_ok(game, g) || game->op >= game->n_ops)
        return false;
    vd_graph_op(g, game->step, game->unit, game->op, o);
    return o->n_records > 0 && path_ok(&game->leaves, vd_graph_leaves(o));
}

static bool shape_ok(const struct vd_game *game, const struct vd_graph *g)
{
    struct vd_graph_op o;
    switch (game->phase) {
    case VD_PHASE_W_STATE:
        return path_is_zero(&game->steps) && game->n_shown == 0;
    case VD_PHASE_C_STATE:
    case VD_PHASE_C_STEP:
        return shown_ok(game, &game->steps, vd_graph_groups(g));
    case VD_PHASE_C_BIND:
        return shown_ok(game, &game->steps, g->job.n_steps);
    case VD_PHASE_W_NODES:
        return chosen_ok(game, &game->steps, vd_graph_groups(g));
    case VD_PHASE_W_BIND_NODES:
        return chosen_ok(game, &game->steps, g->job.n_steps);
    case VD_PHASE_W_UNITS:
        return group_ok(game, g) && game->n_shown == 0 &&
               (path_is_zero(&game->units) ||
                (path_ok(&game->units, members(game, g)) && game->units.span.count > 1));
    case VD_PHASE_C_UNIT:
        return group_ok(game, g) && shown_ok(game, &game->units, members(game, g));
    case VD_PHASE_W_OPS:
        return unit_ok(game, g) && game->n_shown == 0;
    case VD_PHASE_C_OP:
        return ops_ok(game, g) && game->n_shown == 0;
    case VD_PHASE_W_LEAVES:
        return op_ok(game, g, &o) && game->n_shown == 0;
    case VD_PHASE_C_LEAF:
        return op_ok(game, g, &o) && game->n_shown == shown_below(&game->leaves);
    case VD_PHASE_W_RECORDS:
        return op_ok(game, g, &o) && game->leaves.span.count == 1 && game->n_shown == 0;
    case VD_PHASE_C_TILE:
        return op_ok(game, g, &o) && game->leaves.span.count == 1 && game->n_shown == 0 &&
               game->n_record_bytes == vd_graph_leaf_bytes(&o, game->leaves.span.first);
    case VD_PHASE_W_BIND_OPEN:
        return game->step < g->job.n_steps && game->n_shown == 0;
    case VD_PHASE_OVER:
        return true;
    }
    return false;
}

bool vd_game_decode(struct vd_bytes in, const struct vd_ref_claim *claim, struct vd_game *game)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    memset(game, 0, sizeof *game);
    if (in.n > VD_GAME_MAX_BYTES)
        return false;
    game->phase = (enum vd_game_phase)vd_pb_get_u64(&r, 1, VD_PHASE_OVER);
    vd_pb_get_opt_fixed(&r, 2, game->state_root.b, VD_HASH_BYTES);
    get_path(&r, 3, &game->steps);
    get_path(&r, 4, &game->units);
    get_path(&r, 5, &game->leaves);
    game->step = (uint32_t)vd_pb_get_u64(&r, 6, UINT32_MAX);
    game->unit = (uint32_t)vd_pb_get_u64(&r, 7, UINT32_MAX);
    game->op = (uint32_t)vd_pb_get_u64(&r, 8, UINT32_MAX);
    vd_pb_get_opt_fixed(&r, 9, game->group_root.b, VD_HASH_BYTES);
    vd_pb_get_opt_fixed(&r, 10, game->salt.b, VD_HASH_BYTES);
    game->n_ops = get_hashes(&r, 11, game->op_root, VD_GRAPH_OPS_MAX);
    game->n_shown = get_hashes(&r, 12, game->shown, VD_GAME_SHOWN_MAX);
    struct vd_bytes records = vd_pb_get_bytes(&r, 13, VD_GRAPH_LEAF_BYTES_MAX);
    game->n_record_bytes = (uint32_t)records.n;
    if (records.n)
        memcpy(game->records, records.p, records.n);
    game->token = (uint32_t)vd_pb_get_u64(&r, 14, UINT32_MAX);
    return vd_pb_done(&r) && shape_ok(game, &claim->graph);
}
