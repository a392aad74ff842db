/* Rows of `veridem bench` that run jobs through the engine, as a worker does. Each way of a comparison has
 * its turn in every round, so that a machine that drifts is the same for all. */
#include "vd_cmd_benchmark.h"

#include "vd_clock.h"
#include "vd_embed.h"
#include "vd_engine.h"
#include "vd_masker.h"
#include "vd_rng.h"
#include "vd_rules.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { WAYS = 3, TEXTS_MAX = 64 };

/* Said twice, so that there is something to look up. */
#define TEXT                                                                                                 \
    "def area(shape):\n    if shape.kind == 'circle':\n        return 3.14159 * shape.radius ** 2\n"         \
    "    if shape.kind == 'square':\n        return shape.side ** 2\n    if shape.kind == 'rectangle':\n"    \
    "        return shape.width * shape.height\n    raise ValueError('an unknown kind: ' + shape.kind)\n\n"
static const char repeated[] = TEXT TEXT "def area(shape):\n";
static const char asked[] = "All that is known about the woman in the picture, as JSON:\n";
static const char schema[] =
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":60},\"age\":{\"type\":"
    "\"integer\",\"minimum\":0,\"maximum\":130},\"email\":{\"type\":\"string\",\"pattern\":\"^[a-z.]+@[a-z]+"
    "[.]com$\"},\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\",\"maxLength\":30},\"minItems\":3,"
    "\"maxItems\":9},\"story\":{\"type\":\"string\",\"minLength\":200,\"maxLength\":2000},\"notes\":{"
    "\"type\":"
    "\"array\",\"minItems\":8,\"items\":{\"type\":\"object\",\"properties\":{\"title\":{\"type\":\"string\"},"
    "\"score\":{\"type\":\"number\"}},\"required\":[\"title\",\"score\"]}}},\"required\":[\"name\",\"age\","
    "\"email\",\"tags\",\"story\",\"notes\"]}";

/* Jobs under way, and what they gave. */
struct run {
    pthread_mutex_t mu;
    pthread_cond_t cond;
    size_t n_left;
    struct vd_job_result result; /* the last one's */
    uint32_t *output, n_output;  /* of a single job */
};

static void on_token(void *arg, uint32_t index, uint32_t token)
{
    struct run *r = arg;
    r->output[index] = token;
    r->n_output = index + 1;
}

static void on_done(void *arg, const struct vd_job_result *result)
{
    struct run *r = arg;
    pthread_mutex_lock(&r->mu);
    r->result = *result;
    r->n_left--;
    pthread_cond_signal(&r->cond);
    pthread_mutex_unlock(&r->mu);
}

/* Submits n equal jobs and waits for them. *seconds: for all of it. */
static enum vd_err run_jobs(struct vd_engine *e, struct run *r, struct vd_job *job, size_t n, double *seconds,
                            struct vd_error *err)
{
    enum vd_err rc = VD_OK;
    uint64_t began = vd_clock_ns();
    pthread_mutex_init(&r->mu, NULL);
    pthread_cond_init(&r->cond, NULL);
    job->arg = r;
    job->on_done = on_done;
    r->n_left = n;
    for (size_t i = 0; i < n && rc == VD_OK; i++) {
        rc = vd_engine_submit(e, job, NULL, err);
        pthread_mutex_lock(&r->mu);
        r->n_left -= rc == VD_OK ? 0 : n - i;
        pthread_mutex_unlock(&r->mu);
    }
    pthread_mutex_lock(&r->mu);
    while (r->n_left > 0)
        pthread_cond_wait(&r->cond, &r->mu);
    pthread_mutex_unlock(&r->mu);
    pthread_cond_destroy(&r->cond);
    pthread_mutex_destroy(&r->mu);
    *seconds = (double)(vd_clock_ns() - began) * 1e-9;
    if (rc == VD_OK && r->result.end == VD_JOB_BROKEN)
        rc = vd_error_set(err, r->result.err.code, "%s", r->result.err.msg);
    return rc;
}

/* A prompt, the tokens that it gave, and the engine that made them. */
struct generation {
    struct vd_cmd_engine *g;
    uint32_t *prompt, *output;
    size_t n_prompt;
    struct vd_job job;
    struct run run;
};

static enum vd_err generation_open(struct generation *n, struct vd_cmd_engine *g, const char *text,
                                   uint32_t n_tok, struct vd_error *err)
{
    *n = (struct generation){.g = g};
    enum vd_err e = vd_cmd_encode(g->tok, text, strlen(text), VD_TOK_ADD_BOS, &n->prompt, &n->n_prompt, err);
    if (e != VD_OK)
        return e;
    n->output = n->run.output = calloc(n_tok, sizeof *n->output);
    if (!n->output)
        return vd_error_set(err, VD_ENOMEM, "no memory for %u tokens", n_tok);
    n->job = (struct vd_job){.prompt = n->prompt,
                             .n_prompt = (uint32_t)n->n_prompt,
                             .max_tokens = n_tok,
                             .sampling = {.top_p_micro = VD_SAMPLE_MICRO},
                             .on_token = on_token};
    return VD_OK;
}

