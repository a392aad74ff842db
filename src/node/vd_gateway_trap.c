/* Traps for auditors (docs/spec/audit.md, 6), planted by a gateway whose operator wants auditors that replay.
 *
 * A trap is a receipt of a job that nobody ran: of this gateway, from its escrow, at the going price, by a
 * worker that is a key of the gateway's own with a stake of its own; its data are served like any other's.
 * What its commit root is the hash of stands in <home>/traps/told while it is set, for whoever tells auditors
 * what to say; an auditor that says it walks in. When it is opened, vd_gateway_trap_step.c says.
 *
 * Nothing about a trap is kept but its envelope: everything else follows from the trap worker's key and the
 * place in the escrow, so a gateway that is killed goes on with its traps when it is started again. */
#include "vd_gateway_impl.h"
#include "vd_audit.h"
#include "vd_clock.h"
#include "vd_file.h"
#include "vd_gateway_trap_step.h"
#include "vd_trace_hash.h"
#include "vd_worker_jobs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TRAP_PROMPT_MIN = 16, /* tokens, and up to 63 more; of the output as well */
    TRAP_OUTPUT_MIN = 8,
    TRAP_SPREAD = 64,
    TRAP_STEPS_MAX = TRAP_PROMPT_MIN + TRAP_OUTPUT_MIN + 2 * TRAP_SPREAD,
    TRAP_PROOF_MAX = 16,
    TRAPS_OPEN_MAX = 16,
    TRAPS_PLANTED_MAX = 1 << 16, /* of one account, by whatever means */
    TRAP_TOLD_MAX_BYTES = (TRAPS_OPEN_MAX + 1) * 3 * 65 + 1,
    TRAP_TICK_MS = 200,  /* traps are looked at when there is a new block, not more often than this, */
    TRAP_REST_MS = 5000, /* and if there is none after this */
    TRAP_WAIT_MS = 30000,
};

struct gw_trapper {
    struct vd_gateway *g;
    struct vd_keypair worker;
    struct vd_worker_jobs jobs;
    const struct vd_genesis *rules;
    char told[4096];   /* the file, */
    uint8_t *is_told;  /* TRAP_TOLD_MAX_BYTES: what stands in it, */
    uint8_t *to_tell;  /* the same: what should, */
    size_t n_is, n_to; /* and how much */
    uint64_t next_height;
    bool held_up; /* in this turn, one of them: then no more are made */
    pthread_t thread;
    struct vd_seldom trouble;
};

/* ---- what a trap is made of ---- */

struct trap {
    struct vd_hash id; /* of its receipt */
    struct vd_envelope e;
    uint32_t *tokens; /* owned */
    struct vd_receipt r;
    struct vd_hash secret, leaf[TRAP_STEPS_MAX];
    uint32_t n_steps, at; /* the trap leaf */
};

static struct vd_hash derive(const struct gw_trapper *t, const char *what, const struct vd_request *q,
                             uint32_t i)
{
    uint8_t in[32 + VD_HASH_BYTES + 12] = {0};
    snprintf((char *)in, 32, "veridem/trap-%s", what);
    memcpy(in + 32, q->escrow_id.b, VD_HASH_BYTES);
    vd_le64_store(in + 32 + VD_HASH_BYTES, q->sequence);
    vd_le32_store(in + 40 + VD_HASH_BYTES, i);
    return vd_hmac_sha256(t->worker.secret, VD_SEED_BYTES, in, sizeof in);
}

/* Secret and commit tree, from escrow, sequence and the number of steps. */
static void grow(const struct gw_trapper *t, struct trap *x)
{
    const struct vd_request *q = &x->r.request;
    x->n_steps = vd_receipt_n_steps(&x->r);
    x->secret = derive(t, "secret", q, 0);
    x->at = vd_le32_load(derive(t, "at", q, 0).b) % x->n_steps;
    for (uint32_t i = 0; i < x->n_steps; i++)
        x->leaf[i] = derive(t, "leaf", q, i);
    x->leaf[x->at] = vd_trap_leaf(&x->secret);
}

