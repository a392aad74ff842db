/* An authenticated map: one 32-byte root over any number of (key, value), with proofs that a key has a value
 * or that it is absent (docs/spec/ledger.md, state root).
 *
 * A compact sparse Merkle tree over the bits of H(key), most significant first:
 *
 *     no key in the subtree        32 zero bytes
 *     one key                      H(0x00, "veridem/map", NUL, H(key), H(value))
 *     more                         H(0x01, left, right)       left: next bit 0
 *
 * Insert, update and delete touch O(log n) nodes. Nodes are kept in a node store of the caller's, one record
 * per non-empty subtree, named by its path; the root does not depend on the order in which keys came.
 *
 * Thread rule: pure functions of their arguments and the node store. */
#ifndef VD_MAP_H
#define VD_MAP_H

#include "vd_bytes.h"
#include "vd_sha256.h"

enum {
    VD_MAP_DEPTH_MAX = 256,
    VD_MAP_NODE_KEY_MAX_BYTES = 33,
    VD_MAP_NODE_MAX_BYTES = 65,
};

/* The node store. All three return false if the storage failed; the update then stops with false. */
struct vd_map_nodes {
    bool (*get)(void *ctx, struct vd_bytes key,
                struct vd_bytes *value); /* value->p NULL: absent; copied at once */
    bool (*put)(void *ctx, struct vd_bytes key, struct vd_bytes value);
    bool (*del)(void *ctx, struct vd_bytes key);
    void *ctx;
};

struct vd_map_change {
    struct vd_hash key_hash;
    struct vd_hash value_hash; /* unused for a deletion */
    bool deleted;
};
struct vd_hash vd_map_hash(struct vd_bytes key_or_value); /* SHA-256 of the bytes */

/* Sorts `change` by key hash (each at most once) and applies all. *root is the new root. Deleting what is
 * absent changes nothing. */
bool vd_map_update(const struct vd_map_nodes *nodes, struct vd_map_change *change, size_t n,
                   struct vd_hash *root);
bool vd_map_root(const struct vd_map_nodes *nodes, struct vd_hash *root);

/* The path from the root to where the key is or would be. */
struct vd_map_proof {
    uint32_t n_siblings;
    struct vd_hash sibling[VD_MAP_DEPTH_MAX]; /* from the root down */
    bool has_leaf; /* a leaf stands at the end of the path (for an absent key: another key's); else it is
                      empty */
    struct vd_hash leaf_key_hash, leaf_value_hash;
};
bool vd_map_prove(const struct vd_map_nodes *nodes, const struct vd_hash *key_hash, struct vd_map_proof *out);

enum vd_map_verdict {
    VD_MAP_BAD_PROOF, /* proves nothing about this root */
    VD_MAP_PRESENT,   /* key is there with *value_hash */
    VD_MAP_ABSENT,
};
enum vd_map_verdict vd_map_verify(const struct vd_hash *root, const struct vd_hash *key_hash,
                                  const struct vd_map_proof *proof, struct vd_hash *value_hash);

enum { VD_MAP_PROOF_MAX_BYTES = 9 << 10 };
/* Canonical bytes of a proof (vd_pb.h). */
size_t vd_map_proof_encode(const struct vd_map_proof *p, uint8_t *buf, size_t cap_bytes);
bool vd_map_proof_decode(struct vd_bytes in, struct vd_map_proof *out);

#endif
