/* Many receipts at once, parts of them, and streams, on small random models: whatever runs together and in
 * whatever order and portions, each receipt gets the verdict and the roots that it gets alone, and an honest
 * one the roots of a worker that generated it token by token. */
#include "vd_commit.h"
#include "vd_replay.h"
#include "vd_rng.h"
#include "vd_sampler.h"
#include "vd_test_controls.h"
#include "vd_test_model.h"
#include "vd_trace_hash.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { JOBS = 20, PROMPT_MAX = 120, TOKENS_MAX = 9 };

struct job {
    struct vd_receipt receipt;
    uint32_t tokens[PROMPT_MAX + TOKENS_MAX + 1];
    uint8_t salt[VD_SALT_BYTES];
    struct vd_proof_job proof;
    struct vd_hash commit_root[TOKENS_MAX + 1], output_root[TOKENS_MAX + 1]; /* when i tokens were made */
};

static struct vd_pool *pool;
static struct vd_model *model;
static struct vd_ctx *wide, *narrow; /* contexts for large and for small, odd batches */
static struct vd_kv_pool *cache, *small_cache;
static struct vd_test_controls controls;
static const struct vd_hash root = {{9}};
static struct job job[JOBS];

/* ---- honest jobs ---- */

/* What job i asks for: prompts of four families that begin alike for a while, and all ways to sample. */
static void ask(struct job *j, unsigned i)
{
    struct vd_request *q = &j->receipt.request;
    struct vd_rng rng = {i % 4, 3}, own = {i, 5};
    uint32_t vocab = vd_model_program(model)->vocab;
    memset(j, 0, sizeof *j);
    for (unsigned k = 0; k < VD_SALT_BYTES; k++)
        j->salt[k] = (uint8_t)(5 * k + i);
    q->arith_version = VD_ARITH_VERSION;
    q->model_root = root;
    q->n_prompt = i == 7 ? 1 : 5 + (i * 37) % (PROMPT_MAX - 5);
    q->max_tokens = 1 + (i * 5) % TOKENS_MAX;
    for (uint32_t k = 0; k < q->n_prompt; k++) {
        uint32_t token = (uint32_t)vd_rng_below(&rng, vocab);
        j->tokens[k] = k < 15 + 6 * i ? token : (uint32_t)vd_rng_below(&own, vocab);
    }
    q->sampling = (struct vd_sampling){.seed = i, .choice = i % 2};
    if (i % 3)
        q->sampling.temp_micro = 900000;
    if (i % 5 == 1)
        q->sampling.top_k = 20;
    if (i % 6 == 2) {
        q->sampling.repeat_micro = 1300000;
        q->sampling.repeat_last_n = 64;
        q->sampling.presence_micro = 200000;
    }
    if (i % 7 == 3)
        j->proof.controls.bias = controls.bias;
    if (i % 7 == 4)
        j->proof.controls.mask = controls.mask;
    vd_request_set_controls(q, &j->proof.controls);
    j->proof.receipt = &j->receipt;
    j->proof.prompt = j->tokens;
    j->proof.output = j->tokens + q->n_prompt;
    j->proof.job_salt = j->salt;
    j->proof.texts = controls.texts;
}

static uint32_t choose(const struct job *j, struct vd_sampler *s, struct vd_masker *masker, uint32_t pos,
                       const struct vd_automaton_state *state)
{
    const struct vd_request *q = &j->receipt.request;
    struct vd_choice how = {.sampling = &q->sampling,
                            .r64 = vd_sample_r64(q->sampling.seed, q->sampling.choice, pos + 1 - q->n_prompt),
                            .tokens = j->tokens,
                            .n_prompt = q->n_prompt,
                            .step = pos,
                            .bias = j->proof.controls.bias,
                            .masker = masker,
                            .state = state};
    return vd_sampler_choose(s, vd_model_kern(model), vd_ctx_logits(narrow, 0), &how);
}

