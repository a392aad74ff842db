/* API keys: made here, shown once, kept as hashes.
 *
 * A key is "vd-" and 43 characters of base64url (32 random bytes). The file <home>/api-keys.json (0600)
 * holds, per key, an id (the first 16 bytes of its SHA-256), the whole hash, a label, the day, and an
 * optional spending limit. It is written by replacing it, and read again when it has changed, so keys can be
 * made and revoked while the gateway runs.
 *
 * Keys have 256 bits, so one SHA-256 is enough, and they are compared as hashes. Thread rule: a struct
 * vd_gateway_keys may be shared; make, list and revoke are for one process at a time. */
#ifndef VD_GATEWAY_KEYS_H
#define VD_GATEWAY_KEYS_H

#include "vd_amount.h"
#include "vd_err.h"
#include "vd_gateway_store.h"
#include "vd_sha256.h"

#include <stdbool.h>

enum {
    VD_API_KEY_TEXT_MAX = 64,
    VD_API_KEY_LABEL_MAX = 64, /* printable ASCII */
    VD_API_KEYS_MAX = 4096,
};

struct vd_api_key {
    struct vd_key_id id;
    struct vd_hash hash;
    char label[VD_API_KEY_LABEL_MAX + 1];
    uint64_t created_s;
    struct vd_amount limit; /* 0: none */
};

/* Makes a key, adds it to the file, and writes its text, which nobody can read again, to secret. */
enum vd_err vd_gateway_key_new(const char *home, const char *label, struct vd_amount limit,
                               char secret[VD_API_KEY_TEXT_MAX], struct vd_api_key *out,
                               struct vd_error *err);
/* Takes the key with this id (32 hex digits), or label, out of the file. VD_ENOTFOUND; VD_EUSE if several
 * have that label. */
enum vd_err vd_gateway_key_revoke(const char *home, const char *id_or_label, struct vd_error *err);
/* All of them; *list is the caller's, free(). A missing file is an empty list. */
enum vd_err vd_gateway_key_list(const char *home, struct vd_api_key **list, size_t *n, struct vd_error *err);

struct vd_gateway_keys;
enum vd_err vd_gateway_keys_open(struct vd_gateway_keys **out, const char *home, struct vd_error *err);
void vd_gateway_keys_close(struct vd_gateway_keys *k); /* NULL is allowed */
/* True, and *out, if `secret` is a key. Reads the file again when it has changed; one that cannot be read
 * keeps the keys that were known. */
bool vd_gateway_keys_find(struct vd_gateway_keys *k, const char *secret, struct vd_api_key *out);

#endif
