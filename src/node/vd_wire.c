/* One pair of functions per message, each a list of fields that reads like its entry in proto/veridem.proto.
 * The readers of vd_pb.h accept only what its writers write, so a message has one encoding; what is checked
 * here besides are limits, and that texts are printable, because they end up in logs and terminals. */
#include "vd_wire.h"

const char *vd_wire_role_name(enum vd_wire_role role)
{
    switch (role) {
    case VD_ROLE_LEDGER:
        return "ledger";
    case VD_ROLE_GATEWAY:
        return "gateway";
    case VD_ROLE_WORKER:
        return "worker";
    case VD_ROLE_VERIFIER:
        return "verifier";
    case VD_ROLE_CLIENT:
        return "client";
    }
    return "unknown role";
}

const char *vd_wire_refuse_text(enum vd_wire_refuse_code code)
{
    switch (code) {
#define X(name, number, retry, text)                                                                         \
    case name:                                                                                               \
        return text;
        VD_REFUSE_LIST(X)
#undef X
    }
    return "unknown reason";
}

bool vd_wire_refuse_retry(enum vd_wire_refuse_code code)
{
    switch (code) {
#define X(name, number, retry, text)                                                                         \
    case name:                                                                                               \
        return retry;
        VD_REFUSE_LIST(X)
#undef X
    }
    return false;
}

static bool refuse_known(uint64_t code)
{
    switch ((enum vd_wire_refuse_code)code) {
#define X(name, number, retry, text) case name:
        VD_REFUSE_LIST(X)
#undef X
        return true;
    }
    return false;
}

static bool role_known(uint64_t role)
{
    return role >= VD_ROLE_LEDGER && role <= VD_ROLE_CLIENT;
}

/* Printable: no control characters. Bytes above 0x7f are left to the log, which checks UTF-8. */
static bool text_ok(struct vd_bytes t)
{
    if (t.n > VD_WIRE_TEXT_MAX)
        return false;
    for (size_t i = 0; i < t.n; i++) {
        if (t.p[i] < 0x20 || t.p[i] == 0x7f)
            return false;
    }
    return true;
}

static struct vd_bytes get_text(struct vd_pb_reader *r, uint32_t field)
{
    struct vd_bytes t = vd_pb_get_bytes(r, field, VD_WIRE_TEXT_MAX);
    if (!text_ok(t))
        r->bad = true;
    return t;
}

static void put_text(struct vd_pb_writer *w, uint32_t field, struct vd_bytes t)
{
    if (!text_ok(t))
        w->overflow = true;
    vd_pb_put_bytes(w, field, t.p, t.n);
}

static void put_limited(struct vd_pb_writer *w, uint32_t field, struct vd_bytes b, size_t max_bytes)
{
    if (b.n > max_bytes)
        w->overflow = true;
    vd_pb_put_bytes(w, field, b.p, b.n);
}

static void put_hash(struct vd_pb_writer *w, uint32_t field, const struct vd_hash *h)
{
    vd_pb_put_elem(w, field, h->b, VD_HASH_BYTES);
}

static void get_hash(struct vd_pb_reader *r, uint32_t field, struct vd_hash *h)
{
    vd_pb_get_fixed(r, field, h->b, VD_HASH_BYTES);
}

static void put_tokens(struct vd_pb_writer *w, uint32_t field, struct vd_wire_tokens t)
{
    if (t.n > VD_WIRE_TOKENS_MAX)
        w->overflow = true;
    vd_pb_put_packed_u32(w, field, t.v, t.n);
}

/* Takes what is left of the arena, decodes, and gives back what was not needed. */
static struct vd_wire_tokens get_tokens(struct vd_pb_reader *r, uint32_t field, struct vd_arena *arena)
{
    size_t left = (size_t)(r->end - r->p);
    size_t cap = left < VD_WIRE_TOKENS_MAX ? left : VD_WIRE_TOKENS_MAX;
    size_t mark = arena->used_bytes;
    uint32_t *v = vd_arena_alloc(arena, cap * sizeof *v, _Alignof(uint32_t));
    if (!v) {
        r->bad = true;
        return (struct vd_wire_tokens){NULL, 0};
    }
    size_t n = vd_pb_get_packed_u32(r, field, v, cap);
    arena->used_bytes = mark;
    v = vd_arena_alloc(arena, n * sizeof *v, _Alignof(uint32_t));
    return (struct vd_wire_tokens){v, n};
}

