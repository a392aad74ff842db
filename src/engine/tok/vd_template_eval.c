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

/* Walks the frames from the running one outwards in the text. */
static bool lookup(struct vd_run *r, struct vd_str name, struct vd_value *out)
{
    uint64_t seen = 0;
    for (uint32_t f = r->n_frames - 1;; f = r->frames[f].around) {
        uint32_t start = r->frames[f].start, end = f + 1 < r->n_frames ? r->frames[f + 1].start : r->n_vars;
        for (uint32_t i = end; i-- > start; seen++)
            if (vd_str_eq(r->vars[i].name, name)) {
                *out = r->vars[i].value;
                return vd_run_charge(r, vd_run_find_steps(seen, name));
            }
        if (f == 0)
            break;
    }
    const struct vd_value *v = vd_value_get(r->globals, name);
    if (!v)
        v = vd_call_find(name);
    *out = v ? *v : (struct vd_value){.type = VD_VALUE_UNDEFINED, .s = name};
    if (v && v->type == VD_VALUE_FUNCTION && r->now_s < 0 && vd_str_is(name, "strftime_now"))
        *out = (struct vd_value){.type = VD_VALUE_UNDEFINED, .s = name};
    return vd_run_charge(r, vd_run_find_steps(seen + r->globals->list.n, name));
}

static bool enter_frame(struct vd_run *r, uint32_t around)
{
    if (r->n_frames == sizeof r->frames / sizeof r->frames[0])
        return vd_run_fail(r, VD_ELIMIT, "loops and macros are nested deeper than %d",
                           VD_TEMPLATE_RUN_DEPTH_MAX);
    r->frames[r->n_frames] = (struct vd_frame){r->n_vars, around < r->n_frames ? around : 0};
    r->n_frames++;
    return true;
}

static void leave_frame(struct vd_run *r)
{
    r->n_frames--;
    r->n_vars = r->frames[r->n_frames].start;
}

/* A scope in the running frame. */
static bool enter_scope(struct vd_run *r)
{
    return enter_frame(r, r->n_frames - 1);
}

/* Sets in the running frame: a loop's body has its own, which ends with each round. */
static bool set_var(struct vd_run *r, struct vd_str name, const struct vd_value *v)
{
    for (uint32_t i = r->n_vars; i-- > r->frames[r->n_frames - 1].start;)
        if (vd_str_eq(r->vars[i].name, name)) {
            r->vars[i].value = *v;
            return vd_run_charge(r, name.n / 32);
        }
    if (r->n_vars == VD_TEMPLATE_VARS_MAX)
        return vd_run_fail(r, VD_ELIMIT, "more than %d variables", VD_TEMPLATE_VARS_MAX);
    r->vars[r->n_vars++] = (struct vd_var){name, *v};
    return true;
}

