/* A small HTTP server for operators: GET /health and GET /metrics (Prometheus text format 0.0.4), one thread.
 * Every role but the gateway, which serves both on its own port, uses this one. Bind it to the loopback: it
 * asks for no key.
 *
 * Thread rule: the callbacks come from the server's thread and fill in a text; both must be quick. */
#ifndef VD_STATUS_HTTP_H
#define VD_STATUS_HTTP_H

#include "vd_err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { VD_METRICS_MAX_BYTES = 64 << 10 };

/* A text that is cut, and stays NUL-terminated, when it is full. */
struct vd_metrics {
    char *p;
    size_t n, cap;
};

/* One value with its help and type lines; `type` is "counter" or "gauge", `name` without the "veridem_"
 * prefix. */
void vd_metrics_put(struct vd_metrics *m, const char *name, const char *type, const char *help,
                    uint64_t value);
/* One more value of the same name, with a label. */
void vd_metrics_put_label(struct vd_metrics *m, const char *name, const char *label, const char *label_value,
                          uint64_t value);

struct vd_status_http_config {
    const char *host;
    uint16_t port; /* 0: the system chooses */
    void *arg;
    /* True: healthy (200), false: not (503). `text` is one line, JSON is made around it. */
    bool (*health)(void *arg, char text[256]);
    void (*metrics)(void *arg, struct vd_metrics *m);
};

struct vd_status_http;

/* VD_EBUSY names a port that is in use. */
enum vd_err vd_status_http_start(struct vd_status_http **out, const struct vd_status_http_config *config,
                                 struct vd_error *err);
uint16_t vd_status_http_port(const struct vd_status_http *s);
void vd_status_http_stop(struct vd_status_http *s); /* NULL is allowed */

#endif
