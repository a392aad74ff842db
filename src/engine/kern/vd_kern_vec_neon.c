/* Vector operators with NEON. Whole vectors of four here; what is left over goes to src/num, element by
 * element. */
#include "vd_act.h"
#include "vd_kern_neon.h"
#include "vd_norm.h"
#include "vd_quant.h"
#include "vd_rope.h"

/* ---- quantiser ---- */

/* Scale and inverse (0: all codes are 0) from the largest bit pattern. */
static float scale_of(uint32_t amax_bits, float *inv)
{
    *inv = 0.0f;
    if (amax_bits >= 0x7F800000)
        return vd_f32_from_bits(VD_NAN_BITS);
    float d = vd_num_round11(vd_f32_from_bits(amax_bits) / 127.0f);
    if (d < VD_QUANT_D_MIN)
        return 0.0f;
    *inv = 1.0f / d;
    return d;
}

VD_INLINE int32x4_t codes4(const float *x, float inv)
{
    return vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x), inv));
}

/* 16 codes; the four sums they add to. */
VD_INLINE int32x4_t codes16(const float *x, float inv, int8_t *q)
{
    const int32x4_t a = codes4(x, inv), b = codes4(x + 4, inv), c = codes4(x + 8, inv),
                    d = codes4(x + 12, inv);
    const int16x8_t lo = vcombine_s16(vmovn_s32(a), vmovn_s32(b));
    const int16x8_t hi = vcombine_s16(vmovn_s32(c), vmovn_s32(d));
    vst1q_s8(q, vcombine_s8(vmovn_s16(lo), vmovn_s16(hi)));
    return vaddq_s32(vaddq_s32(a, b), vaddq_s32(c, d));
}

static uint32_t amax_bits(const float *x, size_t n)
{
    uint32x4_t max = vdupq_n_u32(0);
    for (size_t i = 0; i < n; i += 4)
        max = vmaxq_u32(max, abs_bits(vld1q_f32(x + i)));
    return vmaxvq_u32(max);
}

void vd_neon_quant8(const float *x, size_t n, int8_t *q, float *d)
{
    float inv;
    *d = scale_of(amax_bits(x, n), &inv);
    if (inv == 0.0f)
        memset(q, 0, n);
    for (size_t i = 0; i < n && inv != 0.0f; i += 16)
        codes16(x + i, inv, q + i);
}

int32_t vd_neon_quant32(const float *x, int8_t *q, float *d)
{
    float inv;
    *d = scale_of(amax_bits(x, 32), &inv);
    if (inv != 0.0f)
        return vaddvq_s32(vaddq_s32(codes16(x, inv, q), codes16(x + 16, inv, q + 16)));
    memset(q, 0, 32);
    return 0;
}

/* Slots past the last token are zeroed, so that a group is always defined. */
void vd_neon_act_quant(const float *x, size_t ldx, size_t cols, size_t t0, size_t t1, void *act)
{
    assert(t0 % WIDE_TOKS == 0 && cols % VD_KERN_BLOCK == 0);
    for (size_t t = t0; t < t1; t++) {
        struct vd_wide_act_group *g = vd_wide_act_group(act, cols, t);
        size_t slot = t % WIDE_TOKS;
        if (slot == 0 && t1 - t < WIDE_TOKS)
            memset(g, 0, vd_wide_act_group_bytes(cols));
        if (slot == 0)
            g->huge = 0;
        for (size_t b = 0; b < cols / VD_KERN_BLOCK; b++) {
            struct vd_wide_act *a = &g->block[b];
            a->asum[slot] = vd_neon_quant32(x + t * ldx + b * VD_KERN_BLOCK, a->q[slot], &a->d[slot]);
            a->s[slot] = a->d[slot] * (float)a->asum[slot];
            g->huge |= a->d[slot] >= VD_WIDE_HUGE;
        }
    }
}

/* One super-block of one token. The sums stand in the order of vd_kern_wide.h; minus32 is not used here. */
static void quant256(const float *x, struct vd_wide_super *s, size_t slot)
{
    static const uint8_t at[VD_SUPER_SUBS] = {0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15};
    int32_t sum[VD_SUPER_SUBS] = {0};
    float inv;
    s->d[slot] = scale_of(amax_bits(x, VD_KERN_BLOCK256), &inv);
    if (inv == 0.0f)
        memset(s->q[slot], 0, VD_KERN_BLOCK256);
    for (size_t i = 0; i < VD_SUPER_SUBS && inv != 0.0f; i++)
        sum[i] = vaddvq_s32(codes16(x + 16 * i, inv, s->q[slot] + 16 * i));
    for (size_t i = 0; i < VD_SUPER_SUBS; i++)
        s->sums16[slot][at[i]] = (int16_t)sum[i];
    for (size_t i = 0; i < VD_SUPER_SUBS / 2; i++)
        s->sums32[slot][at[i]] = (int16_t)(sum[2 * i] + sum[2 * i + 1]);
}

