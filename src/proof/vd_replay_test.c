/* With the real model: what is committed while generating is what replay finds in any batching, every kernel
 * table and the scalar operators give the same unit hashes, and a dispute over a wrong weight ends at a tile.
 * Skipped without the model. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vd_commit.h"
#include "vd_embed.h"
#include "vd_player.h"
#include "vd_replay.h"
#include "vd_sampler.h"
#include "vd_trace_model.h"

enum { PROMPT = 12, TOKENS = 8 };

/* A model with what it needs to run. */
struct machine {
    struct vd_model *model;
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
};

static struct vd_pool *pool;
static struct machine honest, cheat;
static struct vd_hash root; /* of the honest model */
static char model_path[4096];

struct job {
    struct vd_receipt receipt;
    uint32_t prompt[PROMPT], output[TOKENS];
    uint8_t salt[VD_SALT_BYTES];
    struct vd_proof_job proof;
};

/* Generates one token at a time, committing as a worker does; the receipt names the honest model in any case.
 * third: the prompt's third token, if not 0. */
static void generate_on(const struct machine *m, struct job *j, const struct vd_sampling *sampling,
                        uint32_t third)
{
    const struct vd_model *model = m->model;
    struct vd_ctx *ctx = m->ctx;
    struct vd_request *q = &j->receipt.request;
    struct vd_graph graph = {
        vd_model_program(model),
        {.n_prompt = PROMPT, .n_steps = UINT32_MAX, .max_tokens = TOKENS, .sampling = *sampling}};
    struct vd_commit *c;
    struct vd_kv *kv;
    uint8_t k[1024], v[1024];
    memset(j, 0, sizeof *j);
    for (unsigned i = 0; i < PROMPT; i++)
        j->prompt[i] = third && i == 2 ? third : 1000 + 37 * i;
    for (unsigned i = 0; i < VD_SALT_BYTES; i++)
        j->salt[i] = (uint8_t)(5 * i);
    *q = (struct vd_request){.arith_version = VD_ARITH_VERSION,
                             .model_root = root,
                             .n_prompt = PROMPT,
                             .max_tokens = TOKENS,
                             .sampling = *sampling,
                             .salt_commit = vd_salt_commit(j->salt),
                             .prompt_root = vd_token_root(j->salt, 0, j->prompt, PROMPT)};
    assert_int_equal(
        vd_commit_open(&c, vd_model_program(model), &j->receipt.request, UINT32_MAX, j->salt, NULL), VD_OK);
    struct vd_sampler *s = vd_sampler_new(vd_model_program(model)->vocab);
    assert_true(vd_model_k_row_bytes(model) <= sizeof k && vd_model_v_row_bytes(model) <= sizeof v);
    assert_int_equal(vd_kv_open(&kv, m->cache, NULL), VD_OK);
    enum vd_stop stop = VD_STOP_NONE;
    for (uint32_t pos = 0; stop == VD_STOP_NONE; pos++) {
        bool head = pos + 1 >= PROMPT;
        uint32_t token = 0;
        struct vd_row row = {kv, pos, pos < PROMPT ? j->prompt[pos] : j->output[pos - PROMPT],
                             head ? VD_ROW_LOGITS : 0};
        assert_int_equal(vd_model_forward(ctx, &row, 1, NULL, NULL), VD_OK);
        if (head) {
            uint64_t r64 = vd_sample_r64(sampling->seed, sampling->choice, pos + 1 - PROMPT);
            token = vd_sampler_choose(s, vd_model_kern(model), vd_ctx_logits(ctx, 0),
                                      &(struct vd_choice){.sampling = sampling, .r64 = r64});
            stop = vd_graph_stop(&graph, pos, token);
            j->output[j->receipt.n_output++] = token;
        }
        vd_kv_read(kv, vd_model_program(model)->n_layers - 1, pos, k, v);
        struct vd_graph_rows outs = {NULL, k, v, head ? vd_ctx_hidden(ctx, 0) : NULL};
        vd_commit_add(c, &outs, token, stop, NULL);
    }
    vd_kv_close(kv);
    vd_sampler_free(s);
    j->receipt.finish = (enum vd_finish)stop;
    j->receipt.commit_root = vd_commit_root(c);
    j->receipt.output_root = vd_commit_output_root(c);
    vd_commit_close(c);
    j->proof = (struct vd_proof_job){
        .receipt = &j->receipt, .prompt = j->prompt, .output = j->output, .job_salt = j->salt};
}

