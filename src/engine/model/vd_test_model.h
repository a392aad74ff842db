/* Small random models of every architecture and weight type, for the tests of this folder and of those below
 * it, and for programs that write such files. Not for anything that ships.
 *
 * The weights are drawn from a seed, so a model is the same everywhere; scales are chosen so that activations
 * neither die out nor overflow. A model is a list of tensors, walked twice: once for the file's head and once
 * for the data, so that a large one can be written row by row. */
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

enum vd_test_rope {
    VD_TEST_ROPE_PLAIN,
    VD_TEST_ROPE_LINEAR,
    VD_TEST_ROPE_YARN,
    VD_TEST_ROPE_FREQS,
    VD_TEST_ROPE_LONG
};

/* A step through a long list of cases: 1, but `step` where VD_QUICK is set, as under sanitizers. */
static inline size_t vd_test_step(size_t step)
{
    return getenv("VD_QUICK") ? step : 1;
}

struct vd_test_model {
    const char *arch; /* the architecture's name in the file */
    uint32_t n_layers, width, n_heads, n_kv_heads, head_dim, ff_width, vocab, ctx;
    enum vd_wtype embd, mats; /* types of the embedding (and a head of its own) and of the matrices */
    enum vd_wtype v_down;     /* type of attn_v and ffn_down, if `mixed` */
    bool mixed, untied;
    bool bias, qk_norm, post_norms, caps;
    bool fused; /* q, k, v in one tensor, and gate and up */
    bool encoder, causal;
    uint32_t pooling;           /* of an encoder, as GGUF counts: 1 mean, 2 CLS */
    uint32_t n_experts, n_used; /* 0: dense */
    uint32_t window, n_rope;    /* 0: none, all pairs */
    enum vd_test_rope rope;
    bool tokenizer; /* with pieces, so that other engines load it; vocab is then at least 259 */
    uint32_t stop;  /* a stop token (the eos id), or UINT32_MAX */
    uint64_t seed;
};

