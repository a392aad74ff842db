/* The TLS side of links: contexts from a key pair, and who the peer is. Private to vd_link.
 *
 * Thread rule: a context may be shared by threads once made. */
#ifndef VD_LINK_TLS_H
#define VD_LINK_TLS_H

#include "vd_err.h"
#include "vd_key.h"

#include <openssl/ssl.h>

/* A context for both directions; `protocol` ("veridem/1") is kept by reference. The caller frees it. */
enum vd_err vd_link_tls_ctx(SSL_CTX **out, const struct vd_keypair *key, const char *protocol,
                            struct vd_error *err);

/* After the handshake: the peer's key, and that both sides speak `protocol`.
 * VD_EVERSION: `theirs` tells the peer's version. VD_ENET: not a Veridem peer. */
enum vd_err vd_link_tls_check(SSL *ssl, const char *protocol, struct vd_pubkey *peer, char theirs[64],
                              struct vd_error *err);

/* The reason of the last TLS failure on this thread, as one line; clears the queue. */
void vd_link_tls_reason(char out[160]);

#endif
