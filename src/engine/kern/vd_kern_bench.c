/* Rates of the kernels, next to the plain read rate of memory measured in the same run.
 *
 *   vd_kern_bench [-k KERNEL] [-t THREADS] [-r REPEATS] [-y TYPE] [-s]
 *
 * -y vectors: only what is not a product of a matrix.
 * -s: weights are split (vd_kern.h) if their type can be.
 * Every figure is the best of the repeats (others may be using the machine). A multiply and an add count as
 * two operations. "read" of a product of one token is packed weight bytes per second. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "vd_kern.h"
#include "vd_pool.h"
#include "vd_rng.h"

struct bench {
    const struct vd_kern *k;
    struct vd_pool *pool;
    int repeats;
    bool split;
    void *scratch[VD_POOL_THREADS_MAX];
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Zeroed, on huge pages where the system gives them, as the engine's weights are. */
static void *big_alloc(size_t bytes)
{
    bytes = (bytes + (2 << 20) - 1) / (2 << 20) * (2 << 20);
    void *p = aligned_alloc(2 << 20, bytes);
    if (p == NULL) {
        fprintf(stderr, "vd_kern_bench: no memory for %zu bytes\n", bytes);
        exit(3);
    }
    madvise(p, bytes, MADV_HUGEPAGE);
    memset(p, 0, bytes);
    return p;
}

/* ---- plain read rate ---- */

typedef uint64_t vec64 __attribute__((vector_size(64)));

struct read_job {
    const vec64 *p;
    size_t n;
    vec64 sum[VD_POOL_THREADS_MAX];
};

static void read_part(void *arg, struct vd_team *team, unsigned thread)
{
    struct read_job *j = arg;
    size_t a, b;
    vec64 s = {0}, t = {0};
    vd_team_range(team, thread, j->n, 64, &a, &b);
    for (size_t i = a; i + 1 < b; i += 2) {
        s += j->p[i];
        t += j->p[i + 1];
    }
    j->sum[thread] = s + t;
}

static double read_rate(struct bench *b, const void *p, size_t bytes)
{
    static struct read_job j;
    double best = 1e9;
    j.p = p;
    j.n = bytes / sizeof(vec64);
    for (int r = 0; r < b->repeats; r++) {
        double t = now_s();
        vd_pool_region(b->pool, read_part, &j);
        t = now_s() - t;
        best = t < best ? t : best;
    }
    return (double)bytes / best * 1e-9;
}

/* ---- products ---- */

struct product_job {
    const struct bench *b;
    struct vd_kern_mat *mats; /* n_mats copies, so that the weights exceed the cache where that is wanted */
    size_t n_mats, n_tok;
    struct vd_kern_rhs rhs;
    float *y;
};

static void product_part(void *arg, struct vd_team *team, unsigned thread)
{
    struct product_job *j = arg;
    for (size_t m = 0; m < j->n_mats; m++) {
        size_t r0, r1;
        vd_team_range(team, thread, j->mats[m].rows, VD_KERN_ROWS, &r0, &r1);
        j->b->k->matmul(&j->mats[m], r0, r1, &j->rhs, 0, j->n_tok, j->y, j->mats[m].rows,
                        j->b->scratch[thread]);
        vd_team_barrier(team);
    }
}

static double product_time(struct bench *b, struct product_job *j)
{
    double best = 1e9;
    for (int r = 0; r < b->repeats; r++) {
        double t = now_s();
        vd_pool_region(b->pool, product_part, j);
        t = now_s() - t;
        best = t < best ? t : best;
    }
    return best;
}

