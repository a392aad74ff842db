/* A job's way through the worker: JOB frame -> checks -> engine -> tokens -> receipt on disk -> RECEIPT ->
 * ACCEPT.
 *
 * The checks come in the order of their cost, the ledger's answers last: that this sequence of the escrow is
 * not settled yet, and what the escrow holds, which is kept for two seconds. What a job can cost is added to
 * what the escrow has promised to this worker and to what the stake answers for before it runs, and corrected
 * when its end is known. */
#include "vd_clock.h"
#include "vd_trace_hash.h"
#include "vd_worker_impl.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static void vd_job_refuse(struct vd_worker *w, struct vd_link *link, const struct vd_hash *id,
                          enum vd_wire_refuse_code code, const char *text)
{
    struct vd_wire_refuse m = {.what = *id, .code = code, .text = {(const uint8_t *)text, strlen(text)}};
    pthread_mutex_lock(&w->mu);
    w->stats.n_refused++;
    pthread_mutex_unlock(&w->mu);
    vd_log_event(&w->log, VD_LOG_WARN, "job refused", "reason=%s detail=%s gateway=%s",
                 vd_wire_refuse_text(code), text, vd_link_peer_addr(link));
    VD_WORKER_SEND(w, link, VD_WIRE_REFUSE, vd_wire_put_refuse, &m, 512);
}

/* ---- Money: under w->mu ---- */

static struct vd_worker_escrow *vd_escrow_find(struct vd_worker *w, const struct vd_hash *id)
{
    for (size_t i = 0; i < w->n_escrows; i++)
        if (vd_hash_eq(&w->escrow[i].id, id))
            return &w->escrow[i];
    return NULL;
}

/* A place for the escrow: its own, a new one, or that of one from which nothing is pending. */
static struct vd_worker_escrow *vd_escrow_place(struct vd_worker *w, const struct vd_hash *id)
{
    struct vd_worker_escrow *e = vd_escrow_find(w, id);
    if (!e && w->n_escrows < VD_WORKER_ESCROWS_MAX)
        e = &w->escrow[w->n_escrows++];
    for (size_t i = 0; !e && i < w->n_escrows; i++)
        if (!w->escrow[i].pending_micro)
            e = &w->escrow[i];
    if (e && !vd_hash_eq(&e->id, id)) {
        memset(e, 0, sizeof *e);
        e->id = *id;
    }
    return e;
}

/* Takes back `micro` of what an escrow has promised, and of what the stake answers for. */
static void vd_money_release(struct vd_worker *w, const struct vd_hash *escrow, uint64_t micro)
{
    struct vd_worker_escrow *e = vd_escrow_find(w, escrow);
    if (e)
        e->pending_micro = vd_less(e->pending_micro, micro);
    w->exposed_micro = vd_less(w->exposed_micro, micro);
}

/* Reserves `amount`; waits for the ledger when what is known is old or does not suffice. 0: reserved. */
static int vd_money_reserve(struct vd_worker *w, const struct vd_request *r, struct vd_amount amount)
{
    for (int round = 0;; round++) {
        struct vd_escrow record;
        uint64_t now = vd_clock_ms();
        pthread_mutex_lock(&w->mu);
        struct vd_worker_escrow *e = vd_escrow_find(w, &r->escrow_id);
        int code = 0;
        if (!e || now - e->asked_ms > VD_WORKER_ESCROW_FRESH_MS ||
            !vd_pubkey_eq(&e->record.gateway, &r->gateway) || e->record.ended ||
            (e->record.end_height && r->valid_until > e->record.end_height) ||
            vd_less(e->record.balance.micro, e->pending_micro) < amount.micro)
            code = VD_REFUSE_ESCROW;
        else if (vd_less(w->stake_micro, w->exposed_micro) < amount.micro)
            code = VD_REFUSE_BUSY;
        if (!code) {
            e->pending_micro += amount.micro;
            w->exposed_micro += amount.micro;
        }
        pthread_mutex_unlock(&w->mu);
        if (code != VD_REFUSE_ESCROW || round == 1)
            return code;
        if (vd_ledger_client_escrow(w->ledger, &r->escrow_id, &record, NULL) != VD_OK)
            return VD_REFUSE_ESCROW;
        pthread_mutex_lock(&w->mu);
        e = vd_escrow_place(w, &r->escrow_id);
        if (e) {
            e->record = record;
            e->asked_ms = vd_clock_ms();
        }
        pthread_mutex_unlock(&w->mu);
        if (!e)
            return VD_REFUSE_BUSY;
    }
}

