/* A block from its first transaction to its invariants.
 *
 * Every transaction runs against the overlay as if it were to succeed, and is rolled back whole when it is
 * refused: handlers can therefore write as they check, and "a refused transaction changes nothing" holds by
 * construction. */
#include "vd_ledger_impl.h"

#include <inttypes.h>

typedef enum vd_tx_verdict apply_fn(struct vd_deliver *d);

static apply_fn *apply_of(enum vd_tx_kind kind)
{
    switch (kind) {
    case VD_TX_TRANSFER:
        return vd_apply_transfer;
    case VD_TX_STAKE:
        return vd_apply_stake;
    case VD_TX_UNSTAKE:
        return vd_apply_unstake;
    case VD_TX_WITHDRAW:
        return vd_apply_withdraw;
    case VD_TX_REGISTER_MODEL:
        return vd_apply_register_model;
    case VD_TX_OFFER:
        return vd_apply_offer;
    case VD_TX_ESCROW_OPEN:
        return vd_apply_escrow_open;
    case VD_TX_ESCROW_TOPUP:
        return vd_apply_escrow_topup;
    case VD_TX_ESCROW_CLOSE:
        return vd_apply_escrow_close;
    case VD_TX_SETTLE:
        return vd_apply_settle;
    case VD_TX_CHALLENGE:
        return vd_apply_challenge;
    case VD_TX_MOVE:
        return vd_apply_move;
    case VD_TX_BEACON_OPEN:
        return vd_apply_beacon_open;
    case VD_TX_BEACON:
        return vd_apply_beacon;
    case VD_TX_AUDITOR:
        return vd_apply_auditor;
    case VD_TX_AUDIT_COMMIT:
        return vd_apply_audit_commit;
    case VD_TX_AUDIT_REVEAL:
        return vd_apply_audit_reveal;
    case VD_TX_AUDIT_DEMAND:
        return vd_apply_audit_demand;
    case VD_TX_AUDIT_DATA:
        return vd_apply_audit_data;
    case VD_TX_TRAP_PLANT:
        return vd_apply_trap_plant;
    case VD_TX_TRAP_OPEN:
        return vd_apply_trap_open;
    }
    return NULL;
}

enum vd_err vd_ledger_init(struct vd_ledger *l, const struct vd_genesis *genesis, struct vd_arena *scratch,
                           struct vd_error *err)
{
    size_t used = scratch->used_bytes;
    uint8_t *buf = vd_arena_alloc(scratch, VD_GENESIS_MAX_BYTES, 1);
    if (!buf)
        return vd_error_set(err, VD_ENOMEM, "ledger: an arena of %d bytes is needed", VD_GENESIS_MAX_BYTES);
    size_t n = vd_genesis_encode(genesis, buf, VD_GENESIS_MAX_BYTES);
    *l = (struct vd_ledger){genesis, vd_genesis_hash((struct vd_bytes){buf, n})};
    scratch->used_bytes = used;
    return VD_OK;
}

void vd_ledger_write_genesis(const struct vd_ledger *l, struct vd_overlay *o)
{
    const struct vd_genesis *g = l->genesis;
    struct vd_totals totals = {0};
    uint8_t buf[VD_STATE_RECORD_MAX_BYTES];
    for (uint32_t i = 0; i < g->n_accounts; i++) {
        struct vd_account a = {.balance = g->account[i].balance};
        struct vd_state_key k =
            vd_state_key_make(VD_STATE_ACCOUNT, g->account[i].key.b, VD_PUBKEY_BYTES, NULL);
        vd_overlay_put(o, vd_state_key_bytes(&k),
                       (struct vd_bytes){buf, vd_account_encode(&a, buf, sizeof buf)});
    }
    totals.bucket[VD_BUCKET_ACCOUNTS] = vd_genesis_supply(g);
    struct vd_state_key k = vd_state_key_make(VD_STATE_TOTALS, NULL, 0, NULL);
    vd_overlay_put(o, vd_state_key_bytes(&k),
                   (struct vd_bytes){buf, vd_totals_encode(&totals, buf, sizeof buf)});
}

