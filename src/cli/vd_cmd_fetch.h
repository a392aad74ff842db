/* Fetching a large file whose hash is known beforehand: it resumes where an earlier try stopped, and nothing
 * that does not have the hash ever gets its final name. Thread rule: one fetch of a file at a time (a lock
 * sees to it, also between processes). */
#ifndef VD_CMD_FETCH_H
#define VD_CMD_FETCH_H

#include "vd_err.h"
#include "vd_sha256.h"

#include <stdbool.h>
#include <stdint.h>

enum { VD_FETCH_URL_MAX = 2048 };
#define VD_FETCH_MAX_BYTES (UINT64_C(1) << 40)

/* Makes `path` hold what `url` (http, https or file) gives, if that has this hash. A good file that is there
 * already is left alone (*had_it). The half file is <path>.part until it is whole. `progress`: a line on
 * stderr now and then. VD_ENET (may be tried again, and goes on), VD_EFALSE (whole, but of another hash:
 * removed), VD_ENOSPACE, VD_EBUSY. */
enum vd_err vd_fetch(const char *url, const char *path, const struct vd_hash *sha256, bool progress,
                     bool *had_it, struct vd_error *err);

#endif
