#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <dlfcn.h>
#include <lmdb.h>
#include <signal.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "vd_chain.h"
#include "vd_court_kit.h"
#include "vd_pb.h"

static struct kit k;
static char dir[64];
static struct vd_error err;

static int setup(void **state)
{
    snprintf(dir, sizeof dir, "/tmp/vd_chain_test.XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    return system(cmd);
}

static struct vd_chain *open_chain(void)
{
    struct vd_chain *c;
    struct vd_chain_config config = {.dir = dir, .genesis = &k.genesis, .block_time_ms = 10};
    if (vd_chain_open(&c, &config, &err) != VD_OK)
        fail_msg("%s", err.msg);
    return c;
}

static void transfer(struct kit_tx *t, int from, uint64_t nonce, uint64_t amount)
{
    kit_sign(&k, t, from, nonce,
             (struct vd_tx){.kind = VD_TX_TRANSFER, .u.transfer = {k.key[7].pub, {amount}}});
}

struct waiter {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool done;
    struct vd_chain_result result;
};

static void wake_waiter(void *arg, const struct vd_chain_result *result)
{
    struct waiter *w = arg;
    pthread_mutex_lock(&w->mutex);
    w->result = *result;
    w->done = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->mutex);
}

/* Submits, and waits for the decision. */
static struct vd_chain_result submit(struct vd_chain *c, const struct kit_tx *t)
{
    struct waiter w = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, {.err = VD_OK}};
    if (vd_chain_submit(c, kit_tx_bytes(t), wake_waiter, &w, &err) != VD_OK)
        fail_msg("%s", err.msg);
    pthread_mutex_lock(&w.mutex);
    while (!w.done)
        pthread_cond_wait(&w.cond, &w.mutex);
    pthread_mutex_unlock(&w.mutex);
    return w.result;
}

static uint64_t balance(struct vd_chain *c, int who)
{
    struct vd_store_view *v;
    struct vd_account a = {{0}, 0};
    assert_int_equal(vd_chain_view_open(c, &v, &err), VD_OK);
    vd_ledger_get_account(vd_store_view_kv(v), &k.key[who].pub, &a);
    vd_store_view_close(v);
    return a.balance.micro;
}

static void verify(uint64_t at_least)
{
    uint64_t n;
    if (vd_chain_verify(dir, 0, &n, &err) != VD_OK)
        fail_msg("%s", err.msg);
    assert_true(n >= at_least);
}

static void test_submit_and_restart(void **state)
{
    static struct kit_tx t, u;
    struct vd_chain *c = open_chain();
    transfer(&t, 0, 0, 5);
    struct vd_chain_result r = submit(c, &t), again;
    assert_int_equal(r.err, VD_OK);
    assert_int_equal(r.verdict, VD_TX_OK);
    assert_memory_equal(r.tx_id.b, t.id.b, VD_HASH_BYTES);
    assert_int_equal(balance(c, 7), 5); /* durable, so visible, when it is acknowledged */
    again = submit(c, &t);
    assert_int_equal(again.verdict, VD_TX_DUPLICATE);
    assert_int_equal(again.height, r.height);
    assert_int_equal(again.index, r.index);
    transfer(&u, 0, 1, KIT_BALANCE);
    assert_int_equal(submit(c, &u).verdict, VD_TX_FUNDS);
    u.bytes[u.n - 1] ^= 1;
    assert_int_equal(submit(c, &u).verdict, VD_TX_BAD_SIGNATURE);
    u.n = 1;
    assert_int_equal(submit(c, &u).verdict, VD_TX_MALFORMED);
    vd_chain_close(c);
    c = open_chain();
    assert_int_equal(balance(c, 7), 5);
    assert_int_equal(submit(c, &t).verdict, VD_TX_DUPLICATE);
    transfer(&u, 0, 1, 6);
    assert_int_equal(submit(c, &u).verdict, VD_TX_OK);
    vd_chain_close(c);
    verify(3);
}