bool vd_wire_put_bye(struct vd_pb_writer *w, const struct vd_wire_bye *m)
{
    vd_pb_put_u64(w, 1, m->code);
    put_text(w, 2, m->text);
    return !w->overflow;
}

bool vd_wire_get_bye(struct vd_wire_bye *m, struct vd_bytes body)
{
    struct vd_pb_reader r = vd_pb_reader_init(body.p, body.n);
    m->code = (uint32_t)vd_pb_get_u64(&r, 1, UINT32_MAX);
    m->text = get_text(&r, 2);
    return vd_pb_done(&r);
}

bool vd_wire_put_ping(struct vd_pb_writer *w, const struct vd_wire_ping *m)
{
    vd_pb_put_u64(w, 1, m->nonce);
    return !w->overflow;
}

bool vd_wire_get_ping(struct vd_wire_ping *m, struct vd_bytes body)
{
    struct vd_pb_reader r = vd_pb_reader_init(body.p, body.n);
    m->nonce = vd_pb_get_u64(&r, 1, UINT64_MAX);
    return vd_pb_done(&r);
}

static void put_offer(struct vd_pb_writer *w, const struct vd_wire_offer *o)
{
    put_hash(w, 1, &o->model_root);
    vd_pb_put_u64(w, 2, o->capacity);
    vd_pb_put_u64(w, 3, o->price_in.micro);
    vd_pb_put_u64(w, 4, o->price_out.micro);
    vd_pb_put_u64(w, 5, o->context_tok);
}

static bool get_offer(struct vd_wire_offer *o, struct vd_bytes body)
{
    struct vd_pb_reader r = vd_pb_reader_init(body.p, body.n);
    get_hash(&r, 1, &o->model_root);
    o->capacity = (uint32_t)vd_pb_get_u64(&r, 2, UINT32_MAX);
    o->price_in.micro = vd_pb_get_u64(&r, 3, VD_PRICE_MAX_MICRO);
    o->price_out.micro = vd_pb_get_u64(&r, 4, VD_PRICE_MAX_MICRO);
    o->context_tok = (uint32_t)vd_pb_get_u64(&r, 5, UINT32_MAX);
    return vd_pb_done(&r);
}

bool vd_wire_put_hello(struct vd_pb_writer *w, const struct vd_wire_hello *m)
{
    if (m->n_offers > VD_WIRE_OFFERS_MAX || !role_known(m->role))
        return false;
    vd_pb_put_u64(w, 1, m->role);
    put_text(w, 2, m->software);
    vd_pb_put_u64(w, 3, m->arithmetic);
    put_hash(w, 4, &m->genesis);
    vd_pb_put_u64(w, 5, m->height);
    for (size_t i = 0; i < m->n_offers; i++) {
        size_t mark = vd_pb_begin(w, 6);
        put_offer(w, &m->offer[i]);
        vd_pb_end(w, mark, true);
    }
    return !w->overflow;
}

bool vd_wire_get_hello(struct vd_wire_hello *m, struct vd_bytes body)
{
    struct vd_pb_reader r = vd_pb_reader_init(body.p, body.n);
    struct vd_bytes e;
    uint64_t role = vd_pb_get_u64(&r, 1, UINT32_MAX);
    m->software = get_text(&r, 2);
    m->arithmetic = (uint32_t)vd_pb_get_u64(&r, 3, UINT32_MAX);
    get_hash(&r, 4, &m->genesis);
    m->height = vd_pb_get_u64(&r, 5, UINT64_MAX);
    for (m->n_offers = 0; vd_pb_next_elem(&r, 6, &e, 256); m->n_offers++) {
        if (m->n_offers == VD_WIRE_OFFERS_MAX || !get_offer(&m->offer[m->n_offers], e))
            return false;
    }
    if (!role_known(role))
        return false;
    m->role = (enum vd_wire_role)role;
    return vd_pb_done(&r);
}

bool vd_wire_put_job(struct vd_pb_writer *w, const struct vd_wire_job *m)
{
    put_limited(w, 1, m->request, VD_REQUEST_MAX_BYTES);
    vd_pb_put_elem(w, 2, m->request_sig.b, VD_SIG_BYTES);
    put_hash(w, 3, &m->salt);
    put_tokens(w, 4, m->prompt);
    put_tokens(w, 5, m->resume);
    put_hash(w, 6, &m->account);
    vd_pb_put_bytes(w, 7, m->controls.bias.p, m->controls.bias.n);
    vd_pb_put_bytes(w, 8, m->controls.mask.p, m->controls.mask.n);
    vd_pb_put_u64(w, 9, m->logprobs);
    return !w->overflow;
}

