/* A page holds 64 positions of many layers and heads rather than one layer's, so that growing, sharing and
 * freeing a sequence touch few lists of pages: one of the layers that keep every position, one of those with
 * a window. Sharing is settled lazily: fork only counts references, and reserve copies the one page (the
 * partly filled last) that is about to be written while another sequence holds it.
 *
 * What is reserved of the second kind cannot be in the list, which has no place for pages that come round
 * again: they wait as spares. A sequence needs at most as many of its own as a pass can see (most_held);
 * pages that it shares do not count among them, since they do not come back to it when they fall behind the
 * window. With that many, spares included, no pass can find it without.
 *
 * Pages come from slabs, which ask for huge pages: attention reads each page's few kilobytes of a head far
 * from the next page's, which with pages of 4 KiB misses the TLB at every other one. A slab lives as long as
 * the pool; what a page in it holds goes back to the system when enough empty ones are kept, or when pages of
 * the other kind want it. */
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
    struct page *next;                     /* among the free, or a sequence's spares */
    _Alignas(VD_KERN_ALIGN) uint8_t data[];
};

/* The pages of one kind. */
struct shelf {
    size_t page_bytes; /* 0: no layer is of this kind */
    size_t n_free, n_made;
    struct page *free, *cold; /* n_free of them; those whose memory was given back or never used */
    struct slab *slabs;       /* n_made pages */
};

struct vd_kv_pool {
    const struct vd_model *model;
    size_t max_bytes, pass;
    pthread_mutex_t lock; /* guards what follows, and every page's refs */
    struct shelf shelf[VD_KV_KINDS];
    size_t used_bytes;
    size_t n_sequences;
};

struct vd_kv {
    struct vd_kv_pool *pool;
    size_t len;
    bool claimed;
    size_t goal; /* pages of the positions that were reserved */
    /* Pages [first, end) of each kind; `page` has room for the model's whole context and points at data. */
    struct held {
        size_t first, end;
        const void **page;
    } of[VD_KV_KINDS];
    struct page *spare; /* of VD_KV_WINDOW */
    size_t n_spare;
};

static struct page *page_of(const void *data)
{
    return (struct page *)((uint8_t *)(uintptr_t)data - offsetof(struct page, data));
}

static size_t pages_for(size_t n_pos)
{
    return (n_pos + VD_KV_PAGE_POS - 1) / VD_KV_PAGE_POS;
}

