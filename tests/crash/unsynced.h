/* The journal's format, shared by unsynced_shim and unsynced_recover (same machine, same build). */
#ifndef VD_UNSYNCED_H
#define VD_UNSYNCED_H

#include <stdint.h>

#define UNSYNCED_MAGIC UINT64_C(0x6465636e79736e75)

struct unsynced_record { /* n_old bytes that were there and n_new bytes that were written follow */
    uint64_t magic;
    uint64_t synced; /* written through O_DSYNC: it stays */
    uint64_t at, n_old, n_new;
    uint64_t old_size; /* of the file */
    char path[512];
};

#endif
