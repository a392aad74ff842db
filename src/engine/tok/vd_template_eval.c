/* Walks the nodes. Memory is one arena whose size is the limit; what an output statement computed is given
 * back after it is written, since an expression cannot store anything, so a long conversation needs no more
 * than its longest message. Two counters stop everything else: steps and depth. */
#include "vd_template_impl.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { MEMORY_DEFAULT_BYTES = 64 << 20, STEPS_DEFAULT = 5000000 };

bool vd_run_fail(struct vd_run *r, enum vd_err code, const char *fmt, ...)
{
    char text[360];
    if (r->e)
        return false;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    r->e = vd_template_error(r->err, code, r->line, "%s", text);
    return false;
}

bool vd_run_charge(struct vd_run *r, uint64_t steps)
{
    if (steps > r->steps_left) {
        r->steps_left = 0;
        return vd_run_fail(r, VD_ELIMIT, "the template does not come to an end within its limit of steps");
    }
    r->steps_left -= steps;
    return true;
}

void *vd_run_alloc(struct vd_run *r, size_t n_bytes)
{
    if (!vd_run_charge(r, n_bytes / 32))
        return NULL;
    void *p = vd_arena_alloc(&r->arena, n_bytes, _Alignof(max_align_t));
    if (!p)
        vd_run_fail(r, VD_ELIMIT, "the template needs more memory than its limit of %zu bytes",
                    r->arena.size_bytes);
    return p;
}

static bool write_out(struct vd_run *r, struct vd_str s)
{
    if (s.n > r->out_max - r->out_n)
        return vd_run_fail(r, VD_ELIMIT, "the text exceeds the limit of %zu bytes", r->out_max);
    if (s.n)
        memcpy(r->out + r->out_n, s.p, s.n);
    r->out_n += s.n;
    return vd_run_charge(r, s.n / 32);
}

/* ---- variables ---- */

static bool lookup(struct vd_run *r, struct vd_str name, struct vd_value *out)
{
    for (size_t i = r->n_vars; i-- > 0;)
        if (vd_str_eq(r->vars[i].name, name)) {
            *out = r->vars[i].value;
            return vd_run_charge(r, vd_run_find_steps(r->n_vars - i, name));
        }
    const struct vd_value *v = vd_value_get(r->globals, name);
    *out = v ? *v : (struct vd_value){.type = VD_VALUE_UNDEFINED, .s = name};
    return vd_run_charge(r, vd_run_find_steps(r->n_vars + r->globals->list.n, name));
}

static bool push_var(struct vd_run *r, struct vd_str name, const struct vd_value *v)
{
    if (r->n_vars == VD_TEMPLATE_VARS_MAX)
        return vd_run_fail(r, VD_ELIMIT, "more than %d variables", VD_TEMPLATE_VARS_MAX);
    r->vars[r->n_vars++] = (struct vd_var){name, *v};
    return true;
}

/* Sets in the innermost scope: a loop's body has its own, which ends with each round. */
static bool set_var(struct vd_run *r, struct vd_str name, const struct vd_value *v)
{
    for (size_t i = r->n_vars; i-- > r->frame;)
        if (vd_str_eq(r->vars[i].name, name)) {
            r->vars[i].value = *v;
            return true;
        }
    return push_var(r, name, v);
}

static bool set_namespace(struct vd_run *r, const struct vd_node *target, const struct vd_value *v)
{
    struct vd_value ns;
    if (!lookup(r, target->a->s, &ns))
        return false;
    if (ns.type != VD_VALUE_NAMESPACE)
        return vd_run_fail(r, VD_EFORMAT, "attributes can be set on a namespace only");
    for (size_t i = 0; i < ns.ns->n; i++)
        if (vd_str_eq(ns.ns->keys[i], target->s)) {
            ns.ns->values[i] = *v;
            return true;
        }
    if (ns.ns->n == VD_ARGS_MAX)
        return vd_run_fail(r, VD_ELIMIT, "a namespace has more than %d names", VD_ARGS_MAX);
    ns.ns->keys[ns.ns->n] = target->s;
    ns.ns->values[ns.ns->n++] = *v;
    return true;
}

