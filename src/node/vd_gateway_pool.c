/* Who is linked, who gets a job, and what workers send. A worker that breaks a rule (a gap in its tokens, a
 * token that contradicts an earlier worker's, too many of them) loses the job, which goes to another, and its
 * link. */
#include "vd_gateway_impl.h"
#include "vd_clock.h"
#include "vd_hello.h"

#include <stdio.h>
#include <stdlib.h>

static void send(struct vd_link *l, unsigned type, const struct vd_pb_writer *w)
{
    if (w->overflow || vd_link_send(l, type, w->p, w->n_bytes, NULL) == VD_EAGAIN)
        vd_link_close(l, VD_EAGAIN, "messages are not read");
}

/* ---- sessions ---- */

static void send_hello(struct vd_gateway *g, struct vd_link *l)
{
    vd_hello_send(l, VD_ROLE_GATEWAY, &g->genesis, vd_ledger_client_height(g->ledger), NULL, 0);
}

static void on_open(void *arg, struct vd_link *l)
{
    struct vd_gateway *g = arg;
    struct gw_session *s = calloc(1, sizeof *s);
    if (!s) {
        vd_link_close(l, VD_ENOMEM, "no memory for a session");
        return;
    }
    s->link = l;
    s->key = *vd_link_peer(l);
    vd_link_set_user(l, s);
    pthread_mutex_lock(&g->mu);
    s->next = g->sessions;
    g->sessions = s;
    pthread_mutex_unlock(&g->mu);
}

void gw_job_wake(struct gw_job *j, enum gw_phase phase)
{
    j->phase = phase;
    if (phase != GW_RUNNING && j->over_ms == 0)
        j->over_ms = vd_clock_ms();
    pthread_cond_broadcast(j->bell);
}

static void on_close(void *arg, struct vd_link *l, const struct vd_error *why)
{
    struct vd_gateway *g = arg;
    struct gw_session *s = vd_link_user(l);
    if (!s)
        return;
    pthread_mutex_lock(&g->mu);
    struct gw_session **at = &g->sessions;
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    for (struct gw_job *j = g->jobs; j; j = j->next) {
        if (j->session != s)
            continue;
        j->session = NULL;
        if (j->phase == GW_RUNNING)
            gw_job_wake(j, GW_LOST);
    }
    pthread_cond_broadcast(&g->pool_changed);
    pthread_mutex_unlock(&g->mu);
    if (s->greeted)
        vd_log_event(&g->log, VD_LOG_INFO, "a peer left", "role=%s peer=%s why=%s",
                     vd_wire_role_name(s->role), vd_link_peer_addr(l),
                     why->code == VD_OK ? "closed" : why->msg);
    free(s);
}

static void on_fail(void *arg, const struct vd_error *why)
{
    struct vd_gateway *g = arg;
    vd_log_event(&g->log, VD_LOG_WARN, "no link", "why=%s", why->msg);
}

/* A verdict ends a worker's offers: has it made one since? */
static bool offered_since(struct vd_gateway *g, const struct vd_pubkey *key, uint64_t height)
{
    struct vd_offer o;
    for (size_t i = 0; height && i < g->n_models; i++) {
        if (vd_ledger_client_offer(g->ledger, &g->model[i].root, key, &o, NULL) == VD_OK && o.height > height)
            return true;
    }
    return height == 0;
}

/* A worker without a stake has nothing to lose, so it gets no job. */
bool gw_stake_of(struct vd_gateway *g, const struct vd_pubkey *key, struct vd_amount *free_part,
                 struct vd_error *err)
{
    struct vd_stake s;
    *free_part = VD_AMOUNT_ZERO;
    if (vd_ledger_client_stake(g->ledger, key, &s, err) != VD_OK)
        return false;
    if (vd_amount_cmp(s.amount, g->min_stake) < 0) {
        vd_error_set(err, VD_EFUNDS, "the stake is below the network's minimum");
        return false;
    }
    if (!offered_since(g, key, s.convicted_height)) {
        vd_error_set(err, VD_EAUTH, "a verdict has fallen against it, and it has not offered anew");
        return false;
    }
    if (!vd_amount_sub(free_part, s.amount, s.unsettled))
        *free_part = VD_AMOUNT_ZERO;
    return true;
}

