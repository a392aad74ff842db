/* What a client of the gateway is answered: who may ask, what is refused, and answers, streams, choices and
 * embeddings with their receipts. */
#include "vd_receipt_json.h"
#include "vd_test_gateway.h"

static void test_embeddings(void **state)
{
    static const char path[] = "/v1/embeddings";
    struct reply r = post(path, EMBED("[\"a b\",\"a b\",\"the sea\"]", ",\"user\":\"me\""));
    json_t *j = json_of(&r, 200), *data = json_object_get(j, "data"), *v;
    const char *receipt;
    double length = 0, same = 0, other = 0;
    size_t i;
    assert_int_equal(json_array_size(data), 3);
    const json_t *a = json_object_get(json_array_get(data, 0), "embedding");
    const json_t *b = json_object_get(json_array_get(data, 1), "embedding");
    const json_t *c = json_object_get(json_array_get(data, 2), "embedding");
    assert_int_equal(json_array_size(a), vd_model_program(t.model)->width);
    assert_true(json_equal(a, b));
    json_array_foreach(a, i, v)
    {
        length += json_real_value(v) * json_real_value(v);
        same += json_real_value(v) * json_real_value(json_array_get(b, i));
        other += json_real_value(v) * json_real_value(json_array_get(c, i));
    }
    assert_true(length > 0.9999 && length < 1.0001 && same > other);
    assert_int_equal(json_unpack(j, "{s:{s:[s,*]}}", "veridem", "receipts", &receipt), 0);
    uint32_t *tokens;
    struct vd_envelope e = envelope_of(receipt, &tokens);
    struct vd_receipt got;
    assert_int_equal(vd_envelope_check(&e, &got), VD_RECEIPT_OK);
    assert_int_equal(got.request.sampling.pooling, VD_POOLING_LAST);
    assert_int_equal(got.amount.micro, PRICE_IN * got.request.n_prompt);
    json_array_foreach(a, i, v)
    {
        assert_int_equal(vd_f32_bits((float)json_real_value(v)), e.output[i]);
    }
    free(tokens);
    json_decref(j);
    r = post(path, EMBED("[1,2,3]", ",\"encoding_format\":\"base64\""));
    j = json_of(&r, 200);
    const char *text =
        json_string_value(json_object_get(json_array_get(json_object_get(j, "data"), 0), "embedding"));
    assert_int_equal(strlen(text), (4 * vd_model_program(t.model)->width + 2) / 3 * 4);
    json_decref(j);
    expect_error(post(path, EMBED("\"x\"", ",\"dimensions\":64")), 400, "unsupported_parameter",
                 "dimensions");
    expect_error(post(path, EMBED("\"\"", "")), 400, "invalid_value", "input");
    expect_error(post(path, EMBED("[\"x\",[]]", "")), 400, "invalid_value", "input");
    expect_error(post(path, EMBED("[99999999]", "")), 400, "invalid_value", "input");
    expect_error(post(path, EMBED("\"x\"", ",\"encoding_format\":\"hex\"")), 400, "invalid_value",
                 "encoding_format");
    expect_error(post(path, EMBED("\"x\"", ",\"colour\":1")), 400, "unsupported_parameter", "colour");
    settle();
}

static void test_who_may_ask(void **state)
{
    expect_error(http("/v1/models", NULL, NULL, NULL, 0), 401, "invalid_api_key", NULL);
    expect_error(http("/v1/models", "vd-wrong", NULL, NULL, 0), 401, "invalid_api_key", NULL);
    expect_error(http(CHAT, "vd-wrong", ASK("hi", ""), NULL, 0), 401, "invalid_api_key", NULL);
    expect_error(http("/v1/nothing", t.secret, NULL, NULL, 0), 404, "unknown_url", NULL);
    expect_error(http(CHAT, t.secret, NULL, NULL, 0), 405, "method_not_allowed", NULL);
    struct reply r = http("/health", NULL, NULL, NULL, 0);
    expect_ok(r);
    r = http("/metrics", NULL, NULL, NULL, 0);
    assert_non_null(strstr(r.body, "\nveridem_gateway_workers 1\n"));
    free(r.body);
    r = http("/v1/models", t.secret, NULL, NULL, 0);
    const char *id;
    json_t *j = json_of(&r, 200);
    assert_int_equal(json_unpack(j, "{s:[{s:s}]}", "data", "id", &id), 0);
    assert_string_equal(id, "SmolLM2");
    json_decref(j);
}

