/* Requests and receipts (docs/spec/receipt.md, proto/veridem.proto).
 *
 * A gateway signs a request; the worker that did the work signs a receipt that holds the request whole; the
 * gateway countersigns it. Signatures are over the exact bytes, and the encoding is canonical (vd_pb.h), so
 * an id and a value name each other.
 *
 * Everything a peer can get wrong is a vd_receipt_verdict. Nothing allocates; buffers are the caller's.
 * Thread rule: pure functions. */
#ifndef VD_RECEIPT_H
#define VD_RECEIPT_H

#include "vd_adjust.h"
#include "vd_amount.h"
#include "vd_automaton.h"
#include "vd_bytes.h"
#include "vd_key.h"
#include "vd_num.h" /* VD_ARITH_VERSION */
#include "vd_sample.h"
#include "vd_sha256.h"

#define VD_TAG_REQUEST "veridem/request" /* the gateway's signature on a request */
#define VD_TAG_RECEIPT "veridem/receipt" /* the worker's on a receipt */
#define VD_TAG_ACCEPT  "veridem/accept"  /* the gateway's on the same bytes */
#define VD_TAG_PREFIX  "veridem/prefix"  /* the worker's on a statement about a part of an answer */

enum {
    VD_SALT_BYTES = 32,
    VD_REQUEST_MAX_BYTES = 448,
    VD_RECEIPT_MAX_BYTES = 560,        /* the body that both sides sign */
    VD_SIGNED_RECEIPT_MAX_BYTES = 704, /* body and both signatures */
    VD_PREFIX_MAX_BYTES = 112,
    VD_PREFIX_EVERY_TOK = 64,    /* a worker makes a statement at each so many output tokens of a stream */
    VD_JOB_MAX_TOKENS = 1 << 20, /* prompt and output together */
    VD_VECTOR_MAX = 16384,       /* elements of a vector */
    VD_CONTROLS_MAX_BYTES = VD_MASK_BYTES_MAX + VD_BIAS_MAX * VD_BIAS_ENTRY_BYTES,
};
#define VD_PRICE_MAX_MICRO (UINT64_C(1) << 40) /* per token */

/* X(code, name in JSON) How an answer ended. The first three are the TOKEN operator's stop states. */
#define VD_FINISH_LIST(X)                                                                                    \
    X(VD_FINISH_STOP, 1, "stop")                                                                             \
    X(VD_FINISH_LENGTH, 2, "length")                                                                         \
    X(VD_FINISH_FAIL, 3, "fail")                                                                             \
    X(VD_FINISH_CANCELLED, 4, "cancelled")

enum vd_finish {
#define X(code, value, name) code = value,
    VD_FINISH_LIST(X)
#undef X
};
const char *vd_finish_name(enum vd_finish f);

#define VD_RECEIPT_VERDICT_LIST(X)                                                                           \
    X(VD_RECEIPT_OK, "valid")                                                                                \
    X(VD_RECEIPT_MALFORMED, "the encoding is malformed or not canonical")                                    \
    X(VD_RECEIPT_BAD_LIMITS, "a field is outside its limits")                                                \
    X(VD_RECEIPT_BAD_ARITH, "another arithmetic version")                                                    \
    X(VD_RECEIPT_BAD_AMOUNT, "the amount is not price times tokens")                                         \
    X(VD_RECEIPT_BAD_WORKER_SIG, "the worker's signature does not verify")                                   \
    X(VD_RECEIPT_BAD_GATEWAY_SIG, "the gateway's signature does not verify")                                 \
    X(VD_RECEIPT_BAD_SALT, "the job salt is not the committed one")                                          \
    X(VD_RECEIPT_BAD_PROMPT, "the prompt tokens do not give the prompt root")                                \
    X(VD_RECEIPT_BAD_OUTPUT, "the output tokens do not give the output root")                                \
    X(VD_RECEIPT_BAD_CONTROLS, "bias table or mask are not valid, or not the request's")

enum vd_receipt_verdict {
#define X(code, text) code,
    VD_RECEIPT_VERDICT_LIST(X)
#undef X
};
const char *vd_receipt_verdict_text(enum vd_receipt_verdict v);

