/* The follower alone, with two gateways over real links that say what they like: which statements it looks
 * at, how many may wait, and whose streams they are. A true answer of a small random model is known. Its
 * thread can be held: its log is a pipe that is full, and at a wrong stream, after it has told, it writes a
 * line. */
#include "vd_clock.h"
#include "vd_replay.h"
#include "vd_test_model.h"
#include "vd_trace_hash.h"
#include "vd_verifier_follow.h"
#include "vd_wire.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>
#include <cmocka.h>

#define HOST "127.0.0.1"
enum { WAIT_MS = 20000, PROMPT = 12, N = 20, GATEWAYS = 2 };

/* One side of a link that only counts. */
struct gateway {
    struct vd_keypair key;
    struct vd_link *link;
    unsigned n_sent;  /* frames */
    unsigned n_wrong; /* that it was told; under mu */
};

struct fixture {
    char path[VD_PATH_MAX];
    struct vd_pool *pool;
    struct vd_model *model;
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
    struct vd_hash root;
    int log[2]; /* a pipe */
    struct vd_follow *follow;
    struct vd_keypair key;
    struct vd_link_listener *listener;
    struct gateway gateway[GATEWAYS];
    pthread_mutex_t mu;
    unsigned n_frames, n_closed; /* that the follower has taken note of; under mu */

    uint32_t prompt[PROMPT], output[N];
    uint8_t salt[VD_SALT_BYTES];
    struct vd_hash commit[N + 1], output_root[N + 1]; /* when so many tokens are known */
};

static void sure(enum vd_err e, const struct vd_error *err)
{
    if (e != VD_OK)
        fail_msg("%s", err->msg);
}

/* Until *n, of mu, is `want`. */
static void await(struct fixture *f, const unsigned *n, unsigned want)
{
    uint64_t until = vd_clock_ms() + WAIT_MS;
    unsigned got;
    do {
        vd_clock_sleep_ms(1);
        pthread_mutex_lock(&f->mu);
        got = *n;
        pthread_mutex_unlock(&f->mu);
    } while (got != want && vd_clock_ms() < until);
    assert_int_equal(got, want);
}

/* Until so many streams are over. What else is counted of one that is wrong follows its verdict. */
static struct vd_follow_stats await_verdicts(struct fixture *f, uint64_t n)
{
    uint64_t until = vd_clock_ms() + WAIT_MS;
    struct vd_follow_stats s;
    do {
        vd_clock_sleep_ms(1);
        vd_follow_get_stats(f->follow, &s);
    } while (s.n_right + s.n_wrong + s.n_cut < n && vd_clock_ms() < until);
    return s;
}

static void await_seen(struct fixture *f, uint64_t n_tokens, uint64_t n_statements)
{
    uint64_t until = vd_clock_ms() + WAIT_MS;
    struct vd_follow_stats s;
    do {
        vd_clock_sleep_ms(1);
        vd_follow_get_stats(f->follow, &s);
    } while ((s.n_tokens < n_tokens || s.n_statements < n_statements) && vd_clock_ms() < until);
    assert_int_equal(s.n_tokens, n_tokens);
    assert_int_equal(s.n_statements, n_statements);
}

/* ---- Links ---- */

static void on_frame(void *arg, struct vd_link *link, unsigned type, struct vd_bytes body)
{
    struct fixture *f = arg;
    vd_follow_on_frame(f->follow, link, type, body);
    pthread_mutex_lock(&f->mu);
    f->n_frames++;
    pthread_mutex_unlock(&f->mu);
}

static void on_close(void *arg, struct vd_link *link, const struct vd_error *why)
{
    struct fixture *f = arg;
    (void)why;
    vd_follow_on_close(f->follow, link);
    pthread_mutex_lock(&f->mu);
    f->n_closed++;
    pthread_mutex_unlock(&f->mu);
}

