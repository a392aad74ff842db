/* veridem audit: the audits that the ledger drew, and what became of them. */
#include "vd_audit.h"
#include "vd_cmd.h"
#include "vd_cmd_net.h"

static json_t *vd_audit_slot_json(const struct vd_audit_slot *s)
{
    static const struct vd_hash none;
    json_t *o = json_pack("{s:o,s:s,s:o,s:o}", "auditor", vd_json_hex(s->auditor.b, 32), "said",
                          vd_audit_slot_name(s->status), "paid_micro", vd_cmd_json_amount(s->paid),
                          "slashed_micro", vd_cmd_json_amount(s->slashed));
    if (!vd_hash_eq(&s->commitment, &none))
        json_object_set_new(o, "commitment", vd_json_hex(s->commitment.b, 32));
    return o;
}

static json_t *vd_audit_json(const struct vd_hash *id, const struct vd_audit *a)
{
    static const struct vd_pubkey nobody;
    json_t *slots = json_array();
    for (uint32_t i = 0; i < a->n_slots; i++)
        json_array_append_new(slots, vd_audit_slot_json(&a->slot[i]));
    json_t *o = json_pack("{s:o,s:s,s:o,s:o,s:o,s:I,s:I,s:I,s:I,s:b,s:o}", "receipt", vd_json_hex(id->b, 32),
                          "phase", vd_audit_phase_name(a->phase), "worker", vd_json_hex(a->worker.b, 32),
                          "gateway", vd_json_hex(a->gateway.b, 32), "model", vd_json_hex(a->model_root.b, 32),
                          "epoch", (json_int_t)a->epoch, "rate_ppm", (json_int_t)a->rate_ppm, "draw_height",
                          (json_int_t)a->draw_height, "deadline_height", (json_int_t)a->deadline_height,
                          "demanded", a->demanded, "auditors", slots);
    if (!vd_pubkey_eq(&a->shown_by, &nobody))
        json_object_set_new(o, "shown_by", vd_json_hex(a->shown_by.b, 32));
    return o;
}

static void vd_audit_print(FILE *out, const struct vd_hash *id, const struct vd_audit *a)
{
    char hex[65], paid[VD_CLI_CREDITS_MAX], slashed[VD_CLI_CREDITS_MAX];
    vd_hex_encode(hex, id->b, VD_HASH_BYTES);
    fprintf(out, "receipt   %s\nphase     %s", hex, vd_audit_phase_name(a->phase));
    if (a->deadline_height)
        fprintf(out, ", until block %llu", (unsigned long long)a->deadline_height);
    vd_hex_encode(hex, a->worker.b, VD_PUBKEY_BYTES);
    fprintf(out, "\nworker    %s\ndrawn     in block %llu by the beacon of epoch %llu, at %u ppm\n", hex,
            (unsigned long long)a->draw_height, (unsigned long long)a->epoch, a->rate_ppm);
    if (a->demanded)
        fprintf(out, "data      demanded on the ledger%s\n",
                a->phase == VD_AUDIT_DATA_DUE ? ", not shown yet" : "");
    for (uint32_t i = 0; i < a->n_slots; i++) {
        const struct vd_audit_slot *s = &a->slot[i];
        vd_hex_encode(hex, s->auditor.b, VD_PUBKEY_BYTES);
        fprintf(out, "auditor   %s  %-9s  paid %s, slashed %s\n", hex, vd_audit_slot_name(s->status),
                vd_cli_credits(paid, s->paid.micro), vd_cli_credits(slashed, s->slashed.micro));
    }
}

struct vd_audit_list {
    struct vd_cli *cli;
    json_t *list; /* NULL: lines of text */
    size_t n;
};

static bool vd_audit_row(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    struct vd_audit_list *l = arg;
    struct vd_audit a;
    struct vd_hash id;
    char hex[65];
    uint32_t n[VD_SLOT_UNFIT + 1] = {0};
    if (key.n != 1 + VD_HASH_BYTES || !vd_audit_decode(value, &a))
        return true;
    l->n++;
    memcpy(id.b, key.p + 1, VD_HASH_BYTES);
    if (l->list) {
        json_array_append_new(l->list, vd_audit_json(&id, &a));
        return true;
    }
    for (uint32_t i = 0; i < a.n_slots; i++)
        n[a.slot[i].status]++;
    vd_hex_encode(hex, id.b, VD_HASH_BYTES);
    fprintf(l->cli->out, "%s  block %llu  %u stands, %u differs, %u missed of %u  %s\n", hex,
            (unsigned long long)a.draw_height, n[VD_SLOT_STANDS], n[VD_SLOT_DIFFERS], n[VD_SLOT_MISSED],
            a.n_slots, vd_audit_phase_name(a.phase));
    return true;
}