/* If sampling.pooling is not NONE the job's result is a vector: max_tokens is its number of elements, their
 * bits stand in the place of output tokens, price_out is 0, and the other fields of sampling are those of no
 * sampling (zeros, top_p_micro 10^6). */
struct vd_request {
    struct vd_hash genesis;
    uint32_t arith_version;
    uint64_t valid_until; /* last block height in which it may be settled */
    struct vd_hash escrow_id;
    uint64_t sequence; /* unique per escrow; a receipt settles (escrow_id, sequence) once */
    struct vd_pubkey gateway, worker;
    struct vd_hash model_root;
    struct vd_hash prompt_root;
    uint32_t n_prompt; /* p >= 1 */
    struct vd_hash salt_commit;
    struct vd_sampling sampling;
    uint32_t max_tokens;                  /* >= 1 */
    struct vd_amount price_in, price_out; /* per token */
    uint32_t disclosure;                  /* 0: prompt and output may be shown to auditors */
    struct vd_hash bias_hash, mask_hash;  /* zeros: none; then sampling.has_bias, .has_mask are false */
};

struct vd_receipt {
    struct vd_request request;
    struct vd_hash output_root; /* 32 zero bytes if n_output == 0 */
    uint32_t n_output;          /* g; 0 only with VD_FINISH_FAIL */
    enum vd_finish finish;
    struct vd_hash commit_root;
    struct vd_amount amount; /* price_in * n_prompt + price_out * n_output */
};

/* Bytes written to buf (VD_REQUEST_MAX_BYTES / VD_RECEIPT_MAX_BYTES always suffice for a valid value). */
size_t vd_request_encode(const struct vd_request *r, uint8_t *buf, size_t cap_bytes);
size_t vd_receipt_encode(const struct vd_receipt *r, uint8_t *buf, size_t cap_bytes);

/* Decode, and check every limit (and, for a receipt, the amount). */
enum vd_receipt_verdict vd_request_decode(struct vd_bytes in, struct vd_request *out);
enum vd_receipt_verdict vd_receipt_decode(struct vd_bytes in, struct vd_receipt *out);

/* Job id and receipt id: SHA-256 of the exact bytes. */
static inline struct vd_hash vd_receipt_id(struct vd_bytes body)
{
    return vd_sha256_of(body.p, body.n);
}

struct vd_hash vd_salt_commit(const uint8_t job_salt[VD_SALT_BYTES]);

/* Names these tables in the request: hashes (vd_trace_hash.h) and flags. */
void vd_request_set_controls(struct vd_request *r, const struct vd_controls *c);
/* Are these the request's tables, and valid? */
bool vd_controls_check(const struct vd_request *r, const struct vd_controls *c);

/* Number of fed positions: p + g - 1, or p + g when the job ended in FAIL; of a vector p. */
static inline uint32_t vd_receipt_n_steps(const struct vd_receipt *r)
{
    if (r->request.sampling.pooling != VD_POOLING_NONE)
        return r->request.n_prompt;
    return r->request.n_prompt + r->n_output - (r->finish == VD_FINISH_FAIL ? 0 : 1);
}

/* The amount a job can cost at most: what a gateway must reserve. False if it is out of range. */
__attribute__((warn_unused_result)) bool vd_request_max_amount(const struct vd_request *r,
                                                               struct vd_amount *out);
/* The amount for g output tokens. */
__attribute__((warn_unused_result)) bool vd_request_amount(const struct vd_request *r, uint32_t n_output,
                                                           struct vd_amount *out);

/* The 64 random bits for output token `index` of a request (docs/spec/arithmetic.md, sampling). */
uint64_t vd_sample_r64(uint64_t seed, uint32_t choice, uint32_t index);

/* What a worker says of an answer before it ends (docs/spec/receipt.md): evidence of what it had computed by
 * then. Nothing is paid for it. */
struct vd_receipt_prefix {
    struct vd_hash job_id; /* H(request bytes) */
    uint32_t n_output;     /* >= 1 tokens so far */
    struct vd_hash output_root, commit_root;
};
size_t vd_receipt_prefix_encode(const struct vd_receipt_prefix *p, uint8_t *buf, size_t cap_bytes);
bool vd_receipt_prefix_decode(struct vd_bytes in, struct vd_receipt_prefix *out);
/* Is `body` the worker's statement about the request's job, and about the first out->n_output <= n of these
 * output tokens? MALFORMED, BAD_LIMITS (another job, or more tokens), BAD_OUTPUT, BAD_WORKER_SIG. */
