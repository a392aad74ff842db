/* Validity is checked in one place, and by both directions: what the encoder would not be given, the decoder
 * does not return. The limits bound every table, proof and opening that src/graph derives from a program. */
#include "vd_program.h"

#include "vd_num.h"
#include "vd_pb.h"

#include <assert.h>

static bool positive(float x)
{
    uint32_t u = vd_f32_bits(x);
    return u > 0 && u < 0x7F800000;
}

static const char *check_shape(const struct vd_program *p)
{
    if (p->arith_version != VD_ARITH_VERSION)
        return "arith_version: only version 1 is known";
    if (p->kind != VD_PROGRAM_DECODER && p->kind != VD_PROGRAM_ENCODER)
        return "kind: 1 (decoder) or 2 (encoder)";
    if (p->n_layers < 1 || p->n_layers > VD_PROGRAM_LAYERS_MAX)
        return "n_layers: 1 to 256";
    if (p->width < 32 || p->width > VD_PROGRAM_WIDTH_MAX || p->width % 32)
        return "width: a multiple of 32 up to 16384";
    if (p->n_heads < 1 || p->n_heads > VD_PROGRAM_HEADS_MAX)
        return "n_heads: 1 to 256";
    if (p->n_kv_heads < 1 || p->n_kv_heads > p->n_heads || p->n_heads % p->n_kv_heads)
        return "n_kv_heads: must divide n_heads";
    if (p->head_dim < 32 || p->head_dim > VD_PROGRAM_HEAD_DIM_MAX || p->head_dim % 32)
        return "head_dim: a multiple of 32 up to 256";
    if (p->ff_width < 32 || p->ff_width > VD_PROGRAM_FF_MAX || p->ff_width % 32)
        return "ff_width: a multiple of 32 up to 65536";
    if (p->vocab < 1 || p->vocab > VD_PROGRAM_VOCAB_MAX)
        return "vocab: 1 to 1048576";
    if (p->ctx < 1 || p->ctx > VD_PROGRAM_CTX_MAX)
        return "ctx: 1 to 1048576";
    if (vd_program_is_encoder(p) && p->ctx > VD_PROGRAM_ENCODER_CTX_MAX)
        return "ctx: at most 2048 of an encoder";
    return NULL;
}

/* What only one of the two kinds has. */
static const char *check_kind(const struct vd_program *p)
{
    if (!vd_program_is_encoder(p))
        return p->n_positions || p->token_type || p->layer_norm || p->out_bias || p->ffn_bias || p->ungated
                   ? "n_positions, token_type, layer_norm, out_bias, ffn_bias, ungated: of encoders only"
                   : NULL;
    if (!p->layer_norm)
        return "layer_norm: 1 of an encoder";
    if (p->n_positions && (p->n_positions < p->ctx || p->n_positions > VD_PROGRAM_POSITIONS_MAX))
        return "n_positions: 0, or ctx to 1048576";
    if (p->ungated && p->act != VD_ACT_GELU)
        return "ungated: with act 2 (GELU) only";
    if (vd_f32_bits(p->attn_cap) || vd_f32_bits(p->logit_cap) || vd_f32_bits(p->embed_scale) != 0x3F800000)
        return "attn_cap, logit_cap, embed_scale: 0, 0 and 1 of an encoder";
    if (p->window || p->n_rope_tables > 1 || p->qk_norm || p->post_norms || p->n_experts || p->n_stop)
        return "window, a second RoPE table, qk_norm, post_norms, n_experts, stop: of decoders only";
    return NULL;
}

