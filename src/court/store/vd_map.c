/* A node's record is named by its path: the `depth` bits that lead to it, then a 1 bit, padded with zeros. No
 * two paths give the same name, names are short (a million keys: 3 bytes), and their order is the tree's
 * order from left to right, so nodes that lie together in the tree lie together in the database.
 *
 * An update goes down once with all changes, sorted, splitting them at each node, and rehashes each touched
 * node once on the way up. Where no node stands yet, or a single leaf, `build` makes the subtree from the
 * changes (and that leaf); where deletions leave a single leaf, it moves up: the shape is a function of the
 * set of keys alone. */
#include "vd_map.h"
#include "vd_merkle.h"
#include "vd_pb.h"

#include <stdlib.h>

enum kind { EMPTY, LEAF, INNER };

struct subtree {
    enum kind kind;
    struct vd_hash hash;
    struct vd_hash a, b; /* LEAF: key hash, value hash; INNER: left, right */
};

struct vd_hash vd_map_hash(struct vd_bytes key_or_value)
{
    return vd_sha256_of(key_or_value.p, key_or_value.n);
}

static struct vd_hash leaf_hash(const struct vd_hash *key_hash, const struct vd_hash *value_hash)
{
    struct vd_sha256 s;
    struct vd_hash h;
    vd_sha256_init(&s);
    vd_sha256_update(&s, "\0veridem/map", sizeof "\0veridem/map");
    vd_sha256_hash(&s, key_hash);
    vd_sha256_hash(&s, value_hash);
    vd_sha256_final(&s, &h);
    return h;
}

static unsigned bit_of(const struct vd_hash *h, unsigned i)
{
    return h->b[i / 8] >> (7 - i % 8) & 1;
}

static struct vd_hash with_bit(struct vd_hash path, unsigned i, unsigned bit)
{
    uint8_t mask = (uint8_t)(0x80 >> i % 8);
    path.b[i / 8] = (uint8_t)(bit ? path.b[i / 8] | mask : path.b[i / 8] & ~mask);
    return path;
}

struct node_key {
    uint8_t b[VD_MAP_NODE_KEY_MAX_BYTES];
    size_t n;
};

static struct node_key node_key(const struct vd_hash *path, unsigned depth)
{
    struct node_key k = {.n = depth / 8 + 1};
    memcpy(k.b, path->b, depth / 8);
    uint8_t last = depth % 8 ? (uint8_t)(path->b[depth / 8] & (0xff00 >> depth % 8)) : 0;
    k.b[depth / 8] = last | (uint8_t)(0x80 >> depth % 8);
    return k;
}

static bool load(const struct vd_map_nodes *nodes, const struct vd_hash *path, unsigned depth,
                 struct subtree *out)
{
    struct node_key k = node_key(path, depth);
    struct vd_bytes v;
    *out = (struct subtree){.kind = EMPTY};
    if (!nodes->get(nodes->ctx, (struct vd_bytes){k.b, k.n}, &v))
        return false;
    if (!v.p)
        return true;
    bool known =
        v.n == VD_MAP_NODE_MAX_BYTES && (v.p[0] == LEAF || (v.p[0] == INNER && depth < VD_MAP_DEPTH_MAX));
    if (!known)
        return false;
    out->kind = v.p[0] == LEAF ? LEAF : INNER;
    memcpy(out->a.b, v.p + 1, VD_HASH_BYTES);
    memcpy(out->b.b, v.p + 1 + VD_HASH_BYTES, VD_HASH_BYTES);
    out->hash = out->kind == LEAF ? leaf_hash(&out->a, &out->b) : vd_merkle_node(&out->a, &out->b);
    return true;
}

/* Makes *s a LEAF or INNER of (a, b) and writes its record. */
static bool store(const struct vd_map_nodes *nodes, const struct vd_hash *path, unsigned depth,
                  enum kind kind, const struct vd_hash *a, const struct vd_hash *b, struct subtree *s)
{
    struct node_key k = node_key(path, depth);
    uint8_t v[VD_MAP_NODE_MAX_BYTES] = {(uint8_t)kind};
    memcpy(v + 1, a->b, VD_HASH_BYTES);
    memcpy(v + 1 + VD_HASH_BYTES, b->b, VD_HASH_BYTES);
    struct subtree made = {kind, kind == LEAF ? leaf_hash(a, b) : vd_merkle_node(a, b), *a, *b};
    *s = made;
    return nodes->put(nodes->ctx, (struct vd_bytes){k.b, k.n}, (struct vd_bytes){v, sizeof v});
}

static bool erase(const struct vd_map_nodes *nodes, const struct vd_hash *path, unsigned depth)
{
    struct node_key k = node_key(path, depth);
    return nodes->del(nodes->ctx, (struct vd_bytes){k.b, k.n});
}

