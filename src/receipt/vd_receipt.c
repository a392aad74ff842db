/* One page per message: put and get calls in the order of proto/veridem.proto. A decoder that accepts only
 * what the encoder writes makes "decode, encode again, compare" true by construction; the fuzz target checks
 * it. */
#include "vd_receipt.h"
#include "vd_pb.h"
#include "vd_trace_hash.h"

#include <assert.h>

const char *vd_finish_name(enum vd_finish f)
{
    switch (f) {
#define X(code, value, name)                                                                                 \
    case code:                                                                                               \
        return name;
        VD_FINISH_LIST(X)
#undef X
    }
    return "?";
}

const char *vd_receipt_verdict_text(enum vd_receipt_verdict v)
{
    switch (v) {
#define X(code, text)                                                                                        \
    case code:                                                                                               \
        return text;
        VD_RECEIPT_VERDICT_LIST(X)
#undef X
    }
    return "?";
}

/* protobuf's sint32 */
static uint32_t zigzag(int32_t v)
{
    return ((uint32_t)v << 1) ^ (v < 0 ? UINT32_MAX : 0);
}

static int32_t unzigzag(uint32_t u)
{
    return (int32_t)(u >> 1) ^ -(int32_t)(u & 1);
}

size_t vd_request_encode(const struct vd_request *r, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_elem(&w, 1, r->genesis.b, VD_HASH_BYTES);
    vd_pb_put_u64(&w, 2, r->arith_version);
    vd_pb_put_u64(&w, 3, r->valid_until);
    vd_pb_put_elem(&w, 4, r->escrow_id.b, VD_HASH_BYTES);
    vd_pb_put_u64(&w, 5, r->sequence);
    vd_pb_put_elem(&w, 6, r->gateway.b, VD_PUBKEY_BYTES);
    vd_pb_put_elem(&w, 7, r->worker.b, VD_PUBKEY_BYTES);
    vd_pb_put_elem(&w, 8, r->model_root.b, VD_HASH_BYTES);
    vd_pb_put_elem(&w, 9, r->prompt_root.b, VD_HASH_BYTES);
    vd_pb_put_u64(&w, 10, r->n_prompt);
    vd_pb_put_elem(&w, 11, r->salt_commit.b, VD_HASH_BYTES);
    vd_pb_put_u64(&w, 12, r->sampling.temp_micro);
    vd_pb_put_u64(&w, 13, r->sampling.top_k);
    vd_pb_put_u64(&w, 14, r->sampling.top_p_micro);
    vd_pb_put_u64(&w, 15, r->sampling.min_p_micro);
    vd_pb_put_u64(&w, 16, r->sampling.seed);
    vd_pb_put_u64(&w, 17, r->sampling.choice);
    vd_pb_put_u64(&w, 18, r->max_tokens);
    vd_pb_put_u64(&w, 19, r->price_in.micro);
    vd_pb_put_u64(&w, 20, r->price_out.micro);
    vd_pb_put_u64(&w, 21, r->disclosure);
    vd_pb_put_u64(&w, 22, r->sampling.repeat_micro);
    vd_pb_put_u64(&w, 23, r->sampling.repeat_last_n);
    vd_pb_put_u64(&w, 24, zigzag(r->sampling.presence_micro));
    vd_pb_put_u64(&w, 25, zigzag(r->sampling.frequency_micro));
    vd_pb_put_opt_fixed(&w, 26, r->bias_hash.b, VD_HASH_BYTES);
    vd_pb_put_opt_fixed(&w, 27, r->mask_hash.b, VD_HASH_BYTES);
    vd_pb_put_u64(&w, 28, r->sampling.pooling);
    return w.overflow ? 0 : w.n_bytes;
}

static bool penalties_ok(const struct vd_sampling *s)
{
    bool repeats = s->repeat_micro != 0;
    return repeats == (s->repeat_last_n != 0) && (!repeats || s->repeat_micro >= VD_REPEAT_MICRO_MIN) &&
           s->presence_micro >= -VD_PENALTY_MICRO_MAX && s->presence_micro <= VD_PENALTY_MICRO_MAX &&
           s->frequency_micro >= -VD_PENALTY_MICRO_MAX && s->frequency_micro <= VD_PENALTY_MICRO_MAX;
}

/* A vector is not sampled, and only what was read for it is paid. */
static bool pooling_ok(const struct vd_request *r)
{
    const struct vd_sampling *s = &r->sampling;
    if (s->pooling == VD_POOLING_NONE)
        return true;
    return s->temp_micro == 0 && s->top_k == 0 && s->top_p_micro == VD_SAMPLE_MICRO && s->min_p_micro == 0 &&
           s->seed == 0 && s->choice == 0 && !vd_num_penalised(s) && !s->has_bias && !s->has_mask &&
           r->max_tokens <= VD_VECTOR_MAX && r->price_out.micro == 0;
}