static const char *check_rope(const struct vd_program *p)
{
    if (p->n_positions)
        return p->rope_pairing || p->n_rope || p->n_rope_tables ? "n_positions: instead of RoPE" : NULL;
    if (p->rope_pairing != VD_ROPE_ADJACENT && p->rope_pairing != VD_ROPE_HALVES)
        return "rope_pairing: 1 (adjacent) or 2 (halves)";
    if (p->n_rope < 1 || p->n_rope > p->head_dim / 2)
        return "n_rope: 1 to head_dim / 2";
    if (p->n_rope_tables != 1 && p->n_rope_tables != 2)
        return "rope_steps: of 1 or 2 tables";
    for (uint32_t i = 0; i < p->n_rope_tables; i++)
        if (!positive(p->rope_scale[i]))
            return "rope_scale: must be finite and above 0";
    return NULL;
}

static const char *check_layers(const struct vd_program *p)
{
    if (p->window > VD_PROGRAM_CTX_MAX)
        return "window: at most 1048576";
    for (uint32_t l = 0; l < p->n_layers; l++) {
        if (p->layer_flags[l] & ~(unsigned)VD_LAYER_FLAGS)
            return "layer_flags: bits 1 (window) and 2 (RoPE table 1)";
        if (p->layer_flags[l] & VD_LAYER_WINDOW && p->window == 0)
            return "layer_flags: a windowed layer, but window is 0";
        if (p->layer_flags[l] & VD_LAYER_ROPE2 && p->n_rope_tables < 2)
            return "layer_flags: a layer of RoPE table 1, which is not there";
    }
    if (p->act != VD_ACT_SILU && p->act != VD_ACT_GELU)
        return "act: 1 (SiLU) or 2 (GELU)";
    if (p->n_experts > VD_PROGRAM_EXPERTS_MAX)
        return "n_experts: at most 512";
    if (p->n_used > VD_PROGRAM_USED_MAX || p->n_used > p->n_experts ||
        (p->n_used == 0) != (p->n_experts == 0))
        return "n_used: 1 to 16, at most n_experts; 0 without experts";
    if (p->route_norm && p->n_experts == 0)
        return "route_norm: there are no experts";
    return NULL;
}

static const char *check_constants(const struct vd_program *p)
{
    if (!positive(p->eps))
        return "eps: must be finite and above 0";
    if (!positive(p->attn_scale))
        return "attn_scale: must be finite and above 0";
    if (vd_f32_bits(p->attn_cap) != 0 && !positive(p->attn_cap))
        return "attn_cap: 0, or finite and above 0";
    if (vd_f32_bits(p->logit_cap) != 0 && !positive(p->logit_cap))
        return "logit_cap: 0, or finite and above 0";
    if (!positive(p->embed_scale))
        return "embed_scale: must be finite and above 0";
    if (p->n_stop > VD_PROGRAM_STOP_MAX)
        return "stop: at most 16 tokens";
    for (uint32_t i = 0; i < p->n_stop; i++)
        if (p->stop[i] >= p->vocab || (i && p->stop[i] <= p->stop[i - 1]))
            return "stop: ascending tokens below vocab";
    return NULL;
}

static const char *check_types(const struct vd_program *p)
{
    uint32_t norm = vd_program_norm_tensor(p);
    if (vd_program_is_encoder(p) ? p->n_tensors != norm
                                 : p->n_tensors != norm + 1 && p->n_tensors != norm + 2)
        return "types: one of every tensor; a decoder's head's may be left out (tied)";
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        if (!vd_wtype_known(p->types[i]))
            return "types: a type that arithmetic version 1 does not know";
        if (vd_program_is_vector(p, i) && p->types[i] != VD_WTYPE_F32)
            return "types: the weight of a norm and a bias must be F32";
        struct vd_tensor_shape t = vd_program_tensor(p, i);
        if (t.cols % vd_wtype_info(t.type)->block_elems)
            return "types: rows of a tensor are not whole blocks of its type";
    }
    return NULL;
}

const char *vd_program_check(const struct vd_program *p)
{
    static const char *(*const checks[])(const struct vd_program *) = {
        check_shape, check_kind, check_rope, check_layers, check_constants, check_types};
    const char *why = NULL;
    for (size_t i = 0; i < sizeof checks / sizeof *checks && !why; i++)
        why = checks[i](p);
    return why;
}

