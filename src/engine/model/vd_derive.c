/* Builders say what is known (vd_derive_arch.c); whatever a file has beyond what they asked for is refused by
 * name. A model that would run but compute something else than its makers meant is worse than one that does
 * not run. */
#include "vd_derive_impl.h"

#include "vd_num.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { KEY_BYTES_MAX = 128, LIST_BYTES = 384 };

/* ------------------------- errors ------------------------- */

void vd_derive_fail(struct vd_derive *d, enum vd_err code, const char *fmt, ...)
{
    char text[VD_ERROR_MSG_MAX];
    va_list ap;
    if (d->rc != VD_OK)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    d->rc = vd_error_set(d->err, code, "%s: %s", vd_gguf_name(d->g), text);
}

/* ------------------------- keys ------------------------- */

/* The whole name of a key, which from now on is known. */
static const char *ask(struct vd_derive *d, const char *key, char name[KEY_BYTES_MAX])
{
    assert(d->n_asked < VD_DERIVE_ASKED_MAX);
    d->asked[d->n_asked++] = key;
    snprintf(name, KEY_BYTES_MAX, "%s.%s", d->arch, key);
    return name;
}

bool vd_derive_has(struct vd_derive *d, const char *key)
{
    char name[KEY_BYTES_MAX];
    return vd_gguf_find(d->g, ask(d, key, name)) != NULL;
}

bool vd_derive_is_array(struct vd_derive *d, const char *key)
{
    char name[KEY_BYTES_MAX];
    const struct vd_gguf_kv *kv = vd_gguf_find(d->g, ask(d, key, name));
    return kv && kv->type == VD_GGUF_ARRAY;
}

uint32_t vd_derive_u32(struct vd_derive *d, const char *key, uint32_t max)
{
    char name[KEY_BYTES_MAX];
    uint32_t v = 1;
    ask(d, key, name);
    if (d->rc == VD_OK)
        d->rc = vd_gguf_get_u32(d->g, name, VD_GGUF_REQUIRED, max, &v, d->err);
    if (v == 0)
        vd_derive_fail(d, VD_EFORMAT, "%s is 0", name);
    return v ? v : 1;
}

uint32_t vd_derive_u32_or(struct vd_derive *d, const char *key, uint32_t max, uint32_t fallback)
{
    char name[KEY_BYTES_MAX];
    uint32_t v = fallback;
    ask(d, key, name);
    if (d->rc == VD_OK)
        d->rc = vd_gguf_get_u32(d->g, name, VD_GGUF_OPTIONAL, max, &v, d->err);
    return v;
}

static float get_f32(struct vd_derive *d, const char *key, enum vd_gguf_need need, float fallback)
{
    char name[KEY_BYTES_MAX];
    float v = fallback;
    ask(d, key, name);
    if (d->rc == VD_OK)
        d->rc = vd_gguf_get_f32(d->g, name, need, &v, d->err);
    return v;
}

float vd_derive_f32(struct vd_derive *d, const char *key)
{
    return get_f32(d, key, VD_GGUF_REQUIRED, 1.0f);
}

float vd_derive_f32_or(struct vd_derive *d, const char *key, float fallback)
{
    return get_f32(d, key, VD_GGUF_OPTIONAL, fallback);
}

struct vd_gguf_str vd_derive_str_or(struct vd_derive *d, const char *key, const char *fallback)
{
    char name[KEY_BYTES_MAX];
    struct vd_gguf_str s = {fallback, strlen(fallback)};
    ask(d, key, name);
    if (d->rc == VD_OK)
        d->rc = vd_gguf_get_str(d->g, name, VD_GGUF_OPTIONAL, &s, d->err);
    return s;
}

void vd_derive_layer_bits(struct vd_derive *d, const char *key, uint8_t flag)
{
    char name[KEY_BYTES_MAX];
    struct vd_gguf_array a = {.n = 0};
    ask(d, key, name);
    if (d->rc == VD_OK)
        d->rc = vd_gguf_get_array(d->g, name, VD_GGUF_REQUIRED, VD_GGUF_BOOL, &a, d->err);
    if (d->rc == VD_OK && a.n != d->p->n_layers)
        vd_derive_fail(d, VD_EFORMAT, "%s has %llu values for %u blocks", name, (unsigned long long)a.n,
                       d->p->n_layers);
    for (uint32_t l = 0; d->rc == VD_OK && l < d->p->n_layers; l++)
        d->p->layer_flags[l] |= vd_gguf_array_int(&a, l) ? flag : 0;
}

