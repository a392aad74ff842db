/* A page holds 64 positions of every layer and head rather than one layer's, so that growing, sharing and
 * freeing a sequence touch one list of pages. Sharing is settled lazily: fork only counts references, and
 * reserve copies the one page (the partly filled last) that is about to be written while another sequence
 * holds it.
 *
 * Pages come from slabs, which ask for huge pages: attention reads each page's few kilobytes of a head far
 * from the next page's, which with pages of 4 KiB misses the TLB at every other one. A slab lives as long as
 * the pool; what a page in it holds goes back to the system when enough empty ones are kept. */
#include "vd_kv.h"
#include "vd_memory.h"
#include "vd_model_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>

enum {
    FREE_MAX = 16,        /* empty pages kept for reuse; the memory of more goes back to the system */
    HUGE_BYTES = 2 << 20, /* a huge page */
    SLAB_BYTES = 8 << 20, /* a slab has as many pages as fit, or one */
};

struct slab {
    _Alignas(VD_KERN_ALIGN) struct slab *next;
    _Alignas(VD_KERN_ALIGN) uint8_t pages[];
};

struct page {
    _Alignas(VD_KERN_ALIGN) unsigned refs; /* under the pool's lock, as all below */
    unsigned ignored;                      /* refs that vd_kv_fits_without leaves out; else 0 */
    struct page *next_free;
    _Alignas(VD_KERN_ALIGN) uint8_t data[];
};

struct vd_kv_pool {
    const struct vd_model *model;
    size_t page_bytes, max_pages;
    pthread_mutex_t lock; /* guards what follows, and every page's refs */
    size_t n_used, n_free;
    struct page *free, *cold; /* n_free of them; those whose memory was given back or never used */
    struct slab *slabs;
    size_t n_made; /* pages in slabs */
    size_t n_sequences;
};

struct vd_kv {
    struct vd_kv_pool *pool;
    size_t len, n_pages;
    bool claimed;
    const void **pages; /* room for the model's whole context; each points at a page's data */
};

static struct page *page_of(const void *data)
{
    return (struct page *)((uint8_t *)(uintptr_t)data - offsetof(struct page, data));
}

static size_t pages_for(size_t n_pos)
{
    return (n_pos + VD_KV_PAGE_POS - 1) / VD_KV_PAGE_POS;
}

enum vd_err vd_kv_pool_create(struct vd_kv_pool **out, const struct vd_model *m, size_t max_bytes,
                              struct vd_error *err)
{
    size_t page = vd_model_page_bytes(m);
    *out = NULL;
    if (max_bytes < page)
        return vd_error_set(err, VD_EUSE,
                            "a KV cache of %zu bytes is less than one page of this model; give at least %zu",
                            max_bytes, page);
    struct vd_kv_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return vd_error_set(err, VD_ENOMEM, "no memory for a KV cache");
    pool->model = m;
    pool->page_bytes = page;
    pool->max_pages = max_bytes / page;
    pthread_mutex_init(&pool->lock, NULL);
    *out = pool;
    return VD_OK;
}