static bool set_namespace(struct vd_run *r, const struct vd_node *target, const struct vd_value *v)
{
    struct vd_value ns;
    if (!lookup(r, target->a->s, &ns))
        return false;
    if (ns.type != VD_VALUE_NAMESPACE)
        return vd_run_fail(r, VD_EFORMAT, "attributes can be set on a namespace only");
    r->n_stored++;
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

/* Counts a level of the run's recursion; the caller takes it back. */
static bool deeper(struct vd_run *r)
{
    return ++r->depth <= VD_TEMPLATE_RUN_DEPTH_MAX ||
           vd_run_fail(r, VD_ELIMIT, "expressions, loops and macros are nested deeper than %d",
                       VD_TEMPLATE_RUN_DEPTH_MAX);
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
    size_t count;
    struct vd_value *pairs = eval_items(r, n->a, &count);
    *out = vd_value_map(pairs, 0);
    for (size_t i = 0; pairs && i < count; i += 2) {
        const struct vd_value *there; /* a later pair with the same key replaces the value */
        if (!vd_op_find(r, out, &pairs[i], &there))
            return false;
        size_t k = there ? (size_t)(there - pairs) / 2 : out->list.n;
        pairs[2 * k + 1] = pairs[i + 1];
        if (!there)
            pairs[2 * out->list.n++] = pairs[i];
    }
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

/* A call of a method by its name needs no value for the method. */
static bool eval_callee(struct vd_run *r, const struct vd_node *n, struct vd_value *out,
                        struct vd_str *method)
{
    *method = (struct vd_str){NULL, 0};
    if (n->kind != VD_NODE_ATTR)
        return vd_run_eval(r, n, out);
    if (!vd_run_eval(r, n->a, out))
        return false;
    *method = n->s;
    return true;
}

/* Kept out of vd_run_eval: its frame is large, and only calls should pay for it. `caller`: of a call block,
 * or NULL. */
static __attribute__((noinline)) bool eval_call(struct vd_run *r, const struct vd_node *n,
                                                const struct vd_value *caller, struct vd_value *out)
{
    struct vd_args args;
    struct vd_value self;
    struct vd_str method = {NULL, 0};
    bool is_test, is_call = n->kind == VD_NODE_CALL;
    if (is_call ? !eval_callee(r, n->a, &self, &method) : !vd_run_eval(r, n->a, &self))
        return false;
    if (!eval_args(r, n->b, &args))
        return false;
    if (caller) {
        if (args.n == VD_ARGS_MAX)
            return vd_run_fail(r, VD_ELIMIT, "a call has too many arguments");
        args.key[args.n] = vd_str_of("caller");
        args.v[args.n++] = *caller;
    }
    r->line = n->line;
    if (is_call)
        return method.p ? vd_call_method(r, method, &self, &args, out) : vd_run_call(r, &self, &args, out);
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
    struct vd_value minus = vd_value_int(n->kind == VD_NODE_NEG ? -1 : 1), v;
    double f;
    if (!vd_run_eval(r, n->a, &v))
        return false;
    if (!vd_number_as_float(&v, &f)) /* not a string, which * would repeat */
        minus = (struct vd_value){.type = VD_VALUE_NONE};
    return vd_op_binary(r, VD_OP_MUL, &v, &minus, out);
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
        return eval_call(r, n, NULL, out);
    case VD_NODE_CAPTURED:
        *out = r->captured;
        return true;
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
    case VD_NODE_WITH:
    case VD_NODE_MACRO:
    case VD_NODE_CALL_BLOCK:
    case VD_NODE_FILTER_BLOCK:
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
    if (!deeper(r))
        return false;
    bool ok = vd_run_charge(r, 1) && eval_kind(r, n, out);
    r->depth--;
    return ok;
}

/* ---- statements ---- */

static bool run_list(struct vd_run *r, const struct vd_node *list);

/* What an expression made is given back, unless it stored something (a macro may do that). */
static bool run_out(struct vd_run *r, const struct vd_node *n)
{
    size_t mark = r->arena.used_bytes;
    uint64_t n_stored = r->n_stored;
    struct vd_value v;
    struct vd_str s;
    bool ok = vd_run_eval(r, n->a, &v) && vd_op_str(r, &v, &s) && write_out(r, s);
    if (n_stored == r->n_stored)
        r->arena.used_bytes = mark;
    return ok;
}

/* Runs statements into the output, then takes what they wrote away from there. */
static bool capture(struct vd_run *r, const struct vd_node *list, struct vd_value *out)
{
    size_t start = r->out_n;
    if (!run_list(r, list))
        return false;
    size_t n_bytes = r->out_n - start;
    char *copy = vd_run_alloc(r, n_bytes + 1);
    if (!copy)
        return false;
    memcpy(copy, r->out + start, n_bytes);
    r->out_n = start;
    *out = vd_value_str(copy, n_bytes);
    return true;
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
    size_t n_kept = 0;
    if (!kept)
        return false;
    for (size_t i = 0; i < list->list.n; i++) {
        if (!enter_scope(r) || !assign(r, n->a, &list->list.p[i]) || !vd_run_eval(r, n->e, &c))
            return false;
        if (vd_op_truth(&c))
            kept[n_kept++] = list->list.p[i];
        leave_frame(r);
    }
    *list = vd_value_list(kept, n_kept);
    return true;
}

static bool run_round(struct vd_run *r, const struct vd_node *n, struct vd_loop *loop)
{
    struct vd_value v = {.type = VD_VALUE_LOOP, .loop = loop};
    return vd_run_charge(r, 1) && set_var(r, vd_str_of("loop"), &v) &&
           assign(r, n->a, &loop->items[loop->index0]) && run_list(r, n->c);
}

/* The rounds of a loop over what `v` gives. `outer`: the loop that calls itself, or NULL. */
static bool run_loop(struct vd_run *r, const struct vd_node *n, const struct vd_value *v,
                     const struct vd_loop *outer)
{
    struct vd_value list;
    if (!vd_op_iterate(r, v, &list) || (n->e && !filter_items(r, n, &list)))
        return false;
    if (list.list.n == 0)
        return run_list(r, n->d);
    struct vd_loop *loop =
        vd_run_alloc(r, sizeof *loop); /* not on the stack: `loop` may be stored in a namespace */
    if (!loop)
        return false;
    *loop = (struct vd_loop){.items = list.list.p,
                             .n = (int64_t)list.list.n,
                             .recursive = n->value.type == VD_VALUE_LOOP ? n : NULL,
                             .depth0 = outer ? outer->depth0 + 1 : 0,
                             .frame = outer ? outer->frame : r->n_frames - 1};
    bool ok = true;
    for (; ok && loop->index0 < loop->n && r->flow != VD_FLOW_BREAK; loop->index0++) {
        r->flow = VD_FLOW_ON;
        if (!enter_frame(r, loop->frame))
            return false;
        ok = run_round(r, n, loop);
        leave_frame(r);
    }
    loop->index0 = loop->n - 1;
    r->flow = VD_FLOW_ON;
    return ok;
}

static bool run_for(struct vd_run *r, const struct vd_node *n)
{
    struct vd_value v;
    return vd_run_eval(r, n->b, &v) && run_loop(r, n, &v, NULL);
}

static bool run_set(struct vd_run *r, const struct vd_node *n)
{
    struct vd_value v;
    return vd_run_eval(r, n->b, &v) && assign(r, n->a, &v);
}

/* A block's text through its filters, which may be missing. */
static bool filter_captured(struct vd_run *r, const struct vd_node *filters, struct vd_value *v)
{
    struct vd_value outer = r->captured;
    if (!filters)
        return true;
    r->captured = *v;
    bool ok = vd_run_eval(r, filters, v);
    r->captured = outer;
    return ok;
}

/* A break in the body leaves the whole statement: nothing is set then, nothing written. */
static bool run_set_block(struct vd_run *r, const struct vd_node *n)
{
    struct vd_value v;
    if (!enter_scope(r) || !capture(r, n->b, &v))
        return false;
    leave_frame(r);
    return r->flow != VD_FLOW_ON || (filter_captured(r, n->c, &v) && assign(r, n->a, &v));
}

static bool run_filter_block(struct vd_run *r, const struct vd_node *n)
{
    struct vd_value v;
    struct vd_str s;
    if (!enter_scope(r) || !capture(r, n->b, &v))
        return false;
    leave_frame(r);
    return r->flow != VD_FLOW_ON || (filter_captured(r, n->a, &v) && vd_op_str(r, &v, &s) && write_out(r, s));
}

/* The values are computed outside of the new scope: they are pushed only when all are there. */
static bool run_with(struct vd_run *r, const struct vd_node *n)
{
    size_t count = 0, k = 0;
    for (const struct vd_node *i = n->a; i; i = i->next)
        count++;
    struct vd_value *v = vd_run_alloc(r, (count + 1) * sizeof *v);
    for (const struct vd_node *i = n->a; v && i; i = i->next)
        if (!vd_run_eval(r, i->a, &v[k++]))
            return false;
    if (!v || !enter_scope(r))
        return false;
    k = 0;
    for (const struct vd_node *i = n->a; i; i = i->next)
        if (!set_var(r, i->s, &v[k++]))
            return false;
    bool ok = run_list(r, n->b);
    leave_frame(r);
    return ok;
}

/* ---- macros ---- */

static bool make_macro(struct vd_run *r, const struct vd_node *n, struct vd_value *out)
{
    struct vd_macro *m = vd_run_alloc(r, sizeof *m);
    if (!m)
        return false;
    *m = (struct vd_macro){n, r->n_frames - 1};
    *out = (struct vd_value){.type = VD_VALUE_MACRO, .macro = m};
    return true;
}

static bool run_macro(struct vd_run *r, const struct vd_node *n)
{
    struct vd_value v;
    return make_macro(r, n, &v) && set_var(r, n->s, &v);
}

static __attribute__((noinline)) bool run_call_block(struct vd_run *r, const struct vd_node *n)
{
    struct vd_value caller, v;
    struct vd_str s;
    return make_macro(r, n->b, &caller) && eval_call(r, n->a, &caller, &v) && vd_op_str(r, &v, &s) &&
           write_out(r, s);
}

/* What is left of the arguments when the parameters have theirs, from position `from` on. */
static bool bind_rest(struct vd_run *r, const struct vd_node *n, const struct vd_args *a, size_t from,
                      const bool used[VD_ARGS_MAX])
{
    struct vd_value pairs[2 * VD_ARGS_MAX], caller = {.type = VD_VALUE_UNDEFINED, .s = vd_str_of("caller")};
    size_t n_pairs = 0, n_rest = 0;
    struct vd_value *rest = vd_run_alloc(r, 3 * VD_ARGS_MAX * sizeof *rest);
    if (!rest)
        return false;
    for (size_t i = 0; i < a->n; i++) {
        if (used[i])
            continue;
        if (a->key[i].n == 0 && i >= from && (n->uses & VD_MACRO_VARARGS)) {
            rest[n_rest++] = a->v[i];
        } else if (a->key[i].n && (n->uses & VD_MACRO_CALLER) && vd_str_is(a->key[i], "caller")) {
            caller = a->v[i];
        } else if (a->key[i].n && (n->uses & VD_MACRO_KWARGS)) {
            pairs[n_pairs++] = vd_value_str(a->key[i].p, a->key[i].n);
            pairs[n_pairs++] = a->v[i];
        } else {
            return vd_args_wrong(r, n->s);
        }
    }
    struct vd_value kwargs = vd_value_map(rest + VD_ARGS_MAX, n_pairs / 2),
                    varargs = vd_value_list(rest, n_rest);
    memcpy(rest + VD_ARGS_MAX, pairs, n_pairs * sizeof *pairs);
    varargs.is_tuple = true;
    return (!(n->uses & VD_MACRO_CALLER) || set_var(r, vd_str_of("caller"), &caller)) &&
           (!(n->uses & VD_MACRO_KWARGS) || set_var(r, vd_str_of("kwargs"), &kwargs)) &&
           (!(n->uses & VD_MACRO_VARARGS) || set_var(r, vd_str_of("varargs"), &varargs));
}

/* Gives the parameters their values in the macro's own frame; a default may name the parameters before it. */
static bool bind(struct vd_run *r, const struct vd_node *n, const struct vd_args *a)
{
    bool used[VD_ARGS_MAX] = {false};
    size_t position = 0;
    for (const struct vd_node *p = n->a; p; p = p->next, position++) {
        struct vd_value v = {.type = VD_VALUE_UNDEFINED, .s = p->s};
        size_t i = 0;
        while (i < a->n && !(a->key[i].n ? vd_str_eq(a->key[i], p->s) && !used[i] : i == position))
            i++;
        if (i < a->n) {
            v = a->v[i];
            used[i] = true;
        } else if (p->a && !vd_run_eval(r, p->a, &v)) {
            return false;
        }
        if (!set_var(r, p->s, &v))
            return false;
    }
    return bind_rest(r, n, a, position, used);
}

static bool call_macro(struct vd_run *r, const struct vd_macro *m, const struct vd_args *a,
                       struct vd_value *out)
{
    if (!enter_frame(r, m->frame) || !bind(r, m->node, a) || !capture(r, m->node->b, out))
        return false;
    leave_frame(r);
    return true;
}

static bool call_loop(struct vd_run *r, const struct vd_loop *loop, const struct vd_args *a,
                      struct vd_value *out)
{
    size_t start = r->out_n;
    if (!loop->recursive || a->n != 1)
        return vd_run_fail(r, VD_EFORMAT, "only a recursive loop can be called, with what it is to run over");
    if (!run_loop(r, loop->recursive, &a->v[0], loop))
        return false;
    char *copy = vd_run_alloc(r, r->out_n - start + 1);
    if (!copy)
        return false;
    *out = vd_value_str(copy, r->out_n - start);
    memcpy(copy, r->out + start, out->s.n);
    r->out_n = start;
    return true;
}

bool vd_run_call(struct vd_run *r, const struct vd_value *f, const struct vd_args *args, struct vd_value *out)
{
    if (f->type == VD_VALUE_FUNCTION)
        return vd_call_function(r, f->i, args, out);
    if (f->type == VD_VALUE_METHOD)
        return vd_call_method(r, f->method->name, &f->method->self, args, out);
    if (f->type == VD_VALUE_MACRO)
        return call_macro(r, f->macro, args, out);
    if (f->type == VD_VALUE_LOOP)
        return call_loop(r, f->loop, args, out);
    if (f->type == VD_VALUE_UNDEFINED)
        return vd_run_fail(r, VD_EUNSUPPORTED, "the function %.*s is not supported",
                           (int)(f->s.n < 80 ? f->s.n : 80), f->s.p);
    return vd_run_fail(r, VD_EFORMAT, "%s cannot be called", vd_value_type_name(f->type));
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
    case VD_NODE_WITH:
        return run_with(r, n);
    case VD_NODE_MACRO:
        return run_macro(r, n);
    case VD_NODE_CALL_BLOCK:
        return run_call_block(r, n);
    case VD_NODE_FILTER_BLOCK:
        return run_filter_block(r, n);
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
    case VD_NODE_CAPTURED:
        break;
    }
    assert(!"a statement");
    return false;
}

static bool run_list(struct vd_run *r, const struct vd_node *list)
{
    if (!deeper(r))
        return false;
    for (; list && r->flow == VD_FLOW_ON; list = list->next) {
        r->line = list->line;
        if (!vd_run_charge(r, 1) || !run_one(r, list))
            return false;
    }
    r->depth--;
    return true;
}

enum vd_err vd_template_run(const struct vd_template *t, const struct vd_value *globals,
                            const struct vd_template_options *limits, char *out, size_t max_bytes,
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
    r->out_n = r->n_vars = 0;
    r->n_frames = 1;
    r->frames[0] = (struct vd_frame){0, 0};
    r->captured = vd_value_none();
    r->n_stored = 0;
    r->now_s = limits && limits->has_now ? limits->now_s : -1;
    r->line = 1;
    r->depth = 0;
    r->err = err;
    r->e = VD_OK;
    r->flow = VD_FLOW_ON;
    if (!run_list(r, t->body) && !r->e)
        vd_run_fail(r, VD_EINTERNAL, "an operation failed without saying why");
    enum vd_err e = r->e;
    *n_bytes = e ? 0 : r->out_n;
    free(base);
    free(r);
    return e;
}
