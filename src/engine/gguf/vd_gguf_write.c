/* Three growing buffers (keys, tensor infos, data) that the finish joins, and the reader as the last check:
 * what this file lets through by mistake, vd_gguf_open reports before anybody gets the bytes. */
#include "vd_gguf_write.h"

#include "vd_bytes.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct buffer {
    uint8_t *p;
    size_t n, capacity;
};

struct vd_gguf_writer {
    struct buffer kv, infos, data;
    uint64_t n_kv, n_tensors;
    uint64_t n_data, n_left_out; /* bytes of all data so far, and of those that the caller writes */
    uint32_t alignment;
    size_t max_bytes;
    struct vd_error err;
};

struct vd_gguf_writer *vd_gguf_writer_new(size_t max_bytes)
{
    struct vd_gguf_writer *w = calloc(1, sizeof *w);
    if (w) {
        w->max_bytes = max_bytes;
        w->alignment = VD_GGUF_ALIGNMENT_DEFAULT;
    }
    return w;
}

void vd_gguf_writer_free(struct vd_gguf_writer *w)
{
    if (!w)
        return;
    free(w->kv.p);
    free(w->infos.p);
    free(w->data.p);
    free(w);
}

/* Room for n more bytes at the end of b; NULL after an error, or if n is 0. */
static uint8_t *extend(struct vd_gguf_writer *w, struct buffer *b, size_t n)
{
    if (w->err.code || n == 0)
        return NULL;
    size_t total = w->kv.n + w->infos.n + w->data.n;
    if (n > w->max_bytes || total > w->max_bytes - n) {
        vd_error_set(&w->err, VD_ELIMIT, "the GGUF file would exceed the %zu bytes that its maker allowed",
                     w->max_bytes);
        return NULL;
    }
    if (n > b->capacity - b->n) {
        size_t capacity = b->capacity * 2 > b->n + n ? b->capacity * 2 : b->n + n + 256;
        uint8_t *p = realloc(b->p, capacity);
        if (!p) {
            vd_error_set(&w->err, VD_ENOMEM, "no memory for a GGUF file of %zu bytes", capacity);
            return NULL;
        }
        b->p = p;
        b->capacity = capacity;
    }
    b->n += n;
    return b->p + b->n - n;
}

static void put(struct vd_gguf_writer *w, struct buffer *b, const void *p, size_t n)
{
    uint8_t *to = extend(w, b, n);
    if (to)
        memcpy(to, p, n);
}

static void put_u32(struct vd_gguf_writer *w, struct buffer *b, uint32_t v)
{
    uint8_t bytes[4];
    vd_le32_store(bytes, v);
    put(w, b, bytes, sizeof bytes);
}

static void put_u64(struct vd_gguf_writer *w, struct buffer *b, uint64_t v)
{
    uint8_t bytes[8];
    vd_le64_store(bytes, v);
    put(w, b, bytes, sizeof bytes);
}

static void put_str(struct vd_gguf_writer *w, struct buffer *b, const char *p, size_t n)
{
    put_u64(w, b, n);
    put(w, b, p, n);
}

static void put_key(struct vd_gguf_writer *w, struct vd_gguf_str key, enum vd_gguf_value type)
{
    put_str(w, &w->kv, key.p, key.n);
    put_u32(w, &w->kv, type);
    w->n_kv++;
}

static void add_scalar(struct vd_gguf_writer *w, const char *key, enum vd_gguf_value type, uint64_t bits)
{
    uint8_t bytes[8];
    vd_le64_store(bytes, bits);
    put_key(w, (struct vd_gguf_str){key, strlen(key)}, type);
    put(w, &w->kv, bytes, vd_gguf_value_bytes(type));
}

void vd_gguf_add_u32(struct vd_gguf_writer *w, const char *key, uint32_t v)
{
    if (strcmp(key, "general.alignment") == 0 && w->n_tensors == 0 && v > 0 && v <= VD_GGUF_ALIGNMENT_MAX)
        w->alignment = v;
    add_scalar(w, key, VD_GGUF_U32, v);
}