enum vd_err vd_ledger_begin(struct vd_ledger_block *b, const struct vd_ledger *l, struct vd_kvs *base,
                            struct vd_arena *arena, uint64_t height, uint64_t time_ms, struct vd_error *err)
{
    size_t n_bytes = VD_BLOCK_MAX_EVENTS * sizeof(struct vd_event);
    *b = (struct vd_ledger_block){.ledger = l, .height = height, .time_ms = time_ms, .arena = arena};
    b->event = vd_arena_alloc(arena, n_bytes, _Alignof(struct vd_event));
    if (!b->event)
        return vd_error_set(err, VD_ENOMEM,
                            "ledger: an arena of %d bytes is needed for a block, %zu are free",
                            VD_LEDGER_ARENA_BYTES, arena->size_bytes - arena->used_bytes);
    vd_overlay_init(&b->overlay, base, arena);
    if (!vd_ledger_get_totals(&b->overlay.kv, &b->totals))
        return b->overlay.kv.failed
                   ? vd_error_set(err, VD_EIO, "ledger: the state cannot be read")
                   : vd_error_set(err, VD_EFORMAT, "ledger: the state holds no totals; it was never begun");
    return VD_OK;
}

/* The sender's account: known, and its next nonce is used up. */
static enum vd_tx_verdict take_nonce(struct vd_ledger_block *b, const struct vd_tx *tx)
{
    struct vd_account a;
    if (!vd_block_get_account(b, &tx->sender, &a))
        return VD_TX_UNKNOWN_ACCOUNT;
    if (a.nonce != tx->nonce)
        return VD_TX_BAD_NONCE;
    a.nonce++;
    vd_block_put_account(b, &tx->sender, &a);
    return VD_TX_OK;
}

static void index_tx(struct vd_ledger_block *b, const struct vd_hash *id)
{
    struct vd_state_key k = vd_state_key_make(VD_INDEX_TX, id->b, VD_HASH_BYTES, NULL);
    struct vd_tx_place place = {b->height, b->n_txs};
    uint8_t buf[VD_STATE_RECORD_MAX_BYTES];
    vd_block_put(b, &k, buf, vd_tx_place_encode(&place, buf, sizeof buf));
}

static enum vd_tx_verdict check_form(const struct vd_ledger *l, struct vd_bytes in, bool verified,
                                     struct vd_tx_signed *s)
{
    if (!vd_tx_decode(in, s))
        return VD_TX_MALFORMED;
    if (!vd_hash_eq(&s->tx.genesis, &l->genesis_hash))
        return VD_TX_WRONG_NETWORK;
    return verified || vd_tx_verify(s) ? VD_TX_OK : VD_TX_BAD_SIGNATURE;
}

enum vd_tx_verdict vd_ledger_deliver(struct vd_ledger_block *b, struct vd_bytes tx, bool verified)
{
    struct vd_tx_signed s;
    struct vd_totals totals = b->totals;
    uint32_t n_events = b->n_events;
    if (b->n_txs == VD_BLOCK_MAX_TXS || tx.n > VD_BLOCK_MAX_TX_BYTES - b->tx_bytes)
        return VD_TX_BLOCK_FULL;
    enum vd_tx_verdict v = check_form(b->ledger, tx, verified, &s);
    if (v != VD_TX_OK)
        return v;
    vd_overlay_mark(&b->overlay);
    v = take_nonce(b, &s.tx);
    if (v == VD_TX_OK) {
        struct vd_deliver d = {b, &s.tx, s.id, verified};
        v = apply_of(s.tx.kind)(&d);
    }
    if (v != VD_TX_OK) {
        vd_overlay_rollback(&b->overlay);
        b->totals = totals;
        b->n_events = n_events;
        return v;
    }
    index_tx(b, &s.id);
    b->totals.n_txs++;
    b->n_txs++;
    b->tx_bytes += tx.n;
    return VD_TX_OK;
}

/* The earliest that is due: of this height, or left over from one before. It is looked for from where the
 * last one was: from the first on, every search would pass all that this block has ended already. */
static bool next_deadline(struct vd_ledger_block *b, struct vd_state_key *key)
{
    uint64_t height = 0;
    struct vd_bytes k, v;
    struct vd_state_key prefix = vd_state_key_make(VD_STATE_DEADLINE, NULL, 0, NULL);
    struct vd_bytes p = vd_state_key_bytes(&prefix);
    if (!b->overlay.kv.next(&b->overlay.kv, p, vd_state_key_bytes(&b->deadline), false, &k, &v))
        return false;
    if (k.n != p.n + 8 + 1 + VD_HASH_BYTES) {
        b->broken = true;
        return false;
    }
    for (size_t i = 0; i < 8; i++)
        height = height << 8 | k.p[p.n + i];
    if (height > b->height)
        return false;
    memcpy(key->b, k.p, k.n);
    key->n = k.n;
    b->deadline = *key;
    return true;
}

