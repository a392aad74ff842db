/* The engine: runs many jobs on one model, all in the same forward passes.
 *
 * What it is. A scheduler thread owns a context and a KV cache. Each step it runs one forward pass over a row
 * of every generating job and some prompt rows of the others, samples, and calls the jobs back. Which jobs
 * share a step never changes a bit of any job's output (docs/spec/arithmetic.md). Jobs are admitted in order,
 * but accounts take turns; a job is admitted when the whole of its cache (prompt and max_tokens) fits, so
 * that it cannot run out of memory later.
 *
 * Memory. The pages of running jobs and prefixes are never more than max_kv_bytes. A layer with a window
 * costs no more than a window and a pass, however long the job is (vd_kv.h): when it is admitted as when it
 * runs.
 *
 * Prefix cache. What a job leaves in the cache stays until the memory is wanted, and is reused by later jobs
 * *of the same account* that begin with the same tokens (a cache over accounts would leak prompts by its
 * timing). Of a model with windows that is so at the end of what a job leaves, at the end of its prompt, and,
 * from the third job on, where two prompts part: elsewhere the windows are gone, and the prompt is computed
 * again. A job with account zero neither uses nor leaves anything. Jobs of one account that begin with the
 * same tokens, such as the choices of one request, wait for the first of them and share its prompt's pages.
 *
 * Callbacks run on the scheduler thread, one at a time: keep them short. They may call vd_engine_submit and
 * vd_engine_cancel, no other function of this header. Per job the order is: positions ascending from 0; for
 * each that yields a token, on_position before on_token; at last on_done, exactly once, also after cancel and
 * destroy.
 *
 * Ownership: prompt, resume and bias are copied by submit. Model and pool are borrowed; nobody else may use
 * the pool but within vd_engine_run. Thread rule: every function may be called from any thread. */
#ifndef VD_ENGINE_H
#define VD_ENGINE_H

#include "vd_embed.h"
#include "vd_forward.h"
#include "vd_graph.h" /* enum vd_stop */
#include "vd_sample.h"
#include "vd_sampler.h"
#include "vd_sha256.h"

struct vd_engine;

/* Values of 0 mean the default. */
struct vd_engine_options {
    size_t max_kv_bytes; /* limit of the cache, prefixes included; default 512 MiB */
    size_t max_rows;     /* rows of a step; default 512, of an encoder at least its context */
    size_t max_active;   /* jobs that share steps; default 32 */
    size_t max_queued;   /* jobs that wait; default 1024 */
    bool lookup;         /* guess tokens from what a job has said (vd_guess.h): faster, the same bits */
    /* Guess by this model too, where the lookup finds nothing; borrowed, NULL: none. Its vocabulary is as
     * large as the model's. Its cache has max_kv_bytes besides. */
    const struct vd_model *draft;
};

/* What the commit root binds of one position. Pointers live for the call. */
struct vd_position {
    uint32_t pos;
    const uint8_t *k, *v; /* KROW and VROW records of the last layer, as vd_kv_read gives them */
    const float *x; /* the X row after the last layer; NULL for positions before the last of the prompt, but
                     * of a mean or an encoder */
    uint32_t token; /* sampled here; VD_SAMPLE_FAIL if none (x NULL, or stop FAIL) */
    enum vd_stop stop;
    const struct vd_automaton_state *mask; /* the mask's state before the token; NULL: no mask, or x NULL */
    /* Of a job whose result is a vector, d floats each: POOL's row (NULL unless the mean is wanted), and, at
     * the last position, the vector. */
    const float *sum, *vector;
};

enum vd_job_end {
    VD_JOB_STOPPED,   /* see .stop */
    VD_JOB_CANCELLED, /* by vd_engine_cancel or vd_engine_destroy */
    VD_JOB_BROKEN,    /* the machine failed: see .err */
};

struct vd_job_result {
    enum vd_job_end end;
    enum vd_stop stop;
    uint32_t n_output; /* tokens, the resumed ones included */
    uint32_t n_reused; /* prompt positions taken from the prefix cache */
    uint64_t queue_ns, prompt_ns, output_ns;
    struct vd_error err; /* code VD_OK but for VD_JOB_BROKEN */
};

