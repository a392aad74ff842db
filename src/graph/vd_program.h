/* The program of a model: what is computed, as canonical bytes (docs/spec/program.md).
 *
 * A program holds every number that decides a bit of the output and is not a weight: shapes, RoPE steps, eps,
 * attention scale, the type of each tensor, the stop tokens. It stands under the model root, so a worker can
 * neither drop a layer nor change a constant. The struct is plain memory that the caller owns; a program that
 * vd_program_decode accepted, or of which vd_program_check said NULL, is "valid", and every other function of
 * src/graph wants a valid one.
 *
 * It names features, not architectures: whether heads are normed, which layers see a window, how many experts
 * there are. What a feature adds to the tensors and operators follows from it alone.
 *
 * Tensors by canonical number: those of enum vd_embed_tensor, then per layer those of enum vd_layer_tensor,
 * of both what the features call for, in that order; then, of a decoder, output_norm; then output, absent if
 * the head is tied to token_embd. Norm weights and biases are F32 and one row. With experts the rows of
 * ffn_gate, ffn_up and ffn_down are those of expert 0, then of expert 1, ...
 *
 * A decoder norms what goes into attention and feed-forward, and a query sees the positions up to its own. An
 * encoder norms what comes out of a residual sum (and the embedding), a query sees every position of the
 * sequence, there is no head: the result is a vector.
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
    VD_PROGRAM_ENCODER_CTX_MAX = 2048, /* a sequence is run whole */
    VD_PROGRAM_POSITIONS_MAX = 1 << 20,
    VD_PROGRAM_STOP_MAX = 16,
    VD_PROGRAM_ROPE_MAX = VD_PROGRAM_HEAD_DIM_MAX / 2,
    VD_PROGRAM_EXPERTS_MAX = 512,
    VD_PROGRAM_USED_MAX = 16,
    VD_PROGRAM_TENSORS_MAX = 5 + 18 * VD_PROGRAM_LAYERS_MAX,
    VD_PROGRAM_BYTES_MAX = 8 << 10, /* the longest valid program has below 7 KiB */
    VD_WEIGHT_PART_ELEMS = 4096     /* elements of a row under one weight leaf */
};

enum vd_program_kind {
    VD_PROGRAM_DECODER = 1,
    VD_PROGRAM_ENCODER = 2,
};

enum vd_rope_pairing {
    VD_ROPE_NONE = 0,     /* no table: positions are learned */
    VD_ROPE_ADJACENT = 1, /* pair i is (2i, 2i + 1): GGUF's llama files */
    VD_ROPE_HALVES = 2,   /* pair i is (i, i + n_rope) */
};

enum vd_act {
    VD_ACT_SILU = 1,
    VD_ACT_GELU = 2, /* tanh form */
};

/* Flags of a layer. */
enum {
    VD_LAYER_WINDOW = 1, /* a query sees the last `window` keys only */
    VD_LAYER_ROPE2 = 2,  /* rotates by RoPE table 1 */
    VD_LAYER_FLAGS = 3
};

/* The tensors before the layers, in canonical order. */
enum vd_embed_tensor {
    VD_E_TOKEN,     /* V x d */
    VD_E_TYPE,      /* token_type: one row, added to every token's */
    VD_E_POSITION,  /* n_positions x d: row of the position, added */
    VD_E_NORM,      /* encoders */
    VD_E_NORM_BIAS, /* encoders */
    VD_E_KINDS
};

/* A tensor's place inside a layer, in canonical order. What a program's features do not call for is not there
 * (vd_program_has_tensor). */
