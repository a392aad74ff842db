/* Private: the layouts that the AVX2 and AVX-512 tables share, and the plain code that fills them.
 *
 * Weights. Rows in groups of 16, a group's blocks one after the other: scales [16 rows] (binary16), for types
 * with a min mins [16], then the codes: steps of 64 bytes, each 16 rows x 4 bytes, so that one byte dot
 * product works on 16 rows x 4 columns against four activation bytes broadcast. Q4 types: byte k of step i
 * holds columns 4i + k (low nibble) and 16 + 4i + k (high nibble). Q5 types: one step of fifth bits first,
 * bit j of whose byte k belongs to column 4j + k (the file's bits, transposed), then as Q4. Q8_0: columns 4i
 * + k, as unsigned (code ^ 0x80). What unsigned codes are too high by is corrected by a multiple of asum,
 * exactly. IQ4_NL and MXFP4: nibbles as Q4, indices of a table; MXFP4's scale is one byte. F16, BF16 and F32:
 * per column the 16 rows' values. Rows are padded with zeros. So a matrix is read as one stream, which is
 * what the prefetchers of memory follow best.
 *
 * Super-blocks. A row's bytes in the file are cut in dwords; a group has per super-block each dword's 16 rows
 * (64 bytes, a step), then, where the block is two bytes longer than its dwords (d of Q3_K and Q6_K), the 16
 * rows' two bytes. That is all: four consecutive code bytes of every format belong to four consecutive
 * columns, so a step masked and shifted is what a byte dot product wants, and a dword of scales is a step
 * too.
 *
 * Split Q8_0. All groups' upper six bits come first, then all groups' lower two. Of a code u (unsigned) a
 * block has in the first part the scales [16 rows], four steps of nibbles as Q4 (bits 2 to 5 of u), and two
 * steps of pairs of bits (6 and 7): bits 2j and 2j + 1 of byte k belong to column 4j + k, in the second step
 * to column 16 + 4j + k; in the second part two such steps (bits 0 and 1).
 *
 * Activations. Tokens in groups of 16: a header of 64 bytes (`huge`, see below), then per block of 32 columns
 * q[16 tokens][32], d[16] (scale), s[16] (d * asum), asum[16].
 * The min term fma(m_w * d_a, asum, acc) is computed as fma(m_w, s, acc): both products are exact (11 + 11,
 * 11 + 12 bits) unless they overflow, which d_a < 2^111 rules out (m_w < 2^16, asum < 2^12), so the bits
 * agree. A group that holds a finite d_a >= 2^111 is marked huge and takes a slower path that follows the
 * rule literally.
 *
 * Activations in blocks of 256: tokens in groups of 16, per block q[16 tokens][256], the sums of q over 16
 * and over 32 columns as int16 (for the mins, and for what unsigned codes are too high by) and d[16]. The
 * sums of each four stand in the order 0, 2, 1, 3: a step of scales of one byte each, masked to its even
 * bytes, has the scales of sub-blocks 0 and 2 as a pair of int16, and shifted those of 1 and 3.
 *
 * KV chunk. K: [hd / 64 positions / 16][hd / 4][16 positions][4 bytes] as unsigned (code ^ 0x80), i.e. four
 * groups of positions laid out like Q8_0 rows; K scales [hd / 32][64]; V: [16][hd][4 positions], signed; V
 * scales [64]. */
#ifndef VD_KERN_WIDE_H
#define VD_KERN_WIDE_H

#include "vd_kern_impl.h"

/* VD_UNROLL: before a loop over register arrays: such a loop must unroll completely, or the arrays lie in
 * memory. VD_TEMPLATE: a function whose constant arguments make a copy of it for every type and number of
 * tokens. Neither under clang's sanitizers, whose checks in every copy would take minutes to compile. */
#if defined(__clang__)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                                   \
    __has_feature(undefined_behavior_sanitizer)
#define VD_UNROLL
#define VD_TEMPLATE static __attribute__((noinline))
#else
#define VD_UNROLL   _Pragma("clang loop unroll(full)")
#define VD_TEMPLATE static inline __attribute__((always_inline))
#endif
#else
#define VD_UNROLL   _Pragma("GCC unroll 16")
#define VD_TEMPLATE static inline __attribute__((always_inline))
#endif

enum { WIDE_ROWS = VD_KERN_ROWS, WIDE_TOKS = VD_KERN_TOKS, WIDE_SEG_BLOCKS = 512 / VD_KERN_BLOCK };

