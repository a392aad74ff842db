/* The scheduler. All decisions are taken on its one thread between steps, so jobs need no locks of their own:
 * other threads only append to the queue, set a cancel flag, or leave a call.
 *
 * A job's whole cache is taken when it is admitted. That keeps pages idle that a short answer will never
 * fill, but nothing can run dry half-way, and the prefix cache gives way first. */
#include "vd_engine.h"
#include "vd_engine_internal.h"

#include <assert.h>
#include <stdlib.h>

enum {
    DEFAULT_KV_MIB = 512,
    DEFAULT_ROWS = 512,
    DEFAULT_ACTIVE = 32,
    DEFAULT_QUEUED = 1024,
    FURTHER = 16,    /* a job that gave way is let past where it stood by this part of it, and one position */
    LOGITS_MIN = 64, /* rows of logits of a step: resumed outputs want many */
};

/* ------------------------- one job ------------------------- */

static void job_free(struct job *j)
{
    if (!j)
        return;
    vd_embed_free(j->embed);
    free(j->tokens);
    free(j);
}

static struct job *job_new(const struct vd_job *spec)
{
    struct job *j = calloc(1, sizeof *j);
    if (!j)
        return NULL;
    j->tokens = malloc(((size_t)spec->n_prompt + spec->max_tokens) * sizeof *j->tokens);
    if (!j->tokens) {
        free(j);
        return NULL;
    }
    memcpy(j->tokens, spec->prompt, spec->n_prompt * sizeof *j->tokens);
    if (spec->n_resume)
        memcpy(j->tokens + spec->n_prompt, spec->resume, spec->n_resume * sizeof *j->tokens);
    j->spec = *spec;
    j->spec.prompt = j->spec.resume = NULL; /* the caller's memory */
    if (spec->bias.n)
        memcpy(j->bias, spec->bias.p, spec->bias.n);
    j->spec.bias.p = j->bias;
    j->n_known = spec->n_prompt + spec->n_resume;
    j->n_given = spec->n_resume;
    j->queued_ns = vd_engine_now_ns();
    return j;
}

/* Positions that the job may come to feed. */
static size_t job_positions(const struct vd_job *spec)
{
    return spec->sampling.pooling ? spec->n_prompt : (size_t)spec->n_prompt + spec->max_tokens - 1;
}

/* Without the lock: the last word to the caller. */
static void job_done(struct job *j)
{
    uint64_t now = vd_engine_now_ns(), admitted = j->admitted_ns ? j->admitted_ns : now;
    uint64_t first = j->first_ns ? j->first_ns : now;
    j->result.n_output = j->n_output;
    j->result.n_reused = j->n_reused;
    j->result.queue_ns = admitted - j->queued_ns;
    j->result.prompt_ns = first - admitted;
    j->result.output_ns = now - first;
    if (j->spec.on_done)
        j->spec.on_done(j->spec.arg, &j->result);
    job_free(j);
}

/* ------------------------- the scheduler ------------------------- */

static size_t active_of(const struct vd_engine *e, const struct vd_hash *account)
{
    size_t n = 0;
    for (size_t i = 0; i < e->n_active; i++)
        n += vd_hash_eq(&e->active[i]->spec.account, account);
    return n;
}

/* A mean needs the rows after the last layer of all positions, which no cache has. Of an encoder a prefix is
 * another one in another text. */
static bool may_reuse(const struct vd_engine *e, const struct job *j)
{
    return !vd_hash_is_zero(&j->spec.account) && j->spec.sampling.pooling != VD_POOLING_MEAN && !e->encoder;
}

/* Whole pages that j could share with a running job of its account: those that both begin with. */
static size_t shared_with(const struct vd_engine *e, const struct job *j, const struct job *a)
{
    size_t most = j->spec.n_prompt - 1, n = 0;
    if (!may_reuse(e, j) || !vd_hash_eq(&j->spec.account, &a->spec.account) || a->ended)
        return 0;
    if (a->spec.n_prompt < most)
        most = a->spec.n_prompt;
    while (n < most && j->tokens[n] == a->tokens[n])
        n++;
    return n / VD_KV_PAGE_POS * VD_KV_PAGE_POS;
}

/* Somebody is computing what j begins with: it is cheaper to wait. */
static bool is_being_computed(const struct vd_engine *e, const struct job *j)
{
    for (size_t i = 0; i < e->n_active; i++)
        if (shared_with(e, j, e->active[i]) > vd_kv_len(e->active[i]->kv))
            return true;
    return false;
}

