/* Start, links and stop of a worker. The order at the start is: ledger, what it must know, engines, then the
 * gateways, so that no job comes before everything is there; the stop goes the other way round. */
#include "vd_worker.h"

#include "vd_file.h"
#include "vd_hello.h"
#include "vd_worker_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VD_WORKER_LEDGER_WAIT_MS = 30000 };

/* ---- Links to gateways ---- */

static void vd_worker_on_open(void *arg, struct vd_link *link)
{
    struct vd_worker *w = arg;
    struct vd_wire_offer offer[VD_WORKER_MODELS_MAX];
    for (size_t i = 0; i < w->n_offers; i++) {
        const struct vd_worker_model *m = &w->offer[i].m;
        offer[i] = (struct vd_wire_offer){m->root, m->capacity, m->price_in, m->price_out,
                                          vd_model_program(m->model)->ctx};
    }
    vd_hello_send(link, VD_ROLE_WORKER, &w->genesis, vd_ledger_client_height(w->ledger), offer, w->n_offers);
    pthread_mutex_lock(&w->mu);
    w->stats.n_links++;
    pthread_mutex_unlock(&w->mu);
    vd_log_event(&w->log, VD_LOG_INFO, "linked to a gateway", "peer=%s", vd_link_peer_addr(link));
}

static void vd_worker_on_hello(struct vd_worker *w, struct vd_link *link, struct vd_bytes body)
{
    struct vd_wire_hello *h = calloc(1, sizeof *h);
    if (!h)
        vd_link_close(link, VD_ENOMEM, "no memory");
    else if (!vd_wire_get_hello(h, body))
        vd_link_close(link, VD_EFORMAT, "a malformed HELLO");
    else if (h->role != VD_ROLE_GATEWAY)
        vd_link_close(link, VD_EUSE, "a worker links to gateways only");
    else if (!vd_hash_eq(&h->genesis, &w->genesis))
        vd_link_close(link, VD_ECONFLICT, "the gateway is of another network (genesis hash)");
    free(h);
}

static void vd_worker_on_frame(void *arg, struct vd_link *link, unsigned type, struct vd_bytes body)
{
    struct vd_worker *w = arg;
    struct vd_wire_refuse r;
    switch (type) {
    case VD_WIRE_HELLO:
        vd_worker_on_hello(w, link, body);
        break;
    case VD_WIRE_JOB:
        vd_worker_on_job(w, link, body);
        break;
    case VD_WIRE_CANCEL:
        vd_worker_on_cancel(w, link, body);
        break;
    case VD_WIRE_ACCEPT:
        vd_worker_on_accept(w, link, body);
        break;
    case VD_WIRE_REFUSE:
        if (!vd_wire_get_refuse(&r, body))
            vd_link_close(link, VD_EFORMAT, "a malformed REFUSE");
        else
            vd_log_event(&w->log, VD_LOG_WARN, "the gateway refused a receipt", "reason=%s",
                         vd_wire_refuse_text(r.code));
        break;
    default: /* frame types are the wire's numbers, of which a peer may send any */
        vd_link_close(link, VD_EFORMAT, "a frame that a worker does not take");
    }
}

static void vd_worker_on_close(void *arg, struct vd_link *link, const struct vd_error *why)
{
    struct vd_worker *w = arg;
    vd_worker_link_gone(w, link);
    pthread_mutex_lock(&w->mu);
    w->stats.n_links--;
    pthread_mutex_unlock(&w->mu);
    vd_log_event(&w->log, why->code == VD_OK ? VD_LOG_INFO : VD_LOG_WARN, "a gateway's link ended",
                 "peer=%s why=%s", vd_link_peer_addr(link), why->code == VD_OK ? "in order" : why->msg);
}

