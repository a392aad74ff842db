/* Queries are plain reads of records: the same bytes that the state root covers. */
#include "vd_ledger.h"

#define GETTER(name, type, class, id_type)                                                                   \
    bool vd_ledger_get_##name(struct vd_kvs *kv, const id_type *id, struct type *out)                        \
    {                                                                                                        \
        struct vd_state_key k = vd_state_key_make(class, id->b, sizeof id->b, NULL);                         \
        struct vd_bytes v;                                                                                   \
        return kv->get(kv, vd_state_key_bytes(&k), &v) && type##_decode(v, out);                             \
    }
GETTER(account, vd_account, VD_STATE_ACCOUNT, struct vd_pubkey)
GETTER(stake, vd_stake, VD_STATE_STAKE, struct vd_pubkey)
GETTER(model, vd_model_record, VD_STATE_MODEL, struct vd_hash)
GETTER(escrow, vd_escrow, VD_STATE_ESCROW, struct vd_hash)
GETTER(receipt, vd_receipt_record, VD_STATE_RECEIPT, struct vd_hash)
GETTER(dispute, vd_dispute, VD_STATE_DISPUTE, struct vd_hash)
GETTER(audit, vd_audit, VD_STATE_AUDIT, struct vd_hash)
GETTER(keeper, vd_keeper, VD_STATE_KEEPER, struct vd_pubkey)
GETTER(tx, vd_tx_place, VD_INDEX_TX, struct vd_hash)
#undef GETTER

bool vd_ledger_get_totals(struct vd_kvs *kv, struct vd_totals *out)
{
    struct vd_state_key k = vd_state_key_make(VD_STATE_TOTALS, NULL, 0, NULL);
    struct vd_bytes v;
    return kv->get(kv, vd_state_key_bytes(&k), &v) && vd_totals_decode(v, out);
}

bool vd_ledger_get_offer(struct vd_kvs *kv, const struct vd_hash *root, const struct vd_pubkey *worker,
                         struct vd_offer *out)
{
    struct vd_state_key k = vd_state_key_make(VD_STATE_OFFER, root->b, VD_HASH_BYTES, worker->b);
    struct vd_stake s;
    struct vd_bytes v;
    if (!kv->get(kv, vd_state_key_bytes(&k), &v) || !vd_offer_decode(v, out))
        return false;
    return !vd_ledger_get_stake(kv, worker, &s) || out->height > s.convicted_height;
}

bool vd_ledger_get_settled(struct vd_kvs *kv, const struct vd_hash *escrow_id, uint64_t sequence,
                           struct vd_hash *receipt_id)
{
    struct vd_state_key k = vd_state_key_settled(escrow_id, sequence);
    struct vd_bytes v;
    if (!kv->get(kv, vd_state_key_bytes(&k), &v) || v.n != VD_HASH_BYTES)
        return false;
    memcpy(receipt_id->b, v.p, VD_HASH_BYTES);
    return true;
}

bool vd_ledger_get_game(struct vd_kvs *kv, const struct vd_hash *dispute_id, struct vd_bytes *out)
{
    struct vd_state_key k = vd_state_key_make(VD_STATE_GAME, dispute_id->b, VD_HASH_BYTES, NULL);
    return kv->get(kv, vd_state_key_bytes(&k), out);
}

void vd_ledger_list(struct vd_kvs *kv, enum vd_state_class c, struct vd_bytes key,
                    const struct vd_state_key *after, vd_ledger_list_fn *fn, void *arg)
{
    struct vd_state_key prefix = vd_state_key_make(c, key.p, key.n, NULL);
    struct vd_state_key at = after ? *after : prefix;
    bool past = after != NULL;
    struct vd_bytes k, v;
    while (kv->next(kv, vd_state_key_bytes(&prefix), vd_state_key_bytes(&at), past, &k, &v)) {
        if (k.n > sizeof at.b || !fn(arg, k, v))
            return;
        memcpy(at.b, k.p, k.n);
        at.n = k.n;
        past = true;
    }
}

struct challenges {
    struct vd_kvs *kv;
    struct vd_overlay *to;
    bool good;
};

static bool index_challenge(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    struct challenges *c = arg;
    struct vd_hash id;
    struct vd_dispute d;
    (void)value;
    c->good = key.n == 1 + VD_PUBKEY_BYTES + VD_HASH_BYTES;
    if (c->good) {
        memcpy(id.b, key.p + 1 + VD_PUBKEY_BYTES, VD_HASH_BYTES);
        c->good = vd_ledger_get_dispute(c->kv, &id, &d);
    }
    if (c->good) {
        struct vd_state_key k = vd_state_key_challenge(&d.receipt_id, &d.challenger, &id);
        vd_overlay_put(c->to, vd_state_key_bytes(&k), (struct vd_bytes){k.b, 0});
    }
    return c->good;
}

bool vd_ledger_index_challenges(struct vd_kvs *kv, struct vd_overlay *o)
{
    struct challenges c = {kv, o, true};
    vd_ledger_list(kv, VD_INDEX_OPEN_DISPUTE, (struct vd_bytes){NULL, 0}, NULL, index_challenge, &c);
    return c.good && !kv->failed && !o->full;
}
