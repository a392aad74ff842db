/* What a verifier owes as an auditor that the ledger drew: commit to what its replay says, reveal it when all
 * have committed, and dispute the receipt if it does not stand (docs/spec/audit.md).
 *
 * All on the auditor's thread. Nothing is kept on disk but the case of a dispute: which audits there are the
 * ledger says, a replay gives the same verdict again, and the nonce follows from the key; so a verifier that
 * dies between its commitment and its reveal goes on when it comes back. */
#include "vd_audit.h"
#include "vd_clock.h"
#include "vd_pb.h"
#include "vd_verifier_impl.h"

#include <stdlib.h>
#include <string.h>

enum { VD_DUTY_DEMAND_TRIES = 3, VD_DUTY_WAIT_MS = 30000 };

/* ---- Registering ---- */

static enum vd_err vd_duty_send(struct vd_verifier *v, struct vd_tx *tx, struct vd_error *err)
{
    struct vd_ledger_outcome o;
    enum vd_err e = vd_ledger_client_send(v->ledger, tx, VD_DUTY_WAIT_MS, &o, err);
    vd_log_event(&v->log, e == VD_OK ? VD_LOG_INFO : VD_LOG_WARN, e == VD_OK ? "applied" : "refused",
                 "kind=%s%s%s", vd_tx_kind_name(tx->kind),
                 e == VD_OK ? "" : " why=", e == VD_OK ? "" : err->msg);
    return e;
}

static enum vd_err vd_duty_stake(struct vd_verifier *v, struct vd_error *err)
{
    struct vd_stake s;
    enum vd_err e = vd_ledger_client_stake(v->ledger, &v->key.pub, &s, err);
    if (e == VD_ENOTFOUND)
        s = (struct vd_stake){.n_final = 0};
    else if (e != VD_OK)
        return e;
    uint64_t want = v->stake.micro > v->rules->min_stake.micro ? v->stake.micro : v->rules->min_stake.micro;
    struct vd_tx tx = {.kind = VD_TX_STAKE, .u.stake.amount.micro = want - s.amount.micro};
    return s.amount.micro >= want ? VD_OK : vd_duty_send(v, &tx, err);
}

/* Once for each model; one that the ledger does not know yet is tried again later. */
static void vd_duty_register(struct vd_verifier *v)
{
    struct vd_model_record model;
    struct vd_ledger_answer a;
    struct vd_error err;
    for (size_t i = 0; i < v->n_desks; i++) {
        struct vd_verifier_desk *d = &v->desk[i];
        struct vd_tx tx = {.kind = VD_TX_AUDITOR, .u.auditor = {d->m.root, true}};
        struct vd_state_key key =
            vd_state_key_make(VD_STATE_AUDITOR, d->m.root.b, VD_HASH_BYTES, v->key.pub.b);
        if (d->listed || vd_ledger_client_model(v->ledger, &d->m.root, &model, &err) != VD_OK)
            continue;
        if (vd_duty_stake(v, &err) != VD_OK)
            return;
        struct vd_auditor listed = {.off_height = 1};
        enum vd_err e = vd_ledger_client_get(v->ledger, &key, VD_LEDGER_QUERY_TIMEOUT_MS, &a, &err);
        if (e == VD_OK) {
            e = vd_auditor_decode(a.item[0], &listed) ? VD_OK : VD_EFORMAT;
            vd_ledger_answer_free(&a);
        }
        if (e == VD_ENOTFOUND || (e == VD_OK && listed.off_height))
            e = vd_duty_send(v, &tx, &err);
        d->listed = e == VD_OK;
    }
}

/* ---- Which audits there are ---- */

static struct vd_duty *vd_duty_find(struct vd_verifier *v, const struct vd_hash *receipt_id)
{
    for (size_t i = 0; i < v->n_duties; i++)
        if (vd_hash_eq(&v->duty[i].what.receipt_id, receipt_id))
            return &v->duty[i];
    return NULL;
}

