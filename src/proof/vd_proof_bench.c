/* What proofs cost, on the real model:
 *
 *   vd_proof_bench [MODEL] [--threads N] [--reps N] [--only SECTION[,SECTION...]] [--rows N] [--logits N]
 *                  [--peer-tg TOK_PER_S] [--peer-pp32-s SECONDS] [--peer-tg32-s SECONDS]
 *
 * Sections (default: all): receipt; greedy, top-k, top-p, temp (together: replay); replay32; check; commit;
 * dispute; game.
 *
 * - receipt: 512 + 128 tokens, greedy, without and with what a receipt needs (rows read back, commit leaves,
 *   roots, signature), in pairs in this process: that work's share of the time of prefill and of decode, and
 *   the ratio of the paired runs, medians both.
 * - replay: of 128 + 128 tokens against a bare prefill of the same rows with 128 rows of logits, alternating
 *   in this process: the ratio of the best times; greedy, with top-k 50 and top-p 0.95, with top-p 0.95
 * alone, with temperature alone, all on flat logits; with --peer-tg also against the time in which another
 *   engine generates 128 tokens at that rate.
 * - replay32: of 32 receipts of 128 + 128 tokens in one call (passes of --rows rows, --logits of them with
 *   logits), with prompts of their own and with one prompt for all, against our own generation of 32 x 128
 *   tokens, 32 at once (greedy; without the prompts). With --peer-pp32-s and --peer-tg32-s, in which another
 *   engine runs 32 prompts of 128 tokens and then generates 128 tokens for each, also against that: the whole
 *   of it, since a replay runs the prompts too, and the answers alone.
 * - check: of a receipt of 128 + 128 tokens without a model: signatures, fields, price, salt, both roots.
 * - commit: time per generated position.
 * - dispute: over 256 positions, the lie in one tile of each operator of a middle block and the head: worker
 *   moves, largest move and opening, and the referee's time for the tile (best of several).
 * - game: a whole one over 128 + 128 tokens, which a worker generated with some wrong bits in one row of a
 *   middle layer's weights. From the receipt to the verdict: the challenger's replay, both players' traces
 * and all moves, one after the other in this process (best of several); without the ledger's blocks.
 */
#include "vd_clock.h"
#include "vd_commit.h"
#include "vd_file.h"
#include "vd_key.h"
#include "vd_player.h"
#include "vd_replay.h"
#include "vd_sampler.h"
#include "vd_trace_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    PROMPT = 128,
    OUTPUT = 128,
    ROWS = 256,
    LONG = 512 /* a multiple of ROWS */,
    MANY = 32,
    MANY_ROWS = 512,
    MANY_LOGITS = 256
};

struct bench {
    struct vd_pool *pool;
    struct vd_model *model;
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
    const char *path;
    struct vd_hash root;
    struct vd_receipt receipt;
    uint32_t tokens[PROMPT + OUTPUT];
    uint8_t salt[VD_SALT_BYTES];
    struct vd_proof_job job;
    unsigned reps;
    unsigned many_rows, many_logits;
    double peer_tg;                  /* tokens/s; 0: no peer */
    double peer_pp32_s, peer_tg32_s; /* for 32 prompts, 32 answers; 0: no peer */
    const char *only;                /* names of sections; NULL: all */
};

static void check(enum vd_err e, const struct vd_error *err)
{
    if (e == VD_OK)
        return;
    fprintf(stderr, "%s\n", err->msg);
    exit(3);
}

/* A receipt over arbitrary tokens: replay then finds wrong tokens, at the same cost. */
static void make_job(struct bench *b, const struct vd_sampling *sampling)
{
    for (uint32_t i = 0; i < PROMPT + OUTPUT; i++)
        b->tokens[i] = (i * 7919 + 12345) % vd_model_program(b->model)->vocab;
    b->receipt = (struct vd_receipt){
        .request = {.model_root = b->root, .n_prompt = PROMPT, .max_tokens = OUTPUT, .sampling = *sampling},
        .n_output = OUTPUT,
        .finish = VD_FINISH_LENGTH};
    struct vd_request *q = &b->receipt.request;
    q->salt_commit = vd_salt_commit(b->salt);
    q->prompt_root = vd_token_root(b->salt, 0, b->tokens, PROMPT);
    b->receipt.output_root = vd_token_root(b->salt, PROMPT, b->tokens + PROMPT, OUTPUT);
    b->job = (struct vd_proof_job){
        .receipt = &b->receipt, .prompt = b->tokens, .output = b->tokens + PROMPT, .job_salt = b->salt};
}

