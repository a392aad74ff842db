/* The forward pass on small random models: against a plain one-token-at-a-time pass written with src/num, and
 * against itself under every cut, mix of sequences, number of threads and kernel table. */
#include "vd_forward.h"

#include "vd_act.h"
#include "vd_attn.h"
#include "vd_dot.h"
#include "vd_norm.h"
#include "vd_num.h"
#include "vd_quant.h"
#include "vd_rope.h"
#include "vd_route.h"
#include "vd_test_engine.h"
#include "vd_test_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { N_TOK = 150, ROWS_MAX = 256, WIDEST = 1024 };

/* ------------------------- the reference ------------------------- */

/* Canonical rows of one position of one layer. */
struct ref_row {
    int8_t k[WIDEST], v[WIDEST];
    float kd[WIDEST / 32], vd[16];
};

struct ref {
    const struct vd_model *m;
    const struct vd_program *p;
    struct ref_row *rows; /* [layer][position] */
    float *x;             /* [position][layer + 1][width]: residual rows after embedding and each layer */
    float *logits;        /* [position][vocab] */
};

static struct ref_row *ref_row(const struct ref *r, uint32_t layer, uint32_t pos)
{
    return &r->rows[(size_t)layer * N_TOK + pos];
}

static float *ref_x(const struct ref *r, uint32_t pos, uint32_t unit)
{
    return r->x + ((size_t)pos * (r->p->n_layers + 1) + unit) * r->p->width;
}

/* Rows [r0, r0 + n) of a tensor times `in`. */
static void ref_rows(const struct ref *r, uint32_t tensor, uint32_t r0, uint32_t n, const float *in,
                     float *out)
{
    struct vd_tensor_shape s = vd_program_tensor(r->p, tensor);
    uint32_t block = vd_wtype_info(s.type)->act_block;
    int8_t q[WIDEST];
    float d[WIDEST / 32];
    if (block == 32)
        vd_num_quant8_blocks(in, s.cols, q, d);
    if (block == 256)
        vd_num_quant8_blocks256(in, s.cols, q, d);
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *w = vd_model_tensor_bytes(r->m, tensor, r0 + i).p;
        out[i] =
            block ? vd_num_dot_row(s.type, w, q, d, s.cols) : vd_num_dot_row_float(s.type, w, in, s.cols);
    }
}

static void ref_product(const struct ref *r, uint32_t tensor, const float *in, float *out)
{
    ref_rows(r, tensor, 0, vd_program_tensor(r->p, tensor).rows, in, out);
}

/* The floats of a norm's weights or a bias, which a file need not align. */
static const float *ref_vector(const struct ref *r, uint32_t tensor, float out[WIDEST])
{
    memcpy(out, vd_model_tensor_bytes(r->m, tensor, 0).p, vd_program_tensor(r->p, tensor).cols * sizeof *out);
    return out;
}

static void ref_norm(const struct ref *r, uint32_t tensor, const float *x, float *out)
{
    float w[WIDEST];
    vd_num_rmsnorm(x, ref_vector(r, tensor, w), vd_program_tensor(r->p, tensor).cols, r->p->eps, out);
}

static uint32_t ref_tensor(const struct ref *r, uint32_t layer, enum vd_layer_tensor t)
{
    return vd_program_layer_tensor(r->p, layer, t);
}

/* A product, and its bias. */
static void ref_biased(const struct ref *r, uint32_t layer, enum vd_layer_tensor w, enum vd_layer_tensor bias,
                       const float *in, float *out)
{
    float b[WIDEST];
    ref_product(r, ref_tensor(r, layer, w), in, out);
    if (r->p->qkv_bias)
        vd_num_residual(out, ref_vector(r, ref_tensor(r, layer, bias), b),
                        vd_program_tensor(r->p, ref_tensor(r, layer, w)).rows, out);
}

/* Norm and rotation of one head. */
static void ref_place(const struct ref *r, uint32_t layer, uint32_t pos, enum vd_layer_tensor norm, float *x)
{
    const struct vd_program *p = r->p;
    unsigned table = vd_program_rope_table(p, layer);
    if (p->qk_norm)
        ref_norm(r, ref_tensor(r, layer, norm), x, x);
    for (uint32_t i = 0; i < p->n_rope; i++) {
        bool halves = p->rope_pairing == VD_ROPE_HALVES;
        float s, c;
        vd_num_sincos_turn(pos * p->rope_steps[table][i], &s, &c);
        if (p->rope_scale[table] != 1.0f) {
            s *= p->rope_scale[table];
            c *= p->rope_scale[table];
        }
        vd_num_rope_pair(&x[halves ? i : 2 * i], &x[halves ? i + p->n_rope : 2 * i + 1], s, c);
    }
}

static float ref_score(const struct ref *r, const int8_t *q, const float *qd, const struct ref_row *row,
                       uint32_t g)
{
    uint32_t hd = r->p->head_dim;
    float s = vd_num_score(q, qd, row->k + g * hd, row->kd + g * hd / 32, hd, r->p->attn_scale);
    return r->p->attn_cap == 0.0f ? s : vd_num_canon(vd_num_cap(s, r->p->attn_cap));
}

static void ref_head(const struct ref *r, uint32_t layer, uint32_t pos, uint32_t h, float *q)
{
    uint32_t hd = r->p->head_dim, g = h / (r->p->n_heads / r->p->n_kv_heads);
    uint32_t begin = vd_program_first_key(r->p, layer, pos), start = begin / VD_CHUNK_KEYS * VD_CHUNK_KEYS;
    int8_t qq[WIDEST];
    float qd[WIDEST / 32], m = 0, l = 0, o[WIDEST], oc[WIDEST], score[VD_CHUNK_KEYS], dv[VD_CHUNK_KEYS];
    vd_num_quant8_spread(q, hd, qq, qd);
    for (uint32_t first = start; first <= pos; first += VD_CHUNK_KEYS) {
        uint32_t n = pos + 1 - first < VD_CHUNK_KEYS ? pos + 1 - first : VD_CHUNK_KEYS;
        uint32_t j0 = begin > first ? begin - first : 0;
        struct vd_chunk c;
        for (uint32_t j = j0; j < n; j++) {
            const struct ref_row *row = ref_row(r, layer, first + j);
            score[j] = ref_score(r, qq, qd, row, g);
            dv[j] = row->vd[g];
        }
        vd_num_chunk(score, dv, j0, n - j0, &c);
        vd_num_chunk_v(&c, ref_row(r, layer, first)->v + g * hd, sizeof(struct ref_row), hd, oc);
        if (first == start) {
            m = c.m;
            l = c.l;
            memcpy(o, oc, hd * sizeof *o);
        } else {
            vd_num_merge(&m, &l, o, c.m, c.l, oc, hd);
        }
    }
    vd_num_attn_finish(l, o, hd, q);
}

