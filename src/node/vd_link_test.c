/* Links over real sockets on the loopback: who gets in, who does not, and what is said to whom. Expected
 * failures are checked by code and by what the message names. */
#include "vd_clock.h"
#include "vd_link.h"
#include "vd_wire.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#define HOST "127.0.0.1"

/* What one side saw. */
struct seen {
    pthread_mutex_t mu;
    pthread_cond_t changed;
    int n_open, n_frames, n_close, n_fail;
    size_t n_bytes;
    uint64_t sum;
    struct vd_error why;
    struct vd_pubkey peer;
    bool echo;  /* set before the link is made */
    bool go_on; /* under mu */
};

static void saw_open(void *arg, struct vd_link *l)
{
    struct seen *s = arg;
    pthread_mutex_lock(&s->mu);
    s->n_open++;
    s->peer = *vd_link_peer(l);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mu);
}

static void saw_frame(void *arg, struct vd_link *l, unsigned type, struct vd_bytes body)
{
    struct seen *s = arg;
    if (s->echo)
        vd_link_send(l, type, body.p, body.n, NULL);
    pthread_mutex_lock(&s->mu);
    s->n_frames++;
    s->n_bytes += body.n;
    for (size_t i = 0; i < body.n; i++)
        s->sum = s->sum * 31 + body.p[i];
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mu);
}

static void saw_close(void *arg, struct vd_link *l, const struct vd_error *why)
{
    struct seen *s = arg;
    (void)l;
    pthread_mutex_lock(&s->mu);
    s->n_close++;
    s->why = *why;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mu);
}

static void saw_fail(void *arg, const struct vd_error *why)
{
    struct seen *s = arg;
    pthread_mutex_lock(&s->mu);
    s->n_fail++;
    s->why = *why;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mu);
}

/* Waits until *counter >= n, at most 5 s. */
static void wait_for(struct seen *s, const int *counter, int n)
{
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    at.tv_sec += 5;
    pthread_mutex_lock(&s->mu);
    while (*counter < n && pthread_cond_timedwait(&s->changed, &s->mu, &at) == 0)
        ;
    int got = *counter;
    pthread_mutex_unlock(&s->mu);
    if (got < n)
        fail_msg("waited for %d events, got %d (%s)", n, got, s->why.msg);
}

struct fixture {
    struct vd_keypair server_key, client_key;
    struct seen server, client;
    struct vd_link_config server_cfg, client_cfg;
    struct vd_link_listener *listener;
    uint16_t port;
};

static void seen_init(struct seen *s, struct vd_link_config *cfg, const struct vd_keypair *key)
{
    pthread_mutex_init(&s->mu, NULL);
    pthread_cond_init(&s->changed, NULL);
    cfg->key = key;
    cfg->cb = (struct vd_link_callbacks){s, saw_open, saw_frame, saw_close, saw_fail};
}

static void up(struct fixture *f)
{
    struct vd_error err;
    if (vd_link_listen(&f->listener, &f->server_cfg, HOST, 0, &err) != VD_OK)
        fail_msg("%s", err.msg);
    f->port = vd_link_listener_port(f->listener);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    uint8_t seed[VD_SEED_BYTES] = {1};
    assert_int_equal(vd_key_init(NULL), VD_OK);
    vd_key_from_seed(&f->server_key, seed);
    seed[0] = 2;
    vd_key_from_seed(&f->client_key, seed);
    seen_init(&f->server, &f->server_cfg, &f->server_key);
    seen_init(&f->client, &f->client_cfg, &f->client_key);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    vd_link_listener_stop(f->listener);
    free(f);
    return 0;
}

static struct vd_link *dial(struct fixture *f)
{
    struct vd_error err;
    struct vd_link *l;
    if (vd_link_dial(&l, &f->client_cfg, HOST, f->port, &f->server_key.pub, &err) != VD_OK)
        fail_msg("%s", err.msg);
    return l;
}

static void test_both_know_each_other(void **state)
{
    struct fixture *f = *state;
    up(f);
    struct vd_link *l = dial(f);
    assert_int_equal(f->client.n_open, 1);
    wait_for(&f->server, &f->server.n_open, 1);
    assert_memory_equal(f->server.peer.b, f->client_key.pub.b, 32);
    assert_memory_equal(vd_link_peer(l)->b, f->server_key.pub.b, 32);
    vd_link_finish(l);
    wait_for(&f->server, &f->server.n_close, 1);
    assert_int_equal(f->client.n_close, 1);
    assert_int_equal(f->server.why.code, VD_OK);
    assert_int_equal(f->client.why.code, VD_OK);
    assert_int_equal(f->server.n_fail, 0);
}