static double prefill_s(struct bench *b)
{
    static struct vd_row rows[ROWS];
    struct vd_error err;
    struct vd_kv *kv;
    check(vd_kv_open(&kv, b->cache, &err), &err);
    for (uint32_t i = 0; i < ROWS; i++)
        rows[i] = (struct vd_row){kv, i, b->tokens[i], i >= ROWS - OUTPUT ? VD_ROW_LOGITS : 0};
    uint64_t t = vd_clock_ns();
    check(vd_model_forward(b->ctx, rows, ROWS, NULL, &err), &err);
    t = vd_clock_ns() - t;
    vd_kv_close(kv);
    return 1e-9 * (double)t;
}

static double replay_s(struct bench *b, struct vd_replay_result *r)
{
    struct vd_error err;
    uint64_t t = vd_clock_ns();
    check(vd_replay(b->ctx, b->cache, &b->root, &b->job, r, &err), &err);
    return 1e-9 * (double)(vd_clock_ns() - t);
}

/* ---- generation ---- */

/* What making a receipt costs of a run, and of its two parts. */
struct generation {
    double prefill_s, decode_s;
    double prefill_receipt_s, decode_receipt_s; /* of these the receipt's work */
};

/* The commit data of one position, as a worker adds them. */
static void add_position(struct bench *b, struct vd_commit *c, const struct vd_kv *kv, uint32_t pos,
                         const float *x, uint32_t token, enum vd_stop stop)
{
    static uint8_t k[16384], v[16384];
    vd_kv_read(kv, vd_model_program(b->model)->n_layers - 1, pos, k, v);
    vd_commit_add(c, &(struct vd_graph_rows){NULL, k, v, x}, token, stop, NULL);
}

static void finish_receipt(struct bench *b, struct vd_commit *c, const struct vd_keypair *key)
{
    uint8_t body[VD_RECEIPT_MAX_BYTES];
    struct vd_sig sig;
    b->receipt.commit_root = vd_commit_root(c);
    b->receipt.output_root = vd_commit_output_root(c);
    size_t n = vd_receipt_encode(&b->receipt, body, sizeof body);
    vd_key_sign(&sig, key, VD_TAG_RECEIPT, body, n);
}

/* A prompt of LONG tokens in passes of ROWS, then OUTPUT tokens one by one. */
static struct generation generate(struct bench *b, struct vd_sampler *sampler, const struct vd_keypair *key,
                                  bool receipt)
{
    const struct vd_sampling greedy = {0};
    const struct vd_request q = {.n_prompt = LONG, .max_tokens = OUTPUT, .sampling = greedy};
    struct generation g = {0};
    struct vd_commit *c;
    struct vd_error err;
    struct vd_kv *kv;
    struct vd_row rows[ROWS];
    uint32_t pos = 0, token = 0, vocab = vd_model_program(b->model)->vocab;
    check(vd_kv_open(&kv, b->cache, &err), &err);
    uint64_t opened = vd_clock_ns();
    check(vd_commit_open(&c, vd_model_program(b->model), &q, UINT32_MAX, b->salt, &err), &err);
    g.prefill_receipt_s = 1e-9 * (double)(vd_clock_ns() - opened);
    while (pos < LONG + OUTPUT - 1) {
        bool prompt = pos < LONG;
        uint32_t n = prompt ? ROWS : 1;
        uint64_t began = vd_clock_ns();
        for (uint32_t i = 0; i < n; i++)
            rows[i] = (struct vd_row){kv, pos + i, prompt ? (pos + i) * 7919 % vocab : token,
                                      pos + i >= LONG - 1 ? VD_ROW_LOGITS : 0};
        check(vd_model_forward(b->ctx, rows, n, NULL, &err), &err);
        pos += n;
        if (pos >= LONG)
            token = vd_sampler_choose(sampler, vd_model_kern(b->model), vd_ctx_logits(b->ctx, n - 1),
                                      &(struct vd_choice){.sampling = &greedy});
        uint64_t t = vd_clock_ns();
        for (uint32_t i = 0; receipt && i < n; i++)
            add_position(b, c, kv, rows[i].pos, rows[i].flags ? vd_ctx_hidden(b->ctx, i) : NULL, token,
                         VD_STOP_NONE);
        if (receipt && pos == LONG + OUTPUT - 1)
            finish_receipt(b, c, key);
        uint64_t end = vd_clock_ns();
        *(prompt ? &g.prefill_s : &g.decode_s) += 1e-9 * (double)(end - began);
        *(prompt ? &g.prefill_receipt_s : &g.decode_receipt_s) += 1e-9 * (double)(end - t);
    }
    vd_kv_close(kv);
    vd_commit_close(c);
    return g;
}

