/* Worker and verifier against a real ledger, with a gateway made of a listening link: an honest job from JOB
 * to FINAL, refusals, cancel, resume, and a cheat that runs other weights than it claims, from the audit to
 * the verdict. Small random models, seconds. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "vd_clock.h"
#include "vd_ledger_testing.h"
#include "vd_ledgerd.h"
#include "vd_test_model.h"
#include "vd_trace_hash.h"
#include "vd_verifier_impl.h"
#include "vd_wire.h"
#include "vd_worker.h"
#include "vd_worker_impl.h"

#define HOST "127.0.0.1"
enum { WAIT_MS = 30000, PROMPT = 40, TOKENS_MAX = 256, RECEIPTS_MAX = 16, BALANCE = 100000000 };

/* What the gateway of the tests knows of the one job that it has running. */
struct answer {
    struct vd_hash job;
    uint32_t tokens[TOKENS_MAX];
    uint32_t n_tokens, n_prefix; /* of which the last statement spoke */
    struct vd_hash prefix_commit;
    bool receipt, refused;
    enum vd_wire_refuse_code code;
    struct vd_signed_receipt signed_receipt;
};

struct fixture {
    char dir[64], honest_path[VD_PATH_MAX], cheat_path[VD_PATH_MAX];
    struct vd_keypair ledger_key, gateway_key, worker_key, verifier_key;
    struct vd_genesis_account account[4];
    struct vd_genesis genesis;
    struct vd_hash genesis_hash;
    struct vd_ledgerd *ledgerd;
    struct vd_ledger_client *ledger; /* the gateway's */
    struct vd_link_listener *listener;
    struct vd_pool *pool[3];
    struct vd_model *honest, *cheat, *checker;
    struct vd_hash root, escrow;
    struct vd_worker *worker;
    struct vd_verifier *verifier;
    struct vd_worker_peer ledger_peer, gateway_peer;
    struct vd_keypair stranger_key; /* of another gateway that the verifier is linked to */
    struct vd_link_listener *stranger;
    uint64_t sequence;
    size_t kv_bytes;                 /* of the worker's cache; 0: 8 MiB */
    uint32_t window_blocks;          /* 0: 60 */
    bool long_moves;                 /* the clock of a move is 16 s instead of 4 */
    uint32_t audit_delay_ms;         /* of the gateway's first answer */
    uint64_t asked_ms[RECEIPTS_MAX]; /* when verifiers asked it for data */
    size_t n_asked;

    pthread_mutex_t mu;
    struct vd_link *worker_link, *verifier_link, *stranger_link;
    uint32_t cancel_after; /* tokens; 0: never */
    struct answer a;
    uint32_t prompt[PROMPT];
    uint8_t salt[VD_SALT_BYTES], request[VD_REQUEST_MAX_BYTES];
    size_t n_request;
    struct {
        struct vd_hash id;
        uint8_t *bytes;
        size_t n;
    } kept[RECEIPTS_MAX]; /* envelopes, for audits */
    size_t n_kept;
    bool audits;             /* of the ledger; the verifier is the auditor */
    struct vd_hash withheld; /* the gateway does not answer when it is asked for this one's data */

    struct { /* makes a replay of the verifier's take as long as is wanted */
        enum vd_audit_pass pass;
        unsigned n_skip; /* passes of that kind before */
        bool (*enough)(struct fixture *f);
        atomic_bool began, given_up;
    } slow;
};

static void sure(enum vd_err e, const struct vd_error *err)
{
    if (e != VD_OK)
        fail_msg("%s", err->msg);
}

static bool wait_for(bool (*done)(struct fixture *f), struct fixture *f)
{
    uint64_t until = vd_clock_ms() + WAIT_MS;
    while (vd_clock_ms() < until) {
        if (done(f))
            return true;
        vd_clock_sleep_ms(5);
    }
    return false;
}

/* ---- The gateway ---- */

#define SEND(link, type, put, message, cap)                                                                  \
    do {                                                                                                     \
        uint8_t *buf_ = malloc(cap);                                                                         \
        struct vd_pb_writer w_ = vd_pb_writer_init(buf_, cap);                                               \
        assert_true(put(&w_, message));                                                                      \
        (void)vd_link_send(link, type, buf_, w_.n_bytes, NULL);                                              \
        free(buf_);                                                                                          \
    } while (0)

static void gw_hello(struct fixture *f, struct vd_link *link, struct vd_bytes body)
{
    static struct vd_wire_hello theirs, ours;
    assert_true(vd_wire_get_hello(&theirs, body));
    ours.role = VD_ROLE_GATEWAY;
    ours.software = (struct vd_bytes){(const uint8_t *)"test", 4};
    ours.genesis = f->genesis_hash;
    SEND(link, VD_WIRE_HELLO, vd_wire_put_hello, &ours, 512);
    if (theirs.role == VD_ROLE_VERIFIER) {
        pthread_mutex_lock(&f->mu);
        f->verifier_link = vd_link_ref(link);
        pthread_mutex_unlock(&f->mu);
    }
    if (theirs.role != VD_ROLE_WORKER)
        return;
    assert_int_equal(theirs.n_offers, 1);
    assert_true(vd_hash_eq(&theirs.offer[0].model_root, &f->root));
    pthread_mutex_lock(&f->mu);
    f->worker_link = vd_link_ref(link);
    pthread_mutex_unlock(&f->mu);
}

static void gw_token(struct fixture *f, struct vd_link *link, struct vd_bytes body)
{
    uint8_t memory[1024];
    struct vd_arena arena = vd_arena_init(memory, sizeof memory);
    struct vd_wire_token m;
    assert_true(vd_wire_get_token(&m, body, &arena));
    pthread_mutex_lock(&f->mu);
    assert_true(vd_hash_eq(&m.job, &f->a.job));
    assert_int_equal(m.index, f->a.n_tokens);
    for (size_t i = 0; i < m.ids.n; i++)
        f->a.tokens[f->a.n_tokens++] = m.ids.v[i];
    bool cancel = f->cancel_after && f->a.n_tokens == f->cancel_after;
    pthread_mutex_unlock(&f->mu);
    if (cancel) {
        struct vd_wire_cancel c = {.job = m.job};
        SEND(link, VD_WIRE_CANCEL, vd_wire_put_cancel, &c, 64);
    }
}

static void gw_prefix(struct fixture *f, struct vd_bytes body)
{
    struct vd_wire_prefix m;
    struct vd_receipt_prefix p;
    assert_true(vd_wire_get_prefix(&m, body));
    pthread_mutex_lock(&f->mu);
    struct vd_bytes request = {f->request, f->n_request};
    struct vd_hash asked = vd_receipt_id(request);
    if (!vd_hash_eq(&asked, &m.job)) { /* of the job before the one asked last */
        pthread_mutex_unlock(&f->mu);
        return;
    }
    assert_int_equal(
        vd_receipt_prefix_check(m.statement, &m.worker_sig, request, f->salt, f->a.tokens, f->a.n_tokens, &p),
        VD_RECEIPT_OK);
    assert_int_equal(p.n_output, f->a.n_prefix + VD_PREFIX_EVERY_TOK);
    assert_int_equal(p.n_output, f->a.n_tokens);
    f->a.n_prefix = p.n_output;
    f->a.prefix_commit = p.commit_root;
    pthread_mutex_unlock(&f->mu);
}

/* Countersigns, keeps the envelope, accepts. */
static void gw_receipt(struct fixture *f, struct vd_link *link, struct vd_bytes body)
{
    struct vd_wire_receipt m;
    struct vd_receipt r;
    assert_true(vd_wire_get_receipt(&m, body));
    pthread_mutex_lock(&f->mu);
    struct vd_signed_receipt *s = &f->a.signed_receipt;
    memcpy(s->body, m.receipt.p, m.receipt.n);
    s->body_bytes = m.receipt.n;
    s->worker_sig = m.worker_sig;
    vd_key_sign(&s->gateway_sig, &f->gateway_key, VD_TAG_ACCEPT, s->body, s->body_bytes);
    struct vd_envelope e = {.receipt = *s,
                            .n_prompt = PROMPT,
                            .n_output = f->a.n_tokens,
                            .prompt = f->prompt,
                            .output = f->a.tokens};
    memcpy(e.job_salt, f->salt, VD_SALT_BYTES);
    assert_int_equal(vd_envelope_check(&e, &r), VD_RECEIPT_OK);
    size_t cap = vd_envelope_max_bytes(e.n_prompt, e.n_output), i = f->n_kept++;
    f->kept[i].bytes = malloc(cap);
    f->kept[i].n = vd_envelope_encode(&e, f->kept[i].bytes, cap);
    f->kept[i].id = vd_signed_receipt_id(s);
    f->a.receipt = true;
    struct vd_wire_accept ok = {.job = m.job, .receipt_id = f->kept[i].id, .gateway_sig = s->gateway_sig};
    pthread_mutex_unlock(&f->mu);
    SEND(link, VD_WIRE_ACCEPT, vd_wire_put_accept, &ok, 256);
}

/* The stranger answers what it was not asked. */
static void stranger_meddles(struct fixture *f, const struct vd_hash *receipt_id)
{
    struct vd_wire_audit_data d = {.receipt_id = *receipt_id, .envelope = {receipt_id->b, VD_HASH_BYTES}};
    struct vd_wire_refuse r = {.what = *receipt_id, .code = VD_REFUSE_NOT_FOUND};
    pthread_mutex_lock(&f->mu);
    struct vd_link *link = f->stranger_link;
    pthread_mutex_unlock(&f->mu);
    if (!link)
        return;
    SEND(link, VD_WIRE_AUDIT_DATA, vd_wire_put_audit_data, &d, 256);
    SEND(link, VD_WIRE_REFUSE, vd_wire_put_refuse, &r, 256);
    vd_clock_sleep_ms(100);
}

static void gw_audit(struct fixture *f, struct vd_link *link, struct vd_bytes body)
{
    struct vd_wire_audit_get m;
    assert_true(vd_wire_get_audit_get(&m, body));
    pthread_mutex_lock(&f->mu);
    f->asked_ms[f->n_asked++ % RECEIPTS_MAX] = vd_clock_ms();
    uint32_t delay_ms = f->n_asked == 1 ? f->audit_delay_ms : 0;
    pthread_mutex_unlock(&f->mu);
    if (delay_ms)
        vd_clock_sleep_ms(delay_ms);
    stranger_meddles(f, &m.receipt_id);
    for (size_t i = 0; i < f->n_kept; i++) {
        if (!vd_hash_eq(&f->kept[i].id, &m.receipt_id) || vd_hash_eq(&f->withheld, &m.receipt_id))
            continue;
        struct vd_wire_audit_data d = {.receipt_id = m.receipt_id,
                                       .envelope = {f->kept[i].bytes, f->kept[i].n}};
        SEND(link, VD_WIRE_AUDIT_DATA, vd_wire_put_audit_data, &d, 1 << 16);
    }
}

