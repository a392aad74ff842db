/* The auditor: one thread that replays what was drawn and plays the disputes that follow. Moves go before
 * replays, since they have a clock; and since a replay may take longer than any clock, moves and duties are
 * seen to between its passes. */
#include "vd_clock.h"
#include "vd_verifier_impl.h"

#include <stdlib.h>
#include <string.h>

enum { VD_CHALLENGE_WAIT_MS = 30000 };

/* ---- The data of a receipt, from its gateway ---- */

struct vd_link *vd_audit_link(struct vd_verifier *v, const struct vd_pubkey *gateway)
{
    struct vd_link *link = NULL;
    pthread_mutex_lock(&v->mu);
    for (size_t i = 0; i < VD_WORKER_GATEWAYS_MAX && !link; i++)
        if (v->link[i] && vd_pubkey_eq(vd_link_peer(v->link[i]), gateway))
            link = vd_link_ref(v->link[i]);
    pthread_mutex_unlock(&v->mu);
    return link;
}

enum vd_err vd_audit_get(struct vd_link *link, const struct vd_hash *receipt_id, struct vd_error *err)
{
    struct vd_wire_audit_get m = {.receipt_id = *receipt_id};
    uint8_t buf[64];
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    return vd_wire_put_audit_get(&w, &m) ? vd_link_send(link, VD_WIRE_AUDIT_GET, buf, w.n_bytes, err)
                                         : vd_error_set(err, VD_EINTERNAL, "AUDIT_GET does not encode");
}

static enum vd_err vd_audit_ask(struct vd_verifier *v, struct vd_link *link, const struct vd_verifier_task *a,
                                uint8_t **bytes, size_t *n, struct vd_error *err)
{
    struct timespec until = vd_clock_after_ms(VD_VERIFIER_FETCH_MS);
    pthread_mutex_lock(&v->mu);
    memset(&v->fetch, 0, sizeof v->fetch);
    v->fetch.waiting = true;
    v->fetch.from = link;
    v->fetch.receipt_id = a->receipt_id;
    pthread_mutex_unlock(&v->mu);
    enum vd_err e = vd_audit_get(link, &a->receipt_id, err);
    pthread_mutex_lock(&v->mu);
    while (e == VD_OK && !v->fetch.done && !v->stopping)
        if (pthread_cond_timedwait(&v->data, &v->mu, &until) != 0)
            e = vd_error_set(err, VD_ETIMEOUT, "the gateway did not answer");
    v->fetch.waiting = false;
    *bytes = v->fetch.envelope;
    *n = v->fetch.n_bytes;
    v->fetch.envelope = NULL;
    if (*bytes)
        e = VD_OK;
    else if (e == VD_OK)
        e = vd_error_set(err, v->stopping ? VD_ECANCELLED : VD_ENOTFOUND, "%s", v->fetch.refused);
    pthread_mutex_unlock(&v->mu);
    return e;
}

/* Everything that can be checked without the model. */
enum vd_err vd_audit_read(const struct vd_hash *receipt_id, struct vd_bytes bytes, struct vd_envelope *e,
                          uint32_t **tokens, struct vd_error *err)
{
    struct vd_receipt r;
    enum vd_err code = VD_OK;
    *tokens = malloc((bytes.n + 1) * sizeof **tokens);
    if (!*tokens) {
        code = vd_error_set(err, VD_ENOMEM, "no memory for %zu tokens", bytes.n);
    } else if (!vd_envelope_decode(bytes, e, *tokens, bytes.n)) {
        code = vd_error_set(err, VD_EFALSE, "the gateway's data do not decode");
    } else {
        struct vd_hash id = vd_signed_receipt_id(&e->receipt);
        enum vd_receipt_verdict verdict = vd_envelope_check(e, &r);
        if (!vd_hash_eq(&id, receipt_id))
            code = vd_error_set(err, VD_EFALSE, "the gateway sent another receipt");
        else if (verdict != VD_RECEIPT_OK)
            code = vd_error_set(err, VD_EFALSE, "the gateway's data: %s", vd_receipt_verdict_text(verdict));
    }
    if (code != VD_OK) {
        free(*tokens);
        *tokens = NULL;
    }
    return code;
}

/* A gateway that took so long is not asked again for a while: it must not have all of the auditor's time, or
 * whoever's receipts wait behind its would not be looked at before their windows close. */
