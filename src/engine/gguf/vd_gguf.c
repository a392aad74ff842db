/* One pass over the header with a cursor that knows the file's end; nothing is believed before it is compared
 * with the bytes that are left. A count is first checked against the smallest size that so many entries
 * could have, so the two indexes never take more than a few times the file's own size. Lookup is by
 * binary search over sorted indexes: unlike a hash table it has no bad case that a file could be made for. */
#include "vd_gguf.h"

#include "vd_bytes.h"
#include "vd_file.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct vd_gguf {
    char name[256];
    struct vd_map map;
    uint32_t alignment;
    size_t n_kv, n_tensors;
    struct vd_gguf_kv *kv;
    struct vd_gguf_tensor *tensors;
    uint32_t *kv_by_key, *tensors_by_name; /* indexes, sorted */
};

/* The smallest entries: a key of one byte with a one-byte value; a name of one byte with one dimension. */
enum { KV_BYTES_MIN = 8 + 1 + 4 + 1, TENSOR_BYTES_MIN = 8 + 1 + 4 + 8 + 4 + 8 };

struct reader {
    struct vd_gguf *g;
    const uint8_t *base;
    size_t at, end;
    struct vd_error *err;
};

/* A string from the file made fit for one line of a message. */
struct shown {
    char s[VD_GGUF_NAME_BYTES_MAX + 4];
};

static struct shown show(struct vd_gguf_str s)
{
    struct shown out;
    size_t n = s.n < VD_GGUF_NAME_BYTES_MAX ? s.n : VD_GGUF_NAME_BYTES_MAX;
    for (size_t i = 0; i < n; i++)
        out.s[i] = s.p[i] >= 0x20 && s.p[i] < 0x7f ? s.p[i] : '?';
    memcpy(out.s + n, s.n > n ? "..." : "\0\0\0", 4);
    return out;
}

