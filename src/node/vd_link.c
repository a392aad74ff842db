/* One thread per link, because an SSL object must not be read and written by two threads at once, and because
 * callbacks that may block (a worker that waits for a batch slot, a ledger that waits for the disk) then hold
 * up nobody else. Roles have at most a few hundred links, so threads are cheaper than an event loop with
 * continuations.
 *
 * Senders append whole frames to a bounded byte queue and wake the thread through an eventfd; the thread
 * moves the queue to the socket in chunks. TLS 1.3 lets a dialer believe in a link before the listener has
 * looked at its certificate or version, so a link opens only with the listener's first frame: PING when it is
 * content, BYE when it is not. */
#include "vd_link_impl.h"
#include "vd_clock.h"
#include "vd_wire.h"

#include <errno.h>
#include <openssl/err.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    READS_PER_TURN = 16, /* then it is the writer's turn */
    QUEUE_KEEP_BYTES = 64 << 10,
    LINGER_MS = 300,
};

/* ---- life ---- */

struct vd_link_config vd_link_with_defaults(const struct vd_link_config *c)
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

void vd_link_cond_init(pthread_cond_t *c)
{
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(c, &a);
    pthread_condattr_destroy(&a);
}

struct vd_link *vd_link_new(const struct vd_link_config *cfg, SSL_CTX *ctx, int fd, struct vd_error *err)
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
    vd_link_cond_init(&l->changed);
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

void vd_link_wake(int fd)
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
    if (!queue_room(l, VD_LINK_HEAD_BYTES + n))
        return false;
    uint8_t *p = l->queue + l->q_at + l->q_n;
    vd_le32_store(p, (uint32_t)n);
    p[4] = (uint8_t)type;
    if (n)
        memcpy(p + VD_LINK_HEAD_BYTES, body, n);
    l->q_n += VD_LINK_HEAD_BYTES + n;
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
    if (link->phase == VD_LINK_ENDED || link->closing)
        e = vd_error_set(err, VD_ENET, "the link to %s is closed", link->addr);
    else if (link->q_n + n_bytes + VD_LINK_HEAD_BYTES > link->cfg.queue_max_bytes)
        e = vd_error_set(err, VD_EAGAIN, "%s does not read: %zu bytes wait to be sent to it", link->addr,
                         link->q_n);
    else if (!queue_frame(link, type, body, n_bytes))
        e = vd_error_set(err, VD_ENOMEM, "no memory for a frame of %zu bytes", n_bytes);
    pthread_mutex_unlock(&link->mu);
    if (e == VD_OK)
        vd_link_wake(link->wake);
    return e;
}

void vd_link_queue_bye(struct vd_link *l, enum vd_err code, const char *text)
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
    if (!link->closing && link->phase != VD_LINK_ENDED) {
        link->closing = true;
        link->close_by_ms = vd_clock_ms() + VD_LINK_CLOSE_MS;
        if (code != VD_OK)
            vd_error_set(&link->why, code, "%s", text ? text : vd_err_text(code));
        if (link->phase == VD_LINK_OPEN || (link->phase == VD_LINK_GREETING && !link->dialer))
            vd_link_queue_bye(link, code, text);
    }
    pthread_mutex_unlock(&link->mu);
    vd_link_wake(link->wake);
}

/* ---- the link's thread: ending, reading, writing ---- */

void vd_link_end(struct vd_link *l, enum vd_err code, const char *fmt, ...)
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

static void set_phase(struct vd_link *l, enum vd_link_phase p)
{
    pthread_mutex_lock(&l->mu);
    l->phase = p;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mu);
}

