#include "vd_key.h"

#include <sodium.h>

enum vd_err vd_key_init(struct vd_error *err)
{
    if (sodium_init() < 0)
        return vd_error_set(err, VD_EINTERNAL, "libsodium did not start: no source of randomness");
    return VD_OK;
}

void vd_key_random(void *out, size_t n_bytes)
{
    randombytes_buf(out, n_bytes);
}

void vd_key_from_seed(struct vd_keypair *out, const uint8_t seed[VD_SEED_BYTES])
{
    crypto_sign_seed_keypair(out->pub.b, out->secret, seed);
}

void vd_key_generate(struct vd_keypair *out)
{
    crypto_sign_keypair(out->pub.b, out->secret);
}

void vd_key_wipe(struct vd_keypair *k)
{
    sodium_memzero(k, sizeof *k);
}

static struct vd_hash digest(const char *tag, const void *msg, size_t n)
{
    struct vd_sha256 s;
    struct vd_hash h;
    vd_sha256_init_tag(&s, tag);
    vd_sha256_update(&s, msg, n);
    vd_sha256_final(&s, &h);
    return h;
}

void vd_key_sign(struct vd_sig *out, const struct vd_keypair *k, const char *tag, const void *msg, size_t n)
{
    struct vd_hash h = digest(tag, msg, n);
    crypto_sign_detached(out->b, NULL, h.b, sizeof h.b, k->secret);
}

bool vd_key_verify(const struct vd_sig *sig, const struct vd_pubkey *pub, const char *tag, const void *msg,
                   size_t n)
{
    struct vd_hash h = digest(tag, msg, n);
    return crypto_sign_verify_detached(sig->b, h.b, sizeof h.b, pub->b) == 0;
}
