/* In memory of its own, because tables in receipts have tens of thousands of bytes. */
#include "vd_json_hex.h"

#include "vd_bytes.h"

#include <stdlib.h>
#include <string.h>

json_t *vd_json_hex(const void *p, size_t n_bytes)
{
    char *text = malloc(2 * n_bytes + 1);
    if (!text)
        return NULL;
    vd_hex_encode(text, p, n_bytes);
    json_t *j = json_string(text);
    free(text);
    return j;
}

bool vd_json_get_hex(void *out, size_t n_bytes, const json_t *v)
{
    const char *text = json_string_value(v);
    return text && strlen(text) == 2 * n_bytes && vd_hex_decode(out, n_bytes, text);
}
