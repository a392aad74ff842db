/* A chat as a prompt, by the template in the model's file. */
#ifndef VD_CMD_CHAT_H
#define VD_CMD_CHAT_H

#include "vd_gguf.h"
#include "vd_template.h"
#include "vd_tok.h"

struct vd_chat_message {
    struct vd_str role, content;
};

/* free() *prompt. VD_ENOTFOUND: the file has no template. */
enum vd_err vd_cmd_chat_render(const struct vd_gguf *gguf, const struct vd_tok *tok,
                               const struct vd_chat_message *messages, size_t n_messages,
                               bool add_generation_prompt, char **prompt, size_t *n_bytes,
                               struct vd_error *err);

/* The same for any chat, but for its bos and eos, which are set here. */
enum vd_err vd_cmd_chat_render_values(const struct vd_gguf *gguf, const struct vd_tok *tok,
                                      struct vd_chat *chat, char **prompt, size_t *n_bytes,
                                      struct vd_error *err);

#endif
