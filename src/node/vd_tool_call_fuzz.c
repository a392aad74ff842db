/* Answers of any bytes. The first byte says where a stream is cut: its low bit, whether at most one call is
 * wanted. However an answer arrives, what was sent of it is content in the end; the parts lie in it, and
 * every call is complete: a name, arguments, an id that no other call has. */
#include "vd_tool_call.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

#define TEXT(s) vd_value_str(s, sizeof(s) - 1)

static void need(bool truth)
{
    if (!truth)
        abort();
}

/* Of a heap block of its own, so that a sanitizer sees a read past the end. */
static size_t content(struct vd_tool_scan *s, const uint8_t *text, size_t n)
{
    char *copy = malloc(n ? n : 1);
    need(copy != NULL);
    memcpy(copy, text, n);
    size_t may = vd_tool_content(s, copy, n);
    free(copy);
    return may;
}

static void check_calls(const json_t *calls, bool one)
{
    json_t *ids = json_object(), *call;
    size_t i;
    need(json_array_size(calls) > 0 && (!one || json_array_size(calls) == 1));
    json_array_foreach(calls, i, call)
    {
        const char *id, *type, *name, *arguments;
        need(json_unpack(call, "{s:s, s:s, s:{s:s, s:s}!}", "id", &id, "type", &type, "function", "name",
                         &name, "arguments", &arguments) == 0);
        need(strlen(id) == 9 && name[0] && !json_object_get(ids, id));
        json_object_set_new(ids, id, json_true());
    }
    json_decref(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    const struct vd_value type[] = {TEXT("type"), TEXT("string")};
    const struct vd_value property[] = {TEXT("s"), vd_value_map(type, 1)};
    const struct vd_value parameters[] = {TEXT("properties"), vd_value_map(property, 1)};
    const struct vd_value add[] = {TEXT("name"), TEXT("add"), TEXT("parameters"),
                                   vd_value_map(parameters, 1)};
    const struct vd_value weather[] = {TEXT("name"), TEXT("weather")};
    const struct vd_value f[2][2] = {{TEXT("function"), vd_value_map(add, 2)},
                                     {TEXT("function"), vd_value_map(weather, 1)}};
    const struct vd_value list[] = {vd_value_map(f[0], 1), vd_value_map(f[1], 1)};
    const struct vd_value tools = vd_value_list(list, 2);
    if (n_bytes < 1)
        return 0;
    unsigned how = data[0] & 7; /* bits of vd_tool_how */
    size_t step = 1 + data[0] / 8, n = n_bytes - 1, sent = 0;
    struct vd_tool_scan scan = {0};
    for (size_t k = 0; k <= n; k += step) {
        size_t may = content(&scan, data + 1, k);
        need(may >= sent && may <= k);
        sent = may;
    }
    char *text = malloc(n ? n : 1);
    struct vd_tool_answer a;
    need(text != NULL);
    memcpy(text, data + 1, n);
    vd_tool_read(&a, text, n, &tools, "chatcmpl-1", 0, how);
    need(sent <= a.n_content && a.n_content <= a.rest && a.rest <= n);
    if (a.calls)
        check_calls(a.calls, how & VD_TOOL_ONE);
    json_decref(a.calls);
    free(text);
    return 0;
}
