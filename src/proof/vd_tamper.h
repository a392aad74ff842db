/* The tamper kit: honest jobs on small random models of every form, and workers who lie about them anywhere.
 * Everything is drawn from a seed by vd_rng, so a case is named by two numbers: the base (a model, a job, the
 * honest trace) and the tamper (a lie in it).
 *
 * Header only, for the tests of this folder; it aborts where memory is missing. */
#ifndef VD_TAMPER_H
#define VD_TAMPER_H

#include "vd_clock.h"
#include "vd_receipt.h"
#include "vd_toy.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- honest jobs ---- */

/* What sets an architecture's programs apart (the forms of vd_test_model.h, as features). */
struct tamper_form {
    const char *name;
    void (*set)(struct vd_program *p, struct vd_rng *rng);
};

static inline bool chance(struct vd_rng *rng, unsigned one_in)
{
    return vd_rng_below(rng, one_in) == 0;
}

static inline uint32_t pick(struct vd_rng *rng, const uint32_t *of, size_t n)
{
    return of[vd_rng_below(rng, n)];
}
#define PICK(rng, ...)                                                                                       \
    pick(rng, (const uint32_t[]){__VA_ARGS__}, sizeof(uint32_t[]){__VA_ARGS__} / sizeof(uint32_t))

static inline void form_llama(struct vd_program *p, struct vd_rng *rng)
{
    p->rope_pairing = VD_ROPE_ADJACENT;
}
static inline void form_yarn(struct vd_program *p, struct vd_rng *rng)
{
    p->rope_scale[0] = 1.0f + 0.01f * (float)vd_rng_below(rng, 50);
}
static inline void form_mixtral(struct vd_program *p, struct vd_rng *rng)
{
    p->rope_pairing = VD_ROPE_ADJACENT;
    p->n_experts = 2 + (uint32_t)vd_rng_below(rng, 5);
    p->n_used = 1 + (uint32_t)vd_rng_below(rng, p->n_experts < 3 ? p->n_experts : 3);
    p->route_norm = true;
    p->ff_width = 32;
}
/* Layers that do not rotate: the second table is zeros. */
static inline void form_smollm3(struct vd_program *p, struct vd_rng *rng)
{
    p->n_rope_tables = 2;
    p->rope_scale[1] = 1.0f;
    p->layer_flags[p->n_layers - 1] = VD_LAYER_ROPE2;
}
static inline void form_qwen2(struct vd_program *p, struct vd_rng *rng)
{
    p->qkv_bias = true;
}
static inline void form_qwen3(struct vd_program *p, struct vd_rng *rng)
{
    p->qk_norm = true;
}
static inline void form_qwen3moe(struct vd_program *p, struct vd_rng *rng)
{
    form_mixtral(p, rng);
    p->rope_pairing = VD_ROPE_HALVES;
    p->qk_norm = true;
    p->route_norm = chance(rng, 2);
}
static inline void form_gemma(struct vd_program *p, struct vd_rng *rng)
{
    p->embed_scale = sqrtf((float)p->width);
    p->act = VD_ACT_GELU;
}
static inline void form_gemma2(struct vd_program *p, struct vd_rng *rng)
{
    form_gemma(p, rng);
    p->attn_cap = 2.0f;
    p->logit_cap = 5.0f;
    p->post_norms = true;
    p->window = 1 + (uint32_t)vd_rng_below(rng, 70);
    p->layer_flags[0] = VD_LAYER_WINDOW;
}
static inline void form_gemma3(struct vd_program *p, struct vd_rng *rng)
{
    form_gemma2(p, rng);
    p->attn_cap = p->logit_cap = 0;
    p->qk_norm = true;
    p->layer_flags[0] |= VD_LAYER_ROPE2;
    p->n_rope_tables = 2;
    p->rope_scale[1] = 1.0f;
    vd_num_rope_steps(500000.0f, 2 * p->n_rope, p->rope_steps[1]);
}
static inline void form_phi3(struct vd_program *p, struct vd_rng *rng)
{
    p->rope_scale[0] = 1.19f;
    p->n_rope = p->head_dim / 4;
}
static inline void form_super_blocks(struct vd_program *p, struct vd_rng *rng)
{
    p->width = p->ff_width = 256;
    p->n_heads = p->head_dim == 32 ? 8 : 4;
}
static inline void form_wide(struct vd_program *p, struct vd_rng *rng)
{
    p->width = 544; /* two segments */
    p->n_layers = 1;
}
static inline void form_vocabulary(struct vd_program *p, struct vd_rng *rng)
{
    p->vocab = 4130; /* two tiles of logits, two leaves of MAX's input */
    p->n_layers = 1;
}
static inline void form_everything(struct vd_program *p, struct vd_rng *rng)
{
    form_gemma3(p, rng);
    form_qwen3moe(p, rng);
    p->attn_cap = 2.0f;
    p->logit_cap = 5.0f;
    p->qkv_bias = true;
    p->rope_scale[1] = 1.25f;
}

static inline void make_encoder(struct vd_program *p)
{
    p->kind = VD_PROGRAM_ENCODER;
    p->ctx = VD_PROGRAM_ENCODER_CTX_MAX;
    p->layer_norm = true;
}
static inline void form_bert(struct vd_program *p, struct vd_rng *rng)
{
    make_encoder(p);
    p->act = VD_ACT_GELU;
    p->token_type = p->ungated = p->qkv_bias = p->out_bias = p->ffn_bias = true;
    p->n_positions = VD_PROGRAM_ENCODER_CTX_MAX;
    p->n_rope = p->n_rope_tables = 0;
    p->rope_pairing = VD_ROPE_NONE;
    p->rope_scale[0] = 0;
}
static inline void form_nomic(struct vd_program *p, struct vd_rng *rng)
{
    make_encoder(p);
    p->token_type = chance(rng, 2);
    p->ffn_bias = chance(rng, 2);
    p->width = chance(rng, 3) ? 544 : p->width; /* two segments */
}

