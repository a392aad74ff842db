/* Any bytes as a pattern: it is refused in bounded time, or gives a mask that opens, or none by its size. */
#include "vd_pattern.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static uint8_t mask[VD_MASK_BYTES_MAX];
    static const struct vd_hash root = {{7}};
    struct vd_rules *r = vd_rules_new();
    struct vd_automaton a;
    struct vd_error err;
    vd_expr e;
    size_t n;
    if (!r)
        return 0;
    if (vd_pattern_add(r, (const char *)data, n_bytes, &e, &err) == VD_OK) {
        uint32_t rule = vd_rules_add(r, "pattern", 7);
        vd_rules_define(r, rule, e);
        if (vd_rules_compile(r, rule, &root, mask, &n, &err) == VD_OK) {
            bool opens = n <= sizeof mask && vd_automaton_open(&a, (struct vd_bytes){mask, n});
            assert(opens);
            (void)opens;
        }
    }
    vd_rules_free(r);
    return 0;
}
