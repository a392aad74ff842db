/* MODEL on the command line: a path, or the name of a file under $VERIDEM_HOME/models; and what most commands
 * open with it. */
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
        "kernel", 0, "NAME", "scalar, avx2 or avx512 (default: the fastest this CPU has)", false             \
    }

/* Writes the path of the model called `name`: the file itself if it holds a slash or exists, else the one
 * file under models/ whose name begins with it, whatever the case. VD_ENOTFOUND lists what is there; VD_EUSE
 * if several fit. */
enum vd_err vd_cmd_model_path(char out[VD_PATH_MAX], const char *name, struct vd_error *err);

/* A tokenizer and the file that it borrows from. */
struct vd_cmd_text {
    struct vd_gguf *gguf;
    struct vd_tok *tok;
};
enum vd_err vd_cmd_text_open(struct vd_cmd_text *t, const char *name, struct vd_error *err);
void vd_cmd_text_close(struct vd_cmd_text *t);

/* Kernels, threads, model and tokenizer, as --threads and --kernel say. Closing takes a half-open or zero
 * one. */
struct vd_cmd_engine {
    const struct vd_kern *kern;
    struct vd_pool *pool;
    struct vd_model *model;
    struct vd_tok *tok;
};
enum vd_err vd_cmd_engine_open(struct vd_cmd_engine *g, const struct vd_cli *cli, const char *name,
                               struct vd_error *err);
void vd_cmd_engine_close(struct vd_cmd_engine *g);

/* Ids of a text; free() *ids. */
enum vd_err vd_cmd_encode(const struct vd_tok *tok, const char *text, size_t n_bytes, unsigned flags,
                          uint32_t **ids, size_t *n_ids, struct vd_error *err);

#endif
