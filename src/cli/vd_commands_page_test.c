/* docs/guide/commands.md has every command with its usage and its options, as --help prints them, and nothing
 * else. */
#include "vd_cmd.h"
#include "vd_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *page;
static unsigned n_commands;

static void expect(const char *section, const char *text, const char *path)
{
    if (!strstr(section, text))
        fail_msg("docs/guide/commands.md: the section of %s lacks:\n%s", path, text);
}

static unsigned count(const char *text, const char *what)
{
    unsigned n = 0;
    for (const char *at = text; (at = strstr(at, what)); at += strlen(what))
        n++;
    return n;
}

/* From a heading to the next; free() it. */
static char *section_of(const char *path)
{
    char heading[128];
    snprintf(heading, sizeof heading, "# %s\n", path);
    const char *from = strstr(page, heading);
    if (!from)
        fail_msg("docs/guide/commands.md has no section of %s", path);
    const char *to = strstr(from + 1, "\n#");
    return strndup(from, to ? (size_t)(to + 1 - from) : strlen(from));
}

static void check_opts(const struct vd_cli_opt *o, const char *section, const char *path)
{
    unsigned n = 0;
    for (; o && o->name; o++, n++) {
        char line[512], letter[8] = "";
        if (o->letter)
            snprintf(letter, sizeof letter, "-%c, ", o->letter);
        snprintf(line, sizeof line, "\n- `%s--%s%s%s`: %s%s\n", letter, o->name, o->value ? " " : "",
                 o->value ? o->value : "", o->help, o->repeat ? " (may be repeated)" : "");
        expect(section, line, path);
    }
    if (count(section, "\n- `") != n)
        fail_msg("docs/guide/commands.md lists other options of %s than its %u", path, n);
}

static void check(const struct vd_cmd *const *list, const char *above)
{
    for (; *list; list++) {
        const struct vd_cmd *c = *list;
        char path[64], usage[256];
        snprintf(path, sizeof path, "%s %s", above, c->name);
        snprintf(usage, sizeof usage, "\n    %s%s%s%s\n", path, c->sub && !c->run ? " COMMAND" : "",
                 c->usage[0] ? " " : "", c->usage);
        char *section = section_of(path);
        expect(section, usage, path);
        check_opts(c->opts, section, path);
        free(section);
        n_commands++;
        if (c->sub)
            check(c->sub, path);
    }
}

static void the_page_is_the_help(void **state)
{
    size_t n;
    (void)state;
    assert_int_equal(
        vd_file_read((uint8_t **)&page, &n, VD_SOURCE_DIR "/docs/guide/commands.md", 1 << 20, NULL), VD_OK);
    check(vd_cmd_list, "veridem");
    assert_int_equal(count(page, "# veridem "), n_commands);
    free(page);
}

/* What `veridem --help` says of every command: each option's name and help, and no other. */
static void the_common_options(void **state)
{
    static char word[] = "veridem", help[] = "--help";
    char *argv[] = {word, help, NULL}, *text = NULL;
    size_t n, n_page;
    FILE *out = open_memstream(&text, &n);
    (void)state;
    assert_int_equal(vd_cli_run(vd_cmd_list, 2, argv, out, stderr), 0);
    fclose(out);
    assert_int_equal(
        vd_file_read((uint8_t **)&page, &n_page, VD_SOURCE_DIR "/docs/guide/commands.md", 1 << 20, NULL),
        VD_OK);
    const char *from = strstr(page, "## Of every command\n");
    assert_non_null(from);
    char *section = strndup(from, (size_t)(strstr(from + 1, "\n#") + 1 - from));
    char *at = strstr(text, "\nOf every command\n"), *end = strstr(text, "\nExit status");
    unsigned n_opts = 0;
    assert_true(at && end);
    *end = 0;
    while ((at = strstr(at, "--"))) {
        char *value = at + strcspn(at, " "), *says = strstr(value, "  ");
        says += strspn(says, " ");
        size_t left = (size_t)(strstr(value, "  ") - at), right = strcspn(says, "\n");
        char line[512];
        snprintf(line, sizeof line, "%.*s`: %.*s\n", (int)left, at, (int)right, says);
        expect(section, line, "every command");
        n_opts++;
        at = says + right;
    }
    assert_int_equal(count(section, "\n- `"), n_opts);
    free(section);
    free(text);
    free(page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_page_is_the_help),
                                       cmocka_unit_test(the_common_options)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
