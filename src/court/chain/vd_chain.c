/* One thread makes blocks; everybody else only queues transactions and reads.
 *
 * At each tick it takes what is queued, runs it against an overlay, writes the overlay, the state's tree and
 * the block in one LMDB transaction, and only when that is synced tells anybody anything: events, acceptances
 * and refusals alike. A block that could not be written has never been: its transactions end in the error,
 * and the next tick starts from what the store holds, never from memory.
 *
 * Signatures are checked in the submitters' threads, so the sequencer spends its time on state alone. */
#include "vd_chain.h"
#include "vd_clock.h"
#include "vd_pb.h"
#include "vd_txqueue.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { GROW_TRIES = 48 };

struct vd_chain {
    void (*on_block)(void *arg, const struct vd_chain_block_info *block);
    void *on_block_arg;
    uint32_t block_time_ms;
    struct vd_genesis genesis;
    struct vd_genesis_account *accounts;
    struct vd_ledger ledger;
    struct vd_store *store;
    struct vd_arena arena; /* the sequencer's */

    pthread_t thread;
    bool started;
    pthread_mutex_t mutex; /* what follows */
    pthread_cond_t wake;   /* the sequencer: stop */
    struct vd_txqueue queue;
    bool stopping;
    struct vd_chain_status status;
};

/* --- queue --- */

static void take_batch(struct vd_chain *c, struct vd_txq_list *batch)
{
    pthread_mutex_lock(&c->mutex);
    vd_txq_take(&c->queue, batch);
    pthread_mutex_unlock(&c->mutex);
}

/* What a full block left over goes first next time; the others are finished, and count no longer when their
 * senders hear of it. */
static void finish_batch(struct vd_chain *c, struct vd_txq_list *batch)
{
    struct vd_txq_list finished;
    struct vd_txq_entry *e;
    pthread_mutex_lock(&c->mutex);
    vd_txq_return(&c->queue, batch, &finished);
    pthread_mutex_unlock(&c->mutex);
    while ((e = vd_txq_list_pop(&finished))) {
        e->done(e->arg, &e->result);
        free(e);
    }
}

static void fail_batch(struct vd_txq_list *batch, enum vd_err err)
{
    for (struct vd_txq_entry *e = batch->head; e; e = e->next) {
        e->result.err = err;
        e->deferred = false;
    }
}

/* --- events --- */

bool vd_chain_events_next(struct vd_bytes list, size_t *offset, struct vd_bytes *encoded,
                          struct vd_event *out)
{
    struct vd_bytes b;
    if (*offset >= list.n)
        return false;
    struct vd_pb_reader r = vd_pb_reader_init(list.p + *offset, list.n - *offset);
    if (!vd_pb_next_elem(&r, 1, &b, VD_EVENT_MAX_BYTES) || !vd_event_decode(b, out))
        return false;
    *offset = (size_t)(r.p - list.p);
    if (encoded)
        *encoded = b;
    return true;
}

static bool encode_events(const struct vd_ledger_block *b, struct vd_arena *arena, struct vd_bytes *out)
{
    size_t cap = (size_t)b->n_events * (VD_EVENT_MAX_BYTES + 4);
    uint8_t *buf = vd_arena_alloc(arena, cap + 1, 1), one[VD_EVENT_MAX_BYTES];
    if (!buf)
        return false;
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap);
    for (uint32_t i = 0; i < b->n_events; i++)
        vd_pb_put_elem(&w, 1, one, vd_event_encode(&b->event[i], one, sizeof one));
    *out = (struct vd_bytes){buf, w.n_bytes};
    return !w.overflow;
}

/* --- making a block --- */

/* A block on its way: what write_block leaves for publish. */
struct draft {
    struct vd_ledger_block work;
    struct vd_block_header header;
    struct vd_store_tip tip;
    struct vd_bytes events;
    struct vd_bytes *tx; /* VD_BLOCK_MAX_TXS */
};

