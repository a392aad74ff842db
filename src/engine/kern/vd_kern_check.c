/* The start-up check. Small on purpose: it runs at every start, and catches a miscompiled table, a CPU or
 * emulator that computes differently, and a float environment that somebody changed. The exhaustive
 * comparison is vd_kern_test. The scalar table is the other side; it only calls src/num. */
#include <math.h>
#include <stdalign.h>
#include <stdbool.h>
#include <string.h>

#include "vd_bytes.h"
#include "vd_fenv.h"
#include "vd_kern_impl.h"
#include "vd_rng.h"

enum {
    N_TYPES = 16,
    ROWS = 19,
    COLS = 544,       /* a whole segment and one block */
    SUPER_COLS = 768, /* and one super-block */
    TOKS = 5,
    HD = 64,
    KEYS = 150, /* three chunks */
    QUERIES = 3,
    IDS = 100,
    PACKED_MAX = 2 * VD_KERN_ROWS * COLS * 4,
    ACT_MAX = VD_KERN_TOKS * SUPER_COLS * 2,
    KV_MAX = VD_KERN_CHUNK * HD * 3,
    SCRATCH_MAX = 65536
};

/* What one table made of the seeded inputs. Compared field by field. */
struct results {
    float y[N_TYPES][TOKS * ROWS], embed[N_TYPES][16];
    int8_t q[TOKS * COLS], q256[TOKS * SUPER_COLS];
    float d[TOKS * COLS / 32], d256[TOKS * SUPER_COLS / 256];
    float norm[COLS], layernorm[COLS], gelu[COLS], rope[COLS], swiglu[COLS], geglu[COLS], scale[COLS],
        cap[COLS], add[COLS], exp[COLS];
    int8_t kq[HD], vq[HD];
    float kd[HD / 32], vd[1];
    float attn[QUERIES * HD], part[QUERIES * HD];
    struct vd_sample_max max;
    float groups[2];
    uint64_t weights[IDS], mass[2];
    float mid[IDS];
    uint32_t start;
    bool bounds; /* those of split matrices hold what they bound, or there are none */
};

struct buffers {
    alignas(VD_KERN_ALIGN) uint8_t packed[PACKED_MAX];
    alignas(VD_KERN_ALIGN) uint8_t act[ACT_MAX], act256[ACT_MAX];
    alignas(VD_KERN_ALIGN) uint8_t kv[3][KV_MAX];
    alignas(VD_KERN_ALIGN) uint8_t scratch[SCRATCH_MAX];
    alignas(VD_KERN_ALIGN) uint8_t file[ROWS * COLS * 4];
    alignas(VD_KERN_ALIGN) float x[TOKS * SUPER_COLS];
    alignas(VD_KERN_ALIGN) float rec[QUERIES * 3 * (HD + VD_KERN_ALIGN / 4)];
};

static const enum vd_wtype types[N_TYPES] = {VD_WTYPE_F32,  VD_WTYPE_F16,    VD_WTYPE_BF16,   VD_WTYPE_Q4_0,
                                             VD_WTYPE_Q4_1, VD_WTYPE_Q5_0,   VD_WTYPE_Q5_1,   VD_WTYPE_Q8_0,
                                             VD_WTYPE_Q2_K, VD_WTYPE_Q3_K,   VD_WTYPE_Q4_K,   VD_WTYPE_Q5_K,
                                             VD_WTYPE_Q6_K, VD_WTYPE_IQ4_NL, VD_WTYPE_IQ4_XS, VD_WTYPE_MXFP4};

static size_t cols_of(enum vd_wtype type)
{
    return vd_wtype_info(type)->act_block == VD_KERN_BLOCK256 ? SUPER_COLS : COLS;
}

