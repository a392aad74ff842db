/* One polling thread is enough: the answers are short and made from memory. Lines are built with a printf
 * that cuts. */
#include "vd_status_http.h"
#include "vd_listen_tcp.h"

#include <inttypes.h>
#include <microhttpd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONNECTIONS_MAX = 32, TIMEOUT_S = 10 };

struct vd_status_http {
    struct vd_status_http_config cfg;
    struct MHD_Daemon *daemon;
    uint16_t port;
};

static void put(struct vd_metrics *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(struct vd_metrics *m, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(m->p + m->n, m->cap - m->n, fmt, ap);
    va_end(ap);
    if (n > 0 && (size_t)n < m->cap - m->n)
        m->n += (size_t)n;
    else
        m->p[m->n] = 0; /* a line that does not fit is left out */
}

void vd_metrics_put(struct vd_metrics *m, const char *name, const char *type, const char *help,
                    uint64_t value)
{
    put(m, "# HELP veridem_%s %s\n# TYPE veridem_%s %s\nveridem_%s %" PRIu64 "\n", name, help, name, type,
        name, value);
}

void vd_metrics_put_label(struct vd_metrics *m, const char *name, const char *label, const char *label_value,
                          uint64_t value)
{
    put(m, "veridem_%s{%s=\"%s\"} %" PRIu64 "\n", name, label, label_value, value);
}

static enum MHD_Result reply(struct MHD_Connection *c, unsigned status, const char *type, char *text,
                             size_t n)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(n, text, MHD_RESPMEM_MUST_COPY);
    if (!r)
        return MHD_NO;
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    enum MHD_Result ok = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return ok;
}

static enum MHD_Result reply_metrics(struct vd_status_http *s, struct MHD_Connection *c)
{
    struct vd_metrics m = {malloc(VD_METRICS_MAX_BYTES), 0, VD_METRICS_MAX_BYTES};
    if (!m.p)
        return MHD_NO;
    m.p[0] = 0;
    s->cfg.metrics(s->cfg.arg, &m);
    enum MHD_Result ok = reply(c, MHD_HTTP_OK, "text/plain; version=0.0.4", m.p, m.n);
    free(m.p);
    return ok;
}

static enum MHD_Result reply_health(struct vd_status_http *s, struct MHD_Connection *c)
{
    char text[256] = "", json[320];
    bool ok = s->cfg.health(s->cfg.arg, text);
    for (char *t = text; *t; t++) {
        if (*t == '"' || *t == '\\' || (unsigned char)*t < 0x20)
            *t = '\'';
    }
    int n =
        snprintf(json, sizeof json, "{\"status\":\"%s\",\"detail\":\"%s\"}\n", ok ? "ok" : "unhealthy", text);
    return reply(c, ok ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, "application/json", json, (size_t)n);
}

static enum MHD_Result handle(void *cls, struct MHD_Connection *c, const char *url, const char *method,
                              const char *version, const char *upload, size_t *upload_n, void **state)
{
    static char not_found[] = "only GET /health and GET /metrics are here\n";
    (void)version;
    (void)upload;
    if (!*state) { /* the headers; answer when the whole request is there */
        *state = cls;
        return MHD_YES;
    }
    *upload_n = 0; /* a body is dropped */
    bool get = strcmp(method, "GET") == 0;
    if (get && strcmp(url, "/metrics") == 0)
        return reply_metrics(cls, c);
    if (get && strcmp(url, "/health") == 0)
        return reply_health(cls, c);
    return reply(c, MHD_HTTP_NOT_FOUND, "text/plain", not_found, sizeof not_found - 1);
}

enum vd_err vd_status_http_start(struct vd_status_http **out, const struct vd_status_http_config *config,
                                 struct vd_error *err)
{
    struct vd_status_http *s = calloc(1, sizeof *s);
    int fd = -1;
    if (!s)
        return vd_error_set(err, VD_ENOMEM, "no memory for a status server");
    s->cfg = *config;
    enum vd_err e = vd_listen_tcp(&fd, &s->port, config->host, config->port, err);
    if (e != VD_OK) {
        free(s);
        return e;
    }
    s->daemon =
        MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL, s->port, NULL, NULL, handle, s,
                         MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
                         MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)TIMEOUT_S, MHD_OPTION_END);
    if (!s->daemon) {
        free(s);
        return vd_error_set(err, VD_EAGAIN, "cannot start the status server on port %u", config->port);
    }
    *out = s;
    return VD_OK;
}

uint16_t vd_status_http_port(const struct vd_status_http *s)
{
    return s->port;
}

void vd_status_http_stop(struct vd_status_http *s)
{
    if (!s)
        return;
    MHD_stop_daemon(s->daemon);
    free(s);
}