/* How a quantised type with blocks of 32 lies in a group; all zero for other types. */
struct vd_wide_type {
    uint8_t code_bytes; /* of one row's block: 16, 20 or 32 */
    uint8_t head_bytes; /* of one row's scale, and min if any: 1 (a power of two), 2 or 4 */
    uint8_t flip;       /* xor into every code byte */
    bool five;          /* the first 4 code bytes are fifth bits */
    bool has_min;
    uint8_t offset_log2;   /* types without a min: the codes are too high by 2^this, */
    uint8_t offset_log2_b; /* and by 2^this more if it is not 0 */
    const int8_t *table;   /* what a nibble stands for; the code is that plus the offset */
};
static inline __attribute__((always_inline)) struct vd_wide_type vd_wide_type(enum vd_wtype type)
{
    switch (type) {
    case VD_WTYPE_Q4_0:
        return (struct vd_wide_type){.code_bytes = 16, .head_bytes = 2, .offset_log2 = 3};
    case VD_WTYPE_Q4_1:
        return (struct vd_wide_type){.code_bytes = 16, .head_bytes = 4, .has_min = true};
    case VD_WTYPE_Q5_0:
        return (struct vd_wide_type){.code_bytes = 20, .head_bytes = 2, .five = true, .offset_log2 = 4};
    case VD_WTYPE_Q5_1:
        return (struct vd_wide_type){.code_bytes = 20, .head_bytes = 4, .five = true, .has_min = true};
    case VD_WTYPE_Q8_0:
        return (struct vd_wide_type){.code_bytes = 32, .head_bytes = 2, .flip = 0x80, .offset_log2 = 7};
    case VD_WTYPE_IQ4_NL:
        return (struct vd_wide_type){
            .code_bytes = 16, .head_bytes = 2, .offset_log2 = 7, .table = vd_wtype_iq4_table};
    case VD_WTYPE_MXFP4:
        return (struct vd_wide_type){.code_bytes = 16,
                                     .head_bytes = 1,
                                     .offset_log2 = 3,
                                     .offset_log2_b = 2,
                                     .table = vd_wtype_fp4_table};
    case VD_WTYPE_F32:
    case VD_WTYPE_F16:
    case VD_WTYPE_BF16:
    case VD_WTYPE_Q2_K:
    case VD_WTYPE_Q3_K:
    case VD_WTYPE_Q4_K:
    case VD_WTYPE_Q5_K:
    case VD_WTYPE_Q6_K:
    case VD_WTYPE_IQ4_XS:
        break;
    }
    return (struct vd_wide_type){.code_bytes = 0};
}

static inline __attribute__((always_inline)) bool vd_wide_is_super(enum vd_wtype type)
{
    return type == VD_WTYPE_Q2_K || type == VD_WTYPE_Q3_K || type == VD_WTYPE_Q4_K || type == VD_WTYPE_Q5_K ||
           type == VD_WTYPE_Q6_K || type == VD_WTYPE_IQ4_XS;
}

size_t vd_wide_group_bytes(enum vd_wtype type, size_t cols);
const uint8_t *vd_wide_group(const struct vd_kern_mat *w, size_t group);

/* A split matrix: the bytes of a group's block in both parts, and where the parts of a group begin. */
enum { VD_SPLIT_UPPER = WIDE_ROWS * (2 + 16 + 8), VD_SPLIT_LOWER = WIDE_ROWS * 8 };
static inline uint8_t *vd_wide_upper(const struct vd_kern_mat *w, size_t group)
{
    return (uint8_t *)w->data + group * (w->cols / VD_KERN_BLOCK) * VD_SPLIT_UPPER;
}
static inline uint8_t *vd_wide_lower(const struct vd_kern_mat *w, size_t group)
{
    size_t groups = (w->rows + WIDE_ROWS - 1) / WIDE_ROWS;
    return vd_wide_upper(w, groups) + group * (w->cols / VD_KERN_BLOCK) * VD_SPLIT_LOWER;
}
bool vd_wide_can_split(enum vd_wtype type);
void vd_wide_split_pack(const struct vd_kern_mat *w, size_t r0, size_t r1, const uint8_t *src);

/* What one block of a token adds to bounds of outputs, times a weight's scale: d * (8 * dot - minus), dot
 * that of the upper bits, is off by at most `off`, rounding and all (see vd_kern_split.c). */
struct vd_split_term {
    float d, off;
    int32_t minus;
};
/* Scratch of bounds. */
static inline size_t vd_wide_bounds_scratch(size_t cols)
{
    return vd_kern_round_up(VD_KERN_BOUND_TOKS * (cols / VD_KERN_BLOCK) * sizeof(struct vd_split_term),
                            VD_KERN_ALIGN);
}
/* Sums of `off` below this leave every partial sum of an output finite. */
#define VD_SPLIT_FINITE 0x1p90f
/* What underflow can take from an output or add to it. */
#define VD_SPLIT_TINY 0x1p-100f

