/* Weight types: every binary16, every rounding border, layouts written out by hand, and what is not finite.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "vd_num_testing.h"
#include "vd_wtype.h"

static void test_types(void **state)
{
    static const struct {
        uint32_t id;
        const char *name;
        size_t bytes_256;
    } known[] = {{0, "F32", 1024},  {1, "F16", 512},     {2, "Q4_0", 144},    {3, "Q4_1", 160},
                 {6, "Q5_0", 176},  {7, "Q5_1", 192},    {8, "Q8_0", 272},    {30, "BF16", 512},
                 {10, "Q2_K", 84},  {11, "Q3_K", 110},   {12, "Q4_K", 144},   {13, "Q5_K", 176},
                 {14, "Q6_K", 210}, {20, "IQ4_NL", 144}, {23, "IQ4_XS", 136}, {39, "MXFP4", 136}};
    const size_t n = sizeof known / sizeof known[0];
    uint32_t n_known = 0;
    for (uint32_t id = 0; id < 300; id++)
        n_known += vd_wtype_known(id);
    assert_int_equal(n_known, n);
    assert_false(vd_wtype_known(UINT32_MAX));
    for (size_t i = 0; i < n; i++) {
        assert_true(vd_wtype_known(known[i].id));
        assert_string_equal(vd_wtype_info((enum vd_wtype)known[i].id)->name, known[i].name);
        assert_int_equal(vd_wtype_row_bytes((enum vd_wtype)known[i].id, 256), known[i].bytes_256);
    }
}

/* The definition of binary16, in double. */
static double f16_value(uint16_t h)
{
    int e = h >> 10 & 31, m = h & 1023;
    double mag = e == 0 ? ldexp(m, -24) : ldexp(1024 + m, e - 25);
    return h & 0x8000 ? -mag : mag;
}

static void test_f16_to_f32_all(void **state)
{
    for (uint32_t h = 0; h < 65536; h++) {
        float x = vd_f16_to_f32((uint16_t)h);
        if ((h & 0x7C00) != 0x7C00)
            assert_true((double)x == f16_value((uint16_t)h) && !signbit(x) == !(h & 0x8000));
        else if (h & 0x3FF)
            assert_true(isnan(x));
        else
            assert_true(isinf(x) && !signbit(x) == !(h & 0x8000));
        if (!isnan(x))
            assert_int_equal(vd_f16_from_f32(x), h);
    }
}

/* Between neighbours the midpoint goes to the even one and its binary32 neighbours to the nearer one. */
static void test_f16_from_f32_borders(void **state)
{
    for (uint32_t h = 0; h < 0x7C00; h++) {
        double next = h == 0x7BFF ? 65536.0 : f16_value((uint16_t)(h + 1));
        float mid = (float)((f16_value((uint16_t)h) + next) / 2);
        uint32_t even = h & 1 ? h + 1 : h;
        assert_int_equal(vd_f16_from_f32(mid), even);
        assert_int_equal(vd_f16_from_f32(-mid), even | 0x8000);
        assert_int_equal(vd_f16_from_f32(nextafterf(mid, 0.0f)), h);
        assert_int_equal(vd_f16_from_f32(nextafterf(mid, 1e9f)), h + 1);
    }
    assert_int_equal(vd_f16_from_f32(3e38f), 0x7C00);
    assert_int_equal(vd_f16_from_f32(-INFINITY), 0xFC00);
    assert_int_equal(vd_f16_from_f32(NAN) & 0x7FFF, 0x7E00);
    assert_int_equal(vd_f16_from_f32(0x1p-149f), 0);
}

