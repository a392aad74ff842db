/* Arithmetic version 1 as recorded numbers: tests/data/arithmetic-1.txt has inputs and results of every
 * operator of docs/spec/arithmetic.md, made once by src/num through the scalar table. Every table of this CPU
 * must give these bits, and the file must be the one whose hash the version names (vd_num.h). Whoever writes
 * another implementation can check it against the same file.
 *
 *   vd_conform_test --write FILE     makes the file; another version of the arithmetic, another file
 */
#include "vd_conform.h"

#include "vd_adjust.h"
#include "vd_automaton.h"
#include "vd_kern.h"
#include "vd_norm.h"
#include "vd_num.h"
#include "vd_rng.h"
#include "vd_rope.h"
#include "vd_route.h"
#include "vd_sample.h"
#include "vd_sha256.h"

enum { N_MAX = 1024, SCRATCH = 1 << 20, KEYS = 70, KEY_DIM = 64 };

static void *aligned(size_t n_bytes)
{
    void *p = aligned_alloc(VD_KERN_ALIGN, (n_bytes / VD_KERN_ALIGN + 1) * VD_KERN_ALIGN);
    assert_non_null(p);
    memset(p, 0, n_bytes);
    return p;
}

/* ------------------------- operators: inputs to results ------------------------- */

typedef void run_fn(const struct vd_kern *k, struct conform_case *c);

static void op_array(const struct vd_kern *k, struct conform_case *c)
{
}

/* One input row. */
static void op_exp(const struct vd_kern *k, struct conform_case *c)
{
    const struct conform_field *x = conform_in(c, "x", 'f');
    float y[N_MAX];
    k->exp(x->f, x->n, y);
    conform_out(c, "y", 'f', y, x->n);
}
static void op_gelu(const struct vd_kern *k, struct conform_case *c)
{
    const struct conform_field *x = conform_in(c, "x", 'f');
    float y[N_MAX];
    k->gelu(x->f, x->n, y);
    conform_out(c, "y", 'f', y, x->n);
}
static void op_cap(const struct vd_kern *k, struct conform_case *c)
{
    const struct conform_field *x = conform_in(c, "x", 'f');
    float y[N_MAX];
    k->cap(x->f, conform_in_f(c, "cap"), x->n, y);
    conform_out(c, "y", 'f', y, x->n);
}
static void op_scale(const struct vd_kern *k, struct conform_case *c)
{
    const struct conform_field *x = conform_in(c, "x", 'f');
    float y[N_MAX];
    k->scale(x->f, conform_in_f(c, "scale"), x->n, y);
    conform_out(c, "y", 'f', y, x->n);
}

/* Two of them. */
static void two(struct conform_case *c, void (*fn)(const float *a, const float *b, size_t n, float *y))
{
    const struct conform_field *a = conform_in(c, "a", 'f'), *b = conform_in(c, "b", 'f');
    float y[N_MAX];
    assert_int_equal(a->n, b->n);
    fn(a->f, b->f, a->n, y);
    conform_out(c, "y", 'f', y, a->n);
}
static void op_add(const struct vd_kern *k, struct conform_case *c)
{
    two(c, k->add);
}
static void op_swiglu(const struct vd_kern *k, struct conform_case *c)
{
    two(c, k->swiglu);
}
static void op_geglu(const struct vd_kern *k, struct conform_case *c)
{
    two(c, k->geglu);
}

static void op_rmsnorm(const struct vd_kern *k, struct conform_case *c)
{
    const struct conform_field *x = conform_in(c, "x", 'f');
    float y[N_MAX];
    k->rmsnorm(x->f, conform_in(c, "w", 'f')->f, x->n, conform_in_f(c, "eps"), y);
    conform_out(c, "y", 'f', y, x->n);
}
static void op_layernorm(const struct vd_kern *k, struct conform_case *c)
{
    const struct conform_field *x = conform_in(c, "x", 'f');
    float y[N_MAX];
    k->layernorm(x->f, conform_in(c, "w", 'f')->f, conform_in(c, "b", 'f')->f, x->n, conform_in_f(c, "eps"),
                 y);
    conform_out(c, "y", 'f', y, x->n);
}

static void op_quant(const struct vd_kern *k, struct conform_case *c)
{
    const struct conform_field *x = conform_in(c, "x", 'f');
    bool wide = conform_in_u(c, "block") == VD_KERN_BLOCK256;
    void *act = aligned((wide ? k->act256_bytes : k->act_bytes)(1, x->n));
    int8_t q[N_MAX];
    float d[N_MAX / VD_KERN_BLOCK];
    (wide ? k->act256_quant : k->act_quant)(x->f, x->n, x->n, 0, 1, act);
    (wide ? k->act256_read : k->act_read)(act, x->n, 0, q, d);
    conform_out(c, "q", 'b', q, x->n);
    conform_out(c, "d", 'f', d, x->n / (wide ? VD_KERN_BLOCK256 : VD_KERN_BLOCK));
    free(act);
}

/* `rows` rows of a type times `tokens` rows of x, cols of ldx each; and 48 elements of the first row
 * themselves. */