static const struct tamper_form tamper_forms[] = {
    {"llama", form_llama},
    {"yarn", form_yarn},
    {"mixtral", form_mixtral},
    {"smollm3", form_smollm3},
    {"qwen2", form_qwen2},
    {"qwen3", form_qwen3},
    {"qwen3moe", form_qwen3moe},
    {"gemma", form_gemma},
    {"gemma2", form_gemma2},
    {"gemma3", form_gemma3},
    {"phi3", form_phi3},
    {"super-blocks", form_super_blocks},
    {"wide", form_wide},
    {"vocabulary", form_vocabulary},
    {"everything", form_everything},
    {"bert", form_bert},
    {"nomic-bert", form_nomic},
};
enum { TAMPER_FORMS = sizeof tamper_forms / sizeof tamper_forms[0] };

static const uint8_t tamper_types[] = {VD_WTYPE_Q8_0, VD_WTYPE_F32,    VD_WTYPE_Q4_1, VD_WTYPE_Q4_0,
                                       VD_WTYPE_F16,  VD_WTYPE_Q5_0,   VD_WTYPE_BF16, VD_WTYPE_Q5_1,
                                       VD_WTYPE_Q2_K, VD_WTYPE_IQ4_NL, VD_WTYPE_Q6_K, VD_WTYPE_MXFP4,
                                       VD_WTYPE_Q4_K, VD_WTYPE_Q3_K,   VD_WTYPE_Q5_K, VD_WTYPE_IQ4_XS};
enum { TAMPER_TYPES = sizeof tamper_types };

static inline bool tamper_fits(const struct vd_program *p, uint32_t tensor, uint8_t type)
{
    return vd_program_tensor(p, tensor).cols % vd_wtype_info((enum vd_wtype)type)->block_elems == 0;
}

/* A type whose blocks fit the tensor's rows. */
static inline uint8_t tamper_type(const struct vd_program *p, uint32_t tensor, struct vd_rng *rng)
{
    for (;;) {
        uint8_t t = tamper_types[vd_rng_below(rng, TAMPER_TYPES)];
        if (tamper_fits(p, tensor, t))
            return t;
    }
}

/* `only`: the type of all matrices, where it fits; NULL: any of each. */
static inline struct vd_program tamper_program(const struct tamper_form *form, struct vd_rng *rng,
                                               const uint8_t *only)
{
    struct vd_program p = {VD_PROGRAM_PLAIN,
                           .n_layers = 1 + (uint32_t)vd_rng_below(rng, 2),
                           .width = PICK(rng, 64, 96, 128),
                           .n_kv_heads = PICK(rng, 1, 2),
                           .head_dim = PICK(rng, 32, 32, 64),
                           .ff_width = PICK(rng, 32, 64, 96),
                           .vocab = PICK(rng, 67, 120, 203),
                           .ctx = 4096,
                           .rope_pairing = VD_ROPE_HALVES,
                           .eps = 1e-5f};
    p.n_heads = p.n_kv_heads * PICK(rng, 1, 2);
    p.n_rope = p.head_dim / 2;
    p.attn_scale = 1.0f / sqrtf((float)p.head_dim);
    form->set(&p, rng);
    if (only && vd_wtype_info((enum vd_wtype) * only)->block_elems == 256) {
        p.width = p.ff_width = 256;
        p.n_heads = 256 / p.head_dim;
    }
    if (p.n_rope_tables)
        vd_num_rope_steps(10000.0f, 2 * p.n_rope, p.rope_steps[0]);
    p.n_tensors = vd_program_norm_tensor(&p) + !vd_program_is_encoder(&p);
    for (uint32_t i = 0; i < p.n_tensors; i++)
        p.types[i] = vd_program_is_vector(&p, i)         ? (uint8_t)VD_WTYPE_F32
                     : only && tamper_fits(&p, i, *only) ? *only
                                                         : tamper_type(&p, i, rng);
    const char *wrong = vd_program_check(&p);
    if (wrong) {
        fprintf(stderr, "%s: %s\n", form->name, wrong);
        abort();
    }
    return p;
}

static inline struct vd_sampling tamper_sampling(struct vd_rng *rng, uint32_t vocab)
{
    struct vd_sampling s = {.top_p_micro = 1000000, .has_bias = chance(rng, 6), .has_mask = chance(rng, 6)};
    if (chance(rng, 5)) {
        s.repeat_micro = 1100000 + (uint32_t)vd_rng_below(rng, 900000);
        s.repeat_last_n = 1 + (uint32_t)vd_rng_below(rng, 100);
    }
    if (chance(rng, 5))
        s.presence_micro = 1 + (int32_t)vd_rng_below(rng, 1900000);
    if (chance(rng, 5))
        s.frequency_micro = 1 + (int32_t)vd_rng_below(rng, 1900000);
    if (chance(rng, 3))
        return s;
    s.temp_micro = 300000 + (uint32_t)vd_rng_below(rng, 1500000);
    s.top_k = chance(rng, 2) ? 0 : 1 + (uint32_t)vd_rng_below(rng, vocab);
    s.top_p_micro = chance(rng, 2) ? 1000000 : 100000 + (uint32_t)vd_rng_below(rng, 900000);
    s.min_p_micro = chance(rng, 2) ? 0 : (uint32_t)vd_rng_below(rng, 100000);
    s.seed = vd_rng_next(rng);
    s.choice = (uint32_t)vd_rng_below(rng, 3);
    return s;
}

struct tamper_base {
    uint64_t seed;
    const struct tamper_form *form;
    struct vd_toy_model *model;
    struct vd_toy_job *job;
    struct vd_trace *trace;
    struct vd_ref_claim claim;
};

/* A job whose result is a vector: an encoder's always, of decoders one in six. */
static inline enum vd_pooling tamper_pooling(const struct vd_program *p, struct vd_rng *rng)
{
    if (vd_program_is_encoder(p))
        return (enum vd_pooling)(1 + vd_rng_below(rng, 3));
    return chance(rng, 6) ? (enum vd_pooling)(1 + vd_rng_below(rng, 2)) : VD_POOLING_NONE;
}

/* Bases from here on are of one form and one weight type each, forms first. */
#define TAMPER_TYPED (UINT64_C(1) << 32)