enum vd_layer_tensor {
    VD_T_ATTN_NORM, /* decoders */
    VD_T_ATTN_Q,
    VD_T_ATTN_K,
    VD_T_ATTN_V,
    VD_T_ATTN_Q_BIAS, /* qkv_bias */
    VD_T_ATTN_K_BIAS,
    VD_T_ATTN_V_BIAS,
    VD_T_ATTN_Q_NORM, /* qk_norm */
    VD_T_ATTN_K_NORM,
    VD_T_ATTN_OUTPUT,
    VD_T_ATTN_OUTPUT_BIAS,    /* out_bias */
    VD_T_POST_ATTN_NORM,      /* post_norms: before the residual sum; encoders: after it */
    VD_T_POST_ATTN_NORM_BIAS, /* encoders */
    VD_T_FFN_NORM,            /* decoders */
    VD_T_FFN_ROUTER,          /* n_experts */
    VD_T_FFN_GATE,            /* unless ungated */
    VD_T_FFN_GATE_BIAS,       /* ffn_bias, unless ungated */
    VD_T_FFN_UP,
    VD_T_FFN_UP_BIAS, /* ffn_bias */
    VD_T_FFN_DOWN,
    VD_T_FFN_DOWN_BIAS,      /* ffn_bias */
    VD_T_POST_FFN_NORM,      /* as post_attn_norm */
    VD_T_POST_FFN_NORM_BIAS, /* encoders */
    VD_T_KINDS
};

/* Zero all that is not said: a feature is off when its field is 0. Entries of arrays beyond their number
 * (RoPE tables and steps, flags, types, stop tokens) are 0 in a decoded program and read by nobody. */
struct vd_program {
    uint32_t arith_version;
    enum vd_program_kind kind;
    uint32_t n_layers;   /* L, 1.. */
    uint32_t width;      /* d, a multiple of 32 */
    uint32_t n_heads;    /* H, a multiple of n_kv_heads */
    uint32_t n_kv_heads; /* G */
    uint32_t head_dim;   /* D, a multiple of 32 */
    uint32_t ff_width;   /* F, a multiple of 32; of one expert if there are experts */
    uint32_t vocab;      /* V */
    uint32_t ctx;        /* largest number of positions; an encoder's at most 2048 */
    enum vd_rope_pairing rope_pairing;
    uint32_t n_rope;        /* pairs that are rotated, of every table: 1 .. D / 2 */
    uint32_t n_rope_tables; /* 1 or 2; 0 (then n_rope is 0, no pairing) with n_positions */
    uint64_t rope_steps[2][VD_PROGRAM_ROPE_MAX]; /* per position, in turns * 2^64; all 0: by no angle */
    float rope_scale[2];                         /* of sine and cosine: finite, > 0; 1: none */
    float eps;                                   /* finite, > 0 */
    float attn_scale;                            /* finite, > 0 */
    float attn_cap;                              /* of scores: 0 none, else finite, > 0 */
    float logit_cap;                             /* of logits: the same */
    float embed_scale;                           /* of embedding rows: finite, > 0; 1: none */
    uint32_t window; /* keys that a windowed layer's query sees; 0: no such layer */
    uint8_t layer_flags[VD_PROGRAM_LAYERS_MAX];
    enum vd_act act;
    bool qk_norm;       /* queries' and keys' heads are normed before RoPE */
    bool qkv_bias;      /* biases on q, k and v */
    bool post_norms;    /* a norm of attention's and of the feed-forward's output, before it is added */
    bool route_norm;    /* the weights of the experts chosen add up to 1 */
    uint32_t n_experts; /* 0: dense */
    uint32_t n_used;    /* experts that a position uses, 1 .. n_experts; 0 if dense */
    /* Of encoders only, in which it is `layer_norm` always. */
    uint32_t n_positions; /* rows of the table of positions, at least ctx; 0: none, then there is RoPE */
    bool token_type;      /* a row that is added to every token's */
    bool layer_norm;      /* norms are LayerNorm, with weight and bias */
    bool out_bias;        /* a bias on attention's output */
    bool ffn_bias;        /* biases on the feed-forward part's matrices */
    bool ungated;         /* act(up), which is GELU; else act(gate) * up */
    uint32_t n_tensors;   /* of an encoder those before and of the layers; of a decoder 1 more if the head is
                             tied, else 2 */
    uint8_t types[VD_PROGRAM_TENSORS_MAX]; /* enum vd_wtype, canonical order */
    uint32_t n_stop;
    uint32_t stop[VD_PROGRAM_STOP_MAX]; /* ascending, each below vocab */
};

