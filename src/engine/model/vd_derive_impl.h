/* Private to the derivation: reading keys with errors that stick, and the parts that architectures share.
 *
 * The first error is kept and every later call does nothing, so that a builder reads like the paper. A getter
 * that fails returns a value that harms nobody (1, or the fallback). Keys are named without the
 * architecture's prefix; whatever key of the architecture nobody has asked for by the end is refused. */
#ifndef VD_DERIVE_IMPL_H
#define VD_DERIVE_IMPL_H

#include "vd_derive.h"

enum { VD_DERIVE_ASKED_MAX = 48, VD_DERIVE_USED_MAX = 4 };

struct vd_derive {
    struct vd_program *p;
    const struct vd_gguf *g;
    const char *arch; /* the keys' prefix */
    enum vd_err rc;
    struct vd_error *err;
    size_t n_asked, n_used;
    const char *asked[VD_DERIVE_ASKED_MAX]; /* keys, without the prefix */
    const char *used[VD_DERIVE_USED_MAX];   /* tensors that the program has taken in and does not name */
};

/* ---- errors and keys (vd_derive.c) ---- */

/* Keeps the first error. */
void vd_derive_fail(struct vd_derive *d, enum vd_err code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

uint32_t vd_derive_u32(struct vd_derive *d, const char *key, uint32_t max);
uint32_t vd_derive_u32_or(struct vd_derive *d, const char *key, uint32_t max, uint32_t fallback);
float vd_derive_f32(struct vd_derive *d, const char *key);
float vd_derive_f32_or(struct vd_derive *d, const char *key, float fallback);
bool vd_derive_has(struct vd_derive *d, const char *key);
/* Whether the key is there with a text other than `fallback`, which an absent key has; *out gets the text. */
struct vd_gguf_str vd_derive_str_or(struct vd_derive *d, const char *key, const char *fallback);
/* An array of bools for the layers into bit `flag` of their flags. */
void vd_derive_layer_bits(struct vd_derive *d, const char *key, uint8_t flag);
/* A bool that must be `want` where the key is there; why: what the other means. */
void vd_derive_expect_bool(struct vd_derive *d, const char *key, bool want, const char *why);
bool vd_derive_is_array(struct vd_derive *d, const char *key);
/* Whether the file has the tensor "blk.0." name. */
bool vd_derive_has_tensor(const struct vd_derive *d, const char *name);
/* A tensor of n floats that becomes part of the program; false if it is not there. */
bool vd_derive_floats(struct vd_derive *d, const char *name, uint32_t n, float *out);

/* ---- RoPE (vd_derive_rope.c) ---- */

/* What an architecture may do to its frequencies, beside nothing and stretching them all alike. */
enum {
    VD_DERIVE_YARN = 1,
    VD_DERIVE_FACTORS = 2,  /* Llama 3: the tensor rope_freqs */
    VD_DERIVE_LONGROPE = 4, /* Phi 3: the tensors rope_factors_short and _long */
};

/* Pairs, table 0 and its scale. */
void vd_derive_rope(struct vd_derive *d, enum vd_rope_pairing pairing, unsigned allowed);
/* Table 1: plain steps from another base. */
void vd_derive_rope2(struct vd_derive *d, float base);

/* ---- stop tokens (vd_derive_stop.c) ---- */

void vd_derive_stops(struct vd_derive *d);

/* ---- architectures (vd_derive_arch.c) ---- */

struct vd_derive_arch {
    const char *name;
    /* Fills everything but vocab, types, qkv_bias and stop tokens. */
    void (*build)(struct vd_derive *d);
    bool is_encoder;
};

/* NULL if the name is not known. */
const struct vd_derive_arch *vd_derive_find_arch(struct vd_gguf_str name);
/* "llama, qwen2, ..." */
void vd_derive_list_archs(char *out, size_t cap_bytes);

#endif
