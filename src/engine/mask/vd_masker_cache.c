/* A list, newest first. It is short: as many as jobs run under masks, and a few. Masks are compared by their
 * hash. A masker is made outside the lock, since it takes a while; when two threads make the same one at the
 * same time, one of them is thrown away. */
#include "vd_masker_cache.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    struct entry *next;
    struct vd_hash hash;
    struct vd_masker *masker;
    unsigned n_users;
};

struct vd_masker_cache {
    const struct vd_texts *texts;
    uint32_t *stop;
    size_t n_stop;
    pthread_mutex_t mu;
    struct entry *newest;
};

enum vd_err vd_masker_cache_create(struct vd_masker_cache **out, const struct vd_texts *texts,
                                   const uint32_t *stop, size_t n_stop, struct vd_error *err)
{
    struct vd_masker_cache *c = *out = calloc(1, sizeof *c);
    uint32_t *copy = malloc((n_stop ? n_stop : 1) * sizeof *copy);
    if (!c || !copy) {
        free(c);
        free(copy);
        *out = NULL;
        return vd_error_set(err, VD_ENOMEM, "no memory for masks");
    }
    if (n_stop)
        memcpy(copy, stop, n_stop * sizeof *copy);
    c->texts = texts;
    c->stop = copy;
    c->n_stop = n_stop;
    pthread_mutex_init(&c->mu, NULL);
    return VD_OK;
}

static void drop(struct entry **at)
{
    struct entry *e = *at;
    assert(e->n_users == 0);
    *at = e->next;
    vd_masker_free(e->masker);
    free(e);
}

void vd_masker_cache_free(struct vd_masker_cache *c)
{
    if (!c)
        return;
    while (c->newest)
        drop(&c->newest);
    pthread_mutex_destroy(&c->mu);
    free(c->stop);
    free(c);
}

/* Takes the entry of this hash and moves it to the front; NULL: there is none. Under mu. */
static struct vd_masker *find(struct vd_masker_cache *c, const struct vd_hash *hash)
{
    for (struct entry **at = &c->newest; *at; at = &(*at)->next) {
        struct entry *e = *at;
        if (!vd_hash_eq(&e->hash, hash))
            continue;
        *at = e->next;
        e->next = c->newest;
        c->newest = e;
        e->n_users++;
        return e->masker;
    }
    return NULL;
}

/* Drops the oldest of those that nobody has, until VD_MASKER_CACHE_IDLE are left. Under mu. */
static void trim(struct vd_masker_cache *c)
{
    size_t n_idle = 0;
    for (struct entry **at = &c->newest; *at;) {
        n_idle += (*at)->n_users == 0;
        if ((*at)->n_users == 0 && n_idle > VD_MASKER_CACHE_IDLE)
            drop(at);
        else
            at = &(*at)->next;
    }
}

enum vd_err vd_masker_cache_take(struct vd_masker_cache *c, struct vd_bytes mask, struct vd_masker **out,
                                 struct vd_error *err)
{
    struct vd_hash hash = vd_sha256_of(mask.p, mask.n);
    struct vd_masker *made;
    pthread_mutex_lock(&c->mu);
    *out = find(c, &hash);
    pthread_mutex_unlock(&c->mu);
    if (*out)
        return VD_OK;
    struct entry *e = malloc(sizeof *e);
    enum vd_err rc = e ? vd_masker_create(&made, c->texts, mask, c->stop, c->n_stop, err)
                       : vd_error_set(err, VD_ENOMEM, "no memory for a mask");
    if (rc != VD_OK) {
        free(e);
        return rc;
    }
    pthread_mutex_lock(&c->mu);
    *out = find(c, &hash);
    if (!*out) {
        *e = (struct entry){c->newest, hash, made, 1};
        c->newest = e;
        *out = made;
        e = NULL;
        made = NULL;
    }
    pthread_mutex_unlock(&c->mu);
    vd_masker_free(made);
    free(e);
    return VD_OK;
}

void vd_masker_cache_give(struct vd_masker_cache *c, struct vd_masker *m)
{
    if (!m)
        return;
    pthread_mutex_lock(&c->mu);
    for (struct entry *e = c->newest; e; e = e->next)
        if (e->masker == m)
            e->n_users--;
    trim(c);
    pthread_mutex_unlock(&c->mu);
}

size_t vd_masker_cache_count(struct vd_masker_cache *c)
{
    size_t n = 0;
    pthread_mutex_lock(&c->mu);
    for (const struct entry *e = c->newest; e; e = e->next)
        n++;
    pthread_mutex_unlock(&c->mu);
    return n;
}
