/* What the tests of worker and verifier share: a ledger, a gateway made of a listening link that plays its
 * part of the protocol and checks what it is told, small random models, a worker and a verifier that a test
 * starts, a cheat among them: it runs other weights than it claims. Tests only. */
#ifndef VD_TEST_ROLES_H
#define VD_TEST_ROLES_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
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

#define HOST VD_TEST_HOST
enum { WAIT_MS = 30000, PROMPT = 40, TOKENS_MAX = 256, RECEIPTS_MAX = 16, BALANCE = 100000000, PRICE = 3 };

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
    size_t kv_bytes;        /* of the worker's cache; 0: 8 MiB */
    uint32_t capacity;      /* of the worker; 0: 1 */
    uint32_t window_blocks; /* 0: 60 */
    bool long_moves;        /* the clock of a move is 16 s instead of 4 */
    bool audits;            /* of the ledger; the verifier is the auditor */
    /* When a verifier asks the gateway for a receipt's data, on the link's thread; false: it does not answer.
     * NULL: it answers. */
    bool (*on_audit)(struct fixture *f, const struct vd_hash *receipt_id);

    pthread_mutex_t mu;
    struct vd_link *worker_link, *verifier_link, *stranger_link;
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
};

static inline void sure(enum vd_err e, const struct vd_error *err)
{
    if (e != VD_OK)
        fail_msg("%s", err->msg);
}

/* What worker and verifier have counted, where they run. */
struct counts {
    struct vd_worker_stats w;
    struct vd_verifier_stats v;
};

static inline struct counts counts_of(struct fixture *f)
{
    struct counts c = {.w = {0}, .v = {0}};
    if (f->worker)
        vd_worker_get_stats(f->worker, &c.w);
    if (f->verifier)
        vd_verifier_get_stats(f->verifier, &c.v);
    return c;
}

/* Waits until this is so, of f (whose lock is held) and of what is counted now: `is.w` and `is.v`. */
#define AWAIT(f, what)                                                                                       \
    do {                                                                                                     \
        uint64_t until_ = vd_clock_ms() + WAIT_MS;                                                           \
        bool so_ = false;                                                                                    \
        while (!so_ && vd_clock_ms() < until_) {                                                             \
            struct counts is = counts_of(f);                                                                 \
            (void)is;                                                                                        \
            pthread_mutex_lock(&(f)->mu);                                                                    \
            so_ = (what);                                                                                    \
            pthread_mutex_unlock(&(f)->mu);                                                                  \
            if (!so_)                                                                                        \
                vd_clock_sleep_ms(2);                                                                        \
        }                                                                                                    \
        if (!so_)                                                                                            \
            fail_msg("not in time: %s", #what);                                                              \
    } while (0)

/* ---- The gateway ---- */

#define SEND(link, type, put, message, cap)                                                                  \
    do {                                                                                                     \
        uint8_t *buf_ = malloc(cap);                                                                         \
        struct vd_pb_writer w_ = vd_pb_writer_init(buf_, cap);                                               \
        assert_true(put(&w_, message));                                                                      \
        (void)vd_link_send(link, type, buf_, w_.n_bytes, NULL);                                              \
        free(buf_);                                                                                          \
    } while (0)

static inline void gw_hello(struct fixture *f, struct vd_link *link, struct vd_bytes body)
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

static inline void gw_token(struct fixture *f, struct vd_bytes body)
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
    pthread_mutex_unlock(&f->mu);
}

static inline void gw_prefix(struct fixture *f, struct vd_bytes body)
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
static inline void gw_receipt(struct fixture *f, struct vd_link *link, struct vd_bytes body)
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

static inline void gw_audit(struct fixture *f, struct vd_link *link, struct vd_bytes body)
{
    struct vd_wire_audit_get m;
    assert_true(vd_wire_get_audit_get(&m, body));
    if (f->on_audit && !f->on_audit(f, &m.receipt_id))
        return;
    for (size_t i = 0; i < f->n_kept; i++) {
        if (!vd_hash_eq(&f->kept[i].id, &m.receipt_id))
            continue;
        struct vd_wire_audit_data d = {.receipt_id = m.receipt_id,
                                       .envelope = {f->kept[i].bytes, f->kept[i].n}};
        SEND(link, VD_WIRE_AUDIT_DATA, vd_wire_put_audit_data, &d, 1 << 16);
    }
}