/* Around zero, over some forty binades. */
static float random_float(struct vd_rng *r)
{
    uint64_t u = vd_rng_next(r);
    float mantissa = (float)((int32_t)(u & 0xFFFFFF) - 0x800000) * 0x1p-23f;
    return mantissa * vd_f32_from_bits((uint32_t)(107 + (u >> 32) % 40) << 23);
}

/* A row of the type with small random scales and random codes. */
static void random_row(enum vd_wtype type, struct vd_rng *r, uint8_t *row)
{
    const struct vd_wtype_info *info = vd_wtype_info(type);
    for (size_t b = 0; b < cols_of(type) / info->block_elems; b++, row += info->block_bytes) {
        if (type == VD_WTYPE_F32) {
            vd_le32_store(row, vd_f32_bits(random_float(r)));
            continue;
        }
        for (size_t i = 0; i < info->block_bytes; i++)
            row[i] = (uint8_t)vd_rng_next(r);
        if (type == VD_WTYPE_MXFP4) {
            row[0] = (uint8_t)(112 + row[0] % 16);
            continue;
        }
        vd_le16_store(row + info->d_at,
                      (uint16_t)(0x2000 + vd_rng_below(r, 0x1000) + (vd_rng_next(r) & 0x8000)));
        if (type == VD_WTYPE_BF16)
            vd_le16_store(row, (uint16_t)(vd_f32_bits(random_float(r)) >> 16));
        if (info->has_min)
            vd_le16_store(row + info->min_at, (uint16_t)(0xA000 + vd_rng_below(r, 0x1000)));
    }
}

/* Both forms of quantised activations, of the same values. */
static void run_quantisers(const struct vd_kern *k, struct buffers *b, struct results *out)
{
    assert(k->act_bytes(TOKS, COLS) <= ACT_MAX && k->act256_bytes(TOKS, SUPER_COLS) <= ACT_MAX);
    k->act_quant(b->x, COLS, COLS, 0, TOKS, b->act);
    k->act256_quant(b->x, SUPER_COLS, SUPER_COLS, 0, TOKS, b->act256);
    for (size_t t = 0; t < TOKS; t++) {
        k->act_read(b->act, COLS, t, out->q + t * COLS, out->d + t * COLS / 32);
        k->act256_read(b->act256, SUPER_COLS, t, out->q256 + t * SUPER_COLS,
                       out->d256 + t * SUPER_COLS / 256);
    }
}

/* Of the products `y` of a split matrix, tokens 1 .. TOKS - 1. */
static bool bounds_hold(const struct vd_kern *k, const struct vd_kern_mat *w, const struct vd_kern_rhs *rhs,
                        const float *y, void *scratch)
{
    enum { GROUPS = (ROWS + VD_KERN_ROWS - 1) / VD_KERN_ROWS };
    float high[TOKS * GROUPS], low[TOKS];
    for (size_t t = 0; t < TOKS; t++)
        low[t] = -INFINITY;
    if (!k->bounds(w, 0, ROWS, rhs, 1, TOKS, high, GROUPS, low, scratch))
        return false;
    for (size_t t = 0; t + 1 < TOKS; t++) {
        float most = -INFINITY;
        for (size_t row = 0; row < ROWS; row++) {
            float v = y[(t + 1) * ROWS + row];
            if (!(v <= high[t * GROUPS + row / VD_KERN_ROWS]))
                return false;
            most = v > most ? v : most;
        }
        if (!(low[t] <= most))
            return false;
    }
    return true;
}

