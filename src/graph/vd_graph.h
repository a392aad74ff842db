/* The graph of a job: which steps, units, operators and records there are, and what each record is computed
 * from (docs/spec/proof.md, section 2). This table is the only place that knows; referee, game, replay and
 * tracer ask it.
 *
 * A step is one fed position of the sequence (prompt, then output). Its units are, of a decoder, 0 the
 * embedding, 1 .. L the blocks and, from step p - 1 on, L + 1 the head; of an encoder 0 the embedding, and of
 * layer l (from 0) 1 + 2l queries, keys and values, 2 + 2l the rest. A job that asks for a vector, as every
 * job of an encoder does, has a pooling unit instead of the head: at step p - 1, or at every step if the mean
 * is asked for. A unit is a list of operators, an
 * operator's output a list of records of fixed size, and leaf_records consecutive records are hashed as one
 * leaf. A "tile" is what the referee recomputes: one record from its inputs (vd_tile.h).
 *
 * The units lie in groups, the leaves of the state tree, so that everything a record reads stands before it:
 * a decoder's group is a step, its members the step's units; an encoder's group is a unit of all steps, whose
 * members they are, since its attention reads every position. Nothing outside of this folder knows which.
 *
 * The operators of a unit and their numbers are the same for every program of a kind. One that a program's
 * features do not call for is absent: it has no records, its root is 32 zero bytes, and nobody reads it; who
 * names it as a source in the table reads that operator's own source instead. `src` and `src2` below are
 * already those that are read.
 *
 * Thread rule: pure functions. Nothing allocates. Asking for a step, unit or operator that is not there is an
 * assert. */
#ifndef VD_GRAPH_H
#define VD_GRAPH_H

#include "vd_adjust.h"
#include "vd_automaton.h"
#include "vd_program.h"
#include "vd_sample.h"

/* X(code, name) */
#define VD_OP_LIST(X)                                                                                        \
    X(VD_OP_EMBED, "EMBED")                                                                                  \
    X(VD_OP_NORM_PART, "NORM_PART")                                                                          \
    X(VD_OP_NORM_SCALE, "NORM_SCALE")                                                                        \
    X(VD_OP_NORM_MUL, "NORM_MUL")                                                                            \
    X(VD_OP_HEAD_SCALE, "HEAD_SCALE")                                                                        \
    X(VD_OP_HEAD_MUL, "HEAD_MUL")                                                                            \
    X(VD_OP_QUANT, "QUANT")                                                                                  \
    X(VD_OP_QUANT256, "QUANT256")                                                                            \
    X(VD_OP_PART, "PART")                                                                                    \
    X(VD_OP_SUM, "SUM")                                                                                      \
    X(VD_OP_BIAS, "BIAS")                                                                                    \
    X(VD_OP_ROPE, "ROPE")                                                                                    \
    X(VD_OP_QROW, "QROW")                                                                                    \
    X(VD_OP_KROW, "KROW")                                                                                    \
    X(VD_OP_VROW, "VROW")                                                                                    \
    X(VD_OP_SCORE, "SCORE")                                                                                  \
    X(VD_OP_CHUNK, "CHUNK")                                                                                  \
    X(VD_OP_CHUNK_V, "CHUNK_V")                                                                              \
    X(VD_OP_MERGE, "MERGE")                                                                                  \
    X(VD_OP_ATTN, "ATTN")                                                                                    \
    X(VD_OP_ADD, "ADD")                                                                                      \
    X(VD_OP_SWIGLU, "SWIGLU")                                                                                \
    X(VD_OP_GEGLU, "GEGLU")                                                                                  \
    X(VD_OP_ROUTE, "ROUTE")                                                                                  \
    X(VD_OP_MIX, "MIX")                                                                                      \
    X(VD_OP_GELU, "GELU")                                                                                    \
    X(VD_OP_POSITION, "POSITION")                                                                            \
    X(VD_OP_MEAN_PART, "MEAN_PART")                                                                          \
    X(VD_OP_MEAN, "MEAN")                                                                                    \
    X(VD_OP_VAR_PART, "VAR_PART")                                                                            \
    X(VD_OP_LN_MUL, "LN_MUL")                                                                                \
    X(VD_OP_CAP, "CAP")                                                                                      \
    X(VD_OP_PENALTY, "PENALTY")                                                                              \
    X(VD_OP_LOGIT_BIAS, "LOGIT_BIAS")                                                                        \
    X(VD_OP_MASK_STATE, "MASK_STATE")                                                                        \
    X(VD_OP_MASK, "MASK")                                                                                    \
    X(VD_OP_MAX, "MAX")                                                                                      \
    X(VD_OP_GMAX, "GMAX")                                                                                    \
    X(VD_OP_HIST, "HIST")                                                                                    \
    X(VD_OP_PICK, "PICK")                                                                                    \
    X(VD_OP_TIE, "TIE")                                                                                      \
    X(VD_OP_THRESHOLD, "THRESHOLD")                                                                          \
    X(VD_OP_MASS, "MASS")                                                                                    \
    X(VD_OP_DRAW, "DRAW")                                                                                    \
    X(VD_OP_TOKEN, "TOKEN")                                                                                  \
    X(VD_OP_POOL, "POOL")                                                                                    \
    X(VD_OP_L2, "L2")                                                                                        \
    X(VD_OP_VECTOR, "VECTOR")

