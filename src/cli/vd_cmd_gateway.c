/* veridem gateway: the OpenAI API in front of workers, and its API keys. */
#include "vd_cmd.h"
#include "vd_cmd_load.h"
#include "vd_cmd_net.h"
#include "vd_cmd_role.h"
#include "vd_gateway.h"
#include "vd_gateway_keys.h"

#include <stdlib.h>
#include <string.h>

/* ---- API keys ---- */

static json_t *vd_api_key_json(const struct vd_api_key *k)
{
    char id[2 * sizeof k->id + 1];
    vd_hex_encode(id, &k->id, sizeof k->id);
    return json_pack("{s:s,s:s,s:I,s:I}", "id", id, "label", k->label, "created_s", (json_int_t)k->created_s,
                     "limit_micro", (json_int_t)k->limit.micro);
}

static enum vd_err vd_gateway_key_new_run(struct vd_cli *cli, struct vd_error *err)
{
    char home[VD_PATH_MAX], secret[VD_API_KEY_TEXT_MAX];
    struct vd_api_key k;
    struct vd_amount limit = VD_AMOUNT_ZERO;
    enum vd_err e = vd_cli_micro(cli, "limit", VD_AMOUNT_MAX_MICRO, &limit.micro, err);
    if (e == VD_OK)
        e = vd_cmd_role_find_home(home, cli, "gateway", "keys/role.key", err);
    if (e == VD_OK)
        e = vd_dir_make(home, err);
    if (e == VD_OK)
        e = vd_gateway_key_new(home, vd_cli_text(cli, "label", "unnamed"), limit, secret, &k, err);
    if (e == VD_OK && cli->json) {
        json_t *v = vd_api_key_json(&k);
        json_object_set_new(v, "api_key", json_string(secret));
        vd_cli_json(cli, v);
    } else if (e == VD_OK) {
        fprintf(cli->out, "%s\n", secret);
    }
    explicit_bzero(secret, sizeof secret);
    return e;
}

static enum vd_err vd_gateway_key_list_run(struct vd_cli *cli, struct vd_error *err)
{
    char home[VD_PATH_MAX], id[2 * sizeof(struct vd_key_id) + 1], limit[VD_CLI_CREDITS_MAX];
    struct vd_api_key *list;
    size_t n;
    enum vd_err e = vd_cmd_role_find_home(home, cli, "gateway", "keys/role.key", err);
    if (e == VD_OK)
        e = vd_gateway_key_list(home, &list, &n, err);
    if (e != VD_OK)
        return e;
    json_t *v = cli->json ? json_array() : NULL;
    for (size_t i = 0; i < n; i++) {
        vd_hex_encode(id, &list[i].id, sizeof list[i].id);
        if (v)
            json_array_append_new(v, vd_api_key_json(&list[i]));
        else
            fprintf(cli->out, "%s  %-24s %s\n", id, list[i].label,
                    list[i].limit.micro ? vd_cli_credits(limit, list[i].limit.micro) : "no limit");
    }
    if (v)
        vd_cli_json(cli, v);
    free(list);
    return VD_OK;
}

static enum vd_err vd_gateway_key_revoke_run(struct vd_cli *cli, struct vd_error *err)
{
    char home[VD_PATH_MAX];
    enum vd_err e = vd_cmd_role_find_home(home, cli, "gateway", "keys/role.key", err);
    if (e == VD_OK)
        e = vd_gateway_key_revoke(home, cli->arg[0], err);
    if (e == VD_OK && cli->json)
        vd_cli_json(cli, json_pack("{s:s}", "revoked", cli->arg[0]));
    return e;
}

static const struct vd_cli_opt vd_gateway_key_new_opts[] = {
    {"label", 'l', "TEXT", "whose key it is", false},
    {"limit", 0, "CREDITS", "what may be spent with it in all (default: no limit)", false},
    {0},
};
static const struct vd_cmd vd_gateway_key_cmd_new = {
    .name = "new",
    .usage = "",
    .summary = "make an API key and print it, once",
    .help = "Of the gateway under --home, running or not; without --home of the one that has its home in "
            "$VERIDEM_HOME,\n"
            "or that `veridem up` runs there. Only a hash of the key is kept.",
    .opts = vd_gateway_key_new_opts,
    .run = vd_gateway_key_new_run,
};
static const struct vd_cmd vd_gateway_key_cmd_list = {
    .name = "list",
    .usage = "",
    .summary = "ids, labels and limits of the keys",
    .run = vd_gateway_key_list_run,
};
static const struct vd_cmd vd_gateway_key_cmd_revoke = {
    .name = "revoke",
    .usage = "ID|LABEL",
    .summary = "end a key at once",
    .min_args = 1,
    .max_args = 1,
    .run = vd_gateway_key_revoke_run,
};
static const struct vd_cmd *const vd_gateway_key_sub[] = {&vd_gateway_key_cmd_new, &vd_gateway_key_cmd_list,
                                                          &vd_gateway_key_cmd_revoke, NULL};