static void greet(struct vd_gateway *g, struct vd_link *l, struct gw_session *s,
                  const struct vd_wire_hello *m)
{
    struct vd_amount stake = VD_AMOUNT_ZERO;
    struct vd_error err;
    if (!vd_hash_eq(&m->genesis, &g->genesis)) {
        vd_link_close(l, VD_ECONFLICT, "another network: the genesis hashes differ");
        return;
    }
    if (m->role == VD_ROLE_WORKER && m->arithmetic != VD_ARITH_VERSION) {
        vd_link_close(l, VD_EVERSION, "another arithmetic version");
        return;
    }
    if (m->role == VD_ROLE_WORKER && !gw_stake_of(g, &s->key, &stake, &err)) {
        vd_log_event(&g->log, VD_LOG_WARN, "a worker without a stake", "peer=%s why=%s", vd_link_peer_addr(l),
                     err.msg);
        vd_link_close(l, VD_EFUNDS, "this worker has no sufficient stake on the ledger");
        return;
    }
    send_hello(g, l);
    pthread_mutex_lock(&g->mu);
    s->role = m->role;
    s->stake_free = stake;
    s->n_offers = m->role == VD_ROLE_WORKER ? m->n_offers : 0;
    memcpy(s->offer, m->offer, s->n_offers * sizeof s->offer[0]);
    s->greeted = true;
    s->follows = m->role == VD_ROLE_VERIFIER && gw_stream_may_follow(g, &s->key);
    pthread_cond_broadcast(&g->pool_changed);
    pthread_mutex_unlock(&g->mu);
    char key[65];
    vd_hex_encode(key, s->key.b, sizeof s->key.b);
    vd_log_event(&g->log, VD_LOG_INFO, "a peer came", "role=%s peer=%s key=%s offers=%zu",
                 vd_wire_role_name(m->role), vd_link_peer_addr(l), key, m->n_offers);
}

static void on_hello(struct vd_gateway *g, struct vd_link *l, struct gw_session *s, struct vd_bytes body)
{
    struct vd_wire_hello *m = malloc(sizeof *m);
    if (!m || !vd_wire_get_hello(m, body))
        vd_link_close(l, VD_EFORMAT, "malformed HELLO");
    else
        greet(g, l, s, m);
    free(m);
}

/* ---- what workers send ---- */

struct gw_job *gw_job_of(struct vd_gateway *g, const struct gw_session *s, const struct vd_hash *id)
{
    for (struct gw_job *j = g->jobs; j; j = j->next) {
        if (j->session == s && j->phase == GW_RUNNING && vd_hash_eq(&j->id, id))
            return j;
    }
    return NULL;
}

/* Of the next n tokens. A worker that was asked for them and gives none, or not so many, is broken. */
static bool take_logprobs(struct gw_job *j, struct vd_bytes b, size_t n)
{
    size_t each = GW_LOGPROB_BYTES(j->logprobs);
    if (j->logprobs == 0)
        return b.n == 0;
    for (size_t i = 0; i < n; i++) {
        size_t used = b.n >= 5 ? 5 + 8 * (size_t)b.p[4] : 0;
        if (used == 0 || used > b.n || used > each)
            return false;
        if (j->n_expected + i >= j->n_output) /* what is there already is being read */
            memcpy(j->logprob + each * (j->n_expected + i), b.p, used);
        b.p += used;
        b.n -= used;
    }
    return b.n == 0;
}

/* False: the worker broke a rule. Tokens that an earlier worker gave already must be the same. */
static bool take_tokens(struct gw_job *j, const struct vd_wire_token *m)
{
    if (m->index != j->n_expected || m->ids.n > j->max_tokens - j->n_expected ||
        !take_logprobs(j, m->logprobs, m->ids.n))
        return false;
    for (size_t i = 0; i < m->ids.n; i++, j->n_expected++) {
        if (!j->sampling.pooling && !vd_gateway_text_valid(j->model->text, m->ids.v[i]))
            return false;
        if (j->n_expected < j->n_output) {
            if (j->output[j->n_expected] != m->ids.v[i])
                return false;
        } else {
            j->output[j->n_output++] = m->ids.v[i];
        }
    }
    j->progress_ms = vd_clock_ms();
    return true;
}

