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
