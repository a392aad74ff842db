/* The command line: commands as tables, their options and arguments, help, errors, and the exit status.
 *
 * A command is a constant struct vd_cmd. It has subcommands, a function, or both: then a first argument that
 * names no subcommand is the function's. Options may stand anywhere
 * before `--`; `--name value`, `--name=value`, `-x value` and `-xvalue` are read. Every command also has
 * --help (-h), --json and --home DIR. A number is read whole and inside the limits that the command gives, or
 * the error names the option, the value and the limits.
 *
 * What a command prints for people goes to cli->out, progress and errors to stderr. With --json, stdout
 * carries exactly one JSON value, {"error": {"code", "message"}} when the command failed.
 *
 * Exit status: vd_err_exit_status of what the function returned. 1 stands for "what was checked is false"
 * only.
 *
 * Thread rule: the main thread only. */
#ifndef VD_CLI_H
#define VD_CLI_H

#include "vd_err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { VD_CLI_ARGS_MAX = 256 };

struct vd_cli;

struct vd_cli_opt {
    const char *name;  /* without the dashes; NULL ends the table */
    char letter;       /* 0: none */
    const char *value; /* what the help calls its value; NULL: a flag */
    const char *help;  /* one line */
    bool repeat;       /* may be given several times */
};

struct vd_cmd {
    const char *name;
    const char *group;             /* heading in the list of commands; top level only */
    const char *usage;             /* arguments, "MODEL FILE"; "" for none */
    const char *summary;           /* one line */
    const char *help;              /* paragraphs: what it does, what it prints, examples */
    const struct vd_cli_opt *opts; /* NULL: none */
    int min_args, max_args;        /* of positional arguments; max_args < 0: any number */
    enum vd_err (*run)(struct vd_cli *cli, struct vd_error *err);
    const struct vd_cmd *const *sub; /* NULL-terminated, or NULL */
};

struct vd_cli {
    const struct vd_cmd *cmd;
    char path[64]; /* "veridem model fetch", for messages */
    bool json;
    FILE *out;
    json_t *result; /* set by vd_cli_json; printed at the end */
    bool no_result; /* it could not be made */
    int n_args;
    const char *arg[VD_CLI_ARGS_MAX];
    int n_given; /* options in the order given */
    struct {
        const struct vd_cli_opt *opt;
        const char *value;
    } given[VD_CLI_ARGS_MAX];
};

/* Runs a command line on a NULL-terminated list of commands; returns the exit status. */
int vd_cli_run(const struct vd_cmd *const *list, int argc, char **argv, FILE *out, FILE *errors);

/* An option that the command's table has (assert): was it given, and its last value, or `otherwise`. */
bool vd_cli_has(const struct vd_cli *cli, const char *name);
const char *vd_cli_text(const struct vd_cli *cli, const char *name, const char *otherwise);
/* The value number `nth` (from 0) of a repeatable option, or NULL. */
const char *vd_cli_nth(const struct vd_cli *cli, const char *name, int nth);

/* *out = the value, a decimal integer in [min, max]; unchanged if the option was not given. VD_EUSE. */
enum vd_err vd_cli_u64(const struct vd_cli *cli, const char *name, uint64_t min, uint64_t max, uint64_t *out,
                       struct vd_error *err);
enum vd_err vd_cli_u32(const struct vd_cli *cli, const char *name, uint32_t min, uint32_t max, uint32_t *out,
                       struct vd_error *err);
/* *out = 10^6 times the value, exactly: a decimal with at most 6 digits after the point, in [0, max_micro].
 */
enum vd_err vd_cli_micro(const struct vd_cli *cli, const char *name, uint64_t max_micro, uint64_t *out,
                         struct vd_error *err);

/* The same on a text of any origin; `what` is for the message. */
enum vd_err vd_cli_parse_u64(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *out,
                             struct vd_error *err);
enum vd_err vd_cli_parse_micro(const char *what, const char *text, uint64_t max_micro, uint64_t *out,
                               struct vd_error *err);
/* 64 hexadecimal digits. */
enum vd_err vd_cli_parse_hash(const char *what, const char *text, uint8_t out[32], struct vd_error *err);

/* The answer for --json; takes the reference. Only when cli->json, and once. NULL, which json_pack gives for
 * a text that is not UTF-8, makes the command fail with VD_EFORMAT. */
void vd_cli_json(struct vd_cli *cli, json_t *value);

/* Reads all of `path`, a file or any stream ("-": standard input), at most max_bytes, NUL-terminated; free()
 * it.
 */
enum vd_err vd_cli_slurp(uint8_t **out, size_t *n_bytes, const char *path, size_t max_bytes,
                         struct vd_error *err);

/* Credits with up to six decimals, as people read them: "12.5". Returns buf. */
enum { VD_CLI_CREDITS_MAX = 32 };
char *vd_cli_credits(char buf[VD_CLI_CREDITS_MAX], uint64_t micro);

#endif
