/* A real ledger on a real chain, asked over real links: results, queries, blocks, a restart in the middle. */
#include "vd_clock.h"
#include "vd_ledger_testing.h"
#include "vd_ledgerd.h"

#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#define HOST VD_TEST_HOST
enum { WAIT_MS = 10000, BALANCE = 1000000 };

struct fixture {
    char dir[64];
    struct vd_keypair ledger_key, alice, bob;
    struct vd_genesis_account account[2];
    struct vd_genesis genesis;
    struct vd_ledgerd *d;
    struct vd_ledger_client *c;
    uint16_t port;
    pthread_mutex_t mu;
    uint64_t last_height, n_blocks, n_gaps, n_transfers;
};

static void key_of(struct vd_keypair *k, uint8_t n)
{
    uint8_t seed[VD_SEED_BYTES] = {n};
    vd_key_from_seed(k, seed);
}

static void ledger_up(struct fixture *f)
{
    struct vd_ledgerd_config cfg = {.dir = f->dir,
                                    .genesis = &f->genesis,
                                    .key = &f->ledger_key,
                                    .host = HOST,
                                    .port = f->port,
                                    .http_host = HOST};
    struct vd_error err;
    if (vd_ledgerd_start(&f->d, &cfg, &err) != VD_OK)
        fail_msg("%s", err.msg);
    f->port = vd_ledgerd_port(f->d);
}

static void on_block(void *arg, uint64_t height, uint64_t time_ms, const struct vd_event *event, size_t n)
{
    struct fixture *f = arg;
    (void)time_ms;
    pthread_mutex_lock(&f->mu);
    f->n_gaps += f->last_height && height != f->last_height + 1;
    f->last_height = height;
    f->n_blocks++;
    for (size_t i = 0; i < n; i++)
        f->n_transfers += event[i].kind == VD_EVENT_TRANSFER;
    pthread_mutex_unlock(&f->mu);
}

