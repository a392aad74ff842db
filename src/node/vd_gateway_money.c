/* The escrow as the ledger last showed it, minus what we hold in receipts, minus what running answers can
 * cost: what is left may be promised. The ledger's side of it only grows smaller by settling, which takes the
 * same amount off both, so an old view is never too generous (a void receipt or a top-up makes it too strict
 * until the next look).
 *
 * The settler sends receipts oldest first, up to 64 at once. A batch is applied whole or not at all; one that
 * is refused is halved until the receipt that does not fit stands alone: what can never be settled is put
 * aside, what may be settled later (the worker's stake is used up) waits. */
#include "vd_gateway_impl.h"
#include "vd_clock.h"

#include <stdlib.h>

enum {
    SEQUENCES_AT_ONCE = 256,
    SETTLE_TIMEOUT_MS = 30000,
    PURGE_EVERY_MS = 60000,
    REFRESH_EVERY_MS = 5000,
    LOOK_MAX = 64, /* escrows that name us, of which anybody may open any number, at one look */
};

/* ---- reservations ---- */

struct gw_key_use *gw_key_use_of(struct vd_gateway *g, const struct vd_key_id *key)
{
    for (size_t i = 0; i < g->n_use; i++) {
        if (memcmp(&g->use[i].id, key, sizeof *key) == 0)
            return &g->use[i];
    }
    if (g->n_use == GW_KEYS_IN_USE_MAX)
        return NULL;
    struct gw_key_use *u = &g->use[g->n_use];
    *u = (struct gw_key_use){.id = *key};
    if (vd_gwstore_spent(g->store, key, &u->spent, NULL) != VD_OK)
        return NULL;
    g->n_use++;
    return u;
}

static struct vd_amount less(struct vd_amount a, struct vd_amount b)
{
    struct vd_amount d;
    return vd_amount_sub(&d, a, b) ? d : VD_AMOUNT_ZERO;
}

/* Of the escrow. Under mu. */
static struct vd_amount free_part(const struct vd_gateway *g)
{
    return less(less(g->balance, g->unsettled), g->reserved);
}

bool gw_money_covers(struct vd_gateway *g, struct vd_amount amount)
{
    pthread_mutex_lock(&g->mu);
    bool covers = g->has_escrow && vd_amount_cmp(amount, free_part(g)) <= 0;
    pthread_mutex_unlock(&g->mu);
    return covers;
}

static bool no_escrow(struct vd_gateway *g, struct vd_amount most, struct vd_openai_error *e)
{
    if (g->has_escrow) {
        vd_openai_fail(e, 503, "escrow_used_up", NULL,
                       "The gateway's escrow does not cover this request (it can cost %llu micro-credits); "
                       "ask for fewer "
                       "tokens or try again later.",
                       (unsigned long long)most.micro);
    } else {
        vd_openai_fail(e, 503, "no_escrow", NULL,
                       "The gateway has no escrow on the ledger yet; try again later.");
    }
    e->retry_after_s = 5;
    return false;
}

static bool key_allows(const struct gw_key_use *u, const struct gw_job *j, struct vd_amount extra)
{
    struct vd_amount sum;
    return !j->key_limit.micro || (vd_amount_add(&sum, u->spent, u->reserved) &&
                                   vd_amount_add(&sum, sum, extra) && vd_amount_cmp(sum, j->key_limit) <= 0);
}

static void give_back(struct vd_gateway *g, struct gw_key_use *u, struct vd_amount *what)
{
    g->reserved = less(g->reserved, *what);
    if (u)
        u->reserved = less(u->reserved, *what);
    *what = VD_AMOUNT_ZERO;
}