/* ---- Checks ---- */

struct vd_worker_offer *vd_worker_find_offer(struct vd_worker *w, const struct vd_hash *root)
{
    for (size_t i = 0; i < w->n_offers; i++)
        if (vd_hash_eq(&w->offer[i].m.root, root))
            return &w->offer[i];
    return NULL;
}

/* Long enough to be run and settled, by the worker itself if need be; and not longer than the network's rule,
 * since an escrow's rest returns that long after its closing. Gateway and worker may know different heights.
 */
static const char *vd_job_validity(const struct vd_worker *w, uint64_t valid_until)
{
    uint64_t height = vd_ledger_client_height(w->ledger), rule = w->rules->request_validity_blocks;
    return valid_until <= height                        ? "expired"
           : valid_until < height + rule / 4            ? "it expires too soon to be settled"
           : valid_until - height > rule + rule / 8 + 1 ? "it is valid for longer than an escrow stands"
                                                        : NULL;
}

/* Could the worker defend the longest answer? */
static bool vd_job_trace_fits(const struct vd_program *program, const struct vd_request *r)
{
    struct vd_graph g = {program,
                         {.n_prompt = r->n_prompt,
                          .n_output = r->max_tokens,
                          .n_steps = r->sampling.pooling ? r->n_prompt : r->n_prompt + r->max_tokens - 1,
                          .max_tokens = r->max_tokens,
                          .sampling = r->sampling}};
    return vd_graph_valid(&g) && vd_trace_fits(&g);
}

/* 0, or why this worker does not run the job; *why says more. */
static int vd_job_check(struct vd_worker *w, const struct vd_pubkey *peer, const struct vd_wire_job *m,
                        struct vd_request *r, struct vd_worker_offer **offer, const char **why)
{
    *why = "";
    enum vd_receipt_verdict v = vd_request_decode(m->request, r);
    if (v != VD_RECEIPT_OK) {
        *why = vd_receipt_verdict_text(v);
        return VD_REFUSE_REQUEST;
    }
    *why = !vd_hash_eq(&r->genesis, &w->genesis)    ? "another network"
           : !vd_pubkey_eq(&r->worker, &w->key.pub) ? "for another worker"
           : !vd_pubkey_eq(&r->gateway, peer)       ? "of another gateway than this link's"
           : r->n_prompt != m->prompt.n             ? "the prompt has another length"
                                                    : vd_job_validity(w, r->valid_until);
    if (*why)
        return VD_REFUSE_REQUEST;
    *why = "";
    *offer = vd_worker_find_offer(w, &r->model_root);
    if (!*offer)
        return VD_REFUSE_MODEL;
    bool pools = r->sampling.pooling != VD_POOLING_NONE;
    if (r->price_in.micro < (*offer)->m.price_in.micro ||
        (!pools && r->price_out.micro < (*offer)->m.price_out.micro))
        return VD_REFUSE_PRICE;
    if (m->resume.n >= r->max_tokens || (pools && m->resume.n))
        return VD_REFUSE_RESUME;
    const struct vd_program *p = vd_model_program((*offer)->m.model);
    if (pools && r->max_tokens != p->width) {
        *why = "this model's vectors have another number of elements";
        return VD_REFUSE_REQUEST;
    }
    if ((pools ? r->n_prompt : (uint64_t)r->n_prompt + r->max_tokens - 1) > p->ctx)
        return VD_REFUSE_CONTEXT;
    if (!vd_job_trace_fits(p, r)) {
        *why = "its trace would be larger than this worker can defend";
        return VD_REFUSE_CONTEXT;
    }
    struct vd_hash salt = vd_salt_commit(m->salt.b),
                   prompt = vd_token_root(m->salt.b, 0, m->prompt.v, r->n_prompt);
    if (!vd_hash_eq(&salt, &r->salt_commit) || !vd_hash_eq(&prompt, &r->prompt_root)) {
        *why = "salt or prompt are not the request's";
        return VD_REFUSE_REQUEST;
    }
    if (!vd_controls_check(r, &m->controls)) {
        *why = "bias table or mask are not valid, or not the request's";
        return VD_REFUSE_REQUEST;
    }
    if (!vd_key_verify(&m->request_sig, peer, VD_TAG_REQUEST, m->request.p, m->request.n)) {
        *why = "the signature does not verify";
        return VD_REFUSE_REQUEST;
    }
    return 0;
}