/* One in eight has two chunks of keys, one in three a stop token that is reached. */
static inline void tamper_base_open(struct tamper_base *b, uint64_t seed)
{
    struct vd_rng rng = {seed, UINT64_C(1) << 40};
    uint64_t k = seed < TAMPER_TYPED ? seed : seed - TAMPER_TYPED;
    *b = (struct tamper_base){.seed = seed, .form = &tamper_forms[k % TAMPER_FORMS]};
    struct vd_program p = tamper_program(
        b->form, &rng, seed < TAMPER_TYPED ? NULL : &tamper_types[k / TAMPER_FORMS % TAMPER_TYPES]);
    struct vd_sampling s = tamper_sampling(&rng, p.vocab);
    uint32_t n_prompt = (uint32_t)vd_rng_below(&rng, 8) + (chance(&rng, 8) && p.width <= 256 ? 62 : 1);
    uint32_t max_tokens = 1 + (uint32_t)vd_rng_below(&rng, 5);
    enum vd_pooling pooling = tamper_pooling(&p, &rng);
    b->model = toy_model_new(&p, seed, 2.0f / sqrtf((float)p.width));
    b->job = pooling ? toy_vector_new(b->model, n_prompt, pooling)
                     : toy_job_new(b->model, n_prompt, max_tokens, &s);
    uint32_t n = b->job->graph.job.n_output;
    if (!pooling && n && chance(&rng, 3)) {
        b->model->program.stop[0] = b->job->output[vd_rng_below(&rng, n)];
        b->model->program.n_stop = 1;
        toy_hash(b->model);
        toy_job_free(b->job);
        b->job = toy_job_new(b->model, n_prompt, max_tokens, &s);
    }
    b->trace = toy_trace(b->job);
    b->claim = toy_claim(b->job, b->trace);
}

static inline void tamper_base_close(struct tamper_base *b)
{
    vd_trace_destroy(b->trace);
    toy_job_free(b->job);
    toy_model_free(b->model);
}

/* ---- lies ---- */

/* X(code, name). Where a lie has no object in a job (no quantiser, no other output token), another is drawn.
 */
#define TAMPER_LIST(X)                                                                                       \
    X(TAMPER_BIT, "one bit of a record")                                                                     \
    X(TAMPER_BITS, "many bits of an operator")                                                               \
    X(TAMPER_ZEROS, "an operator that is all zeros")                                                         \
    X(TAMPER_ROTATE, "records in another order")                                                             \
    X(TAMPER_FLOAT, "values that are not finite, not canonical, or a little off")                            \
    X(TAMPER_SCALE, "a quantisation scale")                                                                  \
    X(TAMPER_CACHE, "a cache row of an early step")                                                          \
    X(TAMPER_STEPS, "the same lie at every step")                                                            \
    X(TAMPER_LAYER, "a layer that is left out")                                                              \
    X(TAMPER_PATCH, "operators that do not follow from each other")                                          \
    X(TAMPER_WEIGHTS, "weights of lower precision")                                                          \
    X(TAMPER_TYPE, "weights of another type")                                                                \
    X(TAMPER_PROGRAM, "another constant of the program")                                                     \
    X(TAMPER_SAMPLING, "other sampling parameters")                                                          \
    X(TAMPER_SEED, "another seed")                                                                           \
    X(TAMPER_TABLES, "another bias table or mask")                                                           \
    X(TAMPER_PROMPT, "another prompt")                                                                       \
    X(TAMPER_TOKEN, "another output token")                                                                  \
    X(TAMPER_SHORTER, "an answer cut short")                                                                 \
    X(TAMPER_LONGER, "tokens after the end")                                                                 \
    X(TAMPER_FINISH, "another finish reason")                                                                \
    X(TAMPER_STOP, "another stop state")                                                                     \
    X(TAMPER_AMOUNT, "an amount that is not price times tokens")                                             \
    X(TAMPER_COMMIT, "a commit root of another trace")                                                       \
    X(TAMPER_UNIT_HASH, "a unit hash of nothing")                                                            \
    X(TAMPER_OP_ROOT, "an operator's root of nothing")                                                       \
    X(TAMPER_LEAF_HASH, "a leaf hash of nothing")                                                            \
    X(TAMPER_STATE, "a state tree that the receipt does not commit to")                                      \
    X(TAMPER_SALT, "another job salt")

enum tamper_kind {
#define X(code, name) code,
    TAMPER_LIST(X)
#undef X
};
enum { TAMPER_KINDS = TAMPER_SALT + 1 };

static inline const char *tamper_name(enum tamper_kind kind)
{
    static const char *const name[] = {
#define X(code, name) name,
        TAMPER_LIST(X)
#undef X
    };
    return name[kind];
}

/* A worker who lies, and what an honest challenger makes of its receipt: the trace of the claim's tokens. */
struct tamper {
    const struct tamper_base *base;
    enum tamper_kind kind;
    struct vd_rng rng;
    uint32_t step, unit, op;    /* of the lie */
    uint64_t seed;              /* of what the hook does */
    struct vd_toy_model *model; /* its own, or NULL */
    struct vd_program *program; /* its own, or NULL */
    struct vd_toy_job *job, *truth_job;
    struct vd_trace *trace, *truth;
    struct vd_receipt receipt; /* what it signs; parties, funding and prices are the caller's */
    struct vd_ref_claim claim; /* what the court makes of it */
    struct vd_hash bad_leaf;   /* LEAF_HASH: shown instead of leaf 0 of the operator */
};

static inline uint32_t tamper_last(const struct tamper *t)
{
    return t->base->job->graph.job.n_steps - 1;
}

static inline struct vd_graph_op tamper_op(const struct tamper *t)
{
    struct vd_graph_op o;
    vd_graph_op(&t->base->job->graph, t->step, t->unit, t->op, &o);
    return o;
}

/* A place where there is something: late steps as often as all the others, since their runs are short. */
static inline void tamper_aim(struct tamper *t)
{
    const struct vd_graph *g = &t->base->job->graph;
    uint32_t n = g->job.n_steps;
    t->step = chance(&t->rng, 2) ? n - 1 - (uint32_t)vd_rng_below(&t->rng, n < 3 ? n : 3)
                                 : (uint32_t)vd_rng_below(&t->rng, n);
    t->unit = (uint32_t)vd_rng_below(&t->rng, vd_graph_units(g, t->step));
    do
        t->op = (uint32_t)vd_rng_below(&t->rng, vd_graph_ops(g, t->step, t->unit));
    while (tamper_op(t).n_records == 0);
}

