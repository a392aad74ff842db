/* A JSON file because people look into it; replaced whole because it is small. */
#include "vd_gateway_keys.h"
#include "vd_bytes.h"
#include "vd_clock.h"
#include "vd_file.h"
#include "vd_key.h"

#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { FILE_MAX_BYTES = 4 << 20, SECRET_BYTES = 32, LOCK_WAIT_MS = 5000, LOCK_POLL_MS = 10 };

static enum vd_err path_of(char out[VD_PATH_MAX], const char *home, struct vd_error *err)
{
    if (snprintf(out, VD_PATH_MAX, "%s/api-keys.json", home) >= VD_PATH_MAX)
        return vd_error_set(err, VD_ELIMIT, "the path %s is too long", home);
    return VD_OK;
}

/* Two commands that change the file at once must not lose one's change: the second waits. */
static enum vd_err lock_keys(struct vd_lock *lock, const char *home, struct vd_error *err)
{
    char path[VD_PATH_MAX];
    uint64_t until = vd_clock_ms() + LOCK_WAIT_MS;
    if (snprintf(path, sizeof path, "%s/api-keys.lock", home) >= VD_PATH_MAX)
        return vd_error_set(err, VD_ELIMIT, "the path %s is too long", home);
    enum vd_err e = vd_lock_take(lock, path, err);
    while (e == VD_EBUSY && vd_clock_ms() < until) {
        vd_clock_sleep_ms(LOCK_POLL_MS);
        e = vd_lock_take(lock, path, err);
    }
    return e;
}

static struct vd_hash hash_of(const char *secret)
{
    struct vd_sha256 s;
    struct vd_hash h;
    vd_sha256_init_tag(&s, "veridem/api-key");
    vd_sha256_update(&s, secret, strlen(secret));
    vd_sha256_final(&s, &h);
    return h;
}

static bool read_key(struct vd_api_key *k, const json_t *j)
{
    const char *hash = json_string_value(json_object_get(j, "hash"));
    const char *label = json_string_value(json_object_get(j, "label"));
    json_int_t created = json_integer_value(json_object_get(j, "created"));
    json_int_t limit = json_integer_value(json_object_get(j, "limit_micro"));
    if (!hash || !label || strlen(label) > VD_API_KEY_LABEL_MAX || created < 0 || limit < 0 ||
        !vd_hex_decode(k->hash.b, VD_HASH_BYTES, hash))
        return false;
    memcpy(k->id.b, k->hash.b, VD_KEY_ID_BYTES);
    strcpy(k->label, label);
    k->created_s = (uint64_t)created;
    k->limit.micro = (uint64_t)limit;
    return true;
}

static enum vd_err read_keys(const json_t *list, const char *path, struct vd_api_key **out, size_t *n,
                             struct vd_error *err)
{
    size_t count = json_array_size(list);
    if (!json_is_array(list) || count > VD_API_KEYS_MAX)
        return vd_error_set(err, VD_EFORMAT, "%s must hold a list of at most %d keys", path, VD_API_KEYS_MAX);
    struct vd_api_key *key = calloc(count + 1, sizeof *key); /* room for one more */
    if (!key)
        return vd_error_set(err, VD_ENOMEM, "no memory for %zu API keys", count);
    for (size_t i = 0; i < count; i++) {
        if (!read_key(&key[i], json_array_get(list, i))) {
            free(key);
            return vd_error_set(err, VD_EFORMAT, "%s: key number %zu is damaged", path, i + 1);
        }
    }
    *out = key;
    *n = count;
    return VD_OK;
}

enum vd_err vd_gateway_key_list(const char *home, struct vd_api_key **list, size_t *n, struct vd_error *err)
{
    char path[VD_PATH_MAX];
    uint8_t *text;
    size_t n_text;
    json_error_t bad;
    enum vd_err e = path_of(path, home, err);
    if (e != VD_OK)
        return e;
    e = vd_file_read(&text, &n_text, path, FILE_MAX_BYTES, err);
    if (e == VD_ENOTFOUND) {
        *list = calloc(1, sizeof **list);
        *n = 0;
        return *list ? VD_OK : vd_error_set(err, VD_ENOMEM, "no memory for API keys");
    }
    if (e != VD_OK)
        return e;
    json_t *j = json_loadb((const char *)text, n_text, JSON_REJECT_DUPLICATES, &bad);
    free(text);
    e = j ? read_keys(j, path, list, n, err)
          : vd_error_set(err, VD_EFORMAT, "%s, line %d: %s", path, bad.line, bad.text);
    json_decref(j);
    return e;
}

static enum vd_err write_keys(const char *home, const struct vd_api_key *key, size_t n, struct vd_error *err)
{
    char path[VD_PATH_MAX], hash[2 * VD_HASH_BYTES + 1];
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        vd_hex_encode(hash, key[i].hash.b, VD_HASH_BYTES);
        json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:I}", "hash", hash, "label", key[i].label,
                                              "created", (json_int_t)key[i].created_s, "limit_micro",
                                              (json_int_t)key[i].limit.micro));
    }
    char *text = json_dumps(list, JSON_INDENT(2));
    json_decref(list);
    enum vd_err e = path_of(path, home, err);
    if (e == VD_OK)
        e = text ? vd_file_write_atomic(path, text, strlen(text), 0600, err)
                 : vd_error_set(err, VD_ENOMEM, "no memory for API keys");
    free(text);
    return e;
}

static void make_secret(char out[VD_API_KEY_TEXT_MAX])
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint8_t random[SECRET_BYTES + 1] = {0};
    vd_key_random(random, SECRET_BYTES);
    size_t n = (size_t)snprintf(out, VD_API_KEY_TEXT_MAX, "vd-");
    for (size_t bit = 0; bit < 8 * SECRET_BYTES; bit += 6) {
        unsigned two = (unsigned)random[bit / 8] << 8 | random[bit / 8 + 1];
        out[n++] = digit[two >> (10 - bit % 8) & 63];
    }
    out[n] = 0;
}

