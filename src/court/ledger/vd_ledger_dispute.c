/* Disputes: bond, clock and consequences. What a move means is vd_game's business.
 *
 * When a verdict voids a receipt, its other disputes are not touched in that block, because there may be
 * many: each finds the receipt void when its own clock runs out, and its challenger gets the bond back then.
 *
 * Somebody may challenge an honest worker many times at once and hope that it is late with one answer. So a
 * worker's clock is as many times longer as it has disputes to answer, with the longest of their replays on
 * top, which may be running when it is its turn; and when it is late all the same, bonds of disputes in which
 * the challenger has not moved are burned: to open them must cost something. */
#include "vd_game.h"
#include "vd_ledger_impl.h"

static struct vd_state_key game_key(const struct vd_hash *dispute_id)
{
    return vd_state_key_make(VD_STATE_GAME, dispute_id->b, VD_HASH_BYTES, NULL);
}

/* Working memory of a move: some 130 KiB from the block's arena. */
struct bench {
    struct vd_game game;
    struct vd_ref_claim claim;
    struct vd_program program;
    uint8_t buf[VD_GAME_MAX_BYTES];
};

static struct bench *bench_make(struct vd_ledger_block *b)
{
    struct bench *w = vd_arena_alloc(b->arena, sizeof *w, _Alignof(struct bench));
    if (!w)
        b->overlay.full = true;
    return w;
}

static void put_game(struct vd_ledger_block *b, const struct vd_hash *dispute_id, struct bench *w)
{
    struct vd_state_key k = game_key(dispute_id);
    size_t n = vd_game_encode(&w->game, w->buf, sizeof w->buf);
    b->broken |= n == 0;
    vd_block_put(b, &k, w->buf, n);
}

/* Any move may need a replay: players keep no state, a long job's unit hashes and old rows are more than they
 * keep, and of many disputes they keep the traces of a few. And when it is a worker's turn, it may be in the
 * middle of its replay for another dispute, whose job is longer.
 * Factors are below 2^31 and 2^32: a height cannot overflow. */
static void set_clock(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_dispute *d,
                      const struct vd_game *game)
{
    bool worker = vd_game_turn(game) == VD_GAME_WORKER;
    uint64_t clock = b->ledger->genesis->move_clock_blocks + d->replay_blocks;
    struct vd_stake s;
    vd_block_get_stake(b, &d->worker, &s);
    d->status = worker ? VD_DISPUTE_WORKER_MOVES : VD_DISPUTE_CHALLENGER_MOVES;
    d->deadline_height = b->height + (worker ? clock * d->clocks + s.longest_replay_blocks : clock);
    vd_block_deadline_add(b, d->deadline_height, VD_DEADLINE_DISPUTE, id);
    vd_block_put_dispute(b, id, d);
}

static struct vd_state_key index_worker(const struct vd_dispute *d, const struct vd_hash *id)
{
    return vd_state_key_make(VD_INDEX_OPEN_DISPUTE, d->worker.b, VD_PUBKEY_BYTES, id->b);
}

static struct vd_state_key index_challenger(const struct vd_dispute *d, const struct vd_hash *id)
{
    return vd_state_key_challenge(&d->receipt_id, &d->challenger, id);
}

static struct vd_event event_of(enum vd_event_kind kind, const struct vd_hash *id, const struct vd_dispute *d,
                                struct vd_amount amount)
{
    return (struct vd_event){
        .kind = kind, .id = *id, .id2 = d->receipt_id, .a = d->worker, .b = d->challenger, .amount = amount};
}

uint64_t vd_block_replay_blocks(struct vd_ledger_block *b, const struct vd_receipt_record *r)
{
    uint64_t per_block = b->ledger->genesis->steps_per_block;
    struct vd_receipt receipt;
    if (vd_receipt_decode(r->body, &receipt) != VD_RECEIPT_OK) {
        b->broken = true;
        return 0;
    }
    return per_block ? (vd_receipt_n_steps(&receipt) + per_block - 1) / per_block : 0;
}

