/* For the tests, fuzzers and benchmarks of src/court only: a small network with known keys, transactions by
 * one call, and a state in memory that blocks can be applied to. Header only; whatever goes wrong aborts. */
#ifndef VD_COURT_KIT_H
#define VD_COURT_KIT_H

#include "vd_ledger.h"
#include "vd_program.h"

#include <stdlib.h>
#include <string.h>

#define KIT __attribute__((unused)) static

enum {
    KIT_EPOCH = 4, /* of kit_audits */
    KIT_BEACON = 2,
    KIT_COMMIT = 3,
    KIT_REVEAL = 2,
    KIT_DATA = 3,
    KIT_AUDIT_SLASH = 50,
    KIT_BEACON_BOND = 400,
    KIT_TRAP_BOND = 1000,
    KIT_TRAP_BLOCKS = 40,
    KIT_KEYS = 8, /* 0 client, 1 gateway, 2 and 3 workers, 4 and 5 challengers, 6 treasury (no balance), 7
                     stranger */
    KIT_BALANCE = 1000000,
    KIT_WINDOW = 6,
    KIT_CLOCK = 3,
    KIT_UNBONDING = 4,
    KIT_VALIDITY = 5,
    KIT_MIN_STAKE = 1000,
    KIT_BOND = 100,
    KIT_SLASH = 700,
    KIT_ARENA_BYTES = 64 << 20, /* small blocks only */
};

KIT void kit_check(bool ok)
{
    if (!ok)
        abort();
}

/* --- a state in memory: entries in order; a table of pointers is enough for tests --- */

struct kit_entry {
    struct vd_bytes key, value; /* owned */
};
struct kit_state {
    struct vd_kvs kv; /* first */
    struct kit_entry *entry;
    size_t n, cap;
    uint64_t n_next; /* calls of next */
};

KIT int kit_key_cmp(struct vd_bytes a, struct vd_bytes b)
{
    size_t n = a.n < b.n ? a.n : b.n;
    int c = n ? memcmp(a.p, b.p, n) : 0;
    return c ? c : (a.n > b.n) - (a.n < b.n);
}

