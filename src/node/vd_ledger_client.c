/* A question is a `wait` on the asking thread's stack, found by its tag when the answer comes. When the link
 * ends, every open wait is marked lost, and its owner asks again over the next link; nothing else needs to
 * know about lost links. */
#include "vd_ledger_client.h"
#include "vd_clock.h"
#include "vd_hello.h"
#include "vd_seldom.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

enum {
    RETRY_MS = 100,  /* before the same bytes are submitted again */
    GENESIS_TAG = 0, /* the question that this file asks by itself */
    NONCE_TRIES = 3,
    AWAIT_POLL_MS = 100,
    AWAIT_QUIET_MS = 1000,
    LIST_PAGE = 256,
    RESULT_UNDECIDED = 1000, /* docs/spec/wire.md */
};

struct wait {
    uint64_t tag;
    unsigned type; /* of the answer */
    bool sent, done;
    uint8_t *body; /* the answer's, a copy */
    size_t n_bytes;
    struct wait *next;
};

struct vd_ledger_client {
    struct vd_ledger_client_config cfg;
    struct vd_keypair key;
    char host[256];
    struct vd_link_dialer *dialer;

    pthread_mutex_t mu;
    pthread_cond_t changed;
    struct vd_link *link; /* a reference, while the handshake is done; under mu, as all below */
    bool up;              /* the ledger's HELLO was right and the genesis is known */
    bool cancelled;
    uint64_t height, next_tag;
    struct wait *waits;
    struct vd_error last; /* why there is no link */
    bool genesis_known, genesis_read;
    struct vd_hash genesis_hash;
    struct vd_genesis_file genesis;

    uint64_t next_block; /* the link's thread only: first height not yet seen; 0: not known */
    struct vd_event *event;
    size_t n_events, cap_events;

    pthread_mutex_t send_mu; /* one send at a time; taken before mu */
    bool nonce_known;        /* under send_mu */
    uint64_t nonce;
};

/* ---- the link's thread ---- */

static void send_message(struct vd_link *l, unsigned type, const struct vd_pb_writer *w)
{
    assert(!w->overflow);
    vd_link_send(l, type, w->p, w->n_bytes, NULL); /* a full queue shows as a time-out */
}

static void on_open(void *arg, struct vd_link *l)
{
    struct vd_ledger_client *c = arg;
    struct vd_hash genesis = {{0}};
    pthread_mutex_lock(&c->mu);
    c->link = vd_link_ref(l);
    if (c->genesis_known)
        genesis = c->genesis_hash;
    pthread_mutex_unlock(&c->mu);
    vd_hello_send(l, c->cfg.role, &genesis, 0, NULL, 0);
}

static void wake_all(struct vd_ledger_client *c)
{
    pthread_cond_broadcast(&c->changed);
}

/* Under mu: the link is usable from now on. */
static void now_up(struct vd_ledger_client *c)
{
    uint8_t buf[32];
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    if (c->next_block == 0)
        c->next_block = c->cfg.from_height ? c->cfg.from_height : c->height + 1;
    struct vd_wire_subscribe m = {c->next_block};
    vd_wire_put_subscribe(&w, &m);
    send_message(c->link, VD_WIRE_SUBSCRIBE, &w);
    c->up = true;
    wake_all(c);
}

static void ask_genesis(struct vd_link *l)
{
    uint8_t buf[32];
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    struct vd_wire_query q = {.tag = GENESIS_TAG, .kind = VD_QUERY_GENESIS};
    vd_wire_put_query(&w, &q);
    send_message(l, VD_WIRE_QUERY, &w);
}

static void on_hello(struct vd_ledger_client *c, struct vd_link *l, struct vd_bytes body)
{
    struct vd_wire_hello *m = calloc(1, sizeof *m);
    if (!m || !vd_wire_get_hello(m, body) || m->role != VD_ROLE_LEDGER) {
        vd_link_close(l, VD_EFORMAT, "expected a ledger's HELLO");
        free(m);
        return;
    }
    pthread_mutex_lock(&c->mu);
    if (c->genesis_known && !vd_hash_eq(&m->genesis, &c->genesis_hash)) {
        vd_error_set(&c->last, VD_ECONFLICT, "the ledger at %s is of another network", vd_link_peer_addr(l));
        vd_link_close(l, VD_ECONFLICT, "another network: the genesis hashes differ");
    } else {
        c->genesis_known = true;
        c->genesis_hash = m->genesis;
        if (m->height > c->height)
            c->height = m->height;
        if (c->genesis_read)
            now_up(c);
        else
            ask_genesis(l);
    }
    pthread_mutex_unlock(&c->mu);
    free(m);
}

