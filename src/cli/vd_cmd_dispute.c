/* veridem receipt, veridem dispute: what became of an answer on the ledger, and how a dispute about it went.
 */
#include "vd_cmd.h"
#include "vd_cmd_net.h"
#include "vd_cmd_receipt.h"
#include "vd_dispute_log.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- receipt ---- */

static json_t *vd_receipt_json(const struct vd_hash *id, const struct vd_receipt_record *r)
{
    return json_pack(
        "{s:o,s:s,s:o,s:o,s:o,s:o,s:I,s:I,s:I,s:I,s:I,s:I,s:s,s:b}", "receipt", vd_json_hex(id->b, 32),
        "status", vd_receipt_status_name(r->status), "worker", vd_json_hex(r->worker.b, 32), "gateway",
        vd_json_hex(r->gateway.b, 32), "model_root", vd_json_hex(r->model_root.b, 32), "escrow",
        vd_json_hex(r->escrow_id.b, 32), "sequence", (json_int_t)r->sequence, "amount_micro",
        (json_int_t)r->amount.micro, "settle_height", (json_int_t)r->settle_height, "window_end_height",
        (json_int_t)r->window_end_height, "close_height", (json_int_t)r->close_height, "open_disputes",
        (json_int_t)r->n_open_disputes, "void_why", vd_void_why_name(r->void_why), "audited", r->audited);
}

static void vd_receipt_print(FILE *out, const struct vd_hash *id, const struct vd_receipt_record *r)
{
    char hex[65], hex_of_id[65], amount[VD_CLI_CREDITS_MAX];
    vd_hex_encode(hex_of_id, id->b, VD_HASH_BYTES);
    fprintf(out, "receipt     %s\nstatus      %s\namount      %s credits\n", hex_of_id,
            vd_receipt_status_name(r->status), vd_cli_credits(amount, r->amount.micro));
    vd_hex_encode(hex, r->worker.b, VD_PUBKEY_BYTES);
    fprintf(out, "worker      %s\n", hex);
    vd_hex_encode(hex, r->gateway.b, VD_PUBKEY_BYTES);
    fprintf(out, "gateway     %s\n", hex);
    vd_hex_encode(hex, r->model_root.b, VD_HASH_BYTES);
    fprintf(out, "model root  %s\n", hex);
    vd_hex_encode(hex, r->escrow_id.b, VD_HASH_BYTES);
    fprintf(out, "escrow      %s, sequence %llu\n", hex, (unsigned long long)r->sequence);
    fprintf(out, "settled     in block %llu, may be challenged up to block %llu\n",
            (unsigned long long)r->settle_height, (unsigned long long)r->window_end_height);
    if (r->close_height)
        fprintf(out, "closed      in block %llu%s%s\n", (unsigned long long)r->close_height,
                r->void_why ? ": " : "", vd_void_why_name(r->void_why));
    if (r->audited)
        fprintf(out, "audited     veridem audit show %s\n", hex_of_id);
    if (r->n_open_disputes)
        fprintf(out, "disputes    %u open\n", r->n_open_disputes);
}

struct vd_list {
    struct vd_cli *cli;
    json_t *list;
    size_t n;
};

static bool vd_receipt_row(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    struct vd_list *l = arg;
    struct vd_receipt_record r;
    struct vd_hash id;
    char hex[65], amount[VD_CLI_CREDITS_MAX];
    if (key.n != 1 + VD_HASH_BYTES || !vd_receipt_record_decode(value, &r))
        return true;
    l->n++;
    memcpy(id.b, key.p + 1, VD_HASH_BYTES);
    vd_hex_encode(hex, id.b, VD_HASH_BYTES);
    if (l->list)
        json_array_append_new(l->list, vd_receipt_json(&id, &r));
    else
        fprintf(l->cli->out, "%s  %-8s %12s  block %llu\n", hex, vd_receipt_status_name(r.status),
                vd_cli_credits(amount, r.amount.micro), (unsigned long long)r.settle_height);
    return true;
}

