/* One thread per link, because an SSL object must not be read and written by two threads at once, and because
 * callbacks that may block (a worker that waits for a batch slot, a ledger that waits for the disk) then hold
 * up nobody else. Roles have at most a few hundred links, so threads are cheaper than an event loop with
 * continuations.
 *
 * Senders append whole frames to a bounded byte queue and wake the thread through an eventfd; the thread
 * moves the queue to the socket in chunks. TLS 1.3 lets a dialer believe in a link before the listener has
 * looked at its certificate or version, so a link opens only with the listener's first frame: PING when it is
 * content, BYE when it is not. */
#include "vd_link.h"
#include "vd_clock.h"
#include "vd_link_tls.h"
#include "vd_listen_tcp.h"
#include "vd_rng.h"
#include "vd_wire.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    HEAD_BYTES = 5,
    CHUNK_BYTES = 16 << 10, /* one TLS record */
    READS_PER_TURN = 16,    /* then it is the writer's turn */
    QUEUE_KEEP_BYTES = 64 << 10,
    ADDR_MAX = 80,
    REAP_MS = 500,
    LINGER_MS = 300,
};

enum phase { HANDSHAKE, GREETING, OPEN, ENDED };

struct vd_link {
    atomic_uint refs;
    struct vd_link_config cfg; /* defaults filled in; key and protocol are in ctx */
    SSL_CTX *ctx;              /* a reference */
    SSL *ssl;
    int fd, wake;
    bool dialer;
    char host[256]; /* dialer */
    uint16_t port;
    bool pinned;
    struct vd_pubkey expect, peer;
    char addr[ADDR_MAX];
    void *user;

    pthread_mutex_t mu;
    pthread_cond_t changed;
    enum phase phase; /* under mu for others; written by the link's thread only */
    uint8_t *queue;   /* under mu, as all to `why` */
    size_t q_at, q_n, q_cap;
    bool ready; /* on_open has returned */
    bool closing;
    uint64_t close_by_ms;
    struct vd_error why;

    uint8_t out[CHUNK_BYTES]; /* the link's thread only, from here on */
    size_t out_at, out_n;
    uint8_t head[HEAD_BYTES];
    size_t rx_n; /* bytes of head and body that have come */
    uint8_t *body;
    size_t body_cap;
    bool over; /* the loop ends; why is set */
    uint64_t last_rx_ms, last_ping_ms, start_ms;
    short want; /* poll events that TLS waits for */
    pthread_t thread;
};

/* ---- life ---- */

static struct vd_link_config with_defaults(const struct vd_link_config *c)
{
    struct vd_link_config d = *c;
    d.handshake_ms = c->handshake_ms ? c->handshake_ms : VD_LINK_HANDSHAKE_MS;
    d.ping_ms = c->ping_ms ? c->ping_ms : VD_LINK_PING_MS;
    d.dead_ms = c->dead_ms ? c->dead_ms : VD_LINK_DEAD_MS;
    d.queue_max_bytes = c->queue_max_bytes ? c->queue_max_bytes : VD_LINK_QUEUE_MAX;
    d.links_max = c->links_max ? c->links_max : VD_LINK_LISTEN_LINKS_MAX;
    d.protocol = c->protocol ? c->protocol : VD_LINK_PROTOCOL;
    return d;
}

static void cond_init_monotonic(pthread_cond_t *c)
{
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(c, &a);
    pthread_condattr_destroy(&a);
}

static struct vd_link *link_new(const struct vd_link_config *cfg, SSL_CTX *ctx, int fd, struct vd_error *err)
{
    struct vd_link *l = calloc(1, sizeof *l);
    int wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    SSL *ssl = SSL_new(ctx);
    if (!l || wake < 0 || !ssl) {
        vd_error_set(err, VD_ENOMEM, "cannot make a link: %s", strerror(errno));
        free(l);
        if (wake >= 0)
            close(wake);
        SSL_free(ssl);
        return NULL;
    }
    SSL_CTX_up_ref(ctx);
    l->ctx = ctx;
    l->ssl = ssl;
    l->cfg = *cfg;
    l->fd = fd;
    l->wake = wake;
    atomic_init(&l->refs, 1);
    pthread_mutex_init(&l->mu, NULL);
    cond_init_monotonic(&l->changed);
    return l;
}