/* ---- lies while computing ---- */

static inline void flip_bit(struct vd_rng *rng, uint8_t *p, size_t n_bytes)
{
    uint64_t bit = vd_rng_below(rng, 8 * n_bytes);
    p[bit / 8] ^= (uint8_t)(1 << bit % 8);
}

static inline void hook_floats(struct vd_rng *rng, uint8_t *p, size_t n_bytes)
{
    static const uint32_t odd[] = {0x7FC00000, 0xFFC00000, 0x7FC00001, 0x7F800000,
                                   0xFF800000, 0x80000000, 0xFFFFFFFF, 0x00000001};
    uint8_t *at = p + 4 * vd_rng_below(rng, n_bytes / 4);
    if (chance(rng, 2))
        vd_le32_store(at, odd[vd_rng_below(rng, 8)]);
    else
        vd_le32_store(at, vd_le32_load(at) + (chance(rng, 2) ? 1 : UINT32_MAX));
}

static inline void hook_change(struct tamper *t, uint32_t record_bytes, uint8_t *p, size_t n_bytes)
{
    struct vd_rng rng = {t->seed, 0};
    size_t n = n_bytes / record_bytes;
    if (t->kind == TAMPER_ZEROS || t->kind == TAMPER_LAYER) {
        memset(p, 0, n_bytes);
    } else if (t->kind == TAMPER_BITS) {
        for (uint64_t i = vd_rng_below(&rng, 200) + 2; i > 0; i--)
            flip_bit(&rng, p, n_bytes);
    } else if (t->kind == TAMPER_ROTATE && n > 1) {
        uint8_t first[VD_GRAPH_RECORD_BYTES_MAX];
        memcpy(first, p, record_bytes);
        memmove(p, p + record_bytes, (n - 1) * record_bytes);
        memcpy(p + (n - 1) * record_bytes, first, record_bytes);
    } else if (t->kind == TAMPER_FLOAT && n_bytes >= 4) {
        hook_floats(&rng, p, n_bytes);
    } else if (t->kind == TAMPER_SCALE) {
        flip_bit(&rng, p + vd_rng_below(&rng, n) * record_bytes, 4);
    } else if (t->kind == TAMPER_STOP) {
        p[4] = (uint8_t)((p[4] + 1 + vd_rng_below(&rng, 3)) % 4);
    } else {
        flip_bit(&rng, p, n_bytes);
    }
}

/* What a layer adds: the SUMs before its two ADDs, or MIX. */
static inline bool adds_to_the_row(const struct vd_graph *g, uint32_t step, uint32_t unit, uint32_t op)
{
    struct vd_graph_op o;
    for (uint32_t i = op + 1; i < vd_graph_ops(g, step, unit); i++) {
        vd_graph_op(g, step, unit, i, &o);
        if (o.n_records && o.kind == VD_OP_ADD && (o.src == op || o.src2 == op))
            return true;
    }
    return false;
}

static inline void tamper_hook(void *arg, uint32_t step, uint32_t unit, uint32_t op, uint8_t *records,
                               size_t n_bytes)
{
    struct tamper *t = arg;
    struct vd_graph_op o;
    bool here = step == t->step || (step > t->step && (t->kind == TAMPER_STEPS || t->kind == TAMPER_LAYER));
    if (!here || unit != t->unit)
        return;
    struct vd_graph g = toy_graph(t->job);
    vd_graph_op(&g, step, unit, op, &o);
    if (o.n_records == 0)
        return;
    if (t->kind == TAMPER_LAYER ? o.kind != VD_OP_ADD && adds_to_the_row(&g, step, unit, op) : op == t->op)
        hook_change(t, o.record_bytes, records, n_bytes);
}

/* Aims at an operator of these kinds; false if there is none at this step. */
static inline bool tamper_aim_at(struct tamper *t, uint32_t step, const enum vd_op *kinds, size_t n)
{
    const struct vd_graph *g = &t->base->job->graph;
    t->step = step;
    for (unsigned tries = 0; tries < 400; tries++) {
        t->unit = (uint32_t)vd_rng_below(&t->rng, vd_graph_units(g, step));
        t->op = (uint32_t)vd_rng_below(&t->rng, vd_graph_ops(g, step, t->unit));
        struct vd_graph_op o = tamper_op(t);
        for (size_t i = 0; i < n; i++)
            if (o.kind == kinds[i] && o.n_records)
                return true;
    }
    return false;
}

/* Takes its own tokens from the lie on, as a worker who generates would. */
static inline void tamper_regenerate(struct vd_toy_job *j, uint32_t from)
{
    struct vd_graph_job *g = &j->graph.job;
    if (vd_graph_pools(&j->graph)) {
        toy_run_steps(j, g->n_steps);
        memcpy(j->output, toy_vector(j), 4 * (size_t)g->n_output);
        return;
    }
    uint32_t first = from < g->n_prompt - 1 ? g->n_prompt - 1 : from;
    g->n_output = first + 1 - g->n_prompt;
    for (uint32_t s = from;; s++) {
        toy_run_steps(j, s + 1);
        if (s < first)
            continue;
        uint32_t stop = vd_le32_load(j->token[s] + 4);
        if (stop != VD_STOP_FAIL)
            j->output[g->n_output++] = vd_le32_load(j->token[s]);
        bool full = g->n_output == g->max_tokens;
        if (stop == VD_STOP_NONE && !full)
            continue;
        j->finish = stop >= VD_STOP_TOKEN && stop <= VD_STOP_FAIL ? (enum vd_finish)stop : VD_FINISH_LENGTH;
        g->n_steps = s + 1;
        return;
    }
}

