/* The program of a model: what is computed, as canonical bytes (docs/spec/proof.md, section 1).
 *
 * A program holds every number that decides a bit of the output and is not a weight: shapes, RoPE steps, eps,
 * attention scale, the type of each tensor, the stop tokens. It stands under the model root, so a worker can
 * neither drop a layer nor change a constant. The struct is plain memory that the caller owns; a program that
 * vd_program_decode accepted, or of which vd_program_check said NULL, is "valid", and every other function of
 * src/graph wants a valid one.
 *
 * Tensors by canonical number: 0 token_embd; 1 + 9 l + (0 attn_norm, 1 attn_q, 2 attn_k, 3 attn_v, 4
 * attn_output, 5 ffn_norm, 6 ffn_gate, 7 ffn_up, 8 ffn_down); 1 + 9 L output_norm; 2 + 9 L output, absent if
 * the head is tied to token_embd. Norm weights are F32.
 *
 * Thread rule: pure functions. Nothing allocates. */
#ifndef VD_PROGRAM_H
#define VD_PROGRAM_H

#include "vd_bytes.h"
#include "vd_sha256.h"
#include "vd_wtype.h"

enum {
    VD_PROGRAM_LAYERS_MAX = 256,
    VD_PROGRAM_WIDTH_MAX = 16384,
    VD_PROGRAM_HEADS_MAX = 256,
    VD_PROGRAM_HEAD_DIM_MAX = 256,
    VD_PROGRAM_FF_MAX = 65536,
    VD_PROGRAM_VOCAB_MAX = 1 << 20,
    VD_PROGRAM_CTX_MAX = 1 << 20,
    VD_PROGRAM_STOP_MAX = 16,
    VD_PROGRAM_ROPE_MAX = VD_PROGRAM_HEAD_DIM_MAX / 2,
    VD_PROGRAM_TENSORS_MAX = 3 + 9 * VD_PROGRAM_LAYERS_MAX,
    VD_PROGRAM_BYTES_MAX = 8 << 10, /* the longest valid program has below 4 KiB */
    VD_WEIGHT_PART_ELEMS = 4096     /* elements of a row under one weight leaf */
};

enum vd_arch {
    VD_ARCH_LLAMA = 1,
};

enum vd_rope_pairing {
    VD_ROPE_ADJACENT = 1, /* pair i is (2i, 2i + 1): GGUF's llama files */
    VD_ROPE_HALVES = 2,   /* pair i is (i, i + n_rope) */
};

/* A tensor's place inside a layer, in canonical order. */
enum vd_layer_tensor {
    VD_T_ATTN_NORM,
    VD_T_ATTN_Q,
    VD_T_ATTN_K,
    VD_T_ATTN_V,
    VD_T_ATTN_OUTPUT,
    VD_T_FFN_NORM,
    VD_T_FFN_GATE,
    VD_T_FFN_UP,
    VD_T_FFN_DOWN,
    VD_T_PER_LAYER
};

struct vd_program {
    uint32_t arith_version;
    enum vd_arch arch;
    uint32_t n_layers;   /* L, 1.. */
    uint32_t width;      /* d, a multiple of 32 */
    uint32_t n_heads;    /* H, a multiple of n_kv_heads */
    uint32_t n_kv_heads; /* G */
    uint32_t head_dim;   /* D, a multiple of 32 */
    uint32_t ff_width;   /* F, a multiple of 32 */
    uint32_t vocab;      /* V */
    uint32_t ctx;        /* largest number of positions */
    enum vd_rope_pairing rope_pairing;
    uint32_t n_rope;                          /* pairs that are rotated: 1 .. D / 2 */
    uint64_t rope_steps[VD_PROGRAM_ROPE_MAX]; /* per position, in turns * 2^64 */
    float eps;                                /* finite, > 0 */
    float attn_scale;                         /* finite, > 0 */
    uint32_t n_tensors;                       /* 2 + 9 L if the head is tied, else 3 + 9 L */
    uint8_t types[VD_PROGRAM_TENSORS_MAX];    /* enum vd_wtype, canonical order */
    uint32_t n_stop;
    uint32_t stop[VD_PROGRAM_STOP_MAX]; /* ascending, each below vocab */
};

/* NULL if p is valid, else a text that names the field and the rule. */
const char *vd_program_check(const struct vd_program *p);

/* The canonical bytes of a valid program: their number, or 0 if cap_bytes is too small. */
size_t vd_program_encode(const struct vd_program *p, uint8_t *buf, size_t cap_bytes);
/* True if `in` is the canonical encoding of a valid program. */
bool vd_program_decode(struct vd_bytes in, struct vd_program *out);

/* ---- tensors ---- */

struct vd_tensor_shape {
    enum vd_wtype type;
    uint32_t rows, cols; /* a norm's weight is one row */
};

static inline uint32_t vd_program_layer_tensor(uint32_t layer, enum vd_layer_tensor t)
{
    return 1 + VD_T_PER_LAYER * layer + t;
}
static inline uint32_t vd_program_norm_tensor(const struct vd_program *p)
{
    return 1 + VD_T_PER_LAYER * p->n_layers;
}
static inline bool vd_program_tied(const struct vd_program *p)
{
    return p->n_tensors == 2 + VD_T_PER_LAYER * p->n_layers;
}
/* The tensor that makes the logits. */
static inline uint32_t vd_program_head_tensor(const struct vd_program *p)
{
    return vd_program_tied(p) ? 0 : 2 + VD_T_PER_LAYER * p->n_layers;
}

struct vd_tensor_shape vd_program_tensor(const struct vd_program *p, uint32_t tensor);

/* A row is cut into parts of VD_WEIGHT_PART_ELEMS elements, the last may be shorter. Weight leaf number of
 * (row, part) = row * parts + part. */
static inline uint32_t vd_tensor_parts(struct vd_tensor_shape t)
{
    return (t.cols + VD_WEIGHT_PART_ELEMS - 1) / VD_WEIGHT_PART_ELEMS;
}
/* Bytes of that part, and its offset in the row's bytes. */
size_t vd_tensor_part_bytes(struct vd_tensor_shape t, uint32_t part);
size_t vd_tensor_part_offset(struct vd_tensor_shape t, uint32_t part);

/* ---- model root ---- */

struct vd_hash vd_weight_leaf(uint32_t tensor, uint32_t row, uint32_t part, const void *bytes,
                              size_t n_bytes);
/* `root` is the MTH of the tensor's weight leaves. */
struct vd_hash vd_tensor_leaf(uint32_t tensor, struct vd_tensor_shape t, const struct vd_hash *root);
/* `program` are the canonical bytes, `tensors_root` the MTH of the n_tensors tensor leaves. */
struct vd_hash vd_program_model_root(struct vd_bytes program, uint32_t n_tensors,
                                     const struct vd_hash *tensors_root);

#endif
