/* Workers that lie, and followers who find it: what breaks the rules of the protocol is refused at once, what
 * is only wrong is found by those to whom the gateway passes its streams on. */
#include "vd_test_gateway.h"

#include "vd_verifier.h"

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

static void say(struct vd_link *l, const struct vd_wire_token *m)
{
    uint8_t buf[256];
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    vd_wire_put_token(&w, m);
    send_frame(l, VD_WIRE_TOKEN, &w);
}

static void refuse(struct vd_link *l, const struct vd_wire_job *m, enum vd_wire_refuse_code code)
{
    uint8_t buf[256];
    struct vd_wire_refuse no = {.what = vd_sha256_of(m->request.p, m->request.n), .code = code};
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    vd_wire_put_refuse(&w, &no);
    send_frame(l, VD_WIRE_REFUSE, &w);
}

/* As many tokens as were asked for, and a receipt that is right but for a root of other tokens. */
static void liar_answers(struct vd_link *l, const struct vd_wire_job *m, const struct vd_request *q)
{
    static const uint32_t said[3] = {100, 101, 102}, signed_for[3] = {100, 101, 103};
    uint8_t buf[VD_RECEIPT_MAX_BYTES + 256], body[VD_RECEIPT_MAX_BYTES];
    struct vd_wire_token said3 = {.job = vd_sha256_of(m->request.p, m->request.n), .ids = {said, 3}};
    assert_int_equal(q->max_tokens, 3);
    say(l, &said3);
    struct vd_receipt r = {.request = *q,
                           .output_root = vd_token_root(m->salt.b, q->n_prompt, signed_for, 3),
                           .n_output = 3,
                           .finish = VD_FINISH_LENGTH,
                           .commit_root = {{1}}};
    assert_true(vd_request_amount(q, 3, &r.amount));
    struct vd_wire_receipt x = {.job = said3.job,
                                .receipt = {body, vd_receipt_encode(&r, body, sizeof body)}};
    vd_key_sign(&x.worker_sig, &t.key[WORKER_B], VD_TAG_RECEIPT, body, x.receipt.n);
    struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
    vd_wire_put_receipt(&w, &x);
    send_frame(l, VD_WIRE_RECEIPT, &w);
}

