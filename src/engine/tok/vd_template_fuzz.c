/* Any text as a template over a small chat with a tool and a tool call, with small limits: it ends, and
 * writes no more than it may. Then with so little memory that whatever writes beyond what it asked for writes
 * beyond all of it. */
#include "vd_template.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

#define TEXT(s) vd_value_str(s, sizeof(s) - 1)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    const struct vd_value schema[] = {TEXT("city"), TEXT("Paris"), TEXT("days"), vd_value_float(2.5)};
    const struct vd_value function[] = {TEXT("name"), TEXT("weather"), TEXT("arguments"),
                                        vd_value_map(schema, 2)};
    const struct vd_value call[] = {TEXT("id"), TEXT("a1"), TEXT("function"), vd_value_map(function, 2)};
    const struct vd_value calls[] = {vd_value_map(call, 2)};
    struct vd_value pairs[2][4];
    const struct vd_value third[] = {TEXT("role"), TEXT("assistant"), TEXT("tool_calls"),
                                     vd_value_list(calls, 1)};
    const struct vd_value list[] = {
        vd_chat_plain(pairs[0], vd_str_of("system"), vd_str_of("Be brief.")),
        vd_chat_plain(pairs[1], vd_str_of("user"), vd_str_of(" h\xC3\xA9llo\n")),
        vd_value_map(third, 2),
    };
    const struct vd_value globals[] = {TEXT("messages"), vd_value_list(list, 3), TEXT("tools"),
                                       vd_value_list(calls, 1)};
    const struct vd_value map = vd_value_map(globals, 2);
    struct vd_template_options limits = {
        .memory_bytes = 1 << 18, .steps = 20000, .has_now = true, .now_s = 1753000000};
    struct vd_template *t;
    struct vd_error err = {0};
    enum vd_err e = vd_template_parse(&t, (const char *)data, n_bytes, &err);
    if (e) {
        if (e == VD_EINTERNAL || e == VD_ENOMEM || err.code != e)
            abort();
        return 0;
    }
    char *out = malloc(4096);
    size_t n;
    if (out && vd_template_run(t, &map, &limits, out, 4096, &n, &err) == VD_EINTERNAL)
        abort();
    limits.memory_bytes = n_bytes ? 16 + 8 * (size_t)data[n_bytes - 1] : 16;
    if (out && vd_template_run(t, &map, &limits, out, 4096, &n, &err) == VD_EINTERNAL)
        abort();
    free(out);
    vd_template_free(t);
    return 0;
}