/* For an initialiser: what every decoder must have and a plain llama has like this. */
#define VD_PROGRAM_PLAIN                                                                                     \
    .arith_version = 1, .kind = VD_PROGRAM_DECODER, .n_rope_tables = 1, .rope_scale = {1.0f},                \
    .embed_scale = 1.0f, .act = VD_ACT_SILU

/* NULL if p is valid, else a text that names the field and the rule. */
const char *vd_program_check(const struct vd_program *p);

/* The canonical bytes of a valid program: their number, or 0 if cap_bytes is too small. */
size_t vd_program_encode(const struct vd_program *p, uint8_t *buf, size_t cap_bytes);
/* True if `in` is the canonical encoding of a valid program. */
bool vd_program_decode(struct vd_bytes in, struct vd_program *out);

/* ---- tensors ---- */

struct vd_tensor_shape {
    enum vd_wtype type;
    uint32_t rows, cols; /* a norm's weight or a bias is one row */
};

/* The tensors before the layers, as bits 1 << enum vd_embed_tensor. */
uint32_t vd_program_embed_set(const struct vd_program *p);
/* The number of one of them, which must be there. */
uint32_t vd_program_embed_tensor(const struct vd_program *p, enum vd_embed_tensor t);
/* The opposite: false for others. */
bool vd_program_find_embed(const struct vd_program *p, uint32_t tensor, enum vd_embed_tensor *t);

/* The tensors that each layer has, as bits 1 << enum vd_layer_tensor. */
uint32_t vd_program_layer_set(const struct vd_program *p);

static inline bool vd_program_has_tensor(const struct vd_program *p, enum vd_layer_tensor t)
{
    return vd_program_layer_set(p) >> t & 1;
}
/* How many tensors a layer has. */
uint32_t vd_program_per_layer(const struct vd_program *p);
/* The number of a layer's tensor, which must be there. */
uint32_t vd_program_layer_tensor(const struct vd_program *p, uint32_t layer, enum vd_layer_tensor t);
/* The opposite: false for those before the layers and for output_norm and output. */
bool vd_program_find_tensor(const struct vd_program *p, uint32_t tensor, uint32_t *layer,
                            enum vd_layer_tensor *t);

static inline bool vd_program_is_encoder(const struct vd_program *p)
{
    return p->kind == VD_PROGRAM_ENCODER;
}
/* output_norm; of an encoder, which has none, no tensor's number: n_tensors. */
uint32_t vd_program_norm_tensor(const struct vd_program *p);
/* The head's matrix is token_embd. Decoders only, as the next. */
static inline bool vd_program_tied(const struct vd_program *p)
{
    return p->n_tensors == vd_program_norm_tensor(p) + 1;
}
/* The tensor that makes the logits. */
static inline uint32_t vd_program_head_tensor(const struct vd_program *p)
{
    return vd_program_tied(p) ? 0 : vd_program_norm_tensor(p) + 1;
}
/* Norm weights and biases: F32, one row. */
bool vd_program_is_vector(const struct vd_program *p, uint32_t tensor);

struct vd_tensor_shape vd_program_tensor(const struct vd_program *p, uint32_t tensor);

/* ---- layers ---- */

/* The first position that a query at `pos` sees in that layer; the last is its own. */
static inline uint32_t vd_program_first_key(const struct vd_program *p, uint32_t layer, uint32_t pos)
{
    return p->layer_flags[layer] & VD_LAYER_WINDOW && pos >= p->window ? pos + 1 - p->window : 0;
}
static inline unsigned vd_program_rope_table(const struct vd_program *p, uint32_t layer)
{
    return p->layer_flags[layer] & VD_LAYER_ROPE2 ? 1 : 0;
}

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