/* A row group times some tokens of one token group. */
enum { VD_SPLIT_TOKS = 4 };
struct vd_split_tile {
    const uint8_t *upper;             /* of the row group, */
    size_t rows;                      /* which has so many rows, or more than 16 */
    const struct vd_wide_act *act;    /* the token group's blocks */
    size_t slot;                      /* of the first token in the group */
    const struct vd_split_term *term; /* the first token's; those of the next are n_blocks further */
    size_t n_blocks;
    bool first; /* nobody read the row group before */
};
/* No output is above `high`; the largest is not below `low`. */
struct vd_split_bound {
    float high, low;
};
/* Fills one bound per token. False: a sum of `off` is not below VD_SPLIT_FINITE. */
typedef bool vd_split_fn(const struct vd_split_tile *t, struct vd_split_bound *out);
/* A table's `bounds`, by its functions for one, two and four tokens. */
bool vd_wide_bounds(vd_split_fn *const fns[3], const struct vd_kern_mat *w, size_t r0, size_t r1,
                    const struct vd_kern_rhs *x, size_t t0, size_t t1, float *high, size_t ld_high,
                    float *low, void *scratch);

size_t vd_wide_mat_bytes(enum vd_wtype type, size_t rows, size_t cols);
void vd_wide_mat_pack(const struct vd_kern_mat *w, size_t r0, size_t r1, const void *src);

/* One block of one token group. */
struct vd_wide_act {
    int8_t q[WIDE_TOKS][VD_KERN_BLOCK];
    float d[WIDE_TOKS];
    float s[WIDE_TOKS];
    int32_t asum[WIDE_TOKS];
};
struct vd_wide_act_group {
    uint32_t huge;
    uint32_t pad[15];
    struct vd_wide_act block[]; /* cols / 32 */
};

static inline size_t vd_wide_act_group_bytes(size_t cols)
{
    return sizeof(struct vd_wide_act_group) + cols / VD_KERN_BLOCK * sizeof(struct vd_wide_act);
}
/* The group that holds token t. */
static inline struct vd_wide_act_group *vd_wide_act_group(const void *act, size_t cols, size_t t)
{
    return (struct vd_wide_act_group *)((char *)act + t / WIDE_TOKS * vd_wide_act_group_bytes(cols));
}
size_t vd_wide_act_bytes(size_t n_tok, size_t cols);
void vd_wide_act_read(const void *act, size_t cols, size_t t, int8_t *q, float *d);
#define VD_WIDE_HUGE 0x1p111f

/* One super-block of one token group. */
struct vd_wide_super {
    int8_t q[WIDE_TOKS][VD_KERN_BLOCK256];
    int16_t sums16[WIDE_TOKS][VD_SUPER_SUBS];
    int16_t sums32[WIDE_TOKS][VD_SUPER_SUBS / 2];
    int32_t minus32[WIDE_TOKS][VD_SUPER_SUBS]; /* -32 * each sum over 16, in order: where Q6_K's sums start */
    float d[WIDE_TOKS];
};
/* The super-blocks of the group that holds token t. */
static inline struct vd_wide_super *vd_wide_supers(const void *act256, size_t cols, size_t t)
{
    return (struct vd_wide_super *)act256 + t / WIDE_TOKS * (cols / VD_KERN_BLOCK256);
}
size_t vd_wide_act256_bytes(size_t n_tok, size_t cols);
void vd_wide_act256_read(const void *act256, size_t cols, size_t t, int8_t *q, float *d);

/* Spreads the blocks of n elements as vd_num_spread does. */
void vd_wide_spread(const float *x, size_t n, float *y);

struct vd_wide_kv {
    uint8_t *k;
    float *kd;
    int8_t *v;
    float *vd;
};
static inline struct vd_wide_kv vd_wide_kv(const void *chunk, size_t hd)
{
    struct vd_wide_kv w;
    w.k = (uint8_t *)chunk;
    w.v = (int8_t *)w.k + VD_KERN_CHUNK * hd;
    w.kd = (float *)(w.v + VD_KERN_CHUNK * hd);
    w.vd = w.kd + VD_KERN_CHUNK * (hd / VD_KERN_BLOCK);
    return w;
}
size_t vd_wide_kv_bytes(size_t hd);
/* Stores one quantised K row and V row into a slot. */
void vd_wide_kv_store(void *chunk, size_t hd, size_t slot, const int8_t *kq, const float *kd,
                      const int8_t *vq, float vd);
void vd_wide_kv_read(const void *chunk, size_t hd, size_t slot, int8_t *kq, float *kd, int8_t *vq, float *vd);

#endif
