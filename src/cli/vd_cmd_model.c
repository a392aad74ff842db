/* veridem model: what is in $VERIDEM_HOME/models, what a model file says of itself, and its model root. */
#include "vd_bytes.h"
#include "vd_cmd.h"
#include "vd_cmd_fetch.h"
#include "vd_cmd_load.h"
#include "vd_wtype.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void vd_model_list_one(struct vd_cli *cli, json_t *list, const char *path)
{
    const char *name = strrchr(path, '/') + 1;
    struct stat st;
    if (stat(path, &st) != 0)
        return;
    if (list)
        json_array_append_new(
            list, json_pack("{s:s,s:s,s:I}", "name", name, "file", path, "bytes", (json_int_t)st.st_size));
    else
        fprintf(cli->out, "%-48s %12lld bytes  %s\n", name, (long long)st.st_size, path);
}

static enum vd_err vd_model_list(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_cmd_models m;
    char dir[2][VD_PATH_MAX];
    enum vd_err e = vd_cmd_models_dirs(dir, err);
    if (e == VD_OK)
        e = vd_cmd_models_list(&m, err);
    if (e != VD_OK)
        return e;
    json_t *list = cli->json ? json_array() : NULL;
    for (size_t i = 0; i < m.n; i++)
        vd_model_list_one(cli, list, m.path[i]);
    if (list)
        vd_cli_json(cli, list);
    else if (m.n == 0)
        fprintf(cli->out, "none in %s%s%s; `veridem model fetch --help` says how to get one\n", dir[0],
                dir[1][0] ? " or " : "", dir[1]);
    vd_cmd_models_free(&m);
    return VD_OK;
}

static enum vd_err vd_model_root_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_cmd_engine g;
    struct vd_hash root;
    char hex[65];
    enum vd_err e = vd_cmd_engine_open(&g, cli, cli->arg[0], err);
    if (e != VD_OK)
        return e;
    e = vd_cli_has(cli, "no-cache") ? vd_model_root_compute(g.model, g.pool, &root, err)
                                    : vd_model_root(g.model, g.pool, &root, err);
    if (e == VD_OK) {
        vd_hex_encode(hex, root.b, sizeof root.b);
        if (cli->json)
            vd_cli_json(cli, json_pack("{s:s,s:s}", "model_root", hex, "file", vd_model_path(g.model)));
        else
            fprintf(cli->out, "%s  %s\n", hex, vd_model_path(g.model));
    }
    vd_cmd_engine_close(&g);
    return e;
}

/* The weight types of a program and how many tensors have each, as "Q4_1 x 120, F32 x 61". */
static void vd_model_types(const struct vd_program *p, char *out, size_t cap)
{
    uint32_t count[256] = {0};
    size_t used = 0;
    for (uint32_t i = 0; i < p->n_tensors; i++)
        count[p->types[i]]++;
    out[0] = 0;
    for (unsigned t = 0; t < 256; t++)
        if (count[t] && used < cap)
            used += (size_t)snprintf(out + used, cap - used, "%s%s x %u", used ? ", " : "",
                                     vd_gguf_type_of(t) ? vd_gguf_type_of(t)->name : "?", count[t]);
}

/* What the program has beside a plain decoder's parts, as "window of 512, experts 8 of 128". */
static void vd_model_features(const struct vd_program *p, char *out, size_t cap)
{
    char window[32] = "", experts[40] = "";
    if (p->window)
        snprintf(window, sizeof window, ", window of %u", p->window);
    if (p->n_experts)
        snprintf(experts, sizeof experts, ", %u of %u experts", p->n_used, p->n_experts);
    int n =
        snprintf(out, cap, "%s%s%s%s%s%s%s%s%s%s", vd_program_is_encoder(p) ? ", encoder" : "",
                 p->n_positions ? ", learned positions" : "", window, experts,
                 p->qk_norm ? ", norms of heads" : "", p->qkv_bias ? ", biases" : "",
                 p->post_norms ? ", norms after" : "", p->attn_cap != 0 ? ", scores capped" : "",
                 p->logit_cap != 0 ? ", logits capped" : "", p->n_rope_tables > 1 ? ", two rotations" : "");
    if (n > 2)
        memmove(out, out + 2, (size_t)n - 1); /* the first comma */
    else
        snprintf(out, cap, "none");
}

static enum vd_err vd_model_show(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_cmd_engine g;
    struct vd_hash root;
    struct vd_gguf_str arch = {"?", 1};
    char hex[65], types[256], features[256];
    enum vd_err e = vd_cmd_engine_open(&g, cli, cli->arg[0], err);
    if (e != VD_OK)
        return e;
    e = vd_model_root(g.model, g.pool, &root, err);
    if (e == VD_OK) {
        const struct vd_program *p = vd_model_program(g.model);
        vd_hex_encode(hex, root.b, sizeof root.b);
        vd_model_types(p, types, sizeof types);
        vd_model_features(p, features, sizeof features);
        vd_gguf_get_str(vd_model_gguf(g.model), "general.architecture", VD_GGUF_OPTIONAL, &arch, NULL);
        if (cli->json)
            vd_cli_json(cli, json_pack("{s:s,s:s,s:s%,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:s,s:I}", "file",
                                       vd_model_path(g.model), "model_root", hex, "architecture", arch.p,
                                       arch.n, "features", features, "layers", (json_int_t)p->n_layers,
                                       "width", (json_int_t)p->width, "heads", (json_int_t)p->n_heads,
                                       "kv_heads", (json_int_t)p->n_kv_heads, "head_dim",
                                       (json_int_t)p->head_dim, "ff_width", (json_int_t)p->ff_width, "vocab",
                                       (json_int_t)p->vocab, "context", (json_int_t)p->ctx, "types", types,
                                       "program_bytes", (json_int_t)vd_model_program_bytes(g.model).n));
        else
            fprintf(cli->out,
                    "file          %s\nmodel root    %s\narchitecture  %.*s; beside the plain parts: "
                    "%s\nlayers        %u\nwidth        "
                    " %u\n"
                    "heads         %u, %u for keys and values, of %u\nfeed-forward  %u\nvocabulary    %u\n"
                    "context       %u\nweights       %s\nprogram       %zu bytes\n",
                    vd_model_path(g.model), hex, (int)arch.n, arch.p, features, p->n_layers, p->width,
                    p->n_heads, p->n_kv_heads, p->head_dim, p->ff_width, p->vocab, p->ctx, types,
                    vd_model_program_bytes(g.model).n);
    }
    vd_cmd_engine_close(&g);
    return e;
}

