/* The engine on a small random model: a job's tokens and positions are those of a plain one-job loop, whoever
 * else is served, wherever its prefix comes from, however often it was interrupted, and whatever is guessed:
 * all tests run without guesses, with the lookup, and with the model as its own draft, which is right for
 * greedy jobs and often wrong for the others. */
#include "vd_engine.h"

#include "vd_receipt.h"
#include "vd_rng.h"
#include "vd_sampler.h"
#include "vd_test_model.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>

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

/* ------------------------- callbacks ------------------------- */

static void hash_position(struct vd_sha256 *s, const struct vd_model *m, const struct vd_position *p)
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

static void on_position(void *arg, const struct vd_position *p)
{
    struct log *l = arg;
    l->in_order &= p->pos == l->n_positions;
    l->n_positions++;
    hash_position(&l->positions, log_model, p);
}

static void on_token(void *arg, uint32_t index, uint32_t token)
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
static void go_on_to(struct log *l, uint32_t n_tokens)
{
    pthread_mutex_lock(&l->lock);
    l->hold_at = n_tokens - 1;
    pthread_cond_broadcast(&l->changed);
    while (l->n_tokens < n_tokens)
        pthread_cond_wait(&l->changed, &l->lock);
    pthread_mutex_unlock(&l->lock);
}