static void run_deadline(struct vd_ledger_block *b, uint8_t d, const struct vd_hash *id)
{
    static void (*const end[])(struct vd_ledger_block * b, const struct vd_hash *id) = {
        [VD_DEADLINE_DISPUTE] = vd_end_dispute_clock,
        [VD_DEADLINE_KEEPER] = vd_end_keeper_clock,
        [VD_DEADLINE_DRAW] = vd_end_draw,
        [VD_DEADLINE_AUDIT] = vd_end_audit_clock,
        [VD_DEADLINE_RECEIPT] = vd_end_receipt_window,
        [VD_DEADLINE_ESCROW] = vd_end_escrow,
        [VD_DEADLINE_TRAP] = vd_end_trap,
        [VD_DEADLINE_PAST_DISPUTE] = vd_end_past_dispute,
        [VD_DEADLINE_PAST_AUDIT] = vd_end_past_audit,
    };
    if (d == 0 || d >= sizeof end / sizeof end[0])
        b->broken = true;
    else
        end[d](b, id);
}

static void run_deadlines(struct vd_ledger_block *b)
{
    struct vd_state_key key;
    for (int n = 0; n < VD_BLOCK_MAX_DEADLINES; n++) {
        if (b->broken || b->overlay.full || !next_deadline(b, &key))
            return;
        struct vd_hash id;
        uint8_t d = key.b[9];
        memcpy(id.b, key.b + 10, VD_HASH_BYTES);
        vd_block_delete(b, &key);
        run_deadline(b, d, &id);
    }
}

static enum vd_err check_conservation(const struct vd_ledger_block *b, struct vd_error *err)
{
    struct vd_amount supply = vd_genesis_supply(b->ledger->genesis), sum = VD_AMOUNT_ZERO;
    bool good = true;
    for (int i = 0; i < VD_BUCKETS; i++)
        good &= vd_amount_add(&sum, sum, b->totals.bucket[i]);
    if (!good || vd_amount_cmp(sum, supply) != 0)
        return vd_error_set(err, VD_EINTERNAL,
                            "ledger: block %" PRIu64 ": the buckets sum to %" PRIu64
                            ", the supply is %" PRIu64,
                            b->height, sum.micro, supply.micro);
    return VD_OK;
}

enum vd_err vd_ledger_end(struct vd_ledger_block *b, struct vd_error *err)
{
    struct vd_state_key k = vd_state_key_make(VD_STATE_TOTALS, NULL, 0, NULL);
    uint8_t buf[VD_STATE_RECORD_MAX_BYTES];
    vd_overlay_mark(&b->overlay);
    b->ending = true;
    b->deadline = vd_state_key_make(VD_STATE_DEADLINE, NULL, 0, NULL);
    /* full: not every part that may come would have fitted */
    b->totals.n_full_blocks += b->n_shown_bytes > VD_BLOCK_MAX_SHOWN_BYTES - VD_TX_MAX_BYTES;
    run_deadlines(b);
    vd_block_put(b, &k, buf, vd_totals_encode(&b->totals, buf, sizeof buf));
    if (b->overlay.kv.failed)
        return vd_error_set(err, VD_EIO, "ledger: block %" PRIu64 ": the state cannot be read", b->height);
    if (b->overlay.full)
        return vd_error_set(err, VD_ENOMEM, "ledger: block %" PRIu64 ": the arena of %zu bytes is too small",
                            b->height, b->arena->size_bytes);
    if (b->broken)
        return vd_error_set(err, VD_EINTERNAL, "ledger: block %" PRIu64 ": a record of the state is damaged",
                            b->height);
    return check_conservation(b, err);
}