static void on_told(void *arg, struct vd_link *link, unsigned type, struct vd_bytes body)
{
    struct fixture *f = arg;
    struct vd_wire_refuse m;
    assert_int_equal(type, VD_WIRE_REFUSE);
    assert_true(vd_wire_get_refuse(&m, body));
    assert_int_equal(m.code, VD_REFUSE_WRONG);
    pthread_mutex_lock(&f->mu);
    f->gateway[vd_link_user(link) != NULL].n_wrong++;
    pthread_mutex_unlock(&f->mu);
}

static void connect_gateways(struct fixture *f)
{
    struct vd_error err;
    struct vd_link_config c = {.key = &f->key, .cb = {.arg = f, .on_frame = on_frame, .on_close = on_close}};
    sure(vd_link_listen(&f->listener, &c, HOST, 0, &err), &err);
    for (unsigned i = 0; i < GATEWAYS; i++) {
        uint8_t seed[VD_SEED_BYTES] = {2, (uint8_t)i};
        vd_key_from_seed(&f->gateway[i].key, seed);
        struct vd_link_config g = {.key = &f->gateway[i].key, .cb = {.arg = f, .on_frame = on_told}};
        sure(vd_link_dial(&f->gateway[i].link, &g, HOST, vd_link_listener_port(f->listener), &f->key.pub,
                          &err),
             &err);
        vd_link_set_user(f->gateway[i].link, i ? f : NULL);
    }
}

/* Sends it, and waits until the follower has taken note. */
static void put(struct fixture *f, unsigned gateway, unsigned type, const struct vd_pb_writer *w)
{
    struct vd_error err;
    unsigned n = 0;
    sure(vd_link_send(f->gateway[gateway].link, type, w->p, w->n_bytes, &err), &err);
    f->gateway[gateway].n_sent++;
    for (unsigned i = 0; i < GATEWAYS; i++)
        n += f->gateway[i].n_sent;
    await(f, &f->n_frames, n);
}

/* ---- What is sent ---- */

/* Jobs of different sequences are of the same answer. */
static struct vd_receipt receipt_of(const struct fixture *f, uint64_t sequence)
{
    struct vd_receipt r = {.request = {.arith_version = VD_ARITH_VERSION,
                                       .valid_until = 1000,
                                       .sequence = sequence,
                                       .gateway = f->gateway[0].key.pub,
                                       .worker = f->key.pub,
                                       .model_root = f->root,
                                       .prompt_root = vd_token_root(f->salt, 0, f->prompt, PROMPT),
                                       .n_prompt = PROMPT,
                                       .salt_commit = vd_salt_commit(f->salt),
                                       .sampling = {.top_p_micro = VD_SAMPLE_MICRO},
                                       .max_tokens = N},
                           .n_output = N,
                           .finish = VD_FINISH_LENGTH,
                           .output_root = f->output_root[N],
                           .commit_root = f->commit[N]};
    return r;
}

static struct vd_hash job_of(const struct fixture *f, uint64_t sequence, uint8_t buf[VD_REQUEST_MAX_BYTES],
                             size_t *n)
{
    struct vd_receipt r = receipt_of(f, sequence);
    *n = vd_request_encode(&r.request, buf, VD_REQUEST_MAX_BYTES);
    assert_true(*n > 0);
    return vd_receipt_id((struct vd_bytes){buf, *n});
}

static void put_job(struct fixture *f, unsigned gateway, uint64_t sequence)
{
    uint8_t buf[4096], request[VD_REQUEST_MAX_BYTES];
    size_t n;
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    struct vd_wire_job m = {.prompt = {f->prompt, PROMPT}};
    (void)job_of(f, sequence, request, &n);
    m.request = (struct vd_bytes){request, n};
    memcpy(m.salt.b, f->salt, VD_SALT_BYTES);
    assert_true(vd_wire_put_job(&w, &m));
    put(f, gateway, VD_WIRE_JOB, &w);
}

