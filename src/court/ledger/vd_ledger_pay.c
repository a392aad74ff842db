/* The kinds that move money without a receipt, and what workers announce: transfers, stake, models, offers,
 * escrows. */
#include "vd_ledger_impl.h"
#include "vd_program.h"

enum vd_tx_verdict vd_apply_transfer(struct vd_deliver *d)
{
    const struct vd_tx_transfer *t = &d->tx->u.transfer;
    if (t->amount.micro == 0)
        return VD_TX_BAD_AMOUNT;
    if (!vd_block_debit(d->b, &d->tx->sender, t->amount))
        return VD_TX_FUNDS;
    vd_block_credit(d->b, &t->to, t->amount);
    vd_block_event(
        d->b,
        (struct vd_event){
            .kind = VD_EVENT_TRANSFER, .id = d->id, .a = d->tx->sender, .b = t->to, .amount = t->amount});
    return VD_TX_OK;
}

enum vd_tx_verdict vd_apply_stake(struct vd_deliver *d)
{
    struct vd_amount amount = d->tx->u.stake.amount;
    struct vd_stake s;
    if (amount.micro == 0)
        return VD_TX_BAD_AMOUNT;
    if (!vd_block_debit(d->b, &d->tx->sender, amount))
        return VD_TX_FUNDS;
    vd_block_get_stake(d->b, &d->tx->sender, &s);
    vd_block_add(d->b, &s.amount, amount);
    if (vd_amount_cmp(s.amount, d->b->ledger->genesis->min_stake) < 0)
        return VD_TX_BELOW_MIN_STAKE;
    vd_block_put_stake(d->b, &d->tx->sender, &s);
    vd_block_event(d->b, (struct vd_event){.kind = VD_EVENT_STAKE, .a = d->tx->sender, .amount = amount});
    return VD_TX_OK;
}

enum vd_tx_verdict vd_apply_unstake(struct vd_deliver *d)
{
    const struct vd_genesis *g = d->b->ledger->genesis;
    struct vd_amount amount = d->tx->u.stake.amount;
    struct vd_stake s;
    if (amount.micro == 0)
        return VD_TX_BAD_AMOUNT;
    if (!vd_block_get_stake(d->b, &d->tx->sender, &s))
        return VD_TX_FUNDS;
    if (s.n_open_receipts || s.n_open_disputes || s.n_open_audits || s.n_listed ||
        (s.listed_until_height && vd_block_may_be_drawn(d->b, s.listed_until_height)))
        return VD_TX_STAKE_IN_USE;
    if (!vd_amount_sub(&s.amount, s.amount, amount))
        return VD_TX_FUNDS;
    if (s.amount.micro && vd_amount_cmp(s.amount, g->min_stake) < 0)
        return VD_TX_BELOW_MIN_STAKE;
    vd_block_add(d->b, &s.unbonding, amount);
    s.withdraw_height = d->b->height + g->unbonding_blocks;
    vd_block_put_stake(d->b, &d->tx->sender, &s);
    vd_block_event(d->b,
                   (struct vd_event){.kind = VD_EVENT_UNSTAKE, .a = d->tx->sender, .amount = s.unbonding});
    return VD_TX_OK;
}

enum vd_tx_verdict vd_apply_withdraw(struct vd_deliver *d)
{
    struct vd_stake s;
    if (!vd_block_get_stake(d->b, &d->tx->sender, &s) || s.unbonding.micro == 0)
        return VD_TX_NOTHING_TO_WITHDRAW;
    if (d->b->height < s.withdraw_height)
        return VD_TX_STILL_UNBONDING;
    struct vd_amount amount = s.unbonding;
    s.unbonding = VD_AMOUNT_ZERO;
    s.withdraw_height = 0;
    vd_block_put_stake(d->b, &d->tx->sender, &s);
    vd_block_credit(d->b, &d->tx->sender, amount);
    vd_block_event(d->b, (struct vd_event){.kind = VD_EVENT_WITHDRAW, .a = d->tx->sender, .amount = amount});
    return VD_TX_OK;
}

