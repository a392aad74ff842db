/* veridem template: a chat's messages as the prompt that the model was trained on. */
#include "vd_clock.h"
#include "vd_cmd.h"
#include "vd_cmd_chat.h"
#include "vd_cmd_load.h"
#include "vd_json_value.h"

#include <stdlib.h>

enum { VD_CHAT_JSON_MAX = 16 << 20 };

/* What stands on stdin: messages alone, or an object with them and what else a request has. */
struct vd_template_input {
    json_t *messages, *tools, *args; /* borrowed */
};

static enum vd_err vd_template_read(json_t *v, struct vd_template_input *in, struct vd_error *err)
{
    const char *key;
    json_t *item;
    size_t i;
    *in = (struct vd_template_input){.messages = json_is_object(v) ? json_object_get(v, "messages") : v};
    json_object_foreach(v, key, item)
    {
        if (strcmp(key, "tools") == 0)
            in->tools = item;
        else if (strcmp(key, "chat_template_kwargs") == 0)
            in->args = item;
        else if (strcmp(key, "messages") != 0)
            return vd_error_set(
                err, VD_EFORMAT,
                "stdin: \"%.60s\" is not known; an object has \"messages\", and may have \"tools\" "
                "and \"chat_template_kwargs\"",
                key);
    }
    size_t n = json_array_size(in->messages);
    if (!json_is_array(in->messages) || n == 0 || n > VD_CHAT_MESSAGES_MAX)
        return vd_error_set(err, VD_EFORMAT,
                            "stdin must be a JSON array of 1 to %d messages, or an object with one under "
                            "\"messages\"",
                            VD_CHAT_MESSAGES_MAX);
    json_array_foreach(in->messages, i, item)
    {
        if (!json_is_string(json_object_get(item, "role")))
            return vd_error_set(err, VD_EFORMAT, "message %zu must be an object with the string \"role\"", i);
    }
    if (in->tools && !json_is_array(in->tools) && !json_is_null(in->tools))
        return vd_error_set(err, VD_EFORMAT, "stdin: \"tools\" must be an array");
    if (in->args && !json_is_object(in->args))
        return vd_error_set(err, VD_EFORMAT, "stdin: \"chat_template_kwargs\" must be an object");
    return VD_OK;
}

/* The prompt of what was read. */
static enum vd_err vd_template_prompt(struct vd_cli *cli, const struct vd_cmd_text *t,
                                      const struct vd_template_input *in, char **prompt, size_t *n_prompt,
                                      struct vd_error *err)
{
    struct vd_chat chat = {.add_generation_prompt = !vd_cli_has(cli, "no-generation-prompt"),
                           .has_now = true};
    struct vd_value *memory[3] = {NULL};
    chat.now_s = (int64_t)vd_clock_wall_s();
    enum vd_err e = vd_json_value(&chat.messages, &memory[0], in->messages, err);
    if (e == VD_OK && in->tools)
        e = vd_json_value(&chat.tools, &memory[1], in->tools, err);
    if (e == VD_OK && in->args)
        e = vd_json_value(&chat.extra, &memory[2], in->args, err);
    if (e == VD_OK)
        e = vd_cmd_chat_render_values(t->gguf, t->tok, &chat, prompt, n_prompt, err);
    for (int i = 0; i < 3; i++)
        free(memory[i]);
    return e;
}

static enum vd_err vd_template_cmd_run(struct vd_cli *cli, struct vd_error *err)
{
    struct vd_cmd_text t;
    struct vd_template_input in = {.messages = NULL};
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
        e = v ? vd_template_read(v, &in, err)
              : vd_error_set(err, VD_EFORMAT, "stdin, line %d: %s", why.line, why.text);
    }
    if (e == VD_OK && !vd_cli_has(cli, "arguments-as-text"))
        e = vd_json_call_arguments(in.messages, err);
    if (e == VD_OK)
        e = vd_template_prompt(cli, &t, &in, &prompt, &n_prompt, err);
    if (e == VD_OK && cli->json)
        vd_cli_json(cli, json_pack("{s:s%}", "prompt", prompt, n_prompt));
    else if (e == VD_OK)
        fwrite(prompt, 1, n_prompt, cli->out);
    free(prompt);
    json_decref(v);
    vd_cmd_text_close(&t);
    return e;
}

static const struct vd_cli_opt vd_template_opts[] = {
    {"no-generation-prompt", 0, NULL, "end with the last message, not with the assistant's turn", false},
    {"arguments-as-text", 0, NULL, "leave the arguments of tool calls text where they are text", false},
    {0},
};
const struct vd_cmd vd_cmd_template = {
    .name = "template",
    .group = "Models and text",
    .usage = "MODEL",
    .summary = "chat messages as JSON on stdin, prompt out",
    .help =
        "Runs the chat template that the model file carries. Instead of messages alone, stdin may be an "
        "object\n"
        "with \"messages\", \"tools\" (as in a request to the API) and \"chat_template_kwargs\" (further\n"
        "variables of the template). Arguments of tool calls that are JSON text become maps, as in the "
        "API.\n\n"
        "    echo '[{\"role\": \"user\", \"content\": \"Hello\"}]' | veridem template SmolLM2\n"
        "    echo '{\"messages\": [...], \"tools\": [...]}' | veridem template MODEL --json",
    .opts = vd_template_opts,
    .min_args = 1,
    .max_args = 1,
    .run = vd_template_cmd_run,
};
