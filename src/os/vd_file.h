/* Files: whole-file maps, bounded reads of files and streams, atomic writes, folders, locks, and the home
 * folder.
 *
 * Every error names the file, the value that was wrong and what mends it. Paths are NUL-terminated and at
 * most VD_PATH_MAX - 1 bytes; a longer one is VD_ELIMIT. Nothing here follows a prefix or expands `~`.
 *
 * Thread rule: functions of their arguments and of the file system; vd_home reads the environment, which
 * nobody may change while threads run. */
#ifndef VD_FILE_H
#define VD_FILE_H

#include "vd_bytes.h"
#include "vd_err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { VD_PATH_MAX = 4096 };

/* A read-only view of a whole regular file. The pages belong to the file: if another process shortens the
 * file while it is mapped, a read past the new end kills this process (SIGBUS), so models are replaced by
 * rename only. */
struct vd_map {
    const uint8_t *p; /* NULL for an empty file */
    size_t n_bytes;
    void *address; /* what munmap takes */
};

/* Maps `path`. VD_ENOTFOUND, VD_EIO, VD_EFORMAT (not a regular file), VD_ENOMEM. */
enum vd_err vd_map_open(struct vd_map *out, const char *path, struct vd_error *err);

/* Unmaps and clears; a cleared map may be closed again. */
void vd_map_close(struct vd_map *m);

/* Reads the whole of a regular file of at most max_bytes into memory that the caller frees with free(). A
 * NUL, not counted in *n_bytes, follows the last byte. VD_ELIMIT names the size and the limit. */
enum vd_err vd_file_read(uint8_t **out, size_t *n_bytes, const char *path, size_t max_bytes,
                         struct vd_error *err);

/* The same of whatever can be read: a file, a pipe (`<(command)`), a named pipe, a device; VD_EFORMAT: a
 * folder. What has no end is VD_ELIMIT behind max_bytes. It waits for a named pipe's writer, and for what a
 * pipe or a terminal gives, as long as that takes, so that only a signal ends it: not for a thread that
 * blocks those. */
enum vd_err vd_stream_read(uint8_t **out, size_t *n_bytes, const char *path, size_t max_bytes,
                           struct vd_error *err);

/* The same of an open file, from where it stands; it stays open. `name` is for messages. */
enum vd_err vd_stream_read_fd(uint8_t **out, size_t *n_bytes, int fd, const char *name, size_t max_bytes,
                              struct vd_error *err);

/* Replaces `path` by the n bytes at p: readers see the old content or the new, never a mixture, and after
 * VD_OK the new one survives a power cut (write to a temporary file beside it, fsync, rename, fsync of the
 * folder). On an error no temporary file is left and the old content stands, unless it is the folder that
 * could not be synced: then the new content is there, and a power cut may take it away. `mode` is the new
 * file's permissions, the umask aside. VD_ENOSPACE when the disk or the quota is full. A symbolic link stays,
 * and the file that it leads to is replaced; a device, pipe or socket stays and is written to, plainly. */
enum vd_err vd_file_write_atomic(const char *path, const void *p, size_t n_bytes, unsigned mode,
                                 struct vd_error *err);

/* Could vd_file_write_atomic make `path` now? For asking before the work whose result goes there. Leaves
 * nothing. */
enum vd_err vd_file_check_writable(const char *path, struct vd_error *err);

/* Gives a file that is synced already the name `to`, in the same file system, in place of a file that has it;
 * after VD_OK the name survives a power cut. */
enum vd_err vd_file_rename(const char *from, const char *to, struct vd_error *err);

/* Makes `path` and the folders above it that are missing, each with mode 0700; the new ones survive a power
 * cut. A folder that exists is left
 * as it is; a file in the way is VD_EIO. */
enum vd_err vd_dir_make(const char *path, struct vd_error *err);

/* Writes the home folder, $VERIDEM_HOME or else $HOME/.veridem, without making it. VD_EUSE if neither is set
 * or the value is not an absolute path. */
enum vd_err vd_home(char out[VD_PATH_MAX], struct vd_error *err);

/* Writes home, '/', and the printf-style rest, e.g. vd_home_path(out, err, "models/%s.gguf", name). */
enum vd_err vd_home_path(char out[VD_PATH_MAX], struct vd_error *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* An exclusive lock that the kernel drops when the holder dies, however it dies. */
struct vd_lock {
    int fd; /* -1: not held */
};

/* Takes the lock file `path`, making it (0600) if need be, and writes this process's id into it. Never waits:
 * VD_EBUSY names the file and the holder's process id. The file stays after release; its content means
 * nothing while nobody holds it. */
enum vd_err vd_lock_take(struct vd_lock *out, const char *path, struct vd_error *err);

/* vd_lock_take on `home`/lock after making `home`; VD_EBUSY says that the home is in use, by which process,
 * and that VERIDEM_HOME chooses another. */
enum vd_err vd_lock_home(struct vd_lock *out, const char *home, struct vd_error *err);

/* Releases; a lock that is not held may be released again. */
void vd_lock_release(struct vd_lock *l);

#endif
