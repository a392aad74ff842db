/* A recursive-descent parser with Jinja's grammar and precedences, one token ahead. Every node costs at least
 * one token, so the pool's size follows from the text's. Depth is counted on the way down, so that a template
 * of brackets only cannot exhaust the stack. */
#include "vd_template_impl.h"

#include <stdio.h>
#include <stdlib.h>

struct parser {
    struct vd_template *t;
    struct vd_lexer lexer;
    struct vd_token now, ahead;
    uint32_t depth, loops;
    uint32_t uses; /* VD_MACRO_... of the macro that is read */
    struct vd_error *err;
    enum vd_err e;
};

static struct vd_node *expression(struct parser *p);
static struct vd_node *statements(struct parser *p, const char *const *ends);

static struct vd_node *fail(struct parser *p, enum vd_err code, const char *what)
{
    if (!p->e)
        p->e = vd_template_error(p->err, code, p->now.line, "%s", what);
    return NULL;
}

static const char *describe(const struct vd_token *t, char text[64])
{
    static const char *const names[] = {"the end of the template",
                                        "text",
                                        "{%",
                                        "%}",
                                        "{{",
                                        "}}",
                                        "",
                                        "a string",
                                        "a number",
                                        "a number",
                                        ""};
    if (t->type == VD_TOKEN_NAME || t->type == VD_TOKEN_OP)
        snprintf(text, 64, "%.*s", (int)(t->s.n < 60 ? t->s.n : 60), t->s.p);
    else
        snprintf(text, 64, "%s", names[t->type]);
    return text;
}

static struct vd_node *unexpected(struct parser *p, const char *wanted)
{
    char text[64], message[200];
    snprintf(message, sizeof message, "%.60s is not expected; %.100s is", describe(&p->now, text), wanted);
    return fail(p, VD_EFORMAT, message);
}

static void next(struct parser *p)
{
    p->now = p->ahead;
    if (p->e || p->now.type == VD_TOKEN_END)
        return;
    p->e = vd_lex_next(&p->lexer, &p->ahead);
}

static bool at_op(const struct parser *p, const char *op)
{
    return !p->e && p->now.type == VD_TOKEN_OP && vd_str_is(p->now.s, op);
}

static bool at_name(const struct parser *p, const char *name)
{
    return !p->e && p->now.type == VD_TOKEN_NAME && vd_str_is(p->now.s, name);
}

static bool skip_op(struct parser *p, const char *op)
{
    bool yes = at_op(p, op);
    if (yes)
        next(p);
    return yes;
}

static bool skip_name(struct parser *p, const char *name)
{
    bool yes = at_name(p, name);
    if (yes)
        next(p);
    return yes;
}

static bool expect_op(struct parser *p, const char *op)
{
    if (skip_op(p, op))
        return true;
    unexpected(p, op);
    return false;
}

/* A fresh node, or NULL after an error. */
static struct vd_node *make(struct parser *p, enum vd_node_kind kind)
{
    if (p->e)
        return NULL;
    if (p->t->n_nodes == p->t->nodes_max)
        return fail(p, VD_ELIMIT, "the template is too large");
    struct vd_node *n = &p->t->nodes[p->t->n_nodes++];
    *n = (struct vd_node){.kind = kind, .line = p->now.line};
    return n;
}

static bool enter(struct parser *p)
{
    if (++p->depth <= VD_TEMPLATE_DEPTH_MAX)
        return !p->e;
    fail(p, VD_ELIMIT, "expressions or statements are nested too deeply");
    return false;
}

static struct vd_node *constant(struct parser *p, struct vd_value v)
{
    struct vd_node *n = make(p, VD_NODE_CONST);
    if (n)
        n->value = v;
    next(p);
    return n;
}

static void append(struct vd_node **list, struct vd_node **tail, struct vd_node *n)
{
    if (*tail)
        (*tail)->next = n;
    else
        *list = n;
    *tail = n;
}

