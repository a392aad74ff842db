/* Any bytes as a transaction: what decodes must encode to the same bytes, and the ledger's stateless check
 * must give a verdict. */
#include "vd_court_kit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static struct kit k;
    static struct vd_tx_signed s;
    static uint8_t body[VD_TX_MAX_BYTES];
    struct vd_hash id;
    if (!k.arena.base)
        kit_init(&k);
    if (vd_tx_decode((struct vd_bytes){data, n_bytes}, &s)) {
        size_t n = vd_tx_body_encode(&s.tx, body, sizeof body);
        kit_check(n == s.body.n && memcmp(body, s.body.p, n) == 0);
    }
    kit_check(vd_ledger_check(&k.ledger, NULL, (struct vd_bytes){data, n_bytes}, &id) <= VD_TX_BAD_JOB);
    return 0;
}