static void let_go(struct log *l)
{
    pthread_mutex_lock(&l->lock);
    l->hold_at = UINT32_MAX;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

static void on_mismatch(void *arg, uint32_t index, uint32_t given, uint32_t own)
{
    struct log *l = arg;
    l->n_mismatches++;
    l->mismatch_index = index;
    l->mismatch_own = own;
    l->in_order &= given != own;
}

static void on_done(void *arg, const struct vd_job_result *r)
{
    struct log *l = arg;
    pthread_mutex_lock(&l->lock);
    l->in_order &= !l->done;
    l->done = true;
    l->result = *r;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

static void log_init(struct log *l, struct vd_engine *e)
{
    memset(l, 0, sizeof *l);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    vd_sha256_init(&l->positions);
    l->engine = e;
    l->cancel_at = l->hold_at = UINT32_MAX;
    l->in_order = true;
}

static struct vd_job with_log(struct vd_job job, struct log *l)
{
    job.arg = l;
    job.on_position = on_position;
    job.on_token = on_token;
    job.on_mismatch = on_mismatch;
    job.on_done = on_done;
    return job;
}

static void submit(struct vd_engine *e, struct vd_job job, struct log *l)
{
    struct vd_error err;
    struct vd_job logged = with_log(job, l);
    pthread_mutex_lock(&l->lock); /* l->id is set before on_token reads it */
    if (vd_engine_submit(e, &logged, &l->id, &err) != VD_OK)
        fail_msg("%s", err.msg);
    pthread_mutex_unlock(&l->lock);
}

static void wait_done(struct log *l)
{
    pthread_mutex_lock(&l->lock);
    while (!l->done)
        pthread_cond_wait(&l->changed, &l->lock);
    pthread_mutex_unlock(&l->lock);
    assert_true(l->in_order);
}

static struct vd_hash positions_of(struct log *l)
{
    struct vd_sha256 s = l->positions;
    struct vd_hash h;
    vd_sha256_final(&s, &h);
    return h;
}

static void run_job(struct vd_engine *e, struct vd_job job, struct log *l)
{
    log_init(l, e);
    submit(e, job, l);
    wait_done(l);
}

/* ------------------------- fixture ------------------------- */

static void open_model(struct fixture *f, const struct vd_test_model *t)
{
    vd_test_model_file(t, f->path);
    assert_int_equal(vd_pool_create(&f->pool, 2, NULL), VD_OK);
    assert_int_equal(vd_model_open(&f->m, f->path, vd_kern_pick(NULL, NULL), f->pool, NULL), VD_OK);
    log_model = f->m;
}

enum guesses { NO_GUESSES, LOOKUP, DRAFT, N_GUESSES };
static enum guesses guesses; /* of the running group of tests */

static void open_engine(struct fixture *f, const struct vd_engine_options *given)
{
    struct vd_error err;
    struct vd_engine_options o = given ? *given : (struct vd_engine_options){0};
    o.lookup = guesses != NO_GUESSES;
    o.draft = guesses == DRAFT ? f->m : NULL;
    if (vd_engine_create(&f->e, f->m, f->pool, &o, &err) != VD_OK)
        fail_msg("%s", err.msg);
}

static void close_all(struct fixture *f)
{
    vd_engine_destroy(f->e);
    vd_model_close(f->m);
    vd_pool_destroy(f->pool);
    unlink(f->path);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    open_model(f, &vd_test_model_default);
    open_engine(f, NULL);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    close_all(*state);
    free(*state);
    return 0;
}

static const struct vd_sampling greedy = {.temp_micro = 0};

static struct vd_sampling warm(uint64_t seed)
{
    return (struct vd_sampling){.temp_micro = 900000,
                                .top_k = 50,
                                .top_p_micro = 950000,
                                .min_p_micro = 10000,
                                .seed = seed,
                                .choice = 1};
}

static struct vd_hash account(uint8_t id)
{
    struct vd_hash h = {{id}};
    return h;
}

static uint32_t prompt_text[512];

static void fill_prompt(void)
{
    for (uint32_t i = 0; i < 512; i++)
        prompt_text[i] = (i * i * 31 + i * 7 + 5) % vd_test_model_default.vocab;
}

static struct vd_job some_job(uint32_t first, uint32_t n_prompt, uint32_t max_tokens, struct vd_sampling s)
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

static uint32_t plain_choose(const struct vd_model *m, const struct vd_job *job, const float *logits,
                             uint32_t index)
{
    static uint64_t w[1024];
    return vd_num_sample(logits, vd_model_program(m)->vocab, &job->sampling,
                         vd_sample_r64(job->sampling.seed, job->sampling.choice, index), w);
}

/* One row per call, in the engine's own context between its steps. */
static void plain_run(void *arg, struct vd_ctx *ctx, struct vd_kv_pool *cache)
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

static struct plain plain_of(struct fixture *f, const struct vd_job *job)
{
    struct plain out = {.n_tokens = 0};
    struct plain_call c = {f->m, job, &out};
    assert_int_equal(vd_engine_run(f->e, 0, 0, plain_run, &c, NULL), VD_OK);
    return out;
}

static void assert_same(struct log *l, const struct plain *want)
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
static void plain_vector(void *arg, struct vd_ctx *ctx, struct vd_kv_pool *cache)
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

static void on_vector(void *arg, const float *vector)
{
    struct log *l = arg;
    l->n_tokens = vd_model_program(log_model)->width;
    memcpy(l->token, vector, l->n_tokens * sizeof *vector);
}

static struct vd_job vector_job(uint32_t first, uint32_t n_prompt, enum vd_pooling pooling)
{
    struct vd_sampling s = {.pooling = pooling, .top_p_micro = VD_SAMPLE_MICRO};
    struct vd_job job = some_job(first, n_prompt, vd_model_program(log_model)->width, s);
    job.on_vector = on_vector;
    return job;
}

/* ------------------------- tests ------------------------- */

static void assert_vector(struct fixture *f, struct log *l, const struct vd_job *job)
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

/* An encoder's jobs are fed whole, whatever the options say, several in a step; nobody reuses anything; every
 * pooling; and what no encoder or no decoder does. */
static void encoder_vectors(void **state)
{
    static const enum vd_pooling pooling[] = {VD_POOLING_CLS,  VD_POOLING_MEAN, VD_POOLING_LAST,
                                              VD_POOLING_MEAN, VD_POOLING_CLS,  VD_POOLING_MEAN};
    static const uint32_t n_prompt[] = {200, 300, 1, 70, 300, 199};
    struct vd_test_model t = vd_test_model_of(vd_test_form("bert"));
    struct fixture f, *other = *state;
    struct vd_engine_options o = {.max_rows = 16, .max_active = 4};
    struct vd_job job[6];
    struct log l[6];
    struct vd_error err;
    struct vd_job none = some_job(0, 20, 5, greedy);
    if (guesses != NO_GUESSES)
        return;
    job[0] = vector_job(0, 20, VD_POOLING_CLS);
    assert_int_equal(vd_engine_submit(other->e, &job[0], NULL, &err), VD_EUSE);
    assert_non_null(strstr(err.msg, "no encoder"));
    open_model(&f, &t);
    open_engine(&f, &o);
    assert_int_equal(vd_engine_submit(f.e, &none, NULL, &err), VD_EUSE);
    assert_non_null(strstr(err.msg, "generates nothing"));
    for (int round = 0; round < 2; round++) {
        for (unsigned i = 0; i < 6; i++) {
            job[i] = vector_job(i % 2, n_prompt[i], pooling[i]);
            job[i].account = account(7);
            log_init(&l[i], f.e);
            submit(f.e, job[i], &l[i]);
        }
        for (unsigned i = 0; i < 6; i++) {
            wait_done(&l[i]);
            assert_vector(&f, &l[i], &job[i]);
            assert_int_equal(l[i].result.n_reused, 0);
        }
    }
    struct vd_engine_stats stats;
    vd_engine_get_stats(f.e, &stats);
    assert_true(stats.n_steps < 12 && stats.n_prefixes == 0 && stats.kv_bytes_used == 0);
    vd_engine_destroy(f.e);
    o.draft = f.m;
    assert_int_equal(vd_engine_create(&f.e, f.m, f.pool, &o, &err), VD_EUSE);
    f.e = NULL;
    close_all(&f);
    log_model = other->m;
}

/* Beside each other, beside a job that generates, and with what an earlier one left in the cache. */
static void vectors(void **state)
{
    struct fixture *f = *state;
    static const enum vd_pooling pooling[] = {VD_POOLING_LAST, VD_POOLING_MEAN, VD_POOLING_LAST,
                                              VD_POOLING_MEAN};
    static const uint32_t n_prompt[] = {200, 200, 1, 1};
    struct log beside, l[4];
    struct vd_job talk = some_job(3, 40, 60, warm(1)), job[4];
    for (int round = 0; round < 2; round++) {
        log_init(&beside, f->e);
        submit(f->e, talk, &beside);
        for (unsigned i = 0; i < 4; i++) {
            job[i] = vector_job(0, n_prompt[i], pooling[i]);
            job[i].account = account(7);
            log_init(&l[i], f->e);
            submit(f->e, job[i], &l[i]);
        }
        for (unsigned i = 0; i < 4; i++) {
            wait_done(&l[i]);
            assert_vector(f, &l[i], &job[i]);
            assert_true(pooling[i] == VD_POOLING_LAST || l[i].result.n_reused == 0);
        }
        wait_done(&beside);
    }
    assert_true(l[0].result.n_reused > 100);
    struct vd_error err;
    uint64_t id;
    job[0].max_tokens--;
    assert_int_equal(vd_engine_submit(f->e, &job[0], &id, &err), VD_EUSE);
}

static void alone(void **state)
{
    struct fixture *f = *state;
    struct vd_job jobs[] = {
        some_job(0, 1, 1, greedy), some_job(0, 70, 40, greedy), some_job(3, 130, 60, warm(5)),
        some_job(3, 2, 60, (struct vd_sampling){.temp_micro = 1000000, .top_p_micro = 1000000})};
    for (size_t i = 0; i < 4; i++) {
        struct log l;
        struct plain want = plain_of(f, &jobs[i]);
        run_job(f->e, jobs[i], &l);
        assert_same(&l, &want);
        assert_int_equal(l.result.stop, VD_STOP_LENGTH);
        assert_int_equal(l.n_positions, jobs[i].n_prompt + jobs[i].max_tokens - 1);
    }
}

/* Guesses make several tokens a step, and never another token. */
static void guesses_are_checked(void **state)
{
    enum { N_OUT = 200 };
    struct fixture *f = *state;
    uint32_t text[60];
    for (uint32_t i = 0; i < 60; i++) /* a phrase, again and again */
        text[i] = prompt_text[i % 12];
    for (unsigned i = 0; i < 4; i++) {
        struct log l;
        struct vd_job job = some_job(0, 60, N_OUT, i % 2 ? warm(i) : greedy);
        job.prompt = text;
        job.account = account((uint8_t)(i / 2 + 1)); /* what wrong guesses left is not another job's prefix */
        struct plain want = plain_of(f, &job);
        run_job(f->e, job, &l);
        assert_same(&l, &want);
    }
    struct vd_engine_stats s;
    vd_engine_get_stats(f->e, &s);
    assert_true(s.n_right_tokens <= s.n_guessed_tokens);
    if (guesses == NO_GUESSES)
        assert_int_equal(s.n_guessed_tokens, 0);
    else
        assert_true(s.n_right_tokens > 0 && s.n_right_tokens < s.n_guessed_tokens && s.n_steps < 4 * N_OUT);
    if (guesses == DRAFT)
        assert_true(s.n_right_tokens > N_OUT);
}

static void among_others(void **state)
{
    enum { N = 40 };
    struct fixture *f = *state;
    static struct log logs[N];
    struct vd_job jobs[N];
    struct plain want[N];
    for (uint32_t i = 0; i < N; i++) {
        jobs[i] = some_job(i, 1 + i * 37 % 200, 1 + i * 11 % 50, i % 3 ? warm(i) : greedy);
        jobs[i].account = account(i % 4); /* one of them without a cache */
        want[i] = plain_of(f, &jobs[i]);
        log_init(&logs[i], f->e);
    }
    for (uint32_t i = 0; i < N; i++)
        submit(f->e, jobs[i], &logs[i]);
    for (uint32_t i = 0; i < N; i++) {
        wait_done(&logs[i]);
        assert_same(&logs[i], &want[i]);
    }
    struct vd_engine_stats s;
    vd_engine_get_stats(f->e, &s);
    assert_int_equal(s.n_active + s.n_queued, 0);
    assert_true(s.n_steps < 400); /* they did share steps */
}

static void prefix_is_reused(void **state)
{
    struct fixture *f = *state;
    struct log l;
    struct vd_job job = some_job(0, 150, 30, warm(1));
    struct plain want = plain_of(f, &job);
    job.account = account(1);
    run_job(f->e, job, &l);
    assert_int_equal(l.result.n_reused, 0);
    assert_same(&l, &want);
    run_job(f->e, job, &l); /* all but the last prompt token */
    assert_int_equal(l.result.n_reused, 149);
    assert_same(&l, &want);

    struct vd_job shorter = some_job(0, 100, 30, greedy);
    want = plain_of(f, &shorter);
    shorter.account = account(1);
    run_job(f->e, shorter, &l);
    assert_int_equal(l.result.n_reused, 99);
    assert_same(&l, &want);
    shorter.account = account(2); /* never another account's */
    run_job(f->e, shorter, &l);
    assert_int_equal(l.result.n_reused, 0);
    assert_same(&l, &want);
    struct vd_engine_stats s;
    vd_engine_get_stats(f->e, &s);
    assert_int_equal(s.n_prefixes, 3); /* two that differ, and the other account's */
}

/* A conversation: the answer becomes part of the next prompt. */
static void conversation(void **state)
{
    struct fixture *f = *state;
    struct log l;
    uint32_t text[400], n = 60;
    memcpy(text, prompt_text, n * sizeof *text);
    for (unsigned turn = 0; turn < 4; turn++) {
        struct vd_job job = {.prompt = text, .n_prompt = n, .max_tokens = 25, .sampling = warm(turn)};
        struct plain want = plain_of(f, &job);
        job.account = account(7);
        run_job(f->e, job, &l);
        assert_same(&l, &want);
        assert_int_equal(l.result.n_reused, turn ? n - 11 : 0); /* the last answer's last token was not fed */
        memcpy(text + n, l.token, 25 * sizeof *text);
        memcpy(text + n + 25, prompt_text + 100 * turn, 10 * sizeof *text);
        n += 35;
    }
    struct vd_engine_stats s;
    vd_engine_get_stats(f->e, &s);
    assert_int_equal(s.n_prefixes, 1); /* each turn replaced the one before */
}

static void resumed(void **state)
{
    struct fixture *f = *state;
    struct log l;
    for (unsigned i = 0; i < 2; i++) {
        struct vd_job job = some_job(i, 80, 90, i ? warm(3) : greedy);
        struct plain want = plain_of(f, &job);
        static const uint32_t cut[] = {1, 20, 77, 89};
        for (unsigned c = 0; c < 4; c++) {
            job.resume = want.token;
            job.n_resume = cut[c];
            run_job(f->e, job, &l);
            assert_same(&l, &want);
            assert_int_equal(l.n_mismatches, 0);
            assert_int_equal(l.first_index, cut[c]);
        }
        uint32_t wrong[90];
        memcpy(wrong, want.token, sizeof wrong);
        wrong[41] = (wrong[41] + 1) % vd_test_model_default.vocab;
        job.resume = wrong;
        job.n_resume = 70;
        run_job(f->e, job, &l);
        assert_same(&l, &want);
        assert_int_equal(l.n_mismatches, 1);
        assert_int_equal(l.mismatch_index, 41);
        assert_int_equal(l.mismatch_own, want.token[41]);
        assert_int_equal(l.first_index, 41);
    }
}

/* Tokens to resume from that are wrong early on: what the job gives up of them is not somebody else's memory.
 */
static void mismatch_keeps_its_memory(void **state)
{
    struct fixture *f = *state;
    struct vd_engine_stats s;
    vd_engine_get_stats(f->e, &s);
    struct vd_engine_options o = {.max_kv_bytes = 4 * s.kv_page_bytes};
    vd_engine_destroy(f->e);
    open_engine(f, &o);
    static struct log logs[2];
    struct vd_job job[2] = {some_job(0, 30, 160, greedy), some_job(7, 30, 160, warm(2))}; /* 3 pages each */
    struct plain want[2] = {plain_of(f, &job[0]), plain_of(f, &job[1])};
    uint32_t wrong[150];
    memcpy(wrong, want[0].token, sizeof wrong);
    wrong[1] = (wrong[1] + 1) % vd_test_model_default.vocab;
    job[0].resume = wrong;
    job[0].n_resume = 150;
    for (uint32_t i = 0; i < 2; i++)
        log_init(&logs[i], f->e);
    for (uint32_t i = 0; i < 2; i++)
        submit(f->e, job[i], &logs[i]);
    for (uint32_t i = 0; i < 2; i++) {
        wait_done(&logs[i]);
        assert_same(&logs[i], &want[i]);
    }
    assert_int_equal(logs[0].n_mismatches, 1);
}

static void stop_token(void **state)
{
    struct fixture *f = *state;
    struct vd_job job = some_job(0, 30, 50, warm(11));
    struct plain open = plain_of(f, &job);
    struct vd_test_model t = vd_test_model_default;
    uint32_t at = 0;
    t.stop = open.token[20];
    while (open.token[at] != t.stop)
        at++;
    close_all(f);
    open_model(f, &t);
    open_engine(f, NULL);
    struct log l;
    struct plain want = plain_of(f, &job);
    assert_int_equal(want.n_tokens, at + 1);
    run_job(f->e, job, &l);
    assert_same(&l, &want);
    assert_int_equal(l.result.stop, VD_STOP_TOKEN);
    job.max_tokens = at + 1; /* a stop token goes before the length */
    run_job(f->e, job, &l);
    assert_int_equal(l.result.stop, VD_STOP_TOKEN);
    if (at > 0) {
        job.max_tokens = at;
        run_job(f->e, job, &l);
        assert_int_equal(l.result.stop, VD_STOP_LENGTH);
    }
    job.resume = want.token;
    job.n_resume = at + 1;
    job.max_tokens = 50;
    struct vd_error err;
    assert_int_equal(vd_engine_submit(f->e, &job, NULL, &err), VD_EUSE); /* that output is complete */
}

/* Norm weights of 3e38 are finite, the logits are not. */
static void non_finite_logits(void **state)
{
    struct fixture *f = *state;
    size_t n;
    uint8_t *bytes = vd_test_model_bytes(&vd_test_model_default, NULL, &n);
    struct vd_gguf *g;
    struct log l;
    close_all(f);
    assert_int_equal(vd_gguf_open(&g, bytes, n, "test", NULL), VD_OK);
    const struct vd_gguf_tensor *t = vd_gguf_tensor_find(g, "output_norm.weight");
    for (uint64_t i = 0; i < t->ne[0]; i++)
        vd_le32_store(bytes + t->offset_bytes + 4 * i, 0x7F600000);
    vd_gguf_close(g);
    vd_test_write_file(bytes, n, f->path);
    free(bytes);
    assert_int_equal(vd_pool_create(&f->pool, 2, NULL), VD_OK);
    assert_int_equal(vd_model_open(&f->m, f->path, vd_kern_pick(NULL, NULL), f->pool, NULL), VD_OK);
    log_model = f->m;
    open_engine(f, NULL);
    run_job(f->e, some_job(0, 20, 10, greedy), &l);
    assert_int_equal(l.result.end, VD_JOB_STOPPED);
    assert_int_equal(l.result.stop, VD_STOP_FAIL);
    assert_int_equal(l.result.n_output, 0);
    assert_int_equal(l.n_tokens, 0);
    assert_int_equal(l.n_positions, 20);
}

static void cancelled(void **state)
{
    struct fixture *f = *state;
    struct log l;
    struct vd_engine_stats s;
    log_init(&l, f->e);
    l.cancel_at = 5;
    submit(f->e, some_job(0, 50, 300, greedy), &l);
    wait_done(&l);
    assert_int_equal(l.result.end, VD_JOB_CANCELLED);
    assert_int_equal(l.result.n_output, l.n_tokens);
    assert_int_equal(l.n_tokens, 6);
    assert_int_equal(l.n_positions, 50 + 6 - 1);
    vd_engine_get_stats(f->e, &s);
    assert_int_equal(s.kv_bytes_used, 0);
    assert_int_equal(s.n_active, 0);
    vd_engine_cancel(f->e, l.id); /* unknown by now */
    vd_engine_cancel(f->e, 12345);
}

/* A cache for one job at a time: the second waits and then runs; prefixes give way. */
static void memory_limit(void **state)
{
    struct fixture *f = *state;
    struct vd_engine_stats s;
    vd_engine_get_stats(f->e, &s);
    struct vd_engine_options o = {.max_kv_bytes = 4 * s.kv_page_bytes, .max_queued = 3};
    vd_engine_destroy(f->e);
    open_engine(f, &o);
    static struct log logs[3];
    struct vd_job job[3];
    struct plain want[3];
    for (uint32_t i = 0; i < 3; i++) {
        job[i] = some_job(i * 10, 100, 100, warm(i));
        want[i] = plain_of(f, &job[i]);
        job[i].account = account(1);
        log_init(&logs[i], f->e);
    }
    for (uint32_t i = 0; i < 3; i++)
        submit(f->e, job[i], &logs[i]);
    for (uint32_t i = 0; i < 3; i++) {
        wait_done(&logs[i]);
        assert_same(&logs[i], &want[i]);
    }
    struct vd_error err;
    struct vd_job large = some_job(0, 200, 100, greedy);
    assert_int_equal(vd_engine_submit(f->e, &large, NULL, &err), VD_ELIMIT);
    char need[32];
    snprintf(need, sizeof need, "%zu", 5 * s.kv_page_bytes);
    assert_non_null(strstr(err.msg, need));
}

/* A job that will not fit however much gives way leaves the prefixes alone while it waits. */
static void waiting_evicts_nothing(void **state)
{
    struct fixture *f = *state;
    struct vd_engine_stats s;
    vd_engine_get_stats(f->e, &s);
    struct vd_engine_options o = {.max_kv_bytes = 6 * s.kv_page_bytes};
    vd_engine_destroy(f->e);
    open_engine(f, &o);
    static struct log left, long_one, waits;
    struct vd_job job = some_job(0, 100, 20, greedy); /* leaves 2 pages */
    job.account = account(1);
    run_job(f->e, job, &left);
    log_init(&long_one, f->e);
    long_one.hold_at = 0;
    submit(f->e, some_job(5, 30, 200, greedy), &long_one); /* 4 pages */
    go_on_to(&long_one, 2);
    log_init(&waits, f->e);
    submit(f->e, some_job(9, 30, 150, greedy), &waits); /* 3 pages */
    go_on_to(&long_one, 20);
    vd_engine_get_stats(f->e, &s);
    let_go(&long_one);
    wait_done(&long_one);
    wait_done(&waits);
    assert_int_equal(s.n_active, 1);
    assert_int_equal(s.n_queued, 1);
    assert_int_equal(s.n_prefixes, 1);
    run_job(f->e, job, &left);
    assert_int_equal(left.result.n_reused, 99);
    struct vd_job large = some_job(20, 100, 200, greedy); /* 5 pages: the prefix gives way */
    run_job(f->e, large, &left);
    assert_int_equal(left.result.stop, VD_STOP_LENGTH);
    vd_engine_get_stats(f->e, &s);
    assert_int_equal(s.n_prefixes, 0);
}

/* Counts the cache's bytes while jobs run, from a thread of its own. */
struct counter {
    struct vd_engine *e;
    atomic_bool stop;
    size_t most;
    bool over;
};

static void count_now(struct counter *c)
{
    struct vd_engine_stats s;
    vd_engine_get_stats(c->e, &s);
    c->most = s.kv_bytes_used > c->most ? s.kv_bytes_used : c->most;
    c->over |= s.kv_bytes_used > s.kv_bytes_max;
}

static void *count_pages(void *arg)
{
    struct counter *c = arg;
    while (!atomic_load(&c->stop)) {
        count_now(c);
        sched_yield();
    }
    return NULL;
}

/* Jobs of all lengths, five accounts (one without a cache) whose prompts begin alike, a job in six cancelled
 * at some token or at once, and a cache of 12 pages, of which the longest job wants 8: the pages in use are
 * never more than the limit, and what a job says is what it says alone. */
static void mix(struct fixture *f, size_t max_kv_bytes, size_t max_rows)
{
    enum { N = 60 };
    struct vd_engine_stats s;
    static struct log logs[N];
    static struct plain want[N];
    struct vd_job job[N];
    struct vd_rng r = {11, guesses};
    struct vd_engine_options o = {.max_kv_bytes = max_kv_bytes, .max_active = 6, .max_rows = max_rows};
    vd_engine_destroy(f->e);
    open_engine(f, &o);
    for (uint32_t i = 0; i < N; i++) {
        uint32_t n_prompt = 1 + (uint32_t)vd_rng_below(&r, i % 7 ? 200 : 400);
        uint32_t n_out = 1 + (uint32_t)vd_rng_below(&r, i % 5 ? 40 : 110);
        job[i] = some_job(i % 4 == 3 ? 16 : 0, n_prompt, n_out, i % 3 ? warm(i) : greedy);
        want[i] = plain_of(f, &job[i]);
        job[i].account = account((uint8_t)(i % 5));
        log_init(&logs[i], f->e);
        logs[i].cancel_at = i % 6 == 5 ? (uint32_t)vd_rng_below(&r, 30) : UINT32_MAX;
    }
    struct counter c = {.e = f->e};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, count_pages, &c), 0);
    for (uint32_t i = 0; i < N; i++) {
        submit(f->e, job[i], &logs[i]);
        if (i % 12 == 11)
            vd_engine_cancel(f->e, logs[i].id);
    }
    unsigned n_reused = 0, n_cancelled = 0;
    for (uint32_t i = 0; i < N; i++) {
        wait_done(&logs[i]);
        count_now(&c);
        n_reused += logs[i].result.n_reused > 0;
        if (logs[i].result.end == VD_JOB_CANCELLED) {
            n_cancelled++;
            assert_memory_equal(logs[i].token, want[i].token, logs[i].n_tokens * sizeof(uint32_t));
        } else {
            assert_same(&logs[i], &want[i]);
        }
    }
    atomic_store(&c.stop, true);
    pthread_join(thread, NULL);
    assert_false(c.over);
    assert_true(c.most > o.max_kv_bytes / 2 && c.most <= o.max_kv_bytes);
    assert_true(n_reused >= 4 && n_cancelled >= 4);
    vd_engine_get_stats(f->e, &s);
    assert_int_equal(s.kv_bytes_max, max_kv_bytes);
    assert_int_equal(s.n_active + s.n_queued, 0);
}

