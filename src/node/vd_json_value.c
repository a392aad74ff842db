/* Counted first, then filled: the tree is one allocation of just its size. */
#include "vd_json_value.h"

#include <assert.h>
#include <stdlib.h>

/* Adds the values below j, j itself not. False: nested too deeply, or too many. */
static bool count(const json_t *j, int depth, size_t *n)
{
    const char *key;
    json_t *v;
    size_t i;
    *n += json_is_array(j) ? json_array_size(j) : 2 * json_object_size(j);
    if (depth > VD_JSON_VALUE_DEPTH_MAX || *n > VD_JSON_VALUE_NODES_MAX)
        return false;
    json_array_foreach(j, i, v)
    {
        if (!count(v, depth + 1, n))
            return false;
    }
    json_object_foreach((json_t *)(uintptr_t)j, key, v)
    {
        if (!count(v, depth + 1, n))
            return false;
    }
    return true;
}

/* The value of j; what is below it is taken from *free_nodes on. */
static struct vd_value fill(const json_t *j, struct vd_value **free_nodes)
{
    struct vd_value *p = *free_nodes;
    const char *key;
    json_t *v;
    size_t i, n;
    switch (json_typeof(j)) {
    case JSON_OBJECT:
        n = 0;
        *free_nodes += 2 * json_object_size(j);
        json_object_foreach((json_t *)(uintptr_t)j, key, v)
        {
            p[n++] = vd_value_text(key);
            p[n++] = fill(v, free_nodes);
        }
        return vd_value_map(p, n / 2);
    case JSON_ARRAY:
        *free_nodes += json_array_size(j);
        json_array_foreach(j, i, v)
        {
            p[i] = fill(v, free_nodes);
        }
        return vd_value_list(p, json_array_size(j));
    case JSON_STRING:
        return vd_value_str(json_string_value(j), json_string_length(j));
    case JSON_INTEGER:
        return vd_value_int(json_integer_value(j));
    case JSON_REAL:
        return vd_value_float(json_real_value(j));
    case JSON_TRUE:
        return vd_value_bool(true);
    case JSON_FALSE:
        return vd_value_bool(false);
    case JSON_NULL:
        break;
    }
    return vd_value_none();
}

enum vd_err vd_json_value(struct vd_value *out, struct vd_value **memory, const json_t *j,
                          struct vd_error *err)
{
    size_t n = 0;
    *memory = NULL;
    if (!count(j, 0, &n))
        return vd_error_set(err, VD_ELIMIT, "the JSON is nested deeper than %d, or has more than %d values",
                            VD_JSON_VALUE_DEPTH_MAX, VD_JSON_VALUE_NODES_MAX);
    struct vd_value *nodes = malloc((n + 1) * sizeof *nodes);
    if (!nodes)
        return vd_error_set(err, VD_ENOMEM, "no memory for %zu JSON values", n);
    *memory = nodes;
    *out = fill(j, &nodes);
    assert(nodes == *memory + n);
    return VD_OK;
}

enum vd_err vd_json_call_arguments(json_t *messages, struct vd_error *err)
{
    json_t *message, *call;
    size_t i, k;
    json_array_foreach(messages, i, message)
    {
        json_array_foreach(json_object_get(message, "tool_calls"), k, call)
        {
            json_t *function = json_object_get(call, "function"),
                   *text = json_object_get(function, "arguments");
            if (!json_is_string(text))
                continue;
            json_t *object = json_loadb(json_string_value(text), json_string_length(text), 0, NULL);
            if (!json_is_object(object))
                json_decref(object);
            else if (json_object_set_new(function, "arguments", object) != 0)
                return vd_error_set(err, VD_ENOMEM, "no memory for a tool call");
        }
    }
    return VD_OK;
}
