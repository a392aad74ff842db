/* The worker's side of the court: it follows the ledger's events, answers challenges, and forgets a job when
 * nothing can be asked about it any more.
 *
 * Nothing here depends on having seen every event: what must not be missed (open disputes, receipts that are
 * final) is asked of the ledger at the start and from time to time; events only make it quick. A player keeps
 * no state, so this process may die between two moves.
 *
 * Anybody who puts down bonds can open many disputes at once, and each has its clock. So the one whose
 * deadline is first is answered first, nothing here waits for a block (the courier does), and what a move
 * needs is computed once: the trace per receipt, the unit per dispute. */
#include "vd_clock.h"
#include "vd_worker_impl.h"

#include <stdlib.h>
#include <string.h>

/* ---- Events: on the ledger link's thread, quick ---- */

/* Under mu. */
static struct vd_worker_dispute *vd_court_find(struct vd_worker *w, const struct vd_hash *dispute)
{
    for (size_t i = 0; i < w->n_disputes; i++)
        if (vd_hash_eq(&w->dispute[i].id, dispute))
            return &w->dispute[i];
    return NULL;
}

/* Under mu: what is known of this dispute is old, or nothing is. */
static void vd_court_watch(struct vd_worker *w, const struct vd_hash *dispute)
{
    struct vd_worker_dispute *d = vd_court_find(w, dispute);
    if (!d && w->n_disputes < VD_WORKER_DISPUTES_MAX) {
        d = &w->dispute[w->n_disputes++];
        *d = (struct vd_worker_dispute){.id = *dispute};
    }
    if (d)
        d->stale = w->court_dirty = true;
    pthread_cond_signal(&w->court_cond);
}

static void vd_court_settled(struct vd_worker *w, const struct vd_event *e)
{
    for (size_t i = 0; i < w->n_escrows; i++)
        if (vd_hash_eq(&w->escrow[i].id, &e->id2))
            w->escrow[i].pending_micro = vd_less(w->escrow[i].pending_micro, e->amount.micro);
    w->stats.n_settled++;
}

/* Under mu. */
static void vd_court_demand(struct vd_worker *w, const struct vd_hash *receipt_id)
{
    for (size_t i = 0; i < w->n_demands; i++)
        if (vd_hash_eq(&w->demand[i], receipt_id))
            return;
    if (w->n_demands < VD_WORKER_DEMANDS_MAX)
        w->demand[w->n_demands++] = *receipt_id;
    pthread_cond_signal(&w->show_cond);
}

static void vd_court_event(struct vd_worker *w, const struct vd_event *e)
{
    switch (e->kind) {
    case VD_EVENT_SETTLED:
        vd_court_settled(w, e);
        break;
    case VD_EVENT_FINAL:
        w->exposed_micro = vd_less(w->exposed_micro, e->amount.micro);
        w->stats.earned_micro += e->amount.micro;
        w->stats.n_final++;
        vd_worker_jobs_drop(&w->jobs, &e->id, NULL);
        break;
    case VD_EVENT_VOID:
        w->exposed_micro = vd_less(w->exposed_micro, e->amount.micro);
        w->stats.n_void++;
        vd_worker_jobs_drop(&w->jobs, &e->id, NULL);
        break;
    case VD_EVENT_AUDIT_DEMANDED:
        vd_court_demand(w, &e->id);
        break;
    case VD_EVENT_STAKE:
    case VD_EVENT_SLASHED:
    case VD_EVENT_UNSTAKE:
        w->stake_changed = w->court_dirty = true; /* the court thread asks how much it is now */
        pthread_cond_signal(&w->court_cond);
        break;
    case VD_EVENT_CHALLENGED:
        w->stats.n_challenges++;
        vd_court_watch(w, &e->id);
        break;
    case VD_EVENT_WORKER_LOST:
        w->stats.n_lost++;
        vd_court_watch(w, &e->id);
        break;
    case VD_EVENT_CHALLENGER_LOST:
        w->stats.n_won++;
        vd_court_watch(w, &e->id);
        break;
    case VD_EVENT_MOOT:
        vd_court_watch(w, &e->id);
        break;
    case VD_EVENT_TRANSFER:
    case VD_EVENT_WITHDRAW:
    case VD_EVENT_MODEL:
    case VD_EVENT_OFFER:
    case VD_EVENT_ESCROW_OPENED:
    case VD_EVENT_ESCROW_TOPUP:
    case VD_EVENT_ESCROW_CLOSING:
    case VD_EVENT_ESCROW_RETURNED:
    case VD_EVENT_MOVED: /* by the worker itself */
    case VD_EVENT_BURNED:
    case VD_EVENT_BEACON_OPENED:
    case VD_EVENT_BEACON:
    case VD_EVENT_BEACON_MISSED:
    case VD_EVENT_BEACON_ENDED:
    case VD_EVENT_AUDITOR:
    case VD_EVENT_AUDIT_DRAWN:
    case VD_EVENT_AUDIT_COMMITTED:
    case VD_EVENT_AUDIT_OPEN:
    case VD_EVENT_AUDIT_REVEALED:
    case VD_EVENT_AUDIT_SHOWN:
    case VD_EVENT_AUDIT_MISSED:
    case VD_EVENT_AUDIT_DONE:
    case VD_EVENT_AUDIT_PAID:
    case VD_EVENT_AUDIT_SLASHED:
    case VD_EVENT_WITHHELD:
    case VD_EVENT_TRAP_PLANTED:
    case VD_EVENT_TRAP_OPENED:
    case VD_EVENT_TRAP_EXPIRED:
        break;
    }
}

