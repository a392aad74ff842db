/* Errors: one list of codes, and a message that names the thing, the value and the mend.
 *
 * A function that can fail for a reason outside the program returns `enum vd_err` and takes, last, a
 * `struct vd_error *` which may be NULL. VD_OK is 0. The callee fills the struct by vd_error_set.
 * Programmer errors are asserts. Verdicts about what a peer sent are enums of their own protocol.
 *
 * Thread rule: pure functions of their arguments. */
#ifndef VD_ERR_H
#define VD_ERR_H

#include <stdarg.h>

/* X(code, exit status of the command, short text) */
#define VD_ERR_LIST(X)                                                                                       \
    X(VD_OK, 0, "ok")                                                                                        \
    X(VD_EFALSE, 1, "what was checked is false")                                                             \
    X(VD_EUSE, 2, "wrong use")                                                                               \
    X(VD_EIO, 3, "input or output failed")                                                                   \
    X(VD_ENOTFOUND, 3, "not found")                                                                          \
    X(VD_EBUSY, 3, "in use by another process")                                                              \
    X(VD_ENOSPACE, 3, "no space left")                                                                       \
    X(VD_ENOMEM, 3, "not enough memory")                                                                     \
    X(VD_ENET, 3, "network failure")                                                                         \
    X(VD_ETIMEOUT, 3, "timed out")                                                                           \
    X(VD_EAGAIN, 3, "try again later")                                                                       \
    X(VD_EFORMAT, 3, "malformed input")                                                                      \
    X(VD_ELIMIT, 3, "a size limit was exceeded")                                                             \
    X(VD_EUNSUPPORTED, 3, "not supported")                                                                   \
    X(VD_EAUTH, 3, "not authorised")                                                                         \
    X(VD_EVERSION, 3, "version mismatch")                                                                    \
    X(VD_ECANCELLED, 3, "cancelled")                                                                         \
    X(VD_ECONFLICT, 3, "conflicts with the current state")                                                   \
    X(VD_EFUNDS, 3, "not enough funds")                                                                      \
    X(VD_EINTERNAL, 70, "a defect of ours")

enum vd_err {
#define X(code, exit_status, text) code,
    VD_ERR_LIST(X)
#undef X
};

enum { VD_ERROR_MSG_MAX = 512 };

struct vd_error {
    enum vd_err code;
    char msg[VD_ERROR_MSG_MAX]; /* one line, no trailing newline */
};

/* The name ("VD_EIO"), the short text, and the exit status of the command for a code. */
const char *vd_err_name(enum vd_err code);
const char *vd_err_text(enum vd_err code);
int vd_err_exit_status(enum vd_err code);

/* Fills *err (if not NULL) and returns code, so that `return vd_error_set(err, VD_EIO, ...)` reads well. */
enum vd_err vd_error_set(struct vd_error *err, enum vd_err code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
enum vd_err vd_error_setv(struct vd_error *err, enum vd_err code, const char *fmt, va_list ap)
    __attribute__((format(printf, 3, 0)));

#endif