void vd_gguf_add_i32(struct vd_gguf_writer *w, const char *key, int32_t v)
{
    add_scalar(w, key, VD_GGUF_I32, (uint32_t)v);
}

void vd_gguf_add_u64(struct vd_gguf_writer *w, const char *key, uint64_t v)
{
    add_scalar(w, key, VD_GGUF_U64, v);
}

void vd_gguf_add_f32(struct vd_gguf_writer *w, const char *key, float v)
{
    add_scalar(w, key, VD_GGUF_F32, vd_f32_bits(v));
}

void vd_gguf_add_bool(struct vd_gguf_writer *w, const char *key, bool v)
{
    add_scalar(w, key, VD_GGUF_BOOL, v);
}

void vd_gguf_add_str(struct vd_gguf_writer *w, const char *key, const char *text)
{
    put_key(w, (struct vd_gguf_str){key, strlen(key)}, VD_GGUF_STRING);
    put_str(w, &w->kv, text, strlen(text));
}

static void put_array(struct vd_gguf_writer *w, const char *key, enum vd_gguf_value type, size_t n)
{
    put_key(w, (struct vd_gguf_str){key, strlen(key)}, VD_GGUF_ARRAY);
    put_u32(w, &w->kv, type);
    put_u64(w, &w->kv, n);
}

void vd_gguf_add_array_i32(struct vd_gguf_writer *w, const char *key, const int32_t *v, size_t n)
{
    put_array(w, key, VD_GGUF_I32, n);
    for (size_t i = 0; i < n; i++)
        put_u32(w, &w->kv, (uint32_t)v[i]);
}

void vd_gguf_add_array_f32(struct vd_gguf_writer *w, const char *key, const float *v, size_t n)
{
    put_array(w, key, VD_GGUF_F32, n);
    for (size_t i = 0; i < n; i++)
        put_u32(w, &w->kv, vd_f32_bits(v[i]));
}

void vd_gguf_add_array_str(struct vd_gguf_writer *w, const char *key, const struct vd_gguf_str *v, size_t n)
{
    put_array(w, key, VD_GGUF_STRING, n);
    for (size_t i = 0; i < n; i++)
        put_str(w, &w->kv, v[i].p, v[i].n);
}

void vd_gguf_add_kv(struct vd_gguf_writer *w, const struct vd_gguf_kv *kv)
{
    if (kv->type == VD_GGUF_U32 && vd_gguf_str_eq(kv->key, "general.alignment") && w->n_tensors == 0)
        w->alignment = (uint32_t)vd_gguf_array_int(&kv->array, 0);
    put_key(w, kv->key, kv->type);
    if (kv->type == VD_GGUF_ARRAY) {
        put_u32(w, &w->kv, kv->array.type);
        put_u64(w, &w->kv, kv->array.n);
    }
    put(w, &w->kv, kv->array.p, kv->array.n_bytes);
}

static size_t pad_of(const struct vd_gguf_writer *w, size_t n)
{
    return (size_t)(-(uint64_t)n & (w->alignment - 1));
}

static void put_zeros(struct vd_gguf_writer *w, struct buffer *b, size_t n)
{
    uint8_t *p = extend(w, b, n);
    if (p)
        memset(p, 0, n);
}

/* The tensor's size, or 0 after an error. */
static uint64_t tensor_bytes(struct vd_gguf_writer *w, const char *name, uint32_t type_id, const uint64_t *ne,
                             uint32_t n_dims)
{
    const struct vd_gguf_type *t = vd_gguf_type_of(type_id);
    bool ok = t && t->block_bytes && n_dims >= 1 && n_dims <= VD_GGUF_DIMS_MAX && ne[0] % t->n_per_block == 0;
    uint64_t n = 1;
    for (uint32_t d = 0; ok && d < n_dims; d++) {
        ok = ne[d] > 0 && ne[d] <= (uint64_t)INT64_MAX / 1024 / n;
        n *= ok ? ne[d] : 1;
    }
    if (ok)
        return n / t->n_per_block * t->block_bytes;
    if (!w->err.code)
        vd_error_set(&w->err, VD_EUSE, "tensor %.64s: type %u and its %u dimensions do not go together", name,
                     type_id, n_dims);
    return 0;
}