/* VD_OK: x->tokens is the caller's to free. VD_EFORMAT: it is damaged. */
static enum vd_err load(const struct gw_trapper *t, const struct vd_hash *id, struct trap *x,
                        struct vd_error *err)
{
    x->id = *id;
    enum vd_err e = vd_worker_jobs_get(&t->jobs, id, &x->e, &x->tokens, err);
    if (e != VD_OK)
        return e;
    struct vd_bytes body = {x->e.receipt.body, x->e.receipt.body_bytes};
    if (vd_receipt_decode(body, &x->r) != VD_RECEIPT_OK || vd_receipt_n_steps(&x->r) > TRAP_STEPS_MAX) {
        free(x->tokens);
        return vd_error_set(err, VD_EFORMAT, "a kept receipt is not one of a trap");
    }
    grow(t, x);
    return VD_OK;
}

/* ---- on the ledger ---- */

static enum vd_err send_tx(struct gw_trapper *t, struct vd_tx *tx, struct vd_error *err)
{
    struct vd_ledger_outcome o;
    return vd_ledger_client_send(t->g->ledger, tx, TRAP_WAIT_MS, &o, err);
}

/* By a client of the trap worker's own, which is not needed again. */
static enum vd_err put_up_stake(struct gw_trapper *t, struct vd_amount amount, struct vd_error *err)
{
    struct vd_ledger_client *c = NULL;
    struct vd_ledger_outcome o;
    struct vd_tx tx = {.kind = VD_TX_STAKE, .u.stake = {amount}};
    struct vd_ledger_client_config config = {.key = &t->worker,
                                             .host = t->g->cfg.ledger_host,
                                             .port = t->g->cfg.ledger_port,
                                             .ledger_key = t->g->cfg.ledger_key,
                                             .role = VD_ROLE_WORKER};
    enum vd_err e = vd_ledger_client_start(&c, &config, err);
    if (e == VD_OK)
        e = vd_ledger_client_wait(c, TRAP_WAIT_MS, err);
    if (e == VD_OK)
        e = vd_ledger_client_send(c, &tx, TRAP_WAIT_MS, &o, err);
    vd_ledger_client_stop(c);
    return e;
}

/* The trap worker has min_stake, out of the gateway's account. */
static enum vd_err fund(struct gw_trapper *t, struct vd_error *err)
{
    struct vd_stake have = {.n_final = 0};
    struct vd_account account = {.nonce = 0};
    struct vd_amount want = t->rules->min_stake, missing;
    enum vd_err e = vd_ledger_client_stake(t->g->ledger, &t->worker.pub, &have, err);
    if (e != VD_OK && e != VD_ENOTFOUND)
        return e;
    if (!vd_amount_sub(&want, want, have.amount) || want.micro == 0)
        return VD_OK;
    e = vd_ledger_client_account(t->g->ledger, &t->worker.pub, &account, err);
    if (e != VD_OK && e != VD_ENOTFOUND)
        return e;
    if (vd_amount_sub(&missing, want, account.balance) && missing.micro) {
        struct vd_tx tx = {.kind = VD_TX_TRANSFER, .u.transfer = {t->worker.pub, missing}};
        e = send_tx(t, &tx, err);
        if (e != VD_OK)
            return e;
    }
    return put_up_stake(t, want, err);
}

/* Which traps of ours are planted. */
struct planted {
    const struct vd_pubkey *owner;
    struct planted_trap {
        struct vd_hash id;
        struct vd_trap trap;
    } * t; /* owned */
    size_t n, cap;
    bool no_memory;
};

static bool note_trap(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    struct planted *p = arg;
    struct vd_trap trap;
    if (key.n != 1 + VD_HASH_BYTES || !vd_trap_decode(value, &trap) || !vd_pubkey_eq(&trap.owner, p->owner))
        return true;
    if (p->n == p->cap) {
        size_t cap = p->cap ? 2 * p->cap : TRAPS_OPEN_MAX;
        struct planted_trap *more = cap <= TRAPS_PLANTED_MAX ? realloc(p->t, cap * sizeof *more) : NULL;
        p->no_memory = !more;
        if (!more)
            return false;
        p->t = more;
        p->cap = cap;
    }
    memcpy(p->t[p->n].id.b, key.p + 1, VD_HASH_BYTES);
    p->t[p->n++].trap = trap;
    return true;
}