/* Tokens from .. to - 1. */
static void put_tokens(struct fixture *f, unsigned gateway, uint64_t sequence, uint32_t from, uint32_t to)
{
    uint8_t buf[4096], request[VD_REQUEST_MAX_BYTES];
    size_t n;
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    struct vd_wire_token m = {
        .job = job_of(f, sequence, request, &n), .index = from, .ids = {f->output + from, to - from}};
    assert_true(vd_wire_put_token(&w, &m));
    put(f, gateway, VD_WIRE_TOKEN, &w);
}

/* Of the first `at` tokens. */
static void put_prefix(struct fixture *f, unsigned gateway, uint64_t sequence, uint32_t at, bool lie)
{
    uint8_t buf[1024], statement[256], request[VD_REQUEST_MAX_BYTES];
    size_t n;
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    struct vd_wire_prefix m = {.job = job_of(f, sequence, request, &n)};
    struct vd_receipt_prefix p = {
        .job_id = m.job, .n_output = at, .output_root = f->output_root[at], .commit_root = f->commit[at]};
    p.commit_root.b[0] ^= lie;
    m.statement = (struct vd_bytes){statement, vd_receipt_prefix_encode(&p, statement, sizeof statement)};
    assert_true(m.statement.n > 0 && vd_wire_put_prefix(&w, &m));
    put(f, gateway, VD_WIRE_PREFIX, &w);
}

static void put_receipt(struct fixture *f, unsigned gateway, uint64_t sequence, bool lie)
{
    uint8_t buf[2048], body[VD_RECEIPT_MAX_BYTES], request[VD_REQUEST_MAX_BYTES];
    size_t n;
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    struct vd_receipt r = receipt_of(f, sequence);
    r.commit_root.b[0] ^= lie;
    struct vd_wire_receipt m = {.job = job_of(f, sequence, request, &n)};
    m.receipt = (struct vd_bytes){body, vd_receipt_encode(&r, body, sizeof body)};
    assert_true(m.receipt.n > 0 && vd_wire_put_receipt(&w, &m));
    put(f, gateway, VD_WIRE_RECEIPT, &w);
}

static void put_cancel(struct fixture *f, unsigned gateway, uint64_t sequence)
{
    uint8_t buf[64], request[VD_REQUEST_MAX_BYTES];
    size_t n;
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    struct vd_wire_cancel m = {.job = job_of(f, sequence, request, &n)};
    assert_true(vd_wire_put_cancel(&w, &m));
    put(f, gateway, VD_WIRE_CANCEL, &w);
}

/* ---- The follower held ---- */

/* Its thread has told gateway 0 of a wrong stream and now waits for somebody to read its log. */
static void hold(struct fixture *f)
{
    uint8_t full[4096] = {0};
    unsigned n_wrong = f->gateway[0].n_wrong;
    int flags = fcntl(f->log[1], F_GETFL);
    assert_int_equal(fcntl(f->log[1], F_SETFL, flags | O_NONBLOCK), 0);
    for (size_t n = sizeof full; n > 0; n /= 2)
        while (write(f->log[1], full, n) > 0)
            ;
    assert_int_equal(fcntl(f->log[1], F_SETFL, flags), 0);
    put_job(f, 0, 1000);
    put_prefix(f, 0, 1000, 1, true); /* before any token: not its place */
    f->output[0] ^= 1;
    put_tokens(f, 0, 1000, 0, 1);
    f->output[0] ^= 1;
    await(f, &f->gateway[0].n_wrong, n_wrong + 1);
    put_cancel(f, 0, 1000);
}

static void release(struct fixture *f)
{
    uint8_t some[4096];
    int flags = fcntl(f->log[0], F_GETFL);
    assert_int_equal(fcntl(f->log[0], F_SETFL, flags | O_NONBLOCK), 0);
    while (read(f->log[0], some, sizeof some) > 0)
        ;
}

/* ---- Set up ---- */

