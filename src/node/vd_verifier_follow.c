/* Links' threads write down what comes; one thread replays. What has come since it last looked at a stream it
 * takes in one portion, up to the next statement, so that it does not fall behind by being slow. */
#include "vd_verifier_follow.h"

#include "vd_replay.h"
#include "vd_wire.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FOLLOW_ROWS = 256, FOLLOW_LOGITS = 64, FOLLOW_CACHE_BYTES = 512 << 20 };

struct vd_follow_desk {
    struct vd_verifier_model m;
    struct vd_pool *pool;
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
};

enum vd_follow_end { VD_FOLLOW_GOES_ON, VD_FOLLOW_RECEIPT, VD_FOLLOW_CUT };

struct vd_follow_stream {
    struct vd_hash job;
    struct vd_follow_desk *desk;
    struct vd_link *link;      /* a reference */
    struct vd_receipt receipt; /* of it the request alone */
    uint8_t request[VD_REQUEST_MAX_BYTES], salt[VD_SALT_BYTES];
    size_t n_request;
    uint32_t *prompt, *output, n_output; /* one block of memory */
    uint32_t n_resume;                   /* of the output: an earlier worker's */
    bool spoke;                          /* this worker has said something itself */
    uint8_t *tables;
    struct vd_controls controls;
    struct vd_receipt_prefix said[VD_FOLLOW_SAID_MAX];
    size_t n_said;
    enum vd_follow_end end;
    enum vd_finish finish; /* of the receipt */
    struct vd_hash commit_root;

    /* the follower's own */
    struct vd_proof_job proof;
    struct vd_replay_stream *replay;
    uint32_t n_done;
    bool begun, over; /* over: the verdict has fallen; it waits for its end */
};

struct vd_follow {
    struct vd_log log;
    struct vd_follow_desk desk[VD_WORKER_MODELS_MAX];
    size_t n_desks;
    pthread_t thread;
    bool runs;
    pthread_mutex_t mu;
    pthread_cond_t work;
    bool stopping, news;
    atomic_bool cancel; /* of what the follower computes */
    struct vd_follow_stream *stream[VD_FOLLOW_STREAMS_MAX];
    struct vd_follow_stats stats;
};

/* ---- What comes ---- */

static void vd_follow_free(struct vd_follow_stream *s)
{
    vd_replay_stream_close(s->replay);
    vd_link_unref(s->link);
    explicit_bzero(s->salt, sizeof s->salt);
    free(s->prompt);
    free(s->tables);
    free(s);
}

/* That goes on: one that has ended may still be looked at while the same job comes again. */
static struct vd_follow_stream *vd_follow_find(struct vd_follow *f, const struct vd_link *link,
                                               const struct vd_hash *job)
{
    for (size_t i = 0; i < VD_FOLLOW_STREAMS_MAX; i++) {
        struct vd_follow_stream *s = f->stream[i];
        if (s && s->link == link && s->end == VD_FOLLOW_GOES_ON && vd_hash_eq(&s->job, job))
            return s;
    }
    return NULL;
}

static bool vd_follow_copy(struct vd_follow_stream *s, const struct vd_wire_job *m)
{
    const struct vd_request *q = &s->receipt.request;
    const struct vd_controls *c = &m->controls;
    s->prompt = malloc(((size_t)q->n_prompt + q->max_tokens) * sizeof *s->prompt);
    s->tables = malloc(c->bias.n + c->mask.n + 1);
    if (!s->prompt || !s->tables)
        return false;
    memcpy(s->prompt, m->prompt.v, q->n_prompt * sizeof *s->prompt);
    s->output = s->prompt + q->n_prompt;
    if (m->resume.n)
        memcpy(s->output, m->resume.v, m->resume.n * sizeof *s->output);
    s->n_output = s->n_resume = (uint32_t)m->resume.n;
    if (c->bias.n)
        memcpy(s->tables, c->bias.p, c->bias.n);
    if (c->mask.n)
        memcpy(s->tables + c->bias.n, c->mask.p, c->mask.n);
    s->controls = (struct vd_controls){{s->tables, c->bias.n}, {s->tables + c->bias.n, c->mask.n}};
    memcpy(s->request, m->request.p, m->request.n);
    s->n_request = m->request.n;
    memcpy(s->salt, m->salt.b, VD_SALT_BYTES);
    s->job = vd_receipt_id(m->request);
    return true;
}