static void liar_streams(const struct liar *a, struct vd_link *l, const struct vd_wire_job *m,
                         const struct vd_request *q)
{
    uint8_t buf[512], body[VD_PREFIX_MAX_BYTES];
    struct vd_wire_token one = {.job = vd_sha256_of(m->request.p, m->request.n)};
    for (uint32_t i = 0; i < a->n_stream; i++) {
        one.index = i;
        one.ids = (struct vd_wire_tokens){&a->stream[i], 1};
        say(l, &one);
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
        struct vd_pb_writer w = vd_pb_writer_init(buf, sizeof buf);
        vd_wire_put_prefix(&w, &x);
        send_frame(l, VD_WIRE_PREFIX, &w);
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
        refuse(l, &m, VD_REFUSE_WRONG);
    } else if (a->stream) {
        liar_streams(a, l, &m, &q);
        if (a->leaves)
            vd_link_close(l, VD_OK, "");
    } else if (a->refuse_ms) {
        assert_true(m.resume.n > 0);
        vd_clock_sleep_ms(a->refuse_ms);
        refuse(l, &m, VD_REFUSE_RESUME);
    } else if (a->says_tokens) {
        liar_answers(l, &m, &q);
    } else {
        uint32_t id = vd_model_program(t.model)->vocab;
        struct vd_wire_token bad = {.job = vd_sha256_of(m.request.p, m.request.n), .ids = {&id, 1}};
        say(l, &bad);
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

/* Links, and waits until the gateway counts one more worker or verifier. */
static struct vd_link *link_as(const struct vd_link_config *c, enum vd_wire_role role,
                               const struct vd_wire_offer *offer)
{
    struct vd_gateway_stats s = stats();
    uint64_t n = offer ? s.n_workers : s.n_verifiers, until = vd_clock_ms() + WAIT_MS;
    struct vd_link *l = link_to_gateway(c, role, offer);
    while (s = stats(), (offer ? s.n_workers : s.n_verifiers) == n && vd_clock_ms() < until)
        vd_clock_sleep_ms(5);
    return l;
}

static void wait_workers(uint64_t n)
{
    uint64_t until = vd_clock_ms() + WAIT_MS;
    while (stats().n_workers != n && vd_clock_ms() < until)
        vd_clock_sleep_ms(2);
    assert_int_equal(stats().n_workers, n);
}

/* With a stake of the second worker, in whose name others lie. */
static int network_of_liars_up(void **state)
{
    int rc = network_up(state);
    worker_up(1);
    worker_down(1);
    wait_workers(1);
    return rc;
}

/* Links as a worker that is cheaper than the honest one, so that it gets the job. */
static struct vd_link *liar_up(struct liar *a)
{
    const struct vd_wire_offer offer = {t.root, 1, {PRICE_IN}, {PRICE_OUT - 1}, 2048};
    struct vd_link_config c = {.key = a->key ? a->key : &t.key[WORKER_B],
                               .cb = {.arg = a, .on_frame = liar_frame, .on_close = liar_close}};
    pthread_mutex_init(&a->mu, NULL);
    return link_as(&c, VD_ROLE_WORKER, &offer);
}

static void test_a_token_outside_the_vocabulary(void **state)
{
    struct liar a = {.says_tokens = false};
    struct vd_link *l = liar_up(&a);
    expect_ok(post(CHAT, ASK("Say hello.", GREEDY ",\"max_tokens\":3"))); /* by the honest worker */
    vd_link_finish(l);
    assert_int_equal(a.n_jobs, 1);
    assert_int_equal(a.n_accepts, 0);
    assert_int_equal(a.why.code, VD_EFORMAT);
    settle();
}

static void test_a_root_of_other_tokens(void **state)
{
    struct liar a = {.says_tokens = true};
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

static void test_an_honest_stream_is_right(void **state)
{
    struct vd_verifier *v = follower_up();
    struct vd_gateway_stats before = stats();
    struct reply r =
        post(CHAT, ASK("Write a long story about the sea.", GREEDY ",\"max_tokens\":150,\"stream\":true"));
    expect_ok(r);
    expect_ok(
        post(CHAT, ASK("A word in JSON.",
                       ",\"max_tokens\":40,\"seed\":2,\"response_format\":{\"type\":\"json_object\"}")));
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
    expect_ok(r);
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
    refuse(l, &m, a->says);
    free(memory);
}

static struct vd_link *watcher_up(struct watcher *a, int role)
{
    struct vd_link_config c = {.key = &t.key[role], .cb = {.arg = a, .on_frame = watcher_frame}};
    pthread_mutex_init(&a->mu, NULL);
    return link_as(&c, VD_ROLE_VERIFIER, NULL);
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
    named.says = VD_REFUSE_STOPPING; /* which is no word about the worker */
    struct vd_link *l = watcher_up(&named, FOLLOWER), *m = watcher_up(&other, WORKER_B);
    settle();
    struct vd_gateway_stats before = stats();
    struct reply r = post(CHAT, ASK("Say hello.", GREEDY ",\"max_tokens\":3"));
    expect_ok(r);
    await_seen(&named, VD_WIRE_RECEIPT, 1);
    assert_int_equal(seen(&named, VD_WIRE_JOB), 1);
    unsigned n_tokens = seen(&named, VD_WIRE_TOKEN);
    assert_true(n_tokens >= 1);
    vd_link_finish(m);
    struct vd_link *b = liar_up(&a); /* a token that is none */
    expect_ok(post(CHAT, ASK("Say hello.", GREEDY ",\"max_tokens\":1")));
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
        struct vd_gateway_stats before = stats();
        struct vd_link *l = liar_up(&a);
        struct reply r = post(CHAT, LONG_QUESTION);
        expect_ok(r); /* by the honest worker */
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
    struct vd_gateway_stats before = stats();
    struct vd_link *l = liar_up(&a);
    expect_ok(post(CHAT, ASK("Say hello.", GREEDY ",\"max_tokens\":3")));
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
    expect_ok(post(CHAT, LONG_QUESTION)); /* by the honest one */
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
    expect_ok(post(CHAT, LONG_QUESTION)); /* by the honest one, whose key the slow one had */
    assert_int_equal(wrong.n_jobs, 1);
    vd_link_finish(first);
    vd_verifier_stop(v);
    settle();
    free(tokens);
}

static int forget_who_was_wrong(void **state)
{
    (void)state;
    restart_gateway();
    return 0;
}

int main(void)
{
    if (!model_is_there())
        return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_token_outside_the_vocabulary),
        cmocka_unit_test(test_a_root_of_other_tokens),
        cmocka_unit_test(test_who_follows_is_given_streams),
        cmocka_unit_test(test_a_statement_that_does_not_fit),
        cmocka_unit_test(test_only_followers_say_wrong),
        cmocka_unit_test(test_an_honest_stream_is_right),
        cmocka_unit_test_teardown(test_a_wrong_statement_is_found, forget_who_was_wrong),
        cmocka_unit_test_teardown(test_a_wrong_token_is_found, forget_who_was_wrong),
        cmocka_unit_test_teardown(test_who_resumes_is_not_blamed, forget_who_was_wrong),
    };
    return cmocka_run_group_tests(tests, network_of_liars_up, network_down);
}