/* ---- bytes ---- */

static void put_rope(struct vd_pb_writer *w, const struct vd_program *p)
{
    uint8_t bytes[8 * 2 * VD_PROGRAM_ROPE_MAX];
    uint32_t scale[2];
    for (uint32_t t = 0; t < p->n_rope_tables; t++) {
        for (uint32_t i = 0; i < p->n_rope; i++)
            vd_le64_store(bytes + 8 * (t * p->n_rope + i), p->rope_steps[t][i]);
        scale[t] = vd_f32_bits(p->rope_scale[t]);
    }
    vd_pb_put_u64(w, 12, p->n_rope);
    vd_pb_put_bytes(w, 13, bytes, 8 * (size_t)p->n_rope_tables * p->n_rope);
    vd_pb_put_packed_u32(w, 14, scale, p->n_rope_tables);
}

size_t vd_program_encode(const struct vd_program *p, uint8_t *buf, size_t cap_bytes)
{
    assert(vd_program_check(p) == NULL);
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_u64(&w, 1, p->arith_version);
    vd_pb_put_u64(&w, 2, p->kind);
    vd_pb_put_u64(&w, 3, p->n_layers);
    vd_pb_put_u64(&w, 4, p->width);
    vd_pb_put_u64(&w, 5, p->n_heads);
    vd_pb_put_u64(&w, 6, p->n_kv_heads);
    vd_pb_put_u64(&w, 7, p->head_dim);
    vd_pb_put_u64(&w, 8, p->ff_width);
    vd_pb_put_u64(&w, 9, p->vocab);
    vd_pb_put_u64(&w, 10, p->ctx);
    vd_pb_put_u64(&w, 11, p->rope_pairing);
    put_rope(&w, p);
    vd_pb_put_u64(&w, 15, vd_f32_bits(p->eps));
    vd_pb_put_u64(&w, 16, vd_f32_bits(p->attn_scale));
    vd_pb_put_u64(&w, 17, vd_f32_bits(p->attn_cap));
    vd_pb_put_u64(&w, 18, vd_f32_bits(p->logit_cap));
    vd_pb_put_u64(&w, 19, vd_f32_bits(p->embed_scale));
    vd_pb_put_u64(&w, 20, p->window);
    vd_pb_put_bytes(&w, 21, p->layer_flags, p->n_layers);
    vd_pb_put_u64(&w, 22, p->act);
    vd_pb_put_u64(&w, 23, p->qk_norm);
    vd_pb_put_u64(&w, 24, p->qkv_bias);
    vd_pb_put_u64(&w, 25, p->post_norms);
    vd_pb_put_u64(&w, 26, p->n_experts);
    vd_pb_put_u64(&w, 27, p->n_used);
    vd_pb_put_u64(&w, 28, p->route_norm);
    vd_pb_put_bytes(&w, 29, p->types, p->n_tensors);
    vd_pb_put_packed_u32(&w, 30, p->stop, p->n_stop);
    vd_pb_put_u64(&w, 31, p->n_positions);
    vd_pb_put_u64(&w, 32, p->token_type);
    vd_pb_put_u64(&w, 33, p->layer_norm);
    vd_pb_put_u64(&w, 34, p->out_bias);
    vd_pb_put_u64(&w, 35, p->ffn_bias);
    vd_pb_put_u64(&w, 36, p->ungated);
    return w.overflow ? 0 : w.n_bytes;
}

static uint32_t get_u32(struct vd_pb_reader *r, uint32_t field, uint32_t max)
{
    return (uint32_t)vd_pb_get_u64(r, field, max);
}

static float get_f32(struct vd_pb_reader *r, uint32_t field)
{
    return vd_f32_from_bits(get_u32(r, field, UINT32_MAX));
}

