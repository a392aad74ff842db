/* The gateway with everything real around it, in one process: a ledger on disk, workers with the real model,
 * links, HTTP by libcurl. Without the model file it is skipped (77). */
#include "vd_clock.h"
#include "vd_file.h"
#include "vd_gateway.h"
#include "vd_gateway_keys.h"
#include "vd_kern.h"
#include "vd_ledger_testing.h"
#include "vd_ledgerd.h"
#include "vd_receipt_json.h"
#include "vd_trace_hash.h"
#include "vd_verifier.h"
#include "vd_worker.h"

#include <curl/curl.h>
#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#define HOST VD_TEST_HOST
enum {
    WAIT_MS = 20000,
    ROLES = 5,
    ESCROW = 10000000,
    PRICE_IN = 2,
    PRICE_OUT = 5,
    KEY_PARALLEL = 4,
    CAPACITY = 8,      /* of a worker */
    RECEIVE_MS = 4000, /* on a busy machine as well time for a large body */
    PER_ADDRESS = 16
};
enum { LEDGER, GATEWAY, WORKER_A, WORKER_B, FOLLOWER };

static struct {
    char dir[64], home[80];
    struct vd_keypair key[ROLES];
    struct vd_genesis_account account[ROLES];
    struct vd_genesis genesis;
    struct vd_ledgerd *ledgerd;
    struct vd_gateway *gateway;
    struct vd_worker *worker[2];
    struct vd_pool *pool[2];
    struct vd_model *model;
    struct vd_hash root;
    char path[VD_PATH_MAX];
    uint64_t escrow_micro; /* that the gateway opens itself; 0: none */
    char secret[VD_API_KEY_TEXT_MAX], other[VD_API_KEY_TEXT_MAX], poor[VD_API_KEY_TEXT_MAX];
} t;

/* ---- the network ---- */

static void make_genesis(void)
{
    for (int i = 0; i < ROLES; i++) {
        uint8_t seed[VD_SEED_BYTES] = {(uint8_t)(i + 1)};
        vd_key_from_seed(&t.key[i], seed);
        t.account[i] = (struct vd_genesis_account){t.key[i].pub, {100000000}};
    }
    t.genesis = vd_test_genesis(t.account, ROLES, &t.key[LEDGER].pub);
    t.genesis.audit_window_blocks = 20;
    t.genesis.request_validity_blocks = 5000;
}

static void worker_up(int which)
{
    struct vd_error err;
    char home[160];
    snprintf(home, sizeof home, "%s/worker%d", t.dir, which);
    struct vd_worker_peer gateway = {HOST, vd_gateway_link_port(t.gateway), &t.key[GATEWAY].pub};
    struct vd_worker_model m = {.model = t.model,
                                .pool = t.pool[which],
                                .root = t.root,
                                .price_in = {PRICE_IN},
                                .price_out = {PRICE_OUT},
                                .capacity = CAPACITY};
    struct vd_worker_config c = {.key = &t.key[WORKER_A + which],
                                 .home = home,
                                 .ledger = {HOST, vd_ledgerd_port(t.ledgerd), &t.key[LEDGER].pub},
                                 .gateway = &gateway,
                                 .n_gateways = 1,
                                 .model = &m,
                                 .n_models = 1,
                                 .stake = {20000000}};
    struct vd_gateway_stats s;
    uint64_t n_before, until = vd_clock_ms() + WAIT_MS;
    vd_gateway_get_stats(t.gateway, &s);
    n_before = s.n_workers;
    must(vd_worker_start(&t.worker[which], &c, &err), &err);
    do {
        vd_clock_sleep_ms(5);
        vd_gateway_get_stats(t.gateway, &s);
    } while (s.n_workers == n_before && vd_clock_ms() < until);
}

static void worker_down(int which)
{
    vd_worker_stop(t.worker[which]);
    t.worker[which] = NULL;
}

static void gateway_up(void)
{
    struct vd_error err;
    struct vd_gateway_model_config m = {"SmolLM2", t.path, t.root};
    struct vd_gateway_config c = {.key = &t.key[GATEWAY],
                                  .home = t.home,
                                  .ledger_host = HOST,
                                  .ledger_port = vd_ledgerd_port(t.ledgerd),
                                  .ledger_key = &t.key[LEDGER].pub,
                                  .listen_host = HOST,
                                  .http_host = HOST,
                                  .model = &m,
                                  .n_models = 1,
                                  .escrow = {t.escrow_micro},
                                  .settle_ms = 50,
                                  .key_parallel_max = KEY_PARALLEL,
                                  .receive_ms = RECEIVE_MS,
                                  .follower = &t.key[FOLLOWER].pub,
                                  .n_followers = 1,
                                  .connections_per_address_max = PER_ADDRESS};
    must(vd_gateway_start(&t.gateway, &c, &err), &err);
}

static int network_up(void **state)
{
    struct vd_error err;
    struct vd_api_key key;
    char ledger_dir[96];
    must(vd_key_init(&err), &err);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    snprintf(t.dir, sizeof t.dir, "/tmp/vd_gateway_test.XXXXXX");
    assert_non_null(mkdtemp(t.dir));
    snprintf(t.home, sizeof t.home, "%s/gateway", t.dir);
    snprintf(ledger_dir, sizeof ledger_dir, "%s/ledger", t.dir);
    make_genesis();
    t.escrow_micro = ESCROW;
    struct vd_ledgerd_config l = {
        .dir = ledger_dir, .genesis = &t.genesis, .key = &t.key[LEDGER], .host = HOST};
    must(vd_ledgerd_start(&t.ledgerd, &l, &err), &err);
    must(vd_pool_create(&t.pool[0], 2, &err), &err);
    must(vd_pool_create(&t.pool[1], 2, &err), &err);
    const struct vd_kern *kern = vd_kern_pick(NULL, &err);
    assert_non_null(kern);
    must(vd_model_open(&t.model, t.path, kern, t.pool[0], &err), &err);
    must(vd_model_root(t.model, t.pool[0], &t.root, &err), &err);
    must(vd_gateway_key_new(t.home, "first", VD_AMOUNT_ZERO, t.secret, &key, &err), &err);
    must(vd_gateway_key_new(t.home, "second", VD_AMOUNT_ZERO, t.other, &key, &err), &err);
    must(vd_gateway_key_new(t.home, "poor", vd_amount_micro(100), t.poor, &key, &err), &err);
    gateway_up();
    worker_up(0);
    return 0;
}

static int network_down(void **state)
{
    vd_gateway_stop(t.gateway);
    worker_down(0);
    worker_down(1);
    vd_ledgerd_stop(t.ledgerd);
    vd_model_close(t.model);
    vd_pool_destroy(t.pool[0]);
    vd_pool_destroy(t.pool[1]);
    vd_test_remove_dir(t.dir);
    curl_global_cleanup();
    return 0;
}

/* ---- HTTP ---- */

struct reply {
    CURLcode curl;
    long status;
    char *body;
    size_t n;
    char receipt[65], retry_after[16], replayed[8];
    size_t cut_after;        /* hang up after so many bytes; 0: never */
    const atomic_bool *stop; /* or when this says so */
    atomic_bool *began;      /* set with the body's first byte */
};

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    struct reply *r = arg;
    r->body = realloc(r->body, r->n + size * n + 1);
    memcpy(r->body + r->n, p, size * n);
    r->n += size * n;
    r->body[r->n] = 0;
    if (r->began)
        atomic_store(r->began, true);
    bool cut = (r->cut_after && r->n >= r->cut_after) || (r->stop && atomic_load(r->stop));
    return cut ? 0 : size * n;
}

static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
    struct reply *r = arg;
    char line[256];
    snprintf(line, sizeof line, "%.*s", (int)(size * n), p);
    line[strcspn(line, "\r\n")] = 0;
    if (strncasecmp(line, "X-Veridem-Receipt: ", 19) == 0)
        snprintf(r->receipt, sizeof r->receipt, "%.64s", line + 19);
    if (strncasecmp(line, "Retry-After: ", 13) == 0)
        snprintf(r->retry_after, sizeof r->retry_after, "%.15s", line + 13);
    if (strncasecmp(line, "Idempotent-Replayed: ", 21) == 0)
        snprintf(r->replayed, sizeof r->replayed, "%.7s", line + 21);
    return size * n;
}

static struct reply http_until(const char *path, const char *secret, const char *body, const char *extra,
                               struct reply r)
{
    char url[512], auth[128];
    CURL *c = curl_easy_init();
    struct curl_slist *h = NULL;
    snprintf(url, sizeof url, "http://" HOST ":%u%s", vd_gateway_http_port(t.gateway), path);
    snprintf(auth, sizeof auth, "Authorization: Bearer %s", secret ? secret : "");
    if (secret)
        h = curl_slist_append(h, auth);
    if (extra)
        h = curl_slist_append(h, extra);
    h = curl_slist_append(h, "Expect:");
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, h);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, &r);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, &r);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, 60000L);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    if (body)
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, body);
    r.curl = curl_easy_perform(c);
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &r.status);
    curl_slist_free_all(h);
    curl_easy_cleanup(c);
    if (!r.body)
        r.body = calloc(1, 1);
    return r;
}

/* body NULL: GET. `extra` is a header or NULL. */
static struct reply http(const char *path, const char *secret, const char *body, const char *extra,
                         size_t cut_after)
{
    return http_until(path, secret, body, extra, (struct reply){.cut_after = cut_after});
}

