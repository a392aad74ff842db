/* The two tables for aarch64: "neon" needs the dot products of ARMv8.2 (Cortex-A76, Neoverse N1, every Apple
 * silicon), "neon-i8mm" the 8-bit matrix products too (Neoverse V1 and N2, Apple from M2 on). They differ in
 * the products only. */
#include "vd_kern_neon.h"

static void kv_put(void *chunk, size_t hd, size_t slot, const float *k, const float *v)
{
    int8_t kq[VD_KERN_HEAD_MAX], vq[VD_KERN_HEAD_MAX];
    float kd[VD_KERN_HEAD_MAX / VD_KERN_BLOCK], vd, spread[VD_KERN_HEAD_MAX];
    assert(hd % VD_KERN_BLOCK == 0 && hd <= VD_KERN_HEAD_MAX);
    vd_wide_spread(k, hd, spread);
    for (size_t b = 0; b < hd / VD_KERN_BLOCK; b++)
        vd_neon_quant32(spread + b * VD_KERN_BLOCK, kq + b * VD_KERN_BLOCK, &kd[b]);
    vd_neon_quant8(v, hd, vq, &vd);
    vd_wide_kv_store(chunk, hd, slot, kq, kd, vq, vd);
}

static void matmul_dot(const struct vd_kern_mat *w, size_t r0, size_t r1, const struct vd_kern_rhs *x,
                       size_t t0, size_t t1, float *y, size_t ldy, void *scratch)
{
    vd_neon_matmul_by(vd_neon_dot_tiles, w, r0, r1, x, t0, t1, y, ldy);
}

static void matmul_mma(const struct vd_kern_mat *w, size_t r0, size_t r1, const struct vd_kern_rhs *x,
                       size_t t0, size_t t1, float *y, size_t ldy, void *scratch)
{
    vd_neon_matmul_by(vd_neon_mma_tiles, w, r0, r1, x, t0, t1, y, ldy);
}

#define TABLE(its_name, its_matmul)                                                                          \
    {                                                                                                        \
        .name = its_name, .scratch_bytes = vd_neon_scratch_bytes, .mat_bytes = vd_wide_mat_bytes,            \
        .mat_pack = vd_wide_mat_pack, .act_bytes = vd_wide_act_bytes, .act_quant = vd_neon_act_quant,        \
        .act_read = vd_wide_act_read, .act256_bytes = vd_wide_act256_bytes,                                  \
        .act256_quant = vd_neon_act256_quant, .act256_read = vd_wide_act256_read, .matmul = its_matmul,      \
        .rmsnorm = vd_neon_rmsnorm, .layernorm = vd_neon_layernorm, .gelu = vd_neon_gelu,                    \
        .rope_table = vd_kern_rope_table, .rope = vd_neon_rope, .add = vd_neon_add,                          \
        .swiglu = vd_neon_swiglu, .geglu = vd_neon_geglu, .scale = vd_neon_scale, .cap = vd_neon_cap,        \
        .madd = vd_neon_madd, .exp = vd_neon_exp, .embed_row = vd_kern_embed_row,                            \
        .kv_bytes = vd_wide_kv_bytes, .kv_put = kv_put, .kv_read = vd_wide_kv_read, .attn = vd_neon_attn,    \
        .attn_part = vd_neon_attn_part, .attn_merge = vd_neon_attn_merge, .sample_max = vd_neon_sample_max,  \
        .sample_groups = vd_neon_sample_groups, .sample_weights = vd_neon_sample_weights,                    \
        .sample_mass = vd_neon_sample_mass                                                                   \
    }

const struct vd_kern vd_kern_neon = TABLE("neon", matmul_dot);
const struct vd_kern vd_kern_neon_i8mm = TABLE("neon-i8mm", matmul_mma);