void vd_derive_expect_bool(struct vd_derive *d, const char *key, bool want, const char *why)
{
    char name[KEY_BYTES_MAX];
    bool v = want;
    ask(d, key, name);
    if (d->rc == VD_OK)
        d->rc = vd_gguf_get_bool(d->g, name, VD_GGUF_OPTIONAL, &v, d->err);
    if (v != want)
        vd_derive_fail(d, VD_EUNSUPPORTED, "%s is %s: %s", name, v ? "true" : "false", why);
}

bool vd_derive_has_tensor(const struct vd_derive *d, const char *name)
{
    char whole[VD_GGUF_NAME_BYTES_MAX + 1];
    snprintf(whole, sizeof whole, "blk.0.%s", name);
    return vd_gguf_tensor_find(d->g, whole) != NULL;
}

bool vd_derive_floats(struct vd_derive *d, const char *name, uint32_t n, float *out)
{
    const struct vd_gguf_tensor *t = vd_gguf_tensor_find(d->g, name);
    if (!t || d->rc != VD_OK)
        return false;
    if (t->type_id != VD_WTYPE_F32 || t->n_dims != 1 || t->ne[0] != n) {
        vd_derive_fail(d, VD_EFORMAT,
                       "tensor %s has type %s and %llu elements in %u dimensions; it must be F32 "
                       "and %u in one",
                       name, t->type->name, (unsigned long long)t->ne[0], t->n_dims, n);
        return false;
    }
    for (uint32_t i = 0; i < n; i++)
        out[i] = vd_f32_from_bits(vd_le32_load(t->p + 4 * i));
    assert(d->n_used < VD_DERIVE_USED_MAX);
    d->used[d->n_used++] = name;
    return true;
}

/* ------------------------- what nobody asked for ------------------------- */

static bool was_asked(const struct vd_derive *d, struct vd_gguf_str rest)
{
    for (size_t i = 0; i < d->n_asked; i++)
        if (vd_gguf_str_eq(rest, d->asked[i]))
            return true;
    return false;
}

/* Stands before every other fault of the file: a key of a variant that is not known explains the others. */
static void check_keys(struct vd_derive *d)
{
    size_t n_prefix = strlen(d->arch), at = 0;
    for (size_t i = 0; i < vd_gguf_kv_count(d->g); i++) {
        struct vd_gguf_str key = vd_gguf_kv_at(d->g, i)->key;
        if (key.n <= n_prefix || memcmp(key.p, d->arch, n_prefix) != 0 || key.p[n_prefix] != '.')
            continue;
        struct vd_gguf_str rest = {key.p + n_prefix + 1, key.n - n_prefix - 1};
        if (was_asked(d, rest))
            continue;
        char list[LIST_BYTES] = "";
        for (size_t k = 0; k < d->n_asked && at < sizeof list; k++)
            at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", k ? ", " : "", d->asked[k]);
        d->rc = VD_OK;
        vd_derive_fail(d, VD_EUNSUPPORTED,
                       "key '%.*s' means a variant of %s that is not known; known are: %s",
                       (int)(key.n < 64 ? key.n : 64), key.p, d->arch, list);
        return;
    }
}

static bool is_used(const struct vd_derive *d, const struct vd_gguf_tensor *t)
{
    char name[VD_GGUF_NAME_BYTES_MAX + 1];
    unsigned layer = UINT32_MAX;
    snprintf(name, sizeof name, "%.*s", (int)t->name.n, t->name.p);
    for (size_t i = 0; i < d->n_used; i++)
        if (strcmp(name, d->used[i]) == 0)
            return true;
    uint32_t per = vd_program_per_layer(d->p), norm = vd_program_norm_tensor(d->p);
    sscanf(name, "blk.%9u.", &layer);
    uint32_t before = norm - per * d->p->n_layers; /* tensors before the layers */
    uint32_t first = layer < d->p->n_layers ? before + per * layer : norm;
    uint32_t end = layer < d->p->n_layers ? first + per : d->p->n_tensors;
    struct vd_derive_place at;
    for (uint32_t i = first; i < end; i++)
        if (vd_derive_find(d->p, d->g, i, &at) && at.file == t)
            return true;
    for (uint32_t i = 0; i < before; i++)
        if (vd_derive_find(d->p, d->g, i, &at) && at.file == t)
            return true;
    return false;
}

