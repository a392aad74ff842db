/* <home>/ports.json: where a role can be reached, written when it is ready, for scripts and for `veridem up`.
 *
 *     {"pid": 4711, "role": "gateway", "http": 8080, "link": 7401, "key": "hex of the public key"}
 *
 * A port that the role does not have is absent. The file is removed when the role stops in order; one that is
 * left over names a process that is gone. Thread rule: any thread. */
#ifndef VD_UP_PORTS_H
#define VD_UP_PORTS_H

#include "vd_err.h"
#include "vd_key.h"

#include <stdint.h>

struct vd_ports {
    int64_t pid;
    char role[16];
    uint16_t http, link; /* 0: none */
    struct vd_pubkey key;
};

enum vd_err vd_ports_write(const char *home, const struct vd_ports *p, struct vd_error *err);
/* VD_ENOTFOUND: there is none. VD_EFORMAT: it is not what vd_ports_write writes. */
enum vd_err vd_ports_read(const char *home, struct vd_ports *p, struct vd_error *err);
void vd_ports_remove(const char *home);

#endif
