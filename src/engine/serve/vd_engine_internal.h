/* Private to this folder: the engine's state, shared by the scheduler (vd_engine.c) and its step
 * (vd_engine_step.c). */
#ifndef VD_ENGINE_INTERNAL_H
#define VD_ENGINE_INTERNAL_H

#include "vd_engine.h"
#include "vd_guess.h"
#include "vd_prefix.h"
#include "vd_sampler.h"

#include <pthread.h>
#include <stdatomic.h>

struct job {
    struct job *next; /* in the queue */
    uint64_t id;
    struct vd_job spec; /* prompt and resume point into tokens while they are of use */
    uint32_t *tokens;   /* prompt, then output: n_prompt + max_tokens */
    uint32_t n_known;   /* prompt, resumed and sampled tokens */
    uint32_t n_given;   /* resumed tokens that are believed until proved wrong */
    uint32_t n_output;  /* sampled (and, where given, compared) */
    struct vd_kv *kv;   /* from admission on */
    uint32_t n_cached;  /* positions that its cache had when it was admitted */
    uint32_t n_reused;  /* the first time */
    /* Positions below have been called back before the job was paused: they are fed again, and nobody hears
     * of them. 0 if it never was. */
    uint32_t n_told;
    uint32_t owed;      /* positions to reach before it gives way again; 0: none */
    uint32_t anchor[2]; /* whole pages of the prompt that shall stay in the prefix cache; 0: none */
    bool told_reused;   /* those of n_cached have been called back */
    bool ended;
    struct vd_job_result result;
    atomic_bool cancel;
    struct vd_automaton_state mask; /* after mask_n output tokens */
    uint32_t mask_n;
    uint8_t bias[VD_BIAS_MAX * VD_BIAS_ENTRY_BYTES]; /* where spec.bias points */
    uint64_t queued_ns, admitted_ns, first_ns;
    struct vd_embed *embed; /* NULL: the result is tokens */
    struct vd_draft_seq draft;
    uint32_t guess_len;  /* tokens to guess next time; 0 before the first */
    uint32_t guess_wait; /* steps until then */
    uint32_t n_missed;   /* guesses in a row of which nothing was right */
    /* of the running step */
    size_t first_row, n_rows;
    size_t n_guess, guess_end; /* tokens behind n_known that are guesses, and where they end; or 0 */
};

struct call {
    struct call *next;
    void (*fn)(void *arg, struct vd_ctx *ctx, struct vd_kv_pool *cache);
    void *arg;
    size_t n_pos;      /* there shall be room for a sequence of so many positions */
    uint64_t until_ns; /* it does not wait longer for jobs that gave way */
    bool done, refused, too_long;
};

/* A row of a step that yields a token. */
struct choice {
    const struct job *job;
    size_t row;
    uint32_t index; /* in the job's output */
    uint32_t token;
    struct vd_automaton_state mask; /* before it */
    struct vd_logprobs logprobs;
};

struct vd_engine {
    const struct vd_model *m;
    struct vd_pool *pool;
    bool encoder; /* a sequence is fed whole, and its cache is of no use to another */
    struct vd_engine_options options;
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
    pthread_t thread;
    atomic_bool cancel; /* of what the context computes: set with stopping */

    pthread_mutex_t lock;
    pthread_cond_t wake;   /* the scheduler has something to do */
    pthread_cond_t called; /* a call has been done */
    /* under the lock */
    bool stopping;
    uint64_t next_id;
    struct job *queue, **queue_end;
    size_t n_queued;
    struct call *calls; /* in the order in which they came */
    size_t n_calls;
    struct vd_prefix prefix;
    struct vd_engine_stats stats;
    /* changed by the scheduler under the lock, read by it without */
    struct job **active; /* max_active */
    size_t n_active;

    /* the scheduler's own */
    struct vd_row *rows;
    struct choice *choices;
    size_t n_rows, n_choices;
    size_t turn;                   /* the active job that gets prompt rows first */
    struct vd_sampler **samplers;  /* per thread of the pool */
    struct vd_draft *draft;        /* NULL: none */
    struct vd_draft_seq **drafted; /* max_active */
    uint64_t n_guessed, n_right;   /* of the running step */
    uint8_t *k, *v;
};

uint64_t vd_engine_now_ns(void);

/* One forward pass over the active jobs and its callbacks; jobs that are over have .ended set. Without the
 * lock. */
void vd_engine_step(struct vd_engine *e);

#endif
