/* LMDB, because it is one file, has one writer, readers never block it, and a commit is: write the new pages
 * into free places, fdatasync, then one meta page through an O_DSYNC descriptor. There is no log to replay
 * after a crash, and a commit that fails (a full disk) leaves nothing that the old meta page refers to
 * changed; it can simply be tried again. MDB_WRITEMAP is not used: with it a full disk is a SIGBUS instead of
 * an error.
 *
 * The map's size is address space, not disk. It grows while no transaction of this process is open: the
 * writer grows it between blocks when more than half is used, waiting for the views to close; a block that
 * still does not fit ends in VD_EAGAIN after growing, and is made again. */
#include "vd_store.h"
#include "vd_file.h"
#include "vd_ledger.h"
#include "vd_pb.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum table { T_STATE, T_NODE, T_BLOCK, T_EVENT, T_META, N_TABLES };
static const char *const table_name[N_TABLES] = {"state", "node", "block", "event", "meta"};

enum { READERS_MAX = 512, DEFAULT_MAP_BYTES = 64 << 20 };
#define DEFAULT_MAP_MAX_BYTES (UINT64_C(1) << 40)

struct vd_store {
    char dir[VD_PATH_MAX];
    struct vd_store_config config;
    struct vd_lock lock;
    MDB_env *env; /* NULL: it could not be opened anew */
    MDB_dbi table[N_TABLES];
    uint64_t map_bytes;
    uint32_t schema; /* of the file as it was opened */
    /* Views that are open, and the writer that waits to remap until there are none. */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    unsigned n_views;
    bool remapping;
};

/* The vd_kvs of a transaction. */
struct txn_kvs {
    struct vd_kvs kv; /* first */
    MDB_txn *txn;
    MDB_dbi state;
    MDB_cursor *cursor; /* opened when first needed */
};

struct vd_store_writer {
    struct vd_store *store;
    struct txn_kvs kvs;
    bool map_full; /* an operation failed for want of map, so commit must not */
};

struct vd_store_view {
    struct vd_store *store;
    struct txn_kvs kvs;
};

static enum vd_err lmdb_error(const struct vd_store *s, int rc, const char *doing, struct vd_error *err)
{
    switch (rc) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return vd_error_set(err, VD_ENOSPACE,
                            "%s: %s: %s; free some space, nothing that was acknowledged is lost", s->dir,
                            doing, strerror(rc));
    case MDB_MAP_FULL:
        return vd_error_set(err, VD_ENOSPACE, "%s: %s: the map's limit of %" PRIu64 " bytes is reached",
                            s->dir, doing, s->config.map_max_bytes);
    case MDB_READERS_FULL:
        return vd_error_set(err, VD_EAGAIN, "%s: %s: more than %d views at once", s->dir, doing, READERS_MAX);
    case ENOMEM:
        return vd_error_set(err, VD_ENOMEM, "%s: %s: not enough memory", s->dir, doing);
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
    case MDB_VERSION_MISMATCH:
        return vd_error_set(err, VD_EFORMAT,
                            "%s/data.mdb: %s: %s; restore a copy, or remove the folder and sync anew", s->dir,
                            doing, mdb_strerror(rc));
    default: /* errno and LMDB's own numbers: an open set */
        return vd_error_set(err, VD_EIO, "%s: %s: %s", s->dir, doing, mdb_strerror(rc));
    }
}

/* --- the vd_kvs over a transaction --- */

static MDB_val to_val(struct vd_bytes b)
{
    return (MDB_val){b.n, (void *)(uintptr_t)b.p}; /* LMDB does not write through keys and values */
}

static struct vd_bytes to_bytes(MDB_val v)
{
    static const uint8_t nothing[1];
    return (struct vd_bytes){v.mv_size ? v.mv_data : nothing, v.mv_size};
}