static void on_token(struct vd_gateway *g, struct vd_link *l, struct gw_session *s, struct vd_bytes body)
{
    struct vd_wire_token m;
    uint32_t small[64];
    size_t need = 4 * body.n + 8;
    void *memory = need <= sizeof small ? small : malloc(need);
    struct vd_arena arena = vd_arena_init(memory, memory ? need : 0);
    bool ok = memory && vd_wire_get_token(&m, body, &arena);
    if (ok) {
        pthread_mutex_lock(&g->mu);
        struct gw_job *j = gw_job_of(g, s, &m.job);
        if (j) { /* else: it was cancelled or given to another meanwhile */
            ok = take_tokens(j, &m);
            if (ok)
                gw_stream_pass(g, VD_WIRE_TOKEN, body);
            gw_job_wake(j, ok ? GW_RUNNING : GW_BROKEN);
        }
        pthread_mutex_unlock(&g->mu);
    }
    if (!ok)
        vd_link_close(l, VD_EFORMAT, "a TOKEN that does not fit");
    if (memory != small)
        free(memory);
}

static void on_receipt(struct vd_gateway *g, struct vd_link *l, struct gw_session *s, struct vd_bytes body)
{
    struct vd_wire_receipt m;
    if (!vd_wire_get_receipt(&m, body)) {
        vd_link_close(l, VD_EFORMAT, "malformed RECEIPT");
        return;
    }
    pthread_mutex_lock(&g->mu);
    struct gw_job *j = gw_job_of(g, s, &m.job);
    if (j) {
        memcpy(j->receipt, m.receipt.p, m.receipt.n);
        j->n_receipt = m.receipt.n;
        j->worker_sig = m.worker_sig;
        gw_stream_pass(g, VD_WIRE_RECEIPT, body);
        gw_job_wake(j, GW_RECEIPT);
    }
    pthread_mutex_unlock(&g->mu);
}

static void on_refuse(struct vd_gateway *g, struct vd_link *l, struct gw_session *s, struct vd_bytes body)
{
    struct vd_wire_refuse m;
    if (!vd_wire_get_refuse(&m, body)) {
        vd_link_close(l, VD_EFORMAT, "malformed REFUSE");
        return;
    }
    if (gw_stream_on_refuse(g, s, &m))
        return;
    pthread_mutex_lock(&g->mu);
    struct gw_job *j = gw_job_of(g, s, &m.what);
    if (j) {
        j->refusal = m.code;
        gw_job_wake(j, GW_REFUSED);
    }
    pthread_mutex_unlock(&g->mu);
    vd_log_event(&g->log, VD_LOG_INFO, "a worker refused a job", "peer=%s reason=%s detail=%.*s",
                 vd_link_peer_addr(l), vd_wire_refuse_text(m.code), (int)m.text.n, (const char *)m.text.p);
}

/* ---- audits ---- */

static bool note_dispute(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    bool *found = arg;
    (void)key;
    (void)value;
    *found = true;
    return false;
}

/* One look, however many others have challenged the receipt. */
static bool open_dispute_with(struct vd_gateway *g, const struct vd_hash *receipt,
                              const struct vd_pubkey *key)
{
    struct vd_state_key prefix = vd_state_key_challenge(receipt, key, NULL);
    bool found = false;
    return vd_ledger_client_list(g->ledger, &prefix, note_dispute, &found, NULL) == VD_OK && found;
}

/* docs/spec/wire.md, section 5. */
static bool may_see(struct vd_gateway *g, const struct gw_session *s, const struct vd_gwstore_receipt *r,
                    const struct vd_receipt *receipt)
{
    struct vd_amount stake;
    if (vd_pubkey_eq(&s->key, &receipt->request.worker))
        return true;
    if (s->role == VD_ROLE_VERIFIER && receipt->request.disclosure == 0)
        return true;
    return gw_stake_of(g, &s->key, &stake, NULL) || open_dispute_with(g, &r->id, &s->key);
}