enum vd_tx_verdict vd_check_register_model(const struct vd_tx_register_model *m, struct vd_hash *model_root)
{
    struct vd_program p;
    if (!vd_program_decode(m->program, &p) || p.n_tensors != m->n_tensors)
        return VD_TX_BAD_PROGRAM;
    *model_root = vd_program_model_root(m->program, m->n_tensors, &m->tensors_root);
    return VD_TX_OK;
}

enum vd_tx_verdict vd_apply_register_model(struct vd_deliver *d)
{
    const struct vd_tx_register_model *m = &d->tx->u.register_model;
    struct vd_model_record r = {.n_tensors = m->n_tensors,
                                .tensors_root = m->tensors_root,
                                .registrant = d->tx->sender,
                                .height = d->b->height,
                                .program = m->program};
    struct vd_hash root;
    struct vd_bytes there;
    enum vd_tx_verdict v = vd_check_register_model(m, &root);
    if (v != VD_TX_OK)
        return v;
    struct vd_state_key k = vd_state_key_make(VD_STATE_MODEL, root.b, VD_HASH_BYTES, NULL);
    if (vd_block_get(d->b, &k, &there))
        return VD_TX_MODEL_EXISTS;
    size_t cap = VD_STATE_RECORD_MAX_BYTES + m->program.n;
    uint8_t *buf = vd_arena_alloc(d->b->arena, cap, 1);
    if (!buf) {
        d->b->overlay.full = true;
        return VD_TX_BLOCK_FULL;
    }
    vd_block_put(d->b, &k, buf, vd_model_record_encode(&r, buf, cap));
    vd_block_event(d->b, (struct vd_event){.kind = VD_EVENT_MODEL, .id = root, .a = d->tx->sender});
    return VD_TX_OK;
}

enum vd_tx_verdict vd_apply_offer(struct vd_deliver *d)
{
    const struct vd_tx_offer *o = &d->tx->u.offer;
    struct vd_state_key k =
        vd_state_key_make(VD_STATE_OFFER, o->model_root.b, VD_HASH_BYTES, d->tx->sender.b);
    struct vd_state_key model = vd_state_key_make(VD_STATE_MODEL, o->model_root.b, VD_HASH_BYTES, NULL);
    struct vd_event e = {.kind = VD_EVENT_OFFER, .id = o->model_root, .a = d->tx->sender};
    struct vd_bytes there;
    struct vd_stake s;
    if (o->price_in.micro > VD_PRICE_MAX_MICRO || o->price_out.micro > VD_PRICE_MAX_MICRO)
        return VD_TX_BAD_PRICE;
    if (!vd_block_get(d->b, &model, &there))
        return VD_TX_UNKNOWN_MODEL;
    if (o->capacity == 0) {
        vd_block_delete(d->b, &k);
        vd_block_event(d->b, e);
        return VD_TX_OK;
    }
    vd_block_get_stake(d->b, &d->tx->sender, &s);
    if (vd_amount_cmp(s.amount, d->b->ledger->genesis->min_stake) < 0)
        return VD_TX_BELOW_MIN_STAKE;
    struct vd_offer r = {o->price_in, o->price_out, o->capacity, d->b->height};
    uint8_t buf[VD_STATE_RECORD_MAX_BYTES];
    vd_block_put(d->b, &k, buf, vd_offer_encode(&r, buf, sizeof buf));
    e.amount = o->price_out;
    vd_block_event(d->b, e);
    return VD_TX_OK;
}

/* Lists for queries: by owner and by gateway. */
static void index_escrow(struct vd_ledger_block *b, const struct vd_escrow *e, const struct vd_hash *id)
{
    struct vd_state_key owner =
        vd_state_key_make(VD_INDEX_ACCOUNT_ESCROW, e->owner.b, VD_PUBKEY_BYTES, id->b);
    struct vd_state_key gateway =
        vd_state_key_make(VD_INDEX_GATEWAY_ESCROW, e->gateway.b, VD_PUBKEY_BYTES, id->b);
    vd_block_put(b, &owner, NULL, 0);
    vd_block_put(b, &gateway, NULL, 0);
}

