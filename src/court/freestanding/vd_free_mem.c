/* Bytewise: a compiler may turn these loops into calls of themselves, which CMakeLists.txt forbids it. */
#include <stdint.h>
#include <string.h>

void *memcpy(void *restrict to, const void *restrict from, size_t n_bytes)
{
    uint8_t *d = to;
    const uint8_t *s = from;
    for (size_t i = 0; i < n_bytes; i++)
        d[i] = s[i];
    return to;
}

void *memmove(void *to, const void *from, size_t n_bytes)
{
    uint8_t *d = to;
    const uint8_t *s = from;
    if ((uintptr_t)d - (uintptr_t)s >= n_bytes)
        return memcpy(to, from, n_bytes);
    while (n_bytes-- > 0)
        d[n_bytes] = s[n_bytes];
    return to;
}

void *memset(void *to, int byte, size_t n_bytes)
{
    uint8_t *d = to;
    for (size_t i = 0; i < n_bytes; i++)
        d[i] = (uint8_t)byte;
    return to;
}

int memcmp(const void *a, const void *b, size_t n_bytes)
{
    const uint8_t *x = a, *y = b;
    for (size_t i = 0; i < n_bytes; i++)
        if (x[i] != y[i])
            return x[i] < y[i] ? -1 : 1;
    return 0;
}

size_t strlen(const char *s)
{
    size_t n = 0;
    while (s[n])
        n++;
    return n;
}