static void refuse_audit(struct vd_link *l, const struct vd_hash *id, enum vd_wire_refuse_code code)
{
    uint8_t buf[128];
    struct vd_wire_refuse m = {.what = *id, .code = code};
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    vd_wire_put_refuse(&w, &m);
    send(l, VD_WIRE_REFUSE, &w);
}

static void send_envelope(struct vd_gateway *g, struct vd_link *l, const struct vd_gwstore_receipt *r)
{
    size_t cap = r->n_envelope + 64;
    uint8_t *buf = malloc(cap);
    struct vd_pb_writer w = vd_pb_writer_init(buf, buf ? cap : 0);
    struct vd_wire_audit_data m = {r->id, {r->envelope, r->n_envelope}};
    if (vd_wire_put_audit_data(&w, &m)) {
        send(l, VD_WIRE_AUDIT_DATA, &w);
        pthread_mutex_lock(&g->mu);
        g->stats.n_audits++;
        pthread_mutex_unlock(&g->mu);
    } else {
        refuse_audit(l, &r->id, VD_REFUSE_INTERNAL);
    }
    free(buf);
}

/* The worker, model and so on stand in the receipt, the envelope's first field. */
static bool receipt_in(const struct vd_gwstore_receipt *r, struct vd_receipt *out)
{
    struct vd_signed_receipt s;
    struct vd_pb_reader pb = vd_pb_reader_init(r->envelope, r->n_envelope);
    return vd_signed_receipt_decode(vd_pb_get_bytes(&pb, 1, VD_SIGNED_RECEIPT_MAX_BYTES), &s) &&
           vd_receipt_decode((struct vd_bytes){s.body, s.body_bytes}, out) == VD_RECEIPT_OK;
}

static void on_audit_get(struct vd_gateway *g, struct vd_link *l, struct gw_session *s, struct vd_bytes body)
{
    struct vd_wire_audit_get m;
    struct vd_gwstore_receipt r;
    struct vd_receipt receipt;
    if (!vd_wire_get_audit_get(&m, body)) {
        vd_link_close(l, VD_EFORMAT, "malformed AUDIT_GET");
        return;
    }
    if (vd_gwstore_receipt_get(g->store, &m.receipt_id, &r, NULL) != VD_OK) {
        refuse_audit(l, &m.receipt_id, VD_REFUSE_NOT_FOUND);
        return;
    }
    if (receipt_in(&r, &receipt) && may_see(g, s, &r, &receipt))
        send_envelope(g, l, &r);
    else
        refuse_audit(l, &m.receipt_id, VD_REFUSE_NOT_ALLOWED);
    free(r.envelope);
}

/* greeted and role change on the link's own thread only, which this is; follows does not. */
static bool may_refuse(struct vd_gateway *g, const struct gw_session *s)
{
    pthread_mutex_lock(&g->mu);
    bool may = s->role == VD_ROLE_WORKER || s->follows;
    pthread_mutex_unlock(&g->mu);
    return may;
}

static void on_frame(void *arg, struct vd_link *l, unsigned type, struct vd_bytes body)
{
    struct vd_gateway *g = arg;
    struct gw_session *s = vd_link_user(l);
    if (!s)
        return;
    bool worker = s->greeted && s->role == VD_ROLE_WORKER;
    if (type == VD_WIRE_HELLO && !s->greeted)
        on_hello(g, l, s, body);
    else if (!s->greeted)
        vd_link_close(l, VD_EFORMAT, "HELLO comes first");
    else if (type == VD_WIRE_TOKEN && worker)
        on_token(g, l, s, body);
    else if (type == VD_WIRE_RECEIPT && worker)
        on_receipt(g, l, s, body);
    else if (type == VD_WIRE_PREFIX && worker)
        gw_stream_on_prefix(g, l, s, body);
    else if (type == VD_WIRE_REFUSE && may_refuse(g, s))
        on_refuse(g, l, s, body);
    else if (type == VD_WIRE_AUDIT_GET)
        on_audit_get(g, l, s, body);
    else
        vd_link_close(l, VD_EFORMAT, "not a message to a gateway");
}