static void on_genesis(struct vd_ledger_client *c, struct vd_link *l, const struct vd_wire_value *v)
{
    struct vd_hash hash = v->n_items == 1 ? vd_genesis_hash(v->item[0]) : (struct vd_hash){{0}};
    pthread_mutex_lock(&c->mu);
    bool ok = c->genesis_known && vd_hash_eq(&hash, &c->genesis_hash) &&
              (c->genesis_read || vd_genesis_file_decode(&c->genesis, v->item[0], NULL) == VD_OK);
    c->genesis_read = ok;
    if (ok && !c->up)
        now_up(c);
    pthread_mutex_unlock(&c->mu);
    if (!ok)
        vd_link_close(l, VD_EFORMAT, "the genesis does not have its hash");
}

/* Gives an answer to who waits for it. An answer that nobody awaits any more is dropped. */
static void answer(struct vd_ledger_client *c, unsigned type, uint64_t tag, uint64_t height,
                   struct vd_bytes body)
{
    uint8_t *copy = malloc(body.n ? body.n : 1);
    if (!copy)
        return; /* the asker times out */
    memcpy(copy, body.p, body.n);
    pthread_mutex_lock(&c->mu);
    if (height > c->height)
        c->height = height;
    for (struct wait *w = c->waits; w; w = w->next) {
        if (w->tag == tag && w->type == type && !w->done) {
            w->done = true;
            w->body = copy;
            w->n_bytes = body.n;
            copy = NULL;
            wake_all(c);
            break;
        }
    }
    pthread_mutex_unlock(&c->mu);
    free(copy);
}

static bool keep_events(struct vd_ledger_client *c, const struct vd_wire_block *m)
{
    size_t need = c->n_events + m->n_events;
    if (need > VD_BLOCK_MAX_EVENTS)
        return false;
    if (need > c->cap_events) {
        struct vd_event *e = realloc(c->event, need * sizeof *e);
        if (!e)
            return false;
        c->event = e;
        c->cap_events = need;
    }
    for (size_t i = 0; i < m->n_events; i++) {
        if (!vd_event_decode(m->event[i], &c->event[c->n_events++]))
            return false;
    }
    return true;
}

static void on_block(struct vd_ledger_client *c, struct vd_link *l, struct vd_bytes body)
{
    struct vd_wire_block *m = malloc(sizeof *m);
    if (!m || !vd_wire_get_block(m, body) || (c->next_block && m->height > c->next_block) ||
        !keep_events(c, m)) {
        vd_link_close(l, VD_EFORMAT, "a malformed BLOCK, or a gap");
        c->n_events = 0;
    } else if (!m->more) {
        size_t n = c->n_events;
        c->n_events = 0;
        pthread_mutex_lock(&c->mu);
        if (m->height > c->height)
            c->height = m->height;
        wake_all(c);
        pthread_mutex_unlock(&c->mu);
        if (m->height == c->next_block) {
            c->next_block++;
            if (c->cfg.on_block)
                c->cfg.on_block(c->cfg.arg, m->height, m->time_ms, c->event, n);
        }
    }
    free(m);
}

static void on_frame(void *arg, struct vd_link *l, unsigned type, struct vd_bytes body)
{
    struct vd_ledger_client *c = arg;
    struct vd_wire_result r;
    if (type == VD_WIRE_HELLO) {
        on_hello(c, l, body);
    } else if (type == VD_WIRE_BLOCK) {
        on_block(c, l, body);
    } else if (type == VD_WIRE_RESULT && vd_wire_get_result(&r, body)) {
        answer(c, type, r.tag, r.height, body);
    } else if (type == VD_WIRE_VALUE) {
        struct vd_wire_value *v = malloc(sizeof *v);
        if (!v || !vd_wire_get_value(v, body))
            vd_link_close(l, VD_EFORMAT, "malformed VALUE");
        else if (v->tag == GENESIS_TAG)
            on_genesis(c, l, v);
        else
            answer(c, type, v->tag, v->height, body);
        free(v);
    } else {
        vd_link_close(l, VD_EFORMAT, "not a message that a ledger sends");
    }
}

