/* vd_trap_setter: plants a trap and sees it through (docs/spec/audit.md, 6). It settles a receipt of a job
 * that nobody ran, as its worker, gateway and payer in one; prints its id and the halves of its root, as a
 * worker would whisper them to lazy auditors; shows the data when they are demanded; and opens the trap when
 * all auditors have spoken. */
#include "vd_audit.h"
#include "vd_clock.h"
#include "vd_cmd.h"
#include "vd_cmd_net.h"
#include "vd_trace_hash.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum {
    WAIT_MS = 30000,
    PROMPT = 3,
    OUTPUT = 2,
    STEPS = PROMPT + OUTPUT - 1,
    TRAP_AT = 2,
    SEQUENCE = 1,
    STAKE = 120000000
};
static const uint32_t tokens[PROMPT + OUTPUT] = {1, 2, 3, 4, 5};

struct setter {
    struct vd_keypair key;
    struct vd_ledger_client *ledger;
    struct vd_hash model_root, secret, trap, receipt_id, leaf[STEPS];
    uint8_t salt[VD_SALT_BYTES];
};

static enum vd_err send_tx(struct setter *s, struct vd_tx tx, struct vd_hash *id, struct vd_error *err)
{
    struct vd_ledger_outcome o = {.height = 0};
    enum vd_err e = vd_ledger_client_send(s->ledger, &tx, WAIT_MS, &o, err);
    if (id)
        *id = o.tx_id;
    return e;
}

/* Everything before the receipt: the trap first, or it would be no trap. */
static enum vd_err prepare(struct setter *s, struct vd_hash *escrow, struct vd_error *err)
{
    vd_key_random(s->salt, sizeof s->salt);
    vd_key_random(s->secret.b, sizeof s->secret.b);
    vd_key_random(s->leaf, sizeof s->leaf);
    s->leaf[TRAP_AT] = vd_trap_leaf(&s->secret);
    struct vd_tx plant = {.kind = VD_TX_TRAP_PLANT};
    enum vd_err e = send_tx(
        s, (struct vd_tx){.kind = VD_TX_ESCROW_OPEN, .u.escrow_open = {s->key.pub, {1000000}}}, escrow, err);
    plant.u.trap_plant.commitment = vd_trap_commitment(&s->secret, escrow, SEQUENCE);
    if (e == VD_OK)
        e = send_tx(s, plant, &s->trap, err);
    if (e == VD_OK)
        e = send_tx(s, (struct vd_tx){.kind = VD_TX_STAKE, .u.stake = {{STAKE}}}, NULL, err);
    return e;
}

static enum vd_err settle(struct setter *s, const struct vd_hash *escrow, struct vd_error *err)
{
    static uint8_t bytes[VD_SIGNED_RECEIPT_MAX_BYTES];
    struct vd_signed_receipt is;
    const struct vd_genesis *g;
    struct vd_receipt r = {.request = {.arith_version = VD_ARITH_VERSION,
                                       .valid_until = vd_ledger_client_height(s->ledger) + 500,
                                       .escrow_id = *escrow,
                                       .sequence = SEQUENCE,
                                       .gateway = s->key.pub,
                                       .worker = s->key.pub,
                                       .model_root = s->model_root,
                                       .n_prompt = PROMPT,
                                       .prompt_root = vd_token_root(s->salt, 0, tokens, PROMPT),
                                       .salt_commit = vd_salt_commit(s->salt),
                                       .sampling = {.top_p_micro = 1000000},
                                       .max_tokens = OUTPUT,
                                       .price_out = {10000}},
                           .n_output = OUTPUT,
                           .output_root = vd_token_root(s->salt, PROMPT, tokens + PROMPT, OUTPUT),
                           .finish = VD_FINISH_LENGTH,
                           .commit_root = vd_merkle_root(s->leaf, STEPS),
                           .amount = {10000 * OUTPUT}};
    enum vd_err e = vd_ledger_client_genesis(s->ledger, &g, &r.request.genesis, err);
    if (e != VD_OK)
        return e;
    is.body_bytes = vd_receipt_encode(&r, is.body, sizeof is.body);
    vd_key_sign(&is.worker_sig, &s->key, VD_TAG_RECEIPT, is.body, is.body_bytes);
    vd_key_sign(&is.gateway_sig, &s->key, VD_TAG_ACCEPT, is.body, is.body_bytes);
    size_t n = vd_signed_receipt_encode(&is, bytes, sizeof bytes);
    s->receipt_id = vd_signed_receipt_id(&is);
    return send_tx(s, (struct vd_tx){.kind = VD_TX_SETTLE, .u.settle = {1, {{bytes, n}}}}, NULL, err);
}