static void generation_close(struct generation *n)
{
    free(n->prompt);
    free(n->output);
}

/* *rate: output tokens per second behind the first. */
static enum vd_err generate(struct generation *n, struct vd_engine *e, double *rate, struct vd_error *err)
{
    double seconds;
    enum vd_err rc = run_jobs(e, &n->run, &n->job, 1, &seconds, err);
    *rate = n->run.n_output > 1 ? (n->run.n_output - 1) * 1e9 /
                                      (double)(n->run.result.output_ns ? n->run.result.output_ns : 1)
                                : 0;
    return rc;
}

/* ---- speculation ---- */

enum vd_err vd_bench_spec(struct vd_cmd_engine *g, struct vd_cli *cli, json_t *list, uint32_t n_tok,
                          uint32_t reps, struct vd_error *err)
{
    static const char *const way[WAYS] = {"", "+lookup", "+draft"};
    struct vd_engine *engine[WAYS] = {NULL};
    struct generation n;
    double rate[WAYS][VD_BENCH_REPS_MAX];
    size_t n_ways = g->draft ? 3 : 2;
    enum vd_err e = generation_open(&n, g, repeated, n_tok, err);
    for (size_t i = 0; i < n_ways && e == VD_OK; i++) {
        struct vd_engine_options o = {.lookup = i == 1, .draft = i == 2 ? g->draft : NULL};
        e = vd_engine_create(&engine[i], g->model, g->pool, &o, err);
        if (e == VD_OK)
            e = generate(&n, engine[i], &rate[i][0], err); /* to warm up */
    }
    for (uint32_t r = 0; r < reps; r++)
        for (size_t i = 0; i < n_ways && e == VD_OK; i++)
            e = generate(&n, engine[i], &rate[i][r], err);
    for (size_t i = 0; i < n_ways && e == VD_OK; i++) {
        struct vd_engine_stats s;
        char name[48], note[48] = "";
        json_t *more = NULL;
        vd_engine_get_stats(engine[i], &s);
        snprintf(name, sizeof name, "gen%u%s", n_tok, way[i]);
        if (s.n_guessed_tokens) {
            double right = (double)s.n_right_tokens / (double)s.n_guessed_tokens;
            snprintf(note, sizeof note, "%.0f%% of guesses right", 100 * right);
            more = json_pack("{s:f}", "guesses_right", right);
        }
        vd_bench_line(cli, list, name, rate[i], reps, note, more);
    }
    for (size_t i = 0; i < n_ways; i++)
        vd_engine_destroy(engine[i]);
    generation_close(&n);
    return e;
}

/* ---- masks ---- */

struct masks {
    struct vd_texts *texts;
    uint8_t mask[VD_MASK_BYTES_MAX];
    size_t n;
    uint64_t *allowed; /* bits of the vocabulary */
};

static enum vd_err masks_open(struct masks *m, const struct vd_cmd_engine *g, struct vd_error *err)
{
    uint32_t vocab = vd_model_program(g->model)->vocab;
    enum vd_err e = vd_texts_create(&m->texts, g->tok, vocab, err);
    if (e != VD_OK)
        return e;
    struct vd_hash root = vd_texts_root(m->texts);
    m->allowed = malloc((vocab / 64 + 1) * sizeof *m->allowed);
    if (!m->allowed)
        return vd_error_set(err, VD_ENOMEM, "no memory for %u ids", vocab);
    return vd_schema_compile(schema, sizeof schema - 1, &root, m->mask, &m->n, err);
}

static enum vd_err new_masker(const struct masks *m, const struct vd_cmd_engine *g, struct vd_masker **out,
                              struct vd_error *err)
{
    const struct vd_program *p = vd_model_program(g->model);
    return vd_masker_create(out, m->texts, (struct vd_bytes){m->mask, m->n}, p->stop, p->n_stop, err);
}

/* The mask's work for these tokens once more, by a masker that knows nothing yet. Seconds per token. */
static enum vd_err mask_work(const struct masks *m, const struct generation *n, double *seconds,
                             struct vd_error *err)
{
    struct vd_automaton_state s = VD_AUTOMATON_START;
    struct vd_masker *own;
    uint64_t began = vd_clock_ns();
    enum vd_err e = new_masker(m, n->g, &own, err);
    if (e != VD_OK)
        return e;
    for (uint32_t i = 0; i < n->run.n_output; i++) {
        vd_masker_allowed(own, &s, m->allowed);
        vd_masker_advance(own, &s, n->output[i]);
    }
    *seconds = (double)(vd_clock_ns() - began) * 1e-9 / n->run.n_output;
    vd_masker_free(own);
    return VD_OK;
}

