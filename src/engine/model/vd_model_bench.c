/* Speed of a model in this process: prompt passes (pp), generation of one sequence (tg) and of several
 * (batch).
 *
 *   vd_model_bench [MODEL] [--kernel NAME] [--threads N] [--reps N] [--only pp512,tg128,...] [--cpu]
 *
 * One table, tokens per second: smallest, median and largest of the repetitions. Tokens are arbitrary ids:
 * the work does not depend on them. `tg` takes the largest logit of each step, as a greedy generation would.
 */
#include "vd_file.h"
#include "vd_forward.h"
#include "vd_perplexity.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROWS = 512, LOGITS = 32, REPS_MAX = 100 };

struct bench {
    struct vd_model *m;
    struct vd_ctx *ctx;
    struct vd_kv_pool *cache;
    struct vd_row rows[ROWS];
    unsigned reps;
    const char *only;
    clockid_t clock;
};

static double now_s(const struct bench *b)
{
    struct timespec t;
    clock_gettime(b->clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void die(const struct vd_error *err)
{
    fprintf(stderr, "%s\n", err->msg);
    exit(3);
}

static void forward(struct bench *b, size_t n)
{
    struct vd_error err;
    if (vd_model_forward(b->ctx, b->rows, n, NULL, &err) != VD_OK)
        die(&err);
}

static struct vd_kv *open_sequence(struct bench *b)
{
    struct vd_kv *kv;
    struct vd_error err;
    if (vd_kv_open(&kv, b->cache, &err) != VD_OK)
        die(&err);
    return kv;
}

static uint32_t some_token(const struct bench *b, size_t i)
{
    return (uint32_t)((i * 7919 + 12345) % vd_model_program(b->m)->vocab);
}

static void prefill(struct bench *b, struct vd_kv *kv, size_t n)
{
    while (vd_kv_len(kv) < n) {
        size_t at = vd_kv_len(kv), step = n - at < ROWS ? n - at : ROWS;
        for (size_t i = 0; i < step; i++)
            b->rows[i] = (struct vd_row){kv, (uint32_t)(at + i), some_token(b, at + i), 0};
        b->rows[step - 1].flags = at + step == n ? VD_ROW_LOGITS : 0;
        forward(b, step);
    }
}

/* Tokens per second of a prompt of n. */
static double run_pp(struct bench *b, size_t n)
{
    struct vd_kv *kv = open_sequence(b);
    double t = now_s(b);
    prefill(b, kv, n);
    t = now_s(b) - t;
    vd_kv_close(kv);
    return (double)n / t;
}

static uint32_t largest(const struct bench *b, size_t row)
{
    struct vd_sample_max max;
    vd_ctx_take_first(b->ctx, row, &max);
    return max.id;
}

/* Tokens per second, all sequences together, of n steps of n_seq sequences after prompts of `depth`. */
static double run_tg(struct bench *b, size_t n_seq, size_t n, size_t depth)
{
    struct vd_kv *kv[LOGITS];
    uint32_t token[LOGITS];
    for (size_t s = 0; s < n_seq; s++) {
        kv[s] = open_sequence(b);
        prefill(b, kv[s], depth);
        token[s] = some_token(b, s);
    }
    double t = now_s(b);
    for (size_t i = 0; i < n; i++) {
        for (size_t s = 0; s < n_seq; s++)
            b->rows[s] = (struct vd_row){kv[s], (uint32_t)(depth + i), token[s], VD_ROW_LOGITS};
        forward(b, n_seq);
        for (size_t s = 0; s < n_seq; s++)
            token[s] = largest(b, s);
    }
    t = now_s(b) - t;
    for (size_t s = 0; s < n_seq; s++)
        vd_kv_close(kv[s]);
    return (double)(n * n_seq) / t;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_row(struct bench *b, const char *name, size_t n_seq, size_t n, size_t depth)
{
    double v[REPS_MAX];
    if (b->only && !strstr(b->only, name))
        return;
    for (unsigned r = 0; r < b->reps; r++)
        v[r] = n_seq ? run_tg(b, n_seq, n, depth) : run_pp(b, n);
    qsort(v, b->reps, sizeof *v, by_value);
    printf("%-16s %10.1f %10.1f %10.1f\n", name, v[0], v[b->reps / 2], v[b->reps - 1]);
    fflush(stdout);
}

static void print_table(struct bench *b)
{
    printf("%-16s %10s %10s %10s   tokens/s\n", "test", "min", "median", "max");
    print_row(b, "pp512", 0, 512, 0);
    print_row(b, "pp4096", 0, 4096, 0);
    print_row(b, "tg128", 1, 128, 0);
    print_row(b, "tg64@2048", 1, 64, 2048);
    print_row(b, "tg32@8000", 1, 32, 8000);
    print_row(b, "batch8", 8, 64, 16);
    print_row(b, "batch32", 32, 32, 16);
}

int main(int argc, char **argv)
{
    static struct bench b;
    struct vd_pool *pool = NULL;
    struct vd_error err;
    char path[VD_PATH_MAX];
    const char *model = NULL, *kernel = NULL;
    unsigned threads = 0;
    b.reps = 5;
    b.clock = CLOCK_MONOTONIC;
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (more && strcmp(argv[i], "--kernel") == 0)
            kernel = argv[++i];
        else if (more && strcmp(argv[i], "--threads") == 0)
            threads = (unsigned)atoi(argv[++i]);
        else if (more && strcmp(argv[i], "--reps") == 0)
            b.reps = (unsigned)atoi(argv[++i]);
        else if (more && strcmp(argv[i], "--only") == 0)
            b.only = argv[++i];
        else if (strcmp(argv[i], "--cpu") == 0)
            b.clock = CLOCK_PROCESS_CPUTIME_ID;
        else
            model = argv[i];
    }
    if (b.reps < 1 || b.reps > REPS_MAX)
        b.reps = 5;
    if (!model && vd_home_path(path, &err, "models/SmolLM2-135M-Instruct.Q4_1.gguf") != VD_OK)
        die(&err);
    const struct vd_kern *kern = vd_kern_pick(kernel, &err);
    if (!kern || vd_pool_create(&pool, threads, &err) != VD_OK)
        die(&err);
    double t = now_s(&b);
    if (vd_model_open(&b.m, model ? model : path, kern, pool, &err) != VD_OK ||
        vd_ctx_create(&b.ctx, b.m, pool, ROWS, LOGITS, &err) != VD_OK ||
        vd_kv_pool_create(&b.cache, b.m, SIZE_MAX, &err) != VD_OK)
        die(&err);
    double t_open = now_s(&b) - t;
    struct vd_hash root;
    t = now_s(&b);
    if (vd_model_root_compute(b.m, pool, &root, &err) != VD_OK)
        die(&err);
    printf("kernel %s, %u threads; opened in %.0f ms, root computed in %.0f ms\n", kern->name,
           vd_pool_threads(pool), 1e3 * t_open, 1e3 * (now_s(&b) - t));
    print_table(&b);
    vd_kv_pool_destroy(b.cache);
    vd_ctx_destroy(b.ctx);
    vd_model_close(b.m);
    vd_pool_destroy(pool);
    return 0;
}