static void on_close(void *arg, struct vd_link *l, const struct vd_error *why)
{
    struct vd_ledger_client *c = arg;
    pthread_mutex_lock(&c->mu);
    if (c->up)
        vd_log_event(c->cfg.log, VD_LOG_WARN, "the link to the ledger ended", "why=%s",
                     why->code != VD_OK ? why->msg : "closed");
    c->up = false;
    c->n_events = 0;
    if (why->code != VD_OK)
        c->last = *why;
    for (struct wait *w = c->waits; w; w = w->next)
        w->sent = false; /* lost: ask again */
    wake_all(c);
    struct vd_link *mine = c->link;
    c->link = NULL;
    pthread_mutex_unlock(&c->mu);
    vd_link_unref(mine);
    (void)l;
}

static void on_fail(void *arg, const struct vd_error *why)
{
    struct vd_ledger_client *c = arg;
    pthread_mutex_lock(&c->mu);
    c->last = *why;
    pthread_mutex_unlock(&c->mu);
    vd_log_event(c->cfg.log, VD_LOG_DEBUG, "no link to the ledger", "why=%s", why->msg);
}

/* ---- life ---- */

static void client_free(struct vd_ledger_client *c)
{
    vd_genesis_file_free(&c->genesis);
    free(c->event);
    vd_key_wipe(&c->key);
    pthread_mutex_destroy(&c->mu);
    pthread_mutex_destroy(&c->send_mu);
    pthread_cond_destroy(&c->changed);
    free(c);
}

enum vd_err vd_ledger_client_start(struct vd_ledger_client **out,
                                   const struct vd_ledger_client_config *config, struct vd_error *err)
{
    struct vd_ledger_client *c = calloc(1, sizeof *c);
    pthread_condattr_t a;
    if (!c)
        return vd_error_set(err, VD_ENOMEM, "no memory for a ledger client");
    c->cfg = *config;
    c->key = *config->key;
    c->next_tag = GENESIS_TAG + 1;
    if (config->genesis) {
        c->genesis_known = true;
        c->genesis_hash = *config->genesis;
    }
    pthread_mutex_init(&c->mu, NULL);
    pthread_mutex_init(&c->send_mu, NULL);
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&c->changed, &a);
    pthread_condattr_destroy(&a);
    vd_error_set(&c->last, VD_EAGAIN, "not tried yet");
    struct vd_link_config link = {.key = config->key, .cb = {c, on_open, on_frame, on_close, on_fail}};
    enum vd_err e =
        vd_link_dialer_start(&c->dialer, &link, config->host, config->port, config->ledger_key, err);
    if (e != VD_OK) {
        client_free(c);
        return e;
    }
    *out = c;
    return VD_OK;
}

void vd_ledger_client_cancel(struct vd_ledger_client *c)
{
    pthread_mutex_lock(&c->mu);
    c->cancelled = true;
    wake_all(c);
    pthread_mutex_unlock(&c->mu);
}

void vd_ledger_client_stop(struct vd_ledger_client *c)
{
    if (!c)
        return;
    vd_ledger_client_cancel(c);
    vd_link_dialer_stop(c->dialer);
    client_free(c);
}

/* Under mu. False when the time is over. */
static bool wait_change(struct vd_ledger_client *c, const struct timespec *until)
{
    return pthread_cond_timedwait(&c->changed, &c->mu, until) != ETIMEDOUT;
}

/* What to do about it, where the message of the link does not say. */
static const char *mend_of(enum vd_err why)
{
    return why == VD_EAUTH || why == VD_EVERSION || why == VD_ECONFLICT
               ? ""
               : "; is it running, and is that its address?";
}

enum vd_err vd_ledger_client_wait(struct vd_ledger_client *c, uint32_t timeout_ms, struct vd_error *err)
{
    struct timespec until = vd_clock_after_ms(timeout_ms);
    pthread_mutex_lock(&c->mu);
    while (!c->up && !c->cancelled && wait_change(c, &until))
        ;
    bool up = c->up, cancelled = c->cancelled;
    struct vd_error last = c->last;
    pthread_mutex_unlock(&c->mu);
    if (cancelled)
        return vd_error_set(err, VD_ECANCELLED, "stopping");
    if (up)
        return VD_OK;
    return vd_error_set(err, last.code == VD_EAGAIN ? VD_ETIMEOUT : last.code, "no link to the ledger: %s%s",
                        last.msg, mend_of(last.code));
}