static void mixed_load(void **state)
{
    struct fixture *f = *state;
    struct vd_engine_stats s;
    vd_engine_get_stats(f->e, &s);
    mix(f, 12 * s.kv_page_bytes, 64);
}

static size_t cache_for(struct fixture *f, size_t n_pos, size_t max_rows)
{
    struct vd_kv_pool *probe;
    assert_int_equal(vd_kv_pool_create(&probe, f->m, SIZE_MAX, NULL), VD_OK);
    vd_kv_pool_set_pass(probe, max_rows);
    size_t n = vd_kv_pool_need_bytes(probe, 0, n_pos);
    vd_kv_pool_destroy(probe);
    return n;
}

/* A model with windows in the fixture's place. */
static void open_windows(struct fixture *f, const char *form)
{
    struct vd_test_model t = vd_test_model_of(vd_test_form(form));
    close_all(f);
    open_model(f, &t);
    open_engine(f, NULL);
}

/* The same where pages leave behind windows: a cache that three of the longest jobs (13 windows) fill.
 */
static void mixed_load_with_windows(void **state)
{
    struct fixture *f = *state;
    static const char *const forms[] = {"gemma2", "gemma3"};
    for (size_t i = 0; i < 2; i += vd_test_step(2)) {
        open_windows(f, forms[i]);
        mix(f, 3 * cache_for(f, 512, 48), 48);
    }
}

