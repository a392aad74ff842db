/* The freestanding referee beside the normal one, in one process: the same functions are called in both and
 * must give the same bytes. */
#include "vd_bytes.h"
#include "vd_merkle.h"
#include "vd_num.h"
#include "vd_rng.h"
#include "vd_sha256.h"
#include "vd_tile.h"

#include <dlfcn.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static void *library;

static int open_library(void **state)
{
    library = dlopen(VD_REFEREE_FREE, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        print_error("%s\n", dlerror());
    return library ? 0 : -1;
}

static int close_library(void **state)
{
    return dlclose(library);
}

/* ISO C has no cast from an object pointer to a function pointer; POSIX says that the bytes are the same. */
static void find(const char *name, void *function_pointer)
{
    void *p = dlsym(library, name);
    assert_non_null(p);
    memcpy(function_pointer, &p, sizeof p);
}

/* ---- arithmetic ---- */

static void expect_same(float a, float b)
{
    if (isnan(a) && isnan(b))
        return;
    assert_int_equal(vd_f32_bits(a), vd_f32_bits(b));
}

/* Bits that often lie at a border: few bits set, exponents near each other or at the ends. */
static float odd_float(struct vd_rng *r)
{
    uint32_t u = (uint32_t)vd_rng_next(r);
    switch (vd_rng_below(r, 4)) {
    case 0:
        return vd_f32_from_bits(u);
    case 1:
        return vd_f32_from_bits((u & 0x80000000) | (120 + u % 16) << 23 | (u >> 8 & 0x7FFFFF));
    case 2:
        return vd_f32_from_bits((u & 0xFF800000) | 1u << (u & 31) % 23);
    default:
        return vd_f32_from_bits((u & 0x80000000) | (u & 0xFFFFFF) >> u % 24);
    }
}

static void fma_equals_the_librarys(void **state)
{
    float (*free_fmaf)(float, float, float);
    find("fmaf", &free_fmaf);
    struct vd_rng r = {.seed = 1};
    for (int i = 0; i < 4000000; i++) {
        float a = odd_float(&r), b = odd_float(&r), c = odd_float(&r);
        if (i % 3 == 0) /* cancel, or nearly so */
            c = vd_f32_from_bits(vd_f32_bits(-(a * b)) + (uint32_t)vd_rng_below(&r, 3) - 1);
        expect_same(free_fmaf(a, b, c), fmaf(a, b, c));
    }
}

static void sqrt_equals_the_librarys(void **state)
{
    float (*free_sqrtf)(float);
    find("sqrtf", &free_sqrtf);
    for (uint64_t u = 0; u <= UINT32_MAX; u += 1021)
        expect_same(free_sqrtf(vd_f32_from_bits((uint32_t)u)), sqrtf(vd_f32_from_bits((uint32_t)u)));
    for (uint32_t u = 0x3F800000; u < 0x40800000; u += 3) /* two octaves: both parities of the exponent */
        expect_same(free_sqrtf(vd_f32_from_bits(u)), sqrtf(vd_f32_from_bits(u)));
}

static void rint_equals_the_librarys(void **state)
{
    float (*free_rintf)(float);
    find("rintf", &free_rintf);
    for (uint64_t u = 0; u <= UINT32_MAX; u += 509)
        expect_same(free_rintf(vd_f32_from_bits((uint32_t)u)), rintf(vd_f32_from_bits((uint32_t)u)));
    for (int i = -4000; i <= 4000; i++)
        expect_same(free_rintf((float)i * 0.25f), rintf((float)i * 0.25f));
}

static void sha256_equals_openssls(void **state)
{
    struct vd_hash (*free_of)(const void *, size_t);
    struct vd_hash (*free_hmac)(const void *, size_t, const void *, size_t);
    uint8_t bytes[4096];
    struct vd_rng r = {.seed = 2};
    find("vd_sha256_of", &free_of);
    find("vd_hmac_sha256", &free_hmac);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)vd_rng_next(&r);
    for (size_t n = 0; n <= sizeof bytes; n += n < 300 ? 1 : 97) {
        struct vd_hash a = free_of(bytes, n), b = vd_sha256_of(bytes, n);
        assert_memory_equal(a.b, b.b, sizeof a.b);
        a = free_hmac(bytes, n / 3, bytes, n);
        b = vd_hmac_sha256(bytes, n / 3, bytes, n);
        assert_memory_equal(a.b, b.b, sizeof a.b);
    }
}

