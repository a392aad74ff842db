/* veridem up: a whole network at home. */
#include "vd_cmd.h"
#include "vd_cmd_load.h"
#include "vd_cmd_role.h"
#include "vd_up.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The first of `veridem model list`. */
static enum vd_err vd_up_first_model(char out[VD_PATH_MAX], struct vd_error *err)
{
    char dir[2][VD_PATH_MAX];
    struct vd_cmd_models m;
    enum vd_err e = vd_cmd_models_dirs(dir, err);
    if (e == VD_OK)
        e = vd_cmd_models_list(&m, err);
    if (e != VD_OK)
        return e;
    if (m.n)
        memcpy(out, m.path[0], strlen(m.path[0]) + 1);
    else
        e = vd_error_set(err, VD_ENOTFOUND,
                         "there is no model in %.150s%s%.150s; scripts/fetch-model (or `make demo`) puts one "
                         "there, or name a GGUF file: veridem up MODEL",
                         dir[0], dir[1][0] ? " or " : "", dir[1]);
    vd_cmd_models_free(&m);
    return e;
}

static enum vd_err vd_up_cmd_run(struct vd_cli *cli, struct vd_error *err)
{
    char home[VD_PATH_MAX], name[VD_PATH_MAX], model[PATH_MAX], self[PATH_MAX], host[256];
    uint16_t port;
    struct vd_up_config c = {
        .home = home, .model = model, .program = self, .json = cli->json, .out = cli->out};
    c.http = vd_cli_text(cli, "http", "127.0.0.1:8080");
    enum vd_err e = vd_cmd_read_listen(cli, "http", "127.0.0.1:8080", host, &port, err);
    if (e == VD_OK)
        e = vd_cli_u32(cli, "threads", 1, VD_POOL_THREADS_MAX, &c.threads, err);
    if (e == VD_OK)
        e = vd_home(home, err);
    if (e == VD_OK)
        e = cli->n_args ? vd_cmd_model_path(name, cli->arg[0], err) : vd_up_first_model(name, err);
    if (e != VD_OK)
        return e;
    if (!realpath(name, model))
        return vd_error_set(err, VD_ENOTFOUND, "%.300s: %s", name, strerror(errno));
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0)
        return vd_error_set(err, VD_EIO, "/proc/self/exe, to find the program: %s", strerror(errno));
    self[n] = 0;
    return vd_up_run(&c, err);
}

static const struct vd_cli_opt vd_up_opts[] = {
    {"http", 0, "HOST:PORT", "where clients ask (default 127.0.0.1:8080; port 0: any)", false},
    {"threads", 't', "N", "threads of the worker (default: one per CPU)", false},
    {0},
};
const struct vd_cmd vd_cmd_up = {
    .name = "up",
    .group = "Roles",
    .usage = "[MODEL]",
    .summary = "a whole network at home, in one go",
    .help = "Starts ledger, gateway, worker and verifier for MODEL (default: the first of "
            "`veridem model list`) and prints where\n"
            "to point an OpenAI client. The first start makes keys, a network of its own and an API key; "
            "later starts go on\n"
            "with them. Ctrl-C stops everything in order, and so does the end of any role. What the roles "
            "say is in $VERIDEM_HOME/log.",
    .opts = vd_up_opts,
    .max_args = 1,
    .run = vd_up_cmd_run,
};
