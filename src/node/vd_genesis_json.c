/* One table of the number fields serves reading, writing and the check for fields that do not belong. */
#include "vd_genesis_json.h"
#include "vd_file.h"
#include "vd_json_hex.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>

struct number_field {
    const char *name;
    size_t offset, bytes;
};

#define FIELD(json_name, member)                                                                             \
    {                                                                                                        \
        json_name, offsetof(struct vd_genesis, member), sizeof(((struct vd_genesis *)0)->member)             \
    }

static const struct number_field number[] = {
    FIELD("time_ms", time_ms),
    FIELD("block_time_ms", block_time_ms),
    FIELD("audit_rate_ppm", audit_rate_ppm),
    FIELD("audit_window_blocks", audit_window_blocks),
    FIELD("move_clock_blocks", move_clock_blocks),
    FIELD("steps_per_block", steps_per_block),
    FIELD("unbonding_blocks", unbonding_blocks),
    FIELD("request_validity_blocks", request_validity_blocks),
    FIELD("min_stake_micro", min_stake.micro),
    FIELD("challenge_bond_micro", challenge_bond.micro),
    FIELD("slash_micro", slash.micro),
    FIELD("max_receipt_micro", max_receipt.micro),
    FIELD("challenger_share_ppm", challenger_share_ppm),
    FIELD("worker_share_ppm", worker_share_ppm),
    FIELD("gateway_share_ppm", gateway_share_ppm),
    FIELD("treasury_share_ppm", treasury_share_ppm),
    FIELD("history_blocks", history_blocks),
    FIELD("epoch_blocks", epoch_blocks),
    FIELD("beacon_blocks", beacon_blocks),
    FIELD("audit_commit_blocks", audit_commit_blocks),
    FIELD("audit_reveal_blocks", audit_reveal_blocks),
    FIELD("audit_data_blocks", audit_data_blocks),
    FIELD("auditors", auditors),
    FIELD("audit_new_rate_ppm", audit_new_rate_ppm),
    FIELD("audit_new_receipts", audit_new_receipts),
    FIELD("auditor_share_ppm", auditor_share_ppm),
    FIELD("audit_slash_micro", audit_slash.micro),
    FIELD("beacon_bond_micro", beacon_bond.micro),
    FIELD("trap_bond_micro", trap_bond.micro),
    FIELD("trap_blocks", trap_blocks),
    FIELD("audit_min_reward_micro", audit_min_reward.micro),
};
/* The last are the audits', which a genesis has all of or none. */
enum { NUMBERS = sizeof number / sizeof number[0], AUDIT_NUMBERS = 14, OTHER_FIELDS = 3 };

static enum vd_err get_u64(uint64_t *out, const json_t *object, const char *field, uint64_t max,
                           const char *name, struct vd_error *err)
{
    const json_t *v = json_object_get(object, field);
    json_int_t x = json_is_integer(v) ? json_integer_value(v) : -1;
    if (x < 0 || (uint64_t)x > max)
        return vd_error_set(err, VD_EFORMAT, "%s: \"%s\" must be a whole number from 0 on", name, field);
    *out = (uint64_t)x;
    return VD_OK;
}

static enum vd_err get_number(struct vd_genesis *g, const struct number_field *f, const json_t *object,
                              const char *name, struct vd_error *err)
{
    uint64_t wide = 0;
    enum vd_err e = get_u64(&wide, object, f->name, f->bytes == 4 ? UINT32_MAX : INT64_MAX, name, err);
    uint32_t narrow = (uint32_t)wide;
    memcpy((char *)g + f->offset, f->bytes == 8 ? (void *)&wide : (void *)&narrow, f->bytes);
    return e;
}

static enum vd_err get_key(struct vd_pubkey *out, const json_t *object, const char *field, const char *name,
                           struct vd_error *err)
{
    if (!vd_json_get_hex(out->b, VD_PUBKEY_BYTES, json_object_get(object, field)))
        return vd_error_set(err, VD_EFORMAT, "%s: \"%s\" must be a public key of 64 hexadecimal digits", name,
                            field);
    return VD_OK;
}

