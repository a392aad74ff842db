/* The choice follows simulated machines: quiet, crowded, and changing. */
#include "vd_pace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

/* n passes on a machine where they take these times; returns how many ran alone. */
static unsigned run(struct vd_pace *p, size_t n_rows, unsigned n, double team_ns, double alone_ns)
{
    unsigned n_alone = 0;
    for (unsigned i = 0; i < n; i++) {
        bool alone = vd_pace_alone(p, n_rows);
        n_alone += alone;
        vd_pace_note(p, n_rows, alone, alone ? alone_ns : team_ns);
    }
    return n_alone;
}

static void quiet_machine(void **state)
{
    struct vd_pace p = {0};
    assert_true(run(&p, 1, 1000, 2e6, 3e6) <= 1000 / 64 + 2);
}

static void crowded_machine(void **state)
{
    struct vd_pace p = {0};
    assert_true(run(&p, 1, 1000, 40e6, 6e6) >= 1000 - 1000 / 64 - 8);
}

static void follows_changes(void **state)
{
    struct vd_pace p = {0};
    run(&p, 1, 500, 2e6, 3e6);
    assert_true(run(&p, 1, 100, 40e6, 6e6) >= 80);  /* soon alone */
    assert_true(run(&p, 1, 2000, 2e6, 3e6) < 1500); /* and back together within a few trials */
    assert_true(run(&p, 1, 500, 2e6, 3e6) <= 500 / 64 + 2);
}

static void one_outlier_changes_nothing(void **state)
{
    struct vd_pace p = {0};
    run(&p, 1, 200, 2e6, 3e6);
    run(&p, 1, 1, 500e6, 3e6);
    assert_true(run(&p, 1, 60, 2e6, 3e6) <= 2);
}

static void row_counts_are_apart(void **state)
{
    struct vd_pace p = {0};
    run(&p, 1, 500, 40e6, 6e6);
    assert_true(run(&p, 32, 500, 20e6, 38e6) <= 500 / 64 + 2);
    assert_true(run(&p, SIZE_MAX, 10, 1, 1) <= 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quiet_machine),        cmocka_unit_test(crowded_machine),
        cmocka_unit_test(follows_changes),      cmocka_unit_test(one_outlier_changes_nothing),
        cmocka_unit_test(row_counts_are_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
