/* vd_false_verifier: takes the options of `veridem verifier`, and --layer N. It replays with a model whose
 * layer N has weights of lower precision and claims the honest root, so every honest receipt differs from its
 * replay: it challenges honest workers, sincerely and wrongly. Everything else is the shipped verifier. */
#include "vd_cmd_load.h"
#include "vd_cmd_net.h"
#include "vd_cmd_role.h"
#include "vd_degraded.h"
#include "vd_verifier.h"

#include <signal.h>

struct false_verifier {
    struct vd_cmd_role role;
    struct vd_cmd_peer ledger;
    struct vd_cmd_peers gateways;
    struct vd_cmd_engine used;
    struct vd_verifier_model model;
};

static enum vd_err open_models(struct false_verifier *c, const struct vd_cli *cli, struct vd_error *err)
{
    enum vd_err e = vd_degraded_open(&c->used, &c->model.root, cli, c->role.home, err);
    c->model.model = c->used.model;
    c->model.pool = c->used.pool;
    return e;
}

static enum vd_err serve(struct false_verifier *c, const struct vd_cli *cli, struct vd_error *err)
{
    struct vd_verifier *v = NULL;
    struct vd_verifier_config config = {
        .key = &c->role.key,
        .home = c->role.home,
        .ledger = {c->ledger.host, c->ledger.port, c->ledger.pinned ? &c->ledger.key : NULL},
        .gateway = c->gateways.peer,
        .n_gateways = c->gateways.n,
        .model = &c->model,
        .n_models = 1,
        .audit_rate_ppm = UINT32_MAX,
        .log = &c->role.log};
    enum vd_err e = vd_verifier_start(&v, &config, err);
    if (e == VD_OK)
        e = vd_cmd_role_ready(&c->role, cli, 0, 0, err);
    if (e == VD_OK)
        vd_cmd_role_wait(&c->role);
    vd_verifier_stop(v);
    return e;
}

static enum vd_err false_run(struct vd_cli *cli, struct vd_error *err)
{
    static struct false_verifier c;
    enum vd_err e = vd_cmd_role_open(&c.role, cli, "verifier", err);
    if (e != VD_OK)
        return e;
    e = vd_cmd_ledger_peer(cli, &c.ledger, err);
    if (e == VD_OK)
        e = vd_cmd_read_peers(cli, "gateway", &c.gateways, err);
    if (e == VD_OK)
        e = open_models(&c, cli, err);
    if (e == VD_OK)
        e = serve(&c, cli, err);
    vd_cmd_engine_close(&c.used);
    vd_cmd_role_close(&c.role);
    return e;
}

static const struct vd_cli_opt false_opts[] = {
    VD_CMD_OPTS_LEDGER,
    {"gateway", 'g', "ADDR[,ADDR]", "gateways that hold the data", true},
    {"model", 'm', "MODEL", "the model whose root is claimed", false},
    {"layer", 0, "N", "the layer of lower precision (default 17)", false},
    {"tamper", 0, "SEED", "or a tensor, and what is done to it, drawn from a seed", false},
    VD_CMD_OPTS_COMPUTE,
    VD_CMD_OPTS_ROLE,
    {0},
};
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