enum vd_err gw_pool_start(struct vd_gateway *g, struct vd_error *err)
{
    struct vd_link_config link = {.key = &g->key, .cb = {g, on_open, on_frame, on_close, on_fail}};
    return vd_link_listen(&g->listener, &link, g->cfg.listen_host, g->cfg.listen_port, err);
}

/* ---- choosing a worker ---- */

static const struct vd_wire_offer *offer_of(const struct vd_gateway *g, const struct gw_session *s,
                                            const struct vd_hash *root)
{
    if (!s->greeted || s->role != VD_ROLE_WORKER)
        return NULL;
    for (size_t i = 0; i < s->n_offers; i++) {
        const struct vd_wire_offer *o = &s->offer[i];
        bool cheap = (!g->cfg.price_in_max.micro || vd_amount_cmp(o->price_in, g->cfg.price_in_max) <= 0) &&
                     (!g->cfg.price_out_max.micro || vd_amount_cmp(o->price_out, g->cfg.price_out_max) <= 0);
        if (vd_hash_eq(&o->model_root, root) && o->capacity && cheap)
            return o;
    }
    return NULL;
}

size_t gw_workers_of(struct vd_gateway *g, const struct vd_hash *root, struct vd_wire_offer *cheapest)
{
    size_t n = 0;
    for (struct gw_session *s = g->sessions; s; s = s->next) {
        const struct vd_wire_offer *o = offer_of(g, s, root);
        if (!o)
            continue;
        if (n++ == 0 || vd_amount_cmp(o->price_out, cheapest->price_out) < 0)
            *cheapest = *o;
    }
    return n;
}

static bool is_excluded(const struct gw_job *j, const struct vd_pubkey *key)
{
    for (unsigned i = 0; i < j->n_excluded; i++) {
        if (vd_pubkey_eq(&j->excluded[i], key))
            return true;
    }
    return false;
}

static struct vd_amount price_of(const struct vd_wire_offer *o, uint64_t in_tok, uint64_t out_tok)
{
    struct vd_amount in, out, sum;
    if (!vd_amount_mul(&in, o->price_in, in_tok) || !vd_amount_mul(&out, o->price_out, out_tok) ||
        !vd_amount_add(&sum, in, out))
        return vd_amount_micro(UINT64_MAX);
    return sum;
}

uint32_t gw_job_out_tok(const struct gw_job *j)
{
    return j->sampling.pooling ? 0 : j->max_tokens; /* a vector costs what is read for it */
}

static struct vd_amount most_of(const struct gw_job *j, const struct vd_wire_offer *o)
{
    return price_of(o, j->n_prompt, gw_job_out_tok(j));
}

static bool reserve(struct vd_gateway *g, struct gw_job *j, const struct vd_wire_offer *o,
                    struct vd_openai_error *e)
{
    const struct gw_siblings *s = j->siblings;
    struct vd_amount most = most_of(j, o);
    return gw_money_reserve(g, j, most, s ? price_of(o, s->in_tok, s->out_tok) : most, e);
}

enum choice { CHOSEN, ALL_BUSY, NO_STAKE_LEFT, TOO_DEAR, NOBODY };

static enum choice choose(struct vd_gateway *g, const struct gw_job *j, struct gw_session **out,
                          const struct vd_wire_offer **offer)
{
    enum choice c = NOBODY;
    uint64_t best = UINT64_MAX;
    for (struct gw_session *s = g->sessions; s; s = s->next) {
        const struct vd_wire_offer *o = offer_of(g, s, &j->model->root);
        struct vd_amount with;
        uint32_t context = j->n_prompt + gw_job_out_tok(j);
        if (!o || is_excluded(j, &s->key) || gw_stream_is_wrong(g, &s->key) ||
            (o->context_tok && context > o->context_tok))
            continue;
        if (s->n_running >= o->capacity) {
            c = c == CHOSEN ? CHOSEN : ALL_BUSY;
            continue;
        }
        if (g->max_receipt.micro && vd_amount_cmp(most_of(j, o), g->max_receipt) > 0) {
            c = c == NOBODY ? TOO_DEAR : c;
            continue;
        }
        if (!vd_amount_add(&with, s->committed, most_of(j, o)) || vd_amount_cmp(with, s->stake_free) > 0) {
            c = c == NOBODY || c == TOO_DEAR ? NO_STAKE_LEFT : c;
            continue;
        }
        uint64_t load =
            ((uint64_t)s->n_running << 32) / o->capacity; /* the least loaded, then the cheapest */
        if (j->siblings && j->siblings->n_placed && vd_pubkey_eq(&j->siblings->worker, &s->key))
            load = 0; /* it knows the prompt */
        if (c != CHOSEN || load < best ||
            (load == best && vd_amount_cmp(o->price_out, (*offer)->price_out) < 0)) {
            best = load;
            *out = s;
            *offer = o;
        }
        c = CHOSEN;
    }
    return c;
}

