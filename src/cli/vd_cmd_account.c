/* veridem account: what an account has: balance, stake, escrows. */
#include "vd_cmd.h"
#include "vd_cmd_net.h"

struct vd_account_view {
    struct vd_ledger_client *c;
    struct vd_cli *cli;
    json_t *list; /* --json */
    struct vd_hash escrow[256];
    size_t n_escrows;
};

static bool vd_account_add_escrow(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    struct vd_account_view *v = arg;
    if (key.n == 1 + VD_PUBKEY_BYTES + VD_HASH_BYTES)
        memcpy(v->escrow[v->n_escrows++].b, key.p + 1 + VD_PUBKEY_BYTES, VD_HASH_BYTES);
    return v->n_escrows < sizeof v->escrow / sizeof v->escrow[0];
}

static enum vd_err vd_account_show_escrows(struct vd_account_view *v, const struct vd_pubkey *key,
                                           json_t *into, struct vd_error *err)
{
    struct vd_state_key prefix = vd_state_key_make(VD_INDEX_ACCOUNT_ESCROW, key->b, VD_PUBKEY_BYTES, NULL);
    enum vd_err e = vd_ledger_client_list(v->c, &prefix, vd_account_add_escrow, v, err);
    for (size_t i = 0; e == VD_OK && i < v->n_escrows; i++) {
        struct vd_escrow s;
        char hex[65], amount[VD_CLI_CREDITS_MAX], settled[VD_CLI_CREDITS_MAX];
        e = vd_ledger_client_escrow(v->c, &v->escrow[i], &s, err);
        if (e != VD_OK)
            break;
        vd_hex_encode(hex, v->escrow[i].b, VD_HASH_BYTES);
        if (into)
            json_array_append_new(into, json_pack("{s:s,s:o,s:I,s:I,s:I,s:b}", "escrow", hex, "gateway",
                                                  vd_json_hex(s.gateway.b, 32), "deposited_micro",
                                                  (json_int_t)s.deposited.micro, "settled_micro",
                                                  (json_int_t)s.settled.micro, "amount_micro",
                                                  (json_int_t)s.balance.micro, "open", s.end_height == 0));
        else
            fprintf(v->cli->out, "escrow        %s  %s left, %s settled%s\n", hex,
                    vd_cli_credits(amount, s.balance.micro), vd_cli_credits(settled, s.settled.micro),
                    s.ended        ? ", ended"
                    : s.end_height ? ", closing"
                                   : "");
    }
    return e;
}

static enum vd_err vd_account_show_one(struct vd_account_view *v, const struct vd_pubkey *key,
                                       struct vd_error *err)
{
    struct vd_account a = {0};
    struct vd_stake s = {0};
    char hex[65], amount[VD_CLI_CREDITS_MAX], more[VD_CLI_CREDITS_MAX];
    vd_hex_encode(hex, key->b, VD_PUBKEY_BYTES);
    enum vd_err e = vd_ledger_client_account(v->c, key, &a, err);
    if (e == VD_ENOTFOUND && !v->cli->n_args)
        return vd_error_set(
            err, e,
            "the key \"%.100s\", %s, has no account; one comes into being when somebody transfers to it",
            vd_cli_text(v->cli, "key", "default"), hex);
    if (e == VD_ENOTFOUND)
        return vd_error_set(err, e,
                            "there is no account %s; it comes into being when somebody transfers to it", hex);
    if (e == VD_OK)
        e = vd_ledger_client_stake(v->c, key, &s, err);
    if (e != VD_OK && e != VD_ENOTFOUND)
        return e;
    json_t *escrows = v->cli->json ? json_array() : NULL;
    if (!escrows) {
        fprintf(v->cli->out, "account       %s\nbalance       %s credits\ntransactions  %llu\n", hex,
                vd_cli_credits(amount, a.balance.micro), (unsigned long long)a.nonce);
        if (s.amount.micro || s.unbonding.micro)
            fprintf(v->cli->out, "stake         %s, of which %s answers for %llu unsettled receipts\n",
                    vd_cli_credits(amount, s.amount.micro), vd_cli_credits(more, s.unsettled.micro),
                    (unsigned long long)s.n_open_receipts);
        if (s.n_open_disputes)
            fprintf(v->cli->out, "disputes      %llu open\n", (unsigned long long)s.n_open_disputes);
        if (s.unbonding.micro)
            fprintf(v->cli->out, "unbonding     %s until block %llu\n",
                    vd_cli_credits(amount, s.unbonding.micro), (unsigned long long)s.withdraw_height);
    }
    e = vd_account_show_escrows(v, key, escrows, err);
    if (e == VD_OK && escrows)
        vd_cli_json(v->cli,
                    json_pack("{s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:O}", "key", hex, "balance_micro",
                              (json_int_t)a.balance.micro, "nonce", (json_int_t)a.nonce, "stake_micro",
                              (json_int_t)s.amount.micro, "unbonding_micro", (json_int_t)s.unbonding.micro,
                              "withdraw_height", (json_int_t)s.withdraw_height, "unsettled_micro",
                              (json_int_t)s.unsettled.micro, "open_receipts", (json_int_t)s.n_open_receipts,
                              "open_disputes", (json_int_t)s.n_open_disputes, "escrows", escrows));
    json_decref(escrows);
    return e;
}