static bool txn_get(struct vd_kvs *kv, struct vd_bytes key, struct vd_bytes *value)
{
    struct txn_kvs *t = (struct txn_kvs *)kv;
    MDB_val k = to_val(key), v;
    int rc = mdb_get(t->txn, t->state, &k, &v);
    if (rc == 0) {
        *value = to_bytes(v);
        return true;
    }
    kv->failed |= rc != MDB_NOTFOUND;
    return false;
}

static bool same_key(MDB_val k, struct vd_bytes b)
{
    return k.mv_size == b.n && memcmp(k.mv_data, b.p, b.n) == 0;
}

static bool txn_next(struct vd_kvs *kv, struct vd_bytes prefix, struct vd_bytes from, bool after,
                     struct vd_bytes *key, struct vd_bytes *value)
{
    struct txn_kvs *t = (struct txn_kvs *)kv;
    MDB_val k, v;
    int rc = t->cursor ? 0 : mdb_cursor_open(t->txn, t->state, &t->cursor);
    size_t n = from.n < prefix.n ? from.n : prefix.n;
    int c = n ? memcmp(from.p, prefix.p, n) : 0;
    if (c < 0 || (c == 0 && from.n < prefix.n)) {
        from = prefix;
        after = false;
    }
    k = to_val(from);
    if (rc == 0)
        rc = from.n ? mdb_cursor_get(t->cursor, &k, &v, MDB_SET_RANGE)
                    : mdb_cursor_get(t->cursor, &k, &v, MDB_FIRST);
    if (rc == 0 && after && same_key(k, from))
        rc = mdb_cursor_get(t->cursor, &k, &v, MDB_NEXT);
    if (rc != 0) {
        kv->failed |= rc != MDB_NOTFOUND;
        return false;
    }
    if (k.mv_size < prefix.n || (prefix.n && memcmp(k.mv_data, prefix.p, prefix.n) != 0))
        return false;
    *key = to_bytes(k);
    *value = to_bytes(v);
    return true;
}

static void txn_kvs_init(struct txn_kvs *t, MDB_txn *txn, MDB_dbi state)
{
    *t = (struct txn_kvs){.kv = {txn_get, txn_next, false}, .txn = txn, .state = state};
}

static void txn_kvs_close(struct txn_kvs *t)
{
    if (t->cursor)
        mdb_cursor_close(t->cursor);
    t->cursor = NULL;
}

/* --- opening --- */

static int put_schema(struct vd_store *s, MDB_txn *txn)
{
    uint8_t b[4];
    MDB_val k = {6, (void *)(uintptr_t) "schema"}, v = {sizeof b, b};
    vd_le32_store(b, VD_STORE_SCHEMA);
    int rc = mdb_put(txn, s->table[T_META], &k, &v, 0);
    if (rc == 0)
        s->schema = VD_STORE_SCHEMA;
    return rc;
}

static enum vd_err check_schema(struct vd_store *s, MDB_txn *txn, struct vd_error *err)
{
    MDB_val k = {6, (void *)(uintptr_t) "schema"}, v;
    int rc = mdb_get(txn, s->table[T_META], &k, &v);
    if (rc == MDB_NOTFOUND) {
        rc = put_schema(s, txn);
        return rc ? lmdb_error(s, rc, "write the schema version", err) : VD_OK;
    }
    if (rc != 0)
        return lmdb_error(s, rc, "read the schema version", err);
    uint32_t have = v.mv_size == 4 ? vd_le32_load(v.mv_data) : 0;
    s->schema = have;
    if (have > VD_STORE_SCHEMA)
        return vd_error_set(err, VD_EVERSION,
                            "%s: written by a newer veridem (schema %u, this one knows %d); use that version",
                            s->dir, have, VD_STORE_SCHEMA);
    if (have == 0)
        return vd_error_set(err, VD_EVERSION, "%s: schema %u is not known to this version (it writes %d)",
                            s->dir, have, VD_STORE_SCHEMA);
    return VD_OK;
}