struct vd_job {
    const uint32_t *prompt;
    uint32_t n_prompt; /* at least 1 */
    /* Tokens that another worker has streamed already: they are replayed together with the prompt, and no
     * on_token is called for them. */
    const uint32_t *resume;
    uint32_t n_resume;   /* below max_tokens */
    uint32_t max_tokens; /* at least 1; n_prompt + max_tokens - 1 positions fit into the model's context */
    /* Of an encoder it asks for a vector. If it does (pooling): n_prompt positions fit into the context,
     * max_tokens is the model's width, nothing is resumed; on_token never comes, on_vector before on_done. */
    struct vd_sampling sampling;
    struct vd_hash account;
    struct vd_bytes bias;     /* the request's table; n 0: none */
    struct vd_masker *masker; /* of the request's mask, borrowed until on_done; NULL: none */
    uint32_t logprobs;        /* 0: none; else 1 + how many of the likeliest tokens (VD_LOGPROBS_MAX) */

    void *arg;
    void (*on_position)(void *arg, const struct vd_position *p); /* may be NULL */
    void (*on_token)(void *arg, uint32_t index, uint32_t token); /* index in the output; may be NULL */
    /* Comes right before on_token if logprobs are wanted; may be NULL. */
    void (*on_logprobs)(void *arg, uint32_t index, const struct vd_logprobs *l);
    /* resume[index] is not what the job yields there: `own` is, and on_token goes on with it. May be NULL. */
    void (*on_mismatch)(void *arg, uint32_t index, uint32_t given, uint32_t own);
    void (*on_vector)(void *arg, const float *vector); /* d floats, NaNs canonical; may be NULL */
    void (*on_done)(void *arg, const struct vd_job_result *r);
};

/* Starts the scheduler thread. VD_EUSE (a cache below one page, a draft model of another vocabulary),
 * VD_ENOMEM, VD_EAGAIN. */
enum vd_err vd_engine_create(struct vd_engine **out, const struct vd_model *m, struct vd_pool *pool,
                             const struct vd_engine_options *options, struct vd_error *err);
/* The beginning of the end, for who has others to wait for before he destroys the engine: all jobs are
 * cancelled, submit and run refuse, and forward passes that run, of a step or of a run, are given up
 * (VD_ECANCELLED). Returns at once. NULL is allowed. */
void vd_engine_stop(struct vd_engine *e);
/* The same, waits for every on_done, and ends the thread. NULL is allowed. Not from a callback. */
void vd_engine_destroy(struct vd_engine *e);

/* Queues a job; *id names it for cancel. Wrong input is refused here: VD_EUSE (empty prompt, a token outside
 * the vocabulary, a resume longer than max_tokens allows or with a stop token inside), VD_ELIMIT (longer than
 * the context or than the whole cache), VD_EAGAIN (the queue is full), VD_ECANCELLED (the engine is being
 * destroyed), VD_ENOMEM. */
enum vd_err vd_engine_submit(struct vd_engine *e, const struct vd_job *job, uint64_t *id,
                             struct vd_error *err);
/* Ends a job after the running step; one that is unknown or done already is left alone. */
void vd_engine_cancel(struct vd_engine *e, uint64_t id);

/* Runs fn(arg, ctx, cache) on the scheduler thread between two steps and returns when it has run: for replay
 * and traces beside serving. fn closes the sequences that it opens. The cache has room for one of n_pos
 * positions (0: for none in particular): prefixes give way to it, and then running jobs, those admitted last
 * before the others. Such a job goes back to the head of the queue, is admitted before all others, and
 * computes its positions again; but for the time its callbacks do not show it.
 *
 * So that jobs get somewhere however many runs there are, a run that would have to take a job's pages waits
 * until each job that gave way to an earlier one has ended, or has got past where it stood by a sixteenth of
 * that (and by one position at least): what a job computes again is then at most seventeen times what it
 * computes, as prompts are. The run waits wait_ms at most (0: not at all), and as long as one step: who has a
 * clock says here how much of it he can spare. Runs that take no job's pages do not wait, but that there is a
 * step between two of them.
 *
 * VD_ELIMIT: the whole cache is too small for n_pos positions. VD_ECANCELLED when the engine is being
 * destroyed. */
enum vd_err vd_engine_run(struct vd_engine *e, size_t n_pos, uint32_t wait_ms,
                          void (*fn)(void *arg, struct vd_ctx *ctx, struct vd_kv_pool *cache), void *arg,
                          struct vd_error *err);

struct vd_engine_stats {
    size_t n_active, n_queued, n_prefixes;
    size_t n_runs; /* calls of vd_engine_run that have not had their turn */
    size_t kv_bytes_used, kv_bytes_max, kv_page_bytes;
    uint64_t n_steps, n_rows, n_prompt_tokens, n_reused_tokens, n_output_tokens;
    uint64_t n_paused;                         /* jobs that gave way to vd_engine_run */
    uint64_t n_guessed_tokens, n_right_tokens; /* guesses, and those that the jobs yielded */
};
void vd_engine_get_stats(struct vd_engine *e, struct vd_engine_stats *out);

#endif