bool gw_money_reserve(struct vd_gateway *g, struct gw_job *j, struct vd_amount most, struct vd_amount all,
                      struct vd_openai_error *e)
{
    struct gw_siblings *s = j->n_attempts == 0 ? j->siblings : NULL;
    struct vd_amount want = s ? all : most, have = j->budget;
    have.micro += s ? s->held.micro : 0; /* both are part of g->reserved: no wrap */
    struct vd_amount extra = less(want, have);
    struct gw_key_use *u = gw_key_use_of(g, &j->key);
    if (!u)
        return vd_openai_fail(e, 503, "store_failed", NULL,
                              "The gateway's store cannot be read; try again later.");
    if (!key_allows(u, j, extra))
        return vd_openai_fail(
            e, 429, "insufficient_quota", NULL,
            "This API key's spending limit does not cover this request (it can cost %llu micro-credits).",
            (unsigned long long)want.micro);
    if (!g->has_escrow || vd_amount_cmp(extra, free_part(g)) > 0)
        return no_escrow(g, want, e);
    g->reserved.micro += extra.micro; /* extra <= balance: no wrap */
    u->reserved.micro += extra.micro;
    if (vd_amount_cmp(j->budget, most) < 0)
        j->budget = most;
    if (s) {
        s->held.micro = have.micro + extra.micro - j->budget.micro;
        if (s->n_new == 1) /* the last of them */
            give_back(g, u, &s->held);
    }
    return true;
}

void gw_money_release(struct vd_gateway *g, struct gw_job *j)
{
    pthread_mutex_lock(&g->mu);
    struct gw_key_use *u = gw_key_use_of(g, &j->key);
    give_back(g, u, &j->budget);
    if (j->siblings && j->n_attempts == 0)
        give_back(g, u, &j->siblings->held);
    pthread_mutex_unlock(&g->mu);
}

void gw_money_owe(struct vd_gateway *g, const struct vd_key_id *key, struct vd_amount amount)
{
    pthread_mutex_lock(&g->mu);
    struct gw_key_use *u = gw_key_use_of(g, key);
    g->unsettled.micro += amount.micro;
    g->n_pending++;
    if (u)
        u->spent.micro += amount.micro;
    if (g->n_pending >= VD_TX_SETTLE_MAX)
        pthread_cond_signal(&g->settle_bell);
    pthread_mutex_unlock(&g->mu);
}

bool gw_money_sequence(struct vd_gateway *g, uint64_t *out, struct vd_openai_error *e)
{
    struct vd_error why;
    enum vd_err rc = VD_OK;
    pthread_mutex_lock(&g->mu);
    bool has = g->has_escrow;
    if (has && g->sequence_next == g->sequence_end) { /* the disk under mu, once in 256 answers */
        uint64_t first;
        rc = vd_gwstore_take_sequences(g->store, &g->escrow, SEQUENCES_AT_ONCE, vd_clock_wall_ms() << 10,
                                       &first, &why);
        if (rc == VD_OK) {
            g->sequence_next = first;
            g->sequence_end = first + SEQUENCES_AT_ONCE;
        }
    }
    if (has && rc == VD_OK)
        *out = g->sequence_next++;
    pthread_mutex_unlock(&g->mu);
    if (!has)
        return no_escrow(g, VD_AMOUNT_ZERO, e);
    if (rc == VD_OK)
        return true;
    vd_log_event(&g->log, VD_LOG_ERROR, "no sequence numbers", "why=%s", why.msg);
    vd_openai_fail(e, 503, rc == VD_ENOSPACE ? "disk_full" : "store_failed", NULL,
                   rc == VD_ENOSPACE ? "The gateway's disk is full; try again later."
                                     : "The gateway's store failed; try again later.");
    e->retry_after_s = 30;
    return false;
}

/* ---- the escrow ---- */

/* The open escrow with the largest balance, of others' and of our own. */
struct escrow_search {
    struct vd_gateway *g;
    struct escrow_found {
        bool found;
        struct vd_hash id;
        struct vd_escrow x;
    } best[2];
    size_t n;
    enum vd_err result;
    struct vd_error *err;
};

static bool consider_escrow(struct escrow_search *s, const struct vd_hash *id)
{
    struct vd_escrow x;
    s->result = vd_ledger_client_escrow(s->g->ledger, id, &x, s->err);
    if (s->result == VD_ENOTFOUND)
        s->result = VD_OK;
    else if (s->result == VD_OK && !x.ended && !x.end_height && vd_pubkey_eq(&x.gateway, &s->g->key.pub)) {
        struct escrow_found *best = &s->best[vd_pubkey_eq(&x.owner, &s->g->key.pub)];
        if (!best->found || vd_amount_cmp(x.balance, best->x.balance) > 0)
            *best = (struct escrow_found){true, *id, x};
    }
    return s->result == VD_OK;
}

