/* What an engine under load commits to stands when another machine replays it: jobs of all kinds, with
 * guesses, prefixes, tokens to resume from, cancellations and calls that take the cache away, on one kernel
 * table and number of threads; the replay on another table, in other batches. What would differ here would
 * cost an honest worker its stake. */
#include "vd_commit.h"
#include "vd_engine.h"
#include "vd_replay.h"
#include "vd_rng.h"
#include "vd_test_controls.h"
#include "vd_test_model.h"
#include "vd_trace_hash.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

enum { JOBS = 20, LENGTH = 100 };

struct job {
    struct vd_receipt receipt;
    uint32_t tokens[2 * LENGTH], n_output, n_resume;
    uint32_t resume[LENGTH];
    uint8_t salt[VD_SALT_BYTES];
    struct vd_proof_job proof;
    struct vd_commit *commit;
    struct vd_masker *masker;
    struct vd_hash account;
    uint32_t cancel_at;
    uint64_t id;
    struct vd_engine *e;
    bool bad_resume, done;
    struct vd_job_result result;
};

struct machine {
    struct vd_pool *pool;
    struct vd_model *m;
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
};

static const struct vd_hash root = {{9}};
static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct job job[JOBS];
static struct vd_test_controls controls;

/* The tables that this machine has. */
static size_t kernels(const struct vd_kern *out[6])
{
    static const char *const names[] = {"scalar", "avx2", "avxvnni", "avx512", "neon", "neon-i8mm"};
    size_t n = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if ((out[n] = vd_kern_pick(names[i], NULL)) != NULL)
            n++;
    return n;
}

static void sure(enum vd_err e, const struct vd_error *err)
{
    if (e != VD_OK)
        fail_msg("%s", err->msg);
}

static void machine_open(struct machine *x, const char *path, const struct vd_kern *kern, unsigned threads,
                         size_t rows, size_t logits)
{
    struct vd_error err;
    sure(vd_pool_create(&x->pool, threads, &err), &err);
    sure(vd_model_open(&x->m, path, kern, x->pool, &err), &err);
    sure(vd_ctx_create(&x->ctx, x->m, x->pool, rows, logits, &err), &err);
    sure(vd_kv_pool_create(&x->cache, x->m, SIZE_MAX, &err), &err);
}

static void machine_close(struct machine *x)
{
    vd_kv_pool_destroy(x->cache);
    vd_ctx_destroy(x->ctx);
    vd_model_close(x->m);
    vd_pool_destroy(x->pool);
}

/* ---- what is asked ---- */

static uint32_t below(struct vd_rng *r, uint32_t n)
{
    return (uint32_t)vd_rng_below(r, n);
}

static void some_sampling(struct vd_sampling *s, struct vd_rng *r, unsigned i)
{
    *s = (struct vd_sampling){.seed = i, .choice = below(r, 2), .top_p_micro = 1000000};
    if (below(r, 3))
        s->temp_micro = 1 + below(r, 2000000);
    if (below(r, 3) == 0)
        s->top_k = 1 + below(r, 60);
    if (below(r, 3) == 0)
        s->top_p_micro = 1 + below(r, 1000000);
    if (below(r, 4) == 0)
        s->min_p_micro = below(r, 500000);
    if (below(r, 3) == 0) {
        s->repeat_micro = 10000 + below(r, 2000000);
        s->repeat_last_n = 1 + below(r, 300);
    }
    if (below(r, 4) == 0)
        s->frequency_micro = (int32_t)below(r, 1000000) - 500000;
}