static void op_product(const struct vd_kern *k, struct conform_case *c)
{
    const struct conform_field *x = conform_in(c, "x", 'f'), *w = conform_in(c, "w", 'b');
    enum vd_wtype type = (enum vd_wtype)conform_in_u(c, "type");
    size_t rows = conform_in_u(c, "rows"), cols = conform_in_u(c, "cols"), ldx = conform_in_u(c, "ldx");
    size_t n_tok = x->n / ldx;
    struct vd_kern_mat mat = {type, rows, cols, aligned(k->mat_bytes(type, rows, cols)), false};
    struct vd_kern_rhs rhs = {.act = aligned(k->act_bytes(n_tok, cols)), .x = x->f, .ldx = ldx};
    float y[N_MAX], row[N_MAX], some[48];
    void *scratch = aligned(SCRATCH), *act256 = aligned(k->act256_bytes(n_tok, N_MAX));
    assert_true(w->n == rows * vd_wtype_row_bytes(type, cols) && k->scratch_bytes(cols, 32) <= SCRATCH);
    k->act_quant(x->f, ldx, cols, 0, n_tok, (void *)(uintptr_t)rhs.act);
    if (cols % VD_KERN_BLOCK256 == 0)
        k->act256_quant(x->f, ldx, cols, 0, n_tok, act256);
    rhs.act256 = act256;
    k->mat_pack(&mat, 0, rows, w->b);
    k->matmul(&mat, 0, rows, &rhs, 0, n_tok, y, rows, scratch);
    conform_out(c, "y", 'f', y, rows * n_tok);
    k->embed_row(type, cols, w->b, 0, row);
    for (size_t i = 0; i < 48; i++)
        some[i] = row[i * cols / 48];
    conform_out(c, "value", 'f', some, 48);
    free(mat.data), free((void *)(uintptr_t)rhs.act), free(act256), free(scratch);
}

/* ---- rotation ---- */

static void op_steps(const struct vd_kern *k, struct conform_case *c)
{
    const struct conform_field *factors = conform_in(c, "factors", 'f');
    struct vd_rope_rule rule = {.freq_base = conform_in_f(c, "base"),
                                .n_dims = (uint32_t)conform_in_u(c, "n"),
                                .stretch = conform_in_f(c, "stretch"),
                                .factors = factors->n ? factors->f : NULL,
                                .yarn_ctx = (uint32_t)conform_in_u(c, "yarn_ctx")};
    uint64_t steps[N_MAX / 2];
    assert_true(vd_num_rope_steps_by(&rule, steps));
    conform_out(c, "steps", 'u', steps, rule.n_dims / 2);
}

static void op_rope(const struct vd_kern *k, struct conform_case *c)
{
    const struct conform_field *x = conform_in(c, "x", 'f'), *steps = conform_in(c, "steps", 'u');
    float cs[N_MAX], y[N_MAX];
    size_t hd = conform_in_u(c, "head_dim");
    k->rope_table(conform_in_u(c, "position"), steps->u, steps->n, cs);
    k->scale(cs, conform_in_f(c, "scale"), 2 * steps->n, cs);
    conform_out(c, "cos_sin", 'f', cs, 2 * steps->n);
    memcpy(y, x->f, x->n * sizeof *y);
    k->rope(y, x->n / hd, hd, cs, steps->n, conform_in_u(c, "halves"));
    conform_out(c, "y", 'f', y, x->n);
}

/* ---- attention ---- */

/* Keys and values of one kv head, and queries that see [begin, end) each. */
static void op_attention(const struct vd_kern *k, struct conform_case *c)
{
    enum { CHUNKS = 3, QUERIES = 8 };
    const struct conform_field *key = conform_in(c, "k", 'f'), *value = conform_in(c, "v", 'f');
    const struct conform_field *q = conform_in(c, "q", 'f'), *begin = conform_in(c, "begin", 'u');
    const struct conform_field *end = conform_in(c, "end", 'u');
    size_t hd = conform_in_u(c, "head_dim"), n_keys = key->n / hd, n = q->n / hd;
    struct vd_kern_score score = {conform_in_f(c, "scale"), conform_in_f(c, "cap")};
    struct vd_kern_query rows[QUERIES];
    size_t ld = CHUNKS * vd_kern_rec_floats(hd);
    void *page[CHUNKS], *scratch = aligned(SCRATCH);
    float y[N_MAX], *rec = aligned(QUERIES * ld * sizeof(float)), kd[N_MAX / 32], vd;
    int8_t kq[N_MAX], vq[N_MAX];
    assert_true(n_keys <= CHUNKS * VD_KERN_CHUNK && n <= QUERIES && k->scratch_bytes(32, hd) <= SCRATCH);
    for (size_t i = 0; i < CHUNKS; i++)
        page[i] = aligned(k->kv_bytes(hd));
    for (size_t i = 0; i < n_keys; i++)
        k->kv_put(page[i / VD_KERN_CHUNK], hd, i % VD_KERN_CHUNK, key->f + i * hd, value->f + i * hd);
    k->kv_read(page[0], hd, 1, kq, kd, vq, &vd);
    conform_out(c, "k1", 'b', kq, hd);
    conform_out(c, "k1_scale", 'f', kd, hd / 32);
    conform_out(c, "v1", 'b', vq, hd);
    conform_out(c, "v1_scale", 'f', &vd, 1);
    struct vd_kern_kv kv = {(const void *const *)page, 0, hd};
    for (size_t i = 0; i < n; i++)
        rows[i] = (struct vd_kern_query){q->f + i * hd, y + i * hd, begin->u[i], end->u[i]};
    k->attn(&kv, score, rows, n, scratch);
    conform_out(c, "y", 'f', y, n * hd);
    memset(y, 0, sizeof y);
    k->attn_part(&kv, score, rows, n, 0, 1, rec, ld, scratch); /* the other way to the same */
    k->attn_part(&kv, score, rows, n, 1, CHUNKS, rec, ld, scratch);
    k->attn_merge(hd, rows, n, rec, ld);
    if (!c->writing)
        conform_out(c, "y", 'f', y, n * hd);
    for (size_t i = 0; i < CHUNKS; i++)
        free(page[i]);
    free(scratch), free(rec);
}

