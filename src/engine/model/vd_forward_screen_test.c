/* The first of the logits' order, found by bounds: it is that of the logits, for every table, number of
 * threads and cut of the rows; and where bounds say nothing, or too little, there are logits. */
#include "vd_gguf.h"
#include "vd_test_engine.h"
#include "vd_test_model.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { N_TOK = 48, ROWS_MAX = 64, BY_BOUNDS_MAX = VD_KERN_BOUND_TOKS };

static struct vd_test_model model(void)
{
    struct vd_test_model t = vd_test_model_default;
    t.vocab = 4003; /* one tile of vd_sample.h, and a last row group that is not full */
    return t;
}

static void some_tokens(uint32_t *tokens, uint32_t vocab)
{
    struct vd_rng r = {11, 0};
    for (uint32_t i = 0; i < N_TOK; i++)
        tokens[i] = (uint32_t)vd_rng_below(&r, vocab);
}

/* Tokens [from, to) of a sequence. */
static void feed(struct engine *e, struct vd_kv *kv, const uint32_t *tokens, uint32_t from, uint32_t to,
                 uint32_t flags)
{
    struct vd_row rows[ROWS_MAX];
    for (uint32_t i = from; i < to; i++)
        rows[i - from] = (struct vd_row){kv, i, tokens[i], flags};
    assert_int_equal(vd_model_forward(e->ctx, rows, to - from, NULL, NULL), VD_OK);
}

static void first_of(const struct engine *e, size_t row, struct vd_sample_max *out)
{
    vd_num_sample_max_tile(vd_ctx_logits(e->ctx, row), 0, vd_model_program(e->m)->vocab, out);
}

/* All tokens with logits. */
static void want(struct engine *e, const uint32_t *tokens, struct vd_sample_max *out)
{
    struct vd_kv *kv = open_kv(e);
    for (uint32_t i = 0; i < N_TOK; i++) {
        feed(e, kv, tokens, i, i + 1, VD_ROW_LOGITS);
        assert_null(vd_ctx_first(e->ctx, 0));
        first_of(e, 0, &out[i]);
    }
    vd_kv_close(kv);
}

/* All tokens in calls of `cut` rows; returns how many had no logits. */
static size_t check(struct engine *e, const uint32_t *tokens, uint32_t cut,
                    const struct vd_sample_max *wanted)
{
    struct vd_kv *kv = open_kv(e);
    size_t n = 0;
    for (uint32_t at = 0; at < N_TOK; at += cut) {
        uint32_t end = at + cut < N_TOK ? at + cut : N_TOK;
        feed(e, kv, tokens, at, end, VD_ROW_LOGITS | VD_ROW_FIRST);
        for (uint32_t i = at; i < end; i++) {
            const struct vd_sample_max *got = vd_ctx_first(e->ctx, i - at);
            struct vd_sample_max own;
            n += got ? 1 : 0;
            if (!got)
                first_of(e, i - at, &own);
            got = got ? got : &own;
            assert_int_equal(got->bad, wanted[i].bad);
            assert_int_equal(got->id, wanted[i].id);
            assert_memory_equal(&got->x, &wanted[i].x, sizeof got->x);
        }
    }
    vd_kv_close(kv);
    return n;
}

static void equals_the_logits_first(void **state)
{
    static const char *const names[] = {"scalar", "avx2", "avxvnni", "avx512", "neon", "neon-i8mm"};
    static const uint32_t cuts[] = {1, 3, 7, 8, 9};
    const struct vd_test_model t = model();
    char path[VD_PATH_MAX];
    uint32_t tokens[N_TOK];
    struct vd_sample_max wanted[N_TOK];
    vd_test_model_file(&t, path);
    some_tokens(tokens, t.vocab);
    for (size_t k = 0; k < sizeof names / sizeof *names; k++)
        for (unsigned threads = 1; vd_kern_pick(names[k], NULL) && threads <= 3; threads += 2) {
            struct engine e;
            engine_open(&e, path, vd_kern_pick(names[k], NULL), threads, ROWS_MAX, ROWS_MAX);
            bool split = vd_kern_pick(names[k], NULL)->can_split != NULL;
            want(&e, tokens, wanted);
            for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
                size_t n = check(&e, tokens, cuts[c], wanted);
                assert_int_equal(n > N_TOK / 2, split && cuts[c] <= BY_BOUNDS_MAX);
            }
            engine_close(&e);
        }
    unlink(path);
}