/* ---- Jobs ---- */

static void vd_job_unref(struct vd_worker_job *j)
{
    struct vd_worker *w = j->w;
    pthread_mutex_lock(&w->mu);
    unsigned left = --j->n_refs;
    pthread_mutex_unlock(&w->mu);
    if (left)
        return;
    if (j->link)
        vd_link_unref(j->link);
    explicit_bzero(j->salt, sizeof j->salt);
    vd_masker_cache_give(j->maskers, j->masker);
    vd_commit_close(j->commit);
    free(j->tables);
    free(j->prompt);
    free(j);
}

/* A client of one gateway: what another gateway says of its own is not compared with it. */
static struct vd_hash vd_job_account(const struct vd_pubkey *gateway, const struct vd_hash *account)
{
    struct vd_hash h = *account;
    struct vd_sha256 s;
    if (vd_hash_is_zero(account))
        return h;
    vd_sha256_init(&s);
    vd_sha256_update(&s, gateway->b, VD_PUBKEY_BYTES);
    vd_sha256_hash(&s, account);
    vd_sha256_final(&s, &h);
    return h;
}

/* The texts of the offer's tokens and what they make of masks, made when they are first needed. */
static enum vd_err vd_offer_maskers(struct vd_masker_cache **out, struct vd_worker_offer *o,
                                    struct vd_error *err)
{
    const struct vd_program *p = vd_model_program(o->m.model);
    enum vd_err e = VD_OK;
    pthread_mutex_lock(&o->maskers_mu);
    if (!o->texts)
        e = vd_texts_open(&o->texts, vd_model_gguf(o->m.model), p->vocab, err);
    if (e == VD_OK && !o->maskers)
        e = vd_masker_cache_create(&o->maskers, o->texts, p->stop, p->n_stop, err);
    *out = o->maskers;
    pthread_mutex_unlock(&o->maskers_mu);
    return e;
}

/* Keeps the tables, and makes the mask ready. VD_ECONFLICT: it is for other texts than this model's. */
static enum vd_err vd_job_controls(struct vd_worker_job *j, const struct vd_wire_job *m, struct vd_error *err)
{
    const struct vd_controls *c = &m->controls;
    j->logprobs = m->logprobs;
    if (c->bias.n + c->mask.n == 0)
        return VD_OK;
    j->tables = malloc(c->bias.n + c->mask.n);
    if (!j->tables)
        return vd_error_set(err, VD_ENOMEM, "no memory for the request's tables");
    if (c->bias.n)
        memcpy(j->tables, c->bias.p, c->bias.n);
    if (c->mask.n)
        memcpy(j->tables + c->bias.n, c->mask.p, c->mask.n);
    j->controls = (struct vd_controls){{j->tables, c->bias.n}, {j->tables + c->bias.n, c->mask.n}};
    if (c->mask.n == 0)
        return VD_OK;
    enum vd_err e = vd_offer_maskers(&j->maskers, j->offer, err);
    return e == VD_OK ? vd_masker_cache_take(j->maskers, j->controls.mask, &j->masker, err) : e;
}

static struct vd_worker_job *vd_job_make(struct vd_worker *w, struct vd_worker_offer *offer,
                                         struct vd_link *link, const struct vd_wire_job *m,
                                         const struct vd_request *r)
{
    struct vd_worker_job *j = calloc(1, sizeof *j);
    uint32_t *tokens = malloc(((size_t)r->n_prompt + r->max_tokens) * sizeof *tokens);
    if (!j || !tokens ||
        vd_commit_open(&j->commit, vd_model_program(offer->m.model), r, UINT32_MAX, m->salt.b, NULL)) {
        free(j);
        free(tokens);
        return NULL;
    }
    j->w = w;
    j->offer = offer;
    j->link = vd_link_ref(link);
    j->id = vd_sha256_of(m->request.p, m->request.n);
    j->request = *r;
    memcpy(j->salt, m->salt.b, VD_SALT_BYTES);
    j->account = vd_job_account(&r->gateway, &m->account);
    j->prompt = tokens;
    j->output = tokens + r->n_prompt;
    memcpy(j->prompt, m->prompt.v, m->prompt.n * sizeof *tokens);
    if (m->resume.n)
        memcpy(j->output, m->resume.v, m->resume.n * sizeof *tokens);
    j->n_output = j->n_resume = (uint32_t)m->resume.n;
    j->n_refs = 2;
    return j;
}

