/* Small random llama models for the tests of this folder and of those below it. Only for *_test.c files.
 *
 * The weights are drawn from a seed, so a model is the same everywhere; scales are chosen so that activations
 * neither die out nor overflow. */
#ifndef VD_TEST_MODEL_H
#define VD_TEST_MODEL_H

#include "vd_file.h"
#include "vd_gguf_write.h"
#include "vd_program.h"
#include "vd_rng.h"
#include "vd_wtype.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct vd_test_model {
    uint32_t n_layers, width, n_heads, n_kv_heads, head_dim, ff_width, vocab, ctx;
    enum vd_wtype embd, mats; /* types of the embedding (and a head of its own) and of the matrices */
    bool untied;
    uint32_t stop; /* a stop token (the eos id), or UINT32_MAX */
    uint64_t seed;
};

/* vocab is no multiple of the kernels' row groups, and no width is a power of two. */
static const struct vd_test_model vd_test_model_default = {
    .n_layers = 3,
    .width = 160,
    .n_heads = 4,
    .n_kv_heads = 2,
    .head_dim = 64,
    .ff_width = 544,
    .vocab = 203,
    .ctx = 512,
    .embd = VD_WTYPE_Q8_0,
    .mats = VD_WTYPE_Q4_1,
    .stop = UINT32_MAX,
    .seed = 1,
};

static inline float vd_test_uniform(struct vd_rng *r) /* [-1, 1) */
{
    return (float)((double)(vd_rng_next(r) >> 11) * 0x1p-52 - 1.0);
}

/* One block whose elements are roughly uniform in +-amplitude. */
static inline void vd_test_block(enum vd_wtype type, float amplitude, struct vd_rng *r, uint8_t *out)
{
    const struct vd_wtype_info *info = vd_wtype_info(type);
    float half = type == VD_WTYPE_Q8_0 || type == VD_WTYPE_IQ4_NL ? 127.0f
                 : type == VD_WTYPE_Q5_0 || type == VD_WTYPE_Q5_1 ? 16.0f
                                                                  : 8.0f;
    float d = amplitude / half * (1.0f + 0.3f * vd_test_uniform(r));
    switch (type) {
    case VD_WTYPE_F32:
        vd_le32_store(out, vd_f32_bits(amplitude * vd_test_uniform(r)));
        return;
    case VD_WTYPE_F16:
        vd_le16_store(out, vd_f16_from_f32(amplitude * vd_test_uniform(r)));
        return;
    case VD_WTYPE_BF16:
        vd_le16_store(out, (uint16_t)(vd_f32_bits(amplitude * vd_test_uniform(r)) >> 16));
        return;
    case VD_WTYPE_Q4_0:
    case VD_WTYPE_Q4_1:
    case VD_WTYPE_Q5_0:
    case VD_WTYPE_Q5_1:
    case VD_WTYPE_Q8_0:
    case VD_WTYPE_IQ4_NL:
        for (uint32_t i = 0; i < info->block_bytes; i++)
            out[i] = (uint8_t)vd_rng_next(r);
        vd_le16_store(out, vd_f16_from_f32(d));
        if (info->has_min)
            vd_le16_store(out + 2, vd_f16_from_f32((0.5f - half) * d));
        return;
    case VD_WTYPE_MXFP4:
        for (uint32_t i = 0; i < info->block_bytes; i++)
            out[i] = (uint8_t)vd_rng_next(r);
        out[0] = (uint8_t)(128 + ilogbf(amplitude / 12.0f));
        return;
    case VD_WTYPE_Q2_K:
    case VD_WTYPE_Q3_K:
    case VD_WTYPE_Q4_K:
    case VD_WTYPE_Q5_K:
    case VD_WTYPE_Q6_K:
    case VD_WTYPE_IQ4_XS: {
        struct vd_wtype_super s;
        int most = 1, most_min = 1;
        for (uint32_t i = 0; i < info->block_bytes; i++)
            out[i] = (uint8_t)vd_rng_next(r);
        vd_wtype_super_parts(type, out, &s);
        for (uint32_t i = 0; i < VD_SUPER_ELEMS; i++) {
            int v = abs(s.sc[i / 16] * s.w[i]);
            most = v > most ? v : most;
            most_min = s.m[i / 16] > most_min ? s.m[i / 16] : most_min;
        }
        vd_le16_store(out + info->d_at, vd_f16_from_f32(amplitude / (float)most));
        if (info->has_min)
            vd_le16_store(out + info->min_at, vd_f16_from_f32(amplitude / (float)most_min));
        return;
    }
    }
}

static inline void vd_test_tensor(struct vd_gguf_writer *w, const char *name, enum vd_wtype type,
                                  uint32_t rows, uint32_t cols, float amplitude, float offset,
                                  struct vd_rng *r)
{
    const struct vd_wtype_info *info = vd_wtype_info(type);
    size_t n_blocks = (size_t)rows * cols / info->block_elems;
    uint8_t *bytes = malloc(n_blocks * info->block_bytes);
    uint64_t ne[2] = {cols, rows};
    assert(bytes);
    for (size_t i = 0; i < n_blocks; i++) {
        vd_test_block(type, amplitude, r, bytes + i * info->block_bytes);
        if (type == VD_WTYPE_F32 && offset != 0.0f)
            vd_le32_store(bytes + 4 * i, vd_f32_bits(vd_f32_from_bits(vd_le32_load(bytes + 4 * i)) + offset));
    }
    vd_gguf_add_tensor(w, name, type, ne, rows == 1 ? 1 : 2, bytes);
    free(bytes);
}

