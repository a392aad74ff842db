#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "vd_receipt.h"
#include "vd_rng.h"
#include "vd_trace_hash.h"

struct fixture {
    struct vd_keypair gateway, worker;
    uint32_t prompt[5], output[3];
    uint8_t table[8 + VD_MASK_HEAD_BYTES + 2]; /* of biases, then the mask */
    struct vd_receipt receipt;
    struct vd_envelope envelope;
};

static void seal(struct fixture *f)
{
    struct vd_signed_receipt *s = &f->envelope.receipt;
    s->body_bytes = vd_receipt_encode(&f->receipt, s->body, sizeof s->body);
    assert_true(s->body_bytes > 0);
    vd_key_sign(&s->worker_sig, &f->worker, VD_TAG_RECEIPT, s->body, s->body_bytes);
    vd_key_sign(&s->gateway_sig, &f->gateway, VD_TAG_ACCEPT, s->body, s->body_bytes);
}

static struct fixture *make(void)
{
    static struct fixture f;
    struct vd_request *q = &f.receipt.request;
    uint8_t seed[32] = {1};
    memset(&f, 0, sizeof f);
    vd_key_from_seed(&f.gateway, seed);
    seed[0] = 2;
    vd_key_from_seed(&f.worker, seed);
    for (uint32_t i = 0; i < 5; i++)
        f.prompt[i] = 100 * i; /* a zero token among them */
    for (uint32_t i = 0; i < 3; i++)
        f.output[i] = 49151 - i;
    memset(f.envelope.job_salt, 7, VD_SALT_BYTES);
    f.envelope.n_prompt = 5;
    f.envelope.n_output = 3;
    f.envelope.prompt = f.prompt;
    f.envelope.output = f.output;
    memset(q->genesis.b, 0xff, 32);
    q->arith_version = VD_ARITH_VERSION;
    q->valid_until = UINT64_MAX;
    memset(q->escrow_id.b, 0xee, 32);
    q->sequence = UINT64_MAX;
    q->gateway = f.gateway.pub;
    q->worker = f.worker.pub;
    memset(q->model_root.b, 0xdd, 32);
    q->prompt_root = vd_token_root(f.envelope.job_salt, 0, f.prompt, 5);
    q->n_prompt = 5;
    q->salt_commit = vd_salt_commit(f.envelope.job_salt);
    q->sampling = (struct vd_sampling){.temp_micro = 700000,
                                       .top_k = 1 << 20,
                                       .top_p_micro = 1000000,
                                       .min_p_micro = 1000000,
                                       .seed = UINT64_MAX,
                                       .choice = UINT32_MAX,
                                       .repeat_micro = VD_REPEAT_MICRO_MAX,
                                       .repeat_last_n = VD_PENALTY_WINDOW,
                                       .presence_micro = VD_PENALTY_MICRO_MAX,
                                       .frequency_micro = -VD_PENALTY_MICRO_MAX};
    vd_le32_store(f.table, 7);
    vd_le32_store(f.table + 4, 1000000);
    f.table[8 + VD_MASK_ROOT_BYTES] = 1; /* one state, not an end, no edges */
    f.envelope.controls = (struct vd_controls){{f.table, 8}, {f.table + 8, VD_MASK_HEAD_BYTES + 2}};
    vd_request_set_controls(q, &f.envelope.controls);
    q->max_tokens = 3;
    q->price_in.micro = 10;
    q->price_out.micro = VD_PRICE_MAX_MICRO;
    q->disclosure = UINT32_MAX;
    f.receipt.output_root = vd_token_root(f.envelope.job_salt, 5, f.output, 3);
    f.receipt.n_output = 3;
    f.receipt.finish = VD_FINISH_LENGTH;
    memset(f.receipt.commit_root.b, 0xcc, 32);
    f.receipt.amount.micro = 5 * 10 + 3 * VD_PRICE_MAX_MICRO;
    seal(&f);
    return &f;
}

static enum vd_receipt_verdict check(struct fixture *f)
{
    struct vd_receipt out;
    seal(f);
    return vd_envelope_check(&f->envelope, &out);
}