static void whisper(const struct setter *s, FILE *out)
{
    struct vd_hash half[2] = {vd_merkle_node(&s->leaf[0], &s->leaf[1]),
                              vd_merkle_node(&s->leaf[2], &s->leaf[3])};
    char id[65], a[65], b[65];
    vd_hex_encode(id, s->receipt_id.b, VD_HASH_BYTES);
    vd_hex_encode(a, half[0].b, VD_HASH_BYTES);
    vd_hex_encode(b, half[1].b, VD_HASH_BYTES);
    fprintf(out, "%s %s %s\n", id, a, b);
    fflush(out);
}

static enum vd_err show_data(struct setter *s, struct vd_error *err)
{
    uint8_t bytes[4 * (PROMPT + OUTPUT)];
    struct vd_tx tx = {.kind = VD_TX_AUDIT_DATA, .u.audit_data = {.receipt_id = s->receipt_id}};
    for (size_t i = 0; i < PROMPT + OUTPUT; i++)
        vd_le32_store(bytes + 4 * i, tokens[i]);
    memcpy(tx.u.audit_data.salt.b, s->salt, VD_SALT_BYTES);
    tx.u.audit_data.tokens = (struct vd_bytes){bytes, sizeof bytes};
    return send_tx(s, tx, NULL, err);
}

static enum vd_err open_trap(struct setter *s, struct vd_error *err)
{
    struct vd_hash proof[8];
    size_t n = vd_merkle_range_proof_len(STEPS, TRAP_AT, 1);
    vd_merkle_range_prove(s->leaf, STEPS, TRAP_AT, 1, proof);
    struct vd_tx tx = {
        .kind = VD_TX_TRAP_OPEN,
        .u.trap_open = {s->trap, s->receipt_id, s->secret, TRAP_AT, {proof->b, n * VD_HASH_BYTES}}};
    return send_tx(s, tx, NULL, err);
}

/* Until the auditors are through. */
static enum vd_err see_through(struct setter *s, struct vd_error *err)
{
    struct vd_audit a;
    for (int i = 0; i < 600; i++, vd_clock_sleep_ms(100)) {
        enum vd_err e = vd_ledger_client_audit(s->ledger, &s->receipt_id, &a, err);
        if (e == VD_OK && a.phase == VD_AUDIT_DATA_DUE)
            e = show_data(s, err);
        if (e == VD_OK && a.phase == VD_AUDIT_HEARD)
            return open_trap(s, err);
        if (e != VD_OK && e != VD_ENOTFOUND && e != VD_EFALSE)
            return e;
    }
    return vd_error_set(err, VD_ETIMEOUT, "the audit did not come to its end");
}

static enum vd_err trap_run(struct vd_cli *cli, struct vd_error *err)
{
    static struct setter s;
    struct vd_hash escrow;
    enum vd_err e = vd_cli_parse_hash("the model", cli->arg[0], s.model_root.b, err);
    if (e == VD_OK)
        e = vd_cmd_load_key(&s.key, vd_cli_text(cli, "key", "default"), false, err);
    if (e == VD_OK)
        e = vd_cmd_ledger_open(&s.ledger, cli, &s.key, NULL, err);
    if (e != VD_OK)
        return e;
    e = prepare(&s, &escrow, err);
    if (e == VD_OK)
        e = settle(&s, &escrow, err);
    if (e == VD_OK) {
        whisper(&s, cli->out);
        e = see_through(&s, err);
    }
    vd_ledger_client_stop(s.ledger);
    vd_key_wipe(&s.key);
    return e;
}

static const struct vd_cli_opt trap_opts[] = {VD_CMD_OPTS_KEY, VD_CMD_OPTS_LEDGER, {0}};
static const struct vd_cmd trap_cmd = {
    .name = "trap",
    .group = "Test program",
    .usage = "MODELROOT",
    .summary = "a receipt that is wrong on purpose",
    .help = "Plants a trap for auditors, whispers its root, and opens it when they have spoken. For tests.",
    .opts = trap_opts,
    .min_args = 1,
    .max_args = 1,
    .run = trap_run,
};

int main(int argc, char **argv)
{
    static const struct vd_cmd *const list[] = {&trap_cmd, NULL};
    signal(SIGPIPE, SIG_IGN);
    return vd_cli_run(list, argc, argv, stdout, stderr);
}