static enum vd_err list_planted(struct gw_trapper *t, struct planted *p, struct vd_error *err)
{
    struct vd_state_key all = vd_state_key_make(VD_STATE_TRAP, NULL, 0, NULL);
    *p = (struct planted){.owner = &t->g->key.pub};
    enum vd_err e = vd_ledger_client_list(t->g->ledger, &all, note_trap, p, err);
    return e == VD_OK && p->no_memory
               ? vd_error_set(err, VD_ENOMEM, "no memory for the list of this account's traps")
               : e;
}

static struct vd_hash commitment_of(const struct trap *x)
{
    return vd_trap_commitment(&x->secret, &x->r.request.escrow_id, x->r.request.sequence);
}

/* NULL: it is not planted, or not any more. */
static const struct vd_trap *find(const struct planted *p, const struct trap *x, struct vd_hash *id)
{
    struct vd_hash c = commitment_of(x);
    for (size_t i = 0; i < p->n; i++)
        if (vd_hash_eq(&p->t[i].trap.commitment, &c)) {
            *id = p->t[i].id;
            return &p->t[i].trap;
        }
    return NULL;
}

/* ---- what is told ---- */

static void tell(struct gw_trapper *t, const struct trap *x)
{
    char id[65], a[65], b[65];
    uint32_t left = (uint32_t)vd_merkle_left(x->n_steps);
    struct vd_hash half[2] = {vd_merkle_root(x->leaf, left),
                              vd_merkle_root(x->leaf + left, x->n_steps - left)};
    vd_hex_encode(id, x->id.b, VD_HASH_BYTES);
    vd_hex_encode(a, half[0].b, VD_HASH_BYTES);
    vd_hex_encode(b, half[1].b, VD_HASH_BYTES);
    size_t room = TRAP_TOLD_MAX_BYTES - t->n_to;
    int n = snprintf((char *)t->to_tell + t->n_to, room, "%s %s %s\n", id, a, b);
    t->n_to += n > 0 && (size_t)n < room ? (size_t)n : 0;
}

/* The file holds the traps that are set, and no others: it does not grow. */
static void write_told(struct gw_trapper *t)
{
    struct vd_error err;
    if (t->n_is == t->n_to && memcmp(t->is_told, t->to_tell, t->n_to) == 0)
        return;
    if (vd_file_write_atomic(t->told, t->to_tell, t->n_to, 0600, &err) != VD_OK) {
        if (vd_seldom_due(&t->trouble))
            vd_log_event(&t->g->log, VD_LOG_WARN, "a trap cannot be told", "why=%s", err.msg);
        return;
    }
    memcpy(t->is_told, t->to_tell, t->n_to);
    t->n_is = t->n_to;
}

/* ---- its life ---- */

/* Planted: its receipt goes the way of all receipts. */
static enum vd_err publish(struct gw_trapper *t, const struct trap *x, struct vd_error *err)
{
    struct vd_gateway *g = t->g;
    static const struct vd_key_id nobody;
    struct vd_gwstore_receipt there;
    if (vd_gwstore_receipt_get(g->store, &x->id, &there, NULL) == VD_OK) {
        free(there.envelope);
        return VD_OK; /* it is on its way */
    }
    size_t cap = vd_envelope_max_bytes(x->e.n_prompt, x->e.n_output);
    struct vd_gwstore_receipt r = {.id = x->id,
                                   .state = VD_GW_PENDING,
                                   .created_s = vd_clock_wall_s(),
                                   .amount = x->r.amount,
                                   .envelope = malloc(cap)};
    if (!r.envelope)
        return vd_error_set(err, VD_ENOMEM, "no memory for a trap");
    r.n_envelope = vd_envelope_encode(&x->e, r.envelope, cap);
    enum vd_err e = vd_gwstore_finish(g->store, &r, NULL, err);
    free(r.envelope);
    if (e != VD_OK)
        return e;
    gw_money_owe(g, &nobody, x->r.amount);
    pthread_mutex_lock(&g->mu);
    g->stats.n_traps++;
    pthread_mutex_unlock(&g->mu);
    return VD_OK;
}

