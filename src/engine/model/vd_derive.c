/* Tables say what is known; whatever a file has beyond them is refused by name. A model that would run but
 * compute something else than its makers meant is worse than one that does not run. */
#include "vd_derive.h"

#include "vd_num.h"
#include "vd_rope.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* A size of the architecture: its key and where it goes. */
struct size_key {
    const char *key;
    uint32_t max;
    size_t offset;
};

static const struct size_key size_keys[] = {
    {"llama.block_count", VD_PROGRAM_LAYERS_MAX, offsetof(struct vd_program, n_layers)},
    {"llama.embedding_length", VD_PROGRAM_WIDTH_MAX, offsetof(struct vd_program, width)},
    {"llama.feed_forward_length", VD_PROGRAM_FF_MAX, offsetof(struct vd_program, ff_width)},
    {"llama.attention.head_count", VD_PROGRAM_HEADS_MAX, offsetof(struct vd_program, n_heads)},
    {"llama.context_length", VD_PROGRAM_CTX_MAX, offsetof(struct vd_program, ctx)},
};

/* Keys that are read one by one below. */
static const char *const other_keys[] = {
    "llama.attention.head_count_kv", "llama.attention.key_length",
    "llama.attention.value_length",  "llama.attention.layer_norm_rms_epsilon",
    "llama.rope.freq_base",          "llama.rope.dimension_count",
    "llama.rope.scaling.type",       "llama.vocab_size",
};

static const char known_types[] = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0";

/* Pieces that end a turn or a text in some family of models, if the tokenizer marks them as control tokens.
 */
static const char *const stop_pieces[] = {
    "<|endoftext|>",      "<|im_end|>", "<|end|>",    "<|eot_id|>", "<|eom_id|>",
    "<|end_of_text|>",    "<EOT>",      "<|return|>", "<|call|>",   "<end_of_turn>",
    "<end_of_utterance>", "</s>",       "<eos>",
};

static const char *const stop_keys[] = {
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
};

enum { TOKEN_TYPE_CONTROL = 3 };

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* ------------------------- keys ------------------------- */

static bool known_key(struct vd_gguf_str key)
{
    for (size_t i = 0; i < COUNT(size_keys); i++)
        if (vd_gguf_str_eq(key, size_keys[i].key))
            return true;
    for (size_t i = 0; i < COUNT(other_keys); i++)
        if (vd_gguf_str_eq(key, other_keys[i]))
            return true;
    return false;
}

static enum vd_err check_arch(const struct vd_gguf *g, struct vd_error *err)
{
    static const char prefix[] = "llama.";
    struct vd_gguf_str arch;
    enum vd_err rc = vd_gguf_get_str(g, "general.architecture", VD_GGUF_REQUIRED, &arch, err);
    if (rc != VD_OK)
        return rc;
    if (!vd_gguf_str_eq(arch, "llama"))
        return vd_error_set(err, VD_EUNSUPPORTED, "%s: architecture '%.*s' is not known; known is: llama",
                            vd_gguf_name(g), (int)(arch.n < 64 ? arch.n : 64), arch.p);
    for (size_t i = 0; i < vd_gguf_kv_count(g); i++) {
        struct vd_gguf_str key = vd_gguf_kv_at(g, i)->key;
        bool ours = key.n >= sizeof prefix - 1 && memcmp(key.p, prefix, sizeof prefix - 1) == 0;
        if (ours && !known_key(key))
            return vd_error_set(
                err, VD_EUNSUPPORTED,
                "%s: key '%.*s' means a variant of llama that is not known; known is plain llama "
                "without RoPE scaling, experts or sliding windows",
                vd_gguf_name(g), (int)(key.n < 96 ? key.n : 96), key.p);
    }
    return VD_OK;
}

static enum vd_err get_sizes(struct vd_program *p, const struct vd_gguf *g, struct vd_error *err)
{
    for (size_t i = 0; i < COUNT(size_keys); i++) {
        uint32_t v;
        enum vd_err rc = vd_gguf_get_u32(g, size_keys[i].key, VD_GGUF_REQUIRED, size_keys[i].max, &v, err);
        if (rc != VD_OK)
            return rc;
        if (v == 0)
            return vd_error_set(err, VD_EFORMAT, "%s: %s is 0", vd_gguf_name(g), size_keys[i].key);
        memcpy((char *)p + size_keys[i].offset, &v, sizeof v);
    }
    p->n_kv_heads = p->n_heads;
    return vd_gguf_get_u32(g, "llama.attention.head_count_kv", VD_GGUF_OPTIONAL, VD_PROGRAM_HEADS_MAX,
                           &p->n_kv_heads, err);
}