/* Adjacent strings are one. They lie one after the other in the memory for strings, because the lexer put
 * them there. */
static struct vd_node *string(struct parser *p)
{
    struct vd_node *n = make(p, VD_NODE_CONST);
    if (!n)
        return NULL;
    n->value = vd_value_str(p->now.s.p, p->now.s.n);
    next(p);
    while (!p->e && p->now.type == VD_TOKEN_STR) {
        n->value.s.n += p->now.s.n;
        next(p);
    }
    return n;
}

static bool at_tuple_end(const struct parser *p)
{
    return p->now.type == VD_TOKEN_OUT_END || p->now.type == VD_TOKEN_BLOCK_END || at_op(p, ")");
}

static struct vd_node *or_expression(struct parser *p);

/* a or a, b, c : the latter is a tuple. */
static struct vd_node *tuple(struct parser *p, bool with_condition, bool in_brackets)
{
    struct vd_node *list = NULL, *tail = NULL;
    bool is_tuple = false;
    while (!p->e && !at_tuple_end(p)) {
        struct vd_node *n = with_condition ? expression(p) : or_expression(p);
        if (!n)
            return NULL;
        append(&list, &tail, n);
        if (!skip_op(p, ","))
            break;
        is_tuple = true;
    }
    if (p->e)
        return NULL;
    if (!is_tuple && list)
        return list;
    if (!is_tuple && !in_brackets)
        return unexpected(p, "an expression");
    struct vd_node *n = make(p, VD_NODE_LIST);
    if (n) {
        n->value.is_tuple = true;
        n->a = list;
    }
    return n;
}

/* The items between brackets up to `close`; a map's are key : value. */
static struct vd_node *items(struct parser *p, enum vd_node_kind kind, const char *close)
{
    struct vd_node *n = make(p, kind), *tail = NULL;
    next(p);
    while (n && !p->e && !skip_op(p, close)) {
        if (tail && !expect_op(p, ","))
            return NULL;
        if (skip_op(p, close))
            break;
        struct vd_node *item = expression(p);
        if (!item)
            return NULL;
        append(&n->a, &tail, item);
        if (kind == VD_NODE_MAP) {
            item = expect_op(p, ":") ? expression(p) : NULL;
            if (!item)
                return NULL;
            append(&n->a, &tail, item);
        }
    }
    return n;
}

static struct vd_node *name(struct parser *p)
{
    struct vd_str s = p->now.s;
    if (vd_str_is(s, "true") || vd_str_is(s, "True"))
        return constant(p, vd_value_bool(true));
    if (vd_str_is(s, "false") || vd_str_is(s, "False"))
        return constant(p, vd_value_bool(false));
    if (vd_str_is(s, "none") || vd_str_is(s, "None"))
        return constant(p, vd_value_none());
    p->uses |= vd_str_is(s, "caller")    ? VD_MACRO_CALLER
               : vd_str_is(s, "kwargs")  ? VD_MACRO_KWARGS
               : vd_str_is(s, "varargs") ? VD_MACRO_VARARGS
                                         : 0;
    struct vd_node *n = make(p, VD_NODE_NAME);
    if (n)
        n->s = s;
    next(p);
    return n;
}

static struct vd_node *primary(struct parser *p)
{
    if (p->now.type == VD_TOKEN_NAME)
        return name(p);
    if (p->now.type == VD_TOKEN_STR)
        return string(p);
    if (p->now.type == VD_TOKEN_INT)
        return constant(p, vd_value_int(p->now.i));
    if (p->now.type == VD_TOKEN_FLOAT)
        return constant(p, vd_value_float(p->now.f));
    if (at_op(p, "["))
        return items(p, VD_NODE_LIST, "]");
    if (at_op(p, "{"))
        return items(p, VD_NODE_MAP, "}");
    if (!skip_op(p, "("))
        return unexpected(p, "an expression");
    struct vd_node *n = tuple(p, true, true);
    return n && expect_op(p, ")") ? n : NULL;
}