void vd_kv_pool_destroy(struct vd_kv_pool *pool)
{
    if (!pool)
        return;
    assert(pool->n_sequences == 0 && pool->n_used == 0);
    while (pool->slabs) {
        struct slab *s = pool->slabs;
        pool->slabs = s->next;
        free(s);
    }
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

size_t vd_kv_pool_page_bytes(const struct vd_kv_pool *pool)
{
    return pool->page_bytes;
}

size_t vd_kv_pool_max_pages(const struct vd_kv_pool *pool)
{
    return pool->max_pages;
}

size_t vd_kv_pool_used_pages(struct vd_kv_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    size_t n = pool->n_used;
    pthread_mutex_unlock(&pool->lock);
    return n;
}

/* A new slab's pages, all cold. */
static bool slab_add(struct vd_kv_pool *pool)
{
    size_t stride = sizeof(struct page) + pool->page_bytes, n = SLAB_BYTES / stride;
    n = n > 0 ? n : 1;
    n = n < pool->max_pages - pool->n_made ? n : pool->max_pages - pool->n_made;
    size_t bytes = sizeof(struct slab) + n * stride;
    bytes = (bytes + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
    struct slab *s = aligned_alloc(HUGE_BYTES, bytes);
    if (!s)
        return false;
    madvise(s, bytes, MADV_HUGEPAGE); /* a wish: its failure changes nothing */
    s->next = pool->slabs;
    pool->slabs = s;
    pool->n_made += n;
    while (n-- > 0) {
        struct page *p = (struct page *)(s->pages + n * stride);
        p->next_free = pool->cold;
        pool->cold = p;
    }
    return true;
}

/* A page with one reference, or NULL (no memory); the caller holds the lock and has checked the limit. */
static struct page *page_take(struct vd_kv_pool *pool)
{
    if (!pool->free && !pool->cold && !slab_add(pool))
        return NULL;
    struct page *p = pool->free ? pool->free : pool->cold;
    if (pool->free) {
        pool->free = p->next_free;
        pool->n_free--;
    } else {
        pool->cold = p->next_free;
    }
    p->refs = 1;
    p->ignored = 0;
    pool->n_used++;
    return p;
}

/* Gives the memory of a page's data back; its address stays. */
static void page_cool(struct vd_kv_pool *pool, struct page *p)
{
    vd_memory_let_go(p->data, pool->page_bytes);
    p->next_free = pool->cold;
    pool->cold = p;
}

static void page_drop(struct vd_kv_pool *pool, struct page *p)
{
    if (--p->refs > 0)
        return;
    pool->n_used--;
    if (pool->n_free == FREE_MAX) {
        page_cool(pool, p);
        return;
    }
    p->next_free = pool->free;
    pool->free = p;
    pool->n_free++;
}

enum vd_err vd_kv_open(struct vd_kv **out, struct vd_kv_pool *pool, struct vd_error *err)
{
    struct vd_kv *kv = calloc(1, sizeof *kv);
    const void **pages = calloc(pages_for(pool->model->dims.ctx), sizeof *pages);
    *out = NULL;
    if (!kv || !pages) {
        free(kv);
        free(pages);
        return vd_error_set(err, VD_ENOMEM, "no memory for a sequence of the KV cache");
    }
    kv->pool = pool;
    kv->pages = pages;
    pthread_mutex_lock(&pool->lock);
    pool->n_sequences++;
    pthread_mutex_unlock(&pool->lock);
    *out = kv;
    return VD_OK;
}

static void drop_pages_from(struct vd_kv *kv, size_t first)
{
    pthread_mutex_lock(&kv->pool->lock);
    while (kv->n_pages > first)
        page_drop(kv->pool, page_of(kv->pages[--kv->n_pages]));
    pthread_mutex_unlock(&kv->pool->lock);
}

void vd_kv_close(struct vd_kv *kv)
{
    if (!kv)
        return;
    drop_pages_from(kv, 0);
    pthread_mutex_lock(&kv->pool->lock);
    kv->pool->n_sequences--;
    pthread_mutex_unlock(&kv->pool->lock);
    free(kv->pages);
    free(kv);
}

size_t vd_kv_len(const struct vd_kv *kv)
{
    return kv->len;
}

/* Gives the sequence its own copy of page i; the lock is held. */
static bool page_copy(struct vd_kv *kv, size_t i)
{
    struct page *old = page_of(kv->pages[i]), *own = page_take(kv->pool);
    if (!own)
        return false;
    memcpy(own->data, old->data, kv->pool->page_bytes);
    page_drop(kv->pool, old);
    kv->pages[i] = own->data;
    return true;
}

/* Will the last page of kv, partly filled, be written to while others hold it? With the lock held. */
static bool copies_last(const struct vd_kv *kv, size_t n_pos)
{
    if (n_pos <= kv->len || kv->len % VD_KV_PAGE_POS == 0)
        return false;
    const struct page *p = page_of(kv->pages[kv->len / VD_KV_PAGE_POS]);
    return p->refs - p->ignored > 1;
}

/* Pages that are missing for positions up to n_pos. With the lock held. */
static size_t pages_missing(const struct vd_kv *kv, size_t n_pos)
{
    size_t want = pages_for(n_pos);
    return (want > kv->n_pages ? want - kv->n_pages : 0) + copies_last(kv, n_pos);
}

/* With the lock held; on failure the pages taken so far stay, which is harmless: they are empty and counted.
 */
static enum vd_err reserve_locked(struct vd_kv *kv, size_t n_pos, struct vd_error *err)
{
    struct vd_kv_pool *pool = kv->pool;
    size_t want = pages_for(n_pos), last = kv->len / VD_KV_PAGE_POS;
    size_t need = pages_missing(kv, n_pos);
    if (need > pool->max_pages - pool->n_used)
        return vd_error_set(err, VD_ENOMEM,
                            "the KV cache is full: %zu more pages wanted, %zu of %zu in use; raise its limit",
                            need, pool->n_used, pool->max_pages);
    if (copies_last(kv, n_pos) && !page_copy(kv, last))
        return vd_error_set(err, VD_ENOMEM, "no memory for a page of the KV cache");
    while (kv->n_pages < want) {
        struct page *p = page_take(pool);
        if (!p)
            return vd_error_set(err, VD_ENOMEM, "no memory for a page of the KV cache");
        kv->pages[kv->n_pages++] = p->data;
    }
    return VD_OK;
}

enum vd_err vd_kv_reserve(struct vd_kv *kv, size_t n_pos, struct vd_error *err)
{
    size_t ctx = kv->pool->model->dims.ctx;
    if (n_pos > ctx)
        return vd_error_set(err, VD_ELIMIT, "%zu positions are more than the model's context of %zu", n_pos,
                            ctx);
    pthread_mutex_lock(&kv->pool->lock);
    enum vd_err rc = reserve_locked(kv, n_pos, err);
    pthread_mutex_unlock(&kv->pool->lock);
    return rc;
}

bool vd_kv_fits_without(const struct vd_kv *kv, size_t n_pos, struct vd_kv *const *other, size_t n)
{
    struct vd_kv_pool *pool = kv->pool;
    size_t freed = 0;
    pthread_mutex_lock(&pool->lock);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < other[i]->n_pages; k++) {
            struct page *p = page_of(other[i]->pages[k]);
            freed += ++p->ignored == p->refs;
        }
    bool fits = pages_missing(kv, n_pos) <= pool->max_pages - pool->n_used + freed;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < other[i]->n_pages; k++)
            page_of(other[i]->pages[k])->ignored = 0;
    pthread_mutex_unlock(&pool->lock);
    return fits;
}