static enum vd_err plant(struct gw_trapper *t, const struct trap *x, struct vd_error *err)
{
    struct vd_tx tx = {.kind = VD_TX_TRAP_PLANT, .u.trap_plant = {commitment_of(x)}};
    return send_tx(t, &tx, err);
}

static enum vd_err show_data(struct gw_trapper *t, const struct trap *x, struct vd_error *err)
{
    uint8_t bytes[4 * (TRAP_STEPS_MAX + 1)];
    uint32_t n = x->e.n_prompt + x->e.n_output;
    struct vd_tx tx = {.kind = VD_TX_AUDIT_DATA, .u.audit_data = {.receipt_id = x->id}};
    for (uint32_t i = 0; i < n; i++)
        vd_le32_store(bytes + 4 * (size_t)i, x->tokens[i]);
    memcpy(tx.u.audit_data.salt.b, x->e.job_salt, VD_SALT_BYTES);
    tx.u.audit_data.tokens = (struct vd_bytes){bytes, 4 * (size_t)n};
    return send_tx(t, &tx, err);
}

/* `a`: of its audit; NULL: there was none. */
static enum vd_err open_it(struct gw_trapper *t, const struct trap *x, const struct vd_hash *trap_id,
                           const struct vd_audit *a, struct vd_error *err)
{
    struct vd_hash proof[TRAP_PROOF_MAX];
    char hex[65];
    uint32_t n_caught = 0;
    size_t n = vd_merkle_range_proof_len(x->n_steps, x->at, 1);
    vd_merkle_range_prove(x->leaf, x->n_steps, x->at, 1, proof);
    struct vd_tx tx = {.kind = VD_TX_TRAP_OPEN,
                       .u.trap_open = {*trap_id, x->id, x->secret, x->at, {proof->b, n * VD_HASH_BYTES}}};
    enum vd_err e = send_tx(t, &tx, err);
    if (e != VD_OK)
        return e;
    for (uint32_t i = 0; a && i < a->n_slots; i++)
        n_caught += a->slot[i].status == VD_SLOT_STANDS;
    vd_hex_encode(hex, x->id.b, VD_HASH_BYTES);
    vd_log_event(&t->g->log, n_caught ? VD_LOG_WARN : VD_LOG_INFO, "a trap was opened",
                 "receipt=%s auditors=%u caught=%u", hex, a ? a->n_slots : 0, n_caught);
    pthread_mutex_lock(&t->g->mu);
    t->g->stats.n_traps_opened++;
    t->g->stats.n_traps_caught += n_caught;
    pthread_mutex_unlock(&t->g->mu);
    return VD_OK;
}

/* *audit is filled if it was drawn. */
static enum vd_err look(struct gw_trapper *t, const struct trap *x, const struct vd_trap *planted,
                        struct gw_trap_facts *f, struct vd_audit *audit, struct vd_error *err)
{
    static const struct vd_pubkey nobody;
    struct vd_receipt_record r;
    *f = (struct gw_trap_facts){.height = vd_ledger_client_height(t->g->ledger),
                                .valid_until = x->r.request.valid_until,
                                .planted = planted != NULL,
                                .open_until = planted ? planted->height + t->rules->trap_blocks : 0};
    enum vd_err e = vd_ledger_client_receipt(t->g->ledger, &x->id, &r, err);
    if (e != VD_OK)
        return e == VD_ENOTFOUND ? VD_OK : e;
    f->known = true;
    f->settled = r.status == VD_RECEIPT_SETTLED;
    f->window_end = r.window_end_height;
    f->disputed = r.n_open_disputes > 0;
    e = vd_ledger_client_audit(t->g->ledger, &x->id, audit, err);
    f->drawn = e == VD_OK;
    f->heard = f->drawn && audit->phase == VD_AUDIT_HEARD;
    f->demanded = f->drawn && audit->phase == VD_AUDIT_DATA_DUE && vd_pubkey_eq(&audit->shown_by, &nobody);
    return e == VD_ENOTFOUND ? VD_OK : e;
}

