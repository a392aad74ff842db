/* The listener's thread accepts, gives each connection a link with a thread of its own, and joins those that
 * have ended.
 *
 * Links cost their dialer nothing, and whoever held them all would keep everybody else out: a worker that
 * lost its link would be late in a dispute. So where all are taken, the origin that has the most gives one
 * up, its newest, to one that has fewer. An origin is an IPv4 address, or the first 48 bits of an IPv6
 * address, which is what one customer of a provider may have. */
#include "vd_link_impl.h"
#include "vd_clock.h"
#include "vd_listen_tcp.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    REAP_MS = 500,
    LEAVING_MAX = 16, /* links beyond the limit, while those that gave way come to their end */
};

static void name_peer(struct vd_link *l, const struct sockaddr *sa, socklen_t n)
{
    char host[64], port[8];
    if (getnameinfo(sa, n, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) == 0)
        snprintf(l->addr, sizeof l->addr, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

static void note_origin(struct vd_link *l, const struct sockaddr_storage *sa)
{
    if (sa->ss_family == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, sa, sizeof v4);
        memcpy(l->origin, &v4.sin_addr, 4);
    } else if (sa->ss_family == AF_INET6) {
        struct sockaddr_in6 v6;
        memcpy(&v6, sa, sizeof v6);
        if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr))
            memcpy(l->origin, v6.sin6_addr.s6_addr + 12, 4);
        else
            memcpy(l->origin, v6.sin6_addr.s6_addr, sizeof l->origin);
    }
}

struct vd_link_listener {
    struct vd_link_config cfg;
    SSL_CTX *ctx;
    int fd, wake;
    uint16_t port;
    atomic_bool stop;
    pthread_t thread;
    size_t n_links; /* the listener's thread only */
    struct vd_link *link[];
};

static bool has_ended(struct vd_link *l)
{
    pthread_mutex_lock(&l->mu);
    bool e = l->phase == VD_LINK_ENDED;
    pthread_mutex_unlock(&l->mu);
    return e;
}

/* Joins the links that have ended, or all. */
static void reap(struct vd_link_listener *s, bool all)
{
    size_t kept = 0;
    for (size_t i = 0; i < s->n_links; i++) {
        struct vd_link *l = s->link[i];
        if (!all && !has_ended(l)) {
            s->link[kept++] = l;
            continue;
        }
        pthread_join(l->thread, NULL);
        vd_link_unref(l);
    }
    s->n_links = kept;
}

/* How many links there are from where l comes from, without those that gave way. */
static size_t n_alike(const struct vd_link_listener *s, const struct vd_link *l)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n_links; i++)
        n += !s->link[i]->leaving && memcmp(s->link[i]->origin, l->origin, sizeof l->origin) == 0;
    return n;
}

/* Is there a place for l, or one that another origin has to give up? */
static bool make_place(struct vd_link_listener *s, const struct vd_link *l)
{
    struct vd_link *newest = NULL;
    size_t n_staying = 0, most = 0;
    if (s->n_links < s->cfg.links_max)
        return true;
    for (size_t i = 0; i < s->n_links; i++) {
        size_t n = s->link[i]->leaving ? 0 : n_alike(s, s->link[i]);
        n_staying += n > 0;
        if (n > 0 && n >= most) {
            most = n;
            newest = s->link[i];
        }
    }
    if (n_staying < s->cfg.links_max)
        return true;
    if (most <= n_alike(s, l) + 1 || s->n_links == s->cfg.links_max + LEAVING_MAX)
        return false;
    newest->leaving = true;
    vd_link_close(newest, VD_ELIMIT, "too many links, and this address has the most");
    return true;
}

static void fail(struct vd_link_listener *s, enum vd_err code, const char *text)
{
    struct vd_error why;
    vd_error_set(&why, code, "%s", text);
    if (s->cfg.cb.on_fail)
        s->cfg.cb.on_fail(s->cfg.cb.arg, &why);
}

static void accept_one(struct vd_link_listener *s)
{
    struct sockaddr_storage sa;
    socklen_t n = sizeof sa;
    struct vd_error why;
    int fd = accept4(s->fd, (struct sockaddr *)&sa, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
            vd_clock_sleep_ms(50); /* the connection stays pending: do not spin on it */
        return;
    }
    reap(s, false);
    struct vd_link *l = vd_link_new(&s->cfg, s->ctx, fd, &why);
    if (!l) {
        close(fd);
        fail(s, why.code, why.msg);
        return;
    }
    name_peer(l, (struct sockaddr *)&sa, n);
    note_origin(l, &sa);
    if (!make_place(s, l)) {
        vd_link_unref(l);
        fail(s, VD_ELIMIT, "too many links: a new one was turned away");
        return;
    }
    if (pthread_create(&l->thread, NULL, vd_link_main, l) != 0) {
        vd_link_unref(l);
        fail(s, VD_EAGAIN, "the system refused a thread for a link");
        return;
    }
    s->link[s->n_links++] = l;
}

static void *listener_main(void *arg)
{
    struct vd_link_listener *s = arg;
    while (!atomic_load(&s->stop)) {
        struct pollfd p[2] = {{s->fd, POLLIN, 0}, {s->wake, POLLIN, 0}};
        poll(p, 2, REAP_MS);
        if (p[0].revents & POLLIN)
            accept_one(s);
        reap(s, false);
    }
    for (size_t i = 0; i < s->n_links; i++)
        vd_link_close(s->link[i], VD_OK, NULL);
    reap(s, true);
    return NULL;
}

static void listener_free(struct vd_link_listener *s)
{
    if (s->fd >= 0)
        close(s->fd);
    if (s->wake >= 0)
        close(s->wake);
    SSL_CTX_free(s->ctx);
    free(s);
}

enum vd_err vd_link_listen(struct vd_link_listener **out, const struct vd_link_config *config,
                           const char *host, uint16_t port, struct vd_error *err)
{
    struct vd_link_config cfg = vd_link_with_defaults(config);
    struct vd_link_listener *s = calloc(1, sizeof *s + (cfg.links_max + LEAVING_MAX) * sizeof s->link[0]);
    struct vd_error why = {.code = VD_OK};
    if (!s)
        return vd_error_set(err, VD_ENOMEM, "no memory for a listener");
    s->cfg = cfg;
    s->fd = -1;
    s->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (s->wake < 0)
        vd_error_set(&why, VD_ENOMEM, "cannot make an event: %s", strerror(errno));
    else if (vd_link_tls_ctx(&s->ctx, cfg.key, cfg.protocol, &why) == VD_OK)
        vd_listen_tcp(&s->fd, &s->port, host, port, &why);
    if (why.code == VD_OK) {
        if (pthread_create(&s->thread, NULL, listener_main, s) != 0)
            vd_error_set(&why, VD_EAGAIN, "the system refused a thread for a listener");
    }
    if (why.code != VD_OK) {
        listener_free(s);
        return vd_error_set(err, why.code, "%s", why.msg);
    }
    *out = s;
    return VD_OK;
}

uint16_t vd_link_listener_port(const struct vd_link_listener *l)
{
    return l->port;
}

void vd_link_listener_stop(struct vd_link_listener *l)
{
    if (!l)
        return;
    atomic_store(&l->stop, true);
    vd_link_wake(l->wake);
    pthread_join(l->thread, NULL);
    listener_free(l);
}
