/* The recorded bits of a whole forward pass: the logits of seeded models, hashed, by every table that this
 * CPU has. They are the same on x86-64 and on aarch64; other folders' tests compare tables of one CPU. */
#include "vd_forward.h"

#include "vd_test_model.h"

#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { N_TOK = 90 }; /* two chunks of keys */

static uint64_t fnv(uint64_t h, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        assert_true(isfinite(x[i]));
        h = (h ^ vd_f32_bits(x[i])) * UINT64_C(0x100000001b3);
    }
    return h;
}

/* Of all logits of N_TOK seeded tokens: 64 rows in one pass, the others one by one. */
static uint64_t hash_logits(const char *path, const struct vd_kern *kern)
{
    struct vd_error err = {0};
    struct vd_pool *pool;
    struct vd_model *m;
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
    struct vd_kv *kv;
    struct vd_rng r = {77, 0};
    struct vd_row rows[N_TOK];
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    assert_int_equal(vd_pool_create(&pool, 2, &err), VD_OK);
    assert_int_equal(vd_model_open(&m, path, kern, pool, &err), VD_OK);
    assert_int_equal(vd_ctx_create(&ctx, m, pool, N_TOK, N_TOK, &err), VD_OK);
    assert_int_equal(vd_kv_pool_create(&cache, m, SIZE_MAX, &err), VD_OK);
    assert_int_equal(vd_kv_open(&kv, cache, NULL), VD_OK);
    uint32_t vocab = vd_model_program(m)->vocab;
    for (uint32_t i = 0; i < N_TOK; i++)
        rows[i] = (struct vd_row){kv, i, (uint32_t)vd_rng_below(&r, vocab), VD_ROW_LOGITS};
    for (size_t at = 0, n = 64; at < N_TOK; at += n, n = 1) {
        assert_int_equal(vd_model_forward(ctx, rows + at, n, NULL, NULL), VD_OK);
        for (size_t i = 0; i < n; i++)
            h = fnv(h, vd_ctx_logits(ctx, i), vocab);
    }
    vd_kv_close(kv);
    vd_kv_pool_destroy(cache);
    vd_ctx_destroy(ctx);
    vd_model_close(m);
    vd_pool_destroy(pool);
    return h;
}

static const struct {
    const char *form;
    enum vd_wtype mats, embd;
    uint64_t recorded;
} models[] = {
    {"llama", VD_WTYPE_Q4_1, VD_WTYPE_Q8_0, 0x3d6874edac1d9127},
    {"llama", VD_WTYPE_BF16, VD_WTYPE_F32, 0x72f984a309abf26d},
    {"llama", VD_WTYPE_Q4_K, VD_WTYPE_Q6_K, 0x822dda40619f302f},
    {"llama-yarn", VD_WTYPE_Q5_1, VD_WTYPE_Q5_0, 0xd552bb87b2507675},
    {"gemma2", VD_WTYPE_Q5_K, VD_WTYPE_Q3_K, 0x0de2d01e402149e9},
    {"qwen3moe", VD_WTYPE_Q4_0, VD_WTYPE_F16, 0xacf11a098bb0e795},
    {"phi3-long", VD_WTYPE_IQ4_XS, VD_WTYPE_Q2_K, 0xee2f06d1560f77ab},
    {"qwen2", VD_WTYPE_MXFP4, VD_WTYPE_IQ4_NL, 0x760ba7c96d5c92aa},
};

/* The file of model i, to be unlinked. */
static void model_file(size_t i, char path[VD_PATH_MAX])
{
    struct vd_test_model t = vd_test_model_of(vd_test_form(models[i].form));
    t.mats = models[i].mats;
    t.embd = models[i].embd;
    t.n_layers = 2;
    if (vd_wtype_info(t.mats)->block_elems == 256)
        vd_test_model_widen(&t);
    vd_test_model_file(&t, path);
}

static void test_recorded_logits(void **state)
{
    static const char *const names[] = {"scalar", "avx2", "avxvnni", "avx512", "neon", "neon-i8mm"};
    int wrong = 0;
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        char path[VD_PATH_MAX];
        model_file(i, path);
        for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
            const struct vd_kern *kern = vd_kern_pick(names[k], NULL);
            uint64_t h = kern == NULL ? models[i].recorded : hash_logits(path, kern);
            if (h != models[i].recorded) {
                print_error("%s, %s, %s: 0x%016" PRIx64 ", recorded 0x%016" PRIx64 "\n", models[i].form,
                            vd_wtype_info(models[i].mats)->name, names[k], h, models[i].recorded);
                wrong++;
            }
        }
        unlink(path);
    }
    assert_int_equal(wrong, 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {cmocka_unit_test(test_recorded_logits)};
    return cmocka_run_group_tests_name("logits", tests, NULL, NULL);
}