/* Prompts of a few families that begin alike. */
static void ask(struct job *j, struct vd_rng *r, const struct vd_program *p, unsigned i)
{
    struct vd_request *q = &j->receipt.request;
    struct vd_rng family = {i % 3, 3};
    uint32_t same;
    memset(j, 0, sizeof *j);
    for (unsigned k = 0; k < VD_SALT_BYTES; k++)
        j->salt[k] = (uint8_t)vd_rng_next(r);
    q->arith_version = VD_ARITH_VERSION;
    q->model_root = root;
    q->n_prompt = 1 + below(r, LENGTH);
    q->max_tokens = 1 + below(r, i % 4 ? 30 : LENGTH);
    same = below(r, q->n_prompt + 1);
    for (uint32_t k = 0; k < q->n_prompt; k++) {
        uint32_t of_all = below(&family, p->vocab);
        j->tokens[k] = k < same ? of_all : below(r, p->vocab);
    }
    some_sampling(&q->sampling, r, i);
    if (i % 7 == 3)
        j->proof.controls.bias = controls.bias;
    if (i % 7 == 4) {
        j->proof.controls.mask = controls.mask;
        assert_int_equal(
            vd_masker_create(&j->masker, controls.texts, j->proof.controls.mask, p->stop, p->n_stop, NULL),
            VD_OK);
    }
    vd_request_set_controls(q, &j->proof.controls);
    j->proof.receipt = &j->receipt;
    j->proof.prompt = j->tokens;
    j->proof.output = j->tokens + q->n_prompt;
    j->proof.job_salt = j->salt;
    j->proof.texts = controls.texts;
    j->account.b[0] = (uint8_t)(i % 4);
    j->cancel_at = i % 6 == 5 ? below(r, q->max_tokens) : UINT32_MAX;
}

/* ---- the engine's callbacks, as a worker has them ---- */

static void on_position(void *arg, const struct vd_position *p)
{
    struct job *j = arg;
    struct vd_graph_rows rows = {NULL, p->k, p->v, p->x};
    vd_commit_add(j->commit, &rows, p->token, p->stop, p->mask);
}

static void on_token(void *arg, uint32_t index, uint32_t token)
{
    struct job *j = arg;
    if (j->bad_resume)
        return;
    j->tokens[j->receipt.request.n_prompt + index] = token;
    j->n_output = index + 1;
    if (index == j->cancel_at) {
        pthread_mutex_lock(&mu);
        pthread_mutex_unlock(&mu); /* the id is there */
        vd_engine_cancel(j->e, j->id);
    }
}

static void on_mismatch(void *arg, uint32_t index, uint32_t given, uint32_t own)
{
    struct job *j = arg;
    (void)index, (void)given, (void)own;
    j->bad_resume = true;
}

static void on_done(void *arg, const struct vd_job_result *r)
{
    struct job *j = arg;
    pthread_mutex_lock(&mu);
    j->result = *r;
    j->done = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mu);
}

static void submit(struct job *j, struct vd_engine *e, const struct vd_program *p)
{
    struct vd_error err;
    const struct vd_request *q = &j->receipt.request;
    struct vd_job s = {.prompt = j->tokens,
                       .n_prompt = q->n_prompt,
                       .resume = j->resume,
                       .n_resume = j->n_resume,
                       .max_tokens = q->max_tokens,
                       .sampling = q->sampling,
                       .account = j->account,
                       .bias = j->proof.controls.bias,
                       .masker = j->masker,
                       .arg = j,
                       .on_position = on_position,
                       .on_token = on_token,
                       .on_mismatch = on_mismatch,
                       .on_done = on_done};
    memcpy(j->tokens + q->n_prompt, j->resume, j->n_resume * sizeof *j->resume);
    j->n_output = j->n_resume;
    j->done = false;
    j->e = e;
    sure(vd_commit_open(&j->commit, p, q, UINT32_MAX, j->salt, &err), &err);
    pthread_mutex_lock(&mu);
    enum vd_err rc = vd_engine_submit(e, &s, &j->id, &err);
    pthread_mutex_unlock(&mu);
    sure(rc, &err);
}

/* ---- a round ---- */

static void wait_done(struct job *j)
{
    pthread_mutex_lock(&mu);
    while (!j->done)
        pthread_cond_wait(&changed, &mu);
    pthread_mutex_unlock(&mu);
}

