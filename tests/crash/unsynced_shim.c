/* A preloaded library that makes a process forget to have synced: it writes down what every write to the
 * files of one folder replaces, and strikes that out when the file is synced. When the process is dead,
 * unsynced_recover takes back what was never struck out, as a power cut would.
 *
 * kill -9 alone cannot show a missing fsync: the kernel keeps what a dead process wrote.
 *
 *     VD_UNSYNCED_DIR      the folder (absolute); files below it are watched
 *     VD_UNSYNCED_JOURNAL  where the journals go: one per file, and `names` for made and renamed files
 *
 * Watched: write, pwrite, writev, pwritev, ftruncate, making and renaming files. Synced by: fsync and
 * fdatasync of the file (fsync of the folder for names), and at once through a descriptor opened with O_DSYNC
 * or O_SYNC. Not watched: writes through a shared map (LMDB's lock file; its data file is not written so).
 *
 * A journal record goes out before the write that it describes, in one write of its own, so a kill between
 * the two leaves a record of a write that did not happen; taking that back does no harm. One lock serialises
 * all of it. */
#include "unsynced.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* What is interposed. Declared here, because the headers' declarations depend on macros. */
int open(const char *path, int flags, ...);
int open64(const char *path, int flags, ...);
int openat(int dir, const char *path, int flags, ...);
int openat64(int dir, const char *path, int flags, ...);
ssize_t pwrite64(int fd, const void *buf, size_t n, off64_t at);
ssize_t pwritev64(int fd, const struct iovec *iov, int count, off64_t at);
int ftruncate64(int fd, off64_t size);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void die(const char *what)
{
    fprintf(stderr, "unsynced_shim: %s: %s\n", what, strerror(errno));
    abort();
}

static bool below_dir(const char *path)
{
    const char *dir = getenv("VD_UNSYNCED_DIR");
    size_t n = dir ? strlen(dir) : 0;
    return n && strncmp(path, dir, n) == 0 && (path[n] == '/' || path[n] == 0);
}

static bool path_of_fd(int fd, char *out, size_t cap)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, cap - 1);
    if (n <= 0)
        return false;
    out[n] = 0;
    return true;
}

static bool watched(int fd, struct stat *st)
{
    char path[4096];
    return path_of_fd(fd, path, sizeof path) && below_dir(path) && fstat(fd, st) == 0 &&
           S_ISREG(st->st_mode) && !strstr(path, "lock");
}

static int raw_open(const char *path, int flags, int mode)
{
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

static int journal_open(const char *name, int flags)
{
    char path[4096];
    const char *dir = getenv("VD_UNSYNCED_JOURNAL");
    snprintf(path, sizeof path, "%s/%s", dir ? dir : "/nonexistent", name);
    int fd = raw_open(path, flags | O_CLOEXEC, 0600);
    if (fd < 0)
        die(path);
    return fd;
}

static void file_journal_name(const struct stat *st, char out[64])
{
    snprintf(out, 64, "f-%llu-%llu", (unsigned long long)st->st_dev, (unsigned long long)st->st_ino);
}

static void append(int journal, const void *p, size_t n)
{
    if (syscall(SYS_write, journal, p, n) != (ssize_t)n)
        die("append to the journal");
    syscall(SYS_close, journal);
}

/* The record: header, old bytes, new bytes; the path once per record keeps recovery simple. */
static void note(int fd, const struct stat *st, off_t at, const struct iovec *iov, int count, size_t n,
                 bool synced)
{
    char name[64];
    struct unsynced_record h = {.magic = UNSYNCED_MAGIC,
                                .synced = synced,
                                .at = (uint64_t)at,
                                .n_new = n,
                                .old_size = (uint64_t)st->st_size};
    if (!path_of_fd(fd, h.path, sizeof h.path))
        die("path of a descriptor");
    if ((uint64_t)at < h.old_size)
        h.n_old = h.old_size - (uint64_t)at < n ? h.old_size - (uint64_t)at : n;
    uint8_t *rec = malloc(sizeof h + h.n_old + n);
    if (!rec)
        die("memory");
    memcpy(rec, &h, sizeof h);
    int reader = raw_open(h.path, O_RDONLY | O_CLOEXEC, 0);
    if (reader < 0 || syscall(SYS_pread64, reader, rec + sizeof h, h.n_old, at) != (long)h.n_old)
        die(h.path);
    syscall(SYS_close, reader);
    uint8_t *to = rec + sizeof h + h.n_old;
    for (int i = 0; i < count; i++) {
        memcpy(to, iov[i].iov_base, iov[i].iov_len);
        to += iov[i].iov_len;
    }
    file_journal_name(st, name);
    append(journal_open(name, O_WRONLY | O_CREAT | O_APPEND), rec, sizeof h + h.n_old + n);
    free(rec);
}

static ssize_t write_at(int fd, const struct iovec *iov, int count, off_t at, bool positioned)
{
    struct stat st;
    size_t n = 0;
    ssize_t rc;
    for (int i = 0; i < count; i++)
        n += iov[i].iov_len;
    pthread_mutex_lock(&lock);
    if (watched(fd, &st)) {
        int flags = (int)syscall(SYS_fcntl, fd, F_GETFL);
        off_t pos = positioned ? at : flags & O_APPEND ? st.st_size : lseek(fd, 0, SEEK_CUR);
        note(fd, &st, pos, iov, count, n, (flags & O_DSYNC) != 0);
    }
    if (positioned)
        rc = syscall(SYS_pwritev, fd, iov, count, (long)at, 0L);
    else
        rc = syscall(SYS_writev, fd, iov, count);
    pthread_mutex_unlock(&lock);
    return rc;
}

ssize_t write(int fd, const void *buf, size_t n)
{
    struct iovec v = {(void *)(uintptr_t)buf, n};
    return write_at(fd, &v, 1, 0, false);
}
ssize_t writev(int fd, const struct iovec *iov, int count)
{
    return write_at(fd, iov, count, 0, false);
}
ssize_t pwrite64(int fd, const void *buf, size_t n, off64_t at)
{
    struct iovec v = {(void *)(uintptr_t)buf, n};
    return write_at(fd, &v, 1, at, true);
}
ssize_t pwrite(int fd, const void *buf, size_t n, off_t at)
{
    return pwrite64(fd, buf, n, at);
}
ssize_t pwritev64(int fd, const struct iovec *iov, int count, off64_t at)
{
    return write_at(fd, iov, count, at, true);
}
ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t at)
{
    return write_at(fd, iov, count, at, true);
}