/* As a worker does it, one position at a time. */
static void generate(struct job *j)
{
    const struct vd_program *p = vd_model_program(model);
    const struct vd_request *q = &j->receipt.request;
    struct vd_sampler *s = vd_sampler_new(p->vocab);
    struct vd_automaton_state state = VD_AUTOMATON_START;
    struct vd_masker *masker = NULL;
    const struct vd_graph graph = {p,
                                   {.n_prompt = q->n_prompt,
                                    .n_steps = UINT32_MAX,
                                    .max_tokens = q->max_tokens,
                                    .sampling = q->sampling}};
    struct vd_commit *c;
    struct vd_kv *kv;
    enum vd_stop stop = VD_STOP_NONE;
    uint8_t k[2048], v[2048];
    assert_true(vd_model_k_row_bytes(model) <= sizeof k && vd_model_v_row_bytes(model) <= sizeof v);
    if (j->proof.controls.mask.n)
        assert_int_equal(
            vd_masker_create(&masker, controls.texts, j->proof.controls.mask, p->stop, p->n_stop, NULL),
            VD_OK);
    assert_int_equal(vd_commit_open(&c, p, q, UINT32_MAX, j->salt, NULL), VD_OK);
    assert_int_equal(vd_kv_open(&kv, cache, NULL), VD_OK);
    for (uint32_t pos = 0; stop == VD_STOP_NONE; pos++) {
        bool head = pos + 1 >= q->n_prompt;
        uint32_t token = VD_SAMPLE_FAIL;
        struct vd_row row = {kv, pos, j->tokens[pos], head ? VD_ROW_LOGITS : 0};
        assert_int_equal(vd_model_forward(narrow, &row, 1, NULL, NULL), VD_OK);
        if (head) {
            token = choose(j, s, masker, pos, &state);
            stop = vd_graph_stop(&graph, pos, token);
            j->tokens[pos + 1] = token;
        }
        vd_kv_read(kv, p->n_layers - 1, pos, k, v);
        struct vd_graph_rows outs = {NULL, k, v, head ? vd_ctx_hidden(narrow, 0) : NULL};
        vd_commit_add(c, &outs, token, stop, masker ? &state : NULL);
        if (masker && head)
            vd_masker_advance(masker, &state, token);
        j->receipt.n_output = vd_commit_n_output(c);
        if (head) {
            j->commit_root[vd_commit_n_output(c)] = vd_commit_root(c);
            j->output_root[vd_commit_n_output(c)] = vd_commit_output_root(c);
        }
    }
    vd_kv_close(kv);
    vd_masker_free(masker);
    vd_sampler_free(s);
    j->receipt.finish = (enum vd_finish)stop;
    j->receipt.commit_root = vd_commit_root(c);
    j->receipt.output_root = vd_commit_output_root(c);
    vd_commit_close(c);
}

/* Every third job lies: about a token, the root, the end, the model, or what it asks for. */
static void lie(struct job *j, unsigned i)
{
    struct vd_receipt *r = &j->receipt;
    if (i % 3 != 1)
        return;
    switch (i % 6 + i / 12) {
    case 1:
        if (r->n_output)
            j->tokens[r->request.n_prompt + r->n_output / 2] ^= 1;
        break;
    case 2:
        r->commit_root.b[3] ^= 1;
        break;
    case 4:
        r->finish = VD_FINISH_CANCELLED;
        break;
    default:
        if (i > 14)
            r->request.model_root.b[0] ^= 1;
        else
            r->request.max_tokens = 100000;
    }
}

static struct vd_replay_result alone(const struct job *j)
{
    struct vd_replay_result r;
    struct vd_error err;
    if (vd_replay(narrow, cache, &root, &j->proof, &r, &err) != VD_OK)
        fail_msg("%s", err.msg);
    r.forward_ns = r.sample_ns = r.hash_ns = 0;
    return r;
}

/* ---- together ---- */

