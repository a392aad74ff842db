/* What is paid: nothing twice, nothing for what nobody can get any more, nothing over a key's limit, and out
 * of no escrow but one that is there. */
#include "vd_test_gateway.h"

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
    struct reply lost = http_until(CHAT, t.secret, body, NULL, (struct reply){.timeout_ms = ms});
    assert_int_equal(lost.curl, CURLE_OPERATION_TIMEDOUT);
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
    expect_ok(post(CHAT, ASK("Still there?", ",\"max_tokens\":4")));
}

static void test_limits_of_a_key(void **state)
{
    struct asker a[KEY_PARALLEL + 3];
    pthread_t thread[KEY_PARALLEL + 3];
    char poor[VD_API_KEY_TEXT_MAX];
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
    new_key("poor", 100, poor);
    settle();
    expect_error(http(CHAT, poor, ASK("hi", ""), NULL, 0), 429, "insufficient_quota", NULL);
    settle();
    struct vd_gateway_stats before = stats(); /* one choice could be paid for, three could not: none is */
    expect_error(http(CHAT, poor, ASK("hi", ",\"max_tokens\":6,\"n\":3"), NULL, 0), 429, "insufficient_quota",
                 NULL);
    settle();
    assert_int_equal(stats().n_answers, before.n_answers);
    assert_int_equal(stats().escrow_balance.micro, before.escrow_balance.micro);
    expect_ok(http(CHAT, poor, ASK("hi", ",\"max_tokens\":6"), NULL, 0));
    settle();
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

/* What a request can cost is taken from its key's limit before its first job is given away: of the choices
 * that wait for others too, and of all inputs of an embedding. */
static void test_a_limit_holds_for_requests_at_once(void **state)
{
    enum { N = 16, MOST = 400 };
    char secret[VD_API_KEY_TEXT_MAX];
    uint64_t prompt = n_prompt_of(CHAT, ASK("Write a long story about the sea.", ",\"max_tokens\":1"));
    uint64_t one = prompt * PRICE_IN + MOST * PRICE_OUT, until = vd_clock_ms() + WAIT_MS;
    new_key("sixteen", N * one, secret);
    settle();
    struct asker a = {
        /* 0 and 2 end an answer, and one that ends early gives back what others can use */
        .body = ASK("Write a long story about the sea.",
                    ",\"max_tokens\":400,\"n\":16,\"stream\":true,\"logit_bias\":{\"0\":-100,\"2\":-100}"),
        .secret = secret};
    pthread_t thread;
    pthread_create(&thread, NULL, ask, &a);
    uint64_t reserved = 0;
    while ((reserved = stats().reserved.micro) == 0 && vd_clock_ms() < until)
        vd_clock_sleep_ms(1);
    assert_int_equal(reserved, N * one);
    while (stats().n_running < CAPACITY && vd_clock_ms() < until) /* who comes now has to wait */
        vd_clock_sleep_ms(1);
    expect_error(http(CHAT, secret, ASK("Hello.", ",\"max_tokens\":40"), NULL, 0), 429, "insufficient_quota",
                 NULL);
    atomic_store(&a.stop, true);
    pthread_join(thread, NULL);
    expect_ok(a.r);
    settle();
    prompt = n_prompt_of("/v1/embeddings", EMBED("\"the sea\"", ""));
    new_key("inputs", 2 * prompt * PRICE_IN - 1, secret);
    settle();
    struct vd_gateway_stats before = stats();
    expect_error(http("/v1/embeddings", secret, EMBED("[\"the sea\",\"the sea\"]", ""), NULL, 0), 429,
                 "insufficient_quota", NULL);
    expect_error(http("/v1/embeddings", secret, EMBED("[\"the sea\",\"\"]", ""), NULL, 0), 400, NULL, NULL);
    settle();
    assert_int_equal(stats().n_answers, before.n_answers);
    struct reply r = http("/v1/embeddings", secret, EMBED("\"the sea\"", ""), NULL, 0);
    expect_ok(r);
    settle();
}

/* ---- escrows ---- */

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
    expect_ok(a.r);
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
 * one of its own as soon as it has the credits. Goes on where the test before ended: it has none, and is
 * named in hundreds. */
static void test_nothing_is_paid_into_others_escrows(void **state)
{
    struct vd_error err;
    struct escrows s = {.c = client_of(FOLLOWER)};
    struct vd_state_key all =
        vd_state_key_make(VD_INDEX_GATEWAY_ESCROW, t.key[GATEWAY].pub.b, VD_PUBKEY_BYTES, NULL);
    t.escrow_micro = 6 * ESCROW; /* of which the other's is less than a quarter */
    restart_gateway();
    uint64_t until = vd_clock_ms() + WAIT_MS;
    while (!health_says("\"ok\"") && vd_clock_ms() < until)
        vd_clock_sleep_ms(20);
    ask_until_paid("And mine?");
    settle();
    must(vd_ledger_client_list(s.c, &all, check_escrow, &s, &err), &err);
    assert_true(s.n > 256);
    assert_int_equal(s.n_own, 1);
    vd_gateway_stop(t.gateway); /* started again it knows its own, and looks at some of the others at most */
    t.escrow_micro = 1;         /* one more it could pay for */
    gateway_up();
    t.escrow_micro = 6 * ESCROW;
    worker_down(0);
    worker_up(0);
    ask_until_paid("And mine again?");
    settle();
    s.n = s.n_own = 0;
    must(vd_ledger_client_list(s.c, &all, check_escrow, &s, &err), &err);
    vd_ledger_client_stop(s.c);
    assert_int_equal(s.n_own, 1);
}

int main(void)
{
    if (!model_is_there())
        return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_retries_are_not_billed_twice),
        cmocka_unit_test(test_retry_after_a_lost_connection),
        cmocka_unit_test(test_hang_up_in_mid_stream),
        cmocka_unit_test(test_hang_up_before_the_first_byte),
        cmocka_unit_test(test_limits_of_a_key),
        cmocka_unit_test(test_a_limit_holds_for_requests_at_once),
        cmocka_unit_test(test_an_escrow_that_is_closed),
        cmocka_unit_test(test_nothing_is_paid_into_others_escrows),
    };
    return cmocka_run_group_tests(tests, network_up, network_down);
}
