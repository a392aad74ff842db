/* Whole games in process: workers who lie anywhere against honest challengers, and challengers who lie
 * against honest workers, over small random models of every form. The liar loses every one. Everything is
 * drawn from seeds; an exception is printed with the two numbers that repeat it:
 *
 *     vd_tamper_test BASE TAMPER      that tamper alone;   vd_tamper_test BASE false N    that false
 * challenge
 *
 * A side whose move is not accepted, or which has none, runs out of its clock here and now; what clocks do
 * then is the ledger's (vd_tamper_court_test.c). VD_LONG=1: 12,000 tampers, 2,400 false challenges. Every
 * tile that a game arrives at is also judged by the freestanding referee, where the build has one. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <dlfcn.h>
#include <stdio.h>
#include <time.h>

#include "vd_player.h"
#include "vd_tamper.h"

enum {
    TAMPERS_OF_BASE = 20,
    FALSE_OF_BASE = 4,
    BASES = 60,
    BASES_LONG = 600,
    TAMPERS_OF_TYPE = 2,
    TAMPERS_OF_TYPE_LONG = 12,
};

/* ---- the other referee ---- */

typedef enum vd_ref_verdict referee_fn(const struct vd_ref_claim *claim, const struct vd_ref_point *pt,
                                       const uint8_t *worker_record, struct vd_bytes opening,
                                       uint8_t true_record[VD_GRAPH_RECORD_BYTES_MAX]);
static referee_fn *other_referee;

static void open_other_referee(void)
{
#ifdef VD_REFEREE_FREE
    void *library = dlopen(VD_REFEREE_FREE, RTLD_NOW | RTLD_LOCAL);
    void *p = library ? dlsym(library, "vd_referee_tile") : NULL;
    if (!p)
        fail_msg("%s", dlerror());
    memcpy(&other_referee, &p, sizeof p);
#endif
}

/* ---- what was seen ---- */

static struct {
    uint64_t games, lost_tile, lost_bind, lost_clock, lost_other, refused, without_effect, tiles, slowest_ns;
    enum vd_op slowest;
    uint64_t of_kind[TAMPER_KINDS], of_form[TAMPER_FORMS], vectors, by_op[VD_OP_KINDS];
} seen;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* ---- a game ---- */

static struct vd_player_move move, plain;
static struct vd_game game, before;
static enum vd_game_result last;

enum ending {
    WORKER_LOST,
    WORKER_LATE,
    CHALLENGER_LOST,
    CHALLENGER_LATE,
    NOTHING_TO_POINT_AT,
    BROKEN, /* an honest side had no move, or it was not accepted */
};

static struct vd_bytes bytes_of(const struct vd_player_move *m)
{
    return (struct vd_bytes){m->bytes, m->n_bytes};
}

static void encode(struct vd_player_move *out, const struct vd_move *m)
{
    out->kind = m->kind;
    out->n_bytes = vd_move_encode(m, out->bytes, sizeof out->bytes);
}

/* Both referees on what a TILE move shows, before it is made. */
static void judge_twice(const struct vd_ref_claim *claim, struct vd_bytes bytes)
{
    struct vd_move m;
    struct vd_graph_op o;
    uint8_t record[2][VD_GRAPH_RECORD_BYTES_MAX];
    if (game.phase != VD_PHASE_C_TILE || !vd_move_decode(bytes, &m) || m.kind != VD_MOVE_TILE ||
        m.index >= vd_game_tile_records(&game, claim))
        return;
    vd_graph_op(&claim->graph, game.step, game.unit, game.op, &o);
    struct vd_ref_point pt = {.step = game.step,
                              .unit = game.unit,
                              .op = game.op,
                              .record = game.leaves.span.first * o.leaf_records + m.index,
                              .token = game.token,
                              .salt = game.salt,
                              .state_root = game.state_root,
                              .group_root = game.group_root,
                              .op_roots = game.op_root};
    const uint8_t *shown = game.records + m.index * o.record_bytes;
    uint64_t began = now_ns();
    enum vd_ref_verdict v = vd_referee_tile(claim, &pt, shown, m.data, record[0]);
    uint64_t took = now_ns() - began;
    seen.tiles++;
    if (took > seen.slowest_ns) {
        seen.slowest_ns = took;
        seen.slowest = o.kind;
    }
    if (!other_referee)
        return;
    assert_int_equal(other_referee(claim, &pt, shown, m.data, record[1]), v);
    if (v != VD_REF_REJECTED)
        assert_memory_equal(record[0], record[1], o.record_bytes);
}

