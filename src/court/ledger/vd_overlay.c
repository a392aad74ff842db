/* The changes of a block, ordered, over a base that is only read.
 *
 * A treap whose priorities are a hash of the key: expected depth O(log n), the same shape whatever the order
 * of insertion, no rebalancing state, and a page of code. Somebody who grinds keys for a deep treap gains
 * little: a block has at most some ten thousand of them, and most keys hold hashes that he would have to
 * grind as well.
 *
 * Values are never changed in place: a put hangs a new copy under the node and notes the old one. Undoing a
 * refused transaction walks the notes backwards, takes new nodes out again and gives the arena's memory back,
 * so refused transactions cost nothing that lasts. */
#include "vd_kvs.h"

#include <assert.h>

struct vd_overlay_node {
    struct vd_overlay_node *left, *right;
    struct vd_bytes key, value;
    uint64_t priority;
    bool deleted;
};

struct vd_overlay_undo {
    struct vd_overlay_undo *older;
    struct vd_overlay_node *node;
    struct vd_bytes value;
    bool deleted;
    bool inserted; /* the node was new */
};

static int key_cmp(struct vd_bytes a, struct vd_bytes b)
{
    size_t n = a.n < b.n ? a.n : b.n;
    int c = n ? memcmp(a.p, b.p, n) : 0;
    return c ? c : (a.n > b.n) - (a.n < b.n);
}

static bool has_prefix(struct vd_bytes key, struct vd_bytes prefix)
{
    return key.n >= prefix.n && (prefix.n == 0 || memcmp(key.p, prefix.p, prefix.n) == 0);
}

/* FNV-1a, then a finishing mix: enough to spread priorities. */
static uint64_t key_priority(struct vd_bytes key)
{
    uint64_t h = UINT64_C(0xCBF29CE484222325);
    for (size_t i = 0; i < key.n; i++)
        h = (h ^ key.p[i]) * UINT64_C(0x100000001B3);
    h = (h ^ (h >> 32)) * UINT64_C(0x9E3779B97F4A7C15);
    return h ^ (h >> 29);
}

static struct vd_overlay_node *find(const struct vd_overlay *o, struct vd_bytes key)
{
    struct vd_overlay_node *n = o->root;
    int c;
    while (n && (c = key_cmp(key, n->key)) != 0)
        n = c < 0 ? n->left : n->right;
    return n;
}

static bool copy_bytes(struct vd_overlay *o, struct vd_bytes in, struct vd_bytes *out)
{
    uint8_t *p = vd_arena_alloc(o->arena, in.n + 1, 1); /* + 1: an empty value is not NULL */
    if (!p) {
        o->full = true;
        return false;
    }
    if (in.n)
        memcpy(p, in.p, in.n);
    *out = (struct vd_bytes){p, in.n};
    return true;
}

/* Splits t into keys below `key` and keys above it; `key` is not in t. */
static void split(struct vd_overlay_node *t, struct vd_bytes key, struct vd_overlay_node **below,
                  struct vd_overlay_node **above)
{
    while (t) {
        if (key_cmp(t->key, key) < 0) {
            *below = t;
            below = &t->right;
            t = t->right;
        } else {
            *above = t;
            above = &t->left;
            t = t->left;
        }
    }
    *below = *above = NULL;
}

static struct vd_overlay_node *insert(struct vd_overlay *o, struct vd_bytes key)
{
    struct vd_overlay_node *n = vd_arena_alloc(o->arena, sizeof *n, _Alignof(struct vd_overlay_node));
    if (!n) {
        o->full = true;
        return NULL;
    }
    *n = (struct vd_overlay_node){0};
    if (!copy_bytes(o, key, &n->key))
        return NULL;
    n->priority = key_priority(key);
    struct vd_overlay_node **at = &o->root;
    while (*at && (*at)->priority >= n->priority)
        at = key_cmp(key, (*at)->key) < 0 ? &(*at)->left : &(*at)->right;
    split(*at, key, &n->left, &n->right);
    *at = n;
    return n;
}

/* Joins two treaps; all keys of `below` are below those of `above`. */
static struct vd_overlay_node *merge(struct vd_overlay_node *below, struct vd_overlay_node *above)
{
    struct vd_overlay_node *top, **at = &top;
    while (below && above) {
        if (below->priority > above->priority) {
            *at = below;
            at = &below->right;
            below = below->right;
        } else {
            *at = above;
            at = &above->left;
            above = above->left;
        }
    }
    *at = below ? below : above;
    return top;
}

static void take_out(struct vd_overlay *o, const struct vd_overlay_node *n)
{
    struct vd_overlay_node **at = &o->root;
    while (*at != n)
        at = key_cmp(n->key, (*at)->key) < 0 ? &(*at)->left : &(*at)->right;
    *at = merge(n->left, n->right);
}