/* Runs the batch. What the block has no room for waits, and all of the same sender behind it, so that its
 * nonces keep their order; the others go on. */
static void deliver_batch(struct vd_txqueue *q, struct draft *d, struct vd_txq_list *batch)
{
    vd_txq_round(q);
    for (struct vd_txq_entry *e = batch->head; e; e = e->next) {
        struct vd_bytes tx = {e->bytes, e->n_bytes};
        struct vd_tx_place place = {d->work.height, d->work.n_txs};
        enum vd_tx_verdict v =
            vd_txq_skipped(q, e) ? VD_TX_BLOCK_FULL : vd_ledger_deliver(&d->work, tx, true);
        e->deferred = v == VD_TX_BLOCK_FULL;
        if (e->deferred)
            vd_txq_skip(q, e);
        else if (v == VD_TX_OK)
            d->tx[place.index] = tx;
        else if (vd_ledger_get_tx(&d->work.overlay.kv, &e->result.tx_id, &place))
            v = VD_TX_DUPLICATE;
        e->result.err = VD_OK;
        e->result.verdict = v;
        e->result.height = place.height;
        e->result.index = place.index;
    }
}

static enum vd_err encode_block(struct draft *d, struct vd_arena *arena, struct vd_bytes *out,
                                struct vd_error *err)
{
    struct vd_block block = {d->header, d->header.n_txs, d->tx};
    size_t cap = d->work.tx_bytes + (size_t)d->header.n_txs * 8 + VD_BLOCK_HEADER_MAX_BYTES + 16;
    uint8_t *buf = vd_arena_alloc(arena, cap, 1);
    if (!buf || !encode_events(&d->work, arena, &d->events))
        return vd_error_set(err, VD_ENOMEM, "block %" PRIu64 ": the arena is too small", d->header.height);
    *out = (struct vd_bytes){buf, vd_block_encode(&block, buf, cap)};
    assert(out->n > 0);
    return VD_OK;
}

/* Everything of a block but the commit, inside the write transaction. */
static enum vd_err fill_block(struct vd_chain *c, struct vd_store_writer *w, struct vd_txq_list *batch,
                              struct draft *d, struct vd_error *err)
{
    struct vd_store_tip last;
    struct vd_bytes bytes;
    uint64_t now = vd_clock_wall_ms();
    enum vd_err e = vd_store_writer_tip(w, &last, err);
    c->arena.used_bytes = 0;
    d->tx = vd_arena_alloc(&c->arena, VD_BLOCK_MAX_TXS * sizeof *d->tx, _Alignof(struct vd_bytes));
    if (e == VD_OK)
        e = vd_ledger_begin(&d->work, &c->ledger, vd_store_writer_kv(w), &c->arena, last.height + 1,
                            now > last.time_ms ? now : last.time_ms, err);
    if (e != VD_OK)
        return e;
    deliver_batch(&c->queue, d, batch);
    d->header = (struct vd_block_header){.height = d->work.height,
                                         .time_ms = d->work.time_ms,
                                         .prev_hash = last.block_hash,
                                         .tx_root = vd_block_tx_root(d->tx, d->work.n_txs),
                                         .n_txs = d->work.n_txs};
    e = vd_ledger_end(&d->work, err);
    if (e == VD_OK)
        e = vd_store_apply(w, &d->work.overlay, &c->arena, &d->header.state_root, err);
    if (e == VD_OK)
        e = encode_block(d, &c->arena, &bytes, err);
    if (e != VD_OK)
        return e;
    d->tip = (struct vd_store_tip){false, d->header.height, d->header.time_ms, vd_block_hash(&d->header),
                                   d->header.state_root};
    return vd_store_put_block(w, &d->tip, bytes, d->events, err);
}

