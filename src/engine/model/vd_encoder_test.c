/* Encoders on small random models: every row after the last layer, and the tap's records, against a plain
 * pass written with src/num; every kernel table, number of threads, length and mix of sequences; the three
 * poolings; and what is refused. */
#include "vd_embed.h"
#include "vd_forward.h"

#include "vd_act.h"
#include "vd_attn.h"
#include "vd_dot.h"
#include "vd_norm.h"
#include "vd_num.h"
#include "vd_quant.h"
#include "vd_rope.h"
#include "vd_test_engine.h"
#include "vd_test_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { N_MAX = 299, ROWS_MAX = 640, WIDEST = 1024, LAYERS = 2 };

/* ------------------------- the reference ------------------------- */

/* Canonical rows of one position of one layer. */
struct ref_row {
    int8_t q[WIDEST], k[WIDEST], v[WIDEST];
    float qd[WIDEST / 32], kd[WIDEST / 32], vd[16];
};

struct ref {
    const struct vd_model *m;
    const struct vd_program *p;
    uint32_t n;
    struct ref_row rows[LAYERS][N_MAX];
    float x[LAYERS + 1][N_MAX][WIDEST];
};

/* A tensor times `in`, and a bias if there is one. */
static void ref_product(const struct ref *r, uint32_t layer, enum vd_layer_tensor w,
                        enum vd_layer_tensor bias, const float *in, float *out)
{
    uint32_t tensor = vd_program_layer_tensor(r->p, layer, w);
    struct vd_tensor_shape s = vd_program_tensor(r->p, tensor);
    uint32_t block = vd_wtype_info(s.type)->act_block;
    int8_t q[WIDEST];
    float d[WIDEST / 32];
    if (block)
        (block == 32 ? vd_num_quant8_blocks : vd_num_quant8_blocks256)(in, s.cols, q, d);
    for (uint32_t i = 0; i < s.rows; i++) {
        const uint8_t *row = vd_model_tensor_bytes(r->m, tensor, i).p;
        out[i] =
            block ? vd_num_dot_row(s.type, row, q, d, s.cols) : vd_num_dot_row_float(s.type, row, in, s.cols);
    }
    if (!vd_program_has_tensor(r->p, bias))
        return;
    const uint8_t *b = vd_model_tensor_bytes(r->m, vd_program_layer_tensor(r->p, layer, bias), 0).p;
    for (uint32_t i = 0; i < s.rows; i++)
        out[i] = out[i] + vd_f32_from_bits(vd_le32_load(b + 4 * i));
}

static void ref_norm(const struct ref *r, uint32_t weight, uint32_t bias, float *x)
{
    float w[WIDEST], b[WIDEST];
    memcpy(w, vd_model_tensor_bytes(r->m, weight, 0).p, r->p->width * sizeof *w);
    memcpy(b, vd_model_tensor_bytes(r->m, bias, 0).p, r->p->width * sizeof *b);
    vd_num_layernorm(x, w, b, r->p->width, r->p->eps, x);
}

static void ref_embed(const struct ref *r, uint32_t pos, uint32_t token, float *x)
{
    static const enum vd_embed_tensor added[2] = {VD_E_TYPE, VD_E_POSITION};
    const struct vd_program *p = r->p;
    float row[WIDEST];
    vd_num_dequant(vd_program_tensor(p, 0).type, vd_model_tensor_bytes(r->m, 0, token).p, 0, p->width, x);
    for (int i = 0; i < 2; i++) {
        if (!(vd_program_embed_set(p) >> added[i] & 1))
            continue;
        uint32_t t = vd_program_embed_tensor(p, added[i]);
        vd_num_dequant(vd_program_tensor(p, t).type, vd_model_tensor_bytes(r->m, t, i ? pos : 0).p, 0,
                       p->width, row);
        vd_num_residual(x, row, p->width, x);
    }
    ref_norm(r, vd_program_embed_tensor(p, VD_E_NORM), vd_program_embed_tensor(p, VD_E_NORM_BIAS), x);
}