/* Gives v, or its items if there are several targets. */
static bool assign(struct vd_run *r, const struct vd_node *target, const struct vd_value *v)
{
    if (target->kind == VD_NODE_ATTR)
        return set_namespace(r, target, v);
    if (!target->next)
        return set_var(r, target->s, v);
    struct vd_value list;
    if (!vd_op_iterate(r, v, &list))
        return false;
    size_t i = 0;
    for (; target && i < list.list.n; target = target->next, i++)
        if (!set_var(r, target->s, &list.list.p[i]))
            return false;
    if (target || i < list.list.n)
        return vd_run_fail(r, VD_EFORMAT, "%zu values cannot be given to another number of names",
                           list.list.n);
    return true;
}

/* ---- expressions ---- */

/* The values of a list of nodes, in fresh memory; NULL after an error. */
static struct vd_value *eval_items(struct vd_run *r, const struct vd_node *first, size_t *count)
{
    *count = 0;
    for (const struct vd_node *i = first; i; i = i->next)
        ++*count;
    struct vd_value *items = vd_run_alloc(r, (*count + 1) * sizeof *items);
    size_t k = 0;
    for (const struct vd_node *i = first; items && i; i = i->next)
        if (!vd_run_eval(r, i, &items[k++]))
            return NULL;
    return items;
}

static bool eval_list(struct vd_run *r, const struct vd_node *n, struct vd_value *out)
{
    size_t count;
    const struct vd_value *items = eval_items(r, n->a, &count);
    *out = vd_value_list(items, count);
    out->is_tuple = n->value.is_tuple;
    return items != NULL;
}

static bool eval_map(struct vd_run *r, const struct vd_node *n, struct vd_value *out)
{
    size_t count, n_pairs = 0;
    struct vd_value *pairs = eval_items(r, n->a, &count);
    for (size_t i = 0; pairs && i < count; i += 2) {
        if (pairs[i].type != VD_VALUE_STR)
            return vd_run_fail(r, VD_EUNSUPPORTED, "a map's key is %s; only strings are supported",
                               vd_value_type_name(pairs[i].type));
        size_t k = 0; /* a later pair with the same key replaces the value */
        while (k < n_pairs && !vd_str_eq(pairs[2 * k].s, pairs[i].s))
            k++;
        pairs[2 * k] = pairs[i];
        pairs[2 * k + 1] = pairs[i + 1];
        n_pairs += k == n_pairs;
        if (!vd_run_charge(r, k + vd_run_find_steps(k, pairs[i].s)))
            return false;
    }
    *out = vd_value_map(pairs, n_pairs);
    return pairs != NULL;
}

static bool eval_args(struct vd_run *r, const struct vd_node *list, struct vd_args *args)
{
    args->n = 0;
    for (const struct vd_node *i = list; i; i = i->next) {
        assert(args->n < VD_ARGS_MAX);
        args->key[args->n] = i->key;
        if (!vd_run_eval(r, i, &args->v[args->n++]))
            return false;
    }
    return true;
}

/* Kept out of vd_run_eval: its frame is large, and only calls should pay for it. */
static __attribute__((noinline)) bool eval_call(struct vd_run *r, const struct vd_node *n,
                                                struct vd_value *out)
{
    struct vd_args args;
    struct vd_value self;
    bool is_test;
    if (n->kind == VD_NODE_CALL && n->a->kind == VD_NODE_NAME) {
        struct vd_value shadow;
        if (!lookup(r, n->a->s, &shadow))
            return false;
        if (shadow.type != VD_VALUE_UNDEFINED)
            return vd_run_fail(r, VD_EFORMAT, "%s cannot be called", vd_value_type_name(shadow.type));
        return eval_args(r, n->b, &args) && vd_call_function(r, n->a->s, &args, out);
    }
    bool method = n->kind == VD_NODE_CALL;
    if (method && n->a->kind != VD_NODE_ATTR)
        return vd_run_fail(r, VD_EFORMAT, "only functions and methods can be called");
    if (!vd_run_eval(r, method ? n->a->a : n->a, &self) || !eval_args(r, n->b, &args))
        return false;
    r->line = n->line;
    if (method)
        return vd_call_method(r, n->a->s, &self, &args, out);
    if (n->kind == VD_NODE_FILTER)
        return vd_call_filter(r, n->s, &self, &args, out);
    if (!vd_call_test(r, n->s, &self, &args, &is_test))
        return false;
    *out = vd_value_bool(is_test);
    return true;
}