void vd_worker_on_block(void *worker, uint64_t height, uint64_t time_ms, const struct vd_event *event,
                        size_t n_events)
{
    struct vd_worker *w = worker;
    pthread_mutex_lock(&w->mu);
    for (size_t i = 0; i < n_events; i++)
        if (vd_pubkey_eq(&event[i].a, &w->key.pub))
            vd_court_event(w, &event[i]);
        else if (event[i].kind == VD_EVENT_MOVED && vd_court_find(w, &event[i].id))
            vd_court_watch(w, &event[i].id); /* a challenger moved */
    pthread_mutex_unlock(&w->mu);
}

/* ---- Answering ---- */

/* The receipt taken apart; its trace is made when the first move is. */
static enum vd_err vd_court_case(struct vd_worker *w, const struct vd_hash *receipt_id,
                                 struct vd_game_trace **out, struct vd_worker_offer **offer,
                                 struct vd_error *err)
{
    struct vd_envelope e;
    struct vd_receipt r;
    uint32_t *tokens;
    *out = vd_game_traces_get(&w->traces, receipt_id);
    if (*out) {
        *offer = vd_worker_find_offer(w, &(*out)->c.receipt.request.model_root);
        return VD_OK;
    }
    enum vd_err code = vd_worker_jobs_get(&w->jobs, receipt_id, &e, &tokens, err);
    if (code != VD_OK)
        return code;
    *offer = NULL;
    if (vd_receipt_decode((struct vd_bytes){e.receipt.body, e.receipt.body_bytes}, &r) == VD_RECEIPT_OK)
        *offer = vd_worker_find_offer(w, &r.request.model_root);
    if (!*offer) {
        free(tokens);
        return vd_error_set(err, VD_ENOTFOUND,
                            "the receipt's model is not loaded here; start the worker with it again");
    }
    return vd_game_traces_put(&w->traces, &e, tokens, (*offer)->m.model, out, err);
}

struct vd_court_move {
    struct vd_worker *w;
    struct vd_game_trace *trace;
    const struct vd_game *game;
    struct vd_player_move *out;
    struct vd_error *err;
    enum vd_err result;
    unsigned n_replays;
};

/* The trace is open, with the unit that is kept. */
static void vd_court_answer_from(struct vd_court_move *m)
{
    struct vd_trace *t = vd_trace_model_trace(m->trace->trace);
    m->n_replays += vd_player_worker_runs(t, m->game) > 0;
    m->result = vd_player_worker_answer(t, m->game, m->out, m->err);
}

/* On the engine's thread, between two steps. A dispute cannot wait: prefixes and jobs give way to it in the
 * engine's cache, which is the only one. */
static void vd_court_replay(void *arg, struct vd_ctx *ctx, struct vd_kv_pool *cache)
{
    struct vd_court_move *m = arg;
    bool fresh = m->trace->trace == NULL;
    m->n_replays = fresh;
    m->result = vd_game_trace_open(m->trace, ctx, cache, m->err);
    if (m->result == VD_OK && fresh)
        vd_game_unit_in(&m->w->traces, m->trace, m->game);
    if (m->result == VD_OK)
        vd_court_answer_from(m);
}

