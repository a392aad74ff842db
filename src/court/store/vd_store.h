/* The ledger's state and its blocks in one LMDB file: <dir>/data.mdb.
 *
 * Four tables: `state` (the ledger's vd_kvs), `node` (vd_map's nodes, so that the state root is there at any
 * time), `block` (height -> block bytes, and events), `meta` (schema version, genesis, latest height). One
 * write transaction per block changes all of them and is synced before vd_store_commit returns; after a crash
 * LMDB shows the last committed one. A store belongs to one process: a second open of the folder is VD_EBUSY.
 *
 * The map grows (doubling) before it is full. A full disk is VD_ENOSPACE: the block is not committed, what
 * was committed stands, reads go on, and a later commit succeeds when there is room.
 *
 * Thread rule: one writer thread (begin .. commit/abort); any number of threads with views. A view sees one
 * committed state, and must be short-lived: the map cannot grow while one is open. */
#ifndef VD_STORE_H
#define VD_STORE_H

#include "vd_err.h"
#include "vd_kvs.h"
#include "vd_map.h"

/* 2: VD_INDEX_CHALLENGER_DISPUTE. A store of schema 1 gets it when it is opened, and is one of schema 2 from
 * then on. */
#define VD_STORE_SCHEMA 2

struct vd_store;

struct vd_store_config {
    uint64_t map_bytes;     /* first size of the map; 0: 64 MiB */
    uint64_t map_max_bytes; /* it never grows beyond; 0: 1 TiB */
    bool scratch; /* never sync: for copies that may be lost (replays, tests). A crash may damage such a
                     store. */
};

/* Makes the folder if need be. VD_EBUSY, VD_EVERSION (a newer schema), VD_EIO, VD_ENOSPACE, VD_EFORMAT. */
enum vd_err vd_store_open(struct vd_store **out, const char *dir, const struct vd_store_config *config,
                          struct vd_error *err);
void vd_store_close(struct vd_store *s); /* NULL allowed; no view may be open */

struct vd_store_tip {
    bool empty; /* no block yet */
    uint64_t height, time_ms;
    struct vd_hash block_hash, state_root;
};

/* --- the writer --- */
struct vd_store_writer; /* the open write transaction */
enum vd_err vd_store_begin(struct vd_store *s, struct vd_store_writer **out, struct vd_error *err);
/* The committed state (and what was applied in this transaction), until commit or abort. */
struct vd_kvs *vd_store_writer_kv(struct vd_store_writer *w);
enum vd_err vd_store_writer_tip(struct vd_store_writer *w, struct vd_store_tip *out, struct vd_error *err);
/* Writes an overlay's changes to state and map; *root is the state root after them. */
enum vd_err vd_store_apply(struct vd_store_writer *w, const struct vd_overlay *o, struct vd_arena *scratch,
                           struct vd_hash *root, struct vd_error *err);
enum vd_err vd_store_put_block(struct vd_store_writer *w, const struct vd_store_tip *tip,
                               struct vd_bytes block, struct vd_bytes events, struct vd_error *err);
enum vd_err vd_store_put_genesis(struct vd_store_writer *w, struct vd_bytes genesis, struct vd_error *err);
/* Durable when it returns VD_OK; otherwise nothing has changed. Either way w is gone. VD_EAGAIN: the map was
 * full and has grown; do the whole block again. */
enum vd_err vd_store_commit(struct vd_store_writer *w, struct vd_error *err);
/* Drops the transaction. VD_OK, or, when one of its functions failed for want of map: VD_EAGAIN as above, or
 * VD_ENOSPACE if the map may not grow. */
enum vd_err vd_store_abort(struct vd_store_writer *w, struct vd_error *err);

/* --- readers --- */
struct vd_store_view;
enum vd_err vd_store_view_open(struct vd_store *s, struct vd_store_view **out, struct vd_error *err);
void vd_store_view_close(struct vd_store_view *v); /* NULL allowed */
struct vd_kvs *vd_store_view_kv(struct vd_store_view *v);
enum vd_err vd_store_view_tip(struct vd_store_view *v, struct vd_store_tip *out, struct vd_error *err);
/* Borrowed until the view closes. VD_ENOTFOUND if there is no such block (or no genesis). */
enum vd_err vd_store_view_block(struct vd_store_view *v, uint64_t height, struct vd_bytes *block,
                                struct vd_bytes *events, struct vd_error *err);
enum vd_err vd_store_view_genesis(struct vd_store_view *v, struct vd_bytes *out, struct vd_error *err);
/* That `key` has the value it has in this view, or is absent, under the tip's state root. */
enum vd_err vd_store_view_prove(struct vd_store_view *v, struct vd_bytes key, struct vd_map_proof *out,
                                struct vd_error *err);

/* True if both views hold the same state, indexes included; else *key (borrowed) is the first that differs.
 */
bool vd_store_view_same(struct vd_store_view *a, struct vd_store_view *b, struct vd_bytes *key);

/* Bytes of map in use and in all. VD_EIO after a failure that left the file closed. */
enum vd_err vd_store_usage(struct vd_store *s, uint64_t *used_bytes, uint64_t *map_bytes,
                           struct vd_error *err);

#endif
