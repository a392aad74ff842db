/* The referee's time per tile: at each operator of a block and of the head the slowest of a few records, each
 * the best of REPEATS runs. The openings are those of real games on a model that makes them large: heads of
 * 256, chunks of 64 keys, full tiles of 4,096 logits, penalties, biases, a mask and a draw with top-k and
 * top-p. What a larger model adds are longer proofs only. The bar is 200 us. */
#define TOY_POSITIONS 1100

#include "vd_player.h"
#include "vd_toy.h"

#include <stdio.h>
#include <time.h>

enum { PROMPT = 2, TOKENS = 1020, REPEATS = 30, RECORDS = 4, BAR_US = 200 };

static const struct vd_sampling sampling = {.temp_micro = 900000,
                                            .top_k = 3000,
                                            .top_p_micro = 900000,
                                            .min_p_micro = 1000,
                                            .seed = 7,
                                            .repeat_micro = 1300000,
                                            .repeat_last_n = VD_PENALTY_WINDOW,
                                            .presence_micro = 500000,
                                            .has_bias = true,
                                            .has_mask = true};

static struct vd_program program(void)
{
    struct vd_program p = toy_program(VD_ROPE_HALVES);
    static const uint8_t types[] = {VD_WTYPE_F32, VD_WTYPE_Q6_K, VD_WTYPE_Q8_0};
    p.width = 256;
    p.n_heads = 2;
    p.n_kv_heads = 1;
    p.head_dim = 256;
    p.ff_width = 32;
    p.n_layers = 1;
    p.n_experts = 64;
    p.n_used = 2;
    p.qk_norm = p.qkv_bias = p.post_norms = true;
    p.attn_cap = 30.0f;
    p.logit_cap = 30.0f;
    p.act = VD_ACT_GELU;
    toy_types(&p, types, sizeof types);
    if (vd_program_check(&p)) {
        fprintf(stderr, "%s\n", vd_program_check(&p));
        abort();
    }
    return p;
}

static struct vd_game game;
static struct vd_player_move move;

static void must(bool ok)
{
    if (!ok)
        abort();
}

static void point(const struct vd_ref_claim *claim, enum vd_move_kind kind, uint64_t index)
{
    struct vd_move m = {.kind = kind, .index = index};
    struct vd_bytes b = {move.bytes, vd_move_encode(&m, move.bytes, sizeof move.bytes)};
    must(vd_game_move(&game, claim, NULL, VD_GAME_CHALLENGER, b) == VD_GAME_ACCEPTED);
}

/* Leads a game on the honest worker to the leaf of a record. */
static void lead(struct vd_trace *t, const struct vd_ref_claim *claim, uint32_t step, uint32_t unit,
                 uint32_t op, uint64_t leaf)
{
    vd_game_open(&game);
    while (game.phase != VD_PHASE_C_TILE) {
        if (vd_game_turn(&game) == VD_GAME_WORKER) {
            must(vd_player_worker_answer(t, &game, &move, NULL) == VD_OK);
            struct vd_bytes b = {move.bytes, move.n_bytes};
            must(vd_game_move(&game, claim, NULL, VD_GAME_WORKER, b) == VD_GAME_ACCEPTED);
        } else if (game.phase == VD_PHASE_C_STATE) {
            point(claim, VD_MOVE_STEP, step);
        } else if (game.phase == VD_PHASE_C_UNIT) {
            point(claim, VD_MOVE_UNIT, unit);
        } else if (game.phase == VD_PHASE_C_OP) {
            point(claim, VD_MOVE_OP, op);
        } else {
            must(game.phase == VD_PHASE_C_LEAF && leaf < game.n_shown);
            point(claim, VD_MOVE_LEAF, leaf);
        }
    }
}

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static double tile_us(struct vd_trace *t, const struct vd_ref_claim *claim, uint32_t op, uint64_t record,
                      uint32_t leaf_records, size_t *n_bytes)
{
    static uint8_t opening[VD_OPENING_MAX_BYTES];
    struct vd_game_tile tile;
    double best = 1e9;
    must(vd_opening_tile(t, &game, op, record, opening, sizeof opening, n_bytes, NULL) == VD_OK);
    for (int i = 0; i < REPEATS; i++) {
        double began = now_us();
        must(vd_game_tile(&game, claim, record % leaf_records, (struct vd_bytes){opening, *n_bytes}, &tile) ==
             VD_REF_CHALLENGER_LOSES);
        double took = now_us() - began;
        best = took < best ? took : best;
    }
    return best;
}

int main(void)
{
    struct vd_program p = program();
    struct vd_toy_model *model = toy_model_new(&p, 1, 0.1f);
    struct vd_toy_job *job = toy_job_new(model, PROMPT, TOKENS, &sampling);
    struct vd_trace *t = toy_trace(job);
    struct vd_ref_claim claim = toy_claim(job, t);
    struct vd_rng rng = {1, 0};
    uint32_t step = job->graph.job.n_steps - 1;
    double us[VD_OP_KINDS] = {0}, worst = 0;
    size_t bytes[VD_OP_KINDS] = {0};
    for (uint32_t unit = 0; unit < vd_graph_units(&job->graph, step); unit++)
        for (uint32_t op = 0; op < vd_graph_ops(&job->graph, step, unit); op++) {
            struct vd_graph_op o;
            vd_graph_op(&job->graph, step, unit, op, &o);
            for (unsigned i = 0; o.n_records && i < RECORDS; i++) {
                size_t n;
                uint64_t r = i == 0 ? o.n_records - 1 : vd_rng_below(&rng, o.n_records);
                lead(t, &claim, step, unit, op, r / o.leaf_records);
                double took = tile_us(t, &claim, op, r, o.leaf_records, &n);
                us[o.kind] = took > us[o.kind] ? took : us[o.kind];
                bytes[o.kind] = n > bytes[o.kind] ? n : bytes[o.kind];
            }
        }
    for (unsigned k = 0; k < VD_OP_KINDS; k++) {
        if (bytes[k])
            printf("%-12s %8.1f us  opening %6zu bytes\n", vd_op_name((enum vd_op)k), us[k], bytes[k]);
        worst = us[k] > worst ? us[k] : worst;
    }
    printf("worst tile   %8.1f us  (bar %d us)\n", worst, BAR_US);
    vd_trace_destroy(t);
    toy_job_free(job);
    toy_model_free(model);
    return worst <= BAR_US ? 0 : 1;
}