static void set(struct vd_overlay *o, struct vd_bytes key, bool deleted, struct vd_bytes value)
{
    assert(key.n > 0 && key.n <= VD_KVS_KEY_MAX_BYTES && value.n <= VD_KVS_VALUE_MAX_BYTES);
    struct vd_overlay_undo *u = vd_arena_alloc(o->arena, sizeof *u, _Alignof(struct vd_overlay_undo));
    if (!u || (!deleted && !copy_bytes(o, value, &value))) {
        o->full = true;
        return;
    }
    struct vd_overlay_node *n = find(o, key);
    *u = (struct vd_overlay_undo){.older = o->undo, .inserted = !n};
    if (!n && !(n = insert(o, key)))
        return;
    u->node = n;
    u->value = n->value;
    u->deleted = n->deleted;
    o->undo = u;
    o->n_changes += u->inserted;
    n->deleted = deleted;
    n->value = value;
}

void vd_overlay_put(struct vd_overlay *o, struct vd_bytes key, struct vd_bytes value)
{
    set(o, key, false, value);
}

void vd_overlay_delete(struct vd_overlay *o, struct vd_bytes key)
{
    set(o, key, true, (struct vd_bytes){NULL, 0});
}

void vd_overlay_mark(struct vd_overlay *o)
{
    o->undo = NULL;
    o->mark_bytes = o->arena->used_bytes;
}

void vd_overlay_rollback(struct vd_overlay *o)
{
    for (; o->undo; o->undo = o->undo->older) {
        o->undo->node->value = o->undo->value;
        o->undo->node->deleted = o->undo->deleted;
        if (o->undo->inserted) {
            take_out(o, o->undo->node);
            o->n_changes--;
        }
    }
    o->arena->used_bytes = o->mark_bytes;
}

static bool overlay_get(struct vd_kvs *kv, struct vd_bytes key, struct vd_bytes *value)
{
    struct vd_overlay *o = (struct vd_overlay *)kv;
    struct vd_overlay_node *n = find(o, key);
    if (n) {
        *value = n->value;
        return !n->deleted;
    }
    bool found = o->base->get(o->base, key, value);
    kv->failed |= o->base->failed;
    return found;
}

/* The smallest node whose key is > key, or >= unless `after`. */
static struct vd_overlay_node *find_next(const struct vd_overlay *o, struct vd_bytes key, bool after)
{
    struct vd_overlay_node *best = NULL;
    for (struct vd_overlay_node *n = o->root; n;) {
        int c = key_cmp(n->key, key);
        if (c > 0 || (c == 0 && !after)) {
            best = n;
            n = n->left;
        } else {
            n = n->right;
        }
    }
    return best;
}

static bool overlay_next(struct vd_kvs *kv, struct vd_bytes prefix, struct vd_bytes from, bool after,
                         struct vd_bytes *key, struct vd_bytes *value)
{
    struct vd_overlay *o = (struct vd_overlay *)kv;
    if (key_cmp(from, prefix) < 0) {
        from = prefix;
        after = false;
    }
    for (;;) {
        struct vd_bytes base_key, base_value;
        struct vd_overlay_node *n = find_next(o, from, after);
        if (n && !has_prefix(n->key, prefix))
            n = NULL;
        bool in_base = o->base->next(o->base, prefix, from, after, &base_key, &base_value);
        kv->failed |= o->base->failed;
        int c = !n ? 1 : !in_base ? -1 : key_cmp(n->key, base_key);
        if (!n && !in_base)
            return false;
        if (c > 0) {
            *key = base_key;
            *value = base_value;
            return true;
        }
        if (!n->deleted) {
            *key = n->key;
            *value = n->value;
            return true;
        }
        from = n->key; /* deleted: it hides a base key that is equal */
        after = true;
    }
}

void vd_overlay_init(struct vd_overlay *o, struct vd_kvs *base, struct vd_arena *arena)
{
    *o = (struct vd_overlay){.kv = {overlay_get, overlay_next, false}, .base = base, .arena = arena};
    vd_overlay_mark(o);
}

static bool each(const struct vd_overlay_node *n, vd_overlay_fn *fn, void *arg)
{
    if (!n)
        return true;
    if (!each(n->left, fn, arg))
        return false;
    if (!fn(arg, n->key, n->deleted ? (struct vd_bytes){NULL, 0} : n->value))
        return false;
    return each(n->right, fn, arg);
}

bool vd_overlay_each(const struct vd_overlay *o, vd_overlay_fn *fn, void *arg)
{
    return each(o->root, fn, arg);
}
