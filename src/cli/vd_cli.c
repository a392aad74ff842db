/* One table-driven reader for all commands, so that --help, --json, limits and messages are the same
 * everywhere and a command's file holds only what is its own. getopt_long is not used: it keeps its state in
 * globals, permutes argv, and cannot tell which subcommand an option belongs to. */
#include "vd_cli.h"

#include "vd_bytes.h"
#include "vd_file.h"
#include "vd_key.h"
#include "vd_unicode.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct vd_cli_opt vd_cli_common[] = {
    {"help", 'h', NULL, "this text", false},
    {"json", 0, NULL, "answer as one JSON value on stdout", false},
    {"home", 0, "DIR", "state folder instead of $VERIDEM_HOME (default ~/.veridem)", false},
    {0},
};

/* ---- Help ---- */

static void vd_cli_print_opt(FILE *out, const struct vd_cli_opt *o)
{
    char left[64];
    int n = o->letter ? snprintf(left, sizeof left, "-%c, --%s", o->letter, o->name)
                      : snprintf(left, sizeof left, "    --%s", o->name);
    if (o->value)
        snprintf(left + n, sizeof left - (size_t)n, " %s", o->value);
    fprintf(out, "  %-26s %s%s\n", left, o->help, o->repeat ? " (may be repeated)" : "");
}

static void vd_cli_print_commands(FILE *out, const struct vd_cmd *const *list)
{
    const char *group = NULL;
    for (; *list; list++) {
        if ((*list)->group && (!group || strcmp(group, (*list)->group) != 0))
            fprintf(out, "\n%s\n", group = (*list)->group);
        fprintf(out, "  %-12s %s\n", (*list)->name, (*list)->summary);
    }
}

static void vd_cli_help_top(FILE *out, const struct vd_cmd *const *list)
{
    fprintf(out,
            "veridem %s: AI compute that can be checked\n\nusage: veridem COMMAND [OPTIONS] [ARGUMENTS]\n",
            VD_VERSION);
    vd_cli_print_commands(out, list);
    fprintf(out, "\nOf every command\n");
    for (const struct vd_cli_opt *o = vd_cli_common; o->name; o++)
        vd_cli_print_opt(out, o);
    fprintf(out,
            "\nExit status\n"
            "  0  done\n"
            "  1  what was checked is false (a bad receipt, a mismatch)\n"
            "  2  wrong use\n"
            "  3  the environment: a file, the network, the disk\n"
            "  70 a defect of veridem; please report it\n"
            "\nEnvironment\n"
            "  VERIDEM_HOME  state: keys, models, ledger (default ~/.veridem)\n"
            "\n`veridem COMMAND --help` says more about each, and `veridem --version` which one this is.\n");
}

static void vd_cli_help_cmd(FILE *out, const struct vd_cli *cli)
{
    const struct vd_cmd *c = cli->cmd;
    fprintf(out, "%s: %s\n\nusage: %s%s%s%s\n", cli->path, c->summary, cli->path,
            c->sub && !c->run ? " COMMAND" : "", c->usage[0] ? " " : "", c->usage);
    if (c->help)
        fprintf(out, "\n%s\n", c->help);
    if (c->sub) {
        fprintf(out, "\nCommands\n");
        vd_cli_print_commands(out, c->sub);
    }
    fprintf(out, "\nOptions\n");
    for (const struct vd_cli_opt *o = c->opts; o && o->name; o++)
        vd_cli_print_opt(out, o);
    for (const struct vd_cli_opt *o = vd_cli_common; o->name; o++)
        vd_cli_print_opt(out, o);
}

/* ---- Reading ---- */

static const struct vd_cli_opt *vd_cli_find_opt(const struct vd_cmd *cmd, const char *name, size_t n,
                                                char letter)
{
    const struct vd_cli_opt *tables[] = {cmd ? cmd->opts : NULL, vd_cli_common};
    for (size_t i = 0; i < 2; i++)
        for (const struct vd_cli_opt *o = tables[i]; o && o->name; o++)
            if (name ? strlen(o->name) == n && memcmp(o->name, name, n) == 0
                     : o->letter && o->letter == letter)
                return o;
    return NULL;
}

