/* Start, stop, links and sampling of a verifier. Whether a receipt is drawn is decided once, when its block
 * is seen, by fresh random bits: nobody can tell beforehand, and a restart does not draw again for blocks
 * already seen. */
#include "vd_verifier.h"

#include "vd_clock.h"
#include "vd_file.h"
#include "vd_hello.h"
#include "vd_memory.h"
#include "vd_verifier_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    VD_VERIFIER_LEDGER_WAIT_MS = 30000,
    VD_VERIFIER_CACHE_LEAST = 512 << 20,
    VD_VERIFIER_ROWS = 512,
    VD_VERIFIER_LOGITS = 256
};

/* ---- Events ---- */

bool vd_verifier_draw(struct vd_verifier *v)
{
    uint64_t r;
    vd_key_random(&r, sizeof r);
    bool drawn = (uint64_t)(((unsigned __int128)r * VD_PPM) >> 64) < v->rate_ppm;
    v->stats.n_sampled += drawn;
    return drawn;
}

/* The rate comes with the genesis, which the first blocks may overtake: those are drawn later. */
static void vd_verifier_see(struct vd_verifier *v, uint64_t height, const struct vd_event *e)
{
    struct vd_verifier_task a = {.receipt_id = e->id, .gateway = e->b, .height = height};
    bool rate_known = v->rate_ppm != UINT32_MAX;
    v->stats.n_seen++;
    if (rate_known && !(a.drawn = vd_verifier_draw(v)))
        return;
    if (v->n_queued == VD_VERIFIER_QUEUE_MAX) {
        v->stats.n_unavailable++;
        return;
    }
    v->queue[(v->queue_at + v->n_queued++) % VD_VERIFIER_QUEUE_MAX] = a;
    pthread_cond_signal(&v->work);
}

static void vd_verifier_on_block(void *arg, uint64_t height, uint64_t time_ms, const struct vd_event *event,
                                 size_t n_events)
{
    struct vd_verifier *v = arg;
    pthread_mutex_lock(&v->mu);
    for (size_t i = 0; i < n_events; i++) {
        const struct vd_event *e = &event[i];
        bool ours = vd_pubkey_eq(&e->b, &v->key.pub);
        if (e->kind == VD_EVENT_SETTLED)
            vd_verifier_see(v, height, e);
        else if (e->kind == VD_EVENT_WORKER_LOST && ours) {
            v->stats.n_won++;
            v->stats.won_micro += e->amount.micro;
        } else if (e->kind == VD_EVENT_CHALLENGER_LOST && ours)
            v->stats.n_lost++;
        v->drawn |= e->kind == VD_EVENT_AUDIT_DRAWN && vd_pubkey_eq(&e->a, &v->key.pub);
    }
    v->height = height;
    v->moved = true;
    pthread_cond_signal(&v->work);
    pthread_mutex_unlock(&v->mu);
}

/* ---- Links to gateways ---- */

static void vd_verifier_on_open(void *arg, struct vd_link *link)
{
    struct vd_verifier *v = arg;
    vd_hello_send(link, VD_ROLE_VERIFIER, &v->genesis, vd_ledger_client_height(v->ledger), NULL, 0);
    pthread_mutex_lock(&v->mu);
    for (size_t i = 0; i < VD_WORKER_GATEWAYS_MAX; i++)
        if (!v->link[i]) {
            v->link[i] = vd_link_ref(link);
            v->rests_until_ms[i] = 0;
            v->stats.n_links++;
            break;
        }
    for (size_t i = 0; i < v->n_queued; i++) { /* what waits for this gateway is due */
        struct vd_verifier_task *a = &v->queue[(v->queue_at + i) % VD_VERIFIER_QUEUE_MAX];
        if (vd_pubkey_eq(&a->gateway, vd_link_peer(link)))
            a->not_before_ms = 0;
    }
    pthread_cond_signal(&v->work);
    pthread_mutex_unlock(&v->mu);
    vd_log_event(&v->log, VD_LOG_INFO, "linked to a gateway", "peer=%s", vd_link_peer_addr(link));
}

static void vd_verifier_on_close(void *arg, struct vd_link *link, const struct vd_error *why)
{
    struct vd_verifier *v = arg;
    bool had = false;
    if (v->follow)
        vd_follow_on_close(v->follow, link);
    pthread_mutex_lock(&v->mu);
    for (size_t i = 0; i < VD_WORKER_GATEWAYS_MAX; i++)
        if (v->link[i] == link) {
            v->link[i] = NULL;
            v->stats.n_links--;
            had = true;
        }
    pthread_mutex_unlock(&v->mu);
    if (had)
        vd_link_unref(link);
    vd_log_event(&v->log, why->code == VD_OK ? VD_LOG_INFO : VD_LOG_WARN, "a gateway's link ended",
                 "peer=%s why=%s", vd_link_peer_addr(link), why->code == VD_OK ? "in order" : why->msg);
}