/* All tensors of the program are there and names are unique, so more tensors mean unknown ones. */
static void check_tensors(struct vd_derive *d)
{
    size_t n = d->n_used;
    for (uint32_t i = 0; i < d->p->n_tensors; i++) {
        struct vd_derive_place at;
        n += vd_derive_find(d->p, d->g, i, &at) && at.p == at.file->p; /* a fused tensor counts once */
    }
    if (d->rc != VD_OK || n == vd_gguf_tensor_count(d->g))
        return;
    for (size_t i = 0; i < vd_gguf_tensor_count(d->g); i++) {
        const struct vd_gguf_tensor *t = vd_gguf_tensor_at(d->g, i);
        if (!is_used(d, t))
            vd_derive_fail(d, VD_EUNSUPPORTED,
                           "tensor %.*s has no place in a %s of %u blocks, as far as it is known",
                           (int)t->name.n, t->name.p, d->arch, d->p->n_layers);
        if (d->rc != VD_OK)
            return;
    }
    vd_derive_fail(d, VD_EFORMAT, "a tensor stands for two of the program");
}

/* ------------------------- vocabulary, types, shapes ------------------------- */

/* The vocabulary's size is the embedding's; the key, where there is one, must agree. */
static void get_vocab(struct vd_derive *d)
{
    const struct vd_gguf_tensor *t = vd_gguf_tensor_find(d->g, "token_embd.weight");
    uint32_t rows = t && t->n_dims == 2 && t->ne[1] <= VD_PROGRAM_VOCAB_MAX ? (uint32_t)t->ne[1] : 0;
    uint32_t said = vd_derive_u32_or(d, "vocab_size", UINT32_MAX, rows);
    if (!t)
        vd_derive_fail(d, VD_ENOTFOUND, "tensor token_embd.weight is missing");
    else if (rows == 0)
        vd_derive_fail(d, VD_ELIMIT, "token_embd.weight has %llu rows in %u dimensions; at most %d in 2",
                       (unsigned long long)t->ne[1], t->n_dims, VD_PROGRAM_VOCAB_MAX);
    else if (said != rows)
        vd_derive_fail(d, VD_EFORMAT, "%s.vocab_size is %u, but token_embd.weight has %u rows", d->arch, said,
                       rows);
    d->p->vocab = rows ? rows : 1;
}

static void list_types(char out[LIST_BYTES])
{
    size_t at = 0;
    for (uint32_t id = 0; id < 64; id++)
        if (vd_wtype_known(id) && at < LIST_BYTES)
            at += (size_t)snprintf(out + at, LIST_BYTES - at, "%s%s", at ? ", " : "",
                                   vd_wtype_info((enum vd_wtype)id)->name);
}

static void get_type(struct vd_derive *d, uint32_t tensor)
{
    char name[VD_GGUF_NAME_BYTES_MAX + 1], list[LIST_BYTES];
    struct vd_derive_place at;
    vd_derive_tensor_name(d->p, tensor, name);
    if (!vd_derive_find(d->p, d->g, tensor, &at)) {
        vd_derive_fail(d, VD_ENOTFOUND, "tensor %s is missing (%u blocks are declared)", name,
                       d->p->n_layers);
    } else if (!vd_wtype_known(at.file->type_id)) {
        list_types(list);
        vd_derive_fail(d, VD_EUNSUPPORTED, "tensor %s has type %s; known are %s", name, at.file->type->name,
                       list);
    } else {
        d->p->types[tensor] = (uint8_t)at.file->type_id;
    }
}

static void get_types(struct vd_derive *d)
{
    struct vd_program *p = d->p;
    p->qkv_bias = vd_derive_has_tensor(d, "attn_q.bias") || vd_derive_has_tensor(d, "attn_qkv.bias");
    p->n_tensors = vd_program_norm_tensor(p);
    if (!vd_program_is_encoder(p))
        p->n_tensors += vd_gguf_tensor_find(d->g, "output.weight") ? 2 : 1;
    for (uint32_t i = 0; i < p->n_tensors && d->rc == VD_OK; i++)
        get_type(d, i);
}