/* Expert e (0 if dense) of a layer: h to y. */
static void ref_feed_forward(const struct ref *r, uint32_t layer, uint32_t e, const float *h, float *y)
{
    const struct vd_program *p = r->p;
    uint32_t f = p->ff_width, d = p->width;
    float gate[WIDEST], up[WIDEST];
    ref_rows(r, ref_tensor(r, layer, VD_T_FFN_GATE), e * f, f, h, gate);
    ref_rows(r, ref_tensor(r, layer, VD_T_FFN_UP), e * f, f, h, up);
    (p->act == VD_ACT_GELU ? vd_num_geglu : vd_num_swiglu)(gate, up, f, gate);
    ref_rows(r, ref_tensor(r, layer, VD_T_FFN_DOWN), e * d, d, gate, y);
}

static void ref_experts(const struct ref *r, uint32_t layer, const float *h, float *y)
{
    const struct vd_program *p = r->p;
    float logits[VD_ROUTE_MAX], weight[VD_ROUTE_USED_MAX];
    uint32_t expert[VD_ROUTE_USED_MAX];
    static float out[VD_ROUTE_USED_MAX][WIDEST];
    ref_product(r, ref_tensor(r, layer, VD_T_FFN_ROUTER), h, logits);
    vd_num_route(logits, p->n_experts, p->n_used, p->route_norm, expert, weight);
    for (uint32_t s = 0; s < p->n_used; s++)
        ref_feed_forward(r, layer, expert[s], h, out[s]);
    for (uint32_t i = 0; i < p->width; i++) {
        float of_row[VD_ROUTE_USED_MAX];
        for (uint32_t s = 0; s < p->n_used; s++)
            of_row[s] = out[s][i];
        y[i] = vd_num_mix(weight, of_row, p->n_used);
    }
}

static void ref_add(const struct ref *r, uint32_t layer, enum vd_layer_tensor norm, const float *x, float *y,
                    float *out)
{
    if (r->p->post_norms)
        ref_norm(r, ref_tensor(r, layer, norm), y, y);
    vd_num_residual(x, y, r->p->width, out);
}

static void ref_layer(const struct ref *r, uint32_t layer, uint32_t pos)
{
    const struct vd_program *p = r->p;
    uint32_t hd = p->head_dim;
    float h[WIDEST], q[WIDEST], k[WIDEST], v[WIDEST], y[WIDEST];
    const float *x = ref_x(r, pos, layer);
    float *out = ref_x(r, pos, layer + 1);
    struct ref_row *row = ref_row(r, layer, pos);
    ref_norm(r, ref_tensor(r, layer, VD_T_ATTN_NORM), x, h);
    ref_biased(r, layer, VD_T_ATTN_Q, VD_T_ATTN_Q_BIAS, h, q);
    ref_biased(r, layer, VD_T_ATTN_K, VD_T_ATTN_K_BIAS, h, k);
    ref_biased(r, layer, VD_T_ATTN_V, VD_T_ATTN_V_BIAS, h, v);
    for (uint32_t g = 0; g < p->n_kv_heads; g++) {
        ref_place(r, layer, pos, VD_T_ATTN_K_NORM, k + g * hd);
        vd_num_quant8_spread(k + g * hd, hd, row->k + g * hd, row->kd + g * hd / 32);
        vd_num_quant8(v + g * hd, hd, row->v + g * hd, &row->vd[g]);
    }
    for (uint32_t i = 0; i < p->n_heads; i++) {
        ref_place(r, layer, pos, VD_T_ATTN_Q_NORM, q + i * hd);
        ref_head(r, layer, pos, i, q + i * hd);
    }
    ref_product(r, ref_tensor(r, layer, VD_T_ATTN_OUTPUT), q, y);
    ref_add(r, layer, VD_T_POST_ATTN_NORM, x, y, out);
    ref_norm(r, ref_tensor(r, layer, VD_T_FFN_NORM), out, h);
    if (p->n_experts)
        ref_experts(r, layer, h, y);
    else
        ref_feed_forward(r, layer, 0, h, y);
    ref_add(r, layer, VD_T_POST_FFN_NORM, out, y, out);
}

static void ref_embed(const struct ref *r, uint32_t pos, uint32_t token)
{
    const struct vd_program *p = r->p;
    float *x = ref_x(r, pos, 0);
    vd_num_dequant(vd_program_tensor(p, 0).type, vd_model_tensor_bytes(r->m, 0, token).p, 0, p->width, x);
    for (uint32_t i = 0; p->embed_scale != 1.0f && i < p->width; i++)
        x[i] *= p->embed_scale;
}

static void ref_run(struct ref *r, const struct vd_model *m, const uint32_t *tokens, uint32_t n)
{
    float h[WIDEST];
    const struct vd_program *p = r->p = vd_model_program(m);
    r->m = m;
    r->rows = calloc((size_t)p->n_layers * N_TOK, sizeof *r->rows);
    r->x = calloc((size_t)N_TOK * (p->n_layers + 1) * p->width, sizeof *r->x);
    r->logits = calloc((size_t)N_TOK * p->vocab, sizeof *r->logits);
    for (uint32_t pos = 0; pos < n; pos++) {
        float *logits = r->logits + (size_t)pos * p->vocab;
        ref_embed(r, pos, tokens[pos]);
        for (uint32_t l = 0; l < p->n_layers; l++)
            ref_layer(r, l, pos);
        ref_norm(r, vd_program_norm_tensor(p), ref_x(r, pos, p->n_layers), h);
        ref_product(r, vd_program_head_tensor(p), h, logits);
        for (uint32_t i = 0; p->logit_cap != 0.0f && i < p->vocab; i++)
            logits[i] = vd_num_cap(logits[i], p->logit_cap);
    }
}

static void ref_free(struct ref *r)
{
    free(r->rows);
    free(r->x);
    free(r->logits);
}