static int double_cmp(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, unsigned n)
{
    qsort(v, n, sizeof *v, double_cmp);
    return v[n / 2];
}

/* In pairs, which take turns in going first. */
static void bench_generate(struct bench *b)
{
    enum { PAIRS_MAX = 64 };
    double prefill[PAIRS_MAX], decode[PAIRS_MAX], share[2][PAIRS_MAX];
    const struct vd_sampling greedy = {0};
    struct vd_keypair key;
    struct vd_sampler *sampler = vd_sampler_new(vd_model_program(b->model)->vocab);
    unsigned pairs = b->reps < PAIRS_MAX ? b->reps : PAIRS_MAX;
    if (!sampler)
        exit(3);
    make_job(b, &greedy);
    vd_key_generate(&key);
    for (unsigned i = 0; i < pairs; i++) {
        struct generation g[2];
        for (unsigned k = 0; k < 2; k++)
            g[(i + k) % 2] = generate(b, sampler, &key, (i + k) % 2);
        prefill[i] = g[1].prefill_s / g[0].prefill_s;
        decode[i] = g[1].decode_s / g[0].decode_s;
        share[0][i] = 100 * g[1].prefill_receipt_s / g[1].prefill_s;
        share[1][i] = 100 * g[1].decode_receipt_s / g[1].decode_s;
    }
    vd_sampler_free(sampler);
    printf("receipt        %.2f %% of a prefill of %u, %.2f %% of decoding %u (its own time, medians of %u); "
           "paired runs %.3f and %.3f\n",
           median(share[0], pairs), LONG, median(share[1], pairs), OUTPUT, pairs, median(prefill, pairs),
           median(decode, pairs));
}

static void bench_replay(struct bench *b, const char *name, const struct vd_sampling *sampling)
{
    double prefill = 1e9, replay = 1e9;
    struct vd_replay_result r = {0}, best = {0};
    make_job(b, sampling);
    for (unsigned i = 0; i < b->reps; i++) {
        double p = prefill_s(b), t = replay_s(b, &r);
        prefill = p < prefill ? p : prefill;
        if (t < replay) {
            replay = t;
            best = r;
        }
    }
    printf("replay %-7s %7.1f ms  prefill %7.1f ms  ratio %.3f  (forward %.1f, sampling %.1f, hashing %.2f "
           "ms)\n",
           name, 1e3 * replay, 1e3 * prefill, replay / prefill, 1e-6 * (double)best.forward_ns,
           1e-6 * (double)best.sample_ns, 1e-6 * (double)best.hash_ns);
    if (b->peer_tg > 0)
        printf("               the peer generates 128 tokens in %.1f ms: replay is %.1f times faster\n",
               1e3 * OUTPUT / b->peer_tg, OUTPUT / b->peer_tg / replay);
}

/* ---- many at once ---- */

struct many {
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
    struct vd_receipt receipt[MANY];
    uint32_t tokens[MANY][PROMPT + OUTPUT];
    struct vd_proof_job job[MANY];
    struct vd_replay_result result[MANY];
};

static void make_many(struct bench *b, struct many *m, bool same_prompt)
{
    for (uint32_t i = 0; i < MANY; i++) {
        for (uint32_t k = 0; k < PROMPT + OUTPUT; k++)
            m->tokens[i][k] = (k * 7919 + (same_prompt && k < PROMPT ? 0 : i * 104729) + 12345) %
                              vd_model_program(b->model)->vocab;
        m->receipt[i] = b->receipt;
        m->job[i] = b->job;
        m->job[i].receipt = &m->receipt[i];
        m->job[i].prompt = m->tokens[i];
        m->job[i].output = m->tokens[i] + PROMPT;
    }
}

static double replay_many_s(struct bench *b, struct many *m, bool same_prompt)
{
    struct vd_error err;
    double best = 1e9;
    make_many(b, m, same_prompt);
    for (unsigned i = 0; i < 3 && i < b->reps; i++) {
        uint64_t t = vd_clock_ns();
        check(vd_replay_many(m->ctx, m->cache, &b->root, m->job, MANY, m->result, &err), &err);
        double s = 1e-9 * (double)(vd_clock_ns() - t);
        best = s < best ? s : best;
    }
    return best;
}