static bool look_at_escrow(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    struct escrow_search *s = arg;
    struct vd_hash id;
    (void)value;
    if (key.n != 1 + 2 * VD_HASH_BYTES)
        return true;
    memcpy(id.b, key.p + 1 + VD_HASH_BYTES, VD_HASH_BYTES);
    memcpy(s->g->looked_at.b, key.p, key.n);
    s->g->looked_at.n = key.n;
    s->n++;
    return consider_escrow(s, &id) && s->n < LOOK_MAX;
}

/* Looks at the one that was in use last, the largest that was opened since the last look, and some of the
 * rest, the next look at the next: anybody may open thousands, and receipts must not wait for that. */
static enum vd_err find_escrows(struct escrow_search *s)
{
    struct vd_gateway *g = s->g;
    struct vd_hash known[2];
    struct vd_state_key prefix =
        vd_state_key_make(VD_INDEX_GATEWAY_ESCROW, g->key.pub.b, VD_PUBKEY_BYTES, NULL);
    enum vd_err e = vd_gwstore_escrow(g->store, &known[0], s->err);
    pthread_mutex_lock(&g->mu);
    known[1] = g->offered;
    g->offered = (struct vd_hash){{0}};
    g->offered_amount = VD_AMOUNT_ZERO;
    pthread_mutex_unlock(&g->mu);
    for (int i = 0; e == VD_OK && i < 2; i++)
        e = vd_hash_is_zero(&known[i]) || consider_escrow(s, &known[i]) ? VD_OK : s->result;
    if (e == VD_OK)
        e = vd_ledger_client_list_from(g->ledger, &prefix, &g->looked_at, look_at_escrow, s, s->err);
    if (e == VD_OK && s->n < LOOK_MAX)
        g->looked_at.n = 0; /* from the first again */
    return e == VD_OK ? s->result : e;
}

static void use_escrow(struct vd_gateway *g, const struct vd_hash *id, const struct vd_escrow *x)
{
    struct vd_error why;
    pthread_mutex_lock(&g->mu);
    bool same = g->has_escrow && vd_hash_eq(&g->escrow, id);
    if (!same)
        g->sequence_next = g->sequence_end = 0;
    g->has_escrow = true;
    g->owns_escrow = vd_pubkey_eq(&x->owner, &g->key.pub);
    g->escrow = *id;
    g->balance = x->balance;
    pthread_mutex_unlock(&g->mu);
    if (!same && vd_gwstore_set_escrow(g->store, id, &why) != VD_OK)
        vd_log_event(&g->log, VD_LOG_WARN, "the escrow cannot be noted", "why=%s", why.msg);
}

static enum vd_err open_escrow(struct vd_gateway *g, struct vd_error *err)
{
    struct vd_ledger_outcome out;
    struct vd_escrow x;
    struct vd_tx tx = {.kind = VD_TX_ESCROW_OPEN, .u.escrow_open = {g->key.pub, g->cfg.escrow}};
    char hex[2 * VD_PUBKEY_BYTES + 1];
    enum vd_err e = vd_ledger_client_send(g->ledger, &tx, SETTLE_TIMEOUT_MS, &out, err);
    if (e == VD_EFALSE && (out.verdict == VD_TX_FUNDS || out.verdict == VD_TX_UNKNOWN_ACCOUNT)) {
        vd_hex_encode(hex, g->key.pub.b, VD_PUBKEY_BYTES);
        return vd_error_set(
            err, VD_EFUNDS,
            "the account has not the %llu micro-credits of --escrow; transfer credits to %s first",
            (unsigned long long)g->cfg.escrow.micro, hex);
    }
    if (e == VD_OK)
        e = vd_ledger_client_escrow(g->ledger, &out.tx_id, &x, err);
    if (e == VD_OK) {
        use_escrow(g, &out.tx_id, &x);
        vd_log_event(&g->log, VD_LOG_INFO, "escrow opened", "micro=%llu",
                     (unsigned long long)x.balance.micro);
    }
    return e;
}