static void vd_verifier_on_fail(void *arg, const struct vd_error *why)
{
    struct vd_verifier *v = arg;
    pthread_mutex_lock(&v->mu);
    bool say = vd_seldom_due(&v->no_gateway);
    pthread_mutex_unlock(&v->mu);
    vd_log_event(&v->log, say ? VD_LOG_WARN : VD_LOG_DEBUG, "no link to a gateway", "why=%s", why->msg);
}

/* Under mu. Whether this is the answer to what was asked, and by the one who was. */
static bool vd_verifier_awaits(const struct vd_verifier *v, const struct vd_link *link,
                               const struct vd_hash *receipt_id)
{
    return v->fetch.waiting && !v->fetch.done && v->fetch.from == link &&
           vd_hash_eq(receipt_id, &v->fetch.receipt_id);
}

static void vd_verifier_on_data(struct vd_verifier *v, struct vd_link *link, struct vd_bytes body)
{
    struct vd_wire_audit_data m;
    if (!vd_wire_get_audit_data(&m, body)) {
        vd_link_close(link, VD_EFORMAT, "malformed AUDIT_DATA");
        return;
    }
    uint8_t *copy = malloc(m.envelope.n + 1);
    if (copy)
        memcpy(copy, m.envelope.p, m.envelope.n);
    pthread_mutex_lock(&v->mu);
    if (copy && vd_verifier_awaits(v, link, &m.receipt_id)) {
        v->fetch.envelope = copy;
        v->fetch.n_bytes = m.envelope.n;
        v->fetch.done = true;
        copy = NULL;
        pthread_cond_signal(&v->data);
    } else if (copy && vd_duty_take_data(v, link, &m.receipt_id, copy, m.envelope.n)) {
        copy = NULL;
    }
    pthread_mutex_unlock(&v->mu);
    free(copy);
}

static void vd_verifier_on_refuse(struct vd_verifier *v, struct vd_link *link, struct vd_bytes body)
{
    struct vd_wire_refuse m;
    if (!vd_wire_get_refuse(&m, body)) {
        vd_link_close(link, VD_EFORMAT, "malformed REFUSE");
        return;
    }
    pthread_mutex_lock(&v->mu);
    if (vd_verifier_awaits(v, link, &m.what)) {
        snprintf(v->fetch.refused, sizeof v->fetch.refused, "the gateway refuses: %s",
                 vd_wire_refuse_text(m.code));
        v->fetch.done = true;
        pthread_cond_signal(&v->data);
    } else {
        (void)vd_duty_take_data(v, link, &m.what, NULL, 0);
    }
    pthread_mutex_unlock(&v->mu);
}

static void vd_verifier_on_frame(void *arg, struct vd_link *link, unsigned type, struct vd_bytes body)
{
    struct vd_verifier *v = arg;
    switch (type) {
    case VD_WIRE_HELLO:
        break; /* the gateway closes the link if the networks differ */
    case VD_WIRE_AUDIT_DATA:
        vd_verifier_on_data(v, link, body);
        break;
    case VD_WIRE_REFUSE:
        vd_verifier_on_refuse(v, link, body);
        break;
    case VD_WIRE_JOB: /* of a gateway that named this verifier its follower */
    case VD_WIRE_TOKEN:
    case VD_WIRE_PREFIX:
    case VD_WIRE_RECEIPT:
    case VD_WIRE_CANCEL:
        if (v->follow)
            vd_follow_on_frame(v->follow, link, type, body);
        break;
    default: /* frame types are the wire's numbers, of which a peer may send any */
        vd_link_close(link, VD_EFORMAT, "a frame that a verifier does not take");
    }
}

/* ---- Start and stop ---- */

