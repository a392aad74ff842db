/* libmicrohttpd could bind by itself, but would not say why it failed. */
#include "vd_listen_tcp.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 128 };

static uint16_t port_of(int fd)
{
    struct sockaddr_storage sa;
    socklen_t n = sizeof sa;
    if (getsockname(fd, (struct sockaddr *)&sa, &n) != 0)
        return 0;
    return ntohs(sa.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&sa)->sin6_port
                                          : ((struct sockaddr_in *)&sa)->sin_port);
}

enum vd_err vd_listen_tcp(int *fd, uint16_t *bound_port, const char *host, uint16_t port,
                          struct vd_error *err)
{
    char service[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *a = NULL;
    snprintf(service, sizeof service, "%u", port);
    int rc = getaddrinfo(host, service, &hints, &a), one = 1;
    if (rc != 0)
        return vd_error_set(err, VD_ENET, "cannot listen on the address %s: %s", host, gai_strerror(rc));
    int s = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bool ok = s >= 0 && setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 &&
              bind(s, a->ai_addr, a->ai_addrlen) == 0 && listen(s, BACKLOG) == 0;
    int saved = errno;
    freeaddrinfo(a);
    if (ok) {
        *fd = s;
        *bound_port = port_of(s);
        return VD_OK;
    }
    if (s >= 0)
        close(s);
    if (saved == EADDRINUSE)
        return vd_error_set(err, VD_EBUSY,
                            "port %u on %s is in use: stop the program that holds it, or choose another port",
                            port, host);
    return vd_error_set(err, VD_ENET, "cannot listen on %s port %u: %s", host, port, strerror(saved));
}
