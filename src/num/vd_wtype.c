/* Everything about a quantised block follows from its integers and its scales, so the functions that take one
 * apart know the layouts and the rest of num knows none. */
#include "vd_wtype.h"

#include <assert.h>
#include <math.h>

#include "vd_bytes.h"

/* Indexed by GGUF id; the holes are types that this version does not compute with. */
static const struct vd_wtype_info types[] = {
    [VD_WTYPE_F32] = {"F32", 1, 4, 0, 0, 0, false, false},
    [VD_WTYPE_F16] = {"F16", 1, 2, 0, 0, 0, false, false},
    [VD_WTYPE_BF16] = {"BF16", 1, 2, 0, 0, 0, false, false},
    [VD_WTYPE_Q4_0] = {"Q4_0", 32, 18, 32, 0, 0, false, true},
    [VD_WTYPE_Q4_1] = {"Q4_1", 32, 20, 32, 0, 2, true, true},
    [VD_WTYPE_Q5_0] = {"Q5_0", 32, 22, 32, 0, 0, false, true},
    [VD_WTYPE_Q5_1] = {"Q5_1", 32, 24, 32, 0, 2, true, true},
    [VD_WTYPE_Q8_0] = {"Q8_0", 32, 34, 32, 0, 0, false, true},
    [VD_WTYPE_IQ4_NL] = {"IQ4_NL", 32, 18, 32, 0, 0, false, true},
    [VD_WTYPE_MXFP4] = {"MXFP4", 32, 17, 32, 0, 0, false, true},
    [VD_WTYPE_Q2_K] = {"Q2_K", 256, 84, 256, 80, 82, true, true},
    [VD_WTYPE_Q3_K] = {"Q3_K", 256, 110, 256, 108, 0, false, true},
    [VD_WTYPE_Q4_K] = {"Q4_K", 256, 144, 256, 0, 2, true, true},
    [VD_WTYPE_Q5_K] = {"Q5_K", 256, 176, 256, 0, 2, true, true},
    [VD_WTYPE_Q6_K] = {"Q6_K", 256, 210, 256, 208, 0, false, true},
    [VD_WTYPE_IQ4_XS] = {"IQ4_XS", 256, 136, 256, 0, 0, false, true},
};

const int8_t vd_wtype_iq4_table[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                       1,    13,   25,  38,  53,  69,  89,  113};
const int8_t vd_wtype_fp4_table[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

bool vd_wtype_known(uint32_t id)
{
    return id < sizeof types / sizeof types[0] && types[id].name;
}

const struct vd_wtype_info *vd_wtype_info(enum vd_wtype type)
{
    assert(vd_wtype_known(type));
    return &types[type];
}

size_t vd_wtype_row_bytes(enum vd_wtype type, size_t n)
{
    const struct vd_wtype_info *info = vd_wtype_info(type);
    assert(n % info->block_elems == 0);
    return n / info->block_elems * info->block_bytes;
}

float vd_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3FF;
    if (exponent == 0) { /* zero and subnormals: mantissa * 2^-24, exact */
        float x = (float)mantissa * 0x1p-24f;
        return sign ? -x : x;
    }
    uint32_t biased = exponent == 31 ? 255 : exponent + (127 - 15);
    return vd_f32_from_bits(sign | biased << 23 | mantissa << 13);
}

float vd_bf16_to_f32(uint16_t h)
{
    return vd_f32_from_bits((uint32_t)h << 16);
}

uint16_t vd_f16_from_f32(float x)
{
    uint32_t u = vd_f32_bits(x), sign = u >> 16 & 0x8000, mag = u & 0x7FFFFFFF;
    if (mag > 0x7F800000)
        return (uint16_t)(sign | 0x7E00);
    if (mag >= 0x477FF000) /* 65,520 and above round to infinity */
        return (uint16_t)(sign | 0x7C00);
    if (mag < 0x38800000) /* below 2^-14: the result is a multiple of 2^-24; rint rounds it */
        return (uint16_t)(sign | (uint32_t)rintf(vd_f32_from_bits(mag) * 0x1p24f));
    mag += 0xFFF + (mag >> 13 & 1); /* to nearest even on the 13 bits that go */
    return (uint16_t)(sign | ((mag - ((127u - 15u) << 23)) >> 13));
}

static void nibbles(const uint8_t qs[16], int offset, int8_t q[32])
{
    for (int j = 0; j < 16; j++) {
        q[j] = (int8_t)((qs[j] & 15) - offset);
        q[j + 16] = (int8_t)((qs[j] >> 4) - offset);
    }
}

static void table_nibbles(const uint8_t qs[16], const int8_t table[16], int8_t q[32])
{
    for (int j = 0; j < 16; j++) {
        q[j] = table[qs[j] & 15];
        q[j + 16] = table[qs[j] >> 4];
    }
}

/* The fifth bits qh[4], then the nibbles. */
static void fives(const uint8_t *codes, int offset, int8_t q[32])
{
    uint32_t high = vd_le32_load(codes);
    nibbles(codes + 4, offset, q);
    for (int j = 0; j < 32; j++)
        q[j] = (int8_t)(q[j] + (int)(high >> j & 1) * 16);
}