static void gw_frame(void *arg, struct vd_link *link, unsigned type, struct vd_bytes body)
{
    struct fixture *f = arg;
    struct vd_wire_refuse refuse;
    switch (type) {
    case VD_WIRE_HELLO:
        gw_hello(f, link, body);
        break;
    case VD_WIRE_TOKEN:
        gw_token(f, link, body);
        break;
    case VD_WIRE_PREFIX:
        gw_prefix(f, body);
        break;
    case VD_WIRE_RECEIPT:
        gw_receipt(f, link, body);
        break;
    case VD_WIRE_REFUSE:
        assert_true(vd_wire_get_refuse(&refuse, body));
        pthread_mutex_lock(&f->mu);
        f->a.refused = true;
        f->a.code = refuse.code;
        pthread_mutex_unlock(&f->mu);
        break;
    case VD_WIRE_AUDIT_GET:
        gw_audit(f, link, body);
        break;
    default:
        fail_msg("frame type %u", type);
    }
}

static void gw_close(void *arg, struct vd_link *link, const struct vd_error *why)
{
    struct fixture *f = arg;
    pthread_mutex_lock(&f->mu);
    struct vd_link **place = f->worker_link == link     ? &f->worker_link
                             : f->verifier_link == link ? &f->verifier_link
                                                        : NULL;
    if (place)
        *place = NULL;
    pthread_mutex_unlock(&f->mu);
    if (place)
        vd_link_unref(link);
}

static void stranger_frame(void *arg, struct vd_link *link, unsigned type, struct vd_bytes body)
{
    struct fixture *f = arg;
    pthread_mutex_lock(&f->mu);
    if (type == VD_WIRE_HELLO && !f->stranger_link)
        f->stranger_link = vd_link_ref(link);
    pthread_mutex_unlock(&f->mu);
}

/* ---- Setting up ---- */

/* Everything is audited, by one auditor, which has 2.4 seconds to commit. */
static void add_audits(struct vd_genesis *g)
{
    g->epoch_blocks = 20;
    g->beacon_blocks = 10;
    g->audit_commit_blocks = 120;
    g->audit_reveal_blocks = 100;
    g->audit_data_blocks = 100;
    g->auditors = 1;
    g->audit_new_rate_ppm = VD_PPM;
    g->worker_share_ppm = 890000;
    g->auditor_share_ppm = 10000;
    g->audit_slash.micro = 1000;
    g->audit_min_reward.micro = 1;
    g->beacon_bond.micro = 1000;
    g->trap_bond = g->slash;
    g->trap_blocks = 100;
}

static void start_ledger(struct fixture *f)
{
    struct vd_error err;
    static char dir[128];
    f->account[0] = (struct vd_genesis_account){f->gateway_key.pub, {BALANCE}};
    f->account[1] = (struct vd_genesis_account){f->worker_key.pub, {BALANCE}};
    f->account[2] = (struct vd_genesis_account){f->verifier_key.pub, {BALANCE}};
    f->account[3] = (struct vd_genesis_account){f->ledger_key.pub, {BALANCE}};
    f->genesis = vd_test_genesis(f->account, 4, &f->ledger_key.pub);
    f->genesis.audit_window_blocks = f->window_blocks ? f->window_blocks : 60;
    f->genesis.move_clock_blocks = f->long_moves ? 800 : 200;
    f->genesis.request_validity_blocks = 2000;
    f->genesis.min_stake.micro = f->genesis.slash.micro = 1000000;
    f->genesis.challenge_bond.micro = 1000;
    if (f->audits)
        add_audits(&f->genesis);
    sure(vd_genesis_check(&f->genesis, &err), &err);
    sure(vd_genesis_network_hash(&f->genesis, &f->genesis_hash, &err), &err);
    snprintf(dir, sizeof dir, "%s/chain", f->dir);
    struct vd_ledgerd_config c = {.dir = dir, .genesis = &f->genesis, .key = &f->ledger_key, .host = HOST};
    sure(vd_ledgerd_start(&f->ledgerd, &c, &err), &err);
    f->ledger_peer = (struct vd_worker_peer){HOST, vd_ledgerd_port(f->ledgerd), &f->ledger_key.pub};
}

static void start_gateway(struct fixture *f)
{
    struct vd_error err;
    struct vd_ledger_outcome o;
    f->ledger = vd_test_ledger_client((struct vd_ledger_client_config){.arg = NULL}, &f->gateway_key,
                                      f->ledger_peer.port, f->ledger_peer.key, VD_ROLE_GATEWAY);
    struct vd_tx tx = {.kind = VD_TX_ESCROW_OPEN};
    tx.u.escrow_open.gateway = f->gateway_key.pub;
    tx.u.escrow_open.amount.micro = 1000000;
    sure(vd_ledger_client_send(f->ledger, &tx, WAIT_MS, &o, &err), &err);
    f->escrow = o.tx_id;
    struct vd_link_config c = {.key = &f->gateway_key,
                               .cb = {.arg = f, .on_frame = gw_frame, .on_close = gw_close}};
    sure(vd_link_listen(&f->listener, &c, HOST, 0, &err), &err);
    f->gateway_peer = (struct vd_worker_peer){HOST, vd_link_listener_port(f->listener), &f->gateway_key.pub};
}

/* The same model with a stretch of its last layer's weights changed by their lowest bits. */
static void write_cheat(const struct fixture *f, char path[VD_PATH_MAX])
{
    struct vd_test_model t = vd_test_model_default;
    size_t n;
    uint8_t *bytes = vd_test_model_bytes(&t, NULL, &n);
    for (size_t i = n - n / 4; i < n - n / 5; i++)
        bytes[i] ^= 1;
    vd_test_write_file(bytes, n, path);
    free(bytes);
}

static void start_models(struct fixture *f)
{
    struct vd_error err;
    const struct vd_kern *kern = vd_kern_pick(NULL, &err);
    assert_non_null(kern);
    vd_test_model_file(&vd_test_model_default, f->honest_path);
    write_cheat(f, f->cheat_path);
    for (int i = 0; i < 3; i++)
        sure(vd_pool_create(&f->pool[i], 1, &err), &err);
    sure(vd_model_open(&f->honest, f->honest_path, kern, f->pool[0], &err), &err);
    sure(vd_model_open(&f->cheat, f->cheat_path, kern, f->pool[1], &err), &err);
    sure(vd_model_open(&f->checker, f->honest_path, kern, f->pool[2], &err), &err);
    sure(vd_model_root_compute(f->honest, NULL, &f->root, &err), &err);
}

static bool worker_is_linked(struct fixture *f)
{
    pthread_mutex_lock(&f->mu);
    bool linked = f->worker_link != NULL;
    pthread_mutex_unlock(&f->mu);
    return linked;
}

static void start_worker(struct fixture *f, struct vd_model *model, struct vd_pool *pool)
{
    struct vd_error err;
    static char home[128];
    struct vd_worker_model m = {.model = model,
                                .pool = pool,
                                .root = f->root,
                                .price_in = {2},
                                .price_out = {3},
                                .capacity = 1,
                                .max_kv_bytes = f->kv_bytes ? f->kv_bytes : 8 << 20};
    snprintf(home, sizeof home, "%s/worker", f->dir);
    struct vd_worker_peer gateway[2] = {f->gateway_peer};
    if (f->stranger)
        gateway[1] = (struct vd_worker_peer){HOST, vd_link_listener_port(f->stranger), &f->stranger_key.pub};
    struct vd_worker_config c = {.key = &f->worker_key,
                                 .home = home,
                                 .ledger = f->ledger_peer,
                                 .gateway = gateway,
                                 .n_gateways = f->stranger ? 2 : 1,
                                 .model = &m,
                                 .n_models = 1};
    sure(vd_worker_start(&f->worker, &c, &err), &err);
    assert_true(wait_for(worker_is_linked, f));
}

/* An honest worker registers the model; the one that stays only claims its root. */
static void start_cheat(struct fixture *f)
{
    start_worker(f, f->honest, f->pool[0]);
    vd_worker_stop(f->worker);
    f->worker = NULL;
    start_worker(f, f->cheat, f->pool[1]);
}

static bool verifier_is_linked(struct fixture *f)
{
    struct vd_verifier_stats s;
    vd_verifier_get_stats(f->verifier, &s);
    return s.n_links == (f->stranger ? 2 : 1);
}

/* Another gateway, to which verifiers are linked that start from now on. */
static void start_stranger(struct fixture *f)
{
    struct vd_error err;
    uint8_t seed[VD_SEED_BYTES] = {99};
    vd_key_from_seed(&f->stranger_key, seed);
    struct vd_link_config c = {.key = &f->stranger_key, .cb = {.arg = f, .on_frame = stranger_frame}};
    sure(vd_link_listen(&f->stranger, &c, HOST, 0, &err), &err);
}

static void start_verifier(struct fixture *f)
{
    struct vd_error err;
    static char home[128];
    struct vd_verifier_model m = {f->checker, f->pool[2], f->root};
    struct vd_worker_peer gateway[2] = {f->gateway_peer};
    if (f->stranger)
        gateway[1] = (struct vd_worker_peer){HOST, vd_link_listener_port(f->stranger), &f->stranger_key.pub};
    snprintf(home, sizeof home, "%s/verifier", f->dir);
    struct vd_verifier_config c = {.key = &f->verifier_key,
                                   .home = home,
                                   .ledger = f->ledger_peer,
                                   .gateway = gateway,
                                   .n_gateways = f->stranger ? 2 : 1,
                                   .model = &m,
                                   .n_models = 1,
                                   .follow = true,
                                   .audits = f->audits,
                                   .audit_rate_ppm = UINT32_MAX};
    sure(vd_verifier_start(&f->verifier, &c, &err), &err);
    assert_true(wait_for(verifier_is_linked, f));
}