static bool vd_duty_add(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    struct vd_verifier *v = arg;
    struct vd_hash id;
    (void)value;
    if (key.n != 1 + VD_PUBKEY_BYTES + VD_HASH_BYTES)
        return true;
    memcpy(id.b, key.p + 1 + VD_PUBKEY_BYTES, VD_HASH_BYTES);
    pthread_mutex_lock(&v->mu);
    if (!vd_duty_find(v, &id) && v->n_duties < VD_VERIFIER_DUTIES_MAX)
        v->duty[v->n_duties++] = (struct vd_duty){.what.receipt_id = id};
    bool room = v->n_duties < VD_VERIFIER_DUTIES_MAX;
    pthread_mutex_unlock(&v->mu);
    return room;
}

/* ---- The data that were shown on the ledger ---- */

struct vd_duty_shown {
    uint32_t *tokens;
    size_t n, cap;
    uint8_t tables[VD_CONTROLS_MAX_BYTES + 64];
    size_t n_tables;
    bool bad;
};

static bool vd_duty_take_part(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    struct vd_duty_shown *s = arg;
    bool tables = key.n == 1 + 2 * VD_HASH_BYTES + 4 &&
                  memcmp(key.p + 1 + 2 * VD_HASH_BYTES, "\xff\xff\xff\xff", 4) == 0;
    if (tables) {
        s->bad |= value.n > sizeof s->tables;
        s->n_tables = s->bad ? 0 : value.n;
        memcpy(s->tables, value.p, s->n_tables);
        return !s->bad;
    }
    s->bad |= value.n / 4 > s->cap - s->n;
    for (size_t i = 0; !s->bad && i + 4 <= value.n; i += 4)
        s->tokens[s->n++] = vd_le32_load(value.p + i);
    return !s->bad;
}

/* An envelope without signatures: the ledger has checked what stands in it. *tokens also holds the tables. */
static enum vd_err vd_duty_read_shown(struct vd_verifier *v, const struct vd_duty *d,
                                      const struct vd_audit *a, struct vd_envelope *e, uint32_t **tokens,
                                      struct vd_error *err)
{
    struct vd_state_key receipt =
        vd_state_key_make(VD_STATE_RECEIPT, d->what.receipt_id.b, VD_HASH_BYTES, NULL);
    struct vd_state_key showing =
        vd_state_key_make(VD_STATE_SHOWING, d->what.receipt_id.b, VD_HASH_BYTES, a->shown_by.b);
    struct vd_state_key parts =
        vd_state_key_make(VD_INDEX_SHOWN, d->what.receipt_id.b, VD_HASH_BYTES, a->shown_by.b);
    struct vd_ledger_answer answer;
    struct vd_receipt_record record;
    struct vd_showing w;
    struct vd_receipt r;
    *e = (struct vd_envelope){.n_prompt = 0};
    enum vd_err code = vd_ledger_client_get(v->ledger, &receipt, VD_LEDGER_QUERY_TIMEOUT_MS, &answer, err);
    if (code != VD_OK)
        return code;
    bool good = vd_receipt_record_decode(answer.item[0], &record) &&
                record.body.n <= sizeof e->receipt.body &&
                vd_receipt_decode(record.body, &r) == VD_RECEIPT_OK;
    if (good) {
        memcpy(e->receipt.body, record.body.p, record.body.n);
        e->receipt.body_bytes = record.body.n;
    }
    vd_ledger_answer_free(&answer);
    if (!good)
        return vd_error_set(err, VD_EFORMAT, "the ledger's receipt does not decode, or is closed");
    code = vd_ledger_client_get(v->ledger, &showing, VD_LEDGER_QUERY_TIMEOUT_MS, &answer, err);
    if (code != VD_OK)
        return code;
    good = vd_showing_decode(answer.item[0], &w);
    vd_ledger_answer_free(&answer);
    size_t n = (size_t)r.request.n_prompt + r.n_output;
    struct vd_duty_shown *s = calloc(1, sizeof *s);
    uint32_t *memory = malloc(n * sizeof *memory + sizeof s->tables);
    if (!s || !memory || !good) {
        free(s);
        free(memory);
        return vd_error_set(err, good ? VD_ENOMEM : VD_EFORMAT,
                            "the data shown on the ledger cannot be read");
    }
    s->tokens = memory;
    s->cap = n;
    code = vd_ledger_client_list(v->ledger, &parts, vd_duty_take_part, s, err);
    if (code == VD_OK && (s->bad || s->n != n))
        code = vd_error_set(err, VD_EAGAIN, "the data shown on the ledger are not whole");
    memcpy(memory + n, s->tables, s->n_tables);
    struct vd_pb_reader t = vd_pb_reader_init(memory + n, s->n_tables);
    e->controls.bias = vd_pb_get_bytes(&t, 1, VD_CONTROLS_MAX_BYTES);
    e->controls.mask = vd_pb_get_bytes(&t, 2, VD_CONTROLS_MAX_BYTES);
    free(s);
    if (code != VD_OK) {
        free(memory);
        return code;
    }
    memcpy(e->job_salt, w.salt.b, VD_SALT_BYTES);
    e->prompt = memory;
    e->n_prompt = r.request.n_prompt;
    e->output = memory + e->n_prompt;
    e->n_output = r.n_output;
    *tokens = memory;
    return VD_OK;
}