/* ------------------------- the engine ------------------------- */

/* Feeds tokens [from, to) and compares every logit with `want`, rows of vocab. */
static void feed_compare(struct engine *e, struct vd_kv *kv, const uint32_t *tokens, uint32_t from,
                         uint32_t to, const float *want)
{
    struct vd_row rows[ROWS_MAX];
    size_t vocab = vd_model_program(e->m)->vocab;
    for (uint32_t i = from; i < to; i++)
        rows[i - from] = (struct vd_row){kv, i, tokens[i], VD_ROW_LOGITS};
    assert_int_equal(vd_model_forward(e->ctx, rows, to - from, NULL, NULL), VD_OK);
    for (uint32_t i = from; i < to; i++)
        assert_memory_equal(vd_ctx_logits(e->ctx, i - from), want + i * vocab, vocab * sizeof(float));
}

static void some_tokens(uint32_t *tokens, uint32_t vocab, uint64_t seed)
{
    struct vd_rng r = {seed, 0};
    for (uint32_t i = 0; i < N_TOK; i++)
        tokens[i] = (uint32_t)vd_rng_below(&r, vocab);
}

enum { N_TABLES = 6 };

/* The tables that this CPU has. */
static size_t tables(const struct vd_kern *out[N_TABLES])
{
    static const char *const names[N_TABLES] = {"scalar", "avx2", "avxvnni", "avx512", "neon", "neon-i8mm"};
    size_t n = 0;
    for (size_t i = 0; i < N_TABLES; i++) {
        const struct vd_kern *k = vd_kern_pick(names[i], NULL);
        if (k != NULL)
            out[n++] = k;
    }
    return n;
}

/* ------------------------- tests ------------------------- */

/* n tokens by every table against the reference. */
static void compare_model(const struct vd_test_model *t, uint32_t n)
{
    const struct vd_kern *kern[N_TABLES];
    size_t n_tables = tables(kern);
    char path[VD_PATH_MAX];
    uint32_t tokens[N_TOK];
    vd_test_model_file(t, path);
    some_tokens(tokens, t->vocab, t->seed);
    struct ref ref = {0};
    for (size_t i = 0; i < n_tables; i++) {
        struct engine e;
        engine_open(&e, path, kern[i], 2, ROWS_MAX, ROWS_MAX);
        if (i == 0)
            ref_run(&ref, e.m, tokens, n);
        ref.m = e.m;
        ref.p = vd_model_program(e.m);
        struct vd_kv *kv = open_kv(&e);
        feed_compare(&e, kv, tokens, 0, n, ref.logits);
        vd_kv_close(kv);
        engine_close(&e);
    }
    ref_free(&ref);
    unlink(path);
}

static void equals_num_q4_1(void **state)
{
    compare_model(&vd_test_model_default, N_TOK);
}

static void equals_num_other_types(void **state)
{
    static const enum vd_wtype types[][2] = {
        {VD_WTYPE_Q4_0, VD_WTYPE_F16},  {VD_WTYPE_Q8_0, VD_WTYPE_Q4_0}, {VD_WTYPE_F16, VD_WTYPE_F32},
        {VD_WTYPE_F32, VD_WTYPE_Q8_0},  {VD_WTYPE_Q5_0, VD_WTYPE_BF16}, {VD_WTYPE_Q5_1, VD_WTYPE_Q5_0},
        {VD_WTYPE_BF16, VD_WTYPE_Q5_1},
    };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i += vd_test_step(3)) {
        struct vd_test_model t = vd_test_model_default;
        t.mats = types[i][0];
        t.embd = types[i][1];
        t.untied = i % 2;
        t.n_layers = 1 + i % 2;
        t.seed = 10 + i;
        compare_model(&t, 70);
    }
}

static void equals_num_super_blocks(void **state)
{
    static const enum vd_wtype types[][3] = {
        {VD_WTYPE_Q4_K, VD_WTYPE_Q6_K, VD_WTYPE_Q6_K},       {VD_WTYPE_Q5_0, VD_WTYPE_Q4_K, VD_WTYPE_Q8_0},
        {VD_WTYPE_Q5_K, VD_WTYPE_Q8_0, VD_WTYPE_Q5_K},       {VD_WTYPE_Q2_K, VD_WTYPE_Q3_K, VD_WTYPE_Q2_K},
        {VD_WTYPE_IQ4_XS, VD_WTYPE_IQ4_NL, VD_WTYPE_IQ4_XS}, {VD_WTYPE_MXFP4, VD_WTYPE_F16, VD_WTYPE_Q3_K},
    };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i += vd_test_step(3)) {
        struct vd_test_model t = vd_test_model_default;
        vd_test_model_widen(&t);
        t.mats = types[i][0];
        t.v_down = types[i][1];
        t.mixed = true;
        t.embd = types[i][2];
        t.n_layers = 1;
        t.seed = 30 + i;
        compare_model(&t, 70);
    }
}

static void equals_num_every_form(void **state)
{
    for (size_t i = 0; i < VD_TEST_FORMS; i += vd_test_step(4)) {
        struct vd_test_model t = vd_test_model_of(&vd_test_forms[i]);
        t.seed = 50 + i;
        compare_model(&t, 70);
    }
}

/* With from .. 3 threads. */
static void cuts_and_threads(const struct vd_test_model *t, unsigned from, const uint32_t *cuts,
                             size_t n_cuts)
{
    char path[VD_PATH_MAX];
    uint32_t tokens[N_TOK];
    struct ref ref = {0};
    vd_test_model_file(t, path);
    some_tokens(tokens, t->vocab, 3);
    for (unsigned threads = from; threads <= 3; threads++) {
        struct engine e;
        engine_open(&e, path, vd_kern_pick(NULL, NULL), threads, ROWS_MAX, ROWS_MAX);
        if (threads == from)
            ref_run(&ref, e.m, tokens, N_TOK);
        for (size_t c = 0; c < n_cuts; c++) {
            struct vd_kv *kv = open_kv(&e);
            for (uint32_t at = 0; at < N_TOK; at += cuts[c])
                feed_compare(&e, kv, tokens, at, at + cuts[c] < N_TOK ? at + cuts[c] : N_TOK, ref.logits);
            vd_kv_close(kv);
        }
        engine_close(&e);
    }
    ref_free(&ref);
    unlink(path);
}

