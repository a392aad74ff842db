/* Putting the parts together, and taking them apart in the order in which they need each other: HTTP first,
 * since its answers need workers, store and ledger; then the settler's last round; then links and ledger. */
#include "vd_gateway.h"
#include "vd_clock.h"
#include "vd_gateway_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { LEDGER_START_MS = 30000 };

void gw_cond_init(pthread_cond_t *c)
{
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(c, &a);
    pthread_condattr_destroy(&a);
}

bool gw_cond_wait_ms(pthread_cond_t *c, pthread_mutex_t *mu, uint32_t ms)
{
    struct timespec at = vd_clock_after_ms(ms);
    return pthread_cond_timedwait(c, mu, &at) != ETIMEDOUT;
}

static uint32_t or_default(uint32_t value, uint32_t otherwise)
{
    return value ? value : otherwise;
}

static void set_defaults(struct vd_gateway_config *c)
{
    c->settle_ms = or_default(c->settle_ms, 1000);
    c->queue_ms = or_default(c->queue_ms, 30000);
    c->queue_max = or_default(c->queue_max, 128);
    c->stall_ms = or_default(c->stall_ms, 60000);
    c->connections_max = or_default(c->connections_max, 256);
    c->connections_per_address_max = or_default(c->connections_per_address_max, 64);
    c->receive_ms = or_default(c->receive_ms, 30000);
    c->key_parallel_max = or_default(c->key_parallel_max, 64);
    c->max_tokens_default = or_default(c->max_tokens_default, 1024);
}

static enum vd_err open_models(struct vd_gateway *g, struct vd_error *err)
{
    if (g->cfg.n_models < 1 || g->cfg.n_models > VD_GATEWAY_MODELS_MAX)
        return vd_error_set(err, VD_EUSE, "a gateway serves 1 to %d models", VD_GATEWAY_MODELS_MAX);
    for (size_t i = 0; i < g->cfg.n_models; i++) {
        const struct vd_gateway_model_config *c = &g->cfg.model[i];
        struct gw_model *m = &g->model[i];
        enum vd_err e = vd_gateway_text_open(&m->text, c->path, err);
        if (e != VD_OK)
            return e;
        snprintf(m->name, sizeof m->name, "%s", c->name);
        m->root = c->root;
        g->n_models = i + 1;
    }
    return VD_OK;
}

static enum vd_err start_ledger(struct vd_gateway *g, struct vd_error *err)
{
    const struct vd_genesis *genesis;
    struct vd_ledger_client_config c = {.key = &g->key,
                                        .host = g->cfg.ledger_host,
                                        .port = g->cfg.ledger_port,
                                        .ledger_key = g->cfg.ledger_key,
                                        .role = VD_ROLE_GATEWAY,
                                        .log = &g->log,
                                        .on_block = gw_money_on_block,
                                        .arg = g};
    enum vd_err e = vd_ledger_client_start(&g->ledger, &c, err);
    if (e == VD_OK)
        e = vd_ledger_client_await(g->ledger, LEDGER_START_MS, g->cfg.stopped, err);
    if (e == VD_OK)
        e = vd_ledger_client_genesis(g->ledger, &genesis, &g->genesis, err);
    if (e == VD_OK) {
        g->validity_blocks = genesis->request_validity_blocks;
        g->min_stake = genesis->min_stake;
        g->max_receipt = genesis->max_receipt;
    }
    return e;
}

static enum vd_err start_parts(struct vd_gateway *g, struct vd_error *err)
{
    enum vd_err e = open_models(g, err);
    if (e == VD_OK)
        e = vd_gateway_keys_open(&g->keys, g->cfg.home, err);
    if (e == VD_OK)
        e = vd_gwstore_open(&g->store, g->store_dir, err);
    if (e == VD_OK)
        e = start_ledger(g, err);
    if (e == VD_OK)
        e = gw_money_start(g, err);
    if (e == VD_OK)
        e = gw_pool_start(g, err);
    if (e == VD_OK && g->cfg.trap_every_blocks)
        e = gw_trap_start(g, err);
    return e == VD_OK ? gw_http_start(g, err) : e;
}