void vd_neon_act256_quant(const float *x, size_t ldx, size_t cols, size_t t0, size_t t1, void *act256)
{
    const size_t n_supers = cols / VD_KERN_BLOCK256;
    assert(t0 % WIDE_TOKS == 0 && cols % VD_KERN_BLOCK256 == 0);
    for (size_t t = t0; t < t1; t++) {
        struct vd_wide_super *s = vd_wide_supers(act256, cols, t);
        if (t % WIDE_TOKS == 0 && t1 - t < WIDE_TOKS)
            memset(s, 0, n_supers * sizeof(*s));
        for (size_t b = 0; b < n_supers; b++)
            quant256(x + t * ldx + b * VD_KERN_BLOCK256, &s[b], t % WIDE_TOKS);
    }
}

/* ---- norm, rope, elementwise ---- */

VD_INLINE void add32(float32x4_t a[8], const float *x, bool squares)
{
    VD_UNROLL
    for (int k = 0; k < 8; k++) {
        const float32x4_t v = vld1q_f32(x + 4 * k);
        a[k] = squares ? vfmaq_f32(a[k], v, v) : vaddq_f32(a[k], v);
    }
}

VD_INLINE float add_segment(const float *x, size_t n, bool squares)
{
    float32x4_t a[8];
    size_t i = 0;
    VD_UNROLL
    for (int k = 0; k < 8; k++)
        a[k] = vdupq_n_f32(0.0f);
    for (; i + 32 <= n; i += 32)
        add32(a, x + i, squares);
    if (i < n) {
        float last[32] = {0};
        memcpy(last, x + i, (n - i) * sizeof(float));
        add32(a, last, squares);
    }
    return tree32_of(a);
}

/* y = x - mean */
static void centre(const float *x, float mean, size_t n, float *y)
{
    const float32x4_t m = vdupq_n_f32(mean);
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vsubq_f32(vld1q_f32(x + i), m));
    for (; i < n; i++)
        y[i] = x[i] - mean;
}

#include "vd_kern_norm_rows.inc"

void vd_neon_rmsnorm(const float *x, const float *w, size_t n, float eps, float *y)
{
    float r = rms_scale(x, n, eps);
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vmulq_f32(vmulq_n_f32(vld1q_f32(x + i), r), vld1q_f32(w + i)));
    vd_num_rms_mul(x + i, r, w + i, (uint32_t)(n - i), y + i);
}

void vd_neon_layernorm(const float *x, const float *w, const float *b, size_t n, float eps, float *y)
{
    float mean = mean_of(x, n), r = deviation_scale(x, mean, n, eps);
    const float32x4_t m = vdupq_n_f32(mean);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const float32x4_t tr = vmulq_n_f32(vsubq_f32(vld1q_f32(x + i), m), r);
        vst1q_f32(y + i, vfmaq_f32(vld1q_f32(b + i), tr, vld1q_f32(w + i)));
    }
    vd_num_layernorm_mul(x + i, mean, r, w + i, b + i, (uint32_t)(n - i), y + i);
}

VD_INLINE void rotate4(float32x4_t *a, float32x4_t *b, float32x4_t c, float32x4_t s)
{
    const float32x4_t x0 = *a, x1 = *b;
    *a = vfmaq_f32(vnegq_f32(vmulq_f32(x1, s)), x0, c);
    *b = vfmaq_f32(vmulq_f32(x1, c), x0, s);
}

static void rope_adjacent(float *x, size_t n_pairs, const float *cs)
{
    size_t i = 0;
    for (; i + 4 <= n_pairs; i += 4) {
        float32x4x2_t v = vld2q_f32(x + 2 * i);
        rotate4(&v.val[0], &v.val[1], vld1q_f32(cs + i), vld1q_f32(cs + n_pairs + i));
        vst2q_f32(x + 2 * i, v);
    }
    for (; i < n_pairs; i++)
        vd_num_rope_pair(&x[2 * i], &x[2 * i + 1], cs[n_pairs + i], cs[i]);
}

