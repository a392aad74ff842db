#include "vd_file.h"
#include "vd_template.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

enum { OUT_MAX = 1 << 16 };

static enum vd_err render(const char *text, size_t n, const struct vd_template_options *limits,
                          char out[OUT_MAX], size_t *n_out, struct vd_error *err)
{
    const struct vd_value none = vd_value_map(NULL, 0);
    struct vd_template *t;
    char *exact = malloc(n ? n : 1); /* so that a sanitizer sees a read past the end */
    memcpy(exact, text, n);
    enum vd_err e = vd_template_parse(&t, exact, n, err);
    free(exact);
    *n_out = 0;
    if (e)
        return e;
    e = vd_template_run(t, &none, limits, out, OUT_MAX, n_out, err);
    vd_template_free(t);
    return e;
}

/* Every record of the file: equal to jinja2's output, or refused where jinja2 refuses. */
static void test_jinja_vectors(void **state)
{
    (void)state;
    uint8_t *file;
    size_t n_file, records = 0;
    struct vd_error err = {0};
    static char out[OUT_MAX];
    const struct vd_template_options options = {.has_now = true, .now_s = 1753000000};
    assert_int_equal(
        vd_file_read(&file, &n_file, VD_SOURCE_DIR "/tests/data/template-vectors.txt", 1 << 20, &err), VD_OK);
    for (const char *p = (const char *)file; *p; records++) {
        char *end;
        size_t n_text = strtoul(p, &end, 10), n_out;
        long n_want = strtol(end, &end, 10);
        const char *text = end + 1, *want = text + n_text;
        enum vd_err e = render(text, n_text, &options, out, &n_out, &err);
        if (n_want < 0 && !e)
            fail_msg("\"%.*s\" gives \"%.*s\"; jinja2 refuses it", (int)n_text, text, (int)n_out, out);
        if (n_want >= 0 && e)
            fail_msg("\"%.*s\": %s", (int)n_text, text, err.msg);
        if (n_want >= 0 && (n_out != (size_t)n_want || memcmp(out, want, n_out) != 0))
            fail_msg("\"%.*s\" gives \"%.*s\", jinja2 \"%.*s\"", (int)n_text, text, (int)n_out, out,
                     (int)n_want, want);
        p = want + (n_want > 0 ? n_want : 0) + 1;
    }
    assert_true(records > 280);
    free(file);
}

static void test_chat(void **state)
{
    (void)state;
    static const char text[] =
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ "
        "'<|im_start|>system\nYou "
        "are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif "
        "%}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor "
        "%}{% if "
        "add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    struct vd_value pairs[2][4];
    const struct vd_value m[] = {vd_chat_plain(pairs[0], vd_str_of("user"), vd_str_of("{{ 1 }} Hi")),
                                 vd_chat_plain(pairs[1], vd_str_of("assistant"), vd_str_of("Yes."))};
    struct vd_chat chat = {.messages = vd_value_list(m, 1), .add_generation_prompt = true};
    char out[1000];
    size_t n;
    struct vd_error err = {0};
    assert_int_equal(vd_template_render(text, sizeof text - 1, &chat, out, sizeof out, &n, &err), VD_OK);
    out[n] = 0;
    assert_string_equal(out,
                        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
                        "Face<|im_end|>\n<|im_start|>user\n{{ 1 }} Hi<|im_end|>\n<|im_start|>assistant\n");
    chat = (struct vd_chat){.messages = vd_value_list(m, 2), .bos = vd_str_of("<s>")};
    assert_int_equal(
        vd_template_render(
            "{{ bos_token }}{{ messages|length }}{{ eos_token }}{{ messages[1].content }}",
            strlen("{{ bos_token }}{{ messages|length }}{{ eos_token }}{{ messages[1].content }}"), &chat,
            out, sizeof out, &n, &err),
        VD_OK);
    assert_int_equal(n, 8);
    assert_memory_equal(out, "<s>2Yes.", 8);
    chat.messages.list.n = 0;
    assert_int_equal(vd_template_render("{{ messages[0].role }}", strlen("{{ messages[0].role }}"), &chat,
                                        out, sizeof out, &n, &err),
                     VD_EFORMAT);
    assert_string_equal(err.msg, "chat template, line 1: the item is undefined");
}