void vd_wtype_block_ints(enum vd_wtype type, const uint8_t *block, int8_t q[32])
{
    switch (type) {
    case VD_WTYPE_Q4_0:
        nibbles(block + 2, 8, q);
        return;
    case VD_WTYPE_Q4_1:
        nibbles(block + 4, 0, q);
        return;
    case VD_WTYPE_Q5_0:
        fives(block + 2, 16, q);
        return;
    case VD_WTYPE_Q5_1:
        fives(block + 4, 0, q);
        return;
    case VD_WTYPE_Q8_0:
        memcpy(q, block + 2, 32);
        return;
    case VD_WTYPE_IQ4_NL:
        table_nibbles(block + 2, vd_wtype_iq4_table, q);
        return;
    case VD_WTYPE_MXFP4:
        table_nibbles(block + 1, vd_wtype_fp4_table, q);
        return;
    case VD_WTYPE_F32:
    case VD_WTYPE_F16:
    case VD_WTYPE_BF16:
    case VD_WTYPE_Q2_K:
    case VD_WTYPE_Q3_K:
    case VD_WTYPE_Q4_K:
    case VD_WTYPE_Q5_K:
    case VD_WTYPE_Q6_K:
    case VD_WTYPE_IQ4_XS:
        break;
    }
    assert(!"a type with blocks of 32");
}

/* 2^(e - 128), half of the power that e stands for since the table holds doubled values; 255 is a NaN. */
static float half_e8m0(uint8_t e)
{
    if (e == 255)
        return vd_f32_from_bits(0x7FC00000);
    return vd_f32_from_bits(e < 2 ? UINT32_C(0x200000) << e : (uint32_t)(e - 1) << 23);
}

void vd_wtype_block_scales(enum vd_wtype type, const uint8_t *block, float *d, float *m)
{
    const struct vd_wtype_info *info = vd_wtype_info(type);
    *d = type == VD_WTYPE_MXFP4 ? half_e8m0(block[0]) : vd_f16_to_f32(vd_le16_load(block + info->d_at));
    *m = info->has_min ? vd_f16_to_f32(vd_le16_load(block + info->min_at)) : 0.0f;
}

/* ---- super-blocks ---- */

