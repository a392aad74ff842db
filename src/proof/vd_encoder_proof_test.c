/* Encoders by the engine: vectors of generated models of every form are committed to, replayed and traced,
 * and a worker with other weights is pinned by the whole game. That the trace's units are the engine's, every
 * one, is vd_trace_load's own check. */
#include "vd_commit.h"
#include "vd_embed.h"
#include "vd_player.h"
#include "vd_replay.h"
#include "vd_rng.h"
#include "vd_test_model.h"
#include "vd_trace_hash.h"
#include "vd_trace_model.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { N_MAX = 130, ROWS = 300 };

struct machine {
    struct vd_model *model;
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
    struct vd_hash root;
};

struct job {
    struct vd_receipt receipt;
    uint32_t prompt[N_MAX], output[1024];
    uint8_t salt[VD_SALT_BYTES];
    struct vd_proof_job proof;
};

static struct vd_pool *pool;

static void check(enum vd_err e, const struct vd_error *err)
{
    if (e != VD_OK)
        fail_msg("%s", err->msg);
}

static void machine_open(struct machine *m, const uint8_t *file, size_t n_bytes)
{
    char path[VD_PATH_MAX];
    struct vd_error err = {0};
    vd_test_write_file(file, n_bytes, path);
    enum vd_err e = vd_model_open(&m->model, path, vd_kern_pick(NULL, NULL), pool, &err);
    unlink(path);
    check(e, &err);
    assert_int_equal(vd_replay_rows(m->model, 16), ROWS); /* its context */
    assert_int_equal(vd_replay_rows(m->model, 512), 512);
    check(vd_ctx_create(&m->ctx, m->model, pool, ROWS, 1, &err), &err);
    check(vd_kv_pool_create(&m->cache, m->model, 16 << 20, &err), &err);
    check(vd_model_root(m->model, pool, &m->root, &err), &err);
}

static void machine_close(struct machine *m)
{
    vd_kv_pool_destroy(m->cache);
    vd_ctx_destroy(m->ctx);
    vd_model_close(m->model);
}

/* What a worker makes of a sequence of n tokens, under the root of the model that it says it has. */
static void embed(struct machine *m, struct job *j, uint32_t n, enum vd_pooling pooling,
                  const struct vd_hash *root)
{
    const struct vd_program *p = vd_model_program(m->model);
    struct vd_sampling s = {.pooling = pooling, .top_p_micro = VD_SAMPLE_MICRO};
    struct vd_graph graph = {p, {.n_prompt = n, .n_steps = n, .max_tokens = p->width, .sampling = s}};
    struct vd_row row[N_MAX];
    struct vd_rng rng = {1, 0}; /* so that all begin alike */
    struct vd_commit *c;
    struct vd_embed *e;
    struct vd_kv *kv;
    memset(j, 0, sizeof *j);
    assert_int_equal(vd_kv_open(&kv, m->cache, NULL), VD_OK);
    for (uint32_t i = 0; i < n; i++) {
        j->prompt[i] = (uint32_t)vd_rng_below(&rng, p->vocab);
        row[i] = (struct vd_row){kv, i, j->prompt[i], VD_ROW_HIDDEN};
    }
    j->receipt = (struct vd_receipt){.request = {.arith_version = VD_ARITH_VERSION,
                                                 .model_root = *root,
                                                 .n_prompt = n,
                                                 .max_tokens = p->width,
                                                 .sampling = s,
                                                 .salt_commit = vd_salt_commit(j->salt),
                                                 .prompt_root = vd_token_root(j->salt, 0, j->prompt, n)},
                                     .n_output = p->width,
                                     .finish = VD_FINISH_LENGTH};
    assert_int_equal(vd_commit_open(&c, p, &j->receipt.request, UINT32_MAX, j->salt, NULL), VD_OK);
    assert_int_equal(vd_embed_create(&e, m->model, pooling, NULL), VD_OK);
    assert_int_equal(vd_model_forward(m->ctx, row, n, NULL, NULL), VD_OK);
    for (uint32_t i = 0; i < n; i++) {
        struct vd_graph_rows rows = {.x = vd_ctx_hidden(m->ctx, i)};
        if (vd_graph_is_pooled(&graph, i))
            vd_embed_add(e, rows.x);
        vd_commit_add_vector(c, &rows, pooling == VD_POOLING_MEAN ? vd_embed_sum(e) : NULL,
                             i + 1 == n ? vd_embed_vector(e) : NULL);
    }
    for (uint32_t i = 0; i < p->width; i++)
        j->output[i] = vd_f32_bits(vd_embed_vector(e)[i]);
    vd_embed_free(e);
    vd_kv_close(kv);
    j->receipt.commit_root = vd_commit_root(c);
    j->receipt.output_root = vd_commit_output_root(c);
    vd_commit_close(c);
    j->proof = (struct vd_proof_job){
        .receipt = &j->receipt, .prompt = j->prompt, .output = j->output, .job_salt = j->salt};
}