enum { LONG_MS = 600000 }; /* a test that waits so long has failed */

/* Takes what it was promised. */
struct taker {
    size_t n_pos;
    unsigned n_runs;
};

static void take_room(void *arg, struct vd_ctx *ctx, struct vd_kv_pool *cache)
{
    struct taker *t = arg;
    struct vd_kv *kv;
    assert_int_equal(vd_kv_open(&kv, cache, NULL), VD_OK);
    assert_int_equal(vd_kv_reserve(kv, t->n_pos, NULL), VD_OK);
    vd_kv_close(kv);
    t->n_runs++;
}

/* Somebody else wants the cache, again and again and without a pause: jobs that it is taken from say what
 * they say alone, each thing once. */
static void give_way(struct fixture *f)
{
    enum { N = 10, ROWS = 48 };
    static struct log logs[N], vectors[2];
    static struct plain want[N];
    struct vd_job job[N],
        vector[2] = {vector_job(0, 300, VD_POOLING_MEAN), vector_job(3, 280, VD_POOLING_LAST)};
    struct vd_engine_options o = {.max_kv_bytes = 3 * cache_for(f, 512, ROWS) / 2, .max_rows = ROWS};
    struct taker taker = {.n_pos = 512};
    struct vd_engine_stats s;
    struct vd_error err;
    vd_engine_destroy(f->e);
    open_engine(f, &o);
    for (uint32_t i = 0; i < N; i++) {
        job[i] = some_job(0, 10 + 25 * i, 150, i % 2 ? warm(i) : greedy);
        want[i] = plain_of(f, &job[i]);
        job[i].account = account((uint8_t)(i / 8 + 1)); /* so that they share what is left running */
        if (i % 4 == 3) { /* some of which it is told already, and something wrong */
            job[i].resume = memcpy(malloc(100 * sizeof(uint32_t)), want[i].token, 100 * sizeof(uint32_t));
            ((uint32_t *)(uintptr_t)job[i].resume)[60] ^= 1;
            job[i].n_resume = 100;
        }
        log_init(&logs[i], f->e);
    }
    for (uint32_t i = 0; i < N; i++)
        submit(f->e, job[i], &logs[i]);
    for (uint32_t i = 0; i < 2; i++) {
        log_init(&vectors[i], f->e);
        submit(f->e, vector[i], &vectors[i]);
    }
    do {
        taker.n_pos = taker.n_runs % 4 ? 65 : 512;
        if (vd_engine_run(f->e, taker.n_pos, LONG_MS, take_room, &taker, &err) != VD_OK)
            fail_msg("%s", err.msg);
        vd_engine_get_stats(f->e, &s);
    } while (s.n_active + s.n_queued > 0);
    for (uint32_t i = 0; i < N; i++) {
        wait_done(&logs[i]);
        assert_same(&logs[i], &want[i]);
        assert_int_equal(logs[i].n_positions, job[i].n_prompt + job[i].max_tokens - 1);
        free((uint32_t *)(uintptr_t)job[i].resume);
    }
    for (uint32_t i = 0; i < 2; i++) {
        wait_done(&vectors[i]);
        assert_vector(f, &vectors[i], &vector[i]);
    }
    assert_true(s.n_paused > 5 && taker.n_runs > 5);
    assert_int_equal(vd_engine_run(f->e, 100000, 0, take_room, &taker, &err), VD_ELIMIT);
    assert_non_null(strstr(err.msg, "100000"));
}