/* ---- tiles ---- */

/* Whole games are judged by both in src/proof/vd_tamper_test.c; here it is any bytes. */

enum { INPUT_BYTES = 4 * VD_SAMPLE_TILE, TILES_PER_OP = 6 };

typedef void init_fn(struct vd_tile *t, const struct vd_graph *g, uint32_t step, uint32_t unit, uint32_t op,
                     uint64_t record);
typedef void resolve_fn(struct vd_tile *t, const struct vd_graph *g, unsigned i,
                        const struct vd_tile_data *data);
typedef void eval_fn(const struct vd_tile *t, const struct vd_graph *g, const struct vd_tile_data *data,
                     uint8_t *out);
struct court {
    init_fn *init;
    resolve_fn *resolve;
    eval_fn *eval;
};

/* Programs whose tensors take all weight types in turn, beginning with number `shift`: plain, with all
 * features, and over super-blocks; encoders of BERT's and of Nomic's form. */
enum { FORMS = 5, BERT = 3 };

/* Learned positions, all biases, no gate; or RoPE and a gate. */
static void make_encoder(struct vd_program *p, bool bert)
{
    p->kind = VD_PROGRAM_ENCODER;
    p->layer_norm = p->token_type = true;
    p->n_stop = p->stop[0] = 0;
    if (!bert)
        return;
    p->act = VD_ACT_GELU;
    p->ungated = p->qkv_bias = p->out_bias = p->ffn_bias = true;
    p->n_positions = 100;
    p->n_rope = p->n_rope_tables = 0;
    p->rope_pairing = VD_ROPE_NONE;
}

static struct vd_program program_of(unsigned features, unsigned shift)
{
    static const enum vd_wtype types[] = {VD_WTYPE_Q4_K,  VD_WTYPE_Q6_K, VD_WTYPE_IQ4_XS, VD_WTYPE_Q5_0,
                                          VD_WTYPE_MXFP4, VD_WTYPE_BF16, VD_WTYPE_Q2_K,   VD_WTYPE_Q3_K,
                                          VD_WTYPE_Q5_K,  VD_WTYPE_Q8_0, VD_WTYPE_Q4_0,   VD_WTYPE_Q4_1,
                                          VD_WTYPE_Q5_1,  VD_WTYPE_F16,  VD_WTYPE_F32,    VD_WTYPE_IQ4_NL};
    struct vd_program p = {VD_PROGRAM_PLAIN, .n_layers = 2,   .width = 544,
                           .n_heads = 2,     .n_kv_heads = 1, .head_dim = 32,
                           .ff_width = 64,   .vocab = 5000,   .ctx = 100,
                           .n_rope = 12,     .eps = 1e-5f,    .attn_scale = 0.2f,
                           .n_stop = 1,      .stop = {2},     .rope_steps = {{UINT64_C(0x123456789ABCDEF)}}};
    p.rope_pairing = shift % 2 ? VD_ROPE_HALVES : VD_ROPE_ADJACENT;
    if (features == 2) {
        p.width = 768;
        p.n_heads = 8;
        p.ff_width = 256;
    }
    if (features >= BERT)
        make_encoder(&p, features == BERT);
    else if (features) {
        p.n_rope_tables = 2;
        p.rope_steps[1][3] = UINT64_C(0xFEDCBA9876543210);
        p.rope_scale[1] = 1.5f;
        p.attn_cap = 3;
        p.logit_cap = 30;
        p.embed_scale = 23.5f;
        p.window = 40;
        p.layer_flags[0] = VD_LAYER_WINDOW | VD_LAYER_ROPE2;
        p.act = VD_ACT_GELU;
        p.qk_norm = p.qkv_bias = p.post_norms = true;
        p.n_experts = 7;
        p.n_used = 3;
        p.route_norm = shift % 2;
    }
    p.n_tensors = vd_program_norm_tensor(&p) + (features < BERT);
    for (uint32_t i = 0; i < p.n_tensors; i++) {
        enum vd_wtype t = types[(i + shift) % 16];
        bool fits = vd_program_tensor(&p, i).cols % vd_wtype_info(t)->block_elems == 0;
        p.types[i] = (uint8_t)(vd_program_is_vector(&p, i) ? VD_WTYPE_F32 : fits ? t : VD_WTYPE_Q4_1);
    }
    assert_null(vd_program_check(&p));
    return p;
}