static inline bool lie_computing(struct tamper *t)
{
    static const enum vd_op quantised[] = {VD_OP_QUANT, VD_OP_QUANT256, VD_OP_QROW, VD_OP_KROW, VD_OP_VROW};
    static const enum vd_op cache[] = {VD_OP_KROW, VD_OP_VROW};
    static const enum vd_op token[] = {VD_OP_TOKEN};
    const struct vd_graph_job *g = &t->base->job->graph.job;
    uint32_t last = tamper_last(t);
    tamper_aim(t);
    if (t->kind == TAMPER_SCALE && !tamper_aim_at(t, t->step, quantised, 5))
        return false;
    if (t->kind == TAMPER_CACHE && !tamper_aim_at(t, (uint32_t)vd_rng_below(&t->rng, last + 1), cache, 2))
        return false;
    if (t->kind == TAMPER_STOP &&
        !tamper_aim_at(t, g->n_prompt - 1 + (uint32_t)vd_rng_below(&t->rng, last + 2 - g->n_prompt), token,
                       1))
        return false;
    if (t->kind == TAMPER_LAYER)
        t->unit = vd_graph_last_block(&t->base->job->graph) -
                  (uint32_t)vd_rng_below(&t->rng, t->base->model->program.n_layers) *
                      (vd_program_is_encoder(&t->base->model->program) ? 2 : 1);
    t->seed = vd_rng_next(&t->rng);
    t->job = toy_job_copy(t->base->job, t->step);
    t->job->after = tamper_hook;
    t->job->after_arg = t;
    if (chance(&t->rng, 2))
        tamper_regenerate(t->job, t->step);
    return true;
}

/* ---- other programs, weights and requests ---- */

static inline void lower_precision(struct vd_toy_model *m, uint32_t tensor, struct vd_rng *rng)
{
    struct vd_tensor_shape shape = vd_program_tensor(&m->program, tensor);
    size_t n = shape.rows * vd_wtype_row_bytes(shape.type, shape.cols);
    uint8_t mask = (uint8_t)(chance(rng, 2) ? 0xEE : 0xFE);
    if (chance(rng, 3)) { /* one bit of one weight only */
        flip_bit(rng, m->weights[tensor], n);
        return;
    }
    for (size_t i = 0; i < n; i++)
        m->weights[tensor][i] &= i % 32 < 4 ? 0xFF : mask; /* scales stay, mostly */
}

static inline bool lie_weights(struct tamper *t)
{
    struct vd_program p = t->base->model->program;
    uint32_t tensor = (uint32_t)vd_rng_below(&t->rng, p.n_tensors);
    struct vd_rng fill = {t->base->seed, 0};
    if (t->kind == TAMPER_TYPE && vd_program_is_vector(&p, tensor))
        return false;
    if (t->kind == TAMPER_TYPE)
        p.types[tensor] = tamper_type(&p, tensor, &t->rng);
    float scale = 2.0f / sqrtf((float)p.width);
    t->model = calloc(1, sizeof *t->model);
    t->model->program = p;
    for (uint32_t i = 0; i < p.n_tensors; i++)
        toy_fill(t->model, i, &fill, i == 0 ? 1.0f : scale);
    if (t->kind == TAMPER_WEIGHTS)
        lower_precision(t->model, tensor, &t->rng);
    toy_hash(t->model);
    return true;
}

static inline void other_constant(struct vd_program *p, struct vd_rng *rng)
{
    switch (vd_rng_below(rng, 11)) {
    case 0:
        p->eps *= 1.5f;
        return;
    case 1:
        p->attn_scale = vd_f32_from_bits(vd_f32_bits(p->attn_scale) + 1);
        return;
    case 2:
        p->attn_cap = p->attn_cap ? 0 : 3;
        return;
    case 3:
        p->logit_cap = p->logit_cap ? 0 : 3;
        return;
    case 4:
        p->embed_scale *= 1.25f;
        return;
    case 5:
        p->act = p->act == VD_ACT_GELU ? VD_ACT_SILU : VD_ACT_GELU;
        return;
    case 6:
        p->window = p->window ? p->window + 1 : 2;
        p->layer_flags[0] |= VD_LAYER_WINDOW;
        return;
    case 7:
        p->rope_steps[0][0] += UINT64_C(1) << 40;
        return;
    case 8:
        p->rope_scale[0] *= 1.125f;
        return;
    case 9:
        p->rope_pairing = p->rope_pairing == VD_ROPE_HALVES ? VD_ROPE_ADJACENT : VD_ROPE_HALVES;
        return;
    default:
        p->route_norm = p->n_experts ? !p->route_norm : false;
        p->n_stop = p->n_stop ? 0 : 1;
        return;
    }
}

static inline bool lie_program(struct tamper *t)
{
    t->program = malloc(sizeof *t->program);
    *t->program = t->base->model->program;
    other_constant(t->program, &t->rng);
    return vd_program_check(t->program) == NULL;
}

static inline bool lie_request(struct tamper *t, struct vd_toy_job *j)
{
    struct vd_sampling *s = &j->graph.job.sampling;
    static uint8_t bytes[VD_CONTROLS_MAX_BYTES];
    struct vd_bytes *table =
        s->has_bias && (!s->has_mask || chance(&t->rng, 2)) ? &j->controls.bias : &j->controls.mask;
    if (t->kind == TAMPER_SEED) {
        s->seed += 1 + vd_rng_below(&t->rng, 1000);
        return s->temp_micro > 0;
    }
    if (t->kind == TAMPER_SAMPLING) {
        struct vd_sampling was = *s;
        if (was.pooling) {
            bool encoder = vd_program_is_encoder(j->graph.program);
            s->pooling = (enum vd_pooling)(1 + vd_rng_below(&t->rng, encoder ? 3 : 2));
            return s->pooling != was.pooling;
        }
        *s = tamper_sampling(&t->rng, t->base->model->program.vocab);
        s->has_bias = was.has_bias;
        s->has_mask = was.has_mask;
        s->seed = was.seed;
        return true;
    }
    if (!s->has_bias && !s->has_mask)
        return false;
    memcpy(bytes, table->p, table->n);
    if (table == &j->controls.bias) { /* another value at the ids that a small vocabulary has */
        for (unsigned i = 0; i < 8; i++)
            vd_le32_store(bytes + VD_BIAS_ENTRY_BYTES * i + 4, 1 + (uint32_t)vd_rng_below(&t->rng, 9000000));
    } else {
        bytes[table->n - 17] = 'a'; /* the last letter of an edge: no token may begin with b */
    }
    table->p = bytes;
    return true;
}

