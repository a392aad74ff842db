/* The envelope is the one message whose size follows the answer's length; its tokens are bounded by
 * VD_JOB_MAX_TOKENS. */
#include "vd_pb.h"
#include "vd_receipt.h"
#include "vd_trace_hash.h"

size_t vd_envelope_max_bytes(uint32_t n_prompt, uint32_t n_output)
{
    return VD_SIGNED_RECEIPT_MAX_BYTES + VD_SALT_BYTES + VD_CONTROLS_MAX_BYTES + 80 +
           5 * ((size_t)n_prompt + n_output);
}

/* A table's bytes behind the tokens that are there; false if there is no room. */
static bool keep_table(struct vd_bytes *out, struct vd_bytes table, uint32_t *tokens, size_t cap, size_t *n)
{
    size_t words = (table.n + sizeof *tokens - 1) / sizeof *tokens;
    *out = (struct vd_bytes){(const uint8_t *)(tokens + *n), table.n};
    if (words > cap - *n)
        return false;
    if (table.n)
        memcpy(tokens + *n, table.p, table.n);
    *n += words;
    return true;
}

/* The last fields of both envelopes, from number `at` on: prompt, output, bias, mask. */
struct hidden {
    uint32_t *prompt, *output;
    uint32_t n_prompt, n_output;
    struct vd_controls controls;
};

static void put_hidden(struct vd_pb_writer *w, uint32_t at, const struct hidden *h)
{
    vd_pb_put_packed_u32(w, at, h->prompt, h->n_prompt);
    vd_pb_put_packed_u32(w, at + 1, h->output, h->n_output);
    vd_pb_put_bytes(w, at + 2, h->controls.bias.p, h->controls.bias.n);
    vd_pb_put_bytes(w, at + 3, h->controls.mask.p, h->controls.mask.n);
}

/* Ends the message. */
static bool get_hidden(struct vd_pb_reader *r, uint32_t at, struct hidden *h, uint32_t *tokens, size_t cap)
{
    size_t cap_tok = cap > VD_JOB_MAX_TOKENS ? VD_JOB_MAX_TOKENS : cap;
    h->prompt = tokens;
    h->n_prompt = (uint32_t)vd_pb_get_packed_u32(r, at, tokens, cap_tok);
    h->output = tokens + h->n_prompt;
    h->n_output = (uint32_t)vd_pb_get_packed_u32(r, at + 1, h->output, cap_tok - h->n_prompt);
    struct vd_bytes bias = vd_pb_get_bytes(r, at + 2, VD_BIAS_MAX * VD_BIAS_ENTRY_BYTES);
    struct vd_bytes mask = vd_pb_get_bytes(r, at + 3, VD_MASK_BYTES_MAX);
    size_t n = (size_t)h->n_prompt + h->n_output;
    return vd_pb_done(r) && keep_table(&h->controls.bias, bias, tokens, cap, &n) &&
           keep_table(&h->controls.mask, mask, tokens, cap, &n);
}

size_t vd_envelope_encode(const struct vd_envelope *e, uint8_t *buf, size_t cap_bytes)
{
    uint8_t receipt[VD_SIGNED_RECEIPT_MAX_BYTES];
    size_t n = vd_signed_receipt_encode(&e->receipt, receipt, sizeof receipt);
    if (n == 0)
        return 0;
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    struct hidden h = {e->prompt, e->output, e->n_prompt, e->n_output, e->controls};
    vd_pb_put_elem(&w, 1, receipt, n);
    vd_pb_put_elem(&w, 2, e->job_salt, VD_SALT_BYTES);
    put_hidden(&w, 3, &h);
    return w.overflow ? 0 : w.n_bytes;
}

bool vd_envelope_decode(struct vd_bytes in, struct vd_envelope *e, uint32_t *tokens, size_t cap_tok)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    struct vd_bytes receipt = vd_pb_get_bytes(&r, 1, VD_SIGNED_RECEIPT_MAX_BYTES);
    struct hidden h;
    vd_pb_get_fixed(&r, 2, e->job_salt, VD_SALT_BYTES);
    bool ok = get_hidden(&r, 3, &h, tokens, cap_tok);
    e->prompt = h.prompt;
    e->n_prompt = h.n_prompt;
    e->output = h.output;
    e->n_output = h.n_output;
    e->controls = h.controls;
    return ok && vd_signed_receipt_decode(receipt, &e->receipt);
}

size_t vd_prefix_envelope_max_bytes(uint32_t n_prompt, uint32_t n_output)
{
    return VD_REQUEST_MAX_BYTES + VD_PREFIX_MAX_BYTES + VD_SIG_BYTES + VD_SALT_BYTES + VD_CONTROLS_MAX_BYTES +
           80 + 5 * ((size_t)n_prompt + n_output);
}

