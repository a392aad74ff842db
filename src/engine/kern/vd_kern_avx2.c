/* The AVX2 table: any x86-64 since Haswell and Zen; and the one with AVX-VNNI, which has other products. */
#include "vd_kern_avx2.h"

static void kv_put(void *chunk, size_t hd, size_t slot, const float *k, const float *v)
{
    int8_t kq[VD_KERN_HEAD_MAX], vq[VD_KERN_HEAD_MAX];
    float kd[VD_KERN_HEAD_MAX / VD_KERN_BLOCK], vd, spread[VD_KERN_HEAD_MAX];
    assert(hd % VD_KERN_BLOCK == 0 && hd <= VD_KERN_HEAD_MAX);
    vd_wide_spread(k, hd, spread);
    for (size_t b = 0; b < hd / VD_KERN_BLOCK; b++)
        vd_avx2_quant32(spread + b * VD_KERN_BLOCK, kq + b * VD_KERN_BLOCK, &kd[b]);
    vd_avx2_quant8(v, hd, vq, &vd);
    vd_wide_kv_store(chunk, hd, slot, kq, kd, vq, vd);
}

#define TABLE(its_name, its_matmul, its_bounds)                                                              \
    {                                                                                                        \
        .name = its_name, .scratch_bytes = vd_avx2_scratch_bytes, .mat_bytes = vd_wide_mat_bytes,            \
        .mat_pack = vd_wide_mat_pack, .act_bytes = vd_wide_act_bytes, .act_quant = vd_avx2_act_quant,        \
        .act_read = vd_wide_act_read, .act256_bytes = vd_wide_act256_bytes,                                  \
        .act256_quant = vd_avx2_act256_quant, .act256_read = vd_wide_act256_read, .matmul = its_matmul,      \
        .can_split = vd_wide_can_split, .bounds = its_bounds, .rmsnorm = vd_avx2_rmsnorm,                    \
        .layernorm = vd_avx2_layernorm, .gelu = vd_avx2_gelu, .rope_table = vd_kern_rope_table,              \
        .rope = vd_avx2_rope, .add = vd_avx2_add, .swiglu = vd_avx2_swiglu, .geglu = vd_avx2_geglu,          \
        .scale = vd_avx2_scale, .cap = vd_avx2_cap, .madd = vd_avx2_madd, .exp = vd_avx2_exp,                \
        .embed_row = vd_kern_embed_row, .kv_bytes = vd_wide_kv_bytes, .kv_put = kv_put,                      \
        .kv_read = vd_wide_kv_read, .attn = vd_avx2_attn, .attn_part = vd_avx2_attn_part,                    \
        .attn_merge = vd_avx2_attn_merge, .sample_max = vd_avx2_sample_max,                                  \
        .sample_groups = vd_avx2_sample_groups, .sample_weights = vd_avx2_sample_weights,                    \
        .sample_mass = vd_avx2_sample_mass                                                                   \
    }

const struct vd_kern vd_kern_avx2 = TABLE("avx2", vd_avx2_matmul, vd_avx2_bounds);
const struct vd_kern vd_kern_avxvnni = TABLE("avxvnni", vd_avxvnni_matmul, vd_avxvnni_bounds);