/* ---- giving the job away ---- */

static bool make_request(struct vd_gateway *g, struct gw_job *j, const struct gw_session *s,
                         const struct vd_wire_offer *o, uint64_t sequence)
{
    struct vd_request *r = &j->request;
    *r = (struct vd_request){.genesis = g->genesis,
                             .arith_version = VD_ARITH_VERSION,
                             .valid_until = vd_ledger_client_height(g->ledger) + g->validity_blocks,
                             .escrow_id = g->escrow,
                             .sequence = sequence,
                             .gateway = g->key.pub,
                             .worker = s->key,
                             .model_root = j->model->root,
                             .prompt_root = j->prompt_root,
                             .n_prompt = j->n_prompt,
                             .salt_commit = vd_salt_commit(j->salt),
                             .sampling = j->sampling,
                             .max_tokens = j->max_tokens,
                             .price_in = o->price_in,
                             .price_out = j->sampling.pooling ? VD_AMOUNT_ZERO : o->price_out};
    vd_request_set_controls(r, &j->controls);
    j->n_request = vd_request_encode(r, j->request_bytes, sizeof j->request_bytes);
    struct vd_bytes bytes = {j->request_bytes, j->n_request};
    j->id = vd_receipt_id(bytes);
    return j->n_request > 0;
}

/* Tokens to resume from: not one that ends the answer, so that the worker says itself that it ends. */
static uint32_t n_resume(const struct gw_job *j)
{
    uint32_t n = j->n_output;
    if (j->sampling.pooling)
        return 0;
    if (n && (n == j->max_tokens || vd_gateway_text_is_stop(j->model->text, j->output[n - 1])))
        n--;
    return n;
}

/* docs/spec/wire.md, section 4. */
static struct vd_hash account_for(const struct vd_gateway *g, const struct gw_job *j)
{
    static const char tag[] = "veridem/account";
    uint8_t msg[sizeof tag + VD_PUBKEY_BYTES + VD_KEY_ID_BYTES];
    memcpy(msg, tag, sizeof tag);
    memcpy(msg + sizeof tag, j->worker.b, VD_PUBKEY_BYTES);
    memcpy(msg + sizeof tag + VD_PUBKEY_BYTES, j->key.b, VD_KEY_ID_BYTES);
    return vd_hmac_sha256(g->key.secret, VD_SEED_BYTES, msg, sizeof msg);
}

static bool send_job(struct vd_gateway *g, struct gw_job *j, struct vd_link *l)
{
    size_t cap = 5 * ((size_t)j->n_prompt + j->n_output) + VD_REQUEST_MAX_BYTES + j->controls.bias.n +
                 j->controls.mask.n + 256;
    uint8_t *buf = malloc(cap);
    struct vd_pb_writer w = vd_pb_writer_init(buf, buf ? cap : 0);
    struct vd_wire_job m = {.request = {j->request_bytes, j->n_request},
                            .prompt = {j->prompt, j->n_prompt},
                            .resume = {j->output, n_resume(j)},
                            .account = account_for(g, j),
                            .controls = j->controls,
                            .logprobs = j->logprobs};
    memcpy(m.salt.b, j->salt, VD_SALT_BYTES);
    vd_key_sign(&m.request_sig, &g->key, VD_TAG_REQUEST, j->request_bytes, j->n_request);
    bool ok = vd_wire_put_job(&w, &m) && vd_link_send(l, VD_WIRE_JOB, buf, w.n_bytes, NULL) == VD_OK;
    if (ok)
        gw_stream_pass(g, VD_WIRE_JOB, (struct vd_bytes){buf, w.n_bytes});
    free(buf);
    return ok;
}

