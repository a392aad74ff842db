/* Three kinds of threads meet here. A link's thread takes questions and answers them from a view. The chain's
 * thread calls back with results and tells of blocks; it must not wait, so it only queues frames and rings a
 * bell. The publisher thread hears the bell and copies blocks from views to those who subscribed, each at its
 * own pace: a subscriber whose queue is full is tried again later, and is cut off by its link when it does
 * not read at all. */
#include "vd_ledgerd.h"
#include "vd_clock.h"
#include "vd_hello.h"
#include "vd_link.h"
#include "vd_onion.h"
#include "vd_status_http.h"
#include "vd_wire.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    RESULT_UNDECIDED = 1000,       /* docs/spec/wire.md */
    VALUE_MAX_BYTES = 900 << 10,   /* items of one VALUE together */
    BLOCK_CHUNK_BYTES = 512 << 10, /* of a stored block in one VALUE */
    BLOCKS_PER_TURN = 64,          /* to one subscriber, then it is the next one's turn */
    RETRY_MS = 20,                 /* after a full queue */
    LIST_MAX = VD_WIRE_ITEMS_MAX / 2,
};

struct session {
    struct vd_link *link; /* borrowed: a session ends in its link's on_close */
    bool greeted;
    uint64_t next_block; /* 0: not subscribed */
    struct session *next;
};

struct vd_ledgerd {
    struct vd_ledgerd_config cfg;
    struct vd_chain *chain;
    struct vd_link_listener *listener;
    struct vd_status_http *http;
    atomic_uint_fast64_t n_submits, n_applied, n_refused, n_undecided, n_queries;
    atomic_uint n_links;
    atomic_bool disk_full; /* said in the log */

    pthread_mutex_t mu; /* the sessions */
    struct session *sessions;

    pthread_mutex_t bell_mu; /* taken alone, or after mu */
    pthread_cond_t bell;
    bool rung, stop;
    pthread_t publisher;
    bool publishing;
    struct vd_onion_keeper onion; /* the publisher's */
};

/* ---- results ---- */

/* A submission on its way through the chain. */
struct pending {
    struct vd_ledgerd *d;
    struct vd_link *link; /* a reference */
    uint64_t tag;
};

static struct vd_bytes text_of(const char *s)
{
    size_t n = strlen(s);
    return (struct vd_bytes){(const uint8_t *)s, n < VD_WIRE_TEXT_MAX ? n : VD_WIRE_TEXT_MAX};
}

static void send_result(struct vd_link *l, const struct vd_wire_result *m)
{
    uint8_t buf[VD_WIRE_TEXT_MAX + 128];
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    bool ok = vd_wire_put_result(&w, m);
    assert(ok);
    vd_link_send(l, VD_WIRE_RESULT, buf, w.n_bytes, NULL); /* a closed or stuck asker submits again */
}

static void count_result(struct vd_ledgerd *d, const struct vd_chain_result *r)
{
    if (r->err != VD_OK)
        atomic_fetch_add(&d->n_undecided, 1);
    else if (r->verdict == VD_TX_OK || r->verdict == VD_TX_DUPLICATE)
        atomic_fetch_add(&d->n_applied, 1);
    else
        atomic_fetch_add(&d->n_refused, 1);
}

/* A full disk is said when it begins, and its end with the next block. */
static void note_disk(struct vd_ledgerd *d, enum vd_err e)
{
    if (e == VD_ENOSPACE && !atomic_exchange(&d->disk_full, true))
        vd_log_event(d->cfg.log, VD_LOG_ERROR, "the disk is full",
                     "dir=%s mend=free some space; nothing is lost, and blocks go on by themselves",
                     d->cfg.dir);
}

static void on_decided(void *arg, const struct vd_chain_result *r)
{
    struct pending *p = arg;
    struct vd_wire_result m = {.tag = p->tag, .tx_id = r->tx_id, .height = r->height};
    m.code = r->err != VD_OK ? RESULT_UNDECIDED + (uint32_t)r->err : (uint32_t)r->verdict;
    m.text = text_of(r->err != VD_OK ? vd_err_text(r->err) : vd_tx_verdict_text(r->verdict));
    count_result(p->d, r);
    note_disk(p->d, r->err);
    send_result(p->link, &m);
    vd_link_unref(p->link);
    free(p);
}

