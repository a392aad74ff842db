/* Filling and reading the shared layouts. Plain C: it moves bytes, at load time or a row at a time. */
#include "vd_kern_wide.h"

#include <string.h>

#include "vd_bytes.h"

/* The packed bytes are the file's, rearranged: a group is 16 rows of the file. */
size_t vd_wide_group_bytes(enum vd_wtype type, size_t cols)
{
    return WIDE_ROWS * vd_wtype_row_bytes(type, cols);
}

const uint8_t *vd_wide_group(const struct vd_kern_mat *w, size_t group)
{
    return (const uint8_t *)w->data + group * vd_wide_group_bytes(w->type, w->cols);
}

size_t vd_wide_mat_bytes(enum vd_wtype type, size_t rows, size_t cols)
{
    if (cols == 0 || cols > VD_KERN_COLS_MAX || cols % vd_wtype_info(type)->block_elems != 0)
        return 0;
    size_t groups = (rows + WIDE_ROWS - 1) / WIDE_ROWS;
    return vd_kern_round_up(groups * vd_wide_group_bytes(type, cols), VD_KERN_ALIGN);
}

/* Bit 4j + k of the file's fifth bits becomes bit j of byte k. */
static uint32_t transpose_fifth_bits(uint32_t file)
{
    uint32_t out = 0;
    for (uint32_t k = 0; k < 4; k++) {
        uint32_t x = file >> k & 0x11111111;
        x = (x | x >> 3) & 0x03030303;
        x = (x | x >> 6) & 0x000F000F;
        out |= ((x | x >> 12) & 0xFF) << 8 * k;
    }
    return out;
}

/* Row `lane` of a group, from the file's blocks (d, [m,] codes). */
static void pack_blocks(uint8_t *dst, enum vd_wtype type, size_t lane, size_t n_blocks, const uint8_t *src)
{
    struct vd_wide_type t = vd_wide_type(type);
    uint32_t flip = t.flip * UINT32_C(0x01010101);
    for (size_t b = 0; b < n_blocks; b++, src += t.head_bytes + t.code_bytes) {
        if (t.head_bytes == 1) {
            dst[lane] = src[0];
            dst += WIDE_ROWS;
        }
        for (size_t i = 0; i + 1 < t.head_bytes; i += 2, dst += WIDE_ROWS * 2)
            memcpy(dst + lane * 2, src + i, 2);
        for (size_t i = 0; i < t.code_bytes; i += 4, dst += WIDE_ROWS * 4) {
            uint32_t u;
            memcpy(&u, src + t.head_bytes + i, 4);
            u = t.five && i == 0 ? transpose_fifth_bits(u) : u ^ flip;
            memcpy(dst + lane * 4, &u, 4);
        }
    }
}

/* Row `lane` of a group, from the file's super-blocks of `bytes` bytes. */
static void pack_supers(uint8_t *dst, size_t bytes, size_t lane, size_t n_blocks, const uint8_t *src)
{
    for (size_t b = 0; b < n_blocks; b++, dst += bytes * WIDE_ROWS, src += bytes) {
        for (size_t i = 0; i + 4 <= bytes; i += 4)
            memcpy(dst + i * WIDE_ROWS + lane * 4, src + i, 4);
        if (bytes % 4 != 0)
            memcpy(dst + (bytes - 2) * WIDE_ROWS + lane * 2, src + bytes - 2, 2);
    }
}

/* Row `lane` of a group of floats of `size` bytes. */
static void pack_floats(uint8_t *dst, size_t size, size_t lane, size_t cols, const uint8_t *src)
{
    for (size_t c = 0; c < cols; c++)
        memcpy(dst + (c * WIDE_ROWS + lane) * size, src + c * size, size);
}

void vd_wide_mat_pack(const struct vd_kern_mat *w, size_t r0, size_t r1, const void *src)
{
    size_t row_bytes = vd_wtype_row_bytes(w->type, w->cols),
           group_bytes = vd_wide_group_bytes(w->type, w->cols);
    assert(r0 % WIDE_ROWS == 0 && r1 <= w->rows && (r1 % WIDE_ROWS == 0 || r1 == w->rows));
    if (w->split) {
        vd_wide_split_pack(w, r0, r1, src);
        return;
    }
    if (r1 % WIDE_ROWS != 0)
        memset((uint8_t *)w->data + r1 / WIDE_ROWS * group_bytes, 0, group_bytes);
    for (size_t r = r0; r < r1; r++) {
        uint8_t *g = (uint8_t *)w->data + r / WIDE_ROWS * group_bytes;
        const uint8_t *row = (const uint8_t *)src + (r - r0) * row_bytes;
        const struct vd_wtype_info *info = vd_wtype_info(w->type);
        if (vd_wide_is_super(w->type))
            pack_supers(g, info->block_bytes, r % WIDE_ROWS, w->cols / info->block_elems, row);
        else if (info->quantised)
            pack_blocks(g, w->type, r % WIDE_ROWS, w->cols / VD_KERN_BLOCK, row);
        else
            pack_floats(g, info->block_bytes, r % WIDE_ROWS, w->cols, row);
    }
}