static enum vd_receipt_verdict request_check(const struct vd_request *r)
{
    struct vd_amount most;
    if (r->arith_version != VD_ARITH_VERSION)
        return VD_RECEIPT_BAD_ARITH;
    if (r->n_prompt < 1 || r->max_tokens < 1 || (uint64_t)r->n_prompt + r->max_tokens > VD_JOB_MAX_TOKENS)
        return VD_RECEIPT_BAD_LIMITS;
    if (r->sampling.temp_micro > 2000000 || r->sampling.top_p_micro < 1 ||
        r->sampling.top_p_micro > 1000000 || r->sampling.min_p_micro > 1000000 ||
        !penalties_ok(&r->sampling) || !pooling_ok(r))
        return VD_RECEIPT_BAD_LIMITS;
    return vd_request_max_amount(r, &most) ? VD_RECEIPT_OK : VD_RECEIPT_BAD_LIMITS;
}

enum vd_receipt_verdict vd_request_decode(struct vd_bytes in, struct vd_request *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    if (in.n > VD_REQUEST_MAX_BYTES)
        return VD_RECEIPT_MALFORMED;
    vd_pb_get_fixed(&r, 1, out->genesis.b, VD_HASH_BYTES);
    out->arith_version = (uint32_t)vd_pb_get_u64(&r, 2, UINT32_MAX);
    out->valid_until = vd_pb_get_u64(&r, 3, UINT64_MAX);
    vd_pb_get_fixed(&r, 4, out->escrow_id.b, VD_HASH_BYTES);
    out->sequence = vd_pb_get_u64(&r, 5, UINT64_MAX);
    vd_pb_get_fixed(&r, 6, out->gateway.b, VD_PUBKEY_BYTES);
    vd_pb_get_fixed(&r, 7, out->worker.b, VD_PUBKEY_BYTES);
    vd_pb_get_fixed(&r, 8, out->model_root.b, VD_HASH_BYTES);
    vd_pb_get_fixed(&r, 9, out->prompt_root.b, VD_HASH_BYTES);
    out->n_prompt = (uint32_t)vd_pb_get_u64(&r, 10, UINT32_MAX);
    vd_pb_get_fixed(&r, 11, out->salt_commit.b, VD_HASH_BYTES);
    out->sampling.temp_micro = (uint32_t)vd_pb_get_u64(&r, 12, UINT32_MAX);
    out->sampling.top_k = (uint32_t)vd_pb_get_u64(&r, 13, UINT32_MAX);
    out->sampling.top_p_micro = (uint32_t)vd_pb_get_u64(&r, 14, UINT32_MAX);
    out->sampling.min_p_micro = (uint32_t)vd_pb_get_u64(&r, 15, UINT32_MAX);
    out->sampling.seed = vd_pb_get_u64(&r, 16, UINT64_MAX);
    out->sampling.choice = (uint32_t)vd_pb_get_u64(&r, 17, UINT32_MAX);
    out->max_tokens = (uint32_t)vd_pb_get_u64(&r, 18, UINT32_MAX);
    out->price_in.micro = vd_pb_get_u64(&r, 19, VD_PRICE_MAX_MICRO);
    out->price_out.micro = vd_pb_get_u64(&r, 20, VD_PRICE_MAX_MICRO);
    out->disclosure = (uint32_t)vd_pb_get_u64(&r, 21, UINT32_MAX);
    out->sampling.repeat_micro = (uint32_t)vd_pb_get_u64(&r, 22, VD_REPEAT_MICRO_MAX);
    out->sampling.repeat_last_n = (uint32_t)vd_pb_get_u64(&r, 23, VD_PENALTY_WINDOW);
    out->sampling.presence_micro = unzigzag((uint32_t)vd_pb_get_u64(&r, 24, UINT32_MAX));
    out->sampling.frequency_micro = unzigzag((uint32_t)vd_pb_get_u64(&r, 25, UINT32_MAX));
    vd_pb_get_opt_fixed(&r, 26, out->bias_hash.b, VD_HASH_BYTES);
    vd_pb_get_opt_fixed(&r, 27, out->mask_hash.b, VD_HASH_BYTES);
    out->sampling.pooling = (enum vd_pooling)vd_pb_get_u64(&r, 28, VD_POOLING_CLS);
    out->sampling.has_bias = !vd_hash_is_zero(&out->bias_hash);
    out->sampling.has_mask = !vd_hash_is_zero(&out->mask_hash);
    if (!vd_pb_done(&r))
        return VD_RECEIPT_MALFORMED;
    return request_check(out);
}