/* Bytes that are floats of any size, floats near one, small integers, or anything. */
static void fill(struct vd_rng *r, uint8_t *p, size_t n_bytes)
{
    uint64_t how = vd_rng_below(r, 4);
    for (size_t i = 0; i + 4 <= n_bytes; i += 4) {
        uint32_t u = (uint32_t)vd_rng_next(r);
        if (how == 1)
            u = vd_f32_bits(odd_float(r));
        else if (how == 2)
            u = (u & 0x80000000) | (120 + u % 10) << 23 | (u >> 8 & 0x7FFFFF);
        else if (how == 3)
            u = (uint32_t)vd_rng_below(r, 9);
        vd_le32_store(p + i, u);
    }
}

/* The same bytes to both; each resolves its own dynamic inputs, which must agree. Returns the record's
 * length. */
static size_t eval_with(const struct court *c, const struct vd_graph *g, const uint32_t at[3],
                        uint64_t record, uint8_t bytes[VD_GRAPH_INPUTS_MAX][INPUT_BYTES],
                        uint64_t address[3 * VD_GRAPH_INPUTS_MAX], uint8_t *out)
{
    struct vd_tile_data data = {{NULL}, {NULL}};
    struct vd_tile t;
    c->init(&t, g, at[0], at[1], at[2], record);
    for (unsigned i = 0; i < t.n_in; i++) {
        data.in[i] = bytes[i];
        if (t.in[i].dynamic)
            c->resolve(&t, g, i, &data);
        for (unsigned j = 0; t.in[i].kind == VD_IN_KV && j < t.in[i].count; j++)
            data.row[j] = bytes[i] + 64 * j;
        address[3 * i] = t.in[i].first;
        address[3 * i + 1] = t.in[i].count;
        address[3 * i + 2] = t.in[i].row;
    }
    c->eval(&t, g, &data, out);
    return t.o.record_bytes;
}

/* Tables and texts carry their lengths in front: they must lie in the buffer. */
static void bound_lengths(const struct vd_graph *g, const uint32_t at[3], uint64_t record,
                          uint8_t bytes[VD_GRAPH_INPUTS_MAX][INPUT_BYTES])
{
    struct vd_tile t;
    vd_tile_init(&t, g, at[0], at[1], at[2], record);
    for (unsigned i = 0; i < t.n_in; i++) {
        if (t.in[i].kind == VD_IN_BIAS || t.in[i].kind == VD_IN_MASK)
            vd_le32_store(bytes[i], vd_le32_load(bytes[i]) % (INPUT_BYTES - 4));
        if (t.in[i].kind == VD_IN_TEXT)
            vd_le16_store(bytes[i], vd_le16_load(bytes[i]) % (VD_TOKEN_TEXT_MAX_BYTES + 1));
    }
}

static uint64_t n_tiles, of_kind[VD_OP_KINDS];