static void run_products(const struct vd_kern *k, struct buffers *b, struct results *out)
{
    struct vd_rng r = {1, 0};
    out->bounds = true;
    for (size_t i = 0; i < TOKS * SUPER_COLS; i++)
        b->x[i] = random_float(&r);
    run_quantisers(k, b, out);
    assert(k->scratch_bytes(SUPER_COLS, HD) <= SCRATCH_MAX);
    for (size_t i = 0; i < N_TYPES; i++) {
        size_t cols = cols_of(types[i]), row_bytes = vd_wtype_row_bytes(types[i], cols);
        struct vd_kern_mat w = {types[i], ROWS, cols, b->packed, false};
        struct vd_kern_rhs rhs = {.act = b->act, .x = b->x, .ldx = cols, .act256 = b->act256};
        assert(k->mat_bytes(types[i], ROWS, cols) <= PACKED_MAX);
        for (size_t row = 0; row < ROWS; row++)
            random_row(types[i], &r, b->file + row * row_bytes);
        k->mat_pack(&w, 0, ROWS, b->file);
        k->matmul(&w, 0, ROWS, &rhs, 0, TOKS - 1, out->y[i], ROWS, b->scratch);
        k->matmul(&w, 0, ROWS, &rhs, TOKS - 1, TOKS, out->y[i], ROWS, b->scratch); /* one token alone */
        if (k->can_split && k->can_split(types[i])) { /* the same by the other layout */
            w.split = true;
            k->mat_pack(&w, 0, ROWS, b->file);
            k->matmul(&w, 0, ROWS, &rhs, 1, TOKS, out->y[i], ROWS, b->scratch);
            out->bounds = out->bounds && bounds_hold(k, &w, &rhs, out->y[i], b->scratch);
        }
        float row[SUPER_COLS];
        k->embed_row(types[i], cols, b->file, ROWS - 1, row);
        for (size_t e = 0; e < 16; e++)
            out->embed[i][e] = row[e * cols / 16 + e];
    }
}

static void run_vectors(const struct vd_kern *k, struct buffers *b, struct results *out)
{
    static const uint64_t steps[4] = {UINT64_C(0x28BE60DB9391054A), UINT64_C(0x0414140DCA3ECF5B),
                                      0x123456789ABCDEF, 99};
    float cs[8];
    struct vd_rng r = {2, 0};
    for (size_t i = 0; i < TOKS * COLS; i++)
        b->x[i] = random_float(&r);
    k->rmsnorm(b->x, b->x + COLS, COLS, 1e-5f, out->norm);
    k->layernorm(b->x, b->x + COLS, b->x + 2 * COLS, COLS, 1e-5f, out->layernorm);
    k->gelu(b->x, COLS, out->gelu);
    k->rope_table(4097, steps, 4, cs);
    memcpy(out->rope, b->x, sizeof(out->rope));
    k->rope(out->rope, 2, 16, cs, 4, false);
    k->rope(out->rope + 32, 2, 16, cs, 4, true);
    k->add(b->x, b->x + COLS, COLS, out->add);
    k->swiglu(b->x, b->x + COLS, COLS, out->swiglu);
    k->geglu(b->x, b->x + COLS, COLS, out->geglu);
    k->scale(b->x, 25.298f, COLS, out->scale);
    k->cap(b->x, 30.0f, COLS, out->cap);
    k->madd(b->x, -0.7f, COLS, out->scale);
    k->exp(b->x, COLS, out->exp);
    k->sample_max(b->x, 7, IDS, &out->max);
    k->sample_groups(b->x, IDS, VD_KERN_GROUP, out->groups);
    k->sample_weights(b->x, IDS, 0.75f, out->max.x, out->weights);
    struct vd_kern_mass m = {.temp = out->max.x / 8,
                             .x_max = out->max.x,
                             .low = -1e-3f * out->max.x,
                             .high = 1e-3f * out->max.x,
                             .least = 1 << 29,
                             .block = &out->mass[0],
                             .mid = out->mid,
                             .start = &out->start};
    memset(out->mid, 0, sizeof out->mid);
    k->sample_mass(b->x, IDS, &m);
    out->mass[1] = m.all + m.n_above;
    memset(out->mid + m.n_mid, 0, (IDS - m.n_mid) * sizeof out->mid[0]);
}

