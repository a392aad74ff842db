/* The parameters that change what is sampled and where an answer ends: penalties, biases, stop strings, log
 * probabilities, and the form of the answer. */
#include "vd_openai_impl.h"

#include "vd_wire.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A number in [low, high] as signed millionths; untouched if absent. */
static bool get_signed(int32_t *out, const json_t *object, const char *key, double low, double high,
                       struct vd_openai_error *e)
{
    const json_t *v = vd_openai_get(object, key);
    double x = json_number_value(v);
    if (!v)
        return true;
    if (!json_is_number(v))
        return vd_openai_fail(e, 400, "invalid_type", key, "'%s' must be a number.", key);
    if (!(x >= low && x <= high))
        return vd_openai_fail(e, 400, "invalid_value", key, "'%s' must be from %g to %g.", key, low, high);
    *out = (int32_t)lround(x * 1e6);
    return true;
}

static bool get_whole(uint32_t *out, const json_t *object, const char *key, json_int_t low, json_int_t high,
                      struct vd_openai_error *e)
{
    const json_t *v = vd_openai_get(object, key);
    json_int_t x = json_integer_value(v);
    if (!v)
        return true;
    if (!json_is_integer(v))
        return vd_openai_fail(e, 400, "invalid_type", key, "'%s' must be a whole number.", key);
    if (x < low || x > high)
        return vd_openai_fail(e, 400, "invalid_value", key, "'%s' must be from %lld to %lld.", key,
                              (long long)low, (long long)high);
    *out = (uint32_t)x;
    return true;
}

static bool get_penalties(struct vd_openai_request *r, const json_t *object, struct vd_openai_error *e)
{
    struct vd_sampling *s = &r->sampling;
    int32_t repeat = VD_SAMPLE_MICRO;
    uint32_t last = VD_REPEAT_LAST_DEFAULT;
    if (!get_signed(&s->presence_micro, object, "presence_penalty", -2, 2, e) ||
        !get_signed(&s->frequency_micro, object, "frequency_penalty", -2, 2, e) ||
        !get_signed(&repeat, object, "repetition_penalty", VD_REPEAT_MICRO_MIN / 1e6,
                    VD_REPEAT_MICRO_MAX / 1e6, e) ||
        !get_whole(&last, object, "repeat_last_n", 1, VD_PENALTY_WINDOW, e))
        return false;
    if (repeat != VD_SAMPLE_MICRO) {
        s->repeat_micro = (uint32_t)repeat;
        s->repeat_last_n = last;
    }
    return true;
}

/* ---- biases ---- */

struct bias {
    uint32_t id;
    int32_t micro;
};

static int by_id(const void *a, const void *b)
{
    uint32_t x = ((const struct bias *)a)->id, y = ((const struct bias *)b)->id;
    return (x > y) - (x < y);
}

static bool bad_bias(struct vd_openai_error *e, const char *why)
{
    return vd_openai_fail(
        e, 400, "invalid_value", "logit_bias",
        "'logit_bias' must be an object of up to %d token ids, each once, with numbers from "
        "-100 to 100: %s.",
        VD_BIAS_MAX, why);
}

static bool get_bias(struct vd_openai_request *r, const json_t *object, struct vd_openai_error *e)
{
    struct vd_openai_memory *mem = r->memory;
    const json_t *map = vd_openai_get(object, "logit_bias");
    struct bias b[VD_BIAS_MAX];
    size_t n = 0;
    const char *key;
    json_t *v;
    if (!map)
        return true;
    if (!json_is_object(map) || json_object_size(map) > VD_BIAS_MAX)
        return bad_bias(e, json_is_object(map) ? "there are more" : "it is none");
    json_object_foreach((json_t *)(uintptr_t)map, key, v)
    {
        char *end;
        unsigned long id = strtoul(key, &end, 10);
        double x = json_number_value(v);
        if (key[0] < '0' || key[0] > '9' || *end || id > INT32_MAX)
            return bad_bias(e, "a key is no token id");
        if (!json_is_number(v) || !(x >= -100 && x <= 100))
            return bad_bias(e, "a value is not in that range");
        if (lround(x * 1e6) != 0)
            b[n++] = (struct bias){(uint32_t)id, (int32_t)lround(x * 1e6)};
    }
    qsort(b, n, sizeof b[0], by_id);
    for (size_t i = 0; i < n; i++) {
        if (i && b[i].id == b[i - 1].id)
            return bad_bias(e, "an id comes twice");
        vd_le32_store(mem->bias + VD_BIAS_ENTRY_BYTES * i, b[i].id);
        vd_le32_store(mem->bias + VD_BIAS_ENTRY_BYTES * i + 4, (uint32_t)b[i].micro);
    }
    r->bias = (struct vd_bytes){mem->bias, VD_BIAS_ENTRY_BYTES * n};
    return true;
}