static void bench_product(struct bench *b, enum vd_wtype type, size_t rows, size_t cols, size_t n_tok,
                          size_t n_mats)
{
    struct vd_rng r = {1, 0};
    size_t bytes = b->k->mat_bytes(type, rows, cols);
    uint8_t *data = big_alloc(bytes * n_mats);
    struct vd_kern_mat *mats = calloc(n_mats, sizeof(*mats));
    float *x = big_alloc(n_tok * cols * 4), *y = big_alloc(n_tok * rows * 4);
    bool super = vd_wtype_info(type)->act_block == VD_KERN_BLOCK256;
    bool split = b->split && b->k->can_split && b->k->can_split(type);
    uint64_t lift = type == VD_WTYPE_MXFP4 ? UINT64_C(0x4040404040404040) : 0; /* no subnormal scale */
    void *act = big_alloc(super ? b->k->act256_bytes(n_tok, cols) : b->k->act_bytes(n_tok, cols));
    for (size_t i = 0; i < bytes * n_mats / 8; i++)
        ((uint64_t *)data)[i] =
            (vd_rng_next(&r) & UINT64_C(0x3F3F3F3F3F3F3F3F)) | lift; /* no infinite scale */
    for (size_t m = 0; m < n_mats; m++)
        mats[m] = (struct vd_kern_mat){type, rows, cols, data + m * bytes, split};
    for (size_t i = 0; i < n_tok * cols; i++)
        x[i] = (float)(int64_t)vd_rng_next(&r) * 0x1p-63f;
    (super ? b->k->act256_quant : b->k->act_quant)(x, cols, cols, 0, n_tok, act);
    struct product_job j = {b, mats, n_mats, n_tok, {.act = act, .x = x, .ldx = cols, .act256 = act}, y};
    double t = product_time(b, &j);
    printf("%-6s %6zu x %5zu  %4zu tokens  %3zu matrices  %8.1f GOPS", vd_wtype_info(type)->name, rows, cols,
           n_tok, n_mats, 2e-9 * (double)(rows * cols * n_tok * n_mats) / t);
    if (n_tok <= 32) {
        printf("  %7.1f GB/s", 1e-9 * (double)(bytes * n_mats) / t);
        if (bytes * n_mats >= (size_t)256 << 20)
            printf("  (plain read %.1f)", read_rate(b, data, bytes * n_mats));
    }
    printf("\n");
    free(data), free(mats), free(x), free(y), free(act);
}

/* ---- attention ---- */

struct attn_job {
    const struct bench *b;
    struct vd_kern_kv kv;
    struct vd_kern_query *rows;
    size_t n, piece;
};

static void attn_part(void *arg, size_t task, unsigned thread)
{
    struct attn_job *j = arg;
    size_t i = task * j->piece, n = j->n - i < j->piece ? j->n - i : j->piece;
    j->b->k->attn(&j->kv, (struct vd_kern_score){0.125f, 0}, j->rows + i, n, j->b->scratch[thread]);
}

/* `heads` query heads share the kv head; tokens [pos0, pos0 + n_tok) of a sequence. */
static void bench_attn(struct bench *b, size_t hd, size_t heads, size_t pos0, size_t n_tok, size_t copies)
{
    struct vd_rng r = {2, 0};
    size_t n_pos = pos0 + n_tok, n_chunks = (n_pos + 63) / 64, n = n_tok * heads * copies, pairs = 0;
    size_t chunk_bytes = b->k->kv_bytes(hd);
    uint8_t *mem = big_alloc(n_chunks * chunk_bytes);
    const void **pages = calloc(n_chunks, sizeof(*pages));
    struct vd_kern_query *rows = calloc(n, sizeof(*rows));
    float *q = big_alloc(n * hd * 4), *y = big_alloc(n * hd * 4), kv[2 * VD_KERN_HEAD_MAX];
    for (size_t p = 0; p < n_pos; p++) {
        for (size_t e = 0; e < 2 * hd; e++)
            kv[e] = (float)(int64_t)vd_rng_next(&r) * 0x1p-61f;
        pages[p / 64] = mem + p / 64 * chunk_bytes;
        b->k->kv_put(mem + p / 64 * chunk_bytes, hd, p % 64, kv, kv + hd);
    }
    for (size_t i = 0; i < n; i++) {
        size_t end = pos0 + i / heads % n_tok + 1;
        for (size_t e = 0; e < hd; e++)
            q[i * hd + e] = (float)(int64_t)vd_rng_next(&r) * 0x1p-61f;
        rows[i] = (struct vd_kern_query){q + i * hd, y + i * hd, 0, end};
        pairs += end;
    }
    struct attn_job j = {b, {pages, 0, hd}, rows, n, n_tok == 1 ? heads : 48};
    double best = 1e9;
    for (int rep = 0; rep < b->repeats; rep++) {
        double t = now_s();
        vd_pool_run(b->pool, attn_part, &j, (n + j.piece - 1) / j.piece);
        t = now_s() - t;
        best = t < best ? t : best;
    }
    printf("attention, %zu heads of %zu, %4zu tokens from position %4zu: %8.1f GOPS  %8.1f us\n", heads, hd,
           n_tok, pos0, 4e-9 * (double)(pairs * hd) / best, best * 1e6 / (double)copies);
    free(mem), free(pages), free(rows), free(q), free(y);
}

