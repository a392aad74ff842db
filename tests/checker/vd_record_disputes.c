/* Writes disputes over toy models to standard output, move by move, with what the referee says of each: for a
 * checker that was written from the specification alone and must say the same (README.md).
 *
 * Three kinds of workers: honest ones, challenged at every operator; liars, challenged where they lied; and
 * wild ones, in whose records any bits may stand (infinities, NaNs, ids that do not exist), challenged at
 * every operator that reads them, because every operator has one result whatever it reads. Moves are also
 * tried with a byte changed, less or more.
 *
 * The recording is a row of items: a letter, u32 length, bytes. N name, P program, R receipt (the claim of
 * what follows), G a new game, S marks a position, B goes back to it, M a move and D one that is only tried
 * (a byte: 0 goes on, 1 rejected, 2 the worker loses, 3 the challenger loses; then the move), T the record
 * that the referee computed for the last TILE. */
#include <stdio.h>

#include "vd_player.h"
#include "vd_toy.h"

enum { PROMPT = 66, TOKENS = 4 };

static void need(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "vd_record_disputes: %s\n", what);
    exit(1);
}

static void item(char kind, const void *p, size_t n)
{
    uint8_t head[5] = {(uint8_t)kind};
    vd_le32_store(head + 1, (uint32_t)n);
    need(fwrite(head, 1, sizeof head, stdout) == sizeof head && fwrite(p, 1, n, stdout) == n,
         "standard output cannot be written");
}

/* ---- a claim and its worker ---- */

struct side {
    struct vd_toy_job *job;
    struct vd_trace *trace;
    struct vd_ref_claim claim;
};

/* Writes the receipt that the claim is of, and takes the claim from it as a ledger would. */
static void record_claim(struct vd_ref_claim *c, const char *name)
{
    static uint8_t receipt[VD_RECEIPT_MAX_BYTES];
    const struct vd_graph_job *job = &c->graph.job;
    struct vd_receipt r = {.request = {.arith_version = VD_ARITH_VERSION,
                                       .valid_until = 1000,
                                       .sequence = 1,
                                       .model_root = c->model_root,
                                       .prompt_root = c->prompt_root,
                                       .n_prompt = job->n_prompt,
                                       .salt_commit = c->salt_commit,
                                       .sampling = job->sampling,
                                       .max_tokens = job->max_tokens,
                                       .bias_hash = c->bias_hash,
                                       .mask_hash = c->mask_hash},
                           .output_root = c->output_root,
                           .n_output = job->n_output,
                           .finish = c->finish,
                           .commit_root = c->commit_root};
    struct vd_request *q = &r.request;
    memset(&q->genesis, 1, sizeof q->genesis);
    memset(&q->escrow_id, 2, sizeof q->escrow_id);
    memset(&q->gateway, 3, sizeof q->gateway);
    memset(&q->worker, 4, sizeof q->worker);
    size_t n = vd_receipt_encode(&r, receipt, sizeof receipt);
    struct vd_receipt back;
    need(vd_receipt_decode((struct vd_bytes){receipt, n}, &back) == VD_RECEIPT_OK, "a receipt is not valid");
    const struct vd_program *program = c->graph.program;
    need(vd_ref_claim_init(c, &back, program, c->program_bytes), "a claim is not valid");
    item('N', name, strlen(name));
    item('P', c->program_bytes.p, c->program_bytes.n);
    item('R', receipt, n);
}

static struct side side_new(struct vd_toy_job *job, const char *name)
{
    struct side s = {.job = job, .trace = toy_trace(job)};
    s.claim = toy_claim(job, s.trace);
    record_claim(&s.claim, name);
    return s;
}

static void side_free(struct side *s)
{
    vd_trace_destroy(s->trace);
    toy_job_free(s->job);
}

/* ---- moves ---- */

static struct vd_game game;
static struct vd_player_move move;
static struct vd_rng dice = {5, 0};

