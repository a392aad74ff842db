/* What a verifier owes as an auditor that the ledger drew: commit to what its replay says, reveal it when all
 * have committed, and dispute the receipt if it does not stand (docs/spec/audit.md).
 *
 * All on the auditor's thread, also between the passes of a replay: so a duty may be gone, or stand elsewhere
 * in the list, when a replay is over. Nothing is kept on disk but the case of a dispute: which audits there
 * are the ledger says, a replay gives the same verdict again, and the nonce follows from the key; so a
 * verifier that dies between its commitment and its reveal goes on when it comes back. */
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

/* The receipt as the ledger has it. */
static enum vd_err vd_duty_read_record(struct vd_verifier *v, const struct vd_duty *d,
                                       struct vd_signed_receipt *to, struct vd_receipt *r,
                                       struct vd_error *err)
{
    struct vd_state_key key = vd_state_key_make(VD_STATE_RECEIPT, d->what.receipt_id.b, VD_HASH_BYTES, NULL);
    struct vd_ledger_answer answer;
    struct vd_receipt_record record;
    enum vd_err code = vd_ledger_client_get(v->ledger, &key, VD_LEDGER_QUERY_TIMEOUT_MS, &answer, err);
    if (code != VD_OK)
        return code;
    bool good = vd_receipt_record_decode(answer.item[0], &record) && record.body.n <= sizeof to->body &&
                vd_receipt_decode(record.body, r) == VD_RECEIPT_OK;
    if (good) {
        memcpy(to->body, record.body.p, record.body.n);
        to->body_bytes = record.body.n;
    }
    vd_ledger_answer_free(&answer);
    return good ? VD_OK : vd_error_set(err, VD_EFORMAT, "the ledger's receipt does not decode, or is closed");
}

static enum vd_err vd_duty_read_salt(struct vd_verifier *v, const struct vd_duty *d,
                                     uint8_t salt[VD_SALT_BYTES], struct vd_error *err)
{
    struct vd_state_key key =
        vd_state_key_make(VD_STATE_SHOWING, d->what.receipt_id.b, VD_HASH_BYTES, d->shown_by.b);
    struct vd_ledger_answer answer;
    struct vd_showing w;
    enum vd_err code = vd_ledger_client_get(v->ledger, &key, VD_LEDGER_QUERY_TIMEOUT_MS, &answer, err);
    if (code != VD_OK)
        return code;
    bool good = vd_showing_decode(answer.item[0], &w);
    vd_ledger_answer_free(&answer);
    if (!good)
        return vd_error_set(err, VD_EFORMAT, "the data shown on the ledger cannot be read");
    memcpy(salt, w.salt.b, VD_SALT_BYTES);
    return VD_OK;
}

/* All n tokens, and behind them the tables; the caller's. */
static enum vd_err vd_duty_read_parts(struct vd_verifier *v, const struct vd_duty *d, size_t n,
                                      struct vd_controls *controls, uint32_t **tokens, struct vd_error *err)
{
    struct vd_state_key key =
        vd_state_key_make(VD_INDEX_SHOWN, d->what.receipt_id.b, VD_HASH_BYTES, d->shown_by.b);
    struct vd_duty_shown *s = calloc(1, sizeof *s);
    uint32_t *memory = s ? malloc(n * sizeof *memory + sizeof s->tables) : NULL;
    if (!memory) {
        free(s);
        return vd_error_set(err, VD_ENOMEM, "no memory for the data shown on the ledger");
    }
    s->tokens = memory;
    s->cap = n;
    enum vd_err code = vd_ledger_client_list(v->ledger, &key, vd_duty_take_part, s, err);
    if (code == VD_OK && (s->bad || s->n != n))
        code = vd_error_set(err, VD_EAGAIN, "the data shown on the ledger are not whole");
    memcpy(memory + n, s->tables, s->n_tables);
    struct vd_pb_reader t = vd_pb_reader_init(memory + n, s->n_tables);
    controls->bias = vd_pb_get_bytes(&t, 1, VD_CONTROLS_MAX_BYTES);
    controls->mask = vd_pb_get_bytes(&t, 2, VD_CONTROLS_MAX_BYTES);
    free(s);
    if (code == VD_OK)
        *tokens = memory;
    else
        free(memory);
    return code;
}