/* ---- sampling, routing, control, vectors ---- */

static void op_weights(const struct vd_kern *k, struct conform_case *c)
{
    const struct conform_field *x = conform_in(c, "x", 'f');
    struct vd_sample_max max;
    uint64_t w[N_MAX];
    k->sample_max(x->f, 0, x->n, &max);
    uint64_t said[2] = {max.id, max.bad};
    conform_out(c, "max", 'f', &max.x, 1);
    conform_out(c, "max_id_bad", 'u', said, 2);
    if (max.bad)
        return;
    k->sample_weights(x->f, x->n, vd_num_sample_temp((uint32_t)conform_in_u(c, "temp")), max.x, w);
    conform_out(c, "weights", 'u', w, x->n);
}

/* Tokens at eight values of R64. */
static void op_sample(const struct vd_kern *k, struct conform_case *c)
{
    const struct conform_field *x = conform_in(c, "x", 'f'), *r = conform_in(c, "r64", 'u');
    struct vd_sampling p = {.temp_micro = (uint32_t)conform_in_u(c, "temp"),
                            .top_k = (uint32_t)conform_in_u(c, "top_k"),
                            .top_p_micro = (uint32_t)conform_in_u(c, "top_p"),
                            .min_p_micro = (uint32_t)conform_in_u(c, "min_p")};
    uint64_t w[N_MAX], token[8];
    assert_true(r->n <= 8);
    for (size_t i = 0; i < r->n; i++)
        token[i] = vd_num_sample(x->f, (uint32_t)x->n, &p, r->u[i], w);
    conform_out(c, "token", 'u', token, r->n);
}

static void op_route(const struct vd_kern *k, struct conform_case *c)
{
    const struct conform_field *x = conform_in(c, "x", 'f'), *y = conform_in(c, "y", 'f');
    uint32_t expert[VD_ROUTE_USED_MAX], used = (uint32_t)y->n;
    uint64_t chosen[VD_ROUTE_USED_MAX];
    float weight[VD_ROUTE_USED_MAX];
    vd_num_route(x->f, (uint32_t)x->n, used, conform_in_u(c, "norm"), expert, weight);
    for (uint32_t i = 0; i < used; i++)
        chosen[i] = expert[i];
    float mix = vd_num_mix(weight, y->f, used);
    conform_out(c, "expert", 'u', chosen, used);
    conform_out(c, "weight", 'f', weight, used);
    conform_out(c, "mix", 'f', &mix, 1);
}

/* All ids' logits after penalties and bias at the last of the given tokens. */
static void op_adjust(const struct vd_kern *k, struct conform_case *c)
{
    const struct conform_field *x = conform_in(c, "x", 'f'), *t = conform_in(c, "tokens", 'u');
    const struct conform_field *table = conform_in(c, "bias", 'b');
    struct vd_sampling p = {.repeat_micro = (uint32_t)conform_in_u(c, "repeat"),
                            .repeat_last_n = (uint32_t)conform_in_u(c, "last_n"),
                            .presence_micro = (int32_t)(uint32_t)conform_in_u(c, "presence"),
                            .frequency_micro = (int32_t)(uint32_t)conform_in_u(c, "frequency")};
    uint32_t tokens[N_MAX], n_prompt = (uint32_t)conform_in_u(c, "n_prompt"), step = (uint32_t)t->n - 1;
    uint32_t begin = vd_num_penalty_begin(&p, n_prompt, step);
    float y[N_MAX];
    for (size_t i = 0; i < t->n; i++)
        tokens[i] = (uint32_t)t->u[i];
    for (uint32_t id = 0; id < x->n; id++) {
        y[id] =
            vd_num_penalty(&p, vd_num_penalty_seen(&p, n_prompt, begin, step, tokens + begin, id), x->f[id]);
        y[id] = vd_bias_apply((struct vd_bytes){table->b, table->n}, id, y[id]);
    }
    conform_out(c, "y", 'f', y, x->n);
}

/* State records of an automaton after each byte of a text; all bits set from the byte on that cannot follow.
 */