static void on_submit(struct vd_ledgerd *d, struct vd_link *l, struct vd_bytes body)
{
    struct vd_wire_submit m;
    struct vd_error why;
    if (!vd_wire_get_submit(&m, body)) {
        vd_link_close(l, VD_EFORMAT, "malformed SUBMIT");
        return;
    }
    atomic_fetch_add(&d->n_submits, 1);
    struct pending *p = malloc(sizeof *p);
    enum vd_err e = VD_ENOMEM;
    if (p) {
        *p = (struct pending){d, vd_link_ref(l), m.tag};
        e = vd_chain_submit(d->chain, m.tx, on_decided, p, &why);
    }
    if (e == VD_OK)
        return;
    note_disk(d, e);
    struct vd_wire_result r = {
        .tag = m.tag, .code = RESULT_UNDECIDED + (uint32_t)e, .text = text_of(vd_err_text(e))};
    atomic_fetch_add(&d->n_undecided, 1);
    send_result(l, &r);
    if (p)
        vd_link_unref(l);
    free(p);
}

/* ---- queries ---- */

/* An answer being put together; its items point into views and into `scratch`. */
struct reply {
    struct vd_wire_value m;
    uint8_t scratch[VD_ERROR_MSG_MAX + 128];
    size_t n_scratch;
    size_t n_bytes; /* of all items */
};

static bool add_item(struct reply *r, struct vd_bytes b)
{
    if (r->m.n_items == VD_WIRE_ITEMS_MAX || b.n > VALUE_MAX_BYTES - r->n_bytes)
        return false;
    r->m.item[r->m.n_items++] = b;
    r->n_bytes += b.n;
    return true;
}

static void add_copy(struct reply *r, const void *p, size_t n)
{
    assert(n <= sizeof r->scratch - r->n_scratch);
    memcpy(r->scratch + r->n_scratch, p, n);
    add_item(r, (struct vd_bytes){r->scratch + r->n_scratch, n});
    r->n_scratch += n;
}

static void add_u32(struct reply *r, uint32_t v)
{
    uint8_t b[4];
    vd_le32_store(b, v);
    add_copy(r, b, sizeof b);
}

static void answer_get(struct reply *r, const struct vd_wire_query *q, struct vd_kvs *kv)
{
    struct vd_bytes value;
    if (kv->get(kv, q->key, &value) && !add_item(r, value))
        r->m.status = VD_ELIMIT;
}

static void answer_list(struct reply *r, const struct vd_wire_query *q, struct vd_kvs *kv)
{
    struct vd_bytes from = q->after.n ? q->after : q->key, key, value;
    bool after = q->after.n > 0;
    size_t limit = q->limit && q->limit < LIST_MAX ? q->limit : LIST_MAX;
    for (size_t i = 0; i < limit && kv->next(kv, q->key, from, after, &key, &value); i++) {
        if (key.n + value.n > VALUE_MAX_BYTES - r->n_bytes)
            return; /* the asker goes on after the last key */
        add_item(r, key);
        add_item(r, value);
        from = key;
        after = true;
    }
}

static void answer_status(struct reply *r, struct vd_ledgerd *d)
{
    struct vd_chain_status s;
    uint8_t time_ms[8];
    vd_chain_status(d->chain, &s);
    vd_le64_store(time_ms, s.tip.time_ms);
    add_copy(r, time_ms, sizeof time_ms);
    add_copy(r, s.tip.block_hash.b, VD_HASH_BYTES);
    add_copy(r, s.tip.state_root.b, VD_HASH_BYTES);
    add_u32(r, s.health);
    add_copy(r, s.why.msg, s.health == VD_OK ? 0 : strlen(s.why.msg));
    r->m.height = s.tip.height;
}

static void answer_block(struct reply *r, const struct vd_wire_query *q, struct vd_store_view *v)
{
    struct vd_bytes block, events;
    if (q->key.n != 12) {
        r->m.status = VD_EFORMAT;
        return;
    }
    enum vd_err e = vd_store_view_block(v, vd_le64_load(q->key.p), &block, &events, NULL);
    uint32_t offset = vd_le32_load(q->key.p + 8);
    if (e != VD_OK || offset > block.n) {
        r->m.status = e == VD_OK ? VD_EFORMAT : e == VD_ENOTFOUND ? VD_OK : (uint32_t)e;
        return;
    }
    size_t n = block.n - offset < BLOCK_CHUNK_BYTES ? block.n - offset : BLOCK_CHUNK_BYTES;
    add_u32(r, (uint32_t)block.n);
    add_item(r, (struct vd_bytes){block.p + offset, n});
}

