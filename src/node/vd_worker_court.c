/* The worker's side of the court: it follows the ledger's events, answers challenges, and forgets a job when
 * nothing can be asked about it any more.
 *
 * Nothing here depends on having seen every event: what must not be missed (open disputes, receipts that are
 * final) is asked of the ledger at the start and from time to time; events only make it quick. A player keeps
 * no state, so this process may die between two moves. */
#include "vd_clock.h"
#include "vd_worker_impl.h"

#include <stdlib.h>
#include <string.h>

/* ---- Events: on the ledger link's thread, quick ---- */

static void vd_court_watch(struct vd_worker *w, const struct vd_hash *dispute)
{
    for (size_t i = 0; i < w->n_disputes; i++)
        if (vd_hash_eq(&w->dispute[i], dispute))
            return;
    if (w->n_disputes < VD_WORKER_DISPUTES_MAX)
        w->dispute[w->n_disputes++] = *dispute;
}

static uint64_t vd_court_less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

static void vd_court_settled(struct vd_worker *w, const struct vd_event *e)
{
    for (size_t i = 0; i < w->n_escrows; i++)
        if (vd_hash_eq(&w->escrow[i].id, &e->id2))
            w->escrow[i].pending_micro = vd_court_less(w->escrow[i].pending_micro, e->amount.micro);
    w->stats.n_settled++;
}