static bool get_rope(struct vd_pb_reader *r, struct vd_program *p)
{
    uint32_t scale[2] = {0};
    p->n_rope = get_u32(r, 12, VD_PROGRAM_ROPE_MAX);
    struct vd_bytes b = vd_pb_get_bytes(r, 13, 8 * 2 * VD_PROGRAM_ROPE_MAX);
    p->n_rope_tables = (uint32_t)vd_pb_get_packed_u32(r, 14, scale, 2);
    if (b.n != 8 * (size_t)p->n_rope_tables * p->n_rope)
        return false;
    for (uint32_t t = 0; t < p->n_rope_tables; t++) {
        for (uint32_t i = 0; i < p->n_rope; i++)
            p->rope_steps[t][i] = vd_le64_load(b.p + 8 * (t * p->n_rope + i));
        p->rope_scale[t] = vd_f32_from_bits(scale[t]);
    }
    return true;
}

static bool get_flags(struct vd_pb_reader *r, struct vd_program *p)
{
    struct vd_bytes b = vd_pb_get_bytes(r, 21, VD_PROGRAM_LAYERS_MAX);
    if (b.n)
        memcpy(p->layer_flags, b.p, b.n);
    return b.n == p->n_layers;
}

static void get_types(struct vd_pb_reader *r, struct vd_program *p)
{
    struct vd_bytes b = vd_pb_get_bytes(r, 29, VD_PROGRAM_TENSORS_MAX);
    p->n_tensors = (uint32_t)b.n;
    if (b.n)
        memcpy(p->types, b.p, b.n);
}

bool vd_program_decode(struct vd_bytes in, struct vd_program *p)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    memset(p, 0, sizeof *p);
    if (in.n > VD_PROGRAM_BYTES_MAX)
        return false;
    p->arith_version = get_u32(&r, 1, UINT32_MAX);
    p->kind = (enum vd_program_kind)get_u32(&r, 2, VD_PROGRAM_ENCODER);
    p->n_layers = get_u32(&r, 3, VD_PROGRAM_LAYERS_MAX);
    p->width = get_u32(&r, 4, VD_PROGRAM_WIDTH_MAX);
    p->n_heads = get_u32(&r, 5, VD_PROGRAM_HEADS_MAX);
    p->n_kv_heads = get_u32(&r, 6, VD_PROGRAM_HEADS_MAX);
    p->head_dim = get_u32(&r, 7, VD_PROGRAM_HEAD_DIM_MAX);
    p->ff_width = get_u32(&r, 8, VD_PROGRAM_FF_MAX);
    p->vocab = get_u32(&r, 9, VD_PROGRAM_VOCAB_MAX);
    p->ctx = get_u32(&r, 10, VD_PROGRAM_CTX_MAX);
    p->rope_pairing = (enum vd_rope_pairing)get_u32(&r, 11, VD_ROPE_HALVES);
    if (!get_rope(&r, p))
        return false;
    p->eps = get_f32(&r, 15);
    p->attn_scale = get_f32(&r, 16);
    p->attn_cap = get_f32(&r, 17);
    p->logit_cap = get_f32(&r, 18);
    p->embed_scale = get_f32(&r, 19);
    p->window = get_u32(&r, 20, VD_PROGRAM_CTX_MAX);
    if (!get_flags(&r, p))
        return false;
    p->act = (enum vd_act)get_u32(&r, 22, VD_ACT_GELU);
    p->qk_norm = get_u32(&r, 23, 1);
    p->qkv_bias = get_u32(&r, 24, 1);
    p->post_norms = get_u32(&r, 25, 1);
    p->n_experts = get_u32(&r, 26, VD_PROGRAM_EXPERTS_MAX);
    p->n_used = get_u32(&r, 27, VD_PROGRAM_USED_MAX);
    p->route_norm = get_u32(&r, 28, 1);
    get_types(&r, p);
    p->n_stop = (uint32_t)vd_pb_get_packed_u32(&r, 30, p->stop, VD_PROGRAM_STOP_MAX);
    p->n_positions = get_u32(&r, 31, VD_PROGRAM_POSITIONS_MAX);
    p->token_type = get_u32(&r, 32, 1);
    p->layer_norm = get_u32(&r, 33, 1);
    p->out_bias = get_u32(&r, 34, 1);
    p->ffn_bias = get_u32(&r, 35, 1);
    p->ungated = get_u32(&r, 36, 1);
    return vd_pb_done(&r) && vd_program_check(p) == NULL;
}

