/* The engine's fast kernels: one table of functions per instruction set, all equal bit for bit to src/num.
 *
 * What it is. A `struct vd_kern` is a set of pure functions over caller-owned memory: weight packing,
 * activation quantisation, matrix products, norms, RoPE, activation functions, the quantised KV cache,
 * attention, and the vector part of sampling. docs/spec/arithmetic.md fixes the value of every output; a
 * table may only choose layout and order of integer work. Every table gives the same bits as every other
 * (NaN: the same places, payload and sign free, except stored scales and chunk records, which are 7FC00000).
 *
 * Opaque buffers. Packed weights, quantised activations and KV chunks are opaque and belong to one table:
 * made by a table they may be read only by the same table. All must be aligned to VD_KERN_ALIGN bytes.
 *
 * Rows. A "token" here is any row of a forward pass: the rows of one call may belong to different sequences
 * and positions in any mix, and no result depends on which rows share a call, nor on how ranges are cut.
 *
 * Work is cut by the caller: most functions take a range, and calls on disjoint ranges may run at the same
 * time. Ranges of weight rows must begin at a multiple of VD_KERN_ROWS and end at one or at the matrix's end.
 * Token ranges may be cut anywhere; multiples of VD_KERN_TOKS are fastest (for act_quant they are required,
 * see there).
 *
 * Nothing here allocates, blocks, reads a clock or touches a global. A function that needs temporary memory
 * takes `scratch`: scratch_bytes() bytes, VD_KERN_ALIGN-aligned, one per thread, contents meaningless between
 * calls.
 *
 * Thread rule: pure functions of their arguments; see "ranges" above. The float environment must be the
 * default one (round to nearest, subnormals kept) in every calling thread: vd_pool's threads check it.
 *
 * Errors: only vd_kern_pick and vd_kern_selfcheck can fail. Wrong shapes are programmer errors (assert). */
#ifndef VD_KERN_H
#define VD_KERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vd_err.h"
#include "vd_sample.h"
#include "vd_wtype.h"

enum {
    VD_KERN_ALIGN = 64,        /* bytes: alignment of every opaque buffer and of scratch */
    VD_KERN_ROWS = 16,         /* weight rows are packed in groups of this many (the last group is padded) */
    VD_KERN_TOKS = 16,         /* token ranges of act_quant begin at a multiple of this */
    VD_KERN_BLOCK = 32,        /* elements under one quantiser scale */
    VD_KERN_BLOCK256 = 256,    /* the same for weight types with super-blocks */
    VD_KERN_BOUND_TOKS = 8,    /* most tokens of one call of `bounds` */
    VD_KERN_CHUNK = 64,        /* absolute positions in one KV chunk */
    VD_KERN_HEAD_MAX = 256,    /* largest head dimension; it is a multiple of VD_KERN_BLOCK */
    VD_KERN_GROUP = 64,        /* logits of a group, or a multiple */
    VD_KERN_MASS_BLOCK = 256,  /* logits whose masses are added up */
    VD_KERN_COLS_MAX = 1 << 17 /* largest inner dimension of a product */
};

/* A packed weight matrix (rows = outputs, cols = inputs). `type` is GGUF's number.
 * `data` is mat_bytes() bytes, filled by mat_pack, owned by the caller. A `split` matrix (can_split) keeps
 * the upper and the lower bits of its codes apart, as `bounds` wants it; every function takes both kinds. */
struct vd_kern_mat {
    enum vd_wtype type;
    size_t rows, cols;
    void *data;
    bool split;
};

/* The right-hand side of a product: n tokens x cols. vd_wtype_info(type)->act_block says which form a weight
 * type reads: 32 `act` (act_bytes() bytes, filled by act_quant), 256 `act256` (act256_bytes(), act256_quant),
 * 0 (F32, F16, BF16) `x` (token t at x + t * ldx). Those not needed may be NULL. */
struct vd_kern_rhs {
    const void *act;
    const float *x;
    size_t ldx;
    const void *act256;
};

/* One (layer, kv head) of one sequence's cache: absolute chunk c (positions [64c, 64c+64)) lies at
 * (char *)pages[c] + offset and is kv_bytes(hd) bytes. Pages belong to the caller, so a page may hold the
 * chunks of all layers and heads, and sequences with a common prefix may share pages. Bytes of positions that
 * were never put may hold anything. */
struct vd_kern_kv {
    const void *const *pages;
    size_t offset;
    size_t hd;
};

/* One query row of attention: `q` (hd floats, after RoPE) against the valid positions [begin, end), begin <
 * end, all of them put before. The result goes to y (hd floats; may be q itself). With grouped-query
 * attention the heads that share a kv head are simply more query rows of one call. */
struct vd_kern_query {
    const float *q;
    float *y;
    size_t begin, end;
};

/* What makes a score of a query-key product: product * scale, then held by cap * tanh(score / cap) unless cap
 * is 0. Both are constants of the program. */
