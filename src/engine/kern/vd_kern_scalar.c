/* The plain table: rows as the file has them, and every value computed by src/num. It is the reference that
 * the fast tables are compared with, and what runs on a CPU that has none of their instruction sets. */
#include <math.h>
#include <string.h>

#include "vd_act.h"
#include "vd_attn.h"
#include "vd_dot.h"
#include "vd_exp.h"
#include "vd_kern_impl.h"
#include "vd_norm.h"
#include "vd_quant.h"
#include "vd_rope.h"

/* ---- shared by all tables ---- */

void vd_kern_embed_row(enum vd_wtype type, size_t cols, const void *src, size_t row, float *y)
{
    vd_num_dequant(type, (const char *)src + row * vd_wtype_row_bytes(type, cols), 0, (uint32_t)cols, y);
}

void vd_kern_rope_table(uint64_t pos, const uint64_t *steps, size_t n_pairs, float *cs)
{
    for (size_t i = 0; i < n_pairs; i++)
        vd_num_sincos_turn(pos * steps[i], &cs[n_pairs + i], &cs[i]);
}

void vd_kern_scale(const float *x, float s, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * s;
}

void vd_kern_cap(const float *x, float c, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = vd_num_cap(x[i], c);
}

void vd_kern_madd(const float *x, float w, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = fmaf(w, x[i], y[i]);
}

/* ---- weights ---- */

static size_t scratch_bytes(size_t max_cols, size_t max_hd)
{
    return vd_kern_round_up(max_hd * (1 + sizeof(float)) + max_hd / VD_KERN_BLOCK * sizeof(float),
                            VD_KERN_ALIGN);
}

static size_t mat_bytes(enum vd_wtype type, size_t rows, size_t cols)
{
    if (cols == 0 || cols > VD_KERN_COLS_MAX || cols % vd_wtype_info(type)->block_elems != 0)
        return 0;
    return vd_kern_round_up(rows * vd_wtype_row_bytes(type, cols), VD_KERN_ALIGN);
}

static void mat_pack(const struct vd_kern_mat *w, size_t r0, size_t r1, const void *src)
{
    size_t row_bytes = vd_wtype_row_bytes(w->type, w->cols);
    assert(r0 % VD_KERN_ROWS == 0 && r1 <= w->rows);
    memcpy((char *)w->data + r0 * row_bytes, src, (r1 - r0) * row_bytes);
}

/* ---- activations: per token cols int8, then cols / 32 (or 256) scales ---- */

static size_t act_stride(size_t cols, size_t block)
{
    return cols + cols / block * sizeof(float);
}

static const int8_t *act_q(const void *act, size_t cols, size_t block, size_t t)
{
    return (const int8_t *)act + t * act_stride(cols, block);
}

static const float *act_d(const void *act, size_t cols, size_t block, size_t t)
{
    return (const float *)(act_q(act, cols, block, t) + cols);
}

static size_t act_bytes(size_t n_tok, size_t cols)
{
    return vd_kern_round_up(n_tok * act_stride(cols, VD_KERN_BLOCK), VD_KERN_ALIGN);
}

static void act_quant(const float *x, size_t ldx, size_t cols, size_t t0, size_t t1, void *act)
{
    assert(t0 % VD_KERN_TOKS == 0 && cols % VD_KERN_BLOCK == 0);
    for (size_t t = t0; t < t1; t++) {
        int8_t *q = (int8_t *)act + t * act_stride(cols, VD_KERN_BLOCK);
        vd_num_quant8_blocks(x + t * ldx, cols, q, (float *)(q + cols));
    }
}

static void act_read(const void *act, size_t cols, size_t t, int8_t *q, float *d)
{
    memcpy(q, act_q(act, cols, VD_KERN_BLOCK, t), cols);
    memcpy(d, act_d(act, cols, VD_KERN_BLOCK, t), cols / VD_KERN_BLOCK * sizeof(float));
}

size_t vd_kern_act256_bytes(size_t n_tok, size_t cols)
{
    return vd_kern_round_up(n_tok * act_stride(cols, VD_KERN_BLOCK256), VD_KERN_ALIGN);
}