static void vd_audit_rest(struct vd_verifier *v, const struct vd_link *link, uint64_t took_ms)
{
    pthread_mutex_lock(&v->mu);
    for (size_t i = 0; i < VD_WORKER_GATEWAYS_MAX; i++)
        if (v->link[i] == link)
            v->rests_until_ms[i] =
                took_ms < VD_VERIFIER_QUICK_MS ? 0 : vd_clock_ms() + VD_VERIFIER_REST_TIMES * took_ms;
    pthread_mutex_unlock(&v->mu);
}

/* Under mu. */
static bool vd_audit_rests(const struct vd_verifier *v, const struct vd_pubkey *gateway, uint64_t now_ms)
{
    for (size_t i = 0; i < VD_WORKER_GATEWAYS_MAX; i++)
        if (v->link[i] && v->rests_until_ms[i] > now_ms && vd_pubkey_eq(vd_link_peer(v->link[i]), gateway))
            return true;
    return false;
}

static enum vd_err vd_audit_fetch(struct vd_verifier *v, const struct vd_verifier_task *a,
                                  struct vd_envelope *e, uint32_t **tokens, struct vd_error *err)
{
    struct vd_link *link = vd_audit_link(v, &a->gateway);
    uint8_t *bytes = NULL;
    size_t n = 0;
    if (!link)
        return vd_error_set(err, VD_ENET, "no link to the receipt's gateway");
    uint64_t began = vd_clock_ms();
    enum vd_err code = vd_audit_ask(v, link, a, &bytes, &n, err);
    vd_audit_rest(v, link, vd_clock_ms() - began);
    vd_link_unref(link);
    if (code == VD_OK)
        code = vd_audit_read(&a->receipt_id, (struct vd_bytes){bytes, n}, e, tokens, err);
    free(bytes);
    return code;
}

/* ---- Replay ---- */

struct vd_verifier_desk *vd_audit_desk(struct vd_verifier *v, const struct vd_hash *model_root)
{
    for (size_t i = 0; i < v->n_desks; i++)
        if (vd_hash_eq(&v->desk[i].m.root, model_root))
            return &v->desk[i];
    return NULL;
}

static void vd_audit_count(struct vd_verifier *v, uint64_t *counter)
{
    pthread_mutex_lock(&v->mu);
    ++*counter;
    pthread_mutex_unlock(&v->mu);
}

/* ---- Traces ---- */

/* The open trace of a receipt whose case is on disk. */
static enum vd_err vd_audit_open_trace(struct vd_verifier *v, const struct vd_hash *receipt_id,
                                       struct vd_game_trace **out, struct vd_error *err)
{
    struct vd_envelope e;
    struct vd_receipt r;
    uint32_t *tokens = NULL; /* of a trace that is kept: it has its own */
    struct vd_game_trace *t = vd_game_traces_get(&v->traces, receipt_id);
    enum vd_err code = t ? VD_OK : vd_worker_jobs_get(&v->cases, receipt_id, &e, &tokens, err);
    if (code != VD_OK)
        return code;
    struct vd_verifier_desk *d = NULL;
    if (t)
        d = vd_audit_desk(v, &t->c.receipt.request.model_root);
    else if (vd_receipt_decode((struct vd_bytes){e.receipt.body, e.receipt.body_bytes}, &r) == VD_RECEIPT_OK)
        d = vd_audit_desk(v, &r.request.model_root);
    if (!d) {
        free(tokens);
        return vd_error_set(err, VD_ENOTFOUND,
                            "the receipt's model is not loaded here; start the verifier with it again");
    }
    if (!t)
        code = vd_game_traces_put(&v->traces, &e, tokens, d->m.model, &t, err);
    if (code == VD_OK)
        code = vd_game_trace_open(t, d->ctx, d->cache, err);
    *out = t;
    return code;
}

/* ---- Challenges ---- */

struct vd_audit_found {
    struct vd_hash id[VD_VERIFIER_DISPUTES_MAX];
    size_t n;
};

static bool vd_audit_add_found(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    struct vd_audit_found *f = arg;
    (void)value;
    if (key.n == 1 + 3 * VD_HASH_BYTES)
        memcpy(f->id[f->n++].b, key.p + 1 + 2 * VD_HASH_BYTES, VD_HASH_BYTES);
    return f->n < VD_VERIFIER_DISPUTES_MAX;
}

static void vd_audit_add_dispute(struct vd_verifier *v, const struct vd_hash *id,
                                 const struct vd_hash *receipt_id)
{
    pthread_mutex_lock(&v->mu);
    size_t i = v->n_disputes++;
    v->dispute[i].id = *id;
    v->dispute[i].receipt_id = *receipt_id;
    v->dispute[i].sending = false;
    v->dispute[i].not_before_ms = 0;
    v->dispute[i].not_made = v->dispute[i].not_taken = (struct vd_seldom){0};
    pthread_mutex_unlock(&v->mu);
}