/* A round: plain text, and under the mask, made anew. */
static enum vd_err mask_round(const struct masks *m, struct generation *n, struct vd_engine *engine,
                              double *plain, double *masked, double *work, struct vd_error *err)
{
    n->job.masker = NULL;
    enum vd_err e = generate(n, engine, plain, err);
    if (e == VD_OK)
        e = new_masker(m, n->g, &n->job.masker, err);
    if (e == VD_OK)
        e = generate(n, engine, masked, err);
    vd_masker_free(n->job.masker);
    if (e == VD_OK)
        e = mask_work(m, n, work, err);
    return e;
}

enum vd_err vd_bench_mask(struct vd_cmd_engine *g, struct vd_cli *cli, json_t *list, uint32_t n_tok,
                          uint32_t reps, struct vd_error *err)
{
    struct masks *m = calloc(1, sizeof *m);
    struct vd_engine *engine = NULL;
    struct generation n;
    double plain[VD_BENCH_REPS_MAX], masked[VD_BENCH_REPS_MAX], work, least = 1e9;
    char name[48], note[64];
    enum vd_err e = generation_open(&n, g, asked, n_tok, err);
    n.job.sampling.temp_micro = 800000;
    n.job.sampling.seed = 1;
    if (e == VD_OK)
        e = m ? masks_open(m, g, err) : vd_error_set(err, VD_ENOMEM, "no memory for a mask");
    if (e == VD_OK)
        e = vd_engine_create(&engine, g->model, g->pool, NULL, err);
    if (e == VD_OK)
        e = mask_round(m, &n, engine, plain, masked, &work, err);
    for (uint32_t r = 0; r < reps && e == VD_OK; r++) {
        e = mask_round(m, &n, engine, &plain[r], &masked[r], &work, err);
        least = work < least ? work : least;
    }
    if (e == VD_OK) {
        snprintf(name, sizeof name, "draw%u", n_tok);
        vd_bench_line(cli, list, name, plain, reps, "", NULL);
        double part = least * vd_bench_median(plain, reps);
        snprintf(name, sizeof name, "draw%u+mask", n.run.n_output);
        snprintf(note, sizeof note, "mask %.1f us/token, %.1f%% of its time", 1e6 * least, 100 * part);
        vd_bench_line(cli, list, name, masked, reps, note,
                      json_pack("{s:f,s:f}", "mask_us_per_tok", 1e6 * least, "of_token", part));
    }
    vd_engine_destroy(engine);
    if (m) {
        free(m->allowed);
        vd_texts_free(m->texts);
    }
    free(m);
    generation_close(&n);
    return e;
}

/* ---- vectors ---- */

enum vd_err vd_bench_embed(struct vd_cmd_engine *g, struct vd_cli *cli, json_t *list, uint32_t n_tok,
                           uint32_t n_texts, uint32_t reps, struct vd_error *err)
{
    const struct vd_program *p = vd_model_program(g->model);
    enum vd_pooling pooling = vd_embed_pooling(vd_model_gguf(g->model));
    struct vd_engine *engine = NULL;
    struct run run = {.n_left = 0};
    double rate[VD_BENCH_REPS_MAX], seconds = 0;
    struct vd_rng rng = {7, 0};
    char name[48], note[48];
    if (n_tok > p->ctx)
        return vd_error_set(err, VD_EUSE, "a text of %u tokens does not fit the model's context of %u", n_tok,
                            p->ctx);
    uint32_t *ids = malloc(n_tok * sizeof *ids);
    enum vd_err e = ids ? vd_engine_create(&engine, g->model, g->pool, NULL, err)
                        : vd_error_set(err, VD_ENOMEM, "no memory for %u tokens", n_tok);
    for (uint32_t i = 0; i < n_tok && ids; i++)
        ids[i] = (uint32_t)vd_rng_below(&rng, p->vocab);
    struct vd_job job = {.prompt = ids,
                         .n_prompt = n_tok,
                         .max_tokens = p->width,
                         .sampling = {.top_p_micro = VD_SAMPLE_MICRO,
                                      .pooling = pooling == VD_POOLING_NONE ? VD_POOLING_LAST : pooling}};
    for (uint32_t r = 0; r <= reps && e == VD_OK; r++) { /* the first to warm up */
        e = run_jobs(engine, &run, &job, n_texts, &seconds, err);
        rate[r ? r - 1 : 0] = (double)n_tok * n_texts / seconds;
    }
    if (e == VD_OK) {
        snprintf(name, sizeof name, "emb%ux%u", n_tok, n_texts);
        double median = vd_bench_median(rate, reps) / n_tok;
        snprintf(note, sizeof note, "%.1f texts/s", median);
        vd_bench_line(cli, list, name, rate, reps, note, json_pack("{s:f}", "texts_per_s", median));
    }
    vd_engine_destroy(engine);
    free(ids);
    return e;
}