uint32_t vd_worker_patience_ms(const struct vd_worker_dispute *d, size_t n, uint64_t height,
                               const struct vd_genesis *rules)
{
    uint64_t n_moves = 0, deadline = UINT64_MAX, longest = 0;
    for (size_t i = 0; i < n; i++) {
        if (longest < d[i].record.replay_blocks)
            longest = d[i].record.replay_blocks;
        if (d[i].sending || !(d[i].stale || d[i].record.status == VD_DISPUTE_WORKER_MOVES))
            continue;
        n_moves++;
        if (!d[i].stale && d[i].record.deadline_height < deadline)
            deadline = d[i].record.deadline_height;
    }
    if (deadline == UINT64_MAX || deadline <= height)
        return 0;
    uint64_t left = deadline - height, least = rules->move_clock_blocks + longest;
    uint64_t ms = (left < least ? left : least) * rules->block_time_ms / (VD_WORKER_PATIENCE_PART * n_moves);
    return ms < VD_WORKER_PATIENCE_MS ? (uint32_t)ms : VD_WORKER_PATIENCE_MS;
}

/* The engine is needed, and cache of it, only for what has to be replayed. */
static enum vd_err vd_court_make_move(struct vd_court_move *m, struct vd_engine *engine)
{
    struct vd_worker *w = m->w;
    struct vd_game_trace *t = m->trace;
    uint32_t n_steps = t->c.claim.graph.job.n_steps;
    enum vd_err e = VD_OK;
    if (t->trace) {
        vd_game_unit_in(&w->traces, t, m->game);
        n_steps = vd_player_worker_runs(vd_trace_model_trace(t->trace), m->game);
    }
    if (n_steps == 0) {
        vd_trace_model_use(t->trace, NULL);
        vd_court_answer_from(m);
    } else {
        uint64_t height = vd_ledger_client_height(w->ledger);
        pthread_mutex_lock(&w->mu);
        uint32_t wait_ms = vd_worker_patience_ms(w->dispute, w->n_disputes, height, w->rules);
        pthread_mutex_unlock(&w->mu);
        e = vd_engine_run(engine, n_steps, wait_ms, vd_court_replay, m, m->err);
    }
    if (t->trace)
        vd_game_unit_out(&w->traces, t);
    return e == VD_OK ? m->result : e;
}

/* Under mu. */
static void vd_court_sending(struct vd_worker *w, const struct vd_hash *dispute, bool sending)
{
    struct vd_worker_dispute *d = vd_court_find(w, dispute);
    if (d)
        d->sending = sending;
}

/* Gives a copy of the move to the courier. */
static void vd_court_give(struct vd_worker *w, const struct vd_hash *dispute,
                          const struct vd_player_move *move)
{
    struct vd_parcel *p = calloc(1, sizeof *p);
    if (!p)
        return; /* the dispute stays as it is, and is looked at again */
    memcpy(p->bytes, move->bytes, move->n_bytes);
    p->tx.kind = VD_TX_MOVE;
    p->tx.u.move.dispute_id = *dispute;
    p->tx.u.move.move = (struct vd_bytes){p->bytes, move->n_bytes};
    pthread_mutex_lock(&w->mu);
    vd_court_sending(w, dispute, true);
    pthread_mutex_unlock(&w->mu);
    if (vd_courier_give(w->courier, p))
        return;
    free(p);
    pthread_mutex_lock(&w->mu);
    vd_court_sending(w, dispute, false);
    pthread_mutex_unlock(&w->mu);
}

