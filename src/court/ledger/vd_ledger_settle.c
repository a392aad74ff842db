/* A receipt's life: SETTLED when both signatures are shown (the amount leaves the escrow but is paid to
 * nobody), then FINAL when the audit window has passed and no dispute is open, or VOID by a verdict. Shares
 * are paid only at FINAL, so a verdict never has to take money back from anybody.
 *
 * FINAL comes by a deadline and in no other way, and deadlines go strictly by height, however many blocks
 * they are behind. That is what puts a receipt's draw before its payment: its draw is due before its window
 * ends, so whatever is paid at the end of a window, or later, has all its draws behind it. A transaction that
 * ends a dispute, and could overtake a draw that waits in the queue, pays nothing itself. One that was drawn
 * and waits for the place of its audit is held by what its record says.
 *
 * A verdict also voids, when their windows end, all other receipts that the worker had settled by then: a
 * worker that empties its own stake through a friend's challenge would else cash in the rest of its fakes,
 * for whose conviction nobody could win anything any more. They are not touched at once, because there may be
 * many. */
#include "vd_audit.h"
#include "vd_ledger_impl.h"
#include "vd_referee.h"

enum vd_tx_verdict vd_check_receipt(struct vd_bytes in, bool verified, struct vd_signed_receipt *s,
                                    struct vd_receipt *r)
{
    if (!vd_signed_receipt_decode(in, s))
        return VD_TX_BAD_RECEIPT;
    enum vd_receipt_verdict v = verified ? vd_receipt_decode((struct vd_bytes){s->body, s->body_bytes}, r)
                                         : vd_signed_receipt_check(s, r);
    return v == VD_RECEIPT_OK ? VD_TX_OK : VD_TX_BAD_RECEIPT;
}

/* Can the ledger run a dispute over this receipt? Otherwise it must not be paid. */
static enum vd_tx_verdict check_job(struct vd_ledger_block *b, const struct vd_receipt *r)
{
    struct vd_model_record m;
    struct vd_program program;
    struct vd_ref_claim claim;
    if (!vd_block_get_model(b, &r->request.model_root, &m))
        return VD_TX_UNKNOWN_MODEL;
    if (!vd_program_decode(m.program, &program)) {
        b->broken = true;
        return VD_TX_BAD_JOB;
    }
    return vd_ref_claim_init(&claim, r, &program, m.program) ? VD_TX_OK : VD_TX_BAD_JOB;
}

static enum vd_tx_verdict check_request(struct vd_ledger_block *b, const struct vd_receipt *r,
                                        const struct vd_escrow *e)
{
    const struct vd_request *q = &r->request;
    struct vd_state_key settled = vd_state_key_settled(&q->escrow_id, q->sequence);
    struct vd_bytes there;
    if (e->ended)
        return VD_TX_ESCROW_CLOSED;
    if (q->valid_until < b->height)
        return VD_TX_EXPIRED;
    if (!vd_pubkey_eq(&q->gateway, &e->gateway))
        return VD_TX_WRONG_GATEWAY;
    if (vd_block_get(b, &settled, &there))
        return VD_TX_ALREADY_SETTLED;
    return VD_TX_OK;
}

/* Takes the amount from the escrow to `pending` and onto the worker's stake. */
static enum vd_tx_verdict reserve(struct vd_ledger_block *b, const struct vd_receipt *r, struct vd_escrow *e)
{
    const struct vd_genesis *g = b->ledger->genesis;
    const struct vd_request *q = &r->request;
    struct vd_stake s;
    if (g->max_receipt.micro && vd_amount_cmp(r->amount, g->max_receipt) > 0)
        return VD_TX_RECEIPT_TOO_LARGE;
    if (!vd_amount_sub(&e->balance, e->balance, r->amount))
        return VD_TX_ESCROW_FUNDS;
    vd_block_add(b, &e->settled, r->amount);
    vd_block_get_stake(b, &q->worker, &s);
    vd_block_add(b, &s.unsettled, r->amount);
    if (vd_amount_cmp(s.amount, g->min_stake) < 0 || vd_amount_cmp(s.unsettled, s.amount) > 0)
        return VD_TX_STAKE_TOO_SMALL;
    s.n_open_receipts++;
    vd_block_put_stake(b, &q->worker, &s);
    vd_block_put_escrow(b, &q->escrow_id, e);
    return VD_TX_OK;
}

static struct vd_state_key open_receipt_key(const struct vd_pubkey *worker, const struct vd_hash *id)
{
    return vd_state_key_make(VD_INDEX_OPEN_RECEIPT, worker->b, VD_PUBKEY_BYTES, id->b);
}