static bool vd_account_show_row(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    struct vd_account_view *v = arg;
    struct vd_account a;
    char hex[65], amount[VD_CLI_CREDITS_MAX];
    if (key.n != 1 + VD_PUBKEY_BYTES || !vd_account_decode(value, &a))
        return true;
    vd_hex_encode(hex, key.p + 1, VD_PUBKEY_BYTES);
    if (v->list)
        json_array_append_new(v->list, json_pack("{s:s,s:I,s:I}", "key", hex, "balance_micro",
                                                 (json_int_t)a.balance.micro, "nonce", (json_int_t)a.nonce));
    else
        fprintf(v->cli->out, "%s  %s\n", hex, vd_cli_credits(amount, a.balance.micro));
    return true;
}

static enum vd_err vd_account_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_account_view v = {.cli = cli};
    struct vd_pubkey key;
    bool all = vd_cli_has(cli, "all");
    enum vd_err e = VD_OK;
    if (cli->n_args) {
        e = vd_cli_parse_hash("the account", cli->arg[0], key.b, err);
    } else if (!all) {
        struct vd_keypair k;
        e = vd_cmd_load_key(&k, vd_cli_text(cli, "key", "default"), false, err);
        if (e == VD_OK) {
            key = k.pub;
            vd_key_wipe(&k);
        }
    }
    if (e == VD_OK)
        e = vd_cmd_ledger_open(&v.c, cli, NULL, NULL, err);
    if (e != VD_OK)
        return e;
    if (all) {
        struct vd_state_key prefix = vd_state_key_make(VD_STATE_ACCOUNT, NULL, 0, NULL);
        v.list = cli->json ? json_array() : NULL;
        e = vd_ledger_client_list(v.c, &prefix, vd_account_show_row, &v, err);
        if (e == VD_OK && v.list)
            vd_cli_json(cli, v.list);
        else
            json_decref(v.list);
    } else {
        e = vd_account_show_one(&v, &key, err);
    }
    vd_ledger_client_stop(v.c);
    return e;
}

static const struct vd_cli_opt vd_account_opts[] = {
    {"all", 'a', NULL, "every account and its balance", false},
    VD_CMD_OPTS_KEY,
    VD_CMD_OPTS_LEDGER,
    {0},
};
const struct vd_cmd vd_cmd_account = {
    .name = "account",
    .group = "Money and history",
    .usage = "[PUBKEY]",
    .summary = "balance, stake and escrows of an account",
    .help = "Of PUBKEY, or of the key that --key names. --json gives amounts in micro-credits.",
    .opts = vd_account_opts,
    .max_args = 1,
    .run = vd_account_run,
};