/* One position of every sequence per pass, as a worker with 32 jobs; the prompts are run before. */
static double decode_many_s(struct bench *b, struct many *m)
{
    const struct vd_sampling greedy = {0};
    struct vd_sampler *sampler = vd_sampler_new(vd_model_program(b->model)->vocab);
    struct vd_error err;
    struct vd_kv *kv[MANY];
    struct vd_row rows[PROMPT];
    make_many(b, m, false);
    for (uint32_t i = 0; i < MANY; i++) {
        check(vd_kv_open(&kv[i], m->cache, &err), &err);
        for (uint32_t k = 0; k < PROMPT; k++)
            rows[k] = (struct vd_row){kv[i], k, m->tokens[i][k], 0};
        check(vd_model_forward(m->ctx, rows, PROMPT, NULL, &err), &err);
    }
    uint64_t t = vd_clock_ns();
    for (uint32_t k = 0; k < OUTPUT; k++) {
        for (uint32_t i = 0; i < MANY; i++)
            rows[i] = (struct vd_row){kv[i], PROMPT + k, m->tokens[i][PROMPT + k], VD_ROW_LOGITS};
        check(vd_model_forward(m->ctx, rows, MANY, NULL, &err), &err);
        for (uint32_t i = 0; i < MANY; i++)
            vd_sampler_choose(sampler, vd_model_kern(b->model), vd_ctx_logits(m->ctx, i),
                              &(struct vd_choice){.sampling = &greedy});
    }
    double s = 1e-9 * (double)(vd_clock_ns() - t);
    for (uint32_t i = 0; i < MANY; i++)
        vd_kv_close(kv[i]);
    vd_sampler_free(sampler);
    return s;
}

/* The peer's time over ours. */
static void print_ratio(const char *what, double peer_s, double ours_s)
{
    if (peer_s > 0)
        printf("               the peer %s in %.2f s: replay is %.1f times faster\n", what, peer_s,
               peer_s / ours_s);
}

static void bench_many(struct bench *b)
{
    const struct vd_sampling greedy = {0};
    struct many *m = calloc(1, sizeof *m);
    struct vd_error err;
    if (!m)
        exit(3);
    make_job(b, &greedy);
    check(vd_ctx_create(&m->ctx, b->model, b->pool, b->many_rows, b->many_logits, &err), &err);
    check(vd_kv_pool_create(&m->cache, b->model, (size_t)1 << 30, &err), &err);
    double own = 1e9, all = replay_many_s(b, m, false), shared = replay_many_s(b, m, true);
    for (unsigned i = 0; i < 3 && i < b->reps; i++) {
        double s = decode_many_s(b, m);
        own = s < own ? s : own;
    }
    printf("replay32       %7.1f ms, one prompt for all %.1f ms; our own 32 at once generate for %.1f ms: "
           "%.1f and %.1f times faster\n",
           1e3 * all, 1e3 * shared, 1e3 * own, own / all, own / shared);
    print_ratio("runs 32 prompts and answers", b->peer_pp32_s + b->peer_tg32_s, all);
    print_ratio("runs the answers alone", b->peer_tg32_s, all);
    print_ratio("runs one prompt and 32 answers", b->peer_pp32_s / MANY + b->peer_tg32_s, shared);
    print_ratio("runs these answers alone", b->peer_tg32_s, shared);
    vd_kv_pool_destroy(m->cache);
    vd_ctx_destroy(m->ctx);
    free(m);
}

/* ---- without a model ---- */

static void bench_check(struct bench *b)
{
    const struct vd_sampling all = {.top_p_micro = 1000000};
    struct vd_keypair gateway, worker;
    struct vd_envelope e = {0};
    struct vd_receipt out;
    double best = 1e9;
    uint8_t bytes[VD_SIGNED_RECEIPT_MAX_BYTES];
    make_job(b, &all);
    vd_key_generate(&gateway);
    vd_key_generate(&worker);
    struct vd_request *q = &b->receipt.request;
    q->arith_version = VD_ARITH_VERSION;
    q->gateway = gateway.pub;
    q->worker = worker.pub;
    q->sequence = q->valid_until = UINT64_MAX;
    q->price_in.micro = q->price_out.micro = 1;
    b->receipt.amount.micro = PROMPT + OUTPUT;
    e.receipt.body_bytes = vd_receipt_encode(&b->receipt, e.receipt.body, sizeof e.receipt.body);
    vd_key_sign(&e.receipt.worker_sig, &worker, VD_TAG_RECEIPT, e.receipt.body, e.receipt.body_bytes);
    vd_key_sign(&e.receipt.gateway_sig, &gateway, VD_TAG_ACCEPT, e.receipt.body, e.receipt.body_bytes);
    memcpy(e.job_salt, b->salt, VD_SALT_BYTES);
    e.n_prompt = PROMPT;
    e.n_output = OUTPUT;
    e.prompt = b->tokens;
    e.output = b->tokens + PROMPT;
    for (unsigned i = 0; i < 200; i++) {
        uint64_t t = vd_clock_ns();
        enum vd_receipt_verdict v = vd_envelope_check(&e, &out);
        if (v != VD_RECEIPT_OK) {
            fprintf(stderr, "check: %s\n", vd_receipt_verdict_text(v));
            exit(1);
        }
        double us = 1e-3 * (double)(vd_clock_ns() - t);
        best = us < best ? us : best;
    }
    printf("check          %7.1f us for a receipt of %zu bytes with 128 + 128 tokens\n", best,
           vd_signed_receipt_encode(&e.receipt, bytes, sizeof bytes));
}