static void op_mask(const struct vd_kern *k, struct conform_case *c)
{
    const struct conform_field *mask = conform_in(c, "mask", 'b'), *text = conform_in(c, "text", 'b');
    struct vd_automaton a;
    struct vd_automaton_state s = VD_AUTOMATON_START;
    uint8_t states[16][VD_AUTOMATON_STATE_BYTES], ends[16] = {0};
    bool alive = true;
    assert_true(text->n <= 16 && vd_automaton_open(&a, (struct vd_bytes){mask->b, mask->n}));
    for (size_t i = 0; i < text->n; i++) {
        alive = alive && vd_automaton_step(&a, &s, text->b[i]);
        memset(states[i], 0xFF, sizeof states[i]);
        if (alive)
            vd_automaton_state_store(states[i], &s);
        ends[i] = alive && vd_automaton_may_end(&a, &s);
    }
    conform_out(c, "states", 'b', states, text->n * sizeof states[0]);
    conform_out(c, "may_end", 'b', ends, text->n);
}

static void op_vector(const struct vd_kern *k, struct conform_case *c)
{
    const struct conform_field *rows = conform_in(c, "rows", 'f');
    size_t d = conform_in_u(c, "width");
    float sum[N_MAX], y[N_MAX], part[N_MAX / VD_SEG_ELEMS];
    uint32_t n_seg = vd_num_segs((uint32_t)d);
    memcpy(sum, rows->f, d * sizeof *sum);
    for (size_t row = 1; row < rows->n / d; row++)
        k->add(sum, rows->f + row * d, d, sum);
    for (uint32_t s = 0; s < n_seg; s++)
        part[s] = vd_num_sumsq_seg(
            sum + s * VD_SEG_ELEMS,
            (uint32_t)(d - s * VD_SEG_ELEMS < VD_SEG_ELEMS ? d - s * VD_SEG_ELEMS : VD_SEG_ELEMS));
    k->scale(sum, vd_num_l2_scale(part, n_seg), d, y);
    conform_out(c, "y", 'f', y, d);
}

static const struct {
    const char *name;
    run_fn *run;
} ops[] = {
    {"array", op_array},         {"exp", op_exp},
    {"gelu", op_gelu},           {"cap", op_cap},
    {"scale", op_scale},         {"add", op_add},
    {"swiglu", op_swiglu},       {"geglu", op_geglu},
    {"rmsnorm", op_rmsnorm},     {"layernorm", op_layernorm},
    {"quant", op_quant},         {"product", op_product},
    {"steps", op_steps},         {"rope", op_rope},
    {"attention", op_attention}, {"weights", op_weights},
    {"sample", op_sample},       {"route", op_route},
    {"adjust", op_adjust},       {"mask", op_mask},
    {"vector", op_vector},
};
enum { N_OPS = sizeof ops / sizeof *ops };

static size_t op_of(const struct conform_case *c)
{
    for (size_t i = 0; i < N_OPS; i++)
        if (strcmp(c->op, ops[i].name) == 0)
            return i;
    fail_msg("no operator is called %s", c->op);
    return 0;
}

/* ------------------------- making the file ------------------------- */

/* One file being written: its arrays, the case in the making, and where numbers come from. */
struct maker {
    FILE *out;
    struct conform_case arrays, c;
    struct vd_rng rng;
};

static float uniform(struct maker *m)
{
    return (float)((int32_t)(vd_rng_next(&m->rng) & 0xFFFFFF) - 0x800000) * 0x1p-23f;
}

/* Of many magnitudes: around 2^at, over `binades` of them. */
static float spread_out(struct maker *m, int at, uint32_t binades)
{
    return ldexpf(uniform(m), at + (int)vd_rng_below(&m->rng, binades));
}

static struct conform_case *begin(struct maker *m, const char *op)
{
    m->c = (struct conform_case){.arrays = &m->arrays, .writing = true};
    snprintf(m->c.op, sizeof m->c.op, "%s", op);
    return &m->c;
}

static void end(struct maker *m)
{
    ops[op_of(&m->c)].run(vd_kern_pick("scalar", NULL), &m->c);
    conform_write(m->out, &m->c);
    conform_clear(&m->c);
}

/* A field of n floats around 2^at. */
static float *floats(struct maker *m, const char *name, size_t n, int at, uint32_t binades)
{
    struct conform_field *f = conform_add(&m->c, name, 'f', NULL, n);
    for (size_t i = 0; i < n; i++)
        f->f[i] = spread_out(m, at, binades);
    return f->f;
}

static const uint32_t special_bits[] = {0,          0x80000000, 1,          0x80000001, 0x007FFFFF,
                                        0x00800000, 0x3F800000, 0xBF800000, 0x42AE0000, 0xC2AE0000,
                                        0x42AE0001, 0xC2AE0001, 0x42B00000, 0x42B00001, 0x7F7FFFFF,
                                        0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000};
enum { N_SPECIAL = sizeof special_bits / sizeof *special_bits };

static void specials(float *x)
{
    for (size_t i = 0; i < N_SPECIAL; i++)
        x[i] = vd_f32_from_bits(special_bits[i]);
}