enum vd_err vd_gateway_start(struct vd_gateway **out, const struct vd_gateway_config *config,
                             struct vd_error *err)
{
    struct vd_gateway *g = calloc(1, sizeof *g);
    if (!g)
        return vd_error_set(err, VD_ENOMEM, "no memory for a gateway");
    g->cfg = *config;
    set_defaults(&g->cfg);
    g->key = *config->key;
    g->log = config->log ? *config->log : vd_log_init(STDERR_FILENO, "gateway", VD_LOG_ERROR, false);
    g->started_s = vd_clock_wall_s();
    for (size_t i = 0; i < config->n_followers && i < VD_GATEWAY_FOLLOWERS_MAX; i++)
        g->follower[i] = config->follower[i];
    snprintf(g->store_dir, sizeof g->store_dir, "%s/gateway", config->home);
    pthread_mutex_init(&g->mu, NULL);
    gw_cond_init(&g->pool_changed);
    gw_cond_init(&g->once_changed);
    gw_cond_init(&g->settle_bell);
    g->use = calloc(GW_KEYS_IN_USE_MAX, sizeof *g->use);
    enum vd_err e =
        !g->use ? vd_error_set(err, VD_ENOMEM, "no memory for a gateway")
        : config->n_followers > VD_GATEWAY_FOLLOWERS_MAX
            ? vd_error_set(err, VD_EUSE, "a gateway has at most %d followers", VD_GATEWAY_FOLLOWERS_MAX)
            : start_parts(g, err);
    if (e != VD_OK) {
        vd_gateway_stop(g);
        return e;
    }
    pthread_mutex_lock(&g->mu); /* answers may be given already */
    uint64_t n_pending = g->n_pending;
    pthread_mutex_unlock(&g->mu);
    vd_log_event(&g->log, VD_LOG_INFO, "gateway started", "http=%s:%u links=%s:%u models=%zu pending=%llu",
                 config->http_host, vd_gateway_http_port(g), config->listen_host, vd_gateway_link_port(g),
                 g->n_models, (unsigned long long)n_pending);
    *out = g;
    return VD_OK;
}

void vd_gateway_stop(struct vd_gateway *g)
{
    if (!g)
        return;
    atomic_store(&g->stopping, true);
    gw_http_stop(g);
    gw_trap_stop(g);
    gw_money_stop(g);
    vd_link_listener_stop(g->listener);
    vd_ledger_client_stop(g->ledger);
    vd_gwstore_close(g->store);
    vd_gateway_keys_close(g->keys);
    for (size_t i = 0; i < VD_GATEWAY_MODELS_MAX; i++)
        vd_gateway_text_close(g->model[i].text);
    pthread_mutex_destroy(&g->mu);
    pthread_cond_destroy(&g->pool_changed);
    pthread_cond_destroy(&g->once_changed);
    pthread_cond_destroy(&g->settle_bell);
    vd_key_wipe(&g->key);
    free(g->use);
    free(g);
}

uint16_t vd_gateway_http_port(const struct vd_gateway *g)
{
    return gw_http_port(g->http);
}

uint16_t vd_gateway_link_port(const struct vd_gateway *g)
{
    return vd_link_listener_port(g->listener);
}

void vd_gateway_get_stats(struct vd_gateway *g, struct vd_gateway_stats *out)
{
    pthread_mutex_lock(&g->mu);
    *out = g->stats;
    for (const struct gw_job *j = g->jobs; j; j = j->next)
        out->n_running++;
    for (const struct gw_session *s = g->sessions; s; s = s->next) {
        out->n_workers += s->greeted && s->role == VD_ROLE_WORKER;
        out->n_verifiers += s->greeted && s->role == VD_ROLE_VERIFIER;
    }
    out->n_waiting = g->n_waiting;
    out->n_pending = g->n_pending;
    out->escrow_balance = g->balance;
    out->unsettled = g->unsettled;
    out->reserved = g->reserved;
    pthread_mutex_unlock(&g->mu);
}

bool gw_disk_full(const struct vd_gateway *g)
{
    struct statvfs disk;
    return statvfs(g->store_dir, &disk) == 0 &&
           (uint64_t)disk.f_bavail * disk.f_frsize < GW_DISK_FREE_MIN_BYTES;
}

