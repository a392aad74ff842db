/* What a job says: its tokens and positions are those of a plain one-job loop, whoever else is served and
 * whatever is guessed; how it ends, how it is gone on with from tokens that are known, and which jobs are
 * refused. */
#include "vd_test_jobs.h"

static void alone(void **state)
{
    struct fixture *f = *state;
    struct vd_job jobs[] = {
        some_job(0, 1, 1, greedy), some_job(0, 70, 40, greedy), some_job(3, 130, 60, warm(5)),
        some_job(3, 2, 60, (struct vd_sampling){.temp_micro = 1000000, .top_p_micro = 1000000})};
    for (size_t i = 0; i < 4; i++) {
        struct log l;
        struct plain want = plain_of(f, &jobs[i]);
        run_job(f->e, jobs[i], &l);
        assert_same(&l, &want);
        assert_int_equal(l.result.stop, VD_STOP_LENGTH);
        assert_int_equal(l.n_positions, jobs[i].n_prompt + jobs[i].max_tokens - 1);
    }
}

/* Guesses make several tokens a step, and never another token. */
static void guesses_are_checked(void **state)
{
    enum { N_OUT = 200 };
    struct fixture *f = *state;
    uint32_t text[60];
    for (uint32_t i = 0; i < 60; i++) /* a phrase, again and again */
        text[i] = prompt_text[i % 12];
    for (unsigned i = 0; i < 4; i++) {
        struct log l;
        struct vd_job job = some_job(0, 60, N_OUT, i % 2 ? warm(i) : greedy);
        job.prompt = text;
        job.account = account((uint8_t)(i / 2 + 1)); /* what wrong guesses left is not another job's prefix */
        struct plain want = plain_of(f, &job);
        run_job(f->e, job, &l);
        assert_same(&l, &want);
    }
    struct vd_engine_stats s;
    vd_engine_get_stats(f->e, &s);
    assert_true(s.n_right_tokens <= s.n_guessed_tokens);
    if (guesses == NO_GUESSES)
        assert_int_equal(s.n_guessed_tokens, 0);
    else
        assert_true(s.n_right_tokens > 0 && s.n_right_tokens < s.n_guessed_tokens && s.n_steps < 4 * N_OUT);
    if (guesses == DRAFT)
        assert_true(s.n_right_tokens > N_OUT);
}

static void among_others(void **state)
{
    enum { N = 40 };
    struct fixture *f = *state;
    static struct log logs[N];
    struct vd_job jobs[N];
    struct plain want[N];
    for (uint32_t i = 0; i < N; i++) {
        jobs[i] = some_job(i, 1 + i * 37 % 200, 1 + i * 11 % 50, i % 3 ? warm(i) : greedy);
        jobs[i].account = account(i % 4); /* one of them without a cache */
        want[i] = plain_of(f, &jobs[i]);
        log_init(&logs[i], f->e);
    }
    for (uint32_t i = 0; i < N; i++)
        submit(f->e, jobs[i], &logs[i]);
    for (uint32_t i = 0; i < N; i++) {
        wait_done(&logs[i]);
        assert_same(&logs[i], &want[i]);
    }
    struct vd_engine_stats s;
    vd_engine_get_stats(f->e, &s);
    assert_int_equal(s.n_active + s.n_queued, 0);
    assert_true(s.n_steps < 400); /* they did share steps */
}

static void resumed(void **state)
{
    struct fixture *f = *state;
    struct log l;
    for (unsigned i = 0; i < 2; i++) {
        struct vd_job job = some_job(i, 80, 90, i ? warm(3) : greedy);
        struct plain want = plain_of(f, &job);
        static const uint32_t cut[] = {1, 20, 77, 89};
        for (unsigned c = 0; c < 4; c++) {
            job.resume = want.token;
            job.n_resume = cut[c];
            run_job(f->e, job, &l);
            assert_same(&l, &want);
            assert_int_equal(l.n_mismatches, 0);
            assert_int_equal(l.first_index, cut[c]);
        }
        uint32_t wrong[90];
        memcpy(wrong, want.token, sizeof wrong);
        wrong[41] = (wrong[41] + 1) % vd_test_model_default.vocab;
        job.resume = wrong;
        job.n_resume = 70;
        run_job(f->e, job, &l);
        assert_same(&l, &want);
        assert_int_equal(l.n_mismatches, 1);
        assert_int_equal(l.mismatch_index, 41);
        assert_int_equal(l.mismatch_own, want.token[41]);
        assert_int_equal(l.first_index, 41);
    }
}

