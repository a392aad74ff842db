/* Rules of a language over bytes, as grammars and schemas state them, and their automaton (vd_automaton.h).
 *
 * Rules without recursion become one deterministic automaton. What recurses becomes a part of its own that is
 * called with a return state on the stack, which needs a decision by the next byte: when two called rules, or
 * a called rule and something else, can begin with the same byte, the rules are refused and the message names
 * them. Where a called rule can go on and can end, it goes on.
 *
 * Everything is bounded: nodes, depth, states of the way there, steps, and at last the mask's own size. A
 * builder that runs into a limit remembers it, goes on with what it has, and compile says so.
 *
 * Thread rule: one thread at a time per object. */
#ifndef VD_RULES_H
#define VD_RULES_H

#include "vd_automaton.h"
#include "vd_err.h"
#include "vd_sha256.h"

enum {
    VD_RULES_MAX = 4096,
    VD_RULES_NODES_MAX = 1 << 16,
    VD_RULES_NODE_DEPTH_MAX = 240, /* of nodes in a rule */
    VD_RULES_DEPTH_MAX = 64,       /* of groups in a rule, and of rules in rules without recursion */
    VD_RULES_NFA_MAX = 1 << 17,    /* states of the way there, */
    VD_RULES_DFA_MAX = 1 << 15,    /* before they are made fewer */
    VD_RULES_NAME_MAX_BYTES = 64,  /* longer ones are cut in messages */
    VD_RULES_REPEAT_MAX = 4096,
};
#define VD_RULES_STEPS_MAX (UINT64_C(1) << 24) /* about a second */
#define VD_RULES_NO_MAX    UINT32_MAX

struct vd_rules;
typedef uint32_t vd_expr; /* a node of one vd_rules */

struct vd_rules *vd_rules_new(void); /* NULL: no memory */
void vd_rules_free(struct vd_rules *r);

/* A rule's number; it is defined later, once. */
uint32_t vd_rules_add(struct vd_rules *r, const char *name, size_t n);
void vd_rules_define(struct vd_rules *r, uint32_t rule, vd_expr body);
/* The rule is worth calling although it does not recurse: where many places refer to it, the mask is smaller.
 * Where that leaves the next byte undecided it is written out all the same. */
void vd_rules_share(struct vd_rules *r, uint32_t rule);

/* A limit was reached: whatever is added now changes nothing any more, so that a reader may stop. */
bool vd_rules_full(const struct vd_rules *r);

vd_expr vd_rules_text(struct vd_rules *r, const char *p, size_t n); /* n 0: the empty text */
/* One character of these ranges of code points (first, last, first, last, ...), as UTF-8; surrogates and what
 * is above 10FFFF are left out. With `negated`, one that is in none of them. */
vd_expr vd_rules_chars(struct vd_rules *r, const uint32_t *ranges, size_t n_ranges, bool negated);
vd_expr vd_rules_seq(struct vd_rules *r, const vd_expr *e, size_t n);
vd_expr vd_rules_alt(struct vd_rules *r, const vd_expr *e, size_t n); /* n >= 1 */
/* The items in their order with `comma` between them, as an object's members: an item that is not required
 * may be left out. With `repeats` the last one, which is not required then, may come any number of times. n
 * >= 1. */
vd_expr vd_rules_members(struct vd_rules *r, const vd_expr *e, const bool *required, size_t n, vd_expr comma,
                         bool repeats);
/* max may be VD_RULES_NO_MAX. */
vd_expr vd_rules_repeat(struct vd_rules *r, vd_expr e, uint32_t min, uint32_t max);
vd_expr vd_rules_ref(struct vd_rules *r, uint32_t rule);
vd_expr vd_rules_byte(struct vd_rules *r, unsigned low, unsigned high); /* one of these bytes */
/* The empty text, and a decision: where a text has come to it, in this rule, no other way to read that text
 * is left. So (any text), then a mark, a commit and what has to follow is a text in which the first mark is
 * followed by that. Not at the beginning of a rule. */
vd_expr vd_rules_commit(struct vd_rules *r);

/* The mask of `root`, to out (VD_MASK_BYTES_MAX); *n its bytes. VD_ELIMIT: too large; VD_EUSE: not
 * deterministic, left-recursive, a rule without a definition, or nothing can match; VD_ENOMEM. */
enum vd_err vd_rules_compile(const struct vd_rules *r, uint32_t root, const struct vd_hash *texts_root,
                             uint8_t *out, size_t *n, struct vd_error *err);

/* ---- what people write ---- */

/* llama.cpp's GBNF: rules "name ::= ...", of which "root" is the answer; literals, [classes], ., groups, |,
 * *,
 * +, ?, {m,n}, comments. At most 256 KiB. Errors name the line. */
enum vd_err vd_grammar_compile(const char *text, size_t n, const struct vd_hash *texts_root, uint8_t *out,
                               size_t *n_out, struct vd_error *err);

enum { VD_GRAMMAR_TEXT_MAX_BYTES = 256 << 10 };

/* A JSON schema (text). What a keyword allows and this does not is refused with the keyword's path, so that
 * nothing but annotations is ignored; docs/guide/api.md has the list. "{}" is any JSON value. NULL text: any
 * JSON object. */
enum vd_err vd_schema_compile(const char *text, size_t n, const struct vd_hash *texts_root, uint8_t *out,
                              size_t *n_out, struct vd_error *err);

#endif