static void test_bad_requests(void **state)
{
    expect_error(post(CHAT, "{\"model\": nope}"), 400, "invalid_json", NULL);
    expect_error(post(CHAT, ASK("hi", ",\"stop\":[\"\"]")), 400, "invalid_value", "stop");
    expect_error(post(CHAT, ASK("hi", ",\"colour\":1")), 400, "unsupported_parameter", "colour");
    expect_error(post(CHAT, "{\"model\":\"gpt-4\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}"),
                 404, "model_not_found", "model");
    expect_error(post(CHAT, ASK("hi", ",\"max_tokens\":100000")), 400, "context_length_exceeded",
                 "max_tokens");
    expect_error(post("/v1/completions", "{\"model\":\"SmolLM2\",\"prompt\":[99999999]}"), 400,
                 "invalid_value", "prompt");
    /* no token of this model holds the byte 4 */
    expect_error(post(CHAT, ASK("a\\u0004b", "")), 400, "invalid_value", "messages");
    expect_error(post("/v1/completions", "{\"model\":\"SmolLM2\",\"prompt\":\"a\\u0004b\"}"), 400,
                 "invalid_value", "prompt");
    char *big = malloc(200000);
    int n = sprintf(big, "{\"model\":\"SmolLM2\",\"prompt\":\"");
    while (n < 150000)
        n += sprintf(big + n, "a b c d e f g h ");
    sprintf(big + n, "\"}");
    expect_error(post("/v1/completions", big), 400, "context_length_exceeded", "prompt");
    free(big);
    assert_int_equal(stats().reserved.micro, 0);
}

static void test_an_answer_and_its_receipt(void **state)
{
    struct vd_gateway_stats before = stats();
    json_int_t n_in, n_out, amount;
    struct reply r = post(CHAT, ASK("What is the capital of Germany?", GREEDY ",\"max_tokens\":24"));
    json_t *j = json_of(&r, 200);
    assert_int_equal(json_unpack(j, "{s:{s:I, s:I}, s:{s:I}}", "usage", "prompt_tokens", &n_in,
                                 "completion_tokens", &n_out, "veridem", "amount_micro", &amount),
                     0);
    assert_int_equal(amount, PRICE_IN * n_in + PRICE_OUT * n_out);
    json_decref(j);
    char path[160];
    snprintf(path, sizeof path, "/v1/receipts/%s", r.receipt);
    struct reply q = http(path, t.secret, NULL, NULL, 0);
    struct vd_envelope env;
    struct vd_receipt x;
    uint32_t *tokens;
    assert_int_equal(q.status, 200);
    assert_int_equal(vd_receipt_from_json(q.body, q.n, &env, &tokens, NULL), VD_OK);
    assert_int_equal(vd_envelope_check(&env, &x), VD_RECEIPT_OK);
    assert_int_equal(env.n_output, n_out);
    free(tokens);
    free(q.body);
    expect_error(http(path, t.other, NULL, NULL, 0), 404, "receipt_not_found", NULL);
    env = envelope_of(r.receipt, &tokens);
    assert_int_equal(vd_envelope_check(&env, &x), VD_RECEIPT_OK);
    assert_int_equal(x.n_output, n_out);
    assert_memory_equal(x.request.worker.b, t.key[WORKER_A].pub.b, 32);
    free(tokens);
    settle();
    struct vd_gateway_stats after = stats();
    assert_int_equal(before.escrow_balance.micro - after.escrow_balance.micro, amount);
    assert_int_equal(after.n_settled, before.n_settled + 1);
}