static void ref_rotate(const struct ref *r, uint32_t pos, float *head)
{
    const struct vd_program *p = r->p;
    for (uint32_t i = 0; i < p->n_rope; i++) {
        float s, c;
        vd_num_sincos_turn(pos * p->rope_steps[0][i], &s, &c);
        vd_num_rope_pair(&head[i], &head[i + p->n_rope], s, c);
    }
}

/* Queries, keys and values of a position, quantised. */
static void ref_qkv(struct ref *r, uint32_t layer, uint32_t pos)
{
    uint32_t hd = r->p->head_dim, n = r->p->n_heads;
    struct ref_row *row = &r->rows[layer][pos];
    float q[WIDEST], k[WIDEST], v[WIDEST];
    const float *x = r->x[layer][pos];
    ref_product(r, layer, VD_T_ATTN_Q, VD_T_ATTN_Q_BIAS, x, q);
    ref_product(r, layer, VD_T_ATTN_K, VD_T_ATTN_K_BIAS, x, k);
    ref_product(r, layer, VD_T_ATTN_V, VD_T_ATTN_V_BIAS, x, v);
    for (uint32_t h = 0; h < n; h++) {
        ref_rotate(r, pos, q + h * hd);
        ref_rotate(r, pos, k + h * hd);
        vd_num_quant8_spread(q + h * hd, hd, row->q + h * hd, row->qd + h * hd / 32);
        vd_num_quant8_spread(k + h * hd, hd, row->k + h * hd, row->kd + h * hd / 32);
        vd_num_quant8(v + h * hd, hd, row->v + h * hd, &row->vd[h]);
    }
}

/* One head of a position against all positions. */
static void ref_attend(const struct ref *r, uint32_t layer, uint32_t pos, uint32_t h, float *y)
{
    uint32_t hd = r->p->head_dim;
    const struct ref_row *q = &r->rows[layer][pos];
    float m = 0, l = 0, o[WIDEST], oc[WIDEST], score[VD_CHUNK_KEYS], dv[VD_CHUNK_KEYS];
    for (uint32_t first = 0; first < r->n; first += VD_CHUNK_KEYS) {
        uint32_t n = r->n - first < VD_CHUNK_KEYS ? r->n - first : VD_CHUNK_KEYS;
        const struct ref_row *rows = &r->rows[layer][first];
        struct vd_chunk c;
        for (uint32_t j = 0; j < n; j++) {
            score[j] = vd_num_score(q->q + h * hd, q->qd + h * hd / 32, rows[j].k + h * hd,
                                    rows[j].kd + h * hd / 32, hd, r->p->attn_scale);
            dv[j] = rows[j].vd[h];
        }
        vd_num_chunk(score, dv, 0, n, &c);
        vd_num_chunk_v(&c, rows->v + h * hd, sizeof *rows, hd, first ? oc : o);
        if (first) {
            vd_num_merge(&m, &l, o, c.m, c.l, oc, hd);
        } else {
            m = c.m;
            l = c.l;
        }
    }
    vd_num_attn_finish(l, o, hd, y);
}

static void ref_rest(struct ref *r, uint32_t layer, uint32_t pos)
{
    const struct vd_program *p = r->p;
    float a[WIDEST], y[WIDEST], up[WIDEST];
    float *x = r->x[layer + 1][pos];
    for (uint32_t h = 0; h < p->n_heads; h++)
        ref_attend(r, layer, pos, h, a + h * p->head_dim);
    ref_product(r, layer, VD_T_ATTN_OUTPUT, VD_T_ATTN_OUTPUT_BIAS, a, y);
    vd_num_residual(r->x[layer][pos], y, p->width, x);
    ref_norm(r, vd_program_layer_tensor(p, layer, VD_T_POST_ATTN_NORM),
             vd_program_layer_tensor(p, layer, VD_T_POST_ATTN_NORM_BIAS), x);
    ref_product(r, layer, VD_T_FFN_UP, VD_T_FFN_UP_BIAS, x, up);
    if (p->ungated) {
        vd_num_gelu_row(up, p->ff_width, up);
    } else {
        ref_product(r, layer, VD_T_FFN_GATE, VD_T_FFN_GATE_BIAS, x, a);
        vd_num_swiglu(a, up, p->ff_width, up);
    }
    ref_product(r, layer, VD_T_FFN_DOWN, VD_T_FFN_DOWN_BIAS, up, y);
    vd_num_residual(x, y, p->width, x);
    ref_norm(r, vd_program_layer_tensor(p, layer, VD_T_POST_FFN_NORM),
             vd_program_layer_tensor(p, layer, VD_T_POST_FFN_NORM_BIAS), x);
}