struct vd_kern_score {
    float scale, cap;
};

/* One pass over the weights w of logits, which keeps none of them. */
struct vd_kern_mass {
    float temp, x_max; /* as for sample_weights */
    float low, high;   /* low <= high; either may be infinite */
    uint64_t least;    /* at most 2^40 */
    uint64_t *block; /* out, one per VD_KERN_MASS_BLOCK logits: the sum of w where x >= high and w >= least */
    float *mid;      /* out, room for n: the x[i] with low <= x[i] < high, in their order; may be x itself */
    uint32_t *start; /* out, one per block: how many of mid are of blocks before it */
    uint64_t all;    /* out: the sum of w */
    size_t n_above, n_mid; /* out: how many x >= high; how many are in mid */
};

struct vd_kern {
    const char *name; /* "scalar", "avx2", "avxvnni", "avx512", "neon", "neon-i8mm" */

    /* ---- scratch ---- */

    /* Bytes of one thread's scratch for products with up to max_cols columns and heads up to max_hd. */
    size_t (*scratch_bytes)(size_t max_cols, size_t max_hd);

    /* ---- weights ---- */

    /* Bytes of a packed matrix, a multiple of VD_KERN_ALIGN; never more than the file's plus the padding of
     * rows to VD_KERN_ROWS. 0 if cols does not fit the type's block or is above VD_KERN_COLS_MAX. */
    size_t (*mat_bytes)(enum vd_wtype type, size_t rows, size_t cols);
    /* Packs rows [r0, r1) of w from the file's own bytes; src points at row r0's first byte. Different parts
     * of one matrix may come from different tensors (Q, K and V as one matrix), cut at multiples of
     * VD_KERN_ROWS. */
    void (*mat_pack)(const struct vd_kern_mat *w, size_t r0, size_t r1, const void *src);

    /* ---- activations ---- */

    size_t (*act_bytes)(size_t n_tok, size_t cols); /* cols a multiple of VD_KERN_BLOCK */
    /* Quantises tokens [t0, t1) (token t at x + t * ldx) into act. t0 is a multiple of VD_KERN_TOKS and t1 is
     * one or the number of tokens given to act_bytes, so that threads write disjoint cache lines. */
    void (*act_quant)(const float *x, size_t ldx, size_t cols, size_t t0, size_t t1, void *act);
    /* Reads token t back in canonical form (cols int8, cols / 32 scales). */
    void (*act_read)(const void *act, size_t cols, size_t t, int8_t *q, float *d);
    /* The same in blocks of 256 (cols a multiple of VD_KERN_BLOCK256, cols / 256 scales). */
    size_t (*act256_bytes)(size_t n_tok, size_t cols);
    void (*act256_quant)(const float *x, size_t ldx, size_t cols, size_t t0, size_t t1, void *act256);
    void (*act256_read)(const void *act256, size_t cols, size_t t, int8_t *q, float *d);

    /* ---- products ---- */

    /* y[t * ldy + r] = row r of w times token t, for r in [r0, r1), t in [t0, t1). */
    void (*matmul)(const struct vd_kern_mat *w, size_t r0, size_t r1, const struct vd_kern_rhs *x, size_t t0,
                   size_t t1, float *y, size_t ldy, void *scratch);

    /* ---- finding a largest output without reading all of a matrix ---- */

    /* Whether matrices of this type may be split. */
    bool (*can_split)(enum vd_wtype type);
    /* Of a split matrix, from the upper bits of its codes alone (three quarters of its bytes), for tokens
     * [t0, t1): high[(t - t0) * ld_high + g - r0 / VD_KERN_ROWS] is not below any output of row group g in
     * [r0, r1), and low[t - t0], if lower, is raised to something that the largest of these outputs is not
     * below. False: outputs may not be finite, and nothing else is told. NULL if no type can be split. */
    bool (*bounds)(const struct vd_kern_mat *w, size_t r0, size_t r1, const struct vd_kern_rhs *x, size_t t0,
                   size_t t1, float *high, size_t ld_high, float *low, void *scratch);

    /* ---- vector operators, one row each ---- */

