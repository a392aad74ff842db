/* What is looked up, by hand; the draft is tested with the engine. */
#include "vd_guess.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void follows_the_latest(void **state)
{
    const uint32_t text[] = {1, 2, 3, 7, 8, 9, 1, 2, 3, 4, 5, 6, 9, 9, 1, 2, 3};
    uint32_t out[VD_GUESS_MAX];
    assert_int_equal(vd_guess_lookup(text, 17, 4, out), 4);
    const uint32_t want[] = {4, 5, 6, 9};
    assert_memory_equal(out, want, sizeof want);
    assert_int_equal(vd_guess_lookup(text, 9, 2, out), 2); /* only the first place is behind these */
    assert_int_equal(out[0], 7);
    assert_int_equal(out[1], 8);
}

static void needs_a_match(void **state)
{
    const uint32_t text[] = {1, 2, 3, 4, 9, 2, 3};
    uint32_t out[VD_GUESS_MAX];
    for (size_t n = 0; n <= 7; n++)
        assert_int_equal(vd_guess_lookup(text, n, 4, out), 0);
}

/* A period shorter than the guess goes round. */
static void goes_round(void **state)
{
    const uint32_t text[] = {5, 6, 5, 6, 5, 6}, same[] = {4, 4, 4, 4};
    uint32_t out[VD_GUESS_MAX];
    assert_int_equal(vd_guess_lookup(text, 6, 5, out), 5);
    const uint32_t want[] = {5, 6, 5, 6, 5};
    assert_memory_equal(out, want, sizeof want);
    assert_int_equal(vd_guess_lookup(same, 4, 16, out), 16);
    assert_int_equal(out[15], 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_the_latest),
        cmocka_unit_test(needs_a_match),
        cmocka_unit_test(goes_round),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