/* Behind the question mark nothing is ignored, and nothing taken for something else. */
static void test_query_parameters(void **state)
{
    static const struct {
        const char *path, *body, *code, *param; /* path with %s: a receipt's id */
    } wrong[] = {
        {"/v1/receipts/%s?format=xx", NULL, "unsupported_value", "format"},
        {"/v1/receipts/%s?format=FILE", NULL, "unsupported_value", "format"},
        {"/v1/receipts/%s?format=file%%00.json", NULL, "unsupported_value", "format"},
        {"/v1/receipts/%s?format=", NULL, "unsupported_value", "format"},
        {"/v1/receipts/%s?format", NULL, "unsupported_value", "format"},
        {"/v1/receipts/%s?format=file&format=file", NULL, "invalid_value", "format"},
        {"/v1/receipts/%s?fromat=file", NULL, "unsupported_parameter", "fromat"},
        {"/v1/receipts/%s?format=file&x=1", NULL, "unsupported_parameter", "x"},
        {"/v1/receipts/%s?format%%00=file", NULL, "unsupported_parameter", "format"},
        {"/v1/models?limit=1", NULL, "unsupported_parameter", "limit"},
        {"/v1/models/SmolLM2?format=json", NULL, "unsupported_parameter", "format"},
        {"/health?verbose", NULL, "unsupported_parameter", "verbose"},
        {"/metrics?name%%5B%%5D=x", NULL, "unsupported_parameter", "name[]"},
        {CHAT "?stream=true", ASK("x", ""), "unsupported_parameter", "stream"},
        {"/v1/completions?n=2", "{\"model\":\"SmolLM2\",\"prompt\":\"x\"}", "unsupported_parameter", "n"},
        {"/v1/embeddings?dimensions=2", "{\"model\":\"SmolLM2\",\"input\":\"x\"}", "unsupported_parameter",
         "dimensions"},
    };
    static const char *const right[] = {"/v1/receipts/%s?format=json", "/v1/receipts/%s?format=%%66ile",
                                        "/v1/receipts/%s?", "/v1/models?", "/health?"};
    char path[200];
    struct reply r = post(CHAT, ASK("x", GREEDY ",\"max_tokens\":1"));
    free(chat_text(&r));
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        snprintf(path, sizeof path, wrong[i].path, r.receipt);
        expect_error(http(path, t.secret, wrong[i].body, NULL, 0), 400, wrong[i].code, wrong[i].param);
    }
    for (size_t i = 0; i < sizeof right / sizeof right[0]; i++) {
        snprintf(path, sizeof path, right[i], r.receipt);
        struct reply q = http(path, t.secret, NULL, NULL, 0);
        assert_int_equal(q.status, 200);
        assert_int_equal(q.body[0] == '{', i != 1); /* the file begins with a tag */
        free(q.body);
    }
    expect_error(http("/v1/models?limit=1", NULL, NULL, NULL, 0), 401, "invalid_api_key", NULL);
    settle();
}

static void test_stream_equals_whole(void **state)
{
    char receipt[65] = "";
    bool done;
    struct reply w = post(CHAT, ASK("Name three colours.", GREEDY ",\"max_tokens\":40"));
    char *whole = chat_text(&w);
    struct reply s =
        post(CHAT, ASK("Name three colours.", GREEDY ",\"max_tokens\":40,\"stream\":true,"
                                                     "\"stream_options\":{\"include_usage\":true}"));
    assert_int_equal(s.status, 200);
    char *streamed = stream_text(&s, receipt, &done);
    assert_string_equal(streamed, whole);
    assert_true(done && strlen(receipt) == 64);
    assert_non_null(strstr(s.body, "\"finish_reason\":\""));
    assert_non_null(strstr(s.body, "\"choices\":[],\"usage\":{"));
    free(streamed);
    free(whole);
    free(s.body);
}

/* Choices of one request, more than the worker takes at once. Texts are the caller's. */
enum { CHOICES = 11 };

static void whole_choices(const char *body, char *text[CHOICES])
{
    struct reply r = post(CHAT, body);
    json_t *j = json_of(&r, 200), *choices = json_object_get(j, "choices"), *all;
    json_int_t amount, in, out;
    assert_int_equal(json_array_size(choices), CHOICES);
    for (size_t i = 0; i < CHOICES; i++) {
        const char *content;
        json_int_t index;
        assert_int_equal(json_unpack(json_array_get(choices, i), "{s:I,s:{s:s}}", "index", &index, "message",
                                     "content", &content),
                         0);
        assert_int_equal(index, i);
        text[i] = strdup(content);
    }
    assert_int_equal(json_unpack(j, "{s:{s:o,s:I},s:{s:I,s:I}}", "veridem", "receipts", &all, "amount_micro",
                                 &amount, "usage", "prompt_tokens", &in, "completion_tokens", &out),
                     0);
    assert_int_equal(json_array_size(all), CHOICES);
    assert_int_equal(amount, in * PRICE_IN + out * PRICE_OUT);
    json_decref(j);
}