/* (a, b, key=c), at the opening bracket. */
static bool arguments(struct parser *p, struct vd_node **list)
{
    struct vd_node *tail = NULL;
    *list = NULL;
    next(p);
    for (size_t n = 0; !p->e && !skip_op(p, ")"); n++) {
        if (n > 0 && !expect_op(p, ","))
            return false;
        if (skip_op(p, ")"))
            break;
        struct vd_str key = {0};
        if (at_op(p, "*") || at_op(p, "**"))
            return fail(p, VD_EUNSUPPORTED, "* and ** in a call are not supported") != NULL;
        if (p->now.type == VD_TOKEN_NAME && p->ahead.type == VD_TOKEN_OP && vd_str_is(p->ahead.s, "=")) {
            key = p->now.s;
            next(p);
            next(p);
        } else if (tail && tail->key.n) {
            fail(p, VD_EFORMAT, "an argument without a name follows one with a name");
            return false;
        }
        struct vd_node *v = expression(p);
        if (!v)
            return false;
        v->key = key;
        append(list, &tail, v);
        if (n == VD_ARGS_MAX)
            return fail(p, VD_ELIMIT, "a call has too many arguments") != NULL;
    }
    return !p->e;
}

/* .name .3 */
static struct vd_node *attribute(struct parser *p, struct vd_node *of)
{
    next(p);
    bool is_int = p->now.type == VD_TOKEN_INT;
    if (!is_int && p->now.type != VD_TOKEN_NAME)
        return unexpected(p, "a name or number");
    struct vd_node *n = make(p, is_int ? VD_NODE_ITEM : VD_NODE_ATTR);
    if (!n)
        return NULL;
    n->a = of;
    if (is_int) {
        n->b = constant(p, vd_value_int(p->now.i));
    } else {
        n->s = p->now.s;
        next(p);
    }
    return n;
}

/* [a] [a:b] [a:b:c] */
static struct vd_node *subscript(struct parser *p, struct vd_node *of)
{
    struct vd_node *n = make(p, VD_NODE_ITEM);
    next(p);
    if (!n)
        return NULL;
    n->a = of;
    struct vd_node **parts[] = {&n->b, &n->c, &n->d};
    for (size_t i = 0; i < 3 && !p->e; i++) {
        if (!at_op(p, ":") && !at_op(p, "]") && !(*parts[i] = expression(p)))
            return NULL;
        if (i == 2 || !skip_op(p, ":"))
            break;
        n->kind = VD_NODE_SLICE;
    }
    if (n->kind == VD_NODE_ITEM && !n->b)
        return unexpected(p, "an expression");
    return expect_op(p, "]") ? n : NULL;
}

static struct vd_node *call(struct parser *p, struct vd_node *of)
{
    struct vd_node *n = make(p, VD_NODE_CALL);
    if (!n)
        return NULL;
    n->a = of;
    return arguments(p, &n->b) ? n : NULL;
}

static struct vd_node *postfix(struct parser *p, struct vd_node *n)
{
    while (n && !p->e) {
        if (at_op(p, "."))
            n = attribute(p, n);
        else if (at_op(p, "["))
            n = subscript(p, n);
        else if (at_op(p, "("))
            n = call(p, n);
        else
            return n;
    }
    return NULL;
}

/* At the filter's name. */
static struct vd_node *filter(struct parser *p, struct vd_node *of)
{
    if (p->now.type != VD_TOKEN_NAME)
        return unexpected(p, "a filter's name");
    struct vd_node *n = make(p, VD_NODE_FILTER);
    if (!n)
        return NULL;
    n->a = of;
    n->s = p->now.s;
    next(p);
    return !at_op(p, "(") || arguments(p, &n->b) ? n : NULL;
}

