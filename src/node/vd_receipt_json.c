/* One table says which member is which field; writing and reading both walk it, so neither can know a field
 * that the other does not. Reading takes what docs/spec/receipt.schema.json takes, and nothing else:
 * tests/data/receipt-json.json holds the cases, which the tests of this file and of the schema both run. */
#include "vd_receipt_json.h"

#include "vd_json_hex.h"

#include <stdio.h>
#include <stdlib.h>

enum kind {
    KIND_HEX32, /* 32 bytes */
    KIND_U32,
    KIND_I32,
    KIND_U64,    /* integer up to INTEGER_MAX, or decimal string */
    KIND_SEED,   /* the same, but written as a string always */
    KIND_FINISH, /* by name */
};

/* What a reader that keeps numbers as doubles has exactly. */
#define INTEGER_MAX ((INT64_C(1) << 53) - 1)

struct member {
    const char *name;
    uint8_t kind;
    bool optional; /* zero may be left out, and is */
    size_t offset; /* in struct vd_receipt */
};

#define AT(field) offsetof(struct vd_receipt, field)

static const struct member sampling_members[] = {
    {"temperature_micro", KIND_U32, false, AT(request.sampling.temp_micro)},
    {"top_k", KIND_U32, false, AT(request.sampling.top_k)},
    {"top_p_micro", KIND_U32, false, AT(request.sampling.top_p_micro)},
    {"min_p_micro", KIND_U32, false, AT(request.sampling.min_p_micro)},
    {"seed", KIND_SEED, false, AT(request.sampling.seed)},
    {"choice", KIND_U32, true, AT(request.sampling.choice)},
    {"repetition_penalty_micro", KIND_U32, true, AT(request.sampling.repeat_micro)},
    {"repetition_last_n", KIND_U32, true, AT(request.sampling.repeat_last_n)},
    {"presence_penalty_micro", KIND_I32, true, AT(request.sampling.presence_micro)},
    {"frequency_penalty_micro", KIND_I32, true, AT(request.sampling.frequency_micro)},
    {"pooling", KIND_U32, true, AT(request.sampling.pooling)},
    {NULL, 0, false, 0},
};

static const struct member request_members[] = {
    {"genesis", KIND_HEX32, false, AT(request.genesis)},
    {"arithmetic", KIND_U32, false, AT(request.arith_version)},
    {"valid_until", KIND_U64, false, AT(request.valid_until)},
    {"escrow", KIND_HEX32, false, AT(request.escrow_id)},
    {"sequence", KIND_U64, false, AT(request.sequence)},
    {"gateway", KIND_HEX32, false, AT(request.gateway)},
    {"worker", KIND_HEX32, false, AT(request.worker)},
    {"model_root", KIND_HEX32, false, AT(request.model_root)},
    {"prompt_root", KIND_HEX32, false, AT(request.prompt_root)},
    {"prompt_tokens", KIND_U32, false, AT(request.n_prompt)},
    {"salt_commit", KIND_HEX32, false, AT(request.salt_commit)},
    {"max_tokens", KIND_U32, false, AT(request.max_tokens)},
    {"price_in_micro", KIND_U64, false, AT(request.price_in)},
    {"price_out_micro", KIND_U64, false, AT(request.price_out)},
    {"disclosure", KIND_U32, false, AT(request.disclosure)},
    {"bias_hash", KIND_HEX32, true, AT(request.bias_hash)},
    {"mask_hash", KIND_HEX32, true, AT(request.mask_hash)},
    {NULL, 0, false, 0},
};

static const struct member receipt_members[] = {
    {"amount_micro", KIND_U64, false, AT(amount)},       {"finish", KIND_FINISH, false, AT(finish)},
    {"output_tokens", KIND_U32, false, AT(n_output)},    {"output_root", KIND_HEX32, false, AT(output_root)},
    {"commit_root", KIND_HEX32, false, AT(commit_root)}, {NULL, 0, false, 0},
};

/* Members that are read by name below. */
static const char *const in_sampling[] = {NULL};
static const char *const in_request[] = {"sampling", NULL};
static const char *const in_receipt[] = {
    "id",     "object", "request", "worker_signature", "gateway_signature", "job_salt", "prompt",
    "output", "bias",   "mask",    "status",           "created",           NULL};
static const char *const payment_status[] = {"pending", "settled", "final", "void", "refused", NULL};

static const enum vd_finish finishes[] = {
#define X(code, value, name) code,
    VD_FINISH_LIST(X)
#undef X
};
enum { N_FINISHES = sizeof finishes / sizeof finishes[0] };

/* ---- writing ---- */

static json_t *ids(const uint32_t *v, uint32_t n)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer(v[i]));
    return list;
}