bool vd_worker_see(struct vd_worker *w, const struct vd_hash *escrow, uint64_t sequence)
{
    size_t n = w->n_seen < VD_WORKER_SEEN_MAX ? w->n_seen : VD_WORKER_SEEN_MAX;
    for (size_t i = 0; i < n; i++)
        if (w->seen[i].sequence == sequence && vd_hash_eq(&w->seen[i].escrow, escrow))
            return false;
    size_t at = w->n_seen++ % VD_WORKER_SEEN_MAX;
    w->seen[at].escrow = *escrow;
    w->seen[at].sequence = sequence;
    return true;
}

/* True if another receipt has this place already, or the ledger does not say: nothing would be paid. */
static bool vd_job_sequence_used(struct vd_worker *w, const struct vd_request *r)
{
    struct vd_ledger_answer a;
    pthread_mutex_lock(&w->mu);
    bool fresh = vd_worker_see(w, &r->escrow_id, r->sequence);
    pthread_mutex_unlock(&w->mu);
    if (!fresh)
        return true;
    struct vd_state_key key = vd_state_key_settled(&r->escrow_id, r->sequence);
    enum vd_err e = vd_ledger_client_get(w->ledger, &key, VD_LEDGER_QUERY_TIMEOUT_MS, &a, NULL);
    if (e == VD_OK)
        vd_ledger_answer_free(&a);
    return e != VD_ENOTFOUND;
}

/* Puts the job into the table; false when the offer's capacity, or the table, is full, or it is there
 * already. */
static bool vd_job_enter(struct vd_worker *w, struct vd_worker_job *j)
{
    pthread_mutex_lock(&w->mu);
    bool ok = !w->stopping && j->offer->n_running < j->offer->m.capacity && w->n_running < VD_WORKER_JOBS_MAX;
    for (size_t i = 0; ok && i < w->n_running; i++)
        ok = !vd_hash_eq(&w->running[i]->id, &j->id);
    if (ok) {
        w->running[w->n_running++] = j;
        j->offer->n_running++;
        w->stats.n_jobs++;
    }
    pthread_mutex_unlock(&w->mu);
    return ok;
}

static void vd_job_leave(struct vd_worker *w, struct vd_worker_job *j)
{
    pthread_mutex_lock(&w->mu);
    for (size_t i = 0; i < w->n_running; i++)
        if (w->running[i] == j) {
            w->running[i] = w->running[--w->n_running];
            j->offer->n_running--;
            break;
        }
    pthread_mutex_unlock(&w->mu);
}

static struct vd_link *vd_job_link(struct vd_worker_job *j)
{
    pthread_mutex_lock(&j->w->mu);
    struct vd_link *link = j->link ? vd_link_ref(j->link) : NULL;
    pthread_mutex_unlock(&j->w->mu);
    return link;
}

/* ---- The engine's callbacks ---- */

static void vd_job_on_position(void *arg, const struct vd_position *p)
{
    struct vd_worker_job *j = arg;
    struct vd_graph_rows rows = {NULL, p->k, p->v, p->x};
    if (j->request.sampling.pooling)
        vd_commit_add_vector(j->commit, &rows, p->sum, p->vector);
    else
        vd_commit_add(j->commit, &rows, p->token, p->stop, p->mask);
}

/* What it has said so far, signed: whoever follows the stream can hold the worker to it. A refusal to be read
 * shows with the next token. */
static void vd_job_send_prefix(struct vd_worker_job *j, struct vd_link *link)
{
    struct vd_receipt_prefix p = {.job_id = j->id,
                                  .n_output = j->n_output,
                                  .output_root = vd_commit_output_root(j->commit),
                                  .commit_root = vd_commit_root(j->commit)};
    uint8_t body[VD_PREFIX_MAX_BYTES];
    struct vd_wire_prefix m = {.job = j->id,
                               .statement = {body, vd_receipt_prefix_encode(&p, body, sizeof body)}};
    vd_key_sign(&m.worker_sig, &j->w->key, VD_TAG_PREFIX, body, m.statement.n);
    VD_WORKER_SEND(j->w, link, VD_WIRE_PREFIX, vd_wire_put_prefix, &m, 256);
}

