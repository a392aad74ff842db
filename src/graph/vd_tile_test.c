/* Operators against the functions of src/num that they must add up to: sampling, cut into tiles and levels,
 * gives the token that vd_num_sample gives, also among many ties; rotation gives vd_num_rope_head; norm and
 * product their whole rows. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "vd_norm.h"
#include "vd_num.h"
#include "vd_rng.h"
#include "vd_rope.h"
#include "vd_sha256.h"
#include "vd_tile.h"

enum { VOCAB = 9000, WIDTH = 1056 };

/* Operators by number: SUM of the head's products; SUM of q and its ROPE. */
enum { LOGITS = 6, SUM_Q = 6, ROPE_Q = 18 };

static struct vd_program program = {VD_PROGRAM_PLAIN,
                                    .n_layers = 1,
                                    .width = WIDTH,
                                    .n_heads = 2,
                                    .n_kv_heads = 1,
                                    .head_dim = 64,
                                    .ff_width = 32,
                                    .vocab = VOCAB,
                                    .ctx = 1000,
                                    .rope_pairing = VD_ROPE_ADJACENT,
                                    .n_rope = 32,
                                    .eps = 1e-5f,
                                    .attn_scale = 0.125f,
                                    .n_tensors = 11,
                                    .types = {VD_WTYPE_Q8_0, 0, VD_WTYPE_Q8_0, VD_WTYPE_Q8_0, VD_WTYPE_Q8_0,
                                              VD_WTYPE_Q8_0, 0, VD_WTYPE_Q8_0, VD_WTYPE_Q8_0, VD_WTYPE_Q8_0,
                                              0}};

/* Records of one unit's operators. */
struct unit {
    struct vd_graph g;
    uint32_t step, unit;
    uint8_t *records[VD_GRAPH_OPS_MAX];
    const uint8_t *row, *weight;
};

static void run_op(struct unit *u, uint32_t op)
{
    struct vd_graph_op o, src;
    vd_graph_op(&u->g, u->step, u->unit, op, &o);
    if (!u->records[op])
        u->records[op] = calloc(o.n_records, o.record_bytes);
    for (uint64_t r = 0; r < o.n_records; r++) {
        struct vd_tile_data data = {{NULL}, {NULL}};
        struct vd_tile t;
        vd_tile_init(&t, &u->g, u->step, u->unit, op, r);
        for (unsigned i = 0; i < t.n_in; i++) {
            if (t.in[i].dynamic)
                vd_tile_resolve(&t, &u->g, i, &data);
            if (t.in[i].kind == VD_IN_WEIGHT) {
                data.in[i] = u->weight + 4 * (size_t)VD_WEIGHT_PART_ELEMS * t.in[i].part;
            } else if (t.in[i].kind == VD_IN_ROW) {
                data.in[i] = u->row + 4 * t.in[i].first;
            } else {
                vd_graph_op(&u->g, u->step, u->unit, t.in[i].op, &src);
                data.in[i] = u->records[t.in[i].op] + t.in[i].first * src.record_bytes;
            }
        }
        vd_tile_eval(&t, &u->g, &data, u->records[op] + r * o.record_bytes);
    }
}

static void free_unit(struct unit *u)
{
    for (unsigned i = 0; i < VD_GRAPH_OPS_MAX; i++)
        free(u->records[i]);
}

static uint64_t r64_of(const struct vd_sampling *s, uint32_t index)
{
    struct vd_sha256 sha;
    struct vd_hash h;
    vd_sha256_init_tag(&sha, "veridem/sample");
    vd_sha256_u64(&sha, s->seed);
    vd_sha256_u32(&sha, s->choice);
    vd_sha256_u32(&sha, index);
    vd_sha256_final(&sha, &h);
    return vd_le64_load(h.b);
}

/* The head's operators from the logits on. */
static uint32_t token_of(const float *x, const struct vd_sampling *s)
{
    struct unit u = {
        .g = {&program, {.n_prompt = 3, .n_output = 9, .n_steps = 11, .max_tokens = 9, .sampling = *s}},
        .step = 4,
        .unit = 2};
    uint32_t n = vd_graph_ops(&u.g, u.step, u.unit);
    u.records[LOGITS] = malloc(4 * VOCAB);
    for (uint32_t i = 0; i < VOCAB; i++)
        vd_le32_store(u.records[LOGITS] + 4 * i, vd_f32_bits(vd_num_canon(x[i])));
    for (uint32_t op = LOGITS + 1; op < n; op++)
        run_op(&u, op);
    uint32_t token = vd_le32_load(u.records[n - 1]), stop = vd_le32_load(u.records[n - 1] + 4);
    assert_int_equal(stop, vd_graph_stop(&u.g, u.step, token));
    free_unit(&u);
    return token;
}

static float x[VOCAB];
static uint64_t w[VOCAB];

static void expect_same_token(const struct vd_sampling *s)
{
    uint32_t want = vd_num_sample(x, VOCAB, s, r64_of(s, 2), w), got = token_of(x, s);
    if (got != want)
        fail_msg("token %u for %u: temp %u, top-k %u, top-p %u, min-p %u, seed %llu", got, want,
                 s->temp_micro, s->top_k, s->top_p_micro, s->min_p_micro, (unsigned long long)s->seed);
}