/* Found by search: arguments of exp at which the last bit of each of its constants shows. */
static const uint32_t telling_exp[] = {0x3EB17219, 0xC1E61FF6, 0x42374F62, 0xC1D450AD, 0xBE8F41E4,
                                       0x3E98359E, 0xBEAE3E08, 0x3E48FD7B, 0xBEB0EB20, 0xBE6F1480,
                                       0xBEABB386, 0xBEACBBA8, 0x3EB09CDA, 0xBEACDD53};
enum { N_TELLING_EXP = sizeof telling_exp / sizeof *telling_exp };

/* The same of the phases of sine and cosine: their upper halves. */
static const uint32_t telling_phase[] = {0x6954C01B, 0xE1B6665A, 0x0914A2E6, 0x25F7A39D, 0xEC43CDE6,
                                         0x2B0A206F, 0x9E98C527, 0x27587CEA, 0x9F1FE7B8, 0xE0604B72,
                                         0xE63B63B6, 0x15015F06, 0x601BE5B4, 0x5DD7C550, 0x1BD24F62,
                                         0xE019DFBB, 0x173657C7, 0x6125054E, 0x5BCDB1E5};
enum { N_TELLING_PHASE = sizeof telling_phase / sizeof *telling_phase };

static void make_elementwise(struct maker *m)
{
    begin(m, "exp");
    float *x = floats(m, "x", 320, -6, 14);
    specials(x);
    for (size_t i = N_SPECIAL; i < 120; i++)
        x[i] = 90 * uniform(m);
    for (size_t i = 0; i < N_TELLING_EXP; i++)
        x[120 + i] = vd_f32_from_bits(telling_exp[i]);
    end(m);
    begin(m, "gelu");
    specials(floats(m, "x", 160, -8, 14));
    end(m);
    begin(m, "cap");
    specials(floats(m, "x", 160, -3, 10));
    conform_add_f(&m->c, "cap", 30.0f);
    end(m);
    begin(m, "scale");
    specials(floats(m, "x", 48, -10, 20));
    conform_add_f(&m->c, "scale", 25.298f);
    end(m);
    static const char *const pairs[] = {"add", "swiglu", "geglu"};
    for (int i = 0; i < 3; i++) {
        begin(m, pairs[i]);
        specials(floats(m, "a", 100, -8, 14));
        floats(m, "b", 100, -8, 14);
        end(m);
    }
}

/* Many, since one bit of a sum shows in few of the roots. The weights are of the array. */
static void make_norms(struct maker *m)
{
    static const uint32_t some[] = {1, 31, 64, 544};
    for (uint32_t i = 0; i < 28; i++) {
        bool layer = i % 2;
        uint32_t n = i < 8 ? some[i / 2] : 64 + 2 * i;
        begin(m, layer ? "layernorm" : "rmsnorm");
        float *x = floats(m, "x", n, -2, 4);
        for (uint32_t k = 0; layer && k < n; k++)
            x[k] = x[k] + 3.7f;
        conform_add_ref(&m->c, "w", "activations");
        if (layer)
            floats(m, "b", n, -9, 4);
        conform_add_f(&m->c, "eps", layer ? 1e-12f : 1e-5f);
        end(m);
    }
}

/* A block whose scale before rounding is `scale`, or (above) the next number, and whose other elements lie
 * between two integers. */
static void between(float *x, uint32_t block, float scale, bool above)
{
    for (uint32_t i = 0; i < block; i++)
        x[i] = scale * ((float)(i % 32) + 95.5f);
    x[block / 2] = above ? nextafterf(127.0f * scale, INFINITY) : 127.0f * scale;
}

/* Blocks of ordinary values; below and around the smallest scale; a NaN; an infinity; zeros; the largest
 * ones; where rounding of the scale or of an element is a tie. */
static void make_quantiser(struct maker *m)
{
    for (uint32_t block = 32; block <= 256; block *= 8) {
        begin(m, "quant");
        uint32_t n = block == 32 ? 28 : 4;
        float *x = floats(m, "x", (size_t)n * block, -12, 20);
        for (uint32_t i = 0; i < block; i++)
            x[block + i] = ldexpf(x[block + i], -100);
        x[2 * block + 7] = NAN;
        if (block == 256) {
            between(x + 3 * block, block, 0x1.802p-3f, false);
            conform_add_u(&m->c, "block", block);
            end(m);
            continue;
        }
        x[3 * block + 5] = -INFINITY;
        memset(x + 4 * block, 0, block * sizeof *x);
        for (uint32_t i = 0; i < block; i++)
            x[5 * block + i] = ldexpf(uniform(m), 127);
        for (uint32_t i = 6; i < 14; i++) /* ties of the scale, to even below and above */
            between(x + i * block, block, 1.0f + (float)(2 * (i - 6) + 1) * 0x1p-11f, i >= 10);
        for (uint32_t i = 14; i < 17; i++)
            between(x + i * block, block,
                    ldexpf(1.0f, i == 14 ? -100 : (int)i - 116) * (i == 16 ? 1.5f : 1.0f), false);
        for (uint32_t i = 17; i < 28; i++)
            between(x + i * block, block, 2.0f - (float)(i - 16) * 0x1p-10f, false);
        conform_add_u(&m->c, "block", block);
        end(m);
    }
}