/* An envelope without signatures: the ledger has checked what stands in it. *tokens also holds the tables. */
static enum vd_err vd_duty_read_shown(struct vd_verifier *v, const struct vd_duty *d, struct vd_envelope *e,
                                      uint32_t **tokens, struct vd_error *err)
{
    struct vd_receipt r;
    *e = (struct vd_envelope){.n_prompt = 0};
    enum vd_err code = vd_duty_read_record(v, d, &e->receipt, &r, err);
    if (code == VD_OK)
        code = vd_duty_read_salt(v, d, e->job_salt, err);
    if (code == VD_OK)
        code = vd_duty_read_parts(v, d, (size_t)r.request.n_prompt + r.n_output, &e->controls, tokens, err);
    if (code != VD_OK)
        return code;
    e->prompt = *tokens;
    e->n_prompt = r.request.n_prompt;
    e->output = *tokens + e->n_prompt;
    e->n_output = r.n_output;
    return VD_OK;
}

/* ---- Saying it ---- */

static void vd_duty_nonce(const struct vd_verifier *v, struct vd_tx_audit_reveal *what)
{
    static const char tag[] = "veridem/audit-nonce";
    uint8_t in[sizeof tag + VD_HASH_BYTES];
    memcpy(in, tag, sizeof tag);
    memcpy(in + sizeof tag, what->receipt_id.b, VD_HASH_BYTES);
    what->nonce = vd_hmac_sha256(v->key.secret, VD_SEED_BYTES, in, sizeof in);
}

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
    struct vd_hash commit_root = d->commit_root;
    code = vd_audit_challenge(v, &c, &commit_root, err);
    vd_game_case_free(&c);
    return code;
}

/* It cannot go on now: again in a while, and data that do not come are demanded on the ledger. */
static void vd_duty_later(struct vd_verifier *v, struct vd_duty *d, enum vd_err e, const struct vd_error *err)
{
    char hex[65];
    if (e == VD_ECANCELLED)
        return;
    d->n_tries = e == VD_ETIMEOUT ? VD_DUTY_DEMAND_TRIES : d->n_tries + 1;
    pthread_mutex_lock(&v->mu);
    d->not_before_ms = vd_clock_ms() + VD_VERIFIER_RETRY_MS;
    pthread_mutex_unlock(&v->mu);
    vd_hex_encode(hex, d->what.receipt_id.b, VD_HASH_BYTES);
    if (vd_seldom_due(&d->trouble))
        vd_log_event(&v->log, VD_LOG_WARN, "an audit does not go on", "receipt=%s error=%s", hex, err->msg);
    if (d->waits && d->can_demand && d->n_tries >= VD_DUTY_DEMAND_TRIES)
        vd_duty_say(v, d, VD_TX_AUDIT_DEMAND);
    d->waits = false; /* until it is looked at again */
}

/* ---- The data that a gateway has ---- */

static void vd_duty_forget_data(struct vd_verifier *v, struct vd_duty *d)
{
    pthread_mutex_lock(&v->mu);
    free(d->data.envelope);
    d->data.envelope = NULL;
    d->data.from = NULL;
    pthread_mutex_unlock(&v->mu);
}

bool vd_duty_take_data(struct vd_verifier *v, const struct vd_link *link, const struct vd_hash *receipt_id,
                       uint8_t *bytes, size_t n)
{
    struct vd_duty *d = vd_duty_find(v, receipt_id);
    if (!d || d->data.from != link || d->data.envelope || d->data.refused)
        return false;
    d->data.envelope = bytes;
    d->data.n_bytes = n;
    d->data.refused = !bytes;
    v->moved = true;
    pthread_cond_signal(&v->work);
    return true;
}

/* What is left of its clock. */
static uint64_t vd_duty_left_ms(struct vd_verifier *v, const struct vd_duty *d)
{
    uint64_t height = vd_ledger_client_height(v->ledger);
    return d->deadline_height > height ? (d->deadline_height - height) * v->rules->block_time_ms : 0;
}

enum vd_duty_data { VD_DUTY_HERE, VD_DUTY_COMING, VD_DUTY_NOT_ASKED, VD_DUTY_FAILED };

