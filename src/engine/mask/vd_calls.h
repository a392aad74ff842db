/* Answers that may call tools, as a mask: any text, but where it begins a call, the call is one of a tool of
 * the request, with arguments that follow the tool's schema if the tool is strict, and any JSON object if
 * not.
 *
 * A call begins with a mark (vd_calls_mark.. below, the ones that node's reader of calls knows). Which of
 * them a model uses its chat template says. The first one in an answer decides: what follows is that call,
 * and then others, or the end. Marks that the template does not name cannot be written. Whatever the
 * template, an answer that begins, blanks aside, with {"name": "N", N a tool, is a call of it as JSON, and
 * nothing else.
 *
 * Thread rule: pure functions. */
#ifndef VD_CALLS_H
#define VD_CALLS_H

#include "vd_err.h"
#include "vd_sha256.h"

#include <stddef.h>
#include <stdint.h>

/* DeepSeek's, with its own bars and blanks. */
#define VD_CALLS_BAR   "\uFF5C"
#define VD_CALLS_BLANK "\u2581"
#define VD_CALLS_BEGIN "<" VD_CALLS_BAR "tool" VD_CALLS_BLANK "calls" VD_CALLS_BLANK "begin" VD_CALLS_BAR ">"
#define VD_CALLS_END   "<" VD_CALLS_BAR "tool" VD_CALLS_BLANK "calls" VD_CALLS_BLANK "end" VD_CALLS_BAR ">"
#define VD_CALL_BEGIN  "<" VD_CALLS_BAR "tool" VD_CALLS_BLANK "call" VD_CALLS_BLANK "begin" VD_CALLS_BAR ">"
#define VD_CALL_END    "<" VD_CALLS_BAR "tool" VD_CALLS_BLANK "call" VD_CALLS_BLANK "end" VD_CALLS_BAR ">"
#define VD_CALL_SEP    "<" VD_CALLS_BAR "tool" VD_CALLS_BLANK "sep" VD_CALLS_BAR ">"

/* How calls are written. */
enum vd_calls_form {
    VD_CALLS_TAGGED,          /* <tool_call>{"name": N, "arguments": {..}}</tool_call> */
    VD_CALLS_TAGGED_XML,      /* <tool_call><function=N><parameter=K>V</parameter></function></tool_call> */
    VD_CALLS_FUNCTION,        /* <function=N>{..}</function> */
    VD_CALLS_MISTRAL,         /* [TOOL_CALLS][{"name": N, "arguments": {..}}] */
    VD_CALLS_MISTRAL_ARGS,    /* [TOOL_CALLS]N[ARGS]{..} */
    VD_CALLS_MISTRAL_CALL_ID, /* [TOOL_CALLS]N[CALL_ID]I[ARGS]{..} */
    VD_CALLS_LIST,            /* <|tool_call|>[{"name": N, "arguments": {..}}]<|/tool_call|> */
    VD_CALLS_PYTHON,          /* <|python_tag|>{"name": N, "parameters": {..}} */
    VD_CALLS_DEEPSEEK_BLOCK,  /* CALLS_BEGIN CALL_BEGIN function SEP N, a block of JSON, CALL_END CALLS_END */
    VD_CALLS_DEEPSEEK,        /* the same with N SEP {..} */
    VD_CALLS_FORMS
};

/* A bit for every form that a chat template names; of Mistral's, of DeepSeek's, and of <tool_call>'s one. */
uint32_t vd_calls_forms(const char *chat_template, size_t n);

/* The mask. `text` is JSON:
 *     {"tools": [{"name": N, "strict": bool, "parameters": schema}], "one": bool, "text": schema}
 * one: an answer has one call at most; text: what has no call is JSON of this schema, and the call has a
 * mark; strict and text may be absent, and parameters, which stand for no members. Errors as
 * vd_schema_compile's; they name the tool. */
enum vd_err vd_calls_compile(const char *text, size_t n, uint32_t forms, const struct vd_hash *texts_root,
                             uint8_t *out, size_t *n_out, struct vd_error *err);

#endif