static void top_up(struct vd_gateway *g)
{
    struct vd_ledger_outcome out;
    struct vd_error err;
    pthread_mutex_lock(&g->mu);
    struct vd_amount left = less(g->balance, g->unsettled);
    struct vd_tx tx = {.kind = VD_TX_ESCROW_TOPUP,
                       .u.escrow_topup = {g->escrow, less(g->cfg.escrow, g->balance)}};
    pthread_mutex_unlock(&g->mu);
    struct vd_account me;
    if (left.micro >= g->cfg.escrow.micro / 4 || tx.u.escrow_topup.amount.micro == 0 ||
        vd_ledger_client_account(g->ledger, &g->key.pub, &me, &err) != VD_OK || me.balance.micro == 0)
        return;
    if (vd_amount_cmp(me.balance, tx.u.escrow_topup.amount) < 0)
        tx.u.escrow_topup.amount = me.balance;
    if (vd_ledger_client_send(g->ledger, &tx, SETTLE_TIMEOUT_MS, &out, &err) == VD_OK)
        vd_log_event(&g->log, VD_LOG_INFO, "escrow topped up", "micro=%llu",
                     (unsigned long long)tx.u.escrow_topup.amount.micro);
    else if (vd_seldom_due(&g->no_topup))
        vd_log_event(&g->log, VD_LOG_WARN, "the escrow cannot be topped up", "why=%s", err.msg);
}

/* The escrow as it is now; `settled` has gone from both sides. Without one (its owner closes it, and what was
 * asked before is settled after) there is no balance to look at. False: not known. */
static bool refresh_escrow(struct vd_gateway *g, struct vd_amount settled)
{
    struct vd_escrow x;
    struct vd_hash id;
    pthread_mutex_lock(&g->mu);
    bool has = g->has_escrow;
    id = g->escrow;
    if (!has)
        g->unsettled = less(g->unsettled, settled);
    pthread_mutex_unlock(&g->mu);
    if (!has)
        return true;
    if (vd_ledger_client_escrow(g->ledger, &id, &x, NULL) != VD_OK)
        return false;
    pthread_mutex_lock(&g->mu);
    g->balance = x.balance;
    g->unsettled = less(g->unsettled, settled);
    if (x.ended || x.end_height)
        g->has_escrow = false; /* its owner closes it; look for another */
    pthread_mutex_unlock(&g->mu);
    return true;
}

/* Its own, which it opens if it can pay for it; else one that somebody else pays, if there is much more in it
 * than is left of what we have. */
static enum vd_err take_escrow(struct vd_gateway *g, struct vd_amount left, struct vd_error *err)
{
    struct escrow_search s = {.g = g, .err = err};
    const struct escrow_found *others = &s.best[false], *own = &s.best[true];
    enum vd_err e = find_escrows(&s);
    if (e != VD_OK)
        return e;
    if (own->found) {
        use_escrow(g, &own->id, &own->x);
        return VD_OK;
    }
    e = g->cfg.escrow.micro ? open_escrow(g, err)
                            : vd_error_set(err, VD_ENOTFOUND, "no open escrow names this gateway");
    if ((e != VD_EFUNDS && e != VD_ENOTFOUND) || !others->found)
        return e;
    if (others->x.balance.micro / 4 >= left.micro)
        use_escrow(g, &others->id, &others->x);
    return VD_OK;
}

/* Another's pays for answers as well as our own, but nothing is ever paid into it, since its owner gets what
 * is left: who opens one with a crumb in it must not be given what --escrow sets aside. */