static void any_cut_any_threads(void **state)
{
    static const uint32_t cuts[] = {1, 7, 16, 33, 64, 100, 149};
    cuts_and_threads(&vd_test_model_default, 1, cuts, sizeof cuts / sizeof *cuts);
}

/* One row, few that are sorted by everyone and together, many. */
static void any_cut_every_form(void **state)
{
    static const uint32_t cuts[] = {1, 3, 47, 149};
    for (size_t i = 0; i < VD_TEST_FORMS; i += vd_test_step(5)) {
        struct vd_test_model t = vd_test_model_of(&vd_test_forms[i]);
        t.embd = VD_WTYPE_F16;
        cuts_and_threads(&t, 3, cuts, sizeof cuts / sizeof *cuts);
    }
}

/* Several sequences of different lengths in one call, few and many rows, with and without wanted outputs. */
static void mix(const struct vd_test_model *t)
{
    enum { N_SEQ = 5 };
    char path[VD_PATH_MAX];
    uint32_t tokens[N_SEQ][N_TOK];
    struct ref ref[N_SEQ] = {0};
    struct engine e;
    struct vd_kv *kv[N_SEQ];
    vd_test_model_file(t, path);
    engine_open(&e, path, vd_kern_pick(NULL, NULL), 2, ROWS_MAX, ROWS_MAX);
    size_t vocab = vd_model_program(e.m)->vocab, width = vd_model_program(e.m)->width;
    for (unsigned s = 0; s < N_SEQ; s++) {
        some_tokens(tokens[s], (uint32_t)vocab, 40 + s);
        ref_run(&ref[s], e.m, tokens[s], N_TOK);
        kv[s] = open_kv(&e);
    }
    struct vd_rng r = {5, 0};
    for (unsigned step = 0; step < 60; step++) {
        struct vd_row rows[ROWS_MAX];
        size_t n = 0;
        for (unsigned s = 0; s < N_SEQ; s++) {
            uint32_t at = (uint32_t)vd_kv_len(kv[s]);
            uint32_t want = (uint32_t)vd_rng_below(&r, step % 3 ? 4 : 45),
                     end = at + want < N_TOK ? at + want : N_TOK;
            for (; at < end; at++)
                rows[n++] =
                    (struct vd_row){kv[s], at, tokens[s][at], (uint32_t)vd_rng_below(&r, step % 5 ? 4 : 1)};
        }
        if (n == 0)
            continue;
        assert_int_equal(vd_model_forward(e.ctx, rows, n, NULL, NULL), VD_OK);
        for (size_t i = 0; i < n; i++) {
            unsigned s = 0;
            while (kv[s] != rows[i].kv)
                s++;
            if (rows[i].flags & VD_ROW_LOGITS)
                assert_memory_equal(vd_ctx_logits(e.ctx, i), ref[s].logits + rows[i].pos * vocab, vocab * 4);
            if (rows[i].flags)
                assert_memory_equal(vd_ctx_hidden(e.ctx, i), ref_x(&ref[s], rows[i].pos, ref[s].p->n_layers),
                                    width * 4);
        }
    }
    for (unsigned s = 0; s < N_SEQ; s++) {
        assert_int_equal(vd_kv_len(kv[s]), N_TOK);
        vd_kv_close(kv[s]);
        ref_free(&ref[s]);
    }
    engine_close(&e);
    unlink(path);
}

/* Nothing is computed while it is cancelled, and afterwards all is as if nothing had been asked. */
static void cancelled_calls_do_nothing(void **state)
{
    char path[VD_PATH_MAX];
    uint32_t a[N_TOK];
    struct ref ref = {0};
    struct engine e;
    atomic_bool cancel = true;
    vd_test_model_file(&vd_test_model_default, path);
    engine_open(&e, path, vd_kern_pick(NULL, NULL), 2, ROWS_MAX, ROWS_MAX);
    some_tokens(a, vd_test_model_default.vocab, 9);
    ref_run(&ref, e.m, a, N_TOK);
    struct vd_kv *kv = open_kv(&e);
    struct vd_row row = {kv, 0, a[0], VD_ROW_LOGITS};
    vd_ctx_set_cancel(e.ctx, &cancel);
    assert_int_equal(vd_model_forward(e.ctx, &row, 1, NULL, NULL), VD_ECANCELLED);
    assert_int_equal(vd_kv_len(kv), 0);
    atomic_store(&cancel, false);
    feed_compare(&e, kv, a, 0, 20, ref.logits);
    vd_kv_close(kv);
    ref_free(&ref);
    engine_close(&e);
    unlink(path);
}

/* Cancels in the middle of a call: when the tap hears of a unit. */
struct canceller {
    atomic_bool cancel;
    uint32_t at;      /* unit */
    atomic_uint last; /* that came */
};

static void cancel_at(void *arg, size_t row, uint32_t unit, const struct vd_graph_rows *rows, unsigned thread)
{
    struct canceller *c = arg;
    (void)row, (void)rows, (void)thread;
    if (unit == c->at)
        atomic_store(&c->cancel, true);
    for (unsigned last = atomic_load(&c->last); unit > last;)
        if (atomic_compare_exchange_weak(&c->last, &last, unit))
            break;
}

/* A call that is cancelled in one layer does not run those behind the next; and afterwards all is as if
 * nothing had been asked. With few rows and many, with one thread and several. */
static void cancelled_in_mid_call(void **state)
{
    static const struct {
        unsigned n_threads;
        size_t n;
    } cases[] = {{1, 3}, {2, 3}, {3, 20}, {1, N_TOK}, {2, N_TOK}, {3, N_TOK}};
    struct vd_test_model t = vd_test_model_default;
    char path[VD_PATH_MAX];
    uint32_t a[N_TOK];
    t.n_layers = 6;
    vd_test_model_file(&t, path);
    some_tokens(a, t.vocab, 9);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ref ref = {0};
        struct engine e;
        struct canceller c = {.at = 2};
        struct vd_tap tap = {cancel_at, &c};
        struct vd_row rows[N_TOK];
        engine_open(&e, path, vd_kern_pick(NULL, NULL), cases[i].n_threads, ROWS_MAX, ROWS_MAX);
        ref_run(&ref, e.m, a, N_TOK);
        struct vd_kv *kv = open_kv(&e);
        for (uint32_t k = 0; k < cases[i].n; k++)
            rows[k] = (struct vd_row){kv, k, a[k], VD_ROW_LOGITS};
        vd_ctx_set_cancel(e.ctx, &c.cancel);
        assert_int_equal(vd_model_forward(e.ctx, rows, cases[i].n, &tap, NULL), VD_ECANCELLED);
        assert_in_range(atomic_load(&c.last), 2, 3);
        assert_int_equal(vd_kv_len(kv), 0);
        atomic_store(&c.cancel, false);
        feed_compare(&e, kv, a, 0, N_TOK, ref.logits);
        vd_kv_close(kv);
        ref_free(&ref);
        engine_close(&e);
    }
    unlink(path);
}

