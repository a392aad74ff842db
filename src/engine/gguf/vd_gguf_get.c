/* The typed getters. A wrong type is an error even where the key is optional: a model whose context length is
 * a string was not made for us, and a silent default would compute something else than its maker meant. */
#include "vd_gguf.h"

#include "vd_bytes.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

/* *kv is NULL and the result VD_OK for an optional key that is absent. */
static enum vd_err lookup(const struct vd_gguf *g, const char *key, enum vd_gguf_need need,
                          const struct vd_gguf_kv **kv, struct vd_error *err)
{
    *kv = vd_gguf_find(g, key);
    if (*kv || need == VD_GGUF_OPTIONAL)
        return VD_OK;
    return vd_error_set(err, VD_ENOTFOUND, "%.200s: the key %s is missing; the file is no complete model",
                        vd_gguf_name(g), key);
}

static enum vd_err wrong_type(const struct vd_gguf *g, const struct vd_gguf_kv *kv, const char *key,
                              const char *wanted, struct vd_error *err)
{
    bool array = kv->type == VD_GGUF_ARRAY;
    return vd_error_set(err, VD_EFORMAT, "%.200s: the key %s is %s%s; %s is wanted", vd_gguf_name(g), key,
                        array ? "an array of " : "of type ", vd_gguf_value_name(kv->array.type), wanted);
}

static bool is_integer(enum vd_gguf_value t)
{
    return t != VD_GGUF_F32 && t != VD_GGUF_F64 && t != VD_GGUF_BOOL && vd_gguf_value_bytes(t) > 0;
}

enum vd_err vd_gguf_get_u64(const struct vd_gguf *g, const char *key, enum vd_gguf_need need, uint64_t max,
                            uint64_t *out, struct vd_error *err)
{
    const struct vd_gguf_kv *kv;
    enum vd_err e = lookup(g, key, need, &kv, err);
    if (e || !kv)
        return e;
    if (!is_integer(kv->type))
        return wrong_type(g, kv, key, "an integer", err);
    int64_t v = vd_gguf_array_int(&kv->array, 0);
    if (v < 0 && kv->type != VD_GGUF_U64)
        return vd_error_set(err, VD_EFORMAT, "%.200s: the key %s is %" PRId64 "; 0 to %" PRIu64 " is allowed",
                            vd_gguf_name(g), key, v, max);
    if ((uint64_t)v > max)
        return vd_error_set(err, VD_EFORMAT, "%.200s: the key %s is %" PRIu64 "; 0 to %" PRIu64 " is allowed",
                            vd_gguf_name(g), key, (uint64_t)v, max);
    *out = (uint64_t)v;
    return VD_OK;
}

enum vd_err vd_gguf_get_u32(const struct vd_gguf *g, const char *key, enum vd_gguf_need need, uint32_t max,
                            uint32_t *out, struct vd_error *err)
{
    uint64_t v = *out;
    enum vd_err e = vd_gguf_get_u64(g, key, need, max, &v, err);
    if (!e)
        *out = (uint32_t)v;
    return e;
}

enum vd_err vd_gguf_get_f32(const struct vd_gguf *g, const char *key, enum vd_gguf_need need, float *out,
                            struct vd_error *err)
{
    const struct vd_gguf_kv *kv;
    enum vd_err e = lookup(g, key, need, &kv, err);
    if (e || !kv)
        return e;
    if (kv->type != VD_GGUF_F32 && kv->type != VD_GGUF_F64)
        return wrong_type(g, kv, key, "a number with a fraction (f32)", err);
    double v = vd_gguf_array_float(&kv->array, 0);
    if (!isfinite(v) || !isfinite((float)v))
        return vd_error_set(err, VD_EFORMAT, "%.200s: the key %s is %g; a finite f32 is wanted",
                            vd_gguf_name(g), key, v);
    *out = (float)v;
    return VD_OK;
}

enum vd_err vd_gguf_get_bool(const struct vd_gguf *g, const char *key, enum vd_gguf_need need, bool *out,
                             struct vd_error *err)
{
    const struct vd_gguf_kv *kv;
    enum vd_err e = lookup(g, key, need, &kv, err);
    if (e || !kv)
        return e;
    if (kv->type != VD_GGUF_BOOL)
        return wrong_type(g, kv, key, "a bool", err);
    *out = kv->array.p[0] != 0;
    return VD_OK;
}

enum vd_err vd_gguf_get_str(const struct vd_gguf *g, const char *key, enum vd_gguf_need need,
                            struct vd_gguf_str *out, struct vd_error *err)
{
    const struct vd_gguf_kv *kv;
    enum vd_err e = lookup(g, key, need, &kv, err);
    if (e || !kv)
        return e;
    if (kv->type != VD_GGUF_STRING)
        return wrong_type(g, kv, key, "a string", err);
    size_t at = 0;
    vd_gguf_array_next_str(&kv->array, &at, out);
    return VD_OK;
}

enum vd_err vd_gguf_get_array(const struct vd_gguf *g, const char *key, enum vd_gguf_need need,
                              enum vd_gguf_value type, struct vd_gguf_array *out, struct vd_error *err)
{
    const struct vd_gguf_kv *kv;
    enum vd_err e = lookup(g, key, need, &kv, err);
    if (e || !kv)
        return e;
    char wanted[32];
    snprintf(wanted, sizeof wanted, "an array of %s", vd_gguf_value_name(type));
    if (kv->type != VD_GGUF_ARRAY || kv->array.type != type)
        return wrong_type(g, kv, key, wanted, err);
    *out = kv->array;
    return VD_OK;
}

int64_t vd_gguf_array_int(const struct vd_gguf_array *a, uint64_t i)
{
    assert(i < a->n);
    const uint8_t *p = a->p + i * vd_gguf_value_bytes(a->type);
    switch (a->type) {
    case VD_GGUF_U8:
    case VD_GGUF_BOOL:
        return p[0];
    case VD_GGUF_I8:
        return (int8_t)p[0];
    case VD_GGUF_U16:
        return vd_le16_load(p);
    case VD_GGUF_I16:
        return (int16_t)vd_le16_load(p);
    case VD_GGUF_U32:
        return vd_le32_load(p);
    case VD_GGUF_I32:
        return (int32_t)vd_le32_load(p);
    case VD_GGUF_U64:
    case VD_GGUF_I64:
        return (int64_t)vd_le64_load(p);
    case VD_GGUF_F32:
    case VD_GGUF_F64:
    case VD_GGUF_STRING:
    case VD_GGUF_ARRAY:
    case VD_GGUF_VALUE_COUNT:
        break;
    }
    assert(!"an array of integers");
    return 0;
}

double vd_gguf_array_float(const struct vd_gguf_array *a, uint64_t i)
{
    assert(i < a->n && (a->type == VD_GGUF_F32 || a->type == VD_GGUF_F64));
    if (a->type == VD_GGUF_F32)
        return (double)vd_f32_from_bits(vd_le32_load(a->p + 4 * i));
    uint64_t bits = vd_le64_load(a->p + 8 * i);
    double d;
    memcpy(&d, &bits, sizeof d);
    return d;
}

bool vd_gguf_array_next_str(const struct vd_gguf_array *a, size_t *at, struct vd_gguf_str *out)
{
    assert(a->type == VD_GGUF_STRING);
    if (*at >= a->n_bytes)
        return false;
    size_t n = (size_t)vd_le64_load(a->p + *at);
    *out = (struct vd_gguf_str){(const char *)a->p + *at + 8, n};
    *at += 8 + n;
    return true;
}
