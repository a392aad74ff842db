#include "vd_cmd_load.h"

#include "vd_cmd_busy.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { VD_NAMES_MAX = 140, VD_MODELS_MAX = 4096 };

enum vd_err vd_cmd_models_dirs(char dir[2][VD_PATH_MAX], struct vd_error *err)
{
    const char *user = getenv("HOME");
    enum vd_err e = vd_home_path(dir[0], err, "models");
    if (e != VD_OK)
        return e;
    dir[1][0] = 0;
    if (user && *user &&
        (snprintf(dir[1], VD_PATH_MAX, "%s/.veridem/models", user) >= VD_PATH_MAX ||
         strcmp(dir[0], dir[1]) == 0))
        dir[1][0] = 0;
    return VD_OK;
}

static const char *vd_models_base(const char *path)
{
    return strrchr(path, '/') + 1; /* every path here is folder/name */
}

static int vd_models_cmp(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Appends one folder's files; a folder that is not there has none. */
static enum vd_err vd_models_add(struct vd_cmd_models *m, const char *dir, struct vd_error *err)
{
    char path[2 * VD_PATH_MAX];
    size_t first = m->n;
    const struct dirent *f;
    DIR *d = opendir(dir);
    if (!d && errno != ENOENT)
        return vd_error_set(err, VD_EIO, "%.300s: %s", dir, strerror(errno));
    while (d && m->n < VD_MODELS_MAX && (f = readdir(d)) != NULL) {
        size_t len = strlen(f->d_name);
        bool known = len < 5 || strcmp(f->d_name + len - 5, ".gguf") != 0;
        for (size_t i = 0; !known && i < first; i++)
            known = strcmp(vd_models_base(m->path[i]), f->d_name) == 0;
        if (known || snprintf(path, sizeof path, "%s/%s", dir, f->d_name) >= VD_PATH_MAX)
            continue;
        if ((m->path[m->n] = strdup(path)) != NULL)
            m->n++;
    }
    if (d)
        closedir(d);
    qsort(m->path + first, m->n - first, sizeof *m->path, vd_models_cmp);
    return VD_OK;
}

enum vd_err vd_cmd_models_list(struct vd_cmd_models *out, struct vd_error *err)
{
    char dir[2][VD_PATH_MAX];
    *out = (struct vd_cmd_models){0};
    enum vd_err e = vd_cmd_models_dirs(dir, err);
    if (e != VD_OK)
        return e;
    out->path = calloc(VD_MODELS_MAX, sizeof *out->path);
    if (!out->path)
        return vd_error_set(err, VD_ENOMEM, "no memory for a list of models");
    e = vd_models_add(out, dir[0], err);
    if (e == VD_OK && dir[1][0])
        (void)vd_models_add(out, dir[1], NULL); /* another's folder may be closed to this user */
    if (e != VD_OK)
        vd_cmd_models_free(out);
    return e;
}

void vd_cmd_models_free(struct vd_cmd_models *m)
{
    for (size_t i = 0; i < m->n; i++)
        free(m->path[i]);
    free(m->path);
    *m = (struct vd_cmd_models){0};
}

/* Counts the files of `dir` whose names begin with `name` (an exact one, with or without .gguf, counts
 * alone); *found is the last, `all` gets the names of those that fit. */
static int vd_models_match(const struct vd_cmd_models *m, const char *dir, const char *name,
                           const char **found, char all[VD_NAMES_MAX])
{
    size_t n = strlen(name), n_dir = strlen(dir), used = 0;
    int count = 0;
    all[0] = 0;
    for (size_t i = 0; i < m->n; i++) {
        const char *base = vd_models_base(m->path[i]);
        size_t len = strlen(base);
        if ((size_t)(base - m->path[i]) != n_dir + 1 || memcmp(m->path[i], dir, n_dir) != 0 ||
            strncasecmp(base, name, n) != 0)
            continue;
        if (used + len + 8 < VD_NAMES_MAX) /* room for ", ..." */
            used += (size_t)snprintf(all + used, VD_NAMES_MAX - used, "%s%s", used ? ", " : "", base);
        else if (used < 3 || memcmp(all + used - 3, "...", 3) != 0)
            used += (size_t)snprintf(all + used, VD_NAMES_MAX - used, "%s...", used ? ", " : "");
        *found = m->path[i];
        if (len == n || len == n + 5)
            return 1;
        count++;
    }
    return count;
}

static enum vd_err vd_models_find(char out[VD_PATH_MAX], const struct vd_cmd_models *m,
                                  char dir[2][VD_PATH_MAX], const char *name, struct vd_error *err)
{
    char all[VD_NAMES_MAX];
    const char *found = NULL;
    for (int i = 0; name[0] && i < 2 && dir[i][0]; i++) {
        int n = vd_models_match(m, dir[i], name, &found, all);
        if (n == 1) {
            memcpy(out, found, strlen(found) + 1);
            return VD_OK;
        }
        if (n > 1)
            return vd_error_set(err, VD_EUSE, "%.64s fits %d models in %.120s; say more of the name: %s",
                                name, n, dir[i], all);
    }
    vd_models_match(m, dir[0], "", &found, all);
    if (!all[0] && dir[1][0])
        vd_models_match(m, dir[1], "", &found, all);
    return vd_error_set(
        err, VD_ENOTFOUND,
        "no model %.64s: neither a file nor in %.100s%s%.100s; there are: %s; `veridem model fetch` gets one",
        name, dir[0], dir[1][0] ? " or " : "", dir[1], all[0] ? all : "none");
}

enum vd_err vd_cmd_model_path(char out[VD_PATH_MAX], const char *name, struct vd_error *err)
{
    char dir[2][VD_PATH_MAX];
    struct vd_cmd_models m;
    struct stat st;
    if (strchr(name, '/') || (stat(name, &st) == 0 && S_ISREG(st.st_mode)))
        return snprintf(out, VD_PATH_MAX, "%s", name) < VD_PATH_MAX
                   ? VD_OK
                   : vd_error_set(err, VD_ELIMIT, "the model's path has more than %d bytes", VD_PATH_MAX - 1);
    enum vd_err e = vd_cmd_models_dirs(dir, err);
    if (e == VD_OK)
        e = vd_cmd_models_list(&m, err);
    if (e != VD_OK)
        return e;
    e = vd_models_find(out, &m, dir, name, err);
    vd_cmd_models_free(&m);
    return e;
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

/* Kernels and threads; `err` is not NULL. */
static enum vd_err vd_compute_open(struct vd_cmd_engine *g, const struct vd_cli *cli, struct vd_error *err)
{
    uint32_t threads = 0;
    memset(g, 0, sizeof *g);
    enum vd_err e = vd_cli_u32(cli, "threads", 1, VD_POOL_THREADS_MAX, &threads, err);
    if (e != VD_OK)
        return e;
    g->kern = vd_kern_pick(vd_cli_text(cli, "kernel", NULL), err);
    e = g->kern ? vd_kern_selfcheck(g->kern, err) : err->code;
    return e == VD_OK ? vd_pool_create(&g->pool, threads, err) : e;
}

enum vd_err vd_cmd_engine_open(struct vd_cmd_engine *g, const struct vd_cli *cli, const char *name,
                               struct vd_error *err)
{
    char path[VD_PATH_MAX];
    struct vd_busy busy = {0};
    enum vd_err e = vd_compute_open(g, cli, err);
    if (e == VD_OK)
        e = vd_cmd_model_path(path, name, err);
    if (e == VD_OK) {
        vd_busy_begin(&busy, cli, "opening %.150s", path);
        e = vd_model_open(&g->model, path, g->kern, g->pool, err);
        vd_busy_end(&busy);
    }
    if (e == VD_OK)
        e = vd_tok_load(&g->tok, vd_model_gguf(g->model), err);
    if (e != VD_OK)
        vd_cmd_engine_close(g);
    return e;
}

void vd_cmd_engine_close(struct vd_cmd_engine *g)
{
    vd_tok_free(g->tok);
    vd_model_close(g->draft);
    vd_model_close(g->model);
    vd_pool_destroy(g->pool);
    memset(g, 0, sizeof *g);
}

enum vd_err vd_cmd_engine_generates(const struct vd_cmd_engine *g, struct vd_error *err)
{
    if (!vd_program_is_encoder(vd_model_program(g->model)))
        return VD_OK;
    return vd_error_set(err, VD_EUNSUPPORTED,
                        "%s is an encoder: it gives vectors of texts (`veridem embed`) and generates nothing",
                        vd_model_path(g->model));
}

enum vd_err vd_cmd_draft_open(struct vd_cmd_engine *g, const struct vd_cli *cli, struct vd_error *err)
{
    const char *draft = vd_cli_text(cli, "draft", NULL);
    char path[VD_PATH_MAX];
    if (!draft)
        return VD_OK;
    enum vd_err e = vd_cmd_model_path(path, draft, err);
    return e == VD_OK ? vd_model_open(&g->draft, path, g->kern, g->pool, err) : e;
}

enum vd_err vd_cmd_guess_open(struct vd_cmd_engine *g, const struct vd_cli *cli, struct vd_error *err)
{
    const char *way = vd_cli_text(cli, "spec", "lookup");
    g->lookup = strcmp(way, "lookup") == 0;
    if (!g->lookup && strcmp(way, "off") != 0)
        return vd_error_set(err, VD_EUSE, "--spec %s: say lookup or off", way);
    return vd_cmd_draft_open(g, cli, err);
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

/* The first of the files whose model has this root, or NULL; one that is no model is passed over. */
static const char *vd_models_of_root(const struct vd_cmd_models *m, const struct vd_cmd_engine *g,
                                     const struct vd_hash *root)
{
    for (size_t i = 0; i < m->n; i++) {
        struct vd_model *model;
        struct vd_hash of_file;
        if (vd_model_open(&model, m->path[i], g->kern, g->pool, NULL) != VD_OK)
            continue;
        bool found = vd_model_root(model, g->pool, &of_file, NULL) == VD_OK && vd_hash_eq(&of_file, root);
        vd_model_close(model);
        if (found)
            return m->path[i];
    }
    return NULL;
}

enum vd_err vd_cmd_model_of_root(const struct vd_cli *cli, const struct vd_hash *root, char out[VD_PATH_MAX],
                                 struct vd_error *err)
{
    char hex[65];
    struct vd_cmd_models m;
    struct vd_cmd_engine g;
    enum vd_err e = vd_compute_open(&g, cli, err);
    if (e == VD_OK)
        e = vd_cmd_models_list(&m, err);
    if (e == VD_OK) {
        struct vd_busy busy;
        vd_busy_begin(&busy, cli, "looking for the receipt's model in %zu files", m.n);
        const char *found = vd_models_of_root(&m, &g, root);
        vd_busy_end(&busy);
        vd_hex_encode(hex, root->b, VD_HASH_BYTES);
        if (found)
            memcpy(out, found, strlen(found) + 1);
        else
            e = vd_error_set(err, VD_ENOTFOUND,
                             "none of the %zu files that `veridem model list` lists is the model %s; "
                             "--model FILE names one",
                             m.n, hex);
        vd_cmd_models_free(&m);
    }
    vd_cmd_engine_close(&g);
    return e;
}