/* What an SSL call that did not succeed means: wait for the socket, or the end. */
void vd_link_tls_wait(struct vd_link *l, int rc)
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
        vd_link_end(l, VD_ENET, "%s closed the link without a good-bye", l->addr);
        return;
    case SSL_ERROR_SYSCALL:
        vd_link_end(l, VD_ENET, "the connection to %s was lost: %s", l->addr,
                    errno ? strerror(errno) : "end of stream");
        return;
    }
    vd_link_tls_reason(why);
    if (l->phase == VD_LINK_HANDSHAKE)
        vd_link_end(l, VD_ENET, "no TLS 1.3 handshake with %s (%s): is it a Veridem %s port?", l->addr, why,
                    l->dialer ? "link" : "role that dialled this");
    else
        vd_link_end(l, VD_ENET, "the link to %s failed: %s", l->addr, why);
}

static void on_bye(struct vd_link *l, struct vd_bytes body)
{
    struct vd_wire_bye m;
    if (!vd_wire_get_bye(&m, body)) {
        vd_link_end(l, VD_EFORMAT, "%s sent a malformed good-bye", l->addr);
        return;
    }
    if (m.code == VD_OK) {
        l->over = true; /* in order: why stays VD_OK */
        return;
    }
    enum vd_err code = m.code <= VD_EINTERNAL ? (enum vd_err)m.code : VD_ENET;
    l->refused = true;
    vd_link_end(l, code, "%s ended the link: %.*s", l->addr, (int)m.text.n, (const char *)m.text.p);
}

static void on_ping(struct vd_link *l, struct vd_bytes body)
{
    struct vd_wire_ping m;
    if (!vd_wire_get_ping(&m, body)) {
        vd_link_end(l, VD_EFORMAT, "%s sent a malformed ping", l->addr);
        return;
    }
    pthread_mutex_lock(&l->mu);
    if (!l->closing && l->q_n < l->cfg.queue_max_bytes)
        queue_frame(l, VD_WIRE_PONG, body.p, body.n);
    pthread_mutex_unlock(&l->mu);
}

static void open_now(struct vd_link *l)
{
    /* VD_LINK_OPEN before on_open, so that it may send and close. */
    pthread_mutex_lock(&l->mu);
    l->phase = VD_LINK_OPEN;
    pthread_mutex_unlock(&l->mu);
    if (l->cfg.cb.on_open)
        l->cfg.cb.on_open(l->cfg.cb.arg, l);
    pthread_mutex_lock(&l->mu);
    l->ready = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mu);
}

bool vd_link_is_closing(struct vd_link *l)
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
        if (l->phase == VD_LINK_GREETING && !l->over)
            open_now(l);
    } else if (l->phase != VD_LINK_OPEN) {
        vd_link_end(l, VD_EFORMAT, "%s sent frame type %u before its greeting", l->addr, type);
    } else if (type >= VD_WIRE_HELLO) {
        if (!vd_link_is_closing(l))
            l->cfg.cb.on_frame(l->cfg.cb.arg, l, type, body);
    } else if (type != VD_WIRE_PONG) {
        vd_link_end(l, VD_EFORMAT, "%s sent frame type %u, which this version does not know", l->addr, type);
    }
}

/* The body's buffer for the frame whose head has come. */
static bool body_room(struct vd_link *l, size_t n)
{
    if (n > VD_LINK_BODY_MAX) {
        vd_link_end(l, VD_ELIMIT, "%s sent a frame of %zu bytes; the limit is %d", l->addr, n,
                    VD_LINK_BODY_MAX);
        return false;
    }
    if (n <= l->body_cap)
        return true;
    free(l->body);
    l->body = malloc(n);
    l->body_cap = l->body ? n : 0;
    if (!l->body)
        vd_link_end(l, VD_ENOMEM, "no memory for a frame of %zu bytes from %s", n, l->addr);
    return l->body != NULL;
}