static void take_room(void *arg, struct vd_ctx *ctx, struct vd_kv_pool *cache)
{
    struct vd_kv *kv;
    (void)ctx;
    assert_int_equal(vd_kv_open(&kv, cache, NULL), VD_OK);
    assert_int_equal(vd_kv_reserve(kv, *(size_t *)arg, NULL), VD_OK);
    vd_kv_close(kv);
}

/* Somebody else wants the cache meanwhile. */
static void disturb(struct vd_engine *e, struct vd_rng *r)
{
    struct vd_error err;
    size_t n_pos;
    for (unsigned i = 0; i < 40; i++) {
        n_pos = 1 + below(r, 2 * LENGTH - 1);
        usleep(below(r, 4000) * (1 + i / 10));
        sure(vd_engine_run(e, n_pos, below(r, 2) * 20, take_room, &n_pos, &err), &err);
    }
}

/* What a worker signs. False: it has no receipt. */
static bool make_receipt(struct job *j)
{
    struct vd_receipt *r = &j->receipt;
    bool cancelled = j->result.end == VD_JOB_CANCELLED;
    assert_int_not_equal(j->result.end, VD_JOB_BROKEN);
    if (!j->bad_resume && !(cancelled && j->n_output == 0) &&
        (!cancelled || vd_commit_n_steps(j->commit) == r->request.n_prompt + j->n_output - 1)) {
        assert_int_equal(vd_commit_n_output(j->commit), j->n_output);
        r->n_output = j->n_output;
        r->finish = cancelled ? VD_FINISH_CANCELLED : (enum vd_finish)j->result.stop;
        r->output_root = vd_commit_output_root(j->commit);
        r->commit_root = vd_commit_root(j->commit);
        return true;
    }
    return false;
}

static unsigned check(struct machine *v)
{
    unsigned n = 0;
    struct vd_error err;
    struct vd_replay_result r[JOBS];
    struct vd_proof_job jobs[JOBS];
    unsigned which[JOBS];
    for (unsigned i = 0; i < JOBS; i++) {
        wait_done(&job[i]);
        if (make_receipt(&job[i])) {
            which[n] = i;
            jobs[n++] = job[i].proof;
        }
        vd_commit_close(job[i].commit);
    }
    sure(vd_replay_many(v->ctx, v->cache, &root, jobs, n, r, &err), &err);
    for (unsigned i = 0; i < n; i++)
        if (r[i].verdict != VD_REPLAY_OK)
            fail_msg("job %u: %s at %u (%u, %u), temp %u", which[i], vd_replay_text(r[i].verdict), r[i].step,
                     r[i].want, r[i].got, job[which[i]].receipt.request.sampling.temp_micro);
    return n;
}

/* To another token that ends nothing. */
static void change(uint32_t *token, const struct vd_program *p)
{
    *token = (*token + 1) % p->vocab;
    for (uint32_t i = 0; i < p->n_stop; i++)
        if (*token == p->stop[i])
            change(token, p);
}

/* Some of the answers are gone on with by another worker, a few of them with a token that is wrong. */
static void resume_some(struct vd_rng *r, const struct vd_program *p)
{
    for (unsigned i = 0; i < JOBS; i++) {
        struct job *j = &job[i];
        uint32_t g = j->receipt.n_output;
        j->n_resume = 0;
        j->bad_resume = false;
        if (below(r, 2) && g > 1 && j->receipt.finish != VD_FINISH_FAIL)
            j->n_resume = 1 + below(r, g - 1);
        memcpy(j->resume, j->proof.output, j->n_resume * sizeof *j->resume);
        if (j->n_resume && below(r, 4) == 0)
            change(&j->resume[below(r, j->n_resume)], p);
    }
}

