/* What is hashed sixteen positions at a time has the roots that the same positions have one by one, wherever
 * a root is asked for in between. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "vd_commit.h"
#include "vd_num.h"
#include "vd_rng.h"
#include "vd_unit.h"

#include <stdlib.h>

enum { STEPS_MAX = 70, WIDTH_MAX = 2304, ROW_MAX = 8 * (8 + 4 * VD_PROGRAM_HEAD_DIM_MAX) };

static const uint8_t job_salt[VD_JOB_SALT_BYTES] = {7, 7, 7};

static struct vd_program program(uint32_t width, uint32_t kv_heads, uint32_t hd)
{
    struct vd_program p = {VD_PROGRAM_PLAIN,
                           .n_layers = 2,
                           .width = width,
                           .n_heads = kv_heads,
                           .n_kv_heads = kv_heads,
                           .head_dim = hd,
                           .ff_width = 32,
                           .vocab = 100,
                           .ctx = 1024,
                           .rope_pairing = VD_ROPE_HALVES,
                           .n_rope = hd / 2,
                           .eps = 1e-5f,
                           .attn_scale = 0.125f};
    p.n_tensors = vd_program_norm_tensor(&p) + 2;
    return p;
}

static struct vd_program encoder(void)
{
    struct vd_program p = program(64, 2, 32);
    p.kind = VD_PROGRAM_ENCODER;
    p.layer_norm = p.token_type = true;
    p.n_tensors = vd_program_norm_tensor(&p);
    return p;
}

/* One by one, with nothing kept but the leaves. */
struct reference {
    struct vd_hash leaf[STEPS_MAX], token[STEPS_MAX], unit[2];
    uint32_t n_steps, n_tokens;
};

static void add_leaf(struct reference *r, const struct vd_hash *unit, const struct vd_hash *head)
{
    r->unit[0] = *unit;
    r->unit[1] = head ? *head : (struct vd_hash){{0}};
    r->leaf[r->n_steps] = vd_commit_leaf(r->n_steps, unit, head);
    r->n_steps++;
}

static void add_token(struct reference *r, const struct vd_graph *g, const struct vd_graph_rows *rows,
                      uint32_t token, enum vd_stop stop, const struct vd_automaton_state *mask)
{
    uint32_t s = r->n_steps;
    uint8_t state[VD_AUTOMATON_STATE_BYTES];
    struct vd_hash salt = vd_trace_salt(job_salt, s), next = vd_trace_salt(job_salt, s + 1);
    struct vd_hash unit = vd_unit_rows(g, &salt, s, vd_graph_last_block(g), rows, NULL), head;
    bool has_head = vd_graph_has_head(g, s);
    if (mask)
        vd_automaton_state_store(state, mask);
    if (has_head)
        head = vd_unit_head(g, &salt, s, token, stop, mask ? state : NULL);
    if (has_head && stop != VD_STOP_FAIL)
        r->token[r->n_tokens++] = vd_token_leaf(&next, s + 1, token);
    add_leaf(r, &unit, has_head ? &head : NULL);
}

static void assert_hash(struct vd_hash got, struct vd_hash want)
{
    assert_memory_equal(got.b, want.b, VD_HASH_BYTES);
}

static void assert_roots(struct vd_commit *c, const struct reference *r)
{
    assert_int_equal(vd_commit_n_steps(c), r->n_steps);
    assert_hash(vd_commit_root(c), vd_merkle_root(r->leaf, r->n_steps));
    assert_hash(vd_commit_output_root(c),
                r->n_tokens ? vd_merkle_root(r->token, r->n_tokens) : (struct vd_hash){{0}});
    assert_int_equal(vd_commit_n_output(c), r->n_tokens);
}

static void assert_halves(struct vd_commit *c, const struct reference *r)
{
    struct vd_hash half[2], root = vd_merkle_root(r->leaf, r->n_steps);
    vd_commit_halves(c, half);
    if (r->n_steps == 1) {
        assert_hash(half[0], r->unit[0]);
        assert_hash(half[1], r->unit[1]);
    } else {
        assert_hash(vd_merkle_node(&half[0], &half[1]), root);
    }
}

/* Rows of random bytes, and floats some of which are NaNs of any payload. */
struct rows {
    uint8_t k[ROW_MAX], v[ROW_MAX];
    float x[WIDTH_MAX];
    struct vd_graph_rows at;
};

static void random_rows(struct rows *r, const struct vd_graph *g, uint32_t step, struct vd_rng *rng)
{
    for (size_t i = 0; i < ROW_MAX; i++) {
        r->k[i] = (uint8_t)vd_rng_next(rng);
        r->v[i] = (uint8_t)vd_rng_next(rng);
    }
    for (uint32_t i = 0; i < g->program->width; i++) {
        uint32_t bits = (uint32_t)vd_rng_next(rng);
        r->x[i] = vd_f32_from_bits(vd_rng_below(rng, 8) ? bits : bits | 0x7F800000);
    }
    r->at = (struct vd_graph_rows){NULL, r->k, r->v, vd_graph_has_row(g, step) ? r->x : NULL};
}

