/* See vd_pb.h. Kept free of tables and reflection: each message is a page of put and get calls that reads
 * like its schema, and both sides can be checked by eye against proto/veridem.proto. */
#include "vd_pb.h"

enum { WIRE_VARINT = 0, WIRE_LEN = 2 };

static void put_raw(struct vd_pb_writer *w, const void *p, size_t n)
{
    if (w->overflow || n > w->cap_bytes - w->n_bytes) {
        w->overflow = true;
        return;
    }
    if (n)
        memcpy(w->p + w->n_bytes, p, n);
    w->n_bytes += n;
}

static size_t varint_encode(uint8_t out[10], uint64_t v)
{
    size_t n = 0;
    while (v >= 0x80) {
        out[n++] = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    out[n++] = (uint8_t)v;
    return n;
}

static void put_varint(struct vd_pb_writer *w, uint64_t v)
{
    uint8_t b[10];
    put_raw(w, b, varint_encode(b, v));
}

void vd_pb_put_u64_elem(struct vd_pb_writer *w, uint32_t field, uint64_t v)
{
    put_varint(w, (uint64_t)field << 3 | WIRE_VARINT);
    put_varint(w, v);
}

void vd_pb_put_u64(struct vd_pb_writer *w, uint32_t field, uint64_t v)
{
    if (v)
        vd_pb_put_u64_elem(w, field, v);
}

void vd_pb_put_elem(struct vd_pb_writer *w, uint32_t field, const void *p, size_t n)
{
    put_varint(w, (uint64_t)field << 3 | WIRE_LEN);
    put_varint(w, n);
    put_raw(w, p, n);
}

void vd_pb_put_bytes(struct vd_pb_writer *w, uint32_t field, const void *p, size_t n)
{
    if (n)
        vd_pb_put_elem(w, field, p, n);
}

static bool all_zero(const uint8_t *p, size_t n)
{
    uint8_t any = 0;
    for (size_t i = 0; i < n; i++)
        any |= p[i];
    return any == 0;
}

void vd_pb_put_opt_fixed(struct vd_pb_writer *w, uint32_t field, const void *p, size_t n)
{
    if (!all_zero(p, n))
        vd_pb_put_elem(w, field, p, n);
}

void vd_pb_put_packed_u32(struct vd_pb_writer *w, uint32_t field, const uint32_t *v, size_t n)
{
    if (!n)
        return;
    size_t mark = vd_pb_begin(w, field);
    for (size_t i = 0; i < n; i++)
        put_varint(w, v[i]);
    vd_pb_end(w, mark, true);
}

/* The mark is the offset of the key; the body starts after the key and one reserved length byte. */
size_t vd_pb_begin(struct vd_pb_writer *w, uint32_t field)
{
    size_t mark = w->n_bytes;
    put_varint(w, (uint64_t)field << 3 | WIRE_LEN);
    put_varint(w, 0);
    return mark;
}

void vd_pb_end(struct vd_pb_writer *w, size_t mark, bool keep_empty)
{
    if (w->overflow)
        return;
    size_t body = mark;
    while (w->p[body] & 0x80)
        body++;
    body += 2; /* the key's last byte, the reserved length byte */
    size_t n = w->n_bytes - body;
    if (n == 0 && !keep_empty) {
        w->n_bytes = mark;
        return;
    }
    uint8_t len[10];
    size_t k = varint_encode(len, n);
    if (k - 1 > w->cap_bytes - w->n_bytes) {
        w->overflow = true;
        return;
    }
    memmove(w->p + body + k - 1, w->p + body, n);
    memcpy(w->p + body - 1, len, k);
    w->n_bytes += k - 1;
}

static bool peek_varint(const uint8_t *p, const uint8_t *end, uint64_t *v, size_t *used)
{
    uint64_t x = 0;
    for (size_t i = 0; i < 10 && p + i < end; i++) {
        uint8_t b = p[i];
        if (i == 9 && b > 1)
            return false;
        x |= (uint64_t)(b & 0x7f) << (7 * i);
        if (!(b & 0x80)) {
            if (i > 0 && b == 0)
                return false; /* not minimal */
            *v = x;
            *used = i + 1;
            return true;
        }
    }
    return false;
}

/* True, and the key consumed, if the next key is (field, wire). Anything malformed marks the reader bad. */
static bool take_key(struct vd_pb_reader *r, uint32_t field, uint32_t wire)
{
    uint64_t key;
    size_t used;
    if (r->bad || r->p == r->end)
        return false;
    if (!peek_varint(r->p, r->end, &key, &used)) {
        r->bad = true;
        return false;
    }
    if (key >> 3 < field) {
        r->bad = true; /* out of order, duplicate or unknown */
        return false;
    }
    if (key != ((uint64_t)field << 3 | wire)) {
        if (key >> 3 == field)
            r->bad = true;
        return false;
    }
    r->p += used;
    return true;
}

static uint64_t take_varint(struct vd_pb_reader *r)
{
    uint64_t v;
    size_t used;
    if (!peek_varint(r->p, r->end, &v, &used)) {
        r->bad = true;
        return 0;
    }
    r->p += used;
    return v;
}

static struct vd_bytes take_len(struct vd_pb_reader *r, size_t max_bytes)
{
    uint64_t n = take_varint(r);
    if (r->bad || n > max_bytes || n > (uint64_t)(r->end - r->p)) {
        r->bad = true;
        return (struct vd_bytes){NULL, 0};
    }
    struct vd_bytes b = {r->p, (size_t)n};
    r->p += n;
    return b;
}

uint64_t vd_pb_get_u64(struct vd_pb_reader *r, uint32_t field, uint64_t max)
{
    if (!take_key(r, field, WIRE_VARINT))
        return 0;
    uint64_t v = take_varint(r);
    if (v == 0 || v > max)
        r->bad = true;
    return r->bad ? 0 : v;
}

struct vd_bytes vd_pb_get_bytes(struct vd_pb_reader *r, uint32_t field, size_t max_bytes)
{
    if (!take_key(r, field, WIRE_LEN))
        return (struct vd_bytes){NULL, 0};
    struct vd_bytes b = take_len(r, max_bytes);
    if (b.n == 0)
        r->bad = true;
    return b;
}

void vd_pb_get_fixed(struct vd_pb_reader *r, uint32_t field, void *out, size_t n)
{
    struct vd_bytes b = {NULL, 0};
    if (take_key(r, field, WIRE_LEN))
        b = take_len(r, n);
    if (b.n != n) {
        r->bad = true;
        memset(out, 0, n);
        return;
    }
    memcpy(out, b.p, n);
}

void vd_pb_get_opt_fixed(struct vd_pb_reader *r, uint32_t field, void *out, size_t n)
{
    memset(out, 0, n);
    if (!take_key(r, field, WIRE_LEN))
        return;
    struct vd_bytes b = take_len(r, n);
    if (b.n != n || all_zero(b.p, n)) {
        r->bad = true;
        return;
    }
    memcpy(out, b.p, n);
}

bool vd_pb_next_elem(struct vd_pb_reader *r, uint32_t field, struct vd_bytes *out, size_t max_bytes)
{
    if (!take_key(r, field, WIRE_LEN))
        return false;
    *out = take_len(r, max_bytes);
    return !r->bad;
}

size_t vd_pb_get_packed_u32(struct vd_pb_reader *r, uint32_t field, uint32_t *out, size_t cap)
{
    if (!take_key(r, field, WIRE_LEN))
        return 0;
    struct vd_bytes b = take_len(r, (size_t)(r->end - r->p));
    struct vd_pb_reader in = vd_pb_reader_init(b.p, b.n);
    size_t n = 0;
    while (!r->bad && in.p < in.end) {
        uint64_t v = take_varint(&in);
        if (in.bad || v > UINT32_MAX || n == cap)
            r->bad = true;
        else
            out[n++] = (uint32_t)v;
    }
    if (n == 0)
        r->bad = true; /* an empty packed field is left out, not written */
    return r->bad ? 0 : n;
}

bool vd_pb_done(struct vd_pb_reader *r)
{
    if (r->p != r->end)
        r->bad = true;
    return !r->bad;
}
