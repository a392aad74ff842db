/* An answer's life, as the HTTP thread drives it: place, wait for tokens, and at the end check the receipt,
 * keep it, accept it. When a worker fails in the middle, the job goes to another one with the tokens so far;
 * the client sees a pause, nothing else. The money that is reserved is what the worker that has the job may
 * ask for, and grows when a dearer one takes over. A vanished worker has no countersigned receipt, so nothing
 * is owed to it and nothing has to be taken back. */
#include "vd_gateway_impl.h"
#include "vd_clock.h"
#include "vd_trace_hash.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- start ---- */

static void seed_of(struct vd_sampling *s, bool given)
{
    uint8_t nonce[32];
    struct vd_sha256 h;
    struct vd_hash out;
    if (given)
        return;
    vd_key_random(
        nonce, sizeof nonce); /* docs/spec/receipt.md: fixed in the request, so the worker cannot choose it */
    vd_sha256_init_tag(&h, "veridem/seed");
    vd_sha256_update(&h, nonce, sizeof nonce);
    vd_sha256_final(&h, &out);
    s->seed = vd_le64_load(out.b);
}

/* Output tokens that the network's limit for one receipt allows at the cheapest worker's price; at least one.
 */
static uint32_t affordable(struct vd_gateway *g, const struct gw_job *j)
{
    struct vd_wire_offer o = {.capacity = 0};
    struct vd_amount in, left;
    pthread_mutex_lock(&g->mu);
    size_t n = gw_workers_of(g, &j->model->root, &o);
    pthread_mutex_unlock(&g->mu);
    if (!g->max_receipt.micro || n == 0 || o.price_out.micro == 0 ||
        !vd_amount_mul(&in, o.price_in, j->n_prompt) || !vd_amount_sub(&left, g->max_receipt, in))
        return UINT32_MAX;
    uint64_t most = left.micro / o.price_out.micro;
    return most == 0 ? 1 : most > UINT32_MAX ? UINT32_MAX : (uint32_t)most;
}

/* The bias table and the mask, which is compiled for the model's tokens. */
static bool take_controls(struct gw_answer *a, const struct gw_model *m, const struct vd_openai_request *r,
                          struct vd_openai_error *e)
{
    struct gw_job *j = &a->job;
    struct vd_bytes mask = {NULL, 0};
    uint8_t *compiled = NULL;
    for (uint32_t i = 0; i < vd_bias_count(r->bias); i++)
        if (!vd_gateway_text_valid(m->text, vd_bias_id(r->bias, i)))
            return vd_openai_fail(e, 400, "invalid_value", "logit_bias",
                                  "'logit_bias': the token id %u is not in the model's vocabulary.",
                                  vd_bias_id(r->bias, i));
    if (r->format.kind != VD_OPENAI_FORMAT_TEXT &&
        !vd_gateway_text_mask(m->text, &r->format, &compiled, &mask.n, e))
        return false;
    mask.p = compiled;
    if (r->bias.n + mask.n > 0) {
        j->tables = malloc(r->bias.n + mask.n);
        if (!j->tables) {
            free(compiled);
            return vd_openai_fail(e, 503, "out_of_memory", NULL,
                                  "The server is out of memory; try again later.");
        }
        if (r->bias.n)
            memcpy(j->tables, r->bias.p, r->bias.n);
        if (mask.n)
            memcpy(j->tables + r->bias.n, mask.p, mask.n);
        j->controls = (struct vd_controls){{j->tables, r->bias.n}, {j->tables + r->bias.n, mask.n}};
    }
    free(compiled);
    return true;
}