static struct reply post(const char *path, const char *body)
{
    return http(path, t.secret, body, NULL, 0);
}

static json_t *json_of(struct reply *r, long status)
{
    if (r->status != status)
        fail_msg("status %ld, expected %ld: %s", r->status, status, r->body);
    json_t *j = json_loads(r->body, 0, NULL);
    if (!j)
        fail_msg("no JSON: %s", r->body);
    free(r->body);
    r->body = NULL;
    return j;
}

/* An error with this status, code and param (NULL: any). */
static void expect_error(struct reply r, long status, const char *code, const char *param)
{
    const char *message, *type;
    json_t *p, *c;
    json_t *j = json_of(&r, status);
    assert_int_equal(json_unpack(j, "{s:{s:s, s:s, s:o, s:o}}", "error", "message", &message, "type", &type,
                                 "param", &p, "code", &c),
                     0);
    if (code)
        assert_string_equal(json_string_value(c), code);
    if (param)
        assert_string_equal(json_string_value(p), param);
    if (status == 503 || (status == 429 && strcmp(code, "rate_limit_exceeded") == 0))
        assert_true(atoi(r.retry_after) > 0);
    json_decref(j);
}

#define ASK(text, rest)                                                                                      \
    "{\"model\":\"SmolLM2\",\"messages\":[{\"role\":\"user\",\"content\":\"" text "\"}]" rest "}"
#define CHAT   "/v1/chat/completions"
#define GREEDY ",\"temperature\":0"

/* The answer's text, the caller's. */
static char *chat_text(struct reply *r)
{
    const char *content, *id;
    json_t *j = json_of(r, 200);
    assert_int_equal(json_unpack(j, "{s:[{s:{s:s}}], s:{s:s}}", "choices", "message", "content", &content,
                                 "veridem", "receipt_id", &id),
                     0);
    assert_string_equal(id, r->receipt);
    char *text = strdup(content);
    json_decref(j);
    return text;
}

/* Joins the deltas of a stream; *receipt from the last chunk. */
static char *stream_text(const struct reply *r, char receipt[65], bool *done)
{
    char *text = calloc(1, r->n + 1);
    *done = false;
    for (const char *at = strstr(r->body, "data: "); at;
         at = strstr(at + 1, "\ndata: ") ? strstr(at + 1, "\ndata: ") + 1 : NULL) {
        const char *content = NULL, *id = NULL;
        if (strncmp(at + 6, "[DONE]", 6) == 0) {
            *done = true;
            break;
        }
        json_t *j = json_loadb(at + 6, strcspn(at + 6, "\n"), 0, NULL);
        if (json_unpack(j, "{s:[{s:{s:s}}]}", "choices", "delta", "content", &content) == 0)
            strcat(text, content);
        if (json_unpack(j, "{s:{s:s}}", "veridem", "receipt_id", &id) == 0)
            snprintf(receipt, 65, "%.64s", id);
        json_decref(j);
    }
    return text;
}

static struct vd_gateway_stats stats(void)
{
    struct vd_gateway_stats s;
    vd_gateway_get_stats(t.gateway, &s);
    return s;
}

/* Waits until nothing runs and all is settled; then nothing may be reserved. */
static void settle(void)
{
    uint64_t until = vd_clock_ms() + WAIT_MS;
    struct vd_gateway_stats s = stats();
    while ((s.n_running || s.n_pending || s.unsettled.micro || s.reserved.micro) && vd_clock_ms() < until) {
        vd_clock_sleep_ms(5);
        s = stats();
    }
    assert_int_equal(s.n_running, 0);
    assert_int_equal(s.n_pending, 0);
    assert_int_equal(s.reserved.micro, 0);
    assert_int_equal(s.unsettled.micro, 0);
    assert_int_equal(s.n_refused, 0);
}

/* ---- tests ---- */

#define EMBED(input, rest) "{\"model\":\"SmolLM2\",\"input\":" input rest "}"

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
    char url[128];
    snprintf(url, sizeof url, "/v1/receipts/%.64s?format=file", receipt);
    struct reply file = http(url, t.secret, NULL, NULL, 0);
    struct vd_envelope e;
    struct vd_receipt got;
    uint32_t *tokens = malloc(file.n * sizeof *tokens);
    assert_int_equal(file.status, 200);
    assert_true(
        vd_envelope_decode((struct vd_bytes){(const uint8_t *)file.body, file.n}, &e, tokens, file.n));
    assert_int_equal(vd_envelope_check(&e, &got), VD_RECEIPT_OK);
    assert_int_equal(got.request.sampling.pooling, VD_POOLING_LAST);
    assert_int_equal(got.amount.micro, PRICE_IN * got.request.n_prompt);
    json_array_foreach(a, i, v)
    {
        assert_int_equal(vd_f32_bits((float)json_real_value(v)), e.output[i]);
    }
    free(tokens);
    free(file.body);
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
    assert_int_equal(r.status, 200);
    free(r.body);
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

static void test_large_bodies(void **state)
{
    size_t n = 3 << 20;
    char *big = malloc(n + 1);
    memset(big, ' ', n);
    big[n] = 0;
    struct reply r = post(CHAT, big);
    assert_int_equal(r.status, 413);
    free(r.body);
    r = http(CHAT, t.secret, big, "Transfer-Encoding: chunked", 0);
    assert_int_equal(r.status, 413);
    free(r.body);
    free(big);
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
    strcat(path, "?format=file");
    q = http(path, t.secret, NULL, NULL, 0);
    tokens = malloc((q.n + 1) * sizeof *tokens);
    assert_true(vd_envelope_decode((struct vd_bytes){(uint8_t *)q.body, q.n}, &env, tokens, q.n));
    assert_int_equal(vd_envelope_check(&env, &x), VD_RECEIPT_OK);
    assert_int_equal(x.n_output, n_out);
    assert_memory_equal(x.request.worker.b, t.key[WORKER_A].pub.b, 32);
    free(tokens);
    free(q.body);
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
    bool mixed;
    struct vd_gateway_stats before = stats();
    whole_choices(ASK("Name a colour.", ",\"seed\":5,\"max_tokens\":24,\"n\":11"), whole);
    streamed_choices(ASK("Name a colour.", ",\"seed\":5,\"max_tokens\":24,\"n\":11,\"stream\":true,"
                                           "\"stream_options\":{\"include_usage\":true}"),
                     streamed, &mixed);
    size_t n_equal = 0;
    for (size_t i = 0; i < CHOICES; i++) {
        assert_string_equal(whole[i], streamed[i]);
        n_equal += i > 0 && strcmp(whole[i], whole[0]) == 0;
        free(streamed[i]);
    }
    assert_true(mixed);
    assert_true(n_equal < CHOICES - 1);
    for (size_t i = 0; i < CHOICES; i++)
        free(whole[i]);
    settle();
    assert_int_equal(stats().n_answers, before.n_answers + 2 * CHOICES);
    /* A client that hangs up ends all of them. */
    before = stats();
    struct reply cut =
        http(CHAT, t.secret, ASK("Count.", ",\"max_tokens\":500,\"n\":3,\"stream\":true"), NULL, 600);
    free(cut.body);
    settle();
    assert_int_equal(stats().n_answers, before.n_answers + 3);
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
    struct vd_api_key key;
    struct vd_error err;
    must(vd_gateway_key_new(t.home, "cache1", VD_AMOUNT_ZERO, secret[0], &key, &err), &err);
    must(vd_gateway_key_new(t.home, "cache2", VD_AMOUNT_ZERO, secret[1], &key, &err), &err);
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

static void test_retries_are_not_billed_twice(void **state)
{
    const char *body = ASK("Say hello.", ",\"max_tokens\":12");
    struct vd_gateway_stats before = stats();
    struct reply a = http(CHAT, t.secret, body, "Idempotency-Key: k1", 0);
    struct reply b = http(CHAT, t.secret, body, "Idempotency-Key: k1", 0);
    assert_string_equal(a.replayed, "");
    assert_string_equal(b.replayed, "true");
    assert_string_equal(a.body, b.body);
    assert_string_equal(a.receipt, b.receipt);
    free(a.body);
    free(b.body);
    expect_error(http(CHAT, t.secret, ASK("Something else.", ""), "Idempotency-Key: k1", 0), 422,
                 "idempotency_key_reused", NULL);
    struct reply c = http(CHAT, t.other, body, "Idempotency-Key: k1", 0); /* another key's namespace */
    assert_int_equal(c.status, 200);
    assert_string_equal(c.replayed, "");
    free(c.body);
    struct vd_gateway_stats after = stats();
    assert_int_equal(after.n_answers, before.n_answers + 2);
    /* An answer that was delivered is not given again to an equal request that calls itself a retry. */
    a = http(CHAT, t.secret, ASK("Say hi.", ",\"max_tokens\":8"), NULL, 0);
    b = http(CHAT, t.secret, ASK("Say hi.", ",\"max_tokens\":8"), "X-Stainless-Retry-Count: 1", 0);
    assert_int_equal(b.status, 200);
    assert_string_not_equal(a.receipt, b.receipt);
    free(a.body);
    free(b.body);
}

/* A client that gives up waiting for a whole answer. */
static void hang_up_after(const char *body, long ms)
{
    char url[128], auth[128];
    CURL *c = curl_easy_init();
    struct curl_slist *h = NULL;
    struct reply lost = {.status = 0};
    snprintf(url, sizeof url, "http://" HOST ":%u" CHAT, vd_gateway_http_port(t.gateway));
    snprintf(auth, sizeof auth, "Authorization: Bearer %s", t.secret);
    h = curl_slist_append(h, auth);
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, h);
    curl_easy_setopt(c, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, &lost);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, ms);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    assert_int_equal(curl_easy_perform(c), CURLE_OPERATION_TIMEDOUT);
    curl_slist_free_all(h);
    curl_easy_cleanup(c);
    free(lost.body);
}