/* The place in the queue of the job to admit next: the oldest of an account that has the fewest running. But
 * those that gave way, which stand at the head, had their turn and get their places back before anybody. */
static struct job **next_queued(struct vd_engine *e)
{
    struct job **best = NULL;
    size_t fewest = SIZE_MAX;
    bool back = e->queue->owed;
    for (struct job **at = &e->queue; *at && (!back || (*at)->owed); at = &(*at)->next) {
        size_t n = active_of(e, &(*at)->spec.account);
        if (n < fewest && !is_being_computed(e, *at)) {
            fewest = n;
            best = at;
        }
    }
    return best;
}

static struct job *unlink_queued(struct vd_engine *e, struct job **at)
{
    struct job *j = *at;
    *at = j->next;
    if (e->queue_end == &j->next)
        e->queue_end = at;
    j->next = NULL;
    e->n_queued--;
    return j;
}

/* Takes the prompt's pages of a running job instead, if it has more of them. Only whole pages: neither will
 * ever write into one that both hold, so what each has reserved stays enough. */
static enum vd_err share_running(struct vd_engine *e, struct job *j, struct vd_error *err)
{
    const struct job *best = NULL;
    struct vd_kv *kv;
    size_t most = vd_kv_len(j->kv);
    for (size_t i = 0; i < e->n_active; i++) {
        size_t n = shared_with(e, j, e->active[i]);
        if (n > most && vd_kv_reaches(e->active[i]->kv, n)) {
            most = n;
            best = e->active[i];
        }
    }
    if (!best)
        return VD_OK;
    enum vd_err rc = vd_kv_fork(&kv, best->kv, most, err);
    if (rc == VD_OK) {
        vd_kv_close(j->kv);
        j->kv = kv;
    }
    return rc == VD_ENOMEM ? VD_OK : rc; /* then it does without */
}

/* Where others of the account are likely to go on from: the end of the prompt, and where the cache had one
 * that began alike. */
static void set_anchors(struct vd_engine *e, struct job *j, size_t lost)
{
    size_t at[2] = {may_reuse(e, j) ? j->spec.n_prompt - 1 : 0, lost};
    for (int i = 0; i < 2; i++) {
        at[i] = at[i] / VD_KV_PAGE_POS * VD_KV_PAGE_POS;
        j->anchor[i] = at[i] > j->n_cached ? (uint32_t)at[i] : 0;
    }
}

/* Puts the beginning of a running job into the prefix cache; older prefixes give way. Only whole pages, as in
 * share_running. */
static void keep_beginning(struct vd_engine *e, struct job *j, size_t n_pos)
{
    struct vd_kv *kv;
    struct vd_error err;
    enum vd_err rc;
    while ((rc = vd_kv_fork(&kv, j->kv, n_pos, &err)) == VD_ENOMEM &&
           vd_prefix_can_make_fork(&e->prefix, j->kv, n_pos) && vd_prefix_evict(&e->prefix))
        ;
    if (rc == VD_OK)
        vd_prefix_put(&e->prefix, &j->spec.account, j->tokens, kv);
}

/* Before a step: what would lie behind the window after it. With the lock. */
static void keep_anchors(struct vd_engine *e)
{
    for (size_t i = 0; i < e->n_active; i++)
        for (int k = 0; k < 2; k++) {
            struct job *j = e->active[i];
            if (j->anchor[k] == 0 || vd_kv_len(j->kv) < j->anchor[k] || vd_kv_will_reach(j->kv, j->anchor[k]))
                continue;
            if (vd_kv_reaches(j->kv, j->anchor[k]))
                keep_beginning(e, j, j->anchor[k]);
            j->anchor[k] = 0;
        }
}

/* Gets the job's cache: what the account's prefixes offer, and room for the rest. Prefixes give way to it,
 * but only if that helps: a job that has to wait anyway is tried at every step, and must not cost the others
 * theirs. The last prompt token is always fed, since its row yields the first token. */
