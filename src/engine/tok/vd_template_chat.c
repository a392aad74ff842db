/* The variables that chat templates expect, as a tree over the caller's values. */
#include "vd_template_impl.h"

#include <stdlib.h>

static struct vd_value text(struct vd_str s)
{
    return vd_value_str(s.p ? s.p : "", s.n);
}

struct vd_value vd_chat_plain(struct vd_value pairs[4], struct vd_str role, struct vd_str content)
{
    pairs[0] = vd_value_text("role");
    pairs[1] = text(role);
    pairs[2] = vd_value_text("content");
    pairs[3] = text(content);
    return vd_value_map(pairs, 2);
}

bool vd_template_names(const struct vd_template *t, const char *name)
{
    for (size_t i = 0; i < t->n_nodes; i++)
        if (t->nodes[i].kind == VD_NODE_NAME && vd_str_is(t->nodes[i].s, name))
            return true;
    return false;
}

enum vd_err vd_template_run_chat(const struct vd_template *t, const struct vd_chat *chat, char *out,
                                 size_t max_bytes, size_t *n_bytes, struct vd_error *err)
{
    enum { PAIRS = 6 };
    bool has_tools = chat->tools.type == VD_VALUE_LIST, has_extra = chat->extra.type == VD_VALUE_MAP;
    const struct vd_value own[2 * PAIRS] = {
        vd_value_text("messages"),
        chat->messages,
        vd_value_text("tools"),
        has_tools ? chat->tools : vd_value_none(),
        vd_value_text("documents"),
        vd_value_none(),
        vd_value_text("add_generation_prompt"),
        vd_value_bool(chat->add_generation_prompt),
        vd_value_text("bos_token"),
        text(chat->bos),
        vd_value_text("eos_token"),
        text(chat->eos),
    };
    size_t n = chat->messages.type == VD_VALUE_LIST ? chat->messages.list.n : 0;
    size_t n_extra = has_extra ? chat->extra.list.n : 0;
    *n_bytes = 0;
    if (n > VD_CHAT_MESSAGES_MAX || n_extra > VD_TEMPLATE_VARS_MAX)
        return vd_error_set(err, VD_ELIMIT,
                            "the chat has %zu messages and %zu variables; the limits are %d and %d", n,
                            n_extra, VD_CHAT_MESSAGES_MAX, VD_TEMPLATE_VARS_MAX);
    struct vd_value *globals = malloc(sizeof own + 2 * n_extra * sizeof *globals);
    if (!globals)
        return vd_error_set(err, VD_ENOMEM, "no memory for a chat of %zu messages", n);
    memcpy(globals, own, sizeof own);
    if (n_extra)
        memcpy(globals + 2 * PAIRS, chat->extra.list.p, 2 * n_extra * sizeof *globals);
    const struct vd_value map = vd_value_map(globals, PAIRS + n_extra);
    const struct vd_template_options options = {.has_now = chat->has_now, .now_s = chat->now_s};
    enum vd_err e = vd_template_run(t, &map, &options, out, max_bytes, n_bytes, err);
    free(globals);
    return e;
}

enum vd_err vd_template_render(const char *template_text, size_t n_text_bytes, const struct vd_chat *chat,
                               char *out, size_t max_bytes, size_t *n_bytes, struct vd_error *err)
{
    struct vd_template *t;
    *n_bytes = 0;
    enum vd_err e = vd_template_parse(&t, template_text, n_text_bytes, err);
    if (e)
        return e;
    e = vd_template_run_chat(t, chat, out, max_bytes, n_bytes, err);
    vd_template_free(t);
    return e;
}