/* vocab is no multiple of the kernels' row groups, and no width is a power of two. */
static const struct vd_test_model vd_test_model_default = {
    .arch = "llama",
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

/* ------------------------- every architecture ------------------------- */

/* A form of model: an architecture, and what sets it apart. */
struct vd_test_form {
    const char *name, *arch;
    bool bias, qk_norm, post_norms, caps, fused;
    uint32_t n_experts, n_used, window, n_rope;
    enum vd_test_rope rope;
    uint32_t pooling;
};

static const struct vd_test_form vd_test_forms[] = {
    {.name = "llama", .arch = "llama"},
    {.name = "llama3", .arch = "llama", .rope = VD_TEST_ROPE_FREQS},
    {.name = "llama-linear", .arch = "llama", .rope = VD_TEST_ROPE_LINEAR, .bias = true},
    {.name = "llama-yarn", .arch = "llama", .rope = VD_TEST_ROPE_YARN},
    {.name = "mixtral", .arch = "llama", .n_experts = 8, .n_used = 2},
    {.name = "smollm3", .arch = "smollm3"},
    {.name = "qwen2", .arch = "qwen2", .bias = true},
    {.name = "qwen3", .arch = "qwen3", .qk_norm = true},
    {.name = "qwen3moe", .arch = "qwen3moe", .qk_norm = true, .n_experts = 20, .n_used = 4},
    {.name = "gemma", .arch = "gemma"},
    {.name = "gemma2", .arch = "gemma2", .post_norms = true, .caps = true, .window = 40},
    {.name = "gemma3", .arch = "gemma3", .post_norms = true, .qk_norm = true, .window = 40},
    {.name = "phi3", .arch = "phi3", .fused = true},
    {.name = "phi3-long", .arch = "phi3", .fused = true, .rope = VD_TEST_ROPE_LONG, .n_rope = 24},
    {.name = "bert", .arch = "bert", .bias = true, .pooling = 2},
    {.name = "bert-fused", .arch = "bert", .bias = true, .fused = true, .pooling = 1},
    {.name = "nomic-bert", .arch = "nomic-bert", .fused = true, .pooling = 1},
};

/* Encoders stand behind the decoders. */
enum {
    VD_TEST_ALL_FORMS = sizeof vd_test_forms / sizeof *vd_test_forms,
    VD_TEST_ENCODERS = 3,
    VD_TEST_FORMS = VD_TEST_ALL_FORMS - VD_TEST_ENCODERS
};

/* The default model in that form. */
static inline struct vd_test_model vd_test_model_of(const struct vd_test_form *f)
{
    struct vd_test_model t = vd_test_model_default;
    t.arch = f->arch;
    t.bias = f->bias;
    t.qk_norm = f->qk_norm;
    t.post_norms = f->post_norms;
    t.caps = f->caps;
    t.fused = f->fused;
    t.n_experts = f->n_experts;
    t.n_used = f->n_used;
    t.window = f->window;
    t.n_rope = f->n_rope;
    t.rope = f->rope;
    t.pooling = f->pooling;
    t.encoder = f->pooling != 0;
    if (f->n_experts)
        t.ff_width = 96;
    if (t.encoder) { /* heads are all alike, and as wide as the width together */
        t.width = 192;
        t.n_heads = t.n_kv_heads = 3;
        t.ctx = 300;
    }
    if (strcmp(f->arch, "smollm3") == 0)
        t.n_layers = 4; /* the last of which does not rotate */
    if (strcmp(f->arch, "gemma3") == 0)
        t.n_layers = 6; /* the last of which sees everything */
    return t;
}

static inline const struct vd_test_form *vd_test_form(const char *name)
{
    for (size_t i = 0; i < VD_TEST_ALL_FORMS; i++)
        if (strcmp(vd_test_forms[i].name, name) == 0)
            return &vd_test_forms[i];
    return NULL;
}

/* Sizes that every weight type fits, and a tokenizer. */
static inline void vd_test_model_widen(struct vd_test_model *t)
{
    t->width = 256;
    if (t->encoder)
        t->n_heads = t->n_kv_heads = 4;
    t->ff_width = t->n_experts ? 256 : 768;
    t->vocab = 323;
    t->tokenizer = true;
}

/* ------------------------- weights ------------------------- */

static inline float vd_test_uniform(struct vd_rng *r) /* [-1, 1) */
{
    return (float)((double)(vd_rng_next(r) >> 11) * 0x1p-52 - 1.0);
}

/* The largest magnitude of a type's integers, times its sub-scales', and (in units of d) what the min must be
 * to centre them. */
static inline float vd_test_half(enum vd_wtype type, float *min)
{
    *min = 0.0f;
    switch (type) {
    case VD_WTYPE_F32:
    case VD_WTYPE_F16:
    case VD_WTYPE_BF16:
    case VD_WTYPE_MXFP4:
        return 1.0f;
    case VD_WTYPE_Q8_0:
    case VD_WTYPE_IQ4_NL:
        return 127.0f;
    case VD_WTYPE_Q4_0:
        return 8.0f;
    case VD_WTYPE_Q4_1:
        *min = 0.5f - 8.0f;
        return 8.0f;
    case VD_WTYPE_Q5_0:
        return 16.0f;
    case VD_WTYPE_Q5_1:
        *min = 0.5f - 16.0f;
        return 16.0f;
    case VD_WTYPE_Q2_K:
        *min = 1.5f;
        return 2.0f * 15.0f;
    case VD_WTYPE_Q3_K:
        return 4.0f * 32.0f;
    case VD_WTYPE_Q4_K:
        *min = 7.5f;
        return 8.0f * 63.0f;
    case VD_WTYPE_Q5_K:
        *min = 15.5f;
        return 16.0f * 63.0f;
    case VD_WTYPE_Q6_K:
        return 32.0f * 127.0f;
    case VD_WTYPE_IQ4_XS:
        return 127.0f * 32.0f;
    }
    return 1.0f;
}

/* One block whose elements are roughly uniform in +-amplitude. */
static inline void vd_test_block(enum vd_wtype type, float amplitude, struct vd_rng *r, uint8_t *out)
{
    const struct vd_wtype_info *info = vd_wtype_info(type);
    float min, half = vd_test_half(type, &min), d = amplitude / half * (1.0f + 0.3f * vd_test_uniform(r));
    if (type == VD_WTYPE_F32) {
        vd_le32_store(out, vd_f32_bits(amplitude * vd_test_uniform(r)));
        return;
    }
    if (type == VD_WTYPE_F16) {
        vd_le16_store(out, vd_f16_from_f32(amplitude * vd_test_uniform(r)));
        return;
    }
    if (type == VD_WTYPE_BF16) {
        vd_le16_store(out, (uint16_t)(vd_f32_bits(amplitude * vd_test_uniform(r)) >> 16));
        return;
    }
    for (uint32_t i = 0; i < info->block_bytes; i++)
        out[i] = (uint8_t)vd_rng_next(r);
    if (type == VD_WTYPE_MXFP4) {
        out[0] = (uint8_t)(128 + ilogbf(d / 12.0f)); /* the integers go to 12 */
        return;
    }
    vd_le16_store(out + info->d_at, vd_f16_from_f32(d));
    if (info->has_min)
        vd_le16_store(out + info->min_at, vd_f16_from_f32(min * d));
}

/* ------------------------- tensors ------------------------- */

/* What is done with each tensor of the list. */
struct vd_test_sink {
    struct vd_gguf_writer *w;
    bool in_memory;  /* infos and data go to w; else infos only, or data only */
    FILE *data;      /* NULL: infos */
    uint64_t n_data; /* written */
    struct vd_rng rng;
};

static inline void vd_test_rows(struct vd_test_sink *k, enum vd_wtype type, uint64_t n_blocks,
                                float amplitude, float offset, uint8_t *bytes)
{
    const struct vd_wtype_info *info = vd_wtype_info(type);
    for (uint64_t i = 0; i < n_blocks; i++) {
        uint8_t *b = bytes + i * info->block_bytes;
        vd_test_block(type, amplitude, &k->rng, b);
        if (type == VD_WTYPE_F32 && offset != 0.0f)
            vd_le32_store(b, vd_f32_bits(vd_f32_from_bits(vd_le32_load(b)) + offset));
    }
}

/* rows x cols, in `parts` slices if that is not 0. */
static inline void vd_test_put(struct vd_test_sink *k, const char *name, enum vd_wtype type, uint32_t rows,
                               uint32_t cols, uint32_t parts, float amplitude, float offset)
{
    const struct vd_wtype_info *info = vd_wtype_info(type);
    uint64_t all_rows = (uint64_t)rows * (parts ? parts : 1), row_blocks = cols / info->block_elems;
    uint64_t ne[3] = {cols, rows, parts}, step = k->data ? 1 : all_rows;
    uint32_t n_dims = parts ? 3 : rows == 1 ? 1 : 2;
    size_t n_bytes = step * row_blocks * info->block_bytes;
    assert(cols % info->block_elems == 0);
    if (!k->data && !k->in_memory) {
        vd_gguf_add_tensor(k->w, name, type, ne, n_dims, NULL);
        return;
    }
    uint8_t *bytes = malloc(n_bytes);
    assert(bytes);
    for (uint64_t row = 0; row < all_rows; row += step) {
        vd_test_rows(k, type, step * row_blocks, amplitude, offset, bytes);
        if (k->data)
            k->n_data += fwrite(bytes, 1, n_bytes, k->data);
        else
            vd_gguf_add_tensor(k->w, name, type, ne, n_dims, bytes);
    }
    for (; k->data && k->n_data % VD_GGUF_ALIGNMENT_DEFAULT; k->n_data++)
        putc(0, k->data);
    free(bytes);
}

/* For callers that add a tensor to a file made in memory. */
static inline void vd_test_tensor(struct vd_gguf_writer *w, const char *name, enum vd_wtype type,
                                  uint32_t rows, uint32_t cols, float amplitude, float offset,
                                  struct vd_rng *r)
{
    struct vd_test_sink k = {.w = w, .in_memory = true, .rng = *r};
    vd_test_put(&k, name, type, rows, cols, 0, amplitude, offset);
    *r = k.rng;
}

static inline void vd_test_vector(struct vd_test_sink *k, uint32_t layer, const char *name, uint32_t n,
                                  float amplitude, float offset)
{
    char whole[64];
    snprintf(whole, sizeof whole, "blk.%u.%s", layer, name);
    vd_test_put(k, whole, VD_WTYPE_F32, 1, n, 0, amplitude, offset);
}

/* What stands behind the sums of an encoder, and its biases beyond those of q, k and v. */
static inline void vd_test_encoder_features(struct vd_test_sink *k, const struct vd_test_model *t, uint32_t l)
{
    static const char *const norms[2] = {"attn_output_norm", "layer_output_norm"};
    char name[32];
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s.weight", norms[i]);
        vd_test_vector(k, l, name, t->width, 0.5f, 1.0f);
        snprintf(name, sizeof name, "%s.bias", norms[i]);
        vd_test_vector(k, l, name, t->width, 0.3f, 0.0f);
    }
    if (t->bias) {
        vd_test_vector(k, l, "attn_output.bias", t->width, 0.3f, 0.0f);
        vd_test_vector(k, l, "ffn_up.bias", t->ff_width, 0.3f, 0.0f);
        vd_test_vector(k, l, "ffn_down.bias", t->width, 0.3f, 0.0f);
    }
}