static void answer_query(struct vd_ledgerd *d, struct reply *r, const struct vd_wire_query *q,
                         struct vd_store_view *v)
{
    struct vd_kvs *kv = vd_store_view_kv(v);
    struct vd_bytes genesis;
    switch ((enum vd_query_kind)q->kind) {
    case VD_QUERY_GET:
        answer_get(r, q, kv);
        break;
    case VD_QUERY_LIST_PREFIX:
        answer_list(r, q, kv);
        break;
    case VD_QUERY_STATUS:
        answer_status(r, d);
        break;
    case VD_QUERY_GENESIS:
        r->m.status = vd_store_view_genesis(v, &genesis, NULL);
        if (r->m.status == VD_OK)
            add_item(r, genesis);
        break;
    case VD_QUERY_BLOCK:
        answer_block(r, q, v);
        break;
    }
    if (q->kind < VD_QUERY_GET || q->kind > VD_QUERY_BLOCK)
        r->m.status = VD_EUNSUPPORTED;
    if (kv->failed)
        r->m.status = VD_EIO;
    if (r->m.status != VD_OK)
        r->m.n_items = 0;
}

static void send_reply(struct vd_link *l, const struct reply *r)
{
    size_t cap = r->n_bytes + 8 * r->m.n_items + 64;
    uint8_t *buf = malloc(cap);
    struct vd_pb_writer w = vd_pb_writer_init(buf, buf ? cap : 0);
    if (!buf || !vd_wire_put_value(&w, &r->m))
        vd_link_close(l, VD_ENOMEM, "no memory for an answer");
    else if (vd_link_send(l, VD_WIRE_VALUE, buf, w.n_bytes, NULL) == VD_EAGAIN)
        vd_link_close(l, VD_EAGAIN, "answers are not read");
    free(buf);
}

static void on_query(struct vd_ledgerd *d, struct vd_link *l, struct vd_bytes body)
{
    struct vd_wire_query q;
    struct vd_store_view *v = NULL;
    struct vd_store_tip tip;
    if (!vd_wire_get_query(&q, body)) {
        vd_link_close(l, VD_EFORMAT, "malformed QUERY");
        return;
    }
    atomic_fetch_add(&d->n_queries, 1);
    struct reply *r = calloc(1, sizeof *r);
    if (!r) {
        vd_link_close(l, VD_ENOMEM, "no memory for an answer");
        return;
    }
    r->m.tag = q.tag;
    enum vd_err e = vd_chain_view_open(d->chain, &v, NULL);
    if (e == VD_OK)
        e = vd_store_view_tip(v, &tip, NULL);
    if (e == VD_OK) {
        r->m.height = tip.height;
        answer_query(d, r, &q, v);
    } else {
        r->m.status = e;
    }
    send_reply(l, r); /* items may point into the view */
    vd_store_view_close(v);
    free(r);
}

/* ---- subscriptions ---- */

static void ring(struct vd_ledgerd *d)
{
    pthread_mutex_lock(&d->bell_mu);
    d->rung = true;
    pthread_cond_signal(&d->bell);
    pthread_mutex_unlock(&d->bell_mu);
}

static void on_block(void *arg, const struct vd_chain_block_info *block)
{
    struct vd_ledgerd *d = arg;
    (void)block;
    if (atomic_exchange(&d->disk_full, false))
        vd_log_event(d->cfg.log, VD_LOG_INFO, "the disk has room again", "dir=%s", d->cfg.dir);
    ring(d);
}

/* One BLOCK frame: as many events as fit, from *offset on. */
static enum vd_err send_block_part(struct vd_link *l, struct vd_wire_block *m, struct vd_bytes events,
                                   size_t *offset)
{
    struct vd_event event;
    struct vd_bytes encoded;
    size_t at = *offset, next = at, n_bytes = 0;
    m->n_events = 0;
    m->more = 0;
    while (vd_chain_events_next(events, &next, &encoded, &event)) {
        if (m->n_events == VD_WIRE_ITEMS_MAX) {
            m->more = 1;
            break;
        }
        m->event[m->n_events++] = encoded;
        n_bytes += encoded.n;
        at = next;
    }
    size_t cap = n_bytes + 8 * m->n_events + 128;
    uint8_t *buf = malloc(cap);
    struct vd_pb_writer w = vd_pb_writer_init(buf, buf ? cap : 0);
    enum vd_err e = VD_ENOMEM;
    if (buf && vd_wire_put_block(&w, m))
        e = vd_link_send(l, VD_WIRE_BLOCK, buf, w.n_bytes, NULL);
    free(buf);
    if (e == VD_OK)
        *offset = at;
    return e;
}