bool vd_verifier_provable(enum vd_replay_verdict verdict)
{
    switch (verdict) {
    case VD_REPLAY_TOKEN:
    case VD_REPLAY_STOP:
    case VD_REPLAY_COMMIT:
    case VD_REPLAY_VECTOR:
        return true;
    case VD_REPLAY_OK:
    case VD_REPLAY_MODEL:
    case VD_REPLAY_JOB:
        break;
    }
    return false;
}

/* *ours: this verifier has an open dispute about the receipt, and plays it from now on. The ledger knows of
 * some that this process does not: of an earlier life that ended right after its challenge, or of a challenge
 * whose outcome never came. */
static enum vd_err vd_audit_adopt(struct vd_verifier *v, const struct vd_hash *receipt_id, bool *ours,
                                  struct vd_error *err)
{
    struct vd_audit_found f = {.n = 0};
    struct vd_state_key prefix = vd_state_key_challenge(receipt_id, &v->key.pub, NULL);
    *ours = false;
    for (size_t i = 0; i < v->n_disputes; i++)
        *ours |= vd_hash_eq(&v->dispute[i].receipt_id, receipt_id);
    if (*ours)
        return VD_OK;
    enum vd_err e = vd_ledger_client_list(v->ledger, &prefix, vd_audit_add_found, &f, err);
    for (size_t i = 0; e == VD_OK && i < f.n && v->n_disputes < VD_VERIFIER_DISPUTES_MAX; i++) {
        vd_audit_add_dispute(v, &f.id[i], receipt_id);
        *ours = true;
    }
    return e;
}

/* What is needed to win is made before the bond is put down: the trace, and that it says what the replay
 * said. */
static enum vd_err vd_audit_prepare(struct vd_verifier *v, const struct vd_hash *receipt_id,
                                    const struct vd_hash *commit_root, struct vd_error *err)
{
    struct vd_game_trace *t;
    enum vd_err e = vd_audit_open_trace(v, receipt_id, &t, err);
    if (e == VD_OK && !vd_hash_eq(&vd_trace_model_trace(t->trace)->commit_root, commit_root))
        e = vd_error_set(err, VD_EINTERNAL,
                         "replay and trace differ: this machine does not compute the same thing twice");
    if (e != VD_OK)
        vd_audit_count(v, &v->stats.n_unprovable);
    return e;
}

enum vd_err vd_audit_challenge(struct vd_verifier *v, const struct vd_game_case *c,
                               const struct vd_hash *commit_root, struct vd_error *err)
{
    struct vd_tx tx = {.kind = VD_TX_CHALLENGE};
    struct vd_ledger_outcome o;
    char hex[65];
    bool ours;
    /* On disk first: a verifier that dies now finds the dispute by the receipt. */
    enum vd_err e = vd_worker_jobs_put(&v->cases, &c->envelope, err);
    tx.u.challenge.receipt_id = c->receipt_id;
    if (e == VD_OK)
        e = vd_audit_adopt(v, &c->receipt_id, &ours, err);
    if (e == VD_OK && ours)
        return VD_OK;
    if (e == VD_OK && v->n_disputes == VD_VERIFIER_DISPUTES_MAX)
        e = vd_error_set(err, VD_EAGAIN, "%d disputes are open already", VD_VERIFIER_DISPUTES_MAX);
    if (e == VD_OK)
        e = vd_audit_prepare(v, &c->receipt_id, commit_root, err);
    if (e == VD_OK)
        e = vd_ledger_client_send(v->ledger, &tx, VD_CHALLENGE_WAIT_MS, &o, err);
    vd_hex_encode(hex, c->receipt_id.b, VD_HASH_BYTES);
    if (e != VD_OK) {
        vd_log_event(&v->log, VD_LOG_ERROR, "a receipt that does not stand could not be challenged",
                     "receipt=%s error=%s", hex, err->msg);
        if (e != VD_EFALSE)
            return e;
        if (o.verdict != VD_TX_WINDOW_CLOSED && o.verdict != VD_TX_UNKNOWN_RECEIPT) {
            err->code = VD_EAGAIN; /* no credits for the bond, which others may hold for now */
            return VD_EAGAIN;
        }
        vd_worker_jobs_drop(&v->cases, &c->receipt_id, NULL);
        return VD_OK;
    }
    vd_audit_count(v, &v->stats.n_challenges);
    vd_audit_add_dispute(v, &o.tx_id, &c->receipt_id);
    vd_hex_encode(hex, o.tx_id.b, VD_HASH_BYTES);
    vd_log_event(&v->log, VD_LOG_WARN, "challenged", "dispute=%s height=%llu", hex,
                 (unsigned long long)o.height);
    return VD_OK;
}

