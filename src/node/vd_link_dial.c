/* Two ways to dial: once, when the caller wants to know what came of it, and for ever. Both run the link on a
 * thread of their own. */
#include "vd_link_impl.h"
#include "vd_clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static struct vd_link *dial_new(const struct vd_link_config *cfg, SSL_CTX *ctx, const char *host,
                                uint16_t port, const struct vd_pubkey *expect, struct vd_error *err)
{
    struct vd_link *l = vd_link_new(cfg, ctx, -1, err);
    if (!l)
        return NULL;
    l->dialer = true;
    snprintf(l->host, sizeof l->host, "%s", host);
    l->port = port;
    l->pinned = expect != NULL;
    if (expect)
        l->expect = *expect;
    return l;
}

enum vd_err vd_link_dial(struct vd_link **out, const struct vd_link_config *config, const char *host,
                         uint16_t port, const struct vd_pubkey *expect, struct vd_error *err)
{
    struct vd_link_config cfg = vd_link_with_defaults(config);
    SSL_CTX *ctx = NULL;
    enum vd_err e = vd_link_tls_ctx(&ctx, cfg.key, cfg.protocol, err);
    if (e != VD_OK)
        return e;
    struct vd_link *l = dial_new(&cfg, ctx, host, port, expect, err);
    SSL_CTX_free(ctx);
    if (!l)
        return VD_ENOMEM;
    l->cfg.cb.on_fail = NULL; /* the error is returned */
    if (pthread_create(&l->thread, NULL, vd_link_main, l) != 0) {
        vd_link_unref(l);
        return vd_error_set(err, VD_EAGAIN, "the system refused a thread for a link");
    }
    pthread_mutex_lock(&l->mu);
    while (!l->ready && l->phase != VD_LINK_ENDED)
        pthread_cond_wait(&l->changed, &l->mu);
    bool failed = !l->ready;
    struct vd_error why = l->why;
    pthread_mutex_unlock(&l->mu);
    if (!failed) {
        *out = l;
        return VD_OK;
    }
    pthread_join(l->thread, NULL);
    vd_link_unref(l);
    enum vd_err code = why.code != VD_OK ? why.code : VD_ENET;
    return vd_error_set(err, code, "%s", why.code != VD_OK ? why.msg : "the peer closed the link at once");
}

void vd_link_finish(struct vd_link *link)
{
    if (!link)
        return;
    vd_link_close(link, VD_OK, NULL);
    pthread_join(link->thread, NULL);
    vd_link_unref(link);
}

uint32_t vd_link_backoff_ms(unsigned attempt, uint64_t jitter)
{
    uint64_t full = VD_LINK_BACKOFF_FIRST_MS;
    for (unsigned i = 0; i < attempt && full < VD_LINK_BACKOFF_MAX_MS; i++)
        full *= 2;
    if (full > VD_LINK_BACKOFF_MAX_MS)
        full = VD_LINK_BACKOFF_MAX_MS;
    return (uint32_t)(full / 2 + (jitter >> 32) * (full / 2) / (UINT64_C(1) << 32));
}

struct vd_link_dialer {
    struct vd_link_config cfg;
    SSL_CTX *ctx;
    char host[256];
    uint16_t port;
    bool pinned, stop;
    struct vd_pubkey expect;
    struct vd_link *current; /* under mu */
    pthread_mutex_t mu;
    pthread_cond_t changed;
    pthread_t thread;
};

/* One attempt on this thread; true if the link was open, and not ended by the peer because of what we are or
 * said: that would be so again at once. */
static bool dialer_once(struct vd_link_dialer *d)
{
    struct vd_error err;
    struct vd_link *l = dial_new(&d->cfg, d->ctx, d->host, d->port, d->pinned ? &d->expect : NULL, &err);
    if (!l) {
        if (d->cfg.cb.on_fail)
            d->cfg.cb.on_fail(d->cfg.cb.arg, &err);
        return false;
    }
    pthread_mutex_lock(&d->mu);
    bool stop = d->stop;
    d->current = l;
    pthread_mutex_unlock(&d->mu);
    bool good = !stop && vd_link_run(l) && !l->refused;
    pthread_mutex_lock(&d->mu);
    d->current = NULL;
    pthread_mutex_unlock(&d->mu);
    vd_link_unref(l);
    return good;
}

static void *dialer_main(void *arg)
{
    struct vd_link_dialer *d = arg;
    unsigned attempt = 0;
    for (;;) {
        attempt = dialer_once(d) ? 0 : attempt + 1;
        uint64_t jitter;
        vd_key_random(&jitter, sizeof jitter);
        struct timespec at = vd_clock_after_ms(vd_link_backoff_ms(attempt, jitter));
        pthread_mutex_lock(&d->mu);
        while (!d->stop && pthread_cond_timedwait(&d->changed, &d->mu, &at) != ETIMEDOUT)
            ;
        bool stop = d->stop;
        pthread_mutex_unlock(&d->mu);
        if (stop)
            return NULL;
    }
}

static void dialer_free(struct vd_link_dialer *d)
{
    pthread_mutex_destroy(&d->mu);
    pthread_cond_destroy(&d->changed);
    SSL_CTX_free(d->ctx);
    free(d);
}

enum vd_err vd_link_dialer_start(struct vd_link_dialer **out, const struct vd_link_config *config,
                                 const char *host, uint16_t port, const struct vd_pubkey *expect,
                                 struct vd_error *err)
{
    struct vd_link_dialer *d = calloc(1, sizeof *d);
    if (!d)
        return vd_error_set(err, VD_ENOMEM, "no memory for a dialer");
    d->cfg = vd_link_with_defaults(config);
    enum vd_err e = vd_link_tls_ctx(&d->ctx, d->cfg.key, d->cfg.protocol, err);
    if (e != VD_OK) {
        free(d);
        return e;
    }
    snprintf(d->host, sizeof d->host, "%s", host);
    d->port = port;
    d->pinned = expect != NULL;
    if (expect)
        d->expect = *expect;
    pthread_mutex_init(&d->mu, NULL);
    vd_link_cond_init(&d->changed);
    if (pthread_create(&d->thread, NULL, dialer_main, d) != 0) {
        dialer_free(d);
        return vd_error_set(err, VD_EAGAIN, "the system refused a thread for a dialer");
    }
    *out = d;
    return VD_OK;
}

void vd_link_dialer_stop(struct vd_link_dialer *d)
{
    if (!d)
        return;
    pthread_mutex_lock(&d->mu);
    d->stop = true;
    if (d->current)
        vd_link_close(d->current, VD_OK, NULL);
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->mu);
    pthread_join(d->thread, NULL);
    dialer_free(d);
}

enum vd_err vd_link_parse_addr(const char *text, char host[256], uint16_t *port, struct vd_error *err)
{
    const char *colon = strrchr(text, ':'), *from = text;
    size_t n = colon ? (size_t)(colon - text) : 0;
    if (n >= 2 && text[0] == '[' && text[n - 1] == ']') {
        from++;
        n -= 2;
    } else if (memchr(text, ':', n)) {
        n = 0; /* a bare IPv6 address needs brackets */
    }
    unsigned long p = 0;
    char *tail = NULL;
    if (colon && colon[1] >= '0' && colon[1] <= '9')
        p = strtoul(colon + 1, &tail, 10);
    if (n == 0 || n > 255 || !tail || *tail || p > 65535)
        return vd_error_set(err, VD_EUSE, "\"%s\" is not host:port (an IPv6 address goes in brackets)", text);
    memcpy(host, from, n);
    host[n] = 0;
    *port = (uint16_t)p;
    return VD_OK;
}
