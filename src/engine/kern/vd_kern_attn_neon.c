/* Attention with NEON: tiles of four query rows for the scores, two for the values.
 *
 * Scores are the Q8_0 product with positions in place of rows. For the values SDOT needs bytes, and a
 * position's weight w has 15 bits: w = 128 hi + lo with hi in [0, 255] and lo in [0, 127]. hi is stored less
 * 128 to be signed, which the sum of the values, shared by all rows, makes good: sum(w v) = 128 (sum((hi -
 * 128) v) + 128 sum(v)) + sum(lo v). No part leaves int32: 64 * 128 * 128 * 128 < 2^28. */
#include "vd_attn.h"
#include "vd_kern_neon_dot.h"

enum { TILE = VD_NEON_TILE, PANEL_ROWS = 2, PANEL = 16 };

struct row_state {
    const struct vd_kern_query *query;
    int8_t q[VD_KERN_HEAD_MAX];
    float dq[VD_KERN_HEAD_MAX / 32];
    float s[VD_KERN_CHUNK];                      /* scores, then weights times value scales */
    int8_t hi[VD_KERN_CHUNK], lo[VD_KERN_CHUNK]; /* of the weights */
    float o[VD_KERN_HEAD_MAX];
    float *dst; /* where o of a chunk goes: o above, or a chunk record */
    float m, l; /* running */
    float mc, lc, d, a, b;
    bool started, merge;
};

size_t vd_neon_scratch_bytes(size_t max_cols, size_t max_hd)
{
    return vd_kern_round_up(TILE * sizeof(struct row_state), VD_KERN_ALIGN);
}

static struct row_state *begin_tile(void *scratch, size_t hd, const struct vd_kern_query *rows, size_t n)
{
    struct row_state *st = scratch;
    assert(n <= TILE && hd % VD_KERN_BLOCK == 0 && hd <= VD_KERN_HEAD_MAX);
    for (size_t i = 0; i < n; i++) {
        float spread[VD_KERN_HEAD_MAX];
        vd_wide_spread(rows[i].q, hd, spread);
        for (size_t b = 0; b < hd / 32; b++)
            vd_neon_quant32(spread + 32 * b, st[i].q + 32 * b, &st[i].dq[b]);
        st[i].query = &rows[i];
        st[i].dst = st[i].o;
        st[i].started = false;
    }
    return st;
}

VD_INLINE float32x4_t score_of4(float32x4_t product, struct vd_kern_score score)
{
    const float32x4_t s = vmulq_n_f32(product, score.scale * VD_ATTN_SPREAD_SCALE);
    return score.cap == 0.0f ? s : cap4(s, score.cap);
}

/* Scores of the n_quads * 4 positions from p0 on, in one group of 16, for n rows. */
VD_INLINE void score_quads(int n, int n_quads, struct row_state *st, const struct vd_wide_kv *c, size_t hd,
                           size_t p0, struct vd_kern_score score)
{
    float32x4_t acc[TILE][4];
    VD_UNROLL
    for (int i = 0; i < n; i++)
        acc[i][0] = acc[i][1] = acc[i][2] = acc[i][3] = vdupq_n_f32(0.0f);
    for (size_t b = 0; b < hd / 32; b++) {
        int32x4_t sum[TILE][4];
        const float *kd = c->kd + b * VD_KERN_CHUNK + p0;
        block_dots(VD_WTYPE_Q8_0, n, n_quads, c->k + (p0 / 16 * hd + b * 32) * 16 + p0 % 16 * 4,
                   st->q + b * 32, sizeof(*st), sum);
        VD_UNROLL
        for (int k = 0; k < n_quads; k++)
            VD_UNROLL
        for (int i = 0; i < n; i++)
            acc[i][k] = vfmaq_f32(acc[i][k], vmulq_n_f32(vld1q_f32(kd + 4 * k), st[i].dq[b]),
                                  vcvtq_f32_s32(sum[i][k]));
    }
    VD_UNROLL
    for (int i = 0; i < n; i++)
        VD_UNROLL
    for (int k = 0; k < n_quads; k++)
        vst1q_f32(st[i].s + p0 + 4 * k, score_of4(acc[i][k], score));
}

/* Of all rows of the tile, also those that do not meet the chunk: theirs are not used. */
static void scores(struct row_state *st, size_t n, const struct vd_wide_kv *c, size_t hd,
                   struct vd_kern_score score)
{
    for (size_t p = 0; p < VD_KERN_CHUNK; p += 8) {
        if (n == 4)
            score_quads(4, 2, st, c, hd, p, score);
        if (n == 3)
            score_quads(3, 2, st, c, hd, p, score);
        if (n == 2 && p % 16 == 0)
            score_quads(2, 4, st, c, hd, p, score);
        if (n == 1 && p % 16 == 0)
            score_quads(1, 4, st, c, hd, p, score);
    }
}

/* p[j] = exp(s[j] - m). */
static void chunk_exp(const float *s, float m, float *p)
{
    for (size_t j = 0; j < VD_KERN_CHUNK; j += 4)
        vst1q_f32(p + j, exp4(vsubq_f32(vld1q_f32(s + j), vdupq_n_f32(m))));
}

/* Lanes j and j + 32, then the tree. */
static float chunk_sum(const float *p)
{
    float32x4_t v[8];
    VD_UNROLL
    for (size_t k = 0; k < 8; k++)
        v[k] = vaddq_f32(vld1q_f32(p + 4 * k), vld1q_f32(p + 4 * k + 32));
    return tree32_of(v);
}