static void bench_commit(struct bench *b)
{
    uint8_t k[4096], v[4096];
    float x[VD_PROGRAM_WIDTH_MAX] = {1.0f};
    double best = 1e9;
    const struct vd_request q = {.n_prompt = 1, .max_tokens = 4096};
    struct vd_commit *c;
    struct vd_error err;
    memset(k, 1, sizeof k);
    memset(v, 2, sizeof v);
    for (unsigned rep = 0; rep < 20; rep++) {
        uint64_t t = vd_clock_ns();
        check(vd_commit_open(&c, vd_model_program(b->model), &q, UINT32_MAX, b->salt, &err), &err);
        for (uint32_t i = 0; i < 1000; i++)
            vd_commit_add(c, &(struct vd_graph_rows){NULL, k, v, x}, i, VD_STOP_NONE, NULL);
        vd_commit_close(c);
        double us = 1e-3 * (double)(vd_clock_ns() - t) / 1000;
        best = us < best ? us : best;
    }
    printf("commit         %7.2f us per generated position\n", best);
}

/* ---- dispute ---- */

struct tally {
    unsigned worker_moves;
    size_t move_bytes, opening_bytes;
    double tile_ms;
    const char *slowest;
};

/* Leads an honest worker's game to one record: what an opening holds does not depend on who lies. */
static void dispute(struct vd_trace *t, const struct vd_ref_claim *claim, uint32_t unit, uint32_t op,
                    struct tally *y)
{
    static struct vd_game game, again;
    static struct vd_player_move move;
    static uint8_t opening[VD_OPENING_MAX_BYTES];
    static const enum vd_move_kind kinds[] = {VD_MOVE_STEP, VD_MOVE_UNIT, VD_MOVE_OP, VD_MOVE_LEAF};
    struct vd_error err;
    uint32_t step = t->graph.job.n_steps - 1;
    check(vd_trace_load(t, step, unit, &err), &err);
    const struct vd_graph_op *o = &t->u.op[op];
    uint64_t record = o->n_records - 1, picks[] = {step, unit, op, record / o->leaf_records};
    unsigned n = 0, worker_moves = 0;
    vd_game_open(&game);
    while (game.phase != VD_PHASE_C_TILE) {
        enum vd_game_side side = vd_game_turn(&game);
        if (side == VD_GAME_WORKER) {
            check(vd_player_worker_answer(t, &game, &move, &err), &err);
            worker_moves++;
        } else {
            struct vd_move c = {.kind = kinds[n], .index = picks[n]};
            move.n_bytes = vd_move_encode(&c, move.bytes, sizeof move.bytes);
            n++;
        }
        y->move_bytes = move.n_bytes > y->move_bytes ? move.n_bytes : y->move_bytes;
        if (vd_game_move(&game, claim, NULL, side, (struct vd_bytes){move.bytes, move.n_bytes}) !=
            VD_GAME_ACCEPTED)
            exit(1);
    }
    y->worker_moves = worker_moves > y->worker_moves ? worker_moves : y->worker_moves;
    struct vd_move c = {.kind = VD_MOVE_TILE, .index = record % o->leaf_records, .data = {opening, 0}};
    check(vd_opening_tile(t, &game, op, record, opening, sizeof opening, &c.data.n, &err), &err);
    move.n_bytes = vd_move_encode(&c, move.bytes, sizeof move.bytes);
    y->opening_bytes = c.data.n > y->opening_bytes ? c.data.n : y->opening_bytes;
    double best = 1e9;
    for (unsigned i = 0; i < 5; i++) {
        again = game;
        uint64_t ns = vd_clock_ns();
        struct vd_bytes bytes = {move.bytes, move.n_bytes};
        if (vd_game_move(&again, claim, NULL, VD_GAME_CHALLENGER, bytes) != VD_GAME_CHALLENGER_TILE)
            exit(1);
        double ms = 1e-6 * (double)(vd_clock_ns() - ns);
        best = ms < best ? ms : best;
    }
    if (best > y->tile_ms) {
        y->tile_ms = best;
        y->slowest = vd_op_name(o->kind);
    }
}