static void ensure_escrow(struct vd_gateway *g)
{
    struct vd_error err;
    pthread_mutex_lock(&g->mu);
    bool has = g->has_escrow, owns = g->owns_escrow, look = g->look_for_escrow;
    struct vd_amount left = has ? less(g->balance, g->unsettled) : VD_AMOUNT_ZERO;
    g->look_for_escrow = false;
    pthread_mutex_unlock(&g->mu);
    if (has && owns) {
        if (g->cfg.escrow.micro)
            top_up(g);
        return;
    }
    if (has && !look && left.micro >= g->cfg.escrow.micro / 4)
        return;
    enum vd_err e = take_escrow(g, left, &err);
    if (e != VD_OK && e != VD_ECANCELLED && vd_seldom_due(&g->no_escrow))
        vd_log_event(&g->log, VD_LOG_WARN, "no escrow", "why=%s", err.msg);
}

/* ---- workers' stakes ---- */

static size_t worker_keys(struct vd_gateway *g, struct vd_pubkey *out, size_t cap)
{
    size_t n = 0;
    pthread_mutex_lock(&g->mu);
    for (struct gw_session *s = g->sessions; s && n < cap; s = s->next) {
        if (s->greeted && s->role == VD_ROLE_WORKER)
            out[n++] = s->key;
    }
    pthread_mutex_unlock(&g->mu);
    return n;
}

static void set_stake(struct vd_gateway *g, const struct vd_pubkey *key, struct vd_amount free_part)
{
    pthread_mutex_lock(&g->mu);
    for (struct gw_session *s = g->sessions; s; s = s->next) {
        if (!s->greeted || !vd_pubkey_eq(&s->key, key))
            continue;
        s->stake_free = free_part;
        if (g->n_pending == 0) { /* all that this gateway owes stands in the ledger's number */
            s->committed = VD_AMOUNT_ZERO;
            for (struct gw_job *j = g->jobs; j; j = j->next)
                s->committed.micro += j->session == s ? j->reserved.micro : 0;
        }
    }
    pthread_cond_broadcast(&g->pool_changed);
    pthread_mutex_unlock(&g->mu);
}

static void refresh_stakes(struct vd_gateway *g)
{
    struct vd_pubkey key[VD_LINK_LISTEN_LINKS_MAX];
    struct vd_amount free_part;
    struct vd_error why;
    size_t n = worker_keys(g, key, VD_LINK_LISTEN_LINKS_MAX);
    for (size_t i = 0; i < n; i++) {
        why.code = VD_OK;
        if (gw_stake_of(g, &key[i], &free_part, &why) || why.code == VD_EFUNDS || why.code == VD_EAUTH ||
            why.code == VD_ENOTFOUND)
            set_stake(g, &key[i], free_part); /* nothing is free for one that may not be used */
    }
}

/* ---- settling ---- */

static struct vd_amount amount_of(const struct vd_gwstore_pending *p)
{
    struct vd_receipt r;
    struct vd_bytes body = {p->receipt.body, p->receipt.body_bytes};
    return vd_receipt_decode(body, &r) == VD_RECEIPT_OK ? r.amount : VD_AMOUNT_ZERO;
}

/* Notes what became of n receipts that the ledger has decided on. */
static void decided(struct vd_gateway *g, const struct vd_gwstore_pending *p, size_t n,
                    enum vd_gwstore_state state)
{
    struct vd_hash id[VD_TX_SETTLE_MAX];
    struct vd_amount sum = VD_AMOUNT_ZERO;
    struct vd_error err;
    for (size_t i = 0; i < n; i++) {
        id[i] = p[i].id;
        sum.micro += amount_of(&p[i]).micro;
    }
    if (vd_gwstore_settle(g->store, id, n, state, &err) != VD_OK) {
        vd_log_event(&g->log, VD_LOG_ERROR, "a settlement cannot be noted", "why=%s", err.msg);
        return; /* it is sent again, and the ledger says ALREADY_SETTLED */
    }
    while (!refresh_escrow(g, sum) && !atomic_load(&g->stopping))
        vd_clock_sleep_ms(GW_BUSY_PAUSE_MS);
    pthread_mutex_lock(&g->mu);
    g->n_pending -= n < g->n_pending ? n : g->n_pending;
    if (state == VD_GW_SETTLED)
        g->stats.n_settled += n;
    else
        g->stats.n_refused += n;
    pthread_mutex_unlock(&g->mu);
}

