/* Chat templates: Jinja 2 with the settings of the field (those of transformers: trim_blocks, lstrip_blocks,
 * loop controls, no autoescape, tojson without escapes), byte for byte what Python's jinja2 gives.
 *
 * Statements  if/elif/else, for (with if, else, recursive, loop, tuple targets), set (names, namespace
 *             attributes, blocks with filters), macro, call, filter, with, raw, break, continue, generation,
 *             comments, whitespace control
 * Expressions strings, integers of 64 bits, floats, lists, tuples, maps with string keys, names, .attribute,
 *             [item], slices, + - * / // % ** ~, comparisons and their chains, in, and/or/not, a if b else c,
 *             filters, tests, calls
 * Functions   raise_exception, namespace, dict, range, strftime_now
 * Filters     all of Jinja's but groupby, slice, random, truncate, wordwrap, urlize, urlencode, xmlattr,
 *             striptags, pprint and filesizeformat; tojson as transformers has it
 * Tests       all of Jinja's
 * Methods     of strings (not encode, translate and their like), maps and lists, those that change nothing
 * Not here    include, import, extends, block; * and ** in calls; format with a format after the colon.
 *             Each gives an error that names it and the line.
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
    VD_TEMPLATE_DEPTH_MAX = 200,     /* nesting of expressions and statements, and of values */
    VD_TEMPLATE_VARS_MAX = 4096,     /* variables alive at once */
    VD_TEMPLATE_RUN_DEPTH_MAX = 500, /* the same of a run, through all the macros that call each other */
};

struct vd_template;

/* The text is copied. */
enum vd_err vd_template_parse(struct vd_template **out, const char *text, size_t n_bytes,
                              struct vd_error *err);
void vd_template_free(struct vd_template *t); /* NULL is fine */

struct vd_template_options {
    size_t memory_bytes; /* for values made by the template; 0: 64 MiB */
    uint64_t steps;      /* nodes evaluated, and 32 bytes of string work; 0: 5,000,000 */
    bool has_now;        /* there is a function strftime_now, which tells the time now_s */
    int64_t now_s;       /* Unix time, 0 or more */
};

/* Runs with the variables of the map `globals`. Writes at most max_bytes to out. `limits` may be NULL. */
enum vd_err vd_template_run(const struct vd_template *t, const struct vd_value *globals,
                            const struct vd_template_options *limits, char *out, size_t max_bytes,
                            size_t *n_bytes, struct vd_error *err);

/* The variables of a chat, as transformers names them: messages, tools, documents (none),
 * add_generation_prompt, bos_token, eos_token. */
struct vd_chat {
    struct vd_value messages; /* a list of maps: role, content and what else the template knows */
    struct vd_value tools;    /* a list of maps; undefined: none */
    struct vd_value extra;    /* further variables, a map; undefined: none */
    bool add_generation_prompt;
    struct vd_str bos, eos;
    bool has_now; /* as in vd_template_options */
    int64_t now_s;
};

/* A message of plain text. It borrows pairs, role and content. */
struct vd_value vd_chat_plain(struct vd_value pairs[4], struct vd_str role, struct vd_str content);

/* Whether the template has this name anywhere: one without `tools` has no way to tell a model of them. */
bool vd_template_names(const struct vd_template *t, const char *name);

enum { VD_CHAT_MESSAGES_MAX = 1 << 16 };

/* Parses and runs in one call, with the default limits. */
enum vd_err vd_template_render(const char *text, size_t n_text_bytes, const struct vd_chat *chat, char *out,
                               size_t max_bytes, size_t *n_bytes, struct vd_error *err);

/* The same for a parsed template. */
enum vd_err vd_template_run_chat(const struct vd_template *t, const struct vd_chat *chat, char *out,
                                 size_t max_bytes, size_t *n_bytes, struct vd_error *err);

#endif
