/* veridem tokenize, detokenize: the text side of a model, as filters. */
#include "vd_cmd.h"
#include "vd_cmd_load.h"
#include "vd_derive.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { VD_IDS_TEXT_MAX = 64 << 20 };

static enum vd_err vd_tokenize_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_cmd_text t;
    uint8_t *text;
    uint32_t *ids;
    size_t n, n_ids;
    unsigned flags = (vd_cli_has(cli, "no-bos") ? 0 : VD_TOK_ADD_BOS) |
                     (vd_cli_has(cli, "no-special") ? 0 : VD_TOK_PARSE_SPECIAL);
    enum vd_err e = vd_cmd_text_open(&t, cli->arg[0], err);
    if (e != VD_OK)
        return e;
    if (flags & VD_TOK_ADD_BOS && vd_derive_is_encoder(t.gguf))
        flags |= VD_TOK_ADD_END; /* its texts stand between two marks */
    e = vd_cli_slurp(&text, &n, "-", VD_TOK_TEXT_MAX_BYTES, err);
    if (e == VD_OK) {
        e = vd_cmd_encode(t.tok, (const char *)text, n, flags, &ids, &n_ids, err);
        free(text);
    }
    if (e == VD_OK) {
        json_t *list = cli->json ? json_array() : NULL;
        for (size_t i = 0; i < n_ids; i++) {
            if (list)
                json_array_append_new(list, json_integer(ids[i]));
            else
                fprintf(cli->out, "%u\n", ids[i]);
        }
        if (list)
            vd_cli_json(cli, list);
        free(ids);
    }
    vd_cmd_text_close(&t);
    return e;
}

/* Ids between anything that is no digit: one a line, a JSON array, and what other tools print are all read.
 */
static enum vd_err vd_ids_read(const char *text, uint32_t **ids, size_t *n_ids, struct vd_error *err)
{
    size_t n = 0;
    uint32_t *out = malloc((strlen(text) / 2 + 1) * sizeof *out);
    if (!out)
        return vd_error_set(err, VD_ENOMEM, "no memory for the token ids");
    for (const char *p = text; *p;) {
        if (!isdigit((unsigned char)*p)) {
            if (*p == '-' || isalpha((unsigned char)*p)) {
                free(out);
                return vd_error_set(err, VD_EUSE, "token ids are whole numbers, but there is '%c' among them",
                                    *p);
            }
            p++;
            continue;
        }
        uint64_t v = 0;
        for (; isdigit((unsigned char)*p); p++)
            v = v > UINT32_MAX ? v : v * 10 + (unsigned)(*p - '0');
        if (v > UINT32_MAX) {
            free(out);
            return vd_error_set(err, VD_EUSE, "a token id is above %u", UINT32_MAX);
        }
        out[n++] = (uint32_t)v;
    }
    *ids = out;
    *n_ids = n;
    return VD_OK;
}

static enum vd_err vd_detokenize_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_cmd_text t;
    uint8_t *text;
    uint32_t *ids = NULL;
    size_t n, n_ids = 0, n_out = 0;
    char *out = NULL;
    enum vd_err e = vd_cmd_text_open(&t, cli->arg[0], err);
    if (e != VD_OK)
        return e;
    e = vd_cli_slurp(&text, &n, "-", VD_IDS_TEXT_MAX, err);
    if (e == VD_OK) {
        e = vd_ids_read((const char *)text, &ids, &n_ids, err);
        free(text);
    }
    bool special = vd_cli_has(cli, "special");
    if (e == VD_OK) {
        e = vd_tok_decode(t.tok, ids, n_ids, special, NULL, 0, &n_out, err);
        if (e == VD_OK || e == VD_ELIMIT) {
            out = malloc(n_out + 1);
            e = out ? vd_tok_decode(t.tok, ids, n_ids, special, out, n_out, &n_out, err)
                    : vd_error_set(err, VD_ENOMEM, "no memory for %zu bytes of text", n_out);
        }
    }
    if (e == VD_OK && cli->json) {
        json_t *s = json_stringn(out, n_out);
        if (s)
            vd_cli_json(cli, json_pack("{s:o}", "text", s));
        else
            e = vd_error_set(err, VD_EFORMAT,
                             "the text is not UTF-8, which JSON needs; without --json its bytes come");
    } else if (e == VD_OK) {
        fwrite(out, 1, n_out, cli->out);
    }
    free(out);
    free(ids);
    vd_cmd_text_close(&t);
    return e;
}

static const struct vd_cli_opt vd_tokenize_opts[] = {
    {"no-bos", 0, NULL, "do not begin with the model's begin-of-sequence token", false},
    {"no-special", 0, NULL, "texts of control tokens are plain text", false},
    {0},
};
const struct vd_cmd vd_cmd_tokenize = {
    .name = "tokenize",
    .group = "Models and text",
    .usage = "MODEL",
    .summary = "text on stdin, token ids out",
    .help = "Prints one id a line, or with --json an array.\n\n"
            "    printf 'Hello' | veridem tokenize SmolLM2 --no-bos",
    .opts = vd_tokenize_opts,
    .min_args = 1,
    .max_args = 1,
    .run = vd_tokenize_run,
};

static const struct vd_cli_opt vd_detokenize_opts[] = {
    {"special", 0, NULL, "show control tokens as their text", false},
    {0},
};
const struct vd_cmd vd_cmd_detokenize = {
    .name = "detokenize",
    .group = "Models and text",
    .usage = "MODEL",
    .summary = "token ids on stdin, text out",
    .help = "Reads decimal ids between spaces, commas, brackets or newlines and writes exactly the bytes "
            "they stand for.",
    .opts = vd_detokenize_opts,
    .min_args = 1,
    .max_args = 1,
    .run = vd_detokenize_run,
};