bool gw_shutting_down(struct vd_openai_error *e)
{
    vd_openai_fail(e, 503, "shutting_down", NULL, "The gateway is shutting down; try again in a moment.");
    e->retry_after_s = 5;
    return false;
}

bool gw_health(struct vd_gateway *g, char text[256])
{
    struct vd_gateway_stats s;
    vd_gateway_get_stats(g, &s);
    pthread_mutex_lock(&g->mu);
    bool has_escrow = g->has_escrow;
    pthread_mutex_unlock(&g->mu);
    if (!vd_ledger_client_is_up(g->ledger)) {
        snprintf(text, 256, "no link to the ledger");
        return false;
    }
    if (gw_disk_full(g)) {
        snprintf(text, 256, "disk_full: less than %d MiB are free under %.200s", GW_DISK_FREE_MIN_BYTES >> 20,
                 g->store_dir);
        return false;
    }
    if (!has_escrow || s.n_workers == 0) {
        snprintf(text, 256, "%s", has_escrow ? "no worker is linked" : "no escrow on the ledger");
        return false;
    }
    snprintf(text, 256, "height %llu, %llu workers", (unsigned long long)vd_ledger_client_height(g->ledger),
             (unsigned long long)s.n_workers);
    return true;
}

void gw_metrics(struct vd_gateway *g, struct vd_metrics *m)
{
    struct vd_gateway_stats s;
    vd_gateway_get_stats(g, &s);
    const struct {
        const char *name, *type, *help;
        uint64_t value;
    } line[] = {
        {"gateway_requests_total", "counter", "Requests for completions.", s.n_requests},
        {"gateway_answers_total", "counter", "Answers with a receipt.", s.n_answers},
        {"gateway_errors_total", "counter", "Requests and streams that ended in an error.", s.n_errors},
        {"gateway_replayed_total", "counter", "Retries that got a kept answer.", s.n_replayed},
        {"gateway_cancelled_total", "counter", "Answers that were cancelled and receipted.", s.n_cancelled},
        {"gateway_resumed_total", "counter", "Answers that went on with another worker.", s.n_resumed},
        {"gateway_audits_total", "counter", "Envelopes given to auditors.", s.n_audits},
        {"gateway_traps_total", "counter", "Traps for auditors that were settled.", s.n_traps},
        {"gateway_traps_opened_total", "counter", "Traps that were opened.", s.n_traps_opened},
        {"gateway_traps_caught_total", "counter", "Auditors that walked into a trap.", s.n_traps_caught},
        {"gateway_prefixes_total", "counter", "Workers' statements about answers not ended.", s.n_prefixes},
        {"gateway_wrong_total", "counter", "Streams that a follower stopped.", s.n_wrong},
        {"gateway_prompt_tokens_total", "counter", "Prompt tokens of receipts.", s.n_tokens_in},
        {"gateway_output_tokens_total", "counter", "Output tokens of receipts.", s.n_tokens_out},
        {"gateway_running", "gauge", "Answers at workers now.", s.n_running},
        {"gateway_waiting", "gauge", "Requests that wait for a worker.", s.n_waiting},
        {"gateway_workers", "gauge", "Linked workers.", s.n_workers},
        {"gateway_verifiers", "gauge", "Linked verifiers.", s.n_verifiers},
        {"gateway_receipts_pending", "gauge", "Receipts not settled yet.", s.n_pending},
        {"gateway_receipts_settled_total", "counter", "Receipts settled since the start.", s.n_settled},
        {"gateway_receipts_refused_total", "counter", "Receipts that the ledger refused for good.",
         s.n_refused},
        {"gateway_escrow_micro", "gauge", "The escrow's balance on the ledger.", s.escrow_balance.micro},
        {"gateway_unsettled_micro", "gauge", "Owed by receipts not settled yet.", s.unsettled.micro},
        {"gateway_reserved_micro", "gauge", "The most that running answers can cost.", s.reserved.micro},
        {"gateway_ledger_up", "gauge", "1 while linked to the ledger.", vd_ledger_client_is_up(g->ledger)},
    };
    for (size_t i = 0; i < sizeof line / sizeof line[0]; i++)
        vd_metrics_put(m, line[i].name, line[i].type, line[i].help, line[i].value);
}
