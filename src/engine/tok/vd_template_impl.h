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
    VD_TOKEN_FLOAT,
    VD_TOKEN_OP, /* s is the operator */
};

struct vd_token {
    enum vd_token_type type;
    uint32_t line;
    struct vd_str s;
    int64_t i;
    double f;
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
    VD_NODE_DATA,         /* s */
    VD_NODE_OUT,          /* a */
    VD_NODE_IF,           /* a condition, b then, c else */
    VD_NODE_FOR,          /* a targets (names), b iterable, c body, d else, e filter */
    VD_NODE_SET,          /* a target (name or attribute of a name), b value */
    VD_NODE_SET_BLOCK,    /* a target, b body, c filters or missing */
    VD_NODE_WITH,         /* a names, each with its value in a; b body */
    VD_NODE_MACRO,        /* s name, a parameters (names, each with its default in a), b body, uses */
    VD_NODE_CALL_BLOCK,   /* a call, b a macro node: the caller */
    VD_NODE_FILTER_BLOCK, /* a filters, b body */
    VD_NODE_BREAK,
    VD_NODE_CONTINUE,
    VD_NODE_CAPTURED, /* what a block made, for its filters */
    VD_NODE_CONST,    /* value */
    VD_NODE_NAME,     /* s */
    VD_NODE_LIST,     /* a items; is_tuple */
    VD_NODE_MAP,      /* a keys and values in turn */
    VD_NODE_ATTR,     /* a, s */
    VD_NODE_ITEM,     /* a, b */
    VD_NODE_SLICE,    /* a, b start, c stop, d step; each of b, c, d may be missing */
    VD_NODE_CALL,     /* a callee, b arguments (keyword arguments have s) */
    VD_NODE_FILTER,   /* a, s name, b arguments */
    VD_NODE_TEST,     /* a, s name, b arguments */
    VD_NODE_NOT,      /* a */
    VD_NODE_NEG,      /* a */
    VD_NODE_POS,      /* a */
    VD_NODE_AND,      /* a, b */
    VD_NODE_OR,       /* a, b */
    VD_NODE_COND,     /* a condition, b then, c else or missing */
    VD_NODE_BINARY,   /* op, a, b */
    VD_NODE_COMPARE,  /* a first, b further operands, each with its op */
};

enum vd_op {
    VD_OP_NONE,
    VD_OP_ADD,
    VD_OP_SUB,
    VD_OP_MUL,
    VD_OP_DIV,
    VD_OP_FLOORDIV,
    VD_OP_MOD,
    VD_OP_POW,
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
    uint32_t uses;         /* of a macro: VD_MACRO_... */
    struct vd_str key;     /* of a keyword argument; empty otherwise */
};

enum { VD_MACRO_CALLER = 1, VD_MACRO_KWARGS = 2, VD_MACRO_VARARGS = 4 }; /* names that its body has */

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
    const struct vd_node *recursive; /* the loop's node, to run it again for other items; NULL: it may not */
    uint32_t depth0, frame;          /* frame: where the loop stands */
    struct vd_value changed;         /* the arguments of the last call of loop.changed, a list */
};

struct vd_namespace {
    struct vd_str keys[32];
    struct vd_value values[32];
    size_t n;
};

/* A macro sees the variables of the frame in which it was defined, as they are when it is called. */
struct vd_macro {
    const struct vd_node *node;
    uint32_t frame;
};

struct vd_method {
    struct vd_value self;
    struct vd_str name;
};

/* Variables live on one stack, cut into frames: the template, and each loop round, block or macro that runs.
 * A name is looked for in the running frame, then in the frame around it in the text. */
