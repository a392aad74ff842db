/* Private: the pieces of the two NEON tables, and what they share. Only *_neon.c and *_i8mm.c may include
 * this.
 *
 * Vectors have four floats; the wide layouts' groups of 16 rows are four such vectors, and a step of 64 bytes
 * is four vectors of 4 rows x 4 columns, which is what SDOT multiplies with four broadcast bytes. */
#ifndef VD_KERN_NEON_H
#define VD_KERN_NEON_H

#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "vd_bytes.h"
#include "vd_exp.h"
#include "vd_kern_wide.h"
#include "vd_num.h"

#define VD_INLINE static inline __attribute__((always_inline))

VD_INLINE float32x4_t load_half4(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

/* vd_num_exp on 4 lanes. FMIN gives NaN for NaN. 2^n is built from its exponent; p * 2^n is exact. */
VD_INLINE float32x4_t exp4(float32x4_t x)
{
    const float32x4_t one = vdupq_n_f32(1.0f);
    const uint32x4_t zero = vcltq_f32(x, vdupq_n_f32(VD_EXP_MIN)); /* not of NaN */
    x = vminq_f32(x, vdupq_n_f32(VD_EXP_MAX));
    const float32x4_t n = vrndnq_f32(vmulq_f32(x, vdupq_n_f32(VD_EXP_LOG2E)));
    float32x4_t r = vfmaq_f32(x, n, vdupq_n_f32(-VD_EXP_LN2_HI));
    r = vfmaq_f32(r, n, vdupq_n_f32(-VD_EXP_LN2_LO));
    float32x4_t p = vdupq_n_f32(VD_EXP_C6);
    p = vfmaq_f32(vdupq_n_f32(VD_EXP_C5), p, r);
    p = vfmaq_f32(vdupq_n_f32(VD_EXP_C4), p, r);
    p = vfmaq_f32(vdupq_n_f32(VD_EXP_C3), p, r);
    p = vfmaq_f32(vdupq_n_f32(VD_EXP_C2), p, r);
    p = vfmaq_f32(one, p, r);
    p = vfmaq_f32(one, p, r);
    const int32x4_t e = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
    p = vmulq_f32(p, vreinterpretq_f32_s32(e));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(p), zero));
}

/* vd_num_cap on 4 lanes. */
VD_INLINE float32x4_t cap4(float32x4_t x, float c)
{
    const float32x4_t one = vdupq_n_f32(1.0f), cv = vdupq_n_f32(c);
    x = vdivq_f32(x, cv);
    const float32x4_t t = exp4(vmulq_f32(vabsq_f32(x), vdupq_n_f32(-2.0f)));
    const float32x4_t r = vdivq_f32(vsubq_f32(one, t), vaddq_f32(one, t));
    return vmulq_f32(vbslq_f32(vdupq_n_u32(0x80000000), x, r), cv);
}

/* The tree 2-1 over one vector. */
VD_INLINE float tree4(float32x4_t v)
{
    const float32x2_t b = vadd_f32(vget_low_f32(v), vget_high_f32(v));
    return vget_lane_f32(b, 0) + vget_lane_f32(b, 1);
}

/* tree32 over lanes v[0..8), of which lane 4i + j is v[i][j]. */
VD_INLINE float tree32_of(const float32x4_t v[8])
{
    float32x4_t a[4];
    VD_UNROLL
    for (int i = 0; i < 4; i++)
        a[i] = vaddq_f32(v[i], v[i + 4]);
    return tree4(vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3])));
}

VD_INLINE uint32x4_t abs_bits(float32x4_t x)
{
    return vandq_u32(vreinterpretq_u32_f32(x), vdupq_n_u32(0x7FFFFFFF));
}

/* acc += 4 rows x 4 columns of w times four bytes of q, the lane'th four. The lane must be a constant, which
 * an unrolled loop's counter is not yet where the intrinsic is checked. */
VD_INLINE int32x4_t dot_lane(int32x4_t acc, int8x16_t w, int8x16_t q, int lane)
{
    switch (lane) {
    case 0:
        return vdotq_laneq_s32(acc, w, q, 0);
    case 1:
        return vdotq_laneq_s32(acc, w, q, 1);
    case 2:
        return vdotq_laneq_s32(acc, w, q, 2);
    default:
        return vdotq_laneq_s32(acc, w, q, 3);
    }
}