/* Under mu. Signing and hashing take well below a millisecond. */
static bool give(struct vd_gateway *g, struct gw_job *j, struct gw_session *s, const struct vd_wire_offer *o,
                 uint64_t sequence)
{
    if (!make_request(g, j, s, o, sequence))
        return false;
    j->reserved = most_of(j, o);
    j->session = s;
    j->worker = s->key;
    j->phase = GW_RUNNING;
    j->n_expected = n_resume(j);
    if (j->sampling.pooling)
        j->n_output = 0; /* another worker's vector is its own to answer for */
    j->progress_ms = vd_clock_ms();
    if (j->siblings && j->n_attempts == 0) {
        j->siblings->n_new--;
        j->siblings->in_tok -= j->n_prompt;
        j->siblings->out_tok -= gw_job_out_tok(j);
    }
    j->n_attempts++;
    if (!send_job(g, j, s->link)) {
        j->session = NULL;
        j->phase = GW_LOST;
        return false;
    }
    s->n_running++;
    if (j->siblings) {
        j->siblings->n_placed++;
        j->siblings->worker = s->key;
        j->placed = true;
    }
    bool added = vd_amount_add(&s->committed, s->committed, j->reserved);
    (void)added; /* choose has looked */
    j->next = g->jobs;
    g->jobs = j;
    return true;
}

static bool none_left(const struct gw_job *j, enum choice c, struct vd_openai_error *e)
{
    bool begun = j->n_output > 0;
    if (c == ALL_BUSY)
        vd_openai_fail(e, 503, "workers_busy", NULL, "All workers for '%s' are busy; try again in a moment.",
                       j->model->name);
    else if (c == NO_STAKE_LEFT)
        vd_openai_fail(e, 503, "stake_used_up", NULL,
                       "The stakes of the workers for '%s' cover no further answers until earlier ones are "
                       "final; try again "
                       "later or ask for fewer tokens.",
                       j->model->name);
    else if (c == TOO_DEAR)
        return vd_openai_fail(
            e, 400, "answer_too_expensive", "max_tokens",
            "This answer could cost more than the network's limit for one receipt; ask for fewer tokens.");
    else if (j->n_attempts)
        vd_openai_fail(e, begun ? 502 : 503, "worker_failed", NULL,
                       "The worker for '%s' failed, and there is no other one that can go on.",
                       j->model->name);
    else
        vd_openai_fail(e, 503, "no_worker", NULL, "No worker that offers '%s' is connected; try again later.",
                       j->model->name);
    e->retry_after_s = c == ALL_BUSY ? 1 : 5;
    return false;
}

/* How long it is worth to wait for that. */
static uint32_t patience_ms(const struct vd_gateway *g, const struct gw_job *j, enum choice c)
{
    if (c == ALL_BUSY)
        return g->cfg.queue_ms;
    return c == NOBODY && j->n_output > 0 ? GW_RESUME_WAIT_MS : GW_NO_WORKER_MS;
}

/* What waits is reserved as well, at the least price there is: two that wait must not both count on what is
 * enough for one. */
static bool reserve_to_wait(struct vd_gateway *g, struct gw_job *j, struct vd_openai_error *e)
{
    struct vd_wire_offer cheapest;
    return gw_workers_of(g, &j->model->root, &cheapest) == 0 || reserve(g, j, &cheapest, e);
}

/* Waits until choose finds somebody. Under mu. */
static bool await_worker(struct vd_gateway *g, struct gw_job *j, gw_alive_fn *alive, void *arg,
                         struct gw_session **s, const struct vd_wire_offer **o, struct vd_openai_error *e)
{
    uint64_t start = vd_clock_ms();
    enum choice c = choose(g, j, s, o);
    if (c != CHOSEN && g->n_waiting >= g->cfg.queue_max) {
        vd_openai_fail(e, 503, "queue_full", NULL,
                       "Too many requests wait for a worker; try again in a moment.");
        e->retry_after_s = 2;
        return false;
    }
    if ((c == ALL_BUSY || c == NO_STAKE_LEFT) && !reserve_to_wait(g, j, e))
        return false;
    g->n_waiting++;
    while (c != CHOSEN && c != TOO_DEAR && !atomic_load(&g->stopping) &&
           vd_clock_ms() - start < patience_ms(g, j, c)) {
        gw_cond_wait_ms(&g->pool_changed, &g->mu, GW_ALIVE_POLL_MS);
        if (alive && !alive(arg))
            break;
        c = choose(g, j, s, o);
    }
    g->n_waiting--;
    if (atomic_load(&g->stopping))
        return gw_shutting_down(e);
    return c == CHOSEN || none_left(j, c, e);
}

