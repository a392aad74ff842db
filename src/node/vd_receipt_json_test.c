#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "vd_receipt_json.h"
#include "vd_trace_hash.h"

struct fixture {
    struct vd_keypair gateway, worker;
    uint32_t prompt[3], output[2];
    uint8_t bias[VD_BIAS_ENTRY_BYTES];
    struct vd_receipt receipt;
    struct vd_envelope envelope;
};

/* A receipt with every field at a value that is easy to lose: both ends of 64 bits, negative, absent. */
static int make(void **state)
{
    static struct fixture f;
    struct vd_request *q = &f.receipt.request;
    struct vd_signed_receipt *s = &f.envelope.receipt;
    f = (struct fixture){.prompt = {1, 0, 49151}, .output = {7, UINT32_MAX - 1}};
    vd_key_from_seed(&f.gateway, (const uint8_t[32]){1});
    vd_key_from_seed(&f.worker, (const uint8_t[32]){2});
    vd_le32_store(f.bias, 5);
    vd_le32_store(f.bias + 4, 1500000);
    f.envelope.prompt = f.prompt;
    f.envelope.output = f.output;
    f.envelope.n_prompt = 3;
    f.envelope.n_output = 2;
    f.envelope.controls.bias = (struct vd_bytes){f.bias, sizeof f.bias};
    memset(f.envelope.job_salt, 9, VD_SALT_BYTES);
    memset(q->genesis.b, 0xfe, 32);
    q->arith_version = VD_ARITH_VERSION;
    q->valid_until = UINT64_MAX;
    q->sequence = (UINT64_C(1) << 53) + 1;
    q->gateway = f.gateway.pub;
    q->worker = f.worker.pub;
    q->n_prompt = 3;
    q->prompt_root = vd_token_root(f.envelope.job_salt, 0, f.prompt, 3);
    q->salt_commit = vd_salt_commit(f.envelope.job_salt);
    q->sampling = (struct vd_sampling){.temp_micro = 700000,
                                       .top_k = 40,
                                       .top_p_micro = 950000,
                                       .seed = UINT64_MAX,
                                       .choice = 1,
                                       .presence_micro = -500000};
    vd_request_set_controls(q, &f.envelope.controls);
    q->max_tokens = 16;
    q->price_in = vd_amount_micro(2);
    q->price_out = vd_amount_micro(3);
    f.receipt.n_output = 2;
    f.receipt.output_root = vd_token_root(f.envelope.job_salt, 3, f.output, 2);
    f.receipt.finish = VD_FINISH_CANCELLED;
    f.receipt.amount = vd_amount_micro(12);
    s->body_bytes = vd_receipt_encode(&f.receipt, s->body, sizeof s->body);
    assert_true(s->body_bytes > 0);
    vd_key_sign(&s->worker_sig, &f.worker, VD_TAG_RECEIPT, s->body, s->body_bytes);
    vd_key_sign(&s->gateway_sig, &f.gateway, VD_TAG_ACCEPT, s->body, s->body_bytes);
    *state = &f;
    return 0;
}

static enum vd_err read_back(const json_t *j, struct vd_envelope *e, uint32_t **tokens, struct vd_error *err)
{
    char *text = json_dumps(j, JSON_COMPACT);
    assert_non_null(text);
    enum vd_err rc = vd_receipt_from_json(text, strlen(text), e, tokens, err);
    free(text);
    return rc;
}

static void both_forms_hold_the_same(void **state)
{
    const struct fixture *f = *state;
    uint8_t before[4096], after[4096];
    struct vd_envelope e;
    struct vd_receipt r;
    uint32_t *tokens;
    json_t *j = vd_receipt_to_json(&f->envelope, &f->receipt);
    assert_int_equal(vd_envelope_check(&f->envelope, &r), VD_RECEIPT_OK);
    json_object_set_new(j, "status",
                        json_string("final")); /* of the gateway's answer; nothing to a verifier */
    assert_int_equal(read_back(j, &e, &tokens, NULL), VD_OK);
    assert_int_equal(vd_envelope_check(&e, &r), VD_RECEIPT_OK);
    size_t n = vd_envelope_encode(&f->envelope, before, sizeof before);
    assert_int_equal(vd_envelope_encode(&e, after, sizeof after), n);
    assert_memory_equal(before, after, n);
    free(tokens);
    json_decref(j);
}

/* Member `name` of an object under root: without it, and with a value of another type, the error names it. */
static void spoil(json_t *root, json_t *object, const char *name)
{
    struct vd_error err;
    struct vd_envelope e;
    uint32_t *tokens;
    json_t *kept = json_deep_copy(json_object_get(object, name));
    json_object_set_new(object, name, json_true());
    assert_int_equal(read_back(root, &e, &tokens, &err), VD_EFORMAT);
    assert_non_null(strstr(err.msg, name));
    json_object_del(object, name); /* a member that may be missing meant something else */
    enum vd_err rc = read_back(root, &e, &tokens, &err);
    assert_true(rc == VD_EFORMAT || rc == VD_EFALSE);
    json_object_set_new(object, name, kept);
}

static void spoil_each(json_t *root, json_t *object)
{
    const char *names[64], *name;
    json_t *value;
    size_t n = 0;
    json_object_foreach(object, name, value)
    {
        assert_true(n < sizeof names / sizeof names[0]);
        if (strcmp(name, "object") != 0 && strcmp(name, "bias") != 0) /* a label; looked at with its hash */
            names[n++] = name;
    }
    assert_true(n > 5);
    for (size_t i = 0; i < n; i++) {
        char copy[64];
        snprintf(copy, sizeof copy, "%s", names[i]); /* the name goes when its member is deleted */
        if (json_is_object(json_object_get(object, copy)))
            spoil_each(root, json_object_get(object, copy));
        spoil(root, object, copy);
    }
}

static void an_error_names_the_member(void **state)
{
    const struct fixture *f = *state;
    json_t *j = vd_receipt_to_json(&f->envelope, &f->receipt);
    spoil_each(j, j);
    json_decref(j);
}

static void a_changed_number_is_another_receipt(void **state)
{
    const struct fixture *f = *state;
    struct vd_error err;
    struct vd_envelope e;
    uint32_t *tokens;
    json_t *j = vd_receipt_to_json(&f->envelope, &f->receipt);
    json_object_set_new(j, "amount_micro", json_integer(13));
    assert_int_equal(read_back(j, &e, &tokens, &err), VD_EFALSE);
    assert_non_null(strstr(err.msg, "\"id\""));
    json_decref(j);
}

static void text_that_is_no_receipt(void **state)
{
    static const char *const bad[] = {
        "", "{", "[]", "null", "{}", "{\"a\":1,\"a\":1}", "\"x\"", "{\"prompt\":[1]}"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct vd_envelope e;
        uint32_t *tokens;
        assert_int_equal(vd_receipt_from_json(bad[i], strlen(bad[i]), &e, &tokens, NULL), VD_EFORMAT);
        assert_null(tokens);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_forms_hold_the_same),
        cmocka_unit_test(an_error_names_the_member),
        cmocka_unit_test(a_changed_number_is_another_receipt),
        cmocka_unit_test(text_that_is_no_receipt),
    };
    return cmocka_run_group_tests(tests, make, NULL);
}