/* How many of the changes go left at `depth`. */
static size_t split_at(const struct vd_map_change *c, size_t n, unsigned depth)
{
    size_t i = 0;
    while (i < n && bit_of(&c[i].key_hash, depth) == 0)
        i++;
    return i;
}

/* The subtree of the changes' insertions and of `carried` (NULL: none; its key is not among the changes),
 * where no node record stands, but perhaps one that is overwritten at (path, depth). */
static bool build(const struct vd_map_nodes *nodes, const struct vd_hash *path, unsigned depth,
                  const struct vd_map_change *c, size_t n, const struct vd_map_change *carried,
                  struct subtree *out)
{
    const struct vd_map_change *one = carried;
    size_t live = carried != NULL;
    for (size_t i = 0; i < n; i++)
        if (!c[i].deleted) {
            one = &c[i];
            live++;
        }
    *out = (struct subtree){.kind = EMPTY};
    if (live == 0)
        return true;
    if (live == 1)
        return store(nodes, path, depth, LEAF, &one->key_hash, &one->value_hash, out);
    size_t left = split_at(c, n, depth);
    unsigned side = carried ? bit_of(&carried->key_hash, depth) : 0;
    struct vd_hash lpath = with_bit(*path, depth, 0), rpath = with_bit(*path, depth, 1);
    struct subtree l, r;
    return build(nodes, &lpath, depth + 1, c, left, side == 0 ? carried : NULL, &l) &&
           build(nodes, &rpath, depth + 1, c + left, n - left, side == 1 ? carried : NULL, &r) &&
           store(nodes, path, depth, INNER, &l.hash, &r.hash, out);
}

static bool update(const struct vd_map_nodes *nodes, const struct vd_hash *path, unsigned depth,
                   const struct vd_map_change *c, size_t n, struct subtree *out);

/* What stood here was one leaf. */
static bool update_leaf(const struct vd_map_nodes *nodes, const struct vd_hash *path, unsigned depth,
                        const struct vd_map_change *c, size_t n, const struct subtree *old,
                        struct subtree *out)
{
    struct vd_map_change carried = {old->a, old->b, false};
    const struct vd_map_change *keep = &carried;
    for (size_t i = 0; i < n; i++)
        if (vd_hash_eq(&c[i].key_hash, &carried.key_hash))
            keep = NULL; /* replaced or deleted */
    if (!build(nodes, path, depth, c, n, keep, out))
        return false;
    return out->kind != EMPTY || erase(nodes, path, depth);
}

/* One side of an inner node: updated if it has changes, else known by its hash and loaded only when asked
 * for. */
static bool update_side(const struct vd_map_nodes *nodes, const struct vd_hash *path, unsigned depth,
                        const struct vd_map_change *c, size_t n, const struct vd_hash *old_hash,
                        struct subtree *out)
{
    if (n)
        return update(nodes, path, depth, c, n, out);
    *out = (struct subtree){.kind = vd_hash_is_zero(old_hash) ? EMPTY : INNER, .hash = *old_hash};
    return true;
}

static bool update_inner(const struct vd_map_nodes *nodes, const struct vd_hash *path, unsigned depth,
                         const struct vd_map_change *c, size_t n, const struct subtree *old,
                         struct subtree *out)
{
    struct vd_hash side_path[2] = {with_bit(*path, depth, 0), with_bit(*path, depth, 1)};
    size_t left = split_at(c, n, depth);
    struct subtree s[2];
    if (!update_side(nodes, &side_path[0], depth + 1, c, left, &old->a, &s[0]) ||
        !update_side(nodes, &side_path[1], depth + 1, c + left, n - left, &old->b, &s[1]))
        return false;
    if (s[0].kind == EMPTY && s[1].kind == EMPTY) {
        *out = s[0];
        return erase(nodes, path, depth);
    }
    for (unsigned i = 0; i < 2; i++) {
        if (s[1 - i].kind != EMPTY)
            continue;
        /* Alone on its side: if it is a leaf, it moves up. */
        if (!load(nodes, &side_path[i], depth + 1, &s[i]))
            return false;
        if (s[i].kind == LEAF)
            return erase(nodes, &side_path[i], depth + 1) &&
                   store(nodes, path, depth, LEAF, &s[i].a, &s[i].b, out);
    }
    return store(nodes, path, depth, INNER, &s[0].hash, &s[1].hash, out);
}

static bool update(const struct vd_map_nodes *nodes, const struct vd_hash *path, unsigned depth,
                   const struct vd_map_change *c, size_t n, struct subtree *out)
{
    struct subtree old;
    if (!load(nodes, path, depth, &old))
        return false;
    switch (old.kind) {
    case EMPTY:
        return build(nodes, path, depth, c, n, NULL, out);
    case LEAF:
        return update_leaf(nodes, path, depth, c, n, &old, out);
    case INNER:
        return update_inner(nodes, path, depth, c, n, &old, out);
    }
    return false;
}