static enum vd_game_result make_move(const struct vd_ref_claim *claim, const struct vd_hash *known,
                                     enum vd_game_side side, const struct vd_player_move *m)
{
    static uint8_t stored[VD_GAME_MAX_BYTES];
    judge_twice(claim, bytes_of(m));
    before = game;
    enum vd_game_result r = vd_game_move(&game, claim, known, side, bytes_of(m));
    if (vd_game_rejected(r)) {
        assert_memory_equal(&game, &before, sizeof game);
    } else if (r == VD_GAME_ACCEPTED) { /* as the ledger keeps it between moves */
        size_t n = vd_game_encode(&game, stored, sizeof stored);
        assert_true(n > 0);
        assert_true(vd_game_decode((struct vd_bytes){stored, n}, claim, &game));
    }
    return r;
}

/* ---- moves that are wrong ---- */

static uint8_t scratch[VD_MOVE_MAX_BYTES + 64];

/* Changes a move's hashes or bytes by its fields; what remains is canonical. */
static void spoil_fields(struct vd_rng *rng, struct vd_player_move *m)
{
    struct vd_move d;
    if (!vd_move_decode(bytes_of(m), &d))
        return;
    struct vd_bytes *part = d.data.n && (d.nodes.n == 0 || chance(rng, 2)) ? &d.data : &d.nodes;
    size_t grain = part == &d.nodes ? VD_HASH_BYTES : 1 + vd_rng_below(rng, 40);
    if (part->n)
        memcpy(scratch, part->p, part->n);
    part->p = scratch;
    switch (vd_rng_below(rng, 8)) {
    case 0:
        part->n -= part->n < grain ? part->n : grain;
        break;
    case 1:
        memset(scratch + part->n, (int)vd_rng_below(rng, 256), part->n + grain <= sizeof scratch ? grain : 0);
        part->n += part->n + grain <= VD_OPENING_MAX_BYTES ? grain : 0;
        break;
    case 2: /* two parts change places */
        if (part->n >= 2 * grain) {
            memcpy(scratch, part->p + part->n - grain, grain);
            break;
        }
        d.index++;
        break;
    case 3:
        d.index += 1 + vd_rng_below(rng, 3);
        break;
    case 4:
        flip_bit(rng, d.salt.b, sizeof d.salt.b);
        break;
    case 5:
        flip_bit(rng, d.root.b, sizeof d.root.b);
        break;
    default:
        if (part->n)
            flip_bit(rng, scratch, part->n);
        break;
    }
    encode(m, &d);
}

static void spoil(struct vd_rng *rng, struct vd_player_move *m)
{
    switch (vd_rng_below(rng, 6)) {
    case 0:
        flip_bit(rng, m->bytes, m->n_bytes);
        return;
    case 1:
        m->n_bytes = vd_rng_below(rng, m->n_bytes);
        return;
    case 2:
        m->n_bytes = 1 + vd_rng_below(rng, 300);
        for (size_t i = 0; i < m->n_bytes; i++)
            m->bytes[i] = (uint8_t)vd_rng_next(rng);
        return;
    case 3: /* of another kind */
        m->bytes[1] = (uint8_t)(1 + vd_rng_below(rng, 17));
        return;
    default:
        spoil_fields(rng, m);
        return;
    }
}

/* A right answer to another question: another step's, unit's, operator's, or leaf's. False: there is none. */
static bool answer_beside(struct vd_rng *rng, struct vd_trace *t, struct vd_player_move *m)
{
    static struct vd_game beside;
    struct vd_graph_op o;
    beside = game;
    beside.step = (uint32_t)vd_rng_below(rng, t->graph.job.n_steps);
    beside.unit = (uint32_t)vd_rng_below(rng, vd_graph_units(&t->graph, beside.step));
    beside.op = (uint32_t)vd_rng_below(rng, vd_graph_ops(&t->graph, beside.step, beside.unit));
    vd_graph_op(&t->graph, beside.step, beside.unit, beside.op, &o);
    if (o.n_records == 0)
        return false;
    uint64_t n = vd_graph_leaves(&o);
    beside.leaves.n = n;
    beside.leaves.span = (struct vd_merkle_span){0, n};
    if (game.phase == VD_PHASE_W_RECORDS)
        beside.leaves.span = (struct vd_merkle_span){vd_rng_below(rng, n), 1};
    return vd_player_worker_answer(t, &beside, m, NULL) == VD_OK;
}