static bool prepare(struct gw_answer *a, const struct gw_model *m, const struct vd_openai_request *r,
                    struct vd_openai_error *e)
{
    struct gw_job *j = &a->job;
    uint32_t context = vd_gateway_text_context(m->text), room = context - j->n_prompt;
    j->max_tokens = r->max_tokens;
    if (r->sampling.pooling)
        room = j->max_tokens; /* they are never fed */
    if (j->max_tokens == 0) {
        uint32_t most = affordable(a->g, j);
        room = most < room ? most : room;
        j->max_tokens = a->g->cfg.max_tokens_default < room ? a->g->cfg.max_tokens_default : room;
    }
    if (j->max_tokens > room)
        return vd_openai_fail(
            e, 400, "context_length_exceeded", "max_tokens",
            "This model's context has %u tokens; the prompt has %u and 'max_tokens' asks for %u more.",
            context, j->n_prompt, j->max_tokens);
    j->output = malloc(j->max_tokens * sizeof *j->output);
    if (!j->output)
        return vd_openai_fail(e, 503, "out_of_memory", NULL, "The server is out of memory; try again later.");
    j->sampling = r->sampling;
    j->logprobs = r->logprobs;
    a->stop = r->stop;
    if (!take_controls(a, m, r, e))
        return false;
    if (j->logprobs)
        j->logprob = calloc(j->max_tokens, GW_LOGPROB_BYTES(j->logprobs));
    if (j->logprobs && !j->logprob)
        return vd_openai_fail(e, 503, "out_of_memory", NULL, "The server is out of memory; try again later.");
    seed_of(&j->sampling, r->has_seed);
    vd_key_random(j->salt, sizeof j->salt);
    j->prompt_root = vd_token_root(j->salt, 0, j->prompt, j->n_prompt);
    return true;
}

bool gw_answer_start(struct gw_answer *a, struct vd_gateway *g, const struct gw_model *m,
                     const struct vd_openai_request *r, const struct vd_api_key *key, uint32_t *prompt,
                     uint32_t n_prompt, struct vd_openai_error *e)
{
    memset(a, 0, sizeof *a);
    a->g = g;
    a->job.model = m;
    a->job.key = key->id;
    a->job.prompt = prompt;
    a->job.n_prompt = n_prompt;
    gw_cond_init(&a->job.changed);
    a->job.bell = &a->job.changed;
    a->job.key_limit = key->limit;
    if (prepare(a, m, r, e))
        return true;
    a->ended = true;
    gw_answer_free(a);
    return false;
}

/* ---- text ---- */

static bool text_room(struct gw_answer *a, size_t n)
{
    if (a->n_all + n <= a->cap_text)
        return true;
    size_t cap = a->cap_text ? a->cap_text * 2 : 4096;
    while (cap < a->n_all + n)
        cap *= 2;
    char *p = realloc(a->text, cap);
    if (!p)
        return false;
    a->text = p;
    a->cap_text = cap;
    return true;
}

/* n more bytes are in the text. What could be the beginning of a stop string is not shown yet. */
static void show_text(struct gw_answer *a, size_t n)
{
    size_t from = a->n_all, at;
    a->n_all += n;
    if (vd_stop_text_find(&a->stop, a->text, a->n_all, from, &at)) {
        a->stopped = true;
        a->n_all = at;
    }
    a->n_text = a->stopped ? at : a->n_all - vd_stop_text_held(&a->stop, a->text, a->n_all);
}

/* Turns tokens [n_taken, n) of the job into text. They do not change any more once they are there. */
static bool take_text(struct gw_answer *a, uint32_t n)
{
    if (a->job.sampling.pooling) { /* elements of a vector */
        a->n_taken = n;
        return true;
    }
    for (; a->n_taken < n; a->n_taken++) {
        if (a->stopped)
            continue;
        if (!text_room(a, VD_GATEWAY_TEXT_TOKEN_MAX))
            return false;
        a->n_text_tok = a->n_taken + 1;
        show_text(a, vd_gateway_text_put(a->job.model->text, &a->stream, a->job.output[a->n_taken],
                                         a->text + a->n_all));
    }
    return true;
}

static bool end_text(struct gw_answer *a)
{
    if (a->stopped)
        return true;
    if (!text_room(a, VD_GATEWAY_TEXT_TOKEN_MAX))
        return false;
    show_text(a, vd_gateway_text_end(&a->stream, a->text + a->n_all));
    a->n_text = a->n_all; /* nothing can follow what was held back */
    return true;
}

