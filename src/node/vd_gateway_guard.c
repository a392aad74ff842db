/* A client that sends a byte now and then is never idle, and a few hundred of them would keep everybody else
 * out. libmicrohttpd knows only idleness, so this thread looks at the clock: a connection whose request is
 * not there after the limit is shut down, and its own thread then ends it as if the client had hung up.
 *
 * The same of a client that takes its answer so slowly that the worker waits for it: the answer's receipt is
 * only looked at when all that came before it has been sent, and until then a place at the worker, money, and
 * in the end the receipt's validity are used up.
 *
 * A guest has its own duplicate of the socket, so that a number that was closed and given to another file is
 * never touched. */
#include "vd_clock.h"
#include "vd_gateway_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LOOK_EVERY_MS = 250 };

struct gw_guest {
    struct gw_guest *next;
    int fd;
    bool awaited;
    uint64_t until_ms;
    gw_late_fn *late; /* NULL: no answer is under way */
    void *late_arg;
};

struct gw_guard {
    uint32_t receive_ms;
    pthread_t thread;
    pthread_mutex_t mu;
    pthread_cond_t changed;
    bool stop;
    struct gw_guest *guests;
};

static void *guard_main(void *arg)
{
    struct gw_guard *w = arg;
    pthread_mutex_lock(&w->mu);
    while (!w->stop) {
        uint64_t now = vd_clock_ms();
        for (struct gw_guest *x = w->guests; x; x = x->next) {
            if ((x->awaited && x->until_ms <= now) || (x->late && x->late(x->late_arg, now))) {
                shutdown(x->fd, SHUT_RDWR);
                x->awaited = false;
                x->late = NULL;
            }
        }
        gw_cond_wait_ms(&w->changed, &w->mu, LOOK_EVERY_MS);
    }
    pthread_mutex_unlock(&w->mu);
    return NULL;
}

enum vd_err gw_guard_start(struct gw_guard **out, uint32_t receive_ms, struct vd_error *err)
{
    struct gw_guard *w = calloc(1, sizeof *w);
    if (!w)
        return vd_error_set(err, VD_ENOMEM, "no memory for the HTTP server");
    w->receive_ms = receive_ms;
    pthread_mutex_init(&w->mu, NULL);
    gw_cond_init(&w->changed);
    if (pthread_create(&w->thread, NULL, guard_main, w) != 0) {
        pthread_cond_destroy(&w->changed);
        pthread_mutex_destroy(&w->mu);
        free(w);
        return vd_error_set(err, VD_EAGAIN, "the system refused a thread");
    }
    *out = w;
    return VD_OK;
}

void gw_guard_stop(struct gw_guard *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->mu);
    w->stop = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->mu);
    pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->mu);
    free(w);
}

struct gw_guest *gw_guard_enter(struct gw_guard *w, int fd)
{
    struct gw_guest *x = calloc(1, sizeof *x);
    if (!x)
        return NULL;
    x->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (x->fd < 0) {
        free(x);
        return NULL;
    }
    x->awaited = true;
    x->until_ms = vd_clock_ms() + w->receive_ms;
    pthread_mutex_lock(&w->mu);
    x->next = w->guests;
    w->guests = x;
    pthread_mutex_unlock(&w->mu);
    return x;
}

void gw_guard_received(struct gw_guard *w, struct gw_guest *x)
{
    if (!x)
        return;
    pthread_mutex_lock(&w->mu);
    x->awaited = false;
    pthread_mutex_unlock(&w->mu);
}

void gw_guard_next(struct gw_guard *w, struct gw_guest *x)
{
    if (!x)
        return;
    pthread_mutex_lock(&w->mu);
    x->awaited = true;
    x->until_ms = vd_clock_ms() + w->receive_ms;
    pthread_mutex_unlock(&w->mu);
}

void gw_guard_answer(struct gw_guard *w, struct gw_guest *x, gw_late_fn *late, void *arg)
{
    if (!x)
        return;
    pthread_mutex_lock(&w->mu);
    x->late = late;
    x->late_arg = arg;
    pthread_mutex_unlock(&w->mu);
}

void gw_guard_leave(struct gw_guard *w, struct gw_guest *x)
{
    if (!x)
        return;
    pthread_mutex_lock(&w->mu);
    struct gw_guest **at = &w->guests;
    while (*at != x)
        at = &(*at)->next;
    *at = x->next;
    pthread_mutex_unlock(&w->mu);
    close(x->fd);
    free(x);
}
