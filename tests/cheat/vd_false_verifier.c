/* vd_false_verifier: takes the options of `veridem verifier`, and --layer N. It replays with a model whose
 * layer N has weights of lower precision and claims the honest root, so every honest receipt differs from its
 * replay: it challenges honest workers, sincerely and wrongly. Everything else is the shipped verifier. */
#include "vd_cmd_node.h"
#include "vd_degraded.h"

#include <signal.h>

static enum vd_err false_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_cmd_node_kind kind = vd_cmd_verifier_kind;
    kind.open = vd_degraded_open;
    return vd_cmd_node_run(&kind, cli, err);
}

static const struct vd_cli_opt false_opts[] = {VD_CMD_OPTS_VERIFIER, VD_DEGRADED_OPTS, {0}};
static const struct vd_cmd false_cmd = {
    .name = "verifier",
    .group = "Test program",
    .usage = "",
    .summary = "a verifier that is wrong",
    .help = "Challenges honest receipts, because its own model is a degraded one. For tests.",
    .opts = false_opts,
    .run = false_run,
};

int main(int argc, char **argv)
{
    static const struct vd_cmd *const list[] = {&false_cmd, NULL};
    signal(SIGPIPE, SIG_IGN);
    return vd_cli_run(list, argc, argv, stdout, stderr);
}
