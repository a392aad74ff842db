/* The variables that chat templates expect, as a tree over the caller's strings. */
#include "vd_template.h"

#include <stdlib.h>

enum { PAIRS_PER_MESSAGE = 2, GLOBALS = 4 };

static struct vd_value text(struct vd_str s)
{
    return vd_value_str(s.p ? s.p : "", s.n);
}

enum vd_err vd_template_run_chat(const struct vd_template *t, const struct vd_chat *chat, char *out,
                                 size_t max_bytes, size_t *n_bytes, struct vd_error *err)
{
    size_t n = chat->n_messages, per = 2 * PAIRS_PER_MESSAGE;
    *n_bytes = 0;
    if (n > VD_CHAT_MESSAGES_MAX)
        return vd_error_set(err, VD_ELIMIT, "the chat has %zu messages; the limit is %d", n,
                            VD_CHAT_MESSAGES_MAX);
    struct vd_value *messages = malloc((n + 1) * (1 + per) * sizeof *messages), *pairs = messages + n + 1;
    if (!messages)
        return vd_error_set(err, VD_ENOMEM, "no memory for a chat of %zu messages", n);
    for (size_t i = 0; i < n; i++) {
        struct vd_value *p = pairs + per * i;
        p[0] = vd_value_text("role");
        p[1] = text(chat->messages[i].role);
        p[2] = vd_value_text("content");
        p[3] = text(chat->messages[i].content);
        messages[i] = vd_value_map(p, PAIRS_PER_MESSAGE);
    }
    const struct vd_value globals[2 * GLOBALS] = {
        vd_value_text("messages"),
        vd_value_list(messages, n),
        vd_value_text("add_generation_prompt"),
        vd_value_bool(chat->add_generation_prompt),
        vd_value_text("bos_token"),
        text(chat->bos),
        vd_value_text("eos_token"),
        text(chat->eos),
    };
    const struct vd_value map = vd_value_map(globals, GLOBALS);
    enum vd_err e = vd_template_run(t, &map, NULL, out, max_bytes, n_bytes, err);
    free(messages);
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