/* A receipt with its data, and the workplace of its model. */
struct vd_audit_item {
    struct vd_verifier_task task;
    struct vd_verifier_desk *desk; /* NULL: no model here is the receipt's, or done with */
    struct vd_game_case c;
};

/* Takes the tokens over. */
static enum vd_err vd_audit_item_init(struct vd_verifier *v, struct vd_audit_item *item,
                                      const struct vd_envelope *e, uint32_t *tokens, struct vd_error *err)
{
    struct vd_receipt r;
    item->desk = NULL;
    if (vd_receipt_decode((struct vd_bytes){e->receipt.body, e->receipt.body_bytes}, &r) == VD_RECEIPT_OK)
        item->desk = vd_audit_desk(v, &r.request.model_root);
    if (!item->desk) {
        free(tokens);
        vd_audit_count(v, &v->stats.n_other_model);
        return VD_OK;
    }
    enum vd_err code = vd_game_case_init(&item->c, e, tokens, item->desk->m.model, err);
    if (code != VD_OK)
        item->desk = NULL;
    return code;
}

static void vd_audit_item_free(struct vd_audit_item *item)
{
    if (item->desk)
        vd_game_case_free(&item->c);
    item->desk = NULL;
}

/* What follows from a replay that took its share of `took` ns. */
static enum vd_err vd_audit_conclude(struct vd_verifier *v, const struct vd_audit_item *item,
                                     const struct vd_replay_result *result, uint64_t took,
                                     struct vd_error *err)
{
    const struct vd_game_case *c = &item->c;
    uint32_t n = c->receipt.request.n_prompt + c->receipt.n_output;
    bool stands = result->verdict == VD_REPLAY_OK, provable = vd_verifier_provable(result->verdict);
    char hex[65];
    vd_hex_encode(hex, c->receipt_id.b, VD_HASH_BYTES);
    vd_log_event(&v->log, stands ? VD_LOG_INFO : VD_LOG_WARN,
                 stands ? "a receipt stands" : "a receipt does NOT stand",
                 "receipt=%s tokens=%u shared=%u ms=%llu verdict=%s step=%u", hex, n, result->n_shared,
                 (unsigned long long)(took / 1000000), vd_replay_text(result->verdict), result->step);
    pthread_mutex_lock(&v->mu);
    v->stats.n_stand += stands;
    v->stats.n_differ += !stands;
    v->stats.n_unprovable += !stands && !provable;
    v->stats.n_tokens += n;
    v->stats.replay_ns += took;
    pthread_mutex_unlock(&v->mu);
    return provable ? vd_audit_challenge(v, c, &result->commit_root, err) : VD_OK;
}

/* One by itself. */
static enum vd_err vd_audit_replay_item(struct vd_verifier *v, const struct vd_audit_item *item,
                                        struct vd_error *err)
{
    const struct vd_verifier_desk *d = item->desk;
    struct vd_replay_result result;
    uint64_t began = vd_clock_ns();
    v->pass = VD_PASS_SAMPLE;
    enum vd_err code = vd_replay(d->ctx, d->cache, &d->m.root, &item->c.job, &result, err);
    v->pass = VD_PASS_OTHER;
    vd_audit_count(v, &v->stats.n_passes);
    return code == VD_OK ? vd_audit_conclude(v, item, &result, vd_clock_ns() - began, err) : code;
}

/* Takes the tokens over. */
static enum vd_err vd_audit_replay(struct vd_verifier *v, const struct vd_envelope *e, uint32_t *tokens,
                                   struct vd_error *err)
{
    struct vd_audit_item *item = calloc(1, sizeof *item);
    if (!item) {
        free(tokens);
        return vd_error_set(err, VD_ENOMEM, "no memory for a receipt");
    }
    enum vd_err code = vd_audit_item_init(v, item, e, tokens, err);
    if (code == VD_OK && item->desk)
        code = vd_audit_replay_item(v, item, err);
    vd_audit_item_free(item);
    free(item);
    return code;
}

/* Puts it back to the end of the queue for another try, as long as it may still be challenged: a gateway that
 * is away for a while must not save a cheat. */
