/* veridem bench: speed of prefill (pp) and decode (tg), measured as llama-bench does: tokens that mean
 * nothing, one warm-up per test, logits of the last row of a prompt and of every decoded row, no sampling.
 * Decode at batch B runs B sequences in step, and counts all their tokens. At depth D every sequence holds D
 * positions before the clock starts.
 *
 * What bounds decode is reading: every step reads the weights once and every sequence's keys and values. So a
 * decode test also says how many bytes a second that was, and what part of the rate at which the same threads
 * read plain memory, measured before and after each run, since a shared machine's drifts. */
#include "vd_clock.h"
#include "vd_cmd.h"
#include "vd_cmd_benchmark.h"
#include "vd_forward.h"
#include "vd_rng.h"

#include <stdlib.h>
#include <string.h>

enum {
    VD_BENCH_LIST_MAX = 16,
    VD_BENCH_ROWS = 512,
    VD_BENCH_BATCH_MAX = 256,
    VD_BENCH_EMBED_TOK = 128,       /* of a text, if the model is an encoder and nothing is asked for */
    VD_BENCH_READ_BYTES = 512 << 20 /* far more than any cache */
};

struct vd_bench_list {
    uint32_t v[VD_BENCH_LIST_MAX];
    int n;
};

/* "512,4096" -> its numbers. Zeros are left out (so that "0" is none) unless they count as numbers. */
static enum vd_err vd_bench_parse(const struct vd_cli *cli, const char *name, const char *otherwise,
                                  uint32_t max, bool zeros, struct vd_bench_list *out, struct vd_error *err)
{
    char copy[128], what[32];
    snprintf(copy, sizeof copy, "%s", vd_cli_text(cli, name, otherwise));
    snprintf(what, sizeof what, "--%s", name);
    if (strlen(vd_cli_text(cli, name, otherwise)) >= sizeof copy)
        return vd_error_set(err, VD_EUSE, "%s is longer than %zu characters; leave some numbers out", what,
                            sizeof copy - 1);
    out->n = 0;
    for (char *next = copy, *w; (w = strsep(&next, ",")) != NULL;) {
        uint64_t v;
        if (!*w)
            return vd_error_set(err, VD_EUSE, "%s %s: a number is missing", what,
                                vd_cli_text(cli, name, otherwise));
        enum vd_err e = vd_cli_parse_u64(what, w, 0, max, &v, err);
        if (e != VD_OK)
            return e;
        if (out->n == VD_BENCH_LIST_MAX)
            return vd_error_set(err, VD_EUSE, "%s lists more than %d numbers", what, VD_BENCH_LIST_MAX);
        if (v || zeros)
            out->v[out->n++] = (uint32_t)v;
    }
    return VD_OK;
}

/* One kind of measurement. */
struct vd_bench_test {
    bool decode;
    uint32_t n_tok, n_batch, depth;
    bool greedy; /* each token is the likeliest after the one before */
};

struct vd_bench {
    struct vd_cmd_engine *g;
    struct vd_ctx *ctx;
    struct vd_kv_pool *kvs;
    struct vd_kv *kv[VD_BENCH_BATCH_MAX];
    struct vd_kv *deep[VD_BENCH_BATCH_MAX]; /* at the last test's depth, to be forked from */
    struct vd_row rows[VD_BENCH_ROWS];
    struct vd_rng rng;
    uint64_t *memory; /* VD_BENCH_READ_BYTES, if anything is decoded */
};

static uint32_t vd_bench_token(struct vd_bench *b)
{
    return (uint32_t)vd_rng_below(&b->rng, vd_model_program(b->g->model)->vocab);
}

/* ------------------------- reading ------------------------- */

struct vd_bench_read {
    const uint64_t *p;
    uint64_t sum[VD_POOL_THREADS_MAX];
};

static void vd_bench_read_part(void *arg, struct vd_team *team, unsigned thread)
{
    struct vd_bench_read *r = arg;
    size_t begin, end;
    uint64_t a = 0, b = 0, c = 0, d = 0;
    vd_team_range(team, thread, VD_BENCH_READ_BYTES / sizeof *r->p, 512, &begin, &end);
    for (size_t i = begin; i < end; i += 8) { /* words of every line: the bus is what is slow */
        a += r->p[i], b += r->p[i + 2];
        c += r->p[i + 4], d += r->p[i + 6];
    }
    r->sum[thread] = a + b + c + d;
}