static void jobs_give_way(void **state)
{
    struct fixture *f = *state;
    give_way(f);
    open_windows(f, "gemma3");
    give_way(f);
}

/* A run, and how far the others were in it. */
struct watcher {
    struct fixture *f;
    size_t n_pos;
    uint32_t wait_ms;
    struct log *job, *other;
    struct watcher *next; /* is asked for meanwhile, */
    unsigned then_us;     /* and so long the run takes then */
    pthread_t thread;
    uint32_t job_pos, other_pos;
    uint64_t n_steps;
};

static void *call_watch(void *arg);

/* Returns when the engine knows of it. */
static void ask_watch(struct watcher *w)
{
    struct vd_engine_stats before, s;
    vd_engine_get_stats(w->f->e, &before);
    assert_int_equal(pthread_create(&w->thread, NULL, call_watch, w), 0);
    do
        vd_engine_get_stats(w->f->e, &s);
    while (s.n_runs == before.n_runs);
}

static void watch(void *arg, struct vd_ctx *ctx, struct vd_kv_pool *cache)
{
    struct watcher *w = arg;
    struct taker t = {.n_pos = w->n_pos};
    struct vd_engine_stats s;
    take_room(&t, ctx, cache);
    w->job_pos = w->job->n_positions; /* on the engine's thread, as the callbacks */
    w->other_pos = w->other ? w->other->n_positions : 0;
    vd_engine_get_stats(w->f->e, &s);
    w->n_steps = s.n_steps;
    if (w->next)
        ask_watch(w->next);
    usleep(w->then_us);
}