/* Where its data are. */
static enum vd_duty_data vd_duty_data_of(struct vd_verifier *v, struct vd_duty *d, enum vd_err *code,
                                         struct vd_error *err)
{
    static const struct vd_pubkey nobody;
    uint64_t now = vd_clock_ms();
    if (!vd_pubkey_eq(&d->shown_by, &nobody))
        return VD_DUTY_HERE; /* on the ledger */
    enum vd_duty_data is = VD_DUTY_NOT_ASKED;
    pthread_mutex_lock(&v->mu);
    if (d->data.envelope) {
        is = VD_DUTY_HERE;
    } else if (d->data.from && d->data.refused) {
        *code = vd_error_set(err, VD_ENOTFOUND, "the gateway refuses the data");
        is = VD_DUTY_FAILED;
    } else if (d->data.from && now < d->data.until_ms) {
        is = VD_DUTY_COMING;
    } else if (d->data.from || now < d->data.again_ms) {
        *code = vd_error_set(err, VD_ETIMEOUT, "the gateway did not answer");
        d->data.again_ms = d->data.from ? now + VD_VERIFIER_DUTY_AGAIN_MS : d->data.again_ms;
        is = VD_DUTY_FAILED;
    }
    if (is == VD_DUTY_FAILED)
        d->data.from = NULL;
    pthread_mutex_unlock(&v->mu);
    return is;
}

static enum vd_err vd_duty_ask(struct vd_verifier *v, struct vd_duty *d, struct vd_error *err)
{
    struct vd_link *link = vd_audit_link(v, &d->gateway);
    uint64_t ms = vd_duty_left_ms(v, d) / VD_VERIFIER_DUTY_FETCH_PART;
    if (!link)
        return vd_error_set(err, VD_ENET, "no link to the receipt's gateway");
    pthread_mutex_lock(&v->mu);
    d->data.from = link;
    d->data.refused = false;
    d->data.until_ms = vd_clock_ms() + (ms < VD_VERIFIER_DUTY_FETCH_MS ? ms : VD_VERIFIER_DUTY_FETCH_MS);
    pthread_mutex_unlock(&v->mu);
    enum vd_err e = vd_audit_get(link, &d->what.receipt_id, err);
    vd_link_unref(link);
    if (e != VD_OK)
        vd_duty_forget_data(v, d);
    return e;
}

static int vd_duty_by_deadline(const void *a, const void *b)
{
    uint64_t x = (*(struct vd_duty *const *)a)->deadline_height,
             y = (*(struct vd_duty *const *)b)->deadline_height;
    return (x > y) - (x < y);
}

/* Asks for what is not here, the earliest deadline first, and says of which duties the data are here. */
static size_t vd_duty_gather(struct vd_verifier *v, struct vd_duty **here)
{
    struct vd_duty *order[VD_VERIFIER_DUTIES_MAX], *coming[VD_VERIFIER_DUTIES_MAX];
    size_t n = 0, n_here = 0, n_coming = 0;
    for (size_t i = 0; i < v->n_duties; i++)
        if (v->duty[i].waits)
            order[n++] = &v->duty[i];
    qsort(order, n, sizeof order[0], vd_duty_by_deadline);
    for (int ask = 0; ask <= 1; ask++) /* who was asked before has a place before who is asked now */
        for (size_t i = 0; i < n; i++) {
            struct vd_duty *d = order[i];
            struct vd_error err;
            enum vd_err code = VD_OK;
            enum vd_duty_data is = d ? vd_duty_data_of(v, d, &code, &err) : VD_DUTY_COMING;
            size_t n_asked = 0;
            for (size_t k = 0; k < n_coming; k++)
                n_asked += d && vd_pubkey_eq(&coming[k]->gateway, &d->gateway);
            if (is == VD_DUTY_NOT_ASKED && ask && n_asked < VD_VERIFIER_ASKED_MAX &&
                n_here + n_coming < VD_VERIFIER_HELD_MAX) {
                code = vd_duty_ask(v, d, &err);
                is = code == VD_OK ? VD_DUTY_COMING : VD_DUTY_FAILED;
            }
            if (!d || is == VD_DUTY_NOT_ASKED)
                continue;
            order[i] = NULL;
            if (is == VD_DUTY_FAILED)
                vd_duty_later(v, d, code, &err);
            else if (is == VD_DUTY_HERE)
                here[n_here++] = d;
            else
                coming[n_coming++] = d;
        }
    return n_here;
}

/* ---- What the replays say ---- */