static enum vd_err write_block_once(struct vd_chain *c, struct vd_txq_list *batch, struct draft *d,
                                    struct vd_error *err)
{
    struct vd_store_writer *w;
    enum vd_err e = vd_store_begin(c->store, &w, err);
    if (e != VD_OK)
        return e;
    e = fill_block(c, w, batch, d, err);
    if (e == VD_OK)
        return vd_store_commit(w, err);
    struct vd_error grown;
    enum vd_err g = vd_store_abort(w, &grown);
    if (g != VD_OK && err)
        *err = grown;
    return g != VD_OK ? g : e;
}

static enum vd_err write_block(struct vd_chain *c, struct vd_txq_list *batch, struct draft *d,
                               struct vd_error *err)
{
    enum vd_err e = VD_EAGAIN;
    for (int i = 0; e == VD_EAGAIN && i < GROW_TRIES; i++)
        e = write_block_once(c, batch, d, err);
    return e;
}

static void set_status(struct vd_chain *c, const struct vd_store_tip *tip, enum vd_err health,
                       const struct vd_error *why)
{
    pthread_mutex_lock(&c->mutex);
    if (tip)
        c->status.tip = *tip;
    c->status.health = health;
    c->status.why = why ? *why : (struct vd_error){0};
    pthread_mutex_unlock(&c->mutex);
}

/* True for what may pass by itself; anything else needs a person, and no block is tried any more. */
static bool may_pass(enum vd_err e)
{
    return e == VD_ENOSPACE || e == VD_EIO || e == VD_ENOMEM || e == VD_EAGAIN;
}

static bool make_block(struct vd_chain *c)
{
    struct vd_txq_list batch;
    struct draft d;
    struct vd_error err = {0};
    take_batch(c, &batch);
    enum vd_err e = write_block(c, &batch, &d, &err);
    if (e != VD_OK) {
        set_status(c, NULL, e, &err);
        fail_batch(&batch, e);
    } else {
        struct vd_chain_block_info info = {d.header, d.tip.block_hash, d.events};
        set_status(c, &d.tip, VD_OK, NULL);
        if (c->on_block)
            c->on_block(c->on_block_arg, &info);
    }
    finish_batch(c, &batch);
    if (c->arena.used_bytes > (32 << 20)) /* a rare large block: give the pages back */
        madvise(c->arena.base, c->arena.size_bytes, MADV_DONTNEED);
    return e == VD_OK || may_pass(e);
}

/* Sleeps until the tick; false if the chain stops. */
static bool wait_tick(struct vd_chain *c, uint64_t tick_ns)
{
    struct timespec at = {(time_t)(tick_ns / 1000000000u), (long)(tick_ns % 1000000000u)};
    pthread_mutex_lock(&c->mutex);
    while (!c->stopping && vd_clock_ns() < tick_ns)
        pthread_cond_timedwait(&c->wake, &c->mutex, &at);
    bool go = !c->stopping;
    pthread_mutex_unlock(&c->mutex);
    return go;
}

/* Nobody can queue any more: the chain is closing, or has stopped. What waits ends in `err`. */
static void end_queue(struct vd_chain *c, enum vd_err err)
{
    struct vd_txq_list rest;
    do {
        take_batch(c, &rest);
        fail_batch(&rest, err);
        finish_batch(c, &rest);
    } while (c->queue.waiting.head);
}

static void *sequencer(void *arg)
{
    struct vd_chain *c = arg;
    uint64_t step = (uint64_t)c->block_time_ms * 1000000u, tick = vd_clock_ns() + step;
    while (wait_tick(c, tick)) {
        if (!make_block(c)) {
            end_queue(c, c->status.health); /* which only this thread sets */
            break;
        }
        uint64_t now = vd_clock_ns();
        tick = tick + step > now ? tick + step : now; /* late blocks are not made up for */
    }
    return NULL;
}

/* --- opening --- */