static int setup_network(void **state, bool audits, uint32_t window_blocks, bool long_moves)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->audits = audits;
    f->window_blocks = window_blocks;
    f->long_moves = long_moves;
    uint8_t seed[VD_SEED_BYTES] = {1};
    struct vd_keypair *keys[] = {&f->ledger_key, &f->gateway_key, &f->worker_key, &f->verifier_key};
    vd_key_init(NULL);
    snprintf(f->dir, sizeof f->dir, "/tmp/vd_worker_test.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    for (size_t i = 0; i < 4; i++, seed[0]++)
        vd_key_from_seed(keys[i], seed);
    pthread_mutex_init(&f->mu, NULL);
    start_ledger(f);
    start_gateway(f);
    start_models(f);
    *state = f;
    return 0;
}

static int setup(void **state)
{
    return setup_network(state, false, 0, false);
}

static int setup_long_window(void **state)
{
    return setup_network(state, false, 1000, false);
}

static int setup_slow_disputes(void **state)
{
    return setup_network(state, true, 0, true);
}

static int setup_audits(void **state)
{
    return setup_network(state, true, 0, false);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char line[128];
    vd_worker_stop(f->worker);
    vd_verifier_stop(f->verifier);
    vd_link_listener_stop(f->listener);
    if (f->stranger_link)
        vd_link_unref(f->stranger_link);
    vd_link_listener_stop(f->stranger);
    vd_ledger_client_stop(f->ledger);
    vd_ledgerd_stop(f->ledgerd);
    vd_model_close(f->honest);
    vd_model_close(f->cheat);
    vd_model_close(f->checker);
    for (int i = 0; i < 3; i++)
        vd_pool_destroy(f->pool[i]);
    for (size_t i = 0; i < f->n_kept; i++)
        free(f->kept[i].bytes);
    unlink(f->honest_path);
    unlink(f->cheat_path);
    snprintf(line, sizeof line, "rm -rf '%s'", f->dir);
    int rc = system(line);
    free(f);
    return rc;
}

/* ---- Asking ---- */

struct question {
    uint32_t max_tokens, price_out, n_resume;
    const uint32_t *resume;
    bool bad_prompt, bad_escrow, bad_signature;
    uint32_t valid_blocks; /* 0: 1500 */
    uint64_t sequence;     /* 0: the next */
    uint8_t account;
};

static bool answered(struct fixture *f)
{
    pthread_mutex_lock(&f->mu);
    bool done = f->a.receipt || f->a.refused;
    pthread_mutex_unlock(&f->mu);
    return done;
}

static void send_job(struct fixture *f, struct question q)
{
    struct vd_request r = {.genesis = f->genesis_hash,
                           .arith_version = VD_ARITH_VERSION,
                           .valid_until =
                               vd_ledger_client_height(f->ledger) + (q.valid_blocks ? q.valid_blocks : 1500),
                           .escrow_id = f->escrow,
                           .sequence = q.sequence ? q.sequence : ++f->sequence,
                           .gateway = f->gateway_key.pub,
                           .worker = f->worker_key.pub,
                           .model_root = f->root,
                           .n_prompt = PROMPT,
                           .sampling = {.temp_micro = 800000, .top_p_micro = VD_SAMPLE_MICRO, .seed = 7},
                           .max_tokens = q.max_tokens,
                           .price_in = {2},
                           .price_out = {q.price_out}};
    for (uint32_t i = 0; i < PROMPT; i++)
        f->prompt[i] = (i * 37 + 5) % 200;
    memset(f->salt, 9, sizeof f->salt);
    r.salt_commit = vd_salt_commit(f->salt);
    r.prompt_root = vd_token_root(f->salt, 0, f->prompt, PROMPT);
    r.prompt_root.b[0] ^= q.bad_prompt;
    r.escrow_id.b[0] ^= q.bad_escrow;
    struct vd_wire_job m = {.prompt = {f->prompt, PROMPT}, .resume = {q.resume, q.n_resume}};
    f->n_request = vd_request_encode(&r, f->request, sizeof f->request);
    m.request = (struct vd_bytes){f->request, f->n_request};
    vd_key_sign(&m.request_sig, &f->gateway_key, VD_TAG_REQUEST, m.request.p, m.request.n);
    m.request_sig.b[3] ^= q.bad_signature;
    memcpy(m.salt.b, f->salt, VD_SALT_BYTES);
    m.account.b[0] = q.account;
    pthread_mutex_lock(&f->mu);
    memset(&f->a, 0, sizeof f->a);
    f->a.job = vd_sha256_of(m.request.p, m.request.n);
    for (uint32_t i = 0; i < q.n_resume; i++)
        f->a.tokens[f->a.n_tokens++] = q.resume[i];
    pthread_mutex_unlock(&f->mu);
    SEND(f->worker_link, VD_WIRE_JOB, vd_wire_put_job, &m, 1 << 16);
}

static void ask(struct fixture *f, struct question q)
{
    send_job(f, q);
    assert_true(wait_for(answered, f));
}

static void settle_last(struct fixture *f)
{
    uint8_t bytes[VD_SIGNED_RECEIPT_MAX_BYTES];
    struct vd_ledger_outcome o;
    struct vd_error err;
    struct vd_tx tx = {.kind = VD_TX_SETTLE};
    tx.u.settle.n = 1;
    tx.u.settle.receipt[0] =
        (struct vd_bytes){bytes, vd_signed_receipt_encode(&f->a.signed_receipt, bytes, sizeof bytes)};
    sure(vd_ledger_client_send(f->ledger, &tx, WAIT_MS, &o, &err), &err);
}

static enum vd_finish last_finish(struct fixture *f)
{
    struct vd_receipt r;
    struct vd_bytes body = {f->a.signed_receipt.body, f->a.signed_receipt.body_bytes};
    assert_int_equal(vd_receipt_decode(body, &r), VD_RECEIPT_OK);
    assert_int_equal(r.n_output, f->a.n_tokens);
    return r.finish;
}

/* ---- Tests ---- */

static bool one_final_and_one_stands(struct fixture *f)
{
    struct vd_worker_stats w;
    struct vd_verifier_stats v;
    vd_worker_get_stats(f->worker, &w);
    vd_verifier_get_stats(f->verifier, &v);
    return w.n_final == 1 && v.n_stand == 1;
}

static size_t n_kept_jobs(struct fixture *f)
{
    struct vd_worker_jobs j;
    struct vd_hash *ids;
    size_t n;
    char dir[128];
    snprintf(dir, sizeof dir, "%s/worker/jobs", f->dir);
    assert_int_equal(vd_worker_jobs_open(&j, dir, NULL), VD_OK);
    assert_int_equal(vd_worker_jobs_list(&j, &ids, &n, NULL), VD_OK);
    free(ids);
    return n;
}

static void an_honest_job_is_paid(void **state)
{
    struct fixture *f = *state;
    struct vd_worker_stats w;
    struct vd_account before, after;
    start_worker(f, f->honest, f->pool[0]);
    start_verifier(f);
    assert_int_equal(vd_ledger_client_account(f->ledger, &f->worker_key.pub, &before, NULL), VD_OK);
    ask(f, (struct question){.max_tokens = 12, .price_out = 3});
    assert_true(f->a.receipt);
    assert_int_equal(f->a.n_tokens, 12);
    assert_int_equal(last_finish(f), VD_FINISH_LENGTH);
    assert_int_equal(n_kept_jobs(f), 1);
    settle_last(f);
    assert_true(wait_for(one_final_and_one_stands, f));
    vd_worker_get_stats(f->worker, &w);
    assert_int_equal(w.n_accepted, 1);
    assert_int_equal(w.n_settled, 1);
    assert_int_equal(w.earned_micro, PROMPT * 2 + 12 * 3);
    assert_int_equal(n_kept_jobs(f), 0);
    assert_int_equal(vd_ledger_client_account(f->ledger, &f->worker_key.pub, &after, NULL), VD_OK);
    /* 116, less 9 % for the gateway and 1 % for the treasury, both rounded down */
    assert_int_equal(after.balance.micro - before.balance.micro, 116 - 10 - 1);
}

static bool nothing_runs(struct fixture *f)
{
    struct vd_worker_stats w;
    vd_worker_get_stats(f->worker, &w);
    return w.n_running == 0;
}

static void what_is_wrong_is_refused(void **state)
{
    struct fixture *f = *state;
    static const struct {
        struct question q;
        enum vd_wire_refuse_code code;
    } cases[] = {
        {{.max_tokens = 4, .price_out = 2}, VD_REFUSE_PRICE},
        {{.max_tokens = 4, .price_out = 3, .bad_prompt = true}, VD_REFUSE_REQUEST},
        {{.max_tokens = 4, .price_out = 3, .bad_signature = true}, VD_REFUSE_REQUEST},
        {{.max_tokens = 4, .price_out = 3, .bad_escrow = true}, VD_REFUSE_ESCROW},
        {{.max_tokens = 4000, .price_out = 3}, VD_REFUSE_CONTEXT},
        {{.max_tokens = 200, .price_out = 900000}, VD_REFUSE_ESCROW}, /* more than the escrow holds */
        {{.max_tokens = 4, .price_out = 3, .valid_blocks = 400}, VD_REFUSE_REQUEST}, /* less than 2000 / 4 */
        {{.max_tokens = 4, .price_out = 3, .valid_blocks = 2400}, VD_REFUSE_REQUEST},
    };
    struct vd_worker_stats w;
    start_worker(f, f->honest, f->pool[0]);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ask(f, cases[i].q);
        if (!f->a.refused || f->a.code != cases[i].code)
            fail_msg("case %zu: %d", i, f->a.code);
    }
    /* and afterwards it works as before */
    ask(f, (struct question){.max_tokens = 4, .price_out = 3});
    assert_true(f->a.receipt);
    assert_true(wait_for(nothing_runs, f));
    vd_worker_get_stats(f->worker, &w);
    assert_int_equal(w.n_refused, sizeof cases / sizeof cases[0]);
}

/* A place in the escrow is paid once: not for a second job, also not after a restart, nor after it was
 * settled and forgotten. */
static void a_sequence_is_good_for_one_job(void **state)
{
    struct fixture *f = *state;
    const struct question again = {.max_tokens = 5, .price_out = 3, .sequence = 1};
    start_worker(f, f->honest, f->pool[0]);
    ask(f, (struct question){.max_tokens = 4, .price_out = 3});
    assert_true(f->a.receipt);
    struct vd_signed_receipt first = f->a.signed_receipt;
    assert_true(wait_for(nothing_runs, f));
    ask(f, again);
    assert_true(f->a.refused && f->a.code == VD_REFUSE_ESCROW);
    vd_worker_stop(f->worker);
    start_worker(f, f->honest, f->pool[0]);
    ask(f, again);
    assert_true(f->a.refused && f->a.code == VD_REFUSE_ESCROW);
    f->a.signed_receipt = first;
    settle_last(f);
    vd_worker_stop(f->worker);
    char line[160];
    snprintf(line, sizeof line, "rm -rf '%s/worker/jobs'", f->dir);
    assert_int_equal(system(line), 0);
    start_worker(f, f->honest, f->pool[0]);
    ask(f, again);
    assert_true(f->a.refused && f->a.code == VD_REFUSE_ESCROW);
    ask(f, (struct question){.max_tokens = 4, .price_out = 3});
    assert_true(f->a.receipt);
}