static void generate(struct job *j, const struct vd_sampling *sampling)
{
    generate_on(&honest, j, sampling, 0);
}

static const struct vd_sampling greedy = {0};
static const struct vd_sampling warm = {
    .temp_micro = 800000, .top_k = 50, .top_p_micro = 950000, .min_p_micro = 20000, .seed = 3};

static struct vd_replay_result replayed(const struct job *j)
{
    struct vd_replay_result r;
    struct vd_error err = {0};
    enum vd_err e = vd_replay(honest.ctx, honest.cache, &root, &j->proof, &r, &err);
    if (e != VD_OK)
        fail_msg("%s", err.msg);
    return r;
}

static void replay_equals_generation(void **state)
{
    static const struct vd_sampling *const all[] = {&greedy, &warm};
    for (unsigned i = 0; i < 2; i++) {
        struct job j;
        generate(&j, all[i]);
        struct vd_replay_result r = replayed(&j);
        assert_int_equal(r.verdict, VD_REPLAY_OK);
        assert_true(vd_hash_eq(&r.commit_root, &j.receipt.commit_root));
        struct vd_hash whole = vd_merkle_node(&r.half[0], &r.half[1]);
        assert_true(vd_hash_eq(&whole, &r.commit_root));
        struct vd_hash out = vd_token_root(j.salt, PROMPT, j.output, j.receipt.n_output);
        assert_true(vd_hash_eq(&out, &j.receipt.output_root));
    }
}

/* A job whose result is a vector, committed as a worker does. */
struct vector_job {
    struct vd_receipt receipt;
    uint32_t prompt[PROMPT], *output;
    uint8_t salt[VD_SALT_BYTES];
    struct vd_proof_job proof;
};