static enum vd_err put_genesis_block(struct vd_chain *c, struct vd_store_writer *w, struct vd_bytes genesis,
                                     struct vd_error *err)
{
    struct vd_overlay o;
    struct vd_block block = {.header = {.time_ms = c->genesis.time_ms, .prev_hash = c->ledger.genesis_hash}};
    uint8_t buf[VD_BLOCK_HEADER_MAX_BYTES + 16];
    vd_overlay_init(&o, vd_store_writer_kv(w), &c->arena);
    vd_ledger_write_genesis(&c->ledger, &o);
    enum vd_err e = vd_store_apply(w, &o, &c->arena, &block.header.state_root, err);
    if (e != VD_OK)
        return e;
    block.header.tx_root = vd_block_tx_root(NULL, 0);
    c->status.tip = (struct vd_store_tip){false, 0, c->genesis.time_ms, vd_block_hash(&block.header),
                                          block.header.state_root};
    struct vd_bytes bytes = {buf, vd_block_encode(&block, buf, sizeof buf)};
    e = vd_store_put_block(w, &c->status.tip, bytes, (struct vd_bytes){buf, 0}, err);
    return e == VD_OK ? vd_store_put_genesis(w, genesis, err) : e;
}

static enum vd_err make_genesis_block(struct vd_chain *c, struct vd_bytes genesis, struct vd_error *err)
{
    enum vd_err e = VD_EAGAIN;
    for (int i = 0; e == VD_EAGAIN && i < GROW_TRIES; i++) {
        struct vd_store_writer *w;
        e = vd_store_begin(c->store, &w, err);
        if (e != VD_OK)
            return e;
        c->arena.used_bytes = 0;
        e = put_genesis_block(c, w, genesis, err);
        if (e == VD_OK) {
            e = vd_store_commit(w, err);
        } else {
            enum vd_err g = vd_store_abort(w, err);
            e = g == VD_OK ? e : g;
        }
    }
    return e;
}

/* c->genesis from its bytes, which outlive the call. */
static enum vd_err load_genesis(struct vd_chain *c, struct vd_bytes bytes, struct vd_error *err)
{
    c->accounts = calloc(VD_GENESIS_ACCOUNTS_MAX, sizeof *c->accounts);
    if (!c->accounts)
        return vd_error_set(err, VD_ENOMEM, "chain: not enough memory for the genesis");
    enum vd_err e = vd_genesis_decode(bytes, &c->genesis, c->accounts, VD_GENESIS_ACCOUNTS_MAX, err);
    return e == VD_OK ? vd_ledger_init(&c->ledger, &c->genesis, &c->arena, err) : e;
}

static enum vd_err open_old(struct vd_chain *c, struct vd_store_view *v, const char *dir,
                            struct vd_bytes wanted, struct vd_error *err)
{
    struct vd_bytes have;
    enum vd_err e = vd_store_view_genesis(v, &have, err);
    if (e != VD_OK)
        return e;
    struct vd_error why = {.code = VD_OK};
    e = load_genesis(c, have, &why); /* first: of other rules it is another network's in any case */
    if (e != VD_OK)
        return vd_error_set(err, e, "%s: %s", dir, why.msg);
    if (wanted.n && (wanted.n != have.n || memcmp(wanted.p, have.p, have.n) != 0))
        return vd_error_set(err, VD_ECONFLICT,
                            "%s: holds another network's ledger; use its genesis, or another folder", dir);
    return VD_OK;
}

static enum vd_err open_ledger(struct vd_chain *c, const struct vd_chain_config *config,
                               struct vd_bytes wanted, struct vd_error *err)
{
    struct vd_store_view *v;
    enum vd_err e = vd_store_view_open(c->store, &v, err);
    if (e != VD_OK)
        return e;
    e = vd_store_view_tip(v, &c->status.tip, err);
    if (e == VD_OK && !c->status.tip.empty)
        e = open_old(c, v, config->dir, wanted, err);
    vd_store_view_close(v);
    if (e != VD_OK || !c->status.tip.empty)
        return e;
    if (!wanted.n)
        return vd_error_set(err, VD_ENOTFOUND, "%s: there is no ledger here; a genesis makes one",
                            config->dir);
    e = load_genesis(c, wanted, err);
    return e == VD_OK ? make_genesis_block(c, wanted, err) : e;
}