static void bench_dispute(struct bench *b)
{
    const struct vd_sampling warm = {
        .temp_micro = 800000, .top_k = 50, .top_p_micro = 950000, .min_p_micro = 20000, .seed = 3};
    struct vd_trace_model *tm;
    struct vd_ref_claim claim;
    struct vd_error err;
    struct tally y = {0};
    make_job(b, &warm);
    if (!vd_ref_claim_init(&claim, &b->receipt, vd_model_program(b->model), vd_model_program_bytes(b->model)))
        exit(1);
    uint64_t ns = vd_clock_ns();
    check(vd_trace_model_open(&tm, b->model, b->ctx, b->cache, &b->job, &err), &err);
    double open_s = 1e-9 * (double)(vd_clock_ns() - ns);
    struct vd_trace *t = vd_trace_model_trace(tm);
    const uint32_t units[] = {0, 15, vd_graph_head_unit(&t->graph)};
    double load_s = 0;
    for (unsigned i = 0; i < 3; i++) {
        ns = vd_clock_ns();
        check(vd_trace_load(t, t->graph.job.n_steps - 1, units[i], &err), &err);
        double s = 1e-9 * (double)(vd_clock_ns() - ns);
        load_s = s > load_s ? s : load_s;
        for (uint32_t op = 0; op < t->u.n_ops; op++)
            if (t->u.op[op].n_records) /* else it is absent */
                dispute(t, &claim, units[i], op, &y);
    }
    vd_trace_model_close(tm);
    printf("dispute        %u worker moves at most, move <= %zu bytes, opening <= %zu bytes, referee <= %.3f "
           "ms (%s)\n",
           y.worker_moves, y.move_bytes, y.opening_bytes, y.tile_ms, y.slowest);
    printf("trace          all unit hashes %.2f s, the slowest unit's operators %.2f s\n", open_s, load_s);
}

/* ---- a whole game ---- */

struct machine {
    struct vd_model *model;
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
};

static void open_degraded(struct bench *b, struct machine *m)
{
    char path[] = "/tmp/vd_proof_bench.XXXXXX";
    const struct vd_program *p = vd_model_program(b->model);
    struct vd_bytes row =
        vd_model_tensor_bytes(b->model, vd_program_layer_tensor(p, p->n_layers / 2, VD_T_ATTN_OUTPUT), 0);
    struct vd_error err;
    size_t n;
    uint8_t *file;
    check(vd_file_read(&file, &n, b->path, SIZE_MAX, &err), &err);
    uint8_t *at = memmem(file, n, row.p, row.n);
    for (size_t i = row.n / 2; at && i < row.n / 2 + 16; i++)
        at[i] ^= 1;
    int fd = mkstemp(path);
    if (fd < 0)
        exit(3);
    close(fd);
    check(vd_file_write_atomic(path, file, n, 0600, &err), &err);
    free(file);
    enum vd_err e = vd_model_open(&m->model, path, vd_kern_pick(NULL, NULL), b->pool, &err);
    unlink(path);
    check(e, &err);
    check(vd_ctx_create(&m->ctx, m->model, b->pool, ROWS, OUTPUT, &err), &err);
    check(vd_kv_pool_create(&m->cache, m->model, 64 << 20, &err), &err);
}

static void close_machine(struct machine *m)
{
    vd_kv_pool_destroy(m->cache);
    vd_ctx_destroy(m->ctx);
    vd_model_close(m->model);
}

