/* veridem ledger: the embedded chain as a role, its genesis, and its check. */
#include "vd_clock.h"
#include "vd_cmd.h"
#include "vd_cmd_role.h"
#include "vd_genesis_json.h"
#include "vd_ledgerd.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- init ---- */

struct vd_genesis_param {
    const char *name;
    size_t offset;
    enum { VD_PARAM_U32, VD_PARAM_U64, VD_PARAM_CREDITS } type;
    const char *otherwise;
};
#define VD_PARAM(field, type, otherwise)                                                                     \
    {                                                                                                        \
#field, offsetof(struct vd_genesis, field), type, otherwise                                          \
    }
static const struct vd_genesis_param vd_genesis_params[] = {
    VD_PARAM(block_time_ms, VD_PARAM_U32, "250"),
    VD_PARAM(audit_rate_ppm, VD_PARAM_U32, "20000"),
    VD_PARAM(audit_window_blocks, VD_PARAM_U64, "240"),
    VD_PARAM(move_clock_blocks, VD_PARAM_U64, "40"),
    VD_PARAM(steps_per_block, VD_PARAM_U32, "2"),
    VD_PARAM(unbonding_blocks, VD_PARAM_U64, "2400"),
    VD_PARAM(request_validity_blocks, VD_PARAM_U64, "1200"),
    VD_PARAM(min_stake, VD_PARAM_CREDITS, "100"),
    VD_PARAM(challenge_bond, VD_PARAM_CREDITS, "1"),
    VD_PARAM(slash, VD_PARAM_CREDITS, "100"),
    VD_PARAM(max_receipt, VD_PARAM_CREDITS, "1"),
    VD_PARAM(challenger_share_ppm, VD_PARAM_U32, "400000"),
    VD_PARAM(worker_share_ppm, VD_PARAM_U32, "950000"),
    VD_PARAM(gateway_share_ppm, VD_PARAM_U32, "40000"),
    VD_PARAM(treasury_share_ppm, VD_PARAM_U32, "10000"),
    VD_PARAM(history_blocks, VD_PARAM_U64, "345600"),
    VD_PARAM(epoch_blocks, VD_PARAM_U32, "0"),
    VD_PARAM(beacon_blocks, VD_PARAM_U32, "0"),
    VD_PARAM(audit_commit_blocks, VD_PARAM_U32, "0"),
    VD_PARAM(audit_reveal_blocks, VD_PARAM_U32, "0"),
    VD_PARAM(audit_data_blocks, VD_PARAM_U32, "0"),
    VD_PARAM(auditors, VD_PARAM_U32, "0"),
    VD_PARAM(audit_new_rate_ppm, VD_PARAM_U32, "0"),
    VD_PARAM(audit_new_receipts, VD_PARAM_U64, "0"),
    VD_PARAM(auditor_share_ppm, VD_PARAM_U32, "0"),
    VD_PARAM(audit_slash, VD_PARAM_CREDITS, "0"),
    VD_PARAM(beacon_bond, VD_PARAM_CREDITS, "0"),
    VD_PARAM(trap_bond, VD_PARAM_CREDITS, "0"),
    VD_PARAM(trap_blocks, VD_PARAM_U64, "0"),
    VD_PARAM(audit_min_reward, VD_PARAM_CREDITS, "0"),
};
/* With epoch_blocks audits are on, and these are the rest's defaults. */
static const struct vd_genesis_param vd_genesis_audit_params[] = {
    VD_PARAM(beacon_blocks, VD_PARAM_U32, "20"),
    VD_PARAM(audit_commit_blocks, VD_PARAM_U32, "80"),
    VD_PARAM(audit_reveal_blocks, VD_PARAM_U32, "40"),
    VD_PARAM(audit_data_blocks, VD_PARAM_U32, "80"),
    VD_PARAM(auditors, VD_PARAM_U32, "3"),
    VD_PARAM(audit_new_rate_ppm, VD_PARAM_U32, "200000"),
    VD_PARAM(audit_new_receipts, VD_PARAM_U64, "1000"),
    VD_PARAM(audit_slash, VD_PARAM_CREDITS, "1"),
    VD_PARAM(beacon_bond, VD_PARAM_CREDITS, "100"),
    VD_PARAM(trap_bond, VD_PARAM_CREDITS, "100"),
    VD_PARAM(trap_blocks, VD_PARAM_U64, "2400"),
    VD_PARAM(audit_min_reward, VD_PARAM_CREDITS, "0.000001"),
};
enum { VD_GENESIS_PARAMS = sizeof vd_genesis_params / sizeof vd_genesis_params[0] };

