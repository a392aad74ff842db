/* One builder per architecture: what sets it apart from a plain llama, in the words of its paper. The widths
 * of heads and feed-forward, the norms' places and the order of operators are those of every one of them. */
#include "vd_derive_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ------------------------- parts ------------------------- */

static void heads(struct vd_derive *d)
{
    struct vd_program *p = d->p;
    bool given = vd_derive_has(d, "attention.key_length");
    uint32_t k = vd_derive_u32_or(d, "attention.key_length", UINT32_MAX, p->width / p->n_heads);
    uint32_t v = vd_derive_u32_or(d, "attention.value_length", UINT32_MAX, k);
    if (k != v)
        vd_derive_fail(d, VD_EUNSUPPORTED, "keys of %u and values of %u elements; they must be alike", k, v);
    if (!given && p->width % p->n_heads)
        vd_derive_fail(d, VD_EFORMAT, "width %u is not a multiple of %u heads", p->width, p->n_heads);
    if (k == 0 || k > VD_PROGRAM_HEAD_DIM_MAX) /* before anybody makes that many RoPE steps */
        vd_derive_fail(d, VD_EUNSUPPORTED, "heads of %u elements; at most %d", k, VD_PROGRAM_HEAD_DIM_MAX);
    p->head_dim = k;
}

/* What every transformer has. */
static void sizes(struct vd_derive *d)
{
    struct vd_program *p = d->p;
    p->n_layers = vd_derive_u32(d, "block_count", VD_PROGRAM_LAYERS_MAX);
    p->width = vd_derive_u32(d, "embedding_length", VD_PROGRAM_WIDTH_MAX);
    p->n_heads = vd_derive_u32(d, "attention.head_count", VD_PROGRAM_HEADS_MAX);
    p->n_kv_heads = vd_derive_u32_or(d, "attention.head_count_kv", VD_PROGRAM_HEADS_MAX, p->n_heads);
    p->ctx = vd_derive_u32(d, "context_length", VD_PROGRAM_CTX_MAX);
    p->embed_scale = 1.0f;
    p->act = VD_ACT_SILU;
    vd_derive_u32_or(d, "pooling_type", UINT32_MAX, 0); /* of jobs for vectors: no part of the program */
    heads(d);
    p->attn_scale = 1.0f / sqrtf((float)p->head_dim);
}

static void decoder(struct vd_derive *d)
{
    sizes(d);
    d->p->eps = vd_derive_f32(d, "attention.layer_norm_rms_epsilon");
}

static void dense(struct vd_derive *d)
{
    d->p->ff_width = vd_derive_u32(d, "feed_forward_length", VD_PROGRAM_FF_MAX);
}

/* A softmax router whose chosen experts share the weight 1 (Shazeer et al. 2017, as in Mixtral). */
static void experts(struct vd_derive *d, const char *width_key)
{
    struct vd_program *p = d->p;
    p->ff_width = vd_derive_u32(d, width_key, VD_PROGRAM_FF_MAX);
    p->n_experts = vd_derive_u32(d, "expert_count", VD_PROGRAM_EXPERTS_MAX);
    p->n_used = vd_derive_u32(d, "expert_used_count", VD_PROGRAM_USED_MAX);
    p->route_norm = true;
}

/* Where the layers with a window stand: in every run of `period` layers all but the last, unless the file
 * says otherwise. */
static void pattern(struct vd_derive *d, uint32_t period)
{
    static const char key[] = "attention.sliding_window_pattern";
    struct vd_program *p = d->p;
    if (vd_derive_is_array(d, key)) {
        vd_derive_layer_bits(d, key, VD_LAYER_WINDOW);
        return;
    }
    period = vd_derive_u32_or(d, key, VD_PROGRAM_LAYERS_MAX, period);
    for (uint32_t l = 0; l < p->n_layers; l++)
        if (period == 0 || l % period < period - 1)
            p->layer_flags[l] |= VD_LAYER_WINDOW;
}