static const struct vd_cmd vd_gateway_cmd_key = {
    .name = "key",
    .usage = "",
    .summary = "API keys of clients",
    .sub = vd_gateway_key_sub,
};

/* ---- the role ---- */

struct vd_gateway_cmd {
    struct vd_cmd_role role;
    struct vd_cmd_peer ledger;
    size_t n_models;
    struct vd_gateway_model_config model[VD_GATEWAY_MODELS_MAX];
    char name[VD_GATEWAY_MODELS_MAX][256];
    char path[VD_GATEWAY_MODELS_MAX][VD_PATH_MAX];
    char http_host[256], listen_host[256];
    uint16_t http_port, listen_port;
    struct vd_amount escrow, price_in_max, price_out_max;
    uint32_t key_per_minute, per_address, traps;
    struct vd_pubkey follower[VD_GATEWAY_FOLLOWERS_MAX];
    size_t n_followers;
};

/* A model is opened once for its root (which is kept for the next start); the gateway itself needs only its
 * text. */
static enum vd_err vd_gateway_add_model(struct vd_gateway_cmd *c, const struct vd_cli *cli, const char *text,
                                        struct vd_error *err)
{
    struct vd_cmd_engine g;
    size_t i = c->n_models;
    if (i == VD_GATEWAY_MODELS_MAX)
        return vd_error_set(err, VD_EUSE, "more than %d models", VD_GATEWAY_MODELS_MAX);
    enum vd_err e = vd_cmd_model_path(c->path[i], text, err);
    if (e == VD_OK)
        e = vd_cmd_engine_open(&g, cli, c->path[i], err);
    if (e != VD_OK)
        return e;
    e = vd_model_root(g.model, g.pool, &c->model[i].root, err);
    vd_cmd_engine_close(&g);
    const char *base = strrchr(c->path[i], '/');
    snprintf(c->name[i], sizeof c->name[i], "%.255s", base ? base + 1 : c->path[i]);
    size_t n = strlen(c->name[i]);
    if (n > 5 && strcmp(c->name[i] + n - 5, ".gguf") == 0)
        c->name[i][n - 5] = 0;
    c->model[i].name = c->name[i];
    c->model[i].path = c->path[i];
    c->n_models++;
    return e;
}

static enum vd_err vd_gateway_read(struct vd_gateway_cmd *c, const struct vd_cli *cli, struct vd_error *err)
{
    const char *text;
    c->escrow.micro = UINT64_C(1000) * 1000000;
    enum vd_err e = vd_cli_micro(cli, "escrow", VD_AMOUNT_MAX_MICRO, &c->escrow.micro, err);
    if (e == VD_OK)
        e = vd_cli_u64(cli, "price-in-max", 0, VD_PRICE_MAX_MICRO, &c->price_in_max.micro, err);
    if (e == VD_OK)
        e = vd_cli_u64(cli, "price-out-max", 0, VD_PRICE_MAX_MICRO, &c->price_out_max.micro, err);
    if (e == VD_OK)
        e = vd_cli_u32(cli, "key-per-minute", 1, 1 << 20, &c->key_per_minute, err);
    if (e == VD_OK)
        e = vd_cli_u32(cli, "traps", 1, 1 << 30, &c->traps, err);
    if (e == VD_OK)
        e = vd_cli_u32(cli, "per-address", 1, 256, &c->per_address, err);
    if (e == VD_OK)
        e = vd_cmd_read_listen(cli, "http", "127.0.0.1:8080", c->http_host, &c->http_port, err);
    if (e == VD_OK)
        e = vd_cmd_read_listen(cli, "listen", "127.0.0.1:7401", c->listen_host, &c->listen_port, err);
    if (e == VD_OK)
        e = vd_cmd_ledger_peer(cli, &c->ledger, err);
    for (int i = 0; e == VD_OK && (text = vd_cli_nth(cli, "follower", i)) != NULL; i++)
        e = i == VD_GATEWAY_FOLLOWERS_MAX
                ? vd_error_set(err, VD_EUSE, "more than %d followers", VD_GATEWAY_FOLLOWERS_MAX)
                : vd_cli_parse_hash("--follower", text, c->follower[c->n_followers++].b, err);
    for (int i = 0; e == VD_OK && (text = vd_cli_nth(cli, "model", i)) != NULL; i++)
        e = vd_gateway_add_model(c, cli, text, err);
    if (e == VD_OK && !c->n_models)
        e = vd_error_set(err, VD_EUSE, "which model? Say --model MODEL");
    return e;
}

