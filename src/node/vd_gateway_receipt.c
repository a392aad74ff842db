/* A receipt as JSON, for GET /v1/receipts/{id}: everything that is signed, what `veridem verify` needs, and
 * how far its payment is. */
#include "vd_gateway_impl.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static json_t *hex(const void *p, size_t n)
{
    char text[2 * VD_SIG_BYTES + 1];
    vd_hex_encode(text, p, n);
    return json_string(text);
}

static json_t *ids(const uint32_t *v, uint32_t n)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer(v[i]));
    return list;
}

/* The ledger's word if it knows the receipt, else ours. */
static const char *status_of(struct vd_gateway *g, const struct vd_gwstore_receipt *r)
{
    struct vd_receipt_record record;
    if (vd_ledger_client_is_up(g->ledger) &&
        vd_ledger_client_receipt(g->ledger, &r->id, &record, NULL) == VD_OK)
        return vd_receipt_status_name(record.status);
    switch (r->state) {
    case VD_GW_PENDING:
        return "pending";
    case VD_GW_SETTLED:
        return "settled";
    case VD_GW_REFUSED:
        return "refused";
    }
    return "unknown";
}

static json_t *request_json(const struct vd_request *q)
{
    const struct vd_sampling *s = &q->sampling;
    json_t *sampling = json_pack("{s:I, s:I, s:I, s:I}", "temperature_micro", (json_int_t)s->temp_micro,
                                 "top_k", (json_int_t)s->top_k, "top_p_micro", (json_int_t)s->top_p_micro,
                                 "min_p_micro", (json_int_t)s->min_p_micro);
    char seed[24];
    snprintf(seed, sizeof seed, "%llu",
             (unsigned long long)s->seed); /* 64 bits do not fit a JSON number everywhere */
    json_object_set_new(sampling, "seed", json_string(seed));
    return json_pack("{s:o, s:I, s:I, s:o, s:I, s:o, s:o, s:o, s:o, s:I, s:o, s:o, s:I, s:I, s:I, s:I}",
                     "genesis", hex(q->genesis.b, 32), "arithmetic", (json_int_t)q->arith_version,
                     "valid_until", (json_int_t)q->valid_until, "escrow", hex(q->escrow_id.b, 32), "sequence",
                     (json_int_t)q->sequence, "gateway", hex(q->gateway.b, 32), "worker",
                     hex(q->worker.b, 32), "model_root", hex(q->model_root.b, 32), "prompt_root",
                     hex(q->prompt_root.b, 32), "prompt_tokens", (json_int_t)q->n_prompt, "salt_commit",
                     hex(q->salt_commit.b, 32), "sampling", sampling, "max_tokens", (json_int_t)q->max_tokens,
                     "price_in_micro", (json_int_t)q->price_in.micro, "price_out_micro",
                     (json_int_t)q->price_out.micro, "disclosure", (json_int_t)q->disclosure);
}

static char *format(struct vd_gateway *g, const struct vd_gwstore_receipt *r, const struct vd_envelope *e,
                    const struct vd_receipt *x)
{
    json_t *j = json_pack(
        "{s:o, s:s, s:s, s:I, s:I, s:s, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "id", hex(r->id.b, 32),
        "object", "veridem.receipt", "status", status_of(g, r), "created", (json_int_t)r->created_s,
        "amount_micro", (json_int_t)x->amount.micro, "finish", vd_finish_name(x->finish), "output_tokens",
        (json_int_t)x->n_output, "output_root", hex(x->output_root.b, 32), "commit_root",
        hex(x->commit_root.b, 32), "request", request_json(&x->request), "worker_signature",
        hex(e->receipt.worker_sig.b, VD_SIG_BYTES), "gateway_signature",
        hex(e->receipt.gateway_sig.b, VD_SIG_BYTES), "job_salt", hex(e->job_salt, VD_SALT_BYTES), "prompt",
        ids(e->prompt, e->n_prompt), "output", ids(e->output, e->n_output));
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    return text;
}

char *gw_receipt_json(struct vd_gateway *g, const struct vd_gwstore_receipt *r)
{
    struct vd_envelope e;
    struct vd_receipt x;
    char *text = NULL;
    struct vd_bytes in = {r->envelope, r->n_envelope};
    uint32_t *tokens = malloc((in.n + 1) * sizeof *tokens);
    if (tokens && vd_envelope_decode(in, &e, tokens, in.n) && vd_envelope_check(&e, &x) == VD_RECEIPT_OK)
        text = format(g, r, &e, &x);
    free(tokens);
    return text;
}