/* is [not] name [argument] */
static struct vd_node *test(struct parser *p, struct vd_node *of)
{
    next(p);
    struct vd_node *not = at_name(p, "not") ? make(p, VD_NODE_NOT) : NULL;
    if (not )
        next(p);
    if (p->now.type != VD_TOKEN_NAME)
        return unexpected(p, "a test's name");
    struct vd_node *n = make(p, VD_NODE_TEST);
    if (!n)
        return NULL;
    n->a = of;
    n->s = p->now.s;
    next(p);
    bool value =
        p->now.type == VD_TOKEN_STR || p->now.type == VD_TOKEN_INT || p->now.type == VD_TOKEN_FLOAT ||
        at_op(p, "[") || at_op(p, "{") ||
        (p->now.type == VD_TOKEN_NAME && !at_name(p, "else") && !at_name(p, "or") && !at_name(p, "and"));
    if (at_name(p, "is"))
        return fail(p, VD_EFORMAT, "tests cannot be chained with is");
    if (at_op(p, "(")) {
        if (!arguments(p, &n->b))
            return NULL;
    } else if (value && !(n->b = postfix(p, primary(p)))) {
        return NULL;
    }
    if (!not )
        return n;
    not ->a = n;
    return not ;
}

static struct vd_node *filters(struct parser *p, struct vd_node *n)
{
    while (n && !p->e) {
        if (skip_op(p, "|"))
            n = filter(p, n);
        else if (at_name(p, "is"))
            n = test(p, n);
        else if (at_op(p, "("))
            n = call(p, n);
        else
            return n;
    }
    return NULL;
}

static struct vd_node *unary(struct parser *p, bool with_filter)
{
    struct vd_node *n = NULL;
    if (!enter(p))
        return NULL;
    if (at_op(p, "-") || at_op(p, "+")) {
        n = make(p, at_op(p, "-") ? VD_NODE_NEG : VD_NODE_POS);
        next(p);
        if (n && !(n->a = unary(p, false)))
            return NULL;
    } else {
        n = primary(p);
    }
    n = postfix(p, n);
    if (n && with_filter)
        n = filters(p, n);
    p->depth--;
    return p->e ? NULL : n;
}

/* A level of left-associative operators above the level `operand`. */
struct level {
    const char *text;
    enum vd_op op;
};

static struct vd_node *chain(struct parser *p, const struct level *ops, size_t n_ops,
                             struct vd_node *(*operand)(struct parser *p))
{
    struct vd_node *left = operand(p);
    while (left && !p->e) {
        size_t i = 0;
        while (i < n_ops && !at_op(p, ops[i].text))
            i++;
        if (i == n_ops)
            return left;
        struct vd_node *n = make(p, VD_NODE_BINARY);
        next(p);
        if (!n)
            return NULL;
        n->op = ops[i].op;
        n->a = left;
        n->b = operand(p);
        left = n->b ? n : NULL;
    }
    return NULL;
}

static struct vd_node *factor(struct parser *p)
{
    return unary(p, true);
}

static struct vd_node *power(struct parser *p)
{
    static const struct level ops[] = {{"**", VD_OP_POW}};
    return chain(p, ops, 1, factor);
}

static struct vd_node *product(struct parser *p)
{
    static const struct level ops[] = {
        {"*", VD_OP_MUL}, {"/", VD_OP_DIV}, {"//", VD_OP_FLOORDIV}, {"%", VD_OP_MOD}};
    return chain(p, ops, 4, power);
}

static struct vd_node *concatenation(struct parser *p)
{
    static const struct level ops[] = {{"~", VD_OP_CONCAT}};
    return chain(p, ops, 1, product);
}

static struct vd_node *sum(struct parser *p)
{
    static const struct level ops[] = {{"+", VD_OP_ADD}, {"-", VD_OP_SUB}};
    return chain(p, ops, 2, concatenation);
}