static void compare_op(const struct court *other, const struct vd_graph *g, const uint32_t at[3],
                       struct vd_rng *r)
{
    static const struct court own = {vd_tile_init, vd_tile_resolve, vd_tile_eval};
    static uint8_t bytes[VD_GRAPH_INPUTS_MAX][INPUT_BYTES];
    uint8_t record[2][VD_GRAPH_RECORD_BYTES_MAX];
    struct vd_graph_op o;
    vd_graph_op(g, at[0], at[1], at[2], &o);
    for (unsigned i = 0; o.n_records && i < TILES_PER_OP; i++) {
        uint64_t address[2][3 * VD_GRAPH_INPUTS_MAX] = {{0}}, number = vd_rng_below(r, o.n_records);
        for (unsigned k = 0; k < VD_GRAPH_INPUTS_MAX; k++)
            fill(r, bytes[k], INPUT_BYTES);
        bound_lengths(g, at, number, bytes);
        size_t n = eval_with(&own, g, at, number, bytes, address[0], record[0]);
        assert_int_equal(eval_with(other, g, at, number, bytes, address[1], record[1]), n);
        assert_memory_equal(address[0], address[1], sizeof address[0]);
        if (memcmp(record[0], record[1], n) != 0)
            fail_msg("%s, record %llu: the referees differ", vd_op_name(o.kind), (unsigned long long)number);
        of_kind[o.kind]++;
        n_tiles++;
    }
}

static void tiles_are_the_same(void **state)
{
    struct court other;
    struct vd_rng r = {.seed = 3};
    find("vd_tile_init", &other.init);
    find("vd_tile_resolve", &other.resolve);
    find("vd_tile_eval", &other.eval);
    for (unsigned form = 0; form < FORMS * 16; form++) {
        struct vd_program p = program_of(form % FORMS, form / FORMS);
        struct vd_graph g = {&p, {.n_prompt = 66, .n_output = 2, .n_steps = 67, .max_tokens = 2}};
        if (form % 4)
            g.job.sampling = (struct vd_sampling){.temp_micro = form % 4 == 1 ? 1 : 700000,
                                                  .top_k = form % 8 < 4 ? 9 : 0,
                                                  .top_p_micro = form % 5 ? 300000 : 1000000,
                                                  .min_p_micro = form % 7 ? 50000 : 0,
                                                  .repeat_micro = 1300000,
                                                  .repeat_last_n = VD_PENALTY_WINDOW,
                                                  .presence_micro = -7,
                                                  .has_bias = true,
                                                  .has_mask = form % 2};
        bool encoder = vd_program_is_encoder(&p);
        if (form % 8 == 4 || encoder) { /* a vector instead of a token */
            g.job = (struct vd_graph_job){
                .n_prompt = 67,
                .n_output = p.width,
                .n_steps = 67,
                .max_tokens = p.width,
                .sampling = {.pooling = encoder ? (enum vd_pooling)(1 + form % 3) : VD_POOLING_MEAN,
                             .top_p_micro = VD_SAMPLE_MICRO}};
            assert_true(vd_graph_valid(&g));
        }
        for (uint32_t unit = 0; unit < vd_graph_units(&g, 66); unit++)
            for (uint32_t op = 0; op < vd_graph_ops(&g, 66, unit); op++)
                compare_op(&other, &g, (const uint32_t[3]){66, unit, op}, &r);
    }
    for (unsigned i = 0; i < VD_OP_KINDS; i++)
        if (of_kind[i] == 0)
            fail_msg("no tile of %s", vd_op_name((enum vd_op)i));
    print_message("    %llu tiles of %u kinds of operators\n", (unsigned long long)n_tiles,
                  (unsigned)VD_OP_KINDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiles_are_the_same),       cmocka_unit_test(fma_equals_the_librarys),
        cmocka_unit_test(sqrt_equals_the_librarys), cmocka_unit_test(rint_equals_the_librarys),
        cmocka_unit_test(sha256_equals_openssls),
    };
    return cmocka_run_group_tests(tests, open_library, close_library);
}