static enum vd_err get_cache(struct vd_engine *e, struct job *j, struct vd_error *err)
{
    size_t usable = may_reuse(e, j) ? j->spec.n_prompt - 1 : 0, lost;
    enum vd_err rc =
        vd_prefix_take(&e->prefix, e->cache, &j->spec.account, j->tokens, usable, &j->kv, &lost, err);
    if (rc == VD_OK)
        rc = share_running(e, j, err);
    if (rc != VD_OK)
        return rc;
    size_t n_pos = job_positions(&j->spec);
    while ((rc = vd_kv_reserve(j->kv, n_pos, err)) == VD_ENOMEM &&
           vd_prefix_can_make_room(&e->prefix, j->kv, n_pos) && vd_prefix_evict(&e->prefix))
        ;
    if (rc == VD_OK) {
        j->n_cached = (uint32_t)vd_kv_len(j->kv);
        set_anchors(e, j, lost);
        return VD_OK;
    }
    vd_kv_close(j->kv);
    j->kv = NULL;
    return rc;
}

/* Moves jobs from the queue to the running ones while there is room; with the lock. Returns a list of jobs
 * that cannot be run at all. */
static struct job *admit(struct vd_engine *e)
{
    struct job *broken = NULL;
    while (e->n_active < e->options.max_active && e->queue) {
        struct job **at = next_queued(e), *j = at ? *at : NULL;
        struct vd_error err = {0};
        if (!j)
            break; /* all wait for a prompt that is being computed */
        if (get_cache(e, j, &err) == VD_OK) {
            unlink_queued(e, at);
            if (j->admitted_ns == 0) { /* else it was paused */
                j->admitted_ns = vd_engine_now_ns();
                j->n_reused = j->n_cached;
                e->stats.n_reused_tokens += j->n_reused;
            }
            e->active[e->n_active++] = j;
            continue;
        }
        if (e->n_active > 0)
            break; /* when somebody ends there will be room */
        unlink_queued(e, at);
        j->result.end = VD_JOB_BROKEN;
        j->result.err = err;
        j->next = broken;
        broken = j;
    }
    return broken;
}

/* Takes the jobs out that are cancelled (all, if the engine stops); with the lock. */
static struct job *take_cancelled(struct vd_engine *e)
{
    struct job *list = NULL;
    for (struct job **at = &e->queue; *at;) {
        if (!e->stopping && !atomic_load(&(*at)->cancel)) {
            at = &(*at)->next;
            continue;
        }
        struct job *j = unlink_queued(e, at);
        j->result.end = VD_JOB_CANCELLED;
        j->next = list;
        list = j;
    }
    for (size_t i = 0; i < e->n_active; i++) {
        struct job *j = e->active[i];
        if (!j->ended && (e->stopping || atomic_load(&j->cancel))) {
            j->ended = true;
            j->result.end = VD_JOB_CANCELLED;
        }
    }
    return list;
}

/* Takes the active jobs out that have ended; their caches become prefixes. With the lock. */
static struct job *take_ended(struct vd_engine *e, struct job *list)
{
    size_t kept = 0;
    for (size_t i = 0; i < e->n_active; i++) {
        struct job *j = e->active[i];
        if (!j->ended) {
            e->active[kept++] = j;
            continue;
        }
        bool keep = j->result.end != VD_JOB_BROKEN && j->result.stop != VD_STOP_FAIL;
        if (keep && !vd_hash_is_zero(&j->spec.account) && !e->encoder)
            vd_prefix_put(&e->prefix, &j->spec.account, j->tokens, j->kv);
        else
            vd_kv_close(j->kv);
        j->kv = NULL;
        vd_draft_drop(&j->draft);
        e->stats.n_prompt_tokens += j->spec.n_prompt;
        e->stats.n_output_tokens += j->n_output;
        j->next = list;
        list = j;
    }
    e->n_active = kept;
    return list;
}

static void all_done(struct job *list)
{
    while (list) {
        struct job *j = list;
        list = j->next;
        job_done(j);
    }
}

/* Takes a running job's cache away; it goes back to the head of the queue. With the lock. */
static void pause_job(struct vd_engine *e, size_t i)
{
    struct job *j = e->active[i];
    size_t told = vd_kv_len(j->kv); /* it has taken part in a step since it was admitted */
    memmove(e->active + i, e->active + i + 1, (e->n_active - i - 1) * sizeof(struct job *));
    e->n_active--;
    j->n_told = told > j->n_told ? (uint32_t)told : j->n_told;
    j->owed = j->n_told + j->n_told / FURTHER + 1;
    j->told_reused = false;
    vd_kv_close(j->kv);
    j->kv = NULL;
    vd_draft_drop(&j->draft);
    j->next = e->queue;
    e->queue = j;
    if (!j->next)
        e->queue_end = &j->next;
    e->n_queued++;
    e->stats.n_paused++;
}

