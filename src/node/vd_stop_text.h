/* Stop strings: where an answer's text ends before its tokens do.
 *
 * A stop string is never shown, nor is a part of it that the end of the text could still complete. It may
 * begin in one token and end in another. Ownership: the strings are borrowed. Thread rule: pure functions. */
#ifndef VD_STOP_TEXT_H
#define VD_STOP_TEXT_H

#include <stdbool.h>
#include <stddef.h>

enum { VD_STOP_TEXTS_MAX = 4, VD_STOP_TEXT_MAX_BYTES = 256 };

struct vd_stop_text {
    size_t n;
    struct {
        const char *p;
        size_t n; /* 1 to VD_STOP_TEXT_MAX_BYTES */
    } text[VD_STOP_TEXTS_MAX];
};

/* Does a stop string end behind the first `from` bytes (before which there is none)? *at: where the first one
 * begins. */
bool vd_stop_text_find(const struct vd_stop_text *s, const char *text, size_t n, size_t from, size_t *at);
/* The bytes at the end of the text that a stop string may begin with. */
size_t vd_stop_text_held(const struct vd_stop_text *s, const char *text, size_t n);

#endif
