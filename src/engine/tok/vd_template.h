/* Chat templates: the part of Jinja 2 that the templates inside model files use, with the settings of the
 * field (trim_blocks, lstrip_blocks, no autoescape), byte for byte what Python's jinja2 gives.
 *
 * Statements  if/elif/else, for (with if, else, loop, tuple targets), set (names, namespace attributes,
 * blocks), break, continue, comments, whitespace control Expressions strings, integers, lists, tuples, maps,
 * names, .attribute, [item], slices, + - * // %, ~, comparisons and their chains, in, and/or/not, a if b else
 * c, filters, tests, calls Filters     trim length count upper lower default d join first last string int
 * list items replace tojson safe capitalize Tests       defined undefined none string mapping iterable
 * sequence number integer boolean true false odd even in eq ne equalto Functions   raise_exception,
 * namespace, range; methods strip lstrip rstrip startswith endswith split upper lower replace of strings,
 * items keys values get of maps, cycle of loop Not here    floats and /, macros, include, extends, raw,
 * recursive loops, % formatting. upper, lower and capitalize change ASCII letters only. Each gives an error
 * that names it and the line.
 *
 * A template comes from a stranger's file, so it runs with limits, and its only effect is its output.
 *
 * Errors: VD_EFORMAT (syntax, or an operation that Python would refuse), VD_EUNSUPPORTED (Jinja that is not
 * here), VD_EUSE (raise_exception: the messages do not suit the template; the text is the template's),
 * VD_ELIMIT, VD_ENOMEM. Every message has the template's line.
 *
 * Thread rule: a parsed template is constant; any number of threads may run it. */
#ifndef VD_TEMPLATE_H
#define VD_TEMPLATE_H

#include "vd_err.h"
#include "vd_value.h"

enum {
    VD_TEMPLATE_TEXT_MAX_BYTES = 1 << 18,
    VD_TEMPLATE_NODES_MAX = 1 << 16,
    VD_TEMPLATE_DEPTH_MAX = 200, /* nesting of expressions and statements, and of values */
    VD_TEMPLATE_VARS_MAX = 1024, /* variables alive at once */
};

struct vd_template;

/* The text is copied. */
enum vd_err vd_template_parse(struct vd_template **out, const char *text, size_t n_bytes,
                              struct vd_error *err);
void vd_template_free(struct vd_template *t); /* NULL is fine */

struct vd_template_limits {
    size_t memory_bytes; /* for values made by the template; 0: 64 MiB */
    uint64_t steps;      /* nodes evaluated, and 32 bytes of string work; 0: 5,000,000 */
};

/* Runs with the variables of the map `globals`. Writes at most max_bytes to out. `limits` may be NULL. */
enum vd_err vd_template_run(const struct vd_template *t, const struct vd_value *globals,
                            const struct vd_template_limits *limits, char *out, size_t max_bytes,
                            size_t *n_bytes, struct vd_error *err);

struct vd_chat_message {
    struct vd_str role, content;
};

/* The variables of a chat: messages, add_generation_prompt, bos_token, eos_token. */
struct vd_chat {
    const struct vd_chat_message *messages;
    size_t n_messages;
    bool add_generation_prompt;
    struct vd_str bos, eos;
};

enum { VD_CHAT_MESSAGES_MAX = 1 << 16 };

/* Parses and runs in one call, with the default limits. */
enum vd_err vd_template_render(const char *text, size_t n_text_bytes, const struct vd_chat *chat, char *out,
                               size_t max_bytes, size_t *n_bytes, struct vd_error *err);

/* The same for a parsed template. */
enum vd_err vd_template_run_chat(const struct vd_template *t, const struct vd_chat *chat, char *out,
                                 size_t max_bytes, size_t *n_bytes, struct vd_error *err);

#endif