static const enum vd_wtype types[] = {VD_WTYPE_F32,  VD_WTYPE_F16,    VD_WTYPE_BF16,   VD_WTYPE_Q4_0,
                                      VD_WTYPE_Q4_1, VD_WTYPE_Q5_0,   VD_WTYPE_Q5_1,   VD_WTYPE_Q8_0,
                                      VD_WTYPE_Q2_K, VD_WTYPE_Q3_K,   VD_WTYPE_Q4_K,   VD_WTYPE_Q5_K,
                                      VD_WTYPE_Q6_K, VD_WTYPE_IQ4_NL, VD_WTYPE_IQ4_XS, VD_WTYPE_MXFP4};
enum { N_TYPES = sizeof types / sizeof *types, WIDE = 768, NARROW = 544, TOKENS = 3 };

/* Random codes, scales and mins of ordinary size, some subnormal; float weights around 1. */
static void random_row(struct maker *m, enum vd_wtype type, size_t cols, uint8_t *row)
{
    const struct vd_wtype_info *info = vd_wtype_info(type);
    for (size_t b = 0; b < cols / info->block_elems; b++, row += info->block_bytes) {
        for (size_t i = 0; i < info->block_bytes; i++)
            row[i] = (uint8_t)vd_rng_next(&m->rng);
        uint16_t tiny = b == 3 ? 0 : 0x1800;
        if (type == VD_WTYPE_F32)
            vd_le32_store(row, vd_f32_bits(spread_out(m, -6, 7)));
        else if (type == VD_WTYPE_BF16)
            vd_le16_store(row, (uint16_t)(vd_f32_bits(spread_out(m, -6, 7)) >> 16));
        else if (type == VD_WTYPE_MXFP4)
            row[0] = (uint8_t)(b == 3 ? 1 : 112 + row[0] % 16);
        else
            vd_le16_store(row + info->d_at, (uint16_t)(tiny + vd_rng_below(&m->rng, 0x1000)));
        if (info->has_min && type != VD_WTYPE_MXFP4)
            vd_le16_store(row + info->min_at, (uint16_t)(tiny + vd_rng_below(&m->rng, 0x1000)));
    }
}

static void make_products(struct maker *m)
{
    begin(m, "array");
    float *x = floats(m, "activations", TOKENS * WIDE, -5, 8);
    x[2 * WIDE + 70] = NAN; /* the last token: a NaN, and an infinity */
    x[2 * WIDE + 600] = INFINITY;
    floats(m, "values", KEYS * KEY_DIM, -3, 5);
    x = floats(m, "keys", KEYS * KEY_DIM, -2, 4);
    for (size_t i = 0; i < KEYS; i++)
        x[i * KEY_DIM + 5] += 12.0f; /* as biases make them */
    for (size_t i = VD_KERN_CHUNK * KEY_DIM; i < KEYS * KEY_DIM; i++)
        x[i] *= 1.75f; /* the second chunk often has the larger scores */
    conform_write(m->out, &m->c);
    m->arrays = m->c;
    for (size_t i = 0; i < N_TYPES; i++) {
        size_t rows = vd_wtype_info(types[i])->block_elems == 256 ? 4 : 2;
        size_t cols = vd_wtype_info(types[i])->block_elems == 256 ? WIDE : NARROW;
        size_t row_bytes = vd_wtype_row_bytes(types[i], cols);
        begin(m, "product");
        conform_add_u(&m->c, "type", types[i]);
        conform_add_u(&m->c, "rows", rows);
        conform_add_u(&m->c, "cols", cols);
        conform_add_u(&m->c, "ldx", WIDE);
        conform_add_ref(&m->c, "x", "activations");
        struct conform_field *w = conform_add(&m->c, "w", 'b', NULL, rows * row_bytes);
        for (size_t row = 0; row < rows; row++)
            random_row(m, types[i], cols, w->b + row * row_bytes);
        end(m);
    }
}

static void make_rotation(struct maker *m)
{
    static const struct {
        float base, stretch;
        uint32_t n, yarn_ctx, n_factors;
    } rules[] = {{10000.0f, 1.0f, 64, 0, 0},
                 {500000.0f, 4.0f, 32, 0, 0},
                 {10000.0f, 4.0f, 64, 4096, 0},
                 {1000.0f, 1.0f, 48, 0, 24}};
    for (size_t i = 0; i < 4; i++) {
        begin(m, "steps");
        conform_add_f(&m->c, "base", rules[i].base);
        conform_add_u(&m->c, "n", rules[i].n);
        conform_add_f(&m->c, "stretch", rules[i].stretch);
        conform_add_u(&m->c, "yarn_ctx", rules[i].yarn_ctx);
        float *factor = floats(m, "factors", rules[i].n_factors, 0, 1);
        for (uint32_t f = 0; f < rules[i].n_factors; f++)
            factor[f] = 4.0f + 3.0f * factor[f];
        end(m);
    }
    for (uint32_t i = 0; i < 9; i++) {
        begin(m, "rope");
        floats(m, "x", 128, -4, 8);
        conform_add_u(&m->c, "head_dim", 64);
        conform_add_u(&m->c, "position", i == 8 ? 1 : i < 4 ? i * 1000 + i : vd_rng_next(&m->rng) >> 44);
        conform_add_f(&m->c, "scale", i % 4 == 3 ? 1.19f : 1.0f);
        conform_add_u(&m->c, "halves", i % 2);
        struct conform_field *steps = conform_add(&m->c, "steps", 'u', NULL,
                                                  i == 8  ? N_TELLING_PHASE
                                                  : i % 3 ? 32
                                                          : 13);
        for (size_t k = 0; k < steps->n; k++)
            steps->u[k] = i == 8 ? (uint64_t)telling_phase[k] << 32 : vd_rng_next(&m->rng) >> (k + 1);
        end(m);
    }
}

