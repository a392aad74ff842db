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
        if (strcmp(name, "bias") != 0) /* looked at with its hash */
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

/* tests/data/receipt-json.json: a receipt, and what becomes of it if a piece of its text is another. */
static json_t *cases(void)
{
    json_error_t where;
    json_t *j = json_load_file(VD_SOURCE_DIR "/tests/data/receipt-json.json", JSON_ALLOW_NUL, &where);
    if (!j)
        fail_msg("line %d: %s", where.line, where.text);
    return j;
}

static void recorded_receipt_is_what_is_written(void **state)
{
    const struct fixture *f = *state;
    json_t *all = cases(), *j = vd_receipt_to_json(&f->envelope, &f->receipt);
    bool same = json_equal(json_object_get(all, "receipt"), j);
    if (!same) {
        fprintf(stderr, "the receipt in tests/data/receipt-json.json must be ");
        json_dumpf(j, stderr, JSON_COMPACT);
    }
    assert_true(same);
    json_decref(j);
    json_decref(all);
}

/* `text` with `with` in the place of `from`, which is in it once. */
static char *replaced(const char *text, const char *name, const char *from, const char *with, size_t n_with,
                      size_t *n)
{
    const char *at = strstr(text, from);
    if (!at || strstr(at + 1, from))
        fail_msg("%s: \"%s\" is not in the receipt once", name, from);
    size_t before = (size_t)(at - text), n_from = strlen(from), rest = strlen(at) - n_from;
    char *out = malloc(before + n_with + rest + 1);
    memcpy(out, text, before);
    memcpy(out + before, with, n_with);
    memcpy(out + before + n_with, at + n_from, rest);
    *n = before + n_with + rest;
    return out;
}

/* ok and false: of the right form; form: the schema says no; text: a strict reader of JSON does. */
static void reads_what_the_schema_says(void **state)
{
    json_t *all = cases(), *one;
    size_t i, n, n_with;
    const char *verdict, *name, *from, *with;
    char *text = json_dumps(json_object_get(all, "receipt"), JSON_COMPACT);
    (void)state;
    assert_true(json_array_size(json_object_get(all, "cases")) > 50);
    json_array_foreach(json_object_get(all, "cases"), i, one)
    {
        struct vd_envelope e;
        struct vd_receipt r;
        struct vd_error err = {0};
        uint32_t *tokens;
        assert_int_equal(json_unpack(one, "[s, s, s, s%]", &verdict, &name, &from, &with, &n_with), 0);
        char *changed = replaced(text, name, from, with, n_with, &n);
        enum vd_err rc = vd_receipt_from_json(changed, n, &e, &tokens, &err);
        enum vd_err want = strcmp(verdict, "ok") == 0      ? VD_OK
                           : strcmp(verdict, "false") == 0 ? VD_EFALSE
                                                           : VD_EFORMAT;
        if (rc != want || (rc == VD_OK && vd_envelope_check(&e, &r) != VD_RECEIPT_OK))
            fail_msg("%s: %s, not %s: %s", name, vd_err_name(rc), verdict, err.msg);
        for (const char *c = err.msg; *c; c++)
            assert_true(*c >= 0x20 && *c < 0x7f);
        free(tokens);
        free(changed);
    }
    free(text);
    json_decref(all);
}

/* UTF-8 that is none, which the file of cases cannot hold. */
static void bytes_that_are_no_text(void **state)
{
    static const char *const bad[] = {"{\"x\xff\":1}", "{\"\xc0\x80\":1}", "\xef\xbb\xbf{}",
                                      "{\"\xed\xa0\x80\":1}"};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct vd_envelope e;
        uint32_t *tokens;
        assert_int_equal(vd_receipt_from_json(bad[i], strlen(bad[i]), &e, &tokens, NULL), VD_EFORMAT);
    }
}

static void too_many_tokens(void **state)
{
    const struct fixture *f = *state;
    struct vd_error err;
    struct vd_envelope e;
    uint32_t *tokens;
    json_t *j = vd_receipt_to_json(&f->envelope, &f->receipt), *prompt = json_object_get(j, "prompt");
    while (json_array_size(prompt) + f->envelope.n_output < VD_JOB_MAX_TOKENS)
        json_array_append_new(prompt, json_integer(1));
    assert_int_equal(read_back(j, &e, &tokens, &err),
                     VD_OK); /* that they are others the envelope's check says */
    assert_int_equal(e.n_prompt + e.n_output, VD_JOB_MAX_TOKENS);
    free(tokens);
    json_array_append_new(prompt, json_integer(1));
    assert_int_equal(read_back(j, &e, &tokens, &err), VD_ELIMIT);
    assert_non_null(strstr(err.msg, "1048577 tokens"));
    json_decref(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_forms_hold_the_same),
        cmocka_unit_test(an_error_names_the_member),
        cmocka_unit_test(a_changed_number_is_another_receipt),
        cmocka_unit_test(text_that_is_no_receipt),
        cmocka_unit_test(recorded_receipt_is_what_is_written),
        cmocka_unit_test(reads_what_the_schema_says),
        cmocka_unit_test(bytes_that_are_no_text),
        cmocka_unit_test(too_many_tokens),
    };
    return cmocka_run_group_tests(tests, make, NULL);
}