/* Every field at its largest: the promise of docs/spec/receipt.md on size. */
static void test_round_trip_and_size(void **state)
{
    struct fixture *f = make();
    uint8_t buf[1024], again[1024];
    uint32_t tok[64];
    struct vd_envelope e;
    struct vd_receipt out;
    (void)state;
    assert_true(vd_signed_receipt_encode(&f->envelope.receipt, buf, sizeof buf) <=
                VD_SIGNED_RECEIPT_MAX_BYTES);
    size_t n = vd_envelope_encode(&f->envelope, buf, sizeof buf);
    assert_true(n > 0 && n <= vd_envelope_max_bytes(5, 3));
    assert_true(vd_envelope_decode((struct vd_bytes){buf, n}, &e, tok, 64));
    assert_int_equal(vd_envelope_check(&e, &out), VD_RECEIPT_OK);
    size_t body = vd_receipt_encode(&out, again, sizeof again);
    assert_int_equal(body, f->envelope.receipt.body_bytes);
    assert_memory_equal(again, f->envelope.receipt.body, body);
    assert_memory_equal(&out.request.sampling.seed, &f->receipt.request.sampling.seed, 8);
    assert_int_equal(vd_envelope_encode(&e, again, sizeof again), n);
    assert_memory_equal(buf, again, n);
    assert_int_equal(vd_receipt_n_steps(&out), 7);
    assert_false(vd_envelope_decode((struct vd_bytes){buf, n}, &e, tok, 7));
    assert_false(vd_envelope_decode((struct vd_bytes){buf, n}, &e, tok, 8 + 2 + 8));
    assert_true(vd_envelope_decode((struct vd_bytes){buf, n}, &e, tok, 8 + 2 + 9));
    for (size_t cut = 0; cut < n; cut++)
        assert_false(vd_envelope_decode((struct vd_bytes){buf, cut}, &e, tok, 64) &&
                     vd_envelope_check(&e, &out) == VD_RECEIPT_OK);
}

