/* What the tests of the engine share: a small random model under an engine, jobs that note all that they are
 * told, and a plain one-job loop whose tokens and positions theirs have to be. A test runs without guesses,
 * with the lookup, and with the model as its own draft, which is right for greedy jobs and often wrong for
 * the others (`guesses`, which main counts through). A job can be held at a token, and the engine with it.
 * Tests only; one test runs at a time. */
#ifndef VD_TEST_JOBS_H
#define VD_TEST_JOBS_H

#include "vd_engine.h"
#include "vd_receipt.h"
#include "vd_rng.h"
#include "vd_sampler.h"
#include "vd_test_model.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { OUT_MAX = 400 };

/* What one job has said so far. */
struct log {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct vd_engine *engine;
    uint64_t id;
    uint32_t cancel_at; /* cancels itself at this output index */
    uint32_t hold_at;   /* from this output index on the engine waits in on_token */
    uint32_t token[OUT_MAX], n_tokens, first_index;
    uint32_t n_positions, n_mismatches, mismatch_index, mismatch_own;
    struct vd_sha256 positions; /* everything that on_position gave */
    bool in_order, done;
    struct vd_job_result result;
};

struct fixture {
    char path[VD_PATH_MAX];
    struct vd_pool *pool;
    struct vd_model *m;
    struct vd_engine *e;
};

/* ------------------------- what a job is told ------------------------- */

static inline void hash_position(struct vd_sha256 *s, const struct vd_model *m, const struct vd_position *p)
{
    vd_sha256_u32(s, p->pos);
    vd_sha256_update(s, p->k, vd_model_k_row_bytes(m));
    vd_sha256_update(s, p->v, vd_model_v_row_bytes(m));
    if (p->x)
        vd_sha256_update(s, p->x, vd_model_program(m)->width * sizeof *p->x);
    if (p->sum)
        vd_sha256_update(s, p->sum, vd_model_program(m)->width * sizeof *p->sum);
    if (p->vector)
        vd_sha256_update(s, p->vector, vd_model_program(m)->width * sizeof *p->vector);
    vd_sha256_u32(s, p->token);
    vd_sha256_u32(s, p->stop);
}

static const struct vd_model *log_model; /* the fixture's: one test runs at a time */

static inline void on_position(void *arg, const struct vd_position *p)
{
    struct log *l = arg;
    l->in_order &= p->pos == l->n_positions;
    l->n_positions++;
    hash_position(&l->positions, log_model, p);
}

static inline void on_token(void *arg, uint32_t index, uint32_t token)
{
    struct log *l = arg;
    pthread_mutex_lock(&l->lock);
    if (l->n_tokens == 0)
        l->first_index = index;
    l->in_order &= index == l->first_index + l->n_tokens;
    l->token[index] = token;
    l->n_tokens++;
    if (index == l->cancel_at)
        vd_engine_cancel(l->engine, l->id);
    pthread_cond_broadcast(&l->changed);
    while (index >= l->hold_at)
        pthread_cond_wait(&l->changed, &l->lock);
    pthread_mutex_unlock(&l->lock);
}

/* Lets the job go on until it has said this many tokens, where it holds the engine. */
static inline void go_on_to(struct log *l, uint32_t n_tokens)
{
    pthread_mutex_lock(&l->lock);
    l->hold_at = n_tokens - 1;
    pthread_cond_broadcast(&l->changed);
    while (l->n_tokens < n_tokens)
        pthread_cond_wait(&l->changed, &l->lock);
    pthread_mutex_unlock(&l->lock);
}

