/* veridem worker: sells this machine's time. */
#include "vd_cmd.h"
#include "vd_cmd_load.h"
#include "vd_cmd_net.h"
#include "vd_cmd_role.h"
#include "vd_status_http.h"
#include "vd_worker.h"

#include <stdlib.h>

enum { VD_WORKER_CMD_MODELS = 8 };

struct vd_worker_cmd {
    struct vd_cmd_role role;
    struct vd_cmd_peer ledger;
    struct vd_cmd_peers gateways;
    size_t n_models;
    struct vd_cmd_engine engine[VD_WORKER_CMD_MODELS];
    struct vd_worker_model model[VD_WORKER_CMD_MODELS];
    struct vd_amount stake;
    char status_host[256];
    uint16_t status_port;
};

static enum vd_err vd_worker_read(struct vd_worker_cmd *c, const struct vd_cli *cli, struct vd_error *err)
{
    uint64_t price_in = 10, price_out = 20, kv_mib = 0;
    uint32_t capacity = 8;
    const char *name;
    enum vd_err e = vd_cli_u64(cli, "price-in", 0, VD_PRICE_MAX_MICRO, &price_in, err);
    if (e == VD_OK)
        e = vd_cli_u64(cli, "price-out", 0, VD_PRICE_MAX_MICRO, &price_out, err);
    if (e == VD_OK)
        e = vd_cli_u64(cli, "kv-mib", 1, 1 << 20, &kv_mib, err);
    if (e == VD_OK)
        e = vd_cli_u32(cli, "capacity", 1, VD_WORKER_JOBS_MAX, &capacity, err);
    if (e == VD_OK)
        e = vd_cli_micro(cli, "stake", VD_AMOUNT_MAX_MICRO, &c->stake.micro, err);
    if (e == VD_OK)
        e = vd_cmd_read_listen(cli, "status", "127.0.0.1:0", c->status_host, &c->status_port, err);
    if (e == VD_OK)
        e = vd_cmd_ledger_peer(cli, &c->ledger, err);
    if (e == VD_OK)
        e = vd_cmd_read_peers(cli, "gateway", &c->gateways, err);
    if (e == VD_OK && !c->gateways.n)
        e = vd_error_set(err, VD_EUSE, "which gateway? Say --gateway host:port");
    for (int i = 0; e == VD_OK && (name = vd_cli_nth(cli, "model", i)) != NULL; i++) {
        if (i == VD_WORKER_CMD_MODELS)
            return vd_error_set(err, VD_EUSE, "more than %d models", VD_WORKER_CMD_MODELS);
        e = vd_cmd_engine_open(&c->engine[i], cli, name, err);
        if (e == VD_OK)
            e = vd_cmd_guess_open(&c->engine[i], cli, err);
        if (e != VD_OK)
            break;
        struct vd_worker_model *m = &c->model[c->n_models++];
        *m = (struct vd_worker_model){.model = c->engine[i].model,
                                      .pool = c->engine[i].pool,
                                      .price_in = {price_in},
                                      .price_out = {price_out},
                                      .capacity = capacity,
                                      .max_kv_bytes = (size_t)kv_mib << 20,
                                      .lookup = c->engine[i].lookup,
                                      .draft = c->engine[i].draft};
        e = vd_model_root(m->model, m->pool, &m->root, err);
    }
    if (e == VD_OK && !c->n_models)
        e = vd_error_set(err, VD_EUSE, "which model? Say --model MODEL");
    return e;
}

static enum vd_err vd_worker_serve(struct vd_worker_cmd *c, const struct vd_cli *cli, struct vd_error *err)
{
    struct vd_worker *w = NULL;
    struct vd_status_http *status = NULL;
    struct vd_worker_config config = {
        .key = &c->role.key,
        .home = c->role.home,
        .ledger = {c->ledger.host, c->ledger.port, c->ledger.pinned ? &c->ledger.key : NULL},
        .gateway = c->gateways.peer,
        .n_gateways = c->gateways.n,
        .model = c->model,
        .n_models = c->n_models,
        .stake = c->stake,
        .log = &c->role.log,
        .stopped = vd_cmd_role_stopped};
    enum vd_err e = vd_worker_start(&w, &config, err);
    struct vd_status_http_config sc = {.host = c->status_host,
                                       .port = c->status_port,
                                       .arg = w,
                                       .health = vd_worker_health,
                                       .metrics = vd_worker_metrics};
    if (e == VD_OK)
        e = vd_status_http_start(&status, &sc, err);
    if (e == VD_OK)
        e = vd_cmd_role_ready(&c->role, cli, vd_status_http_port(status), 0, err);
    if (e == VD_OK)
        vd_cmd_role_wait(&c->role);
    vd_status_http_stop(status);
    vd_worker_stop(w);
    return e;
}

static enum vd_err vd_worker_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_worker_cmd *c = calloc(1, sizeof *c);
    if (!c)
        return vd_error_set(err, VD_ENOMEM, "no memory to start");
    enum vd_err e = vd_cmd_role_open(&c->role, cli, "worker", err);
    if (e == VD_OK) {
        e = vd_worker_read(c, cli, err);
        if (e == VD_OK)
            e = vd_worker_serve(c, cli, err);
        for (size_t i = 0; i < VD_WORKER_CMD_MODELS; i++)
            vd_cmd_engine_close(&c->engine[i]);
        vd_cmd_role_close(&c->role);
    }
    free(c);
    return e;
}

static const struct vd_cli_opt vd_worker_opts[] = {
    VD_CMD_OPTS_LEDGER,
    {"gateway", 'g', "ADDR[,ADDR]", "gateways to work for: host:port or PUBKEY@host:port", true},
    {"model", 'm', "MODEL", "a model to offer", true},
    {"price-in", 0, "N", "micro-credits per prompt token (default 10)", false},
    {"price-out", 0, "N", "micro-credits per output token (default 20)", false},
    {"stake", 0, "CREDITS", "what answers for the receipts (default: the network's minimum)", false},
    {"capacity", 0, "N", "jobs at once, for each model (default 8)", false},
    {"kv-mib", 0, "N", "memory of each model's KV cache in MiB (default 512)", false},
    {"status", 0, "HOST:PORT", "where /health and /metrics are (default 127.0.0.1, any port)", false},
    VD_CMD_OPTS_GUESS,
    VD_CMD_OPTS_COMPUTE,
    VD_CMD_OPTS_ROLE,
    {0},
};
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
