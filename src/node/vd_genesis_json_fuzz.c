/* Genesis files as people write them. One that parses is a checked genesis: its canonical bytes decode to the
 * same, and so does its text; one that does not must say why. */
#include "vd_genesis_json.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void must(bool ok)
{
    if (!ok)
        abort();
}

static void same_again(const struct vd_genesis_file *f)
{
    struct vd_genesis_file g;
    struct vd_error err;
    struct vd_hash a, b;
    char *text = vd_genesis_json_format(&f->genesis);
    must(text && vd_genesis_json_parse(&g, text, strlen(text), "again", &err) == VD_OK);
    free(text);
    must(vd_genesis_network_hash(&f->genesis, &a, &err) == VD_OK);
    must(vd_genesis_network_hash(&g.genesis, &b, &err) == VD_OK && vd_hash_eq(&a, &b));
    vd_genesis_file_free(&g);
    uint8_t *bytes = malloc(VD_GENESIS_MAX_BYTES);
    must(bytes != NULL);
    size_t n = vd_genesis_encode(&f->genesis, bytes, VD_GENESIS_MAX_BYTES);
    must(n > 0 && vd_genesis_file_decode(&g, (struct vd_bytes){bytes, n}, &err) == VD_OK);
    vd_genesis_file_free(&g);
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    struct vd_genesis_file f;
    struct vd_error err = {.code = VD_OK};
    enum vd_err e = vd_genesis_json_parse(&f, (const char *)data, n_bytes, "fuzz", &err);
    if (e == VD_OK) {
        same_again(&f);
        vd_genesis_file_free(&f);
    } else {
        must(err.code == e && err.msg[0] && f.account == NULL);
    }
    return 0;
}
