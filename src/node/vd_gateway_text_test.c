/* The text side of an encoder and of a decoder: which requests they take, and how long a prompt may be. */
#include "vd_gateway_text.h"

#include "vd_test_model.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct vd_gateway_text *open_text(const char *form, char path[VD_PATH_MAX])
{
    struct vd_test_model t = vd_test_model_of(vd_test_form(form));
    struct vd_gateway_text *text;
    struct vd_error err;
    vd_test_model_widen(&t);
    t.ctx = 64;
    vd_test_model_file(&t, path);
    if (vd_gateway_text_open(&text, path, &err) != VD_OK)
        fail_msg("%s", err.msg);
    return text;
}

/* The status of a request with n ids; 0: it is taken. */
static int status_of(const struct vd_gateway_text *t, enum vd_openai_kind kind, size_t n,
                     struct vd_openai_error *e)
{
    uint32_t given[100], *ids, n_ids;
    struct vd_openai_request r = {.kind = kind, .model = "m", .ids = given, .n_ids = n};
    for (size_t i = 0; i < n; i++)
        given[i] = (uint32_t)(5 + i);
    *e = (struct vd_openai_error){0};
    if (!vd_gateway_text_prompt(t, &r, &ids, &n_ids, e))
        return e->status;
    assert_int_equal(n_ids, n);
    free(ids);
    return 0;
}

static void encoders_only_embed(void **state)
{
    struct vd_openai_error e;
    char path[VD_PATH_MAX];
    struct vd_gateway_text *t = open_text("bert", path);
    assert_int_equal(vd_gateway_text_pooling(t), VD_POOLING_CLS);
    assert_false(vd_gateway_text_generates(t));
    assert_int_equal(status_of(t, VD_OPENAI_EMBEDDING, 64, &e), 0);
    assert_int_equal(status_of(t, VD_OPENAI_EMBEDDING, 65, &e), 400);
    assert_string_equal(e.code, "context_length_exceeded");
    static const enum vd_openai_kind others[] = {VD_OPENAI_CHAT, VD_OPENAI_COMPLETION};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(status_of(t, others[i], 5, &e), 400);
        assert_string_equal(e.code, "unsupported_value");
        assert_string_equal(e.param, "model");
        assert_non_null(strstr(e.message, "/v1/embeddings"));
    }
    vd_gateway_text_close(t);
    unlink(path);
}

static void decoders_leave_room(void **state)
{
    struct vd_openai_error e;
    char path[VD_PATH_MAX];
    struct vd_gateway_text *t = open_text("llama", path);
    assert_int_equal(vd_gateway_text_pooling(t), VD_POOLING_LAST);
    assert_true(vd_gateway_text_generates(t));
    assert_int_equal(status_of(t, VD_OPENAI_EMBEDDING, 64, &e), 0);
    assert_int_equal(status_of(t, VD_OPENAI_COMPLETION, 63, &e), 0);
    assert_int_equal(status_of(t, VD_OPENAI_COMPLETION, 64, &e), 400);
    assert_non_null(strstr(e.message, "at least one is needed"));
    vd_gateway_text_close(t);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encoders_only_embed),
        cmocka_unit_test(decoders_leave_room),
    };
    return cmocka_run_group_tests_name("gateway text", tests, NULL, NULL);
}