static bool label_ok(const char *label)
{
    size_t n = strlen(label);
    for (size_t i = 0; i < n; i++) {
        if (label[i] < 0x20 || label[i] >= 0x7f)
            return false;
    }
    return n > 0 && n <= VD_API_KEY_LABEL_MAX;
}

enum vd_err vd_gateway_key_new(const char *home, const char *label, struct vd_amount limit,
                               char secret[VD_API_KEY_TEXT_MAX], struct vd_api_key *out, struct vd_error *err)
{
    struct vd_api_key *list;
    size_t n;
    if (!label_ok(label))
        return vd_error_set(err, VD_EUSE, "a key's label is 1 to %d printable characters",
                            VD_API_KEY_LABEL_MAX);
    struct vd_lock lock;
    enum vd_err e = vd_dir_make(home, err);
    if (e == VD_OK)
        e = lock_keys(&lock, home, err);
    if (e != VD_OK)
        return e;
    e = vd_gateway_key_list(home, &list, &n, err);
    if (e != VD_OK) {
        vd_lock_release(&lock);
        return e;
    }
    if (n == VD_API_KEYS_MAX) {
        vd_lock_release(&lock);
        free(list);
        return vd_error_set(err, VD_ELIMIT, "there are %d keys already; revoke some", VD_API_KEYS_MAX);
    }
    make_secret(secret);
    *out = (struct vd_api_key){.hash = hash_of(secret), .created_s = vd_clock_wall_s(), .limit = limit};
    memcpy(out->id.b, out->hash.b, VD_KEY_ID_BYTES);
    strcpy(out->label, label);
    list[n] = *out;
    e = write_keys(home, list, n + 1, err);
    vd_lock_release(&lock);
    free(list);
    return e;
}

enum vd_err vd_gateway_key_revoke(const char *home, const char *id_or_label, struct vd_error *err)
{
    struct vd_api_key *list;
    char id[2 * VD_KEY_ID_BYTES + 1];
    size_t n, found = 0, at = 0;
    struct vd_lock lock;
    enum vd_err e = lock_keys(&lock, home, err);
    if (e != VD_OK)
        return e;
    e = vd_gateway_key_list(home, &list, &n, err);
    if (e != VD_OK) {
        vd_lock_release(&lock);
        return e;
    }
    for (size_t i = 0; i < n; i++) {
        vd_hex_encode(id, list[i].id.b, VD_KEY_ID_BYTES);
        if (strcmp(id, id_or_label) == 0 || strcmp(list[i].label, id_or_label) == 0) {
            found++;
            at = i;
        }
    }
    if (found == 0)
        e = vd_error_set(err, VD_ENOTFOUND, "no API key has the id or label %s", id_or_label);
    else if (found > 1)
        e = vd_error_set(err, VD_EUSE, "%zu API keys have the label %s; name one by its id", found,
                         id_or_label);
    if (e == VD_OK) {
        memmove(&list[at], &list[at + 1], (n - at - 1) * sizeof *list);
        e = write_keys(home, list, n - 1, err);
    }
    vd_lock_release(&lock);
    free(list);
    return e;
}

struct vd_gateway_keys {
    char home[VD_PATH_MAX], path[VD_PATH_MAX];
    pthread_mutex_t mu;
    struct vd_api_key *list; /* under mu, as all below */
    size_t n;
    struct stat seen;
};

enum vd_err vd_gateway_keys_open(struct vd_gateway_keys **out, const char *home, struct vd_error *err)
{
    struct vd_gateway_keys *k = calloc(1, sizeof *k);
    if (!k)
        return vd_error_set(err, VD_ENOMEM, "no memory for API keys");
    snprintf(k->home, sizeof k->home, "%s", home);
    enum vd_err e = path_of(k->path, home, err);
    if (e == VD_OK) {
        if (stat(k->path, &k->seen) != 0)
            memset(&k->seen, 0, sizeof k->seen);
        e = vd_gateway_key_list(home, &k->list, &k->n, err);
    }
    if (e != VD_OK) {
        free(k);
        return e;
    }
    pthread_mutex_init(&k->mu, NULL);
    *out = k;
    return VD_OK;
}

void vd_gateway_keys_close(struct vd_gateway_keys *k)
{
    if (!k)
        return;
    pthread_mutex_destroy(&k->mu);
    free(k->list);
    free(k);
}

/* At every request: a key works as soon as it is made, and not once it is revoked. A stat costs a
 * microsecond. */
static void read_again_if_changed(struct vd_gateway_keys *k)
{
    struct stat now;
    struct vd_api_key *list;
    size_t n;
    if (stat(k->path, &now) != 0)
        memset(&now, 0, sizeof now);
    if (now.st_ino == k->seen.st_ino && now.st_mtim.tv_sec == k->seen.st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == k->seen.st_mtim.tv_nsec)
        return;
    if (vd_gateway_key_list(k->home, &list, &n, NULL) != VD_OK)
        return;
    free(k->list);
    k->list = list;
    k->n = n;
    k->seen = now;
}

bool vd_gateway_keys_find(struct vd_gateway_keys *k, const char *secret, struct vd_api_key *out)
{
    struct vd_hash hash = hash_of(secret);
    bool found = false;
    pthread_mutex_lock(&k->mu);
    read_again_if_changed(k);
    for (size_t i = 0; i < k->n && !found; i++) {
        found = vd_hash_eq(&k->list[i].hash, &hash);
        if (found)
            *out = k->list[i];
    }
    pthread_mutex_unlock(&k->mu);
    return found;
}
