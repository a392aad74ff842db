/* veridem embed: the vector of a text, as a worker would make it. */
#include "vd_cmd.h"
#include "vd_cmd_load.h"
#include "vd_embed.h"
#include "vd_forward.h"

#include <stdlib.h>
#include <string.h>

enum { EMBED_ROWS = 256 /* of a step; an encoder's text is one */ };

static enum vd_err vd_embed_pooling_of(const struct vd_cli *cli, const struct vd_model *m,
                                       enum vd_pooling *out, struct vd_error *err)
{
    const char *way = vd_cli_text(cli, "pooling", NULL);
    *out = vd_embed_pooling(vd_model_gguf(m));
    if (way && strcmp(way, "last") == 0)
        *out = VD_POOLING_LAST;
    else if (way && strcmp(way, "mean") == 0)
        *out = VD_POOLING_MEAN;
    else if (way && strcmp(way, "cls") == 0)
        *out = VD_POOLING_CLS;
    else if (way)
        return vd_error_set(err, VD_EUSE, "--pooling is last, mean or cls, not %.40s", way);
    if (*out == VD_POOLING_CLS && !vd_program_is_encoder(vd_model_program(m)))
        return vd_error_set(err, VD_EUSE,
                            "--pooling cls is for encoders, and %s is none: its first position has "
                            "seen no other",
                            vd_model_path(m));
    if (*out == VD_POOLING_NONE)
        return vd_error_set(err, VD_EUNSUPPORTED,
                            "%s: it pools in a way that is not known here; say --pooling last or mean",
                            vd_model_path(m));
    return VD_OK;
}

static bool vd_embed_counts(enum vd_pooling pooling, size_t pos, size_t n)
{
    return pooling == VD_POOLING_MEAN || pos == (pooling == VD_POOLING_CLS ? 0 : n - 1);
}

/* Feeds all ids; `e` has the positions that count then. */
static enum vd_err vd_embed_feed(struct vd_ctx *ctx, struct vd_kv *kv, const uint32_t *ids, size_t n,
                                 enum vd_pooling pooling, struct vd_embed *e, struct vd_error *err)
{
    struct vd_row row[VD_PROGRAM_ENCODER_CTX_MAX];
    size_t step = vd_ctx_max_rows(ctx);
    for (size_t from = 0; from < n; from += step) {
        size_t count = n - from < step ? n - from : step;
        for (size_t i = 0; i < count; i++)
            row[i] = (struct vd_row){kv, (uint32_t)(from + i), ids[from + i],
                                     vd_embed_counts(pooling, from + i, n) ? VD_ROW_HIDDEN : 0};
        enum vd_err rc = vd_model_forward(ctx, row, count, NULL, err);
        if (rc != VD_OK)
            return rc;
        for (size_t i = 0; i < count; i++)
            if (row[i].flags)
                vd_embed_add(e, vd_ctx_hidden(ctx, i));
    }
    return VD_OK;
}

static void vd_embed_print(struct vd_cli *cli, const float *v, size_t d, size_t n_ids)
{
    if (!cli->json) {
        for (size_t i = 0; i < d; i++)
            fprintf(cli->out, "%.9g%c", (double)v[i], i + 1 < d ? ' ' : '\n');
        return;
    }
    json_t *list = json_array();
    for (size_t i = 0; i < d; i++)
        json_array_append_new(list, json_real((double)v[i]));
    vd_cli_json(cli, json_pack("{s:o,s:I}", "embedding", list, "tokens", (json_int_t)n_ids));
}

static enum vd_err vd_embed_ids(struct vd_cmd_engine *g, struct vd_cli *cli, const uint32_t *ids, size_t n,
                                struct vd_error *err)
{
    struct vd_ctx *ctx = NULL;
    struct vd_kv_pool *cache = NULL;
    struct vd_kv *kv = NULL;
    struct vd_embed *embed = NULL;
    enum vd_pooling pooling;
    size_t d = vd_model_program(g->model)->width;
    enum vd_err e = vd_embed_pooling_of(cli, g->model, &pooling, err);
    if (e == VD_OK && (n == 0 || n > vd_model_program(g->model)->ctx))
        e = vd_error_set(err, VD_ELIMIT, "the text has %zu tokens; the model's context has %u", n,
                         vd_model_program(g->model)->ctx);
    if (e == VD_OK)
        e = vd_embed_create(&embed, g->model, pooling, err);
    if (e == VD_OK)
        e = vd_ctx_create(&ctx, g->model, g->pool,
                          vd_program_is_encoder(vd_model_program(g->model)) ? n : EMBED_ROWS, 1, err);
    if (e == VD_OK)
        e = vd_kv_pool_create(&cache, g->model, (size_t)1 << 30, err);
    if (e == VD_OK)
        e = vd_kv_open(&kv, cache, err);
    if (e == VD_OK)
        e = vd_embed_feed(ctx, kv, ids, n, pooling, embed, err);
    if (e == VD_OK)
        vd_embed_print(cli, vd_embed_vector(embed), d, n);
    vd_kv_close(kv);
    vd_kv_pool_destroy(cache);
    vd_ctx_destroy(ctx);
    vd_embed_free(embed);
    return e;
}

static enum vd_err vd_embed_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_cmd_engine g;
    const char *prompt = vd_cli_text(cli, "prompt", NULL);
    uint8_t *text = NULL;
    uint32_t *ids;
    size_t n = prompt ? strlen(prompt) : 0, n_ids;
    enum vd_err e = vd_cmd_engine_open(&g, cli, cli->arg[0], err);
    if (e == VD_OK && !prompt)
        e = vd_cli_slurp(&text, &n, "-", VD_TOK_TEXT_MAX_BYTES, err);
    if (e == VD_OK) {
        e = vd_cmd_encode(g.tok, prompt ? prompt : (const char *)text, n,
                          VD_TOK_ADD_BOS | VD_TOK_ADD_END | VD_TOK_PARSE_SPECIAL, &ids, &n_ids, err);
        if (e == VD_OK) {
            e = vd_embed_ids(&g, cli, ids, n_ids, err);
            free(ids);
        }
    }
    free(text);
    vd_cmd_engine_close(&g);
    return e;
}

static const struct vd_cli_opt vd_embed_opts[] = {
    {"prompt", 'p', "TEXT", "the text (default: standard input)", false},
    {"pooling", 0, "WAY",
     "last: of the last position; mean: of all; cls: of the first, encoders only (default: as the file says, "
     "else last, of encoders mean)",
     false},
    VD_CMD_OPTS_COMPUTE,
    {0},
};
const struct vd_cmd vd_cmd_embed = {
    .name = "embed",
    .group = "Models and text",
    .usage = "MODEL",
    .summary = "the vector of a text, of length 1",
    .help =
        "The same bits on every machine, with any threads and kernel, and those that /v1/embeddings gives.\n"
        "--json prints {\"embedding\", \"tokens\"}.\n\n"
        "    veridem embed SmolLM2 -p 'What is a ledger?' --json",
    .opts = vd_embed_opts,
    .min_args = 1,
    .max_args = 1,
    .run = vd_embed_run,
};