static void test_frames_keep_order_and_bytes(void **state)
{
    struct fixture *f = *state;
    static uint8_t big[VD_LINK_BODY_MAX];
    up(f);
    f->server.echo = true;
    struct vd_link *l = dial(f);
    uint64_t sum = 0;
    size_t total = 0;
    for (size_t i = 0; i < sizeof big; i++)
        big[i] = (uint8_t)(i * 7 + i / 251);
    const size_t size[] = {0, 1, 5, 16384, 16385, VD_LINK_BODY_MAX, 3, 0, 100000};
    for (size_t k = 0; k < sizeof size / sizeof size[0]; k++) {
        assert_int_equal(vd_link_send(l, VD_WIRE_VALUE, big, size[k], NULL), VD_OK);
        total += size[k];
        for (size_t i = 0; i < size[k]; i++)
            sum = sum * 31 + big[i];
    }
    wait_for(&f->client, &f->client.n_frames, 9);
    assert_int_equal(f->client.n_bytes, total);
    assert_true(f->client.sum == sum && f->server.sum == sum);
    struct vd_error err;
    assert_int_equal(vd_link_send(l, VD_WIRE_VALUE, big, sizeof big + 1, &err), VD_ELIMIT);
    vd_link_finish(l);
}

static void *sender(void *arg)
{
    for (int i = 0; i < 500; i++) {
        while (vd_link_send(arg, VD_WIRE_TOKEN, "abcdefgh", 8, NULL) == VD_EAGAIN)
            vd_clock_sleep_ms(1);
    }
    return NULL;
}

static void test_many_senders(void **state)
{
    struct fixture *f = *state;
    pthread_t t[4];
    up(f);
    struct vd_link *l = dial(f);
    for (int i = 0; i < 4; i++)
        pthread_create(&t[i], NULL, sender, l);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    vd_link_finish(l); /* sends what is queued */
    wait_for(&f->server, &f->server.n_close, 1);
    assert_int_equal(f->server.n_frames, 2000);
    assert_int_equal(f->server.n_bytes, 16000);
}

static void test_wrong_key_is_refused(void **state)
{
    struct fixture *f = *state;
    struct vd_error err;
    struct vd_link *l = NULL;
    up(f);
    assert_int_equal(vd_link_dial(&l, &f->client_cfg, HOST, f->port, &f->client_key.pub, &err), VD_EAUTH);
    assert_non_null(strstr(err.msg, "expected"));
    assert_int_equal(f->client.n_open, 0);
    assert_int_equal(f->client.n_close, 0);
}

static void test_version_mismatch_names_both(void **state)
{
    struct fixture *f = *state;
    struct vd_error err;
    struct vd_link *l = NULL;
    up(f);
    f->client_cfg.protocol = "veridem/2";
    assert_int_equal(vd_link_dial(&l, &f->client_cfg, HOST, f->port, NULL, &err), VD_EVERSION);
    assert_non_null(strstr(err.msg, "veridem/1"));
    assert_non_null(strstr(err.msg, "veridem/2"));
    wait_for(&f->server, &f->server.n_fail, 1);
    assert_int_equal(f->server.why.code, VD_EVERSION);
    assert_non_null(strstr(f->server.why.msg, "veridem/1"));
    assert_non_null(strstr(f->server.why.msg, "veridem/2"));
    f->client_cfg.protocol = "other/1";
    assert_int_equal(vd_link_dial(&l, &f->client_cfg, HOST, f->port, NULL, &err), VD_ENET);
    assert_int_equal(f->server.n_open, 0);
}