enum vd_op {
#define X(code, name) code,
    VD_OP_LIST(X)
#undef X
};
enum { VD_OP_KINDS = VD_OP_VECTOR + 1 };
const char *vd_op_name(enum vd_op op);

/* TOKEN's stop states. */
enum vd_stop {
    VD_STOP_NONE = 0,
    VD_STOP_TOKEN = 1,  /* a stop token of the program */
    VD_STOP_LENGTH = 2, /* the output has max_tokens tokens */
    VD_STOP_FAIL = 3,   /* no token: a logit is not finite */
};

enum {
    VD_GRAPH_OPS_MAX = 64,   /* operators of a unit */
    VD_GRAPH_INPUTS_MAX = 5, /* inputs of a record */
    VD_GRAPH_READS_MAX = 4,  /* rows of other units that a unit reads */
    VD_GRAPH_UNITS_MAX = 2 * VD_PROGRAM_LAYERS_MAX + 2,
    VD_GRAPH_OUTS_MAX = 3, /* roots under a unit hash */
    VD_GRAPH_CHUNK = 64,   /* keys of a chunk */
    VD_GRAPH_RECORD_BYTES_MAX = 8 + 4 * VD_PROGRAM_HEAD_DIM_MAX,
    VD_GRAPH_LEAF_BYTES_MAX = 4096 + 8 * 32, /* MERGE at head_dim 32 */
    VD_GRAPH_ROUTE_BYTES = 8,                /* of ROUTE, per expert used: u32 expert, f32 weight */
    VD_GRAPH_NO_OP = 0xFF,
    VD_TOKEN_RECORD_BYTES = 8, /* u32 token, u32 stop */
    VD_GRAPH_POOL_ELEMS = 32,  /* f32 of a POOL record */
    VD_GRAPH_ROW_LEAF = 1024,  /* f32 records of a leaf of a row */
};

/* What a unit puts out, as an engine has it: QROW, KROW and VROW records one after the other, and the row of
 * floats (NaNs need not be canonical yet). NULL: the unit has none of the kind. */
struct vd_graph_rows {
    const uint8_t *q, *k, *v;
    const float *x;
};

/* What a receipt says of its job. n_steps = n_prompt + n_output - 1, or one more if it ended in FAIL; n_steps
 * >= 1. If sampling.pooling asks for a vector: n_steps = n_prompt, and n_output = max_tokens = width, since
 * the output's "tokens" are the bits of the vector's elements. */
struct vd_graph_job {
    uint32_t n_prompt, n_output, n_steps, max_tokens;
    struct vd_sampling sampling;
};

struct vd_graph {
    const struct vd_program *program; /* valid, borrowed */
    struct vd_graph_job job;
};

/* Where an operator's values come from: number `op` of the unit that is `back` (0 .. 2) units before. */
#define VD_GRAPH_SRC(back, op) ((back) << 6 | (op))
#define VD_GRAPH_SRC_BACK(src) ((uint8_t)((src) >> 6))
#define VD_GRAPH_SRC_OP(src)   ((uint8_t)((src)&63))

