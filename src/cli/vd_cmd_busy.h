/* A sign on stderr that a command is still at work: a line when it has taken two seconds, then one every ten.
 * What is quick says nothing.
 *
 * Thread rule: begun and ended by one thread; any may hush it between. */
#ifndef VD_CMD_BUSY_H
#define VD_CMD_BUSY_H

#include "vd_cli.h"

#include <pthread.h>

enum { VD_BUSY_FIRST_MS = 2000, VD_BUSY_NEXT_MS = 10000 };

struct vd_busy {
    pthread_mutex_t mu;
    pthread_cond_t cond;
    pthread_t thread;
    bool running, end;
    FILE *to;
    unsigned first_ms, next_ms;
    char text[256]; /* "veridem verify: replaying 5 tokens" */
};

/* From here on `fmt` is what the command is doing. The caller keeps *b in place until vd_busy_end. A thread
 * that cannot be had is no error: there will be no sign. */
void vd_busy_begin(struct vd_busy *b, const struct vd_cli *cli, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Nothing is printed after either of them, but only the second gives the thread back. A *b of zeros, or one
 * that was ended, may be ended and hushed. */
void vd_busy_hush(struct vd_busy *b);
void vd_busy_end(struct vd_busy *b);

/* vd_busy_begin with other times, in milliseconds, and another stream. */
void vd_busy_begin_on(struct vd_busy *b, FILE *to, unsigned first_ms, unsigned next_ms, const char *text);

#endif