/* The model's answer, a token at a time, by what replay says of a wrong one. */
static void answer(struct fixture *f)
{
    struct vd_replay_result r;
    struct vd_error err;
    struct vd_receipt receipt = receipt_of(f, 1);
    struct vd_proof_job job = {
        .receipt = &receipt, .prompt = f->prompt, .output = f->output, .job_salt = f->salt};
    for (uint32_t g = 1; g <= N; g++) {
        for (unsigned again = 0; again < 2; again++) {
            struct vd_replay_stream *s;
            sure(vd_replay_stream_open(&s, f->ctx, f->cache, &f->root, &job, &r, &err), &err);
            assert_non_null(s);
            sure(vd_replay_stream_add(s, f->output, g, &r, &err), &err);
            vd_replay_stream_close(s);
            if (r.verdict == VD_REPLAY_TOKEN)
                f->output[g - 1] = r.want;
        }
        assert_int_equal(r.verdict, VD_REPLAY_OK);
        f->commit[g] = r.commit_root;
        f->output_root[g] = vd_token_root(f->salt, PROMPT, f->output, g);
    }
}

static int setup(void **state)
{
    struct fixture *f = *state = calloc(1, sizeof *f);
    struct vd_error err;
    uint8_t seed[VD_SEED_BYTES] = {1};
    assert_int_equal(vd_key_init(NULL), VD_OK);
    vd_key_from_seed(&f->key, seed);
    pthread_mutex_init(&f->mu, NULL);
    assert_int_equal(pipe(f->log), 0);
    vd_test_model_file(&vd_test_model_default, f->path);
    const struct vd_kern *kern = vd_kern_pick(NULL, &err);
    assert_non_null(kern);
    sure(vd_pool_create(&f->pool, 1, &err), &err);
    sure(vd_model_open(&f->model, f->path, kern, f->pool, &err), &err);
    sure(vd_model_root_compute(f->model, NULL, &f->root, &err), &err);
    sure(vd_ctx_create(&f->ctx, f->model, f->pool, 64, 64, &err), &err);
    sure(vd_kv_pool_create(&f->cache, f->model, 8 << 20, &err), &err);
    for (uint32_t i = 0; i < PROMPT; i++)
        f->prompt[i] = (i * 37 + 5) % 200;
    memset(f->salt, 9, sizeof f->salt);
    answer(f);
    struct vd_log log = vd_log_init(f->log[1], "follower", VD_LOG_WARN, false);
    struct vd_verifier_model m = {f->model, f->pool, f->root};
    sure(vd_follow_start(&f->follow, &m, 1, &log, &err), &err);
    connect_gateways(f);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    release(f);
    for (unsigned i = 0; i < GATEWAYS; i++)
        vd_link_finish(f->gateway[i].link);
    vd_link_listener_stop(f->listener);
    vd_follow_stop(f->follow);
    vd_kv_pool_destroy(f->cache);
    vd_ctx_destroy(f->ctx);
    vd_model_close(f->model);
    vd_pool_destroy(f->pool);
    close(f->log[0]);
    close(f->log[1]);
    unlink(f->path);
    free(f);
    return 0;
}

/* ---- Tests ---- */

/* One at another place than behind the tokens that have come is not looked at, be it ever so true, and the
 * stream is followed as if it had not come: whether the follower is behind the place that it names, or has
 * gone past it. */
static void a_statement_stands_behind_its_tokens(void **state)
{
    struct fixture *f = *state;
    hold(f);
    put_job(f, 0, 1);
    put_tokens(f, 0, 1, 0, 10);
    put_prefix(f, 0, 1, 5, false);
    put_prefix(f, 0, 1, 15, false);
    put_prefix(f, 0, 1, 10, false);
    put_tokens(f, 0, 1, 10, N);
    put_prefix(f, 0, 1, N, false);
    put_receipt(f, 0, 1, false);
    release(f);
    struct vd_follow_stats s = await_verdicts(f, 2);
    assert_int_equal(s.n_wrong, 1); /* what held it */
    assert_int_equal(s.n_right, 1);
    assert_int_equal(s.n_statements, 2);
    put_job(f, 0, 2);
    put_tokens(f, 0, 2, 0, 10);
    await_seen(f, s.n_tokens + 10, 2);
    put_prefix(f, 0, 2, 5, false);
    put_tokens(f, 0, 2, 10, N);
    await_seen(f, s.n_tokens + N, 2);
    put_prefix(f, 0, 2, N, true); /* and a lie at its place is seen */
    await_seen(f, s.n_tokens + N, 3);
    s = await_verdicts(f, 3);
    assert_int_equal(s.n_wrong, 2);
    assert_int_equal(s.n_cut, 0);
}

