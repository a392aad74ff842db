/* Data that an auditor demands on the ledger, and those who must show them: the receipt's worker and gateway.
 *
 * They come in parts, and what is kept between two parts is the peaks of a Merkle tree, so that the root can
 * be checked when the last token is there without reading the others again. */
#include "vd_audit.h"
#include "vd_ledger_impl.h"
#include "vd_pb.h"
#include "vd_trace_hash.h"

/* AUDIT_DATA that show the whole. */
static uint64_t count_parts(struct vd_ledger_block *b, const struct vd_receipt_record *record)
{
    struct vd_receipt r;
    if (vd_receipt_decode(record->body, &r) != VD_RECEIPT_OK) {
        b->broken = true;
        return 1;
    }
    return ((uint64_t)r.request.n_prompt + r.n_output + VD_AUDIT_CHUNK_TOKENS - 1) / VD_AUDIT_CHUNK_TOKENS;
}

enum vd_tx_verdict vd_apply_audit_demand(struct vd_deliver *d)
{
    const struct vd_hash *id = &d->tx->u.audit_demand.receipt_id;
    struct vd_receipt_record r;
    struct vd_audit a;
    enum vd_tx_verdict v = vd_audit_find(d->b, id, &a, &r);
    if (v != VD_TX_OK)
        return v;
    struct vd_audit_slot *s = vd_audit_slot_of(&a, &d->tx->sender);
    if (!s)
        return VD_TX_NOT_DRAWN;
    if (a.phase != VD_AUDIT_COMMITTING || s->status != VD_SLOT_DRAWN || a.demanded)
        return VD_TX_WRONG_PHASE;
    a.demanded = true;
    a.full_blocks = d->b->totals.n_full_blocks;
    vd_audit_set_phase(d->b, id, &a, VD_AUDIT_DATA_DUE,
                       d->b->ledger->genesis->audit_data_blocks * count_parts(d->b, &r));
    vd_block_put_audit(d->b, id, &a);
    struct vd_event e = vd_audit_event(VD_EVENT_AUDIT_DEMANDED, id, &r, &r.worker, VD_AMOUNT_ZERO);
    e.b = d->tx->sender;
    vd_block_event(d->b, e);
    return VD_TX_OK;
}

static struct vd_state_key showing_key(const struct vd_hash *receipt_id, const struct vd_pubkey *who)
{
    return vd_state_key_make(VD_STATE_SHOWING, receipt_id->b, VD_HASH_BYTES, who->b);
}

/* Peaks that stand, smallest first, from and to a stream of n leaves. */
static void stream_load(struct vd_merkle_stream *s, uint64_t n, const struct vd_showing *from)
{
    uint32_t k = 0;
    s->n = n;
    for (unsigned i = 0; i < 64 && n >> i; i++)
        if (n >> i & 1)
            s->peak[i] = from->peak[k++];
}

static void stream_store(const struct vd_merkle_stream *s, struct vd_showing *to)
{
    to->n_peaks = 0;
    for (unsigned i = 0; i < 64 && s->n >> i; i++)
        if (s->n >> i & 1)
            to->peak[to->n_peaks++] = s->peak[i];
}

/* Of the next token, or of the next element of a vector's bits. */
static struct vd_hash shown_leaf(const struct vd_showing *w, const struct vd_receipt *r, uint32_t token)
{
    uint32_t p = r->request.n_prompt, at = w->n_tokens;
    bool vector = r->request.sampling.pooling != VD_POOLING_NONE && at >= p;
    struct vd_hash salt = vd_trace_salt(w->salt.b, vector ? p - 1 : at);
    return vector ? vd_vector_leaf(&salt, at - p, token) : vd_token_leaf(&salt, at, token);
}

/* Takes the tokens of one part; false if a root does not come out. Peaks: VD_JOB_MAX_TOKENS is below 2^24. */
static bool show_tokens(struct vd_showing *w, const struct vd_receipt *r, struct vd_bytes tokens)
{
    uint32_t p = r->request.n_prompt, all = p + r->n_output;
    struct vd_merkle_stream tree;
    stream_load(&tree, w->n_tokens < p ? w->n_tokens : w->n_tokens - p, w);
    for (size_t i = 0; i < tokens.n; i += 4) {
        struct vd_hash leaf = shown_leaf(w, r, vd_le32_load(tokens.p + i));
        vd_merkle_stream_add(&tree, &leaf);
        w->n_tokens++;
        if (w->n_tokens == p || w->n_tokens == all) {
            struct vd_hash root = vd_merkle_stream_root(&tree);
            if (!vd_hash_eq(&root, w->n_tokens == p ? &r->request.prompt_root : &r->output_root))
                return false;
            vd_merkle_stream_init(&tree);
        }
    }
    stream_store(&tree, w);
    return true;
}