/* d = 0.5, m = -3, nibbles 0..15 in the low halves and 15..0 in the high ones. */
static void test_dequant_by_hand(void **state)
{
    uint8_t q40[18] = {0x00, 0x38}, q41[20] = {0x00, 0x38, 0x00, 0xC2}, q80[34] = {0x00, 0x38};
    for (int j = 0; j < 16; j++)
        q40[2 + j] = q41[4 + j] = (uint8_t)(j | (15 - j) << 4);
    for (int j = 0; j < 32; j++)
        q80[2 + j] = (uint8_t)(j * 8 - 128);
    float y[32];
    vd_num_dequant(VD_WTYPE_Q4_0, q40, 0, 32, y);
    for (int j = 0; j < 16; j++)
        assert_true(y[j] == 0.5f * (float)(j - 8) && y[j + 16] == 0.5f * (float)(7 - j));
    vd_num_dequant(VD_WTYPE_Q4_1, q41, 0, 32, y);
    for (int j = 0; j < 16; j++)
        assert_true(y[j] == 0.5f * (float)j - 3 && y[j + 16] == 0.5f * (float)(15 - j) - 3);
    vd_num_dequant(VD_WTYPE_Q8_0, q80, 0, 32, y);
    for (int j = 0; j < 32; j++)
        assert_true(y[j] == 0.5f * (float)(j * 8 - 128));

    static const uint8_t f32[8] = {0x00, 0x00, 0x80, 0x3F, 0x00, 0x00, 0x20, 0xC1},
                         f16[4] = {0x00, 0x3C, 0x00, 0xC9};
    vd_num_dequant(VD_WTYPE_F32, f32, 0, 2, y);
    assert_true(y[0] == 1.0f && y[1] == -10.0f);
    vd_num_dequant(VD_WTYPE_F16, f16, 0, 2, y);
    assert_true(y[0] == 1.0f && y[1] == -10.0f);
    static const uint8_t bf16[6] = {0x80, 0x3F, 0x20, 0xC1, 0x01, 0x80};
    vd_num_dequant(VD_WTYPE_BF16, bf16, 0, 3, y);
    assert_true(y[0] == 1.0f && y[1] == -10.0f && y[2] == -0x1p-133f);
}

/* A random block each, and what gguf-py's dequantize makes of it. */
static void test_dequant_by_gguf(void **state)
{
    static const uint8_t q50[22] = {0xAD, 0x24, 0xB8, 0xAB, 0xEE, 0xAB, 0x14, 0xCE, 0xF5, 0x99, 0xCC,
                                    0x05, 0x25, 0x35, 0xD5, 0xCE, 0xC0, 0xAD, 0x06, 0x78, 0x3F, 0x60};
    static const uint8_t q51[24] = {0x18, 0x2A, 0x69, 0x1F, 0xAB, 0x6F, 0x48, 0xE5, 0x88, 0x34, 0x5D, 0x0C,
                                    0xF1, 0xF3, 0x91, 0x1E, 0x36, 0xFC, 0xA0, 0xA0, 0x7E, 0xE5, 0x60, 0xD6};
    static const float want50[32] = {
        -0x1.c0ep-3, -0x1.2b4p-5, -0x1.9b78p-3, 0x1.50a8p-3, 0x1.c0ep-3,  0x1.761p-4,  -0x1.9b78p-3,
        0x1.761p-4,  0x1.761p-4,  0x1.05d8p-2,  -0x1.2b4p-2, 0x1.e648p-3, -0x1.761p-3, 0x1.2b4p-3,
        -0x1.2b4p-6, 0,           -0x1.188cp-2, 0x1.c0ep-3,  0x1.188cp-2, 0x1.50a8p-3, -0x1.2b4p-4,
        0,           0x1.2b4p-5,  0x1.c0ep-5,   0x1.e648p-3, 0x1.c0ep-3,  -0x1.2b4p-4, 0x1.761p-3,
        -0x1.2b4p-2, 0x1.05d8p-3, -0x1.e648p-3, 0x1.c0ep-4};
    static const float want51[32] = {
        0x1.265a4p+0, 0x1.eb348p-1, 0x1.40948p-1, 0x1.571a4p+0, 0x1.c148p-5,  0x1.d2d48p-1, 0x1.c148p-5,
        0x1.6f7a4p+0, 0x1.0dfa4p+0, 0x1.571a4p+0, 0x1.89b48p-1, 0x1.89b48p-1, 0x1.58f48p-1, 0x1.01ca4p+0,
        0x1.89b48p-1, 0x1.2be9p-2,  0x1.8d69p-2,  0x1.3352p-3,  0x1.f652p-3,  0x1.89b48p-1, 0x1.71548p-1,
        0x1.71548p-1, 0x1.328a4p+0, 0x1.c148p-5,  0x1.d2d48p-1, 0x1.71548p-1, 0x1.3eba4p+0, 0x1.eee9p-2,
        0x1.5ca9p-2,  0x1.6f7a4p+0, 0x1.0dfa4p+0, 0x1.634a4p+0};
    float y[32];
    vd_num_dequant(VD_WTYPE_Q5_0, q50, 0, 32, y);
    for (int j = 0; j < 32; j++)
        assert_true(y[j] == want50[j]);
    vd_num_dequant(VD_WTYPE_Q5_1, q51, 0, 32, y);
    for (int j = 0; j < 32; j++)
        assert_true(y[j] == want51[j]);
}