enum vd_err vd_ledger_client_await(struct vd_ledger_client *c, uint32_t timeout_ms, vd_stopped_fn *stopped,
                                   struct vd_error *err)
{
    uint64_t begun = vd_clock_ms();
    struct vd_seldom said = {0};
    struct vd_error why;
    for (;;) {
        enum vd_err e = vd_ledger_client_wait(c, AWAIT_POLL_MS, &why);
        uint64_t waited = vd_clock_ms() - begun;
        if (e == VD_OK)
            return VD_OK;
        if (stopped && stopped())
            return vd_error_set(err, VD_ECANCELLED, "stopped while waiting for the ledger");
        if (e == VD_ECANCELLED || waited >= timeout_ms)
            return vd_error_set(err, e, "%s", why.msg);
        if (waited >= AWAIT_QUIET_MS && vd_seldom_due(&said))
            vd_log_event(c->cfg.log, VD_LOG_WARN, "waiting for the ledger", "address=%s:%u why=%s",
                         c->cfg.host, c->cfg.port, why.msg);
    }
}

bool vd_ledger_client_is_up(struct vd_ledger_client *c)
{
    pthread_mutex_lock(&c->mu);
    bool up = c->up;
    pthread_mutex_unlock(&c->mu);
    return up;
}

uint64_t vd_ledger_client_height(struct vd_ledger_client *c)
{
    pthread_mutex_lock(&c->mu);
    uint64_t h = c->height;
    pthread_mutex_unlock(&c->mu);
    return h;
}

enum vd_err vd_ledger_client_genesis(struct vd_ledger_client *c, const struct vd_genesis **out,
                                     struct vd_hash *hash, struct vd_error *err)
{
    pthread_mutex_lock(&c->mu);
    bool read = c->genesis_read;
    *hash = c->genesis_hash;
    pthread_mutex_unlock(&c->mu);
    *out = &c->genesis.genesis;
    return read ? VD_OK : vd_error_set(err, VD_EAGAIN, "the ledger's genesis is not known yet");
}

/* ---- questions ---- */

static uint64_t new_tag(struct vd_ledger_client *c)
{
    pthread_mutex_lock(&c->mu);
    uint64_t tag = c->next_tag++;
    pthread_mutex_unlock(&c->mu);
    return tag;
}

static void remove_wait(struct vd_ledger_client *c, struct wait *w)
{
    struct wait **at = &c->waits;
    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
}

static bool all_done(const struct wait *w, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!w[i].done)
            return false;
    return true;
}

/* Under mu: what is not on its way yet, in order. False: the link's queue is full. */
static bool send_questions(struct vd_ledger_client *c, unsigned type, const struct vd_bytes *question,
                           struct wait *w, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!w[i].sent && !w[i].done)
            w[i].sent = vd_link_send(c->link, type, question[i].p, question[i].n, NULL) == VD_OK;
        if (!w[i].sent && !w[i].done)
            return false;
    }
    return true;
}

/* Sends n questions, again over each new link, until their answers have come. The bodies are then the
 * caller's, also of those that came when others did not. */
static enum vd_err exchange(struct vd_ledger_client *c, unsigned type, const struct vd_bytes *question,
                            struct wait *w, size_t n, const struct timespec *until, struct vd_error *err)
{
    bool in_time = true;
    pthread_mutex_lock(&c->mu);
    for (size_t i = 0; i < n; i++) {
        w[i].next = c->waits;
        c->waits = &w[i];
    }
    while (!all_done(w, n) && !c->cancelled && in_time) {
        bool sent = !c->up || send_questions(c, type, question, w, n);
        struct timespec soon = vd_clock_after_ms(RETRY_MS);
        if (sent)
            in_time = wait_change(c, until);
        else /* the queue is full */
            in_time = wait_change(c, &soon) || vd_clock_ns() < (uint64_t)until->tv_sec * 1000000000u;
    }
    for (size_t i = 0; i < n; i++)
        remove_wait(c, &w[i]);
    bool done = all_done(w, n), cancelled = c->cancelled, up = c->up;
    struct vd_error last = c->last;
    pthread_mutex_unlock(&c->mu);
    if (done)
        return VD_OK;
    if (cancelled)
        return vd_error_set(err, VD_ECANCELLED, "stopping");
    /* Always this code: the link's own may mean something else as an answer of the ledger (VD_ENOTFOUND). */
    return up ? vd_error_set(err, VD_ETIMEOUT, "the ledger did not answer in time")
              : vd_error_set(err, VD_ETIMEOUT, "no link to the ledger: %s%s", last.msg, mend_of(last.code));
}