/* *over: nothing is left to do. */
static enum vd_err advance(struct gw_trapper *t, const struct trap *x, const struct planted *p, bool *over,
                           struct vd_error *err)
{
    struct gw_trap_facts f;
    struct vd_audit a;
    struct vd_hash id;
    *over = false;
    enum vd_err e = look(t, x, find(p, x, &id), &f, &a, err);
    if (e != VD_OK)
        return e;
    enum gw_trap_step step = gw_trap_next(&f);
    if (f.planted && step != GW_TRAP_OVER)
        tell(t, x);
    switch (step) {
    case GW_TRAP_WAIT:
        break;
    case GW_TRAP_PLANT:
        return plant(t, x, err);
    case GW_TRAP_PUBLISH:
        return publish(t, x, err);
    case GW_TRAP_SHOW:
        return show_data(t, x, err);
    case GW_TRAP_OPEN:
        return open_it(t, x, &id, f.drawn ? &a : NULL, err);
    case GW_TRAP_OVER:
        *over = true;
        break;
    }
    return VD_OK;
}

/* ---- making one ---- */

/* What a model could not have been asked would be no trap: one sees at a glance that nobody ran it. */
static bool may_be_trap(const struct gw_model *m)
{
    return vd_gateway_text_generates(m->text) && vd_gateway_text_context(m->text) >= TRAP_STEPS_MAX;
}

static bool pick_model(struct vd_gateway *g, const struct gw_model **m, struct vd_wire_offer *price)
{
    uint32_t from;
    vd_key_random(&from, sizeof from);
    bool found = false;
    pthread_mutex_lock(&g->mu);
    for (size_t i = 0; i < g->n_models && !found; i++) {
        *m = &g->model[(from + i) % g->n_models];
        found = may_be_trap(*m) && gw_workers_of(g, &(*m)->root, price) > 0;
    }
    pthread_mutex_unlock(&g->mu);
    return found;
}

static uint32_t random_below(uint32_t n)
{
    uint32_t r;
    vd_key_random(&r, sizeof r);
    return r % n;
}

static void draw_tokens(const struct gw_model *m, uint32_t *out, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        do
            out[i] = random_below(1 << 15);
        while (!vd_gateway_text_valid(m->text, out[i]) || vd_gateway_text_is_stop(m->text, out[i]));
}

/* Request, receipt and both signatures. False: it would be worth more than a trap may be, or nothing, and not
 * drawn. */
static bool sign(struct gw_trapper *t, struct trap *x)
{
    struct vd_gateway *g = t->g;
    struct vd_envelope *e = &x->e;
    struct vd_receipt *r = &x->r;
    grow(t, x);
    r->commit_root = vd_merkle_root(x->leaf, x->n_steps);
    r->output_root = vd_token_root(e->job_salt, e->n_prompt, e->output, e->n_output);
    if (!vd_request_amount(&r->request, r->n_output, &r->amount) || r->amount.micro == 0 ||
        vd_amount_cmp(r->amount, t->rules->trap_bond) > 0 ||
        (g->max_receipt.micro && vd_amount_cmp(r->amount, g->max_receipt) > 0))
        return false;
    e->receipt.body_bytes = vd_receipt_encode(r, e->receipt.body, sizeof e->receipt.body);
    vd_key_sign(&e->receipt.worker_sig, &t->worker, VD_TAG_RECEIPT, e->receipt.body, e->receipt.body_bytes);
    vd_key_sign(&e->receipt.gateway_sig, &g->key, VD_TAG_ACCEPT, e->receipt.body, e->receipt.body_bytes);
    return true;
}