struct vd_link *vd_link_ref(struct vd_link *link)
{
    atomic_fetch_add(&link->refs, 1);
    return link;
}

static void link_free_io(struct vd_link *l)
{
    SSL_free(l->ssl);
    l->ssl = NULL;
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
    free(l->body);
    l->body = NULL;
}

void vd_link_unref(struct vd_link *link)
{
    if (!link || atomic_fetch_sub(&link->refs, 1) != 1)
        return;
    link_free_io(link);
    close(link->wake);
    free(link->queue);
    pthread_mutex_destroy(&link->mu);
    pthread_cond_destroy(&link->changed);
    SSL_CTX_free(link->ctx);
    free(link);
}

const struct vd_pubkey *vd_link_peer(const struct vd_link *link)
{
    return &link->peer;
}

const char *vd_link_peer_addr(const struct vd_link *link)
{
    return link->addr;
}

void vd_link_set_user(struct vd_link *link, void *user)
{
    link->user = user;
}

void *vd_link_user(const struct vd_link *link)
{
    return link->user;
}

static void wake_up(int fd)
{
    uint64_t one = 1;
    ssize_t n = write(fd, &one, sizeof one);
    (void)n; /* a full counter wakes as well */
}

/* ---- sending ---- */

/* Room for n more bytes at the end of the queue. Under mu. */
static bool queue_room(struct vd_link *l, size_t n)
{
    if (l->q_at && l->q_at + l->q_n + n > l->q_cap) {
        memmove(l->queue, l->queue + l->q_at, l->q_n);
        l->q_at = 0;
    }
    if (l->q_n + n <= l->q_cap)
        return true;
    size_t cap = l->q_cap ? l->q_cap : 4096;
    while (cap < l->q_n + n)
        cap *= 2;
    uint8_t *q = realloc(l->queue, cap);
    if (!q)
        return false;
    l->queue = q;
    l->q_cap = cap;
    return true;
}

static bool queue_frame(struct vd_link *l, unsigned type, const void *body, size_t n)
{
    if (!queue_room(l, HEAD_BYTES + n))
        return false;
    uint8_t *p = l->queue + l->q_at + l->q_n;
    vd_le32_store(p, (uint32_t)n);
    p[4] = (uint8_t)type;
    if (n)
        memcpy(p + HEAD_BYTES, body, n);
    l->q_n += HEAD_BYTES + n;
    return true;
}

enum vd_err vd_link_send(struct vd_link *link, unsigned type, const void *body, size_t n_bytes,
                         struct vd_error *err)
{
    enum vd_err e = VD_OK;
    if (n_bytes > VD_LINK_BODY_MAX || type > 255)
        return vd_error_set(err, VD_ELIMIT, "a frame of %zu bytes is longer than the limit of %d", n_bytes,
                            VD_LINK_BODY_MAX);
    pthread_mutex_lock(&link->mu);
    if (link->phase == ENDED || link->closing)
        e = vd_error_set(err, VD_ENET, "the link to %s is closed", link->addr);
    else if (link->q_n + n_bytes + HEAD_BYTES > link->cfg.queue_max_bytes)
        e = vd_error_set(err, VD_EAGAIN, "%s does not read: %zu bytes wait to be sent to it", link->addr,
                         link->q_n);
    else if (!queue_frame(link, type, body, n_bytes))
        e = vd_error_set(err, VD_ENOMEM, "no memory for a frame of %zu bytes", n_bytes);
    pthread_mutex_unlock(&link->mu);
    if (e == VD_OK)
        wake_up(link->wake);
    return e;
}