static void embed(struct vector_job *j, enum vd_pooling pooling)
{
    const struct vd_program *p = vd_model_program(honest.model);
    struct vd_sampling s = {.pooling = pooling, .top_p_micro = VD_SAMPLE_MICRO};
    struct vd_embed *e;
    struct vd_commit *c;
    struct vd_kv *kv;
    uint8_t k[1024], v[1024];
    memset(j, 0, sizeof *j);
    j->output = calloc(p->width, sizeof *j->output);
    for (unsigned i = 0; i < PROMPT; i++)
        j->prompt[i] = 1000 + 37 * i;
    j->receipt = (struct vd_receipt){.request = {.arith_version = VD_ARITH_VERSION,
                                                 .model_root = root,
                                                 .n_prompt = PROMPT,
                                                 .max_tokens = p->width,
                                                 .sampling = s,
                                                 .salt_commit = vd_salt_commit(j->salt),
                                                 .prompt_root = vd_token_root(j->salt, 0, j->prompt, PROMPT)},
                                     .n_output = p->width,
                                     .finish = VD_FINISH_LENGTH};
    assert_int_equal(vd_commit_open(&c, p, &j->receipt.request, UINT32_MAX, j->salt, NULL), VD_OK);
    assert_int_equal(vd_embed_create(&e, honest.model, pooling, NULL), VD_OK);
    assert_int_equal(vd_kv_open(&kv, honest.cache, NULL), VD_OK);
    for (uint32_t pos = 0; pos < PROMPT; pos++) {
        bool last = pos + 1 == PROMPT, counts = last || pooling == VD_POOLING_MEAN;
        struct vd_row row = {kv, pos, j->prompt[pos], counts ? VD_ROW_HIDDEN : 0};
        assert_int_equal(vd_model_forward(honest.ctx, &row, 1, NULL, NULL), VD_OK);
        const float *x = counts ? vd_ctx_hidden(honest.ctx, 0) : NULL;
        if (x)
            vd_embed_add(e, x);
        vd_kv_read(kv, p->n_layers - 1, pos, k, v);
        vd_commit_add_vector(c, &(struct vd_graph_rows){NULL, k, v, x}, x ? vd_embed_sum(e) : NULL,
                             last ? vd_embed_vector(e) : NULL);
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

static void vectors_are_replayed(void **state)
{
    static const enum vd_pooling all[] = {VD_POOLING_LAST, VD_POOLING_MEAN};
    for (unsigned i = 0; i < 2; i++) {
        struct vector_job j;
        struct vd_replay_result r;
        struct vd_trace_model *t;
        struct vd_error err = {0};
        embed(&j, all[i]);
        struct vd_hash out = vd_output_root(&j.receipt.request, j.salt, j.output, j.receipt.n_output);
        assert_true(vd_hash_eq(&out, &j.receipt.output_root));
        assert_int_equal(vd_replay(honest.ctx, honest.cache, &root, &j.proof, &r, &err), VD_OK);
        assert_int_equal(r.verdict, VD_REPLAY_OK);
        assert_int_equal(
            vd_replay_part(honest.ctx, honest.cache, &root, &j.proof, PROMPT - 1, PROMPT - 1, &r, &err),
            VD_OK);
        assert_int_equal(r.verdict, VD_REPLAY_OK);
        if (vd_trace_model_open(&t, honest.model, honest.ctx, honest.cache, &j.proof, &err) != VD_OK)
            fail_msg("%s", err.msg);
        struct vd_trace *trace = vd_trace_model_trace(t);
        uint32_t unit = vd_model_program(honest.model)->n_layers + 1;
        assert_true(vd_hash_eq(&trace->commit_root, &j.receipt.commit_root));
        if (vd_trace_load(trace, PROMPT - 1, unit, &err) != VD_OK)
            fail_msg("%s", err.msg); /* the scalar operators give the engine's vector */
        vd_trace_model_close(t);
        j.output[7] ^= 1;
        assert_int_equal(vd_replay(honest.ctx, honest.cache, &root, &j.proof, &r, &err), VD_OK);
        assert_int_equal(r.verdict, VD_REPLAY_VECTOR);
        assert_int_equal(r.step, PROMPT - 1);
        j.output[7] ^= 1;
        j.receipt.commit_root.b[0] ^= 1;
        assert_int_equal(vd_replay(honest.ctx, honest.cache, &root, &j.proof, &r, &err), VD_OK);
        assert_int_equal(r.verdict, VD_REPLAY_COMMIT);
        free(j.output);
    }
}

static void replay_finds_lies(void **state)
{
    struct job own, j;
    generate(&own, &greedy);
    j = own;
    j.proof = (struct vd_proof_job){
        .receipt = &j.receipt, .prompt = j.prompt, .output = j.output, .job_salt = j.salt};
    j.output[2]++;
    struct vd_replay_result r = replayed(&j);
    assert_int_equal(r.verdict, VD_REPLAY_TOKEN);
    assert_int_equal(r.step, PROMPT + 1);
    assert_int_equal(r.want, own.output[2]);
    assert_int_equal(r.got, own.output[2] + 1);
    j.output[2]--;
    j.receipt.commit_root.b[31] ^= 1;
    assert_int_equal(replayed(&j).verdict, VD_REPLAY_COMMIT);
    j.receipt.commit_root.b[31] ^= 1;
    j.receipt.finish = own.receipt.finish == VD_FINISH_STOP ? VD_FINISH_LENGTH : VD_FINISH_STOP;
    assert_int_equal(replayed(&j).verdict, VD_REPLAY_STOP);
    j.receipt.finish = own.receipt.finish;
    j.receipt.n_output--; /* as if it had ended earlier */
    assert_int_equal(replayed(&j).verdict, VD_REPLAY_STOP);
    j.receipt.n_output++;
    j.receipt.request.model_root.b[0] ^= 1;
    assert_int_equal(replayed(&j).verdict, VD_REPLAY_MODEL);
    j.receipt.request.model_root.b[0] ^= 1;
    j.receipt.request.max_tokens = j.receipt.n_output - 1;
    assert_int_equal(replayed(&j).verdict, VD_REPLAY_JOB);
}

/* Token ids that no vocabulary has keep nobody from replaying and tracing: they are fed as EMBED reads them,
 * and one in the output is a lie like any other. */
static void tokens_outside_the_vocabulary(void **state)
{
    struct job j;
    struct vd_trace_model *tm;
    uint32_t vocab = vd_model_program(honest.model)->vocab;
    generate_on(&honest, &j, &greedy, vocab - 1);
    j.prompt[2] = vocab + 3;
    assert_int_equal(replayed(&j).verdict, VD_REPLAY_OK);
    j.output[1] = UINT32_MAX;
    struct vd_replay_result r = replayed(&j);
    assert_int_equal(r.verdict, VD_REPLAY_TOKEN);
    assert_int_equal(r.step, PROMPT);
    assert_int_equal(r.got, UINT32_MAX);
    assert_int_equal(vd_trace_model_open(&tm, honest.model, honest.ctx, honest.cache, &j.proof, NULL), VD_OK);
    struct vd_trace *t = vd_trace_model_trace(tm);
    assert_int_equal(vd_trace_load(t, 2, 0, NULL), VD_OK); /* the scalar EMBED says the same */
    assert_int_equal(vd_trace_load(t, PROMPT + 1, 0, NULL), VD_OK);
    assert_int_equal(vd_trace_load(t, PROMPT + 1, 1, NULL), VD_OK);
    vd_trace_model_close(tm);
}

/* vd_trace_load compares the unit hash of the scalar operators with the engine's: the first, a middle and the
 * last block, embedding and head, early and late. */
static void scalar_units_equal_the_engine(void **state)
{
    struct job j;
    struct vd_trace_model *tm;
    struct vd_error err = {0};
    generate(&j, &warm);
    assert_int_equal(vd_trace_model_open(&tm, honest.model, honest.ctx, honest.cache, &j.proof, &err), VD_OK);
    struct vd_trace *t = vd_trace_model_trace(tm);
    assert_true(vd_hash_eq(&t->commit_root, &j.receipt.commit_root));
    uint32_t last = t->graph.job.n_steps - 1, blocks = t->graph.program->n_layers;
    const uint32_t at[][2] = {{0, 0},
                              {0, 1},
                              {3, blocks},
                              {last, 0},
                              {last, 1},
                              {last - 1, 15},
                              {last, blocks},
                              {PROMPT - 1, blocks + 1},
                              {last, blocks + 1}};
    for (unsigned i = 0; i < sizeof at / sizeof at[0]; i++)
        if (vd_trace_load(t, at[i][0], at[i][1], &err) != VD_OK)
            fail_msg("%s", err.msg);
    vd_trace_model_close(tm);
}

/* A false challenge against the engine's honest trace, at every operator of a block and the head: openings
 * with proofs from the model file convince the referee. */
static void openings_of_the_real_model(void **state)
{
    struct job j;
    struct vd_trace_model *tm;
    struct vd_ref_claim claim;
    static struct vd_game game;
    static struct vd_player_move move;
    static uint8_t opening[VD_OPENING_MAX_BYTES];
    generate(&j, &warm);
    assert_int_equal(vd_trace_model_open(&tm, honest.model, honest.ctx, honest.cache, &j.proof, NULL), VD_OK);
    struct vd_trace *t = vd_trace_model_trace(tm);
    assert_true(vd_ref_claim_init(&claim, &j.receipt, vd_model_program(honest.model),
                                  vd_model_program_bytes(honest.model)));
    uint32_t step = t->graph.job.n_steps - 1, head = t->graph.program->n_layers + 1;
    const uint32_t units[] = {0, 7, head};
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(vd_trace_load(t, step, units[i], NULL), VD_OK);
        for (uint32_t o = 0; o < t->u.n_ops; o += o >= 10 && o < 42 && i == 2 ? 5 : 1) {
            if (t->u.op[o].n_records == 0)
                continue;
            uint64_t record = t->u.op[o].n_records / 3, leaf = record / t->u.op[o].leaf_records;
            const uint64_t picks[] = {step, units[i], o, leaf};
            unsigned n = 0;
            vd_game_open(&game);
            while (game.phase != VD_PHASE_C_TILE) {
                static const enum vd_move_kind kinds[] = {VD_MOVE_STEP, VD_MOVE_UNIT, VD_MOVE_OP,
                                                          VD_MOVE_LEAF};
                enum vd_game_side side = vd_game_turn(&game);
                if (side == VD_GAME_WORKER) {
                    assert_int_equal(vd_player_worker_answer(t, &game, &move, NULL), VD_OK);
                } else {
                    struct vd_move c = {.kind = kinds[n], .index = picks[n]};
                    move.n_bytes = vd_move_encode(&c, move.bytes, sizeof move.bytes);
                    n++;
                }
                struct vd_bytes bytes = {move.bytes, move.n_bytes};
                assert_int_equal(vd_game_move(&game, &claim, NULL, side, bytes), VD_GAME_ACCEPTED);
            }
            struct vd_move c = {
                .kind = VD_MOVE_TILE, .index = record % t->u.op[o].leaf_records, .data = {opening, 0}};
            assert_int_equal(vd_opening_tile(t, &game, o, record, opening, sizeof opening, &c.data.n, NULL),
                             VD_OK);
            move.n_bytes = vd_move_encode(&c, move.bytes, sizeof move.bytes);
            struct vd_bytes bytes = {move.bytes, move.n_bytes};
            enum vd_game_result r = vd_game_move(&game, &claim, NULL, VD_GAME_CHALLENGER, bytes);
            if (r != VD_GAME_CHALLENGER_TILE)
                fail_msg("unit %u, %s: %s", units[i], vd_op_name(t->u.op[o].kind), vd_game_result_text(r));
        }
    }
    vd_trace_model_close(tm);
}

/* ---- the cheat that people fear: one layer's weights of lower precision ---- */

enum { CHEAT_LAYER = 11, CHEAT_ROWS = 576 };

/* Clears the lowest bit of every weight in the layer's attn_output, in the file's bytes. */
static void lower_precision(uint8_t *file, size_t n_bytes)
{
    uint32_t tensor = vd_program_layer_tensor(vd_model_program(honest.model), CHEAT_LAYER, VD_T_ATTN_OUTPUT);
    struct vd_bytes row = vd_model_tensor_bytes(honest.model, tensor, 0);
    assert_int_equal(vd_program_tensor(vd_model_program(honest.model), tensor).type, VD_WTYPE_Q4_1);
    uint8_t *at = memmem(file, n_bytes, row.p, row.n);
    assert_non_null(at);
    for (size_t i = 0; i < CHEAT_ROWS * row.n; i++)
        if (i % 20 >= 4)
            at[i] &= 0xEE;
}

static enum vd_err machine_open(struct machine *m, const char *path, struct vd_error *err)
{
    enum vd_err e = vd_model_open(&m->model, path, vd_kern_pick(NULL, NULL), pool, err);
    if (e == VD_OK)
        e = vd_ctx_create(&m->ctx, m->model, pool, 16, 5, err); /* odd batches on purpose */
    return e == VD_OK ? vd_kv_pool_create(&m->cache, m->model, 64 << 20, err) : e;
}

static void machine_close(struct machine *m)
{
    vd_kv_pool_destroy(m->cache);
    vd_ctx_destroy(m->ctx);
    vd_model_close(m->model);
}

static void open_cheat(void)
{
    char path[] = "/tmp/vd_replay_test.XXXXXX";
    struct vd_error err = {0};
    FILE *in = fopen(model_path, "rb");
    assert_non_null(in);
    assert_int_equal(fseek(in, 0, SEEK_END), 0);
    size_t n = (size_t)ftell(in);
    rewind(in);
    uint8_t *file = malloc(n);
    assert_non_null(file);
    assert_int_equal(fread(file, 1, n, in), n);
    fclose(in);
    lower_precision(file, n);
    int fd = mkstemp(path);
    FILE *out = fdopen(fd, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(file, 1, n, out), n);
    assert_int_equal(fclose(out), 0);
    free(file);
    enum vd_err e = machine_open(&cheat, path, &err);
    unlink(path);
    if (e != VD_OK)
        fail_msg("%s", err.msg);
}

static void a_layer_of_lower_precision_is_pinned(void **state)
{
    struct job j;
    struct vd_trace_model *worker, *challenger;
    struct vd_ref_claim claim;
    static struct vd_game game;
    static struct vd_player_move move;
    struct vd_error err = {0};
    open_cheat();
    generate_on(&cheat, &j, &greedy, 0);
    assert_true(replayed(&j).verdict != VD_REPLAY_OK);
    assert_true(vd_ref_claim_init(&claim, &j.receipt, vd_model_program(honest.model),
                                  vd_model_program_bytes(honest.model)));
    assert_int_equal(vd_trace_model_open(&worker, cheat.model, cheat.ctx, cheat.cache, &j.proof, &err),
                     VD_OK);
    assert_int_equal(vd_trace_model_open(&challenger, honest.model, honest.ctx, honest.cache, &j.proof, &err),
                     VD_OK);
    enum vd_game_result r = VD_GAME_ACCEPTED;
    vd_game_open(&game);
    while (r == VD_GAME_ACCEPTED) {
        enum vd_game_side side = vd_game_turn(&game);
        enum vd_err e =
            side == VD_GAME_WORKER
                ? vd_player_worker_answer(vd_trace_model_trace(worker), &game, &move, &err)
                : vd_player_challenger_point(vd_trace_model_trace(challenger), &claim, &game, &move, &err);
        if (e != VD_OK)
            fail_msg("%s", err.msg);
        r = vd_game_move(&game, &claim, NULL, side, (struct vd_bytes){move.bytes, move.n_bytes});
    }
    assert_int_equal(r, VD_GAME_WORKER_TILE);
    assert_int_equal(game.step, 0);
    assert_int_equal(game.unit, CHEAT_LAYER + 1);
    struct vd_graph_op op; /* PART of the attention output */
    vd_graph_op(&claim.graph, game.step, game.unit, game.op, &op);
    assert_int_equal(op.kind, VD_OP_PART);
    assert_int_equal(op.tensor, vd_program_layer_tensor(claim.graph.program, CHEAT_LAYER, VD_T_ATTN_OUTPUT));
    vd_trace_model_close(worker);
    vd_trace_model_close(challenger);
    machine_close(&cheat);
}

static void open_honest(void)
{
    struct vd_error err = {0};
    const char *home = getenv("VERIDEM_HOME"), *user = getenv("HOME");
    snprintf(model_path, sizeof model_path, "%s%s/models/SmolLM2-135M-Instruct.Q4_1.gguf",
             home   ? home
             : user ? user
                    : "",
             home ? "" : "/.veridem");
    enum vd_err e = vd_pool_create(&pool, 2, &err);
    if (e == VD_OK)
        e = machine_open(&honest, model_path, &err);
    if (e == VD_ENOTFOUND) {
        printf("skipped: %s\n", err.msg);
        exit(77);
    }
    if (e == VD_OK)
        e = vd_model_root(honest.model, pool, &root, &err);
    if (e != VD_OK) {
        printf("%s\n", err.msg);
        exit(1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replay_equals_generation),
        cmocka_unit_test(replay_finds_lies),
        cmocka_unit_test(vectors_are_replayed),
        cmocka_unit_test(tokens_outside_the_vocabulary),
        cmocka_unit_test(scalar_units_equal_the_engine),
        cmocka_unit_test(openings_of_the_real_model),
        cmocka_unit_test(a_layer_of_lower_precision_is_pinned),
    };
    open_honest();
    int bad = cmocka_run_group_tests(tests, NULL, NULL);
    machine_close(&honest);
    vd_pool_destroy(pool);
    return bad;
}
