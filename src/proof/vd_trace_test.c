/* The engine's rows against the scalar trace, on a small random model of every architecture and with every
 * weight type: the unit hashes that a receipt commits to are those that the operators give, one by one. */
#include "vd_test_model.h"
#include "vd_trace_model.h"

#include "vd_kern.h"
#include "vd_kv.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { PROMPT = 70, TOKENS = 3 };

static struct vd_pool *pool;

/* A trace that keeps next to nothing has the same roots, and the same of every unit. */
static void check_forgetful(struct vd_trace *t, struct vd_model *model, struct vd_ctx *ctx,
                            struct vd_kv_pool *cache, const struct vd_proof_job *job)
{
    struct vd_trace_model *tm;
    struct vd_error err = {0};
    if (vd_trace_model_open_within(&tm, model, ctx, cache, job, 1, &err) != VD_OK)
        fail_msg("%s", err.msg);
    struct vd_trace *f = vd_trace_model_trace(tm);
    uint32_t n = t->graph.job.n_steps;
    assert_true(vd_program_is_encoder(t->graph.program) || f->n_held < n);
    assert_memory_equal(&t->state_root, &f->state_root, VD_HASH_BYTES);
    assert_memory_equal(&t->commit_root, &f->commit_root, VD_HASH_BYTES);
    const uint32_t at[][2] = {
        {n - 1, 1}, {2, 0}, {n - 1, 2}, {1, 1}, {n - 2, vd_graph_units(&t->graph, n - 2) - 1}};
    for (unsigned i = 0; i < sizeof at / sizeof at[0]; i++) {
        if (vd_trace_load(t, at[i][0], at[i][1], &err) != VD_OK ||
            vd_trace_load(f, at[i][0], at[i][1], &err) != VD_OK)
            fail_msg("%s", err.msg);
        assert_memory_equal(t->u.op_root, f->u.op_root, t->u.n_ops * sizeof t->u.op_root[0]);
        assert_int_equal(vd_kv_pool_used_bytes(cache), 0);
    }
    assert_int_equal(vd_trace_load(f, n - 1, 1, &err), VD_OK);
    assert_int_equal(vd_trace_load(t, n - 1, 1, &err), VD_OK);
    for (uint32_t s = 0; s < n - 1; s += 13) {
        assert_int_equal(vd_trace_fetch(f, s, 1, &err), VD_OK);
        assert_memory_equal(vd_trace_unit_of(t, s, 1), vd_trace_unit_of(f, s, 1), VD_HASH_BYTES);
        for (unsigned i = 0; i < t->u.n_reads; i++) {
            const struct vd_trace_read *a = &t->u.read[i], *b = &f->u.read[i];
            if (s < a->what.first || s - a->what.first >= a->what.n)
                continue;
            assert_memory_equal(vd_trace_read_rows(a, s), vd_trace_read_rows(b, s), a->step_bytes);
            assert_memory_equal(a->outs[s - a->first], b->outs[s - b->first], sizeof a->outs[0]);
        }
    }
    vd_trace_model_close(tm);
}

/* Loads units of early and late steps, which fails where engine and operators differ. */
static void check_model(const char *name, const struct vd_test_model *form)
{
    struct vd_model *model;
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
    struct vd_trace_model *tm;
    struct vd_error err = {0};
    uint32_t tokens[PROMPT + TOKENS];
    static const uint8_t salt[VD_SALT_BYTES] = {7};
    char path[VD_PATH_MAX];
    vd_test_model_file(form, path);
    if (vd_model_open(&model, path, vd_kern_pick(NULL, NULL), pool, &err) != VD_OK)
        fail_msg("%s: %s", name, err.msg);
    const struct vd_program *p = vd_model_program(model);
    for (uint32_t i = 0; i < PROMPT + TOKENS; i++)
        tokens[i] = (i * 7919 + 5) % p->vocab;
    struct vd_receipt receipt = {.request = {.n_prompt = PROMPT, .max_tokens = TOKENS},
                                 .n_output = TOKENS,
                                 .finish = VD_FINISH_LENGTH};
    struct vd_proof_job job = {
        .receipt = &receipt, .prompt = tokens, .output = tokens + PROMPT, .job_salt = salt};
    assert_int_equal(vd_kv_pool_create(&cache, model, 64 << 20, &err), VD_OK);
    assert_int_equal(vd_ctx_create(&ctx, model, pool, 32, 4, &err), VD_OK);
    assert_int_equal(vd_trace_model_open(&tm, model, ctx, cache, &job, &err), VD_OK);
    struct vd_trace *t = vd_trace_model_trace(tm);
    const uint32_t steps[] = {2, PROMPT - 1, PROMPT + TOKENS - 2};
    for (unsigned s = 0; s < 3; s++)
        for (uint32_t u = 0; u < vd_graph_units(&t->graph, steps[s]); u++)
            if (vd_trace_load(t, steps[s], u, &err) != VD_OK)
                fail_msg("%s: %s", name, err.msg);
    check_forgetful(t, model, ctx, cache, &job);
    vd_trace_model_close(tm);
    assert_int_equal(vd_kv_pool_used_bytes(cache), 0);
    vd_kv_pool_destroy(cache);
    vd_ctx_destroy(ctx);
    vd_model_close(model);
    unlink(path);
}

static void every_architecture(void **state)
{
    for (size_t i = 0; i < VD_TEST_FORMS; i++) {
        struct vd_test_model t = vd_test_model_of(&vd_test_forms[i]);
        check_model(vd_test_forms[i].name, &t);
    }
}

static const enum vd_wtype types[] = {VD_WTYPE_F32,  VD_WTYPE_F16,    VD_WTYPE_BF16,   VD_WTYPE_Q4_0,
                                      VD_WTYPE_Q4_1, VD_WTYPE_Q5_0,   VD_WTYPE_Q5_1,   VD_WTYPE_Q8_0,
                                      VD_WTYPE_Q2_K, VD_WTYPE_Q3_K,   VD_WTYPE_Q4_K,   VD_WTYPE_Q5_K,
                                      VD_WTYPE_Q6_K, VD_WTYPE_IQ4_NL, VD_WTYPE_IQ4_XS, VD_WTYPE_MXFP4};
enum { TYPES = sizeof types / sizeof types[0] };

static void check_pair(const struct vd_test_form *form, size_t type)
{
    char name[64];
    struct vd_test_model t = vd_test_model_of(form);
    vd_test_model_widen(&t);
    t.mats = types[type];
    t.mixed = true;
    t.v_down = type % 3 ? VD_WTYPE_Q8_0 : VD_WTYPE_Q6_K;
    snprintf(name, sizeof name, "%s, %s", form->name, vd_wtype_info(types[type])->name);
    check_model(name, &t);
}

static void every_weight_type(void **state)
{
    for (size_t i = 0; i < TYPES; i++)
        check_pair(vd_test_form(i % 2 ? "qwen3moe" : "gemma2"), i);
}

static void every_architecture_with_every_weight_type(void **state)
{
    if (!getenv("VD_LONG"))
        skip();
    for (size_t f = 0; f < VD_TEST_FORMS; f++)
        for (size_t i = 0; i < TYPES; i++)
            check_pair(&vd_test_forms[f], i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_architecture),
        cmocka_unit_test(every_weight_type),
        cmocka_unit_test(every_architecture_with_every_weight_type),
    };
    if (vd_pool_create(&pool, 2, NULL) != VD_OK)
        return 1;
    int bad = cmocka_run_group_tests(tests, NULL, NULL);
    vd_pool_destroy(pool);
    return bad;
}
