/* The storage types of GGUF: values of metadata, and the blocks that tensors are made of.
 *
 * Source: the GGUF specification and the block layouts of ggml (ids are stable; gaps are types that were
 * removed). */
#ifndef VD_GGUF_TYPE_H
#define VD_GGUF_TYPE_H

#include <stdint.h>

enum vd_gguf_value {
    VD_GGUF_U8 = 0,
    VD_GGUF_I8 = 1,
    VD_GGUF_U16 = 2,
    VD_GGUF_I16 = 3,
    VD_GGUF_U32 = 4,
    VD_GGUF_I32 = 5,
    VD_GGUF_F32 = 6,
    VD_GGUF_BOOL = 7,
    VD_GGUF_STRING = 8,
    VD_GGUF_ARRAY = 9,
    VD_GGUF_U64 = 10,
    VD_GGUF_I64 = 11,
    VD_GGUF_F64 = 12,
    VD_GGUF_VALUE_COUNT
};

/* "u32", "array", ... or "?" */
const char *vd_gguf_value_name(uint32_t value);

/* Bytes of one value; 0 for strings, arrays and unknown ids. */
uint32_t vd_gguf_value_bytes(uint32_t value);

/* A tensor type: n_per_block consecutive elements of a row are stored in block_bytes. A type that was removed
 * from the format has a name and zeros. */
struct vd_gguf_type {
    const char *name; /* "Q4_1" */
    uint16_t n_per_block, block_bytes;
};

/* NULL if the id names no type. */
const struct vd_gguf_type *vd_gguf_type_of(uint32_t id);

#endif
