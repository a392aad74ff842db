/* All walks are the same recursion on (first leaf, number of leaves); the split is the one rule of RFC 6962.
 */
#include "vd_merkle.h"

#include <assert.h>

enum { GROUP_LOG2 = 6, GROUP = 1 << GROUP_LOG2 };

struct vd_hash vd_merkle_leaf(const void *p, size_t n_bytes)
{
    struct vd_sha256 s;
    struct vd_hash h;
    vd_sha256_init(&s);
    vd_sha256_update(&s, "\0", 1);
    vd_sha256_update(&s, p, n_bytes);
    vd_sha256_final(&s, &h);
    return h;
}

struct vd_hash vd_merkle_node(const struct vd_hash *left, const struct vd_hash *right)
{
    uint8_t buf[1 + 2 * VD_HASH_BYTES];
    buf[0] = 1;
    memcpy(buf + 1, left->b, VD_HASH_BYTES);
    memcpy(buf + 1 + VD_HASH_BYTES, right->b, VD_HASH_BYTES);
    return vd_sha256_of(buf, sizeof buf);
}

uint64_t vd_merkle_left(uint64_t n)
{
    assert(n >= 1);
    return n > 1 ? UINT64_C(1) << (63 - __builtin_clzll(n - 1)) : 1;
}

struct vd_hash vd_merkle_root(const struct vd_hash *leaf, size_t n)
{
    struct vd_merkle_stream s;
    vd_merkle_stream_init(&s);
    vd_merkle_stream_add_all(&s, leaf, n);
    return vd_merkle_stream_root(&s);
}

void vd_merkle_stream_init(struct vd_merkle_stream *s)
{
    s->n = 0;
}

/* peak[i] is the root of a full subtree of 2^i leaves wherever bit i of n is set. Here one of 2^level leaves
 * comes; n is a multiple of that. */
static void add_subtree(struct vd_merkle_stream *s, unsigned level, struct vd_hash h)
{
    unsigned i = level;
    for (; s->n >> i & 1; i++)
        h = vd_merkle_node(&s->peak[i], &h);
    s->peak[i] = h;
    s->n += UINT64_C(1) << level;
}

void vd_merkle_stream_add(struct vd_merkle_stream *s, const struct vd_hash *leaf)
{
    add_subtree(s, 0, *leaf);
}

/* The n / 2 parents of n hashes, an even number up to GROUP; out may be where the hashes lie. */
static void parents(const struct vd_hash *h, size_t n, struct vd_hash *out)
{
    uint8_t buf[GROUP / 2][1 + 2 * VD_HASH_BYTES];
    for (size_t i = 0; i < n / 2; i++) {
        buf[i][0] = 1;
        memcpy(buf[i] + 1, h[2 * i].b, 2 * sizeof h[0]);
    }
    vd_sha256_many(buf, sizeof buf[0], sizeof buf[0], n / 2, out);
}

/* Subtrees of up to GROUP leaves are made level by level, and the nodes of a level together. */
void vd_merkle_stream_add_all(struct vd_merkle_stream *s, const struct vd_hash *leaf, size_t n)
{
    struct vd_hash h[GROUP / 2];
    while (n > 0) {
        unsigned level = GROUP_LOG2;
        while (n >> level == 0 || s->n & ((UINT64_C(1) << level) - 1))
            level--;
        size_t count = (size_t)1 << level;
        for (size_t k = count; k > 1; k /= 2)
            parents(k == count ? leaf : h, k, h);
        add_subtree(s, level, count == 1 ? *leaf : h[0]);
        leaf += count;
        n -= count;
    }
}

struct vd_hash vd_merkle_stream_root(const struct vd_merkle_stream *s)
{
    if (s->n == 0)
        return vd_sha256_of("", 0);
    unsigned i = (unsigned)__builtin_ctzll(s->n);
    struct vd_hash h = s->peak[i];
    for (i++; i < 64 && s->n >> i; i++)
        if (s->n >> i & 1)
            h = vd_merkle_node(&s->peak[i], &h);
    return h;
}

/* The split at the largest power of two below n is what pairing neighbours gives, with an odd one at the end
 * going up alone. A level overwrites the one below it: parent j of tree i lies no further back than its
 * children, and those of a group are read before. */
