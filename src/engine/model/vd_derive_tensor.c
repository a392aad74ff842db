/* Which bytes of the file are which tensor of the program. Some files hold two or three tensors in one, rows
 * after rows; the program knows only the parts. */
#include "vd_derive.h"

#include <stdio.h>

static const char *const embed_names[VD_E_KINDS] = {
    [VD_E_TOKEN] = "token_embd.weight",        [VD_E_TYPE] = "token_types.weight",
    [VD_E_POSITION] = "position_embd.weight",  [VD_E_NORM] = "token_embd_norm.weight",
    [VD_E_NORM_BIAS] = "token_embd_norm.bias",
};

static const char *const layer_names[VD_T_KINDS] = {
    [VD_T_ATTN_NORM] = "attn_norm.weight",
    [VD_T_ATTN_Q] = "attn_q.weight",
    [VD_T_ATTN_K] = "attn_k.weight",
    [VD_T_ATTN_V] = "attn_v.weight",
    [VD_T_ATTN_Q_BIAS] = "attn_q.bias",
    [VD_T_ATTN_K_BIAS] = "attn_k.bias",
    [VD_T_ATTN_V_BIAS] = "attn_v.bias",
    [VD_T_ATTN_Q_NORM] = "attn_q_norm.weight",
    [VD_T_ATTN_K_NORM] = "attn_k_norm.weight",
    [VD_T_ATTN_OUTPUT] = "attn_output.weight",
    [VD_T_ATTN_OUTPUT_BIAS] = "attn_output.bias",
    [VD_T_POST_ATTN_NORM] = "post_attention_norm.weight",
    [VD_T_POST_ATTN_NORM_BIAS] = "attn_output_norm.bias",
    [VD_T_FFN_NORM] = "ffn_norm.weight",
    [VD_T_FFN_ROUTER] = "ffn_gate_inp.weight",
    [VD_T_FFN_GATE] = "ffn_gate.weight",
    [VD_T_FFN_GATE_BIAS] = "ffn_gate.bias",
    [VD_T_FFN_UP] = "ffn_up.weight",
    [VD_T_FFN_UP_BIAS] = "ffn_up.bias",
    [VD_T_FFN_DOWN] = "ffn_down.weight",
    [VD_T_FFN_DOWN_BIAS] = "ffn_down.bias",
    [VD_T_POST_FFN_NORM] = "post_ffw_norm.weight",
    [VD_T_POST_FFN_NORM_BIAS] = "layer_output_norm.bias",
};

/* Encoders have other names for the norms behind the sums than decoders for those before them. */
static const char *layer_name(const struct vd_program *p, enum vd_layer_tensor t)
{
    bool encoder = vd_program_is_encoder(p);
    return encoder && t == VD_T_POST_ATTN_NORM  ? "attn_output_norm.weight"
           : encoder && t == VD_T_POST_FFN_NORM ? "layer_output_norm.weight"
                                                : layer_names[t];
}

/* The names of the three that exist once per expert. */
static const char *expert_name(enum vd_layer_tensor t)
{
    return t == VD_T_FFN_GATE ? "ffn_gate_exps.weight"
           : t == VD_T_FFN_UP ? "ffn_up_exps.weight"
                              : "ffn_down_exps.weight";
}

static bool is_expert(const struct vd_program *p, enum vd_layer_tensor t)
{
    return p->n_experts > 0 && (t == VD_T_FFN_GATE || t == VD_T_FFN_UP || t == VD_T_FFN_DOWN);
}

void vd_derive_tensor_name(const struct vd_program *p, uint32_t tensor, char out[VD_GGUF_NAME_BYTES_MAX + 1])
{
    enum vd_embed_tensor e;
    enum vd_layer_tensor t;
    uint32_t layer;
    if (vd_program_find_tensor(p, tensor, &layer, &t))
        snprintf(out, VD_GGUF_NAME_BYTES_MAX + 1, "blk.%u.%s", layer,
                 is_expert(p, t) ? expert_name(t) : layer_name(p, t));
    else
        snprintf(out, VD_GGUF_NAME_BYTES_MAX + 1, "%s",
                 vd_program_find_embed(p, tensor, &e)  ? embed_names[e]
                 : tensor == vd_program_norm_tensor(p) ? "output_norm.weight"
                                                       : "output.weight");
}

/* A part of a fused tensor: its name, and where the part lies, in rows or in elements of the one row. */
struct fusion {
    const char *name, *instead; /* fused if `instead` is not in the layer */
    uint32_t first, total;
};