static enum vd_err open_tables(struct vd_store *s, struct vd_error *err)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(s->env, NULL, 0, &txn);
    if (rc != 0)
        return lmdb_error(s, rc, "open", err);
    for (int i = 0; rc == 0 && i < N_TABLES; i++)
        rc = mdb_dbi_open(txn, table_name[i], MDB_CREATE, &s->table[i]);
    enum vd_err e = rc ? lmdb_error(s, rc, "open its tables", err) : check_schema(s, txn, err);
    if (e != VD_OK) {
        mdb_txn_abort(txn);
        return e;
    }
    rc = mdb_txn_commit(txn);
    return rc ? lmdb_error(s, rc, "open", err) : VD_OK;
}

/* A file that exists must be found again after a power cut; LMDB does not sync its folder. */
static enum vd_err sync_dir(const struct vd_store *s, struct vd_error *err)
{
    int fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) != 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    return rc ? lmdb_error(s, rc, "sync the folder", err) : VD_OK;
}

static void close_env(struct vd_store *s)
{
    if (s->env)
        mdb_env_close(s->env);
    s->env = NULL;
}

/* Opens the file `path` (a whole path if MDB_NOSUBDIR is among the flags, else the folder) with its tables,
 * or leaves no environment behind. */
static enum vd_err open_env_at(struct vd_store *s, const char *path, unsigned flags, struct vd_error *err)
{
    int rc = mdb_env_create(&s->env);
    if (rc != 0) {
        s->env = NULL;
        return lmdb_error(s, rc, "open", err);
    }
    mdb_env_set_maxdbs(s->env, N_TABLES);
    mdb_env_set_maxreaders(s->env, READERS_MAX);
    mdb_env_set_mapsize(s->env, s->map_bytes);
    rc = mdb_env_open(s->env, path, flags | MDB_NOTLS, 0600);
    enum vd_err e = rc ? lmdb_error(s, rc, "open", err) : open_tables(s, err);
    if (e != VD_OK)
        close_env(s);
    return e;
}

static enum vd_err open_env(struct vd_store *s, struct vd_error *err)
{
    enum vd_err e = open_env_at(s, s->dir, s->config.scratch ? MDB_NOSYNC : 0, err);
    if (e == VD_OK) {
        MDB_envinfo info;
        mdb_env_info(s->env, &info);
        s->map_bytes = info.me_mapsize; /* an existing file may need more than was asked for */
    }
    return e;
}

/* A new file is made whole under another name first: LMDB writes the two pages that it begins with unsynced,
 * and after a power cut at that moment it could not open what is left. */
static enum vd_err make_file(struct vd_store *s, struct vd_error *err)
{
    char file[VD_PATH_MAX + 16], made[VD_PATH_MAX + 16], lock[VD_PATH_MAX + 32];
    snprintf(file, sizeof file, "%s/data.mdb", s->dir);
    snprintf(made, sizeof made, "%s/data.new", s->dir);
    snprintf(lock, sizeof lock, "%s-lock", made);
    if (s->config.scratch || access(file, F_OK) == 0)
        return VD_OK;
    unlink(made); /* of a start that was interrupted */
    enum vd_err e = open_env_at(s, made, MDB_NOSUBDIR, err);
    close_env(s);
    unlink(lock);
    if (e == VD_OK && rename(made, file) != 0)
        e = lmdb_error(s, errno, "rename data.new", err);
    return e == VD_OK ? sync_dir(s, err) : e;
}

/* Schema 1 had no VD_INDEX_CHALLENGER_DISPUTE: it follows from the disputes that are open. It is an index, so
 * no root changes. */