/* Bytes per second. */
static double vd_bench_read_rate(struct vd_bench *b)
{
    struct vd_bench_read r = {.p = b->memory};
    volatile uint64_t keep;
    uint64_t began = vd_clock_ns();
    vd_pool_region(b->g->pool, vd_bench_read_part, &r);
    keep = r.sum[0];
    (void)keep;
    return VD_BENCH_READ_BYTES * 1e9 / (double)(vd_clock_ns() - began);
}

/* Bytes that a pass reads: the weights of each step, and the cached rows of each step and sequence. */
static double vd_bench_bytes(const struct vd_bench *b, const struct vd_bench_test *t)
{
    const struct vd_program *p = vd_model_program(b->g->model);
    double weights = 0, rows = 0, row = (double)vd_kv_pool_page_bytes(b->kvs) / VD_KV_PAGE_POS / p->n_layers;
    for (uint32_t i = vd_program_tied(p) ? 0 : 1; i < p->n_tensors; i++) {
        struct vd_tensor_shape s = vd_program_tensor(p, i);
        weights += (double)vd_wtype_row_bytes(s.type, s.cols) * s.rows;
    }
    double seen = t->depth + (t->n_tok + 1) / 2.0;
    for (uint32_t i = 0; i < p->n_layers; i++)
        rows += p->layer_flags[i] & VD_LAYER_WINDOW && seen > p->window ? p->window : seen;
    return (weights + row * rows * t->n_batch) * t->n_tok;
}

/* ------------------------- passes ------------------------- */

/* Runs a sequence up to n_pos positions, in calls of at most VD_BENCH_ROWS rows. */
static enum vd_err vd_bench_prefill(struct vd_bench *b, struct vd_kv *kv, uint32_t n_pos,
                                    struct vd_error *err)
{
    enum vd_err e = VD_OK;
    for (uint32_t pos = (uint32_t)vd_kv_len(kv); e == VD_OK && pos < n_pos;) {
        uint32_t n = 0;
        for (; n < VD_BENCH_ROWS && pos < n_pos; n++, pos++)
            b->rows[n] = (struct vd_row){kv, pos, vd_bench_token(b), 0};
        b->rows[n - 1].flags = pos == n_pos ? VD_ROW_LOGITS : 0;
        e = vd_model_forward(b->ctx, b->rows, n, NULL, err);
    }
    return e;
}

/* All sequences at the test's depth, and with nothing behind it. Behind a window they cannot go back, so each
 * test goes on from a fork. */
static enum vd_err vd_bench_rewind(struct vd_bench *b, const struct vd_bench_test *t, struct vd_error *err)
{
    enum vd_err e = VD_OK;
    for (uint32_t i = 0; e == VD_OK && i < t->n_batch; i++) {
        struct vd_kv *deep = b->deep[i];
        vd_kv_close(b->kv[i]);
        b->kv[i] = NULL;
        vd_kv_truncate(deep, vd_kv_len(deep) <= t->depth ? vd_kv_len(deep) : 0);
        e = vd_bench_prefill(b, deep, t->depth, err);
        if (e == VD_OK)
            e = vd_kv_fork(&b->kv[i], deep, t->depth, err);
    }
    return e;
}

/* The likeliest token after a row. */
static uint32_t vd_bench_likeliest(const struct vd_bench *b, size_t row)
{
    struct vd_sample_max max;
    vd_ctx_take_first(b->ctx, row, &max);
    return max.bad ? 0 : max.id;
}

/* n_tok tokens of a prompt, or of every sequence in step. */
static enum vd_err vd_bench_pass(struct vd_bench *b, const struct vd_bench_test *t, uint32_t n_tok,
                                 struct vd_error *err)
{
    enum vd_err e = VD_OK;
    const uint32_t flags = VD_ROW_LOGITS | (t->greedy ? VD_ROW_FIRST : 0);
    if (!t->decode)
        return vd_bench_prefill(b, b->kv[0], t->depth + n_tok, err);
    for (uint32_t k = 0; e == VD_OK && k < n_tok; k++) {
        for (uint32_t i = 0; i < t->n_batch; i++) {
            uint32_t token = t->greedy && k > 0 ? vd_bench_likeliest(b, i) : vd_bench_token(b);
            b->rows[i] = (struct vd_row){b->kv[i], t->depth + k, token, flags};
        }
        e = vd_model_forward(b->ctx, b->rows, t->n_batch, NULL, err);
    }
    return e;
}

