/* Audits: what auditors say, and what follows for them. Who is drawn is in vd_ledger_draw.c, the data that
 * they may demand in vd_ledger_audit_data.c.
 *
 * An auditor that says STANDS must show what the commit root is the hash of, which it knows if it replayed
 * the job, or if the worker told it; so the lazy cannot say it at all, and those who are told are what traps
 * are for. One that says DIFFERS says it to start a dispute; the verdict of that is the referee's, never the
 * auditors'. Nothing that a worker can bring about alone (losing a dispute on purpose, a conviction
 * elsewhere, silence) costs an auditor anything: only its own silence, its own false alarm, and a trap that
 * it walked into do.
 *
 * Auditors are paid when the receipt is closed, so there is nothing to claw back. */
#include "vd_audit.h"
#include "vd_ledger_impl.h"

/* ---- what the files of audits share ---- */

struct vd_state_key vd_audit_index_key(const struct vd_pubkey *auditor, const struct vd_hash *receipt_id)
{
    return vd_state_key_make(VD_INDEX_AUDITOR_AUDIT, auditor->b, VD_PUBKEY_BYTES, receipt_id->b);
}

struct vd_event vd_audit_event(enum vd_event_kind kind, const struct vd_hash *receipt_id,
                               const struct vd_receipt_record *r, const struct vd_pubkey *a,
                               struct vd_amount amount)
{
    return (struct vd_event){.kind = kind, .id = *receipt_id, .id2 = r->escrow_id, .a = *a, .amount = amount};
}

void vd_audit_count(struct vd_ledger_block *b, const struct vd_pubkey *auditor, uint64_t replay_blocks,
                    bool opens)
{
    struct vd_stake s;
    vd_block_get_stake(b, auditor, &s);
    b->broken |= !opens && (s.n_open_audits == 0 || s.audit_blocks < replay_blocks);
    s.n_open_audits = opens ? s.n_open_audits + 1 : s.n_open_audits - 1;
    s.audit_blocks = opens ? s.audit_blocks + replay_blocks : s.audit_blocks - replay_blocks;
    vd_block_put_stake(b, auditor, &s);
}

void vd_audit_set_phase(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_audit *a,
                        enum vd_audit_phase phase, uint64_t blocks)
{
    if (a->deadline_height)
        vd_block_deadline_remove(b, a->deadline_height, VD_DEADLINE_AUDIT, id);
    a->phase = phase;
    a->deadline_height = blocks ? b->height + blocks : 0;
    if (blocks)
        vd_block_deadline_add(b, a->deadline_height, VD_DEADLINE_AUDIT, id);
}

/* A receipt's part of the pool, divided by how often a receipt is drawn and by how many it is shared: over
 * many receipts auditors get what receipts paid in, and nobody gains by auditing receipts of its own. */
struct vd_amount vd_audit_reward(struct vd_ledger_block *b, uint32_t rate_ppm,
                                 const struct vd_receipt_record *r, struct vd_amount fund)
{
    unsigned __int128 num = (unsigned __int128)r->amount.micro * b->ledger->genesis->auditor_share_ppm;
    unsigned __int128 reward = num / ((uint64_t)rate_ppm * b->ledger->genesis->auditors);
    return reward > fund.micro ? fund : vd_amount_micro((uint64_t)reward);
}

/* The audit of a receipt that is SETTLED, in a phase that has not run out. */
enum vd_tx_verdict vd_audit_find(struct vd_ledger_block *b, const struct vd_hash *receipt_id,
                                 struct vd_audit *a, struct vd_receipt_record *r)
{
    if (!vd_block_get_receipt(b, receipt_id, r) || !vd_block_get_audit(b, receipt_id, a))
        return VD_TX_UNKNOWN_RECEIPT;
    if (r->status != VD_RECEIPT_SETTLED || a->deadline_height < b->height)
        return VD_TX_WRONG_PHASE;
    return VD_TX_OK;
}

struct vd_audit_slot *vd_audit_slot_of(struct vd_audit *a, const struct vd_pubkey *key)
{
    for (uint32_t i = 0; i < a->n_slots; i++)
        if (vd_pubkey_eq(&a->slot[i].auditor, key))
            return &a->slot[i];
    return NULL;
}

/* ---- phases ---- */

/* min(stake, most) goes, and the auditor is struck off the model's list: who is away must not be drawn for
 * later batches. */