/* A ledger that was made by other rules is neither continued nor called false. */
static void test_other_rules(void **state)
{
    static uint8_t buf[VD_GENESIS_MAX_BYTES];
    enum { LAST_FIELD_BYTES = 3 }; /* the number of the rules */
    size_t n = vd_genesis_encode(&k.genesis, buf, sizeof buf) - LAST_FIELD_BYTES;
    struct vd_chain_config config = {.dir = dir, .genesis = &k.genesis};
    struct vd_store_writer *w;
    struct vd_store *s;
    struct vd_chain *c;
    vd_chain_close(open_chain());
    assert_int_equal(vd_store_open(&s, dir, NULL, &err), VD_OK);
    assert_int_equal(vd_store_begin(s, &w, &err), VD_OK);
    assert_int_equal(vd_store_put_genesis(w, (struct vd_bytes){buf, n}, &err), VD_OK);
    assert_int_equal(vd_store_commit(w, &err), VD_OK);
    vd_store_close(s);
    assert_int_equal(vd_chain_open(&c, &config, &err), VD_EVERSION);
    assert_non_null(strstr(err.msg, dir));
    assert_non_null(strstr(err.msg, "rules 1"));
    config.genesis = NULL;
    assert_int_equal(vd_chain_open(&c, &config, &err), VD_EVERSION);
    assert_int_equal(vd_chain_verify(dir, 0, NULL, &err), VD_EVERSION);
}

static void test_open_errors(void **state)
{
    struct vd_chain *c, *d;
    struct vd_chain_config config = {.dir = dir};
    struct vd_genesis other = k.genesis;
    assert_int_equal(vd_chain_verify(dir, 0, NULL, &err), VD_ENOTFOUND);
    assert_int_equal(rmdir(dir), 0); /* nothing was made there */
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_int_equal(vd_chain_open(&d, &config, &err), VD_ENOTFOUND);
    c = open_chain();
    config.genesis = &k.genesis;
    assert_int_equal(vd_chain_open(&d, &config, &err), VD_EBUSY);
    assert_int_equal(vd_chain_verify(dir, 0, NULL, &err), VD_EBUSY);
    vd_chain_close(c);
    other.network[0] = 'x';
    config.genesis = &other;
    assert_int_equal(vd_chain_open(&d, &config, &err), VD_ECONFLICT);
    other.block_time_ms = 0;
    assert_int_equal(vd_chain_open(&d, &config, &err), VD_EFORMAT);
    config.genesis = NULL; /* its own */
    assert_int_equal(vd_chain_open(&d, &config, &err), VD_OK);
    assert_string_equal(vd_chain_genesis(d)->network, "kit");
    assert_memory_equal(vd_chain_ledger(d)->genesis_hash.b, k.ledger.genesis_hash.b, VD_HASH_BYTES);
    vd_chain_close(d);
    assert_int_equal(vd_chain_verify("/tmp/vd_chain_test.none", 0, NULL, &err), VD_ENOTFOUND);
}

static void test_empty_blocks_come_in_time(void **state)
{
    struct vd_chain *c = open_chain();
    struct vd_chain_status s;
    for (int i = 0; i < 500; i++) { /* 50 ms of blocks: seconds are plenty */
        vd_chain_status(c, &s);
        if (s.tip.height >= 5)
            break;
        usleep(10000);
    }
    assert_int_equal(s.health, VD_OK);
    assert_true(s.tip.height >= 5);
    vd_chain_close(c);
    verify(6);
}

/* --- many submitters, one order --- */

enum { THREADS = 3, EACH = 60 };

struct counts {
    pthread_mutex_t mutex;
    uint32_t applied, other;
};

static void count(void *arg, const struct vd_chain_result *r)
{
    struct counts *n = arg;
    pthread_mutex_lock(&n->mutex);
    if (r->err == VD_OK && r->verdict == VD_TX_OK)
        n->applied++;
    else
        n->other++;
    pthread_mutex_unlock(&n->mutex);
}

struct submitter {
    struct vd_chain *c;
    int from;
    struct counts *counts;
};

static void *submit_many(void *arg)
{
    struct submitter *s = arg;
    struct kit_tx *t = malloc(sizeof *t);
    for (uint64_t i = 0; i < EACH; i++) {
        transfer(t, s->from, i, 1);
        assert_int_equal(vd_chain_submit(s->c, kit_tx_bytes(t), count, s->counts, NULL), VD_OK);
    }
    free(t);
    return NULL;
}