static void sampling_equals_num(void **state)
{
    static const uint32_t top_k[] = {0, 1, 40, 5000, VOCAB}, top_p[] = {1, 300000, 950000, 1000000};
    struct vd_rng rng = {4, 0};
    for (unsigned i = 0; i < 120; i++) {
        uint64_t levels = i % 3 == 0 ? 4 : i % 3 == 1 ? 300 : 1u << 24; /* few values: many ties */
        for (uint32_t k = 0; k < VOCAB; k++)
            x[k] = (float)vd_rng_below(&rng, levels) * (12.0f / (float)levels) - 6.0f;
        struct vd_sampling s = {.temp_micro =
                                    i % 10 == 9 ? 0 : 200000 + (uint32_t)vd_rng_below(&rng, 1800000),
                                .top_k = top_k[vd_rng_below(&rng, 5)],
                                .top_p_micro = top_p[vd_rng_below(&rng, 4)],
                                .min_p_micro = i % 4 ? 0 : (uint32_t)vd_rng_below(&rng, 500000),
                                .seed = i,
                                .choice = i % 2};
        expect_same_token(&s);
    }
}

static void failing_logits(void **state)
{
    static const float bad[] = {INFINITY, -INFINITY, NAN};
    const struct vd_sampling all[] = {{0}, {.temp_micro = 1000000, .top_k = 3, .top_p_micro = 500000}};
    for (unsigned i = 0; i < 6; i++) {
        for (uint32_t k = 0; k < VOCAB; k++)
            x[k] = (float)(k % 7);
        x[8999 - i] = bad[i / 2];
        expect_same_token(&all[i % 2]);
        assert_int_equal(token_of(x, &all[i % 2]), VD_SAMPLE_FAIL);
    }
    for (uint32_t k = 0; k < VOCAB; k++) /* finite, but not after the temperature */
        x[k] = 1e35f;
    const struct vd_sampling cold = {.temp_micro = 1, .top_p_micro = 1000000};
    expect_same_token(&cold);
    assert_int_equal(token_of(x, &cold), VD_SAMPLE_FAIL);
}

static void rotation_equals_num(void **state)
{
    for (unsigned i = 0; i < 4; i++) {
        struct vd_program p = program;
        bool halves = i & 1;
        p.rope_pairing = halves ? VD_ROPE_HALVES : VD_ROPE_ADJACENT;
        p.n_rope = i & 2 ? 32 : 20;
        assert_true(vd_num_rope_steps(10000.0f, 2 * p.n_rope, p.rope_steps[0]));
        struct unit u = {.g = {&p, {.n_prompt = 900, .n_output = 1, .n_steps = 900, .max_tokens = 1}},
                         .step = 777,
                         .unit = 1};
        float y[128];
        u.records[SUM_Q] = malloc(4 * 128);
        for (uint32_t e = 0; e < 128; e++) {
            y[e] = (float)((int)(e * 37 % 101) - 50) / 7.0f;
            vd_le32_store(u.records[SUM_Q] + 4 * e, vd_f32_bits(y[e]));
        }
        run_op(&u, ROPE_Q);
        for (uint32_t h = 0; h < 2; h++)
            vd_num_rope_head(y + 64 * h, 2 * p.n_rope, 777, p.rope_steps[0], halves);
        for (uint32_t e = 0; e < 128; e++)
            assert_int_equal(vd_le32_load(u.records[ROPE_Q] + 4 * e), vd_f32_bits(y[e]));
        free_unit(&u);
    }
}

static void norm_equals_num(void **state)
{
    static uint8_t row[4 * WIDTH], weight[4 * WIDTH];
    static float in[WIDTH], scale[WIDTH], want[WIDTH];
    struct vd_rng rng = {9, 0};
    struct unit u = {.g = {&program, {.n_prompt = 2, .n_output = 1, .n_steps = 2, .max_tokens = 1}},
                     .unit = 1,
                     .row = row,
                     .weight = weight};
    for (uint32_t i = 0; i < WIDTH; i++) {
        in[i] = (float)vd_rng_below(&rng, 2001) / 100.0f - 10.0f;
        scale[i] = (float)vd_rng_below(&rng, 2001) / 1000.0f;
        vd_le32_store(row + 4 * i, vd_f32_bits(in[i]));
        vd_le32_store(weight + 4 * i, vd_f32_bits(scale[i]));
    }
    for (uint32_t op = 0; op <= 2; op++)
        run_op(&u, op);
    vd_num_rmsnorm(in, scale, WIDTH, program.eps, want);
    for (uint32_t i = 0; i < WIDTH; i++)
        assert_int_equal(vd_le32_load(u.records[2] + 4 * i), vd_f32_bits(want[i]));
    free_unit(&u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sampling_equals_num),
        cmocka_unit_test(failing_logits),
        cmocka_unit_test(rotation_equals_num),
        cmocka_unit_test(norm_equals_num),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
