/* An engine over a model file, for the tests of this folder: a pool, the model, a context and a cache without
 * a limit. */
#ifndef VD_TEST_ENGINE_H
#define VD_TEST_ENGINE_H

#include "vd_forward.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

struct engine {
    struct vd_pool *pool;
    struct vd_model *m;
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
};

/* rows and logits: the most of one call. */
static inline void engine_open(struct engine *e, const char *path, const struct vd_kern *kern,
                               unsigned threads, uint32_t rows, uint32_t logits)
{
    struct vd_error err = {0};
    assert_int_equal(vd_pool_create(&e->pool, threads, &err), VD_OK);
    if (vd_model_open(&e->m, path, kern, e->pool, &err) != VD_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(vd_ctx_create(&e->ctx, e->m, e->pool, rows, logits, &err), VD_OK);
    assert_int_equal(vd_kv_pool_create(&e->cache, e->m, SIZE_MAX, &err), VD_OK);
}

static inline void engine_close(struct engine *e)
{
    vd_kv_pool_destroy(e->cache);
    vd_ctx_destroy(e->ctx);
    vd_model_close(e->m);
    vd_pool_destroy(e->pool);
}

static inline struct vd_kv *open_kv(struct engine *e)
{
    struct vd_kv *kv;
    assert_int_equal(vd_kv_open(&kv, e->cache, NULL), VD_OK);
    return kv;
}

#endif
