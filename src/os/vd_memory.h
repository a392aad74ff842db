/* How much memory this process may still take, and giving back what a file's map holds.
 *
 * Thread rule: any thread. */
#ifndef VD_MEMORY_H
#define VD_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* Bytes that can be allocated without swapping: MemAvailable of /proc/meminfo, or what is left to the
 * process's control group (version 2) if that is less. UINT64_MAX if neither can be read. */
uint64_t vd_memory_available(void);

/* [p, p + n_bytes) of a file that is mapped read-only is not needed for now: its whole pages leave the
 * process, and come back from the file when they are read again. */
void vd_memory_let_go(const void *p, size_t n_bytes);

#endif