static enum vd_err init_memory(struct vd_chain *c, struct vd_error *err)
{
    void *p = mmap(NULL, VD_LEDGER_ARENA_BYTES, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return vd_error_set(err, VD_ENOMEM, "chain: no address space of %d bytes", VD_LEDGER_ARENA_BYTES);
    c->arena = vd_arena_init(p, VD_LEDGER_ARENA_BYTES);
    return VD_OK;
}

static void init_sync(struct vd_chain *c)
{
    pthread_condattr_t mono;
    pthread_condattr_init(&mono);
    pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
    pthread_mutex_init(&c->mutex, NULL);
    pthread_cond_init(&c->wake, &mono);
    pthread_condattr_destroy(&mono);
}

static enum vd_err open_parts(struct vd_chain *c, const struct vd_chain_config *config, struct vd_error *err)
{
    struct vd_bytes wanted = {NULL, 0};
    uint8_t *buf = NULL;
    enum vd_err e = init_memory(c, err);
    if (e == VD_OK && config->genesis)
        e = vd_genesis_check(config->genesis, err);
    if (e == VD_OK && config->genesis) {
        buf = malloc(VD_GENESIS_MAX_BYTES);
        if (!buf)
            return vd_error_set(err, VD_ENOMEM, "chain: not enough memory for the genesis");
        wanted = (struct vd_bytes){buf, vd_genesis_encode(config->genesis, buf, VD_GENESIS_MAX_BYTES)};
    }
    if (e == VD_OK)
        e = vd_store_open(&c->store, config->dir, &config->store, err);
    if (e == VD_OK)
        e = open_ledger(c, config, wanted, err);
    free(buf);
    return e;
}

enum vd_err vd_chain_open(struct vd_chain **out, const struct vd_chain_config *config, struct vd_error *err)
{
    struct vd_chain *c = calloc(1, sizeof *c);
    if (!c)
        return vd_error_set(err, VD_ENOMEM, "chain: not enough memory");
    c->on_block = config->on_block;
    c->on_block_arg = config->on_block_arg;
    vd_txq_init(&c->queue);
    init_sync(c);
    enum vd_err e = open_parts(c, config, err);
    c->block_time_ms = config->block_time_ms ? config->block_time_ms : c->genesis.block_time_ms;
    if (e == VD_OK && pthread_create(&c->thread, NULL, sequencer, c) != 0)
        e = vd_error_set(err, VD_EAGAIN, "chain: the system refused a thread");
    c->started = e == VD_OK;
    if (e != VD_OK) {
        vd_chain_close(c);
        return e;
    }
    *out = c;
    return VD_OK;
}

void vd_chain_close(struct vd_chain *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->mutex);
    c->stopping = true;
    pthread_cond_broadcast(&c->wake);
    pthread_mutex_unlock(&c->mutex);
    if (c->started)
        pthread_join(c->thread, NULL);
    end_queue(c, VD_ECANCELLED);
    vd_store_close(c->store);
    if (c->arena.base)
        munmap(c->arena.base, c->arena.size_bytes);
    free(c->accounts);
    pthread_cond_destroy(&c->wake);
    pthread_mutex_destroy(&c->mutex);
    free(c);
}

const struct vd_genesis *vd_chain_genesis(const struct vd_chain *c)
{
    return &c->genesis;
}

const struct vd_ledger *vd_chain_ledger(const struct vd_chain *c)
{
    return &c->ledger;
}

/* --- submitting --- */