/* With another pooling the last block of the steps before has other rows (the mean reads all of theirs), so
 * they are made again. */
static inline void forget_last_block(struct vd_toy_job *j)
{
    const struct vd_graph g = toy_graph(j);
    for (uint32_t u = vd_graph_head_unit(&g) - 1; u <= vd_graph_head_unit(&g); u++)
        for (uint32_t s = 0; s < TOY_MAX_POS; s++) {
            free(j->rows[u][s]);
            j->rows[u][s] = NULL;
        }
}

/* From a step on with another model, program, request or prompt: what came before is honest. */
static inline bool lie_otherwise(struct tamper *t)
{
    struct vd_graph_job *g;
    t->step = (uint32_t)vd_rng_below(&t->rng, tamper_last(t) + 1);
    t->job = toy_job_copy(t->base->job, t->step);
    g = &t->job->graph.job;
    if (t->kind == TAMPER_PROMPT) {
        if (t->step >= g->n_prompt)
            return false;
        t->job->prompt[t->step] = (t->job->prompt[t->step] + 1) % t->base->model->program.vocab;
    } else if (t->kind == TAMPER_WEIGHTS || t->kind == TAMPER_TYPE) {
        if (!lie_weights(t))
            return false;
        t->job->model = t->model;
        t->job->graph.program = &t->model->program;
    } else if (t->kind == TAMPER_PROGRAM) {
        if (!lie_program(t))
            return false;
        t->job->graph.program = t->program;
    } else if (!lie_request(t, t->job)) {
        return false;
    }
    if (g->sampling.pooling != t->base->job->graph.job.sampling.pooling)
        forget_last_block(t->job);
    tamper_regenerate(t->job, t->step);
    return true;
}

/* ---- receipts that lie about an honest run ---- */

static inline bool lie_output(struct tamper *t)
{
    const struct vd_graph_job *honest = &t->base->job->graph.job;
    uint32_t vocab = t->base->model->program.vocab, n = honest->n_output;
    if (n == 0)
        return false;
    uint32_t at = (uint32_t)vd_rng_below(&t->rng, n);
    t->step = honest->n_prompt + at;
    t->job = toy_job_copy(t->base->job, t->step);
    struct vd_graph_job *g = &t->job->graph.job;
    if (t->kind == TAMPER_TOKEN) {
        uint32_t other = (uint32_t)vd_rng_below(&t->rng, vocab);
        if (vd_graph_pools(&t->job->graph)) { /* an element, by one bit */
            t->job->output[at] ^= UINT32_C(1) << vd_rng_below(&t->rng, 31);
            return true;
        }
        if (other == t->job->output[at])
            return false;
        t->job->output[at] = chance(&t->rng, 8) ? UINT32_MAX - (uint32_t)vd_rng_below(&t->rng, 3) : other;
        return true;
    }
    if (t->kind == TAMPER_SHORTER) {
        g->n_output = at;
        g->n_steps = g->n_prompt + at - 1;
        t->job->finish = chance(&t->rng, 2) ? VD_FINISH_STOP : VD_FINISH_LENGTH;
        if (chance(&t->rng, 4)) { /* as a FAIL */
            t->job->finish = VD_FINISH_FAIL;
            g->n_steps++;
        }
        return g->n_steps > 0;
    }
    if (n == g->max_tokens)
        return false;
    t->job->output[n] = (uint32_t)vd_rng_below(&t->rng, vocab);
    g->n_output++;
    g->n_steps++;
    t->job->finish = g->n_output == g->max_tokens ? VD_FINISH_LENGTH : VD_FINISH_CANCELLED;
    return true;
}

static inline bool lie_finish(struct tamper *t)
{
    static const enum vd_finish all[] = {VD_FINISH_STOP, VD_FINISH_LENGTH, VD_FINISH_FAIL};
    enum vd_finish was = t->base->job->finish, is = all[vd_rng_below(&t->rng, 3)];
    t->job = toy_job_copy(t->base->job, t->base->job->graph.job.n_steps);
    t->job->finish = is;
    t->job->graph.job.n_steps += (is == VD_FINISH_FAIL) - (was == VD_FINISH_FAIL);
    return is != was && t->job->graph.job.n_steps > 0;
}

/* ---- trees of nothing ---- */

static inline void tamper_rehash(struct tamper *t)
{
    struct vd_trace *r = t->trace;
    size_t n = r->graph.job.n_steps * sizeof r->commit[0];
    struct vd_hash *honest = memcpy(malloc(n), r->commit, n);
    vd_trace_hash_groups(r);
    if (t->kind == TAMPER_STATE) {
        memcpy(r->commit, honest, n);
        r->commit_root = vd_merkle_root(r->commit, r->graph.job.n_steps);
    }
    free(honest);
}

/* The unit's hash after its records or roots were changed; the unit stays loaded, as the worker has it. */
static inline void tamper_unit_from_roots(struct tamper *t)
{
    struct vd_trace *r = t->trace;
    struct vd_hash outs[VD_GRAPH_OUTS_MAX] = {{{0}}};
    uint8_t ops[VD_GRAPH_OUTS_MAX];
    struct vd_trace_at at = {vd_trace_salt(r->job_salt, t->step), t->step, t->unit, 0};
    unsigned n = vd_graph_outs(&r->graph, t->step, t->unit, ops);
    for (unsigned i = 0; i < n; i++)
        if (ops[i] != VD_GRAPH_NO_OP)
            outs[i] = r->u.op_root[ops[i]];
    *vd_trace_unit_of(r, t->step, t->unit) = vd_trace_unit(&at, outs, n);
}

static inline uint8_t tamper_some_out(struct tamper *t)
{
    uint8_t ops[VD_GRAPH_OUTS_MAX];
    unsigned n = vd_graph_outs(&t->trace->graph, t->step, t->unit, ops), i;
    do
        i = (unsigned)vd_rng_below(&t->rng, n);
    while (ops[i] == VD_GRAPH_NO_OP);
    return ops[i];
}