static enum vd_err bad(const struct reader *r, enum vd_err code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static enum vd_err bad(const struct reader *r, enum vd_err code, const char *fmt, ...)
{
    char text[360];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    vd_error_set(r->err, code, "%.140s: %s", r->g->name, text);
    return code;
}

static enum vd_err truncated(const struct reader *r, uint64_t n_bytes, const char *what)
{
    uint64_t left = r->end - r->at;
    bad(r, VD_EFORMAT,
        "the file ends inside %s: %" PRIu64 " bytes needed at offset %zu, %" PRIu64 " there, %" PRIu64
        " missing; fetch the file again",
        what, n_bytes, r->at, left, n_bytes - left);
    return VD_EFORMAT;
}

static enum vd_err take(struct reader *r, uint64_t n_bytes, const uint8_t **p, const char *what)
{
    if (n_bytes > r->end - r->at)
        return truncated(r, n_bytes, what);
    *p = r->base + r->at;
    r->at += (size_t)n_bytes;
    return VD_OK;
}

static enum vd_err take_u32(struct reader *r, uint32_t *v, const char *what)
{
    const uint8_t *p = NULL;
    enum vd_err e = take(r, 4, &p, what);
    if (!e)
        *v = vd_le32_load(p);
    return e;
}

static enum vd_err take_u64(struct reader *r, uint64_t *v, const char *what)
{
    const uint8_t *p = NULL;
    enum vd_err e = take(r, 8, &p, what);
    if (!e)
        *v = vd_le64_load(p);
    return e;
}

static enum vd_err take_str(struct reader *r, struct vd_gguf_str *s, const char *what)
{
    uint64_t n = 0;
    const uint8_t *p = NULL;
    enum vd_err e = take_u64(r, &n, what);
    if (!e)
        e = take(r, n, &p, what);
    if (!e)
        *s = (struct vd_gguf_str){(const char *)p, (size_t)n};
    return e;
}

/* A key or tensor name: 1 .. max bytes, no NUL. */
static enum vd_err take_name(struct reader *r, struct vd_gguf_str *s, size_t max, const char *what,
                             size_t index)
{
    char where[48];
    snprintf(where, sizeof where, "%s %zu", what, index);
    enum vd_err e = take_str(r, s, where);
    if (e)
        return e;
    if (s->n == 0)
        return bad(r, VD_EFORMAT, "%s has an empty name", where);
    if (s->n > max)
        return bad(r, VD_EFORMAT, "%s, %s, has a name of %zu bytes; at most %zu are allowed", where,
                   show(*s).s, s->n, max);
    if (memchr(s->p, 0, s->n))
        return bad(r, VD_EFORMAT, "%s, %s, has a NUL in its name", where, show(*s).s);
    return VD_OK;
}

static enum vd_err check_bools(const struct reader *r, const struct vd_gguf_kv *kv)
{
    for (uint64_t i = 0; kv->array.type == VD_GGUF_BOOL && i < kv->array.n; i++)
        if (kv->array.p[i] > 1)
            return bad(r, VD_EFORMAT, "key %s: a bool has the value %u; 0 and 1 are allowed", show(kv->key).s,
                       kv->array.p[i]);
    return VD_OK;
}

/* The n values of an array, or one value. */
static enum vd_err read_values(struct reader *r, struct vd_gguf_kv *kv)
{
    struct vd_gguf_array *a = &kv->array;
    char what[96];
    snprintf(what, sizeof what, "the value of key %s", show(kv->key).s);
    size_t start = r->at, size = vd_gguf_value_bytes(a->type), left = r->end - r->at;
    if (a->n > left / (size ? size : 8))
        return bad(r, VD_EFORMAT,
                   "key %s: %" PRIu64
                   " values of type %s do not fit in the %zu bytes that are left of the file",
                   show(kv->key).s, a->n, vd_gguf_value_name(a->type), left);
    const uint8_t *p = NULL;
    enum vd_err e = VD_OK;
    if (size) {
        e = take(r, a->n * size, &p, what);
    } else {
        struct vd_gguf_str s;
        for (uint64_t i = 0; i < a->n && !e; i++)
            e = take_str(r, &s, what);
    }
    if (e)
        return e;
    a->p = r->base + start;
    a->n_bytes = r->at - start;
    return check_bools(r, kv);
}

static enum vd_err read_kv(struct reader *r, size_t index)
{
    struct vd_gguf_kv *kv = &r->g->kv[index];
    uint32_t type = 0;
    enum vd_err e = take_name(r, &kv->key, VD_GGUF_KEY_BYTES_MAX, "key", index);
    if (!e)
        e = take_u32(r, &type, "the type of a key");
    if (e)
        return e;
    if (type >= VD_GGUF_VALUE_COUNT)
        return bad(r, VD_EFORMAT, "key %s has the unknown value type %u", show(kv->key).s, type);
    kv->type = (enum vd_gguf_value)type;
    uint64_t n = 1;
    if (type == VD_GGUF_ARRAY) {
        e = take_u32(r, &type, "the type of an array");
        if (!e)
            e = take_u64(r, &n, "the length of an array");
        if (e)
            return e;
        if (type == VD_GGUF_ARRAY)
            return bad(r, VD_EUNSUPPORTED, "key %s is an array of arrays, which is not supported",
                       show(kv->key).s);
        if (type >= VD_GGUF_VALUE_COUNT)
            return bad(r, VD_EFORMAT, "key %s is an array of the unknown value type %u", show(kv->key).s,
                       type);
    }
    kv->array = (struct vd_gguf_array){.type = (enum vd_gguf_value)type, .n = n};
    return read_values(r, kv);
}

/* row_bytes and n_bytes from type and dimensions, with every product checked. */
static enum vd_err size_tensor(const struct reader *r, struct vd_gguf_tensor *t)
{
    uint64_t n = 1;
    for (uint32_t d = 0; d < t->n_dims; d++) {
        if (t->ne[d] == 0)
            return bad(r, VD_EFORMAT, "tensor %s: dimension %u is 0", show(t->name).s, d);
        if (t->ne[d] > (uint64_t)INT64_MAX / n)
            return bad(r, VD_EFORMAT, "tensor %s: the product of its dimensions overflows at %" PRIu64,
                       show(t->name).s, t->ne[d]);
        n *= t->ne[d];
    }
    if (t->ne[0] % t->type->n_per_block)
        return bad(r, VD_EFORMAT,
                   "tensor %s: a row of %" PRIu64
                   " elements is not a multiple of the %u in a block of type %s",
                   show(t->name).s, t->ne[0], t->type->n_per_block, t->type->name);
    if (n / t->type->n_per_block > UINT64_MAX / 2 / t->type->block_bytes)
        return bad(r, VD_EFORMAT, "tensor %s: its size in bytes overflows", show(t->name).s);
    t->row_bytes = t->ne[0] / t->type->n_per_block * t->type->block_bytes;
    t->n_bytes = n / t->type->n_per_block * t->type->block_bytes;
    return VD_OK;
}

static enum vd_err type_tensor(const struct reader *r, struct vd_gguf_tensor *t)
{
    t->type = vd_gguf_type_of(t->type_id);
    if (!t->type)
        return bad(r, VD_EUNSUPPORTED, "tensor %s has the unknown type %u; a newer Veridem may know it",
                   show(t->name).s, t->type_id);
    if (t->type->block_bytes == 0)
        return bad(r, VD_EUNSUPPORTED,
                   "tensor %s has type %u (%s), which was removed from the format; quantise the model again",
                   show(t->name).s, t->type_id, t->type->name);
    return VD_OK;
}

static enum vd_err read_tensor_info(struct reader *r, size_t index)
{
    struct vd_gguf_tensor *t = &r->g->tensors[index];
    enum vd_err e = take_name(r, &t->name, VD_GGUF_NAME_BYTES_MAX, "tensor", index);
    if (!e)
        e = take_u32(r, &t->n_dims, "a tensor's dimensions");
    if (e)
        return e;
    if (t->n_dims < 1 || t->n_dims > VD_GGUF_DIMS_MAX)
        return bad(r, VD_EFORMAT, "tensor %s has %u dimensions; 1 to %d are allowed", show(t->name).s,
                   t->n_dims, VD_GGUF_DIMS_MAX);
    for (uint32_t d = 0; d < VD_GGUF_DIMS_MAX; d++) {
        t->ne[d] = 1;
        if (d < t->n_dims && (e = take_u64(r, &t->ne[d], "a tensor's dimensions")))
            return e;
    }
    if ((e = take_u32(r, &t->type_id, "a tensor's type")) ||
        (e = take_u64(r, &t->offset_bytes, "a tensor's offset")))
        return e;
    if ((e = type_tensor(r, t)))
        return e;
    return size_tensor(r, t);
}

/* The entry that an index names, as a key. */
static struct vd_gguf_str name_at(const struct vd_gguf *g, bool tensor, uint32_t i)
{
    return tensor ? g->tensors[i].name : g->kv[i].key;
}

static int compare(struct vd_gguf_str a, struct vd_gguf_str b)
{
    int c = memcmp(a.p, b.p, a.n < b.n ? a.n : b.n);
    return c ? c : (a.n > b.n) - (a.n < b.n);
}

static int compare_kv(const void *a, const void *b, void *g)
{
    return compare(name_at(g, false, *(const uint32_t *)a), name_at(g, false, *(const uint32_t *)b));
}

static int compare_tensor(const void *a, const void *b, void *g)
{
    return compare(name_at(g, true, *(const uint32_t *)a), name_at(g, true, *(const uint32_t *)b));
}

static int compare_offset(const void *a, const void *b, void *gv)
{
    const struct vd_gguf *g = gv;
    const struct vd_gguf_tensor *x = &g->tensors[*(const uint32_t *)a],
                                *y = &g->tensors[*(const uint32_t *)b];
    return (x->offset_bytes > y->offset_bytes) - (x->offset_bytes < y->offset_bytes);
}

/* Fills and sorts an index of n entries, and finds duplicates, which are then neighbours. */
static enum vd_err sort_index(const struct reader *r, uint32_t *index, size_t n, bool tensor)
{
    for (size_t i = 0; i < n; i++)
        index[i] = (uint32_t)i;
    qsort_r(index, n, sizeof *index, tensor ? compare_tensor : compare_kv, r->g);
    for (size_t i = 1; i < n; i++) {
        struct vd_gguf_str a = name_at(r->g, tensor, index[i - 1]), b = name_at(r->g, tensor, index[i]);
        if (compare(a, b) == 0)
            return bad(r, VD_EFORMAT, "%s %s is there twice", tensor ? "tensor" : "key", show(a).s);
    }
    return VD_OK;
}

static enum vd_err read_alignment(struct reader *r)
{
    uint32_t a = VD_GGUF_ALIGNMENT_DEFAULT;
    enum vd_err e = vd_gguf_get_u32(r->g, "general.alignment", VD_GGUF_OPTIONAL, UINT32_MAX, &a, r->err);
    if (e)
        return e;
    if (a == 0 || (a & (a - 1)) || a > VD_GGUF_ALIGNMENT_MAX)
        return bad(r, VD_EFORMAT, "general.alignment is %u; a power of two up to %d is allowed", a,
                   VD_GGUF_ALIGNMENT_MAX);
    r->g->alignment = a;
    return VD_OK;
}

/* Turns relative offsets into absolute ones and pointers; says by how much a file was cut short. */
static enum vd_err place_tensors(struct reader *r)
{
    uint64_t align = r->g->alignment, start = (r->at + align - 1) & ~(align - 1), end = start;
    for (size_t i = 0; i < r->g->n_tensors; i++) {
        struct vd_gguf_tensor *t = &r->g->tensors[i];
        if (t->offset_bytes & (align - 1))
            return bad(r, VD_EFORMAT,
                       "tensor %s: its offset %" PRIu64 " is not a multiple of the alignment %" PRIu64,
                       show(t->name).s, t->offset_bytes, align);
        if (t->offset_bytes > INT64_MAX - t->n_bytes || t->offset_bytes + t->n_bytes > INT64_MAX - start)
            return bad(r, VD_EFORMAT, "tensor %s: its offset %" PRIu64 " overflows", show(t->name).s,
                       t->offset_bytes);
        t->offset_bytes += start;
        if (t->offset_bytes + t->n_bytes > end)
            end = t->offset_bytes + t->n_bytes;
    }
    if (r->g->n_tensors && end > r->end)
        return bad(r, VD_EFORMAT,
                   "the file has %zu bytes, its tensors need %" PRIu64 ": %" PRIu64
                   " are missing; fetch the file again",
                   r->end, end, end - r->end);
    for (size_t i = 0; i < r->g->n_tensors; i++)
        r->g->tensors[i].p = r->base + r->g->tensors[i].offset_bytes;
    return VD_OK;
}

/* Uses tensors_by_name as scratch, before it is sorted by name. */
static enum vd_err check_overlap(const struct reader *r)
{
    uint32_t *index = r->g->tensors_by_name;
    for (size_t i = 0; i < r->g->n_tensors; i++)
        index[i] = (uint32_t)i;
    qsort_r(index, r->g->n_tensors, sizeof *index, compare_offset, r->g);
    for (size_t i = 1; i < r->g->n_tensors; i++) {
        const struct vd_gguf_tensor *a = &r->g->tensors[index[i - 1]], *b = &r->g->tensors[index[i]];
        if (a->offset_bytes + a->n_bytes > b->offset_bytes)
            return bad(r, VD_EFORMAT, "tensors %s and %s overlap at offset %" PRIu64, show(a->name).s,
                       show(b->name).s, b->offset_bytes);
    }
    return VD_OK;
}

static enum vd_err read_version(struct reader *r)
{
    const uint8_t *p = NULL;
    uint32_t v = 0;
    if (r->end < 4)
        return bad(r, VD_EFORMAT, "not a GGUF file: it has %zu bytes", r->end);
    enum vd_err e = take(r, 4, &p, "the magic");
    if (e)
        return e;
    bool swapped = memcmp(p, "FUGG", 4) == 0;
    if (!swapped && memcmp(p, "GGUF", 4) != 0)
        return bad(r, VD_EFORMAT, "not a GGUF file: it starts with %02x %02x %02x %02x, not with GGUF", p[0],
                   p[1], p[2], p[3]);
    if ((e = take_u32(r, &v, "the version")))
        return e;
    if (swapped || (v != 0 && (v & 0xffff) == 0))
        return bad(r, VD_EUNSUPPORTED, "a big-endian GGUF file; convert it to little-endian first");
    if (v == 1)
        return bad(r, VD_EUNSUPPORTED, "GGUF version 1, which is not supported; convert the model again");
    if (v < 2 || v > 3)
        return bad(r, VD_EUNSUPPORTED, "GGUF version %u is unknown; versions 2 and 3 are read", v);
    return VD_OK;
}

static enum vd_err check_count(const struct reader *r, uint64_t n, uint64_t max, size_t bytes_min,
                               const char *what)
{
    size_t left = r->end - r->at;
    if (n > left / bytes_min)
        return bad(r, VD_EFORMAT, "%" PRIu64 " %s are announced, but the file has only %zu bytes left", n,
                   what, left);
    if (n > max)
        return bad(r, VD_ELIMIT, "%" PRIu64 " %s; the limit is %" PRIu64, n, what, max);
    return VD_OK;
}

static void *allocate(const struct reader *r, enum vd_err *e, size_t n, size_t size)
{
    void *p = *e ? NULL : calloc(n ? n : 1, size);
    if (!p && !*e)
        *e = bad(r, VD_ENOMEM, "no memory for an index of %zu entries", n);
    return p;
}

static enum vd_err read_all(struct reader *r)
{
    struct vd_gguf *g = r->g;
    uint64_t n_tensors = 0, n_kv = 0;
    enum vd_err e = read_version(r);
    if (e || (e = take_u64(r, &n_tensors, "the header")) || (e = take_u64(r, &n_kv, "the header")))
        return e;
    if ((e = check_count(r, n_kv, VD_GGUF_KEYS_MAX, KV_BYTES_MIN, "keys")) ||
        (e = check_count(r, n_tensors, VD_GGUF_TENSORS_MAX, TENSOR_BYTES_MIN, "tensors")))
        return e;
    g->kv = allocate(r, &e, n_kv, sizeof *g->kv);
    g->kv_by_key = allocate(r, &e, n_kv, sizeof *g->kv_by_key);
    g->tensors = allocate(r, &e, n_tensors, sizeof *g->tensors);
    g->tensors_by_name = allocate(r, &e, n_tensors, sizeof *g->tensors_by_name);
    if (e)
        return e;
    for (; g->n_kv < n_kv; g->n_kv++)
        if ((e = read_kv(r, g->n_kv)))
            return e;
    if ((e = sort_index(r, g->kv_by_key, g->n_kv, false)) || (e = read_alignment(r)))
        return e;
    for (; g->n_tensors < n_tensors; g->n_tensors++)
        if ((e = read_tensor_info(r, g->n_tensors)))
            return e;
    if ((e = place_tensors(r)) || (e = check_overlap(r)))
        return e;
    return sort_index(r, g->tensors_by_name, g->n_tensors, true);
}

enum vd_err vd_gguf_open(struct vd_gguf **out, const void *p, size_t n_bytes, const char *name,
                         struct vd_error *err)
{
    *out = NULL;
    assert(p || n_bytes == 0);
    struct vd_gguf *g = calloc(1, sizeof *g);
    if (!g) {
        vd_error_set(err, VD_ENOMEM, "no memory to open %.300s", name);
        return VD_ENOMEM;
    }
    snprintf(g->name, sizeof g->name, "%s", name);
    struct reader r = {.g = g, .base = p, .end = n_bytes, .err = err};
    enum vd_err e = read_all(&r);
    if (e) {
        vd_gguf_close(g);
        return e;
    }
    *out = g;
    return VD_OK;
}

enum vd_err vd_gguf_open_map(struct vd_gguf **out, const char *path, struct vd_error *err)
{
    struct vd_map map;
    *out = NULL;
    enum vd_err e = vd_map_open(&map, path, err);
    if (e)
        return e;
    e = vd_gguf_open(out, map.p, map.n_bytes, path, err);
    if (e)
        vd_map_close(&map);
    else
        (*out)->map = map;
    return e;
}

void vd_gguf_close(struct vd_gguf *g)
{
    if (!g)
        return;
    vd_map_close(&g->map);
    free(g->kv);
    free(g->kv_by_key);
    free(g->tensors);
    free(g->tensors_by_name);
    free(g);
}

const char *vd_gguf_name(const struct vd_gguf *g)
{
    return g->name;
}

uint32_t vd_gguf_alignment(const struct vd_gguf *g)
{
    return g->alignment;
}

size_t vd_gguf_kv_count(const struct vd_gguf *g)
{
    return g->n_kv;
}

const struct vd_gguf_kv *vd_gguf_kv_at(const struct vd_gguf *g, size_t i)
{
    assert(i < g->n_kv);
    return &g->kv[i];
}

size_t vd_gguf_tensor_count(const struct vd_gguf *g)
{
    return g->n_tensors;
}

const struct vd_gguf_tensor *vd_gguf_tensor_at(const struct vd_gguf *g, size_t i)
{
    assert(i < g->n_tensors);
    return &g->tensors[i];
}

/* Binary search; UINT32_MAX if absent. */
static uint32_t find(const struct vd_gguf *g, const uint32_t *index, size_t n, bool tensor, const char *text)
{
    struct vd_gguf_str wanted = {text, strlen(text)};
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = compare(name_at(g, tensor, index[mid]), wanted);
        if (c == 0)
            return index[mid];
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return UINT32_MAX;
}

const struct vd_gguf_kv *vd_gguf_find(const struct vd_gguf *g, const char *key)
{
    uint32_t i = find(g, g->kv_by_key, g->n_kv, false, key);
    return i == UINT32_MAX ? NULL : &g->kv[i];
}

const struct vd_gguf_tensor *vd_gguf_tensor_find(const struct vd_gguf *g, const char *name)
{
    uint32_t i = find(g, g->tensors_by_name, g->n_tensors, true, name);
    return i == UINT32_MAX ? NULL : &g->tensors[i];
}