/* ---- vector operators and barriers ---- */

static void barriers(void *arg, struct vd_team *team, unsigned thread)
{
    for (int i = 0; i < 1000; i++)
        vd_team_barrier(team);
}

static void bench_vectors(struct bench *b, size_t cols)
{
    enum { TOKS = 512 };
    float *x = big_alloc(cols * TOKS * 4), *y = big_alloc(cols * TOKS * 4), *cs = big_alloc(256);
    void *act = big_alloc(b->k->act_bytes(TOKS, cols));
    struct vd_rng r = {3, 0};
    double best[6] = {1e9, 1e9, 1e9, 1e9, 1e9, 1e9};
    static const char *const what[6] = {"act_quant", "rmsnorm", "swiglu", "rope", "exp", "barrier"};
    for (size_t i = 0; i < cols * TOKS; i++)
        x[i] = (float)(int64_t)vd_rng_next(&r) * 0x1p-61f;
    for (int rep = 0; rep < b->repeats; rep++)
        for (int op = 0; op < 6; op++) {
            double t = now_s();
            if (op == 0)
                b->k->act_quant(x, cols, cols, 0, TOKS, act);
            for (size_t i = 0; i < TOKS && op > 0; i++) {
                float *xi = x + i * cols, *yi = y + i * cols;
                if (op == 1)
                    b->k->rmsnorm(xi, x, cols, 1e-5f, yi);
                if (op == 2)
                    b->k->swiglu(xi, x, cols, yi);
                if (op == 3)
                    b->k->rope(yi, cols / 64, 64, cs, 32, false);
                if (op == 4)
                    b->k->exp(xi, cols, yi);
            }
            if (op == 5)
                vd_pool_region(b->pool, barriers, NULL);
            t = now_s() - t;
            best[op] = t < best[op] ? t : best[op];
        }
    for (int op = 0; op < 5; op++)
        printf("%-10s %8.1f us for %d x %zu, one thread\n", what[op], best[op] * 1e6, TOKS, cols);
    printf("%-10s %8.1f us for 1000, all threads\n", what[5], best[5] * 1e6);
    free(x), free(y), free(cs), free(act);
}

static void vectors(struct bench *b)
{
    bench_vectors(b, 576);
    bench_vectors(b, 1536);
}

static const enum vd_wtype types[] = {VD_WTYPE_Q4_0,  VD_WTYPE_Q4_1, VD_WTYPE_Q5_0,  VD_WTYPE_Q5_1,
                                      VD_WTYPE_Q8_0,  VD_WTYPE_F16,  VD_WTYPE_BF16,  VD_WTYPE_IQ4_NL,
                                      VD_WTYPE_MXFP4, VD_WTYPE_Q2_K, VD_WTYPE_Q3_K,  VD_WTYPE_Q4_K,
                                      VD_WTYPE_Q5_K,  VD_WTYPE_Q6_K, VD_WTYPE_IQ4_XS};