/* Sends n receipts as one transaction. */
static enum vd_err send_batch(struct vd_gateway *g, const struct vd_gwstore_pending *p, size_t n,
                              enum vd_tx_verdict *verdict, struct vd_error *err)
{
    struct vd_ledger_outcome out = {.verdict = VD_TX_OK};
    struct vd_tx *tx = calloc(1, sizeof *tx);
    uint8_t *bytes = malloc(n * VD_SIGNED_RECEIPT_MAX_BYTES);
    enum vd_err e = tx && bytes ? VD_OK : vd_error_set(err, VD_ENOMEM, "no memory for a settlement");
    if (e == VD_OK) {
        tx->kind = VD_TX_SETTLE;
        tx->u.settle.n = (uint32_t)n;
        for (size_t i = 0; i < n; i++) {
            uint8_t *at = bytes + i * VD_SIGNED_RECEIPT_MAX_BYTES;
            size_t len = vd_signed_receipt_encode(&p[i].receipt, at, VD_SIGNED_RECEIPT_MAX_BYTES);
            tx->u.settle.receipt[i] = (struct vd_bytes){at, len};
        }
        e = vd_ledger_client_send(g->ledger, tx, SETTLE_TIMEOUT_MS, &out, err);
    }
    *verdict = out.verdict;
    free(tx);
    free(bytes);
    return e;
}

/* How many of p[0..n) stay pending because they may be settled later; -1: the ledger did not decide. */
static int settle_range(struct vd_gateway *g, const struct vd_gwstore_pending *p, size_t n)
{
    enum vd_tx_verdict v;
    struct vd_error err;
    enum vd_err e = send_batch(g, p, n, &v, &err);
    if (e == VD_OK) {
        decided(g, p, n, VD_GW_SETTLED);
        return 0;
    }
    if (e != VD_EFALSE) {
        if (e != VD_ECANCELLED)
            vd_log_event(&g->log, VD_LOG_WARN, "settlement is delayed", "receipts=%zu why=%s", n, err.msg);
        return -1;
    }
    if (n > 1) {
        int left = settle_range(g, p, n / 2);
        int right = left < 0 ? -1 : settle_range(g, p + n / 2, n - n / 2);
        return right < 0 ? -1 : left + right;
    }
    if (v == VD_TX_ALREADY_SETTLED) { /* by the worker itself, or by us before a crash */
        decided(g, p, 1, VD_GW_SETTLED);
        return 0;
    }
    if (v == VD_TX_STAKE_TOO_SMALL || v == VD_TX_BLOCK_FULL || v == VD_TX_UNKNOWN_ACCOUNT)
        return 1;
    vd_log_event(&g->log, VD_LOG_ERROR, "a receipt cannot be settled", "why=%s", vd_tx_verdict_text(v));
    decided(g, p, 1, VD_GW_REFUSED);
    return 0;
}

/* Sends all that is pending, in batches. True if some must wait. */
static bool settle_all(struct vd_gateway *g)
{
    size_t skip = 0, n = VD_TX_SETTLE_MAX;
    struct vd_gwstore_pending *p = malloc(VD_TX_SETTLE_MAX * sizeof *p);
    struct vd_error err;
    bool waits = !p;
    while (p && n == VD_TX_SETTLE_MAX) {
        if (vd_gwstore_pending_list(g->store, skip, p, VD_TX_SETTLE_MAX, &n, &err) != VD_OK) {
            vd_log_event(&g->log, VD_LOG_ERROR, "what is to be settled cannot be read", "why=%s", err.msg);
            break;
        }
        int later = n ? settle_range(g, p, n) : 0;
        waits |= later != 0;
        if (later < 0)
            break;
        skip += (size_t)later;
    }
    free(p);
    return waits;
}

