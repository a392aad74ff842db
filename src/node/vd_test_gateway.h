/* What the tests of the gateway share: everything real around it, in one process: a ledger on disk, a worker
 * or two with the real model, links, HTTP by libcurl. Each test program has one network, which its tests go
 * through one after the other: a test leaves the first worker running, the second not, and nothing unsettled.
 * Tests only; without the model file they are skipped (77). */
#ifndef VD_TEST_GATEWAY_H
#define VD_TEST_GATEWAY_H

#include "vd_clock.h"
#include "vd_file.h"
#include "vd_gateway.h"
#include "vd_gateway_keys.h"
#include "vd_kern.h"
#include "vd_ledger_testing.h"
#include "vd_ledgerd.h"
#include "vd_trace_hash.h"
#include "vd_wire.h"
#include "vd_worker.h"

#include <curl/curl.h>
#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
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
    uint64_t escrow_micro;                                        /* that the gateway opens itself; 0: none */
    char secret[VD_API_KEY_TEXT_MAX], other[VD_API_KEY_TEXT_MAX]; /* of two API keys */
} t;

/* ---- the network ---- */

static inline void make_genesis(void)
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

static inline void worker_up(int which)
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
    assert_int_equal(s.n_workers, n_before + 1);
}

static inline void worker_down(int which)
{
    vd_worker_stop(t.worker[which]);
    t.worker[which] = NULL;
}

static inline void gateway_up(void)
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

/* It forgets who was wrong. */
static inline void restart_gateway(void)
{
    worker_down(0);
    vd_gateway_stop(t.gateway);
    gateway_up();
    worker_up(0);
}

/* An API key that may cost so much; 0: any amount. */
static inline void new_key(const char *label, uint64_t micro, char secret[VD_API_KEY_TEXT_MAX])
{
    struct vd_error err;
    struct vd_api_key key;
    must(vd_gateway_key_new(t.home, label, vd_amount_micro(micro), secret, &key, &err), &err);
}

/* Where the model is; without it a test program has nothing to test. */
static inline bool model_is_there(void)
{
    struct vd_error err;
    if (vd_home_path(t.path, &err, "models/SmolLM2-135M-Instruct.Q4_1.gguf") == VD_OK &&
        access(t.path, R_OK) == 0)
        return true;
    printf("no model at %s: skipped\n", t.path);
    return false;
}

static inline int network_up(void **state)
{
    struct vd_error err;
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
    new_key("first", 0, t.secret);
    new_key("second", 0, t.other);
    gateway_up();
    worker_up(0);
    return 0;
}

static inline int network_down(void **state)
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
    long timeout_ms;         /* 0: 60 s */
    size_t cut_after;        /* hang up after so many bytes; 0: never */
    const atomic_bool *stop; /* or when this says so */
    atomic_bool *began;      /* set with the body's first byte */
};

static inline size_t on_body(char *p, size_t size, size_t n, void *arg)
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

static inline size_t on_header(char *p, size_t size, size_t n, void *arg)
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

static inline struct reply http_until(const char *path, const char *secret, const char *body,
                                      const char *extra, struct reply r)
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
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, r.timeout_ms ? r.timeout_ms : 60000L);
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
static inline struct reply http(const char *path, const char *secret, const char *body, const char *extra,
                                size_t cut_after)
{
    return http_until(path, secret, body, extra, (struct reply){.cut_after = cut_after});
}

static inline struct reply post(const char *path, const char *body)
{
    return http(path, t.secret, body, NULL, 0);
}

static inline json_t *json_of(struct reply *r, long status)
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

static inline void expect_ok(struct reply r)
{
    if (r.status != 200)
        fail_msg("status %ld: %s", r.status, r.body);
    free(r.body);
}

/* An error with this status, code and param (NULL: any). */
static inline void expect_error(struct reply r, long status, const char *code, const char *param)
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
static inline char *chat_text(struct reply *r)
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
static inline char *stream_text(const struct reply *r, char receipt[65], bool *done)
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

/* The file of a receipt. `tokens` is the caller's, and what the envelope speaks of is in it. */
static inline struct vd_envelope envelope_of(const char *receipt, uint32_t **tokens)
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

static inline struct vd_gateway_stats stats(void)
{
    struct vd_gateway_stats s;
    vd_gateway_get_stats(t.gateway, &s);
    return s;
}

/* Waits until nothing runs and all is settled; then nothing may be reserved. */
static inline void settle(void)
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

#define EMBED(input, rest) "{\"model\":\"SmolLM2\",\"input\":" input rest "}"

/* ---- who asks beside the test ---- */

struct asker {
    const char *path; /* NULL: CHAT */
    const char *body;
    const char *secret; /* NULL: the first key */
    atomic_bool stop;   /* hang up */
    atomic_bool began;  /* the answer's first byte is here */
    struct reply r;
};

static inline void *ask(void *asker)
{
    struct asker *a = asker;
    a->r = http_until(a->path ? a->path : CHAT, a->secret ? a->secret : t.secret, a->body, NULL,
                      (struct reply){.stop = &a->stop, .began = &a->began});
    return NULL;
}

/* ---- the ledger ---- */

static inline struct vd_ledger_client *client_of(int role)
{
    return vd_test_ledger_client((struct vd_ledger_client_config){.arg = NULL}, &t.key[role],
                                 vd_ledgerd_port(t.ledgerd), &t.key[LEDGER].pub, VD_ROLE_CLIENT);
}

/* ---- links to the gateway ---- */

static inline void send_frame(struct vd_link *l, unsigned type, const struct vd_pb_writer *w)
{
    assert_false(w->overflow);
    vd_link_send(l, type, w->p, w->n_bytes, NULL);
}

/* Links and says hello. */
static inline struct vd_link *link_to_gateway(const struct vd_link_config *c, enum vd_wire_role role,
                                              const struct vd_wire_offer *offer)
{
    static struct vd_wire_hello hello;
    uint8_t buf[512];
    struct vd_link *l;
    struct vd_error err;
    must(vd_link_dial(&l, c, HOST, vd_gateway_link_port(t.gateway), &t.key[GATEWAY].pub, &err), &err);
    hello = (struct vd_wire_hello){.role = role, .arithmetic = VD_ARITH_VERSION, .n_offers = offer != NULL};
    if (offer)
        hello.offer[0] = *offer;
    must(vd_genesis_network_hash(&t.genesis, &hello.genesis, &err), &err);
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    assert_true(vd_wire_put_hello(&w, &hello));
    send_frame(l, VD_WIRE_HELLO, &w);
    return l;
}

#endif
