/* veridem tx: send a transaction by hand, and look one up. */
#include "vd_cmd.h"
#include "vd_cmd_net.h"

enum { VD_TX_WAIT_MS = 60000 };

static enum vd_err vd_tx_send(struct vd_cli *cli, struct vd_tx *tx, struct vd_error *err)
{
    struct vd_keypair k;
    struct vd_ledger_client *c;
    struct vd_ledger_outcome o;
    char hex[65];
    enum vd_err e = vd_cmd_load_key(&k, vd_cli_text(cli, "key", "default"), false, err);
    if (e == VD_OK)
        e = vd_cmd_ledger_open(&c, cli, &k, NULL, err);
    if (e != VD_OK)
        return e;
    e = vd_ledger_client_send(c, tx, VD_TX_WAIT_MS, &o, err);
    vd_ledger_client_stop(c);
    vd_key_wipe(&k);
    if (e != VD_OK)
        return e == VD_EFALSE
                   ? vd_error_set(err, VD_ECONFLICT, "the ledger refused: %s", vd_tx_verdict_text(o.verdict))
                   : e;
    vd_hex_encode(hex, o.tx_id.b, VD_HASH_BYTES);
    if (cli->json)
        vd_cli_json(cli, json_pack("{s:s,s:I,s:s}", "tx", hex, "height", (json_int_t)o.height, "kind",
                                   vd_tx_kind_name(tx->kind)));
    else
        fprintf(cli->out, "%s in block %llu\n", hex, (unsigned long long)o.height);
    return VD_OK;
}

static enum vd_err vd_tx_amount(const char *text, struct vd_amount *out, struct vd_error *err)
{
    return vd_cli_parse_micro("the amount in credits", text, VD_AMOUNT_MAX_MICRO, &out->micro, err);
}

static enum vd_err vd_tx_transfer(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_tx tx = {.kind = VD_TX_TRANSFER};
    enum vd_err e = vd_cli_parse_hash("the receiver", cli->arg[0], tx.u.transfer.to.b, err);
    if (e == VD_OK)
        e = vd_tx_amount(cli->arg[1], &tx.u.transfer.amount, err);
    return e == VD_OK ? vd_tx_send(cli, &tx, err) : e;
}

static enum vd_err vd_tx_stake(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_tx tx = {.kind = VD_TX_STAKE};
    enum vd_err e = vd_tx_amount(cli->arg[0], &tx.u.stake.amount, err);
    return e == VD_OK ? vd_tx_send(cli, &tx, err) : e;
}

static enum vd_err vd_tx_unstake(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_tx tx = {.kind = VD_TX_UNSTAKE};
    enum vd_err e = vd_tx_amount(cli->arg[0], &tx.u.stake.amount, err);
    return e == VD_OK ? vd_tx_send(cli, &tx, err) : e;
}

static enum vd_err vd_tx_withdraw(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_tx tx = {.kind = VD_TX_WITHDRAW};
    return vd_tx_send(cli, &tx, err);
}

static enum vd_err vd_tx_escrow_open(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_tx tx = {.kind = VD_TX_ESCROW_OPEN};
    enum vd_err e = vd_cli_parse_hash("the gateway", cli->arg[0], tx.u.escrow_open.gateway.b, err);
    if (e == VD_OK)
        e = vd_tx_amount(cli->arg[1], &tx.u.escrow_open.amount, err);
    return e == VD_OK ? vd_tx_send(cli, &tx, err) : e;
}

static enum vd_err vd_tx_escrow_topup(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_tx tx = {.kind = VD_TX_ESCROW_TOPUP};
    enum vd_err e = vd_cli_parse_hash("the escrow", cli->arg[0], tx.u.escrow_topup.escrow_id.b, err);
    if (e == VD_OK)
        e = vd_tx_amount(cli->arg[1], &tx.u.escrow_topup.amount, err);
    return e == VD_OK ? vd_tx_send(cli, &tx, err) : e;
}

static enum vd_err vd_tx_escrow_close(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_tx tx = {.kind = VD_TX_ESCROW_CLOSE};
    enum vd_err e = vd_cli_parse_hash("the escrow", cli->arg[0], tx.u.escrow_close.escrow_id.b, err);
    return e == VD_OK ? vd_tx_send(cli, &tx, err) : e;
}

