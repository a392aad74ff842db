/* The key-value state that the ledger needs, declared here and implemented by src/court/store (LMDB), by
 * tests (an array) and by vd_overlay (changes on top of another).
 *
 * Keys are ordered as memcmp orders them, a prefix before what it begins. Keys whose first byte is below
 * VD_KVS_INDEX are the ledger's state: they stand in the state root. The others are indexes for queries that
 * replaying the blocks gives again; they never decide what a transaction does.
 *
 * Ranges that `get` and `next` return are borrowed: valid until the state below is written to.
 * Thread rule: one thread per vd_kvs. */
#ifndef VD_KVS_H
#define VD_KVS_H

#include "vd_arena.h"
#include "vd_bytes.h"

enum {
    VD_KVS_KEY_MAX_BYTES = 97,
    VD_KVS_VALUE_MAX_BYTES = 128 << 10,
    VD_KVS_INDEX = 0x80,
};

struct vd_kvs {
    /* True and *value if the key is there. */
    bool (*get)(struct vd_kvs *kv, struct vd_bytes key, struct vd_bytes *value);
    /* The first key that is >= `from` (or > `from` if `after`) and begins with `prefix`. *key and *value may
     * be what `from` points to. */
    bool (*next)(struct vd_kvs *kv, struct vd_bytes prefix, struct vd_bytes from, bool after,
                 struct vd_bytes *key, struct vd_bytes *value);
    bool failed; /* set, and never cleared, by an implementation whose storage failed: answers mean nothing */
};

/* Changes over a base that is only read. Ordered; kept in a treap in the caller's arena, whose priorities are
 * a hash of the key, so the shape (and the time) depends on the keys alone. */
struct vd_overlay_node;
struct vd_overlay_undo;
struct vd_overlay {
    struct vd_kvs kv; /* first: a vd_overlay is a vd_kvs */
    struct vd_kvs *base;
    struct vd_arena *arena;
    struct vd_overlay_node *root;
    struct vd_overlay_undo *undo;
    size_t n_changes;
    size_t mark_bytes; /* of the arena, at the last mark */
    bool full;         /* the arena was too small; nothing read from here means anything any more */
};

void vd_overlay_init(struct vd_overlay *o, struct vd_kvs *base, struct vd_arena *arena);
/* Key and value are copied into the arena. key.n <= VD_KVS_KEY_MAX_BYTES, value.n <= VD_KVS_VALUE_MAX_BYTES.
 */
void vd_overlay_put(struct vd_overlay *o, struct vd_bytes key, struct vd_bytes value);
void vd_overlay_delete(struct vd_overlay *o, struct vd_bytes key);

/* vd_overlay_mark forgets how to undo what came before; vd_overlay_rollback undoes everything since the last
 * mark and gives back all that the arena has handed out since then, to whomever. */
void vd_overlay_mark(struct vd_overlay *o);
void vd_overlay_rollback(struct vd_overlay *o);

/* Calls fn for every change, in the order of keys; value.p is NULL for a deletion. Stops and returns false
 * when fn does. */
typedef bool vd_overlay_fn(void *arg, struct vd_bytes key, struct vd_bytes value);
bool vd_overlay_each(const struct vd_overlay *o, vd_overlay_fn *fn, void *arg);

#endif
