/* One page per record: put and get in the order of proto/veridem.proto. What the ledger wrote itself must
 * decode: the ledger treats a record that does not as damage and stops (vd_ledger.c). */
#include "vd_state.h"
#include "vd_pb.h"

#include <assert.h>

bool vd_state_class_valid(uint32_t number)
{
    switch (number) {
#define X(code, first_byte, rest) case first_byte:
        VD_STATE_LIST(X)
#undef X
        return true;
    }
    return false;
}

struct vd_state_key vd_state_key_make(enum vd_state_class c, const void *p, size_t n_bytes, const void *q)
{
    struct vd_state_key k = {.b = {(uint8_t)c}, .n = 1};
    assert(n_bytes + (q ? VD_HASH_BYTES : 0) < sizeof k.b);
    if (n_bytes)
        memcpy(k.b + 1, p, n_bytes);
    k.n += n_bytes;
    if (q) {
        memcpy(k.b + k.n, q, VD_HASH_BYTES);
        k.n += VD_HASH_BYTES;
    }
    return k;
}

struct vd_state_key vd_state_key_settled(const struct vd_hash *escrow_id, uint64_t sequence)
{
    struct vd_state_key k = vd_state_key_make(VD_STATE_SETTLED, escrow_id->b, VD_HASH_BYTES, NULL);
    for (int i = 7; i >= 0; i--)
        k.b[k.n++] = (uint8_t)(sequence >> (8 * i));
    return k;
}

#define X(code, name)                                                                                        \
    case code:                                                                                               \
        return name;
const char *vd_bucket_name(enum vd_bucket b)
{
    switch (b) {
        VD_BUCKET_LIST(X)
    case VD_BUCKETS:
        break;
    }
    return "?";
}
#undef X

#define X(code, number, name)                                                                                \
    case code:                                                                                               \
        return name;
const char *vd_receipt_status_name(enum vd_receipt_status s)
{
    switch (s) {
        VD_RECEIPT_STATUS_LIST(X)
    }
    return "?";
}
const char *vd_dispute_status_name(enum vd_dispute_status s)
{
    switch (s) {
        VD_DISPUTE_STATUS_LIST(X)
    }
    return "?";
}
#undef X

static void put_amount(struct vd_pb_writer *w, uint32_t field, struct vd_amount a)
{
    vd_pb_put_u64(w, field, a.micro);
}

static struct vd_amount get_amount(struct vd_pb_reader *r, uint32_t field)
{
    return vd_amount_micro(vd_pb_get_u64(r, field, VD_AMOUNT_MAX_MICRO));
}

static uint32_t get_u32(struct vd_pb_reader *r, uint32_t field)
{
    return (uint32_t)vd_pb_get_u64(r, field, UINT32_MAX);
}

static size_t done(const struct vd_pb_writer *w)
{
    return w->overflow ? 0 : w->n_bytes;
}

size_t vd_totals_encode(const struct vd_totals *v, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    for (uint32_t i = 0; i < VD_BUCKETS; i++)
        put_amount(&w, 1 + i, v->bucket[i]);
    vd_pb_put_u64(&w, 8, v->n_txs);
    return done(&w);
}

bool vd_totals_decode(struct vd_bytes in, struct vd_totals *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    for (uint32_t i = 0; i < VD_BUCKETS; i++)
        out->bucket[i] = get_amount(&r, 1 + i);
    out->n_txs = vd_pb_get_u64(&r, 8, UINT64_MAX);
    return vd_pb_done(&r);
}

size_t vd_account_encode(const struct vd_account *v, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    put_amount(&w, 1, v->balance);
    vd_pb_put_u64(&w, 2, v->nonce);
    return done(&w);
}

bool vd_account_decode(struct vd_bytes in, struct vd_account *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    out->balance = get_amount(&r, 1);
    out->nonce = vd_pb_get_u64(&r, 2, UINT64_MAX);
    return vd_pb_done(&r);
}

size_t vd_stake_encode(const struct vd_stake *v, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    put_amount(&w, 1, v->amount);
    put_amount(&w, 2, v->unbonding);
    vd_pb_put_u64(&w, 3, v->withdraw_height);
    put_amount(&w, 4, v->unsettled);
    vd_pb_put_u64(&w, 5, v->n_open_receipts);
    vd_pb_put_u64(&w, 6, v->n_open_disputes);
    vd_pb_put_u64(&w, 7, v->convicted_height);
    return done(&w);
}