/* ---- the end ---- */

/* Does the finish reason agree with the tokens? */
static bool finish_fits(const struct gw_job *j, const struct vd_receipt *r)
{
    if (j->sampling.pooling)
        return r->finish == VD_FINISH_LENGTH && r->n_output == j->max_tokens;
    bool stop = r->n_output && vd_gateway_text_is_stop(j->model->text, j->output[r->n_output - 1]);
    switch (r->finish) {
    case VD_FINISH_STOP:
        return stop;
    case VD_FINISH_LENGTH:
        return !stop && r->n_output == j->max_tokens;
    case VD_FINISH_FAIL:
        return true;
    case VD_FINISH_CANCELLED:
        return j->cancelled;
    }
    return false;
}

/* The receipt that came, checked and countersigned. */
static bool make_envelope(struct gw_answer *a, struct vd_envelope *env)
{
    struct gw_job *j = &a->job;
    uint8_t request[VD_REQUEST_MAX_BYTES];
    struct vd_bytes body = {j->receipt, j->n_receipt};
    *env = (struct vd_envelope){.n_prompt = j->n_prompt,
                                .n_output = j->n_expected,
                                .prompt = j->prompt,
                                .output = j->output,
                                .controls = j->controls};
    memcpy(env->receipt.body, j->receipt, j->n_receipt);
    env->receipt.body_bytes = j->n_receipt;
    env->receipt.worker_sig = j->worker_sig;
    memcpy(env->job_salt, j->salt, VD_SALT_BYTES);
    vd_key_sign(&env->receipt.gateway_sig, &a->g->key, VD_TAG_ACCEPT, body.p, body.n);
    if (vd_envelope_check(env, &a->receipt) != VD_RECEIPT_OK)
        return false;
    size_t n = vd_request_encode(&a->receipt.request, request, sizeof request);
    return n == j->n_request && memcmp(request, j->request_bytes, n) == 0 && finish_fits(j, &a->receipt);
}

static enum vd_err keep(struct gw_answer *a, const struct vd_envelope *env, struct vd_error *err)
{
    size_t cap = vd_envelope_max_bytes(env->n_prompt, env->n_output);
    struct vd_gwstore_receipt r = {.key = a->job.key,
                                   .state = VD_GW_PENDING,
                                   .created_s = vd_clock_wall_s(),
                                   .amount = a->receipt.amount,
                                   .envelope = malloc(cap)};
    if (!r.envelope)
        return vd_error_set(err, VD_ENOMEM, "no memory for an envelope");
    r.n_envelope = vd_envelope_encode(env, r.envelope, cap);
    r.id = a->receipt_id = vd_signed_receipt_id(&env->receipt);
    struct vd_gwstore_once *o = &a->once;
    o->n_prompt = env->n_prompt;
    o->n_output = env->n_output;
    o->finish = a->stopped ? VD_FINISH_STOP : a->receipt.finish;
    o->receipt_id = r.id;
    o->amount = a->receipt.amount;
    o->text = a->text;
    o->n_text = a->n_text;
    bool whole = o->finish == VD_FINISH_STOP || o->finish == VD_FINISH_LENGTH;
    enum vd_err e = vd_gwstore_finish(a->g->store, &r, a->has_slot && whole ? o : NULL, err);
    free(r.envelope);
    return e;
}

static void count_answer(struct gw_answer *a)
{
    struct vd_gateway *g = a->g;
    pthread_mutex_lock(&g->mu);
    g->stats.n_answers++;
    g->stats.n_tokens_in += a->receipt.request.n_prompt;
    g->stats.n_tokens_out += a->receipt.n_output;
    g->stats.n_cancelled += a->receipt.finish == VD_FINISH_CANCELLED && !a->stopped;
    pthread_mutex_unlock(&g->mu);
}

