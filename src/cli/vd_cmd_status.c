/* veridem status: where the chain stands and where the money is. */
#include "vd_audit.h"
#include "vd_cmd.h"
#include "vd_cmd_net.h"

#include <time.h>

struct vd_status {
    uint64_t height, time_ms;
    struct vd_hash block, state_root, genesis_hash;
    uint32_t health;
    char health_text[VD_WIRE_TEXT_MAX + 1];
    struct vd_totals totals;
    const struct vd_genesis *genesis;
    uint32_t n_keepers;
};

static bool vd_status_count(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    (void)key;
    (void)value;
    ++*(uint32_t *)arg;
    return true;
}

static enum vd_err vd_status_get(struct vd_ledger_client *c, struct vd_status *s, struct vd_error *err)
{
    struct vd_ledger_answer a;
    struct vd_wire_query q = {.kind = VD_QUERY_STATUS};
    enum vd_err e = vd_ledger_client_genesis(c, &s->genesis, &s->genesis_hash, err);
    if (e == VD_OK)
        e = vd_ledger_client_totals(c, &s->totals, err);
    if (e == VD_OK)
        e = vd_ledger_client_query(c, &q, VD_LEDGER_QUERY_TIMEOUT_MS, &a, err);
    if (e != VD_OK)
        return e;
    if (a.n_items >= 4 && a.item[0].n == 8 && a.item[1].n == 32 && a.item[2].n == 32 && a.item[3].n == 4) {
        s->height = a.height;
        s->time_ms = vd_le64_load(a.item[0].p);
        memcpy(s->block.b, a.item[1].p, 32);
        memcpy(s->state_root.b, a.item[2].p, 32);
        s->health = vd_le32_load(a.item[3].p);
        if (a.n_items > 4)
            snprintf(s->health_text, sizeof s->health_text, "%.*s", (int)a.item[4].n,
                     (const char *)a.item[4].p);
    } else {
        e = vd_error_set(err, VD_EFORMAT, "the ledger's answer about its status is malformed");
    }
    vd_ledger_answer_free(&a);
    struct vd_state_key keepers = vd_state_key_make(VD_STATE_KEEPER, NULL, 0, NULL);
    if (e == VD_OK && s->genesis->epoch_blocks)
        e = vd_ledger_client_list(c, &keepers, vd_status_count, &s->n_keepers, err);
    return e;
}

/* The epoch at hand: whatever settles in it is one batch, which is drawn at one height. */
static json_t *vd_status_audits_json(const struct vd_status *s)
{
    const struct vd_genesis *g = s->genesis;
    if (!g->epoch_blocks)
        return json_null();
    uint64_t epoch = vd_epoch_of(g, s->height);
    return json_pack("{s:I,s:I,s:I,s:I,s:I}", "epoch", (json_int_t)epoch, "first_height",
                     (json_int_t)(epoch * g->epoch_blocks), "last_height",
                     (json_int_t)((epoch + 1) * g->epoch_blocks - 1), "draw_height",
                     (json_int_t)vd_epoch_due(g, epoch), "keepers", (json_int_t)s->n_keepers);
}

static void vd_status_print_audits(struct vd_cli *cli, const struct vd_status *s)
{
    const struct vd_genesis *g = s->genesis;
    if (!g->epoch_blocks) {
        fprintf(cli->out, "audits        none in this network\n");
        return;
    }
    uint64_t epoch = vd_epoch_of(g, s->height);
    fprintf(cli->out,
            "audits        epoch %llu: the batch of blocks %llu to %llu is drawn at %llu, %u keeper%s%s\n",
            (unsigned long long)epoch, (unsigned long long)(epoch * g->epoch_blocks),
            (unsigned long long)((epoch + 1) * g->epoch_blocks - 1),
            (unsigned long long)vd_epoch_due(g, epoch), s->n_keepers, s->n_keepers == 1 ? "" : "s",
            s->n_keepers ? "" : ": nothing is drawn");
}

static void vd_status_print_json(struct vd_cli *cli, const struct vd_status *s)
{
    json_t *money = json_object();
    uint64_t sum = 0;
    for (int b = 0; b < VD_BUCKETS; b++) {
        char name[64];
        snprintf(name, sizeof name, "%s_micro", vd_bucket_name((enum vd_bucket)b));
        json_object_set_new(money, name, vd_cmd_json_amount(s->totals.bucket[b]));
        sum += s->totals.bucket[b].micro;
    }
    vd_cli_json(cli,
                json_pack("{s:s,s:o,s:I,s:I,s:o,s:o,s:s,s:I,s:I,s:I,s:o,s:o}", "network", s->genesis->network,
                          "genesis", vd_json_hex(s->genesis_hash.b, 32), "height", (json_int_t)s->height,
                          "time_ms", (json_int_t)s->time_ms, "block", vd_json_hex(s->block.b, 32),
                          "state_root", vd_json_hex(s->state_root.b, 32), "health",
                          vd_err_name((enum vd_err)s->health), "transactions", (json_int_t)s->totals.n_txs,
                          "supply_micro", (json_int_t)vd_genesis_supply(s->genesis).micro, "sum_micro",
                          (json_int_t)sum, "audits", vd_status_audits_json(s), "money", money));
}

static void vd_status_print(struct vd_cli *cli, const struct vd_status *s)
{
    char hex[65], amount[VD_CLI_CREDITS_MAX], when[32] = "";
    time_t t = (time_t)(s->time_ms / 1000);
    struct tm tm;
    vd_hex_encode(hex, s->genesis_hash.b, 32);
    if (gmtime_r(&t, &tm))
        strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S UTC", &tm);
    fprintf(cli->out, "network       %s\ngenesis       %s\nheight        %llu, %s\n", s->genesis->network,
            hex, (unsigned long long)s->height, when);
    vd_hex_encode(hex, s->block.b, 32);
    fprintf(cli->out, "block         %s\n", hex);
    vd_hex_encode(hex, s->state_root.b, 32);
    fprintf(cli->out, "state root    %s\ntransactions  %llu\n", hex, (unsigned long long)s->totals.n_txs);
    vd_status_print_audits(cli, s);
    if (s->health)
        fprintf(cli->out, "TROUBLE       %s\n",
                s->health_text[0] ? s->health_text : vd_err_text((enum vd_err)s->health));
    fprintf(cli->out, "supply        %s credits, of which\n",
            vd_cli_credits(amount, vd_genesis_supply(s->genesis).micro));
    for (int b = 0; b < VD_BUCKETS; b++)
        fprintf(cli->out, "  %-11s %s\n", vd_bucket_name((enum vd_bucket)b),
                vd_cli_credits(amount, s->totals.bucket[b].micro));
}

static enum vd_err vd_status_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_ledger_client *c;
    struct vd_status s = {0};
    enum vd_err e = vd_cmd_ledger_open(&c, cli, NULL, NULL, err);
    if (e != VD_OK)
        return e;
    e = vd_status_get(c, &s, err);
    if (e == VD_OK && cli->json)
        vd_status_print_json(cli, &s);
    else if (e == VD_OK)
        vd_status_print(cli, &s);
    vd_ledger_client_stop(c);
    return e;
}

static const struct vd_cli_opt vd_status_opts[] = {VD_CMD_OPTS_LEDGER, {0}};
const struct vd_cmd vd_cmd_status = {
    .name = "status",
    .group = "Money and history",
    .usage = "",
    .summary = "where the chain stands, what is drawn next, and where the money is",
    .help = "Of the latest durable block. The amounts add up to the supply; --json gives them in "
            "micro-credits and their sum.",
    .opts = vd_status_opts,
    .run = vd_status_run,
};
