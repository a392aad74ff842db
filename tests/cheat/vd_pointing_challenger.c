/* vd_pointing_challenger: challenges a receipt several times at once and points the worker down to an opened
 * record in each, without a trace of its own and without reason: what somebody can do who only wants to make
 * a worker work. The places are spread over the whole sequence, the last position among them, and there it
 * points at the operator with the most records. Then it goes, and loses its bonds on the clock. For the tests
 * of what disputes cost the worker. */
#include "vd_clock.h"
#include "vd_cmd.h"
#include "vd_cmd_load.h"
#include "vd_cmd_net.h"
#include "vd_cmd_receipt.h"
#include "vd_worker_game.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

enum { GAMES_MAX = 64, TX_WAIT_MS = 60000, POLL_MS = 100 };

struct walk {
    struct vd_hash dispute;
    uint32_t step, unit, op, n_moves;
    bool over; /* arrived, or the game has ended */
};

struct challenger {
    struct vd_cmd_engine engine;
    struct vd_game_case c;
    struct vd_keypair key;
    struct vd_ledger_client *ledger;
    struct walk walk[GAMES_MAX];
    uint32_t n_games;
    uint64_t wait_ms; /* for a worker's move */
};

/* Spread over all steps, from the first to the last, and there the last block; else one block or another. */
static void choose_place(const struct challenger *ch, uint32_t i, struct walk *w)
{
    const struct vd_graph *g = &ch->c.claim.graph;
    uint32_t n = ch->n_games, last = vd_graph_last_block(g);
    uint64_t most = 0;
    w->step = n == 1 ? g->job.n_steps - 1 : (uint32_t)((uint64_t)(g->job.n_steps - 1) * i / (n - 1));
    w->unit = i + 1 == n ? last : 1 + i * 7 % last;
    for (uint32_t op = 0; op < vd_graph_ops(g, w->step, w->unit); op++) {
        struct vd_graph_op o;
        vd_graph_op(g, w->step, w->unit, op, &o);
        if (o.n_records * o.record_bytes > most) {
            most = o.n_records * o.record_bytes;
            w->op = op;
        }
    }
}

/* The one of the nodes below `top` that the leaf is under. */
static uint64_t node_of(struct vd_merkle_span top, uint64_t leaf)
{
    struct vd_merkle_span node[VD_GAME_SHOWN_MAX];
    size_t n = vd_merkle_spans(top, VD_GAME_LEVELS, node, VD_GAME_SHOWN_MAX);
    for (size_t i = 0; i < n; i++)
        if (leaf >= node[i].first && leaf < node[i].first + node[i].count)
            return i;
    return n;
}

