/* Matrix products with NEON: the loops of the AVX2 table around tiles of up to four tokens, by SDOT here, by
 * SMMLA in vd_kern_mat_i8mm.c, and float weights. */
#include "vd_kern_neon_super.h"

enum {
    SLAB_BYTES = 256 * 1024 /* of packed weights: fits L2 beside the activations */
};

TILE_FNS
SUPER_FNS
const vd_neon_tiles vd_neon_dot_tiles[VD_NEON_TYPES] = {TILE_ENTRIES, SUPER_ENTRIES};

static void store_rows(float *y, size_t rows, const float32x4_t *v, size_t stride)
{
    float last[WIDE_ROWS];
    float *to = rows >= WIDE_ROWS ? y : last;
    VD_UNROLL
    for (size_t k = 0; k < 4; k++)
        vst1q_f32(to + 4 * k, v[k * stride]);
    if (rows < WIDE_ROWS)
        memcpy(y, last, rows * sizeof(float));
}

static bool is_huge(const struct vd_kern_mat *w, const struct vd_kern_rhs *x, size_t t)
{
    return vd_wide_type(w->type).has_min && vd_wide_act_group(x->act, w->cols, t)->huge != 0;
}

/* How many tokens from t on one tile takes. */
static size_t tile_tokens(const struct vd_kern_mat *w, const struct vd_kern_rhs *x, size_t t, size_t t1)
{
    size_t left = WIDE_TOKS - t % WIDE_TOKS, n = t1 - t < VD_NEON_TILE ? t1 - t : VD_NEON_TILE;
    return is_huge(w, x, t) ? 1 : n < left ? n : left;
}

static void tile_groups(const vd_neon_tiles *tiles, const struct vd_kern_mat *w, size_t g0, size_t g1,
                        const struct vd_kern_rhs *x, size_t t, size_t n, float *y, size_t ldy)
{
    struct vd_neon_tile tile = {.slot = t % WIDE_TOKS,
                                .n_blocks = w->cols / vd_wtype_info(w->type)->block_elems};
    if (vd_wide_is_super(w->type))
        tile.act = vd_wide_supers(x->act256, w->cols, t);
    else
        tile.act = vd_wide_act_group(x->act, w->cols, t);
    vd_neon_tile_fn *fn = tiles[w->type][is_huge(w, x, t) ? VD_NEON_TILE : n - 1];
    for (size_t g = g0; g < g1; g++) {
        float32x4_t out[4][VD_NEON_TILE];
        tile.w = vd_wide_group(w, g);
        fn(&tile, out);
        for (size_t i = 0; i < n; i++)
            store_rows(y + (t + i) * ldy + g * WIDE_ROWS, w->rows - g * WIDE_ROWS, &out[0][i], VD_NEON_TILE);
    }
}

/* ---- float weights ---- */

VD_INLINE float32x4_t load_weights(enum vd_wtype type, const uint8_t *p, size_t i)
{
    if (type == VD_WTYPE_F32)
        return vld1q_f32((const float *)p + i);
    const uint16_t *h = (const uint16_t *)p + i;
    if (type == VD_WTYPE_F16)
        return load_half4(h);
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(h), 16));
}

/* 16 rows x n tokens. */
VD_INLINE void float_tile(enum vd_wtype type, int n, const struct vd_kern_mat *w, size_t g,
                          const struct vd_kern_rhs *x, size_t t, float *y, size_t ldy)
{
    float32x4_t total[VD_NEON_TILE][4] = {0};
    const uint8_t *p = vd_wide_group(w, g);
    for (size_t c0 = 0; c0 < w->cols; c0 += 512) {
        size_t c1 = c0 + 512 < w->cols ? c0 + 512 : w->cols;
        float32x4_t acc[VD_NEON_TILE][4];
        VD_UNROLL
        for (int i = 0; i < n; i++)
            acc[i][0] = acc[i][1] = acc[i][2] = acc[i][3] = vdupq_n_f32(0.0f);
        for (size_t c = c0; c < c1; c++)
            VD_UNROLL
        for (size_t k = 0; k < 4; k++) {
            const float32x4_t wv = load_weights(type, p, c * 16 + 4 * k);
            VD_UNROLL
            for (int i = 0; i < n; i++)
                acc[i][k] = vfmaq_n_f32(acc[i][k], wv, x->x[(t + (size_t)i) * x->ldx + c]);
        }
        VD_UNROLL
        for (int i = 0; i < n; i++)
            VD_UNROLL
        for (int k = 0; k < 4; k++)
            total[i][k] = c0 == 0 ? acc[i][k] : vaddq_f32(total[i][k], acc[i][k]);
    }
    VD_UNROLL
    for (int i = 0; i < n; i++)
        store_rows(y + (t + (size_t)i) * ldy + g * WIDE_ROWS, w->rows - g * WIDE_ROWS, total[i], 1);
}

VD_INLINE void float_rows(enum vd_wtype type, const struct vd_kern_mat *w, size_t g0, size_t g1,
                          const struct vd_kern_rhs *x, size_t t0, size_t t1, float *y, size_t ldy)
{
    for (size_t g = g0; g < g1; g++) {
        size_t t = t0;
        for (; t + VD_NEON_TILE <= t1; t += VD_NEON_TILE)
            float_tile(type, VD_NEON_TILE, w, g, x, t, y, ldy);
        for (; t < t1; t++)
            float_tile(type, 1, w, g, x, t, y, ldy);
    }
}

static void float_matmul(const struct vd_kern_mat *w, size_t g0, size_t g1, const struct vd_kern_rhs *x,
                         size_t t0, size_t t1, float *y, size_t ldy)
{
    if (w->type == VD_WTYPE_F16)
        float_rows(VD_WTYPE_F16, w, g0, g1, x, t0, t1, y, ldy);
    else if (w->type == VD_WTYPE_BF16)
        float_rows(VD_WTYPE_BF16, w, g0, g1, x, t0, t1, y, ldy);
    else
        float_rows(VD_WTYPE_F32, w, g0, g1, x, t0, t1, y, ldy);
}

void vd_neon_matmul_by(const vd_neon_tiles *tiles, const struct vd_kern_mat *w, size_t r0, size_t r1,
                       const struct vd_kern_rhs *x, size_t t0, size_t t1, float *y, size_t ldy)
{
    size_t g0 = r0 / WIDE_ROWS, g1 = (r1 + WIDE_ROWS - 1) / WIDE_ROWS;
    assert(r0 % WIDE_ROWS == 0 && r1 <= w->rows && (r1 % WIDE_ROWS == 0 || r1 == w->rows));
    if (!vd_wtype_info(w->type)->quantised) {
        float_matmul(w, g0, g1, x, t0, t1, y, ldy);
        return;
    }
    size_t slab = t1 - t0 <= WIDE_TOKS ? 1 : SLAB_BYTES / vd_wide_group_bytes(w->type, w->cols) + 1;
    for (size_t g = g0; g < g1; g += slab)
        for (size_t t = t0, n; t < t1; t += n) {
            n = tile_tokens(w, x, t, t1);
            tile_groups(tiles, w, g, g + slab < g1 ? g + slab : g1, x, t, n, y, ldy);
        }
}