static void record(struct vd_ledger_block *b, const struct vd_signed_receipt *s, const struct vd_receipt *r)
{
    const struct vd_request *q = &r->request;
    struct vd_hash id = vd_signed_receipt_id(s);
    struct vd_receipt_record rec = {.status = VD_RECEIPT_SETTLED,
                                    .escrow_id = q->escrow_id,
                                    .sequence = q->sequence,
                                    .worker = q->worker,
                                    .gateway = q->gateway,
                                    .model_root = q->model_root,
                                    .amount = r->amount,
                                    .settle_height = b->height,
                                    .window_end_height = b->height + b->ledger->genesis->audit_window_blocks,
                                    .body = {s->body, s->body_bytes}};
    struct vd_state_key settled = vd_state_key_settled(&q->escrow_id, q->sequence);
    struct vd_state_key open = open_receipt_key(&q->worker, &id);
    vd_block_put(b, &settled, id.b, VD_HASH_BYTES);
    vd_block_put_receipt(b, &id, &rec);
    vd_block_put(b, &open, NULL, 0);
    vd_block_deadline_add(b, rec.window_end_height, VD_DEADLINE_RECEIPT, &id);
    const struct vd_genesis *g = b->ledger->genesis;
    if (g->epoch_blocks)
        vd_block_deadline_add(b, vd_epoch_due(g, vd_epoch_of(g, b->height)), VD_DEADLINE_DRAW, &id);
    vd_block_event(b, (struct vd_event){.kind = VD_EVENT_SETTLED,
                                        .id = id,
                                        .id2 = q->escrow_id,
                                        .a = q->worker,
                                        .b = q->gateway,
                                        .amount = r->amount});
}

static enum vd_tx_verdict settle_one(struct vd_deliver *d, struct vd_bytes in)
{
    struct vd_ledger_block *b = d->b;
    struct vd_signed_receipt s;
    struct vd_receipt r;
    struct vd_escrow e;
    enum vd_tx_verdict v = vd_check_receipt(in, d->verified, &s, &r);
    if (v != VD_TX_OK)
        return v;
    if (!vd_hash_eq(&r.request.genesis, &b->ledger->genesis_hash))
        return VD_TX_RECEIPT_NETWORK;
    if (!vd_block_get_escrow(b, &r.request.escrow_id, &e))
        return VD_TX_UNKNOWN_ESCROW;
    v = check_request(b, &r, &e);
    if (v == VD_TX_OK)
        v = check_job(b, &r);
    if (v == VD_TX_OK)
        v = reserve(b, &r, &e);
    if (v == VD_TX_OK)
        record(b, &s, &r);
    return v;
}

enum vd_tx_verdict vd_apply_settle(struct vd_deliver *d)
{
    const struct vd_tx_settle *s = &d->tx->u.settle;
    enum vd_tx_verdict v = VD_TX_OK;
    for (uint32_t i = 0; v == VD_TX_OK && i < s->n; i++)
        v = settle_one(d, s->receipt[i]);
    return v;
}

/* The receipt is no longer SETTLED: its value and its place in the list of open ones go. */
static void close_receipt(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_receipt_record *r,
                          enum vd_receipt_status status, struct vd_stake *s)
{
    struct vd_state_key open = open_receipt_key(&r->worker, id);
    vd_block_delete(b, &open);
    r->status = status;
    r->close_height = b->height;
    r->body = (struct vd_bytes){NULL, 0};
    vd_block_put_receipt(b, id, r);
    if (s->n_open_receipts == 0)
        b->broken = true;
    s->n_open_receipts--;
    vd_block_sub(b, &s->unsettled, r->amount);
    vd_block_put_stake(b, &r->worker, s);
}

static void refund(struct vd_ledger_block *b, const struct vd_hash *id, const struct vd_receipt_record *r)
{
    struct vd_escrow e;
    if (!vd_block_get_escrow(b, &r->escrow_id, &e)) {
        b->broken = true;
        return;
    }
    vd_block_sub(b, &e.settled, r->amount);
    vd_block_add(b, e.ended ? &e.returned : &e.balance, r->amount);
    vd_block_put_escrow(b, &r->escrow_id, &e);
    if (e.ended)
        vd_block_credit(b, &e.owner, r->amount);
    vd_block_event(b, (struct vd_event){.kind = VD_EVENT_VOID,
                                        .id = *id,
                                        .id2 = r->escrow_id,
                                        .a = r->worker,
                                        .b = e.owner,
                                        .amount = r->amount});
}

/* Its auditors are paid by the worker, as far as its stake goes: a receipt that is not paid has paid nothing
 * into the pool. */
static void convicted(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_receipt_record *r,
                      struct vd_stake *s)
{
    struct vd_amount fund = s->amount;
    s->amount = VD_AMOUNT_ZERO;
    r->void_why = VD_VOID_CONVICTED;
    close_receipt(b, id, r, VD_RECEIPT_VOID, s);
    refund(b, id, r);
    vd_block_burn(b, vd_audit_close(b, id, r, &fund));
    vd_block_get_stake(b, &r->worker, s);
    vd_block_add(b, &s->amount, fund);
    vd_block_put_stake(b, &r->worker, s);
}