enum { N_TYPES = sizeof(types) / sizeof(types[0]) };

/* File bytes of many rows into a packed matrix, one thread. */
static void bench_pack(struct bench *b, enum vd_wtype type)
{
    enum { ROWS = 4096, COLS = 2048 };
    size_t bytes = ROWS * vd_wtype_row_bytes(type, COLS);
    uint8_t *file = big_alloc(bytes);
    struct vd_kern_mat w = {type, ROWS, COLS, big_alloc(b->k->mat_bytes(type, ROWS, COLS)), false};
    double best = 1e9;
    memset(file, 1, bytes);
    for (int r = 0; r < b->repeats; r++) {
        double t = now_s();
        b->k->mat_pack(&w, 0, ROWS, file);
        t = now_s() - t;
        best = t < best ? t : best;
    }
    printf("%-6s pack %6.2f GB/s, one thread\n", vd_wtype_info(type)->name, (double)bytes / best * 1e-9);
    free(file), free(w.data);
}

/* Decode from memory, then products in cache at the sizes of small models; super-blocks need multiples of
 * 256. */
static void run_type(struct bench *b, enum vd_wtype type)
{
    static const size_t toks[] = {1, 2, 4, 8, 16, 32, 512};
    size_t narrow = vd_wtype_info(type)->act_block == VD_KERN_BLOCK256 ? 512 : 576;
    size_t mat_bytes = b->k->mat_bytes(type, 4096, 4096);
    bench_pack(b, type);
    bench_product(b, type, 4096, 4096, 1, ((size_t)544 << 20) / mat_bytes + 1);
    for (size_t n = 0; n < 7; n++)
        bench_product(b, type, 1536, narrow, toks[n], 1);
    bench_product(b, type, narrow, 1536, 512, 1);
    bench_product(b, type, 4096, 2048, 512, 1);
}

static void run(struct bench *b, const char *only)
{
    printf("kernel %s, %u threads\n", b->k->name, vd_pool_threads(b->pool));
    for (size_t t = 0; t < N_TYPES; t++)
        if (only == NULL || strcmp(only, vd_wtype_info(types[t])->name) == 0)
            run_type(b, types[t]);
    if (only != NULL && strcmp(only, "vectors") == 0)
        vectors(b);
    if (only != NULL)
        return;
    bench_product(b, VD_WTYPE_Q8_0, 49152, 576, 1, 10);
    bench_attn(b, 64, 3, 0, 512, 1);
    bench_attn(b, 64, 3, 0, 4096, 1);
    bench_attn(b, 128, 4, 0, 512, 1);
    bench_attn(b, 64, 3, 511, 1, 30);
    bench_attn(b, 64, 3, 8191, 1, 30);
    vectors(b);
}

int main(int argc, char **argv)
{
    struct bench b = {.repeats = 10};
    struct vd_error err;
    const char *name = NULL, *only = NULL;
    unsigned threads = 0;
    for (int c; (c = getopt(argc, argv, "k:t:r:y:s")) != -1;) {
        if (c == 'k')
            name = optarg;
        else if (c == 'y')
            only = optarg;
        else if (c == 't')
            threads = (unsigned)atoi(optarg);
        else if (c == 'r')
            b.repeats = atoi(optarg);
        else if (c == 's')
            b.split = true;
        else
            return 2;
    }
    b.k = vd_kern_pick(name, &err);
    if (b.k == NULL || vd_pool_create(&b.pool, threads, &err) != VD_OK) {
        fprintf(stderr, "vd_kern_bench: %s\n", err.msg);
        return 2;
    }
    for (unsigned i = 0; i < vd_pool_threads(b.pool); i++)
        b.scratch[i] = big_alloc(b.k->scratch_bytes(16384, 256));
    run(&b, only);
    for (unsigned i = 0; i < vd_pool_threads(b.pool); i++)
        free(b.scratch[i]);
    vd_pool_destroy(b.pool);
    return 0;
}