static inline void vd_test_features(struct vd_test_sink *k, const struct vd_test_model *t, uint32_t l)
{
    uint32_t q = t->n_heads * t->head_dim, kv = t->n_kv_heads * t->head_dim;
    char name[64];
    if (t->bias && t->fused)
        vd_test_vector(k, l, "attn_qkv.bias", q + 2 * kv, 0.5f, 0.0f);
    if (t->bias && !t->fused) {
        vd_test_vector(k, l, "attn_q.bias", q, 0.5f, 0.0f);
        vd_test_vector(k, l, "attn_k.bias", kv, 0.5f, 0.0f);
        vd_test_vector(k, l, "attn_v.bias", kv, 0.5f, 0.0f);
    }
    if (t->qk_norm) {
        vd_test_vector(k, l, "attn_q_norm.weight", t->head_dim, 0.5f, 1.0f);
        vd_test_vector(k, l, "attn_k_norm.weight", t->head_dim, 0.5f, 1.0f);
    }
    if (t->post_norms) {
        vd_test_vector(k, l, "post_attention_norm.weight", t->width, 0.5f, 1.0f);
        vd_test_vector(k, l, "post_ffw_norm.weight", t->width, 0.5f, 1.0f);
    }
    if (t->n_experts) {
        snprintf(name, sizeof name, "blk.%u.ffn_gate_inp.weight", l);
        vd_test_put(k, name, VD_WTYPE_F32, t->n_experts, t->width, 0, 0.5f, 0.0f);
    }
}