/* Whatever a worker would refuse, or has no tokens to follow, is not followed. */
static bool vd_follow_can(struct vd_follow *f, const struct vd_wire_job *m, struct vd_request *q,
                          struct vd_follow_desk **desk)
{
    if (vd_request_decode(m->request, q) != VD_RECEIPT_OK || q->sampling.pooling != VD_POOLING_NONE ||
        m->prompt.n != q->n_prompt || m->resume.n >= q->max_tokens || !vd_controls_check(q, &m->controls))
        return false;
    for (size_t i = 0; i < f->n_desks; i++)
        if (vd_hash_eq(&f->desk[i].m.root, &q->model_root))
            *desk = &f->desk[i];
    return *desk && (uint64_t)q->n_prompt + q->max_tokens - 1 <= vd_model_program((*desk)->m.model)->ctx;
}

static void vd_follow_on_job(struct vd_follow *f, struct vd_link *link, const struct vd_wire_job *m)
{
    struct vd_follow_stream *s = calloc(1, sizeof *s);
    bool ok = s && vd_follow_can(f, m, &s->receipt.request, &s->desk) && vd_follow_copy(s, m);
    pthread_mutex_lock(&f->mu);
    size_t i = 0;
    while (ok && i < VD_FOLLOW_STREAMS_MAX && f->stream[i])
        i++;
    ok = ok && i < VD_FOLLOW_STREAMS_MAX;
    if (ok) {
        s->link = vd_link_ref(link);
        f->stream[i] = s;
        f->stats.n_streams++;
        f->news = true;
        pthread_cond_signal(&f->work);
    } else {
        f->stats.n_passed_over++;
    }
    pthread_mutex_unlock(&f->mu);
    if (!ok && s)
        vd_follow_free(s);
}

/* Under mu. With a gap, or more than was asked for, it is no stream any more. */
static void vd_follow_add_tokens(struct vd_follow_stream *s, const struct vd_wire_token *m)
{
    if (m->index != s->n_output || m->ids.n > s->receipt.request.max_tokens - s->n_output) {
        s->end = VD_FOLLOW_CUT;
        return;
    }
    memcpy(s->output + s->n_output, m->ids.v, m->ids.n * sizeof *s->output);
    s->n_output += (uint32_t)m->ids.n;
}

/* Under mu. With too many waiting the later ones are not looked at: the tokens are, all the same. */
static void vd_follow_add_prefix(struct vd_follow_stream *s, const struct vd_wire_prefix *m)
{
    struct vd_receipt_prefix p;
    if (vd_receipt_prefix_decode(m->statement, &p) && p.n_output == s->n_output &&
        s->n_said < VD_FOLLOW_SAID_MAX)
        s->said[s->n_said++] = p;
}

/* Under mu. */
static void vd_follow_add_receipt(struct vd_follow_stream *s, const struct vd_wire_receipt *m)
{
    struct vd_receipt r;
    s->end = VD_FOLLOW_CUT;
    if (vd_receipt_decode(m->receipt, &r) == VD_RECEIPT_OK && r.n_output == s->n_output) {
        s->finish = r.finish;
        s->commit_root = r.commit_root;
        s->end = VD_FOLLOW_RECEIPT;
    }
}

union vd_follow_message {
    struct vd_wire_job job;
    struct vd_wire_token token;
    struct vd_wire_prefix prefix;
    struct vd_wire_receipt receipt;
    struct vd_wire_cancel cancel;
};