static enum vd_err vd_tx_show(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_hash id;
    struct vd_ledger_client *c;
    struct vd_ledger_answer a;
    struct vd_tx_place at;
    enum vd_err e = vd_cli_parse_hash("the transaction", cli->arg[0], id.b, err);
    if (e == VD_OK)
        e = vd_cmd_ledger_open(&c, cli, NULL, NULL, err);
    if (e != VD_OK)
        return e;
    struct vd_state_key key = vd_state_key_make(VD_INDEX_TX, id.b, VD_HASH_BYTES, NULL);
    e = vd_ledger_client_get(c, &key, VD_LEDGER_QUERY_TIMEOUT_MS, &a, err);
    if (e == VD_OK) {
        if (a.n_items != 1 || !vd_tx_place_decode(a.item[0], &at))
            e = vd_error_set(err, VD_EFORMAT, "the ledger's answer about the transaction is malformed");
        else if (cli->json)
            vd_cli_json(cli, json_pack("{s:s,s:I,s:I}", "tx", cli->arg[0], "height", (json_int_t)at.height,
                                       "index", (json_int_t)at.index));
        else
            fprintf(cli->out, "in block %llu, number %u\n", (unsigned long long)at.height, at.index);
        vd_ledger_answer_free(&a);
    }
    vd_ledger_client_stop(c);
    return e;
}

/* ---- audits by hand ---- */

static enum vd_err vd_tx_auditor(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_tx tx = {.kind = VD_TX_AUDITOR};
    bool on = strcmp(cli->arg[1], "on") == 0;
    if (!on && strcmp(cli->arg[1], "off") != 0)
        return vd_error_set(err, VD_EUSE, "%.32s: say on or off", cli->arg[1]);
    tx.u.auditor.on = on;
    enum vd_err e = vd_cli_parse_hash("the model", cli->arg[0], tx.u.auditor.model_root.b, err);
    return e == VD_OK ? vd_tx_send(cli, &tx, err) : e;
}

static enum vd_err vd_tx_audit_commit(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_tx tx = {.kind = VD_TX_AUDIT_COMMIT};
    enum vd_err e = vd_cli_parse_hash("the receipt", cli->arg[0], tx.u.audit_commit.receipt_id.b, err);
    if (e == VD_OK)
        e = vd_cli_parse_hash("the commitment", cli->arg[1], tx.u.audit_commit.commitment.b, err);
    return e == VD_OK ? vd_tx_send(cli, &tx, err) : e;
}

static enum vd_err vd_tx_audit_reveal(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_tx tx = {.kind = VD_TX_AUDIT_REVEAL};
    struct vd_tx_audit_reveal *r = &tx.u.audit_reveal;
    bool unfit = cli->n_args == 3 && strcmp(cli->arg[2], "unfit") == 0;
    r->verdict = cli->n_args == 5 ? VD_AUDIT_STANDS : unfit ? VD_AUDIT_UNFIT : VD_AUDIT_DIFFERS;
    enum vd_err e = cli->n_args == 4 ? vd_error_set(err, VD_EUSE, "to say that it stands takes both halves")
                                     : vd_cli_parse_hash("the receipt", cli->arg[0], r->receipt_id.b, err);
    if (e == VD_OK && !unfit &&
        strcmp(cli->arg[2], r->verdict == VD_AUDIT_STANDS ? "stands" : "differs") != 0)
        e = vd_error_set(err, VD_EUSE, "%.32s: say `stands HALF HALF`, `differs`, or `unfit`", cli->arg[2]);
    if (e == VD_OK)
        e = vd_cli_parse_hash("the nonce", cli->arg[1], r->nonce.b, err);
    for (int i = 0; e == VD_OK && i < 2 && r->verdict == VD_AUDIT_STANDS; i++)
        e = vd_cli_parse_hash("a half", cli->arg[3 + i], r->half[i].b, err);
    return e == VD_OK ? vd_tx_send(cli, &tx, err) : e;
}

static enum vd_err vd_tx_beacon_open(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_tx tx = {.kind = VD_TX_BEACON_OPEN};
    uint64_t n;
    enum vd_err e = vd_cli_parse_hash("the anchor", cli->arg[0], tx.u.beacon_open.anchor.b, err);
    if (e == VD_OK)
        e = vd_cli_parse_u64("the number of layers", cli->arg[1], 1, VD_BEACON_LAYERS_MAX, &n, err);
    if (e != VD_OK)
        return e;
    tx.u.beacon_open.n_layers = (uint32_t)n;
    return vd_tx_send(cli, &tx, err);
}