/* The comparison operator here, consumed, or VD_OP_NONE. */
static enum vd_op comparison_op(struct parser *p)
{
    static const struct level ops[] = {{"==", VD_OP_EQ}, {"!=", VD_OP_NE}, {"<", VD_OP_LT},
                                       {"<=", VD_OP_LE}, {">", VD_OP_GT},  {">=", VD_OP_GE}};
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
        if (skip_op(p, ops[i].text))
            return ops[i].op;
    if (skip_name(p, "in"))
        return VD_OP_IN;
    if (at_name(p, "not") && p->ahead.type == VD_TOKEN_NAME && vd_str_is(p->ahead.s, "in")) {
        next(p);
        next(p);
        return VD_OP_NOT_IN;
    }
    return VD_OP_NONE;
}

static struct vd_node *comparison(struct parser *p)
{
    struct vd_node *first = sum(p), *n = NULL, *tail = NULL;
    for (enum vd_op op; first && !p->e && (op = comparison_op(p)) != VD_OP_NONE;) {
        if (!n && !(n = make(p, VD_NODE_COMPARE)))
            return NULL;
        n->a = first;
        struct vd_node *operand = sum(p);
        if (!operand)
            return NULL;
        operand->operand_op = op;
        append(&n->b, &tail, operand);
    }
    return p->e ? NULL : n ? n : first;
}

static struct vd_node *not_expression(struct parser *p)
{
    if (!at_name(p, "not"))
        return comparison(p);
    struct vd_node *n = enter(p) ? make(p, VD_NODE_NOT) : NULL;
    next(p);
    if (!n || !(n->a = not_expression(p)))
        return NULL;
    p->depth--;
    return n;
}

static struct vd_node *logical(struct parser *p, const char *word, enum vd_node_kind kind,
                               struct vd_node *(*operand)(struct parser *p))
{
    struct vd_node *left = operand(p);
    while (left && skip_name(p, word)) {
        struct vd_node *n = make(p, kind);
        if (!n)
            return NULL;
        n->a = left;
        n->b = operand(p);
        left = n->b ? n : NULL;
    }
    return p->e ? NULL : left;
}

static struct vd_node *and_expression(struct parser *p)
{
    return logical(p, "and", VD_NODE_AND, not_expression);
}

static struct vd_node *or_expression(struct parser *p)
{
    return logical(p, "or", VD_NODE_OR, and_expression);
}

/* a if b else c */
static struct vd_node *expression(struct parser *p)
{
    if (!enter(p))
        return NULL;
    struct vd_node *first = or_expression(p);
    while (first && skip_name(p, "if")) {
        struct vd_node *n = make(p, VD_NODE_COND);
        if (!n || !(n->a = or_expression(p)))
            return NULL;
        n->b = first;
        if (skip_name(p, "else") && !(n->c = expression(p)))
            return NULL;
        first = n;
    }
    p->depth--;
    return p->e ? NULL : first;
}

static bool block_end(struct parser *p)
{
    if (!p->e && p->now.type == VD_TOKEN_BLOCK_END) {
        next(p);
        return true;
    }
    unexpected(p, "%}");
    return false;
}

/* After the body of a statement: `now` is the word that ended it. */
static struct vd_node *if_rest(struct parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif", NULL};
    struct vd_node *n = make(p, VD_NODE_IF);
    if (!n || !enter(p) || !(n->a = tuple(p, false, false)) || !block_end(p))
        return NULL;
    n->b = statements(p, ends);
    if (skip_name(p, "elif")) {
        n->c = if_rest(p);
    } else if (skip_name(p, "else")) {
        if (block_end(p))
            n->c = statements(p, last);
        skip_name(p, "endif");
    } else {
        skip_name(p, "endif");
    }
    p->depth--;
    return p->e ? NULL : n;
}