void vd_kv_truncate(struct vd_kv *kv, size_t n_pos)
{
    assert(n_pos <= kv->len);
    kv->len = n_pos;
    drop_pages_from(kv, pages_for(n_pos));
}

void vd_kv_rewind(struct vd_kv *kv, size_t n_pos)
{
    assert(n_pos <= kv->len);
    kv->len = n_pos;
}

enum vd_err vd_kv_fork(struct vd_kv **out, const struct vd_kv *src, size_t n_pos, struct vd_error *err)
{
    assert(n_pos <= src->len);
    enum vd_err rc = vd_kv_open(out, src->pool, err);
    if (rc != VD_OK)
        return rc;
    struct vd_kv *kv = *out;
    pthread_mutex_lock(&src->pool->lock);
    for (; kv->n_pages < pages_for(n_pos); kv->n_pages++) {
        kv->pages[kv->n_pages] = src->pages[kv->n_pages];
        page_of(kv->pages[kv->n_pages])->refs++;
    }
    pthread_mutex_unlock(&src->pool->lock);
    kv->len = n_pos;
    return VD_OK;
}

void vd_kv_read(const struct vd_kv *kv, uint32_t layer, size_t pos, uint8_t *k, uint8_t *v)
{
    const struct vd_model *m = kv->pool->model;
    assert(pos < kv->len && layer < m->dims.n_layers);
    vd_model_read_rows(m, kv->pages[pos / VD_KV_PAGE_POS], layer, pos % VD_KV_PAGE_POS, k, v);
}

const void *const *vd_kv_page_table(const struct vd_kv *kv)
{
    return kv->pages;
}

void vd_kv_set_len(struct vd_kv *kv, size_t n_pos)
{
    assert(pages_for(n_pos) <= kv->n_pages);
    kv->len = n_pos;
}

bool vd_kv_claim(struct vd_kv *kv)
{
    if (kv->claimed)
        return false;
    kv->claimed = true;
    return true;
}

void vd_kv_unclaim(struct vd_kv *kv)
{
    kv->claimed = false;
}

static uint8_t *put_f32(uint8_t *to, float x)
{
    vd_le32_store(to, vd_f32_bits(x));
    return to + 4;
}

void vd_model_read_rows(const struct vd_model *m, const void *page, size_t layer, size_t slot, uint8_t *k,
                        uint8_t *v)
{
    int8_t kq[VD_KERN_HEAD_MAX], vq[VD_KERN_HEAD_MAX];
    float kd[VD_KERN_HEAD_MAX / VD_KERN_BLOCK], vd;
    size_t hd = m->dims.hd;
    for (size_t g = 0; g < m->dims.n_kv; g++) {
        const uint8_t *chunk = (const uint8_t *)page + vd_model_chunk_offset(m, layer, g);
        m->kern->kv_read(chunk, hd, slot, kq, kd, vq, &vd);
        for (size_t b = 0; b < hd / VD_KERN_BLOCK; b++)
            k = put_f32(k, kd[b]);
        memcpy(k, kq, hd);
        k += hd;
        v = put_f32(v, vd);
        memcpy(v, vq, hd);
        v += hd;
    }
}