/* ---- What the replay says ---- */

static void vd_duty_nonce(const struct vd_verifier *v, struct vd_tx_audit_reveal *what)
{
    static const char tag[] = "veridem/audit-nonce";
    uint8_t in[sizeof tag + VD_HASH_BYTES];
    memcpy(in, tag, sizeof tag);
    memcpy(in + sizeof tag, what->receipt_id.b, VD_HASH_BYTES);
    what->nonce = vd_hmac_sha256(v->key.secret, VD_SEED_BYTES, in, sizeof in);
}

/* From the gateway, unless it let one wait lately: an audit has a clock, all of an auditor's have the same
 * thread, and whoever does not answer is made to on the ledger. */
static enum vd_err vd_duty_fetch(struct vd_verifier *v, const struct vd_duty *d, const struct vd_audit *a,
                                 struct vd_envelope *e, uint32_t **tokens, struct vd_error *err)
{
    struct vd_verifier_task task = {
        .receipt_id = d->what.receipt_id, .gateway = a->gateway, .fetch_ms = VD_VERIFIER_DUTY_FETCH_MS};
    uint64_t now = vd_clock_ms();
    for (size_t i = 0; i < VD_WORKER_GATEWAYS_MAX; i++)
        if (v->stalled[i].until_ms > now && vd_pubkey_eq(&v->stalled[i].gateway, &a->gateway))
            return vd_error_set(err, VD_ETIMEOUT, "the gateway did not answer lately");
    enum vd_err code = vd_audit_fetch(v, &task, e, tokens, err);
    if (code == VD_ETIMEOUT) {
        v->stalled[v->stalled_at].gateway = a->gateway;
        v->stalled[v->stalled_at].until_ms = vd_clock_ms() + VD_VERIFIER_STALLED_MS;
        v->stalled_at = (v->stalled_at + 1) % VD_WORKER_GATEWAYS_MAX;
    }
    return code;
}

/* Fetches, replays, and knows from then on. The case of a receipt that does not stand is kept for its
 * dispute. */