/* *job: of which. */
static bool vd_follow_read(union vd_follow_message *m, unsigned type, struct vd_bytes body,
                           struct vd_arena *arena, struct vd_hash *job)
{
    bool ok = false;
    if (type == VD_WIRE_JOB && (ok = vd_wire_get_job(&m->job, body, arena)))
        *job = vd_receipt_id(m->job.request);
    if (type == VD_WIRE_TOKEN && (ok = vd_wire_get_token(&m->token, body, arena)))
        *job = m->token.job;
    if (type == VD_WIRE_PREFIX && (ok = vd_wire_get_prefix(&m->prefix, body)))
        *job = m->prefix.job;
    if (type == VD_WIRE_RECEIPT && (ok = vd_wire_get_receipt(&m->receipt, body)))
        *job = m->receipt.job;
    if (type == VD_WIRE_CANCEL && (ok = vd_wire_get_cancel(&m->cancel, body)))
        *job = m->cancel.job;
    return ok;
}

void vd_follow_on_frame(struct vd_follow *f, struct vd_link *link, unsigned type, struct vd_bytes body)
{
    union vd_follow_message m;
    struct vd_hash job;
    size_t cap = 4 * body.n + 8;
    void *memory = malloc(cap);
    struct vd_arena arena = vd_arena_init(memory, memory ? cap : 0);
    if (!memory) {
        vd_link_close(link, VD_ENOMEM, "no memory for a stream");
        return;
    }
    if (!vd_follow_read(&m, type, body, &arena, &job)) {
        vd_link_close(link, VD_EFORMAT, "a malformed frame of a stream");
    } else if (type == VD_WIRE_JOB) {
        vd_follow_on_job(f, link, &m.job);
    } else {
        pthread_mutex_lock(&f->mu);
        struct vd_follow_stream *s = vd_follow_find(f, link, &job);
        if (s) {
            if (type == VD_WIRE_TOKEN)
                vd_follow_add_tokens(s, &m.token);
            else if (type == VD_WIRE_PREFIX)
                vd_follow_add_prefix(s, &m.prefix);
            else if (type == VD_WIRE_RECEIPT)
                vd_follow_add_receipt(s, &m.receipt);
            else
                s->end = VD_FOLLOW_CUT;
            f->news = true;
            pthread_cond_signal(&f->work);
        }
        pthread_mutex_unlock(&f->mu);
    }
    free(memory);
}

void vd_follow_on_close(struct vd_follow *f, struct vd_link *link)
{
    pthread_mutex_lock(&f->mu);
    for (size_t i = 0; i < VD_FOLLOW_STREAMS_MAX; i++)
        if (f->stream[i] && f->stream[i]->link == link && f->stream[i]->end == VD_FOLLOW_GOES_ON)
            f->stream[i]->end = VD_FOLLOW_CUT;
    f->news = true;
    pthread_cond_signal(&f->work);
    pthread_mutex_unlock(&f->mu);
}

/* ---- The follower ---- */

/* What is there to look at next. */
struct vd_follow_portion {
    uint32_t n_tokens; /* new ones */
    bool said, ended;  /* behind them */
    struct vd_receipt_prefix prefix;
    enum vd_follow_end end;
};

static void vd_follow_tell(struct vd_follow *f, struct vd_follow_stream *s, const struct vd_replay_result *r)
{
    char text[VD_WIRE_TEXT_MAX], job[65];
    uint8_t buf[512];
    uint32_t p = s->receipt.request.n_prompt;
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    if (r->verdict == VD_REPLAY_TOKEN)
        snprintf(text, sizeof text, "output token %u is %u, the model's is %u", r->step + 1 - p, r->got,
                 r->want);
    else
        snprintf(text, sizeof text, "%s", vd_replay_text(r->verdict));
    struct vd_wire_refuse m = {
        .what = s->job, .code = VD_REFUSE_WRONG, .text = {(const uint8_t *)text, strlen(text)}};
    if (vd_wire_put_refuse(&w, &m))
        (void)vd_link_send(s->link, VD_WIRE_REFUSE, buf, w.n_bytes, NULL);
    vd_hex_encode(job, s->job.b, VD_HASH_BYTES);
    vd_log_event(&f->log, VD_LOG_WARN, "a stream is wrong", "job=%s detail=%s", job, text);
}