void vd_merkle_roots(struct vd_hash *h, size_t n, size_t n_trees)
{
    uint8_t buf[GROUP][1 + 2 * VD_HASH_BYTES];
    assert(n >= 1);
    for (; n > 1; n = (n + 1) / 2) {
        size_t n_nodes = n / 2 * n_trees;
        for (size_t done = 0; done < n_nodes; done += GROUP) {
            size_t some = n_nodes - done < GROUP ? n_nodes - done : GROUP;
            for (size_t i = 0; i < some; i++) {
                const struct vd_hash *left = &h[(done + i) / n_trees * 2 * n_trees + (done + i) % n_trees];
                buf[i][0] = 1;
                memcpy(buf[i] + 1, left->b, sizeof *left);
                memcpy(buf[i] + 1 + sizeof *left, left[n_trees].b, sizeof *left);
            }
            vd_sha256_many(buf, sizeof buf[0], sizeof buf[0], some, h + done);
        }
        if (n % 2)
            memmove(h + n_nodes, h + (n - 1) * n_trees, n_trees * sizeof *h);
    }
}

static bool apart(uint64_t first, uint64_t count, uint64_t lo, uint64_t n)
{
    return lo + n <= first || first + count <= lo;
}

static bool inside(uint64_t first, uint64_t count, uint64_t lo, uint64_t n)
{
    return first <= lo && lo + n <= first + count;
}

static size_t proof_len(uint64_t first, uint64_t count, uint64_t lo, uint64_t n)
{
    if (apart(first, count, lo, n))
        return 1;
    if (inside(first, count, lo, n))
        return 0;
    uint64_t k = vd_merkle_left(n);
    return proof_len(first, count, lo, k) + proof_len(first, count, lo + k, n - k);
}

size_t vd_merkle_range_proof_len(size_t n, size_t first, size_t count)
{
    assert(count >= 1 && first < n && count <= n - first);
    return proof_len(first, count, 0, n);
}

static struct vd_hash *prove(const struct vd_hash *leaf, uint64_t first, uint64_t count, uint64_t lo,
                             uint64_t n, struct vd_hash *out)
{
    if (apart(first, count, lo, n)) {
        *out = vd_merkle_root(leaf + lo, n);
        return out + 1;
    }
    if (inside(first, count, lo, n))
        return out;
    uint64_t k = vd_merkle_left(n);
    out = prove(leaf, first, count, lo, k, out);
    return prove(leaf, first, count, lo + k, n - k, out);
}

void vd_merkle_range_prove(const struct vd_hash *leaf, size_t n, size_t first, size_t count,
                           struct vd_hash *proof)
{
    assert(count >= 1 && first < n && count <= n - first);
    prove(leaf, first, count, 0, n, proof);
}

static struct vd_hash range_root(uint64_t first, uint64_t count, uint64_t lo, uint64_t n,
                                 const struct vd_hash *leaf, const struct vd_hash **proof)
{
    if (apart(first, count, lo, n))
        return *(*proof)++;
    if (inside(first, count, lo, n))
        return vd_merkle_root(leaf + (lo - first), n);
    uint64_t k = vd_merkle_left(n);
    struct vd_hash l = range_root(first, count, lo, k, leaf, proof);
    struct vd_hash r = range_root(first, count, lo + k, n - k, leaf, proof);
    return vd_merkle_node(&l, &r);
}

struct vd_hash vd_merkle_range_root(size_t n, size_t first, size_t count, const struct vd_hash *leaf,
                                    const struct vd_hash *proof)
{
    assert(count >= 1 && first < n && count <= n - first);
    return range_root(first, count, 0, n, leaf, &proof);
}

static size_t spans(struct vd_merkle_span top, unsigned levels, struct vd_merkle_span *out, size_t cap,
                    size_t at)
{
    if (levels == 0 || top.count == 1) {
        if (at < cap)
            out[at] = top;
        return at + 1;
    }
    uint64_t k = vd_merkle_left(top.count);
    at = spans((struct vd_merkle_span){top.first, k}, levels - 1, out, cap, at);
    return spans((struct vd_merkle_span){top.first + k, top.count - k}, levels - 1, out, cap, at);
}

size_t vd_merkle_spans(struct vd_merkle_span top, unsigned levels, struct vd_merkle_span *out, size_t cap)
{
    assert(top.count >= 1);
    return spans(top, levels, out, cap, 0);
}

static struct vd_hash spans_root(struct vd_merkle_span top, unsigned levels, const struct vd_hash **node)
{
    if (levels == 0 || top.count == 1)
        return *(*node)++;
    uint64_t k = vd_merkle_left(top.count);
    struct vd_hash l = spans_root((struct vd_merkle_span){top.first, k}, levels - 1, node);
    struct vd_hash r = spans_root((struct vd_merkle_span){top.first + k, top.count - k}, levels - 1, node);
    return vd_merkle_node(&l, &r);
}

struct vd_hash vd_merkle_spans_root(struct vd_merkle_span top, unsigned levels, const struct vd_hash *node,
                                    size_t n_nodes)
{
    assert(n_nodes == vd_merkle_spans(top, levels, NULL, 0));
    return spans_root(top, levels, &node);
}