static enum vd_err vd_genesis_set(struct vd_genesis *g, const struct vd_genesis_param *p, const char *text,
                                  struct vd_error *err)
{
    void *at = (char *)g + p->offset;
    uint64_t v;
    enum vd_err e = VD_OK;
    switch (p->type) {
    case VD_PARAM_U32:
        e = vd_cli_parse_u64(p->name, text, 0, UINT32_MAX, &v, err);
        if (e == VD_OK)
            *(uint32_t *)at = (uint32_t)v;
        break;
    case VD_PARAM_U64:
        e = vd_cli_parse_u64(p->name, text, 0, UINT64_MAX, &v, err);
        if (e == VD_OK)
            *(uint64_t *)at = v;
        break;
    case VD_PARAM_CREDITS:
        e = vd_cli_parse_micro(p->name, text, VD_AMOUNT_MAX_MICRO, &v, err);
        if (e == VD_OK)
            ((struct vd_amount *)at)->micro = v;
        break;
    }
    return e;
}

/* "name=value" of --param. */
static enum vd_err vd_genesis_set_param(struct vd_genesis *g, const char *text, struct vd_error *err)
{
    const char *eq = strchr(text, '=');
    size_t n = eq ? (size_t)(eq - text) : 0;
    for (int i = 0; eq && i < VD_GENESIS_PARAMS; i++)
        if (strlen(vd_genesis_params[i].name) == n && memcmp(vd_genesis_params[i].name, text, n) == 0)
            return vd_genesis_set(g, &vd_genesis_params[i], eq + 1, err);
    if (eq && n == 8 && memcmp(text, "treasury", n) == 0)
        return vd_cli_parse_hash("treasury", eq + 1, g->treasury.b, err);
    if (eq && n == 7 && memcmp(text, "network", n) == 0) {
        return snprintf(g->network, sizeof g->network, "%s", eq + 1) < (int)sizeof g->network
                   ? VD_OK
                   : vd_error_set(err, VD_EUSE, "--param network=%.64s...: at most %d bytes", eq + 1,
                                  VD_GENESIS_NAME_MAX);
    }
    return vd_error_set(err, VD_EUSE,
                        "--param %.64s: no such parameter; `veridem ledger init --help` lists them", text);
}

/* "NAME=PUBKEY:CREDITS" of --account. */
static enum vd_err vd_genesis_parse_account(const char *text, struct vd_genesis_account *out,
                                            struct vd_error *err)
{
    const char *eq = strchr(text, '='), *colon = eq ? strchr(eq, ':') : NULL;
    char hex[65] = "";
    if (colon && colon - eq == 65)
        memcpy(hex, eq + 1, 64);
    if (!colon || !vd_hex_decode(out->key.b, VD_PUBKEY_BYTES, hex))
        return vd_error_set(err, VD_EUSE,
                            "--account is %.120s, but must be NAME=PUBKEY:CREDITS with a public key of 64 "
                            "hexadecimal digits",
                            text);
    return vd_cli_parse_micro("the credits of --account", colon + 1, VD_AMOUNT_MAX_MICRO, &out->balance.micro,
                              err);
}

static bool vd_genesis_names(const struct vd_cli *cli, const char *name)
{
    const char *text;
    for (int i = 0; (text = vd_cli_nth(cli, "param", i)) != NULL; i++)
        if (strncmp(text, name, strlen(name)) == 0 && text[strlen(name)] == '=')
            return true;
    return false;
}

/* Audits that were asked for with epoch_blocks get the rest of their parameters; what auditors are paid comes
 * from the workers' share. */
static enum vd_err vd_genesis_fill_audits(struct vd_genesis *g, const struct vd_cli *cli,
                                          struct vd_error *err)
{
    enum vd_err e = VD_OK;
    size_t n = sizeof vd_genesis_audit_params / sizeof vd_genesis_audit_params[0];
    if (!g->epoch_blocks)
        return VD_OK;
    for (size_t i = 0; e == VD_OK && i < n; i++) {
        const struct vd_genesis_param *p = &vd_genesis_audit_params[i];
        if (!vd_genesis_names(cli, p->name))
            e = vd_genesis_set(g, p, p->otherwise, err);
    }
    if (!vd_genesis_names(cli, "beacon_blocks") && g->beacon_blocks > g->epoch_blocks)
        g->beacon_blocks = g->epoch_blocks;
    if (!vd_genesis_names(cli, "auditor_share_ppm") && !vd_genesis_names(cli, "worker_share_ppm")) {
        g->auditor_share_ppm = 10000;
        g->worker_share_ppm -= 10000;
    }
    return e;
}

static int vd_account_cmp(const void *a, const void *b)
{
    return memcmp(((const struct vd_genesis_account *)a)->key.b,
                  ((const struct vd_genesis_account *)b)->key.b, VD_PUBKEY_BYTES);
}

