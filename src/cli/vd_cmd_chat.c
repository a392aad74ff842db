#include "vd_cmd_chat.h"

#include <stdlib.h>

enum { VD_CHAT_SLACK_BYTES = 1 << 16 }; /* what a template adds to the messages, and then some */

static struct vd_str vd_chat_special(const struct vd_tok *tok, uint32_t id)
{
    struct vd_bytes b =
        id == VD_TOK_NONE ? (struct vd_bytes){(const uint8_t *)"", 0} : vd_tok_piece(tok, id, true);
    return (struct vd_str){(const char *)b.p, b.n};
}

enum vd_err vd_cmd_chat_render(const struct vd_gguf *gguf, const struct vd_tok *tok,
                               const struct vd_chat_message *messages, size_t n_messages,
                               bool add_generation_prompt, char **prompt, size_t *n_bytes,
                               struct vd_error *err)
{
    struct vd_gguf_str text = {NULL, 0};
    struct vd_chat chat = {.messages = messages,
                           .n_messages = n_messages,
                           .add_generation_prompt = add_generation_prompt,
                           .bos = vd_chat_special(tok, vd_tok_bos(tok)),
                           .eos = vd_chat_special(tok, vd_tok_eos(tok))};
    enum vd_err e = vd_gguf_get_str(gguf, "tokenizer.chat_template", VD_GGUF_REQUIRED, &text, err);
    if (e != VD_OK)
        return e;
    size_t cap = VD_CHAT_SLACK_BYTES + 128 * n_messages;
    for (size_t i = 0; i < n_messages; i++)
        cap += 4 * messages[i].content.n + messages[i].role.n;
    *prompt = malloc(cap);
    if (!*prompt)
        return vd_error_set(err, VD_ENOMEM, "no memory for a prompt of %zu bytes", cap);
    e = vd_template_render(text.p, text.n, &chat, *prompt, cap, n_bytes, err);
    if (e != VD_OK) {
        free(*prompt);
        *prompt = NULL;
    }
    return e;
}