static enum vd_err vd_verifier_connect(struct vd_verifier *v, const struct vd_verifier_config *c,
                                       struct vd_error *err)
{
    uint64_t seen;
    enum vd_err e = vd_worker_jobs_height(&v->cases, &seen, err);
    struct vd_ledger_client_config lc = {.key = &v->key,
                                         .host = c->ledger.host,
                                         .port = c->ledger.port,
                                         .ledger_key = c->ledger.key,
                                         .role = VD_ROLE_VERIFIER,
                                         .log = &v->log,
                                         .on_block = vd_verifier_on_block,
                                         .arg = v,
                                         .from_height = seen + 1};
    v->height = seen;
    if (e == VD_OK)
        e = vd_ledger_client_start(&v->ledger, &lc, err);
    if (e == VD_OK)
        e = vd_ledger_client_await(v->ledger, VD_VERIFIER_LEDGER_WAIT_MS, c->stopped, err);
    return e == VD_OK ? vd_ledger_client_genesis(v->ledger, &v->rules, &v->genesis, err) : e;
}

size_t vd_verifier_cache_bytes(size_t given, size_t longest, uint64_t available, size_t n_models)
{
    uint64_t most = available / 2 / n_models;
    if (given)
        return given;
    most = longest < most ? longest : most;
    return most > VD_VERIFIER_CACHE_LEAST ? (size_t)most : VD_VERIFIER_CACHE_LEAST;
}

/* Memory is taken when a job needs it. */
static enum vd_err vd_verifier_open_cache(struct vd_verifier *v, const struct vd_verifier_config *c,
                                          struct vd_verifier_desk *d, struct vd_error *err)
{
    uint32_t ctx = vd_model_program(d->m.model)->ctx;
    enum vd_err e = vd_kv_pool_create(&d->cache, d->m.model, SIZE_MAX, err);
    if (e != VD_OK)
        return e;
    size_t longest = vd_kv_pool_need_bytes(d->cache, 0, ctx);
    size_t limit = vd_verifier_cache_bytes(c->max_kv_bytes, longest, vd_memory_available(), c->n_models);
    vd_kv_pool_destroy(d->cache);
    d->cache = NULL;
    if (limit < longest)
        vd_log_event(&v->log, VD_LOG_WARN, "the longest receipts cannot be replayed",
                     "positions=%u cache_mib=%zu needed_mib=%zu mend=--kv-mib", ctx, limit >> 20,
                     (longest >> 20) + 1);
    return vd_kv_pool_create(&d->cache, d->m.model, limit, err);
}

static enum vd_err vd_verifier_open_desks(struct vd_verifier *v, const struct vd_verifier_config *c,
                                          struct vd_error *err)
{
    enum vd_err e = VD_OK;
    if (c->n_models < 1 || c->n_models > VD_WORKER_MODELS_MAX || c->n_gateways > VD_WORKER_GATEWAYS_MAX)
        return vd_error_set(err, VD_EUSE, "a verifier has 1 to %d models and at most %d gateways",
                            VD_WORKER_MODELS_MAX, VD_WORKER_GATEWAYS_MAX);
    for (size_t i = 0; e == VD_OK && i < c->n_models; i++) {
        struct vd_verifier_desk *d = &v->desk[v->n_desks++];
        d->m = c->model[i];
        e = vd_ctx_create(&d->ctx, d->m.model, d->m.pool, vd_replay_rows(d->m.model, VD_VERIFIER_ROWS),
                          VD_VERIFIER_LOGITS, err);
        if (e == VD_OK) {
            vd_ctx_set_cancel(d->ctx, &v->cancel);
            vd_ctx_set_before(d->ctx, vd_audit_between, v);
            e = vd_verifier_open_cache(v, c, d, err);
        }
    }
    return e;
}

static enum vd_err vd_verifier_dial(struct vd_verifier *v, const struct vd_verifier_config *c,
                                    struct vd_error *err)
{
    struct vd_link_config lc = {.key = &v->key,
                                .cb = {.arg = v,
                                       .on_open = vd_verifier_on_open,
                                       .on_frame = vd_verifier_on_frame,
                                       .on_close = vd_verifier_on_close,
                                       .on_fail = vd_verifier_on_fail}};
    return vd_dialers_start(&v->dialers, &lc, c->gateway, c->n_gateways, err);
}

static enum vd_err vd_verifier_init(struct vd_verifier *v, const struct vd_verifier_config *c,
                                    struct vd_error *err)
{
    pthread_condattr_t attr;
    char dir[VD_PATH_MAX];
    v->key = *c->key;
    v->rate_ppm = c->audit_rate_ppm;
    v->audits = v->drawn = c->audits;
    v->stake = c->stake;
    if (c->log)
        v->log = *c->log;
    else
        v->log.fd = -1;
    pthread_mutex_init(&v->mu, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&v->work, &attr);
    pthread_cond_init(&v->data, &attr);
    pthread_condattr_destroy(&attr);
    v->queue = calloc(VD_VERIFIER_QUEUE_MAX, sizeof *v->queue);
    v->duty = calloc(VD_VERIFIER_DUTIES_MAX, sizeof *v->duty);
    if (!v->queue || !v->duty)
        return vd_error_set(err, VD_ENOMEM, "no memory for the queue of audits");
    snprintf(dir, sizeof dir, "%s/disputes", c->home);
    return vd_worker_jobs_open(&v->cases, dir, err);
}

