/* LMDB because it gives a synced, all-or-nothing transaction in one call, and is there for the ledger
 * already. The tables:
 *
 *     receipt  receipt id -> state u8, key id, created u64, amount u64, envelope
 *     queue    u64 big-endian, ascending -> receipt id: what is still to be settled, oldest first
 *     place    receipt id -> its key in `queue`
 *     once     slot -> fingerprint, until, created, counts, finish, receipt id, amount, reply id, text
 *     spent    key id -> u64
 *     said     u64 big-endian, a place in a ring -> job id of a statement in `receipt`
 *     meta     "schema", "queue-next", "said-next", "seq" escrow id -> u64
 *
 * Integers are little-endian but for queue keys. */
#include "vd_gateway_store.h"
#include "vd_file.h"
#include "vd_pb.h"

#include <assert.h>
#include <errno.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    TABLES = 7,
    MAP_FIRST_BYTES = 64 << 20,
    READERS = 1024,
    RECEIPT_HEAD = 1 + VD_KEY_ID_BYTES + 8 + 8,
    ONCE_HEAD = VD_HASH_BYTES + 8 + 8 + 4 + 4 + 1 + VD_HASH_BYTES + 8 + 64,
};

static const char *const table_name[TABLES] = {"receipt", "queue", "place", "once", "spent", "said", "meta"};
enum table { RECEIPT, QUEUE, PLACE, ONCE, SPENT, SAID, META };

struct vd_gwstore {
    MDB_env *env;
    MDB_dbi dbi[TABLES];
    /* The map may grow only while no transaction is open: readers share the lock, growing takes it alone. */
    pthread_rwlock_t map_lock;
    size_t map_bytes;
    struct vd_lock lock;
    char dir[VD_PATH_MAX];
};

static enum vd_err fail(const struct vd_gwstore *s, int rc, const char *what, struct vd_error *err)
{
    enum vd_err code = rc == MDB_NOTFOUND                                ? VD_ENOTFOUND
                       : rc == ENOSPC || rc == EDQUOT                    ? VD_ENOSPACE
                       : rc == MDB_MAP_FULL || rc == ENOMEM              ? VD_ENOMEM
                       : rc == MDB_VERSION_MISMATCH || rc == MDB_INVALID ? VD_EFORMAT
                                                                         : VD_EIO;
    return vd_error_set(err, code, "cannot %s in the gateway's store %s: %s%s", what, s->dir,
                        mdb_strerror(rc), code == VD_ENOSPACE ? "; make room on the disk" : "");
}

static MDB_val val(const void *p, size_t n)
{
    return (MDB_val){n, (void *)(uintptr_t)p};
}

static int open_tables(struct vd_gwstore *s)
{
    MDB_txn *t;
    MDB_val key = val("schema", 6), v;
    uint8_t schema[4];
    int rc = mdb_txn_begin(s->env, NULL, 0, &t);
    if (rc)
        return rc;
    for (int i = 0; !rc && i < TABLES; i++)
        rc = mdb_dbi_open(t, table_name[i], MDB_CREATE, &s->dbi[i]);
    if (!rc && (rc = mdb_get(t, s->dbi[META], &key, &v)) == MDB_NOTFOUND) {
        vd_le32_store(schema, VD_GWSTORE_SCHEMA);
        v = (MDB_val){sizeof schema, schema};
        rc = mdb_put(t, s->dbi[META], &key, &v, 0);
    } else if (!rc && (v.mv_size != 4 || vd_le32_load(v.mv_data) != VD_GWSTORE_SCHEMA)) {
        rc = MDB_VERSION_MISMATCH;
    }
    if (!rc)
        return mdb_txn_commit(t);
    mdb_txn_abort(t);
    return rc;
}