static bool eval_compare(struct vd_run *r, const struct vd_node *n, struct vd_value *out)
{
    struct vd_value left, right;
    if (!vd_run_eval(r, n->a, &left))
        return false;
    bool holds = true;
    for (const struct vd_node *i = n->b; i && holds; i = i->next) {
        if (!vd_run_eval(r, i, &right) || !vd_op_compare(r, i->operand_op, &left, &right, &holds))
            return false;
        left = right;
    }
    *out = vd_value_bool(holds);
    return true;
}

static bool eval_slice(struct vd_run *r, const struct vd_node *n, struct vd_value *out)
{
    struct vd_value v, bounds[3] = {vd_value_none(), vd_value_none(), vd_value_none()};
    const struct vd_node *parts[] = {n->b, n->c, n->d};
    if (!vd_run_eval(r, n->a, &v))
        return false;
    for (int i = 0; i < 3; i++)
        if (parts[i] && !vd_run_eval(r, parts[i], &bounds[i]))
            return false;
    return vd_op_slice(r, &v, bounds, out);
}

static bool eval_sign(struct vd_run *r, const struct vd_node *n, struct vd_value *out)
{
    struct vd_value zero = vd_value_int(0), v;
    return vd_run_eval(r, n->a, &v) &&
           vd_op_binary(r, n->kind == VD_NODE_NEG ? VD_OP_SUB : VD_OP_ADD, &zero, &v, out);
}

static bool eval_cond(struct vd_run *r, const struct vd_node *n, struct vd_value *out)
{
    struct vd_value c;
    if (!vd_run_eval(r, n->a, &c))
        return false;
    const struct vd_node *chosen = vd_op_truth(&c) ? n->b : n->c;
    if (chosen)
        return vd_run_eval(r, chosen, out);
    *out = (struct vd_value){.type = VD_VALUE_UNDEFINED, .s = vd_str_of("the missing else")};
    return true;
}

static bool eval_logical(struct vd_run *r, const struct vd_node *n, struct vd_value *out)
{
    if (!vd_run_eval(r, n->a, out))
        return false;
    if (vd_op_truth(out) == (n->kind == VD_NODE_OR))
        return true;
    return vd_run_eval(r, n->b, out);
}

static bool eval_two(struct vd_run *r, const struct vd_node *n, struct vd_value *out)
{
    struct vd_value a, b;
    if (!vd_run_eval(r, n->a, &a) || !vd_run_eval(r, n->b, &b))
        return false;
    r->line = n->line;
    return n->kind == VD_NODE_ITEM ? vd_op_item(r, &a, &b, out) : vd_op_binary(r, n->op, &a, &b, out);
}

static bool eval_kind(struct vd_run *r, const struct vd_node *n, struct vd_value *out)
{
    struct vd_value v;
    switch (n->kind) {
    case VD_NODE_CONST:
        *out = n->value;
        return true;
    case VD_NODE_NAME:
        return lookup(r, n->s, out);
    case VD_NODE_LIST:
        return eval_list(r, n, out);
    case VD_NODE_MAP:
        return eval_map(r, n, out);
    case VD_NODE_ATTR:
        return vd_run_eval(r, n->a, &v) && vd_op_attr(r, &v, n->s, out);
    case VD_NODE_ITEM:
    case VD_NODE_BINARY:
        return eval_two(r, n, out);
    case VD_NODE_SLICE:
        return eval_slice(r, n, out);
    case VD_NODE_CALL:
    case VD_NODE_FILTER:
    case VD_NODE_TEST:
        return eval_call(r, n, out);
    case VD_NODE_NOT:
        if (!vd_run_eval(r, n->a, &v))
            return false;
        *out = vd_value_bool(!vd_op_truth(&v));
        return true;
    case VD_NODE_NEG:
    case VD_NODE_POS:
        return eval_sign(r, n, out);
    case VD_NODE_AND:
    case VD_NODE_OR:
        return eval_logical(r, n, out);
    case VD_NODE_COND:
        return eval_cond(r, n, out);
    case VD_NODE_COMPARE:
        return eval_compare(r, n, out);
    case VD_NODE_DATA:
    case VD_NODE_OUT:
    case VD_NODE_IF:
    case VD_NODE_FOR:
    case VD_NODE_SET:
    case VD_NODE_SET_BLOCK:
    case VD_NODE_BREAK:
    case VD_NODE_CONTINUE:
        break;
    }
    assert(!"an expression");
    return false;
}