static void *call_watch(void *arg)
{
    struct watcher *w = arg;
    assert_int_equal(vd_engine_run(w->f->e, w->n_pos, w->wait_ms, watch, w, NULL), VD_OK);
    return NULL;
}

/* A short job that can be held, a long one that was admitted after it and has said something, and one of
 * somebody else's that waits for room. */
struct three {
    struct vd_job job[3];
    struct plain want[3];
    struct log log[3];
};

static void start_three(struct fixture *f, struct three *t)
{
    enum { ROWS = 16 };
    struct vd_engine_options o = {.max_kv_bytes = cache_for(f, 310, ROWS) + cache_for(f, 500, ROWS),
                                  .max_rows = ROWS};
    vd_engine_destroy(f->e);
    open_engine(f, &o);
    t->job[0] = some_job(0, 10, 300, warm(1));
    t->job[1] = some_job(7, 300, 200, warm(2));
    t->job[2] = some_job(3, 300, 10, greedy);
    for (uint32_t i = 0; i < 3; i++) {
        t->want[i] = plain_of(f, &t->job[i]);
        t->job[i].account = account((uint8_t)(1 + i / 2));
        log_init(&t->log[i], f->e);
    }
    t->log[0].hold_at = 0;
    for (uint32_t i = 0; i < 2; i++)
        submit(f->e, t->job[i], &t->log[i]);
    for (uint32_t n = 1, said = 0; said < 5; n++) {
        go_on_to(&t->log[0], n);
        pthread_mutex_lock(&t->log[1].lock);
        said = t->log[1].n_tokens;
        pthread_mutex_unlock(&t->log[1].lock);
    }
    submit(f->e, t->job[2], &t->log[2]);
}

static void end_three(struct three *t)
{
    for (uint32_t i = 0; i < 3; i++) {
        wait_done(&t->log[i]);
        assert_same(&t->log[i], &t->want[i]);
    }
}

