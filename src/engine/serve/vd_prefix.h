/* The prefix cache: sequences that finished jobs left behind, by account.
 *
 * An entry is a sequence of the KV cache and the tokens at its positions. Entries of other accounts are never
 * looked at. The least recently used goes first when memory is wanted; an entry that a longer one of its
 * account begins with is dropped at once, if that one can serve in its place.
 *
 * Of a model with windows an entry has the windows before its end and not those of the positions before
 * (vd_kv.h): it serves who begins with all of it, or all but its last tokens. So the engine puts the
 * beginnings that are likely to be wanted as entries of their own, before their windows go.
 *
 * Ownership: owns the sequences that are put. Thread rule: one thread at a time. */
#ifndef VD_PREFIX_H
#define VD_PREFIX_H

#include "vd_kv.h"

enum { VD_PREFIX_MAX = 256 };

struct vd_prefix_entry {
    struct vd_hash account;
    uint32_t *tokens;
    size_t n;
    struct vd_kv *kv;
    uint64_t last_used;
};

struct vd_prefix {
    struct vd_prefix_entry entry[VD_PREFIX_MAX];
    size_t n_entries;
    uint64_t clock;
};

/* A new sequence that holds the longest prefix of tokens[0 .. n) that the account has; empty if it has none.
 * *lost: the longest that it had, if its windows have gone and it is longer, else 0. Fails only as vd_kv_open
 * does. */
enum vd_err vd_prefix_take(struct vd_prefix *c, struct vd_kv_pool *pool, const struct vd_hash *account,
                           const uint32_t *tokens, size_t n, struct vd_kv **out, size_t *lost,
                           struct vd_error *err);
/* Keeps kv (its length is at most n) for the account, or closes it if there is nothing to gain or no memory.
 */
void vd_prefix_put(struct vd_prefix *c, const struct vd_hash *account, const uint32_t *tokens,
                   struct vd_kv *kv);
/* Drops the least recently used entry; false if there is none. */
bool vd_prefix_evict(struct vd_prefix *c);
/* Would dropping every entry make room for kv to be n_pos positions long? For a fork of it? */
bool vd_prefix_can_make_room(const struct vd_prefix *c, const struct vd_kv *kv, size_t n_pos);
bool vd_prefix_can_make_fork(const struct vd_prefix *c, const struct vd_kv *kv, size_t n_pos);
/* Drops every entry. */
void vd_prefix_clear(struct vd_prefix *c);

#endif