static void super_q2_k(const uint8_t *s, const uint8_t *qs, struct vd_wtype_super *out)
{
    for (int i = 0; i < 256; i++)
        out->w[i] = (int8_t)(qs[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3);
    for (int j = 0; j < 16; j++) {
        out->sc[j] = (int8_t)(s[j] & 15);
        out->m[j] = s[j] >> 4;
    }
}

static void super_q3_k(const uint8_t *hm, const uint8_t *qs, const uint8_t *s, struct vd_wtype_super *out)
{
    for (int i = 0; i < 256; i++) {
        int low = qs[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3, bit = hm[i % 32] >> (i / 32) & 1;
        out->w[i] = (int8_t)(low + 4 * bit - 4);
    }
    for (int j = 0; j < 16; j++) {
        int low = s[j % 8] >> (j < 8 ? 0 : 4) & 15, high = s[8 + j % 4] >> (j / 4 * 2) & 3;
        out->sc[j] = (int8_t)(low + 16 * high - 32);
    }
}

/* Eight scales and eight mins of six bits: the first four of each stand alone, the others have their two
 * upper bits above those. */
static void scales_of_six(const uint8_t *s, struct vd_wtype_super *out)
{
    for (int j = 0; j < 16; j++) {
        int b = j / 2;
        if (b < 4) {
            out->sc[j] = (int8_t)(s[b] & 63);
            out->m[j] = s[b + 4] & 63;
        } else {
            out->sc[j] = (int8_t)((s[b + 4] & 15) | s[b - 4] >> 6 << 4);
            out->m[j] = (uint8_t)(s[b + 4] >> 4 | s[b] >> 6 << 4);
        }
    }
}

/* qh may be NULL. */
static void super_q45_k(const uint8_t *s, const uint8_t *qh, const uint8_t *qs, struct vd_wtype_super *out)
{
    for (int i = 0; i < 256; i++) {
        int low = qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
        out->w[i] = (int8_t)(low + (qh ? (qh[i % 32] >> (i / 32) & 1) * 16 : 0));
    }
    scales_of_six(s, out);
}

static void super_q6_k(const uint8_t *ql, const uint8_t *qh, const uint8_t *sc, struct vd_wtype_super *out)
{
    for (int i = 0; i < 256; i++) {
        int h = i / 128, k = i / 32 % 4, l = i % 32;
        int low = ql[64 * h + 32 * (k % 2) + l] >> (k / 2 * 4) & 15, high = qh[32 * h + l] >> (2 * k) & 3;
        out->w[i] = (int8_t)(low + 16 * high - 32);
    }
    memcpy(out->sc, sc, 16);
}

static void super_iq4_xs(const uint8_t *sh, const uint8_t *sl, const uint8_t *qs, struct vd_wtype_super *out)
{
    for (int b = 0; b < 8; b++) {
        int low = sl[b / 2] >> (b % 2 * 4) & 15, high = vd_le16_load(sh) >> (2 * b) & 3;
        table_nibbles(qs + 16 * b, vd_wtype_iq4_table, out->w + 32 * b);
        out->sc[2 * b] = out->sc[2 * b + 1] = (int8_t)(low + 16 * high - 32);
    }
}

void vd_wtype_super_parts(enum vd_wtype type, const uint8_t *p, struct vd_wtype_super *s)
{
    memset(s->m, 0, sizeof s->m);
    vd_wtype_block_scales(type, p, &s->d, &s->dmin);
    switch (type) {
    case VD_WTYPE_Q2_K:
        super_q2_k(p, p + 16, s);
        return;
    case VD_WTYPE_Q3_K:
        super_q3_k(p, p + 32, p + 96, s);
        return;
    case VD_WTYPE_Q4_K:
        super_q45_k(p + 4, NULL, p + 16, s);
        return;
    case VD_WTYPE_Q5_K:
        super_q45_k(p + 4, p + 16, p + 48, s);
        return;
    case VD_WTYPE_Q6_K:
        super_q6_k(p, p + 128, p + 192, s);
        return;
    case VD_WTYPE_IQ4_XS:
        super_iq4_xs(p + 2, p + 4, p + 8, s);
        return;
    case VD_WTYPE_F32:
    case VD_WTYPE_F16:
    case VD_WTYPE_BF16:
    case VD_WTYPE_Q4_0:
    case VD_WTYPE_Q4_1:
    case VD_WTYPE_Q5_0:
    case VD_WTYPE_Q5_1:
    case VD_WTYPE_Q8_0:
    case VD_WTYPE_IQ4_NL:
    case VD_WTYPE_MXFP4:
        break;
    }
    assert(!"a type with blocks of 256");
}

static float float_elem(enum vd_wtype type, const uint8_t *row, size_t i)
{
    assert(type == VD_WTYPE_F32 || type == VD_WTYPE_F16 || type == VD_WTYPE_BF16);
    if (type == VD_WTYPE_F32)
        return vd_f32_from_bits(vd_le32_load(row + 4 * i));
    uint16_t h = vd_le16_load(row + 2 * i);
    return type == VD_WTYPE_F16 ? vd_f16_to_f32(h) : vd_bf16_to_f32(h);
}

/* y = elements [first, first + n) of the block. */
static void dequant_block(enum vd_wtype type, const uint8_t *block, uint32_t first, uint32_t n, float *y)
{
    int8_t q[32];
    float d, m;
    bool has_min = vd_wtype_info(type)->has_min;
    vd_wtype_block_ints(type, block, q);
    vd_wtype_block_scales(type, block, &d, &m);
    for (uint32_t i = 0; i < n; i++)
        y[i] = has_min ? fmaf((float)q[first + i], d, m) : (float)q[first + i] * d;
}

static void dequant_super(enum vd_wtype type, const uint8_t *block, uint32_t first, uint32_t n, float *y)
{
    struct vd_wtype_super s;
    vd_wtype_super_parts(type, block, &s);
    for (uint32_t i = first; i < first + n; i++) {
        float scaled = s.d * (float)(s.sc[i / 16] * s.w[i]);
        *y++ = vd_wtype_info(type)->has_min ? scaled - s.dmin * (float)s.m[i / 16] : scaled;
    }
}

void vd_num_dequant(enum vd_wtype type, const void *row, uint32_t first, uint32_t n, float *y)
{
    const struct vd_wtype_info *info = vd_wtype_info(type);
    const uint32_t len = info->block_elems;
    for (uint32_t e = first; e < first + n;) {
        uint32_t in = e % len, k = len - in < first + n - e ? len - in : first + n - e;
        const uint8_t *block = (const uint8_t *)row + (size_t)(e / len) * info->block_bytes;
        if (len == 1)
            y[e - first] = float_elem(type, block, 0);
        else if (len == 32)
            dequant_block(type, block, in, k, y + (e - first));
        else
            dequant_super(type, block, in, k, y + (e - first));
        e += k;
    }
}

static bool finite32(float x)
{
    return (vd_f32_bits(x) & 0x7F800000) != 0x7F800000;
}

bool vd_num_weights_finite(enum vd_wtype type, const void *row, size_t n)
{
    const struct vd_wtype_info *info = vd_wtype_info(type);
    const uint8_t *bytes = row;
    assert(n % info->block_elems == 0);
    for (size_t b = 0; b < n / info->block_elems; b++) {
        float d, m = 0.0f;
        if (info->quantised)
            vd_wtype_block_scales(type, bytes + b * info->block_bytes, &d, &m);
        else
            d = float_elem(type, bytes, b);
        if (!finite32(d) || !finite32(m))
            return false;
    }
    return true;
}