static struct fusion fusion_of(const struct vd_program *p, enum vd_layer_tensor t)
{
    uint32_t q = p->n_heads * p->head_dim, kv = p->n_kv_heads * p->head_dim, f = p->ff_width;
    switch (t) {
    case VD_T_ATTN_Q:
        return (struct fusion){"attn_qkv.weight", "attn_q.weight", 0, q + 2 * kv};
    case VD_T_ATTN_K:
        return (struct fusion){"attn_qkv.weight", "attn_q.weight", q, q + 2 * kv};
    case VD_T_ATTN_V:
        return (struct fusion){"attn_qkv.weight", "attn_q.weight", q + kv, q + 2 * kv};
    case VD_T_ATTN_Q_BIAS:
        return (struct fusion){"attn_qkv.bias", "attn_q.bias", 0, q + 2 * kv};
    case VD_T_ATTN_K_BIAS:
        return (struct fusion){"attn_qkv.bias", "attn_q.bias", q, q + 2 * kv};
    case VD_T_ATTN_V_BIAS:
        return (struct fusion){"attn_qkv.bias", "attn_q.bias", q + kv, q + 2 * kv};
    case VD_T_FFN_GATE:
        return (struct fusion){"ffn_up.weight", "ffn_gate.weight", 0, 2 * f};
    case VD_T_FFN_UP:
        if (p->ungated)
            break;
        return (struct fusion){"ffn_up.weight", "ffn_gate.weight", f, 2 * f};
    case VD_T_ATTN_NORM:
    case VD_T_ATTN_Q_NORM:
    case VD_T_ATTN_K_NORM:
    case VD_T_ATTN_OUTPUT:
    case VD_T_POST_ATTN_NORM:
    case VD_T_FFN_NORM:
    case VD_T_FFN_ROUTER:
    case VD_T_FFN_DOWN:
    case VD_T_POST_FFN_NORM:
    case VD_T_ATTN_OUTPUT_BIAS:
    case VD_T_POST_ATTN_NORM_BIAS:
    case VD_T_FFN_GATE_BIAS:
    case VD_T_FFN_UP_BIAS:
    case VD_T_FFN_DOWN_BIAS:
    case VD_T_POST_FFN_NORM_BIAS:
    case VD_T_KINDS:
        break;
    }
    return (struct fusion){NULL, NULL, 0, 0};
}

static const struct vd_gguf_tensor *in_layer(const struct vd_gguf *g, uint32_t layer, const char *name)
{
    char whole[VD_GGUF_NAME_BYTES_MAX + 1];
    snprintf(whole, sizeof whole, "blk.%u.%s", layer, name);
    return vd_gguf_tensor_find(g, whole);
}

static bool find_fused(const struct vd_program *p, const struct vd_gguf *g, uint32_t layer,
                       enum vd_layer_tensor t, struct vd_derive_place *out)
{
    struct fusion f = fusion_of(p, t);
    if (!f.name || is_expert(p, t) || in_layer(g, layer, f.instead))
        return false;
    out->file = in_layer(g, layer, f.name);
    if (!out->file)
        return false;
    bool vector =
        out->ne[1] == 1 && (t == VD_T_ATTN_Q_BIAS || t == VD_T_ATTN_K_BIAS || t == VD_T_ATTN_V_BIAS);
    out->row_bytes = vector ? out->ne[0] * sizeof(float) : out->file->row_bytes;
    out->p = out->file->p + f.first * (vector ? sizeof(float) : out->file->row_bytes);
    out->ne[vector ? 0 : 1] = f.total;
    return true;
}

bool vd_derive_find(const struct vd_program *p, const struct vd_gguf *g, uint32_t tensor,
                    struct vd_derive_place *out)
{
    char name[VD_GGUF_NAME_BYTES_MAX + 1];
    struct vd_tensor_shape s = vd_program_tensor(p, tensor);
    enum vd_embed_tensor e;
    enum vd_layer_tensor t;
    uint32_t layer;
    bool layered = vd_program_find_tensor(p, tensor, &layer, &t), expert = layered && is_expert(p, t);
    *out = (struct vd_derive_place){.ne = {s.cols, s.rows, 1}};
    if (layered && find_fused(p, g, layer, t, out))
        return true;
    if (expert) {
        out->ne[1] = s.rows / p->n_experts;
        out->ne[2] = p->n_experts;
    }
    vd_derive_tensor_name(p, tensor, name);
    out->file = vd_gguf_tensor_find(g, name);
    if (!out->file)
        return false;
    if (vd_program_find_embed(p, tensor, &e) && e == VD_E_TYPE && out->file->ne[1] <= 16)
        out->ne[1] = out->file->ne[1]; /* row 0 of some */
    out->p = out->file->p;
    out->row_bytes = out->file->row_bytes;
    return true;
}
