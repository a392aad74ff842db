/* Stands in for OpenSSL's SHA-256 where there is no OpenSSL for the processor: FIPS 180-4, plain. */
#ifndef VD_STANDIN_SHA_H
#define VD_STANDIN_SHA_H

#include <stdint.h>
#include <string.h>

#include "vd_bytes.h"

typedef struct {
    uint32_t h[8];
    uint64_t n_bytes;
    uint8_t block[64];
} SHA256_CTX;

static inline uint32_t vd_standin_ror(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static inline void vd_standin_block(uint32_t h[8], const uint8_t *p)
{
    static const uint32_t k[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 |
               p[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (vd_standin_ror(a, 7) ^ vd_standin_ror(a, 18) ^ a >> 3) +
               (vd_standin_ror(b, 17) ^ vd_standin_ror(b, 19) ^ b >> 10);
    }
    memcpy(s, h, sizeof(s));
    for (int i = 0; i < 64; i++) {
        uint32_t e = s[4], a = s[0];
        uint32_t t1 = s[7] + (vd_standin_ror(e, 6) ^ vd_standin_ror(e, 11) ^ vd_standin_ror(e, 25)) +
                      ((e & s[5]) ^ (~e & s[6])) + k[i] + w[i];
        uint32_t t2 = (vd_standin_ror(a, 2) ^ vd_standin_ror(a, 13) ^ vd_standin_ror(a, 22)) +
                      ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof(s[0]));
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++)
        h[i] += s[i];
}

static inline int SHA256_Init(SHA256_CTX *c)
{
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(c->h, start, sizeof(start));
    c->n_bytes = 0;
    return 1;
}

static inline int SHA256_Update(SHA256_CTX *c, const void *p, size_t n)
{
    const uint8_t *b = (const uint8_t *)p;
    for (size_t i = 0; i < n; i++) {
        c->block[c->n_bytes++ % 64] = b[i];
        if (c->n_bytes % 64 == 0)
            vd_standin_block(c->h, c->block);
    }
    return 1;
}

static inline int SHA256_Final(uint8_t *out, SHA256_CTX *c)
{
    static const uint8_t pad[64] = {0x80};
    uint64_t bits = c->n_bytes * 8;
    uint8_t tail[8];
    SHA256_Update(c, pad, 1 + (119 - c->n_bytes % 64) % 64);
    for (int i = 0; i < 8; i++)
        tail[i] = (uint8_t)(bits >> (56 - 8 * i));
    SHA256_Update(c, tail, 8);
    for (int i = 0; i < 32; i++)
        out[i] = (uint8_t)(c->h[i / 4] >> (24 - 8 * (i % 4)));
    return 1;
}

#endif