static int change_cmp(const void *a, const void *b)
{
    const struct vd_map_change *x = a, *y = b;
    return memcmp(x->key_hash.b, y->key_hash.b, VD_HASH_BYTES); /* no ties: each key once */
}

bool vd_map_update(const struct vd_map_nodes *nodes, struct vd_map_change *change, size_t n,
                   struct vd_hash *root)
{
    struct vd_hash top = {{0}};
    struct subtree s;
    if (n)
        qsort(change, n, sizeof *change, change_cmp);
    if (n ? !update(nodes, &top, 0, change, n, &s) : !load(nodes, &top, 0, &s))
        return false;
    *root = s.hash;
    return true;
}

bool vd_map_root(const struct vd_map_nodes *nodes, struct vd_hash *root)
{
    return vd_map_update(nodes, NULL, 0, root);
}

bool vd_map_prove(const struct vd_map_nodes *nodes, const struct vd_hash *key_hash, struct vd_map_proof *out)
{
    struct subtree s;
    memset(out, 0, sizeof *out);
    for (;;) {
        if (!load(nodes, key_hash, out->n_siblings, &s))
            return false;
        if (s.kind != INNER)
            break;
        if (out->n_siblings == VD_MAP_DEPTH_MAX)
            return false;
        out->sibling[out->n_siblings] = bit_of(key_hash, out->n_siblings) ? s.a : s.b;
        out->n_siblings++;
    }
    out->has_leaf = s.kind == LEAF;
    out->leaf_key_hash = s.a;
    out->leaf_value_hash = s.b;
    return true;
}

enum vd_map_verdict vd_map_verify(const struct vd_hash *root, const struct vd_hash *key_hash,
                                  const struct vd_map_proof *proof, struct vd_hash *value_hash)
{
    struct vd_hash h = {{0}};
    if (proof->n_siblings > VD_MAP_DEPTH_MAX)
        return VD_MAP_BAD_PROOF;
    if (proof->has_leaf)
        h = leaf_hash(&proof->leaf_key_hash, &proof->leaf_value_hash);
    /* The turns are those of key_hash, so a leaf that stands elsewhere in the tree gives another root. */
    for (uint32_t i = proof->n_siblings; i-- > 0;)
        h = bit_of(key_hash, i) ? vd_merkle_node(&proof->sibling[i], &h)
                                : vd_merkle_node(&h, &proof->sibling[i]);
    if (!vd_hash_eq(&h, root))
        return VD_MAP_BAD_PROOF;
    if (!proof->has_leaf || !vd_hash_eq(&proof->leaf_key_hash, key_hash))
        return VD_MAP_ABSENT;
    *value_hash = proof->leaf_value_hash;
    return VD_MAP_PRESENT;
}

size_t vd_map_proof_encode(const struct vd_map_proof *p, uint8_t *buf, size_t cap_bytes)
{
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    for (uint32_t i = 0; i < p->n_siblings; i++) /* an empty side is an empty string */
        vd_pb_put_elem(&w, 1, p->sibling[i].b, vd_hash_is_zero(&p->sibling[i]) ? 0 : VD_HASH_BYTES);
    vd_pb_put_u64(&w, 2, p->has_leaf);
    if (p->has_leaf) {
        vd_pb_put_elem(&w, 3, p->leaf_key_hash.b, VD_HASH_BYTES);
        vd_pb_put_elem(&w, 4, p->leaf_value_hash.b, VD_HASH_BYTES);
    }
    return w.overflow ? 0 : w.n_bytes;
}

bool vd_map_proof_decode(struct vd_bytes in, struct vd_map_proof *out)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    struct vd_bytes b;
    memset(out, 0, sizeof *out);
    while (vd_pb_next_elem(&r, 1, &b, VD_HASH_BYTES)) {
        if (out->n_siblings == VD_MAP_DEPTH_MAX || (b.n != 0 && b.n != VD_HASH_BYTES))
            return false;
        struct vd_hash *s = &out->sibling[out->n_siblings++];
        if (b.n)
            memcpy(s->b, b.p, VD_HASH_BYTES);
        if (b.n && vd_hash_is_zero(s))
            return false;
    }
    out->has_leaf = vd_pb_get_u64(&r, 2, 1) != 0;
    if (out->has_leaf) {
        vd_pb_get_fixed(&r, 3, out->leaf_key_hash.b, VD_HASH_BYTES);
        vd_pb_get_fixed(&r, 4, out->leaf_value_hash.b, VD_HASH_BYTES);
    }
    return vd_pb_done(&r);
}