static size_t min2(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t less(size_t a, size_t b)
{
    return a > b ? a - b : 0;
}

static bool has_windows(const struct vd_kv_pool *pool)
{
    return pool->shelf[VD_KV_WINDOW].page_bytes > 0;
}

/* The first page that the window of position n_pos looks into. */
static size_t window_page(const struct vd_kv_pool *pool, size_t n_pos)
{
    return less(n_pos + 1, pool->model->program.window) / VD_KV_PAGE_POS;
}

/* The first page with a window that a sequence of n_pos positions keeps. */
static size_t first_kept(const struct vd_kv_pool *pool, size_t n_pos)
{
    return window_page(pool, less(n_pos, VD_KV_BACK));
}

/* Pages with a window of one sequence that a pass of n_rows may see: those of so many positions, wherever
 * they begin. */
static size_t most_held(const struct vd_kv_pool *pool)
{
    size_t span = pool->model->program.window - 1 + VD_KV_BACK + pool->pass;
    return pages_for(span - 1) + 1;
}

enum vd_err vd_kv_pool_create(struct vd_kv_pool **out, const struct vd_model *m, size_t max_bytes,
                              struct vd_error *err)
{
    size_t whole = vd_model_page_bytes(m, VD_KV_WHOLE), window = vd_model_page_bytes(m, VD_KV_WINDOW);
    *out = NULL;
    if (max_bytes < whole + window)
        return vd_error_set(err, VD_EUSE,
                            "a KV cache of %zu bytes is less than one page of this model; give at least %zu",
                            max_bytes, whole + window);
    struct vd_kv_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return vd_error_set(err, VD_ENOMEM, "no memory for a KV cache");
    pool->model = m;
    pool->max_bytes = max_bytes;
    pool->pass = VD_KV_PASS;
    pool->shelf[VD_KV_WHOLE].page_bytes = whole;
    pool->shelf[VD_KV_WINDOW].page_bytes = window;
    pthread_mutex_init(&pool->lock, NULL);
    *out = pool;
    return VD_OK;
}

void vd_kv_pool_destroy(struct vd_kv_pool *pool)
{
    if (!pool)
        return;
    assert(pool->n_sequences == 0 && pool->used_bytes == 0);
    for (int kind = 0; kind < VD_KV_KINDS; kind++)
        while (pool->shelf[kind].slabs) {
            struct slab *s = pool->shelf[kind].slabs;
            pool->shelf[kind].slabs = s->next;
            free(s);
        }
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

void vd_kv_pool_set_pass(struct vd_kv_pool *pool, size_t n_pos)
{
    assert(pool->n_sequences == 0 && n_pos > 0);
    pool->pass = n_pos;
}

size_t vd_kv_pool_page_bytes(const struct vd_kv_pool *pool)
{
    return pool->shelf[VD_KV_WHOLE].page_bytes + pool->shelf[VD_KV_WINDOW].page_bytes;
}

size_t vd_kv_pool_max_bytes(const struct vd_kv_pool *pool)
{
    return pool->max_bytes;
}

size_t vd_kv_pool_used_bytes(struct vd_kv_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    size_t n = pool->used_bytes;
    pthread_mutex_unlock(&pool->lock);
    return n;
}

size_t vd_kv_pool_need_bytes(const struct vd_kv_pool *pool, size_t n_shared, size_t n_pos)
{
    size_t own = pages_for(n_pos) - n_shared / VD_KV_PAGE_POS;
    size_t bytes = own * pool->shelf[VD_KV_WHOLE].page_bytes;
    return has_windows(pool) ? bytes + min2(own, most_held(pool)) * pool->shelf[VD_KV_WINDOW].page_bytes
                             : bytes;
}

/* ---- pages ---- */

/* A new slab's pages, all cold. */
static bool slab_add(const struct vd_kv_pool *pool, struct shelf *shelf)
{
    size_t stride = sizeof(struct page) + shelf->page_bytes, n = SLAB_BYTES / stride;
    size_t left = pool->max_bytes / shelf->page_bytes - shelf->n_made;
    n = min2(n > 0 ? n : 1, left);
    size_t bytes = sizeof(struct slab) + n * stride;
    bytes = (bytes + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
    struct slab *s = aligned_alloc(HUGE_BYTES, bytes);
    if (!s)
        return false;
    madvise(s, bytes, MADV_HUGEPAGE); /* a wish: its failure changes nothing */
    s->next = shelf->slabs;
    shelf->slabs = s;
    shelf->n_made += n;
    while (n-- > 0) {
        struct page *p = (struct page *)(s->pages + n * stride);
        p->next = shelf->cold;
        shelf->cold = p;
    }
    return true;
}

/* Gives the memory of a page's data back; its address stays. */
static void page_cool(struct shelf *shelf, struct page *p)
{
    vd_memory_let_go(p->data, shelf->page_bytes);
    p->next = shelf->cold;
    shelf->cold = p;
}

/* Before a page takes new memory: empty ones of the other kind give theirs back where both would be more than
 * the limit. */
static void cool_others(struct vd_kv_pool *pool, int kind)
{
    struct shelf *own = &pool->shelf[kind], *other = &pool->shelf[!kind];
    while (other->free &&
           pool->used_bytes + own->page_bytes + other->n_free * other->page_bytes > pool->max_bytes) {
        struct page *p = other->free;
        other->free = p->next;
        other->n_free--;
        page_cool(other, p);
    }
}

/* A page with one reference, or NULL (no memory); the caller holds the lock and has checked the limit. */
static struct page *page_take(struct vd_kv_pool *pool, int kind)
{
    struct shelf *shelf = &pool->shelf[kind];
    if (!shelf->free && !shelf->cold && !slab_add(pool, shelf))
        return NULL;
    struct page *p = shelf->free;
    if (p) {
        shelf->free = p->next;
        shelf->n_free--;
    } else {
        cool_others(pool, kind);
        p = shelf->cold;
        shelf->cold = p->next;
    }
    p->refs = 1;
    p->ignored = 0;
    pool->used_bytes += shelf->page_bytes;
    return p;
}

static void page_drop(struct vd_kv_pool *pool, int kind, struct page *p)
{
    struct shelf *shelf = &pool->shelf[kind];
    if (--p->refs > 0)
        return;
    pool->used_bytes -= shelf->page_bytes;
    if (shelf->n_free == FREE_MAX) {
        page_cool(shelf, p);
        return;
    }
    p->next = shelf->free;
    shelf->free = p;
    shelf->n_free++;
}

static void spare_put(struct vd_kv *kv, struct page *p)
{
    p->next = kv->spare;
    kv->spare = p;
    kv->n_spare++;
}

static struct page *spare_take(struct vd_kv *kv)
{
    struct page *p = kv->spare;
    kv->spare = p->next;
    kv->n_spare--;
    return p;
}

/* ---- sequences ---- */

enum vd_err vd_kv_open(struct vd_kv **out, struct vd_kv_pool *pool, struct vd_error *err)
{
    struct vd_kv *kv = calloc(1, sizeof *kv);
    bool ok = kv != NULL;
    *out = NULL;
    for (int kind = 0; ok && kind < VD_KV_KINDS; kind++)
        ok = (kv->of[kind].page = calloc(pages_for(pool->model->dims.ctx), sizeof(void *))) != NULL;
    if (!ok) {
        for (int kind = 0; kv && kind < VD_KV_KINDS; kind++)
            free(kv->of[kind].page);
        free(kv);
        return vd_error_set(err, VD_ENOMEM, "no memory for a sequence of the KV cache");
    }
    kv->pool = pool;
    pthread_mutex_lock(&pool->lock);
    pool->n_sequences++;
    pthread_mutex_unlock(&pool->lock);
    *out = kv;
    return VD_OK;
}

static bool is_used(const struct vd_kv *kv, int kind)
{
    return kv->pool->shelf[kind].page_bytes > 0;
}

/* With the lock held. */
static void drop_spares(struct vd_kv *kv, size_t keep)
{
    while (kv->n_spare > keep)
        page_drop(kv->pool, VD_KV_WINDOW, spare_take(kv));
}

/* Pages from number `end` on, and what was reserved, go back. */
static void drop_from(struct vd_kv *kv, size_t end)
{
    pthread_mutex_lock(&kv->pool->lock);
    for (int kind = 0; kind < VD_KV_KINDS; kind++) {
        struct held *h = &kv->of[kind];
        while (h->end > end && h->end > h->first)
            page_drop(kv->pool, kind, page_of(h->page[--h->end]));
        if (end == 0)
            h->first = h->end = 0;
    }
    kv->goal = end;
    drop_spares(kv, 0);
    pthread_mutex_unlock(&kv->pool->lock);
}

void vd_kv_close(struct vd_kv *kv)
{
    if (!kv)
        return;
    drop_from(kv, 0);
    pthread_mutex_lock(&kv->pool->lock);
    kv->pool->n_sequences--;
    pthread_mutex_unlock(&kv->pool->lock);
    for (int kind = 0; kind < VD_KV_KINDS; kind++)
        free(kv->of[kind].page);
    free(kv);
}

size_t vd_kv_len(const struct vd_kv *kv)
{
    return kv->len;
}

/* ---- making room ---- */

/* Will the last page of kv, partly filled, be written to while others hold it? With the lock held. */
static bool copies_last(const struct vd_kv *kv, int kind, size_t goal)
{
    size_t last = kv->len / VD_KV_PAGE_POS;
    if (!is_used(kv, kind) || kv->len % VD_KV_PAGE_POS == 0 || goal <= last)
        return false;
    const struct page *p = page_of(kv->of[kind].page[last]);
    return p->refs - p->ignored > 1;
}

/* Pages with a window that nobody else holds, besides spares. With the lock held. */
static size_t own_pages(const struct vd_kv *kv)
{
    const struct held *h = &kv->of[VD_KV_WINDOW];
    size_t n = 0;
    for (size_t i = h->first; i < h->end; i++) {
        const struct page *p = page_of(h->page[i]);
        n += p->refs - p->ignored == 1;
    }
    return n;
}

/* Spares that a sequence of `own` pages needs on its way to `goal`. */
static size_t spares_for(const struct vd_kv *kv, size_t own, size_t goal)
{
    size_t ahead = less(goal, kv->of[VD_KV_WINDOW].end) + copies_last(kv, VD_KV_WINDOW, goal);
    return is_used(kv, VD_KV_WINDOW) ? min2(less(most_held(kv->pool), own), ahead) : 0;
}

/* What is missing for positions up to n_pos: pages of each kind. With the lock held. */
static size_t missing_bytes(const struct vd_kv *kv, size_t goal, size_t missing[VD_KV_KINDS])
{
    const struct shelf *shelf = kv->pool->shelf;
    missing[VD_KV_WHOLE] = less(goal, kv->of[VD_KV_WHOLE].end) + copies_last(kv, VD_KV_WHOLE, goal);
    missing[VD_KV_WINDOW] = less(spares_for(kv, own_pages(kv), goal), kv->n_spare);
    return missing[VD_KV_WHOLE] * shelf[VD_KV_WHOLE].page_bytes +
           missing[VD_KV_WINDOW] * shelf[VD_KV_WINDOW].page_bytes;
}

static enum vd_err no_page(struct vd_error *err)
{
    return vd_error_set(err, VD_ENOMEM, "no memory for a page of the KV cache");
}

static enum vd_err check_room(const struct vd_kv_pool *pool, size_t need, struct vd_error *err)
{
    if (need <= pool->max_bytes - pool->used_bytes)
        return VD_OK;
    return vd_error_set(err, VD_ENOMEM,
                        "the KV cache is full: %zu more bytes wanted, %zu of %zu in use; raise its limit",
                        need, pool->used_bytes, pool->max_bytes);
}

/* With the lock held. */
static enum vd_err spares_add(struct vd_kv *kv, size_t n, struct vd_error *err)
{
    while (n-- > 0) {
        struct page *p = page_take(kv->pool, VD_KV_WINDOW);
        if (!p)
            return no_page(err);
        spare_put(kv, p);
    }
    return VD_OK;
}

/* Gives the sequence its own copy of its last page. With the lock held. */
static bool copy_last(struct vd_kv *kv, int kind)
{
    const void **at = &kv->of[kind].page[kv->len / VD_KV_PAGE_POS];
    struct page *own = kind == VD_KV_WINDOW && kv->spare ? spare_take(kv) : page_take(kv->pool, kind);
    if (!own)
        return false;
    memcpy(own->data, *at, kv->pool->shelf[kind].page_bytes);
    page_drop(kv->pool, kind, page_of(*at));
    *at = own->data;
    return true;
}

/* With the lock held; on failure the pages taken so far stay, which is harmless: they are empty and counted.
 */
static enum vd_err reserve_locked(struct vd_kv *kv, size_t n_pos, struct vd_error *err)
{
    size_t goal = pages_for(n_pos), missing[VD_KV_KINDS];
    struct held *whole = &kv->of[VD_KV_WHOLE];
    goal = goal > kv->goal ? goal : kv->goal;
    enum vd_err rc = check_room(kv->pool, missing_bytes(kv, goal, missing), err);
    if (rc == VD_OK)
        rc = spares_add(kv, missing[VD_KV_WINDOW], err);
    for (int kind = 0; rc == VD_OK && kind < VD_KV_KINDS; kind++)
        if (copies_last(kv, kind, goal) && !copy_last(kv, kind))
            rc = no_page(err);
    while (rc == VD_OK && whole->end < goal) {
        struct page *p = page_take(kv->pool, VD_KV_WHOLE);
        if (!p)
            return no_page(err);
        whole->page[whole->end++] = p->data;
    }
    if (rc == VD_OK)
        kv->goal = goal;
    return rc;
}

static enum vd_err check_ctx(const struct vd_kv *kv, size_t n_pos, struct vd_error *err)
{
    size_t ctx = kv->pool->model->dims.ctx;
    return n_pos <= ctx ? VD_OK
                        : vd_error_set(err, VD_ELIMIT,
                                       "%zu positions are more than the model's context of %zu", n_pos, ctx);
}

enum vd_err vd_kv_reserve(struct vd_kv *kv, size_t n_pos, struct vd_error *err)
{
    enum vd_err rc = check_ctx(kv, n_pos, err);
    if (rc != VD_OK)
        return rc;
    pthread_mutex_lock(&kv->pool->lock);
    rc = reserve_locked(kv, n_pos, err);
    pthread_mutex_unlock(&kv->pool->lock);
    return rc;
}

/* Pages behind the window leave, and spares that are not needed any more. What goes and is needed again is
 * taken before anybody else can, by reserve_locked. With the lock held. */
static void leave_behind(struct vd_kv *kv)
{
    struct held *h = &kv->of[VD_KV_WINDOW];
    size_t first = min2(first_kept(kv->pool, kv->len), h->end);
    if (first <= h->first)
        return;
    for (; h->first < first; h->first++) {
        page_drop(kv->pool, VD_KV_WINDOW, page_of(h->page[h->first]));
        h->page[h->first] = NULL;
    }
    drop_spares(kv, spares_for(kv, own_pages(kv), kv->goal));
}

/* With the lock held. */
static enum vd_err begin_locked(struct vd_kv *kv, size_t n_pos, struct vd_error *err)
{
    struct held *h = &kv->of[VD_KV_WINDOW];
    if (is_used(kv, VD_KV_WINDOW))
        leave_behind(kv);
    enum vd_err rc = reserve_locked(kv, n_pos, err);
    if (!is_used(kv, VD_KV_WINDOW))
        return rc;
    size_t n = less(pages_for(n_pos), h->end);
    if (rc == VD_OK && n > kv->n_spare) { /* a pass that is larger than expected */
        rc = check_room(kv->pool, (n - kv->n_spare) * kv->pool->shelf[VD_KV_WINDOW].page_bytes, err);
        if (rc == VD_OK)
            rc = spares_add(kv, n - kv->n_spare, err);
    }
    while (rc == VD_OK && n-- > 0)
        h->page[h->end++] = spare_take(kv)->data;
    return rc;
}

enum vd_err vd_kv_begin(struct vd_kv *kv, size_t n_pos, struct vd_error *err)
{
    enum vd_err rc = check_ctx(kv, n_pos, err);
    if (rc != VD_OK)
        return rc;
    pthread_mutex_lock(&kv->pool->lock);
    rc = begin_locked(kv, n_pos, err);
    pthread_mutex_unlock(&kv->pool->lock);
    return rc;
}

/* Leaves out, or takes back in, what those sequences hold; returns the bytes that only they do. */
static size_t ignore(struct vd_kv_pool *pool, struct vd_kv *const *other, size_t n, bool on)
{
    size_t freed = 0;
    for (size_t i = 0; i < n; i++) {
        freed += other[i]->n_spare * pool->shelf[VD_KV_WINDOW].page_bytes;
        for (int kind = 0; kind < VD_KV_KINDS; kind++)
            for (size_t k = other[i]->of[kind].first; k < other[i]->of[kind].end; k++) {
                struct page *p = page_of(other[i]->of[kind].page[k]);
                p->ignored = on ? p->ignored + 1 : 0;
                freed += p->ignored == p->refs ? pool->shelf[kind].page_bytes : 0;
            }
    }
    return freed;
}

bool vd_kv_fits_without(const struct vd_kv *kv, size_t n_pos, struct vd_kv *const *other, size_t n)
{
    struct vd_kv_pool *pool = kv->pool;
    size_t missing[VD_KV_KINDS], goal = pages_for(n_pos);
    pthread_mutex_lock(&pool->lock);
    size_t freed = ignore(pool, other, n, true);
    bool fits = missing_bytes(kv, goal, missing) <= pool->max_bytes - pool->used_bytes + freed;
    ignore(pool, other, n, false);
    pthread_mutex_unlock(&pool->lock);
    return fits;
}

/* ---- going back, and sharing ---- */

bool vd_kv_reaches(const struct vd_kv *kv, size_t n_pos)
{
    size_t first = kv->of[VD_KV_WINDOW].first;
    return n_pos <= kv->len && (n_pos == 0 || first == 0 || window_page(kv->pool, n_pos) >= first);
}

bool vd_kv_will_reach(const struct vd_kv *kv, size_t n_pos)
{
    return vd_kv_reaches(kv, n_pos) &&
           (!has_windows(kv->pool) || window_page(kv->pool, n_pos) >= first_kept(kv->pool, kv->len));
}

void vd_kv_truncate(struct vd_kv *kv, size_t n_pos)
{
    assert(vd_kv_reaches(kv, n_pos));
    kv->len = n_pos;
    drop_from(kv, pages_for(n_pos));
}

void vd_kv_rewind(struct vd_kv *kv, size_t n_pos)
{
    assert(n_pos > 0 && vd_kv_reaches(kv, n_pos));
    kv->len = n_pos;
}

/* The pages with a window that a fork at n_pos shares: from *first to the result. */
static size_t forked_pages(const struct vd_kv *src, size_t n_pos, size_t *first)
{
    const struct held *h = &src->of[VD_KV_WINDOW];
    size_t end = is_used(src, VD_KV_WINDOW) ? pages_for(n_pos) : 0;
    *first = first_kept(src->pool, n_pos);
    *first = min2(*first > h->first ? *first : h->first, end);
    return end;
}

/* Spares that src must get because pages [first, end) will not come back to it any more. With the lock held.
 */
static size_t spares_to_fork(const struct vd_kv *src, size_t first, size_t end)
{
    size_t own = own_pages(src);
    for (size_t i = first; i < end; i++) {
        const struct page *p = page_of(src->of[VD_KV_WINDOW].page[i]);
        own -= p->refs - p->ignored == 1;
    }
    return less(spares_for(src, own, src->goal), src->n_spare);
}

/* With the lock held; the spares are there. */
static void share_pages(struct vd_kv *kv, const struct vd_kv *src, size_t n_pos)
{
    struct held *window = &kv->of[VD_KV_WINDOW], *whole = &kv->of[VD_KV_WHOLE];
    size_t end = forked_pages(src, n_pos, &window->first);
    for (window->end = window->first; window->end < end; window->end++)
        window->page[window->end] = src->of[VD_KV_WINDOW].page[window->end];
    for (; whole->end < pages_for(n_pos); whole->end++)
        whole->page[whole->end] = src->of[VD_KV_WHOLE].page[whole->end];
    for (int kind = 0; kind < VD_KV_KINDS; kind++)
        for (size_t i = kv->of[kind].first; i < kv->of[kind].end; i++)
            page_of(kv->of[kind].page[i])->refs++;
    kv->len = n_pos;
    kv->goal = pages_for(n_pos);
}

enum vd_err vd_kv_fork(struct vd_kv **out, struct vd_kv *src, size_t n_pos, struct vd_error *err)
{
    struct vd_kv_pool *pool = src->pool;
    size_t first, end = forked_pages(src, n_pos, &first);
    assert(vd_kv_reaches(src, n_pos));
    enum vd_err rc = vd_kv_open(out, pool, err);
    if (rc != VD_OK)
        return rc;
    pthread_mutex_lock(&pool->lock);
    size_t n = spares_to_fork(src, first, end);
    rc = check_room(pool, n * pool->shelf[VD_KV_WINDOW].page_bytes, err);
    if (rc == VD_OK)
        rc = spares_add(src, n, err);
    if (rc == VD_OK)
        share_pages(*out, src, n_pos);
    pthread_mutex_unlock(&pool->lock);
    if (rc != VD_OK) {
        vd_kv_close(*out);
        *out = NULL;
    }
    return rc;
}

bool vd_kv_fork_fits_without(const struct vd_kv *src, size_t n_pos, struct vd_kv *const *other, size_t n)
{
    struct vd_kv_pool *pool = src->pool;
    size_t first, end = forked_pages(src, n_pos, &first);
    pthread_mutex_lock(&pool->lock);
    size_t freed = ignore(pool, other, n, true);
    size_t need = spares_to_fork(src, first, end) * pool->shelf[VD_KV_WINDOW].page_bytes;
    ignore(pool, other, n, false);
    bool fits = need <= pool->max_bytes - pool->used_bytes + freed;
    pthread_mutex_unlock(&pool->lock);
    return fits;
}

void vd_kv_read(const struct vd_kv *kv, uint32_t layer, size_t pos, uint8_t *k, uint8_t *v)
{
    const struct vd_model *m = kv->pool->model;
    assert(pos < kv->len && layer < m->dims.n_layers);
    const struct held *h = &kv->of[m->layers[layer].kv_kind];
    assert(pos / VD_KV_PAGE_POS >= h->first);
    vd_model_read_rows(m, h->page[pos / VD_KV_PAGE_POS], layer, pos % VD_KV_PAGE_POS, k, v);
}

const void *const *vd_kv_page_table(const struct vd_kv *kv, enum vd_kv_kind kind)
{
    return kv->of[kind].page;
}

void vd_kv_set_len(struct vd_kv *kv, size_t n_pos)
{
    assert(pages_for(n_pos) <= kv->of[VD_KV_WHOLE].end);
    assert(!has_windows(kv->pool) || pages_for(n_pos) <= kv->of[VD_KV_WINDOW].end);
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
