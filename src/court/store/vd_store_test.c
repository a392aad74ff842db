#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <signal.h>
#include <lmdb.h>
#include <pthread.h>
#include <errno.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <cmocka.h>

#include "vd_court_kit.h"
#include "vd_store.h"

enum { ARENA_BYTES = 16 << 20 };

static char dir[64];
static struct vd_arena arena;
static struct vd_error err;

static int setup(void **state)
{
    snprintf(dir, sizeof dir, "/tmp/vd_store_test.XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    return system(cmd);
}

static struct vd_store *open_store(const struct vd_store_config *config)
{
    struct vd_store *s;
    if (vd_store_open(&s, dir, config, &err) != VD_OK)
        fail_msg("%s", err.msg);
    return s;
}

/* One block that puts `n` values of n_bytes each, whose keys and content follow from the height. */
static enum vd_err try_block(struct vd_store *s, uint64_t height, uint32_t n, size_t n_bytes)
{
    static uint8_t value[4096];
    struct vd_store_writer *w;
    struct vd_overlay o;
    struct vd_store_tip tip = {.height = height};
    enum vd_err e = vd_store_begin(s, &w, &err);
    if (e != VD_OK)
        return e;
    arena.used_bytes = 0;
    vd_overlay_init(&o, vd_store_writer_kv(w), &arena);
    memset(value, (int)height, sizeof value);
    for (uint32_t i = 0; i < n; i++) {
        uint8_t key[12] = {'k'};
        vd_le64_store(key + 1, height * 1000003 + i);
        vd_overlay_put(&o, (struct vd_bytes){key, sizeof key}, (struct vd_bytes){value, n_bytes});
    }
    vd_overlay_put(&o, (struct vd_bytes){(const uint8_t *)"last", 4}, (struct vd_bytes){value, 8});
    e = vd_store_apply(w, &o, &arena, &tip.state_root, &err);
    if (e == VD_OK)
        e = vd_store_put_block(w, &tip, (struct vd_bytes){value, 100}, (struct vd_bytes){value, height % 3},
                               &err);
    if (e == VD_OK)
        return vd_store_commit(w, &err);
    enum vd_err g = vd_store_abort(w, &err);
    return g == VD_OK ? e : g;
}

static enum vd_err put_block(struct vd_store *s, uint64_t height, uint32_t n, size_t n_bytes)
{
    enum vd_err e;
    while ((e = try_block(s, height, n, n_bytes)) == VD_EAGAIN)
        ;
    return e;
}

static struct vd_store_tip tip_of(struct vd_store *s)
{
    struct vd_store_view *v;
    struct vd_store_tip t;
    assert_int_equal(vd_store_view_open(s, &v, &err), VD_OK);
    assert_int_equal(vd_store_view_tip(v, &t, &err), VD_OK);
    vd_store_view_close(v);
    return t;
}

static void test_blocks_come_back(void **state)
{
    struct vd_store *s = open_store(NULL);
    struct vd_store_view *v;
    struct vd_bytes b, ev, value;
    assert_true(tip_of(s).empty);
    for (uint64_t h = 0; h < 4; h++)
        assert_int_equal(put_block(s, h, 10, 20), VD_OK);
    struct vd_store_tip before = tip_of(s);
    vd_store_close(s);
    s = open_store(NULL);
    struct vd_store_tip after = tip_of(s);
    assert_int_equal(after.height, 3);
    assert_memory_equal(before.state_root.b, after.state_root.b, VD_HASH_BYTES);
    assert_int_equal(vd_store_view_open(s, &v, &err), VD_OK);
    assert_int_equal(vd_store_view_block(v, 2, &b, &ev, &err), VD_OK);
    assert_int_equal(b.n, 100);
    assert_int_equal(ev.n, 2);
    assert_int_equal(vd_store_view_block(v, 3, &b, &ev, &err), VD_OK);
    assert_int_equal(ev.n, 0);
    assert_int_equal(vd_store_view_block(v, 4, &b, &ev, &err), VD_ENOTFOUND);
    assert_int_equal(vd_store_view_genesis(v, &b, &err), VD_ENOTFOUND);
    struct vd_kvs *kv = vd_store_view_kv(v);
    assert_true(kv->get(kv, (struct vd_bytes){(const uint8_t *)"last", 4}, &value));
    assert_int_equal(value.p[0], 3);
    vd_store_view_close(v);
    vd_store_close(s);
}

/* The root in the tip proves what is in the state, and what is not. */
static void test_views_prove(void **state)
{
    static struct vd_map_proof p;
    struct vd_store *s = open_store(NULL);
    struct vd_store_view *v;
    struct vd_hash got, key_hash, want;
    struct vd_bytes key = {(const uint8_t *)"last", 4}, none = {(const uint8_t *)"lost", 4}, value;
    assert_int_equal(put_block(s, 0, 100, 20), VD_OK);
    struct vd_store_tip tip = tip_of(s);
    assert_int_equal(vd_store_view_open(s, &v, &err), VD_OK);
    struct vd_kvs *kv = vd_store_view_kv(v);
    assert_true(kv->get(kv, key, &value));
    want = vd_map_hash(value);
    key_hash = vd_map_hash(key);
    assert_int_equal(vd_store_view_prove(v, key, &p, &err), VD_OK);
    assert_int_equal(vd_map_verify(&tip.state_root, &key_hash, &p, &got), VD_MAP_PRESENT);
    assert_memory_equal(got.b, want.b, VD_HASH_BYTES);
    key_hash = vd_map_hash(none);
    assert_int_equal(vd_store_view_prove(v, none, &p, &err), VD_OK);
    assert_int_equal(vd_map_verify(&tip.state_root, &key_hash, &p, &got), VD_MAP_ABSENT);
    vd_store_view_close(v);
    vd_store_close(s);
}

/* LMDB's cursor and the kit's array walk alike. */
static void test_iteration(void **state)
{
    static const char *const keys[] = {"a", "ab", "abc", "b", "ba", "c"};
    struct vd_store *s = open_store(NULL);
    struct vd_store_writer *w;
    struct vd_overlay o;
    struct kit_state model;
    struct vd_hash root;
    kit_state_init(&model);
    arena.used_bytes = 0;
    assert_int_equal(vd_store_begin(s, &w, &err), VD_OK);
    vd_overlay_init(&o, vd_store_writer_kv(w), &arena);
    for (size_t i = 0; i < 6; i++) {
        struct vd_bytes k = {(const uint8_t *)keys[i], strlen(keys[i])};
        vd_overlay_put(&o, k, (struct vd_bytes){k.p, i % 2});
        kit_set(&model, k, (struct vd_bytes){k.p, i % 2});
    }
    assert_int_equal(vd_store_apply(w, &o, &arena, &root, &err), VD_OK);
    struct vd_kvs *kv = vd_store_writer_kv(w);
    for (size_t p = 0; p < 6; p++)
        for (size_t f = 0; f < 6; f++)
            for (int after = 0; after < 2; after++) {
                struct vd_bytes prefix = {(const uint8_t *)keys[p], p == 5 ? 0 : strlen(keys[p])};
                struct vd_bytes from = {(const uint8_t *)keys[f], strlen(keys[f])}, ka, va, kb, vb;
                bool a = kv->next(kv, prefix, from, after, &ka, &va);
                assert_int_equal(a, kit_next(&model.kv, prefix, from, after, &kb, &vb));
                assert_true(!a || (kit_key_cmp(ka, kb) == 0 && kit_key_cmp(va, vb) == 0));
            }
    assert_int_equal(vd_store_abort(w, &err), VD_OK);
    vd_store_close(s);
    kit_state_free(&model);
}

static void test_second_open_is_busy(void **state)
{
    struct vd_store *s = open_store(NULL), *again;
    assert_int_equal(vd_store_open(&again, dir, NULL, &err), VD_EBUSY);
    vd_store_close(s);
    vd_store_close(open_store(NULL));
}

/* The schema that the closed store has; then it has this one (0: as before). */
static uint32_t swap_schema(uint32_t schema)
{
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi meta;
    uint8_t v[4];
    MDB_val key = {6, (void *)(uintptr_t) "schema"}, val;
    assert_int_equal(mdb_env_create(&env), 0);
    mdb_env_set_maxdbs(env, 8);
    assert_int_equal(mdb_env_open(env, dir, 0, 0600), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, "meta", 0, &meta), 0);
    assert_int_equal(mdb_get(txn, meta, &key, &val), 0);
    uint32_t before = vd_le32_load(val.mv_data);
    vd_le32_store(v, schema ? schema : before);
    val = (MDB_val){4, v};
    assert_int_equal(mdb_put(txn, meta, &key, &val, 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
    return before;
}

static void test_newer_schema_is_refused(void **state)
{
    char path[128];
    struct vd_store *s;
    vd_store_close(open_store(NULL));
    assert_int_equal(swap_schema(VD_STORE_SCHEMA + 1), VD_STORE_SCHEMA);
    assert_int_equal(vd_store_open(&s, dir, NULL, &err), VD_EVERSION);
    assert_non_null(strstr(err.msg, "newer"));
    snprintf(path, sizeof path, "%s/data.mdb", dir);
    FILE *f = fopen(path, "r+");
    assert_non_null(f);
    for (int i = 0; i < 8192; i++)
        fputc('x', f);
    fclose(f);
    assert_int_equal(vd_store_open(&s, dir, NULL, &err), VD_EFORMAT); /* not an LMDB file at all */
}

/* A receipt of the kit's network with disputes of two challengers, as a state. */
enum { OPEN_DISPUTES = 12 };
static void challenged_state(struct kit *k, struct kit_net *net)
{
    static struct kit_receipt r;
    struct vd_hash escrow;
    struct vd_tx offer = {.kind = VD_TX_STAKE, .u.stake = {{KIT_MIN_STAKE}}};
    struct vd_tx open = {.kind = VD_TX_ESCROW_OPEN, .u.escrow_open = {k->key[1].pub, {1000}}};
    struct vd_tx model = {
        .kind = VD_TX_REGISTER_MODEL,
        .u.register_model = {{k->program, k->program_bytes}, k->n_tensors, k->tensors_root}};
    struct vd_tx settle = {.kind = VD_TX_SETTLE}, challenge = {.kind = VD_TX_CHALLENGE};
    kit_net_init(net, k);
    kit_check(kit_give(net, 2, offer, NULL) == VD_TX_OK && kit_give(net, 2, model, NULL) == VD_TX_OK);
    kit_check(kit_give(net, 0, open, &escrow) == VD_TX_OK);
    kit_receipt(k, &r, &escrow, 1, 2, 100, 100);
    settle.u.settle.n = 1;
    settle.u.settle.receipt[0] = (struct vd_bytes){r.bytes, r.n};
    kit_check(kit_give(net, 1, settle, NULL) == VD_TX_OK);
    challenge.u.challenge.receipt_id = r.id;
    for (int i = 0; i < OPEN_DISPUTES; i++)
        kit_check(kit_give(net, 4 + i % 2, challenge, NULL) == VD_TX_OK);
    kit_end(net);
}

/* All of the state but the index of challengers, and the number of its keys. */
static uint32_t put_without_index(struct vd_overlay *o, const struct kit_state *from)
{
    uint32_t n = 0;
    for (size_t i = 0; i < from->n; i++)
        if (from->entry[i].key.p[0] == VD_INDEX_CHALLENGER_DISPUTE)
            n++;
        else
            vd_overlay_put(o, from->entry[i].key, from->entry[i].value);
    return n;
}

/* A store of schema 1 has no index of challengers: it gets it when it is opened, once, and keeps its root. */
static void test_schema_1_is_upgraded(void **state)
{
    static struct kit k;
    static struct kit_net net;
    struct vd_store_writer *w;
    struct vd_overlay o;
    struct vd_hash root, same;
    kit_init(&k);
    challenged_state(&k, &net);
    struct vd_store *s = open_store(NULL);
    arena.used_bytes = 0;
    assert_int_equal(vd_store_begin(s, &w, &err), VD_OK);
    vd_overlay_init(&o, vd_store_writer_kv(w), &arena);
    assert_int_equal(put_without_index(&o, &net.state), OPEN_DISPUTES);
    assert_int_equal(vd_store_apply(w, &o, &arena, &root, &err), VD_OK);
    assert_int_equal(vd_store_commit(w, &err), VD_OK);
    vd_store_close(s);
    for (int twice = 0; twice < 2; twice++) {
        assert_int_equal(swap_schema(twice ? 0 : 1), VD_STORE_SCHEMA);
        s = open_store(NULL);
        assert_int_equal(vd_store_begin(s, &w, &err), VD_OK);
        struct vd_kvs *kv = vd_store_writer_kv(w);
        struct vd_bytes none = {NULL, 0}, key = none, value;
        size_t i = 0;
        for (bool after = false; kv->next(kv, none, key, after, &key, &value); after = true, i++)
            assert_true(i < net.state.n && kit_key_cmp(key, net.state.entry[i].key) == 0 &&
                        kit_key_cmp(value, net.state.entry[i].value) == 0);
        assert_int_equal(i, net.state.n);
        arena.used_bytes = 0;
        vd_overlay_init(&o, kv, &arena);
        assert_int_equal(vd_store_apply(w, &o, &arena, &same, &err), VD_OK);
        assert_memory_equal(root.b, same.b, VD_HASH_BYTES);
        assert_int_equal(vd_store_abort(w, &err), VD_OK);
        vd_store_close(s);
    }
    assert_int_equal(swap_schema(0), VD_STORE_SCHEMA);
    kit_net_free(&net);
    kit_free(&k);
}

static void test_map_grows(void **state)
{
    struct vd_store_config tiny = {.map_bytes = 256 << 10, .scratch = true};
    struct vd_store *s = open_store(&tiny);
    uint64_t used, map;
    for (uint64_t h = 0; h < 6; h++) /* a block alone is larger than the first map */
        assert_int_equal(put_block(s, h, 400, 2000), VD_OK);
    assert_int_equal(vd_store_usage(s, &used, &map, &err), VD_OK);
    assert_true(map >= 4 << 20 && used < map);
    assert_int_equal(tip_of(s).height, 5);
    vd_store_close(s);
    tiny.map_bytes = 64 << 10; /* smaller than the file: LMDB uses the file's size */
    s = open_store(&tiny);
    assert_int_equal(tip_of(s).height, 5);
    assert_int_equal(put_block(s, 6, 400, 2000), VD_OK);
    vd_store_close(s);
}

/* Growing waits for views, and a view goes on seeing its state. */
static void *late_close(void *arg)
{
    usleep(50000);
    vd_store_view_close(arg);
    return NULL;
}

static void test_growing_waits_for_views(void **state)
{
    struct vd_store_config tiny = {.map_bytes = 256 << 10, .scratch = true};
    struct vd_store *s = open_store(&tiny);
    struct vd_store_view *v;
    pthread_t t;
    assert_int_equal(put_block(s, 0, 1, 10), VD_OK);
    assert_int_equal(vd_store_view_open(s, &v, &err), VD_OK);
    assert_int_equal(pthread_create(&t, NULL, late_close, v), 0);
    assert_int_equal(put_block(s, 1, 400, 2000), VD_OK);
    pthread_join(t, NULL);
    assert_int_equal(tip_of(s).height, 1);
    vd_store_close(s);
}

static void test_the_limit_of_the_map_is_an_error(void **state)
{
    struct vd_store_config tiny = {.map_bytes = 256 << 10, .map_max_bytes = 512 << 10, .scratch = true};
    struct vd_store *s = open_store(&tiny);
    assert_int_equal(put_block(s, 0, 10, 100), VD_OK);
    assert_int_equal(put_block(s, 1, 400, 2000), VD_ENOSPACE);
    assert_non_null(strstr(err.msg, "limit"));
    assert_int_equal(tip_of(s).height, 0);
    assert_int_equal(put_block(s, 1, 10, 100), VD_OK); /* small ones still fit */
    vd_store_close(s);
}

/* A file size limit stands for a full disk: the same path through LMDB, and anybody may set one. */
static void test_full_disk(void **state)
{
    struct rlimit old, tight;
    char path[128];
    struct stat st;
    struct vd_store *s = open_store(NULL);
    assert_int_equal(put_block(s, 0, 100, 100), VD_OK);
    signal(SIGXFSZ, SIG_IGN);
    snprintf(path, sizeof path, "%s/data.mdb", dir);
    assert_int_equal(stat(path, &st), 0);
    getrlimit(RLIMIT_FSIZE, &old);
    tight = old;
    tight.rlim_cur = (rlim_t)st.st_size;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(put_block(s, 1, 400, 2000), VD_ENOSPACE);
        assert_int_equal(tip_of(s).height, 0); /* reads go on */
    }
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(put_block(s, 1, 400, 2000), VD_OK);
    assert_int_equal(tip_of(s).height, 1);
    vd_store_close(s);
    s = open_store(NULL);
    assert_int_equal(tip_of(s).height, 1);
    vd_store_close(s);
}

/* LMDB writes the page that makes a block the latest one last, by itself, and refuses all writes after that
 * failed: the store opens the file anew. This pwrite stands before the C library's for liblmdb too; while it
 * is armed it fails for that page (at the beginning of the file, through a descriptor that syncs). */
static bool meta_fails;
ssize_t pwrite(int fd, const void *p, size_t n, off_t at);
ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
    if (meta_fails && at < 8192 && n < 4096) {
        errno = EIO;
        return -1;
    }
    struct iovec v = {(void *)(uintptr_t)p, n};
    return pwritev(fd, &v, 1, at);
}