/* The tables that the request names come with the first part, and are kept as they came. */
static bool show_tables(struct vd_deliver *d, const struct vd_receipt *r)
{
    const struct vd_tx_audit_data *t = &d->tx->u.audit_data;
    struct vd_controls controls = {t->bias, t->mask};
    if (t->first)
        return t->bias.n == 0 && t->mask.n == 0;
    if (!vd_controls_check(&r->request, &controls))
        return false;
    struct vd_state_key at = vd_state_key_shown(&t->receipt_id, &d->tx->sender, UINT32_MAX);
    size_t cap = t->bias.n + t->mask.n + 16;
    uint8_t *buf = vd_arena_alloc(d->b->arena, cap, 1);
    struct vd_pb_writer w = vd_pb_writer_init(buf, buf ? cap : 0);
    vd_pb_put_bytes(&w, 1, t->bias.p, t->bias.n);
    vd_pb_put_bytes(&w, 2, t->mask.p, t->mask.n);
    d->b->overlay.full |= !buf;
    if (w.n_bytes)
        vd_block_put(d->b, &at, buf, w.n_bytes);
    return true;
}

static uint32_t data_bytes(const struct vd_tx_audit_data *t)
{
    return (uint32_t)(t->tokens.n + t->bias.n + t->mask.n);
}

static enum vd_tx_verdict show_part(struct vd_deliver *d, const struct vd_receipt_record *record,
                                    struct vd_showing *w, bool *all)
{
    const struct vd_tx_audit_data *t = &d->tx->u.audit_data;
    struct vd_hash commit = vd_salt_commit(t->salt.b);
    struct vd_receipt r;
    if (vd_receipt_decode(record->body, &r) != VD_RECEIPT_OK) {
        d->b->broken = true;
        return VD_TX_BAD_DATA;
    }
    uint32_t n = r.request.n_prompt + r.n_output;
    if (w->n_tokens == 0)
        *w = (struct vd_showing){.salt = t->salt};
    uint32_t rest = n - w->n_tokens, want = rest < VD_AUDIT_CHUNK_TOKENS ? rest : VD_AUDIT_CHUNK_TOKENS;
    if (!vd_hash_eq(&commit, &r.request.salt_commit) || t->first != w->n_tokens ||
        t->tokens.n != 4 * (size_t)want)
        return VD_TX_BAD_DATA;
    if (data_bytes(t) > VD_BLOCK_MAX_SHOWN_BYTES - d->b->n_shown_bytes)
        return VD_TX_BLOCK_FULL;
    if (!show_tables(d, &r) || !show_tokens(w, &r, t->tokens))
        return VD_TX_BAD_DATA;
    *all = w->n_tokens == n;
    return VD_TX_OK;
}

enum vd_tx_verdict vd_apply_audit_data(struct vd_deliver *d)
{
    const struct vd_tx_audit_data *t = &d->tx->u.audit_data;
    struct vd_state_key at = showing_key(&t->receipt_id, &d->tx->sender);
    struct vd_state_key shown = vd_state_key_shown(&t->receipt_id, &d->tx->sender, t->first);
    struct vd_receipt_record r;
    struct vd_showing w = {.n_tokens = 0};
    struct vd_audit a;
    struct vd_bytes there;
    uint8_t buf[VD_STATE_RECORD_MAX_BYTES];
    bool all = false;
    enum vd_tx_verdict v = vd_audit_find(d->b, &t->receipt_id, &a, &r);
    if (v != VD_TX_OK)
        return v;
    if (!vd_pubkey_eq(&d->tx->sender, &a.worker) && !vd_pubkey_eq(&d->tx->sender, &a.gateway))
        return VD_TX_NOT_DRAWN;
    if (a.phase != VD_AUDIT_DATA_DUE)
        return VD_TX_WRONG_PHASE;
    if (vd_block_get(d->b, &at, &there) && !vd_showing_decode(there, &w))
        d->b->broken = true;
    v = show_part(d, &r, &w, &all);
    if (v != VD_TX_OK)
        return v;
    d->b->n_shown_bytes += data_bytes(t);
    vd_block_put(d->b, &at, buf, vd_showing_encode(&w, buf, sizeof buf));
    vd_block_put(d->b, &shown, t->tokens.p, t->tokens.n);
    if (all) {
        a.shown_by = d->tx->sender;
        vd_audit_set_phase(d->b, &t->receipt_id, &a, VD_AUDIT_COMMITTING, a.clock_blocks);
        struct vd_event e =
            vd_audit_event(VD_EVENT_AUDIT_SHOWN, &t->receipt_id, &r, &r.worker, VD_AMOUNT_ZERO);
        e.b = d->tx->sender;
        vd_block_event(d->b, e);
    }
    vd_block_put_audit(d->b, &t->receipt_id, &a);
    return VD_TX_OK;
}

void vd_audit_forget_data(struct vd_ledger_block *b, const struct vd_hash *receipt_id,
                          const struct vd_pubkey *who)
{
    struct vd_state_key at = showing_key(receipt_id, who);
    struct vd_showing w;
    struct vd_bytes there;
    if (!vd_block_get(b, &at, &there) || !vd_showing_decode(there, &w))
        return;
    for (uint32_t first = 0; first < w.n_tokens; first += VD_AUDIT_CHUNK_TOKENS) {
        struct vd_state_key shown = vd_state_key_shown(receipt_id, who, first);
        vd_block_delete(b, &shown);
    }
    struct vd_state_key tables = vd_state_key_shown(receipt_id, who, UINT32_MAX);
    vd_block_delete(b, &tables);
    vd_block_delete(b, &at);
}
