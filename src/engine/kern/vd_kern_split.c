/* Split matrices (vd_kern_wide.h): filling them, and `bounds` but for the sums, which are a table's own. */
#include "vd_kern_wide.h"

#include <string.h>

bool vd_wide_can_split(enum vd_wtype type)
{
    return type == VD_WTYPE_Q8_0;
}

/* Row r of a split matrix, from the file's blocks. */
static void pack_split(const struct vd_kern_mat *w, size_t r, const uint8_t *src)
{
    const uint32_t nibble = 0x0F0F0F0F, pair = 0x03030303, flip = 0x80808080;
    uint8_t *upper = vd_wide_upper(w, r / WIDE_ROWS), *lower = vd_wide_lower(w, r / WIDE_ROWS);
    const size_t lane = r % WIDE_ROWS;
    for (size_t b = 0; b < w->cols / VD_KERN_BLOCK; b++, src += 34) {
        uint32_t u[8], high[2] = {0}, low[2] = {0};
        memcpy(u, src + 2, sizeof u);
        memcpy(upper + lane * 2, src, 2);
        for (unsigned j = 0; j < 8; j++) {
            u[j] ^= flip;
            high[j / 4] |= (u[j] >> 6 & pair) << 2 * (j % 4);
            low[j / 4] |= (u[j] & pair) << 2 * (j % 4);
        }
        for (size_t j = 0; j < 4; j++) {
            uint32_t nibbles = (u[j] >> 2 & nibble) | (u[j + 4] >> 2 & nibble) << 4;
            memcpy(upper + WIDE_ROWS * (2 + 4 * j) + lane * 4, &nibbles, 4);
        }
        for (size_t i = 0; i < 2; i++) {
            memcpy(upper + WIDE_ROWS * (18 + 4 * i) + lane * 4, &high[i], 4);
            memcpy(lower + WIDE_ROWS * 4 * i + lane * 4, &low[i], 4);
        }
        upper += VD_SPLIT_UPPER;
        lower += VD_SPLIT_LOWER;
    }
}

void vd_wide_split_pack(const struct vd_kern_mat *w, size_t r0, size_t r1, const uint8_t *src)
{
    const size_t blocks = w->cols / VD_KERN_BLOCK;
    if (r1 % WIDE_ROWS != 0) {
        memset(vd_wide_upper(w, r1 / WIDE_ROWS), 0, blocks * VD_SPLIT_UPPER);
        memset(vd_wide_lower(w, r1 / WIDE_ROWS), 0, blocks * VD_SPLIT_LOWER);
    }
    for (size_t r = r0; r < r1; r++)
        pack_split(w, r, src + (r - r0) * blocks * 34);
}

/* A code is c = 4 * upper + lower - 128 with lower in 0..3: 4 * upper - 126.5 is off by at most 1.5, and a
 * block's dot product by 1.5 * sum |q|. In halves: c is 8 * upper - 253 over 2, so d is a half of the
 * activation's scale. Rounding: an output and its approximation are sums of n = blocks products of at
 * most 128 * sum |q|, by at most n + 8 roundings each (segments included); the sum of `off` has as many. So
 * everything together is off by less than 2^-24 * (n + 8) * (2 * 128 / 1.5 + 2) of `off`; 200 is above that.
 * A block of zeros counts as one, so that a scale that is not finite shows. */
static void fill_terms(const void *act, size_t cols, size_t t, struct vd_split_term *term)
{
    const struct vd_wide_act_group *g = vd_wide_act_group(act, cols, t);
    const size_t n = cols / VD_KERN_BLOCK, slot = t % WIDE_TOKS;
    const float more = 1.0f + 200.0f * (float)(n + 8) * 0x1p-24f;
    for (size_t b = 0; b < n; b++) {
        int32_t sum = 0;
        for (size_t i = 0; i < VD_KERN_BLOCK; i++)
            sum += g->block[b].q[slot][i] < 0 ? -g->block[b].q[slot][i] : g->block[b].q[slot][i];
        float d = g->block[b].d[slot], abs_d = d < 0 ? -d : d;
        term[b].d = 0.5f * d;
        term[b].off = abs_d * (1.5f * (float)(sum > 0 ? sum : 1)) * more;
        term[b].minus = 253 * g->block[b].asum[slot];
    }
}

/* At most VD_SPLIT_TOKS tokens of one token group. */
static size_t tile_size(size_t t, size_t t1)
{
    size_t left = WIDE_TOKS - t % WIDE_TOKS, n = t1 - t < left ? t1 - t : left;
    return n >= 4 ? 4 : n >= 2 ? 2 : 1;
}

bool vd_wide_bounds(vd_split_fn *const fns[3], const struct vd_kern_mat *w, size_t r0, size_t r1,
                    const struct vd_kern_rhs *x, size_t t0, size_t t1, float *high, size_t ld_high,
                    float *low, void *scratch)
{
    const size_t n_blocks = w->cols / VD_KERN_BLOCK, g0 = r0 / WIDE_ROWS;
    struct vd_split_term *term = scratch;
    assert(w->split && r0 % WIDE_ROWS == 0 && r1 <= w->rows && (r1 % WIDE_ROWS == 0 || r1 == w->rows));
    assert(t1 - t0 <= VD_KERN_BOUND_TOKS);
    for (size_t t = t0; t < t1; t++)
        fill_terms(x->act, w->cols, t, term + (t - t0) * n_blocks);
    for (size_t g = g0; g * WIDE_ROWS < r1; g++)
        for (size_t t = t0, n; t < t1; t += n) {
            n = tile_size(t, t1);
            struct vd_split_bound out[VD_SPLIT_TOKS];
            const struct vd_split_tile tile = {.upper = vd_wide_upper(w, g),
                                               .rows = w->rows - g * WIDE_ROWS,
                                               .act = vd_wide_act_group(x->act, w->cols, t)->block,
                                               .slot = t % WIDE_TOKS,
                                               .term = term + (t - t0) * n_blocks,
                                               .n_blocks = n_blocks,
                                               .first = t == t0};
            if (!fns[n / 2](&tile, out))
                return false;
            for (size_t i = 0; i < n; i++) {
                float *l = &low[t - t0 + i];
                high[(t - t0 + i) * ld_high + g - g0] = out[i].high;
                *l = out[i].low > *l ? out[i].low : *l;
            }
        }
    return true;
}
