/* A batch is as many positions as the context takes, and as many with logits as it takes, of whatever
 * sequences have begun; the bits do not depend on it.
 *
 * What a batch needs lives as long as a run: there may be many feeds that wait for theirs, one for each
 * stream that is followed and each trace that is kept.
 *
 * In sorted order the longest prefix that a sequence has in common with any before it is the one with its
 * neighbour, so a plan needs to look at neighbours only. Rows that are taken from another sequence cost
 * nothing but their commitment: the pages of the cache are shared. */
#include "vd_feed.h"

#include "vd_clock.h"
#include "vd_sampler.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* A shorter prefix is computed again: to take it, a sequence may have to wait for a batch to end. */
enum { SHARE_MIN = 16 };

/* Of all samplers of a lean feed. */
enum { LEAN_BYTES = 12 << 20 };

/* One for every thread, but of a lean feed as many as fit. */
static unsigned n_samplers(const struct vd_feed *f)
{
    unsigned n_threads = vd_pool_threads(vd_ctx_pool(f->ctx));
    size_t fit = LEAN_BYTES / vd_sampler_bytes(vd_model_program(vd_ctx_model(f->ctx))->vocab);
    fit = fit > 0 ? fit : 1;
    return f->lean && fit < n_threads ? (unsigned)fit : n_threads;
}

struct vd_feed_batch {
    size_t n, n_logits;
    struct vd_row *rows;
    struct vd_feed_seq **seq;         /* per row, as all below */
    uint32_t *token;                  /* that the model chooses */
    struct vd_automaton_state *state; /* the mask's, before its token */
    unsigned n_samplers;              /* of which each takes every n_samplers-th row */
    struct vd_sampler **sampler;
};

static bool has_head(const struct vd_feed_seq *s, uint32_t step)
{
    return vd_graph_has_head(s->graph, step) && step >= s->first_head;
}

static bool has_logits(const struct vd_feed_seq *s, uint32_t step)
{
    return has_head(s, step) && !vd_graph_pools(s->graph);
}

static uint32_t flags_of(const struct vd_feed_seq *s, uint32_t step)
{
    bool row = vd_graph_has_row(s->graph, step) && step >= s->first_head;
    return has_logits(s, step) ? VD_ROW_LOGITS : row ? VD_ROW_HIDDEN : 0;
}

/* The token at `step` as EMBED reads it: what is not in the vocabulary reads the last row. Such a job is no
 * reason to refuse it: whoever cannot run it can neither audit nor dispute it. */
static uint32_t token_at(const struct vd_feed_seq *s, uint32_t step)
{
    uint32_t n_prompt = s->graph->job.n_prompt, vocab = s->graph->program->vocab;
    uint32_t token = step < n_prompt ? s->prompt[step] : s->output[step - n_prompt];
    return token < vocab ? token : vocab - 1;
}

/* Every position reads all the others: they go through one batch together, and no prefix is another's. */
static bool is_whole(const struct vd_feed_seq *s)
{
    return vd_program_is_encoder(s->graph->program);
}

/* ---- who takes what from whom ---- */

static uint32_t common(const struct vd_feed_seq *a, const struct vd_feed_seq *b)
{
    uint32_t n = a->n_steps < b->n_steps ? a->n_steps : b->n_steps, i = 0;
    while (i < n && token_at(a, i) == token_at(b, i))
        i++;
    return i;
}

static int compare_seqs(const void *pa, const void *pb)
{
    const struct vd_feed_seq *a = *(struct vd_feed_seq *const *)pa, *b = *(struct vd_feed_seq *const *)pb;
    uint32_t i = common(a, b);
    if (i < a->n_steps && i < b->n_steps)
        return token_at(a, i) < token_at(b, i) ? -1 : 1;
    return (a->n_steps > b->n_steps) - (a->n_steps < b->n_steps);
}