static inline void vd_test_layer(struct vd_test_sink *k, const struct vd_test_model *t, uint32_t l)
{
    uint32_t q = t->n_heads * t->head_dim, kv = t->n_kv_heads * t->head_dim, d = t->width, f = t->ff_width,
             e = t->n_experts;
    bool ungated = strcmp(t->arch, "bert") == 0, both = t->fused && !t->encoder; /* gate and up in one */
    enum vd_wtype v_down = t->mixed ? t->v_down : t->mats;
    const struct {
        bool there;
        const char *name;
        enum vd_wtype type;
        uint32_t rows, cols, parts;
    } mats[] = {
        {t->fused, "attn_qkv", t->mats, q + 2 * kv, d, 0},
        {!t->fused, "attn_q", t->mats, q, d, 0},
        {!t->fused, "attn_k", t->mats, kv, d, 0},
        {!t->fused, "attn_v", v_down, kv, d, 0},
        {true, "attn_output", t->mats, d, q, 0},
        {both, "ffn_up", t->mats, 2 * f, d, 0},
        {!both && !e && !ungated, "ffn_gate", t->mats, f, d, 0},
        {!both && !e, "ffn_up", t->mats, f, d, 0},
        {!e, "ffn_down", v_down, d, f, 0},
        {e, "ffn_gate_exps", t->mats, f, d, e},
        {e, "ffn_up_exps", t->mats, f, d, e},
        {e, "ffn_down_exps", v_down, d, f, e},
    };
    char name[64];
    for (size_t i = 0; i < sizeof mats / sizeof *mats; i++) {
        snprintf(name, sizeof name, "blk.%u.%s.weight", l, mats[i].name);
        if (mats[i].there)
            vd_test_put(k, name, mats[i].type, mats[i].rows, mats[i].cols, mats[i].parts, 0.15f, 0.0f);
    }
    if (t->encoder) {
        vd_test_encoder_features(k, t, l);
    } else {
        vd_test_vector(k, l, "attn_norm.weight", d, 0.5f, 1.0f);
        vd_test_vector(k, l, "ffn_norm.weight", d, 0.5f, 1.0f);
    }
    vd_test_features(k, t, l);
}