static void test_a_store_that_cannot_be_opened_anew(void **state)
{
    char path[128], away[128];
    uint64_t used, map;
    struct vd_store_view *v;
    struct vd_store *s = open_store(NULL);
    snprintf(path, sizeof path, "%s/data.mdb", dir);
    snprintf(away, sizeof away, "%s/away", dir);
    assert_int_equal(put_block(s, 0, 10, 100), VD_OK);
    meta_fails = true;
    assert_int_equal(put_block(s, 1, 10, 100), VD_EIO);
    meta_fails = false;
    assert_int_equal(rename(path, away), 0);
    assert_int_equal(mkdir(path, 0700), 0); /* in the way */
    for (int i = 0; i < 2; i++) {
        assert_int_equal(put_block(s, 1, 10, 100), VD_EIO);
        assert_int_equal(vd_store_view_open(s, &v, &err), VD_EIO);
        assert_int_equal(vd_store_usage(s, &used, &map, &err), VD_EIO);
    }
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rename(away, path), 0);
    assert_int_equal(put_block(s, 1, 10, 100), VD_OK);
    assert_int_equal(tip_of(s).height, 1);
    vd_store_close(s);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_blocks_come_back),
        T(test_views_prove),
        T(test_iteration),
        T(test_second_open_is_busy),
        T(test_newer_schema_is_refused),
        T(test_schema_1_is_upgraded),
        T(test_map_grows),
        T(test_growing_waits_for_views),
        T(test_the_limit_of_the_map_is_an_error),
        T(test_full_disk),
        T(test_a_store_that_cannot_be_opened_anew),
    };
    arena = vd_arena_init(malloc(ARENA_BYTES), ARENA_BYTES);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(arena.base);
    return failed;
}