static inline void let_go(struct log *l)
{
    pthread_mutex_lock(&l->lock);
    l->hold_at = UINT32_MAX;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

static inline void on_mismatch(void *arg, uint32_t index, uint32_t given, uint32_t own)
{
    struct log *l = arg;
    l->n_mismatches++;
    l->mismatch_index = index;
    l->mismatch_own = own;
    l->in_order &= given != own;
}

static inline void on_done(void *arg, const struct vd_job_result *r)
{
    struct log *l = arg;
    pthread_mutex_lock(&l->lock);
    l->in_order &= !l->done;
    l->done = true;
    l->result = *r;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

static inline void log_init(struct log *l, struct vd_engine *e)
{
    memset(l, 0, sizeof *l);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    vd_sha256_init(&l->positions);
    l->engine = e;
    l->cancel_at = l->hold_at = UINT32_MAX;
    l->in_order = true;
}

static inline struct vd_job with_log(struct vd_job job, struct log *l)
{
    job.arg = l;
    job.on_position = on_position;
    job.on_token = on_token;
    job.on_mismatch = on_mismatch;
    job.on_done = on_done;
    return job;
}

static inline void submit(struct vd_engine *e, struct vd_job job, struct log *l)
{
    struct vd_error err;
    struct vd_job logged = with_log(job, l);
    pthread_mutex_lock(&l->lock); /* l->id is set before on_token reads it */
    if (vd_engine_submit(e, &logged, &l->id, &err) != VD_OK)
        fail_msg("%s", err.msg);
    pthread_mutex_unlock(&l->lock);
}

static inline void wait_done(struct log *l)
{
    pthread_mutex_lock(&l->lock);
    while (!l->done)
        pthread_cond_wait(&l->changed, &l->lock);
    pthread_mutex_unlock(&l->lock);
    assert_true(l->in_order);
}

static inline struct vd_hash positions_of(struct log *l)
{
    struct vd_sha256 s = l->positions;
    struct vd_hash h;
    vd_sha256_final(&s, &h);
    return h;
}

static inline void run_job(struct vd_engine *e, struct vd_job job, struct log *l)
{
    log_init(l, e);
    submit(e, job, l);
    wait_done(l);
}

/* ------------------------- fixture ------------------------- */

/* The model whose file is at f->path. */
static inline void open_file(struct fixture *f)
{
    assert_int_equal(vd_pool_create(&f->pool, 2, NULL), VD_OK);
    assert_int_equal(vd_model_open(&f->m, f->path, vd_kern_pick(NULL, NULL), f->pool, NULL), VD_OK);
    log_model = f->m;
}

enum guesses { NO_GUESSES, LOOKUP, DRAFT, N_GUESSES };
static enum guesses guesses; /* of the running group of tests */

/* In place of the one that there is, if any. `given` may be NULL. */
static inline void open_engine(struct fixture *f, const struct vd_engine_options *given)
{
    struct vd_error err;
    struct vd_engine_options o = given ? *given : (struct vd_engine_options){0};
    o.lookup = guesses != NO_GUESSES;
    o.draft = guesses == DRAFT ? f->m : NULL;
    vd_engine_destroy(f->e);
    f->e = NULL;
    if (vd_engine_create(&f->e, f->m, f->pool, &o, &err) != VD_OK)
        fail_msg("%s", err.msg);
}

static inline void close_all(struct fixture *f)
{
    vd_engine_destroy(f->e);
    f->e = NULL;
    vd_model_close(f->m);
    vd_pool_destroy(f->pool);
    unlink(f->path);
}

static inline void open_all(struct fixture *f, const struct vd_test_model *t)
{
    vd_test_model_file(t, f->path);
    open_file(f);
    open_engine(f, NULL);
}

static uint32_t prompt_text[512];

static inline void fill_prompt(void)
{
    for (uint32_t i = 0; i < 512; i++)
        prompt_text[i] = (i * i * 31 + i * 7 + 5) % vd_test_model_default.vocab;
}

static inline int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    fill_prompt();
    open_all(f, &vd_test_model_default);
    *state = f;
    return 0;
}

static inline int tear_down(void **state)
{
    close_all(*state);
    free(*state);
    return 0;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

static const struct vd_sampling greedy = {.temp_micro = 0};

static inline struct vd_sampling warm(uint64_t seed)
{
    return (struct vd_sampling){.temp_micro = 900000,
                                .top_k = 50,
                                .top_p_micro = 950000,
                                .min_p_micro = 10000,
                                .seed = seed,
                                .choice = 1};
}

static inline struct vd_hash account(uint8_t id)
{
    struct vd_hash h = {{id}};
    return h;
}

static inline struct vd_job some_job(uint32_t first, uint32_t n_prompt, uint32_t max_tokens,
                                     struct vd_sampling s)
{
    return (struct vd_job){
        .prompt = prompt_text + first, .n_prompt = n_prompt, .max_tokens = max_tokens, .sampling = s};
}

/* ------------------------- a plain loop to compare with ------------------------- */

struct plain {
    uint32_t token[OUT_MAX], n_tokens;
    struct vd_hash positions;
};

struct plain_call {
    const struct vd_model *m;
    const struct vd_job *job;
    struct plain *out;
};

static inline uint32_t plain_choose(const struct vd_model *m, const struct vd_job *job, const float *logits,
                                    uint32_t index)
{
    static uint64_t w[1024];
    return vd_num_sample(logits, vd_model_program(m)->vocab, &job->sampling,
                         vd_sample_r64(job->sampling.seed, job->sampling.choice, index), w);
}

/* One row per call, in the engine's own context between its steps. */
static inline void plain_run(void *arg, struct vd_ctx *ctx, struct vd_kv_pool *cache)
{
    struct plain_call *c = arg;
    const struct vd_program *p = vd_model_program(c->m);
    struct vd_kv *kv;
    struct vd_sha256 s;
    uint8_t k[4096], v[4096];
    bool stopped = false;
    vd_sha256_init(&s);
    assert_int_equal(vd_kv_open(&kv, cache, NULL), VD_OK);
    for (uint32_t pos = 0; !stopped; pos++) {
        bool yields = pos + 1 >= c->job->n_prompt;
        uint32_t token = pos < c->job->n_prompt ? c->job->prompt[pos] : c->out->token[pos - c->job->n_prompt];
        struct vd_row row = {kv, pos, token, yields ? VD_ROW_LOGITS : 0};
        assert_int_equal(vd_model_forward(ctx, &row, 1, NULL, NULL), VD_OK);
        struct vd_position at = {
            pos, k, v, yields ? vd_ctx_hidden(ctx, 0) : NULL, VD_SAMPLE_FAIL, VD_STOP_NONE, NULL, NULL, NULL};
        vd_kv_read(kv, p->n_layers - 1, pos, k, v);
        if (yields) {
            uint32_t index = pos + 1 - c->job->n_prompt;
            at.token = c->out->token[index] = plain_choose(c->m, c->job, vd_ctx_logits(ctx, 0), index);
            c->out->n_tokens++;
            stopped = (p->n_stop && at.token == p->stop[0]) || index + 1 == c->job->max_tokens;
            at.stop = p->n_stop && at.token == p->stop[0] ? VD_STOP_TOKEN
                                                          : (stopped ? VD_STOP_LENGTH : VD_STOP_NONE);
        }
        hash_position(&s, c->m, &at);
    }
    vd_sha256_final(&s, &c->out->positions);
    vd_kv_close(kv);
}

static inline struct plain plain_of(struct fixture *f, const struct vd_job *job)
{
    struct plain out = {.n_tokens = 0};
    struct plain_call c = {f->m, job, &out};
    assert_int_equal(vd_engine_run(f->e, 0, 0, plain_run, &c, NULL), VD_OK);
    return out;
}

static inline void assert_same(struct log *l, const struct plain *want)
{
    struct vd_hash h = positions_of(l);
    assert_int_equal(l->result.end, VD_JOB_STOPPED);
    assert_int_equal(l->result.n_output, want->n_tokens);
    assert_memory_equal(l->token + l->first_index, want->token + l->first_index,
                        (want->n_tokens - l->first_index) * sizeof(uint32_t));
    assert_int_equal(l->first_index + l->n_tokens, want->n_tokens);
    assert_true(vd_hash_eq(&h, &want->positions));
}

/* The same of a job whose result is a vector. */
static inline void plain_vector(void *arg, struct vd_ctx *ctx, struct vd_kv_pool *cache)
{
    struct plain_call *c = arg;
    const struct vd_program *p = vd_model_program(c->m);
    enum vd_pooling pooling = c->job->sampling.pooling;
    struct vd_embed *embed;
    struct vd_kv *kv;
    struct vd_sha256 s;
    struct vd_row row[512];
    uint8_t k[4096], v[4096];
    uint32_t n = c->job->n_prompt;
    bool encoder = vd_program_is_encoder(p);
    vd_sha256_init(&s);
    assert_int_equal(vd_kv_open(&kv, cache, NULL), VD_OK);
    assert_int_equal(vd_embed_create(&embed, c->m, pooling, NULL), VD_OK);
    for (uint32_t pos = 0; pos < n; pos++)
        row[pos] = (struct vd_row){kv, pos, c->job->prompt[pos],
                                   pos + 1 == n || pooling == VD_POOLING_MEAN ? VD_ROW_HIDDEN : 0};
    if (encoder)
        assert_int_equal(vd_model_forward(ctx, row, n, NULL, NULL), VD_OK);
    for (uint32_t pos = 0; pos < n; pos++) {
        bool counts = pooling == VD_POOLING_MEAN || pos == (pooling == VD_POOLING_CLS ? 0 : n - 1);
        if (!encoder)
            assert_int_equal(vd_model_forward(ctx, &row[pos], 1, NULL, NULL), VD_OK);
        struct vd_position at = {.pos = pos, .k = k, .v = v, .token = VD_SAMPLE_FAIL};
        vd_kv_read(kv, p->n_layers - 1, pos, k, v);
        at.x = counts || encoder ? vd_ctx_hidden(ctx, encoder ? pos : 0) : NULL;
        if (counts) {
            vd_embed_add(embed, at.x);
            at.sum = vd_embed_sum(embed);
        }
        at.vector = pos + 1 == n ? vd_embed_vector(embed) : NULL;
        hash_position(&s, c->m, &at);
    }
    c->out->n_tokens = p->width;
    memcpy(c->out->token, vd_embed_vector(embed), p->width * sizeof(float));
    vd_sha256_final(&s, &c->out->positions);
    vd_embed_free(embed);
    vd_kv_close(kv);
}

static inline void on_vector(void *arg, const float *vector)
{
    struct log *l = arg;
    l->n_tokens = vd_model_program(log_model)->width;
    memcpy(l->token, vector, l->n_tokens * sizeof *vector);
}

static inline struct vd_job vector_job(uint32_t first, uint32_t n_prompt, enum vd_pooling pooling)
{
    struct vd_sampling s = {.pooling = pooling, .top_p_micro = VD_SAMPLE_MICRO};
    struct vd_job job = some_job(first, n_prompt, vd_model_program(log_model)->width, s);
    job.on_vector = on_vector;
    return job;
}

static inline void assert_vector(struct fixture *f, struct log *l, const struct vd_job *job)
{
    struct plain want = {.n_tokens = 0};
    struct plain_call c = {f->m, job, &want};
    struct vd_hash h = positions_of(l);
    float length = 0;
    assert_int_equal(vd_engine_run(f->e, job->n_prompt, 0, plain_vector, &c, NULL), VD_OK);
    assert_int_equal(l->result.end, VD_JOB_STOPPED);
    assert_int_equal(l->n_tokens, want.n_tokens);
    assert_memory_equal(l->token, want.token, want.n_tokens * sizeof want.token[0]);
    assert_true(vd_hash_eq(&h, &want.positions));
    for (uint32_t i = 0; i < want.n_tokens; i++)
        length += vd_f32_from_bits(want.token[i]) * vd_f32_from_bits(want.token[i]);
    assert_true(length > 0.9999f && length < 1.0001f);
}

static inline size_t cache_for(struct fixture *f, size_t n_pos, size_t max_rows)
{
    struct vd_kv_pool *probe;
    assert_int_equal(vd_kv_pool_create(&probe, f->m, SIZE_MAX, NULL), VD_OK);
    vd_kv_pool_set_pass(probe, max_rows);
    size_t n = vd_kv_pool_need_bytes(probe, 0, n_pos);
    vd_kv_pool_destroy(probe);
    return n;
}

/* A model with windows in the fixture's place. */
static inline void open_windows(struct fixture *f, const char *form)
{
    struct vd_test_model t = vd_test_model_of(vd_test_form(form));
    close_all(f);
    open_all(f, &t);
}

#endif