static void vd_worker_on_fail(void *arg, const struct vd_error *why)
{
    struct vd_worker *w = arg;
    pthread_mutex_lock(&w->mu);
    bool say = vd_seldom_due(&w->no_gateway);
    pthread_mutex_unlock(&w->mu);
    vd_log_event(&w->log, say ? VD_LOG_WARN : VD_LOG_DEBUG, "no link to a gateway", "why=%s", why->msg);
}

/* ---- Start ---- */

static enum vd_err vd_worker_check(const struct vd_worker_config *c, struct vd_error *err)
{
    if (c->n_models < 1 || c->n_models > VD_WORKER_MODELS_MAX)
        return vd_error_set(err, VD_EUSE, "a worker offers 1 to %d models, not %zu", VD_WORKER_MODELS_MAX,
                            c->n_models);
    if (c->n_gateways < 1 || c->n_gateways > VD_WORKER_GATEWAYS_MAX)
        return vd_error_set(err, VD_EUSE, "a worker links to 1 to %d gateways, not %zu",
                            VD_WORKER_GATEWAYS_MAX, c->n_gateways);
    for (size_t i = 0; i < c->n_models; i++)
        if (c->model[i].capacity < 1 || c->model[i].capacity > VD_WORKER_JOBS_MAX)
            return vd_error_set(err, VD_EUSE, "the capacity must be 1 to %d jobs, not %u", VD_WORKER_JOBS_MAX,
                                c->model[i].capacity);
    return VD_OK;
}

static void vd_worker_init(struct vd_worker *w, const struct vd_worker_config *c)
{
    pthread_condattr_t attr;
    w->key = *c->key;
    if (c->log)
        w->log = *c->log;
    else
        w->log.fd = -1;
    w->done_last = &w->done_first;
    pthread_mutex_init(&w->mu, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->done_cond, &attr);
    pthread_cond_init(&w->court_cond, &attr);
    pthread_cond_init(&w->show_cond, &attr);
    pthread_condattr_destroy(&attr);
    for (size_t i = 0; i < c->n_models; i++) {
        w->offer[i].m = c->model[i];
        pthread_mutex_init(&w->offer[i].maskers_mu, NULL);
    }
    w->n_offers = c->n_models;
}

static enum vd_err vd_worker_connect(struct vd_worker *w, const struct vd_worker_config *c,
                                     struct vd_error *err)
{
    struct vd_ledger_client_config lc = {.key = &w->key,
                                         .host = c->ledger.host,
                                         .port = c->ledger.port,
                                         .ledger_key = c->ledger.key,
                                         .role = VD_ROLE_WORKER,
                                         .log = &w->log,
                                         .on_block = vd_worker_on_block,
                                         .arg = w};
    enum vd_err e = vd_ledger_client_start(&w->ledger, &lc, err);
    if (e == VD_OK)
        e = vd_ledger_client_await(w->ledger, VD_WORKER_LEDGER_WAIT_MS, c->stopped, err);
    if (e == VD_OK)
        e = vd_ledger_client_genesis(w->ledger, &w->rules, &w->genesis, err);
    return e == VD_OK ? vd_worker_setup(w, c->stake, err) : e;
}

static enum vd_err vd_worker_start_threads(struct vd_worker *w, struct vd_error *err)
{
    w->finisher_runs = pthread_create(&w->finisher, NULL, vd_worker_finisher, w) == 0;
    enum vd_err e = vd_courier_start(&w->courier, w->ledger, vd_worker_sent, w, err);
    if (e != VD_OK)
        return e;
    w->court_runs = w->finisher_runs && pthread_create(&w->court, NULL, vd_worker_court, w) == 0;
    w->shower_runs = w->court_runs && pthread_create(&w->shower, NULL, vd_worker_shower, w) == 0;
    return w->shower_runs ? VD_OK : vd_error_set(err, VD_EAGAIN, "the system refused a thread");
}