/* It asks again, and gets the answer that was finished for it. */
static void test_retry_after_a_lost_connection(void **state)
{
    const char *body = ASK("Write a long story about the sea.", ",\"max_tokens\":300,\"seed\":1");
    struct vd_gateway_stats before = stats();
    hang_up_after(body, 60);
    struct reply again = http(CHAT, t.secret, body, "X-Stainless-Retry-Count: 1", 0);
    assert_int_equal(again.status, 200);
    assert_string_equal(again.replayed, "true");
    free(again.body);
    assert_int_equal(stats().n_answers, before.n_answers + 1);
    settle();
}

/* What is not kept for a retry, nobody can get any more: it ends there. */
static void test_hang_up_before_the_first_byte(void **state)
{
    enum { N = 3, MOST = 300 };
    static const char *const body[] = {
        ASK("Write a long story about the sea.", ",\"max_tokens\":300,\"seed\":1,\"n\":3"),
        ASK("Write a long story about the sea.", ",\"max_tokens\":300,\"seed\":1,\"logprobs\":true")};
    for (size_t i = 0; i < 2; i++) {
        settle();
        struct vd_gateway_stats before = stats();
        uint32_t n = i == 0 ? N : 1;
        hang_up_after(body[i], 300);
        settle();
        struct vd_gateway_stats after = stats();
        assert_true(after.n_answers - before.n_answers <= n); /* one that said nothing yet has no receipt */
        assert_int_equal(after.n_cancelled - before.n_cancelled, after.n_answers - before.n_answers);
        assert_true(after.n_tokens_out - before.n_tokens_out < n * MOST);
        assert_true(before.escrow_balance.micro - after.escrow_balance.micro < n * MOST * PRICE_OUT);
    }
}

static void test_hang_up_in_mid_stream(void **state)
{
    struct vd_gateway_stats before = stats();
    struct reply r =
        http(CHAT, t.secret, ASK("Write a long story.", ",\"max_tokens\":1000,\"stream\":true,\"seed\":3"),
             NULL, 1000);
    free(r.body);
    settle();
    struct vd_gateway_stats after = stats();
    assert_int_equal(after.n_cancelled, before.n_cancelled + 1);
    uint64_t paid = before.escrow_balance.micro - after.escrow_balance.micro;
    assert_true(paid > 0 && paid < 1000 * PRICE_OUT);
    struct reply next = post(CHAT, ASK("Still there?", ",\"max_tokens\":4"));
    assert_int_equal(next.status, 200);
    free(next.body);
}

struct asker {
    const char *path; /* NULL: CHAT */
    const char *body, *secret;
    atomic_bool stop; /* a stream */
    atomic_bool began;
    struct reply r;
};

static void *ask(void *arg)
{
    struct asker *a = arg;
    a->r = http_until(a->path ? a->path : CHAT, t.secret, a->body, NULL, (struct reply){.began = &a->began});
    return NULL;
}

static int dial_http(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(vd_gateway_http_port(t.gateway))};
    struct timeval patience = {5 * RECEIVE_MS / 1000, 0};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
}

/* Bytes now and then keep no connection open, and one address does not get all connections. */
static void test_slow_clients(void **state)
{
    char byte;
    int fd[PER_ADDRESS + 1];
    for (int i = 0; i <= PER_ADDRESS; i++)
        fd[i] = dial_http();
    uint64_t begun_ms = vd_clock_ms();
    assert_int_equal(recv(fd[PER_ADDRESS], &byte, 1, 0), 0);
    assert_true(vd_clock_ms() - begun_ms < RECEIVE_MS / 2);
    while (vd_clock_ms() - begun_ms < RECEIVE_MS / 2) {
        assert_int_equal(send(fd[0], "G", 1, MSG_NOSIGNAL), 1);
        vd_clock_sleep_ms(RECEIVE_MS / 10);
    }
    for (int i = 0; i < PER_ADDRESS; i++)
        assert_true(recv(fd[i], &byte, 1, 0) == 0 || errno == ECONNRESET);
    assert_true(vd_clock_ms() - begun_ms < 4 * RECEIVE_MS);
    for (int i = 0; i <= PER_ADDRESS; i++)
        close(fd[i]);
    uint64_t until = vd_clock_ms() + WAIT_MS;
    struct reply r = http("/health", NULL, NULL, NULL, 0);
    while (r.status != 200 && vd_clock_ms() < until) {
        free(r.body);
        r = http("/health", NULL, NULL, NULL, 0);
    }
    assert_int_equal(r.status, 200);
    free(r.body);
}

/* A client that never reads its stream holds neither the worker's place nor the money once the worker has
 * ended: it counts as one that hung up, and pays for all of it. */
static void test_a_client_that_does_not_read(void **state)
{
    static const char body[] =
        "{\"model\":\"SmolLM2\",\"prompt\":\"1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\",\"temperature\":0,"
        "\"max_tokens\":300,\"stream\":true,\"logprobs\":20}";
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(vd_gateway_http_port(t.gateway))};
    char head[512];
    int fd = socket(AF_INET, SOCK_STREAM, 0), small = 1,
        far = 536; /* as over a network: little is buffered */
    uint64_t until = vd_clock_ms() + 2 * WAIT_MS;
    assert_true(fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small) == 0);
    assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &far, sizeof far), 0);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    int n = snprintf(head, sizeof head,
                     "POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
                     "Content-Length: %zu\r\n\r\n",
                     t.secret, sizeof body - 1);
    assert_int_equal(send(fd, head, (size_t)n, MSG_NOSIGNAL), n);
    assert_int_equal(send(fd, body, sizeof body - 1, MSG_NOSIGNAL), sizeof body - 1);
    uint64_t tokens = stats().n_tokens_out;
    while (stats().n_running == 0 && vd_clock_ms() < until)
        vd_clock_sleep_ms(5);
    while (stats().n_running && vd_clock_ms() < until)
        vd_clock_sleep_ms(20);
    assert_int_equal(stats().n_running, 0);
    assert_int_equal(stats().n_tokens_out, tokens + 300);
    settle();
    close(fd);
}

static void send_all(int fd, const char *p, size_t n)
{
    for (ssize_t some; n > 0; p += some, n -= (size_t)some) {
        some = send(fd, p, n, MSG_NOSIGNAL);
        assert_true(some > 0);
    }
}

/* Sends a request of 15 MiB, more than sockets hold, of which the body only if it does not `ask` whether to,
 * before it reads. */
static void expect_status(const char *secret, bool ask, const char *status)
{
    const size_t n = 15 << 20;
    char head[512], got[64] = {0};
    char *body = calloc(1, n);
    int fd = dial_http();
    snprintf(head, sizeof head,
             "POST " CHAT " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %zu\r\n%s\r\n",
             secret, n, ask ? "Expect: 100-continue\r\n" : "");
    send_all(fd, head, strlen(head));
    if (!ask)
        send_all(fd, body, n);
    assert_int_equal(recv(fd, got, strlen(status), MSG_WAITALL), strlen(status));
    assert_string_equal(got, status);
    close(fd);
    free(body);
}

/* What is refused by its head is told so also if it reads nothing before it has sent all. */
static void test_who_reads_last(void **state)
{
    expect_status(t.secret, false, "HTTP/1.1 413");
    expect_status("vd-wrong", false, "HTTP/1.1 401");
    expect_status(t.secret, true, "HTTP/1.1 413");
}

static void test_limits_of_a_key(void **state)
{
    struct asker a[KEY_PARALLEL + 3];
    pthread_t thread[KEY_PARALLEL + 3];
    int n_ok = 0, n_limited = 0;
    for (int i = 0; i < KEY_PARALLEL + 3; i++) {
        a[i] = (struct asker){.body = ASK("Write a poem.", ",\"max_tokens\":48,\"seed\":5")};
        pthread_create(&thread[i], NULL, ask, &a[i]);
    }
    for (int i = 0; i < KEY_PARALLEL + 3; i++) {
        pthread_join(thread[i], NULL);
        n_ok += a[i].r.status == 200;
        if (a[i].r.status == 429) {
            n_limited++;
            expect_error(a[i].r, 429, "rate_limit_exceeded", NULL);
        } else {
            free(a[i].r.body);
        }
    }
    assert_true(n_ok >= KEY_PARALLEL && n_limited >= 1);
    assert_int_equal(n_ok + n_limited, KEY_PARALLEL + 3);
    expect_error(http(CHAT, t.poor, ASK("hi", ""), NULL, 0), 429, "insufficient_quota", NULL);
    settle();
    struct vd_gateway_stats before = stats(); /* one choice could be paid for, three could not: none is */
    expect_error(http(CHAT, t.poor, ASK("hi", ",\"max_tokens\":6,\"n\":3"), NULL, 0), 429,
                 "insufficient_quota", NULL);
    settle();
    assert_int_equal(stats().n_answers, before.n_answers);
    assert_int_equal(stats().escrow_balance.micro, before.escrow_balance.micro);
    struct reply one = http(CHAT, t.poor, ASK("hi", ",\"max_tokens\":6"), NULL, 0);
    assert_int_equal(one.status, 200);
    free(one.body);
    settle();
}