size_t vd_wide_act_bytes(size_t n_tok, size_t cols)
{
    return (n_tok + WIDE_TOKS - 1) / WIDE_TOKS * vd_wide_act_group_bytes(cols);
}

void vd_wide_act_read(const void *act, size_t cols, size_t t, int8_t *q, float *d)
{
    const struct vd_wide_act_group *g = vd_wide_act_group(act, cols, t);
    for (size_t b = 0; b < cols / VD_KERN_BLOCK; b++) {
        memcpy(q + b * VD_KERN_BLOCK, g->block[b].q[t % WIDE_TOKS], VD_KERN_BLOCK);
        d[b] = g->block[b].d[t % WIDE_TOKS];
    }
}

size_t vd_wide_act256_bytes(size_t n_tok, size_t cols)
{
    return (n_tok + WIDE_TOKS - 1) / WIDE_TOKS * (cols / VD_KERN_BLOCK256) * sizeof(struct vd_wide_super);
}

void vd_wide_act256_read(const void *act256, size_t cols, size_t t, int8_t *q, float *d)
{
    const struct vd_wide_super *s = vd_wide_supers(act256, cols, t);
    for (size_t b = 0; b < cols / VD_KERN_BLOCK256; b++) {
        memcpy(q + b * VD_KERN_BLOCK256, s[b].q[t % WIDE_TOKS], VD_KERN_BLOCK256);
        d[b] = s[b].d[t % WIDE_TOKS];
    }
}

typedef float vec4 __attribute__((vector_size(16)));

/* Four elements in a vector: the first three halves lie between vectors, the others within. */
static void spread_block(const float *x, float *y)
{
    vec4 v[8];
    memcpy(v, x, sizeof v);
    for (int half = 4; half > 0; half /= 2)
        for (int i = 0; i < 8; i++) {
            if (i & half)
                continue;
            vec4 a = v[i], b = v[i + half];
            v[i] = a + b;
            v[i + half] = a - b;
        }
    for (int i = 0; i < 8; i++) {
        vec4 o = __builtin_shufflevector(v[i], v[i], 2, 3, 0, 1);
        v[i] = __builtin_shufflevector(o + v[i], o - v[i], 0, 1, 6, 7);
        o = __builtin_shufflevector(v[i], v[i], 1, 0, 3, 2);
        v[i] = __builtin_shufflevector(o + v[i], o - v[i], 0, 5, 2, 7);
    }
    memcpy(y, v, sizeof v);
}

void vd_wide_spread(const float *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += VD_KERN_BLOCK)
        spread_block(x + i, y + i);
}

size_t vd_wide_kv_bytes(size_t hd)
{
    return VD_KERN_CHUNK * (2 * hd + (hd / VD_KERN_BLOCK + 1) * sizeof(float));
}

void vd_wide_kv_store(void *chunk, size_t hd, size_t slot, const int8_t *kq, const float *kd,
                      const int8_t *vq, float vd)
{
    struct vd_wide_kv c = vd_wide_kv(chunk, hd);
    uint8_t *k = c.k + slot / 16 * hd * 16 + slot % 16 * 4;
    int8_t *v = c.v + slot / 4 * hd * 4 + slot % 4;
    assert(hd % VD_KERN_BLOCK == 0 && hd <= VD_KERN_HEAD_MAX && slot < VD_KERN_CHUNK);
    for (size_t i = 0; i < hd / 4; i++) {
        uint32_t u;
        memcpy(&u, kq + i * 4, 4);
        u ^= 0x80808080;
        memcpy(k + i * 64, &u, 4);
    }
    for (size_t e = 0; e < hd; e++)
        v[e * 4] = vq[e];
    for (size_t b = 0; b < hd / VD_KERN_BLOCK; b++)
        c.kd[b * VD_KERN_CHUNK + slot] = kd[b];
    c.vd[slot] = vd;
}

void vd_wide_kv_read(const void *chunk, size_t hd, size_t slot, int8_t *kq, float *kd, int8_t *vq, float *vd)
{
    struct vd_wide_kv c = vd_wide_kv(chunk, hd);
    const uint8_t *k = c.k + slot / 16 * hd * 16 + slot % 16 * 4;
    const int8_t *v = c.v + slot / 4 * hd * 4 + slot % 4;
    for (size_t e = 0; e < hd; e += 4) {
        uint32_t four;
        memcpy(&four, k + e * 16, 4);
        four ^= 0x80808080;
        memcpy(kq + e, &four, 4);
    }
    for (size_t e = 0; e < hd; e++)
        vq[e] = v[e * 4];
    for (size_t b = 0; b < hd / VD_KERN_BLOCK; b++)
        kd[b] = c.kd[b * VD_KERN_CHUNK + slot];
    *vd = c.vd[slot];
}