static void queue_bye(struct vd_link *l, enum vd_err code, const char *text)
{
    uint8_t buf[VD_WIRE_TEXT_MAX + 32];
    size_t n = text ? strlen(text) : 0;
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    struct vd_wire_bye m = {(uint32_t)code,
                            {(const uint8_t *)text, n < VD_WIRE_TEXT_MAX ? n : VD_WIRE_TEXT_MAX}};
    if (vd_wire_put_bye(&w, &m))
        queue_frame(l, VD_WIRE_BYE, buf, w.n_bytes);
}

void vd_link_close(struct vd_link *link, enum vd_err code, const char *text)
{
    pthread_mutex_lock(&link->mu);
    if (!link->closing && link->phase != ENDED) {
        link->closing = true;
        link->close_by_ms = vd_clock_ms() + VD_LINK_CLOSE_MS;
        if (code != VD_OK)
            vd_error_set(&link->why, code, "%s", text ? text : vd_err_text(code));
        if (link->phase == OPEN || (link->phase == GREETING && !link->dialer))
            queue_bye(link, code, text);
    }
    pthread_mutex_unlock(&link->mu);
    wake_up(link->wake);
}

/* ---- the link's thread: ending, reading, writing ---- */

static void end(struct vd_link *l, enum vd_err code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void end(struct vd_link *l, enum vd_err code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    pthread_mutex_lock(&l->mu);
    if (!l->over && l->why.code == VD_OK && !l->closing) {
        vd_error_setv(&l->why, code, fmt, ap);
    }
    pthread_mutex_unlock(&l->mu);
    va_end(ap);
    l->over = true;
}

static void set_phase(struct vd_link *l, enum phase p)
{
    pthread_mutex_lock(&l->mu);
    l->phase = p;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mu);
}

/* What an SSL call that did not succeed means: wait for the socket, or the end. */
static void tls_wait_or_end(struct vd_link *l, int rc)
{
    char why[160];
    switch (SSL_get_error(l->ssl, rc)) {
    case SSL_ERROR_WANT_READ:
        l->want |= POLLIN;
        return;
    case SSL_ERROR_WANT_WRITE:
        l->want |= POLLOUT;
        return;
    case SSL_ERROR_ZERO_RETURN:
        end(l, VD_ENET, "%s closed the link without a good-bye", l->addr);
        return;
    case SSL_ERROR_SYSCALL:
        end(l, VD_ENET, "the connection to %s was lost: %s", l->addr,
            errno ? strerror(errno) : "end of stream");
        return;
    }
    vd_link_tls_reason(why);
    if (l->phase == HANDSHAKE)
        end(l, VD_ENET, "no TLS 1.3 handshake with %s (%s): is it a Veridem %s port?", l->addr, why,
            l->dialer ? "link" : "role that dialled this");
    else
        end(l, VD_ENET, "the link to %s failed: %s", l->addr, why);
}

static void on_bye(struct vd_link *l, struct vd_bytes body)
{
    struct vd_wire_bye m;
    if (!vd_wire_get_bye(&m, body)) {
        end(l, VD_EFORMAT, "%s sent a malformed good-bye", l->addr);
        return;
    }
    if (m.code == VD_OK) {
        l->over = true; /* in order: why stays VD_OK */
        return;
    }
    enum vd_err code = m.code <= VD_EINTERNAL ? (enum vd_err)m.code : VD_ENET;
    end(l, code, "%s ended the link: %.*s", l->addr, (int)m.text.n, (const char *)m.text.p);
}

static void on_ping(struct vd_link *l, struct vd_bytes body)
{
    struct vd_wire_ping m;
    if (!vd_wire_get_ping(&m, body)) {
        end(l, VD_EFORMAT, "%s sent a malformed ping", l->addr);
        return;
    }
    pthread_mutex_lock(&l->mu);
    if (!l->closing && l->q_n < l->cfg.queue_max_bytes)
        queue_frame(l, VD_WIRE_PONG, body.p, body.n);
    pthread_mutex_unlock(&l->mu);
}

