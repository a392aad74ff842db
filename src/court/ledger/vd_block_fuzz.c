/* Any bytes as a block on top of a small state that has everything in it: two staked workers, a model, an
 * open escrow, a settled receipt and an open dispute. Whatever they are, the block is refused, or applied
 * with every credit accounted for.
 *
 * A fuzzer cannot sign, so signatures are taken as checked (`verified`), and the input's own genesis hash and
 * nonces are mended: each transaction is decoded, given the right network and its sender's next nonce, and
 * encoded again. */
#include "vd_audit.h"
#include "vd_court_kit.h"
#include "vd_pb.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static struct kit k;
static struct kit_net net;

static void give(int from, struct vd_tx tx, struct vd_hash *id)
{
    kit_check(kit_give(&net, from, tx, id) == VD_TX_OK);
}

/* A receipt under audit, a keeper with a layer to reveal, a planted trap. */
static void draw(const struct vd_hash *escrow)
{
    static const uint8_t seed[32] = {1};
    struct vd_hash secret = {{5}};
    struct kit_receipt r;
    for (int a = 4; a < 6; a++) {
        give(a, (struct vd_tx){.kind = VD_TX_STAKE, .u.stake = {{2000}}}, NULL);
        give(a, (struct vd_tx){.kind = VD_TX_AUDITOR, .u.auditor = {k.model_root, true}}, NULL);
    }
    give(1, (struct vd_tx){.kind = VD_TX_BEACON_OPEN, .u.beacon_open = {vd_onion_layer(seed, 9), 9}}, NULL);
    give(5,
         (struct vd_tx){.kind = VD_TX_TRAP_PLANT, .u.trap_plant = {vd_trap_commitment(&secret, escrow, 2)}},
         NULL);
    while (net.block.height < KIT_EPOCH)
        kit_end(&net);
    kit_receipt(&k, &r, escrow, 2, 3, 500, 100);
    give(1, (struct vd_tx){.kind = VD_TX_SETTLE, .u.settle = {1, {{r.bytes, r.n}}}}, NULL);
    while (net.block.height < 2 * KIT_EPOCH)
        kit_end(&net);
    give(1, (struct vd_tx){.kind = VD_TX_BEACON, .u.beacon = {1, vd_onion_layer(seed, 8)}}, NULL);
    while (net.block.height < vd_epoch_due(&k.genesis, 1) + 1)
        kit_end(&net);
    give(4, (struct vd_tx){.kind = VD_TX_AUDIT_DEMAND, .u.audit_demand = {r.id}}, NULL);
    kit_end(&net);
}

static void make_state(void)
{
    struct vd_hash escrow;
    struct kit_receipt r;
    kit_init(&k);
    k.genesis.steps_per_block = 4;
    k.genesis.max_receipt.micro = 1000;
    k.genesis.audit_window_blocks = 8;
    kit_audits(&k);
    kit_net_init(&net, &k);
    give(2, (struct vd_tx){.kind = VD_TX_STAKE, .u.stake = {{2000}}}, NULL);
    give(3, (struct vd_tx){.kind = VD_TX_STAKE, .u.stake = {{2000}}}, NULL);
    give(2,
         (struct vd_tx){.kind = VD_TX_REGISTER_MODEL,
                        .u.register_model = {{k.program, k.program_bytes}, k.n_tensors, k.tensors_root}},
         NULL);
    give(0, (struct vd_tx){.kind = VD_TX_ESCROW_OPEN, .u.escrow_open = {k.key[1].pub, {5000}}}, &escrow);
    kit_receipt(&k, &r, &escrow, 1, 2, 500, 100);
    give(1, (struct vd_tx){.kind = VD_TX_SETTLE, .u.settle = {1, {{r.bytes, r.n}}}}, NULL);
    give(4, (struct vd_tx){.kind = VD_TX_CHALLENGE, .u.challenge = {r.id}}, NULL);
    kit_end(&net);
    draw(&escrow);
}

/* The transaction with network, nonce and a well-formed signature put right. */
static size_t mend(struct vd_bytes in, uint8_t *out, size_t cap)
{
    static struct vd_tx_signed s;
    static uint8_t body[VD_TX_MAX_BYTES];
    struct vd_account a;
    if (!vd_tx_decode(in, &s))
        return 0;
    s.tx.genesis = k.ledger.genesis_hash;
    if (vd_ledger_get_account(&net.block.overlay.kv, &s.tx.sender, &a))
        s.tx.nonce = a.nonce;
    struct vd_pb_writer w = vd_pb_writer_init(out, cap);
    vd_pb_put_elem(&w, 1, body, vd_tx_body_encode(&s.tx, body, sizeof body));
    vd_pb_put_elem(&w, 2, s.sig.b, VD_SIG_BYTES);
    return w.overflow ? 0 : w.n_bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static struct vd_bytes tx[VD_BLOCK_MAX_TXS];
    static uint8_t mended[VD_TX_MAX_BYTES];
    struct vd_block b;
    struct vd_error err;
    if (!net.k)
        make_state();
    kit_begin(&net);
    if (!vd_block_decode((struct vd_bytes){data, n_bytes}, &b, tx, VD_BLOCK_MAX_TXS)) {
        /* Take the transactions at least: most mutations only break the root. */
        struct vd_pb_reader r = vd_pb_reader_init(data, n_bytes);
        b.n_txs = 0;
        vd_pb_get_bytes(&r, 1, n_bytes);
        while (b.n_txs < 64 && vd_pb_next_elem(&r, 2, &tx[b.n_txs], VD_TX_MAX_BYTES))
            b.n_txs++;
    }
    for (uint32_t i = 0; i < b.n_txs; i++) {
        vd_ledger_deliver(&net.block, tx[i], false);
        size_t n = mend(tx[i], mended, sizeof mended);
        vd_ledger_deliver(&net.block, (struct vd_bytes){mended, n}, true);
    }
    kit_check(vd_ledger_end(&net.block, &err) == VD_OK);
    return 0;
}
