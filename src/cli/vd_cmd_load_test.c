/* Which model a name or a root is, and what happens where none is. */
#include <fenv.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "vd_cmd_load.h"

static const struct vd_cli_opt opts[] = {VD_CMD_OPTS_COMPUTE, {0}};
static const struct vd_cmd cmd = {.name = "probe", .usage = "", .summary = "probes", .opts = opts};
static char home[] = "/tmp/vd_cmd_load_testXXXXXX", models[64], damaged[80];
static struct vd_error err;

static int set_up(void **state)
{
    if (!mkdtemp(home) || setenv("VERIDEM_HOME", home, 1) != 0 || setenv("HOME", home, 1) != 0)
        return -1;
    snprintf(models, sizeof models, "%s/models", home);
    snprintf(damaged, sizeof damaged, "%s/damaged.gguf", models);
    FILE *f = mkdir(models, 0700) == 0 ? fopen(damaged, "w") : NULL;
    return f && fputs("no model", f) >= 0 && fclose(f) == 0 ? 0 : -1;
}

static int tear_down(void **state)
{
    unlink(damaged);
    rmdir(models);
    return rmdir(home);
}

static enum vd_err of_root(const char *option, const char *value)
{
    static const struct vd_hash root = {{7}};
    struct vd_cli cli = {.cmd = &cmd};
    char path[VD_PATH_MAX];
    for (size_t i = 0; option && opts[i].name; i++)
        if (strcmp(opts[i].name, option) == 0) {
            cli.given[0].opt = &opts[i];
            cli.given[0].value = value;
            cli.n_given = 1;
        }
    return vd_cmd_model_of_root(&cli, &root, path, &err);
}

static void a_root_that_no_file_has(void **state)
{
    assert_int_equal(of_root(NULL, NULL), VD_ENOTFOUND);
    assert_non_null(strstr(err.msg, "none of the 1 files"));
}

/* It is not the files' fault. */
static void wrong_options_are_named(void **state)
{
    assert_int_equal(of_root("kernel", "nonsense"), VD_EUSE);
    assert_non_null(strstr(err.msg, "nonsense"));
    assert_int_equal(of_root("threads", "0"), VD_EUSE);
    assert_non_null(strstr(err.msg, "--threads"));
}

static void names(void **state)
{
    char path[VD_PATH_MAX];
    assert_int_equal(vd_cmd_model_path(path, "DAM", &err), VD_OK);
    assert_string_equal(path, damaged);
    assert_int_equal(vd_cmd_model_path(path, "other", &err), VD_ENOTFOUND);
    assert_non_null(strstr(err.msg, "damaged.gguf"));
}

/* Names are cut between two of them, not within one. */
static void many_names(void **state)
{
    char path[VD_PATH_MAX], file[32][sizeof models + 32];
    for (int i = 0; i < 32; i++) {
        snprintf(file[i], sizeof file[i], "%s/many-%02d.gguf", models, i);
        FILE *f = fopen(file[i], "w");
        assert_true(f && fclose(f) == 0);
    }
    assert_int_equal(vd_cmd_model_path(path, "other", &err), VD_ENOTFOUND);
    assert_non_null(strstr(err.msg, "damaged.gguf, many-00.gguf, "));
    assert_non_null(strstr(err.msg, ".gguf, ...; `veridem model fetch` gets one"));
    assert_int_equal(vd_cmd_model_path(path, "many", &err), VD_EUSE);
    assert_non_null(strstr(err.msg, "fits 32 models"));
    assert_non_null(strstr(err.msg, ".gguf, ..."));
    for (int i = 0; i < 32; i++)
        unlink(file[i]);
}

/* Nothing starts that computes differently: kernels are checked before a model is looked for. */
static void kernels_are_checked_at_every_start(void **state)
{
    struct vd_cli cli = {.cmd = &cmd};
    struct vd_cmd_engine g;
    assert_int_equal(vd_cmd_engine_open(&g, &cli, "no such model", &err), VD_ENOTFOUND);
    assert_int_equal(fesetround(FE_UPWARD), 0);
    enum vd_err e = vd_cmd_engine_open(&g, &cli, "no such model", &err);
    fesetround(FE_TONEAREST);
    assert_int_equal(e, VD_EINTERNAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kernels_are_checked_at_every_start),
        cmocka_unit_test(a_root_that_no_file_has),
        cmocka_unit_test(wrong_options_are_named),
        cmocka_unit_test(names),
        cmocka_unit_test(many_names),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