bool vd_wire_get_job(struct vd_wire_job *m, struct vd_bytes body, struct vd_arena *arena)
{
    struct vd_pb_reader r = vd_pb_reader_init(body.p, body.n);
    m->request = vd_pb_get_bytes(&r, 1, VD_REQUEST_MAX_BYTES);
    vd_pb_get_fixed(&r, 2, m->request_sig.b, VD_SIG_BYTES);
    get_hash(&r, 3, &m->salt);
    m->prompt = get_tokens(&r, 4, arena);
    m->resume = get_tokens(&r, 5, arena);
    get_hash(&r, 6, &m->account);
    m->controls.bias = vd_pb_get_bytes(&r, 7, VD_BIAS_MAX * VD_BIAS_ENTRY_BYTES);
    m->controls.mask = vd_pb_get_bytes(&r, 8, VD_MASK_BYTES_MAX);
    m->logprobs = (uint32_t)vd_pb_get_u64(&r, 9, 1 + VD_WIRE_LOGPROBS_MAX);
    return vd_pb_done(&r);
}

bool vd_wire_put_token(struct vd_pb_writer *w, const struct vd_wire_token *m)
{
    put_hash(w, 1, &m->job);
    vd_pb_put_u64(w, 2, m->index);
    put_tokens(w, 3, m->ids);
    vd_pb_put_bytes(w, 4, m->logprobs.p, m->logprobs.n);
    return !w->overflow;
}

bool vd_wire_get_token(struct vd_wire_token *m, struct vd_bytes body, struct vd_arena *arena)
{
    struct vd_pb_reader r = vd_pb_reader_init(body.p, body.n);
    get_hash(&r, 1, &m->job);
    m->index = (uint32_t)vd_pb_get_u64(&r, 2, UINT32_MAX);
    m->ids = get_tokens(&r, 3, arena);
    m->logprobs = vd_pb_get_bytes(&r, 4, m->ids.n * VD_WIRE_LOGPROB_MAX_BYTES);
    return vd_pb_done(&r);
}

bool vd_wire_put_receipt(struct vd_pb_writer *w, const struct vd_wire_receipt *m)
{
    put_hash(w, 1, &m->job);
    put_limited(w, 2, m->receipt, VD_RECEIPT_MAX_BYTES);
    vd_pb_put_elem(w, 3, m->worker_sig.b, VD_SIG_BYTES);
    return !w->overflow;
}

bool vd_wire_get_receipt(struct vd_wire_receipt *m, struct vd_bytes body)
{
    struct vd_pb_reader r = vd_pb_reader_init(body.p, body.n);
    get_hash(&r, 1, &m->job);
    m->receipt = vd_pb_get_bytes(&r, 2, VD_RECEIPT_MAX_BYTES);
    vd_pb_get_fixed(&r, 3, m->worker_sig.b, VD_SIG_BYTES);
    return vd_pb_done(&r);
}

bool vd_wire_put_prefix(struct vd_pb_writer *w, const struct vd_wire_prefix *m)
{
    put_hash(w, 1, &m->job);
    put_limited(w, 2, m->statement, VD_PREFIX_MAX_BYTES);
    vd_pb_put_elem(w, 3, m->worker_sig.b, VD_SIG_BYTES);
    return !w->overflow;
}

bool vd_wire_get_prefix(struct vd_wire_prefix *m, struct vd_bytes body)
{
    struct vd_pb_reader r = vd_pb_reader_init(body.p, body.n);
    get_hash(&r, 1, &m->job);
    m->statement = vd_pb_get_bytes(&r, 2, VD_PREFIX_MAX_BYTES);
    vd_pb_get_fixed(&r, 3, m->worker_sig.b, VD_SIG_BYTES);
    return vd_pb_done(&r);
}

bool vd_wire_put_accept(struct vd_pb_writer *w, const struct vd_wire_accept *m)
{
    put_hash(w, 1, &m->job);
    put_hash(w, 2, &m->receipt_id);
    vd_pb_put_elem(w, 3, m->gateway_sig.b, VD_SIG_BYTES);
    return !w->overflow;
}