/* Nothing holds it up any more: the shares are paid. */
static void pay(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_receipt_record *r)
{
    const struct vd_genesis *g = b->ledger->genesis;
    struct vd_stake s;
    vd_block_get_stake(b, &r->worker, &s);
    if (r->settle_height <= s.convicted_height) {
        convicted(b, id, r, &s);
        return;
    }
    s.n_final++;
    close_receipt(b, id, r, VD_RECEIPT_FINAL, &s);
    /* Three shares are rounded down and the worker gets the rest, so that they sum to the amount. */
    struct vd_amount gateway = vd_amount_share(r->amount, g->gateway_share_ppm, VD_PPM);
    struct vd_amount treasury = vd_amount_share(r->amount, g->treasury_share_ppm, VD_PPM);
    struct vd_amount pool = vd_amount_share(r->amount, g->auditor_share_ppm, VD_PPM);
    struct vd_amount worker = r->amount;
    vd_block_sub(b, &worker, gateway);
    vd_block_sub(b, &worker, treasury);
    vd_block_sub(b, &worker, pool);
    vd_block_add(b, &b->totals.bucket[VD_BUCKET_POOL], pool);
    vd_block_credit(b, &r->worker, worker);
    vd_block_credit(b, &r->gateway, gateway);
    vd_block_credit(b, &g->treasury, treasury);
    vd_block_event(b, (struct vd_event){.kind = VD_EVENT_FINAL,
                                        .id = *id,
                                        .id2 = r->escrow_id,
                                        .a = r->worker,
                                        .b = r->gateway,
                                        .amount = r->amount});
    vd_block_burn(b, vd_audit_close(b, id, r, &b->totals.bucket[VD_BUCKET_POOL]));
}

void vd_end_receipt_window(struct vd_ledger_block *b, const struct vd_hash *receipt_id)
{
    struct vd_receipt_record r;
    if (!vd_block_get_receipt(b, receipt_id, &r)) {
        b->broken = true;
        return;
    }
    bool waits = r.drawn_epoch && !r.audited; /* for the place that its draw gave it */
    if (r.status == VD_RECEIPT_SETTLED && b->height >= r.window_end_height && !r.n_open_disputes &&
        !r.audit_open && !waits)
        pay(b, receipt_id, &r); /* else later: the end of what holds it up releases it */
}

void vd_receipt_release(struct vd_ledger_block *b, const struct vd_hash *id,
                        const struct vd_receipt_record *r)
{
    if (r->status == VD_RECEIPT_SETTLED && b->height >= r->window_end_height)
        vd_block_deadline_add(b, b->height, VD_DEADLINE_RECEIPT, id);
}

/* Takes the slash from the stake: the challenger's *share, and what the caller burns or pays auditors from.
 */
static struct vd_amount slash_worker(struct vd_ledger_block *b, const struct vd_hash *id,
                                     const struct vd_receipt_record *r, struct vd_stake *s,
                                     struct vd_amount *share)
{
    const struct vd_genesis *g = b->ledger->genesis;
    struct vd_amount slash = vd_amount_cmp(s->amount, g->slash) < 0 ? s->amount : g->slash, burned = slash;
    if (r->void_why != VD_VOID_WITHHELD) /* where nobody is to gain: a worker may be among its own auditors */
        *share = vd_amount_share(slash, g->challenger_share_ppm, VD_PPM);
    vd_block_sub(b, &s->amount, slash);
    vd_block_sub(b, &burned, *share);
    s->convicted_height = b->height;
    s->n_final = 0;
    vd_block_event(
        b, (struct vd_event){
               .kind = VD_EVENT_SLASHED, .id = *id, .id2 = r->escrow_id, .a = r->worker, .amount = slash});
    return burned;
}

struct vd_amount vd_receipt_void(struct vd_ledger_block *b, const struct vd_hash *id,
                                 struct vd_receipt_record *r, enum vd_void_why why)
{
    struct vd_amount share = VD_AMOUNT_ZERO, fund = VD_AMOUNT_ZERO;
    bool trap = why == VD_VOID_TRAP;
    struct vd_stake s;
    vd_block_get_stake(b, &r->worker, &s);
    r->void_why = why;
    if (!trap)
        fund = slash_worker(b, id, r, &s, &share);
    close_receipt(b, id, r, VD_RECEIPT_VOID, &s);
    refund(b, id, r);
    struct vd_amount lost = vd_audit_close(b, id, r, trap ? &b->totals.bucket[VD_BUCKET_POOL] : &fund);
    if (trap)
        return lost;
    vd_block_burn(b, lost);
    vd_block_burn(b, fund);
    vd_block_event(
        b, (struct vd_event){
               .kind = VD_EVENT_BURNED, .id = *id, .id2 = r->escrow_id, .a = r->worker, .amount = fund});
    return share;
}