struct vd_frame {
    uint32_t start;  /* its first variable; they end where the next frame starts */
    uint32_t around; /* the frame around it, a lower number; its own for frame 0 */
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
    uint32_t n_vars, n_frames; /* the last frame is the running one */
    struct vd_frame frames[VD_TEMPLATE_RUN_DEPTH_MAX + 1];
    struct vd_value captured; /* of VD_NODE_CAPTURED */
    uint64_t n_stored;        /* values put into namespaces: they outlive the expression that made them */
    int64_t now_s;            /* of strftime_now; negative: there is none */
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

/* The argument at a position or with a name, or NULL. */
const struct vd_value *vd_args_find(const struct vd_args *a, size_t position, const char *name);
/* A string, integer or boolean argument, or `missing` (NULL for a string: it must be there). */
bool vd_args_str(struct vd_run *r, const struct vd_args *a, size_t position, const char *name,
                 const char *missing, struct vd_str *out);
bool vd_args_int(struct vd_run *r, const struct vd_args *a, size_t position, const char *name,
                 int64_t missing, int64_t *out);
bool vd_args_truth(const struct vd_args *a, size_t position, const char *name, bool missing);
bool vd_args_wrong(struct vd_run *r, struct vd_str name); /* fails: not these arguments */

/* Calls a value: a function, macro or method. */
bool vd_run_call(struct vd_run *r, const struct vd_value *f, const struct vd_args *args,
                 struct vd_value *out);

/* Operations on values (vd_template_ops.c): each returns false after an error. */
bool vd_op_truth(const struct vd_value *v);
bool vd_op_equal(struct vd_run *r, const struct vd_value *a, const struct vd_value *b, int depth, bool *out);
bool vd_op_compare(struct vd_run *r, enum vd_op op, const struct vd_value *a, const struct vd_value *b,
                   bool *out);
/* < 0, 0, > 0: Python's order of numbers, strings or lists. */
bool vd_op_order(struct vd_run *r, const struct vd_value *a, const struct vd_value *b, int depth, int *out);
bool vd_op_contains(struct vd_run *r, const struct vd_value *in, const struct vd_value *v, bool *out);
bool vd_op_binary(struct vd_run *r, enum vd_op op, const struct vd_value *a, const struct vd_value *b,
                  struct vd_value *out);
bool vd_op_attr(struct vd_run *r, const struct vd_value *v, struct vd_str name, struct vd_value *out);
/* The value of a map's key, *out NULL if there is none; fails for what cannot be a key. */
bool vd_op_find(struct vd_run *r, const struct vd_value *map, const struct vd_value *key,
                const struct vd_value **out);
bool vd_op_item(struct vd_run *r, const struct vd_value *v, const struct vd_value *key, struct vd_value *out);
bool vd_op_slice(struct vd_run *r, const struct vd_value *v, const struct vd_value bounds[3],
                 struct vd_value *out);
bool vd_op_length(struct vd_run *r, const struct vd_value *v, int64_t *out);
/* The items that a loop over v visits, as a list. */
bool vd_op_iterate(struct vd_run *r, const struct vd_value *v, struct vd_value *out);
bool vd_op_concat(struct vd_run *r, struct vd_str a, struct vd_str b, struct vd_value *out);
/* Python's str(v), and repr(v). */
bool vd_op_str(struct vd_run *r, const struct vd_value *v, struct vd_str *out);
bool vd_op_repr(struct vd_run *r, const struct vd_value *v, struct vd_str *out);

/* Numbers (vd_template_number.c). */
bool vd_op_number(struct vd_run *r, enum vd_op op, const struct vd_value *a, const struct vd_value *b,
                  struct vd_value *out);
bool vd_number_as_int(const struct vd_value *v, int64_t *i);             /* an integer or boolean */
bool vd_number_as_float(const struct vd_value *v, double *f);            /* a number or boolean */
int vd_number_order(const struct vd_value *a, const struct vd_value *b); /* 2: one is not a number (NaN) */
enum { VD_NUMBER_TEXT_MAX = 40 };
/* Python's repr of a float; nan, inf and -inf as Python or JSON spell them. */
size_t vd_number_write(char out[VD_NUMBER_TEXT_MAX], double f, bool json);
/* Python's int(text) and float(text). False: no number, or (int) *too_large. */
bool vd_number_read_int(struct vd_str s, int64_t *out, bool *too_large);
bool vd_number_read_float(struct vd_str s, double *out);
/* The filters int, float, round and abs. */
bool vd_number_filter_int(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                          struct vd_value *out);
bool vd_number_filter_float(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                            struct vd_value *out);
bool vd_number_filter_round(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                            struct vd_value *out);
bool vd_number_filter_abs(struct vd_run *r, const struct vd_value *v, const struct vd_args *a,
                          struct vd_value *out);

/* Strings (vd_template_string.c). */
enum vd_letter_case { VD_CASE_LOWER, VD_CASE_UPPER, VD_CASE_CAPITAL, VD_CASE_TITLE, VD_CASE_SWAP };
bool vd_string_case(struct vd_run *r, struct vd_str s, enum vd_letter_case to, struct vd_value *out);
bool vd_string_strip(struct vd_run *r, struct vd_str s, const struct vd_args *a, bool left, bool right,
                     struct vd_value *out);
struct vd_str vd_string_trim(struct vd_str s); /* without white space at both ends */
bool vd_string_replace(struct vd_run *r, struct vd_str s, const struct vd_args *a, struct vd_value *out);
bool vd_string_join(struct vd_run *r, const struct vd_value *list, struct vd_str sep, struct vd_value *out);
bool vd_string_lines(struct vd_run *r, struct vd_str s, bool keep_ends, struct vd_value *out);
bool vd_string_escape(struct vd_run *r, struct vd_str s, struct vd_value *out); /* for HTML */
size_t vd_string_count(struct vd_str s);                                        /* characters */
/* A string's own method. *found: there is one of that name. */
bool vd_string_method(struct vd_run *r, struct vd_str name, const struct vd_value *self,
                      const struct vd_args *a, struct vd_value *out, bool *found);

/* s % values, s.format(values) (vd_template_format.c). */
bool vd_format_percent(struct vd_run *r, struct vd_str s, const struct vd_value *values,
                       struct vd_value *out);
bool vd_format_braces(struct vd_run *r, struct vd_str s, const struct vd_args *a, struct vd_value *out);
bool vd_format_time(struct vd_run *r, struct vd_str s, struct vd_value *out); /* strftime_now */

/* Filters on lists (vd_template_list.c). *found: there is one of that name. */
bool vd_list_filter(struct vd_run *r, struct vd_str name, const struct vd_value *v, const struct vd_args *a,
                    struct vd_value *out, bool *found);

/* The function of a name as a value, or NULL. */
const struct vd_value *vd_call_find(struct vd_str name);

/* By name (vd_template_call.c). */
bool vd_call_filter(struct vd_run *r, struct vd_str name, const struct vd_value *v,
                    const struct vd_args *args, struct vd_value *out);
bool vd_call_test(struct vd_run *r, struct vd_str name, const struct vd_value *v, const struct vd_args *args,
                  bool *out);
bool vd_call_method(struct vd_run *r, struct vd_str name, const struct vd_value *self,
                    const struct vd_args *args, struct vd_value *out);
bool vd_call_function(struct vd_run *r, int64_t which, const struct vd_args *args, struct vd_value *out);
bool vd_call_has(struct vd_str name, bool test); /* is there a test or filter of that name? */

/* UTF-8 white space as Python's str.strip sees it: the bytes of the character at p, or 0. */
size_t vd_space_at(const char *p, size_t n);
size_t vd_space_before(const char *p, size_t n); /* of the one that ends at p + n */

#endif
