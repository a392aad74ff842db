/* FIPS 180-4, the plain way. The constants are derived there as the first 32 bits of the fractional parts of
 * the square and cube roots of the first primes. */
#include "vd_sha256.h"

#include "vd_bytes.h"

#include <assert.h>

struct state {
    uint64_t n_bytes;
    uint32_t h[8];
    uint8_t block[64]; /* its first n_bytes % 64 */
};

static_assert(sizeof(struct state) <= sizeof(struct vd_sha256), "opaque is too small");

static const uint32_t round_constant[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotr(uint32_t x, unsigned n)
{
    return x >> n | x << (32 - n);
}

static uint32_t be32_load(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void be32_store(uint8_t *p, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static void compress(uint32_t h[8], const uint8_t block[64])
{
    uint32_t w[64], a[8];
    for (unsigned t = 0; t < 16; t++)
        w[t] = be32_load(block + 4 * t);
    for (unsigned t = 16; t < 64; t++) {
        uint32_t x = w[t - 15], y = w[t - 2];
        w[t] = w[t - 16] + (rotr(x, 7) ^ rotr(x, 18) ^ x >> 3) + w[t - 7] +
               (rotr(y, 17) ^ rotr(y, 19) ^ y >> 10);
    }
    memcpy(a, h, sizeof a);
    for (unsigned t = 0; t < 64; t++) {
        uint32_t e = a[4], s1 = rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25);
        uint32_t t1 = a[7] + s1 + ((e & a[5]) ^ (~e & a[6])) + round_constant[t] + w[t];
        uint32_t s0 = rotr(a[0], 2) ^ rotr(a[0], 13) ^ rotr(a[0], 22);
        uint32_t t2 = s0 + ((a[0] & a[1]) ^ (a[0] & a[2]) ^ (a[1] & a[2]));
        memmove(a + 1, a, 7 * sizeof a[0]);
        a[4] += t1;
        a[0] = t1 + t2;
    }
    for (unsigned i = 0; i < 8; i++)
        h[i] += a[i];
}

void vd_sha256_init(struct vd_sha256 *s)
{
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    struct state *st = (struct state *)s->opaque;
    st->n_bytes = 0;
    memcpy(st->h, start, sizeof start);
}

void vd_sha256_update(struct vd_sha256 *s, const void *p, size_t n_bytes)
{
    struct state *st = (struct state *)s->opaque;
    const uint8_t *in = p;
    while (n_bytes > 0) {
        size_t used = st->n_bytes % 64, n = 64 - used < n_bytes ? 64 - used : n_bytes;
        memcpy(st->block + used, in, n);
        st->n_bytes += n;
        in += n;
        n_bytes -= n;
        if (used + n == 64)
            compress(st->h, st->block);
    }
}

void vd_sha256_final(struct vd_sha256 *s, struct vd_hash *out)
{
    struct state *st = (struct state *)s->opaque;
    uint64_t n_bits = 8 * st->n_bytes;
    uint8_t length[8];
    be32_store(length, (uint32_t)(n_bits >> 32));
    be32_store(length + 4, (uint32_t)n_bits);
    vd_sha256_update(s, "\x80", 1);
    while (st->n_bytes % 64 != 56)
        vd_sha256_update(s, "", 1);
    vd_sha256_update(s, length, sizeof length);
    for (unsigned i = 0; i < 8; i++)
        be32_store(out->b + 4 * i, st->h[i]);
}

void vd_sha256_many(const void *p, size_t stride, size_t n_bytes, size_t n, struct vd_hash *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = vd_sha256_of((const uint8_t *)p + i * stride, n_bytes);
}