/* Names with commas between. */
static struct vd_node *targets(struct parser *p)
{
    struct vd_node *list = NULL, *tail = NULL;
    bool bracket = skip_op(p, "(");
    do {
        if (p->now.type != VD_TOKEN_NAME)
            return unexpected(p, "a variable's name");
        struct vd_node *n = name(p);
        if (n && n->kind != VD_NODE_NAME)
            return fail(p, VD_EFORMAT, "a constant cannot be a variable");
        if (!n)
            return NULL;
        append(&list, &tail, n);
    } while (skip_op(p, ","));
    return bracket && !expect_op(p, ")") ? NULL : list;
}

static struct vd_node *for_statement(struct parser *p)
{
    static const char *const ends[] = {"else", "endfor", NULL}, *const last[] = {"endfor", NULL};
    struct vd_node *n = make(p, VD_NODE_FOR);
    if (!n || !(n->a = targets(p)))
        return NULL;
    if (!skip_name(p, "in"))
        return unexpected(p, "in");
    if (!(n->b = tuple(p, false, false)))
        return NULL;
    if (skip_name(p, "if") && !(n->e = expression(p)))
        return NULL;
    n->value.type = skip_name(p, "recursive") ? VD_VALUE_LOOP : VD_VALUE_NONE; /* NONE: not recursive */
    if (!block_end(p))
        return NULL;
    p->loops++;
    n->c = statements(p, ends);
    p->loops--;
    if (skip_name(p, "else")) {
        if (block_end(p))
            n->d = statements(p, last);
    }
    skip_name(p, "endfor");
    return p->e ? NULL : n;
}

/* a | b | c, at the first filter's name: filters of what a block makes. */
static struct vd_node *block_filters(struct parser *p)
{
    struct vd_node *n = filter(p, make(p, VD_NODE_CAPTURED));
    while (n && skip_op(p, "|"))
        n = filter(p, n);
    return n;
}

/* The statements up to `end`, after this tag's end. False after an error. */
static bool body(struct parser *p, const char *end, struct vd_node **out)
{
    const char *const ends[] = {end, NULL};
    if (block_end(p))
        *out = statements(p, ends);
    return !p->e && skip_name(p, end);
}

static struct vd_node *set_statement(struct parser *p)
{
    struct vd_node *n = make(p, VD_NODE_SET);
    if (!n || !(n->a = targets(p)))
        return NULL;
    if (!n->a->next && at_op(p, ".")) {
        n->a = attribute(p, n->a);
        if (n->a && n->a->kind != VD_NODE_ATTR)
            return unexpected(p, "a name");
    }
    if (skip_op(p, "=")) {
        n->b = p->e ? NULL : tuple(p, true, false);
        return n->b ? n : NULL;
    }
    n->kind = VD_NODE_SET_BLOCK;
    if (skip_op(p, "|") && !(n->c = block_filters(p)))
        return NULL;
    return body(p, "endset", &n->b) ? n : NULL;
}

static struct vd_node *filter_statement(struct parser *p)
{
    struct vd_node *n = make(p, VD_NODE_FILTER_BLOCK);
    if (!n || !(n->a = block_filters(p)))
        return NULL;
    return body(p, "endfilter", &n->b) ? n : NULL;
}

/* A name that a statement gives a value to. */
static struct vd_node *variable(struct parser *p)
{
    if (p->now.type != VD_TOKEN_NAME)
        return unexpected(p, "a variable's name");
    struct vd_node *n = name(p);
    return n && n->kind != VD_NODE_NAME ? fail(p, VD_EFORMAT, "a constant cannot be a variable") : n;
}

/* with a = 1, b = 2: the values are those of the names outside. */
static struct vd_node *with_statement(struct parser *p)
{
    struct vd_node *n = make(p, VD_NODE_WITH), *tail = NULL;
    while (n && p->now.type != VD_TOKEN_BLOCK_END) {
        if (tail && !expect_op(p, ","))
            return NULL;
        struct vd_node *v = variable(p);
        if (!v || !expect_op(p, "=") || !(v->a = expression(p)))
            return NULL;
        append(&n->a, &tail, v);
    }
    return n && body(p, "endwith", &n->b) ? n : NULL;
}

