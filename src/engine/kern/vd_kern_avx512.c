/* The AVX-512 VNNI table. */
#include "vd_kern_avx512.h"

static void kv_put(void *chunk, size_t hd, size_t slot, const float *k, const float *v)
{
    int8_t kq[VD_KERN_HEAD_MAX], vq[VD_KERN_HEAD_MAX];
    float kd[VD_KERN_HEAD_MAX / VD_KERN_BLOCK], vd, spread[VD_KERN_HEAD_MAX];
    assert(hd % VD_KERN_BLOCK == 0 && hd <= VD_KERN_HEAD_MAX);
    vd_avx512_spread(k, hd, spread);
    vd_avx512_quant8_blocks(spread, hd, kq, kd, NULL);
    vd_avx512_quant8(v, hd, vq, &vd);
    vd_wide_kv_store(chunk, hd, slot, kq, kd, vq, vd);
}

const struct vd_kern vd_kern_avx512 = {
    .name = "avx512",
    .scratch_bytes = vd_avx512_scratch_bytes,
    .mat_bytes = vd_wide_mat_bytes,
    .mat_pack = vd_wide_mat_pack,
    .act_bytes = vd_wide_act_bytes,
    .act_quant = vd_avx512_act_quant,
    .act_read = vd_wide_act_read,
    .act256_bytes = vd_wide_act256_bytes,
    .act256_quant = vd_avx512_act256_quant,
    .act256_read = vd_wide_act256_read,
    .matmul = vd_avx512_matmul,
    .can_split = vd_wide_can_split,
    .bounds = vd_avx512_bounds,
    .rmsnorm = vd_avx512_rmsnorm,
    .layernorm = vd_avx512_layernorm,
    .rope_table = vd_kern_rope_table,
    .rope = vd_avx512_rope,
    .add = vd_avx512_add,
    .gelu = vd_avx512_gelu,
    .swiglu = vd_avx512_swiglu,
    .geglu = vd_avx512_geglu,
    .scale = vd_avx512_scale,
    .cap = vd_avx512_cap,
    .madd = vd_avx512_madd,
    .exp = vd_avx512_exp,
    .embed_row = vd_kern_embed_row,
    .kv_bytes = vd_wide_kv_bytes,
    .kv_put = kv_put,
    .kv_read = vd_wide_kv_read,
    .attn = vd_avx512_attn,
    .attn_part = vd_avx512_attn_part,
    .attn_merge = vd_avx512_attn_merge,
    .sample_max = vd_avx512_sample_max,
    .sample_groups = vd_avx512_sample_groups,
    .sample_weights = vd_avx512_sample_weights,
    .sample_mass = vd_avx512_sample_mass,
};