void vd_worker_sent(void *worker, const struct vd_ledger_sending *sent)
{
    struct vd_worker *w = worker;
    bool ok = sent->result == VD_OK;
    char hex[17];
    if (sent->tx->kind == VD_TX_SETTLE) {
        vd_log_event(&w->log, ok ? VD_LOG_INFO : VD_LOG_WARN,
                     ok ? "settled a receipt that its gateway had not" : "a receipt could not be settled",
                     "error=%s", ok ? "" : sent->err.msg);
        return;
    }
    if (sent->tx->kind ==
        VD_TX_AUDIT_DATA) { /* a demand that is still open is found again by the next prune */
        vd_hex_encode(hex, sent->tx->u.audit_data.receipt_id.b, 8);
        vd_log_event(&w->log, ok ? VD_LOG_INFO : VD_LOG_WARN,
                     ok ? "showed a receipt's data on the ledger" : "data were not taken",
                     "receipt=%s error=%s", hex, ok ? "" : sent->err.msg);
        return;
    }
    const struct vd_hash *dispute = &sent->tx->u.move.dispute_id;
    vd_hex_encode(hex, dispute->b, 8);
    if (ok)
        vd_log_event(&w->log, VD_LOG_INFO, "answered a challenge", "dispute=%s height=%llu", hex,
                     (unsigned long long)sent->out.height);
    pthread_mutex_lock(&w->mu);
    struct vd_worker_dispute *d = vd_court_find(w, dispute);
    bool say = !ok && sent->result != VD_ECANCELLED && vd_seldom_due(&w->not_taken);
    w->stats.n_moves += ok;
    if (d) {
        d->sending = false;
        d->not_before_ms = ok ? 0 : vd_clock_ms() + VD_WORKER_AGAIN_MS;
        vd_court_watch(w, dispute);
    }
    pthread_mutex_unlock(&w->mu);
    if (say)
        vd_log_event(&w->log, VD_LOG_ERROR, "a move was not taken", "dispute=%s error=%s", hex,
                     sent->err.msg);
}

static enum vd_err vd_court_play(struct vd_worker *w, const struct vd_hash *dispute,
                                 struct vd_game_trace *trace, struct vd_worker_offer *offer,
                                 const struct vd_game *game, struct vd_error *err)
{
    struct vd_player_move *move = malloc(sizeof *move);
    struct vd_court_move m = {.w = w, .trace = trace, .game = game, .out = move, .err = err};
    uint64_t began = vd_clock_ns();
    char hex[17];
    if (!move)
        return vd_error_set(err, VD_ENOMEM, "no memory for a move");
    vd_hex_encode(hex, dispute->b, 8);
    enum vd_err e = vd_court_make_move(&m, offer->engine);
    pthread_mutex_lock(&w->mu);
    w->stats.n_replays += m.n_replays;
    pthread_mutex_unlock(&w->mu);
    if (e == VD_OK) {
        vd_log_event(&w->log, VD_LOG_INFO, "made a move", "dispute=%s move=%s bytes=%zu replays=%u ms=%llu",
                     hex, vd_move_name(move->kind), move->n_bytes, m.n_replays,
                     (unsigned long long)((vd_clock_ns() - began) / 1000000));
        vd_court_give(w, dispute, move);
    }
    free(move);
    return e;
}

/* The answer to a dispute in which it is the worker's turn. */
static void vd_court_answer(struct vd_worker *w, const struct vd_worker_dispute *d)
{
    struct vd_dispute record = d->record;
    struct vd_game_trace *trace = NULL;
    struct vd_worker_offer *offer = NULL;
    struct vd_error err;
    char hex[17];
    struct vd_game *game = malloc(sizeof *game);
    enum vd_err e = game ? vd_court_case(w, &record.receipt_id, &trace, &offer, &err)
                         : vd_error_set(&err, VD_ENOMEM, "no memory for a game");
    if (e == VD_OK)
        e = vd_game_fetch(w->ledger, &d->id, &trace->c, &record, game, &err);
    if (e == VD_OK && record.status == VD_DISPUTE_WORKER_MOVES)
        e = vd_court_play(w, &d->id, trace, offer, game, &err);
    vd_hex_encode(hex, d->id.b, 8);
    pthread_mutex_lock(&w->mu);
    bool say = e != VD_OK && e != VD_ECANCELLED && vd_seldom_due(&w->no_answer);
    struct vd_worker_dispute *now = vd_court_find(w, &d->id);
    if (now && !now->sending) { /* asked again, but others may be answered before */
        now->stale = w->court_dirty = true;
        now->not_before_ms = vd_clock_ms() + VD_WORKER_AGAIN_MS;
    }
    pthread_mutex_unlock(&w->mu);
    if (say)
        vd_log_event(&w->log, VD_LOG_ERROR, "a challenge could not be answered", "dispute=%s error=%s", hex,
                     err.msg);
    free(game);
}