/* What is asked before each call. */
struct asked {
    struct engine *e;
    struct vd_kv *other;
    unsigned n_calls, n_depth;
    bool go_on;
};

static bool ask_before(void *arg)
{
    struct asked *a = arg;
    a->n_calls++;
    if (a->n_depth++ == 0 && a->other) { /* a call within */
        struct vd_row row = {a->other, (uint32_t)vd_kv_len(a->other), 1, VD_ROW_LOGITS};
        assert_int_equal(vd_model_forward(a->e->ctx, &row, 1, NULL, NULL), VD_OK);
    }
    a->n_depth--;
    return a->go_on;
}

static void calls_ask_before(void **state)
{
    char path[VD_PATH_MAX];
    uint32_t a[N_TOK];
    struct ref ref = {0};
    struct engine e;
    vd_test_model_file(&vd_test_model_default, path);
    engine_open(&e, path, vd_kern_pick(NULL, NULL), 2, ROWS_MAX, ROWS_MAX);
    some_tokens(a, vd_test_model_default.vocab, 9);
    ref_run(&ref, e.m, a, N_TOK);
    struct vd_kv *kv = open_kv(&e);
    struct vd_row row = {kv, 0, a[0], VD_ROW_LOGITS};
    struct asked asked = {.e = &e};
    vd_ctx_set_before(e.ctx, ask_before, &asked);
    assert_int_equal(vd_model_forward(e.ctx, &row, 1, NULL, NULL), VD_ECANCELLED);
    assert_int_equal(asked.n_calls, 1);
    asked.go_on = true;
    asked.other = open_kv(&e);
    feed_compare(&e, kv, a, 0, 20, ref.logits);
    assert_true(vd_kv_len(asked.other) > 0);
    vd_ctx_set_before(e.ctx, NULL, NULL);
    vd_kv_close(asked.other);
    vd_kv_close(kv);
    ref_free(&ref);
    engine_close(&e);
    unlink(path);
}

static void mixed_batch(void **state)
{
    mix(&vd_test_model_default);
}

static void mixed_batch_features(void **state)
{
    static const char *const forms[] = {"qwen3moe", "gemma3", "llama-linear"};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        struct vd_test_model t = vd_test_model_of(vd_test_form(forms[i]));
        t.n_layers = 2;
        mix(&t);
    }
}

/* ------------------------- the tap ------------------------- */

struct tap_check {
    const struct ref *ref;
    const struct vd_row *rows;
    _Atomic unsigned calls, without_x, wrong;
};

static bool record_equal(const struct ref *r, uint32_t layer, uint32_t pos, const uint8_t *k,
                         const uint8_t *v)
{
    const struct ref_row *row = ref_row(r, layer, pos);
    uint32_t hd = r->p->head_dim;
    bool ok = true;
    for (uint32_t g = 0; g < r->p->n_kv_heads; g++) {
        for (uint32_t b = 0; b < hd / 32; b++, k += 4)
            ok &= vd_le32_load(k) == vd_f32_bits(row->kd[g * hd / 32 + b]);
        ok &= memcmp(k, row->k + g * hd, hd) == 0 && vd_le32_load(v) == vd_f32_bits(row->vd[g]) &&
              memcmp(v + 4, row->v + g * hd, hd) == 0;
        k += hd;
        v += 4 + hd;
    }
    return ok;
}

static void check_tap(void *arg, size_t row, uint32_t unit, const struct vd_graph_rows *rows, unsigned thread)
{
    struct tap_check *t = arg;
    const uint8_t *k = rows->k, *v = rows->v;
    const float *x = rows->x;
    uint32_t pos = t->rows[row].pos;
    const struct vd_program *p = t->ref->p;
    bool x_due = unit < p->n_layers || t->rows[row].flags;
    bool ok = !rows->q && (x != NULL) == x_due && (k != NULL) == (unit > 0) && (v != NULL) == (unit > 0);
    if (ok && x)
        ok = memcmp(x, ref_x(t->ref, pos, unit), p->width * sizeof *x) == 0;
    if (ok && k)
        ok = record_equal(t->ref, unit - 1, pos, k, v);
    t->calls++;
    t->without_x += x == NULL;
    t->wrong += !ok;
}

static void tap_tells_all(void **state)
{
    static const uint32_t cuts[] = {1, 20, N_TOK};
    char path[VD_PATH_MAX];
    uint32_t tokens[N_TOK];
    struct ref ref = {0};
    struct engine e;
    vd_test_model_file(&vd_test_model_default, path);
    engine_open(&e, path, vd_kern_pick(NULL, NULL), 2, ROWS_MAX, ROWS_MAX);
    some_tokens(tokens, vd_test_model_default.vocab, 6);
    ref_run(&ref, e.m, tokens, N_TOK);
    size_t n_k = vd_model_k_row_bytes(e.m), n_v = vd_model_v_row_bytes(e.m);
    uint8_t *k = malloc(n_k), *v = malloc(n_v);
    for (size_t c = 0; c < 3; c++) {
        struct vd_kv *kv = open_kv(&e);
        struct vd_row rows[N_TOK];
        struct tap_check check = {.ref = &ref, .rows = rows};
        struct vd_tap tap = {check_tap, &check};
        for (uint32_t i = 0; i < N_TOK; i++)
            rows[i] = (struct vd_row){kv, i, tokens[i], i >= 100 ? VD_ROW_LOGITS : 0};
        for (uint32_t at = 0; at < N_TOK; at += cuts[c]) {
            check.rows = rows + at;
            assert_int_equal(
                vd_model_forward(e.ctx, rows + at, at + cuts[c] < N_TOK ? cuts[c] : N_TOK - at, &tap, NULL),
                VD_OK);
        }
        assert_int_equal(check.calls, N_TOK * (ref.p->n_layers + 1));
        assert_int_equal(check.without_x, 100);
        assert_int_equal(check.wrong, 0);
        for (uint32_t pos = 0; pos < N_TOK; pos++) {
            vd_kv_read(kv, 1, pos, k, v);
            assert_true(record_equal(&ref, 1, pos, k, v));
        }
        vd_kv_close(kv);
    }
    free(k);
    free(v);
    ref_free(&ref);
    engine_close(&e);
    unlink(path);
}

