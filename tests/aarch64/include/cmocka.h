/* Stands in for cmocka where there is none for the processor: what the tests that are built here use of it,
 * with the same names and meaning. The first failure ends the program. */
#ifndef VD_STANDIN_CMOCKA_H
#define VD_STANDIN_CMOCKA_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*test)(void **state);
};

#define cmocka_unit_test(f)                                                                                  \
    {                                                                                                        \
#f, f                                                                                                \
    }
#define print_message(...) ((void)printf(__VA_ARGS__))
#define print_error(...)   ((void)fprintf(stderr, __VA_ARGS__))
#define fail_msg(...)                                                                                        \
    (fprintf(stderr, "%s:%d: ", __FILE__, __LINE__), fprintf(stderr, __VA_ARGS__), fputc('\n', stderr),      \
     exit(1))
#define assert_true(c)                             ((c) ? (void)0 : fail_msg("not so: %s", #c))
#define assert_false(c)                            assert_true(!(c))
#define assert_null(p)                             assert_true((p) == NULL)
#define assert_non_null(p)                         assert_true((p) != NULL)
#define assert_ptr_equal(a, b)                     assert_true((a) == (b))
#define assert_int_equal(a, b)                     assert_true((unsigned long long)(a) == (unsigned long long)(b))
#define assert_int_not_equal(a, b)                 assert_true((unsigned long long)(a) != (unsigned long long)(b))
#define assert_memory_equal(a, b, n)               assert_true(memcmp(a, b, n) == 0)
#define assert_memory_not_equal(a, b, n)           assert_true(memcmp(a, b, n) != 0)
#define assert_in_range(v, low, high)              assert_true(vd_standin_in_range(v, low, high))
#define assert_string_equal(a, b)                  assert_true(strcmp(a, b) == 0)
#define cmocka_run_group_tests(t, setup, teardown) vd_standin_run(__FILE__, t, sizeof(t) / sizeof((t)[0]))
#define cmocka_run_group_tests_name(name, t, setup, teardown)                                                \
    vd_standin_run(name, t, sizeof(t) / sizeof((t)[0]))

static inline int vd_standin_in_range(unsigned long long v, unsigned long long low, unsigned long long high)
{
    return low <= v && v <= high;
}

static inline int vd_standin_run(const char *group, const struct CMUnitTest *t, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        void *state = NULL;
        printf("%s: %s\n", group, t[i].name);
        fflush(stdout);
        t[i].test(&state);
    }
    return 0;
}

#endif
