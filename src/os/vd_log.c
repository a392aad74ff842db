/* The formatted fields are parsed again into keys and values, so that callers write one printf and both
 * outputs stay exact: whatever a value holds, its escaping happens in one place. A line is built on the stack
 * and written at once. */
#include "vd_log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const level_name[] = {"debug", "info", "warn", "error"};
static const char *const level_colour[] = {"\033[2m", "", "\033[33m", "\033[31m"};

struct line {
    char p[VD_LOG_LINE_MAX];
    size_t n;
    bool full; /* something did not fit, so nothing is added any more */
};

/* The last bytes stay free for the end of the line. */
enum { LINE_TAIL = 16 };

static void put(struct line *l, const char *s, size_t n)
{
    l->full = l->full || n > VD_LOG_LINE_MAX - LINE_TAIL - l->n;
    if (l->full)
        return;
    memcpy(l->p + l->n, s, n);
    l->n += n;
}

static void put_str(struct line *l, const char *s)
{
    put(l, s, strlen(s));
}

/* Length of the valid UTF-8 sequence at s (RFC 3629), 0 if there is none. */
static size_t utf8_len(const unsigned char *s, size_t n)
{
    if (s[0] < 0x80)
        return 1;
    size_t k = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || k > n)
        return 0;
    for (size_t i = 1; i < k; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
        (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return k;
}

static void put_escaped(struct line *l, const char *s, size_t n)
{
    char esc[8];
    if (n > VD_LOG_VALUE_MAX)
        n = VD_LOG_VALUE_MAX;
    for (size_t i = 0; i < n;) {
        const unsigned char *c = (const unsigned char *)s + i;
        size_t k = utf8_len(c, n - i);
        if (k == 1 && (*c == '"' || *c == '\\')) {
            snprintf(esc, sizeof esc, "\\%c", *c);
            put(l, esc, 2);
        } else if (k == 0 || *c < 0x20 || *c == 0x7f || (*c == 0xc2 && c[1] < 0xa0)) {
            snprintf(esc, sizeof esc, "\\u%04x", k == 2 ? c[1] : *c);
            put(l, esc, 6);
        } else {
            put(l, s + i, k);
        }
        i += k ? k : 1;
    }
}

/* The length of the key in "key=" at s, 0 if none stands there. */
static size_t key_len(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz_");
    return n && s[n] == '=' ? n : 0;
}

/* The next "key=" behind a space in a format, or its end. */
static const char *next_key(const char *fmt)
{
    while (*fmt && !(*fmt == ' ' && key_len(fmt + 1)))
        fmt++;
    return *fmt ? fmt + 1 : fmt;
}

/* Keys come from the format alone, so that no value can bring one of its own. A field for which the line has
 * no room is left out whole, with those behind it: half of one would leave a string without its end. */
static void put_fields(struct line *l, const char *s, const char *fmt, bool json)
{
    size_t k = key_len(fmt);
    while (k > 0 && strncmp(s, fmt, k + 1) == 0) {
        const char *value = s + k + 1, *end = value, *next = next_key(fmt + k + 1);
        size_t n_next = key_len(next);
        while (*end && !(*end == ' ' && n_next && strncmp(end + 1, next, n_next + 1) == 0))
            end++;
        size_t before = l->n;
        bool quote = json || memchr(value, ' ', (size_t)(end - value));
        put_str(l, json ? ",\"" : " ");
        put(l, s, k);
        put_str(l, json ? "\":" : "=");
        put(l, "\"", quote);
        put_escaped(l, value, (size_t)(end - value));
        put(l, "\"", quote);
        if (l->full) {
            l->n = before;
            return;
        }
        s = *end ? end + 1 : end;
        fmt = next;
        k = n_next;
    }
}

struct vd_log vd_log_init(int fd, const char *role, enum vd_log_level level, bool json)
{
    return (struct vd_log){fd, level, json, !json && isatty(fd) == 1, role};
}

bool vd_log_level_parse(enum vd_log_level *out, const char *name)
{
    for (int i = VD_LOG_DEBUG; i <= VD_LOG_ERROR; i++) {
        if (strcmp(name, level_name[i]) == 0) {
            *out = (enum vd_log_level)i;
            return true;
        }
    }
    return false;
}

static void put_head(struct line *l, const struct vd_log *log, enum vd_log_level level, const char *event)
{
    struct timespec now;
    struct tm tm;
    char when[64];
    clock_gettime(CLOCK_REALTIME, &now);
    int ms = (int)(now.tv_nsec / 1000000);
    if (log->json) {
        gmtime_r(&now.tv_sec, &tm);
        snprintf(when, sizeof when, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year + 1900, tm.tm_mon + 1,
                 tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, ms);
        put_str(l, "{\"time\":\"");
        put_str(l, when);
        put_str(l, "\",\"level\":\"");
        put_str(l, level_name[level]);
        put_str(l, "\",\"role\":\"");
        put_str(l, log->role);
        put_str(l, "\",\"event\":\"");
        put_escaped(l, event, strlen(event));
        put_str(l, "\"");
        return;
    }
    localtime_r(&now.tv_sec, &tm);
    snprintf(when, sizeof when, "%02d:%02d:%02d.%03d %-5s %-8s ", tm.tm_hour, tm.tm_min, tm.tm_sec, ms,
             level_name[level], log->role);
    put_str(l, log->colour ? level_colour[level] : "");
    put_str(l, when);
    put_escaped(l, event, strlen(event));
}

void vd_log_event(const struct vd_log *log, enum vd_log_level level, const char *event, const char *fields,
                  ...)
{
    if (!log || level < log->level)
        return;
    struct line l = {.n = 0};
    char text[VD_LOG_LINE_MAX];
    put_head(&l, log, level, event);
    if (fields) {
        va_list ap;
        va_start(ap, fields);
        vsnprintf(text, sizeof text, fields, ap);
        va_end(ap);
        put_fields(&l, text, fields, log->json);
    }
    const char *tail = log->json ? "}\n" : log->colour && *level_colour[level] ? "\033[0m\n" : "\n";
    memcpy(l.p + l.n, tail, strlen(tail));
    l.n += strlen(tail);
    ssize_t written = write(log->fd, l.p, l.n);
    (void)written; /* a log line that cannot be written is lost by design */
}