static enum vd_err get_head_dim(struct vd_program *p, const struct vd_gguf *g, struct vd_error *err)
{
    uint32_t k = p->width / p->n_heads, v;
    enum vd_err rc =
        vd_gguf_get_u32(g, "llama.attention.key_length", VD_GGUF_OPTIONAL, VD_PROGRAM_HEAD_DIM_MAX, &k, err);
    v = k;
    if (rc == VD_OK)
        rc = vd_gguf_get_u32(g, "llama.attention.value_length", VD_GGUF_OPTIONAL, VD_PROGRAM_HEAD_DIM_MAX, &v,
                             err);
    if (rc != VD_OK)
        return rc;
    if (k != v)
        return vd_error_set(err, VD_EUNSUPPORTED,
                            "%s: keys of %u and values of %u elements; they must be alike", vd_gguf_name(g),
                            k, v);
    if (!vd_gguf_find(g, "llama.attention.key_length") && p->width % p->n_heads)
        return vd_error_set(err, VD_EFORMAT, "%s: width %u is not a multiple of %u heads", vd_gguf_name(g),
                            p->width, p->n_heads);
    if (k > VD_PROGRAM_HEAD_DIM_MAX) /* before anybody makes that many RoPE steps */
        return vd_error_set(err, VD_EUNSUPPORTED, "%s: heads of %u elements; at most %d", vd_gguf_name(g), k,
                            VD_PROGRAM_HEAD_DIM_MAX);
    p->head_dim = k;
    return VD_OK;
}

static enum vd_err get_rope(struct vd_program *p, const struct vd_gguf *g, struct vd_error *err)
{
    float base = 10000.0f;
    uint32_t n_dims = p->head_dim;
    struct vd_gguf_str scaling = {"none", 4};
    enum vd_err rc = vd_gguf_get_str(g, "llama.rope.scaling.type", VD_GGUF_OPTIONAL, &scaling, err);
    if (rc == VD_OK)
        rc = vd_gguf_get_f32(g, "llama.rope.freq_base", VD_GGUF_OPTIONAL, &base, err);
    if (rc == VD_OK)
        rc = vd_gguf_get_u32(g, "llama.rope.dimension_count", VD_GGUF_OPTIONAL, VD_PROGRAM_HEAD_DIM_MAX,
                             &n_dims, err);
    if (rc != VD_OK)
        return rc;
    if (!vd_gguf_str_eq(scaling, "none"))
        return vd_error_set(err, VD_EUNSUPPORTED, "%s: RoPE scaling '%.*s' is not known; known is: none",
                            vd_gguf_name(g), (int)(scaling.n < 64 ? scaling.n : 64), scaling.p);
    if (n_dims > p->head_dim || !vd_num_rope_steps(base, n_dims, p->rope_steps[0]))
        return vd_error_set(
            err, VD_EFORMAT,
            "%s: RoPE over %u dimensions of heads of %u with base %g; dimensions must be even and at "
            "most the head's, the base at least 1",
            vd_gguf_name(g), n_dims, p->head_dim, (double)base);
    p->rope_pairing = VD_ROPE_ADJACENT;
    p->n_rope = n_dims / 2;
    p->n_rope_tables = 1;
    p->rope_scale[0] = 1.0f;
    return VD_OK;
}

static enum vd_err get_constants(struct vd_program *p, const struct vd_gguf *g, struct vd_error *err)
{
    enum vd_err rc =
        vd_gguf_get_f32(g, "llama.attention.layer_norm_rms_epsilon", VD_GGUF_REQUIRED, &p->eps, err);
    p->attn_scale = 1.0f / sqrtf((float)p->head_dim);
    return rc;
}

/* ------------------------- stop tokens ------------------------- */

/* Keeps the list ascending and without doubles. False when it is full. */
static bool add_stop(struct vd_program *p, uint32_t token)
{
    uint32_t i = 0;
    while (i < p->n_stop && p->stop[i] < token)
        i++;
    if (i < p->n_stop && p->stop[i] == token)
        return true;
    if (p->n_stop == VD_PROGRAM_STOP_MAX)
        return false;
    memmove(&p->stop[i + 1], &p->stop[i], (p->n_stop - i) * sizeof p->stop[0]);
    p->stop[i] = token;
    p->n_stop++;
    return true;
}

static bool is_stop_piece(struct vd_gguf_str s)
{
    for (size_t i = 0; i < COUNT(stop_pieces); i++)
        if (vd_gguf_str_eq(s, stop_pieces[i]))
            return true;
    return false;
}

