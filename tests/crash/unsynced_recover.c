/* unsynced_recover JOURNAL SEED: takes back, file by file, what unsynced_shim saw written and not synced.
 *
 * Seed 0 loses all of it. Any other seed keeps a random half of the 4 KiB pieces, because a disk may have
 * written some, in any order. Prints how many writes it took back. Then the journals are emptied. */
#include "unsynced.h"
#include "vd_rng.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 4096 };

static void die(const char *what)
{
    perror(what);
    exit(3);
}

static uint8_t *read_all(const char *path, size_t *n)
{
    int fd = open(path, O_RDONLY);
    off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (size < 0)
        die(path);
    uint8_t *p = malloc((size_t)size + 1);
    *n = (size_t)size;
    for (size_t got = 0; p && got < *n;) {
        ssize_t k = pread(fd, p + got, *n - got, (off_t)got);
        if (k <= 0)
            die(path);
        got += (size_t)k;
    }
    close(fd);
    return p;
}

static void put_at(const char *path, const uint8_t *p, uint64_t n, uint64_t at)
{
    int fd = open(path, O_WRONLY);
    if (fd < 0 || pwrite(fd, p, n, (off_t)at) != (ssize_t)n)
        die(path);
    close(fd);
}

/* Whole records only: the last one may have been cut off by the kill, and then its write was never made. */
static size_t index_records(const uint8_t *p, size_t n, size_t **out)
{
    size_t count = 0, at = 0;
    *out = malloc((n / sizeof(struct unsynced_record) + 1) * sizeof **out);
    while (*out && n - at >= sizeof(struct unsynced_record)) {
        struct unsynced_record h;
        memcpy(&h, p + at, sizeof h);
        if (h.magic != UNSYNCED_MAGIC || h.n_old + h.n_new > n - at - sizeof h)
            break;
        (*out)[count++] = at;
        at += sizeof h + h.n_old + h.n_new;
    }
    return count;
}

static size_t take_back(const char *journal, struct vd_rng *rng, int keep_some)
{
    size_t n, *rec, taken = 0;
    uint8_t *p = read_all(journal, &n);
    size_t count = index_records(p, n, &rec);
    struct unsynced_record h;
    for (size_t i = count; i-- > 0;) {
        memcpy(&h, p + rec[i], sizeof h);
        if (access(h.path, F_OK) != 0)
            continue; /* renamed or removed since; its new name has the same journal */
        put_at(h.path, p + rec[i] + sizeof h, h.n_old, h.at);
        if (truncate(h.path, (off_t)h.old_size) != 0)
            die(h.path);
        taken += !h.synced;
    }
    for (size_t i = 0; i < count; i++) { /* what was synced, and what happened to reach the disk */
        memcpy(&h, p + rec[i], sizeof h);
        const uint8_t *new_bytes = p + rec[i] + sizeof h + h.n_old;
        for (uint64_t at = 0; at < h.n_new && access(h.path, F_OK) == 0; at += PIECE)
            if (h.synced || (keep_some && vd_rng_below(rng, 2)))
                put_at(h.path, new_bytes + at, h.n_new - at < PIECE ? h.n_new - at : PIECE, h.at + at);
    }
    free(rec);
    free(p);
    if (truncate(journal, 0) != 0)
        die(journal);
    return taken;
}

static size_t take_back_names(const char *journal)
{
    size_t n, taken = 0;
    uint8_t *p = read_all(journal, &n);
    char a[4096], b[4096], kind;
    for (size_t end = n; end > 0;) { /* lines, last first */
        size_t begin = end - 1;
        while (begin > 0 && p[begin - 1] != '\n')
            begin--;
        p[end - 1] = 0;
        if (sscanf((char *)p + begin, "%c %4095s %4095s", &kind, a, b) == 3) {
            if (kind == 'C' && unlink(a) == 0)
                taken++;
            if (kind == 'R' && access(a, F_OK) != 0 && rename(b, a) == 0)
                taken++;
        }
        end = begin;
    }
    free(p);
    if (truncate(journal, 0) != 0)
        die(journal);
    return taken;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: unsynced_recover JOURNAL SEED\n");
        return 2;
    }
    uint64_t seed = strtoull(argv[2], NULL, 10);
    struct vd_rng rng = {seed, 0};
    size_t writes = 0, names = 0;
    char path[4096];
    DIR *d = opendir(argv[1]);
    struct dirent *e;
    while (d && (e = readdir(d))) {
        snprintf(path, sizeof path, "%s/%s", argv[1], e->d_name);
        if (e->d_name[0] == 'f')
            writes += take_back(path, &rng, seed != 0);
    }
    if (d)
        closedir(d);
    snprintf(path, sizeof path, "%s/names", argv[1]);
    if (access(path, F_OK) == 0)
        names = take_back_names(path);
    printf("took back %zu writes, %zu names\n", writes, names);
    return 0;
}
