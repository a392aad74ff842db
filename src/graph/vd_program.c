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
    if (p->arch != VD_ARCH_LLAMA)
        return "arch: only llama (1) is known";
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
    return NULL;
}

static const char *check_constants(const struct vd_program *p)
{
    if (p->rope_pairing != VD_ROPE_ADJACENT && p->rope_pairing != VD_ROPE_HALVES)
        return "rope_pairing: 1 (adjacent) or 2 (halves)";
    if (p->n_rope < 1 || p->n_rope > p->head_dim / 2)
        return "rope_steps: 1 to head_dim / 2 of them";
    if (!positive(p->eps))
        return "eps: must be finite and above 0";
    if (!positive(p->attn_scale))
        return "attn_scale: must be finite and above 0";
    if (p->n_stop > VD_PROGRAM_STOP_MAX)
        return "stop: at most 16 tokens";
    for (uint32_t i = 0; i < p->n_stop; i++)
        if (p->stop[i] >= p->vocab || (i && p->stop[i] <= p->stop[i - 1]))
            return "stop: ascending tokens below vocab";
    return NULL;
}

static bool is_norm(const struct vd_program *p, uint32_t tensor)
{
    uint32_t place = (tensor - 1) % VD_T_PER_LAYER;
    if (tensor == 0 || tensor > vd_program_norm_tensor(p))
        return false;
    return tensor == vd_program_norm_tensor(p) || place == VD_T_ATTN_NORM || place == VD_T_FFN_NORM;
}

static const char *check_types(const struct vd_program *p)
{
    uint32_t tied = 2 + VD_T_PER_LAYER * p->n_layers;
    if (p->n_tensors != tied && p->n_tensors != tied + 1)
        return "types: 2 + 9 n_layers of them (tied head) or one more";
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        if (!vd_wtype_known(p->types[i]))
            return "types: a type that arithmetic version 1 does not know";
        if (is_norm(p, i) && p->types[i] != VD_WTYPE_F32)
            return "types: the weight of a norm must be F32";
    }
    return NULL;
}

const char *vd_program_check(const struct vd_program *p)
{
    const char *why = check_shape(p);
    if (!why)
        why = check_constants(p);
    return why ? why : check_types(p);
}

static void put_steps(struct vd_pb_writer *w, const struct vd_program *p)
{
    uint8_t bytes[8 * VD_PROGRAM_ROPE_MAX];
    for (uint32_t i = 0; i < p->n_rope; i++)
        vd_le64_store(bytes + 8 * i, p->rope_steps[i]);
    vd_pb_put_bytes(w, 12, bytes, 8 * (size_t)p->n_rope);
}

size_t vd_program_encode(const struct vd_program *p, uint8_t *buf, size_t cap_bytes)
{
    assert(vd_program_check(p) == NULL);
    struct vd_pb_writer w = vd_pb_writer_init(buf, cap_bytes);
    vd_pb_put_u64(&w, 1, p->arith_version);
    vd_pb_put_u64(&w, 2, p->arch);
    vd_pb_put_u64(&w, 3, p->n_layers);
    vd_pb_put_u64(&w, 4, p->width);
    vd_pb_put_u64(&w, 5, p->n_heads);
    vd_pb_put_u64(&w, 6, p->n_kv_heads);
    vd_pb_put_u64(&w, 7, p->head_dim);
    vd_pb_put_u64(&w, 8, p->ff_width);
    vd_pb_put_u64(&w, 9, p->vocab);
    vd_pb_put_u64(&w, 10, p->ctx);
    vd_pb_put_u64(&w, 11, p->rope_pairing);
    put_steps(&w, p);
    vd_pb_put_u64(&w, 13, vd_f32_bits(p->eps));
    vd_pb_put_u64(&w, 14, vd_f32_bits(p->attn_scale));
    vd_pb_put_bytes(&w, 15, p->types, p->n_tensors);
    vd_pb_put_packed_u32(&w, 16, p->stop, p->n_stop);
    return w.overflow ? 0 : w.n_bytes;
}

static bool get_steps(struct vd_pb_reader *r, struct vd_program *p)
{
    struct vd_bytes b = vd_pb_get_bytes(r, 12, 8 * VD_PROGRAM_ROPE_MAX);
    p->n_rope = (uint32_t)(b.n / 8);
    for (uint32_t i = 0; i < p->n_rope; i++)
        p->rope_steps[i] = vd_le64_load(b.p + 8 * i);
    return b.n % 8 == 0;
}