static uint8_t class_of(enum vd_game_result r)
{
    return vd_game_rejected(r) ? 1 : vd_game_worker_loses(r) ? 2 : vd_game_challenger_loses(r) ? 3 : 0;
}

static uint8_t play(const struct vd_ref_claim *claim, struct vd_game *g, char kind, const uint8_t *bytes,
                    size_t n)
{
    static uint8_t body[VD_MOVE_MAX_BYTES + 2];
    body[0] = class_of(vd_game_move(g, claim, NULL, vd_game_turn(g), (struct vd_bytes){bytes, n}));
    memcpy(body + 1, bytes, n);
    item(kind, body, 1 + n);
    return body[0];
}

/* Tries the move with one byte changed, or its data or nodes a byte or a hash longer or shorter. */
static void try_damaged(const struct vd_ref_claim *claim)
{
    static struct vd_game copy;
    static uint8_t bytes[VD_MOVE_MAX_BYTES + 1], data[VD_OPENING_MAX_BYTES + 1];
    struct vd_move m;
    size_t n = move.n_bytes;
    memcpy(bytes, move.bytes, n);
    need(vd_move_decode((struct vd_bytes){move.bytes, n}, &m), "a move of our own is malformed");
    uint64_t what = vd_rng_below(&dice, 8);
    if (what >= 2 || m.data.n < 40) {
        bytes[vd_rng_below(&dice, n)] ^= (uint8_t)(1 << vd_rng_below(&dice, 8));
    } else {
        memcpy(data, m.data.p, m.data.n);
        size_t less = vd_rng_below(&dice, 40), more = m.data.n < VD_OPENING_MAX_BYTES;
        m.data = (struct vd_bytes){data, what ? m.data.n - 1 - less : m.data.n + more};
        n = vd_move_encode(&m, bytes, sizeof bytes);
    }
    copy = game;
    play(claim, &copy, 'D', bytes, n);
}

static void answer(struct side *s)
{
    struct vd_error err = {0};
    need(vd_player_worker_answer(s->trace, &game, &move, &err) == VD_OK, err.msg);
    if (vd_rng_below(&dice, 3) == 0)
        try_damaged(&s->claim);
    play(&s->claim, &game, 'M', move.bytes, move.n_bytes);
}

static void point(struct side *s, struct vd_move m)
{
    move.kind = m.kind;
    move.n_bytes = vd_move_encode(&m, move.bytes, sizeof move.bytes);
    if (vd_rng_below(&dice, 6) == 0)
        try_damaged(&s->claim);
    play(&s->claim, &game, 'M', move.bytes, move.n_bytes);
}

static void begin(struct side *s)
{
    vd_game_open(&game);
    item('G', NULL, 0);
    answer(s);
}

/* ---- games down to a record ---- */

static void challenge_record(struct side *s, const struct vd_graph_op *op, uint32_t o, uint64_t record)
{
    static uint8_t opening[VD_OPENING_MAX_BYTES];
    struct vd_game_tile tile;
    point(s, (struct vd_move){.kind = VD_MOVE_OP, .index = o});
    while (game.phase != VD_PHASE_C_TILE) {
        if (vd_game_turn(&game) == VD_GAME_WORKER)
            answer(s);
        else
            point(s, (struct vd_move){.kind = VD_MOVE_LEAF, .index = record / op->leaf_records});
    }
    struct vd_move m = {.kind = VD_MOVE_TILE, .index = record % op->leaf_records, .data = {opening, 0}};
    need(vd_opening_tile(s->trace, &game, o, record, opening, sizeof opening, &m.data.n, NULL) == VD_OK,
         "an opening cannot be made");
    move.n_bytes = vd_move_encode(&m, move.bytes, sizeof move.bytes);
    try_damaged(&s->claim);
    need(vd_game_tile(&game, &s->claim, m.index, m.data, &tile) != VD_REF_REJECTED,
         "an opening does not verify");
    need(play(&s->claim, &game, 'M', move.bytes, move.n_bytes) >= 2, "a tile without a verdict");
    item('T', tile.true_record, op->record_bytes);
}