/* The first entry whose key is >= key. */
KIT size_t kit_lower(const struct kit_state *s, struct vd_bytes key)
{
    size_t lo = 0, hi = s->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (kit_key_cmp(s->entry[mid].key, key) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

KIT bool kit_get(struct vd_kvs *kv, struct vd_bytes key, struct vd_bytes *value)
{
    struct kit_state *s = (struct kit_state *)kv;
    size_t i = kit_lower(s, key);
    if (i == s->n || kit_key_cmp(s->entry[i].key, key) != 0)
        return false;
    *value = s->entry[i].value;
    return true;
}

KIT bool kit_next(struct vd_kvs *kv, struct vd_bytes prefix, struct vd_bytes from, bool after,
                  struct vd_bytes *key, struct vd_bytes *value)
{
    struct kit_state *s = (struct kit_state *)kv;
    s->n_next++;
    if (kit_key_cmp(from, prefix) < 0) {
        from = prefix;
        after = false;
    }
    size_t i = kit_lower(s, from);
    if (after && i < s->n && kit_key_cmp(s->entry[i].key, from) == 0)
        i++;
    if (i == s->n || s->entry[i].key.n < prefix.n ||
        (prefix.n && memcmp(s->entry[i].key.p, prefix.p, prefix.n) != 0))
        return false;
    *key = s->entry[i].key;
    *value = s->entry[i].value;
    return true;
}

KIT struct vd_bytes kit_dup(struct vd_bytes b)
{
    uint8_t *p = malloc(b.n + 1);
    kit_check(p != NULL);
    if (b.n)
        memcpy(p, b.p, b.n);
    return (struct vd_bytes){p, b.n};
}

KIT void kit_free_bytes(struct vd_bytes b)
{
    free((void *)(uintptr_t)b.p);
}

/* vd_overlay_fn: one change into the state. */
KIT bool kit_set(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    struct kit_state *s = arg;
    size_t i = kit_lower(s, key);
    bool there = i < s->n && kit_key_cmp(s->entry[i].key, key) == 0;
    if (there && value.p) {
        kit_free_bytes(s->entry[i].value);
        s->entry[i].value = kit_dup(value);
    } else if (there) {
        kit_free_bytes(s->entry[i].key);
        kit_free_bytes(s->entry[i].value);
        memmove(&s->entry[i], &s->entry[i + 1], (--s->n - i) * sizeof *s->entry);
    } else if (value.p) {
        if (s->n == s->cap) {
            s->cap = s->cap ? 2 * s->cap : 64;
            s->entry = realloc(s->entry, s->cap * sizeof *s->entry);
            kit_check(s->entry != NULL);
        }
        memmove(&s->entry[i + 1], &s->entry[i], (s->n++ - i) * sizeof *s->entry);
        s->entry[i] = (struct kit_entry){kit_dup(key), kit_dup(value)};
    }
    return true;
}

/* All changes of a block at once: both are in order, so one pass over them makes the new table. */
struct kit_merge {
    struct kit_state *s;
    struct kit_entry *entry;
    size_t n, at; /* at: in s */
};

KIT bool kit_merge_change(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    struct kit_merge *m = arg;
    struct kit_state *s = m->s;
    while (m->at < s->n && kit_key_cmp(s->entry[m->at].key, key) < 0)
        m->entry[m->n++] = s->entry[m->at++];
    if (m->at < s->n && kit_key_cmp(s->entry[m->at].key, key) == 0) {
        kit_free_bytes(s->entry[m->at].key);
        kit_free_bytes(s->entry[m->at++].value);
    }
    if (value.p)
        m->entry[m->n++] = (struct kit_entry){kit_dup(key), kit_dup(value)};
    return true;
}

KIT void kit_apply(struct kit_state *s, const struct vd_overlay *o)
{
    struct kit_merge m = {.s = s};
    size_t cap = s->n + o->n_changes + 1;
    m.entry = malloc(cap * sizeof *m.entry);
    kit_check(m.entry && vd_overlay_each(o, kit_merge_change, &m));
    while (m.at < s->n)
        m.entry[m.n++] = s->entry[m.at++];
    kit_check(m.n <= cap);
    free(s->entry);
    s->entry = m.entry;
    s->n = m.n;
    s->cap = cap;
}

KIT void kit_state_init(struct kit_state *s)
{
    *s = (struct kit_state){.kv = {kit_get, kit_next, false}};
}

KIT void kit_state_free(struct kit_state *s)
{
    for (size_t i = 0; i < s->n; i++) {
        kit_free_bytes(s->entry[i].key);
        kit_free_bytes(s->entry[i].value);
    }
    free(s->entry);
}

/* --- the network --- */

struct kit {
    struct vd_keypair key[KIT_KEYS];
    struct vd_genesis genesis;
    struct vd_genesis_account account[KIT_KEYS];
    struct vd_ledger ledger;
    uint8_t program[VD_PROGRAM_BYTES_MAX];
    size_t program_bytes;
    uint32_t n_tensors;
    struct vd_hash tensors_root, model_root;
    struct vd_arena arena;
    uint8_t job_salt[VD_SALT_BYTES];
};

KIT void kit_program(struct kit *k)
{
    struct vd_program p = {VD_PROGRAM_PLAIN,    .n_layers = 1,
                           .width = 32,         .n_heads = 1,
                           .n_kv_heads = 1,     .head_dim = 32,
                           .ff_width = 32,      .vocab = 64,
                           .ctx = 128,          .rope_pairing = VD_ROPE_ADJACENT,
                           .n_rope = 16,        .eps = 1e-5f,
                           .attn_scale = 0.25f, .n_tensors = 11};
    static const uint8_t norm[] = {1, 6, 10};
    memset(p.types, VD_WTYPE_Q4_1, p.n_tensors);
    for (size_t i = 0; i < sizeof norm; i++)
        p.types[norm[i]] = VD_WTYPE_F32;
    kit_check(vd_program_check(&p) == NULL);
    k->program_bytes = vd_program_encode(&p, k->program, sizeof k->program);
    k->n_tensors = p.n_tensors;
    memset(k->tensors_root.b, 0x5a, VD_HASH_BYTES);
    k->model_root =
        vd_program_model_root((struct vd_bytes){k->program, k->program_bytes}, p.n_tensors, &k->tensors_root);
}

KIT int kit_account_cmp(const void *a, const void *b)
{
    return memcmp(((const struct vd_genesis_account *)a)->key.b,
                  ((const struct vd_genesis_account *)b)->key.b, VD_PUBKEY_BYTES);
}

KIT void kit_init(struct kit *k)
{
    kit_check(vd_key_init(NULL) == VD_OK);
    memset(k, 0, sizeof *k);
    for (int i = 0; i < KIT_KEYS; i++) {
        uint8_t seed[VD_SEED_BYTES] = {(uint8_t)(i + 1), 'k'};
        vd_key_from_seed(&k->key[i], seed);
        if (i < 6)
            k->account[i] = (struct vd_genesis_account){k->key[i].pub, {KIT_BALANCE}};
    }
    qsort(k->account, 6, sizeof k->account[0], kit_account_cmp);
    k->genesis = (struct vd_genesis){.network = "kit",
                                     .time_ms = 1700000000000,
                                     .block_time_ms = 20,
                                     .audit_rate_ppm = VD_PPM,
                                     .audit_window_blocks = KIT_WINDOW,
                                     .move_clock_blocks = KIT_CLOCK,
                                     .unbonding_blocks = KIT_UNBONDING,
                                     .request_validity_blocks = KIT_VALIDITY,
                                     .min_stake = {KIT_MIN_STAKE},
                                     .challenge_bond = {KIT_BOND},
                                     .slash = {KIT_SLASH},
                                     .challenger_share_ppm = 400000,
                                     .worker_share_ppm = 900000,
                                     .gateway_share_ppm = 80000,
                                     .treasury_share_ppm = 20000,
                                     .treasury = k->key[6].pub,
                                     .n_accounts = 6,
                                     .account = k->account};
    kit_check(vd_genesis_check(&k->genesis, NULL) == VD_OK);
    k->arena = vd_arena_init(malloc(KIT_ARENA_BYTES), KIT_ARENA_BYTES);
    kit_check(k->arena.base && vd_ledger_init(&k->ledger, &k->genesis, &k->arena, NULL) == VD_OK);
    memset(k->job_salt, 7, sizeof k->job_salt);
    kit_program(k);
}

/* Audits on: every receipt is drawn, by two auditors. Before kit_net_init. */
KIT void kit_audits(struct kit *k)
{
    struct vd_genesis *g = &k->genesis;
    g->epoch_blocks = KIT_EPOCH;
    g->beacon_blocks = KIT_BEACON;
    g->audit_commit_blocks = KIT_COMMIT;
    g->audit_reveal_blocks = KIT_REVEAL;
    g->audit_data_blocks = KIT_DATA;
    g->auditors = 2;
    g->auditor_share_ppm = 50000;
    g->worker_share_ppm -= 50000;
    g->audit_slash.micro = KIT_AUDIT_SLASH;
    g->beacon_bond.micro = KIT_BEACON_BOND;
    g->trap_bond.micro = KIT_TRAP_BOND;
    g->trap_blocks = KIT_TRAP_BLOCKS;
    g->audit_min_reward.micro = 1;
    kit_check(vd_genesis_check(g, NULL) == VD_OK);
}

KIT void kit_free(struct kit *k)
{
    free(k->arena.base);
}

KIT void kit_write_genesis(struct kit *k, struct kit_state *s)
{
    struct vd_overlay o;
    k->arena.used_bytes = 0;
    vd_overlay_init(&o, &s->kv, &k->arena);
    vd_ledger_write_genesis(&k->ledger, &o);
    kit_check(vd_overlay_each(&o, kit_set, s));
}

/* --- transactions --- */

struct kit_tx {
    uint8_t bytes[VD_TX_MAX_BYTES];
    size_t n;
    struct vd_hash id;
};
KIT struct vd_bytes kit_tx_bytes(const struct kit_tx *t)
{
    return (struct vd_bytes){t->bytes, t->n};
}

/* Fills genesis and sender into tx and signs it. */
KIT void kit_sign(const struct kit *k, struct kit_tx *out, int from, uint64_t nonce, struct vd_tx tx)
{
    tx.genesis = k->ledger.genesis_hash;
    tx.sender = k->key[from].pub;
    tx.nonce = nonce;
    out->n = vd_tx_sign(&tx, &k->key[from], out->bytes, sizeof out->bytes, &out->id);
    kit_check(out->n > 0);
}

/* A receipt of p = 1, g = 1 tokens over the kit's model, signed by worker and gateway. */
struct kit_receipt {
    struct vd_receipt value;
    struct vd_signed_receipt is;
    uint8_t bytes[VD_SIGNED_RECEIPT_MAX_BYTES];
    size_t n;
    struct vd_hash id;
};
KIT void kit_seal(const struct kit *k, struct kit_receipt *r, int worker, int gateway)
{
    r->is.body_bytes = vd_receipt_encode(&r->value, r->is.body, sizeof r->is.body);
    kit_check(r->is.body_bytes > 0);
    vd_key_sign(&r->is.worker_sig, &k->key[worker], VD_TAG_RECEIPT, r->is.body, r->is.body_bytes);
    vd_key_sign(&r->is.gateway_sig, &k->key[gateway], VD_TAG_ACCEPT, r->is.body, r->is.body_bytes);
    r->n = vd_signed_receipt_encode(&r->is, r->bytes, sizeof r->bytes);
    kit_check(r->n > 0);
    r->id = vd_signed_receipt_id(&r->is);
}
KIT void kit_receipt(const struct kit *k, struct kit_receipt *r, const struct vd_hash *escrow,
                     uint64_t sequence, int worker, uint64_t amount, uint64_t valid_until)
{
    r->value = (struct vd_receipt){.request = {.genesis = k->ledger.genesis_hash,
                                               .arith_version = VD_ARITH_VERSION,
                                               .valid_until = valid_until,
                                               .escrow_id = *escrow,
                                               .sequence = sequence,
                                               .gateway = k->key[1].pub,
                                               .worker = k->key[worker].pub,
                                               .model_root = k->model_root,
                                               .n_prompt = 1,
                                               .salt_commit = vd_salt_commit(k->job_salt),
                                               .sampling = {.top_p_micro = 1000000},
                                               .max_tokens = 1,
                                               .price_out = {amount}},
                                   .n_output = 1,
                                   .finish = VD_FINISH_LENGTH,
                                   .amount = {amount}};
    memset(r->value.request.prompt_root.b, 0x11, VD_HASH_BYTES);
    memset(r->value.output_root.b, 0x22, VD_HASH_BYTES);
    memset(r->value.commit_root.b, 0x33, VD_HASH_BYTES);
    kit_seal(k, r, worker, 1);
}

/* --- a network that makes blocks in memory --- */

struct kit_net {
    struct kit *k;
    struct kit_state state;
    struct vd_ledger_block block; /* the one being made */
    uint64_t height;              /* of the last one made */
    uint64_t nonce[KIT_KEYS];     /* the next */
    struct vd_genesis rules;      /* the kit's, which it has back when the network is gone */
};

KIT void kit_begin(struct kit_net *n)
{
    n->k->arena.used_bytes = 0;
    kit_check(vd_ledger_begin(&n->block, &n->k->ledger, &n->state.kv, &n->k->arena, n->height + 1,
                              n->k->genesis.time_ms + 20 * (n->height + 1), NULL) == VD_OK);
}

KIT void kit_net_init(struct kit_net *n, struct kit *k)
{
    memset(n, 0, sizeof *n);
    n->k = k;
    n->rules = k->genesis;
    kit_state_init(&n->state);
    kit_write_genesis(k, &n->state);
    kit_begin(n);
}

KIT void kit_audit_record(struct vd_bytes key, struct vd_bytes v, struct vd_amount sum[VD_BUCKETS])
{
    struct vd_account a;
    struct vd_stake s;
    struct vd_escrow e;
    struct vd_receipt_record r;
    struct vd_dispute d;
    struct vd_keeper k;
    struct vd_trap t;
    if (key.p[0] == VD_STATE_ACCOUNT) {
        kit_check(vd_account_decode(v, &a));
        sum[VD_BUCKET_ACCOUNTS].micro += a.balance.micro;
    } else if (key.p[0] == VD_STATE_STAKE) {
        kit_check(vd_stake_decode(v, &s));
        sum[VD_BUCKET_STAKES].micro += s.amount.micro;
        sum[VD_BUCKET_UNBONDING].micro += s.unbonding.micro;
    } else if (key.p[0] == VD_STATE_ESCROW) {
        kit_check(vd_escrow_decode(v, &e));
        kit_check(e.settled.micro <= e.deposited.micro);
        sum[VD_BUCKET_ESCROWS].micro += e.balance.micro;
    } else if (key.p[0] == VD_STATE_RECEIPT) {
        kit_check(vd_receipt_record_decode(v, &r));
        sum[VD_BUCKET_PENDING].micro += r.status == VD_RECEIPT_SETTLED ? r.amount.micro : 0;
    } else if (key.p[0] == VD_STATE_DISPUTE) {
        kit_check(vd_dispute_decode(v, &d));
        sum[VD_BUCKET_BONDS].micro += d.bond.micro;
    } else if (key.p[0] == VD_STATE_KEEPER) {
        kit_check(vd_keeper_decode(v, &k));
        sum[VD_BUCKET_BONDS].micro += k.bond.micro;
    } else if (key.p[0] == VD_STATE_TRAP) {
        kit_check(vd_trap_decode(v, &t));
        sum[VD_BUCKET_BONDS].micro += t.bond.micro;
    }
}

/* Sums every record of the state by bucket, without the ledger's own totals, and compares. */
KIT bool kit_audit(struct vd_kvs *kv, const struct vd_genesis *genesis)
{
    struct vd_amount sum[VD_BUCKETS] = {{0}};
    struct vd_totals t;
    struct vd_bytes none = {NULL, 0}, key = none, v;
    uint64_t all = 0;
    bool same = true;
    for (bool after = false; kv->next(kv, none, key, after, &key, &v); after = true)
        kit_audit_record(key, v, sum);
    kit_check(vd_ledger_get_totals(kv, &t));
    sum[VD_BUCKET_BURNED] = t.bucket[VD_BUCKET_BURNED];
    sum[VD_BUCKET_POOL] = t.bucket[VD_BUCKET_POOL];
    for (int b = 0; b < VD_BUCKETS; b++) {
        same &= sum[b].micro == t.bucket[b].micro;
        all += sum[b].micro;
    }
    return same && all == vd_genesis_supply(genesis).micro;
}

/* Ends the block, makes it the state, and begins the next. */
KIT void kit_end(struct kit_net *n)
{
    struct vd_error err = {.code = VD_OK};
    kit_check(vd_ledger_end(&n->block, &err) == VD_OK);
    kit_apply(&n->state, &n->block.overlay);
    n->height++;
    kit_check(kit_audit(&n->state.kv, &n->k->genesis));
    kit_begin(n);
}

/* Delivers; the sender's nonce goes on when it is applied. *id may be NULL. */
KIT enum vd_tx_verdict kit_give(struct kit_net *n, int from, struct vd_tx tx, struct vd_hash *id)
{
    static struct kit_tx t;
    kit_sign(n->k, &t, from, n->nonce[from], tx);
    enum vd_tx_verdict v = vd_ledger_deliver(&n->block, kit_tx_bytes(&t), false);
    n->nonce[from] += v == VD_TX_OK;
    if (id)
        *id = t.id;
    return v;
}

/* What a test has changed in the genesis is as it was. */
KIT void kit_net_free(struct kit_net *n)
{
    n->k->genesis = n->rules;
    kit_state_free(&n->state);
}

#endif
