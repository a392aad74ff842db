/* The one place where a secret key meets the disk. */
#include "vd_bytes.h"
#include "vd_key.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEY_FILE_BYTES = 2 * VD_SEED_BYTES + 1 };

/* fsync of the folder that holds `path`: until then a power cut may take the new name away, and the key with
 * it. */
static bool sync_folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    char folder[4096] = ".";
    if (slash && snprintf(folder, sizeof folder, "%.*s", slash == path ? 1 : (int)(slash - path), path) >=
                     (int)sizeof folder)
        return false;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool ok = fsync(fd) == 0;
    close(fd);
    return ok;
}

/* Writes the text to a new file and gives it its name only when it is whole and on the disk: a process that
 * is killed on the way leaves no damaged key, and of two at once the second finds the first one's. */
static enum vd_err publish(const char *path, const char text[KEY_FILE_BYTES], struct vd_error *err)
{
    char tmp[4096];
    if (snprintf(tmp, sizeof tmp, "%s.new-%ld", path, (long)getpid()) >= (int)sizeof tmp)
        return vd_error_set(err, VD_ELIMIT, "the path of the key file %.60s... is too long", path);
    unlink(tmp); /* left by a process that had this id and was killed */
    int fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return vd_error_set(err, VD_EIO, "cannot make the key file %s: %s", path, strerror(errno));
    errno = 0; /* a short write sets none */
    bool ok = write(fd, text, KEY_FILE_BYTES) == KEY_FILE_BYTES && fsync(fd) == 0 && link(tmp, path) == 0 &&
              sync_folder_of(path);
    int saved = errno ? errno : ENOSPC;
    close(fd);
    unlink(tmp);
    if (ok)
        return VD_OK;
    return vd_error_set(err,
                        saved == EEXIST   ? VD_ECONFLICT
                        : saved == ENOSPC ? VD_ENOSPACE
                                          : VD_EIO,
                        "cannot write the key file %s: %s", path, strerror(saved));
}

static enum vd_err make(struct vd_keypair *out, const char *path, struct vd_error *err)
{
    uint8_t seed[VD_SEED_BYTES];
    char text[KEY_FILE_BYTES + 1];
    randombytes_buf(seed, sizeof seed);
    vd_hex_encode(text, seed, sizeof seed);
    text[KEY_FILE_BYTES - 1] = '\n';
    enum vd_err rc = publish(path, text, err);
    if (rc == VD_OK)
        vd_key_from_seed(out, seed);
    sodium_memzero(seed, sizeof seed);
    sodium_memzero(text, sizeof text);
    return rc;
}

enum vd_err vd_key_load(struct vd_keypair *out, const char *path, bool create, struct vd_error *err)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* a named pipe must not block the open */
    if (fd < 0 && errno == ENOENT && create) {
        enum vd_err rc = make(out, path, err);
        return rc == VD_ECONFLICT ? vd_key_load(out, path, false, err) : rc; /* another process was quicker */
    }
    if (fd < 0)
        return vd_error_set(err, errno == ENOENT ? VD_ENOTFOUND : VD_EIO, "cannot open the key file %s: %s",
                            path, strerror(errno));
    struct stat st;
    char text[KEY_FILE_BYTES + 1];
    uint8_t seed[VD_SEED_BYTES];
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return vd_error_set(err, VD_EFORMAT, "the key file %s is not a regular file", path);
    }
    if (st.st_mode & 077) {
        close(fd);
        return vd_error_set(err, VD_EAUTH,
                            "the key file %s can be read by others (mode %03o): run chmod 600 %s", path,
                            (unsigned)st.st_mode & 0777u, path);
    }
    ssize_t n = read(fd, text, sizeof text);
    close(fd);
    bool ok = n == KEY_FILE_BYTES && text[KEY_FILE_BYTES - 1] == '\n';
    if (ok) {
        text[KEY_FILE_BYTES - 1] = 0;
        ok = vd_hex_decode(seed, sizeof seed, text);
    }
    if (ok)
        vd_key_from_seed(out, seed);
    sodium_memzero(seed, sizeof seed);
    sodium_memzero(text, sizeof text);
    return ok ? VD_OK
              : vd_error_set(err, VD_EFORMAT,
                             "the key file %s is damaged: it must hold 64 hexadecimal digits and a newline",
                             path);
}
