/* Little-endian loads and stores, hexadecimal, and byte ranges.
 *
 * Every multi-byte integer that Veridem hashes or sends outside protobuf is little-endian. */
#ifndef VD_BYTES_H
#define VD_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A borrowed range; never owns. */
struct vd_bytes {
    const uint8_t *p;
    size_t n;
};

static inline uint16_t vd_le16_load(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}
static inline uint32_t vd_le32_load(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t vd_le64_load(const uint8_t *p)
{
    return (uint64_t)vd_le32_load(p) | (uint64_t)vd_le32_load(p + 4) << 32;
}
static inline void vd_le16_store(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}
static inline void vd_le32_store(uint8_t *p, uint32_t v)
{
    vd_le16_store(p, (uint16_t)v);
    vd_le16_store(p + 2, (uint16_t)(v >> 16));
}
static inline void vd_le64_store(uint8_t *p, uint64_t v)
{
    vd_le32_store(p, (uint32_t)v);
    vd_le32_store(p + 4, (uint32_t)(v >> 32));
}

static inline uint32_t vd_f32_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
static inline float vd_f32_from_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}

/* Writes 2n lower-case digits and a NUL to out (2n + 1 bytes). */
void vd_hex_encode(char *out, const void *bytes, size_t n);

/* Reads exactly n bytes from 2n digits that end the string. Returns false on anything else. */
bool vd_hex_decode(uint8_t *out, size_t n, const char *text);

#endif