/* A whole block. VD_EAGAIN only before its first frame; a queue that fills up in between ends the link. */
static enum vd_err send_block(struct vd_link *l, struct vd_store_view *v, uint64_t height)
{
    struct vd_bytes block, events;
    struct vd_block b;
    struct vd_error why;
    size_t offset = 0;
    enum vd_err e = vd_store_view_block(v, height, &block, &events, &why);
    if (e != VD_OK)
        return e;
    struct vd_bytes *tx = malloc(VD_BLOCK_MAX_TXS * sizeof *tx);
    struct vd_wire_block *m = malloc(sizeof *m);
    e = VD_ENOMEM;
    if (tx && m && vd_block_decode(block, &b, tx, VD_BLOCK_MAX_TXS)) {
        m->height = height;
        m->time_ms = b.header.time_ms;
        m->hash = vd_block_hash(&b.header);
        do {
            e = send_block_part(l, m, events, &offset);
            if (e == VD_EAGAIN && offset > 0) {
                vd_link_close(l, VD_EAGAIN, "blocks are not read");
                e = VD_ENET;
            }
        } while (e == VD_OK && m->more);
    }
    free(tx);
    free(m);
    return e;
}

/* Sends a subscriber what it lacks. True if there is more to send. Under mu. */
static bool publish_to(struct session *s, struct vd_store_view *v, uint64_t tip)
{
    for (int i = 0; i < BLOCKS_PER_TURN && s->next_block <= tip; i++) {
        if (send_block(s->link, v, s->next_block) != VD_OK)
            return true;
        s->next_block++;
    }
    return s->next_block <= tip;
}

/* True if somebody lacks something still. */
static bool publish(struct vd_ledgerd *d)
{
    struct vd_store_view *v = NULL;
    struct vd_store_tip tip;
    bool more = false;
    if (vd_chain_view_open(d->chain, &v, NULL) != VD_OK)
        return true;
    if (vd_store_view_tip(v, &tip, NULL) == VD_OK && !tip.empty) {
        pthread_mutex_lock(&d->mu);
        for (struct session *s = d->sessions; s; s = s->next)
            more |= s->next_block && publish_to(s, v, tip.height);
        pthread_mutex_unlock(&d->mu);
    }
    vd_store_view_close(v);
    return more;
}

static void *publisher_main(void *arg)
{
    struct vd_ledgerd *d = arg;
    bool more = false;
    for (;;) {
        struct timespec soon = vd_clock_after_ms(RETRY_MS);
        pthread_mutex_lock(&d->bell_mu);
        int rc = 0;
        while (!d->rung && !d->stop && rc != ETIMEDOUT)
            rc = more ? pthread_cond_timedwait(&d->bell, &d->bell_mu, &soon)
                      : pthread_cond_wait(&d->bell, &d->bell_mu);
        d->rung = false;
        bool stop = d->stop;
        pthread_mutex_unlock(&d->bell_mu);
        if (stop)
            return NULL;
        more = publish(d);
        vd_onion_tick(&d->onion);
    }
}

static void on_subscribe(struct vd_ledgerd *d, struct vd_link *l, struct vd_bytes body)
{
    struct vd_wire_subscribe m;
    struct vd_chain_status s;
    struct session *me = vd_link_user(l);
    if (!vd_wire_get_subscribe(&m, body)) {
        vd_link_close(l, VD_EFORMAT, "malformed SUBSCRIBE");
        return;
    }
    vd_chain_status(d->chain, &s);
    pthread_mutex_lock(&d->mu);
    me->next_block = m.from_height ? m.from_height : s.tip.height + 1;
    pthread_mutex_unlock(&d->mu);
    ring(d);
}

/* ---- links ---- */

