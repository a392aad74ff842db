/* The real model (skipped when it is not there): same bits under every cut, thread count, kernel table and
 * batch, and a perplexity near llama.cpp's. Prompts are arbitrary ids, but for a first that is text. */
#include "vd_engine.h"
#include "vd_perplexity.h"

#include "vd_file.h"
#include "vd_sampler.h"
#include "vd_tok.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { N_PROMPT = 200, N_SHORT = 4, N_OUT = 40 };

static char model_path[VD_PATH_MAX];

/* "The capital of France is", by this model's tokenizer. */
static const uint32_t france[5] = {504, 3575, 282, 4649, 314};

struct open_model {
    struct vd_pool *pool;
    struct vd_model *m;
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
};

static void open_one(struct open_model *o, const char *kernel, unsigned threads)
{
    struct vd_error err;
    const struct vd_kern *kern = vd_kern_pick(kernel, &err);
    assert_non_null(kern);
    assert_int_equal(vd_pool_create(&o->pool, threads, &err), VD_OK);
    assert_int_equal(vd_model_open(&o->m, model_path, kern, o->pool, &err), VD_OK);
    assert_int_equal(vd_ctx_create(&o->ctx, o->m, o->pool, 512, 64, &err), VD_OK);
    assert_int_equal(vd_kv_pool_create(&o->cache, o->m, (size_t)256 << 20, &err), VD_OK);
}

static void close_one(struct open_model *o)
{
    vd_kv_pool_destroy(o->cache);
    vd_ctx_destroy(o->ctx);
    vd_model_close(o->m);
    vd_pool_destroy(o->pool);
}

static uint32_t prompt_token(uint32_t i)
{
    return i < 5 ? france[i] : (i * 7919 + 101) % 49152;
}

/* The logits of the last of n prompt tokens, fed `cut` at a time; to be freed. */
static float *last_logits(struct open_model *o, uint32_t n, uint32_t cut)
{
    struct vd_row rows[512];
    struct vd_kv *kv;
    size_t vocab = vd_model_program(o->m)->vocab;
    float *out = malloc(vocab * sizeof *out);
    assert_int_equal(vd_kv_open(&kv, o->cache, NULL), VD_OK);
    for (uint32_t at = 0; at < n; at += cut) {
        uint32_t k = n - at < cut ? n - at : cut;
        for (uint32_t i = 0; i < k; i++)
            rows[i] = (struct vd_row){kv, at + i, prompt_token(at + i), at + i + 1 == n ? VD_ROW_LOGITS : 0};
        assert_int_equal(vd_model_forward(o->ctx, rows, k, NULL, NULL), VD_OK);
        if (at + k == n)
            memcpy(out, vd_ctx_logits(o->ctx, k - 1), vocab * sizeof *out);
    }
    vd_kv_close(kv);
    return out;
}

static void any_cut_any_threads(void **state)
{
    static const uint32_t cuts[] = {1, 13, 96, 97, 200};
    float *want = NULL;
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct open_model o;
        open_one(&o, NULL, threads);
        size_t bytes = vd_model_program(o.m)->vocab * sizeof(float);
        for (size_t c = 0; c < 5; c++) {
            float *got = last_logits(&o, N_PROMPT, cuts[c]);
            if (!want)
                want = got;
            assert_memory_equal(got, want, bytes);
            if (got != want)
                free(got);
        }
        close_one(&o);
    }
    free(want);
}

static void any_kernel(void **state)
{
    static const char *const names[] = {"scalar", "avx2", "avxvnni", "avx512", "neon", "neon-i8mm"};
    float *want = NULL;
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        struct open_model o;
        if (!vd_kern_pick(names[k], NULL))
            continue;
        open_one(&o, names[k], 2);
        for (uint32_t cut = 1; cut <= N_SHORT; cut += N_SHORT - 1) {
            float *got = last_logits(&o, N_SHORT, cut);
            if (!want)
                want = got;
            assert_memory_equal(got, want, vd_model_program(o.m)->vocab * sizeof(float));
            if (got != want)
                free(got);
        }
        close_one(&o);
    }
    free(want);
}

/* llama.cpp, greedy, goes on with " Paris." */
static void knows_paris(void **state)
{
    struct open_model o;
    open_one(&o, NULL, 2);
    float *logits = last_logits(&o, 5, 5);
    struct vd_sample_max max;
    vd_model_kern(o.m)->sample_max(logits, 0, vd_model_program(o.m)->vocab, &max);
    assert_int_equal(max.id, 7042);
    free(logits);
    close_one(&o);
}