/* Asks the ledger about one that may have changed. False: there is none, or no answer. */
static bool vd_court_refresh(struct vd_worker *w)
{
    struct vd_hash id;
    struct vd_dispute record;
    struct vd_error err;
    char hex[17];
    bool found = false;
    pthread_mutex_lock(&w->mu);
    for (size_t i = 0; i < w->n_disputes && !found && !w->stopping; i++) {
        found = w->dispute[i].stale && !w->dispute[i].sending;
        if (found) {
            w->dispute[i].stale = false;
            id = w->dispute[i].id;
        }
    }
    pthread_mutex_unlock(&w->mu);
    if (!found)
        return false;
    enum vd_err e = vd_ledger_client_dispute(w->ledger, &id, &record, &err);
    bool over = e == VD_ENOTFOUND || (e == VD_OK && !vd_dispute_open(record.status));
    if (e == VD_ENOTFOUND) { /* it closed so long ago that the ledger has forgotten it */
        record = (struct vd_dispute){.status = VD_DISPUTE_MOOT};
        e = VD_OK;
    }
    vd_hex_encode(hex, id.b, 8);
    if (over)
        vd_log_event(&w->log, VD_LOG_INFO, "a dispute is over", "dispute=%s end=%s", hex,
                     vd_dispute_status_name(record.status));
    pthread_mutex_lock(&w->mu);
    struct vd_worker_dispute *d = vd_court_find(w, &id);
    if (over)
        *d = w->dispute[--w->n_disputes];
    else if (e == VD_OK)
        d->record = record;
    else
        d->stale = true;
    pthread_mutex_unlock(&w->mu);
    return e == VD_OK;
}

size_t vd_worker_next_dispute(const struct vd_worker_dispute *d, size_t n, uint64_t now_ms)
{
    size_t best = n;
    for (size_t i = 0; i < n; i++) {
        if (d[i].stale || d[i].sending || d[i].record.status != VD_DISPUTE_WORKER_MOVES ||
            d[i].not_before_ms > now_ms)
            continue;
        if (best == n || d[i].record.deadline_height < d[best].record.deadline_height)
            best = i;
    }
    return best;
}

/* Answers what can be answered. True: there is something left for later. */
static bool vd_court_look_at_all(struct vd_worker *w)
{
    struct vd_worker_dispute next;
    bool found = true;
    while (found) {
        while (vd_court_refresh(w))
            ;
        found = vd_courier_has_room(w->courier);
        pthread_mutex_lock(&w->mu);
        size_t i = vd_worker_next_dispute(w->dispute, w->n_disputes, vd_clock_ms());
        found = found && !w->stopping && i < w->n_disputes;
        if (found)
            next = w->dispute[i];
        pthread_mutex_unlock(&w->mu);
        if (found)
            vd_court_answer(w, &next);
    }
    bool left = false;
    pthread_mutex_lock(&w->mu);
    size_t n = w->n_disputes;
    for (size_t i = 0; i < n; i++)
        left |= !w->dispute[i].sending &&
                (w->dispute[i].stale || w->dispute[i].record.status == VD_DISPUTE_WORKER_MOVES);
    pthread_mutex_unlock(&w->mu);
    if (!n)
        vd_game_traces_clear(&w->traces);
    return left;
}

static bool vd_court_add_open(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    struct vd_worker *w = arg;
    struct vd_hash id;
    if (key.n != 1 + VD_PUBKEY_BYTES + VD_HASH_BYTES)
        return true;
    memcpy(id.b, key.p + 1 + VD_PUBKEY_BYTES, VD_HASH_BYTES);
    pthread_mutex_lock(&w->mu);
    vd_court_watch(w, &id);
    pthread_mutex_unlock(&w->mu);
    return true;
}

/* ---- Keeping house ---- */

static void vd_court_refresh_stake(struct vd_worker *w)
{
    struct vd_stake s;
    pthread_mutex_lock(&w->mu);
    bool changed = w->stake_changed;
    w->stake_changed = false;
    pthread_mutex_unlock(&w->mu);
    if (!changed || vd_ledger_client_stake(w->ledger, &w->key.pub, &s, NULL) != VD_OK)
        return;
    pthread_mutex_lock(&w->mu);
    w->stake_micro = s.amount.micro;
    pthread_mutex_unlock(&w->mu);
}

