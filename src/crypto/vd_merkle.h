/* Binary Merkle trees as RFC 6962 (section 2.1) shapes them: for n > 1 leaves the left subtree has the
 * largest power of two below n. Node = SHA-256(0x01 || left || right). A leaf hash is the caller's: it must
 * be made with a first byte of 0x00 (vd_merkle_leaf, or a tagged hash whose input starts with 0x00), so that
 * no leaf can pass for a node. The tree size is never taken from a proof: the caller knows it from something
 * signed.
 *
 * No allocation; recursion is at most 64 deep. Thread rule: pure functions. */
#ifndef VD_MERKLE_H
#define VD_MERKLE_H

#include "vd_sha256.h"

struct vd_hash vd_merkle_leaf(const void *p, size_t n_bytes); /* SHA-256(0x00 || p) */
struct vd_hash vd_merkle_node(const struct vd_hash *left, const struct vd_hash *right);

/* Root over n leaf hashes; n == 0 gives SHA-256 of the empty string. */
struct vd_hash vd_merkle_root(const struct vd_hash *leaf, size_t n);
/* The same of many trees of n leaves each, n >= 1: leaf k of tree i is h[k * n_trees + i], and h[i] becomes
 * the root of tree i. The rest of h is scratch. */
void vd_merkle_roots(struct vd_hash *h, size_t n, size_t n_trees);

/* How many of n >= 1 leaves are left of the root: the largest power of two below n; of one leaf, 1. */
uint64_t vd_merkle_left(uint64_t n);

/* Builds a root leaf by leaf in O(log n) memory: for streams whose length is not known. */
struct vd_merkle_stream {
    uint64_t n;
    struct vd_hash peak[64];
};
void vd_merkle_stream_init(struct vd_merkle_stream *s);
void vd_merkle_stream_add(struct vd_merkle_stream *s, const struct vd_hash *leaf);
/* The same for n leaves, the faster the more: best in portions of 64. */
void vd_merkle_stream_add_all(struct vd_merkle_stream *s, const struct vd_hash *leaf, size_t n);
struct vd_hash vd_merkle_stream_root(const struct vd_merkle_stream *s);

/* Range proofs: leaves [first, first + count) of a tree of n, count >= 1. The proof holds the roots of the
 * maximal subtrees outside the range, in the order in which a left-to-right walk of the tree meets them. A
 * proof of a single leaf is the case count == 1. */
size_t vd_merkle_range_proof_len(size_t n, size_t first, size_t count);
/* Fills proof[vd_merkle_range_proof_len(...)] from all n leaf hashes. */
void vd_merkle_range_prove(const struct vd_hash *leaf, size_t n, size_t first, size_t count,
                           struct vd_hash *proof);
/* The root that the range's leaf hashes and the proof imply: compare it with the trusted one. Requires
 * first + count <= n, and proof of exactly vd_merkle_range_proof_len(n, first, count) hashes. */
struct vd_hash vd_merkle_range_root(size_t n, size_t first, size_t count, const struct vd_hash *leaf,
                                    const struct vd_hash *proof);

/* Descent: the tree is shown a few levels at a time. A subtree is a leaf range [first, first + count) that
 * the shape of the tree contains; the whole tree is (0, n). `levels` below it there are at most 2^levels
 * nodes, fewer where a branch ends early (a leaf above that depth stands for itself). */
struct vd_merkle_span {
    uint64_t first, count;
};
/* Writes the spans of those nodes, left to right, to out[cap] if cap suffices; returns how many there are. */
size_t vd_merkle_spans(struct vd_merkle_span top, unsigned levels, struct vd_merkle_span *out, size_t cap);
/* The hash of `top` that its n_nodes descendants (as vd_merkle_spans lists them) imply. */
struct vd_hash vd_merkle_spans_root(struct vd_merkle_span top, unsigned levels, const struct vd_hash *node,
                                    size_t n_nodes);

#endif