static int by_key(const void *a, const void *b)
{
    return memcmp(((const struct vd_genesis_account *)a)->key.b,
                  ((const struct vd_genesis_account *)b)->key.b, VD_PUBKEY_BYTES);
}

static enum vd_err get_account(struct vd_genesis_account *out, const json_t *object, const char *name,
                               struct vd_error *err)
{
    if (json_object_size(object) != 2)
        return vd_error_set(err, VD_EFORMAT, "%s: an account has \"key\" and \"balance_micro\", nothing else",
                            name);
    enum vd_err e = get_key(&out->key, object, "key", name, err);
    return e == VD_OK ? get_u64(&out->balance.micro, object, "balance_micro", INT64_MAX, name, err) : e;
}

static enum vd_err get_accounts(struct vd_genesis_file *f, const json_t *object, const char *name,
                                struct vd_error *err)
{
    const json_t *list = json_object_get(object, "accounts");
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n < 1 || n > VD_GENESIS_ACCOUNTS_MAX)
        return vd_error_set(err, VD_EFORMAT, "%s: \"accounts\" must be a list of 1 to %d accounts", name,
                            VD_GENESIS_ACCOUNTS_MAX);
    f->account = calloc(n, sizeof *f->account);
    if (!f->account)
        return vd_error_set(err, VD_ENOMEM, "no memory for %zu accounts", n);
    for (size_t i = 0; i < n; i++) {
        enum vd_err e = get_account(&f->account[i], json_array_get(list, i), name, err);
        if (e != VD_OK)
            return e;
    }
    qsort(f->account, n, sizeof *f->account, by_key); /* equal keys are refused by the check */
    f->genesis.n_accounts = (uint32_t)n;
    f->genesis.account = f->account;
    return VD_OK;
}

static enum vd_err get_all(struct vd_genesis_file *f, const json_t *object, const char *name,
                           struct vd_error *err)
{
    const json_t *network = json_object_get(object, "network");
    const char *text = json_string_value(network);
    if (!json_is_object(object))
        return vd_error_set(err, VD_EFORMAT, "%s: a genesis is a JSON object", name);
    if (!text || json_string_length(network) != strlen(text) || strlen(text) > VD_GENESIS_NAME_MAX)
        return vd_error_set(err, VD_EFORMAT, "%s: \"network\" must be a name of at most %d bytes", name,
                            VD_GENESIS_NAME_MAX);
    memcpy(f->genesis.network, text, strlen(text) + 1);
    size_t n = NUMBERS - (json_object_get(object, "epoch_blocks") ? 0 : AUDIT_NUMBERS);
    for (size_t i = 0; i < n; i++) {
        enum vd_err e = get_number(&f->genesis, &number[i], object, name, err);
        if (e != VD_OK)
            return e;
    }
    enum vd_err e = get_key(&f->genesis.treasury, object, "treasury", name, err);
    if (e == VD_OK)
        e = get_accounts(f, object, name, err);
    if (e == VD_OK && json_object_size(object) != n + OTHER_FIELDS)
        e = vd_error_set(err, VD_EFORMAT, "%s: there are fields that a genesis does not have", name);
    return e == VD_OK ? vd_genesis_check(&f->genesis, err) : e;
}

enum vd_err vd_genesis_json_parse(struct vd_genesis_file *out, const char *text, size_t n_bytes,
                                  const char *name, struct vd_error *err)
{
    json_error_t bad;
    memset(out, 0, sizeof *out);
    if (n_bytes > VD_GENESIS_JSON_MAX_BYTES)
        return vd_error_set(err, VD_ELIMIT, "%s has %zu bytes; a genesis may have %d", name, n_bytes,
                            VD_GENESIS_JSON_MAX_BYTES);
    json_t *object = json_loadb(text, n_bytes, JSON_REJECT_DUPLICATES, &bad);
    if (!object)
        return vd_error_set(err, VD_EFORMAT, "%s, line %d, column %d: %s", name, bad.line, bad.column,
                            bad.text);
    enum vd_err e = get_all(out, object, name, err);
    json_decref(object);
    if (e != VD_OK)
        vd_genesis_file_free(out);
    return e;
}