static void a_second_job_at_capacity_is_refused(void **state)
{
    struct fixture *f = *state;
    start_worker(f, f->honest, f->pool[0]);
    send_job(f, (struct question){.max_tokens = 200, .price_out = 3});
    struct vd_hash first = f->a.job;
    f->cancel_after = 0;
    send_job(f, (struct question){.max_tokens = 200, .price_out = 3});
    pthread_mutex_lock(&f->mu);
    f->a.job = first; /* the tokens that come are the first's */
    pthread_mutex_unlock(&f->mu);
    assert_true(wait_for(answered, f));
    assert_true(f->a.refused && f->a.code == VD_REFUSE_BUSY);
    f->a.refused = false;
    assert_true(wait_for(answered, f));
    assert_true(f->a.receipt);
}

static void a_cancelled_job_is_receipted_as_far_as_it_went(void **state)
{
    struct fixture *f = *state;
    start_worker(f, f->honest, f->pool[0]);
    f->cancel_after = 5;
    ask(f, (struct question){.max_tokens = 250, .price_out = 3});
    assert_true(f->a.receipt);
    assert_true(f->a.n_tokens >= 5);
    if (f->a.n_tokens < 250) /* it may have been faster than the CANCEL */
        assert_int_equal(last_finish(f), VD_FINISH_CANCELLED);
    f->cancel_after = 0;
    start_verifier(f);
    settle_last(f);
    assert_true(wait_for(one_final_and_one_stands, f));
}

/* Else the stake would answer for it until the worker is started anew. */
static void a_receipt_that_cannot_be_kept_costs_nothing(void **state)
{
    struct fixture *f = *state;
    char jobs[128], away[128];
    snprintf(jobs, sizeof jobs, "%s/worker/jobs", f->dir);
    snprintf(away, sizeof away, "%s/worker/away", f->dir);
    start_worker(f, f->honest, f->pool[0]);
    assert_int_equal(rename(jobs, away), 0);
    ask(f, (struct question){.max_tokens = 4, .price_out = 3});
    assert_true(f->a.refused && f->a.code == VD_REFUSE_INTERNAL);
    assert_int_equal(rename(away, jobs), 0);
    pthread_mutex_lock(&f->worker->mu);
    uint64_t pending = f->worker->escrow[0].pending_micro, exposed = f->worker->exposed_micro;
    size_t n_escrows = f->worker->n_escrows;
    pthread_mutex_unlock(&f->worker->mu);
    assert_int_equal(n_escrows, 1);
    assert_int_equal(pending, 0);
    assert_int_equal(exposed, 0);
    ask(f, (struct question){.max_tokens = 4, .price_out = 3});
    assert_true(f->a.receipt);
}

static void another_worker_goes_on_from_the_tokens_given(void **state)
{
    struct fixture *f = *state;
    uint32_t whole[20], wrong[8];
    start_worker(f, f->honest, f->pool[0]);
    ask(f, (struct question){.max_tokens = 20, .price_out = 3});
    assert_int_equal(f->a.n_tokens, 20);
    memcpy(whole, f->a.tokens, sizeof whole);
    struct vd_signed_receipt first = f->a.signed_receipt;
    ask(f, (struct question){.max_tokens = 20, .price_out = 3, .resume = whole, .n_resume = 8});
    assert_true(f->a.receipt);
    assert_memory_equal(f->a.tokens, whole, sizeof whole);
    struct vd_receipt a, b;
    assert_int_equal(vd_receipt_decode((struct vd_bytes){first.body, first.body_bytes}, &a), VD_RECEIPT_OK);
    assert_int_equal(
        vd_receipt_decode((struct vd_bytes){f->a.signed_receipt.body, f->a.signed_receipt.body_bytes}, &b),
        VD_RECEIPT_OK);
    assert_true(vd_hash_eq(&a.commit_root, &b.commit_root));
    memcpy(wrong, whole, sizeof wrong);
    wrong[3] = (wrong[3] + 1) % 200;
    ask(f, (struct question){.max_tokens = 20, .price_out = 3, .resume = wrong, .n_resume = 8});
    assert_true(f->a.refused && f->a.code == VD_REFUSE_RESUME);
}

static struct vd_hash commit_root_of_last(struct fixture *f)
{
    struct vd_receipt r;
    struct vd_bytes body = {f->a.signed_receipt.body, f->a.signed_receipt.body_bytes};
    assert_int_equal(vd_receipt_decode(body, &r), VD_RECEIPT_OK);
    return r.commit_root;
}

/* At a stopped answer the statement names what the receipt names. */
static void a_statement_comes_with_each_64_tokens(void **state)
{
    struct fixture *f = *state;
    start_worker(f, f->honest, f->pool[0]);
    ask(f, (struct question){.max_tokens = 3 * VD_PREFIX_EVERY_TOK, .price_out = 3});
    assert_true(f->a.receipt);
    assert_int_equal(f->a.n_tokens, 3 * VD_PREFIX_EVERY_TOK);
    assert_int_equal(f->a.n_prefix, f->a.n_tokens);
    struct vd_hash root = commit_root_of_last(f);
    assert_true(vd_hash_eq(&f->a.prefix_commit, &root));
}

/* The same prompt again and again: only a client's own is reused, and nobody can tell by the receipt. */
static void a_prefix_is_reused_within_an_account(void **state)
{
    struct fixture *f = *state;
    static const struct {
        uint8_t account;
        uint64_t n_reused; /* in all, afterwards */
    } round[] = {{1, 0}, {2, 0}, {1, PROMPT - 1}, {0, PROMPT - 1}, {0, PROMPT - 1}, {2, 2 * (PROMPT - 1)}};
    struct vd_hash first;
    start_worker(f, f->honest, f->pool[0]);
    for (size_t i = 0; i < sizeof round / sizeof round[0]; i++) {
        struct vd_worker_stats w;
        ask(f, (struct question){.max_tokens = 10, .price_out = 3, .account = round[i].account});
        assert_true(f->a.receipt);
        do /* it counts after it has sent the receipt */
            vd_worker_get_stats(f->worker, &w);
        while (w.n_receipts == i);
        assert_int_equal(w.n_tokens_reused, round[i].n_reused);
        struct vd_hash root = commit_root_of_last(f);
        first = i == 0 ? root : first;
        assert_true(vd_hash_eq(&root, &first));
    }
}

static bool verdict_fell(struct fixture *f)
{
    struct vd_worker_stats w;
    struct vd_verifier_stats v;
    vd_worker_get_stats(f->worker, &w);
    vd_verifier_get_stats(f->verifier, &v);
    return w.n_lost == 1 && v.n_won == 1 && w.n_void == 1 &&
           v.n_moves >= 4; /* STEP, UNIT, OP, TILE at least */
}

static void a_cheat_is_found_and_slashed(void **state)
{
    struct fixture *f = *state;
    struct vd_stake stake;
    struct vd_receipt_record record;
    struct vd_verifier_stats v;
    struct vd_error err;
    start_cheat(f);
    start_verifier(f);
    ask(f, (struct question){.max_tokens = 10, .price_out = 3});
    assert_true(f->a.receipt);
    struct vd_hash id = vd_signed_receipt_id(&f->a.signed_receipt);
    settle_last(f);
    assert_true(wait_for(verdict_fell, f));
    sure(vd_ledger_client_stake(f->ledger, &f->worker_key.pub, &stake, &err), &err);
    assert_int_equal(stake.amount.micro, 0);
    sure(vd_ledger_client_receipt(f->ledger, &id, &record, &err), &err);
    assert_int_equal(record.status, VD_RECEIPT_VOID);
    vd_verifier_get_stats(f->verifier, &v);
    assert_int_equal(v.n_differ, 1);
    assert_int_equal(v.won_micro, 400000);
}

static bool two_stand(struct fixture *f)
{
    struct vd_verifier_stats v;
    vd_verifier_get_stats(f->verifier, &v);
    return v.n_stand == 2;
}

static bool one_is_accepted(struct fixture *f)
{
    struct vd_worker_stats w;
    vd_worker_get_stats(f->worker, &w);
    return w.n_accepted == 1;
}

static void give(struct vd_ledger_client *from, const struct vd_pubkey *to, uint64_t micro)
{
    struct vd_ledger_outcome o;
    struct vd_error err;
    struct vd_tx tx = {.kind = VD_TX_TRANSFER, .u.transfer = {*to, {micro}}};
    sure(vd_ledger_client_send(from, &tx, WAIT_MS, &o, &err), &err);
}

static bool one_differs(struct fixture *f)
{
    struct vd_verifier_stats v;
    vd_verifier_get_stats(f->verifier, &v);
    return v.n_differ == 1;
}

/* Without the credits for a bond a verifier does not forget what it has found: others' disputes may hold them
 * for now, and somebody may have begun these for that. */
static void a_challenge_waits_for_its_bond(void **state)
{
    struct fixture *f = *state;
    struct vd_verifier_stats v;
    start_cheat(f);
    struct vd_ledger_client *own =
        vd_test_ledger_client((struct vd_ledger_client_config){.arg = NULL}, &f->verifier_key,
                              f->ledger_peer.port, f->ledger_peer.key, VD_ROLE_VERIFIER);
    give(own, &f->gateway_key.pub, BALANCE);
    vd_ledger_client_stop(own);
    start_verifier(f);
    ask(f, (struct question){.max_tokens = 10, .price_out = 3});
    assert_true(f->a.receipt);
    settle_last(f);
    assert_true(wait_for(one_differs, f));
    vd_clock_sleep_ms(300); /* it has tried, and was refused */
    vd_verifier_get_stats(f->verifier, &v);
    assert_int_equal(v.n_challenges, 0);
    give(f->ledger, &f->verifier_key.pub, BALANCE);
    assert_true(wait_for(verdict_fell, f));
}

