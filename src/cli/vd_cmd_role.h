/* What every role's command does: take its home, its key and its log, say when it is ready, wait for the end.
 */
#ifndef VD_CMD_ROLE_H
#define VD_CMD_ROLE_H

#include "vd_cli.h"
#include "vd_file.h"
#include "vd_key.h"
#include "vd_log.h"
#include "vd_worker.h"

/* For the table of options of every role. */
#define VD_CMD_OPTS_ROLE                                                                                     \
    {"key", 'k', "NAME|FILE", "this role's key (default \"role\", made on the first start)", false},         \
        {"log", 0, "LEVEL", "debug, info, warn or error (default info)", false},                             \
    {                                                                                                        \
        "log-json", 0, NULL, "log as JSON lines", false                                                      \
    }

struct vd_cmd_role {
    const char *name;
    char home[VD_PATH_MAX];
    struct vd_lock lock;
    struct vd_keypair key;
    struct vd_log log;
};

/* Call before any thread starts: it blocks the signals that end a role. VD_EBUSY: the home is taken. */
enum vd_err vd_cmd_role_open(struct vd_cmd_role *r, const struct vd_cli *cli, const char *name,
                             struct vd_error *err);
/* The home of the `role` that a command without a running role is about: the folder that `veridem up` keeps
 * for the role in the home folder, if that holds `mark`, a path that this role makes; else the home folder
 * itself, if it does, or --home named it; else VD_EUSE. */
enum vd_err vd_cmd_role_find_home(char out[VD_PATH_MAX], const struct vd_cli *cli, const char *role,
                                  const char *mark, struct vd_error *err);

/* Writes ports.json (http, link: 0 for none), says in the log that the role is ready, and returns when SIGINT
 * or SIGTERM came. */
enum vd_err vd_cmd_role_serve(const struct vd_cmd_role *r, uint16_t http, uint16_t link,
                              struct vd_error *err);
/* Has one of them come, that vd_cmd_role_serve will take? For starts that wait. */
bool vd_cmd_role_stopped(void);
void vd_cmd_role_close(struct vd_cmd_role *r);

/* Peers from a repeatable option whose values may also be lists with commas. The hosts and keys lie in *room.
 */
struct vd_cmd_peers {
    size_t n;
    struct vd_worker_peer peer[VD_WORKER_GATEWAYS_MAX];
    struct {
        char host[256];
        struct vd_pubkey key;
    } room[VD_WORKER_GATEWAYS_MAX];
};
enum vd_err vd_cmd_read_peers(const struct vd_cli *cli, const char *name, struct vd_cmd_peers *out,
                              struct vd_error *err);

/* HOST:PORT of an option, or `otherwise`; port 0 is allowed. */
enum vd_err vd_cmd_read_listen(const struct vd_cli *cli, const char *name, const char *otherwise,
                               char host[256], uint16_t *port, struct vd_error *err);

#endif