/* A run that takes the long job's cache, and in the middle of it another is asked for. That one comes when
 * the job has got past where it stood, and before anybody else had its place; if it must not wait, or has
 * waited, after a step. */
static void runs_let_jobs_past(void **state)
{
    static const struct {
        uint32_t wait_ms;
        bool waits;
    } cases[] = {{LONG_MS, true}, {0, false}, {1, false}};
    struct fixture *f = *state;
    static struct three t;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        start_three(f, &t);
        struct watcher a = {.f = f, .n_pos = 450, .job = &t.log[1], .other = &t.log[2]}, b = a;
        struct vd_engine_stats s;
        b.wait_ms = cases[i].wait_ms;
        a.next = &b;
        a.then_us = 2000;
        ask_watch(&a);
        let_go(&t.log[0]);
        pthread_join(a.thread, NULL);
        pthread_join(b.thread, NULL);
        assert_in_range(a.job_pos, 305, 460);
        assert_int_equal(b.other_pos, 0);
        if (cases[i].waits)
            assert_in_range(b.job_pos, a.job_pos + a.job_pos / 16 + 1, 499);
        else
            assert_int_equal(b.job_pos, a.job_pos);
        assert_true(b.n_steps > a.n_steps);
        end_three(&t);
        vd_engine_get_stats(f->e, &s);
        assert_int_equal(s.n_paused, 2);
        assert_int_equal(s.n_runs, 0);
    }
}

/* Runs that take nobody's cache do not wait for it; but between one and the next that was asked for meanwhile
 * there is a step. */
static void runs_leave_a_step_between(void **state)
{
    struct fixture *f = *state;
    static struct three t;
    start_three(f, &t);
    struct watcher a = {.f = f, .n_pos = 450, .job = &t.log[1]}, b = a, c = a;
    b.n_pos = c.n_pos = 0;
    b.wait_ms = c.wait_ms = LONG_MS;
    b.next = &c;
    ask_watch(&a);
    ask_watch(&b);
    let_go(&t.log[0]);
    pthread_join(a.thread, NULL);
    pthread_join(b.thread, NULL);
    pthread_join(c.thread, NULL);
    assert_int_equal(b.job_pos, a.job_pos);
    assert_int_equal(b.n_steps, a.n_steps);
    assert_int_equal(c.n_steps, b.n_steps + 1);
    assert_int_equal(c.job_pos, a.job_pos); /* not past yet */
    end_three(&t);
}

/* With windows a prefix can be gone on from where its windows are: at the end of what a job left, at the end
 * of its prompt, and, once it was wanted, where two prompts part. And a job costs no more than that. */
static void windows_and_prefixes(void **state)
{
    enum { ROWS = 32 };
    struct fixture *f = *state;
    struct log l;
    struct vd_engine_stats s;
    open_windows(f, "gemma3");
    size_t one = cache_for(f, 500, ROWS);
    struct vd_engine_options o = {.max_kv_bytes = 4 * one, .max_rows = ROWS};
    vd_engine_destroy(f->e);
    open_engine(f, &o);
    uint32_t text[512];
    memcpy(text, prompt_text, sizeof text);
    struct vd_job job = {.prompt = text, .n_prompt = 300, .max_tokens = 150, .sampling = warm(1)};
    struct plain want = plain_of(f, &job);
    job.account = account(1);
    run_job(f->e, job, &l);
    assert_int_equal(l.result.n_reused, 0);
    assert_same(&l, &want);
    vd_engine_get_stats(f->e, &s);
    assert_int_equal(s.n_prefixes, 2);
    assert_true(s.kv_bytes_used < 8 * s.kv_page_bytes); /* all of it would be 7 pages, and is kept twice */
    run_job(f->e, job, &l);                             /* the end of its prompt, in whole pages */
    assert_int_equal(l.result.n_reused, 256);
    assert_same(&l, &want);
    memcpy(text + 300, want.token, 150 * sizeof *text); /* the conversation goes on */
    struct vd_job next = {.prompt = text, .n_prompt = 460, .max_tokens = 20, .sampling = greedy};
    want = plain_of(f, &next);
    next.account = account(1);
    run_job(f->e, next, &l);
    assert_int_equal(l.result.n_reused, 449);
    assert_same(&l, &want);
    for (unsigned i = 0; i < 3; i++) { /* others begin as it did, and part after 140 tokens */
        text[140] = 7 + i;
        struct vd_job parts = {.prompt = text, .n_prompt = 290, .max_tokens = 5, .sampling = greedy};
        want = plain_of(f, &parts);
        parts.account = account(1);
        run_job(f->e, parts, &l);
        assert_int_equal(l.result.n_reused, i ? 128 : 0);
        assert_same(&l, &want);
    }
    struct vd_job large = some_job(0, 300, 200, greedy);
    struct vd_error err;
    o.max_kv_bytes = one - 1;
    vd_engine_destroy(f->e);
    open_engine(f, &o);
    char need[32];
    snprintf(need, sizeof need, "%zu", one);
    assert_int_equal(vd_engine_submit(f->e, &large, NULL, &err), VD_ELIMIT);
    assert_non_null(strstr(err.msg, need));
    o.max_kv_bytes = one;
    vd_engine_destroy(f->e);
    open_engine(f, &o);
    run_job(f->e, large, &l);
    assert_int_equal(l.result.stop, VD_STOP_LENGTH);
}

/* A run that would never end. */
static void run_for_ever(void *arg, struct vd_ctx *ctx, struct vd_kv_pool *cache)
{
    struct vd_row rows[200];
    struct vd_kv *kv;
    enum vd_err rc = VD_OK;
    assert_int_equal(vd_kv_open(&kv, cache, NULL), VD_OK);
    for (uint32_t i = 0; i < 200; i++)
        rows[i] = (struct vd_row){kv, i, prompt_text[i], 0};
    while (rc == VD_OK) {
        rc = vd_model_forward(ctx, rows, 200, NULL, NULL);
        vd_kv_truncate(kv, 0);
        atomic_store((atomic_bool *)arg, true);
    }
    assert_int_equal(rc, VD_ECANCELLED);
    vd_kv_close(kv);
}