/* ------------------------- cutting and forking ------------------------- */

static size_t used_pages(struct vd_kv_pool *pool)
{
    return vd_kv_pool_used_bytes(pool) / vd_kv_pool_page_bytes(pool);
}

static void fork_and_truncate(void **state)
{
    char path[VD_PATH_MAX];
    uint32_t a[N_TOK], b[N_TOK];
    struct ref ref_a = {0}, ref_b = {0};
    struct engine e;
    struct vd_kv *kv, *child;
    vd_test_model_file(&vd_test_model_default, path);
    engine_open(&e, path, vd_kern_pick(NULL, NULL), 2, ROWS_MAX, ROWS_MAX);
    some_tokens(a, vd_test_model_default.vocab, 7);
    some_tokens(b, vd_test_model_default.vocab, 8);
    memcpy(b, a, 90 * sizeof *a); /* a common prefix that ends inside a page */
    ref_run(&ref_a, e.m, a, N_TOK);
    ref_run(&ref_b, e.m, b, N_TOK);
    kv = open_kv(&e);
    feed_compare(&e, kv, a, 0, 120, ref_a.logits);
    assert_int_equal(used_pages(e.cache), 2);
    assert_int_equal(vd_kv_fork(&child, kv, 90, NULL), VD_OK);
    assert_int_equal(used_pages(e.cache), 2); /* shared */
    feed_compare(&e, child, b, 90, 130, ref_b.logits);
    assert_int_equal(used_pages(e.cache), 4);          /* the second page was copied, a third is new */
    feed_compare(&e, kv, a, 120, N_TOK, ref_a.logits); /* the parent is untouched */
    vd_kv_truncate(kv, 70);
    feed_compare(&e, kv, a, 70, N_TOK, ref_a.logits);
    vd_kv_truncate(kv, 10);
    assert_int_equal(used_pages(e.cache), 3); /* one shared, two of the child */
    vd_kv_close(kv);
    feed_compare(&e, child, b, 130, N_TOK, ref_b.logits);
    vd_kv_close(child);
    assert_int_equal(vd_kv_pool_used_bytes(e.cache), 0);
    ref_free(&ref_a);
    ref_free(&ref_b);
    engine_close(&e);
    unlink(path);
}

static void bad_calls_change_nothing(void **state)
{
    char path[VD_PATH_MAX];
    struct engine e;
    struct vd_error err;
    vd_test_model_file(&vd_test_model_default, path);
    engine_open(&e, path, vd_kern_pick(NULL, NULL), 1, ROWS_MAX, ROWS_MAX);
    struct vd_kv *kv = open_kv(&e), *other = open_kv(&e);
    struct vd_row token[] = {{kv, 0, vd_test_model_default.vocab, 0}};
    struct vd_row gap[] = {{kv, 0, 1, 0}, {kv, 2, 1, 0}};
    struct vd_row start[] = {{kv, 1, 1, 0}};
    struct vd_row twice[] = {{kv, 0, 1, 0}, {other, 0, 1, 0}, {kv, 0, 1, 0}};
    assert_int_equal(vd_model_forward(e.ctx, token, 1, NULL, &err), VD_EUSE);
    assert_int_equal(vd_model_forward(e.ctx, gap, 2, NULL, &err), VD_EUSE);
    assert_int_equal(vd_model_forward(e.ctx, start, 1, NULL, &err), VD_EUSE);
    assert_int_equal(vd_model_forward(e.ctx, twice, 3, NULL, &err), VD_EUSE);
    assert_int_equal(vd_model_forward(e.ctx, start, 0, NULL, &err), VD_EUSE);
    assert_int_equal(vd_kv_len(kv) + vd_kv_len(other), 0);
    assert_int_equal(vd_kv_reserve(kv, vd_test_model_default.ctx + 1, &err), VD_ELIMIT);
    struct vd_row good[] = {{kv, 0, 1, 0}, {other, 0, 1, 0}};
    assert_int_equal(vd_model_forward(e.ctx, good, 2, NULL, &err), VD_OK);
    vd_kv_close(kv);
    vd_kv_close(other);
    engine_close(&e);
    unlink(path);
}

static void cache_limit_holds(void **state)
{
    char path[VD_PATH_MAX];
    struct engine e;
    struct vd_error err;
    struct vd_kv_pool *small;
    struct vd_kv *a, *b;
    vd_test_model_file(&vd_test_model_default, path);
    engine_open(&e, path, vd_kern_pick(NULL, NULL), 1, ROWS_MAX, ROWS_MAX);
    size_t page = vd_kv_pool_page_bytes(e.cache);
    assert_int_equal(vd_kv_pool_create(&small, e.m, page - 1, &err), VD_EUSE);
    assert_int_equal(vd_kv_pool_create(&small, e.m, 3 * page + 7, &err), VD_OK);
    assert_int_equal(vd_kv_pool_max_bytes(small), 3 * page + 7);
    assert_int_equal(vd_kv_open(&a, small, &err), VD_OK);
    assert_int_equal(vd_kv_open(&b, small, &err), VD_OK);
    assert_int_equal(vd_kv_reserve(a, 129, &err), VD_OK);
    assert_int_equal(vd_kv_reserve(b, 1, &err), VD_ENOMEM);
    assert_int_equal(used_pages(small), 3);
    vd_kv_close(a);
    assert_int_equal(vd_kv_reserve(b, 1, &err), VD_OK);
    vd_kv_close(b);
    vd_kv_pool_destroy(small);
    engine_close(&e);
    unlink(path);
}