static void test_many_submitters(void **state)
{
    struct counts n = {PTHREAD_MUTEX_INITIALIZER, 0, 0};
    struct vd_chain *c = open_chain();
    pthread_t t[THREADS];
    struct submitter s[THREADS];
    for (int i = 0; i < THREADS; i++) {
        s[i] = (struct submitter){c, i, &n};
        assert_int_equal(pthread_create(&t[i], NULL, submit_many, &s[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    for (int i = 0; i < 500 && balance(c, 7) < THREADS * EACH; i++)
        usleep(10000);
    assert_int_equal(balance(c, 7), THREADS * EACH);
    vd_chain_close(c);
    assert_int_equal(n.applied, THREADS * EACH);
    assert_int_equal(n.other, 0);
    verify(2);
}

static void test_closing_cancels_what_is_queued(void **state)
{
    static struct kit_tx t;
    struct counts n = {PTHREAD_MUTEX_INITIALIZER, 0, 0};
    struct vd_chain *c;
    struct vd_chain_config config = {.dir = dir, .genesis = &k.genesis, .block_time_ms = 60000};
    assert_int_equal(vd_chain_open(&c, &config, &err), VD_OK);
    for (uint64_t i = 0; i < 10; i++) {
        transfer(&t, 0, i, 1);
        assert_int_equal(vd_chain_submit(c, kit_tx_bytes(&t), count, &n, &err), VD_OK);
    }
    vd_chain_close(c);
    assert_int_equal(n.applied, 0);
    assert_int_equal(n.other, 10); /* each exactly once */
}

/* What does not get in, and at once. */
static void test_admission(void **state)
{
    static struct kit_tx t;
    struct counts n = {PTHREAD_MUTEX_INITIALIZER, 0, 0};
    struct vd_chain *c;
    struct vd_chain_config config = {.dir = dir, .genesis = &k.genesis, .block_time_ms = 60000};
    static uint8_t big[1000];
    assert_int_equal(vd_chain_open(&c, &config, &err), VD_OK);
    transfer(&t, 7, 0, 1);
    assert_int_equal(submit(c, &t).verdict, VD_TX_UNKNOWN_ACCOUNT); /* without waiting for a block */
    transfer(&t, 0, 123456, 1);
    assert_int_equal(submit(c, &t).verdict, VD_TX_BAD_NONCE);
    kit_sign(&k, &t, 0, 0, (struct vd_tx){.kind = VD_TX_MOVE, .u.move = {{{1}}, {big, sizeof big}}});
    assert_int_equal(submit(c, &t).verdict, VD_TX_UNKNOWN_DISPUTE);
    for (uint64_t i = 0; i < VD_CHAIN_SENDER_MAX_TXS; i++) { /* a pipeline */
        transfer(&t, 0, i, 1);
        assert_int_equal(vd_chain_submit(c, kit_tx_bytes(&t), count, &n, &err), VD_OK);
    }
    transfer(&t, 0, VD_CHAIN_SENDER_MAX_TXS, 1);
    assert_int_equal(vd_chain_submit(c, kit_tx_bytes(&t), count, &n, &err), VD_EAGAIN);
    transfer(&t, 1, 0, 1);
    assert_int_equal(vd_chain_submit(c, kit_tx_bytes(&t), count, &n, &err), VD_OK);
    vd_chain_close(c);
    assert_int_equal(n.other, VD_CHAIN_SENDER_MAX_TXS + 1);
}

/* More disputes than a block has room for: the rest waits for the next block in its order, and holds up
 * nobody else. */
static void test_a_full_block_defers_the_rest_in_order(void **state)
{
    enum { EACH_ONE = 60 };
    static struct kit_tx t[2 * EACH_ONE + 2];
    struct counts n = {PTHREAD_MUTEX_INITIALIZER, 0, 0};
    struct kit_receipt r;
    struct vd_chain *c;
    struct vd_chain_config config = {.dir = dir, .genesis = &k.genesis, .block_time_ms = 150};
    struct vd_tx stake = {.kind = VD_TX_STAKE, .u.stake = {{5000}}};
    struct vd_tx model = {.kind = VD_TX_REGISTER_MODEL,
                          .u.register_model = {{k.program, k.program_bytes}, k.n_tensors, k.tensors_root}};
    struct vd_tx open = {.kind = VD_TX_ESCROW_OPEN, .u.escrow_open = {k.key[1].pub, {5000}}};
    assert_int_equal(vd_chain_open(&c, &config, &err), VD_OK);
    kit_sign(&k, &t[0], 2, 0, stake);
    kit_sign(&k, &t[1], 2, 1, model);
    kit_sign(&k, &t[2], 0, 0, open);
    kit_receipt(&k, &r, &t[2].id, 1, 2, 10, 1000000);
    kit_sign(&k, &t[3], 1, 0, (struct vd_tx){.kind = VD_TX_SETTLE, .u.settle = {1, {{r.bytes, r.n}}}});
    for (int i = 0; i < 3; i++)
        assert_int_equal(vd_chain_submit(c, kit_tx_bytes(&t[i]), count, &n, &err), VD_OK);
    assert_int_equal(submit(c, &t[3]).verdict, VD_TX_OK);
    assert_int_equal(n.applied, 3);
    for (int i = 0; i < 2 * EACH_ONE; i++)
        kit_sign(&k, &t[i], 4 + i / EACH_ONE, (uint64_t)(i % EACH_ONE),
                 (struct vd_tx){.kind = VD_TX_CHALLENGE, .u.challenge = {r.id}});
    transfer(&t[2 * EACH_ONE], 5, EACH_ONE, 1);
    transfer(&t[2 * EACH_ONE + 1], 0, 1, 1);
    for (int i = 0; i < 2 * EACH_ONE + 1; i++)
        assert_int_equal(vd_chain_submit(c, kit_tx_bytes(&t[i]), count, &n, &err), VD_OK);
    struct vd_chain_result other = submit(c, &t[2 * EACH_ONE + 1]), held = submit(c, &t[2 * EACH_ONE]);
    assert_int_equal(other.verdict, VD_TX_OK);
    assert_int_equal(held.verdict, VD_TX_DUPLICATE); /* decided after the one before it was applied */
    assert_true(other.height <= held.height);
    vd_chain_close(c);
    assert_int_equal(n.other, 0);
    assert_int_equal(n.applied, 3 + 2 * EACH_ONE + 1);
    verify(3);
}

/* --- following --- */

struct follower {
    uint64_t last, n_events, transferred;
};

static void follow(void *arg, const struct vd_chain_block_info *b)
{
    struct follower *f = arg;
    struct vd_event e;
    size_t at = 0;
    assert_int_equal(b->header.height, f->last + 1);
    f->last = b->header.height;
    while (vd_chain_events_next(b->events, &at, NULL, &e)) {
        f->n_events++;
        f->transferred += e.kind == VD_EVENT_TRANSFER ? e.amount.micro : 0;
    }
}

static void test_following(void **state)
{
    static struct kit_tx t;
    struct follower f = {0};
    struct vd_chain *c;
    struct vd_store_view *v;
    struct vd_chain_config config = {
        .dir = dir, .genesis = &k.genesis, .block_time_ms = 10, .on_block = follow, .on_block_arg = &f};
    struct vd_chain_block_info info;
    uint64_t seen = 0, tip;
    assert_int_equal(vd_chain_open(&c, &config, &err), VD_OK);
    for (uint64_t i = 0; i < 5; i++) {
        transfer(&t, 0, i, 10 + i);
        assert_int_equal(submit(c, &t).verdict, VD_TX_OK);
    }
    vd_chain_close(c);
    assert_int_equal(f.n_events, 5);
    assert_int_equal(f.transferred, 60);
    tip = f.last;
    c = open_chain(); /* the same from the stored blocks, as one who comes late reads them */
    assert_int_equal(vd_chain_view_open(c, &v, &err), VD_OK);
    for (uint64_t h = 0; h <= tip; h++) {
        struct vd_event e;
        size_t at = 0;
        assert_int_equal(vd_chain_read_block(v, h, &info, &err), VD_OK);
        while (vd_chain_events_next(info.events, &at, NULL, &e))
            seen += e.amount.micro;
    }
    vd_store_view_close(v);
    vd_chain_close(c);
    assert_int_equal(seen, 60);
}

/* --- when the disk is full --- */

static void test_full_disk_and_recovery(void **state)
{
    static struct kit_tx t;
    struct rlimit old, tight;
    struct vd_chain_status s;
    char path[128];
    struct stat st;
    struct vd_chain_result r;
    uint64_t nonce = 0;
    signal(SIGXFSZ, SIG_IGN);
    struct vd_chain *c = open_chain();
    transfer(&t, 0, nonce++, 1);
    assert_int_equal(submit(c, &t).verdict, VD_TX_OK);
    snprintf(path, sizeof path, "%s/data.mdb", dir);
    assert_int_equal(stat(path, &st), 0);
    getrlimit(RLIMIT_FSIZE, &old);
    tight = old;
    tight.rlim_cur = (rlim_t)st.st_size;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    do { /* until the free pages of the file are used up */
        transfer(&t, 0, nonce, 1);
        r = submit(c, &t);
        nonce += r.err == VD_OK;
    } while (r.err == VD_OK && nonce < 1000);
    assert_int_equal(r.err, VD_ENOSPACE);
    vd_chain_status(c, &s);
    uint64_t acknowledged = nonce;
    assert_int_equal(balance(c, 7), acknowledged); /* reads go on, nothing acknowledged is missing */
    setrlimit(RLIMIT_FSIZE, &old);
    r = submit(c, &t); /* the same one again */
    assert_true(r.verdict == VD_TX_OK || r.verdict == VD_TX_DUPLICATE);
    assert_int_equal(r.err, VD_OK);
    assert_int_equal(balance(c, 7), acknowledged + 1);
    vd_chain_status(c, &s);
    assert_int_equal(s.health, VD_OK);
    vd_chain_close(c);
    verify(2);
}

static void test_the_map_grows_under_load(void **state)
{
    static struct kit_tx t;
    struct counts n = {PTHREAD_MUTEX_INITIALIZER, 0, 0};
    struct vd_chain *c;
    struct vd_chain_config config = {
        .dir = dir, .genesis = &k.genesis, .block_time_ms = 10, .store = {.map_bytes = 128 << 10}};
    assert_int_equal(vd_chain_open(&c, &config, &err), VD_OK);
    for (uint64_t i = 0; i < 1000; i++) {
        transfer(&t, 0, i, 1);
        enum vd_err e;
        while ((e = vd_chain_submit(c, kit_tx_bytes(&t), count, &n, &err)) == VD_EAGAIN)
            usleep(1000); /* its quota is used up until the next block */
        assert_int_equal(e, VD_OK);
    }
    for (int i = 0; i < 1000 && balance(c, 7) < 1000; i++)
        usleep(10000);
    assert_int_equal(balance(c, 7), 1000);
    vd_chain_close(c);
    assert_int_equal(n.applied, 1000);
    verify(2);
}

/* --- replay finds what was tampered with --- */

static void tamper(const char *what, const char *with)
{
    struct vd_store *s;
    struct vd_store_writer *w;
    struct vd_overlay o;
    struct vd_hash root;
    assert_int_equal(vd_store_open(&s, dir, NULL, &err), VD_OK);
    assert_int_equal(vd_store_begin(s, &w, &err), VD_OK);
    k.arena.used_bytes = 0;
    vd_overlay_init(&o, vd_store_writer_kv(w), &k.arena);
    vd_overlay_put(&o, (struct vd_bytes){(const uint8_t *)what, strlen(what)},
                   (struct vd_bytes){(const uint8_t *)with, strlen(with)});
    assert_int_equal(vd_store_apply(w, &o, &k.arena, &root, &err), VD_OK);
    assert_int_equal(vd_store_commit(w, &err), VD_OK);
    vd_store_close(s);
}

static void test_verify_finds_a_changed_record(void **state)
{
    static struct kit_tx t;
    struct vd_chain *c = open_chain();
    transfer(&t, 0, 0, 5);
    assert_int_equal(submit(c, &t).verdict, VD_TX_OK);
    vd_chain_close(c);
    verify(2);
    assert_int_equal(vd_chain_verify(dir, 1, NULL, &err), VD_OK);
    tamper("zebra", "x");
    assert_int_equal(vd_chain_verify(dir, 0, NULL, &err), VD_EFALSE);
    assert_non_null(strstr(err.msg, "7a65627261")); /* the record is named */
}

/* The first block is the genesis's: nobody can have had a transaction in it. */
static void test_verify_finds_transactions_before_the_first_block(void **state)
{
    static struct kit_tx t;
    static uint8_t bytes[VD_TX_MAX_BYTES], tip[256];
    struct vd_chain *c;
    struct vd_chain_config config = {.dir = dir, .genesis = &k.genesis, .block_time_ms = 60000};
    struct vd_chain_block_info info;
    struct vd_store_view *v;
    assert_int_equal(vd_chain_open(&c, &config, &err), VD_OK);
    assert_int_equal(vd_chain_view_open(c, &v, &err), VD_OK);
    assert_int_equal(vd_chain_read_block(v, 0, &info, &err), VD_OK);
    struct vd_block_header h = info.header;
    vd_store_view_close(v);
    vd_chain_close(c);
    verify(1);
    transfer(&t, 0, 0, 5);
    struct vd_bytes tx = kit_tx_bytes(&t);
    h.n_txs = 1;
    h.tx_root = vd_block_tx_root(&tx, 1);
    struct vd_block block = {h, 1, &tx};
    struct vd_hash hash = vd_block_hash(&h);
    struct vd_pb_writer w = vd_pb_writer_init(tip, sizeof tip); /* as vd_store.c writes it, for height 0 */
    vd_pb_put_u64(&w, 2, h.time_ms);
    vd_pb_put_elem(&w, 3, hash.b, VD_HASH_BYTES);
    vd_pb_put_elem(&w, 4, h.state_root.b, VD_HASH_BYTES);
    MDB_val zero = {8, (uint8_t[8]){0}}, body = {vd_block_encode(&block, bytes, sizeof bytes), bytes},
            name = {3, (void *)(uintptr_t) "tip"}, latest = {w.n_bytes, tip};
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi blocks, meta;
    assert_int_equal(mdb_env_create(&env), 0);
    mdb_env_set_maxdbs(env, 8);
    assert_int_equal(mdb_env_open(env, dir, 0, 0600), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, "block", 0, &blocks), 0);
    assert_int_equal(mdb_dbi_open(txn, "meta", 0, &meta), 0);
    assert_int_equal(mdb_put(txn, blocks, &zero, &body, 0), 0);
    assert_int_equal(mdb_put(txn, meta, &name, &latest, 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
    assert_int_equal(vd_chain_verify(dir, 0, NULL, &err), VD_EFALSE);
    assert_non_null(strstr(err.msg, "block 0"));
}

/* --- what nobody can mend --- */

/* Stands before LMDB's: while it is armed a block's first write finds the file damaged, and meanwhile another
 * transaction comes. */
static struct {
    struct vd_chain *chain;
    struct kit_tx tx;
    struct waiter waiter;
} damage;

int mdb_put(MDB_txn *txn, MDB_dbi dbi, MDB_val *key, MDB_val *data, unsigned flags)
{
    union {
        void *symbol;
        int (*call)(MDB_txn *, MDB_dbi, MDB_val *, MDB_val *, unsigned);
    } real = {dlsym(RTLD_NEXT, "mdb_put")};
    struct vd_chain *c = damage.chain;
    damage.chain = NULL;
    if (!c)
        return real.call(txn, dbi, key, data, flags);
    if (vd_chain_submit(c, kit_tx_bytes(&damage.tx), wake_waiter, &damage.waiter, NULL) != VD_OK)
        abort();
    return MDB_CORRUPTED;
}

static void test_a_chain_that_stops_answers_all(void **state)
{
    static struct kit_tx t;
    struct vd_chain *c;
    struct vd_chain_config config = {.dir = dir, .genesis = &k.genesis, .block_time_ms = 100};
    struct waiter *w = &damage.waiter;
    *w = (struct waiter){PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, {.err = VD_OK}};
    assert_int_equal(vd_chain_open(&c, &config, &err), VD_OK);
    transfer(&t, 0, 0, 1);
    transfer(&damage.tx, 1, 0, 1);
    damage.chain = c;
    assert_int_equal(submit(c, &t).err, VD_EFORMAT);
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    at.tv_sec += 5;
    pthread_mutex_lock(&w->mutex);
    while (!w->done && pthread_cond_timedwait(&w->cond, &w->mutex, &at) == 0)
        ;
    bool answered = w->done;
    pthread_mutex_unlock(&w->mutex);
    assert_true(answered);
    assert_int_equal(w->result.err, VD_EFORMAT);
    assert_int_equal(vd_chain_submit(c, kit_tx_bytes(&t), wake_waiter, w, &err), VD_EFORMAT);
    vd_chain_close(c);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_submit_and_restart),
        T(test_other_rules),
        T(test_open_errors),
        T(test_empty_blocks_come_in_time),
        T(test_many_submitters),
        T(test_closing_cancels_what_is_queued),
        T(test_admission),
        T(test_a_full_block_defers_the_rest_in_order),
        T(test_following),
        T(test_full_disk_and_recovery),
        T(test_the_map_grows_under_load),
        T(test_verify_finds_a_changed_record),
        T(test_verify_finds_transactions_before_the_first_block),
        T(test_a_chain_that_stops_answers_all),
    };
    kit_init(&k);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    kit_free(&k);
    return failed;
}