static void open_now(struct vd_link *l)
{
    /* OPEN before on_open, so that it may send and close. */
    pthread_mutex_lock(&l->mu);
    l->phase = OPEN;
    pthread_mutex_unlock(&l->mu);
    if (l->cfg.cb.on_open)
        l->cfg.cb.on_open(l->cfg.cb.arg, l);
    pthread_mutex_lock(&l->mu);
    l->ready = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mu);
}

static bool closing_now(struct vd_link *l)
{
    pthread_mutex_lock(&l->mu);
    bool c = l->closing;
    pthread_mutex_unlock(&l->mu);
    return c;
}

static void on_frame(struct vd_link *l, unsigned type, struct vd_bytes body)
{
    if (type == VD_WIRE_BYE) {
        on_bye(l, body);
    } else if (type == VD_WIRE_PING) {
        on_ping(l, body);
        if (l->phase == GREETING && !l->over)
            open_now(l);
    } else if (l->phase != OPEN) {
        end(l, VD_EFORMAT, "%s sent frame type %u before its greeting", l->addr, type);
    } else if (type >= VD_WIRE_HELLO) {
        if (!closing_now(l))
            l->cfg.cb.on_frame(l->cfg.cb.arg, l, type, body);
    } else if (type != VD_WIRE_PONG) {
        end(l, VD_EFORMAT, "%s sent frame type %u, which this version does not know", l->addr, type);
    }
}

/* The body's buffer for the frame whose head has come. */
static bool body_room(struct vd_link *l, size_t n)
{
    if (n > VD_LINK_BODY_MAX) {
        end(l, VD_ELIMIT, "%s sent a frame of %zu bytes; the limit is %d", l->addr, n, VD_LINK_BODY_MAX);
        return false;
    }
    if (n <= l->body_cap)
        return true;
    free(l->body);
    l->body = malloc(n);
    l->body_cap = l->body ? n : 0;
    if (!l->body)
        end(l, VD_ENOMEM, "no memory for a frame of %zu bytes from %s", n, l->addr);
    return l->body != NULL;
}

/* One read: true if bytes came. */
static bool read_some(struct vd_link *l)
{
    size_t need = l->rx_n < HEAD_BYTES ? HEAD_BYTES : HEAD_BYTES + (size_t)vd_le32_load(l->head);
    uint8_t *to = l->rx_n < HEAD_BYTES ? l->head + l->rx_n : l->body + (l->rx_n - HEAD_BYTES);
    size_t n = 0;
    ERR_clear_error();
    errno = 0;
    int rc = need > l->rx_n ? SSL_read_ex(l->ssl, to, need - l->rx_n, &n) : 1;
    if (rc <= 0) {
        tls_wait_or_end(l, rc);
        return false;
    }
    l->rx_n += n;
    l->last_rx_ms = vd_clock_ms();
    if (l->rx_n == HEAD_BYTES && !body_room(l, vd_le32_load(l->head)))
        return false;
    size_t body_n = vd_le32_load(l->head);
    if (l->rx_n >= HEAD_BYTES && l->rx_n == HEAD_BYTES + body_n) {
        l->rx_n = 0;
        on_frame(l, l->head[4], (struct vd_bytes){l->body, body_n});
    }
    return !l->over;
}

/* Moves a chunk from the queue to `out`. False: nothing to send. */
static bool refill(struct vd_link *l)
{
    pthread_mutex_lock(&l->mu);
    size_t n = l->q_n < CHUNK_BYTES ? l->q_n : CHUNK_BYTES;
    if (n)
        memcpy(l->out, l->queue + l->q_at, n);
    l->q_at += n;
    l->q_n -= n;
    if (l->q_n == 0) {
        l->q_at = 0;
        if (l->q_cap > QUEUE_KEEP_BYTES) {
            free(l->queue);
            l->queue = NULL;
            l->q_cap = 0;
        }
    }
    pthread_mutex_unlock(&l->mu);
    l->out_at = 0;
    l->out_n = n;
    return n > 0;
}

