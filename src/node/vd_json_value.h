/* JSON as the values that chat templates work on.
 *
 * Ownership: a tree borrows its strings from the JSON, which must outlive it; its nodes are one block of
 * memory. Thread rule: pure functions. */
#ifndef VD_JSON_VALUE_H
#define VD_JSON_VALUE_H

#include "vd_err.h"
#include "vd_value.h"

#include <jansson.h>

enum { VD_JSON_VALUE_DEPTH_MAX = 64, VD_JSON_VALUE_NODES_MAX = 1 << 22 };

/* *out is j; *memory its nodes, free(). VD_ELIMIT: nested too deeply or too large; VD_ENOMEM. */
enum vd_err vd_json_value(struct vd_value *out, struct vd_value **memory, const json_t *j,
                          struct vd_error *err);

/* The arguments of tool calls in a list of messages, in place: text that is a JSON object becomes that
 * object, which is what most templates expect. VD_ENOMEM. */
enum vd_err vd_json_call_arguments(json_t *messages, struct vd_error *err);

#endif