/* generation: transformers' mark around what the model wrote. Its body is a scope, nothing else. */
static struct vd_node *generation_statement(struct parser *p)
{
    struct vd_node *n = make(p, VD_NODE_WITH);
    return n && body(p, "endgeneration", &n->b) ? n : NULL;
}

/* (a, b=1), at the opening bracket. */
static bool parameters(struct parser *p, struct vd_node **list)
{
    struct vd_node *tail = NULL;
    if (!expect_op(p, "("))
        return false;
    for (size_t k = 0; !p->e && !skip_op(p, ")"); k++) {
        if (k > 0 && !expect_op(p, ","))
            return false;
        struct vd_node *n = variable(p);
        if (!n || (skip_op(p, "=") && !(n->a = expression(p))))
            return false;
        if (tail && tail->a && !n->a)
            return fail(p, VD_EFORMAT, "a parameter without a default follows one with a default") != NULL;
        if (k == VD_ARGS_MAX)
            return fail(p, VD_ELIMIT, "a macro has too many parameters") != NULL;
        append(list, &tail, n);
    }
    return !p->e;
}

/* A macro's body, after its parameters. Loops outside of it are none of its own. */
static struct vd_node *macro_rest(struct parser *p, struct vd_node *n, const char *end)
{
    uint32_t loops = p->loops, uses = p->uses;
    p->loops = p->uses = 0;
    bool ok = body(p, end, &n->b);
    n->uses = p->uses;
    p->loops = loops;
    p->uses |= uses;
    return ok ? n : NULL;
}

static struct vd_node *macro_statement(struct parser *p)
{
    struct vd_node *n = make(p, VD_NODE_MACRO);
    struct vd_node *name_node = n ? variable(p) : NULL;
    if (!name_node || !parameters(p, &n->a))
        return NULL;
    n->s = name_node->s;
    return macro_rest(p, n, "endmacro");
}

/* call(x) f(y): the body is a macro with the parameter x, which f gets as its argument `caller`. */
static struct vd_node *call_statement(struct parser *p)
{
    struct vd_node *n = make(p, VD_NODE_CALL_BLOCK);
    if (!n || !(n->b = make(p, VD_NODE_MACRO)))
        return NULL;
    n->b->s = vd_str_of("caller");
    if (at_op(p, "(") && !parameters(p, &n->b->a))
        return NULL;
    n->a = expression(p);
    if (!n->a || n->a->kind != VD_NODE_CALL)
        return unexpected(p, "a call");
    return macro_rest(p, n->b, "endcall") ? n : NULL;
}

static struct vd_node *loop_control(struct parser *p, enum vd_node_kind kind)
{
    return p->loops ? make(p, kind) : fail(p, VD_EFORMAT, "break and continue need a loop around them");
}

static struct vd_node *break_statement(struct parser *p)
{
    return loop_control(p, VD_NODE_BREAK);
}

static struct vd_node *continue_statement(struct parser *p)
{
    return loop_control(p, VD_NODE_CONTINUE);
}