/* Leads to a unit, once, and from there to records of each operator. */
static void challenge_unit(struct side *s, uint32_t step, uint32_t unit, unsigned n_records)
{
    static struct vd_game at_unit;
    begin(s);
    point(s, (struct vd_move){.kind = VD_MOVE_STEP, .index = step});
    answer(s);
    point(s, (struct vd_move){.kind = VD_MOVE_UNIT, .index = unit});
    answer(s);
    item('S', NULL, 0);
    at_unit = game;
    for (uint32_t o = 0; o < vd_graph_ops(&s->claim.graph, step, unit); o++) {
        struct vd_graph_op op;
        vd_graph_op(&s->claim.graph, step, unit, o, &op);
        for (unsigned i = 0; i < n_records && op.n_records; i++) {
            const uint64_t record[] = {vd_rng_below(&dice, op.n_records), op.n_records - 1};
            item('B', NULL, 0);
            game = at_unit;
            challenge_record(s, &op, o, record[i]);
        }
    }
}

/* ---- wild workers ---- */

static uint64_t wild_seed;

static uint32_t wild_word(struct vd_rng *rng)
{
    static const uint32_t words[] = {0x7FC00000, 0xFFFFFFFF, 0x7F800000, 0xFF800000, 0x80000000, 0,
                                     1,          0x7F7FFFFF, 0x3F800000, 0xFF800001, 2,          1000};
    uint64_t i = vd_rng_below(rng, 2 * (sizeof words / sizeof words[0]));
    return i < sizeof words / sizeof words[0] ? words[i] : (uint32_t)vd_rng_next(rng);
}

static uint32_t wild_from; /* the first unit that is */

