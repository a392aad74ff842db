/* POST /v1/embeddings: one or several inputs, each a job with a receipt of its own. */
#include "vd_openai_embed.h"

#include "vd_openai_impl.h"

#include <math.h>
#include <stdlib.h>

static bool wrong_input(struct vd_openai_error *e)
{
    return vd_openai_fail(
        e, 400, "invalid_value", "input",
        "'input' must be a string, a list of strings, a list of token ids, or a list of such "
        "lists, none of them empty.");
}

static bool take_ids(struct vd_openai_input *in, const json_t *list, struct vd_openai_error *e)
{
    size_t n = json_array_size(list);
    in->ids = calloc(n ? n : 1, sizeof *in->ids);
    in->n_ids = n;
    if (!in->ids)
        return vd_openai_no_memory(e);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
        if (id < 0 || id > INT32_MAX)
            return wrong_input(e);
        in->ids[i] = (uint32_t)id;
    }
    return n > 0 || wrong_input(e);
}

static bool take_input(struct vd_openai_input *in, const json_t *v, struct vd_openai_error *e)
{
    if (json_is_array(v))
        return take_ids(in, v, e);
    if (!json_is_string(v) || json_string_length(v) == 0)
        return wrong_input(e);
    in->text = (struct vd_openai_text){json_string_value(v), json_string_length(v)};
    return true;
}

static bool take_inputs(struct vd_openai_embed *r, const json_t *v, struct vd_openai_error *e)
{
    bool many = json_is_array(v) && !json_is_integer(json_array_get(v, 0));
    size_t n = many ? json_array_size(v) : 1;
    if (!v)
        return vd_openai_fail(e, 400, "missing_required_parameter", "input", "'input' is missing.");
    if (n == 0)
        return wrong_input(e);
    if (n > VD_OPENAI_INPUTS_MAX)
        return vd_openai_fail(e, 400, "invalid_value", "input",
                              "'input' has %zu entries; at most %d are taken.", n, VD_OPENAI_INPUTS_MAX);
    r->input = calloc(n, sizeof *r->input);
    if (!r->input)
        return vd_openai_no_memory(e);
    r->n_inputs = n;
    for (size_t i = 0; i < n; i++)
        if (!take_input(&r->input[i], many ? json_array_get(v, i) : v, e))
            return false;
    return true;
}

static bool check_names(const json_t *object, struct vd_openai_error *e)
{
    static const char *const known[] = {"model", "input", "encoding_format", "dimensions", "user"};
    const char *key;
    json_t *v;
    char name[64];
    json_object_foreach((json_t *)(uintptr_t)object, key, v)
    {
        size_t i = 0;
        while (i < sizeof known / sizeof known[0] && strcmp(key, known[i]) != 0)
            i++;
        vd_openai_shown(name, key);
        if (i == sizeof known / sizeof known[0] && !json_is_null(v))
            return vd_openai_fail(e, 400, "unsupported_parameter", name,
                                  "The parameter '%s' is not supported.", name);
    }
    if (vd_openai_get(object, "dimensions"))
        return vd_openai_fail(
            e, 400, "unsupported_parameter", "dimensions",
            "The parameter 'dimensions' is not supported: a receipt is for the whole vector. "
            "Cut it yourself, and divide by its length.");
    return true;
}

static bool take_all(struct vd_openai_embed *r, const json_t *object, struct vd_openai_error *e)
{
    if (!json_is_object(object))
        return vd_openai_fail(e, 400, "invalid_type", NULL, "The body must be a JSON object.");
    if (!check_names(object, e))
        return false;
    const json_t *format = vd_openai_get(object, "encoding_format");
    r->model = json_string_value(vd_openai_get(object, "model"));
    if (!r->model)
        return vd_openai_fail(e, 400, "missing_required_parameter", "model",
                              "'model' must be the name of a model.");
    if (format && !vd_openai_is_text(format, "float", "base64"))
        return vd_openai_fail(e, 400, "invalid_value", "encoding_format",
                              "'encoding_format' must be \"float\" or \"base64\".");
    r->base64 = format && strcmp(json_string_value(format), "base64") == 0;
    return take_inputs(r, vd_openai_get(object, "input"), e);
}

