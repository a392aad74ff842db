/* veridem perplexity: a model's quality on a text, by llama.cpp's method, so that the figures can be
 * compared. */
#include "vd_cmd.h"
#include "vd_cmd_load.h"
#include "vd_perplexity.h"

#include <stdlib.h>

static enum vd_err vd_perplexity_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_cmd_engine g;
    struct vd_perplexity p;
    uint8_t *text;
    uint32_t *ids, ctx = 512, chunks = 0;
    size_t n, n_ids;
    enum vd_err e = vd_cli_u32(cli, "ctx", 4, 1 << 20, &ctx, err);
    if (e == VD_OK)
        e = vd_cli_u32(cli, "chunks", 1, 1 << 20, &chunks, err);
    if (e == VD_OK)
        e = vd_cmd_engine_open(&g, cli, cli->arg[0], err);
    if (e != VD_OK)
        return e;
    e = vd_cmd_engine_generates(&g, err);
    if (e == VD_OK)
        e = vd_cli_slurp(&text, &n, cli->arg[1], VD_TOK_TEXT_MAX_BYTES, err);
    if (e == VD_OK) {
        e = vd_cmd_encode(g.tok, (const char *)text, n, VD_TOK_ADD_BOS, &ids, &n_ids, err);
        free(text);
    }
    if (e == VD_OK) {
        int64_t bos =
            vd_tok_adds_bos(g.tok) && vd_tok_bos(g.tok) != VD_TOK_NONE ? (int64_t)vd_tok_bos(g.tok) : -1;
        e = vd_perplexity_measure(&p, g.model, g.pool, ids, n_ids, ctx, bos, chunks, err);
        free(ids);
    }
    if (e == VD_OK && cli->json)
        vd_cli_json(cli, json_pack("{s:f,s:f,s:I,s:I}", "ppl", p.ppl, "ppl_error", p.ppl_error, "chunks",
                                   (json_int_t)p.n_chunks, "tokens", (json_int_t)p.n_counted));
    else if (e == VD_OK)
        fprintf(cli->out, "perplexity %.4f +/- %.4f over %zu chunks of %u (%zu tokens counted)\n", p.ppl,
                p.ppl_error, p.n_chunks, ctx, p.n_counted);
    vd_cmd_engine_close(&g);
    return e;
}

static const struct vd_cli_opt vd_perplexity_opts[] = {
    {"ctx", 'c', "N", "tokens of a chunk (default 512)", false},
    {"chunks", 0, "N", "only the first N chunks", false},
    VD_CMD_OPTS_COMPUTE,
    {0},
};
const struct vd_cmd vd_cmd_perplexity = {
    .name = "perplexity",
    .group = "Models and text",
    .usage = "MODEL FILE",
    .summary = "perplexity of a text (FILE - is stdin)",
    .help = "By the method of llama.cpp's llama-perplexity: the text in chunks of --ctx tokens, of each the "
            "second half counted.\n"
            "--json prints {\"ppl\", \"ppl_error\", \"chunks\", \"tokens\"}.\n\n"
            "    veridem perplexity SmolLM2 /usr/share/common-licenses/GPL-3 --ctx 512",
    .opts = vd_perplexity_opts,
    .min_args = 2,
    .max_args = 2,
    .run = vd_perplexity_run,
};