static enum vd_err vd_model_fetch(struct vd_cli *cli, struct vd_error *err)
{
    char dir[VD_PATH_MAX], path[VD_PATH_MAX];
    struct vd_hash sha256;
    bool had_it = false;
    const char *url = cli->arg[0], *hex = vd_cli_text(cli, "sha256", NULL);
    const char *base = strrchr(url, '/'), *name = vd_cli_text(cli, "name", base ? base + 1 : url);
    if (!hex)
        return vd_error_set(err, VD_EUSE,
                            "--sha256 says which file is the right one; nothing is fetched without it");
    if (!name[0] || strchr(name, '/') || name[0] == '.' || strlen(name) > 200)
        return vd_error_set(err, VD_EUSE, "%.100s is no name for a file; --name gives one", name);
    enum vd_err e = vd_cli_parse_hash("--sha256", hex, sha256.b, err);
    if (e == VD_OK)
        e = vd_home_path(dir, err, "models");
    if (e == VD_OK)
        e = vd_dir_make(dir, err);
    size_t n = strlen(name);
    if (e == VD_OK)
        e = vd_home_path(path, err, "models/%s%s", name,
                         n > 5 && strcmp(name + n - 5, ".gguf") == 0 ? "" : ".gguf");
    if (e == VD_OK)
        e = vd_fetch(url, path, &sha256, !cli->json, &had_it, err);
    if (e == VD_OK && cli->json)
        vd_cli_json(cli, json_pack("{s:s,s:b}", "file", path, "fetched", !had_it));
    else if (e == VD_OK)
        fprintf(cli->out, "%s %s\n", path, had_it ? "was there already" : "is there");
    return e;
}

static const struct vd_cli_opt vd_model_fetch_opts[] = {
    {"sha256", 0, "HEX", "the file's SHA-256; another file is refused", false},
    {"name", 0, "NAME", "what to call it (default: the end of the URL)", false},
    {0},
};
static const struct vd_cmd vd_model_cmd_fetch = {
    .name = "fetch",
    .usage = "URL",
    .summary = "fetch a model file of known hash into $VERIDEM_HOME/models",
    .help = "URL is http, https or file. A transfer that breaks off is resumed by the same command; a "
            "damaged file is fetched\n"
            "again; a good one is left alone, also without a network.",
    .opts = vd_model_fetch_opts,
    .min_args = 1,
    .max_args = 1,
    .run = vd_model_fetch,
};
static const struct vd_cmd vd_model_cmd_list = {
    .name = "list",
    .usage = "",
    .summary = "the files in $VERIDEM_HOME/models and ~/.veridem/models",
    .help = "A name on this list, or its beginning, can stand for MODEL in every command.",
    .run = vd_model_list,
};
static const struct vd_cli_opt vd_model_show_opts[] = {VD_CMD_OPTS_COMPUTE, {0}};
static const struct vd_cmd vd_model_cmd_show = {
    .name = "show",
    .usage = "MODEL",
    .summary = "shapes, weight types and model root of a model",
    .help = "Opens the model whole, so a damaged file is found here.",
    .opts = vd_model_show_opts,
    .min_args = 1,
    .max_args = 1,
    .run = vd_model_show,
};
static const struct vd_cli_opt vd_model_root_opts[] = {
    {"no-cache", 0, NULL, "hash the weights again, whatever was computed before", false},
    VD_CMD_OPTS_COMPUTE,
    {0},
};
static const struct vd_cmd vd_model_cmd_root = {
    .name = "root",
    .usage = "MODEL",
    .summary = "the model root: what receipts name the model by",
    .help = "A Merkle root over the program and every weight (docs/spec/proof.md). Two files with the same "
            "tensors and\n"
            "program have the same root, whatever else they hold.",
    .opts = vd_model_root_opts,
    .min_args = 1,
    .max_args = 1,
    .run = vd_model_root_run,
};
static const struct vd_cmd *const vd_model_sub[] = {&vd_model_cmd_fetch, &vd_model_cmd_list,
                                                    &vd_model_cmd_show, &vd_model_cmd_root, NULL};

const struct vd_cmd vd_cmd_model = {
    .name = "model",
    .group = "Models and text",
    .usage = "",
    .summary = "fetch, list and inspect models",
    .help =
        "MODEL is a path, or the beginning of the name of a file in $VERIDEM_HOME/models or, if none there "
        "fits, in\n"
        "~/.veridem/models.",
    .sub = vd_model_sub,
};
