/* A listening TCP socket, with errors that name the port. Links and the HTTP servers of this folder use it.
 *
 * Thread rule: a function of its arguments. */
#ifndef VD_LISTEN_TCP_H
#define VD_LISTEN_TCP_H

#include "vd_err.h"

#include <stdint.h>

/* A bound, listening, non-blocking socket in *fd, and the port it got. VD_EBUSY: in use; VD_ENET. */
enum vd_err vd_listen_tcp(int *fd, uint16_t *bound_port, const char *host, uint16_t port,
                          struct vd_error *err);

#endif
