/* Connecting and the handshake, with one deadline for both. Everything waits in poll together with the
 * eventfd, so that a link that is closed while it comes to be ends at once (but for a name server that does
 * not answer). */
#include "vd_link_impl.h"
#include "vd_clock.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static int ms_left(const struct vd_link *l)
{
    uint64_t gone = vd_clock_ms() - l->start_ms;
    return gone >= l->cfg.handshake_ms ? 0 : (int)(l->cfg.handshake_ms - gone);
}

/* True if the socket became ready; ends the link on time-out or close. */
static bool await(struct vd_link *l, short events)
{
    struct pollfd p[2] = {{l->fd, events, 0}, {l->wake, POLLIN, 0}};
    if (vd_link_is_closing(l)) {
        vd_link_end(l, VD_ECANCELLED, "cancelled");
        l->over = true;
        return false;
    }
    int left = ms_left(l);
    int rc = left ? poll(p, 2, left) : 0;
    if (rc == 0)
        vd_link_end(l, VD_ETIMEOUT, "no connection with %s within %u ms", l->addr, l->cfg.handshake_ms);
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

bool vd_link_connect(struct vd_link *l)
{
    char port[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    snprintf(l->addr, sizeof l->addr, "%.60s:%u", l->host, l->port);
    snprintf(port, sizeof port, "%u", l->port);
    int rc = getaddrinfo(l->host, port, &hints, &list);
    if (rc != 0) {
        vd_link_end(l, VD_ENET, "cannot find the host %s: %s", l->host, gai_strerror(rc));
        return false;
    }
    bool ok = false;
    for (const struct addrinfo *a = list; a && !ok && !l->over; a = a->ai_next)
        ok = connect_one(l, a);
    int saved = errno;
    freeaddrinfo(list);
    if (!ok)
        vd_link_end(l, VD_ENET, "cannot connect to %s: %s", l->addr, strerror(saved));
    return ok && !l->over;
}

bool vd_link_handshake(struct vd_link *l)
{
    char theirs[64];
    struct vd_error why;
    int one = 1;
    setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (SSL_set_fd(l->ssl, l->fd) != 1) {
        vd_link_end(l, VD_ENOMEM, "cannot attach TLS to a socket");
        return false;
    }
    for (;;) {
        l->want = 0;
        ERR_clear_error();
        errno = 0;
        int rc = l->dialer ? SSL_connect(l->ssl) : SSL_accept(l->ssl);
        if (rc == 1)
            break;
        vd_link_tls_wait(l, rc);
        if (l->over || !await(l, l->want))
            return false;
    }
    enum vd_err e = vd_link_tls_check(l->ssl, l->cfg.protocol, &l->peer, theirs, &why);
    if (e != VD_OK) {
        vd_link_end(l, e, "%s: %s", l->addr, why.msg);
        if (e == VD_EVERSION && !l->dialer) { /* the peer deserves both names */
            vd_link_queue_bye(l, e, why.msg);
            vd_link_write_all(l);
        }
        return false;
    }
    if (l->pinned && !vd_pubkey_eq(&l->expect, &l->peer)) {
        char want[17], got[17];
        vd_hex_encode(want, l->expect.b, 8);
        vd_hex_encode(got, l->peer.b, 8);
        vd_link_end(l, VD_EAUTH, "%s has the key %s..., expected %s...", l->addr, got, want);
        return false;
    }
    return true;
}