/* What needs no queue: form, signature, and what the durable state already decides. */
static enum vd_err check_now(struct vd_chain *c, struct vd_bytes tx, struct vd_chain_result *r,
                             struct vd_error *err)
{
    struct vd_store_view *v;
    struct vd_store_tip tip;
    struct vd_tx_place place;
    enum vd_err e = vd_store_view_open(c->store, &v, err);
    if (e != VD_OK)
        return e;
    struct vd_kvs *kv = vd_store_view_kv(v);
    r->verdict = vd_ledger_check(&c->ledger, kv, tx, &r->tx_id);
    e = vd_store_view_tip(v, &tip, err);
    r->height = tip.height;
    if (r->verdict == VD_TX_DUPLICATE && vd_ledger_get_tx(kv, &r->tx_id, &place)) {
        r->height = place.height;
        r->index = place.index;
    }
    if (kv->failed)
        e = vd_error_set(err, VD_EIO, "chain: the state cannot be read");
    vd_store_view_close(v);
    return e;
}

static enum vd_err enqueue(struct vd_chain *c, struct vd_txq_entry *e, const struct vd_tx *tx,
                           struct vd_error *err)
{
    enum vd_err code;
    pthread_mutex_lock(&c->mutex);
    if (c->stopping)
        code = vd_error_set(err, VD_ECANCELLED, "chain: closing");
    else if (c->status.health != VD_OK && !may_pass(c->status.health))
        code = vd_error_set(err, c->status.health, "chain: stopped: %s", c->status.why.msg);
    else
        code = vd_txq_add(&c->queue, e, tx, err);
    pthread_mutex_unlock(&c->mutex);
    return code;
}

enum vd_err vd_chain_submit(struct vd_chain *c, struct vd_bytes tx, vd_chain_done_fn *done, void *arg,
                            struct vd_error *err)
{
    struct vd_chain_result r = {.err = VD_OK};
    struct vd_tx_signed s;
    enum vd_err e = check_now(c, tx, &r, err);
    if (e != VD_OK)
        return e;
    if (r.verdict != VD_TX_OK || !vd_tx_decode(tx, &s)) {
        done(arg, &r);
        return VD_OK;
    }
    struct vd_txq_entry *n = malloc(sizeof *n + tx.n);
    if (!n)
        return vd_error_set(err, VD_ENOMEM, "chain: not enough memory to queue %zu bytes", tx.n);
    *n = (struct vd_txq_entry){.done = done, .arg = arg, .result = r, .n_bytes = tx.n};
    memcpy(n->bytes, tx.p, tx.n);
    e = enqueue(c, n, &s.tx, err);
    if (e != VD_OK)
        free(n);
    return e;
}

/* --- reading --- */

void vd_chain_status(struct vd_chain *c, struct vd_chain_status *out)
{
    pthread_mutex_lock(&c->mutex);
    *out = c->status;
    out->queued_txs = c->queue.waiting.n_txs;
    pthread_mutex_unlock(&c->mutex);
}

enum vd_err vd_chain_view_open(struct vd_chain *c, struct vd_store_view **out, struct vd_error *err)
{
    return vd_store_view_open(c->store, out, err);
}

enum vd_err vd_chain_read_block(struct vd_store_view *v, uint64_t height, struct vd_chain_block_info *out,
                                struct vd_error *err)
{
    struct vd_bytes block;
    enum vd_err e = vd_store_view_block(v, height, &block, &out->events, err);
    if (e != VD_OK)
        return e;
    struct vd_pb_reader r = vd_pb_reader_init(block.p, block.n);
    struct vd_bytes header = vd_pb_get_bytes(&r, 1, VD_BLOCK_HEADER_MAX_BYTES);
    if (!vd_block_header_decode(header, &out->header) || out->header.height != height)
        return vd_error_set(err, VD_EFORMAT, "chain: block %" PRIu64 " is damaged", height);
    out->hash = vd_block_hash(&out->header);
    return VD_OK;
}