static void check_together(struct vd_ctx *ctx, struct vd_kv_pool *kv, const unsigned *order, size_t n,
                           const struct vd_replay_result *want)
{
    struct vd_proof_job jobs[JOBS];
    struct vd_replay_result got[JOBS];
    struct vd_error err;
    for (size_t i = 0; i < n; i++)
        jobs[i] = job[order[i]].proof;
    if (vd_replay_many(ctx, kv, &root, jobs, n, got, &err) != VD_OK)
        fail_msg("%s", err.msg);
    for (size_t i = 0; i < n; i++) {
        got[i].forward_ns = got[i].sample_ns = got[i].hash_ns = got[i].n_shared = 0;
        if (memcmp(&got[i], &want[order[i]], sizeof got[i]) != 0)
            fail_msg("job %u of %zu: %s", order[i], n, vd_replay_text(got[i].verdict));
    }
    assert_int_equal(vd_kv_pool_used_bytes(kv), 0);
}

static void together_is_alone(void)
{
    struct vd_replay_result want[JOBS];
    struct vd_rng rng = {11, 1};
    unsigned order[JOBS], n_ok = 0, n_bad = 0;
    for (unsigned i = 0; i < JOBS; i++) {
        want[i] = alone(&job[i]);
        order[i] = i;
        if (i % 3 != 1)
            assert_int_equal(want[i].verdict, VD_REPLAY_OK);
        n_ok += want[i].verdict == VD_REPLAY_OK;
        n_bad += want[i].verdict != VD_REPLAY_OK;
    }
    assert_true(n_ok > JOBS / 2 && n_bad >= 4);
    check_together(wide, cache, order, JOBS, want);
    for (unsigned round = 0; round < 6; round++) {
        for (unsigned i = JOBS - 1; i > 0; i--) {
            unsigned k = (unsigned)vd_rng_below(&rng, i + 1), t = order[i];
            order[i] = order[k];
            order[k] = t;
        }
        for (size_t at = 0, n; at < JOBS; at += n) { /* in groups of any size */
            n = round < 2 ? JOBS : 1 + vd_rng_below(&rng, JOBS - at);
            check_together(round % 2 ? narrow : wide, round % 3 ? cache : small_cache, order + at, n, want);
        }
    }
}

/* The same prompt many times over costs its rows once. */
static void prefixes_are_shared(void)
{
    struct vd_replay_result r[JOBS];
    struct vd_proof_job jobs[JOBS];
    struct job *same = calloc(JOBS, sizeof *same);
    unsigned n_alone = 0;
    for (unsigned i = 0; i < JOBS; i++) {
        same[i] = job[3]; /* the longest prompt of an honest one */
        same[i].salt[0] = (uint8_t)i;
        same[i].proof.receipt = &same[i].receipt;
        same[i].proof.prompt = same[i].tokens;
        same[i].proof.output = same[i].tokens + same[i].receipt.request.n_prompt;
        same[i].proof.job_salt = same[i].salt;
        jobs[i] = same[i].proof;
    }
    assert_int_equal(vd_replay_many(wide, cache, &root, jobs, JOBS, r, NULL), VD_OK);
    for (unsigned i = 0; i < JOBS; i++) {
        struct vd_replay_result one = alone(&same[i]);
        assert_true(vd_hash_eq(&r[i].commit_root, &one.commit_root)); /* each under its own salt */
        assert_int_equal(r[i].verdict, one.verdict);
        n_alone += r[i].n_shared == 0;
        assert_true(r[i].n_shared == 0 || r[i].n_shared == same[i].receipt.request.n_prompt - 1);
    }
    assert_int_equal(n_alone, 1);
    assert_false(vd_hash_eq(&r[0].commit_root, &r[1].commit_root));
    free(same);
}

/* ---- parts ---- */