/* Those that are replayed together: the cases name the duties. */
struct vd_duty_batch {
    struct vd_verifier_desk *desk;
    struct vd_game_case c[VD_VERIFIER_TOGETHER_MAX];
    uint64_t left_ms; /* of the first one's clock */
    size_t n;
    uint64_t n_pos;
};

static enum vd_err vd_duty_open(struct vd_verifier *v, struct vd_duty *d, struct vd_game_case *c,
                                const struct vd_verifier_desk *desk, struct vd_error *err)
{
    static const struct vd_pubkey nobody;
    struct vd_envelope e = {0};
    uint32_t *tokens = NULL;
    enum vd_err code =
        vd_pubkey_eq(&d->shown_by, &nobody) /* what is here nobody changes */
            ? vd_audit_read(&d->what.receipt_id, (struct vd_bytes){d->data.envelope, d->data.n_bytes}, &e,
                            &tokens, err)
            : vd_duty_read_shown(v, d, &e, &tokens, err);
    return code == VD_OK ? vd_game_case_init(c, &e, tokens, desk->m.model, err) : code;
}

/* Could it go into the same pass without making the first one late? */
static bool vd_duty_fits(struct vd_verifier *v, const struct vd_duty_batch *b, uint64_t n_pos)
{
    uint64_t all_ms = (b->n_pos + n_pos) * v->pace_ns / 1000000;
    return b->n == 0 || (b->n < VD_VERIFIER_TOGETHER_MAX && v->pace_ns &&
                         b->n_pos + n_pos <= VD_VERIFIER_TOGETHER_POS && all_ms <= b->left_ms / 2);
}

/* True: it is in; false: the batch is full, or it could not be opened. */
static bool vd_duty_add_to(struct vd_verifier *v, struct vd_duty_batch *b, struct vd_duty *d)
{
    struct vd_error err;
    struct vd_game_case *c = &b->c[b->n];
    struct vd_verifier_desk *desk = vd_audit_desk(v, &d->model_root);
    enum vd_err e = desk ? vd_duty_open(v, d, c, desk, &err)
                         : vd_error_set(&err, VD_ENOTFOUND,
                                        "the model is not loaded here; start the verifier with it again");
    if (e != VD_OK) {
        vd_duty_forget_data(v, d);
        vd_duty_later(v, d, e, &err);
        return false;
    }
    uint64_t n_pos = vd_receipt_n_steps(&c->receipt);
    if (!vd_duty_fits(v, b, n_pos)) {
        vd_game_case_free(c);
        return false;
    }
    if (b->n++ == 0)
        b->left_ms = vd_duty_left_ms(v, d);
    b->desk = desk;
    b->n_pos += n_pos;
    return true;
}

/* What follows from its replay. The case of a receipt that does not stand is kept for its dispute. */
static enum vd_err vd_duty_know(struct vd_verifier *v, struct vd_duty *d, const struct vd_game_case *c,
                                const struct vd_replay_result *r, struct vd_error *err)
{
    /* Its tables are the request's, but not for this model (the mask's texts are others): the gateway and the
     * worker signed what nobody can replay, which must not cost an auditor anything. */
    bool tables = c->envelope.controls.bias.n || c->envelope.controls.mask.n;
    bool stands = r->verdict == VD_REPLAY_OK, unfit = r->verdict == VD_REPLAY_JOB && tables;
    if (!stands && !unfit && !vd_verifier_provable(r->verdict))
        return vd_error_set(err, VD_EUNSUPPORTED, "%s", vd_replay_text(r->verdict));
    d->what.verdict = stands ? VD_AUDIT_STANDS : unfit ? VD_AUDIT_UNFIT : VD_AUDIT_DIFFERS;
    for (int i = 0; i < 2; i++)
        d->what.half[i] = stands ? r->half[i] : (struct vd_hash){{0}};
    vd_duty_nonce(v, &d->what);
    d->commit_root = r->commit_root;
    enum vd_err e = stands || unfit ? VD_OK : vd_worker_jobs_put(&v->cases, &c->envelope, err);
    d->known = e == VD_OK;
    return e;
}

bool vd_duty_any_waits(struct vd_verifier *v, const struct vd_game_case *c, size_t n)
{
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        const struct vd_duty *d = vd_duty_find(v, &c[i].receipt_id);
        any |= d && d->waits && !d->known;
    }
    return any;
}

