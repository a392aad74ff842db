/* Reading and writing records inside a block, with the totals kept beside (vd_ledger_impl.h says why). */
#include "vd_ledger_impl.h"

bool vd_block_get(struct vd_ledger_block *b, const struct vd_state_key *k, struct vd_bytes *value)
{
    return b->overlay.kv.get(&b->overlay.kv, vd_state_key_bytes(k), value);
}

void vd_block_put(struct vd_ledger_block *b, const struct vd_state_key *k, const void *p, size_t n_bytes)
{
    vd_overlay_put(&b->overlay, vd_state_key_bytes(k), (struct vd_bytes){p, n_bytes});
}

void vd_block_delete(struct vd_ledger_block *b, const struct vd_state_key *k)
{
    vd_overlay_delete(&b->overlay, vd_state_key_bytes(k));
}

void vd_block_add(struct vd_ledger_block *b, struct vd_amount *a, struct vd_amount x)
{
    if (!vd_amount_add(a, *a, x))
        b->broken = true;
}

void vd_block_sub(struct vd_ledger_block *b, struct vd_amount *a, struct vd_amount x)
{
    if (!vd_amount_sub(a, *a, x))
        b->broken = true;
}

static void rebucket(struct vd_ledger_block *b, enum vd_bucket bucket, struct vd_amount before,
                     struct vd_amount after)
{
    vd_block_sub(b, &b->totals.bucket[bucket], before);
    vd_block_add(b, &b->totals.bucket[bucket], after);
}

