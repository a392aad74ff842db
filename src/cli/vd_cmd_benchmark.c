/* veridem bench: speed of prefill (pp) and decode (tg), measured as llama-bench does: tokens that mean
 * nothing, one warm-up per test, logits of the last row of a prompt and of every decoded row, no sampling.
 * Decode at batch B runs B sequences in step, and counts all their tokens. */
#include "vd_clock.h"
#include "vd_cmd.h"
#include "vd_cmd_load.h"
#include "vd_forward.h"
#include "vd_rng.h"

#include <stdlib.h>
#include <string.h>

enum { VD_BENCH_LIST_MAX = 16, VD_BENCH_REPS_MAX = 100, VD_BENCH_ROWS = 512, VD_BENCH_BATCH_MAX = 256 };

struct vd_bench_list {
    uint32_t v[VD_BENCH_LIST_MAX];
    int n;
};

/* "512,4096" -> its numbers; "0" for none. */
static enum vd_err vd_bench_parse(const struct vd_cli *cli, const char *name, const char *otherwise,
                                  uint32_t max, struct vd_bench_list *out, struct vd_error *err)
{
    char copy[128], *save = NULL, what[32];
    snprintf(copy, sizeof copy, "%s", vd_cli_text(cli, name, otherwise));
    snprintf(what, sizeof what, "--%s", name);
    out->n = 0;
    for (char *w = strtok_r(copy, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
        uint64_t v;
        enum vd_err e = vd_cli_parse_u64(what, w, 0, max, &v, err);
        if (e != VD_OK)
            return e;
        if (out->n == VD_BENCH_LIST_MAX)
            return vd_error_set(err, VD_EUSE, "%s lists more than %d numbers", what, VD_BENCH_LIST_MAX);
        if (v)
            out->v[out->n++] = (uint32_t)v;
    }
    return VD_OK;
}

struct vd_bench {
    struct vd_cmd_engine *g;
    struct vd_ctx *ctx;
    struct vd_kv_pool *kvs;
    struct vd_kv *kv[VD_BENCH_BATCH_MAX];
    struct vd_row rows[VD_BENCH_ROWS];
    struct vd_rng rng;
};

static uint32_t vd_bench_token(struct vd_bench *b)
{
    return (uint32_t)vd_rng_below(&b->rng, vd_model_program(b->g->model)->vocab);
}

/* One pass: n_batch sequences; a prompt of n_tok (in calls of at most VD_BENCH_ROWS rows), or n_tok decode
 * steps. */
static enum vd_err vd_bench_pass(struct vd_bench *b, bool decode, uint32_t n_tok, uint32_t n_batch,
                                 struct vd_error *err)
{
    enum vd_err e = VD_OK;
    for (uint32_t i = 0; i < n_batch; i++)
        vd_kv_truncate(b->kv[i], 0);
    for (uint32_t pos = 0; e == VD_OK && pos < n_tok;) {
        uint32_t n = 0;
        if (decode) {
            for (; n < n_batch; n++)
                b->rows[n] = (struct vd_row){b->kv[n], pos, vd_bench_token(b), VD_ROW_LOGITS};
            pos++;
        } else {
            for (; n < VD_BENCH_ROWS && pos < n_tok; n++, pos++)
                b->rows[n] = (struct vd_row){b->kv[0], pos, vd_bench_token(b), 0};
            b->rows[n - 1].flags = pos == n_tok ? VD_ROW_LOGITS : 0;
        }
        e = vd_model_forward(b->ctx, b->rows, n, NULL, err);
    }
    return e;
}

static int vd_double_cmp(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Warm-up, then reps passes; prints the line or appends to `list`. */
static enum vd_err vd_bench_test(struct vd_bench *b, struct vd_cli *cli, json_t *list, bool decode,
                                 uint32_t n_tok, uint32_t n_batch, uint32_t reps, struct vd_error *err)
{
    double rate[VD_BENCH_REPS_MAX];
    char name[48];
    snprintf(name, sizeof name, n_batch > 1 ? "%s%ux%u" : "%s%u", decode ? "tg" : "pp", n_tok, n_batch);
    enum vd_err e = vd_bench_pass(b, decode, decode && n_tok > 8 ? 8 : n_tok, n_batch, err);
    for (uint32_t r = 0; e == VD_OK && r < reps; r++) {
        uint64_t began = vd_clock_ns();
        e = vd_bench_pass(b, decode, n_tok, n_batch, err);
        rate[r] = (double)n_tok * n_batch * 1e9 / (double)(vd_clock_ns() - began);
    }
    if (e != VD_OK)
        return e;
    qsort(rate, reps, sizeof rate[0], vd_double_cmp);
    double median = reps % 2 ? rate[reps / 2] : (rate[reps / 2 - 1] + rate[reps / 2]) / 2;
    if (list)
        json_array_append_new(list, json_pack("{s:s,s:{s:f,s:f,s:f}}", "test", name, "tok_per_s", "min",
                                              rate[0], "median", median, "max", rate[reps - 1]));
    else
        fprintf(cli->out, "%-12s %10.1f %10.1f %10.1f\n", name, rate[0], median, rate[reps - 1]);
    fflush(cli->out);
    return VD_OK;
}

static uint32_t vd_bench_largest(const struct vd_bench_list *l)
{
    uint32_t m = 0;
    for (int i = 0; i < l->n; i++)
        m = l->v[i] > m ? l->v[i] : m;
    return m;
}

/* Context, cache and sequences for the largest test. */
static enum vd_err vd_bench_open(struct vd_bench *b, uint32_t n_pos, uint32_t n_batch, struct vd_error *err)
{
    size_t pages = (n_pos + VD_KV_PAGE_POS - 1) / VD_KV_PAGE_POS;
    struct vd_kv_pool *probe;
    enum vd_err e = vd_kv_pool_create(&probe, b->g->model, (size_t)1 << 30, err);
    if (e != VD_OK)
        return e;
    size_t bytes = vd_kv_pool_page_bytes(probe) * pages * n_batch;
    vd_kv_pool_destroy(probe);
    e = vd_kv_pool_create(&b->kvs, b->g->model, bytes, err);
    if (e == VD_OK)
        e = vd_ctx_create(&b->ctx, b->g->model, b->g->pool, VD_BENCH_ROWS, n_batch, err);
    for (uint32_t i = 0; e == VD_OK && i < n_batch; i++)
        e = vd_kv_open(&b->kv[i], b->kvs, err);
    return e;
}

static void vd_bench_close(struct vd_bench *b)
{
    for (int i = 0; i < VD_BENCH_BATCH_MAX; i++)
        vd_kv_close(b->kv[i]);
    vd_ctx_destroy(b->ctx);
    vd_kv_pool_destroy(b->kvs);
    free(b);
}

static enum vd_err vd_bench_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_cmd_engine g;
    struct vd_bench_list pp, tg, batch;
    uint32_t reps = 3;
    enum vd_err e = vd_bench_parse(cli, "pp", "512", 1 << 20, &pp, err);
    if (e == VD_OK)
        e = vd_bench_parse(cli, "tg", "128", 1 << 20, &tg, err);
    if (e == VD_OK)
        e = vd_bench_parse(cli, "batch", "1", VD_BENCH_BATCH_MAX, &batch, err);
    if (e == VD_OK)
        e = vd_cli_u32(cli, "reps", 1, VD_BENCH_REPS_MAX, &reps, err);
    if (e == VD_OK && !pp.n && !(tg.n && batch.n))
        e = vd_error_set(err, VD_EUSE, "nothing to measure: --pp, --tg or --batch must be more than 0");
    if (e == VD_OK)
        e = vd_cmd_engine_open(&g, cli, cli->arg[0], err);
    if (e != VD_OK)
        return e;
    uint32_t n_pos = vd_bench_largest(&pp), n_batch = tg.n ? vd_bench_largest(&batch) : 1;
    n_pos = vd_bench_largest(&tg) > n_pos ? vd_bench_largest(&tg) : n_pos;
    uint32_t ctx = vd_model_program(g.model)->ctx;
    if (n_pos > ctx) {
        vd_cmd_engine_close(&g);
        return vd_error_set(err, VD_EUSE, "a test of %u tokens does not fit the model's context of %u", n_pos,
                            ctx);
    }
    struct vd_bench *b = calloc(1, sizeof *b);
    json_t *list = cli->json ? json_array() : NULL;
    if (b) {
        b->g = &g;
        e = vd_bench_open(b, n_pos, n_batch ? n_batch : 1, err);
        if (e == VD_OK && !list)
            fprintf(cli->out, "%s, %s, %u threads; tokens per second of %u runs\n%-12s %10s %10s %10s\n",
                    vd_model_path(g.model), g.kern->name, vd_pool_threads(g.pool), reps, "test", "min",
                    "median", "max");
        for (int i = 0; e == VD_OK && i < pp.n; i++)
            e = vd_bench_test(b, cli, list, false, pp.v[i], 1, reps, err);
        for (int i = 0; e == VD_OK && i < tg.n; i++)
            for (int k = 0; e == VD_OK && k < batch.n; k++)
                e = vd_bench_test(b, cli, list, true, tg.v[i], batch.v[k], reps, err);
        vd_bench_close(b);
    } else {
        e = vd_error_set(err, VD_ENOMEM, "no memory for the benchmark");
    }
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
    {"batch", 0, "N[,N]", "sequences decoded in step (default 1)", false},
    {"reps", 'r', "N", "runs of each test, after one to warm up (default 3)", false},
    VD_CMD_OPTS_COMPUTE,
    {0},
};
const struct vd_cmd vd_cmd_bench = {
    .name = "bench",
    .group = "Models and text",
    .usage = "MODEL",
    .summary = "tokens per second of prefill and decode",
    .help = "pp512 is a prompt of 512 tokens, tg128 is 128 tokens decoded one after the other, tg128x8 the "
            "same for 8\n"
            "sequences at once, all their tokens counted. --json prints an array of\n"
            "{\"test\": \"pp512\", \"tok_per_s\": {\"min\", \"median\", \"max\"}}.\n\n"
            "    veridem bench SmolLM2 --pp 512 --tg 128 --batch 1,8,32 --threads 2 --reps 3",
    .opts = vd_bench_opts,
    .min_args = 1,
    .max_args = 1,
    .run = vd_bench_run,
};
