/* Each kind is a nested message in the body's field of its own number, so a body without a kind, with two, or
 * with fields of another kind cannot be written or read. An encoder and a decoder per kind stand side by side
 * and can be checked by eye against proto/veridem.proto. */
#include "vd_tx.h"
#include "vd_pb.h"

#include <assert.h>

const char *vd_tx_kind_name(enum vd_tx_kind kind)
{
    switch (kind) {
#define X(code, number, name)                                                                                \
    case code:                                                                                               \
        return name;
        VD_TX_KIND_LIST(X)
#undef X
    }
    return "?";
}

const char *vd_tx_verdict_name(enum vd_tx_verdict v)
{
    switch (v) {
#define X(code, number, text)                                                                                \
    case code:                                                                                               \
        return &#code[6]; /* without VD_TX_ */
        VD_TX_VERDICT_LIST(X)
#undef X
    }
    return "?";
}

const char *vd_tx_verdict_text(enum vd_tx_verdict v)
{
    switch (v) {
#define X(code, number, text)                                                                                \
    case code:                                                                                               \
        return text;
        VD_TX_VERDICT_LIST(X)
#undef X
    }
    return "?";
}

bool vd_tx_verdict_from_number(uint32_t number, enum vd_tx_verdict *out)
{
    static const enum vd_tx_verdict all[] = {
#define X(code, n, text) code,
        VD_TX_VERDICT_LIST(X)
#undef X
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if ((uint32_t)all[i] == number) {
            *out = all[i];
            return true;
        }
    return false;
}

static void put_kind(struct vd_pb_writer *w, const struct vd_tx *tx)
{
    switch (tx->kind) {
    case VD_TX_TRANSFER:
        vd_pb_put_elem(w, 1, tx->u.transfer.to.b, VD_PUBKEY_BYTES);
        vd_pb_put_u64(w, 2, tx->u.transfer.amount.micro);
        return;
    case VD_TX_STAKE:
    case VD_TX_UNSTAKE:
        vd_pb_put_u64(w, 1, tx->u.stake.amount.micro);
        return;
    case VD_TX_WITHDRAW:
        return;
    case VD_TX_REGISTER_MODEL:
        vd_pb_put_bytes(w, 1, tx->u.register_model.program.p, tx->u.register_model.program.n);
        vd_pb_put_u64(w, 2, tx->u.register_model.n_tensors);
        vd_pb_put_elem(w, 3, tx->u.register_model.tensors_root.b, VD_HASH_BYTES);
        return;
    case VD_TX_OFFER:
        vd_pb_put_elem(w, 1, tx->u.offer.model_root.b, VD_HASH_BYTES);
        vd_pb_put_u64(w, 2, tx->u.offer.price_in.micro);
        vd_pb_put_u64(w, 3, tx->u.offer.price_out.micro);
        vd_pb_put_u64(w, 4, tx->u.offer.capacity);
        return;
    case VD_TX_ESCROW_OPEN:
        vd_pb_put_elem(w, 1, tx->u.escrow_open.gateway.b, VD_PUBKEY_BYTES);
        vd_pb_put_u64(w, 2, tx->u.escrow_open.amount.micro);
        return;
    case VD_TX_ESCROW_TOPUP:
        vd_pb_put_elem(w, 1, tx->u.escrow_topup.escrow_id.b, VD_HASH_BYTES);
        vd_pb_put_u64(w, 2, tx->u.escrow_topup.amount.micro);
        return;
    case VD_TX_ESCROW_CLOSE:
        vd_pb_put_elem(w, 1, tx->u.escrow_close.escrow_id.b, VD_HASH_BYTES);
        return;
    case VD_TX_SETTLE:
        for (uint32_t i = 0; i < tx->u.settle.n; i++)
            vd_pb_put_elem(w, 1, tx->u.settle.receipt[i].p, tx->u.settle.receipt[i].n);
        return;
    case VD_TX_CHALLENGE:
        vd_pb_put_elem(w, 1, tx->u.challenge.receipt_id.b, VD_HASH_BYTES);
        return;
    case VD_TX_MOVE:
        vd_pb_put_elem(w, 1, tx->u.move.dispute_id.b, VD_HASH_BYTES);
        vd_pb_put_bytes(w, 2, tx->u.move.move.p, tx->u.move.move.n);
        return;
    case VD_TX_BEACON_OPEN:
        vd_pb_put_elem(w, 1, tx->u.beacon_open.anchor.b, VD_HASH_BYTES);
        vd_pb_put_u64(w, 2, tx->u.beacon_open.n_layers);
        return;
    case VD_TX_BEACON:
        vd_pb_put_u64(w, 1, tx->u.beacon.epoch);
        vd_pb_put_elem(w, 2, tx->u.beacon.layer.b, VD_HASH_BYTES);
        return;
    case VD_TX_AUDITOR:
        vd_pb_put_elem(w, 1, tx->u.auditor.model_root.b, VD_HASH_BYTES);
        vd_pb_put_u64(w, 2, tx->u.auditor.on);
        return;
    case VD_TX_AUDIT_COMMIT:
        vd_pb_put_elem(w, 1, tx->u.audit_commit.receipt_id.b, VD_HASH_BYTES);
        vd_pb_put_elem(w, 2, tx->u.audit_commit.commitment.b, VD_HASH_BYTES);
        return;
    case VD_TX_AUDIT_REVEAL:
        vd_pb_put_elem(w, 1, tx->u.audit_reveal.receipt_id.b, VD_HASH_BYTES);
        vd_pb_put_u64(w, 2, tx->u.audit_reveal.verdict);
        vd_pb_put_opt_fixed(w, 3, tx->u.audit_reveal.half[0].b, VD_HASH_BYTES);
        vd_pb_put_opt_fixed(w, 4, tx->u.audit_reveal.half[1].b, VD_HASH_BYTES);
        vd_pb_put_elem(w, 5, tx->u.audit_reveal.nonce.b, VD_HASH_BYTES);
        return;
    case VD_TX_AUDIT_DEMAND:
        vd_pb_put_elem(w, 1, tx->u.audit_demand.receipt_id.b, VD_HASH_BYTES);
        return;
    case VD_TX_AUDIT_DATA:
        vd_pb_put_elem(w, 1, tx->u.audit_data.receipt_id.b, VD_HASH_BYTES);
        vd_pb_put_elem(w, 2, tx->u.audit_data.salt.b, VD_HASH_BYTES);
        vd_pb_put_u64(w, 3, tx->u.audit_data.first);
        vd_pb_put_bytes(w, 4, tx->u.audit_data.tokens.p, tx->u.audit_data.tokens.n);
        vd_pb_put_bytes(w, 5, tx->u.audit_data.bias.p, tx->u.audit_data.bias.n);
        vd_pb_put_bytes(w, 6, tx->u.audit_data.mask.p, tx->u.audit_data.mask.n);
        return;
    case VD_TX_TRAP_PLANT:
        vd_pb_put_elem(w, 1, tx->u.trap_plant.commitment.b, VD_HASH_BYTES);
        return;
    case VD_TX_TRAP_OPEN:
        vd_pb_put_elem(w, 1, tx->u.trap_open.trap_id.b, VD_HASH_BYTES);
        vd_pb_put_elem(w, 2, tx->u.trap_open.receipt_id.b, VD_HASH_BYTES);
        vd_pb_put_elem(w, 3, tx->u.trap_open.secret.b, VD_HASH_BYTES);
        vd_pb_put_u64(w, 4, tx->u.trap_open.index);
        vd_pb_put_bytes(w, 5, tx->u.trap_open.proof.p, tx->u.trap_open.proof.n);
        return;
    }
}

static bool get_settle(struct vd_pb_reader *r, struct vd_tx_settle *s)
{
    struct vd_bytes b;
    s->n = 0;
    while (vd_pb_next_elem(r, 1, &b, VD_SIGNED_RECEIPT_MAX_BYTES)) {
        if (s->n == VD_TX_SETTLE_MAX)
            return false;
        s->receipt[s->n++] = b;
    }
    return s->n > 0;
}

static struct vd_amount get_amount(struct vd_pb_reader *r, uint32_t field)
{
    return vd_amount_micro(vd_pb_get_u64(r, field, VD_AMOUNT_MAX_MICRO));
}

static void get_hash(struct vd_pb_reader *r, uint32_t field, struct vd_hash *h)
{
    vd_pb_get_fixed(r, field, h->b, VD_HASH_BYTES);
}

static void get_reveal(struct vd_pb_reader *r, struct vd_tx_audit_reveal *v)
{
    get_hash(r, 1, &v->receipt_id);
    uint64_t verdict = vd_pb_get_u64(r, 2, VD_AUDIT_UNFIT);
    v->verdict = (enum vd_audit_verdict)verdict;
    vd_pb_get_opt_fixed(r, 3, v->half[0].b, VD_HASH_BYTES);
    vd_pb_get_opt_fixed(r, 4, v->half[1].b, VD_HASH_BYTES);
    get_hash(r, 5, &v->nonce);
    r->bad |= verdict == 0;
}

/* Of the audits' kinds. */
static void get_audit_kind(struct vd_pb_reader *r, struct vd_tx *tx)
{
    if (tx->kind == VD_TX_BEACON_OPEN) {
        get_hash(r, 1, &tx->u.beacon_open.anchor);
        tx->u.beacon_open.n_layers = (uint32_t)vd_pb_get_u64(r, 2, VD_BEACON_LAYERS_MAX);
    } else if (tx->kind == VD_TX_BEACON) {
        tx->u.beacon.epoch = vd_pb_get_u64(r, 1, UINT64_MAX);
        get_hash(r, 2, &tx->u.beacon.layer);
    } else if (tx->kind == VD_TX_AUDITOR) {
        get_hash(r, 1, &tx->u.auditor.model_root);
        tx->u.auditor.on = vd_pb_get_u64(r, 2, 1) != 0;
    } else if (tx->kind == VD_TX_AUDIT_COMMIT) {
        get_hash(r, 1, &tx->u.audit_commit.receipt_id);
        get_hash(r, 2, &tx->u.audit_commit.commitment);
    } else if (tx->kind == VD_TX_AUDIT_REVEAL) {
        get_reveal(r, &tx->u.audit_reveal);
    } else if (tx->kind == VD_TX_AUDIT_DEMAND) {
        get_hash(r, 1, &tx->u.audit_demand.receipt_id);
    } else if (tx->kind == VD_TX_AUDIT_DATA) {
        get_hash(r, 1, &tx->u.audit_data.receipt_id);
        get_hash(r, 2, &tx->u.audit_data.salt);
        tx->u.audit_data.first = (uint32_t)vd_pb_get_u64(r, 3, UINT32_MAX);
        tx->u.audit_data.tokens = vd_pb_get_bytes(r, 4, 4 * VD_AUDIT_CHUNK_TOKENS);
        tx->u.audit_data.bias = vd_pb_get_bytes(r, 5, VD_CONTROLS_MAX_BYTES);
        tx->u.audit_data.mask = vd_pb_get_bytes(r, 6, VD_CONTROLS_MAX_BYTES);
    } else if (tx->kind == VD_TX_TRAP_PLANT) {
        get_hash(r, 1, &tx->u.trap_plant.commitment);
    } else {
        get_hash(r, 1, &tx->u.trap_open.trap_id);
        get_hash(r, 2, &tx->u.trap_open.receipt_id);
        get_hash(r, 3, &tx->u.trap_open.secret);
        tx->u.trap_open.index = (uint32_t)vd_pb_get_u64(r, 4, UINT32_MAX);
        tx->u.trap_open.proof = vd_pb_get_bytes(r, 5, 64 * VD_HASH_BYTES);
    }
}

static bool get_kind(struct vd_bytes in, struct vd_tx *tx)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    switch (tx->kind) {
    case VD_TX_TRANSFER:
        vd_pb_get_fixed(&r, 1, tx->u.transfer.to.b, VD_PUBKEY_BYTES);
        tx->u.transfer.amount = get_amount(&r, 2);
        break;
    case VD_TX_STAKE:
    case VD_TX_UNSTAKE:
        tx->u.stake.amount = get_amount(&r, 1);
        break;
    case VD_TX_WITHDRAW:
        break;
    case VD_TX_REGISTER_MODEL:
        tx->u.register_model.program = vd_pb_get_bytes(&r, 1, VD_TX_PROGRAM_MAX_BYTES);
        tx->u.register_model.n_tensors = (uint32_t)vd_pb_get_u64(&r, 2, UINT32_MAX);
        vd_pb_get_fixed(&r, 3, tx->u.register_model.tensors_root.b, VD_HASH_BYTES);
        break;
    case VD_TX_OFFER:
        vd_pb_get_fixed(&r, 1, tx->u.offer.model_root.b, VD_HASH_BYTES);
        tx->u.offer.price_in = get_amount(&r, 2);
        tx->u.offer.price_out = get_amount(&r, 3);
        tx->u.offer.capacity = (uint32_t)vd_pb_get_u64(&r, 4, UINT32_MAX);
        break;
    case VD_TX_ESCROW_OPEN:
        vd_pb_get_fixed(&r, 1, tx->u.escrow_open.gateway.b, VD_PUBKEY_BYTES);
        tx->u.escrow_open.amount = get_amount(&r, 2);
        break;
    case VD_TX_ESCROW_TOPUP:
        vd_pb_get_fixed(&r, 1, tx->u.escrow_topup.escrow_id.b, VD_HASH_BYTES);
        tx->u.escrow_topup.amount = get_amount(&r, 2);
        break;
    case VD_TX_ESCROW_CLOSE:
        vd_pb_get_fixed(&r, 1, tx->u.escrow_close.escrow_id.b, VD_HASH_BYTES);
        break;
    case VD_TX_SETTLE:
        if (!get_settle(&r, &tx->u.settle))
            return false;
        break;
    case VD_TX_CHALLENGE:
        vd_pb_get_fixed(&r, 1, tx->u.challenge.receipt_id.b, VD_HASH_BYTES);
        break;
    case VD_TX_MOVE:
        vd_pb_get_fixed(&r, 1, tx->u.move.dispute_id.b, VD_HASH_BYTES);
        tx->u.move.move = vd_pb_get_bytes(&r, 2, VD_TX_MOVE_MAX_BYTES);
        break;
    case VD_TX_BEACON_OPEN:
    case VD_TX_BEACON:
    case VD_TX_AUDITOR:
    case VD_TX_AUDIT_COMMIT:
    case VD_TX_AUDIT_REVEAL:
    case VD_TX_AUDIT_DEMAND:
    case VD_TX_AUDIT_DATA:
    case VD_TX_TRAP_PLANT:
    case VD_TX_TRAP_OPEN:
        get_audit_kind(&r, tx);
        break;
    }
    return vd_pb_done(&r);
}