/* Codes of Q8_0 rows and of keys are stored with the top bit flipped. */
VD_INLINE int8x16_t load_flipped(const uint8_t *p)
{
    return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p), vdupq_n_u8(0x80)));
}

/* Products. A tile function multiplies one group of 16 rows with n tokens. */
struct vd_neon_tile {
    const uint8_t *w; /* a row group */
    const void
        *act;    /* the tokens' group: struct vd_wide_act_group, or the first of its struct vd_wide_super */
    size_t slot; /* of the first token in the group */
    size_t n_blocks; /* of the type, in a row */
};
enum { VD_NEON_TILE = 4, VD_NEON_TYPES = VD_WTYPE_MXFP4 + 1 };
typedef void vd_neon_tile_fn(const struct vd_neon_tile *t, float32x4_t out[4][VD_NEON_TILE]);

/* By type and number of tokens less one; [type][VD_NEON_TILE] is for one token of a huge group (types with a
 * min only, see vd_kern_wide.h). */
typedef vd_neon_tile_fn *const vd_neon_tiles[VD_NEON_TILE + 1];
extern const vd_neon_tiles vd_neon_dot_tiles[VD_NEON_TYPES], vd_neon_mma_tiles[VD_NEON_TYPES];

void vd_neon_matmul_by(const vd_neon_tiles *tiles, const struct vd_kern_mat *w, size_t r0, size_t r1,
                       const struct vd_kern_rhs *x, size_t t0, size_t t1, float *y, size_t ldy);

/* Quantises 32 elements; returns the sum of the codes. */
int32_t vd_neon_quant32(const float *x, int8_t *q, float *d);
void vd_neon_quant8(const float *x, size_t n, int8_t *q, float *d);
void vd_neon_act_quant(const float *x, size_t ldx, size_t cols, size_t t0, size_t t1, void *act);
void vd_neon_act256_quant(const float *x, size_t ldx, size_t cols, size_t t0, size_t t1, void *act256);

void vd_neon_rmsnorm(const float *x, const float *w, size_t n, float eps, float *y);
void vd_neon_layernorm(const float *x, const float *w, const float *b, size_t n, float eps, float *y);
void vd_neon_rope(float *x, size_t n_heads, size_t hd, const float *cs, size_t n_pairs, bool halves);
void vd_neon_add(const float *x, const float *o, size_t n, float *y);
void vd_neon_swiglu(const float *g, const float *u, size_t n, float *y);
void vd_neon_gelu(const float *x, size_t n, float *y);
void vd_neon_geglu(const float *g, const float *u, size_t n, float *y);
void vd_neon_scale(const float *x, float s, size_t n, float *y);
void vd_neon_cap(const float *x, float c, size_t n, float *y);
void vd_neon_madd(const float *x, float w, size_t n, float *y);
void vd_neon_exp(const float *x, size_t n, float *y);
void vd_neon_sample_max(const float *x, uint32_t first_id, size_t n, struct vd_sample_max *out);
bool vd_neon_sample_groups(const float *x, size_t n, size_t group, float *most);
void vd_neon_sample_weights(const float *x, size_t n, float temp, float x_max, uint64_t *w);
void vd_neon_sample_mass(const float *x, size_t n, struct vd_kern_mass *m);

size_t vd_neon_scratch_bytes(size_t max_cols, size_t max_hd);
void vd_neon_attn(const struct vd_kern_kv *kv, struct vd_kern_score score, const struct vd_kern_query *rows,
                  size_t n, void *scratch);
void vd_neon_attn_part(const struct vd_kern_kv *kv, struct vd_kern_score score,
                       const struct vd_kern_query *rows, size_t n, size_t c0, size_t c1, float *rec,
                       size_t ld_rec, void *scratch);
void vd_neon_attn_merge(size_t hd, const struct vd_kern_query *rows, size_t n, const float *rec,
                        size_t ld_rec);

#endif