enum vd_err vd_gwstore_open(struct vd_gwstore **out, const char *dir, struct vd_error *err)
{
    MDB_envinfo info;
    char lock[VD_PATH_MAX + 16];
    enum vd_err e = vd_dir_make(dir, err);
    if (e != VD_OK)
        return e;
    struct vd_gwstore *s = calloc(1, sizeof *s);
    if (!s)
        return vd_error_set(err, VD_ENOMEM, "no memory for the gateway's store");
    snprintf(s->dir, sizeof s->dir, "%s", dir);
    snprintf(lock, sizeof lock, "%.4000s/owner.lock", dir);
    e = vd_lock_take(&s->lock, lock, err);
    if (e != VD_OK) {
        free(s);
        return e;
    }
    pthread_rwlock_init(&s->map_lock, NULL);
    int rc = mdb_env_create(&s->env);
    if (!rc)
        rc = mdb_env_set_maxreaders(s->env, READERS);
    if (!rc)
        rc = mdb_env_set_maxdbs(s->env, TABLES);
    if (!rc)
        rc = mdb_env_set_mapsize(s->env, MAP_FIRST_BYTES);
    if (!rc)
        rc = mdb_env_open(s->env, dir, MDB_NOTLS, 0600);
    if (!rc)
        rc = open_tables(s);
    if (rc) {
        e = rc == MDB_VERSION_MISMATCH
                ? vd_error_set(err, VD_EVERSION, "%s was written by another version of Veridem", dir)
                : fail(s, rc, "open", err);
        vd_gwstore_close(s);
        return e;
    }
    mdb_env_info(s->env, &info); /* a file that has grown is mapped whole */
    s->map_bytes = info.me_mapsize;
    *out = s;
    return VD_OK;
}

void vd_gwstore_close(struct vd_gwstore *s)
{
    if (!s)
        return;
    mdb_env_close(s->env);
    vd_lock_release(&s->lock);
    pthread_rwlock_destroy(&s->map_lock);
    free(s);
}

/* ---- transactions ---- */

typedef int body_fn(struct vd_gwstore *s, MDB_txn *t, void *arg);

static int grow(struct vd_gwstore *s)
{
    pthread_rwlock_wrlock(&s->map_lock);
    int rc = mdb_env_set_mapsize(s->env, s->map_bytes * 2);
    if (!rc)
        s->map_bytes *= 2;
    pthread_rwlock_unlock(&s->map_lock);
    return rc;
}

static int try_once(struct vd_gwstore *s, unsigned flags, body_fn *fn, void *arg)
{
    MDB_txn *t;
    pthread_rwlock_rdlock(&s->map_lock);
    int rc = mdb_txn_begin(s->env, NULL, flags, &t);
    if (!rc) {
        rc = fn(s, t, arg);
        if (!rc && !(flags & MDB_RDONLY))
            rc = mdb_txn_commit(t);
        else
            mdb_txn_abort(t);
    }
    pthread_rwlock_unlock(&s->map_lock);
    return rc;
}

/* Runs fn in a transaction, again in a larger map if it was full. fn must not have effects besides. */
static int run(struct vd_gwstore *s, unsigned flags, body_fn *fn, void *arg)
{
    int rc = try_once(s, flags, fn, arg);
    while (rc == MDB_MAP_FULL && !(rc = grow(s)))
        rc = try_once(s, flags, fn, arg);
    return rc;
}

