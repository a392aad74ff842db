/* What is built on the digest: one-call hashes, tags, HMAC. */
#include "vd_sha256.h"
#include "vd_bytes.h"

struct vd_hash vd_sha256_of(const void *p, size_t n_bytes)
{
    struct vd_sha256 s;
    struct vd_hash h;
    vd_sha256_init(&s);
    vd_sha256_update(&s, p, n_bytes);
    vd_sha256_final(&s, &h);
    return h;
}

void vd_sha256_init_tag(struct vd_sha256 *s, const char *tag)
{
    vd_sha256_init(s);
    vd_sha256_update(s, tag, strlen(tag) + 1);
}

void vd_sha256_u32(struct vd_sha256 *s, uint32_t v)
{
    uint8_t b[4];
    vd_le32_store(b, v);
    vd_sha256_update(s, b, sizeof b);
}

void vd_sha256_u64(struct vd_sha256 *s, uint64_t v)
{
    uint8_t b[8];
    vd_le64_store(b, v);
    vd_sha256_update(s, b, sizeof b);
}

void vd_sha256_hash(struct vd_sha256 *s, const struct vd_hash *h)
{
    vd_sha256_update(s, h->b, VD_HASH_BYTES);
}

struct vd_hash vd_hmac_sha256(const void *key, size_t key_bytes, const void *p, size_t n_bytes)
{
    uint8_t block[64] = {0}, pad[64];
    struct vd_sha256 s;
    struct vd_hash h;
    if (key_bytes > sizeof block) {
        h = vd_sha256_of(key, key_bytes);
        memcpy(block, h.b, sizeof h.b);
    } else {
        memcpy(block, key, key_bytes);
    }
    for (size_t i = 0; i < sizeof block; i++)
        pad[i] = block[i] ^ 0x36;
    vd_sha256_init(&s);
    vd_sha256_update(&s, pad, sizeof pad);
    vd_sha256_update(&s, p, n_bytes);
    vd_sha256_final(&s, &h);
    for (size_t i = 0; i < sizeof block; i++)
        pad[i] = block[i] ^ 0x5c;
    vd_sha256_init(&s);
    vd_sha256_update(&s, pad, sizeof pad);
    vd_sha256_hash(&s, &h);
    vd_sha256_final(&s, &h);
    return h;
}
