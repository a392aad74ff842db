/* Any bytes as a grammar: it is refused in bounded time, or gives a mask that opens. */
#include "vd_rules.h"
#include "vd_test_mask.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static uint8_t mask[VD_MASK_BYTES_MAX];
    static const struct vd_hash root = {{7}};
    struct vd_error err;
    size_t n;
    if (vd_grammar_compile((const char *)data, n_bytes, &root, mask, &n, &err) == VD_OK)
        vd_test_mask_opens(mask, n, sizeof mask);
    return 0;
}