static bool is_zero(const struct member *m, const uint8_t *field)
{
    static const uint8_t zero[32];
    return memcmp(field, zero, m->kind == KIND_HEX32 ? 32 : 4) == 0;
}

static json_t *value_of(const struct member *m, const uint8_t *field)
{
    uint32_t u32;
    int32_t i32;
    uint64_t u64;
    char text[24];
    switch ((enum kind)m->kind) {
    case KIND_HEX32:
        return vd_json_hex(field, 32);
    case KIND_U32:
        memcpy(&u32, field, sizeof u32);
        return json_integer(u32);
    case KIND_I32:
        memcpy(&i32, field, sizeof i32);
        return json_integer(i32);
    case KIND_U64:
    case KIND_SEED:
        memcpy(&u64, field, sizeof u64);
        if (m->kind == KIND_U64 && u64 <= INTEGER_MAX)
            return json_integer((json_int_t)u64);
        snprintf(text, sizeof text, "%llu", (unsigned long long)u64);
        return json_string(text);
    case KIND_FINISH:
        return json_string(vd_finish_name(*(const enum vd_finish *)(const void *)field));
    }
    return NULL;
}

static json_t *put_members(json_t *j, const struct member *m, const struct vd_receipt *r)
{
    for (; m->name; m++) {
        const uint8_t *field = (const uint8_t *)r + m->offset;
        if (!m->optional || !is_zero(m, field))
            json_object_set_new(j, m->name, value_of(m, field));
    }
    return j;
}

json_t *vd_receipt_to_json(const struct vd_envelope *e, const struct vd_receipt *r)
{
    struct vd_hash id = vd_signed_receipt_id(&e->receipt);
    json_t *request = put_members(json_object(), request_members, r), *j = json_object();
    json_object_set_new(request, "sampling", put_members(json_object(), sampling_members, r));
    json_object_set_new(j, "id", vd_json_hex(id.b, sizeof id.b));
    json_object_set_new(j, "object", json_string("veridem.receipt"));
    put_members(j, receipt_members, r);
    json_object_set_new(j, "request", request);
    json_object_set_new(j, "worker_signature", vd_json_hex(e->receipt.worker_sig.b, VD_SIG_BYTES));
    json_object_set_new(j, "gateway_signature", vd_json_hex(e->receipt.gateway_sig.b, VD_SIG_BYTES));
    json_object_set_new(j, "job_salt", vd_json_hex(e->job_salt, VD_SALT_BYTES));
    json_object_set_new(j, "prompt", ids(e->prompt, e->n_prompt));
    json_object_set_new(j, "output", ids(e->output, e->n_output));
    if (e->controls.bias.n)
        json_object_set_new(j, "bias", vd_json_hex(e->controls.bias.p, e->controls.bias.n));
    if (e->controls.mask.n)
        json_object_set_new(j, "mask", vd_json_hex(e->controls.mask.p, e->controls.mask.n));
    return j;
}

/* ---- reading ---- */

static enum vd_err wrong(struct vd_error *err, const char *name, const char *want)
{
    return vd_error_set(err, VD_EFORMAT, "the receipt's member \"%s\" is missing or is not %s", name, want);
}

/* Text from outside, in a message. */
static void only_printable(char *text)
{
    for (; *text; text++)
        if (*text < 0x20 || *text > 0x7e)
            *text = '?';
}

static bool is_one_of(const char *text, const char *const *list)
{
    for (; text && *list; list++)
        if (strcmp(text, *list) == 0)
            return true;
    return false;
}

/* Nothing but members of m and those read by name. */
static enum vd_err only_known(const json_t *in, const struct member *m, const char *const *by_name,
                              struct vd_error *err)
{
    const char *key;
    const json_t *v;
    char shown[64];
    json_object_foreach((json_t *)(uintptr_t)in, key, v)
    {
        const struct member *at = m;
        while (at->name && strcmp(at->name, key) != 0)
            at++;
        if (at->name || is_one_of(key, by_name))
            continue;
        snprintf(shown, sizeof shown, "%s", key);
        only_printable(shown);
        return vd_error_set(err, VD_EFORMAT, "a receipt has no member \"%s\"", shown);
    }
    return VD_OK;
}

/* Pairs of lower-case digits, and nothing else. */
static bool is_hex(const char *text)
{
    size_t n = text ? strlen(text) : 1;
    return n % 2 == 0 && strspn(text, "0123456789abcdef") == n;
}

static enum vd_err get_hex(const json_t *in, const char *name, void *out, size_t n_bytes,
                           struct vd_error *err)
{
    char want[48];
    const json_t *v = json_object_get(in, name);
    if (is_hex(json_string_value(v)) && vd_json_get_hex(out, n_bytes, v))
        return VD_OK;
    snprintf(want, sizeof want, "%zu hexadecimal digits in lower case", 2 * n_bytes);
    return wrong(err, name, want);
}