    void (*rmsnorm)(const float *x, const float *w, size_t n, float eps, float *y); /* y may be x */
    /* y = fma((x - mean) * r, w, b), with mean and r of the row; y may be x. */
    void (*layernorm)(const float *x, const float *w, const float *b, size_t n, float eps, float *y);
    /* cos and sin of position pos for n_pairs phase steps (turns * 2^64), into cs (2 * n_pairs floats:
     * cosines, then sines). A table for one row serves every layer and head. */
    void (*rope_table)(uint64_t pos, const uint64_t *steps, size_t n_pairs, float *cs);
    /* Rotates in place n_heads consecutive heads of hd floats. Pairs are (2i, 2i+1), or (i, i + n_pairs) if
     * halves. Elements from 2 * n_pairs on stay. */
    void (*rope)(float *x, size_t n_heads, size_t hd, const float *cs, size_t n_pairs, bool halves);
    void (*add)(const float *x, const float *o, size_t n, float *y);    /* y = x + o; y may be x or o */
    void (*gelu)(const float *x, size_t n, float *y);                   /* y may be x */
    void (*swiglu)(const float *g, const float *u, size_t n, float *y); /* y may be g or u */
    void (*geglu)(const float *g, const float *u, size_t n, float *y);  /* the same with GELU */
    void (*scale)(const float *x, float s, size_t n, float *y);         /* y = x * s; y may be x */
    void (*cap)(const float *x, float c, size_t n, float *y);           /* y = c * tanh(x / c); y may be x */
    void (*madd)(const float *x, float w, size_t n, float *y);          /* y = fma(w, x, y) */
    void (*exp)(const float *x, size_t n, float *y);                    /* the canonical exp; y may be x */
    /* Row `row` of an embedding, from the file's own bytes at src (the tensor's start). */
    void (*embed_row)(enum vd_wtype type, size_t cols, const void *src, size_t row, float *y);

    /* ---- KV cache ---- */

    size_t (*kv_bytes)(size_t hd); /* one chunk, a multiple of VD_KERN_ALIGN */
    /* Quantises one K row and one V row (hd floats each, K after RoPE) into position slot (0..63) of a chunk.
     * Different slots may be put at the same time; a put may replace an earlier one (the cache was cut back).
     */
    void (*kv_put)(void *chunk, size_t hd, size_t slot, const float *k, const float *v);
    /* Reads a slot back in canonical form: kq[hd], kd[hd / 32], vq[hd], vd[1]. */
    void (*kv_read)(const void *chunk, size_t hd, size_t slot, int8_t *kq, float *kd, int8_t *vq, float *vd);

    /* ---- attention ---- */

    /* n query rows against one kv head. Rows whose ranges are alike should be neighbours: K and V are
     * unpacked once for a run of rows, and chunks outside all ranges of a run are not read. Use for prefill,
     * and for decode while one thread per kv head suffices. */
    void (*attn)(const struct vd_kern_kv *kv, struct vd_kern_score score, const struct vd_kern_query *rows,
                 size_t n, void *scratch);
    /* The same in two halves, to spread one long context over threads. attn_part writes the chunk records of
     * absolute chunks [c0, c1) that meet row i's range: chunk c at rec + i * ld_rec + (c - rows[i].begin /
     * 64) * vd_kern_rec_floats(hd): o[hd], m, l. Calls on disjoint chunk ranges may run at the same time.
     * attn_merge, after all of them, folds every row's records ascending and writes y. */
    void (*attn_part)(const struct vd_kern_kv *kv, struct vd_kern_score score,
                      const struct vd_kern_query *rows, size_t n, size_t c0, size_t c1, float *rec,
                      size_t ld_rec, void *scratch);
    void (*attn_merge)(size_t hd, const struct vd_kern_query *rows, size_t n, const float *rec,
                       size_t ld_rec);

    /* ---- sampling: as in vd_sample.h, but n is not limited to one of its tiles ---- */

    /* The largest of the logits of ids first_id .. first_id + n - 1, and whether one of them is not finite; n
     * > 0. */
    void (*sample_max)(const float *x, uint32_t first_id, size_t n, struct vd_sample_max *out);
    /* Whether all are finite; then most[g] = the largest of the logits [g * group, (g + 1) * group), of which
     * the last group may have less, + 0. group is a multiple of VD_KERN_GROUP. */
    bool (*sample_groups)(const float *x, size_t n, size_t group, float *most);
    /* w[i] = trunc(exp(x[i] / temp - x_max / temp) * 2^40); temp > 0, x and x_max / temp finite, no x above
     * x_max. */
    void (*sample_weights)(const float *x, size_t n, float temp, float x_max, uint64_t *w);
    /* The same weights, added up; n <= VD_SAMPLE_MAX_N, and may be 0. */
    void (*sample_mass)(const float *x, size_t n, struct vd_kern_mass *m);
};

/* Floats of one chunk record: hd of o, then m and l, padded to VD_KERN_ALIGN. */
static inline size_t vd_kern_rec_floats(size_t hd)
{
    return hd + VD_KERN_ALIGN / sizeof(float);
}

/* The table called name, or with NULL the fastest this CPU can run. Returns NULL and fills err (VD_EUSE: no
 * such name; VD_EUNSUPPORTED: this CPU lacks it, naming what is missing). */
const struct vd_kern *vd_kern_pick(const char *name, struct vd_error *err);

/* The start-up conformance check: compares a seeded set of k's results with src/num, and checks the float
 * environment of the calling thread. Takes some milliseconds and 0.3 MB of the calling thread's stack.
 * VD_EINTERNAL (message names the function) when they differ: a node must then refuse to start. */
enum vd_err vd_kern_selfcheck(const struct vd_kern *k, struct vd_error *err);

#endif