static inline void gw_frame(void *arg, struct vd_link *link, unsigned type, struct vd_bytes body)
{
    struct fixture *f = arg;
    struct vd_wire_refuse refuse;
    switch (type) {
    case VD_WIRE_HELLO:
        gw_hello(f, link, body);
        break;
    case VD_WIRE_TOKEN:
        gw_token(f, body);
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

static inline void gw_close(void *arg, struct vd_link *link, const struct vd_error *why)
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

static inline void stranger_frame(void *arg, struct vd_link *link, unsigned type, struct vd_bytes body)
{
    struct fixture *f = arg;
    pthread_mutex_lock(&f->mu);
    if (type == VD_WIRE_HELLO && !f->stranger_link)
        f->stranger_link = vd_link_ref(link);
    pthread_mutex_unlock(&f->mu);
}

/* ---- Setting up ---- */

/* Everything is audited, by one auditor, which has 2.4 seconds to commit. */
static inline void add_audits(struct vd_genesis *g)
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

static inline void start_ledger(struct fixture *f)
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

static inline void start_gateway(struct fixture *f)
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
static inline void write_cheat(const struct fixture *f, char path[VD_PATH_MAX])
{
    struct vd_test_model t = vd_test_model_default;
    size_t n;
    uint8_t *bytes = vd_test_model_bytes(&t, NULL, &n);
    for (size_t i = n - n / 4; i < n - n / 5; i++)
        bytes[i] ^= 1;
    vd_test_write_file(bytes, n, path);
    free(bytes);
}

static inline void start_models(struct fixture *f)
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

/* And waits until the gateway knows. */
static inline void stop_worker(struct fixture *f)
{
    vd_worker_stop(f->worker);
    f->worker = NULL;
    AWAIT(f, f->worker_link == NULL);
}

/* One of this model, that says it is the honest one; in place of the worker that there is, if any. */
static inline void start_worker_of(struct fixture *f, struct vd_model *model, struct vd_pool *pool)
{
    struct vd_error err;
    static char home[128];
    struct vd_worker_model m = {.model = model,
                                .pool = pool,
                                .root = f->root,
                                .price_in = {2},
                                .price_out = {PRICE},
                                .capacity = f->capacity ? f->capacity : 1,
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
    stop_worker(f);
    sure(vd_worker_start(&f->worker, &c, &err), &err);
    AWAIT(f, f->worker_link != NULL);
}

static inline void start_worker(struct fixture *f)
{
    start_worker_of(f, f->honest, f->pool[0]);
}

/* An honest worker registers the model; the one that stays only claims its root. */
static inline void start_cheat(struct fixture *f)
{
    start_worker(f);
    start_worker_of(f, f->cheat, f->pool[1]);
}

/* Another gateway, to which worker and verifier are linked that start from now on. It says nothing. */
static inline void start_stranger(struct fixture *f)
{
    struct vd_error err;
    uint8_t seed[VD_SEED_BYTES] = {99};
    vd_key_from_seed(&f->stranger_key, seed);
    struct vd_link_config c = {.key = &f->stranger_key, .cb = {.arg = f, .on_frame = stranger_frame}};
    sure(vd_link_listen(&f->stranger, &c, HOST, 0, &err), &err);
}

static inline void start_verifier(struct fixture *f)
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
    AWAIT(f, is.v.n_links == (f->stranger ? 2 : 1));
}

static inline int setup_network(void **state, bool audits, uint32_t window_blocks, bool long_moves)
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

static inline int setup(void **state)
{
    return setup_network(state, false, 0, false);
}

static inline int teardown(void **state)
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
    uint32_t max_tokens, n_resume;
    uint32_t price_out; /* 0: the worker's */
    const uint32_t *resume;
    bool beside; /* the answer that is awaited is still that of the job before */
    bool bad_prompt, bad_escrow, bad_signature;
    uint32_t valid_blocks; /* 0: 1500 */
    uint64_t sequence;     /* 0: the next */
    uint8_t account;
};

static inline void await_answer_to(struct fixture *f, struct vd_bytes request,
                                   const struct vd_wire_tokens *resume)
{
    pthread_mutex_lock(&f->mu);
    f->n_request = request.n;
    memcpy(f->request, request.p, request.n);
    memset(&f->a, 0, sizeof f->a);
    f->a.job = vd_sha256_of(request.p, request.n);
    for (size_t i = 0; i < resume->n; i++)
        f->a.tokens[f->a.n_tokens++] = resume->v[i];
    pthread_mutex_unlock(&f->mu);
}

static inline void send_job(struct fixture *f, struct question q)
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
                           .price_out = {q.price_out ? q.price_out : PRICE}};
    for (uint32_t i = 0; i < PROMPT; i++)
        f->prompt[i] = (i * 37 + 5) % 200;
    memset(f->salt, 9, sizeof f->salt);
    r.salt_commit = vd_salt_commit(f->salt);
    r.prompt_root = vd_token_root(f->salt, 0, f->prompt, PROMPT);
    r.prompt_root.b[0] ^= q.bad_prompt;
    r.escrow_id.b[0] ^= q.bad_escrow;
    struct vd_wire_job m = {.prompt = {f->prompt, PROMPT}, .resume = {q.resume, q.n_resume}};
    uint8_t request[VD_REQUEST_MAX_BYTES];
    m.request = (struct vd_bytes){request, vd_request_encode(&r, request, sizeof request)};
    vd_key_sign(&m.request_sig, &f->gateway_key, VD_TAG_REQUEST, m.request.p, m.request.n);
    m.request_sig.b[3] ^= q.bad_signature;
    memcpy(m.salt.b, f->salt, VD_SALT_BYTES);
    m.account.b[0] = q.account;
    if (!q.beside)
        await_answer_to(f, m.request, &m.resume);
    SEND(f->worker_link, VD_WIRE_JOB, vd_wire_put_job, &m, 1 << 16);
}

static inline void ask(struct fixture *f, struct question q)
{
    send_job(f, q);
    AWAIT(f, f->a.receipt || f->a.refused);
}

/* A job of so many tokens that is answered; its receipt's id. */
static inline struct vd_hash a_receipt(struct fixture *f, uint32_t max_tokens)
{
    ask(f, (struct question){.max_tokens = max_tokens});
    assert_true(f->a.receipt);
    return vd_signed_receipt_id(&f->a.signed_receipt);
}

static inline void settle_last(struct fixture *f)
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

static inline struct vd_hash a_settled_receipt(struct fixture *f, uint32_t max_tokens)
{
    struct vd_hash id = a_receipt(f, max_tokens);
    settle_last(f);
    return id;
}

static inline struct vd_receipt read_receipt(const struct vd_signed_receipt *s)
{
    struct vd_receipt r;
    assert_int_equal(vd_receipt_decode((struct vd_bytes){s->body, s->body_bytes}, &r), VD_RECEIPT_OK);
    return r;
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
