/* Plain POSIX calls with the care that they need: every partial write is continued, every interrupted call is
 * repeated, and the order write, fsync, rename, fsync of the folder is what makes a replaced file durable. */
#include "vd_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PORTION_BYTES = 64 << 10 }; /* first of a stream, whose length nobody knows */

static enum vd_err code_of(int e)
{
    switch (e) {
    case ENOENT:
    case ENOTDIR:
        return VD_ENOTFOUND;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return VD_ENOSPACE;
    case ENOMEM:
        return VD_ENOMEM;
    default:
        return VD_EIO;
    }
}

static const char *mend_of(int e)
{
    switch (e) {
    case ENOENT:
        return "; check the path";
    case EACCES:
    case EPERM:
        return "; check the permissions of the file and its folders";
    case ENOSPC:
        return "; free some space on that disk";
    case EDQUOT:
        return "; your disk quota is used up";
    case EROFS:
        return "; choose a place that can be written";
    case EMFILE:
    case ENFILE:
        return "; raise the limit of open files (ulimit -n)";
    default:
        return "";
    }
}

static enum vd_err fail(struct vd_error *err, const char *what, const char *path, int e)
{
    return vd_error_set(err, code_of(e), "cannot %s %.300s: %s%s", what, path, strerror(e), mend_of(e));
}

static enum vd_err check_length(const char *path, struct vd_error *err)
{
    size_t n = strlen(path);
    if (n > 0 && n < VD_PATH_MAX)
        return VD_OK;
    return n ? vd_error_set(err, VD_ELIMIT, "the path %.60s... has %zu bytes; the limit is %d", path, n,
                            VD_PATH_MAX - 1)
             : vd_error_set(err, VD_EUSE, "an empty file name was given; name a file");
}

static int open_retry(const char *path, int flags, mode_t mode)
{
    int fd;
    do
        fd = open(path, flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR);
    return fd;
}

/* Opens a regular file for reading and says its size. O_NONBLOCK keeps a named pipe from blocking the open.
 */
static enum vd_err open_regular(int *fd, size_t *n_bytes, const char *path, struct vd_error *err)
{
    enum vd_err e = check_length(path, err);
    if (e)
        return e;
    *fd = open_retry(path, O_RDONLY | O_NONBLOCK, 0);
    if (*fd < 0)
        return fail(err, "open", path, errno);
    struct stat st;
    if (fstat(*fd, &st) != 0) {
        int saved = errno;
        close(*fd);
        return fail(err, "look at", path, saved);
    }
    if (!S_ISREG(st.st_mode)) {
        close(*fd);
        return vd_error_set(err, VD_EFORMAT, "%.300s is %s, not a regular file; name a file", path,
                            S_ISDIR(st.st_mode) ? "a folder" : "a device, pipe or socket");
    }
    *n_bytes = (size_t)st.st_size;
    return VD_OK;
}

enum vd_err vd_map_open(struct vd_map *out, const char *path, struct vd_error *err)
{
    *out = (struct vd_map){0};
    int fd = -1;
    size_t n = 0;
    enum vd_err e = open_regular(&fd, &n, path, err);
    if (e)
        return e;
    void *p = NULL;
    if (n > 0) {
        p = mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) {
            int saved = errno;
            close(fd);
            if (saved == ENOMEM)
                return vd_error_set(err, VD_ENOMEM,
                                    "%.300s: its %zu bytes do not fit in this process's address space; raise "
                                    "its limit (ulimit -v)",
                                    path, n);
            return fail(err, "map", path, saved);
        }
    }
    close(fd);
    *out = (struct vd_map){p, n, p};
    return VD_OK;
}

void vd_map_close(struct vd_map *m)
{
    if (m->address) {
        int rc = munmap(m->address, m->n_bytes);
        assert(rc == 0);
        (void)rc;
    }
    *m = (struct vd_map){0};
}

/* Reads on into p, fewer than n bytes only at the end. Returns the count, or -1 with errno set. */
static ssize_t read_full(int fd, uint8_t *p, size_t n)
{
    size_t got = 0;
    while (got < n) {
        ssize_t r = read(fd, p + got, n - got);
        if (r < 0 && errno == EAGAIN) { /* another process has made this pipe or terminal so */
            struct pollfd wait = {.fd = fd, .events = POLLIN};
            poll(&wait, 1, -1);
            continue;
        }
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -1;
        if (r == 0)
            break;
        got += (size_t)r;
    }
    return (ssize_t)got;
}