/* Their texts from a stream's chunks; *mixed: one began before the one before it had ended. */
static void streamed_choices(const char *body, char *text[CHOICES], bool *mixed)
{
    struct reply r = post(CHAT, body);
    bool ended[CHOICES] = {false};
    assert_int_equal(r.status, 200);
    *mixed = false;
    for (size_t i = 0; i < CHOICES; i++)
        text[i] = calloc(1, r.n + 1);
    for (const char *at = strstr(r.body, "data: {"); at; at = strstr(at + 1, "data: {")) {
        json_int_t index, amount;
        const char *content, *finish;
        json_t *j = json_loadb(at + 6, strcspn(at + 6, "\n"), 0, NULL);
        json_t *choice = json_array_get(json_object_get(j, "choices"), 0);
        if (json_unpack(choice, "{s:I,s:{s:s}}", "index", &index, "delta", "content", &content) == 0) {
            assert_in_range(index, 0, CHOICES - 1);
            *mixed |= index > 0 && !ended[index - 1];
            strcat(text[index], content);
        }
        if (json_unpack(choice, "{s:I,s:s}", "index", &index, "finish_reason", &finish) == 0) {
            assert_false(ended[index]);
            ended[index] = true;
            assert_int_equal(
                json_unpack(j, "{s:{s:s,s:I}}", "veridem", "receipt_id", &content, "amount_micro", &amount),
                0);
        }
        json_decref(j);
    }
    assert_non_null(strstr(r.body, "\"receipts\":["));
    assert_non_null(strstr(r.body, "data: [DONE]"));
    free(r.body);
}

static void test_choices_side_by_side(void **state)
{
    char *whole[CHOICES], *streamed[CHOICES];
    bool mixed = false;
    struct vd_gateway_stats before = stats();
    uint64_t n_asked = 1, until = vd_clock_ms() + WAIT_MS;
    size_t n_equal = 0;
    whole_choices(ASK("Name a colour.", ",\"seed\":5,\"max_tokens\":24,\"n\":11"), whole);
    for (; !mixed && vd_clock_ms() < until;
         n_asked++) { /* all may be there before the gateway's turn comes */
        streamed_choices(ASK("Name a colour.", ",\"seed\":5,\"max_tokens\":24,\"n\":11,\"stream\":true,"
                                               "\"stream_options\":{\"include_usage\":true}"),
                         streamed, &mixed);
        for (size_t i = 0; i < CHOICES; i++) {
            assert_string_equal(whole[i], streamed[i]);
            free(streamed[i]);
        }
    }
    for (size_t i = 0; i < CHOICES; i++)
        n_equal += i > 0 && strcmp(whole[i], whole[0]) == 0;
    assert_true(mixed);
    assert_true(n_equal < CHOICES - 1);
    for (size_t i = 0; i < CHOICES; i++)
        free(whole[i]);
    settle();
    assert_int_equal(stats().n_answers, before.n_answers + n_asked * CHOICES);
}

/* Which of the first n choices have said something in a stream's chunks. */
static uint32_t speakers(const char *body, uint32_t n)
{
    uint32_t who = 0;
    for (const char *at = strstr(body, "data: {"); at; at = strstr(at + 1, "data: {")) {
        json_int_t index;
        const char *content;
        json_t *j = json_loadb(at + 6, strcspn(at + 6, "\n"), 0, NULL);
        json_t *choice = json_array_get(json_object_get(j, "choices"), 0);
        if (json_unpack(choice, "{s:I,s:{s:s}}", "index", &index, "delta", "content", &content) == 0 &&
            content[0] && index < n)
            who |= 1u << index;
        json_decref(j);
    }
    return who;
}

/* A client that hangs up ends all of them. Who had not begun has no receipt: on a busy machine that may be
 * any of which the client has read nothing.
 */