/* Queries that see parts of `n` keys: all of the array's, or a few with a NaN and an infinity among them. */
static void make_attention_of(struct maker *m, size_t hd, size_t n, float cap)
{
    static const uint64_t begins[8] = {0, 0, 3, 64, 69, 10, 20, 30},
                          ends[8] = {70, 1, 65, 70, 70, 70, 70, 68};
    bool few = n < KEYS;
    begin(m, "attention");
    if (few) {
        floats(m, "k", n * hd, -2, 4)[hd + 3] = NAN;
        floats(m, "v", n * hd, -3, 5)[2 * hd + 1] = INFINITY;
    } else {
        conform_add_ref(&m->c, "k", "keys");
        conform_add_ref(&m->c, "v", "values");
    }
    float *q = floats(m, "q", 8 * hd, -2, 4);
    if (few)
        memset(q + 4 * hd, 0, hd * sizeof *q);
    conform_add_u(&m->c, "head_dim", hd);
    conform_add_f(&m->c, "scale", 1.0f / sqrtf((float)hd));
    conform_add_f(&m->c, "cap", cap);
    struct conform_field *b = conform_add(&m->c, "begin", 'u', NULL, 8),
                         *e = conform_add(&m->c, "end", 'u', NULL, 8);
    for (size_t i = 0; i < 8; i++) {
        e->u[i] = few ? n : ends[i];
        b->u[i] = few ? i % n : begins[i];
    }
    end(m);
}

static void make_sampling(struct maker *m)
{
    for (int i = 0; i < 3; i++) {
        begin(m, "weights");
        float *x = floats(m, "x", 60, 0, 5);
        if (i == 2)
            x[50] = -INFINITY;
        conform_add_u(&m->c, "temp", i ? 730000 : 1000000);
        end(m);
    }
    static const uint32_t how[][4] = {{0, 0, 1000000, 0},           {800000, 0, 1000000, 0},
                                      {800000, 7, 1000000, 0},      {1100000, 0, 900000, 0},
                                      {800000, 0, 1000000, 100000}, {600000, 20, 700000, 50000},
                                      {2000000, 5, 999999, 1}};
    for (size_t i = 0; i < sizeof how / sizeof *how; i++) {
        begin(m, "sample");
        float *x = floats(m, "x", 100, 1, 2);
        for (int k = 0; k < 40; k++)
            x[k] = (float)(k % 5); /* ties */
        static const char *const names[4] = {"temp", "top_k", "top_p", "min_p"};
        for (int k = 0; k < 4; k++)
            conform_add_u(&m->c, names[k], how[i][k]);
        uint64_t r[8];
        for (int k = 0; k < 8; k++)
            r[k] = vd_rng_next(&m->rng);
        r[0] = 0, r[1] = UINT64_MAX;
        conform_add(&m->c, "r64", 'u', r, 8);
        end(m);
    }
    for (uint32_t i = 0; i < 12; i++) {
        begin(m, "route");
        float *x = floats(m, "x", 20 + 3 * i, 0, 3);
        x[7] = x[3];
        if (i == 3)
            x[11] = NAN;
        floats(m, "y", i ? 4 : 1, -1, 3);
        conform_add_u(&m->c, "norm", i % 2);
        end(m);
    }
}