/* Growing and cutting are a write of what is cut off, by nothing. */
int ftruncate64(int fd, off64_t size)
{
    struct stat st;
    pthread_mutex_lock(&lock);
    if (watched(fd, &st)) {
        struct iovec none = {NULL, 0};
        size_t cut = st.st_size > size ? (size_t)(st.st_size - size) : 0;
        uint8_t *old = calloc(1, cut + 1);
        struct iovec v = {old, cut}; /* noted as if zeros were written: the old bytes are what matters */
        note(fd, &st, size, cut ? &v : &none, 1, cut, false);
        free(old);
    }
    int rc = (int)syscall(SYS_ftruncate, fd, (long)size);
    pthread_mutex_unlock(&lock);
    return rc;
}
int ftruncate(int fd, off_t size)
{
    return ftruncate64(fd, size);
}

/* --- syncing --- */

static int sync_fd(int fd, long call, bool names)
{
    struct stat st;
    char path[4096], name[64];
    pthread_mutex_lock(&lock);
    int rc = (int)syscall(call, fd);
    if (rc == 0 && watched(fd, &st)) {
        file_journal_name(&st, name);
        syscall(SYS_close, journal_open(name, O_WRONLY | O_CREAT | O_TRUNC));
    } else if (rc == 0 && names && path_of_fd(fd, path, sizeof path) && below_dir(path) &&
               fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        syscall(SYS_close, journal_open("names", O_WRONLY | O_CREAT | O_TRUNC));
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

int fsync(int fd)
{
    return sync_fd(fd, SYS_fsync, true);
}
int fdatasync(int fd)
{
    return sync_fd(fd, SYS_fdatasync, false);
}

/* --- names --- */

static void note_name(char kind, const char *a, const char *b)
{
    char line[8200];
    int n = snprintf(line, sizeof line, "%c %s %s\n", kind, a, b);
    append(journal_open("names", O_WRONLY | O_CREAT | O_APPEND), line, (size_t)n);
}

static int open_any(int dir, const char *path, int flags, int mode)
{
    struct stat st;
    pthread_mutex_lock(&lock);
    if ((flags & O_CREAT) && path[0] == '/' && below_dir(path) && !strstr(path, "lock") &&
        stat(path, &st) != 0)
        note_name('C', path, "-");
    int fd = (int)syscall(SYS_openat, dir, path, flags, mode);
    pthread_mutex_unlock(&lock);
    return fd;
}

static int mode_of(int flags, va_list ap)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, int) : 0;
}

#define OPEN(name, dir_arg, dir)                                                                             \
    int name(dir_arg const char *path, int flags, ...)                                                       \
    {                                                                                                        \
        va_list ap;                                                                                          \
        va_start(ap, flags);                                                                                 \
        int mode = mode_of(flags, ap);                                                                       \
        va_end(ap);                                                                                          \
        return open_any(dir, path, flags, mode);                                                             \
    }
#define NO_DIR
#define A_DIR int dir,
OPEN(open, NO_DIR, AT_FDCWD)
OPEN(open64, NO_DIR, AT_FDCWD)
OPEN(openat, A_DIR, dir)
OPEN(openat64, A_DIR, dir)

int rename(const char *from, const char *to)
{
    struct stat st;
    pthread_mutex_lock(&lock);
    if (below_dir(to) && stat(to, &st) != 0)
        note_name('R', from, to);
    int rc = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    pthread_mutex_unlock(&lock);
    return rc;
}