/* A state root that fits nodes of which one is wrong. */
static void other_state(struct vd_rng *rng, const struct vd_trace *t, struct vd_player_move *m)
{
    struct vd_move d;
    if (!vd_move_decode(bytes_of(m), &d) || d.kind != VD_MOVE_STATE)
        return;
    static struct vd_hash node[VD_GAME_SHOWN_MAX];
    memcpy(node, d.nodes.p, d.nodes.n);
    size_t n = d.nodes.n / VD_HASH_BYTES;
    flip_bit(rng, node[vd_rng_below(rng, n)].b, VD_HASH_BYTES);
    d.root =
        vd_merkle_spans_root((struct vd_merkle_span){0, vd_graph_groups(&t->graph)}, VD_GAME_LEVELS, node, n);
    d.nodes.p = node[0].b;
    encode(m, &d);
}

/* ---- workers who lie ---- */

/* How a liar plays: most defend their trace as well as they can. */
struct manner {
    unsigned at; /* the move (from 0) at which it does something else */
    enum { DEFENDS, SILENT, SPOILS, BESIDE, OTHER_STATE, OTHER_TRACE } how;
    bool tries_again; /* with the right move, after a wrong one was not accepted */
};

static struct manner draw_manner(struct vd_rng *rng)
{
    struct manner m = {.at = (unsigned)vd_rng_below(rng, 6), .tries_again = chance(rng, 2)};
    static const uint8_t how[] = {SILENT, SPOILS, SPOILS, BESIDE, OTHER_STATE, OTHER_TRACE};
    if (chance(rng, 3))
        m.how = how[vd_rng_below(rng, sizeof how)];
    if (m.how == OTHER_STATE)
        m.at = 0;
    return m;
}

/* A liar's leaf hash of nothing, shown in LEAVES. */
static void show_bad_leaf(const struct tamper *t, struct vd_player_move *m)
{
    struct vd_move d;
    if (t->kind != TAMPER_LEAF_HASH || game.phase != VD_PHASE_W_LEAVES || game.step != t->step ||
        game.unit != t->unit || game.op != t->op || game.leaves.span.first != 0 ||
        !vd_move_decode(bytes_of(m), &d) || d.nodes.n / VD_HASH_BYTES != game.leaves.n)
        return;
    memcpy(scratch, d.nodes.p, d.nodes.n);
    memcpy(scratch, t->bad_leaf.b, VD_HASH_BYTES);
    d.nodes.p = scratch;
    encode(m, &d);
}

/* One turn of the worker; true: its clock runs out. */
static bool worker_turn(struct tamper *t, struct vd_trace *trace, const struct manner *how, unsigned n,
                        struct vd_rng *rng, const struct vd_hash *known, enum vd_game_result *r)
{
    bool now = how->how != DEFENDS && n >= how->at;
    if (now && how->how == SILENT)
        return true;
    if (vd_player_worker_answer(now && how->how == OTHER_TRACE ? t->base->trace : trace, &game, &plain, NULL))
        return true;
    show_bad_leaf(t, &plain);
    move = plain;
    if (now && how->how == SPOILS && n == how->at)
        spoil(rng, &move);
    if (now && how->how == BESIDE && n == how->at)
        answer_beside(rng, trace, &move);
    if (now && how->how == OTHER_STATE && n == 0)
        other_state(rng, trace, &move);
    *r = make_move(&t->claim, known, VD_GAME_WORKER, &move);
    if (vd_game_rejected(*r) && how->tries_again)
        *r = make_move(&t->claim, known, VD_GAME_WORKER, &plain);
    return vd_game_rejected(*r);
}