/* One that cannot pay a bond still audits; but it should be known before the first receipt that is false. */
static void vd_verifier_check_funds(struct vd_verifier *v)
{
    struct vd_account a = {0};
    char hex[2 * VD_PUBKEY_BYTES + 1];
    enum vd_err e = vd_ledger_client_account(v->ledger, &v->key.pub, &a, NULL);
    if ((e != VD_OK && e != VD_ENOTFOUND) || vd_amount_cmp(a.balance, v->rules->challenge_bond) >= 0)
        return;
    vd_hex_encode(hex, v->key.pub.b, VD_PUBKEY_BYTES);
    vd_log_event(&v->log, VD_LOG_WARN, "no challenge can be paid",
                 "balance_micro=%llu bond_micro=%llu mend=transfer credits to %s first",
                 (unsigned long long)a.balance.micro, (unsigned long long)v->rules->challenge_bond.micro,
                 hex);
}

enum vd_err vd_verifier_start(struct vd_verifier **out, const struct vd_verifier_config *config,
                              struct vd_error *err)
{
    struct vd_verifier *v = calloc(1, sizeof *v);
    if (!v)
        return vd_error_set(err, VD_ENOMEM, "no memory for a verifier");
    enum vd_err e = vd_verifier_init(v, config, err);
    if (e == VD_OK)
        e = vd_verifier_open_desks(v, config, err);
    if (e == VD_OK)
        e = vd_verifier_connect(v, config, err);
    if (e == VD_OK && v->rate_ppm == UINT32_MAX) {
        pthread_mutex_lock(&v->mu);
        v->rate_ppm = v->audits && v->rules->epoch_blocks ? 0 : v->rules->audit_rate_ppm;
        pthread_mutex_unlock(&v->mu);
    }
    if (e == VD_OK && config->follow)
        e = vd_follow_start(&v->follow, config->model, config->n_models, &v->log, err);
    if (e == VD_OK) {
        vd_verifier_check_funds(v);
        e = vd_verifier_dial(v, config, err);
    }
    if (e == VD_OK)
        e = vd_courier_start(&v->courier, v->ledger, vd_verifier_sent, v, err);
    if (e == VD_OK) {
        v->auditor_runs = pthread_create(&v->auditor, NULL, vd_verifier_auditor, v) == 0;
        if (!v->auditor_runs)
            e = vd_error_set(err, VD_EAGAIN, "the system refused a thread");
    }
    if (e != VD_OK) {
        vd_verifier_stop(v);
        return e;
    }
    *out = v;
    return VD_OK;
}

void vd_verifier_stop(struct vd_verifier *v)
{
    if (!v)
        return;
    pthread_mutex_lock(&v->mu);
    v->stopping = true;
    atomic_store(&v->cancel, true);
    pthread_cond_broadcast(&v->work);
    pthread_cond_broadcast(&v->data);
    pthread_mutex_unlock(&v->mu);
    if (v->ledger)
        vd_ledger_client_cancel(v->ledger);
    if (v->auditor_runs)
        pthread_join(v->auditor, NULL);
    vd_courier_stop(v->courier);
    vd_dialers_stop(&v->dialers);
    vd_follow_stop(v->follow);
    vd_ledger_client_stop(v->ledger);
    for (size_t i = 0; i < v->n_desks; i++) {
        vd_ctx_destroy(v->desk[i].ctx);
        vd_kv_pool_destroy(v->desk[i].cache);
    }
    free(v->fetch.envelope);
    free(v->queue);
    vd_duty_free_all(v);
    pthread_cond_destroy(&v->work);
    pthread_cond_destroy(&v->data);
    pthread_mutex_destroy(&v->mu);
    vd_key_wipe(&v->key);
    free(v);
}

/* ---- What it says of itself ---- */

