/* What the commands of worker and verifier have in common, and with them the liars of tests/cheat: from the
 * options, models and links over start and status server to the signal that ends them. */
#ifndef VD_CMD_NODE_H
#define VD_CMD_NODE_H

#include "vd_cmd_load.h"
#include "vd_cmd_net.h"
#include "vd_cmd_role.h"
#include "vd_status_http.h"
#include "vd_worker.h"

enum { VD_CMD_NODE_MODELS = 8 };

struct vd_cmd_node {
    struct vd_cmd_role role;
    struct vd_cmd_peer ledger_room;
    struct vd_worker_peer ledger; /* points into it */
    struct vd_cmd_peers gateways;
    struct vd_amount stake;
    struct vd_cmd_engine engine[VD_CMD_NODE_MODELS];
    struct vd_hash root[VD_CMD_NODE_MODELS]; /* what engine[i] goes by */
    size_t n_models;
    char status_host[256];
    uint16_t status_port;
};

struct vd_cmd_node_kind {
    const char *role;
    /* Fills engine, root and n_models; the engines are closed in any case. */
    enum vd_err (*open)(struct vd_cmd_node *n, const struct vd_cli *cli, struct vd_error *err);
    /* Starts it; the rest takes what this gave out. */
    enum vd_err (*start)(void **it, struct vd_cmd_node *n, const struct vd_cli *cli, struct vd_error *err);
    void (*stop)(void *it); /* NULL is allowed */
    bool (*health)(void *it, char text[256]);
    void (*metrics)(void *it, struct vd_metrics *m);
};

/* Returns when the role was ended by a signal, or could not start. */
enum vd_err vd_cmd_node_run(const struct vd_cmd_node_kind *kind, const struct vd_cli *cli,
                            struct vd_error *err);
/* `open` of the shipped roles: what --model names, under its own root. */
enum vd_err vd_cmd_node_open(struct vd_cmd_node *n, const struct vd_cli *cli, struct vd_error *err);

extern const struct vd_cmd_node_kind vd_cmd_worker_kind, vd_cmd_verifier_kind;

/* The options that these two take. */
#define VD_CMD_OPTS_WORKER                                                                                   \
    VD_CMD_OPTS_LEDGER,                                                                                      \
        {"gateway", 'g', "ADDR[,ADDR]", "gateways to work for: host:port or PUBKEY@host:port", true},        \
        {"model", 'm', "MODEL", "a model to offer", true},                                                   \
        {"price-in", 0, "N", "micro-credits per prompt token (default 10)", false},                          \
        {"price-out", 0, "N", "micro-credits per output token (default 20)", false},                         \
        {"stake", 0, "CREDITS", "what answers for the receipts (default: the network's minimum)", false},    \
        {"capacity", 0, "N", "jobs at once, for each model (default 8)", false},                             \
        {"kv-mib", 0, "N", "memory of each model's KV cache in MiB (default 512)", false},                   \
        VD_CMD_OPTS_STATUS, VD_CMD_OPTS_GUESS, VD_CMD_OPTS_COMPUTE, VD_CMD_OPTS_ROLE
#define VD_CMD_OPTS_VERIFIER                                                                                 \
    VD_CMD_OPTS_LEDGER,                                                                                      \
        {"gateway", 'g', "ADDR[,ADDR]", "gateways that hold the data: host:port or PUBKEY@host:port", true}, \
        {"model", 'm', "MODEL", "a model whose receipts to replay", true},                                   \
        {"rate", 0, "SHARE", "share of receipts to replay, 0 to 1 (default: the network's; with --audit 0)", \
         false},                                                                                             \
        {"audit", 0, NULL, "be an auditor of the models: replay what the ledger draws, and be paid for it",  \
         false},                                                                                             \
        {"follow", 0, NULL,                                                                                  \
         "run streams along while they are made, of gateways started with --follower THIS-KEY", false},      \
        {"stake", 0, "CREDITS", "an auditor's stake (default: the network's minimum)", false},               \
        {"kv-mib", 0, "N",                                                                                   \
         "memory of each model's KV cache in MiB (default: the model's context, if half the memory is "      \
         "enough)",                                                                                          \
         false},                                                                                             \
        VD_CMD_OPTS_STATUS, VD_CMD_OPTS_COMPUTE, VD_CMD_OPTS_ROLE
#define VD_CMD_OPTS_STATUS                                                                                   \
    {                                                                                                        \
        "status", 0, "HOST:PORT", "where /health and /metrics are (default 127.0.0.1, any port)", false      \
    }

#endif