static struct reply post_as(const char *path, const char *secret, const char *body)
{
    return http(path, secret, body, NULL, 0);
}

static void *ask_as(void *arg)
{
    struct asker *a = arg;
    a->r = http_until(CHAT, a->secret, a->body, NULL, (struct reply){.stop = &a->stop});
    return NULL;
}

static uint64_t n_prompt_of(const char *path, const char *body)
{
    json_int_t n;
    struct reply r = post(path, body);
    json_t *j = json_of(&r, 200);
    assert_int_equal(json_unpack(j, "{s:{s:I}}", "usage", "prompt_tokens", &n), 0);
    json_decref(j);
    return (uint64_t)n;
}

static void key_with_limit(const char *label, uint64_t micro, char secret[VD_API_KEY_TEXT_MAX])
{
    struct vd_api_key key;
    struct vd_error err;
    must(vd_gateway_key_new(t.home, label, vd_amount_micro(micro), secret, &key, &err), &err);
}

/* What a request can cost is taken from its key's limit before its first job is given away: of the choices
 * that wait for others too, and of all inputs of an embedding. */
static void test_a_limit_holds_for_requests_at_once(void **state)
{
    enum { N = 16, MOST = 400 };
    char secret[VD_API_KEY_TEXT_MAX];
    uint64_t prompt = n_prompt_of(CHAT, ASK("Write a long story about the sea.", ",\"max_tokens\":1"));
    uint64_t one = prompt * PRICE_IN + MOST * PRICE_OUT, until = vd_clock_ms() + WAIT_MS;
    key_with_limit("sixteen", N * one, secret);
    settle();
    struct asker a = {
        /* 0 and 2 end an answer, and one that ends early gives back what others can use */
        .body = ASK("Write a long story about the sea.",
                    ",\"max_tokens\":400,\"n\":16,\"stream\":true,\"logit_bias\":{\"0\":-100,\"2\":-100}"),
        .secret = secret};
    pthread_t thread;
    pthread_create(&thread, NULL, ask_as, &a);
    uint64_t reserved = 0;
    while ((reserved = stats().reserved.micro) == 0 && vd_clock_ms() < until)
        vd_clock_sleep_ms(1);
    assert_int_equal(reserved, N * one);
    while (stats().n_running < CAPACITY && vd_clock_ms() < until) /* who comes now has to wait */
        vd_clock_sleep_ms(1);
    expect_error(post_as(CHAT, secret, ASK("Hello.", ",\"max_tokens\":40")), 429, "insufficient_quota", NULL);
    atomic_store(&a.stop, true);
    pthread_join(thread, NULL);
    assert_int_equal(a.r.status, 200);
    free(a.r.body);
    settle();
    prompt = n_prompt_of("/v1/embeddings", EMBED("\"the sea\"", ""));
    key_with_limit("inputs", 2 * prompt * PRICE_IN - 1, secret);
    settle();
    struct vd_gateway_stats before = stats();
    expect_error(post_as("/v1/embeddings", secret, EMBED("[\"the sea\",\"the sea\"]", "")), 429,
                 "insufficient_quota", NULL);
    expect_error(post_as("/v1/embeddings", secret, EMBED("[\"the sea\",\"\"]", "")), 400, NULL, NULL);
    settle();
    assert_int_equal(stats().n_answers, before.n_answers);
    struct reply r = post_as("/v1/embeddings", secret, EMBED("\"the sea\"", ""));
    assert_int_equal(r.status, 200);
    free(r.body);
    settle();
}

/* The worker goes away in mid-answer; another says the same and goes on. */
static void test_worker_vanishes(void **state)
{
    char receipt[65], *whole, *streamed;
    bool done;
    struct asker a = {.body = ASK("Explain the sun.", GREEDY ",\"max_tokens\":200,\"stream\":true")};
    struct reply w = post(CHAT, ASK("Explain the sun.", GREEDY ",\"max_tokens\":200"));
    whole = chat_text(&w);
    struct vd_gateway_stats before = stats();
    pthread_t thread;
    pthread_create(&thread, NULL, ask, &a);
    while (stats().n_running == 0)
        vd_clock_sleep_ms(1);
    vd_clock_sleep_ms(200);
    worker_up(1);
    worker_down(0);
    pthread_join(thread, NULL);
    assert_int_equal(a.r.status, 200);
    streamed = stream_text(&a.r, receipt, &done);
    assert_string_equal(streamed, whole);
    assert_true(done);
    free(a.r.body);
    free(streamed);
    free(whole);
    struct vd_gateway_stats after = stats();
    if (after.n_resumed != before.n_resumed + 1)
        print_message("the answer was over before the worker left: nothing was resumed\n");
    settle();
}

static void test_no_worker(void **state)
{
    if (t.worker[0])
        worker_down(0);
    if (t.worker[1])
        worker_down(1);
    expect_error(post(CHAT, ASK("hi", ",\"max_tokens\":4")), 503, "no_worker", NULL);
    struct reply r = http("/health", NULL, NULL, NULL, 0);
    assert_int_equal(r.status, 503);
    free(r.body);
    settle();
    worker_up(0);
}

static void test_restart_of_the_gateway(void **state)
{
    struct reply r = post(CHAT, ASK("Before.", ",\"max_tokens\":4"));
    char path[160];
    snprintf(path, sizeof path, "/v1/receipts/%s", r.receipt);
    assert_int_equal(r.status, 200);
    free(r.body);
    worker_down(0);
    vd_gateway_stop(t.gateway);
    gateway_up();
    worker_up(0);
    r = http(path, t.secret, NULL, NULL, 0);
    assert_int_equal(r.status, 200);
    free(r.body);
    r = post(CHAT, ASK("After.", ",\"max_tokens\":4")); /* a sequence that was not used */
    assert_int_equal(r.status, 200);
    free(r.body);
    settle();
}

/* ---- escrows of others ---- */

static struct vd_ledger_client *client_of(int role)
{
    return vd_test_ledger_client((struct vd_ledger_client_config){.arg = NULL}, &t.key[role],
                                 vd_ledgerd_port(t.ledgerd), &t.key[LEDGER].pub, VD_ROLE_CLIENT);
}

/* As a role that sends nothing else at the moment. */
static struct vd_hash send_as(int role, struct vd_tx tx)
{
    struct vd_error err;
    struct vd_ledger_outcome o;
    struct vd_ledger_client *c = client_of(role);
    must(vd_ledger_client_send(c, &tx, WAIT_MS, &o, &err), &err);
    vd_ledger_client_stop(c);
    return o.tx_id;
}

static bool note_first(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    struct vd_hash *id = arg;
    assert_int_equal(key.n, 1 + VD_PUBKEY_BYTES + VD_HASH_BYTES);
    memcpy(id->b, key.p + 1 + VD_PUBKEY_BYTES, VD_HASH_BYTES);
    return false;
}

/* Of the gateway, while it is down; from now on it opens none. */
static void close_own_escrow(void)
{
    struct vd_error err;
    struct vd_tx tx = {.kind = VD_TX_ESCROW_CLOSE};
    struct vd_ledger_client *c = client_of(GATEWAY);
    struct vd_state_key all =
        vd_state_key_make(VD_INDEX_GATEWAY_ESCROW, t.key[GATEWAY].pub.b, VD_PUBKEY_BYTES, NULL);
    must(vd_ledger_client_list(c, &all, note_first, &tx.u.escrow_close.escrow_id, &err), &err);
    vd_ledger_client_stop(c);
    send_as(GATEWAY, tx);
    t.escrow_micro = 0;
}

static struct vd_hash open_escrow(uint64_t micro)
{
    struct vd_tx tx = {.kind = VD_TX_ESCROW_OPEN, .u.escrow_open = {t.key[GATEWAY].pub, {micro}}};
    return send_as(FOLLOWER, tx);
}

/* Anybody may open escrows that name this gateway, of next to nothing. */
static void open_crumbs(void)
{
    static struct vd_tx tx[VD_LEDGER_SEND_MAX];
    struct vd_ledger_sending s[VD_LEDGER_SEND_MAX];
    struct vd_ledger_client *c = client_of(FOLLOWER);
    for (size_t n = 0; n < 256; n += VD_LEDGER_SEND_MAX) {
        memset(s, 0, sizeof s);
        for (size_t i = 0; i < VD_LEDGER_SEND_MAX; i++) {
            tx[i] = (struct vd_tx){.kind = VD_TX_ESCROW_OPEN, .u.escrow_open = {t.key[GATEWAY].pub, {1}}};
            s[i].tx = &tx[i];
        }
        vd_ledger_client_send_all(c, s, VD_LEDGER_SEND_MAX, WAIT_MS);
        for (size_t i = 0; i < VD_LEDGER_SEND_MAX; i++)
            must(s[i].result, &s[i].err);
    }
    vd_ledger_client_stop(c);
}

static bool health_says(const char *what)
{
    struct reply r = http("/health", NULL, NULL, NULL, 0);
    bool says = strstr(r.body, what) != NULL;
    free(r.body);
    return says;
}

/* Until there is an escrow that covers it. */
static void ask_until_paid(const char *text)
{
    char body[256];
    uint64_t until = vd_clock_ms() + WAIT_MS;
    struct reply r = {.status = 503};
    snprintf(body, sizeof body,
             "{\"model\":\"SmolLM2\",\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}],\"max_tokens\":4}",
             text);
    while (r.status == 503 && vd_clock_ms() < until) {
        free(r.body);
        vd_clock_sleep_ms(20);
        r = post(CHAT, body);
    }
    if (r.status != 200)
        fail_msg("%ld %s", r.status, r.body);
    free(r.body);
}

