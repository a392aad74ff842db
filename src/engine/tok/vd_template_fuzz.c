/* Any text as a template over a small chat, with small limits: it ends, and writes no more than it may. */
#include "vd_template.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static const struct vd_chat_message m[] = {{{"system", 6}, {"Be brief.", 9}},
                                               {{"user", 4}, {" h\xC3\xA9llo\n", 8}}};
    const struct vd_value role = vd_value_text("role"), content = vd_value_text("content");
    const struct vd_value pairs[2][4] = {
        {role, vd_value_str(m[0].role.p, m[0].role.n), content, vd_value_str(m[0].content.p, m[0].content.n)},
        {role, vd_value_str(m[1].role.p, m[1].role.n), content,
         vd_value_str(m[1].content.p, m[1].content.n)}};
    const struct vd_value list[] = {vd_value_map(pairs[0], 2), vd_value_map(pairs[1], 2)};
    const struct vd_value globals[] = {vd_value_text("messages"), vd_value_list(list, 2)};
    const struct vd_value map = vd_value_map(globals, 1);
    const struct vd_template_options limits = {.memory_bytes = 1 << 18, .steps = 20000};
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
    free(out);
    vd_template_free(t);
    return 0;
}