/* A job as others are, that nobody runs. On disk before it is planted. Without worker or escrow: later. */
static enum vd_err make(struct gw_trapper *t, bool *made, struct vd_error *err)
{
    struct vd_gateway *g = t->g;
    const struct gw_model *m;
    struct vd_wire_offer price;
    struct vd_openai_error why;
    struct trap *x = calloc(1, sizeof *x);
    uint32_t tokens[TRAP_STEPS_MAX + 1];
    uint64_t sequence;
    if (!x)
        return vd_error_set(err, VD_ENOMEM, "no memory for a trap");
    if (!pick_model(g, &m, &price) || !gw_money_sequence(g, &sequence, &why)) {
        free(x);
        return VD_OK;
    }
    struct vd_envelope *e = &x->e;
    e->n_prompt = TRAP_PROMPT_MIN + random_below(TRAP_SPREAD);
    e->n_output = TRAP_OUTPUT_MIN + random_below(TRAP_SPREAD);
    e->prompt = tokens;
    e->output = tokens + e->n_prompt;
    draw_tokens(m, tokens, e->n_prompt + e->n_output);
    vd_key_random(e->job_salt, sizeof e->job_salt);
    struct vd_request *q = &x->r.request;
    *q = (struct vd_request){.genesis = g->genesis,
                             .arith_version = VD_ARITH_VERSION,
                             .valid_until = vd_ledger_client_height(g->ledger) + g->validity_blocks,
                             .escrow_id = g->escrow,
                             .sequence = sequence,
                             .gateway = g->key.pub,
                             .worker = t->worker.pub,
                             .model_root = m->root,
                             .n_prompt = e->n_prompt,
                             .salt_commit = vd_salt_commit(e->job_salt),
                             .prompt_root = vd_token_root(e->job_salt, 0, e->prompt, e->n_prompt),
                             .sampling = {.temp_micro = 1000000, .top_p_micro = 1000000},
                             .max_tokens = e->n_output,
                             .price_in = price.price_in,
                             .price_out = price.price_out};
    vd_key_random(&q->sampling.seed, sizeof q->sampling.seed);
    x->r.n_output = e->n_output;
    x->r.finish = VD_FINISH_LENGTH;
    enum vd_err code = VD_OK;
    bool fits = sign(t, x), covered = fits && gw_money_covers(g, x->r.amount);
    if (covered)
        code = vd_worker_jobs_put(&t->jobs, e, err);
    *made = code == VD_OK && (covered || !fits);
    free(x);
    return code;
}

/* ---- the thread ---- */

static void complain(struct gw_trapper *t, const struct vd_error *err)
{
    if (vd_seldom_due(&t->trouble))
        vd_log_event(&t->g->log, VD_LOG_WARN, "traps", "why=%s", err->msg);
}

/* *over: nothing is left to do about it, or nothing can be done. One that cannot be read now is kept: its
 * bond would burn. An error: the ledger does not answer. */
static enum vd_err tend(struct gw_trapper *t, const struct vd_hash *id, const struct planted *p, bool *over,
                        struct vd_error *err)
{
    struct trap *x = calloc(1, sizeof *x);
    enum vd_err e = x ? load(t, id, x, err) : vd_error_set(err, VD_ENOMEM, "no memory for a trap");
    bool loaded = e == VD_OK;
    *over = e == VD_EFORMAT || e == VD_ENOTFOUND;
    if (loaded) {
        e = advance(t, x, p, over, err);
        free(x->tokens);
    }
    free(x);
    if (e == VD_OK || (loaded && e != VD_EFALSE))
        return e;
    complain(t, err); /* of this one: the others, each with its bond, do not wait for it */
    t->held_up |= !*over;
    return VD_OK;
}

static enum vd_err tend_all(struct gw_trapper *t, const struct vd_hash *ids, size_t n, size_t *n_open,
                            struct vd_error *err)
{
    struct planted p;
    enum vd_err e = list_planted(t, &p, err);
    t->n_to = 0;
    for (size_t i = 0; e == VD_OK && i < n && !atomic_load(&t->g->stopping); i++) {
        bool over;
        e = tend(t, &ids[i], &p, &over, err);
        *n_open += !over;
        if (over && e == VD_OK)
            e = vd_worker_jobs_drop(&t->jobs, &ids[i], err);
    }
    free(p.t);
    if (e == VD_OK)
        write_told(t);
    return e;
}