void vd_feed_plan(struct vd_feed_seq **seq, size_t n)
{
    if (n)
        qsort(seq, n, sizeof *seq, compare_seqs);
    for (size_t i = 1; i < n; i++) {
        uint32_t most = seq[i]->graph->job.n_prompt - 1, same = common(seq[i - 1], seq[i]);
        most = most < seq[i]->n_steps ? most : seq[i]->n_steps - 1;
        same = same < most ? same : most;
        bool mean = seq[i]->graph->job.sampling.pooling == VD_POOLING_MEAN; /* needs all rows itself */
        seq[i]->n_shared = same >= SHARE_MIN && !seq[i]->tap && !mean && !is_whole(seq[i]) ? same : 0;
    }
}

/* The one before it in the plan, if it takes rows from it. */
static struct vd_feed_seq *source_of(struct vd_feed_seq *const *seq, size_t i)
{
    return i > 0 && seq[i]->n_shared ? seq[i - 1] : NULL;
}

/* Whether the sequence can begin now, but for memory. In a batch that is full it does only where the rows
 * that it takes would be gone when the next one has begun. */
static bool may_join(const struct vd_feed *f, struct vd_feed_seq *const *seq, size_t i)
{
    const struct vd_feed_seq *from = source_of(seq, i);
    if (from && (!from->joined || vd_kv_len(from->kv) < seq[i]->n_shared))
        return false;
    return f->batch->n < vd_ctx_max_rows(f->ctx) || (from && !vd_kv_will_reach(from->kv, seq[i]->n_shared));
}

/* Its cache, with what it takes from another. Where that is not to be had any more it computes all itself. */
static enum vd_err open_cache(struct vd_feed *f, struct vd_feed_seq *s, struct vd_feed_seq *from,
                              struct vd_error *err)
{
    enum vd_err e = VD_ENOMEM;
    if (from && vd_kv_reaches(from->kv, s->n_shared))
        e = vd_kv_fork(&s->kv, from->kv, s->n_shared, err);
    if (e == VD_ENOMEM) {
        s->n_shared = 0;
        e = vd_kv_open(&s->kv, f->cache, err);
    }
    if (e == VD_OK)
        e = vd_kv_reserve(s->kv, s->n_steps, err);
    if (e != VD_OK) {
        vd_kv_close(s->kv);
        s->kv = NULL;
    }
    return e;
}

/* With room for all its positions. Where others run, it waits for that: then it has not joined. */
static enum vd_err join(struct vd_feed *f, struct vd_feed_seq *s, struct vd_feed_seq *from, bool any_runs,
                        struct vd_error *err)
{
    enum vd_err e = open_cache(f, s, from, err);
    if (e != VD_OK)
        return e == VD_ENOMEM && any_runs ? VD_OK : e;
    s->joined = true;
    s->n_fed = s->n_shared;
    f->n_shared += s->n_fed;
    for (uint32_t step = 0; step < s->n_fed; step++)
        s->row(s->arg, s->kv, step, 0, VD_SAMPLE_FAIL, VD_STOP_NONE, NULL);
    return VD_OK;
}

/* Gives up the rows that nobody needs any more. */
static void leave(struct vd_feed_seq *const *seq, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        bool needed = i + 1 < n && source_of(seq, i + 1) && !seq[i + 1]->joined;
        if (seq[i]->kv && vd_kv_len(seq[i]->kv) == seq[i]->n_steps && !seq[i]->keep && !needed) {
            vd_kv_close(seq[i]->kv);
            seq[i]->kv = NULL;
        }
    }
}

/* Nothing runs. If the next one does not fit beside the rows that are kept for those behind it, these shall
 * do without. */
static void make_room(struct vd_feed *f, struct vd_feed_seq *const *seq, size_t n)
{
    size_t i = 0;
    while (i < n && seq[i]->joined)
        i++;
    if (i == n || vd_kv_pool_need_bytes(f->cache, seq[i]->n_shared, seq[i]->n_steps) <=
                      vd_kv_pool_max_bytes(f->cache) - vd_kv_pool_used_bytes(f->cache))
        return;
    while (++i < n)
        if (!seq[i]->joined)
            seq[i]->n_shared = 0;
    leave(seq, n);
}