/* An escrow is closed while an answer is made, which is settled all the same; when another is opened, the
 * gateway goes on with that: it finds them among any number of others. */
static void test_an_escrow_that_is_closed(void **state)
{
    struct asker a = {.body = ASK("Count to a hundred.", ",\"max_tokens\":150,\"seed\":1")};
    pthread_t thread;
    worker_down(0);
    vd_gateway_stop(t.gateway);
    close_own_escrow();
    struct vd_tx close_it = {.kind = VD_TX_ESCROW_CLOSE, .u.escrow_close = {open_escrow(ESCROW)}};
    gateway_up();
    worker_up(0);
    uint64_t until = vd_clock_ms() + WAIT_MS;
    while (!health_says("\"ok\"") && vd_clock_ms() < until)
        vd_clock_sleep_ms(20);
    pthread_create(&thread, NULL, ask, &a);
    while (stats().n_running == 0 && vd_clock_ms() < until)
        vd_clock_sleep_ms(5);
    send_as(FOLLOWER, close_it);
    while (!health_says("no escrow") && vd_clock_ms() < until)
        vd_clock_sleep_ms(5);
    uint64_t n_running = stats().n_running;
    pthread_join(thread, NULL);
    assert_int_equal(n_running, 1);
    assert_int_equal(a.r.status, 200);
    free(a.r.body);
    vd_clock_sleep_ms(500); /* it is settled now */
    open_crumbs();
    open_escrow(ESCROW);
    ask_until_paid("And now?");
    settle();
}

struct escrows {
    struct vd_ledger_client *c;
    size_t n, n_own;
};

static bool check_escrow(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    struct escrows *s = arg;
    struct vd_escrow x;
    struct vd_hash id;
    memcpy(id.b, key.p + 1 + VD_PUBKEY_BYTES, VD_HASH_BYTES);
    must(vd_ledger_client_escrow(s->c, &id, &x, NULL), &(struct vd_error){.msg = "no escrow"});
    bool own = vd_pubkey_eq(&x.owner, &t.key[GATEWAY].pub);
    s->n++;
    s->n_own += own && !x.end_height;
    assert_true(own || x.deposited.micro == 1 || x.deposited.micro == ESCROW);
    return true;
}

/* Whoever opens an escrow that names a gateway owns what is in it: the gateway never pays into it, but opens
 * one of its own as soon as it has the credits. */
static void test_nothing_is_paid_into_others_escrows(void **state)
{
    struct vd_error err;
    struct escrows s = {.c = client_of(FOLLOWER)};
    struct vd_state_key all =
        vd_state_key_make(VD_INDEX_GATEWAY_ESCROW, t.key[GATEWAY].pub.b, VD_PUBKEY_BYTES, NULL);
    worker_down(0);
    vd_gateway_stop(t.gateway);
    t.escrow_micro = 6 * ESCROW; /* of which the other's is less than a quarter */
    gateway_up();
    worker_up(0);
    uint64_t until = vd_clock_ms() + WAIT_MS;
    while (!health_says("\"ok\"") && vd_clock_ms() < until)
        vd_clock_sleep_ms(20);
    ask_until_paid("And mine?");
    settle();
    must(vd_ledger_client_list(s.c, &all, check_escrow, &s, &err), &err);
    vd_ledger_client_stop(s.c);
    assert_true(s.n > 256);
    assert_int_equal(s.n_own, 1);
}

/* Whoever waits is told, in the form that it expects. */
static void test_stop_under_way(void **state)
{
    static const char endless[] = "{\"model\":\"SmolLM2\",\"prompt\":\"1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\","
                                  "\"temperature\":0,\"max_tokens\":1500}";
    static const char streamed[] = "{\"model\":\"SmolLM2\",\"prompt\":\"1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\","
                                   "\"temperature\":0,\"max_tokens\":1500,\"stream\":true}";
    struct asker a[2] = {{.path = "/v1/completions", .body = streamed},
                         {.path = "/v1/completions", .body = endless}};
    pthread_t thread[2];
    for (int i = 0; i < 2; i++)
        pthread_create(&thread[i], NULL, ask, &a[i]);
    uint64_t until = vd_clock_ms() + WAIT_MS;
    while ((stats().n_running < 2 || !atomic_load(&a[0].began)) && vd_clock_ms() < until)
        vd_clock_sleep_ms(5);
    vd_gateway_stop(t.gateway);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    gateway_up();
    worker_down(0);
    worker_up(0);
    assert_int_equal(a[0].r.status, 200);
    assert_int_equal(a[1].r.status, 503);
    assert_string_equal(a[1].r.retry_after, "5");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(a[i].r.curl, CURLE_OK); /* not cut off */
        assert_non_null(strstr(a[i].r.body, "shutting_down"));
        free(a[i].r.body);
    }
    settle();
}

/* A verifier's link gets envelopes; a stranger's does not get those of a private receipt, and unknown ids are
 * refused. */
struct audit {
    pthread_mutex_t mu;
    pthread_cond_t changed;
    struct vd_gateway *g;
    unsigned type;
    size_t n;
    bool greeted;
};

static void audit_frame(void *arg, struct vd_link *l, unsigned type, struct vd_bytes body)
{
    struct audit *a = arg;
    (void)l;
    pthread_mutex_lock(&a->mu);
    if (type == VD_WIRE_HELLO) {
        a->greeted = true;
    } else {
        a->type = type;
        a->n = body.n;
    }
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->mu);
}

static unsigned audit_get(struct vd_link *l, struct audit *a, const struct vd_hash *id)
{
    uint8_t buf[64];
    struct vd_wire_audit_get m = {*id};
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    vd_wire_put_audit_get(&w, &m);
    pthread_mutex_lock(&a->mu);
    a->type = 0;
    vd_link_send(l, VD_WIRE_AUDIT_GET, buf, w.n_bytes, NULL);
    while (!a->type)
        pthread_cond_wait(&a->changed, &a->mu);
    unsigned type = a->type;
    pthread_mutex_unlock(&a->mu);
    return type;
}

static struct vd_link *audit_link(struct audit *a, int who, enum vd_wire_role role)
{
    static struct vd_wire_hello hello;
    static uint8_t buf[512];
    struct vd_link_config c = {.key = &t.key[who], .cb = {.arg = a, .on_frame = audit_frame}};
    struct vd_link *l;
    struct vd_error err;
    pthread_mutex_init(&a->mu, NULL);
    pthread_cond_init(&a->changed, NULL);
    must(vd_link_dial(&l, &c, HOST, vd_gateway_link_port(t.gateway), &t.key[GATEWAY].pub, &err), &err);
    hello = (struct vd_wire_hello){.role = role, .arithmetic = VD_ARITH_VERSION};
    must(vd_genesis_network_hash(&t.genesis, &hello.genesis, &err), &err);
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    assert_true(vd_wire_put_hello(&w, &hello));
    vd_link_send(l, VD_WIRE_HELLO, buf, w.n_bytes, NULL);
    return l;
}

static void test_audits(void **state)
{
    struct audit a = {.type = 0};
    struct reply r = post(CHAT, ASK("Audit me.", ",\"max_tokens\":4"));
    struct vd_hash id, unknown = {{1}};
    assert_true(vd_hex_decode(id.b, 32, r.receipt));
    free(r.body);
    struct vd_link *l = audit_link(&a, WORKER_B, VD_ROLE_VERIFIER);
    assert_int_equal(audit_get(l, &a, &id), VD_WIRE_AUDIT_DATA);
    assert_int_equal(audit_get(l, &a, &unknown), VD_WIRE_REFUSE);
    vd_link_finish(l);
}

/* n disputes about the receipt; false if its window has passed meanwhile. */
static bool challenge(struct vd_ledger_client *c, const struct vd_hash *receipt_id, size_t n)
{
    struct vd_tx tx[VD_LEDGER_SEND_MAX];
    struct vd_ledger_sending s[VD_LEDGER_SEND_MAX];
    bool all = true;
    for (size_t i = 0; i < n; i++) {
        tx[i] = (struct vd_tx){.kind = VD_TX_CHALLENGE, .u.challenge.receipt_id = *receipt_id};
        s[i] = (struct vd_ledger_sending){.tx = &tx[i]};
    }
    vd_ledger_client_send_all(c, s, n, WAIT_MS);
    for (size_t i = 0; i < n; i++)
        all &= s[i].result == VD_OK;
    return all;
}

/* Who challenged a receipt gets its data, though it has no stake and many others challenged it too. */
static void test_a_challenger_gets_the_data(void **state)
{
    enum { OTHERS = 24, TRIES = 10 };
    struct vd_ledger_client *mine = client_of(FOLLOWER), *others = client_of(LEDGER);
    struct audit a = {.type = 0};
    struct vd_link *l = audit_link(&a, FOLLOWER, VD_ROLE_CLIENT);
    struct vd_hash id;
    bool open = false;
    for (int i = 0; !open && i < TRIES; i++) {
        struct vd_receipt_record record;
        struct reply r = post(CHAT, ASK("Challenge me.", ",\"max_tokens\":2"));
        assert_true(vd_hex_decode(id.b, 32, r.receipt));
        free(r.body);
        uint64_t until = vd_clock_ms() + WAIT_MS;
        while (vd_ledger_client_receipt(others, &id, &record, NULL) != VD_OK && vd_clock_ms() < until)
            vd_clock_sleep_ms(5);
        open = challenge(others, &id, OTHERS);
        assert_int_equal(audit_get(l, &a, &id), VD_WIRE_REFUSE);
        open = open && challenge(mine, &id, 1);
    }
    assert_true(open);
    assert_int_equal(audit_get(l, &a, &id), VD_WIRE_AUDIT_DATA);
    vd_link_finish(l);
    vd_ledger_client_stop(mine);
    vd_ledger_client_stop(others);
}