/* Sleeps RETRY_MS, or until `until`: false then, and when cancelled. */
static bool pause_before_retry(struct vd_ledger_client *c, const struct timespec *until)
{
    struct timespec soon = vd_clock_after_ms(RETRY_MS);
    bool last =
        soon.tv_sec > until->tv_sec || (soon.tv_sec == until->tv_sec && soon.tv_nsec > until->tv_nsec);
    pthread_mutex_lock(&c->mu);
    while (!c->cancelled && wait_change(c, last ? until : &soon))
        ;
    bool cancelled = c->cancelled;
    pthread_mutex_unlock(&c->mu);
    return !cancelled && !last;
}

/* One RESULT: *again when the ledger could not decide now. */
static enum vd_err read_result(struct wait *w, struct vd_ledger_outcome *out, bool *again,
                               struct vd_error *err)
{
    struct vd_wire_result r;
    *again = false;
    if (!vd_wire_get_result(&r, (struct vd_bytes){w->body, w->n_bytes}))
        return vd_error_set(err, VD_EFORMAT, "malformed RESULT");
    out->tx_id = r.tx_id;
    out->height = r.height;
    if (r.code >= RESULT_UNDECIDED) {
        uint32_t e = r.code - RESULT_UNDECIDED;
        *again = e == VD_ENOSPACE || e == VD_EAGAIN || e == VD_ECANCELLED;
        return vd_error_set(err, e > VD_OK && e <= VD_EINTERNAL ? (enum vd_err)e : VD_EIO, "the ledger: %.*s",
                            (int)r.text.n, (const char *)r.text.p);
    }
    if (!vd_tx_verdict_from_number(r.code, &out->verdict))
        return vd_error_set(err, VD_EVERSION,
                            "the ledger answered with verdict %u, which this version does not know", r.code);
    if (out->verdict == VD_TX_DUPLICATE)
        out->verdict = VD_TX_OK; /* by an earlier submission of the same bytes */
    return VD_OK;
}

enum vd_err vd_ledger_client_submit(struct vd_ledger_client *c, struct vd_bytes tx, uint32_t timeout_ms,
                                    struct vd_ledger_outcome *out, struct vd_error *err)
{
    struct timespec until = vd_clock_after_ms(timeout_ms);
    uint8_t *buf = malloc(tx.n + 64);
    enum vd_err e;
    bool again;
    if (!buf)
        return vd_error_set(err, VD_ENOMEM, "no memory for a transaction of %zu bytes", tx.n);
    do {
        struct wait w = {.tag = new_tag(c), .type = VD_WIRE_RESULT};
        struct vd_wire_submit m = {w.tag, tx};
        struct vd_pb_writer pw = vd_pb_writer_init(buf, tx.n + 64);
        if (!vd_wire_put_submit(&pw, &m)) {
            e = vd_error_set(err, VD_ELIMIT, "a transaction of %zu bytes is longer than the limit of %d",
                             tx.n, VD_WIRE_TX_MAX);
            break;
        }
        again = false;
        e = exchange(c, VD_WIRE_SUBMIT, &(struct vd_bytes){buf, pw.n_bytes}, &w, 1, &until, err);
        if (e == VD_OK)
            e = read_result(&w, out, &again, err);
        free(w.body);
    } while (again && pause_before_retry(c, &until));
    free(buf);
    return e;
}

static enum vd_err fetch_nonce(struct vd_ledger_client *c, struct vd_error *err)
{
    struct vd_account a;
    enum vd_err e = vd_ledger_client_account(c, &c->key.pub, &a, err);
    c->nonce_known = e == VD_OK || e == VD_ENOTFOUND;
    c->nonce = e == VD_OK ? a.nonce : 0;
    return c->nonce_known ? VD_OK : e;
}

/* A batch on its way. */
struct batch {
    struct wait wait[VD_LEDGER_SEND_MAX];
    struct vd_bytes question[VD_LEDGER_SEND_MAX];
    struct vd_ledger_sending *item[VD_LEDGER_SEND_MAX]; /* those that are not decided yet */
    size_t n;
};

