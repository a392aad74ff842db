/* What stands behind a path's question mark. It is read as bodies are: a parameter that the endpoint does not
 * have, a value that it does not know and one that is there twice are refused by name, so that nobody gets
 * something else than was asked for. MHD has undone the percent signs; bytes behind a NUL are counted too. */
#include "vd_gateway_impl.h"

#include <microhttpd.h>

struct reading {
    const char *path;
    struct gw_query *out;
    bool has_format, ok;
    struct vd_openai_error *e;
};

static bool is(const char *text, size_t n, const char *word)
{
    return text && n == strlen(word) && memcmp(text, word, n) == 0;
}

static bool read_format(struct reading *r, const char *value, size_t n)
{
    r->out->file = is(value, n, "file");
    if (r->has_format)
        return vd_openai_fail(r->e, 400, "invalid_value", "format", "The parameter 'format' is there twice.");
    r->has_format = true;
    return r->out->file || is(value, n, "json") ||
           vd_openai_fail(r->e, 400, "unsupported_value", "format",
                          "The parameter 'format' is 'json' or 'file', not '%.60s'.", value ? value : "");
}

static enum MHD_Result on_parameter(void *arg, enum MHD_ValueKind kind, const char *key, size_t n_key,
                                    const char *value, size_t n_value)
{
    struct reading *r = arg;
    (void)kind;
    if (strncmp(r->path, GW_RECEIPTS_PATH, strlen(GW_RECEIPTS_PATH)) == 0 && is(key, n_key, "format"))
        r->ok = read_format(r, value, n_value);
    else
        r->ok = vd_openai_fail(r->e, 400, "unsupported_parameter", key,
                               "The parameter '%.60s' behind the question mark is not supported by %.60s.",
                               key, r->path);
    return r->ok ? MHD_YES : MHD_NO;
}

bool gw_query_read(struct gw_query *out, struct MHD_Connection *connection, const char *path,
                   struct vd_openai_error *e)
{
    struct reading r = {.path = path, .out = out, .ok = true, .e = e};
    *out = (struct gw_query){0};
    MHD_get_connection_values_n(connection, MHD_GET_ARGUMENT_KIND, on_parameter, &r);
    return r.ok;
}