void vd_verifier_get_stats(struct vd_verifier *v, struct vd_verifier_stats *out)
{
    pthread_mutex_lock(&v->mu);
    *out = v->stats;
    out->n_queued = v->n_queued;
    out->n_duties = v->n_duties;
    pthread_mutex_unlock(&v->mu);
    struct vd_follow_stats f = {.n_streams = 0};
    if (v->follow)
        vd_follow_get_stats(v->follow, &f);
    out->n_streams = f.n_streams;
    out->n_streams_right = f.n_right;
    out->n_streams_wrong = f.n_wrong;
    out->n_streams_cut = f.n_cut;
}

bool vd_verifier_health(void *verifier, char text[256])
{
    struct vd_verifier *v = verifier;
    struct vd_verifier_stats s;
    vd_verifier_get_stats(v, &s);
    bool ledger = vd_ledger_client_is_up(v->ledger);
    snprintf(text, 256, "ledger %s, %llu gateways, %llu audits waiting", ledger ? "linked" : "NOT linked",
             (unsigned long long)s.n_links, (unsigned long long)s.n_queued);
    return ledger && s.n_links;
}

void vd_verifier_metrics(void *verifier, struct vd_metrics *m)
{
    struct vd_verifier_stats s;
    vd_verifier_get_stats(verifier, &s);
    vd_metrics_put(m, "verifier_links", "gauge", "gateways linked", s.n_links);
    vd_metrics_put(m, "verifier_queue", "gauge", "receipts waiting for their replay", s.n_queued);
    vd_metrics_put(m, "verifier_seen_total", "counter", "receipts settled", s.n_seen);
    vd_metrics_put(m, "verifier_sampled_total", "counter", "receipts drawn", s.n_sampled);
    vd_metrics_put(m, "verifier_stand_total", "counter", "receipts that stand", s.n_stand);
    vd_metrics_put(m, "verifier_differ_total", "counter", "receipts that do not", s.n_differ);
    vd_metrics_put(m, "verifier_unavailable_total", "counter", "receipts whose data could not be had",
                   s.n_unavailable);
    vd_metrics_put(m, "verifier_other_model_total", "counter", "receipts of models not loaded here",
                   s.n_other_model);
    vd_metrics_put(m, "verifier_bad_data_total", "counter",
                   "answers of gateways that were not the receipt's data", s.n_bad_data);
    vd_metrics_put(m, "verifier_unprovable_total", "counter",
                   "receipts that do not stand here, and that this verifier could not dispute",
                   s.n_unprovable);
    vd_metrics_put(m, "verifier_streams_total", "counter", "streams followed", s.n_streams);
    vd_metrics_put(m, "verifier_streams_right_total", "counter", "streams that were right to their receipt",
                   s.n_streams_right);
    vd_metrics_put(m, "verifier_streams_wrong_total", "counter", "streams with a wrong token or statement",
                   s.n_streams_wrong);
    vd_metrics_put(m, "verifier_streams_cut_total", "counter",
                   "streams that ended otherwise, or were given up", s.n_streams_cut);
    vd_metrics_put(m, "verifier_challenges_total", "counter", "challenges", s.n_challenges);
    vd_metrics_put(m, "verifier_moves_total", "counter", "moves made in disputes", s.n_moves);
    vd_metrics_put(m, "verifier_disputes_won_total", "counter", "disputes won", s.n_won);
    vd_metrics_put(m, "verifier_disputes_lost_total", "counter", "disputes lost", s.n_lost);
    vd_metrics_put(m, "verifier_won_micro_total", "counter", "micro-credits won", s.won_micro);
    vd_metrics_put(m, "verifier_duties", "gauge", "audits drawn for and not closed", s.n_duties);
    vd_metrics_put(m, "verifier_audits_total", "counter", "audits taken part in and closed", s.n_audits);
    vd_metrics_put(m, "verifier_audits_missed_total", "counter", "of these, too late", s.n_audits_missed);
    vd_metrics_put(m, "verifier_demands_total", "counter", "data demanded on the ledger", s.n_demands);
    vd_metrics_put(m, "verifier_audit_paid_micro_total", "counter", "micro-credits paid for audits",
                   s.audit_paid_micro);
    vd_metrics_put(m, "verifier_audit_slashed_micro_total", "counter", "micro-credits slashed as an auditor",
                   s.audit_slashed_micro);
    vd_metrics_put(m, "verifier_replayed_tokens_total", "counter", "tokens replayed", s.n_tokens);
    vd_metrics_put(m, "verifier_replay_passes_total", "counter", "replays, of one receipt or several at once",
                   s.n_passes);
    vd_metrics_put(m, "verifier_replay_ns_total", "counter", "nanoseconds of replay", s.replay_ns);
}
