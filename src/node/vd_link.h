/* Links: encrypted, mutually authenticated, versioned connections between roles, over TCP.
 *
 * TLS 1.3 (RFC 8446) with a self-signed Ed25519 certificate that is made in memory from the role's ledger
 * key: the key in the peer's certificate IS its identity. The dialer pins the key it expects when it knows
 * one; the listener learns who came by vd_link_peer. ALPN carries the protocol's version, VD_LINK_PROTOCOL;
 * another version is refused with an error that names both. On top run frames: u32 body length (LE), u8 type,
 * body (vd_wire.h). docs/spec/wire.md.
 *
 * Threads: each link has one thread of its own that does all its I/O and calls the callbacks, one at a time,
 * in the order on_open, on_frame*, on_close. on_close comes exactly once for each on_open, and only then. A
 * callback may call vd_link_send and vd_link_close on any link, and may block, which holds up this link's
 * reading, but not its peers'. vd_link_send and vd_link_close may be called from any thread.
 *
 * Ownership: a link is reference-counted. A pointer got in a callback is good until on_close returns; who
 * keeps it longer takes a reference by vd_link_ref and gives it back by vd_link_unref. Sending on a closed
 * link is VD_ENET, never a crash. */
#ifndef VD_LINK_H
#define VD_LINK_H

#include "vd_bytes.h"
#include "vd_err.h"
#include "vd_key.h"

#define VD_LINK_PROTOCOL "veridem/1"

enum {
    VD_LINK_BODY_MAX = 1 << 20,
    VD_LINK_QUEUE_MAX = 8 << 20,    /* bytes waiting to be sent on one link */
    VD_LINK_HANDSHAKE_MS = 10000,   /* connect and handshake together */
    VD_LINK_PING_MS = 5000,         /* so long nothing came: ask */
    VD_LINK_DEAD_MS = 20000,        /* so long nothing came: the link is dead */
    VD_LINK_CLOSE_MS = 2000,        /* to send what is queued and say good-bye */
    VD_LINK_BACKOFF_FIRST_MS = 100, /* a dialer's first pause; it doubles, with jitter */
    VD_LINK_BACKOFF_MAX_MS = 10000,
    VD_LINK_LISTEN_LINKS_MAX = 256,
};

struct vd_link;
struct vd_link_listener;
struct vd_link_dialer;

struct vd_link_callbacks {
    void *arg;
    /* The handshake is done. May be NULL. */
    void (*on_open)(void *arg, struct vd_link *link);
    /* A frame; body is valid during the call. */
    void (*on_frame)(void *arg, struct vd_link *link, unsigned type, struct vd_bytes body);
    /* The link ended: VD_OK in why->code when the peer or we closed it in order. May be NULL. */
    void (*on_close)(void *arg, struct vd_link *link, const struct vd_error *why);
    /* Listener and dialer only: an attempt that did not become a link. May be NULL. */
    void (*on_fail)(void *arg, const struct vd_error *why);
};

struct vd_link_config {
    const struct vd_keypair *key; /* ours; copied */
    struct vd_link_callbacks cb;
    /* 0: the default above. Tests use shorter ones. */
    uint32_t handshake_ms, ping_ms, dead_ms;
    uint32_t queue_max_bytes, links_max;
    const char *protocol; /* NULL: VD_LINK_PROTOCOL; tests pretend to be of another version */
};

/* Connects once, waits for the handshake, and starts the link's thread. `expect` may be NULL: any peer. The
 * caller holds a reference to *out. on_open runs before this returns. VD_ENET (cannot connect, not a Veridem
 * peer), VD_ETIMEOUT, VD_EAUTH (another key), VD_EVERSION. */
enum vd_err vd_link_dial(struct vd_link **out, const struct vd_link_config *config, const char *host,
                         uint16_t port, const struct vd_pubkey *expect, struct vd_error *err);

/* Queues a frame. VD_EAGAIN: the queue is full (a peer that does not read); VD_ENET: closed; VD_ELIMIT: too
 * long. */
enum vd_err vd_link_send(struct vd_link *link, unsigned type, const void *body, size_t n_bytes,
                         struct vd_error *err);
/* Sends what is queued, then ends the link; the peer is told code and text when code is not VD_OK. Does not
 * wait. */
void vd_link_close(struct vd_link *link, enum vd_err code, const char *text);
/* vd_link_close, waits until on_close has returned, and gives the caller's reference back. Not from the
 * link's own callbacks. NULL is allowed. */
void vd_link_finish(struct vd_link *link);

struct vd_link *vd_link_ref(struct vd_link *link); /* returns link */
void vd_link_unref(struct vd_link *link);

const struct vd_pubkey *vd_link_peer(const struct vd_link *link);
const char *vd_link_peer_addr(const struct vd_link *link); /* "127.0.0.1:4711", for logs */
/* A pointer of the owner's for this link, NULL at first; set it in on_open. */
void vd_link_set_user(struct vd_link *link, void *user);
void *vd_link_user(const struct vd_link *link);

/* Accepts links on host:port (port 0: the system chooses). VD_EBUSY names a port that is in use. */
enum vd_err vd_link_listen(struct vd_link_listener **out, const struct vd_link_config *config,
                           const char *host, uint16_t port, struct vd_error *err);
uint16_t vd_link_listener_port(const struct vd_link_listener *l);
/* Stops accepting, closes every link in order, waits for their on_close, frees. NULL is allowed. */
void vd_link_listener_stop(struct vd_link_listener *l);

/* Keeps one link up: dials, and dials again with jittered back-off when it fails or ends, until stopped. A
 * new link's on_open may thus come many times. VD_ENOMEM, VD_EAGAIN only; that nobody answers yet is no error
 * (on_fail). */
enum vd_err vd_link_dialer_start(struct vd_link_dialer **out, const struct vd_link_config *config,
                                 const char *host, uint16_t port, const struct vd_pubkey *expect,
                                 struct vd_error *err);
/* Closes the link in order, waits for its on_close, frees. NULL is allowed. */
void vd_link_dialer_stop(struct vd_link_dialer *d);

/* The pause before attempt number `attempt` (0, 1, ...): exponential, capped, times a factor in [0.5, 1) from
 * `jitter`. */
uint32_t vd_link_backoff_ms(unsigned attempt, uint64_t jitter);

/* "host:port" or "[v6]:port" -> its parts. VD_EUSE names the text. */
enum vd_err vd_link_parse_addr(const char *text, char host[256], uint16_t *port, struct vd_error *err);

#endif