/* ---- batches ---- */

/* The mask's state before the token of this step: from the step's before and the token between them. */
static void follow_mask(struct vd_feed_seq *s, uint32_t step)
{
    uint32_t n_prompt = s->graph->job.n_prompt;
    if (!s->masker || step + 1 < n_prompt)
        return;
    if (step + 1 == n_prompt)
        s->mask_state = VD_AUTOMATON_START;
    else
        vd_masker_advance(s->masker, &s->mask_state, s->output[step - n_prompt]);
}

/* As many rows of one sequence as fit. */
static void take_rows(struct vd_feed *f, struct vd_feed_seq *s)
{
    struct vd_feed_batch *b = f->batch;
    if (is_whole(s) && s->n_steps > vd_ctx_max_rows(f->ctx) - b->n)
        return;
    for (; s->n_fed < s->n_steps && b->n < vd_ctx_max_rows(f->ctx); s->n_fed++) {
        bool head = has_logits(s, s->n_fed);
        if (head && b->n_logits == vd_ctx_max_logits(f->ctx))
            return;
        b->n_logits += head;
        follow_mask(s, s->n_fed);
        b->state[b->n] = s->mask_state;
        b->token[b->n] = VD_SAMPLE_FAIL;
        b->seq[b->n] = s;
        b->rows[b->n++] = (struct vd_row){
            .kv = s->kv, .pos = s->n_fed, .token = token_at(s, s->n_fed), .flags = flags_of(s, s->n_fed)};
    }
}

static enum vd_err fill(struct vd_feed *f, struct vd_feed_seq *const *seq, size_t n, struct vd_error *err)
{
    struct vd_feed_batch *b = f->batch;
    bool any_runs = false;
    b->n = b->n_logits = 0;
    for (size_t i = 0; i < n; i++)
        any_runs |= seq[i]->joined && seq[i]->n_fed < seq[i]->n_steps;
    if (!any_runs)
        make_room(f, seq, n);
    for (size_t i = 0; i < n; i++) {
        if (!seq[i]->joined) {
            enum vd_err e = may_join(f, seq, i) ? join(f, seq[i], source_of(seq, i), any_runs, err) : VD_OK;
            if (e != VD_OK)
                return e;
            if (!seq[i]->joined)
                continue;
            leave(seq, i + 1);
        }
        any_runs |= seq[i]->n_fed < seq[i]->n_steps;
        take_rows(f, seq[i]);
    }
    return VD_OK;
}

static void choose_token(const struct vd_feed *f, size_t row, struct vd_sampler *sampler)
{
    const struct vd_feed_batch *b = f->batch;
    const struct vd_feed_seq *s = b->seq[row];
    const struct vd_sampling *how = &s->graph->job.sampling;
    uint32_t step = b->rows[row].pos, n_prompt = s->graph->job.n_prompt;
    if (!has_logits(s, step))
        return;
    struct vd_choice c = {.sampling = how,
                          .r64 = vd_sample_r64(how->seed, how->choice, step + 1 - n_prompt),
                          .tokens = s->sequence,
                          .n_prompt = n_prompt,
                          .step = step,
                          .bias = s->bias,
                          .masker = s->masker,
                          .state = &b->state[row]};
    b->token[row] =
        vd_sampler_choose(sampler, vd_model_kern(vd_ctx_model(f->ctx)), vd_ctx_logits(f->ctx, row), &c);
}

static void choose_tokens(void *arg, size_t task, unsigned thread)
{
    const struct vd_feed *f = arg;
    (void)thread;
    for (size_t row = task; row < f->batch->n; row += f->batch->n_samplers)
        choose_token(f, row, f->batch->sampler[task]);
}