static void end(struct gw_answer *a)
{
    gw_job_leave(a->g, &a->job);
    gw_stream_keep(a->g, &a->job);
    if (!a->ended)
        gw_money_release(a->g, &a->job);
    a->ended = true;
}

/* Says what there is instead of a receipt. */
static void tell_statement(const struct gw_job *j, struct vd_openai_error *e)
{
    size_t n = strlen(e->message);
    char hex[65];
    vd_hex_encode(hex, j->kept.b, VD_HASH_BYTES);
    if (j->n_kept)
        snprintf(e->message + n, sizeof e->message - n,
                 " What the worker signed of the first %u tokens is at /v1/receipts/%s.", j->n_kept, hex);
}

static enum gw_step end_with_error(struct gw_answer *a, struct vd_openai_error *e)
{
    end(a);
    tell_statement(&a->job, e);
    return GW_ERROR;
}

/* GW_TEXT: the receipt was not good, go on with another worker. */
static enum gw_step take_receipt(struct gw_answer *a, struct vd_openai_error *e)
{
    struct vd_envelope env;
    struct vd_error why;
    if (!make_envelope(a, &env)) {
        vd_log_event(&a->g->log, VD_LOG_WARN, "a receipt is not valid", "reason=%s",
                     "signatures, roots or finish");
        return GW_TEXT;
    }
    if (!end_text(a)) {
        vd_openai_fail(e, 503, "out_of_memory", NULL, "The server is out of memory; try again later.");
        return end_with_error(a, e);
    }
    enum vd_err rc = keep(a, &env, &why);
    if (rc != VD_OK) {
        vd_log_event(&a->g->log, VD_LOG_ERROR, "a receipt cannot be kept", "why=%s", why.msg);
        vd_openai_fail(e, 503, rc == VD_ENOSPACE ? "disk_full" : "store_failed", NULL,
                       rc == VD_ENOSPACE
                           ? "The gateway's disk is full; the answer is not charged. Try again later."
                           : "The gateway's store failed; the answer is not charged. Try again later.");
        e->retry_after_s = 30;
        return end_with_error(a, e);
    }
    a->job.owed = a->receipt.amount;
    a->job.prefix.n_output = 0; /* the receipt says it all */
    gw_money_owe(a->g, &a->job.key, a->receipt.amount);
    gw_job_send_accept(a->g, &a->job, &a->receipt_id, &env.receipt.gateway_sig);
    count_answer(a);
    end(a);
    return GW_DONE;
}

/* ---- waiting ---- */

static void exclude(struct gw_job *j)
{
    if (j->n_excluded < GW_EXCLUDED_MAX)
        j->excluded[j->n_excluded++] = j->worker;
}

/* The current worker is given up; true if another has the job now. */
static bool go_on_elsewhere(struct gw_answer *a, bool not_again, struct vd_openai_error *e)
{
    struct gw_job *j = &a->job;
    bool begun = j->n_output > 0;
    gw_job_leave(a->g, j);
    gw_stream_keep(a->g, j);
    j->cancelled = false; /* of the one that is given up */
    if (not_again)
        exclude(j);
    if (!gw_job_place(a->g, j, a->alive, a->alive_arg, e))
        return false;
    pthread_mutex_lock(&a->g->mu);
    a->g->stats.n_resumed += begun;
    pthread_mutex_unlock(&a->g->mu);
    return true;
}

/* What has happened to a job. */
enum wait_result {
    W_NOTHING,
    W_TOKENS,
    W_RECEIPT,
    W_REFUSED,
    W_LOST,
    W_BROKEN,
    W_WRONG,
    W_STALLED,
    W_GONE,
    W_STOPPING
};