/* Settles by itself what the gateway accepted and has left lying for half of the request's validity. */
static void vd_court_settle(struct vd_worker *w, const struct vd_envelope *e)
{
    struct vd_parcel *p = calloc(1, sizeof *p);
    if (!p)
        return; /* the next prune tries again */
    p->tx.kind = VD_TX_SETTLE;
    p->tx.u.settle.n = 1;
    p->tx.u.settle.receipt[0] =
        (struct vd_bytes){p->bytes, vd_signed_receipt_encode(&e->receipt, p->bytes, sizeof p->bytes)};
    if (!vd_courier_give(w->courier, p))
        free(p);
}

/* ---- Data that an auditor demands ---- */

/* The part that begins at `first`, in a parcel whose bytes lie behind it. NULL: no memory. */
static struct vd_parcel *vd_court_part(const struct vd_hash *id, const struct vd_envelope *e, uint32_t first,
                                       uint32_t n)
{
    struct vd_controls none = {{NULL, 0}, {NULL, 0}}, c = first ? none : e->controls;
    struct vd_parcel *p = calloc(1, sizeof *p + 4 * (size_t)n + c.bias.n + c.mask.n);
    if (!p)
        return NULL;
    uint8_t *at = (uint8_t *)(p + 1);
    struct vd_tx_audit_data *t = &p->tx.u.audit_data;
    p->tx.kind = VD_TX_AUDIT_DATA;
    t->receipt_id = *id;
    t->first = first;
    memcpy(t->salt.b, e->job_salt, VD_SALT_BYTES);
    t->tokens = (struct vd_bytes){at, 4 * (size_t)n};
    for (uint32_t i = first; i < first + n; i++, at += 4)
        vd_le32_store(at, i < e->n_prompt ? e->prompt[i] : e->output[i - e->n_prompt]);
    t->bias = (struct vd_bytes){c.bias.n ? memcpy(at, c.bias.p, c.bias.n) : NULL, c.bias.n};
    at += c.bias.n;
    t->mask = (struct vd_bytes){c.mask.n ? memcpy(at, c.mask.p, c.mask.n) : NULL, c.mask.n};
    return p;
}

/* How many tokens of it this worker has shown already: a part that was not taken is sent again, but none that
 * was. */
static uint32_t vd_court_shown(struct vd_worker *w, const struct vd_hash *id)
{
    struct vd_state_key key = vd_state_key_make(VD_STATE_SHOWING, id->b, VD_HASH_BYTES, w->key.pub.b);
    struct vd_ledger_answer answer;
    struct vd_showing s;
    uint32_t n = 0;
    if (vd_ledger_client_get(w->ledger, &key, VD_LEDGER_QUERY_TIMEOUT_MS, &answer, NULL) != VD_OK)
        return 0;
    if (vd_showing_decode(answer.item[0], &s))
        n = s.n_tokens;
    vd_ledger_answer_free(&answer);
    return n;
}

/* All parts, if the ledger still waits for them. */
static void vd_court_show(struct vd_worker *w, const struct vd_hash *id)
{
    struct vd_audit a;
    struct vd_envelope e;
    struct vd_error err;
    uint32_t *tokens, step;
    char hex[65];
    if (vd_ledger_client_audit(w->ledger, id, &a, &err) != VD_OK || a.phase != VD_AUDIT_DATA_DUE)
        return;
    if (vd_worker_jobs_get(&w->jobs, id, &e, &tokens, &err) != VD_OK) {
        vd_hex_encode(hex, id->b, VD_HASH_BYTES);
        vd_log_event(&w->log, VD_LOG_ERROR, "data are demanded that are not here", "receipt=%s error=%s", hex,
                     err.msg);
        return;
    }
    uint32_t n = e.n_prompt + e.n_output;
    for (uint32_t first = vd_court_shown(w, id); first < n; first += step) {
        step = n - first < VD_AUDIT_CHUNK_TOKENS ? n - first : VD_AUDIT_CHUNK_TOKENS;
        struct vd_parcel *p = vd_court_part(id, &e, first, step);
        if (!p || !vd_courier_give(w->courier, p)) {
            free(p);
            break; /* the next prune tries again */
        }
    }
    free(tokens);
}

/* A thread of its own: data have a clock too, and must not wait for replays, of which whoever challenges many
 * receipts can make the court thread do many. */