/* The program's stop tokens are what the tokenizer takes for an end. */
static void stop_tokens(void **state)
{
    struct open_model o;
    struct vd_tok *tok;
    static const uint32_t want[] = {0, 2};
    open_one(&o, NULL, 1);
    const struct vd_program *p = vd_model_program(o.m);
    assert_int_equal(p->n_stop, 2);
    assert_memory_equal(p->stop, want, sizeof want);
    assert_int_equal(vd_tok_load(&tok, vd_model_gguf(o.m), NULL), VD_OK);
    for (uint32_t i = 0; i < p->vocab; i++)
        assert_int_equal(vd_tok_is_eog(tok, i), i == 0 || i == 2);
    vd_tok_free(tok);
    close_one(&o);
}

/* llama.cpp gives 18.391 on this text. */
static void perplexity(void **state)
{
    static const char text[] = "/usr/share/common-licenses/GPL-3";
    static uint32_t ids[20000];
    struct vd_tok_ids to = {.p = ids, .max = 20000};
    struct open_model o;
    struct vd_tok *tok;
    struct vd_perplexity ppl;
    uint8_t *bytes;
    size_t n;
    if (access(text, R_OK) != 0)
        skip();
    open_one(&o, NULL, 2);
    assert_int_equal(vd_file_read(&bytes, &n, text, 1 << 20, NULL), VD_OK);
    assert_int_equal(vd_tok_load(&tok, vd_model_gguf(o.m), NULL), VD_OK);
    assert_int_equal(vd_tok_encode(tok, (const char *)bytes, n, VD_TOK_ADD_BOS, &to, NULL), VD_OK);
    assert_int_equal(vd_perplexity_measure(&ppl, o.m, o.pool, ids, to.n, 512, -1, 0, NULL), VD_OK);
    assert_int_equal(ppl.n_chunks, 14);
    assert_int_equal(ppl.n_counted, 14 * 255);
    if (fabs(ppl.ppl / 18.391 - 1.0) > 0.005)
        fail_msg("perplexity %.4f", ppl.ppl);
    vd_tok_free(tok);
    free(bytes);
    close_one(&o);
}

/* ------------------------- the engine ------------------------- */

struct out {
    uint32_t token[N_OUT], n;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
};

static void on_token(void *arg, uint32_t index, uint32_t token)
{
    struct out *o = arg;
    o->token[index] = token;
    o->n = index + 1;
}

static void on_done(void *arg, const struct vd_job_result *r)
{
    struct out *o = arg;
    pthread_mutex_lock(&o->lock);
    o->done = true;
    pthread_cond_broadcast(&o->changed);
    pthread_mutex_unlock(&o->lock);
}

static void start(struct vd_engine *e, uint32_t which, struct out *o)
{
    uint32_t prompt[N_PROMPT], n = 5 + which * 31;
    for (uint32_t i = 0; i < n; i++)
        prompt[i] = prompt_token(i + (i >= 5 ? which * 1000 : 0));
    struct vd_job job = {
        .prompt = prompt,
        .n_prompt = n,
        .max_tokens = N_OUT,
        .sampling = {.temp_micro = which * 400000, .top_p_micro = 900000, .seed = which},
        .arg = o,
        .on_token = on_token,
        .on_done = on_done,
    };
    *o = (struct out){.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    assert_int_equal(vd_engine_submit(e, &job, NULL, NULL), VD_OK);
}

static void finish(struct out *o)
{
    pthread_mutex_lock(&o->lock);
    while (!o->done)
        pthread_cond_wait(&o->changed, &o->lock);
    pthread_mutex_unlock(&o->lock);
}

static void alone_and_among_four(void **state)
{
    enum { N = 5 };
    struct open_model o;
    struct vd_engine *e;
    static struct out alone[N], together[N];
    open_one(&o, NULL, 2);
    assert_int_equal(vd_engine_create(&e, o.m, o.pool, NULL, NULL), VD_OK);
    for (uint32_t i = 0; i < N; i++) {
        start(e, i, &alone[i]);
        finish(&alone[i]);
    }
    for (uint32_t i = 0; i < N; i++)
        start(e, i, &together[i]);
    for (uint32_t i = 0; i < N; i++) {
        finish(&together[i]);
        assert_int_equal(together[i].n, alone[i].n);
        assert_memory_equal(together[i].token, alone[i].token, alone[i].n * sizeof(uint32_t));
    }
    vd_engine_destroy(e);
    close_one(&o);
}

int main(void)
{
    struct vd_error err;
    if (vd_home_path(model_path, &err, "models/SmolLM2-135M-Instruct.Q4_1.gguf") != VD_OK ||
        access(model_path, R_OK) != 0) {
        fprintf(stderr, "skipped: no model at %s\n", model_path);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_cut_any_threads), cmocka_unit_test(any_kernel),
        cmocka_unit_test(knows_paris),         cmocka_unit_test(stop_tokens),
        cmocka_unit_test(perplexity),          cmocka_unit_test(alone_and_among_four),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