/* `none` is said to people when there is nothing. */
static enum vd_err vd_list_all(struct vd_cli *cli, enum vd_state_class c, vd_ledger_list_fn *row,
                               const char *none, struct vd_error *err)
{
    struct vd_list l = {.cli = cli, .list = cli->json ? json_array() : NULL};
    struct vd_state_key prefix = vd_state_key_make(c, NULL, 0, NULL);
    struct vd_ledger_client *client;
    enum vd_err e = vd_cmd_ledger_open(&client, cli, NULL, NULL, err);
    if (e == VD_OK) {
        e = vd_ledger_client_list(client, &prefix, row, &l, err);
        vd_ledger_client_stop(client);
    }
    if (e == VD_OK && !l.list && l.n == 0)
        fprintf(stderr, "%s\n", none);
    if (e == VD_OK && l.list)
        vd_cli_json(cli, l.list);
    else
        json_decref(l.list);
    return e;
}

static enum vd_err vd_receipt_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_ledger_client *c;
    struct vd_receipt_record r;
    struct vd_hash id;
    if (!cli->n_args)
        return vd_list_all(cli, VD_STATE_RECEIPT, vd_receipt_row, "no receipt has been settled", err);
    enum vd_err e = vd_cli_parse_hash("the receipt", cli->arg[0], id.b, err);
    if (e != VD_OK && access(cli->arg[0], F_OK) == 0)
        return vd_error_set(err, VD_EUSE,
                            "%.200s is a file; this wants an id, of 64 hexadecimal digits: `veridem verify` "
                            "checks a file, and says its id",
                            cli->arg[0]);
    if (e == VD_OK)
        e = vd_cmd_ledger_open(&c, cli, NULL, NULL, err);
    if (e != VD_OK)
        return e;
    e = vd_ledger_client_receipt(c, &id, &r, err);
    vd_ledger_client_stop(c);
    if (e == VD_ENOTFOUND)
        return vd_error_set(err, e, "the ledger knows no receipt %s; it is not settled yet, or never will be",
                            cli->arg[0]);
    if (e == VD_OK && cli->json)
        vd_cli_json(cli, vd_receipt_json(&id, &r));
    else if (e == VD_OK)
        vd_receipt_print(cli->out, &id, &r);
    return e;
}

static const struct vd_cli_opt vd_receipt_opts[] = {VD_CMD_OPTS_LEDGER, {0}};
static const struct vd_cmd *const vd_receipt_sub[] = {&vd_cmd_receipt_convert, NULL};
const struct vd_cmd vd_cmd_receipt = {
    .name = "receipt",
    .group = "Money and history",
    .usage = "[ID]",
    .summary = "what became of a receipt on the ledger; without ID all of them",
    .help = "settled: the amount is pending until the audit window has passed; final: paid; void: a verdict "
            "against the worker\n"
            "returned it to the escrow. `veridem verify` checks a receipt's file.",
    .opts = vd_receipt_opts,
    .max_args = 1,
    .run = vd_receipt_run,
    .sub = vd_receipt_sub,
};

/* ---- dispute ---- */

static bool vd_dispute_row(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    struct vd_list *l = arg;
    struct vd_dispute d;
    char hex[65], receipt[65];
    if (key.n != 1 + VD_HASH_BYTES || !vd_dispute_decode(value, &d))
        return true;
    l->n++;
    vd_hex_encode(hex, key.p + 1, VD_HASH_BYTES);
    vd_hex_encode(receipt, d.receipt_id.b, VD_HASH_BYTES);
    if (l->list)
        json_array_append_new(
            l->list,
            json_pack("{s:s,s:s,s:b,s:o,s:o,s:o,s:I,s:I,s:I}", "dispute", hex, "status",
                      vd_dispute_status_name(d.status), "open", vd_dispute_open(d.status), "receipt",
                      vd_json_hex(d.receipt_id.b, 32), "worker", vd_json_hex(d.worker.b, 32), "challenger",
                      vd_json_hex(d.challenger.b, 32), "open_height", (json_int_t)d.open_height, "end_height",
                      (json_int_t)d.end_height, "moves", (json_int_t)d.n_moves));
    else
        fprintf(l->cli->out, "%s  about receipt %s  %2u moves  %s\n", hex, receipt, d.n_moves,
                vd_dispute_status_name(d.status));
    return true;
}

static enum vd_err vd_dispute_list_run(struct vd_cli *cli, struct vd_error *err)
{
    return vd_list_all(cli, VD_STATE_DISPUTE, vd_dispute_row, "there has been no dispute", err);
}