static void vd_job_on_token(void *arg, uint32_t index, uint32_t token)
{
    struct vd_worker_job *j = arg;
    if (j->bad_resume || index >= j->request.max_tokens)
        return;
    j->output[index] = token;
    j->n_output = index + 1;
    struct vd_wire_token m = {
        .job = j->id, .index = index, .ids = {&token, 1}, .logprobs = {j->logprob, j->n_logprob}};
    struct vd_link *link = vd_job_link(j);
    uint8_t buf[128 + VD_WIRE_LOGPROB_MAX_BYTES];
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    if (!link)
        return;
    if (vd_wire_put_token(&w, &m) && vd_link_send(link, VD_WIRE_TOKEN, buf, w.n_bytes, NULL) == VD_EAGAIN)
        vd_link_close(link, VD_ETIMEOUT, "the gateway does not read its tokens");
    else if (j->n_output % VD_PREFIX_EVERY_TOK == 0 && vd_commit_n_output(j->commit) == j->n_output)
        vd_job_send_prefix(j, link);
    vd_link_unref(link);
}

/* The bits of the elements go where tokens would, all in one frame. */
static void vd_job_on_vector(void *arg, const float *vector)
{
    struct vd_worker_job *j = arg;
    uint32_t n = j->request.max_tokens;
    for (uint32_t i = 0; i < n; i++)
        j->output[i] = vd_f32_bits(vector[i]);
    j->n_output = n;
    struct vd_wire_token m = {.job = j->id, .index = 0, .ids = {j->output, n}};
    size_t cap = 128 + 5 * (size_t)n;
    uint8_t *buf = malloc(cap);
    struct vd_pb_writer w = vd_pb_writer_init(buf, buf ? cap : 0);
    struct vd_link *link = vd_job_link(j);
    if (link && vd_wire_put_token(&w, &m))
        (void)vd_link_send(link, VD_WIRE_TOKEN, buf, w.n_bytes,
                           NULL); /* else RECEIPT does not fit what came */
    if (link)
        vd_link_unref(link);
    free(buf);
}

static void vd_job_on_logprobs(void *arg, uint32_t index, const struct vd_logprobs *l)
{
    struct vd_worker_job *j = arg;
    uint8_t *p = j->logprob;
    vd_le32_store(p, vd_f32_bits(l->own));
    p[4] = (uint8_t)l->n;
    for (uint32_t i = 0; i < l->n; i++) {
        vd_le32_store(p + 5 + 8 * i, l->top[i].id);
        vd_le32_store(p + 9 + 8 * i, vd_f32_bits(l->top[i].value));
    }
    j->n_logprob = 5 + 8 * (size_t)l->n;
}

static void vd_job_on_mismatch(void *arg, uint32_t index, uint32_t given, uint32_t own)
{
    struct vd_worker_job *j = arg;
    pthread_mutex_lock(&j->w->mu);
    j->bad_resume = true;
    bool known = j->submitted;
    pthread_mutex_unlock(&j->w->mu);
    if (known)
        vd_engine_cancel(j->offer->engine, j->engine_id);
}

static void vd_job_on_done(void *arg, const struct vd_job_result *r)
{
    struct vd_worker_job *j = arg;
    struct vd_worker *w = j->w;
    j->result = *r;
    pthread_mutex_lock(&w->mu);
    *w->done_last = j;
    w->done_last = &j->next_done;
    pthread_cond_signal(&w->done_cond);
    pthread_mutex_unlock(&w->mu);
}

/* ---- JOB, CANCEL, a link that ends ---- */