static inline void vd_test_encoder_embed(struct vd_test_sink *k, const struct vd_test_model *t)
{
    vd_test_put(k, "token_types.weight", VD_WTYPE_F32, 2, t->width, 0, 0.5f, 0.0f);
    if (strcmp(t->arch, "bert") == 0)
        vd_test_put(k, "position_embd.weight", VD_WTYPE_F32, t->ctx, t->width, 0, 0.5f, 0.0f);
    vd_test_put(k, "token_embd_norm.weight", VD_WTYPE_F32, 1, t->width, 0, 0.5f, 1.0f);
    vd_test_put(k, "token_embd_norm.bias", VD_WTYPE_F32, 1, t->width, 0, 0.3f, 0.0f);
}

static inline void vd_test_tensors(struct vd_test_sink *k, const struct vd_test_model *t)
{
    uint32_t n_rope = t->n_rope ? t->n_rope : t->head_dim / 2;
    bool scaled = strncmp(t->arch, "gemma", 5) == 0; /* the layers must still count beside the embedding */
    vd_test_put(k, "token_embd.weight", t->embd, t->vocab, t->width, 0,
                scaled ? 1.0f / sqrtf((float)t->width) : 1.0f, 0.0f);
    if (t->encoder)
        vd_test_encoder_embed(k, t);
    for (uint32_t l = 0; l < t->n_layers; l++)
        vd_test_layer(k, t, l);
    if (t->encoder)
        return;
    vd_test_put(k, "output_norm.weight", VD_WTYPE_F32, 1, t->width, 0, 0.5f, 1.0f);
    if (t->untied)
        vd_test_put(k, "output.weight", t->embd, t->vocab, t->width, 0, 1.0f, 0.0f);
    if (t->rope == VD_TEST_ROPE_FREQS)
        vd_test_put(k, "rope_freqs.weight", VD_WTYPE_F32, 1, n_rope, 0, 3.0f, 4.0f);
    if (t->rope == VD_TEST_ROPE_LONG) {
        vd_test_put(k, "rope_factors_long.weight", VD_WTYPE_F32, 1, n_rope, 0, 3.0f, 4.0f);
        vd_test_put(k, "rope_factors_short.weight", VD_WTYPE_F32, 1, n_rope, 0, 0.2f, 1.2f);
    }
}