static void parts_of_a_receipt(void)
{
    struct job j = job[5];
    uint32_t p = j.receipt.request.n_prompt, g = j.receipt.n_output;
    struct vd_replay_result r;
    j.proof.receipt = &j.receipt;
    j.proof.prompt = j.tokens;
    j.proof.output = j.tokens + p;
    assert_true(g >= 4);
    j.receipt.commit_root.b[0] ^= 1; /* no part looks at it */
    for (uint32_t a = 0; a < p + g - 1; a += a + 2 < p ? 7 : 1)
        for (uint32_t b = a < p - 1 ? p - 1 : a; b < p + g - 1; b++) {
            assert_int_equal(vd_replay_part(wide, cache, &root, &j.proof, a, b, &r, NULL), VD_OK);
            assert_int_equal(r.verdict, VD_REPLAY_OK);
        }
    assert_int_equal(vd_replay_part(wide, cache, &root, &j.proof, 0, p - 2, &r, NULL), VD_EUSE);
    assert_int_equal(vd_replay_part(wide, cache, &root, &j.proof, 0, p + g - 1, &r, NULL), VD_EUSE);
    assert_int_equal(vd_replay_part(wide, cache, &root, &j.proof, p, p - 1, &r, NULL), VD_EUSE);
    j.tokens[p + 1] ^= 1; /* chosen at position p */
    assert_int_equal(vd_replay_part(wide, cache, &root, &j.proof, 0, p - 1, &r, NULL), VD_OK);
    assert_int_equal(r.verdict, VD_REPLAY_OK);
    assert_int_equal(vd_replay_part(wide, cache, &root, &j.proof, p, p + 1, &r, NULL), VD_OK);
    assert_int_equal(r.verdict, VD_REPLAY_TOKEN);
    assert_int_equal(r.step, p);
    assert_int_equal(r.want, job[5].tokens[p + 1]);
}

/* ---- streams ---- */

static void follow(const struct job *j, unsigned portion, struct vd_replay_result *r)
{
    const struct vd_receipt *want = &j->receipt;
    const uint32_t *output = j->tokens + want->request.n_prompt;
    struct vd_replay_stream *s;
    struct vd_error err;
    if (vd_replay_stream_open(&s, narrow, cache, &root, &j->proof, r, &err) != VD_OK)
        fail_msg("%s", err.msg);
    if (!s) {
        assert_int_not_equal(r->verdict, VD_REPLAY_OK);
        return;
    }
    for (uint32_t i = 0, n; i < want->n_output; i += n) {
        n = want->n_output - i < portion ? want->n_output - i : portion;
        assert_int_equal(vd_replay_stream_add(s, output + i, n, r, &err), VD_OK);
        if (r->verdict != VD_REPLAY_OK) /* at once */
            assert_true(r->step + 1 - want->request.n_prompt < i + n);
    }
    assert_int_equal(vd_replay_stream_end(s, want->finish, &want->commit_root, r, &err), VD_OK);
    vd_replay_stream_close(s);
}

static void streams_say_what_replay_says(void)
{
    for (unsigned i = 0; i < JOBS; i++)
        for (unsigned portion = 1; portion <= 9; portion += 2) {
            struct vd_replay_result got, want = alone(&job[i]);
            follow(&job[i], portion, &got);
            assert_int_equal(got.verdict, want.verdict);
            assert_int_equal(got.step, want.step);
            assert_int_equal(got.want, want.want);
            assert_int_equal(got.got, want.got);
            if (want.verdict == VD_REPLAY_OK)
                assert_true(vd_hash_eq(&got.commit_root, &want.commit_root));
        }
    assert_int_equal(vd_kv_pool_used_bytes(cache), 0);
}