static enum vd_err upgrade_once(struct vd_store *s, struct vd_arena *arena, struct vd_error *err)
{
    struct vd_store_writer *w;
    struct vd_overlay o;
    struct vd_hash root;
    enum vd_err e = vd_store_begin(s, &w, err);
    if (e != VD_OK)
        return e;
    arena->used_bytes = 0;
    vd_overlay_init(&o, vd_store_writer_kv(w), arena);
    if (!vd_ledger_index_challenges(vd_store_writer_kv(w), &o))
        e = vd_error_set(err, o.full ? VD_ENOMEM : VD_EFORMAT, "%s: its open disputes cannot be %s", s->dir,
                         o.full ? "indexed in memory" : "read; restore a copy, or replay its blocks");
    if (e == VD_OK)
        e = vd_store_apply(w, &o, arena, &root, err);
    int rc = e == VD_OK ? put_schema(s, w->kvs.txn) : 0;
    if (rc != 0) {
        w->map_full |= rc == MDB_MAP_FULL;
        e = lmdb_error(s, rc, "write the schema version", err);
    }
    if (e == VD_OK)
        return vd_store_commit(w, err);
    enum vd_err g = vd_store_abort(w, err);
    return g == VD_OK ? e : g;
}

static enum vd_err upgrade(struct vd_store *s, struct vd_error *err)
{
    struct vd_arena arena = vd_arena_init(malloc(VD_LEDGER_ARENA_BYTES), VD_LEDGER_ARENA_BYTES);
    enum vd_err e = arena.base ? VD_EAGAIN : vd_error_set(err, VD_ENOMEM, "%s: not enough memory", s->dir);
    while (e == VD_EAGAIN)
        e = upgrade_once(s, &arena, err);
    free(arena.base);
    return e;
}

enum vd_err vd_store_open(struct vd_store **out, const char *dir, const struct vd_store_config *config,
                          struct vd_error *err)
{
    char lock_path[VD_PATH_MAX + 16];
    enum vd_err e = vd_dir_make(dir, err);
    if (e != VD_OK)
        return e;
    struct vd_store *s = calloc(1, sizeof *s);
    if (!s)
        return vd_error_set(err, VD_ENOMEM, "%s: not enough memory", dir);
    if (config)
        s->config = *config;
    if (!s->config.map_max_bytes)
        s->config.map_max_bytes = DEFAULT_MAP_MAX_BYTES;
    s->map_bytes = s->config.map_bytes ? s->config.map_bytes : DEFAULT_MAP_BYTES;
    s->lock.fd = -1;
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->changed, NULL);
    snprintf(s->dir, sizeof s->dir, "%s", dir);
    snprintf(lock_path, sizeof lock_path, "%s/owner.lock", dir);
    e = vd_lock_take(&s->lock, lock_path, err);
    if (e == VD_OK)
        e = make_file(s, err);
    if (e == VD_OK)
        e = open_env(s, err);
    if (e == VD_OK && s->schema < VD_STORE_SCHEMA)
        e = upgrade(s, err);
    if (e != VD_OK) {
        vd_store_close(s);
        return e;
    }
    *out = s;
    return VD_OK;
}

void vd_store_close(struct vd_store *s)
{
    if (!s)
        return;
    assert(s->n_views == 0);
    close_env(s);
    vd_lock_release(&s->lock);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->mutex);
    free(s);
}

/* --- growing --- */

/* Runs while no view and no writer is open: new views wait. */
static void remap_begin(struct vd_store *s)
{
    pthread_mutex_lock(&s->mutex);
    s->remapping = true;
    while (s->n_views > 0)
        pthread_cond_wait(&s->changed, &s->mutex);
}

static void remap_end(struct vd_store *s)
{
    s->remapping = false;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mutex);
}

static enum vd_err grow(struct vd_store *s, struct vd_error *err)
{
    uint64_t want = s->map_bytes * 2;
    if (want > s->config.map_max_bytes)
        want = s->config.map_max_bytes;
    if (want <= s->map_bytes)
        return lmdb_error(s, MDB_MAP_FULL, "grow", err);
    remap_begin(s);
    int rc = mdb_env_set_mapsize(s->env, want);
    if (rc == 0)
        s->map_bytes = want;
    remap_end(s);
    return rc ? lmdb_error(s, rc, "grow", err) : VD_OK;
}