static enum vd_err get_stop_pieces(struct vd_program *p, const struct vd_gguf *g, struct vd_error *err)
{
    struct vd_gguf_array tokens, types;
    struct vd_gguf_str piece;
    size_t at = 0;
    if (!vd_gguf_find(g, "tokenizer.ggml.tokens"))
        return VD_OK;
    enum vd_err rc =
        vd_gguf_get_array(g, "tokenizer.ggml.tokens", VD_GGUF_REQUIRED, VD_GGUF_STRING, &tokens, err);
    if (rc == VD_OK)
        rc = vd_gguf_get_array(g, "tokenizer.ggml.token_type", VD_GGUF_REQUIRED, VD_GGUF_I32, &types, err);
    if (rc != VD_OK)
        return rc;
    if (tokens.n != p->vocab || types.n != p->vocab)
        return vd_error_set(
            err, VD_EFORMAT,
            "%s: %llu tokens and %llu token types for an embedding of %u rows; they must be alike",
            vd_gguf_name(g), (unsigned long long)tokens.n, (unsigned long long)types.n, p->vocab);
    for (uint32_t i = 0; vd_gguf_array_next_str(&tokens, &at, &piece); i++)
        if (is_stop_piece(piece) && vd_gguf_array_int(&types, i) == TOKEN_TYPE_CONTROL && !add_stop(p, i))
            return vd_error_set(err, VD_ELIMIT, "%s: more than %d stop tokens", vd_gguf_name(g),
                                VD_PROGRAM_STOP_MAX);
    return VD_OK;
}

static enum vd_err get_stops(struct vd_program *p, const struct vd_gguf *g, struct vd_error *err)
{
    p->n_stop = 0;
    for (size_t i = 0; i < COUNT(stop_keys); i++) {
        uint32_t token;
        if (!vd_gguf_find(g, stop_keys[i]))
            continue;
        enum vd_err rc = vd_gguf_get_u32(g, stop_keys[i], VD_GGUF_REQUIRED, p->vocab - 1, &token, err);
        if (rc != VD_OK)
            return rc;
        add_stop(p, token); /* the list holds more than there are keys */
    }
    return get_stop_pieces(p, g, err);
}

/* ------------------------- tensors ------------------------- */

void vd_derive_tensor_name(const struct vd_program *p, uint32_t tensor, char out[VD_GGUF_NAME_BYTES_MAX + 1])
{
    static const char *const in_layer[VD_T_KINDS] = {
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
        [VD_T_POST_ATTN_NORM] = "post_attention_norm.weight",
        [VD_T_FFN_NORM] = "ffn_norm.weight",
        [VD_T_FFN_ROUTER] = "ffn_gate_inp.weight",
        [VD_T_FFN_GATE] = "ffn_gate.weight",
        [VD_T_FFN_UP] = "ffn_up.weight",
        [VD_T_FFN_DOWN] = "ffn_down.weight",
        [VD_T_POST_FFN_NORM] = "post_ffw_norm.weight",
    };
    uint32_t layer;
    enum vd_layer_tensor t;
    uint32_t norm = vd_program_norm_tensor(p);
    if (vd_program_find_tensor(p, tensor, &layer, &t))
        snprintf(out, VD_GGUF_NAME_BYTES_MAX + 1, "blk.%u.%s", layer, in_layer[t]);
    else
        snprintf(out, VD_GGUF_NAME_BYTES_MAX + 1, "%s.weight",
                 tensor == 0 ? "token_embd" : (tensor == norm ? "output_norm" : "output"));
}

/* The vocabulary's size is the embedding's; the key, where there is one, must agree. */
static enum vd_err get_vocab(struct vd_program *p, const struct vd_gguf *g, struct vd_error *err)
{
    const struct vd_gguf_tensor *t = vd_gguf_tensor_find(g, "token_embd.weight");
    if (!t)
        return vd_error_set(err, VD_ENOTFOUND, "%s: tensor token_embd.weight is missing", vd_gguf_name(g));
    if (t->n_dims != 2 || t->ne[1] > VD_PROGRAM_VOCAB_MAX)
        return vd_error_set(err, VD_ELIMIT,
                            "%s: token_embd.weight has %llu rows in %u dimensions; at most %d in 2",
                            vd_gguf_name(g), (unsigned long long)t->ne[1], t->n_dims, VD_PROGRAM_VOCAB_MAX);
    uint32_t said = p->vocab = (uint32_t)t->ne[1];
    enum vd_err rc = vd_gguf_get_u32(g, "llama.vocab_size", VD_GGUF_OPTIONAL, UINT32_MAX, &said, err);
    if (rc == VD_OK && said != p->vocab)
        rc = vd_error_set(err, VD_EFORMAT, "%s: llama.vocab_size is %u, but token_embd.weight has %u rows",
                          vd_gguf_name(g), said, p->vocab);
    return rc;
}

