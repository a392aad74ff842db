#include "vd_degrade.h"

#include "vd_file.h"
#include "vd_gguf.h"
#include "vd_wtype.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The nearest even nibble, at most 14. */
static uint8_t nibble_3_bits(uint8_t q)
{
    return q == 15 ? 14 : (uint8_t)(q + 1) & 0x0E;
}

static size_t degrade_bytes(uint8_t *p, size_t n, bool nibbles)
{
    size_t changed = 0;
    for (size_t i = 0; i < n; i++) {
        uint8_t was = p[i];
        p[i] = nibbles ? (uint8_t)(nibble_3_bits(was >> 4) << 4 | nibble_3_bits(was & 15)) : was & 0xF0;
        changed += p[i] != was;
    }
    return changed;
}

/* In Q4_1 a block is two binary16 and 16 bytes of nibbles, in Q4_0 one and 16, in Q8_0 one and 32 bytes. */
static size_t degrade_tensor(uint8_t *p, const struct vd_gguf_tensor *t)
{
    size_t head = t->type_id == VD_WTYPE_Q4_1 ? 4 : 2, body = t->type_id == VD_WTYPE_Q8_0 ? 32 : 16;
    size_t changed = 0;
    if (t->type_id != VD_WTYPE_Q4_1 && t->type_id != VD_WTYPE_Q4_0 && t->type_id != VD_WTYPE_Q8_0)
        return 0;
    for (size_t at = 0; at + head + body <= t->n_bytes; at += head + body)
        changed += degrade_bytes(p + at + head, body, body == 16);
    return changed;
}

enum vd_err vd_degrade_layer(const char *from, const char *to, uint32_t layer, size_t *n_changed,
                             struct vd_error *err)
{
    struct vd_map map;
    struct vd_gguf *g = NULL;
    uint8_t *copy = NULL;
    char prefix[32];
    enum vd_err e = vd_map_open(&map, from, err);
    if (e != VD_OK)
        return e;
    e = vd_gguf_open(&g, map.p, map.n_bytes, from, err);
    if (e == VD_OK && !(copy = malloc(map.n_bytes)))
        e = vd_error_set(err, VD_ENOMEM, "no memory for a copy of %s", from);
    if (e == VD_OK) {
        memcpy(copy, map.p, map.n_bytes);
        *n_changed = 0;
        snprintf(prefix, sizeof prefix, "blk.%u.", layer);
        for (size_t i = 0; i < vd_gguf_tensor_count(g); i++) {
            const struct vd_gguf_tensor *t = vd_gguf_tensor_at(g, i);
            if (t->name.n > strlen(prefix) && memcmp(t->name.p, prefix, strlen(prefix)) == 0)
                *n_changed += degrade_tensor(copy + t->offset_bytes, t);
        }
        e = *n_changed ? vd_file_write_atomic(to, copy, map.n_bytes, 0600, err)
                       : vd_error_set(err, VD_ENOTFOUND, "%s has no quantised layer %u", from, layer);
    }
    free(copy);
    vd_gguf_close(g);
    vd_map_close(&map);
    return e;
}