void vd_kern_act256_quant(const float *x, size_t ldx, size_t cols, size_t t0, size_t t1, void *act256)
{
    assert(t0 % VD_KERN_TOKS == 0 && cols % VD_KERN_BLOCK256 == 0);
    for (size_t t = t0; t < t1; t++) {
        int8_t *q = (int8_t *)act256 + t * act_stride(cols, VD_KERN_BLOCK256);
        vd_num_quant8_blocks256(x + t * ldx, cols, q, (float *)(q + cols));
    }
}

void vd_kern_act256_read(const void *act256, size_t cols, size_t t, int8_t *q, float *d)
{
    memcpy(q, act_q(act256, cols, VD_KERN_BLOCK256, t), cols);
    memcpy(d, act_d(act256, cols, VD_KERN_BLOCK256, t), cols / VD_KERN_BLOCK256 * sizeof(float));
}

/* ---- products ---- */

static void matmul(const struct vd_kern_mat *w, size_t r0, size_t r1, const struct vd_kern_rhs *x, size_t t0,
                   size_t t1, float *y, size_t ldy, void *scratch)
{
    size_t row_bytes = vd_wtype_row_bytes(w->type, w->cols), block = vd_wtype_info(w->type)->act_block;
    const void *act = block == VD_KERN_BLOCK256 ? x->act256 : x->act;
    uint32_t n = (uint32_t)w->cols;
    for (size_t r = r0; r < r1; r++) {
        const char *row = (const char *)w->data + r * row_bytes;
        for (size_t t = t0; t < t1; t++)
            y[t * ldy + r] =
                block != 0 ? vd_num_dot_row(w->type, row, act_q(act, n, block, t), act_d(act, n, block, t), n)
                           : vd_num_dot_row_float(w->type, row, x->x + t * x->ldx, n);
    }
}

/* ---- vector operators ---- */

static void rmsnorm(const float *x, const float *w, size_t n, float eps, float *y)
{
    vd_num_rmsnorm(x, w, (uint32_t)n, eps, y);
}

static void layernorm(const float *x, const float *w, const float *b, size_t n, float eps, float *y)
{
    vd_num_layernorm(x, w, b, (uint32_t)n, eps, y);
}

static void rope(float *x, size_t n_heads, size_t hd, const float *cs, size_t n_pairs, bool halves)
{
    for (size_t h = 0; h < n_heads; h++, x += hd)
        for (size_t i = 0; i < n_pairs; i++) {
            size_t a = halves ? i : 2 * i, b = halves ? i + n_pairs : 2 * i + 1;
            vd_num_rope_pair(&x[a], &x[b], cs[n_pairs + i], cs[i]);
        }
}

static void exp_all(const float *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = vd_num_exp(x[i]);
}

/* ---- KV cache: K rows, K scales, V rows, V scales ---- */

struct kv_view {
    int8_t *kq, *vq;
    float *kd, *vd;
};

static struct kv_view kv_view(const void *chunk, size_t hd)
{
    struct kv_view v;
    v.kq = (int8_t *)chunk;
    v.vq = v.kq + VD_KERN_CHUNK * hd;
    v.kd = (float *)(v.vq + VD_KERN_CHUNK * hd);
    v.vd = v.kd + VD_KERN_CHUNK * (hd / VD_KERN_BLOCK);
    return v;
}

static size_t kv_bytes(size_t hd)
{
    return VD_KERN_CHUNK * (2 * hd + (hd / VD_KERN_BLOCK + 1) * sizeof(float));
}

static void kv_put(void *chunk, size_t hd, size_t slot, const float *k, const float *v)
{
    struct kv_view c = kv_view(chunk, hd);
    assert(hd % VD_KERN_BLOCK == 0 && hd <= VD_KERN_HEAD_MAX && slot < VD_KERN_CHUNK);
    vd_num_quant8_spread(k, hd, c.kq + slot * hd, c.kd + slot * (hd / VD_KERN_BLOCK));
    vd_num_quant8(v, hd, c.vq + slot * hd, c.vd + slot);
}

