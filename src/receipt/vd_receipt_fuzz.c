/* Arbitrary bytes as an envelope of either kind, a signed receipt, a receipt, a request and a prefix
 * statement: no crash, and whatever decodes encodes to the same bytes. */
#include <stdlib.h>

#include "vd_receipt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void must(bool ok)
{
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static uint32_t tok[4096];
    static uint8_t out[65536];
    struct vd_bytes in = {data, n_bytes};
    struct vd_envelope e;
    struct vd_receipt r;
    struct vd_request q;
    struct vd_receipt_prefix p;
    if (n_bytes > 16384)
        return 0;
    if (vd_envelope_decode(in, &e, tok, 4096)) {
        must(vd_envelope_encode(&e, out, sizeof out) == n_bytes && memcmp(out, data, n_bytes) == 0);
        (void)vd_envelope_check(&e, &r);
        in = (struct vd_bytes){e.receipt.body, e.receipt.body_bytes};
    }
    static struct vd_prefix_envelope pe;
    if (vd_prefix_envelope_decode(in, &pe, tok, 4096)) {
        must(vd_prefix_envelope_encode(&pe, out, sizeof out) == n_bytes && memcmp(out, data, n_bytes) == 0);
        must(!vd_envelope_decode(in, &e, tok, 4096));
        (void)vd_prefix_envelope_check(&pe, &q, &p);
    }
    if (vd_receipt_decode(in, &r) == VD_RECEIPT_OK)
        must(vd_receipt_encode(&r, out, sizeof out) == in.n && memcmp(out, in.p, in.n) == 0);
    if (vd_request_decode(in, &q) == VD_RECEIPT_OK)
        must(vd_request_encode(&q, out, sizeof out) == in.n && memcmp(out, in.p, in.n) == 0);
    if (vd_receipt_prefix_decode(in, &p))
        must(vd_receipt_prefix_encode(&p, out, sizeof out) == in.n && memcmp(out, in.p, in.n) == 0);
    return 0;
}