/* Under g->mu. */
static enum wait_result look(const struct gw_answer *a)
{
    const struct gw_job *j = &a->job;
    if (j->phase == GW_WRONG)
        return W_WRONG;
    if (j->n_output > a->n_taken)
        return W_TOKENS;
    if (j->phase == GW_RECEIPT)
        return W_RECEIPT;
    if (j->phase == GW_REFUSED)
        return W_REFUSED;
    if (j->phase == GW_LOST)
        return W_LOST;
    if (j->phase == GW_BROKEN)
        return W_BROKEN;
    if (atomic_load(&a->g->stopping))
        return W_STOPPING;
    uint64_t n_pos = (uint64_t)j->n_prompt + j->n_output; /* to be computed first, or again */
    return vd_clock_ms() - j->progress_ms >= a->g->cfg.stall_ms + n_pos * GW_POSITION_MS ? W_STALLED
                                                                                         : W_NOTHING;
}

/* Asked now and then, also while tokens come. */
static bool is_gone(struct gw_answer *a)
{
    uint64_t now = vd_clock_ms();
    if (!a->alive || now - a->alive_ms < GW_ALIVE_POLL_MS)
        return false;
    a->alive_ms = now;
    return !a->alive(a->alive_arg);
}

/* Waits until something has happened to one of the placed answers, *which from now on; the one after it is
 * looked at first the next time. W_NOTHING: one without a worker might find one now. */
static enum wait_result wait_any(struct gw_answer *const *a, size_t n, size_t *which, uint32_t *n_tokens)
{
    struct vd_gateway *g = a[0]->g;
    enum wait_result w = W_NOTHING;
    bool unplaced = false, patient = true;
    pthread_mutex_lock(&g->mu);
    while (w == W_NOTHING && (patient || !unplaced)) {
        if (is_gone(a[0]))
            w = W_GONE;
        for (size_t i = 1; i <= n && w == W_NOTHING; i++) {
            size_t at = (*which + i) % n;
            unplaced |= !a[at]->ended && a[at]->job.n_attempts == 0;
            if (a[at]->ended || a[at]->job.n_attempts == 0 || (w = look(a[at])) == W_NOTHING)
                continue;
            *which = at;
            *n_tokens = a[at]->job.n_output;
        }
        if (w != W_NOTHING)
            break;
        patient = gw_cond_wait_ms(a[0]->job.bell, &g->mu, unplaced ? GW_BUSY_PAUSE_MS : GW_ALIVE_POLL_MS);
    }
    pthread_mutex_unlock(&g->mu);
    return w;
}

/* Gives answers that no worker has had to workers: waits for the first of them, if none is at work. -1: all
 * is well; else the answer that failed. */
static long place_new(struct gw_answer *const *a, size_t n, struct vd_openai_error *e)
{
    for (size_t i = 0; i < n; i++) {
        struct gw_job *j = &a[i]->job;
        if (a[i]->ended || j->n_attempts)
            continue;
        bool alone = !j->siblings || j->siblings->n_placed == 0; /* changed by this thread only */
        if (alone ? !gw_job_place(a[i]->g, j, a[i]->alive, a[i]->alive_arg, e) : !gw_job_try(a[i]->g, j))
            return alone ? (long)i : -1;
    }
    return -1;
}

static enum gw_step stopping(struct gw_answer *a, struct vd_openai_error *e)
{
    gw_answer_cancel(a);
    gw_shutting_down(e);
    return GW_ERROR;
}