static void check_shapes(struct vd_derive *d)
{
    for (uint32_t i = 0; i < d->p->n_tensors && d->rc == VD_OK; i++) {
        char name[VD_GGUF_NAME_BYTES_MAX + 1];
        struct vd_derive_place at;
        vd_derive_tensor_name(d->p, i, name);
        bool found = vd_derive_find(d->p, d->g, i, &at);
        assert(found);
        const struct vd_gguf_tensor *t = at.file;
        if (t->ne[0] != at.ne[0] || t->ne[1] != at.ne[1] || t->ne[2] != at.ne[2] || t->ne[3] != 1)
            vd_derive_fail(
                d, VD_EFORMAT,
                "tensor %.*s is %llu x %llu x %llu; by the file's own sizes it must be %llu x %llu x %llu",
                (int)t->name.n, t->name.p, (unsigned long long)t->ne[0], (unsigned long long)t->ne[1],
                (unsigned long long)t->ne[2], (unsigned long long)at.ne[0], (unsigned long long)at.ne[1],
                (unsigned long long)at.ne[2]);
    }
}

/* ------------------------- the rule ------------------------- */

/* Encoders that are not among the rules: told apart, so that a user knows what to look for instead. */
static bool is_other_encoder(struct vd_gguf_str name)
{
    static const char *const encoders[] = {"nomic-bert-moe", "jina-bert-v2", "jina-bert-v3",    "modern-bert",
                                           "neo-bert",       "eurobert",     "gemma-embedding", "t5encoder"};
    for (size_t i = 0; i < sizeof encoders / sizeof encoders[0]; i++)
        if (name.n == strlen(encoders[i]) && memcmp(name.p, encoders[i], name.n) == 0)
            return true;
    return false;
}

static const struct vd_derive_arch *get_arch(struct vd_derive *d)
{
    struct vd_gguf_str name = {"", 0};
    char list[LIST_BYTES];
    d->rc = vd_gguf_get_str(d->g, "general.architecture", VD_GGUF_REQUIRED, &name, d->err);
    if (d->rc != VD_OK)
        return NULL;
    const struct vd_derive_arch *arch = vd_derive_find_arch(name);
    vd_derive_list_archs(list, sizeof list);
    if (!arch && is_other_encoder(name))
        vd_derive_fail(d, VD_EUNSUPPORTED,
                       "architecture '%.*s' is an encoder that is not run here; encoders that are: bert, "
                       "nomic-bert; and any decoder gives vectors, best one made for it, such as "
                       "Qwen3-Embedding; known are: %s",
                       (int)name.n, name.p, list);
    else if (!arch)
        vd_derive_fail(d, VD_EUNSUPPORTED, "architecture '%.*s' is not known; known are: %s",
                       (int)(name.n < 64 ? name.n : 64), name.p, list);
    return arch;
}

bool vd_derive_is_encoder(const struct vd_gguf *g)
{
    struct vd_gguf_str name = {"", 0};
    if (vd_gguf_get_str(g, "general.architecture", VD_GGUF_OPTIONAL, &name, NULL) != VD_OK)
        return false;
    const struct vd_derive_arch *arch = vd_derive_find_arch(name);
    return arch && arch->is_encoder;
}

enum vd_err vd_derive_program(struct vd_program *out, const struct vd_gguf *g, struct vd_error *err)
{
    struct vd_derive d = {.p = out, .g = g, .err = err};
    const struct vd_derive_arch *arch = get_arch(&d);
    memset(out, 0, sizeof *out);
    if (!arch)
        return d.rc;
    out->arith_version = VD_ARITH_VERSION;
    out->kind = VD_PROGRAM_DECODER;
    d.arch = arch->name;
    arch->build(&d);
    get_vocab(&d);
    check_keys(&d);
    if (d.rc == VD_OK && !vd_program_is_encoder(out))
        vd_derive_stops(&d);
    if (d.rc == VD_OK)
        get_types(&d);
    if (d.rc != VD_OK)
        return d.rc;
    const char *why = vd_program_check(out);
    if (why)
        return vd_error_set(err, VD_EUNSUPPORTED, "%s: no program of this version: %s", vd_gguf_name(g), why);
    check_shapes(&d);
    check_tensors(&d);
    return d.rc;
}
