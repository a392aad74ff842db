/* The KV cache: pages of 64 positions (all layers and kv heads), shared between sequences, under one limit.
 *
 * A pool hands out pages and never more than max_bytes of them. A sequence is an array of pages; positions
 * [0, len) are filled. Fork shares pages; a page that several sequences hold is copied when one of them is
 * about to write into it, so a common prefix is stored once.
 *
 * What it does not do: rows that lie behind the window of a windowed layer (gemma2, gemma3, phi3) stay. A
 * page holds all layers, so it can only go when no layer wants it, and the layers without a window want every
 * position; and a later sequence may begin with these rows. gemma3-270m (15 layers of 18 with a window of
 * 512) takes 4.6 times what its layers can still see at 8,192 positions, and 1.7 times at 1,024. A model
 * without windows loses nothing. To give them back, windowed layers would need pages and a page table of
 * their own, and a prefix would be of use only where its last window of them is still there.
 *
 * Ownership: the pool owns the pages, the caller owns sequences and closes them before the pool. A page's
 * bytes are private to the model's kernel table; vd_kv_read gives canonical rows.
 *
 * Thread rule: one thread at a time per sequence; different sequences of a pool may be used at once. */
#ifndef VD_KV_H
#define VD_KV_H

#include "vd_model.h"

enum { VD_KV_PAGE_POS = VD_KERN_CHUNK };

struct vd_kv_pool;
struct vd_kv;

/* max_bytes below one page is VD_EUSE. */
enum vd_err vd_kv_pool_create(struct vd_kv_pool **out, const struct vd_model *m, size_t max_bytes,
                              struct vd_error *err);
void vd_kv_pool_destroy(struct vd_kv_pool *pool); /* every sequence closed; NULL is allowed */
size_t vd_kv_pool_page_bytes(const struct vd_kv_pool *pool);
size_t vd_kv_pool_max_pages(const struct vd_kv_pool *pool);
size_t vd_kv_pool_used_pages(struct vd_kv_pool *pool); /* a shared page counts once */

/* An empty sequence. */
enum vd_err vd_kv_open(struct vd_kv **out, struct vd_kv_pool *pool, struct vd_error *err);
void vd_kv_close(struct vd_kv *kv); /* NULL is allowed */
size_t vd_kv_len(const struct vd_kv *kv);

/* Makes sure that positions [len, n_pos) can be written. VD_ENOMEM when the pool's limit is reached (the
 * message says limit and need), VD_ELIMIT above the model's context; then nothing has changed. */
enum vd_err vd_kv_reserve(struct vd_kv *kv, size_t n_pos, struct vd_error *err);
/* Would vd_kv_reserve(kv, n_pos) find the pages if these n other sequences of the pool (each once) were
 * closed?
 */
bool vd_kv_fits_without(const struct vd_kv *kv, size_t n_pos, struct vd_kv *const *other, size_t n);
/* Cuts back to n_pos <= len positions and returns the pages behind them. */
void vd_kv_truncate(struct vd_kv *kv, size_t n_pos);
/* Cuts back to n_pos <= len positions and keeps every page: what was reserved stays reserved. */
void vd_kv_rewind(struct vd_kv *kv, size_t n_pos);
/* A new sequence with the first n_pos <= len positions of src. */
enum vd_err vd_kv_fork(struct vd_kv **out, const struct vd_kv *src, size_t n_pos, struct vd_error *err);

/* The canonical rows of a filled position: `k` gets vd_model_k_row_bytes, `v` vd_model_v_row_bytes bytes, the
 * KROW and VROW records of docs/spec/proof.md. layer 0 .. L-1. */
void vd_kv_read(const struct vd_kv *kv, uint32_t layer, size_t pos, uint8_t *k, uint8_t *v);

#endif