static bool is_too_long(const struct vd_engine *e, size_t n_pos)
{
    return n_pos > 0 && vd_kv_pool_need_bytes(e->cache, 0, n_pos) > vd_kv_pool_max_bytes(e->cache);
}

/* Room in the cache for a sequence of n_pos positions; false if it is too small. With the lock. */
static bool make_room(struct vd_engine *e, size_t n_pos)
{
    size_t need = n_pos ? vd_kv_pool_need_bytes(e->cache, 0, n_pos) : 0,
           most = vd_kv_pool_max_bytes(e->cache);
    if (is_too_long(e, n_pos))
        return false;
    while (need > most - vd_kv_pool_used_bytes(e->cache)) {
        if (vd_prefix_evict(&e->prefix))
            continue;
        if (e->n_active == 0)
            return false;
        pause_job(e, e->n_active - 1);
    }
    return true;
}

/* After a step, with the lock: nobody waits any more for who has got further than where it gave way. */
static void settle_owed(struct vd_engine *e)
{
    for (size_t i = 0; i < e->n_active; i++)
        if (vd_kv_len(e->active[i]->kv) >= e->active[i]->owed)
            e->active[i]->owed = 0;
}

static bool any_owed(const struct vd_engine *e)
{
    bool any = e->queue && e->queue->owed; /* they stand at its head */
    for (size_t i = 0; i < e->n_active; i++)
        any |= e->active[i]->owed > 0;
    return any;
}

/* Whether the prefixes are all that has to give way. */
static bool has_room_beside_jobs(struct vd_engine *e, size_t n_pos)
{
    struct vd_kv *kv;
    if (vd_kv_open(&kv, e->cache, NULL) != VD_OK)
        return false;
    bool fits = vd_prefix_can_make_room(&e->prefix, kv, n_pos);
    vd_kv_close(kv);
    return fits;
}

/* Without this, runs that follow each other closely would stop the jobs for good: each time they would have
 * computed again a part of what they had, and nothing new. */
static bool must_wait(struct vd_engine *e, const struct call *c)
{
    return !e->stopping && c->n_pos > 0 && any_owed(e) && vd_engine_now_ns() < c->until_ns &&
           !is_too_long(e, c->n_pos) && !has_room_beside_jobs(e, c->n_pos);
}

/* With the lock, which is given up while the functions run. Those that come meanwhile have their turn after
 * the next step. */
static void run_calls(struct vd_engine *e)
{
    struct call **at = &e->calls;
    for (size_t n = e->n_calls; n > 0; n--) {
        struct call *c = *at;
        if (must_wait(e, c)) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        e->n_calls--;
        c->refused = e->stopping;
        c->too_long = !c->refused && !make_room(e, c->n_pos);
        if (!c->refused && !c->too_long) {
            pthread_mutex_unlock(&e->lock);
            c->fn(c->arg, e->ctx, e->cache);
            pthread_mutex_lock(&e->lock);
        }
        c->done = true;
        pthread_cond_broadcast(&e->called);
    }
}

/* With the lock, which is given up meanwhile. */
static void tell_done(struct vd_engine *e, struct job *list)
{
    if (!list)
        return;
    pthread_mutex_unlock(&e->lock);
    all_done(list);
    pthread_mutex_lock(&e->lock);
}

