/* The command-line reader: every way to write an option, every way to write one wrongly. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "vd_cli.h"

static struct {
    uint64_t n, temp;
    char text[64], second[64];
    int n_args;
    enum vd_err result;
    bool echo; /* the JSON answer holds the text */
} got;

static enum vd_err probe_run(struct vd_cli *cli, struct vd_error *err)
{
    enum vd_err e = vd_cli_u64(cli, "number", 2, 100, &got.n, err);
    if (e == VD_OK)
        e = vd_cli_micro(cli, "temp", 2000000, &got.temp, err);
    if (e != VD_OK)
        return e;
    snprintf(got.text, sizeof got.text, "%s", vd_cli_text(cli, "text", "none"));
    snprintf(got.second, sizeof got.second, "%s",
             vd_cli_nth(cli, "many", 1) ? vd_cli_nth(cli, "many", 1) : "");
    got.n_args = cli->n_args;
    if (got.result)
        return vd_error_set(err, got.result, "as told");
    if (cli->json && got.echo)
        vd_cli_json(cli, json_pack("{s:s}", "text", got.text));
    else if (cli->json)
        vd_cli_json(cli, json_pack("{s:i}", "args", cli->n_args));
    else
        fprintf(cli->out, "ran\n");
    return VD_OK;
}

static const struct vd_cli_opt probe_opts[] = {
    {"number", 'n', "N", "a number", false},
    {"temp", 0, "T", "a decimal", false},
    {"text", 't', "TEXT", "a text", false},
    {"many", 0, "X", "again and again", true},
    {0},
};
static const struct vd_cmd probe = {
    .name = "probe",
    .group = "G",
    .usage = "A [B]",
    .summary = "probes",
    .help = "Long.",
    .opts = probe_opts,
    .min_args = 1,
    .max_args = 2,
    .run = probe_run,
};
static const struct vd_cmd *const probe_sub[] = {&probe, NULL};
static const struct vd_cmd outer = {.name = "outer", .usage = "", .summary = "holds", .sub = probe_sub};
static const struct vd_cmd both = {.name = "both",
                                   .usage = "[A]",
                                   .summary = "runs and holds",
                                   .opts = probe_opts,
                                   .max_args = 1,
                                   .run = probe_run,
                                   .sub = probe_sub};
static const struct vd_cmd *const list[] = {&outer, &probe, &both, NULL};

static char out_text[8192], err_text[4096];

static int run(const char *line)
{
    char copy[256], *argv[32], *save = NULL;
    int argc = 0;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save))
        argv[argc++] = w;
    argv[argc] = NULL;
    memset(out_text, 0, sizeof out_text);
    memset(err_text, 0, sizeof err_text);
    memset(&got.text, 0, sizeof got.text);
    got.n = 7, got.temp = 1, got.n_args = -1;
    FILE *out = fmemopen(out_text, sizeof out_text - 1, "w"),
         *errors = fmemopen(err_text, sizeof err_text - 1, "w");
    int status = vd_cli_run(list, argc, argv, out, errors);
    fclose(out);
    fclose(errors);
    return status;
}

static void options_in_every_form(void **state)
{
    assert_int_equal(run("veridem probe a"), 0);
    assert_int_equal(got.n, 7);
    assert_string_equal(got.text, "none");
    assert_string_equal(out_text, "ran\n");
    assert_int_equal(run("veridem probe --number 9 a --text=x=y b --temp 0.25"), 0);
    assert_int_equal(got.n, 9);
    assert_int_equal(got.temp, 250000);
    assert_int_equal(got.n_args, 2);
    assert_string_equal(got.text, "x=y");
    assert_int_equal(run("veridem outer probe -n12 -t - a"), 0);
    assert_int_equal(got.n, 12);
    assert_string_equal(got.text, "-");
    assert_int_equal(run("veridem probe --many 1 --many 2 -- -n"), 0);
    assert_string_equal(got.second, "2");
    assert_int_equal(got.n, 7);
}

static void a_command_may_hold_and_run(void **state)
{
    assert_int_equal(run("veridem both"), 0);
    assert_int_equal(got.n_args, 0);
    assert_int_equal(run("veridem both x -n 5"), 0);
    assert_int_equal(got.n_args, 1);
    assert_int_equal(run("veridem both probe x y"), 0);
    assert_int_equal(got.n_args, 2);
    assert_int_equal(run("veridem both x probe"), 2);
}

