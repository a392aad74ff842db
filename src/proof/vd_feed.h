/* Runs a receipt's sequence through the engine in batches: what replay and traces share. */
#ifndef VD_FEED_H
#define VD_FEED_H

#include "vd_forward.h"
#include "vd_graph.h"
#include "vd_masker.h"
#include "vd_replay.h"

/* One pass; all borrowed. `row` is called in the order of steps, after the batch that holds it: the hidden
 * row of steps with a head, and the cache rows of every step, can be read from ctx and kv then. token and
 * stop are what the model chooses (of steps with a head; else VD_SAMPLE_FAIL and VD_STOP_NONE). */
struct vd_feed {
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
    const struct vd_graph *graph;
    const uint32_t *prompt, *output;
    struct vd_bytes bias;     /* of the request; n 0: none */
    struct vd_masker *masker; /* of the request's mask; NULL: none */
    const struct vd_texts *texts;
    struct vd_texts *own_texts; /* what close_controls frees */
    void *arg;
    /* mask: the mask's state before the token; NULL without a mask, or without a head. */
    void (*row)(void *arg, struct vd_kv *kv, uint32_t step, size_t ctx_row, uint32_t token, enum vd_stop stop,
                const struct vd_automaton_state *mask);
    /* May be NULL; as struct vd_tap, by step. */
    void (*tap)(void *arg, uint32_t step, uint32_t unit, const uint8_t *k, const uint8_t *v, const float *x);
    uint64_t forward_ns, sample_ns; /* added to */
};

/* Feeds steps [0, n_steps). VD_ENOMEM and what vd_model_forward and the cache return. */
enum vd_err vd_feed_run(struct vd_feed *f, uint32_t n_steps, struct vd_error *err);

/* Bias, and the mask if the job has one, for the feed's life; false in *fits: the tables are not the
 * request's, or the mask is not for this model. VD_ENOMEM, what vd_texts_open returns. */
enum vd_err vd_feed_open_controls(struct vd_feed *f, const struct vd_model *model,
                                  const struct vd_proof_job *job, bool *fits, struct vd_error *err);
void vd_feed_close_controls(struct vd_feed *f); /* cleared ones are allowed */

/* The graph of a job on a model. False: this model cannot run it (no ledger settles such a receipt). Tokens
 * that are not in the vocabulary are no reason: they are fed as EMBED reads them. */
bool vd_feed_graph(struct vd_graph *out, const struct vd_model *model, const struct vd_proof_job *job);

#endif
