#include "vd_err.h"

#include <stdio.h>

static const struct {
    const char *name, *text;
    int exit_status;
} vd_err_table[] = {
#define X(code, exit_status, text) [code] = {#code, text, exit_status},
    VD_ERR_LIST(X)
#undef X
};

enum { VD_ERR_COUNT = sizeof vd_err_table / sizeof vd_err_table[0] };

const char *vd_err_name(enum vd_err code)
{
    return (unsigned)code < VD_ERR_COUNT ? vd_err_table[code].name : "VD_E?";
}

const char *vd_err_text(enum vd_err code)
{
    return (unsigned)code < VD_ERR_COUNT ? vd_err_table[code].text : "unknown error";
}

int vd_err_exit_status(enum vd_err code)
{
    return (unsigned)code < VD_ERR_COUNT ? vd_err_table[code].exit_status : 70;
}

enum vd_err vd_error_setv(struct vd_error *err, enum vd_err code, const char *fmt, va_list ap)
{
    if (err) {
        err->code = code;
        vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    }
    return code;
}

enum vd_err vd_error_set(struct vd_error *err, enum vd_err code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vd_error_setv(err, code, fmt, ap);
    va_end(ap);
    return code;
}
