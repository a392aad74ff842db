/* A batch is as many positions as the context takes, and as many with logits as it takes; the bits do not
 * depend on it. */
#include "vd_feed.h"

#include "vd_clock.h"
#include "vd_sampler.h"

#include <stdlib.h>
#include <string.h>

struct batch {
    struct vd_feed *feed;
    struct vd_kv *kv;
    uint32_t first;
    size_t n;
    struct vd_automaton_state last; /* of the batch before */
    struct vd_row *rows;
    uint32_t *token;                  /* per row */
    struct vd_automaton_state *state; /* per row: the mask's, before its token */
    uint32_t *sequence;               /* prompt and output, if there are penalties */
    unsigned n_threads;
    struct vd_sampler **sampler; /* per thread */
};

static void tap_row(void *arg, size_t row, uint32_t unit, const uint8_t *k, const uint8_t *v, const float *x,
                    unsigned thread)
{
    const struct batch *b = arg;
    b->feed->tap(b->feed->arg, b->first + (uint32_t)row, unit, k, v, x);
}

/* The token at `step` as EMBED reads it: what is not in the vocabulary reads the last row. Such a job is no
 * reason to refuse it: whoever cannot run it can neither audit nor dispute it. */
static uint32_t token_at(const struct vd_feed *f, uint32_t step)
{
    uint32_t n_prompt = f->graph->job.n_prompt, vocab = f->graph->program->vocab;
    uint32_t token = step < n_prompt ? f->prompt[step] : f->output[step - n_prompt];
    return token < vocab ? token : vocab - 1;
}

/* The mask's state before the token of row i, from the row's before and the token between them. */
static void follow_mask(struct batch *b, size_t i, uint32_t step)
{
    const struct vd_feed *f = b->feed;
    if (step + 1 == f->graph->job.n_prompt)
        b->state[i] = VD_AUTOMATON_START;
    else if (i > 0)
        b->state[i] = b->state[i - 1];
    else
        b->state[i] = b->last;
    if (step + 1 > f->graph->job.n_prompt)
        vd_masker_advance(f->masker, &b->state[i], f->output[step - f->graph->job.n_prompt]);
}

/* As many rows as fit from b->first on. */
static void fill(struct batch *b, uint32_t n_steps)
{
    const struct vd_feed *f = b->feed;
    size_t most = vd_ctx_max_rows(f->ctx), logits = vd_ctx_max_logits(f->ctx);
    b->n = 0;
    for (uint32_t s = b->first; s < n_steps && b->n < most; s++) {
        bool head = vd_graph_has_head(f->graph, s);
        if (head && logits-- == 0)
            break;
        if (head && f->masker)
            follow_mask(b, b->n, s);
        b->rows[b->n++] = (struct vd_row){
            .kv = b->kv, .pos = s, .token = token_at(f, s), .flags = head ? VD_ROW_LOGITS : 0};
    }
    if (f->masker && b->n)
        b->last = b->state[b->n - 1];
}

static void choose_token(void *arg, size_t row, unsigned thread)
{
    struct batch *b = arg;
    const struct vd_feed *f = b->feed;
    const struct vd_sampling *s = &f->graph->job.sampling;
    uint32_t step = b->first + (uint32_t)row;
    b->token[row] = VD_SAMPLE_FAIL;
    if (!vd_graph_has_head(f->graph, step))
        return;
    struct vd_choice how = {.sampling = s,
                            .r64 = vd_sample_r64(s->seed, s->choice, step + 1 - f->graph->job.n_prompt),
                            .tokens = b->sequence,
                            .n_prompt = f->graph->job.n_prompt,
                            .step = step,
                            .bias = f->bias,
                            .masker = f->masker,
                            .state = &b->state[row]};
    b->token[row] = vd_sampler_choose(b->sampler[thread], vd_model_kern(vd_ctx_model(f->ctx)),
                                      vd_ctx_logits(f->ctx, row), &how);
}

static void hand_over(struct batch *b)
{
    const struct vd_feed *f = b->feed;
    for (size_t i = 0; i < b->n; i++) {
        uint32_t step = b->first + (uint32_t)i;
        enum vd_stop stop = VD_STOP_NONE;
        bool head = vd_graph_has_head(f->graph, step);
        if (head)
            stop = vd_graph_stop(f->graph, step, b->token[i]);
        f->row(f->arg, b->kv, step, i, b->token[i], stop, head && f->masker ? &b->state[i] : NULL);
    }
}