/* What a restart finds. */
static enum vd_err count_pending(struct vd_gateway *g, struct vd_error *err)
{
    size_t n = VD_TX_SETTLE_MAX;
    enum vd_err e = VD_OK;
    struct vd_gwstore_pending *p = malloc(VD_TX_SETTLE_MAX * sizeof *p);
    if (!p)
        return vd_error_set(err, VD_ENOMEM, "no memory for settlements");
    while (e == VD_OK && n == VD_TX_SETTLE_MAX) {
        e = vd_gwstore_pending_list(g->store, g->n_pending, p, VD_TX_SETTLE_MAX, &n, err);
        for (size_t i = 0; e == VD_OK && i < n; i++)
            g->unsettled.micro += amount_of(&p[i]).micro;
        g->n_pending += e == VD_OK ? n : 0;
    }
    free(p);
    return e;
}

static void *settler_main(void *arg)
{
    struct vd_gateway *g = arg;
    uint64_t purged_ms = 0, refreshed_ms = 0;
    bool stop = false, waits = false;
    while (!stop) {
        pthread_mutex_lock(&g->mu);
        if (g->settling && !g->refresh && (waits || g->n_pending < VD_TX_SETTLE_MAX))
            gw_cond_wait_ms(&g->settle_bell, &g->mu, g->cfg.settle_ms);
        stop = !g->settling;
        bool refresh = g->refresh || vd_clock_ms() - refreshed_ms > REFRESH_EVERY_MS;
        g->refresh = false;
        pthread_mutex_unlock(&g->mu);
        if (!vd_ledger_client_is_up(g->ledger)) {
            if (!stop)
                vd_clock_sleep_ms(GW_BUSY_PAUSE_MS);
            continue;
        }
        if (!stop)
            ensure_escrow(g);
        waits = settle_all(g);
        if (refresh && !stop) {
            refresh_escrow(g, VD_AMOUNT_ZERO);
            refresh_stakes(g);
            refreshed_ms = vd_clock_ms();
        }
        if (vd_clock_ms() - purged_ms > PURGE_EVERY_MS) {
            vd_gwstore_once_purge(g->store, vd_clock_wall_s(), NULL);
            purged_ms = vd_clock_ms();
        }
    }
    return NULL;
}

/* Something about our escrow, or about a worker's receipts, has changed. */
void gw_money_on_block(void *gateway, uint64_t height, uint64_t time_ms, const struct vd_event *event,
                       size_t n)
{
    struct vd_gateway *g = gateway;
    (void)height;
    (void)time_ms;
    pthread_mutex_lock(&g->mu);
    for (size_t i = 0; i < n; i++) {
        enum vd_event_kind k = event[i].kind;
        bool ours = vd_hash_eq(&event[i].id, &g->escrow) || vd_hash_eq(&event[i].id2, &g->escrow);
        if ((ours && k != VD_EVENT_SETTLED) || k == VD_EVENT_STAKE || k == VD_EVENT_SLASHED ||
            (k == VD_EVENT_ESCROW_OPENED && vd_pubkey_eq(&event[i].b, &g->key.pub)))
            g->refresh = true;
        if (k == VD_EVENT_ESCROW_OPENED && vd_pubkey_eq(&event[i].b, &g->key.pub)) {
            g->look_for_escrow = true;
            if (vd_amount_cmp(event[i].amount, g->offered_amount) > 0) {
                g->offered = event[i].id;
                g->offered_amount = event[i].amount;
            }
        }
    }
    if (g->refresh)
        pthread_cond_signal(&g->settle_bell);
    pthread_mutex_unlock(&g->mu);
}

enum vd_err gw_money_start(struct vd_gateway *g, struct vd_error *err)
{
    enum vd_err e = count_pending(g, err);
    if (e != VD_OK)
        return e;
    ensure_escrow(g);
    g->settling = true;
    if (pthread_create(&g->settler, NULL, settler_main, g) != 0) {
        g->settling = false;
        return vd_error_set(err, VD_EAGAIN, "the system refused a thread");
    }
    return VD_OK;
}

/* One more round, so that what is owed is settled if the ledger is there. */
void gw_money_stop(struct vd_gateway *g)
{
    pthread_mutex_lock(&g->mu);
    bool was = g->settling;
    g->settling = false;
    pthread_cond_signal(&g->settle_bell);
    pthread_mutex_unlock(&g->mu);
    if (was)
        pthread_join(g->settler, NULL);
}
