/* A plain search of what is new: texts grow by a token's bytes, and there are at most four short strings. */
#include "vd_stop_text.h"

#include <string.h>

bool vd_stop_text_find(const struct vd_stop_text *s, const char *text, size_t n, size_t from, size_t *at)
{
    bool found = false;
    for (size_t k = 0; k < s->n; k++) {
        size_t len = s->text[k].n, first = from >= len ? from - len + 1 : 0;
        for (size_t i = first; i + len <= n; i++)
            if (memcmp(text + i, s->text[k].p, len) == 0) {
                if (!found || i < *at)
                    *at = i;
                found = true;
                break;
            }
    }
    return found;
}

size_t vd_stop_text_held(const struct vd_stop_text *s, const char *text, size_t n)
{
    size_t held = 0;
    for (size_t k = 0; k < s->n; k++)
        for (size_t len = s->text[k].n - 1; len > held; len--)
            if (len <= n && memcmp(text + n - len, s->text[k].p, len) == 0)
                held = len;
    return held;
}