enum vd_tx_verdict vd_apply_escrow_open(struct vd_deliver *d)
{
    const struct vd_tx_escrow_open *o = &d->tx->u.escrow_open;
    struct vd_escrow e = {.owner = d->tx->sender,
                          .gateway = o->gateway,
                          .deposited = o->amount,
                          .balance = o->amount,
                          .open_height = d->b->height};
    if (o->amount.micro == 0)
        return VD_TX_BAD_AMOUNT;
    if (!vd_block_debit(d->b, &d->tx->sender, o->amount))
        return VD_TX_FUNDS;
    vd_block_put_escrow(d->b, &d->id, &e);
    index_escrow(d->b, &e, &d->id);
    vd_block_event(d->b, (struct vd_event){.kind = VD_EVENT_ESCROW_OPENED,
                                           .id = d->id,
                                           .a = d->tx->sender,
                                           .b = o->gateway,
                                           .amount = o->amount});
    return VD_TX_OK;
}

enum vd_tx_verdict vd_apply_escrow_topup(struct vd_deliver *d)
{
    const struct vd_tx_escrow_topup *t = &d->tx->u.escrow_topup;
    struct vd_escrow e;
    if (t->amount.micro == 0)
        return VD_TX_BAD_AMOUNT;
    if (!vd_block_get_escrow(d->b, &t->escrow_id, &e))
        return VD_TX_UNKNOWN_ESCROW;
    if (e.end_height)
        return VD_TX_ESCROW_CLOSED;
    if (!vd_block_debit(d->b, &d->tx->sender, t->amount))
        return VD_TX_FUNDS;
    if (!vd_amount_add(&e.deposited, e.deposited,
                       t->amount)) /* it may have turned over more than the supply */
        return VD_TX_BAD_AMOUNT;
    vd_block_add(d->b, &e.balance, t->amount);
    vd_block_put_escrow(d->b, &t->escrow_id, &e);
    vd_block_event(d->b, (struct vd_event){.kind = VD_EVENT_ESCROW_TOPUP,
                                           .id = t->escrow_id,
                                           .a = d->tx->sender,
                                           .amount = t->amount});
    return VD_TX_OK;
}

enum vd_tx_verdict vd_apply_escrow_close(struct vd_deliver *d)
{
    const struct vd_hash *id = &d->tx->u.escrow_close.escrow_id;
    struct vd_escrow e;
    if (!vd_block_get_escrow(d->b, id, &e))
        return VD_TX_UNKNOWN_ESCROW;
    if (!vd_pubkey_eq(&e.owner, &d->tx->sender))
        return VD_TX_NOT_OWNER;
    if (e.end_height)
        return VD_TX_ESCROW_CLOSED;
    e.end_height = d->b->height + d->b->ledger->genesis->request_validity_blocks;
    vd_block_put_escrow(d->b, id, &e);
    vd_block_deadline_add(d->b, e.end_height, VD_DEADLINE_ESCROW, id);
    vd_block_event(d->b, (struct vd_event){
                             .kind = VD_EVENT_ESCROW_CLOSING, .id = *id, .a = e.owner, .amount = e.balance});
    return VD_TX_OK;
}

void vd_end_escrow(struct vd_ledger_block *b, const struct vd_hash *escrow_id)
{
    struct vd_escrow e;
    if (!vd_block_get_escrow(b, escrow_id, &e)) {
        b->broken = true;
        return;
    }
    struct vd_amount rest = e.balance;
    e.balance = VD_AMOUNT_ZERO;
    e.ended = true;
    vd_block_add(b, &e.returned, rest);
    vd_block_put_escrow(b, escrow_id, &e);
    vd_block_credit(b, &e.owner, rest);
    vd_block_event(b, (struct vd_event){
                          .kind = VD_EVENT_ESCROW_RETURNED, .id = *escrow_id, .a = e.owner, .amount = rest});
}