bool vd_openai_embed_parse(struct vd_openai_embed *out, struct vd_bytes body, struct vd_openai_error *e)
{
    *out = (struct vd_openai_embed){.json = vd_openai_read_body(body, e)};
    bool ok = out->json && take_all(out, out->json, e);
    if (!ok)
        vd_openai_embed_free(out);
    return ok;
}

void vd_openai_embed_free(struct vd_openai_embed *r)
{
    for (size_t i = 0; i < r->n_inputs; i++)
        free(r->input[i].ids);
    free(r->input);
    json_decref(r->json);
    json_decref(r->data);
    json_decref(r->receipts);
    *r = (struct vd_openai_embed){0};
}

/* ---- out ---- */

/* RFC 4648 of the bits, little-endian. */
static json_t *as_base64(const uint32_t *bits, size_t n)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t n_bytes = 4 * n, at = 0;
    uint8_t *raw = calloc(1, n_bytes + 2);
    char *text = malloc(n_bytes / 3 * 4 + 5);
    json_t *j = NULL;
    if (raw && text) {
        for (size_t i = 0; i < n; i++)
            vd_le32_store(raw + 4 * i, bits[i]);
        for (size_t i = 0; i < n_bytes; i += 3) {
            uint32_t v = (uint32_t)raw[i] << 16 | (uint32_t)raw[i + 1] << 8 | raw[i + 2];
            text[at++] = digit[v >> 18];
            text[at++] = digit[v >> 12 & 63];
            text[at++] = i + 1 < n_bytes ? digit[v >> 6 & 63] : '=';
            text[at++] = i + 2 < n_bytes ? digit[v & 63] : '=';
        }
        j = json_stringn(text, at);
    }
    free(raw);
    free(text);
    return j;
}

static json_t *as_floats(const uint32_t *bits, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_real((double)vd_f32_from_bits(bits[i])));
    return list;
}

bool vd_openai_embed_add(struct vd_openai_embed *r, const uint32_t *bits, size_t n, uint32_t n_prompt,
                         const char *receipt_id, struct vd_amount amount, struct vd_openai_error *e)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(vd_f32_from_bits(bits[i])))
            return vd_openai_fail(e, 502, "not_finite", NULL,
                                  "The model's vector of input %zu is not finite (receipt %s).",
                                  r->data ? json_array_size(r->data) : 0, receipt_id);
    r->data = r->data ? r->data : json_array();
    r->receipts = r->receipts ? r->receipts : json_array();
    json_t *v = r->base64 ? as_base64(bits, n) : as_floats(bits, n);
    json_t *entry = json_pack("{s:s, s:o, s:I}", "object", "embedding", "embedding", v, "index",
                              (json_int_t)json_array_size(r->data));
    r->n_prompt += n_prompt;
    if (json_array_append_new(r->data, entry) != 0 ||
        json_array_append_new(r->receipts, json_string(receipt_id)) != 0 ||
        !vd_amount_add(&r->amount, r->amount, amount))
        return vd_openai_no_memory(e);
    return true;
}

char *vd_openai_embed_format(const struct vd_openai_embed *r)
{
    json_t *j = json_pack("{s:s, s:O, s:s, s:{s:I, s:I}, s:{s:O, s:I}}", "object", "list", "data", r->data,
                          "model", r->model, "usage", "prompt_tokens", (json_int_t)r->n_prompt,
                          "total_tokens", (json_int_t)r->n_prompt, "veridem", "receipts", r->receipts,
                          "amount_micro", (json_int_t)r->amount.micro);
    char *text = j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(j);
    return text;
}