/* The receipt of what this machine generates, greedy, under the honest model's root. */
static void claim_of(struct bench *b, const struct machine *m)
{
    const struct vd_sampling greedy = {0};
    struct vd_sampler *sampler = vd_sampler_new(vd_model_program(m->model)->vocab);
    struct vd_row rows[PROMPT];
    struct vd_commit *c;
    struct vd_kv *kv;
    struct vd_error err;
    if (!sampler)
        exit(3);
    make_job(b, &greedy);
    check(vd_kv_open(&kv, m->cache, &err), &err);
    check(vd_commit_open(&c, vd_model_program(m->model), &b->receipt.request, UINT32_MAX, b->salt, &err),
          &err);
    for (uint32_t pos = 0, n; pos < PROMPT + OUTPUT - 1; pos += n) {
        n = pos ? 1 : PROMPT;
        for (uint32_t i = 0; i < n; i++)
            rows[i] =
                (struct vd_row){kv, pos + i, b->tokens[pos + i], pos + i >= PROMPT - 1 ? VD_ROW_LOGITS : 0};
        check(vd_model_forward(m->ctx, rows, n, NULL, &err), &err);
        uint32_t last = pos + n - 1;
        b->tokens[last + 1] =
            vd_sampler_choose(sampler, vd_model_kern(m->model), vd_ctx_logits(m->ctx, n - 1),
                              &(struct vd_choice){.sampling = &greedy});
        enum vd_stop stop = last + 2 == PROMPT + OUTPUT ? VD_STOP_LENGTH : VD_STOP_NONE;
        for (uint32_t i = 0; i < n; i++)
            add_position(b, c, kv, pos + i, rows[i].flags ? vd_ctx_hidden(m->ctx, i) : NULL,
                         b->tokens[last + 1], stop);
    }
    b->receipt.commit_root = vd_commit_root(c);
    b->receipt.output_root = vd_commit_output_root(c);
    vd_commit_close(c);
    vd_kv_close(kv);
    vd_sampler_free(sampler);
}

/* From the receipt to the verdict. */
static enum vd_game_result play(struct bench *b, const struct machine *m, const struct vd_ref_claim *claim,
                                struct vd_game *game, unsigned *n_moves)
{
    static struct vd_player_move move;
    struct vd_replay_result found;
    struct vd_trace_model *worker, *challenger;
    struct vd_error err;
    enum vd_game_result r = VD_GAME_ACCEPTED;
    check(vd_replay(b->ctx, b->cache, &b->root, &b->job, &found, &err), &err);
    if (found.verdict == VD_REPLAY_OK) {
        fprintf(stderr, "game: the wrong bits change nothing\n");
        exit(1);
    }
    check(vd_trace_model_open(&challenger, b->model, b->ctx, b->cache, &b->job, &err), &err);
    check(vd_trace_model_open(&worker, m->model, m->ctx, m->cache, &b->job, &err), &err);
    vd_game_open(game);
    for (*n_moves = 0; r == VD_GAME_ACCEPTED; ++*n_moves) {
        enum vd_game_side side = vd_game_turn(game);
        check(side == VD_GAME_WORKER
                  ? vd_player_worker_answer(vd_trace_model_trace(worker), game, &move, &err)
                  : vd_player_challenger_point(vd_trace_model_trace(challenger), claim, game, &move, &err),
              &err);
        r = vd_game_move(game, claim, NULL, side, (struct vd_bytes){move.bytes, move.n_bytes});
    }
    vd_trace_model_close(worker);
    vd_trace_model_close(challenger);
    return r;
}

static void bench_game(struct bench *b)
{
    static struct vd_game game;
    struct machine m;
    struct vd_ref_claim claim;
    struct vd_graph_op op;
    double best = 1e9;
    unsigned n_moves = 0;
    open_degraded(b, &m);
    claim_of(b, &m);
    if (!vd_ref_claim_init(&claim, &b->receipt, vd_model_program(b->model), vd_model_program_bytes(b->model)))
        exit(1);
    for (unsigned i = 0; i < 3 && i < b->reps; i++) {
        uint64_t t = vd_clock_ns();
        if (play(b, &m, &claim, &game, &n_moves) != VD_GAME_WORKER_TILE) {
            fprintf(stderr, "game: the worker was not caught by a tile\n");
            exit(1);
        }
        double s = 1e-9 * (double)(vd_clock_ns() - t);
        best = s < best ? s : best;
    }
    vd_graph_op(&claim.graph, game.step, game.unit, game.op, &op);
    printf("game           %.2f s from the receipt to the verdict, %u moves: position %u, layer %u, %s\n",
           best, n_moves, game.step, vd_graph_layer(&claim.graph, game.unit), vd_op_name(op.kind));
    close_machine(&m);
}

static const char *const sections[] = {"receipt",  "greedy", "top-k",  "top-p",   "temp",
                                       "replay32", "check",  "commit", "dispute", "game"};

/* The word of n characters at p means this section; `replay` is the four samplings. */
static bool means(const char *p, size_t n, const char *section)
{
    static const char *const replays[] = {"greedy", "top-k", "top-p", "temp"};
    for (size_t i = 0; n == 6 && memcmp(p, "replay", n) == 0 && i < sizeof replays / sizeof replays[0]; i++)
        if (strcmp(section, replays[i]) == 0)
            return true;
    return n == strlen(section) && memcmp(p, section, n) == 0;
}

static bool wanted(const struct bench *b, const char *section)
{
    bool found = b->only == NULL;
    for (const char *p = b->only; !found && *p;) {
        size_t n = strcspn(p, ",");
        found = means(p, n, section);
        p += n + (p[n] == ',');
    }
    return found;
}