struct vd_graph_op {
    enum vd_op kind;
    uint64_t n_records; /* 0: absent */
    uint32_t record_bytes, leaf_records;
    uint32_t rows, cols; /* PART, SUM: of the matrix; QUANT, ROPE, norms, ...: cols is the vector's length */
    uint8_t src, src2;   /* operators that it reads: VD_GRAPH_SRC(units back, number) */
    uint32_t layer;      /* of a block */
    uint32_t tensor;     /* its weight; LN_MUL's bias is the next tensor */
    uint16_t act_block;  /* PART: elements per scale of what it reads: 0 (f32), 32, 256 */
    bool src_pool;       /* NORM_PART, VECTOR: src is POOL, whose records are VD_GRAPH_POOL_ELEMS elements */
    uint32_t first_key, end_key; /* SCORE .. ATTN: the positions of the keys, [first, end) */
    /* PART of experts: n_slots > 0 experts take part, op `route` says which. Row r of slot s is row
     * s * rows / n_slots + r of the operator, or, if slot_minor, row r * n_slots + s. */
    uint32_t n_slots;
    bool slot_minor;
    uint8_t route;
    bool by_mass;           /* HIST .. THRESHOLD: top-p (mass), else top-k (count) */
    uint8_t level;          /* HIST, PICK: 0 .. 7 */
    uint8_t gmax, last_cut; /* sampling: GMAX; the THRESHOLD that holds here, VD_GRAPH_NO_OP if none */
};

/* True if this program can run this job: prompt, output, steps and context fit together. */
bool vd_graph_valid(const struct vd_graph *g);

uint32_t vd_graph_units(const struct vd_graph *g, uint32_t step);
/* The unit of the last block, and that of the head or of pooling. */
uint32_t vd_graph_last_block(const struct vd_graph *g);
static inline uint32_t vd_graph_head_unit(const struct vd_graph *g)
{
    return vd_graph_last_block(g) + 1;
}

/* The layer that a block's unit belongs to. */
uint32_t vd_graph_layer(const struct vd_graph *g, uint32_t unit);
/* Whether the last block puts out a row at that step: of a decoder where there is a head, of an encoder
 * always. */
bool vd_graph_has_row(const struct vd_graph *g, uint32_t step);

/* ---- groups ---- */

struct vd_graph_place {
    uint32_t group, member;
};
/* Leaves of the state tree; members of one. */
uint32_t vd_graph_groups(const struct vd_graph *g);
uint32_t vd_graph_members(const struct vd_graph *g, uint32_t group);
struct vd_graph_place vd_graph_place(const struct vd_graph *g, uint32_t step, uint32_t unit);
static inline bool vd_graph_same_group(const struct vd_graph *g, uint32_t step, uint32_t unit,
                                       uint32_t other_step, uint32_t other_unit)
{
    return vd_graph_place(g, step, unit).group == vd_graph_place(g, other_step, other_unit).group;
}
/* The opposite. */
void vd_graph_at(const struct vd_graph *g, struct vd_graph_place place, uint32_t *step, uint32_t *unit);
/* How many steps must be run until everything that a unit of `step` reads is there. */
uint32_t vd_graph_steps_for(const struct vd_graph *g, uint32_t step);

/* ---- operators ---- */

uint32_t vd_graph_ops(const struct vd_graph *g, uint32_t step, uint32_t unit);
void vd_graph_op(const struct vd_graph *g, uint32_t step, uint32_t unit, uint32_t op,
                 struct vd_graph_op *out);
/* The operators whose roots the unit hash binds, in order (of the head: MASK_STATE, if there is a mask, and
 * TOKEN; of pooling: POOL, of the mean, and VECTOR, at the last step); returns how many. An X row that
 * does not exist (last block of a step before p - 1) is VD_GRAPH_NO_OP and binds 32 zero bytes. */
unsigned vd_graph_outs(const struct vd_graph *g, uint32_t step, uint32_t unit,
                       uint8_t ops[VD_GRAPH_OUTS_MAX]);
/* The operator whose values are the row that the next units read: that of the embedding, or a block's last;
 * not of an encoder's unit of queries, keys and values. */
uint8_t vd_graph_row_op(const struct vd_graph *g, uint32_t unit);

/* All records of one operator of another unit, at steps [first, first + n), n >= 1: what a unit reads from
 * others. MASK_STATE of the step before is not told, since it follows from tokens alone. */
struct vd_graph_read {
    uint32_t unit, op, first, n;
};
unsigned vd_graph_reads(const struct vd_graph *g, uint32_t step, uint32_t unit,
                        struct vd_graph_read out[VD_GRAPH_READS_MAX]);