/* Without a fraction or an exponent, which make it another JSON type here. */
static bool get_integer(const json_t *v, int64_t min, int64_t max, int64_t *out)
{
    *out = json_integer_value(v);
    return json_is_integer(v) && *out >= min && *out <= max;
}

/* The same, or a string of digits without needless zeros. */
static bool get_u64(const json_t *v, uint64_t *out)
{
    const char *text = json_string_value(v);
    char again[24];
    int64_t i;
    if (!text) {
        bool ok = get_integer(v, 0, INTEGER_MAX, &i);
        *out = (uint64_t)i;
        return ok;
    }
    *out = strtoull(text, NULL, 10);
    snprintf(again, sizeof again, "%llu", (unsigned long long)*out);
    return strcmp(again, text) == 0;
}

static bool get_finish(const json_t *v, enum vd_finish *out)
{
    const char *text = json_string_value(v);
    for (unsigned i = 0; text && i < N_FINISHES; i++)
        if (strcmp(text, vd_finish_name(finishes[i])) == 0) {
            *out = finishes[i];
            return true;
        }
    return false;
}

static enum vd_err get_member(const json_t *in, const struct member *m, uint8_t *field, struct vd_error *err)
{
    const json_t *v = json_object_get(in, m->name);
    uint64_t u64;
    int64_t i64;
    uint32_t u32;
    switch ((enum kind)m->kind) {
    case KIND_HEX32:
        return get_hex(in, m->name, field, 32, err);
    case KIND_U32:
    case KIND_I32:
        if (!get_integer(v, m->kind == KIND_I32 ? INT32_MIN : 0, m->kind == KIND_I32 ? INT32_MAX : UINT32_MAX,
                         &i64))
            return wrong(err, m->name, "a whole number of 32 bits");
        u32 = (uint32_t)i64;
        memcpy(field, &u32, sizeof u32);
        return VD_OK;
    case KIND_U64:
    case KIND_SEED:
        if (!get_u64(v, &u64))
            return wrong(err, m->name, "a whole number of 64 bits (from 2^53 on a string of its digits)");
        memcpy(field, &u64, sizeof u64);
        return VD_OK;
    case KIND_FINISH:
        if (get_finish(v, (enum vd_finish *)(void *)field))
            return VD_OK;
        return wrong(err, m->name, "stop, length, fail or cancelled");
    }
    return VD_OK;
}

static enum vd_err get_members(const json_t *in, const struct member *m, const char *const *by_name,
                               struct vd_receipt *r, struct vd_error *err)
{
    enum vd_err e = only_known(in, m, by_name, err);
    for (; e == VD_OK && m->name; m++)
        if (!m->optional || json_object_get(in, m->name))
            e = get_member(in, m, (uint8_t *)r + m->offset, err);
    return e;
}

static enum vd_err get_ids(const json_t *in, const char *name, uint32_t *out, uint32_t *n,
                           struct vd_error *err)
{
    const json_t *list = json_object_get(in, name), *v;
    size_t i;
    if (!json_is_array(list))
        return wrong(err, name, "a list of token ids");
    json_array_foreach(list, i, v)
    {
        int64_t id;
        if (!get_integer(v, 0, UINT32_MAX, &id))
            return wrong(err, name, "a list of token ids");
        out[i] = (uint32_t)id;
    }
    *n = (uint32_t)json_array_size(list);
    return VD_OK;
}

static enum vd_err get_table(const json_t *in, const char *name, uint8_t *out, size_t entry_bytes,
                             size_t max_bytes, struct vd_bytes *table, struct vd_error *err)
{
    const json_t *v = json_object_get(in, name);
    size_t n = json_string_length(v) / 2;
    char want[80];
    *table = (struct vd_bytes){out, n};
    if (!v || (is_hex(json_string_value(v)) && n % entry_bytes == 0 && n <= max_bytes &&
               vd_json_get_hex(out, n, v)))
        return VD_OK;
    snprintf(want, sizeof want, "up to %zu hexadecimal digits in lower case, %zu an entry", 2 * max_bytes,
             2 * entry_bytes);
    return wrong(err, name, want);
}

/* What is nothing to verification, and must be right if it is there. */
static enum vd_err check_labels(const json_t *in, struct vd_error *err)
{
    const char *object = json_string_value(json_object_get(in, "object"));
    const json_t *status = json_object_get(in, "status"), *created = json_object_get(in, "created");
    int64_t when;
    if (!object || strcmp(object, "veridem.receipt") != 0)
        return wrong(err, "object", "\"veridem.receipt\"");
    if (status && !is_one_of(json_string_value(status), payment_status))
        return wrong(err, "status", "how far a payment can be");
    return !created || get_integer(created, 0, INTEGER_MAX, &when)
               ? VD_OK
               : wrong(err, "created", "a time in seconds");
}