static void test_errors_say_what(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum vd_err code;
        const char *message;
    } cases[] = {
        {"a\n\n{{ x.y }}", VD_EFORMAT, "chat template, line 3: x is undefined"},
        {"\n{% if a %}", VD_EFORMAT,
         "chat template, line 2: the end of the template is not expected; elif is"},
        {"{{ raise_exception('Roles must\nalternate') }}", VD_EUSE,
         "chat template, line 1: Roles must\nalternate"},
        {"{% include 'x' %}", VD_EUNSUPPORTED,
         "chat template, line 1: the statement include is not supported here"},
        {"{% for x in range(3) %}{{ loop(x) }}{% endfor %}", VD_EFORMAT,
         "chat template, line 1: only a recursive loop can be called"},
        {"{{ 2 ** 64 }}", VD_EUNSUPPORTED, "chat template, line 1: an integer is beyond 64 bits"},
        {"{{ '%z' % 1 }}", VD_EUNSUPPORTED, "chat template, line 1: the conversion %z is not supported"},
        {"{{ 'a' | nope }}", VD_EUNSUPPORTED, "chat template, line 1: the filter nope is not supported"},
        {"{{ nope() }}", VD_EUNSUPPORTED, "chat template, line 1: the function nope is not supported"},
        {"{{ 9223372036854775807 + 1 }}", VD_EUNSUPPORTED,
         "chat template, line 1: an integer is beyond 64 bits"},
        {"{{ '\\ud800' }}", VD_EFORMAT,
         "chat template, line 1: a string has an escape that is not understood"},
        {"{{ 1 }", VD_EFORMAT, "chat template, line 1: a } has no partner"},
        {"{{", VD_EFORMAT, "chat template, line 1: the template ends inside a tag"},
    };
    static char out[OUT_MAX];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct vd_error err = {0};
        size_t n;
        enum vd_err e = render(cases[i].text, strlen(cases[i].text), NULL, out, &n, &err);
        if (e != cases[i].code || strncmp(err.msg, cases[i].message, strlen(cases[i].message)) != 0)
            fail_msg("%s: %s \"%s\"", cases[i].text, vd_err_name(e), err.msg);
        assert_int_equal(n, 0);
    }
}

static char *repeat(const char *a, size_t n, const char *middle, const char *b)
{
    char *s = malloc(n * (strlen(a) + strlen(b)) + strlen(middle) + 9), *p = s;
    p = stpcpy(p, "{{ ");
    for (size_t i = 0; i < n; i++)
        p = stpcpy(p, a);
    p = stpcpy(p, middle);
    for (size_t i = 0; i < n; i++)
        p = stpcpy(p, b);
    stpcpy(p, " }}");
    return s;
}

