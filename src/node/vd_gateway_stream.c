/* What is said of an answer while it is made. The worker signs, every so many tokens, what it has said so far
 * (docs/spec/receipt.md): the last such statement is kept until there is a receipt, and on disk if there
 * never will be one, because the worker vanished or was wrong. Verifiers that this gateway's operator named
 * as followers get what the worker gets and what it sends; when one of them says that a token is not the
 * model's, the answer ends there, nothing is paid for it, and the worker gets no more jobs. */
#include "vd_gateway_impl.h"
#include "vd_clock.h"
#include "vd_trace_hash.h"

#include <stdlib.h>

/* ---- the worker's statements ---- */

/* Tokens once there do not change, nor does the salt: the tree grows with them, whichever worker has the job.
 */
static struct vd_hash root_so_far(struct gw_job *j, uint32_t n)
{
    for (uint32_t i = (uint32_t)j->leaves.n; i < n; i++) {
        struct vd_hash salt = vd_trace_salt(j->salt, j->n_prompt + i);
        struct vd_hash leaf = vd_token_leaf(&salt, j->n_prompt + i, j->output[i]);
        vd_merkle_stream_add(&j->leaves, &leaf);
    }
    return vd_merkle_stream_root(&j->leaves);
}

/* It comes behind the tokens that it is about, so it is about all of them. */
static bool statement_fits(struct gw_job *j, const struct vd_wire_prefix *m, struct vd_receipt_prefix *p)
{
    if (!vd_receipt_prefix_decode(m->statement, p) || !vd_hash_eq(&p->job_id, &j->id) ||
        p->n_output != j->n_expected || p->n_output != j->n_output || p->n_output <= j->prefix.n_output)
        return false;
    struct vd_hash root = root_so_far(j, p->n_output);
    return vd_hash_eq(&root, &p->output_root) &&
           vd_key_verify(&m->worker_sig, &j->worker, VD_TAG_PREFIX, m->statement.p, m->statement.n);
}

void gw_stream_on_prefix(struct vd_gateway *g, struct vd_link *l, struct gw_session *s, struct vd_bytes body)
{
    struct vd_wire_prefix m;
    struct vd_receipt_prefix p;
    bool ok = vd_wire_get_prefix(&m, body);
    if (ok) {
        pthread_mutex_lock(&g->mu);
        struct gw_job *j = gw_job_of(g, s, &m.job);
        ok = !j || statement_fits(j, &m, &p);
        if (j && ok) {
            j->prefix.n_output = p.n_output;
            memcpy(j->prefix.statement, m.statement.p, m.statement.n);
            j->prefix.n_bytes = m.statement.n;
            j->prefix.worker_sig = m.worker_sig;
            g->stats.n_prefixes++;
            gw_stream_pass(g, VD_WIRE_PREFIX, body);
        } else if (j) {
            gw_job_wake(j, GW_BROKEN);
        }
        pthread_mutex_unlock(&g->mu);
    }
    if (!ok)
        vd_link_close(l, VD_EFORMAT, "a PREFIX that does not fit");
}

static size_t envelope_of(const struct gw_job *j, uint8_t *buf, size_t cap)
{
    struct vd_prefix_envelope *e = calloc(1, sizeof *e);
    if (!e)
        return 0;
    memcpy(e->request, j->request_bytes, j->n_request);
    e->request_bytes = j->n_request;
    memcpy(e->statement, j->prefix.statement, j->prefix.n_bytes);
    e->statement_bytes = j->prefix.n_bytes;
    e->worker_sig = j->prefix.worker_sig;
    memcpy(e->job_salt, j->salt, VD_SALT_BYTES);
    e->n_prompt = j->n_prompt;
    e->n_output = j->prefix.n_output;
    e->prompt = j->prompt;
    e->output = j->output;
    e->controls = j->controls;
    size_t n = vd_prefix_envelope_encode(e, buf, cap);
    free(e);
    return n;
}