/* ------------------------- keys ------------------------- */

static inline void vd_test_u32(struct vd_gguf_writer *w, const struct vd_test_model *t, const char *key,
                               uint32_t v)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", t->arch, key);
    vd_gguf_add_u32(w, name, v);
}

static inline void vd_test_f32(struct vd_gguf_writer *w, const struct vd_test_model *t, const char *key,
                               float v)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", t->arch, key);
    vd_gguf_add_f32(w, name, v);
}

static inline void vd_test_rope_keys(struct vd_gguf_writer *w, const struct vd_test_model *t)
{
    char name[96];
    snprintf(name, sizeof name, "%s.rope.scaling.type", t->arch);
    vd_test_f32(w, t, "rope.freq_base", 10000.0f);
    if (t->n_rope)
        vd_test_u32(w, t, "rope.dimension_count", 2 * t->n_rope);
    if (t->rope == VD_TEST_ROPE_LINEAR || t->rope == VD_TEST_ROPE_YARN) {
        vd_gguf_add_str(w, name, t->rope == VD_TEST_ROPE_YARN ? "yarn" : "linear");
        vd_test_f32(w, t, "rope.scaling.factor", 4.0f);
    }
    if (t->rope == VD_TEST_ROPE_YARN || t->rope == VD_TEST_ROPE_LONG)
        vd_test_u32(w, t, "rope.scaling.original_context_length", t->ctx / 4);
    if (t->rope == VD_TEST_ROPE_LONG)
        vd_test_f32(w, t, "rope.scaling.attn_factor", 1.19f);
}

/* Pieces as SentencePiece has them: three control tokens, all bytes, and words. */
static inline void vd_test_tokenizer_keys(struct vd_gguf_writer *w, const struct vd_test_model *t)
{
    char(*text)[16] = calloc(t->vocab, sizeof *text);
    struct vd_gguf_str *piece = calloc(t->vocab, sizeof *piece);
    float *score = calloc(t->vocab, sizeof *score);
    int32_t *type = calloc(t->vocab, sizeof *type);
    static const char *const control[3] = {"<unk>", "<s>", "</s>"};
    assert(text && piece && score && type && t->vocab >= 259);
    for (uint32_t i = 0; i < t->vocab; i++) {
        if (i < 3)
            snprintf(text[i], sizeof *text, "%s", control[i]);
        else
            snprintf(text[i], sizeof *text, i < 259 ? "<0x%02X>" : "w%u", i < 259 ? i - 3 : i);
        piece[i] = (struct vd_gguf_str){text[i], strlen(text[i])};
        type[i] = i == 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1;
        score[i] = -(float)i;
    }
    vd_gguf_add_str(w, "tokenizer.ggml.model", "llama");
    vd_gguf_add_array_str(w, "tokenizer.ggml.tokens", piece, t->vocab);
    vd_gguf_add_array_f32(w, "tokenizer.ggml.scores", score, t->vocab);
    vd_gguf_add_array_i32(w, "tokenizer.ggml.token_type", type, t->vocab);
    vd_gguf_add_u32(w, "tokenizer.ggml.bos_token_id", 1);
    vd_gguf_add_u32(w, "tokenizer.ggml.unknown_token_id", 0);
    if (t->stop == UINT32_MAX)
        vd_gguf_add_u32(w, "tokenizer.ggml.eos_token_id", 2);
    free(text);
    free(piece);
    free(score);
    free(type);
}