static enum vd_err vd_genesis_fill(struct vd_genesis *g, struct vd_genesis_account account[VD_CLI_ARGS_MAX],
                                   const struct vd_cli *cli, struct vd_error *err)
{
    const char *text;
    enum vd_err e = VD_OK;
    snprintf(g->network, sizeof g->network, "home");
    g->time_ms = vd_clock_wall_ms();
    for (int i = 0; e == VD_OK && i < VD_GENESIS_PARAMS; i++)
        e = vd_genesis_set(g, &vd_genesis_params[i], vd_genesis_params[i].otherwise, err);
    int treasury = 0;
    for (int i = 0; e == VD_OK && (text = vd_cli_nth(cli, "account", i)) != NULL; i++) {
        treasury = strncmp(text, "treasury=", 9) == 0 ? i : treasury;
        e = vd_genesis_parse_account(text, &account[g->n_accounts++], err);
    }
    if (e == VD_OK && !g->n_accounts)
        e = vd_error_set(err, VD_EUSE, "a network without an account has no money; give --account");
    if (e == VD_OK)
        g->treasury = account[treasury].key;
    for (int i = 0; e == VD_OK && (text = vd_cli_nth(cli, "param", i)) != NULL; i++)
        e = vd_genesis_set_param(g, text, err);
    if (e == VD_OK)
        e = vd_genesis_fill_audits(g, cli, err);
    qsort(account, g->n_accounts, sizeof *account, vd_account_cmp);
    g->account = account;
    return e == VD_OK ? vd_genesis_check(g, err) : e;
}

static enum vd_err vd_ledger_init_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_genesis g = {0};
    struct vd_genesis_account account[VD_CLI_ARGS_MAX];
    struct vd_hash hash;
    char hex[65];
    const char *path = vd_cli_text(cli, "genesis", NULL);
    if (!path)
        return vd_error_set(err, VD_EUSE, "--genesis FILE says where the genesis goes");
    if (access(path, F_OK) == 0)
        return vd_error_set(err, VD_ECONFLICT, "%.300s exists and stays as it is; name another file", path);
    enum vd_err e = vd_genesis_fill(&g, account, cli, err);
    if (e == VD_OK)
        e = vd_genesis_network_hash(&g, &hash, err);
    if (e == VD_OK)
        e = vd_genesis_json_save(&g, path, err);
    if (e != VD_OK)
        return e;
    vd_hex_encode(hex, hash.b, VD_HASH_BYTES);
    if (cli->json)
        vd_cli_json(cli, json_pack("{s:s,s:s,s:I}", "genesis", hex, "file", path, "supply_micro",
                                   (json_int_t)vd_genesis_supply(&g).micro));
    else
        fprintf(cli->out, "%s  %s\n", hex, path);
    return VD_OK;
}

static const struct vd_cli_opt vd_ledger_init_opts[] = {
    {"genesis", 0, "FILE", "the file to write", false},
    {"account", 0, "NAME=PUBKEY:CREDITS",
     "an account with a balance from the start; NAME is for you but for \"treasury\"", true},
    {"param", 0, "NAME=VALUE", "another value than the default", true},
    {0},
};
static const struct vd_cmd vd_ledger_cmd_init = {
    .name = "init",
    .usage = "",
    .summary = "write the genesis file of a new network",
    .help =
        "The file is the network: whoever has it can join. Parameters and their defaults:\n\n"
        "    network=home                  treasury=PUBKEY (default: the account of that name,\n"
        "                                  else the first)\n"
        "    block_time_ms=250             audit_rate_ppm=20000 (share of receipts to replay)\n"
        "    audit_window_blocks=240       move_clock_blocks=40\n"
        "    unbonding_blocks=2400         request_validity_blocks=1200\n"
        "    min_stake=100 (credits)       challenge_bond=1 (credits)\n"
        "    slash=100 (credits)           challenger_share_ppm=400000 (of the slash)\n"
        "    history_blocks=345600 (closed disputes and audits stay in the state so long; 0: for ever)\n"
        "    max_receipt=1 (credits; the most that one receipt may be worth)\n"
        "    steps_per_block=2 (positions of a job that a replay does in a block, for the clocks)\n"
        "    worker_share_ppm=950000  gateway_share_ppm=40000  treasury_share_ppm=10000 (of a receipt)\n\n"
        "With epoch_blocks=N (say 40) the ledger runs audits, and these have defaults too:\n\n"
        "    beacon_blocks=20              audit_commit_blocks=80\n"
        "    audit_reveal_blocks=40        audit_data_blocks=80\n"
        "    auditors=3 (of a receipt)     auditor_share_ppm=10000 (from the worker's)\n"
        "    audit_new_rate_ppm=200000     audit_new_receipts=1000\n"
        "    audit_slash=1 (credits)       beacon_bond=100 (credits)\n"
        "    trap_bond=100 (credits)       trap_blocks=2400\n"
        "    audit_min_reward=0.000001 (credits; receipts that would pay an auditor less are not drawn)",
    .opts = vd_ledger_init_opts,
    .run = vd_ledger_init_run,
};