static struct ref *ref_new(const struct vd_model *m, const uint32_t *tokens, uint32_t n)
{
    struct ref *r = calloc(1, sizeof *r);
    assert_non_null(r);
    r->m = m;
    r->p = vd_model_program(m);
    r->n = n;
    for (uint32_t pos = 0; pos < n; pos++)
        ref_embed(r, pos, tokens[pos], r->x[0][pos]);
    for (uint32_t l = 0; l < r->p->n_layers; l++) {
        for (uint32_t pos = 0; pos < n; pos++)
            ref_qkv(r, l, pos);
        for (uint32_t pos = 0; pos < n; pos++)
            ref_rest(r, l, pos);
    }
    return r;
}

/* ------------------------- the engine ------------------------- */

/* Small models in F32 and in mixed types; two layers. */
static struct vd_test_model model_of(const char *form, enum vd_wtype mats, enum vd_wtype embd, uint64_t seed)
{
    struct vd_test_model t = vd_test_model_of(vd_test_form(form));
    t.n_layers = LAYERS;
    t.mats = mats;
    t.embd = embd;
    t.seed = seed;
    if (vd_wtype_info(mats)->block_elems == 256)
        vd_test_model_widen(&t);
    return t;
}

static void some_tokens(uint32_t *tokens, uint32_t vocab, uint64_t seed)
{
    struct vd_rng r = {seed, 0};
    for (uint32_t i = 0; i < N_MAX; i++)
        tokens[i] = (uint32_t)vd_rng_below(&r, vocab);
}

/* ------------------------- the tap ------------------------- */

struct tap_check {
    const struct ref *ref;
    _Atomic unsigned calls, wrong;
};

static bool head_equal(const uint8_t *told, const int8_t *q, const float *d, size_t n_scales, uint32_t hd)
{
    bool ok = true;
    for (size_t b = 0; b < n_scales; b++)
        ok &= vd_le32_load(told + 4 * b) == vd_f32_bits(d[b]);
    return ok && memcmp(told + 4 * n_scales, q, hd) == 0;
}

static void check_tap(void *arg, size_t row, uint32_t unit, const struct vd_graph_rows *told, unsigned thread)
{
    struct tap_check *t = arg;
    const struct vd_program *p = t->ref->p;
    uint32_t hd = p->head_dim, spread = hd / 8 + hd; /* bytes of a head of KROW, and of QROW's blocks */
    bool qkv = unit % 2;                             /* else the row after the embedding or a layer */
    bool ok = (told->q != NULL) == qkv && (told->k != NULL) == qkv && (told->v != NULL) == qkv;
    ok &= (told->x == NULL) == qkv;
    if (ok && !qkv)
        ok = memcmp(told->x, t->ref->x[unit / 2][row], p->width * sizeof(float)) == 0;
    for (uint32_t h = 0; ok && qkv && h < p->n_heads; h++) {
        const struct ref_row *r = &t->ref->rows[unit / 2][row];
        for (uint32_t b = 0; b < hd / 32; b++)
            ok &= head_equal(told->q + h * spread + 36 * b, r->q + h * hd + 32 * b, r->qd + h * hd / 32 + b,
                             1, 32);
        ok &= head_equal(told->k + h * spread, r->k + h * hd, r->kd + h * hd / 32, hd / 32, hd) &&
              head_equal(told->v + h * (4 + hd), r->v + h * hd, &r->vd[h], 1, hd);
    }
    t->calls++;
    t->wrong += !ok;
}

/* ------------------------- tests ------------------------- */

