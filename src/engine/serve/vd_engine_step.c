/* A step. First every job that generates gets its row, then the rows that are left go to jobs with more than
 * one known token (prompts, resumed outputs), in equal shares so that a long prompt does not hold up a short
 * one. While somebody generates, prompt rows are few, which bounds the time between two of his tokens. Last,
 * jobs that generate may get rows for guesses of their next tokens (vd_guess.h). */
#include "vd_engine_internal.h"
#include "vd_receipt.h"

#include <assert.h>
#include <time.h>

enum {
    BUSY_PROMPT_ROWS = 128, /* prompt rows of a step beside generating jobs */
    SHARE_MIN = 32,         /* of one job */
    GUESS_ROWS = 24,        /* generating rows and guesses of a step: more cost more than they may save */
    GUESS_FIRST = 4,        /* tokens of a job's first guess */
    GUESS_WAIT_LOG2 = 5,    /* a job whose guesses are wrong tries again after at most so many steps */
};

uint64_t vd_engine_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ------------------------- planning ------------------------- */

static size_t min2(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t waiting_rows(const struct job *j)
{
    return j->n_known - vd_kv_len(j->kv);
}

/* Of a job's next n rows, how many want logits; and how many rows fit when only `logits` may. */
static size_t logits_of(const struct job *j, size_t n)
{
    size_t end = vd_kv_len(j->kv) + n, first = j->spec.n_prompt - 1;
    first = first > j->n_told ? first : j->n_told;
    if (j->embed)
        return 0;
    return end > first ? min2(end - first, n) : 0;
}

static size_t fit_logits(const struct job *j, size_t n, size_t logits)
{
    size_t want = logits_of(j, n);
    return want > logits ? n - (want - logits) : n;
}

/* Prompts and resumed outputs, after the generating jobs have left so many rows and rows with logits. */
static void plan_long(struct vd_engine *e, size_t n_long, size_t *rows_left, size_t *logits_left)
{
    size_t rows = *rows_left, logits = *logits_left;
    if (n_long < e->n_active)
        rows = min2(rows, BUSY_PROMPT_ROWS);
    size_t beyond = *rows_left - rows;
    size_t share = rows / n_long > SHARE_MIN ? rows / n_long : SHARE_MIN;
    for (size_t pass = 0; pass < 2; pass++) /* what short ones leave goes to the others */
        for (size_t i = 0; i < e->n_active; i++) {
            struct job *j = e->active[(e->turn + i) % e->n_active];
            size_t have = j->n_rows, more = min2(waiting_rows(j) - have, pass == 0 ? share : rows);
            if (have == waiting_rows(j))
                continue;
            j->n_rows = fit_logits(j, have + min2(more, rows), logits + logits_of(j, have));
            logits -= logits_of(j, j->n_rows) - logits_of(j, have);
            rows -= j->n_rows - have;
        }
    *rows_left = rows + beyond;
    *logits_left = logits;
}

static bool generates(const struct job *j)
{
    return waiting_rows(j) == 1 && vd_kv_len(j->kv) >= j->spec.n_prompt;
}

/* How many tokens to guess for a job: none beyond its last but one, which is the last that is fed. */
static size_t guess_room(struct job *j)
{
    if (!generates(j) || (j->guess_wait > 0 && j->guess_wait--))
        return 0;
    j->guess_len = j->guess_len ? j->guess_len : GUESS_FIRST;
    return min2(j->guess_len, (size_t)j->spec.n_prompt + j->spec.max_tokens - 1 - j->n_known);
}

/* Guesses behind the newest tokens of generating jobs, and rows for them. */
static void plan_guesses(struct vd_engine *e, size_t rows, size_t logits)
{
    size_t n_rows = 0, n_drafted = 0;
    for (size_t i = 0; i < e->n_active; i++)
        n_rows += e->active[i]->n_rows;
    size_t left = n_rows < GUESS_ROWS ? min2(GUESS_ROWS - n_rows, min2(rows, logits)) : 0;
    for (size_t i = 0; i < e->n_active && left > 0; i++) {
        struct job *j = e->active[(e->turn + i) % e->n_active];
        size_t room = min2(guess_room(j), left);
        if (room == 0)
            continue;
        if (e->options.lookup)
            j->n_guess = vd_guess_lookup(j->tokens, j->n_known, room, j->tokens + j->n_known);
        left -= j->n_guess;
        if (j->n_guess > 0 || !e->draft)
            continue;
        j->draft.tokens = j->tokens;
        j->draft.n_known = j->n_known;
        j->draft.want = room;
        j->draft.out = j->tokens + j->n_known;
        e->drafted[n_drafted++] = &j->draft;
        left -= room;
    }
    if (n_drafted > 0)
        vd_draft_guess(e->draft, e->drafted, n_drafted);
    for (size_t i = 0; i < e->n_active; i++) {
        struct job *j = e->active[i];
        if (j->draft.want > 0)
            j->n_guess = j->draft.n_out;
        j->draft.want = 0;
        j->n_rows += j->n_guess;
        j->guess_end = j->n_known + j->n_guess;
    }
}

/* An encoder's jobs are fed whole: as many as fit into a step, each in its turn first. */
static void plan_whole(struct vd_engine *e)
{
    size_t rows = e->options.max_rows;
    for (size_t i = 0; i < e->n_active; i++) {
        struct job *j = e->active[(e->turn + i) % e->n_active];
        j->n_rows = waiting_rows(j) <= rows ? waiting_rows(j) : 0;
        rows -= j->n_rows;
    }
    e->turn++;
}

/* Decides n_rows of every active job. */
static void plan(struct vd_engine *e)
{
    size_t rows = e->options.max_rows, logits = vd_ctx_max_logits(e->ctx), n_long = 0;
    if (e->encoder) {
        plan_whole(e);
        return;
    }
    for (size_t i = 0; i < e->n_active; i++) {
        struct job *j = e->active[i];
        j->n_guess = j->guess_end = 0;
        j->n_rows = generates(j) ? 1 : 0;
        n_long += j->n_rows == 0;
        rows -= j->n_rows;
        logits -= j->n_rows;
    }
    if (n_long > 0)
        plan_long(e, n_long, &rows, &logits);
    if (e->options.lookup || e->draft)
        plan_guesses(e, rows, logits);
    e->turn++;
}

/* The mask's state before output token `index`. */
static struct vd_automaton_state mask_before(struct job *j, uint32_t index)
{
    if (!j->spec.masker)
        return VD_AUTOMATON_START;
    if (j->mask_n > index) {
        j->mask = VD_AUTOMATON_START;
        j->mask_n = 0;
    }
    while (j->mask_n < index)
        vd_masker_advance(j->spec.masker, &j->mask, j->tokens[j->spec.n_prompt + j->mask_n++]);
    return j->mask;
}

/* What a row of the job that yields a token wants: greedy jobs no more than the likeliest, unless something
 * is done to the logits first. */
static uint32_t yield_flags(const struct vd_job *spec)
{
    const struct vd_sampling *p = &spec->sampling;
    bool plain = p->temp_micro == 0 && !vd_num_penalised(p) && !spec->bias.n && !spec->masker;
    return VD_ROW_LOGITS | (plain && !spec->logprobs ? VD_ROW_FIRST : 0);
}

static void fill_rows(struct vd_engine *e)
{
    e->n_rows = e->n_choices = 0;
    for (size_t i = 0; i < e->n_active; i++) {
        struct job *j = e->active[i];
        uint32_t pos = (uint32_t)vd_kv_len(j->kv);
        j->first_row = e->n_rows;
        for (size_t k = 0; k < j->n_rows; k++, pos++) {
            bool yields = pos + 1 >= j->spec.n_prompt && pos >= j->n_told;
            uint32_t index = pos + 1 - j->spec.n_prompt;
            if (j->embed) {
                bool mean = j->spec.sampling.pooling == VD_POOLING_MEAN && pos >= j->n_told;
                bool counts = yields || e->encoder || mean;
                e->rows[e->n_rows++] =
                    (struct vd_row){j->kv, pos, j->tokens[pos], counts ? VD_ROW_HIDDEN : 0};
                continue;
            }
            if (yields)
                e->choices[e->n_choices++] = (struct choice){.job = j,
                                                             .row = e->n_rows,
                                                             .index = index,
                                                             .token = VD_SAMPLE_FAIL,
                                                             .mask = mask_before(j, index)};
            e->rows[e->n_rows++] =
                (struct vd_row){j->kv, pos, j->tokens[pos], yields ? yield_flags(&j->spec) : 0};
        }
    }
}

static void choose(void *arg, size_t task, unsigned thread)
{
    struct vd_engine *e = arg;
    struct choice *c = &e->choices[task];
    const struct vd_job *spec = &c->job->spec;
    const struct vd_sampling *p = &spec->sampling;
    const struct vd_sample_max *first = vd_ctx_first(e->ctx, c->row);
    if (first) {
        c->token = first->bad ? VD_SAMPLE_FAIL : first->id;
        return;
    }
    struct vd_choice how = {.sampling = p,
                            .r64 = p->temp_micro ? vd_sample_r64(p->seed, p->choice, c->index) : 0,
                            .tokens = c->job->tokens,
                            .n_prompt = spec->n_prompt,
                            .step = spec->n_prompt - 1 + c->index,
                            .bias = spec->bias,
                            .masker = spec->masker,
                            .state = &c->mask,
                            .logprobs = spec->logprobs ? &c->logprobs : NULL};
    c->logprobs.n = spec->logprobs ? spec->logprobs - 1 : 0;
    c->token =
        vd_sampler_choose(e->samplers[thread], vd_model_kern(e->m), vd_ctx_logits(e->ctx, c->row), &how);
}

static void choose_all(struct vd_engine *e)
{
    if (e->n_choices > 1)
        vd_pool_run(e->pool, choose, e, e->n_choices);
    else if (e->n_choices == 1)
        choose(e, 0, 0);
}

/* ------------------------- delivering ------------------------- */

static void end_job(struct job *j, enum vd_job_end end, enum vd_stop stop)
{
    j->ended = true;
    j->result.end = end;
    j->result.stop = stop;
}

static void tell_position(struct vd_engine *e, struct job *j, uint32_t pos, const float *x, uint32_t token,
                          enum vd_stop stop, const struct vd_automaton_state *mask)
{
    if (!j->spec.on_position)
        return;
    vd_kv_read(j->kv, vd_model_program(e->m)->n_layers - 1, pos, e->k, e->v);
    struct vd_position p = {pos, e->k, e->v, x, token, stop, j->spec.masker ? mask : NULL, NULL, NULL};
    j->spec.on_position(j->spec.arg, &p);
}

/* Whether a position of a job whose result is a vector counts for it. */
static bool is_pooled(const struct job *j, uint32_t pos)
{
    switch (j->spec.sampling.pooling) {
    case VD_POOLING_LAST:
        return pos + 1 == j->spec.n_prompt;
    case VD_POOLING_MEAN:
        return true;
    case VD_POOLING_CLS:
        return pos == 0;
    case VD_POOLING_NONE:
        break;
    }
    return false;
}

/* The same as tell_position of a job whose result is a vector; x is NULL, or was added to it if the position
 * is pooled. */
static void tell_pooled(struct vd_engine *e, struct job *j, uint32_t pos, const float *x)
{
    bool pooled = x && is_pooled(j, pos);
    bool last = x && pos + 1 == j->spec.n_prompt;
    struct vd_position p = {.pos = pos, .k = e->k, .v = e->v, .x = x, .token = VD_SAMPLE_FAIL};
    if (!j->spec.on_position)
        return;
    vd_kv_read(j->kv, vd_model_program(e->m)->n_layers - 1, pos, e->k, e->v);
    p.sum = pooled ? vd_embed_sum(j->embed) : NULL;
    p.vector = last ? vd_embed_vector(j->embed) : NULL;
    j->spec.on_position(j->spec.arg, &p);
}

static void tell_reused(struct vd_engine *e, struct job *j)
{
    for (uint32_t pos = j->n_told; pos < j->n_cached; pos++)
        if (j->embed)
            tell_pooled(e, j, pos, NULL);
        else
            tell_position(e, j, pos, NULL, VD_SAMPLE_FAIL, VD_STOP_NONE, NULL);
    j->told_reused = true;
}

static bool is_stop_token(const struct vd_program *p, uint32_t token)
{
    for (uint32_t i = 0; i < p->n_stop; i++)
        if (p->stop[i] == token)
            return true;
    return false;
}

/* proof.md, section 2: a stop token goes before the length. */
static enum vd_stop stop_of(const struct vd_engine *e, const struct job *j, const struct choice *c)
{
    if (c->token == VD_SAMPLE_FAIL)
        return VD_STOP_FAIL;
    if (is_stop_token(vd_model_program(e->m), c->token))
        return VD_STOP_TOKEN;
    return c->index + 1 == j->spec.max_tokens ? VD_STOP_LENGTH : VD_STOP_NONE;
}

/* The given token of this index is not what the job yields: what follows it is void. The pages stay the
 * job's: it may need them all again. */
static void on_mismatch(struct job *j, const struct choice *c)
{
    uint32_t at = j->spec.n_prompt + c->index;
    if (j->spec.on_mismatch)
        j->spec.on_mismatch(j->spec.arg, c->index, j->tokens[at], c->token);
    j->n_given = c->index;
    j->n_known = at;
    j->mask = VD_AUTOMATON_START; /* it may have seen what is void */
    j->mask_n = 0;
    vd_kv_rewind(j->kv, at);
}

/* The next guess is made by how this one went: n_right of n_guess. */
static void learn(struct job *j, size_t n_right)
{
    j->n_missed = n_right > 0 ? 0 : j->n_missed + 1;
    j->guess_wait = j->n_missed ? (1u << min2(j->n_missed, GUESS_WAIT_LOG2)) - 1 : 0;
    if (n_right == j->n_guess)
        j->guess_len = (uint32_t)min2(2 * j->n_guess, VD_GUESS_MAX);
    else
        j->guess_len = (uint32_t)n_right + 1;
}

/* What the rows behind the job's last valid choice have left in the cache goes away, and what the mask has
 * seen of them. */
static void settle_guesses(struct vd_engine *e, struct job *j, const struct choice *last)
{
    size_t n_right = last->index - (e->rows[j->first_row].pos + 1 - j->spec.n_prompt);
    vd_kv_rewind(j->kv, j->spec.n_prompt + last->index);
    j->mask = last->mask;
    j->mask_n = last->index;
    e->n_guessed += j->n_guess;
    e->n_right += n_right;
    learn(j, n_right);
}

/* Takes the token of one row. Returns false if the rest of the job's rows is void. */
static bool deliver(struct vd_engine *e, struct job *j, const struct choice *c)
{
    uint32_t pos = j->spec.n_prompt - 1 + c->index, at = pos + 1;
    enum vd_stop stop = stop_of(e, j, c);
    bool given = c->index < j->n_given, same = given && j->tokens[at] == c->token;
    bool wrong = at < j->guess_end && j->tokens[at] != c->token;
    if (j->first_ns == 0)
        j->first_ns = vd_engine_now_ns();
    tell_position(e, j, pos, vd_ctx_hidden(e->ctx, c->row), c->token, stop, &c->mask);
    if (given && !same)
        on_mismatch(j, c);
    if (stop != VD_STOP_FAIL) {
        j->n_output = c->index + 1;
        if (!same) {
            assert(j->n_known == at);
            j->tokens[j->n_known++] = c->token;
            if (j->spec.on_logprobs && j->spec.logprobs)
                j->spec.on_logprobs(j->spec.arg, c->index, &c->logprobs);
            if (j->spec.on_token)
                j->spec.on_token(j->spec.arg, c->index, c->token);
        }
    }
    if (stop != VD_STOP_NONE)
        end_job(j, VD_JOB_STOPPED, stop);
    return stop == VD_STOP_NONE && (same || !given) && !wrong;
}

/* The rows of one job, in order; *c is the job's first choice and moves behind its last. */
static void deliver_rows(struct vd_engine *e, struct job *j, size_t *c)
{
    bool valid = true;
    const struct choice *last = NULL;
    uint32_t pos = e->rows[j->first_row].pos;
    for (size_t k = 0; k < j->n_rows; k++, pos++) {
        bool yields = e->rows[j->first_row + k].flags != 0;
        if (yields && valid)
            valid = deliver(e, j, last = &e->choices[*c]);
        else if (!yields && pos >= j->n_told)
            tell_position(e, j, pos, NULL, VD_SAMPLE_FAIL, VD_STOP_NONE, NULL);
        *c += yields;
    }
    if (j->n_guess > 0)
        settle_guesses(e, j, last);
}

/* The rows of a job whose result is a vector. */
static void pool_rows(struct vd_engine *e, struct job *j)
{
    for (size_t row = j->first_row; row < j->first_row + j->n_rows; row++) {
        const float *x = e->rows[row].flags ? vd_ctx_hidden(e->ctx, row) : NULL;
        if (x && is_pooled(j, e->rows[row].pos))
            vd_embed_add(j->embed, x);
        if (e->rows[row].pos >= j->n_told)
            tell_pooled(e, j, e->rows[row].pos, x);
    }
    if (vd_kv_len(j->kv) < j->spec.n_prompt)
        return;
    j->first_ns = vd_engine_now_ns();
    if (j->spec.on_vector)
        j->spec.on_vector(j->spec.arg, vd_embed_vector(j->embed));
    end_job(j, VD_JOB_STOPPED, VD_STOP_LENGTH);
}

static void break_all(struct vd_engine *e, const struct vd_error *err)
{
    for (size_t i = 0; i < e->n_active; i++) {
        end_job(e->active[i], VD_JOB_BROKEN, VD_STOP_NONE);
        e->active[i]->result.err = *err;
    }
}

void vd_engine_step(struct vd_engine *e)
{
    struct vd_error err;
    size_t c = 0;
    for (size_t i = 0; i < e->n_active; i++)
        if (!e->active[i]->told_reused)
            tell_reused(e, e->active[i]);
    e->n_guessed = e->n_right = 0;
    plan(e);
    fill_rows(e);
    enum vd_err rc = vd_model_forward(e->ctx, e->rows, e->n_rows, NULL, &err);
    if (rc == VD_ECANCELLED) /* the engine stops: its jobs are cancelled */
        return;
    if (rc != VD_OK) {
        break_all(e, &err);
        return;
    }
    choose_all(e);
    for (size_t i = 0; i < e->n_active; i++) {
        struct job *j = e->active[i];
        if (j->n_rows > 0 && j->embed)
            pool_rows(e, j);
        else if (j->n_rows > 0)
            deliver_rows(e, j, &c);
    }
}
