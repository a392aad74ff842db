#include "vd_cmd_chat.h"
#include "vd_clock.h"

#include <stdlib.h>

enum { VD_CHAT_PROMPT_MAX_BYTES = 64 << 20 }; /* pages that are not written cost nothing */

static struct vd_str vd_chat_special(const struct vd_tok *tok, uint32_t id)
{
    struct vd_bytes b =
        id == VD_TOK_NONE ? (struct vd_bytes){(const uint8_t *)"", 0} : vd_tok_piece(tok, id, true);
    return (struct vd_str){(const char *)b.p, b.n};
}

enum vd_err vd_cmd_chat_render_values(const struct vd_gguf *gguf, const struct vd_tok *tok,
                                      struct vd_chat *chat, char **prompt, size_t *n_bytes,
                                      struct vd_error *err)
{
    struct vd_gguf_str text = {NULL, 0};
    chat->bos = vd_chat_special(tok, vd_tok_bos(tok));
    chat->eos = vd_chat_special(tok, vd_tok_eos(tok));
    enum vd_err e = vd_gguf_get_str(gguf, "tokenizer.chat_template", VD_GGUF_OPTIONAL, &text, err);
    if (e == VD_OK && !text.p)
        return vd_error_set(err, VD_ENOTFOUND,
                            "%.200s has no chat template: it goes on with a text (`veridem run`, "
                            "/v1/completions), and answers no chat",
                            vd_gguf_name(gguf));
    if (e != VD_OK)
        return e;
    *prompt = malloc(VD_CHAT_PROMPT_MAX_BYTES);
    if (!*prompt)
        return vd_error_set(err, VD_ENOMEM, "no memory for a prompt");
    e = vd_template_render(text.p, text.n, chat, *prompt, VD_CHAT_PROMPT_MAX_BYTES, n_bytes, err);
    if (e != VD_OK) {
        free(*prompt);
        *prompt = NULL;
    }
    return e;
}

enum vd_err vd_cmd_chat_render(const struct vd_gguf *gguf, const struct vd_tok *tok,
                               const struct vd_chat_message *messages, size_t n_messages,
                               bool add_generation_prompt, char **prompt, size_t *n_bytes,
                               struct vd_error *err)
{
    struct vd_value *nodes = malloc((5 * n_messages + 1) * sizeof *nodes), *pairs = nodes + n_messages;
    if (!nodes)
        return vd_error_set(err, VD_ENOMEM, "no memory for %zu messages", n_messages);
    for (size_t i = 0; i < n_messages; i++)
        nodes[i] = vd_chat_plain(pairs + 4 * i, messages[i].role, messages[i].content);
    struct vd_chat chat = {.messages = vd_value_list(nodes, n_messages),
                           .add_generation_prompt = add_generation_prompt,
                           .has_now = true,
                           .now_s = (int64_t)vd_clock_wall_s()};
    enum vd_err e = vd_cmd_chat_render_values(gguf, tok, &chat, prompt, n_bytes, err);
    free(nodes);
    return e;
}