/* What the replay of one has come to. One that was given up is tried again if it still waits. */
static void vd_duty_conclude(struct vd_verifier *v, const struct vd_game_case *c, enum vd_err e,
                             const struct vd_replay_result *r, struct vd_error *err)
{
    struct vd_duty *d = vd_duty_find(v, &c->receipt_id);
    if (!d || e == VD_ECANCELLED)
        return;
    if (e == VD_OK)
        e = vd_duty_know(v, d, c, r, err);
    vd_duty_forget_data(v, d);
    if (e != VD_OK)
        vd_duty_later(v, d, e, err);
}

static enum vd_err vd_duty_pass(struct vd_verifier *v, const struct vd_duty_batch *b, size_t first, size_t n,
                                struct vd_replay_result *result, struct vd_error *err)
{
    struct vd_proof_job job[VD_VERIFIER_TOGETHER_MAX];
    const struct vd_verifier_desk *desk = b->desk;
    for (size_t i = 0; i < n; i++)
        job[i] = b->c[first + i].job;
    v->pass = VD_PASS_DUTY;
    v->passing = b->c + first;
    v->n_passing = n;
    enum vd_err e = vd_replay_many(desk->ctx, desk->cache, &desk->m.root, job, n, result, err);
    v->pass = VD_PASS_OTHER;
    return e;
}

/* In one pass; where that fails, each by itself: one that needs more memory than there is must not keep the
 * others from being heard. */
static void vd_duty_replay(struct vd_verifier *v, struct vd_duty_batch *b)
{
    struct vd_replay_result result[VD_VERIFIER_TOGETHER_MAX];
    struct vd_error err;
    uint64_t began = vd_clock_ns();
    enum vd_err all = vd_duty_pass(v, b, 0, b->n, result, &err);
    bool apart = all != VD_OK && all != VD_ECANCELLED && b->n > 1, given_up = all == VD_ECANCELLED;
    for (size_t i = 0; i < b->n; i++) {
        enum vd_err e = apart ? vd_duty_pass(v, b, i, 1, &result[i], &err) : all;
        vd_duty_conclude(v, &b->c[i], e, &result[i], &err);
        given_up |= e == VD_ECANCELLED;
    }
    uint64_t took = vd_clock_ns() - began;
    v->pace_ns = given_up ? v->pace_ns : took / b->n_pos + 1;
    pthread_mutex_lock(&v->mu);
    v->stats.n_passes += apart ? b->n : 1;
    v->stats.n_tokens += given_up ? 0 : b->n_pos;
    v->stats.replay_ns += took;
    v->moved = true; /* what is known now is said at once */
    pthread_mutex_unlock(&v->mu);
}

/* One pass over what is here. True: there is more. */
static bool vd_duty_learn_some(struct vd_verifier *v)
{
    struct vd_duty *here[VD_VERIFIER_DUTIES_MAX];
    size_t n = vd_duty_gather(v, here), n_left = 0;
    struct vd_duty_batch *b = n ? calloc(1, sizeof *b) : NULL;
    if (!b)
        return false; /* of no memory: with the next block again */
    for (size_t i = 0; i < n && !atomic_load(&v->cancel); i++) {
        bool same = b->n == 0 || vd_hash_eq(&here[i]->model_root, &b->desk->m.root);
        bool room = b->n < VD_VERIFIER_TOGETHER_MAX;
        n_left += !(same && room && vd_duty_add_to(v, b, here[i]));
    }
    if (b->n)
        vd_duty_replay(v, b);
    for (size_t i = 0; i < b->n; i++)
        vd_game_case_free(&b->c[i]);
    free(b);
    return n_left > 0;
}

/* When something is due that no event tells of: data that did not come, and another try. */
static uint64_t vd_duty_next_ms(struct vd_verifier *v)
{
    uint64_t next = 0, now = vd_clock_ms();
    pthread_mutex_lock(&v->mu);
    for (size_t i = 0; i < v->n_duties; i++) {
        const struct vd_duty *d = &v->duty[i];
        uint64_t at = d->data.from && !d->data.envelope ? d->data.until_ms : d->not_before_ms;
        if (!d->known && !d->sending && at > now && (!next || at < next))
            next = at;
    }
    pthread_mutex_unlock(&v->mu);
    return next;
}

/* ---- One after the other ---- */