/* A worker with a stake that lies: what it sends is refused, it is not paid, and nobody countersigns for it.
 */
struct liar {
    pthread_mutex_t mu;
    bool says_tokens; /* else an id that the vocabulary does not have */
    const uint32_t
        *stream; /* or these, with a statement of another commit root behind each 64th, and no end */
    uint32_t n_stream;
    bool leaves;        /* behind the stream */
    unsigned refuse_ms; /* refuses a job to resume after so long, and says nothing before; 0: it does not */
    const struct vd_keypair *key; /* NULL: WORKER_B's */
    enum { FITS, BAD_SIGNATURE, BAD_ROOT, BAD_NUMBER, BAD_JOB } statement;
    bool refuses; /* says that it is wrong itself */
    unsigned n_jobs, n_accepts;
    struct vd_error why; /* its link ended */
};

static void liar_send(struct vd_link *l, unsigned type, const struct vd_pb_writer *w)
{
    assert_false(w->overflow);
    vd_link_send(l, type, w->p, w->n_bytes, NULL);
}

/* As many tokens as were asked for, and a receipt that is right but for a root of other tokens. */
static void liar_answers(struct vd_link *l, const struct vd_wire_job *m, const struct vd_request *q)
{
    static const uint32_t said[3] = {100, 101, 102}, signed_for[3] = {100, 101, 103};
    uint8_t buf[VD_RECEIPT_MAX_BYTES + 256], body[VD_RECEIPT_MAX_BYTES];
    struct vd_wire_token t1 = {.job = vd_sha256_of(m->request.p, m->request.n), .ids = {said, 3}};
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    assert_int_equal(q->max_tokens, 3);
    vd_wire_put_token(&w, &t1);
    liar_send(l, VD_WIRE_TOKEN, &w);
    struct vd_receipt r = {.request = *q,
                           .output_root = vd_token_root(m->salt.b, q->n_prompt, signed_for, 3),
                           .n_output = 3,
                           .finish = VD_FINISH_LENGTH,
                           .commit_root = {{1}}};
    assert_true(vd_request_amount(q, 3, &r.amount));
    struct vd_wire_receipt x = {.job = t1.job, .receipt = {body, vd_receipt_encode(&r, body, sizeof body)}};
    vd_key_sign(&x.worker_sig, &t.key[WORKER_B], VD_TAG_RECEIPT, body, x.receipt.n);
    w = vd_pb_writer_init(buf, sizeof buf);
    vd_wire_put_receipt(&w, &x);
    liar_send(l, VD_WIRE_RECEIPT, &w);
}

static void liar_streams(const struct liar *a, struct vd_link *l, const struct vd_wire_job *m,
                         const struct vd_request *q)
{
    uint8_t buf[512], body[VD_PREFIX_MAX_BYTES];
    struct vd_wire_token one = {.job = vd_sha256_of(m->request.p, m->request.n)};
    for (uint32_t i = 0; i < a->n_stream; i++) {
        one.index = i;
        one.ids = (struct vd_wire_tokens){&a->stream[i], 1};
        struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
        vd_wire_put_token(&w, &one);
        liar_send(l, VD_WIRE_TOKEN, &w);
        if ((i + 1) % VD_PREFIX_EVERY_TOK)
            continue;
        struct vd_receipt_prefix p = {.job_id = one.job,
                                      .n_output = i + 1,
                                      .output_root = vd_token_root(m->salt.b, q->n_prompt, a->stream, i + 1),
                                      .commit_root = {{1}}};
        p.job_id.b[0] ^= a->statement == BAD_JOB;
        p.output_root.b[0] ^= a->statement == BAD_ROOT;
        if (a->statement == BAD_NUMBER)
            p.output_root = vd_token_root(m->salt.b, q->n_prompt, a->stream, --p.n_output);
        struct vd_wire_prefix x = {.job = one.job,
                                   .statement = {body, vd_receipt_prefix_encode(&p, body, sizeof body)}};
        vd_key_sign(&x.worker_sig, &t.key[a->statement == BAD_SIGNATURE ? WORKER_A : WORKER_B], VD_TAG_PREFIX,
                    body, x.statement.n);
        w = vd_pb_writer_init(buf, sizeof buf);
        vd_wire_put_prefix(&w, &x);
        liar_send(l, VD_WIRE_PREFIX, &w);
    }
}

static void liar_frame(void *arg, struct vd_link *l, unsigned type, struct vd_bytes body)
{
    struct liar *a = arg;
    struct vd_wire_job m;
    struct vd_request q;
    pthread_mutex_lock(&a->mu);
    a->n_jobs += type == VD_WIRE_JOB;
    a->n_accepts += type == VD_WIRE_ACCEPT;
    pthread_mutex_unlock(&a->mu);
    if (type != VD_WIRE_JOB)
        return;
    void *memory = malloc(4 * body.n + 8);
    struct vd_arena arena = vd_arena_init(memory, 4 * body.n + 8);
    assert_true(vd_wire_get_job(&m, body, &arena));
    assert_int_equal(vd_request_decode(m.request, &q), VD_RECEIPT_OK);
    if (a->refuses) {
        uint8_t buf[64];
        struct vd_wire_refuse no = {.what = vd_sha256_of(m.request.p, m.request.n), .code = VD_REFUSE_WRONG};
        struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
        vd_wire_put_refuse(&w, &no);
        liar_send(l, VD_WIRE_REFUSE, &w);
    } else if (a->stream) {
        liar_streams(a, l, &m, &q);
        if (a->leaves)
            vd_link_close(l, VD_OK, "");
    } else if (a->refuse_ms) {
        uint8_t buf[256];
        struct vd_wire_refuse no = {.what = vd_sha256_of(m.request.p, m.request.n), .code = VD_REFUSE_RESUME};
        struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
        assert_true(m.resume.n > 0);
        vd_clock_sleep_ms(a->refuse_ms);
        vd_wire_put_refuse(&w, &no);
        liar_send(l, VD_WIRE_REFUSE, &w);
    } else if (a->says_tokens) {
        liar_answers(l, &m, &q);
    } else {
        uint8_t buf[64];
        uint32_t id = vd_model_program(t.model)->vocab;
        struct vd_wire_token bad = {.job = vd_sha256_of(m.request.p, m.request.n), .ids = {&id, 1}};
        struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
        vd_wire_put_token(&w, &bad);
        liar_send(l, VD_WIRE_TOKEN, &w);
    }
    free(memory);
}

static void liar_close(void *arg, struct vd_link *l, const struct vd_error *why)
{
    struct liar *a = arg;
    (void)l;
    pthread_mutex_lock(&a->mu);
    a->why = *why;
    pthread_mutex_unlock(&a->mu);
}

/* The gateway's last word may come behind the client's answer. */
static void liar_is_told(struct liar *a)
{
    uint64_t until = vd_clock_ms() + WAIT_MS;
    bool told = false;
    while (!told && vd_clock_ms() < until) {
        pthread_mutex_lock(&a->mu);
        told = a->why.code != VD_OK;
        pthread_mutex_unlock(&a->mu);
        vd_clock_sleep_ms(2);
    }
}

/* Links and says hello, and waits until the gateway counts one more worker or verifier. */
static struct vd_link *link_as(const struct vd_link_config *c, struct vd_wire_hello *hello)
{
    bool worker = hello->role == VD_ROLE_WORKER;
    uint8_t buf[512];
    struct vd_link *l;
    struct vd_error err;
    struct vd_gateway_stats s = stats();
    uint64_t n = worker ? s.n_workers : s.n_verifiers, until = vd_clock_ms() + WAIT_MS;
    must(vd_link_dial(&l, c, HOST, vd_gateway_link_port(t.gateway), &t.key[GATEWAY].pub, &err), &err);
    hello->arithmetic = VD_ARITH_VERSION;
    must(vd_genesis_network_hash(&t.genesis, &hello->genesis, &err), &err);
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    assert_true(vd_wire_put_hello(&w, hello));
    liar_send(l, VD_WIRE_HELLO, &w);
    while (s = stats(), (worker ? s.n_workers : s.n_verifiers) == n && vd_clock_ms() < until)
        vd_clock_sleep_ms(5);
    return l;
}

/* Links as a worker that is cheaper than the honest one, so that it gets the job. */
static struct vd_link *liar_up(struct liar *a)
{
    static struct vd_wire_hello hello;
    struct vd_link_config c = {.key = a->key ? a->key : &t.key[WORKER_B],
                               .cb = {.arg = a, .on_frame = liar_frame, .on_close = liar_close}};
    hello = (struct vd_wire_hello){.role = VD_ROLE_WORKER, .n_offers = 1};
    hello.offer[0] = (struct vd_wire_offer){t.root, 1, {PRICE_IN}, {PRICE_OUT - 1}, 2048};
    return link_as(&c, &hello);
}

