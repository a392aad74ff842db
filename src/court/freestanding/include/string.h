#ifndef VD_FREE_STRING_H
#define VD_FREE_STRING_H

#include <stddef.h>

void *memcpy(void *restrict to, const void *restrict from, size_t n_bytes);
void *memmove(void *to, const void *from, size_t n_bytes);
void *memset(void *to, int byte, size_t n_bytes);
int memcmp(const void *a, const void *b, size_t n_bytes);
size_t strlen(const char *s);

#endif
