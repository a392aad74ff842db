/* Jobs whose result is a vector, of decoders and of encoders: the vector and the positions are those of a
 * plain loop, beside whomever they are made. */
#include "vd_test_jobs.h"

/* An encoder's jobs are fed whole, whatever the options say, several in a step; nobody reuses anything; every
 * pooling; and what no encoder or no decoder does. */
static void encoder_vectors(void **state)
{
    static const enum vd_pooling pooling[] = {VD_POOLING_CLS,  VD_POOLING_MEAN, VD_POOLING_LAST,
                                              VD_POOLING_MEAN, VD_POOLING_CLS,  VD_POOLING_MEAN};
    static const uint32_t n_prompt[] = {200, 300, 1, 70, 300, 199};
    struct vd_test_model t = vd_test_model_of(vd_test_form("bert"));
    struct fixture f = {.e = NULL}, *other = *state;
    struct vd_engine_options o = {.max_rows = 16, .max_active = 4};
    struct vd_job job[6];
    struct log l[6];
    struct vd_error err;
    struct vd_job none = some_job(0, 20, 5, greedy);
    job[0] = vector_job(0, 20, VD_POOLING_CLS);
    assert_int_equal(vd_engine_submit(other->e, &job[0], NULL, &err), VD_EUSE);
    assert_non_null(strstr(err.msg, "no encoder"));
    open_all(&f, &t);
    open_engine(&f, &o);
    assert_int_equal(vd_engine_submit(f.e, &none, NULL, &err), VD_EUSE);
    assert_non_null(strstr(err.msg, "generates nothing"));
    for (int round = 0; round < 2; round++) {
        for (unsigned i = 0; i < 6; i++) {
            job[i] = vector_job(i % 2, n_prompt[i], pooling[i]);
            job[i].account = account(7);
            log_init(&l[i], f.e);
            submit(f.e, job[i], &l[i]);
        }
        for (unsigned i = 0; i < 6; i++) {
            wait_done(&l[i]);
            assert_vector(&f, &l[i], &job[i]);
            assert_int_equal(l[i].result.n_reused, 0);
        }
    }
    struct vd_engine_stats stats;
    vd_engine_get_stats(f.e, &stats);
    assert_true(stats.n_steps < 12 && stats.n_prefixes == 0 && stats.kv_bytes_used == 0);
    vd_engine_destroy(f.e);
    o.draft = f.m;
    assert_int_equal(vd_engine_create(&f.e, f.m, f.pool, &o, &err), VD_EUSE);
    f.e = NULL;
    close_all(&f);
    log_model = other->m;
}

/* Beside each other, beside a job that generates, and with what an earlier one left in the cache. */
static void vectors(void **state)
{
    struct fixture *f = *state;
    static const enum vd_pooling pooling[] = {VD_POOLING_LAST, VD_POOLING_MEAN, VD_POOLING_LAST,
                                              VD_POOLING_MEAN};
    static const uint32_t n_prompt[] = {200, 200, 1, 1};
    struct log beside, l[4];
    struct vd_job talk = some_job(3, 40, 60, warm(1)), job[4];
    for (int round = 0; round < 2; round++) {
        log_init(&beside, f->e);
        submit(f->e, talk, &beside);
        for (unsigned i = 0; i < 4; i++) {
            job[i] = vector_job(0, n_prompt[i], pooling[i]);
            job[i].account = account(7);
            log_init(&l[i], f->e);
            submit(f->e, job[i], &l[i]);
        }
        for (unsigned i = 0; i < 4; i++) {
            wait_done(&l[i]);
            assert_vector(f, &l[i], &job[i]);
            assert_true(pooling[i] == VD_POOLING_LAST || l[i].result.n_reused == 0);
        }
        wait_done(&beside);
    }
    assert_true(l[0].result.n_reused > 100);
    struct vd_error err;
    uint64_t id;
    job[0].max_tokens--;
    assert_int_equal(vd_engine_submit(f->e, &job[0], &id, &err), VD_EUSE);
}

int main(void)
{
    const struct CMUnitTest encoders[] = {TEST(encoder_vectors)}, tests[] = {TEST(vectors)};
    int failed = cmocka_run_group_tests(encoders, NULL, NULL); /* which guess nothing */
    for (guesses = NO_GUESSES; guesses < N_GUESSES; guesses++)
        failed += cmocka_run_group_tests(tests, NULL, NULL);
    return failed;
}