static enum vd_replay_verdict replayed(const struct machine *m, const struct job *j)
{
    struct vd_replay_result r;
    struct vd_error err = {0};
    check(vd_replay(m->ctx, m->cache, &m->root, &j->proof, &r, &err), &err);
    return r.verdict;
}

/* Every unit of some steps: the engine's rows are those of num's operators. */
static void load_everywhere(const struct machine *m, const struct job *j)
{
    struct vd_trace_model *tm;
    struct vd_error err = {0};
    uint32_t n = j->receipt.request.n_prompt;
    const uint32_t steps[] = {0, n / 2, n - 1};
    check(vd_trace_model_open(&tm, m->model, m->ctx, m->cache, &j->proof, &err), &err);
    struct vd_trace *t = vd_trace_model_trace(tm);
    assert_true(vd_hash_eq(&t->commit_root, &j->receipt.commit_root));
    for (unsigned s = 0; s < 3; s++)
        for (uint32_t u = 0; u < vd_graph_units(&t->graph, steps[s]); u++)
            check(vd_trace_load(t, steps[s], u, &err), &err);
    vd_trace_model_close(tm);
}

/* The whole game between two machines; returns its result. */
static enum vd_game_result play(const struct machine *worker, const struct machine *challenger,
                                const struct job *j, struct vd_game *game)
{
    static struct vd_player_move move;
    struct vd_trace_model *w, *c;
    struct vd_ref_claim claim;
    struct vd_error err = {0};
    assert_true(vd_ref_claim_init(&claim, &j->receipt, vd_model_program(challenger->model),
                                  vd_model_program_bytes(challenger->model)));
    check(vd_trace_model_open(&w, worker->model, worker->ctx, worker->cache, &j->proof, &err), &err);
    check(vd_trace_model_open(&c, challenger->model, challenger->ctx, challenger->cache, &j->proof, &err),
          &err);
    enum vd_game_result r = VD_GAME_ACCEPTED;
    vd_game_open(game);
    while (r == VD_GAME_ACCEPTED) {
        enum vd_game_side side = vd_game_turn(game);
        enum vd_err e = side == VD_GAME_WORKER
                            ? vd_player_worker_answer(vd_trace_model_trace(w), game, &move, &err)
                            : vd_player_challenger_point(vd_trace_model_trace(c), &claim, game, &move, &err);
        check(e, &err);
        r = vd_game_move(game, &claim, NULL, side, (struct vd_bytes){move.bytes, move.n_bytes});
    }
    vd_trace_model_close(w);
    vd_trace_model_close(c);
    return r;
}

/* The file with one byte of a row of layer 1's `down` changed. */
static void lower(uint8_t *file, size_t n_bytes, const struct vd_model *m)
{
    uint32_t tensor = vd_program_layer_tensor(vd_model_program(m), 1, VD_T_FFN_DOWN);
    struct vd_bytes row = vd_model_tensor_bytes(m, tensor, 7);
    uint8_t *at = memmem(file, n_bytes, row.p, row.n);
    assert_non_null(at);
    at[row.n / 2] ^= 0x31;
}

static void every_form(void **state)
{
    static const struct {
        const char *form;
        uint32_t n;
        enum vd_pooling pooling;
    } all[] = {{"bert", 66, VD_POOLING_CLS},       {"bert", 1, VD_POOLING_CLS},
               {"bert-fused", 5, VD_POOLING_MEAN}, {"nomic-bert", 130, VD_POOLING_MEAN},
               {"nomic-bert", 9, VD_POOLING_LAST}, {"bert-fused", 67, VD_POOLING_LAST}};
    for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
        static struct job j;
        static struct vd_game game;
        struct machine honest, cheat;
        struct vd_test_model t = vd_test_model_of(vd_test_form(all[i].form));
        struct vd_graph_op op;
        size_t n_bytes;
        uint8_t *file = vd_test_model_bytes(&t, NULL, &n_bytes);
        machine_open(&honest, file, n_bytes);
        lower(file, n_bytes, honest.model);
        machine_open(&cheat, file, n_bytes);
        free(file);

        embed(&honest, &j, all[i].n, all[i].pooling, &honest.root);
        assert_int_equal(replayed(&honest, &j), VD_REPLAY_OK);
        load_everywhere(&honest, &j);
        j.output[1] ^= 1;
        assert_int_equal(replayed(&honest, &j), VD_REPLAY_VECTOR);

        embed(&cheat, &j, all[i].n, all[i].pooling, &honest.root);
        assert_true(replayed(&honest, &j) != VD_REPLAY_OK);
        assert_int_equal(play(&cheat, &honest, &j, &game), VD_GAME_WORKER_TILE);
        struct vd_graph g = {
            vd_model_program(honest.model),
            {.n_prompt = all[i].n, .n_steps = all[i].n, .sampling = {.pooling = all[i].pooling}}};
        vd_graph_op(&g, game.step, game.unit, game.op, &op);
        assert_int_equal(op.kind, VD_OP_PART);
        assert_int_equal(op.tensor, vd_program_layer_tensor(g.program, 1, VD_T_FFN_DOWN));
        assert_int_equal(game.unit, 4);
        machine_close(&honest);
        machine_close(&cheat);
    }
}