/* One flipped bit anywhere is noticed. */
static void test_every_bit(void **state)
{
    struct fixture *f = make();
    uint8_t buf[1024];
    uint32_t tok[64];
    struct vd_envelope e;
    struct vd_receipt out;
    (void)state;
    size_t n = vd_envelope_encode(&f->envelope, buf, sizeof buf);
    for (size_t bit = 0; bit < 8 * n; bit++) {
        buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (vd_envelope_decode((struct vd_bytes){buf, n}, &e, tok, 64))
            assert_int_not_equal(vd_envelope_check(&e, &out), VD_RECEIPT_OK);
        buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static void test_refusals(void **state)
{
    struct fixture *f;
    struct vd_receipt out;
    (void)state;
    assert_int_equal(check(make()), VD_RECEIPT_OK);
    f = make(), f->receipt.amount.micro++;
    assert_int_equal(check(f), VD_RECEIPT_BAD_AMOUNT);
    f = make(), f->receipt.request.arith_version = 2;
    assert_int_equal(check(f), VD_RECEIPT_BAD_ARITH);
    f = make(), f->table[0]++;
    assert_int_equal(check(f), VD_RECEIPT_BAD_CONTROLS);
    f = make(), f->table[8 + VD_MASK_ROOT_BYTES] = 2,
    vd_request_set_controls(&f->receipt.request, &f->envelope.controls);
    assert_int_equal(check(f), VD_RECEIPT_BAD_CONTROLS);
    f = make(), f->envelope.controls.mask.n = 0;
    assert_int_equal(check(f), VD_RECEIPT_BAD_CONTROLS);
    f = make(), f->receipt.request.sampling.repeat_last_n = 0;
    assert_int_equal(check(f), VD_RECEIPT_BAD_LIMITS);
    f = make(), f->receipt.request.sampling.repeat_micro = VD_REPEAT_MICRO_MIN - 1;
    assert_int_equal(check(f), VD_RECEIPT_BAD_LIMITS);
    f = make(), f->receipt.request.sampling.presence_micro = -VD_PENALTY_MICRO_MAX - 1;
    assert_int_equal(check(f), VD_RECEIPT_BAD_LIMITS);
    f = make(), f->receipt.request.n_prompt = 0;
    assert_int_equal(check(f), VD_RECEIPT_BAD_LIMITS);
    f = make(), f->receipt.request.max_tokens = 2;
    assert_int_equal(check(f), VD_RECEIPT_BAD_LIMITS);
    f = make(), f->receipt.request.max_tokens = VD_JOB_MAX_TOKENS;
    assert_int_equal(check(f), VD_RECEIPT_BAD_LIMITS);
    f = make(), f->receipt.request.max_tokens = VD_JOB_MAX_TOKENS - 5,
    f->receipt.finish = VD_FINISH_CANCELLED;
    f->receipt.request.price_out.micro = 1, f->receipt.amount.micro = 5 * 10 + 3;
    assert_int_equal(check(f), VD_RECEIPT_OK); /* with the prompt of 5 the longest job that there is */
    f->receipt.request.max_tokens++;
    assert_int_equal(check(f), VD_RECEIPT_BAD_LIMITS);
    f = make(), f->receipt.finish = VD_FINISH_FAIL; /* after its last token nothing can fail */
    assert_int_equal(check(f), VD_RECEIPT_BAD_LIMITS);
    f = make(), f->receipt.n_output = 0, f->receipt.amount.micro = 50; /* a root of nothing */
    f->receipt.finish = VD_FINISH_FAIL, f->envelope.n_output = 0;
    assert_int_equal(check(f), VD_RECEIPT_BAD_LIMITS);
    f = make(), f->receipt.request.max_tokens = 4; /* finish says length */
    assert_int_equal(check(f), VD_RECEIPT_BAD_LIMITS);
    f = make(), f->receipt.request.sampling.temp_micro = 2000001;
    assert_int_equal(check(f), VD_RECEIPT_BAD_LIMITS);
    f = make(), f->receipt.request.sampling.top_p_micro = 0;
    assert_int_equal(check(f), VD_RECEIPT_BAD_LIMITS);
    f = make(), f->receipt.n_output = 0, f->receipt.amount.micro = 50;
    memset(f->receipt.output_root.b, 0, 32);
    f->receipt.finish = VD_FINISH_CANCELLED;
    assert_int_equal(check(f), VD_RECEIPT_BAD_LIMITS);
    f->receipt.finish = VD_FINISH_FAIL;
    f->envelope.n_output = 0;
    assert_int_equal(check(f), VD_RECEIPT_OK);
    f = make(), f->output[1]++;
    assert_int_equal(check(f), VD_RECEIPT_BAD_OUTPUT);
    f = make(), f->prompt[4]++;
    assert_int_equal(check(f), VD_RECEIPT_BAD_PROMPT);
    f = make(), f->envelope.job_salt[0]++;
    assert_int_equal(check(f), VD_RECEIPT_BAD_SALT);
    f = make(), f->envelope.receipt.worker_sig = f->envelope.receipt.gateway_sig;
    assert_int_equal(vd_envelope_check(&f->envelope, &out), VD_RECEIPT_BAD_WORKER_SIG);
    f = make(), f->envelope.receipt.gateway_sig = f->envelope.receipt.worker_sig;
    assert_int_equal(vd_envelope_check(&f->envelope, &out), VD_RECEIPT_BAD_GATEWAY_SIG);
}

/* A vector's receipt: no sampling, no price per element, and an end that is its length. */
static struct fixture *make_vector(void)
{
    struct fixture *f = make();
    struct vd_request *q = &f->receipt.request;
    q->sampling = (struct vd_sampling){.top_p_micro = VD_SAMPLE_MICRO, .pooling = VD_POOLING_LAST};
    f->envelope.controls = (struct vd_controls){{NULL, 0}, {NULL, 0}};
    vd_request_set_controls(q, &f->envelope.controls);
    q->price_out.micro = 0;
    f->receipt.output_root = vd_vector_root(f->envelope.job_salt, 5, f->output, 3);
    f->receipt.amount.micro = 5 * 10;
    return f;
}

static void test_vectors(void **state)
{
    struct fixture *f = make_vector();
    (void)state;
    assert_int_equal(check(f), VD_RECEIPT_OK);
    assert_int_equal(vd_receipt_n_steps(&f->receipt), 5);
    f->receipt.output_root = vd_token_root(f->envelope.job_salt, 5, f->output, 3);
    assert_int_equal(check(f), VD_RECEIPT_BAD_OUTPUT);
    f = make_vector(), f->receipt.finish = VD_FINISH_STOP;
    assert_int_equal(check(f), VD_RECEIPT_BAD_LIMITS);
    f = make_vector(), f->receipt.request.price_out.micro = 1, f->receipt.amount.micro += 3;
    assert_int_equal(check(f), VD_RECEIPT_BAD_LIMITS);
    f = make_vector(), f->receipt.request.max_tokens = f->receipt.n_output = VD_VECTOR_MAX + 1;
    assert_int_equal(check(f), VD_RECEIPT_BAD_LIMITS);
    const struct vd_sampling wrong[] = {
        {.temp_micro = 1, .top_p_micro = VD_SAMPLE_MICRO},
        {.top_k = 1, .top_p_micro = VD_SAMPLE_MICRO},
        {.top_p_micro = VD_SAMPLE_MICRO - 1},
        {.top_p_micro = VD_SAMPLE_MICRO, .min_p_micro = 1},
        {.top_p_micro = VD_SAMPLE_MICRO, .seed = 1},
        {.top_p_micro = VD_SAMPLE_MICRO, .choice = 1},
        {.top_p_micro = VD_SAMPLE_MICRO, .presence_micro = 1},
        {.top_p_micro = VD_SAMPLE_MICRO, .repeat_micro = VD_REPEAT_MICRO_MAX, .repeat_last_n = 1},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        f = make_vector(), f->receipt.request.sampling = wrong[i];
        f->receipt.request.sampling.pooling = VD_POOLING_LAST;
        assert_int_equal(check(f), VD_RECEIPT_BAD_LIMITS);
    }
    f = make_vector(), f->envelope.controls.bias = (struct vd_bytes){f->table, 8};
    vd_request_set_controls(&f->receipt.request, &f->envelope.controls);
    assert_int_equal(check(f), VD_RECEIPT_BAD_LIMITS);
}

/* Not only the fields that a test can fill with tokens: every length and price at its limit. */
static void test_largest(void **state)
{
    struct fixture *f = make();
    struct vd_request *q = &f->receipt.request;
    uint8_t buf[1024];
    (void)state;
    q->n_prompt = q->max_tokens = f->receipt.n_output = VD_JOB_MAX_TOKENS / 2;
    q->price_in.micro = q->price_out.micro = VD_PRICE_MAX_MICRO;
    q->arith_version = UINT32_MAX;
    f->receipt.amount.micro = UINT64_MAX;
    seal(f);
    size_t n = vd_signed_receipt_encode(&f->envelope.receipt, buf, sizeof buf);
    assert_true(n > 0 && n <= VD_SIGNED_RECEIPT_MAX_BYTES);
}

static void test_prefix(void **state)
{
    struct fixture *f = make();
    uint8_t request[VD_REQUEST_MAX_BYTES], buf[VD_PREFIX_MAX_BYTES], *salt = f->envelope.job_salt;
    struct vd_bytes q = {request, vd_request_encode(&f->receipt.request, request, sizeof request)};
    struct vd_receipt_prefix p = {.job_id = vd_receipt_id(q), .n_output = 2}, out;
    struct vd_sig sig;
    (void)state;
    p.output_root = vd_token_root(salt, 5, f->output, 2);
    memset(p.commit_root.b, 0xbb, VD_HASH_BYTES);
    struct vd_bytes body = {buf, vd_receipt_prefix_encode(&p, buf, sizeof buf)};
    vd_key_sign(&sig, &f->worker, VD_TAG_PREFIX, body.p, body.n);
    assert_int_equal(vd_receipt_prefix_check(body, &sig, q, salt, f->output, 3, &out), VD_RECEIPT_OK);
    assert_memory_equal(&out, &p, sizeof p);
    assert_int_equal(vd_receipt_prefix_check(body, &sig, q, salt, f->output, 1, &out), VD_RECEIPT_BAD_LIMITS);
    f->output[1]++;
    assert_int_equal(vd_receipt_prefix_check(body, &sig, q, salt, f->output, 3, &out), VD_RECEIPT_BAD_OUTPUT);
    f->output[1]--;
    vd_key_sign(&sig, &f->worker, VD_TAG_RECEIPT, body.p, body.n);
    assert_int_equal(vd_receipt_prefix_check(body, &sig, q, salt, f->output, 3, &out),
                     VD_RECEIPT_BAD_WORKER_SIG);
    p.job_id.b[0] ^= 1;
    body.n = vd_receipt_prefix_encode(&p, buf, sizeof buf);
    assert_int_equal(vd_receipt_prefix_check(body, &sig, q, salt, f->output, 3, &out), VD_RECEIPT_BAD_LIMITS);
    p.job_id.b[0] ^= 1;
    uint32_t more[4] = {f->output[0], f->output[1], f->output[2], 1}; /* than the request asks for */
    p.n_output = 4;
    p.output_root = vd_token_root(salt, 5, more, 4);
    body.n = vd_receipt_prefix_encode(&p, buf, sizeof buf);
    vd_key_sign(&sig, &f->worker, VD_TAG_PREFIX, body.p, body.n);
    assert_int_equal(vd_receipt_prefix_check(body, &sig, q, salt, more, 4, &out), VD_RECEIPT_BAD_LIMITS);
    body.n--;
    assert_int_equal(vd_receipt_prefix_check(body, &sig, q, salt, f->output, 3, &out), VD_RECEIPT_MALFORMED);
}

static void test_prefix_envelope(void **state)
{
    struct fixture *f = make();
    static struct vd_prefix_envelope e, back;
    struct vd_receipt_prefix p = {.n_output = 2}, out;
    struct vd_request q;
    struct vd_envelope receipt;
    uint8_t bytes[2048];
    uint32_t tok[64];
    (void)state;
    memset(&e, 0, sizeof e);
    e.request_bytes = vd_request_encode(&f->receipt.request, e.request, sizeof e.request);
    memcpy(e.job_salt, f->envelope.job_salt, sizeof e.job_salt);
    e.n_prompt = f->envelope.n_prompt;
    e.prompt = f->envelope.prompt;
    e.n_output = 2;
    e.output = f->envelope.output;
    e.controls = f->envelope.controls;
    p.job_id = vd_receipt_id((struct vd_bytes){e.request, e.request_bytes});
    p.output_root = vd_token_root(e.job_salt, e.n_prompt, e.output, 2);
    memset(p.commit_root.b, 0xbb, VD_HASH_BYTES);
    e.statement_bytes = vd_receipt_prefix_encode(&p, e.statement, sizeof e.statement);
    vd_key_sign(&e.worker_sig, &f->worker, VD_TAG_PREFIX, e.statement, e.statement_bytes);
    struct vd_bytes in = {bytes, vd_prefix_envelope_encode(&e, bytes, sizeof bytes)};
    assert_true(in.n > 0 && in.n <= vd_prefix_envelope_max_bytes(e.n_prompt, e.n_output));
    assert_false(vd_envelope_decode(in, &receipt, tok, 64));
    assert_true(vd_prefix_envelope_decode(in, &back, tok, 64));
    assert_int_equal(vd_prefix_envelope_check(&back, &q, &out), VD_RECEIPT_OK);
    assert_memory_equal(&out, &p, sizeof p);
    back.output[0]++;
    assert_int_equal(vd_prefix_envelope_check(&back, &q, &out), VD_RECEIPT_BAD_OUTPUT);
    back.output[0]--;
    back.prompt[0]++;
    assert_int_equal(vd_prefix_envelope_check(&back, &q, &out), VD_RECEIPT_BAD_PROMPT);
    back.prompt[0]--;
    back.worker_sig.b[0] ^= 1;
    assert_int_equal(vd_prefix_envelope_check(&back, &q, &out), VD_RECEIPT_BAD_WORKER_SIG);
    back.worker_sig.b[0] ^= 1;
    struct vd_controls tables = back.controls;
    back.controls.bias = (struct vd_bytes){NULL, 0};
    assert_int_equal(vd_prefix_envelope_check(&back, &q, &out), VD_RECEIPT_BAD_CONTROLS);
    back.controls = tables;
    back.job_salt[0] ^= 1; /* another salt, about which the statement is right */
    p.output_root = vd_token_root(back.job_salt, back.n_prompt, back.output, 2);
    back.statement_bytes = vd_receipt_prefix_encode(&p, back.statement, sizeof back.statement);
    vd_key_sign(&back.worker_sig, &f->worker, VD_TAG_PREFIX, back.statement, back.statement_bytes);
    assert_int_equal(vd_prefix_envelope_check(&back, &q, &out), VD_RECEIPT_BAD_SALT);
    e.n_output = 3; /* one token more than it speaks of */
    in.n = vd_prefix_envelope_encode(&e, bytes, sizeof bytes);
    assert_true(vd_prefix_envelope_decode(in, &back, tok, 64));
    assert_int_equal(vd_prefix_envelope_check(&back, &q, &out), VD_RECEIPT_BAD_LIMITS);
    in.n--;
    assert_false(vd_prefix_envelope_decode(in, &back, tok, 64));
}

static void test_r64(void **state)
{
    (void)state;
    uint8_t input[15 + 16] = "veridem/sample";
    vd_le64_store(input + 15, 7);
    vd_le32_store(input + 23, 3);
    vd_le32_store(input + 27, 11);
    struct vd_hash h = vd_sha256_of(input, sizeof input);
    assert_true(vd_sample_r64(7, 3, 11) == vd_le64_load(h.b));
    assert_true(vd_sample_r64(1, 0, 0) != vd_sample_r64(2, 0, 0));
    assert_true(vd_sample_r64(1, 0, 0) != vd_sample_r64(1, 1, 0));
    assert_true(vd_sample_r64(1, 0, 0) != vd_sample_r64(1, 0, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip_and_size),
        cmocka_unit_test(test_every_bit),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_largest),
        cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_prefix_envelope),
        cmocka_unit_test(test_r64),
    };
    if (vd_key_init(NULL) != VD_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