/* Signs with the next nonce; what cannot be sent is decided at once. */
static void batch_add(struct vd_ledger_client *c, struct batch *b, struct vd_ledger_sending *s, uint8_t *tx)
{
    uint64_t tag = new_tag(c);
    s->tx->nonce = c->nonce + b->n;
    size_t n = vd_tx_sign(s->tx, &c->key, tx, VD_TX_MAX_BYTES, NULL);
    uint8_t *buf = n ? malloc(n + 64) : NULL;
    struct vd_pb_writer pw = vd_pb_writer_init(buf, buf ? n + 64 : 0);
    struct vd_wire_submit m = {tag, {tx, n}};
    if (!vd_wire_put_submit(&pw, &m)) {
        free(buf);
        s->result = vd_error_set(&s->err, VD_ELIMIT, "the transaction is longer than %d bytes, or no memory",
                                 VD_TX_MAX_BYTES);
        return;
    }
    b->wait[b->n] = (struct wait){.tag = tag, .type = VD_WIRE_RESULT};
    b->question[b->n] = (struct vd_bytes){buf, pw.n_bytes};
    b->item[b->n++] = s;
}

/* What came of one of a batch. True: it is decided. */
static bool batch_result(struct batch *b, size_t i, enum vd_err e, const struct vd_error *err)
{
    struct vd_ledger_sending *s = b->item[i];
    bool again = false;
    if (b->wait[i].done) {
        s->result = read_result(&b->wait[i], &s->out, &again, &s->err);
    } else {
        s->result = e;
        s->err = *err;
    }
    free(b->wait[i].body);
    free((void *)b->question[i].p);
    if (again || (s->result == VD_OK && s->out.verdict == VD_TX_BAD_NONCE))
        return false;
    if (s->result == VD_OK && s->out.verdict != VD_TX_OK)
        s->result = vd_error_set(&s->err, VD_EFALSE, "the ledger refused the %s: %s",
                                 vd_tx_kind_name(s->tx->kind), vd_tx_verdict_text(s->out.verdict));
    return true;
}

/* One go at all that are not decided. Behind a refused one the nonces of the others are wrong, so they are
 * signed anew in the next go. Returns how many are left. */
static size_t send_round(struct vd_ledger_client *c, struct vd_ledger_sending **open, size_t n, uint8_t *tx,
                         const struct timespec *until)
{
    struct batch b = {.n = 0};
    struct vd_error err = {0};
    size_t left = 0;
    enum vd_err e = c->nonce_known ? VD_OK : fetch_nonce(c, &err);
    if (e != VD_OK) {
        for (size_t i = 0; i < n; i++) {
            open[i]->result = e;
            open[i]->err = err;
        }
        return 0;
    }
    for (size_t i = 0; i < n; i++)
        batch_add(c, &b, open[i], tx);
    e = exchange(c, VD_WIRE_SUBMIT, b.question, b.wait, b.n, until, &err);
    for (size_t i = 0; i < b.n; i++) {
        if (!batch_result(&b, i, e, &err))
            open[left++] = b.item[i];
        else if (b.item[i]->result == VD_OK)
            c->nonce++;
        c->nonce_known &= b.item[i]->result == VD_OK && b.item[i]->out.verdict == VD_TX_OK;
    }
    return left;
}

void vd_ledger_client_send_all(struct vd_ledger_client *c, struct vd_ledger_sending *s, size_t n,
                               uint32_t timeout_ms)
{
    const struct vd_genesis *g;
    struct vd_hash genesis;
    struct vd_error err;
    struct vd_ledger_sending *open[VD_LEDGER_SEND_MAX];
    struct timespec until = vd_clock_after_ms(timeout_ms);
    assert(n <= VD_LEDGER_SEND_MAX);
    enum vd_err e = vd_ledger_client_wait(c, timeout_ms, &err);
    if (e == VD_OK)
        e = vd_ledger_client_genesis(c, &g, &genesis, &err);
    uint8_t *tx = malloc(VD_TX_MAX_BYTES);
    if (e == VD_OK && !tx)
        e = vd_error_set(&err, VD_ENOMEM, "no memory for a transaction");
    for (size_t i = 0; i < n; i++) {
        open[i] = &s[i];
        s[i].result = e;
        s[i].err = err;
        s[i].tx->genesis = genesis;
        s[i].tx->sender = c->key.pub;
    }
    pthread_mutex_lock(&c->send_mu);
    size_t left = e == VD_OK ? n : 0;
    for (int tries = 0; left && tries < NONCE_TRIES;) {
        size_t before = left;
        left = send_round(c, open, left, tx, &until);
        if (left < before)
            continue;
        /* Nobody got further: the ledger is busy (until the time is over), or another program sends for this
         * account. */
        tries += open[0]->result == VD_OK;
        if (!pause_before_retry(c, &until))
            break;
    }
    pthread_mutex_unlock(&c->send_mu);
    for (size_t i = 0; i < left; i++)
        if (open[i]->result == VD_OK)
            open[i]->result =
                vd_error_set(&open[i]->err, VD_EFALSE, "the ledger refused the %s: %s",
                             vd_tx_kind_name(open[i]->tx->kind), vd_tx_verdict_text(open[i]->out.verdict));
    free(tx);
}