static enum vd_err run(struct batch *b, uint32_t n_steps, struct vd_error *err)
{
    struct vd_feed *f = b->feed;
    struct vd_tap tap = {tap_row, b};
    for (b->first = 0; b->first < n_steps; b->first += (uint32_t)b->n) {
        fill(b, n_steps);
        uint64_t t0 = vd_clock_ns();
        enum vd_err e = vd_model_forward(f->ctx, b->rows, b->n, f->tap ? &tap : NULL, err);
        uint64_t t1 = vd_clock_ns();
        if (e != VD_OK)
            return e;
        vd_pool_run(vd_ctx_pool(f->ctx), choose_token, b, b->n);
        f->forward_ns += t1 - t0;
        f->sample_ns += vd_clock_ns() - t1;
        hand_over(b);
    }
    return VD_OK;
}

/* The tokens as they are: a penalty looks at ids, whether the vocabulary has them or not. */
static bool copy_sequence(struct batch *b)
{
    const struct vd_graph_job *j = &b->feed->graph->job;
    if (!vd_num_penalised(&j->sampling))
        return true;
    b->sequence = malloc(((size_t)j->n_prompt + j->n_output + 1) * sizeof *b->sequence);
    if (!b->sequence)
        return false;
    memcpy(b->sequence, b->feed->prompt, j->n_prompt * sizeof *b->sequence);
    if (j->n_output)
        memcpy(b->sequence + j->n_prompt, b->feed->output, j->n_output * sizeof *b->sequence);
    return true;
}

static bool allocate(struct batch *b)
{
    size_t n = vd_ctx_max_rows(b->feed->ctx);
    b->n_threads = vd_pool_threads(vd_ctx_pool(b->feed->ctx));
    b->rows = malloc(n * sizeof *b->rows);
    b->token = malloc(n * sizeof *b->token);
    b->state = malloc(n * sizeof *b->state);
    b->sampler = calloc(b->n_threads, sizeof *b->sampler);
    if (!b->rows || !b->token || !b->state || !b->sampler || !copy_sequence(b))
        return false;
    for (unsigned i = 0; i < b->n_threads; i++)
        if (!(b->sampler[i] = vd_sampler_new(b->feed->graph->program->vocab)))
            return false;
    return true;
}

static void release(struct batch *b)
{
    for (unsigned i = 0; b->sampler && i < b->n_threads; i++)
        vd_sampler_free(b->sampler[i]);
    free(b->sampler);
    free(b->token);
    free(b->state);
    free(b->sequence);
    free(b->rows);
    vd_kv_close(b->kv);
}

enum vd_err vd_feed_run(struct vd_feed *f, uint32_t n_steps, struct vd_error *err)
{
    struct batch b = {.feed = f};
    enum vd_err e = vd_kv_open(&b.kv, f->cache, err);
    if (e == VD_OK)
        e = allocate(&b) ? run(&b, n_steps, err)
                         : vd_error_set(err, VD_ENOMEM, "no memory for a batch of rows");
    release(&b);
    return e;
}

enum vd_err vd_feed_open_controls(struct vd_feed *f, const struct vd_model *model,
                                  const struct vd_proof_job *job, bool *fits, struct vd_error *err)
{
    const struct vd_program *p = vd_model_program(model);
    enum vd_err e = VD_OK;
    *fits = vd_controls_check(&job->receipt->request, &job->controls);
    if (!*fits)
        return VD_OK;
    f->bias = job->controls.bias;
    if (job->controls.mask.n == 0)
        return VD_OK;
    f->texts = job->texts;
    if (!f->texts) {
        e = vd_texts_open(&f->own_texts, vd_model_gguf(model), p->vocab, err);
        f->texts = f->own_texts;
    }
    if (e == VD_OK)
        e = vd_masker_create(&f->masker, f->texts, job->controls.mask, p->stop, p->n_stop, err);
    *fits = e != VD_ECONFLICT;
    return *fits ? e : VD_OK;
}

void vd_feed_close_controls(struct vd_feed *f)
{
    vd_masker_free(f->masker);
    vd_texts_free(f->own_texts);
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