/* ask: 1 in so many positions roots are asked for; 0: at the end only. fail: so often an output is a FAIL. */
static void run_tokens(const struct vd_program *p, uint32_t n_prompt, uint32_t n_steps, bool has_mask,
                       bool known, uint32_t ask, uint32_t fail, uint64_t seed)
{
    const struct vd_request q = {
        .n_prompt = n_prompt, .max_tokens = STEPS_MAX, .sampling = {.has_mask = has_mask}};
    const struct vd_graph g = {
        p, {.n_prompt = n_prompt, .n_steps = UINT32_MAX, .max_tokens = q.max_tokens, .sampling = q.sampling}};
    struct vd_rng rng = {seed, 0};
    struct reference ref = {.n_steps = 0};
    struct rows *rows = malloc(sizeof *rows);
    struct vd_commit *c;
    assert_int_equal(vd_commit_open(&c, p, &q, known ? n_steps : UINT32_MAX, job_salt, NULL), VD_OK);
    for (uint32_t s = 0; s < n_steps; s++) {
        struct vd_automaton_state state = VD_AUTOMATON_START;
        uint32_t token = (uint32_t)vd_rng_below(&rng, 100);
        enum vd_stop stop = fail && vd_rng_below(&rng, fail) == 0 ? VD_STOP_FAIL : VD_STOP_NONE;
        state.at = (uint16_t)vd_rng_below(&rng, 1000);
        random_rows(rows, &g, s, &rng);
        vd_commit_add(c, &rows->at, token, stop, has_mask ? &state : NULL);
        add_token(&ref, &g, &rows->at, token, stop, has_mask ? &state : NULL);
        if (ask && vd_rng_below(&rng, ask) == 0)
            assert_roots(c, &ref);
    }
    assert_roots(c, &ref);
    if (known)
        assert_halves(c, &ref);
    vd_commit_close(c);
    free(rows);
}

static void lengths_of_prompt_and_answer(void **state)
{
    const struct vd_program p = program(64, 2, 32);
    for (uint32_t n_steps = 1; n_steps <= STEPS_MAX; n_steps++)
        for (uint32_t n_prompt = 1; n_prompt <= n_steps; n_prompt += 1 + n_steps / 7)
            run_tokens(&p, n_prompt, n_steps, false, n_steps % 3 > 0, n_steps % 5, 0, n_steps);
}

static void shapes(void **state)
{
    static const uint32_t shape[][3] = {{32, 1, 32},   {576, 3, 64},   {1024, 8, 64},
                                        {1056, 5, 64}, {2048, 7, 128}, {2304, 1, 256}};
    for (unsigned i = 0; i < sizeof shape / sizeof shape[0]; i++) {
        const struct vd_program p = program(shape[i][0], shape[i][1], shape[i][2]);
        run_tokens(&p, 20, 50, i % 2, true, 7, 0, i);
        run_tokens(&p, 1, 33, i % 2, false, 0, 0, i);
    }
}

static void masks_and_failures(void **state)
{
    const struct vd_program p = program(64, 2, 32);
    for (uint64_t seed = 0; seed < 60; seed++)
        run_tokens(&p, 1 + (uint32_t)seed % 20, 20 + (uint32_t)seed % 50, seed % 2, true, (uint32_t)seed % 4,
                   1 + (uint32_t)seed % 6, seed);
}

static void run_vector(const struct vd_program *p, enum vd_pooling pooling, uint32_t n, uint32_t ask)
{
    const struct vd_request q = {.n_prompt = n, .max_tokens = p->width, .sampling = {.pooling = pooling}};
    const struct vd_graph g = {p,
                               {.n_prompt = n, .n_steps = n, .max_tokens = p->width, .sampling = q.sampling}};
    struct vd_rng rng = {n, 0};
    struct reference ref = {.n_steps = 0};
    struct rows *rows = malloc(sizeof *rows);
    struct vd_hash vector_root = {{0}};
    struct vd_commit *c;
    assert_int_equal(vd_commit_open(&c, p, &q, n, job_salt, NULL), VD_OK);
    for (uint32_t s = 0; s < n; s++) {
        struct vd_hash salt = vd_trace_salt(job_salt, s), outs[VD_GRAPH_OUTS_MAX], head;
        bool has_head = vd_graph_has_head(&g, s), last = s + 1 == n;
        random_rows(rows, &g, s, &rng);
        const float *sum = has_head && pooling == VD_POOLING_MEAN ? rows->x : NULL;
        const float *vector = last ? rows->x : NULL;
        vd_commit_add_vector(c, &rows->at, sum, vector);
        struct vd_hash unit = vd_unit_rows(&g, &salt, s, vd_graph_last_block(&g), &rows->at, NULL);
        if (has_head)
            head = vd_unit_pool(&g, &salt, s, sum, vector, outs);
        add_leaf(&ref, &unit, has_head ? &head : NULL);
        if (last)
            vector_root = outs[sum ? 1 : 0];
        if (ask && s % ask == 0)
            assert_hash(vd_commit_root(c), vd_merkle_root(ref.leaf, ref.n_steps));
    }
    assert_hash(vd_commit_root(c), vd_merkle_root(ref.leaf, n));
    assert_hash(vd_commit_output_root(c), vector_root);
    assert_int_equal(vd_commit_n_output(c), p->width);
    assert_halves(c, &ref);
    vd_commit_close(c);
    free(rows);
}

static void vectors(void **state)
{
    const struct vd_program decoder = program(64, 2, 32), bert = encoder();
    for (uint32_t n = 1; n <= 40; n += 1 + n / 4)
        for (uint32_t ask = 0; ask < 4; ask += 3) {
            run_vector(&decoder, VD_POOLING_LAST, n, ask);
            run_vector(&decoder, VD_POOLING_MEAN, n, ask);
            run_vector(&bert, VD_POOLING_MEAN, n, ask);
            run_vector(&bert, VD_POOLING_CLS, n, ask);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths_of_prompt_and_answer),
        cmocka_unit_test(shapes),
        cmocka_unit_test(masks_and_failures),
        cmocka_unit_test(vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