/* A gateway that takes its time with one receipt's data does not get all of a verifier's. */
static void a_slow_gateway_has_to_wait(void **state)
{
    struct fixture *f = *state;
    start_worker(f, f->honest, f->pool[0]);
    for (int i = 0; i < 2; i++) {
        ask(f, (struct question){.max_tokens = 4, .price_out = 3});
        settle_last(f);
    }
    f->audit_delay_ms = 1200;
    start_verifier(f);
    assert_true(wait_for(two_stand, f));
    assert_int_equal(f->n_asked, 2);
    assert_true(f->asked_ms[1] - f->asked_ms[0] >= 5 * 1200);
}

static bool stranger_is_here(struct fixture *f)
{
    pthread_mutex_lock(&f->mu);
    bool here = f->stranger_link != NULL;
    pthread_mutex_unlock(&f->mu);
    return here;
}

/* Another gateway's signature would be good for nothing on the ledger, and must not take the place of the one
 * that is. */
static void another_gateway_accepts_nothing(void **state)
{
    struct fixture *f = *state;
    struct vd_worker_jobs jobs;
    struct vd_envelope e;
    struct vd_error err;
    uint32_t *tokens;
    char dir[128];
    start_stranger(f);
    start_worker(f, f->honest, f->pool[0]);
    ask(f, (struct question){.max_tokens = 4, .price_out = 3});
    assert_true(wait_for(one_is_accepted, f));
    assert_true(wait_for(stranger_is_here, f));
    const struct vd_signed_receipt *s = &f->a.signed_receipt;
    struct vd_wire_accept m = {.job = f->a.job, .receipt_id = vd_signed_receipt_id(s)};
    vd_key_sign(&m.gateway_sig, &f->stranger_key, VD_TAG_ACCEPT, s->body, s->body_bytes);
    SEND(f->stranger_link, VD_WIRE_ACCEPT, vd_wire_put_accept, &m, 256);
    vd_clock_sleep_ms(200);
    snprintf(dir, sizeof dir, "%s/worker/jobs", f->dir);
    sure(vd_worker_jobs_open(&jobs, dir, &err), &err);
    sure(vd_worker_jobs_get(&jobs, &m.receipt_id, &e, &tokens, &err), &err);
    free(tokens);
    assert_memory_equal(&e.receipt.gateway_sig, &s->gateway_sig, sizeof s->gateway_sig);
}

static bool five_are_judged(struct fixture *f)
{
    struct vd_verifier_stats v;
    vd_verifier_get_stats(f->verifier, &v);
    return v.n_stand + v.n_differ == 5;
}

/* What was settled before it came waits for a verifier, which takes it together: the liar is found among the
 * honest, and only it. */
static void what_waits_is_replayed_together(void **state)
{
    struct fixture *f = *state;
    struct vd_receipt_record record;
    struct vd_verifier_stats v;
    struct vd_error err;
    struct vd_hash id[5];
    for (unsigned i = 0; i < 5; i++) {
        if (i == 0 || i == 4) {
            vd_worker_stop(f->worker);
            f->worker = NULL;
            start_worker(f, i == 4 ? f->cheat : f->honest, f->pool[i == 4]);
        }
        ask(f, (struct question){.max_tokens = 10, .price_out = 3});
        assert_true(f->a.receipt);
        id[i] = vd_signed_receipt_id(&f->a.signed_receipt);
        settle_last(f);
    }
    start_verifier(f);
    assert_true(wait_for(five_are_judged, f));
    assert_true(wait_for(verdict_fell, f));
    vd_verifier_get_stats(f->verifier, &v);
    assert_int_equal(v.n_stand, 4);
    assert_int_equal(v.n_challenges, 1);
    sure(vd_ledger_client_receipt(f->ledger, &id[4], &record, &err), &err);
    assert_int_equal(record.status, VD_RECEIPT_VOID);
    assert_true(v.n_passes < 5);
}

static bool one_has_bad_data(struct fixture *f)
{
    struct vd_verifier_stats v;
    vd_verifier_get_stats(f->verifier, &v);
    return v.n_bad_data == 1;
}

/* A gateway that hands out other tokens than the worker signed for says nothing about the worker. */
static void data_that_fail_the_check_are_no_reason_to_challenge(void **state)
{
    struct fixture *f = *state;
    struct vd_verifier_stats v;
    struct vd_envelope e;
    uint32_t tokens[PROMPT + TOKENS_MAX];
    start_worker(f, f->honest, f->pool[0]);
    start_verifier(f);
    ask(f, (struct question){.max_tokens = 8, .price_out = 3});
    struct vd_bytes kept = {f->kept[0].bytes, f->kept[0].n};
    assert_true(vd_envelope_decode(kept, &e, tokens, PROMPT + TOKENS_MAX));
    tokens[PROMPT + 3] = (tokens[PROMPT + 3] + 1) % 100;
    f->kept[0].n = vd_envelope_encode(&e, f->kept[0].bytes, vd_envelope_max_bytes(PROMPT, 8));
    settle_last(f);
    assert_true(wait_for(one_has_bad_data, f));
    vd_verifier_get_stats(f->verifier, &v);
    assert_int_equal(v.n_differ, 0);
    assert_int_equal(v.n_challenges, 0);
}

static bool one_is_judged(struct fixture *f)
{
    struct vd_verifier_stats v;
    vd_verifier_get_stats(f->verifier, &v);
    return v.n_stand + v.n_bad_data + v.n_unavailable == 1;
}

/* Else whoever runs a gateway that verifiers are linked to could keep a cheat elsewhere from being audited.
 */
static void only_the_gateway_that_was_asked_answers(void **state)
{
    struct fixture *f = *state;
    struct vd_verifier_stats v;
    start_worker(f, f->honest, f->pool[0]);
    start_stranger(f);
    start_verifier(f);
    ask(f, (struct question){.max_tokens = 8, .price_out = 3});
    settle_last(f);
    assert_true(wait_for(one_is_judged, f));
    vd_verifier_get_stats(f->verifier, &v);
    assert_non_null(f->stranger_link);
    assert_int_equal(v.n_stand, 1);
}

enum { AUDITED = 8 };

static bool all_are_audited(struct fixture *f)
{
    struct vd_verifier_stats v;
    vd_verifier_get_stats(f->verifier, &v);
    return v.n_audits == AUDITED;
}

static bool is_auditor(struct fixture *f)
{
    struct vd_ledger_answer a;
    struct vd_state_key key =
        vd_state_key_make(VD_STATE_AUDITOR, f->root.b, VD_HASH_BYTES, f->verifier_key.pub.b);
    if (vd_ledger_client_get(f->ledger, &key, WAIT_MS, &a, NULL) != VD_OK)
        return false;
    vd_ledger_answer_free(&a);
    return true;
}

/* Of receipts that are drawn together the data of one are withheld, of that which an auditor would look at
 * first: it is demanded, shown on the ledger and heard like the others, and none of them is late for it. */
static void data_withheld_of_one_audit_make_no_other_late(void **state)
{
    struct fixture *f = *state;
    static uint8_t bytes[AUDITED][VD_SIGNED_RECEIPT_MAX_BYTES];
    static struct vd_tx tx;
    struct vd_verifier_stats v;
    struct vd_worker_stats w;
    struct vd_ledger_outcome o;
    struct vd_error err;
    start_worker(f, f->honest, f->pool[0]);
    start_verifier(f);
    assert_true(wait_for(is_auditor, f));
    tx = (struct vd_tx){.kind = VD_TX_SETTLE, .u.settle.n = AUDITED};
    for (size_t i = 0; i < AUDITED; i++) {
        ask(f, (struct question){.max_tokens = 12, .price_out = 3});
        assert_true(f->a.receipt);
        size_t n = vd_signed_receipt_encode(&f->a.signed_receipt, bytes[i], sizeof bytes[i]);
        tx.u.settle.receipt[i] = (struct vd_bytes){bytes[i], n};
        if (i == 0 || memcmp(f->kept[i].id.b, f->withheld.b, VD_HASH_BYTES) < 0)
            f->withheld = f->kept[i].id;
    }
    sure(vd_ledger_client_send(f->ledger, &tx, WAIT_MS, &o, &err), &err);
    assert_true(wait_for(all_are_audited, f));
    vd_verifier_get_stats(f->verifier, &v);
    vd_worker_get_stats(f->worker, &w);
    assert_int_equal(v.n_audits_missed, 0);
    assert_int_equal(v.audit_slashed_micro, 0);
    assert_int_equal(v.n_demands, 1);
    assert_int_equal(v.audit_paid_micro, AUDITED); /* 1 % of 116, each */
    assert_int_equal(w.n_void, 0);
    assert_true(v.n_passes < AUDITED);
}

static void only_what_can_be_proved_is_challenged(void **state)
{
    assert_true(vd_verifier_provable(VD_REPLAY_TOKEN));
    assert_true(vd_verifier_provable(VD_REPLAY_STOP));
    assert_true(vd_verifier_provable(VD_REPLAY_COMMIT));
    assert_false(vd_verifier_provable(VD_REPLAY_OK));
    assert_false(vd_verifier_provable(VD_REPLAY_JOB));
    assert_false(vd_verifier_provable(VD_REPLAY_MODEL));
}

/* A challenger without reason: the honest worker answers everything, also after a restart in the middle. */
static bool one_challenge_won(struct fixture *f)
{
    struct vd_worker_stats w;
    vd_worker_get_stats(f->worker, &w);
    return w.n_won == 1;
}

static void an_idle_challenge_costs_its_bond(void **state)
{
    struct fixture *f = *state;
    struct vd_ledger_outcome o;
    struct vd_error err;
    struct vd_dispute d;
    start_worker(f, f->honest, f->pool[0]);
    ask(f, (struct question){.max_tokens = 6, .price_out = 3});
    settle_last(f);
    struct vd_hash id = vd_signed_receipt_id(&f->a.signed_receipt);
    vd_worker_stop(f->worker); /* challenged while it is away */
    f->worker = NULL;
    struct vd_tx tx = {.kind = VD_TX_CHALLENGE};
    tx.u.challenge.receipt_id = id;
    sure(vd_ledger_client_send(f->ledger, &tx, WAIT_MS, &o, &err), &err);
    start_worker(f, f->honest, f->pool[0]);
    uint64_t until = vd_clock_ms() + WAIT_MS;
    do {
        vd_clock_sleep_ms(5);
        sure(vd_ledger_client_dispute(f->ledger, &o.tx_id, &d, &err), &err);
    } while (d.status == VD_DISPUTE_WORKER_MOVES && vd_clock_ms() < until);
    assert_int_equal(d.status, VD_DISPUTE_CHALLENGER_MOVES); /* STATE was shown */
    assert_int_equal(d.n_moves, 1);
    assert_true(wait_for(one_challenge_won, f)); /* nobody points: the challenger's clock runs out */
}