bool vd_stake_decode(struct vd_bytes in, struct vd_stake *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    out->amount = get_amount(&r, 1);
    out->unbonding = get_amount(&r, 2);
    out->withdraw_height = vd_pb_get_u64(&r, 3, UINT64_MAX);
    out->unsettled = get_amount(&r, 4);
    out->n_open_receipts = vd_pb_get_u64(&r, 5, UINT64_MAX);
    out->n_open_disputes = vd_pb_get_u64(&r, 6, UINT64_MAX);
    out->convicted_height = vd_pb_get_u64(&r, 7, UINT64_MAX);
    return vd_pb_done(&r);
}

size_t vd_model_record_encode(const struct vd_model_record *v, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_bytes(&w, 1, v->program.p, v->program.n);
    vd_pb_put_u64(&w, 2, v->n_tensors);
    vd_pb_put_elem(&w, 3, v->tensors_root.b, VD_HASH_BYTES);
    vd_pb_put_elem(&w, 4, v->registrant.b, VD_PUBKEY_BYTES);
    vd_pb_put_u64(&w, 5, v->height);
    return done(&w);
}

bool vd_model_record_decode(struct vd_bytes in, struct vd_model_record *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    out->program = vd_pb_get_bytes(&r, 1, VD_KVS_VALUE_MAX_BYTES);
    out->n_tensors = get_u32(&r, 2);
    vd_pb_get_fixed(&r, 3, out->tensors_root.b, VD_HASH_BYTES);
    vd_pb_get_fixed(&r, 4, out->registrant.b, VD_PUBKEY_BYTES);
    out->height = vd_pb_get_u64(&r, 5, UINT64_MAX);
    return vd_pb_done(&r);
}

size_t vd_offer_encode(const struct vd_offer *v, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    put_amount(&w, 1, v->price_in);
    put_amount(&w, 2, v->price_out);
    vd_pb_put_u64(&w, 3, v->capacity);
    vd_pb_put_u64(&w, 4, v->height);
    return done(&w);
}

bool vd_offer_decode(struct vd_bytes in, struct vd_offer *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    out->price_in = get_amount(&r, 1);
    out->price_out = get_amount(&r, 2);
    out->capacity = get_u32(&r, 3);
    out->height = vd_pb_get_u64(&r, 4, UINT64_MAX);
    return vd_pb_done(&r);
}

size_t vd_escrow_encode(const struct vd_escrow *v, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_elem(&w, 1, v->owner.b, VD_PUBKEY_BYTES);
    vd_pb_put_elem(&w, 2, v->gateway.b, VD_PUBKEY_BYTES);
    put_amount(&w, 3, v->deposited);
    put_amount(&w, 4, v->settled);
    put_amount(&w, 5, v->returned);
    put_amount(&w, 6, v->balance);
    vd_pb_put_u64(&w, 7, v->open_height);
    vd_pb_put_u64(&w, 8, v->end_height);
    vd_pb_put_u64(&w, 9, v->ended);
    return done(&w);
}

bool vd_escrow_decode(struct vd_bytes in, struct vd_escrow *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    vd_pb_get_fixed(&r, 1, out->owner.b, VD_PUBKEY_BYTES);
    vd_pb_get_fixed(&r, 2, out->gateway.b, VD_PUBKEY_BYTES);
    out->deposited = get_amount(&r, 3);
    out->settled = get_amount(&r, 4);
    out->returned = get_amount(&r, 5);
    out->balance = get_amount(&r, 6);
    out->open_height = vd_pb_get_u64(&r, 7, UINT64_MAX);
    out->end_height = vd_pb_get_u64(&r, 8, UINT64_MAX);
    out->ended = vd_pb_get_u64(&r, 9, 1) != 0;
    return vd_pb_done(&r);
}

size_t vd_receipt_record_encode(const struct vd_receipt_record *v, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_u64(&w, 1, v->status);
    vd_pb_put_elem(&w, 2, v->escrow_id.b, VD_HASH_BYTES);
    vd_pb_put_u64(&w, 3, v->sequence);
    vd_pb_put_elem(&w, 4, v->worker.b, VD_PUBKEY_BYTES);
    vd_pb_put_elem(&w, 5, v->gateway.b, VD_PUBKEY_BYTES);
    vd_pb_put_elem(&w, 6, v->model_root.b, VD_HASH_BYTES);
    put_amount(&w, 7, v->amount);
    vd_pb_put_u64(&w, 8, v->settle_height);
    vd_pb_put_u64(&w, 9, v->window_end_height);
    vd_pb_put_u64(&w, 10, v->close_height);
    vd_pb_put_u64(&w, 11, v->n_open_disputes);
    vd_pb_put_opt_fixed(&w, 12, v->state_root.b, VD_HASH_BYTES);
    vd_pb_put_bytes(&w, 13, v->body.p, v->body.n);
    vd_pb_put_u64(&w, 14, v->worker_was_late);
    return done(&w);
}

