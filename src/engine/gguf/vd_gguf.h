/* GGUF files, versions 2 and 3, little-endian: metadata and tensors as views into memory that the caller
 * keeps.
 *
 * Ownership: a struct vd_gguf borrows the bytes it was opened on (vd_gguf_open_map maps the file and owns the
 * map); every string, array and tensor pointer that it gives stays valid until vd_gguf_close. Nothing is
 * copied but two indexes, whose sizes are checked against the file's size before they are allocated.
 *
 * What an opened file promises: every key and tensor name is unique, 1 to 65,535 and 1 to 64 bytes long and
 * without a NUL; every string and array lies inside the file; every tensor has 1 to 4 dimensions >= 1, rows
 * of whole blocks, a product of dimensions below 2^63, bytes inside the file at a multiple of the alignment,
 * and overlaps no other tensor. Strings are bytes: nothing checks that they are UTF-8. Tensor bytes are not
 * looked at.
 *
 * Errors: VD_EFORMAT for what breaks the format, VD_EUNSUPPORTED for what is a GGUF file but not one we read
 * (version 1, big-endian, unknown or removed tensor types, arrays of arrays), VD_ELIMIT beyond the limits
 * below. A message names the file, the key or tensor, the value and the mend.
 *
 * Thread rule: an opened file is constant; any number of threads may read it. */
#ifndef VD_GGUF_H
#define VD_GGUF_H

#include "vd_err.h"
#include "vd_gguf_type.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    VD_GGUF_KEYS_MAX = 1 << 16,
    VD_GGUF_TENSORS_MAX = 1 << 17,
    VD_GGUF_KEY_BYTES_MAX = 65535,
    VD_GGUF_NAME_BYTES_MAX = 64,
    VD_GGUF_DIMS_MAX = 4,
    VD_GGUF_ALIGNMENT_MAX = 1 << 20,
    VD_GGUF_ALIGNMENT_DEFAULT = 32,
};

struct vd_gguf;

/* A borrowed string, not NUL-terminated. */
struct vd_gguf_str {
    const char *p;
    size_t n;
};

/* A run of values of one type, little-endian and unaligned in the file. Strings: each a u64 length and its
 * bytes. */
struct vd_gguf_array {
    enum vd_gguf_value type; /* never VD_GGUF_ARRAY */
    uint64_t n;
    const uint8_t *p;
    size_t n_bytes;
};

struct vd_gguf_kv {
    struct vd_gguf_str key;
    enum vd_gguf_value type;
    struct vd_gguf_array array; /* of type VD_GGUF_ARRAY: the array; of any other: that one value, n = 1 */
};

struct vd_gguf_tensor {
    struct vd_gguf_str name;
    uint32_t type_id;
    const struct vd_gguf_type *type;
    uint32_t n_dims;
    uint64_t ne[VD_GGUF_DIMS_MAX]; /* elements; ne[0] is a row's length, missing dimensions are 1 */
    uint64_t row_bytes, n_bytes;   /* n_bytes = row_bytes * ne[1] * ne[2] * ne[3] */
    uint64_t offset_bytes;         /* from the start of the file */
    const uint8_t *p;
};

/* Opens on n_bytes at p, which must stay until the close. `name` is for messages and is copied. */
enum vd_err vd_gguf_open(struct vd_gguf **out, const void *p, size_t n_bytes, const char *name,
                         struct vd_error *err);

/* Maps `path` and opens on the map. */
enum vd_err vd_gguf_open_map(struct vd_gguf **out, const char *path, struct vd_error *err);

void vd_gguf_close(struct vd_gguf *g); /* NULL is fine */

const char *vd_gguf_name(const struct vd_gguf *g); /* for messages: the path, at most 255 bytes of it */
uint32_t vd_gguf_alignment(const struct vd_gguf *g);

/* In the file's order. */
size_t vd_gguf_kv_count(const struct vd_gguf *g);
const struct vd_gguf_kv *vd_gguf_kv_at(const struct vd_gguf *g, size_t i);
size_t vd_gguf_tensor_count(const struct vd_gguf *g);
const struct vd_gguf_tensor *vd_gguf_tensor_at(const struct vd_gguf *g, size_t i);

/* By name, in O(log n); NULL if there is none. */
const struct vd_gguf_kv *vd_gguf_find(const struct vd_gguf *g, const char *key);
const struct vd_gguf_tensor *vd_gguf_tensor_find(const struct vd_gguf *g, const char *name);

/* Typed getters. An absent key leaves *out as it is and is VD_OK if `need` is VD_GGUF_OPTIONAL (so set the
 * default before), else VD_ENOTFOUND. A key of another type or with a value out of range is VD_EFORMAT in
 * both cases. */
enum vd_gguf_need { VD_GGUF_OPTIONAL, VD_GGUF_REQUIRED };

/* Any integer type, if the value is in 0 .. max. */
enum vd_err vd_gguf_get_u32(const struct vd_gguf *g, const char *key, enum vd_gguf_need need, uint32_t max,
                            uint32_t *out, struct vd_error *err);
enum vd_err vd_gguf_get_u64(const struct vd_gguf *g, const char *key, enum vd_gguf_need need, uint64_t max,
                            uint64_t *out, struct vd_error *err);
/* f32 or f64 (rounded to f32); must be finite. */
enum vd_err vd_gguf_get_f32(const struct vd_gguf *g, const char *key, enum vd_gguf_need need, float *out,
                            struct vd_error *err);
enum vd_err vd_gguf_get_bool(const struct vd_gguf *g, const char *key, enum vd_gguf_need need, bool *out,
                             struct vd_error *err);
enum vd_err vd_gguf_get_str(const struct vd_gguf *g, const char *key, enum vd_gguf_need need,
                            struct vd_gguf_str *out, struct vd_error *err);
/* An array with values of exactly this type. */
enum vd_err vd_gguf_get_array(const struct vd_gguf *g, const char *key, enum vd_gguf_need need,
                              enum vd_gguf_value type, struct vd_gguf_array *out, struct vd_error *err);

/* Element i < n of an array of numbers: as a 64-bit integer (u64 as its bits), or as a float. The array must
 * hold integers or bools, or floats. */
int64_t vd_gguf_array_int(const struct vd_gguf_array *a, uint64_t i);
double vd_gguf_array_float(const struct vd_gguf_array *a, uint64_t i);

/* Walks an array of strings: start with *at = 0; returns false at the end. */
bool vd_gguf_array_next_str(const struct vd_gguf_array *a, size_t *at, struct vd_gguf_str *out);

static inline bool vd_gguf_str_eq(struct vd_gguf_str s, const char *text)
{
    size_t n = __builtin_strlen(text);
    return s.n == n && __builtin_memcmp(s.p, text, n) == 0;
}

#endif