/* What costs most in a kind and needs no state. */
static enum vd_tx_verdict check_kind(const struct vd_ledger *l, const struct vd_tx *tx)
{
    struct vd_hash root;
    if (tx->kind == VD_TX_REGISTER_MODEL)
        return vd_check_register_model(&tx->u.register_model, &root);
    if (tx->kind != VD_TX_SETTLE)
        return VD_TX_OK;
    for (uint32_t i = 0; i < tx->u.settle.n; i++) {
        struct vd_signed_receipt s;
        struct vd_receipt r;
        enum vd_tx_verdict v = vd_check_receipt(tx->u.settle.receipt[i], false, &s, &r);
        if (v != VD_TX_OK)
            return v;
        if (!vd_hash_eq(&r.request.genesis, &l->genesis_hash))
            return VD_TX_RECEIPT_NETWORK;
    }
    return VD_TX_OK;
}

static enum vd_tx_verdict check_dispute_side(struct vd_kvs *kv, const struct vd_tx *tx)
{
    struct vd_dispute d;
    if (!vd_ledger_get_dispute(kv, &tx->u.move.dispute_id, &d) || !vd_dispute_open(d.status))
        return VD_TX_UNKNOWN_DISPUTE;
    bool worker = d.status == VD_DISPUTE_WORKER_MOVES;
    return vd_pubkey_eq(&tx->sender, worker ? &d.worker : &d.challenger) ? VD_TX_OK : VD_TX_NOT_YOUR_TURN;
}

/* There is no fee, so what the state already refuses must not wait in a queue. */
static enum vd_tx_verdict check_state(struct vd_kvs *kv, const struct vd_tx *tx)
{
    struct vd_receipt_record r;
    struct vd_account a;
    if (!vd_ledger_get_account(kv, &tx->sender, &a))
        return VD_TX_UNKNOWN_ACCOUNT;
    if (tx->nonce < a.nonce || tx->nonce - a.nonce >= VD_LEDGER_NONCE_AHEAD)
        return VD_TX_BAD_NONCE;
    if (tx->kind == VD_TX_CHALLENGE) {
        if (!vd_ledger_get_receipt(kv, &tx->u.challenge.receipt_id, &r))
            return VD_TX_UNKNOWN_RECEIPT;
        return r.status == VD_RECEIPT_SETTLED ? VD_TX_OK : VD_TX_WINDOW_CLOSED;
    }
    return tx->kind == VD_TX_MOVE ? check_dispute_side(kv, tx) : VD_TX_OK;
}

enum vd_tx_verdict vd_ledger_check(const struct vd_ledger *l, struct vd_kvs *kv, struct vd_bytes tx,
                                   struct vd_hash *id)
{
    struct vd_tx_signed s;
    struct vd_tx_place place;
    memset(id, 0, sizeof *id);
    enum vd_tx_verdict v = check_form(l, tx, true, &s);
    if (v == VD_TX_MALFORMED)
        return v;
    *id = s.id;
    if (v != VD_TX_OK)
        return v;
    if (kv && vd_ledger_get_tx(kv, &s.id, &place))
        return VD_TX_DUPLICATE;
    v = kv ? check_state(kv, &s.tx) : VD_TX_OK;
    if (v != VD_TX_OK)
        return v;
    if (!vd_tx_verify(&s))
        return VD_TX_BAD_SIGNATURE;
    return check_kind(l, &s.tx);
}

void vd_ledger_prepare(struct vd_ledger_block *b, const struct vd_bytes *tx, uint32_t n, const bool *verified,
                       enum vd_tx_verdict *verdict)
{
    for (uint32_t i = 0; i < n; i++)
        verdict[i] = vd_ledger_deliver(b, tx[i], verified && verified[i]);
}

bool vd_ledger_process(struct vd_ledger_block *b, const struct vd_bytes *tx, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (vd_ledger_deliver(b, tx[i], false) != VD_TX_OK)
            return false;
    return !b->broken && !b->overlay.full && !b->overlay.kv.failed;
}

enum vd_err vd_ledger_finalize(struct vd_ledger_block *b, const struct vd_ledger *l, struct vd_kvs *base,
                               struct vd_arena *arena, const struct vd_block *block,
                               enum vd_tx_verdict *verdict, struct vd_error *err)
{
    enum vd_err e = vd_ledger_begin(b, l, base, arena, block->header.height, block->header.time_ms, err);
    if (e != VD_OK)
        return e;
    for (uint32_t i = 0; i < block->n_txs; i++) {
        enum vd_tx_verdict v = vd_ledger_deliver(b, block->tx[i], false);
        if (verdict)
            verdict[i] = v;
    }
    return vd_ledger_end(b, err);
}
