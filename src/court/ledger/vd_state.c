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

struct vd_state_key vd_state_key_beacon(uint64_t epoch)
{
    struct vd_state_key k = vd_state_key_make(VD_STATE_BEACON, NULL, 0, NULL);
    for (int i = 7; i >= 0; i--)
        k.b[k.n++] = (uint8_t)(epoch >> (8 * i));
    return k;
}

struct vd_state_key vd_state_key_shown(const struct vd_hash *receipt_id, const struct vd_pubkey *who,
                                       uint32_t first)
{
    struct vd_state_key k = vd_state_key_make(VD_INDEX_SHOWN, receipt_id->b, VD_HASH_BYTES, who->b);
    for (int i = 3; i >= 0; i--)
        k.b[k.n++] = (uint8_t)(first >> (8 * i));
    return k;
}

struct vd_state_key vd_state_key_challenge(const struct vd_hash *receipt_id,
                                           const struct vd_pubkey *challenger,
                                           const struct vd_hash *dispute_id)
{
    struct vd_state_key k =
        vd_state_key_make(VD_INDEX_CHALLENGER_DISPUTE, receipt_id->b, VD_HASH_BYTES, challenger->b);
    if (dispute_id) {
        memcpy(k.b + k.n, dispute_id->b, VD_HASH_BYTES);
        k.n += VD_HASH_BYTES;
    }
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
const char *vd_void_why_name(enum vd_void_why w)
{
    switch (w) {
        VD_VOID_WHY_LIST(X)
    }
    return "?";
}
const char *vd_audit_phase_name(enum vd_audit_phase p)
{
    switch (p) {
        VD_AUDIT_PHASE_LIST(X)
    }
    return "?";
}
const char *vd_audit_slot_name(enum vd_audit_slot_status s)
{
    switch (s) {
        VD_AUDIT_SLOT_LIST(X)
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
    vd_pb_put_u64(&w, 9, v->n_txs);
    vd_pb_put_u64(&w, 10, v->n_full_blocks);
    vd_pb_put_u64(&w, 11, v->place_height);
    vd_pb_put_u64(&w, 12, v->n_places);
    return done(&w);
}

bool vd_totals_decode(struct vd_bytes in, struct vd_totals *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    for (uint32_t i = 0; i < VD_BUCKETS; i++)
        out->bucket[i] = get_amount(&r, 1 + i);
    out->n_txs = vd_pb_get_u64(&r, 9, UINT64_MAX);
    out->n_full_blocks = vd_pb_get_u64(&r, 10, UINT64_MAX);
    out->place_height = vd_pb_get_u64(&r, 11, UINT64_MAX);
    out->n_places = vd_pb_get_u64(&r, 12, UINT64_MAX);
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
    vd_pb_put_u64(&w, 8, v->n_open_audits);
    vd_pb_put_u64(&w, 9, v->n_final);
    vd_pb_put_u64(&w, 10, v->audit_blocks);
    vd_pb_put_u64(&w, 11, v->n_listed);
    vd_pb_put_u64(&w, 12, v->listed_until_height);
    vd_pb_put_u64(&w, 13, v->longest_replay_blocks);
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
    out->n_open_audits = vd_pb_get_u64(&r, 8, UINT64_MAX);
    out->n_final = vd_pb_get_u64(&r, 9, UINT64_MAX);
    out->audit_blocks = vd_pb_get_u64(&r, 10, UINT64_MAX);
    out->n_listed = vd_pb_get_u64(&r, 11, UINT64_MAX);
    out->listed_until_height = vd_pb_get_u64(&r, 12, UINT64_MAX);
    out->longest_replay_blocks = vd_pb_get_u64(&r, 13, UINT64_MAX);
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
    vd_pb_put_u64(&w, 14, v->void_why);
    vd_pb_put_u64(&w, 15, v->audited);
    vd_pb_put_u64(&w, 16, v->audit_open);
    vd_pb_put_u64(&w, 17, v->drawn_epoch);
    vd_pb_put_u64(&w, 18, v->drawn_rate_ppm);
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
    out->void_why = (enum vd_void_why)vd_pb_get_u64(&r, 14, VD_VOID_TRAP);
    out->audited = vd_pb_get_u64(&r, 15, 1) != 0;
    out->audit_open = vd_pb_get_u64(&r, 16, 1) != 0;
    out->drawn_epoch = vd_pb_get_u64(&r, 17, UINT64_MAX);
    out->drawn_rate_ppm = get_u32(&r, 18);
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

size_t vd_keeper_encode(const struct vd_keeper *v, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_elem(&w, 1, v->anchor.b, VD_HASH_BYTES);
    vd_pb_put_u64(&w, 2, v->n_left);
    vd_pb_put_u64(&w, 3, v->next_epoch);
    put_amount(&w, 4, v->bond);
    return done(&w);
}

bool vd_keeper_decode(struct vd_bytes in, struct vd_keeper *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    vd_pb_get_fixed(&r, 1, out->anchor.b, VD_HASH_BYTES);
    out->n_left = get_u32(&r, 2);
    out->next_epoch = vd_pb_get_u64(&r, 3, UINT64_MAX);
    out->bond = get_amount(&r, 4);
    return vd_pb_done(&r);
}

size_t vd_beacon_encode(const struct vd_beacon *v, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_elem(&w, 1, v->mix.b, VD_HASH_BYTES);
    vd_pb_put_u64(&w, 2, v->n_layers);
    return done(&w);
}

bool vd_beacon_decode(struct vd_bytes in, struct vd_beacon *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    vd_pb_get_fixed(&r, 1, out->mix.b, VD_HASH_BYTES);
    out->n_layers = get_u32(&r, 2);
    return vd_pb_done(&r);
}

size_t vd_auditor_encode(const struct vd_auditor *v, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    put_amount(&w, 1, v->weight);
    vd_pb_put_u64(&w, 2, v->height);
    vd_pb_put_u64(&w, 3, v->off_height);
    return done(&w);
}

bool vd_auditor_decode(struct vd_bytes in, struct vd_auditor *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    out->weight = get_amount(&r, 1);
    out->height = vd_pb_get_u64(&r, 2, UINT64_MAX);
    out->off_height = vd_pb_get_u64(&r, 3, UINT64_MAX);
    return vd_pb_done(&r);
}

static void put_slot(struct vd_pb_writer *w, const struct vd_audit_slot *s)
{
    size_t mark = vd_pb_begin(w, 13);
    vd_pb_put_elem(w, 1, s->auditor.b, VD_PUBKEY_BYTES);
    vd_pb_put_u64(w, 2, s->status);
    vd_pb_put_opt_fixed(w, 3, s->commitment.b, VD_HASH_BYTES);
    put_amount(w, 4, s->paid);
    put_amount(w, 5, s->slashed);
    vd_pb_end(w, mark, true);
}

static bool get_slot(struct vd_bytes in, struct vd_audit_slot *s)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    vd_pb_get_fixed(&r, 1, s->auditor.b, VD_PUBKEY_BYTES);
    uint64_t status = vd_pb_get_u64(&r, 2, VD_SLOT_UNFIT);
    vd_pb_get_opt_fixed(&r, 3, s->commitment.b, VD_HASH_BYTES);
    s->paid = get_amount(&r, 4);
    s->slashed = get_amount(&r, 5);
    s->status = (enum vd_audit_slot_status)status;
    return vd_pb_done(&r) && status != 0;
}

size_t vd_audit_encode(const struct vd_audit *v, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_u64(&w, 1, v->phase);
    vd_pb_put_elem(&w, 2, v->worker.b, VD_PUBKEY_BYTES);
    vd_pb_put_elem(&w, 3, v->gateway.b, VD_PUBKEY_BYTES);
    vd_pb_put_elem(&w, 4, v->model_root.b, VD_HASH_BYTES);
    vd_pb_put_u64(&w, 5, v->epoch);
    vd_pb_put_u64(&w, 6, v->rate_ppm);
    vd_pb_put_u64(&w, 7, v->draw_height);
    vd_pb_put_u64(&w, 8, v->deadline_height);
    vd_pb_put_u64(&w, 9, v->clock_blocks);
    vd_pb_put_u64(&w, 10, v->demanded);
    vd_pb_put_opt_fixed(&w, 11, v->shown_by.b, VD_PUBKEY_BYTES);
    for (uint32_t i = 0; i < v->n_slots; i++)
        put_slot(&w, &v->slot[i]);
    vd_pb_put_u64(&w, 14, v->replay_blocks);
    vd_pb_put_u64(&w, 15, v->full_blocks);
    return done(&w);
}

bool vd_audit_decode(struct vd_bytes in, struct vd_audit *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    struct vd_bytes slot;
    bool good = true;
    uint64_t phase = vd_pb_get_u64(&r, 1, VD_AUDIT_CLOSED);
    vd_pb_get_fixed(&r, 2, out->worker.b, VD_PUBKEY_BYTES);
    vd_pb_get_fixed(&r, 3, out->gateway.b, VD_PUBKEY_BYTES);
    vd_pb_get_fixed(&r, 4, out->model_root.b, VD_HASH_BYTES);
    out->epoch = vd_pb_get_u64(&r, 5, UINT64_MAX);
    out->rate_ppm = get_u32(&r, 6);
    out->draw_height = vd_pb_get_u64(&r, 7, UINT64_MAX);
    out->deadline_height = vd_pb_get_u64(&r, 8, UINT64_MAX);
    out->clock_blocks = vd_pb_get_u64(&r, 9, UINT64_MAX);
    out->demanded = vd_pb_get_u64(&r, 10, 1) != 0;
    vd_pb_get_opt_fixed(&r, 11, out->shown_by.b, VD_PUBKEY_BYTES);
    for (out->n_slots = 0; good && vd_pb_next_elem(&r, 13, &slot, 128); out->n_slots += good)
        good = out->n_slots < VD_AUDIT_SLOTS_MAX && get_slot(slot, &out->slot[out->n_slots]);
    out->replay_blocks = vd_pb_get_u64(&r, 14, UINT64_MAX);
    out->full_blocks = vd_pb_get_u64(&r, 15, UINT64_MAX);
    out->phase = (enum vd_audit_phase)phase;
    return good && vd_pb_done(&r) && phase != 0;
}

enum { SHOWING_PEAKS_MAX = sizeof((struct vd_showing *)0)->peak / VD_HASH_BYTES };

size_t vd_showing_encode(const struct vd_showing *v, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_elem(&w, 1, v->salt.b, VD_HASH_BYTES);
    vd_pb_put_u64(&w, 2, v->n_tokens);
    for (uint32_t i = 0; i < v->n_peaks; i++)
        vd_pb_put_elem(&w, 3, v->peak[i].b, VD_HASH_BYTES);
    return done(&w);
}

bool vd_showing_decode(struct vd_bytes in, struct vd_showing *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    struct vd_bytes b;
    vd_pb_get_fixed(&r, 1, out->salt.b, VD_HASH_BYTES);
    out->n_tokens = get_u32(&r, 2);
    for (out->n_peaks = 0; vd_pb_next_elem(&r, 3, &b, VD_HASH_BYTES); out->n_peaks++) {
        if (b.n != VD_HASH_BYTES || out->n_peaks == SHOWING_PEAKS_MAX)
            return false;
        memcpy(out->peak[out->n_peaks].b, b.p, VD_HASH_BYTES);
    }
    return vd_pb_done(&r);
}

size_t vd_trap_encode(const struct vd_trap *v, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_elem(&w, 1, v->owner.b, VD_PUBKEY_BYTES);
    vd_pb_put_elem(&w, 2, v->commitment.b, VD_HASH_BYTES);
    vd_pb_put_u64(&w, 3, v->height);
    put_amount(&w, 4, v->bond);
    return done(&w);
}

bool vd_trap_decode(struct vd_bytes in, struct vd_trap *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    vd_pb_get_fixed(&r, 1, out->owner.b, VD_PUBKEY_BYTES);
    vd_pb_get_fixed(&r, 2, out->commitment.b, VD_HASH_BYTES);
    out->height = vd_pb_get_u64(&r, 3, UINT64_MAX);
    out->bond = get_amount(&r, 4);
    return vd_pb_done(&r);
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