enum vd_tx_verdict vd_apply_challenge(struct vd_deliver *t)
{
    struct vd_ledger_block *b = t->b;
    const struct vd_hash *receipt_id = &t->tx->u.challenge.receipt_id;
    struct vd_amount bond = b->ledger->genesis->challenge_bond;
    struct vd_receipt_record r;
    struct vd_stake s;
    if (b->n_challenges == VD_BLOCK_MAX_CHALLENGES)
        return VD_TX_BLOCK_FULL;
    if (!vd_block_get_receipt(b, receipt_id, &r))
        return VD_TX_UNKNOWN_RECEIPT;
    if (r.status != VD_RECEIPT_SETTLED || b->height > r.window_end_height)
        return VD_TX_WINDOW_CLOSED;
    if (!vd_block_debit(b, &t->tx->sender, bond))
        return VD_TX_FUNDS;
    struct bench *w = bench_make(b);
    if (!w)
        return VD_TX_BLOCK_FULL;
    r.n_open_disputes++;
    vd_block_put_receipt(b, receipt_id, &r);
    vd_block_get_stake(b, &r.worker, &s);
    uint64_t replay_blocks = vd_block_replay_blocks(b, &r);
    s.n_open_disputes++;
    if (s.longest_replay_blocks < replay_blocks)
        s.longest_replay_blocks = replay_blocks;
    vd_block_put_stake(b, &r.worker, &s);
    struct vd_dispute d = {.receipt_id = *receipt_id,
                           .worker = r.worker,
                           .challenger = t->tx->sender,
                           .bond = bond,
                           .open_height = b->height,
                           .clocks = s.n_open_disputes,
                           .replay_blocks = replay_blocks};
    struct vd_state_key by_worker = index_worker(&d, &t->id), by_challenger = index_challenger(&d, &t->id);
    struct vd_state_key by_receipt =
        vd_state_key_make(VD_INDEX_RECEIPT_DISPUTE, receipt_id->b, VD_HASH_BYTES, t->id.b);
    vd_block_put(b, &by_worker, NULL, 0);
    vd_block_put(b, &by_challenger, NULL, 0);
    vd_block_put(b, &by_receipt, NULL, 0);
    vd_game_open(&w->game);
    put_game(b, &t->id, w);
    set_clock(b, &t->id, &d, &w->game);
    vd_block_event(b, event_of(VD_EVENT_CHALLENGED, &t->id, &d, bond));
    b->n_challenges++;
    return VD_TX_OK;
}

/* The dispute is over: the game's bytes go, the bond goes to `to` (NULL: it burns), and the counters of
 * receipt and worker fall. */
static void close_dispute(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_dispute *d,
                          enum vd_dispute_status status, const struct vd_pubkey *to,
                          struct vd_receipt_record *r)
{
    struct vd_state_key game = game_key(id), by_worker = index_worker(d, id),
                        by_challenger = index_challenger(d, id);
    struct vd_amount bond = d->bond;
    struct vd_stake s;
    vd_block_delete(b, &game);
    vd_block_delete(b, &by_worker);
    vd_block_delete(b, &by_challenger);
    d->status = status;
    d->bond = VD_AMOUNT_ZERO;
    d->deadline_height = 0;
    d->end_height = b->height;
    vd_block_put_dispute(b, id, d);
    if (b->ledger->genesis->history_blocks)
        vd_block_deadline_add(b, b->height + b->ledger->genesis->history_blocks, VD_DEADLINE_PAST_DISPUTE,
                              id);
    if (to)
        vd_block_credit(b, to, bond);
    else
        vd_block_burn(b, bond);
    vd_block_get_stake(b, &d->worker, &s);
    if (!vd_block_get_receipt(b, &d->receipt_id, r) || r->n_open_disputes == 0 || s.n_open_disputes == 0) {
        b->broken = true;
        return;
    }
    if (--s.n_open_disputes == 0)
        s.longest_replay_blocks = 0;
    vd_block_put_stake(b, &d->worker, &s);
    r->n_open_disputes--;
    vd_block_put_receipt(b, &d->receipt_id, r);
}