static inline void patch_op(struct tamper *t, uint32_t op)
{
    struct vd_trace_unit_data *u = &t->trace->u;
    const struct vd_graph_op *o = &u->op[op];
    struct vd_trace_at at = {vd_trace_salt(t->trace->job_salt, t->step), t->step, t->unit, op};
    size_t n_bytes = (size_t)o->n_records * o->record_bytes;
    if (n_bytes == 0)
        return;
    flip_bit(&t->rng, u->records[op], n_bytes);
    u->op_root[op] =
        vd_trace_op_root(&at, u->records[op], n_bytes, (size_t)o->leaf_records * o->record_bytes);
}

static inline bool lie_trees(struct tamper *t)
{
    struct vd_trace *r = t->trace;
    tamper_aim(t);
    struct vd_hash *unit = vd_trace_unit_of(r, t->step, t->unit);
    if (t->kind == TAMPER_UNIT_HASH || (t->kind == TAMPER_STATE && chance(&t->rng, 2))) {
        flip_bit(&t->rng, unit->b, sizeof unit->b);
        tamper_rehash(t);
        return true;
    }
    if (vd_trace_load(r, t->step, t->unit, NULL) != VD_OK)
        abort();
    uint8_t out = tamper_some_out(t);
    t->op = out;
    if (t->kind == TAMPER_OP_ROOT) {
        flip_bit(&t->rng, r->u.op_root[out].b, VD_HASH_BYTES);
    } else if (t->kind == TAMPER_LEAF_HASH) {
        size_t n = (size_t)vd_graph_leaves(&r->u.op[out]);
        struct vd_hash *leaf = malloc(n * sizeof *leaf);
        vd_trace_leaf_hashes(r, out, leaf);
        flip_bit(&t->rng, leaf[0].b, VD_HASH_BYTES);
        t->bad_leaf = leaf[0];
        r->u.op_root[out] = vd_merkle_root(leaf, n);
        free(leaf);
    } else {
        for (uint64_t i = vd_rng_below(&t->rng, 4); i > 0; i--)
            patch_op(t, (uint32_t)vd_rng_below(&t->rng, r->u.n_ops));
        patch_op(t, out);
    }
    tamper_unit_from_roots(t);
    tamper_rehash(t);
    return true;
}

static inline bool lie_after_tracing(struct tamper *t)
{
    struct vd_trace *r = t->trace;
    if (t->kind == TAMPER_COMMIT) {
        flip_bit(&t->rng, r->commit[vd_rng_below(&t->rng, r->graph.job.n_steps)].b, VD_HASH_BYTES);
        r->commit_root = vd_merkle_root(r->commit, r->graph.job.n_steps);
        if (chance(&t->rng, 3))
            flip_bit(&t->rng, r->commit_root.b, VD_HASH_BYTES); /* of no tree at all */
        return true;
    }
    return lie_trees(t);
}

/* ---- a whole tamper ---- */

static inline void tamper_close(struct tamper *t)
{
    vd_trace_destroy(t->trace);
    vd_trace_destroy(t->truth);
    toy_job_free(t->job);
    toy_job_free(t->truth_job);
    toy_model_free(t->model);
    free(t->program);
}

enum { TAMPER_PRICE = 3 }; /* of each token */

/* The receipt of a base's job with this answer. Of model, request and prompt it says what the honest one
 * says: the gateway signed that. */
static inline struct vd_receipt tamper_receipt(const struct tamper_base *b, uint32_t n_output,
                                               const uint32_t *output, enum vd_finish finish,
                                               const struct vd_hash *commit_root)
{
    const struct vd_ref_claim *c = &b->claim;
    const struct vd_graph_job *j = &c->graph.job;
    uint64_t price_out = vd_graph_pools(&c->graph) ? 0 : TAMPER_PRICE; /* a vector costs nothing more */
    return (struct vd_receipt){
        .request = {.arith_version = VD_ARITH_VERSION,
                    .model_root = c->model_root,
                    .n_prompt = j->n_prompt,
                    .prompt_root = c->prompt_root,
                    .salt_commit = c->salt_commit,
                    .sampling = j->sampling,
                    .max_tokens = j->max_tokens,
                    .price_in = {TAMPER_PRICE},
                    .price_out = {price_out},
                    .bias_hash = c->bias_hash,
                    .mask_hash = c->mask_hash},
        .n_output = n_output,
        .output_root = vd_graph_pools(&c->graph)
                           ? vd_vector_root(b->job->job_salt, j->n_prompt, output, n_output)
                           : vd_token_root(b->job->job_salt, j->n_prompt, output, n_output),
        .finish = finish,
        .commit_root = *commit_root,
        .amount = {TAMPER_PRICE * (uint64_t)j->n_prompt + price_out * (uint64_t)n_output},
    };
}

static inline void tamper_claim(struct tamper *t)
{
    const struct tamper_base *b = t->base;
    t->receipt =
        tamper_receipt(b, t->job->graph.job.n_output, t->job->output, t->job->finish, &t->trace->commit_root);
    t->receipt.amount.micro += t->kind == TAMPER_AMOUNT ? 1 + vd_rng_below(&t->rng, 100) : 0;
    if (!vd_ref_claim_init(&t->claim, &t->receipt, b->claim.graph.program, b->claim.program_bytes))
        abort();
}

/* Is the receipt one that anybody would take, before it is replayed? */
static inline bool tamper_receipt_is_valid(const struct vd_receipt *r)
{
    uint8_t bytes[VD_RECEIPT_MAX_BYTES];
    struct vd_receipt same;
    size_t n = vd_receipt_encode(r, bytes, sizeof bytes);
    return vd_receipt_decode((struct vd_bytes){bytes, n}, &same) == VD_RECEIPT_OK;
}