static void on_open(void *arg, struct vd_link *l)
{
    struct vd_ledgerd *d = arg;
    struct session *s = calloc(1, sizeof *s);
    if (!s) {
        vd_link_close(l, VD_ENOMEM, "no memory for a session");
        return;
    }
    s->link = l;
    vd_link_set_user(l, s);
    pthread_mutex_lock(&d->mu);
    s->next = d->sessions;
    d->sessions = s;
    pthread_mutex_unlock(&d->mu);
    atomic_fetch_add(&d->n_links, 1);
}

static void on_close(void *arg, struct vd_link *l, const struct vd_error *why)
{
    struct vd_ledgerd *d = arg;
    struct session *s = vd_link_user(l);
    if (!s)
        return;
    pthread_mutex_lock(&d->mu);
    struct session **at = &d->sessions;
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    pthread_mutex_unlock(&d->mu);
    free(s);
    atomic_fetch_sub(&d->n_links, 1);
    vd_log_event(d->cfg.log, VD_LOG_DEBUG, "a link ended", "peer=%s why=%s", vd_link_peer_addr(l),
                 why->code == VD_OK ? "closed" : why->msg);
}

static void on_fail(void *arg, const struct vd_error *why)
{
    struct vd_ledgerd *d = arg;
    vd_log_event(d->cfg.log, VD_LOG_WARN, "no link", "why=%s", why->msg);
}

static void send_hello(struct vd_ledgerd *d, struct vd_link *l)
{
    struct vd_chain_status s;
    vd_chain_status(d->chain, &s);
    vd_hello_send(l, VD_ROLE_LEDGER, &vd_chain_ledger(d->chain)->genesis_hash, s.tip.height, NULL, 0);
}

/* A peer that does not know its network yet sends zeros and learns the name from ours. */
static void on_hello(struct vd_ledgerd *d, struct vd_link *l, struct session *s, struct vd_bytes body)
{
    struct vd_wire_hello *m = malloc(sizeof *m);
    if (!m || !vd_wire_get_hello(m, body)) {
        vd_link_close(l, VD_EFORMAT, "malformed HELLO");
    } else if (!vd_hash_is_zero(&m->genesis) &&
               !vd_hash_eq(&m->genesis, &vd_chain_ledger(d->chain)->genesis_hash)) {
        char text[128], theirs[17], mine[17];
        vd_hex_encode(theirs, m->genesis.b, 8);
        vd_hex_encode(mine, vd_chain_ledger(d->chain)->genesis_hash.b, 8);
        snprintf(text, sizeof text, "another network: your genesis is %s..., this ledger's %s...", theirs,
                 mine);
        vd_link_close(l, VD_ECONFLICT, text);
    } else {
        s->greeted = true;
        vd_log_event(d->cfg.log, VD_LOG_DEBUG, "a link opened", "peer=%s role=%s", vd_link_peer_addr(l),
                     vd_wire_role_name(m->role));
        send_hello(d, l);
    }
    free(m);
}

static void on_frame(void *arg, struct vd_link *l, unsigned type, struct vd_bytes body)
{
    struct vd_ledgerd *d = arg;
    struct session *s = vd_link_user(l);
    if (!s)
        return;
    if (type == VD_WIRE_HELLO && !s->greeted)
        on_hello(d, l, s, body);
    else if (!s->greeted)
        vd_link_close(l, VD_EFORMAT, "HELLO comes first");
    else if (type == VD_WIRE_SUBMIT)
        on_submit(d, l, body);
    else if (type == VD_WIRE_QUERY)
        on_query(d, l, body);
    else if (type == VD_WIRE_SUBSCRIBE)
        on_subscribe(d, l, body);
    else
        vd_link_close(l, VD_EFORMAT, "not a message to a ledger");
}

/* ---- operators' view ---- */

static bool health(void *arg, char text[256])
{
    struct vd_ledgerd *d = arg;
    struct vd_chain_status s;
    vd_chain_status(d->chain, &s);
    if (s.health == VD_OK)
        snprintf(text, 256, "height %llu", (unsigned long long)s.tip.height);
    else
        snprintf(text, 256, "%.250s", s.why.msg);
    return s.health == VD_OK;
}