enum vd_receipt_verdict vd_receipt_prefix_check(struct vd_bytes body, const struct vd_sig *sig,
                                                struct vd_bytes request,
                                                const uint8_t job_salt[VD_SALT_BYTES], const uint32_t *output,
                                                uint32_t n, struct vd_receipt_prefix *out);

struct vd_signed_receipt {
    uint8_t body[VD_RECEIPT_MAX_BYTES];
    size_t body_bytes;
    struct vd_sig worker_sig, gateway_sig;
};

size_t vd_signed_receipt_encode(const struct vd_signed_receipt *s, uint8_t *buf, size_t cap_bytes);
bool vd_signed_receipt_decode(struct vd_bytes in, struct vd_signed_receipt *out);
static inline struct vd_hash vd_signed_receipt_id(const struct vd_signed_receipt *s)
{
    return vd_sha256_of(s->body, s->body_bytes);
}

/* Decodes the body to *out and checks both signatures: the whole of what needs no model and no tokens. */
enum vd_receipt_verdict vd_signed_receipt_check(const struct vd_signed_receipt *s, struct vd_receipt *out);

/* The output root of these ids, or of this vector's bits. */
struct vd_hash vd_output_root(const struct vd_request *r, const uint8_t job_salt[VD_SALT_BYTES],
                              const uint32_t *output, uint32_t n_output);

/* What replay needs: the receipt, the job's salt, the tokens (or the bits of a vector) and the tables. What
 * the pointers name belongs to the caller. */
struct vd_envelope {
    struct vd_signed_receipt receipt;
    uint8_t job_salt[VD_SALT_BYTES];
    uint32_t n_prompt, n_output;
    uint32_t *prompt, *output;
    struct vd_controls controls;
};

/* Bytes that vd_envelope_encode writes at most for this many tokens. */
size_t vd_envelope_max_bytes(uint32_t n_prompt, uint32_t n_output);
size_t vd_envelope_encode(const struct vd_envelope *e, uint8_t *buf, size_t cap_bytes);
/* `tokens` (cap_tok of them) receives prompt, output, and the bytes of the tables; the pointers in *e point
 * into it. False if the bytes are malformed or hold more than cap_tok takes. in.n is always enough for
 * cap_tok: a token takes at least one byte. */
bool vd_envelope_decode(struct vd_bytes in, struct vd_envelope *e, uint32_t *tokens, size_t cap_tok);
/* vd_signed_receipt_check, then salt, prompt, output and tables against the commitments. */
enum vd_receipt_verdict vd_envelope_check(const struct vd_envelope *e, struct vd_receipt *out);

/* What is left of an answer that has no receipt: the request, the worker's last statement about it, and what
 * replaying the n_output tokens of the statement needs. */
struct vd_prefix_envelope {
    uint8_t request[VD_REQUEST_MAX_BYTES], statement[VD_PREFIX_MAX_BYTES];
    size_t request_bytes, statement_bytes;
    struct vd_sig worker_sig;
    uint8_t job_salt[VD_SALT_BYTES];
    uint32_t n_prompt, n_output;
    uint32_t *prompt, *output;
    struct vd_controls controls;
};

/* As those of an envelope. No bytes are both. */
size_t vd_prefix_envelope_max_bytes(uint32_t n_prompt, uint32_t n_output);
size_t vd_prefix_envelope_encode(const struct vd_prefix_envelope *e, uint8_t *buf, size_t cap_bytes);
bool vd_prefix_envelope_decode(struct vd_bytes in, struct vd_prefix_envelope *e, uint32_t *tokens,
                               size_t cap_tok);
/* vd_receipt_prefix_check over exactly these output tokens, then salt, prompt and tables. */
enum vd_receipt_verdict vd_prefix_envelope_check(const struct vd_prefix_envelope *e, struct vd_request *q,
                                                 struct vd_receipt_prefix *out);

#endif
