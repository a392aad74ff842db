/* Bytes as hexadecimal digits in JSON. Thread rule: pure functions. */
#ifndef VD_JSON_HEX_H
#define VD_JSON_HEX_H

#include <jansson.h>
#include <stdbool.h>

/* A new string; NULL: no memory. */
json_t *vd_json_hex(const void *p, size_t n_bytes);
/* False: v is not a string of exactly 2 n_bytes hexadecimal digits (NULL is none). */
bool vd_json_get_hex(void *out, size_t n_bytes, const json_t *v);

#endif