struct endless {
    struct fixture *f;
    atomic_bool runs;
    enum vd_err rc;
};

static void *call_for_ever(void *arg)
{
    struct endless *d = arg;
    d->rc = vd_engine_run(d->f->e, 200, 0, run_for_ever, &d->runs, NULL);
    return NULL;
}

/* Whoever stops the engine does not wait for the end of a run, nor who waits for his own behind it. */
static void stop_gives_up_what_runs(void **state)
{
    struct fixture *f = *state;
    struct endless d = {.f = f}, behind = {.f = f};
    struct vd_job job = some_job(0, 100, 300, greedy);
    struct vd_engine_stats s;
    struct log l;
    pthread_t thread[2];
    assert_int_equal(pthread_create(&thread[0], NULL, call_for_ever, &d), 0);
    while (!atomic_load(&d.runs))
        sched_yield();
    assert_int_equal(pthread_create(&thread[1], NULL, call_for_ever, &behind), 0);
    do
        vd_engine_get_stats(f->e, &s);
    while (s.n_runs == 0);
    log_init(&l, f->e);
    submit(f->e, job, &l);
    vd_engine_stop(f->e);
    pthread_join(thread[0], NULL);
    pthread_join(thread[1], NULL);
    wait_done(&l);
    assert_int_equal(d.rc, VD_OK); /* it had its turn */
    assert_int_equal(behind.rc, VD_ECANCELLED);
    assert_int_equal(l.result.end, VD_JOB_CANCELLED);
    assert_int_equal(vd_engine_submit(f->e, &job, NULL, NULL), VD_ECANCELLED);
}

static void bad_jobs(void **state)
{
    struct fixture *f = *state;
    struct vd_error err;
    uint32_t outside[] = {1, vd_test_model_default.vocab};
    struct vd_job none = some_job(0, 0, 10, greedy), no_output = some_job(0, 5, 0, greedy);
    struct vd_job lengthy = some_job(0, 500, 14, greedy),
                  vocab = {.prompt = outside, .n_prompt = 2, .max_tokens = 1};
    struct vd_job resume = some_job(0, 5, 3, greedy);
    resume.resume = prompt_text;
    resume.n_resume = 3;
    assert_int_equal(vd_engine_submit(f->e, &none, NULL, &err), VD_EUSE);
    assert_int_equal(vd_engine_submit(f->e, &no_output, NULL, &err), VD_EUSE);
    assert_int_equal(vd_engine_submit(f->e, &lengthy, NULL, &err), VD_ELIMIT);
    assert_non_null(strstr(err.msg, "512"));
    assert_int_equal(vd_engine_submit(f->e, &vocab, NULL, &err), VD_EUSE);
    assert_int_equal(vd_engine_submit(f->e, &resume, NULL, &err), VD_EUSE);
    lengthy.max_tokens = 13; /* 512 positions: just fits */
    struct log l;
    run_job(f->e, lengthy, &l);
    assert_int_equal(l.result.stop, VD_STOP_LENGTH);
}

static void queue_is_bounded(void **state)
{
    struct fixture *f = *state;
    struct vd_engine_options o = {.max_active = 1, .max_queued = 2};
    static struct log logs[20];
    unsigned accepted = 0, refused = 0;
    vd_engine_destroy(f->e);
    open_engine(f, &o);
    for (unsigned i = 0; i < 20; i++) {
        struct vd_error err;
        log_init(&logs[i], f->e);
        struct vd_job job = with_log(some_job(0, 300, 200, greedy), &logs[i]);
        enum vd_err rc = vd_engine_submit(f->e, &job, NULL, &err);
        accepted += rc == VD_OK;
        refused += rc == VD_EAGAIN;
        logs[i].done = rc != VD_OK;
    }
    assert_int_equal(accepted + refused, 20);
    assert_true(accepted >= 2 && refused >= 10);
    vd_engine_destroy(f->e); /* everything that was accepted is cancelled and told so */
    for (unsigned i = 0; i < 20; i++)
        assert_true(logs[i].done && logs[i].in_order);
    open_engine(f, NULL);
}

/* Two accounts, one with many jobs: the other's only job does not wait for all of them. */
static void accounts_take_turns(void **state)
{
    enum { N = 12 };
    struct fixture *f = *state;
    struct vd_engine_options o = {.max_active = 2};
    static struct log logs[N + 1];
    vd_engine_destroy(f->e);
    open_engine(f, &o);
    for (unsigned i = 0; i < N; i++) {
        struct vd_job job = some_job(i, 20, 40, greedy);
        job.account = account(1);
        log_init(&logs[i], f->e);
        submit(f->e, job, &logs[i]);
    }
    struct vd_job job = some_job(50, 20, 40, greedy);
    job.account = account(2);
    log_init(&logs[N], f->e);
    submit(f->e, job, &logs[N]);
    wait_done(&logs[N]);
    pthread_mutex_lock(&logs[N - 1].lock);
    assert_false(logs[N - 1].done);
    pthread_mutex_unlock(&logs[N - 1].lock);
    for (unsigned i = 0; i < N; i++)
        wait_done(&logs[i]);
}

int main(void)
{
    fill_prompt();
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(vectors),
        TEST(encoder_vectors),
        TEST(alone),
        TEST(guesses_are_checked),
        TEST(among_others),
        TEST(prefix_is_reused),
        TEST(conversation),
        TEST(resumed),
        TEST(stop_token),
        TEST(cancelled),
        TEST(memory_limit),
        TEST(mixed_load),
        TEST(mixed_load_with_windows),
        TEST(windows_and_prefixes),
        TEST(jobs_give_way),
        TEST(runs_let_jobs_past),
        TEST(runs_leave_a_step_between),
        TEST(stop_gives_up_what_runs),
        TEST(bad_jobs),
        TEST(queue_is_bounded),
        TEST(accounts_take_turns),
        TEST(non_finite_logits),
        TEST(mismatch_keeps_its_memory),
        TEST(waiting_evicts_nothing),
    };
    int failed = 0;
    for (int i = 0; i < N_GUESSES; i++) {
        guesses = (enum guesses)i;
        failed += cmocka_run_group_tests(tests, NULL, NULL);
    }
    return failed;
}