static void stop_token(void **state)
{
    struct fixture *f = *state;
    struct vd_job job = some_job(0, 30, 50, warm(11));
    struct plain open = plain_of(f, &job);
    struct vd_test_model t = vd_test_model_default;
    uint32_t at = 0;
    t.stop = open.token[20];
    while (open.token[at] != t.stop)
        at++;
    close_all(f);
    open_all(f, &t);
    struct log l;
    struct plain want = plain_of(f, &job);
    assert_int_equal(want.n_tokens, at + 1);
    run_job(f->e, job, &l);
    assert_same(&l, &want);
    assert_int_equal(l.result.stop, VD_STOP_TOKEN);
    job.max_tokens = at + 1; /* a stop token goes before the length */
    run_job(f->e, job, &l);
    assert_int_equal(l.result.stop, VD_STOP_TOKEN);
    if (at > 0) {
        job.max_tokens = at;
        run_job(f->e, job, &l);
        assert_int_equal(l.result.stop, VD_STOP_LENGTH);
    }
    job.resume = want.token;
    job.n_resume = at + 1;
    job.max_tokens = 50;
    struct vd_error err;
    assert_int_equal(vd_engine_submit(f->e, &job, NULL, &err), VD_EUSE); /* that output is complete */
}

/* Norm weights of 3e38 are finite, the logits are not. */
static void non_finite_logits(void **state)
{
    struct fixture *f = *state;
    size_t n;
    uint8_t *bytes = vd_test_model_bytes(&vd_test_model_default, NULL, &n);
    struct vd_gguf *g;
    struct log l;
    close_all(f);
    assert_int_equal(vd_gguf_open(&g, bytes, n, "test", NULL), VD_OK);
    const struct vd_gguf_tensor *t = vd_gguf_tensor_find(g, "output_norm.weight");
    for (uint64_t i = 0; i < t->ne[0]; i++)
        vd_le32_store(bytes + t->offset_bytes + 4 * i, 0x7F600000);
    vd_gguf_close(g);
    vd_test_write_file(bytes, n, f->path);
    free(bytes);
    open_file(f);
    open_engine(f, NULL);
    run_job(f->e, some_job(0, 20, 10, greedy), &l);
    assert_int_equal(l.result.end, VD_JOB_STOPPED);
    assert_int_equal(l.result.stop, VD_STOP_FAIL);
    assert_int_equal(l.result.n_output, 0);
    assert_int_equal(l.n_tokens, 0);
    assert_int_equal(l.n_positions, 20);
}

static void cancelled(void **state)
{
    struct fixture *f = *state;
    struct log l;
    struct vd_engine_stats s;
    log_init(&l, f->e);
    l.cancel_at = 5;
    submit(f->e, some_job(0, 50, 300, greedy), &l);
    wait_done(&l);
    assert_int_equal(l.result.end, VD_JOB_CANCELLED);
    assert_int_equal(l.result.n_output, l.n_tokens);
    assert_int_equal(l.n_tokens, 6);
    assert_int_equal(l.n_positions, 50 + 6 - 1);
    vd_engine_get_stats(f->e, &s);
    assert_int_equal(s.kv_bytes_used, 0);
    assert_int_equal(s.n_active, 0);
    vd_engine_cancel(f->e, l.id); /* unknown by now */
    vd_engine_cancel(f->e, 12345);
}

static void bad_jobs(void **state)
{
    struct fixture *f = *state;
    struct vd_error err;
    uint32_t outside[] = {1, vd_test_model_default.vocab};
    struct vd_job none = some_job(0, 0, 10, greedy), no_output = some_job(0, 5, 0, greedy);
    struct vd_job lengthy = some_job(0, 500, 14, greedy),
                  vocab = {.prompt = outside, .n_prompt = 2, .max_tokens = 1};
    struct vd_job resume = some_job(0, 5, 3, greedy);
    resume.resume = prompt_text;
    resume.n_resume = 3;
    assert_int_equal(vd_engine_submit(f->e, &none, NULL, &err), VD_EUSE);
    assert_int_equal(vd_engine_submit(f->e, &no_output, NULL, &err), VD_EUSE);
    assert_int_equal(vd_engine_submit(f->e, &lengthy, NULL, &err), VD_ELIMIT);
    assert_non_null(strstr(err.msg, "512"));
    assert_int_equal(vd_engine_submit(f->e, &vocab, NULL, &err), VD_EUSE);
    assert_int_equal(vd_engine_submit(f->e, &resume, NULL, &err), VD_EUSE);
    lengthy.max_tokens = 13; /* 512 positions: just fits */
    struct log l;
    run_job(f->e, lengthy, &l);
    assert_int_equal(l.result.stop, VD_STOP_LENGTH);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(alone),      TEST(guesses_are_checked), TEST(among_others), TEST(resumed),
        TEST(stop_token), TEST(cancelled),           TEST(bad_jobs),     TEST(non_finite_logits),
    };
    int failed = 0;
    for (guesses = NO_GUESSES; guesses < N_GUESSES; guesses++)
        failed += cmocka_run_group_tests(tests, NULL, NULL);
    return failed;
}