/* get of one type of record, and its bare write: the puts below move what it holds between buckets first. */
#define RECORD(name, type, class, id_type)                                                                   \
    static struct vd_state_key name##_key(const id_type *id)                                                 \
    {                                                                                                        \
        return vd_state_key_make(class, id->b, sizeof id->b, NULL);                                          \
    }                                                                                                        \
    bool vd_block_get_##name(struct vd_ledger_block *b, const id_type *id, struct type *out)                 \
    {                                                                                                        \
        struct vd_state_key k = name##_key(id);                                                              \
        struct vd_bytes v;                                                                                   \
        memset(out, 0, sizeof *out);                                                                         \
        if (!vd_block_get(b, &k, &v))                                                                        \
            return false;                                                                                    \
        if (!type##_decode(v, out))                                                                          \
            b->broken = true;                                                                                \
        return !b->broken;                                                                                   \
    }                                                                                                        \
    static void name##_write(struct vd_ledger_block *b, const id_type *id, const struct type *v)             \
    {                                                                                                        \
        uint8_t buf[VD_STATE_RECORD_MAX_BYTES];                                                              \
        struct vd_state_key k = name##_key(id);                                                              \
        vd_block_put(b, &k, buf, type##_encode(v, buf, sizeof buf));                                         \
    }

RECORD(account, vd_account, VD_STATE_ACCOUNT, struct vd_pubkey)
RECORD(stake, vd_stake, VD_STATE_STAKE, struct vd_pubkey)
RECORD(escrow, vd_escrow, VD_STATE_ESCROW, struct vd_hash)
RECORD(receipt, vd_receipt_record, VD_STATE_RECEIPT, struct vd_hash)
RECORD(dispute, vd_dispute, VD_STATE_DISPUTE, struct vd_hash)
RECORD(keeper, vd_keeper, VD_STATE_KEEPER, struct vd_pubkey)
RECORD(trap, vd_trap, VD_STATE_TRAP, struct vd_hash)
RECORD(audit, vd_audit, VD_STATE_AUDIT, struct vd_hash)
#undef RECORD

void vd_block_put_account(struct vd_ledger_block *b, const struct vd_pubkey *key, const struct vd_account *v)
{
    struct vd_account old;
    vd_block_get_account(b, key, &old);
    rebucket(b, VD_BUCKET_ACCOUNTS, old.balance, v->balance);
    account_write(b, key, v);
}

void vd_block_put_stake(struct vd_ledger_block *b, const struct vd_pubkey *worker, const struct vd_stake *v)
{
    struct vd_stake old;
    vd_block_get_stake(b, worker, &old);
    rebucket(b, VD_BUCKET_STAKES, old.amount, v->amount);
    rebucket(b, VD_BUCKET_UNBONDING, old.unbonding, v->unbonding);
    stake_write(b, worker, v);
}

void vd_block_put_escrow(struct vd_ledger_block *b, const struct vd_hash *id, const struct vd_escrow *v)
{
    struct vd_escrow old;
    vd_block_get_escrow(b, id, &old);
    rebucket(b, VD_BUCKET_ESCROWS, old.balance, v->balance);
    if (v->balance.micro != v->deposited.micro - v->settled.micro - v->returned.micro)
        b->broken = true; /* settled <= escrow, and nothing of it is lost */
    escrow_write(b, id, v);
}

static struct vd_amount pending_of(const struct vd_receipt_record *r)
{
    return r->status == VD_RECEIPT_SETTLED ? r->amount : VD_AMOUNT_ZERO;
}

void vd_block_put_receipt(struct vd_ledger_block *b, const struct vd_hash *id,
                          const struct vd_receipt_record *v)
{
    struct vd_receipt_record old;
    vd_block_get_receipt(b, id, &old);
    rebucket(b, VD_BUCKET_PENDING, pending_of(&old), pending_of(v));
    receipt_write(b, id, v);
}

void vd_block_put_dispute(struct vd_ledger_block *b, const struct vd_hash *id, const struct vd_dispute *v)
{
    struct vd_dispute old;
    vd_block_get_dispute(b, id, &old);
    rebucket(b, VD_BUCKET_BONDS, old.bond, v->bond);
    dispute_write(b, id, v);
}

void vd_block_put_keeper(struct vd_ledger_block *b, const struct vd_pubkey *key, const struct vd_keeper *v)
{
    struct vd_keeper old;
    vd_block_get_keeper(b, key, &old);
    rebucket(b, VD_BUCKET_BONDS, old.bond, v->bond);
    keeper_write(b, key, v);
}

void vd_block_put_trap(struct vd_ledger_block *b, const struct vd_hash *id, const struct vd_trap *v)
{
    struct vd_trap old;
    vd_block_get_trap(b, id, &old);
    rebucket(b, VD_BUCKET_BONDS, old.bond, v->bond);
    trap_write(b, id, v);
}

void vd_block_put_audit(struct vd_ledger_block *b, const struct vd_hash *receipt_id, const struct vd_audit *v)
{
    audit_write(b, receipt_id, v);
}

bool vd_block_get_model(struct vd_ledger_block *b, const struct vd_hash *root, struct vd_model_record *out)
{
    struct vd_state_key k = vd_state_key_make(VD_STATE_MODEL, root->b, VD_HASH_BYTES, NULL);
    struct vd_bytes v;
    memset(out, 0, sizeof *out);
    if (!vd_block_get(b, &k, &v))
        return false;
    if (!vd_model_record_decode(v, out))
        b->broken = true;
    return !b->broken;
}

void vd_block_credit(struct vd_ledger_block *b, const struct vd_pubkey *key, struct vd_amount amount)
{
    struct vd_account a;
    if (amount.micro == 0)
        return; /* no account is made for nothing */
    vd_block_get_account(b, key, &a);
    vd_block_add(b, &a.balance, amount);
    vd_block_put_account(b, key, &a);
}

bool vd_block_debit(struct vd_ledger_block *b, const struct vd_pubkey *key, struct vd_amount amount)
{
    struct vd_account a;
    if (!vd_block_get_account(b, key, &a) || !vd_amount_sub(&a.balance, a.balance, amount))
        return false;
    vd_block_put_account(b, key, &a);
    return true;
}

void vd_block_burn(struct vd_ledger_block *b, struct vd_amount amount)
{
    vd_block_add(b, &b->totals.bucket[VD_BUCKET_BURNED], amount);
}

void vd_block_event(struct vd_ledger_block *b, struct vd_event e)
{
    if (b->n_events == VD_BLOCK_MAX_EVENTS) {
        b->broken = true; /* the limits of a block exclude it */
        return;
    }
    e.tx_index = b->ending ? VD_EVENT_NO_TX : b->n_txs;
    b->event[b->n_events++] = e;
}

static struct vd_state_key deadline_key(uint64_t height, enum vd_deadline d, const struct vd_hash *id)
{
    uint8_t rest[9];
    for (int i = 0; i < 8; i++)
        rest[i] = (uint8_t)(height >> (56 - 8 * i));
    rest[8] = (uint8_t)d;
    return vd_state_key_make(VD_STATE_DEADLINE, rest, sizeof rest, id->b);
}

void vd_block_deadline_add(struct vd_ledger_block *b, uint64_t height, enum vd_deadline d,
                           const struct vd_hash *id)
{
    struct vd_state_key k = deadline_key(height, d, id);
    vd_block_put(b, &k, NULL, 0);
    if (b->ending && k.n == b->deadline.n && memcmp(k.b, b->deadline.b, k.n) < 0)
        b->deadline = k; /* behind the one that runs: it is next */
}

void vd_block_deadline_remove(struct vd_ledger_block *b, uint64_t height, enum vd_deadline d,
                              const struct vd_hash *id)
{
    struct vd_state_key k = deadline_key(height, d, id);
    vd_block_delete(b, &k);
}