void gw_stream_keep(struct vd_gateway *g, struct gw_job *j)
{
    struct vd_error err;
    char hex[65];
    size_t cap = vd_prefix_envelope_max_bytes(j->n_prompt, j->prefix.n_output);
    if (j->prefix.n_output == 0)
        return;
    struct vd_gwstore_receipt r = {.id = j->id,
                                   .key = j->key,
                                   .state = VD_GW_PREFIX,
                                   .created_s = vd_clock_wall_s(),
                                   .envelope = malloc(cap)};
    r.n_envelope = r.envelope ? envelope_of(j, r.envelope, cap) : 0;
    enum vd_err e = r.n_envelope ? vd_gwstore_finish(g->store, &r, NULL, &err)
                                 : vd_error_set(&err, VD_ENOMEM, "no memory for a statement");
    vd_hex_encode(hex, j->id.b, VD_HASH_BYTES);
    vd_log_event(&g->log, e == VD_OK ? VD_LOG_INFO : VD_LOG_ERROR,
                 e == VD_OK ? "no receipt, but a statement" : "a worker's statement cannot be kept",
                 "job=%s tokens=%u%s%s", hex, j->prefix.n_output,
                 e == VD_OK ? "" : " why=", e == VD_OK ? "" : err.msg);
    free(r.envelope);
    if (e == VD_OK) {
        j->kept = j->id;
        j->n_kept = j->prefix.n_output;
    }
    j->prefix.n_output = 0;
}

/* ---- followers ---- */

bool gw_stream_may_follow(const struct vd_gateway *g, const struct vd_pubkey *key)
{
    for (size_t i = 0; i < g->cfg.n_followers; i++)
        if (vd_pubkey_eq(&g->follower[i], key))
            return true;
    return false;
}

void gw_stream_pass(struct vd_gateway *g, unsigned type, struct vd_bytes body)
{
    for (struct gw_session *s = g->sessions; s; s = s->next)
        if (s->follows && vd_link_send(s->link, type, body.p, body.n, NULL) == VD_EAGAIN) {
            s->follows = false;
            vd_link_close(s->link, VD_EAGAIN, "the streams are not read");
        }
}

void gw_stream_over(struct vd_gateway *g, const struct gw_job *j)
{
    uint8_t buf[64];
    g->past[g->n_past++ % GW_PAST_MAX] = (struct gw_past){j->id, j->worker};
    struct vd_wire_cancel m = {.job = j->id};
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    if (vd_wire_put_cancel(&w, &m))
        gw_stream_pass(g, VD_WIRE_CANCEL, (struct vd_bytes){buf, w.n_bytes});
}

bool gw_stream_is_wrong(const struct vd_gateway *g, const struct vd_pubkey *worker)
{
    size_t n = g->n_wrong < GW_WRONG_MAX ? g->n_wrong : GW_WRONG_MAX;
    for (size_t i = 0; i < n; i++)
        if (vd_pubkey_eq(&g->wrong[i], worker))
            return true;
    return false;
}

/* The worker is told why, on whichever link it has now, and not asked again. */
static void stop_worker(struct vd_gateway *g, const struct vd_pubkey *worker)
{
    if (!gw_stream_is_wrong(g, worker))
        g->wrong[g->n_wrong++ % GW_WRONG_MAX] = *worker;
    g->stats.n_wrong++;
    for (struct gw_session *s = g->sessions; s; s = s->next)
        if (s->role == VD_ROLE_WORKER && vd_pubkey_eq(&s->key, worker))
            vd_link_close(s->link, VD_EFALSE, "a token is not the one that the model chooses");
}

/* The worker of an attempt that is over: one that says something wrong and leaves must not begin anew. */
static const struct vd_pubkey *past_worker(const struct vd_gateway *g, const struct vd_hash *job)
{
    size_t n = g->n_past < GW_PAST_MAX ? g->n_past : GW_PAST_MAX;
    for (size_t i = 0; i < n; i++)
        if (vd_hash_eq(&g->past[i].job, job))
            return &g->past[i].worker;
    return NULL;
}

bool gw_stream_on_refuse(struct vd_gateway *g, struct gw_session *s, const struct vd_wire_refuse *m)
{
    char hex[65];
    bool follows, found = false;
    pthread_mutex_lock(&g->mu);
    follows = s->follows;
    for (struct gw_job *j = g->jobs; j && follows && !found; j = j->next) {
        found = j->phase == GW_RUNNING && vd_hash_eq(&j->id, &m->what) && m->code == VD_REFUSE_WRONG;
        if (found) {
            gw_job_wake(j, GW_WRONG);
            stop_worker(g, &j->worker);
        }
    }
    const struct vd_pubkey *past = past_worker(g, &m->what);
    if (follows && !found && past && m->code == VD_REFUSE_WRONG)
        stop_worker(g, past);
    pthread_mutex_unlock(&g->mu);
    vd_hex_encode(hex, m->what.b, VD_HASH_BYTES);
    if (follows)
        vd_log_event(&g->log, VD_LOG_WARN, "a follower: a stream is wrong", "job=%s detail=%.*s%s", hex,
                     (int)m->text.n, (const char *)m->text.p, found ? "" : " (it had ended)");
    return follows;
}