/* A context long enough for the cut along chunks, with more threads than kv heads. */
static void split_long_context(struct vd_test_model t)
{
    enum { N = 1500 }; /* pieces of 16 chunks, and less */
    char path[VD_PATH_MAX];
    struct vd_row rows[ROWS_MAX];
    float *want = NULL;
    t.ctx = 2048;
    t.n_layers = 2;
    vd_test_model_file(&t, path);
    for (unsigned threads = 1; threads <= 3; threads += (unsigned)vd_test_step(2)) {
        struct engine e;
        engine_open(&e, path, vd_kern_pick(NULL, NULL), threads, ROWS_MAX, ROWS_MAX);
        struct vd_kv *kv = open_kv(&e);
        while (vd_kv_len(kv) < N) {
            uint32_t at = (uint32_t)vd_kv_len(kv), n = N - at < ROWS_MAX ? N - at : ROWS_MAX;
            for (uint32_t i = 0; i < n; i++)
                rows[i] = (struct vd_row){kv, at + i, (at + i) * 31 % t.vocab, 0};
            assert_int_equal(vd_model_forward(e.ctx, rows, n, NULL, NULL), VD_OK);
        }
        for (uint32_t i = 0; i < 3; i++)
            rows[i] = (struct vd_row){kv, N + i, i, i ? VD_ROW_LOGITS : 0};
        assert_int_equal(vd_model_forward(e.ctx, rows, 3, NULL, NULL), VD_OK);
        if (threads == 1) {
            want = malloc(2 * t.vocab * sizeof *want);
            memcpy(want, vd_ctx_logits(e.ctx, 1), t.vocab * sizeof *want);
            memcpy(want + t.vocab, vd_ctx_logits(e.ctx, 2), t.vocab * sizeof *want);
        }
        assert_memory_equal(vd_ctx_logits(e.ctx, 1), want, t.vocab * sizeof *want);
        assert_memory_equal(vd_ctx_logits(e.ctx, 2), want + t.vocab, t.vocab * sizeof *want);
        vd_kv_close(kv);
        engine_close(&e);
    }
    free(want);
    unlink(path);
}

/* More pages than are kept empty: what is given back can be used again, and the limit holds. */
static void pages_come_back(void **state)
{
    enum { N = 40, POS = N * VD_KV_PAGE_POS };
    struct vd_test_model t = vd_test_model_default;
    char path[VD_PATH_MAX];
    struct vd_error err;
    struct engine e;
    struct vd_kv_pool *pool;
    struct vd_kv *kv;
    float *want = malloc(t.vocab * sizeof *want);
    t.ctx = POS;
    vd_test_model_file(&t, path);
    engine_open(&e, path, vd_kern_pick(NULL, NULL), 1, ROWS_MAX, ROWS_MAX);
    assert_int_equal(vd_kv_pool_create(&pool, e.m, vd_kv_pool_page_bytes(e.cache) * N, &err), VD_OK);
    for (int round = 0; round < 3; round++) {
        struct vd_kv *other;
        assert_int_equal(vd_kv_open(&kv, pool, &err), VD_OK);
        assert_int_equal(vd_kv_open(&other, pool, &err), VD_OK);
        assert_int_equal(vd_kv_reserve(kv, POS, &err), VD_OK);
        assert_int_equal(vd_kv_reserve(other, 1, &err), VD_ENOMEM);
        for (uint32_t i = 0; i < 70; i++) {
            struct vd_row row = {kv, i, i % t.vocab, VD_ROW_LOGITS};
            assert_int_equal(vd_model_forward(e.ctx, &row, 1, NULL, NULL), VD_OK);
        }
        if (round == 0)
            memcpy(want, vd_ctx_logits(e.ctx, 0), t.vocab * sizeof *want);
        assert_memory_equal(vd_ctx_logits(e.ctx, 0), want, t.vocab * sizeof *want);
        vd_kv_close(other);
        vd_kv_close(kv);
        assert_int_equal(vd_kv_pool_used_bytes(pool), 0);
    }
    vd_kv_pool_destroy(pool);
    engine_close(&e);
    free(want);
    unlink(path);
}

/* ------------------------- windows ------------------------- */

enum { LONG = 700 };

/* The logits of all positions of a long sequence in one pass, before which nothing can lie behind a window.
 */
static float *in_one_pass(const char *path, uint32_t vocab)
{
    struct engine e;
    struct vd_row rows[LONG];
    float *logits = malloc((size_t)LONG * vocab * sizeof *logits);
    engine_open(&e, path, vd_kern_pick(NULL, NULL), 2, LONG, LONG);
    struct vd_kv *kv = open_kv(&e);
    for (uint32_t i = 0; i < LONG; i++)
        rows[i] = (struct vd_row){kv, i, i * 31 % vocab, VD_ROW_LOGITS};
    assert_int_equal(vd_model_forward(e.ctx, rows, LONG, NULL, NULL), VD_OK);
    for (uint32_t i = 0; i < LONG; i++)
        memcpy(logits + (size_t)i * vocab, vd_ctx_logits(e.ctx, i), vocab * sizeof *logits);
    vd_kv_close(kv);
    engine_close(&e);
    return logits;
}

/* The next n positions (or as many as are left), whose logits are those of one pass. */
static void go_on(struct engine *e, struct vd_kv *kv, uint32_t n, const float *want)
{
    struct vd_row rows[ROWS_MAX];
    uint32_t vocab = vd_model_program(e->m)->vocab, at = (uint32_t)vd_kv_len(kv);
    n = n < LONG - at ? n : LONG - at;
    for (uint32_t i = 0; i < n; i++)
        rows[i] = (struct vd_row){kv, at + i, (at + i) * 31 % vocab, VD_ROW_LOGITS};
    struct vd_error err;
    if (vd_model_forward(e->ctx, rows, n, NULL, &err) != VD_OK)
        fail_msg("%s", err.msg);
    for (uint32_t i = 0; i < n; i++)
        assert_memory_equal(vd_ctx_logits(e->ctx, i), want + (size_t)(at + i) * vocab, vocab * sizeof *want);
}

/* A sequence that has what it reserved and nothing else, in passes of `pass` positions, taking some of them
 * back. */