static struct vd_amount slash(struct vd_ledger_block *b, const struct vd_audit *a, struct vd_audit_slot *slot,
                              struct vd_amount most)
{
    struct vd_stake s;
    vd_block_get_stake(b, &slot->auditor, &s);
    struct vd_amount loss = vd_amount_cmp(s.amount, most) < 0 ? s.amount : most;
    vd_block_sub(b, &s.amount, loss);
    vd_block_put_stake(b, &slot->auditor, &s);
    vd_block_add(b, &slot->slashed, loss);
    vd_audit_strike_off(b, &a->model_root, &slot->auditor);
    return loss;
}

/* The receipt is not paid before this height, and can be challenged up to it. */
static void extend_window(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_receipt_record *r,
                          uint64_t height)
{
    if (height <= r->window_end_height)
        return;
    r->window_end_height = height;
    vd_block_deadline_add(b, height, VD_DEADLINE_RECEIPT, id);
}

static uint32_t count_slots(const struct vd_audit *a, enum vd_audit_slot_status s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < a->n_slots; i++)
        n += a->slot[i].status == s;
    return n;
}

/* All was said that will be. Whoever found a difference has time to challenge. */
static void heard(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_audit *a,
                  struct vd_receipt_record *r)
{
    vd_audit_set_phase(b, id, a, VD_AUDIT_HEARD, 0);
    r->audit_open = false;
    if (count_slots(a, VD_SLOT_DIFFERS))
        extend_window(b, id, r, b->height + a->clock_blocks);
    vd_block_put_audit(b, id, a);
    vd_block_put_receipt(b, id, r);
    vd_block_event(b, vd_audit_event(VD_EVENT_AUDIT_DONE, id, r, &r->worker, VD_AMOUNT_ZERO));
    vd_receipt_release(b, id, r);
}

static void reveal_from_now(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_audit *a,
                            struct vd_receipt_record *r)
{
    vd_audit_set_phase(b, id, a, VD_AUDIT_REVEALING, b->ledger->genesis->audit_reveal_blocks);
    vd_block_put_audit(b, id, a);
    vd_block_event(b, vd_audit_event(VD_EVENT_AUDIT_OPEN, id, r, &r->worker, VD_AMOUNT_ZERO));
}

/* Those who have this status were to act and did not. */
static void miss(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_audit *a,
                 const struct vd_receipt_record *r, enum vd_audit_slot_status late)
{
    for (uint32_t i = 0; i < a->n_slots; i++) {
        struct vd_audit_slot *s = &a->slot[i];
        if (s->status != late)
            continue;
        struct vd_amount loss = slash(b, a, s, b->ledger->genesis->audit_slash);
        s->status = VD_SLOT_MISSED;
        s->commitment = (struct vd_hash){{0}};
        vd_block_burn(b, loss);
        vd_block_event(b, vd_audit_event(VD_EVENT_AUDIT_MISSED, id, r, &s->auditor, loss));
    }
}

static void withheld(struct vd_ledger_block *b, const struct vd_hash *id, struct vd_receipt_record *r)
{
    vd_block_event(b, vd_audit_event(VD_EVENT_WITHHELD, id, r, &r->worker, VD_AMOUNT_ZERO));
    vd_receipt_void(b, id, r, VD_VOID_WITHHELD);
}

void vd_end_audit_clock(struct vd_ledger_block *b, const struct vd_hash *receipt_id)
{
    struct vd_receipt_record r;
    struct vd_audit a;
    if (!vd_block_get_audit(b, receipt_id, &a) || !vd_block_get_receipt(b, receipt_id, &r) ||
        r.status != VD_RECEIPT_SETTLED) {
        b->broken = true;
        return;
    }
    a.deadline_height = 0; /* it is gone already */
    switch (a.phase) {
    case VD_AUDIT_COMMITTING:
        miss(b, receipt_id, &a, &r, VD_SLOT_DRAWN);
        if (count_slots(&a, VD_SLOT_COMMITTED))
            reveal_from_now(b, receipt_id, &a, &r);
        else
            heard(b, receipt_id, &a, &r);
        return;
    case VD_AUDIT_DATA_DUE:
        if (b->totals.n_full_blocks > a.full_blocks) { /* blocks that had no room for them do not count */
            uint64_t more = b->totals.n_full_blocks - a.full_blocks;
            a.full_blocks = b->totals.n_full_blocks;
            vd_audit_set_phase(b, receipt_id, &a, VD_AUDIT_DATA_DUE, more);
            vd_block_put_audit(b, receipt_id, &a);
            return;
        }
        vd_block_put_audit(b, receipt_id, &a);
        withheld(b, receipt_id, &r);
        return;
    case VD_AUDIT_REVEALING:
        miss(b, receipt_id, &a, &r, VD_SLOT_COMMITTED);
        heard(b, receipt_id, &a, &r);
        return;
    case VD_AUDIT_HEARD:
    case VD_AUDIT_CLOSED:
        break;
    }
    b->broken = true;
}

