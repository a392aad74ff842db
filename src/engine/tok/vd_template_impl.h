/* The inside of templates: tokens, nodes and the state of a run, shared by the files vd_template*.c. */
#ifndef VD_TEMPLATE_IMPL_H
#define VD_TEMPLATE_IMPL_H

#include "vd_arena.h"
#include "vd_template.h"

/* ---- tokens (vd_template_lex.c) ---- */

enum vd_token_type {
    VD_TOKEN_END,
    VD_TOKEN_DATA,
    VD_TOKEN_BLOCK_BEGIN,
    VD_TOKEN_BLOCK_END,
    VD_TOKEN_OUT_BEGIN,
    VD_TOKEN_OUT_END,
    VD_TOKEN_NAME,
    VD_TOKEN_STR, /* s is unescaped */
    VD_TOKEN_INT,
    VD_TOKEN_OP, /* s is the operator */
};

struct vd_token {
    enum vd_token_type type;
    uint32_t line;
    struct vd_str s;
    int64_t i;
};

struct vd_lexer {
    const char *p; /* the text, newlines already made \n */
    size_t n, at;
    uint32_t line, depth; /* depth: open brackets of this tag */
    char brackets[64];
    enum { VD_LEX_ROOT, VD_LEX_BLOCK, VD_LEX_OUT } state;
    bool line_starting;
    char *strings; /* memory for unescaped strings: as much as the text has */
    size_t strings_n;
    struct vd_error *err;
};

enum vd_err vd_lex_next(struct vd_lexer *l, struct vd_token *out);