bool vd_wire_get_accept(struct vd_wire_accept *m, struct vd_bytes body)
{
    struct vd_pb_reader r = vd_pb_reader_init(body.p, body.n);
    get_hash(&r, 1, &m->job);
    get_hash(&r, 2, &m->receipt_id);
    vd_pb_get_fixed(&r, 3, m->gateway_sig.b, VD_SIG_BYTES);
    return vd_pb_done(&r);
}

bool vd_wire_put_cancel(struct vd_pb_writer *w, const struct vd_wire_cancel *m)
{
    put_hash(w, 1, &m->job);
    return !w->overflow;
}

bool vd_wire_get_cancel(struct vd_wire_cancel *m, struct vd_bytes body)
{
    struct vd_pb_reader r = vd_pb_reader_init(body.p, body.n);
    get_hash(&r, 1, &m->job);
    return vd_pb_done(&r);
}

bool vd_wire_put_refuse(struct vd_pb_writer *w, const struct vd_wire_refuse *m)
{
    put_hash(w, 1, &m->what);
    vd_pb_put_u64(w, 2, m->code);
    put_text(w, 3, m->text);
    return !w->overflow;
}

bool vd_wire_get_refuse(struct vd_wire_refuse *m, struct vd_bytes body)
{
    struct vd_pb_reader r = vd_pb_reader_init(body.p, body.n);
    get_hash(&r, 1, &m->what);
    uint64_t code = vd_pb_get_u64(&r, 2, UINT32_MAX);
    m->text = get_text(&r, 3);
    if (!refuse_known(code))
        return false;
    m->code = (enum vd_wire_refuse_code)code;
    return vd_pb_done(&r);
}

bool vd_wire_put_audit_get(struct vd_pb_writer *w, const struct vd_wire_audit_get *m)
{
    put_hash(w, 1, &m->receipt_id);
    return !w->overflow;
}

bool vd_wire_get_audit_get(struct vd_wire_audit_get *m, struct vd_bytes body)
{
    struct vd_pb_reader r = vd_pb_reader_init(body.p, body.n);
    get_hash(&r, 1, &m->receipt_id);
    return vd_pb_done(&r);
}

bool vd_wire_put_audit_data(struct vd_pb_writer *w, const struct vd_wire_audit_data *m)
{
    put_hash(w, 1, &m->receipt_id);
    vd_pb_put_bytes(w, 2, m->envelope.p, m->envelope.n);
    return !w->overflow;
}

bool vd_wire_get_audit_data(struct vd_wire_audit_data *m, struct vd_bytes body)
{
    struct vd_pb_reader r = vd_pb_reader_init(body.p, body.n);
    get_hash(&r, 1, &m->receipt_id);
    m->envelope = vd_pb_get_bytes(&r, 2, VD_WIRE_BODY_MAX);
    return vd_pb_done(&r);
}

bool vd_wire_put_submit(struct vd_pb_writer *w, const struct vd_wire_submit *m)
{
    vd_pb_put_u64(w, 1, m->tag);
    put_limited(w, 2, m->tx, VD_WIRE_TX_MAX);
    return !w->overflow;
}

bool vd_wire_get_submit(struct vd_wire_submit *m, struct vd_bytes body)
{
    struct vd_pb_reader r = vd_pb_reader_init(body.p, body.n);
    m->tag = vd_pb_get_u64(&r, 1, UINT64_MAX);
    m->tx = vd_pb_get_bytes(&r, 2, VD_WIRE_TX_MAX);
    return vd_pb_done(&r);
}

bool vd_wire_put_result(struct vd_pb_writer *w, const struct vd_wire_result *m)
{
    vd_pb_put_u64(w, 1, m->tag);
    put_hash(w, 2, &m->tx_id);
    vd_pb_put_u64(w, 3, m->code);
    vd_pb_put_u64(w, 4, m->height);
    put_text(w, 5, m->text);
    return !w->overflow;
}

bool vd_wire_get_result(struct vd_wire_result *m, struct vd_bytes body)
{
    struct vd_pb_reader r = vd_pb_reader_init(body.p, body.n);
    m->tag = vd_pb_get_u64(&r, 1, UINT64_MAX);
    get_hash(&r, 2, &m->tx_id);
    m->code = (uint32_t)vd_pb_get_u64(&r, 3, UINT32_MAX);
    m->height = vd_pb_get_u64(&r, 4, UINT64_MAX);
    m->text = get_text(&r, 5);
    return vd_pb_done(&r);
}

