/* Messages of one length have the same blocks at the same places, so that they can be hashed side by side
 * without looking at them. The last block or two, with the padding, are made apart. */
#include "vd_sha256_impl.h"

#include "vd_bytes.h"

#include <assert.h>

#if defined(__x86_64__)

enum { BLOCK = VD_SHA256_BLOCK, LANES = VD_SHA256_LANES, LEAST = 8 /* fewer are faster one by one */ };

const uint32_t vd_sha256_round[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static bool has_lanes(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

/* 1 <= n <= LANES; lanes without a message repeat the first. */
static void hash_lanes(const uint8_t *p, size_t stride, size_t n_bytes, size_t n, struct vd_hash *out)
{
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    _Alignas(64) uint32_t state[8][LANES];
    uint8_t tail[LANES][2 * BLOCK];
    const uint8_t *at[LANES];
    size_t whole = n_bytes / BLOCK * BLOCK, rest = n_bytes - whole,
           end = rest + 9 <= BLOCK ? BLOCK : 2 * BLOCK;
    uint64_t n_bits = __builtin_bswap64((uint64_t)n_bytes * 8);
    for (size_t k = 0; k < 8; k++)
        for (size_t i = 0; i < LANES; i++)
            state[k][i] = start[k];
    for (size_t b = 0; b < whole; b += BLOCK) {
        for (size_t i = 0; i < LANES; i++)
            at[i] = p + (i < n ? i : 0) * stride + b;
        vd_sha256_lanes_avx512(state, at);
    }
    for (size_t i = 0; i < n; i++) {
        memcpy(tail[i], p + i * stride + whole, rest);
        tail[i][rest] = 0x80;
        memset(tail[i] + rest + 1, 0, end - rest - 9);
        memcpy(tail[i] + end - 8, &n_bits, 8);
    }
    for (size_t b = 0; b < end; b += BLOCK) {
        for (size_t i = 0; i < LANES; i++)
            at[i] = tail[i < n ? i : 0] + b;
        vd_sha256_lanes_avx512(state, at);
    }
    for (size_t i = 0; i < n; i++)
        for (unsigned k = 0; k < 8; k++) {
            uint32_t big_endian = __builtin_bswap32(state[k][i]);
            memcpy(out[i].b + 4 * k, &big_endian, 4);
        }
}

static size_t by_lanes(const uint8_t *p, size_t stride, size_t n_bytes, size_t n, struct vd_hash *out)
{
    size_t done = 0;
    while (n - done >= LEAST && has_lanes()) {
        size_t some = n - done < LANES ? n - done : LANES;
        hash_lanes(p + done * stride, stride, n_bytes, some, out + done);
        done += some;
    }
    return done;
}

#else

static size_t by_lanes(const uint8_t *p, size_t stride, size_t n_bytes, size_t n, struct vd_hash *out)
{
    (void)p, (void)stride, (void)n_bytes, (void)n, (void)out;
    return 0;
}

#endif

void vd_sha256_many(const void *p, size_t stride, size_t n_bytes, size_t n, struct vd_hash *out)
{
    const uint8_t *at = p;
    assert(n_bytes <= stride);
    for (size_t i = by_lanes(at, stride, n_bytes, n, out); i < n; i++)
        out[i] = vd_sha256_of(at + i * stride, n_bytes);
}
