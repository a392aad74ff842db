/* Any bytes as a proof: what decodes must encode to the same bytes, and proves nothing about a root that was
 * not made from it. */
#include "vd_court_kit.h"
#include "vd_map.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static struct vd_map_proof p;
    static uint8_t buf[VD_MAP_PROOF_MAX_BYTES];
    struct vd_hash root = {{1}}, value;
    if (!vd_map_proof_decode((struct vd_bytes){data, n_bytes}, &p))
        return 0;
    size_t n = vd_map_proof_encode(&p, buf, sizeof buf);
    kit_check(n == n_bytes && memcmp(buf, data, n) == 0);
    kit_check(vd_map_verify(&root, &p.leaf_key_hash, &p, &value) == VD_MAP_BAD_PROOF);
    return 0;
}