static void worker_loses(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_dispute *d,
                         enum vd_dispute_status status)
{
    struct vd_receipt_record r;
    close_dispute(b, id, d, status, &d->challenger, &r);
    if (b->broken)
        return;
    struct vd_amount share = vd_receipt_void(
        b, &d->receipt_id, &r, status == VD_DISPUTE_WORKER_LATE ? VD_VOID_LATE : VD_VOID_VERDICT);
    vd_block_credit(b, &d->challenger, share);
    vd_block_event(b, event_of(VD_EVENT_WORKER_LOST, id, d, share));
}

static void challenger_loses(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_dispute *d,
                             enum vd_dispute_status status)
{
    struct vd_amount bond = d->bond;
    struct vd_receipt_record r;
    close_dispute(b, id, d, status, &d->worker, &r);
    vd_block_event(b, event_of(VD_EVENT_CHALLENGER_LOST, id, d, bond));
    if (!b->broken)
        vd_receipt_release(b, &d->receipt_id, &r);
}

/* `late`: the receipt is void because the worker was late in another dispute. The worker moves first: a
 * challenger to whom it has shown its state root, and who has not pointed at anything, was idle; one that the
 * worker has not answered could do nothing. */
static void moot(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_dispute *d, bool late)
{
    struct vd_amount bond = d->bond;
    struct vd_receipt_record r;
    bool idle = d->n_moves == 1, burn = late && idle;
    close_dispute(b, id, d, VD_DISPUTE_MOOT, burn ? NULL : &d->challenger, &r);
    vd_block_event(b, event_of(VD_EVENT_MOOT, id, d, burn ? VD_AMOUNT_ZERO : bond));
    if (burn)
        vd_block_event(b, event_of(VD_EVENT_BURNED, id, d, bond));
}

/* Loads what a move needs. The receipt is SETTLED, so its body is there. */
static bool load_game(struct vd_ledger_block *b, const struct vd_hash *id, const struct vd_receipt_record *r,
                      struct bench *w)
{
    struct vd_state_key k = game_key(id);
    struct vd_model_record m;
    struct vd_receipt receipt;
    struct vd_bytes game;
    bool good = vd_receipt_decode(r->body, &receipt) == VD_RECEIPT_OK &&
                vd_block_get_model(b, &r->model_root, &m) && vd_program_decode(m.program, &w->program) &&
                vd_ref_claim_init(&w->claim, &receipt, &w->program, m.program) &&
                vd_block_get(b, &k, &game) && vd_game_decode(game, &w->claim, &w->game);
    b->broken |= !good;
    return good;
}

static bool sender_is(const struct vd_deliver *t, const struct vd_dispute *d, enum vd_game_side side)
{
    return vd_pubkey_eq(&t->tx->sender, side == VD_GAME_WORKER ? &d->worker : &d->challenger);
}

/* An accepted move's consequences. */
static void moved(struct vd_deliver *t, const struct vd_hash *id, struct vd_dispute *d,
                  struct vd_receipt_record *r, struct bench *w, enum vd_game_result result)
{
    struct vd_ledger_block *b = t->b;
    vd_block_deadline_remove(b, d->deadline_height, VD_DEADLINE_DISPUTE, id);
    d->n_moves++;
    vd_block_event(b, (struct vd_event){.kind = VD_EVENT_MOVED,
                                        .id = *id,
                                        .id2 = d->receipt_id,
                                        .a = t->tx->sender,
                                        .amount = {t->tx->u.move.move.n}});
    if (vd_hash_is_zero(&r->state_root) && !vd_hash_is_zero(&w->game.state_root)) {
        r->state_root = w->game.state_root;
        vd_block_put_receipt(b, &d->receipt_id, r);
    }
    if (vd_game_worker_loses(result)) {
        worker_loses(b, id, d, VD_DISPUTE_WORKER_LOST);
    } else if (vd_game_challenger_loses(result)) {
        challenger_loses(b, id, d, VD_DISPUTE_CHALLENGER_LOST);
    } else {
        put_game(b, id, w);
        set_clock(b, id, d, &w->game);
    }
}