static uint64_t used_bytes(struct vd_store *s)
{
    MDB_envinfo info;
    MDB_stat stat;
    mdb_env_info(s->env, &info);
    mdb_env_stat(s->env, &stat);
    return ((uint64_t)info.me_last_pgno + 1) * stat.ms_psize;
}

enum vd_err vd_store_usage(struct vd_store *s, uint64_t *used, uint64_t *map_bytes, struct vd_error *err)
{
    pthread_mutex_lock(&s->mutex);
    bool open = s->env != NULL;
    *used = open ? used_bytes(s) : 0;
    *map_bytes = s->map_bytes;
    pthread_mutex_unlock(&s->mutex);
    return open ? VD_OK : vd_error_set(err, VD_EIO, "%s: the database could not be opened anew", s->dir);
}

/* After a failure to write the meta page LMDB refuses every later write (MDB_PANIC): open the file anew.
 * While that fails there is no environment; views fail, and the next block tries again. */
static enum vd_err reopen(struct vd_store *s, struct vd_error *err)
{
    remap_begin(s);
    close_env(s);
    enum vd_err e = open_env(s, err);
    remap_end(s);
    return e;
}

/* --- the writer --- */

enum vd_err vd_store_begin(struct vd_store *s, struct vd_store_writer **out, struct vd_error *err)
{
    MDB_txn *txn;
    enum vd_err e = s->env ? VD_OK : reopen(s, err);
    if (e != VD_OK)
        return e;
    if (used_bytes(s) > s->map_bytes / 2 && s->map_bytes < s->config.map_max_bytes && grow(s, err) != VD_OK)
        return err ? err->code : VD_EIO;
    struct vd_store_writer *w = calloc(1, sizeof *w);
    if (!w)
        return vd_error_set(err, VD_ENOMEM, "%s: not enough memory", s->dir);
    int rc = mdb_txn_begin(s->env, NULL, 0, &txn);
    if (rc == MDB_PANIC) {
        e = reopen(s, err);
        rc = e == VD_OK ? mdb_txn_begin(s->env, NULL, 0, &txn) : 0;
    }
    if (rc != 0)
        e = lmdb_error(s, rc, "begin a block", err);
    if (e != VD_OK) {
        free(w);
        return e;
    }
    w->store = s;
    txn_kvs_init(&w->kvs, txn, s->table[T_STATE]);
    *out = w;
    return VD_OK;
}

struct vd_kvs *vd_store_writer_kv(struct vd_store_writer *w)
{
    return &w->kvs.kv;
}

static enum vd_err write_error(struct vd_store_writer *w, int rc, const char *doing, struct vd_error *err)
{
    w->map_full |= rc == MDB_MAP_FULL;
    return lmdb_error(w->store, rc, doing, err);
}

struct apply {
    struct vd_store_writer *w;
    struct vd_map_change *change;
    size_t n;
    int rc;
};

static bool apply_one(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    struct apply *a = arg;
    MDB_txn *txn = a->w->kvs.txn;
    MDB_dbi state = a->w->store->table[T_STATE];
    MDB_val k = to_val(key), v;
    int rc = mdb_get(txn, state, &k, &v);
    if (rc != 0 && rc != MDB_NOTFOUND) {
        a->rc = rc;
        return false;
    }
    bool had = rc == 0;
    if (value.p ? had && v.mv_size == value.n && memcmp(v.mv_data, value.p, value.n) == 0 : !had)
        return true; /* as it was */
    if (key.p[0] < VD_KVS_INDEX) {
        struct vd_map_change *c = &a->change[a->n++];
        *c = (struct vd_map_change){.key_hash = vd_map_hash(key), .deleted = !value.p};
        if (value.p)
            c->value_hash = vd_map_hash(value);
    }
    v = to_val(value);
    a->rc = value.p ? mdb_put(txn, state, &k, &v, 0) : mdb_del(txn, state, &k, NULL);
    return a->rc == 0;
}