/* t[j] = p[j] * vd[j] on the valid lanes, else 0; returns the largest magnitude's bits. */
static uint32_t chunk_products(const float *p, const float *vd, size_t first, size_t end, float *t)
{
    uint32x4_t max = vdupq_n_u32(0);
    for (size_t j = 0; j < VD_KERN_CHUNK; j += 4)
        vst1q_f32(t + j, vmulq_f32(vld1q_f32(p + j), vld1q_f32(vd + j)));
    memset(t, 0, first * sizeof(float));
    memset(t + end, 0, (VD_KERN_CHUNK - end) * sizeof(float));
    for (size_t j = 0; j < VD_KERN_CHUNK; j += 4)
        max = vmaxq_u32(max, abs_bits(vld1q_f32(t + j)));
    return vmaxvq_u32(max);
}

/* rint(t * inv) of eight positions; NaN (inv is 0 then) converts to 0. */
VD_INLINE int16x8_t codes8(const float *t, float inv)
{
    const int32x4_t a = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(t), inv));
    const int32x4_t b = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(t + 4), inv));
    return vcombine_s16(vmovn_s32(a), vmovn_s32(b));
}

/* The codes in two parts, see above; narrowing cuts hi - 128 out of the 16 bits. */
static void chunk_codes(struct row_state *st, float inv)
{
    for (size_t j = 0; j < VD_KERN_CHUNK; j += 8) {
        const int16x8_t w = codes8(st->s + j, inv);
        vst1_s8(st->hi + j, vmovn_s16(vsubq_s16(vshrq_n_s16(w, 7), vdupq_n_s16(128))));
        vst1_s8(st->lo + j, vmovn_s16(vandq_s16(w, vdupq_n_s16(127))));
    }
}

struct panel {
    int32x4_t hi[PANEL_ROWS][4], lo[PANEL_ROWS][4], all[4];
};

/* Four positions (quad of 16) of a panel: v points at their values, 4 elements x 4 positions a vector. */
VD_INLINE void panel_step(int n, struct panel *p, struct row_state *const *st, size_t four, int lane,
                          const int8_t *v)
{
    int8x16_t values[4];
    VD_UNROLL
    for (int e = 0; e < 4; e++) {
        values[e] = vld1q_s8(v + 16 * e);
        p->all[e] = vdotq_s32(p->all[e], values[e], vdupq_n_s8(1));
    }
    VD_UNROLL
    for (int r = 0; r < n; r++) {
        const int8x16_t hi = vld1q_s8(st[r]->hi + 16 * four), lo = vld1q_s8(st[r]->lo + 16 * four);
        VD_UNROLL
        for (int e = 0; e < 4; e++) {
            p->hi[r][e] = dot_lane(p->hi[r][e], values[e], hi, lane);
            p->lo[r][e] = dot_lane(p->lo[r][e], values[e], lo, lane);
        }
    }
}

/* o of four elements from the integer sums: copied, or merged with what the row has. */
VD_INLINE void value_out(const struct row_state *st, int32x4_t sum, float *o)
{
    float32x4_t oc = vmulq_n_f32(vcvtq_f32_s32(sum), st->d);
    if (st->merge)
        oc = vfmaq_n_f32(vmulq_n_f32(oc, st->b), vld1q_f32(o), st->a);
    vst1q_f32(o, oc);
}

/* Elements e .. e + 15 for n rows; v: the first four positions' values of them. */
VD_INLINE void value_panel(int n, struct row_state *const *st, const int8_t *v, size_t hd, size_t e)
{
    struct panel p;
    VD_UNROLL
    for (int k = 0; k < 4; k++) {
        p.all[k] = vdupq_n_s32(0);
        VD_UNROLL
        for (int r = 0; r < n; r++)
            p.hi[r][k] = p.lo[r][k] = vdupq_n_s32(0);
    }
    for (size_t four = 0; four < 4; four++)
        VD_UNROLL
    for (int lane = 0; lane < 4; lane++, v += hd * 4)
        panel_step(n, &p, st, four, lane, v);
    VD_UNROLL
    for (int r = 0; r < n; r++)
        VD_UNROLL
    for (int k = 0; k < 4; k++) {
        const int32x4_t hi = vaddq_s32(p.hi[r][k], vshlq_n_s32(p.all[k], 7));
        value_out(st[r], vaddq_s32(vshlq_n_s32(hi, 7), p.lo[r][k]), st[r]->dst + e + 4 * (size_t)k);
    }
}

static void values(struct row_state *const *st, size_t n, const struct vd_wide_kv *c, size_t hd)
{
    for (size_t i = 0; i < n; i += PANEL_ROWS)
        for (size_t e = 0; e < hd; e += PANEL) {
            if (n - i == 1)
                value_panel(1, st + i, c->v + e * 4, hd, e);
            else
                value_panel(2, st + i, c->v + e * 4, hd, e);
        }
}

/* The two factors of a merge. */
static void merge_factors(float m, float mc, float max, float *a, float *b)
{
    float32x4_t x = vdupq_n_f32(m - max);
    x = exp4(vsetq_lane_f32(mc - max, x, 1));
    *a = vgetq_lane_f32(x, 0);
    *b = vgetq_lane_f32(x, 1);
}

static void finish_row(const float *o, float l, size_t hd, float *y)
{
    for (size_t e = 0; e < hd; e += 4)
        vst1q_f32(y + e, vdivq_f32(vld1q_f32(o + e), vdupq_n_f32(l)));
}

/* o = fma(o, a, oc * b) */
static void merge_o(float *o, float a, const float *oc, float b, size_t hd)
{
    for (size_t e = 0; e < hd; e += 4) {
        const float32x4_t right = vmulq_n_f32(vld1q_f32(oc + e), b);
        vst1q_f32(o + e, vfmaq_n_f32(right, vld1q_f32(o + e), a));
    }
}

#define ATTN(name) vd_neon_##name
enum { FETCHES = false };
#include "vd_kern_attn_rows.inc"