static void vd_audit_again(struct vd_verifier *v, struct vd_verifier_task a, const struct vd_error *why)
{
    char hex[65];
    vd_hex_encode(hex, a.receipt_id.b, VD_HASH_BYTES);
    pthread_mutex_lock(&v->mu);
    bool again = v->height < a.height + v->rules->audit_window_blocks &&
                 v->n_queued < VD_VERIFIER_QUEUE_MAX && why->code != VD_EFALSE;
    if (again) {
        a.not_before_ms = vd_clock_ms() + ((uint64_t)VD_VERIFIER_RETRY_MS << a.n_tries);
        a.n_tries += a.n_tries < VD_VERIFIER_SLOWER_MAX;
        v->queue[(v->queue_at + v->n_queued++) % VD_VERIFIER_QUEUE_MAX] = a;
    } else if (why->code == VD_EFALSE) {
        v->stats.n_bad_data++;
    } else {
        v->stats.n_unavailable++;
    }
    pthread_mutex_unlock(&v->mu);
    if (!again)
        vd_log_event(&v->log, VD_LOG_WARN, "a receipt could not be audited", "receipt=%s error=%s", hex,
                     why->msg);
}

/* The first of the queue that is due. */
static bool vd_audit_take(struct vd_verifier *v, struct vd_verifier_task *out)
{
    uint64_t now = vd_clock_ms();
    bool found = false;
    pthread_mutex_lock(&v->mu);
    for (size_t left = v->n_queued; left && !found && !v->stopping; left--) {
        *out = v->queue[v->queue_at];
        v->queue_at = (v->queue_at + 1) % VD_VERIFIER_QUEUE_MAX;
        v->n_queued--;
        if (!out->drawn && !(out->drawn = vd_verifier_draw(v)))
            continue;
        found = out->not_before_ms <= now && !vd_audit_rests(v, &out->gateway, now);
        if (!found)
            v->queue[(v->queue_at + v->n_queued++) % VD_VERIFIER_QUEUE_MAX] = *out;
    }
    pthread_mutex_unlock(&v->mu);
    return found;
}

static void vd_audit_failed(struct vd_verifier *v, const struct vd_verifier_task *a, enum vd_err code,
                            struct vd_error *err)
{
    if (code == VD_OK)
        return;
    if (code == VD_ECANCELLED) { /* given up for something that has a clock, or the verifier stops */
        pthread_mutex_lock(&v->mu);
        if (v->n_queued < VD_VERIFIER_QUEUE_MAX)
            v->queue[(v->queue_at + v->n_queued++) % VD_VERIFIER_QUEUE_MAX] = *a;
        pthread_mutex_unlock(&v->mu);
        return;
    }
    err->code = code;
    vd_audit_again(v, *a, err);
}

/* Those of one model among the items from `first` on, in one pass. Where the pass fails, each by itself: one
 * that needs more memory than there is must not keep the others from being audited. */
static void vd_audit_replay_model(struct vd_verifier *v, struct vd_audit_item *item, size_t n, size_t first)
{
    const struct vd_verifier_desk *d = item[first].desk;
    struct vd_proof_job job[VD_VERIFIER_TOGETHER_MAX];
    struct vd_replay_result result[VD_VERIFIER_TOGETHER_MAX];
    size_t which[VD_VERIFIER_TOGETHER_MAX], n_jobs = 0;
    struct vd_error err;
    for (size_t i = first; i < n; i++)
        if (item[i].desk == d) {
            job[n_jobs] = item[i].c.job;
            which[n_jobs++] = i;
        }
    uint64_t began = vd_clock_ns();
    v->pass = VD_PASS_SAMPLE;
    enum vd_err all =
        n_jobs > 1 ? vd_replay_many(d->ctx, d->cache, &d->m.root, job, n_jobs, result, &err) : VD_ENOMEM;
    v->pass = VD_PASS_OTHER;
    uint64_t took = (vd_clock_ns() - began) / n_jobs;
    if (all == VD_OK)
        vd_audit_count(v, &v->stats.n_passes);
    for (size_t k = 0; k < n_jobs; k++) {
        struct vd_audit_item *one = &item[which[k]];
        enum vd_err code = all == VD_OK           ? vd_audit_conclude(v, one, &result[k], took, &err)
                           : all == VD_ECANCELLED ? all
                                                  : vd_audit_replay_item(v, one, &err);
        vd_audit_failed(v, &one->task, code, &err);
        vd_audit_item_free(one);
    }
}

