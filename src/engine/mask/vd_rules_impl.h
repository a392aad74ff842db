/* Private to vd_rules*.c: the nodes. */
#ifndef VD_RULES_IMPL_H
#define VD_RULES_IMPL_H

#include "vd_rules.h"

enum node_kind {
    NODE_SEQ, /* of the list from child on; empty: the empty text */
    NODE_ALT,
    NODE_MEMBERS, /* the list from child on, with min (an expression) between; max: the last repeats */
    NODE_ITEM,    /* of a list: child; of members: min is 1 if it is required */
    NODE_REPEAT,  /* of child, min to max times */
    NODE_BYTES,   /* one byte from min to max */
    NODE_REF,     /* rule min */
    NODE_NOTHING, /* no text at all */
    NODE_COMMIT,  /* the empty text; what is not behind it is given up */
};

struct node {
    uint8_t kind, depth;
    uint32_t child, next, min, max;
};

struct rule {
    char name[VD_RULES_NAME_MAX_BYTES];
    vd_expr body;
    bool defined, shared;
};

struct vd_rules {
    bool full; /* a limit was reached */
    uint32_t n_nodes, n_rules;
    struct node node[VD_RULES_NODES_MAX];
    struct rule rule[VD_RULES_MAX];
};

#endif