/* The statement of a tag, at its first word, up to its end but without the closing bracket. */
static struct vd_node *statement(struct parser *p)
{
    static const struct {
        const char *word;
        struct vd_node *(*parse)(struct parser *p);
    } all[] = {{"if", if_rest},
               {"for", for_statement},
               {"set", set_statement},
               {"break", break_statement},
               {"continue", continue_statement},
               {"macro", macro_statement},
               {"call", call_statement},
               {"filter", filter_statement},
               {"with", with_statement},
               {"generation", generation_statement}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (skip_name(p, all[i].word))
            return all[i].parse(p);
    char text[64], message[128];
    snprintf(message, sizeof message, "the statement %.60s is not supported here", describe(&p->now, text));
    return fail(p, p->now.type == VD_TOKEN_NAME ? VD_EUNSUPPORTED : VD_EFORMAT, message);
}

static bool at_any(const struct parser *p, const char *const *names)
{
    for (; names && *names; names++)
        if (at_name(p, *names))
            return true;
    return false;
}

/* Statements and text up to a tag whose first word is one of `ends` (and stands there), or to the end if ends
 * is NULL. An empty body is NULL, so p->e tells whether that was an error. */
static struct vd_node *statements(struct parser *p, const char *const *ends)
{
    struct vd_node *list = NULL, *tail = NULL;
    if (!enter(p))
        return NULL;
    while (!p->e) {
        struct vd_node *n = NULL;
        if (p->now.type == VD_TOKEN_END) {
            if (ends)
                unexpected(p, ends[0]);
            break;
        }
        if (p->now.type == VD_TOKEN_DATA) {
            n = make(p, VD_NODE_DATA);
            if (n)
                n->s = p->now.s;
            next(p);
        } else if (p->now.type == VD_TOKEN_OUT_BEGIN) {
            next(p);
            n = make(p, VD_NODE_OUT);
            if (n)
                n->a = tuple(p, true, false);
            if (!p->e && p->now.type != VD_TOKEN_OUT_END)
                unexpected(p, "}}");
            next(p);
        } else {
            next(p);
            if (at_any(p, ends))
                break;
            n = statement(p);
            if (n)
                block_end(p);
        }
        if (n && !p->e)
            append(&list, &tail, n);
    }
    p->depth--;
    return p->e ? NULL : list;
}

/* \r\n and \r become \n; one newline at the very end goes. */
static size_t normalise(char *to, const char *text, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\r' && i + 1 < n && text[i + 1] == '\n')
            continue;
        to[k++] = text[i] == '\r' ? '\n' : text[i];
    }
    return k > 0 && to[k - 1] == '\n' ? k - 1 : k;
}

static enum vd_err parse_all(struct vd_template *t, const char *text, size_t n_bytes, struct vd_error *err)
{
    struct parser p = {.t = t, .err = err};
    size_t n = normalise(t->text, text, n_bytes);
    p.lexer = (struct vd_lexer){
        .p = t->text, .n = n, .line = 1, .line_starting = true, .strings = t->strings, .err = err};
    p.e = vd_lex_next(&p.lexer, &p.ahead);
    next(&p);
    t->body = statements(&p, NULL);
    return p.e;
}

enum vd_err vd_template_parse(struct vd_template **out, const char *text, size_t n_bytes,
                              struct vd_error *err)
{
    *out = NULL;
    if (n_bytes > VD_TEMPLATE_TEXT_MAX_BYTES)
        return vd_error_set(err, VD_ELIMIT, "the chat template has %zu bytes; the limit is %d", n_bytes,
                            VD_TEMPLATE_TEXT_MAX_BYTES);
    struct vd_template *t = calloc(1, sizeof *t);
    if (!t)
        return vd_error_set(err, VD_ENOMEM, "no memory for the chat template");
    t->nodes_max = n_bytes + 16 < VD_TEMPLATE_NODES_MAX ? n_bytes + 16 : VD_TEMPLATE_NODES_MAX;
    t->text = malloc(n_bytes + 1);
    t->strings = malloc(n_bytes + 1);
    t->nodes = malloc(t->nodes_max * sizeof *t->nodes);
    enum vd_err e = t->text && t->strings && t->nodes
                        ? parse_all(t, text, n_bytes, err)
                        : vd_error_set(err, VD_ENOMEM, "no memory for the chat template");
    if (e) {
        vd_template_free(t);
        return e;
    }
    *out = t;
    return VD_OK;
}

void vd_template_free(struct vd_template *t)
{
    if (!t)
        return;
    free(t->text);
    free(t->strings);
    free(t->nodes);
    free(t);
}