/* Each encoder with each weight type: in turn, or, in the long run, every pair. */
static void every_form_and_type(void **state)
{
    static const enum vd_wtype types[] = {VD_WTYPE_F32,  VD_WTYPE_F16,    VD_WTYPE_BF16,   VD_WTYPE_Q4_0,
                                          VD_WTYPE_Q4_1, VD_WTYPE_Q5_0,   VD_WTYPE_Q5_1,   VD_WTYPE_Q8_0,
                                          VD_WTYPE_Q2_K, VD_WTYPE_Q3_K,   VD_WTYPE_Q4_K,   VD_WTYPE_Q5_K,
                                          VD_WTYPE_Q6_K, VD_WTYPE_IQ4_NL, VD_WTYPE_IQ4_XS, VD_WTYPE_MXFP4};
    static const char *const forms[] = {"bert", "bert-fused", "nomic-bert"};
    for (unsigned k = 0; k < 3 * sizeof types / sizeof types[0]; k++) {
        static struct job j;
        struct machine m;
        struct vd_test_model t = vd_test_model_of(vd_test_form(forms[k % 3]));
        size_t n_bytes;
        if (!getenv("VD_LONG") && k / 3 % 3 != k % 3)
            continue;
        vd_test_model_widen(&t);
        t.mats = types[k / 3];
        uint8_t *file = vd_test_model_bytes(&t, NULL, &n_bytes);
        machine_open(&m, file, n_bytes);
        free(file);
        embed(&m, &j, 5 + k, (enum vd_pooling)(1 + k / 3 % 3), &m.root);
        assert_int_equal(replayed(&m, &j), VD_REPLAY_OK);
        load_everywhere(&m, &j);
        machine_close(&m);
    }
}

/* Two receipts that begin alike share nothing, and go through the context one after the other. */
static void many_at_once(void **state)
{
    static struct job j[3];
    struct machine m;
    struct vd_proof_job proof[3];
    struct vd_replay_result r[3];
    struct vd_test_model t = vd_test_model_of(vd_test_form("nomic-bert"));
    struct vd_error err = {0};
    size_t n_bytes;
    uint8_t *file = vd_test_model_bytes(&t, NULL, &n_bytes);
    machine_open(&m, file, n_bytes);
    free(file);
    for (unsigned i = 0; i < 3; i++) {
        embed(&m, &j[i], i == 1 ? 100 : 130, i ? VD_POOLING_LAST : VD_POOLING_MEAN, &m.root);
        proof[i] = j[i].proof;
    }
    j[2].output[0] ^= 1;
    check(vd_replay_many(m.ctx, m.cache, &m.root, proof, 3, r, &err), &err);
    assert_int_equal(r[0].verdict, VD_REPLAY_OK);
    assert_int_equal(r[1].verdict, VD_REPLAY_OK);
    assert_int_equal(r[2].verdict, VD_REPLAY_VECTOR);
    assert_int_equal(r[0].n_shared + r[1].n_shared + r[2].n_shared, 0);
    check(vd_replay_part(m.ctx, m.cache, &m.root, &proof[1], 99, 99, &r[1], &err), &err);
    assert_int_equal(r[1].verdict, VD_REPLAY_OK);
    vd_ctx_destroy(m.ctx);
    check(vd_ctx_create(&m.ctx, m.model, pool, 120, 1, &err), &err); /* too few rows for one of them */
    assert_int_equal(vd_replay_many(m.ctx, m.cache, &m.root, proof, 3, r, &err), VD_ELIMIT);
    machine_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_form), cmocka_unit_test(every_form_and_type),
                                       cmocka_unit_test(many_at_once)};
    struct vd_error err = {0};
    if (vd_pool_create(&pool, 2, &err) != VD_OK)
        return 1;
    int bad = cmocka_run_group_tests(tests, NULL, NULL);
    vd_pool_destroy(pool);
    return bad;
}