/* ---- tensors ---- */

#define BIT(t) (UINT32_C(1) << (t))

static uint32_t count_bits(uint32_t x)
{
    return (uint32_t)__builtin_popcount(x);
}

uint32_t vd_program_embed_set(const struct vd_program *p)
{
    uint32_t set = BIT(VD_E_TOKEN);
    if (p->token_type)
        set |= BIT(VD_E_TYPE);
    if (p->n_positions)
        set |= BIT(VD_E_POSITION);
    if (vd_program_is_encoder(p))
        set |= BIT(VD_E_NORM) | BIT(VD_E_NORM_BIAS);
    return set;
}

uint32_t vd_program_embed_tensor(const struct vd_program *p, enum vd_embed_tensor t)
{
    uint32_t set = vd_program_embed_set(p);
    assert(set >> t & 1);
    return count_bits(set & (BIT(t) - 1));
}

/* The place of the n-th bit that is set. */
static uint32_t nth_bit(uint32_t set, uint32_t n)
{
    for (; n > 0; n--)
        set &= set - 1;
    return count_bits((set & -set) - 1);
}

bool vd_program_find_embed(const struct vd_program *p, uint32_t tensor, enum vd_embed_tensor *t)
{
    uint32_t set = vd_program_embed_set(p);
    if (tensor >= count_bits(set))
        return false;
    *t = (enum vd_embed_tensor)nth_bit(set, tensor);
    return true;
}

#define QKV_BIASES (BIT(VD_T_ATTN_Q_BIAS) | BIT(VD_T_ATTN_K_BIAS) | BIT(VD_T_ATTN_V_BIAS))

uint32_t vd_program_layer_set(const struct vd_program *p)
{
    uint32_t set = BIT(VD_T_ATTN_Q) | BIT(VD_T_ATTN_K) | BIT(VD_T_ATTN_V) | BIT(VD_T_ATTN_OUTPUT) |
                   BIT(VD_T_FFN_UP) | BIT(VD_T_FFN_DOWN);
    if (vd_program_is_encoder(p))
        set |= BIT(VD_T_POST_ATTN_NORM) | BIT(VD_T_POST_ATTN_NORM_BIAS) | BIT(VD_T_POST_FFN_NORM) |
               BIT(VD_T_POST_FFN_NORM_BIAS);
    else
        set |= BIT(VD_T_ATTN_NORM) | BIT(VD_T_FFN_NORM);
    if (p->qkv_bias)
        set |= QKV_BIASES;
    if (p->qk_norm)
        set |= BIT(VD_T_ATTN_Q_NORM) | BIT(VD_T_ATTN_K_NORM);
    if (p->post_norms)
        set |= BIT(VD_T_POST_ATTN_NORM) | BIT(VD_T_POST_FFN_NORM);
    if (p->n_experts)
        set |= BIT(VD_T_FFN_ROUTER);
    if (p->out_bias)
        set |= BIT(VD_T_ATTN_OUTPUT_BIAS);
    if (p->ffn_bias)
        set |= BIT(VD_T_FFN_UP_BIAS) | BIT(VD_T_FFN_DOWN_BIAS);
    if (!p->ungated)
        set |= BIT(VD_T_FFN_GATE) | (p->ffn_bias ? BIT(VD_T_FFN_GATE_BIAS) : 0);
    return set;
}