/* The signed bytes, made from the fields. */
static enum vd_err get_body(const json_t *in, struct vd_signed_receipt *out, struct vd_error *err)
{
    struct vd_receipt r = {.finish = VD_FINISH_STOP};
    const json_t *request = json_object_get(in, "request"), *sampling = json_object_get(request, "sampling");
    if (!json_is_object(request))
        return wrong(err, "request", "an object");
    if (!json_is_object(sampling))
        return wrong(err, "sampling", "an object");
    enum vd_err e = get_members(in, receipt_members, in_receipt, &r, err);
    if (e == VD_OK)
        e = get_members(request, request_members, in_request, &r, err);
    if (e == VD_OK)
        e = get_members(sampling, sampling_members, in_sampling, &r, err);
    if (e != VD_OK)
        return e;
    r.request.sampling.has_bias = !vd_hash_is_zero(&r.request.bias_hash);
    r.request.sampling.has_mask = !vd_hash_is_zero(&r.request.mask_hash);
    out->body_bytes = vd_receipt_encode(&r, out->body, sizeof out->body);
    return out->body_bytes ? VD_OK
                           : vd_error_set(err, VD_EFORMAT, "the receipt's fields do not fit a receipt");
}

static enum vd_err get_all(const json_t *in, struct vd_envelope *e, uint32_t *tokens, size_t n_prompt,
                           size_t n_output, struct vd_error *err)
{
    uint8_t *tables = (uint8_t *)(tokens + n_prompt + n_output);
    struct vd_hash id, said;
    *e = (struct vd_envelope){.prompt = tokens, .output = tokens + n_prompt};
    enum vd_err rc = check_labels(in, err);
    if (rc == VD_OK)
        rc = get_body(in, &e->receipt, err);
    if (rc == VD_OK)
        rc = get_hex(in, "worker_signature", e->receipt.worker_sig.b, VD_SIG_BYTES, err);
    if (rc == VD_OK)
        rc = get_hex(in, "gateway_signature", e->receipt.gateway_sig.b, VD_SIG_BYTES, err);
    if (rc == VD_OK)
        rc = get_hex(in, "job_salt", e->job_salt, VD_SALT_BYTES, err);
    if (rc == VD_OK)
        rc = get_ids(in, "prompt", e->prompt, &e->n_prompt, err);
    if (rc == VD_OK)
        rc = get_ids(in, "output", e->output, &e->n_output, err);
    if (rc == VD_OK)
        rc = get_table(in, "bias", tables, VD_BIAS_ENTRY_BYTES, VD_BIAS_MAX * VD_BIAS_ENTRY_BYTES,
                       &e->controls.bias, err);
    if (rc == VD_OK)
        rc = get_table(in, "mask", tables + e->controls.bias.n, 1, VD_MASK_BYTES_MAX, &e->controls.mask, err);
    if (rc == VD_OK)
        rc = get_hex(in, "id", said.b, sizeof said.b, err);
    if (rc != VD_OK)
        return rc;
    id = vd_signed_receipt_id(&e->receipt);
    return vd_hash_eq(&id, &said)
               ? VD_OK
               : vd_error_set(err, VD_EFALSE,
                              "its \"id\" is not the hash of its members: one of them was changed");
}

enum vd_err vd_receipt_from_json(const char *text, size_t n_bytes, struct vd_envelope *e, uint32_t **tokens,
                                 struct vd_error *err)
{
    json_error_t where;
    json_t *in = json_loadb(text, n_bytes, JSON_REJECT_DUPLICATES, &where);
    *tokens = NULL;
    if (!in) {
        only_printable(where.text);
        return vd_error_set(err, VD_EFORMAT, "not JSON: line %d: %s", where.line, where.text);
    }
    size_t n_prompt = json_array_size(json_object_get(in, "prompt"));
    size_t n_output = json_array_size(json_object_get(in, "output"));
    if (n_prompt + n_output > VD_JOB_MAX_TOKENS) {
        json_decref(in);
        return vd_error_set(err, VD_ELIMIT, "the receipt has %zu tokens; at most %d", n_prompt + n_output,
                            VD_JOB_MAX_TOKENS);
    }
    size_t table_bytes = json_string_length(json_object_get(in, "bias")) / 2 +
                         json_string_length(json_object_get(in, "mask")) / 2;
    *tokens = malloc((n_prompt + n_output) * sizeof **tokens + table_bytes + 1);
    enum vd_err rc = *tokens ? get_all(in, e, *tokens, n_prompt, n_output, err)
                             : vd_error_set(err, VD_ENOMEM, "no memory for a receipt");
    if (rc != VD_OK) {
        free(*tokens);
        *tokens = NULL;
    }
    json_decref(in);
    return rc;
}