static void vd_job_start(struct vd_worker *w, struct vd_worker_job *j)
{
    struct vd_error err;
    struct vd_job job = {.prompt = j->prompt,
                         .n_prompt = j->request.n_prompt,
                         .resume = j->output,
                         .n_resume = j->n_resume,
                         .max_tokens = j->request.max_tokens,
                         .sampling = j->request.sampling,
                         .account = j->account,
                         .bias = j->controls.bias,
                         .masker = j->masker,
                         .logprobs = j->logprobs,
                         .arg = j,
                         .on_position = vd_job_on_position,
                         .on_token = vd_job_on_token,
                         .on_logprobs = vd_job_on_logprobs,
                         .on_mismatch = vd_job_on_mismatch,
                         .on_vector = vd_job_on_vector,
                         .on_done = vd_job_on_done};
    uint64_t id;
    enum vd_err e = vd_engine_submit(j->offer->engine, &job, &id, &err);
    if (e != VD_OK) { /* refused here: on_done never comes, both references are ours */
        struct vd_job_result r = {.end = VD_JOB_BROKEN, .err = err};
        vd_job_on_done(j, &r);
    } else {
        pthread_mutex_lock(&w->mu);
        j->engine_id = id;
        j->submitted = true;
        bool cancel = j->unwanted || j->bad_resume;
        pthread_mutex_unlock(&w->mu);
        if (cancel)
            vd_engine_cancel(j->offer->engine, id);
    }
    vd_job_unref(j);
}

static void vd_worker_take_job(struct vd_worker *w, struct vd_link *link, const struct vd_wire_job *m)
{
    struct vd_request r;
    struct vd_worker_offer *offer = NULL;
    struct vd_amount most;
    const char *why;
    struct vd_hash id = vd_sha256_of(m->request.p, m->request.n);
    int code = vd_job_check(w, vd_link_peer(link), m, &r, &offer, &why);
    if (!code && !vd_request_max_amount(&r, &most))
        code = VD_REFUSE_REQUEST;
    if (code) {
        vd_job_refuse(w, link, &id, (enum vd_wire_refuse_code)code, why);
        return;
    }
    struct vd_worker_job *j = vd_job_make(w, offer, link, m, &r);
    if (!j) {
        vd_job_refuse(w, link, &id, VD_REFUSE_INTERNAL, "no memory");
        return;
    }
    struct vd_error err;
    enum vd_err e = vd_job_controls(j, m, &err);
    if (e != VD_OK) {
        j->n_refs = 1;
        vd_job_unref(j);
        vd_job_refuse(w, link, &id, e == VD_ENOMEM ? VD_REFUSE_INTERNAL : VD_REFUSE_REQUEST, err.msg);
        return;
    }
    if (!vd_job_enter(w, j)) {
        j->n_refs = 1;
        vd_job_unref(j);
        vd_job_refuse(w, link, &id, VD_REFUSE_BUSY, "");
        return;
    }
    code = vd_job_sequence_used(w, &r) ? VD_REFUSE_ESCROW : 0;
    why = code ? "this sequence of the escrow was used before" : "";
    if (!code)
        code = vd_money_reserve(w, &r, most);
    if (code) {
        vd_job_leave(w, j);
        j->n_refs = 1;
        vd_job_unref(j);
        vd_job_refuse(w, link, &id, (enum vd_wire_refuse_code)code,
                      code == VD_REFUSE_BUSY ? "the stake answers for as much as it can" : why);
        return;
    }
    j->reserved = most;
    vd_job_start(w, j);
}

void vd_worker_on_job(struct vd_worker *w, struct vd_link *link, struct vd_bytes body)
{
    struct vd_wire_job m;
    size_t cap = 4 * body.n + 4;
    void *memory = malloc(cap);
    struct vd_arena arena = vd_arena_init(memory, cap);
    if (!memory)
        vd_link_close(link, VD_ENOMEM, "no memory for a job");
    else if (!vd_wire_get_job(&m, body, &arena))
        vd_link_close(link, VD_EFORMAT, "a malformed JOB");
    else
        vd_worker_take_job(w, link, &m);
    free(memory);
}

void vd_worker_on_cancel(struct vd_worker *w, struct vd_link *link, struct vd_bytes body)
{
    struct vd_wire_cancel m;
    struct vd_engine *engine = NULL;
    uint64_t id = 0;
    if (!vd_wire_get_cancel(&m, body)) {
        vd_link_close(link, VD_EFORMAT, "a malformed CANCEL");
        return;
    }
    pthread_mutex_lock(&w->mu);
    for (size_t i = 0; i < w->n_running; i++)
        if (vd_hash_eq(&w->running[i]->id, &m.job) && w->running[i]->link == link &&
            w->running[i]->submitted) {
            engine = w->running[i]->offer->engine;
            id = w->running[i]->engine_id;
        }
    pthread_mutex_unlock(&w->mu);
    if (engine)
        vd_engine_cancel(engine, id);
}