enum vd_err vd_ledger_client_send(struct vd_ledger_client *c, struct vd_tx *tx, uint32_t timeout_ms,
                                  struct vd_ledger_outcome *out, struct vd_error *err)
{
    struct vd_ledger_sending s = {.tx = tx};
    vd_ledger_client_send_all(c, &s, 1, timeout_ms);
    *out = s.out;
    if (s.result != VD_OK && err)
        *err = s.err;
    return s.result;
}

void vd_ledger_answer_free(struct vd_ledger_answer *a)
{
    free(a->memory);
    free(a->item);
    memset(a, 0, sizeof *a);
}

/* Takes the body over. */
static enum vd_err read_value(uint8_t *body, size_t n, struct vd_ledger_answer *out, struct vd_error *err)
{
    struct vd_wire_value *v = malloc(sizeof *v);
    enum vd_err e = VD_OK;
    out->memory = body;
    if (!v)
        e = vd_error_set(err, VD_ENOMEM, "no memory for an answer");
    else if (!vd_wire_get_value(v, (struct vd_bytes){body, n}))
        e = vd_error_set(err, VD_EFORMAT, "malformed VALUE");
    else if (v->status != VD_OK)
        e = vd_error_set(err, v->status <= VD_EINTERNAL ? (enum vd_err)v->status : VD_EIO,
                         "the ledger cannot answer: %s",
                         vd_err_text(v->status <= VD_EINTERNAL ? (enum vd_err)v->status : VD_EIO));
    if (e == VD_OK && v->n_items) {
        out->item = malloc(v->n_items * sizeof out->item[0]);
        if (out->item)
            memcpy(out->item, v->item, v->n_items * sizeof out->item[0]);
        else
            e = vd_error_set(err, VD_ENOMEM, "no memory for an answer");
    }
    if (e == VD_OK) {
        out->n_items = v->n_items;
        out->height = v->height;
    } else {
        vd_ledger_answer_free(out);
    }
    free(v);
    return e;
}

enum vd_err vd_ledger_client_query(struct vd_ledger_client *c, const struct vd_wire_query *q,
                                   uint32_t timeout_ms, struct vd_ledger_answer *out, struct vd_error *err)
{
    struct timespec until = vd_clock_after_ms(timeout_ms);
    uint8_t buf[2 * VD_WIRE_KEY_MAX + 64];
    struct wait w = {.tag = new_tag(c), .type = VD_WIRE_VALUE};
    struct vd_wire_query m = *q;
    struct vd_pb_writer pw = vd_pb_writer_init(buf, sizeof buf);
    memset(out, 0, sizeof *out);
    m.tag = w.tag;
    if (!vd_wire_put_query(&pw, &m))
        return vd_error_set(err, VD_ELIMIT, "a query's key is longer than %d bytes", VD_WIRE_KEY_MAX);
    enum vd_err e = exchange(c, VD_WIRE_QUERY, &(struct vd_bytes){buf, pw.n_bytes}, &w, 1, &until, err);
    if (e != VD_OK) {
        free(w.body);
        return e;
    }
    return read_value(w.body, w.n_bytes, out, err);
}

enum vd_err vd_ledger_client_get(struct vd_ledger_client *c, const struct vd_state_key *key,
                                 uint32_t timeout_ms, struct vd_ledger_answer *out, struct vd_error *err)
{
    struct vd_wire_query q = {.kind = VD_QUERY_GET, .key = vd_state_key_bytes(key)};
    enum vd_err e = vd_ledger_client_query(c, &q, timeout_ms, out, err);
    if (e == VD_OK && out->n_items != 1) {
        vd_ledger_answer_free(out);
        e = vd_error_set(err, VD_ENOTFOUND, "the ledger has no such record");
    }
    return e;
}