/* All that is left to read, in memory of first `expected` bytes, then as many as there are. */
static enum vd_err read_all(uint8_t **out, size_t *n_bytes, int fd, const char *name, size_t expected,
                            size_t max_bytes, struct vd_error *err)
{
    size_t cap = expected < max_bytes ? expected : max_bytes, n = 0;
    uint8_t *p = NULL;
    for (;;) { /* one byte more than cap tells its end from a longer file, and is the NUL's */
        uint8_t *more = realloc(p, cap + 1);
        if (!more) {
            free(p);
            return vd_error_set(err, VD_ENOMEM, "no memory for the %zu bytes of %.300s", cap, name);
        }
        p = more;
        ssize_t got = read_full(fd, p + n, cap + 1 - n);
        if (got < 0) {
            int saved = errno;
            free(p);
            return fail(err, "read", name, saved);
        }
        n += (size_t)got;
        if (n <= cap)
            break;
        if (cap == max_bytes) {
            free(p);
            return vd_error_set(err, VD_ELIMIT, "%.300s has more than %zu bytes, the limit here", name,
                                max_bytes);
        }
        size_t next = cap < PORTION_BYTES / 2 ? PORTION_BYTES : 2 * cap;
        cap = next < max_bytes && next > cap ? next : max_bytes;
    }
    p[n] = 0;
    *out = p;
    *n_bytes = n;
    return VD_OK;
}

/* An open file of a known size; closes it. */
static enum vd_err read_sized(uint8_t **out, size_t *n_bytes, int fd, const char *path, size_t size,
                              size_t max_bytes, struct vd_error *err)
{
    enum vd_err e = size > max_bytes
                        ? vd_error_set(err, VD_ELIMIT, "%.300s has %zu bytes; the limit here is %zu", path,
                                       size, max_bytes)
                        : read_all(out, n_bytes, fd, path, size, max_bytes, err);
    close(fd);
    return e;
}

enum vd_err vd_file_read(uint8_t **out, size_t *n_bytes, const char *path, size_t max_bytes,
                         struct vd_error *err)
{
    *out = NULL;
    *n_bytes = 0;
    int fd = -1;
    size_t n = 0;
    enum vd_err e = open_regular(&fd, &n, path, err);
    return e == VD_OK ? read_sized(out, n_bytes, fd, path, n, max_bytes, err) : e;
}

enum vd_err vd_stream_read(uint8_t **out, size_t *n_bytes, const char *path, size_t max_bytes,
                           struct vd_error *err)
{
    struct stat st;
    *out = NULL;
    *n_bytes = 0;
    enum vd_err e = check_length(path, err);
    if (e)
        return e;
    int fd = open_retry(path, O_RDONLY | O_NOCTTY, 0);
    if (fd < 0)
        return fail(err, "open", path, errno);
    if (fstat(fd, &st) != 0)
        st = (struct stat){0};
    if (S_ISDIR(st.st_mode)) {
        close(fd);
        return vd_error_set(err, VD_EFORMAT, "%.300s is a folder; name a file", path);
    }
    return read_sized(out, n_bytes, fd, path, S_ISREG(st.st_mode) ? (size_t)st.st_size : 0, max_bytes, err);
}

enum vd_err vd_stream_read_fd(uint8_t **out, size_t *n_bytes, int fd, const char *name, size_t max_bytes,
                              struct vd_error *err)
{
    *out = NULL;
    *n_bytes = 0;
    return read_all(out, n_bytes, fd, name, 0, max_bytes, err);
}

static bool write_full(int fd, const uint8_t *p, size_t n)
{
    while (n > 0) {
        ssize_t r = write(fd, p, n);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return false;
        p += r;
        n -= (size_t)r;
    }
    return true;
}

