#include "vd_cmd_role.h"

#include "vd_bytes.h"
#include "vd_cmd.h"
#include "vd_cmd_net.h"
#include "vd_link.h"
#include "vd_up_ports.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

static sigset_t vd_role_signals(void)
{
    sigset_t s;
    sigemptyset(&s);
    sigaddset(&s, SIGINT);
    sigaddset(&s, SIGTERM);
    return s;
}

enum vd_err vd_cmd_role_open(struct vd_cmd_role *r, const struct vd_cli *cli, const char *name,
                             struct vd_error *err)
{
    enum vd_log_level level = VD_LOG_INFO;
    const char *level_name = vd_cli_text(cli, "log", "info");
    sigset_t signals = vd_role_signals();
    memset(r, 0, sizeof *r);
    r->name = name;
    if (!vd_log_level_parse(&level, level_name))
        return vd_error_set(err, VD_EUSE, "--log is %.32s, but must be debug, info, warn or error",
                            level_name);
    r->log = vd_log_init(STDERR_FILENO, name, level, vd_cli_has(cli, "log-json"));
    enum vd_err e = vd_home(r->home, err);
    if (e == VD_OK)
        e = vd_lock_home(&r->lock, r->home, err);
    if (e != VD_OK)
        return e;
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    vd_ports_remove(r->home);
    e = vd_cmd_load_key(&r->key, vd_cli_text(cli, "key", "role"), true, err);
    if (e != VD_OK)
        vd_lock_release(&r->lock);
    return e;
}

enum vd_err vd_cmd_role_find_home(char out[VD_PATH_MAX], const struct vd_cli *cli, const char *role,
                                  const char *mark, struct vd_error *err)
{
    char path[2 * VD_PATH_MAX];
    enum vd_err e = vd_home(out, err);
    if (e != VD_OK)
        return e;
    snprintf(path, sizeof path, "%s/%s/%s", out, role, mark);
    if (access(path, F_OK) == 0) {
        size_t n = strlen(out);
        return snprintf(out + n, VD_PATH_MAX - n, "/%s", role) < (int)(VD_PATH_MAX - n)
                   ? VD_OK
                   : vd_error_set(err, VD_ELIMIT, "the home folder's path has more than %d bytes",
                                  VD_PATH_MAX - 1);
    }
    snprintf(path, sizeof path, "%s/%s", out, mark);
    return access(path, F_OK) == 0 || vd_cli_has(cli, "home")
               ? VD_OK
               : vd_error_set(err, VD_EUSE, "no %s has its home in %.200s; --home DIR says where one has",
                              role, out);
}

static void vd_role_wait(const struct vd_cmd_role *r)
{
    sigset_t signals = vd_role_signals();
    int sig;
    while (sigwait(&signals, &sig) != 0)
        ;
    vd_log_event(&r->log, VD_LOG_INFO, "stopping", "signal=%d", sig);
}

enum vd_err vd_cmd_role_serve(const struct vd_cmd_role *r, uint16_t http, uint16_t link, struct vd_error *err)
{
    char hex[65];
    struct vd_ports p = {.pid = getpid(), .http = http, .link = link, .key = r->key.pub};
    snprintf(p.role, sizeof p.role, "%s", r->name);
    enum vd_err e = vd_ports_write(r->home, &p, err);
    if (e != VD_OK)
        return e;
    vd_hex_encode(hex, r->key.pub.b, VD_PUBKEY_BYTES);
    vd_log_event(&r->log, VD_LOG_INFO, "ready", "key=%s http=%u link=%u home=%s", hex, http, link, r->home);
    vd_role_wait(r);
    return VD_OK;
}

bool vd_cmd_role_stopped(void)
{
    sigset_t s;
    return sigpending(&s) == 0 && (sigismember(&s, SIGINT) == 1 || sigismember(&s, SIGTERM) == 1);
}

void vd_cmd_role_close(struct vd_cmd_role *r)
{
    vd_ports_remove(r->home);
    vd_key_wipe(&r->key);
    vd_lock_release(&r->lock);
}

static enum vd_err vd_cmd_add_peer(struct vd_cmd_peers *out, const char *what, const char *text,
                                   struct vd_error *err)
{
    struct vd_cmd_peer p;
    if (out->n == VD_WORKER_GATEWAYS_MAX)
        return vd_error_set(err, VD_EUSE, "more than %d values of %s", VD_WORKER_GATEWAYS_MAX, what);
    enum vd_err e = vd_cmd_parse_peer(what, text, &p, err);
    if (e != VD_OK)
        return e;
    memcpy(out->room[out->n].host, p.host, sizeof p.host);
    out->room[out->n].key = p.key;
    out->peer[out->n].host = out->room[out->n].host;
    out->peer[out->n].port = p.port;
    out->peer[out->n].key = p.pinned ? &out->room[out->n].key : NULL;
    out->n++;
    return VD_OK;
}

enum vd_err vd_cmd_read_peers(const struct vd_cli *cli, const char *name, struct vd_cmd_peers *out,
                              struct vd_error *err)
{
    char what[32], copy[2048], *save;
    const char *value;
    snprintf(what, sizeof what, "--%s", name);
    out->n = 0;
    for (int i = 0; (value = vd_cli_nth(cli, name, i)) != NULL; i++) {
        if (snprintf(copy, sizeof copy, "%s", value) >= (int)sizeof copy)
            return vd_error_set(err, VD_EUSE, "%s is too long", what);
        for (char *w = strtok_r(copy, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
            enum vd_err e = vd_cmd_add_peer(out, what, w, err);
            if (e != VD_OK)
                return e;
        }
    }
    return VD_OK;
}

enum vd_err vd_cmd_read_listen(const struct vd_cli *cli, const char *name, const char *otherwise,
                               char host[256], uint16_t *port, struct vd_error *err)
{
    struct vd_error why;
    enum vd_err e = vd_link_parse_addr(vd_cli_text(cli, name, otherwise), host, port, &why);
    return e == VD_OK ? e : vd_error_set(err, e, "--%s: %s", name, why.msg);
}
