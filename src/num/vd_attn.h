/* Attention with integer rows: one query head against the cached keys and values of its kv head.
 *
 * Cached rows, always after RoPE: K in blocks of 32, spread (vd_num_quant8_spread over the head dimension); V
 * with one scale per (position, kv head) (vd_num_quant8 over the head dimension). The query is quantised like
 * K. Keys are taken in chunks of 64 at absolute positions [64c, 64c + 64), cut to the query's valid range; a
 * chunk without a valid key is skipped.
 *
 * A chunk's record, over its valid lanes (all arrays are indexed by lane = position mod 64):
 *
 *   any score NaN:  m = l = d = NaN (VD_NAN_BITS), all q = 0
 *   m = max score + 0.0f;  p_j = exp(s_j - m), absent lanes +0
 *   l = tree32 of lane j = p_j + p_{j+32}, a NaN as VD_NAN_BITS
 *   t_j = p_j * dv_j, absent lanes +0;  tmax = largest bit pattern of t with the sign cleared
 *   tmax infinite or NaN:  d = NaN (VD_NAN_BITS), all q = 0
 *   d = tmax / 32767                        (NOT rounded to 11 bits)
 *   d < 2^-100:  d = +0, all q = 0
 *   else  inv = 1 / d;  q_j = rint(t_j * inv)
 *
 * and its output, the sum exact since 64 * 32767 * 128 < 2^31:
 *
 *   o[e] = (float)(sum over lanes of q_j * v_j[e]) * d
 *
 * q lies in [0, 32767] without a clamp, since d is correctly rounded: t * inv <= 32767 * (1 + 3 * 2^-24),
 * below 32767.5. With d rounded to 11 bits it would not (up to 32783), and a clamp would lower the chunk's
 * largest weight by up to a part in 2^11; nothing here needs the short scale. */
#ifndef VD_ATTN_H
#define VD_ATTN_H

#include <stddef.h>
#include <stdint.h>

#define VD_ATTN_SPREAD_SCALE 0x1p-5f /* undoes the spreading of queries and keys, exactly */
#define VD_CHUNK_KEYS        64u
#define VD_ATTN_MAX_HEAD_DIM 512u

struct vd_chunk {
    float m;                  /* largest score, never -0 */
    float l;                  /* sum of exp(score - m) */
    float d;                  /* scale of q */
    int16_t q[VD_CHUNK_KEYS]; /* weights times value scales, in units of d */
};

/* One score: acc = +0; per block of 32 ascending acc = fma(dq * dk, (float)isum, acc); result acc * (scale *
 * 2^-5), since both are spread; NaN canonical. hd: a multiple of 32, at most VD_ATTN_MAX_HEAD_DIM. */
float vd_num_score(const int8_t *q, const float *dq, const int8_t *k, const float *dk, uint32_t hd,
                   float scale);

/* The record of a chunk whose valid lanes are [first, first + count), count >= 1, first + count <= 64.
 * score[j] and dv[j] are read for those lanes only. */
void vd_num_chunk(const float *score, const float *dv, uint32_t first, uint32_t count, struct vd_chunk *out);

/* o[0..hd) of a chunk. The value row of lane j is v + j * stride_bytes; rows of lanes with q == 0 are not
 * read. Also right for a part of the head dimension: pass v moved by the part's start, and its length. */
void vd_num_chunk_v(const struct vd_chunk *chunk, const int8_t *v, size_t stride_bytes, uint32_t hd,
                    float *o);

/* Merges the chunk (mc, lc, oc) into the running (m, l, o), chunks ascending; the first is copied instead.
 *
 *   M = NaN (VD_NAN_BITS) if m or mc is NaN, else max(m, mc) + 0.0f
 *   a = exp(m - M);  b = exp(mc - M)
 *   l = fma(l, a, lc * b);  o = fma(o, a, oc * b);  m = M */
void vd_num_merge(float *m, float *l, float *o, float mc, float lc, const float *oc, uint32_t hd);

/* y[e] = o[e] / l; y == o is allowed. */
void vd_num_attn_finish(float l, const float *o, uint32_t hd, float *y);

#endif
