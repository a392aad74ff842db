/* SHA-256 (FIPS 180-4), streaming and in one call, and domain-separated hashes.
 *
 * The context lives on the caller's stack; nothing is allocated. Thread rule: one thread per context. */
#ifndef VD_SHA256_H
#define VD_SHA256_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { VD_HASH_BYTES = 32 };

struct vd_hash {
    uint8_t b[VD_HASH_BYTES];
};

struct vd_sha256 {
    _Alignas(8) uint8_t opaque[112];
};

void vd_sha256_init(struct vd_sha256 *s);
void vd_sha256_update(struct vd_sha256 *s, const void *p, size_t n_bytes);
void vd_sha256_final(struct vd_sha256 *s, struct vd_hash *out);

struct vd_hash vd_sha256_of(const void *p, size_t n_bytes);

/* The same of n messages of n_bytes each, message i at p + i * stride. Where the processor can, sixteen are
 * hashed side by side. Best for 16 or more at once; out does not overlap them. */
void vd_sha256_many(const void *p, size_t stride, size_t n_bytes, size_t n, struct vd_hash *out);

/* Starts a hash with a domain tag: the bytes of `tag` and its NUL. Tags are listed in docs/spec/proof.md. */
void vd_sha256_init_tag(struct vd_sha256 *s, const char *tag);
void vd_sha256_u32(struct vd_sha256 *s, uint32_t v); /* little-endian */
void vd_sha256_u64(struct vd_sha256 *s, uint64_t v);
void vd_sha256_hash(struct vd_sha256 *s, const struct vd_hash *h);

/* HMAC-SHA-256 (RFC 2104), for salts derived from a secret. */
struct vd_hash vd_hmac_sha256(const void *key, size_t key_bytes, const void *p, size_t n_bytes);

static inline bool vd_hash_eq(const struct vd_hash *a, const struct vd_hash *b)
{
    return memcmp(a->b, b->b, VD_HASH_BYTES) == 0;
}
static inline bool vd_hash_is_zero(const struct vd_hash *a)
{
    static const struct vd_hash zero;
    return vd_hash_eq(a, &zero);
}

#endif
