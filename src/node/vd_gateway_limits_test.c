/* Clients that are slow, do not read, or send too much: none of them holds what others need. */
#include "vd_test_gateway.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

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

/* `far`: little is buffered, as over a network. */
static int dial_http(bool far)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(vd_gateway_http_port(t.gateway))};
    struct timeval patience = {5 * RECEIVE_MS / 1000, 0};
    int fd = socket(AF_INET, SOCK_STREAM, 0), small = 1, segment = 536;
    assert_true(fd >= 0);
    if (far) {
        assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
        assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment), 0);
    }
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
        fd[i] = dial_http(false);
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
    expect_ok(r);
}

/* A client that never reads its stream holds neither the worker's place nor the money once the worker has
 * ended: it counts as one that hung up, and pays for all of it. */
static void test_a_client_that_does_not_read(void **state)
{
    static const char body[] =
        "{\"model\":\"SmolLM2\",\"prompt\":\"1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\",\"temperature\":0,"
        "\"max_tokens\":300,\"stream\":true,\"logprobs\":20}";
    char head[512];
    int fd = dial_http(true);
    uint64_t until = vd_clock_ms() + 2 * WAIT_MS;
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
    int fd = dial_http(false);
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

int main(void)
{
    if (!model_is_there())
        return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_large_bodies),
        cmocka_unit_test(test_slow_clients),
        cmocka_unit_test(test_a_client_that_does_not_read),
        cmocka_unit_test(test_who_reads_last),
    };
    return cmocka_run_group_tests(tests, network_up, network_down);
}