/* ---- commit and reveal ---- */

enum vd_tx_verdict vd_apply_audit_commit(struct vd_deliver *d)
{
    const struct vd_tx_audit_commit *t = &d->tx->u.audit_commit;
    struct vd_receipt_record r;
    struct vd_audit a;
    enum vd_tx_verdict v = vd_audit_find(d->b, &t->receipt_id, &a, &r);
    if (v != VD_TX_OK)
        return v;
    struct vd_audit_slot *s = vd_audit_slot_of(&a, &d->tx->sender);
    if (!s)
        return VD_TX_NOT_DRAWN;
    if ((a.phase != VD_AUDIT_COMMITTING && a.phase != VD_AUDIT_DATA_DUE) || s->status != VD_SLOT_DRAWN)
        return VD_TX_WRONG_PHASE;
    if (vd_hash_is_zero(&t->commitment))
        return VD_TX_BAD_REVEAL;
    s->status = VD_SLOT_COMMITTED;
    s->commitment = t->commitment;
    vd_block_event(d->b,
                   vd_audit_event(VD_EVENT_AUDIT_COMMITTED, &t->receipt_id, &r, &s->auditor, VD_AMOUNT_ZERO));
    if (count_slots(&a, VD_SLOT_DRAWN) == 0)
        reveal_from_now(d->b, &t->receipt_id, &a, &r);
    else
        vd_block_put_audit(d->b, &t->receipt_id, &a);
    return VD_TX_OK;
}

/* Is it what was committed to, and, if it says so, does the receipt's root follow from it? */
static bool reveal_fits(struct vd_ledger_block *b, const struct vd_audit_slot *s,
                        const struct vd_tx_audit_reveal *t, const struct vd_receipt_record *r)
{
    struct vd_hash commitment = vd_audit_commitment(&s->auditor, t);
    struct vd_receipt receipt;
    if (!vd_hash_eq(&commitment, &s->commitment))
        return false;
    if (t->verdict != VD_AUDIT_STANDS && (!vd_hash_is_zero(&t->half[0]) || !vd_hash_is_zero(&t->half[1])))
        return false;
    if (t->verdict == VD_AUDIT_DIFFERS)
        return true;
    if (vd_receipt_decode(r->body, &receipt) != VD_RECEIPT_OK) {
        b->broken = true;
        return false;
    }
    if (t->verdict == VD_AUDIT_UNFIT)
        return !vd_hash_is_zero(&receipt.request.bias_hash) || !vd_hash_is_zero(&receipt.request.mask_hash);
    return vd_audit_halves_fit(&receipt, t->half);
}

enum vd_tx_verdict vd_apply_audit_reveal(struct vd_deliver *d)
{
    const struct vd_tx_audit_reveal *t = &d->tx->u.audit_reveal;
    struct vd_receipt_record r;
    struct vd_audit a;
    enum vd_tx_verdict v = vd_audit_find(d->b, &t->receipt_id, &a, &r);
    if (v != VD_TX_OK)
        return v;
    struct vd_audit_slot *s = vd_audit_slot_of(&a, &d->tx->sender);
    if (!s)
        return VD_TX_NOT_DRAWN;
    if (a.phase != VD_AUDIT_REVEALING || s->status != VD_SLOT_COMMITTED)
        return VD_TX_WRONG_PHASE;
    if (!reveal_fits(d->b, s, t, &r))
        return VD_TX_BAD_REVEAL;
    s->status = t->verdict == VD_AUDIT_STANDS    ? VD_SLOT_STANDS
                : t->verdict == VD_AUDIT_DIFFERS ? VD_SLOT_DIFFERS
                                                 : VD_SLOT_UNFIT;
    s->commitment = (struct vd_hash){{0}};
    vd_block_event(d->b, vd_audit_event(VD_EVENT_AUDIT_REVEALED, &t->receipt_id, &r, &s->auditor,
                                        vd_amount_micro(t->verdict)));
    if (count_slots(&a, VD_SLOT_COMMITTED) == 0)
        heard(d->b, &t->receipt_id, &a, &r);
    else
        vd_block_put_audit(d->b, &t->receipt_id, &a);
    return VD_TX_OK;
}