static void metrics(void *arg, struct vd_metrics *m)
{
    struct vd_ledgerd *d = arg;
    struct vd_chain_status s;
    vd_chain_status(d->chain, &s);
    vd_metrics_put(m, "ledger_height", "gauge", "Latest durable block.", s.tip.height);
    vd_metrics_put(m, "ledger_healthy", "gauge", "1 while blocks go on.", s.health == VD_OK);
    vd_metrics_put(m, "ledger_queued_transactions", "gauge", "Waiting for a block.", s.queued_txs);
    vd_metrics_put(m, "ledger_links", "gauge", "Open links.", atomic_load(&d->n_links));
    vd_metrics_put(m, "ledger_submits_total", "counter", "Transactions that came.",
                   atomic_load(&d->n_submits));
    vd_metrics_put(m, "ledger_applied_total", "counter", "Answered as applied.", atomic_load(&d->n_applied));
    vd_metrics_put(m, "ledger_refused_total", "counter", "Answered with a verdict.",
                   atomic_load(&d->n_refused));
    vd_metrics_put(m, "ledger_undecided_total", "counter", "Answered: try again.",
                   atomic_load(&d->n_undecided));
    vd_metrics_put(m, "ledger_queries_total", "counter", "Questions answered.", atomic_load(&d->n_queries));
    vd_metrics_put(m, "ledger_beacon_layers_total", "counter", "The beacon's transactions applied.",
                   atomic_load(&d->onion.n_layers));
    vd_metrics_put(m, "ledger_beacon_refused_total", "counter", "The beacon's transactions not taken.",
                   atomic_load(&d->onion.n_refused));
}

/* ---- life ---- */

static enum vd_err start_parts(struct vd_ledgerd *d, struct vd_error *err)
{
    const struct vd_ledgerd_config *c = &d->cfg;
    struct vd_chain_config chain = {
        .dir = c->dir, .genesis = c->genesis, .on_block = on_block, .on_block_arg = d, .store = c->store};
    struct vd_link_config link = {
        .key = c->key, .cb = {d, on_open, on_frame, on_close, on_fail}, .links_max = c->links_max};
    struct vd_status_http_config http = {c->http_host, c->http_port, d, health, metrics};
    enum vd_err e = vd_chain_open(&d->chain, &chain, err);
    d->onion = (struct vd_onion_keeper){.chain = d->chain, .key = c->key, .log = c->log};
    if (e == VD_OK && pthread_create(&d->publisher, NULL, publisher_main, d) != 0)
        e = vd_error_set(err, VD_EAGAIN, "the system refused a thread");
    else if (e == VD_OK)
        d->publishing = true;
    if (e == VD_OK && c->http_host)
        e = vd_status_http_start(&d->http, &http, err);
    if (e == VD_OK)
        e = vd_link_listen(&d->listener, &link, c->host, c->port, err);
    return e;
}

enum vd_err vd_ledgerd_start(struct vd_ledgerd **out, const struct vd_ledgerd_config *config,
                             struct vd_error *err)
{
    struct vd_ledgerd *d = calloc(1, sizeof *d);
    pthread_condattr_t a;
    if (!d)
        return vd_error_set(err, VD_ENOMEM, "no memory for a ledger");
    d->cfg = *config;
    pthread_mutex_init(&d->mu, NULL);
    pthread_mutex_init(&d->bell_mu, NULL);
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&d->bell, &a);
    pthread_condattr_destroy(&a);
    enum vd_err e = start_parts(d, err);
    if (e != VD_OK) {
        vd_ledgerd_stop(d);
        return e;
    }
    vd_log_event(config->log, VD_LOG_INFO, "ledger started", "network=%s host=%s port=%u",
                 vd_chain_genesis(d->chain)->network, config->host, vd_ledgerd_port(d));
    *out = d;
    return VD_OK;
}

uint16_t vd_ledgerd_port(const struct vd_ledgerd *d)
{
    return vd_link_listener_port(d->listener);
}

uint16_t vd_ledgerd_http_port(const struct vd_ledgerd *d)
{
    return d->http ? vd_status_http_port(d->http) : 0;
}

void vd_ledgerd_stop(struct vd_ledgerd *d)
{
    if (!d)
        return;
    vd_link_listener_stop(d->listener);
    vd_status_http_stop(d->http);
    if (d->publishing) {
        pthread_mutex_lock(&d->bell_mu);
        d->stop = true;
        pthread_cond_signal(&d->bell);
        pthread_mutex_unlock(&d->bell_mu);
        pthread_join(d->publisher, NULL);
    }
    vd_chain_close(d->chain);
    pthread_mutex_destroy(&d->mu);
    pthread_mutex_destroy(&d->bell_mu);
    pthread_cond_destroy(&d->bell);
    free(d);
}
