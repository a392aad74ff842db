#include "vd_degrade.h"

#include "vd_file.h"
#include "vd_gguf.h"
#include "vd_rng.h"
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

/* Of a block of a quantised type: the bytes whose bits may be anything (all but the binary16 scales, so that
 * every weight stays finite), and those that hold the weights' four lower bits, or all eight. */
struct layout {
    enum vd_wtype type;
    struct {
        size_t at, n;
    } any, weights;
    bool nibbles;
};

static const struct layout layouts[] = {
    {VD_WTYPE_Q4_0, {2, 16}, {2, 16}, true},    {VD_WTYPE_Q4_1, {4, 16}, {4, 16}, true},
    {VD_WTYPE_Q5_0, {2, 20}, {6, 16}, true},    {VD_WTYPE_Q5_1, {4, 20}, {8, 16}, true},
    {VD_WTYPE_Q8_0, {2, 32}, {2, 32}, false},   {VD_WTYPE_Q4_K, {4, 140}, {16, 128}, true},
    {VD_WTYPE_Q5_K, {4, 172}, {48, 128}, true}, {VD_WTYPE_Q6_K, {0, 208}, {0, 128}, true},
};

/* NULL: of another type. */
static const struct layout *layout_of(const struct vd_gguf_tensor *t)
{
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++)
        if (layouts[i].type == t->type_id)
            return &layouts[i];
    return NULL;
}

static size_t degrade_tensor(uint8_t *p, const struct vd_gguf_tensor *t)
{
    const struct layout *l = layout_of(t);
    size_t changed = 0, step = l ? vd_wtype_info(l->type)->block_bytes : 0;
    for (size_t at = 0; l && at + step <= t->n_bytes; at += step)
        changed += degrade_bytes(p + at + l->weights.at, l->weights.n, l->nibbles);
    return changed;
}

/* A copy of the file with its index; free copy->bytes and close the rest by copy_close. */
struct copy {
    struct vd_map map;
    struct vd_gguf *gguf;
    uint8_t *bytes;
};

static enum vd_err copy_open(struct copy *c, const char *from, struct vd_error *err)
{
    *c = (struct copy){.gguf = NULL};
    enum vd_err e = vd_map_open(&c->map, from, err);
    if (e != VD_OK)
        return e;
    e = vd_gguf_open(&c->gguf, c->map.p, c->map.n_bytes, from, err);
    if (e == VD_OK && !(c->bytes = malloc(c->map.n_bytes)))
        e = vd_error_set(err, VD_ENOMEM, "no memory for a copy of %s", from);
    if (e == VD_OK)
        memcpy(c->bytes, c->map.p, c->map.n_bytes);
    return e;
}

static void copy_close(struct copy *c)
{
    free(c->bytes);
    vd_gguf_close(c->gguf);
    vd_map_close(&c->map);
}

enum vd_err vd_degrade_layer(const char *from, const char *to, uint32_t layer, size_t *n_changed,
                             struct vd_error *err)
{
    struct copy c;
    char prefix[32];
    enum vd_err e = copy_open(&c, from, err);
    if (e == VD_OK) {
        *n_changed = 0;
        snprintf(prefix, sizeof prefix, "blk.%u.", layer);
        for (size_t i = 0; i < vd_gguf_tensor_count(c.gguf); i++) {
            const struct vd_gguf_tensor *t = vd_gguf_tensor_at(c.gguf, i);
            if (t->name.n > strlen(prefix) && memcmp(t->name.p, prefix, strlen(prefix)) == 0)
                *n_changed += degrade_tensor(c.bytes + t->offset_bytes, t);
        }
        e = *n_changed ? vd_file_write_atomic(to, c.bytes, c.map.n_bytes, 0600, err)
                       : vd_error_set(err, VD_ENOTFOUND, "%s has no quantised layer %u", from, layer);
    }
    copy_close(&c);
    return e;
}

/* ---- drawn ---- */

/* Where a weight's bits are that may be anything; of an F32 the mantissa. */
static uint8_t *some_weight_byte(struct vd_rng *r, uint8_t *p, const struct vd_gguf_tensor *t)
{
    const struct layout *l = layout_of(t);
    if (!l)
        return p + 4 * vd_rng_below(r, t->n_bytes / 4) + vd_rng_below(r, 2);
    size_t step = vd_wtype_info(l->type)->block_bytes, block = vd_rng_below(r, t->n_bytes / step);
    return p + block * step + l->any.at + vd_rng_below(r, l->any.n);
}

static bool can_be_tampered_with(const struct vd_gguf_tensor *t)
{
    bool known = t->type_id == VD_WTYPE_F32 || layout_of(t);
    return known && t->name.n > 4 && memcmp(t->name.p, "blk.", 4) == 0;
}

static const char *tamper_with(struct vd_rng *r, uint8_t *p, const struct vd_gguf_tensor *t)
{
    uint64_t how = vd_rng_below(r, 4);
    if (how == 0 && t->type_id != VD_WTYPE_F32 && degrade_tensor(p, t))
        return "lower precision";
    if (how == 1) {
        size_t n = t->n_bytes / 4 / 4 * 4;
        memset(p + vd_rng_below(r, 3) * n, 0, n);
        return "a part is zero";
    }
    for (unsigned i = 0; i < (how == 2 ? 1 : 100); i++)
        *some_weight_byte(r, p, t) ^= (uint8_t)(1 << vd_rng_below(r, 8));
    return how == 2 ? "one bit" : "a hundred bits";
}

enum vd_err vd_degrade_drawn(const char *from, const char *to, uint64_t seed, char what[VD_DEGRADE_WHAT_MAX],
                             struct vd_error *err)
{
    struct vd_rng r = {seed, 0};
    struct copy c;
    enum vd_err e = copy_open(&c, from, err);
    for (unsigned tries = 0; e == VD_OK; tries++) {
        const struct vd_gguf_tensor *t =
            vd_gguf_tensor_at(c.gguf, vd_rng_below(&r, vd_gguf_tensor_count(c.gguf)));
        if (tries == 10000) {
            e = vd_error_set(err, VD_ENOTFOUND, "%s has no tensor to tamper with", from);
        } else if (can_be_tampered_with(t)) {
            const char *how = tamper_with(&r, c.bytes + t->offset_bytes, t);
            snprintf(what, VD_DEGRADE_WHAT_MAX, "%.*s: %s", (int)t->name.n, (const char *)t->name.p, how);
            e = vd_file_write_atomic(to, c.bytes, c.map.n_bytes, 0600, err);
            break;
        }
    }
    copy_close(&c);
    return e;
}