/* ---- the end ---- */

static void pay(struct vd_ledger_block *b, const struct vd_hash *id, const struct vd_receipt_record *r,
                const struct vd_audit *a, struct vd_audit_slot *s, struct vd_amount *fund)
{
    s->paid = vd_audit_reward(b, a->rate_ppm, r, *fund);
    vd_block_sub(b, fund, s->paid);
    vd_block_credit(b, &s->auditor, s->paid);
    if (s->paid.micro)
        vd_block_event(b, vd_audit_event(VD_EVENT_AUDIT_PAID, id, r, &s->auditor, s->paid));
}

/* What follows for one auditor. Those who have not spoken yet, because the receipt was voided before, were
 * not late: nothing. */
static struct vd_amount judge(struct vd_ledger_block *b, const struct vd_hash *id,
                              const struct vd_receipt_record *r, const struct vd_audit *a,
                              struct vd_audit_slot *s, struct vd_amount *fund)
{
    const struct vd_genesis *g = b->ledger->genesis;
    bool wrong = r->void_why == VD_VOID_VERDICT || r->void_why == VD_VOID_TRAP;
    struct vd_amount loss = VD_AMOUNT_ZERO;
    if (s->status == VD_SLOT_STANDS) {
        if (r->void_why == VD_VOID_TRAP)
            loss = slash(b, a, s, g->slash);
        else if (!wrong)
            pay(b, id, r, a, s, fund);
    } else if (s->status == VD_SLOT_DIFFERS) {
        if (r->status == VD_RECEIPT_FINAL)
            loss = slash(b, a, s, g->audit_slash);
        else
            pay(b, id, r, a, s, fund);
    }
    if (loss.micro)
        vd_block_event(b, vd_audit_event(VD_EVENT_AUDIT_SLASHED, id, r, &s->auditor, loss));
    return loss;
}

struct vd_amount vd_audit_close(struct vd_ledger_block *b, const struct vd_hash *receipt_id,
                                struct vd_receipt_record *r, struct vd_amount *fund)
{
    struct vd_amount lost = VD_AMOUNT_ZERO;
    struct vd_audit a;
    if (!r->audited)
        return lost;
    if (!vd_block_get_audit(b, receipt_id, &a)) {
        b->broken = true;
        return lost;
    }
    vd_audit_set_phase(b, receipt_id, &a, VD_AUDIT_CLOSED, 0);
    for (uint32_t i = 0; i < a.n_slots; i++) {
        struct vd_state_key at = vd_audit_index_key(&a.slot[i].auditor, receipt_id);
        a.slot[i].commitment = (struct vd_hash){{0}};
        vd_audit_count(b, &a.slot[i].auditor, a.replay_blocks, false);
        vd_block_delete(b, &at);
        vd_block_add(b, &lost, judge(b, receipt_id, r, &a, &a.slot[i], fund));
    }
    vd_audit_forget_data(b, receipt_id, &a.worker);
    vd_audit_forget_data(b, receipt_id, &a.gateway);
    r->audit_open = false;
    vd_block_put_audit(b, receipt_id, &a);
    vd_block_put_receipt(b, receipt_id, r);
    if (b->ledger->genesis->history_blocks)
        vd_block_deadline_add(b, b->height + b->ledger->genesis->history_blocks, VD_DEADLINE_PAST_AUDIT,
                              receipt_id);
    return lost;
}

void vd_end_past_audit(struct vd_ledger_block *b, const struct vd_hash *receipt_id)
{
    struct vd_state_key at = vd_state_key_make(VD_STATE_AUDIT, receipt_id->b, VD_HASH_BYTES, NULL);
    struct vd_audit a;
    b->broken |= !vd_block_get_audit(b, receipt_id, &a) || a.phase != VD_AUDIT_CLOSED;
    vd_block_delete(b, &at);
}
