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

size_t vd_envelope_encode(const struct vd_envelope *e, uint8_t *buf, size_t cap_bytes)
{
    uint8_t receipt[VD_SIGNED_RECEIPT_MAX_BYTES];
    size_t n = vd_signed_receipt_encode(&e->receipt, receipt, sizeof receipt);
    if (n == 0)
        return 0;
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_elem(&w, 1, receipt, n);
    vd_pb_put_elem(&w, 2, e->job_salt, VD_SALT_BYTES);
    vd_pb_put_packed_u32(&w, 3, e->prompt, e->n_prompt);
    vd_pb_put_packed_u32(&w, 4, e->output, e->n_output);
    vd_pb_put_bytes(&w, 5, e->controls.bias.p, e->controls.bias.n);
    vd_pb_put_bytes(&w, 6, e->controls.mask.p, e->controls.mask.n);
    return w.overflow ? 0 : w.n_bytes;
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

bool vd_envelope_decode(struct vd_bytes in, struct vd_envelope *e, uint32_t *tokens, size_t cap_tok)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    struct vd_bytes receipt = vd_pb_get_bytes(&r, 1, VD_SIGNED_RECEIPT_MAX_BYTES);
    size_t cap = cap_tok;
    if (cap_tok > VD_JOB_MAX_TOKENS)
        cap_tok = VD_JOB_MAX_TOKENS;
    vd_pb_get_fixed(&r, 2, e->job_salt, VD_SALT_BYTES);
    e->prompt = tokens;
    e->n_prompt = (uint32_t)vd_pb_get_packed_u32(&r, 3, tokens, cap_tok);
    e->output = tokens + e->n_prompt;
    e->n_output = (uint32_t)vd_pb_get_packed_u32(&r, 4, e->output, cap_tok - e->n_prompt);
    struct vd_bytes bias = vd_pb_get_bytes(&r, 5, VD_BIAS_MAX * VD_BIAS_ENTRY_BYTES);
    struct vd_bytes mask = vd_pb_get_bytes(&r, 6, VD_MASK_BYTES_MAX);
    size_t n = (size_t)e->n_prompt + e->n_output;
    return vd_pb_done(&r) && keep_table(&e->controls.bias, bias, tokens, cap, &n) &&
           keep_table(&e->controls.mask, mask, tokens, cap, &n) &&
           vd_signed_receipt_decode(receipt, &e->receipt);
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
