/* Sixteen messages side by side: lane i of every register belongs to message i. One message has a chain of 64
 * rounds that leaves a core idle, even with the processor's own SHA instructions; sixteen of them do not: a
 * rotation is one instruction here, and any function of three words too (vpternlog). On Zen 5 a block takes
 * 15 to 20 ns by sixteen, 35 ns by the SHA instructions. */
#include "vd_sha256_impl.h"

#include <immintrin.h>

enum { LANES = VD_SHA256_LANES, XOR = 0x96, CHOOSE = 0xCA, MAJORITY = 0xE8 };

#define INLINE static inline __attribute__((always_inline))

/* Rows become columns: word t of all messages, in host order. */
INLINE void load_block(const uint8_t *const p[LANES], __m512i w[LANES])
{
    const __m512i swap =
        _mm512_broadcast_i32x4(_mm_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12));
    __m512i a[LANES], b[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
        a[i] = _mm512_shuffle_epi8(_mm512_loadu_si512(p[i]), swap);
#pragma GCC unroll 8
    for (int i = 0; i < LANES; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < LANES; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* a[4k + i]: words i, i + 4, i + 8, i + 12 of messages 4k .. 4k + 3 */
        __m512i lo0 = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x44),
                hi0 = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xEE);
        __m512i lo1 = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x44),
                hi1 = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xEE);
        w[i] = _mm512_shuffle_i32x4(lo0, lo1, 0x88);
        w[i + 4] = _mm512_shuffle_i32x4(lo0, lo1, 0xDD);
        w[i + 8] = _mm512_shuffle_i32x4(hi0, hi1, 0x88);
        w[i + 12] = _mm512_shuffle_i32x4(hi0, hi1, 0xDD);
    }
}

#define ROTATE3(x, r0, r1, r2)                                                                               \
    _mm512_ternarylogic_epi32(_mm512_ror_epi32(x, r0), _mm512_ror_epi32(x, r1), _mm512_ror_epi32(x, r2), XOR)
#define ROTATE2_SHIFT(x, r0, r1, s)                                                                          \
    _mm512_ternarylogic_epi32(_mm512_ror_epi32(x, r0), _mm512_ror_epi32(x, r1), _mm512_srli_epi32(x, s), XOR)

void vd_sha256_lanes_avx512(uint32_t state[8][LANES], const uint8_t *const p[LANES])
{
    __m512i w[LANES], s[8], v[8];
    load_block(p, w);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        v[i] = s[i] = _mm512_loadu_si512(state[i]);
#pragma GCC unroll 64
    for (int t = 0; t < 64; t++) {
        if (t >= 16)
            w[t % 16] = _mm512_add_epi32(
                _mm512_add_epi32(w[t % 16], ROTATE2_SHIFT(w[(t + 1) % 16], 7, 18, 3)),
                _mm512_add_epi32(w[(t + 9) % 16], ROTATE2_SHIFT(w[(t + 14) % 16], 17, 19, 10)));
        __m512i a = v[(64 - t) % 8], b = v[(65 - t) % 8], c = v[(66 - t) % 8];
        __m512i e = v[(68 - t) % 8], f = v[(69 - t) % 8], g = v[(70 - t) % 8], h = v[(71 - t) % 8];
        __m512i wk = _mm512_add_epi32(w[t % 16], _mm512_set1_epi32((int)vd_sha256_round[t]));
        __m512i t1 = _mm512_add_epi32(
            _mm512_add_epi32(h, wk),
            _mm512_add_epi32(ROTATE3(e, 6, 11, 25), _mm512_ternarylogic_epi32(e, f, g, CHOOSE)));
        __m512i t2 = _mm512_add_epi32(ROTATE3(a, 2, 13, 22), _mm512_ternarylogic_epi32(a, b, c, MAJORITY));
        v[(67 - t) % 8] = _mm512_add_epi32(v[(67 - t) % 8], t1);
        v[(71 - t) % 8] = _mm512_add_epi32(t1, t2);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        _mm512_storeu_si512(state[i], _mm512_add_epi32(s[i], v[i]));
}