static void within_what_is_reserved(struct engine *e, uint32_t pass, const float *want)
{
    struct vd_kv_pool *pool;
    struct vd_kv *kv, *other;
    size_t page = vd_kv_pool_page_bytes(e->cache);
    vd_kv_pool_set_pass(e->cache, pass);
    size_t need = vd_kv_pool_need_bytes(e->cache, 0, LONG);
    assert_true(need < (LONG / VD_KV_PAGE_POS + 1) * page);
    assert_int_equal(vd_kv_pool_create(&pool, e->m, need + page - 1, NULL), VD_OK);
    vd_kv_pool_set_pass(pool, pass);
    assert_int_equal(vd_kv_open(&kv, pool, NULL), VD_OK);
    assert_int_equal(vd_kv_open(&other, pool, NULL), VD_OK);
    assert_int_equal(vd_kv_reserve(kv, LONG, NULL), VD_OK);
    assert_int_equal(vd_kv_pool_used_bytes(pool), need);
    for (unsigned i = 0; vd_kv_len(kv) < LONG; i++) {
        size_t began = vd_kv_len(kv);
        go_on(e, kv, pass, want);
        assert_true(vd_kv_pool_used_bytes(pool) <= need);
        enum vd_err room =
            vd_kv_pool_used_bytes(pool) <= need - 1 ? VD_OK : VD_ENOMEM; /* before it is taken */
        assert_int_equal(vd_kv_reserve(other, 64, NULL), room);
        vd_kv_truncate(other, 0);
        if (i % 5 == 1 && began > VD_KV_BACK + 1) {
            size_t end = vd_kv_len(kv);
            vd_kv_rewind(kv, began - VD_KV_BACK);
            while (vd_kv_len(kv) < end)
                go_on(e, kv, pass, want);
        }
    }
    size_t seen = vd_model_program(e->m)->window + 2 * VD_KV_PAGE_POS + pass + VD_KV_BACK;
    assert_false(vd_kv_reaches(kv, LONG - seen));
    assert_true(vd_kv_reaches(kv, 0));
    vd_kv_close(kv);
    vd_kv_close(other);
    vd_kv_pool_destroy(pool);
}

/* Forks of a sequence that still runs: each goes on alone, and neither takes what the other has reserved. */
static void forks_with_windows(struct engine *e, const float *want)
{
    enum { PASS = 50 };
    struct vd_kv_pool *pool;
    struct vd_kv *kv, *child, *third;
    vd_kv_pool_set_pass(e->cache, PASS);
    size_t one = vd_kv_pool_need_bytes(e->cache, 0, LONG);
    size_t whole = one - vd_kv_pool_need_bytes(e->cache, 0, LONG - VD_KV_PAGE_POS);
    size_t two = one + vd_kv_pool_need_bytes(e->cache, 320, LONG) +
                 2 * (vd_kv_pool_page_bytes(e->cache) - whole); /* that kv shares, and needs others for */
    assert_int_equal(vd_kv_pool_create(&pool, e->m, two, NULL), VD_OK);
    vd_kv_pool_set_pass(pool, PASS);
    assert_int_equal(vd_kv_open(&kv, pool, NULL), VD_OK);
    assert_int_equal(vd_kv_reserve(kv, LONG, NULL), VD_OK);
    while (vd_kv_len(kv) < 400) {
        assert_int_equal(vd_kv_will_reach(kv, 320), vd_kv_len(kv) >= 320 && vd_kv_len(kv) < 400);
        go_on(e, kv, PASS, want);
    }
    assert_true(vd_kv_reaches(kv, 320));
    assert_false(vd_kv_reaches(kv, 192));
    assert_int_equal(vd_kv_fork(&child, kv, 320, NULL), VD_OK);
    assert_int_equal(vd_kv_reserve(child, LONG, NULL), VD_OK);
    assert_int_equal(vd_kv_fork(&third, kv, 384, NULL), VD_ENOMEM); /* it would keep kv's pages from it */
    assert_null(third);
    assert_true(vd_kv_fork_fits_without(kv, 384, &child, 1));
    assert_false(vd_kv_fork_fits_without(kv, 384, NULL, 0));
    while (vd_kv_len(child) < LONG) {
        if (vd_kv_len(kv) < LONG)
            go_on(e, kv, PASS, want);
        go_on(e, child, 33, want);
        assert_true(vd_kv_pool_used_bytes(pool) <= two);
    }
    vd_kv_close(kv);
    vd_kv_truncate(child, LONG - 10);
    go_on(e, child, 10, want);
    vd_kv_close(child);
    assert_int_equal(vd_kv_pool_used_bytes(pool), 0);
    vd_kv_pool_destroy(pool);
}

static void windows_are_given_back(void **state)
{
    static const char *const forms[] = {"gemma2", "gemma3"};
    static const uint32_t pass[] = {1, 17, 64, 130};
    for (size_t f = 0; f < 2; f++) {
        struct vd_test_model t = vd_test_model_of(vd_test_form(forms[f]));
        char path[VD_PATH_MAX];
        struct engine e;
        t.ctx = 1024;
        t.window = f ? 64 : 40;
        vd_test_model_file(&t, path);
        float *want = in_one_pass(path, t.vocab);
        engine_open(&e, path, vd_kern_pick(NULL, NULL), 2, ROWS_MAX, ROWS_MAX);
        for (size_t i = 0; i < sizeof pass / sizeof pass[0]; i++)
            within_what_is_reserved(&e, pass[i], want);
        forks_with_windows(&e, want);
        engine_close(&e);
        free(want);
        unlink(path);
    }
}

static void long_context_is_split(void **state)
{
    struct vd_test_model windowed = vd_test_model_of(vd_test_form("gemma2"));
    windowed.window = 601; /* begins inside a chunk, and is long enough for a cut */
    split_long_context(vd_test_model_default);
    split_long_context(windowed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_num_q4_1),
        cmocka_unit_test(equals_num_other_types),
        cmocka_unit_test(equals_num_super_blocks),
        cmocka_unit_test(equals_num_every_form),
        cmocka_unit_test(any_cut_every_form),
        cmocka_unit_test(mixed_batch_features),
        cmocka_unit_test(any_cut_any_threads),
        cmocka_unit_test(mixed_batch),
        cmocka_unit_test(cancelled_calls_do_nothing),
        cmocka_unit_test(cancelled_in_mid_call),
        cmocka_unit_test(calls_ask_before),
        cmocka_unit_test(tap_tells_all),
        cmocka_unit_test(fork_and_truncate),
        cmocka_unit_test(bad_calls_change_nothing),
        cmocka_unit_test(cache_limit_holds),
        cmocka_unit_test(pages_come_back),
        cmocka_unit_test(long_context_is_split),
        cmocka_unit_test(windows_are_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