size_t vd_prefix_envelope_encode(const struct vd_prefix_envelope *e, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    struct hidden h = {e->prompt, e->output, e->n_prompt, e->n_output, e->controls};
    vd_pb_put_elem(&w, 1, e->request, e->request_bytes);
    vd_pb_put_elem(&w, 2, e->statement, e->statement_bytes);
    vd_pb_put_elem(&w, 3, e->worker_sig.b, VD_SIG_BYTES);
    vd_pb_put_elem(&w, 4, e->job_salt, VD_SALT_BYTES);
    put_hidden(&w, 5, &h);
    return w.overflow ? 0 : w.n_bytes;
}

bool vd_prefix_envelope_decode(struct vd_bytes in, struct vd_prefix_envelope *e, uint32_t *tokens,
                               size_t cap_tok)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    struct vd_bytes request = vd_pb_get_bytes(&r, 1, VD_REQUEST_MAX_BYTES);
    struct vd_bytes statement = vd_pb_get_bytes(&r, 2, VD_PREFIX_MAX_BYTES);
    struct hidden h;
    vd_pb_get_fixed(&r, 3, e->worker_sig.b, VD_SIG_BYTES);
    vd_pb_get_fixed(&r, 4, e->job_salt, VD_SALT_BYTES);
    if (!get_hidden(&r, 5, &h, tokens, cap_tok) || request.n == 0 || statement.n == 0)
        return false;
    memcpy(e->request, request.p, request.n);
    memcpy(e->statement, statement.p, statement.n);
    e->request_bytes = request.n;
    e->statement_bytes = statement.n;
    e->prompt = h.prompt;
    e->n_prompt = h.n_prompt;
    e->output = h.output;
    e->n_output = h.n_output;
    e->controls = h.controls;
    return true;
}

struct vd_hash vd_output_root(const struct vd_request *r, const uint8_t job_salt[VD_SALT_BYTES],
                              const uint32_t *output, uint32_t n_output)
{
    if (r->sampling.pooling != VD_POOLING_NONE)
        return vd_vector_root(job_salt, r->n_prompt, output, n_output);
    return vd_token_root(job_salt, r->n_prompt, output, n_output);
}

enum vd_receipt_verdict vd_envelope_check(const struct vd_envelope *e, struct vd_receipt *out)
{
    enum vd_receipt_verdict v = vd_signed_receipt_check(&e->receipt, out);
    if (v != VD_RECEIPT_OK)
        return v;
    struct vd_hash commit = vd_salt_commit(e->job_salt);
    if (!vd_hash_eq(&commit, &out->request.salt_commit))
        return VD_RECEIPT_BAD_SALT;
    struct vd_hash prompt = vd_token_root(e->job_salt, 0, e->prompt, e->n_prompt);
    if (e->n_prompt != out->request.n_prompt || !vd_hash_eq(&prompt, &out->request.prompt_root))
        return VD_RECEIPT_BAD_PROMPT;
    struct vd_hash output = vd_output_root(&out->request, e->job_salt, e->output, e->n_output);
    if (e->n_output != out->n_output || !vd_hash_eq(&output, &out->output_root))
        return VD_RECEIPT_BAD_OUTPUT;
    if (!vd_controls_check(&out->request, &e->controls))
        return VD_RECEIPT_BAD_CONTROLS;
    return VD_RECEIPT_OK;
}

enum vd_receipt_verdict vd_prefix_envelope_check(const struct vd_prefix_envelope *e, struct vd_request *q,
                                                 struct vd_receipt_prefix *out)
{
    struct vd_bytes request = {e->request, e->request_bytes}, statement = {e->statement, e->statement_bytes};
    enum vd_receipt_verdict v = vd_request_decode(request, q);
    if (v != VD_RECEIPT_OK)
        return v;
    v = vd_receipt_prefix_check(statement, &e->worker_sig, request, e->job_salt, e->output, e->n_output, out);
    if (v != VD_RECEIPT_OK)
        return v;
    struct vd_hash commit = vd_salt_commit(e->job_salt);
    if (!vd_hash_eq(&commit, &q->salt_commit))
        return VD_RECEIPT_BAD_SALT;
    struct vd_hash prompt = vd_token_root(e->job_salt, 0, e->prompt, e->n_prompt);
    if (e->n_prompt != q->n_prompt || !vd_hash_eq(&prompt, &q->prompt_root))
        return VD_RECEIPT_BAD_PROMPT;
    if (e->n_output != out->n_output)
        return VD_RECEIPT_BAD_LIMITS;
    return vd_controls_check(q, &e->controls) ? VD_RECEIPT_OK : VD_RECEIPT_BAD_CONTROLS;
}