bool vd_run_eval(struct vd_run *r, const struct vd_node *n, struct vd_value *out)
{
    r->line = n->line;
    if (++r->depth > VD_TEMPLATE_DEPTH_MAX)
        return vd_run_fail(r, VD_ELIMIT, "an expression is nested deeper than %d", VD_TEMPLATE_DEPTH_MAX);
    bool ok = vd_run_charge(r, 1) && eval_kind(r, n, out);
    r->depth--;
    return ok;
}

/* ---- statements ---- */

static bool run_list(struct vd_run *r, const struct vd_node *list);

static bool run_out(struct vd_run *r, const struct vd_node *n)
{
    size_t mark = r->arena.used_bytes;
    struct vd_value v;
    struct vd_str s;
    bool ok = vd_run_eval(r, n->a, &v) && vd_op_str(r, &v, &s) && write_out(r, s);
    r->arena.used_bytes = mark;
    return ok;
}

static bool run_if(struct vd_run *r, const struct vd_node *n)
{
    struct vd_value c;
    return vd_run_eval(r, n->a, &c) && run_list(r, vd_op_truth(&c) ? n->b : n->c);
}

/* The items for which the loop's condition holds. */
static bool filter_items(struct vd_run *r, const struct vd_node *n, struct vd_value *list)
{
    struct vd_value *kept = vd_run_alloc(r, (list->list.n + 1) * sizeof *kept), c;
    size_t n_kept = 0, n_vars = r->n_vars, frame = r->frame;
    if (!kept)
        return false;
    r->frame = r->n_vars;
    for (size_t i = 0; i < list->list.n; i++) {
        r->n_vars = n_vars;
        if (!assign(r, n->a, &list->list.p[i]) || !vd_run_eval(r, n->e, &c))
            return false;
        if (vd_op_truth(&c))
            kept[n_kept++] = list->list.p[i];
    }
    r->n_vars = n_vars;
    r->frame = frame;
    *list = vd_value_list(kept, n_kept);
    return true;
}

static bool run_round(struct vd_run *r, const struct vd_node *n, const struct vd_loop *loop)
{
    struct vd_value v = {.type = VD_VALUE_LOOP, .loop = loop};
    r->frame = r->n_vars;
    return vd_run_charge(r, 1) && push_var(r, vd_str_of("loop"), &v) &&
           assign(r, n->a, &loop->items[loop->index0]) && run_list(r, n->c);
}

static bool run_for(struct vd_run *r, const struct vd_node *n)
{
    struct vd_value v, list;
    if (!vd_run_eval(r, n->b, &v) || !vd_op_iterate(r, &v, &list) || (n->e && !filter_items(r, n, &list)))
        return false;
    if (list.list.n == 0)
        return run_list(r, n->d);
    size_t n_vars = r->n_vars, frame = r->frame;
    struct vd_loop *loop =
        vd_run_alloc(r, sizeof *loop); /* not on the stack: `loop` may be stored in a namespace */
    if (!loop)
        return false;
    *loop = (struct vd_loop){.items = list.list.p, .n = (int64_t)list.list.n};
    bool ok = true;
    for (; ok && loop->index0 < loop->n && r->flow != VD_FLOW_BREAK; loop->index0++) {
        r->flow = VD_FLOW_ON;
        ok = run_round(r, n, loop);
        r->n_vars = n_vars;
        r->frame = frame;
    }
    loop->index0 = loop->n - 1;
    r->flow = VD_FLOW_ON;
    return ok;
}