static enum vd_err vd_duty_act(struct vd_verifier *v, struct vd_duty *d, const struct vd_audit *a,
                               enum vd_audit_slot_status mine, struct vd_error *err)
{
    bool due =
        (mine == VD_SLOT_DRAWN && (a->phase == VD_AUDIT_COMMITTING || a->phase == VD_AUDIT_DATA_DUE)) ||
        (mine == VD_SLOT_COMMITTED && a->phase == VD_AUDIT_REVEALING) ||
        (mine == VD_SLOT_DIFFERS && a->phase == VD_AUDIT_HEARD && !d->disputed);
    d->waits = d->differs = false;
    if (!due)
        return VD_OK;
    if (!d->known) {
        d->waits = true;
        d->can_demand = a->phase == VD_AUDIT_COMMITTING && !a->demanded;
        d->deadline_height = a->deadline_height;
        d->model_root = a->model_root;
        d->gateway = a->gateway;
        d->shown_by = a->shown_by;
        return VD_OK;
    }
    d->differs = mine == VD_SLOT_DIFFERS;
    if (!d->differs)
        vd_duty_say(v, d, mine == VD_SLOT_DRAWN ? VD_TX_AUDIT_COMMIT : VD_TX_AUDIT_REVEAL);
    return VD_OK;
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
    if (e != VD_OK)
        vd_duty_later(v, d, e, &err);
    return false;
}

/* True: it is over, and another stands in its place. */
static bool vd_duty_turn(struct vd_verifier *v, size_t i)
{
    struct vd_duty *d = &v->duty[i];
    pthread_mutex_lock(&v->mu);
    bool due = !d->sending && d->not_before_ms <= vd_clock_ms() && !v->stopping;
    pthread_mutex_unlock(&v->mu);
    d->waits &= due;
    if (!due || !vd_duty_look(v, d))
        return false;
    vd_duty_forget_data(v, d);
    pthread_mutex_lock(&v->mu);
    v->drawn |= v->n_duties == VD_VERIFIER_DUTIES_MAX; /* there may be more than there was room for */
    v->duty[i] = v->duty[--v->n_duties];
    pthread_mutex_unlock(&v->mu);
    return true;
}

size_t vd_duty_attend(struct vd_verifier *v)
{
    struct vd_duty *here[VD_VERIFIER_DUTIES_MAX];
    struct vd_error err;
    size_t n_fresh = 0;
    if (!v->audits || !v->rules->epoch_blocks)
        return 0;
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
        i += !vd_duty_turn(v, i);
    size_t n = vd_duty_gather(v, here);
    for (size_t i = 0; i < n; i++)
        n_fresh += here[i]->n_tries == 0;
    v->duty_at_ms = vd_duty_next_ms(v);
    return n_fresh;
}

/* The duty may have moved when its challenge is made. */
static void vd_duty_dispute_one(struct vd_verifier *v, struct vd_duty *d)
{
    struct vd_hash id = d->what.receipt_id;
    struct vd_error err;
    d->differs = false;
    enum vd_err e = vd_duty_dispute(v, d, &err);
    d = vd_duty_find(v, &id);
    if (!d)
        return;
    d->disputed = e == VD_OK;
    if (e == VD_ENOMEM && v->beside)
        d->differs = v->no_room = true;
    else if (e != VD_OK)
        vd_duty_later(v, d, e, &err);
}

void vd_duty_dispute_all(struct vd_verifier *v)
{
    for (size_t i = 0; i < v->n_duties && !v->no_room && !atomic_load(&v->cancel); i++)
        if (v->duty[i].differs) {
            vd_duty_dispute_one(v, &v->duty[i]);
            i = SIZE_MAX; /* from the beginning: the list may be another */
        }
}

bool vd_duty_look_at_all(struct vd_verifier *v)
{
    uint64_t now = vd_clock_ms();
    v->news_duties = false;
    if (!v->audits || !v->rules->epoch_blocks)
        return false;
    if (now >= v->register_at_ms) {
        vd_duty_register(v);
        v->register_at_ms = now + VD_VERIFIER_TICK_MS;
    }
    (void)vd_duty_attend(v);
    v->no_room = false;
    vd_duty_dispute_all(v);
    bool more = vd_duty_learn_some(v);
    v->duty_at_ms = vd_duty_next_ms(v);
    return more;
}

void vd_duty_free_all(struct vd_verifier *v)
{
    for (size_t i = 0; i < v->n_duties; i++)
        free(v->duty[i].data.envelope);
    free(v->duty);
}