static enum vd_err get_types(struct vd_program *p, const struct vd_gguf *g, struct vd_error *err)
{
    bool tied = !vd_gguf_tensor_find(g, "output.weight");
    p->n_tensors = vd_program_norm_tensor(p) + (tied ? 1 : 2);
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        char name[VD_GGUF_NAME_BYTES_MAX + 1];
        vd_derive_tensor_name(p, i, name);
        const struct vd_gguf_tensor *t = vd_gguf_tensor_find(g, name);
        if (!t)
            return vd_error_set(err, VD_ENOTFOUND, "%s: tensor %s is missing (%u blocks are declared)",
                                vd_gguf_name(g), name, p->n_layers);
        if (!vd_wtype_known(t->type_id))
            return vd_error_set(err, VD_EUNSUPPORTED, "%s: tensor %s has type %s; known are %s",
                                vd_gguf_name(g), name, t->type->name, known_types);
        p->types[i] = (uint8_t)t->type_id;
    }
    return VD_OK;
}

static enum vd_err check_shapes(const struct vd_program *p, const struct vd_gguf *g, struct vd_error *err)
{
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        char name[VD_GGUF_NAME_BYTES_MAX + 1];
        vd_derive_tensor_name(p, i, name);
        const struct vd_gguf_tensor *t = vd_gguf_tensor_find(g, name);
        struct vd_tensor_shape s = vd_program_tensor(p, i);
        if (t->n_dims > 2 || t->ne[0] != s.cols || t->ne[1] != s.rows)
            return vd_error_set(
                err, VD_EFORMAT,
                "%s: tensor %s is %llu x %llu in %u dimensions; by the file's own sizes it must be "
                "%u x %u",
                vd_gguf_name(g), name, (unsigned long long)t->ne[0], (unsigned long long)t->ne[1], t->n_dims,
                s.cols, s.rows);
        if (s.cols % vd_wtype_info(s.type)->block_elems)
            return vd_error_set(err, VD_EFORMAT, "%s: rows of tensor %s are not whole blocks",
                                vd_gguf_name(g), name);
    }
    return VD_OK;
}

/* All tensors of the program are there and names are unique, so more tensors mean unknown ones. */
static enum vd_err check_no_more(const struct vd_program *p, const struct vd_gguf *g, struct vd_error *err)
{
    if (vd_gguf_tensor_count(g) == p->n_tensors)
        return VD_OK;
    for (size_t i = 0; i < vd_gguf_tensor_count(g); i++) {
        struct vd_gguf_str have = vd_gguf_tensor_at(g, i)->name;
        bool known = false;
        for (uint32_t j = 0; j < p->n_tensors && !known; j++) {
            char name[VD_GGUF_NAME_BYTES_MAX + 1];
            vd_derive_tensor_name(p, j, name);
            known = vd_gguf_str_eq(have, name);
        }
        if (!known)
            return vd_error_set(
                err, VD_EUNSUPPORTED,
                "%s: tensor %.*s has no place in a plain llama of %u blocks (biases and RoPE factors "
                "are not known)",
                vd_gguf_name(g), (int)have.n, have.p, p->n_layers);
    }
    return vd_error_set(err, VD_EFORMAT, "%s: tensors with the same name", vd_gguf_name(g));
}

typedef enum vd_err step_fn(struct vd_program *p, const struct vd_gguf *g, struct vd_error *err);

enum vd_err vd_derive_program(struct vd_program *out, const struct vd_gguf *g, struct vd_error *err)
{
    static step_fn *const steps[] = {get_sizes, get_head_dim, get_rope, get_constants,
                                     get_vocab, get_stops,    get_types};
    memset(out, 0, sizeof *out);
    out->arith_version = VD_ARITH_VERSION;
    out->kind = VD_PROGRAM_DECODER;
    out->act = VD_ACT_SILU;
    out->embed_scale = 1.0f;
    enum vd_err rc = check_arch(g, err);
    for (size_t i = 0; i < COUNT(steps) && rc == VD_OK; i++)
        rc = steps[i](out, g, err);
    if (rc != VD_OK)
        return rc;
    const char *why = vd_program_check(out);
    if (why)
        return vd_error_set(err, VD_EUNSUPPORTED, "%s: no program of this version: %s", vd_gguf_name(g), why);
    rc = check_shapes(out, g, err);
    return rc == VD_OK ? check_no_more(out, g, err) : rc;
}
