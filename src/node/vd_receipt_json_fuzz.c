/* Any text: an error, or an envelope whose JSON reads back to the same bytes. */
#include "vd_receipt_json.h"

#include <stdlib.h>

static void must(bool condition)
{
    if (!condition)
        abort();
}

/* The envelope's bytes; NULL if the receipt's fields are outside their limits. */
static uint8_t *encode(const struct vd_envelope *e, size_t *n)
{
    size_t cap = vd_envelope_max_bytes(e->n_prompt, e->n_output) + e->controls.bias.n + e->controls.mask.n;
    uint8_t *bytes = malloc(cap);
    must(bytes != NULL);
    *n = vd_envelope_encode(e, bytes, cap);
    return bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    struct vd_envelope e, again;
    struct vd_receipt r;
    uint32_t *tokens, *tokens_again;
    size_t n, n_again;
    if (vd_receipt_from_json((const char *)data, n_bytes, &e, &tokens, NULL) != VD_OK)
        return 0;
    if (vd_receipt_decode((struct vd_bytes){e.receipt.body, e.receipt.body_bytes}, &r) == VD_RECEIPT_OK) {
        json_t *j = vd_receipt_to_json(&e, &r);
        char *text = json_dumps(j, 0);
        must(text != NULL);
        must(vd_receipt_from_json(text, strlen(text), &again, &tokens_again, NULL) == VD_OK);
        uint8_t *a = encode(&e, &n), *b = encode(&again, &n_again);
        must(n == n_again && memcmp(a, b, n) == 0);
        free(a);
        free(b);
        free(tokens_again);
        free(text);
        json_decref(j);
    }
    free(tokens);
    return 0;
}