/* Every word of the list, names with commas between them, means a section. */
static bool known(const char *list)
{
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, ",");
        bool found = false;
        for (size_t i = 0; i < sizeof sections / sizeof sections[0]; i++)
            found |= means(p, n, sections[i]);
        if (!found) {
            fprintf(stderr, "--only: there is no section \"%.*s\"; there are replay", (int)n, p);
            for (size_t i = 0; i < sizeof sections / sizeof sections[0]; i++)
                fprintf(stderr, ", %s", sections[i]);
            fprintf(stderr, "\n");
            return false;
        }
        p += n + (p[n] == ',');
    }
    return true;
}

int main(int argc, char **argv)
{
    struct bench b = {.reps = 5, .many_rows = 512, .many_logits = 256};
    struct vd_error err;
    char path[4096];
    unsigned threads = 2;
    const char *home = getenv("VERIDEM_HOME"), *user = getenv("HOME");
    snprintf(path, sizeof path, "%s%s/models/SmolLM2-135M-Instruct.Q4_1.gguf",
             home   ? home
             : user ? user
                    : "",
             home ? "" : "/.veridem");
    for (int i = 1; i < argc; i++) {
        if (i + 1 < argc && strcmp(argv[i], "--threads") == 0)
            threads = (unsigned)atoi(argv[++i]);
        else if (i + 1 < argc && strcmp(argv[i], "--reps") == 0)
            b.reps = (unsigned)atoi(argv[++i]);
        else if (i + 1 < argc && strcmp(argv[i], "--peer-tg") == 0)
            b.peer_tg = atof(argv[++i]);
        else if (i + 1 < argc && strcmp(argv[i], "--peer-pp32-s") == 0)
            b.peer_pp32_s = atof(argv[++i]);
        else if (i + 1 < argc && strcmp(argv[i], "--peer-tg32-s") == 0)
            b.peer_tg32_s = atof(argv[++i]);
        else if (i + 1 < argc && strcmp(argv[i], "--rows") == 0)
            b.many_rows = (unsigned)atoi(argv[++i]);
        else if (i + 1 < argc && strcmp(argv[i], "--logits") == 0)
            b.many_logits = (unsigned)atoi(argv[++i]);
        else if (i + 1 < argc && strcmp(argv[i], "--only") == 0)
            b.only = argv[++i];
        else
            snprintf(path, sizeof path, "%s", argv[i]);
    }
    if (b.only && !known(b.only))
        return 2;
    b.path = path;
    check(vd_key_init(&err), &err);
    check(vd_pool_create(&b.pool, threads, &err), &err);
    check(vd_model_open(&b.model, path, vd_kern_pick(NULL, NULL), b.pool, &err), &err);
    check(vd_model_root(b.model, b.pool, &b.root, &err), &err);
    check(vd_ctx_create(&b.ctx, b.model, b.pool, ROWS, OUTPUT, &err), &err);
    check(vd_kv_pool_create(&b.cache, b.model, 64 << 20, &err), &err);
    printf("kernel %s, %u threads, best of %u\n", vd_model_kern(b.model)->name, threads, b.reps);
    const struct vd_sampling greedy = {0};
    const struct vd_sampling warm = {.temp_micro = 800000, .top_k = 50, .top_p_micro = 950000, .seed = 3};
    const struct vd_sampling wide = {.temp_micro = 1000000, .top_p_micro = 950000, .seed = 3};
    const struct vd_sampling whole = {.temp_micro = 1000000, .top_p_micro = 1000000, .seed = 3};
    if (wanted(&b, "receipt"))
        bench_generate(&b);
    if (wanted(&b, "greedy"))
        bench_replay(&b, "greedy", &greedy);
    if (wanted(&b, "top-k"))
        bench_replay(&b, "top-k", &warm);
    if (wanted(&b, "top-p"))
        bench_replay(&b, "top-p", &wide);
    if (wanted(&b, "temp"))
        bench_replay(&b, "temp", &whole);
    if (wanted(&b, "replay32"))
        bench_many(&b);
    if (wanted(&b, "check"))
        bench_check(&b);
    if (wanted(&b, "commit"))
        bench_commit(&b);
    if (wanted(&b, "dispute"))
        bench_dispute(&b);
    if (wanted(&b, "game"))
        bench_game(&b);
    vd_kv_pool_destroy(b.cache);
    vd_ctx_destroy(b.ctx);
    vd_model_close(b.model);
    vd_pool_destroy(b.pool);
    return 0;
}
