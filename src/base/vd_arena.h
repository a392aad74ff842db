/* A bump allocator over memory that the caller gives. It never grows and never frees one by one:
 * a whole request or step is freed at once by resetting `used`.
 *
 * Ownership: the caller owns `base`. Thread rule: one thread at a time. */
#ifndef VD_ARENA_H
#define VD_ARENA_H

#include <stddef.h>
#include <stdint.h>

struct vd_arena {
    uint8_t *base;
    size_t size_bytes;
    size_t used_bytes;
};

static inline struct vd_arena vd_arena_init(void *base, size_t size_bytes)
{
    return (struct vd_arena){base, size_bytes, 0};
}

/* n_bytes aligned to `align` (a power of two), not cleared, or NULL when the arena is full. */
static inline void *vd_arena_alloc(struct vd_arena *a, size_t n_bytes, size_t align)
{
    uintptr_t at = (uintptr_t)a->base + a->used_bytes;
    size_t pad = (size_t)(-at & (align - 1));
    if (pad > a->size_bytes - a->used_bytes || n_bytes > a->size_bytes - a->used_bytes - pad)
        return NULL;
    a->used_bytes += pad + n_bytes;
    return a->base + a->used_bytes - n_bytes;
}

#endif