static struct vd_ledger_client *client_of(struct fixture *f, const struct vd_keypair *key)
{
    struct vd_ledger_client_config cfg = {
        .from_height = 1, .arg = f, .on_block = key == &f->alice ? on_block : NULL};
    return vd_test_ledger_client(cfg, key, f->port, &f->ledger_key.pub, VD_ROLE_CLIENT);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct vd_error err;
    vd_key_init(NULL);
    snprintf(f->dir, sizeof f->dir, "/tmp/vd_ledgerd_test.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    key_of(&f->ledger_key, 1);
    key_of(&f->alice, 2);
    key_of(&f->bob, 3);
    f->account[0] = (struct vd_genesis_account){f->alice.pub, {BALANCE}};
    f->account[1] = (struct vd_genesis_account){f->bob.pub, {BALANCE}};
    f->genesis = vd_test_genesis(f->account, 2, &f->ledger_key.pub);
    if (vd_genesis_check(&f->genesis, &err) != VD_OK)
        fail_msg("%s", err.msg);
    pthread_mutex_init(&f->mu, NULL);
    ledger_up(f);
    f->c = client_of(f, &f->alice);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    vd_ledger_client_stop(f->c);
    vd_ledgerd_stop(f->d);
    vd_test_remove_dir(f->dir);
    free(f);
    return 0;
}

static struct vd_tx transfer(const struct vd_pubkey *to, uint64_t micro)
{
    return (struct vd_tx){.kind = VD_TX_TRANSFER, .u.transfer = {*to, {micro}}};
}

static void send_ok(struct vd_ledger_client *c, struct vd_tx *tx, struct vd_ledger_outcome *out)
{
    struct vd_error err;
    if (vd_ledger_client_send(c, tx, WAIT_MS, out, &err) != VD_OK)
        fail_msg("%s", err.msg);
}

static void test_send_and_query(void **state)
{
    struct fixture *f = *state;
    struct vd_ledger_outcome out;
    struct vd_error err;
    struct vd_account a;
    for (int i = 0; i < 3; i++) {
        struct vd_tx tx = transfer(&f->bob.pub, 100);
        send_ok(f->c, &tx, &out);
        assert_true(out.height > 0);
    }
    assert_int_equal(vd_ledger_client_account(f->c, &f->bob.pub, &a, &err), VD_OK);
    assert_int_equal(a.balance.micro, BALANCE + 300);
    assert_int_equal(vd_ledger_client_account(f->c, &f->alice.pub, &a, &err), VD_OK);
    assert_int_equal(a.nonce, 3);
    struct vd_tx too_much = transfer(&f->bob.pub, BALANCE);
    assert_int_equal(vd_ledger_client_send(f->c, &too_much, WAIT_MS, &out, &err), VD_EFALSE);
    assert_int_equal(out.verdict, VD_TX_FUNDS);
    struct vd_tx again = transfer(&f->bob.pub, 1); /* the nonce was not used up */
    send_ok(f->c, &again, &out);
    struct vd_stake s;
    assert_int_equal(vd_ledger_client_stake(f->c, &f->bob.pub, &s, &err), VD_ENOTFOUND);
    struct vd_totals t;
    assert_int_equal(vd_ledger_client_totals(f->c, &t, &err), VD_OK);
    assert_int_equal(t.bucket[VD_BUCKET_ACCOUNTS].micro, 2 * BALANCE);
}

/* One of them is refused; the others are applied, and not each in a block of its own. */
static void test_many_at_once(void **state)
{
    struct fixture *f = *state;
    enum { N = 20, BAD = 7 };
    struct vd_ledger_sending s[N];
    struct vd_tx tx[N];
    struct vd_keypair to;
    struct vd_account have;
    uint64_t first = UINT64_MAX, last = 0;
    key_of(&to, 77);
    for (int i = 0; i < N; i++) {
        tx[i] = (struct vd_tx){.kind = VD_TX_TRANSFER};
        tx[i].u.transfer.to = to.pub;
        tx[i].u.transfer.amount = vd_amount_micro(i == BAD ? UINT64_MAX / 2 : 1);
        s[i] = (struct vd_ledger_sending){.tx = &tx[i]};
    }
    vd_ledger_client_send_all(f->c, s, N, WAIT_MS);
    for (int i = 0; i < N; i++) {
        assert_int_equal(s[i].result, i == BAD ? VD_EFALSE : VD_OK);
        if (i == BAD)
            continue;
        first = s[i].out.height < first ? s[i].out.height : first;
        last = s[i].out.height > last ? s[i].out.height : last;
    }
    assert_true(last - first < N / 2);
    assert_int_equal(vd_ledger_client_account(f->c, &to.pub, &have, NULL), VD_OK);
    assert_int_equal(have.balance.micro, N - 1);
}

static void test_same_bytes_twice(void **state)
{
    struct fixture *f = *state;
    const struct vd_genesis *g;
    struct vd_tx tx = transfer(&f->bob.pub, 5);
    struct vd_ledger_outcome first, second;
    struct vd_error err;
    struct vd_account a;
    static uint8_t buf[VD_TX_MAX_BYTES];
    assert_int_equal(vd_ledger_client_genesis(f->c, &g, &tx.genesis, &err), VD_OK);
    assert_string_equal(g->network, "test");
    tx.sender = f->alice.pub;
    size_t n = vd_tx_sign(&tx, &f->alice, buf, sizeof buf, NULL);
    assert_int_equal(vd_ledger_client_submit(f->c, (struct vd_bytes){buf, n}, WAIT_MS, &first, &err), VD_OK);
    assert_int_equal(vd_ledger_client_submit(f->c, (struct vd_bytes){buf, n}, WAIT_MS, &second, &err), VD_OK);
    assert_int_equal(second.verdict, VD_TX_OK);
    assert_int_equal(first.height, second.height);
    assert_int_equal(vd_ledger_client_account(f->c, &f->bob.pub, &a, &err), VD_OK);
    assert_int_equal(a.balance.micro, BALANCE + 5);
}

static bool count_record(void *arg, struct vd_bytes key, struct vd_bytes value)
{
    int *n = arg;
    assert_int_equal(key.p[0], VD_STATE_ACCOUNT);
    assert_true(value.n > 0);
    ++*n;
    return true;
}

static void test_list_and_status(void **state)
{
    struct fixture *f = *state;
    struct vd_error err;
    int n = 0;
    struct vd_state_key accounts = vd_state_key_make(VD_STATE_ACCOUNT, NULL, 0, NULL);
    assert_int_equal(vd_ledger_client_list(f->c, &accounts, count_record, &n, &err), VD_OK);
    assert_true(n >= 2);
    struct vd_ledger_answer a;
    struct vd_wire_query q = {.kind = VD_QUERY_STATUS};
    assert_int_equal(vd_ledger_client_query(f->c, &q, WAIT_MS, &a, &err), VD_OK);
    assert_int_equal(a.n_items, 5);
    assert_int_equal(vd_le32_load(a.item[3].p), VD_OK);
    vd_ledger_answer_free(&a);
    uint8_t key[12] = {1};
    q = (struct vd_wire_query){.kind = VD_QUERY_BLOCK, .key = {key, sizeof key}};
    while (vd_ledger_client_height(f->c) < 1)
        vd_clock_sleep_ms(5);
    assert_int_equal(vd_ledger_client_query(f->c, &q, WAIT_MS, &a, &err), VD_OK);
    assert_int_equal(a.n_items, 2);
    assert_int_equal(vd_le32_load(a.item[0].p), a.item[1].n);
    vd_ledger_answer_free(&a);
    q = (struct vd_wire_query){.kind = 99};
    assert_int_equal(vd_ledger_client_query(f->c, &q, WAIT_MS, &a, &err), VD_EUNSUPPORTED);
}

static void test_blocks_without_gaps_over_a_restart(void **state)
{
    struct fixture *f = *state;
    struct vd_ledger_outcome out;
    struct vd_tx tx = transfer(&f->bob.pub, 1);
    send_ok(f->c, &tx, &out);
    vd_ledgerd_stop(f->d);
    ledger_up(f); /* the same folder and port */
    tx = transfer(&f->bob.pub, 1);
    send_ok(f->c, &tx, &out);
    uint64_t seen = 0, until = vd_clock_ms() + WAIT_MS;
    while (seen < out.height && vd_clock_ms() < until) {
        vd_clock_sleep_ms(5);
        pthread_mutex_lock(&f->mu);
        seen = f->last_height;
        pthread_mutex_unlock(&f->mu);
    }
    pthread_mutex_lock(&f->mu);
    assert_true(f->last_height >= out.height);
    assert_int_equal(f->n_gaps, 0);
    assert_int_equal(f->n_blocks, f->last_height);
    assert_int_equal(f->n_transfers, 2);
    pthread_mutex_unlock(&f->mu);
}

struct sender {
    struct fixture *f;
    struct vd_ledger_client *c;
    int n_ok;
};

static void *send_many(void *arg)
{
    struct sender *s = arg;
    for (int i = 0; i < 5; i++) {
        struct vd_tx tx = transfer(&s->f->ledger_key.pub, 1);
        struct vd_ledger_outcome out;
        s->n_ok += vd_ledger_client_send(s->c, &tx, WAIT_MS, &out, NULL) == VD_OK;
    }
    return NULL;
}

/* Two threads share one client; a second client of another account sends too; the ledger restarts under them.
 */
static void test_parallel_senders_over_a_restart(void **state)
{
    struct fixture *f = *state;
    struct vd_ledger_client *b = client_of(f, &f->bob);
    struct sender s[3] = {{f, f->c, 0}, {f, f->c, 0}, {f, b, 0}};
    pthread_t t[3];
    struct vd_account a;
    for (int i = 0; i < 3; i++)
        pthread_create(&t[i], NULL, send_many, &s[i]);
    vd_clock_sleep_ms(60);
    vd_ledgerd_stop(f->d);
    ledger_up(f);
    for (int i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(s[0].n_ok + s[1].n_ok + s[2].n_ok, 15);
    assert_int_equal(vd_ledger_client_account(f->c, &f->ledger_key.pub, &a, NULL), VD_OK);
    assert_int_equal(a.balance.micro, 15);
    vd_ledger_client_stop(b);
}

static void test_another_network(void **state)
{
    struct fixture *f = *state;
    struct vd_hash other = {{7}};
    struct vd_ledger_client_config cfg = {
        .key = &f->bob, .host = HOST, .port = f->port, .genesis = &other, .role = VD_ROLE_CLIENT};
    struct vd_ledger_client *c = NULL;
    struct vd_error err;
    assert_int_equal(vd_ledger_client_start(&c, &cfg, &err), VD_OK);
    assert_int_equal(vd_ledger_client_wait(c, 400, &err), VD_ECONFLICT);
    assert_non_null(strstr(err.msg, "network"));
    vd_ledger_client_stop(c);
}

static void test_nobody_listens(void **state)
{
    struct fixture *f = *state;
    struct vd_ledger_client_config cfg = {
        .key = &f->bob, .host = HOST, .port = f->port, .role = VD_ROLE_CLIENT};
    struct vd_ledger_client *c = NULL;
    struct vd_error err;
    vd_ledgerd_stop(f->d);
    f->d = NULL;
    assert_int_equal(vd_ledger_client_start(&c, &cfg, &err), VD_OK);
    assert_int_equal(vd_ledger_client_wait(c, 400, &err), VD_ENET);
    assert_non_null(strstr(err.msg, "refused"));
    assert_non_null(strstr(err.msg, "is it running"));
    vd_ledger_client_stop(c);
}

static void test_folder_and_port_in_use(void **state)
{
    struct fixture *f = *state;
    struct vd_ledgerd *second = NULL;
    struct vd_error err;
    struct vd_ledgerd_config cfg = {
        .dir = f->dir, .genesis = &f->genesis, .key = &f->ledger_key, .host = HOST};
    assert_int_equal(vd_ledgerd_start(&second, &cfg, &err), VD_EBUSY);
}

static void *cancel_soon(void *arg)
{
    vd_clock_sleep_ms(50);
    vd_ledger_client_cancel(arg);
    return NULL;
}

static void test_cancel_wakes_who_waits(void **state)
{
    struct fixture *f = *state;
    pthread_t t;
    struct vd_ledger_outcome out;
    struct vd_tx tx = transfer(&f->bob.pub, 1);
    vd_ledgerd_stop(f->d);
    f->d = NULL;
    pthread_create(&t, NULL, cancel_soon, f->c);
    assert_int_equal(vd_ledger_client_send(f->c, &tx, WAIT_MS, &out, NULL), VD_ECANCELLED);
    pthread_join(t, NULL);
}

/* One HTTP exchange, by hand. */
static void http_get(uint16_t port, const char *path, char out[8192])
{
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char request[256];
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    size_t n = 0;
    ssize_t got;
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    int len =
        snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path);
    assert_int_equal(send(fd, request, (size_t)len, MSG_NOSIGNAL), len);
    while (n < 8191 && (got = recv(fd, out + n, 8191 - n, 0)) > 0)
        n += (size_t)got;
    out[n] = 0;
    close(fd);
}

static void test_health_and_metrics(void **state)
{
    struct fixture *f = *state;
    char text[8192];
    http_get(vd_ledgerd_http_port(f->d), "/health", text);
    assert_non_null(strstr(text, "200 OK"));
    assert_non_null(strstr(text, "\"status\":\"ok\""));
    http_get(vd_ledgerd_http_port(f->d), "/metrics", text);
    assert_non_null(strstr(text, "\nveridem_ledger_height "));
    assert_non_null(strstr(text, "\nveridem_ledger_links 1\n"));
    http_get(vd_ledgerd_http_port(f->d), "/else", text);
    assert_non_null(strstr(text, "404"));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_send_and_query),
        T(test_many_at_once),
        T(test_same_bytes_twice),
        T(test_list_and_status),
        T(test_blocks_without_gaps_over_a_restart),
        T(test_parallel_senders_over_a_restart),
        T(test_another_network),
        T(test_nobody_listens),
        T(test_folder_and_port_in_use),
        T(test_cancel_wakes_who_waits),
        T(test_health_and_metrics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
