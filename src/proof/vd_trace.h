/* A trace, opened on demand: all hashes of the state tree, and one unit's operators with all their records
 * (docs/spec/proof.md, sections 2, 3 and 6).
 *
 * Nothing of a trace is stored while generating. In a dispute the sequence is run again with the fast engine,
 * which hands over the rows under the unit hashes; the one unit that the dispute arrives at is then computed
 * operator by operator with src/num on the file's own weight bytes, and its unit hash must be the engine's
 * (else VD_EINTERNAL: a kernel differs from num, and this machine must not fight disputes).
 *
 * Where rows and weights come from is a vd_trace_source; vd_trace_model.h makes one of a model.
 *
 * Memory: two hashes and some bytes for every step; 32 bytes per unit of the steps that are held, which are
 * the last of a run, up to VD_TRACE_KEEP_BYTES (less is asked for again, by another run); the records of one
 * unit; and the rows of other steps that it reads, all or, where they are more than that, of one chunk, the
 * others being the source's own cache. Thread rule: one thread at a time per trace. */
#ifndef VD_TRACE_H
#define VD_TRACE_H

#include "vd_err.h"
#include "vd_graph.h"
#include "vd_model.h"
#include "vd_trace_hash.h"

/* Receives the rows of a run. `row` may be called from several threads at once for different (step, unit), of
 * all units but the head's and pooling's. `token` comes for every step with a head; `pooled`,
 * of a job whose result is a vector, for every step with a pooling unit (sum, vector: as vd_commit_add_vector
 * has them). */
struct vd_trace_sink {
    void *arg;
    void (*row)(void *arg, uint32_t step, uint32_t unit, const struct vd_graph_rows *rows);
    void (*token)(void *arg, uint32_t step, uint32_t token, enum vd_stop stop);
    void (*pooled)(void *arg, uint32_t step, const float *sum, const float *vector);
    /* Everything of this step has come: of a decoder, step by step. NULL: the caller does not care. */
    void (*done)(void *arg, uint32_t step);
};

enum { VD_TRACE_KEEP_BYTES = 32 << 20 };

struct vd_trace_source {
    void *arg;
    /* Runs steps [0, n_steps) (as vd_graph_steps_for says) and hands everything to the sink. */
    enum vd_err (*run)(void *arg, uint32_t n_steps, const struct vd_trace_sink *sink, struct vd_error *err);
    /* NULL: a trace keeps all rows itself. Else the K and V records of a step of the last run, in out->k and
     * out->v: valid until the next call, and readable until the next run or `rest`. */
    void (*rows)(void *arg, uint32_t step, uint32_t unit, struct vd_graph_rows *out);
    void (*rest)(void *arg); /* they are not needed any more */
    uint32_t in_flight;      /* so many steps may have begun and not be done; read only with `rows` */
    uint64_t keep_bytes;     /* 0: VD_TRACE_KEEP_BYTES */
    /* The file's own bytes of a row of a tensor. */
    struct vd_bytes (*weight_row)(void *arg, uint32_t tensor, uint32_t row);
    enum vd_err (*weight_proof)(void *arg, uint32_t tensor, uint32_t row, uint32_t part,
                                struct vd_weight_proof *out, struct vd_error *err);
    /* The request's tables; and, needed only with a mask, the text of a token (id below the vocabulary) and
     * the proof of its leaf, vd_merkle_range_proof_len(vocab, id, 1) hashes. */
    struct vd_controls controls;
    struct vd_bytes (*text)(void *arg, uint32_t id);
    void (*text_proof)(void *arg, uint32_t id, struct vd_hash *proof);
    /* Called when an operator's records are complete and before anything reads them. NULL but in tests, which
     * make cheats of it. */
    void (*after_op)(void *arg, uint32_t step, uint32_t unit, uint32_t op, uint8_t *records, size_t n_bytes);
};

/* What a unit reads of another: an operator's records at `what.n` steps, and the roots under the unit hashes
 * there. Kept of steps [first, first + n), one after the other. */
struct vd_trace_read {
    struct vd_graph_read what;
    struct vd_graph_op op;
    size_t step_bytes; /* of all records of one step */
    uint32_t first, n, n_max;
    uint8_t *rows;
    struct vd_hash (*outs)[VD_GRAPH_OUTS_MAX];
};

/* Everything that a record of one unit can read, and all its operators. */
struct vd_trace_unit_data {
    bool loaded;
    uint32_t step, unit, n_ops;
    struct vd_graph_op op[VD_GRAPH_OPS_MAX];
    uint8_t *records[VD_GRAPH_OPS_MAX]; /* of each operator, one after the other */
    struct vd_hash op_root[VD_GRAPH_OPS_MAX];
    unsigned n_reads;
    struct vd_trace_read read[VD_GRAPH_READS_MAX];
    bool rooted; /* the roots of what is kept of a longer read are too */
    void *memory;
    uint64_t memory_bytes;
};

struct vd_trace {
    struct vd_graph graph;
    uint8_t job_salt[VD_JOB_SALT_BYTES];
    const uint32_t *prompt, *output;
    struct vd_trace_source source;
    uint32_t n_members;                          /* of the largest group: row length of `unit` */
    uint32_t n_held, held_end;                   /* groups below held_end are held, n_held at most */
    struct vd_hash *unit;                        /* their unit hashes: vd_trace_unit_of */
    struct vd_hash *group;                       /* leaves of the state tree */
    struct vd_hash *commit;                      /* leaves of the commit tree */
    uint8_t *token_record;                       /* TOKEN records: [8 * step] */
    struct vd_hash pool_outs[VD_GRAPH_OUTS_MAX]; /* under the last step's pooling unit */
    struct vd_hash state_root, commit_root;
    /* What head operators read beside records; made by vd_trace_controls_open. */
    uint8_t *sequence;    /* prompt and output as u32, little-endian */
    uint8_t *bias, *mask; /* as VD_IN_BIAS and VD_IN_MASK give them; NULL: none */
    uint8_t *mask_state;  /* MASK_STATE records of steps from n_prompt - 1 on */
    struct vd_trace_unit_data u;
};