static enum vd_err vd_audit_list_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_audit_list l = {.cli = cli, .list = cli->json ? json_array() : NULL};
    struct vd_state_key prefix = vd_state_key_make(VD_STATE_AUDIT, NULL, 0, NULL);
    struct vd_ledger_client *c;
    enum vd_err e = vd_cmd_ledger_open(&c, cli, NULL, NULL, err);
    if (e == VD_OK) {
        e = vd_ledger_client_list(c, &prefix, vd_audit_row, &l, err);
        vd_ledger_client_stop(c);
    }
    if (e == VD_OK && !l.list && l.n == 0)
        fprintf(stderr, "no audit has been drawn\n");
    if (e == VD_OK && l.list)
        vd_cli_json(cli, l.list);
    else
        json_decref(l.list);
    return e;
}

static enum vd_err vd_audit_show_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_ledger_client *c;
    struct vd_audit a;
    struct vd_hash id;
    enum vd_err e = vd_cli_parse_hash("the receipt", cli->arg[0], id.b, err);
    if (e == VD_OK)
        e = vd_cmd_ledger_open(&c, cli, NULL, NULL, err);
    if (e != VD_OK)
        return e;
    e = vd_ledger_client_audit(c, &id, &a, err);
    vd_ledger_client_stop(c);
    if (e == VD_ENOTFOUND)
        return vd_error_set(err, e, "no audit of receipt %s; it was not drawn, or not yet", cli->arg[0]);
    if (e == VD_OK && cli->json)
        vd_cli_json(cli, vd_audit_json(&id, &a));
    else if (e == VD_OK)
        vd_audit_print(cli->out, &id, &a);
    return e;
}

/* ---- keepers ---- */

static bool vd_keeper_row(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    struct vd_audit_list *l = arg;
    struct vd_keeper k;
    char hex[65], bond[VD_CLI_CREDITS_MAX];
    if (key.n != 1 + VD_PUBKEY_BYTES || !vd_keeper_decode(value, &k))
        return true;
    if (l->list) {
        json_array_append_new(l->list,
                              json_pack("{s:o,s:I,s:I,s:o}", "keeper", vd_json_hex(key.p + 1, 32),
                                        "next_epoch", (json_int_t)k.next_epoch, "layers_left",
                                        (json_int_t)k.n_left, "bond_micro", vd_cmd_json_amount(k.bond)));
        return true;
    }
    vd_hex_encode(hex, key.p + 1, VD_PUBKEY_BYTES);
    fprintf(l->cli->out, "%s  epoch %llu is next, %u layers left, bond %s\n", hex,
            (unsigned long long)k.next_epoch, k.n_left, vd_cli_credits(bond, k.bond.micro));
    return true;
}

static enum vd_err vd_audit_keepers_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_audit_list l = {.cli = cli, .list = cli->json ? json_array() : NULL};
    struct vd_state_key prefix = vd_state_key_make(VD_STATE_KEEPER, NULL, 0, NULL);
    struct vd_ledger_client *c;
    enum vd_err e = vd_cmd_ledger_open(&c, cli, NULL, NULL, err);
    if (e == VD_OK) {
        e = vd_ledger_client_list(c, &prefix, vd_keeper_row, &l, err);
        vd_ledger_client_stop(c);
    }
    if (e == VD_OK && l.list)
        vd_cli_json(cli, l.list);
    else
        json_decref(l.list);
    return e;
}

static const struct vd_cli_opt vd_audit_opts[] = {VD_CMD_OPTS_LEDGER, {0}};
static const struct vd_cmd vd_audit_list_cmd = {
    .name = "list",
    .usage = "",
    .summary = "all audits, with what their auditors said",
    .opts = vd_audit_opts,
    .run = vd_audit_list_run,
};
static const struct vd_cmd vd_audit_show_cmd = {
    .name = "show",
    .usage = "RECEIPT",
    .summary = "one audit: phase, deadline, each auditor and what it got or lost",
    .opts = vd_audit_opts,
    .min_args = 1,
    .max_args = 1,
    .run = vd_audit_show_run,
};
static const struct vd_cmd vd_audit_keepers_cmd = {
    .name = "keepers",
    .usage = "",
    .summary = "who keeps the beacon that draws them",
    .opts = vd_audit_opts,
    .run = vd_audit_keepers_run,
};
static const struct vd_cmd *const vd_audit_sub[] = {&vd_audit_list_cmd, &vd_audit_show_cmd,
                                                    &vd_audit_keepers_cmd, NULL};
const struct vd_cmd vd_cmd_audit = {
    .name = "audit",
    .group = "Money and history",
    .usage = "",
    .summary = "audits: which receipts were drawn, who replayed them, what they said",
    .help = "The ledger draws receipts and auditors by a beacon that nobody knew when the receipts were "
            "posted. To be one: "
            "veridem\nverifier --audit. How it works: docs/spec/audit.md.",
    .sub = vd_audit_sub,
};