/* n tokens of a model in one call against the reference; with the tap if `tapped`. */
static void compare(struct engine *e, const struct ref *ref, const uint32_t *tokens, bool tapped)
{
    struct vd_row rows[ROWS_MAX];
    struct vd_kv *kv = open_kv(e);
    struct tap_check check = {.ref = ref};
    struct vd_tap tap = {check_tap, &check};
    for (uint32_t i = 0; i < ref->n; i++)
        rows[i] = (struct vd_row){kv, i, tokens[i], i % 2 ? 0 : VD_ROW_HIDDEN};
    assert_int_equal(vd_model_forward(e->ctx, rows, ref->n, tapped ? &tap : NULL, NULL), VD_OK);
    for (uint32_t i = 0; i < ref->n; i++)
        assert_memory_equal(vd_ctx_hidden(e->ctx, i), ref->x[ref->p->n_layers][i],
                            ref->p->width * sizeof(float));
    assert_int_equal(check.calls, tapped ? ref->n * (2 * ref->p->n_layers + 1) : 0);
    assert_int_equal(check.wrong, 0);
    vd_kv_close(kv);
}

enum { N_TABLES = 6 };

/* By every table, with 1 to 3 threads; lengths that take either shape of the pass, and end in and at chunks.
 */
static void equals_num(void **state)
{
    static const char *const names[N_TABLES] = {"scalar", "avx2", "avxvnni", "avx512", "neon", "neon-i8mm"};
    static const uint32_t lengths[] = {1, 2, 3, 31, 64, 65, 130, N_MAX};
    static const struct {
        const char *form;
        enum vd_wtype mats, embd;
    } cases[] = {{"bert", VD_WTYPE_F32, VD_WTYPE_F32},
                 {"bert-fused", VD_WTYPE_Q8_0, VD_WTYPE_Q4_0},
                 {"nomic-bert", VD_WTYPE_Q4_K, VD_WTYPE_F16},
                 {"nomic-bert", VD_WTYPE_BF16, VD_WTYPE_Q5_1}};
    uint32_t tokens[N_MAX];
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct vd_test_model t = model_of(cases[c].form, cases[c].mats, cases[c].embd, 20 + c);
        char path[VD_PATH_MAX];
        vd_test_model_file(&t, path);
        some_tokens(tokens, t.vocab, c);
        struct engine first;
        engine_open(&first, path, vd_kern_pick(NULL, NULL), 1, ROWS_MAX, 1);
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i += vd_test_step(3)) {
            struct ref *ref = ref_new(first.m, tokens, lengths[i]);
            for (unsigned k = 0; k < N_TABLES; k++) {
                const struct vd_kern *kern = vd_kern_pick(names[k], NULL);
                if (!kern || (k == 0 && lengths[i] > 64)) /* the scalar one is src/num itself, and slow */
                    continue;
                struct engine e;
                engine_open(&e, path, kern, 1 + (unsigned)(i + k) % 3, ROWS_MAX, 1);
                compare(&e, ref, tokens, (i + c) % 2);
                engine_close(&e);
            }
            free(ref);
        }
        engine_close(&first);
        unlink(path);
    }
}

/* Three sequences in one call, in calls of their own, and with decoder-like neighbours of other lengths. */
static void any_mix_any_threads(void **state)
{
    static const uint32_t n[3] = {40, 1, 200};
    struct vd_test_model t = model_of("bert", VD_WTYPE_Q4_1, VD_WTYPE_Q8_0, 7);
    uint32_t tokens[3][N_MAX];
    char path[VD_PATH_MAX];
    vd_test_model_file(&t, path);
    struct ref *ref[3] = {NULL};
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct engine e;
        struct vd_kv *kv[3];
        struct vd_row rows[ROWS_MAX];
        size_t total = 0, at = 0;
        engine_open(&e, path, vd_kern_pick(NULL, NULL), threads, ROWS_MAX, 1);
        for (unsigned s = 0; s < 3; s++) {
            some_tokens(tokens[s], t.vocab, 40 + s);
            kv[s] = open_kv(&e);
            if (threads == 1)
                ref[s] = ref_new(e.m, tokens[s], n[s]);
            for (uint32_t i = 0; i < n[s]; i++)
                rows[total++] = (struct vd_row){kv[s], i, tokens[s][i], VD_ROW_HIDDEN};
        }
        assert_int_equal(vd_model_forward(e.ctx, rows, total, NULL, NULL), VD_OK);
        for (unsigned s = 0; s < 3; s++) {
            for (uint32_t i = 0; i < n[s]; i++)
                assert_memory_equal(vd_ctx_hidden(e.ctx, at + i), ref[s]->x[LAYERS][i],
                                    t.width * sizeof(float));
            at += n[s];
            vd_kv_close(kv[s]);
        }
        engine_close(&e);
    }
    for (unsigned s = 0; s < 3; s++)
        free(ref[s]);
    unlink(path);
}