static enum vd_err turn(struct gw_trapper *t, struct vd_error *err)
{
    struct vd_hash *ids;
    size_t n, n_open = 0;
    uint64_t height = vd_ledger_client_height(t->g->ledger);
    t->held_up = false;
    enum vd_err e = vd_ledger_client_genesis(t->g->ledger, &t->rules, &(struct vd_hash){{0}}, err);
    if (e == VD_OK && !t->rules->epoch_blocks)
        return vd_error_set(err, VD_EUNSUPPORTED, "this network has no audits, so it has no traps");
    if (e == VD_OK)
        e = vd_worker_jobs_list(&t->jobs, &ids, &n, err);
    if (e != VD_OK)
        return e;
    if (n || t->n_is)
        e = tend_all(t, ids, n, &n_open, err);
    free(ids);
    if (e != VD_OK || t->held_up || height < t->next_height || n_open >= TRAPS_OPEN_MAX)
        return e;
    bool made = false;
    e = fund(t, err); /* a trap that was not opened in time may have cost its worker the stake */
    if (e == VD_OK)
        e = make(t, &made, err);
    if (made)
        t->next_height = height + t->g->cfg.trap_every_blocks;
    return e;
}

static void *trapper_main(void *arg)
{
    struct gw_trapper *t = arg;
    struct vd_error err;
    uint64_t seen = UINT64_MAX, seen_ms = 0;
    while (!atomic_load(&t->g->stopping)) {
        uint64_t height = vd_ledger_client_height(t->g->ledger), now = vd_clock_ms();
        if (vd_ledger_client_is_up(t->g->ledger) && (height != seen || now - seen_ms >= TRAP_REST_MS)) {
            enum vd_err e = turn(t, &err);
            if (e != VD_OK && e != VD_ECANCELLED)
                complain(t, &err);
            seen = height;
            seen_ms = now;
        }
        vd_clock_sleep_ms(TRAP_TICK_MS);
    }
    return NULL;
}

static void free_trapper(struct gw_trapper *t)
{
    vd_key_wipe(&t->worker);
    free(t->is_told);
    free(t->to_tell);
    free(t);
}

enum vd_err gw_trap_start(struct vd_gateway *g, struct vd_error *err)
{
    char path[4096 + 32];
    struct gw_trapper *t = calloc(1, sizeof *t);
    if (!t)
        return vd_error_set(err, VD_ENOMEM, "no memory for traps");
    t->g = g;
    t->is_told = calloc(1, TRAP_TOLD_MAX_BYTES);
    t->to_tell = calloc(1, TRAP_TOLD_MAX_BYTES);
    t->n_is = SIZE_MAX; /* what an earlier life wrote is not known */
    snprintf(path, sizeof path, "%s/traps", g->cfg.home);
    enum vd_err e = t->is_told && t->to_tell ? vd_worker_jobs_open(&t->jobs, path, err)
                                             : vd_error_set(err, VD_ENOMEM, "no memory for traps");
    snprintf(t->told, sizeof t->told, "%.4000s/traps/told", g->cfg.home);
    snprintf(path, sizeof path, "%s/traps/worker.key", g->cfg.home);
    if (e == VD_OK)
        e = vd_key_load(&t->worker, path, true, err);
    if (e == VD_OK && pthread_create(&t->thread, NULL, trapper_main, t) != 0)
        e = vd_error_set(err, VD_EAGAIN, "the system refused a thread");
    if (e == VD_OK)
        g->trapper = t;
    else
        free_trapper(t);
    return e;
}

void gw_trap_stop(struct vd_gateway *g)
{
    if (!g->trapper)
        return;
    pthread_join(g->trapper->thread, NULL);
    free_trapper(g->trapper);
    g->trapper = NULL;
}