static enum vd_err vd_tx_beacon(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_tx tx = {.kind = VD_TX_BEACON};
    enum vd_err e = vd_cli_parse_u64("the epoch", cli->arg[0], 0, UINT64_MAX, &tx.u.beacon.epoch, err);
    if (e == VD_OK)
        e = vd_cli_parse_hash("the layer", cli->arg[1], tx.u.beacon.layer.b, err);
    return e == VD_OK ? vd_tx_send(cli, &tx, err) : e;
}

static enum vd_err vd_tx_audit_demand(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_tx tx = {.kind = VD_TX_AUDIT_DEMAND};
    enum vd_err e = vd_cli_parse_hash("the receipt", cli->arg[0], tx.u.audit_demand.receipt_id.b, err);
    return e == VD_OK ? vd_tx_send(cli, &tx, err) : e;
}

static const struct vd_cli_opt vd_tx_opts[] = {VD_CMD_OPTS_KEY, VD_CMD_OPTS_LEDGER, {0}};

#define VD_TX_CMD(id, cname, cusage, n, csummary)                                                            \
    static const struct vd_cmd id##_cmd = {.name = cname,                                                    \
                                           .usage = cusage,                                                  \
                                           .summary = csummary,                                              \
                                           .opts = vd_tx_opts,                                               \
                                           .min_args = n,                                                    \
                                           .max_args = n,                                                    \
                                           .run = id}
VD_TX_CMD(vd_tx_transfer, "transfer", "PUBKEY CREDITS", 2, "give credits to another account");
VD_TX_CMD(vd_tx_stake, "stake", "CREDITS", 1, "put credits up as a worker's stake");
VD_TX_CMD(vd_tx_unstake, "unstake", "CREDITS", 1,
          "begin to take stake back; refused while receipts are unsettled");
VD_TX_CMD(vd_tx_withdraw, "withdraw", "", 0, "take unbonded stake back to the balance");
VD_TX_CMD(vd_tx_escrow_open, "escrow-open", "GATEWAY CREDITS", 2,
          "set credits aside that a gateway may pay workers from");
VD_TX_CMD(vd_tx_escrow_topup, "escrow-topup", "ESCROW CREDITS", 2, "add to an escrow");
VD_TX_CMD(vd_tx_escrow_close, "escrow-close", "ESCROW", 1,
          "end an escrow; the rest returns when nothing can be settled any more");
VD_TX_CMD(vd_tx_auditor, "auditor", "MODEL on|off", 2, "be drawn, or not, for audits of a model's receipts");
VD_TX_CMD(vd_tx_audit_commit, "audit-commit", "RECEIPT HASH", 2,
          "commit to a verdict (docs/spec/audit.md, 4)");
VD_TX_CMD(vd_tx_beacon_open, "beacon-open", "ANCHOR LAYERS", 2,
          "keep a part of the audits' beacon, against a bond");
VD_TX_CMD(vd_tx_beacon, "beacon", "EPOCH LAYER", 2, "reveal the layer of an epoch that is over");
VD_TX_CMD(vd_tx_audit_demand, "audit-demand", "RECEIPT", 1, "demand a drawn receipt's data on the ledger");
static const struct vd_cmd vd_tx_audit_reveal_cmd = {
    .name = "audit-reveal",
    .usage = "RECEIPT NONCE stands HALF HALF | RECEIPT NONCE differs|unfit",
    .summary = "reveal what was committed to",
    .opts = vd_tx_opts,
    .min_args = 3,
    .max_args = 5,
    .run = vd_tx_audit_reveal};
VD_TX_CMD(vd_tx_show, "show", "TX", 1, "which block holds a transaction");

static const struct vd_cmd *const vd_tx_sub[] = {
    &vd_tx_transfer_cmd,     &vd_tx_stake_cmd,        &vd_tx_unstake_cmd,
    &vd_tx_withdraw_cmd,     &vd_tx_escrow_open_cmd,  &vd_tx_escrow_topup_cmd,
    &vd_tx_escrow_close_cmd, &vd_tx_auditor_cmd,      &vd_tx_audit_commit_cmd,
    &vd_tx_audit_reveal_cmd, &vd_tx_audit_demand_cmd, &vd_tx_beacon_open_cmd,
    &vd_tx_beacon_cmd,       &vd_tx_show_cmd,         NULL};

const struct vd_cmd vd_cmd_tx = {
    .name = "tx",
    .group = "Money and history",
    .usage = "",
    .summary = "send a transaction, or look one up",
    .help = "A command returns when the block that holds the transaction is durable, and prints its id and "
            "height. An amount\n"
            "is in credits, with at most six decimals.",
    .sub = vd_tx_sub,
};