/* ---- Many disputes at once ---- */

static struct vd_hash a_settled_receipt(struct fixture *f)
{
    ask(f, (struct question){.max_tokens = 6, .price_out = 3});
    assert_true(f->a.receipt);
    return vd_signed_receipt_id(&f->a.signed_receipt);
}

/* Sends what is in tx, all of which must be applied; the ids of the transactions. */
static void send_all(struct fixture *f, struct vd_tx *tx, size_t n, struct vd_hash *id)
{
    struct vd_ledger_sending s[VD_LEDGER_SEND_MAX];
    for (size_t i = 0; i < n; i++)
        s[i] = (struct vd_ledger_sending){.tx = &tx[i]};
    vd_ledger_client_send_all(f->ledger, s, n, WAIT_MS);
    for (size_t i = 0; i < n; i++) {
        sure(s[i].result, &s[i].err);
        id[i] = s[i].out.tx_id;
    }
}

static void challenge_all(struct fixture *f, const struct vd_hash *receipt, size_t n, struct vd_hash *dispute)
{
    struct vd_tx tx[VD_LEDGER_SEND_MAX];
    for (size_t i = 0; i < n; i++) {
        tx[i] = (struct vd_tx){.kind = VD_TX_CHALLENGE};
        tx[i].u.challenge.receipt_id = receipt[i];
    }
    send_all(f, tx, n, dispute);
}

/* Waits until the worker has answered in all of them. */
static void await_answers(struct fixture *f, const struct vd_hash *dispute, size_t n, struct vd_dispute *d)
{
    uint64_t until = vd_clock_ms() + WAIT_MS;
    for (size_t i = 0; i < n; i++) {
        struct vd_error err;
        do {
            sure(vd_ledger_client_dispute(f->ledger, &dispute[i], &d[i], &err), &err);
            vd_clock_sleep_ms(2);
        } while (d[i].status == VD_DISPUTE_WORKER_MOVES && vd_clock_ms() < until);
        assert_int_equal(d[i].status, VD_DISPUTE_CHALLENGER_MOVES);
    }
}

/* A challenger that points without a trace: at step 10 + i, the first block, its first operator. */
static void point(struct vd_tx *tx, uint8_t buf[256], const struct vd_hash *dispute, uint32_t n_moves,
                  size_t i)
{
    struct vd_move m = {.kind = n_moves == 1   ? VD_MOVE_STEP
                                : n_moves == 3 ? VD_MOVE_UNIT
                                               : VD_MOVE_OP,
                        .index = n_moves == 1   ? 10 + i
                                 : n_moves == 3 ? 1
                                                : 0};
    *tx = (struct vd_tx){.kind = VD_TX_MOVE};
    tx->u.move.dispute_id = *dispute;
    tx->u.move.move = (struct vd_bytes){buf, vd_move_encode(&m, buf, 256)};
}

static void disputes_that_take_turns_cost_one_replay_each(void **state)
{
    struct fixture *f = *state;
    enum { N = 4 };
    struct vd_hash receipt[N], dispute[N], ids[N];
    struct vd_dispute d[N];
    struct vd_worker_stats w;
    uint8_t buf[N][256];
    start_worker(f, f->honest, f->pool[0]);
    for (size_t i = 0; i < N; i += 2) {
        receipt[i] = receipt[i + 1] = a_settled_receipt(f);
        settle_last(f);
    }
    challenge_all(f, receipt, N, dispute);
    for (uint32_t n_moves = 1; n_moves <= 5; n_moves += 2) {
        struct vd_tx tx[N];
        await_answers(f, dispute, N, d);
        for (size_t i = 0; i < N; i++) {
            assert_int_equal(d[i].n_moves, n_moves);
            point(&tx[i], buf[i], &dispute[i], n_moves, i);
        }
        send_all(f, tx, N, ids);
    }
    await_answers(f, dispute, N, d);
    vd_worker_get_stats(f->worker, &w);
    assert_int_equal(w.n_moves, 4 * N);
    assert_int_equal(w.n_replays, 2 + N); /* the trace of each receipt, the unit of each dispute */
}

static uint64_t peak_bytes(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (uint64_t)r.ru_maxrss << 10;
}

/* A cache with room for one job of the whole context, and always such a job in it: they give way to a
 * dispute, which is played up to an operator, where it replays and nowhere else, and go on. The worker takes
 * no second cache: at its peak it has what it had before, and what docs/guide/security-tests.md says of a
 * trace. */
static void jobs_that_hold_all_memory_do_not_hold_up_a_dispute(void **state)
{
    enum { N = 40, POSITIONS = 512, PAGES = POSITIONS / VD_KV_PAGE_POS };
    struct fixture *f = *state;
    struct vd_hash dispute, id;
    struct vd_dispute d;
    struct vd_engine_stats before, s;
    struct vd_error err;
    uint32_t prompt[10] = {1};
    uint8_t buf[256];
    start_worker(f, f->honest, f->pool[0]);
    vd_engine_get_stats(f->worker->offer[0].engine, &s);
    vd_worker_stop(f->worker);
    f->kv_bytes = PAGES * s.kv_page_bytes + s.kv_page_bytes / 2;
    start_worker(f, f->honest, f->pool[0]);
    struct vd_hash receipt = a_settled_receipt(f);
    settle_last(f);
    assert_true(wait_for(nothing_runs, f));
    struct vd_engine *engine = f->worker->offer[0].engine;
    struct vd_job job = {.prompt = prompt, .n_prompt = 10, .max_tokens = POSITIONS - 10};
    for (unsigned i = 0; i < N; i++)
        sure(vd_engine_submit(engine, &job, NULL, &err), &err);
    do
        vd_engine_get_stats(engine, &before);
    while (before.kv_bytes_used < PAGES * before.kv_page_bytes);
    uint64_t peak = peak_bytes(), paused = before.n_paused;
    challenge_all(f, &receipt, 1, &dispute);
    for (uint32_t n_moves = 1; n_moves <= 7; n_moves += 2) {
        struct vd_tx tx;
        await_answers(f, &dispute, 1, &d);
        assert_int_equal(d.n_moves, n_moves);
        vd_engine_get_stats(engine, &s);
        if (n_moves == 3 || n_moves == 7) /* what was replayed for the move before is all that these need */
            assert_int_equal(s.n_paused, paused);
        paused = s.n_paused;
        if (n_moves < 7) {
            point(&tx, buf, &dispute, n_moves, 0);
            send_all(f, &tx, 1, &id);
        }
    }
    assert_true(s.n_active + s.n_queued > 0); /* they were there all the time */
    assert_true(s.n_paused > before.n_paused);
    print_message("    peak of the process: %.1f MiB more than before\n",
                  (double)(peak_bytes() - peak) / (1 << 20));
    assert_true(peak_bytes() - peak < 256u << 20);
}

/* A step of the worker's engine that ends when the engine is to stop. */
struct holder {
    struct vd_engine *engine;
    struct vd_job job;
};

static void hold_until_stop(void *arg, uint32_t index, uint32_t token)
{
    struct holder *h = arg;
    struct vd_job other = {.prompt = (uint32_t[]){token}, .n_prompt = 1, .max_tokens = 1};
    (void)index;
    while (vd_engine_submit(h->engine, &other, NULL, NULL) != VD_ECANCELLED)
        vd_clock_sleep_ms(1);
}

/* The engine is busy, and the court waits behind it with a replay: a worker that is to stop waits for
 * neither.
 */
static void a_worker_stops_in_the_midst_of_a_replay(void **state)
{
    struct fixture *f = *state;
    struct vd_hash dispute;
    struct vd_engine_stats s;
    struct vd_error err;
    uint32_t prompt[10] = {1};
    start_worker(f, f->honest, f->pool[0]);
    struct vd_hash receipt = a_settled_receipt(f);
    settle_last(f);
    assert_true(wait_for(nothing_runs, f));
    struct holder h = {.engine = f->worker->offer[0].engine};
    h.job = (struct vd_job){
        .prompt = prompt, .n_prompt = 10, .max_tokens = 10, .arg = &h, .on_token = hold_until_stop};
    sure(vd_engine_submit(h.engine, &h.job, NULL, &err), &err);
    challenge_all(f, &receipt, 1, &dispute);
    do
        vd_engine_get_stats(h.engine, &s);
    while (s.n_runs == 0);
    vd_worker_stop(f->worker);
    f->worker = NULL;
}

static void many_challenges_are_answered_in_few_blocks(void **state)
{
    struct fixture *f = *state;
    enum { N = 16 };
    struct vd_hash receipt[N], dispute[N];
    struct vd_dispute d[N];
    uint64_t first = UINT64_MAX, last = 0;
    start_worker(f, f->honest, f->pool[0]);
    receipt[0] = a_settled_receipt(f);
    settle_last(f);
    vd_worker_stop(f->worker); /* challenged while it is away */
    f->worker = NULL;
    for (size_t i = 1; i < N; i++)
        receipt[i] = receipt[0];
    challenge_all(f, receipt, N, dispute);
    start_worker(f, f->honest, f->pool[0]);
    await_answers(f, dispute, N, d);
    for (size_t i = 0; i < N; i++) { /* the challengers' deadlines say when the worker answered */
        first = d[i].deadline_height < first ? d[i].deadline_height : first;
        last = d[i].deadline_height > last ? d[i].deadline_height : last;
    }
    assert_true(last - first < N - 1); /* with a block for each it would be N - 1 */
}

/* A hundred disputes about one receipt, each as far as the worker can be led without a trace: every node is
 * answered to every challenger, and made once: one replay for the trace, one for the unit that all point at.
 */
static void a_hundred_challenges_cost_one_answer_for_a_node(void **state)
{
    struct fixture *f = *state;
    enum { N = 100, PART = 25 };
    static struct vd_hash receipt[N], dispute[N], ids[PART];
    static struct vd_dispute d[N];
    static struct vd_tx tx[PART];
    static uint8_t buf[PART][256];
    struct vd_worker_stats w;
    start_worker(f, f->honest, f->pool[0]);
    receipt[0] = a_settled_receipt(f);
    settle_last(f);
    for (size_t i = 1; i < N; i++)
        receipt[i] = receipt[0];
    for (size_t i = 0; i < N; i += PART)
        challenge_all(f, receipt + i, PART, dispute + i);
    for (uint32_t n_moves = 1; n_moves <= 5; n_moves += 2) {
        await_answers(f, dispute, N, d);
        for (size_t from = 0; from < N; from += PART) {
            for (size_t i = 0; i < PART; i++)
                point(&tx[i], buf[i], &dispute[from + i], n_moves, 0);
            send_all(f, tx, PART, ids);
        }
    }
    await_answers(f, dispute, N, d);
    vd_worker_get_stats(f->worker, &w);
    assert_int_equal(w.n_moves, 4 * N);
    assert_int_equal(w.n_lost, 0);
    if (w.n_replays > 2)
        fail_msg("%llu replays", (unsigned long long)w.n_replays);
}