static void run_attention(const struct vd_kern *k, struct buffers *b, struct results *out)
{
    struct vd_rng r = {3, 0};
    const void *pages[3] = {b->kv[0], b->kv[1], b->kv[2]};
    struct vd_kern_kv kv = {pages, 0, HD};
    struct vd_kern_query rows[QUERIES];
    struct vd_kern_score score = {0.125f, 30.0f};
    size_t ld = 3 * vd_kern_rec_floats(HD);
    assert(k->kv_bytes(HD) <= KV_MAX);
    for (size_t p = 0; p < KEYS; p++) {
        for (size_t i = 0; i < 2 * HD; i++)
            b->x[i] = random_float(&r) * 4;
        k->kv_put(b->kv[p / 64], HD, p % 64, b->x, b->x + HD);
    }
    k->kv_read(b->kv[1], HD, 17, out->kq, out->kd, out->vq, out->vd);
    for (size_t i = 0; i < QUERIES; i++) {
        rows[i] = (struct vd_kern_query){b->x + i * HD, out->attn + i * HD, i * 60, KEYS - 4 * i};
        for (size_t e = 0; e < HD; e++)
            b->x[i * HD + e] = random_float(&r) * 0.1f;
    }
    k->attn(&kv, score, rows, QUERIES, b->scratch);
    k->attn_part(&kv, score, rows, QUERIES, 0, 2, b->rec, ld, b->scratch);
    k->attn_part(&kv, score, rows, QUERIES, 2, 3, b->rec, ld, b->scratch);
    for (size_t i = 0; i < QUERIES; i++)
        rows[i].y = out->part + i * HD;
    k->attn_merge(HD, rows, QUERIES, b->rec, ld);
}

#define FIELD(name)                                                                                          \
    {                                                                                                        \
#name, offsetof(struct results, name), sizeof(((struct results *)0)->name)                           \
    }
static const struct {
    const char *name;
    size_t offset, size;
} fields[] = {
    FIELD(q),         FIELD(d),    FIELD(q256), FIELD(d256),   FIELD(embed),  FIELD(norm),
    FIELD(layernorm), FIELD(gelu), FIELD(rope), FIELD(swiglu), FIELD(geglu),  FIELD(scale),
    FIELD(cap),       FIELD(add),  FIELD(exp),  FIELD(kq),     FIELD(kd),     FIELD(vq),
    FIELD(vd),        FIELD(attn), FIELD(part), FIELD(max.x),  FIELD(max.id), FIELD(weights),
    FIELD(groups),    FIELD(mass), FIELD(mid),  FIELD(start),  FIELD(bounds),
};

enum vd_err vd_kern_selfcheck(const struct vd_kern *k, struct vd_error *err)
{
    struct buffers b;
    struct results want, got;
    if (!vd_num_env_ok())
        return vd_error_set(
            err, VD_EINTERNAL,
            "the floating point environment does not round to nearest or flushes subnormals; a library "
            "loaded into this process has changed it");
    for (int side = 0; side < 2; side++) {
        const struct vd_kern *t = side == 0 ? &vd_kern_scalar : k;
        struct results *out = side == 0 ? &want : &got;
        run_products(t, &b, out);
        run_vectors(t, &b, out);
        run_attention(t, &b, out);
    }
    for (size_t i = 0; i < N_TYPES; i++)
        if (memcmp(want.y[i], got.y[i], sizeof(want.y[i])) != 0)
            return vd_error_set(err, VD_EINTERNAL,
                                "kernel %s computes products of type %s differently from the normative "
                                "arithmetic on this CPU; "
                                "choose another kernel",
                                k->name, vd_wtype_info(types[i])->name);
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        if (memcmp((char *)&want + fields[i].offset, (char *)&got + fields[i].offset, fields[i].size) != 0)
            return vd_error_set(
                err, VD_EINTERNAL,
                "kernel %s computes %s differently from the normative arithmetic on this CPU; choose "
                "another kernel",
                k->name, fields[i].name);
    return VD_OK;
}