static const char *vd_side_name(enum vd_game_side s)
{
    return s == VD_GAME_WORKER ? "worker" : "challenger";
}

/* What an event's amount counts in the JSON form. */
static const char *vd_dispute_amount_name(enum vd_event_kind k)
{
    return k == VD_EVENT_MOVED ? "bytes" : k == VD_EVENT_AUDIT_REVEALED ? "verdict" : "amount_micro";
}

static void vd_dispute_print_json(struct vd_cli *cli, const struct vd_dispute_log *log)
{
    json_t *moves = json_array(), *events = json_array();
    for (size_t i = 0; i < log->n_moves; i++) {
        const struct vd_dispute_step *m = &log->move[i];
        json_t *j = json_pack("{s:I,s:I,s:s,s:s,s:I,s:s,s:s,s:f}", "n", (json_int_t)i + 1, "height",
                              (json_int_t)m->height, "side", vd_side_name(m->side), "kind",
                              vd_move_name(m->kind), "bytes", (json_int_t)m->n_bytes, "where", m->where,
                              "result", m->result, "check_us", (double)m->referee_ns / 1e3);
        if (m->kind == VD_MOVE_TILE) {
            json_object_set_new(j, "worker_record", json_string(log->worker_record));
            json_object_set_new(j, "true_record", json_string(log->true_record));
        }
        json_array_append_new(moves, j);
    }
    for (size_t i = 0; i < log->n_events; i++) {
        const struct vd_event *e = &log->event[i].event;
        json_array_append_new(events,
                              json_pack("{s:I,s:s,s:I}", "height", (json_int_t)log->event[i].height, "event",
                                        vd_event_name(e->kind), vd_dispute_amount_name(e->kind),
                                        (json_int_t)e->amount.micro));
    }
    const struct vd_dispute *d = &log->record;
    vd_cli_json(
        cli, json_pack("{s:o,s:o,s:s,s:b,s:s,s:o,s:o,s:I,s:I,s:I,s:I,s:o,s:o}", "dispute",
                       vd_json_hex(log->id.b, 32), "receipt", vd_json_hex(d->receipt_id.b, 32), "status",
                       vd_dispute_status_name(d->status), "open", vd_dispute_open(d->status), "verdict",
                       log->n_moves && !vd_dispute_open(d->status) ? log->move[log->n_moves - 1].result : "",
                       "worker", vd_json_hex(d->worker.b, 32), "challenger", vd_json_hex(d->challenger.b, 32),
                       "amount_micro", (json_int_t)log->receipt.amount.micro, "open_height",
                       (json_int_t)d->open_height, "deadline_height", (json_int_t)d->deadline_height,
                       "end_height", (json_int_t)d->end_height, "moves", moves, "events", events));
}

/* Where the money of a dispute's end went. */
static const struct {
    enum vd_event_kind kind;
    const char *what;
} vd_dispute_money[] = {
    {VD_EVENT_SLASHED, "taken from the worker's stake"},
    {VD_EVENT_VOID, "of the answer's price back to the escrow that paid"},
    {VD_EVENT_WORKER_LOST, "of the slash to the challenger, who has its bond back too"},
    {VD_EVENT_CHALLENGER_LOST, "the challenger's bond, lost"},
    {VD_EVENT_MOOT, "the challenger's bond, returned"},
    {VD_EVENT_FINAL, "of the answer's price paid"},
    {VD_EVENT_AUDIT_PAID, "to an auditor"},
    {VD_EVENT_AUDIT_MISSED, "taken from the stake of an auditor that was late"},
    {VD_EVENT_AUDIT_SLASHED, "taken from the stake of an auditor that was wrong"},
    {VD_EVENT_BURNED, "burned"},
};

static void vd_dispute_print_money(struct vd_cli *cli, const struct vd_dispute_log *log)
{
    char amount[VD_CLI_CREDITS_MAX];
    for (size_t i = 0; i < log->n_events; i++)
        for (size_t k = 0; k < sizeof vd_dispute_money / sizeof vd_dispute_money[0]; k++)
            if (log->event[i].event.kind == vd_dispute_money[k].kind)
                fprintf(cli->out, "block %-6llu %-15s %14s credits %s%s\n",
                        (unsigned long long)log->event[i].height, vd_event_name(log->event[i].event.kind),
                        vd_cli_credits(amount, log->event[i].event.amount.micro), vd_dispute_money[k].what,
                        log->event[i].event.kind == VD_EVENT_SLASHED && !log->event[i].event.amount.micro
                            ? ", of which nothing was left"
                            : "");
}