/* The honest trace of the claim's tokens: what a verifier's replay gives. */
static inline void tamper_truth(struct tamper *t)
{
    const struct vd_toy_job *honest = t->base->job;
    const struct vd_graph_job *g = &t->claim.graph.job;
    uint32_t i = 0, n = honest->graph.job.n_output;
    while (i < g->n_output && i < n && t->job->output[i] == honest->output[i])
        i++;
    t->truth_job = toy_job_copy(honest, g->n_prompt + i);
    memcpy(t->truth_job->output, t->job->output, sizeof t->job->output);
    t->truth_job->graph.job = *g;
    t->truth_job->finish = t->claim.finish;
    t->truth = toy_trace(t->truth_job);
}

static inline bool tamper_try(struct tamper *t)
{
    bool made = false;
    switch (t->kind) {
    case TAMPER_BIT:
    case TAMPER_BITS:
    case TAMPER_ZEROS:
    case TAMPER_ROTATE:
    case TAMPER_FLOAT:
    case TAMPER_SCALE:
    case TAMPER_CACHE:
    case TAMPER_STEPS:
    case TAMPER_LAYER:
    case TAMPER_STOP:
        made = lie_computing(t);
        break;
    case TAMPER_WEIGHTS:
    case TAMPER_TYPE:
    case TAMPER_PROGRAM:
    case TAMPER_SAMPLING:
    case TAMPER_SEED:
    case TAMPER_TABLES:
    case TAMPER_PROMPT:
        made = lie_otherwise(t);
        break;
    case TAMPER_TOKEN:
    case TAMPER_SHORTER:
    case TAMPER_LONGER:
        made = lie_output(t);
        break;
    case TAMPER_FINISH:
        made = lie_finish(t);
        break;
    case TAMPER_PATCH:
    case TAMPER_AMOUNT:
    case TAMPER_COMMIT:
    case TAMPER_UNIT_HASH:
    case TAMPER_OP_ROOT:
    case TAMPER_LEAF_HASH:
    case TAMPER_STATE:
    case TAMPER_SALT:
        t->job = toy_job_copy(t->base->job, t->base->job->graph.job.n_steps);
        made = true;
        break;
    }
    if (!made || !vd_graph_valid(&t->job->graph) ||
        (t->job->graph.job.n_output == 0 && t->job->finish != VD_FINISH_FAIL))
        return false; /* its receipt has no form: the number of steps would not follow from it */
    if (t->kind == TAMPER_SALT)
        flip_bit(&t->rng, t->job->job_salt, sizeof t->job->job_salt);
    t->trace = toy_trace(t->job);
    if (t->kind == TAMPER_COMMIT || t->kind == TAMPER_PATCH ||
        (t->kind >= TAMPER_UNIT_HASH && t->kind <= TAMPER_STATE))
        lie_after_tracing(t);
    tamper_claim(t);
    return true;
}

/* Tamper number `n` of a base. Not every lie changes anything (a quantiser may swallow it): see
 * tamper_is_true. */
static inline void tamper_open(struct tamper *t, const struct tamper_base *b, uint32_t n)
{
    struct vd_rng rng = {b->seed, (uint64_t)n << 32};
    for (;;) {
        *t = (struct tamper){
            .base = b, .rng = rng, .kind = (enum tamper_kind)vd_rng_below(&rng, TAMPER_KINDS)};
        t->rng = rng;
        if (tamper_try(t))
            break;
        rng = t->rng;
        tamper_close(t);
    }
    tamper_truth(t);
}

/* Does the receipt stand? (docs/spec/proof.md, section 4) By itself, not by the players' code. */
static inline bool tamper_is_true(const struct tamper *t)
{
    const struct vd_graph_job *g = &t->claim.graph.job;
    if (!tamper_receipt_is_valid(&t->receipt) || !vd_hash_eq(&t->claim.commit_root, &t->truth->commit_root))
        return false;
    if (vd_graph_pools(&t->claim.graph))
        return memcmp(toy_vector(t->truth_job), t->job->output, 4 * (size_t)g->n_output) == 0;
    for (uint32_t s = g->n_prompt - 1; s < g->n_steps; s++) {
        uint32_t token = vd_le32_load(t->truth_job->token[s]),
                 stop = vd_le32_load(t->truth_job->token[s] + 4);
        uint32_t i = s + 1 - g->n_prompt;
        bool last = s + 1 == g->n_steps;
        if (i < g->n_output && token != t->job->output[i])
            return false;
        if (!last && stop != VD_STOP_NONE)
            return false;
        if (last &&
            stop != (t->claim.finish == VD_FINISH_CANCELLED ? VD_STOP_NONE : (uint32_t)t->claim.finish))
            return false;
    }
    return true;
}

/* ---- long runs ---- */

/* Which bases to play: `few`, or `many` with VD_LONG, or others, VD_BASES=FIRST..LAST: a portion of these,
 * or, with numbers from `many` on, bases that nobody has played. */
struct tamper_range {
    uint64_t first, end;
    bool whole;
    uint64_t told_ns;
};

/* Reads FIRST..LAST; false if it is not that. */
static inline bool tamper_portion(struct tamper_range *r, const char *text)
{
    unsigned long long first, last;
    char more;
    if (sscanf(text, "%llu..%llu%c", &first, &last, &more) != 2 || first > last || last == ULLONG_MAX)
        return false;
    *r = (struct tamper_range){first, last + 1, false, r->told_ns};
    return true;
}

static inline struct tamper_range tamper_range(uint64_t few, uint64_t many)
{
    struct tamper_range r = {0, getenv("VD_LONG") ? many : few, true, vd_clock_ns()};
    const char *portion = getenv("VD_BASES");
    if (portion && !tamper_portion(&r, portion)) {
        fprintf(stderr, "VD_BASES=%s is not FIRST..LAST\n", portion);
        exit(2);
    }
    return r;
}

/* Says now and then how far a long run is. */
static inline void tamper_progress(struct tamper_range *r, uint64_t seed, uint64_t n_played, const char *what)
{
    uint64_t now = vd_clock_ns();
    if (!getenv("VD_LONG") || now - r->told_ns < UINT64_C(10000000000))
        return;
    r->told_ns = now;
    fprintf(stderr, "    base %llu of %llu..%llu, %llu %s\n", (unsigned long long)seed,
            (unsigned long long)r->first, (unsigned long long)r->end - 1, (unsigned long long)n_played, what);
}

#endif