uint32_t vd_program_per_layer(const struct vd_program *p)
{
    return count_bits(vd_program_layer_set(p));
}

static uint32_t first_of_layers(const struct vd_program *p)
{
    return count_bits(vd_program_embed_set(p));
}

uint32_t vd_program_norm_tensor(const struct vd_program *p)
{
    return first_of_layers(p) + vd_program_per_layer(p) * p->n_layers;
}

uint32_t vd_program_layer_tensor(const struct vd_program *p, uint32_t layer, enum vd_layer_tensor t)
{
    uint32_t set = vd_program_layer_set(p);
    assert(layer < p->n_layers && (set >> t & 1));
    return first_of_layers(p) + count_bits(set) * layer + count_bits(set & (BIT(t) - 1));
}

bool vd_program_find_tensor(const struct vd_program *p, uint32_t tensor, uint32_t *layer,
                            enum vd_layer_tensor *t)
{
    uint32_t set = vd_program_layer_set(p), n = count_bits(set), first = first_of_layers(p);
    if (tensor < first || tensor - first >= n * p->n_layers)
        return false;
    *layer = (tensor - first) / n;
    *t = (enum vd_layer_tensor)nth_bit(set, (tensor - first) % n);
    return true;
}

bool vd_program_is_vector(const struct vd_program *p, uint32_t tensor)
{
    const uint32_t matrices = BIT(VD_T_ATTN_Q) | BIT(VD_T_ATTN_K) | BIT(VD_T_ATTN_V) | BIT(VD_T_ATTN_OUTPUT) |
                              BIT(VD_T_FFN_ROUTER) | BIT(VD_T_FFN_GATE) | BIT(VD_T_FFN_UP) |
                              BIT(VD_T_FFN_DOWN);
    uint32_t layer;
    enum vd_layer_tensor t;
    enum vd_embed_tensor e;
    if (vd_program_find_embed(p, tensor, &e))
        return e != VD_E_TOKEN && e != VD_E_POSITION;
    if (!vd_program_find_tensor(p, tensor, &layer, &t))
        return tensor == vd_program_norm_tensor(p);
    return !(matrices >> t & 1);
}

static void shape_in_layer(const struct vd_program *p, enum vd_layer_tensor t, struct vd_tensor_shape *s)
{
    uint32_t q = p->n_heads * p->head_dim, kv = p->n_kv_heads * p->head_dim, d = p->width, f = p->ff_width;
    uint32_t experts = p->n_experts ? p->n_experts : 1;
    switch (t) {
    case VD_T_ATTN_NORM:
    case VD_T_FFN_NORM:
    case VD_T_POST_ATTN_NORM:
    case VD_T_POST_FFN_NORM:
    case VD_T_ATTN_OUTPUT_BIAS:
    case VD_T_POST_ATTN_NORM_BIAS:
    case VD_T_FFN_DOWN_BIAS:
    case VD_T_POST_FFN_NORM_BIAS:
        *s = (struct vd_tensor_shape){s->type, 1, d};
        break;
    case VD_T_ATTN_Q:
        *s = (struct vd_tensor_shape){s->type, q, d};
        break;
    case VD_T_ATTN_K:
    case VD_T_ATTN_V:
        *s = (struct vd_tensor_shape){s->type, kv, d};
        break;
    case VD_T_ATTN_Q_BIAS:
        *s = (struct vd_tensor_shape){s->type, 1, q};
        break;
    case VD_T_ATTN_K_BIAS:
    case VD_T_ATTN_V_BIAS:
        *s = (struct vd_tensor_shape){s->type, 1, kv};
        break;
    case VD_T_ATTN_Q_NORM:
    case VD_T_ATTN_K_NORM:
        *s = (struct vd_tensor_shape){s->type, 1, p->head_dim};
        break;
    case VD_T_ATTN_OUTPUT:
        *s = (struct vd_tensor_shape){s->type, d, q};
        break;
    case VD_T_FFN_ROUTER:
        *s = (struct vd_tensor_shape){s->type, p->n_experts, d};
        break;
    case VD_T_FFN_GATE:
    case VD_T_FFN_UP:
        *s = (struct vd_tensor_shape){s->type, experts * f, d};
        break;
    case VD_T_FFN_GATE_BIAS:
    case VD_T_FFN_UP_BIAS:
        *s = (struct vd_tensor_shape){s->type, 1, f};
        break;
    case VD_T_FFN_DOWN:
        *s = (struct vd_tensor_shape){s->type, experts * d, f};
        break;
    case VD_T_KINDS:
        break;
    }
}