static void hand_over(struct vd_feed *f)
{
    const struct vd_feed_batch *b = f->batch;
    for (size_t i = 0; i < b->n; i++) {
        struct vd_feed_seq *s = b->seq[i];
        uint32_t step = b->rows[i].pos;
        bool head = has_logits(s, step);
        enum vd_stop stop = head ? vd_graph_stop(s->graph, step, b->token[i]) : VD_STOP_NONE;
        s->row(s->arg, s->kv, step, i, b->token[i], stop, head && s->masker ? &b->state[i] : NULL);
    }
}

static void tap_row(void *arg, size_t row, uint32_t unit, const struct vd_graph_rows *rows, unsigned thread)
{
    const struct vd_feed_batch *b = arg;
    const struct vd_feed_seq *s = b->seq[row];
    (void)thread;
    if (s->tap)
        s->tap(s->arg, b->rows[row].pos, unit, rows);
}

static enum vd_err run_batch(struct vd_feed *f, bool tapped, struct vd_error *err)
{
    struct vd_feed_batch *b = f->batch;
    struct vd_tap tap = {tap_row, b};
    uint64_t t0 = vd_clock_ns();
    enum vd_err e = vd_model_forward(f->ctx, b->rows, b->n, tapped ? &tap : NULL, err);
    uint64_t t1 = vd_clock_ns();
    if (e != VD_OK)
        return e;
    if (b->n_logits)
        vd_pool_run(vd_ctx_pool(f->ctx), choose_tokens, f, b->n_samplers);
    f->forward_ns += t1 - t0;
    f->sample_ns += vd_clock_ns() - t1;
    f->n_rows += b->n;
    hand_over(f);
    return VD_OK;
}

static void batch_free(struct vd_feed_batch *b)
{
    for (unsigned i = 0; b->sampler && i < b->n_samplers; i++)
        vd_sampler_free(b->sampler[i]);
    free(b->sampler);
    free(b->state);
    free(b->token);
    free(b->seq);
    free(b->rows);
}

static enum vd_err batch_make(struct vd_feed_batch *b, const struct vd_feed *f, struct vd_error *err)
{
    size_t n = vd_ctx_max_rows(f->ctx);
    uint32_t vocab = vd_model_program(vd_ctx_model(f->ctx))->vocab;
    *b = (struct vd_feed_batch){.n_samplers = n_samplers(f)};
    b->rows = malloc(n * sizeof *b->rows);
    b->seq = malloc(n * sizeof *b->seq);
    b->token = malloc(n * sizeof *b->token);
    b->state = malloc(n * sizeof *b->state);
    b->sampler = calloc(b->n_samplers, sizeof *b->sampler);
    bool ok = b->rows && b->seq && b->token && b->state && b->sampler;
    for (unsigned i = 0; ok && i < b->n_samplers; i++)
        ok = (b->sampler[i] = vd_sampler_new(vocab)) != NULL;
    if (ok)
        return VD_OK;
    batch_free(b);
    return vd_error_set(err, VD_ENOMEM, "no memory for a batch of %zu rows", n);
}

static enum vd_err feed_all(struct vd_feed *f, struct vd_feed_seq *const *seq, size_t n, bool tapped,
                            struct vd_error *err)
{
    for (;;) {
        enum vd_err e = fill(f, seq, n, err);
        if (e == VD_OK && f->batch->n == 0)
            return VD_OK;
        if (e == VD_OK)
            e = run_batch(f, tapped, err);
        if (e != VD_OK)
            return e;
        leave(seq, n);
    }
}