static enum ending play_liar(struct tamper *t, struct vd_trace *trace, const struct manner *how,
                             const struct vd_hash *known, struct vd_hash *shown)
{
    enum vd_game_result r = VD_GAME_ACCEPTED;
    struct vd_rng rng = t->rng;
    unsigned n = 0;
    vd_game_open(&game);
    while (r == VD_GAME_ACCEPTED) {
        if (vd_game_turn(&game) == VD_GAME_WORKER) {
            if (worker_turn(t, trace, how, n++, &rng, known, &r))
                return WORKER_LATE;
        } else {
            enum vd_err e = vd_player_challenger_point(t->truth, &t->claim, &game, &move, NULL);
            if (e != VD_OK)
                return e == VD_EFALSE && game.phase == VD_PHASE_C_STATE ? NOTHING_TO_POINT_AT : BROKEN;
            r = make_move(&t->claim, known, VD_GAME_CHALLENGER, &move);
            if (vd_game_rejected(r))
                return BROKEN;
        }
        *shown = game.state_root;
    }
    last = r;
    assert_true(n <= 7);
    seen.lost_tile += r == VD_GAME_WORKER_TILE;
    seen.lost_other += r == VD_GAME_WORKER_STATE || r == VD_GAME_WORKER_SALT;
    if (r == VD_GAME_WORKER_TILE) {
        struct vd_graph_op o;
        vd_graph_op(&t->claim.graph, game.step, game.unit, game.op, &o);
        seen.by_op[o.kind]++;
        seen.of_form[t->base->seed % TAMPER_FORMS]++;
        seen.vectors += vd_graph_pools(&t->claim.graph);
    }
    return vd_game_worker_loses(r) ? WORKER_LOST : CHALLENGER_LOST;
}

static void exception(const struct tamper *t, uint32_t n, const char *what, enum ending end)
{
    fail_msg("base %llu (%s) tamper %u, %s, at step %u unit %u op %u: %s (ending %d, phase %d)\n    repeat: "
             "vd_tamper_test %llu %u",
             (unsigned long long)t->base->seed, t->base->form->name, n, tamper_name(t->kind), t->step,
             t->unit, t->op, what, (int)end, (int)game.phase, (unsigned long long)t->base->seed, n);
}

/* The same receipt in a second dispute, after the worker has shown a state root: a friend of the worker's was
 * first and lost or fell silent. Whatever it shows now, it loses. */
static void second_dispute(struct tamper *t, uint32_t n, const struct vd_hash *known)
{
    const struct manner defends = {.how = DEFENDS};
    struct vd_hash shown = *known;
    bool honest_root = chance(&t->rng, 2);
    if (vd_hash_is_zero(known) || vd_hash_eq(known, &t->truth->state_root))
        return;
    last = VD_GAME_ACCEPTED;
    enum ending end = play_liar(t, honest_root ? t->truth : t->trace, &defends, known, &shown);
    if (end != WORKER_LOST && end != WORKER_LATE)
        exception(t, n, "a liar survived its second dispute", end);
    if (honest_root && last != VD_GAME_WORKER_STATE)
        exception(t, n, "a second state root was not noticed", end);
}

static void tamper_once(const struct tamper_base *b, uint32_t n)
{
    static struct tamper t;
    struct vd_hash shown = {{0}};
    tamper_open(&t, b, n);
    struct manner how = draw_manner(&t.rng);
    seen.games++;
    if (!tamper_receipt_is_valid(&t.receipt)) { /* nobody signs it, and no ledger takes it */
        seen.refused++;
        seen.of_kind[t.kind]++;
        tamper_close(&t);
        return;
    }
    bool is_true = tamper_is_true(&t);
    enum ending end = play_liar(&t, t.trace, &how, NULL, &shown);
    bool lost = end == WORKER_LOST || end == WORKER_LATE;
    if (!lost && !(is_true && end == NOTHING_TO_POINT_AT))
        exception(&t, n, "a liar survived", end);
    if (!is_true && lost && chance(&t.rng, 4))
        second_dispute(&t, n, &shown);
    seen.of_kind[t.kind] += lost && how.how == DEFENDS;
    seen.lost_bind += end == WORKER_LATE && game.phase == VD_PHASE_W_BIND_OPEN;
    seen.lost_clock += end == WORKER_LATE && game.phase != VD_PHASE_W_BIND_OPEN;
    seen.without_effect += !lost;
    tamper_close(&t);
}

/* ---- challengers who lie ---- */

