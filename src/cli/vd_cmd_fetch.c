#include "vd_cmd_fetch.h"

#include "vd_bytes.h"
#include "vd_clock.h"
#include "vd_file.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    VD_FETCH_CONNECT_S = 30,
    VD_FETCH_STALL_S = 60,
    VD_FETCH_STALL_BYTES_S = 1000,
    VD_FETCH_SAY_MS = 1000
};

struct vd_fetch {
    int fd;
    int write_errno;
    uint64_t had, n_bytes; /* before, and now */
    bool progress;
    uint64_t said_ms;
};

static enum vd_err vd_fetch_hash(const char *path, struct vd_hash *out, struct vd_error *err)
{
    struct vd_map m;
    enum vd_err e = vd_map_open(&m, path, err);
    if (e == VD_OK) {
        *out = vd_sha256_of(m.p, m.n_bytes);
        vd_map_close(&m);
    }
    return e;
}

static size_t vd_fetch_write(char *p, size_t size, size_t n, void *arg)
{
    struct vd_fetch *f = arg;
    size_t left = size * n;
    while (left) {
        ssize_t wrote = write(f->fd, p, left);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote < 0 || f->n_bytes + (uint64_t)wrote > VD_FETCH_MAX_BYTES) {
            f->write_errno = wrote < 0 ? errno : EFBIG;
            return 0;
        }
        p += wrote;
        left -= (size_t)wrote;
        f->n_bytes += (uint64_t)wrote;
    }
    if (f->progress && vd_clock_ms() - f->said_ms > VD_FETCH_SAY_MS) {
        f->said_ms = vd_clock_ms();
        fprintf(stderr, "%.1f MB\n", (double)f->n_bytes / 1e6);
    }
    return size * n;
}

static enum vd_err vd_fetch_transfer(struct vd_fetch *f, const char *url, struct vd_error *err)
{
    char why[CURL_ERROR_SIZE] = "";
    long status = 0;
    CURL *c = curl_easy_init();
    if (!c)
        return vd_error_set(err, VD_ENOMEM, "no memory for a transfer");
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https,file");
    curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(c, CURLOPT_MAXREDIRS, 10L);
    curl_easy_setopt(c, CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)VD_FETCH_CONNECT_S);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, (long)VD_FETCH_STALL_BYTES_S);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, (long)VD_FETCH_STALL_S);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, why);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, vd_fetch_write);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, f);
    curl_easy_setopt(c, CURLOPT_RESUME_FROM_LARGE, (curl_off_t)f->had);
    CURLcode code = curl_easy_perform(c);
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(c);
    if (f->write_errno)
        return vd_error_set(err, f->write_errno == ENOSPC || f->write_errno == EDQUOT ? VD_ENOSPACE : VD_EIO,
                            "writing what %.200s gives: %s", url, strerror(f->write_errno));
    if (code == CURLE_OK ||
        (code == CURLE_HTTP_RETURNED_ERROR && status == 416)) /* 416: it was whole already */
        return VD_OK;
    if (code == CURLE_RANGE_ERROR) /* a server that cannot resume: from the beginning, next time */
        return vd_error_set(err, VD_EAGAIN, "%.200s cannot resume", url);
    return vd_error_set(err, VD_ENET,
                        "%.200s: %s; try again, it goes on where it stopped (%llu bytes are here)", url,
                        why[0] ? why : curl_easy_strerror(code), (unsigned long long)f->n_bytes);
}

/* Transfers into the part file, twice if the server cannot resume. */
static enum vd_err vd_fetch_part(const char *url, const char *part, bool progress, struct vd_error *err)
{
    enum vd_err e = VD_EAGAIN;
    for (int round = 0; e == VD_EAGAIN && round < 2; round++) {
        struct stat st;
        struct vd_fetch f = {.progress = progress};
        f.fd = open(part, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (round ? O_TRUNC : 0), 0600);
        if (f.fd < 0 || fstat(f.fd, &st) != 0)
            return vd_error_set(err, VD_EIO, "%.300s: %s", part, strerror(errno));
        f.had = f.n_bytes = (uint64_t)st.st_size;
        e = vd_fetch_transfer(&f, url, err);
        if (fsync(f.fd) != 0 && e == VD_OK)
            e = vd_error_set(err, VD_EIO, "%.300s: %s", part, strerror(errno));
        close(f.fd);
    }
    return e;
}

static enum vd_err vd_fetch_locked(const char *url, const char *path, const char *part,
                                   const struct vd_hash *sha256, bool progress, struct vd_error *err)
{
    struct vd_hash got;
    char hex[65];
    enum vd_err e = vd_fetch_part(url, part, progress, err);
    if (e == VD_OK)
        e = vd_fetch_hash(part, &got, err);
    if (e != VD_OK)
        return e;
    if (!vd_hash_eq(&got, sha256)) {
        unlink(part);
        vd_hex_encode(hex, got.b, VD_HASH_BYTES);
        return vd_error_set(err, VD_EFALSE,
                            "%.200s gave a file of SHA-256 %s, which is not the one wanted; it is removed",
                            url, hex);
    }
    return vd_file_rename(part, path, err);
}

enum vd_err vd_fetch(const char *url, const char *path, const struct vd_hash *sha256, bool progress,
                     bool *had_it, struct vd_error *err)
{
    char part[VD_PATH_MAX], lock_path[VD_PATH_MAX];
    struct vd_hash got;
    struct vd_lock lock;
    *had_it = vd_fetch_hash(path, &got, NULL) == VD_OK && vd_hash_eq(&got, sha256);
    if (*had_it)
        return VD_OK;
    if (snprintf(part, sizeof part, "%s.part", path) >= (int)sizeof part ||
        snprintf(lock_path, sizeof lock_path, "%s.lock", path) >= (int)sizeof lock_path)
        return vd_error_set(err, VD_ELIMIT, "the path is too long: %.200s", path);
    enum vd_err e = vd_lock_take(&lock, lock_path, err);
    if (e != VD_OK)
        return e;
    /* The one that held the lock before may have fetched it meanwhile. */
    *had_it = vd_fetch_hash(path, &got, NULL) == VD_OK && vd_hash_eq(&got, sha256);
    if (!*had_it)
        e = vd_fetch_locked(url, path, part, sha256, progress, err);
    vd_lock_release(&lock); /* its file stays: by a new one of that name two could hold "the" lock */
    return e;
}