/* As a tree: each thing that the challenger points at is a step deeper. */
static void vd_dispute_print_moves(struct vd_cli *cli, const struct vd_dispute_log *log)
{
    enum { INDENT_MAX = 16, KIND = 13 };
    int indent = 0;
    for (size_t i = 0; i < log->n_moves; i++) {
        const struct vd_dispute_step *m = &log->move[i];
        bool challenger = m->side == VD_GAME_CHALLENGER;
        indent += challenger && i > 0 && indent < INDENT_MAX ? 2 : 0;
        fprintf(cli->out, "block %-6llu %*s%c %-*s %6zu bytes  %s\n", (unsigned long long)m->height, indent,
                "", challenger ? 'C' : 'W', INDENT_MAX - indent + KIND, vd_move_name(m->kind), m->n_bytes,
                m->where);
    }
}

static void vd_dispute_print(struct vd_cli *cli, const struct vd_dispute_log *log)
{
    const struct vd_dispute *d = &log->record;
    char hex[65], amount[VD_CLI_CREDITS_MAX];
    vd_hex_encode(hex, log->id.b, VD_HASH_BYTES);
    fprintf(cli->out, "dispute %s\n", hex);
    vd_hex_encode(hex, d->receipt_id.b, VD_HASH_BYTES);
    fprintf(cli->out, "about receipt %s, %s credits\n", hex,
            vd_cli_credits(amount, log->receipt.amount.micro));
    vd_hex_encode(hex, d->worker.b, VD_PUBKEY_BYTES);
    fprintf(cli->out, "worker        %s\n", hex);
    vd_hex_encode(hex, d->challenger.b, VD_PUBKEY_BYTES);
    fprintf(cli->out, "challenger    %s\n\nblock %-6llu C challenges, with a bond\n", hex,
            (unsigned long long)d->open_height);
    vd_dispute_print_moves(cli, log);
    if (log->n_moves && !vd_dispute_open(d->status))
        fprintf(cli->out, "\nverdict: %s\n", log->move[log->n_moves - 1].result);
    vd_dispute_print_money(cli, log);
    fprintf(cli->out, "\n%s", vd_dispute_status_name(d->status));
    if (vd_dispute_open(d->status))
        fprintf(cli->out, ", until block %llu", (unsigned long long)d->deadline_height);
    fputc('\n', cli->out);
}

static enum vd_err vd_dispute_show_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_dispute_log *log;
    struct vd_hash id;
    enum vd_err e = vd_cli_parse_hash("the dispute", cli->arg[0], id.b, err);
    if (e == VD_OK)
        e = vd_dispute_log_read(&log, cli, &id, err);
    if (e != VD_OK)
        return e;
    if (cli->json)
        vd_dispute_print_json(cli, log);
    else
        vd_dispute_print(cli, log);
    free(log);
    return VD_OK;
}

static const struct vd_cmd vd_dispute_cmd_list = {
    .name = "list",
    .usage = "",
    .summary = "all disputes, open and over",
    .opts = vd_receipt_opts,
    .run = vd_dispute_list_run,
};
static const struct vd_cmd vd_dispute_cmd_show = {
    .name = "show",
    .usage = "ID",
    .summary = "a dispute move by move, checked again here",
    .help = "Takes the moves from the ledger's blocks and plays them again: the verdict is one that this "
            "machine has\n"
            "checked. C is the challenger, who points, each time a step deeper; W the worker, who opens. "
            "--json gives\n"
            "the same with what checking each move took.",
    .opts = vd_receipt_opts,
    .min_args = 1,
    .max_args = 1,
    .run = vd_dispute_show_run,
};
static const struct vd_cmd *const vd_dispute_sub[] = {&vd_dispute_cmd_list, &vd_dispute_cmd_show, NULL};
const struct vd_cmd vd_cmd_dispute = {
    .name = "dispute",
    .group = "Money and history",
    .usage = "",
    .summary = "disputes, and how each went",
    .help = "A dispute narrows a receipt that does not stand down to one record of one operator, which the "
            "ledger recomputes.",
    .sub = vd_dispute_sub,
};
