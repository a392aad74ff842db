/* One row per id, so that a file with a type that no kernel knows can still be listed, hashed and copied. */
#include "vd_gguf_type.h"

#include <stddef.h>

static const struct {
    const char *name;
    uint32_t n_bytes;
} values[VD_GGUF_VALUE_COUNT] = {
    [VD_GGUF_U8] = {"u8", 1},   [VD_GGUF_I8] = {"i8", 1},       [VD_GGUF_U16] = {"u16", 2},
    [VD_GGUF_I16] = {"i16", 2}, [VD_GGUF_U32] = {"u32", 4},     [VD_GGUF_I32] = {"i32", 4},
    [VD_GGUF_F32] = {"f32", 4}, [VD_GGUF_BOOL] = {"bool", 1},   [VD_GGUF_STRING] = {"string", 0},
    [VD_GGUF_U64] = {"u64", 8}, [VD_GGUF_ARRAY] = {"array", 0}, [VD_GGUF_I64] = {"i64", 8},
    [VD_GGUF_F64] = {"f64", 8},
};

static const struct vd_gguf_type types[] = {
    [0] = {"F32", 1, 4},
    [1] = {"F16", 1, 2},
    [2] = {"Q4_0", 32, 18},
    [3] = {"Q4_1", 32, 20},
    [6] = {"Q5_0", 32, 22},
    [7] = {"Q5_1", 32, 24},
    [8] = {"Q8_0", 32, 34},
    [9] = {"Q8_1", 32, 36},
    [10] = {"Q2_K", 256, 84},
    [11] = {"Q3_K", 256, 110},
    [12] = {"Q4_K", 256, 144},
    [13] = {"Q5_K", 256, 176},
    [14] = {"Q6_K", 256, 210},
    [15] = {"Q8_K", 256, 292},
    [16] = {"IQ2_XXS", 256, 66},
    [17] = {"IQ2_XS", 256, 74},
    [18] = {"IQ3_XXS", 256, 98},
    [19] = {"IQ1_S", 256, 50},
    [20] = {"IQ4_NL", 32, 18},
    [21] = {"IQ3_S", 256, 110},
    [22] = {"IQ2_S", 256, 82},
    [23] = {"IQ4_XS", 256, 136},
    [24] = {"I8", 1, 1},
    [25] = {"I16", 1, 2},
    [26] = {"I32", 1, 4},
    [27] = {"I64", 1, 8},
    [28] = {"F64", 1, 8},
    [29] = {"IQ1_M", 256, 56},
    [30] = {"BF16", 1, 2},
    [34] = {"TQ1_0", 256, 54},
    [35] = {"TQ2_0", 256, 66},
    [39] = {"MXFP4", 32, 17},
    [40] = {"NVFP4", 64, 36},
    [41] = {"Q1_0", 128, 18},
    [42] = {"Q2_0", 64, 18},
    /* removed from the format: named, so that an old file's error can say what it holds */
    [4] = {"Q4_2", 0, 0},
    [5] = {"Q4_3", 0, 0},
    [31] = {"Q4_0_4_4", 0, 0},
    [32] = {"Q4_0_4_8", 0, 0},
    [33] = {"Q4_0_8_8", 0, 0},
    [36] = {"IQ4_NL_4_4", 0, 0},
    [37] = {"IQ4_NL_4_8", 0, 0},
    [38] = {"IQ4_NL_8_8", 0, 0},
};

const char *vd_gguf_value_name(uint32_t value)
{
    return value < VD_GGUF_VALUE_COUNT ? values[value].name : "?";
}

uint32_t vd_gguf_value_bytes(uint32_t value)
{
    return value < VD_GGUF_VALUE_COUNT ? values[value].n_bytes : 0;
}

const struct vd_gguf_type *vd_gguf_type_of(uint32_t id)
{
    if (id >= sizeof types / sizeof types[0] || !types[id].name)
        return NULL;
    return &types[id];
}