static void put_body(struct vd_pb_writer *w, const struct vd_tx *tx)
{
    vd_pb_put_elem(w, 1, tx->genesis.b, VD_HASH_BYTES);
    vd_pb_put_elem(w, 2, tx->sender.b, VD_PUBKEY_BYTES);
    vd_pb_put_u64(w, 3, tx->nonce);
    size_t mark = vd_pb_begin(w, tx->kind);
    put_kind(w, tx);
    vd_pb_end(w, mark, true);
}

size_t vd_tx_body_encode(const struct vd_tx *tx, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    put_body(&w, tx);
    return w.overflow ? 0 : w.n_bytes;
}

bool vd_tx_body_decode(struct vd_bytes body, struct vd_tx *out)
{
    static const enum vd_tx_kind kinds[] = {
#define X(code, number, name) code,
        VD_TX_KIND_LIST(X)
#undef X
    };
    struct vd_pb_reader r = vd_pb_reader_init(body.p, body.n);
    if (body.n > VD_TX_MAX_BYTES)
        return false;
    vd_pb_get_fixed(&r, 1, out->genesis.b, VD_HASH_BYTES);
    vd_pb_get_fixed(&r, 2, out->sender.b, VD_PUBKEY_BYTES);
    out->nonce = vd_pb_get_u64(&r, 3, UINT64_MAX);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        struct vd_bytes inner;
        if (!vd_pb_next_elem(&r, kinds[i], &inner, VD_TX_MAX_BYTES))
            continue;
        out->kind = kinds[i];
        return vd_pb_done(&r) && get_kind(inner, out);
    }
    return false;
}

