/* vd_cheat_worker: takes the options of `veridem worker`, and --layer N. It offers the honest model by its
 * honest root, and answers with a copy of it whose layer N has weights of lower precision. Everything else is
 * the shipped worker: the receipts are well-formed and signed, and it defends them in disputes as well as it
 * can. */
#include "vd_cmd_node.h"
#include "vd_degraded.h"

#include <signal.h>

static enum vd_err cheat_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_cmd_node_kind kind = vd_cmd_worker_kind;
    kind.open = vd_degraded_open;
    return vd_cmd_node_run(&kind, cli, err);
}

static const struct vd_cli_opt cheat_opts[] = {VD_CMD_OPTS_WORKER, VD_DEGRADED_OPTS, {0}};
static const struct vd_cmd cheat_cmd = {
    .name = "worker",
    .group = "Test program",
    .usage = "",
    .summary = "a worker that lies",
    .help = "Sells answers of a degraded model as those of the honest one. For tests.",
    .opts = cheat_opts,
    .run = cheat_run,
};

int main(int argc, char **argv)
{
    static const struct vd_cmd *const list[] = {&cheat_cmd, NULL};
    signal(SIGPIPE, SIG_IGN);
    return vd_cli_run(list, argc, argv, stdout, stderr);
}