static enum vd_err vd_duty_learn(struct vd_verifier *v, struct vd_duty *d, const struct vd_audit *a,
                                 struct vd_error *err)
{
    static const struct vd_pubkey nobody;
    struct vd_envelope e = {0};
    struct vd_game_case c;
    struct vd_replay_result result;
    uint32_t *tokens = NULL;
    enum vd_err code = vd_pubkey_eq(&a->shown_by, &nobody) ? vd_duty_fetch(v, d, a, &e, &tokens, err)
                                                           : vd_duty_read_shown(v, d, a, &e, &tokens, err);
    if (code != VD_OK)
        return code;
    struct vd_verifier_desk *desk = vd_audit_desk(v, &a->model_root);
    if (!desk) {
        free(tokens);
        return vd_error_set(err, VD_ENOTFOUND,
                            "the model is not loaded here; start the verifier with it again");
    }
    code = vd_game_case_init(&c, &e, tokens, desk->m.model, err);
    if (code != VD_OK)
        return code;
    code = vd_replay(desk->ctx, desk->cache, &desk->m.root, &c.job, &result, err);
    /* Its tables are the request's, but not for this model (the mask's texts are others): the gateway and the
     * worker signed what nobody can replay, which must not cost an auditor anything. */
    bool unfit = code == VD_OK && result.verdict == VD_REPLAY_JOB && (e.controls.bias.n || e.controls.mask.n);
    if (code == VD_OK && !unfit && result.verdict != VD_REPLAY_OK && !vd_verifier_provable(result.verdict))
        code = vd_error_set(err, VD_EUNSUPPORTED, "%s", vd_replay_text(result.verdict));
    if (code == VD_OK) {
        bool stands = result.verdict == VD_REPLAY_OK;
        d->what.verdict = stands ? VD_AUDIT_STANDS : unfit ? VD_AUDIT_UNFIT : VD_AUDIT_DIFFERS;
        for (int i = 0; i < 2; i++)
            d->what.half[i] = stands ? result.half[i] : (struct vd_hash){{0}};
        vd_duty_nonce(v, &d->what);
        d->commit_root = result.commit_root;
        code = stands || unfit ? VD_OK : vd_worker_jobs_put(&v->cases, &c.envelope, err);
        d->known = code == VD_OK;
    }
    vd_game_case_free(&c);
    return code;
}

/* ---- Saying it ---- */

static void vd_duty_give(struct vd_verifier *v, struct vd_duty *d, const struct vd_tx *tx)
{
    struct vd_parcel *p = calloc(1, sizeof *p);
    if (!p)
        return; /* with the next block again */
    p->tx = *tx;
    pthread_mutex_lock(&v->mu);
    d->sending = true;
    pthread_mutex_unlock(&v->mu);
    if (vd_courier_give(v->courier, p))
        return;
    free(p);
    pthread_mutex_lock(&v->mu);
    d->sending = false;
    pthread_mutex_unlock(&v->mu);
}

static const struct vd_hash *vd_duty_receipt_of(const struct vd_tx *tx)
{
    return tx->kind == VD_TX_AUDIT_COMMIT   ? &tx->u.audit_commit.receipt_id
           : tx->kind == VD_TX_AUDIT_REVEAL ? &tx->u.audit_reveal.receipt_id
                                            : &tx->u.audit_demand.receipt_id;
}

void vd_duty_sent(struct vd_verifier *v, const struct vd_ledger_sending *sent)
{
    const struct vd_hash *id = vd_duty_receipt_of(sent->tx);
    bool ok = sent->result == VD_OK;
    char hex[65];
    vd_hex_encode(hex, id->b, VD_HASH_BYTES);
    vd_log_event(&v->log, ok ? VD_LOG_INFO : VD_LOG_WARN,
                 ok ? "audit" : "an audit's transaction was not taken", "receipt=%s kind=%s%s%s", hex,
                 vd_tx_kind_name(sent->tx->kind), ok ? "" : " error=", ok ? "" : sent->err.msg);
    pthread_mutex_lock(&v->mu);
    struct vd_duty *d = vd_duty_find(v, id);
    if (d) {
        d->sending = false;
        d->not_before_ms = ok ? 0 : vd_clock_ms() + VD_VERIFIER_RETRY_MS;
    }
    v->stats.n_demands += ok && sent->tx->kind == VD_TX_AUDIT_DEMAND;
    v->moved = true;
    pthread_cond_signal(&v->work);
    pthread_mutex_unlock(&v->mu);
}

static void vd_duty_say(struct vd_verifier *v, struct vd_duty *d, enum vd_tx_kind kind)
{
    struct vd_tx tx = {.kind = kind};
    if (kind == VD_TX_AUDIT_COMMIT) {
        tx.u.audit_commit.receipt_id = d->what.receipt_id;
        tx.u.audit_commit.commitment = vd_audit_commitment(&v->key.pub, &d->what);
    } else if (kind == VD_TX_AUDIT_REVEAL) {
        tx.u.audit_reveal = d->what;
    } else {
        tx.u.audit_demand.receipt_id = d->what.receipt_id;
    }
    vd_duty_give(v, d, &tx);
}