/* fsync of the folder that holds `path`, which makes a rename durable. */
static bool sync_folder_of(const char *path)
{
    char folder[VD_PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t n = !slash ? 0 : slash == path ? 1 : (size_t)(slash - path);
    memcpy(folder, path, n);
    folder[n] = 0;
    int fd = open_retry(n ? folder : ".", O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return false;
    bool ok = fsync(fd) == 0;
    int saved = errno;
    close(fd);
    errno = saved;
    return ok;
}

/* Opens a new file beside `path`. A name that is taken (another thread's, or left by a killed process that
 * had our process id) is passed over. */
static enum vd_err open_temporary(int *fd, char name[VD_PATH_MAX], const char *path, mode_t mode,
                                  struct vd_error *err)
{
    for (int k = 0; k < 1000; k++) {
        if (snprintf(name, VD_PATH_MAX, "%s.tmp-%ld-%d", path, (long)getpid(), k) >= VD_PATH_MAX)
            return vd_error_set(err, VD_ELIMIT,
                                "the path %.60s... is too long for a temporary file beside it", path);
        *fd = open_retry(name, O_WRONLY | O_CREAT | O_EXCL, mode);
        if (*fd >= 0)
            return VD_OK;
        if (errno != EEXIST)
            return fail(err, "make a temporary file beside", path, errno);
    }
    return vd_error_set(err, VD_EIO, "there are 1000 temporary files beside %.300s; delete %.60s.tmp-*", path,
                        path);
}

/* Where a write to `path` goes: the file that a symbolic link leads to, or `path` itself. *special: it is a
 * device, pipe or socket, which a rename would replace by a file. */
static enum vd_err resolve_target(char out[VD_PATH_MAX], bool *special, const char *path,
                                  struct vd_error *err)
{
    struct stat st;
    *special = false;
    enum vd_err e = check_length(path, err);
    if (e)
        return e;
    memcpy(out, path, strlen(path) + 1);
    if (stat(path, &st) != 0) {
        if (lstat(path, &st) == 0)
            return vd_error_set(err, VD_ENOTFOUND, "%.300s is a link that leads nowhere; remove it", path);
        return VD_OK; /* a new file; if it cannot be made, making it says why */
    }
    if (S_ISDIR(st.st_mode))
        return vd_error_set(err, VD_EIO, "%.300s is a folder; name a file", path);
    *special = !S_ISREG(st.st_mode);
    if (!*special && lstat(path, &st) == 0 && S_ISLNK(st.st_mode) && !realpath(path, out))
        return fail(err, "follow the link", path, errno);
    return VD_OK;
}

/* To a device or pipe; nothing there can be old or new. */
static enum vd_err write_special(const char *path, const void *p, size_t n_bytes, struct vd_error *err)
{
    int fd = open_retry(path, O_WRONLY | O_NOCTTY, 0);
    if (fd < 0)
        return fail(err, "open", path, errno);
    bool ok = write_full(fd, p, n_bytes);
    int saved = errno;
    close(fd);
    return ok ? VD_OK : fail(err, "write", path, saved);
}

enum vd_err vd_file_check_writable(const char *path, struct vd_error *err)
{
    char target[VD_PATH_MAX], tmp[VD_PATH_MAX];
    bool special;
    int fd = -1;
    enum vd_err e = resolve_target(target, &special, path, err);
    if (e)
        return e;
    if (special)
        return access(target, W_OK) == 0 ? VD_OK : fail(err, "write", target, errno);
    e = open_temporary(&fd, tmp, target, 0600, err);
    if (e)
        return e;
    close(fd);
    unlink(tmp);
    return VD_OK;
}

enum vd_err vd_file_write_atomic(const char *path, const void *p, size_t n_bytes, unsigned mode,
                                 struct vd_error *err)
{
    char target[VD_PATH_MAX], tmp[VD_PATH_MAX];
    bool special;
    int fd = -1;
    enum vd_err e = resolve_target(target, &special, path, err);
    if (e)
        return e;
    if (special)
        return write_special(path, p, n_bytes, err);
    path = target;
    e = open_temporary(&fd, tmp, path, (mode_t)mode, err);
    if (e)
        return e;
    bool ok = write_full(fd, p, n_bytes) && fsync(fd) == 0;
    int saved = errno;
    if (close(fd) != 0 && ok) {
        ok = false;
        saved = errno;
    }
    if (ok && rename(tmp, path) != 0) {
        ok = false;
        saved = errno;
    }
    if (!ok) {
        unlink(tmp);
        return fail(err, "write", path, saved);
    }
    return sync_folder_of(path) ? VD_OK : fail(err, "sync the folder of", path, errno);
}

enum vd_err vd_file_rename(const char *from, const char *to, struct vd_error *err)
{
    enum vd_err e = check_length(to, err);
    if (e)
        return e;
    if (rename(from, to) != 0)
        return fail(err, "rename a file to", to, errno);
    return sync_folder_of(to) ? VD_OK : fail(err, "sync the folder of", to, errno);
}

enum vd_err vd_dir_make(const char *path, struct vd_error *err)
{
    enum vd_err e = check_length(path, err);
    if (e)
        return e;
    char part[VD_PATH_MAX];
    size_t n = strlen(path);
    memcpy(part, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (part[i] != '/' && part[i] != 0)
            continue;
        part[i] = 0;
        bool made = mkdir(part, 0700) == 0;
        if (!made && errno != EEXIST)
            return fail(err, "make the folder", part, errno);
        if (made && !sync_folder_of(part))
            return fail(err, "sync the folder of", part, errno);
        part[i] = path[i];
    }
    struct stat st;
    if (stat(path, &st) != 0)
        return fail(err, "look at", path, errno);
    if (!S_ISDIR(st.st_mode))
        return vd_error_set(err, VD_EIO, "%.300s is a file where a folder is needed; move it away", path);
    return VD_OK;
}

enum vd_err vd_home(char out[VD_PATH_MAX], struct vd_error *err)
{
    const char *own = getenv("VERIDEM_HOME"), *home = getenv("HOME");
    bool use_own = own && *own;
    if (!use_own && (!home || !*home))
        return vd_error_set(err, VD_EUSE,
                            "neither VERIDEM_HOME nor HOME is set; set VERIDEM_HOME to a folder");
    const char *base = use_own ? own : home;
    if (base[0] != '/')
        return vd_error_set(err, VD_EUSE, "%s is %.300s, which is not an absolute path; start it with /",
                            use_own ? "VERIDEM_HOME" : "HOME", base);
    int n = snprintf(out, VD_PATH_MAX, "%s%s", base, use_own ? "" : "/.veridem");
    if (n >= VD_PATH_MAX)
        return vd_error_set(err, VD_ELIMIT, "the home folder %.60s... has %d bytes; the limit is %d", base, n,
                            VD_PATH_MAX - 1);
    while (n > 1 && out[n - 1] == '/')
        out[--n] = 0;
    return VD_OK;
}

enum vd_err vd_home_path(char out[VD_PATH_MAX], struct vd_error *err, const char *fmt, ...)
{
    enum vd_err e = vd_home(out, err);
    if (e)
        return e;
    size_t n = strlen(out);
    if (n + 1 < VD_PATH_MAX)
        out[n++] = '/';
    va_list ap;
    va_start(ap, fmt);
    int r = vsnprintf(out + n, VD_PATH_MAX - n, fmt, ap);
    va_end(ap);
    if (r < 0 || (size_t)r >= VD_PATH_MAX - n)
        return vd_error_set(err, VD_ELIMIT, "the path %.60s... is longer than %d bytes", out,
                            VD_PATH_MAX - 1);
    return VD_OK;
}

/* The process id that the holder wrote, or 0. */
static long holder_of(int fd)
{
    uint8_t text[24] = {0};
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    return n > 0 ? strtol((const char *)text, NULL, 10) : 0;
}

static enum vd_err lock_try(struct vd_lock *out, const char *path, long *holder, struct vd_error *err)
{
    *out = (struct vd_lock){-1};
    *holder = 0;
    enum vd_err e = check_length(path, err);
    if (e)
        return e;
    int fd = open_retry(path, O_RDWR | O_CREAT, 0600);
    if (fd < 0)
        return fail(err, "open the lock file", path, errno);
    int rc;
    do
        rc = flock(fd, LOCK_EX | LOCK_NB);
    while (rc != 0 && errno == EINTR);
    if (rc != 0) {
        int saved = errno;
        *holder = holder_of(fd);
        close(fd);
        return saved == EWOULDBLOCK ? VD_EBUSY : fail(err, "lock", path, saved);
    }
    char text[24];
    int n = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)n, 0) != n) {
        int saved = errno;
        close(fd);
        return fail(err, "write the lock file", path, saved);
    }
    out->fd = fd;
    return VD_OK;
}

enum vd_err vd_lock_take(struct vd_lock *out, const char *path, struct vd_error *err)
{
    long holder;
    enum vd_err e = lock_try(out, path, &holder, err);
    if (e != VD_EBUSY)
        return e;
    return vd_error_set(err, VD_EBUSY, "%.300s is locked by process %ld; stop that process first", path,
                        holder);
}

enum vd_err vd_lock_home(struct vd_lock *out, const char *home, struct vd_error *err)
{
    char path[VD_PATH_MAX];
    *out = (struct vd_lock){-1};
    enum vd_err e = vd_dir_make(home, err);
    if (e)
        return e;
    if (snprintf(path, sizeof path, "%s/lock", home) >= (int)sizeof path)
        return vd_error_set(err, VD_ELIMIT, "the home folder %.60s... has too long a path", home);
    long holder;
    e = lock_try(out, path, &holder, err);
    if (e != VD_EBUSY)
        return e;
    return vd_error_set(err, VD_EBUSY,
                        "the home folder %.200s is in use by process %ld; stop it, or set VERIDEM_HOME to "
                        "another folder",
                        home, holder);
}

void vd_lock_release(struct vd_lock *l)
{
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
}
