#include "vd_cmd_load.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { VD_NAMES_MAX = 300 };

/* Counts the files of `dir` whose names begin with `name` (an exact one, with or without .gguf, counts
 * alone); `found` gets the last, `all` the names of every file. */
static int vd_models_match(const char *dir, const char *name, char found[256], char all[VD_NAMES_MAX])
{
    size_t n = strlen(name), used = 0;
    int count = 0;
    const struct dirent *e;
    DIR *d = opendir(dir);
    all[0] = 0;
    while (d && (e = readdir(d)) != NULL) {
        size_t len = strlen(e->d_name);
        if (len < 5 || strcmp(e->d_name + len - 5, ".gguf") != 0)
            continue;
        if (used + len + 3 < VD_NAMES_MAX)
            used += (size_t)snprintf(all + used, VD_NAMES_MAX - used, "%s%s", used ? ", " : "", e->d_name);
        if (strncasecmp(e->d_name, name, n) != 0)
            continue;
        snprintf(found, 256, "%s", e->d_name);
        if (len == n || len == n + 5) {
            count = 1;
            break;
        }
        count++;
    }
    if (d)
        closedir(d);
    return count;
}

/* Where models are: the home's, and the user's own, so that roles with homes of their own share it. */
static enum vd_err vd_models_dirs(char dir[2][VD_PATH_MAX], struct vd_error *err)
{
    const char *user = getenv("HOME");
    enum vd_err e = vd_home_path(dir[0], err, "models");
    if (e != VD_OK)
        return e;
    dir[1][0] = 0;
    if (user && snprintf(dir[1], VD_PATH_MAX, "%s/.veridem/models", user) >= VD_PATH_MAX)
        dir[1][0] = 0;
    return VD_OK;
}

enum vd_err vd_cmd_model_path(char out[VD_PATH_MAX], const char *name, struct vd_error *err)
{
    char dir[2][VD_PATH_MAX], found[256], all[VD_NAMES_MAX] = "";
    if (strchr(name, '/') || access(name, R_OK) == 0)
        return snprintf(out, VD_PATH_MAX, "%s", name) < VD_PATH_MAX
                   ? VD_OK
                   : vd_error_set(err, VD_ELIMIT, "the model's path has more than %d bytes", VD_PATH_MAX - 1);
    enum vd_err e = vd_models_dirs(dir, err);
    for (int i = 0; e == VD_OK && name[0] && i < 2 && dir[i][0]; i++) {
        int n = vd_models_match(dir[i], name, found, all);
        if (n == 1)
            return snprintf(out, VD_PATH_MAX, "%s/%s", dir[i], found) < VD_PATH_MAX
                       ? VD_OK
                       : vd_error_set(err, VD_ELIMIT, "the model's path has more than %d bytes",
                                      VD_PATH_MAX - 1);
        if (n > 1)
            return vd_error_set(err, VD_EUSE, "%.64s fits %d models in %.120s; say more of the name: %s",
                                name, n, dir[i], all);
    }
    return e != VD_OK ? e
                      : vd_error_set(err, VD_ENOTFOUND,
                                     "no model %.64s: neither a file nor in %.120s (there: %s); `veridem "
                                     "model fetch` gets one",
                                     name, dir[0], all[0] ? all : "none");
}

enum vd_err vd_cmd_text_open(struct vd_cmd_text *t, const char *name, struct vd_error *err)
{
    char path[VD_PATH_MAX];
    memset(t, 0, sizeof *t);
    enum vd_err e = vd_cmd_model_path(path, name, err);
    if (e == VD_OK)
        e = vd_gguf_open_map(&t->gguf, path, err);
    if (e == VD_OK)
        e = vd_tok_load(&t->tok, t->gguf, err);
    if (e != VD_OK)
        vd_cmd_text_close(t);
    return e;
}

void vd_cmd_text_close(struct vd_cmd_text *t)
{
    vd_tok_free(t->tok);
    vd_gguf_close(t->gguf);
    memset(t, 0, sizeof *t);
}

enum vd_err vd_cmd_engine_open(struct vd_cmd_engine *g, const struct vd_cli *cli, const char *name,
                               struct vd_error *err)
{
    char path[VD_PATH_MAX];
    uint32_t threads = 0;
    memset(g, 0, sizeof *g);
    enum vd_err e = vd_cli_u32(cli, "threads", 1, VD_POOL_THREADS_MAX, &threads, err);
    if (e == VD_OK)
        e = vd_cmd_model_path(path, name, err);
    if (e != VD_OK)
        return e;
    g->kern = vd_kern_pick(vd_cli_text(cli, "kernel", NULL), err);
    e = g->kern ? vd_kern_selfcheck(g->kern, err) : err->code;
    if (e == VD_OK)
        e = vd_pool_create(&g->pool, threads, err);
    if (e == VD_OK)
        e = vd_model_open(&g->model, path, g->kern, g->pool, err);
    if (e == VD_OK)
        e = vd_tok_load(&g->tok, vd_model_gguf(g->model), err);
    if (e != VD_OK)
        vd_cmd_engine_close(g);
    return e;
}

void vd_cmd_engine_close(struct vd_cmd_engine *g)
{
    vd_tok_free(g->tok);
    vd_model_close(g->model);
    vd_pool_destroy(g->pool);
    memset(g, 0, sizeof *g);
}

enum vd_err vd_cmd_encode(const struct vd_tok *tok, const char *text, size_t n_bytes, unsigned flags,
                          uint32_t **ids, size_t *n_ids, struct vd_error *err)
{
    struct vd_tok_ids out = {.max = n_bytes + 2}; /* a token stands for a byte at least */
    out.p = malloc(out.max * sizeof *out.p);
    if (!out.p)
        return vd_error_set(err, VD_ENOMEM, "no memory for %zu token ids", out.max);
    enum vd_err e = vd_tok_encode(tok, text, n_bytes, flags, &out, err);
    if (e == VD_ELIMIT && n_bytes <= VD_TOK_TEXT_MAX_BYTES &&
        out.n > out.max) { /* a byte that is not UTF-8 gives three */
        uint32_t *more = realloc(out.p, out.n * sizeof *out.p);
        if (!more) {
            free(out.p);
            return vd_error_set(err, VD_ENOMEM, "no memory for %zu token ids", out.n);
        }
        out.p = more;
        out.max = out.n;
        e = vd_tok_encode(tok, text, n_bytes, flags, &out, err);
    }
    if (e != VD_OK) {
        free(out.p);
        return e;
    }
    *ids = out.p;
    *n_ids = out.n;
    return VD_OK;
}