/* Writes until the queue is empty (true) or the socket is full. */
static bool write_all(struct vd_link *l)
{
    while (l->out_at < l->out_n || refill(l)) {
        size_t n = 0;
        ERR_clear_error();
        errno = 0;
        int rc = SSL_write_ex(l->ssl, l->out + l->out_at, l->out_n - l->out_at, &n);
        if (rc <= 0) {
            tls_wait_or_end(l, rc);
            return false;
        }
        l->out_at += n;
    }
    return true;
}

static void wait_io(struct vd_link *l, short events, int timeout_ms)
{
    struct pollfd p[2] = {{l->fd, events, 0}, {l->wake, POLLIN, 0}};
    uint64_t drained;
    if (poll(p, 2, timeout_ms) > 0 && (p[1].revents & POLLIN)) {
        ssize_t n = read(l->wake, &drained, sizeof drained);
        (void)n;
    }
}

/* Pings and deadlines; returns how long the loop may sleep. */
static int timers(struct vd_link *l)
{
    uint64_t now = vd_clock_ms();
    uint64_t idle = now - l->last_rx_ms;
    if (l->phase == GREETING && now - l->start_ms >= l->cfg.handshake_ms)
        end(l, VD_ETIMEOUT, "%s did not greet within %u ms", l->addr, l->cfg.handshake_ms);
    if (idle >= l->cfg.dead_ms)
        end(l, VD_ETIMEOUT, "nothing came from %s for %u ms", l->addr, l->cfg.dead_ms);
    if (l->phase == OPEN && idle >= l->cfg.ping_ms && now - l->last_ping_ms >= l->cfg.ping_ms) {
        pthread_mutex_lock(&l->mu);
        if (!l->closing)
            queue_frame(l, VD_WIRE_PING, NULL, 0);
        pthread_mutex_unlock(&l->mu);
        l->last_ping_ms = now;
        return 0;
    }
    uint32_t step = l->cfg.ping_ms < l->cfg.handshake_ms ? l->cfg.ping_ms : l->cfg.handshake_ms;
    return (int)(step / 4 + 1);
}

static void loop(struct vd_link *l)
{
    while (!l->over) {
        int sleep_ms = timers(l);
        bool more = false;
        l->want = POLLIN;
        for (int i = 0; i < READS_PER_TURN && !l->over; i++) {
            if (!(more = read_some(l)))
                break;
        }
        bool flushed = !l->over && write_all(l);
        if (l->over)
            return;
        if (closing_now(l) && (flushed || vd_clock_ms() >= l->close_by_ms)) {
            l->over = true;
            return;
        }
        if (!more)
            wait_io(l, l->want, sleep_ms);
    }
}

/* ---- establishing ---- */