void *vd_worker_shower(void *worker)
{
    struct vd_worker *w = worker;
    pthread_mutex_lock(&w->mu);
    while (!w->stopping) {
        if (!w->n_demands) {
            pthread_cond_wait(&w->show_cond, &w->mu);
            continue;
        }
        struct vd_hash id = w->demand[--w->n_demands];
        pthread_mutex_unlock(&w->mu);
        vd_court_show(w, &id);
        pthread_mutex_lock(&w->mu);
    }
    pthread_mutex_unlock(&w->mu);
    return NULL;
}

static void vd_court_prune_one(struct vd_worker *w, const struct vd_hash *id)
{
    struct vd_receipt_record record;
    struct vd_envelope e;
    struct vd_receipt r;
    struct vd_error err;
    uint32_t *tokens;
    /* Before the question: else a gateway could settle it in the last block that may, right after the answer
     * that it is not settled, and the data would be gone with which the worker defends it. */
    uint64_t height = vd_ledger_client_height(w->ledger);
    enum vd_err code = vd_ledger_client_receipt(w->ledger, id, &record, &err);
    if (code == VD_OK && record.status != VD_RECEIPT_SETTLED)
        vd_worker_jobs_drop(&w->jobs, id, NULL);
    if (code == VD_OK && record.audit_open) {
        /* the demand came while this worker was away, or its answer did not get through */
        pthread_mutex_lock(&w->mu);
        vd_court_demand(w, id);
        pthread_mutex_unlock(&w->mu);
    }
    if (code != VD_ENOTFOUND || vd_worker_jobs_get(&w->jobs, id, &e, &tokens, &err) != VD_OK)
        return;
    if (vd_receipt_decode((struct vd_bytes){e.receipt.body, e.receipt.body_bytes}, &r) == VD_RECEIPT_OK) {
        static const struct vd_sig none;
        bool accepted = memcmp(&e.receipt.gateway_sig, &none, sizeof none) != 0;
        if (height > r.request.valid_until)
            vd_worker_jobs_drop(&w->jobs, id, NULL);
        else if (accepted && r.request.valid_until - height < w->rules->request_validity_blocks / 2)
            vd_court_settle(w, &e);
    }
    free(tokens);
}

static void vd_court_prune(struct vd_worker *w)
{
    struct vd_hash *ids;
    struct vd_error err;
    size_t n;
    struct vd_state_key prefix =
        vd_state_key_make(VD_INDEX_OPEN_DISPUTE, w->key.pub.b, VD_PUBKEY_BYTES, NULL);
    if (vd_ledger_client_list(w->ledger, &prefix, vd_court_add_open, w, &err) != VD_OK)
        return;
    if (vd_worker_jobs_list(&w->jobs, &ids, &n, &err) != VD_OK) {
        vd_log_event(&w->log, VD_LOG_WARN, "the kept jobs cannot be listed", "error=%s", err.msg);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        pthread_mutex_lock(&w->mu);
        bool stop = w->stopping || w->court_dirty;
        pthread_mutex_unlock(&w->mu);
        if (stop) /* a challenge goes before house-keeping */
            break;
        vd_court_prune_one(w, &ids[i]);
    }
    free(ids);
}

void *vd_worker_court(void *worker)
{
    struct vd_worker *w = worker;
    uint64_t prune_at = 0, look_at = 0;
    pthread_mutex_lock(&w->mu);
    while (!w->stopping) {
        uint64_t now = vd_clock_ms(), at = look_at < prune_at ? look_at : prune_at;
        if (!w->court_dirty && now < at) {
            struct timespec until = vd_clock_after_ms(at - now);
            pthread_cond_timedwait(&w->court_cond, &w->mu, &until);
            continue;
        }
        w->court_dirty = false;
        pthread_mutex_unlock(&w->mu);
        if (now >= prune_at) {
            vd_court_prune(w);
            prune_at = vd_clock_ms() + VD_WORKER_PRUNE_MS;
        }
        bool left = vd_court_look_at_all(w);
        look_at = left ? vd_clock_ms() + VD_WORKER_AGAIN_MS : UINT64_MAX;
        vd_court_refresh_stake(w);
        pthread_mutex_lock(&w->mu);
    }
    pthread_mutex_unlock(&w->mu);
    vd_game_traces_clear(&w->traces);
    return NULL;
}
