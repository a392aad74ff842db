/* Traps: receipts that are wrong on purpose, for auditors who say what they are told instead of replaying.
 *
 * The commit tree of a trap has one leaf that no computation gives. Planting commits to it before the receipt
 * is settled, and binds: a trap that is not opened in time costs its bond, which is never below what a false
 * receipt can be worth, so "it was a trap" is no way out for a cheat. For that a trap is one receipt, named
 * (by escrow and sequence) in what is planted: a secret that stood in many would excuse whichever of them is
 * drawn, and its bond would cover one. A trap that is opened is paid to nobody. It pays into the pool what an
 * honest receipt would have, since auditors who saw it are paid. */
#include "vd_audit.h"
#include "vd_ledger_impl.h"
#include "vd_merkle.h"

enum vd_tx_verdict vd_apply_trap_plant(struct vd_deliver *d)
{
    const struct vd_genesis *g = d->b->ledger->genesis;
    struct vd_trap t = {d->tx->sender, d->tx->u.trap_plant.commitment, d->b->height, g->trap_bond};
    if (!g->epoch_blocks)
        return VD_TX_NO_AUDITS;
    if (!vd_block_debit(d->b, &d->tx->sender, g->trap_bond))
        return VD_TX_FUNDS;
    vd_block_put_trap(d->b, &d->id, &t);
    vd_block_deadline_add(d->b, d->b->height + g->trap_blocks, VD_DEADLINE_TRAP, &d->id);
    vd_block_event(
        d->b, (struct vd_event){
                  .kind = VD_EVENT_TRAP_PLANTED, .id = d->id, .a = d->tx->sender, .amount = g->trap_bond});
    return VD_TX_OK;
}

static void remove_trap(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_trap *t)
{
    struct vd_state_key at = vd_state_key_make(VD_STATE_TRAP, id->b, VD_HASH_BYTES, NULL);
    t->bond = VD_AMOUNT_ZERO;
    vd_block_put_trap(b, id, t);
    vd_block_delete(b, &at);
}

void vd_end_trap(struct vd_ledger_block *b, const struct vd_hash *trap_id)
{
    struct vd_trap t;
    if (!vd_block_get_trap(b, trap_id, &t)) {
        b->broken = true;
        return;
    }
    struct vd_amount bond = t.bond;
    remove_trap(b, trap_id, &t);
    vd_block_burn(b, bond);
    vd_block_event(
        b, (struct vd_event){.kind = VD_EVENT_TRAP_EXPIRED, .id = *trap_id, .a = t.owner, .amount = bond});
}

/* Does the receipt's commit tree hold the trap's leaf? */
static bool trap_fits(struct vd_ledger_block *b, const struct vd_tx_trap_open *o, const struct vd_trap *t,
                      const struct vd_receipt_record *record)
{
    struct vd_hash commitment = vd_trap_commitment(&o->secret, &record->escrow_id, record->sequence);
    struct vd_hash leaf = vd_trap_leaf(&o->secret), proof[64];
    struct vd_receipt r;
    if (vd_receipt_decode(record->body, &r) != VD_RECEIPT_OK) {
        b->broken = true;
        return false;
    }
    uint32_t n = vd_receipt_n_steps(&r);
    if (!vd_hash_eq(&commitment, &t->commitment) || record->settle_height <= t->height || n < 2 ||
        o->index >= n || vd_amount_cmp(record->amount, t->bond) > 0 ||
        o->proof.n != VD_HASH_BYTES * vd_merkle_range_proof_len(n, o->index, 1))
        return false;
    if (o->proof.n)
        memcpy(proof, o->proof.p, o->proof.n);
    struct vd_hash root = vd_merkle_range_root(n, o->index, 1, &leaf, proof);
    return vd_hash_eq(&root, &r.commit_root);
}

/* Share of what auditors lost to the owner, rounded down; the rest burns. */
static void share_out(struct vd_ledger_block *b, const struct vd_pubkey *owner, struct vd_amount lost)
{
    struct vd_amount share = vd_amount_share(lost, b->ledger->genesis->challenger_share_ppm, VD_PPM);
    vd_block_credit(b, owner, share);
    vd_block_sub(b, &lost, share);
    vd_block_burn(b, lost);
}

enum vd_tx_verdict vd_apply_trap_open(struct vd_deliver *d)
{
    const struct vd_tx_trap_open *o = &d->tx->u.trap_open;
    const struct vd_genesis *g = d->b->ledger->genesis;
    struct vd_ledger_block *b = d->b;
    struct vd_receipt_record r;
    struct vd_trap t;
    if (!vd_block_get_trap(b, &o->trap_id, &t) || !vd_pubkey_eq(&t.owner, &d->tx->sender) ||
        b->height > t.height + g->trap_blocks)
        return VD_TX_UNKNOWN_TRAP;
    if (!vd_block_get_receipt(b, &o->receipt_id, &r))
        return VD_TX_UNKNOWN_RECEIPT;
    if (r.status != VD_RECEIPT_SETTLED)
        return VD_TX_WINDOW_CLOSED;
    if (!trap_fits(b, o, &t, &r))
        return VD_TX_BAD_TRAP;
    struct vd_amount bond = t.bond, fee = vd_amount_share(r.amount, g->auditor_share_ppm, VD_PPM);
    vd_block_deadline_remove(b, t.height + g->trap_blocks, VD_DEADLINE_TRAP, &o->trap_id);
    remove_trap(b, &o->trap_id, &t);
    vd_block_sub(b, &bond, fee);
    vd_block_add(b, &b->totals.bucket[VD_BUCKET_POOL], fee);
    vd_block_credit(b, &t.owner, bond);
    vd_block_event(b, (struct vd_event){.kind = VD_EVENT_TRAP_OPENED,
                                        .id = o->receipt_id,
                                        .id2 = o->trap_id,
                                        .a = r.worker,
                                        .b = t.owner});
    share_out(b, &t.owner, vd_receipt_void(b, &o->receipt_id, &r, VD_VOID_TRAP));
    return VD_TX_OK;
}
