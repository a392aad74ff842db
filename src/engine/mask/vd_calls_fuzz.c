/* The first two bytes are forms, the others tools: they are refused in bounded time, or give a mask that
 * opens. */
#include "vd_calls.h"
#include "vd_test_mask.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static uint8_t mask[VD_MASK_BYTES_MAX];
    static const struct vd_hash root = {{7}};
    struct vd_error err;
    size_t n;
    if (n_bytes < 2)
        return 0;
    uint32_t forms = vd_le16_load(data) & ((1u << VD_CALLS_FORMS) - 1);
    if (vd_calls_compile((const char *)data + 2, n_bytes - 2, forms, &root, mask, &n, &err) == VD_OK)
        vd_test_mask_opens(mask, n, sizeof mask);
    return 0;
}
