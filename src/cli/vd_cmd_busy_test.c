/* The sign of life: after a while, again and again, and never after the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "vd_clock.h"
#include "vd_cmd_busy.h"

static size_t lines(FILE *f)
{
    char text[4096];
    rewind(f);
    size_t n = fread(text, 1, sizeof text - 1, f), found = 0;
    text[n] = 0;
    for (const char *p = text; (p = strstr(p, "at work, 0 s so far\n")) != NULL; p++)
        found++;
    return found;
}

static void test_says_so(void **state)
{
    struct vd_busy b;
    FILE *f = tmpfile();
    (void)state;
    assert_non_null(f);
    vd_busy_begin_on(&b, f, 20, 20, "at work");
    vd_clock_sleep_ms(200);
    vd_busy_end(&b);
    size_t n = lines(f);
    assert_in_range(n, 2, 10);
    vd_clock_sleep_ms(60);
    assert_int_equal(lines(f), n);
    vd_busy_begin_on(&b, f, 100, 20, "at work");
    vd_busy_hush(&b);
    vd_clock_sleep_ms(150);
    assert_int_equal(lines(f), n);
    vd_busy_end(&b);
    fclose(f);
}

static void test_quick_work_is_silent(void **state)
{
    struct vd_busy b;
    FILE *f = tmpfile();
    (void)state;
    assert_non_null(f);
    vd_busy_begin_on(&b, f, 60000, 60000, "at work");
    vd_busy_end(&b);
    vd_busy_end(&b);
    assert_int_equal(lines(f), 0);
    fclose(f);
    b = (struct vd_busy){0};
    vd_busy_end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_says_so),
                                       cmocka_unit_test(test_quick_work_is_silent)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