/* ---- stop strings ---- */

static bool add_stop(struct vd_openai_request *r, const json_t *v, struct vd_openai_error *e)
{
    size_t n = json_string_length(v);
    if (!json_is_string(v) || n < 1 || n > VD_STOP_TEXT_MAX_BYTES || r->stop.n == VD_STOP_TEXTS_MAX)
        return vd_openai_fail(e, 400, "invalid_value", "stop",
                              "'stop' must be a string or a list of up to %d strings, of 1 to %d bytes each.",
                              VD_STOP_TEXTS_MAX, VD_STOP_TEXT_MAX_BYTES);
    r->stop.text[r->stop.n].p = json_string_value(v);
    r->stop.text[r->stop.n++].n = n;
    return true;
}

static bool get_stop(struct vd_openai_request *r, const json_t *object, struct vd_openai_error *e)
{
    const json_t *v = vd_openai_get(object, "stop");
    if (!v || vd_openai_is_empty(v))
        return true;
    if (!json_is_array(v))
        return add_stop(r, v, e);
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!add_stop(r, json_array_get(v, i), e))
            return false;
    return true;
}

/* ---- log probabilities ---- */

static bool get_logprobs(struct vd_openai_request *r, const json_t *object, struct vd_openai_error *e)
{
    const json_t *v = vd_openai_get(object, "logprobs");
    uint32_t top = 0;
    if (r->kind == VD_OPENAI_COMPLETION) {
        if (!get_whole(&top, object, "logprobs", 0, VD_WIRE_LOGPROBS_MAX, e))
            return false;
        r->logprobs = v ? 1 + top : 0;
        return true;
    }
    if (v && !json_is_boolean(v))
        return vd_openai_fail(e, 400, "invalid_type", "logprobs", "'logprobs' must be true or false.");
    if (!get_whole(&top, object, "top_logprobs", 0, VD_WIRE_LOGPROBS_MAX, e))
        return false;
    if (top && !json_is_true(v))
        return vd_openai_fail(e, 400, "invalid_value", "top_logprobs",
                              "'top_logprobs' needs 'logprobs': true.");
    r->logprobs = json_is_true(v) ? 1 + top : 0;
    return true;
}

/* ---- the answer's form ---- */

static bool bad_format(struct vd_openai_error *e, const char *param, const char *why)
{
    return vd_openai_fail(e, 400, "invalid_value", param, "'%s' %s.", param, why);
}

static bool get_schema(struct vd_openai_request *r, const json_t *format, struct vd_openai_error *e)
{
    struct vd_openai_memory *mem = r->memory;
    const json_t *outer = vd_openai_get(format, "json_schema"), *schema = vd_openai_get(outer, "schema");
    if (!json_is_object(outer) || !schema)
        return bad_format(e, "response_format.json_schema", "must be an object with a \"schema\"");
    mem->schema = json_dumps(schema, JSON_COMPACT | JSON_ENCODE_ANY);
    if (!mem->schema)
        return vd_openai_no_memory(e);
    r->format = (struct vd_openai_format){VD_OPENAI_FORMAT_SCHEMA, {mem->schema, strlen(mem->schema)}};
    return true;
}

static bool get_format(struct vd_openai_request *r, const json_t *object, struct vd_openai_error *e)
{
    const json_t *format = vd_openai_get(object, "response_format"), *text = vd_openai_get(format, "grammar");
    const char *type = json_string_value(vd_openai_get(format, "type"));
    if (!format)
        return true;
    if (!type)
        return bad_format(e, "response_format", "must be an object with a \"type\"");
    if (strcmp(type, "text") == 0)
        return true;
    if (strcmp(type, "json_schema") == 0)
        return get_schema(r, format, e);
    if (strcmp(type, "json_object") == 0) {
        r->format.kind = VD_OPENAI_FORMAT_OBJECT;
        return true;
    }
    if (strcmp(type, "grammar") != 0)
        return bad_format(e, "response_format.type",
                          "must be \"text\", \"json_object\", \"json_schema\" or \"grammar\"");
    if (!json_is_string(text))
        return bad_format(e, "response_format.grammar", "must be a string");
    r->format = (struct vd_openai_format){VD_OPENAI_FORMAT_GRAMMAR,
                                          {json_string_value(text), json_string_length(text)}};
    return true;
}

bool vd_openai_get_controls(struct vd_openai_request *r, const json_t *object, struct vd_openai_error *e)
{
    r->n = 1;
    return get_whole(&r->n, object, "n", 1, VD_OPENAI_CHOICES_MAX, e) && get_penalties(r, object, e) &&
           get_bias(r, object, e) && get_stop(r, object, e) && get_logprobs(r, object, e) &&
           get_format(r, object, e);
}