/* vd_map's node store in the write transaction; the first error is kept. */
struct node_ctx {
    MDB_txn *txn;
    MDB_dbi node;
    int rc;
};

static bool node_get(void *ctx, struct vd_bytes key, struct vd_bytes *value)
{
    struct node_ctx *c = ctx;
    MDB_val k = to_val(key), v;
    int rc = mdb_get(c->txn, c->node, &k, &v);
    *value = rc == 0 ? to_bytes(v) : (struct vd_bytes){NULL, 0};
    c->rc = rc == MDB_NOTFOUND ? 0 : rc;
    return c->rc == 0;
}

static bool node_put(void *ctx, struct vd_bytes key, struct vd_bytes value)
{
    struct node_ctx *c = ctx;
    MDB_val k = to_val(key), v = to_val(value);
    c->rc = mdb_put(c->txn, c->node, &k, &v, 0);
    return c->rc == 0;
}

static bool node_del(void *ctx, struct vd_bytes key)
{
    struct node_ctx *c = ctx;
    MDB_val k = to_val(key);
    int rc = mdb_del(c->txn, c->node, &k, NULL);
    c->rc = rc == MDB_NOTFOUND ? 0 : rc;
    return c->rc == 0;
}

enum vd_err vd_store_apply(struct vd_store_writer *w, const struct vd_overlay *o, struct vd_arena *scratch,
                           struct vd_hash *root, struct vd_error *err)
{
    struct apply a = {.w = w};
    size_t n_bytes = (o->n_changes + 1) * sizeof *a.change;
    a.change = vd_arena_alloc(scratch, n_bytes, _Alignof(struct vd_map_change));
    if (!a.change)
        return vd_error_set(err, VD_ENOMEM, "%s: the arena of a block lacks %zu bytes", w->store->dir,
                            n_bytes);
    txn_kvs_close(&w->kvs); /* its place may move under writes */
    if (!vd_overlay_each(o, apply_one, &a))
        return write_error(w, a.rc, "write the state", err);
    struct node_ctx ctx = {w->kvs.txn, w->store->table[T_NODE], 0};
    struct vd_map_nodes nodes = {node_get, node_put, node_del, &ctx};
    if (!vd_map_update(&nodes, a.change, a.n, root))
        return write_error(w, ctx.rc ? ctx.rc : MDB_CORRUPTED, "write the state's tree", err);
    return VD_OK;
}

static void height_key(uint8_t out[8], uint64_t height)
{
    for (int i = 0; i < 8; i++)
        out[i] = (uint8_t)(height >> (56 - 8 * i));
}

static size_t tip_encode(const struct vd_store_tip *t, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_u64(&w, 1, t->height);
    vd_pb_put_u64(&w, 2, t->time_ms);
    vd_pb_put_elem(&w, 3, t->block_hash.b, VD_HASH_BYTES);
    vd_pb_put_elem(&w, 4, t->state_root.b, VD_HASH_BYTES);
    return w.n_bytes;
}

static bool tip_decode(struct vd_bytes in, struct vd_store_tip *t)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    t->empty = false;
    t->height = vd_pb_get_u64(&r, 1, UINT64_MAX);
    t->time_ms = vd_pb_get_u64(&r, 2, UINT64_MAX);
    vd_pb_get_fixed(&r, 3, t->block_hash.b, VD_HASH_BYTES);
    vd_pb_get_fixed(&r, 4, t->state_root.b, VD_HASH_BYTES);
    return vd_pb_done(&r);
}

static int put(struct vd_store_writer *w, enum table t, struct vd_bytes key, struct vd_bytes value,
               unsigned flags)
{
    MDB_val k = to_val(key), v = to_val(value);
    return mdb_put(w->kvs.txn, w->store->table[t], &k, &v, flags);
}