bool gw_job_place(struct vd_gateway *g, struct gw_job *j, gw_alive_fn *alive, void *arg,
                  struct vd_openai_error *e)
{
    uint64_t sequence;
    struct gw_session *s;
    const struct vd_wire_offer *o;
    if (j->n_attempts >= GW_ATTEMPTS_MAX)
        return none_left(j, NOBODY, e);
    if (!gw_money_sequence(g, &sequence, e))
        return false;
    pthread_mutex_lock(&g->mu);
    bool ok = await_worker(g, j, alive, arg, &s, &o, e);
    ok = ok && reserve(g, j, o, e);
    if (ok && !give(g, j, s, o, sequence))
        ok = none_left(j, NOBODY, e);
    pthread_mutex_unlock(&g->mu);
    return ok;
}

bool gw_job_try(struct vd_gateway *g, struct gw_job *j)
{
    struct vd_openai_error e;
    struct gw_session *s;
    const struct vd_wire_offer *o;
    uint64_t sequence;
    pthread_mutex_lock(&g->mu);
    bool ok = choose(g, j, &s, &o) == CHOSEN;
    pthread_mutex_unlock(&g->mu);
    if (!ok || !gw_money_sequence(g, &sequence, &e)) /* it may touch the disk */
        return false;
    pthread_mutex_lock(&g->mu);
    ok = choose(g, j, &s, &o) == CHOSEN && reserve(g, j, o, &e) && give(g, j, s, o, sequence);
    pthread_mutex_unlock(&g->mu);
    return ok;
}

void gw_job_leave(struct vd_gateway *g, struct gw_job *j)
{
    pthread_mutex_lock(&g->mu);
    if (j->placed)
        j->siblings->n_placed--;
    j->placed = false;
    struct gw_job **at = &g->jobs;
    while (*at && *at != j)
        at = &(*at)->next;
    if (*at) {
        *at = j->next;
        if (j->phase != GW_RECEIPT)
            gw_stream_over(g, j);
    }
    if (j->session) {
        j->session->n_running--;
        if (!vd_amount_sub(&j->session->committed, j->session->committed, j->reserved))
            j->session->committed = VD_AMOUNT_ZERO;
        j->session->committed.micro += j->owed.micro; /* until the settler has looked at the stake again */
    }
    j->session = NULL;
    j->over_ms = 0;
    j->reserved = j->owed = VD_AMOUNT_ZERO;
    pthread_cond_broadcast(&g->pool_changed);
    pthread_mutex_unlock(&g->mu);
}

void gw_job_cancel(struct vd_gateway *g, struct gw_job *j)
{
    uint8_t buf[64];
    struct vd_wire_cancel m;
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    pthread_mutex_lock(&g->mu);
    j->cancelled = true;
    m.job = j->id;
    vd_wire_put_cancel(&w, &m);
    if (j->session && j->phase == GW_RUNNING)
        send(j->session->link, VD_WIRE_CANCEL, &w);
    pthread_mutex_unlock(&g->mu);
}

void gw_job_send_accept(struct vd_gateway *g, struct gw_job *j, const struct vd_hash *receipt_id,
                        const struct vd_sig *gateway_sig)
{
    uint8_t buf[256];
    struct vd_wire_accept m = {j->id, *receipt_id, *gateway_sig};
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    vd_wire_put_accept(&w, &m);
    pthread_mutex_lock(&g->mu);
    if (j->session)
        send(j->session->link, VD_WIRE_ACCEPT, &w);
    pthread_mutex_unlock(&g->mu);
}