static bool run_set(struct vd_run *r, const struct vd_node *n)
{
    struct vd_value v;
    return vd_run_eval(r, n->b, &v) && assign(r, n->a, &v);
}

/* Runs the body into the output, then takes what it wrote away from there. */
static bool run_set_block(struct vd_run *r, const struct vd_node *n)
{
    size_t start = r->out_n, n_vars = r->n_vars, frame = r->frame;
    r->frame = r->n_vars;
    bool ok = run_list(r, n->b);
    r->n_vars = n_vars;
    r->frame = frame;
    size_t n_bytes = r->out_n - start;
    char *copy = ok ? vd_run_alloc(r, n_bytes + 1) : NULL;
    if (!copy)
        return false;
    memcpy(copy, r->out + start, n_bytes);
    r->out_n = start;
    struct vd_value v = vd_value_str(copy, n_bytes);
    return assign(r, n->a, &v);
}

static bool run_one(struct vd_run *r, const struct vd_node *n)
{
    switch (n->kind) {
    case VD_NODE_DATA:
        return write_out(r, n->s);
    case VD_NODE_OUT:
        return run_out(r, n);
    case VD_NODE_IF:
        return run_if(r, n);
    case VD_NODE_FOR:
        return run_for(r, n);
    case VD_NODE_SET:
        return run_set(r, n);
    case VD_NODE_SET_BLOCK:
        return run_set_block(r, n);
    case VD_NODE_BREAK:
        r->flow = VD_FLOW_BREAK;
        return true;
    case VD_NODE_CONTINUE:
        r->flow = VD_FLOW_CONTINUE;
        return true;
    case VD_NODE_CONST:
    case VD_NODE_NAME:
    case VD_NODE_LIST:
    case VD_NODE_MAP:
    case VD_NODE_ATTR:
    case VD_NODE_ITEM:
    case VD_NODE_SLICE:
    case VD_NODE_CALL:
    case VD_NODE_FILTER:
    case VD_NODE_TEST:
    case VD_NODE_NOT:
    case VD_NODE_NEG:
    case VD_NODE_POS:
    case VD_NODE_AND:
    case VD_NODE_OR:
    case VD_NODE_COND:
    case VD_NODE_BINARY:
    case VD_NODE_COMPARE:
        break;
    }
    assert(!"a statement");
    return false;
}

static bool run_list(struct vd_run *r, const struct vd_node *list)
{
    for (; list && r->flow == VD_FLOW_ON; list = list->next) {
        r->line = list->line;
        if (!vd_run_charge(r, 1) || !run_one(r, list))
            return false;
    }
    return true;
}

enum vd_err vd_template_run(const struct vd_template *t, const struct vd_value *globals,
                            const struct vd_template_limits *limits, char *out, size_t max_bytes,
                            size_t *n_bytes, struct vd_error *err)
{
    assert(globals->type == VD_VALUE_MAP);
    *n_bytes = 0;
    size_t memory = limits && limits->memory_bytes ? limits->memory_bytes : MEMORY_DEFAULT_BYTES;
    struct vd_run *r = malloc(sizeof *r);
    void *base = malloc(memory); /* pages that are not used cost nothing */
    if (!r || !base) {
        free(r);
        free(base);
        return vd_error_set(err, VD_ENOMEM, "no memory to run the chat template");
    }
    r->globals = globals;
    r->arena = vd_arena_init(base, memory);
    r->steps_left = limits && limits->steps ? limits->steps : STEPS_DEFAULT;
    r->out = out;
    r->out_max = max_bytes;
    r->out_n = r->n_vars = r->frame = 0;
    r->line = 1;
    r->depth = 0;
    r->err = err;
    r->e = VD_OK;
    r->flow = VD_FLOW_ON;
    run_list(r, t->body);
    enum vd_err e = r->e;
    *n_bytes = e ? 0 : r->out_n;
    free(base);
    free(r);
    return e;
}