/* At every token of an honest stream the root is the worker's; at a wrong one it is over. */
static void prefixes_of_a_stream(void)
{
    const struct job *j = &job[5];
    uint32_t p = j->receipt.request.n_prompt, g = j->receipt.n_output, wrong;
    struct vd_replay_stream *s;
    struct vd_replay_result r;
    assert_int_equal(vd_replay_stream_open(&s, narrow, cache, &root, &j->proof, &r, NULL), VD_OK);
    for (uint32_t i = 0; i < g - 1; i++) {
        assert_int_equal(vd_replay_stream_add(s, &j->tokens[p + i], 1, &r, NULL), VD_OK);
        struct vd_receipt_prefix prefix = {
            .n_output = i + 1, .output_root = j->output_root[i + 1], .commit_root = j->commit_root[i + 1]};
        vd_replay_stream_prefix(s, &prefix, &r);
        assert_int_equal(r.verdict, VD_REPLAY_OK);
        prefix.commit_root.b[0] ^= 1;
        vd_replay_stream_prefix(s, &prefix, &r);
        assert_int_equal(r.verdict, VD_REPLAY_COMMIT);
        prefix.n_output++;
        vd_replay_stream_prefix(s, &prefix, &r);
        assert_int_equal(r.verdict, VD_REPLAY_STOP);
    }
    wrong = j->tokens[p + g - 1] ^ 1;
    assert_int_equal(vd_replay_stream_add(s, &wrong, 1, &r, NULL), VD_OK);
    assert_int_equal(r.verdict, VD_REPLAY_TOKEN);
    assert_int_equal(r.step, p + g - 2);
    assert_int_equal(r.want, j->tokens[p + g - 1]);
    vd_replay_stream_close(s);
    /* one token more than the model says */
    assert_int_equal(vd_replay_stream_open(&s, narrow, cache, &root, &j->proof, &r, NULL), VD_OK);
    assert_int_equal(vd_replay_stream_add(s, &j->tokens[p], g, &r, NULL), VD_OK);
    assert_int_equal(r.verdict, VD_REPLAY_OK);
    assert_int_equal(vd_replay_stream_add(s, &wrong, 1, &r, NULL), VD_OK);
    assert_int_equal(r.verdict, VD_REPLAY_STOP);
    assert_int_equal(r.step, p + g - 2);
    vd_replay_stream_close(s);
}

/* ---- every architecture that does something of its own with earlier positions ---- */

static void on_model(const char *form)
{
    struct vd_test_model t = vd_test_model_of(vd_test_form(form));
    struct vd_error err;
    char path[VD_PATH_MAX];
    vd_test_model_file(&t, path);
    if (vd_model_open(&model, path, vd_kern_pick(NULL, NULL), pool, &err) != VD_OK)
        fail_msg("%s: %s", form, err.msg);
    assert_int_equal(vd_kv_pool_create(&cache, model, 64 << 20, &err), VD_OK);
    size_t page = vd_kv_pool_page_bytes(cache);
    assert_int_equal(vd_kv_pool_create(&small_cache, model, 5 * page, &err), VD_OK);
    assert_int_equal(vd_ctx_create(&wide, model, pool, 200, 40, &err), VD_OK);
    assert_int_equal(vd_ctx_create(&narrow, model, pool, 13, 3, &err), VD_OK);
    assert_int_equal(vd_test_controls_make(&controls, vd_model_program(model)->vocab), VD_OK);
    for (unsigned i = 0; i < JOBS; i++) {
        ask(&job[i], i);
        generate(&job[i]);
        lie(&job[i], i);
    }
    together_is_alone();
    prefixes_are_shared();
    parts_of_a_receipt();
    streams_say_what_replay_says();
    prefixes_of_a_stream();
    vd_texts_free(controls.texts);
    vd_ctx_destroy(wide);
    vd_ctx_destroy(narrow);
    vd_kv_pool_destroy(cache);
    vd_kv_pool_destroy(small_cache);
    vd_model_close(model);
    unlink(path);
}

static void with_full_attention(void **state)
{
    on_model("llama");
}

static void with_windows(void **state)
{
    on_model("gemma2");
}

static void with_experts(void **state)
{
    on_model("qwen3moe");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(with_full_attention),
        cmocka_unit_test(with_windows),
        cmocka_unit_test(with_experts),
    };
    if (vd_pool_create(&pool, 2, NULL) != VD_OK)
        return 1;
    int bad = cmocka_run_group_tests(tests, NULL, NULL);
    vd_pool_destroy(pool);
    return bad;
}