/* ---- Streams that are followed ---- */

/* What a gateway passes on to a follower, of the job that was asked last. */
struct passed {
    uint32_t n_resume, n_tokens, from; /* TOKENs: of from .. n_tokens - 1 */
    bool other_root, cancels;          /* else the receipt, or one with another commit root */
    bool nothing_more;                 /* neither */
};

static void pass_on(struct fixture *f, const struct passed *p)
{
    struct vd_link *l = f->verifier_link;
    struct vd_wire_job m = {.request = {f->request, f->n_request},
                            .prompt = {f->prompt, PROMPT},
                            .resume = {f->a.tokens, p->n_resume}};
    memcpy(m.salt.b, f->salt, VD_SALT_BYTES);
    SEND(l, VD_WIRE_JOB, vd_wire_put_job, &m, 1 << 16);
    struct vd_wire_token t = {
        .job = f->a.job, .index = p->from, .ids = {f->a.tokens + p->from, p->n_tokens - p->from}};
    if (t.ids.n)
        SEND(l, VD_WIRE_TOKEN, vd_wire_put_token, &t, 4096);
    uint8_t body[VD_RECEIPT_MAX_BYTES];
    struct vd_receipt r;
    struct vd_bytes signed_body = {f->a.signed_receipt.body, f->a.signed_receipt.body_bytes};
    assert_int_equal(vd_receipt_decode(signed_body, &r), VD_RECEIPT_OK);
    r.commit_root.b[0] ^= p->other_root;
    struct vd_wire_receipt x = {.job = f->a.job, .receipt = {body, vd_receipt_encode(&r, body, sizeof body)}};
    struct vd_wire_cancel c = {.job = f->a.job};
    if (p->cancels)
        SEND(l, VD_WIRE_CANCEL, vd_wire_put_cancel, &c, 64);
    else if (!p->nothing_more)
        SEND(l, VD_WIRE_RECEIPT, vd_wire_put_receipt, &x, 2048);
}

static uint64_t n_judged(struct fixture *f, struct vd_verifier_stats *v)
{
    vd_verifier_get_stats(f->verifier, v);
    return v->n_streams_right + v->n_streams_wrong + v->n_streams_cut;
}

static bool said_wrong(struct fixture *f)
{
    pthread_mutex_lock(&f->mu);
    bool said = f->a.refused && f->a.code == VD_REFUSE_WRONG;
    pthread_mutex_unlock(&f->mu);
    return said;
}

/* right, wrong, cut: how many more of each there are once the stream is over. */
static void expect_followed(struct fixture *f, struct passed p, unsigned right, unsigned wrong, unsigned cut)
{
    struct vd_verifier_stats before, after;
    uint64_t n = n_judged(f, &before), until = vd_clock_ms() + WAIT_MS;
    f->a.refused = false;
    pass_on(f, &p);
    while (n_judged(f, &after) == n && vd_clock_ms() < until)
        vd_clock_sleep_ms(2);
    assert_int_equal(after.n_streams_right - before.n_streams_right, right);
    assert_int_equal(after.n_streams_wrong - before.n_streams_wrong, wrong);
    assert_int_equal(after.n_streams_cut - before.n_streams_cut, cut);
    if (wrong)
        assert_true(wait_for(said_wrong, f));
}

static bool one_is_cut_off(struct fixture *f)
{
    struct vd_verifier_stats v;
    vd_verifier_get_stats(f->verifier, &v);
    return v.n_streams_cut == 6;
}

static void what_is_passed_on_is_followed(void **state)
{
    struct fixture *f = *state;
    enum { N = 20, AT_ONCE = 8 };
    start_worker(f, f->honest, f->pool[0]);
    start_verifier(f);
    ask(f, (struct question){.max_tokens = N, .price_out = 3});
    assert_true(f->a.receipt);
    assert_int_equal(f->a.n_tokens, N);
    expect_followed(f, (struct passed){.n_tokens = N}, 1, 0, 0);
    expect_followed(f, (struct passed){.n_tokens = N, .n_resume = 8, .from = 8}, 1, 0, 0);
    expect_followed(f, (struct passed){.n_tokens = N, .other_root = true}, 0, 1, 0);
    expect_followed(f, (struct passed){.n_tokens = 10, .cancels = true}, 0, 0, 1);
    expect_followed(f, (struct passed){.n_tokens = N, .n_resume = 8, .from = 9}, 0, 0, 1); /* a gap */
    expect_followed(f, (struct passed){.n_tokens = N + 1}, 0, 0, 1); /* more than were asked for */
    expect_followed(f, (struct passed){.n_tokens = 10}, 0, 0, 1);    /* a receipt of others */
    f->a.tokens[3] ^= 1; /* an earlier worker's, which this one has not gone on from */
    expect_followed(f, (struct passed){.n_tokens = 8, .n_resume = 8, .from = 8, .cancels = true}, 0, 0, 1);
    f->a.tokens[3] ^= 1;
    for (unsigned i = 0; i < VD_FOLLOW_STREAMS_MAX; i++) /* places become free */
        expect_followed(f, (struct passed){.n_tokens = N}, 1, 0, 0);
    struct vd_verifier_stats v;
    uint64_t until = vd_clock_ms() + WAIT_MS, n = n_judged(f, &v), n_right = v.n_streams_right;
    for (unsigned i = 0; i < AT_ONCE; i++) /* the same job again before the verdict about it */
        pass_on(f, &(struct passed){.n_tokens = N});
    while (n_judged(f, &v) < n + AT_ONCE && vd_clock_ms() < until)
        vd_clock_sleep_ms(2);
    assert_int_equal(v.n_streams_right, n_right + AT_ONCE);
    uint64_t n_streams = v.n_streams;
    pass_on(f, &(struct passed){.n_tokens = 4, .nothing_more = true});
    do
        vd_verifier_get_stats(f->verifier, &v);
    while (v.n_streams == n_streams && vd_clock_ms() < until);
    vd_link_close(f->verifier_link, VD_OK, ""); /* the link ends in the middle of it */
    assert_true(wait_for(one_is_cut_off, f));
    assert_true(wait_for(verifier_is_linked, f));
}

/* A verifier that cannot replay what a worker with more memory has done would be late. */
struct pause {
    struct vd_engine *engine;
    uint32_t ms;
};

static void sleep_in_engine(void *arg, struct vd_ctx *ctx, struct vd_kv_pool *cache)
{
    struct pause *p = arg;
    (void)ctx, (void)cache;
    vd_clock_sleep_ms(p->ms);
}

static void *hold_engine(void *arg)
{
    struct pause *p = arg;
    (void)vd_engine_run(p->engine, 0, 0, sleep_in_engine, p, NULL);
    return NULL;
}

static bool one_is_audited(struct fixture *f)
{
    struct vd_verifier_stats v;
    vd_verifier_get_stats(f->verifier, &v);
    return v.n_audits == 1;
}

/* Data are demanded of a worker that is busy with a dispute's replay for longer than it has to show them. */
static void replays_do_not_hold_up_data(void **state)
{
    struct fixture *f = *state;
    struct vd_verifier_stats v;
    struct vd_worker_stats w;
    struct vd_ledger_outcome o;
    struct vd_error err;
    pthread_t thread;
    start_worker(f, f->honest, f->pool[0]);
    start_verifier(f);
    assert_true(wait_for(is_auditor, f));
    ask(f, (struct question){.max_tokens = 12, .price_out = 3});
    assert_true(f->a.receipt);
    struct pause p = {f->worker->offer[0].engine, 6000};
    struct vd_tx tx = {.kind = VD_TX_CHALLENGE, .u.challenge.receipt_id = f->kept[0].id};
    f->withheld = f->kept[0].id;
    pthread_create(&thread, NULL, hold_engine, &p);
    settle_last(f);
    sure(vd_ledger_client_send(f->ledger, &tx, WAIT_MS, &o, &err), &err);
    assert_true(wait_for(one_is_audited, f));
    pthread_join(thread, NULL);
    vd_verifier_get_stats(f->verifier, &v);
    vd_worker_get_stats(f->worker, &w);
    assert_int_equal(v.n_demands, 1);
    assert_int_equal(v.n_audits_missed, 0);
    assert_int_equal(w.n_void, 0);
}

static void a_verifiers_cache_holds_the_longest_job(void **state)
{
    const uint64_t gib = 1 << 30;
    assert_int_equal(vd_verifier_cache_bytes(0, 1000, 64 * gib, 1), gib / 2);
    assert_int_equal(vd_verifier_cache_bytes(0, 9 * gib, 64 * gib, 1), 9 * gib);
    assert_int_equal(vd_verifier_cache_bytes(0, 9 * gib, 64 * gib, 4), 8 * gib);
    assert_int_equal(vd_verifier_cache_bytes(0, 9 * gib, gib / 4, 1), gib / 2);
    assert_int_equal(vd_verifier_cache_bytes(3000, 9 * gib, 64 * gib, 1), 3000);
}

/* ---- Replays that take long ---- */

/* Before a pass of the verifier's: as if there were any number of others before it. */
static bool slow_pass(void *arg)
{
    struct fixture *f = arg;
    struct vd_verifier *v = f->verifier;
    if (v->pass != f->slow.pass || atomic_load(&f->slow.began) || f->slow.n_skip > 0) {
        f->slow.n_skip -= v->pass == f->slow.pass && f->slow.n_skip > 0;
        return vd_audit_between(v);
    }
    uint64_t until = vd_clock_ms() + WAIT_MS;
    bool wanted = true;
    atomic_store(&f->slow.began, true);
    while (wanted && !(f->slow.enough && f->slow.enough(f)) && vd_clock_ms() < until) {
        wanted = vd_audit_between(v);
        vd_clock_sleep_ms(1);
    }
    atomic_store(&f->slow.given_up, !wanted);
    return wanted;
}

static bool slow_began(struct fixture *f)
{
    return atomic_load(&f->slow.began);
}