static void kv_read(const void *chunk, size_t hd, size_t slot, int8_t *kq, float *kd, int8_t *vq, float *vd)
{
    struct kv_view c = kv_view(chunk, hd);
    memcpy(kq, c.kq + slot * hd, hd);
    memcpy(kd, c.kd + slot * (hd / VD_KERN_BLOCK), hd / VD_KERN_BLOCK * sizeof(float));
    memcpy(vq, c.vq + slot * hd, hd);
    *vd = c.vd[slot];
}

/* ---- attention ---- */

struct query8 {
    int8_t q[VD_KERN_HEAD_MAX];
    float d[VD_KERN_HEAD_MAX / VD_KERN_BLOCK];
};

static float score_of(const struct query8 *q, const int8_t *k, const float *kd, size_t hd,
                      struct vd_kern_score score)
{
    float s = vd_num_score(q->q, q->d, k, kd, (uint32_t)hd, score.scale);
    return score.cap == 0.0f ? s : vd_num_canon(vd_num_cap(s, score.cap));
}

/* The record of chunk c: m, l and o. */
static void chunk_record(const struct vd_kern_kv *kv, struct vd_kern_score score,
                         const struct vd_kern_query *row, const struct query8 *q, size_t c, float *m,
                         float *l, float *o)
{
    size_t hd = kv->hd, first, end;
    struct kv_view v = kv_view(vd_kern_chunk_at(kv, c), hd);
    float s[VD_KERN_CHUNK];
    struct vd_chunk chunk;
    vd_kern_lanes(row, c, &first, &end);
    for (size_t j = first; j < end; j++)
        s[j] = score_of(q, v.kq + j * hd, v.kd + j * (hd / VD_KERN_BLOCK), hd, score);
    vd_num_chunk(s, v.vd, (uint32_t)first, (uint32_t)(end - first), &chunk);
    vd_num_chunk_v(&chunk, v.vq, hd, (uint32_t)hd, o);
    *m = chunk.m;
    *l = chunk.l;
}

static void attn(const struct vd_kern_kv *kv, struct vd_kern_score score, const struct vd_kern_query *rows,
                 size_t n, void *scratch)
{
    float *oc = scratch;
    uint32_t hd = (uint32_t)kv->hd;
    for (size_t i = 0; i < n; i++) {
        struct query8 q;
        float m, l, mc, lc, o[VD_KERN_HEAD_MAX];
        size_t c0, c1;
        vd_kern_chunks(&rows[i], &c0, &c1);
        vd_num_quant8_spread(rows[i].q, hd, q.q, q.d);
        chunk_record(kv, score, &rows[i], &q, c0, &m, &l, o);
        for (size_t c = c0 + 1; c < c1; c++) {
            chunk_record(kv, score, &rows[i], &q, c, &mc, &lc, oc);
            vd_num_merge(&m, &l, o, mc, lc, oc, hd);
        }
        vd_num_attn_finish(l, o, hd, rows[i].y);
    }
}

static void attn_part(const struct vd_kern_kv *kv, struct vd_kern_score score,
                      const struct vd_kern_query *rows, size_t n, size_t c0, size_t c1, float *rec,
                      size_t ld_rec, void *scratch)
{
    size_t hd = kv->hd;
    for (size_t i = 0; i < n; i++) {
        struct query8 q;
        size_t first, end;
        vd_kern_chunks(&rows[i], &first, &end);
        vd_num_quant8_spread(rows[i].q, hd, q.q, q.d);
        for (size_t c = c0 > first ? c0 : first; c < c1 && c < end; c++) {
            float *r = rec + i * ld_rec + (c - first) * vd_kern_rec_floats(hd);
            chunk_record(kv, score, &rows[i], &q, c, &r[hd], &r[hd + 1], r);
        }
    }
}

static void attn_merge(size_t hd, const struct vd_kern_query *rows, size_t n, const float *rec, size_t ld_rec)
{
    for (size_t i = 0; i < n; i++) {
        const float *r = rec + i * ld_rec;
        float m = r[hd], l = r[hd + 1], o[VD_KERN_HEAD_MAX];
        size_t c0, c1;
        vd_kern_chunks(&rows[i], &c0, &c1);
        memcpy(o, r, hd * sizeof(float));
        while (++c0 < c1) {
            r += vd_kern_rec_floats(hd);
            vd_num_merge(&m, &l, o, r[hd], r[hd + 1], r, (uint32_t)hd);
        }
        vd_num_attn_finish(l, o, (uint32_t)hd, rows[i].y);
    }
}