static enum vd_err vd_worker_start_engines(struct vd_worker *w, struct vd_error *err)
{
    enum vd_err e = VD_OK;
    for (size_t i = 0; e == VD_OK && i < w->n_offers; i++) {
        struct vd_worker_offer *o = &w->offer[i];
        struct vd_engine_options options = {.max_kv_bytes = o->m.max_kv_bytes,
                                            .lookup = o->m.lookup,
                                            .draft = o->m.draft,
                                            .max_active = o->m.capacity < 32 ? o->m.capacity : 32,
                                            .max_queued = VD_WORKER_JOBS_MAX};
        e = vd_engine_create(&o->engine, o->m.model, o->m.pool, &options, err);
    }
    return e;
}

static enum vd_err vd_worker_dial(struct vd_worker *w, const struct vd_worker_config *c, struct vd_error *err)
{
    struct vd_link_config lc = {.key = &w->key,
                                .cb = {.arg = w,
                                       .on_open = vd_worker_on_open,
                                       .on_frame = vd_worker_on_frame,
                                       .on_close = vd_worker_on_close,
                                       .on_fail = vd_worker_on_fail}};
    return vd_dialers_start(&w->dialers, &lc, c->gateway, c->n_gateways, err);
}

enum vd_err vd_worker_start(struct vd_worker **out, const struct vd_worker_config *config,
                            struct vd_error *err)
{
    char dir[VD_PATH_MAX];
    enum vd_err e = vd_worker_check(config, err);
    if (e != VD_OK)
        return e;
    struct vd_worker *w = calloc(1, sizeof *w);
    if (!w)
        return vd_error_set(err, VD_ENOMEM, "no memory for a worker");
    vd_worker_init(w, config);
    snprintf(dir, sizeof dir, "%s/jobs", config->home);
    e = vd_worker_jobs_open(&w->jobs, dir, err);
    if (e == VD_OK)
        e = vd_worker_connect(w, config, err);
    if (e == VD_OK)
        e = vd_worker_start_engines(w, err);
    if (e == VD_OK)
        e = vd_worker_start_threads(w, err);
    if (e == VD_OK)
        e = vd_worker_dial(w, config, err);
    if (e != VD_OK) {
        vd_worker_stop(w);
        return e;
    }
    *out = w;
    return VD_OK;
}

void vd_worker_stop(struct vd_worker *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->mu);
    w->stopping = true;
    pthread_cond_broadcast(&w->court_cond);
    pthread_cond_broadcast(&w->show_cond);
    pthread_mutex_unlock(&w->mu);
    if (w->ledger)
        vd_ledger_client_cancel(w->ledger);
    vd_dialers_stop(&w->dialers);
    for (size_t i = 0; i < w->n_offers; i++) /* the court may be in the midst of a replay */
        vd_engine_stop(w->offer[i].engine);
    if (w->court_runs)
        pthread_join(w->court, NULL);
    if (w->shower_runs)
        pthread_join(w->shower, NULL);
    vd_courier_stop(w->courier);
    for (size_t i = 0; i < w->n_offers; i++)
        vd_engine_destroy(w->offer[i].engine);
    pthread_mutex_lock(&w->mu);
    pthread_cond_broadcast(&w->done_cond);
    pthread_mutex_unlock(&w->mu);
    if (w->finisher_runs)
        pthread_join(w->finisher, NULL);
    for (size_t i = 0; i < w->n_offers; i++) { /* no job has one any more */
        vd_masker_cache_free(w->offer[i].maskers);
        vd_texts_free(w->offer[i].texts);
        pthread_mutex_destroy(&w->offer[i].maskers_mu);
    }
    vd_ledger_client_stop(w->ledger);
    pthread_cond_destroy(&w->done_cond);
    pthread_cond_destroy(&w->court_cond);
    pthread_cond_destroy(&w->show_cond);
    pthread_mutex_destroy(&w->mu);
    vd_key_wipe(&w->key);
    free(w);
}

/* ---- What it says of itself ---- */