/* The tokens are looked at, all the same. */
static void no_more_statements_wait_than_there_is_room_for(void **state)
{
    struct fixture *f = *state;
    hold(f);
    put_job(f, 0, 1);
    put_tokens(f, 0, 1, 0, 10);
    for (unsigned i = 0; i < 3 * VD_FOLLOW_SAID_MAX; i++)
        put_prefix(f, 0, 1, 10, false);
    put_tokens(f, 0, 1, 10, N);
    put_prefix(f, 0, 1, N, true); /* no room for it any more */
    put_receipt(f, 0, 1, false);
    release(f);
    struct vd_follow_stats s = await_verdicts(f, 2);
    assert_int_equal(s.n_statements, VD_FOLLOW_SAID_MAX);
    assert_int_equal(s.n_right, 1);
    assert_int_equal(s.n_wrong, 1); /* what held it */
}

/* Whatever another gateway says of it. */
static void a_stream_is_of_the_link_it_came_from(void **state)
{
    struct fixture *f = *state;
    put_job(f, 0, 1);
    put_tokens(f, 0, 1, 0, 10);
    put_tokens(f, 1, 1, 11, 12); /* with a gap */
    put_tokens(f, 1, 1, 10, 12);
    put_prefix(f, 1, 1, 10, true);
    put_receipt(f, 1, 1, true);
    put_cancel(f, 1, 1);
    put_tokens(f, 0, 1, 10, N);
    put_receipt(f, 0, 1, false);
    struct vd_follow_stats s = await_verdicts(f, 1);
    assert_int_equal(s.n_right, 1);
    assert_int_equal(s.n_wrong + s.n_cut, 0);
    assert_int_equal(s.n_tokens, N);
    /* Nor if it has a stream of the same job itself. */
    put_job(f, 0, 2);
    put_job(f, 1, 2);
    f->output[3] ^= 1;
    put_tokens(f, 1, 2, 0, 10);
    f->output[3] ^= 1;
    put_tokens(f, 0, 2, 0, N);
    put_receipt(f, 0, 2, false);
    s = await_verdicts(f, 3);
    assert_int_equal(s.n_right, 2);
    assert_int_equal(s.n_wrong, 1);
    await(f, &f->gateway[1].n_wrong, 1);
    assert_int_equal(f->gateway[0].n_wrong, 0);
}

static void a_link_that_ends_takes_its_own_streams_along(void **state)
{
    struct fixture *f = *state;
    hold(f);
    put_job(f, 0, 1);
    put_tokens(f, 0, 1, 0, 10);
    put_job(f, 1, 2); /* this one is whole, and waits for its verdict */
    put_tokens(f, 1, 2, 0, N);
    put_receipt(f, 1, 2, false);
    put_job(f, 1, 3);
    put_tokens(f, 1, 3, 0, 10);
    vd_link_finish(f->gateway[1].link);
    f->gateway[1].link = NULL;
    await(f, &f->n_closed, 1);
    release(f);
    struct vd_follow_stats s = await_verdicts(f, 3);
    assert_int_equal(s.n_wrong, 1); /* what held it */
    assert_int_equal(s.n_right, 1);
    assert_int_equal(s.n_cut, 1);
    put_tokens(f, 0, 1, 10, N);
    put_receipt(f, 0, 1, false);
    s = await_verdicts(f, 4);
    assert_int_equal(s.n_right, 2);
    assert_int_equal(s.n_cut, 1);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_statement_stands_behind_its_tokens),
        T(no_more_statements_wait_than_there_is_room_for),
        T(a_stream_is_of_the_link_it_came_from),
        T(a_link_that_ends_takes_its_own_streams_along),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