/* After all have spoken: a difference is disputed. */
static enum vd_err vd_duty_dispute(struct vd_verifier *v, struct vd_duty *d, struct vd_error *err)
{
    struct vd_envelope e;
    struct vd_game_case c;
    uint32_t *tokens;
    enum vd_err code = vd_worker_jobs_get(&v->cases, &d->what.receipt_id, &e, &tokens, err);
    if (code != VD_OK)
        return code;
    struct vd_receipt r;
    struct vd_verifier_desk *desk = NULL;
    if (vd_receipt_decode((struct vd_bytes){e.receipt.body, e.receipt.body_bytes}, &r) == VD_RECEIPT_OK)
        desk = vd_audit_desk(v, &r.request.model_root);
    if (!desk) {
        free(tokens);
        return vd_error_set(err, VD_ENOTFOUND, "the model is not loaded here");
    }
    code = vd_game_case_init(&c, &e, tokens, desk->m.model, err);
    if (code != VD_OK)
        return code;
    code = vd_audit_challenge(v, &c, &d->commit_root, err);
    vd_game_case_free(&c);
    return code;
}

/* ---- One after the other ---- */

static enum vd_err vd_duty_act(struct vd_verifier *v, struct vd_duty *d, const struct vd_audit *a,
                               enum vd_audit_slot_status mine, struct vd_error *err)
{
    bool due =
        (mine == VD_SLOT_DRAWN && (a->phase == VD_AUDIT_COMMITTING || a->phase == VD_AUDIT_DATA_DUE)) ||
        (mine == VD_SLOT_COMMITTED && a->phase == VD_AUDIT_REVEALING) ||
        (mine == VD_SLOT_DIFFERS && a->phase == VD_AUDIT_HEARD && !d->disputed);
    if (!due)
        return VD_OK;
    d->waits = !d->known && !d->may_learn;
    d->deadline_height = a->deadline_height;
    if (d->waits)
        return VD_OK;
    enum vd_err e = d->known ? VD_OK : vd_duty_learn(v, d, a, err);
    if (e != VD_OK) {
        d->n_tries = e == VD_ETIMEOUT ? VD_DUTY_DEMAND_TRIES : d->n_tries + 1;
        if (a->phase == VD_AUDIT_COMMITTING && !a->demanded && d->n_tries >= VD_DUTY_DEMAND_TRIES)
            vd_duty_say(v, d, VD_TX_AUDIT_DEMAND);
        return e;
    }
    if (mine == VD_SLOT_DRAWN)
        vd_duty_say(v, d, VD_TX_AUDIT_COMMIT);
    else if (mine == VD_SLOT_COMMITTED)
        vd_duty_say(v, d, VD_TX_AUDIT_REVEAL);
    else
        e = vd_duty_dispute(v, d, err);
    d->disputed |= mine == VD_SLOT_DIFFERS && e == VD_OK;
    return e;
}

static void vd_duty_over(struct vd_verifier *v, const struct vd_hash *receipt_id,
                         const struct vd_audit_slot *s)
{
    char hex[65];
    vd_hex_encode(hex, receipt_id->b, VD_HASH_BYTES);
    vd_log_event(&v->log, s->slashed.micro ? VD_LOG_WARN : VD_LOG_INFO, "an audit is over",
                 "receipt=%s said=%s paid_micro=%llu slashed_micro=%llu", hex, vd_audit_slot_name(s->status),
                 (unsigned long long)s->paid.micro, (unsigned long long)s->slashed.micro);
    pthread_mutex_lock(&v->mu);
    v->stats.n_audits++;
    v->stats.n_audits_missed += s->status == VD_SLOT_MISSED;
    v->stats.audit_paid_micro += s->paid.micro;
    v->stats.audit_slashed_micro += s->slashed.micro;
    pthread_mutex_unlock(&v->mu);
}