static void make_control(struct maker *m)
{
    static const int32_t how[][4] = {
        {1100007, 16, 0, 0}, {0, 0, 400000, -300000}, {777778, 3, -2000000, 700000}, {1234567, 40, 0, 0}};
    for (size_t i = 0; i < sizeof how / sizeof *how; i++) {
        begin(m, "adjust");
        floats(m, "x", 24, 0, 4);
        uint64_t tokens[40];
        for (int k = 0; k < 40; k++)
            tokens[k] = vd_rng_below(&m->rng, 12);
        conform_add(&m->c, "tokens", 'u', tokens, 40);
        conform_add_u(&m->c, "n_prompt", 21);
        conform_add_u(&m->c, "repeat", (uint32_t)how[i][0]);
        conform_add_u(&m->c, "last_n", (uint32_t)how[i][1]);
        conform_add_u(&m->c, "presence", (uint32_t)how[i][2]);
        conform_add_u(&m->c, "frequency", (uint32_t)how[i][3]);
        uint8_t bias[16];
        vd_le32_store(bias, 2);
        vd_le32_store(bias + 4, (uint32_t)-1234567);
        vd_le32_store(bias + 8, 20);
        vd_le32_store(bias + 12, 99999999);
        conform_add(&m->c, "bias", 'b', bias, 16);
        end(m);
    }
    /* Balanced brackets around letters: state 0 is an end and pushes itself by way of state 1. */
    static const uint8_t edges[][6] = {{'(', '(', 1, 0, 2, 0},
                                       {'a', 'z', 0, 0, 0xFF, 0xFF},
                                       {'(', '(', 0, 0, 0xFF, 0xFF},
                                       {')', ')', 0, 0, 0xFF, 0xFF}};
    static const char *const texts[] = {"ab(c(d))e", "(a))", "x!y"};
    uint8_t mask[VD_MASK_HEAD_BYTES + 6 + sizeof edges] = {0};
    static const uint16_t first[3] = {0 | 0x8000, 2, 3};
    vd_le16_store(mask + VD_MASK_ROOT_BYTES, 3);
    for (int s = 0; s < 3; s++)
        vd_le16_store(mask + VD_MASK_HEAD_BYTES + 2 * s, first[s]);
    memcpy(mask + VD_MASK_HEAD_BYTES + 6, edges, sizeof edges);
    for (size_t i = 0; i < 3; i++) {
        begin(m, "mask");
        conform_add(&m->c, "mask", 'b', mask, sizeof mask);
        conform_add(&m->c, "text", 'b', texts[i], strlen(texts[i]));
        end(m);
    }
    for (uint32_t i = 0; i < 3; i++) {
        begin(m, "vector");
        float *rows = floats(m, "rows", i == 1 ? 544 : 3 * 64, -3, 5);
        if (i == 2) /* no length: the result is 0 */
            memset(rows, 0, 3 * 64 * sizeof *rows);
        conform_add_u(&m->c, "width", i == 1 ? 544 : 64);
        end(m);
    }
}

static int write_file(const char *path)
{
    struct maker m = {.out = fopen(path, "w"), .rng = {1, 0}};
    if (!m.out)
        return 1;
    fputs("# Conformance vectors of canonical arithmetic, version 1 (docs/spec/arithmetic.md, section 16): "
          "inputs and\n"
          "# results of every operator. Made by vd_conform_test --write; the format is that of its "
          "vd_conform.h.\n\n",
          m.out);
    make_elementwise(&m);
    make_products(&m);
    make_norms(&m);
    make_quantiser(&m);
    make_rotation(&m);
    for (int i = 0; i < 4; i++)
        make_attention_of(&m, KEY_DIM, KEYS, i == 3 ? 30.0f : 0.0f);
    make_attention_of(&m, 32, 5, 0.0f);
    make_sampling(&m);
    make_control(&m);
    return fclose(m.out) != 0;
}

/* ------------------------- checking ------------------------- */

static const char path_of_vectors[] = VD_SOURCE_DIR "/tests/data/arithmetic-1.txt";

/* Every case of the file by one table. */
static void check_table(const struct vd_kern *k)
{
    static char line[CONFORM_LINE];
    FILE *in = fopen(path_of_vectors, "r");
    struct conform_case arrays = {.n_fields = 0}, c = {.arrays = &arrays, .table = k->name};
    size_t n_of[N_OPS] = {0};
    if (!in)
        fail_msg("%s is missing", path_of_vectors);
    while (conform_read(in, &c, line)) {
        size_t op = op_of(&c);
        n_of[op]++;
        ops[op].run(k, &c);
        if (op == 0) {
            conform_clear(&arrays);
            arrays = c;
            c.n_fields = 0;
        }
        conform_clear(&c);
    }
    for (size_t i = 0; i < N_OPS; i++)
        if (n_of[i] == 0)
            fail_msg("the file has no case of %s", ops[i].name);
    conform_clear(&arrays);
    fclose(in);
}

static void every_table(void **state)
{
    static const char *const names[] = {"scalar", "avx2", "avxvnni", "avx512", "neon", "neon-i8mm"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const struct vd_kern *k = vd_kern_pick(names[i], NULL);
        if (k)
            check_table(k);
    }
}

/* The version's name for its vectors. */
static void the_file_is_version_1(void **state)
{
    FILE *in = fopen(path_of_vectors, "rb");
    struct vd_sha256 s;
    struct vd_hash h;
    uint8_t buf[4096];
    char hex[2 * VD_HASH_BYTES + 1] = "";
    size_t n;
    assert_non_null(in);
    vd_sha256_init(&s);
    while ((n = fread(buf, 1, sizeof buf, in)) > 0)
        vd_sha256_update(&s, buf, n);
    fclose(in);
    vd_sha256_final(&s, &h);
    for (size_t i = 0; i < VD_HASH_BYTES; i++)
        snprintf(hex + 2 * i, 3, "%02x", h.b[i]);
    assert_int_equal(VD_ARITH_VERSION, 1);
    assert_string_equal(hex, VD_ARITH_VECTORS_SHA256);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--write") == 0)
        return write_file(argv[2]);
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_table),
        cmocka_unit_test(the_file_is_version_1),
    };
    return cmocka_run_group_tests_name("conform", tests, NULL, NULL);
}