static void test_a_token_outside_the_vocabulary(void **state)
{
    struct liar a = {.says_tokens = false};
    pthread_mutex_init(&a.mu, NULL);
    struct vd_link *l = liar_up(&a);
    struct reply r = post(CHAT, ASK("Say hello.", GREEDY ",\"max_tokens\":3"));
    assert_int_equal(r.status, 200); /* by the honest worker */
    free(r.body);
    vd_link_finish(l);
    assert_int_equal(a.n_jobs, 1);
    assert_int_equal(a.n_accepts, 0);
    assert_int_equal(a.why.code, VD_EFORMAT);
    settle();
}

static void test_a_root_of_other_tokens(void **state)
{
    struct liar a = {.says_tokens = true};
    pthread_mutex_init(&a.mu, NULL);
    settle();
    struct vd_gateway_stats before = stats();
    struct vd_link *l = liar_up(&a);
    expect_error(post(CHAT, ASK("Say hello.", GREEDY ",\"max_tokens\":3")), 502, "worker_failed", NULL);
    settle();
    vd_link_finish(l);
    assert_int_equal(a.n_jobs, 1);
    assert_int_equal(a.n_accepts, 0);
    assert_int_equal(stats().n_answers, before.n_answers);
    assert_int_equal(stats().escrow_balance.micro, before.escrow_balance.micro);
}

/* ---- streams that are followed ---- */

static struct vd_verifier *follower_up(void)
{
    struct vd_error err;
    struct vd_verifier *v;
    char home[160];
    snprintf(home, sizeof home, "%s/follower", t.dir);
    struct vd_worker_peer gateway = {HOST, vd_gateway_link_port(t.gateway), &t.key[GATEWAY].pub};
    struct vd_verifier_model m = {t.model, t.pool[1], t.root};
    struct vd_verifier_config c = {.key = &t.key[FOLLOWER],
                                   .home = home,
                                   .ledger = {HOST, vd_ledgerd_port(t.ledgerd), &t.key[LEDGER].pub},
                                   .gateway = &gateway,
                                   .n_gateways = 1,
                                   .model = &m,
                                   .n_models = 1,
                                   .follow = true};
    uint64_t n = stats().n_verifiers, until = vd_clock_ms() + WAIT_MS;
    must(vd_verifier_start(&v, &c, &err), &err);
    while (stats().n_verifiers == n && vd_clock_ms() < until)
        vd_clock_sleep_ms(5);
    return v;
}

static struct vd_verifier_stats followed(struct vd_verifier *v)
{
    struct vd_verifier_stats s;
    vd_verifier_get_stats(v, &s);
    return s;
}

static struct vd_envelope envelope_of(const char *receipt, uint32_t **tokens)
{
    char path[160];
    struct vd_envelope e;
    snprintf(path, sizeof path, "/v1/receipts/%s?format=file", receipt);
    struct reply r = http(path, t.secret, NULL, NULL, 0);
    assert_int_equal(r.status, 200);
    *tokens = malloc((r.n + 1) * sizeof **tokens);
    assert_true(vd_envelope_decode((struct vd_bytes){(uint8_t *)r.body, r.n}, &e, *tokens, r.n));
    free(r.body);
    return e;
}

static void test_an_honest_stream_is_right(void **state)
{
    struct vd_verifier *v = follower_up();
    struct vd_gateway_stats before = stats();
    struct reply r =
        post(CHAT, ASK("Write a long story about the sea.", GREEDY ",\"max_tokens\":150,\"stream\":true"));
    assert_int_equal(r.status, 200);
    free(r.body);
    r = post(CHAT, ASK("A word in JSON.",
                       ",\"max_tokens\":40,\"seed\":2,\"response_format\":{\"type\":\"json_object\"}"));
    assert_int_equal(r.status, 200);
    free(r.body);
    uint64_t until = vd_clock_ms() + WAIT_MS;
    while (followed(v).n_streams_right < 2 && vd_clock_ms() < until)
        vd_clock_sleep_ms(5);
    struct vd_verifier_stats s = followed(v);
    assert_int_equal(s.n_streams, 2);
    assert_int_equal(s.n_streams_right, 2);
    assert_int_equal(s.n_streams_wrong, 0);
    assert_true(stats().n_prefixes >= before.n_prefixes + 2);
    vd_verifier_stop(v);
    settle();
}

#define LONG_QUESTION ASK("Write a long story about the sea.", GREEDY ",\"max_tokens\":70")

static struct vd_envelope honest_answer(uint32_t **tokens)
{
    struct reply r = post(CHAT, LONG_QUESTION);
    assert_int_equal(r.status, 200);
    free(r.body);
    struct vd_envelope e = envelope_of(r.receipt, tokens);
    assert_true(e.n_output >= VD_PREFIX_EVERY_TOK);
    return e;
}

/* Links as a verifier and counts what it is given. */
struct watcher {
    pthread_mutex_t mu;
    enum vd_wire_refuse_code says; /* of each job; 0: nothing */
    unsigned n[256];               /* frames by type */
};

static void watcher_frame(void *arg, struct vd_link *l, unsigned type, struct vd_bytes body)
{
    struct watcher *a = arg;
    struct vd_wire_job m;
    pthread_mutex_lock(&a->mu);
    a->n[type & 255]++;
    pthread_mutex_unlock(&a->mu);
    if (type != VD_WIRE_JOB || !a->says)
        return;
    void *memory = malloc(4 * body.n + 8);
    struct vd_arena arena = vd_arena_init(memory, 4 * body.n + 8);
    assert_true(vd_wire_get_job(&m, body, &arena));
    uint8_t buf[64];
    struct vd_wire_refuse no = {.what = vd_sha256_of(m.request.p, m.request.n), .code = a->says};
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    vd_wire_put_refuse(&w, &no);
    liar_send(l, VD_WIRE_REFUSE, &w);
    free(memory);
}

static struct vd_link *watcher_up(struct watcher *a, int role)
{
    static struct vd_wire_hello hello;
    struct vd_link_config c = {.key = &t.key[role], .cb = {.arg = a, .on_frame = watcher_frame}};
    pthread_mutex_init(&a->mu, NULL);
    hello = (struct vd_wire_hello){.role = VD_ROLE_VERIFIER};
    return link_as(&c, &hello);
}

static unsigned seen(struct watcher *a, unsigned type)
{
    pthread_mutex_lock(&a->mu);
    unsigned n = a->n[type];
    pthread_mutex_unlock(&a->mu);
    return n;
}

static void await_seen(struct watcher *a, unsigned type, unsigned n)
{
    uint64_t until = vd_clock_ms() + WAIT_MS;
    while (seen(a, type) < n && vd_clock_ms() < until)
        vd_clock_sleep_ms(5);
    assert_int_equal(seen(a, type), n);
}

/* Only who was named is given streams: all of a job, and CANCEL where there is no receipt. */
static void test_who_follows_is_given_streams(void **state)
{
    static struct watcher named, other;
    struct liar a = {.says_tokens = false};
    pthread_mutex_init(&a.mu, NULL);
    named.says = VD_REFUSE_STOPPING; /* which is no word about the worker */
    struct vd_link *l = watcher_up(&named, FOLLOWER), *m = watcher_up(&other, WORKER_B);
    settle();
    struct vd_gateway_stats before = stats();
    struct reply r = post(CHAT, ASK("Say hello.", GREEDY ",\"max_tokens\":3"));
    assert_int_equal(r.status, 200);
    free(r.body);
    await_seen(&named, VD_WIRE_RECEIPT, 1);
    assert_int_equal(seen(&named, VD_WIRE_JOB), 1);
    unsigned n_tokens = seen(&named, VD_WIRE_TOKEN);
    assert_true(n_tokens >= 1);
    vd_link_finish(m);
    struct vd_link *b = liar_up(&a); /* a token that is none */
    r = post(CHAT, ASK("Say hello.", GREEDY ",\"max_tokens\":1"));
    assert_int_equal(r.status, 200);
    free(r.body);
    await_seen(&named, VD_WIRE_RECEIPT, 2);
    assert_int_equal(a.n_jobs, 1);
    assert_int_equal(seen(&named, VD_WIRE_JOB), 3);
    assert_int_equal(seen(&named, VD_WIRE_TOKEN), n_tokens + 1); /* the honest worker's; no other */
    assert_int_equal(seen(&named, VD_WIRE_CANCEL), 1);
    vd_link_finish(b);
    vd_link_finish(l);
    assert_int_equal(other.n[VD_WIRE_JOB] + other.n[VD_WIRE_TOKEN] + other.n[VD_WIRE_RECEIPT], 0);
    assert_int_equal(stats().n_wrong, before.n_wrong);
    settle();
}

/* A statement that does not fit breaks the rules like a token that does not; another worker has the job. */
static void test_a_statement_that_does_not_fit(void **state)
{
    uint32_t *tokens;
    struct vd_envelope e = honest_answer(&tokens);
    for (int kind = BAD_SIGNATURE; kind <= BAD_JOB; kind++) {
        struct liar a = {.stream = e.output, .n_stream = VD_PREFIX_EVERY_TOK, .statement = kind};
        pthread_mutex_init(&a.mu, NULL);
        struct vd_gateway_stats before = stats();
        struct vd_link *l = liar_up(&a);
        struct reply r = post(CHAT, LONG_QUESTION);
        assert_int_equal(r.status, 200); /* by the honest worker */
        free(r.body);
        liar_is_told(&a);
        vd_link_finish(l);
        assert_int_equal(a.n_jobs, 1);
        assert_int_equal(a.n_accepts, 0);
        assert_int_equal(a.why.code, VD_EFORMAT);
        assert_int_equal(stats().n_prefixes, before.n_prefixes);
        assert_int_equal(stats().n_resumed, before.n_resumed + 1);
    }
    free(tokens);
    settle();
}