static void go_wild(void *arg, uint32_t step, uint32_t unit, uint32_t op, uint8_t *records, size_t n_bytes)
{
    const struct vd_toy_job *j = arg;
    struct vd_rng rng = {wild_seed * 1000003 + step * 1009 + unit * 101 + op, 1};
    struct vd_graph_op o;
    if (step >= j->graph.job.n_steps || unit < wild_from || vd_rng_below(&rng, 3) != 0)
        return;
    vd_graph_op(&j->graph, step, unit, op, &o);
    if (o.kind == VD_OP_MASK_STATE && step + 1 != j->graph.job.n_steps)
        return; /* those after it are made without it */
    size_t words = n_bytes / 4, n = vd_rng_below(&rng, 2) ? 1 : 1 + words / 16;
    bool flip = o.kind != VD_OP_MASK_STATE && vd_rng_below(&rng, 2); /* a mask's state is asked for twice */
    for (size_t i = 0; i < n && words; i++) {
        uint8_t *at = records + 4 * vd_rng_below(&rng, words);
        uint32_t word = flip ? vd_le32_load(at) ^ 1u << vd_rng_below(&rng, 32) : wild_word(&rng);
        bool x = o.kind == VD_OP_ADD || o.kind == VD_OP_EMBED; /* an X row is handed on as floats */
        vd_le32_store(at, x && (word & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC00000 : word);
    }
}

/* ---- jobs ---- */

struct where {
    uint32_t step, unit;
};
#define LAST UINT32_MAX /* instead of a step */

/* An honest worker of the job, and n_wild wild ones. */
static void challenge_job(const struct vd_toy_job *honest, const char *name, const struct where *at,
                          unsigned n_at, unsigned n_wild)
{
    const uint32_t last = honest->graph.job.n_steps - 1;
    uint32_t from = last;
    wild_from = 4;
    for (unsigned i = 0; i < n_at; i++)
        from = at[i].step < from ? at[i].step : from,
        wild_from = at[i].unit < wild_from ? at[i].unit : wild_from;
    from = from < 3 ? 0 : from - 3;
    for (unsigned wild = 0; wild <= n_wild; wild++) {
        struct vd_toy_job *job = toy_job_copy(honest, wild ? from : TOY_MAX_POS);
        job->after = wild ? go_wild : NULL;
        job->after_arg = job;
        wild_seed++;
        struct side s = side_new(job, name);
        for (unsigned i = 0; i < n_at; i++)
            challenge_unit(&s, at[i].step < last ? at[i].step : last, at[i].unit, wild ? 1 : 2);
        side_free(&s);
    }
}

static void disputes_of(const struct vd_program *p, const struct vd_sampling *sampling, const char *name,
                        const struct where *at, unsigned n_at, unsigned n_wild)
{
    struct vd_toy_model *model = toy_model_new(p, 3, 0.1f);
    struct vd_toy_job *job = toy_job_new(model, PROMPT, TOKENS, sampling);
    challenge_job(job, name, at, n_at, n_wild);
    toy_job_free(job);
    toy_model_free(model);
}

static void disputes_in_sampling(void)
{
    static const struct vd_sampling all[] = {
        {.temp_micro = 900000, .top_k = 40, .top_p_micro = 900000, .min_p_micro = 1000, .seed = 7},
        {.temp_micro = 1500000, .top_k = 7, .top_p_micro = 1000000, .seed = 8},
        {.temp_micro = 700000, .top_p_micro = 500000, .seed = 9},
        {.temp_micro = 1000000, .top_p_micro = 1000000, .min_p_micro = 20000, .seed = 10, .choice = 3},
        {.top_p_micro = 1000000, .repeat_micro = 1700000, .repeat_last_n = 20, .frequency_micro = 300000},
        {.top_p_micro = 1000000, .presence_micro = 900000, .has_bias = true},
        {.top_p_micro = 1000000, .has_mask = true},
        {.temp_micro = 900000,
         .top_k = 4000, /* more than the mask leaves */
         .top_p_micro = 999000,
         .min_p_micro = 1000,
         .seed = 4,
         .repeat_micro = 1300000,
         .repeat_last_n = VD_PENALTY_WINDOW,
         .presence_micro = -500000,
         .has_bias = true,
         .has_mask = true},
    };
    static const struct where at[] = {{LAST, 3}, {PROMPT - 1, 3}};
    struct vd_program p = toy_program(VD_ROPE_ADJACENT);
    p.vocab = 8500; /* three tiles */
    for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
        char name[32];
        snprintf(name, sizeof name, "sampling %u", i);
        disputes_of(&p, &all[i], name, at, i < 4 ? 1 : 2, 8);
    }
}

static void disputes_under_features(void)
{
    static const struct vd_sampling greedy = {.top_p_micro = 1000000};
    static const struct where at[] = {{LAST, 1}, {7, 0}, {LAST, 0}, {5, 2}, {LAST, 2}, {LAST, 3}};
    for (unsigned i = 0; i < TOY_FEATURES; i++) {
        struct vd_program p = toy_program_with(&toy_features[i]);
        bool all = i + 1 == TOY_FEATURES;
        disputes_of(&p, &greedy, toy_features[i].name, at, all ? 6 : 1, all ? 2 : 5);
    }
}

static void disputes_of_the_plain_toy(void)
{
    static const struct vd_sampling greedy = {.top_p_micro = 1000000};
    static const struct where at[] = {{LAST, 0}, {LAST, 1}, {5, 2}, {64, 1}, {0, 1}, {LAST, 3}};
    struct vd_program p = toy_program(VD_ROPE_ADJACENT);
    disputes_of(&p, &greedy, "plain", at, 6, 2);
    p = toy_program(VD_ROPE_HALVES);
    disputes_of(&p, &greedy, "plain, pairs of halves", at, 2, 2);
}

int main(void)
{
    disputes_of_the_plain_toy();
    disputes_under_features();
    disputes_in_sampling();
    need(fflush(stdout) == 0, "standard output cannot be written");
    return 0;
}
