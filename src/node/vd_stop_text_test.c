/* Stop strings over every way to cut a text into pieces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "vd_stop_text.h"

/* Shows the text as it grows by pieces of `size`; what is visible at the end goes to out. */
static void feed(const struct vd_stop_text *s, const char *text, size_t size, char *out)
{
    size_t n = 0, at = 0, shown = 0;
    bool stopped = false;
    for (size_t end = strlen(text); n < end && !stopped;) {
        size_t from = n;
        n = n + size < end ? n + size : end;
        stopped = vd_stop_text_find(s, text, n, from, &at);
        size_t visible = stopped ? at : n - vd_stop_text_held(s, text, n);
        assert_true(visible >= shown); /* nothing is taken back */
        shown = visible;
    }
    shown = stopped ? shown : n;
    memcpy(out, text, shown);
    out[shown] = 0;
}

static void test_every_cut(void **state)
{
    const struct vd_stop_text s = {3, {{"END", 3}, {"\n\n", 2}, {"ENEMY", 5}}};
    static const char *const text[][2] = {{"one END two", "one "}, {"E EN ENE END", "E EN ENE "},
                                          {"a\nb\n\nc", "a\nb"},   {"no stop, EN", "no stop, EN"},
                                          {"an ENEMY END", "an "}, {"END", ""},
                                          {"ENEMEND\n\n", "ENEM"}, {"", ""}};
    char out[64];
    (void)state;
    for (size_t i = 0; i < sizeof text / sizeof text[0]; i++)
        for (size_t size = 1; size < 14; size++) {
            feed(&s, text[i][0], size, out);
            assert_string_equal(out, text[i][1]);
        }
}

static void test_none(void **state)
{
    const struct vd_stop_text s = {0};
    char out[64];
    (void)state;
    feed(&s, "anything", 3, out);
    assert_string_equal(out, "anything");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_cut),
        cmocka_unit_test(test_none),
    };
    return cmocka_run_group_tests_name("stop_text", tests, NULL, NULL);
}
