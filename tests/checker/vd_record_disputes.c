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
#define TOY_POSITIONS 1300

#include <stdio.h>

#include "vd_player.h"
#include "vd_tamper.h"

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
    uint64_t what = vd_rng_below(&dice, 10);
    if (what >= 8) { /* a field more, which no kind or another one has */
        m.index = what == 8 ? 1 + m.index : m.index;
        m.root.b[3] |= vd_rng_below(&dice, 4) == 0;
        m.salt.b[3] |= vd_rng_below(&dice, 4) == 0;
        m.data = vd_rng_below(&dice, 4) || m.data.n ? m.data : (struct vd_bytes){m.salt.b, 5};
        n = vd_move_encode(&m, bytes, sizeof bytes);
    } else if (what >= 2 || m.data.n < 40) {
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

/* Points at one among the nodes shown below `span`, as often as it takes, until `leaf` is reached: a tree of
 * more than 1,024 leaves is shown in two moves. The last pointer is not made if `last` is another kind. */
static void descend(struct side *s, const struct vd_game_path *path, uint64_t leaf, enum vd_move_kind kind,
                    bool last)
{
    static struct vd_merkle_span node[VD_GAME_SHOWN_MAX];
    for (bool there = false; !there;) {
        size_t n = vd_merkle_spans(path->span, VD_GAME_LEVELS, node, VD_GAME_SHOWN_MAX), i = 0;
        while (i + 1 < n && leaf >= node[i].first + node[i].count)
            i++;
        there = node[i].count == 1;
        if (there && !last)
            return;
        point(s, (struct vd_move){.kind = kind, .index = i});
        if (!there)
            answer(s);
    }
}

/* ---- games down to a record ---- */

static void challenge_record(struct side *s, const struct vd_graph_op *op, uint32_t o, uint64_t record)
{
    static uint8_t opening[VD_OPENING_MAX_BYTES];
    struct vd_game_tile tile;
    point(s, (struct vd_move){.kind = VD_MOVE_OP, .index = o});
    answer(s);
    if (game.phase == VD_PHASE_C_LEAF)
        descend(s, &game.leaves, record / op->leaf_records, VD_MOVE_LEAF, true);
    if (game.phase != VD_PHASE_C_TILE)
        answer(s);
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

/* A record worth a challenge: a token that penalties see, an id that has a bias, the last one, or any. */
static uint64_t some_record(const struct side *s, const struct vd_graph_op *op, uint32_t step, unsigned i)
{
    uint64_t any = vd_rng_below(&dice, op->n_records);
    uint32_t back = (uint32_t)vd_rng_below(&dice, 8);
    if (op->kind == VD_OP_PENALTY && back <= step && vd_trace_token(s->trace, step - back) < op->n_records)
        return vd_trace_token(s->trace, step - back);
    const struct vd_program *p = s->claim.graph.program;
    if (op->kind == VD_OP_MASK && i > 2 && p->n_stop)
        return p->stop[back % p->n_stop];
    if (op->kind == VD_OP_LOGIT_BIAS && i == 0)
        return (16 * vd_rng_below(&dice, 30) + 3) % op->n_records;
    return i == 1 ? op->n_records - 1 : any;
}

/* Leads to a unit, once, and from there to records of each operator: more of those before sampling. */
static void challenge_unit(struct side *s, uint32_t step, uint32_t unit, unsigned n_records)
{
    static struct vd_game at_unit;
    begin(s);
    struct vd_graph_place at = vd_graph_place(&s->claim.graph, step, unit);
    descend(s, &game.steps, at.group, VD_MOVE_STEP, true);
    answer(s);
    point(s, (struct vd_move){.kind = VD_MOVE_UNIT, .index = at.member});
    answer(s);
    item('S', NULL, 0);
    at_unit = game;
    for (uint32_t o = 0; o < vd_graph_ops(&s->claim.graph, step, unit); o++) {
        struct vd_graph_op op;
        vd_graph_op(&s->claim.graph, step, unit, o, &op);
        bool before = op.kind == VD_OP_PENALTY || op.kind == VD_OP_LOGIT_BIAS || op.kind == VD_OP_MASK;
        for (unsigned i = 0; i < (before ? 6 : op.n_slots ? 4 : n_records) && op.n_records; i++) {
            item('B', NULL, 0);
            game = at_unit;
            challenge_record(s, &op, o, some_record(s, &op, step, i));
        }
    }
}

/* ---- games about receipts ---- */

static void bind_everywhere(struct side *s)
{
    const struct vd_graph_job *j = &s->claim.graph.job;
    const uint32_t steps[] = {0,           j->n_prompt - 2, j->n_prompt - 1,
                              j->n_prompt, j->n_steps - 2,  j->n_steps - 1};
    for (unsigned i = 0; i < 12; i++) {
        if (steps[i / 2] >= j->n_steps)
            continue;
        begin(s);
        if (i % 2) {
            point(s, (struct vd_move){.kind = VD_MOVE_BIND_NODE});
            answer(s);
            descend(s, &game.steps, steps[i / 2], VD_MOVE_BIND_NODE, false);
        }
        point(s, (struct vd_move){.kind = VD_MOVE_BIND, .index = steps[i / 2]});
        answer(s);
    }
}

static void show_salts(struct side *s, const uint8_t job_salt[VD_JOB_SALT_BYTES])
{
    for (uint32_t step = 0; step < s->claim.graph.job.n_steps; step += 20) {
        struct vd_move m = {.kind = VD_MOVE_SALT};
        begin(s);
        point(s, (struct vd_move){.kind = VD_MOVE_STEP, .index = step});
        answer(s);
        point(s, (struct vd_move){.kind = VD_MOVE_UNIT, .index = step % 3});
        answer(s);
        memcpy(m.salt.b, job_salt, sizeof m.salt.b);
        m.salt.b[7] ^= 1;
        point(s, m);
        m.salt.b[7] ^= 1;
        point(s, m);
    }
}

/* ---- wild workers ---- */

static uint64_t wild_seed;

static uint32_t wild_word(struct vd_rng *rng)
{
    static const uint32_t words[] = {
        0x7FC00000, 0xFFFFFFFF, 0x7F800000, 0xFF800000, 0x80000000, 0,
        1,          0x7F7FFFFF, 0x3F800000, 0xFF800001, 2,          1000,
        0x00010000, 0x001F0000, 0x7FFFFFFF, 0x007FFFFF, 0xFF7FFFFF}; /* keys of -0, of the infinity below and
                                                                        of the largest number */
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
    bool counts =
        o.kind == VD_OP_HIST || o.kind == VD_OP_MASS || o.kind == VD_OP_TIE || o.kind == VD_OP_ROUTE;
    counts = counts && vd_rng_below(&rng, 2);
    n = counts ? 2 * words : n;
    /* a mask's state is asked for twice, so its words are set, not changed */
    uint64_t how = counts || o.kind == VD_OP_MASK_STATE ? 0 : vd_rng_below(&rng, 3);
    for (size_t i = 0; i < n && words; i++) {
        uint8_t *at = records + 4 * vd_rng_below(&rng, words);
        uint32_t word = vd_le32_load(at);
        word = how == 0   ? wild_word(&rng)
               : how == 1 ? word ^ 1u << vd_rng_below(&rng, 32)
                          : word + 1 - 2 * (uint32_t)vd_rng_below(&rng, 2);
        /* these are handed on as floats */
        bool x = o.kind == VD_OP_ADD || o.kind == VD_OP_EMBED || o.kind == VD_OP_LN_MUL ||
                 o.kind == VD_OP_POOL || o.kind == VD_OP_VECTOR;
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

/* The toy's logits are so far apart that one token has all the mass: closer ones, of which each comes `times`
 * times. */
static void soften(struct vd_toy_model *m, uint32_t times)
{
    const struct vd_program *p = &m->program;
    size_t row_bytes = vd_wtype_row_bytes((enum vd_wtype)p->types[0], p->width);
    for (uint32_t e = 0; e < p->width; e++)
        vd_le32_store(m->weights[vd_program_norm_tensor(p)] + 4 * e, vd_f32_bits(0.03f));
    for (uint32_t i = p->vocab / times; i < p->vocab; i++)
        memcpy(m->weights[0] + i * row_bytes, m->weights[0] + i % (p->vocab / times) * row_bytes, row_bytes);
    toy_hash(m);
}

static void disputes_of(const struct vd_program *p, const struct vd_sampling *sampling, const char *name,
                        const struct where *at, unsigned n_at, unsigned n_wild, uint32_t times)
{
    /* with one layer it is about weights, and many positions would only take time */
    uint32_t n_prompt = p->n_layers == 1 ? 5 : PROMPT;
    struct vd_toy_model *model = toy_model_new(p, 3, 0.1f);
    if (times)
        soften(model, times);
    struct vd_toy_job *job = toy_job_new(model, n_prompt, TOKENS, sampling);
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
        disputes_of(&p, &all[i], name, at, i < 4 ? 1 : 2, 8, 1 + i % 2 * 28);
    }
}

static void disputes_under_features(void)
{
    static const struct vd_sampling greedy = {.top_p_micro = 1000000};
    static const struct where at[] = {{LAST, 1}, {7, 0}, {LAST, 0}, {5, 2}, {LAST, 2}, {LAST, 3}};
    for (unsigned i = 0; i < TOY_FEATURES; i++) {
        struct vd_program p = toy_program_with(&toy_features[i]);
        bool all = i + 1 == TOY_FEATURES;
        disputes_of(&p, &greedy, toy_features[i].name, at, all ? 6 : 1, all ? 2 : 8, 0);
    }
}

static void disputes_of_the_plain_toy(void)
{
    static const struct vd_sampling greedy = {.top_p_micro = 1000000};
    static const struct where at[] = {{LAST, 0}, {LAST, 1}, {5, 2}, {64, 1}, {0, 1}, {LAST, 3}};
    struct vd_program p = toy_program(VD_ROPE_ADJACENT);
    disputes_of(&p, &greedy, "plain", at, 6, 2, 0);
    p = toy_program(VD_ROPE_HALVES);
    disputes_of(&p, &greedy, "plain, pairs of halves", at, 2, 2, 0);
}

/* Random masks over the toy's texts. */
static struct vd_bytes random_mask(struct vd_rng *rng, uint32_t vocab, uint8_t *mask)
{
    uint32_t n = 1 + (uint32_t)vd_rng_below(rng, 8), n_edges = 0;
    uint8_t *edges = mask + VD_MASK_HEAD_BYTES + 2 * n;
    memcpy(mask, toy_mask(vocab).p, VD_MASK_ROOT_BYTES);
    vd_le16_store(mask + VD_MASK_ROOT_BYTES, (uint16_t)n);
    for (uint32_t i = 0; i < n; i++) {
        vd_le16_store(mask + VD_MASK_HEAD_BYTES + 2 * i, (uint16_t)(n_edges | (vd_rng_below(rng, 2) << 15)));
        for (uint8_t low = 'a'; low <= 'd';) {
            uint8_t high = (uint8_t)(low + vd_rng_below(rng, 2));
            uint16_t back = vd_rng_below(rng, 3) ? VD_AUTOMATON_PLAIN : (uint16_t)vd_rng_below(rng, n);
            uint8_t *e = edges + 6 * n_edges;
            e[0] = low;
            e[1] = high;
            vd_le16_store(e + 2, (uint16_t)vd_rng_below(rng, n));
            vd_le16_store(e + 4, back);
            n_edges += n_edges < 24 && vd_rng_below(rng, 4) != 0;
            low = (uint8_t)(high + 1);
        }
    }
    return (struct vd_bytes){mask, VD_MASK_HEAD_BYTES + 2 * n + 6 * n_edges};
}

/* The answer's tokens are random ones, and what the worker says of them follows. */
static void disputes_of_masks(void)
{
    static const struct vd_sampling masked = {.top_p_micro = 1000000, .has_mask = true};
    struct vd_program p = toy_program(VD_ROPE_ADJACENT);
    p.n_layers = 1;
    p.vocab = 400;
    p.n_stop = 3;
    for (uint32_t i = 0; i < 3; i++)
        p.stop[i] = 50 * i + 1;
    static const uint8_t types[] = {VD_WTYPE_Q8_0};
    toy_types(&p, types, 1);
    struct vd_toy_model *model = toy_model_new(&p, 3, 0.1f);
    struct vd_toy_job *job = toy_job_new(model, PROMPT, 1, &masked);
    struct vd_rng rng = {11, 0};
    for (unsigned i = 0; i < 40; i++) {
        uint8_t mask[VD_MASK_HEAD_BYTES + 8 * 2 + 24 * 6 + 6];
        struct vd_toy_job *j = toy_job_copy(job, PROMPT - 1);
        j->controls.mask = random_mask(&rng, p.vocab, mask);
        j->graph.job.n_output = j->graph.job.max_tokens = TOKENS;
        j->graph.job.n_steps = PROMPT + TOKENS - 1;
        j->finish = VD_FINISH_LENGTH;
        for (uint32_t t = 0; t < TOKENS; t++)
            j->output[t] = i % 5 == 4 ? UINT32_MAX : (uint32_t)vd_rng_below(&rng, p.vocab);
        wild_seed++;
        wild_from = 2;
        j->after = i % 2 ? go_wild : NULL;
        j->after_arg = j;
        struct side s = side_new(j, "masks");
        for (uint32_t step = PROMPT; step < j->graph.job.n_steps; step++)
            challenge_unit(&s, step, 2, 1);
        side_free(&s);
    }
    toy_job_free(job);
    toy_model_free(model);
}

/* Every weight type in every matrix that can have it. */
static void disputes_of_types(void)
{
    static const struct vd_sampling greedy = {.top_p_micro = 1000000};
    static const struct where at[] = {{LAST, 0}, {LAST, 1}, {LAST, 2}};
    static const uint8_t types[] = {VD_WTYPE_F32,  VD_WTYPE_F16,    VD_WTYPE_Q4_0,   VD_WTYPE_Q4_1,
                                    VD_WTYPE_Q5_0, VD_WTYPE_Q5_1,   VD_WTYPE_Q8_0,   VD_WTYPE_Q2_K,
                                    VD_WTYPE_Q3_K, VD_WTYPE_Q4_K,   VD_WTYPE_Q5_K,   VD_WTYPE_Q6_K,
                                    VD_WTYPE_BF16, VD_WTYPE_IQ4_NL, VD_WTYPE_IQ4_XS, VD_WTYPE_MXFP4};
    for (unsigned i = 0; i < sizeof types; i++) {
        struct vd_program p = toy_program(VD_ROPE_HALVES);
        p.n_layers = 1;
        p.width = p.ff_width = 256;
        p.n_heads = 8;
        p.vocab = 300;
        toy_types(&p, types + i, 1);
        disputes_of(&p, &greedy, vd_wtype_info(types[i])->name, at, 3, 1, 0);
    }
}

/* Rows of weights that are more than one leaf, and more than eight segments. */
static void disputes_of_long_rows(void)
{
    static const struct vd_sampling greedy = {.top_p_micro = 1000000};
    static const struct where at[] = {{LAST, 0}, {LAST, 1}, {LAST, 2}};
    static const uint8_t types[] = {VD_WTYPE_Q4_1, VD_WTYPE_F16, VD_WTYPE_Q8_0};
    struct vd_program p = toy_program(VD_ROPE_HALVES);
    p.n_layers = 1;
    p.vocab = 100;
    p.width = 4160;
    p.ff_width = 32;
    toy_types(&p, types, sizeof types);
    disputes_of(&p, &greedy, "a wide model", at, 3, 1, 0);
    p.width = 64;
    p.ff_width = 4128;
    toy_types(&p, types, sizeof types);
    disputes_of(&p, &greedy, "a wide feed-forward part", at, 3, 1, 0);
}

/* Weights that are 0: so are values, and the scales of chunks. */
static void disputes_about_nothing(void)
{
    static const struct vd_sampling greedy = {.top_p_micro = 1000000};
    static const uint8_t types[] = {VD_WTYPE_Q8_0};
    struct vd_program p = toy_program(VD_ROPE_HALVES);
    p.vocab = 300;
    toy_types(&p, types, 1);
    struct vd_toy_model *model = toy_model_new(&p, 3, 0);
    struct vd_toy_job *job = toy_job_new(model, PROMPT, TOKENS, &greedy);
    static const struct where at[] = {{LAST, 1}, {LAST, 3}};
    challenge_job(job, "zeros", at, 2, 1);
    /* again, with the second token as one that stops */
    p.stop[p.n_stop++] = job->output[1];
    toy_job_free(job);
    model->program = p;
    toy_hash(model);
    job = toy_job_new(model, PROMPT, TOKENS, &greedy);
    struct side s = side_new(job, "a stop token");
    challenge_unit(&s, job->graph.job.n_steps - 1, 3, 1);
    bind_everywhere(&s);
    side_free(&s);
    toy_model_free(model);
}

/* Logits that are not finite. */
static void disputes_about_failure(void)
{
    static const struct vd_sampling all[] = {{.top_p_micro = 1000000},
                                             {.temp_micro = 900000, .top_k = 40, .top_p_micro = 900000}};
    static const struct where at[] = {{LAST, 3}};
    struct vd_program p = toy_program(VD_ROPE_ADJACENT);
    for (unsigned i = 0; i < 2; i++) {
        struct vd_toy_model *model = toy_model_new(&p, 2, 0.1f);
        for (uint32_t e = 0; e < p.width; e++)
            vd_le32_store(model->weights[vd_program_norm_tensor(&p)] + 4 * e, vd_f32_bits(3e38f));
        toy_hash(model);
        struct vd_toy_job *job = toy_job_new(model, 5, 8, &all[i]);
        challenge_job(job, "failure", at, 1, 1);
        struct side s = side_new(job, "failure, bound");
        bind_everywhere(&s);
        side_free(&s);
        toy_model_free(model);
    }
}

/* Vectors in place of tokens. */
static void disputes_of_vectors(void)
{
    static const struct {
        enum vd_pooling pooling;
        uint32_t n_prompt;
    } all[] = {{VD_POOLING_LAST, 67}, {VD_POOLING_LAST, 1}, {VD_POOLING_MEAN, 67}, {VD_POOLING_MEAN, 1}};
    static const struct where at[] = {{LAST, 3}, {LAST, 2}, {1, 3}, {1, 2}};
    struct vd_program p = toy_program(VD_ROPE_HALVES);
    p.vocab = 300;
    for (unsigned i = 0; i < 4; i++) {
        struct vd_toy_model *model = toy_model_new(&p, 3, 0.1f);
        struct vd_toy_job *job = toy_vector_new(model, all[i].n_prompt, all[i].pooling);
        challenge_job(job, "vectors", at, all[i].pooling == VD_POOLING_MEAN ? 4 : 2, 3);
        struct side s = side_new(job, "vectors, bound");
        bind_everywhere(&s);
        s.claim.output_root.b[4] ^= 1;
        record_claim(&s.claim, "another vector");
        bind_everywhere(&s);
        side_free(&s);
        toy_model_free(model);
    }
}

/* Encoders: of a step's units all, at three steps; and attention over two chunks. */
static void disputes_of_encoders(void)
{
    static const struct {
        bool nomic;
        enum vd_pooling pooling;
        uint32_t n_prompt;
    } all[] = {{false, VD_POOLING_CLS, 4}, {true, VD_POOLING_MEAN, 66}, {false, VD_POOLING_LAST, 1}};
    static const struct where at[] = {{LAST, 5}, {LAST, 4}, {LAST, 3}, {LAST, 0}, {1, 1}, {0, 2}};
    for (unsigned i = 0; i < 3; i++) {
        struct vd_program p = toy_encoder(all[i].nomic);
        struct vd_toy_model *model = toy_model_new(&p, 3, 0.1f);
        struct vd_toy_job *job = toy_vector_new(model, all[i].n_prompt, all[i].pooling);
        struct side s = side_new(job, "encoders");
        for (unsigned k = 0; k < sizeof at / sizeof at[0]; k++) {
            uint32_t last = all[i].n_prompt - 1;
            challenge_unit(&s, at[k].step < last ? at[k].step : last, at[k].unit,
                           all[i].n_prompt > 9 ? 1 : 2);
        }
        bind_everywhere(&s);
        side_free(&s);
        toy_model_free(model);
    }
}

/* Trees of more than 1,024 leaves: a job of more steps, whose state and commit tree are shown in two moves,
 * and a vector of more elements. */
static void disputes_of_large_trees(void)
{
    static const struct vd_sampling greedy = {.top_p_micro = 1000000};
    static const uint8_t types[] = {VD_WTYPE_Q8_0};
    static const struct where at[] = {{LAST, 0}, {LAST, 1}, {LAST, 2}, {1030, 1}, {500, 1}};
    static const struct where end[] = {{LAST, 2}};
    struct vd_program p = toy_program(VD_ROPE_HALVES);
    p.n_layers = 1;
    p.vocab = 100;
    toy_types(&p, types, 1);
    struct vd_toy_model *model = toy_model_new(&p, 3, 0.1f);
    struct vd_toy_job *job = toy_job_new(model, 1100, TOKENS, &greedy);
    struct side s = side_new(job, "a long job");
    for (unsigned i = 0; i < sizeof at / sizeof at[0]; i++)
        challenge_unit(&s, at[i].step < 1103 ? at[i].step : 1102, at[i].unit, 1);
    bind_everywhere(&s);
    side_free(&s);
    toy_model_free(model);
    p.width = 1056;
    p.ff_width = 32;
    toy_types(&p, types, 1);
    model = toy_model_new(&p, 3, 0.1f);
    challenge_job(toy_vector_new(model, 3, VD_POOLING_LAST), "a long vector", end, 1, 1);
    toy_model_free(model);
}

/* Salts, commit trees, ends; tokens that the vocabulary does not have. */
static void disputes_about_receipts(const struct vd_sampling *sampling)
{
    struct vd_program p = toy_program(VD_ROPE_ADJACENT);
    struct vd_toy_model *model = toy_model_new(&p, 3, 0.1f);
    struct vd_toy_job *job = toy_job_new(model, PROMPT, TOKENS, sampling);
    struct side s = side_new(job, "receipts");
    bind_everywhere(&s);
    show_salts(&s, job->job_salt);
    static const enum vd_finish ends[] = {VD_FINISH_STOP, VD_FINISH_LENGTH, VD_FINISH_CANCELLED};
    for (unsigned i = 0; i < 3; i++) {
        struct side other = s;
        other.claim.finish = ends[i];
        if (ends[i] != VD_FINISH_LENGTH || job->graph.job.n_output == TOKENS) {
            record_claim(&other.claim, "another end");
            bind_everywhere(&other);
        }
    }
    struct side liar = {.job = toy_job_copy(job, TOY_MAX_POS)};
    liar.job->job_salt[0] ^= 1;
    liar.trace = toy_trace(liar.job);
    liar.claim = toy_claim(liar.job, liar.trace);
    liar.claim.salt_commit = s.claim.salt_commit;
    record_claim(&liar.claim, "other salts");
    show_salts(&liar, job->job_salt);
    side_free(&liar);

    struct vd_toy_job *strange = toy_job_copy(job, 2);
    strange->prompt[2] = p.vocab;
    strange->output[0] = UINT32_MAX;
    liar = side_new(strange, "tokens that do not exist");
    bind_everywhere(&liar);
    uint32_t last = strange->graph.job.n_steps - 1;
    challenge_unit(&liar, 2, 0, 2);
    for (uint32_t step = PROMPT - 1; step <= last; step++)
        for (uint32_t unit = 0; unit <= 3; unit += 3)
            challenge_unit(&liar, step, unit, 1);
    side_free(&liar);
    side_free(&s);
    toy_model_free(model);
}

/* Bases of the tamper kit: any form of program with any types of weights, any sampling, any lengths; honest,
 * and wild, at places drawn from the seed. */
static void disputes_of_bases(uint64_t first, uint64_t last)
{
    enum { PLACES = 3, WILD = 2 };
    for (uint64_t seed = first; seed <= last; seed++) {
        struct tamper_base b;
        struct vd_rng rng = {seed, 1};
        struct where at[PLACES];
        char name[64];
        tamper_base_open(&b, seed);
        snprintf(name, sizeof name, "%s, base %llu", b.form->name, (unsigned long long)seed);
        const struct vd_graph *g = &b.job->graph;
        for (unsigned i = 0; i < PLACES; i++) {
            uint32_t back = (uint32_t)vd_rng_below(&rng, 3), n = g->job.n_steps;
            at[i].step = back < n ? n - 1 - back : 0;
            at[i].unit = (uint32_t)vd_rng_below(&rng, vd_graph_units(g, at[i].step));
        }
        dice = (struct vd_rng){seed, 2};
        wild_seed = seed << 8;
        challenge_job(b.job, name, at, PLACES, WILD);
        const struct where end = {LAST, vd_graph_head_unit(g)};
        challenge_job(b.job, name, &end, 1, 2 * WILD);
        struct side s = side_new(toy_job_copy(b.job, TOY_MAX_POS), name);
        bind_everywhere(&s);
        side_free(&s);
        tamper_base_close(&b);
    }
}

/* Without arguments what is chosen here, and a base of each form ($VD_LONG: 500); else these bases. */
int main(int argc, char **argv)
{
    if (argc == 3) {
        disputes_of_bases(strtoull(argv[1], NULL, 10), strtoull(argv[2], NULL, 10));
        need(fflush(stdout) == 0, "standard output cannot be written");
        return 0;
    }
    disputes_of_bases(0, getenv("VD_LONG") ? 499 : TAMPER_FORMS - 1);
    disputes_of_bases(251, 251); /* a threshold's key above GMAX's, with ties in the second tile */
    disputes_of_the_plain_toy();
    disputes_of_encoders();
    disputes_under_features();
    disputes_in_sampling();
    disputes_of_types();
    disputes_of_masks();
    disputes_of_vectors();
    disputes_of_long_rows();
    disputes_of_large_trees();
    disputes_about_nothing();
    disputes_about_failure();
    static const struct vd_sampling masked = {
        .top_p_micro = 1000000, .repeat_micro = 1100000, .repeat_last_n = 9, .has_mask = true};
    static const struct vd_sampling plain = {.temp_micro = 800000, .top_p_micro = 900000, .seed = 3};
    disputes_about_receipts(&masked);
    disputes_about_receipts(&plain);
    need(fflush(stdout) == 0, "standard output cannot be written");
    return 0;
}
