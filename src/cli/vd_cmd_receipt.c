/* Receipt files: protobuf, which is what is signed, and the JSON form for people. Which one a file holds is
 * seen at its first bytes: JSON begins with a brace, blanks aside; an envelope with the tag of its first
 * field, a line feed, and a length of two bytes, of which the first is no ASCII. */
#include "vd_cmd_receipt.h"

#include "vd_file.h"
#include "vd_receipt_json.h"

#include <stdlib.h>
#include <string.h>

enum vd_err vd_cmd_parse_receipt(const char *path, struct vd_bytes file, struct vd_envelope *e,
                                 uint32_t **tokens, struct vd_error *err)
{
    enum vd_err rc = VD_OK;
    *tokens = NULL;
    if (file.p[strspn((const char *)file.p, " \t\r\n")] == '{') {
        struct vd_error why;
        rc = vd_receipt_from_json((const char *)file.p, file.n, e, tokens, &why);
        if (rc == VD_EFALSE)
            vd_error_set(err, rc, "the receipt is not valid: %.250s", why.msg);
        else if (rc != VD_OK)
            vd_error_set(err, rc, "%.200s is not a receipt: %.250s", path, why.msg);
        return rc;
    }
    *tokens = malloc((file.n + 1) * sizeof **tokens);
    if (!*tokens)
        rc = vd_error_set(err, VD_ENOMEM, "no memory for %zu tokens", file.n);
    else if (!vd_envelope_decode(file, e, *tokens, file.n))
        rc = vd_error_set(err, VD_EFORMAT, "%.200s is not a receipt: cut off, damaged, or something else",
                          path);
    if (rc != VD_OK) {
        free(*tokens);
        *tokens = NULL;
    }
    return rc;
}

enum vd_err vd_cmd_slurp_receipt(uint8_t **out, size_t *n_bytes, const char *path, struct vd_error *err)
{
    enum vd_err rc = vd_cli_slurp(out, n_bytes, path, VD_RECEIPT_FILE_MAX, err);
    if (rc == VD_ELIMIT)
        vd_error_set(err, rc, "%.200s is not a receipt: those have at most %d MiB", path,
                     VD_RECEIPT_FILE_MAX >> 20);
    return rc;
}

enum vd_err vd_cmd_read_receipt(const char *path, struct vd_envelope *e, uint32_t **tokens,
                                struct vd_error *err)
{
    uint8_t *bytes;
    size_t n;
    enum vd_err rc = vd_cmd_slurp_receipt(&bytes, &n, path, err);
    *tokens = NULL;
    if (rc != VD_OK)
        return rc;
    rc = vd_cmd_parse_receipt(path, (struct vd_bytes){bytes, n}, e, tokens, err);
    free(bytes);
    return rc;
}

static enum vd_err vd_convert_bytes(const struct vd_envelope *e, uint8_t **out, size_t *n,
                                    struct vd_error *err)
{
    size_t cap = vd_envelope_max_bytes(e->n_prompt, e->n_output);
    *out = malloc(cap);
    *n = *out ? vd_envelope_encode(e, *out, cap) : 0;
    return *n ? VD_OK : vd_error_set(err, VD_ENOMEM, "no memory for a receipt of %zu bytes", cap);
}

static enum vd_err vd_convert_text(const struct vd_envelope *e, uint8_t **out, size_t *n,
                                   struct vd_error *err)
{
    struct vd_receipt r;
    enum vd_receipt_verdict verdict =
        vd_receipt_decode((struct vd_bytes){e->receipt.body, e->receipt.body_bytes}, &r);
    if (verdict != VD_RECEIPT_OK)
        return vd_error_set(err, VD_EFORMAT, "not a receipt: %s", vd_receipt_verdict_text(verdict));
    json_t *j = vd_receipt_to_json(e, &r);
    *out = (uint8_t *)json_dumps(j, JSON_INDENT(1));
    json_decref(j);
    *n = *out ? strlen((char *)*out) : 0;
    if (*n)
        (*out)[(*n)++] = '\n'; /* in place of the NUL */
    return *n ? VD_OK : vd_error_set(err, VD_ENOMEM, "no memory for the JSON form of a receipt");
}

static enum vd_err vd_convert_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_envelope e;
    uint32_t *tokens;
    uint8_t *out = NULL;
    size_t n;
    const char *to = cli->n_args > 1 ? cli->arg[1] : "-";
    size_t len = strlen(to);
    bool text = cli->n_args < 2 || (len > 5 && strcmp(to + len - 5, ".json") == 0);
    enum vd_err rc = vd_cmd_read_receipt(cli->arg[0], &e, &tokens, err);
    if (rc != VD_OK)
        return rc;
    rc = text ? vd_convert_text(&e, &out, &n, err) : vd_convert_bytes(&e, &out, &n, err);
    if (rc == VD_OK && text && cli->json && strcmp(to, "-") == 0) {
        vd_cli_json(cli, json_loadb((char *)out, n, 0, NULL));
    } else if (rc == VD_OK && strcmp(to, "-") == 0) {
        if (fwrite(out, 1, n, cli->out) != n)
            rc = vd_error_set(err, VD_EIO, "cannot write the receipt to standard output");
    } else if (rc == VD_OK) {
        rc = vd_file_write_atomic(to, out, n, 0600, err);
        if (rc == VD_OK && cli->json)
            vd_cli_json(cli, json_pack("{s:s,s:s,s:I}", "file", to, "form", text ? "json" : "protobuf",
                                       "bytes", (json_int_t)n));
    }
    free(out);
    free(tokens);
    return rc;
}

const struct vd_cmd vd_cmd_receipt_convert = {
    .name = "convert",
    .usage = "FILE [OUT]",
    .summary = "the other form of a receipt's file: JSON for people, or the signed bytes",
    .help = "Without OUT the JSON form is printed; with it, OUT gets JSON if its name ends in .json, else "
            "protobuf. Both hold the\n"
            "same, and `veridem verify` reads both; the schema is docs/spec/receipt.schema.json. With OUT, "
            "--json "
            "says {\"file\", \"form\", \"bytes\"}.\nSignatures are not checked here.",
    .min_args = 1,
    .max_args = 2,
    .run = vd_convert_run,
};
