/* The inside of a link, for the files that make vd_link.h: vd_link.c is a link's life and loop,
 * vd_link_open.c how it comes to be, vd_link_dial.c and vd_link_listen.c the two ways to get one. Private to
 * them. */
#ifndef VD_LINK_IMPL_H
#define VD_LINK_IMPL_H

#include "vd_link.h"
#include "vd_link_tls.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
    VD_LINK_HEAD_BYTES = 5,
    VD_LINK_CHUNK_BYTES = 16 << 10, /* one TLS record */
    VD_LINK_ADDR_MAX = 80,
};

enum vd_link_phase { VD_LINK_HANDSHAKE, VD_LINK_GREETING, VD_LINK_OPEN, VD_LINK_ENDED };

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
    char addr[VD_LINK_ADDR_MAX];
    uint8_t origin[6]; /* of a listener's link, as both: from where it comes (vd_link_listen.c), */
    bool leaving;      /* and whether it gave way to another */
    void *user;

    pthread_mutex_t mu;
    pthread_cond_t changed;
    enum vd_link_phase phase; /* under mu for others; written by the link's thread only */
    uint8_t *queue;           /* under mu, as all to `why` */
    size_t q_at, q_n, q_cap;
    bool ready; /* on_open has returned */
    bool closing;
    uint64_t close_by_ms;
    struct vd_error why;

    uint8_t out[VD_LINK_CHUNK_BYTES]; /* the link's thread only, from here on */
    size_t out_at, out_n;
    uint8_t head[VD_LINK_HEAD_BYTES];
    size_t rx_n; /* bytes of head and body that have come */
    uint8_t *body;
    size_t body_cap;
    bool over;    /* the loop ends; why is set */
    bool refused; /* by the peer's BYE */
    uint64_t last_rx_ms, last_ping_ms, start_ms;
    short want; /* poll events that TLS waits for */
    pthread_t thread;
};

/* The config with its defaults filled in. */
struct vd_link_config vd_link_with_defaults(const struct vd_link_config *c);
void vd_link_cond_init(pthread_cond_t *c); /* on the monotonic clock */
/* A link on a connected socket, or with fd -1 one that has to dial; it takes fd over unless it fails. */
struct vd_link *vd_link_new(const struct vd_link_config *cfg, SSL_CTX *ctx, int fd, struct vd_error *err);
/* The whole life of a link, on the calling thread. True if it was open. vd_link_main is the same for
 * pthread_create. */
bool vd_link_run(struct vd_link *l);
void *vd_link_main(void *link);
void vd_link_wake(int eventfd);

/* On the link's thread: */
void vd_link_end(struct vd_link *l, enum vd_err code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void vd_link_tls_wait(struct vd_link *l, int rc); /* what a failed SSL call means: l->want, or the end */
bool vd_link_is_closing(struct vd_link *l);
void vd_link_queue_bye(struct vd_link *l, enum vd_err code,
                       const char *text);  /* under mu once others know the link */
bool vd_link_write_all(struct vd_link *l); /* true: all is written */
bool vd_link_connect(struct vd_link *l);
bool vd_link_handshake(struct vd_link *l);

#endif