/* The next receipts that are due, as many as may go together. Returns how many were taken off the queue. */
static size_t vd_audit_gather(struct vd_verifier *v, struct vd_audit_item *item, size_t *n)
{
    size_t n_taken = 0;
    uint64_t n_pos = 0;
    bool moved = false;
    struct vd_verifier_task a;
    *n = 0;
    while (*n < VD_VERIFIER_TOGETHER_MAX && n_pos < VD_VERIFIER_TOGETHER_POS && !moved &&
           vd_audit_take(v, &a)) {
        struct vd_envelope e = {0};
        struct vd_error err;
        uint32_t *tokens = NULL;
        n_taken++;
        item[*n].task = a;
        enum vd_err code = vd_audit_fetch(v, &a, &e, &tokens, &err);
        if (code == VD_OK)
            code = vd_audit_item_init(v, &item[*n], &e, tokens, &err);
        vd_audit_failed(v, &a, code, &err);
        if (code == VD_OK && item[*n].desk) {
            n_pos += vd_receipt_n_steps(&item[*n].c.receipt);
            ++*n;
        }
        pthread_mutex_lock(&v->mu);
        moved = v->moved; /* a move has a clock */
        pthread_mutex_unlock(&v->mu);
    }
    return n_taken;
}

/* Whether there was anything to do. */
static bool vd_audit_some(struct vd_verifier *v)
{
    size_t n, n_taken;
    struct vd_audit_item *item = calloc(VD_VERIFIER_TOGETHER_MAX, sizeof *item);
    if (!item)
        return false; /* the queue stays as it is */
    n_taken = vd_audit_gather(v, item, &n);
    for (size_t i = 0; i < n; i++)
        if (item[i].desk)
            vd_audit_replay_model(v, item, n, i);
    free(item);
    return n_taken > 0;
}

/* ---- Disputes ---- */

/* Gives a copy of the move to the courier. */
static void vd_audit_give(struct vd_verifier *v, size_t i, const struct vd_player_move *move)
{
    struct vd_parcel *p = calloc(1, sizeof *p);
    if (!p)
        return; /* looked at again with the next block */
    memcpy(p->bytes, move->bytes, move->n_bytes);
    p->tx.kind = VD_TX_MOVE;
    p->tx.u.move.move = (struct vd_bytes){p->bytes, move->n_bytes};
    pthread_mutex_lock(&v->mu);
    p->tx.u.move.dispute_id = v->dispute[i].id;
    v->dispute[i].sending = true;
    pthread_mutex_unlock(&v->mu);
    if (vd_courier_give(v->courier, p))
        return;
    free(p);
    pthread_mutex_lock(&v->mu);
    v->dispute[i].sending = false;
    pthread_mutex_unlock(&v->mu);
}

void vd_verifier_sent(void *verifier, const struct vd_ledger_sending *sent)
{
    struct vd_verifier *v = verifier;
    bool ok = sent->result == VD_OK;
    if (sent->tx->kind != VD_TX_MOVE) {
        vd_duty_sent(v, sent);
        return;
    }
    const struct vd_hash *id = &sent->tx->u.move.dispute_id;
    char hex[65];
    vd_hex_encode(hex, id->b, VD_HASH_BYTES);
    bool say = false;
    if (ok)
        vd_log_event(&v->log, VD_LOG_INFO, "moved", "dispute=%s height=%llu", hex,
                     (unsigned long long)sent->out.height);
    pthread_mutex_lock(&v->mu);
    v->stats.n_moves += ok;
    for (size_t i = 0; i < v->n_disputes; i++)
        if (vd_hash_eq(&v->dispute[i].id, id)) {
            v->dispute[i].sending = false;
            v->dispute[i].not_before_ms = ok ? 0 : vd_clock_ms() + VD_VERIFIER_RETRY_MS;
            say = !ok && sent->result != VD_ECANCELLED && vd_seldom_due(&v->dispute[i].not_taken);
        }
    v->moved = true;
    pthread_cond_signal(&v->work);
    pthread_mutex_unlock(&v->mu);
    if (say)
        vd_log_event(&v->log, VD_LOG_ERROR, "a move was not taken", "dispute=%s error=%s", hex,
                     sent->err.msg);
}

