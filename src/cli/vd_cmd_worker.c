/* veridem worker: sells this machine's time. */
#include "vd_cmd.h"
#include "vd_cmd_node.h"

static enum vd_err vd_worker_prices(struct vd_worker_model *m, const struct vd_cli *cli, struct vd_error *err)
{
    uint64_t kv_mib = 0;
    *m = (struct vd_worker_model){.price_in = {10}, .price_out = {20}, .capacity = 8};
    enum vd_err e = vd_cli_u64(cli, "price-in", 0, VD_PRICE_MAX_MICRO, &m->price_in.micro, err);
    if (e == VD_OK)
        e = vd_cli_u64(cli, "price-out", 0, VD_PRICE_MAX_MICRO, &m->price_out.micro, err);
    if (e == VD_OK)
        e = vd_cli_u64(cli, "kv-mib", 1, 1 << 20, &kv_mib, err);
    if (e == VD_OK)
        e = vd_cli_u32(cli, "capacity", 1, VD_WORKER_JOBS_MAX, &m->capacity, err);
    m->max_kv_bytes = (size_t)kv_mib << 20;
    return e;
}

static enum vd_err vd_worker_begin(void **it, struct vd_cmd_node *n, const struct vd_cli *cli,
                                   struct vd_error *err)
{
    struct vd_worker *w = NULL;
    struct vd_worker_model model[VD_CMD_NODE_MODELS], same;
    struct vd_worker_config config = {.key = &n->role.key,
                                      .home = n->role.home,
                                      .ledger = n->ledger,
                                      .gateway = n->gateways.peer,
                                      .n_gateways = n->gateways.n,
                                      .model = model,
                                      .n_models = n->n_models,
                                      .stake = n->stake,
                                      .log = &n->role.log,
                                      .stopped = vd_cmd_role_stopped};
    enum vd_err e = vd_worker_prices(&same, cli, err);
    for (size_t i = 0; e == VD_OK && i < n->n_models; i++) {
        struct vd_cmd_engine *g = &n->engine[i];
        e = vd_cmd_guess_open(g, cli, err);
        model[i] = same;
        model[i].model = g->model;
        model[i].pool = g->pool;
        model[i].root = n->root[i];
        model[i].lookup = g->lookup;
        model[i].draft = g->draft;
    }
    if (e == VD_OK)
        e = vd_worker_start(&w, &config, err);
    *it = w;
    return e;
}

static void vd_worker_end(void *it)
{
    vd_worker_stop(it);
}

const struct vd_cmd_node_kind vd_cmd_worker_kind = {.role = "worker",
                                                    .open = vd_cmd_node_open,
                                                    .start = vd_worker_begin,
                                                    .stop = vd_worker_end,
                                                    .health = vd_worker_health,
                                                    .metrics = vd_worker_metrics};

static enum vd_err vd_worker_run(struct vd_cli *cli, struct vd_error *err)
{
    return vd_cmd_node_run(&vd_cmd_worker_kind, cli, err);
}

static const struct vd_cli_opt vd_worker_opts[] = {VD_CMD_OPTS_WORKER, {0}};
const struct vd_cmd vd_cmd_worker = {
    .name = "worker",
    .group = "Roles",
    .usage = "",
    .summary = "run jobs for gateways and be paid",
    .help =
        "Connects outward to the ledger and the gateways, so it runs behind any home router. At the start it "
        "registers its\n"
        "models, raises its stake and posts its offers, if the ledger does not show them yet; its account\n"
        "needs the credits for the stake. Kept under --home: the key, and every job until its audit window "
        "is over.\n\n"
        "    veridem worker --ledger KEY@host:7400 --gateway KEY@host:7401 --model SmolLM2",
    .opts = vd_worker_opts,
    .run = vd_worker_run,
};
