/* Any bytes as a GGUF file, derived into a program: every result but VD_OK has a message, and a program that
 * comes out is valid and decodes from its own bytes. */
#include "vd_derive.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct vd_gguf *g;
    struct vd_program p, again;
    struct vd_error err = {0};
    uint8_t bytes[VD_PROGRAM_BYTES_MAX];
    if (vd_gguf_open(&g, data, n, "fuzz", &err) != VD_OK)
        return 0;
    enum vd_err rc = vd_derive_program(&p, g, &err);
    assert(rc == VD_OK || (err.code == rc && err.msg[0]));
    if (rc == VD_OK) {
        size_t n_bytes = vd_program_encode(&p, bytes, sizeof bytes);
        assert(n_bytes > 0 && vd_program_decode((struct vd_bytes){bytes, n_bytes}, &again));
    }
    vd_gguf_close(g);
    return 0;
}