/* A hostile template ends by a limit, soon, and without a deep stack. */
static void test_limits(void **state)
{
    (void)state;
    static char out[OUT_MAX];
    static const char *const hostile[] = {
        "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% endfor %}{% "
        "endfor %}{% endfor %}",
        "{% for a in range(1000000000) %}{% endfor %}",
        "{{ 'a' * 1000000000000 }}",
        "{{ [1] * 9000000000000000000 }}",
        "{{ ('ab' * 70000) }}",
        "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x "
        "}}",
        "{% set ns = namespace(x=[], y=[]) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}{% set ns.y = "
        "[ns.y] "
        "%}{% endfor %}{{ ns.x == ns.y }}",
        "{% for i in range(100000) %}{{ 'abcdefghijklmnopqrstuvwxyz' }}{% endfor %}",
        "{{ range(1000000) | list | join('x') | length }}{{ ('x' * 30000000)[::-1] | length }}",
        "{% set s = ' ' * 20000000 %}{% for i in range(1000000) %}{{ s.strip() }}{% endfor %}",
        "{% set s = 'a' * 20000000 %}{% set t = 'b' * 999999 ~ 'a' %}{{ s.strip(t) }}",
        "{% set s = 'x' * 20000000 %}{% for i in range(1000000) %}{{ s[99999999] }}{% endfor %}",
        "{% set s = 'x' * 20000000 %}{% set t = 'y' * 9999999 %}{% for i in range(1000000) %}{% set p = "
        "s.split(t) "
        "%}{% endfor %}",
        "{% set s = 'x' * 20000000 %}{% for i in range(1000000) %}{{ s.startswith(s) }}{% endfor %}",
        "{% set s = '0' * 20000000 %}{% for i in range(1000000) %}{{ s | int }}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}{% set ns = namespace(x='ab') %}{% for i in range(99) "
        "%}{% set "
        "ns.x = f(ns.x) %}{% endfor %}",
        "{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{{ caller() }}{% endmacro %}{{ f() }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{{ 'x'.ljust(9000000000000000000) }}",
        "{{ 'x' | center(99999999) | length }}{{ 'x'.center(99999999) | length }}",
        "{{ ('%(a)300d' * 999999) % {'a': 1} }}",
        "{{ (range(200000) | list | sort(reverse=true) | unique | list) | length }}",
        "{{ range(3000000) | map('string') | list | length }}",
        "{% set s = '\u00e9' * 3000000 %}{{ s.upper() | length }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set s = 'a' * 9999999 %}{% for i in range(100000) %}{{ s.rfind('b') }}{% endfor %}",
        "{% set s = ('a\n' * 4000000) %}{% for i in range(100000) %}{% set l = s.splitlines() %}{% endfor %}",
        "{% set k = 'k' * 9999999 %}{% set m = {k: 1} %}{% for i in range(1000000) %}{{ m[k] }}{% endfor %}",
    };
    struct vd_error err = {0};
    size_t n;
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++)
        if (render(hostile[i], strlen(hostile[i]), NULL, out, &n, &err) != VD_ELIMIT)
            fail_msg("%s: %s", hostile[i], err.msg);
    char *deep[] = {repeat("(", 20000, "1", ")"),          repeat("[", 50, "1", "]"),
                    repeat("1+", 20000, "1", ""),          repeat("not ", 20000, "1", ""),
                    repeat("-", 20000, "1", ""),           repeat("", 20000, "x", ".y"),
                    repeat("", 20000, "x", "|d"),          repeat("{'a':", 20000, "1", "}"),
                    repeat("1 if 0 else ", 20000, "1", "")};
    const enum vd_err want[] = {VD_ELIMIT, VD_OK,     VD_ELIMIT, VD_ELIMIT, VD_ELIMIT,
                                VD_ELIMIT, VD_ELIMIT, VD_ELIMIT, VD_ELIMIT};
    for (size_t i = 0; i < sizeof deep / sizeof deep[0]; i++) {
        enum vd_err e = render(deep[i], strlen(deep[i]), NULL, out, &n, &err);
        if (e != want[i])
            fail_msg("%.40s...: %s %s", deep[i], vd_err_name(e), err.msg);
        free(deep[i]);
    }
    const struct vd_template_options tight = {.memory_bytes = 1000, .steps = 20};
    assert_int_equal(
        render("{{ 1 }}{{ 'a' + 'b' }}", strlen("{{ 1 }}{{ 'a' + 'b' }}"), &tight, out, &n, &err), VD_OK);
    assert_int_equal(render("{{ 'a' * 2000 }}", strlen("{{ 'a' * 2000 }}"), &tight, out, &n, &err),
                     VD_ELIMIT);
    assert_int_equal(render("{% for i in [1,2,3,4,5,6,7,8] %}{{ i }}{% endfor %}",
                            strlen("{% for i in [1,2,3,4,5,6,7,8] %}{{ i }}{% endfor %}"), &tight, out, &n,
                            &err),
                     VD_ELIMIT);
}

/* What only a hostile template does: bytes that are no UTF-8, and numbers at the ends of 64 bits. */
static void test_hostile(void **state)
{
    static const char least[] = "{% set n = -9223372036854775807 - 1 %}";
    static const struct {
        const char *text;
        enum vd_err e;
    } cases[] = {
        {"{{ range(n, 9223372036854775807, 4611686018427387904) | length }}", VD_OK},
        {"{{ (range(n, 9223372036854775807, 4611686018427387904) | list)[3] }}", VD_OK},
        {"{{ 'abc'.center(n) }}{{ 'abc'.ljust(n) }}{{ 'abc'.zfill(n) }}", VD_OK},
        {"{{ '+5'.zfill(n) }}{{ '-5'.zfill(n + 1) }}end", VD_OK},
        {"{{ n | abs }}", VD_EUNSUPPORTED},
    };
    static const char *const gives[] = {"4", "4611686018427387904", "abcabcabc", "+5-5end", ""};
    static char out[OUT_MAX];
    char text[300];
    struct vd_error err = {0};
    size_t n_out;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int n = snprintf(text, sizeof text, "%s%s", least, cases[i].text);
        assert_int_equal(render(text, (size_t)n, NULL, out, &n_out, &err), cases[i].e);
        assert_int_equal(n_out, strlen(gives[i]));
        assert_memory_equal(out, gives[i], n_out);
    }
    const struct vd_template_options small = {.memory_bytes = 250}, enough = {.memory_bytes = 400};
    size_t n = (size_t)sprintf(text, "{{ '");
    memset(text + n, 0xFF, 100); /* each becomes U+FFFD, of three bytes */
    n += 100 + (size_t)sprintf(text + n + 100, "' | upper }}");
    assert_int_equal(render(text, n, &small, out, &n_out, &err), VD_ELIMIT);
    assert_int_equal(render(text, n, &enough, out, &n_out, &err), VD_OK);
    assert_int_equal(n_out, 300);
}

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(test_jinja_vectors),   cmocka_unit_test(test_chat),
        cmocka_unit_test(test_errors_say_what), cmocka_unit_test(test_limits),
        cmocka_unit_test(test_hostile),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
