/* veridem template: a chat's messages as the prompt that the model was trained on. */
#include "vd_cmd.h"
#include "vd_cmd_chat.h"
#include "vd_cmd_load.h"

#include <stdlib.h>

enum { VD_CHAT_JSON_MAX = 16 << 20 };

static enum vd_err vd_template_read(json_t *v, struct vd_chat_message **out, size_t *n, struct vd_error *err)
{
    json_t *list = json_is_object(v) ? json_object_get(v, "messages") : v;
    *n = json_array_size(list);
    *out = NULL;
    if (!json_is_array(list) || *n == 0 || *n > VD_CHAT_MESSAGES_MAX)
        return vd_error_set(err, VD_EFORMAT,
                            "stdin must be a JSON array of 1 to %d messages, or an object with one under "
                            "\"messages\"",
                            VD_CHAT_MESSAGES_MAX);
    *out = calloc(*n, sizeof **out);
    if (!*out)
        return vd_error_set(err, VD_ENOMEM, "no memory for %zu messages", *n);
    for (size_t i = 0; i < *n; i++) {
        const char *role, *content;
        size_t role_n, content_n;
        if (json_unpack(json_array_get(list, i), "{s:s%,s:s%}", "role", &role, &role_n, "content", &content,
                        &content_n) != 0)
            return vd_error_set(err, VD_EFORMAT, "message %zu must have the strings \"role\" and \"content\"",
                                i);
        (*out)[i] = (struct vd_chat_message){{role, role_n}, {content, content_n}};
    }
    return VD_OK;
}

static enum vd_err vd_template_cmd_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_cmd_text t;
    struct vd_chat_message *messages = NULL;
    json_error_t why;
    uint8_t *text;
    char *prompt = NULL;
    size_t n, n_prompt = 0;
    enum vd_err e = vd_cmd_text_open(&t, cli->arg[0], err);
    if (e != VD_OK)
        return e;
    e = vd_cli_slurp(&text, &n, "-", VD_CHAT_JSON_MAX, err);
    json_t *v = NULL;
    if (e == VD_OK) {
        v = json_loadb((const char *)text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
        free(text);
        e = v ? vd_template_read(v, &messages, &n, err)
              : vd_error_set(err, VD_EFORMAT, "stdin, line %d: %s", why.line, why.text);
    }
    if (e == VD_OK)
        e = vd_cmd_chat_render(t.gguf, t.tok, messages, n, !vd_cli_has(cli, "no-generation-prompt"), &prompt,
                               &n_prompt, err);
    if (e == VD_OK && cli->json)
        vd_cli_json(cli, json_pack("{s:s%}", "prompt", prompt, n_prompt));
    else if (e == VD_OK)
        fwrite(prompt, 1, n_prompt, cli->out);
    free(prompt);
    free(messages);
    json_decref(v);
    vd_cmd_text_close(&t);
    return e;
}

static const struct vd_cli_opt vd_template_opts[] = {
    {"no-generation-prompt", 0, NULL, "end with the last message, not with the assistant's turn", false},
    {0},
};
const struct vd_cmd vd_cmd_template = {
    .name = "template",
    .group = "Models and text",
    .usage = "MODEL",
    .summary = "chat messages as JSON on stdin, prompt out",
    .help = "Runs the chat template that the model file carries.\n\n"
            "    echo '[{\"role\": \"user\", \"content\": \"Hello\"}]' | veridem template SmolLM2",
    .opts = vd_template_opts,
    .min_args = 1,
    .max_args = 1,
    .run = vd_template_cmd_run,
};