static void *schedule(void *arg)
{
    struct vd_engine *e = arg;
    pthread_mutex_lock(&e->lock);
    for (;;) {
        while (!e->stopping && !e->queue && !e->calls && e->n_active == 0)
            pthread_cond_wait(&e->wake, &e->lock);
        run_calls(e);
        tell_done(e, take_ended(e, take_cancelled(e)));
        if (e->stopping && !e->queue && !e->calls && e->n_active == 0)
            break;
        if (!e->stopping)
            tell_done(e, admit(e));
        if (e->n_active == 0)
            continue;
        keep_anchors(e);
        pthread_mutex_unlock(&e->lock);
        vd_engine_step(e);
        pthread_mutex_lock(&e->lock);
        e->stats.n_steps++;
        e->stats.n_rows += e->n_rows;
        e->stats.n_guessed_tokens += e->n_guessed;
        e->stats.n_right_tokens += e->n_right;
        tell_done(e, take_ended(e, NULL));
        settle_owed(e);
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

/* ------------------------- creation and end ------------------------- */

static struct vd_engine_options with_defaults(const struct vd_engine_options *given,
                                              const struct vd_program *p)
{
    struct vd_engine_options o = given ? *given : (struct vd_engine_options){0};
    o.max_kv_bytes = o.max_kv_bytes ? o.max_kv_bytes : (size_t)DEFAULT_KV_MIB << 20;
    o.max_rows = o.max_rows ? o.max_rows : DEFAULT_ROWS;
    o.max_active = o.max_active ? o.max_active : DEFAULT_ACTIVE;
    o.max_queued = o.max_queued ? o.max_queued : DEFAULT_QUEUED;
    if (o.max_rows < o.max_active)
        o.max_rows = o.max_active;
    if (vd_program_is_encoder(p) && o.max_rows < p->ctx)
        o.max_rows = p->ctx;
    return o;
}

static void engine_free(struct vd_engine *e)
{
    vd_prefix_clear(&e->prefix);
    vd_draft_destroy(e->draft);
    free(e->drafted);
    vd_kv_pool_destroy(e->cache);
    vd_ctx_destroy(e->ctx);
    for (unsigned t = 0; e->samplers && t < vd_pool_threads(e->pool); t++)
        vd_sampler_free(e->samplers[t]);
    free(e->samplers);
    free(e->active);
    free(e->rows);
    free(e->choices);
    free(e->k);
    free(e->v);
    pthread_cond_destroy(&e->called);
    pthread_cond_destroy(&e->wake);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

static enum vd_err make_buffers(struct vd_engine *e, size_t max_logits, struct vd_error *err)
{
    unsigned n_threads = vd_pool_threads(e->pool);
    bool ok = (e->samplers = calloc(n_threads, sizeof *e->samplers)) != NULL;
    for (unsigned t = 0; ok && t < n_threads; t++)
        ok = (e->samplers[t] = vd_sampler_new(vd_model_program(e->m)->vocab)) != NULL;
    e->active = calloc(e->options.max_active, sizeof(struct job *));
    e->drafted = calloc(e->options.max_active, sizeof(struct vd_draft_seq *));
    e->rows = calloc(e->options.max_rows, sizeof *e->rows);
    e->choices = calloc(max_logits, sizeof *e->choices);
    e->k = malloc(vd_model_k_row_bytes(e->m));
    e->v = malloc(vd_model_v_row_bytes(e->m));
    if (!ok || !e->active || !e->drafted || !e->rows || !e->choices || !e->k || !e->v)
        return vd_error_set(err, VD_ENOMEM, "no memory for an engine of %zu jobs", e->options.max_active);
    return VD_OK;
}

static enum vd_err make_draft(struct vd_engine *e, struct vd_error *err)
{
    const struct vd_model *draft = e->options.draft;
    uint32_t vocab = vd_model_program(draft)->vocab, own = vd_model_program(e->m)->vocab;
    if (e->encoder || vd_program_is_encoder(vd_model_program(draft)))
        return vd_error_set(err, VD_EUSE,
                            "%s: an encoder generates nothing, so nothing can be guessed for it or by it",
                            vd_model_path(e->encoder ? e->m : draft));
    if (vocab != own)
        return vd_error_set(
            err, VD_EUSE,
            "%s: a draft model of %u tokens cannot guess for one of %u; give one that has the "
            "same vocabulary",
            vd_model_path(draft), vocab, own);
    return vd_draft_create(&e->draft, draft, e->pool, e->options.max_active, e->options.max_kv_bytes, err);
}

enum vd_err vd_engine_create(struct vd_engine **out, const struct vd_model *m, struct vd_pool *pool,
                             const struct vd_engine_options *options, struct vd_error *err)
{
    *out = NULL;
    struct vd_engine *e = calloc(1, sizeof *e);
    if (!e)
        return vd_error_set(err, VD_ENOMEM, "no memory for an engine");
    e->m = m;
    e->pool = pool;
    e->encoder = vd_program_is_encoder(vd_model_program(m));
    e->options = with_defaults(options, vd_model_program(m));
    e->queue_end = &e->queue;
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->wake, NULL);
    pthread_cond_init(&e->called, NULL);
    size_t logits = e->options.max_active > LOGITS_MIN ? e->options.max_active : LOGITS_MIN;
    enum vd_err rc = make_buffers(e, logits, err);
    if (rc == VD_OK)
        rc = vd_ctx_create(&e->ctx, m, pool, e->options.max_rows, logits, err);
    if (rc == VD_OK)
        vd_ctx_set_cancel(e->ctx, &e->cancel);
    if (rc == VD_OK)
        rc = vd_kv_pool_create(&e->cache, m, e->options.max_kv_bytes, err);
    if (rc == VD_OK)
        vd_kv_pool_set_pass(e->cache, e->options.max_rows);
    if (rc == VD_OK && e->options.draft)
        rc = make_draft(e, err);
    if (rc == VD_OK && pthread_create(&e->thread, NULL, schedule, e) != 0)
        rc = vd_error_set(err, VD_EAGAIN, "the system refused a thread for the engine");
    if (rc != VD_OK) {
        engine_free(e);
        return rc;
    }
    *out = e;
    return VD_OK;
}

void vd_engine_stop(struct vd_engine *e)
{
    if (!e)
        return;
    pthread_mutex_lock(&e->lock);
    e->stopping = true;
    atomic_store(&e->cancel, true);
    pthread_cond_signal(&e->wake);
    pthread_mutex_unlock(&e->lock);
}

void vd_engine_destroy(struct vd_engine *e)
{
    if (!e)
        return;
    vd_engine_stop(e);
    pthread_join(e->thread, NULL);
    engine_free(e);
}

/* ------------------------- requests ------------------------- */

static enum vd_err check_tokens(const struct vd_program *p, const uint32_t *tokens, size_t n,
                                const char *what, struct vd_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (tokens[i] >= p->vocab)
            return vd_error_set(err, VD_EUSE, "%s token %zu is %u, not below the vocabulary of %u", what, i,
                                tokens[i], p->vocab);
    return VD_OK;
}

static enum vd_err check_resume(const struct vd_program *p, const struct vd_job *job, struct vd_error *err)
{
    if (job->n_resume >= job->max_tokens)
        return vd_error_set(err, VD_EUSE, "%u tokens to resume leave nothing of max_tokens %u", job->n_resume,
                            job->max_tokens);
    for (size_t i = 0; i < job->n_resume; i++)
        for (uint32_t s = 0; s < p->n_stop; s++)
            if (job->resume[i] == p->stop[s])
                return vd_error_set(err, VD_EUSE,
                                    "token %zu to resume is a stop token (%u): that output is complete", i,
                                    job->resume[i]);
    return check_tokens(p, job->resume, job->n_resume, "resumed", err);
}

static enum vd_err check_job(const struct vd_engine *e, const struct vd_job *job, struct vd_error *err)
{
    const struct vd_program *p = vd_model_program(e->m);
    enum vd_pooling pooling = job->sampling.pooling;
    size_t positions = job_positions(job), need = vd_kv_pool_need_bytes(e->cache, 0, positions);
    if (job->n_prompt == 0 || job->max_tokens == 0)
        return vd_error_set(err, VD_EUSE, "a prompt of %u tokens and max_tokens %u: both must be at least 1",
                            job->n_prompt, job->max_tokens);
    if (positions > p->ctx)
        return vd_error_set(
            err, VD_ELIMIT,
            "a prompt of %u tokens and max_tokens %u exceed the model's context of %u; shorten one",
            job->n_prompt, job->max_tokens, p->ctx);
    if (need > vd_kv_pool_max_bytes(e->cache))
        return vd_error_set(err, VD_ELIMIT,
                            "%zu positions need %zu bytes of the KV cache, which has %zu; give the engine "
                            "more memory",
                            positions, need, vd_kv_pool_max_bytes(e->cache));
    if (e->encoder && !pooling)
        return vd_error_set(err, VD_EUSE,
                            "this model is an encoder: it gives vectors of texts and generates nothing");
    if (!e->encoder && pooling == VD_POOLING_CLS)
        return vd_error_set(err, VD_EUSE, "this model is no encoder: its first position has seen no other");
    if (pooling && (job->max_tokens != p->width || job->n_resume))
        return vd_error_set(err, VD_EUSE,
                            "a vector of %u elements; this model's have %u, and none is resumed",
                            job->max_tokens, p->width);
    if (job->bias.n && !vd_bias_valid(job->bias))
        return vd_error_set(err, VD_EUSE, "a bias table of %zu bytes is not valid", job->bias.n);
    if (job->logprobs > 1 + VD_LOGPROBS_MAX)
        return vd_error_set(err, VD_EUSE, "%u of the likeliest tokens are wanted, at most %d are given",
                            job->logprobs - 1, VD_LOGPROBS_MAX);
    enum vd_err rc = check_tokens(p, job->prompt, job->n_prompt, "prompt", err);
    return rc == VD_OK ? check_resume(p, job, err) : rc;
}

/* With the lock. */
static enum vd_err enqueue(struct vd_engine *e, struct job *j, uint64_t *id, struct vd_error *err)
{
    if (e->stopping)
        return vd_error_set(err, VD_ECANCELLED, "the engine is shutting down");
    if (e->n_queued >= e->options.max_queued)
        return vd_error_set(err, VD_EAGAIN, "%zu jobs wait already; try again later", e->n_queued);
    j->id = ++e->next_id;
    if (id)
        *id = j->id;
    *e->queue_end = j;
    e->queue_end = &j->next;
    e->n_queued++;
    pthread_cond_signal(&e->wake);
    return VD_OK;
}

enum vd_err vd_engine_submit(struct vd_engine *e, const struct vd_job *job, uint64_t *id,
                             struct vd_error *err)
{
    enum vd_err rc = check_job(e, job, err);
    if (rc != VD_OK)
        return rc;
    struct job *j = job_new(job);
    if (!j)
        return vd_error_set(err, VD_ENOMEM, "no memory for a job");
    if (job->sampling.pooling)
        rc = vd_embed_create(&j->embed, e->m, job->sampling.pooling, err);
    if (rc != VD_OK) {
        job_free(j);
        return rc;
    }
    pthread_mutex_lock(&e->lock);
    rc = enqueue(e, j, id, err);
    pthread_mutex_unlock(&e->lock);
    if (rc != VD_OK)
        job_free(j);
    return rc;
}

void vd_engine_cancel(struct vd_engine *e, uint64_t id)
{
    pthread_mutex_lock(&e->lock);
    for (struct job *j = e->queue; j; j = j->next)
        if (j->id == id)
            atomic_store(&j->cancel, true);
    for (size_t i = 0; i < e->n_active; i++)
        if (e->active[i]->id == id)
            atomic_store(&e->active[i]->cancel, true);
    pthread_cond_signal(&e->wake);
    pthread_mutex_unlock(&e->lock);
}

enum vd_err vd_engine_run(struct vd_engine *e, size_t n_pos, uint32_t wait_ms,
                          void (*fn)(void *arg, struct vd_ctx *ctx, struct vd_kv_pool *cache), void *arg,
                          struct vd_error *err)
{
    struct call c = {
        .fn = fn, .arg = arg, .n_pos = n_pos, .until_ns = vd_engine_now_ns() + (uint64_t)wait_ms * 1000000};
    pthread_mutex_lock(&e->lock);
    if (e->stopping) {
        pthread_mutex_unlock(&e->lock);
        return vd_error_set(err, VD_ECANCELLED, "the engine is shutting down");
    }
    struct call **at = &e->calls;
    while (*at)
        at = &(*at)->next;
    *at = &c;
    e->n_calls++;
    pthread_cond_signal(&e->wake);
    while (!c.done)
        pthread_cond_wait(&e->called, &e->lock);
    pthread_mutex_unlock(&e->lock);
    if (c.too_long)
        return vd_error_set(
            err, VD_ELIMIT,
            "a sequence of %zu positions needs %zu bytes of the KV cache, which has %zu; give "
            "the engine more memory",
            n_pos, vd_kv_pool_need_bytes(e->cache, 0, n_pos), vd_kv_pool_max_bytes(e->cache));
    return c.refused ? vd_error_set(err, VD_ECANCELLED, "the engine is shutting down") : VD_OK;
}

void vd_engine_get_stats(struct vd_engine *e, struct vd_engine_stats *out)
{
    pthread_mutex_lock(&e->lock);
    *out = e->stats;
    out->n_active = e->n_active;
    out->n_queued = e->n_queued;
    out->n_runs = e->n_calls;
    out->n_prefixes = e->prefix.n_entries;
    pthread_mutex_unlock(&e->lock);
    out->kv_bytes_used = vd_kv_pool_used_bytes(e->cache);
    out->kv_bytes_max = vd_kv_pool_max_bytes(e->cache);
    out->kv_page_bytes = vd_kv_pool_page_bytes(e->cache);
}