bool vd_request_amount(const struct vd_request *r, uint32_t n_output, struct vd_amount *out)
{
    struct vd_amount in, gen;
    return vd_amount_mul(&in, r->price_in, r->n_prompt) && vd_amount_mul(&gen, r->price_out, n_output) &&
           vd_amount_add(out, in, gen);
}

bool vd_request_max_amount(const struct vd_request *r, struct vd_amount *out)
{
    return vd_request_amount(r, r->max_tokens, out);
}

struct vd_hash vd_salt_commit(const uint8_t job_salt[VD_SALT_BYTES])
{
    struct vd_sha256 s;
    struct vd_hash h;
    vd_sha256_init_tag(&s, "veridem/salt-commit");
    vd_sha256_update(&s, job_salt, VD_SALT_BYTES);
    vd_sha256_final(&s, &h);
    return h;
}

void vd_request_set_controls(struct vd_request *r, const struct vd_controls *c)
{
    r->bias_hash = vd_bias_hash(c->bias);
    r->mask_hash = vd_mask_hash(c->mask);
    r->sampling.has_bias = c->bias.n != 0;
    r->sampling.has_mask = c->mask.n != 0;
}

bool vd_controls_check(const struct vd_request *r, const struct vd_controls *c)
{
    struct vd_automaton a;
    struct vd_hash bias = vd_bias_hash(c->bias), mask = vd_mask_hash(c->mask);
    return vd_hash_eq(&bias, &r->bias_hash) && vd_hash_eq(&mask, &r->mask_hash) &&
           (c->bias.n == 0 || vd_bias_valid(c->bias)) && (c->mask.n == 0 || vd_automaton_open(&a, c->mask));
}

uint64_t vd_sample_r64(uint64_t seed, uint32_t choice, uint32_t index)
{
    struct vd_sha256 s;
    struct vd_hash h;
    vd_sha256_init_tag(&s, "veridem/sample");
    vd_sha256_u64(&s, seed);
    vd_sha256_u32(&s, choice);
    vd_sha256_u32(&s, index);
    vd_sha256_final(&s, &h);
    return vd_le64_load(h.b);
}

size_t vd_receipt_encode(const struct vd_receipt *r, uint8_t *buf, size_t cap_bytes)
{
    uint8_t request[VD_REQUEST_MAX_BYTES];
    size_t n = vd_request_encode(&r->request, request, sizeof request);
    if (n == 0)
        return 0;
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_elem(&w, 1, request, n);
    vd_pb_put_opt_fixed(&w, 2, r->output_root.b, VD_HASH_BYTES);
    vd_pb_put_u64(&w, 3, r->n_output);
    vd_pb_put_u64(&w, 4, r->finish);
    vd_pb_put_elem(&w, 5, r->commit_root.b, VD_HASH_BYTES);
    vd_pb_put_u64(&w, 6, r->amount.micro);
    return w.overflow ? 0 : w.n_bytes;
}

enum vd_receipt_verdict vd_receipt_decode(struct vd_bytes in, struct vd_receipt *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    struct vd_amount want;
    if (in.n > VD_RECEIPT_MAX_BYTES)
        return VD_RECEIPT_MALFORMED;
    struct vd_bytes request = vd_pb_get_bytes(&r, 1, VD_REQUEST_MAX_BYTES);
    vd_pb_get_opt_fixed(&r, 2, out->output_root.b, VD_HASH_BYTES);
    out->n_output = (uint32_t)vd_pb_get_u64(&r, 3, UINT32_MAX);
    uint64_t finish = vd_pb_get_u64(&r, 4, VD_FINISH_CANCELLED);
    vd_pb_get_fixed(&r, 5, out->commit_root.b, VD_HASH_BYTES);
    out->amount.micro = vd_pb_get_u64(&r, 6, VD_AMOUNT_MAX_MICRO);
    if (!vd_pb_done(&r) || finish == 0)
        return VD_RECEIPT_MALFORMED;
    out->finish = (enum vd_finish)finish;
    enum vd_receipt_verdict v = vd_request_decode(request, &out->request);
    if (v != VD_RECEIPT_OK)
        return v;
    if (out->n_output > out->request.max_tokens || (out->n_output == 0 && out->finish != VD_FINISH_FAIL) ||
        (out->n_output == 0) != vd_hash_is_zero(&out->output_root) ||
        (out->request.sampling.pooling != VD_POOLING_NONE && out->finish != VD_FINISH_LENGTH) ||
        (out->finish == VD_FINISH_LENGTH && out->n_output != out->request.max_tokens) ||
        (out->finish == VD_FINISH_FAIL && out->n_output == out->request.max_tokens))
        return VD_RECEIPT_BAD_LIMITS;
    if (!vd_request_amount(&out->request, out->n_output, &want) || want.micro != out->amount.micro)
        return VD_RECEIPT_BAD_AMOUNT;
    return VD_RECEIPT_OK;
}