void vd_worker_link_gone(struct vd_worker *w, struct vd_link *link)
{
    struct {
        struct vd_engine *engine;
        uint64_t id;
    } cancel[VD_WORKER_JOBS_MAX];
    size_t n = 0, n_gone = 0;
    pthread_mutex_lock(&w->mu);
    for (size_t i = 0; i < w->n_running; i++) {
        struct vd_worker_job *j = w->running[i];
        if (j->link != link)
            continue;
        j->link = NULL;
        j->unwanted = true;
        n_gone++;
        if (j->submitted) {
            cancel[n].engine = j->offer->engine;
            cancel[n++].id = j->engine_id;
        }
    }
    pthread_mutex_unlock(&w->mu);
    for (size_t i = 0; i < n; i++)
        vd_engine_cancel(cancel[i].engine, cancel[i].id);
    for (size_t i = 0; i < n_gone; i++)
        vd_link_unref(link);
}

/* ---- Receipts ---- */

/* How the answer ended for the receipt, or 0: there is none to be had. */
static int vd_job_finish(const struct vd_worker_job *j)
{
    const struct vd_job_result *r = &j->result;
    uint32_t p = j->request.n_prompt, g = j->n_output;
    if (r->end == VD_JOB_BROKEN || vd_commit_n_output(j->commit) != g)
        return 0;
    if (r->end == VD_JOB_CANCELLED)
        return g && vd_commit_n_steps(j->commit) == p + g - 1 ? VD_FINISH_CANCELLED : 0;
    switch (r->stop) {
    case VD_STOP_TOKEN:
        return VD_FINISH_STOP;
    case VD_STOP_LENGTH:
        return VD_FINISH_LENGTH;
    case VD_STOP_FAIL:
        return VD_FINISH_FAIL;
    case VD_STOP_NONE:
        break;
    }
    return 0;
}

static bool vd_job_receipt(const struct vd_worker_job *j, enum vd_finish finish, struct vd_envelope *out,
                           struct vd_amount *amount)
{
    struct vd_receipt r = {.request = j->request,
                           .output_root = vd_commit_output_root(j->commit),
                           .n_output = j->n_output,
                           .finish = finish,
                           .commit_root = vd_commit_root(j->commit)};
    if (!vd_request_amount(&j->request, j->n_output, &r.amount))
        return false;
    memset(out, 0, sizeof *out);
    out->receipt.body_bytes = vd_receipt_encode(&r, out->receipt.body, sizeof out->receipt.body);
    vd_key_sign(&out->receipt.worker_sig, &j->w->key, VD_TAG_RECEIPT, out->receipt.body,
                out->receipt.body_bytes);
    memcpy(out->job_salt, j->salt, VD_SALT_BYTES);
    out->n_prompt = j->request.n_prompt;
    out->n_output = j->n_output;
    out->prompt = j->prompt;
    out->output = j->output;
    out->controls = j->controls;
    *amount = r.amount;
    return out->receipt.body_bytes > 0;
}

/* Signs and stores. False: there is no receipt, and nothing is owed: *amount is left as it is. */
static bool vd_job_keep(struct vd_worker *w, const struct vd_worker_job *j, enum vd_finish finish,
                        struct vd_envelope *e, struct vd_amount *amount)
{
    struct vd_error err;
    struct vd_amount owed;
    if (!vd_job_receipt(j, finish, e, &owed))
        return false;
    if (vd_worker_jobs_put(&w->jobs, e, &err) != VD_OK) {
        vd_log_event(&w->log, VD_LOG_ERROR, "a receipt could not be kept and is not sent", "error=%s",
                     err.msg);
        return false;
    }
    *amount = owed;
    return true;
}

static void vd_job_send_receipt(struct vd_worker *w, struct vd_link *link, const struct vd_worker_job *j,
                                const struct vd_envelope *e)
{
    struct vd_wire_receipt m = {.job = j->id,
                                .receipt = {e->receipt.body, e->receipt.body_bytes},
                                .worker_sig = e->receipt.worker_sig};
    VD_WORKER_SEND(w, link, VD_WIRE_RECEIPT, vd_wire_put_receipt, &m, VD_RECEIPT_MAX_BYTES + 256);
}