/* A legal move toward (step, unit, op, record), as a challenger with any aim may make. */
static void point_anywhere(struct vd_rng *rng, const struct tamper_base *b, struct vd_move *m)
{
    const struct vd_graph *g = &b->claim.graph;
    struct vd_graph_op o;
    *m = (struct vd_move){.kind = VD_MOVE_STEP, .index = vd_rng_below(rng, game.n_shown ? game.n_shown : 1)};
    switch (game.phase) {
    case VD_PHASE_C_STATE:
        if (chance(rng, 5))
            *m = (struct vd_move){.kind = VD_MOVE_BIND_NODE};
        else if (chance(rng, 5))
            *m = (struct vd_move){.kind = VD_MOVE_BIND, .index = vd_rng_below(rng, g->job.n_steps)};
        return;
    case VD_PHASE_C_STEP:
        return;
    case VD_PHASE_C_UNIT:
        m->kind = VD_MOVE_UNIT;
        m->index = vd_rng_below(rng, game.n_shown);
        return;
    case VD_PHASE_C_OP:
        m->kind = VD_MOVE_OP;
        if (chance(rng, 10)) {
            m->kind = VD_MOVE_SALT;
            m->index = 0;
            memcpy(m->salt.b, b->job->job_salt, sizeof m->salt.b);
            return;
        }
        do {
            m->index = vd_rng_below(rng, game.n_ops);
            vd_graph_op(g, game.step, game.unit, (uint32_t)m->index, &o);
        } while (o.n_records == 0);
        return;
    case VD_PHASE_C_LEAF:
        m->kind = VD_MOVE_LEAF;
        return;
    case VD_PHASE_C_BIND:
        m->kind = VD_MOVE_BIND;
        m->index = vd_rng_below(rng, g->job.n_steps);
        return;
    case VD_PHASE_C_TILE:
        m->kind = VD_MOVE_TILE;
        m->index = vd_rng_below(rng, vd_game_tile_records(&game, &b->claim));
        vd_graph_op(g, game.step, game.unit, game.op, &o);
        m->data.p = scratch;
        if (vd_trace_load(b->trace, game.step, game.unit, NULL) != VD_OK ||
            vd_opening_tile(b->trace, &game, game.op, game.leaves.span.first * o.leaf_records + m->index,
                            scratch, VD_OPENING_MAX_BYTES, &m->data.n, NULL) != VD_OK)
            fail_msg("no opening of step %u unit %u op %u", game.step, game.unit, game.op);
        return;
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
    fail();
}

/* The opening of another record, or another operator's, under this record's number. */
static void open_another(struct vd_rng *rng, const struct tamper_base *b, struct vd_move *m)
{
    struct vd_graph_op o;
    uint32_t op = game.op;
    if (chance(rng, 2))
        op = (uint32_t)vd_rng_below(rng, game.n_ops);
    vd_graph_op(&b->claim.graph, game.step, game.unit, op, &o);
    if (o.n_records == 0)
        return;
    vd_opening_tile(b->trace, &game, op, vd_rng_below(rng, o.n_records), scratch, VD_OPENING_MAX_BYTES,
                    &m->data.n, NULL);
}

static enum ending play_false(const struct tamper_base *b, struct vd_rng *rng)
{
    enum vd_game_result r = VD_GAME_ACCEPTED;
    unsigned quits = (unsigned)vd_rng_below(rng, 40);
    struct vd_move m;
    vd_game_open(&game);
    for (unsigned n = 0; r == VD_GAME_ACCEPTED; n++) {
        if (vd_game_turn(&game) == VD_GAME_WORKER) {
            if (vd_player_worker_answer(b->trace, &game, &move, NULL) != VD_OK)
                return BROKEN;
            r = make_move(&b->claim, NULL, VD_GAME_WORKER, &move);
            if (r != VD_GAME_ACCEPTED && r != VD_GAME_CHALLENGER_BIND)
                return BROKEN;
            continue;
        }
        if (n >= quits)
            return CHALLENGER_LATE;
        for (unsigned i = (unsigned)vd_rng_below(rng, 4); i > 0 && r == VD_GAME_ACCEPTED; i--) {
            point_anywhere(rng, b, &m);
            if (m.kind == VD_MOVE_TILE && chance(rng, 3))
                open_another(rng, b, &m);
            encode(&move, &m);
            spoil(rng, &move);
            enum vd_game_result tried = make_move(&b->claim, NULL, VD_GAME_CHALLENGER, &move);
            if (!vd_game_rejected(tried))
                r = tried;
            if (vd_game_turn(&game) == VD_GAME_WORKER)
                break; /* a spoilt move may be another legal one */
        }
        if (r != VD_GAME_ACCEPTED || vd_game_turn(&game) == VD_GAME_WORKER)
            continue;
        point_anywhere(rng, b, &m);
        encode(&move, &m);
        r = make_move(&b->claim, NULL, VD_GAME_CHALLENGER, &move);
        if (vd_game_rejected(r))
            return BROKEN;
    }
    return vd_game_challenger_loses(r) ? CHALLENGER_LOST : WORKER_LOST;
}

/* A challenger who is sincere, and wrong: it has a liar's trace, and points at what differs from that. */
static enum ending play_wrong(struct tamper *t)
{
    const struct tamper_base *b = t->base;
    enum vd_game_result r = VD_GAME_ACCEPTED;
    vd_game_open(&game);
    while (r == VD_GAME_ACCEPTED) {
        bool worker = vd_game_turn(&game) == VD_GAME_WORKER;
        if (worker && vd_player_worker_answer(b->trace, &game, &move, NULL) != VD_OK)
            return BROKEN;
        if (!worker && vd_player_challenger_point(t->trace, &b->claim, &game, &move, NULL) != VD_OK)
            return CHALLENGER_LATE;
        r = make_move(&b->claim, NULL, worker ? VD_GAME_WORKER : VD_GAME_CHALLENGER, &move);
        if (vd_game_rejected(r))
            return worker ? BROKEN : CHALLENGER_LATE;
    }
    return vd_game_challenger_loses(r) ? CHALLENGER_LOST : WORKER_LOST;
}

/* Who challenges has a model with the receipt's program, and the receipt's request and lengths. */
static bool could_challenge(const struct tamper *t)
{
    const struct vd_graph_job *own = &t->trace->graph.job, *said = &t->base->claim.graph.job;
    return own->n_steps == said->n_steps && own->n_output == said->n_output && t->kind != TAMPER_TYPE &&
           t->kind != TAMPER_PROGRAM && t->kind != TAMPER_SAMPLING;
}

static uint64_t n_false, n_false_verdicts;

static void false_once(const struct tamper_base *b, uint32_t n)
{
    static struct tamper t;
    struct vd_rng rng = {b->seed, (UINT64_C(1) << 50) + ((uint64_t)n << 24)};
    enum ending end;
    if (n % 4 == 3) {
        tamper_open(&t, b, 1000 + n);
        end = could_challenge(&t) ? play_wrong(&t) : play_false(b, &rng);
        tamper_close(&t);
    } else {
        end = play_false(b, &rng);
    }
    if (end != CHALLENGER_LOST && end != CHALLENGER_LATE)
        fail_msg(
            "base %llu (%s) false challenge %u: an honest worker lost (ending %d, phase %d)\n    repeat: "
            "vd_tamper_test %llu false %u",
            (unsigned long long)b->seed, b->form->name, n, (int)end, (int)game.phase,
            (unsigned long long)b->seed, n);
    n_false++;
    n_false_verdicts += end == CHALLENGER_LOST;
}

/* ---- tests ---- */

static void liars_lose(void **state)
{
    struct tamper_range r = tamper_range(BASES, BASES_LONG);
    for (uint64_t seed = r.first; seed < r.end; seed++) {
        struct tamper_base b;
        tamper_base_open(&b, seed);
        for (uint32_t i = 0; i < TAMPERS_OF_BASE; i++)
            tamper_once(&b, i);
        tamper_base_close(&b);
        tamper_progress(&r, seed, seen.games, "tampers");
    }
    unsigned ops = 0;
    for (unsigned i = 0; i < VD_OP_KINDS; i++)
        ops += seen.by_op[i] > 0;
    print_message(
        "    %llu tampers: %llu lost by the referee (at %u kinds of operators), %llu by salt or "
        "second root, %llu could not bind, %llu on the clock, %llu receipts refused; %llu changed nothing\n",
        (unsigned long long)seen.games, (unsigned long long)seen.lost_tile, ops,
        (unsigned long long)seen.lost_other, (unsigned long long)seen.lost_bind,
        (unsigned long long)seen.lost_clock, (unsigned long long)seen.refused,
        (unsigned long long)seen.without_effect);
    if (!r.whole)
        return;
    for (unsigned i = 0; i < TAMPER_KINDS; i++)
        if (seen.of_kind[i] == 0)
            fail_msg("no tamper of this kind was caught: %s", tamper_name((enum tamper_kind)i));
    for (unsigned i = 0; i < TAMPER_FORMS; i++)
        if (seen.of_form[i] == 0)
            fail_msg("no liar of this form lost by the referee: %s", tamper_forms[i].name);
    print_message("    %llu of them about vectors\n", (unsigned long long)seen.vectors);
    assert_true(seen.vectors * 20 > seen.lost_tile);
    assert_true(seen.without_effect * 4 < seen.games);
    assert_true(seen.lost_tile * 4 > seen.games);
    assert_true(ops >= VD_OP_KINDS / 2);
}

static void false_challengers_lose(void **state)
{
    struct tamper_range r = tamper_range(BASES, BASES_LONG);
    for (uint64_t seed = r.first; seed < r.end; seed++) {
        struct tamper_base b;
        tamper_base_open(&b, seed);
        for (uint32_t i = 0; i < FALSE_OF_BASE; i++)
            false_once(&b, i);
        tamper_base_close(&b);
        tamper_progress(&r, seed, n_false, "false challenges");
    }
    print_message("    %llu false challenges: %llu ended by a verdict\n", (unsigned long long)n_false,
                  (unsigned long long)n_false_verdicts);
    assert_true(n_false_verdicts * 4 > n_false);
    print_message("    %llu tiles, the slowest %.1f us (%s)\n", (unsigned long long)seen.tiles,
                  (double)seen.slowest_ns * 1e-3, vd_op_name(seen.slowest));
}

/* Every form with every weight type: what a random base has is a matter of luck, and types of super-blocks
 * need rows that few of them have. */
static void every_form_and_type(void **state)
{
    enum { PAIRS = TAMPER_FORMS * TAMPER_TYPES };
    bool in_full = getenv("VD_LONG");
    uint64_t games = seen.games, lost = seen.lost_tile;
    for (uint64_t k = 0; k < PAIRS; k++) {
        struct tamper_base b;
        tamper_base_open(&b, TAMPER_TYPED + k);
        for (uint32_t i = 0; i < (in_full ? TAMPERS_OF_TYPE_LONG : TAMPERS_OF_TYPE); i++)
            tamper_once(&b, i);
        if (in_full || k % 4 == 0)
            false_once(&b, 0);
        tamper_base_close(&b);
    }
    print_message("    %d pairs of form and weight type: %llu tampers, %llu lost by the referee\n", PAIRS,
                  (unsigned long long)(seen.games - games), (unsigned long long)(seen.lost_tile - lost));
    assert_true((seen.lost_tile - lost) * 4 > seen.games - games);
}

/* ---- two scenarios by name ---- */

/* A root of 4 leaves is also the root of 2: their two parents. The receipt says how many there are, and what
 * would have to hash to a parent cannot be shown. */
static void other_tree_size_same_root(void **state)
{
    static struct tamper_base b;
    struct vd_ref_claim claim;
    struct vd_hash parent[2];
    struct vd_move m = {.kind = VD_MOVE_STATE}, units = {.kind = VD_MOVE_UNITS};
    uint64_t seed = 0;
    for (;; seed++) {
        tamper_base_open(&b, seed);
        if (b.trace->graph.job.n_steps == 4 && b.claim.graph.job.n_prompt > 2 &&
            !vd_graph_pools(&b.claim.graph))
            break;
        tamper_base_close(&b);
    }
    claim = b.claim;
    claim.graph.job = (struct vd_graph_job){.n_prompt = 2, .n_output = 1, .n_steps = 2, .max_tokens = 1};
    parent[0] = vd_merkle_node(&b.trace->group[0], &b.trace->group[1]);
    parent[1] = vd_merkle_node(&b.trace->group[2], &b.trace->group[3]);
    m.root = b.trace->state_root;
    m.nodes = (struct vd_bytes){parent[0].b, sizeof parent};
    vd_game_open(&game);
    encode(&move, &m);
    assert_int_equal(make_move(&claim, NULL, VD_GAME_WORKER, &move), VD_GAME_ACCEPTED);
    encode(&move, &(struct vd_move){.kind = VD_MOVE_STEP});
    assert_int_equal(make_move(&claim, NULL, VD_GAME_CHALLENGER, &move), VD_GAME_ACCEPTED);
    units.nodes = (struct vd_bytes){b.trace->unit[0].b, vd_graph_units(&claim.graph, 0) * VD_HASH_BYTES};
    encode(&move, &units);
    assert_int_equal(make_move(&claim, NULL, VD_GAME_WORKER, &move), VD_GAME_REJECT_FIT);
    /* and the other way round: four leaves are not the nodes of a claim of two steps */
    vd_game_open(&game);
    m.nodes = (struct vd_bytes){b.trace->group[0].b, 4 * VD_HASH_BYTES};
    encode(&move, &m);
    assert_int_equal(make_move(&claim, NULL, VD_GAME_WORKER, &move), VD_GAME_REJECT_FIT);
    tamper_base_close(&b);
}

static void next_id(void *arg, uint32_t step, uint32_t unit, uint32_t op, uint8_t *records, size_t n_bytes)
{
    struct tamper *t = arg;
    if (step == t->step && unit == t->unit && op == t->op)
        vd_le32_store(records + 4, vd_le32_load(records + 4) + 1);
    if (step == t->step && unit == t->unit && op + 1 == vd_graph_ops(&t->base->job->graph, step, unit))
        records[0] ^= 1; /* else the lie may not reach the token */
}

/* The cut of top-k or top-p lets one id more through than it should. */
static void threshold_off_by_one_tie(void **state)
{
    static const enum vd_op threshold[] = {VD_OP_THRESHOLD};
    static struct tamper_base b;
    static struct tamper t;
    const struct manner defends = {.how = DEFENDS};
    struct vd_hash shown = {{0}};
    struct vd_graph_op o;
    unsigned n = 0;
    for (uint64_t seed = 0; n < 3; seed++) {
        tamper_base_open(&b, seed);
        t = (struct tamper){.base = &b, .rng = {seed, 0}};
        if (tamper_aim_at(&t, tamper_last(&t), threshold, 1)) {
            t.job = toy_job_copy(b.job, t.step);
            t.job->after = next_id;
            t.job->after_arg = &t;
            t.trace = toy_trace(t.job);
            tamper_claim(&t);
            tamper_truth(&t);
            assert_int_equal(play_liar(&t, t.trace, &defends, NULL, &shown), WORKER_LOST);
            vd_graph_op(&t.claim.graph, game.step, game.unit, game.op, &o);
            assert_int_equal(o.kind, VD_OP_THRESHOLD);
            assert_int_equal(game.op, t.op);
            tamper_close(&t);
            n++;
        }
        tamper_base_close(&b);
    }
}

/* What VD_BASES may say; anything else would be a run that played other bases than were asked for. */
static void portions(void **state)
{
    static const char *const bad[] = {
        "", "7", "7..", "..7", "7-9", "9..7", "7..9 ", "7..9,12", "0..18446744073709551615"};
    struct tamper_range r = {0, 60, true, 1};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(tamper_portion(&r, bad[i]));
    assert_true(r.first == 0 && r.end == 60 && r.whole);
    assert_true(tamper_portion(&r, "7..7") && r.first == 7 && r.end == 8 && !r.whole && r.told_ns == 1);
    assert_true(tamper_portion(&r, "600..1199") && r.first == 600 && r.end == 1200);
}

static int repeat(char **argv, int argc)
{
    struct tamper_base b;
    bool is_false = strcmp(argv[2], "false") == 0;
    tamper_base_open(&b, strtoull(argv[1], NULL, 10));
    if (is_false)
        false_once(&b, (uint32_t)strtoul(argc > 3 ? argv[3] : "0", NULL, 10));
    else
        tamper_once(&b, (uint32_t)strtoul(argv[2], NULL, 10));
    tamper_base_close(&b);
    return 0;
}

static char **words;
static int n_words;

static void repeat_one(void **state)
{
    repeat(words, n_words);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(liars_lose),
        cmocka_unit_test(false_challengers_lose),
        cmocka_unit_test(every_form_and_type),
        cmocka_unit_test(other_tree_size_same_root),
        cmocka_unit_test(threshold_off_by_one_tie),
        cmocka_unit_test(portions),
    };
    const struct CMUnitTest one[] = {cmocka_unit_test(repeat_one)};
    words = argv;
    n_words = argc;
    open_other_referee();
    return argc > 2 ? cmocka_run_group_tests(one, NULL, NULL) : cmocka_run_group_tests(all, NULL, NULL);
}
