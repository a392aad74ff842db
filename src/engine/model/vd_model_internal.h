/* Private to this folder: what a loaded model is made of. */
#ifndef VD_MODEL_INTERNAL_H
#define VD_MODEL_INTERNAL_H

#include "vd_derive.h"
#include "vd_forward.h"
#include "vd_model.h"

#include <pthread.h>

/* The sizes of docs/spec/proof.md, once, as size_t. */
struct vd_dims {
    size_t n_layers, d, n_heads, n_kv, hd, ff, vocab, ctx;
    size_t n_pairs;        /* rotated pairs per head */
    size_t n_tables;       /* of RoPE */
    size_t q_cols, k_cols; /* n_heads * hd, n_kv * hd */
    size_t n_experts;      /* 0: dense */
    size_t n_used;         /* feed-forwards that a row passes: the experts it uses, or 1 */
};

/* The quantised forms of a row that the matrices reading it take; a float type takes the row itself. */
enum vd_act_forms {
    VD_ACT_FORM_32 = 1,
    VD_ACT_FORM_256 = 2,
};

/* Which pages of the cache have a layer's rows (vd_kv.h). */
enum vd_kv_kind { VD_KV_WHOLE, VD_KV_WINDOW, VD_KV_KINDS };

/* A norm's weight and, of LayerNorm, bias; weight NULL: there is none. */
struct vd_norm_weights {
    const float *w, *b;
};

/* A layer's operators. What the program's features do not call for is NULL, or a matrix without data. */
struct vd_layer {
    const float *attn_norm, *ffn_norm;                    /* d each */
    struct vd_norm_weights post_attn_norm, post_ffn_norm; /* d each; of an encoder behind the residual sum */
    const float *q_norm, *k_norm;                         /* hd each */
    const float *q_bias, *k_bias, *v_bias, *o_bias;
    const float *gate_bias, *up_bias, *down_bias;
    struct vd_kern_mat q, k, v, o;
    struct vd_kern_mat router, gate, up, down; /* with experts: the rows of expert 0, then of 1, ... */
    unsigned qkv_forms, o_forms, ff_forms, router_forms, down_forms; /* enum vd_act_forms, of their inputs */
    unsigned rope_table;
    enum vd_kv_kind kv_kind;
    size_t kv_place; /* among the layers of its kind */
};

/* A tensor where it lies in the mapped file. */
struct vd_tensor {
    struct vd_tensor_shape shape;
    size_t row_bytes;
    const uint8_t *p;
};

/* What tells one state of the model file from another. */
struct vd_file_id {
    uint64_t size_bytes, mtime_ns, inode, device;
};

struct vd_model {
    char *path;
    struct vd_gguf *gguf;
    struct vd_file_id id; /* all zero: not certain, so nothing is cached under it */
    const struct vd_kern *kern;
    struct vd_program program;
    uint8_t program_bytes[VD_PROGRAM_BYTES_MAX];
    size_t n_program_bytes;
    struct vd_tensor *tensors; /* program.n_tensors, canonical order */
    struct vd_dims dims;
    bool rope_halves;
    struct vd_kern_score score;
    void (*glu)(const float *g, const float *u, size_t n, float *y); /* the program's activation */
    bool encoder, ungated;

    struct vd_layer *layers;
    size_t n_kv_layers[VD_KV_KINDS];
    const float *output_norm;          /* of decoders, as the head */
    const float *token_type;           /* NULL: none */
    struct vd_norm_weights embed_norm; /* of encoders */
    uint32_t position_tensor;          /* whose rows are added to those of tokens; 0: none */
    struct vd_kern_mat head;
    unsigned head_forms;
    unsigned all_forms; /* of any matrix */
    float *vectors;     /* all norm weights and biases, copied so that they are aligned */
    void *packed;       /* one map for all packed matrices */
    size_t packed_bytes;

    pthread_mutex_t root_lock; /* guards what follows */
    bool root_known;
    struct vd_hash root;
    struct vd_hash *tensor_leaves; /* program.n_tensors */
};

/* Bytes of the chunk of one (layer, kv head) in a cache page, and of a whole page (0: no layer is in it). */
static inline size_t vd_model_chunk_bytes(const struct vd_model *m)
{
    return m->kern->kv_bytes(m->dims.hd);
}
static inline size_t vd_model_page_bytes(const struct vd_model *m, enum vd_kv_kind kind)
{
    return m->n_kv_layers[kind] * m->dims.n_kv * vd_model_chunk_bytes(m);
}
static inline size_t vd_model_chunk_offset(const struct vd_model *m, size_t layer, size_t head)
{
    return (m->layers[layer].kv_place * m->dims.n_kv + head) * vd_model_chunk_bytes(m);
}

/* The KROW and VROW records (all kv heads) of a slot of a page, which is of the layer's kind. */
void vd_model_read_rows(const struct vd_model *m, const void *page, size_t layer, size_t slot, uint8_t *k,
                        uint8_t *v);

/* ---- what the forward pass may do to a sequence ---- */

/* As vd_kv_reserve, and lets go what lies behind the window: a pass may now write positions [len, n_pos). */
enum vd_err vd_kv_begin(struct vd_kv *kv, size_t n_pos, struct vd_error *err);
const void *const *vd_kv_page_table(const struct vd_kv *kv, enum vd_kv_kind kind);
void vd_kv_set_len(struct vd_kv *kv, size_t n_pos);
/* False if the sequence already takes part in the call that is being checked. */
bool vd_kv_claim(struct vd_kv *kv);
void vd_kv_unclaim(struct vd_kv *kv);

#endif