size_t vd_receipt_prefix_encode(const struct vd_receipt_prefix *p, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_elem(&w, 1, p->job_id.b, VD_HASH_BYTES);
    vd_pb_put_u64(&w, 2, p->n_output);
    vd_pb_put_elem(&w, 3, p->output_root.b, VD_HASH_BYTES);
    vd_pb_put_elem(&w, 4, p->commit_root.b, VD_HASH_BYTES);
    return w.overflow ? 0 : w.n_bytes;
}

bool vd_receipt_prefix_decode(struct vd_bytes in, struct vd_receipt_prefix *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    if (in.n > VD_PREFIX_MAX_BYTES)
        return false;
    vd_pb_get_fixed(&r, 1, out->job_id.b, VD_HASH_BYTES);
    out->n_output = (uint32_t)vd_pb_get_u64(&r, 2, UINT32_MAX);
    vd_pb_get_fixed(&r, 3, out->output_root.b, VD_HASH_BYTES);
    vd_pb_get_fixed(&r, 4, out->commit_root.b, VD_HASH_BYTES);
    return vd_pb_done(&r) && out->n_output >= 1;
}

enum vd_receipt_verdict vd_receipt_prefix_check(struct vd_bytes body, const struct vd_sig *sig,
                                                struct vd_bytes request,
                                                const uint8_t job_salt[VD_SALT_BYTES], const uint32_t *output,
                                                uint32_t n, struct vd_receipt_prefix *out)
{
    struct vd_request q;
    enum vd_receipt_verdict v = vd_request_decode(request, &q);
    struct vd_hash id = vd_receipt_id(request);
    if (v != VD_RECEIPT_OK)
        return v;
    if (!vd_receipt_prefix_decode(body, out))
        return VD_RECEIPT_MALFORMED;
    if (!vd_hash_eq(&out->job_id, &id) || out->n_output > n || out->n_output > q.max_tokens)
        return VD_RECEIPT_BAD_LIMITS;
    struct vd_hash root = vd_token_root(job_salt, q.n_prompt, output, out->n_output);
    if (!vd_hash_eq(&out->output_root, &root))
        return VD_RECEIPT_BAD_OUTPUT;
    return vd_key_verify(sig, &q.worker, VD_TAG_PREFIX, body.p, body.n) ? VD_RECEIPT_OK
                                                                        : VD_RECEIPT_BAD_WORKER_SIG;
}

size_t vd_signed_receipt_encode(const struct vd_signed_receipt *s, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_elem(&w, 1, s->body, s->body_bytes);
    vd_pb_put_elem(&w, 2, s->worker_sig.b, VD_SIG_BYTES);
    vd_pb_put_elem(&w, 3, s->gateway_sig.b, VD_SIG_BYTES);
    return w.overflow ? 0 : w.n_bytes;
}

bool vd_signed_receipt_decode(struct vd_bytes in, struct vd_signed_receipt *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    struct vd_bytes body = vd_pb_get_bytes(&r, 1, VD_RECEIPT_MAX_BYTES);
    vd_pb_get_fixed(&r, 2, out->worker_sig.b, VD_SIG_BYTES);
    vd_pb_get_fixed(&r, 3, out->gateway_sig.b, VD_SIG_BYTES);
    if (!vd_pb_done(&r) || body.n == 0)
        return false;
    memcpy(out->body, body.p, body.n);
    out->body_bytes = body.n;
    return true;
}

enum vd_receipt_verdict vd_signed_receipt_check(const struct vd_signed_receipt *s, struct vd_receipt *out)
{
    enum vd_receipt_verdict v = vd_receipt_decode((struct vd_bytes){s->body, s->body_bytes}, out);
    if (v != VD_RECEIPT_OK)
        return v;
    if (!vd_key_verify(&s->worker_sig, &out->request.worker, VD_TAG_RECEIPT, s->body, s->body_bytes))
        return VD_RECEIPT_BAD_WORKER_SIG;
    if (!vd_key_verify(&s->gateway_sig, &out->request.gateway, VD_TAG_ACCEPT, s->body, s->body_bytes))
        return VD_RECEIPT_BAD_GATEWAY_SIG;
    return VD_RECEIPT_OK;
}
