/* veridem verifier: replays settled receipts and challenges those that do not stand. */
#include "vd_cmd.h"
#include "vd_cmd_node.h"
#include "vd_verifier.h"

static enum vd_err vd_verifier_begin(void **it, struct vd_cmd_node *n, const struct vd_cli *cli,
                                     struct vd_error *err)
{
    struct vd_verifier *v = NULL;
    struct vd_verifier_model model[VD_CMD_NODE_MODELS];
    uint64_t rate_ppm = UINT32_MAX, kv_mib = 0;
    enum vd_err e = vd_cli_micro(cli, "rate", VD_PPM, &rate_ppm, err);
    if (e == VD_OK)
        e = vd_cli_u64(cli, "kv-mib", 1, 1 << 20, &kv_mib, err);
    for (size_t i = 0; i < n->n_models; i++)
        model[i] = (struct vd_verifier_model){n->engine[i].model, n->engine[i].pool, n->root[i]};
    struct vd_verifier_config config = {.key = &n->role.key,
                                        .home = n->role.home,
                                        .ledger = n->ledger,
                                        .gateway = n->gateways.peer,
                                        .n_gateways = n->gateways.n,
                                        .model = model,
                                        .n_models = n->n_models,
                                        .audit_rate_ppm = (uint32_t)rate_ppm,
                                        .audits = vd_cli_has(cli, "audit"),
                                        .stake = n->stake,
                                        .max_kv_bytes = (size_t)kv_mib << 20,
                                        .follow = vd_cli_has(cli, "follow"),
                                        .log = &n->role.log,
                                        .stopped = vd_cmd_role_stopped};
    if (e == VD_OK)
        e = vd_verifier_start(&v, &config, err);
    *it = v;
    return e;
}

static void vd_verifier_end(void *it)
{
    vd_verifier_stop(it);
}

const struct vd_cmd_node_kind vd_cmd_verifier_kind = {.role = "verifier",
                                                      .open = vd_cmd_node_open,
                                                      .start = vd_verifier_begin,
                                                      .stop = vd_verifier_end,
                                                      .health = vd_verifier_health,
                                                      .metrics = vd_verifier_metrics};

static enum vd_err vd_verifier_run(struct vd_cli *cli, struct vd_error *err)
{
    return vd_cmd_node_run(&vd_cmd_verifier_kind, cli, err);
}

static const struct vd_cli_opt vd_verifier_opts[] = {VD_CMD_OPTS_VERIFIER, {0}};
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