/* True: there is nothing more to do about it. */
static bool vd_duty_look(struct vd_verifier *v, struct vd_duty *d)
{
    struct vd_audit a;
    struct vd_error err;
    struct vd_audit_slot *mine = NULL;
    char hex[65];
    enum vd_err e = vd_ledger_client_audit(v->ledger, &d->what.receipt_id, &a, &err);
    if (e != VD_OK)
        return e == VD_ENOTFOUND;
    for (uint32_t i = 0; i < a.n_slots; i++)
        if (vd_pubkey_eq(&a.slot[i].auditor, &v->key.pub))
            mine = &a.slot[i];
    if (!mine)
        return true;
    if (a.phase == VD_AUDIT_CLOSED) {
        vd_duty_over(v, &d->what.receipt_id, mine);
        return true;
    }
    e = vd_duty_act(v, d, &a, mine->status, &err);
    if (e == VD_OK || e == VD_ECANCELLED)
        return false;
    d->not_before_ms = vd_clock_ms() + VD_VERIFIER_RETRY_MS;
    vd_hex_encode(hex, d->what.receipt_id.b, VD_HASH_BYTES);
    if (vd_seldom_due(&d->trouble))
        vd_log_event(&v->log, VD_LOG_WARN, "an audit does not go on", "receipt=%s error=%s", hex, err.msg);
    return false;
}

/* True: it is over, and another stands in its place. */
static bool vd_duty_turn(struct vd_verifier *v, size_t i, bool may_learn)
{
    struct vd_duty *d = &v->duty[i];
    pthread_mutex_lock(&v->mu);
    bool due = !d->sending && d->not_before_ms <= vd_clock_ms() && !v->stopping;
    pthread_mutex_unlock(&v->mu);
    d->waits = false;
    d->may_learn = may_learn;
    if (!due || !vd_duty_look(v, d))
        return false;
    pthread_mutex_lock(&v->mu);
    v->drawn |= v->n_duties == VD_VERIFIER_DUTIES_MAX; /* there may be more than there was room for */
    v->duty[i] = v->duty[--v->n_duties];
    pthread_mutex_unlock(&v->mu);
    return true;
}

/* One replay, that of the audit whose clock runs out first; the others' turn comes at once, but after what is
 * known has been said, and after disputes. */
static void vd_duty_learn_one(struct vd_verifier *v)
{
    size_t first = v->n_duties, n = 0;
    for (size_t i = 0; i < v->n_duties; i++) {
        if (!v->duty[i].waits)
            continue;
        n++;
        if (first == v->n_duties || v->duty[i].deadline_height < v->duty[first].deadline_height)
            first = i;
    }
    if (n == 0)
        return;
    vd_duty_turn(v, first, true);
    pthread_mutex_lock(&v->mu);
    v->moved = true;
    pthread_mutex_unlock(&v->mu);
}

void vd_duty_look_at_all(struct vd_verifier *v)
{
    struct vd_error err;
    uint64_t now = vd_clock_ms();
    if (!v->audits || !v->rules->epoch_blocks)
        return;
    if (now >= v->register_at_ms) {
        vd_duty_register(v);
        v->register_at_ms = now + VD_VERIFIER_TICK_MS;
    }
    pthread_mutex_lock(&v->mu);
    bool drawn = v->drawn;
    v->drawn = false;
    pthread_mutex_unlock(&v->mu);
    if (drawn) {
        struct vd_state_key mine =
            vd_state_key_make(VD_INDEX_AUDITOR_AUDIT, v->key.pub.b, VD_PUBKEY_BYTES, NULL);
        bool all = vd_ledger_client_list(v->ledger, &mine, vd_duty_add, v, &err) == VD_OK;
        pthread_mutex_lock(&v->mu);
        v->drawn |= !all;
        pthread_mutex_unlock(&v->mu);
    }
    for (size_t i = 0; i < v->n_duties;)
        i += !vd_duty_turn(v, i, false);
    vd_duty_learn_one(v);
}
