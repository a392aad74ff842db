/* The envelope is the one message whose size follows the answer's length; its tokens are bounded by
 * VD_JOB_MAX_TOKENS. */
#include "vd_pb.h"
#include "vd_receipt.h"
#include "vd_trace_hash.h"

size_t vd_envelope_max_bytes(uint32_t n_prompt, uint32_t n_output)
{
    return VD_SIGNED_RECEIPT_MAX_BYTES + VD_SALT_BYTES + 64 + 5 * ((size_t)n_prompt + n_output);
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
    return w.overflow ? 0 : w.n_bytes;
}

bool vd_envelope_decode(struct vd_bytes in, struct vd_envelope *e, uint32_t *tokens, size_t cap_tok)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    struct vd_bytes receipt = vd_pb_get_bytes(&r, 1, VD_SIGNED_RECEIPT_MAX_BYTES);
    if (cap_tok > VD_JOB_MAX_TOKENS)
        cap_tok = VD_JOB_MAX_TOKENS;
    vd_pb_get_fixed(&r, 2, e->job_salt, VD_SALT_BYTES);
    e->prompt = tokens;
    e->n_prompt = (uint32_t)vd_pb_get_packed_u32(&r, 3, tokens, cap_tok);
    e->output = tokens + e->n_prompt;
    e->n_output = (uint32_t)vd_pb_get_packed_u32(&r, 4, e->output, cap_tok - e->n_prompt);
    return vd_pb_done(&r) && vd_signed_receipt_decode(receipt, &e->receipt);
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
    struct vd_hash output = vd_token_root(e->job_salt, e->n_prompt, e->output, e->n_output);
    if (e->n_output != out->n_output || !vd_hash_eq(&output, &out->output_root))
        return VD_RECEIPT_BAD_OUTPUT;
    return VD_RECEIPT_OK;
}
