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

static enum vd_err make(struct vd_keypair *out, const char *path, struct vd_error *err)
{
    uint8_t seed[VD_SEED_BYTES];
    char text[KEY_FILE_BYTES + 1];
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return vd_error_set(err, VD_EIO, "cannot make the key file %s: %s", path, strerror(errno));
    randombytes_buf(seed, sizeof seed);
    vd_hex_encode(text, seed, sizeof seed);
    text[KEY_FILE_BYTES - 1] = '\n';
    bool ok = write(fd, text, KEY_FILE_BYTES) == KEY_FILE_BYTES && fsync(fd) == 0;
    int saved = errno;
    close(fd);
    if (ok)
        vd_key_from_seed(out, seed);
    else
        unlink(path);
    sodium_memzero(seed, sizeof seed);
    sodium_memzero(text, sizeof text);
    return ok ? VD_OK : vd_error_set(err, VD_EIO, "cannot write the key file %s: %s", path, strerror(saved));
}

enum vd_err vd_key_load(struct vd_keypair *out, const char *path, bool create, struct vd_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT && create)
        return make(out, path, err);
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