bool vd_program_decode(struct vd_bytes in, struct vd_program *p)
{
    struct vd_pb_reader r = vd_pb_reader_init(in.p, in.n);
    memset(p, 0, sizeof *p);
    if (in.n > VD_PROGRAM_BYTES_MAX)
        return false;
    p->arith_version = (uint32_t)vd_pb_get_u64(&r, 1, UINT32_MAX);
    p->arch = (enum vd_arch)vd_pb_get_u64(&r, 2, VD_ARCH_LLAMA);
    p->n_layers = (uint32_t)vd_pb_get_u64(&r, 3, VD_PROGRAM_LAYERS_MAX);
    p->width = (uint32_t)vd_pb_get_u64(&r, 4, VD_PROGRAM_WIDTH_MAX);
    p->n_heads = (uint32_t)vd_pb_get_u64(&r, 5, VD_PROGRAM_HEADS_MAX);
    p->n_kv_heads = (uint32_t)vd_pb_get_u64(&r, 6, VD_PROGRAM_HEADS_MAX);
    p->head_dim = (uint32_t)vd_pb_get_u64(&r, 7, VD_PROGRAM_HEAD_DIM_MAX);
    p->ff_width = (uint32_t)vd_pb_get_u64(&r, 8, VD_PROGRAM_FF_MAX);
    p->vocab = (uint32_t)vd_pb_get_u64(&r, 9, VD_PROGRAM_VOCAB_MAX);
    p->ctx = (uint32_t)vd_pb_get_u64(&r, 10, VD_PROGRAM_CTX_MAX);
    p->rope_pairing = (enum vd_rope_pairing)vd_pb_get_u64(&r, 11, VD_ROPE_HALVES);
    if (!get_steps(&r, p))
        return false;
    p->eps = vd_f32_from_bits((uint32_t)vd_pb_get_u64(&r, 13, UINT32_MAX));
    p->attn_scale = vd_f32_from_bits((uint32_t)vd_pb_get_u64(&r, 14, UINT32_MAX));
    struct vd_bytes types = vd_pb_get_bytes(&r, 15, VD_PROGRAM_TENSORS_MAX);
    p->n_tensors = (uint32_t)types.n;
    if (types.n)
        memcpy(p->types, types.p, types.n);
    p->n_stop = (uint32_t)vd_pb_get_packed_u32(&r, 16, p->stop, VD_PROGRAM_STOP_MAX);
    return vd_pb_done(&r) && vd_program_check(p) == NULL;
}

struct vd_tensor_shape vd_program_tensor(const struct vd_program *p, uint32_t tensor)
{
    assert(tensor < p->n_tensors);
    uint32_t q = p->n_heads * p->head_dim, kv = p->n_kv_heads * p->head_dim, d = p->width, f = p->ff_width;
    enum vd_wtype type = (enum vd_wtype)p->types[tensor];
    if (tensor == 0 || tensor > vd_program_norm_tensor(p))
        return (struct vd_tensor_shape){type, p->vocab, d};
    if (tensor == vd_program_norm_tensor(p))
        return (struct vd_tensor_shape){type, 1, d};
    switch ((enum vd_layer_tensor)((tensor - 1) % VD_T_PER_LAYER)) {
    case VD_T_ATTN_NORM:
    case VD_T_FFN_NORM:
        return (struct vd_tensor_shape){type, 1, d};
    case VD_T_ATTN_Q:
        return (struct vd_tensor_shape){type, q, d};
    case VD_T_ATTN_K:
    case VD_T_ATTN_V:
        return (struct vd_tensor_shape){type, kv, d};
    case VD_T_ATTN_OUTPUT:
        return (struct vd_tensor_shape){type, d, q};
    case VD_T_FFN_GATE:
    case VD_T_FFN_UP:
        return (struct vd_tensor_shape){type, f, d};
    case VD_T_FFN_DOWN:
        return (struct vd_tensor_shape){type, d, f};
    case VD_T_PER_LAYER:
        break;
    }
    assert(!"a number modulo VD_T_PER_LAYER is below it");
    return (struct vd_tensor_shape){type, 0, 0};
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