/* The verdict has fallen: wrong, or it cannot be known. */
static void vd_follow_conclude(struct vd_follow *f, struct vd_follow_stream *s, enum vd_err e,
                               const struct vd_replay_result *r, const struct vd_error *err)
{
    bool wrong = e == VD_OK && r->verdict != VD_REPLAY_JOB && r->verdict != VD_REPLAY_MODEL;
    s->over = true;
    vd_replay_stream_close(s->replay);
    s->replay = NULL;
    pthread_mutex_lock(&f->mu);
    f->stats.n_wrong += wrong;
    f->stats.n_cut += !wrong;
    pthread_mutex_unlock(&f->mu);
    if (wrong)
        vd_follow_tell(f, s, r);
    else
        vd_log_event(&f->log, VD_LOG_WARN, "a stream cannot be followed", "why=%s",
                     e == VD_OK ? vd_replay_text(r->verdict) : err->msg);
}

static enum vd_err vd_follow_begin(struct vd_follow_stream *s, struct vd_replay_result *r,
                                   struct vd_error *err)
{
    s->begun = true;
    s->proof = (struct vd_proof_job){.receipt = &s->receipt,
                                     .prompt = s->prompt,
                                     .output = s->output,
                                     .job_salt = s->salt,
                                     .controls = s->controls};
    return vd_replay_stream_open(&s->replay, s->desk->ctx, s->desk->cache, &s->desk->m.root, &s->proof, r,
                                 err);
}

static void vd_follow_look(struct vd_follow *f, struct vd_follow_stream *s, const struct vd_follow_portion *p)
{
    struct vd_replay_result r = {.verdict = VD_REPLAY_OK};
    struct vd_error err;
    bool cut = p->end == VD_FOLLOW_CUT && !p->n_tokens; /* nothing to look at any more */
    enum vd_err e = s->begun || cut ? VD_OK : vd_follow_begin(s, &r, &err);
    if (e == VD_OK && r.verdict == VD_REPLAY_OK && p->n_tokens)
        e = vd_replay_stream_add(s->replay, s->output + s->n_done, p->n_tokens, &r, &err);
    if (e == VD_OK && r.verdict == VD_REPLAY_OK && p->said)
        vd_replay_stream_prefix(s->replay, &p->prefix, &r);
    if (e == VD_OK && r.verdict == VD_REPLAY_OK && p->end == VD_FOLLOW_RECEIPT)
        e = vd_replay_stream_end(s->replay, s->finish, &s->commit_root, &r, &err);
    s->n_done += p->n_tokens;
    if (e != VD_OK || r.verdict != VD_REPLAY_OK)
        vd_follow_conclude(f, s, e, &r, &err);
    pthread_mutex_lock(&f->mu);
    f->stats.n_tokens += p->n_tokens;
    f->stats.n_statements += p->said;
    f->stats.n_right += !s->over && p->end == VD_FOLLOW_RECEIPT;
    f->stats.n_cut += !s->over && p->end == VD_FOLLOW_CUT;
    pthread_mutex_unlock(&f->mu);
}

/* Under mu: the new tokens up to the next statement; with none left, the end. False: nothing. An earlier
 * worker's tokens are this one's when it goes on from them: an honest one refuses those that are wrong, and
 * must not be found wrong before it could. */
static bool vd_follow_portion_of(struct vd_follow_stream *s, struct vd_follow_portion *p)
{
    s->spoke |= s->n_output > s->n_resume || s->n_said || s->end == VD_FOLLOW_RECEIPT;
    uint32_t known = s->spoke ? s->n_output : 0, to = s->n_said ? s->said[0].n_output : known;
    *p = (struct vd_follow_portion){.n_tokens = to - s->n_done, .said = s->n_said > 0};
    if (p->said) {
        p->prefix = s->said[0];
        memmove(&s->said[0], &s->said[1], --s->n_said * sizeof s->said[0]);
    }
    if (to == known && !s->n_said)
        p->end = s->end;
    return p->n_tokens || p->said || p->end != VD_FOLLOW_GOES_ON || (!s->begun && !s->over);
}

