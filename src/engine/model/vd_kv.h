/* The KV cache: pages of 64 positions, shared between sequences, under one limit.
 *
 * A pool hands out pages and never more than max_bytes of them. A sequence is an array of pages; positions
 * [0, len) are filled. Fork shares pages; a page that several sequences hold is copied when one of them is
 * about to write into it, so a common prefix is stored once.
 *
 * Windows. Layers with a window (gemma2, gemma3, phi3, mistral) have pages of their own. At the beginning of
 * a pass those that lie behind the window of its first position, and of VD_KV_BACK positions before that,
 * leave the sequence. So it holds of them what a window and a pass cover, however long it gets, and it may go
 * back to where its last pass began and VD_KV_BACK positions further, not to everywhere. A fork at n_pos is
 * possible where the window before n_pos is still held (vd_kv_reaches). The last layer keeps all positions,
 * whether it has a window or not: a commitment is made of its rows, also by who takes them from another
 * sequence.
 *
 * Ownership: the pool owns the pages, the caller owns sequences and closes them before the pool. A page's
 * bytes are private to the model's kernel table; vd_kv_read gives canonical rows.
 *
 * Thread rule: one thread at a time per sequence, also for being forked from; different sequences of a pool
 * may be used at once. */
#ifndef VD_KV_H
#define VD_KV_H

#include "vd_model.h"

enum {
    VD_KV_PAGE_POS = VD_KERN_CHUNK,
    VD_KV_BACK = VD_KV_PAGE_POS, /* positions that stay within reach before the last pass */
    VD_KV_PASS = 512,            /* positions of a sequence in one pass, unless the pool is told otherwise */
};

struct vd_kv_pool;
struct vd_kv;

/* max_bytes below one page of every layer is VD_EUSE. */
enum vd_err vd_kv_pool_create(struct vd_kv_pool **out, const struct vd_model *m, size_t max_bytes,
                              struct vd_error *err);
void vd_kv_pool_destroy(struct vd_kv_pool *pool); /* every sequence closed; NULL is allowed */
/* How many positions of a sequence go through one pass at most: what is reserved counts on it. More may go
 * through, but find their pages only if the pool has them. Before the first sequence. */
void vd_kv_pool_set_pass(struct vd_kv_pool *pool, size_t n_pos);
size_t vd_kv_pool_page_bytes(const struct vd_kv_pool *pool); /* of 64 positions in all layers */
size_t vd_kv_pool_max_bytes(const struct vd_kv_pool *pool);
size_t vd_kv_pool_used_bytes(struct vd_kv_pool *pool); /* a shared page counts once; reserved ones count */
/* What a sequence of n_pos positions reserves if the first n_shared are another's. */
size_t vd_kv_pool_need_bytes(const struct vd_kv_pool *pool, size_t n_shared, size_t n_pos);

/* An empty sequence. */
enum vd_err vd_kv_open(struct vd_kv **out, struct vd_kv_pool *pool, struct vd_error *err);
void vd_kv_close(struct vd_kv *kv); /* NULL is allowed */
size_t vd_kv_len(const struct vd_kv *kv);

/* Makes sure that positions [len, n_pos) can be written, in passes as large as the pool knows them. VD_ENOMEM
 * when the pool's limit is reached (the message says limit and need), VD_ELIMIT above the model's context;
 * then nothing has changed. */
enum vd_err vd_kv_reserve(struct vd_kv *kv, size_t n_pos, struct vd_error *err);
/* Would vd_kv_reserve(kv, n_pos) find the pages if these n other sequences of the pool (each once) were
 * closed?
 */
bool vd_kv_fits_without(const struct vd_kv *kv, size_t n_pos, struct vd_kv *const *other, size_t n);
/* Whether the sequence can be cut back to, or forked at, n_pos <= len positions; and whether that will still
 * be so after the next pass. */
bool vd_kv_reaches(const struct vd_kv *kv, size_t n_pos);
bool vd_kv_will_reach(const struct vd_kv *kv, size_t n_pos);
/* Cuts back to n_pos positions, which it reaches, and returns the pages behind them and what was reserved. */
void vd_kv_truncate(struct vd_kv *kv, size_t n_pos);
/* Cuts back to n_pos positions, which it reaches, and keeps every page: what was reserved stays reserved. */
void vd_kv_rewind(struct vd_kv *kv, size_t n_pos);
/* A new sequence with the first n_pos positions of src, which it reaches. VD_ENOMEM also when src has
 * reserved pages that it now shares, and the pool has no others for it: then nothing has changed. */
enum vd_err vd_kv_fork(struct vd_kv **out, struct vd_kv *src, size_t n_pos, struct vd_error *err);
/* Would that find the pages if these n other sequences were closed? */
bool vd_kv_fork_fits_without(const struct vd_kv *src, size_t n_pos, struct vd_kv *const *other, size_t n);

/* The canonical rows of a filled position: `k` gets vd_model_k_row_bytes, `v` vd_model_v_row_bytes bytes, the
 * KROW and VROW records of docs/spec/proof.md. layer 0 .. L-1; in a layer with a window, but the last, the
 * position lies in the window of one that the sequence reaches. */
void vd_kv_read(const struct vd_kv *kv, uint32_t layer, size_t pos, uint8_t *k, uint8_t *v);

#endif