bool vd_receipt_record_decode(struct vd_bytes in, struct vd_receipt_record *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    uint64_t status = vd_pb_get_u64(&r, 1, VD_RECEIPT_VOID);
    vd_pb_get_fixed(&r, 2, out->escrow_id.b, VD_HASH_BYTES);
    out->sequence = vd_pb_get_u64(&r, 3, UINT64_MAX);
    vd_pb_get_fixed(&r, 4, out->worker.b, VD_PUBKEY_BYTES);
    vd_pb_get_fixed(&r, 5, out->gateway.b, VD_PUBKEY_BYTES);
    vd_pb_get_fixed(&r, 6, out->model_root.b, VD_HASH_BYTES);
    out->amount = get_amount(&r, 7);
    out->settle_height = vd_pb_get_u64(&r, 8, UINT64_MAX);
    out->window_end_height = vd_pb_get_u64(&r, 9, UINT64_MAX);
    out->close_height = vd_pb_get_u64(&r, 10, UINT64_MAX);
    out->n_open_disputes = get_u32(&r, 11);
    vd_pb_get_opt_fixed(&r, 12, out->state_root.b, VD_HASH_BYTES);
    out->body = vd_pb_get_bytes(&r, 13, VD_RECEIPT_MAX_BYTES);
    out->worker_was_late = vd_pb_get_u64(&r, 14, 1) != 0;
    if (!vd_pb_done(&r) || status == 0)
        return false;
    out->status = (enum vd_receipt_status)status;
    return true;
}

size_t vd_dispute_encode(const struct vd_dispute *v, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_u64(&w, 1, v->status);
    vd_pb_put_elem(&w, 2, v->receipt_id.b, VD_HASH_BYTES);
    vd_pb_put_elem(&w, 3, v->worker.b, VD_PUBKEY_BYTES);
    vd_pb_put_elem(&w, 4, v->challenger.b, VD_PUBKEY_BYTES);
    put_amount(&w, 5, v->bond);
    vd_pb_put_u64(&w, 6, v->open_height);
    vd_pb_put_u64(&w, 7, v->deadline_height);
    vd_pb_put_u64(&w, 8, v->end_height);
    vd_pb_put_u64(&w, 9, v->n_moves);
    vd_pb_put_u64(&w, 10, v->clocks);
    vd_pb_put_u64(&w, 11, v->replay_blocks);
    return done(&w);
}

bool vd_dispute_decode(struct vd_bytes in, struct vd_dispute *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    uint64_t status = vd_pb_get_u64(&r, 1, VD_DISPUTE_MOOT);
    vd_pb_get_fixed(&r, 2, out->receipt_id.b, VD_HASH_BYTES);
    vd_pb_get_fixed(&r, 3, out->worker.b, VD_PUBKEY_BYTES);
    vd_pb_get_fixed(&r, 4, out->challenger.b, VD_PUBKEY_BYTES);
    out->bond = get_amount(&r, 5);
    out->open_height = vd_pb_get_u64(&r, 6, UINT64_MAX);
    out->deadline_height = vd_pb_get_u64(&r, 7, UINT64_MAX);
    out->end_height = vd_pb_get_u64(&r, 8, UINT64_MAX);
    out->n_moves = get_u32(&r, 9);
    out->clocks = vd_pb_get_u64(&r, 10, UINT64_MAX);
    out->replay_blocks = vd_pb_get_u64(&r, 11, UINT64_MAX);
    if (!vd_pb_done(&r) || status == 0)
        return false;
    out->status = (enum vd_dispute_status)status;
    return true;
}

size_t vd_tx_place_encode(const struct vd_tx_place *v, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_u64(&w, 1, v->height);
    vd_pb_put_u64(&w, 2, v->index);
    return done(&w);
}

bool vd_tx_place_decode(struct vd_bytes in, struct vd_tx_place *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    out->height = vd_pb_get_u64(&r, 1, UINT64_MAX);
    out->index = get_u32(&r, 2);
    return vd_pb_done(&r);
}