/* True: there was something. Locks and unlocks mu. */
static bool vd_follow_turn(struct vd_follow *f, size_t i)
{
    struct vd_follow_portion p;
    pthread_mutex_lock(&f->mu);
    struct vd_follow_stream *s = f->stream[i];
    bool some = s && vd_follow_portion_of(s, &p), over = some && s->over;
    if (over)
        s->n_done += p.n_tokens;
    pthread_mutex_unlock(&f->mu);
    if (some && !over)
        vd_follow_look(f, s, &p);
    if (some && p.end != VD_FOLLOW_GOES_ON) {
        pthread_mutex_lock(&f->mu);
        f->stream[i] = NULL;
        pthread_mutex_unlock(&f->mu);
        vd_follow_free(s);
    }
    return some;
}

static void *vd_follow_run(void *arg)
{
    struct vd_follow *f = arg;
    pthread_mutex_lock(&f->mu);
    while (!f->stopping) {
        bool some = false;
        f->news = false;
        pthread_mutex_unlock(&f->mu);
        for (size_t i = 0; i < VD_FOLLOW_STREAMS_MAX; i++)
            some |= vd_follow_turn(f, i);
        pthread_mutex_lock(&f->mu);
        while (!some && !f->news && !f->stopping)
            pthread_cond_wait(&f->work, &f->mu);
    }
    pthread_mutex_unlock(&f->mu);
    return NULL;
}

/* ---- Start and stop ---- */

static enum vd_err vd_follow_open_desk(struct vd_follow_desk *d, const struct vd_verifier_model *m,
                                       const atomic_bool *cancel, struct vd_error *err)
{
    d->m = *m;
    enum vd_err e = vd_pool_create(&d->pool, vd_pool_threads(m->pool), err);
    if (e == VD_OK)
        e = vd_ctx_create(&d->ctx, m->model, d->pool, FOLLOW_ROWS, FOLLOW_LOGITS, err);
    if (e != VD_OK)
        return e;
    vd_ctx_set_cancel(d->ctx, cancel);
    return vd_kv_pool_create(&d->cache, m->model, FOLLOW_CACHE_BYTES, err);
}

enum vd_err vd_follow_start(struct vd_follow **out, const struct vd_verifier_model *model, size_t n_models,
                            const struct vd_log *log, struct vd_error *err)
{
    struct vd_follow *f = calloc(1, sizeof *f);
    enum vd_err e = VD_OK;
    if (!f)
        return vd_error_set(err, VD_ENOMEM, "no memory to follow streams");
    f->log = *log;
    pthread_mutex_init(&f->mu, NULL);
    pthread_cond_init(&f->work, NULL);
    for (size_t i = 0; e == VD_OK && i < n_models; i++)
        e = vd_follow_open_desk(&f->desk[f->n_desks++], &model[i], &f->cancel, err);
    if (e == VD_OK) {
        f->runs = pthread_create(&f->thread, NULL, vd_follow_run, f) == 0;
        e = f->runs ? VD_OK : vd_error_set(err, VD_EAGAIN, "the system refused a thread");
    }
    if (e != VD_OK) {
        vd_follow_stop(f);
        return e;
    }
    *out = f;
    return VD_OK;
}

void vd_follow_stop(struct vd_follow *f)
{
    if (!f)
        return;
    pthread_mutex_lock(&f->mu);
    f->stopping = true;
    atomic_store(&f->cancel, true);
    pthread_cond_signal(&f->work);
    pthread_mutex_unlock(&f->mu);
    if (f->runs)
        pthread_join(f->thread, NULL);
    for (size_t i = 0; i < VD_FOLLOW_STREAMS_MAX; i++)
        if (f->stream[i])
            vd_follow_free(f->stream[i]);
    for (size_t i = 0; i < f->n_desks; i++) {
        vd_ctx_destroy(f->desk[i].ctx);
        vd_kv_pool_destroy(f->desk[i].cache);
        vd_pool_destroy(f->desk[i].pool);
    }
    pthread_cond_destroy(&f->work);
    pthread_mutex_destroy(&f->mu);
    free(f);
}

void vd_follow_get_stats(struct vd_follow *f, struct vd_follow_stats *out)
{
    pthread_mutex_lock(&f->mu);
    *out = f->stats;
    pthread_mutex_unlock(&f->mu);
}