/* Reads the option at argv[*i], and its value, which may be the next word. */
static enum vd_err vd_cli_take_opt(struct vd_cli *cli, int argc, char **argv, int *i, struct vd_error *err)
{
    const char *word = argv[*i], *value = NULL;
    const struct vd_cli_opt *o;
    if (word[1] == '-') {
        const char *eq = strchr(word, '=');
        o = vd_cli_find_opt(cli->cmd, word + 2, eq ? (size_t)(eq - word - 2) : strlen(word + 2), 0);
        value = eq ? eq + 1 : NULL;
    } else {
        o = vd_cli_find_opt(cli->cmd, NULL, 0, word[1]);
        value = word[2] ? word + 2 : NULL;
    }
    if (!o)
        return vd_error_set(err, VD_EUSE, "unknown option %s; see `%s --help`", word, cli->path);
    if (!o->value && value)
        return vd_error_set(err, VD_EUSE, "--%s takes no value, but %s gives one", o->name, word);
    if (o->value && !value) {
        if (*i + 1 >= argc)
            return vd_error_set(err, VD_EUSE, "--%s needs a value (%s)", o->name, o->value);
        value = argv[++*i];
    }
    for (int k = 0; k < cli->n_given; k++)
        if (cli->given[k].opt == o && !o->repeat)
            return vd_error_set(err, VD_EUSE, "--%s is given twice", o->name);
    if (cli->n_given == VD_CLI_ARGS_MAX)
        return vd_error_set(err, VD_EUSE, "more than %d options", VD_CLI_ARGS_MAX);
    cli->given[cli->n_given].opt = o;
    cli->given[cli->n_given++].value = value;
    return VD_OK;
}

static const struct vd_cmd *vd_cli_find_cmd(const struct vd_cmd *const *list, const char *name)
{
    for (; *list; list++)
        if (strcmp((*list)->name, name) == 0)
            return *list;
    return NULL;
}

static enum vd_err vd_cli_read(struct vd_cli *cli, const struct vd_cmd *const *list, int argc, char **argv,
                               struct vd_error *err)
{
    bool only_args = false;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (!only_args && strcmp(word, "--") == 0) {
            only_args = true;
        } else if (!only_args && word[0] == '-' && word[1]) {
            if (vd_cli_take_opt(cli, argc, argv, &i, err) != VD_OK)
                return err->code;
        } else if (!cli->cmd || (cli->cmd->sub && cli->n_args == 0)) {
            const struct vd_cmd *c = vd_cli_find_cmd(cli->cmd ? cli->cmd->sub : list, word);
            if (!c && cli->cmd && cli->cmd->run) {
                cli->arg[cli->n_args++] = word;
                continue;
            }
            if (!c)
                return vd_error_set(err, VD_EUSE, "no command %s; `%s --help` lists them", word, cli->path);
            cli->cmd = c;
            size_t n = strlen(cli->path);
            snprintf(cli->path + n, sizeof cli->path - n, " %s", c->name);
        } else if (cli->n_args == VD_CLI_ARGS_MAX) {
            return vd_error_set(err, VD_EUSE, "more than %d arguments", VD_CLI_ARGS_MAX);
        } else {
            cli->arg[cli->n_args++] = word;
        }
    }
    return VD_OK;
}

static enum vd_err vd_cli_check_args(const struct vd_cli *cli, struct vd_error *err)
{
    const struct vd_cmd *c = cli->cmd;
    if (!c || !c->run)
        return vd_error_set(err, VD_EUSE, "say which command; `%s --help` lists them", cli->path);
    if (cli->n_args < c->min_args)
        return vd_error_set(err, VD_EUSE, "an argument is missing; usage: %s %s", cli->path, c->usage);
    if (c->max_args >= 0 && cli->n_args > c->max_args)
        return vd_error_set(err, VD_EUSE, "unexpected argument %s; usage: %s %s", cli->arg[c->max_args],
                            cli->path, c->usage);
    return VD_OK;
}

/* --home: everything below reads the home folder from the environment, which is set before any thread runs.
 */
static enum vd_err vd_cli_set_home(const struct vd_cli *cli, struct vd_error *err)
{
    const char *home = vd_cli_text(cli, "home", NULL);
    char cwd[VD_PATH_MAX], full[2 * VD_PATH_MAX];
    if (!home)
        return VD_OK;
    if (home[0] == '/')
        snprintf(full, sizeof full, "%s", home);
    else if (getcwd(cwd, sizeof cwd))
        snprintf(full, sizeof full, "%s/%s", cwd, home);
    else
        return vd_error_set(err, VD_EIO, "the current folder: %s", strerror(errno));
    if (!home[0] || setenv("VERIDEM_HOME", full, 1) != 0)
        return vd_error_set(err, VD_EUSE, "--home is empty");
    return VD_OK;
}