enum vd_tx_verdict vd_apply_move(struct vd_deliver *t)
{
    struct vd_ledger_block *b = t->b;
    const struct vd_tx_move *m = &t->tx->u.move;
    struct vd_receipt_record r;
    struct vd_dispute d;
    if (!vd_block_get_dispute(b, &m->dispute_id, &d) || !vd_dispute_open(d.status))
        return VD_TX_UNKNOWN_DISPUTE;
    if (b->height > d.deadline_height) /* it has run out, and waits for its turn at the end of a block */
        return VD_TX_UNKNOWN_DISPUTE;
    if (!vd_block_get_receipt(b, &d.receipt_id, &r) || r.status != VD_RECEIPT_SETTLED)
        return VD_TX_UNKNOWN_DISPUTE; /* void already: the bond returns when the clock runs out */
    enum vd_game_side turn = d.status == VD_DISPUTE_WORKER_MOVES ? VD_GAME_WORKER : VD_GAME_CHALLENGER;
    if (!sender_is(t, &d, turn))
        return VD_TX_NOT_YOUR_TURN;
    if (b->n_moves == VD_BLOCK_MAX_MOVES)
        return VD_TX_BLOCK_FULL;
    b->n_moves++; /* and stays so if the move is rejected */
    struct bench *w = bench_make(b);
    if (!w || !load_game(b, &m->dispute_id, &r, w))
        return VD_TX_BLOCK_FULL; /* and the block is broken */
    const struct vd_hash *known = vd_hash_is_zero(&r.state_root) ? NULL : &r.state_root;
    enum vd_game_result result = vd_game_move(&w->game, &w->claim, known, turn, m->move);
    if (vd_game_rejected(result))
        return VD_TX_BAD_MOVE;
    moved(t, &m->dispute_id, &d, &r, w, result);
    return VD_TX_OK;
}

void vd_end_dispute_clock(struct vd_ledger_block *b, const struct vd_hash *dispute_id)
{
    struct vd_receipt_record r;
    struct vd_dispute d;
    if (!vd_block_get_dispute(b, dispute_id, &d) || !vd_dispute_open(d.status) ||
        !vd_block_get_receipt(b, &d.receipt_id, &r)) {
        b->broken = true;
        return;
    }
    if (r.status == VD_RECEIPT_VOID)
        moot(b, dispute_id, &d, r.void_why == VD_VOID_LATE);
    else if (d.status == VD_DISPUTE_WORKER_MOVES)
        worker_loses(b, dispute_id, &d, VD_DISPUTE_WORKER_LATE);
    else
        challenger_loses(b, dispute_id, &d, VD_DISPUTE_CHALLENGER_LATE);
}

/* It has no game, no bond and no clock any more, and no transaction names it: only people still look at it.
 */
void vd_end_past_dispute(struct vd_ledger_block *b, const struct vd_hash *dispute_id)
{
    struct vd_dispute d;
    if (!vd_block_get_dispute(b, dispute_id, &d) || vd_dispute_open(d.status) || d.bond.micro) {
        b->broken = true;
        return;
    }
    struct vd_state_key record = vd_state_key_make(VD_STATE_DISPUTE, dispute_id->b, VD_HASH_BYTES, NULL);
    struct vd_state_key by_receipt =
        vd_state_key_make(VD_INDEX_RECEIPT_DISPUTE, d.receipt_id.b, VD_HASH_BYTES, dispute_id->b);
    vd_block_delete(b, &record);
    vd_block_delete(b, &by_receipt);
}