static void rope_halves(float *x, size_t n_pairs, const float *cs)
{
    size_t i = 0;
    for (; i + 4 <= n_pairs; i += 4) {
        float32x4_t a = vld1q_f32(x + i), b = vld1q_f32(x + n_pairs + i);
        rotate4(&a, &b, vld1q_f32(cs + i), vld1q_f32(cs + n_pairs + i));
        vst1q_f32(x + i, a);
        vst1q_f32(x + n_pairs + i, b);
    }
    for (; i < n_pairs; i++)
        vd_num_rope_pair(&x[i], &x[n_pairs + i], cs[n_pairs + i], cs[i]);
}

void vd_neon_rope(float *x, size_t n_heads, size_t hd, const float *cs, size_t n_pairs, bool halves)
{
    for (size_t h = 0; h < n_heads; h++, x += hd) {
        if (halves)
            rope_halves(x, n_pairs, cs);
        else
            rope_adjacent(x, n_pairs, cs);
    }
}

void vd_neon_add(const float *x, const float *o, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vaddq_f32(vld1q_f32(x + i), vld1q_f32(o + i)));
    vd_num_residual(x + i, o + i, n - i, y + i);
}

void vd_neon_swiglu(const float *g, const float *u, size_t n, float *y)
{
    const float32x4_t one = vdupq_n_f32(1.0f);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const float32x4_t v = vld1q_f32(g + i);
        const float32x4_t silu = vdivq_f32(v, vaddq_f32(one, exp4(vnegq_f32(v))));
        vst1q_f32(y + i, vmulq_f32(silu, vld1q_f32(u + i)));
    }
    vd_num_swiglu(g + i, u + i, n - i, y + i);
}

VD_INLINE float32x4_t gelu4(float32x4_t v)
{
    const float32x4_t one = vdupq_n_f32(1.0f), cube = vdupq_n_f32(VD_GELU_CUBE);
    const float32x4_t w = vfmaq_f32(v, vmulq_f32(vmulq_f32(v, v), v), cube);
    return vdivq_f32(v, vaddq_f32(one, exp4(vnegq_f32(vmulq_n_f32(w, VD_GELU_SCALE)))));
}

void vd_neon_gelu(const float *x, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, gelu4(vld1q_f32(x + i)));
    vd_num_gelu_row(x + i, n - i, y + i);
}

void vd_neon_geglu(const float *g, const float *u, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vmulq_f32(gelu4(vld1q_f32(g + i)), vld1q_f32(u + i)));
    vd_num_geglu(g + i, u + i, n - i, y + i);
}

void vd_neon_scale(const float *x, float s, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vmulq_n_f32(vld1q_f32(x + i), s));
    vd_kern_scale(x + i, s, n - i, y + i);
}

void vd_neon_cap(const float *x, float c, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, cap4(vld1q_f32(x + i), c));
    vd_kern_cap(x + i, c, n - i, y + i);
}

void vd_neon_madd(const float *x, float w, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, vfmaq_n_f32(vld1q_f32(y + i), vld1q_f32(x + i), w));
    vd_kern_madd(x + i, w, n - i, y + i);
}

void vd_neon_exp(const float *x, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(y + i, exp4(vld1q_f32(x + i)));
    for (; i < n; i++)
        y[i] = vd_num_exp(x[i]);
}

/* ---- sampling ---- */

void vd_neon_sample_max(const float *x, uint32_t first_id, size_t n, struct vd_sample_max *out)
{
    uint32x4_t most_bits = vdupq_n_u32(0);
    float32x4_t most = vdupq_n_f32(-INFINITY);
    size_t i = 0, at = 0;
    assert(n > 0);
    *out = (struct vd_sample_max){0.0f, VD_SAMPLE_NONE, true};
    for (; i + 4 <= n; i += 4) {
        const float32x4_t v = vld1q_f32(x + i);
        most_bits = vmaxq_u32(most_bits, abs_bits(v));
        most = vmaxq_f32(most, v);
    }
    if (vmaxvq_u32(most_bits) >= 0x7F800000)
        return;
    float best = vmaxvq_f32(most);
    for (; i < n; i++) {
        if (!isfinite(x[i]))
            return;
        best = x[i] > best ? x[i] : best;
    }
    while (x[at] != best)
        at++;
    *out = (struct vd_sample_max){best + 0.0f, first_id + (uint32_t)at, false};
}