/* ---- Running ---- */

static void vd_cli_print_json(FILE *out, const json_t *value)
{
    json_dumpf(value, out, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_ENCODE_ANY);
    fputc('\n', out);
}

/* A message may quote a file's name or content, or be cut inside a character: what is not UTF-8 becomes
 * U+FFFD. */
static void vd_cli_print_json_error(FILE *out, enum vd_err e, const char *msg)
{
    char text[3 * VD_ERROR_MSG_MAX];
    size_t left = strlen(msg), n = 0;
    while (left > 0) {
        int len = vd_utf8_check((const uint8_t *)msg, left);
        size_t used = len > 0 ? (size_t)len : len < 0 ? (size_t)-len : left;
        memcpy(text + n, len > 0 ? msg : "\xEF\xBF\xBD", len > 0 ? used : 3);
        n += len > 0 ? used : 3;
        msg += used;
        left -= used;
    }
    json_t *v = json_pack("{s:{s:s,s:s%}}", "error", "code", vd_err_name(e), "message", text, n);
    vd_cli_print_json(out, v);
    json_decref(v);
}

static int vd_cli_finish(struct vd_cli *cli, enum vd_err e, struct vd_error *err, FILE *errors)
{
    if (cli->no_result && e == VD_OK)
        e = vd_error_set(
            err, VD_EFORMAT,
            "the answer holds a text that is not UTF-8, which JSON needs; without --json it comes");
    if (cli->result) {
        vd_cli_print_json(cli->out, cli->result);
        json_decref(cli->result);
    } else if (e != VD_OK && cli->json) {
        vd_cli_print_json_error(cli->out, e, err->msg);
    }
    if (e != VD_OK)
        fprintf(errors, "%s: %s\n", cli->path, err->msg[0] ? err->msg : vd_err_text(e));
    if ((fflush(cli->out) != 0 || ferror(cli->out)) && e == VD_OK) {
        fprintf(errors, "%s: writing the answer: %s\n", cli->path, strerror(errno));
        e = VD_EIO;
    }
    return vd_err_exit_status(e);
}

/* Of a command line that could not be read. */
static bool vd_cli_asks_json(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--json") == 0)
            return true;
    return false;
}

int vd_cli_run(const struct vd_cmd *const *list, int argc, char **argv, FILE *out, FILE *errors)
{
    struct vd_error err = {VD_OK, ""};
    struct vd_cli cli = {.path = "veridem", .out = out};
    if (argc == 2 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0)) {
        fprintf(out, "veridem %s\n", VD_VERSION);
        return vd_cli_finish(&cli, VD_OK, &err, errors);
    }
    char help[] = "--help";
    if (argc >= 2 && strcmp(argv[1], "help") == 0)
        argv[1] = help; /* `help COMMAND` is `COMMAND --help` */
    enum vd_err e = vd_cli_read(&cli, list, argc, argv, &err);
    cli.json = e == VD_OK ? vd_cli_has(&cli, "json") : vd_cli_asks_json(argc, argv);
    if (e == VD_OK && (vd_cli_has(&cli, "help") || argc < 2)) {
        if (cli.cmd)
            vd_cli_help_cmd(out, &cli);
        else
            vd_cli_help_top(out, list);
        return vd_cli_finish(&cli, VD_OK, &err, errors);
    }
    if (e == VD_OK)
        e = vd_cli_check_args(&cli, &err);
    if (e == VD_OK)
        e = vd_cli_set_home(&cli, &err);
    if (e == VD_OK)
        e = vd_key_init(&err);
    if (e == VD_OK)
        e = cli.cmd->run(&cli, &err);
    return vd_cli_finish(&cli, e, &err, errors);
}

/* ---- What commands use ---- */

const char *vd_cli_nth(const struct vd_cli *cli, const char *name, int nth)
{
    assert(vd_cli_find_opt(cli->cmd, name, strlen(name), 0));
    for (int i = 0; i < cli->n_given; i++)
        if (strcmp(cli->given[i].opt->name, name) == 0 && nth-- == 0)
            return cli->given[i].value ? cli->given[i].value : "";
    return NULL;
}

bool vd_cli_has(const struct vd_cli *cli, const char *name)
{
    return vd_cli_nth(cli, name, 0) != NULL;
}

const char *vd_cli_text(const struct vd_cli *cli, const char *name, const char *otherwise)
{
    const char *v = vd_cli_nth(cli, name, 0);
    return v ? v : otherwise;
}