static bool slow_was_given_up(struct fixture *f)
{
    return atomic_load(&f->slow.given_up);
}

/* A verifier that has had nothing to do yet, and then has a long replay. */
static void start_slow_verifier(struct fixture *f, enum vd_audit_pass pass, unsigned n_skip,
                                bool (*enough)(struct fixture *f))
{
    start_verifier(f);
    f->slow.pass = pass;
    f->slow.n_skip = n_skip;
    f->slow.enough = enough;
    vd_ctx_set_before(f->verifier->desk[0].ctx, slow_pass, f);
}

/* A receipt that is worth an audit. */
static struct vd_signed_receipt a_good_receipt(struct fixture *f)
{
    ask(f, (struct question){.max_tokens = 12, .price_out = 3});
    assert_true(f->a.receipt);
    return f->a.signed_receipt;
}

static bool two_are_audited(struct fixture *f)
{
    struct vd_verifier_stats s;
    vd_verifier_get_stats(f->verifier, &s);
    return s.n_audits == 2;
}

/* The replay for the second audit takes longer than the clocks of both: the first one's commitment, which was
 * known, and its reveal are said meanwhile, and the replay is given up when it is too late. */
static void duties_wait_for_no_replay(void **state)
{
    struct fixture *f = *state;
    struct vd_verifier_stats v;
    start_worker(f, f->honest, f->pool[0]);
    start_slow_verifier(f, VD_PASS_DUTY, 1, NULL);
    assert_true(wait_for(is_auditor, f));
    struct vd_signed_receipt first = a_good_receipt(f);
    a_good_receipt(f);
    settle_last(f);
    f->a.signed_receipt = first;
    settle_last(f);
    assert_true(wait_for(two_are_audited, f));
    assert_true(wait_for(slow_was_given_up, f));
    vd_verifier_get_stats(f->verifier, &v);
    assert_int_equal(v.n_audits_missed, 1);
    assert_true(v.audit_paid_micro > 0);
}

static bool audited_and_replayed(struct fixture *f)
{
    struct vd_verifier_stats s;
    vd_verifier_get_stats(f->verifier, &s);
    return s.n_audits == 1 && s.n_stand == 1;
}

/* What a verifier replays of its own accord has no clock: it is given up when it is drawn for an audit, and
 * done later. */
static void a_sample_gives_way_to_a_duty(void **state)
{
    struct fixture *f = *state;
    struct vd_verifier_stats v;
    start_worker(f, f->honest, f->pool[0]);
    start_slow_verifier(f, VD_PASS_SAMPLE, 0, NULL);
    assert_true(wait_for(is_auditor, f));
    pthread_mutex_lock(&f->verifier->mu);
    f->verifier->rate_ppm = VD_PPM;
    pthread_mutex_unlock(&f->verifier->mu);
    a_good_receipt(f);
    settle_last(f);
    assert_true(wait_for(audited_and_replayed, f));
    vd_verifier_get_stats(f->verifier, &v);
    assert_true(atomic_load(&f->slow.given_up));
    assert_int_equal(v.n_audits_missed, 0);
}

static bool is_won(struct fixture *f)
{
    struct vd_verifier_stats s;
    vd_verifier_get_stats(f->verifier, &s);
    return s.n_won == 1;
}

static bool one_is_challenged(struct fixture *f)
{
    struct vd_verifier_stats s;
    vd_verifier_get_stats(f->verifier, &s);
    return s.n_challenges == 1;
}

/* The worker is away when its first receipt is challenged; when it is back the verifier is in the midst of a
 * replay that takes longer than the dispute. */
static void moves_wait_for_no_replay(void **state)
{
    struct fixture *f = *state;
    struct vd_verifier_stats v;
    start_cheat(f);
    start_slow_verifier(f, VD_PASS_SAMPLE, 1, is_won);
    struct vd_signed_receipt first = a_good_receipt(f), other = a_good_receipt(f);
    vd_worker_stop(f->worker);
    f->worker = NULL;
    f->a.signed_receipt = first;
    settle_last(f);
    assert_true(wait_for(one_is_challenged, f));
    f->a.signed_receipt = other;
    settle_last(f);
    assert_true(wait_for(slow_began, f));
    start_worker(f, f->cheat, f->pool[1]);
    assert_true(wait_for(is_won, f));
    vd_verifier_get_stats(f->verifier, &v);
    assert_int_equal(v.n_lost, 0);
}

static bool one_stands(struct fixture *f)
{
    struct vd_verifier_stats s;
    vd_verifier_get_stats(f->verifier, &s);
    return s.n_stand == 1;
}

/* It waits for no replay; and the receipt is replayed when it is back. */
static void a_verifier_stops_in_the_midst_of_a_replay(void **state)
{
    struct fixture *f = *state;
    start_worker(f, f->honest, f->pool[0]);
    start_slow_verifier(f, VD_PASS_SAMPLE, 0, NULL);
    a_good_receipt(f);
    settle_last(f);
    assert_true(wait_for(slow_began, f));
    vd_verifier_stop(f->verifier);
    f->verifier = NULL;
    assert_true(atomic_load(&f->slow.given_up));
    start_verifier(f);
    assert_true(wait_for(one_stands, f));
}

static void the_earliest_deadline_is_first(void **state)
{
    struct vd_worker_dispute d[] = {
        {.record = {.status = VD_DISPUTE_WORKER_MOVES, .deadline_height = 50}},
        {.record = {.status = VD_DISPUTE_WORKER_MOVES, .deadline_height = 30}},
        {.record = {.status = VD_DISPUTE_CHALLENGER_MOVES, .deadline_height = 10}},
        {.record = {.status = VD_DISPUTE_WORKER_MOVES, .deadline_height = 20}, .sending = true},
        {.record = {.status = VD_DISPUTE_WORKER_MOVES, .deadline_height = 15}, .stale = true},
        {.record = {.status = VD_DISPUTE_WORKER_MOVES, .deadline_height = 12}, .not_before_ms = 1001},
    };
    assert_int_equal(vd_worker_next_dispute(d, 6, 1000), 1);
    assert_int_equal(vd_worker_next_dispute(d, 6, 1001), 5);
    assert_int_equal(vd_worker_next_dispute(d, 1, 1000), 0);
    assert_int_equal(vd_worker_next_dispute(d + 2, 3, 1000), 3);
}

static void a_replay_waits_for_a_part_of_the_clock(void **state)
{
    struct vd_worker_dispute d[] = {
        {.record = {.status = VD_DISPUTE_WORKER_MOVES, .deadline_height = 50}},
        {.record = {.status = VD_DISPUTE_WORKER_MOVES, .deadline_height = 30}},
        {.record = {.status = VD_DISPUTE_CHALLENGER_MOVES, .deadline_height = 10}},
        {.record = {.status = VD_DISPUTE_WORKER_MOVES, .deadline_height = 20}, .sending = true},
        {.record = {.status = VD_DISPUTE_WORKER_MOVES, .deadline_height = 15}, .stale = true},
    };
    struct vd_genesis rules = {.block_time_ms = 3000, .move_clock_blocks = 40};
    assert_int_equal(vd_worker_patience_ms(d, 1, 10, &rules), 40 * 3000 / 4);
    assert_int_equal(vd_worker_patience_ms(d, 4, 10, &rules), 20 * 3000 / 8);
    assert_int_equal(vd_worker_patience_ms(d, 5, 10, &rules), 20 * 3000 / 12);
    assert_int_equal(vd_worker_patience_ms(d, 5, 30, &rules), 0);
    assert_int_equal(vd_worker_patience_ms(d, 5, 31, &rules), 0);
    assert_int_equal(vd_worker_patience_ms(d + 2, 3, 10, &rules), 0);
    rules.move_clock_blocks = 8; /* a challenger may move, or another come, and the clock then is this */
    assert_int_equal(vd_worker_patience_ms(d, 4, 10, &rules), 8 * 3000 / 8);
    d[2].record.replay_blocks = 5; /* and the longest replay */
    assert_int_equal(vd_worker_patience_ms(d, 4, 10, &rules), 13 * 3000 / 8);
    rules = (struct vd_genesis){.block_time_ms = 60000, .move_clock_blocks = 40};
    assert_int_equal(vd_worker_patience_ms(d, 1, 10, &rules), VD_WORKER_PATIENCE_MS);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(an_honest_job_is_paid),
        T(what_is_wrong_is_refused),
        T(a_sequence_is_good_for_one_job),
        T(a_second_job_at_capacity_is_refused),
        T(a_cancelled_job_is_receipted_as_far_as_it_went),
        T(a_receipt_that_cannot_be_kept_costs_nothing),
        T(another_worker_goes_on_from_the_tokens_given),
        T(a_statement_comes_with_each_64_tokens),
        T(a_prefix_is_reused_within_an_account),
        T(a_cheat_is_found_and_slashed),
        cmocka_unit_test_setup_teardown(a_challenge_waits_for_its_bond, setup_long_window, teardown),
        cmocka_unit_test_setup_teardown(a_slow_gateway_has_to_wait, setup_long_window, teardown),
        T(another_gateway_accepts_nothing),
        T(what_waits_is_replayed_together),
        T(data_that_fail_the_check_are_no_reason_to_challenge),
        T(only_the_gateway_that_was_asked_answers),
        cmocka_unit_test_setup_teardown(data_withheld_of_one_audit_make_no_other_late, setup_audits,
                                        teardown),
        cmocka_unit_test_setup_teardown(replays_do_not_hold_up_data, setup_slow_disputes, teardown),
        cmocka_unit_test_setup_teardown(duties_wait_for_no_replay, setup_audits, teardown),
        cmocka_unit_test_setup_teardown(a_sample_gives_way_to_a_duty, setup_audits, teardown),
        T(moves_wait_for_no_replay),
        T(a_verifier_stops_in_the_midst_of_a_replay),
        cmocka_unit_test(only_what_can_be_proved_is_challenged),
        T(an_idle_challenge_costs_its_bond),
        T(disputes_that_take_turns_cost_one_replay_each),
        T(jobs_that_hold_all_memory_do_not_hold_up_a_dispute),
        T(a_worker_stops_in_the_midst_of_a_replay),
        T(many_challenges_are_answered_in_few_blocks),
        T(a_hundred_challenges_cost_one_answer_for_a_node),
        T(what_is_passed_on_is_followed),
        cmocka_unit_test(the_earliest_deadline_is_first),
        cmocka_unit_test(a_verifiers_cache_holds_the_longest_job),
        cmocka_unit_test(a_replay_waits_for_a_part_of_the_clock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