/* All layers have the window that the file declares, if it is shorter than the context. */
static void window_everywhere(struct vd_derive *d)
{
    struct vd_program *p = d->p;
    uint32_t window = vd_derive_u32_or(d, "attention.sliding_window", UINT32_MAX, 0);
    if (window == 0 || window >= p->ctx)
        return;
    p->window = window;
    memset(p->layer_flags, VD_LAYER_WINDOW, p->n_layers);
}

/* Layers with a window rotate by table 1. */
static void windows_rotate_by(struct vd_derive *d, float base)
{
    vd_derive_rope2(d, base);
    for (uint32_t l = 0; l < d->p->n_layers; l++)
        if (d->p->layer_flags[l] & VD_LAYER_WINDOW)
            d->p->layer_flags[l] |= VD_LAYER_ROPE2;
}

/* ------------------------- architectures ------------------------- */

/* Llama 1 to 3 (Touvron et al. 2023, Grattafiori et al. 2024), and those of the same form: Mistral,
 * TinyLlama, SmolLM 1 and 2; with experts Mixtral (Jiang et al. 2024). */
static void build_llama(struct vd_derive *d)
{
    decoder(d);
    if (vd_derive_has(d, "expert_count"))
        experts(d, "feed_forward_length");
    else
        dense(d);
    window_everywhere(d);
    vd_derive_rope(d, VD_ROPE_ADJACENT, VD_DERIVE_YARN | VD_DERIVE_FACTORS);
}

/* SmolLM 3 (Hugging Face 2025): a llama in which every fourth layer has no positions. */
static void build_smollm3(struct vd_derive *d)
{
    decoder(d);
    dense(d);
    vd_derive_rope(d, VD_ROPE_ADJACENT, VD_DERIVE_YARN);
    d->p->n_rope_tables = 2; /* its steps are 0 */
    d->p->rope_scale[1] = 1.0f;
    for (uint32_t l = 3; l < d->p->n_layers; l += 4)
        d->p->layer_flags[l] |= VD_LAYER_ROPE2;
}

/* Qwen 2 and 2.5 (Yang et al. 2024): biases on queries, keys and values. */
static void build_qwen2(struct vd_derive *d)
{
    decoder(d);
    dense(d);
    vd_derive_rope(d, VD_ROPE_HALVES, VD_DERIVE_YARN);
}

/* Qwen 3 (Yang et al. 2025): no biases, but a norm of every query and key. */
static void build_qwen3(struct vd_derive *d)
{
    decoder(d);
    dense(d);
    d->p->qk_norm = true;
    vd_derive_rope(d, VD_ROPE_HALVES, VD_DERIVE_YARN);
}

static void build_qwen3moe(struct vd_derive *d)
{
    decoder(d);
    experts(d, "expert_feed_forward_length");
    vd_derive_u32_or(d, "feed_forward_length", UINT32_MAX, 0); /* of dense layers, which there are none */
    d->p->qk_norm = true;
    vd_derive_rope(d, VD_ROPE_HALVES, VD_DERIVE_YARN);
}

/* What the Gemmas share: GELU, and an embedding that is scaled because it is also the head. */
static void gemma(struct vd_derive *d)
{
    decoder(d);
    dense(d);
    d->p->act = VD_ACT_GELU;
    d->p->embed_scale = sqrtf((float)d->p->width);
    vd_derive_rope(d, VD_ROPE_HALVES, 0);
}

/* The two with post norms divide scores by the root of the head's width, but for the 27 B models, known by
 * their number of layers, which divide by that of width / heads. */
static void gemma_post(struct vd_derive *d, uint32_t layers_27b)
{
    struct vd_program *p = d->p;
    gemma(d);
    p->post_norms = true;
    if (p->n_layers == layers_27b && p->width / p->n_heads > 0)
        p->attn_scale = 1.0f / sqrtf((float)(p->width / p->n_heads));
}

/* Gemma 1 (Gemma Team 2024a). */
static void build_gemma(struct vd_derive *d)
{
    gemma(d);
}