enum vd_err vd_store_put_block(struct vd_store_writer *w, const struct vd_store_tip *tip,
                               struct vd_bytes block, struct vd_bytes events, struct vd_error *err)
{
    uint8_t key[8], tip_bytes[128];
    height_key(key, tip->height);
    struct vd_bytes k = {key, sizeof key}, meta = {(const uint8_t *)"tip", 3};
    struct vd_bytes t = {tip_bytes, tip_encode(tip, tip_bytes, sizeof tip_bytes)};
    int rc = put(w, T_BLOCK, k, block, MDB_APPEND);
    if (rc == 0 && events.n)
        rc = put(w, T_EVENT, k, events, MDB_APPEND);
    if (rc == 0)
        rc = put(w, T_META, meta, t, 0);
    return rc ? write_error(w, rc, "write a block", err) : VD_OK;
}

enum vd_err vd_store_put_genesis(struct vd_store_writer *w, struct vd_bytes genesis, struct vd_error *err)
{
    int rc = put(w, T_META, (struct vd_bytes){(const uint8_t *)"genesis", 7}, genesis, 0);
    return rc ? write_error(w, rc, "write the genesis", err) : VD_OK;
}

enum vd_err vd_store_commit(struct vd_store_writer *w, struct vd_error *err)
{
    struct vd_store *s = w->store;
    assert(!w->map_full);
    txn_kvs_close(&w->kvs);
    int rc = mdb_txn_commit(w->kvs.txn);
    free(w);
    if (rc == MDB_MAP_FULL)
        return grow(s, err) == VD_OK ? vd_error_set(err, VD_EAGAIN, "%s: the map has grown", s->dir)
                                     : VD_ENOSPACE;
    return rc ? lmdb_error(s, rc, "commit a block", err) : VD_OK;
}

enum vd_err vd_store_abort(struct vd_store_writer *w, struct vd_error *err)
{
    struct vd_store *s = w->store;
    bool map_full = w->map_full;
    txn_kvs_close(&w->kvs);
    mdb_txn_abort(w->kvs.txn);
    free(w);
    if (!map_full)
        return VD_OK;
    return grow(s, err) == VD_OK ? vd_error_set(err, VD_EAGAIN, "%s: the map has grown", s->dir)
                                 : VD_ENOSPACE;
}

/* --- reads that both sides share --- */

static enum vd_err table_get(const struct vd_store *s, MDB_txn *txn, enum table t, const void *key, size_t n,
                             struct vd_bytes *out, struct vd_error *err)
{
    MDB_val k = to_val((struct vd_bytes){key, n}), val;
    int rc = mdb_get(txn, s->table[t], &k, &val);
    if (rc == MDB_NOTFOUND)
        return vd_error_set(err, VD_ENOTFOUND, "%s: no such entry in table %s", s->dir, table_name[t]);
    if (rc != 0)
        return lmdb_error(s, rc, "read", err);
    *out = to_bytes(val);
    return VD_OK;
}

static enum vd_err read_tip(const struct vd_store *s, MDB_txn *txn, struct vd_store_tip *out,
                            struct vd_error *err)
{
    struct vd_bytes b;
    enum vd_err e = table_get(s, txn, T_META, "tip", 3, &b, err);
    *out = (struct vd_store_tip){.empty = true};
    if (e == VD_ENOTFOUND)
        return VD_OK;
    if (e == VD_OK && !tip_decode(b, out))
        return lmdb_error(s, MDB_CORRUPTED, "read the latest height", err);
    return e;
}

enum vd_err vd_store_writer_tip(struct vd_store_writer *w, struct vd_store_tip *out, struct vd_error *err)
{
    return read_tip(w->store, w->kvs.txn, out, err);
}

/* --- readers --- */

enum vd_err vd_store_view_tip(struct vd_store_view *v, struct vd_store_tip *out, struct vd_error *err)
{
    return read_tip(v->store, v->kvs.txn, out, err);
}

