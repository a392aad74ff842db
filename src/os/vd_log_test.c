/* Both forms of a line, and that no value can forge another field or line. */
#include "vd_log.h"
#include "vd_clock.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static void check_line(bool json, const char *value, const char *expect_tail)
{
    int fd[2];
    char got[VD_LOG_LINE_MAX + 1];
    assert_int_equal(pipe(fd), 0);
    struct vd_log log = vd_log_init(fd[1], "gateway", VD_LOG_INFO, json);
    vd_log_event(&log, VD_LOG_DEBUG, "dropped", NULL);
    vd_log_event(&log, VD_LOG_WARN, "an event", "peer=%s n=%d", value, 7);
    close(fd[1]);
    ssize_t n = read(fd[0], got, sizeof got - 1);
    close(fd[0]);
    assert_true(n > 0);
    got[n] = 0;
    size_t t = strlen(expect_tail);
    assert_true((size_t)n > t);
    assert_string_equal(got + (size_t)n - t, expect_tail);
    assert_ptr_equal(strchr(got, '\n'), got + n - 1);
}

static void test_text(void **state)
{
    check_line(false, "a:1", " warn  gateway  an event peer=a:1 n=7\n");
    check_line(false, "a b", "an event peer=\"a b\" n=7\n");
    check_line(false, "x\ny\"", "an event peer=x\\u000ay\\\" n=7\n");
    check_line(false, "\xff\x1b", "an event peer=\\u00ff\\u001b n=7\n");
    check_line(false, "x level=error y=1", "an event peer=\"x level=error y=1\" n=7\n");
    check_line(false, "x n=8", "an event peer=x n=\"8 n=7\"\n"); /* seen, and no field more */
    check_line(false, "Z\xc3\xbcrich", "an event peer=Z\xc3\xbcrich n=7\n");
}

static void test_json(void **state)
{
    check_line(
        true, "a b",
        "\"level\":\"warn\",\"role\":\"gateway\",\"event\":\"an event\",\"peer\":\"a b\",\"n\":\"7\"}\n");
    check_line(true, "x level=error", "\"peer\":\"x level=error\",\"n\":\"7\"}\n");
    check_line(true, "\"}\n", "\"peer\":\"\\\"}\\u000a\",\"n\":\"7\"}\n");
}

static void test_long(void **state)
{
    char big[3000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    check_line(true, big, "xx\",\"n\":\"7\"}\n");
    vd_log_event(NULL, VD_LOG_ERROR, "nobody listens", NULL);
}

/* Values that grow when they are escaped can fill a line: what has no room is left out, and the rest is still
 * one JSON object whose strings end. */
static void test_full_line(void **state)
{
    char value[VD_LOG_VALUE_MAX + 1], got[VD_LOG_LINE_MAX + 1];
    for (size_t n = VD_LOG_VALUE_MAX - 16; n <= VD_LOG_VALUE_MAX; n++) { /* every remainder of an escape */
        int fd[2];
        memset(value, 1, n);
        value[n] = 0;
        assert_int_equal(pipe(fd), 0);
        struct vd_log log = vd_log_init(fd[1], "gateway", VD_LOG_INFO, true);
        vd_log_event(&log, VD_LOG_WARN, "an event", "a=%s b=%s c=%d", value, value, 7);
        close(fd[1]);
        ssize_t length = read(fd[0], got, sizeof got - 1);
        close(fd[0]);
        assert_true(length > 0 && length <= VD_LOG_LINE_MAX);
        got[length] = 0;
        bool inside = false;
        for (const char *p = got; *p != '\n'; p++) {
            if (inside && *p == '\\')
                p++;
            else if (*p == '"')
                inside = !inside;
        }
        assert_false(inside);
        assert_string_equal(got + length - 3, "\"}\n");
        assert_non_null(strstr(got, "\"a\":"));
        assert_null(strstr(got, "\"b\":"));
    }
}

static void test_levels(void **state)
{
    enum vd_log_level l;
    assert_true(vd_log_level_parse(&l, "error"));
    assert_int_equal(l, VD_LOG_ERROR);
    assert_false(vd_log_level_parse(&l, "loud"));
}

static void test_clock(void **state)
{
    uint64_t a = vd_clock_ns();
    vd_clock_sleep_ms(2);
    assert_true(vd_clock_ns() - a >= 2000000);
    assert_true(vd_clock_wall_s() > 1600000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_text),   cmocka_unit_test(test_json),
                                       cmocka_unit_test(test_long),   cmocka_unit_test(test_full_line),
                                       cmocka_unit_test(test_levels), cmocka_unit_test(test_clock)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
