/* The digest itself, by OpenSSL (src/court/freestanding has one without it). Its low-level SHA-256 rather
 * than EVP: EVP allocates a context and looks the digest up, which the ledger must not do and which costs
 * more than hashing one Merkle node does. The low-level functions are marked deprecated since 3.0 for reasons
 * of provider policy; they are in every 3.x. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "vd_sha256.h"

#include <assert.h>
#include <openssl/sha.h>

static_assert(sizeof(SHA256_CTX) <= sizeof(struct vd_sha256), "opaque is too small");
static_assert(_Alignof(SHA256_CTX) <= 8, "opaque is under-aligned");

void vd_sha256_init(struct vd_sha256 *s)
{
    SHA256_Init((SHA256_CTX *)s->opaque);
}

void vd_sha256_update(struct vd_sha256 *s, const void *p, size_t n_bytes)
{
    SHA256_Update((SHA256_CTX *)s->opaque, p, n_bytes);
}

void vd_sha256_final(struct vd_sha256 *s, struct vd_hash *out)
{
    SHA256_Final(out->b, (SHA256_CTX *)s->opaque);
}