static int vd_double_cmp(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double vd_bench_median(double *v, uint32_t n)
{
    qsort(v, n, sizeof *v, vd_double_cmp);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static void vd_bench_name(char *out, size_t cap, const struct vd_bench_test *t)
{
    int n = snprintf(out, cap, "%s%u", t->greedy ? "greedy" : t->decode ? "tg" : "pp", t->n_tok);
    if (t->depth)
        n += snprintf(out + n, cap - (size_t)n, "@%u", t->depth);
    if (t->n_batch > 1)
        snprintf(out + n, cap - (size_t)n, "x%u", t->n_batch);
}

void vd_bench_line(struct vd_cli *cli, json_t *list, const char *name, double *rate, uint32_t reps,
                   const char *note, json_t *more)
{
    double median = vd_bench_median(rate, reps);
    if (list) {
        json_t *j = json_pack("{s:s,s:{s:f,s:f,s:f}}", "test", name, "tok_per_s", "min", rate[0], "median",
                              median, "max", rate[reps - 1]);
        if (more)
            json_object_update(j, more);
        json_array_append_new(list, j);
    } else {
        fprintf(cli->out, "%-16s %10.1f %10.1f %10.1f%s%s\n", name, rate[0], median, rate[reps - 1],
                *note ? "  " : "", note);
        fflush(cli->out);
    }
    json_decref(more);
}

/* share: of the read rate, per run. */
static void vd_bench_tell(struct vd_cli *cli, json_t *list, const struct vd_bench_test *t,
                          double bytes_per_tok, double *rate, double *share, uint32_t reps)
{
    char name[48], note[48] = "";
    vd_bench_name(name, sizeof name, t);
    double part = t->decode ? vd_bench_median(share, reps) : 0,
           gb = vd_bench_median(rate, reps) * bytes_per_tok * 1e-9;
    if (t->greedy) { /* it need not read all of the weights */
        vd_bench_line(cli, list, name, rate, reps, "", NULL);
        return;
    }
    if (t->decode)
        snprintf(note, sizeof note, "%.1f GB/s, %.0f%% of read", gb, 100 * part);
    vd_bench_line(cli, list, name, rate, reps, note,
                  t->decode ? json_pack("{s:f,s:f}", "gb_per_s", gb, "of_read", part) : NULL);
}

/* Warm-up, then reps passes. */
static enum vd_err vd_bench_run_test(struct vd_bench *b, struct vd_cli *cli, json_t *list,
                                     const struct vd_bench_test *t, uint32_t reps, struct vd_error *err)
{
    double rate[VD_BENCH_REPS_MAX], share[VD_BENCH_REPS_MAX];
    double bytes = t->decode ? vd_bench_bytes(b, t) : 0;
    enum vd_err e = vd_bench_rewind(b, t, err);
    if (e == VD_OK)
        e = vd_bench_pass(b, t, t->decode && t->n_tok > 8 ? 8 : t->n_tok, err);
    for (uint32_t r = 0; e == VD_OK && r < reps; r++) {
        e = vd_bench_rewind(b, t, err);
        double read = t->decode ? vd_bench_read_rate(b) : 0;
        uint64_t began = vd_clock_ns();
        if (e == VD_OK)
            e = vd_bench_pass(b, t, t->n_tok, err);
        double seconds = (double)(vd_clock_ns() - began) * 1e-9;
        rate[r] = (double)t->n_tok * t->n_batch / seconds;
        if (t->decode)
            share[r] = bytes / seconds / ((read + vd_bench_read_rate(b)) / 2);
    }
    if (e == VD_OK)
        vd_bench_tell(cli, list, t, bytes / ((double)t->n_tok * t->n_batch), rate, share, reps);
    return e;
}

static uint32_t vd_bench_largest(const struct vd_bench_list *l)
{
    uint32_t m = 0;
    for (int i = 0; i < l->n; i++)
        m = l->v[i] > m ? l->v[i] : m;
    return m;
}

struct vd_bench_args {
    struct vd_bench_list pp, tg, greedy, batch, depth, spec, mask, embed;
    uint32_t reps;
};

/* Positions of the longest test, its depth not counted. */
static uint32_t vd_bench_longest(const struct vd_bench_args *a)
{
    uint32_t pp = vd_bench_largest(&a->pp), tg = vd_bench_largest(&a->tg),
             greedy = vd_bench_largest(&a->greedy);
    tg = greedy > tg ? greedy : tg;
    return pp > tg ? pp : tg;
}

/* Context, cache and sequences for the largest test. */
static enum vd_err vd_bench_open(struct vd_bench *b, uint32_t n_pos, uint32_t n_batch, struct vd_error *err)
{
    struct vd_kv_pool *probe;
    enum vd_err e = vd_kv_pool_create(&probe, b->g->model, (size_t)1 << 30, err);
    if (e != VD_OK)
        return e;
    size_t bytes = 2 * vd_kv_pool_need_bytes(probe, 0, n_pos) * n_batch; /* a sequence, and its fork */
    vd_kv_pool_destroy(probe);
    e = vd_kv_pool_create(&b->kvs, b->g->model, bytes, err);
    if (e == VD_OK)
        e = vd_ctx_create(&b->ctx, b->g->model, b->g->pool, VD_BENCH_ROWS, n_batch, err);
    for (uint32_t i = 0; e == VD_OK && i < n_batch; i++)
        e = vd_kv_open(&b->deep[i], b->kvs, err);
    return e;
}

/* Memory to read, its pages made: a page that was never written is not there to be read. */
static enum vd_err vd_bench_take_memory(struct vd_bench *b, struct vd_error *err)
{
    b->memory = aligned_alloc(4096, VD_BENCH_READ_BYTES);
    if (!b->memory)
        return vd_error_set(err, VD_ENOMEM, "no memory for the benchmark");
    memset(b->memory, 1, VD_BENCH_READ_BYTES);
    return VD_OK;
}

static void vd_bench_close(struct vd_bench *b)
{
    for (int i = 0; i < VD_BENCH_BATCH_MAX; i++)
        vd_kv_close(b->kv[i]), vd_kv_close(b->deep[i]);
    vd_ctx_destroy(b->ctx);
    vd_kv_pool_destroy(b->kvs);
    free(b->memory);
    free(b);
}

static enum vd_err vd_bench_args(const struct vd_cli *cli, struct vd_bench_args *a, struct vd_error *err)
{
    a->reps = 3;
    enum vd_err e = vd_bench_parse(cli, "pp", "512", 1 << 20, false, &a->pp, err);
    if (e == VD_OK)
        e = vd_bench_parse(cli, "tg", "128", 1 << 20, false, &a->tg, err);
    if (e == VD_OK)
        e = vd_bench_parse(cli, "greedy", "0", 1 << 20, false, &a->greedy, err);
    if (e == VD_OK)
        e = vd_bench_parse(cli, "batch", "1", VD_BENCH_BATCH_MAX, false, &a->batch, err);
    if (e == VD_OK)
        e = vd_bench_parse(cli, "depth", "0", 1 << 20, true, &a->depth, err);
    if (e == VD_OK)
        e = vd_bench_parse(cli, "spec", "0", 1 << 20, false, &a->spec, err);
    if (e == VD_OK)
        e = vd_bench_parse(cli, "mask", "0", 1 << 20, false, &a->mask, err);
    if (e == VD_OK)
        e = vd_bench_parse(cli, "embed", "0", 1 << 20, false, &a->embed, err);
    if (e == VD_OK)
        e = vd_cli_u32(cli, "reps", 1, VD_BENCH_REPS_MAX, &a->reps, err);
    bool jobs = a->spec.n || a->mask.n || a->embed.n, others = jobs || a->greedy.n;
    if (others && !vd_cli_has(cli, "pp"))
        a->pp.n = 0;
    if (others && !vd_cli_has(cli, "tg"))
        a->tg.n = 0;
    if (e == VD_OK && !a->pp.n && !((a->tg.n || a->greedy.n) && a->batch.n) && !jobs)
        e = vd_error_set(err, VD_EUSE,
                         "nothing to measure: --pp, --tg, --greedy or --batch must be more than 0");
    return e;
}

static enum vd_err vd_bench_run_decode(struct vd_bench *b, struct vd_cli *cli, json_t *list,
                                       const struct vd_bench_args *a, uint32_t depth, bool greedy,
                                       struct vd_error *err)
{
    const struct vd_bench_list *n_tok = greedy ? &a->greedy : &a->tg;
    enum vd_err e = VD_OK;
    for (int i = 0; e == VD_OK && i < n_tok->n; i++)
        for (int k = 0; e == VD_OK && k < a->batch.n; k++)
            e = vd_bench_run_test(b, cli, list,
                                  &(struct vd_bench_test){true, n_tok->v[i], a->batch.v[k], depth, greedy},
                                  a->reps, err);
    return e;
}

static enum vd_err vd_bench_run_all(struct vd_bench *b, struct vd_cli *cli, json_t *list,
                                    const struct vd_bench_args *a, struct vd_error *err)
{
    enum vd_err e = VD_OK;
    for (int d = 0; d < a->depth.n; d++) {
        for (int i = 0; e == VD_OK && i < a->pp.n; i++)
            e = vd_bench_run_test(b, cli, list,
                                  &(struct vd_bench_test){false, a->pp.v[i], 1, a->depth.v[d], false},
                                  a->reps, err);
        if (e == VD_OK)
            e = vd_bench_run_decode(b, cli, list, a, a->depth.v[d], false, err);
        if (e == VD_OK)
            e = vd_bench_run_decode(b, cli, list, a, a->depth.v[d], true, err);
    }
    return e;
}

/* Everything after the model is open. */
static enum vd_err vd_bench_run_model(struct vd_cmd_engine *g, struct vd_cli *cli, json_t *list,
                                      const struct vd_bench_args *a, struct vd_error *err)
{
    bool decode = a->tg.n || a->greedy.n;
    uint32_t longest = vd_bench_longest(a), n_batch = decode ? vd_bench_largest(&a->batch) : 1;
    struct vd_bench *b = calloc(1, sizeof *b);
    if (!b)
        return vd_error_set(err, VD_ENOMEM, "no memory for the benchmark");
    b->g = g;
    enum vd_err e = vd_bench_open(b, longest + vd_bench_largest(&a->depth), n_batch ? n_batch : 1, err);
    if (e == VD_OK && decode)
        e = vd_bench_take_memory(b, err);
    if (e == VD_OK)
        e = vd_bench_run_all(b, cli, list, a, err);
    vd_bench_close(b);
    return e;
}

static enum vd_err vd_bench_check(const struct vd_cmd_engine *g, const struct vd_bench_args *a,
                                  struct vd_error *err)
{
    uint32_t ctx = vd_model_program(g->model)->ctx;
    uint32_t longest = vd_bench_longest(a) + vd_bench_largest(&a->depth);
    if (longest > ctx)
        return vd_error_set(err, VD_EUSE, "a test of %u tokens does not fit the model's context of %u",
                            longest, ctx);
    return a->pp.n || a->tg.n || a->greedy.n || a->spec.n || a->mask.n ? vd_cmd_engine_generates(g, err)
                                                                       : VD_OK;
}

static void vd_bench_head(const struct vd_cmd_engine *g, struct vd_cli *cli, uint32_t reps)
{
    fprintf(cli->out, "%s, %s, %u threads; tokens per second of %u runs\n%-16s %10s %10s %10s\n",
            vd_model_path(g->model), g->kern->name, vd_pool_threads(g->pool), reps, "test", "min", "median",
            "max");
}

/* The rows of whole jobs. */
static enum vd_err vd_bench_run_jobs(struct vd_cmd_engine *g, struct vd_cli *cli, json_t *list,
                                     const struct vd_bench_args *a, struct vd_error *err)
{
    enum vd_err e = VD_OK;
    if (a->spec.n)
        e = vd_cmd_draft_open(g, cli, err);
    for (int i = 0; i < a->spec.n && e == VD_OK; i++)
        e = vd_bench_spec(g, cli, list, a->spec.v[i], a->reps, err);
    for (int i = 0; i < a->mask.n && e == VD_OK; i++)
        e = vd_bench_mask(g, cli, list, a->mask.v[i], a->reps, err);
    for (int i = 0; i < a->embed.n && e == VD_OK; i++)
        for (int k = 0; k < a->batch.n && e == VD_OK; k++)
            e = vd_bench_embed(g, cli, list, a->embed.v[i], a->batch.v[k], a->reps, err);
    return e;
}

/* An encoder makes vectors and nothing else: unless something is asked for, that is what is measured. */
static void vd_bench_of_encoder(const struct vd_cli *cli, struct vd_bench_args *a)
{
    if (vd_cli_has(cli, "pp") || vd_cli_has(cli, "tg") || a->greedy.n || a->spec.n || a->mask.n)
        return;
    a->pp.n = a->tg.n = 0;
    if (!vd_cli_has(cli, "embed"))
        a->embed = (struct vd_bench_list){{VD_BENCH_EMBED_TOK}, 1};
}

static enum vd_err vd_bench_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_cmd_engine g;
    struct vd_bench_args a;
    enum vd_err e = vd_bench_args(cli, &a, err);
    if (e == VD_OK)
        e = vd_cmd_engine_open(&g, cli, cli->arg[0], err);
    if (e != VD_OK)
        return e;
    json_t *list = cli->json ? json_array() : NULL;
    if (vd_program_is_encoder(vd_model_program(g.model)))
        vd_bench_of_encoder(cli, &a);
    e = vd_bench_check(&g, &a, err);
    if (e == VD_OK && !list)
        vd_bench_head(&g, cli, a.reps);
    if (e == VD_OK && (a.pp.n || a.tg.n || a.greedy.n))
        e = vd_bench_run_model(&g, cli, list, &a, err);
    if (e == VD_OK)
        e = vd_bench_run_jobs(&g, cli, list, &a, err);
    if (e == VD_OK && list)
        vd_cli_json(cli, list);
    else
        json_decref(list);
    vd_cmd_engine_close(&g);
    return e;
}

static const struct vd_cli_opt vd_bench_opts[] = {
    {"pp", 0, "N[,N]", "prompt lengths to prefill (default 512; 0: none)", false},
    {"tg", 0, "N[,N]", "numbers of tokens to decode (default 128; 0: none)", false},
    {"greedy", 0, "N[,N]", "numbers of tokens to generate greedily (default 0: none)", false},
    {"batch", 0, "N[,N]", "sequences decoded in step (default 1)", false},
    {"depth", 'd', "N[,N]", "positions that sequences hold before a test begins (default 0)", false},
    {"spec", 0, "N[,N]", "tokens to generate without and with guesses, of a text that says itself again",
     false},
    {"mask", 0, "N[,N]", "tokens to generate without and with a mask (JSON of a schema)", false},
    {"embed", 0, "N[,N]", "lengths of texts to make vectors of, --batch at once", false},
    {"draft", 0, "MODEL", "--spec also with guesses by this smaller model with the same vocabulary", false},
    {"reps", 'r', "N", "runs of each test, after one to warm up (default 3)", false},
    VD_CMD_OPTS_COMPUTE,
    {0},
};
const struct vd_cmd vd_cmd_bench = {
    .name = "bench",
    .group = "Models and text",
    .usage = "MODEL",
    .summary = "tokens per second of prefill and decode",
    .help =
        "pp512 is a prompt of 512 tokens, tg128 is 128 tokens decoded one after the other, tg128x8 the "
        "same for 8\n"
        "sequences at once, all their tokens counted, tg32@4096 the same after 4,096 positions. Decode also\n"
        "says how fast it read weights and cache, and what part of the rate at which the same threads read\n"
        "plain memory that is: more than 100% where the caches hold much of the model. --json prints an\n"
        "array of {\"test\": \"tg128\", \"tok_per_s\": {\"min\", \"median\", \"max\"}, \"gb_per_s\", "
        "\"of_read\"},\n"
        "the last two for decode only.\n\n"
        "greedy128 is 128 tokens each of which is the likeliest after the one before. Such tokens can be "
        "had\n"
        "without all logits, which tg computes of every row (and so do temperatures, penalties and "
        "masks).\n\n"
        "--spec, --mask and --embed run jobs as a worker does; they and --greedy run by themselves unless "
        "--pp\n"
        "or --tg are given:\n"
        "gen128 is 128 tokens generated greedily, +lookup and +draft the same with guesses "
        "(\"guesses_right\": the\n"
        "part of them that were right); draw128 is 128 tokens drawn at temperature 0.8, +mask the same as "
        "JSON\n"
        "of a schema, with the mask's work (\"mask_us_per_tok\", \"of_token\": its part of a token's time);\n"
        "emb128x8 is vectors of 8 texts of 128 tokens at once (\"texts_per_s\"), the tokens read counted. "
        "Of\n"
        "an encoder it is emb128 if nothing is asked for.\n\n"
        "    veridem bench SmolLM2 --pp 512 --tg 128 --greedy 128 --batch 1,8,32 --threads 2 --reps 3\n"
        "    veridem bench SmolLM2 --pp 4096 --tg 64 --depth 0,7000\n"
        "    veridem bench SmolLM2 --spec 128 --mask 256 --embed 32,256 --batch 1,16",
    .opts = vd_bench_opts,
    .min_args = 1,
    .max_args = 1,
    .run = vd_bench_run,
};