static enum vd_err vd_audit_move(struct vd_verifier *v, size_t i, struct vd_game_trace *t,
                                 const struct vd_game *game, struct vd_error *err)
{
    struct vd_player_move *move = malloc(sizeof *move);
    const struct vd_hash *dispute = &v->dispute[i].id;
    uint64_t began = vd_clock_ns();
    char hex[65];
    if (!move)
        return vd_error_set(err, VD_ENOMEM, "no memory for a move");
    vd_hex_encode(hex, dispute->b, VD_HASH_BYTES);
    vd_game_unit_in(&v->traces, t, game);
    enum vd_err e = vd_player_challenger_point(vd_trace_model_trace(t->trace), &t->c.claim, game, move, err);
    vd_game_unit_out(&v->traces, t);
    if (e == VD_OK) {
        vd_log_event(&v->log, VD_LOG_INFO, "made a move", "dispute=%s move=%s bytes=%zu ms=%llu", hex,
                     vd_move_name(move->kind), move->n_bytes,
                     (unsigned long long)((vd_clock_ns() - began) / 1000000));
        vd_audit_give(v, i, move);
    }
    free(move);
    return e;
}

/* True: it is over. */
static bool vd_audit_look(struct vd_verifier *v, size_t i)
{
    const struct vd_hash *dispute = &v->dispute[i].id, *receipt_id = &v->dispute[i].receipt_id;
    struct vd_dispute record = {0};
    struct vd_game_trace *t;
    struct vd_error err;
    char hex[65];
    vd_hex_encode(hex, dispute->b, VD_HASH_BYTES);
    struct vd_game *game = malloc(sizeof *game);
    enum vd_err e = game ? vd_ledger_client_dispute(v->ledger, dispute, &record, &err)
                         : vd_error_set(&err, VD_ENOMEM, "no memory for a game");
    bool over = e == VD_ENOTFOUND || (e == VD_OK && !vd_dispute_open(record.status));
    if (e == VD_ENOTFOUND) { /* it closed so long ago that the ledger has forgotten it */
        record.status = VD_DISPUTE_MOOT;
        e = VD_OK;
    }
    if (over) {
        vd_log_event(&v->log, VD_LOG_WARN, "a dispute is over", "dispute=%s end=%s", hex,
                     vd_dispute_status_name(record.status));
        vd_worker_jobs_drop(&v->cases, receipt_id, NULL);
    }
    if (e == VD_OK && !over && record.status == VD_DISPUTE_CHALLENGER_MOVES) {
        e = vd_audit_open_trace(v, receipt_id, &t, &err);
        if (e == VD_OK)
            e = vd_game_fetch(v->ledger, dispute, &t->c, &record, game, &err);
        if (e == VD_OK && record.status == VD_DISPUTE_CHALLENGER_MOVES)
            e = vd_audit_move(v, i, t, game, &err);
    }
    v->no_room |= e == VD_ENOMEM;
    if (e != VD_OK && e != VD_ECANCELLED && vd_seldom_due(&v->dispute[i].not_made))
        vd_log_event(&v->log, VD_LOG_ERROR, "a move could not be made", "dispute=%s error=%s", hex, err.msg);
    free(game);
    return over;
}

static void vd_audit_look_at_all(struct vd_verifier *v)
{
    v->news_moves = false;
    for (size_t i = 0; i < v->n_disputes;) {
        pthread_mutex_lock(&v->mu);
        bool due = !v->dispute[i].sending && v->dispute[i].not_before_ms <= vd_clock_ms() && !v->stopping;
        pthread_mutex_unlock(&v->mu);
        if (!due || !vd_audit_look(v, i)) {
            i++;
            continue;
        }
        pthread_mutex_lock(&v->mu);
        v->dispute[i] = v->dispute[--v->n_disputes];
        pthread_mutex_unlock(&v->mu);
    }
    if (!v->n_disputes)
        vd_game_traces_clear(&v->traces);
}

/* ---- Between two passes ---- */

/* Takes note of what has happened. Returns false: it is to stop. */
static bool vd_audit_hear(struct vd_verifier *v)
{
    pthread_mutex_lock(&v->mu);
    v->news_moves |= v->moved;
    v->news_duties |= v->moved;
    v->moved = false;
    bool go_on = !v->stopping;
    pthread_mutex_unlock(&v->mu);
    return go_on;
}

static bool vd_audit_duties_due(const struct vd_verifier *v)
{
    return v->news_duties || (v->duty_at_ms && vd_clock_ms() >= v->duty_at_ms);
}