/* A row of the call that wants logits gives them to all. */
static void logits_if_one_wants_them(void **state)
{
    const struct vd_test_model t = model();
    char path[VD_PATH_MAX];
    struct engine e;
    vd_test_model_file(&t, path);
    engine_open(&e, path, vd_kern_pick(NULL, NULL), 2, ROWS_MAX, ROWS_MAX);
    struct vd_kv *a = open_kv(&e), *b = open_kv(&e);
    for (uint32_t pos = 0; pos < 2; pos++) { /* it stands first, then last */
        struct vd_row rows[] = {{a, pos, 1, VD_ROW_LOGITS}, {b, pos, 1, VD_ROW_LOGITS}};
        rows[pos].flags |= VD_ROW_FIRST;
        assert_int_equal(vd_model_forward(e.ctx, rows, 2, NULL, NULL), VD_OK);
        assert_null(vd_ctx_first(e.ctx, 0));
        assert_memory_equal(vd_ctx_logits(e.ctx, 0), vd_ctx_logits(e.ctx, 1), t.vocab * sizeof(float));
    }
    vd_kv_close(a);
    vd_kv_close(b);
    engine_close(&e);
    unlink(path);
}

/* Writes n bytes at a place in a tensor. */
static void spoil(const char *path, const char *tensor, size_t at, const void *bytes, size_t n)
{
    struct vd_gguf *g;
    struct vd_error err;
    assert_int_equal(vd_gguf_open_map(&g, path, &err), VD_OK);
    size_t offset = vd_gguf_tensor_find(g, tensor)->offset_bytes + at;
    vd_gguf_close(g);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0 && pwrite(fd, bytes, n, (off_t)offset) == (ssize_t)n);
    close(fd);
}

/* A norm that overflows makes logits that are not finite, so that the step has to FAIL: bounds must not hide
 * it. */
static void what_is_not_finite_is_seen(void **state)
{
    static const float most[32] = {3e38f, -3e38f, 3e38f, 3e38f, 3e38f, 3e38f, -3e38f, 3e38f};
    const struct vd_test_model t = model();
    char path[VD_PATH_MAX];
    uint32_t tokens[N_TOK];
    struct vd_sample_max wanted[N_TOK];
    struct engine e;
    size_t n_bad = 0;
    vd_test_model_file(&t, path);
    spoil(path, "output_norm.weight", 0, most, sizeof most);
    some_tokens(tokens, t.vocab);
    engine_open(&e, path, vd_kern_pick(NULL, NULL), 2, ROWS_MAX, ROWS_MAX);
    want(&e, tokens, wanted);
    for (size_t i = 0; i < N_TOK; i++)
        n_bad += wanted[i].bad;
    assert_true(n_bad > 0);
    assert_true(check(&e, tokens, 1, wanted) <= N_TOK - n_bad);
    engine_close(&e);
    unlink(path);
}

/* Rows of the embedding, which is the head too, that are all alike: every group may hold the first, which is
 * the one with the lowest id. After one such call the next are made the plain way, for a while. */
static void flat_logits_stop_it(void **state)
{
    const struct vd_test_model t = model();
    const size_t row_bytes = t.width / 32 * 34;
    char path[VD_PATH_MAX];
    uint8_t row[1024];
    uint32_t tokens[N_TOK];
    struct vd_sample_max wanted[N_TOK];
    struct engine e;
    assert_true(row_bytes <= sizeof row);
    for (size_t i = 0; i < row_bytes; i++)
        row[i] = i % 34 == 1 ? 0x20 : i % 34 == 0 ? 0 : (uint8_t)(i * 37);
    vd_test_model_file(&t, path);
    for (size_t r = 0; r < t.vocab; r++)
        spoil(path, "token_embd.weight", r * row_bytes, row, row_bytes);
    some_tokens(tokens, t.vocab);
    engine_open(&e, path, vd_kern_pick(NULL, NULL), 2, ROWS_MAX, ROWS_MAX);
    want(&e, tokens, wanted);
    assert_int_equal(wanted[0].id, 0);
    size_t n = check(&e, tokens, 1, wanted);
    if (vd_kern_pick(NULL, NULL)->can_split)
        assert_true(n > 0 && n <= N_TOK / 6);
    engine_close(&e);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_the_logits_first),
        cmocka_unit_test(logits_if_one_wants_them),
        cmocka_unit_test(what_is_not_finite_is_seen),
        cmocka_unit_test(flat_logits_stop_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