static int raw_connect(uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, HOST, &a.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

static void test_plain_text_and_garbage_peers(void **state)
{
    struct fixture *f = *state;
    const char *say[] = {"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                         "\x16\x03\x01\x01\x05garbage that is no handshake, but long enough to be one, and "
                         "more and more and more and more and more and more and more and more and more and "
                         "more and more and more and more and more and more and more and more and more and "
                         "more and more and more and more and more and more and more",
                         "\xff\xff\xff\xff\xff\xff\xff\xff"};
    up(f);
    for (int i = 0; i < 3; i++) {
        int fd = raw_connect(f->port);
        assert_true(send(fd, say[i], strlen(say[i]), MSG_NOSIGNAL) > 0);
        wait_for(&f->server, &f->server.n_fail, i + 1);
        assert_int_equal(f->server.why.code, VD_ENET);
        close(fd);
    }
    struct vd_link *l = dial(f); /* the listener goes on */
    vd_link_finish(l);
    assert_int_equal(f->server.n_open, 1);
}

static void test_silent_peer_times_out(void **state)
{
    struct fixture *f = *state;
    f->server_cfg.handshake_ms = 150;
    up(f);
    int fd = raw_connect(f->port);
    wait_for(&f->server, &f->server.n_fail, 1);
    assert_int_equal(f->server.why.code, VD_ETIMEOUT);
    close(fd);
}

/* A plain server that accepts and never speaks, or speaks nonsense. */
static int plain_server(uint16_t *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t n = sizeof a;
    inet_pton(AF_INET, HOST, &a.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(fd, 4), 0);
    getsockname(fd, (struct sockaddr *)&a, &n);
    *port = ntohs(a.sin_port);
    return fd;
}

static void test_dialling_no_veridem(void **state)
{
    struct fixture *f = *state;
    struct vd_error err;
    struct vd_link *l = NULL;
    uint16_t port;
    int fd = plain_server(&port);
    f->client_cfg.handshake_ms = 150;
    assert_int_equal(vd_link_dial(&l, &f->client_cfg, HOST, port, NULL, &err), VD_ETIMEOUT);
    close(fd);
    f->client_cfg.handshake_ms = 5000;
    assert_int_equal(vd_link_dial(&l, &f->client_cfg, HOST, port, NULL, &err), VD_ENET);
    assert_non_null(strstr(err.msg, "connect"));
}

/* Copies bytes between a client and the server until told to stop: a network that can be cut without a FIN.
 */
struct relay {
    int listen_fd, a, b;
    uint16_t to_port;
    volatile bool cut;
    pthread_t up, down;
};

static void relay_copy(struct relay *r, int from, int to)
{
    char buf[4096];
    ssize_t n;
    while ((n = recv(from, buf, sizeof buf, 0)) > 0) {
        if (!__atomic_load_n(&r->cut, __ATOMIC_ACQUIRE) && send(to, buf, (size_t)n, MSG_NOSIGNAL) < 0)
            return;
    }
}

static void *relay_down(void *arg)
{
    struct relay *r = arg;
    relay_copy(r, r->b, r->a);
    return NULL;
}

static void *relay_up(void *arg)
{
    struct relay *r = arg;
    r->a = accept(r->listen_fd, NULL, NULL);
    r->b = raw_connect(r->to_port);
    pthread_create(&r->down, NULL, relay_down, r);
    relay_copy(r, r->a, r->b);
    return NULL;
}

static void test_half_open_is_noticed(void **state)
{
    struct fixture *f = *state;
    struct relay r = {.cut = false};
    uint16_t port;
    f->server_cfg.ping_ms = f->client_cfg.ping_ms = 50;
    f->server_cfg.dead_ms = f->client_cfg.dead_ms = 300;
    up(f);
    r.listen_fd = plain_server(&port);
    r.to_port = f->port;
    pthread_create(&r.up, NULL, relay_up, &r);
    f->port = port;
    struct vd_link *l = dial(f);
    wait_for(&f->server, &f->server.n_open, 1);
    vd_clock_sleep_ms(600); /* pings keep an idle link alive beyond dead_ms */
    assert_int_equal(f->client.n_close, 0);
    __atomic_store_n(&r.cut, true, __ATOMIC_RELEASE);
    wait_for(&f->client, &f->client.n_close, 1);
    wait_for(&f->server, &f->server.n_close, 1);
    assert_int_equal(f->client.why.code, VD_ETIMEOUT);
    assert_int_equal(f->server.why.code, VD_ETIMEOUT);
    assert_int_equal(vd_link_send(l, 20, "x", 1, NULL), VD_ENET);
    vd_link_finish(l);
    shutdown(r.a, SHUT_RDWR);
    shutdown(r.b, SHUT_RDWR);
    pthread_join(r.up, NULL);
    pthread_join(r.down, NULL);
    close(r.a);
    close(r.b);
    close(r.listen_fd);
}

static void block_frame(void *arg, struct vd_link *l, unsigned type, struct vd_bytes body)
{
    struct seen *s = arg;
    saw_frame(s, l, type, body);
    pthread_mutex_lock(&s->mu);
    while (!s->go_on)
        pthread_cond_wait(&s->changed, &s->mu);
    pthread_mutex_unlock(&s->mu);
}

static void test_queue_is_bounded(void **state)
{
    struct fixture *f = *state;
    static uint8_t big[1 << 18];
    struct vd_error err = {.code = VD_OK};
    f->server_cfg.cb.on_frame = block_frame;
    f->client_cfg.queue_max_bytes = 1 << 20;
    up(f);
    struct vd_link *l = dial(f);
    int sent = 0;
    uint64_t until = vd_clock_ms() + 4000;
    while (err.code == VD_OK && vd_clock_ms() < until && sent < 1000)
        sent += vd_link_send(l, 20, big, sizeof big, &err) == VD_OK;
    assert_int_equal(err.code, VD_EAGAIN);
    pthread_mutex_lock(&f->server.mu);
    f->server.go_on = true;
    pthread_cond_broadcast(&f->server.changed);
    pthread_mutex_unlock(&f->server.mu);
    wait_for(&f->server, &f->server.n_frames, sent); /* nothing that was accepted is lost */
    vd_link_finish(l);
}

static void test_peer_told_why(void **state)
{
    struct fixture *f = *state;
    up(f);
    struct vd_link *l = dial(f);
    vd_link_close(l, VD_EFORMAT, "that was no HELLO");
    wait_for(&f->server, &f->server.n_close, 1);
    assert_int_equal(f->server.why.code, VD_EFORMAT);
    assert_non_null(strstr(f->server.why.msg, "that was no HELLO"));
    vd_link_finish(l);
    assert_int_equal(f->client.why.code, VD_EFORMAT);
}

static void test_bad_link_frames(void **state)
{
    struct fixture *f = *state;
    up(f);
    struct vd_link *l = dial(f);
    vd_link_send(l, 9, "x", 1, NULL); /* a link type of no known meaning */
    wait_for(&f->server, &f->server.n_close, 1);
    assert_int_equal(f->server.why.code, VD_EFORMAT);
    wait_for(&f->client, &f->client.n_close, 1);
    assert_non_null(strstr(f->client.why.msg, "frame type 9"));
    vd_link_finish(l);
    l = dial(f);
    vd_link_send(l, VD_WIRE_PING, "\xff\xff", 2, NULL);
    wait_for(&f->server, &f->server.n_close, 2);
    assert_int_equal(f->server.why.code, VD_EFORMAT);
    vd_link_finish(l);
}

static void test_links_max(void **state)
{
    struct fixture *f = *state;
    struct vd_error err;
    struct vd_link *more = NULL;
    f->server_cfg.links_max = 1;
    up(f);
    struct vd_link *l = dial(f);
    assert_int_not_equal(vd_link_dial(&more, &f->client_cfg, HOST, f->port, NULL, &err), VD_OK);
    wait_for(&f->server, &f->server.n_fail, 1);
    assert_int_equal(f->server.why.code, VD_ELIMIT);
    vd_link_finish(l);
}

/* A connection that says nothing, from one of the loopback's many addresses. */
static int connect_from(const char *host, uint16_t port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET};
    assert_true(fd >= 0);
    inet_pton(AF_INET, host, &a.sin_addr);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    inet_pton(AF_INET, HOST, &a.sin_addr);
    a.sin_port = htons(port);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

/* Whether the other side ends it within 5 s, which is before a handshake has to be over. */
static bool was_ended(int fd)
{
    struct timeval limit = {5, 0};
    char c;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return recv(fd, &c, 1, 0) == 0;
}

/* Who holds all links gives some up to those who have fewer: an address of its own is enough to get in. */
static void test_links_are_shared_out(void **state)
{
    enum { N = 4 };
    struct fixture *f = *state;
    struct timeval soon = {0, 100000};
    char c;
    int fd[N];
    f->server_cfg.links_max = N;
    f->server_cfg.handshake_ms = 60000;
    up(f);
    for (int i = 0; i < N; i++)
        fd[i] = connect_from("127.0.0.2", f->port);
    int more = connect_from("127.0.0.2", f->port); /* has the most already */
    assert_true(was_ended(more));
    close(more);
    struct vd_link *first = dial(f), *second = dial(f);
    assert_true(was_ended(fd[N - 1]) && was_ended(fd[N - 2]));
    setsockopt(fd[0], SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon);
    assert_int_equal(recv(fd[0], &c, 1, 0), -1);
    struct vd_link *third = NULL; /* two each: nobody has more than his share */
    assert_int_not_equal(vd_link_dial(&third, &f->client_cfg, HOST, f->port, NULL, NULL), VD_OK);
    vd_link_finish(first);
    vd_link_finish(second);
    for (int i = 0; i < N; i++)
        close(fd[i]);
}

static void test_port_in_use(void **state)
{
    struct fixture *f = *state;
    struct vd_error err;
    struct vd_link_listener *second = NULL;
    up(f);
    assert_int_equal(vd_link_listen(&second, &f->server_cfg, HOST, f->port, &err), VD_EBUSY);
    assert_non_null(strstr(err.msg, "in use"));
}

static void test_dialer_comes_back(void **state)
{
    struct fixture *f = *state;
    struct vd_link_dialer *d = NULL;
    up(f);
    uint16_t port = f->port;
    assert_int_equal(vd_link_dialer_start(&d, &f->client_cfg, HOST, port, &f->server_key.pub, NULL), VD_OK);
    wait_for(&f->client, &f->client.n_open, 1);
    vd_link_listener_stop(f->listener);
    f->listener = NULL;
    wait_for(&f->client, &f->client.n_fail, 1); /* at least one attempt in vain */
    struct vd_error err;
    if (vd_link_listen(&f->listener, &f->server_cfg, HOST, port, &err) != VD_OK)
        fail_msg("%s", err.msg);
    wait_for(&f->client, &f->client.n_open, 2);
    vd_link_dialer_stop(d);
    assert_int_equal(f->client.n_close, 2);
}

static void refuse_at_once(void *arg, struct vd_link *l)
{
    saw_open(arg, l);
    vd_link_close(l, VD_ECONFLICT, "not you");
}

static void test_dialer_that_is_refused_backs_off(void **state)
{
    struct fixture *f = *state;
    struct vd_link_dialer *d = NULL;
    f->server_cfg.cb.on_open = refuse_at_once;
    up(f);
    assert_int_equal(vd_link_dialer_start(&d, &f->client_cfg, HOST, f->port, &f->server_key.pub, NULL),
                     VD_OK);
    wait_for(&f->client, &f->client.n_open, 2);
    vd_clock_sleep_ms(1000);
    vd_link_dialer_stop(d);
    assert_in_range(f->client.n_open, 2, 6); /* it was 10 and more with the shortest pause each time */
    assert_non_null(strstr(f->client.why.msg, "not you"));
}

static void test_backoff(void **state)
{
    for (unsigned a = 0; a < 40; a++) {
        uint32_t low = vd_link_backoff_ms(a, 0), high = vd_link_backoff_ms(a, UINT64_MAX);
        assert_true(low >= VD_LINK_BACKOFF_FIRST_MS / 2 && high <= VD_LINK_BACKOFF_MAX_MS && high > low);
    }
    assert_int_equal(vd_link_backoff_ms(1, 0), 100);
    assert_int_equal(vd_link_backoff_ms(30, 0), VD_LINK_BACKOFF_MAX_MS / 2);
}

static void test_parse_addr(void **state)
{
    char host[256];
    uint16_t port;
    const char *bad[] = {"", "host", "host:", ":80", "h:70000", "h:8x", "::1:80", "h:-1"};
    assert_int_equal(vd_link_parse_addr("localhost:4711", host, &port, NULL), VD_OK);
    assert_string_equal(host, "localhost");
    assert_int_equal(port, 4711);
    assert_int_equal(vd_link_parse_addr("[::1]:80", host, &port, NULL), VD_OK);
    assert_string_equal(host, "::1");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(vd_link_parse_addr(bad[i], host, &port, NULL), VD_EUSE);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_both_know_each_other),
        T(test_frames_keep_order_and_bytes),
        T(test_many_senders),
        T(test_wrong_key_is_refused),
        T(test_version_mismatch_names_both),
        T(test_plain_text_and_garbage_peers),
        T(test_silent_peer_times_out),
        T(test_dialling_no_veridem),
        T(test_half_open_is_noticed),
        T(test_queue_is_bounded),
        T(test_peer_told_why),
        T(test_bad_link_frames),
        T(test_links_max),
        T(test_links_are_shared_out),
        T(test_port_in_use),
        T(test_dialer_comes_back),
        T(test_dialer_that_is_refused_backs_off),
        cmocka_unit_test(test_backoff),
        cmocka_unit_test(test_parse_addr),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