enum vd_err vd_feed_run(struct vd_feed *f, struct vd_feed_seq *const *seq, size_t n, struct vd_error *err)
{
    struct vd_feed_batch batch;
    bool tapped = false;
    for (size_t i = 0; i < n; i++) {
        enum vd_err e = seq[i]->kv ? vd_kv_reserve(seq[i]->kv, seq[i]->n_steps, err) : VD_OK;
        if (e != VD_OK)
            return e;
        tapped |= seq[i]->tap != NULL;
        if (is_whole(seq[i]) && seq[i]->n_steps > vd_ctx_max_rows(f->ctx))
            return vd_error_set(err, VD_ELIMIT,
                                "a sequence of %u positions goes through one batch of %zu rows",
                                seq[i]->n_steps, vd_ctx_max_rows(f->ctx));
    }
    enum vd_err e = batch_make(&batch, f, err);
    if (e != VD_OK)
        return e;
    f->batch = &batch;
    e = feed_all(f, seq, n, tapped, err);
    f->batch = NULL;
    batch_free(&batch);
    return e;
}

/* ---- memory ---- */

void vd_feed_open(struct vd_feed *f, struct vd_ctx *ctx, struct vd_kv_pool *cache)
{
    assert(vd_ctx_max_logits(ctx) >= 1);
    *f = (struct vd_feed){.ctx = ctx, .cache = cache};
}

void vd_feed_close(struct vd_feed *f)
{
    vd_texts_free(f->texts);
    *f = (struct vd_feed){0};
}

void vd_feed_seq_reset(struct vd_feed_seq *s)
{
    vd_kv_close(s->kv);
    s->kv = NULL;
    s->joined = false;
    s->n_fed = 0;
}

void vd_feed_seq_close(struct vd_feed_seq *s)
{
    vd_feed_seq_reset(s);
    vd_masker_free(s->masker);
    s->masker = NULL;
    free(s->own_sequence);
    s->own_sequence = NULL;
}

/* ---- jobs ---- */

/* The tokens as they are: a penalty looks at ids, whether the vocabulary has them or not. */
static bool copy_sequence(struct vd_feed_seq *s, const struct vd_proof_job *job)
{
    size_t p = job->receipt->request.n_prompt, g = job->receipt->n_output;
    if (!vd_num_penalised(&job->receipt->request.sampling))
        return true;
    s->sequence = s->own_sequence = malloc((p + g) * sizeof *s->own_sequence);
    if (!s->own_sequence)
        return false;
    memcpy(s->own_sequence, job->prompt, p * sizeof *s->own_sequence);
    if (g)
        memcpy(s->own_sequence + p, job->output, g * sizeof *s->own_sequence);
    return true;
}

enum vd_err vd_feed_controls(struct vd_feed *f, struct vd_feed_seq *s, const struct vd_proof_job *job,
                             bool *fits, struct vd_error *err)
{
    const struct vd_model *model = vd_ctx_model(f->ctx);
    const struct vd_program *p = vd_model_program(model);
    enum vd_err e = VD_OK;
    *fits = vd_controls_check(&job->receipt->request, &job->controls);
    if (!*fits)
        return VD_OK;
    if (!copy_sequence(s, job))
        return vd_error_set(err, VD_ENOMEM, "no memory for a job's tokens");
    s->bias = job->controls.bias;
    if (job->controls.mask.n == 0)
        return VD_OK;
    if (!job->texts && !f->texts)
        e = vd_texts_open(&f->texts, vd_model_gguf(model), p->vocab, err);
    s->texts = job->texts ? job->texts : f->texts;
    if (e == VD_OK)
        e = vd_masker_create(&s->masker, s->texts, job->controls.mask, p->stop, p->n_stop, err);
    *fits = e != VD_ECONFLICT;
    return *fits ? e : VD_OK;
}

bool vd_feed_graph(struct vd_graph *out, const struct vd_model *model, const struct vd_proof_job *job)
{
    const struct vd_request *q = &job->receipt->request;
    *out = (struct vd_graph){vd_model_program(model),
                             {.n_prompt = q->n_prompt,
                              .n_output = job->receipt->n_output,
                              .n_steps = vd_receipt_n_steps(job->receipt),
                              .max_tokens = q->max_tokens,
                              .sampling = q->sampling}};
    return vd_graph_valid(out);
}