/* Where it goes on from here; false: it has arrived. */
static bool point(const struct challenger *ch, const struct walk *w, const struct vd_game *game,
                  struct vd_move *m)
{
    struct vd_graph_place at = vd_graph_place(&ch->c.claim.graph, w->step, w->unit);
    switch (game->phase) {
    case VD_PHASE_C_STATE:
    case VD_PHASE_C_STEP:
        *m = (struct vd_move){.kind = VD_MOVE_STEP, .index = node_of(game->steps.span, at.group)};
        return true;
    case VD_PHASE_C_UNIT:
        *m = (struct vd_move){.kind = VD_MOVE_UNIT, .index = node_of(game->units.span, at.member)};
        return true;
    case VD_PHASE_C_OP:
        *m = (struct vd_move){.kind = VD_MOVE_OP, .index = w->op};
        return true;
    case VD_PHASE_C_LEAF:
        *m = (struct vd_move){
            .kind = VD_MOVE_LEAF,
            .index = node_of(game->leaves.span, game->leaves.span.first + game->leaves.span.count - 1)};
        return true;
    case VD_PHASE_C_TILE:
    case VD_PHASE_C_BIND:
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
    return false;
}

/* A turn of one walk, if it is the challenger's. *moved: it pointed. */
static enum vd_err walk_on(struct challenger *ch, struct walk *w, bool *moved, struct vd_error *err)
{
    static struct vd_game game;
    struct vd_dispute record;
    struct vd_ledger_outcome o;
    struct vd_move m;
    uint8_t buf[VD_HASH_BYTES];
    enum vd_err e = vd_game_fetch(ch->ledger, &w->dispute, &ch->c, &record, &game, err);
    if (e != VD_OK)
        return e;
    w->n_moves = record.n_moves;
    if (record.status == VD_DISPUTE_WORKER_MOVES)
        return VD_OK;
    if (record.status != VD_DISPUTE_CHALLENGER_MOVES || !point(ch, w, &game, &m)) {
        w->over = true;
        return record.status == VD_DISPUTE_CHALLENGER_MOVES
                   ? VD_OK
                   : vd_error_set(err, VD_EFALSE, "a dispute has ended: %s",
                                  vd_dispute_status_name(record.status));
    }
    struct vd_tx tx = {.kind = VD_TX_MOVE};
    tx.u.move.dispute_id = w->dispute;
    tx.u.move.move = (struct vd_bytes){buf, vd_move_encode(&m, buf, sizeof buf)};
    *moved = true;
    return vd_ledger_client_send(ch->ledger, &tx, TX_WAIT_MS, &o, err);
}

static enum vd_err walk_all(struct challenger *ch, struct vd_error *err)
{
    uint64_t until = vd_clock_ms() + ch->wait_ms;
    enum vd_err e = VD_OK;
    for (uint32_t n_over = 0; e == VD_OK && n_over < ch->n_games;) {
        bool moved = false;
        n_over = 0;
        for (uint32_t i = 0; e == VD_OK && i < ch->n_games; i++) {
            if (!ch->walk[i].over)
                e = walk_on(ch, &ch->walk[i], &moved, err);
            n_over += ch->walk[i].over;
        }
        until = moved ? vd_clock_ms() + ch->wait_ms : until;
        if (e == VD_OK && vd_clock_ms() > until)
            e = vd_error_set(err, VD_ETIMEOUT, "the worker makes no move");
        if (!moved)
            vd_clock_sleep_ms(POLL_MS);
    }
    return e;
}

static enum vd_err challenge(struct challenger *ch, struct vd_error *err)
{
    enum vd_err e = VD_OK;
    for (uint32_t i = 0; e == VD_OK && i < ch->n_games; i++) {
        struct vd_tx tx = {.kind = VD_TX_CHALLENGE};
        struct vd_ledger_outcome o;
        tx.u.challenge.receipt_id = ch->c.receipt_id;
        choose_place(ch, i, &ch->walk[i]);
        e = vd_ledger_client_send(ch->ledger, &tx, TX_WAIT_MS, &o, err);
        ch->walk[i].dispute = o.tx_id;
    }
    return e;
}

static enum vd_err open_case(struct challenger *ch, const struct vd_cli *cli, struct vd_error *err)
{
    struct vd_envelope envelope;
    uint32_t *tokens;
    enum vd_err e = vd_cmd_read_receipt(cli->arg[0], &envelope, &tokens, err);
    if (e == VD_OK)
        e = vd_game_case_init(&ch->c, &envelope, tokens, ch->engine.model, err);
    return e;
}

static void say(const struct challenger *ch, FILE *out)
{
    for (uint32_t i = 0; i < ch->n_games; i++) {
        const struct walk *w = &ch->walk[i];
        struct vd_graph_op o;
        vd_graph_op(&ch->c.claim.graph, w->step, w->unit, w->op, &o);
        fprintf(out, "position %u, unit %u, %s of %llu records: %u moves\n", w->step, w->unit,
                vd_op_name(o.kind), (unsigned long long)o.n_records, w->n_moves);
    }
}

static enum vd_err run(struct vd_cli *cli, struct vd_error *err)
{
    struct challenger *ch = calloc(1, sizeof *ch);
    const char *model = vd_cli_text(cli, "model", NULL);
    uint32_t wait_s = 120;
    if (!ch)
        return vd_error_set(err, VD_ENOMEM, "no memory for a challenger");
    ch->n_games = 4;
    enum vd_err e = model ? VD_OK : vd_error_set(err, VD_EUSE, "which model? Say --model MODEL");
    if (e == VD_OK)
        e = vd_cli_u32(cli, "games", 1, GAMES_MAX, &ch->n_games, err);
    if (e == VD_OK)
        e = vd_cli_u32(cli, "wait", 1, 3600, &wait_s, err);
    ch->wait_ms = 1000 * (uint64_t)wait_s;
    if (e == VD_OK)
        e = vd_cmd_load_key(&ch->key, vd_cli_text(cli, "key", "default"), false, err);
    if (e == VD_OK)
        e = vd_cmd_engine_open(&ch->engine, cli, model, err);
    if (e == VD_OK)
        e = open_case(ch, cli, err);
    if (e == VD_OK)
        e = vd_cmd_ledger_open(&ch->ledger, cli, &ch->key, NULL, err);
    if (e == VD_OK)
        e = challenge(ch, err);
    if (e == VD_OK)
        e = walk_all(ch, err);
    if (e == VD_OK)
        say(ch, cli->out);
    vd_ledger_client_stop(ch->ledger);
    vd_game_case_free(&ch->c);
    vd_cmd_engine_close(&ch->engine);
    free(ch);
    return e;
}

static const struct vd_cli_opt opts[] = {
    VD_CMD_OPTS_LEDGER,
    VD_CMD_OPTS_KEY,
    VD_CMD_OPTS_COMPUTE,
    {"model", 'm', "MODEL", "the receipt's model", false},
    {"games", 0, "N", "disputes at once (default 4)", false},
    {"wait", 0, "SECONDS", "for a move of the worker (default 120)", false},
    {0}};
static const struct vd_cmd cmd = {
    .name = "challenge",
    .group = "Test program",
    .usage = "FILE",
    .summary = "challenges a receipt without reason",
    .help = "Points a worker down to opened records all over its receipt, and goes. For tests.",
    .opts = opts,
    .min_args = 1,
    .max_args = 1,
    .run = run,
};

int main(int argc, char **argv)
{
    static const struct vd_cmd *const list[] = {&cmd, NULL};
    signal(SIGPIPE, SIG_IGN);
    return vd_cli_run(list, argc, argv, stdout, stderr);
}