/* 4,096 elements of random blocks with finite scales: the hash of what gguf-py's dequantize makes of them, -0
 * as +0 (there a product's sign may come from a zero integer). */
static void test_dequant_by_gguf_hash(void **state)
{
    static const struct {
        enum vd_wtype type;
        uint64_t hash;
    } cases[] = {
        {VD_WTYPE_Q2_K, UINT64_C(0xd4988267155b44c7)},   {VD_WTYPE_Q3_K, UINT64_C(0xf01af2c5a2cf0450)},
        {VD_WTYPE_Q4_K, UINT64_C(0x9be0857f8d46a214)},   {VD_WTYPE_Q5_K, UINT64_C(0xd26796f8add36d6c)},
        {VD_WTYPE_Q6_K, UINT64_C(0xae2647e911bb9cb4)},   {VD_WTYPE_IQ4_NL, UINT64_C(0x5053090103cf72d1)},
        {VD_WTYPE_IQ4_XS, UINT64_C(0x4a532c432d890f4b)}, {VD_WTYPE_MXFP4, UINT64_C(0x6b11cff74ebdd2cb)},
    };
    enum { N = 4096 };
    static uint8_t row[2 * N];
    static float y[N];
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        const struct vd_wtype_info *info = vd_wtype_info(cases[c].type);
        struct vd_rng r = {.seed = 500 + (uint64_t)cases[c].type};
        for (size_t b = 0; b < N / info->block_elems; b++) {
            uint8_t *block = row + b * info->block_bytes;
            for (size_t i = 0; i < info->block_bytes; i++)
                block[i] = (uint8_t)vd_rng_next(&r);
            if (cases[c].type == VD_WTYPE_MXFP4)
                block[0] &= 0x7F;
            else
                block[info->d_at + 1] &= 0xBF;
            if (info->has_min)
                block[info->min_at + 1] &= 0xBF;
        }
        vd_num_dequant(cases[c].type, row, 0, N, y);
        for (int i = 0; i < N; i++)
            y[i] += 0.0f;
        assert_true(test_fnv_floats(TEST_FNV_START, y, N) == cases[c].hash);
    }
}

/* The range of the exponent: e = 0 and 1 are subnormal powers, 255 is a NaN. */
static void test_mxfp4_powers(void **state)
{
    uint8_t block[17] = {0, 0xF1};
    float d, m;
    for (int e = 0; e < 255; e++) {
        block[0] = (uint8_t)e;
        vd_wtype_block_scales(VD_WTYPE_MXFP4, block, &d, &m);
        assert_true((double)d == ldexp(1, e - 128) && m == 0.0f);
        assert_true(vd_num_weights_finite(VD_WTYPE_MXFP4, block, 32));
    }
    block[0] = 255;
    vd_wtype_block_scales(VD_WTYPE_MXFP4, block, &d, &m);
    assert_true(isnan(d));
    assert_false(vd_num_weights_finite(VD_WTYPE_MXFP4, block, 32));
    block[0] = 128;
    vd_num_dequant(VD_WTYPE_MXFP4, block, 0, 1, &d);
    vd_num_dequant(VD_WTYPE_MXFP4, block, 16, 1, &m);
    assert_true(d == 1.0f && m == -12.0f);
}