bool vd_wire_put_query(struct vd_pb_writer *w, const struct vd_wire_query *m)
{
    vd_pb_put_u64(w, 1, m->tag);
    vd_pb_put_u64(w, 2, m->kind);
    put_limited(w, 3, m->key, VD_WIRE_KEY_MAX);
    put_limited(w, 4, m->after, VD_WIRE_KEY_MAX);
    vd_pb_put_u64(w, 5, m->limit);
    return !w->overflow;
}

bool vd_wire_get_query(struct vd_wire_query *m, struct vd_bytes body)
{
    struct vd_pb_reader r = vd_pb_reader_init(body.p, body.n);
    m->tag = vd_pb_get_u64(&r, 1, UINT64_MAX);
    m->kind = (uint32_t)vd_pb_get_u64(&r, 2, UINT32_MAX);
    m->key = vd_pb_get_bytes(&r, 3, VD_WIRE_KEY_MAX);
    m->after = vd_pb_get_bytes(&r, 4, VD_WIRE_KEY_MAX);
    m->limit = (uint32_t)vd_pb_get_u64(&r, 5, UINT32_MAX);
    return vd_pb_done(&r);
}

static bool put_items(struct vd_pb_writer *w, uint32_t field, const struct vd_bytes *item, size_t n)
{
    if (n > VD_WIRE_ITEMS_MAX)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (item[i].n > VD_WIRE_ITEM_MAX)
            return false;
        vd_pb_put_elem(w, field, item[i].p, item[i].n);
    }
    return !w->overflow;
}

static bool get_items(struct vd_pb_reader *r, uint32_t field, struct vd_bytes *item, size_t *n)
{
    struct vd_bytes e;
    for (*n = 0; vd_pb_next_elem(r, field, &e, VD_WIRE_ITEM_MAX); (*n)++) {
        if (*n == VD_WIRE_ITEMS_MAX)
            return false;
        item[*n] = e;
    }
    return true;
}

bool vd_wire_put_value(struct vd_pb_writer *w, const struct vd_wire_value *m)
{
    vd_pb_put_u64(w, 1, m->tag);
    vd_pb_put_u64(w, 2, m->status);
    vd_pb_put_u64(w, 3, m->height);
    return put_items(w, 4, m->item, m->n_items);
}

bool vd_wire_get_value(struct vd_wire_value *m, struct vd_bytes body)
{
    struct vd_pb_reader r = vd_pb_reader_init(body.p, body.n);
    m->tag = vd_pb_get_u64(&r, 1, UINT64_MAX);
    m->status = (uint32_t)vd_pb_get_u64(&r, 2, UINT32_MAX);
    m->height = vd_pb_get_u64(&r, 3, UINT64_MAX);
    return get_items(&r, 4, m->item, &m->n_items) && vd_pb_done(&r);
}

bool vd_wire_put_subscribe(struct vd_pb_writer *w, const struct vd_wire_subscribe *m)
{
    vd_pb_put_u64(w, 1, m->from_height);
    return !w->overflow;
}

bool vd_wire_get_subscribe(struct vd_wire_subscribe *m, struct vd_bytes body)
{
    struct vd_pb_reader r = vd_pb_reader_init(body.p, body.n);
    m->from_height = vd_pb_get_u64(&r, 1, UINT64_MAX);
    return vd_pb_done(&r);
}

bool vd_wire_put_block(struct vd_pb_writer *w, const struct vd_wire_block *m)
{
    vd_pb_put_u64(w, 1, m->height);
    vd_pb_put_u64(w, 2, m->time_ms);
    put_hash(w, 3, &m->hash);
    vd_pb_put_u64(w, 4, m->more);
    return put_items(w, 5, m->event, m->n_events);
}

bool vd_wire_get_block(struct vd_wire_block *m, struct vd_bytes body)
{
    struct vd_pb_reader r = vd_pb_reader_init(body.p, body.n);
    m->height = vd_pb_get_u64(&r, 1, UINT64_MAX);
    m->time_ms = vd_pb_get_u64(&r, 2, UINT64_MAX);
    get_hash(&r, 3, &m->hash);
    m->more = (uint32_t)vd_pb_get_u64(&r, 4, 1);
    return get_items(&r, 5, m->event, &m->n_events) && vd_pb_done(&r);
}