/* An error at a line. */
enum vd_err vd_template_error(struct vd_error *err, enum vd_err code, uint32_t line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* ---- nodes (vd_template_parse.c) ---- */

enum vd_node_kind {
    VD_NODE_DATA,      /* s */
    VD_NODE_OUT,       /* a */
    VD_NODE_IF,        /* a condition, b then, c else */
    VD_NODE_FOR,       /* a targets (names), b iterable, c body, d else, e filter */
    VD_NODE_SET,       /* a target (name or attribute of a name), b value */
    VD_NODE_SET_BLOCK, /* a target, b body */
    VD_NODE_BREAK,
    VD_NODE_CONTINUE,
    VD_NODE_CONST,   /* value */
    VD_NODE_NAME,    /* s */
    VD_NODE_LIST,    /* a items; is_tuple */
    VD_NODE_MAP,     /* a keys and values in turn */
    VD_NODE_ATTR,    /* a, s */
    VD_NODE_ITEM,    /* a, b */
    VD_NODE_SLICE,   /* a, b start, c stop, d step; each of b, c, d may be missing */
    VD_NODE_CALL,    /* a callee, b arguments (keyword arguments have s) */
    VD_NODE_FILTER,  /* a, s name, b arguments */
    VD_NODE_TEST,    /* a, s name, b arguments */
    VD_NODE_NOT,     /* a */
    VD_NODE_NEG,     /* a */
    VD_NODE_POS,     /* a */
    VD_NODE_AND,     /* a, b */
    VD_NODE_OR,      /* a, b */
    VD_NODE_COND,    /* a condition, b then, c else or missing */
    VD_NODE_BINARY,  /* op, a, b */
    VD_NODE_COMPARE, /* a first, b further operands, each with its op */
};

enum vd_op {
    VD_OP_NONE,
    VD_OP_ADD,
    VD_OP_SUB,
    VD_OP_MUL,
    VD_OP_FLOORDIV,
    VD_OP_MOD,
    VD_OP_CONCAT,
    VD_OP_EQ,
    VD_OP_NE,
    VD_OP_LT,
    VD_OP_LE,
    VD_OP_GT,
    VD_OP_GE,
    VD_OP_IN,
    VD_OP_NOT_IN,
};

struct vd_node {
    enum vd_node_kind kind;
    uint32_t line;
    struct vd_node *a, *b, *c, *d, *e, *next;
    union {
        struct vd_str s;
        struct vd_value value;
    };
    enum vd_op op;         /* of a binary node */
    enum vd_op operand_op; /* of an operand of a comparison */
    struct vd_str key;     /* of a keyword argument; empty otherwise */
};

struct vd_template {
    char *text;    /* newlines normalised */
    char *strings; /* unescaped string literals */
    struct vd_node *nodes;
    size_t n_nodes, nodes_max;
    struct vd_node *body;
};

/* ---- a run (vd_template_eval.c, vd_template_ops.c) ---- */

struct vd_loop {
    const struct vd_value *items;
    int64_t index0, n;
};

struct vd_namespace {
    struct vd_str keys[32];
    struct vd_value values[32];
    size_t n;
};

struct vd_var {
    struct vd_str name;
    struct vd_value value;
};

struct vd_run {
    const struct vd_value *globals;
    struct vd_arena arena;
    uint64_t steps_left;
    char *out;
    size_t out_n, out_max;
    struct vd_var vars[VD_TEMPLATE_VARS_MAX];
    size_t n_vars, frame; /* frame: the first variable of the innermost loop body */
    uint32_t line, depth;
    struct vd_error *err;
    enum vd_err e;
    enum { VD_FLOW_ON, VD_FLOW_BREAK, VD_FLOW_CONTINUE } flow;
};

/* Evaluates; false after an error, which is in r->e. */
bool vd_run_eval(struct vd_run *r, const struct vd_node *n, struct vd_value *out);

/* Records an error at the current line and returns false. */
bool vd_run_fail(struct vd_run *r, enum vd_err code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Memory of the run, or NULL after an error; charges steps for the bytes. */
void *vd_run_alloc(struct vd_run *r, size_t n_bytes);
bool vd_run_charge(struct vd_run *r, uint64_t steps);

/* The steps of looking for a key among n others: a long one may have to be compared to its end each time. */
static inline uint64_t vd_run_find_steps(size_t n, struct vd_str key)
{
    return n / 8 + (uint64_t)n * (key.n / 32);
}

enum { VD_ARGS_MAX = 32 };

struct vd_args {
    struct vd_value v[VD_ARGS_MAX];
    struct vd_str key[VD_ARGS_MAX]; /* empty for positional */
    size_t n;
};

/* Operations on values (vd_template_ops.c): each returns false after an error. */
bool vd_op_truth(const struct vd_value *v);
bool vd_op_equal(struct vd_run *r, const struct vd_value *a, const struct vd_value *b, int depth, bool *out);
bool vd_op_compare(struct vd_run *r, enum vd_op op, const struct vd_value *a, const struct vd_value *b,
                   bool *out);
bool vd_op_contains(struct vd_run *r, const struct vd_value *in, const struct vd_value *v, bool *out);
bool vd_op_binary(struct vd_run *r, enum vd_op op, const struct vd_value *a, const struct vd_value *b,
                  struct vd_value *out);
bool vd_op_attr(struct vd_run *r, const struct vd_value *v, struct vd_str name, struct vd_value *out);
bool vd_op_item(struct vd_run *r, const struct vd_value *v, const struct vd_value *key, struct vd_value *out);
bool vd_op_slice(struct vd_run *r, const struct vd_value *v, const struct vd_value bounds[3],
                 struct vd_value *out);
bool vd_op_length(struct vd_run *r, const struct vd_value *v, int64_t *out);
/* The items that a loop over v visits, as a list. */
bool vd_op_iterate(struct vd_run *r, const struct vd_value *v, struct vd_value *out);
bool vd_op_concat(struct vd_run *r, struct vd_str a, struct vd_str b, struct vd_value *out);
/* Python's str(v). */
bool vd_op_str(struct vd_run *r, const struct vd_value *v, struct vd_str *out);

/* By name (vd_template_call.c). */
bool vd_call_filter(struct vd_run *r, struct vd_str name, const struct vd_value *v,
                    const struct vd_args *args, struct vd_value *out);
bool vd_call_test(struct vd_run *r, struct vd_str name, const struct vd_value *v, const struct vd_args *args,
                  bool *out);
bool vd_call_method(struct vd_run *r, struct vd_str name, const struct vd_value *self,
                    const struct vd_args *args, struct vd_value *out);
bool vd_call_function(struct vd_run *r, struct vd_str name, const struct vd_args *args, struct vd_value *out);

/* UTF-8 white space as Python's str.strip sees it: the bytes of the character at p, or 0. */
size_t vd_space_at(const char *p, size_t n);
size_t vd_space_before(const char *p, size_t n); /* of the one that ends at p + n */

#endif
