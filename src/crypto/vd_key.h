/* Ed25519 keys (RFC 8032) as libsodium 1.0.18 signs and verifies them. One key pair names an account, a role
 * and a TLS identity. A signature is always over SHA-256(tag || NUL || message): the tag separates the uses.
 *
 * Secret keys live in files of mode 0600 that hold 64 hexadecimal digits (the seed) and a newline; a file
 * that others can read is refused. Thread rule: pure but for the file functions. Call vd_key_init once at
 * start. */
#ifndef VD_KEY_H
#define VD_KEY_H

#include "vd_err.h"
#include "vd_sha256.h"

enum { VD_PUBKEY_BYTES = 32, VD_SIG_BYTES = 64, VD_SEED_BYTES = 32 };

struct vd_pubkey {
    uint8_t b[VD_PUBKEY_BYTES];
};
struct vd_sig {
    uint8_t b[VD_SIG_BYTES];
};
struct vd_keypair {
    struct vd_pubkey pub;
    uint8_t secret[64]; /* libsodium's form: seed || public key */
};

enum vd_err vd_key_init(struct vd_error *err);
void vd_key_random(void *out, size_t n_bytes); /* from the operating system, for salts and seeds */

void vd_key_from_seed(struct vd_keypair *out, const uint8_t seed[VD_SEED_BYTES]);
void vd_key_generate(struct vd_keypair *out);
void vd_key_wipe(struct vd_keypair *k);

void vd_key_sign(struct vd_sig *out, const struct vd_keypair *k, const char *tag, const void *msg, size_t n);
__attribute__((warn_unused_result)) bool vd_key_verify(const struct vd_sig *sig, const struct vd_pubkey *pub,
                                                       const char *tag, const void *msg, size_t n);

/* Reads the seed file, or makes it (0600, synced; whole or not at all, and never over another) when it is
 * absent and `create` is true. */
enum vd_err vd_key_load(struct vd_keypair *out, const char *path, bool create, struct vd_error *err);

static inline bool vd_pubkey_eq(const struct vd_pubkey *a, const struct vd_pubkey *b)
{
    return memcmp(a->b, b->b, VD_PUBKEY_BYTES) == 0;
}

#endif