/* Every pooling, and that a later token changes what the first position has seen. */
static void vectors(void **state)
{
    static const enum vd_pooling ways[] = {VD_POOLING_MEAN, VD_POOLING_CLS, VD_POOLING_LAST};
    enum { N = 50 };
    struct vd_test_model t = model_of("nomic-bert", VD_WTYPE_F16, VD_WTYPE_F16, 9);
    uint32_t tokens[N_MAX];
    char path[VD_PATH_MAX];
    struct engine e;
    vd_test_model_file(&t, path);
    engine_open(&e, path, vd_kern_pick(NULL, NULL), 2, ROWS_MAX, 1);
    some_tokens(tokens, t.vocab, 3);
    struct ref *ref = ref_new(e.m, tokens, N);
    for (size_t w = 0; w < 3; w++) {
        struct vd_embed *embed;
        float want[WIDEST] = {0}, part;
        assert_int_equal(vd_embed_create(&embed, e.m, ways[w], NULL), VD_OK);
        for (uint32_t i = 0; i < N; i++) {
            if (ways[w] == VD_POOLING_MEAN || i == (ways[w] == VD_POOLING_CLS ? 0 : N - 1)) {
                vd_embed_add(embed, ref->x[LAYERS][i]);
                for (uint32_t k = 0; k < t.width; k++)
                    want[k] = want[k] + ref->x[LAYERS][i][k];
            }
        }
        part = vd_num_sumsq_seg(want, t.width);
        float r = vd_num_l2_scale(&part, 1);
        for (uint32_t k = 0; k < t.width; k++)
            want[k] *= r;
        assert_memory_equal(vd_embed_vector(embed), want, t.width * sizeof *want);
        vd_embed_free(embed);
    }
    tokens[N - 1] = (tokens[N - 1] + 1) % t.vocab;
    struct ref *other = ref_new(e.m, tokens, N);
    assert_true(memcmp(ref->x[LAYERS][0], other->x[LAYERS][0], t.width * sizeof(float)) != 0);
    free(ref);
    free(other);
    assert_int_equal(vd_embed_pooling(vd_model_gguf(e.m)), VD_POOLING_MEAN);
    engine_close(&e);
    unlink(path);
}

static void refusals(void **state)
{
    struct vd_test_model t = model_of("bert", VD_WTYPE_F16, VD_WTYPE_F16, 1);
    struct vd_error err;
    char path[VD_PATH_MAX];
    struct engine e;
    vd_test_model_file(&t, path);
    engine_open(&e, path, vd_kern_pick(NULL, NULL), 1, ROWS_MAX, 1);
    assert_int_equal(vd_embed_pooling(vd_model_gguf(e.m)), VD_POOLING_CLS);
    struct vd_kv *kv = open_kv(&e);
    struct vd_row row = {kv, 0, 1, 0};
    assert_int_equal(vd_model_forward(e.ctx, &row, 1, NULL, NULL), VD_OK);
    row.pos = 1; /* it would not have been seen by the one before it */
    assert_int_equal(vd_model_forward(e.ctx, &row, 1, NULL, &err), VD_EUSE);
    assert_non_null(strstr(err.msg, "fed whole"));
    assert_int_equal(vd_kv_len(kv), 1);
    vd_kv_close(kv);
    engine_close(&e);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_num),
        cmocka_unit_test(any_mix_any_threads),
        cmocka_unit_test(vectors),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests_name("encoder", tests, NULL, NULL);
}