/* Runs the sequence once. graph's program, prompt and output are borrowed for the trace's life, `source` is
 * copied. vd_graph_valid(graph). VD_ENOMEM, and what source.run returns. */
enum vd_err vd_trace_create(struct vd_trace **out, const struct vd_graph *graph, const uint32_t *prompt,
                            const uint32_t *output, const uint8_t job_salt[VD_JOB_SALT_BYTES],
                            const struct vd_trace_source *source, struct vd_error *err);
void vd_trace_destroy(struct vd_trace *t); /* NULL is allowed */
/* The most that a trace of this job takes: its hashes, and the largest of its units with all inputs. create
 * and load do without a limit but for 1 GiB of each (VD_ELIMIT): whoever challenges must not be held off by
 * the size of what somebody has done. */
uint64_t vd_trace_most_bytes(const struct vd_graph *graph);
/* Whether that is at most VD_TRACE_FITS_BYTES: a worker asks before it takes a job. With 16 MiB for the run
 * of the sequence (vd_feed.h) a dispute then takes at most 256 MiB more than generating did. */
enum { VD_TRACE_FITS_BYTES = 240 << 20 };
bool vd_trace_fits(const struct vd_graph *graph);

/* Makes sure that the unit hashes of these steps, at most one chunk of 64, are held; else another run of the
 * source, of vd_trace_hold_runs steps (0: they are held). What was held before may not be any more. */
uint32_t vd_trace_hold_runs(const struct vd_trace *t, uint32_t first, uint32_t n);
enum vd_err vd_trace_hold(struct vd_trace *t, uint32_t first, uint32_t n, struct vd_error *err);
/* Bytes of the trace without the loaded unit. */
uint64_t vd_trace_bytes(const struct vd_trace *t);
/* The unit hashes of a group that is held; one unit's. */
static inline struct vd_hash *vd_trace_group_of(const struct vd_trace *t, uint32_t group)
{
    return t->unit + (size_t)(group % t->n_held) * t->n_members;
}
static inline struct vd_hash *vd_trace_unit_of(const struct vd_trace *t, uint32_t step, uint32_t unit)
{
    struct vd_graph_place at = vd_graph_place(&t->graph, step, unit);
    return vd_trace_group_of(t, at.group) + at.member;
}
/* Makes the leaves of both trees, and the roots, of the unit hashes. */
void vd_trace_hash_groups(struct vd_trace *t);

/* The parts of a trace that follow from tokens and tables alone; t->graph, prompt, output and source are set.
 * vd_trace_create calls it. VD_ENOMEM; VD_EUSE if the mask is not valid. */
enum vd_err vd_trace_controls_open(struct vd_trace *t, struct vd_error *err);
void vd_trace_controls_close(struct vd_trace *t);
/* MASK_STATE's record at a step that has a head. */
static inline const uint8_t *vd_trace_mask_state(const struct vd_trace *t, uint32_t step)
{
    return t->mask_state + (size_t)VD_AUTOMATON_STATE_BYTES * (step + 1 - t->graph.job.n_prompt);
}

/* Computes t->u of that unit; at once if it is there already. A second run of the source, of
 * vd_trace_load_runs steps (0: none is needed). */
uint32_t vd_trace_load_runs(const struct vd_trace *t, uint32_t step, uint32_t unit);
enum vd_err vd_trace_load(struct vd_trace *t, uint32_t step, uint32_t unit, struct vd_error *err);

/* What an input (VD_IN_ROW, VD_IN_KV but of MASK_STATE) of the loaded unit is part of. */
const struct vd_trace_read *vd_trace_read_of(struct vd_trace_unit_data *u, const struct vd_graph_input *in);

/* What is kept of what the loaded unit reads at a step. vd_trace_fetch makes sure that it is, with the roots
 * and the unit hashes of these steps, at most one chunk of 64. */
static inline const uint8_t *vd_trace_read_rows(const struct vd_trace_read *r, uint64_t step)
{
    return r->rows + (step - r->first) * r->step_bytes;
}
enum vd_err vd_trace_fetch(struct vd_trace *t, uint32_t first, uint32_t n, struct vd_error *err);

/* The two halves of it, for who has the inputs otherwise: makes t->u with its arrays empty; computes all
 * operators from what is read. Only graph, job_salt, prompt, output and source of *t are read. The caller
 * frees t->u.memory. */
enum vd_err vd_trace_unit_prepare(struct vd_trace *t, uint32_t step, uint32_t unit, struct vd_error *err);
void vd_trace_unit_run(struct vd_trace *t);

/* The hash of leaf k of an operator of the loaded unit. */
struct vd_hash vd_trace_leaf_hash(const struct vd_trace *t, uint32_t op, uint64_t k);
/* All of them: vd_graph_leaves(&t->u.op[op]) hashes. */
void vd_trace_leaf_hashes(const struct vd_trace *t, uint32_t op, struct vd_hash *out);

static inline uint32_t vd_trace_token(const struct vd_trace *t, uint32_t i)
{
    return i < t->graph.job.n_prompt ? t->prompt[i] : t->output[i - t->graph.job.n_prompt];
}

#endif