/* Gemma 2 (Gemma Team 2024b): caps on scores and logits, a window in every other layer. */
static void build_gemma2(struct vd_derive *d)
{
    gemma_post(d, 46);
    d->p->attn_cap = vd_derive_f32(d, "attn_logit_softcapping");
    d->p->logit_cap = vd_derive_f32(d, "final_logit_softcapping");
    d->p->window = vd_derive_u32(d, "attention.sliding_window", VD_PROGRAM_CTX_MAX);
    pattern(d, 2);
}

/* Gemma 3 (Gemma Team 2025): norms of queries and keys in place of the caps; five layers with a window and
 * short RoPE waves for each one without. */
static void build_gemma3(struct vd_derive *d)
{
    gemma_post(d, 62);
    d->p->qk_norm = true;
    d->p->window = vd_derive_u32(d, "attention.sliding_window", VD_PROGRAM_CTX_MAX);
    pattern(d, 6);
    windows_rotate_by(d, vd_derive_f32_or(d, "rope.freq_base_swa", 10000.0f));
}

/* Phi 3, 3.5 and 4 (Abdin et al. 2024): fused tensors, LongRoPE, rotation of a part of the head. */
static void build_phi3(struct vd_derive *d)
{
    decoder(d);
    dense(d);
    window_everywhere(d);
    vd_derive_rope(d, VD_ROPE_HALVES, VD_DERIVE_LONGROPE);
}

/* ------------------------- encoders ------------------------- */

/* What they share (Devlin et al. 2018): LayerNorm behind each residual sum and behind the embedding, a row
 * for the kind of text, of which there is one here. What a file's context has beyond the program's limit is
 * not used. */
static void encoder(struct vd_derive *d)
{
    struct vd_program *p = d->p;
    sizes(d);
    dense(d);
    vd_derive_expect_bool(d, "attention.causal", false, "its positions do not see those behind them");
    p->kind = VD_PROGRAM_ENCODER;
    p->layer_norm = true;
    p->eps = vd_derive_f32(d, "attention.layer_norm_epsilon");
    p->token_type = vd_gguf_tensor_find(d->g, "token_types.weight") != NULL;
    p->out_bias = vd_derive_has_tensor(d, "attn_output.bias");
}

static void cut_context(struct vd_program *p)
{
    if (p->ctx > VD_PROGRAM_ENCODER_CTX_MAX)
        p->ctx = VD_PROGRAM_ENCODER_CTX_MAX;
}

/* BERT (Devlin et al. 2018), and what was made from it: MiniLM, BGE, E5, GTE, Arctic. Learned positions, GELU
 * without a gate. */
static void build_bert(struct vd_derive *d)
{
    struct vd_program *p = d->p;
    encoder(d);
    p->n_positions = p->ctx;
    p->act = VD_ACT_GELU;
    p->ungated = true;
    p->ffn_bias = vd_derive_has_tensor(d, "ffn_up.bias");
    cut_context(p);
}

/* Nomic Embed 1 and 1.5 (Nussbaum et al. 2024): RoPE and SwiGLU. */
static void build_nomic_bert(struct vd_derive *d)
{
    encoder(d);
    vd_derive_rope(d, VD_ROPE_HALVES, 0);
    cut_context(d->p);
}

/* ------------------------- by name ------------------------- */

static const struct vd_derive_arch archs[] = {
    {"llama", build_llama, false},   {"smollm3", build_smollm3, false},      {"qwen2", build_qwen2, false},
    {"qwen3", build_qwen3, false},   {"qwen3moe", build_qwen3moe, false},    {"gemma", build_gemma, false},
    {"gemma2", build_gemma2, false}, {"gemma3", build_gemma3, false},        {"phi3", build_phi3, false},
    {"bert", build_bert, true},      {"nomic-bert", build_nomic_bert, true},
};

const struct vd_derive_arch *vd_derive_find_arch(struct vd_gguf_str name)
{
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        if (vd_gguf_str_eq(name, archs[i].name))
            return &archs[i];
    return NULL;
}

void vd_derive_list_archs(char *out, size_t cap_bytes)
{
    size_t at = 0;
    for (size_t i = 0; i < sizeof archs / sizeof *archs && at < cap_bytes; i++)
        at += (size_t)snprintf(out + at, cap_bytes - at, "%s%s", i ? ", " : "", archs[i].name);
}