/* The typed getters: `clear` drops what would point into the freed answer. */
#define GETTER(function, type, parameters, key_call, clear)                                                  \
    enum vd_err vd_ledger_client_##function parameters                                                       \
    {                                                                                                        \
        struct vd_state_key key = key_call;                                                                  \
        struct vd_ledger_answer a;                                                                           \
        enum vd_err e = vd_ledger_client_get(c, &key, VD_LEDGER_QUERY_TIMEOUT_MS, &a, err);                  \
        if (e != VD_OK)                                                                                      \
            return e;                                                                                        \
        bool ok = vd_##type##_decode(a.item[0], out);                                                        \
        clear;                                                                                               \
        vd_ledger_answer_free(&a);                                                                           \
        return ok ? VD_OK : vd_error_set(err, VD_EFORMAT, "the ledger sent a malformed " #type);             \
    }

#define BY_KEY(type)                                                                                         \
    (struct vd_ledger_client * c, const struct vd_pubkey *id, struct vd_##type *out, struct vd_error *err)
#define BY_ID(type)                                                                                          \
    (struct vd_ledger_client * c, const struct vd_hash *id, struct vd_##type *out, struct vd_error *err)
#define NOTHING (void)0
#define NO_BYTES                                                                                             \
    (struct vd_bytes)                                                                                        \
    {                                                                                                        \
        NULL, 0                                                                                              \
    }

GETTER(account, account, BY_KEY(account), vd_state_key_make(VD_STATE_ACCOUNT, id->b, 32, NULL), NOTHING)
GETTER(stake, stake, BY_KEY(stake), vd_state_key_make(VD_STATE_STAKE, id->b, 32, NULL), NOTHING)
GETTER(escrow, escrow, BY_ID(escrow), vd_state_key_make(VD_STATE_ESCROW, id->b, 32, NULL), NOTHING)
GETTER(dispute, dispute, BY_ID(dispute), vd_state_key_make(VD_STATE_DISPUTE, id->b, 32, NULL), NOTHING)
GETTER(model, model_record, BY_ID(model_record), vd_state_key_make(VD_STATE_MODEL, id->b, 32, NULL),
       out->program = NO_BYTES)
GETTER(receipt, receipt_record, BY_ID(receipt_record), vd_state_key_make(VD_STATE_RECEIPT, id->b, 32, NULL),
       out->body = NO_BYTES)
GETTER(audit, audit, BY_ID(audit), vd_state_key_make(VD_STATE_AUDIT, id->b, 32, NULL), NOTHING)
GETTER(totals, totals, (struct vd_ledger_client * c, struct vd_totals *out, struct vd_error *err),
       vd_state_key_make(VD_STATE_TOTALS, NULL, 0, NULL), NOTHING)
GETTER(offer, offer,
       (struct vd_ledger_client * c, const struct vd_hash *root, const struct vd_pubkey *worker,
        struct vd_offer *out, struct vd_error *err),
       vd_state_key_make(VD_STATE_OFFER, root->b, 32, worker->b), NOTHING)

enum vd_err vd_ledger_client_list(struct vd_ledger_client *c, const struct vd_state_key *prefix,
                                  vd_ledger_list_fn *fn, void *arg, struct vd_error *err)
{
    return vd_ledger_client_list_from(c, prefix, &(struct vd_state_key){.n = 0}, fn, arg, err);
}

enum vd_err vd_ledger_client_list_from(struct vd_ledger_client *c, const struct vd_state_key *prefix,
                                       const struct vd_state_key *from, vd_ledger_list_fn *fn, void *arg,
                                       struct vd_error *err)
{
    struct vd_state_key after = *from;
    bool more = true;
    while (more) {
        struct vd_wire_query q = {.kind = VD_QUERY_LIST_PREFIX,
                                  .key = vd_state_key_bytes(prefix),
                                  .after = vd_state_key_bytes(&after),
                                  .limit = LIST_PAGE};
        struct vd_ledger_answer a;
        enum vd_err e = vd_ledger_client_query(c, &q, VD_LEDGER_QUERY_TIMEOUT_MS, &a, err);
        if (e != VD_OK)
            return e;
        more = a.n_items > 0;
        for (size_t i = 0; more && i + 1 < a.n_items; i += 2)
            more = fn(arg, a.item[i], a.item[i + 1]);
        if (more && (a.n_items % 2 || a.item[a.n_items - 2].n > sizeof after.b)) {
            vd_ledger_answer_free(&a);
            return vd_error_set(err, VD_EFORMAT, "the ledger sent a malformed list");
        }
        if (more) {
            after.n = a.item[a.n_items - 2].n;
            memcpy(after.b, a.item[a.n_items - 2].p, after.n);
        }
        vd_ledger_answer_free(&a);
    }
    return VD_OK;
}