/* Goes on after what has happened. W_NOTHING is nothing; GW_TEXT with *again: wait once more. */
static enum gw_step go_on(struct gw_answer *a, enum wait_result w, uint32_t n_tokens, bool *again,
                          struct vd_openai_error *e)
{
    struct gw_job *j = &a->job;
    bool not_again = true;
    enum gw_step s;
    *again = true;
    switch (w) {
    case W_NOTHING:
        return GW_TEXT;
    case W_TOKENS:
        *again = false;
        if (take_text(a, n_tokens)) {
            if (a->stopped && !j->cancelled)
                gw_job_cancel(a->g, j); /* its receipt says CANCELLED */
            return GW_TEXT;
        }
        vd_openai_fail(e, 503, "out_of_memory", NULL, "The server is out of memory; try again later.");
        gw_answer_cancel(a);
        return GW_ERROR;
    case W_RECEIPT:
        s = take_receipt(a, e);
        if (s != GW_TEXT)
            return s;
        break;
    case W_REFUSED:
        not_again = j->refusal != VD_REFUSE_BUSY;
        if (!not_again)
            vd_clock_sleep_ms(GW_BUSY_PAUSE_MS);
        break;
    case W_LOST:
        not_again = false; /* it may come back */
        break;
    case W_STALLED:
        gw_job_cancel(a->g, j);
        j->cancelled = false;
        break;
    case W_BROKEN:
        break;
    case W_WRONG: /* whatever the client has read cannot be taken back */
        vd_openai_fail(e, 502, "worker_wrong", NULL,
                       "The worker gave a token that the model does not choose; the answer ends here and is "
                       "not charged.");
        return end_with_error(a, e);
    case W_GONE:
        return GW_GONE;
    case W_STOPPING:
        return stopping(a, e);
    }
    return go_on_elsewhere(a, not_again, e) ? GW_TEXT : end_with_error(a, e);
}

enum gw_step gw_answers_next(struct gw_answer *const *a, size_t n, size_t *which, struct vd_openai_error *e)
{
    bool any = false, again = true;
    enum gw_step s = GW_TEXT;
    for (size_t i = 0; i < n; i++)
        any |= !a[i]->ended;
    if (!any) {
        vd_openai_fail(e, 500, "ended", NULL, "The answer has ended.");
        return GW_ERROR;
    }
    while (again && s == GW_TEXT) {
        uint32_t n_tokens = 0;
        long failed = place_new(a, n, e);
        if (failed >= 0) {
            *which = (size_t)failed;
            return end_with_error(a[failed], e);
        }
        enum wait_result w = wait_any(a, n, which, &n_tokens);
        s = go_on(a[*which], w, n_tokens, &again, e);
    }
    return s;
}

enum gw_step gw_answer_next(struct gw_answer *a, struct vd_openai_error *e)
{
    size_t which = 0;
    return gw_answers_next(&a, 1, &which, e);
}

void gw_answers_join(struct gw_answer *const *a, size_t n, bool choices, struct gw_siblings *s)
{
    *s = (struct gw_siblings){.n_new = (uint32_t)n};
    for (size_t i = 0; i < n; i++) {
        struct gw_job *j = &a[i]->job;
        s->in_tok += j->n_prompt;
        s->out_tok += gw_job_out_tok(j);
        j->siblings = s;
        if (choices)
            j->bell = a[0]->job.bell;
    }
}

void gw_answer_cancel(struct gw_answer *a)
{
    struct gw_job *j = &a->job;
    struct vd_gateway *g = a->g;
    struct vd_openai_error e;
    if (a->ended)
        return;
    if (j->n_attempts == 0) { /* nobody has it */
        end(a);
        return;
    }
    gw_job_cancel(g, j);
    uint64_t until = vd_clock_ms() + (atomic_load(&g->stopping) ? GW_STOP_WAIT_MS : GW_CANCEL_WAIT_MS);
    pthread_mutex_lock(&g->mu);
    while (j->phase == GW_RUNNING && vd_clock_ms() < until)
        gw_cond_wait_ms(j->bell, &g->mu, GW_ALIVE_POLL_MS);
    enum gw_phase phase = j->phase;
    uint32_t n = j->n_output;
    pthread_mutex_unlock(&g->mu);
    if (phase == GW_RECEIPT && take_text(a, n) && take_receipt(a, &e) == GW_DONE)
        return;
    end(a);
}

void gw_answer_free(struct gw_answer *a)
{
    gw_answer_cancel(a);
    free(a->job.prompt);
    free(a->job.output);
    free(a->job.tables);
    free(a->job.logprob);
    free(a->text);
    pthread_cond_destroy(&a->job.changed);
    memset(&a->job, 0, sizeof a->job);
    a->text = NULL;
}
