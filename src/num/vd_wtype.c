/* Everything about a quantised block follows from its integers and its scales, so those two functions know
 * the layouts and the rest of num knows none. */
#include "vd_wtype.h"

#include <assert.h>
#include <math.h>

#include "vd_bytes.h"

/* Indexed by GGUF id; the holes are types that this version does not compute with. */
static const struct vd_wtype_info types[] = {
    [VD_WTYPE_F32] = {"F32", 1, 4, false, false},    [VD_WTYPE_F16] = {"F16", 1, 2, false, false},
    [VD_WTYPE_Q4_0] = {"Q4_0", 32, 18, false, true}, [VD_WTYPE_Q4_1] = {"Q4_1", 32, 20, true, true},
    [VD_WTYPE_Q5_0] = {"Q5_0", 32, 22, false, true}, [VD_WTYPE_Q5_1] = {"Q5_1", 32, 24, true, true},
    [VD_WTYPE_Q8_0] = {"Q8_0", 32, 34, false, true}, [VD_WTYPE_BF16] = {"BF16", 1, 2, false, false},
};

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
    case VD_WTYPE_F32:
    case VD_WTYPE_F16:
    case VD_WTYPE_BF16:
        break;
    }
    assert(!"a quantised type");
}

void vd_wtype_block_scales(enum vd_wtype type, const uint8_t *block, float *d, float *m)
{
    *d = vd_f16_to_f32(vd_le16_load(block));
    *m = vd_wtype_info(type)->has_min ? vd_f16_to_f32(vd_le16_load(block + 2)) : 0.0f;
}

static float float_elem(enum vd_wtype type, const uint8_t *row, size_t i)
{
    assert(type == VD_WTYPE_F32 || type == VD_WTYPE_F16 || type == VD_WTYPE_BF16);
    if (type == VD_WTYPE_F32)
        return vd_f32_from_bits(vd_le32_load(row + 4 * i));
    uint16_t h = vd_le16_load(row + 2 * i);
    return type == VD_WTYPE_F16 ? vd_f16_to_f32(h) : vd_bf16_to_f32(h);
}

void vd_num_dequant(enum vd_wtype type, const void *row, uint32_t first, uint32_t n, float *y)
{
    const struct vd_wtype_info *info = vd_wtype_info(type);
    const uint8_t *bytes = row;
    int8_t q[32];
    float d, m;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t e = first + i;
        if (!info->quantised) {
            y[i] = float_elem(type, bytes, e);
            continue;
        }
        if (i == 0 || e % 32 == 0) {
            const uint8_t *block = bytes + (size_t)(e / 32) * info->block_bytes;
            vd_wtype_block_ints(type, block, q);
            vd_wtype_block_scales(type, block, &d, &m);
        }
        y[i] = info->has_min ? fmaf((float)q[e % 32], d, m) : (float)q[e % 32] * d;
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