bool vd_neon_sample_groups(const float *x, size_t n, size_t group, float *most)
{
    uint32x4_t most_bits = vdupq_n_u32(0);
    bool finite = true;
    for (size_t i = 0; i < n; i += group) {
        size_t end = n - i < group ? n : i + group, k = i;
        float32x4_t a = vdupq_n_f32(-INFINITY), b = a;
        for (; k + 8 <= end; k += 8) {
            const float32x4_t u = vld1q_f32(x + k), v = vld1q_f32(x + k + 4);
            most_bits = vmaxq_u32(most_bits, vmaxq_u32(abs_bits(u), abs_bits(v)));
            a = vmaxq_f32(a, u);
            b = vmaxq_f32(b, v);
        }
        float best = vmaxvq_f32(vmaxq_f32(a, b));
        for (; k < end; k++) {
            finite &= isfinite(x[k]) != 0;
            best = x[k] > best ? x[k] : best;
        }
        *most++ = best + 0.0f;
    }
    return finite && vmaxvq_u32(most_bits) < 0x7F800000;
}

/* A weight is exact in binary64, whose conversion truncates. */
void vd_neon_sample_weights(const float *x, size_t n, float temp, float x_max, uint64_t *w)
{
    const float32x4_t tv = vdupq_n_f32(temp), t_max = vdupq_n_f32(x_max / temp);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const float32x4_t t = vdivq_f32(vld1q_f32(x + i), tv);
        const float32x4_t e = vmulq_n_f32(exp4(vsubq_f32(t, t_max)), 0x1p40f);
        vst1q_u64(w + i, vcvtq_u64_f64(vcvt_f64_f32(vget_low_f32(e))));
        vst1q_u64(w + i + 2, vcvtq_u64_f64(vcvt_high_f64_f32(e)));
    }
    vd_num_sample_weights_tile(x + i, (uint32_t)(n - i), temp, x_max, w + i);
}

VD_INLINE float64x2_t add_f64x4(float64x2_t acc, uint32x4_t bits)
{
    const float32x4_t v = vreinterpretq_f32_u32(bits);
    return vaddq_f64(vaddq_f64(acc, vcvt_f64_f32(vget_low_f32(v))), vcvt_high_f64_f32(v));
}

/* Truncated weights are integers up to 2^40, of which binary64 adds up a block's exactly. */
void vd_neon_sample_mass(const float *x, size_t n, struct vd_kern_mass *m)
{
    const float32x4_t temp = vdupq_n_f32(m->temp), t_max = vdupq_n_f32(m->x_max / m->temp),
                      high = vdupq_n_f32(m->high), low = vdupq_n_f32(m->low),
                      least = vdupq_n_f32(vd_kern_least(m->least));
    m->all = m->n_above = m->n_mid = 0;
    for (size_t i = 0; i < n;) {
        size_t end = n - i < VD_KERN_MASS_BLOCK ? n : i + VD_KERN_MASS_BLOCK;
        uint64_t *block = &m->block[i / VD_KERN_MASS_BLOCK];
        float64x2_t all = vdupq_n_f64(0), above = all;
        m->start[i / VD_KERN_MASS_BLOCK] = (uint32_t)m->n_mid;
        uint32x4_t n_above = vdupq_n_u32(0);
        for (; i + 4 <= end; i += 4) {
            const float32x4_t v = vld1q_f32(x + i);
            const float32x4_t e = exp4(vsubq_f32(vdivq_f32(v, temp), t_max));
            const float32x4_t w = vrndq_f32(vmulq_n_f32(e, 0x1p40f));
            const uint32x4_t is_high = vcgeq_f32(v, high), mid = vbicq_u32(vcgeq_f32(v, low), is_high);
            const uint32x4_t in = vandq_u32(is_high, vcgeq_f32(w, least));
            all = add_f64x4(all, vreinterpretq_u32_f32(w));
            above = add_f64x4(above, vandq_u32(vreinterpretq_u32_f32(w), in));
            n_above = vsubq_u32(n_above, is_high);
            uint64_t lanes = vget_lane_u64(vreinterpret_u64_u16(vmovn_u32(mid)), 0);
            for (size_t k = 0; lanes != 0; k++, lanes >>= 16)
                if (lanes & 1)
                    m->mid[m->n_mid++] = x[i + k];
        }
        m->all += (uint64_t)vgetq_lane_f64(all, 0) + (uint64_t)vgetq_lane_f64(all, 1);
        *block = (uint64_t)vgetq_lane_f64(above, 0) + (uint64_t)vgetq_lane_f64(above, 1);
        m->n_above += vaddvq_u32(n_above);
        if (i < end)
            vd_kern_mass_part(x, i, end, m);
        i = end;
    }
}