void vd_worker_get_stats(struct vd_worker *w, struct vd_worker_stats *out)
{
    pthread_mutex_lock(&w->mu);
    *out = w->stats;
    out->n_running = w->n_running;
    pthread_mutex_unlock(&w->mu);
}

bool vd_worker_health(void *worker, char text[256])
{
    struct vd_worker *w = worker;
    struct vd_worker_stats s;
    vd_worker_get_stats(w, &s);
    bool ledger = vd_ledger_client_is_up(w->ledger);
    snprintf(text, 256, "ledger %s, %llu gateways, %llu jobs running", ledger ? "linked" : "NOT linked",
             (unsigned long long)s.n_links, (unsigned long long)s.n_running);
    return ledger && s.n_links;
}

/* Of all engines. */
static void vd_worker_memory_metrics(struct vd_worker *w, struct vd_metrics *m)
{
    uint64_t used = 0, max = 0, n_paused = 0;
    for (size_t i = 0; i < w->n_offers; i++) {
        struct vd_engine_stats s;
        vd_engine_get_stats(w->offer[i].engine, &s);
        used += s.kv_bytes_used;
        max += s.kv_bytes_max;
        n_paused += s.n_paused;
    }
    vd_metrics_put(m, "worker_kv_bytes", "gauge", "of the KV caches in use or reserved", used);
    vd_metrics_put(m, "worker_kv_limit_bytes", "gauge", "that the KV caches may take", max);
    vd_metrics_put(m, "worker_paused_total", "counter", "jobs that gave way to a dispute", n_paused);
}

void vd_worker_metrics(void *worker, struct vd_metrics *m)
{
    struct vd_worker_stats s;
    vd_worker_get_stats(worker, &s);
    vd_metrics_put(m, "worker_links", "gauge", "gateways linked", s.n_links);
    vd_metrics_put(m, "worker_jobs_running", "gauge", "jobs running", s.n_running);
    vd_metrics_put(m, "worker_jobs_total", "counter", "jobs begun", s.n_jobs);
    vd_metrics_put(m, "worker_refused_total", "counter", "jobs refused", s.n_refused);
    vd_metrics_put(m, "worker_dropped_total", "counter", "jobs that ended without a receipt", s.n_dropped);
    vd_metrics_put(m, "worker_receipts_total", "counter", "receipts signed", s.n_receipts);
    vd_metrics_put(m, "worker_accepted_total", "counter", "receipts that a gateway accepted", s.n_accepted);
    vd_metrics_put(m, "worker_settled_total", "counter", "receipts settled", s.n_settled);
    vd_metrics_put(m, "worker_final_total", "counter", "receipts that became final", s.n_final);
    vd_metrics_put(m, "worker_void_total", "counter", "receipts voided", s.n_void);
    vd_metrics_put(m, "worker_prompt_tokens_total", "counter", "prompt tokens of receipts", s.n_tokens_in);
    vd_metrics_put(m, "worker_reused_tokens_total", "counter", "prompt tokens from the prefix cache",
                   s.n_tokens_reused);
    vd_metrics_put(m, "worker_output_tokens_total", "counter", "output tokens of receipts", s.n_tokens_out);
    vd_metrics_put(m, "worker_challenges_total", "counter", "challenges of this worker's receipts",
                   s.n_challenges);
    vd_metrics_put(m, "worker_moves_total", "counter", "moves made in disputes", s.n_moves);
    vd_metrics_put(m, "worker_replays_total", "counter", "runs of a job again for its disputes", s.n_replays);
    vd_metrics_put(m, "worker_disputes_won_total", "counter", "challengers that lost", s.n_won);
    vd_metrics_put(m, "worker_disputes_lost_total", "counter", "disputes lost", s.n_lost);
    vd_metrics_put(m, "worker_earned_micro_total", "counter",
                   "micro-credits of final receipts, before shares", s.earned_micro);
    vd_worker_memory_metrics(worker, m);
}
