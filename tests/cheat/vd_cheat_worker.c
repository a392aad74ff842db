/* vd_cheat_worker: takes the options of `veridem worker`, and --layer N. It offers the honest model by its
 * honest root, and answers with a copy of it whose layer N has weights of lower precision. Everything else is
 * the shipped worker: the receipts are well-formed and signed, and it defends them in disputes as well as it
 * can. */
#include "vd_cmd_load.h"
#include "vd_cmd_net.h"
#include "vd_cmd_role.h"
#include "vd_degraded.h"
#include "vd_worker.h"

#include <signal.h>

struct cheat {
    struct vd_cmd_role role;
    struct vd_cmd_peer ledger;
    struct vd_cmd_peers gateways;
    struct vd_cmd_engine served;
    struct vd_worker_model model;
    struct vd_amount stake;
};

static enum vd_err open_models(struct cheat *c, const struct vd_cli *cli, struct vd_error *err)
{
    enum vd_err e = vd_degraded_open(&c->served, &c->model.root, cli, c->role.home, err);
    c->model.model = c->served.model;
    c->model.pool = c->served.pool;
    return e;
}

static enum vd_err read_options(struct cheat *c, const struct vd_cli *cli, struct vd_error *err)
{
    c->model.price_in.micro = 10;
    c->model.price_out.micro = 20;
    c->model.capacity = 8;
    enum vd_err e = vd_cli_u64(cli, "price-in", 0, VD_PRICE_MAX_MICRO, &c->model.price_in.micro, err);
    if (e == VD_OK)
        e = vd_cli_u64(cli, "price-out", 0, VD_PRICE_MAX_MICRO, &c->model.price_out.micro, err);
    if (e == VD_OK)
        e = vd_cli_micro(cli, "stake", VD_AMOUNT_MAX_MICRO, &c->stake.micro, err);
    if (e == VD_OK)
        e = vd_cmd_ledger_peer(cli, &c->ledger, err);
    return e == VD_OK ? vd_cmd_read_peers(cli, "gateway", &c->gateways, err) : e;
}

static enum vd_err serve(struct cheat *c, const struct vd_cli *cli, struct vd_error *err)
{
    struct vd_worker *w = NULL;
    struct vd_worker_config config = {
        .key = &c->role.key,
        .home = c->role.home,
        .ledger = {c->ledger.host, c->ledger.port, c->ledger.pinned ? &c->ledger.key : NULL},
        .gateway = c->gateways.peer,
        .n_gateways = c->gateways.n,
        .model = &c->model,
        .n_models = 1,
        .stake = c->stake,
        .log = &c->role.log};
    enum vd_err e = vd_worker_start(&w, &config, err);
    if (e == VD_OK)
        e = vd_cmd_role_ready(&c->role, cli, 0, 0, err);
    if (e == VD_OK)
        vd_cmd_role_wait(&c->role);
    vd_worker_stop(w);
    return e;
}

static enum vd_err cheat_run(struct vd_cli *cli, struct vd_error *err)
{
    static struct cheat c;
    enum vd_err e = vd_cmd_role_open(&c.role, cli, "worker", err);
    if (e != VD_OK)
        return e;
    e = read_options(&c, cli, err);
    if (e == VD_OK)
        e = open_models(&c, cli, err);
    if (e == VD_OK)
        e = serve(&c, cli, err);
    vd_cmd_engine_close(&c.served);
    vd_cmd_role_close(&c.role);
    return e;
}

static const struct vd_cli_opt cheat_opts[] = {
    VD_CMD_OPTS_LEDGER,
    {"gateway", 'g', "ADDR[,ADDR]", "gateways to cheat", true},
    {"model", 'm', "MODEL", "the model whose root is claimed", false},
    {"layer", 0, "N", "the layer of lower precision (default 17)", false},
    {"tamper", 0, "SEED", "or a tensor, and what is done to it, drawn from a seed", false},
    {"price-in", 0, "N", "micro-credits per prompt token", false},
    {"price-out", 0, "N", "micro-credits per output token", false},
    {"stake", 0, "CREDITS", "what will be lost", false},
    VD_CMD_OPTS_COMPUTE,
    VD_CMD_OPTS_ROLE,
    {0},
};
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