void vd_gguf_add_tensor(struct vd_gguf_writer *w, const char *name, uint32_t type_id, const uint64_t *ne,
                        uint32_t n_dims, const void *bytes)
{
    uint64_t n = tensor_bytes(w, name, type_id, ne, n_dims);
    if (w->err.code)
        return;
    size_t pad = pad_of(w, w->n_data);
    put_str(w, &w->infos, name, strlen(name));
    put_u32(w, &w->infos, n_dims);
    for (uint32_t d = 0; d < n_dims; d++)
        put_u64(w, &w->infos, ne[d]);
    put_u32(w, &w->infos, type_id);
    put_u64(w, &w->infos, w->n_data + pad);
    w->n_data += pad + n;
    w->n_tensors++;
    if (bytes) {
        put_zeros(w, &w->data, pad);
        put(w, &w->data, bytes, (size_t)n);
    } else {
        w->n_left_out += pad + n;
    }
}

/* Joins the parts; NULL after an error. */
static uint8_t *join(struct vd_gguf_writer *w, size_t *n_bytes)
{
    size_t header = 24 + w->kv.n + w->infos.n, pad = pad_of(w, header);
    *n_bytes = header + pad + w->data.n;
    uint8_t *p = *n_bytes <= w->max_bytes ? malloc(*n_bytes) : NULL;
    if (!p) {
        vd_error_set(&w->err, *n_bytes > w->max_bytes ? VD_ELIMIT : VD_ENOMEM,
                     "the GGUF file has %zu bytes; its maker allowed %zu", *n_bytes, w->max_bytes);
        return NULL;
    }
    static const uint8_t magic_and_version[8] = {'G', 'G', 'U', 'F', 3, 0, 0, 0};
    memcpy(p, magic_and_version, 8);
    vd_le64_store(p + 8, w->n_tensors);
    vd_le64_store(p + 16, w->n_kv);
    const struct buffer *parts[] = {&w->kv, &w->infos, &w->data};
    uint8_t *to = p + 24;
    for (size_t i = 0; i < 3; i++) {
        if (i == 2) {
            memset(to, 0, pad);
            to += pad;
        }
        if (parts[i]->n)
            memcpy(to, parts[i]->p, parts[i]->n);
        to += parts[i]->n;
    }
    return p;
}

enum vd_err vd_gguf_writer_finish(struct vd_gguf_writer *w, uint8_t **out, size_t *n_bytes,
                                  struct vd_error *err)
{
    *out = NULL;
    *n_bytes = 0;
    size_t n = 0;
    if (w->n_left_out && !w->err.code)
        vd_error_set(&w->err, VD_EUSE, "a GGUF file whose tensors have no bytes cannot be finished");
    uint8_t *p = w->err.code ? NULL : join(w, &n);
    struct vd_gguf *g = NULL;
    if (p)
        vd_gguf_open(&g, p, n, "the file being written", &w->err);
    vd_gguf_close(g);
    if (w->err.code) {
        free(p);
        return vd_error_set(err, w->err.code, "%s", w->err.msg);
    }
    *out = p;
    *n_bytes = n;
    return VD_OK;
}

enum vd_err vd_gguf_writer_head(struct vd_gguf_writer *w, uint8_t **out, size_t *n_bytes,
                                struct vd_error *err)
{
    *out = NULL;
    *n_bytes = 0;
    if (w->data.n && !w->err.code)
        vd_error_set(&w->err, VD_EUSE, "a GGUF file of which some tensors have bytes has no head alone");
    uint8_t *p = w->err.code ? NULL : join(w, n_bytes);
    if (!p)
        return vd_error_set(err, w->err.code, "%s", w->err.msg);
    *out = p;
    return VD_OK;
}
