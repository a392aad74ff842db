/* Canonical protobuf: a strict, allocation-free subset of the protobuf wire format.
 *
 * Everything that Veridem signs, hashes or sends between roles is a message of proto/veridem.proto, written
 * so that one value has exactly one encoding, and any stock protobuf library can read it:
 *   - fields ascend by number, a repeated field's elements stand together;
 *   - varints are minimal; a scalar that is zero and a byte string that is empty are left out;
 *   - fixed64/fixed32 are not used; floats are not used (scaled integers are);
 *   - unknown fields, duplicates, wrong wire types and trailing bytes are errors.
 * A decoder built from these readers therefore accepts exactly what the encoder writes: decode, encode again,
 * compare is true by construction, and fuzzing checks it.
 *
 * Writer: writes into a caller's buffer; once it overflows, `overflow` stays true and nothing more is
 * written. Reader: borrows the caller's bytes; once a read fails, `bad` stays true and every later read
 * yields zeros. Thread rule: one thread per object. */
#ifndef VD_PB_H
#define VD_PB_H

#include "vd_bytes.h"

struct vd_pb_writer {
    uint8_t *p;
    size_t cap_bytes, n_bytes;
    bool overflow;
};

static inline struct vd_pb_writer vd_pb_writer_init(void *buf, size_t cap_bytes)
{
    return (struct vd_pb_writer){buf, cap_bytes, 0, false};
}

void vd_pb_put_u64(struct vd_pb_writer *w, uint32_t field, uint64_t v); /* left out if 0 */
void vd_pb_put_bytes(struct vd_pb_writer *w, uint32_t field, const void *p,
                     size_t n); /* left out if n == 0 */
/* An element of a repeated byte string or message: written even when empty. */
void vd_pb_put_elem(struct vd_pb_writer *w, uint32_t field, const void *p, size_t n);
/* An element of a repeated, unpacked integer: written even when zero. */
void vd_pb_put_u64_elem(struct vd_pb_writer *w, uint32_t field, uint64_t v);
/* n integers as one packed field; left out if n == 0. */
void vd_pb_put_packed_u32(struct vd_pb_writer *w, uint32_t field, const uint32_t *v, size_t n);

/* A nested message: begin, put its fields, end. The length is filled in by end (the body is moved if its
 * varint is longer than one byte). An empty body is left out unless `keep_empty`. */
size_t vd_pb_begin(struct vd_pb_writer *w, uint32_t field);
void vd_pb_end(struct vd_pb_writer *w, size_t mark, bool keep_empty);

struct vd_pb_reader {
    const uint8_t *p, *end;
    bool bad;
};

static inline struct vd_pb_reader vd_pb_reader_init(const void *p, size_t n)
{
    return (struct vd_pb_reader){p, n ? (const uint8_t *)p + n : p, false};
}

/* Scalars and single fields: absent reads as zero / empty; present-but-zero is bad. Call in ascending order.
 */
uint64_t vd_pb_get_u64(struct vd_pb_reader *r, uint32_t field, uint64_t max);
struct vd_bytes vd_pb_get_bytes(struct vd_pb_reader *r, uint32_t field, size_t max_bytes);
/* Exactly n bytes; absent, or another length, is bad. Copies to out. */
void vd_pb_get_fixed(struct vd_pb_reader *r, uint32_t field, void *out, size_t n);
/* Like get_fixed, but absent yields zeros, and present all-zero bytes are bad. Pairs with
 * vd_pb_put_opt_fixed. */
void vd_pb_get_opt_fixed(struct vd_pb_reader *r, uint32_t field, void *out, size_t n);
void vd_pb_put_opt_fixed(struct vd_pb_writer *w, uint32_t field, const void *p, size_t n);
/* Repeated elements: true and *out while the next field is `field`. */
bool vd_pb_next_elem(struct vd_pb_reader *r, uint32_t field, struct vd_bytes *out, size_t max_bytes);
/* A packed field of at most cap integers below 2^32: fills out, returns the count. */
size_t vd_pb_get_packed_u32(struct vd_pb_reader *r, uint32_t field, uint32_t *out, size_t cap);
/* True if nothing was bad and nothing is left. Call last. */
bool vd_pb_done(struct vd_pb_reader *r);

#endif