static void test_dequant_parts(void **state)
{
    static const enum vd_wtype types[] = {VD_WTYPE_F32,  VD_WTYPE_F16,  VD_WTYPE_Q4_0,   VD_WTYPE_Q4_1,
                                          VD_WTYPE_Q5_0, VD_WTYPE_Q5_1, VD_WTYPE_Q8_0,   VD_WTYPE_BF16,
                                          VD_WTYPE_Q2_K, VD_WTYPE_Q6_K, VD_WTYPE_IQ4_NL, VD_WTYPE_MXFP4};
    struct vd_rng r = {.seed = 1};
    uint8_t row[1024];
    float all[256], part[256];
    for (size_t i = 0; i < sizeof row; i++)
        row[i] = (uint8_t)vd_rng_next(&r);
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        vd_num_dequant(types[t], row, 0, 256, all);
        for (uint32_t first = 0; first < 256; first += 13) {
            vd_num_dequant(types[t], row, first, 256 - first, part);
            for (uint32_t i = 0; i < 256 - first; i++)
                assert_true(test_same_bits(vd_num_canon(part[i]), vd_num_canon(all[first + i])));
        }
    }
}

static void test_finite(void **state)
{
    uint8_t row[1024];
    memset(row, 0, sizeof row);
    static const struct {
        enum vd_wtype type;
        size_t at[2]; /* where the high bytes of a scale, a min or a value lie; 0: none */
    } cases[] = {{VD_WTYPE_F32, {4 * 77 + 2, 0}}, {VD_WTYPE_F16, {2 * 255, 0}},
                 {VD_WTYPE_Q4_0, {18 * 7, 0}},    {VD_WTYPE_Q4_1, {20 * 7, 20 * 3 + 2}},
                 {VD_WTYPE_Q5_0, {22 * 7, 0}},    {VD_WTYPE_Q5_1, {24 * 7, 24 * 3 + 2}},
                 {VD_WTYPE_Q8_0, {34 * 7, 0}},    {VD_WTYPE_BF16, {2 * 255, 0}},
                 {VD_WTYPE_IQ4_NL, {18 * 7, 0}},  {VD_WTYPE_IQ4_XS, {0, 0}},
                 {VD_WTYPE_Q2_K, {80, 82}},       {VD_WTYPE_Q3_K, {108, 0}},
                 {VD_WTYPE_Q4_K, {0, 2}},         {VD_WTYPE_Q5_K, {0, 2}},
                 {VD_WTYPE_Q6_K, {208, 0}}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (int k = 0; k < 2 && (k == 0 || cases[i].at[k]); k++) {
            uint8_t *p = row + cases[i].at[k];
            assert_true(vd_num_weights_finite(cases[i].type, row, 256));
            bool wide = cases[i].type == VD_WTYPE_F32 || cases[i].type == VD_WTYPE_BF16;
            vd_le16_store(p, wide ? 0x7F80 : 0x7C00); /* infinity */
            assert_false(vd_num_weights_finite(cases[i].type, row, 256));
            vd_le16_store(p, 0xFFFF); /* a NaN */
            assert_false(vd_num_weights_finite(cases[i].type, row, 256));
            vd_le16_store(p, wide ? 0x7F7F : 0x7BFF); /* large, finite */
            assert_true(vd_num_weights_finite(cases[i].type, row, 256));
            vd_le16_store(p, 0);
        }
    }
    memset(row + 2, 0xFF, 32); /* the integers of a block may be anything */
    assert_true(vd_num_weights_finite(VD_WTYPE_Q8_0, row, 32));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_f16_to_f32_all),
        cmocka_unit_test(test_f16_from_f32_borders),
        cmocka_unit_test(test_dequant_by_hand),
        cmocka_unit_test(test_dequant_by_gguf),
        cmocka_unit_test(test_dequant_by_gguf_hash),
        cmocka_unit_test(test_mxfp4_powers),
        cmocka_unit_test(test_dequant_parts),
        cmocka_unit_test(test_finite),
    };
    return cmocka_run_group_tests_name("wtype", tests, NULL, NULL);
}