static void vd_court_event(struct vd_worker *w, const struct vd_event *e)
{
    switch (e->kind) {
    case VD_EVENT_SETTLED:
        vd_court_settled(w, e);
        break;
    case VD_EVENT_FINAL:
        w->exposed_micro = vd_court_less(w->exposed_micro, e->amount.micro);
        w->stats.earned_micro += e->amount.micro;
        w->stats.n_final++;
        vd_worker_jobs_drop(&w->jobs, &e->id, NULL);
        break;
    case VD_EVENT_VOID:
        w->exposed_micro = vd_court_less(w->exposed_micro, e->amount.micro);
        w->stats.n_void++;
        vd_worker_jobs_drop(&w->jobs, &e->id, NULL);
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
        break;
    case VD_EVENT_CHALLENGER_LOST:
        w->stats.n_won++;
        break;
    case VD_EVENT_TRANSFER:
    case VD_EVENT_WITHDRAW:
    case VD_EVENT_MODEL:
    case VD_EVENT_OFFER:
    case VD_EVENT_ESCROW_OPENED:
    case VD_EVENT_ESCROW_TOPUP:
    case VD_EVENT_ESCROW_CLOSING:
    case VD_EVENT_ESCROW_RETURNED:
    case VD_EVENT_MOVED:
    case VD_EVENT_MOOT:
    case VD_EVENT_BURNED:
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
    if (w->n_disputes) { /* a challenger moved, perhaps */
        w->court_dirty = true;
        pthread_cond_signal(&w->court_cond);
    }
    pthread_mutex_unlock(&w->mu);
}

/* ---- Answering ---- */

static void vd_court_forget_trace(struct vd_worker *w)
{
    if (!w->trace.open)
        return;
    vd_trace_model_close(w->trace.trace);
    vd_game_case_free(&w->trace.c);
    memset(&w->trace, 0, sizeof w->trace);
}

/* The receipt taken apart; its trace is made when the first move is. */
static enum vd_err vd_court_open_case(struct vd_worker *w, const struct vd_hash *receipt_id,
                                      struct vd_error *err)
{
    struct vd_envelope e;
    struct vd_receipt r;
    uint32_t *tokens;
    if (w->trace.open && vd_hash_eq(&w->trace.receipt_id, receipt_id))
        return VD_OK;
    vd_court_forget_trace(w);
    enum vd_err code = vd_worker_jobs_get(&w->jobs, receipt_id, &e, &tokens, err);
    if (code != VD_OK)
        return code;
    struct vd_worker_offer *offer = NULL;
    if (vd_receipt_decode((struct vd_bytes){e.receipt.body, e.receipt.body_bytes}, &r) == VD_RECEIPT_OK)
        offer = vd_worker_find_offer(w, &r.request.model_root);
    if (!offer) {
        free(tokens);
        return vd_error_set(err, VD_ENOTFOUND,
                            "the receipt's model is not loaded here; start the worker with it again");
    }
    code = vd_game_case_init(&w->trace.c, &e, tokens, offer->m.model, err);
    if (code == VD_OK) {
        w->trace.open = true;
        w->trace.receipt_id = *receipt_id;
        w->trace.offer = offer;
    }
    return code;
}

struct vd_court_move {
    struct vd_worker *w;
    const struct vd_game *game;
    struct vd_player_move *out;
    struct vd_error *err;
    enum vd_err result;
};

/* On the engine's thread, between two steps. */
static void vd_court_make_move(void *arg, struct vd_ctx *ctx, struct vd_kv_pool *cache)
{
    struct vd_court_move *m = arg;
    struct vd_worker *w = m->w;
    m->result = VD_OK;
    if (!w->trace.trace)
        m->result = vd_trace_model_open(&w->trace.trace, w->trace.offer->m.model, ctx, cache, &w->trace.c.job,
                                        m->err);
    if (m->result == VD_OK)
        m->result = vd_player_worker_answer(vd_trace_model_trace(w->trace.trace), m->game, m->out, m->err);
}

static enum vd_err vd_court_play(struct vd_worker *w, const struct vd_hash *dispute,
                                 const struct vd_game *game, struct vd_error *err)
{
    struct vd_player_move *move = malloc(sizeof *move);
    struct vd_court_move m = {.w = w, .game = game, .out = move, .err = err};
    uint64_t began = vd_clock_ns();
    char hex[17];
    if (!move)
        return vd_error_set(err, VD_ENOMEM, "no memory for a move");
    vd_hex_encode(hex, dispute->b, 8);
    enum vd_err e = vd_engine_run(w->trace.offer->engine, vd_court_make_move, &m, err);
    if (e == VD_OK)
        e = m.result;
    if (e == VD_OK)
        e = vd_game_send(w->ledger, dispute, move, err);
    if (e == VD_OK) {
        vd_log_event(&w->log, VD_LOG_INFO, "answered a challenge", "dispute=%s move=%s bytes=%zu ms=%llu",
                     hex, vd_move_name(move->kind), move->n_bytes,
                     (unsigned long long)((vd_clock_ns() - began) / 1000000));
        pthread_mutex_lock(&w->mu);
        w->stats.n_moves++;
        pthread_mutex_unlock(&w->mu);
    }
    free(move);
    return e;
}

/* One look at a dispute. True: it is over. */
static bool vd_court_look(struct vd_worker *w, const struct vd_hash *dispute)
{
    struct vd_dispute record;
    struct vd_error err;
    char hex[17];
    vd_hex_encode(hex, dispute->b, 8);
    struct vd_game *game = malloc(sizeof *game);
    enum vd_err e = vd_ledger_client_dispute(w->ledger, dispute, &record, &err);
    bool over = e == VD_OK && !vd_dispute_open(record.status);
    if (over)
        vd_log_event(&w->log, VD_LOG_INFO, "a dispute is over", "dispute=%s end=%s", hex,
                     vd_dispute_status_name(record.status));
    if (e == VD_OK && !over && record.status == VD_DISPUTE_WORKER_MOVES && game) {
        e = vd_court_open_case(w, &record.receipt_id, &err);
        if (e == VD_OK)
            e = vd_game_fetch(w->ledger, dispute, &w->trace.c, &record, game, &err);
        if (e == VD_OK && record.status == VD_DISPUTE_WORKER_MOVES)
            e = vd_court_play(w, dispute, game, &err);
    }
    if (e != VD_OK && e != VD_ECANCELLED)
        vd_log_event(&w->log, VD_LOG_ERROR, "a challenge could not be answered", "dispute=%s error=%s", hex,
                     err.msg);
    free(game);
    return over;
}

static void vd_court_look_at_all(struct vd_worker *w)
{
    for (size_t i = 0;;) {
        struct vd_hash id;
        pthread_mutex_lock(&w->mu);
        bool more = i < w->n_disputes && !w->stopping;
        if (more)
            id = w->dispute[i];
        pthread_mutex_unlock(&w->mu);
        if (!more)
            break;
        if (!vd_court_look(w, &id)) {
            i++;
            continue;
        }
        pthread_mutex_lock(&w->mu);
        w->dispute[i] = w->dispute[--w->n_disputes];
        pthread_mutex_unlock(&w->mu);
    }
    pthread_mutex_lock(&w->mu);
    bool idle = w->n_disputes == 0;
    pthread_mutex_unlock(&w->mu);
    if (idle)
        vd_court_forget_trace(w);
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
    uint8_t bytes[VD_SIGNED_RECEIPT_MAX_BYTES];
    struct vd_ledger_outcome o;
    struct vd_error err;
    struct vd_tx tx = {.kind = VD_TX_SETTLE};
    tx.u.settle.n = 1;
    tx.u.settle.receipt[0] =
        (struct vd_bytes){bytes, vd_signed_receipt_encode(&e->receipt, bytes, sizeof bytes)};
    if (vd_ledger_client_send(w->ledger, &tx, VD_LEDGER_QUERY_TIMEOUT_MS, &o, &err) == VD_OK)
        vd_log_event(&w->log, VD_LOG_INFO, "settled a receipt that its gateway had not", NULL);
    else
        vd_log_event(&w->log, VD_LOG_WARN, "a receipt could not be settled", "error=%s", err.msg);
}

static void vd_court_prune_one(struct vd_worker *w, const struct vd_hash *id)
{
    struct vd_receipt_record record;
    struct vd_envelope e;
    struct vd_receipt r;
    struct vd_error err;
    uint32_t *tokens;
    enum vd_err code = vd_ledger_client_receipt(w->ledger, id, &record, &err);
    if (code == VD_OK && record.status != VD_RECEIPT_SETTLED)
        vd_worker_jobs_drop(&w->jobs, id, NULL);
    if (code != VD_ENOTFOUND || vd_worker_jobs_get(&w->jobs, id, &e, &tokens, &err) != VD_OK)
        return;
    uint64_t height = vd_ledger_client_height(w->ledger);
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
    uint64_t prune_at = 0;
    pthread_mutex_lock(&w->mu);
    while (!w->stopping) {
        uint64_t now = vd_clock_ms();
        if (!w->court_dirty && now < prune_at) {
            struct timespec until = vd_clock_after_ms(prune_at - now);
            pthread_cond_timedwait(&w->court_cond, &w->mu, &until);
            continue;
        }
        w->court_dirty = false;
        pthread_mutex_unlock(&w->mu);
        if (now >= prune_at) {
            vd_court_prune(w);
            prune_at = vd_clock_ms() + VD_WORKER_PRUNE_MS;
        }
        vd_court_look_at_all(w);
        vd_court_refresh_stake(w);
        pthread_mutex_lock(&w->mu);
    }
    pthread_mutex_unlock(&w->mu);
    vd_court_forget_trace(w);
    return NULL;
}
