/* veridem verifier: replays settled receipts and challenges those that do not stand. */
#include "vd_cmd.h"
#include "vd_cmd_load.h"
#include "vd_cmd_net.h"
#include "vd_cmd_role.h"
#include "vd_status_http.h"
#include "vd_verifier.h"

#include <stdlib.h>

enum { VD_VERIFIER_CMD_MODELS = 8 };

struct vd_verifier_cmd {
    struct vd_cmd_role role;
    struct vd_cmd_peer ledger;
    struct vd_cmd_peers gateways;
    size_t n_models;
    struct vd_cmd_engine engine[VD_VERIFIER_CMD_MODELS];
    struct vd_verifier_model model[VD_VERIFIER_CMD_MODELS];
    uint64_t rate_ppm;
    struct vd_amount stake;
    char status_host[256];
    uint16_t status_port;
};

static enum vd_err vd_verifier_read(struct vd_verifier_cmd *c, const struct vd_cli *cli, struct vd_error *err)
{
    const char *name;
    c->rate_ppm = UINT32_MAX;
    enum vd_err e = vd_cli_micro(cli, "rate", VD_PPM, &c->rate_ppm, err);
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
        if (i == VD_VERIFIER_CMD_MODELS)
            return vd_error_set(err, VD_EUSE, "more than %d models", VD_VERIFIER_CMD_MODELS);
        e = vd_cmd_engine_open(&c->engine[i], cli, name, err);
        if (e != VD_OK)
            break;
        struct vd_verifier_model *m = &c->model[c->n_models++];
        m->model = c->engine[i].model;
        m->pool = c->engine[i].pool;
        e = vd_model_root(m->model, m->pool, &m->root, err);
    }
    if (e == VD_OK && !c->n_models)
        e = vd_error_set(err, VD_EUSE, "which model? Say --model MODEL");
    return e;
}

static enum vd_err vd_verifier_serve(struct vd_verifier_cmd *c, const struct vd_cli *cli,
                                     struct vd_error *err)
{
    struct vd_verifier *v = NULL;
    struct vd_status_http *status = NULL;
    struct vd_verifier_config config = {
        .key = &c->role.key,
        .home = c->role.home,
        .ledger = {c->ledger.host, c->ledger.port, c->ledger.pinned ? &c->ledger.key : NULL},
        .gateway = c->gateways.peer,
        .n_gateways = c->gateways.n,
        .model = c->model,
        .n_models = c->n_models,
        .audit_rate_ppm = (uint32_t)c->rate_ppm,
        .audits = vd_cli_has(cli, "audit"),
        .stake = c->stake,
        .follow = vd_cli_has(cli, "follow"),
        .log = &c->role.log,
        .stopped = vd_cmd_role_stopped};
    enum vd_err e = vd_verifier_start(&v, &config, err);
    struct vd_status_http_config sc = {.host = c->status_host,
                                       .port = c->status_port,
                                       .arg = v,
                                       .health = vd_verifier_health,
                                       .metrics = vd_verifier_metrics};
    if (e == VD_OK)
        e = vd_status_http_start(&status, &sc, err);
    if (e == VD_OK)
        e = vd_cmd_role_ready(&c->role, cli, vd_status_http_port(status), 0, err);
    if (e == VD_OK)
        vd_cmd_role_wait(&c->role);
    vd_status_http_stop(status);
    vd_verifier_stop(v);
    return e;
}

static enum vd_err vd_verifier_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_verifier_cmd *c = calloc(1, sizeof *c);
    if (!c)
        return vd_error_set(err, VD_ENOMEM, "no memory to start");
    enum vd_err e = vd_cmd_role_open(&c->role, cli, "verifier", err);
    if (e == VD_OK) {
        e = vd_verifier_read(c, cli, err);
        if (e == VD_OK)
            e = vd_verifier_serve(c, cli, err);
        for (size_t i = 0; i < VD_VERIFIER_CMD_MODELS; i++)
            vd_cmd_engine_close(&c->engine[i]);
        vd_cmd_role_close(&c->role);
    }
    free(c);
    return e;
}

static const struct vd_cli_opt vd_verifier_opts[] = {
    VD_CMD_OPTS_LEDGER,
    {"gateway", 'g', "ADDR[,ADDR]", "gateways that hold the data: host:port or PUBKEY@host:port", true},
    {"model", 'm', "MODEL", "a model whose receipts to replay", true},
    {"rate", 0, "SHARE", "share of receipts to replay, 0 to 1 (default: the network's; with --audit 0)",
     false},
    {"audit", 0, NULL, "be an auditor of the models: replay what the ledger draws, and be paid for it",
     false},
    {"follow", 0, NULL, "run streams along while they are made, of gateways started with --follower THIS-KEY",
     false},
    {"stake", 0, "CREDITS", "an auditor's stake (default: the network's minimum)", false},
    {"status", 0, "HOST:PORT", "where /health and /metrics are (default 127.0.0.1, any port)", false},
    VD_CMD_OPTS_COMPUTE,
    VD_CMD_OPTS_ROLE,
    {0},
};
const struct vd_cmd vd_cmd_verifier = {
    .name = "verifier",
    .group = "Roles",
    .usage = "",
    .summary = "replay settled receipts, challenge the false ones, earn the slash",
    .help = "Follows the ledger, draws receipts at random, fetches prompt and answer from the gateway, "
            "replays them in one pass,\n"
            "and plays a dispute to its end when a receipt does not stand. Its account needs the credits for "
            "the\n"
            "bond of a challenge, which come back with a share of the slash. With --audit it puts up a stake "
            "too, and\n"
            "takes part in the audits that the ledger draws it for; who is drawn and silent loses some of "
            "it. With "
            "--follow it\n"
            "stops the worker of a stream at its first wrong token, if the gateway's operator lets it.",
    .opts = vd_verifier_opts,
    .run = vd_verifier_run,
};