/* ---- sampling ---- */

static void sample_max(const float *x, uint32_t first_id, size_t n, struct vd_sample_max *out)
{
    vd_num_sample_max_tile(x, first_id, (uint32_t)(n < VD_SAMPLE_TILE ? n : VD_SAMPLE_TILE), out);
    for (size_t i = VD_SAMPLE_TILE; i < n; i += VD_SAMPLE_TILE) {
        struct vd_sample_max tile;
        vd_num_sample_max_tile(x + i, first_id + (uint32_t)i,
                               (uint32_t)(n - i < VD_SAMPLE_TILE ? n - i : VD_SAMPLE_TILE), &tile);
        vd_num_sample_max_merge(out, &tile);
    }
}

static bool sample_groups(const float *x, size_t n, size_t group, float *most)
{
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        finite &= isfinite(x[i]) != 0;
        if (i % group == 0 || x[i] > most[i / group])
            most[i / group] = x[i] + 0.0f;
    }
    return finite;
}

static void sample_weights(const float *x, size_t n, float temp, float x_max, uint64_t *w)
{
    for (size_t i = 0; i < n; i += VD_SAMPLE_TILE)
        vd_num_sample_weights_tile(x + i, (uint32_t)(n - i < VD_SAMPLE_TILE ? n - i : VD_SAMPLE_TILE), temp,
                                   x_max, w + i);
}

void vd_kern_mass_part(const float *x, size_t i, size_t end, struct vd_kern_mass *m)
{
    uint64_t w[VD_KERN_MASS_BLOCK], *block = &m->block[i / VD_KERN_MASS_BLOCK];
    vd_num_sample_weights_tile(x + i, (uint32_t)(end - i), m->temp, m->x_max, w);
    for (size_t k = 0; i < end; i++, k++) {
        m->all += w[k];
        if (x[i] >= m->high) {
            *block += w[k] >= m->least ? w[k] : 0;
            m->n_above++;
        } else if (x[i] >= m->low) {
            m->mid[m->n_mid++] = x[i];
        }
    }
}

static void sample_mass(const float *x, size_t n, struct vd_kern_mass *m)
{
    m->all = m->n_above = m->n_mid = 0;
    for (size_t i = 0; i < n; i += VD_KERN_MASS_BLOCK) {
        m->block[i / VD_KERN_MASS_BLOCK] = 0;
        m->start[i / VD_KERN_MASS_BLOCK] = (uint32_t)m->n_mid;
        vd_kern_mass_part(x, i, n - i < VD_KERN_MASS_BLOCK ? n : i + VD_KERN_MASS_BLOCK, m);
    }
}

const struct vd_kern vd_kern_scalar = {
    .name = "scalar",
    .scratch_bytes = scratch_bytes,
    .mat_bytes = mat_bytes,
    .mat_pack = mat_pack,
    .act_bytes = act_bytes,
    .act_quant = act_quant,
    .act_read = act_read,
    .act256_bytes = vd_kern_act256_bytes,
    .act256_quant = vd_kern_act256_quant,
    .act256_read = vd_kern_act256_read,
    .matmul = matmul,
    .rmsnorm = rmsnorm,
    .layernorm = layernorm,
    .rope_table = vd_kern_rope_table,
    .rope = rope,
    .add = vd_num_residual,
    .gelu = vd_num_gelu_row,
    .swiglu = vd_num_swiglu,
    .geglu = vd_num_geglu,
    .scale = vd_kern_scale,
    .cap = vd_kern_cap,
    .madd = vd_kern_madd,
    .exp = exp_all,
    .embed_row = vd_kern_embed_row,
    .kv_bytes = kv_bytes,
    .kv_put = kv_put,
    .kv_read = kv_read,
    .attn = attn,
    .attn_part = attn_part,
    .attn_merge = attn_merge,
    .sample_max = sample_max,
    .sample_groups = sample_groups,
    .sample_weights = sample_weights,
    .sample_mass = sample_mass,
};