enum vd_err vd_cli_parse_u64(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *out,
                             struct vd_error *err)
{
    uint64_t v = 0;
    bool ok = text[0] != 0;
    for (const char *p = text; ok && *p; p++) {
        unsigned digit = (unsigned)*p - '0';
        ok = digit <= 9 && v <= (UINT64_MAX - digit) / 10;
        if (ok)
            v = v * 10 + digit;
    }
    if (!ok || v < min || v > max)
        return vd_error_set(err, VD_EUSE, "%s is %.64s, but must be a whole number from %llu to %llu", what,
                            text, (unsigned long long)min, (unsigned long long)max);
    *out = v;
    return VD_OK;
}

enum vd_err vd_cli_parse_micro(const char *what, const char *text, uint64_t max_micro, uint64_t *out,
                               struct vd_error *err)
{
    char most[VD_CLI_CREDITS_MAX];
    uint64_t v = 0;
    int digits = 0, after = -1; /* digits seen; digits after the point, -1 before it */
    bool ok = true;
    for (const char *p = text; ok && *p; p++) {
        unsigned digit = (unsigned)*p - '0';
        if (*p == '.' && after < 0) {
            after = 0;
            continue;
        }
        ok = digit <= 9 && v <= (UINT64_MAX - digit) / 10 && after < 6;
        v = v * 10 + digit;
        digits++;
        after += after >= 0;
    }
    for (int i = after < 0 ? 0 : after; ok && i < 6; i++) {
        ok = v <= UINT64_MAX / 10;
        v *= 10;
    }
    if (!ok || digits == 0 || v > max_micro)
        return vd_error_set(err, VD_EUSE,
                            "%s is %.64s, but must be a number from 0 to %s with at most 6 decimals", what,
                            text, vd_cli_credits(most, max_micro));
    *out = v;
    return VD_OK;
}

enum vd_err vd_cli_parse_hash(const char *what, const char *text, uint8_t out[32], struct vd_error *err)
{
    if (!vd_hex_decode(out, 32, text))
        return vd_error_set(err, VD_EUSE, "%s is %.80s, but must be 64 hexadecimal digits", what, text);
    return VD_OK;
}

enum vd_err vd_cli_u64(const struct vd_cli *cli, const char *name, uint64_t min, uint64_t max, uint64_t *out,
                       struct vd_error *err)
{
    char what[64];
    const char *text = vd_cli_text(cli, name, NULL);
    snprintf(what, sizeof what, "--%s", name);
    return text ? vd_cli_parse_u64(what, text, min, max, out, err) : VD_OK;
}

enum vd_err vd_cli_u32(const struct vd_cli *cli, const char *name, uint32_t min, uint32_t max, uint32_t *out,
                       struct vd_error *err)
{
    uint64_t v = *out;
    enum vd_err e = vd_cli_u64(cli, name, min, max, &v, err);
    if (e == VD_OK)
        *out = (uint32_t)v;
    return e;
}

enum vd_err vd_cli_micro(const struct vd_cli *cli, const char *name, uint64_t max_micro, uint64_t *out,
                         struct vd_error *err)
{
    char what[64];
    const char *text = vd_cli_text(cli, name, NULL);
    snprintf(what, sizeof what, "--%s", name);
    return text ? vd_cli_parse_micro(what, text, max_micro, out, err) : VD_OK;
}

void vd_cli_json(struct vd_cli *cli, json_t *value)
{
    assert(cli->json && !cli->result && !cli->no_result);
    cli->result = value;
    cli->no_result = !value;
}

enum vd_err vd_cli_slurp(uint8_t **out, size_t *n_bytes, const char *path, size_t max_bytes,
                         struct vd_error *err)
{
    if (strcmp(path, "-") == 0)
        return vd_stream_read_fd(out, n_bytes, STDIN_FILENO, "standard input", max_bytes, err);
    return vd_stream_read(out, n_bytes, path, max_bytes, err);
}

char *vd_cli_credits(char buf[VD_CLI_CREDITS_MAX], uint64_t micro)
{
    int n = snprintf(buf, VD_CLI_CREDITS_MAX, "%llu.%06llu", (unsigned long long)(micro / 1000000),
                     (unsigned long long)(micro % 1000000));
    while (buf[n - 1] == '0')
        buf[--n] = 0;
    if (buf[n - 1] == '.')
        buf[n - 1] = 0;
    return buf;
}