bool vd_audit_between(void *verifier)
{
    struct vd_verifier *v = verifier;
    enum vd_audit_pass pass = v->pass;
    size_t n_here = 0;
    if (!vd_audit_hear(v))
        return false;
    if (vd_audit_duties_due(v)) {
        n_here = vd_duty_attend(v);
        v->news_duties = n_here > 0; /* their replays are for later */
    }
    if (pass == VD_PASS_OTHER)
        return true;
    v->pass = VD_PASS_OTHER; /* a move may need a trace, whose passes come here too */
    v->beside = true;
    v->no_room = false;
    if (v->news_moves)
        vd_audit_look_at_all(v);
    vd_duty_dispute_all(v);
    v->beside = false;
    v->pass = pass;
    if (v->no_room) { /* moves go first */
        v->news_moves = true;
        return false;
    }
    return pass == VD_PASS_SAMPLE ? n_here == 0 : vd_duty_any_waits(v, v->passing, v->n_passing);
}

/* A case that was kept when this verifier last ran: its dispute, or the challenge that it did not come to. */
static enum vd_err vd_audit_resume_one(struct vd_verifier *v, const struct vd_hash *receipt_id,
                                       struct vd_error *err)
{
    struct vd_envelope e;
    uint32_t *tokens;
    bool ours;
    enum vd_err code = vd_audit_adopt(v, receipt_id, &ours, err);
    if (code != VD_OK || ours)
        return code;
    code = vd_worker_jobs_get(&v->cases, receipt_id, &e, &tokens, err);
    if (code == VD_OK)
        code = vd_audit_replay(v, &e, tokens, err);
    if (code == VD_OK || code == VD_ETIMEOUT || code == VD_ECANCELLED)
        return code;
    vd_log_event(&v->log, VD_LOG_ERROR, "a case cannot be taken up again", "error=%s", err->msg);
    return VD_OK;
}

/* False: the ledger did not answer, to be asked again. */
static bool vd_audit_resume(struct vd_verifier *v)
{
    struct vd_hash *ids;
    size_t n;
    struct vd_error err;
    bool all = true;
    if (vd_worker_jobs_list(&v->cases, &ids, &n, &err) != VD_OK)
        return true;
    for (size_t i = 0; i < n && all; i++)
        all = vd_audit_resume_one(v, &ids[i], &err) == VD_OK;
    free(ids);
    return all;
}

/* Remembers up to where everything drawn has been seen to: below the oldest that still waits. */
static void vd_audit_save_height(struct vd_verifier *v, uint64_t *saved)
{
    pthread_mutex_lock(&v->mu);
    uint64_t h = v->height;
    for (size_t i = 0; i < v->n_queued; i++) {
        uint64_t at = v->queue[(v->queue_at + i) % VD_VERIFIER_QUEUE_MAX].height;
        h = at <= h ? at - 1 : h;
    }
    pthread_mutex_unlock(&v->mu);
    if (h > *saved && vd_worker_jobs_set_height(&v->cases, h, NULL) == VD_OK)
        *saved = h;
}

/* How long the auditor may wait if nothing happens. Under mu. */
static uint32_t vd_audit_rest_ms(const struct vd_verifier *v)
{
    uint64_t now = vd_clock_ms(), ms = v->n_queued ? VD_VERIFIER_RETRY_MS / 4 : VD_VERIFIER_TICK_MS;
    if (v->duty_at_ms && v->duty_at_ms < now + ms)
        ms = v->duty_at_ms > now ? v->duty_at_ms - now : 0;
    return (uint32_t)ms;
}

void *vd_verifier_auditor(void *verifier)
{
    struct vd_verifier *v = verifier;
    uint64_t saved = 0, save_at = 0;
    bool resumed = false;
    pthread_mutex_lock(&v->mu);
    while (!v->stopping) {
        pthread_mutex_unlock(&v->mu);
        (void)vd_audit_hear(v);
        if (!resumed)
            v->news_duties |= resumed = vd_audit_resume(v);
        if (v->news_moves && resumed && v->n_disputes)
            vd_audit_look_at_all(v);
        bool busy = false; /* with duties, which have a clock: the sample waits */
        if (vd_clock_ms() >= save_at || vd_audit_duties_due(v))
            busy = vd_duty_look_at_all(v);
        bool worked = busy || vd_audit_some(v);
        if (vd_clock_ms() >= save_at) {
            vd_audit_save_height(v, &saved);
            save_at = vd_clock_ms() + VD_VERIFIER_TICK_MS;
        }
        pthread_mutex_lock(&v->mu);
        if (!worked && !v->stopping && !v->moved && !v->news_duties) {
            struct timespec until = vd_clock_after_ms(vd_audit_rest_ms(v));
            pthread_cond_timedwait(&v->work, &v->mu, &until);
        }
    }
    pthread_mutex_unlock(&v->mu);
    vd_audit_save_height(v, &saved);
    vd_game_traces_clear(&v->traces);
    return NULL;
}