static void name_peer(struct vd_link *l, const struct sockaddr *sa, socklen_t n)
{
    char host[64], port[8];
    if (getnameinfo(sa, n, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) == 0)
        snprintf(l->addr, sizeof l->addr, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

static int ms_left(const struct vd_link *l)
{
    uint64_t gone = vd_clock_ms() - l->start_ms;
    return gone >= l->cfg.handshake_ms ? 0 : (int)(l->cfg.handshake_ms - gone);
}

/* True if the socket became ready; ends the link on time-out or close. */
static bool await(struct vd_link *l, short events)
{
    struct pollfd p[2] = {{l->fd, events, 0}, {l->wake, POLLIN, 0}};
    if (closing_now(l)) {
        end(l, VD_ECANCELLED, "cancelled");
        l->over = true;
        return false;
    }
    int left = ms_left(l);
    int rc = left ? poll(p, 2, left) : 0;
    if (rc == 0)
        end(l, VD_ETIMEOUT, "no connection with %s within %u ms", l->addr, l->cfg.handshake_ms);
    return rc > 0 && !l->over;
}

static bool connect_one(struct vd_link *l, const struct addrinfo *a)
{
    l->fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (l->fd < 0)
        return false;
    int rc = connect(l->fd, a->ai_addr, a->ai_addrlen), bad = 0;
    socklen_t n = sizeof bad;
    while (rc != 0 && errno == EINPROGRESS) {
        struct pollfd p = {l->fd, POLLOUT, 0};
        if (!await(l, POLLOUT))
            return false;
        if (poll(&p, 1, 0) == 0)
            errno = EINPROGRESS; /* woken for another reason */
        else if (getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &bad, &n) == 0 && bad == 0)
            rc = 0;
        else
            errno = bad;
    }
    if (rc == 0)
        return true;
    int saved = errno;
    close(l->fd);
    l->fd = -1;
    errno = saved;
    return false;
}

static bool connect_any(struct vd_link *l)
{
    char port[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    snprintf(l->addr, sizeof l->addr, "%.60s:%u", l->host, l->port);
    snprintf(port, sizeof port, "%u", l->port);
    int rc = getaddrinfo(l->host, port, &hints, &list);
    if (rc != 0) {
        end(l, VD_ENET, "cannot find the host %s: %s", l->host, gai_strerror(rc));
        return false;
    }
    bool ok = false;
    for (const struct addrinfo *a = list; a && !ok && !l->over; a = a->ai_next)
        ok = connect_one(l, a);
    int saved = errno;
    freeaddrinfo(list);
    if (!ok)
        end(l, VD_ENET, "cannot connect to %s: %s", l->addr, strerror(saved));
    return ok && !l->over;
}

static bool handshake(struct vd_link *l)
{
    char theirs[64];
    struct vd_error why;
    int one = 1;
    setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (SSL_set_fd(l->ssl, l->fd) != 1) {
        end(l, VD_ENOMEM, "cannot attach TLS to a socket");
        return false;
    }
    for (;;) {
        l->want = 0;
        ERR_clear_error();
        errno = 0;
        int rc = l->dialer ? SSL_connect(l->ssl) : SSL_accept(l->ssl);
        if (rc == 1)
            break;
        tls_wait_or_end(l, rc);
        if (l->over || !await(l, l->want))
            return false;
    }
    enum vd_err e = vd_link_tls_check(l->ssl, l->cfg.protocol, &l->peer, theirs, &why);
    if (e != VD_OK) {
        end(l, e, "%s: %s", l->addr, why.msg);
        if (e == VD_EVERSION && !l->dialer) { /* the peer deserves both names */
            queue_bye(l, e, why.msg);
            write_all(l);
        }
        return false;
    }
    if (l->pinned && !vd_pubkey_eq(&l->expect, &l->peer)) {
        char want[17], got[17];
        vd_hex_encode(want, l->expect.b, 8);
        vd_hex_encode(got, l->peer.b, 8);
        end(l, VD_EAUTH, "%s has the key %s..., expected %s...", l->addr, got, want);
        return false;
    }
    return true;
}

/* Says why, and reads on for a moment: closing a socket with unread bytes resets the connection, and the peer
 * would lose our last words. */
static void say_good_bye(struct vd_link *l)
{
    char sink[4096];
    if (l->why.code == VD_EFORMAT || l->why.code == VD_ELIMIT || l->why.code == VD_ETIMEOUT) {
        pthread_mutex_lock(&l->mu);
        queue_bye(l, l->why.code, l->why.msg);
        pthread_mutex_unlock(&l->mu);
        write_all(l);
    }
    SSL_shutdown(l->ssl);
    shutdown(l->fd, SHUT_WR);
    uint64_t until = vd_clock_ms() + LINGER_MS;
    for (uint64_t now = vd_clock_ms(); now < until; now = vd_clock_ms()) {
        struct pollfd p = {l->fd, POLLIN, 0};
        if (poll(&p, 1, (int)(until - now)) <= 0 || recv(l->fd, sink, sizeof sink, 0) <= 0)
            return;
    }
}

/* The whole life of a link, on its thread. True if it was open. */
static bool link_run(struct vd_link *l)
{
    sigset_t pipe_signal;
    sigemptyset(&pipe_signal);
    sigaddset(&pipe_signal, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_signal, NULL);
    l->start_ms = l->last_rx_ms = l->last_ping_ms = vd_clock_ms();
    bool opened = false;
    if ((!l->dialer || connect_any(l)) && handshake(l)) {
        set_phase(l, GREETING);
        l->last_rx_ms = vd_clock_ms();
        if (!l->dialer) {
            pthread_mutex_lock(&l->mu);
            queue_frame(l, VD_WIRE_PING, NULL, 0);
            pthread_mutex_unlock(&l->mu);
            open_now(l);
        }
        loop(l);
        opened = l->phase == OPEN;
        say_good_bye(l);
    }
    ERR_clear_error();
    link_free_io(l);
    pthread_mutex_lock(&l->mu);
    l->closing = true; /* later sends fail; `why` is final */
    struct vd_error why = l->why;
    pthread_mutex_unlock(&l->mu);
    if (opened && l->cfg.cb.on_close)
        l->cfg.cb.on_close(l->cfg.cb.arg, l, &why);
    else if (!opened && why.code != VD_OK && l->cfg.cb.on_fail)
        l->cfg.cb.on_fail(l->cfg.cb.arg, &why);
    set_phase(l, ENDED);
    OPENSSL_thread_stop();
    return opened;
}

static void *link_main(void *arg)
{
    link_run(arg);
    return NULL;
}

/* ---- dialling ---- */

static struct vd_link *dial_new(const struct vd_link_config *cfg, SSL_CTX *ctx, const char *host,
                                uint16_t port, const struct vd_pubkey *expect, struct vd_error *err)
{
    struct vd_link *l = link_new(cfg, ctx, -1, err);
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
    struct vd_link_config cfg = with_defaults(config);
    SSL_CTX *ctx = NULL;
    enum vd_err e = vd_link_tls_ctx(&ctx, cfg.key, cfg.protocol, err);
    if (e != VD_OK)
        return e;
    struct vd_link *l = dial_new(&cfg, ctx, host, port, expect, err);
    SSL_CTX_free(ctx);
    if (!l)
        return VD_ENOMEM;
    l->cfg.cb.on_fail = NULL; /* the error is returned */
    if (pthread_create(&l->thread, NULL, link_main, l) != 0) {
        vd_link_unref(l);
        return vd_error_set(err, VD_EAGAIN, "the system refused a thread for a link");
    }
    pthread_mutex_lock(&l->mu);
    while (!l->ready && l->phase != ENDED)
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

/* One attempt on this thread; true if the link was open. */
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
    bool opened = !stop && link_run(l);
    pthread_mutex_lock(&d->mu);
    d->current = NULL;
    pthread_mutex_unlock(&d->mu);
    vd_link_unref(l);
    return opened;
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
    d->cfg = with_defaults(config);
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
    cond_init_monotonic(&d->changed);
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

/* ---- listening ---- */

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
    bool e = l->phase == ENDED;
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
    if (s->n_links == s->cfg.links_max) {
        close(fd);
        fail(s, VD_ELIMIT, "too many links: a new one was turned away");
        return;
    }
    struct vd_link *l = link_new(&s->cfg, s->ctx, fd, &why);
    if (!l) {
        close(fd);
        fail(s, why.code, why.msg);
        return;
    }
    name_peer(l, (struct sockaddr *)&sa, n);
    if (pthread_create(&l->thread, NULL, link_main, l) != 0) {
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
    struct vd_link_config cfg = with_defaults(config);
    struct vd_link_listener *s = calloc(1, sizeof *s + cfg.links_max * sizeof s->link[0]);
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
    wake_up(l->wake);
    pthread_join(l->thread, NULL);
    listener_free(l);
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