enum vd_err vd_genesis_json_load(struct vd_genesis_file *out, const char *path, struct vd_error *err)
{
    uint8_t *text;
    size_t n;
    memset(out, 0, sizeof *out);
    enum vd_err e = vd_stream_read(&text, &n, path, VD_GENESIS_JSON_MAX_BYTES, err);
    if (e != VD_OK)
        return e;
    e = vd_genesis_json_parse(out, (const char *)text, n, path, err);
    free(text);
    return e;
}

enum vd_err vd_genesis_file_decode(struct vd_genesis_file *out, struct vd_bytes canonical,
                                   struct vd_error *err)
{
    memset(out, 0, sizeof *out);
    struct vd_genesis_account *account = calloc(VD_GENESIS_ACCOUNTS_MAX, sizeof *account);
    if (!account)
        return vd_error_set(err, VD_ENOMEM, "no memory for a genesis");
    enum vd_err e = vd_genesis_decode(canonical, &out->genesis, account, VD_GENESIS_ACCOUNTS_MAX, err);
    out->account = account;
    if (e != VD_OK)
        vd_genesis_file_free(out);
    return e;
}

void vd_genesis_file_free(struct vd_genesis_file *f)
{
    free(f->account);
    memset(f, 0, sizeof *f);
}

char *vd_genesis_json_format(const struct vd_genesis *g)
{
    json_t *object = json_object(), *list = json_array();
    int bad = json_object_set_new(object, "network", json_string(g->network));
    for (size_t i = 0; i < (size_t)NUMBERS - (g->epoch_blocks ? 0 : AUDIT_NUMBERS); i++) {
        uint64_t wide = 0;
        uint32_t narrow = 0;
        memcpy(number[i].bytes == 8 ? (void *)&wide : (void *)&narrow, (const char *)g + number[i].offset,
               number[i].bytes);
        bad |= json_object_set_new(object, number[i].name, json_integer((json_int_t)(wide + narrow)));
    }
    bad |= json_object_set_new(object, "treasury", vd_json_hex(g->treasury.b, VD_PUBKEY_BYTES));
    for (uint32_t i = 0; i < g->n_accounts; i++)
        bad |= json_array_append_new(
            list, json_pack("{s:o, s:I}", "key", vd_json_hex(g->account[i].key.b, VD_PUBKEY_BYTES),
                            "balance_micro", (json_int_t)g->account[i].balance.micro));
    bad |= json_object_set_new(object, "accounts", list);
    char *text = bad ? NULL : json_dumps(object, JSON_INDENT(2));
    json_decref(object);
    return text;
}

enum vd_err vd_genesis_json_save(const struct vd_genesis *g, const char *path, struct vd_error *err)
{
    char *text = vd_genesis_json_format(g);
    if (!text)
        return vd_error_set(err, VD_ENOMEM, "no memory for the genesis");
    enum vd_err e = vd_file_write_atomic(path, text, strlen(text), 0644, err);
    free(text);
    return e;
}

enum vd_err vd_genesis_network_hash(const struct vd_genesis *g, struct vd_hash *out, struct vd_error *err)
{
    uint8_t *buf = malloc(VD_GENESIS_MAX_BYTES);
    if (!buf)
        return vd_error_set(err, VD_ENOMEM, "no memory for the genesis");
    size_t n = vd_genesis_encode(g, buf, VD_GENESIS_MAX_BYTES);
    *out = vd_genesis_hash((struct vd_bytes){buf, n});
    free(buf);
    return VD_OK;
}
