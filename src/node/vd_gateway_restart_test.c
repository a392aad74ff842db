/* Workers that go, and a gateway that is stopped and started again: what a client is told, and what goes on.
 */
#include "vd_test_gateway.h"

/* The worker goes away in mid-answer; another says the same and goes on. */
static void test_worker_vanishes(void **state)
{
    char receipt[65], *whole, *streamed;
    bool done;
    struct asker a = {.body = ASK("Explain the sun.", GREEDY ",\"max_tokens\":200,\"stream\":true")};
    struct reply w = post(CHAT, ASK("Explain the sun.", GREEDY ",\"max_tokens\":200"));
    whole = chat_text(&w);
    worker_up(1);
    struct vd_gateway_stats before = stats();
    struct vd_worker_stats of[2] = {{.n_running = 0}};
    uint64_t until = vd_clock_ms() + WAIT_MS;
    pthread_t thread;
    pthread_create(&thread, NULL, ask, &a);
    while ((!atomic_load(&a.began) || of[0].n_running + of[1].n_running == 0) && vd_clock_ms() < until) {
        for (int i = 0; i < 2; i++)
            vd_worker_get_stats(t.worker[i], &of[i]);
        vd_clock_sleep_ms(1);
    }
    assert_int_equal(of[0].n_running + of[1].n_running, 1);
    worker_down(of[0].n_running ? 0 : 1);
    pthread_join(thread, NULL);
    assert_int_equal(a.r.status, 200);
    streamed = stream_text(&a.r, receipt, &done);
    assert_string_equal(streamed, whole);
    assert_true(done);
    free(a.r.body);
    free(streamed);
    free(whole);
    assert_int_equal(stats().n_resumed, before.n_resumed + 1);
    settle();
    worker_down(1);
    if (!t.worker[0])
        worker_up(0);
}

static void test_no_worker(void **state)
{
    worker_down(0);
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
    expect_ok(r);
    restart_gateway();
    expect_ok(http(path, t.secret, NULL, NULL, 0));
    expect_ok(post(CHAT, ASK("After.", ",\"max_tokens\":4"))); /* a sequence that was not used */
    settle();
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

int main(void)
{
    if (!model_is_there())
        return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_worker_vanishes),
        cmocka_unit_test(test_no_worker),
        cmocka_unit_test(test_restart_of_the_gateway),
        cmocka_unit_test(test_stop_under_way),
    };
    return cmocka_run_group_tests(tests, network_up, network_down);
}