struct vd_tensor_shape vd_program_tensor(const struct vd_program *p, uint32_t tensor)
{
    assert(tensor < p->n_tensors);
    struct vd_tensor_shape s = {(enum vd_wtype)p->types[tensor], p->vocab, p->width};
    uint32_t layer;
    enum vd_layer_tensor t;
    enum vd_embed_tensor e;
    if (vd_program_find_tensor(p, tensor, &layer, &t))
        shape_in_layer(p, t, &s);
    else if (vd_program_is_vector(p, tensor))
        s.rows = 1;
    else if (vd_program_find_embed(p, tensor, &e) && e == VD_E_POSITION)
        s.rows = p->n_positions;
    return s;
}

size_t vd_tensor_part_bytes(struct vd_tensor_shape t, uint32_t part)
{
    assert(part < vd_tensor_parts(t));
    uint32_t left = t.cols - part * VD_WEIGHT_PART_ELEMS;
    return vd_wtype_row_bytes(t.type, left < VD_WEIGHT_PART_ELEMS ? left : VD_WEIGHT_PART_ELEMS);
}

size_t vd_tensor_part_offset(struct vd_tensor_shape t, uint32_t part)
{
    return part * vd_wtype_row_bytes(t.type, VD_WEIGHT_PART_ELEMS);
}

struct vd_hash vd_weight_leaf(uint32_t tensor, uint32_t row, uint32_t part, const void *bytes, size_t n_bytes)
{
    enum { TAG = sizeof "\0veridem/weight" };
    uint8_t head[TAG + 12] = "\0veridem/weight";
    struct vd_sha256 s;
    struct vd_hash h;
    vd_le32_store(head + TAG, tensor);
    vd_le32_store(head + TAG + 4, row);
    vd_le32_store(head + TAG + 8, part);
    vd_sha256_init(&s);
    vd_sha256_update(&s, head, sizeof head);
    vd_sha256_update(&s, bytes, n_bytes);
    vd_sha256_final(&s, &h);
    return h;
}

struct vd_hash vd_tensor_leaf(uint32_t tensor, struct vd_tensor_shape t, const struct vd_hash *root)
{
    struct vd_sha256 s;
    struct vd_hash h;
    vd_sha256_init(&s);
    vd_sha256_update(&s, "\0veridem/tensor", sizeof "\0veridem/tensor");
    vd_sha256_u32(&s, tensor);
    vd_sha256_u32(&s, t.type);
    vd_sha256_u32(&s, t.rows);
    vd_sha256_u32(&s, t.cols);
    vd_sha256_hash(&s, root);
    vd_sha256_final(&s, &h);
    return h;
}

struct vd_hash vd_program_model_root(struct vd_bytes program, uint32_t n_tensors,
                                     const struct vd_hash *tensors_root)
{
    struct vd_hash h = vd_sha256_of(program.p, program.n);
    struct vd_sha256 s;
    vd_sha256_init_tag(&s, "veridem/model");
    vd_sha256_hash(&s, &h);
    vd_sha256_u32(&s, n_tensors);
    vd_sha256_hash(&s, tensors_root);
    vd_sha256_final(&s, &h);
    return h;
}