static enum vd_err vd_gateway_serve(struct vd_gateway_cmd *c, const struct vd_cli *cli, struct vd_error *err)
{
    struct vd_gateway *g = NULL;
    struct vd_gateway_config config = {.key = &c->role.key,
                                       .home = c->role.home,
                                       .ledger_host = c->ledger.host,
                                       .ledger_port = c->ledger.port,
                                       .ledger_key = c->ledger.pinned ? &c->ledger.key : NULL,
                                       .listen_host = c->listen_host,
                                       .listen_port = c->listen_port,
                                       .http_host = c->http_host,
                                       .http_port = c->http_port,
                                       .model = c->model,
                                       .n_models = c->n_models,
                                       .escrow = c->escrow,
                                       .price_in_max = c->price_in_max,
                                       .price_out_max = c->price_out_max,
                                       .key_per_minute_max = c->key_per_minute,
                                       .connections_per_address_max = c->per_address,
                                       .trap_every_blocks = c->traps,
                                       .follower = c->follower,
                                       .n_followers = c->n_followers,
                                       .log = &c->role.log,
                                       .stopped = vd_cmd_role_stopped};
    enum vd_err e = vd_gateway_start(&g, &config, err);
    if (e == VD_OK)
        e = vd_cmd_role_serve(&c->role, vd_gateway_http_port(g), vd_gateway_link_port(g), err);
    vd_gateway_stop(g);
    return e;
}

static enum vd_err vd_gateway_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_gateway_cmd *c = calloc(1, sizeof *c);
    if (!c)
        return vd_error_set(err, VD_ENOMEM, "no memory to start");
    enum vd_err e = vd_cmd_role_open(&c->role, cli, "gateway", err);
    if (e == VD_OK) {
        e = vd_gateway_read(c, cli, err);
        if (e == VD_OK)
            e = vd_gateway_serve(c, cli, err);
        vd_cmd_role_close(&c->role);
    }
    free(c);
    return e;
}

static const struct vd_cli_opt vd_gateway_opts[] = {
    VD_CMD_OPTS_LEDGER,
    {"model", 'm', "MODEL", "a model that clients may ask for, by the file's name", true},
    {"http", 0, "HOST:PORT", "where clients ask (default 127.0.0.1:8080; port 0: any)", false},
    {"listen", 0, "HOST:PORT", "where workers and verifiers connect (default 127.0.0.1:7401; port 0: any)",
     false},
    {"escrow", 0, "CREDITS", "set aside to pay workers, and kept topped up (default 1000)", false},
    {"price-in-max", 0, "N", "micro-credits per prompt token that a worker may ask (default: no limit)",
     false},
    {"price-out-max", 0, "N", "the same per output token", false},
    {"traps", 0, "BLOCKS",
     "plant a trap for auditors so often, from a second key with a stake out of this account", false},
    {"follower", 0, "PUBKEY",
     "a verifier that gets every stream, prompts too, and may stop it (veridem verifier "
     "--follow)",
     true},
    {"key-per-minute", 0, "N", "requests per minute of one API key (default: no limit)", false},
    {"per-address", 0, "N", "HTTP connections from one address (default 64; 256 behind a proxy)", false},
    VD_CMD_OPTS_COMPUTE,
    VD_CMD_OPTS_ROLE,
    {0},
};
static const struct vd_cmd *const vd_gateway_sub[] = {&vd_gateway_cmd_key, NULL};
const struct vd_cmd vd_cmd_gateway = {
    .name = "gateway",
    .group = "Roles",
    .usage = "",
    .summary = "the OpenAI API in front of workers, and its API keys",
    .help =
        "Without a command it serves HTTP for clients and a port for workers and verifiers. Workers are "
        "paid from an escrow\n"
        "on the ledger that this gateway's account opens; put credits there first. Every answer's "
        "receipt is kept\n"
        "under --home and settled in batches.\n"
        "At most 256 HTTP connections are open; a request must have arrived after 30 s. With less than 32 "
        "MiB "
        "free\n"
        "under --home, /health and new requests get 503 (disk_full). SIGINT and SIGTERM end what runs with "
        "the error\n"
        "shutting_down, settle, and stop.\n\n"
        "    veridem gateway --ledger KEY@host:7400 --model SmolLM2 --http 0.0.0.0:8080 --listen "
        "0.0.0.0:7401\n"
        "    veridem gateway key new --label alice",
    .opts = vd_gateway_opts,
    .run = vd_gateway_run,
    .sub = vd_gateway_sub,
};