static void test_a_hang_up_ends_all_choices(void **state)
{
    struct vd_gateway_stats before = stats();
    struct reply cut =
        http(CHAT, t.secret, ASK("Count.", ",\"max_tokens\":500,\"n\":3,\"stream\":true"), NULL, 4000);
    uint32_t who = speakers(cut.body, 3);
    uint64_t spoke = (who & 1) + (who >> 1 & 1) + (who >> 2 & 1);
    free(cut.body);
    settle();
    assert_true(spoke > 0);
    assert_in_range(stats().n_answers, before.n_answers + spoke, before.n_answers + 3);
    assert_true(stats().n_cancelled > before.n_cancelled);
}

static void test_seeds(void **state)
{
    char *text[3];
    const char *body[] = {ASK("Tell a story.", ",\"seed\":7,\"max_tokens\":16"),
                          ASK("Tell a story.", ",\"seed\":7,\"max_tokens\":16"),
                          ASK("Tell a story.", ",\"seed\":8,\"max_tokens\":16")};
    for (int i = 0; i < 3; i++) {
        struct reply r = post(CHAT, body[i]);
        text[i] = chat_text(&r);
    }
    assert_string_equal(text[0], text[1]);
    assert_string_not_equal(text[0], text[2]);
    for (int i = 0; i < 3; i++)
        free(text[i]);
}

/* Prompt tokens that the worker did not compute anew for this key, asked under a name of its own so that no
 * kept answer is given. *text is the caller's. */
static uint64_t reused_by(const char *secret, const char *name, char **text)
{
    struct vd_worker_stats before, after;
    char extra[64];
    snprintf(extra, sizeof extra, "Idempotency-Key: %s", name);
    vd_worker_get_stats(t.worker[0], &before);
    struct reply r = http(CHAT, secret, ASK("Name three rivers.", GREEDY ",\"max_tokens\":12"), extra, 0);
    *text = chat_text(&r);
    uint64_t until = vd_clock_ms() + WAIT_MS;
    do /* the worker counts after it has sent the receipt */
        vd_worker_get_stats(t.worker[0], &after);
    while (after.n_receipts == before.n_receipts && vd_clock_ms() < until);
    assert_int_equal(after.n_receipts, before.n_receipts + 1);
    return after.n_tokens_reused - before.n_tokens_reused;
}

static void test_no_cache_over_keys(void **state)
{
    char secret[2][VD_API_KEY_TEXT_MAX], *text[3];
    new_key("cache1", 0, secret[0]);
    new_key("cache2", 0, secret[1]);
    assert_int_equal(reused_by(secret[0], "cache-1", &text[0]), 0);
    assert_int_equal(reused_by(secret[1], "cache-2", &text[1]), 0);
    assert_true(reused_by(secret[0], "cache-3", &text[2]) > 10);
    assert_string_equal(text[0], text[1]);
    assert_string_equal(text[0], text[2]);
    for (size_t i = 0; i < 3; i++)
        free(text[i]);
}

static void test_completions(void **state)
{
    const char *text;
    json_int_t n_in, n_out;
    struct reply r =
        post("/v1/completions", "{\"model\":\"SmolLM2\",\"prompt\":\"One, two, three,\",\"temperature\":0}");
    json_t *j = json_of(&r, 200);
    assert_int_equal(json_unpack(j, "{s:[{s:s}], s:{s:I, s:I}}", "choices", "text", &text, "usage",
                                 "prompt_tokens", &n_in, "completion_tokens", &n_out),
                     0);
    assert_int_equal(n_out, 16);
    assert_non_null(strstr(text, "four"));
    json_decref(j);
}

int main(void)
{
    if (!model_is_there())
        return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_who_may_ask),
        cmocka_unit_test(test_embeddings),
        cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_an_answer_and_its_receipt),
        cmocka_unit_test(test_query_parameters),
        cmocka_unit_test(test_stream_equals_whole),
        cmocka_unit_test(test_choices_side_by_side),
        cmocka_unit_test(test_a_hang_up_ends_all_choices),
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_no_cache_over_keys),
        cmocka_unit_test(test_completions),
    };
    return cmocka_run_group_tests(tests, network_up, network_down);
}
