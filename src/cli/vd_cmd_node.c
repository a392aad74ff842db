#include "vd_cmd_node.h"

#include <stdlib.h>

enum vd_err vd_cmd_node_open(struct vd_cmd_node *n, const struct vd_cli *cli, struct vd_error *err)
{
    const char *name;
    enum vd_err e = VD_OK;
    for (int i = 0; e == VD_OK && (name = vd_cli_nth(cli, "model", i)) != NULL; i++) {
        if (i == VD_CMD_NODE_MODELS)
            return vd_error_set(err, VD_EUSE, "more than %d models", VD_CMD_NODE_MODELS);
        struct vd_cmd_engine *g = &n->engine[n->n_models++];
        e = vd_cmd_engine_open(g, cli, name, err);
        if (e == VD_OK)
            e = vd_model_root(g->model, g->pool, &n->root[i], err);
    }
    if (e == VD_OK && !n->n_models)
        e = vd_error_set(err, VD_EUSE, "which model? Say --model MODEL");
    return e;
}

static enum vd_err vd_cmd_node_read(struct vd_cmd_node *n, const struct vd_cli *cli, struct vd_error *err)
{
    enum vd_err e = vd_cli_micro(cli, "stake", VD_AMOUNT_MAX_MICRO, &n->stake.micro, err);
    if (e == VD_OK)
        e = vd_cmd_read_listen(cli, "status", "127.0.0.1:0", n->status_host, &n->status_port, err);
    if (e == VD_OK)
        e = vd_cmd_ledger_peer(cli, &n->ledger_room, err);
    if (e == VD_OK)
        e = vd_cmd_read_peers(cli, "gateway", &n->gateways, err);
    if (e == VD_OK && !n->gateways.n)
        e = vd_error_set(err, VD_EUSE, "which gateway? Say --gateway host:port");
    n->ledger = (struct vd_worker_peer){n->ledger_room.host, n->ledger_room.port,
                                        n->ledger_room.pinned ? &n->ledger_room.key : NULL};
    return e;
}

static enum vd_err vd_cmd_node_serve(const struct vd_cmd_node_kind *kind, struct vd_cmd_node *n,
                                     const struct vd_cli *cli, struct vd_error *err)
{
    void *it = NULL;
    struct vd_status_http *status = NULL;
    enum vd_err e = kind->start(&it, n, cli, err);
    struct vd_status_http_config sc = {.host = n->status_host,
                                       .port = n->status_port,
                                       .arg = it,
                                       .health = kind->health,
                                       .metrics = kind->metrics};
    if (e == VD_OK)
        e = vd_status_http_start(&status, &sc, err);
    if (e == VD_OK)
        e = vd_cmd_role_serve(&n->role, vd_status_http_port(status), 0, err);
    vd_status_http_stop(status);
    kind->stop(it);
    return e;
}

enum vd_err vd_cmd_node_run(const struct vd_cmd_node_kind *kind, const struct vd_cli *cli,
                            struct vd_error *err)
{
    struct vd_cmd_node *n = calloc(1, sizeof *n);
    if (!n)
        return vd_error_set(err, VD_ENOMEM, "no memory to start");
    enum vd_err e = vd_cmd_role_open(&n->role, cli, kind->role, err);
    if (e == VD_OK) {
        e = vd_cmd_node_read(n, cli, err);
        if (e == VD_OK)
            e = kind->open(n, cli, err);
        if (e == VD_OK)
            e = vd_cmd_node_serve(kind, n, cli, err);
        for (size_t i = 0; i < VD_CMD_NODE_MODELS; i++)
            vd_cmd_engine_close(&n->engine[i]);
        vd_cmd_role_close(&n->role);
    }
    free(n);
    return e;
}