/* A u64 under a key; 0 if absent. */
static int get_u64(struct vd_gwstore *s, MDB_txn *t, enum table table, MDB_val key, uint64_t *out)
{
    MDB_val v;
    int rc = mdb_get(t, s->dbi[table], &key, &v);
    *out = !rc && v.mv_size == 8 ? vd_le64_load(v.mv_data) : 0;
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static int put_u64(struct vd_gwstore *s, MDB_txn *t, enum table table, MDB_val key, uint64_t x)
{
    uint8_t b[8];
    vd_le64_store(b, x);
    MDB_val v = val(b, sizeof b);
    return mdb_put(t, s->dbi[table], &key, &v, 0);
}

static void be64_store(uint8_t b[8], uint64_t x)
{
    for (int i = 0; i < 8; i++)
        b[i] = (uint8_t)(x >> (56 - 8 * i));
}

/* ---- sequences ---- */

struct take {
    const struct vd_hash *escrow;
    uint64_t count, fresh, first;
};

static int take_body(struct vd_gwstore *s, MDB_txn *t, void *arg)
{
    struct take *a = arg;
    uint8_t key[3 + VD_HASH_BYTES] = "seq";
    memcpy(key + 3, a->escrow->b, VD_HASH_BYTES);
    int rc = get_u64(s, t, META, val(key, sizeof key), &a->first);
    if (a->first == 0)
        a->first = a->fresh;
    return rc ? rc : put_u64(s, t, META, val(key, sizeof key), a->first + a->count);
}

enum vd_err vd_gwstore_take_sequences(struct vd_gwstore *s, const struct vd_hash *escrow, uint64_t count,
                                      uint64_t fresh, uint64_t *first, struct vd_error *err)
{
    struct take a = {escrow, count, fresh, 0};
    int rc = run(s, 0, take_body, &a);
    *first = a.first;
    return rc ? fail(s, rc, "take sequence numbers", err) : VD_OK;
}

/* ---- the escrow in use ---- */

#define ESCROW_KEY val("escrow", 6)

static int set_escrow_body(struct vd_gwstore *s, MDB_txn *t, void *arg)
{
    MDB_val key = ESCROW_KEY, v = val(arg, VD_HASH_BYTES);
    return mdb_put(t, s->dbi[META], &key, &v, 0);
}

enum vd_err vd_gwstore_set_escrow(struct vd_gwstore *s, const struct vd_hash *escrow, struct vd_error *err)
{
    struct vd_hash id = *escrow;
    int rc = run(s, 0, set_escrow_body, &id);
    return rc ? fail(s, rc, "note an escrow", err) : VD_OK;
}

static int escrow_body(struct vd_gwstore *s, MDB_txn *t, void *arg)
{
    struct vd_hash *escrow = arg;
    MDB_val key = ESCROW_KEY, v;
    int rc = mdb_get(t, s->dbi[META], &key, &v);
    if (!rc && v.mv_size == VD_HASH_BYTES)
        memcpy(escrow->b, v.mv_data, VD_HASH_BYTES);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

enum vd_err vd_gwstore_escrow(struct vd_gwstore *s, struct vd_hash *escrow, struct vd_error *err)
{
    *escrow = (struct vd_hash){{0}};
    int rc = run(s, MDB_RDONLY, escrow_body, escrow);
    return rc ? fail(s, rc, "read which escrow was in use", err) : VD_OK;
}

/* ---- finished answers ---- */

struct finish {
    const struct vd_gwstore_receipt *r;
    const struct vd_gwstore_once *once;
};

static int put_receipt(struct vd_gwstore *s, MDB_txn *t, const struct vd_gwstore_receipt *r)
{
    MDB_val key = val(r->id.b, VD_HASH_BYTES), v = {RECEIPT_HEAD + r->n_envelope, NULL};
    int rc = mdb_put(t, s->dbi[RECEIPT], &key, &v, MDB_RESERVE | MDB_NOOVERWRITE);
    if (rc)
        return rc;
    uint8_t *p = v.mv_data;
    p[0] = (uint8_t)r->state;
    memcpy(p + 1, r->key.b, VD_KEY_ID_BYTES);
    vd_le64_store(p + 17, r->created_s);
    vd_le64_store(p + 25, r->amount.micro);
    memcpy(p + RECEIPT_HEAD, r->envelope, r->n_envelope);
    return 0;
}

static int enqueue(struct vd_gwstore *s, MDB_txn *t, const struct vd_hash *id)
{
    uint64_t next;
    uint8_t place[8];
    MDB_val counter = val("queue-next", 10), key = val(place, sizeof place), v = val(id->b, VD_HASH_BYTES);
    int rc = get_u64(s, t, META, counter, &next);
    be64_store(place, next);
    if (!rc)
        rc = mdb_put(t, s->dbi[QUEUE], &key, &v, 0);
    if (!rc)
        rc = mdb_put(t, s->dbi[PLACE], &v, &key, 0);
    return rc ? rc : put_u64(s, t, META, counter, next + 1);
}

static int add_spent(struct vd_gwstore *s, MDB_txn *t, const struct vd_key_id *key, uint64_t micro, bool back)
{
    uint64_t spent;
    int rc = get_u64(s, t, SPENT, val(key->b, VD_KEY_ID_BYTES), &spent);
    uint64_t now = back ? (spent > micro ? spent - micro : 0) : spent + micro;
    return rc ? rc : put_u64(s, t, SPENT, val(key->b, VD_KEY_ID_BYTES), now);
}

static int put_once(struct vd_gwstore *s, MDB_txn *t, const struct vd_gwstore_once *o)
{
    MDB_val key = val(o->slot.b, VD_HASH_BYTES), v = {ONCE_HEAD + o->n_text, NULL};
    int rc = mdb_put(t, s->dbi[ONCE], &key, &v, MDB_RESERVE);
    if (rc)
        return rc;
    uint8_t *p = v.mv_data;
    memcpy(p, o->fingerprint.b, VD_HASH_BYTES);
    vd_le64_store(p + 32, o->until_s);
    vd_le64_store(p + 40, o->created_s);
    vd_le32_store(p + 48, o->n_prompt);
    vd_le32_store(p + 52, o->n_output);
    p[56] = (uint8_t)o->finish;
    memcpy(p + 57, o->receipt_id.b, VD_HASH_BYTES);
    vd_le64_store(p + 89, o->amount.micro);
    memset(p + 97, 0, 64);
    memcpy(p + 97, o->reply_id, strlen(o->reply_id));
    memcpy(p + ONCE_HEAD, o->text, o->n_text);
    return 0;
}

/* A statement costs its worker nothing, so there must be an end to them: a new one takes the place of the
 * oldest. */
static int enter_statement(struct vd_gwstore *s, MDB_txn *t, const struct vd_hash *id)
{
    uint64_t next;
    uint8_t place[8];
    MDB_val counter = val("said-next", 9), key = val(place, sizeof place), old, v = val(id->b, VD_HASH_BYTES);
    int rc = get_u64(s, t, META, counter, &next);
    if (rc)
        return rc;
    be64_store(place, next % VD_GWSTORE_STATEMENTS_MAX);
    rc = mdb_get(t, s->dbi[SAID], &key, &old);
    if (!rc) {
        struct vd_hash gone; /* a copy: what LMDB gives may move when it writes */
        assert(old.mv_size == sizeof gone);
        memcpy(&gone, old.mv_data, sizeof gone);
        old = val(gone.b, sizeof gone);
        rc = mdb_del(t, s->dbi[RECEIPT], &old, NULL);
    }
    if (rc && rc != MDB_NOTFOUND)
        return rc;
    rc = mdb_put(t, s->dbi[SAID], &key, &v, 0);
    return rc ? rc : put_u64(s, t, META, counter, next + 1);
}

static int finish_body(struct vd_gwstore *s, MDB_txn *t, void *arg)
{
    struct finish *f = arg;
    int rc = put_receipt(s, t, f->r);
    if (rc == MDB_KEYEXIST)
        return 0; /* the same receipt again changes nothing */
    if (!rc && f->r->state == VD_GW_PREFIX)
        return enter_statement(s, t, &f->r->id); /* nothing is owed for it */
    if (rc)
        return rc;
    rc = enqueue(s, t, &f->r->id);
    if (!rc)
        rc = add_spent(s, t, &f->r->key, f->r->amount.micro, false);
    return !rc && f->once ? put_once(s, t, f->once) : rc;
}

enum vd_err vd_gwstore_finish(struct vd_gwstore *s, const struct vd_gwstore_receipt *r,
                              const struct vd_gwstore_once *once, struct vd_error *err)
{
    struct finish f = {r, once};
    int rc = run(s, 0, finish_body, &f);
    return rc ? fail(s, rc, "keep a receipt", err) : VD_OK;
}

static bool read_receipt(MDB_val v, const struct vd_hash *id, struct vd_gwstore_receipt *out)
{
    const uint8_t *p = v.mv_data;
    if (v.mv_size < RECEIPT_HEAD)
        return false;
    out->id = *id;
    out->state = (enum vd_gwstore_state)p[0];
    memcpy(out->key.b, p + 1, VD_KEY_ID_BYTES);
    out->created_s = vd_le64_load(p + 17);
    out->amount.micro = vd_le64_load(p + 25);
    out->n_envelope = v.mv_size - RECEIPT_HEAD;
    out->envelope = malloc(out->n_envelope ? out->n_envelope : 1);
    if (out->envelope)
        memcpy(out->envelope, p + RECEIPT_HEAD, out->n_envelope);
    return out->envelope != NULL;
}

struct lookup {
    const struct vd_hash *key;
    void *out;
};

static int receipt_body(struct vd_gwstore *s, MDB_txn *t, void *arg)
{
    struct lookup *l = arg;
    MDB_val key = val(l->key->b, VD_HASH_BYTES), v;
    int rc = mdb_get(t, s->dbi[RECEIPT], &key, &v);
    return rc ? rc : read_receipt(v, l->key, l->out) ? 0 : ENOMEM;
}

enum vd_err vd_gwstore_receipt_get(struct vd_gwstore *s, const struct vd_hash *id,
                                   struct vd_gwstore_receipt *out, struct vd_error *err)
{
    struct lookup l = {id, out};
    int rc = run(s, MDB_RDONLY, receipt_body, &l);
    return rc ? fail(s, rc, "read a receipt", err) : VD_OK;
}

static int once_body(struct vd_gwstore *s, MDB_txn *t, void *arg)
{
    struct lookup *l = arg;
    struct vd_gwstore_once *o = l->out;
    MDB_val key = val(l->key->b, VD_HASH_BYTES), v;
    int rc = mdb_get(t, s->dbi[ONCE], &key, &v);
    if (rc)
        return rc;
    if (v.mv_size < ONCE_HEAD)
        return MDB_NOTFOUND;
    const uint8_t *p = v.mv_data;
    *o = (struct vd_gwstore_once){.slot = *l->key,
                                  .until_s = vd_le64_load(p + 32),
                                  .created_s = vd_le64_load(p + 40),
                                  .n_prompt = vd_le32_load(p + 48),
                                  .n_output = vd_le32_load(p + 52),
                                  .finish = (enum vd_finish)p[56],
                                  .amount = {vd_le64_load(p + 89)},
                                  .n_text = v.mv_size - ONCE_HEAD};
    memcpy(o->fingerprint.b, p, VD_HASH_BYTES);
    memcpy(o->receipt_id.b, p + 57, VD_HASH_BYTES);
    memcpy(o->reply_id, p + 97, sizeof o->reply_id - 1);
    o->text = malloc(o->n_text + 1);
    if (!o->text)
        return ENOMEM;
    memcpy(o->text, p + ONCE_HEAD, o->n_text);
    o->text[o->n_text] = 0;
    return 0;
}

enum vd_err vd_gwstore_once_get(struct vd_gwstore *s, const struct vd_hash *slot, uint64_t now_s,
                                struct vd_gwstore_once *out, struct vd_error *err)
{
    struct lookup l = {slot, out};
    int rc = run(s, MDB_RDONLY, once_body, &l);
    if (!rc && out->until_s < now_s) {
        free(out->text);
        out->text = NULL;
        rc = MDB_NOTFOUND;
    }
    return rc ? fail(s, rc, "read a kept answer", err) : VD_OK;
}

static int purge_body(struct vd_gwstore *s, MDB_txn *t, void *arg)
{
    const uint64_t *now_s = arg;
    MDB_cursor *c;
    MDB_val key, v;
    int rc = mdb_cursor_open(t, s->dbi[ONCE], &c);
    if (rc)
        return rc;
    while (!(rc = mdb_cursor_get(c, &key, &v, MDB_NEXT))) {
        if (v.mv_size < ONCE_HEAD || vd_le64_load((const uint8_t *)v.mv_data + 32) < *now_s)
            mdb_cursor_del(c, 0);
    }
    mdb_cursor_close(c);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

enum vd_err vd_gwstore_once_purge(struct vd_gwstore *s, uint64_t now_s, struct vd_error *err)
{
    int rc = run(s, 0, purge_body, &now_s);
    return rc ? fail(s, rc, "forget old answers", err) : VD_OK;
}

/* ---- money ---- */

struct spent {
    const struct vd_key_id *key;
    struct vd_amount amount;
};

static int spent_body(struct vd_gwstore *s, MDB_txn *t, void *arg)
{
    struct spent *a = arg;
    return get_u64(s, t, SPENT, val(a->key->b, VD_KEY_ID_BYTES), &a->amount.micro);
}

enum vd_err vd_gwstore_spent(struct vd_gwstore *s, const struct vd_key_id *key, struct vd_amount *out,
                             struct vd_error *err)
{
    struct spent a = {key, VD_AMOUNT_ZERO};
    int rc = run(s, MDB_RDONLY, spent_body, &a);
    *out = a.amount;
    return rc ? fail(s, rc, "read what a key has spent", err) : VD_OK;
}

struct list {
    struct vd_gwstore_pending *out;
    size_t skip, cap, n;
};

/* The envelope's first field is the signed receipt; the tokens are not decoded. */
static bool read_signed(MDB_val v, struct vd_gwstore_pending *out)
{
    const uint8_t *p = v.mv_data;
    if (v.mv_size < RECEIPT_HEAD)
        return false;
    struct vd_pb_reader r = vd_pb_reader_init(p + RECEIPT_HEAD, v.mv_size - RECEIPT_HEAD);
    struct vd_bytes b = vd_pb_get_bytes(&r, 1, VD_SIGNED_RECEIPT_MAX_BYTES);
    return vd_signed_receipt_decode(b, &out->receipt);
}

static int list_body(struct vd_gwstore *s, MDB_txn *t, void *arg)
{
    struct list *l = arg;
    MDB_cursor *c;
    MDB_val place, id, v;
    size_t at = 0;
    l->n = 0;
    int rc = mdb_cursor_open(t, s->dbi[QUEUE], &c);
    if (rc)
        return rc;
    while (l->n < l->cap && !(rc = mdb_cursor_get(c, &place, &id, MDB_NEXT))) {
        if (at++ < l->skip || id.mv_size != VD_HASH_BYTES || mdb_get(t, s->dbi[RECEIPT], &id, &v) ||
            !read_signed(v, &l->out[l->n]))
            continue;
        memcpy(l->out[l->n++].id.b, id.mv_data, VD_HASH_BYTES);
    }
    mdb_cursor_close(c);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

enum vd_err vd_gwstore_pending_list(struct vd_gwstore *s, size_t skip, struct vd_gwstore_pending *out,
                                    size_t cap, size_t *n, struct vd_error *err)
{
    struct list l = {out, skip, cap, 0};
    int rc = run(s, MDB_RDONLY, list_body, &l);
    *n = l.n;
    return rc ? fail(s, rc, "list what is to be settled", err) : VD_OK;
}

struct settle {
    const struct vd_hash *id;
    size_t n;
    enum vd_gwstore_state state;
};

static int settle_one(struct vd_gwstore *s, MDB_txn *t, const struct vd_hash *id, enum vd_gwstore_state state)
{
    MDB_val key = val(id->b, VD_HASH_BYTES), place, v;
    int rc = mdb_get(t, s->dbi[PLACE], &key, &place);
    if (rc)
        return rc == MDB_NOTFOUND ? 0 : rc; /* not pending any more */
    uint8_t at[8];
    assert(place.mv_size == sizeof at);
    memcpy(at, place.mv_data, sizeof at);
    MDB_val queue_key = val(at, sizeof at);
    if ((rc = mdb_del(t, s->dbi[QUEUE], &queue_key, NULL)) || (rc = mdb_del(t, s->dbi[PLACE], &key, NULL)) ||
        (rc = mdb_get(t, s->dbi[RECEIPT], &key, &v)))
        return rc;
    size_t n = v.mv_size;
    uint8_t *copy = malloc(n);
    if (!copy)
        return ENOMEM;
    memcpy(copy, v.mv_data, n);
    copy[0] = (uint8_t)state;
    struct vd_key_id owner;
    memcpy(owner.b, copy + 1, VD_KEY_ID_BYTES);
    uint64_t amount = vd_le64_load(copy + 25);
    v = val(copy, n);
    rc = mdb_put(t, s->dbi[RECEIPT], &key, &v, 0);
    free(copy);
    return !rc && state == VD_GW_REFUSED ? add_spent(s, t, &owner, amount, true) : rc;
}

static int settle_body(struct vd_gwstore *s, MDB_txn *t, void *arg)
{
    struct settle *a = arg;
    int rc = 0;
    for (size_t i = 0; !rc && i < a->n; i++)
        rc = settle_one(s, t, &a->id[i], a->state);
    return rc;
}

enum vd_err vd_gwstore_settle(struct vd_gwstore *s, const struct vd_hash *id, size_t n,
                              enum vd_gwstore_state state, struct vd_error *err)
{
    struct settle a = {id, n, state};
    int rc = run(s, 0, settle_body, &a);
    return rc ? fail(s, rc, "note what is settled", err) : VD_OK;
}