static void wrong_use_is_2_and_named(void **state)
{
    static const char *const lines[][2] = {
        {"veridem nothing", "nothing"},
        {"veridem outer", "which command"},
        {"veridem outer nothing", "outer --help"},
        {"veridem probe", "missing"},
        {"veridem probe a b c", "unexpected argument c"},
        {"veridem probe a --wrong", "--wrong"},
        {"veridem probe a -x", "-x"},
        {"veridem probe a --number", "needs a value"},
        {"veridem probe a -n 4 -n 5", "twice"},
        {"veridem probe a --json=1", "no value"},
        {"veridem probe a -n 1", "from 2 to 100"},
        {"veridem probe a -n 101", "101"},
        {"veridem probe a -n 5x", "5x"},
        {"veridem probe a -n -5", "-5"},
        {"veridem probe a -n 18446744073709551617", "18446744073709551617"},
        {"veridem probe a --temp 2.000001", "2.000001"},
        {"veridem probe a --temp 0.1234567", "to 2 with at most 6 decimals"},
        {"veridem probe a --temp .", "--temp"},
        {"veridem probe a --temp 1e3", "1e3"},
        {"veridem probe a --temp=", "--temp"},
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        if (run(lines[i][0]) != 2 || !strstr(err_text, lines[i][1]))
            fail_msg("%s: %s", lines[i][0], err_text);
        assert_int_equal(got.n_args, -1);
        assert_string_equal(out_text, "");
    }
}

static void decimals_are_exact(void **state)
{
    static const struct {
        const char *text;
        uint64_t micro;
    } v[] = {{"0", 0},        {"1", 1000000},  {".5", 500000}, {"1.", 1000000},
             {"0.7", 700000}, {"0.000001", 1}, {"2", 2000000}};
    for (size_t i = 0; i < sizeof v / sizeof v[0]; i++) {
        uint64_t got_micro = 99;
        assert_int_equal(vd_cli_parse_micro("x", v[i].text, 2000000, &got_micro, NULL), VD_OK);
        assert_int_equal(got_micro, v[i].micro);
    }
    uint64_t big;
    assert_int_equal(vd_cli_parse_micro("x", "18446744073709.551615", UINT64_MAX, &big, NULL), VD_OK);
    assert_int_equal(big, UINT64_MAX);
    assert_int_equal(vd_cli_parse_micro("x", "18446744073709.551616", UINT64_MAX, &big, NULL), VD_EUSE);
    assert_int_equal(vd_cli_parse_micro("x", "99999999999999999999999", UINT64_MAX, &big, NULL), VD_EUSE);
}

static void help_on_every_level(void **state)
{
    assert_int_equal(run("veridem --help"), 0);
    assert_non_null(strstr(out_text, "probes"));
    assert_non_null(strstr(out_text, "Exit status"));
    assert_int_equal(run("veridem"), 0);
    assert_int_equal(run("veridem outer -h"), 0);
    assert_non_null(strstr(out_text, "veridem outer COMMAND"));
    assert_int_equal(run("veridem outer probe --help"), 0);
    assert_non_null(strstr(out_text, "-n, --number N"));
    assert_int_equal(got.n_args, -1);
    assert_int_equal(run("veridem --version"), 0);
}

static void json_is_one_value_also_on_failure(void **state)
{
    assert_int_equal(run("veridem --json probe a b"), 0);
    assert_string_equal(out_text, "{\"args\":2}\n");
    got.result = VD_EFALSE;
    assert_int_equal(run("veridem probe a --json"), 1);
    assert_string_equal(out_text, "{\"error\":{\"code\":\"VD_EFALSE\",\"message\":\"as told\"}}\n");
    assert_string_equal(err_text, "veridem probe: as told\n");
    got.result = VD_EIO;
    assert_int_equal(run("veridem probe a"), 3);
    assert_string_equal(out_text, "");
    got.result = VD_OK;
}

/* File names and what stands in files need not be UTF-8. */
static void json_of_what_is_not_utf8(void **state)
{
    assert_int_equal(run("veridem --json probe a --number \xff"
                         "5"),
                     2);
    assert_non_null(strstr(out_text, "--number is \\uFFFD5, but"));
    got.echo = true;
    assert_int_equal(run("veridem --json probe a --text M\xc3\xbcll"), 0);
    assert_string_equal(out_text, "{\"text\":\"M\\u00FCll\"}\n");
    assert_int_equal(run("veridem --json probe a --text M\xfcll"), 3);
    assert_non_null(strstr(out_text, "\"VD_EFORMAT\""));
    assert_non_null(strstr(err_text, "UTF-8"));
    got.echo = false;
}

static void credits_read_well(void **state)
{
    char b[VD_CLI_CREDITS_MAX];
    assert_string_equal(vd_cli_credits(b, 0), "0");
    assert_string_equal(vd_cli_credits(b, 10000000), "10");
    assert_string_equal(vd_cli_credits(b, 12500000), "12.5");
    assert_string_equal(vd_cli_credits(b, 1), "0.000001");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_in_every_form),      cmocka_unit_test(wrong_use_is_2_and_named),
        cmocka_unit_test(a_command_may_hold_and_run), cmocka_unit_test(decimals_are_exact),
        cmocka_unit_test(help_on_every_level),        cmocka_unit_test(json_is_one_value_also_on_failure),
        cmocka_unit_test(json_of_what_is_not_utf8),   cmocka_unit_test(credits_read_well),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
