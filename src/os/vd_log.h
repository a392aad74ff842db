/* The log: one line per event on a file descriptor, as text for people or as JSON lines for machines.
 *
 *     12:30:01.123 info  gateway  worker connected  peer=127.0.0.1:4711 key=ab12cd34
 *     {"time":"2026-01-31T12:30:01.123Z","level":"info","role":"gateway","event":"worker
 * connected","peer":"..."}
 *
 * An event is a fixed text; everything that varies goes into fields. A value is cut at VD_LOG_VALUE_MAX
 * bytes, and control characters, quotes and bytes that are not UTF-8 are escaped, so that nobody outside can
 * forge a line. A line has at most VD_LOG_LINE_MAX bytes; fields that do not fit are left out. Prompts,
 * answers and secret keys are never logged: no function here takes them, and no caller may put them into a
 * field.
 *
 * Ownership: a struct vd_log is the caller's and is passed by pointer; NULL logs nothing. Thread rule: a line
 * is one write, so any number of threads and processes may share a descriptor. A line that cannot be written
 * is lost: logging never fails and never blocks the caller for longer than the write. */
#ifndef VD_LOG_H
#define VD_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum vd_log_level { VD_LOG_DEBUG, VD_LOG_INFO, VD_LOG_WARN, VD_LOG_ERROR };

enum { VD_LOG_VALUE_MAX = 512, VD_LOG_LINE_MAX = 4096 };

struct vd_log {
    int fd;
    enum vd_log_level level; /* events below it are dropped */
    bool json;
    bool colour;      /* text on a terminal */
    const char *role; /* "gateway"; borrowed for the log's life */
};

/* A log on `fd`, coloured if it is a terminal. */
struct vd_log vd_log_init(int fd, const char *role, enum vd_log_level level, bool json);

/* "debug", "info", "warn", "error"; false for another name. */
bool vd_log_level_parse(enum vd_log_level *out, const char *name);

/* Logs `event`. `fields` is printf-style and makes "key=value key=value": keys are [a-z_]+ and stand in
 * the format itself; a value goes to the next space that is followed by the format's next key and '=', so
 * that texts may hold spaces and no value can bring a key of its own. NULL: no fields. */
void vd_log_event(const struct vd_log *log, enum vd_log_level level, const char *event, const char *fields,
                  ...) __attribute__((format(printf, 4, 5)));

#endif