static inline bool vd_graph_has_head(const struct vd_graph *g, uint32_t step)
{
    return step + 1 >= g->job.n_prompt || g->job.sampling.pooling == VD_POOLING_MEAN;
}
/* The job's result is a vector: its head units are pooling units. */
static inline bool vd_graph_pools(const struct vd_graph *g)
{
    return g->job.sampling.pooling != VD_POOLING_NONE;
}
/* Whether that step's row goes into the vector, of a job whose result is one. */
static inline bool vd_graph_is_pooled(const struct vd_graph *g, uint32_t step)
{
    enum vd_pooling pooling = g->job.sampling.pooling;
    return pooling == VD_POOLING_MEAN || step == (pooling == VD_POOLING_CLS ? 0 : g->job.n_prompt - 1);
}
static inline uint64_t vd_graph_leaves(const struct vd_graph_op *o)
{
    return (o->n_records + o->leaf_records - 1) / o->leaf_records;
}
/* Records of that leaf. */
static inline uint32_t vd_graph_leaf_records(const struct vd_graph_op *o, uint64_t leaf)
{
    uint64_t left = o->n_records - leaf * o->leaf_records;
    return left < o->leaf_records ? (uint32_t)left : o->leaf_records;
}
static inline size_t vd_graph_leaf_bytes(const struct vd_graph_op *o, uint64_t leaf)
{
    return (size_t)vd_graph_leaf_records(o, leaf) * o->record_bytes;
}

/* ---- parts of a record's number ---- */

/* The chunk that a record of CHUNK, CHUNK_V or MERGE is about. */
struct vd_graph_chunk {
    uint32_t head;        /* query head */
    uint32_t from, n;     /* its keys: positions [from, from + n); lane of a key: its position % 64 */
    bool is_first;        /* of the head's chunks */
    uint64_t first_score; /* record of SCORE of the first of these keys */
};
/* How many a head has. */
static inline uint32_t vd_graph_chunks(const struct vd_graph_op *o)
{
    return (o->end_key - 1) / VD_GRAPH_CHUNK - o->first_key / VD_GRAPH_CHUNK + 1;
}
struct vd_graph_chunk vd_graph_chunk(const struct vd_graph_op *o, uint64_t record);

/* The place of a row of PART or SUM of experts: which slot, and which of the expert's own rows. */
struct vd_graph_slot {
    uint32_t slot, row, expert_rows; /* expert_rows: how many one expert has */
};
struct vd_graph_slot vd_graph_slot(const struct vd_graph_op *o, uint32_t row);

/* ---- inputs of one record ---- */

enum vd_input_kind {
    VD_IN_OP,  /* records [first, first + count) of operator `op` of the same unit */
    VD_IN_ROW, /* the same of the unit `back` units before, at the same step */
    VD_IN_KV,  /* leaf `leaf` of operator `op` of that unit (KROW, VROW, MASK_STATE, POOL: a leaf is a record;
                  a row), at steps [first, first + count) */
    VD_IN_WEIGHT, /* weight leaf (tensor, row, part) */
    VD_IN_TOKEN,  /* the token at sequence position `first` */
    VD_IN_WINDOW, /* the tokens at sequence positions [first, first + count), at most VD_PENALTY_WINDOW */
    VD_IN_BIAS,   /* the request's table of biases */
    VD_IN_MASK,   /* the request's mask */
    VD_IN_TEXT,   /* the text of token `row`, under the root in the mask before it */
};

/* An input that is `dynamic` has an address that follows from inputs before it, which are records or a token:
 * vd_tile_resolve fills `row` or `first` and `count`. */
struct vd_graph_input {
    enum vd_input_kind kind;
    bool dynamic;
    uint8_t op, back;
    uint64_t first;
    uint32_t count;
    uint32_t leaf;
    uint32_t tensor, row, part;
};

/* The inputs of a record, in the order of the opening; returns how many. */
unsigned vd_graph_inputs(const struct vd_graph *g, uint32_t step, const struct vd_graph_op *o,
                         uint64_t record, struct vd_graph_input in[VD_GRAPH_INPUTS_MAX]);

/* The stop state of a sampled token at `step` (docs/spec/proof.md, section 2). */
enum vd_stop vd_graph_stop(const struct vd_graph *g, uint32_t step, uint32_t token);

#endif
