/* Runs the sequences of receipts through the engine in batches: what replay and traces share.
 *
 * Any number of sequences of one model go through the same forward passes. Where one begins as another does,
 * the other's cache rows are used (vd_feed_plan). What a sequence yields depends on neither.
 *
 * Thread rule: one thread at a time per feed and its sequences; the context's pool must be idle. */
#ifndef VD_FEED_H
#define VD_FEED_H

#include "vd_forward.h"
#include "vd_graph.h"
#include "vd_masker.h"
#include "vd_replay.h"

/* One sequence. What the caller sets is borrowed, and may grow between two runs. */
struct vd_feed_seq {
    const struct vd_graph *graph;
    const uint32_t *prompt, *output;
    uint32_t n_steps;         /* positions [0, n_steps) are to be fed */
    uint32_t first_head;      /* heads of earlier steps are not computed; 0: all are */
    bool keep;                /* more steps will follow in a later run */
    struct vd_bytes bias;     /* of the request; n 0: none */
    struct vd_masker *masker; /* of the request's mask; NULL: none */
    const struct vd_texts *texts;
    const uint32_t *sequence; /* prompt and output in one piece; read only if there are penalties */
    void *arg;
    /* Called in the order of steps, after the batch that holds the step: the hidden row of steps with a head,
     * and the cache rows of every step, can be read from the context and kv then. token and stop are what the
     * model chooses (of steps with a head that chooses; else VD_SAMPLE_FAIL and VD_STOP_NONE). mask: the
     * mask's state before the token; NULL without a mask, or without a head. */
    void (*row)(void *arg, struct vd_kv *kv, uint32_t step, size_t ctx_row, uint32_t token, enum vd_stop stop,
                const struct vd_automaton_state *mask);
    /* May be NULL; as struct vd_tap, by step. Such a sequence gets no rows from another. */
    void (*tap)(void *arg, uint32_t step, uint32_t unit, const struct vd_graph_rows *rows);

    /* The feed's own; zeros at first. */
    struct vd_kv *kv;
    bool joined;
    uint32_t n_fed;
    uint32_t n_shared; /* positions to be taken from the sequence before it in the plan */
    struct vd_automaton_state mask_state;
    uint32_t *own_sequence;
};

struct vd_feed {
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
    bool lean; /* a run takes 12 MiB for its samplers, or one, and not one for each thread */
    uint64_t forward_ns, sample_ns; /* added to by every run */
    uint64_t n_rows, n_shared;      /* positions computed, and taken from other sequences */
    struct vd_feed_batch *batch;    /* of the running call */
    struct vd_texts *texts;         /* read from the model's file, if a job with a mask brought none */
};

/* ctx and cache are borrowed; the context takes at least one row of logits. A feed holds no memory to speak
 * of between its runs. Zeroed feeds and sequences may be closed. */
void vd_feed_open(struct vd_feed *f, struct vd_ctx *ctx, struct vd_kv_pool *cache);
void vd_feed_close(struct vd_feed *f);
void vd_feed_seq_close(struct vd_feed_seq *s); /* its rows and masker */
/* As vd_feed_seq_close for the rows alone: it begins at 0 again. */
void vd_feed_seq_reset(struct vd_feed_seq *s);

/* Puts sequences that have not begun into the order in which they share most, and sets what each takes from
 * the one before: of the positions on which they agree those before its first head, if that is worth waiting
 * for. Without a plan nothing is shared. */
void vd_feed_plan(struct vd_feed_seq **seq, size_t n);

/* Feeds what is still to be fed of all of them. A sequence begins when the one that it takes rows from has
 * them, and when the cache has room for all its positions beside those of the ones that have begun. Where it
 * had to wait for room so long that the other's windows have moved on, it computes all rows itself. VD_ENOMEM
 * and what vd_model_forward and the cache return: then some rows may not have come, and the sequences can
 * only be closed. */
enum vd_err vd_feed_run(struct vd_feed *f, struct vd_feed_seq *const *seq, size_t n, struct vd_error *err);

/* What the job's sampling reads beside the logits: its tables, and `sequence` if there are penalties. False
 * in *fits: the tables are not the request's, or the mask is not for this model. VD_ENOMEM, what
 * vd_texts_open returns. */
enum vd_err vd_feed_controls(struct vd_feed *f, struct vd_feed_seq *s, const struct vd_proof_job *job,
                             bool *fits, struct vd_error *err);

/* The graph of a job on a model. False: this model cannot run it (no ledger settles such a receipt). Tokens
 * that are not in the vocabulary are no reason: they are fed as EMBED reads them. */
bool vd_feed_graph(struct vd_graph *out, const struct vd_model *model, const struct vd_proof_job *job);

#endif