/* That a stream is wrong is for followers to say. */
static void test_only_followers_say_wrong(void **state)
{
    struct liar a = {.refuses = true};
    pthread_mutex_init(&a.mu, NULL);
    struct vd_gateway_stats before = stats();
    struct vd_link *l = liar_up(&a);
    struct reply r = post(CHAT, ASK("Say hello.", GREEDY ",\"max_tokens\":3"));
    assert_int_equal(r.status, 200);
    free(r.body);
    vd_link_finish(l);
    assert_int_equal(a.n_jobs, 1);
    assert_int_equal(stats().n_wrong, before.n_wrong);
    settle();
}

/* Asks a liar that says these tokens. The answer ends in an error, nothing is paid, and the liar gets no more
 * jobs. Returns the error's message. */
static char *wrong_stream(const uint32_t *tokens, uint32_t n)
{
    struct liar a = {.stream = tokens, .n_stream = n};
    struct vd_verifier *v = follower_up();
    const char *code, *message;
    pthread_mutex_init(&a.mu, NULL);
    settle();
    struct vd_gateway_stats before = stats();
    struct vd_link *l = liar_up(&a);
    struct reply r = post(CHAT, LONG_QUESTION);
    json_t *j = json_of(&r, 502);
    assert_int_equal(json_unpack(j, "{s:{s:s,s:s}}", "error", "code", &code, "message", &message), 0);
    assert_string_equal(code, "worker_wrong");
    char *text = strdup(message);
    json_decref(j);
    liar_is_told(&a);
    vd_link_finish(l);
    settle();
    assert_int_equal(a.n_jobs, 1);
    assert_int_equal(a.n_accepts, 0);
    assert_int_equal(a.why.code, VD_EFALSE);
    assert_int_equal(followed(v).n_streams_wrong, 1);
    struct vd_gateway_stats after = stats();
    assert_int_equal(after.n_wrong, before.n_wrong + 1);
    assert_int_equal(after.n_answers, before.n_answers);
    assert_int_equal(after.escrow_balance.micro, before.escrow_balance.micro);
    l = liar_up(&a);
    r = post(CHAT, LONG_QUESTION); /* by the honest one */
    assert_int_equal(r.status, 200);
    free(r.body);
    assert_int_equal(a.n_jobs, 1);
    vd_link_finish(l);
    vd_verifier_stop(v);
    settle();
    return text;
}

static void *ask_long(void *reply)
{
    *(struct reply *)reply = post(CHAT, LONG_QUESTION);
    return NULL;
}

static void test_a_wrong_statement_is_found(void **state)
{
    uint32_t *tokens, *said;
    struct vd_envelope e = honest_answer(&tokens);
    char *message = wrong_stream(e.output, VD_PREFIX_EVERY_TOK), *at = strstr(message, "/v1/receipts/");
    assert_non_null(at);
    at[strlen("/v1/receipts/") + 64] = 0;
    struct reply r = http(at, t.secret, NULL, NULL, 0);
    const char *status;
    int n;
    json_t *j = json_of(&r, 200);
    assert_int_equal(json_unpack(j, "{s:s,s:i}", "status", &status, "output_tokens", &n), 0);
    assert_string_equal(status, "statement");
    assert_int_equal(n, VD_PREFIX_EVERY_TOK);
    json_decref(j);
    r = http(at, t.other, NULL, NULL, 0); /* another key's */
    assert_int_equal(r.status, 404);
    free(r.body);
    char path[192];
    snprintf(path, sizeof path, "%s?format=file", at);
    r = http(path, t.secret, NULL, NULL, 0);
    static struct vd_prefix_envelope p;
    struct vd_request q;
    struct vd_receipt_prefix prefix;
    said = malloc((r.n + 1) * sizeof *said);
    assert_true(vd_prefix_envelope_decode((struct vd_bytes){(uint8_t *)r.body, r.n}, &p, said, r.n));
    assert_int_equal(vd_prefix_envelope_check(&p, &q, &prefix), VD_RECEIPT_OK);
    assert_memory_equal(p.output, e.output, VD_PREFIX_EVERY_TOK * sizeof *said);
    assert_true(vd_pubkey_eq(&q.worker, &t.key[WORKER_B].pub));
    free(r.body);
    free(said);
    free(message);
    free(tokens);
}

static void test_a_wrong_token_is_found(void **state)
{
    uint32_t *tokens;
    struct vd_envelope e = honest_answer(&tokens);
    e.output[10] = e.output[10] == 300 ? 301 : 300;
    char *message = wrong_stream(e.output, 20);
    assert_null(strstr(message, "/v1/receipts/")); /* nothing was signed yet */
    free(message);
    free(tokens);
}

static void wait_workers(uint64_t n)
{
    uint64_t until = vd_clock_ms() + WAIT_MS;
    while (stats().n_workers != n && vd_clock_ms() < until)
        vd_clock_sleep_ms(2);
    assert_int_equal(stats().n_workers, n);
}

/* A worker gives wrong tokens and leaves. Who is asked to go on takes its time and then refuses them, as it
 * must: it was not wrong. The first one, when it comes back, was. */
static void test_who_resumes_is_not_blamed(void **state)
{
    uint32_t *tokens;
    struct vd_envelope e = honest_answer(&tokens);
    e.output[10] = e.output[10] == 300 ? 301 : 300;
    struct liar wrong = {.stream = e.output, .n_stream = 20, .leaves = true};
    struct liar slow = {.refuse_ms = 1500, .key = &t.key[WORKER_A]};
    struct vd_verifier *v = follower_up();
    pthread_mutex_init(&wrong.mu, NULL);
    pthread_mutex_init(&slow.mu, NULL);
    settle();
    worker_down(0);
    wait_workers(0);
    struct vd_gateway_stats before = stats();
    struct vd_link *first = liar_up(&wrong), *second = NULL;
    pthread_t asks;
    struct reply r = {.status = 0};
    assert_int_equal(pthread_create(&asks, NULL, ask_long, &r), 0);
    wait_workers(0);
    second = liar_up(&slow);
    pthread_join(asks, NULL);
    expect_error(r, 502, "worker_failed", NULL);
    vd_link_finish(first);
    vd_link_finish(second);
    assert_int_equal(slow.n_jobs, 1);
    assert_int_not_equal(slow.why.code, VD_EFALSE);
    assert_int_equal(followed(v).n_streams_wrong, 1);
    assert_int_equal(stats().n_wrong, before.n_wrong + 1);
    worker_up(0);
    first = liar_up(&wrong);
    r = post(CHAT, LONG_QUESTION); /* by the honest one, whose key the slow one had */
    assert_int_equal(r.status, 200);
    free(r.body);
    assert_int_equal(wrong.n_jobs, 1);
    vd_link_finish(first);
    vd_verifier_stop(v);
    settle();
    free(tokens);
}

int main(void)
{
    struct vd_error err;
    if (vd_home_path(t.path, &err, "models/SmolLM2-135M-Instruct.Q4_1.gguf") != VD_OK ||
        access(t.path, R_OK) != 0) {
        printf("no model at %s: skipped\n", t.path);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_who_may_ask),
        cmocka_unit_test(test_embeddings),
        cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_large_bodies),
        cmocka_unit_test(test_an_answer_and_its_receipt),
        cmocka_unit_test(test_query_parameters),
        cmocka_unit_test(test_stream_equals_whole),
        cmocka_unit_test(test_choices_side_by_side),
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_no_cache_over_keys),
        cmocka_unit_test(test_completions),
        cmocka_unit_test(test_retries_are_not_billed_twice),
        cmocka_unit_test(test_retry_after_a_lost_connection),
        cmocka_unit_test(test_hang_up_in_mid_stream),
        cmocka_unit_test(test_hang_up_before_the_first_byte),
        cmocka_unit_test(test_limits_of_a_key),
        cmocka_unit_test(test_a_limit_holds_for_requests_at_once),
        cmocka_unit_test(test_audits),
        cmocka_unit_test(test_a_challenger_gets_the_data),
        cmocka_unit_test(test_worker_vanishes),
        cmocka_unit_test(test_no_worker),
        cmocka_unit_test(test_a_token_outside_the_vocabulary),
        cmocka_unit_test(test_a_root_of_other_tokens),
        cmocka_unit_test(test_who_follows_is_given_streams),
        cmocka_unit_test(test_a_statement_that_does_not_fit),
        cmocka_unit_test(test_only_followers_say_wrong),
        cmocka_unit_test(test_an_honest_stream_is_right),
        cmocka_unit_test(test_a_wrong_statement_is_found),
        cmocka_unit_test(test_restart_of_the_gateway), /* which forgets who was wrong */
        cmocka_unit_test(test_a_wrong_token_is_found),
        cmocka_unit_test(test_restart_of_the_gateway),
        cmocka_unit_test(test_who_resumes_is_not_blamed),
        cmocka_unit_test(test_slow_clients),
        cmocka_unit_test(test_a_client_that_does_not_read),
        cmocka_unit_test(test_who_reads_last),
        cmocka_unit_test(test_an_escrow_that_is_closed),
        cmocka_unit_test(test_nothing_is_paid_into_others_escrows),
        cmocka_unit_test(test_stop_under_way),
    };
    return cmocka_run_group_tests(tests, network_up, network_down);
}