static size_t cache_for(struct machine *x, size_t rows)
{
    struct vd_kv_pool *probe;
    assert_int_equal(vd_kv_pool_create(&probe, x->m, SIZE_MAX, NULL), VD_OK);
    vd_kv_pool_set_pass(probe, rows);
    size_t n = vd_kv_pool_need_bytes(probe, 0, 2 * LENGTH);
    vd_kv_pool_destroy(probe);
    return n;
}

static void run_form(const char *name, unsigned seed)
{
    struct vd_test_model t = vd_test_model_of(vd_test_form(name)), small;
    char path[VD_PATH_MAX], small_path[VD_PATH_MAX];
    const struct vd_kern *kern[6];
    size_t n_kern = kernels(kern);
    struct vd_rng r = {seed, 1};
    struct machine w, v, d;
    struct vd_engine *e;
    struct vd_error err;
    t.stop = below(&r, 150);
    t.vocab = below(&r, 4) ? 203 : 4500;
    t.embd = below(&r, 2) ? VD_WTYPE_Q8_0 : VD_WTYPE_Q4_0;
    small = t;
    small.n_layers = t.n_layers > 3 ? t.n_layers : 1;
    vd_test_model_file(&t, path);
    vd_test_model_file(&small, small_path);
    const struct vd_kern *wk = kern[below(&r, (uint32_t)n_kern)], *vk = kern[below(&r, (uint32_t)n_kern)];
    machine_open(&w, path, wk, 1 + below(&r, 3), 8, 1);
    machine_open(&v, path, vk, 1 + below(&r, 3), 9 + below(&r, 300), 1 + below(&r, 64));
    machine_open(&d, small_path, wk, 1, 8, 1);
    size_t rows = 6 + below(&r, 120);
    struct vd_engine_options o = {.max_kv_bytes = cache_for(&w, rows) * (10 + below(&r, 15)) / 10,
                                  .max_rows = rows,
                                  .max_active = 1 + below(&r, 6),
                                  .lookup = below(&r, 2),
                                  .draft = below(&r, 2) ? d.m : NULL};
    sure(vd_engine_create(&e, w.m, w.pool, &o, &err), &err);
    const struct vd_program *p = vd_model_program(w.m);
    assert_int_equal(vd_test_controls_make(&controls, p->vocab), VD_OK);
    for (unsigned i = 0; i < JOBS; i++)
        ask(&job[i], &r, p, i);
    unsigned n = 0;
    for (unsigned round = 0; round < 2; round++) {
        if (round)
            resume_some(&r, p);
        for (unsigned i = 0; i < JOBS; i++)
            submit(&job[i], e, p);
        disturb(e, &r);
        n += check(&v);
    }
    struct vd_engine_stats s;
    vd_engine_get_stats(e, &s);
    print_message("%s seed %u: %s for %s, %u receipts, %llu paused, %llu reused, %llu of %llu guesses\n",
                  name, seed, wk->name, vk->name, n, (unsigned long long)s.n_paused,
                  (unsigned long long)s.n_reused_tokens, (unsigned long long)s.n_right_tokens,
                  (unsigned long long)s.n_guessed_tokens);
    for (unsigned i = 0; i < JOBS; i++)
        vd_masker_free(job[i].masker);
    vd_texts_free(controls.texts);
    vd_engine_destroy(e);
    machine_close(&w);
    machine_close(&v);
    machine_close(&d);
    unlink(path);
    unlink(small_path);
    assert_true(n > JOBS / 2);
}

static void receipts_stand_on_other_machines(void **state)
{
    static const char *const forms[] = {"llama", "gemma3", "qwen3moe", "gemma2", "phi3", "smollm3"};
    const char *from = getenv("VD_SEED"); /* of one that failed */
    unsigned first = from ? (unsigned)atoi(from) : 1;
    unsigned n = from ? 1 : getenv("VD_LONG") ? 200 : getenv("VD_QUICK") ? 1 : 3;
    (void)state;
    for (unsigned i = first; i < first + n; i++)
        run_form(forms[i % 6], i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(receipts_stand_on_other_machines)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
