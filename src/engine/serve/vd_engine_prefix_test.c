/* Prefixes: what of an account's earlier jobs the next one goes on from, with windows and without, and that
 * what it says is the same. */
#include "vd_test_jobs.h"

static void prefix_is_reused(void **state)
{
    struct fixture *f = *state;
    struct log l;
    struct vd_job job = some_job(0, 150, 30, warm(1));
    struct plain want = plain_of(f, &job);
    job.account = account(1);
    run_job(f->e, job, &l);
    assert_int_equal(l.result.n_reused, 0);
    assert_same(&l, &want);
    run_job(f->e, job, &l); /* all but the last prompt token */
    assert_int_equal(l.result.n_reused, 149);
    assert_same(&l, &want);

    struct vd_job shorter = some_job(0, 100, 30, greedy);
    want = plain_of(f, &shorter);
    shorter.account = account(1);
    run_job(f->e, shorter, &l);
    assert_int_equal(l.result.n_reused, 99);
    assert_same(&l, &want);
    shorter.account = account(2); /* never another account's */
    run_job(f->e, shorter, &l);
    assert_int_equal(l.result.n_reused, 0);
    assert_same(&l, &want);
    struct vd_engine_stats s;
    vd_engine_get_stats(f->e, &s);
    assert_int_equal(s.n_prefixes, 3); /* two that differ, and the other account's */
}

/* A conversation: the answer becomes part of the next prompt. */
static void conversation(void **state)
{
    struct fixture *f = *state;
    struct log l;
    uint32_t text[400], n = 60;
    memcpy(text, prompt_text, n * sizeof *text);
    for (unsigned turn = 0; turn < 4; turn++) {
        struct vd_job job = {.prompt = text, .n_prompt = n, .max_tokens = 25, .sampling = warm(turn)};
        struct plain want = plain_of(f, &job);
        job.account = account(7);
        run_job(f->e, job, &l);
        assert_same(&l, &want);
        assert_int_equal(l.result.n_reused, turn ? n - 11 : 0); /* the last answer's last token was not fed */
        memcpy(text + n, l.token, 25 * sizeof *text);
        memcpy(text + n + 25, prompt_text + 100 * turn, 10 * sizeof *text);
        n += 35;
    }
    struct vd_engine_stats s;
    vd_engine_get_stats(f->e, &s);
    assert_int_equal(s.n_prefixes, 1); /* each turn replaced the one before */
}

/* With windows a prefix can be gone on from where its windows are: at the end of what a job left, at the end
 * of its prompt, and, once it was wanted, where two prompts part. And a job costs no more than that. */
static void windows_and_prefixes(void **state)
{
    enum { ROWS = 32 };
    struct fixture *f = *state;
    struct log l;
    struct vd_engine_stats s;
    open_windows(f, "gemma3");
    size_t one = cache_for(f, 500, ROWS);
    struct vd_engine_options o = {.max_kv_bytes = 4 * one, .max_rows = ROWS};
    open_engine(f, &o);
    uint32_t text[512];
    memcpy(text, prompt_text, sizeof text);
    struct vd_job job = {.prompt = text, .n_prompt = 300, .max_tokens = 150, .sampling = warm(1)};
    struct plain want = plain_of(f, &job);
    job.account = account(1);
    run_job(f->e, job, &l);
    assert_int_equal(l.result.n_reused, 0);
    assert_same(&l, &want);
    vd_engine_get_stats(f->e, &s);
    assert_int_equal(s.n_prefixes, 2);
    assert_true(s.kv_bytes_used < 8 * s.kv_page_bytes); /* all of it would be 7 pages, and is kept twice */
    run_job(f->e, job, &l);                             /* the end of its prompt, in whole pages */
    assert_int_equal(l.result.n_reused, 256);
    assert_same(&l, &want);
    memcpy(text + 300, want.token, 150 * sizeof *text); /* the conversation goes on */
    struct vd_job next = {.prompt = text, .n_prompt = 460, .max_tokens = 20, .sampling = greedy};
    want = plain_of(f, &next);
    next.account = account(1);
    run_job(f->e, next, &l);
    assert_int_equal(l.result.n_reused, 449);
    assert_same(&l, &want);
    for (unsigned i = 0; i < 3; i++) { /* others begin as it did, and part after 140 tokens */
        text[140] = 7 + i;
        struct vd_job parts = {.prompt = text, .n_prompt = 290, .max_tokens = 5, .sampling = greedy};
        want = plain_of(f, &parts);
        parts.account = account(1);
        run_job(f->e, parts, &l);
        assert_int_equal(l.result.n_reused, i ? 128 : 0);
        assert_same(&l, &want);
    }
    struct vd_job large = some_job(0, 300, 200, greedy);
    struct vd_error err;
    o.max_kv_bytes = one - 1;
    open_engine(f, &o);
    char need[32];
    snprintf(need, sizeof need, "%zu", one);
    assert_int_equal(vd_engine_submit(f->e, &large, NULL, &err), VD_ELIMIT);
    assert_non_null(strstr(err.msg, need));
    o.max_kv_bytes = one;
    open_engine(f, &o);
    run_job(f->e, large, &l);
    assert_int_equal(l.result.stop, VD_STOP_LENGTH);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(prefix_is_reused),
        TEST(conversation),
        TEST(windows_and_prefixes),
    };
    int failed = 0;
    for (guesses = NO_GUESSES; guesses < N_GUESSES; guesses++)
        failed += cmocka_run_group_tests(tests, NULL, NULL);
    return failed;
}
