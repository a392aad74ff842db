/* Every hash has a tag of its own, so none can be taken for another. Drawing multiplies 64 bits of a hash
 * with the total, as everywhere: the bias is below 2^-20 of a draw for any total in use. */
#include "vd_audit.h"
#include "vd_trace_hash.h"

static struct vd_hash finish(struct vd_sha256 *s)
{
    struct vd_hash h;
    vd_sha256_final(s, &h);
    return h;
}

static struct vd_hash tagged(const char *tag, const void *p, size_t n_bytes)
{
    struct vd_sha256 s;
    vd_sha256_init_tag(&s, tag);
    vd_sha256_update(&s, p, n_bytes);
    return finish(&s);
}

struct vd_hash vd_onion_outer(const struct vd_hash *layer)
{
    return tagged("veridem/onion", layer->b, VD_HASH_BYTES);
}

struct vd_hash vd_onion_layer(const uint8_t seed[32], uint32_t inner)
{
    struct vd_hash h = tagged("veridem/onion-core", seed, 32);
    for (uint32_t i = 0; i < inner; i++)
        h = vd_onion_outer(&h);
    return h;
}

struct vd_hash vd_beacon_part(const struct vd_pubkey *keeper, const struct vd_hash *layer)
{
    struct vd_sha256 s;
    vd_sha256_init_tag(&s, "veridem/beacon-part");
    vd_sha256_update(&s, keeper->b, VD_PUBKEY_BYTES);
    vd_sha256_hash(&s, layer);
    return finish(&s);
}

struct vd_hash vd_beacon_value(uint64_t epoch, const struct vd_hash *mix)
{
    struct vd_sha256 s;
    vd_sha256_init_tag(&s, "veridem/beacon");
    vd_sha256_u64(&s, epoch);
    vd_sha256_hash(&s, mix);
    return finish(&s);
}

static uint64_t number(struct vd_sha256 *s)
{
    struct vd_hash h = finish(s);
    return vd_le64_load(h.b);
}

bool vd_audit_is_drawn(const struct vd_hash *beacon, const struct vd_hash *receipt_id, uint32_t rate_ppm)
{
    struct vd_sha256 s;
    vd_sha256_init_tag(&s, "veridem/audited");
    vd_sha256_hash(&s, beacon);
    vd_sha256_hash(&s, receipt_id);
    return (uint64_t)(((unsigned __int128)number(&s) * VD_PPM) >> 64) < rate_ppm;
}

uint64_t vd_audit_point(const struct vd_hash *beacon, const struct vd_hash *receipt_id, uint32_t i,
                        uint64_t total)
{
    struct vd_sha256 s;
    vd_sha256_init_tag(&s, "veridem/auditor");
    vd_sha256_hash(&s, beacon);
    vd_sha256_hash(&s, receipt_id);
    vd_sha256_u32(&s, i);
    return (uint64_t)(((unsigned __int128)number(&s) * total) >> 64);
}

struct vd_hash vd_audit_commitment(const struct vd_pubkey *auditor, const struct vd_tx_audit_reveal *what)
{
    struct vd_sha256 s;
    vd_sha256_init_tag(&s, "veridem/audit-commit");
    vd_sha256_hash(&s, &what->receipt_id);
    vd_sha256_update(&s, auditor->b, VD_PUBKEY_BYTES);
    vd_sha256_u32(&s, what->verdict);
    vd_sha256_hash(&s, &what->half[0]);
    vd_sha256_hash(&s, &what->half[1]);
    vd_sha256_hash(&s, &what->nonce);
    return finish(&s);
}

bool vd_audit_halves_fit(const struct vd_receipt *r, const struct vd_hash half[2])
{
    struct vd_hash h = vd_receipt_n_steps(r) > 1 ? vd_merkle_node(&half[0], &half[1])
                                                 : vd_commit_leaf(0, &half[0], &half[1]);
    return vd_hash_eq(&h, &r->commit_root);
}

struct vd_hash vd_trap_commitment(const struct vd_hash *secret, const struct vd_hash *escrow_id,
                                  uint64_t sequence)
{
    struct vd_sha256 s;
    vd_sha256_init_tag(&s, "veridem/trap-plant");
    vd_sha256_hash(&s, secret);
    vd_sha256_hash(&s, escrow_id);
    vd_sha256_u64(&s, sequence);
    return finish(&s);
}

struct vd_hash vd_trap_leaf(const struct vd_hash *secret)
{
    struct vd_sha256 s;
    vd_sha256_init(&s);
    vd_sha256_update(&s, "\0veridem/trap",
                     sizeof "\0veridem/trap"); /* a leaf begins with 0x00; the tag ends with NUL */
    vd_sha256_hash(&s, secret);
    return finish(&s);
}