/* One read: true if bytes came. */
static bool read_some(struct vd_link *l)
{
    size_t need = l->rx_n < VD_LINK_HEAD_BYTES ? VD_LINK_HEAD_BYTES
                                               : VD_LINK_HEAD_BYTES + (size_t)vd_le32_load(l->head);
    uint8_t *to = l->rx_n < VD_LINK_HEAD_BYTES ? l->head + l->rx_n : l->body + (l->rx_n - VD_LINK_HEAD_BYTES);
    size_t n = 0;
    ERR_clear_error();
    errno = 0;
    int rc = need > l->rx_n ? SSL_read_ex(l->ssl, to, need - l->rx_n, &n) : 1;
    if (rc <= 0) {
        vd_link_tls_wait(l, rc);
        return false;
    }
    l->rx_n += n;
    l->last_rx_ms = vd_clock_ms();
    if (l->rx_n == VD_LINK_HEAD_BYTES && !body_room(l, vd_le32_load(l->head)))
        return false;
    size_t body_n = vd_le32_load(l->head);
    if (l->rx_n >= VD_LINK_HEAD_BYTES && l->rx_n == VD_LINK_HEAD_BYTES + body_n) {
        l->rx_n = 0;
        on_frame(l, l->head[4], (struct vd_bytes){l->body, body_n});
    }
    return !l->over;
}

/* Moves a chunk from the queue to `out`. False: nothing to send. */
static bool refill(struct vd_link *l)
{
    pthread_mutex_lock(&l->mu);
    size_t n = l->q_n < VD_LINK_CHUNK_BYTES ? l->q_n : VD_LINK_CHUNK_BYTES;
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
bool vd_link_write_all(struct vd_link *l)
{
    while (l->out_at < l->out_n || refill(l)) {
        size_t n = 0;
        ERR_clear_error();
        errno = 0;
        int rc = SSL_write_ex(l->ssl, l->out + l->out_at, l->out_n - l->out_at, &n);
        if (rc <= 0) {
            vd_link_tls_wait(l, rc);
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
    if (l->phase == VD_LINK_GREETING && now - l->start_ms >= l->cfg.handshake_ms)
        vd_link_end(l, VD_ETIMEOUT, "%s did not greet within %u ms", l->addr, l->cfg.handshake_ms);
    if (idle >= l->cfg.dead_ms)
        vd_link_end(l, VD_ETIMEOUT, "nothing came from %s for %u ms", l->addr, l->cfg.dead_ms);
    if (l->phase == VD_LINK_OPEN && idle >= l->cfg.ping_ms && now - l->last_ping_ms >= l->cfg.ping_ms) {
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
        bool flushed = !l->over && vd_link_write_all(l);
        if (l->over)
            return;
        if (vd_link_is_closing(l) && (flushed || vd_clock_ms() >= l->close_by_ms)) {
            l->over = true;
            return;
        }
        if (!more)
            wait_io(l, l->want, sleep_ms);
    }
}

/* ---- from the first byte to the last ---- */

/* Says why, and reads on for a moment: closing a socket with unread bytes resets the connection, and the peer
 * would lose our last words. */
static void say_good_bye(struct vd_link *l)
{
    char sink[4096];
    if (l->why.code == VD_EFORMAT || l->why.code == VD_ELIMIT || l->why.code == VD_ETIMEOUT) {
        pthread_mutex_lock(&l->mu);
        vd_link_queue_bye(l, l->why.code, l->why.msg);
        pthread_mutex_unlock(&l->mu);
        vd_link_write_all(l);
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
bool vd_link_run(struct vd_link *l)
{
    sigset_t pipe_signal;
    sigemptyset(&pipe_signal);
    sigaddset(&pipe_signal, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_signal, NULL);
    l->start_ms = l->last_rx_ms = l->last_ping_ms = vd_clock_ms();
    bool opened = false;
    if ((!l->dialer || vd_link_connect(l)) && vd_link_handshake(l)) {
        set_phase(l, VD_LINK_GREETING);
        l->last_rx_ms = vd_clock_ms();
        if (!l->dialer) {
            pthread_mutex_lock(&l->mu);
            queue_frame(l, VD_WIRE_PING, NULL, 0);
            pthread_mutex_unlock(&l->mu);
            open_now(l);
        }
        loop(l);
        opened = l->phase == VD_LINK_OPEN;
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
    set_phase(l, VD_LINK_ENDED);
    OPENSSL_thread_stop();
    return opened;
}

void *vd_link_main(void *arg)
{
    vd_link_run(arg);
    return NULL;
}