static inline void vd_test_keys(struct vd_gguf_writer *w, const struct vd_test_model *t)
{
    vd_gguf_add_str(w, "general.architecture", t->arch);
    vd_test_u32(w, t, "block_count", t->n_layers);
    vd_test_u32(w, t, "embedding_length", t->width);
    vd_test_u32(w, t, "feed_forward_length", t->ff_width);
    vd_test_u32(w, t, "attention.head_count", t->n_heads);
    vd_test_u32(w, t, "attention.head_count_kv", t->n_kv_heads);
    vd_test_u32(w, t, "attention.key_length", t->head_dim);
    vd_test_u32(w, t, "attention.value_length", t->head_dim);
    vd_test_u32(w, t, "context_length", t->ctx);
    if (t->encoder) {
        char name[96];
        snprintf(name, sizeof name, "%s.attention.causal", t->arch);
        vd_gguf_add_bool(w, name, t->causal);
        vd_test_f32(w, t, "attention.layer_norm_epsilon", 1e-12f);
        vd_test_u32(w, t, "pooling_type", t->pooling);
        vd_gguf_add_u32(w, "tokenizer.ggml.token_type_count", 2);
    } else {
        vd_test_f32(w, t, "attention.layer_norm_rms_epsilon", 1e-5f);
    }
    if (strcmp(t->arch, "bert") != 0)
        vd_test_rope_keys(w, t);
    if (t->n_experts) {
        vd_test_u32(w, t, "expert_count", t->n_experts);
        vd_test_u32(w, t, "expert_used_count", t->n_used);
    }
    if (strcmp(t->arch, "qwen3moe") == 0)
        vd_test_u32(w, t, "expert_feed_forward_length", t->ff_width);
    if (t->window)
        vd_test_u32(w, t, "attention.sliding_window", t->window);
    if (t->caps) {
        vd_test_f32(w, t, "attn_logit_softcapping", 5.0f);
        vd_test_f32(w, t, "final_logit_softcapping", 3.0f);
    }
    if (t->stop != UINT32_MAX)
        vd_gguf_add_u32(w, "tokenizer.ggml.eos_token_id", t->stop);
    if (t->tokenizer)
        vd_test_tokenizer_keys(w, t);
}

/* ------------------------- files ------------------------- */

static inline void vd_test_die_if(enum vd_err rc, const struct vd_error *err)
{
    if (rc == VD_OK)
        return;
    fprintf(stderr, "%s\n", err->msg);
    abort();
}

/* The file's bytes, to be freed. `extra`, if not NULL, may add keys and tensors. */
static inline uint8_t *vd_test_model_bytes(const struct vd_test_model *t,
                                           void (*extra)(struct vd_gguf_writer *w), size_t *n_bytes)
{
    struct vd_test_sink k = {.w = vd_gguf_writer_new(64 << 20), .in_memory = true, .rng = {t->seed, 0}};
    uint8_t *bytes = NULL;
    struct vd_error err = {0};
    assert(k.w);
    vd_test_keys(k.w, t);
    vd_test_tensors(&k, t);
    if (extra)
        extra(k.w);
    vd_test_die_if(vd_gguf_writer_finish(k.w, &bytes, n_bytes, &err), &err);
    vd_gguf_writer_free(k.w);
    return bytes;
}

/* Writes a model of any size, row by row. False if the file cannot be written. */
static inline bool vd_test_model_save(const struct vd_test_model *t, const char *path)
{
    struct vd_test_sink k = {.w = vd_gguf_writer_new(64 << 20), .rng = {t->seed, 0}};
    uint8_t *head = NULL;
    size_t n;
    struct vd_error err = {0};
    assert(k.w);
    vd_test_keys(k.w, t);
    vd_test_tensors(&k, t);
    vd_test_die_if(vd_gguf_writer_head(k.w, &head, &n, &err), &err);
    k.data = fopen(path, "wb");
    bool ok = k.data && fwrite(head, 1, n, k.data) == n;
    if (ok)
        vd_test_tensors(&k, t);
    ok = ok && !ferror(k.data);
    if (k.data && fclose(k.data) != 0)
        ok = false;
    free(head);
    vd_gguf_writer_free(k.w);
    return ok;
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
