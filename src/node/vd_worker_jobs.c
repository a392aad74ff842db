/* Plain files, not a database: a job is written once or twice and read only in a dispute, an operator can
 * look at one with `veridem verify`, and a damaged file costs one job instead of all. */
#include "vd_worker_jobs.h"

#include "vd_bytes.h"
#include "vd_file.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VD_JOB_SUFFIX ".receipt"

enum { VD_JOB_FILE_MAX = 16 << 20 }; /* 2^20 tokens of at most 5 bytes, and change */

static void vd_job_path(char out[VD_PATH_MAX], const struct vd_worker_jobs *j, const struct vd_hash *id)
{
    char hex[2 * VD_HASH_BYTES + 1];
    vd_hex_encode(hex, id->b, VD_HASH_BYTES);
    snprintf(out, VD_PATH_MAX, "%s/%s" VD_JOB_SUFFIX, j->dir, hex);
}

enum vd_err vd_worker_jobs_open(struct vd_worker_jobs *out, const char *dir, struct vd_error *err)
{
    if (snprintf(out->dir, sizeof out->dir, "%s", dir) >= (int)sizeof out->dir)
        return vd_error_set(err, VD_ELIMIT, "the path of the jobs' folder has more than %zu bytes: %.200s",
                            sizeof out->dir - 1, dir);
    return vd_dir_make(dir, err);
}

enum vd_err vd_worker_jobs_put(const struct vd_worker_jobs *j, const struct vd_envelope *e,
                               struct vd_error *err)
{
    char path[VD_PATH_MAX];
    struct vd_hash id = vd_signed_receipt_id(&e->receipt);
    size_t cap = vd_envelope_max_bytes(e->n_prompt, e->n_output);
    uint8_t *buf = malloc(cap);
    if (!buf)
        return vd_error_set(err, VD_ENOMEM, "no memory for a job of %zu bytes", cap);
    size_t n = vd_envelope_encode(e, buf, cap);
    vd_job_path(path, j, &id);
    enum vd_err r = n ? vd_file_write_atomic(path, buf, n, 0600, err)
                      : vd_error_set(err, VD_EINTERNAL, "a job's receipt cannot be encoded");
    free(buf);
    return r;
}

enum vd_err vd_worker_jobs_get(const struct vd_worker_jobs *j, const struct vd_hash *receipt_id,
                               struct vd_envelope *e, uint32_t **tokens, struct vd_error *err)
{
    char path[VD_PATH_MAX];
    uint8_t *bytes;
    size_t n;
    vd_job_path(path, j, receipt_id);
    enum vd_err r = vd_file_read(&bytes, &n, path, VD_JOB_FILE_MAX, err);
    if (r != VD_OK)
        return r;
    *tokens = malloc((n + 1) * sizeof **tokens);
    if (!*tokens) {
        r = vd_error_set(err, VD_ENOMEM, "%s: no memory for its tokens", path);
    } else if (!vd_envelope_decode((struct vd_bytes){bytes, n}, e, *tokens, n)) {
        r = vd_error_set(err, VD_EFORMAT, "%s is damaged: this receipt cannot be defended any more", path);
    } else {
        struct vd_hash id = vd_signed_receipt_id(&e->receipt);
        if (!vd_hash_eq(&id, receipt_id))
            r = vd_error_set(err, VD_EFORMAT, "%s holds another receipt than its name says", path);
    }
    free(bytes);
    if (r != VD_OK) {
        free(*tokens);
        *tokens = NULL;
    }
    return r;
}

enum vd_err vd_worker_jobs_drop(const struct vd_worker_jobs *j, const struct vd_hash *receipt_id,
                                struct vd_error *err)
{
    char path[VD_PATH_MAX];
    vd_job_path(path, j, receipt_id);
    if (unlink(path) != 0 && errno != ENOENT)
        return vd_error_set(err, VD_EIO, "%s: cannot be removed: %s", path, strerror(errno));
    return VD_OK;
}

/* "<64 digits>.receipt" -> id. */
static bool vd_job_name(const char *name, struct vd_hash *id)
{
    char hex[2 * VD_HASH_BYTES + 1];
    if (strlen(name) != 2 * VD_HASH_BYTES + strlen(VD_JOB_SUFFIX) ||
        strcmp(name + 2 * VD_HASH_BYTES, VD_JOB_SUFFIX) != 0)
        return false;
    memcpy(hex, name, 2 * VD_HASH_BYTES);
    hex[2 * VD_HASH_BYTES] = 0;
    return vd_hex_decode(id->b, VD_HASH_BYTES, hex);
}

enum vd_err vd_worker_jobs_list(const struct vd_worker_jobs *j, struct vd_hash **ids, size_t *n,
                                struct vd_error *err)
{
    size_t cap = 0;
    const struct dirent *e;
    struct vd_hash id;
    DIR *d = opendir(j->dir);
    *ids = NULL;
    *n = 0;
    if (!d)
        return vd_error_set(err, VD_EIO, "%s: %s", j->dir, strerror(errno));
    while ((e = readdir(d)) != NULL) {
        if (!vd_job_name(e->d_name, &id))
            continue;
        if (*n == cap) {
            cap = cap ? 2 * cap : 64;
            struct vd_hash *more = realloc(*ids, cap * sizeof **ids);
            if (!more) {
                free(*ids);
                *ids = NULL;
                closedir(d);
                return vd_error_set(err, VD_ENOMEM, "%s: no memory for %zu names", j->dir, cap);
            }
            *ids = more;
        }
        (*ids)[(*n)++] = id;
    }
    closedir(d);
    return VD_OK;
}

enum vd_err vd_worker_jobs_height(const struct vd_worker_jobs *j, uint64_t *height, struct vd_error *err)
{
    char path[VD_PATH_MAX];
    uint8_t *bytes;
    size_t n;
    struct vd_error why;
    snprintf(path, sizeof path, "%s/height", j->dir);
    *height = 0;
    enum vd_err r = vd_file_read(&bytes, &n, path, 64, &why);
    if (r == VD_ENOTFOUND)
        return VD_OK;
    if (r != VD_OK)
        return vd_error_set(err, r, "%s", why.msg);
    *height = strtoull((const char *)bytes, NULL, 10);
    free(bytes);
    return VD_OK;
}

enum vd_err vd_worker_jobs_set_height(const struct vd_worker_jobs *j, uint64_t height, struct vd_error *err)
{
    char path[VD_PATH_MAX], text[32];
    snprintf(path, sizeof path, "%s/height", j->dir);
    int n = snprintf(text, sizeof text, "%llu\n", (unsigned long long)height);
    return vd_file_write_atomic(path, text, (size_t)n, 0600, err);
}