/* ---- check ---- */

static enum vd_err vd_ledger_check_run(struct vd_cli *cli, struct vd_error *err)
{
    char home[VD_PATH_MAX], dir[VD_PATH_MAX + 16];
    uint64_t n = 0;
    enum vd_err e = vd_cmd_role_find_home(home, cli, "ledger", "chain", err);
    if (e == VD_OK) {
        snprintf(dir, sizeof dir, "%s/chain", home);
        e = vd_chain_verify(dir, 0, &n, err);
    }
    if (e != VD_OK)
        return e;
    if (cli->json)
        vd_cli_json(cli, json_pack("{s:I,s:b}", "blocks", (json_int_t)n, "valid", 1));
    else
        fprintf(cli->out, "%llu blocks replayed from the genesis: every hash and every state root is right\n",
                (unsigned long long)n);
    return VD_OK;
}

static const struct vd_cmd vd_ledger_cmd_check = {
    .name = "check",
    .usage = "",
    .summary = "replay every block of a stopped ledger and compare",
    .help = "Of the ledger under --home, or of `veridem up` there. Needs no trust in whoever ran it: every "
            "transaction is applied again.",
    .run = vd_ledger_check_run,
};

/* ---- the role ---- */

static enum vd_err vd_ledger_serve(struct vd_cmd_role *r, const struct vd_cli *cli,
                                   const struct vd_genesis *genesis, struct vd_error *err)
{
    struct vd_ledgerd *d = NULL;
    char dir[VD_PATH_MAX + 16], host[256], http_host[256];
    uint16_t port, http_port;
    enum vd_err e = vd_cmd_read_listen(cli, "listen", "127.0.0.1:7400", host, &port, err);
    if (e == VD_OK)
        e = vd_cmd_read_listen(cli, "status", "127.0.0.1:0", http_host, &http_port, err);
    if (e != VD_OK)
        return e;
    snprintf(dir, sizeof dir, "%s/chain", r->home);
    struct vd_ledgerd_config config = {.dir = dir,
                                       .genesis = genesis,
                                       .key = &r->key,
                                       .host = host,
                                       .port = port,
                                       .http_host = http_host,
                                       .http_port = http_port,
                                       .log = &r->log};
    e = vd_ledgerd_start(&d, &config, err);
    if (e == VD_OK)
        e = vd_cmd_role_serve(r, vd_ledgerd_http_port(d), vd_ledgerd_port(d), err);
    vd_ledgerd_stop(d);
    return e;
}

static enum vd_err vd_ledger_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_cmd_role r;
    struct vd_genesis_file file = {0};
    const char *genesis = vd_cli_text(cli, "genesis", NULL);
    enum vd_err e = genesis ? vd_genesis_json_load(&file, genesis, err) : VD_OK; /* while signals end it */
    if (e == VD_OK)
        e = vd_cmd_role_open(&r, cli, "ledger", err);
    if (e == VD_OK) {
        e = vd_ledger_serve(&r, cli, genesis ? &file.genesis : NULL, err);
        vd_cmd_role_close(&r);
    }
    vd_genesis_file_free(&file);
    return e;
}

static const struct vd_cli_opt vd_ledger_opts[] = {
    {"genesis", 0, "FILE", "the network; needed on the first start only", false},
    {"listen", 0, "HOST:PORT", "where roles and clients connect (default 127.0.0.1:7400; port 0: any)",
     false},
    {"status", 0, "HOST:PORT", "where /health and /metrics are (default 127.0.0.1, any port)", false},
    VD_CMD_OPTS_ROLE,
    {0},
};
static const struct vd_cmd *const vd_ledger_sub[] = {&vd_ledger_cmd_init, &vd_ledger_cmd_check, NULL};
const struct vd_cmd vd_cmd_ledger = {
    .name = "ledger",
    .group = "Roles",
    .usage = "",
    .summary = "run the ledger, make a genesis, check a chain",
    .help = "Without a command it runs the embedded chain under --home: one sequencer, a block every "
            "block_time, durable\n"
            "before anything in it is acknowledged.",
    .opts = vd_ledger_opts,
    .run = vd_ledger_run,
    .sub = vd_ledger_sub,
};