struct vd_hash vd_tx_id(struct vd_bytes body)
{
    struct vd_sha256 s;
    struct vd_hash h;
    vd_sha256_init_tag(&s, VD_TAG_TX);
    vd_sha256_update(&s, body.p, body.n);
    vd_sha256_final(&s, &h);
    return h;
}

size_t vd_tx_sign(const struct vd_tx *tx, const struct vd_keypair *key, uint8_t *buf, size_t cap_bytes,
                  struct vd_hash *id)
{
    assert(vd_pubkey_eq(&tx->sender, &key->pub));
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    struct vd_sig sig;
    size_t mark = vd_pb_begin(&w, 1);
    put_body(&w, tx);
    vd_pb_end(&w, mark, true);
    if (w.overflow)
        return 0;
    /* The body is what stands in field 1: read it back from where it ended up. */
    struct vd_pb_reader r = vd_pb_reader_init(buf, w.n_bytes);
    struct vd_bytes body = vd_pb_get_bytes(&r, 1, VD_TX_MAX_BYTES);
    vd_key_sign(&sig, key, VD_TAG_TX, body.p, body.n);
    if (id)
        *id = vd_tx_id(body);
    vd_pb_put_elem(&w, 2, sig.b, VD_SIG_BYTES);
    return w.overflow || w.n_bytes > VD_TX_MAX_BYTES ? 0 : w.n_bytes;
}

bool vd_tx_decode(struct vd_bytes in, struct vd_tx_signed *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    if (in.n > VD_TX_MAX_BYTES)
        return false;
    out->body = vd_pb_get_bytes(&r, 1, VD_TX_MAX_BYTES);
    vd_pb_get_fixed(&r, 2, out->sig.b, VD_SIG_BYTES);
    if (!vd_pb_done(&r) || !vd_tx_body_decode(out->body, &out->tx))
        return false;
    out->id = vd_tx_id(out->body);
    return true;
}

bool vd_tx_verify(const struct vd_tx_signed *s)
{
    return vd_key_verify(&s->sig, &s->tx.sender, VD_TAG_TX, s->body.p, s->body.n);
}