static inline void vd_test_keys(struct vd_gguf_writer *w, const struct vd_test_model *t)
{
    vd_gguf_add_str(w, "general.architecture", "llama");
    vd_gguf_add_u32(w, "llama.block_count", t->n_layers);
    vd_gguf_add_u32(w, "llama.embedding_length", t->width);
    vd_gguf_add_u32(w, "llama.feed_forward_length", t->ff_width);
    vd_gguf_add_u32(w, "llama.attention.head_count", t->n_heads);
    vd_gguf_add_u32(w, "llama.attention.head_count_kv", t->n_kv_heads);
    vd_gguf_add_u32(w, "llama.attention.key_length", t->head_dim);
    vd_gguf_add_u32(w, "llama.attention.value_length", t->head_dim);
    vd_gguf_add_u32(w, "llama.context_length", t->ctx);
    vd_gguf_add_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    vd_gguf_add_f32(w, "llama.rope.freq_base", 10000.0f);
    if (t->stop != UINT32_MAX)
        vd_gguf_add_u32(w, "tokenizer.ggml.eos_token_id", t->stop);
}

static inline void vd_test_layer(struct vd_gguf_writer *w, const struct vd_test_model *t, uint32_t l,
                                 struct vd_rng *r)
{
    uint32_t q = t->n_heads * t->head_dim, kv = t->n_kv_heads * t->head_dim;
    const struct {
        const char *name;
        uint32_t rows, cols;
    } mats[] = {
        {"attn_q", q, t->width},
        {"attn_k", kv, t->width},
        {"attn_v", kv, t->width},
        {"attn_output", t->width, q},
        {"ffn_gate", t->ff_width, t->width},
        {"ffn_up", t->ff_width, t->width},
        {"ffn_down", t->width, t->ff_width},
    };
    char name[64];
    for (size_t i = 0; i < sizeof mats / sizeof *mats; i++) {
        snprintf(name, sizeof name, "blk.%u.%s.weight", l, mats[i].name);
        vd_test_tensor(w, name, t->mats, mats[i].rows, mats[i].cols, 0.15f, 0.0f, r);
    }
    snprintf(name, sizeof name, "blk.%u.attn_norm.weight", l);
    vd_test_tensor(w, name, VD_WTYPE_F32, 1, t->width, 0.5f, 1.0f, r);
    snprintf(name, sizeof name, "blk.%u.ffn_norm.weight", l);
    vd_test_tensor(w, name, VD_WTYPE_F32, 1, t->width, 0.5f, 1.0f, r);
}

/* The file's bytes, to be freed. `extra`, if not NULL, may add keys and tensors. */
static inline uint8_t *vd_test_model_bytes(const struct vd_test_model *t,
                                           void (*extra)(struct vd_gguf_writer *w), size_t *n_bytes)
{
    struct vd_rng r = {t->seed, 0};
    struct vd_gguf_writer *w = vd_gguf_writer_new(64 << 20);
    uint8_t *bytes = NULL;
    struct vd_error err = {0};
    assert(w);
    vd_test_keys(w, t);
    vd_test_tensor(w, "token_embd.weight", t->embd, t->vocab, t->width, 1.0f, 0.0f, &r);
    for (uint32_t l = 0; l < t->n_layers; l++)
        vd_test_layer(w, t, l, &r);
    vd_test_tensor(w, "output_norm.weight", VD_WTYPE_F32, 1, t->width, 0.5f, 1.0f, &r);
    if (t->untied)
        vd_test_tensor(w, "output.weight", t->embd, t->vocab, t->width, 1.0f, 0.0f, &r);
    if (extra)
        extra(w);
    if (vd_gguf_writer_finish(w, &bytes, n_bytes, &err) != VD_OK) {
        fprintf(stderr, "%s\n", err.msg);
        abort();
    }
    vd_gguf_writer_free(w);
    return bytes;
}

/* Writes bytes to a new temporary file; `path` gets its name. The caller unlinks it. */
static inline void vd_test_write_file(const uint8_t *bytes, size_t n_bytes, char path[VD_PATH_MAX])
{
    const char *dir = getenv("TMPDIR");
    snprintf(path, VD_PATH_MAX, "%s/vd_test_XXXXXX", dir ? dir : "/tmp");
    int fd = mkstemp(path);
    size_t at = 0;
    while (fd >= 0 && at < n_bytes) {
        ssize_t n = write(fd, bytes + at, n_bytes - at);
        assert(n > 0);
        at += (size_t)n;
    }
    assert(fd >= 0);
    close(fd);
}

/* Makes a model and writes it to a temporary file. */
static inline void vd_test_model_file(const struct vd_test_model *t, char path[VD_PATH_MAX])
{
    size_t n;
    uint8_t *bytes = vd_test_model_bytes(t, NULL, &n);
    vd_test_write_file(bytes, n, path);
    free(bytes);
}

#endif
