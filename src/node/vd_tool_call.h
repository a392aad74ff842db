/* Tool calls in what a model wrote. Models have no common way to call a tool; known here are
 *
 *   <tool_call>{"name": N, "arguments": {...}}</tool_call>   Hermes, Qwen, SmolLM3; several in a row
 *   <tool_call><function=N><parameter=K>V</parameter></function></tool_call>    Qwen Coder
 *   <function=N>{...}</function>                             Llama 3.1's own, functionary
 *   [TOOL_CALLS][{"name": N, "arguments": {...}}]            Mistral up to Nemo
 *   [TOOL_CALLS]N[ARGS]{...}                                 Mistral since
 *   <|tool_call|>[{"name": N, "arguments": {...}}]<|/tool_call|>     Phi-4 mini, Granite
 *   <|tool_calls_begin|> ... <|tool_calls_end|>              DeepSeek (with its own bars and blanks)
 *   <|python_tag|>{...}, or an answer that is nothing but {"name": N, "parameters": {...}} or a list of such,
 *                                                            Llama 3; N is one of the request's tools then
 *
 * with "parameters" and "arguments" meaning the same everywhere. An answer whose calls cannot be read in full
 * is all content: nothing that the model wrote is lost.
 *
 * Thread rule: pure functions. */
#ifndef VD_TOOL_CALL_H
#define VD_TOOL_CALL_H

#include "vd_value.h"

#include <jansson.h>

/* How far an answer that still grows is certain to be content. Start from zeros. */
struct vd_tool_scan {
    size_t at;  /* no call begins before it */
    bool found; /* one seems to begin at `at` */
};

/* The bytes of text[0, n) that are content whatever follows; never less than before. Blanks at their end wait
 * for what follows, and go if it is a call. */
size_t vd_tool_content(struct vd_tool_scan *s, const char *text, size_t n);

enum vd_tool_how {
    VD_TOOL_ONE = 1,    /* no more than the first call */
    VD_TOOL_NAMED = 2,  /* JSON without a mark is a call only if it begins with {"name": "N", N a tool: what
                           the mask of strict tools forces (vd_calls.h) */
    VD_TOOL_MARKED = 4, /* JSON without a mark before it is content, marks in its strings included */
};

struct vd_tool_answer {
    json_t *calls;    /* as in OpenAI's messages; NULL: there are none, all is content. json_decref */
    size_t n_content; /* [0, n_content) and [rest, n) are content */
    size_t rest;
};

/* Reads a whole answer. `tools`: the request's. `id`: the answer's, from which calls have theirs (9 letters
 * and digits, the only form that all templates take), with the number of the choice that the answer is.
 * `how`: bits of enum vd_tool_how. */
void vd_tool_read(struct vd_tool_answer *out, const char *text, size_t n, const struct vd_value *tools,
                  const char *id, uint32_t choice, unsigned how);

#endif
