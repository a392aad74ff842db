#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "vd_memory.h"

static void a_number_that_is_sane(void **state)
{
    uint64_t left = vd_memory_available();
    uint64_t all = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    assert_true(left > 1 << 20);
    assert_true(left <= all);
}

/* Pages of the map that lie in the process (the page cache may hold them all the while). */
static size_t resident_kib(const void *p)
{
    char line[256];
    unsigned long begin, end, kib = 0;
    int found = 0;
    FILE *f = fopen("/proc/self/smaps", "re");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "%lx-%lx ", &begin, &end) == 2)
            found = begin <= (uintptr_t)p && (uintptr_t)p < end;
        else if (found && sscanf(line, "Rss: %lu kB", &kib) == 1)
            break;
    }
    fclose(f);
    return kib;
}

static void what_is_let_go_comes_back(void **state)
{
    enum { N = 4 << 20 };
    char path[] = "/tmp/vd_memory_testXXXXXX";
    int fd = mkstemp(path);
    uint8_t *bytes = malloc(N);
    unsigned sum = 0;
    assert_true(fd >= 0 && bytes != NULL);
    memset(bytes, 3, N);
    assert_int_equal(write(fd, bytes, N), N);
    const uint8_t *map = mmap(NULL, N, PROT_READ, MAP_PRIVATE, fd, 0);
    assert_true(map != MAP_FAILED);
    for (size_t i = 0; i < N; i += 4096)
        sum += map[i];
    assert_true(resident_kib(map) >= N / 1024);
    vd_memory_let_go(map + 100, N - 200); /* whole pages only */
    assert_true(resident_kib(map) <= 64);
    vd_memory_let_go(map + 100, 10);
    for (size_t i = 0; i < N; i += 4096)
        sum += map[i];
    assert_int_equal(sum, 2 * 3 * N / 4096);
    munmap((void *)(uintptr_t)map, N);
    close(fd);
    unlink(path);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_number_that_is_sane),
        cmocka_unit_test(what_is_let_go_comes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