/* The place and the money are free before the gateway hears of the end: its next job may come at once. */
static void vd_job_end(struct vd_worker *w, struct vd_worker_job *j)
{
    struct vd_link *link = vd_job_link(j);
    struct vd_envelope e;
    struct vd_amount amount = VD_AMOUNT_ZERO;
    int finish = link && !j->bad_resume ? vd_job_finish(j) : 0;
    bool delivered = finish && vd_job_keep(w, j, (enum vd_finish)finish, &e, &amount);
    vd_job_leave(w, j);
    pthread_mutex_lock(&w->mu);
    vd_money_release(w, &j->request.escrow_id, j->reserved.micro - amount.micro);
    w->stats.n_dropped += !delivered;
    w->stats.n_receipts += delivered;
    w->stats.n_tokens_in += delivered ? j->request.n_prompt : 0;
    w->stats.n_tokens_reused += delivered ? j->result.n_reused : 0;
    w->stats.n_tokens_out += delivered ? j->n_output : 0;
    pthread_mutex_unlock(&w->mu);
    if (delivered)
        vd_job_send_receipt(w, link, j, &e);
    else if (link)
        vd_job_refuse(w, link, &j->id,
                      j->bad_resume                       ? VD_REFUSE_RESUME
                      : j->result.end == VD_JOB_CANCELLED ? VD_REFUSE_STOPPING
                                                          : VD_REFUSE_INTERNAL,
                      j->result.end == VD_JOB_BROKEN ? j->result.err.msg : "");
    unsigned long long ms = (j->result.prompt_ns + j->result.output_ns) / 1000000;
    if (delivered && j->request.sampling.pooling)
        vd_log_event(&w->log, VD_LOG_INFO, "vector done", "prompt=%u elements=%u ms=%llu",
                     j->request.n_prompt, j->n_output, ms);
    else if (delivered)
        vd_log_event(&w->log, VD_LOG_INFO, "job done", "prompt=%u output=%u finish=%s ms=%llu",
                     j->request.n_prompt, j->n_output, vd_finish_name((enum vd_finish)finish), ms);
    if (link)
        vd_link_unref(link);
}

void *vd_worker_finisher(void *worker)
{
    struct vd_worker *w = worker;
    pthread_mutex_lock(&w->mu);
    for (;;) {
        struct vd_worker_job *j = w->done_first;
        if (!j && w->stopping && !w->n_running)
            break;
        if (!j) {
            pthread_cond_wait(&w->done_cond, &w->mu);
            continue;
        }
        w->done_first = j->next_done;
        if (!w->done_first)
            w->done_last = &w->done_first;
        pthread_mutex_unlock(&w->mu);
        vd_job_end(w, j);
        vd_job_unref(j);
        pthread_mutex_lock(&w->mu);
    }
    pthread_mutex_unlock(&w->mu);
    return NULL;
}

void vd_worker_on_accept(struct vd_worker *w, struct vd_link *link, struct vd_bytes body)
{
    struct vd_wire_accept m;
    struct vd_envelope e;
    struct vd_receipt r;
    struct vd_error err;
    uint32_t *tokens;
    if (!vd_wire_get_accept(&m, body)) {
        vd_link_close(link, VD_EFORMAT, "a malformed ACCEPT");
        return;
    }
    if (vd_worker_jobs_get(&w->jobs, &m.receipt_id, &e, &tokens, &err) != VD_OK) {
        vd_log_event(&w->log, VD_LOG_WARN, "an acceptance of an unknown receipt", "error=%s", err.msg);
        return;
    }
    /* Another gateway's would take the place of the one that the ledger wants to see. */
    if (vd_receipt_decode((struct vd_bytes){e.receipt.body, e.receipt.body_bytes}, &r) != VD_RECEIPT_OK ||
        !vd_pubkey_eq(&r.request.gateway, vd_link_peer(link)) ||
        !vd_key_verify(&m.gateway_sig, vd_link_peer(link), VD_TAG_ACCEPT, e.receipt.body,
                       e.receipt.body_bytes)) {
        vd_link_close(link, VD_EAUTH, "ACCEPT's signature does not verify");
    } else {
        e.receipt.gateway_sig = m.gateway_sig;
        if (vd_worker_jobs_put(&w->jobs, &e, &err) != VD_OK)
            vd_log_event(&w->log, VD_LOG_ERROR, "an acceptance could not be kept", "error=%s", err.msg);
        pthread_mutex_lock(&w->mu);
        w->stats.n_accepted++;
        pthread_mutex_unlock(&w->mu);
    }
    free(tokens);
}
