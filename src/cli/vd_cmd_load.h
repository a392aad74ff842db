/* MODEL on the command line, by one rule for every command, and what most commands open with it. The rule: a
 * path, if it holds a slash or is a file here; else the one *.gguf whose name is, or begins with, MODEL, in
 * $VERIDEM_HOME/models, and if none is there in ~/.veridem/models. */
#ifndef VD_CMD_LOAD_H
#define VD_CMD_LOAD_H

#include "vd_cli.h"
#include "vd_file.h"
#include "vd_gguf.h"
#include "vd_kern.h"
#include "vd_model.h"
#include "vd_pool.h"
#include "vd_tok.h"

/* For the table of options of every command that computes. */
#define VD_CMD_OPTS_COMPUTE                                                                                  \
    {"threads", 't', "N", "threads to compute with (default: one per CPU)", false},                          \
    {                                                                                                        \
        "kernel", 0, "NAME",                                                                                 \
            "scalar, avx2, avxvnni, avx512, neon or neon-i8mm (default: the fastest this CPU has)", false    \
    }

/* The folders that models are looked for in: the home's, and the user's own, so that roles with homes of
 * their own share it. dir[1] is empty when it is the same or there is none. */
enum vd_err vd_cmd_models_dirs(char dir[2][VD_PATH_MAX], struct vd_error *err);

/* For the table of options of every command that generates. */
#define VD_CMD_OPTS_GUESS                                                                                    \
    {"spec", 0, "WAY",                                                                                       \
     "guess tokens from what was said before, which is faster where text repeats itself: lookup (default) "  \
     "or off; never another bit",                                                                            \
     false},                                                                                                 \
    {                                                                                                        \
        "draft", 0, "MODEL", "guess tokens by this smaller model with the same vocabulary", false            \
    }

/* The *.gguf files of these folders, the first folder's first and each folder's by name; a file of the second
 * that has the name of one in the first is left out. The caller frees with vd_cmd_models_free. */
struct vd_cmd_models {
    size_t n;
    char **path;
};
enum vd_err vd_cmd_models_list(struct vd_cmd_models *out, struct vd_error *err);
void vd_cmd_models_free(struct vd_cmd_models *m);

/* Writes the path of the model called `name`, by the rule above, whatever the case. VD_ENOTFOUND lists what
 * is there; VD_EUSE if several fit. */
enum vd_err vd_cmd_model_path(char out[VD_PATH_MAX], const char *name, struct vd_error *err);

/* A tokenizer and the file that it borrows from. */
struct vd_cmd_text {
    struct vd_gguf *gguf;
    struct vd_tok *tok;
};
enum vd_err vd_cmd_text_open(struct vd_cmd_text *t, const char *name, struct vd_error *err);
void vd_cmd_text_close(struct vd_cmd_text *t);

/* Kernels, threads, model and tokenizer, as --threads and --kernel say, and what guesses, as --spec and
 * --draft say; `err` is not NULL. Closing takes a half-open or zero one. */
struct vd_cmd_engine {
    const struct vd_kern *kern;
    struct vd_pool *pool;
    struct vd_model *model;
    struct vd_tok *tok;
    bool lookup;            /* these two by vd_cmd_guess_open */
    struct vd_model *draft; /* or NULL */
};
enum vd_err vd_cmd_engine_open(struct vd_cmd_engine *g, const struct vd_cli *cli, const char *name,
                               struct vd_error *err);
void vd_cmd_engine_close(struct vd_cmd_engine *g);
/* VD_EUNSUPPORTED if the model generates nothing: for commands that want tokens. */
enum vd_err vd_cmd_engine_generates(const struct vd_cmd_engine *g, struct vd_error *err);
/* What guesses, as --spec and --draft say; for commands that have VD_CMD_OPTS_GUESS. */
enum vd_err vd_cmd_guess_open(struct vd_cmd_engine *g, const struct vd_cli *cli, struct vd_error *err);
/* The --draft part of it, for commands that have that option only. */
enum vd_err vd_cmd_draft_open(struct vd_cmd_engine *g, const struct vd_cli *cli, struct vd_error *err);

/* The path of the listed model file that has this root; --threads and --kernel are read for it, and `err` is
 * not NULL. VD_ENOTFOUND. */
enum vd_err vd_cmd_model_of_root(const struct vd_cli *cli, const struct vd_hash *root, char out[VD_PATH_MAX],
                                 struct vd_error *err);

/* Ids of a text; free() *ids. */
enum vd_err vd_cmd_encode(const struct vd_tok *tok, const char *text, size_t n_bytes, unsigned flags,
                          uint32_t **ids, size_t *n_ids, struct vd_error *err);

#endif
