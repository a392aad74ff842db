/* A model that does not fit is refused before it is loaded: an allocation that succeeds says nothing, since
 * Linux hands out memory when it is first written to and then kills somebody. */
#include "vd_memory.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LINE_BYTES = 512 };

/* The number behind `key` in a file of lines "key number"; false if there is none. */
static bool number_after(const char *path, const char *key, uint64_t *out)
{
    char line[LINE_BYTES];
    unsigned long long v;
    bool found = false;
    FILE *f = fopen(path, "re");
    while (f && !found && fgets(line, sizeof line, f))
        found = strncmp(line, key, strlen(key)) == 0 && sscanf(line + strlen(key), "%llu", &v) == 1;
    if (f)
        fclose(f);
    if (found)
        *out = v;
    return found;
}

/* What is left to the control group that /proc/self/cgroup names ("0::/path"). Page cache that it can drop
 * counts as left. */
static bool group_left(uint64_t *out)
{
    char line[LINE_BYTES], path[2 * LINE_BYTES];
    uint64_t most, used, cache = 0;
    FILE *f = fopen("/proc/self/cgroup", "re");
    bool found = false;
    while (f && !found && fgets(line, sizeof line, f))
        found = strncmp(line, "0::/", 4) == 0;
    if (f)
        fclose(f);
    if (!found)
        return false;
    line[strcspn(line, "\n")] = 0;
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", line + 3);
    if (!number_after(path, "", &most)) /* "max": no limit */
        return false;
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.current", line + 3);
    if (!number_after(path, "", &used))
        return false;
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.stat", line + 3);
    number_after(path, "inactive_file ", &cache);
    used = used > cache ? used - cache : 0;
    *out = most > used ? most - used : 0;
    return true;
}

uint64_t vd_memory_available(void)
{
    uint64_t kib, group, left = UINT64_MAX;
    if (number_after("/proc/meminfo", "MemAvailable:", &kib))
        left = kib * 1024;
    if (group_left(&group) && group < left)
        left = group;
    return left;
}

void vd_memory_let_go(const void *p, size_t n_bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)p + page - 1) / page * page, end = ((uintptr_t)p + n_bytes) / page * page;
    if (begin < end)
        madvise((void *)begin, end - begin, MADV_DONTNEED); /* a wish: its failure changes nothing */
}
