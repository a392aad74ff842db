/* A receipt as JSON, for GET /v1/receipts/{id}: everything that is signed, what `veridem verify` needs, and
 * how far its payment is. */
#include "vd_gateway_impl.h"
#include "vd_receipt_json.h"

#include <jansson.h>
#include <stdlib.h>

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
    case VD_GW_PREFIX:
        return "statement";
    }
    return "unknown";
}

static char *format(struct vd_gateway *g, const struct vd_gwstore_receipt *r, const struct vd_envelope *e,
                    const struct vd_receipt *x)
{
    json_t *j = vd_receipt_to_json(e, x);
    json_object_set_new(j, "status", json_string(status_of(g, r)));
    json_object_set_new(j, "created", json_integer((json_int_t)r->created_s));
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    return text;
}

/* What a worker signed of an answer that has no receipt. */
static char *statement_json(const struct vd_gwstore_receipt *r)
{
    struct vd_bytes in = {r->envelope, r->n_envelope};
    struct vd_prefix_envelope *e = malloc(sizeof *e);
    struct vd_receipt_prefix p;
    struct vd_request q;
    char *text = NULL, job[65], worker[65], output[65], commit[65];
    uint32_t *tokens = malloc((in.n + 1) * sizeof *tokens);
    if (e && tokens && vd_prefix_envelope_decode(in, e, tokens, in.n) &&
        vd_prefix_envelope_check(e, &q, &p) == VD_RECEIPT_OK) {
        vd_hex_encode(job, p.job_id.b, VD_HASH_BYTES);
        vd_hex_encode(worker, q.worker.b, VD_PUBKEY_BYTES);
        vd_hex_encode(output, p.output_root.b, VD_HASH_BYTES);
        vd_hex_encode(commit, p.commit_root.b, VD_HASH_BYTES);
        json_t *j = json_pack("{s:s,s:s,s:s,s:I,s:I,s:s,s:s,s:I}", "status", "statement", "job", job,
                              "worker", worker, "prompt_tokens", (json_int_t)q.n_prompt, "output_tokens",
                              (json_int_t)p.n_output, "output_root", output, "commit_root", commit, "created",
                              (json_int_t)r->created_s);
        text = j ? json_dumps(j, JSON_COMPACT) : NULL;
        json_decref(j);
    }
    free(tokens);
    free(e);
    return text;
}

char *gw_receipt_json(struct vd_gateway *g, const struct vd_gwstore_receipt *r)
{
    struct vd_envelope e;
    struct vd_receipt x;
    if (r->state == VD_GW_PREFIX)
        return statement_json(r);
    char *text = NULL;
    struct vd_bytes in = {r->envelope, r->n_envelope};
    uint32_t *tokens = malloc((in.n + 1) * sizeof *tokens);
    if (tokens && vd_envelope_decode(in, &e, tokens, in.n) && vd_envelope_check(&e, &x) == VD_RECEIPT_OK)
        text = format(g, r, &e, &x);
    free(tokens);
    return text;
}