enum vd_err vd_store_view_open(struct vd_store *s, struct vd_store_view **out, struct vd_error *err)
{
    MDB_txn *txn;
    struct vd_store_view *v = calloc(1, sizeof *v);
    if (!v)
        return vd_error_set(err, VD_ENOMEM, "%s: not enough memory", s->dir);
    pthread_mutex_lock(&s->mutex);
    while (s->remapping)
        pthread_cond_wait(&s->changed, &s->mutex);
    int rc = s->env ? mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn) : EIO;
    s->n_views += rc == 0;
    pthread_mutex_unlock(&s->mutex);
    if (rc != 0) {
        free(v);
        return lmdb_error(s, rc, "open a view", err);
    }
    v->store = s;
    txn_kvs_init(&v->kvs, txn, s->table[T_STATE]);
    *out = v;
    return VD_OK;
}

void vd_store_view_close(struct vd_store_view *v)
{
    if (!v)
        return;
    struct vd_store *s = v->store;
    txn_kvs_close(&v->kvs);
    mdb_txn_abort(v->kvs.txn);
    free(v);
    pthread_mutex_lock(&s->mutex);
    s->n_views--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mutex);
}

struct vd_kvs *vd_store_view_kv(struct vd_store_view *v)
{
    return &v->kvs.kv;
}

enum vd_err vd_store_view_block(struct vd_store_view *v, uint64_t height, struct vd_bytes *block,
                                struct vd_bytes *events, struct vd_error *err)
{
    uint8_t key[8];
    height_key(key, height);
    enum vd_err e = table_get(v->store, v->kvs.txn, T_BLOCK, key, sizeof key, block, err);
    if (e == VD_ENOTFOUND)
        return vd_error_set(err, VD_ENOTFOUND, "%s: there is no block %" PRIu64, v->store->dir, height);
    if (e != VD_OK || !events)
        return e;
    e = table_get(v->store, v->kvs.txn, T_EVENT, key, sizeof key, events, err);
    if (e == VD_ENOTFOUND) {
        *events = (struct vd_bytes){block->p, 0};
        return VD_OK;
    }
    return e;
}

enum vd_err vd_store_view_genesis(struct vd_store_view *v, struct vd_bytes *out, struct vd_error *err)
{
    return table_get(v->store, v->kvs.txn, T_META, "genesis", 7, out, err);
}

enum vd_err vd_store_view_prove(struct vd_store_view *v, struct vd_bytes key, struct vd_map_proof *out,
                                struct vd_error *err)
{
    struct node_ctx ctx = {v->kvs.txn, v->store->table[T_NODE], 0};
    struct vd_map_nodes nodes = {node_get, node_put, node_del, &ctx};
    struct vd_hash h = vd_map_hash(key);
    if (!vd_map_prove(&nodes, &h, out))
        return lmdb_error(v->store, ctx.rc ? ctx.rc : MDB_CORRUPTED, "prove", err);
    return VD_OK;
}

bool vd_store_view_same(struct vd_store_view *a, struct vd_store_view *b, struct vd_bytes *key)
{
    struct vd_bytes none = {NULL, 0}, ka = none, kb = none, va, vb;
    bool first = true;
    for (;;) {
        bool in_a = a->kvs.kv.next(&a->kvs.kv, none, ka, !first, &ka, &va);
        bool in_b = b->kvs.kv.next(&b->kvs.kv, none, kb, !first, &kb, &vb);
        first = false;
        if (!in_a && !in_b)
            return !a->kvs.kv.failed && !b->kvs.kv.failed;
        *key = in_a ? ka : kb;
        if (in_a != in_b || ka.n != kb.n || memcmp(ka.p, kb.p, ka.n) != 0 || va.n != vb.n ||
            memcmp(va.p, vb.p, va.n) != 0)
            return false;
    }
}
